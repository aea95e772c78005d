# SPDX-License-Identifier: Apache-2.0
"""What a statistic will be worth before anything is spent: the width of its interval, and the rows that it needs."""

from __future__ import annotations

from typing import Any

from casemate.core.errors import InvalidData
from casemate.privacy.statistics._ask import Privacy, asked, positive
from casemate.privacy.statistics._grid import FINE, grid
from casemate.privacy.statistics._rows import People, positive_whole
from casemate.privacy.statistics.moments import largest
from casemate.privacy.statistics.ranks import LEVELS, rank_error

STATISTICS = ("count", "sum", "mean", "variance", "histogram", "quantile")
MOST_ROWS = 10**12


def expected_error(
    statistic: str,
    *,
    n: int,
    bounds: Any = None,
    epsilon: float | None = None,
    privacy: Privacy | None = None,
    people: People | None = None,
) -> float:
    """Return how far the noise takes a statistic of ``n`` rows at most, with the probability ``level`` (95 %).

    For "mean" and "variance" at the least favourable place of the data within the bounds; for "quantile" in shares of
    the rows (0.01: the answer is a value between the 49 % and the 51 % quantile), and above what is usually seen. Data
    are not looked at: this costs nothing.

    >>> expected_error("count", n=1000, epsilon=0.5)
    6.0
    """
    ask = asked(statistic, epsilon, privacy, people=people, ledger=None, source=None)
    n = positive_whole("n", n)
    factor, level, m = 2 if ask.replaces else 1, ask.privacy.level, ask.rows
    if statistic == "count":
        return float(ask.privacy.noise(m).reach(level))
    if statistic == "histogram":
        return float(ask.privacy.noise(factor * m, factor * m**2).reach(level))
    if statistic == "quantile":
        noise = ask.privacy.noise(LEVELS * factor * m, LEVELS * factor * m**2)
        return min(rank_error(noise, 1 - level) / n, 1.0)
    if statistic not in STATISTICS:
        raise InvalidData(f"an error is known beforehand for {', '.join(STATISTICS)}; got {statistic!r}")
    if statistic == "sum":
        on = grid(bounds, bits=FINE)
        return ask.privacy.noise(largest(on, replaces=ask.replaces) * m).reach(level) * on.step
    on = grid(bounds)
    reach = on.high - on.low
    if statistic == "mean":
        noise = ask.privacy.noise(factor * on.width * m, factor * (on.width * m) ** 2)
        return min(noise.reach(level) * on.step / n, reach)
    noise = ask.privacy.noise(factor * on.width**2 * m, factor * (on.width**2 * m) ** 2)
    return min(noise.reach(level) * on.step**2 / n, reach**2 / 4)


def n_needed(
    statistic: str,
    *,
    error: float,
    bounds: Any = None,
    epsilon: float | None = None,
    privacy: Privacy | None = None,
    people: People | None = None,
) -> int:
    """Return the least number of rows for which :func:`expected_error` is at most ``error``.

    >>> n_needed("mean", error=1.0, bounds=(0, 120), epsilon=0.5)
    719
    """
    positive("error", error)

    def enough(n: int) -> bool:
        return (
            expected_error(statistic, n=n, bounds=bounds, epsilon=epsilon, privacy=privacy, people=people)
            <= error
        )

    if not enough(MOST_ROWS):
        raise InvalidData(
            f"no number of rows brings the error of {statistic} down to {error:g}; raise epsilon"
        )
    low, high = 0, MOST_ROWS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
