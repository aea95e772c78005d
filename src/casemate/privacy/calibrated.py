# SPDX-License-Identifier: Apache-2.0
"""A target whose scores go through a calibration map, and how that map is found."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from casemate.core import rng
from casemate.core.data import Split
from casemate.core.errors import InvalidData
from casemate.core.limited import Wrapper
from casemate.core.types import LABELS, LOGITS, MODULE, REFIT, SCORES, Capability, Target
from casemate.privacy import calibration
from casemate.privacy.calibration import How, Map
from casemate.training.distillation import log_scores
from casemate.training.soft_network import scaled


@dataclass(frozen=True, kw_only=True)
class Calibrator:
    """How the map of a model is found."""

    how: How
    folds: int
    share: float
    reference: Split | None

    def apply(self, model: Target, rows: Split, seed: int) -> tuple[Target, Map]:
        """Return the model to release, ``model`` or one trained on fewer rows, and its map."""
        if self.reference is not None:
            return model, calibration.fit(self.how, log_scores(model, self.reference.x), self.reference.y)
        place, base = _places(rows, seed), model
        if self.share:
            held = place < self.share
            model, logits = _held_out(base, rows, held, rng.child_seed(seed, "share"))
            return model, calibration.fit(self.how, logits, rows.y[held])
        logits = np.zeros((len(rows), len(base.classes)))
        for k in range(self.folds):
            held = (place * self.folds).astype(np.int64) == k
            logits[held] = _held_out(base, rows, held, rng.child_seed(seed, k))[1]
        return model, calibration.fit(self.how, logits, rows.y)


def _places(rows: Split, seed: int) -> np.ndarray:
    """Return a place in [0, 1) for each row (n,): all rows of a person at one, those of a class spread evenly."""
    draw = rng.generator(seed, "places")
    if rows.person is not None:
        unit = np.unique(rows.person, return_inverse=True)[1].reshape(-1)
        return np.asarray((draw.permutation(unit.max() + 1) / (unit.max() + 1))[unit])
    place = np.zeros(len(rows))
    for label in np.unique(rows.y):
        of_class = np.flatnonzero(rows.y == label)
        place[of_class] = draw.permutation(len(of_class)) / len(of_class)
    return place


def _held_out(model: Target, rows: Split, held: np.ndarray, seed: int) -> tuple[Target, np.ndarray]:
    """Return the model trained on the rows that are not held back, and its logits for those that are."""
    if held.all() or not held.any():
        raise InvalidData(
            f"calibrate: {len(rows)} training rows cannot be split for it; lower folds or give reference"
        )
    inner = rows.take(~held)
    fresh = _refit(model, inner, seed)
    return fresh, log_scores(fresh, rows.take(held).x)


def _refit(model: Target, rows: Split, seed: int) -> Target:
    if rows.person is None:
        return model.refit(rows.x, rows.y, seed)
    return model.refit_people(rows.x, rows.y, seed, person=rows.person)


@dataclass(frozen=True, kw_only=True)
class Calibrated(Wrapper):
    """A target whose scores go through a map; so do those of its refits."""

    calibrator: Calibrator
    mapping: Map

    @property
    def capabilities(self) -> frozenset[Capability]:
        kept = {LABELS, SCORES, REFIT}
        return self.base.capabilities & (kept | {LOGITS, MODULE} if self._scales else kept)

    @property
    def voids(self) -> str:
        return (
            "its map was fitted to the model that stood there before, which saw the private rows without noise; harden "
            "the bare model first, then calibrate on Dataset(reference=...)"
        )

    @property
    def _scales(self) -> bool:
        return self.mapping.how == "temperature"

    def _before(self, base: Target) -> Target:
        made = super()._before(base)
        return made if made is self else replace(made, claims=self.claims)

    def digest(self) -> str:
        mark = hashlib.sha256(f"calibrated {self.mapping.how}: {self.base.digest()}".encode())
        for part in self.mapping.parts:
            mark.update(part.tobytes())
        return mark.hexdigest()

    def labels(self, x: Any) -> np.ndarray:
        return self._behind().labels(x) if self._scales else np.asarray(self.scores(x).argmax(1))

    def scores(self, x: Any) -> np.ndarray:
        return self.mapping(log_scores(self._behind(), x))

    def logits(self, x: Any) -> np.ndarray:
        if LOGITS not in self.capabilities:
            raise self._missing(LOGITS)
        return np.asarray(self.mapping.parts[0][0] * self._behind().logits(x))

    def module(self) -> Any:
        """Return the base's module, its logits times the factor."""
        if MODULE not in self.capabilities:
            raise self._missing(MODULE)
        return scaled(self._behind().module(), float(self.mapping.parts[0][0]))

    def refit(self, x: Any, y: np.ndarray, seed: int) -> Target:
        return self._again(Split(x, y), seed)

    def refit_people(self, x: Any, y: np.ndarray, seed: int, *, person: np.ndarray | None) -> Target:
        return self._again(Split(x, y, person), seed)

    def _again(self, rows: Split, seed: int) -> Target:
        """Train the model again, on fewer rows where a share was held back, behind the same map.

        The attacker is taken to know the map; a new one for each shadow would add noise and cost as many fits again.
        """
        if self.calibrator.share and self.calibrator.reference is None:
            held = _places(rows, seed) < self.calibrator.share
            return replace(self, base=_held_out(self._behind(), rows, held, seed)[0], claims=())
        return replace(self, base=_refit(self._behind(), rows, seed), claims=())
