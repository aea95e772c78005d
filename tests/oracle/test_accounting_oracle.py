# SPDX-License-Identifier: Apache-2.0
"""Our use of the accountant against what others computed: certified intervals, and quadrature of our own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from casemate.privacy import accounting
from casemate.privacy.accounting import Gaussian

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

# Poisson-sampled Gaussian: noise, rate, steps, delta, and the certified interval of prv-accountant 0.2.0
# (Gopi et al. 2021: lower, estimate, upper), an implementation that shares no code with dp-accounting.
GRID = [
    (1.0, 0.01, 10_000, 1e-5, (6.0875, 6.1878, 6.2882)),
    (1.0, 0.001, 100_000, 1e-6, (1.7613, 1.8614, 1.9615)),
    (1.0, 0.001, 1_000_000, 1e-6, (6.5941, 6.6944, 6.7947)),
    (0.6, 0.004, 5_000, 1e-5, (6.1345, 6.2350, 6.3355)),
]


@pytest.mark.parametrize(("noise", "rate", "steps", "delta", "certified"), GRID)
def test_epsilon_lies_in_the_certified_interval(
    noise: float, rate: float, steps: int, delta: float, certified: tuple[float, float, float]
) -> None:
    low, estimate, high = certified
    found = accounting.epsilon((Gaussian(noise_multiplier=noise, count=steps, rate=rate),), delta)
    assert low <= found <= high
    assert found == pytest.approx(estimate, rel=1e-3)


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
