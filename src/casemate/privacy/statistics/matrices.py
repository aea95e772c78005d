# SPDX-License-Identifier: Apache-2.0
"""Several columns at once: covariance, and the means and spreads that preprocessing needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np

from casemate.privacy.release import Release
from casemate.privacy.statistics._ask import Add, Answer, Privacy, asked
from casemate.privacy.statistics._grid import BLOCK, Grid, grid, sums
from casemate.privacy.statistics._intervals import Noise, linearised
from casemate.privacy.statistics._rows import People, numbers
from casemate.privacy.statistics.moments import bernstein, spread_of
from casemate.privacy.statistics.tables import named


def standardisation(
    frame: Any,
    *,
    bounds: Mapping[str, Any],
    epsilon: float | None = None,
    privacy: Privacy | None = None,
    people: People | None = None,
    ledger: Any = None,
    source: Any = None,
) -> Release:
    """Return mean and standard deviation of each column, ((mean, sd), ...) in the order of ``names``, to scale with.

    Sensitivity: each of the p columns has steps of its own, counted to the widest W of all; the three sums of
    a column move by W^2 together (see :mod:`moments`), all columns by p W^2, exchanged rows by twice that.

    >>> found = standardisation({"age": [20.0, 40.0]}, bounds={"age": (0, 120)}, epsilon=1e9)
    >>> [round(one) for one in found.value[0]]
    [30, 10]
    """
    names, grids, same = _grids(bounds)
    ask = asked("standardisation", epsilon, privacy, people=people, ledger=ledger, source=source)
    table = numbers(frame, names, people)

    def compute(add: Add, noise: Noise) -> Answer:
        both = []
        for name, on in zip(names, grids, strict=True):
            seen = bernstein(sums([table[name]], on, squares=True), same, add)
            both.append(spread_of(seen, noise, on=_as_wide(on, same), level=ask.privacy.level))
        return Answer(
            value=tuple((m.value, math.sqrt(v.value)) for m, v in both),
            low=tuple((m.low, math.sqrt(v.low)) for m, v in both),
            high=tuple((m.high, math.sqrt(v.high)) for m, v in both),
            names=tuple(names),
            interval="approximate",
        )

    most = len(names) * same**2 * ask.rows
    return ask.release(
        {"bounds": [[name, on.low, on.high] for name, on in zip(names, grids, strict=True)]},
        compute,
        sensitivity=most * (2 if ask.replaces else 1),
        squared=len(names) * (same**2 * ask.rows) ** 2 * (2 if ask.replaces else 1),
        data=table,
    )


def covariance(
    frame: Any,
    *,
    bounds: Mapping[str, Any],
    epsilon: float | None = None,
    privacy: Privacy | None = None,
    people: People | None = None,
    ledger: Any = None,
    source: Any = None,
) -> Release:
    """Return the population covariance matrix ((p numbers), ...) of the columns, over rows where none is missing.

    Sensitivity: with u = 2 d - W in [-W, W] a pair's product moves by at most W^2; a column's three sums by W^2
    together. p columns and p (p - 1) / 2 pairs: p (p + 1) / 2 times W^2, exchanged rows twice that. The noise need not
    leave the matrix positive: project it where that matters.

    >>> frame = {"a": [0.0, 10.0], "b": [0.0, 10.0]}
    >>> found = covariance(frame, bounds={"a": (0, 10), "b": (0, 10)}, epsilon=1e9)
    >>> round(found.value[0][1], 3)
    25.0
    """
    names, grids, same = _grids(bounds)
    ask = asked("covariance", epsilon, privacy, people=people, ledger=ledger, source=source)
    table = numbers(frame, names, people)
    whole = np.logical_and.reduce([~np.isnan(table[name]) for name in names])
    rows = [table[name][whole] for name in names]
    pairs = list(combinations(range(len(names)), 2))

    def compute(add: Add, noise: Noise) -> Answer:
        seen = [
            bernstein(sums([part], on, squares=True), same, add) for part, on in zip(rows, grids, strict=True)
        ]
        crossed = (
            add([_products(rows[i], rows[j], (grids[i], grids[j]), same) for i, j in pairs]) if pairs else []
        )
        matrix, low, high = (np.zeros((len(names), len(names))) for _ in range(3))
        for i, one in enumerate(seen):
            found = spread_of(one, noise, on=_as_wide(grids[i], same), level=ask.privacy.level)[1]
            matrix[i, i], low[i, i], high[i, i] = found.value, found.low, found.high
        for (i, j), product in zip(pairs, crossed, strict=True):
            scale = grids[i].step * grids[j].step * same**2
            parts = np.concatenate([seen[i], seen[j], [float(product)]])
            value, bottom, top = _pair(parts, noise, ask.privacy.level)
            rounding = scale / same
            matrix[i, j] = matrix[j, i] = value * scale
            low[i, j] = low[j, i] = bottom * scale - rounding
            high[i, j] = high[j, i] = top * scale + rounding
        return Answer(
            value=_rows(matrix), low=_rows(low), high=_rows(high), names=tuple(names), interval="approximate"
        )

    parts = len(names) + len(pairs)
    return ask.release(
        {"bounds": [[name, on.low, on.high] for name, on in zip(names, grids, strict=True)]},
        compute,
        sensitivity=parts * same**2 * ask.rows * (2 if ask.replaces else 1),
        # a column's parts at right angles where exchanged; a product may turn its sign
        squared=(same**2 * ask.rows) ** 2 * (2 * len(names) + 4 * len(pairs) if ask.replaces else parts),
        data=table,
    )


def _pair(parts: np.ndarray, noise: Noise, level: float) -> tuple[float, float, float]:
    """Return covariance and interval of two columns in units of their ranges, from (7,) noisy sums."""
    total = max(float(parts[:6].sum()) / 2, 1.0)
    scaled, unit = parts / total, Noise(noise.kind, noise.scale / total)

    def of(sums: np.ndarray) -> np.ndarray:
        one, two = sums[..., 0:3], sums[..., 3:6]
        n = (one.sum(-1) + two.sum(-1)) / 2
        u = (one[..., 2] - one[..., 0]) / one.sum(-1)
        v = (two[..., 2] - two[..., 0]) / two.sum(-1)
        return np.asarray((sums[..., 6] / n - u * v) / 4)

    if total <= 10 * 2 * noise.spread * math.sqrt(3):
        return 0.0, -0.25, 0.25
    low, high = linearised(of, scaled, unit, level)
    return float(np.clip(of(scaled), -0.25, 0.25)), max(low, -0.25), min(high, 0.25)


def _products(first: np.ndarray, second: np.ndarray, on: tuple[Grid, Grid], width: int) -> int:
    """Return the exact sum of (2 d - W)(2 e - W) at the common width."""
    ones, twos = np.empty(BLOCK), np.empty(BLOCK)
    middle = width // 2
    crossed = left = right = 0  # of steps about the middle, as in _grid.sums
    for start in range(0, len(first), BLOCK):
        d = on[0].put(first[start : start + BLOCK], ones, centre=middle)
        e = on[1].put(second[start : start + BLOCK], twos, centre=middle)
        crossed, left, right = crossed + int(np.dot(d, e)), left + int(d.sum()), right + int(e.sum())
    odd = 2 * middle - width  # 0 or -1: 2 d - W = 2 (d - middle) + odd
    return 4 * crossed + 2 * odd * (left + right) + len(first) * odd**2


def _grids(bounds: Any) -> tuple[list[str], list[Grid], int]:
    named("bounds", bounds)
    grids = [grid(pair) for pair in bounds.values()]
    return [str(name) for name in bounds], grids, max(on.width for on in grids)


def _as_wide(on: Grid, width: int) -> Grid:
    """Return the grid with the common width; places beyond its own are clamped to the bounds."""
    return Grid(on.low, on.high, on.step, on.anchor, width)


def _rows(matrix: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(cell) for cell in row) for row in matrix)
