# SPDX-License-Identifier: Apache-2.0
"""Distillation: a teacher's soft labels at a temperature, and the target that a student fitted to them is.

The student is a target of its own. The teacher stays behind it for one thing: a refit trains a teacher on the new rows
and distils that one, so shadow models of a distilled target are distilled as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from casemate.core import rng
from casemate.core.data import Dataset, Split
from casemate.core.errors import GuaranteeVoid, InvalidData
from casemate.core.limited import Limited, Wrapper
from casemate.core.nodes import softmax
from casemate.core.schema import Schema
from casemate.core.types import LABELS, LOGITS, MODULE, REFIT, SCORES, Capability, Recipe, Target
from casemate.training import soft_network, students

FLOOR = 1e-4  # a probability below it, 0 in most forests, counts as this much where its logarithm is taken


def log_scores(target: Target, x: Any) -> np.ndarray:
    """Return logits (n, classes) of a target: its own, or the logarithm of its probabilities, none below 1e-4."""
    if target.has(LOGITS):
        return target.logits(x)
    return np.asarray(np.log(np.maximum(target.scores(x), FLOOR)))


def soft_labels(teacher: Target, x: Any, temperature: float) -> np.ndarray:
    """Return softmax(logits / temperature) (n, classes); at temperature 1 the teacher's probabilities themselves."""
    return teacher.scores(x) if temperature == 1 else softmax(log_scores(teacher, x) / temperature)


@dataclass(frozen=True, kw_only=True)
class Student:
    """Which model learns, how large it may get, and at which temperature.

    ``recipe`` is that of a user's own torch module for the kind ``network``.
    """

    kind: students.Kind
    temperature: float
    depth: int
    leaf: int
    recipe: Recipe | None = None

    def learn(self, teacher: Target, x: Any, seed: int) -> students.Fitted | soft_network.Network:
        """Fit it to the teacher's soft labels on encoded rows.

        Raises:
            InvalidData: rows of text, or a model that cannot be fitted.
        """
        schema = teacher.schema
        if schema is None or schema.input == "text":
            raise InvalidData("distil needs a table or images; this data is text")
        soft = soft_labels(teacher, x, self.temperature)
        if self.kind != "network":
            sizes = {"depth": self.depth, "leaf": self.leaf}
            return students.fit(self.kind, schema, x, soft, **sizes, power=self.temperature, seed=seed)
        recipe = self.recipe or soft_network.small(schema, x, soft.shape[1])
        return soft_network.fit(
            recipe, x, soft, temperature=self.temperature, seed=seed, device=teacher.device
        )


@dataclass(frozen=True, kw_only=True)
class Distilled(Wrapper):
    """A student that answers in place of its teacher (``base``), which is asked for nothing but refits.

    ``transfer`` are public rows the student learnt on; None stands for the rows a teacher was trained on.
    """

    student: Student
    fitted: students.Fitted | soft_network.Network
    read: Schema  # the schema in whose codes the student reads rows
    transfer: Any = None

    @property
    def capabilities(self) -> frozenset[Capability]:
        own = {LABELS, SCORES}
        if self.fitted.has_logits:
            own.add(LOGITS)
        if isinstance(self.fitted, soft_network.Network):
            own.add(MODULE)
        if REFIT in self.base.capabilities:
            own.add(REFIT)
        behind = self.base  # what the user of the teacher may not ask, nobody may ask of the student
        while isinstance(behind, Wrapper):
            own = own & behind.allowed if isinstance(behind, Limited) else own
            behind = behind.base
        return frozenset(own)

    @property
    def kind(self) -> str:
        return "torch" if isinstance(self.fitted, soft_network.Network) else "scikit-learn"

    @property
    def voids(self) -> str:
        if self.transfer is not None:
            return super().voids
        return (
            "its student learns again on the private rows; harden the bare model first, then distil on "
            "Dataset(reference=...)"
        )

    def digest(self) -> str:
        return self.fitted.digest()

    def labels(self, x: Any) -> np.ndarray:
        return np.asarray(self.fitted.scores(self._rows(x)).argmax(1))

    def scores(self, x: Any) -> np.ndarray:
        return self.fitted.scores(self._rows(x))

    def logits(self, x: Any) -> np.ndarray:
        if LOGITS not in self.capabilities:
            raise self._missing(LOGITS)
        return self.fitted.logits(self._rows(x))

    def module(self) -> Any:
        if MODULE not in self.capabilities or not isinstance(self.fitted, soft_network.Network):
            raise self._missing(MODULE)
        return self.fitted.module()

    def refit(self, x: Any, y: np.ndarray, seed: int) -> Target:
        return self._taught(self._behind().refit(x, y, seed), x, seed)

    def refit_people(self, x: Any, y: np.ndarray, seed: int, *, person: np.ndarray | None) -> Target:
        return self._taught(self._behind().refit_people(x, y, seed, person=person), x, seed)

    def _taught(self, teacher: Target, x: Any, seed: int) -> Target:
        """Return the student of a new teacher, which was trained on rows ``x``."""
        rows = x if self.transfer is None else self.transfer
        fitted = self.student.learn(teacher, rows, rng.child_seed(seed, "student"))
        read = self.read if teacher.schema is None else teacher.schema
        return replace(self, base=teacher, fitted=fitted, read=read, claims=())

    def _rows(self, x: Any) -> Any:
        """Return rows in the student's own codes: data that came in other files may number categories otherwise."""
        if len(x) == 0:
            raise InvalidData("no rows were given; a prediction needs at least one")
        if self.schema is None or self.schema is self.read or self.read.input != "table":
            return x
        if [c.categories for c in self.schema.columns] == [c.categories for c in self.read.columns]:
            return x
        return self.read.encode(self.schema.decode(x))

    def _before(self, base: Target) -> Target:
        made = super()._before(base)
        # what the teacher's file and guarantee say is not said of the student
        return made if made is self else replace(made, claims=self.claims, source=None, history=())


def check_public(name: str, target: Target, data: Dataset) -> None:
    """Refuse to learn on rows that a guarantee of ``target`` is about.

    Raises:
        GuaranteeVoid: the target states a guarantee, and there are no reference rows, people of train own some, or
            train holds more of them than chance repeats (whatever their labels, and whoever is said to own them).
    """
    if not target.claims:
        return
    if data.reference is None:
        raise GuaranteeVoid(
            f"{name}: the model states a guarantee about its training rows, and what learns on these rows is not "
            "covered by it; give Dataset(reference=...) public rows to learn on"
        )
    own, theirs = data.train.person, data.reference.person
    if own is not None and theirs is not None and (n := len(np.intersect1d(own, theirs))):
        raise GuaranteeVoid(
            f"{name}: {n} people of train also own reference rows, so these are not public; take them out"
        )
    if n := _repeated(data):
        raise GuaranteeVoid(
            f"{name}: {n} reference rows stand in train as well, more than chance repeats, so these are not public; "
            "take them out"
        )


def _repeated(data: Dataset) -> int:
    """Count reference rows that stand in train, where they are thrice what the rows of holdout lead one to expect."""
    inside = set(_marks(data.train))
    theirs, others = ([mark in inside for mark in _marks(part)] for part in (data.reference, data.holdout))
    return sum(theirs) if sum(theirs) > 3 * sum(others) * len(theirs) / len(others) else 0


def _marks(part: Split | None) -> list[Any]:
    """Return what tells rows apart."""
    if part is None:
        return []
    return part.x if isinstance(part.x, list) else [row.tobytes() for row in part.x]


def surviving(claims: Iterable[Any]) -> tuple[Any, ...]:
    """Return the claims that hold for whatever is computed from a model and public rows: those of an epsilon.

    A certificate of the model's answers does not pass to another model.
    """
    return tuple(claim for claim in claims if getattr(claim, "epsilon", None) is not None)
