# SPDX-License-Identifier: Apache-2.0
"""The page of one property: its charts, and one table of its numbers by method and attacker, a column a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from casemate.core.types import Measurement, Property
from casemate.report import details, figures, words
from casemate.report.catalogue import Both, both
from casemate.report.details import Row
from casemate.report.several import ROWS, Several, once, told
from casemate.report.sides import Key, Sides, lined_up, some_of


def section(several: Several, name: Property) -> dict[str, Any]:
    """Return the page of a property as its template shows it."""
    rows = lined_up(name, several.reports)
    kept = dict(islice(rows.items(), ROWS))
    return {
        "id": name,
        "title": both(f"property.{name}"),
        "charts": pictures(figures.drawn(ungrouped(several, name)), name),
        "methods": list(_methods(several, kept)),
        "more": max(0, len(rows) - ROWS),
        "notes": details.notes(several, rows),
        **details.tables(several, rows),
    }


def ungrouped(several: Several, name: Property) -> Sides:
    """Line up a property for its charts, without the tables by group: these have a page of their own."""
    sides = Sides.of(name, several.reports, several.names or (both("page.value"),))
    rows = {key: tuple(m and _without_groups(m) for m in row) for key, row in sides.rows.items()}
    return replace(sides, rows=rows)


def _without_groups(m: Measurement) -> Measurement:
    table = details.group_table(m)
    return replace(m, details=tuple(d for d in m.details if d is not table))


def pictures(charts: Sequence[Any], at: str) -> list[dict[str, Any]]:
    """Return charts as markup, each with its title, what it says and its numbers."""
    from markupsafe import Markup

    return [
        {
            "id": f"{at}-{i}",
            "title": chart.title,
            "about": about,
            "svg": Markup(chart.svg(f"{at}-{i}")),  # noqa: S704  # every text in it was escaped there
            "numbers": chart.numbers,
        }
        for i, (chart, about) in enumerate(zip(charts, figures.told_once(charts), strict=True))
    ]


# ---------------------------------------------------------------------- the numbers


def _methods(several: Several, rows: dict[Key, Row]) -> Iterator[dict[str, Any]]:
    """Yield the numbers by method and attacker: who asks is said once for all that he finds."""
    found: dict[tuple[str, str, tuple[str, ...]], list[tuple[Key, Row, list[Both]]]] = {}
    for key, row in rows.items():
        attackers = [
            words.attacker(m, report.target.get("capabilities", ()))
            for m, report in zip(row, several.reports, strict=True)
            if m is not None
        ]
        some = some_of(row)
        index = (some.method, some.version, tuple(one["en"] for one in attackers))
        found.setdefault(index, []).append((key, row, attackers))
    places = {key: f"n-{some_of(row).property}-{i}" for i, (key, row) in enumerate(rows.items())}
    for (method, version, _), members in found.items():
        _, row, attackers = members[0]
        present = [i for i, m in enumerate(row) if m is not None]
        yield {
            "title": words.title(method),
            "name": f"{method} {version}",
            "attackers": [
                {
                    "text": one,
                    "of": several.mark(
                        i for i, other in zip(present, attackers, strict=True) if other == one
                    ),
                }
                for one in {one["en"]: one for one in attackers}.values()
            ],
            "rows": [_number(row, places[key]) for key, row, _ in members],
        }


def _number(row: Row, place: str) -> dict[str, Any]:
    some = some_of(row)
    cells = [_cell(m) for m in row]
    (reason, *others) = once([cell["reason"] for cell in cells])
    if len(cells) > 1 and reason and not others:  # all say the same: once, beside the name
        cells = [cell | {"reason": None} for cell in cells]
    else:
        reason = None
    return {
        "id": place,
        "about": (some.method, some.quantity),
        "points": " → ".join(words.number(None if m is None else m.value) for m in row)
        if words.headline(some)
        else "",
        "quantity": words.quantity_title(some.method, some.quantity),
        "key": some.quantity,
        "reason": reason,
        "cells": once(cells) if all(m is None or m.value is None for m in row) else cells,
        "n": " · ".join(once(["–" if m is None else str(m.n) for m in row])),
    }


def _cell(m: Measurement | None) -> dict[str, Any]:
    if m is None:
        return {"value": "–", "status": None, "reason": None}
    flagged = m.status != "measured"
    return {
        "value": None if flagged and m.value is None else words.of(m),
        "status": both(f"status.{m.status}") if flagged else None,
        "reason": told(m.reason) if m.reason else None,
    }
