# SPDX-License-Identifier: Apache-2.0
"""`dp_sgd` against Opacus 1.6.0 (a clipped sum, epsilon) and riskcal 1.5.1 (noise for a risk), recorded once.

make_opacus.py and make_riskcal.py wrote the answers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle.make_opacus import CLIP, models

from casemate.privacy import plan as plans
from casemate.privacy.plan import Plan
from casemate.training.per_example import clipped_sum

FOLDER = Path(__file__).parent
OPACUS: dict[str, Any] = json.loads((FOLDER / "opacus.json").read_text("utf-8"))
RISKCAL: dict[str, Any] = json.loads((FOLDER / "riskcal.json").read_text("utf-8"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def plan(noise: float, rate: float, steps: int, delta: float = 1e-5) -> Plan:
    sampler = "all" if rate == 1 else "poisson"
    settings = {"unit": "record", "clip": 1.0, "sampler": sampler, "rate": rate}
    return Plan(noise_multiplier=noise, steps=steps, delta=delta, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(OPACUS["sums"]))
def test_the_clipped_sum_is_opacus(name: str) -> None:
    model, x, y = models()[name]
    found, _ = clipped_sum(model, torch.nn.functional.cross_entropy, x, y, None, CLIP)
    ours = torch.cat([value.flatten() for value in found.values()]).numpy()
    theirs = np.array(OPACUS["sums"][name])
    # they clip by C / (norm + 1e-6)
    np.testing.assert_allclose(ours, theirs, atol=9 * CLIP * 1e-5, rtol=0)
    assert np.linalg.norm(theirs) > 5 * np.linalg.norm(ours - theirs) > 0


@pytest.mark.parametrize(("noise", "rate", "steps", "delta", "prv", "rdp"), OPACUS["costs"])
def test_epsilon_is_that_of_opacus(
    noise: float, rate: float, steps: int, delta: float, prv: float, rdp: float
) -> None:
    found = plan(noise, rate, steps, delta).epsilon
    # theirs is an estimate plus its error of 0.01, ours a bound: within half a percent and that error
    assert prv - 0.011 - 0.005 * prv <= found <= 1.005 * prv + 1e-3 and found <= rdp


@pytest.mark.parametrize(("rate", "steps", "tpr", "fpr", "noise"), RISKCAL["noise"])
def test_the_noise_for_a_risk_is_that_of_riskcal(
    rate: float, steps: int, tpr: float, fpr: float, noise: float
) -> None:
    found = plans.resolved(plan(1.0, rate, steps), max_tpr=tpr, at_fpr=fpr)
    assert found.noise_multiplier == pytest.approx(noise, rel=5e-3)
    assert found.max_tpr(fpr) <= tpr


@pytest.mark.parametrize(("noise", "rate", "steps", "curve"), RISKCAL["curves"])
def test_the_curve_is_that_of_riskcal(
    noise: float, rate: float, steps: int, curve: list[list[float]]
) -> None:
    made = plan(noise, rate, steps)
    for fpr, tpr in curve:
        assert made.max_tpr(fpr) == pytest.approx(tpr, abs=2e-3)
