# SPDX-License-Identifier: Apache-2.0
"""The plan: what it refuses, and that its epsilon cannot be written by hand."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest

from casemate.core.errors import GuaranteeVoid, InvalidData
from casemate.privacy import accounting, plan
from casemate.privacy.accounting import Gaussian
from casemate.privacy.plan import Plan, rounded_up

GOOD: dict[str, Any] = {"unit": "person", "clip": 1.0, "noise_multiplier": 8.0, "steps": 20, "delta": 1e-5}


def test_the_event_holds_every_release() -> None:
    made = Plan(**GOOD, sampler="poisson", rate=0.2, counts=2)
    assert made.event == (
        Gaussian(noise_multiplier=8.0, count=20, rate=0.2),
        Gaussian(noise_multiplier=8.0, count=2),
    )
    assert made.epsilon == accounting.epsilon(made.event, 1e-5)
    assert Plan(**GOOD).epsilon < Plan(**GOOD, counts=1).epsilon < Plan(**{**GOOD, "steps": 30}).epsilon


def test_an_epsilon_cannot_be_stated() -> None:
    with pytest.raises(TypeError):
        Plan(**GOOD, epsilon=0.1)
    with pytest.raises((FrozenInstanceError, AttributeError)):
        Plan(**GOOD).epsilon = 0.1  # type: ignore[misc]
    forged = Plan(**GOOD).to_dict() | {"epsilon": 0.1}
    with pytest.raises(GuaranteeVoid, match=r"states epsilon 0\.1 but costs"):
        Plan.from_dict(forged)


def test_it_survives_json_and_pickle() -> None:
    made = Plan(**GOOD, sampler="poisson", rate=0.2)
    assert Plan.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    assert pickle.loads(pickle.dumps(made)) == made


def test_it_holds_nothing_about_the_data() -> None:
    assert {f.name for f in fields(Plan)} == {
        "unit", "clip", "noise_multiplier", "steps", "delta", "sampler", "rate", "counts", "neighbouring",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"sampler": "shuffled"}, "Poisson sample"),
        ({"rate": 0.5}, "takes every unit"),
        ({"neighbouring": "replace_one"}, "twice as far"),
    ],
)
def test_what_would_falsify_the_epsilon(change: dict[str, Any], told: str) -> None:
    with pytest.raises(GuaranteeVoid, match=told):
        Plan(**{**GOOD, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"unit": "row"},
        {"clip": 0.0},
        {"clip": math.inf},
        {"noise_multiplier": 0.0},
        {"steps": 0},
        {"delta": 0.0},
        {"delta": 1.0},
        {"counts": -1},
        {"sampler": "poisson", "rate": 0.0},
    ],
)
def test_what_makes_no_sense(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidData):
        Plan(**{**GOOD, **change})


@pytest.mark.parametrize("n", [1, 9, 10, 11, 999, 1000, 2956, 10_000, 123_456])
def test_the_default_delta_is_a_power_of_ten_within_the_limit(n: int) -> None:
    delta = plan.default_delta(n)
    assert 1 / (100 * n) < delta <= 1 / (10 * n) * (1 + 1e-12)
    assert math.log10(delta) == pytest.approx(round(math.log10(delta)))
    plan.check_delta(delta, n, "record")


def test_a_delta_that_would_let_people_be_published() -> None:
    plan.check_delta(1e-4, 1000, "person")
    for delta in (1.1e-4, 0.01):
        with pytest.raises(InvalidData, match="too large for 1,000 people"):
            plan.check_delta(delta, 1000, "person")
    with pytest.raises(InvalidData, match="between 0 and 1"):
        plan.check_delta(0.0, 10, "person")


def test_noise_for_an_epsilon_and_for_a_risk() -> None:
    outline = Plan(**{**GOOD, "noise_multiplier": 1.0}, counts=1)
    made = plan.for_epsilon(outline, 3.0)
    assert 2.99 < made.epsilon <= 3.0 and replace(made, noise_multiplier=1.0) == outline
    risky = plan.for_risk(outline, max_tpr=0.02, at_fpr=0.01)
    assert 0.0199 < risky.max_tpr(0.01) <= 0.02
    # Phi(Phi^-1(0.01) + mu) = 0.02 at mu = 0.2726
    assert math.sqrt(21) / risky.noise_multiplier == pytest.approx(0.2726, abs=2e-4)


def test_in_words_a_bound_is_rounded_up() -> None:
    made = Plan(**GOOD)
    stated = float(str(made).split(",")[0].strip("("))
    assert made.epsilon <= stated <= made.epsilon * 1.01
    assert "per person" in str(made) and "20 steps" in str(made)
    assert [rounded_up(value) for value in (0.28611, 1.0001e-5, 5.0, 0.99999)] == [0.287, 1.01e-5, 5.0, 1.0]
