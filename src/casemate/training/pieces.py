# SPDX-License-Identifier: Apache-2.0
"""What a training defence returns: the pieces of training it replaces. ``api.harden`` merges them and trains once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from casemate.core.errors import GuaranteeVoid, InvalidData
from casemate.core.types import Detail, Recipe

SLOTS = ("sampler", "transform", "loss", "aggregate", "schedule", "select", "recipe")


@dataclass(frozen=True, kw_only=True)
class TrainingPieces:
    """Replacements for parts of a training; None leaves a part as the target has it. All None: nothing changes.

    The first six are values that ``training/loop.py`` calls with a :class:`~casemate.training.steps.Stage`, in which
    they see the model, the schema, the step and its seed; each has its signature there. ``recipe`` is what
    ``Target.with_recipe`` takes: settings by name for an estimator, or a :class:`Recipe`. ``summary`` and
    ``evidence`` say in words what the replacement does, for the :class:`Change`. ``claims`` are what the training
    guarantees (a Plan); ``voids`` says how these pieces would break a stated epsilon, and what to do about it.

    >>> TrainingPieces(recipe={"min_samples_leaf": 20}).filled()
    ['recipe']
    """

    sampler: Callable[..., Any] | None = None  # which rows form a step
    transform: Callable[..., Any] | None = None  # what happens to a batch before the loss
    loss: Callable[..., Any] | None = None
    aggregate: Callable[..., Any] | None = None  # per-example gradients -> one step
    schedule: Callable[..., Any] | None = None  # what changes from step to step
    select: Any | None = None  # a Selection: which epoch's model is kept
    recipe: Recipe | Mapping[str, Any] | None = None
    summary: str = ""
    evidence: tuple[Detail, ...] = ()
    claims: tuple[Any, ...] = ()
    voids: str = ""

    def filled(self) -> list[str]:
        """Return the names of the slots that are not None."""
        return [slot for slot in SLOTS if getattr(self, slot) is not None]

    def of_the_loop(self) -> list[str]:
        """Return the names of the filled slots that only a training loop can take: all but ``recipe``."""
        return [slot for slot in self.filled() if slot != "recipe"]


def merge(named: Sequence[tuple[str, TrainingPieces]]) -> TrainingPieces:
    """Put the pieces of several defences into one training; the order of ``named`` does not matter to it.

    Args:
        named: (name of the defence, its pieces).

    Raises:
        InvalidData: two defences replace the same part.
        GuaranteeVoid: one states an epsilon that another would make false.

    >>> merge([("a", TrainingPieces(loss=len)), ("b", TrainingPieces(schedule=sum))]).filled()
    ['loss', 'schedule']
    """
    merged, owner = TrainingPieces(), dict[str, str]()
    for name, pieces in named:
        for slot in pieces.filled():
            if slot in owner:
                raise InvalidData(
                    f"{owner[slot]} and {name} both replace the {slot} of the training; use one of them"
                )
            owner[slot] = name
            merged = replace(merged, **{slot: getattr(pieces, slot)})
    told = [pieces for _, pieces in named]
    stated = [name for name, pieces in named if pieces.claims]
    for name, pieces in named:
        if stated and pieces.voids:
            raise GuaranteeVoid(f"{name} would make the guarantee of {stated[0]} false: {pieces.voids}")
    return replace(
        merged,
        summary="; ".join(pieces.summary for pieces in told if pieces.summary),
        evidence=tuple(piece for pieces in told for piece in pieces.evidence),
        claims=tuple(claim for pieces in told for claim in pieces.claims),
        voids="; ".join(pieces.voids for pieces in told if pieces.voids),
    )
