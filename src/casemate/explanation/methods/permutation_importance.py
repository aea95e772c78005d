# SPDX-License-Identifier: Apache-2.0
"""Permutation importance (Breiman 2001; Fisher, Rudin and Dominici 2019, arXiv:1801.01489).

What it measures: how much the model's loss on held-out rows rises when one column is taken from another row,
that is, how much *this model* leans on the column. It says nothing about causes, and nothing about the importance
a refitted model would give to it.

What it needs: predictions only. Loss: the Brier score (squared distance of the scores from the outcome, 0 to 2)
where the target gives scores, else the share of errors; ``loss="log"`` for log loss. For regression the squared
error, or ``loss="absolute"``.

Formula: ``I_j = mean over repeats and rows i of  loss(x_i with column j of row d(i)) - loss(x_i)``, where d is in
every repeat a random ring through the rows, so that each ordered pair of different rows is equally likely and
the mean is unbiased. Columns that are one-hot together move together and are one feature. The rows (or people)
are split into two halves and donors stay in their half. Intervals come from ``core.stats.donor_mean``: receivers
and donors are both random, and the rows of one person count as one. A person's rows are permuted as they come.
``values +- z errors`` is that interval.

``rank_agreement`` is Spearman's correlation of the importances in the two halves, which share no person: how far
the order of columns would be found again on other data of half the size. Its interval is a BCa bootstrap over
people (in at most 400 random blocks) of the linearised importance: what a row contributes as receiver plus what
it contributes as donor. Where a redraw changes the order, it is widened to Fieller's interval, which takes the
columns as the sample: few columns tell little about agreement. Columns of equal importance have no order to agree
on, and lower it.

Cost: ``features x repeats`` predictions a row, in calls of at most 2**22 cells.

Pitfalls: permuting a column that goes with another makes rows that do not exist, and the model's answer there is
extrapolation: importance may be too high, or shared and thus low for both. The measured row names the pair most
alike. Log loss is clipped at 1e-15, so one confident error weighs 34.5 nats and a forest with pure leaves gets wide
intervals: that is why the bounded Brier score is the default. Picking the strongest of many columns is optimistic:
its interval is for that column, not for the maximum.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from casemate.core import stats
from casemate.core.data import Dataset
from casemate.core.errors import InvalidData
from casemate.core.methods import Quantity, method
from casemate.core.run import Run, require
from casemate.core.schema import Schema
from casemate.core.types import LABELS, SCORES, Explanation, Measurement, Note, Target
from casemate.core.wording import together

MAX_CELLS = 2**22  # one predict call
N_BLOCKS = 400  # people are redrawn in blocks: enough for an interval, and the cost stays fixed
Loss = Literal["brier", "log", "error", "squared", "absolute"]


@method(
    kind="explainer",
    needs={LABELS},
    prefers={SCORES},
    tasks={"binary", "multiclass", "regression"},
    inputs={"table"},
    quick={"repeats": 3, "max_rows": 2_000},
    deep={"repeats": 30, "max_rows": 50_000},
    cost="features x repeats predictions a row",
    title={"en": "Permutation importance", "zh": "置换特征重要性"},
    reference="arXiv:1801.01489",
    quantities={
        "rank_agreement": Quantity(
            worse="lower",
            en="rank agreement of importances between two halves of the people",
            zh="两半人群之间特征重要性的秩相关",
        )
    },
)
def permutation_importance(
    target: Target,
    data: Dataset,
    *,
    repeats: int = 10,
    max_rows: int = 10_000,
    loss: Loss | None = None,
    run: Run | None = None,
) -> Explanation:
    """Return how much the held-out loss rises when a column is permuted: how much the model leans on it.

    Not a causal effect, and not the importance for a refitted model; misleading for columns that go together.

    Args:
        target: any model of tables.
        data: its held-out rows are used.
        repeats: permutations a column.
        max_rows: rows used; more are drawn by the seed.
        loss: None for "brier" (with scores), "error" (labels only) or "squared" (regression); or "log", "absolute".
        run: given by the harness.

    Returns:
        Explanation with values and errors (1, features, 1), base (1,) the mean loss, and ``rank_agreement``.

    Raises:
        InvalidData: fewer than 4 rows or people, repeats below 1, or a loss that does not fit the task.

    >>> from casemate.adapters.sklearn import make
    >>> from sklearn.linear_model import LinearRegression
    >>> x = np.random.default_rng(0).normal(size=(200, 2))
    >>> model = LinearRegression().fit(x, 3 * x[:, 0])  # column 1 plays no part
    >>> data = Dataset(train=(x, 3 * x[:, 0]), holdout=(x, 3 * x[:, 0]))
    >>> why = permutation_importance(make(model, task="regression"), data)
    >>> [bool(low > 1) for low in (why.values - 3 * why.errors)[0, :, 0]]
    [True, False]

    Source: Fisher, Rudin and Dominici 2019, arXiv:1801.01489.
    """
    run = require(run)
    if repeats < 1 or max_rows < 4:
        got = f"{repeats}, {max_rows}"
        raise InvalidData(f"permutation_importance needs repeats >= 1 and max_rows >= 4; got {got}")
    rows = _Rows.drawn(data, max_rows, run)
    losses = _loss(target, loss)
    start = time.perf_counter()
    base = _in_calls(losses, rows.x, rows.y)  # (n,)
    names, features = _features(data.schema)
    seconds = (time.perf_counter() - start) * len(features)
    repeats = run.affordable("repeats", repeats, seconds, least=2)

    n = len(rows.y)
    importances, errors = np.zeros(len(features)), np.zeros(len(features))
    shares = np.zeros((n, len(features)))  # linearised: receiver + donor - importance in that half
    z = _z(run.level)
    for j, columns in enumerate(features):
        donors = np.stack(
            [rows.cycle(run.rng("donors", j, repeat)) for repeat in range(repeats)]
        )  # (repeats, n)
        changes = _changes(losses, rows, columns, donors) - base
        interval = stats.donor_mean(changes, donors, clusters=rows.person, level=run.level)
        importances[j], errors[j] = interval.value, (interval.high - interval.low) / (2 * z)
        given = np.zeros(n)
        for change, donor in zip(changes, donors, strict=True):
            given[donor] += change
        # each half by itself: taking off the importance of both would tie the halves to each other
        own = np.array([changes[:, rows.half == side].mean() for side in (0, 1)])
        shares[:, j] = changes.mean(0) + given / repeats - own[rows.half]
        run.report("columns", j + 1, len(features))
    return Explanation(
        values=importances[None, :, None],
        base=np.array([base.mean()]),
        errors=errors[None, :, None],
        names=names,
        n_records=rows.n_units,
        quality=(_agreement(rows, shares, run, Note(text=_warning(rows.x, data.schema))),),
    )


@dataclass(frozen=True)
class _Rows:
    """The rows in use: in an order of their own content, so that the order they came in does not matter."""

    x: np.ndarray  # (n, d)
    y: np.ndarray  # (n,)
    person: np.ndarray | None  # (n,)
    half: np.ndarray  # (n,) 0 or 1; a person's rows are in one half

    @staticmethod
    def drawn(data: Dataset, max_rows: int, run: Run) -> _Rows:
        x, y, person = data.holdout.x, data.holdout.y, data.holdout.person
        order = np.lexsort((y, *x.T))
        kept = order[np.sort(run.rng("rows").permutation(len(order))[:max_rows])]
        x, y = x[kept], y[kept]
        if person is not None:
            # people are numbered by first appearance in this order: their codes say nothing but who is who
            _, first, code = np.unique(person[kept], return_index=True, return_inverse=True)
            person = np.argsort(np.argsort(first))[code.reshape(-1)]
        unit = np.arange(len(y)) if person is None else person
        n_units = int(unit.max()) + 1 if len(unit) else 0
        side = (run.rng("halves").permutation(n_units) % 2)[unit]
        if n_units < 4 or min((side == 0).sum(), (side == 1).sum()) < 2:
            what = "rows" if person is None else "people"
            raise InvalidData(f"permutation_importance needs at least 4 held-out {what}; got {n_units}")
        return _Rows(x, y, person, side)

    @property
    def n_units(self) -> int:
        return len(self.y) if self.person is None else int(self.person.max()) + 1

    def cycle(self, rng: np.random.Generator) -> np.ndarray:
        """Return a donor for each row (n,): in each half, the next on a random ring of its rows."""
        donor = np.empty(len(self.y), np.int64)
        for side in (0, 1):
            ring = rng.permutation(np.flatnonzero(self.half == side))
            donor[ring] = np.roll(ring, -1)
        return donor


def _features(schema: Schema) -> tuple[tuple[str, ...], list[list[int]]]:
    """Return names and column places of what is permuted together, in column order."""
    place = {name: i for i, name in enumerate(schema.names)}
    member_of = {name: group for group in schema.groups for name in group}
    # dict.fromkeys: a group stands where its first column does
    groups = list(dict.fromkeys(member_of.get(name, (name,)) for name in schema.names))
    return tuple(map(together, groups)), [[place[name] for name in group] for group in groups]


def _loss(target: Target, loss: Loss | None) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the loss of each row (n,) as a function of inputs and labels."""
    regression = target.task == "regression"
    chosen = loss or ("squared" if regression else "brier" if target.has(SCORES) else "error")
    fitting = ("squared", "absolute") if regression else ("brier", "log", "error")
    if chosen not in fitting:
        known_losses = " or ".join(map(repr, fitting))
        raise InvalidData(f"loss {chosen!r} does not fit task {target.task!r}; use {known_losses}")

    def log(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return -np.log(np.clip(target.scores(x)[np.arange(len(y)), y], 1e-15, None))

    def brier(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        scores = target.scores(x)  # (n, classes)
        # sum_c (p_c - [c = y])^2 = sum_c p_c^2 + 1 - 2 p_y
        return np.asarray(np.square(scores).sum(1) + 1.0 - 2.0 * scores[np.arange(len(y)), y])

    known: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
        "brier": brier,
        "log": log,
        "error": lambda x, y: (target.labels(x) != y).astype(np.float64),
        "squared": lambda x, y: np.square(target.labels(x) - y),
        "absolute": lambda x, y: np.abs(target.labels(x) - y),
    }
    return known[chosen]


def _in_calls(losses: Callable[..., np.ndarray], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    size = max(1, MAX_CELLS // max(1, x.shape[1]))
    parts = [losses(x[first : first + size], y[first : first + size]) for first in range(0, len(y), size)]
    return np.concatenate(parts)


def _changes(
    losses: Callable[..., np.ndarray], rows: _Rows, columns: list[int], donors: np.ndarray
) -> np.ndarray:
    """Return the loss (repeats, n) of every row with ``columns`` taken from its donors, in few calls."""
    n, d = rows.x.shape
    at_once = max(1, MAX_CELLS // (n * d))  # repeats that fit into one call
    out = []
    for first in range(0, len(donors), at_once):
        some = donors[first : first + at_once]
        x = np.tile(rows.x, (len(some), 1))  # (repeats * n, d)
        x[:, columns] = rows.x[some.reshape(-1)][:, columns]
        out.append(_in_calls(losses, x, np.tile(rows.y, len(some))).reshape(len(some), n))
    return np.concatenate(out)


def _agreement(rows: _Rows, shares: np.ndarray, run: Run, note: Note) -> Measurement:
    """Compare the order of the columns between the halves; blocks of people are redrawn for the interval."""
    if shares.shape[1] < 2:
        return run.unresolved(
            "rank_agreement", "one feature only: there is no order to compare", rows.n_units
        )
    unit = np.arange(len(rows.y)) if rows.person is None else rows.person
    half_of = np.zeros(rows.n_units, np.int64)
    half_of[unit] = rows.half
    # a block holds people of one half only
    block_of = half_of + 2 * (run.rng("blocks").permutation(rows.n_units) % (N_BLOCKS // 2))
    _, block = np.unique(block_of[unit], return_inverse=True)
    block = block.reshape(-1)
    count = np.bincount(block).astype(np.float64)  # (blocks,)
    sums = np.stack([np.bincount(block, column) for column in shares.T], axis=1)  # (blocks, features)
    half = np.zeros(len(count), np.int64)
    half[block] = rows.half

    seen: set[float] = set()

    def agreement(sums: np.ndarray, count: np.ndarray, half: np.ndarray) -> float:
        means = [sums[half == side].sum(0) / max(1.0, count[half == side].sum()) for side in (0, 1)]
        # a half without any difference between columns has no order: no agreement was shown
        found = 0.0 if any(np.ptp(mean) == 0 for mean in means) else stats.spearman(*means)
        seen.add(found)
        return found

    found = stats.bootstrap(
        agreement, [sums, count, half], rng=run.rng("bootstrap"), n_resamples=1000, level=run.level
    )
    limits = [found.low, found.value, found.high]
    # ranks are no smooth statistic: near ties a bootstrap alone covers 70 %, so the few columns count as well
    if len(seen) > 1:
        limits += stats.spearman_limits(found.value, shares.shape[1], run.level)
    low, high = min(limits), max(limits)
    return run.measured("rank_agreement", replace(found, low=low, high=high, n=rows.n_units), [note])


def _warning(x: np.ndarray, schema: Schema) -> str:
    """Say which columns go together most, where permuting one leaves the data."""
    text = "Permuting one of several columns that go together asks the model about rows that do not exist"
    grouped = {name for group in schema.groups for name in group}
    known = ~np.isnan(x)
    mean = np.where(known, x, 0.0).sum(0) / np.maximum(1, known.sum(0))
    centred = np.where(known, x - mean, 0.0)  # (n, d)
    varies = np.abs(centred).max(0) > 0
    numeric = [
        i
        for i, c in enumerate(schema.columns)
        if varies[i] and c.kind != "category" and c.name not in grouped
    ]
    if len(numeric) < 2:
        return f"{text}."
    strength = np.abs(np.triu(np.corrcoef(centred[:, numeric].T), 1))
    first, second = (
        schema.names[numeric[int(i)]] for i in np.unravel_index(strength.argmax(), strength.shape)
    )
    return f"{text}; most alike here: {first} and {second} (absolute correlation {strength.max():.2f})."


def _z(level: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(0.5 + level / 2))
