# SPDX-License-Identifier: Apache-2.0
"""What every adapter checks: the rows that go in, the probabilities and labels that come out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from casemate.core.errors import InvalidData
from casemate.core.nodes import FEW
from casemate.core.schema import Schema
from casemate.core.types import plain_label, shortened


def n_rows(x: Any, schema: Schema | None) -> int:
    """Return the number of encoded rows, at least one and as wide as the schema says."""
    n = len(x)
    if n == 0:
        raise InvalidData("no rows were given; a prediction needs at least one")
    if schema is not None and schema.input == "table":
        shape, wanted = np.shape(x), len(schema.columns)
        if len(shape) != 2 or shape[1] != wanted:
            raise InvalidData(f"encoded rows must have shape (n, {wanted}); got {shape}")
    return n


def probabilities(raw: Any, n: int, n_classes: int, what: str) -> np.ndarray:
    """Return ``raw`` as float64 (n, n_classes) whose rows sum to one, or say what is wrong with it."""
    with_shape = np.asarray(raw)
    if with_shape.shape != (n, n_classes):
        raise InvalidData(
            f"{what} returned shape {with_shape.shape} for {n} rows and {n_classes} classes; it must return class "
            "probabilities (n, classes), or wrap it with outputs='labels' or with the right classes="
        )
    try:
        scores = with_shape.astype(np.float64)
    except (TypeError, ValueError):
        raise InvalidData(
            f"{what} returned {with_shape.dtype}, not numbers; wrap it with outputs='labels'"
        ) from None
    sums = (np.ascontiguousarray(scores.T).sum(0) if n_classes <= FEW else scores.sum(1))[:, None]  # (n, 1)
    # the common case first, in few passes; NaN fails every comparison
    if scores.min() >= 0 and (far := np.abs(sums - 1).max()) <= 1e-3:
        return scores if far <= 1e-12 else np.where(np.abs(sums - 1) > 1e-12, scores / sums, scores)
    bad = ~np.isfinite(scores).all(1) | (scores.min(1) < -1e-6) | ~(np.abs(sums[:, 0] - 1) <= 1e-3)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise InvalidData(
            f"{what} returned rows that are no probabilities ({int(bad.sum())} of {n}; row {first} is "
            f"{shortened(scores[first].round(6))}); rows must be finite, >= 0 and sum to one"
        )
    scores = np.maximum(scores, 0.0)
    off = np.abs(sums - 1) > 1e-12
    return np.where(off, scores / scores.sum(1, keepdims=True), scores)


def class_indices(labels: Any, n: int, classes: tuple[Any, ...], what: str) -> np.ndarray:
    """Return the index of each label (n,) in ``classes``."""
    found = np.asarray(labels)
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.shape != (n,):
        raise InvalidData(f"{what} returned shape {found.shape} for {n} rows; it must return one label a row")
    known = {plain_label(label): index for index, label in enumerate(classes)}
    try:
        if found.dtype == object:
            return np.array([known[plain_label(label)] for label in found.tolist()], np.int64)
        values, inverse = np.unique(found, return_inverse=True)
        return np.array([known[plain_label(value)] for value in values.tolist()], np.int64)[inverse]
    except KeyError as error:
        raise InvalidData(
            f"{what} returned the label {error.args[0]!r}, which is not among the classes {shortened(classes)}"
        ) from None


def real_values(raw: Any, n: int, what: str) -> np.ndarray:
    """Return predicted values as finite float64 (n,)."""
    values = np.asarray(raw)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.shape != (n,) or values.dtype.kind not in "biuf":
        raise InvalidData(f"{what} returned {values.dtype} {values.shape} for {n} rows, not one number a row")
    if not np.isfinite(values).all():
        raise InvalidData(f"{what} returned {int((~np.isfinite(values)).sum())} values that are not finite")
    return values.astype(np.float64)


def plain_classes(classes: Sequence[Any] | None) -> tuple[Any, ...]:
    """Return the user's ``classes=`` as plain values; each may stand there once."""
    plain = tuple(plain_label(label) for label in classes) if classes is not None else ()
    if classes is not None and (len(plain) < 2 or len(set(plain)) < len(plain)):
        raise InvalidData(f"classes= needs two or more different labels; got {shortened(plain)}")
    return plain


def refuse(kind: str, advice: str, **options: Any) -> None:
    """Raise for the first option that was given though it does not apply to this kind of model."""
    for name, value in options.items():
        if value is not None:
            raise InvalidData(f"{name}={value!r} does not apply to a {kind} model; {advice}")
