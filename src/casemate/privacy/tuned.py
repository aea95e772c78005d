# SPDX-License-Identifier: Apache-2.0
"""What a private search costs: one plan that dominates every candidate's, a random number of runs, a score in each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from casemate.core.errors import InvalidData
from casemate.privacy import accounting
from casemate.privacy.events import DiscreteGaussian, Event, Tuned
from casemate.privacy.plan import Plan, Unit, rounded_up

GRID = 2**16  # steps of a unit's score
MOST_RUNS = 10_000.0  # on average


@dataclass(frozen=True, kw_only=True)
class Runs:
    """How many runs: ``mean`` on average; ``shape`` 1: geometric, 0: logarithmic, inf: Poisson (then perhaps none).

    A small shape costs least at any mean and is often but one run; a large one makes numbers near the mean likely.

    >>> Runs(mean=20.0).shape
    1.0
    """

    mean: float = 10.0
    shape: float = 1.0


@dataclass(frozen=True, kw_only=True)
class TunedPlan:
    """What a search costs: the best of a random number of runs, each at most ``run`` and a score.

    ``score_noise`` is 0 where the scores are computed on public rows.

    >>> run = Plan(unit="person", clip=1.0, noise_multiplier=40.0, steps=60, delta=1e-5)
    >>> plan = TunedPlan(run=run, n_candidates=5, mean_runs=10.0, score_noise=20.0)
    >>> round(run.epsilon, 2), round(plan.epsilon, 2)
    (0.7, 1.72)
    """

    run: Plan
    n_candidates: int
    mean_runs: float = 10.0
    shape: float = 1.0
    score_noise: float = 0.0

    def __post_init__(self) -> None:
        _ = self.event  # validates the numbers
        if self.mean_runs > MOST_RUNS:
            raise InvalidData(f"the mean number of runs is at most {MOST_RUNS:g}; got {self.mean_runs!r}")

    @property
    def event(self) -> Event:
        """Return everything that the search releases, for the accountant."""
        one = self.run.event
        if self.score_noise:
            one = (*one, DiscreteGaussian(sigma=self.score_noise * GRID, sensitivity=GRID))
        repeated = Tuned(one=one, mean_repeats=self.mean_runs, shape=self.shape)
        # a truncated law whose mean is 1 is one run always: nothing is chosen
        return one if self.mean_runs == 1 and self.shape < math.inf else (repeated,)

    @property
    def unit(self) -> Unit:
        """Return whom it protects."""
        return self.run.unit

    @property
    def neighbouring(self) -> Literal["add_or_remove_one"]:
        """Return how neighbours differ."""
        return self.run.neighbouring

    @property
    def delta(self) -> float:
        """Return the delta at which ``epsilon`` is told."""
        return self.run.delta

    @property
    def epsilon(self) -> float:
        """Return the privacy loss at ``delta``: an upper bound."""
        return accounting.epsilon(self.event, self.delta)

    def max_tpr(self, fpr: float) -> float:
        """Return the largest share of members that anybody recognises while accusing a share ``fpr`` of others."""
        return float(accounting.max_tpr(self.event, fpr))

    def to_report(self) -> dict[str, Any]:
        """Return what a report says of it, as :meth:`Plan.to_report` does."""
        shares = [10.0 ** (step / 6 - 4) for step in range(25)]
        ceiling = [[share, min(rounded_up(self.max_tpr(share)), 1.0)] for share in shares]
        kept = {"unit": self.unit, "epsilon": rounded_up(self.epsilon), "delta": rounded_up(self.delta)}
        return {**kept, "says": str(self), "ceiling": ceiling}

    def to_dict(self) -> dict[str, Any]:
        """Return the plan and what it costs as plain JSON values."""
        return {**asdict(self), "epsilon": self.epsilon}

    def covers(self, plan: Plan) -> bool:
        """Tell whether a run by ``plan`` costs at most what is charged for a run."""
        return replace(dominating([self.run, plan]), clip=self.run.clip) == self.run

    def __str__(self) -> str:
        promise = f"({rounded_up(self.epsilon):g}, {rounded_up(self.delta):g})-differential privacy"
        judged = (
            f"noise of {self.score_noise:g} in each score" if self.score_noise else "scores on public rows"
        )
        return (
            f"{promise} per {self.unit}: the best of a random number of trainings, {self.mean_runs:g} on average, over "
            f"{self.n_candidates} candidates, {judged}; one training by itself costs at most {self.run}"
        )


def dominating(plans: Sequence[Plan]) -> Plan:
    """Return a plan that costs at least as much as each: the least noise, the most steps, counts and highest rate.

    A training by one of them can be computed from what that plan releases: noise is added, steps left away, units
    left out of samples. So drawing one of them at random costs no more either.

    Raises:
        InvalidData: they protect different units or state different deltas: there is no one cost.

    >>> quiet = Plan(unit="record", clip=1.0, noise_multiplier=9.0, steps=4, delta=1e-5)
    >>> dominating([quiet, replace(quiet, noise_multiplier=8.0, steps=2)]).noise_multiplier
    8.0
    """
    if not plans:
        raise InvalidData("candidates= names no training with a guarantee")
    if len({(plan.unit, plan.delta, plan.neighbouring) for plan in plans}) > 1:
        raise InvalidData(
            "all candidates of a search must protect the same unit at the same delta; give each delta="
        )
    everybody = any(plan.sampler == "all" for plan in plans)
    return replace(
        plans[0],
        clip=max(plan.clip for plan in plans),
        noise_multiplier=min(plan.noise_multiplier for plan in plans),
        steps=max(plan.steps for plan in plans),
        counts=max(plan.counts for plan in plans),
        sampler="all" if everybody else "poisson",
        rate=1.0 if everybody else max(plan.rate for plan in plans),
    )
