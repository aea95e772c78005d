# SPDX-License-Identifier: Apache-2.0
"""Runs a method: checks what it needs, limits what it sees, seeds it, and verifies what it claims."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from casemate.core import rng, stats
from casemate.core.data import Dataset, Split
from casemate.core.errors import InvalidData, InvalidThreat
from casemate.core.limited import limit
from casemate.core.methods import Card, Method, Quantity
from casemate.core.run import Run
from casemate.core.schema import violations
from casemate.core.types import (
    LABELS,
    SCORES,
    Change,
    Detail,
    Explanation,
    Measurement,
    Note,
    PerRecord,
    Table,
    Target,
    Threat,
)

# Every evasion method answers the same question, so the harness measures it: these are its quantities.
EVASION = {
    "robust_accuracy": Quantity(
        worse="lower", unit="share", en="accuracy under attack (upper bound)", zh="受攻击时的准确率（上界）"
    ),
    "invalid_examples": Quantity(
        worse="higher",
        headline=False,
        unit="share",
        en="attack results outside the threat or the schema",
        zh="不符合威胁或约束的样本",
    ),
}
EXPLAINED = {
    "top_importance": Quantity(
        worse="higher", null=0.0, en="importance of the most important column", zh="最重要特征的重要性"
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
        "absolute_error": Quantity(
            worse="higher", en="mean absolute error, held out", zh="平均绝对误差（留出数据）"
        ),
    },
)
# How many held-out points an evasion method attacks, by effort; drawn once from the seed, the same for every method.
N_POINTS = {"quick": 200, "standard": 1000, "deep": 10_000}
QUICK_SECONDS = 40.0


def quantities(card: Card) -> dict[str, Quantity]:
    """Return every quantity a method reports, with those the harness measures for its kind."""
    shared = {"evasion": EVASION, "explainer": EXPLAINED}.get(card.kind, {})
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
        rows = _evasion(method, target, data, run, params)
    else:
        result = invoke(method, target, data, run, params)
        rows = _explained(method, result, run) if isinstance(result, Explanation) else list(result)
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


def _evasion(
    method: Method, target: Target, data: Dataset, run: Run, params: Mapping[str, Any]
) -> list[Measurement]:
    """Attack a fixed draw of held-out points; trust nothing that comes back: re-check it through the target."""
    limit = min(len(data.holdout), N_POINTS[run.effort])
    points = np.sort(rng.generator(run.seed, "evasion points").permutation(len(data.holdout))[:limit])
    if run.threat is not None and run.threat.goal is not None:  # who is in the goal already needs no attack
        points = points[data.holdout.y[points] != run.threat.goal]
        if not len(points):
            raise InvalidThreat(f"every point attacked already is of the goal class {run.threat.goal}")
    few, lent = data.with_holdout(points), data.with_holdout(points)  # the method may write into its copy
    x, y = few.holdout.x, few.holdout.y
    threat = run.threat
    if threat is None:
        raise InvalidThreat(f"{method.card.name} needs a resolved threat")
    x_adv = _numbers(method.card, invoke(method, target, lent, run, params))
    broken = violations(x, x_adv, threat, data.schema)
    invalid = np.logical_or.reduce(list(broken.values()))  # (n,)
    clean = target.labels(x)
    # What breaks a rule counts as no attack: the point keeps its clean prediction.
    kept = np.where(invalid.reshape((-1,) + (1,) * (np.ndim(x) - 1)), x, x_adv).astype(x.dtype, copy=False)
    attacked = target.labels(kept)
    # clean errors count as broken; with a goal, a point holds until it reaches the goal
    held = (clean == y) & (attacked == y) if threat.goal is None else attacked != threat.goal
    card = replace(method.card, quantities=quantities(method.card))
    verified = replace(run, card=card)
    rules = tuple((rule, int(mask.sum())) for rule, mask in broken.items() if mask.any())
    person = few.holdout.person
    robust = stats.proportion(held, clusters=person, level=run.level)
    tally = run.counter.tally
    details: list[Detail] = [
        Table(
            name="attack",
            columns=("what", "value"),
            rows=(
                ("points attacked", len(y)),
                ("correct before the attack", int((clean == y).sum())),
                ("correct under attack", int(held.sum())),
                ("rows queried", tally["rows"]),
                ("gradient passes", tally["gradients"]),
            ),
        ),
        Note(text="Found by this attack only: the true accuracy under any such change may be lower."),
        *(Note(text=text) for text in run.notes),
    ]
    if few.holdout.ids is not None:
        details.append(per_record("held", few.holdout.ids, held, person))
    rows = [verified.measured("robust_accuracy", robust, details)]
    share = float(invalid.mean())
    table = [Table(name="broken rules", columns=("rule", "examples"), rows=rules)] if rules else []
    rows.append(verified.measure("invalid_examples", share, share, share, len(y), details=table))
    return rows


def _numbers(card: Card, x_adv: Any) -> np.ndarray:
    """Return what an evasion method gave back as an array of numbers."""
    try:
        found = np.asarray(x_adv)
        return found if found.dtype.kind in "biuf" else found.astype(np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidData(f"{card.name} did not return an array of numbers: {error}") from error


def per_record(name: str, ids: np.ndarray, values: np.ndarray, person: np.ndarray | None = None) -> PerRecord:
    """Make the typed detail of one value a record, at six significant digits."""
    rounded = [float(f"{value:.6g}") for value in np.asarray(values, np.float64)]
    clusters = () if person is None else tuple(int(p) for p in person)
    return PerRecord(name=name, ids=tuple(int(i) for i in ids), values=tuple(rounded), clusters=clusters)


def _explained(method: Method, result: Explanation, run: Run) -> list[Measurement]:
    """Turn a global explanation into one row: the strongest column, with the table of all of them."""
    from scipy.special import ndtri

    card = replace(method.card, quantities=quantities(method.card))
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

    def row(quantity: str, interval: stats.Interval, *, of: np.ndarray | None = None) -> Measurement:
        kept = of is not None and data.holdout.ids is not None
        details = [per_record(quantity, data.holdout.ids, of, person)] if kept else []  # type: ignore[arg-type]
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
            rows.append(row("log_loss", stats.mean(loss, clusters=person, level=run.level), of=loss))
        if target.task == "binary":
            rows.append(_roc_auc(scores[:, 1], data.holdout, run))
    return timed(rows)


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
            per_record(n, ids[at], score[at], p) for (n, at), p in zip(sides.items(), owners, strict=True)
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
