# SPDX-License-Identifier: Apache-2.0
"""Whether a local explanation would be given again: other seeds, and rows a little beside.

What it measures: the same held-out rows are explained by ``lime`` with several fresh seeds. ``top_changes`` is the
share of rows whose strongest column is not the same every time; ``top_k_agreement`` the overlap (Jaccard) of the
five strongest columns between two seeds; ``local_fit`` the mean R2 of the explanations. ``neighbour_shift`` is the
squared change of an explanation when the row moves a little, relative to its squared size: 0 for none, 4 if every
sign turns.

What the attacker knows: there is no attacker. This is a check of reliability: it does not say whether somebody can
make explanations lie, and a stable explanation may still be wrong (see ``local_fit``).

Formula: top-k sets by the absolute coefficient (half the sum over classes), k = 5 or half the features, whichever is
less; overlap |A and B| / |A or B|, averaged over pairs of seeds, then over rows. For ``neighbour_shift`` each
numeric column that may change moves by a normal of 0.1 spreads (cut at 0.3, inside its bounds, whole numbers stay
whole, rules of the schema hold), and the moved row is explained with the same seeds, so with the same perturbed rows.
With ``D_s`` the change of the coefficients under seed s, ``sum of D_s . D_t over s != t, divided by S (S - 1)``
estimates the squared size of the true change: noise of different seeds is independent and drops out, so a noisy
explainer is not called unstable for its noise. It is divided by the mean squared size of the explanations.

Intervals hold for other rows and other seeds. All rows are explained from the same perturbed rows of a seed, so
their luck is shared, and no number of rows averages it out. The variance between seeds is the jackknife's, from
leaving out one seed at a time; it is added to the variance between rows or people. It has as many degrees of freedom
as there are seeds, less one: few seeds give wide intervals. It cannot see what no seed showed: where all rows get
nearly one explanation, seeds that agree are few observations, however many the rows.

Cost: ``2 x n_seeds`` runs of ``lime``, each ``n_samples`` predictions.

Pitfalls: more samples a run make seeds agree more: the numbers are about ``lime`` at this ``n_samples``, and agree with
each other by chance where few columns exist. Rules are quarters of the data, so a small step that crosses an edge
changes an explanation by design, most of all from a value that many rows share, such as a gain of 0. Explanations may
agree because the model is simple there, or because the kernel is so wide that all rows get nearly the same one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from casemate.core import stats
from casemate.core.data import Dataset
from casemate.core.errors import InvalidData
from casemate.core.methods import Quantity, method
from casemate.core.run import Run, require
from casemate.core.schema import violations
from casemate.core.types import LABELS, SCORES, Detail, Explanation, Measurement, Note, Table, Target, Threat
from casemate.explanation import cases
from casemate.explanation.perturb import drawn_rows

STEP, FURTHEST = 0.1, 0.3  # spreads


@method(
    kind="check",
    needs={LABELS},
    prefers={SCORES},
    tasks={"binary", "multiclass", "regression"},
    inputs={"table"},
    quick={"n_rows": 50, "n_seeds": 8, "n_samples": 1024},
    deep={"n_rows": 500, "n_seeds": 16},
    cost="2 x n_seeds x n_samples predictions",
    title={"en": "Stability of local explanations", "zh": "局部解释的稳定性"},
    reference="arXiv:1806.08049",
    uses=("lime",),
    quantities={
        "top_changes": Quantity(
            worse="higher",
            unit="share",
            null=0.0,
            en="rows whose strongest column changes with the seed",
            zh="作用最大的特征随随机种子改变的行的比例",
        ),
        "top_k_agreement": Quantity(
            worse="lower",
            en="overlap of the strongest columns between seeds",
            zh="不同随机种子之间作用最大的各特征的重合度",
        ),
        "local_fit": Quantity(
            worse="lower",
            headline=False,
            en="local fit of the explanations (weighted R2)",
            zh="解释的局部拟合度（加权 R2）",
        ),
        "neighbour_shift": Quantity(
            worse="higher",
            headline=False,
            en="squared change of an explanation when the row moves a little, relative to its squared size",
            zh="样本微小变化时解释的平方变化（相对于解释本身的平方大小）",
        ),
    },
)
def explanation_stability(
    target: Target,
    data: Dataset,
    *,
    n_rows: int = 100,
    n_seeds: int = 8,
    n_samples: int = 4096,
    top_k: int = 5,
    run: Run | None = None,
) -> list[Measurement]:
    """Explain the same rows with several seeds, and rows a little beside them, and say what stays.

    Args:
        target: any model of tables.
        data: rows of holdout are explained.
        n_rows: how many, drawn by the seed.
        n_seeds: how often each is explained, at least 3.
        n_samples: perturbed rows of each run of ``lime``.
        top_k: size of the sets compared.
        run: given by the harness.

    Returns:
        top_changes, top_k_agreement, local_fit, neighbour_shift.

    Raises:
        InvalidData: fewer than 3 seeds, or sizes below 1.

    >>> from casemate.adapters.sklearn import make
    >>> from sklearn.linear_model import LinearRegression
    >>> x = np.random.default_rng(0).normal(size=(200, 3))
    >>> model = LinearRegression().fit(x, x @ [3.0, 1.0, 0.0])
    >>> data = Dataset(train=(x, x[:, 0]), holdout=(x, x[:, 0]))
    >>> found = explanation_stability(make(model, task="regression"), data, n_rows=20, n_samples=512)
    >>> found[0].quantity, found[0].n
    ('top_changes', 20)

    Source: Alvarez-Melis and Jaakkola 2018, arXiv:1806.08049, for the question; the estimator is our own.
    """
    run = require(run)
    if n_seeds < 3 or n_rows < 1 or top_k < 1:
        raise InvalidData(
            f"explanation_stability needs n_seeds >= 3, n_rows >= 1, top_k >= 1; got {n_seeds}, {n_rows}, {top_k}"
        )
    near = data.with_holdout(drawn_rows(data.holdout, n_rows, run.rng("rows")))
    person = near.holdout.person
    n_units = len(near.holdout) if person is None else len(np.unique(person))
    if n_units < 2:
        few = "a mean over rows needs at least 2 rows or people"
        return [run.unresolved(name, few, n_units) for name in run.card.quantities]
    moved, feasible = _moved(near, run)
    beside = near.mapped(lambda part: replace(part, x=moved) if part is near.holdout else part)
    rows = range(len(near.holdout))
    seeds = [run.child_seed("again", again) for again in range(n_seeds)]

    def explained(some: Dataset, seed: int) -> Explanation:
        found: Explanation = replace(run, seed=seed).call(
            "lime", target, some, rows=rows, n_samples=n_samples
        )
        return found

    once = []
    for done, seed in enumerate(seeds):
        once.append(explained(near, seed))
        run.report("seeds", done + 1, n_seeds)
    values = np.stack([one.values for one in once])  # (seeds, rows, features, outputs)
    size = np.abs(values).sum(3)
    order = np.argsort(-size, axis=2, kind="stable")
    k = min(top_k, max(1, size.shape[2] // 2))
    table = Table(
        name="strongest column",
        columns=("column", "rows and seeds"),
        rows=tuple(
            (once[0].names[j], int(count))
            for j, count in sorted(enumerate(np.bincount(order[:, :, 0].ravel())), key=lambda pair: -pair[1])
            if count
        )[:10],
    )
    told = Note(text=f"{n_seeds} seeds; sets of {k} of {size.shape[2]} columns. No attacker is assumed.")
    told_of: list[Detail] = [table, told]
    if run.show_records:
        told_of.append(cases.table(once, near.holdout.x, data.schema, level=run.level))
    fits = np.stack([one.fit.mean(1) for one in once if one.fit is not None])  # (seeds, rows)

    def changes(some: list[int]) -> np.ndarray:
        return np.asarray((order[some, :, 0] != order[some[0], :, 0]).any(0), np.float64)

    def overlap(some: list[int]) -> np.ndarray:
        return _overlap(order[some, :, :k], size.shape[2])

    def fit(some: list[int]) -> np.ndarray:
        return np.asarray(fits[some].mean(0))

    every = list(range(n_seeds))
    changed = stats.proportion(changes(every), clusters=person, level=run.level)
    alike, close = (stats.mean(f(every), clusters=person, level=run.level) for f in (overlap, fit))
    return [
        run.measured("top_changes", _widened(changed, changes, every, 0.0, 1.0), told_of),
        run.measured("top_k_agreement", _widened(alike, overlap, every, 0.0, 1.0)),
        run.measured("local_fit", _widened(close, fit, every, -np.inf, 1.0)),  # R2 is at most 1
        _shift(values, [explained(beside, seed) for seed in seeds], feasible, person, run),
    ]


def _widened(
    over_rows: stats.Interval,
    of: Callable[[list[int]], np.ndarray],
    seeds: list[int],
    least: float,
    most: float,
) -> stats.Interval:
    """Add the variance between seeds to an interval over rows; ``of`` gives the rows' values by some of the seeds."""
    n = len(seeds)
    without = np.array([of([seed for seed in seeds if seed != out]).mean() for out in seeds])  # (seeds,)
    value = over_rows.value
    over_seeds = stats.mean(n * value - (n - 1) * without, level=over_rows.level)  # of Tukey's pseudo-values
    margin = over_seeds.high - over_seeds.value
    low, high = (
        value + way * np.hypot(end - value, margin) for way, end in ((-1, over_rows.low), (1, over_rows.high))
    )
    # rounding may leave a value beside what is possible
    return replace(over_rows, low=float(min(value, max(least, low))), high=float(max(value, min(most, high))))


def _overlap(top: np.ndarray, n_features: int) -> np.ndarray:
    """Return the mean Jaccard overlap of top-k sets (seeds, rows, k) over pairs of seeds (rows,)."""
    inside = np.zeros((*top.shape[:2], n_features), bool)
    np.put_along_axis(inside, top, True, 2)
    pairs = list(itertools.combinations(inside, 2))
    return np.asarray(sum((a & b).sum(1) / (a | b).sum(1) for a, b in pairs) / len(pairs))


def _shift(
    values: np.ndarray, beside: list[Explanation], feasible: np.ndarray, person: np.ndarray | None, run: Run
) -> Measurement:
    """Estimate the squared size of the true change, relative to the explanations, without the noise of the seeds."""
    kept = None if person is None else person[feasible]
    n_units = int(feasible.sum()) if kept is None else len(np.unique(kept))
    if n_units < 2:
        return run.unresolved("neighbour_shift", "no row can be moved a little inside the schema", n_units)
    change = (np.stack([one.values for one in beside]) - values)[:, feasible]
    flat = [part.reshape(*part.shape[:2], -1) for part in (change, values[:, feasible])]

    def sizes(some: list[int]) -> np.ndarray:
        return np.stack([_squared(part[some]) for part in flat])  # (2, rows)

    def ratio(some: list[int]) -> np.ndarray:
        moved, size = sizes(some) / sizes(some)[1].mean()
        return np.asarray(moved + moved.mean() * (1 - size))  # linearised: its mean is the ratio of the means

    every = list(range(len(values)))
    scales = [sizes([seed for seed in every if seed != out])[1].mean() for out in every]
    if min(scales) <= 0:
        return run.unresolved(
            "neighbour_shift", "the explanations are not distinguishable from noise", n_units
        )
    over_rows = stats.mean(ratio(every), clusters=kept, level=run.level)
    shift = _widened(over_rows, ratio, every, -np.inf, np.inf)
    moved = Note(
        text=f"{int(feasible.sum())} rows moved by about {STEP} spreads in each column that may change."
    )
    return run.measured("neighbour_shift", shift, [moved])


def _squared(drawn: np.ndarray) -> np.ndarray:
    """Return the squared size of the mean of draws (seeds, rows, entries), without their own noise (rows,)."""
    n = len(drawn)
    return np.asarray((np.square(drawn.sum(0)).sum(1) - np.square(drawn).sum((0, 2))) / (n * (n - 1)))


def _moved(data: Dataset, run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Move each row a little inside the schema; return the rows (n, d) and which moved without breaking a rule."""
    x, schema = data.holdout.x, data.schema
    grouped = {name for group in schema.groups for name in group}
    free = np.array(
        [c.kind != "category" and not c.immutable and c.name not in grouped for c in schema.columns]
    )
    draw = np.clip(STEP * run.rng("neighbours").normal(size=x.shape), -FURTHEST, FURTHEST)
    step = np.where(free, draw * [c.spread for c in schema.columns], 0.0)
    for sign, way in ((1, "increasing"), (-1, "decreasing")):
        one_way = np.array([c.monotone == way for c in schema.columns])
        step = np.where(one_way, sign * np.abs(step), step)
    whole = np.array([c.kind == "integer" for c in schema.columns])
    moved = x + np.where(whole, np.round(step), step)
    low, high = (np.array([getattr(c, end) for c in schema.columns]) for end in ("low", "high"))
    moved = np.where(free & (moved != x), np.clip(moved, np.minimum(low, x), np.maximum(high, x)), x)
    # a whole step is at most a spread: half of one is rounded up
    broken = violations(x, moved, Threat(norm="linf", radius=1.0, scale="spread"), schema)
    feasible = ~np.logical_or.reduce(list(broken.values()))
    changed = np.where(np.isnan(x), False, moved != x).any(1)
    return np.where(feasible[:, None], moved, x), feasible & changed
