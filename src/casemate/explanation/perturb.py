# SPDX-License-Identifier: Apache-2.0
"""Perturbed rows for explainers: what the training rows are like, feature by feature, and a design drawn from it.

A *feature* is a column, or the columns that are one-hot together. It has *cells*: quarters of a numeric column,
the categories of a coded one, the patterns of a group, and "missing" where there are holes. A draw picks a cell by
its frequency in the training rows and a value inside it, and does not depend on the row explained: one design, and
one stream of predictions, serves all rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from casemate.core.data import Split
from casemate.core.schema import Column, Schema
from casemate.core.types import SCORES, Target
from casemate.core.wording import together

MAX_CELLS = 2**22  # one predict call, or one block of matrices
TILE = 256


@dataclass(frozen=True)
class Quarters:
    """A numeric column cut at its quartiles (ties make fewer cells), and what its values are like in each."""

    column: Column
    edges: np.ndarray  # (cells - 1,)
    share: np.ndarray  # (cells + 1,) the last is "missing"
    low: np.ndarray  # (cells,)
    high: np.ndarray  # (cells,)
    mean: np.ndarray  # (cells,)
    spread: np.ndarray  # (cells,)
    whole: bool

    @staticmethod
    def of(values: np.ndarray, column: Column, *, rounded: bool) -> Quarters:
        known = values[~np.isnan(values)]
        edges = np.unique(np.percentile(known, (25, 50, 75))) if len(known) else np.zeros(0)
        n_cells = len(edges) + 1
        cell = np.searchsorted(edges, known)  # (known,) an edge belongs to the cell below it
        count = np.bincount(cell, minlength=n_cells).astype(np.float64)
        filled = np.maximum(count, 1)
        unit = np.exp2(
            np.frexp(np.abs(known).max(initial=0.0))[1]
        )  # squares of large values do not fit a float
        mean = np.bincount(cell, known / unit, n_cells) / filled
        spread = np.sqrt(np.bincount(cell, np.square(known / unit - mean[cell]), n_cells) / filled)
        mean, spread = mean * unit, spread * unit
        ends = (known.min(), known.max()) if len(known) else (0.0, 0.0)
        low, high = np.array([ends[0], *edges]), np.array([*edges, ends[1]])
        whole = rounded and column.kind == "integer"
        if whole:  # the whole numbers above one edge and up to the next
            low, high = np.array([ends[0], *np.floor(edges) + 1]), np.array([*np.floor(edges), ends[1]])
        share = np.append(count, len(values) - len(known)) / len(values)
        return Quarters(column, edges, share, low, np.maximum(low, high), mean, spread, whole)

    def cell_of(self, x: np.ndarray) -> np.ndarray:
        """Return the cell of each value (n, 1) as (n,)."""
        values = x[:, 0]
        return np.where(np.isnan(values), len(self.low), np.searchsorted(self.edges, values))

    def fill(self, cell: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Return values (n, 1): a normal with the cell's mean and spread, cut to the cell, at its quantile ``u``."""
        from scipy.special import ndtr, ndtri

        missing = cell == len(self.low)
        at = np.where(missing, 0, cell)
        low, high, mean = self.low[at], self.high[at], self.mean[at]
        spread = np.maximum(self.spread[at], 1e-11)  # lime adds as much: a cell of one value gives that value
        margin = 0.5 if self.whole else 0.0  # so that the outer whole numbers get their full share
        first, last = ndtr((low - margin - mean) / spread), ndtr((high + margin - mean) / spread)
        x = mean + spread * ndtri(first + u * (last - first))
        x = np.clip(np.round(x) if self.whole else x, low, high)
        return np.where(missing, np.nan, x)[:, None]

    def words(self) -> tuple[str, ...]:
        """Return the rule of each cell in words, "missing" last."""
        name, unit = self.column.name, f" {self.column.unit}" if self.column.unit else ""
        cut = np.floor(self.edges) if self.column.kind == "integer" else self.edges
        at = [f"{plain(edge)}{unit}" for edge in cut.tolist()]
        if not at:
            return f"{name} is known", f"{name} is missing"
        middle = [f"{one} < {name} <= {two}" for one, two in itertools.pairwise(at)]
        return f"{name} <= {at[0]}", *middle, f"{name} > {at[-1]}", f"{name} is missing"


@dataclass(frozen=True)
class Levels:
    """A coded column, or columns that are one-hot together: the patterns seen in the training rows."""

    columns: tuple[Column, ...]
    patterns: np.ndarray  # (cells, columns)
    share: np.ndarray  # (cells + 1,) the last is "none of these"

    @staticmethod
    def of(values: np.ndarray, columns: tuple[Column, ...]) -> Levels:
        # minus infinity stands for a hole: NaN is not equal to itself
        patterns, count = np.unique(np.where(np.isnan(values), -np.inf, values), axis=0, return_counts=True)
        return Levels(columns, patterns, np.append(count, 0.0) / len(values))

    def cell_of(self, x: np.ndarray) -> np.ndarray:
        """Return the cell of each row (n, columns) as (n,)."""
        known = {tuple(pattern): cell for cell, pattern in enumerate(self.patterns.tolist())}
        rows = np.where(np.isnan(x), -np.inf, x).tolist()
        return np.array([known.get(tuple(row), len(self.patterns)) for row in rows], np.int64)

    def fill(self, cell: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Return values (n, columns)."""
        found = self.patterns[cell]
        return np.where(np.isneginf(found), np.nan, found)

    def words(self) -> tuple[str, ...]:
        """Return the rule of each cell in words, "none of these" last."""
        every = [
            " and ".join(self._cell(column, code) for column, code in zip(self.columns, pattern, strict=True))
            if len(self.columns) == 1 or (hot := np.flatnonzero(pattern == 1)).size != 1
            else self.columns[hot[0]].name
            for pattern in self.patterns
        ]
        return *every, f"{together(tuple(c.name for c in self.columns))} as in no training row"

    @staticmethod
    def _cell(column: Column, code: float) -> str:
        if np.isneginf(code):
            return f"{column.name} is missing"
        named = column.categories[int(code)] if column.categories else plain(float(code))
        return f"{column.name} = {named}"


@dataclass(frozen=True)
class Design:
    """The features of a table and how each is drawn. ``places`` are the columns of each feature."""

    names: tuple[str, ...]
    places: tuple[tuple[int, ...], ...]
    parts: tuple[Quarters | Levels, ...]
    n_columns: int

    @staticmethod
    def of(x: np.ndarray, schema: Schema, *, grouped: bool = True, rounded: bool = True) -> Design:
        """Learn the cells from training rows ``x`` (n, d).

        Args:
            grouped: one-hot columns are one feature; rounded: whole numbers stay whole.
        """
        place = {name: i for i, name in enumerate(schema.names)}
        member_of = {name: group for group in schema.groups for name in group} if grouped else {}
        groups = tuple(dict.fromkeys(member_of.get(name, (name,)) for name in schema.names))
        places = tuple(tuple(place[name] for name in group) for group in groups)
        parts: list[Quarters | Levels] = []
        for at in places:
            columns = tuple(schema.columns[i] for i in at)
            coded = len(at) > 1 or columns[0].kind == "category"
            parts.append(
                Levels.of(x[:, at], columns)
                if coded
                else Quarters.of(x[:, at[0]], columns[0], rounded=rounded)
            )
        return Design(tuple(map(together, groups)), places, tuple(parts), x.shape[1])

    def cells(self, x: np.ndarray) -> np.ndarray:
        """Return the cell of each row in each feature (n, features)."""
        return np.stack(
            [part.cell_of(x[:, at]) for part, at in zip(self.parts, self.places, strict=True)], axis=1
        )

    def draw(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Turn uniforms (n, features) into cells (n, features) and rows (n, d)."""
        cells, x = np.empty(u.shape, np.int64), np.empty((len(u), self.n_columns))
        for j, (part, at) in enumerate(zip(self.parts, self.places, strict=True)):
            ends = np.cumsum(part.share)
            last = np.flatnonzero(part.share)[-1]  # rounding may leave u above the last end
            cell = np.minimum(np.searchsorted(ends, u[:, j], side="right"), last)
            # what is left of u inside the cell is uniform again
            inner = (u[:, j] - ends[cell] + part.share[cell]) / part.share[cell]
            cells[:, j] = cell
            x[:, at] = part.fill(cell, np.clip(inner, 0.0, 1.0))
        return cells, x


def uniforms(n: int, k: int, rng: np.random.Generator, *, sobol: bool) -> np.ndarray:
    """Return points (n, k) of the unit cube: independent, or a scrambled Sobol sequence (n a power of two)."""
    if not sobol:
        return rng.random((n, k))
    from scipy.stats import qmc

    points: np.ndarray = qmc.Sobol(k, scramble=True, seed=rng).random(n)
    return points


def predictions(target: Target) -> tuple[Callable[[np.ndarray], np.ndarray], tuple[str, ...]]:
    """Return what is explained as a function to (n, outputs), and the names of the outputs.

    Scores where the target gives them, else shares of labels; of two classes the second; a regression's value.
    """

    def asked(x: np.ndarray) -> np.ndarray:
        if target.task == "regression":
            return np.asarray(target.labels(x), np.float64)[:, None]
        if target.has(SCORES):
            scores = np.asarray(target.scores(x), np.float64)
        else:
            scores = np.eye(len(target.classes))[target.labels(x)]
        return scores[:, 1:] if target.task == "binary" else scores

    def in_calls(x: np.ndarray) -> np.ndarray:
        size = max(1, MAX_CELLS // max(1, x.shape[1]))
        return np.concatenate([asked(x[first : first + size]) for first in range(0, len(x), size)])

    if target.task == "regression":
        return in_calls, ("value",)
    names = tuple(map(str, target.classes))
    return in_calls, names[1:] if target.task == "binary" else names


def in_tiles(f: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    """Return ``f(x)`` asked in whole tiles: a matrix product may round a row alone and among others differently."""
    n = len(x)
    return f(x[np.minimum(np.arange(-(-n // TILE) * TILE), n - 1)])[:n]


def drawn_rows(split: Split, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw places of at most ``n`` rows by their content: the order they came in does not matter."""
    order = np.lexsort((split.y, *split.x.T))
    return order[np.sort(rng.permutation(len(order))[:n])]


def plain(value: float) -> str:
    """Write a number for a rule.

    >>> plain(2100.0), plain(0.12345), plain(1234567.8)
    ('2,100', '0.1235', '1,234,568')
    """
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e12 else f"{value:.4g}"
