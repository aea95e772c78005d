# SPDX-License-Identifier: Apache-2.0
"""Every figure by sensitive group: one table a measurement, made here and nowhere else.

A group is a value of a column that the schema calls sensitive. Numbers with more than ten values, or with
fractions that only a few rows have, are cut at the quartiles of train and holdout together, so that a group is the
same people in every measurement; the outer groups are open, because the smallest and the largest value are
somebody's own. Of many categories the most common stand alone, and the others are one group. A hole is a group too.
What has fewer than ten people is named with its size and without a number; in a report that holds the whole as well,
it is still what the other groups leave over.

The table holds intervals of one group each: among many groups some stand apart by chance. So the group that is
furthest from all others, for its size (a handful of people is far from the others by luck and would hide a large group
that is surely worse off), is given once more, as a difference whose limits hold for all comparisons that could have
been the furthest (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from casemate.core import stats
from casemate.core.data import Dataset
from casemate.core.evidence import digits
from casemate.core.schema import Column
from casemate.core.stats import Interval
from casemate.core.types import Detail, Note, Table, Worse

LEAST = 10  # people; a figure of fewer is a figure of somebody
MOST_VALUES = 10
MOST_CATEGORIES = (
    30  # groups of one column: each costs an interval, and weakens what can be said of all at once
)
LONGEST = 60  # letters of a category's name
COLUMNS = ("group", "n", "value", "low", "high")
Estimate = Callable[[np.ndarray, float], Interval]


@dataclass(frozen=True)
class Slice:
    """The groups of one column: their names, and the group of each row (n,)."""

    labels: tuple[str, ...]
    codes: np.ndarray

    def take(self, index: np.ndarray) -> Slice:
        """Return the rows at ``index`` (positions or mask).

        >>> Slice(("a", "b"), np.array([0, 1, 1])).take(np.array([2])).codes.tolist()
        [1]
        """
        return Slice(self.labels, self.codes[index])


def slices(data: Dataset, x: np.ndarray) -> tuple[Slice, ...]:
    """Sort rows ``x`` (n, d) of this data into the groups of each sensitive column; none for images and text.

    >>> from casemate.core.schema import Schema
    >>> rows = np.array([[0.0, 5.0], [1.0, 6.0]])
    >>> schema = Schema.infer(rows, sensitive=("x0",))
    >>> data = Dataset((rows, np.array([0, 1])), (rows, np.array([0, 1])), schema=schema)
    >>> [(part.labels, part.codes.tolist()) for part in slices(data, rows)]
    [(('x0 = 0', 'x0 = 1'), [0, 1])]
    """
    schema = data.schema
    if schema.input != "table":
        return ()
    place = {name: i for i, name in enumerate(schema.names)}
    found = []
    for name in schema.sensitive:
        at = place[name]
        seen = np.concatenate([data.train.x[:, at], data.holdout.x[:, at]])
        found.append(_sorted(schema.columns[at], seen, x[:, at]))
    return tuple(found)


def _sorted(column: Column, seen: np.ndarray, values: np.ndarray) -> Slice:
    """Group the ``values`` of one column by what occurs among all that were ``seen``."""
    name, filled = column.name, seen[~np.isnan(seen)]
    known, sizes = np.unique(filled, return_counts=True)
    if column.kind == "category":
        alone = len(known) if len(known) <= MOST_CATEGORIES else MOST_CATEGORIES - 1
        common = np.sort(np.argsort(-sizes, kind="stable")[:alone])
        labels = [f"{name} = {_named(column, int(code))}" for code in known[common]]
        # where each category, and what comes after the last of them, stands among the groups
        place = np.append(np.full(len(known), alone), len(labels) + (alone < len(known)))
        place[common] = np.arange(alone)
        codes = place[np.searchsorted(known, values)]
        if alone < len(known):
            labels.append(f"{name}: {len(known) - alone} others")
    else:
        # a broken number of a few (a hole that was filled, say) is somebody's own, and no group
        whole = len(known) < 2 or sizes.min() >= LEAST or not (known % 1).any()
        if len(known) <= MOST_VALUES and whole:
            labels = [f"{name} = {text}" for text in _written(known)]
        else:
            edges = np.unique(np.quantile(filled, [0.25, 0.5, 0.75]))
            edges = edges[edges < known[-1]]  # nobody is above the largest
            edges = edges if len(edges) else known[-2:-1]
            ends = _written(edges)
            middle = [f"{name} above {low} up to {high}" for low, high in pairwise(ends)]
            labels = [f"{name} up to {ends[0]}", *middle, f"{name} above {ends[-1]}"]
            known = np.append(edges, np.inf)  # the upper end of each group, itself included
        codes = np.searchsorted(known, values)  # NaN comes last
    if len(filled) < len(seen):
        labels.append(f"{name} missing")
    return Slice(tuple(labels), codes)


def _named(column: Column, code: int) -> str:
    """Return the name of a category; of a long one the start, and its number to tell it from others that start so."""
    text = str(column.categories[code])
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… (category {code + 1})"


def _written(numbers: np.ndarray) -> list[str]:
    """Write different numbers with six digits, or as many more as tell them apart.

    >>> _written(np.array([0.5, 2.0])), _written(np.array([1234567.0, 1234568.0]))
    (['0.5', '2'], ['1234567', '1234568'])
    """
    texts = ([f"{value:.{digits}g}" for value in numbers] for digits in range(6, 18))
    return next(found for found in texts if len(set(found)) == len(found))  # 17 digits tell all numbers apart


def details(
    quantity: str,
    parts: Sequence[Slice],
    values: np.ndarray,
    *,
    method: str,
    worse: Worse,
    person: np.ndarray | None = None,
    level: float = 0.95,
    estimate: Estimate | None = None,
) -> list[Detail]:
    """Tabulate a figure by group and compare the furthest group with all others; nothing without groups.

    Args:
        quantity: what the figure is called, and by which ``method`` it was made.
        parts: the groups of the rows behind ``values``.
        values: one number a row (n,) whose mean is the figure.
        worse: in which direction the figure is bad.
        person: whose row it is (n,).
        level: of the intervals.
        estimate: makes the interval of the rows under a mask at a level, as the figure's own is made; by default the
            share of what is true (booleans) or the mean, by person.
    """
    if not parts:
        return []
    find = estimate or _default(values, person)
    rows: list[tuple[str | float | int | None, ...]] = []
    masks: list[tuple[str, np.ndarray, float]] = []
    n_compared = 0
    for part in parts:
        sizes = [_people(part.codes == code, person) for code in range(len(part.labels))]
        kept = []
        for code, (label, size) in enumerate(zip(part.labels, sizes, strict=True)):
            mask = part.codes == code
            if size < LEAST:
                rows.append((label, size, f"not resolvable at n={size}", None, None))
                continue
            found = find(mask, level)
            rows.append((label, size, digits(found.value), digits(found.low), digits(found.high)))
            others = _people(~mask, person)
            if others >= LEAST:
                weight = (1 / size + 1 / others) ** -0.5  # of a gap, in units of one person's spread
                kept.append((label, mask, weight))
        # one against the other is one comparison, whoever is named
        n_compared += len(kept) - (len(kept) == 2 == sum(size > 0 for size in sizes))
        masks += kept
    table = Table(name=f"{quantity} by group", columns=COLUMNS, rows=tuple(rows))
    if not masks:
        return [table]
    sign = 1 if worse == "higher" else -1
    behind = [sign * weight * (values[mask].mean() - values[~mask].mean()) for _, mask, weight in masks]
    worst = int(np.argmax(behind))
    if behind[worst] <= 0:  # all are the same
        return [table]
    label, mask, _ = masks[worst]
    wide = 1 - (1 - level) / n_compared
    first, rest = find(mask, wide), find(~mask, wide)
    return [table, Note(text=_furthest(f"{method} {quantity}", label, first, rest, n_compared, level))]


def _default(values: np.ndarray, person: np.ndarray | None) -> Estimate:
    kind = stats.proportion if values.dtype == bool else stats.mean

    def find(mask: np.ndarray, level: float) -> Interval:
        return kind(values[mask], clusters=None if person is None else person[mask], level=level)

    return find


def _people(mask: np.ndarray, person: np.ndarray | None) -> int:
    return int(mask.sum()) if person is None else len(np.unique(person[mask]))


def _furthest(figure: str, label: str, first: Interval, rest: Interval, n_compared: int, level: float) -> str:
    gap = stats.difference(first, rest)
    value, low, high = (digits(number) for number in (gap.value, gap.low, gap.high))
    text = (
        f"{figure} by group: furthest from all others, for its size, is {label}, {digits(first.value)} against "
        f"{digits(rest.value)}, a difference of {value} [{low}, {high}]. "
    )
    if gap.low <= 0 <= gap.high:
        text += "It was not shown to be worse off at this power. "
    held = f"all {n_compared} comparisons at once" if n_compared > 1 else "this one comparison"
    return text + (
        f"These limits hold for {held} ({100 * level:g} %); the table's are of one group each, and among "
        "many groups some stand apart by chance."
    )
