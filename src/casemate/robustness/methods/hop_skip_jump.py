# SPDX-License-Identifier: Apache-2.0
"""HopSkipJump: the nearest wrong answer, from labels alone (Chen, Jordan and Wainwright 2020, arXiv:1904.02144).

What it measures: for each held-out point, how near an example lies that the model gets wrong (or, with
``Threat(goal=)``, calls that class). The nearest example found is returned whatever its distance; the harness counts
the point as broken when that distance is within the radius. Every distance is an upper bound on the true one, and
the accuracy drawn against the radius an upper bound too: another attack may come nearer.

What the attacker knows: the label of any row asked, the true label of the point, and labelled rows of the same kind
(``data.reference``, else the training rows). No scores, no weights: any model will do, forests, boosting, a
pipeline or a service behind a network.

Formula: with z the change in units of distance and d the number of cells that may move,
1. start: the nearest rows of another class, the victim keeping every cell that may not move (its categories, holes,
   immutable columns), asked again as they then stand; where all fail, random points and corners of the box;
2. boundary: shorten z (l2: scale it; linf: clip it) as long as the answer stays wrong;
3. direction: B_t = min(n_probes sqrt(t), max_probes) probes u around the example, random signs in every cell, of length
   4 |z| / d (at most 0.4 |z|); g = mean of (phi - mean phi) u, where phi is 1 if a probe succeeds and u the move that
   was really made (paper, eq. 16); where all probes agree, phi is +1 or -1. v = g / |g| (l2), or (linf) the sign of
   the B_t g / |g| so far, each iteration worth 0.7 of the next, since a sign takes more probes than a length;
4. step: look along v from the example, each step shortened back towards the point, for something nearer; repeat 3.
The paper's probes are points of a sphere, shorter, and its step is kept even if it leads farther off. On tables under
l2 each cell is at last brought back towards its original alone, and then as many of them together as the model lets
pass: forests hold most cells for nothing.

Two ways to spend. ``mode="min_calls"`` asks all points x all probes, then all points x steps x shortenings at once:
two or three calls an iteration, whatever the number of points. ``mode="min_queries"`` tries steps and bisects one row
a point at a time: two thirds of the rows, four times the calls; for models that bill by the row.

Everything asked has been repaired first (``repair.feasible``), so what is judged is what is returned: whole numbers
are whole, immutable cells and categories stay, monotone columns move one way, relations hold, holes stay holes. On
whole numbers a probe moves by chance with the right mean, and by at least one cell on average, so that small probes
are not rounded away.

Cost: an iteration is its probes and some 15 rows (``min_calls``) or 6 rows (``min_queries``) a point; the start takes
10 to 60 rows, the end some 5 (``min_calls``) or 2 for each cell of a table under l2, 40 cells at most.

Pitfalls: it finds the nearest part of the boundary around its start, not of all of it: on trees a search over the
leaves is better where one is possible. On piecewise constant models a probe that meets no threshold tells nothing;
probes grow after an iteration without progress. A model that rounds, answers at random or refuses queries breaks the
estimate without being robust. Categories and one-hot groups have no distance and never move here: use
``tabular_attack`` with an edit budget for those. Draws are keyed by the content of a row, so neither order nor
batch changes a result.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import cast

import numpy as np

from casemate.core.data import Dataset, Split
from casemate.core.errors import BudgetExhausted, InvalidData
from casemate.core.methods import method
from casemate.core.run import Run, require
from casemate.core.types import LABELS, Target, Threat
from casemate.robustness.geometry import ball, sample_ids, steepest, uniforms
from casemate.robustness.repair import Repair

MODES = ("min_calls", "min_queries")
MAX_CELLS = 2**22  # of the rows in one call: 32 MiB
POOL_CELLS = 2**20  # of the rows an attacker looks through for a start
LEAST_ROWS = 100  # a point is not begun with a smaller share of the query budget
DONORS = {"min_calls": (8, 24), "min_queries": (4, 4, 8, 16)}  # starts of another class asked at once,
CORNERS = {"min_calls": (64,), "min_queries": (2, 6, 24, 32)}  # and of the box
APPROACH = {
    "min_calls": (1.0, 0.75, 0.55, 0.4, 0.25, 0.12),
    "min_queries": (1.0, 0.6, 0.3),
}  # of the way to a start
STEPS = np.array([2.0, 1.0, 0.5])  # times the pace of a point, along the direction
SHARES = np.array([0.99, 0.97, 0.92, 0.83, 0.65])  # of the distance, at which each step is looked at
SHORTEST = 0.1  # pace in distances; below it a point begins with long steps again
CUTS = 7  # places between two shares that are asked at once
PROBE, LONGEST = 4.0, 0.4  # length of a probe: 4 / d of the distance, but for few cells
MEMORY = {"linf": 0.7, "l2": 0.0}  # of earlier directions: a sign needs more probes than a length
FACTORS = {"min_calls": np.array([0.0, 0.3, 0.6, 0.8, 0.92]), "min_queries": np.array([0.0])}
TOGETHER = (1.0, 0.85, 0.7, 0.55, 0.4, 0.25, 0.12)  # of the cells that can come back alone
MAX_SINGLES = 40  # cells that are brought back alone
MAX_ASKED = MAX_SINGLES * 5  # rows a point in one call, if there are no more probes than that


@method(
    kind="evasion",
    needs={LABELS},
    inputs={"table", "image"},
    nearest=True,
    quick={"iterations": 10},
    deep={"iterations": 50, "n_probes": 30, "max_probes": 300},
    cost="iterations x some 60 rows a point, in 2 to 3 calls an iteration",
    title={"en": "Label-only boundary attack (HopSkipJump)", "zh": "仅凭预测类别的边界攻击（HopSkipJump）"},
    reference="arXiv:1904.02144",
)
def hop_skip_jump(
    target: Target,
    data: Dataset,
    *,
    threat: Threat | None = None,
    iterations: int = 20,
    n_probes: int = 10,
    max_probes: int = 100,
    mode: str = "min_calls",
    run: Run | None = None,
) -> np.ndarray:
    """Return for each holdout input the nearest example found that the model gets wrong, else the input itself.

    Inside the harness this gives ``robust_accuracy``, an upper bound on the accuracy under the threat.

    Args:
        target: a classifier, of which labels are asked.
        data: its held-out points are attacked; starts come from its reference rows, or else the training rows.
        threat: norm linf or l2, radius, scale, goal, n_queries (rows in all).
        iterations: directions tried a point.
        n_probes: rows that estimate the first direction; they grow with the square root of the iteration.
        max_probes: at most so many.
        mode: "min_calls" (few large calls) or "min_queries" (few rows).
        run: given by the harness.

    Returns:
        Array like ``data.holdout.x``, same shape and dtype; distances may exceed the radius.

    Raises:
        InvalidThreat: another norm. InvalidData: iterations or probes below 1, or an unknown mode.

    >>> from sklearn.tree import DecisionTreeClassifier
    >>> from casemate.adapters.sklearn import make
    >>> x = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    >>> data = Dataset(train=(x, [0, 0, 1, 1]), holdout=(x, [0, 0, 1, 1]))
    >>> stump = make(DecisionTreeClassifier().fit(x, [0, 0, 1, 1]))  # says 1 above 0
    >>> found = hop_skip_jump(stump, data, threat=Threat(norm="l2", radius=1.5, scale="raw"))
    >>> found[0].quantity, found[0].value  # the two points nearer than 1.5 to the border fall
    ('robust_accuracy', 0.5)

    Source: Chen, Jordan and Wainwright 2020, arXiv:1904.02144.
    """
    run = require(run)
    radius, _ = ball(threat)
    threat = cast("Threat", threat)  # ball() refused None
    if min(iterations, n_probes, max_probes) < 1 or mode not in MODES:
        got = f"{iterations}, {n_probes}, {max_probes}, {mode!r}"
        raise InvalidData(
            "hop_skip_jump needs iterations, n_probes, max_probes >= 1 and mode "
            f"{' or '.join(map(repr, MODES))}; got {got}"
        )
    x = data.holdout.x
    out = np.array(x)
    if radius == 0 or len(x) == 0:
        return out
    cells = math.prod(x.shape[1:])
    places = np.arange(len(x))
    if threat.n_queries is not None:
        left = threat.n_queries - run.counter.tally["rows"]
        # which points are dropped must not depend on their order
        places = np.argsort(sample_ids(x), kind="stable")[: max(1, left // LEAST_ROWS)]
    size = max(1, MAX_CELLS // (max(1, cells) * max(max_probes, MAX_ASKED)))
    batches = [places[first : first + size] for first in range(0, len(places), size)]
    pool = _Pool.of(data, cells)
    lost, spent = 0, False
    for done, at in enumerate(batches):
        begin = time.perf_counter()
        share = len(at) / sum(map(len, batches[done:]))
        few = data.holdout.take(at)
        repair = Repair.of(few.x, data.schema, threat)
        hunt = _Hunt.of(target, few, pool, repair=repair, mode=mode, share=share, run=run)
        try:
            hunt.start(pool)
            hunt.advance(1, min(n_probes, max_probes))
            if done == 0 and run.deadline is not None:  # a start costs about as much as an iteration
                seconds = (time.perf_counter() - begin) * len(batches)
                iterations = run.affordable("iterations", iterations, seconds, least=1)
            for turn in range(2, iterations + 1):
                hunt.advance(turn, min(int(n_probes * math.sqrt(turn)), max_probes))
                run.report("iterations", done * iterations + turn, len(batches) * iterations)
            hunt.finish()
            run.report("iterations", (done + 1) * iterations, len(batches) * iterations)
        except BudgetExhausted:
            spent = True
        out[at] = hunt.rows.reshape(len(at), *x.shape[1:])
        lost += int(np.isinf(hunt.size).sum())
    if lost:
        run.notes.append(f"For {lost} of {len(x)} points no example was found at any distance.")
    if spent or len(places) < len(x):
        skipped = len(x) - len(places)
        run.notes.append(
            f"The query budget of {threat.n_queries} rows ended the search: {skipped} of {len(x)} points were not "
            "attacked, the others may have nearer examples."
        )
    return out


@dataclass(frozen=True)
class _Pool:
    """Labelled rows that an attacker owns; those kept, and their order, follow from their content."""

    x: np.ndarray  # (pool, cells)
    y: np.ndarray  # (pool,)

    @staticmethod
    def of(data: Dataset, cells: int) -> _Pool:
        part = data.reference or data.train
        rows = np.asarray(part.x, np.float64).reshape(len(part), -1)
        kept = np.argsort(sample_ids(rows), kind="stable")[: max(1, POOL_CELLS // max(1, cells))]
        return _Pool(rows[kept], part.y[kept])


def _signs(ids: np.ndarray, shape: tuple[int, int], seed: int) -> np.ndarray:
    """Return for each id an array of ``shape`` of random signs, -1.0 or 1.0; 48 come from one draw."""
    count = math.prod(shape)
    words = (uniforms(ids, -(-count // 48), seed) * 2.0**48).astype("<u8")  # (n, words)
    octets = words.view(np.uint8).reshape(len(ids), -1, 8)[:, :, :6].reshape(len(ids), -1)
    bits = np.unpackbits(octets, axis=1, count=count)
    return np.where(bits, 1.0, -1.0).reshape(len(ids), *shape)


@dataclass(frozen=True)
class _Hunt:
    """The search for some points; ``rows`` and ``size`` hold the nearest example of each, filled in place.

    Shifts are changes in units of distance, zero in cells that may not move. ``at`` are places of points that are
    still searched: (m,) of n.
    """

    target: Target
    repair: Repair
    x: np.ndarray  # (n, d)
    unit: np.ndarray  # (n, d)
    inverse: np.ndarray  # (n, d) of the unit, 0 in cells that may not move
    label: np.ndarray  # (n,) true class
    goal: int | None
    ids: np.ndarray  # (n,)
    norm: str
    mode: str
    run: Run
    limit: float  # rows that may have been asked when this search ends
    n_free: np.ndarray  # (n,) cells that may move, at least 1
    holes: bool  # in the points or in the rows they start from
    rows: np.ndarray  # (n, d)
    size: np.ndarray  # (n,) inf: nothing found yet
    zoom: np.ndarray  # (n,) of the probes
    pace: np.ndarray  # (n,) length of a step in distances
    trend: np.ndarray  # (n, d) directions so far, later ones weigh more

    @staticmethod
    def of(
        target: Target, split: Split, pool: _Pool, *, repair: Repair, mode: str, share: float, run: Run
    ) -> _Hunt:
        """Begin for the points of ``split``, with a ``share`` of what is left of the query budget."""
        x, threat = repair.x.reshape(len(split), -1), repair.threat
        unit = repair.unit.reshape(x.shape)
        used = run.counter.tally["rows"]
        limit = math.inf if threat.n_queries is None else used + share * (threat.n_queries - used)
        return _Hunt(
            target=target,
            repair=repair,
            x=x,
            unit=unit,
            inverse=np.where(unit > 0, 1.0 / np.where(unit > 0, unit, 1.0), 0.0),
            label=split.y,
            goal=threat.goal,
            ids=sample_ids(x),
            norm=threat.norm or "linf",
            mode=mode,
            run=run,
            limit=limit,
            n_free=np.maximum(1, (unit > 0).sum(1)),
            holes=bool(np.isnan(x).any() or np.isnan(pool.x).any()),
            rows=x.copy(),
            size=np.full(len(x), np.inf),
            zoom=np.ones(len(x)),
            pace=np.full(len(x), 0.5),
            trend=np.zeros(x.shape),
        )

    # ---- asking ----

    def hits(self, rows: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Return which rows (m, d) of the points ``at`` the model gets wrong, or calls the goal."""
        if self.run.counter.tally["rows"] + len(rows) > self.limit:
            raise BudgetExhausted(f"the share of the query budget is used up at {self.limit:.0f} rows")
        shape = self.repair.x.shape[1:]
        labels = self.target.labels(rows.reshape(-1, *shape).astype(self.repair.dtype))
        return np.asarray(labels != self.label[at] if self.goal is None else labels == self.goal)

    def ask(self, shifts: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ask the repaired rows of shifts (m, k, d), keep what is nearer; return hits (m, k) and the shifts made."""
        m, k, d = shifts.shape
        each = np.repeat(at, k)
        wanted = self.x[at, None] + shifts * self.unit[at, None]
        flat = self.repair.feasible(wanted.reshape(-1, *self.repair.x.shape[1:]), each).reshape(-1, d)
        hit, rows = self.hits(flat, each).reshape(m, k), flat.reshape(m, k, d)
        moved = self.shift(rows, at)
        size = np.where(hit, self.length(moved), np.inf)
        first = size.argmin(1)
        nearest = size[np.arange(m), first]
        closer = np.flatnonzero(nearest < self.size[at])
        self.size[at[closer]] = nearest[closer]
        self.rows[at[closer]] = rows[closer, first[closer]]
        return hit, moved

    def shift(self, rows: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Return the shifts (m, k, d) that lead from the points ``at`` to rows; holes and frozen cells give zero."""
        gap = (rows - self.x[at, None]) * self.inverse[at, None]
        return np.nan_to_num(gap, copy=False) if self.holes else gap

    def part(self, at: np.ndarray) -> np.ndarray:
        """Return the length of a probe (m,) as a part of the distance."""
        return np.minimum(PROBE / self.n_free[at], LONGEST)

    def now(self, at: np.ndarray) -> np.ndarray:
        """Return the shifts (m, d) to the nearest examples of the points ``at``."""
        return self.shift(self.rows[at, None], at)[:, 0]

    def open(self) -> np.ndarray:
        """Return the places of points that have an example to bring nearer."""
        return np.flatnonzero(np.isfinite(self.size) & (self.size > 0))

    def length(self, shifts: np.ndarray) -> np.ndarray:
        if self.norm == "linf":
            return np.asarray(np.abs(shifts).max(-1, initial=0.0))
        return np.asarray(np.sqrt(np.square(shifts).sum(-1)))

    def shortened(self, shifts: np.ndarray, size: np.ndarray) -> np.ndarray:
        """Return shifts (..., d) brought to ``size`` (...): scaled under l2, clipped under linf."""
        if self.norm == "linf":
            return np.clip(shifts, -size[..., None], size[..., None])
        length = self.length(shifts)
        return np.asarray(shifts * (size / np.where(length > 0, length, 1.0))[..., None])

    # ---- a first example ----

    def start(self, pool: _Pool) -> None:
        """Find an example for each point, from other rows or from the box, and bring it to the boundary."""
        everyone = np.arange(len(self.x))
        self.size[self.hits(self.x, everyone)] = 0.0
        at = np.flatnonzero(self.size > 0)
        order = self.donors(pool, at)  # (m, most)
        asked = 0
        for k in DONORS[self.mode]:
            use = order[:, asked : asked + k]
            some = (use >= 0).any(1)
            if not some.any():
                break
            use, part = use[some], at[some]
            shifts = self.shift(pool.x[use], part)  # (m, k, d)
            shifts[use < 0] = 0.0  # no further donor: the point itself
            if asked == 0:  # the nearest ones also on the way
                size = self.length(shifts)
                parts = [self.shortened(shifts, size * share) for share in APPROACH[self.mode]]
                shifts = np.concatenate(parts, 1)
            self.ask(shifts, part)
            asked += k
            lost = np.isinf(self.size[at])
            at, order = at[lost], order[lost]
        self.corners(at)
        at = self.open()
        low = np.zeros(len(at))
        rounds = 2 if self.mode == "min_calls" else 7
        self.between(at, self.now(at), low, self.size[at].copy(), rounds)

    def donors(self, pool: _Pool, at: np.ndarray) -> np.ndarray:
        """Return places in the pool (m, most) of the nearest rows of another class (of the goal), then -1."""
        most = min(sum(DONORS[self.mode]), len(pool.x))
        out = np.full((len(at), most), -1)
        step = max(1, MAX_CELLS // max(1, pool.x.size))
        for first in range(0, len(at), step):
            part = at[first : first + step]
            size = self.length(self.shift(pool.x[None], part))  # (m, pool)
            wrong = pool.y != self.label[part, None] if self.goal is None else (pool.y == self.goal)[None]
            size = np.where(wrong & (size > 0), size, np.inf)
            near = np.argsort(size, axis=1, kind="stable")[:, :most]
            known = np.isfinite(np.take_along_axis(size, near, 1))
            out[first : first + step] = np.where(known, near, -1)
        return out

    def corners(self, at: np.ndarray) -> None:
        """Look for an example at random points and corners of the box, in turn; ten units off where it is open."""
        for turn, k in enumerate(CORNERS[self.mode]):
            if not len(at):
                return
            x, unit = self.x[at], self.unit[at]
            low, high = self.repair.low[at], self.repair.high[at]
            low, high = (
                np.where(np.isfinite(low), low, x - 10 * unit),
                np.where(np.isfinite(high), high, x + 10 * unit),
            )
            draws = uniforms(self.ids[at], k * x.shape[1], self.run.child_seed("box", turn))
            draws = draws.reshape(len(at), k, -1)
            draws[:, 1::2] = np.rint(draws[:, 1::2])
            rows = low[:, None] + draws * (high - low)[:, None]  # (m, k, d)
            self.ask(self.shift(rows, at), at)
            at = at[np.isinf(self.size[at])]

    def between(
        self, at: np.ndarray, ways: np.ndarray, low: np.ndarray, high: np.ndarray, rounds: int
    ) -> None:
        """Shorten ways (m, d) from size ``high`` (m,), where they succeed, towards ``low``, where they may not."""
        cuts = CUTS if self.mode == "min_calls" else 1
        row = np.arange(len(at))
        for _ in range(rounds if len(at) else 0):
            sizes = low[:, None] + (high - low)[:, None] * (np.arange(1, cuts + 1) / (cuts + 1))  # (m, cuts)
            hit, _ = self.ask(self.shortened(ways[:, None], sizes), at)
            first = np.where(hit.any(1), hit.argmax(1), cuts)
            edges = np.column_stack([low, sizes, high])
            low, high = edges[row, first], edges[row, first + 1]

    # ---- an iteration ----

    def advance(self, turn: int, n_probes: int) -> None:
        """Estimate a direction for each open point and look along it for something nearer."""
        at = self.open()
        if not len(at):
            return
        shift, before = self.now(at), self.size[at].copy()
        way = self.direction(at, shift, turn, n_probes)
        look = self.fan if self.mode == "min_calls" else self.creep
        look(at, shift, way, before, turn)
        stuck = self.size[at] >= before * (1 - 1e-9)
        grown = np.where(self.zoom[at] >= 8, 0.25, 2 * self.zoom[at])
        self.zoom[at] = np.where(stuck, grown, 1.0)

    def direction(self, at: np.ndarray, shift: np.ndarray, turn: int, n_probes: int) -> np.ndarray:
        """Return the estimated shift (m, d) of norm one that leads deepest into the wrong class (paper, eq. 16)."""
        (m, d), n = shift.shape, n_probes
        free, n_free = self.inverse[at] > 0, self.n_free[at]
        part = np.minimum(self.part(at) * self.zoom[at], 1.0)  # (m,) of the distance, all cells together
        cell = self.size[at] * part / (np.sqrt(n_free) if self.norm == "l2" else 1.0)
        signs = _signs(self.ids[at], (n, d), self.run.child_seed("probes", turn))
        probe = signs * (cell[:, None] * free)[:, None]
        whole = self.repair.whole & free
        if whole.any():
            grain = np.where(whole, self.inverse[at], 1.0)[:, None]  # (m, 1, d)
            mean = np.maximum(np.abs(probe) / grain, 1.0 / n_free[:, None, None])
            coin = uniforms(self.ids[at], n * d, self.run.child_seed("coins", turn)).reshape(m, n, d)
            jump = np.sign(probe) * np.floor(mean + coin) * grain
            probe = np.where(whole[:, None], jump, probe)
        hit, moved = self.ask(shift[:, None] + probe, at)
        mean = hit.mean(1, keepdims=True)
        mixed = (mean > 0) & (mean < 1)
        weight = np.where(mixed, hit - mean, np.where(hit, 1.0, -1.0))
        estimate = steepest(np.einsum("mn,mnd->md", weight, moved - shift[:, None]), "l2")
        self.trend[at] = MEMORY[self.norm] * self.trend[at] + n * estimate
        return np.asarray(steepest(self.trend[at], self.norm))

    def fan(self, at: np.ndarray, shift: np.ndarray, way: np.ndarray, size: np.ndarray, turn: int) -> None:
        """Ask all steps at all shares of the distance in one call, then cut finer where the nearest hit was."""
        m, d = shift.shape
        steps = (size * self.pace[at])[:, None] * STEPS  # (m, steps)
        ways = shift[:, None] + steps[..., None] * way[:, None]  # (m, steps, d)
        sizes = np.broadcast_to(size[:, None, None] * SHARES, (m, len(STEPS), len(SHARES)))
        hit, _ = self.ask(self.shortened(ways[:, :, None], sizes).reshape(m, -1, d), at)
        depth = np.where(hit.reshape(sizes.shape), np.arange(len(SHARES)), -1).max(2)  # (m, steps)
        step = depth.argmax(1)
        depth = depth.max(1)
        pace = self.pace[at] * np.where(depth < 0, 0.5, STEPS[step])
        self.pace[at] = np.where(pace < SHORTEST, 1.0, np.minimum(pace, 1.0))
        edges = np.append(SHARES, 0.0)
        gap = edges[depth] - edges[depth + 1]
        # where it is wider than a probe is long, the next probes would not meet the border
        wide = np.flatnonzero((depth >= 0) & (gap > self.part(at)))
        low, high = (size[wide] * edges[depth[wide] + more] for more in (1, 0))
        self.between(at[wide], ways[wide, step[wide]], low, high, 1)

    def creep(self, at: np.ndarray, shift: np.ndarray, way: np.ndarray, size: np.ndarray, turn: int) -> None:
        """Halve the step until it succeeds, then shorten by leaps, then bisect: one row a point and call."""
        step = size / math.sqrt(turn)  # (m,) as in the paper
        low, high = np.zeros(len(at)), np.full(len(at), np.inf)  # shares of the distance

        def look(which: np.ndarray, share: float) -> np.ndarray:
            ways = (shift + way * step[:, None])[which]
            hit, _ = self.ask(self.shortened(ways, size[which] * share)[:, None], at[which])
            high[which[hit[:, 0]]] = share
            return hit[:, 0]

        left = np.arange(len(at))
        for _ in range(6):
            if not len(left):
                break
            left = left[~look(left, 0.98)]
            step[left] /= 2
        left = won = np.flatnonzero(np.isfinite(high))
        for share in (0.93, 0.8, 0.5):
            if not len(left):
                break
            further = look(left, share)
            low[left[~further]] = share
            left = left[further]
        ways = shift[won] + way[won] * step[won, None]
        self.between(at[won], ways, size[won] * low[won], size[won] * high[won], 2)

    def finish(self) -> None:
        """Bring cells back, then the whole change once more along its own line."""
        self.polish()
        at = self.open()
        rounds = 2 if self.mode == "min_calls" else 5
        self.between(at, self.now(at), 0.9 * self.size[at], self.size[at].copy(), rounds)

    def polish(self) -> None:
        """Bring single cells of a table back towards their original: alone first, then as many as go together."""
        if self.norm != "l2" or self.repair.schema.input != "table":
            return  # under linf only the largest cells count
        factors = FACTORS[self.mode]
        for _ in range(2):
            at = self.open()
            if not len(at):
                return
            shift = self.now(at)
            cells = np.argsort(-np.abs(shift), axis=1, kind="stable")[:, :MAX_SINGLES]  # (m, c)
            held = np.take_along_axis(shift, cells, 1)
            m, c = cells.shape
            alone = np.broadcast_to(shift[:, None, None], (m, c, len(factors), shift.shape[1])).copy()
            np.put_along_axis(alone, cells[:, :, None, None], (held[..., None] * factors)[..., None], 3)
            hit, _ = self.ask(alone.reshape(m, -1, shift.shape[1]), at)
            hit = hit.reshape(m, c, -1)
            factor = np.where(hit.any(2), factors[hit.argmax(2)], 1.0)  # (m, c) the smallest that passes
            gain = np.square(held) * (1 - np.square(factor))
            rank = np.argsort(np.argsort(-gain, axis=1, kind="stable"), axis=1, kind="stable")
            n_back = (gain > 0).sum(1)
            tries = []
            for share in TOGETHER:
                some = np.where(rank < np.ceil(n_back * share)[:, None], held * factor, held)
                tries.append(shift.copy())
                np.put_along_axis(tries[-1], cells, some, 1)
            if self.mode == "min_calls":
                self.ask(np.stack(tries, 1), at)
                continue
            left = np.flatnonzero(n_back > 1)
            for attempt in tries[::2]:
                if len(left):
                    hit, _ = self.ask(attempt[left][:, None], at[left])
                    left = left[~hit[:, 0]]
