# SPDX-License-Identifier: Apache-2.0
"""The same statistic of each group: over known keys, or over keys that many enough people share (:mod:`keys`).

**One price for all groups.** A row stands in one group, so a row that comes or goes moves the numbers of that group
alone, by what it moves the statistic of one column. A row that is exchanged may leave one group and enter another: the
moves of both add up, in L1 to twice that of coming or going, squared in L2 to twice its square; a sum inside one group
may turn its sign, which is where it moves most. The ``max_rows`` rows of a person move as many times that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from casemate.core.errors import InvalidData
from casemate.privacy.release import Release
from casemate.privacy.statistics._ask import Add, Answer, Privacy, asked, thresholded
from casemate.privacy.statistics._grid import FINE, Grid, cells, grid, sums
from casemate.privacy.statistics._intervals import Noise
from casemate.privacy.statistics._rows import Column, People, kept, share
from casemate.privacy.statistics._rows import cells as keyed
from casemate.privacy.statistics.keys import frequent, label, named_by
from casemate.privacy.statistics.moments import bernstein, count_of, largest, mean_of, spread_of, sum_of
from casemate.privacy.statistics.ranks import CELLS, LEVELS, ranked
from casemate.privacy.statistics.tables import coded, distinct

NAMED = ("count", "sum", "mean", "variance", "median")


@dataclass(frozen=True)
class Kind:
    """A statistic of one group: the most by which a row moves it (in steps), and how it is answered."""

    on: Grid
    unit: int
    inside: int  # the most by which exchanging a row inside a group moves one number, where that is a sum
    answer: Callable[[list[np.ndarray], Add, Noise], Answer]
    interval: str = "exact"


def group_by(
    x: Any,
    keys: Any,
    *,
    known: Sequence[Any] | None,
    statistic: Literal["count", "sum", "mean", "variance", "median"] | float = "count",
    bounds: Any = None,
    privacy: Privacy,
    people: People | None = None,
    ledger: Any = None,
) -> Release:
    """Return one statistic of the values of each group, clamped to ``bounds``; ``names`` are the groups.

    Beside the named statistics a number from 0 to 1 asks for that quantile, such as ``statistic=0.9``. With ``known``
    keys every one of them is answered, occupied or not, and rows of other keys are left out. With ``known=None`` only
    keys above a threshold are (see :mod:`keys`), and half of epsilon goes into finding them.

    Sensitivity: see the head of this file. An empty group is answered like any other: its mean is noise within the
    bounds, its interval says so. Each interval holds for its own group.

    >>> found = group_by([1.0, 3.0], ["a", "b"], known=["a", "b", "c"], privacy=Privacy(epsilon=50.0))
    >>> found.value
    (1, 1, 0)
    """
    q = _share(statistic)
    asking = statistic if isinstance(statistic, str) else str(q)
    ask = asked(f"group_by {asking}", None, privacy, people=people, ledger=ledger, source=None)
    kind = _kind(statistic, q, bounds, privacy.level)
    if known is None:
        thresholded(ask)
    else:
        known = distinct(known)
    values = np.concatenate([np.empty(0), *Column(x, people).blocks()])
    owners = keyed(keys)
    owners = owners if people is None else owners[kept(people, len(owners))]
    if len(owners) != len(values):
        raise InvalidData(f"there are {len(values)} values that count but {len(owners)} keys")
    m, steps = ask.rows, kind.unit * ask.rows
    shares = 2 if known is None else 1  # of epsilon: keys, and values drawn apart from what found them

    groups = [label(key) for key in owners] if known is None else coded(owners, list(known)).tolist()
    members: dict[Any, list[int]] = {}
    for place in np.flatnonzero(~np.isnan(values)):
        members.setdefault(groups[place], []).append(int(place))

    def compute(add: Add, noise: Noise) -> Answer:
        if known is None:
            sizes = {key: len(rows) for key, rows in members.items() if key is not None}
            chosen: list[Any] = frequent(sizes, kind.unit, add, noise, m, privacy.delta)
            names = [named_by(one) for one in chosen]
        else:
            chosen, names = list(range(len(known))), list(known)
        found = [kind.answer([values[members.get(key, [])]], add, noise) for key in chosen]
        return Answer(
            value=tuple(one.value for one in found),
            low=tuple(one.low for one in found),
            high=tuple(one.high for one in found),
            names=tuple(names),
            interval=kind.interval,
        )

    squared = max(2 * steps**2, (kind.inside * m) ** 2) if ask.replaces else steps**2
    if q is not None:
        squared = LEVELS * m**2 * (2 if ask.replaces else 1)  # one part at each level
    return ask.release(
        {"known": known, "bounds": [kind.on.low, kind.on.high], "q": q},
        compute,
        sensitivity=shares * steps * (2 if ask.replaces else 1),
        squared=shares * squared,
        data=[values, owners],
        extra_delta=privacy.delta if known is None else 0.0,
    )


def _share(statistic: Any) -> float | None:
    """Return which quantile is asked for, None where it is none."""
    if isinstance(statistic, str) and statistic in NAMED:
        return 0.5 if statistic == "median" else None
    if isinstance(statistic, str):
        raise InvalidData(
            f"statistic must be one of {', '.join(NAMED)}, or a number from 0 to 1; got {statistic!r}"
        )
    share("statistic", statistic)
    return float(statistic)


def _kind(statistic: Any, q: float | None, bounds: Any, level: float) -> Kind:
    def counted(rows: list[np.ndarray], add: Add, noise: Noise) -> Answer:
        return count_of(len(np.concatenate([np.empty(0), *rows])), add, noise, level=level)

    def summed(rows: list[np.ndarray], add: Add, noise: Noise) -> Answer:
        return sum_of(sums(rows, on), add, noise, on=on, level=level)

    def averaged(rows: list[np.ndarray], add: Add, noise: Noise) -> Answer:
        return mean_of(sums(rows, on), add, noise, on=on, level=level)

    def spread(rows: list[np.ndarray], add: Add, noise: Noise) -> Answer:
        seen = bernstein(sums(rows, on, squares=True), on.width, add)
        return spread_of(seen, noise, on=on, level=level)[1]

    def placed(rows: list[np.ndarray], add: Add, noise: Noise) -> Answer:
        return ranked(cells(rows, on, CELLS), [q or 0.0], add, noise, on=on, level=level)

    on = grid((0, 1) if statistic == "count" else bounds, bits=FINE if statistic == "sum" else 20)
    if q is not None:
        return Kind(on, LEVELS, 0, placed, "conservative")
    return {
        "count": Kind(on, 1, 0, counted),
        "sum": Kind(on, largest(on, replaces=False), largest(on, replaces=True), summed),
        "mean": Kind(on, on.width, 0, averaged),
        "variance": Kind(on, on.width**2, 0, spread, "approximate"),
    }[statistic]
