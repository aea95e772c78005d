# SPDX-License-Identifier: Apache-2.0
"""Exact copies of (softmax-)linear models by solving for their numbers (Tramer et al. 2016, section 4.1).

A model whose scores are the softmax of W f(x) + b, f an expansion of the row into numbers, says with each answer the
differences of C logits: log p_c(x) - log p_1(x) is linear in f(x). The queries change one thing at a time away from
one base row, so the equations are solved by subtraction and their condition is that of the longest step each column
allows: the answer to the base gives the bias, each further answer one row of W.

The expansion f has one term for each number of a column (its value), each category but the base's, and a hole where
the column may have one. Queries are rows that could be: inside the bounds, on the integer grid, one member of a
one-hot group at a time, no relation broken. Columns that can take one value only have no term, and no influence that
anyone could see.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from casemate.core.schema import Relation, Schema

MAX_TERMS = 5_000  # one query each, and a matrix of as many rows as columns
_SATURATED = 1e-6  # two classes: 1 - p keeps 16 - 6 digits of the log-odds at least
_STARTS = 32  # rows asked for one where the model is less sure
_ROUNDS = 8  # of shorter steps, each an eighth of the one before


@dataclass(frozen=True)
class Term:
    """One number of f: ``columns`` change from the base row to ``values``; ``kind`` says how f reads a row."""

    kind: str  # "number", "level", "hole" or "member" (of a one-hot group)
    columns: tuple[int, ...]
    values: tuple[float, ...]

    def read(self, x: np.ndarray, base: np.ndarray) -> np.ndarray:
        """Return the term (n,) of rows (n, d): 0 at the base, 1 at its query."""
        if self.kind == "member":
            return np.asarray(x[:, self.columns[self.values.index(1.0)]])
        cell = x[:, self.columns[0]]
        if self.kind == "hole":
            return np.asarray(np.isnan(cell), np.float64)
        if self.kind == "level":
            return np.asarray(cell == self.values[0], np.float64)
        start = base[self.columns[0]]
        return np.where(np.isnan(cell), 0.0, (cell - start) / (self.values[0] - start))


@dataclass(frozen=True)
class Expansion:
    """A base row (d,) and the terms by which rows differ from it."""

    base: np.ndarray
    terms: tuple[Term, ...]

    def read(self, x: np.ndarray) -> np.ndarray:
        """Return f(x) (n, terms) of rows (n, d)."""
        return np.stack([term.read(x, self.base) for term in self.terms], axis=1)

    def queries(self) -> np.ndarray:
        """Return one row a term (terms, d): the base with that one thing changed."""
        rows = np.repeat(self.base[None], len(self.terms), axis=0)
        for row, term in zip(rows, self.terms, strict=True):
            row[list(term.columns)] = term.values
        return rows


@dataclass(frozen=True)
class Linear:
    """The copy: logits ``bias + f(x) weights``, weights (terms, classes), and how many queries it took."""

    expansion: Expansion
    weights: np.ndarray
    bias: np.ndarray
    n_queries: int

    def scores(self, x: Any) -> np.ndarray:
        """Return class probabilities (n, classes)."""
        logits = self.bias + self.expansion.read(flat(x)) @ self.weights
        odds = np.exp(logits - logits.max(1, keepdims=True))
        return np.asarray(odds / odds.sum(1, keepdims=True))


def flat(x: Any) -> np.ndarray:
    """Return rows or images as float64 (n, numbers)."""
    rows = np.asarray(x, np.float64)
    return rows.reshape(len(rows), math.prod(rows.shape[1:]))  # -1 would not do for no rows


@dataclass(frozen=True)
class _Cells:
    """What each number of a row may be: columns of a table, or pixels, which are alike."""

    low: np.ndarray  # (d,)
    high: np.ndarray
    whole: np.ndarray  # bool (d,)
    sizes: np.ndarray  # categories (d,), 0 for numbers
    holes: np.ndarray  # bool (d,)
    groups: tuple[tuple[int, ...], ...]
    place: Mapping[str, int]
    relations: tuple[Relation, ...]

    @staticmethod
    def of(schema: Schema, seen: np.ndarray, *, whole: bool) -> _Cells:
        """Read the schema; where it sets no bound, what was ``seen`` (n, d) does."""
        with np.errstate(invalid="ignore"):
            least, most = (
                np.where(np.isnan(seen), fill, seen).min(0)
                if fill > 0
                else np.where(np.isnan(seen), fill, seen).max(0)
                for fill in (np.inf, -np.inf)
            )
        d = seen.shape[1]
        if schema.input != "table":
            darkest, brightest = schema.bounds or (float(least.min()), float(most.max()))
            ends, none = (np.full(d, darkest), np.full(d, brightest)), np.zeros(d, np.int64)
            return _Cells(*ends, np.full(d, whole), none, np.zeros(d, bool), (), {}, ())
        columns = schema.columns
        low, high = (np.array([getattr(column, end) for column in columns]) for end in ("low", "high"))
        place = {name: i for i, name in enumerate(schema.names)}
        return _Cells(
            np.where(np.isfinite(low), low, least),
            np.where(np.isfinite(high), high, most),
            np.array([column.kind == "integer" for column in columns]),
            np.array([len(column.categories) if column.kind == "category" else 0 for column in columns]),
            np.array([column.missing is not None for column in columns]) | np.isnan(seen).any(0),
            tuple(tuple(place[name] for name in group) for group in schema.groups),
            place,
            schema.relations,
        )

    def broken(self, row: np.ndarray) -> bool:
        """Tell whether a row (d,) breaks a relation."""
        return any(bool(rule.broken(lambda name: row[None, self.place[name]])[0]) for rule in self.relations)


def expansion(
    schema: Schema, seen: np.ndarray, *, base: np.ndarray | None = None, whole: bool = False
) -> Expansion | None:
    """Return the base and terms of a schema, or None where relations leave no row that changes one thing alone.

    Args:
        schema: of the data; seen: rows (n, d) the attacker owns.
        base: row (d,) to start from; default: the commonest value of each column.
        whole: pixels are whole numbers.
    """
    cells = _Cells.of(schema, seen, whole=whole)
    start = _typical(cells, seen) if base is None else base.copy()
    terms = []
    for options in _options(cells, start):
        changed = next((term for term in options if not _breaks(cells, start, term)), None)
        if changed is None:
            return None
        terms.append(changed)
    return Expansion(start, tuple(terms))


def _typical(cells: _Cells, seen: np.ndarray) -> np.ndarray:
    """Return the row (d,) of medians and commonest categories, or a seen one where that breaks a relation."""
    row = np.zeros(seen.shape[1])
    for j, column in enumerate(seen.T):
        known = column[~np.isnan(column)]
        if cells.sizes[j]:
            row[j] = np.bincount(known.astype(np.int64)).argmax() if len(known) else 0
        elif len(known):
            middle = np.median(known)
            row[j] = np.round(middle) if cells.whole[j] else middle
    for group in cells.groups:
        counts = np.nansum(seen[:, group], axis=0)
        row[list(group)] = np.arange(len(group)) == counts.argmax()
    if cells.broken(row):
        kept = [other for other in seen if not np.isnan(other).any() and not cells.broken(other)]
        row = kept[0].copy() if kept else row
    return row


def _options(cells: _Cells, base: np.ndarray) -> Iterator[list[Term]]:
    """Yield, for each unknown, the changes that would show it, the best conditioned first."""
    grouped = {j for group in cells.groups for j in group}
    for j in range(len(base)):
        if j in grouped:
            continue
        if cells.sizes[j]:
            for code in range(cells.sizes[j]):
                if code != base[j]:
                    yield [Term("level", (j,), (float(code),))]
        elif steps := _steps(cells, base, j):
            yield [Term("number", (j,), (value,)) for value in steps]
        if cells.holes[j] and not np.isnan(base[j]):
            yield [Term("hole", (j,), (np.nan,))]
    for group in cells.groups:
        for j in group:
            if base[j] != 1:
                yield [Term("member", group, tuple(float(other == j) for other in group))]


def _steps(cells: _Cells, base: np.ndarray, j: int) -> list[float]:
    """Return values for a number, farthest from the base first: both ends, then nearer and nearer."""
    ends = sorted((cells.low[j], cells.high[j]), key=lambda end: -abs(end - base[j]))
    found = []
    for share in (1.0, 0.5, 0.25, 0.125):
        for end in ends:
            value = base[j] + share * (end - base[j])
            value = float(np.round(value)) if cells.whole[j] else float(value)
            if np.isfinite(value) and value != base[j] and value not in found:
                found.append(value)
    return found


def _breaks(cells: _Cells, base: np.ndarray, term: Term) -> bool:
    row = base.copy()
    row[list(term.columns)] = term.values
    return cells.broken(row)


def solve(
    ask: Callable[[np.ndarray], np.ndarray],
    schema: Schema,
    seen: np.ndarray,
    *,
    budget: float = np.inf,
    whole: bool = False,
) -> Linear | str:
    """Ask one row more than there are unknowns and return the copy, or say why there is none.

    Whether the model *is* linear these answers cannot tell: compare the copy with the model on other rows.

    Args:
        ask: rows (n, d) to scores (n, classes).
        schema, seen, whole: see :func:`expansion`.
        budget: rows that may be asked.

    >>> weights = np.array([2.0, -1.0])
    >>> p = lambda x: 1 / (1 + np.exp(-(x @ weights + 0.5)))
    >>> rows = np.random.default_rng(0).uniform(-1, 1, (20, 2))
    >>> copy = solve(lambda x: np.stack([1 - p(x), p(x)], 1), Schema.infer(rows), rows)
    >>> copy.n_queries, bool(abs(copy.scores(rows)[:, 1] - p(rows)).max() < 1e-12)
    (3, True)
    """
    plan = expansion(schema, seen, whole=whole)
    if plan is None:
        return "relations between columns leave no rows that differ in one thing only"
    if not plan.terms:
        return "no column can take a second value"
    needed = len(plan.terms) + 1
    if needed > min(budget, MAX_TERMS):
        most = f"{budget:.0f} queries are allowed" if needed > budget else f"at most {MAX_TERMS} are tried"
        return f"{needed} queries would be needed and {most}"
    asked = 1
    first = ask(plan.base[None])  # (1, classes)
    if _flat_out(first)[0]:  # where the model is sure its log-odds have no digits left: start where it is not
        candidates = seen[: int(min(len(seen), budget - needed, _STARTS))]
        candidates = candidates[~np.isnan(candidates).any(1)]
        if len(candidates):
            answers = ask(candidates)
            asked += len(candidates)
            best = int(answers.min(1).argmax())
            if (plan := expansion(schema, seen, base=candidates[best], whole=whole)) is None:
                return "relations between columns leave no rows that differ in one thing only"
            first = answers[best : best + 1]
    answers = ask(plan.queries())  # (terms, classes)
    asked += len(plan.terms)
    plan, answers, further = _nearer(ask, plan, answers, budget - asked, schema, seen, whole)
    both = np.concatenate([first, answers])
    never = (both == 0).all(0)  # a class the model never answers
    if (both[:, ~never] == 0).any():
        return "some answers are exactly 0 or 1, which have no log-odds"
    logits = np.log(np.where(never, 1.0, both))
    logits = np.where(never, -1e4, logits - logits[:, ~never].mean(1, keepdims=True))
    return Linear(plan, logits[1:] - logits[0], logits[0], asked + further)


def _flat_out(scores: np.ndarray) -> np.ndarray:
    """Tell which answers (n,) are too sure to keep the digits of their log-odds; softmax keeps those of small ones."""
    return np.asarray(scores.min(1) < _SATURATED if scores.shape[1] == 2 else (scores == 0).any(1))


def _nearer(
    ask: Callable[[np.ndarray], np.ndarray],
    plan: Expansion,
    answers: np.ndarray,
    budget: float,
    schema: Schema,
    seen: np.ndarray,
    whole: bool,
) -> tuple[Expansion, np.ndarray, int]:
    """Ask again with shorter steps where the answer to a number's change was too sure."""
    grid = _Cells.of(schema, seen, whole=whole).whole
    terms, answers, asked = list(plan.terms), answers.copy(), 0
    for _ in range(_ROUNDS):
        again = []
        for i in np.flatnonzero(_flat_out(answers)):
            if terms[i].kind == "number":
                j = terms[i].columns[0]
                value = plan.base[j] + (terms[i].values[0] - plan.base[j]) / 8
                value = (
                    float(np.ceil(value) if value > plan.base[j] else np.floor(value))
                    if grid[j]
                    else float(value)
                )
                if value not in (plan.base[j], terms[i].values[0]):
                    terms[i] = replace(terms[i], values=(value,))
                    again.append(i)
        if not again or asked + len(again) > budget:
            break
        plan = replace(plan, terms=tuple(terms))
        answers[again] = ask(plan.queries()[again])
        asked += len(again)
    return plan, answers, asked
