# SPDX-License-Identifier: Apache-2.0
"""When a ledger is full: privacy filters for events that are chosen after seeing earlier answers.

Composition theorems for *fixed* parameters, the privacy loss distributions of :mod:`casemate.privacy.accounting` among
them, say nothing where the next event depends on earlier answers. A filter does: it admits events while a sum fixed
beforehand stays within a capacity fixed beforehand. Three are used, each (epsilon, delta_k)-private when it stops:

- ``basic``: sum of epsilons <= epsilon, no delta (Rogers et al. 2016, Whitehouse et al. 2023).
- ``gaussian``: sum of mu^2 <= mu*^2, mu* the exact mu of (epsilon, delta_k) (Smith and Thakurta 2022). A Gaussian
  release counts 1/sigma^2; a pure one 4 Phi^-1(e^eps / (1 + e^eps))^2, whose curve touches randomised response's.
- ``renyi``: at one order a, sum of Renyi losses <= B(a), what converts to (epsilon, delta_k) (Feldman and Zrnic 2021;
  conversion: Canonne, Kamath and Steinke 2020). For zCDP one order, the best for the *capacity*, loses nothing.

**Several at once.** An event passes if *any* filter still holds with it. Which one holds at the end depends on the
path, so their deltas add: with A the filter that holds, E[(1 - e^(eps-L))+] <= sum_k E[(1 - e^(eps-L_k))+], where L_k
is the loss of the interaction stopped by filter k alone, equal to L where A = k. Hence sum_k delta_k <= delta. Events
with a delta of their own are randomised response that confesses with that probability (Kairouz et al. 2015): the sum
of those probabilities is held under a share of delta of its own. A search (``Tuned``) has a Renyi loss at every order
(Papernot and Steinke 2022): the ``renyi`` filters alone hold it.

All sums are whole numbers of 1e-15 (deltas: 1e-30) rounded up, so that order and restarts change nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from casemate.core.errors import InvalidData
from casemate.privacy import _repeats
from casemate.privacy.events import (
    ZCDP,
    ApproximateDP,
    DiscreteGaussian,
    DiscreteLaplace,
    Event,
    Gaussian,
    Laplace,
    Part,
    Pure,
    Tuned,
)

FILTERS = ("mixed", "pure", "zcdp", "gaussian")
LEVELS = 16  # of the odometer
_FINE, _FINEST = 10**15, 10**30
_NEVER = 10**60  # a cost that no capacity holds
_ROUNDING = 1e-15  # of logarithms near 1; never in our favour

Totals = tuple[int, ...]  # own deltas, then one sum a member


@dataclass(frozen=True, kw_only=True)
class Member:
    """One filter: "basic", "gaussian" or "renyi" at an order, and its share of delta."""

    kind: str
    order: float = 0.0
    share: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Filters of which any may admit, and the share of delta for events that have one themselves.

    >>> made("zcdp", 3.0, 1e-6).members[0].kind
    'renyi'
    """

    own: float
    members: tuple[Member, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, for the first entry of a ledger."""
        return {"own": self.own, "members": [[one.kind, one.order, one.share] for one in self.members]}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Filter:
        """Rebuild from :meth:`to_json`."""
        return cls(
            own=raw["own"], members=tuple(Member(kind=k, order=o, share=s) for k, o, s in raw["members"])
        )

    def nothing(self) -> Totals:
        """Return the totals of an empty ledger."""
        return (0,) * (1 + len(self.members))

    def capacity(self, epsilon: float, delta: float) -> Totals:
        """Return what the totals may reach."""
        own = math.floor(Fraction(repr(delta)) * Fraction(self.own) * _FINEST)
        return (own, *(_capacity(one, epsilon, delta * one.share) for one in self.members))

    def admits(self, totals: Totals, capacity: Totals) -> bool:
        """Tell whether a filter holds with these totals."""
        return totals[0] <= capacity[0] and any(
            spent <= most for spent, most in zip(totals[1:], capacity[1:], strict=True)
        )

    def epsilon(self, totals: Totals, delta: float) -> float:
        """Return the least epsilon whose filter, with these orders and shares, would have admitted the totals."""
        if not any(totals):
            return 0.0
        found = [
            _epsilon(one, total, delta * one.share)
            for one, total in zip(self.members, totals[1:], strict=True)
            if total < _NEVER and (one.kind == "basic" or delta * one.share > 0)
        ]
        return min(found, default=math.inf) if totals[0] <= self.capacity(1.0, delta)[0] else math.inf

    def at_any_time(self, totals: Totals, epsilon: float, delta: float) -> float:
        """Return a bound that holds at every moment at once, also one chosen by the answers (after Lecuyer 2021).

        Pure spends add up at every moment, without a delta. Else, of the levels epsilon j / 16, each a filter of
        delta / 16, the least that has admitted everything; inf where none has. Let E be what is returned at a moment T
        that the answers choose, J its level, L the loss until T, L_j that of the interaction stopped by filter j.
        Where J = j, filter j never stopped: E[(1 - e^(E-L))+; J <= 16] <= sum_j E[(1 - e^(e_j-L_j))+] <= delta.
        """
        if (
            self.members[0].kind == "basic"
            and totals[0] == 0
            and totals[1] <= self.capacity(epsilon, delta)[1]
        ):
            return totals[1] / _FINE
        levels = (epsilon * level / LEVELS for level in range(1, LEVELS + 1))
        held = (at for at in levels if self.admits(totals, self.capacity(at, delta / LEVELS)))
        return next(held, math.inf) if any(totals) else 0.0


def made(name: str, epsilon: float, delta: float) -> Filter:
    """Return the filter of that name; its orders suit the budget and never change afterwards.

    >>> [one.kind for one in made("mixed", 3.0, 1e-6).members]
    ['basic', 'gaussian', 'renyi', 'renyi', 'renyi', 'renyi']
    """
    if name not in FILTERS:
        raise InvalidData(f"a filter is one of {', '.join(FILTERS)}; got {name!r}")
    basic = Member(kind="basic")
    if name == "pure" or (name == "mixed" and delta == 0):
        return Filter(own=1.0, members=(basic,))
    if delta == 0:
        raise InvalidData(f"filter {name!r} needs delta > 0; with delta 0 use 'pure'")
    if name == "gaussian":
        return Filter(own=0.0, members=(Member(kind="gaussian", share=1.0),))
    if name == "zcdp":
        return Filter(own=0.0, members=(Member(kind="renyi", order=_best_order(epsilon, delta), share=1.0),))
    best = _best_order(epsilon, delta / 2)
    others = [Member(kind="renyi", order=max(math.ceil(best * by), 2), share=1 / 16) for by in (0.7, 1.5, 3)]
    main = Member(kind="renyi", order=math.ceil(best), share=1 / 2)
    return Filter(own=1 / 8, members=(basic, Member(kind="gaussian", share=3 / 16), main, *others))


def added(totals: Totals, cost: Totals) -> Totals:
    """Return the sums."""
    return tuple(min(one + other, _NEVER) for one, other in zip(totals, cost, strict=True))


@lru_cache(maxsize=4096)
def cost(event: Event, filtered: Filter) -> Totals:
    """Return what an event adds to the totals."""
    totals = filtered.nothing()
    for part in event:
        own = _up(part.delta, _FINEST) if isinstance(part, ApproximateDP) else 0
        sums = (
            max(_cost(part, one), 1) for one in filtered.members
        )  # nothing is free, however little it costs
        count = 1 if isinstance(part, Tuned) else int(part.count)
        totals = added(totals, tuple(count * one for one in (own, *sums)))
    return totals


def _cost(part: Part, member: Member) -> int:
    if isinstance(part, Gaussian) and part.rate == 1:
        square = (
            part.noise_multiplier * part.noise_multiplier
        )  # 0 or inf beyond the floats, where ** 2 would raise
        squared = 1 / square if square else math.inf
        exact = {"gaussian": squared, "renyi": member.order / 2 * squared}
        return _up(exact[member.kind]) if member.kind in exact else _NEVER
    pure = _pure(part)
    if member.kind == "basic":
        return _NEVER if pure is None else _up(pure)
    if member.kind == "gaussian":
        return _NEVER if pure is None else _up(_mu_of_pure(pure) ** 2) + 1
    if isinstance(part, Laplace) and part.rate == 1:
        return _up(_renyi_laplace(part.noise_multiplier, member.order)) + 1
    return _up(_renyi_pure(pure, member.order) if pure is not None else _renyi(part, member.order)) + 1


def _pure(part: Part) -> float | None:
    """Return the epsilon of a pure release (an approximate one's own delta is held apart), or None."""
    if isinstance(part, (Pure, ApproximateDP)):
        return part.epsilon
    if isinstance(part, Laplace):  # sampling turns e^eps - 1 into rate times that
        full = 1 / part.noise_multiplier
        if part.rate == 1 or full > 700:
            return full
        return math.log1p(part.rate * math.expm1(full))
    return part.sensitivity / part.scale if isinstance(part, DiscreteLaplace) else None


def _renyi(part: Part, order: float) -> float:
    if isinstance(part, ZCDP):
        return part.rho * order
    if isinstance(part, DiscreteGaussian):  # as concentrated as the continuous one (Canonne et al. 2020)
        shift = part.sensitivity / part.sigma
        return shift * shift / 2 * order
    if isinstance(part, Gaussian):
        return _renyi_sampled(part.noise_multiplier, part.rate, max(2, math.ceil(order)))
    if isinstance(part, Tuned):
        return _repeats.renyi(order, part.mean_repeats, part.shape, lambda at: _renyi_run(part.one, at))
    return math.inf


@lru_cache(maxsize=1024)
def _renyi_run(run: Event, order: float) -> float:
    """Return the Renyi loss of one run of a search."""
    asked = Filter(own=0.0, members=(Member(kind="renyi", order=order),))
    total = cost(run, asked)[1]
    return total / _FINE if total < _NEVER else math.inf


def _renyi_pure(epsilon: float, order: float) -> float:
    """Return the Renyi loss of randomised response, the worst of all pure releases."""
    import numpy as np

    inside = -math.log1p(math.exp(-epsilon)) + float(np.logaddexp((order - 1) * epsilon, -order * epsilon))
    inside += _ROUNDING * (1 + order * epsilon)
    return min(inside / (order - 1), epsilon, order * epsilon * epsilon / 2)


def _renyi_laplace(scale: float, order: float) -> float:
    """Return the Renyi loss of Laplace noise (Mironov 2017)."""
    import numpy as np

    near = math.log(order / (2 * order - 1)) + (order - 1) / scale
    far = math.log((order - 1) / (2 * order - 1)) - order / scale
    inside = float(np.logaddexp(near, far)) + _ROUNDING * (1 + order / scale)
    return min(
        inside / (order - 1), order / scale / scale / 2
    )  # the latter of any release that is 1 / scale-private


def _renyi_sampled(noise: float, rate: float, order: int) -> float:
    """Return the Renyi loss of Gaussian noise on a Poisson sample at a whole order (Mironov et al. 2019)."""
    import numpy as np
    from scipy.special import gammaln, logsumexp

    if noise < 1e-100:
        return math.inf
    k = np.arange(order + 1)
    chosen = gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1)
    terms = chosen + (order - k) * math.log1p(-rate) + k * math.log(rate) + k * (k - 1) / (2 * noise * noise)
    rounding = 1e-13 * float(np.abs(terms).max())  # of the logarithms; never in our favour
    return (max(float(logsumexp(terms)), 0.0) + rounding) / (order - 1)


def _mu_of_pure(epsilon: float) -> float:
    from scipy.special import ndtri

    return -2 * float(ndtri(1 / (1 + math.exp(epsilon)))) if epsilon <= 700 else math.inf


def _capacity(member: Member, epsilon: float, delta: float) -> int:
    if member.kind == "basic":
        return min(math.floor(Fraction(repr(epsilon)) * _FINE), _NEVER - 1)
    if not delta > 0:
        return -1  # only pure releases have no delta
    if member.kind == "gaussian":
        return _down(_most_mu(epsilon, delta) ** 2)
    return _down(_allowed(member.order, epsilon, delta))


def _allowed(order: float, epsilon: float, delta: float) -> float:
    """Return B(a): the Renyi loss that converts to (epsilon, delta)."""
    return epsilon - math.log1p(-1 / order) + (math.log(delta) + math.log(order)) / (order - 1)


def _epsilon(member: Member, total: int, delta: float) -> float:
    spent = total / _FINE
    if member.kind == "basic":
        return spent
    if member.kind == "renyi":
        return max(
            spent + math.log1p(-1 / member.order) - math.log(delta * member.order) / (member.order - 1), 0.0
        )
    low, high = 0.0, 1.0
    while _gaussian_delta(math.sqrt(spent), high) > delta:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _gaussian_delta(math.sqrt(spent), middle) <= delta else (middle, high)
    return high


def _gaussian_delta(mu: float, epsilon: float) -> float:
    """Return delta(epsilon) of one Gaussian release (Balle and Wang 2018)."""
    from scipy.special import log_ndtr, ndtr

    if mu == 0:
        return 0.0
    tail = math.exp(min(epsilon + float(log_ndtr(-epsilon / mu - mu / 2)), 0.0))
    return float(ndtr(mu / 2 - epsilon / mu)) - tail


@lru_cache(maxsize=256)
def _most_mu(epsilon: float, delta: float) -> float:
    low, high = 0.0, 1.0
    while _gaussian_delta(high, epsilon) <= delta:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _gaussian_delta(middle, epsilon) <= delta else (low, middle)
    return low * (1 - 1e-12)


def _best_order(epsilon: float, delta: float) -> float:
    """Return the order at which (epsilon, delta) holds the most zCDP."""
    orders: list[float] = [1 + 10.0 ** (step / 500) for step in range(-1000, 2500)]
    best: float = max(orders, key=lambda order: _allowed(order, epsilon, delta) / order)
    return round(best, 6)


def _up(value: float, fine: int = _FINE) -> int:
    """Round up a cost; a decimal such as 0.1 is taken at its word, so that ten of them fill 1."""
    return _NEVER if not value < 1e40 else math.ceil(Fraction(repr(float(value))) * fine)


def _down(value: float) -> int:
    return math.floor(Fraction(repr(float(min(value, 1e40)))) * _FINE) if value > 0 else -1
