# SPDX-License-Identifier: Apache-2.0
"""One training by the merged pieces of several defences: what ``harden`` does once and ``tune`` several times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_type_hints

from casemate.core import harness, rng
from casemate.core.data import Dataset
from casemate.core.errors import GuaranteeVoid, InvalidData
from casemate.core.limited import Wrapper
from casemate.core.methods import Method
from casemate.core.run import Run
from casemate.core.types import Change, Detail, Recipe, Target
from casemate.training import journal
from casemate.training.pieces import TrainingPieces, merge

Chosen = Sequence[tuple[Method, dict[str, Any]]]  # defences with all their parameters


def trains(item: Method) -> bool:
    """Tell whether a defence works on the training: its function says so by what it returns."""
    return get_type_hints(item.function)["return"] is TrainingPieces


def applied(item: Method, target: Target, data: Dataset, params: dict[str, Any], seed: int) -> Any:
    """Return what a defence makes of a target, its parameters under its name.

    Raises:
        InvalidData: the target does not offer what the defence needs.
    """
    if reason := harness.unavailable(item.card, target):
        raise InvalidData(f"{item.card.name} {reason}")
    made = item.function(target, data, **params, run=Run(card=item.card, seed=seed))
    return replace(made, params={item.card.name: made.params}) if isinstance(made, Change) else made


def gathered(
    target: Target, data: Dataset, chosen: Chosen, seed: int
) -> tuple[TrainingPieces, Any, tuple[Any, ...]]:
    """Return the merged pieces of training defences, the recipe by which to train, and what that claims.

    Raises:
        InvalidData: two defences replace the same part, or one that no training loop takes.
        GuaranteeVoid: one would make the guarantee of another, or of what stands in front of the model, false; or a
            search chose the recipe that would be trained by.
    """
    named = [(item.card.name, applied(item, target, data, p, seed)) for item, p in chosen]
    merged = merge(named)
    recipe, claims = merged.recipe, merged.claims
    if slots := merged.of_the_loop():
        before = target.recipe
        if not isinstance(before, Recipe) or not isinstance(recipe, Recipe | None):
            raise InvalidData(f"a training defence replaces the {slots[0]}, which no training loop takes")
        told = before.pieces.claims if before.pieces is not None else ()
        if told and any(claim not in told for claim in target.claims):
            raise GuaranteeVoid(
                "a search chose how this target trains: trained again it would claim the cost of one training and "
                "forget what choosing cost; give that defence to each candidate of tune"
            )
        # what the target was hardened with before stays
        kept = [("an earlier defence of this target", before.pieces)] if before.pieces is not None else []
        whole = replace(merge([*kept, *named]), recipe=None)
        recipe, claims = replace(recipe or before, pieces=whole), whole.claims
    if claims and isinstance(target, Wrapper) and target.voids:
        raise GuaranteeVoid(f"a defence that stands in front of the model already: {target.voids}")
    return merged, recipe, claims


def retrained(target: Target, data: Dataset, chosen: Chosen, seed: int) -> list[Change]:
    """Train the target once by the merged pieces of all training defences; not at all where they change nothing."""
    if not chosen:
        return []
    merged, recipe, claims = gathered(target, data, chosen, seed)
    history = tuple[Detail, ...]()
    if recipe is not None:
        train, child = data.train, rng.child_seed(seed, "harden")
        ready = target.with_recipe(recipe)
        if claims:  # noted before the first draw of noise, whatever trains
            trained_by = (ready.recipe, dict(ready.settings()), merged.claims)
            mark = journal.fingerprint("harden", trained_by, train.x, train.y, train.person, child)
            history = journal.current().once(mark, claims)
        fresh = ready.refit_people(train.x, train.y, child, person=train.person)
        target, history = replace(fresh, claims=claims), (*history, *fresh.history)
    return [
        Change(
            target=target,
            method="+".join(item.card.name for item, _ in chosen),
            params={item.card.name: params for item, params in chosen},
            summary=merged.summary,
            evidence=(*merged.evidence, *history),
        )
    ]
