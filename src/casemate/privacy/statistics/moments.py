# SPDX-License-Identifier: Apache-2.0
"""Count, sum, mean, variance: exact whole sums on a public grid, one noise each.

**The trick of the mean and the variance.** A row at t = d / W in [0, 1] of its bounds adds to *both* ends: d to one,
W - d to the other. The two add up to W whoever the row is, so adding or removing it moves the pair by exactly W in L1:
one budget pays for the sum and the count together, with half the variance of splitting it. Likewise the three squares
(W - d)^2, 2 d (W - d), d^2 add up to W^2 (the Bernstein polynomials): mean, variance and count for one budget.
The noisy count is the noisy total over W (or W^2): it never stands alone and never divides by zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from casemate.core.errors import InvalidData
from casemate.privacy.release import Release
from casemate.privacy.statistics._ask import Add, Answer, Ask, Privacy, asked
from casemate.privacy.statistics._grid import FINE, Grid, grid, sums
from casemate.privacy.statistics._intervals import Noise, linearised, ratio
from casemate.privacy.statistics._rows import Column, People

Missing = Literal["drop", "midpoint"]


def count(
    x: Any,
    *,
    epsilon: float | None = None,
    privacy: Privacy | None = None,
    people: People | None = None,
    ledger: Any = None,
    source: Any = None,
) -> Release:
    """Return how many values there are, without the missing ones.

    Sensitivity: a row counts 1 or, missing, 0; exchanging it moves the count by 1 at most as well. A person has at most
    ``max_rows`` rows, and so many times that.

    >>> count([31.0, 45.0, float("nan")], epsilon=50.0).value
    2
    """
    ask = asked("count", epsilon, privacy, people=people, ledger=ledger, source=source)
    column = Column(x, people)

    def compute(add: Add, noise: Noise) -> Answer:
        n = 0
        for block in column.blocks():
            n += int(np.count_nonzero(~np.isnan(block)))
        return count_of(n, add, noise, level=ask.privacy.level)

    return ask.release({}, compute, sensitivity=ask.rows, data=column)


def count_of(n: int, add: Add, noise: Noise, *, level: float) -> Answer:
    """Return the noisy count and its interval."""
    (seen,) = add([n])
    reach = noise.reach(level)
    return Answer(value=max(seen, 0), low=max(seen - reach, 0), high=max(seen + reach, 0))


def sum(  # noqa: A001  statistics.sum is its name, as in numpy
    x: Any,
    *,
    bounds: Any,
    epsilon: float | None = None,
    privacy: Privacy | None = None,
    people: People | None = None,
    ledger: Any = None,
    source: Any = None,
) -> Release:
    """Return the sum of the values, each clamped to ``bounds``; missing ones add nothing.

    Rounding to the grid moves a value by at most 2^-36 of the range of the bounds (2^-52 of the largest bound, if that
    is more), so a thousand million rows by a 64th of the range: the one error that the interval leaves out.

    Sensitivity, in steps of the grid: a row adds between lo and hi, so coming or going moves the sum by at most
    max(abs(lo), abs(hi)); exchanged for another, or for a missing one, by at most max(hi, 0) - min(lo, 0). A person:
    ``max_rows`` times that.

    >>> sum([10.0, 20.0, 500.0], bounds=(0, 100), epsilon=1e15).value
    130.0
    """
    on = grid(bounds, bits=FINE)
    ask = asked("sum", epsilon, privacy, people=people, ledger=ledger, source=source)
    column = Column(x, people)

    def compute(add: Add, noise: Noise) -> Answer:
        return sum_of(sums(column.blocks(), on), add, noise, on=on, level=ask.privacy.level)

    most = largest(on, replaces=ask.replaces) * ask.rows
    return ask.release({"bounds": [on.low, on.high]}, compute, sensitivity=most, data=column)


def largest(on: Grid, *, replaces: bool) -> int:
    """Return the most by which one row moves a sum, in steps."""
    top, bottom = on.anchor + on.width, on.anchor
    return max(top, 0) - min(bottom, 0) if replaces else max(abs(top), abs(bottom))


def sum_of(exact: Sequence[int], add: Add, noise: Noise, *, on: Grid, level: float) -> Answer:
    """Return the noisy sum of ``[n, sum d]`` and its interval."""
    n, total = exact
    (seen,) = add([n * on.anchor + total])
    value, reach = seen * on.step, noise.reach(level) * on.step
    return Answer(value=value, low=value - reach, high=value + reach)


def mean(
    x: Any,
    *,
    bounds: Any,
    epsilon: float | None = None,
    privacy: Privacy | None = None,
    people: People | None = None,
    missing: Missing = "drop",
    ledger: Any = None,
    source: Any = None,
) -> Release:
    """Return the mean of the values, each clamped to ``bounds``.

    Sensitivity: a row adds d to one end and W - d to the other, W together: the L1 norm of the pair moves by W where a
    row comes or goes, and by at most 2 W where it is exchanged. With ``replace_one``, rows as units and
    ``missing="midpoint"`` the number of rows is public: the sum alone is noised, and moves by at most W. A person:
    ``max_rows`` times that. ``missing="drop"`` leaves missing values out; dropping is a function of the row alone, so
    the bounds above hold (a missing row adds nothing).

    >>> round(mean([31.0, 45.0, 62.0], bounds=(0, 120), epsilon=1e9).value, 3)
    46.0
    """
    on = grid(bounds)
    if missing not in ("drop", "midpoint"):
        raise InvalidData(f"missing must be 'drop' or 'midpoint'; got {missing!r}")
    ask = asked("mean", epsilon, privacy, people=people, ledger=ledger, source=source)
    column = Column(x, people)
    known = ask.public_n and missing == "midpoint"
    factor = 1 if known or not ask.replaces else 2

    def compute(add: Add, noise: Noise) -> Answer:
        n, total = sums(column.blocks(), on, impute=missing == "midpoint")
        return mean_of([n, total], add, noise, on=on, level=ask.privacy.level, known=known)

    words = {"bounds": [on.low, on.high], "missing": missing}
    return ask.release(
        words,
        compute,
        sensitivity=factor * on.width * ask.rows,
        squared=_squared(ask, on.width, known),
        data=column,
    )


def mean_of(
    exact: Sequence[int], add: Add, noise: Noise, *, on: Grid, level: float, known: bool = False
) -> Answer:
    """Return the noisy mean of ``[n, sum d]`` and its interval; rounding to the grid is inside it."""
    n, total = exact
    if known:
        (seen,) = add([total])
        reach = noise.reach(level) / max(n, 1)
        at = seen / n if n else on.width / 2
        low, high = (at - reach, at + reach) if n else (0.0, float(on.width))
    else:
        upper, lower = add([total, n * on.width - total])
        low, high = (on.width * end for end in ratio(upper, lower, noise, level))
        both = max(upper, 0) + max(lower, 0)
        at = on.width * max(upper, 0) / both if both else on.width / 2
    half = 0.5  # of a step: the rounding of values
    return Answer(value=on.value(at), low=on.value(min(low, at) - half), high=on.value(max(high, at) + half))


def variance(
    x: Any,
    *,
    bounds: Any,
    epsilon: float | None = None,
    privacy: Privacy | None = None,
    people: People | None = None,
    ledger: Any = None,
    source: Any = None,
) -> Release:
    """Return the population variance of the values, each clamped to ``bounds``; missing ones are left out.

    Sensitivity: the three sums of (W - d)^2, 2 d (W - d) and d^2 move by W^2 together where a row comes or goes, and by
    at most 2 W^2 where it is exchanged. A person: ``max_rows`` times that.

    >>> round(variance([10.0, 20.0, 30.0], bounds=(0, 100), epsilon=1e9).value, 2)
    66.67
    """
    on = grid(bounds)
    ask = asked("variance", epsilon, privacy, people=people, ledger=ledger, source=source)
    column = Column(x, people)

    def compute(add: Add, noise: Noise) -> Answer:
        exact = sums(column.blocks(), on, squares=True)
        return spread_of(bernstein(exact, on.width, add), noise, on=on, level=ask.privacy.level)[1]

    factor = 2 if ask.replaces else 1
    return ask.release(
        {"bounds": [on.low, on.high]},
        compute,
        sensitivity=factor * on.width**2 * ask.rows,
        squared=_squared(ask, on.width**2, False),
        data=column,
    )


def bernstein(exact: Sequence[int], width: int, add: Add) -> np.ndarray:
    """Return the three noisy sums of ``[n, sum d, sum d^2]`` (3,) float64."""
    n, first, second = exact
    seen = add([n * width**2 - 2 * width * first + second, 2 * (width * first - second), second])
    return np.array([float(one) for one in seen])


def spread_of(seen: np.ndarray, noise: Noise, *, on: Grid, level: float) -> tuple[Answer, Answer]:
    """Return noisy mean and variance of three Bernstein sums (3,), with approximate intervals.

    Where the noise of the count exceeds a tenth of it, nothing is known: the intervals are all that the bounds allow.
    """
    reach = on.width * on.step
    total = float(seen.sum())
    weak = total <= 10 * 2 * noise.spread * np.sqrt(3)
    safe = total if total > 0 else 1.0

    def centre(sums: np.ndarray) -> np.ndarray:
        return np.asarray((sums[..., 1] / 2 + sums[..., 2]) / sums.sum(-1))

    def around(sums: np.ndarray) -> np.ndarray:
        return np.asarray(sums[..., 2] / sums.sum(-1) - centre(sums) ** 2)

    scaled, unit = seen / safe, Noise(noise.kind, noise.scale / safe)
    if total <= 0:
        at, wide = 0.5, 0.0
    else:
        at, wide = min(max(float(centre(scaled)), 0.0), 1.0), min(max(float(around(scaled)), 0.0), 0.25)
    ends = (0.0, 1.0) if weak else linearised(centre, scaled, unit, level)
    spread = (0.0, 0.25) if weak else linearised(around, scaled, unit, level)
    most = (on.high - on.low) ** 2 / 4
    square = reach**2
    rounding = (
        reach * on.step
    )  # a value moves by half a step at most, its square by less than a step times the range
    first = Answer(
        value=on.value(at * on.width),
        low=on.value(ends[0] * on.width - 0.5),
        high=on.value(ends[1] * on.width + 0.5),
        interval="approximate",
    )
    second = Answer(
        value=min(wide * square, most),
        low=min(max(spread[0] * square - rounding, 0.0), most),
        high=min(max(spread[1] * square + rounding, 0.0), most),
        interval="approximate",
    )
    return first, second


def _squared(ask: Ask, width: int, known: bool) -> int:
    """Return the squared L2 sensitivity: parts of one total lie within it; an exchange moves two totals."""
    return (width * ask.rows) ** 2 * (2 if ask.replaces and not known else 1)
