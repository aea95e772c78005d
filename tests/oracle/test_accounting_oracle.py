# SPDX-License-Identifier: Apache-2.0
"""Our use of the accountant against what others computed: certified intervals, and quadrature of our own."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from casemate.privacy import _bounds, accounting
from casemate.privacy.accounting import Gaussian

pytestmark = pytest.mark.timeout(600)

_spec = importlib.util.spec_from_file_location(
    "bench_accounting", Path(__file__).parents[2] / "bench" / "accounting.py"
)
assert _spec is not None and _spec.loader is not None
_bench = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_bench)
points, yardstick = _bench.points, _bench.yardstick

# Poisson-sampled Gaussian: noise, rate, steps, delta, and the certified interval of prv-accountant (Gopi et al. 2021:
# lower, estimate, upper), an implementation that shares no code with dp-accounting; recorded by make_prv.py.
RECORDED = json.loads((Path(__file__).parent / "prv.json").read_text(encoding="utf-8"))["intervals"]


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "rate", "steps", "delta", "certified"), RECORDED)
def test_epsilon_lies_in_the_certified_interval(
    noise: float, rate: float, steps: int, delta: float, certified: tuple[float, float, float]
) -> None:
    low, estimate, high = certified
    found = accounting.cost((Gaussian(noise_multiplier=noise, count=steps, rate=rate),), delta)
    assert low <= found.epsilon <= high
    assert found.lower <= high
    assert found.epsilon == pytest.approx(estimate, rel=3e-3)


EVERY = [  # the finer lattices take half an hour for all
    pytest.param(5, marks=pytest.mark.slow),
    pytest.param(1, marks=[pytest.mark.soak, pytest.mark.timeout(7200)]),
]


@pytest.mark.parametrize("every", EVERY)
def test_two_hundred_points_between_a_certified_lower_value_and_finer_lattices(every: int) -> None:
    """Soundness on every point; at most max(0.02, 1 %) above dp-accounting on finer lattices."""
    loose = []
    for noise, rate, steps, delta in points(200)[::every]:
        event = (Gaussian(noise_multiplier=noise, rate=rate, count=steps),)
        claim, lower, finer = (
            accounting.epsilon(event, delta),
            accounting.lower_epsilon(event, delta),
            yardstick(event, delta),
        )
        assert lower <= min(claim, finer), (noise, rate, steps, delta)
        if claim - finer > max(0.02, 0.01 * finer):
            loose.append((noise, rate, steps, delta, claim, finer))
    assert not loose


@pytest.mark.slow
def test_the_normal_approximation_promises_too_much() -> None:
    """Its mu is rate sqrt(steps (e^(1 / noise^2) - 1)) (Bu et al. 2020), as in Opacus' GDP accountant."""
    mu = 0.004 * math.sqrt(5_000 * math.expm1(1 / 0.6**2))
    event = (Gaussian(noise_multiplier=0.6, count=5_000, rate=0.004),)
    assert _bounds.gaussian_epsilon(mu, 1e-5) == pytest.approx(4.88, abs=0.01)
    assert accounting.lower_epsilon(event, 1e-5) > 6.2


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "rate"), [(0.8, 0.2), (1.5, 0.5)])
def test_two_sampled_steps_by_quadrature(noise: float, rate: float) -> None:
    """delta(epsilon) of two steps, integrated over the plane in both directions: no accountant is involved."""
    t = np.linspace(-14 * noise, 14 * noise + 1, 3001)
    width = t[1] - t[0]
    without = norm.pdf(t, 0, noise)
    mixed = (1 - rate) * without + rate * norm.pdf(t, 1, noise)
    out, inside = np.outer(without, without), np.outer(mixed, mixed)
    event = (Gaussian(noise_multiplier=noise, count=2, rate=rate),)
    for epsilon in (0.1, 0.5, 1.0):
        exact = max(
            float(np.maximum(p - math.exp(epsilon) * q, 0).sum()) * width**2
            for p, q in ((inside, out), (out, inside))
        )
        found = accounting.deltas(event, [epsilon])[0]
        assert found == pytest.approx(exact, rel=2e-3)


@pytest.mark.slow
def test_a_simulated_optimal_attacker_does_not_exceed_the_curve() -> None:
    """The likelihood-ratio attacker on ten sampled steps, 400,000 plays a side; fails by chance once in a million."""
    noise, rate, steps, n = 1.0, 0.2, 10, 400_000
    draw = np.random.default_rng(0)

    def ratio(present: bool) -> np.ndarray:
        total = np.zeros(n)
        for _ in range(steps):
            shift = (draw.random(n) < rate) if present else 0.0
            seen = draw.normal(0, noise, n) + shift
            total += np.log1p(rate * np.expm1((2 * seen - 1) / (2 * noise**2)))
        return total

    members, others = ratio(True), ratio(False)
    event = (Gaussian(noise_multiplier=noise, count=steps, rate=rate),)
    for fpr in (0.001, 0.01, 0.1):
        threshold = np.quantile(others, 1 - fpr)
        tpr = float((members > threshold).mean())
        slack = (
            5 * math.sqrt(tpr / n) + 5 * math.sqrt(fpr / n) * 30
        )  # of the counted rate and of the threshold
        bound = accounting.max_tpr(event, fpr)
        assert tpr <= bound + slack
        assert tpr >= 0.93 * bound  # and the curve is nearly reached
