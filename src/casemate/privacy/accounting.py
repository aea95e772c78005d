# SPDX-License-Identifier: Apache-2.0
"""What a series of noisy steps costs: epsilon, and the most any attacker can gain, from privacy loss distributions.

An event is a tuple of :class:`Gaussian` releases about the same people. Neighbours differ by one whole unit (a record,
or a person with all their rows) that is there or not there. dp-accounting composes the privacy loss distributions
(Koskela 2020; Doroshenko et al. 2022, connect the dots) and rounds against us: every number here is an upper bound.
Releases without sampling are first put together exactly (1/sigma^2 adds up), so that only one is discretised.

**The trade-off curve.** (epsilon, delta(epsilon))-privacy for every epsilon >= 0 bounds an attacker who accuses a share
``fpr`` of non-members and recognises ``tpr`` of members, from both sides of the definition:

    tpr <= e^epsilon fpr + delta(epsilon)           and           1 - fpr <= e^epsilon (1 - tpr) + delta(epsilon)

``max_tpr`` is the least of these over the epsilons that a search visits; leaving some out can only make it larger. For
one Gaussian release of sensitivity over noise mu the limit is Phi(Phi^-1(fpr) + mu) (Dong, Roth and Su 2022). Noise
calibrated to a risk in place of an epsilon (Kulynych et al. 2024) is the least for which ``max_tpr`` stays under what
was asked.

**What it does not cover.** The number of releases, the rates and the clipping must be what really happened: that is
what a :class:`~casemate.privacy.plan.Plan` binds together. Normal approximations of composition (CLT) are never used:
they promise too much (4.88 where 6.23 is true).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from casemate.core.errors import InvalidData

INTERVAL = 1e-4  # of the discretised privacy loss; 1e-3 costs 6 % of epsilon at a million steps
TOLERANCE = 1e-4  # relative, of a calibrated noise multiplier
LEAST_NOISE, MOST_NOISE = 1e-2, 1e7
MOST_STEPS = 200  # of TOLERANCE / 4, from where the noise should be to where it was seen to be enough
FARTHEST = 60.0  # epsilon at which the curve is looked for


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """``count`` releases of a sum plus Gaussian noise of ``noise_multiplier`` times the sum's sensitivity.

    Each is computed on a Poisson sample: every unit is in with probability ``rate`` on its own; 1: all are in.

    >>> Gaussian(noise_multiplier=2.0, count=4).count
    4
    """

    noise_multiplier: float
    count: int = 1
    rate: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier > 0):
            raise InvalidData(f"noise_multiplier must be a finite number > 0; got {self.noise_multiplier!r}")
        if isinstance(self.count, bool) or self.count != int(self.count) or self.count < 1:
            raise InvalidData(f"count of releases must be a whole number >= 1; got {self.count!r}")
        if not 0 < self.rate <= 1:
            raise InvalidData(f"a sampling rate lies in (0, 1]; got {self.rate!r}")


Event = tuple[Gaussian, ...]


def epsilon(event: Event, delta: float) -> float:
    """Return the least epsilon for which the event is shown to be (epsilon, delta)-private.

    >>> round(epsilon((Gaussian(noise_multiplier=1.0, count=10_000, rate=0.01),), 1e-5), 2)
    6.19
    """
    _check("delta", delta, 0, 1)
    return float(_distribution(_sorted(event)).get_epsilon_for_delta(delta))


def deltas(event: Event, epsilons: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return delta(epsilon) at each of ``epsilons``, the larger over a unit being added and being removed.

    >>> bool(deltas((Gaussian(noise_multiplier=1.0),), [0.0])[0] < 0.384)
    True
    """
    known = _distribution(_sorted(event))
    return np.array([known.get_delta_for_epsilon(float(one)) for one in epsilons])


def max_tpr(event: Event, fpr: float | np.ndarray) -> Any:
    """Return the largest share of members that any attacker with ``fpr`` false alarms recognises.

    Args:
        event: all releases about the same people.
        fpr: a share, or several (n,).

    >>> round(max_tpr((Gaussian(noise_multiplier=1.0),), 0.01), 3)
    0.092
    """
    wanted = np.asarray(fpr, np.float64)
    if not ((wanted >= 0) & (wanted <= 1)).all():
        raise InvalidData(f"a false-alarm rate lies in [0, 1]; got {fpr!r}")
    found = [_tpr(event, float(share)) for share in wanted.ravel()]
    return found[0] if wanted.ndim == 0 else np.array(found).reshape(wanted.shape)


def noise_for_epsilon(build: Callable[[float], Event], *, epsilon: float, delta: float) -> float:
    """Return the least noise multiplier, to 1e-4 and rounded up, for which ``build(noise)`` costs at most ``epsilon``.

    >>> sigma = noise_for_epsilon(lambda s: (Gaussian(noise_multiplier=s),), epsilon=1.0, delta=1e-5)
    >>> round(sigma, 2)
    3.73
    """
    _check("epsilon", epsilon, 0, math.inf)
    _check("delta", delta, 0, 1)
    what = f"epsilon {epsilon:g} at delta {delta:g}"
    return _least(build, lambda event: _cost(event, delta), epsilon, what, mu=_exact_mu(epsilon, delta))


def noise_for_risk(build: Callable[[float], Event], *, max_tpr: float, at_fpr: float) -> float:
    """Return the least noise multiplier for which no attacker exceeds ``max_tpr`` at ``at_fpr`` false alarms.

    >>> sigma = noise_for_risk(lambda s: (Gaussian(noise_multiplier=s),), max_tpr=0.02, at_fpr=0.01)
    >>> round(sigma, 2)
    3.67
    """
    _check("at_fpr", at_fpr, 0, 1)
    if not at_fpr < max_tpr <= 1:
        raise InvalidData(
            f"max_tpr must lie above at_fpr ({at_fpr}, which is guessing) and be at most 1; got {max_tpr!r}"
        )
    from scipy.special import ndtri

    return _least(
        build,
        lambda event: _tpr(event, at_fpr) - at_fpr,
        max_tpr - at_fpr,
        f"max_tpr {max_tpr:g} at {at_fpr:g} false alarms",
        mu=float(min(ndtri(max_tpr), 9.0) - ndtri(at_fpr)),
    )


def _cost(event: Event, delta: float) -> float:
    return epsilon(event, delta)


@lru_cache(maxsize=256)
def _tpr(event: Event, fpr: float) -> float:
    """Return the bound at one ``fpr``: each side is convex in e^epsilon or e^-epsilon, so a bounded search finds it."""
    from scipy.optimize import minimize_scalar

    known = _distribution(_sorted(event))

    def first(at: float) -> float:
        return math.exp(at) * fpr + float(known.get_delta_for_epsilon(float(at)))

    def second(at: float) -> float:
        return 1.0 - (1.0 - fpr - float(known.get_delta_for_epsilon(float(at)))) * math.exp(-at)

    ends = [side(at) for side in (first, second) for at in (0.0, FARTHEST)]
    inside = [
        minimize_scalar(side, bounds=(0.0, FARTHEST), method="bounded", options={"xatol": 1e-3}).fun
        for side in (first, second)
    ]
    return float(min(max(min(*ends, *inside), fpr), 1.0))


def _exact_mu(epsilon: float, delta: float) -> float:
    """Return the mu of the one Gaussian release that is exactly (epsilon, delta)-private (Balle and Wang 2018)."""
    from scipy.optimize import brentq
    from scipy.special import log_ndtr, ndtr

    def excess(log_mu: float) -> float:
        mu = math.exp(log_mu)
        tail = math.exp(min(epsilon + float(log_ndtr(-epsilon / mu - mu / 2)), 0.0))
        return float(ndtr(mu / 2 - epsilon / mu)) - tail - delta

    return math.exp(brentq(excess, math.log(1e-9), math.log(1e4), xtol=1e-12))


def _least(
    build: Callable[[float], Event], price: Callable[[Event], float], allowed: float, what: str, *, mu: float
) -> float:
    """Return the least noise whose price is at most ``allowed``; what is returned was seen to hold.

    Without sampling the exact answer is known (``mu``) and the accountant's is just above it. Else the search comes
    from above: a privacy loss distribution of little noise is long and slow.
    """
    from scipy.optimize import brentq

    def excess(log_noise: float) -> float:
        paid = price(build(math.exp(log_noise)))
        return math.log(max(paid, 1e-12) / allowed) if math.isfinite(paid) else 50.0

    one = build(1.0)
    if all(part.rate == 1 for part in one):
        exact = math.sqrt(sum(part.count for part in one)) / mu
        root = math.log(max(exact, LEAST_NOISE)) + 1e-8  # the accountant's own rounding is of the order 1e-12
    else:
        high = math.log(4 * math.sqrt(sum(part.count * part.rate**2 for part in one)) + 1)
        while excess(high) > 0 and high < math.log(MOST_NOISE):
            high += 1.0
        low = high - 0.4
        while high > math.log(LEAST_NOISE) and excess(low) <= 0:
            low, high = low - 0.4, low
        root = brentq(excess, low, high, xtol=TOLERANCE / 4) if excess(high) <= 0 < excess(low) else high
    for _ in range(MOST_STEPS):
        if excess(root) <= 0:
            return math.exp(root)
        root += TOLERANCE / 4
    raise InvalidData(f"no noise was found for {what}: ask for less privacy, or for fewer steps")


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low < value < high:
        raise InvalidData(f"{name} must lie between {low:g} and {high:g}, both excluded; got {value!r}")


def _sorted(event: Event) -> Event:
    if not event:
        raise InvalidData("an event without a release has no cost; name what was released")
    return tuple(sorted(event, key=lambda part: (part.rate, part.noise_multiplier, part.count)))


@lru_cache(maxsize=16)
def _distribution(event: Event) -> Any:
    from dp_accounting.pld import privacy_loss_distribution as pld

    whole = sum(part.count / part.noise_multiplier**2 for part in event if part.rate == 1)
    # one Gaussian alone needs no finer steps than a thousandth of its own spread
    alone = all(part.rate == 1 for part in event)
    interval = INTERVAL * max(1.0, 10 * math.sqrt(whole) if alone else 1.0)
    options = {"value_discretization_interval": interval, "pessimistic_estimate": True}
    parts = [pld.from_gaussian_mechanism(1 / math.sqrt(whole), **options)] if whole else []
    for part in event:
        if part.rate < 1:
            one = pld.from_gaussian_mechanism(part.noise_multiplier, sampling_prob=part.rate, **options)
            parts.append(one.self_compose(part.count))
    made = parts[0]
    for part in parts[1:]:
        made = made.compose(part)
    return made
