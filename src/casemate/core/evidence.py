# SPDX-License-Identifier: Apache-2.0
"""What stands beside an evasion's number: doubts, the accuracy against radius, what changes, examples in words."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from casemate.core import stats
from casemate.core.data import Split
from casemate.core.schema import Schema
from casemate.core.types import Curve, Detail, Table, Target, Threat
from casemate.core.wording import changes, together

N_RADII = 21
LARGEST = 32  # pixels of a side of a picture in a report; of a larger image every second, third, ... is kept
LEAST_EXAMPLES = 5  # people, or rows; fewer would make "the median change" the change of one person


def doubts(
    target: Target, split: Split, clean: np.ndarray, threat: Threat
) -> tuple[list[str], str, tuple[int, str]]:
    """Say what makes the number mean less, or something else, than it seems.

    Returned are all notes, the one that leaves nothing of the number (or ""), and at how many points the model answers
    at random, with the note that says so.
    """
    told, useless, unsteady = [], "", ""
    if threat.goal is not None:
        told.append(
            f"The share of points that are not called {target.classes[threat.goal]} under attack, right or wrong."
        )
    if len(np.unique(clean)) == 1 < len(np.unique(split.y)):
        useless = (
            f"The model calls every point attacked {target.classes[clean[0]]}: an answer that never changes holds "
            "against any attack and is of no use."
        )
        told.append(useless)
    if other := int((target.labels(split.x) != clean).sum()):
        unsteady = (
            f"Asked again, the model answered {other} of {len(clean)} unchanged points differently: it answers at "
            "random. An attack is weaker against it, and what it found was judged once."
        )
        told.append(unsteady)
    return told, useless, (other, unsteady)


def typical(far: np.ndarray) -> tuple[tuple[str, float], ...]:
    """Return the row of the middle distance, if anything was found."""
    return (("median distance of what was found", digits(float(np.median(far)))),) if len(far) else ()


def against_radius(
    right: np.ndarray, found: np.ndarray, far: np.ndarray, threat: Threat, person: Any, level: float
) -> Curve:
    """Return the accuracy under attack at every radius up to twice the threat's, from the nearest examples found."""
    radii = np.linspace(0.0, 2 * (threat.radius or 0.0) or 1.0, N_RADII)
    bands = [
        stats.proportion(right & ~(found & (far <= radius * (1 + 1e-6))), clusters=person, level=level)
        for radius in radii
    ]
    low, high = tuple(digits(band.low) for band in bands), tuple(digits(band.high) for band in bands)
    y = tuple(digits(band.value) for band in bands)
    return Curve(name="accuracy against radius", x=tuple(map(digits, radii)), y=y, low=low, high=high)


def in_words(before: np.ndarray, after: np.ndarray, person: Any, schema: Schema) -> list[Detail]:
    """Say which columns examples (m, d) change and by how much in the middle; never for fewer than a handful."""
    owner = np.arange(len(before)) if person is None else person  # (m,)
    if len(np.unique(owner)) < LEAST_EXAMPLES:
        return []
    moved = (before != after) & ~(np.isnan(before) & np.isnan(after))
    place = {name: i for i, name in enumerate(schema.names)}
    grouped = {name for group in schema.groups for name in group}
    edits = [(together(group), [place[name] for name in group]) for group in schema.groups]
    edits += [(name, [i]) for name, i in place.items() if name not in grouped]
    rows: list[tuple[str, float, float | None]] = []
    for name, cells in edits:
        hit = moved[:, cells].any(1)
        middle = None
        many = len(np.unique(owner[hit])) >= LEAST_EXAMPLES
        if many and name in place and schema.columns[place[name]].kind != "category":
            middle = digits(float(np.median(np.abs(after - before)[hit, place[name]])))
        if hit.any():
            rows.append((name, digits(hit.mean()), middle))
    rows.sort(key=lambda row: -row[1])
    columns = ("column", "share of examples that change it", "median size of the change")
    return [Table(name="what the examples change", columns=columns, rows=tuple(rows[:10]))]


def examples(
    before: np.ndarray, after: np.ndarray, called: Sequence[tuple[str, ...]], far: np.ndarray, schema: Schema
) -> Table:
    """Show single rows (m, d) in words: what was changed, what the model ``called`` them before and after."""
    rows: tuple[tuple[str | float, ...], ...] = tuple(
        (changes(old, new, schema), *names, digits(size))
        for old, new, names, size in zip(before, after, called, far, strict=True)
    )
    return Table(
        name="examples", columns=("change", "predicted before", "predicted after", "distance"), rows=rows
    )


def pictures(
    before: np.ndarray, after: np.ndarray, called: Sequence[tuple[str, ...]], far: np.ndarray, schema: Schema
) -> Table:
    """Show single images (m, c, h, w): original, changed, and the change so many ``times`` as strong about mid-grey.

    Each is bytes in base64, ``size`` channels x rows x columns; one or three channels, others are averaged.
    """
    low, high = schema.bounds or (0.0, 1.0)
    step = max(1, math.ceil(max(before.shape[2:]) / LARGEST))
    sides = [np.asarray(part, np.float64)[:, :, ::step, ::step] for part in (before, after)]
    sides = [part if part.shape[1] in (1, 3) else part.mean(1, keepdims=True) for part in sides]
    size = "x".join(map(str, sides[0].shape[1:]))
    rows = []
    for old, new, names, distance in zip(*sides, called, far, strict=True):
        furthest = float(np.abs(new - old).max()) or 1.0
        shown = [255 * (part - low) / (high - low) for part in (old, new)]
        shown.append(128 + 127 * (new - old) / furthest)
        told = [base64.b64encode(np.clip(np.rint(part), 0, 255).astype(np.uint8).tobytes()) for part in shown]
        times = digits(127 / 255 * (high - low) / furthest)
        rows.append((*names, digits(distance), size, *(one.decode() for one in told), times))
    columns = ("predicted before", "predicted after", "distance", "size", "original", "changed", "difference")
    return Table(name="pictures", columns=(*columns, "times"), rows=tuple(rows))


def digits(value: float) -> float:
    """Return a number at the four digits that a reader needs."""
    return float(f"{value:.4g}")
