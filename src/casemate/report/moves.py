# SPDX-License-Identifier: Apache-2.0
"""The verdict of a page: a sentence a property with its attacker, of several reports before and after, and the cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from casemate.core.types import Measurement, Property
from casemate.report import verdict, words
from casemate.report.catalogue import Both, both, joined
from casemate.report.claims import against, rounded_up, stated
from casemate.report.compare import Row
from casemate.report.model import Report
from casemate.report.several import Several, once, told
from casemate.report.sides import lined_up, some_of

_TOLD = ("found", "not_found", "explained", "explained_none")  # states with words of their own


def cards(several: Several, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return a card a property at risk; ``rows`` are the differences of a comparison."""
    made = []
    for name in verdict.AT_RISK:
        found = [verdict.headline(report, name) for report in several.reports]
        known = [(i, state, m) for i, (state, m) in enumerate(found) if m is not None]
        card: dict[str, Any] = {
            "id": name,
            "property": both(f"property.{name}"),
            "open": not known,
            "lines": [],
        }
        if not known:
            card["text"] = both("verdict.none" if several.alone else "verdict.none_of")
        else:
            card |= _moved(several, rows, name, found)
        made.append(card | {"promises": promises(several) if name == "privacy" else []})
    return made


def cost(several: Several, rows: Sequence[Row]) -> dict[str, Any]:
    """Return what the model is good for, before and after: the price of protection, on a line of its own."""
    utility = [row for row in lined_up("utility", several.reports).values() if any(map(_measured, row))]
    utility.sort(key=lambda row: not words.headline(some_of(row)))
    if not utility:
        return {"text": both("page.no_cost"), "open": True, "lines": []}
    some = some_of(utility[0])
    found = {"method": words.title(some.method), "quantity": words.quantity_title(some.method, some.quantity)}
    text = both("verdict.cost", **found, value=_values(utility[0]), n=str(some.n))
    return {"text": text, "open": False, "lines": _lines(several, rows, utility[0], [None] * len(utility[0]))}


def promises(several: Several) -> list[dict[str, Any]]:
    """Return what the training of each model promises, with the report that it belongs to."""
    found = several.marked([list(dict.fromkeys(_promised(report))) for report in several.reports])
    return [{"text": dict(text), "of": mark} for text, mark in found]


def _promised(report: Report) -> list[tuple[tuple[str, str], ...]]:
    out = []
    raw = report.target.get("claims")
    for claim in raw if isinstance(raw, list | tuple) else ():
        if (known := stated(claim)) is not None:
            unit, epsilon, delta = known
            numbers = {"epsilon": words.number(rounded_up(epsilon)), "delta": words.number(rounded_up(delta))}
            says = both("page.claim", unit=both(f"chart.unit_{unit}"), **numbers)
            broken = bool(against(report, claim))
            out.append(joined([says, both("page.contradicted")], "text.semicolon") if broken else says)
        elif isinstance(claim, Mapping) and claim.get("says"):
            out.append(told(str(claim["says"])))
    return [tuple(text.items()) for text in out]


# ---------------------------------------------------------------------- before and after


def _moved(
    several: Several,
    rows: Sequence[Row],
    name: Property,
    found: Sequence[tuple[verdict.State, Measurement | None]],
) -> dict[str, Any]:
    """Follow the number that says most in the first report that says something; what says more later is added."""
    first = next(m for _, m in found if m is not None)
    key = (first.method, first.quantity)
    row = next(
        row
        for (method, quantity, _), row in lined_up(name, several.reports).items()
        if (method, quantity) == key and any(m is first for m in row)
    )
    leading = [m is not None and (m.method, m.quantity) == key for _, m in found]
    own = [
        found[i][0] if leading[i] else verdict.stands(several.reports[i], here) if here is not None else None
        for i, here in enumerate(row)
    ]
    states = list(dict.fromkeys(state for state in own if state is not None))
    kind = states[0] if len(states) == 1 else "mixed" if {"found", "not_found"} & set(states) else "number"
    # what this number does not show another one of the same report may: then it is not said of the report
    hushed = [state == "not_found" and found[i][0] == "found" for i, state in enumerate(own)]
    says = [
        both(f"verdict.is_{state}") if len(states) > 1 and state in _TOLD and not quiet else None
        for state, quiet in zip(own, hushed, strict=True)
    ]
    lines = _lines(several, rows, row, says)
    for i, (state, m) in enumerate(found):
        here = row[i]
        alike = m is not None and here is not None and (m.quantity, m.value) == (here.quantity, here.value)
        if not leading[i] and m is not None and not alike:
            more = both(f"verdict.{state}", **verdict.blanks(several.reports[i], m))
            lines.append(
                {"name": several.names[i], "value": None, "text": more, "difference": None, "state": None}
            )
    return {"text": both(f"verdict.{kind}", **_blanks(several, row)), "lines": lines}


def _blanks(several: Several, row: Sequence[Measurement | None]) -> dict[str, str | Both]:
    """Fill a sentence for all reports: its numbers one after the other, the attacker that of the first."""
    if several.alone:
        return verdict.blanks(several.reports[0], some_of(row))
    sides = [
        verdict.blanks(report, m, _point)
        for report, m in zip(several.reports, row, strict=True)
        if m is not None and m.status == "measured"
    ]
    moved = {name: [str(side[name]) for side in sides] for name in ("null", "data", "column")}
    return (
        sides[0]
        | {name: " → ".join(once(values)) for name, values in moved.items()}
        | {"value": _values(row)}
    )


def _point(m: Measurement) -> str:
    return words.number(m.value)


def _measured(m: Measurement | None) -> bool:
    return m is not None and m.status == "measured"


def _values(row: Sequence[Measurement | None]) -> str:
    if len(row) == 1:
        return words.of(some_of(row))
    return " → ".join(_point(m) if m is not None and m.status == "measured" else "–" for m in row)


def _lines(
    several: Several, rows: Sequence[Row], row: Sequence[Measurement | None], says: Sequence[Both | None]
) -> list[dict[str, Any]]:
    """Return a line a report: its number with limits, the difference to the first, and what is said of it."""
    if several.alone:
        return []
    some, lines = some_of(row), []
    turn = [
        m for m in several.reports[0].measurements if (m.method, m.quantity) == (some.method, some.quantity)
    ]
    place = next((i for i, m in enumerate(turn) if m is row[0]), 0)
    for i, name in enumerate(several.names):
        mine = [r for r in rows if (r.report, r.method, r.quantity) == (i, some.method, some.quantity)]
        change = mine[place] if place < len(mine) else None
        m = row[i]
        gap = change.difference if change is not None else None
        lines.append(
            {
                "name": name,
                "value": None if m is None or m.value is None else words.of(m),
                "difference": None if gap is None else words.interval(gap.value, gap.low, gap.high),
                "state": None if change is None else change.verdict,
                "verdict": None if change is None else both(f"change.{change.verdict}"),
                "reason": change.reason if change is not None and change.verdict == "not_measured" else None,
                "text": says[i],
            }
        )
    return lines
