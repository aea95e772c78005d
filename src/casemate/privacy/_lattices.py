# SPDX-License-Identifier: Apache-2.0
"""The privacy losses of one release on a lattice, the pessimistic one of Doroshenko et al. (2022).

delta(epsilon) is exact at the lattice's points and connected by chords in e^epsilon, so that it lies on or above the
truth. For a guarantee without one worst mechanism (zCDP, tuning) the bound on delta(epsilon) is itself the curve: the
true one is convex in e^epsilon, so the lower convex hull of points on a bound bounds it as well, and with
delta(-epsilon) = 1 - e^-epsilon (1 - delta(epsilon)) of the other direction it is the curve of a pair of distributions,
which composes like any other (Zhu, Dong and Wang 2022).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from casemate.privacy import _rdp
from casemate.privacy._composition import CUT, WIDE, Masses
from casemate.privacy.events import (
    ZCDP,
    ApproximateDP,
    DiscreteGaussian,
    DiscreteLaplace,
    Gaussian,
    Laplace,
    Part,
    Pure,
    Tuned,
)

FURTHEST = 30.0  # standard deviations; no float tells more from 0
EXACT_UP_TO = 20_000.0  # sigma of a discrete Gaussian whose sums are taken term by term

Curve = Callable[[np.ndarray], np.ndarray]
Pair = tuple[Masses, Masses]  # of a unit removed and of one added; the same one where they have the same law


def one_release(part: Part, interval: float) -> Pair:
    """Return the losses of one release of this kind, whatever its count.

    >>> removed, added = one_release(Pure(epsilon=0.9), 0.5)
    >>> removed is added, removed.masses.round(3).tolist(), removed.low
    (True, [0.219, 0.07, 0.0, 0.115, 0.596], -2)
    """
    made: Pair = _BUILDERS[type(part)](part, interval)
    return made


def _gaussian(part: Gaussian, interval: float) -> Pair:
    """Return the losses of N(1, sigma^2) taken with probability ``rate``, against N(0, sigma^2) always.

    Where e^loss = 1 + (e^epsilon - 1) / rate and t is the point at which a release that is always taken has that loss,
    delta(epsilon) = rate (P(1 + sigma Z > t) - e^loss P(sigma Z > t)) if the unit is removed, and, t for -epsilon,
    e^epsilon rate (e^loss P(sigma Z < t) - P(1 + sigma Z < t)) if it is added.
    """
    from scipy.special import ndtr, ndtri

    sigma, rate = part.noise_multiplier, part.rate
    least = math.log1p(-rate) if rate < 1 else -math.inf
    tail = CUT / part.count

    @np.errstate(divide="ignore")  # of a loss that no point has
    def taken(epsilons: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        loss = epsilons + np.log(-np.expm1(np.minimum(least - epsilons, 0.0))) - math.log(rate)
        t = 0.5 + sigma**2 * loss
        return np.exp(np.minimum(loss, 700.0)), t / sigma, (t - 1) / sigma

    def removed(epsilons: np.ndarray) -> np.ndarray:
        odds, without, beside = taken(epsilons)
        return np.where(epsilons > least, rate * (ndtr(-beside) - odds * ndtr(-without)), -np.expm1(epsilons))

    def added(epsilons: np.ndarray) -> np.ndarray:
        odds, without, beside = taken(-epsilons)
        found = np.exp(epsilons) * rate * (odds * ndtr(without) - ndtr(beside))
        return np.where(-epsilons > least, found, 0.0)

    def loss_at(t: float) -> float:
        loss = (2 * t - 1) / (2 * sigma**2)
        return math.log1p(rate * math.expm1(loss)) if loss < 700 else loss + math.log(rate)

    most = loss_at(1 + sigma * min(-float(ndtri(min(tail / rate, 0.5))), FURTHEST))
    furthest = max(loss_at(sigma * min(-float(ndtri(tail)), FURTHEST)), 0.0)
    top, low = math.ceil(most / interval) + 1, -math.ceil(furthest / interval) - 1

    def between(low: int, top: int, here: Curve, there: Curve) -> Masses:
        negative = np.arange(low, 2) * interval
        above = here(np.arange(-1, top + 1) * interval)
        return _even(low, above, np.exp(negative) * there(-negative), interval)

    if rate == 1:
        both = between(-top, top, removed, added)
        return both, both
    edge = math.floor(least / interval)
    return between(edge, top, removed, added), between(low, -edge, added, removed)


def _laplace(part: Laplace, interval: float) -> Pair:
    from dp_accounting.pld import privacy_loss_distribution as pld

    made = pld.from_laplace_mechanism(
        part.noise_multiplier, sampling_prob=part.rate, value_discretization_interval=interval
    )
    dense = [pmf.to_dense_pmf() for pmf in (made._pmf_remove, made._pmf_add)]
    removed, added = (
        Masses(masses=np.asarray(pmf._probs), low=pmf._lower_loss, infinite=pmf._infinity_mass)
        for pmf in dense
    )
    return removed, removed if made._symmetric else added


def _approximate(part: Pure | ApproximateDP, interval: float) -> Pair:
    """Return the worst (epsilon, delta)-private pair (Kairouz, Oh and Viswanath 2015): four points are enough."""
    epsilon, delta = part.epsilon, part.delta if isinstance(part, ApproximateDP) else 0.0
    high = math.ceil(epsilon / interval * (1 + 1e-12))
    lattice = np.unique(np.array([-high, 1 - high, high - 1, high]))

    def curve(at: np.ndarray) -> np.ndarray:
        inside = delta + (1 - delta) * (1 - np.exp(np.minimum(at - epsilon, 0.0))) / (1 + math.exp(-epsilon))
        return np.where(at >= epsilon, delta, np.where(at <= -epsilon, 1 - np.exp(at) * (1 - delta), inside))

    both = _dots(lattice, curve(lattice * interval), interval)
    return both, both


def _discrete_laplace(part: DiscreteLaplace, interval: float) -> Pair:
    """Return P(X <= m) - e^epsilon P(X <= m - s), m the last whole number where the loss is above epsilon.

    The loss at x in 0..s is (s - 2 x) / scale, and P(X <= -k) = p^k / (1 + p) with p = e^(-1 / scale).
    """
    scale, shift = part.scale, part.sensitivity
    log_p, log_both = -1 / scale, math.log1p(math.exp(-1 / scale))

    def cdf(at: np.ndarray) -> np.ndarray:
        left = np.exp(np.minimum(-at * log_p, 0.0) - log_both)
        right = -np.expm1(np.minimum((at + 1) * log_p, 0.0) - log_both)
        return np.where(at < 0, left, right)

    epsilons = np.arange(math.ceil(shift / scale / interval * (1 + 1e-12)) + 1) * interval
    last = np.clip(np.ceil((shift - epsilons * scale) / 2) - 1, -1, shift)
    found = cdf(last) - np.exp(epsilons) * cdf(last - shift)
    return _symmetric(np.where(epsilons >= shift / scale, 0.0, found), interval)


def _discrete_gaussian(part: DiscreteGaussian, interval: float) -> Pair:
    """Return F(m) - e^epsilon F(m - s), m the last whole number below s / 2 - epsilon sigma^2 / s.

    F is summed term by term; of a wide discrete Gaussian Phi(m / sigma) <= F(m) <= Phi((m + 1) / sigma) is used.
    """
    from scipy.special import ndtr

    sigma, shift = part.sigma, part.sensitivity
    if sigma <= EXACT_UP_TO:
        reach = math.ceil(12 * sigma) + 2
        weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        below = np.concatenate([[0.0], np.cumsum(weights)]) / weights.sum()

        def high_cdf(at: np.ndarray) -> np.ndarray:
            return np.asarray(below[np.clip(at + reach + 1, 0, 2 * reach + 1).astype(int)])

        low_cdf = high_cdf
    else:

        def high_cdf(at: np.ndarray) -> np.ndarray:
            return np.asarray(ndtr((at + 1) / sigma))

        def low_cdf(at: np.ndarray) -> np.ndarray:
            return np.asarray(ndtr(at / sigma))

    def curve(epsilons: np.ndarray) -> np.ndarray:
        last = np.ceil(shift / 2 - epsilons * sigma**2 / shift) - 1
        return high_cdf(last) - np.exp(epsilons) * low_cdf(last - shift)

    return _bounded_by(curve, 0.5 * (shift / sigma) ** 2 + 11 * shift / sigma, interval)


def _by_divergences(part: ZCDP | Tuned, interval: float) -> Pair:
    known = _rdp.divergences((part,))
    top = known.epsilon(CUT)[0]
    return _bounded_by(known.deltas, top, interval)


def _bounded_by(curve: Callable[[np.ndarray], np.ndarray], top: float, interval: float) -> Pair:
    """Return the losses of the pair whose curve is the convex hull of a bound on delta(epsilon), epsilon >= 0."""
    half = np.arange(math.ceil(top / interval) + 2)
    odds, found = np.exp(half * interval), np.minimum.accumulate(np.clip(curve(half * interval), 0.0, 1.0))
    hull = _lower_hull(odds, found)
    return _symmetric(np.interp(odds, odds[hull], found[hull]), interval)


def _lower_hull(x: np.ndarray, y: np.ndarray) -> list[int]:
    kept: list[int] = []
    for i, (at, height) in enumerate(zip(x.tolist(), y.tolist(), strict=True)):
        while len(kept) > 1:
            a, b = kept[-2], kept[-1]
            if (y[b] - y[a]) * (at - x[a]) < (height - y[a]) * (x[b] - x[a]):
                break
            kept.pop()
        kept.append(i)
    return kept


def _symmetric(deltas: np.ndarray, interval: float) -> Pair:
    """Return the losses of a curve (n,) from epsilon 0 on that is the same in both directions."""
    falling = np.minimum.accumulate(np.clip(deltas, 0.0, 1.0))
    mirrored = falling * np.exp(-np.arange(len(falling)) * interval)
    above = np.append(-math.expm1(-interval) + mirrored[1], falling)
    below = np.append(mirrored[::-1], math.exp(interval) * above[0])
    both = _even(1 - len(falling), above, below, interval)
    return both, both


def _even(low: int, above: np.ndarray, below: np.ndarray, interval: float) -> Masses:
    """Return the losses low, low + 1, ... that connect the points of delta there: a kink of the curve is a mass.

    Args:
        above: delta(epsilon) at -1, 0, 1, ..., the last of them infinite.
        below: e^epsilon delta(-epsilon) of the other direction at low, ..., 0, 1, low < 0. It stands for delta below 0:
            they differ by 1 - e^epsilon, which has no kinks, and it has the digits.
    """
    up, down = np.expm1(WIDE(interval)), -np.expm1(-WIDE(interval))
    falls, rises = np.diff(above.astype(WIDE)), np.diff(below.astype(WIDE))  # kinks are differences of these
    masses = np.concatenate([
        [rises[0] / up - below[0]],
        rises[1:-1] / up - rises[:-2] / down,
        falls[1:] / up - falls[:-1] / down,
        [-falls[-1] / down],
    ])  # fmt: skip
    return Masses(
        masses=np.maximum(masses, 0.0).astype(np.float64), low=low, infinite=max(float(above[-1]), 0.0)
    )


def _dots(lattice: np.ndarray, deltas: np.ndarray, interval: float) -> Masses:
    """Return the masses on ``lattice`` whose delta is ``deltas`` at each point, and infinite the last of them.

    Between two points at a distance d the curve is a chord in e^epsilon, from delta to delta - fall. A kink of slope
    is a mass: fall / (e^d - 1) of it at the first and fall / (1 - e^-d) at the second, with opposite sign before.
    """
    falls = -np.diff(np.minimum.accumulate(deltas))
    gaps = np.diff(lattice) * interval
    masses = np.append(1 - deltas[0], falls / -np.expm1(-gaps))
    masses[:-1] -= falls / np.expm1(gaps)
    dense = np.zeros(int(lattice[-1] - lattice[0]) + 1)
    dense[lattice - lattice[0]] = np.maximum(masses, 0.0)
    return Masses(masses=dense, low=int(lattice[0]), infinite=float(np.minimum.accumulate(deltas)[-1]))


_BUILDERS: dict[type, Callable[[Any, float], Pair]] = {
    Pure: _approximate,
    ApproximateDP: _approximate,
    ZCDP: _by_divergences,
    Tuned: _by_divergences,
    Gaussian: _gaussian,
    Laplace: _laplace,
    DiscreteLaplace: _discrete_laplace,
    DiscreteGaussian: _discrete_gaussian,
}
