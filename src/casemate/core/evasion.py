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
from casemate.core.evidence import against_radius, doubts, examples, in_words, typical
from casemate.core.methods import Card, Quantity
from casemate.core.run import Run
from casemate.core.schema import distances, violations
from casemate.core.types import Detail, Measurement, Note, PerRecord, Table, Target

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
N_EXAMPLES = 5  # shown in words, when records may be shown


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
        *(Note(text=text) for text in (*doubts(target, few.holdout, clean, threat), *run.notes)),
    ]
    if card.nearest and found.any():
        details.append(against_radius(right, found, far, threat, person, run.level))
    shown = np.flatnonzero(found & ~beyond)
    if data.schema.input == "table" and len(shown):
        details += in_words(x[shown], kept[shown], None if person is None else person[shown], data.schema)
        if run.show_records:
            best = shown[np.argsort(far[shown], kind="stable")][:N_EXAMPLES]
            called = [tuple(str(target.classes[side[i]]) for side in (clean, attacked)) for i in best]
            details.append(examples(x[best], kept[best], called, far[best], data.schema))
    if few.holdout.ids is not None:
        details.append(PerRecord.of("held", few.holdout.ids, held, person))
    parts = groups.slices(data, x)
    details += groups.details(
        "robust_accuracy", parts, held, method=card.name, worse="lower", person=person, level=run.level
    )
    robust = stats.proportion(held, clusters=person, level=run.level)
    share = float(invalid.mean())
    rules = tuple((rule, int(mask.sum())) for rule, mask in broken.items() if mask.any())
    table = [Table(name="broken rules", columns=("rule", "examples"), rows=rules)] if rules else []
    return [
        verified.measured("robust_accuracy", robust, details),
        verified.measure("invalid_examples", share, share, share, len(y), details=table),
    ]


def _numbers(card: Card, x_adv: Any) -> np.ndarray:
    """Return what an evasion method gave back as an array of numbers."""
    try:
        found = np.asarray(x_adv)
        return found if found.dtype.kind in "biuf" else found.astype(np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidData(f"{card.name} did not return an array of numbers: {error}") from error
