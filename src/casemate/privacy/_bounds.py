# SPDX-License-Identifier: Apache-2.0
"""The bounds behind :mod:`casemate.privacy.accounting`: closed forms, and lattices refined until they agree."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from casemate.privacy import _losses, _rdp
from casemate.privacy.events import Event, Gaussian

AGREEMENT = 0.002  # relative, of the epsilons of two successive lattices
POINTS = 6.0  # of the first lattice, a standard deviation of one composition's loss
MOST_POINTS = 600_000  # of a composed lattice: about a CPU second
LARGEST = 100.0  # epsilon up to which privacy loss distributions are worth their cost
LONGEST = 600.0  # range of losses; e^709 is the largest float
REFERENCE = 1e-5  # the delta at which the lattice of a whole curve is refined
CURVE = 20_000  # points of a curve, at least
NUDGE = 1e-9  # relative; what rounding may take from a closed form


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The price of an event at ``delta``: an upper bound, how it was found, and how far it may be from the truth.

    ``lower`` is certified: the worst case of the event is not (lower, delta)-private for any smaller value; nan if no
    such value is known. ``agreed`` says that two lattices agreed to 0.2 %, ``edge`` that the best Renyi order was the
    first or last one tried, so that more orders could show less.
    """

    epsilon: float
    lower: float
    delta: float
    by: Literal["exact", "losses", "renyi", "sum"]
    agreed: bool
    edge: bool

    @property
    def slack(self) -> float:
        """Return the part of epsilon that may be accounting and not risk, relative; nan if unknown."""
        return 1 - self.lower / self.epsilon if self.epsilon > 0 else 0.0


def gaussian_deltas(mu: Any, epsilons: np.ndarray) -> np.ndarray:
    """Return delta(epsilon) of one Gaussian release of sensitivity over noise ``mu`` (Balle and Wang 2018).

    >>> float(gaussian_deltas(1.0, np.array([0.0]))[0].round(4))
    0.3829
    """
    from scipy.special import log_ndtr, ndtr

    tail = np.exp(np.minimum(epsilons + log_ndtr(-epsilons / mu - mu / 2), 0.0))
    return np.asarray(np.maximum(ndtr(mu / 2 - epsilons / mu) - tail, 0.0))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return the epsilon of one Gaussian release of sensitivity over noise ``mu``, rounded up.

    >>> round(gaussian_epsilon(1.0, 1e-5), 3)
    4.377
    """
    from scipy.optimize import brentq

    def excess(at: float) -> float:
        return float(gaussian_deltas(mu, np.array([at]))[0]) - delta

    if excess(0.0) <= 0:
        return 0.0
    return float(brentq(excess, 0.0, mu * (mu / 2 + 40), xtol=1e-13, rtol=1e-13)) * (1 + NUDGE)


@lru_cache(maxsize=256)
def bounds(event: Event, delta: float, *, quick: bool = False) -> Cost:
    """Return the least of the bounds that are known; ``quick``: on the first lattice, as sound and less tight."""
    kept: dict[str, Any] = {"lower": math.nan, "delta": delta, "agreed": True, "edge": False}
    if mu := only_mu(event):
        return Cost(epsilon=gaussian_epsilon(mu, delta), by="exact", **kept)
    known = _rdp.divergences(event)
    least, edge = known.epsilon(delta)
    found = Cost(epsilon=least, by="renyi", **{**kept, "edge": edge})
    added = sum(_rdp.pure_epsilon(part) * _rdp.part_count(part) for part in event)
    if known.aside <= delta and added < found.epsilon:
        found = Cost(epsilon=added, by="sum", **kept)
    losses, agreed = refined(event, delta, quick=quick)
    if losses is not None and (composed := losses.epsilon(delta)) < found.epsilon:
        found = Cost(epsilon=composed, by="losses", **{**kept, "agreed": agreed})
    return found


@lru_cache(maxsize=8)  # each holds up to MOST_POINTS losses
def refined(event: Event, delta: float, *, quick: bool = False) -> tuple[_losses.Losses | None, bool]:
    """Return the losses on a lattice fine enough for ``delta``, and whether two lattices agreed; None: out of reach."""
    interval = first_interval(event, delta)
    if interval is None:
        return None, False
    made = _losses.build(event, interval)
    if made is None or quick:
        return made, False
    before = made.epsilon(delta)
    if before == math.inf:
        return made, False  # more mass is infinite than delta allows, on any lattice
    while 2 * made.size <= MOST_POINTS and (finer := _losses.build(event, made.interval / 2)) is not None:
        made, after = finer, finer.epsilon(delta)
        if abs(before - after) <= AGREEMENT * after:
            return made, True
        before = after
    return made, False


def first_interval(event: Event, delta: float) -> float | None:
    """Return the first lattice interval, or None if no lattice within the limits of cost would be of use."""
    known = _rdp.divergences(event)
    if known.epsilon(max(delta, 2 * known.aside))[0] > LARGEST:
        return None
    spread = math.sqrt(sum(_rdp.part_count(part) * _losses.variance(part) for part in event))
    compositions = sum(_rdp.part_count(part) for part in event)
    span = 2 * sum(_losses.reach(part) for part in event) + spread * (24 + spread)
    if span > LONGEST:
        return None
    return max(spread / (POINTS * math.sqrt(compositions)), 2 * span / MOST_POINTS)


@lru_cache(maxsize=8)
def curve(event: Event, *, quick: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return epsilons >= 0 (n,), rising, and a bound on delta at each (n,)."""
    losses, _ = refined(event, REFERENCE, quick=quick)
    if losses is None:
        known = _rdp.divergences(event)
        at = np.concatenate([[0.0], np.geomspace(1e-3, 500.0, 4000)])
        return at, known.deltas(at)
    top = max(side.losses[-1] for side in losses.sides)
    step = losses.interval / math.ceil(
        losses.interval * CURVE / top
    )  # the lattice's own points are among them
    at = np.arange(math.ceil(top / step) + 2) * step
    return at, losses.deltas(at)


def only_mu(event: Event) -> float:
    """Return the mu of an event of nothing but Gaussian releases without sampling; 0 for any other."""
    whole = 0.0
    for part in event:
        if not isinstance(part, Gaussian) or part.rate < 1:
            return 0.0
        whole += part.count / part.noise_multiplier**2
    return math.sqrt(whole)
