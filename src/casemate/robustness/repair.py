# SPDX-License-Identifier: Apache-2.0
"""Makes what an attack wants into rows that could exist: every rule of the schema, and the ball of the threat.

An attack that ignores "age may not fall" measures nothing. Here a wanted row becomes the feasible row near it, in
this order: frozen cells get their value back, numbers are clipped to their limits and rounded to their grid, one-hot
groups switch to their largest allowed cell, and cells that stand in a broken relation move until it holds. What
still breaks a rule is the original row. ``violations`` in core/schema.py judges all this again, on its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from casemate.core.errors import InvalidThreat
from casemate.core.schema import Column, Schema, distances
from casemate.core.types import Threat
from casemate.robustness.geometry import project

SWEEPS = 6  # over all relations: enough for chains; a row that needs more stays as it was
PULLS = 8  # ever shorter changes that are tried where rounding or a relation left the ball
_SLACK = 1e-9  # relative: a distance that rounding put just outside the ball; violations allows 1e-6
_TIGHT = 5e-10  # relative gap of a relation that counts as closed; violations allows 1e-9


@dataclass(frozen=True)
class _Rule:
    """sum of coeff * cell <= 0, or == 0, over the columns ``cells``."""

    cells: np.ndarray  # (k,) column numbers
    coeff: np.ndarray  # (k,)
    exact: bool

    def gap(self, values: np.ndarray) -> np.ndarray:
        """Return by how much rows (m, k) of these cells break the rule, with sign; 0 where they keep it."""
        # cell by cell: a matrix product would round a row by the batch it comes in
        terms = [values[:, i] * coeff for i, coeff in enumerate(self.coeff.tolist())]
        raw = sum(terms, np.zeros(len(values)))  # (m,), NaN where a cell is missing: that breaks nothing
        scale = _TIGHT * (1.0 + sum(map(np.abs, terms)))
        broken = np.abs(raw) > scale if self.exact else raw > scale
        return np.where(broken, raw, 0.0)


@dataclass(frozen=True)
class _Group:
    """Columns that are one-hot together, and for each original the members that may become the hot one."""

    cells: np.ndarray  # (k,) column numbers
    allowed: np.ndarray  # (n, k)


@dataclass(frozen=True)
class Repair:
    """What each of some rows may become under a schema and a threat, and the way there.

    ``unit`` (n, ...) is what one unit of distance is in each cell, 0 where it may not move: immutable, missing,
    constant or out of its own bounds; and, but for an edit budget (``l0``), categories and one-hot groups.

    >>> from casemate.core.schema import Relation
    >>> from dataclasses import replace
    >>> schema = Schema.infer(np.array([[0, 10.0], [9, 90.0]], dtype=object))
    >>> repair = Repair.of(np.array([[2.0, 50.0]]), schema, Threat(norm="linf", radius=3, scale="raw"))
    >>> repair.within(np.array([[70.0, 53.1]]), np.array([0])).tolist()
    [[5.0, 53.0]]
    >>> repair.feasible(np.array([[70.0, 53.1]]), np.array([0])).tolist()  # without the ball
    [[9.0, 53.1]]
    """

    x: np.ndarray  # (n, ...) originals, float64
    low: np.ndarray  # (n, d) limits without the ball; low == high == x where a cell may not move
    high: np.ndarray  # (n, d)
    unit: np.ndarray  # (n, ...)
    whole: np.ndarray  # (d,) cells on the grid of whole numbers, categories among them
    groups: tuple[_Group, ...]
    rules: tuple[_Rule, ...]
    schema: Schema
    threat: Threat
    dtype: np.dtype[np.generic]

    @staticmethod
    def of(x: np.ndarray, schema: Schema, threat: Threat) -> Repair:
        """Work out what encoded rows ``x`` (n, d), or images (n, c, h, w), may become."""
        given = np.asarray(x)
        rows = given.astype(np.float64).reshape(len(given), -1)  # (n, d)
        if schema.input == "table":
            low, high, size, whole = _limits(rows, schema, threat)
            groups = _groups(rows, schema, low, high) if threat.norm == "l0" else ()
            tied = {name for group in schema.groups for name in group}
            alone = np.array([name not in tied for name in schema.names])
            rules = _rules(schema)
        else:
            darkest, brightest = schema.bounds or (-np.inf, np.inf)
            low, high = np.full_like(rows, darkest), np.full_like(rows, brightest)
            size, groups, rules = np.ones(rows.shape[1]), (), ()
            alone = np.ones(rows.shape[1], bool)
            whole = np.full(rows.shape[1], given.dtype.kind in "biu")
        with np.errstate(invalid="ignore"):  # NaN: a missing cell
            may = alone & (size > 0) & (low <= rows) & (rows <= high)
            low, high = (
                np.where(whole, np.ceil(low - _SLACK), low),
                np.where(whole, np.floor(high + _SLACK), high),
            )
            may &= ~((low == rows) & (high == rows)) & (low <= high)
        unit = np.where(may, size, 0.0)
        for group in groups:
            choice = group.allowed.sum(1, keepdims=True) > 1  # (n, 1)
            unit[:, group.cells] = np.where(choice & group.allowed, 1.0, 0.0)
        low, high = np.where(may, low, rows), np.where(may, high, rows)
        x, unit = rows.reshape(given.shape), unit.reshape(given.shape)
        return Repair(x, low, high, unit, whole, groups, rules, schema, threat, given.dtype)

    def size(self, rows: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Return the distance (m,) of ``rows`` from the originals ``at`` (m,), as ``violations`` measures it."""
        return distances(self.x[at], rows, self.threat, self.schema)

    def feasible(self, wanted: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Return rows near ``wanted`` (m, ...) that obey the schema, at whatever distance.

        Args:
            wanted: rows an attack would like; any numbers, NaN for "as it was".
            at: (m,) which original each of them belongs to.

        Returns:
            Rows of the shape of ``wanted``; where no repair was found, the original.
        """
        wanted, at = np.asarray(wanted, np.float64), np.asarray(at)
        flat = wanted.reshape(len(wanted), -1)
        out = self._stored(self._obey(flat, at, self.low[at], self.high[at]), at)
        return out.reshape(wanted.shape)

    def within(self, wanted: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Return rows near ``wanted`` (m, ...) that obey the schema and lie in the ball; see :meth:`feasible`.

        Raises:
            InvalidThreat: the threat has no radius.
        """
        wanted, at = np.asarray(wanted, np.float64), np.asarray(at)
        radius = self.threat.radius
        if radius is None:
            raise InvalidThreat("the threat has no radius; pass Threat(norm=, radius=)")
        flat = wanted.reshape(len(wanted), -1)
        low, high = self._box(at)
        out = self._stored(self._obey(flat, at, low, high), at)
        far = np.flatnonzero(~self._inside(out, at))
        if len(far):
            out[far] = self._pulled(out[far], at[far], low[far], high[far], radius)
        return out.reshape(wanted.shape)

    def movable(self) -> np.ndarray:
        """Return which originals (n,) have a cell that can move inside the ball; less than a whole number cannot."""
        if self.threat.norm == "l0":
            one = (self.threat.radius or 0.0) >= 1
            return np.asarray((self.unit.reshape(len(self.x), -1) > 0).any(1) & one)
        x = self.x.reshape(len(self.x), -1)
        low, high = self._box(np.arange(len(x)))
        return np.asarray(((low <= high) & ((low < x) | (high > x))).any(1))

    def _box(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what each cell (m, d) could be alone inside the ball; nothing where low > high."""
        low, high = self.low[at], self.high[at]
        if self.threat.norm == "l0":  # one edit never leaves the ball
            return low, high
        x, unit = self.x.reshape(len(self.x), -1)[at], self.unit.reshape(len(self.x), -1)[at]
        reach = (self.threat.radius or 0.0) * unit
        least, most = _off(x, -reach), _off(x, reach)
        return np.maximum(low, _ceil(least, self.whole)), np.minimum(high, _floor(most, self.whole))

    def _inside(self, flat: np.ndarray, at: np.ndarray) -> np.ndarray:
        radius = self.threat.radius or 0.0
        inside: np.ndarray = self.size(flat.reshape(-1, *self.x.shape[1:]), at) <= radius * (1 + _SLACK)
        return inside

    def _pulled(
        self, flat: np.ndarray, at: np.ndarray, low: np.ndarray, high: np.ndarray, radius: float
    ) -> np.ndarray:
        """Return rows that lie too far, brought towards their original until one lies in the ball."""
        origin = self.x.reshape(len(self.x), -1)[at]
        unit = self.unit.reshape(len(self.x), -1)[at]
        out, left = origin.copy(), np.arange(len(flat))
        budget = radius
        for attempt in range(PULLS):
            shift = np.where(unit[left] > 0, (flat - origin)[left], 0.0)
            short = self._shortened(shift, unit[left], budget)
            tried = self._obey(origin[left] + short, at[left], low[left], high[left], inwards=attempt > 0)
            tried = self._stored(tried, at[left])
            ok = self._inside(tried, at[left])
            out[left[ok]] = tried[ok]
            left = left[~ok]
            if not len(left):
                break
            # the first try rounds to the nearest whole number, the second inwards, the others shorten
            budget = budget if attempt == 0 else budget - 1 if self.threat.norm == "l0" else 0.7 * budget
            if budget <= 0:
                break
        return out

    def _shortened(self, shift: np.ndarray, unit: np.ndarray, radius: float) -> np.ndarray:
        """Return the nearest shifts (m, d) in the ball; under l0 the edits that are largest in their unit."""
        safe = unit + (unit == 0)
        if self.threat.norm != "l0":
            return project(shift / safe, radius, self.threat.norm or "linf") * safe
        weight, edit = np.abs(shift) / safe, np.arange(shift.shape[1])  # (m, d), (d,)
        for group in self.groups:  # its columns are one edit
            most = weight[:, group.cells].max(1)
            weight[:, group.cells] = -1.0
            weight[:, group.cells[0]], edit[group.cells] = most, group.cells[0]
        order = np.argsort(-weight, axis=1, kind="stable")
        kept = np.zeros(shift.shape, bool)
        np.put_along_axis(kept, order[:, : int(radius + _SLACK)], True, axis=1)
        return np.where(kept[:, edit], shift, 0.0)

    def _obey(
        self, wanted: np.ndarray, at: np.ndarray, low: np.ndarray, high: np.ndarray, *, inwards: bool = False
    ) -> np.ndarray:
        """Return feasible rows (m, d) inside ``low`` and ``high``; ``inwards`` rounds towards the original."""
        x = self.x.reshape(len(self.x), -1)[at]
        may = (self.unit.reshape(len(self.x), -1)[at] > 0) & (low <= high)
        wanted = np.where(np.isnan(wanted), x, wanted)
        out = np.clip(wanted, low, high)
        if self.whole.any():
            out = np.where(self.whole, _towards(out, x) if inwards else np.rint(out), out)
        out = np.where(may & (wanted != x) & np.isfinite(out), out, x) + 0.0  # no -0.0
        for group in self.groups:
            out[:, group.cells] = _switched(wanted[:, group.cells], x[:, group.cells], group.allowed[at])
        return self._related(out, x, low, high, may) if self.rules else out

    def _related(
        self, out: np.ndarray, x: np.ndarray, low: np.ndarray, high: np.ndarray, may: np.ndarray
    ) -> np.ndarray:
        """Move cells until the relations hold, a few sweeps over all of them; else the original row."""
        category = np.array([column.kind == "category" for column in self.schema.columns])
        grouped = np.zeros(len(category), bool)
        for group in self.groups:
            grouped[group.cells] = True
        may = may & ~category & ~grouped
        unit = np.array(
            [column.spread if self.threat.scale == "spread" else 1.0 for column in self.schema.columns]
        )
        unit = np.where(unit > 0, unit, 1.0)
        left = np.flatnonzero(((out != x) & ~np.isnan(x)).any(1))  # an original is what it is

        def wrong(rule: _Rule) -> np.ndarray:
            part = np.ix_(left, rule.cells)
            touched = ((out[part] != x[part]) & ~np.isnan(x[part])).any(1)
            return touched & (rule.gap(out[part]) != 0)

        for sweep in range(SWEEPS + 1):
            left = left[np.any([wrong(rule) for rule in self.rules], axis=0)]
            if not len(left) or sweep == SWEEPS:
                break
            for rule in self.rules:
                here = left[wrong(rule)]
                if len(here):
                    part = np.ix_(here, rule.cells)
                    room = _Room(low[part], high[part], may[part], self.whole[rule.cells], unit[rule.cells])
                    out[part] = room.close(rule, out[part], x[part], few=self.threat.norm == "l0")
        out[left] = x[left]
        return out

    def _stored(self, flat: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Return images as their own dtype holds them, every rounding towards the original; tables as they are."""
        if self.schema.input == "table" or self.dtype.kind != "f" or self.dtype == np.float64:
            return flat
        x = self.x.reshape(len(self.x), -1)[at]
        near, origin = flat.astype(self.dtype), x.astype(self.dtype)
        far = np.abs(near.astype(np.float64) - x) > np.abs(flat - x)
        out: np.ndarray = np.where(far, np.nextafter(near, origin), near).astype(np.float64)
        return out


@dataclass(frozen=True)
class _Room:
    """How far the cells of one rule may move in some rows."""

    low: np.ndarray  # (m, k)
    high: np.ndarray  # (m, k)
    may: np.ndarray  # (m, k)
    whole: np.ndarray  # (k,)
    unit: np.ndarray  # (k,)

    def close(self, rule: _Rule, cells: np.ndarray, x: np.ndarray, *, few: bool) -> np.ndarray:
        """Return the cells (m, k) moved so that the rule holds, as far as there is room.

        Without an edit budget (``few``) the move is the shortest in units of distance, as a projection on the
        half-space or hyperplane. With one, cells that were edited anyway move first, then one cell after the other.
        """
        if few:
            edited = (cells != x) & self.may
            size = np.where(edited, np.abs(cells - x) / self.unit, -1.0)
            anchor = np.arange(len(rule.cells)) == size.argmax(1)[:, None]
            # undoing the one edit of an equality would undo the attack: there the others make up for it
            cells = self._shared(rule, cells, edited & ~anchor if rule.exact else edited)
            cells = self._in_turn(rule, cells, self.may & ~edited)
            return self._in_turn(rule, cells, self.may)
        cells = self._shared(rule, cells, self.may)
        if self.whole.any():
            cells = self._shared(rule, cells, self.may & ~self.whole)
            cells = self._in_turn(rule, cells, self.may)
        return cells

    def _shared(self, rule: _Rule, cells: np.ndarray, free: np.ndarray) -> np.ndarray:
        """Close the gap by all free cells at once, each in proportion to its squared unit, until at its limit."""
        start = cells
        for _ in range(len(rule.cells) + 1):
            gap = rule.gap(cells)[:, None]  # (m, 1)
            sinks = rule.coeff * gap > 0
            open_ = free & (cells != np.where(sinks, self.low, self.high)) & (gap != 0)
            pull = np.where(open_, rule.coeff * np.square(self.unit), 0.0)  # (m, k)
            total = (pull * rule.coeff).sum(1, keepdims=True)
            moved = np.clip(cells - gap * pull / (total + (total == 0)), self.low, self.high)
            if not open_.any():
                break
            cells = np.where(open_, moved, cells)
        uneven = self.whole & (cells != start)
        if not uneven.any():
            return cells
        inside = np.rint(cells) if rule.exact else np.where(rule.coeff > 0, np.floor(cells), np.ceil(cells))
        return np.where(uneven, np.clip(inside, self.low, self.high), cells)

    def _in_turn(self, rule: _Rule, cells: np.ndarray, free: np.ndarray) -> np.ndarray:
        """Close the gap by one cell after the other, each as far as it can."""
        cells = cells.copy()
        for i in np.flatnonzero(rule.coeff):
            gap = rule.gap(cells)
            step = -gap / rule.coeff[i]
            if self.whole[i]:  # an equality must not be overshot, an inequality may
                step = np.trunc(step) if rule.exact else np.where(step > 0, np.ceil(step), np.floor(step))
            moved = np.clip(cells[:, i] + step, self.low[:, i], self.high[:, i])
            if self.whole[i]:
                moved = np.where(moved == np.rint(moved), moved, cells[:, i])
            cells[:, i] = np.where(free[:, i] & (gap != 0), moved, cells[:, i])
        return cells


def _limits(rows: np.ndarray, schema: Schema, threat: Threat) -> tuple[np.ndarray, ...]:
    """Return low, high (n, d), size of one unit (d,; 0: never moves) and which columns are whole (d,)."""

    def each(fact: Callable[[Column], Any], dtype: type = bool) -> np.ndarray:
        return np.array([fact(column) for column in schema.columns], dtype)

    category = each(lambda c: c.kind == "category")
    low = np.where(category, 0.0, each(lambda c: c.low, float))
    high = np.where(category, each(lambda c: len(c.categories) - 1, float), each(lambda c: c.high, float))
    size = each(lambda c: c.spread if threat.scale == "spread" else 1.0, float)
    # under l0 an edit is an edit: the unit only sets the pace of a search
    edits = threat.norm == "l0"
    size = np.where(category, float(edits), np.where(edits & (size == 0), 1.0, size))
    size = np.where(each(lambda c: c.immutable), 0.0, size)
    rising, falling = each(lambda c: c.monotone == "increasing"), each(lambda c: c.monotone == "decreasing")
    # an original out of its bounds is left out of them: it does not move
    low = np.where(rising & (rows >= low), rows, np.broadcast_to(low, rows.shape))
    high = np.where(falling & (rows <= high), rows, np.broadcast_to(high, rows.shape))
    return low, high, size, category | each(lambda c: c.kind == "integer")


def _groups(rows: np.ndarray, schema: Schema, low: np.ndarray, high: np.ndarray) -> tuple[_Group, ...]:
    """Return the one-hot groups with what each original may switch to; a column in two groups freezes both."""
    place = {name: i for i, name in enumerate(schema.names)}
    members = [place[name] for group in schema.groups for name in group]
    out = []
    for group in schema.groups:
        cells = np.array([place[name] for name in group])
        x = rows[:, cells]  # (n, k)
        hot = np.eye(len(cells))  # (option, cell)
        fixed = np.array([schema.columns[i].immutable for i in cells])
        least, most = np.where(fixed, x, low[:, cells]), np.where(fixed, x, high[:, cells])
        allowed: np.ndarray = np.all(
            (hot >= least[:, None, :]) & (hot <= most[:, None, :]), axis=2
        )  # (n, option)
        now = np.nan_to_num(x).argmax(1)
        valid = (x.sum(1) == 1) & np.all((x == 0) | (x == 1), axis=1) & allowed[np.arange(len(x)), now]
        lone = all(members.count(i) == 1 for i in cells)
        out.append(_Group(cells, allowed & valid[:, None] & lone))
    return tuple(out)


def _switched(wanted: np.ndarray, x: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Return one-hot cells (m, k): the largest allowed one is hot, in a tie the original one."""
    rows = np.arange(len(x))
    score = np.where(allowed, wanted, -np.inf)
    now = np.nan_to_num(x).argmax(1)
    best = score.argmax(1)
    best = np.where(score[rows, now] >= score[rows, best], now, best)
    return np.where(np.any(allowed, axis=1, keepdims=True), np.eye(x.shape[1])[best], x)


def _rules(schema: Schema) -> tuple[_Rule, ...]:
    place = {name: i for i, name in enumerate(schema.names)}
    out = []
    for relation in schema.relations:
        total = np.zeros(len(place))
        for names, sign in ((relation.left, 1.0), (relation.right, -1.0)):
            for name in names:
                total[place[name]] += sign
        # cells that cancel (a <= a + b) stay named: where one is missing the rule says nothing
        cells = np.array(sorted({place[name] for name in (*relation.left, *relation.right)}))
        out.append(_Rule(cells, total[cells], relation.op == "=="))
    return tuple(out)


def _off(x: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Return ``x + shift``, rounded towards ``x`` where rounding counts: beside large values it exceeds the radius."""
    moved = x + shift
    return np.where(np.abs(moved - x) > np.abs(shift) * (1 + 1e-10), np.nextafter(moved, x), moved)


def _ceil(values: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole, np.ceil(values - _SLACK), values)


def _floor(values: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole, np.floor(values + _SLACK), values)


def _towards(values: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return whole numbers between ``values`` and ``x``, or ``x`` where there is none."""
    inner = np.where(values > x, np.floor(values), np.ceil(values))
    return np.where(np.sign(inner - x) * np.sign(values - x) < 0, x, inner)
