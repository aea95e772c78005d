# SPDX-License-Identifier: Apache-2.0
"""Tests a mechanism's stated (epsilon, delta) on two neighbours: a lower bound of its epsilon, never a proof.

**How.** The mechanism answers n times about each neighbour. On the first half of the answers, bins are ordered by how
much more often they came from one neighbour than from the other, and the most telling set of them becomes an event. On
the second half, which chose nothing, the event's two probabilities get exact Clopper-Pearson limits, and

    epsilon >= log((P(event | one) - delta) / P(event | other))

with the lower limit above and the upper one below. All events, in both directions, are together wrong with probability
at most 1e-6: a true mechanism is accused once in a million tests. Bins are the answers themselves as far as they
repeat, their ranks, and of floats the place of the last binary digit, which can tell what was added to what (Mironov
2012); of lists also their length and, of numbers, their sum.

**What it does not cover.** Only the two neighbours that were given: choose the worst. Only what so many draws can tell:
``ceiling`` is the most that could have been found (had there been no noise at all), and with delta > 0 a rarer leak is
not seen. "No violation found at this power" is all it can say. :func:`exact` needs no draws where a mechanism can state
its probabilities. Ways to the same end: StatDP (Ding et al. 2018), DP-Sniper (Bichsel et al. 2021), DP-Auditorium (Kong
et al. 2023).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from casemate.core import stats
from casemate.core.errors import InvalidData
from casemate.training.secure import Source

ALPHA = 1e-6  # the chance to accuse a true mechanism
_BINS = 64  # of numbers, by rank
_SPREAD = 5.0  # standard deviations by which an event is judged while it is chosen; any choice is valid
_ROUNDING = 1e-9  # relative, of probabilities in floats

Mechanism = Callable[[Any, Source, int], Any]
Codes = Callable[[np.ndarray], np.ndarray]  # answers (n,) to the numbers of their bins (n,)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a test found: epsilon is at least ``low`` at this ``delta``; ``violated`` where more than was claimed.

    >>> print(exact(np.array([0.5, 0.5]), np.array([0.4, 0.6]), epsilon=0.1))
    violated: epsilon is at least 0.223, claimed was 0.1 (stated probabilities)
    """

    claimed: float
    delta: float
    low: float
    violated: bool
    n: int | None  # draws about each neighbour; None: from stated probabilities
    ceiling: float  # the largest ``low`` that so many draws can show
    event: str

    def __str__(self) -> str:
        if self.violated:
            return (
                f"violated: epsilon is at least {self.low:.3g}, claimed was {self.claimed:.3g} ({self.event})"
            )
        return f"no violation found at this power: at least {self.low:.3g} shown, at most {self.ceiling:.3g} could be"


def exact(one: np.ndarray, other: np.ndarray, *, epsilon: float, delta: float = 0.0) -> Verdict:
    """Judge stated probabilities (answers,) of the same answers about two neighbours.

    The least epsilon that covers them at ``delta`` is the maximum of log((P - delta) / Q) over the sets of the most
    telling answers, in both directions. Leaving answers out (far tails) can only make it smaller.

    >>> from casemate.privacy.mechanisms import laplace_pmf
    >>> k = np.arange(-40, 41)
    >>> round(exact(laplace_pmf(k, 2), laplace_pmf(k - 1, 2), epsilon=0.5).low, 6)
    0.5
    """
    _claimed(epsilon, delta)
    p, q = np.asarray(one, np.float64), np.asarray(other, np.float64)
    for stated in (p, q):
        if stated.shape != p.shape or stated.ndim != 1 or not len(stated) or not (stated >= 0).all():
            raise InvalidData(
                "state the probability >= 0 of each answer, of the same answers for both neighbours"
            )
        if stated.sum() > 1 + _ROUNDING:
            raise InvalidData(f"probabilities add up to at most 1; got {stated.sum()!r}")
    low = max(_least(p, q, delta), _least(q, p, delta), 0.0)
    violated = low > epsilon + _ROUNDING * max(epsilon, 1.0)
    return Verdict(
        claimed=epsilon,
        delta=delta,
        low=low,
        violated=violated,
        n=None,
        ceiling=math.inf,
        event="stated probabilities",
    )


def _least(p: np.ndarray, q: np.ndarray, delta: float) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        order = np.argsort(-np.where(p > 0, p / q, 0.0), kind="stable")
        inside, outside = np.cumsum(p[order]) - delta, np.cumsum(q[order])
        found = np.where(inside > _ROUNDING * delta, np.log(np.maximum(inside, 0.0) / outside), -math.inf)
    return float(found.max())


def sampled(
    run: Mechanism,
    neighbours: tuple[Any, Any],
    *,
    epsilon: float,
    source: Source,
    delta: float = 0.0,
    n: int = 20_000,
) -> Verdict:
    """Draw ``n`` answers about each of two ``neighbours`` and return what they show.

    Args:
        run: ``run(data, source, n)`` returns n independent answers about ``data``: numbers (n,), or n lists of them.
        epsilon: what the mechanism claims, with ``delta``.

    >>> from casemate.privacy.mechanisms import add_laplace
    >>> from casemate.training.secure import insecure_test_source
    >>> def count(people, source, n):
    ...     return add_laplace([people] * n, sensitivity=1, epsilon=2.0, source=source)
    >>> sampled(count, (10, 11), epsilon=1.0, n=4000, source=insecure_test_source(0)).violated
    True
    >>> sampled(count, (10, 11), epsilon=2.0, n=4000, source=insecure_test_source(0)).violated
    False
    """
    _claimed(epsilon, delta)
    if n < 100:
        raise InvalidData(f"a test needs at least 100 draws; got {n}")
    one, other = (_answers(run(data, source, n), n) for data in neighbours)
    half = n // 2
    ways = _ways(np.concatenate([one[:half], other[:half]]))
    tail = ALPHA / (2 * len(ways))  # an event a way and direction
    best, event = 0.0, "no telling event"
    for name, codes in ways.items():
        first, second = codes(one), codes(other)
        bins = int(max(first.max(), second.max())) + 1
        counts = [np.bincount(part, minlength=bins) for part in (first[:half], second[:half])]
        for these, a, b in ((counts, first, second), (counts[::-1], second, first)):
            chosen = _event(these[0], these[1], delta)
            inside, outside = (int(chosen[part[half:]].sum()) for part in (a, b))
            low = _bound(inside, outside, n - half, delta=delta, alpha=tail)
            if low > best:
                best, event = low, f"{name}: {inside} answers against {outside} of {n - half}"
    return Verdict(
        claimed=epsilon,
        delta=delta,
        low=best,
        violated=best > epsilon,
        n=n,
        ceiling=_bound(n - half, 0, n - half, delta=delta, alpha=tail),
        event=event,
    )


def _claimed(epsilon: float, delta: float) -> None:
    if not (math.isfinite(epsilon) and epsilon >= 0 and 0 <= delta < 1):
        raise InvalidData(
            f"a claim is a finite epsilon >= 0 and a delta in [0, 1); got {epsilon!r} and {delta!r}"
        )


def _bound(inside: int, outside: int, n: int, *, delta: float, alpha: float) -> float:
    """Return the lower limit of epsilon from an event's two counts, wrong with probability at most ``alpha``."""
    low = stats.clopper_pearson(inside, n, level=1 - alpha).low - delta
    high = stats.clopper_pearson(outside, n, level=1 - alpha).high
    return math.log(low / high) if low > 0 else -math.inf


def _event(inside: np.ndarray, outside: np.ndarray, delta: float) -> np.ndarray:
    """Return which bins (bins,) bool show most: a prefix of those ordered by what their ratio is at least."""
    order = np.argsort(-_below(inside, 1.0) / _above(outside, 1.0), kind="stable")
    n = inside.sum()
    low = _below(np.cumsum(inside[order]), _SPREAD) / n - delta
    high = _above(np.cumsum(outside[order]), _SPREAD) / n
    chosen = np.zeros(len(inside), bool)
    chosen[order[: int(np.argmax(low / high)) + 1]] = True
    return chosen


def _below(counts: np.ndarray, spread: float) -> np.ndarray:
    return np.maximum(counts - spread * np.sqrt(counts), 0.0)


def _above(counts: np.ndarray, spread: float) -> np.ndarray:
    return counts + spread * np.sqrt(counts) + spread**2


def _answers(answers: Any, n: int) -> np.ndarray:
    """Return the answers (n,): floats as floats, all else as objects that compare and hash (whole numbers, tuples)."""
    if len(answers) != n:
        raise InvalidData(f"run(data, source, n) must return n answers; got {len(answers)} for {n}")
    if isinstance(answers, np.ndarray) and answers.ndim == 1:
        return answers
    listed = [tuple(np.asarray(one).ravel().tolist()) if np.ndim(one) else one for one in answers]
    if all(isinstance(one, float) for one in listed):
        return np.array(listed, np.float64)
    out = np.empty(n, object)
    out[:] = listed
    return out


def _ways(seen: np.ndarray) -> dict[str, Codes]:
    """Return the ways to put answers into bins; they may depend on ``seen``, the first halves of both, and no more."""
    ways = {"single answers": _known(seen)}
    if all(isinstance(one, tuple) for one in seen):
        ways["lengths"] = _after(_lengths, _known, seen)
        if all(isinstance(part, int | float) for one in seen for part in one):  # keys of groups have no sum
            ways["sums"] = _after(_sums, _ranks, seen)
        return ways
    if seen.dtype.kind in "fiu" or all(isinstance(one, int | float | np.number) for one in seen):
        ways["ranks"] = _ranks(seen)
    if seen.dtype.kind == "f":
        ways["last binary digits"] = _after(_last_digit, _known, seen)
    return ways


def _after(read: Codes, bins: Callable[[np.ndarray], Codes], seen: np.ndarray) -> Codes:
    codes = bins(read(seen))
    return lambda answers: codes(read(answers))


def _lengths(answers: np.ndarray) -> np.ndarray:
    return np.array([len(one) for one in answers])


def _sums(answers: np.ndarray) -> np.ndarray:
    return np.array([sum(one) for one in answers])


def _known(seen: np.ndarray) -> Codes:
    number = {value: i for i, value in enumerate(dict.fromkeys(seen.tolist()), start=1)}
    return lambda answers: np.array([number.get(value, 0) for value in answers.tolist()])


def _ranks(seen: np.ndarray) -> Codes:
    ordered = np.sort(seen)
    cuts = ordered[np.linspace(0, len(ordered) - 1, _BINS + 1).astype(int)[1:-1]]
    return lambda answers: np.searchsorted(cuts, answers)


def _last_digit(answers: np.ndarray) -> np.ndarray:
    """Return the exponent of the last binary digit that is not 0; 0, -0 and what is not finite apart, by sign."""
    digits, exponent = np.frexp(answers.astype(np.float64))
    usable = np.isfinite(digits) & (digits != 0)
    whole = np.where(usable, digits * 2.0**53, 1.0).astype(np.int64)
    last = exponent - 53 + np.log2((whole & -whole).astype(np.float64)).astype(np.int64)
    return np.where(usable, last, np.int64(10**6) + np.signbit(answers.astype(np.float64)))
