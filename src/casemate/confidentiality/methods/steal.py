# SPDX-License-Identifier: Apache-2.0
"""Model stealing: a copy made of the target's answers (Tramer et al. 2016; Orekondy et al. 2019).

**What it measures.** ``fidelity``: how often a copy answers as the target does, on rows that were used for nothing
else. Not accuracy: a copy may be faithful and wrong. ``fidelity_data_only`` is the fidelity of a model trained on the
*true labels* of the same rows, without asking the target once; what the answers add to it is ``fidelity_gain``. Only
the gain is stolen: two good models agree because both are right. Both are drawn against the number of queries.
``extraction_error`` is the largest difference between the target's scores and those of a copy solved exactly.

**What the attacker knows.** The columns, and rows of the same kind as the target's training data, with their true
labels: ``data.reference`` if given, less what is also in train or holdout, else one half of the held-out people.
Fidelity is measured on the held-out rows (the other half), which are not asked on the attacker's account. The
attacker sees labels, and scores where the target shows them.

**Formula.** Exact extraction comes first: a model whose scores are a softmax of numbers linear in the columns (one
unknown for each number, each further category, each hole, and the bias) is solved from one answer more than it has
unknowns; see ``confidentiality/extraction.py``. The copy is tried on the attacker's rows, and kept where no score
differs by more than 1e-6; ``extraction_error`` is its error on the held-out rows. Otherwise a copy is learnt: linear
models, forests, boosting and a small network are trained on the answers (scores as soft labels, or the labels) or on
the true labels, and what agrees best with the target in a three-fold cross-validation *on the rows that were asked*
is kept, anew at every number of queries; all together, where no one of them is better by more than a standard error.
The data-only model is what agrees best with the true labels in the same cross-validation: a thief without access
would not keep a learner that suits the target, so the gain is not flattered by a poor baseline. Intervals are by
person; the gain is paired row by row.

**Cost.** The queries, and about sixty small fits for each point of the curve.

**Pitfalls.** A lower bound: an attacker with other learners, invented rows or more queries may do better. Linear
models that show labels only are not solved here, though a search along the decision boundary would (Lowd and Meek
2005). Scores rounded to a few digits stop the exact solution. They do not stop learning: the same question gets the
same rounded answer every time, so repeating it averages nothing, but *different* questions are rounded differently,
and a fit over many of them is as good as one over exact answers. A copy is judged by labels: where a model's label is
not its largest score (a tuned threshold), copies are learnt from the labels, even if the scores were solved. On rows
unlike the held-out ones the copy may differ.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from casemate.confidentiality import extraction
from casemate.confidentiality.surrogates import Learners, Trained, codes
from casemate.core import stats
from casemate.core.data import Dataset, Split
from casemate.core.errors import InvalidData
from casemate.core.limited import Limited
from casemate.core.methods import Quantity, method
from casemate.core.run import Run, require
from casemate.core.types import (
    LABELS,
    SCORES,
    Counter,
    Curve,
    Measurement,
    Note,
    PerRecord,
    Table,
    Target,
)

EXACT = 1e-6  # no score of an exact copy differs by more
LABELLED = (
    0.99  # of the labels at least are the largest score of a copy that is kept; ties may fall otherwise
)
TRIED = 1_000  # of the attacker's rows at most show whether a copy is exact
_LEAST = 8  # queries a copy is learnt from
_LEARNT = ("fidelity", "fidelity_gain", "fidelity_data_only")


@method(
    kind="attack",
    needs={LABELS},
    prefers={SCORES},
    inputs={"table", "image"},
    quick={"max_queries": 500, "points": 3},
    deep={"max_queries": 50_000, "points": 9},
    cost="the queries and about sixty small fits a point",
    title={"en": "Model stealing", "zh": "模型窃取"},
    reference="arXiv:1609.02943; arXiv:1812.02766",
    quantities={
        "fidelity": Quantity(
            worse="higher",
            unit="share",
            en="agreement of a copy with the model",
            zh="副本与原模型的一致率",
        ),
        "fidelity_gain": Quantity(
            worse="higher",
            null=0.0,
            en="what the answers add to the agreement",
            zh="模型的回答带来的一致率提升",
        ),
        "fidelity_data_only": Quantity(
            worse="higher",
            headline=False,
            unit="share",
            en="agreement of a model trained on the same rows' true labels",
            zh="只用同样的行及其真实标签做出的副本的一致率",
        ),
        "extraction_error": Quantity(
            worse="lower",
            headline=False,
            en="largest score difference of the solved copy",
            zh="方程求解所得副本的最大分数差",
        ),
    },
)
def steal(
    target: Target,
    data: Dataset,
    *,
    max_queries: int = 10_000,
    points: int = 6,
    exact: bool = True,
    run: Run | None = None,
) -> list[Measurement]:
    """Copy the target from its answers and measure how faithful the copy is; see the top of this file.

    Args:
        target: a classifier of tables or images.
        data: its reference rows, else half of its held-out rows, are the attacker's.
        max_queries: rows asked at most to learn from; ``Threat(n_queries=)`` bounds all queries together.
        points: of the curve, log-spaced up to all queries.
        exact: try to solve for a linear model first.
        run: given by the harness.

    Raises:
        InvalidData: fewer than 4 held-out rows or people, max_queries or points below 1.

    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from casemate.adapters.sklearn import make
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> X = (X - X.mean(0)) / X.std(0)
    >>> data = Dataset(train=(X[::2], y[::2]), holdout=(X[1::2], y[1::2]))
    >>> stolen = steal(make(LogisticRegression().fit(X[::2], y[::2])), data, max_queries=20, points=1)
    >>> stolen[-1].details[0].text.split(":")[0]  # 30 columns and the bias
    'extracted exactly with 31 queries'

    Source: Tramer et al. 2016, arXiv:1609.02943; Orekondy et al. 2019, arXiv:1812.02766.
    """
    run = require(run)
    if max_queries < 1 or points < 1:
        raise InvalidData(f"steal needs max_queries >= 1 and points >= 1; got {max_queries}, {points}")
    owned, kept, whose = _sides(data, run)
    budget = run.threat.n_queries if run.threat and run.threat.n_queries else np.inf
    judge = _unmetered(target)
    answers = judge.labels(kept.x)  # (m,)
    reason = "" if exact else "exact=False"
    solved = _solve(target, judge, data, owned, kept, budget) if exact else _Solved(told=reason)
    extracted = solved.measured(run, len(kept))

    n = int(min(len(owned), max_queries, np.inf if solved.copy else budget - solved.n_queries))
    if n < min(_LEAST, len(owned)):
        reason = f"{n} queries are left to learn from; raise Threat(n_queries=) or pass exact=False"
        return [*(run.unresolved(name, reason, len(kept)) for name in _LEARNT), extracted]
    rows = owned.take(run.rng("asked").permutation(len(owned))[:n])
    taught = {} if solved.copy else _answers(target, rows.x)
    truth = {"true labels": np.eye(len(target.classes))[rows.y]}
    learners = Learners.of(data.schema, rows, kept, run)
    alone, learnt = dict[int, Trained](), dict[int, Trained]()
    for size in np.unique(np.geomspace(n, min(16, n), points).round().astype(int)).tolist():  # log-spaced
        # the thief has the true labels as well, and may copy by them what the answers blur
        parts = {what: labels[:size] for what, labels in {**taught, **truth}.items()}
        tried = learners.tried(parts)
        alone[size] = learners.best({"true labels": parts["true labels"]}, tried, rows.y[:size])
        if taught:
            learnt[size] = learners.best(parts, tried, parts["labels"].argmax(1))
        run.report("rows", size, n)
    if solved.copy is not None:
        learnt = {solved.n_queries: Trained(solved.copy.scores(kept.x).argmax(1), "equations")}

    def share(found: Trained) -> stats.Interval:
        return stats.proportion(found.labels == answers, clusters=kept.person, level=run.level)

    copy, plain = learnt[max(learnt)], alone[n]
    curves = [
        _curve("fidelity by queries", {size: share(found) for size, found in learnt.items()}),
        _curve("fidelity by rows, data only", {size: share(found) for size, found in alone.items()}),
    ]
    commonest = float(np.bincount(answers).max() / len(answers))
    theft = Table(
        name="theft",
        columns=("what", "value"),
        rows=(
            ("rows queried", run.counter.tally["rows"]),
            ("of them to solve equations", solved.n_queries),
            ("the copy comes from", copy.learner),
            ("the data-only model is", plain.learner),
            ("agreement of always giving the commonest answer", round(commonest, 6)),
        ),
    )
    sees = "scores" if target.has(SCORES) else "labels"
    text = (
        f"The attacker owns {whose}, with their true labels, and sees {sees}; a stronger one may copy more."
    )
    hits, others = (found.labels == answers for found in (copy, plain))
    ids = [] if kept.ids is None else [PerRecord.of("fidelity", kept.ids, hits, kept.person)]
    gain = stats.paired_mean(others.astype(float), hits.astype(float), clusters=kept.person, level=run.level)
    return [
        run.measured("fidelity", share(copy), [*curves, theft, Note(text=text), *ids]),
        run.measured("fidelity_gain", gain),
        run.measured("fidelity_data_only", share(plain)),
        extracted,
    ]


def _sides(data: Dataset, run: Run) -> tuple[Split, Split, str]:
    """Return the attacker's rows and those to compare on, in an order of their content, and whose the first are."""
    kept = _ordered(data.holdout)
    unit = np.arange(len(kept)) if kept.person is None else codes(kept.person)
    n_units = int(unit.max()) + 1 if len(unit) else 0
    if data.reference is not None:
        owned = _ordered(_foreign(data))
        if len(owned) == 0:
            raise InvalidData(
                "all reference rows are rows of train or holdout, or of people there; an attacker needs others"
            )
        if n_units < 2:
            raise InvalidData(f"steal compares on at least 2 held-out rows or people; got {n_units}")
        return owned, kept, f"{len(owned):,} reference rows"
    if n_units < 4:
        what = "rows" if kept.person is None else "people"
        raise InvalidData(
            f"steal needs at least 4 held-out {what}, half of them the attacker's; got {n_units}"
        )
    mine = (run.rng("halves").permutation(n_units) % 2 == 0)[unit]
    return kept.take(mine), kept.take(~mine), f"{int(mine.sum()):,} rows, half of the held-out ones"


def _foreign(data: Dataset) -> Split:
    """Return the reference rows that are no row of the rest of the data, nor of people in it."""
    reference = data.reference
    if reference is None:
        raise InvalidData("the data has no reference rows")
    rest = {row.tobytes() for split in (data.train, data.holdout) for row in extraction.flat(split.x)}
    fresh = np.array([row.tobytes() not in rest for row in extraction.flat(reference.x)], bool)
    if reference.person is not None:
        known = [split.person for split in (data.train, data.holdout) if split.person is not None]
        fresh &= ~np.isin(reference.person, np.concatenate(known))
    return reference.take(fresh)


def _ordered(split: Split) -> Split:
    """Return the rows in an order of their own content, so that the order they came in does not matter."""
    rows = extraction.flat(split.x)
    return split.take(
        np.array(sorted(range(len(rows)), key=lambda i: (rows[i].tobytes(), split.y[i])), np.int64)
    )


def _unmetered(target: Target) -> Target:
    """Return the auditor's own view: comparing with the target is not on the attacker's account."""
    return replace(target, n_queries=None, counter=Counter()) if isinstance(target, Limited) else target


def _answers(target: Target, x: Any) -> dict[str, np.ndarray]:
    """Ask once a row: scores where they are shown, and the labels as scores of one, each (n, classes)."""
    one = np.eye(len(target.classes))
    if not target.has(SCORES):
        return {"labels": one[target.labels(x)]}
    scores = np.round(target.scores(x), 9)  # what depends on the order of additions decides nothing
    # one answer shows both; the label need not be the largest score (a tuned threshold)
    return {"scores": scores, "labels": one[_unmetered(target).labels(x)]}


# ---- solving ----


@dataclass(frozen=True, kw_only=True)
class _Solved:
    """What came of exact extraction: ``copy`` only where it was verified."""

    told: str
    copy: extraction.Linear | None = None
    error: float | None = None
    n_queries: int = 0

    def measured(self, run: Run, n: int) -> Measurement:
        if self.error is None:
            return run.unresolved("extraction_error", f"no exact extraction: {self.told}", n)
        return run.measure(
            "extraction_error", self.error, self.error, self.error, n, details=[Note(text=self.told)]
        )


def _solve(target: Target, judge: Target, data: Dataset, owned: Split, kept: Split, budget: float) -> _Solved:
    """Solve for a linear model within the budget and compare the copy with the target on rows it has not seen."""
    if not target.has(SCORES):
        return _Solved(told="the target shows labels only")
    shape, dtype, asked = np.shape(owned.x)[1:], np.asarray(owned.x).dtype, []

    def ask(rows: np.ndarray) -> np.ndarray:
        asked.append(len(rows))
        scores: np.ndarray = target.scores(rows.reshape(-1, *shape).astype(dtype))
        return scores

    whole = dtype.kind in "iu"
    try:
        found = extraction.solve(ask, data.schema, extraction.flat(owned.x), budget=budget, whole=whole)
    except InvalidData as error:  # a model may refuse a category or a hole that it never saw
        found = f"the model refused a query: {error}"
    if isinstance(found, str):
        return _Solved(told=found, n_queries=sum(asked))
    tried = owned.take(np.linspace(0, len(owned) - 1, min(len(owned), TRIED)).astype(np.int64))
    copied, worst = (_gap(found, judge, rows) for rows in (tried, kept))
    alike = (found.scores(tried.x).argmax(1) == judge.labels(tried.x)).mean()
    if copied <= EXACT and alike < LABELLED:
        told = (
            f"the scores were extracted exactly with {found.n_queries} queries (no one differs by more than "
            f"{worst:.1e}), but the label is not the largest score: a copy of the labels is learnt"
        )
        return _Solved(told=told, error=worst, n_queries=found.n_queries)
    if copied <= EXACT:  # the rows it is judged on decide nothing
        told = f"extracted exactly with {found.n_queries} queries: no score differs by more than {worst:.1e}"
        if worst > EXACT:
            told = (
                f"solved with {found.n_queries} queries: the copy is exact on the attacker's rows, but differs by up "
                f"to {worst:.2g} on the held-out ones"
            )
        return _Solved(told=told, copy=found, error=worst, n_queries=found.n_queries)
    told = (
        f"not extracted: the copy solved with {found.n_queries} queries differs by up to {max(copied, worst):.2g}, so "
        "the scores are not a softmax of numbers linear in the columns, or are not shown in full"
    )
    return _Solved(told=told, error=worst, n_queries=found.n_queries)


def _gap(copy: extraction.Linear, judge: Target, rows: Split) -> float:
    """Return the largest difference of a score."""
    gap = np.abs(copy.scores(rows.x) - judge.scores(rows.x))  # (m, classes)
    return float(np.where(np.isnan(gap), 1.0, gap).max())


def _curve(name: str, found: dict[int, stats.Interval]) -> Curve:
    ends = (tuple(getattr(one, end) for one in found.values()) for end in ("value", "low", "high"))
    y, low, high = ends
    return Curve(name=name, x=tuple(map(float, found)), y=y, low=low, high=high)
