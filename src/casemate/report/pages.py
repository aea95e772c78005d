# SPDX-License-Identifier: Apache-2.0
"""What the template is given: one structure for a single report and for a comparison of several.

Verdict, a page a property, groups, (only of several reports) compare, standards, reproduce. Each page has a file of its
own: moves.py, properties.py, slices.py, standards.py, provenance.py, and a template of that name in templates/.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date
from itertools import accumulate
from typing import Any

from casemate.core.errors import InvalidData
from casemate.report import moves, properties, provenance, slices, standards, verdict, words
from casemate.report.catalogue import as_is, both
from casemate.report.compare import Comparison, Row
from casemate.report.model import Report
from casemate.report.plain import gate_counts, verdict_line
from casemate.report.several import ROWS, Several, once, told

_COMPARED, _GATES = 100, 200
Key = tuple[str, str, str, int]  # property, method, quantity, and which of its name


def parts(reports: Sequence[Report], comparison: Comparison | None = None) -> dict[str, Any]:
    """Return all that the template shows of one report, or of several with what was compared and judged."""
    several = Several.of(reports)
    rows = () if comparison is None else comparison.rows
    alone = [properties.section(several, name) for name in verdict.AT_RISK]
    utility = properties.section(several, "utility")
    groups = slices.section(several)
    last = reports[-1]
    return {
        "title": both("page.report" if several.alone else "page.comparison"),
        "subtitle": words.model(reports[0].target),
        "day": _day(last).isoformat(),
        "summary": None if comparison is None else verdict_line(comparison),
        "public": any(report.edition == "public" for report in reports),
        "names": several.names,
        "unshown": max(0, len(reports) - len(several.reports)),
        "who": [] if several.alone else list(_who(several)),
        "cards": moves.cards(several, rows),
        "cost": moves.cost(several, rows),
        "utility": utility,
        "missing": _missing(several),
        "level": words.percent(last.level),
        "judged": several.sentences([comparison.notes] if several.alone and comparison is not None else []),
        "gates": _gates(several, comparison),
        "properties": alone,
        "groups": groups,
        "compared": None if several.alone or comparison is None else _compared(several, comparison),
        "standards": _standards(several, [*alone, utility], groups),
        "provenance": provenance.section(several),
        "version": last.version,
    }


def _day(report: Report) -> date:
    """Return the day a report was made: what it says of a law is as old as the report, whenever it is shown."""
    try:
        return date.fromisoformat(report.created[:10])
    except ValueError as error:
        raise InvalidData(f"a report's created is a date in ISO 8601; got {report.created[:40]!r}") from error


# ---------------------------------------------------------------------- verdict


def _who(several: Several) -> Iterator[dict[str, Any]]:
    """Yield what tells the compared models apart; a public edition has no digest."""
    promised = moves.promises(several)
    for name, report in zip(several.names, several.reports, strict=True):
        digest = report.target.get("digest")
        yield {
            "name": name,
            "model": words.model(report.target),
            "created": words.visible(report.created, 40),
            "digest": words.visible(str(digest), 16) if digest and report.edition != "public" else "–",
            "promises": [
                one["text"]
                for one in promised
                if one["of"] is None or name["en"] in one["of"]["en"].split(", ")
            ],
        }


def _missing(several: Several) -> dict[str, Any]:
    """Return what was asked for and not shown, by reason, each once, and in which reports."""
    found = several.marked([verdict.missing(report) for report in several.reports])
    made: dict[tuple[str, str], dict[str, Any]] = {}
    for item, mark in found[:ROWS]:
        key = (item.reason, "" if mark is None else mark["en"])
        made.setdefault(key, {"names": [], "reason": told(item.reason), "of": mark})["names"].append(
            item.name
        )
    return {"shown": list(made.values()), "more": max(0, len(found) - ROWS)}


def _gates(several: Several, comparison: Comparison | None) -> dict[str, Any]:
    results = () if comparison is None else comparison.gates
    names = several.names or (as_is(""),)
    return {
        "counts": gate_counts(results),
        "state": next(
            (
                name
                for name in ("failed", "not_shown", "not_measured", "held")
                for g in results
                if g.result == name
            ),
            "",
        ),
        "named": len(several.names) > 2,
        "rows": [
            {
                "gate": g.gate.words,
                "of": names[g.report] if g.report < len(names) else as_is(str(g.report)),
                "result": both(f"gate.{g.result}"),
                "state": g.result,
                "why": g.why,
            }
            for g in results[:_GATES]
        ],
    }


# ---------------------------------------------------------------------- compare


def _compared(several: Several, comparison: Comparison) -> dict[str, Any]:
    """Return a row a quantity: its values in all reports, and for each later one the difference to the first."""
    found: dict[Key, dict[int, Row]] = {}
    turns: Counter[tuple[int, str, str, str]] = Counter()
    for row in comparison.rows:
        index = (row.report, row.property, row.method, row.quantity)
        found.setdefault((*index[1:], turns[index]), {})[row.report] = row
        turns[index] += 1
    later = range(1, len(several.reports))
    methods: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for (name, method, quantity, _), each in list(found.items())[:_COMPARED]:
        methods.setdefault((name, method), []).append(_row(method, quantity, each, later))
    return {
        "heads": several.names[1:],
        "methods": [
            {"property": both(f"property.{name}"), "title": words.title(method), "name": method, "rows": own}
            for (name, method), own in methods.items()
        ],
        "more": max(0, len(found) - _COMPARED),
        "notes": several.sentences([comparison.notes]),
        "counts": verdict_line(comparison),
    }


def _row(method: str, quantity: str, rows: dict[int, Row], later: range) -> dict[str, Any]:
    some = next(iter(rows.values()))
    values = [some.before, *(rows[i].after if i in rows else None for i in later)]
    return {
        "quantity": words.quantity_title(method, quantity),
        "key": quantity,
        "points": " → ".join("–" if m is None else words.number(m.value) for m in values),
        "cells": once([_cell(rows.get(i)) for i in later]),
    }


def _cell(row: Row | None) -> dict[str, Any]:
    if row is None:
        return {
            "difference": None,
            "reason": None,
            "state": "not_measured",
            "verdict": both("change.not_measured"),
        }
    gap = row.difference
    return {
        "difference": None if gap is None else words.interval(gap.value, gap.low, gap.high),
        # what was not measured has its reason in the table of its property
        "reason": row.reason if gap is None and row.verdict == "unpaired" else None,
        "state": row.verdict,
        "verdict": both(f"change.{row.verdict}"),
    }


# ---------------------------------------------------------------------- standards


def _standards(several: Several, shown: Sequence[dict[str, Any]], groups: dict[str, Any]) -> dict[str, Any]:
    """Return the crosswalk; a clause points to the numbers where they stand on their pages."""
    last = several.reports[-1]
    made = standards.section(*several.reports, on=_day(last), names=several.names)
    places: dict[tuple[str, str], tuple[str, str]] = {}
    for page in shown:
        for method in page["methods"]:
            for row in method["rows"]:
                places.setdefault(row["about"], (row["id"], row["points"]))
    sliced = {about: table["id"] for table in groups["tables"] for about in table["about"]}
    links: list[dict[str, Any] | None] = []
    for line in made["numbers"]:
        if line["unit"] == "groups":
            place = sliced.get((line["name"], line["key"]))
            links.append(None if place is None else {"at": place, "text": line["key"], "points": ""})
        else:
            held = places.get((line["unit"], line["key"]))
            links.append(None if held is None else {"at": held[0], "text": line["key"], "points": held[1]})
    marks = list(
        accumulate(int(link is None) for link in links)
    )  # what has no page of its own is numbered here
    return made | {"links": links, "marks": marks}
