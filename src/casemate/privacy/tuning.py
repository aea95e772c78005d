# SPDX-License-Identifier: Apache-2.0
"""The best of many private trainings for little more than the price of one: a search whose losers stay secret.

Choosing settings by looking at people's data tells something of them. Here a random number K of runs is made, each of
a candidate drawn at random, and only the run with the best score is released: not the others, nor their scores, nor K.
Then the whole search costs about two to three times one run in epsilon, hardly more for 100 runs than for ten
(Papernot and Steinke 2022; :mod:`casemate.privacy._repeats` has the formulas). It is charged before it begins.

**What the promise rests on.** One run is everything that looks at people: the training *and* its score. So each
candidate trains by a :class:`~casemate.privacy.plan.Plan`, and one plan is charged that costs at least as much as any
of them (:func:`~casemate.privacy.tuned.dominating`); a score on people is noisy (:class:`NoisyScore`) and charged in
every run; a score on public rows (:class:`PublicScore`) costs nothing, by the user's word that they are public. Any
other score is refused. People of holdout belong to the ledger's population, as those of train do. K and the candidates
of the runs come from the operating system, and K is not recorded. A run that fails has the worst score, and is not told
unless all fail.

**What it does not cover.** The list of candidates, the columns and the mean of K, if they were chosen by looking at
the same people. ``before`` and ``after`` of the Change count people of train and holdout exactly. How long the search
takes, and what is seen of it while it runs, tells K. Show none of these to those the guarantee is against.
``model.plan`` of what is released is the plan of one run: the claim is the target's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal, TypeVar

import numpy as np

from casemate.core.data import Dataset, Split
from casemate.core.errors import GuaranteeVoid, InvalidData
from casemate.core.types import SCORES, Change, Note, Table, Target
from casemate.privacy import _repeats, mechanisms
from casemate.privacy.plan import SHARES, Plan, rounded_up, unit_of
from casemate.privacy.tuned import GRID, Runs, TunedPlan, dominating
from casemate.training import journal, retraining, secure
from casemate.training.distillation import check_public
from casemate.training.retraining import Chosen

__all__ = [
    "NoisyScore",
    "PublicScore",
    "Runs",
    "TunedPlan",
    "best",
    "check_judge",
    "planned",
    "score",
    "search",
    "told",
]
Quantity = Literal["accuracy", "quadratic"]
Run = TypeVar("Run")
LEAST_NOISE, MOST_NOISE = 0.01, 1e9  # people: beyond, a score says all of one of them, or nothing


@dataclass(frozen=True, kw_only=True)
class NoisyScore:
    """Score on holdout: the sum over people (or records) of how right they are, plus ``noise`` people of noise.

    A person counts at most 1, however many rows they own: the mean over their rows of 1 where the label is right
    ("accuracy"), or of one minus half the squared distance between the scores and the label ("quadratic"). One person
    more or less moves the sum by 1 at most, so it is a discrete Gaussian release with ``noise`` as its multiplier.

    >>> NoisyScore(noise=10.0).quantity
    'accuracy'
    """

    noise: float
    quantity: Quantity = "accuracy"


@dataclass(frozen=True, kw_only=True)
class PublicScore:
    """Score on the rows of ``Dataset(reference=...)``, which are public by your word: the share that is right.

    >>> PublicScore().quantity
    'accuracy'
    """

    quantity: Quantity = "accuracy"


def search(
    target: Target,
    data: Dataset,
    candidates: Sequence[Chosen],
    *,
    judge: Any,
    runs: Any,
    seed: int,
    ledger: journal.Ledger | None = None,
) -> Change:
    """Charge a search to the ledger, make it, and return the one training that is released.

    Args:
        target: bound to ``data``; it stays as it is.
        data: what every candidate trains on and is scored on.
        candidates: of each its defences with all their parameters.
        judge: a :class:`NoisyScore` or :class:`PublicScore`.
        runs: :class:`Runs`, or their mean.
        seed: of all that is no noise.
        ledger: what is charged, before the first draw.

    Raises:
        GuaranteeVoid: a score or a candidate that is not accounted for.
        BudgetExhausted: the ledger has no room; nothing was trained or spent.
        InvalidData: a defence that does not train, candidates that have no common cost, numbers out of range.
    """
    plans, recipes = list[Plan](), list[Any]()
    for chosen in candidates:
        if idle := [item.card.name for item, _ in chosen if not retraining.trains(item)]:
            raise InvalidData(f"{idle[0]} does not train; apply it by harden to what tune returned")
        _, recipe, claims = retraining.gathered(target, data, chosen, seed)
        if len(claims) != 1 or not isinstance(claims[0], Plan):
            name = chosen[0][0].card.name
            raise GuaranteeVoid(
                f"{name}: a candidate of a search states one epsilon; this states {len(claims)}"
            )
        plans += claims
        recipes.append(recipe)
    plan = planned(plans, runs, judge)
    check_judge(judge, plan, target, data)
    told_of = [(item.card.name, params) for chosen in candidates for item, params in chosen]
    parts = [part for part in (data.train, data.holdout, data.reference) if part is not None]
    rows = [(part.x, part.y, part.person) for part in parts]
    mark = journal.fingerprint("tune", plan, plans, recipes, told_of, judge, rows, seed)
    with journal.watched(ledger=ledger):
        charged = journal.current().once(mark, (plan,))

    def train(at: int) -> Change:
        made = retraining.retrained(target, data, candidates[at], seed)[-1]
        if made.target.claims != (plans[at],):
            raise GuaranteeVoid("a candidate trained by another plan than the one that was charged")
        return made

    with journal.watched():  # what goes on inside is told to nobody: how often is secret
        won, value = best(plan, train, lambda made: score(judge, made.target, data))
    return replace(
        won,
        target=replace(won.target, claims=(plan,)),
        summary=str(plan),
        evidence=(*told(plan, value), *charged),
        original=target,
        seed=seed,
    )


def planned(plans: Sequence[Plan], runs: Any, judge: Any) -> TunedPlan:
    """Return what the search costs.

    Raises:
        GuaranteeVoid: the score is none that is accounted for.
        InvalidData: plans that have no common cost, or numbers out of range.

    >>> plan = Plan(unit="record", clip=1.0, noise_multiplier=9.0, steps=4, delta=1e-5)
    >>> planned([plan], Runs(mean=3.0), PublicScore()).mean_runs
    3.0
    """
    if type(judge) not in (NoisyScore, PublicScore):
        raise GuaranteeVoid(
            "a score on people's rows tells something of them: give judge=NoisyScore(noise=10), whose cost is charged, "
            f"or judge=PublicScore() with public rows as Dataset(reference=...); got {judge!r:.80}"
        )
    if judge.quantity not in ("accuracy", "quadratic"):
        raise InvalidData(f"quantity is 'accuracy' or 'quadratic'; got {judge.quantity!r}")
    noise: Any = judge.noise if isinstance(judge, NoisyScore) else 0.0
    number = isinstance(noise, (int, float)) and not isinstance(noise, bool)
    if isinstance(judge, NoisyScore) and not (number and LEAST_NOISE <= noise <= MOST_NOISE):
        raise InvalidData(
            f"noise of a score is a number from {LEAST_NOISE:g} to {MOST_NOISE:g}; got {noise!r}"
        )
    law = runs if isinstance(runs, Runs) else Runs(mean=runs)
    return TunedPlan(
        run=dominating(plans),
        n_candidates=len(plans),
        mean_runs=law.mean,
        shape=law.shape,
        score_noise=float(noise),
    )


def check_judge(judge: NoisyScore | PublicScore, plan: TunedPlan, target: Target, data: Dataset) -> None:
    """Refuse a score that cannot be computed, or whose rows are not what it says.

    Raises:
        GuaranteeVoid: rows of people without owners under a plan for people, or public rows that are none.
        InvalidData: a task without labels, or scores that the target does not give.
    """
    if target.task not in ("binary", "multiclass"):
        raise InvalidData(f"a search scores labels; this target's task is {target.task}")
    if isinstance(judge, PublicScore):
        claimed = replace(target, claims=(plan,))
        check_public("the score", claimed, data)
        try:  # the same of holdout: no way around the noise
            check_public("the score", claimed, data._copy(train=data.holdout, holdout=data.train))
        except GuaranteeVoid as error:
            raise GuaranteeVoid(
                "the score: reference has people or rows of holdout; if holdout is public too, share its rows out "
                "between holdout and reference, else use NoisyScore"
            ) from error
    elif unit_of(data.holdout.person, len(data.holdout))[0] != plan.unit:
        raise GuaranteeVoid(
            f"the score counts holdout rows, and the plan protects each {plan.unit}: give both owners"
        )


def score(
    judge: NoisyScore | PublicScore, target: Target, data: Dataset, source: secure.Source | None = None
) -> float:
    """Return how good a model is: people predicted right plus noise, or the share of public rows that is right."""
    if isinstance(judge, PublicScore):
        return float(_right(judge.quantity, target, _public(data)).mean())
    right = _right(judge.quantity, target, data.holdout)  # (n,)
    if data.holdout.person is not None:
        _, owner = np.unique(data.holdout.person, return_inverse=True)
        right = np.bincount(owner, weights=right) / np.bincount(owner)  # (people,)
    whole = sum(np.floor(np.clip(right, 0.0, 1.0) * GRID).astype(np.int64).tolist())
    spread = (Fraction(judge.noise) * GRID) ** 2
    return (whole + mechanisms.discrete_gaussian(spread, source)) / GRID


def best(
    plan: TunedPlan,
    train: Callable[[int], Run],
    judged: Callable[[Run], float],
    source: secure.Source | None = None,
) -> tuple[Run, float]:
    """Make the runs; return the best and its score. The first of equals is as good as any: the runs are alike.

    A run that fails has the worst score of all: what failed and how often is as secret as the other losers.

    Args:
        plan: what was charged for this.
        train: makes a run of the candidate with this number.
        judged: its score, accounted for in ``plan`` or computed on public rows.
        source: for tests only.

    Raises:
        InvalidData: no run was drawn, which a Poisson number allows, or each of them failed; the cost stays.
    """
    draws = secure.source() if source is None else source
    found: tuple[Run | InvalidData, float] | None = None
    for _ in range(_repeats.drawn(plan.mean_runs, plan.shape, draws)):
        made: Run | InvalidData
        try:
            made = train(draws.below(plan.n_candidates))
            value = judged(made)
        except InvalidData as error:
            made, value = error, -math.inf
        if found is None or value > found[1]:
            found = made, value
    if found is None:
        raise InvalidData(
            "the number of runs drawn is 0, as a Poisson number may be: nothing is released, and the cost stays"
        )
    won, value = found
    if isinstance(won, InvalidData):
        raise InvalidData(
            f"the best training of the search failed, so all did, and the cost stays: {won}"
        ) from won
    return won, value


def told(plan: TunedPlan, value: float) -> tuple[Table | Note, ...]:
    """Return what the search promises and found, for the Change."""
    rows = tuple((f"{share:g}", rounded_up(plan.max_tpr(share))) for share in SHARES)
    units = "people" if plan.unit == "person" else "records"
    won = (
        Note(
            text=f"The noisy score of what was chosen: {value:.6g}; each of the {units} of holdout counts at most 1."
        )
        if plan.score_noise
        else Note(text=f"The score of what was chosen, on public rows: {value:.4g}.")
    )
    return (
        Table(name="most members anybody recognises", columns=("false alarms", "at most"), rows=rows),
        Note(text=f"{plan}. An upper bound for any attacker, if the training did what the plan says."),
        won,
        Note(
            text="How many trainings there were, and how the others did, is not told and must not be: the time that "
            "the search took says something of it. Not covered: candidates chosen by looking at the same people."
        ),
        Note(
            text="The utility before and after counts people of train and holdout exactly: it is not covered, so do "
            "not show it to those the guarantee is against."
        ),
    )


def _public(data: Dataset) -> Split:
    if data.reference is None:
        raise GuaranteeVoid("the score needs public rows: give Dataset(reference=...)")
    return data.reference


def _right(quantity: Quantity, target: Target, rows: Split) -> np.ndarray:  # (n,) in [0, 1]
    """Return how right each row is; what is no number counts as wrong."""
    if quantity == "accuracy":
        return np.asarray(target.labels(rows.x) == rows.y, np.float64)
    if not target.has(SCORES):
        raise InvalidData("quantity 'quadratic' needs scores; this target gives labels only: use 'accuracy'")
    given = np.asarray(target.scores(rows.x), np.float64)  # (n, classes)
    aim = np.eye(given.shape[1])[rows.y]
    near = 1.0 - 0.5 * ((given - aim) ** 2).sum(axis=1)
    return np.clip(np.nan_to_num(near, nan=0.0, posinf=0.0, neginf=0.0), 0.0, 1.0)
