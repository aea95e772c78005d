# SPDX-License-Identifier: Apache-2.0
"""The plan of a private training: sampling, clipping, noise and accounting bound together, so that none can drift.

A stated epsilon of a trained model comes from a :class:`Plan` and from nowhere else. Nobody writes it down: it is
computed from what the plan says was done, and the training does what the plan says because it reads its clipping,
noise, rate and number of steps there. A plan holds nothing about the data, not even how many people there were,
except that a default delta tells the power of ten of that number, and the rate of ``dp_sgd`` its power of two.

**What it promises.** Whoever sees the weights, and all steps on the way to them, cannot tell well whether one unit (a
record, or a person with all their rows) was among the training data: ``epsilon`` at ``delta``, and ``max_tpr`` for an
attacker in words. **What it does not cover.** The choice of columns, bounds, learning rate or model if that was made
by looking at the same data; an audit of the model, which asks the members themselves; several models trained on the
same people, whose costs add up; rounding of floats in the noisy sums.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from casemate.core.errors import GuaranteeVoid, InvalidData
from casemate.core.types import Detail, Note, Table
from casemate.privacy import accounting
from casemate.privacy.accounting import Event, Gaussian

Unit = Literal["record", "person"]
SHARES = (0.001, 0.01, 0.1)  # false alarms at which the bound is told


@dataclass(frozen=True, kw_only=True)
class Plan:
    """``steps`` noisy sums, each of contributions clipped to ``clip`` in L2 norm a unit, and what they cost together.

    ``sampler`` is "all" (every unit in every step) or "poisson" (each unit in each step with probability ``rate``).
    ``counts`` noisy counts of the units use the same ``noise_multiplier``. Neighbours differ by one unit, added or
    removed.

    >>> plan = Plan(unit="person", clip=1.0, noise_multiplier=12.0, steps=60, delta=1e-5)
    >>> round(plan.epsilon, 2)
    2.65
    """

    unit: Unit
    clip: float
    noise_multiplier: float
    steps: int
    delta: float
    sampler: Literal["all", "poisson"] = "all"
    rate: float = 1.0
    counts: int = 0
    neighbouring: Literal["add_or_remove_one"] = "add_or_remove_one"

    def __post_init__(self) -> None:
        if self.sampler not in ("all", "poisson"):
            raise GuaranteeVoid(
                f"sampler {self.sampler!r} has no accounting here: batches that are shuffled or of a fixed size are no "
                "Poisson sample; use 'poisson' or 'all'"
            )
        if self.neighbouring != "add_or_remove_one":
            raise GuaranteeVoid(
                f"neighbouring {self.neighbouring!r}: the noise is scaled to one unit added or removed; replacing one "
                "moves a sum twice as far"
            )
        if self.unit not in ("record", "person"):
            raise InvalidData(f"unit is 'record' or 'person'; got {self.unit!r}")
        if self.sampler == "all" and self.rate != 1:
            raise GuaranteeVoid(
                f"sampler 'all' takes every unit, but rate is {self.rate!r}; use sampler='poisson'"
            )
        if not (math.isfinite(self.clip) and self.clip > 0):
            raise InvalidData(f"clip must be a finite number > 0; got {self.clip!r}")
        if not 0 < self.delta < 1:
            raise InvalidData(f"delta must lie between 0 and 1, both excluded; got {self.delta!r}")
        if isinstance(self.counts, bool) or self.counts != int(self.counts) or self.counts < 0:
            raise InvalidData(f"counts must be a whole number >= 0; got {self.counts!r}")
        _ = self.event  # validates noise, steps and rate

    @property
    def event(self) -> Event:
        """Return everything that is released about the units, for the accountant."""
        noise = self.noise_multiplier
        steps = Gaussian(noise_multiplier=noise, count=self.steps, rate=self.rate)
        return (steps, Gaussian(noise_multiplier=noise, count=self.counts)) if self.counts else (steps,)

    @property
    def epsilon(self) -> float:
        """Return the privacy loss at ``delta``: an upper bound."""
        return accounting.epsilon(self.event, self.delta)

    def max_tpr(self, fpr: float) -> float:
        """Return the largest share of members that anybody recognises while accusing a share ``fpr`` of others.

        >>> Plan(unit="record", clip=1.0, noise_multiplier=1.0, steps=1, delta=1e-5).max_tpr(0.01) < 0.0924
        True
        """
        return float(accounting.max_tpr(self.event, fpr))

    def to_report(self) -> dict[str, Any]:
        """Return what a report says of the plan: the promise in words, and for a curve ``max_tpr`` at some ``fpr``.

        >>> plan = Plan(unit="record", clip=1.0, noise_multiplier=9.0, steps=4, delta=1e-5)
        >>> plan.to_report()["ceiling"][-1]
        [1.0, 1.0]
        """
        shares = [10.0 ** (step / 6 - 4) for step in range(25)]  # .01 % to 1, six a decade
        ceiling = [[share, min(rounded_up(self.max_tpr(share)), 1.0)] for share in shares]
        kept = {"unit": self.unit, "epsilon": rounded_up(self.epsilon), "delta": rounded_up(self.delta)}
        return {**kept, "says": str(self), "ceiling": ceiling}

    def to_dict(self) -> dict[str, Any]:
        """Return the plan and what it costs as plain JSON values.

        >>> plan = Plan(unit="record", clip=1.0, noise_multiplier=9.0, steps=4, delta=1e-5)
        >>> Plan.from_dict(plan.to_dict()) == plan
        True
        """
        return {**asdict(self), "epsilon": self.epsilon}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Plan:
        """Rebuild from :meth:`to_dict`. The epsilon in it is not believed but computed again.

        Raises:
            GuaranteeVoid: it states a smaller epsilon than the plan costs.
        """
        made = cls(**{name: value for name, value in raw.items() if name in cls.__dataclass_fields__})
        stated = raw.get("epsilon", math.inf)
        if stated < made.epsilon * (1 - 1e-9):
            raise GuaranteeVoid(f"the plan states epsilon {stated:g} but costs {made.epsilon:.4g}")
        return made

    def __str__(self) -> str:
        sampled = "" if self.sampler == "all" else f", each {self.unit} in with probability {self.rate:g}"
        promise = f"({rounded_up(self.epsilon):g}, {rounded_up(self.delta):g})-differential privacy"
        return (
            f"{promise} per {self.unit}: {self.steps} steps clipped at {self.clip:g} with noise "
            f"{self.noise_multiplier:.4g} times that{sampled}"
        )


def default_delta(n_units: int) -> float:
    """Return the largest power of ten that is at most 1 / (10 n).

    >>> default_delta(2956)
    1e-05
    """
    return float(10.0 ** math.floor(math.log10(1 / (10 * n_units)) + 1e-12))


def check_delta(delta: float, n_units: int, unit: Unit) -> None:
    """Refuse a delta under which whole units could be published.

    Raises:
        InvalidData: delta above 1 / (10 n).

    >>> check_delta(1e-5, 2956, "person")
    """
    if not 0 < delta < 1:
        raise InvalidData(f"delta must lie between 0 and 1, both excluded; got {delta!r}")
    if delta > (1 + 1e-9) / (10 * n_units):
        units = "people" if unit == "person" else "records"
        raise InvalidData(
            f"delta {delta:g} is too large for {n_units:,} {units}: publishing one of them outright would keep it; "
            f"give at most {default_delta(n_units):g}"
        )


def for_epsilon(outline: Plan, epsilon: float) -> Plan:
    """Return ``outline`` with the least noise that costs at most ``epsilon`` at its delta.

    >>> plan = for_epsilon(Plan(unit="record", clip=1.0, noise_multiplier=1.0, steps=8, delta=1e-5), 1.0)
    >>> 0.999 < plan.epsilon <= 1.0
    True
    """
    noise = accounting.noise_for_epsilon(
        lambda sigma: replace(outline, noise_multiplier=sigma).event, epsilon=epsilon, delta=outline.delta
    )
    return replace(outline, noise_multiplier=noise)


def for_risk(outline: Plan, *, max_tpr: float, at_fpr: float) -> Plan:
    """Return ``outline`` with the least noise under which nobody exceeds ``max_tpr`` at ``at_fpr`` false alarms.

    >>> outline = Plan(unit="record", clip=1.0, noise_multiplier=1.0, steps=8, delta=1e-5)
    >>> for_risk(outline, max_tpr=0.02, at_fpr=0.01).max_tpr(0.01) <= 0.02
    True
    """
    noise = accounting.noise_for_risk(
        lambda sigma: replace(outline, noise_multiplier=sigma).event, max_tpr=max_tpr, at_fpr=at_fpr
    )
    return replace(outline, noise_multiplier=noise)


def asked(who: str, **wish: float | None) -> bool:
    """Check how much privacy is asked for; return whether any is (``epsilon=inf`` asks for none).

    Args:
        who: the method that is asked.
        wish: its parameters ``epsilon``, ``delta``, ``max_tpr`` and ``at_fpr``.

    Raises:
        InvalidData: not exactly one of epsilon, or max_tpr with at_fpr; something that is no number.

    >>> asked("dp_sgd", epsilon=3, delta=None, max_tpr=None, at_fpr=None)
    True
    """
    epsilon, max_tpr = wish["epsilon"], wish["max_tpr"]
    if (epsilon is None) == (max_tpr is None) or (max_tpr is None) != (wish["at_fpr"] is None):
        raise InvalidData(f"{who} needs one of epsilon=3 or max_tpr=0.02 with at_fpr=0.01")
    for name, value in wish.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float, np.number))):
            raise InvalidData(f"{who}: {name} must be a number; got {value!r}")
    return epsilon != math.inf


@lru_cache(maxsize=64)  # the search takes seconds where people are sampled
def resolved(
    outline: Plan, *, epsilon: float | None = None, max_tpr: float | None = None, at_fpr: float | None = None
) -> Plan:
    """Return ``outline`` with the least noise that keeps what :func:`asked` let through.

    >>> outline = Plan(unit="record", clip=1.0, noise_multiplier=1.0, steps=8, delta=1e-5)
    >>> resolved(outline, epsilon=1.0) == for_epsilon(outline, 1.0)
    True
    """
    if epsilon is not None:
        return for_epsilon(outline, epsilon)
    if max_tpr is None or at_fpr is None:
        raise InvalidData("a plan needs epsilon, or max_tpr with at_fpr")
    return for_risk(outline, max_tpr=max_tpr, at_fpr=at_fpr)


def unit_of(person: Any, n_rows: int) -> tuple[Unit, int]:
    """Return what is protected, a record or a person, and how many of them there are.

    >>> unit_of(None, 5), unit_of([1, 1, 2], 3)
    (('record', 5), ('person', 2))
    """
    return ("record", n_rows) if person is None else ("person", len(np.unique(person)))


def told(plan: Plan) -> tuple[Detail, ...]:
    """Return what a plan promises as a table and in sentences, for the Change."""
    certain = accounting.lower_epsilon(plan.event, plan.delta)
    mu = accounting.dominating_mu(plan.event)
    rows = tuple((f"{share:g}", rounded_up(plan.max_tpr(share))) for share in SHARES)
    return (
        Table(name="most members anybody recognises", columns=("false alarms", "at most"), rows=rows),
        Note(text=f"{plan}. An upper bound for any attacker, if the training did what the plan says."),
        Note(
            text=f"Accounting slack: the worst case of these steps costs at least epsilon {_rounded_down(certain):g}, "
            f"so at most {rounded_up(100 * (1 - certain / plan.epsilon)):g} % of the epsilon stated is caution. All "
            f"steps together reveal no more than one Gaussian release with mu {rounded_up(mu):g}, but for a delta of "
            f"{accounting.REGRET:g}: at every epsilon their delta is at most its delta plus that."
        )
        if certain > 0 and mu < math.inf
        else Note(
            text="No certified lower value of this epsilon is known: it may hold more caution than needed."
        ),
    )


def rounded_up(value: float) -> float:
    """Return a bound with three digits, rounded up: it may not shrink on paper.

    >>> rounded_up(0.28690), rounded_up(3.0)
    (0.287, 3.0)
    """
    if not (0 < value < math.inf):
        return value
    unit = math.floor(math.log10(value)) - 2  # the place of the third digit
    return float(f"{math.ceil(value / 10.0**unit - 1e-9)}e{unit}")


def _rounded_down(value: float) -> float:
    return math.floor(value * 1000) / 1000
