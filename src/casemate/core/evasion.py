# SPDX-License-Identifier: Apache-2.0
"""What an evasion attack achieved: every changed input is checked here, and no attack measures itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from casemate.core import groups, rng, stats
from casemate.core.data import Dataset
from casemate.core.errors import InvalidData, InvalidThreat
from casemate.core.evidence import against_radius, doubts, examples, in_words, pictures, typical
from casemate.core.methods import Card, Quantity
from casemate.core.run import Run
from casemate.core.schema import Schema, distances, violations
from casemate.core.types import Detail, Measurement, Note, PerRecord, Table, Target, Threat

# Every evasion method answers the same question, so the harness measures it: these are its quantities.
QUANTITIES = {
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
# How many held-out points an evasion method attacks, by effort; drawn once from the seed, the same for every method.
N_POINTS = {"quick": 200, "standard": 1000, "deep": 10_000}
# How examples are shown when records may be, and how many of them.
_SHOWN = {"table": (examples, 5), "image": (pictures, 3)}


def points(data: Dataset, run: Run) -> np.ndarray:
    """Return the positions of the held-out points to attack: a fixed draw; who is in the goal already is left out."""
    limit = min(len(data.holdout), N_POINTS[run.effort])
    drawn = np.sort(rng.generator(run.seed, "evasion points").permutation(len(data.holdout))[:limit])
    if run.threat is not None and run.threat.goal is not None:
        drawn = drawn[data.holdout.y[drawn] != run.threat.goal]
        if not len(drawn):
            raise InvalidThreat(f"every point attacked already is of the goal class {run.threat.goal}")
    return drawn


def measure(
    card: Card, target: Target, data: Dataset, run: Run, *, attack: Callable[[Dataset], Any]
) -> list[Measurement]:
    """Attack a draw of held-out points; trust nothing that comes back: re-check it through the target.

    ``attack`` gets a dataset whose holdout is those points, and returns them changed. ``card`` holds the
    quantities; a card that says ``nearest`` returns examples at any distance, and a point whose example lies
    beyond the radius holds.
    """
    threat = run.threat
    if threat is None:
        raise InvalidThreat(f"{card.name} needs a resolved threat")
    drawn = points(data, run)
    few, lent = data.with_holdout(drawn), data.with_holdout(drawn)  # the method may write into its copy
    x, y, person = few.holdout.x, few.holdout.y, few.holdout.person
    x_adv = _numbers(card, attack(lent))
    broken = violations(x, x_adv, threat, data.schema)
    beyond = broken.pop("radius") if card.nearest else np.zeros(len(y), bool)
    invalid = np.logical_or.reduce(list(broken.values()))  # (n,)
    clean = target.labels(x)
    # What breaks a rule counts as no attack: the point keeps its clean prediction.
    kept = np.where(invalid.reshape((-1,) + (1,) * (np.ndim(x) - 1)), x, x_adv).astype(x.dtype, copy=False)
    attacked = target.labels(kept)
    # clean errors count as broken; with a goal, a point holds until it reaches the goal
    right = clean == y if threat.goal is None else clean != threat.goal
    fooled = attacked != y if threat.goal is None else attacked == threat.goal
    held = right & (~fooled | beyond)
    found = right & fooled & ~invalid
    far = distances(x, kept, threat, data.schema)  # (n,)
    verified = replace(run, card=card)
    tally = run.counter.tally
    before, after = (
        (("correct before the attack", int(right.sum())), ("correct under attack", int(held.sum())))
        if threat.goal is None
        else (
            ("already of the goal class before the attack", int((~right).sum())),
            ("of the goal class under attack", int((~held).sum())),
        )
    )
    told, useless, unsteady = doubts(target, few.holdout, clean, threat)
    details: list[Detail] = [
        Table(
            name="attack",
            columns=("what", "value"),
            rows=(
                ("points attacked", len(y)),
                before,
                after,
                ("rows queried", tally["rows"]),
                ("gradient passes", tally["gradients"]),
                *typical(far[found & ~beyond]),
            ),
        ),
        Note(text="Found by this attack only: the true accuracy under any such change may be lower."),
        *(Note(text=text) for text in (*told, *run.notes)),
    ]
    if card.nearest and found.any():
        details.append(against_radius(right, found, far, threat, person, run.level))
    shown = np.flatnonzero(found & ~beyond)
    if data.schema.input == "table" and len(shown):
        details += in_words(x[shown], kept[shown], None if person is None else person[shown], data.schema)
    if run.show_records and len(shown) and data.schema.input in _SHOWN:
        show, n_shown = _SHOWN[data.schema.input]
        best = shown[np.argsort(far[shown], kind="stable")][:n_shown]
        called = [tuple(str(target.classes[side[i]]) for side in (clean, attacked)) for i in best]
        details.append(show(x[best], kept[best], called, far[best], data.schema))
    if few.holdout.ids is not None:
        details.append(PerRecord.of("held", few.holdout.ids, held, person))
    parts = groups.slices(data, x)
    details += groups.details(
        "robust_accuracy", parts, held, method=card.name, worse="lower", person=person, level=run.level
    )
    robust = stats.proportion(held, clusters=person, level=run.level)
    nothing = reach(threat, data.schema) or _shows_nothing(useless, unsteady, robust, held, tally["blind"])
    share = float(invalid.mean())
    rules = tuple((rule, int(mask.sum())) for rule, mask in broken.items() if mask.any())
    table = [Table(name="broken rules", columns=("rule", "examples"), rows=rules)] if rules else []
    return [
        verified.measure(
            "robust_accuracy",
            robust.value,
            robust.low,
            robust.high,
            robust.n,
            details=details,
            reason=nothing,
        ),
        verified.measure("invalid_examples", share, share, share, len(y), details=table),
    ]


def reach(threat: Threat, schema: Schema) -> str:
    """Say that a threat lets nothing move, or everything become anything; empty where it lies between.

    >>> schema = Schema.infer(np.array([[0.0], [1.0]]))
    >>> reach(Threat(norm="linf", radius=0.3, scale="raw"), schema)
    ''
    >>> reach(Threat(norm="linf", radius=1.0, scale="raw"), schema)[:46]
    'the radius 1 is as wide as the range of what m'
    """
    radius = threat.radius or 0.0
    if radius == 0:
        return "the radius is 0: nothing was changed, so this is the accuracy without an attack"
    wide = "is as wide as the range of what may change: any input may become any other, whatever the model"
    if schema.input != "table":
        low, high = schema.bounds or (0.0, 1.0)
        return f"the radius {radius:g} {wide}" if threat.norm == "linf" and radius >= high - low else ""
    raw = threat.scale == "raw"
    free = [c for c in schema.columns if not c.immutable and (raw or c.kind == "category" or c.spread > 0)]
    if not free:
        return "no column may change: nothing was attacked, so this is the accuracy without an attack"
    sizes = [(radius if raw else radius * c.spread, c.high - c.low) for c in free if c.kind != "category"]
    if threat.norm == "linf" and sizes and all(size >= span for size, span in sizes):
        return f"the radius {radius:g} {wide}"
    return ""


def _shows_nothing(
    useless: str, unsteady: tuple[int, str], robust: stats.Interval, held: np.ndarray, n_blind: int
) -> str:
    """Say why what held does not show that the model resists; empty where it may.

    Points that are answered at random, or that the attack was blind at, count where the limits do not hold them.
    """
    if useless:
        return useless
    n_unsteady, why = unsteady
    if max(0.0, float(held.mean()) - n_unsteady / len(held)) < robust.low:
        return why
    without = float(held.mean()) - n_blind / len(held)
    if n_blind and without < robust.low:
        return (
            f"at {n_blind} of the {int(held.sum())} points that held the attack could do nothing (the gradient is zero "
            f"or nothing may move); were they broken, {without:.3g} would be left: a masked gradient is no resistance"
        )
    return ""


def _numbers(card: Card, x_adv: Any) -> np.ndarray:
    """Return what an evasion method gave back as an array of numbers."""
    try:
        found = np.asarray(x_adv)
        return found if found.dtype.kind in "biuf" else found.astype(np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidData(f"{card.name} did not return an array of numbers: {error}") from error
