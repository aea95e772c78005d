# SPDX-License-Identifier: Apache-2.0
"""Runs a method: checks what it needs, limits what it sees, seeds it, and verifies what it claims."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from casemate.core import evasion, groups, stats
from casemate.core.data import Dataset, Split
from casemate.core.errors import InvalidData, InvalidThreat
from casemate.core.evidence import digits
from casemate.core.limited import limit
from casemate.core.methods import Card, Method, Quantity
from casemate.core.run import Run
from casemate.core.types import (
    LABELS,
    REFIT,
    SCORES,
    Change,
    Curve,
    Detail,
    Explanation,
    Measurement,
    Note,
    PerRecord,
    Table,
    Target,
    Threat,
)

EXPLAINED = {
    "top_importance": Quantity(
        worse="higher", null=0.0, en="importance of the most important column", zh="作用最大的特征的重要性"
    ),
}
# Explainers of single rows list these instead: a coefficient of a model is not 0 where labels have no cause.
EXPLAINED_ROWS = {
    "top_importance": Quantity(
        worse="higher", en="mean importance of the most important column", zh="作用最大的特征的平均重要性"
    ),
    "top_correlation": Quantity(
        worse="higher",
        null=0.0,
        headline=False,
        en="correlation of the strongest column's share in the answer with the outcome",
        zh="作用最大的特征对预测的贡献与真实结果的相关系数",
    ),
}
UTILITY = Card(
    name="utility",
    property="utility",
    kind="check",
    needs=frozenset({LABELS}),
    prefers=frozenset({SCORES}),
    tasks=frozenset({"binary", "multiclass", "regression"}),
    cost="one prediction a row",
    title={"en": "Utility on held-out data", "zh": "留出数据上的效用"},
    reference="",
    quantities={
        "accuracy": Quantity(worse="lower", unit="share", en="accuracy, held out", zh="准确率（留出数据）"),
        "accuracy_train": Quantity(
            worse="lower", headline=False, unit="share", en="accuracy, training data", zh="准确率（训练数据）"
        ),
        "roc_auc": Quantity(worse="lower", en="ROC AUC, held out", zh="ROC AUC（留出数据）"),
        "log_loss": Quantity(worse="higher", unit="nats", en="log loss, held out", zh="对数损失（留出数据）"),
        "calibration_error": Quantity(
            worse="higher",
            headline=False,
            en="gap between stated probabilities and what came true, held out",
            zh="预测概率与实际发生率的差距（留出数据）",
        ),
        "absolute_error": Quantity(
            worse="higher", en="mean absolute error, held out", zh="平均绝对误差（留出数据）"
        ),
    },
)
EFFORTS = tuple(evasion.N_POINTS)
QUICK_SECONDS = 60.0
REFITS_COUNT = 4  # a method that refits gets so many shares of the time of one that does not


@dataclass(frozen=True)
class Clock:
    """Shares the time of an audit among its methods, so that the first cannot take it all; what one leaves, all get."""

    end: float | None
    waiting: list[str]  # names of methods that have not begun
    shares: Mapping[str, int]

    @staticmethod
    def of(effort: str, cards: Sequence[Card]) -> Clock:
        """Start the clock of an audit with these methods; only effort quick has an end."""
        end = time.monotonic() + QUICK_SECONDS if effort == "quick" else None
        shares = {card.name: REFITS_COUNT if REFIT in card.needs else 1 for card in cards}
        return Clock(end, list(shares), shares)

    def deadline(self, card: Card) -> float | None:
        """Return when this method should be done, were it to begin now."""
        if self.end is None or card.name not in self.waiting:
            return self.end
        left = sum(self.shares[name] for name in self.waiting)
        self.waiting.remove(card.name)
        now = time.monotonic()
        return now + max(0.0, self.end - now) * self.shares[card.name] / left


def quantities(card: Card) -> dict[str, Quantity]:
    """Return every quantity a method reports, with those the harness measures for its kind."""
    shared = {"evasion": evasion.QUANTITIES, "explainer": EXPLAINED}.get(card.kind, {})
    return {**shared, **card.quantities}


def unavailable(card: Card, target: Target) -> str:
    """Say why ``target`` cannot be given to the method, or return the empty string."""
    missing = sorted(need.value for need in card.needs - target.capabilities)
    if missing:
        return f"needs {', '.join(missing)}, which this {target.kind} target does not offer"
    if target.task not in card.tasks:
        return f"is for {', '.join(sorted(card.tasks))}; this target's task is {target.task}"
    if target.input not in card.inputs:
        return f"is for {', '.join(sorted(card.inputs))} input; this target takes {target.input}"
    return ""


def parameters(method: Method, effort: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Merge a method's defaults, its effort's presets and the user's choices; unknown names are refused."""
    own = {
        name: parameter.default
        for name, parameter in inspect.signature(method.function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in ("run", "threat")
    }
    if unknown := [name for name in params if name not in own]:
        raise InvalidData(
            f"{method.card.name} has no parameter {unknown[0]!r}; it has {', '.join(own) or 'none'}"
        )
    for name, value in params.items():
        if type(own[name]) in (int, float, str) and not _like(value, own[name]):
            raise InvalidData(
                f"{method.card.name}: {name} must be {_KINDS[type(own[name])]} (default {own[name]!r}); got {value!r}"
            )
    preset = {"quick": method.card.quick, "deep": method.card.deep}.get(effort, {})
    return {**own, **preset, **params}


_KINDS = {int: "a whole number", float: "a number", str: "text"}


def _like(value: Any, default: Any) -> bool:
    """Tell whether a user's value has the kind of the default; any number may stand for a float."""
    kinds = (
        (int, float, np.integer, np.floating) if isinstance(default, float) else (type(default), np.integer)
    )
    return isinstance(value, kinds) and not isinstance(value, bool)


def invoke(method: Method, target: Target, data: Dataset, run: Run, params: Mapping[str, Any]) -> Any:
    """Call the method's function on a view that offers only what its card declares."""
    if reason := unavailable(method.card, target):
        raise InvalidData(f"{method.card.name} {reason}")
    allowed = method.card.needs | method.card.prefers
    n_queries = run.threat.n_queries if run.threat else None
    view = limit(target, allowed, n_queries=n_queries, counter=run.counter)
    chosen = parameters(method, run.effort, params)
    run.used.update({name: value for name, value in chosen.items() if name not in run.used})
    takes_threat = "threat" in inspect.signature(method.function).parameters
    extra = {"threat": run.threat} if takes_threat else {}
    return method.function(view, data, **chosen, **extra, run=run)


def execute(
    method: Method, target: Target, data: Dataset, run: Run, params: Mapping[str, Any]
) -> list[Measurement]:
    """Run an attack, check, evasion or explainer and return its measurements, timed."""
    start = time.perf_counter()
    if method.card.kind == "evasion":
        card = replace(method.card, quantities=quantities(method.card))
        rows = evasion.measure(
            card, target, data, run, attack=lambda few: invoke(method, target, few, run, params)
        )
    else:
        result = invoke(method, target, data, run, params)
        rows = _explained(method, result, data, run) if isinstance(result, Explanation) else list(result)
    if not rows:
        raise InvalidData(f"{method.card.name} returned no measurement")
    seconds = time.perf_counter() - start
    return [replace(row, seconds=seconds) for row in rows]


def direct(method: Method, args: Sequence[Any], options: Mapping[str, Any]) -> Any:
    """Run a method called as a plain function: bind, give it default options, return what its kind returns."""
    bound = inspect.signature(method.function).bind(*args, **options).arguments
    target, data = bound.pop("target").bind(bound.pop("data"))
    threat, params = (
        bound.pop("threat", None),
        {name: value for name, value in bound.items() if name != "run"},
    )
    run = Run(card=method.card, threat=resolve(threat, method.card, target, data), pinned=frozenset(params))
    if method.card.kind == "explainer":
        return invoke(method, target, data, run, params)
    return execute(method, target, data, run, params)


def resolve(threat: Threat | None, card: Card, target: Target, data: Dataset) -> Threat | None:
    """Fill the threat of methods that move inputs; of the others only a query budget concerns them."""
    if card.kind != "evasion":
        return Threat(n_queries=threat.n_queries) if threat and threat.n_queries else None
    threat = (threat or Threat()).resolved(data.schema)
    if threat.goal is not None and not 0 <= threat.goal < len(target.classes):
        raise InvalidThreat(
            f"goal {threat.goal} is not a class index; there are {len(target.classes)} classes"
        )
    return threat


def _explained(method: Method, result: Explanation, data: Dataset, run: Run) -> list[Measurement]:
    """Turn an explanation into rows: the strongest column, with the table of all of them, and its quality."""
    from scipy.special import ndtri

    card = replace(method.card, quantities=quantities(method.card))
    if result.rows:
        return [*_explained_rows(result, data, replace(run, card=card)), *result.quality]
    values, errors = result.values[0, :, 0], result.errors[0, :, 0]  # (features,)
    z = float(ndtri(0.5 + run.level / 2))
    order = np.argsort(-values, kind="stable")
    rows = tuple(
        (
            result.names[i],
            float(values[i]),
            float(values[i] - z * errors[i]),
            float(values[i] + z * errors[i]),
        )
        for i in order
    )
    top = rows[0]
    table = Table(name="importance", columns=("column", "importance", "low", "high"), rows=rows)
    told = Note(text=f"strongest column: {top[0]}")
    verified = replace(run, card=card)
    found = verified.measure(
        "top_importance", top[1], top[2], top[3], result.n_records, details=[table, told]
    )
    return [found, *result.quality]


def _explained_rows(result: Explanation, data: Dataset, run: Run) -> list[Measurement]:
    """Average explanations of single rows: the strongest column, and whether it goes with the outcome."""
    split = data.holdout.take(np.array(result.rows))
    n_units = len(split) if split.person is None else len(np.unique(split.person))
    if n_units < 2:
        few = "a mean over rows needs at least 2 rows or people"
        return [run.unresolved(name, few, n_units) for name in EXPLAINED_ROWS]
    # scores of several classes sum to one: what one gains others lose, so half their sum is what moved
    size = np.abs(result.values).sum(2) / (1 if result.values.shape[2] == 1 else 2)  # (n, features)
    order = np.argsort(-size.mean(0), kind="stable")
    errors = result.errors.sum(2) / (1 if result.values.shape[2] == 1 else 2)  # (n, features)
    means = [
        _widened(stats.mean(size[:, j], clusters=split.person, level=run.level), float(errors[:, j].mean()))
        for j in order
    ]
    rows = tuple(
        (result.names[j], found.value, max(0.0, found.low), found.high)
        for j, found in zip(order, means, strict=True)
    )
    table = Table(name="importance", columns=("column", "importance", "low", "high"), rows=rows)
    told = Note(text=f"strongest column: {rows[0][0]}")
    top = replace(means[0], low=max(0.0, means[0].low))
    return [run.measured("top_importance", top, [table, told]), _goes_with(result, order[0], split, run)]


def _widened(rows: stats.Interval, error: float) -> stats.Interval:
    """Add the error that all rows share: they are explained by one set of draws, and their errors do not average out.

    The errors of a row come from a few repetitions of those draws: Student's t with three degrees of freedom.
    """
    from scipy.special import stdtrit

    shared = float(stdtrit(3, 0.5 + rows.level / 2)) * error
    low, high = math.hypot(rows.value - rows.low, shared), math.hypot(rows.high - rows.value, shared)
    return replace(rows, low=rows.value - low, high=rows.value + high)


def _goes_with(result: Explanation, column: int, split: Split, run: Run) -> Measurement:
    """Correlate what one column is said to add in each row with the outcome there."""
    given = result.values[:, column]  # (n, outputs)
    n_outputs = given.shape[1]
    outcome = split.y.astype(np.float64)[:, None]  # (n, 1): binary, where 1 is explained, or a value
    if n_outputs > 1:
        outcome = np.eye(n_outputs)[split.y]
    given, outcome = given - given.mean(0), outcome - outcome.mean(0)
    scale = float(np.sqrt(np.square(given).mean() * np.square(outcome).mean())) * n_outputs
    if scale <= 1e-12 * (1 + float(np.abs(result.values).max())):
        return run.unresolved(
            "top_correlation", "the outcome or the strongest column's share is constant", len(split)
        )
    # the mean of standardised products is the correlation; its interval is exact in the limit where there is none
    found = stats.mean((given * outcome).sum(1) / scale, clusters=split.person, level=run.level)
    low, high = max(-1.0, found.low), min(1.0, found.high)
    return run.measured("top_correlation", replace(found, low=low, high=high))


def utility(target: Target, data: Dataset, run: Run) -> list[Measurement]:
    """Measure what the model is good for: the cost line that stands in every audit."""
    start = time.perf_counter()
    for name, part in (("train", data.train), ("holdout", data.holdout)):
        if part.person is not None and len(np.unique(part.person)) < 2:
            raise InvalidData(
                f"{name} holds rows of one person only; an audit needs at least 2 people in each part"
            )
    x, y, person = data.holdout.x, data.holdout.y, data.holdout.person
    predicted = target.labels(x)
    parts = groups.slices(data, x)

    def row(quantity: str, interval: stats.Interval, *, of: np.ndarray | None = None) -> Measurement:
        details: list[Detail] = []
        if of is not None:
            worse = UTILITY.quantities[quantity].worse
            details += groups.details(
                quantity, parts, of, method=UTILITY.name, worse=worse, person=person, level=run.level
            )
            if data.holdout.ids is not None:
                details.append(PerRecord.of(quantity, data.holdout.ids, of, person))
        return run.measured(quantity, interval, details)

    def timed(rows: list[Measurement]) -> list[Measurement]:
        return [replace(item, seconds=time.perf_counter() - start) for item in rows]

    if target.task == "regression":
        gap = np.abs(predicted - y)
        return timed([row("absolute_error", stats.mean(gap, clusters=person, level=run.level), of=gap)])
    hits = predicted == y
    train = target.labels(data.train.x) == data.train.y
    rows = [
        row("accuracy", stats.proportion(hits, clusters=person, level=run.level), of=hits),
        row("accuracy_train", stats.proportion(train, clusters=data.train.person, level=run.level)),
    ]
    if target.has(SCORES):
        scores = target.scores(x)
        loss = -np.log(
            np.clip(scores[np.arange(len(y)), y], 1e-15, None)
        )  # clipped as scikit-learn's log_loss
        if len(y) > 1:
            typical = stats.mean(loss, clusters=person, level=run.level)
            rows.append(
                row("log_loss", replace(typical, low=max(0.0, typical.low)), of=loss)
            )  # no loss is negative
            rows.append(_calibration(scores, hits, data.holdout, run))
        if target.task == "binary":
            rows.append(_roc_auc(scores[:, 1], data.holdout, run))
    return timed(rows)


def _calibration(scores: np.ndarray, hits: np.ndarray, split: Split, run: Run) -> Measurement:
    """Compare what is stated of the second of two classes, or of the answer among several, with what came true."""
    two = scores.shape[1] == 2
    stated = np.clip(scores[:, 1] if two else scores.max(1), 0.0, 1.0)  # (n,) float32 sums may pass 1
    size, parts = stats.calibration(
        stated, split.y == 1 if two else hits, clusters=split.person, level=run.level
    )
    low, value, high = (
        tuple(digits(getattr(share, end)) for _, share in parts) for end in ("low", "value", "high")
    )
    x = tuple(digits(mean) for mean, _ in parts)
    return run.measured(
        "calibration_error", size, [Curve(name="calibration", x=x, y=value, low=low, high=high)]
    )


def _roc_auc(score: np.ndarray, split: Split, run: Run) -> Measurement:
    sides = {"positives": split.y == 1, "negatives": split.y == 0}
    one, other = sides.values()
    owners = [None if split.person is None else split.person[side] for side in (one, other)]
    least = min(
        side.sum() if p is None else len(np.unique(p)) for side, p in zip((one, other), owners, strict=True)
    )
    if least < 2:
        units = "records" if split.person is None else "people"
        lacking = f"needs at least 2 {units} of each class in the held-out rows; one class has {least}"
        return run.unresolved("roc_auc", lacking, len(split))
    area = stats.auc(
        score[one], score[other], positive_clusters=owners[0], negative_clusters=owners[1], level=run.level
    )
    details = []
    if split.ids is not None:
        ids = split.ids
        details = [
            PerRecord.of(n, ids[at], score[at], p) for (n, at), p in zip(sides.items(), owners, strict=True)
        ]
    return run.measured("roc_auc", area, details)


def not_measured(card: Card, reason: str, run: Run) -> Measurement:
    """Make the visible row of a method that could not run."""
    return replace(run, card=replace(card, quantities=quantities(card))).unresolved(
        next(iter(quantities(card))), reason, 0
    )


def change_of(target: Target, change: Change, data: Dataset, run: Run) -> Change:
    """Add utility before and after to what a defence returned."""
    return replace(
        change, before=tuple(utility(target, data, run)), after=tuple(utility(change.target, data, run))
    )
