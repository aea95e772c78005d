# SPDX-License-Identifier: Apache-2.0
"""What an evasion attack achieved: every changed input is checked here, and no attack measures itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from casemate.core import rng, stats
from casemate.core.data import Dataset
from casemate.core.errors import InvalidData, InvalidThreat
from casemate.core.methods import Card, Quantity
from casemate.core.run import Run
from casemate.core.schema import Schema, distances, violations
from casemate.core.types import Curve, Detail, Measurement, Note, PerRecord, Table, Target, Threat
from casemate.core.wording import changes

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
N_RADII = 21
LEAST_EXAMPLES = 5  # fewer would make "the median change" the change of one person


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
                *_typical(far[found & ~beyond]),
            ),
        ),
        Note(text="Found by this attack only: the true accuracy under any such change may be lower."),
        *(Note(text=text) for text in run.notes),
    ]
    if card.nearest and found.any():
        details.append(_against_radius(right, found, far, threat, person, run.level))
    shown = np.flatnonzero(found & ~beyond)
    if data.schema.input == "table" and len(shown):
        details += _in_words(x, kept, shown[np.argsort(far[shown], kind="stable")], data.schema)
        if run.show_records:
            told = [str(label) for label in target.classes]
            best = shown[np.argsort(far[shown], kind="stable")][:N_EXAMPLES]
            rows = tuple(
                (changes(x[i], kept[i], data.schema), told[clean[i]], told[attacked[i]], _digits(far[i]))
                for i in best
            )
            details.append(
                Table(
                    name="examples",
                    columns=("change", "predicted before", "predicted after", "distance"),
                    rows=rows,
                )
            )
    if few.holdout.ids is not None:
        details.append(PerRecord.of("held", few.holdout.ids, held, person))
    robust = stats.proportion(held, clusters=person, level=run.level)
    share = float(invalid.mean())
    rules = tuple((rule, int(mask.sum())) for rule, mask in broken.items() if mask.any())
    table = [Table(name="broken rules", columns=("rule", "examples"), rows=rules)] if rules else []
    return [
        verified.measured("robust_accuracy", robust, details),
        verified.measure("invalid_examples", share, share, share, len(y), details=table),
    ]


def _typical(far: np.ndarray) -> tuple[tuple[str, float], ...]:
    return (("median distance of what was found", _digits(float(np.median(far)))),) if len(far) else ()


def _against_radius(
    right: np.ndarray, found: np.ndarray, far: np.ndarray, threat: Threat, person: Any, level: float
) -> Curve:
    """Return the accuracy under attack at every radius up to twice the threat's, from the nearest examples found."""
    radii = np.linspace(0.0, 2 * (threat.radius or 0.0) or 1.0, N_RADII)
    bands = [
        stats.proportion(right & ~(found & (far <= radius * (1 + 1e-6))), clusters=person, level=level)
        for radius in radii
    ]
    low, high = tuple(_digits(band.low) for band in bands), tuple(_digits(band.high) for band in bands)
    y = tuple(_digits(band.value) for band in bands)
    return Curve(name="accuracy against radius", x=tuple(map(_digits, radii)), y=y, low=low, high=high)


def _in_words(x: np.ndarray, kept: np.ndarray, shown: np.ndarray, schema: Schema) -> list[Detail]:
    """Say which columns the examples change and by how much in the middle; never for fewer than a handful."""
    if len(shown) < LEAST_EXAMPLES:
        return []
    before, after = x[shown], kept[shown]  # (examples, d)
    moved = (before != after) & ~(np.isnan(before) & np.isnan(after))
    rows = []
    for i in np.argsort(-moved.sum(0), kind="stable")[:10]:
        if count := int(moved[:, i].sum()):
            shift = (after - before)[moved[:, i], i]
            numeric = schema.columns[i].kind != "category" and count >= LEAST_EXAMPLES
            middle = _digits(float(np.median(np.abs(shift)))) if numeric else None
            rows.append((schema.names[i], _digits(count / len(shown)), middle))
    columns = ("column", "share of examples that change it", "median size of the change")
    return [Table(name="what the examples change", columns=columns, rows=tuple(rows))]


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


def _numbers(card: Card, x_adv: Any) -> np.ndarray:
    """Return what an evasion method gave back as an array of numbers."""
    try:
        found = np.asarray(x_adv)
        return found if found.dtype.kind in "biuf" else found.astype(np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidData(f"{card.name} did not return an array of numbers: {error}") from error
