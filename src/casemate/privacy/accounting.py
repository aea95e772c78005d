# SPDX-License-Identifier: Apache-2.0
"""What releases cost together: epsilon, and the most any attacker can gain. Every number is an upper bound.

The releases are those of :mod:`casemate.privacy.events`. Several bounds hold for the same event, and the least is told:

- **Privacy loss distributions**, rounded against us (Koskela 2020; Doroshenko et al. 2022) and composed with a proved
  bound of what floats lose, which is added. Their lattice is halved until two epsilons agree to 0.2 %, within a limit
  of cost.
- **Closed forms**: Gaussian releases of everybody add up to one (1/sigma^2 adds up), whose epsilon is exact (Balle and
  Wang 2018); zero-concentrated guarantees add up and are converted (Canonne, Kamath and Steinke 2020, proposition 12);
  epsilons and deltas add up.
- **Renyi divergences**, where the others do not reach: tuning, very large epsilons, lattices that would not fit.

The claim is one number. How far it may lie above the truth, the accounting slack, is :func:`lower_epsilon`'s business.

**The trade-off curve.** (epsilon, delta(epsilon))-privacy for every epsilon >= 0 bounds an attacker who accuses a share
``fpr`` of non-members and recognises ``tpr`` of members, from both sides of the definition:

    tpr <= e^epsilon fpr + delta(epsilon)           and           1 - fpr <= e^epsilon (1 - tpr) + delta(epsilon)

``max_tpr`` is the least of these over the lattice; leaving epsilons out can only make it larger. For one Gaussian
release of sensitivity over noise mu the limit is Phi(Phi^-1(fpr) + mu) (Dong, Roth and Su 2022). Noise calibrated to a
risk in place of an epsilon (Kulynych et al. 2024) is the least for which ``max_tpr`` stays under what was asked.

**What it does not cover.** The number of releases, the rates and the clipping must be what really happened: that is
what a :class:`~casemate.privacy.plan.Plan` binds together. Normal approximations of composition (CLT) are never used:
they promise too much (4.88 where 6.23 is true).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from casemate.core.errors import InvalidData
from casemate.privacy import _bounds, _lower, _rdp
from casemate.privacy._bounds import NUDGE, Cost, gaussian_deltas, gaussian_epsilon
from casemate.privacy.events import (
    ZCDP,
    ApproximateDP,
    DiscreteGaussian,
    DiscreteLaplace,
    Event,
    Gaussian,
    Laplace,
    Pure,
    Tuned,
    checked,
    from_json,
    replaced,
    to_json,
)

__all__ = [
    "LEAST_NOISE", "MOST_NOISE", "ZCDP", "ApproximateDP", "Cost", "DiscreteGaussian", "DiscreteLaplace", "Event",
    "Gaussian", "Laplace", "Pure", "Tuned", "cost", "deltas", "dominating_mu", "epsilon", "from_json",
    "lower_epsilon", "max_tpr", "noise_for_epsilon", "noise_for_risk", "replaced", "to_json",
]  # fmt: skip
TOLERANCE = 1e-4  # relative, of a calibrated noise multiplier
LEAST_NOISE, MOST_NOISE = 1e-2, 1e7
MOST_MU = 1e3
REGRET = 1e-9  # delta by which a dominating Gaussian may be exceeded
MOST_STEPS = 200  # of TOLERANCE / 4, from where the noise should be to where it was seen to be enough


def epsilon(event: Event, delta: float) -> float:
    """Return the least epsilon for which the event is shown to be (epsilon, delta)-private.

    >>> round(epsilon((Gaussian(noise_multiplier=1.0, count=10_000, rate=0.01),), 1e-5), 2)
    6.19
    """
    return _bounds.bounds(_sorted(event), _checked("delta", delta, 0, 1)).epsilon


def lower_epsilon(event: Event, delta: float) -> float:
    """Return an epsilon below which the event's worst case is *not* private at ``delta``; nan where none is known.

    >>> event = (Gaussian(noise_multiplier=2.0, count=100, rate=0.1),)
    >>> 0.99 < lower_epsilon(event, 1e-5) / epsilon(event, 1e-5) <= 1
    True
    """
    event, delta = _sorted(event), _checked("delta", delta, 0, 1)
    if mu := _bounds.only_mu(event):
        return gaussian_epsilon(mu, delta) * (1 - 2 * NUDGE)
    return _lower.epsilon(event, delta, _bounds.first_interval(event, delta))


def cost(event: Event, delta: float) -> Cost:
    """Return the price with its slack and how it was found, for details beside the claim.

    >>> cost((Gaussian(noise_multiplier=1.0),), 1e-5).by
    'exact'
    """
    found = _bounds.bounds(_sorted(event), _checked("delta", delta, 0, 1))
    return Cost(**{**vars(found), "lower": lower_epsilon(event, delta)})


def deltas(event: Event, epsilons: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return delta(epsilon) at each of ``epsilons``, the larger over a unit being added and being removed.

    >>> bool(deltas((Gaussian(noise_multiplier=1.0),), [0.0])[0] < 0.384)
    True
    """
    asked = np.asarray(epsilons, np.float64)
    if not (asked >= 0).all():
        raise InvalidData(f"an epsilon is a number >= 0; got {epsilons!r}")
    event = _sorted(event)
    if mu := _bounds.only_mu(event):
        return np.minimum(gaussian_deltas(mu, asked) * (1 + NUDGE) + 1e-300, 1.0)
    found = _rdp.divergences(event).deltas(asked)
    losses = _bounds.refined(event, _bounds.REFERENCE)[0]
    return found if losses is None else np.minimum(found, losses.deltas(asked))


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
    found = [_tpr(_sorted(event), float(share)) for share in wanted.ravel()]
    return found[0] if wanted.ndim == 0 else np.array(found).reshape(wanted.shape)


def dominating_mu(event: Event, *, regret: float = REGRET) -> float:
    """Return a mu such that telling a member apart is no easier than N(mu, 1) from N(0, 1), but for ``regret``.

    That is delta(epsilon) <= the Gaussian's + ``regret`` for every epsilon, and no more: say the regret wherever the mu
    is told. It is an upper bound of the least such mu, within the width of the points compared. Sampled steps need the
    regret: far out, where one unit was in every sample, they are as bad as steps without sampling. inf if no mu up to
    1,000 is enough.

    >>> round(dominating_mu((Gaussian(noise_multiplier=2.0, count=16),)), 4)
    2.0
    """
    event = _sorted(event)
    if mu := _bounds.only_mu(event):
        return mu * (1 + NUDGE)
    epsilons, found = _bounds.curve(event)
    if found[-1] > regret:
        return math.inf
    thin = np.unique(np.linspace(0, len(epsilons) - 1, 3000).astype(int))
    worst = float(_mu_needed(epsilons[thin], found[thin] - regret).max(initial=1e-9))
    if worst >= MOST_MU:
        return math.inf
    low, high = 0.9 * worst, worst  # enough is what was enough between points farther apart
    for _ in range(14):
        middle = 0.5 * (low + high)
        enough = (gaussian_deltas(middle, epsilons[1:]) >= found[:-1] - regret).all()
        low, high = (low, middle) if enough else (middle, high)
    return high


def _mu_needed(epsilons: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Return the mu (n - 1,) with which a Gaussian's delta at one point is at least ``least`` at the point before.

    Between two points delta falls: so the whole curve is dominated.
    """
    right, left = epsilons[1:], least[:-1]
    right, left = right[left > 0], left[left > 0]
    low, high = np.full(len(left), 1e-9), np.full(len(left), MOST_MU)
    for _ in range(60):
        middle = np.sqrt(low * high)
        enough = gaussian_deltas(middle, right) >= left
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return high


def noise_for_epsilon(build: Callable[[float], Event], *, epsilon: float, delta: float) -> float:
    """Return the least noise multiplier, to 1e-4 and rounded up, for which ``build(noise)`` costs at most ``epsilon``.

    >>> sigma = noise_for_epsilon(lambda s: (Gaussian(noise_multiplier=s),), epsilon=1.0, delta=1e-5)
    >>> round(sigma, 2)
    3.73
    """
    _checked("epsilon", epsilon, 0, math.inf)
    _checked("delta", delta, 0, 1)
    what = f"epsilon {epsilon:g} at delta {delta:g}"
    return _least(
        build,
        lambda event, quick: _bounds.bounds(event, delta, quick=quick).epsilon,
        epsilon,
        what,
        mu=_exact_mu(epsilon, delta),
    )


def noise_for_risk(build: Callable[[float], Event], *, max_tpr: float, at_fpr: float) -> float:
    """Return the least noise multiplier for which no attacker exceeds ``max_tpr`` at ``at_fpr`` false alarms.

    >>> sigma = noise_for_risk(lambda s: (Gaussian(noise_multiplier=s),), max_tpr=0.02, at_fpr=0.01)
    >>> round(sigma, 2)
    3.67
    """
    _checked("at_fpr", at_fpr, 0, 1)
    if not at_fpr < max_tpr <= 1:
        raise InvalidData(
            f"max_tpr must lie above at_fpr ({at_fpr}, which is guessing) and be at most 1; got {max_tpr!r}"
        )
    from scipy.special import ndtri

    return _least(
        build,
        lambda event, quick: _tpr(event, at_fpr, quick=quick) - at_fpr,
        max_tpr - at_fpr,
        f"max_tpr {max_tpr:g} at {at_fpr:g} false alarms",
        mu=float(min(ndtri(max_tpr), 9.0) - ndtri(at_fpr)),
    )


@lru_cache(maxsize=256)
def _tpr(event: Event, fpr: float, *, quick: bool = False) -> float:
    """Return the bound at one ``fpr``. Between two points of a lattice neither side is less than at one of them."""
    from scipy.special import ndtr, ndtri

    if mu := _bounds.only_mu(event):
        return float(min(max(ndtr(ndtri(fpr) + mu * (1 + NUDGE)) * (1 + NUDGE), fpr), 1.0))
    epsilons, found = _bounds.curve(event, quick=quick)
    first = np.exp(epsilons) * fpr + found
    second = 1.0 - (1.0 - fpr - found) * np.exp(-epsilons)
    return float(min(max(min(first.min(), second.min()), fpr), 1.0))


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
    build: Callable[[float], Event],
    price: Callable[[Event, bool], float],
    allowed: float,
    what: str,
    *,
    mu: float,
) -> float:
    """Return the least noise whose price is at most ``allowed``; what is returned was seen to hold.

    Without sampling the exact answer is known (``mu``) and the accountant's is just above it. Else the search comes
    from above, for little noise makes long lattices, on coarse ones (sound, and up to 0.2 % too dear); a last step
    takes back what a finer lattice shows to be too much.
    """
    from scipy.optimize import brentq

    def excess(log_noise: float, quick: bool = True) -> float:
        paid = price(_sorted(build(math.exp(log_noise))), quick)
        return math.log(max(paid, 1e-12) / allowed) if math.isfinite(paid) else 50.0

    one = _sorted(build(1.0))
    if whole := _bounds.only_mu(one):
        root = math.log(max(whole / mu, LEAST_NOISE)) + 1e-8  # a closed form's own nudge is of the order 1e-9
    else:
        sampled = (part.count * part.rate**2 for part in one if isinstance(part, (Gaussian, Laplace)))
        high = math.log(4 * math.sqrt(sum(sampled)) + 1)
        while excess(high) > 0 and high < math.log(MOST_NOISE):
            high += 1.0
        low = high - 0.4
        while high > math.log(LEAST_NOISE) and excess(low) <= 0:
            low, high = low - 0.4, low
        root = brentq(excess, low, high, xtol=TOLERANCE / 4) if excess(high) <= 0 < excess(low) else high
    for _ in range(MOST_STEPS):
        if excess(root) <= 0:
            # a price falls at least about as fast as the noise grows
            closer = root + 0.8 * min(excess(root, quick=False), 0.0)
            return math.exp(closer if not whole and excess(closer, quick=False) <= 0 else root)
        root += TOLERANCE / 4
    raise InvalidData(f"no noise was found for {what}: ask for less privacy, or for fewer steps")


def _checked(name: str, value: float, low: float, high: float) -> float:
    if not low < value < high:
        raise InvalidData(f"{name} must lie between {low:g} and {high:g}, both excluded; got {value!r}")
    return value


def _sorted(event: Event) -> Event:
    return tuple(sorted(checked(event), key=repr))
