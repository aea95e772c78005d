# SPDX-License-Identifier: Apache-2.0
"""Lattices and their composition against exact fractions, closed forms and dp-accounting's own lattices."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.special import ndtr

from casemate.privacy import _composition, _lattices, _losses, _lower
from casemate.privacy._composition import CUT, Masses
from casemate.privacy.events import Gaussian

GRID = 2**50  # exact masses are whole multiples of 1 / GRID


def whole_masses(n: int, kind: str) -> list[int]:
    """Return n whole numbers that add up to GRID."""
    draw = np.random.default_rng(n)
    raw = {
        "random": draw.random(n),
        "two ends": np.r_[0.5, np.zeros(n - 2), 0.5],
        "one heavy": np.r_[np.full(n - 1, 1e-6), 1.0],
        "falling": np.exp(-0.5 * np.arange(n)),
    }[kind]
    found = [int(one * GRID) for one in raw / raw.sum()]
    found[int(np.argmax(raw))] += GRID - sum(found)
    return found


def power(masses: list[int], count: int) -> list[Fraction]:
    """Return the exact masses of the sum, all digits side by side in one whole number (Kronecker)."""
    width = 50 * count + (len(masses) * count).bit_length() + 8
    packed = sum(mass << (width * i) for i, mass in enumerate(masses)) ** count
    mask, n = (1 << width) - 1, (len(masses) - 1) * count + 1
    return [Fraction(packed >> (width * i) & mask, GRID**count) for i in range(n)]


def worst_error(made: Masses, exact: list[Fraction], interval: float) -> tuple[float, float]:
    """Return the largest error of delta(epsilon) over all epsilons on the lattice, and the mass outside of it."""
    inside = range(made.low, made.low + len(made.masses))
    off = np.array(
        [float(Fraction(float(mass)) - exact[i]) for i, mass in zip(inside, made.masses, strict=True)]
    )
    at = np.arange(len(off)) * interval
    found = [float(off[i:] @ -np.expm1(at[i] - at[i:])) for i in range(len(off))]
    outside = float(sum(exact[: made.low], Fraction(0)) + sum(exact[made.low + len(off) :], Fraction(0)))
    return float(np.abs(found).max()), outside


CASES = [
    ("random", 200, 2),
    ("random", 40, 17),
    ("two ends", 30, 24),
    ("one heavy", 60, 12),
    ("falling", 25, 30),
]


@pytest.mark.parametrize(("kind", "n", "count"), CASES)
@pytest.mark.parametrize("wide", [_composition.WIDE, np.float64])
def test_rounding_takes_less_than_is_added(
    monkeypatch: pytest.MonkeyPatch, kind: str, n: int, count: int, wide: type
) -> None:
    """Also on a machine whose long doubles are doubles, where the bound is not proved."""
    monkeypatch.setattr(_composition, "WIDE", wide)
    masses = whole_masses(n, kind)
    one = Masses(masses=np.array([mass / GRID for mass in masses]), low=0)
    found = _composition.composed([(one, count)])
    assert found is not None
    made, stated = found
    worst, outside = worst_error(made, power(masses, count), 0.02)
    assert outside <= CUT <= made.infinite
    assert worst <= stated + CUT  # what lay outside may have come inside
    assert worst <= CUT + 0.1 * stated
    assert 2.0**-50 * count <= stated <= 2.0**-50 * count + 1e-13


@pytest.mark.parametrize("count", [30_000, pytest.param(300_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("wide", [_composition.WIDE, np.float64])
def test_rounding_of_a_binomial(monkeypatch: pytest.MonkeyPatch, count: int, wide: type) -> None:
    """A mass of 3/4 and one of 1/4, each step exact: C(count, i) 3^(count - i) / 4^count."""
    monkeypatch.setattr(_composition, "WIDE", wide)
    found = _composition.composed([(Masses(masses=np.array([0.75, 0.25]), low=-2), count)])
    assert found is not None
    made, stated = found
    first = made.low + 2 * count
    ways = math.comb(count, first) * 3 ** (count - first)
    exact = []
    for i in range(first, first + len(made.masses)):
        exact.append(Fraction(ways >> (2 * count - 130), 2**130))
        ways = ways * (count - i) // (3 * (i + 1))
    assert 1 - CUT <= float(sum(exact)) <= 1
    worst, _ = worst_error(Masses(masses=made.masses, low=0), exact, 1e-3)
    assert worst <= stated + CUT
    assert wide is np.float64 or worst < CUT + 0.02 * stated  # with 64 digits there is room


def test_the_proof_covers_every_length_that_is_used() -> None:
    for least in (2, 3, 7, 100, 1023, 1025, 65_537, 600_000, _composition.LONGEST):
        n, passes = _composition._length(least)
        rest, taken = n, 0
        for radix in (4, 2, 3, 5):  # as pocketfft takes them
            while rest % radix == 0:
                rest, taken = rest // radix, taken + 1
        assert rest == 1 and least <= n <= max(1.34 * least, 3) and taken <= passes
        assert _composition.proved(n) <= _composition.ROUNDING


def test_different_losses_compose_in_one_transform() -> None:
    a, b = whole_masses(9, "random"), whole_masses(14, "falling")
    parts = [(Masses(masses=np.array(m) / GRID, low=low), count) for m, low, count in ((a, -3, 2), (b, 5, 1))]
    found = _composition.composed([(part, count) for part, count in parts])
    assert found is not None
    exact = np.convolve(np.convolve(parts[0][0].masses, parts[0][0].masses), parts[1][0].masses)
    made = dict(zip(itertools.count(found[0].low), found[0].masses.tolist(), strict=False))
    for i, mass in enumerate(exact.tolist(), start=-1):
        assert made.get(i, 0.0) == pytest.approx(mass, abs=2e-15)
    lost = Masses(masses=np.array([0.5, 0.4]), low=0, infinite=0.1)
    (one, _), many = _composition.composed([(lost, 1)]), _composition.composed([(lost, 3)])  # type: ignore[misc]
    assert one is lost and many is not None
    assert 1 - 0.9**3 <= many[0].infinite <= 1 - 0.9**3 + 2 * CUT


def test_what_is_too_long_is_not_tried() -> None:
    coin = Masses(masses=np.array([0.5, 0.5]), low=0)
    assert _composition.composed([(coin, 10**9 + 1)]) is None
    far = Masses(masses=np.r_[0.5, np.zeros(999_999), 0.5], low=0)
    assert _composition.composed([(far, 4)]) is None


@pytest.mark.parametrize(
    ("sigma", "rate", "interval"),
    [
        (1.0, 0.01, 1e-3),
        (0.6, 1e-4, 3e-3),
        (2.0, 0.5, 1e-3),
        (1.3, 1.0, 2e-3),
        (5.0, 0.2, 1e-3),
        (0.05, 0.3, 0.2),
    ],
)
def test_one_lattice_is_the_one_of_dp_accounting_and_above_the_truth(
    sigma: float, rate: float, interval: float
) -> None:
    """delta(epsilon) at and between the points, in both directions, against theirs and against the integral."""
    from dp_accounting.pld import privacy_loss_distribution as pld

    part = Gaussian(noise_multiplier=sigma, rate=rate)
    theirs = pld.from_gaussian_mechanism(sigma, sampling_prob=rate, value_discretization_interval=interval)
    removed, added = _lattices.one_release(part, interval)
    for ours, dots, direction in ((removed, theirs._pmf_remove, 1), (added, theirs._pmf_add, -1)):
        side = _losses.side_of(ours, interval)
        epsilons = np.linspace(0, max(float(side.losses[-1]), 3 * interval), 300)
        found = side.deltas(epsilons)
        np.testing.assert_allclose(found, dots.get_delta_for_epsilon(epsilons), atol=3e-11, rtol=1e-9)
        exact = sampled_delta(sigma, rate, epsilons * direction)
        exact = exact if direction == 1 else 1 - np.exp(epsilons) * (1 - exact)
        assert (found >= exact - 1e-12).all()  # the last digits of the formula below
        assert (found <= exact + interval).all()
        assert abs(ours.masses.sum() + ours.infinite - 1) < 1e-11


def sampled_delta(sigma: float, rate: float, epsilons: np.ndarray) -> np.ndarray:
    """P(mixture > t) - e^epsilon P(N(0, sigma^2) > t) at the point t where the densities' ratio is e^epsilon."""
    odds = np.expm1(epsilons) / rate + 1
    t = np.where(odds > 0, 0.5 + sigma**2 * np.log(np.maximum(odds, 1e-300)), -np.inf)
    below = (1 - rate) * ndtr(-t / sigma) + rate * ndtr((1 - t) / sigma)
    return np.asarray(below - np.exp(epsilons) * ndtr(-t / sigma))


def test_a_lower_value_counts_neither_rounding_nor_what_came_from_outside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    event = (Gaussian(noise_multiplier=1.0, rate=0.1, count=50),)
    before = _lower.epsilon(event, 1e-6, 0.01)
    monkeypatch.setattr(_composition, "ROUNDING", 1e-9)
    after = _lower.epsilon(event, 1e-6, 0.01)
    upper = _losses.build(event, 0.01)
    assert upper is not None and upper.rounding > 4.9e-8
    assert after < before - 1e-4 and after < before < upper.epsilon(1e-6)
