# SPDX-License-Identifier: Apache-2.0
"""What a ledger declares: its population, unit, neighbours and limit; what costs stated for others become under it."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from casemate.core.errors import GuaranteeVoid, InvalidData
from casemate.privacy import _ledger_filter as filters
from casemate.privacy import events
from casemate.privacy._ledger_entries import FORMAT
from casemate.privacy.events import Event, Part, Pure

UNITS = ("person", "record")
NEIGHBOURS = ("add_or_remove_one", "replace_one")
LONGEST_TEXT = 2**20  # a question may name thousands of edges or keys
LARGEST = sys.float_info.max  # a whole number may be larger


@dataclass(frozen=True, kw_only=True)
class Stated:
    """For whom an event's cost holds, where that is not what the ledger declares.

    From records to people a bound on the rows a person contributes is needed (``rows_per_person``).

    >>> Stated(unit="record", rows_per_person=4).neighbours
    'add_or_remove_one'
    """

    unit: str = "person"
    neighbours: str = "add_or_remove_one"
    rows_per_person: int | None = None


def first(
    *,
    population: str,
    unit: str,
    neighbours: str,
    epsilon: float,
    delta: float,
    filtered: str,
    declared: Iterable[Event],
    now: float,
) -> dict[str, Any]:
    """Return the first entry of a ledger.

    Raises:
        InvalidData: something in it makes no sense, or the declared events cost too much.
    """
    check_text("population", population)
    if unit not in UNITS:
        raise InvalidData(f"unit is 'record' or 'person'; got {unit!r}")
    if neighbours not in NEIGHBOURS:
        raise InvalidData(f"neighbours is one of {', '.join(NEIGHBOURS)}; got {neighbours!r}")
    check_limit(epsilon, delta)
    raw = [events.to_json(event) for event in declared]
    if raw:
        check_declared(tuple(part for event in declared for part in event), epsilon, delta)
    return {
        "kind": "ledger",
        "format": FORMAT,
        "id": os.urandom(16).hex(),
        "n": 1,
        "time": round(now, 3),
        "population": population,
        "unit": unit,
        "neighbours": neighbours,
        "epsilon": float(epsilon),
        "delta": float(delta),
        "name": filtered,
        "filter": filters.made(filtered, float(epsilon), float(delta)).to_json(),
        "declared": raw,
    }


def check_limit(epsilon: Any, delta: Any) -> None:
    """Refuse a limit that is none."""
    if not _is_number(epsilon) or not epsilon > 0:
        name, low, high = "epsilon", 0, math.inf
        raise InvalidData(f"{name} must lie between {low} and {high}, both excluded; got {epsilon!r}")
    if not _is_number(delta) or not (delta == 0 or 1e-200 <= delta < 1):
        raise InvalidData(f"delta of a ledger is 0, or lies in [1e-200, 1); got {delta!r}")


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, (int, float)) and abs(value) <= LARGEST


def converted(event: Event, stated: Stated | None, header: dict[str, Any]) -> Event:
    """Return the event as it costs under the ledger's unit and neighbours.

    Raises:
        GuaranteeVoid: that does not follow from what is stated.
    """
    if stated is None:
        return event
    unit, neighbours = header["unit"], header["neighbours"]
    if stated.unit not in UNITS or stated.neighbours not in NEIGHBOURS:
        raise InvalidData(
            f"a cost is stated per person or record, for added or replaced ones; got {stated!r}"
        )
    if stated.neighbours == "replace_one" and (neighbours != "replace_one" or stated.unit != unit):
        raise GuaranteeVoid(
            "a cost for one unit replaced says nothing of one added or removed; state it for that"
        )
    if stated.unit == "person" and unit == "record":
        raise GuaranteeVoid("this ledger counts records: state the cost for one record")
    if stated.unit != unit:
        rows = stated.rows_per_person
        if rows is None or not _is_number(rows) or rows != int(rows) or rows < 1:
            raise GuaranteeVoid(
                "this ledger counts people: a cost per record needs rows_per_person, the most rows one contributes"
            )
        event = tuple(_grouped(part, int(rows)) for part in event)
    return events.replaced(event) if stated.neighbours != neighbours else event


def _grouped(part: Part, rows: int) -> Part:
    """Return what a part costs for ``rows`` records that come and go together."""
    if rows == 1:
        return part
    if isinstance(part, Pure):
        return replace(part, epsilon=rows * part.epsilon)
    if isinstance(part, events.ZCDP):
        return replace(part, rho=rows**2 * part.rho)
    if isinstance(part, (events.Gaussian, events.Laplace)) and part.rate == 1:
        return replace(part, noise_multiplier=part.noise_multiplier / rows)
    if isinstance(part, (events.DiscreteLaplace, events.DiscreteGaussian)):
        return replace(part, sensitivity=rows * part.sensitivity)
    raise GuaranteeVoid(
        f"what {type(part).__name__} costs a person with {rows} rows does not follow; state it for people"
    )


def check_declared(declared: Event, epsilon: float, delta: float) -> None:
    paid = cost_of(declared, delta)
    if not paid <= epsilon:
        raise InvalidData(f"what is declared costs epsilon {paid:.6g}, more than the limit of {epsilon:g}")


def cost_of(event: Event, delta: float) -> float:
    """Return the cost of a fixed sequence."""
    from casemate.privacy import accounting

    if delta > 0:
        try:
            return accounting.epsilon(event, delta)
        except (OverflowError, ZeroDivisionError):
            return math.inf  # parameters whose squares are beyond the floats: next to no noise
    basic = filters.made("pure", 1.0, 0.0)
    return basic.epsilon(filters.cost(event, basic), 0.0)


def check_text(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value.strip() or len(value) > LONGEST_TEXT:
        raise InvalidData(f"{name} is a text of 1 to {LONGEST_TEXT} characters; got {str(value)[:40]!r}")
