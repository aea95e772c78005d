# SPDX-License-Identifier: Apache-2.0
"""Evolution of feasible rows towards another class: what ``tabular_attack`` does after (or without) gradients.

All rows of a block are searched together: their candidates are repaired, judged in one call and selected, row by
row. The essay of ``methods/tabular_attack.py`` says by which rules.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from casemate.core.run import Run
from casemate.core.types import Target, Threat
from casemate.robustness.geometry import sample_ids, uniforms
from casemate.robustness.repair import Repair

MAX_CELLS = 2**21  # of the candidates of one generation; more rows are attacked block by block
MAX_POOL = 512  # donors looked at
MAX_EXTREMES = 256  # single edits tried at the start
N_DONORS = 8
FLOOR = 1e-30  # of a score, before its logarithm


@dataclass(frozen=True)
class Settings:
    """What all blocks share."""

    target: Target
    threat: Threat
    run: Run
    population: int
    pool: np.ndarray  # (p, d) rows that donate cells
    pool_y: np.ndarray  # (p,)
    tally: dict[str, int] = field(default_factory=lambda: {"unconfirmed": 0, "unpaid": 0, "blind": 0})

    def told(self, frozen: int, n: int) -> list[str]:
        """Say what a reader of the number must know."""
        notes = []
        if frozen:
            notes.append(
                f"{frozen} of {n} rows have no cell that can move under this threat (whole numbers move by one at "
                "least): they hold untested."
            )
        if self.tally["unpaid"]:
            notes.append(
                f"The query budget ended the search while {self.tally['unpaid']} rows still held; "
                "a larger budget may break them."
            )
        if self.tally["unconfirmed"]:
            notes.append(
                f"{self.tally['unconfirmed']} times the largest score changed but the model's own label did not: "
                "label and scores disagree, and the search, which follows the scores, is weaker for it."
            )
        if self.tally["blind"]:
            notes.append(
                f"The gradient was zero or NaN at {self.tally['blind']} rows; evolution alone attacked them."
            )
        return notes


@dataclass
class Hunt:
    """The state of the search on one block of rows; ``active`` are those that still hold."""

    own: Settings
    repair: Repair
    wanted_class: np.ndarray  # (n,) the label to leave, or the goal to reach
    ids: np.ndarray  # (n,)
    limit: int | None  # rows that may have been queried when this block ends
    best: np.ndarray  # (n, d) what is returned
    found: np.ndarray  # (n,)
    lowest: np.ndarray  # (n, d) the ends of each cell's reach
    highest: np.ndarray  # (n, d)
    edit: np.ndarray  # (d,) the columns of a group are one edit
    active: np.ndarray  # (a,)
    margin: np.ndarray  # (n,) of the original
    rows: np.ndarray  # (a, p, d) survivors
    fit: np.ndarray  # (a, p) their margins
    donors: np.ndarray  # (n, N_DONORS) places in the pool, -1: none
    discrete: bool  # only whole numbers may move: what was asked is remembered
    seen: np.ndarray  # (a, ...) ids of what was asked
    spent: bool = False

    @staticmethod
    def of(own: Settings, repair: Repair, y: np.ndarray, share: float) -> Hunt:
        """Ask for the originals; those that are wrong already leave."""
        n, d = repair.x.shape
        goal, budget = own.threat.goal, own.threat.n_queries
        used = own.run.counter.tally["rows"]
        limit = None if budget is None else used + int((budget - used) * share)
        edit = np.arange(d)
        for group in repair.groups:
            edit[group.cells] = group.cells[0]
        lowest, highest = _ends(repair, own.pool)
        none = np.empty((n, 0))
        hunt = Hunt(
            own, repair, y if goal is None else np.full(n, goal), sample_ids(repair.x), limit,
            repair.x.copy(), np.zeros(n, bool), lowest, highest, edit, np.arange(n), np.full(n, np.inf),
            np.empty((n, 0, d)), none, np.full((n, N_DONORS), -1),
            bool((repair.whole | (repair.unit == 0).all(0)).all()), np.empty((n, 0), np.uint64),
        )  # fmt: skip
        if hunt._left() < n:
            hunt._stop()
            return hunt
        hunt.margin = hunt._margins(repair.x, hunt.active)
        wrong = np.flatnonzero(hunt.margin < 0)
        hunt.found[wrong] = hunt._confirmed(repair.x[wrong], wrong)
        hunt.active = np.flatnonzero(~hunt.found & repair.movable())
        hunt._fill(hunt.active)
        hunt.donors = _donors(repair, own, y)
        return hunt

    # ---- asking ----

    def _left(self) -> float:
        return math.inf if self.limit is None else self.limit - self.own.run.counter.tally["rows"]

    def _stop(self) -> None:
        if not self.spent:
            self.spent = True
            self.own.tally["unpaid"] += len(self.active)

    def _margins(self, rows: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Return the log-odds (m,) of holding: below zero the largest score is where the attacker wants it."""
        out = np.empty(len(rows))
        size = max(1, MAX_CELLS // rows.shape[1])
        for first in range(0, len(rows), size):
            part = slice(first, first + size)
            scores = self.own.target.scores(rows[part])  # (m, classes)
            place = np.arange(len(scores)), self.wanted_class[at[part]]
            ours, rest = scores[place], scores.copy()
            rest[place] = -np.inf
            # a tie goes to the lower index, as argmax and so most models have it
            tie = np.where(rest.argmax(1) < place[1], -1e-12, 1e-12)
            held = np.log(np.maximum(ours, FLOOR)) - np.log(np.maximum(rest.max(1), FLOOR)) + tie
            held = held if self.own.threat.goal is None else -held
            out[part] = np.where(np.isnan(held), np.inf, held)
        return out

    def _confirmed(self, rows: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Return which rows (m,) the model's own label calls found; unpaid ones are left to the harness to judge."""
        if not len(rows) or self._left() < len(rows):
            return np.ones(len(rows), bool)
        labels, goal = self.own.target.labels(rows), self.own.threat.goal
        fooled: np.ndarray = labels != self.wanted_class[at] if goal is None else labels == goal
        self.own.tally["unconfirmed"] += int((~fooled).sum())
        return fooled

    def _try(self, wanted: np.ndarray, limit: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Repair and judge candidates (a, q, d), at most ``limit`` new ones a row; rows that fall leave.

        Returns:
            Margins (a', q) of those that stay, infinite where nothing was asked, and who stays (a,).
        """
        a, q, d = wanted.shape
        at = np.repeat(self.active, q)
        rows = self.repair.within(wanted.reshape(a * q, d), at)
        far = self.repair.size(rows, at).reshape(a, q)
        keys = sample_ids(rows).reshape(a, q)
        past = self.seen if self.discrete else sample_ids(self.rows.reshape(-1, d)).reshape(a, -1)
        fresh = _first(np.hstack([self.ids[self.active][:, None], past, keys]))[
            :, -q:
        ]  # nothing is asked twice
        fresh &= np.cumsum(fresh, axis=1) <= (q if limit is None else limit)
        asked = np.flatnonzero(fresh.T)  # candidate by candidate, so that a budget cuts all rows alike
        if len(asked) > self._left():
            asked = asked[: int(self._left())]
            self._stop()
        asked = asked % a * q + asked // a
        margin = np.full(a * q, np.inf)
        if len(asked):
            margin[asked] = self._margins(rows[asked], at[asked])
        margin, rows = margin.reshape(a, q), rows.reshape(a, q, d)
        stays = ~self._take(rows, margin, far)
        if self.discrete:
            self.seen = np.hstack([self.seen, np.where(fresh, keys, self.ids[self.active][:, None])])[stays]
        self._survive(rows, margin, stays)
        return margin[stays], stays

    def _take(self, rows: np.ndarray, margin: np.ndarray, far: np.ndarray) -> np.ndarray:
        """Note what was found: the nearest, confirmed by label, else the surest. Return which rows (a,) fell."""
        fell = np.zeros(len(rows), bool)
        for score in (far, margin):
            hit = np.flatnonzero(((margin < 0).any(1)) & ~fell)
            pick = np.where(margin[hit] < 0, score[hit], np.inf).argmin(1)
            sure = self._confirmed(rows[hit, pick], self.active[hit])
            self.best[self.active[hit[sure]]] = rows[hit[sure], pick[sure]]
            fell[hit[sure]] = True
        self.found[self.active[fell]] = True
        return fell

    # ---- the population ----

    def _fill(self, active: np.ndarray) -> None:
        """Start from populations of originals."""
        p = self.own.population
        self.rows = np.repeat(self.repair.x[active][:, None], p, axis=1)
        self.fit = np.repeat(self.margin[active][:, None], p, axis=1)
        self.seen = self.seen[: len(active)]

    def _survive(self, rows: np.ndarray, margin: np.ndarray, stays: np.ndarray) -> None:
        """Keep the lowest margins; the newer first, so that it wins a tie."""
        self.active = self.active[stays]
        rows = np.concatenate([rows[stays], self.rows[stays]], axis=1)  # (a, q + p, d)
        margin = np.hstack([margin[stays], self.fit[stays]])
        kept = np.argsort(margin, axis=1, kind="stable")[:, : self.own.population]
        self.fit = np.take_along_axis(margin, kept, 1)
        self.rows = np.take_along_axis(rows, kept[:, :, None], 1)
        self.best[self.active] = self.rows[:, 0]

    def _draws(self, count: int, *path: str | int) -> np.ndarray:
        """Return numbers in (0, 1), (a, count), that depend on the content of each row and on ``path``."""
        return uniforms(self.ids[self.active], count, self.own.run.child_seed(*path))

    def begin(self) -> None:
        """Try random points and donors, which break weak models cheaply, then single columns, and the best together."""
        if len(self.active) and not self.spent:
            self._try(np.concatenate([self._random(), self._donated()], axis=1))
        if len(self.active) and not self.spent:
            wanted, edit = self._extremes()
            alone, stays = self._try(wanted)
            if len(self.active) and not self.spent:
                self._try(self._together(wanted[stays], alone, edit))

    def _extremes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return rows (a, q, d) with one edit each, and which edit it is (q,)."""
        schema, x = self.repair.schema, self.repair.x[self.active]
        tries: list[tuple[Any, Any]] = []
        grouped = {int(i) for group in self.repair.groups for i in group.cells}
        few = self.own.threat.norm == "l0"
        movable = (self.repair.unit[self.active] > 0).any(0)
        for i, column in enumerate(schema.columns):
            if i in grouped or not movable[i]:
                continue
            if column.kind == "category":
                tries += [(i, float(code)) for code in range(len(column.categories))]
                continue
            tries += [(i, self.lowest[self.active, i]), (i, self.highest[self.active, i])]
            known = self.own.pool[~np.isnan(self.own.pool[:, i]), i]
            if few and len(known):
                tries += [(i, float(value)) for value in np.quantile(known, [0.25, 0.5, 0.75])]
        for group in self.repair.groups:
            tries += [(group.cells, hot) for hot in np.eye(len(group.cells))]
        if len(tries) > MAX_EXTREMES:
            drawn = self.own.run.rng("extremes").permutation(len(tries))[:MAX_EXTREMES]
            tries = [tries[i] for i in np.sort(drawn)]
        wanted = np.repeat(x[:, None], len(tries), axis=1)
        for k, (cells, value) in enumerate(tries):
            wanted[:, k, cells] = value
        return wanted, np.array([self.edit[np.atleast_1d(cells)[0]] for cells, _ in tries], np.int64)

    def _together(self, wanted: np.ndarray, margin: np.ndarray, edit: np.ndarray) -> np.ndarray:
        """Return rows (a, q, d) that make the best 2, 3, 4, 6 ... single edits at once."""
        x, start = self.repair.x[self.active][:, None], self.margin[self.active][:, None]
        edits, rows = np.unique(edit), np.arange(len(x))[:, None]
        gain = np.full((len(x), len(edits)), -np.inf)
        choice = np.zeros(gain.shape, np.int64)
        for e, name in enumerate(edits):
            own = np.flatnonzero(edit == name)
            choice[:, e] = own[margin[:, own].argmin(1)]
            gain[:, e] = start[:, 0] - margin[:, own].min(1)
        order = np.argsort(-gain, axis=1, kind="stable")
        gain = np.take_along_axis(gain, order, 1)
        shift = np.nan_to_num(wanted - x)[rows, np.take_along_axis(choice, order, 1)]  # (a, edits, d)
        useful = np.where(np.isfinite(gain), np.maximum(gain, 0.0), 0.0)
        if self.own.threat.norm in ("l2", "l1"):  # a share of the ball for each column, by what it brings
            shift = shift * (useful / np.maximum(useful[:, :1], FLOOR))[:, :, None]
        shift = np.cumsum(np.where(useful[:, :, None] > 0, shift, 0.0), axis=1)
        counts = np.unique(np.minimum([2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 10**6], len(edits)))
        return x + shift[:, counts - 1]

    def _random(self) -> np.ndarray:
        """Return random points of the reach (a, q, d), half of them with few cells moved."""
        a, q, d = len(self.active), max(2, self.own.population // 2), self.repair.x.shape[1]
        u = self._draws(q * 2 * d, "random").reshape(a, q, 2, d)
        low, high = self.lowest[self.active][:, None], self.highest[self.active][:, None]
        moved = (u[:, :, 1, self.edit] < 0.3) | (np.arange(q) % 2 == 0)[:, None]
        x = self.repair.x[self.active][:, None]
        return self._budgeted(np.where(moved, low + u[:, :, 0] * (high - low), x), u[:, :, 1])

    def _donated(self) -> np.ndarray:
        """Return rows (a, q, d) with all, or a random half, of a donor's cells."""
        a, q, d = len(self.active), N_DONORS, self.repair.x.shape[1]
        u = self._draws(q * d, "donors").reshape(a, q, d)
        x = self.repair.x[self.active][:, None]
        given = self._cells(np.broadcast_to(np.arange(q), (a, q)))
        taken = (u[:, :, self.edit] < 0.5) | (np.arange(q) % 2 == 0)[:, None]
        return self._budgeted(np.where(taken, given, x), u)

    def _cells(self, which: np.ndarray) -> np.ndarray:
        """Return the rows (a, q, d) of the donors numbered ``which`` (a, q); where there is none, the original."""
        place = np.take_along_axis(self.donors[self.active], which, 1)
        x = self.repair.x[self.active][:, None]
        given = np.where((place >= 0)[:, :, None], self.own.pool[place], x)
        return np.where(np.isnan(given), x, given)

    def _budgeted(self, wanted: np.ndarray, u: np.ndarray, first: np.ndarray | None = None) -> np.ndarray:
        """Under l0 keep as many edits as the budget has, by the draws ``u`` (a, q, d), those in ``first`` before."""
        if self.own.threat.norm != "l0":
            return wanted
        x, unit = self.repair.x[self.active][:, None], self.repair.unit[self.active][:, None]
        moved = (wanted != x) & (unit > 0)
        rank = np.where(moved, u[:, :, self.edit], 9.0)
        if first is not None:
            rank = np.where(moved & first, rank - 2.0, rank)
        heads = np.unique(self.edit)
        lead = np.stack([rank[:, :, self.edit == head].min(2) for head in heads], axis=2)  # (a, q, edits)
        cut = np.sort(lead, axis=2)[:, :, min(int(self.own.threat.radius or 0), len(heads)) - 1]
        kept = lead <= cut[:, :, None]
        return np.where(kept[:, :, np.searchsorted(heads, self.edit)], wanted, x)

    def evolve(self, generation: int) -> None:
        """Make, judge and select one generation."""
        a, p, d = self.rows.shape
        q = (
            3 * p if self.discrete else p
        )  # on a grid many children are known already: the first new ones are asked
        u = self._draws(q * 8, "parents", generation).reshape(a, q, 8)
        cell = self._draws(q * 4 * d, "cells", generation).reshape(a, q, 4, d)
        rows = np.arange(a)[:, None]
        first = self.rows[rows, (p * u[:, :, 0] ** 2).astype(np.int64)]  # the better, the likelier
        second = self.rows[rows, (p * u[:, :, 1]).astype(np.int64)]
        third = self.rows[rows, (p * u[:, :, 2]).astype(np.int64)]
        manner = u[:, :, 3, None]
        child = np.where((manner < 0.4) & (cell[:, :, 0, self.edit] < 0.5), second, first)
        child = np.where(manner > 0.7, first + 0.8 * (second - third), child)
        mutated = self._mutated(cell[:, :, 1, self.edit], u[:, :, 4])
        value = self._values(child, cell, u)
        self._try(self._budgeted(np.where(mutated, value, child), cell[:, :, 0], mutated), p)

    def _mutated(self, u: np.ndarray, rate: np.ndarray) -> np.ndarray:
        """Return which cells (a, q, d) change: a log-uniform share of those that may, at least one."""
        may = self.repair.unit[self.active][:, None] > 0
        u = np.where(may, u, 2.0)
        n_may = may.sum(2)  # (a, 1)
        return (u < n_may[:, :, None] ** -rate[:, :, None]) | (u == u.min(2, keepdims=True)) & may

    def _values(self, child: np.ndarray, cell: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Return what each cell (a, q, d) would mutate to."""
        low, high = self.lowest[self.active][:, None], self.highest[self.active][:, None]
        kind, draw = cell[:, :, 2, self.edit], cell[:, :, 3]
        category = np.array([column.kind == "category" for column in self.repair.schema.columns])
        nominal = category | np.isin(
            np.arange(len(category)), [i for g in self.repair.groups for i in g.cells]
        )
        move = (draw - 0.5) * (high - low) * 10.0 ** (-2 * u[:, :, 5, None])
        whole = self.repair.whole  # the repair rounds: a step is one at least, and every value as likely
        step = child + np.where(whole, np.sign(move) * np.maximum(1.0, np.abs(move)), move)
        anywhere = np.where(whole, low - 0.5 + draw * (high - low + 1), low + draw * (high - low))
        out = np.where(kind < 0.35, step, np.where(kind < 0.55, np.where(draw < 0.5, low, high), anywhere))
        out = np.where(nominal, anywhere, out)
        donated = self._cells((u[:, :, 6] * N_DONORS).astype(np.int64))
        out = np.where((kind >= 0.7) & (kind < 0.85), donated, out)
        return np.where(kind >= 0.85, self.repair.x[self.active][:, None], out)

    def offer(self, rows: np.ndarray) -> None:
        """Judge one candidate (a, d) a row that another search found."""
        if not self.spent:
            self._try(rows[:, None])

    def shorten(self, turn: int) -> None:
        """Bring what was found nearer: take back single edits, and shrink the whole change."""
        x = self.repair.x
        at = np.flatnonzero(self.found & ((self.best != x) & ~np.isnan(x)).any(1))
        if not len(at):
            return
        shift = np.nan_to_num(self.best - x)[at]  # (f, d)
        heads = np.unique(self.edit)
        safe = np.where(self.repair.unit[at] > 0, self.repair.unit[at], 1.0)
        worth = np.stack([np.abs(shift / safe)[:, self.edit == head].max(1) for head in heads], axis=1)
        order = np.argsort(worth, axis=1, kind="stable")  # the smallest edits are the likeliest to be idle
        order = np.take_along_axis(
            order, np.argsort(np.take_along_axis(worth, order, 1) == 0, axis=1, kind="stable"), 1
        )
        count = min(len(heads), 12)
        undone = heads[order[:, :count]][:, :, None] != self.edit  # (f, count, d)
        parts = np.array([0.25, 0.5, 0.75, 0.9]) if turn == 0 else np.array([0.8, 0.9, 0.95])
        tries = np.concatenate([shift[:, None] * undone, shift[:, None] * parts[:, None]], axis=1)
        tried = self.repair.within(
            (x[at][:, None] + tries).reshape(-1, x.shape[1]), np.repeat(at, tries.shape[1])
        )
        places = np.repeat(at, tries.shape[1])
        score = self._length(tried, places).reshape(len(at), -1)  # (f, q)
        now = self._length(self.best[at], at)
        asked = np.flatnonzero((score < now[:, None]) & (score > 0))
        if len(asked) == 0 or len(asked) + len(at) > self._left():
            return
        margin = np.full(score.size, np.inf)
        margin[asked] = self._margins(tried[asked], places[asked])
        score = np.where(margin.reshape(score.shape) < 0, score, np.inf)
        pick, better = score.argmin(1), np.flatnonzero(score.min(1) < now)
        rows = tried.reshape(len(at), -1, x.shape[1])[better, pick[better]]
        sure = self._confirmed(rows, at[better])
        self.best[at[better[sure]]] = rows[sure]

    def _length(self, rows: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Return distance as a share of the radius plus the share of columns changed."""
        moved = ((rows != self.repair.x[at]) & ~np.isnan(rows)).sum(1)
        radius = self.own.threat.radius or 1.0
        return self.repair.size(rows, at) / radius + moved / rows.shape[1]


def block_size(population: int, n_columns: int) -> int:
    """Return how many rows are searched at once."""
    return max(1, MAX_CELLS // (n_columns * max(4 * population, min(MAX_EXTREMES, 4 * n_columns))))


def _first(keys: np.ndarray) -> np.ndarray:
    """Return where a key (a, m) stands for the first time in its row."""
    order = np.argsort(keys, axis=1, kind="stable")
    ranked = np.take_along_axis(keys, order, 1)
    new = np.ones(keys.shape, bool)
    new[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    out = np.empty(keys.shape, bool)
    np.put_along_axis(out, order, new, axis=1)
    return out


def _ends(repair: Repair, pool: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and highest value (n, d) that each cell could have alone under the threat."""
    x, radius = repair.x, repair.threat.radius or 0.0
    if repair.threat.norm != "l0":
        far = radius * repair.unit
        return np.maximum(repair.low, x - far), np.minimum(repair.high, x + far)
    low, high = repair.low.copy(), repair.high.copy()
    for group in repair.groups:
        low[:, group.cells], high[:, group.cells] = 0.0, 1.0
    for i in range(x.shape[1]):  # a column without a bound: as far as the pool goes
        known = pool[~np.isnan(pool[:, i]), i]
        least, most = (known.min(), known.max()) if len(known) else (0.0, 0.0)
        low[:, i] = np.where(np.isfinite(low[:, i]), low[:, i], np.fmin(least, x[:, i]))
        high[:, i] = np.where(np.isfinite(high[:, i]), high[:, i], np.fmax(most, x[:, i]))
    return low, high


def _donors(repair: Repair, own: Settings, y: np.ndarray) -> np.ndarray:
    """Return for each row (n, N_DONORS) places in the pool: the nearest of another class (of the goal), and random."""
    out = np.full((len(y), N_DONORS), -1)
    if not len(own.pool):
        return out
    goal = own.threat.goal
    safe = np.where(repair.unit > 0, repair.unit, np.inf)  # only what may move counts
    gap = np.zeros((len(y), len(own.pool)))
    for i in range(repair.x.shape[1]):
        part = np.abs(repair.x[:, i, None] - own.pool[:, i]) / safe[:, i, None]
        gap += np.where(np.isnan(part), 0.0, part)
    other = own.pool_y[None] != y[:, None] if goal is None else np.broadcast_to(own.pool_y == goal, gap.shape)
    gap = np.where(other, gap, np.inf)
    half = N_DONORS // 2
    near = np.argsort(gap, axis=1, kind="stable")[:, :half]
    luck = uniforms(sample_ids(repair.x), len(own.pool), own.run.child_seed("luck"))
    chance = np.argsort(np.where(other, luck, 2.0), axis=1, kind="stable")[:, :half]
    for first, places in ((0, near), (1, chance)):  # in turn
        usable = np.take_along_axis(other, places, 1)
        out[:, first : first + 2 * places.shape[1] : 2] = np.where(usable, places, -1)
    return out
