# SPDX-License-Identifier: Apache-2.0
"""Counts in public cells: histogram, contingency table, the most frequent category, and bounds that are bought."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from casemate.core.errors import InvalidData
from casemate.privacy import mechanisms
from casemate.privacy.release import Release
from casemate.privacy.statistics._ask import Add, Answer, Ask, Privacy, asked
from casemate.privacy.statistics._bins import binned
from casemate.privacy.statistics._grid import FAR
from casemate.privacy.statistics._intervals import Noise
from casemate.privacy.statistics._rows import Column, People, cells, kept, texts

SMALLEST, LARGEST = -20, 40  # powers of two that bounds looks at
NO_KEYS = "categories are texts, numbers or other single values; the column has cells such as lists"
MISS = 0.01  # chance that bounds takes an empty cell for an occupied one


def histogram(
    x: Any,
    *,
    edges: Sequence[float],
    epsilon: float | None = None,
    privacy: Privacy | None = None,
    people: People | None = None,
    ledger: Any = None,
    source: Any = None,
) -> Release:
    """Return how many values stand in each bin between public ``edges``; values outside count in the first or last bin.

    Sensitivity: a row counts in one bin: 1 in L1, 2 where it is exchanged; ``max_rows`` times that for a person. The
    intervals hold bin by bin. ``names`` are the bins' lower edges.

    >>> histogram([5.0, 15.0, 16.0], edges=[0, 10, 20], epsilon=50.0).value
    (1, 2)
    """
    ends = _edges(edges)
    ask = asked("histogram", epsilon, privacy, people=people, ledger=ledger, source=source)
    column = Column(x, people)

    def compute(add: Add, noise: Noise) -> Answer:
        return _cells(ask, binned(column.blocks(), ends), add, noise, tuple(float(end) for end in ends[:-1]))

    return _counted(ask, {"edges": [float(end) for end in ends]}, compute, column)


def contingency_table(
    frame: Any,
    *,
    categories: Mapping[str, Sequence[Any]],
    epsilon: float | None = None,
    privacy: Privacy | None = None,
    people: People | None = None,
    ledger: Any = None,
    source: Any = None,
) -> Release:
    """Return how many rows show each combination of the public ``categories`` of one or several columns.

    A row with another value, or a missing one, is counted nowhere. Sensitivity: as :func:`histogram`. ``names`` are
    the combinations, the last column fastest.

    >>> found = contingency_table(
    ...     {"smokes": ["yes", "no", "no"]}, categories={"smokes": ["no", "yes"]}, epsilon=50.0
    ... )
    >>> dict(zip(found.names, found.value))
    {('no',): 2, ('yes',): 1}
    """
    named("categories", categories)
    known = {str(name): distinct(values) for name, values in categories.items()}
    ask = asked("contingency_table", epsilon, privacy, people=people, ledger=ledger, source=source)
    table = texts(frame, list(known), people)
    names = tuple(product(*known.values()))
    codes = {name: coded(table[name], values) for name, values in known.items()}

    def compute(add: Add, noise: Noise) -> Answer:
        place = np.zeros(len(next(iter(table.values()))), np.int64)
        inside = np.ones(len(place), bool)
        for name, values in known.items():
            inside &= codes[name] >= 0
            place = place * len(values) + codes[name]
        return _cells(ask, np.bincount(place[inside], minlength=len(names)), add, noise, names)

    # pairs, for their order is the order of the answer
    return _counted(ask, {"categories": list(known.items())}, compute, table)


def mode(
    x: Any,
    *,
    categories: Sequence[Any],
    epsilon: float | None = None,
    privacy: Privacy | None = None,
    people: People | None = None,
    ledger: Any = None,
    source: Any = None,
) -> Release:
    """Return the most frequent of the public ``categories``, by the exponential mechanism; there is no interval.

    Sensitivity: a row moves one count by 1 (and all counts the same way where it comes or goes); ``max_rows`` times
    that for a person.

    >>> mode(["a", "b", "b"], categories=["a", "b"], epsilon=100.0).value
    'b'
    """
    values = distinct(categories)
    ask = asked("mode", epsilon, privacy, people=people, ledger=ledger, source=source)
    if ask.privacy.mechanism != "laplace":
        raise InvalidData("mode chooses by the exponential mechanism; leave out mechanism='gaussian'")
    column = cells(x)
    column = column if people is None else column[kept(people, len(column))]
    code = coded(column, values)

    def compute(_add: Add, _noise: Noise) -> Answer:
        chosen = mechanisms.exponential(
            np.bincount(code[code >= 0], minlength=len(values)),
            sensitivity=ask.rows,
            epsilon=ask.privacy.epsilon,
            monotonic=not ask.replaces,
            source=ask.source,
        )
        return Answer(
            value=values[chosen], names=tuple(values), interval="none", mechanism="exponential mechanism"
        )

    return ask.release({"categories": values}, compute, sensitivity=ask.rows, data=column)


def bounds(
    x: Any,
    *,
    epsilon: float | None = None,
    privacy: Privacy | None = None,
    people: People | None = None,
    ledger: Any = None,
    source: Any = None,
) -> Release:
    """Return (low, high), powers of two between which nearly all values seem to lie: bounds that were paid for.

    A histogram of the public cells ±[2^k, 2^(k+1)), k from -20 to 39, and one around 0, is noised; the outermost cells
    above a threshold count. With probability 99 % no empty cell is above it; values in cells that stay below it are
    clamped later. Sensitivity: as :func:`histogram`.

    Raises:
        InvalidData: no cell is above the threshold: too few rows for this epsilon. The budget is spent.

    >>> bounds([20.0] * 500 + [70.0] * 500, epsilon=1.0).value
    (16.0, 128.0)
    """
    ask = asked("bounds", epsilon, privacy, people=people, ledger=ledger, source=source)
    column = Column(x, people)
    powers = [math.ldexp(1.0, k) for k in range(SMALLEST, LARGEST + 1)]
    ends = np.array([-power for power in reversed(powers)] + powers)

    def compute(add: Add, noise: Noise) -> Answer:
        seen = add([int(one) for one in binned(column.blocks(), ends)])
        above = noise.beyond(2 * MISS / len(seen))
        found = [place for place, one in enumerate(seen) if one > above]
        pair = (float(ends[found[0]]), float(ends[found[-1] + 1])) if found else ()
        return Answer(value=pair, interval="none")

    release = _counted(ask, {}, compute, column)
    if not release.value:
        raise InvalidData("no range stands out from the noise: too few rows for this epsilon, which is spent")
    return release


def _counted(ask: Ask, words: dict[str, Any], compute: Any, data: Any) -> Release:
    """Release counts where a row stands in one cell: L1 m or 2 m, squared L2 m^2 or 2 m^2."""
    factor = 2 if ask.replaces else 1
    return ask.release(words, compute, sensitivity=factor * ask.rows, squared=factor * ask.rows**2, data=data)


def _cells(ask: Ask, exact: np.ndarray, add: Add, noise: Noise, names: tuple[Any, ...]) -> Answer:
    seen = add([int(one) for one in exact])
    reach = noise.reach(ask.privacy.level)
    return Answer(
        value=tuple(max(one, 0) for one in seen),
        low=tuple(max(one - reach, 0) for one in seen),
        high=tuple(max(one + reach, 0) for one in seen),
        names=names,
    )


def _edges(edges: Any) -> np.ndarray:
    try:
        ends = np.asarray(edges, np.float64) if edges is not None else np.empty(0)
    except (TypeError, ValueError, OverflowError):
        ends = np.empty(0)
    if ends.ndim != 1 or len(ends) < 2 or not (np.abs(ends) <= FAR).all() or not (np.diff(ends) > 0).all():
        raise InvalidData(
            f"edges must be public, finite and rising, at least two; got {edges!r}. "
            "Edges read off the data must be bought with statistics.bounds(...)"
        )
    return ends


def named(what: str, given: Any) -> None:
    """Refuse anything but something for each column by name."""
    if not isinstance(given, Mapping) or not given:
        raise InvalidData(f"{what} must be given by column, as {{name: ...}}; got {given!r}")


def distinct(values: Any) -> list[Any]:
    """Return public categories as a list, if they are distinct and at least one."""
    values = values.tolist() if isinstance(values, np.ndarray) else values
    known = list(values) if not isinstance(values, str) and isinstance(values, Iterable) else []
    known = [one.item() if isinstance(one, np.generic) else one for one in known]
    try:
        alike = len(set(known)) != len(known)
    except TypeError:
        raise InvalidData(f"categories are texts, numbers or other single values; got {values!r}") from None
    if not known or alike:
        raise InvalidData(f"categories must be public and distinct, at least one; got {values!r}")
    return known


def coded(column: np.ndarray, values: list[Any]) -> np.ndarray:
    """Return the place of each cell among ``values`` (n,), -1 for others."""
    place = {value: code for code, value in enumerate(values)}
    try:
        return np.fromiter((place.get(cell, -1) for cell in column), np.int64, len(column))
    except TypeError:
        raise InvalidData(NO_KEYS) from None
