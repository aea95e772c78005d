# SPDX-License-Identifier: Apache-2.0
"""A certified lower value of epsilon: what the worst case of Gaussian releases certainly costs.

An attacker who keeps of each release only in which interval it fell has seen less, so his privacy losses bound the
truth from below. The intervals are cut one after the other such that the loss of each, log(P / Q) of its masses under
the two neighbours, is a whole multiple of the lattice's: so losses compose on a lattice without being rounded, and the
error is of second order in its interval, as it is for the upper bound. Mass is only ever taken away from P, which can
only lower delta. One of the two directions is looked at (the unit is there under P), which is enough for a lower value.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from casemate.privacy import _losses
from casemate.privacy._composition import Masses, composed
from casemate.privacy.events import Event, Gaussian

TRUST = 1e-12  # relative, of an interval's mass: what the closed forms and the root may be wrong by
START = -8.0  # standard deviations under which all is one interval
MOST_CUTS = 100_000  # each takes some twenty microseconds
LEFT = 1e-20  # mass under P above the last cut


def epsilon(event: Event, delta: float, interval: float | None) -> float:
    """Return the value on a lattice of ``interval``; nan for other releases than Gaussian ones, or no lattice."""
    gaussians = [part for part in event if isinstance(part, Gaussian)]
    if interval is None or len(gaussians) < len(event):
        return math.nan
    whole = sum(part.count / part.noise_multiplier**2 for part in gaussians if part.rate == 1)
    parts = [part for part in gaussians if part.rate < 1]
    if whole:
        parts.append(Gaussian(noise_multiplier=1 / math.sqrt(whole)))
    interval = max(interval, sum(_losses.reach(part) for part in parts) / MOST_CUTS)
    least_rate = min(part.rate for part in parts)
    interval = min(interval, least_rate / 3)  # else no interval has a loss between log(1 - rate) and 0
    cuts = [(_cut(part.noise_multiplier, part.rate, interval), part.count) for part in parts]
    known = [(one, count) for one, count in cuts if one is not None]
    made = composed(known) if len(known) == len(cuts) else None
    if made is None:
        return math.nan
    # what fell from outside onto the lattice, and what rounding may have added, are not counted
    asked = delta + made[0].infinite + made[1]
    side = _losses.side_of(replace(made[0], infinite=0.0), interval, least=-math.inf)
    return side.epsilon(asked) if asked < 1 else 0.0


def _cut(sigma: float, rate: float, interval: float) -> Masses | None:
    """Return the lattice masses under P, (1 - rate) N(0, sigma^2) + rate N(1, sigma^2), against Q = N(0, sigma^2)."""
    root = sigma * math.sqrt(2)

    def below(at: float) -> tuple[float, float]:
        q = 0.5 * math.erfc(-at / root)
        return (1 - rate) * q + rate * 0.5 * math.erfc((1 - at) / root), q

    def over(at: float) -> tuple[float, float]:
        q = 0.5 * math.erfc(at / root)
        return (1 - rate) * q + rate * 0.5 * math.erfc((at - 1) / root), q

    def loss(at: float) -> float:
        exponent = (2 * at - 1) / (2 * sigma**2)
        return (
            exponent + math.log(rate + (1 - rate) * math.exp(-exponent))
            if exponent > 0
            else (math.log1p(rate * math.expm1(exponent)) if rate < 1 or exponent > -700 else exponent)
        )

    def where(value: float) -> float:
        odds = math.expm1(value) / rate + 1
        return 0.5 + sigma**2 * math.log(odds) if odds > 0 else -math.inf

    def next_cut(cut: float, level: int) -> float | None:
        """Return where the interval from ``cut`` on has the loss of ``level`` as a whole, by Newton's method."""
        odds, low, high = math.exp(level * interval), where(level * interval), math.inf
        side, sign = (below, 1.0) if cut < 0 else (over, -1.0)
        p, q = side(cut)
        at = 2 * low - cut  # as far beyond its own loss as the cut lies before it
        for _ in range(80):
            p_at, q_at = side(at)
            excess = sign * ((p_at - p) - odds * (q_at - q))
            low, high = (low, at) if excess > 0 else (at, high)
            if high == math.inf:
                at = low + 2 * (low - cut)
                if at > 40 * sigma + 1:
                    return None
                continue
            density = math.exp(-0.5 * (at / sigma) ** 2) / (root * math.sqrt(math.pi))
            slope = density * (math.exp(loss(at)) - odds)
            closer = at - excess / slope if slope > 0 else low
            if abs(closer - at) <= 1e-11 * (abs(at) + sigma) or high - low <= 1e-13 * (abs(at) + sigma):
                return max(closer, at) + 1e-11 * (abs(at) + sigma)  # a little more P than the loss needs
            at = closer if low < closer < high else 0.5 * (low + high)
        return None

    first = math.floor(loss(START * sigma) / interval) + 1
    cut = _first_cut(below, math.exp(first * interval), sigma)
    if first >= 0 or cut is None:
        return None
    masses = {first: below(cut)[1] * math.exp(first * interval)}
    for _ in range(MOST_CUTS):
        level = math.floor(loss(cut) / interval + 0.1) + 1  # a level is left out where cuts come close to it
        p, q = over(cut)
        if p < LEFT or p <= math.exp(level * interval) * q or (at := next_cut(cut, level)) is None:
            break
        weight = below(at)[1] - below(cut)[1] if cut < 0 else q - over(at)[1]
        masses[level] = masses.get(level, 0.0) + weight * math.exp(level * interval)
        cut = at
    # all above the last cut has a loss above the last one of the lattice: what P has beyond that is dropped
    last = max(masses)
    masses[last] += over(cut)[1] * math.exp(last * interval)
    dense = np.zeros(last - first + 1)
    dense[np.array(list(masses)) - first] = list(masses.values())
    return Masses(masses=dense * (1 - TRUST), low=first)


def _first_cut(below: Any, odds: float, sigma: float) -> float | None:
    """Return where all that lies below has the loss log(``odds``) together."""
    from scipy.optimize import brentq

    def excess(at: float) -> float:
        p, q = below(at)
        return float(p / q - odds)

    low, high = -30 * sigma, 1 + 30 * sigma
    return float(brentq(excess, low, high, xtol=1e-15)) if excess(low) < 0 < excess(high) else None
