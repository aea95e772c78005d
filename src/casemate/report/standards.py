# SPDX-License-Identifier: Apache-2.0
"""The crosswalk of a report: towards which clause of which standard its numbers are evidence, and what stays open.

The clauses are data (clauses.py, standards.toml). Here each meets the measurements of one report, or of those of a
comparison side by side: value, limits, n, method and attacker, what is missing and why. A clause without a measurement
says "not measured". Nothing here judges: there is no state that means "fulfilled", and none to be shown in green.

Everything returned is plain text in every language, for a page to escape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from itertools import groupby, zip_longest
from typing import Any

from casemate.core.errors import InvalidData
from casemate.core.types import Measurement, Table
from casemate.report import words
from casemate.report.catalogue import Both, as_is, both, said
from casemate.report.claims import against, rounded_up
from casemate.report.clauses import Crosswalk, Entry, crosswalk
from casemate.report.model import Report
from casemate.report.sides import sentences

_GROUPS = ("group", "n", "value", "low", "high")  # the columns of a table by group
_REASON = 300
_WORDS = ("scope", "not_covered", "human_action", "source", "alias", "numbers")


def section(
    *reports: Report, on: date, names: Sequence[Both] = (), framework: str | None = None
) -> dict[str, Any]:
    """Return the whole section as a page needs it: words, version, the reports it stands on, clauses by framework.

    ``names`` are what the reports of a comparison are called, in their order.

    Raises:
        InvalidData: no framework of this key.
    """
    data = crosswalk()
    listed = rows(*reports, on=on, framework=framework)
    # which model and which day a number belongs to; a public edition has no digest
    basis = [
        data.say(
            "basis" if report.target.get("digest") else "basis_public",
            digest=words.visible(str(report.target.get("digest")), 120),
            date=words.visible(report.created, 40),
            version=words.visible(report.version, 40),
        )
        for report in reports
    ]
    numbers: list[dict[str, Any]] = []  # each once, however many clauses it is evidence towards
    for row in listed:
        numbers += [line for line in row["lines"] if line not in numbers]
        row["numbers"] = [
            {"name": found[0]["method"], "at": [numbers.index(line) + 1 for line in found]}
            for found in (list(part) for _, part in groupby(row["lines"], lambda line: line["name"]))
        ]
    parts = groupby(listed, lambda row: row["framework"])
    return {
        "heading": data.say("heading"),
        "note": data.say("note"),
        "version": data.say("version", version=data.version, date=data.made_on.isoformat()),
        "basis": basis,
        "names": list(names),
        "words": {key: data.say(key) for key in _WORDS},
        "numbers": numbers,
        "frameworks": [_framework(key, list(part), data) for key, part in parts],
    }


def _framework(key: str, kept: list[dict[str, Any]], data: Crosswalk) -> dict[str, Any]:
    """Return a framework with its clauses; what its first clause says of source and people is said once for all."""
    found = sum(row["state"] != "none" for row in kept)
    shared = ("name", "edition", "human_action", "source", "checked", "verified", "warning")
    return {
        "key": key,
        "count": data.say("count", k=str(found), n=str(len(kept))),
        "stale": any(row["stale"] for row in kept),
        "rows": kept,
        **{name: kept[0][name] for name in shared},
    }


def rows(*reports: Report, on: date, framework: str | None = None) -> list[dict[str, Any]]:
    """Return a row for every clause: its evidence in each report, what is missing, what it leaves open.

    Args:
        reports: one report, or those of a comparison in its order.
        on: the day of reading; what was looked up more than twelve months before carries a warning.
        framework: the key of one framework; None for all.

    Raises:
        InvalidData: no framework of this key.

    >>> found = rows(on=date(2026, 12, 1), framework="nist-ai-rmf")
    >>> found[0]["clause"], found[0]["state"], found[0]["says"]["en"]
    ('MEASURE 2.5', 'none', 'Not measured')
    """
    data = crosswalk()
    known = list(dict.fromkeys(entry.framework for entry in data.entries))
    if framework is not None and framework not in known:
        raise InvalidData(f"no framework {framework!r}; there are {', '.join(known)}")
    return [_row(entry, reports, on, data) for entry in data.entries if framework in (None, entry.framework)]


def _row(entry: Entry, reports: Sequence[Report], on: date, data: Crosswalk) -> dict[str, Any]:
    lines = [line for method in entry.evidence for line in _lines(method, entry, reports, data)]
    lines += _group_lines(reports, data) if entry.groups else []
    # what counts is one method, for each report: a classifier has no absolute error, and misses nothing by it
    measured = [{line["unit"] for line in lines if line["sides"][i]["measured"]} for i in range(len(reports))]
    n, k = len(entry.evidence) + entry.groups, min(map(len, measured), default=0)
    state = "some" if k else "partly" if any(measured) else "none"
    says = data.say(f"state_{state}", k=str(k), n=str(n)) if n else data.say("no_method")
    stale = entry.stale(on)
    return {
        "framework": entry.framework,
        "name": entry.name,
        "edition": entry.edition,
        "clause": entry.clause,
        "alias": entry.alias,
        "title": entry.title,
        "state": state,
        "says": says,
        "lines": lines,
        "missing": list(_missing(entry, lines, reports, data)),
        "claims": [
            {"report": index, "text": claim}
            for index, report in enumerate(reports if entry.claims else ())
            for claim in _claims(report, data)
        ],
        "scope": entry.scope,
        "not_covered": entry.not_covered,
        "human_action": entry.human_action,
        "source": entry.source,
        "checked": _checked(entry, data),
        "verified": entry.checked_on is not None,
        "stale": stale,
        "warning": data.say("stale", on=on.isoformat()) if stale else None,
    }


def _checked(entry: Entry, data: Crosswalk) -> Both:
    if entry.checked_on is None:
        return data.say("unchecked")
    return data.say(f"checked_{entry.checked_by}", date=entry.checked_on.isoformat())


def _lines(method: str, entry: Entry, reports: Sequence[Report], data: Crosswalk) -> Iterator[dict[str, Any]]:
    for quantity in entry.evidence[method]:
        found = [[m for m in r.measurements if (m.method, m.quantity) == (method, quantity)] for r in reports]
        for turn in zip_longest(*found):
            first = next(i for i, m in enumerate(turn) if m is not None)
            yield {
                "unit": method,
                "method": words.title(method),
                "name": words.visible(f"{method} {turn[first].version}", 120),
                "quantity": words.quantity_title(method, quantity),
                "key": quantity,
                "attacker": words.attacker(turn[first], reports[first].target.get("capabilities", ())),
                "sides": [_side(m, data) for m in turn],
            }


def _side(m: Measurement | None, data: Crosswalk) -> dict[str, Any]:
    if m is None:
        return {"measured": False, "value": as_is("–"), "n": "–", "status": data.say("absent"), "reason": ""}
    measured = m.status == "measured" and m.value is not None
    return {
        "measured": measured,
        "value": as_is(words.of(m)),
        "n": str(m.n),
        "status": None if measured else both(f"status.{m.status}"),
        "reason": words.visible(m.reason, _REASON),
    }


def _group_lines(reports: Sequence[Report], data: Crosswalk) -> Iterator[dict[str, Any]]:
    """Yield a line for each figure that a report gives by sensitive group: the lowest and the highest group."""
    sides = [{(m.method, m.quantity): m for m in report.measurements if _by_group(m)} for report in reports]
    for method, quantity in dict.fromkeys(key for side in sides for key in side):
        yield {
            "unit": "groups",
            "method": words.title(method),
            "name": words.visible(method, 120),
            "quantity": data.say("by_group", quantity=words.quantity_title(method, quantity)),
            "key": words.visible(quantity, 120),
            "attacker": both("access.nobody"),
            "sides": [_range(side.get((method, quantity)), data) for side in sides],
        }


def _by_group(m: Measurement) -> list[float]:
    """Return the figure of each group that is large enough to have one."""
    tables = [d for d in m.details if isinstance(d, Table) and tuple(d.columns) == _GROUPS]
    cells = [row[2] for table in tables for row in table.rows if len(row) == len(_GROUPS)]
    return [float(cell) for cell in cells if isinstance(cell, (int, float)) and not isinstance(cell, bool)]


def _range(m: Measurement | None, data: Crosswalk) -> dict[str, Any]:
    side = _side(m, data)
    if m is None:
        return side
    found = _by_group(m)
    low, high = words.number(min(found)), words.number(max(found))
    return {**side, "value": data.say("range", low=low, high=high, k=str(len(found)))}


def _missing(
    entry: Entry, lines: Sequence[Mapping[str, Any]], reports: Sequence[Report], data: Crosswalk
) -> Iterator[dict[str, Both]]:
    """Yield what would be evidence and is in none of the reports, with the reason a report gives."""
    seen = {line["unit"] for line in lines}
    for method in entry.evidence:
        if method not in seen:
            given = [str(i.get("reason", "")) for r in reports for i in r.methods if i.get("name") == method]
            reason = next(filter(None, given), "")
            yield {
                "name": words.title(method),
                "reason": said(words.visible(reason, _REASON)) if reason else data.say("not_run"),
            }
    if entry.groups and "groups" not in seen:
        yield {"name": data.say("groups"), "reason": data.say("no_groups")}


def _claims(report: Report, data: Crosswalk) -> Iterator[Both]:
    """Yield what the training promises, rounded up; a promise that gives no epsilon and delta is left out."""
    for claim in report.target.get("claims") or ():
        given = claim if isinstance(claim, Mapping) else {}
        pair = [given.get("epsilon"), given.get("delta")]
        sizes = [float(v) for v in pair if isinstance(v, (int, float)) and not isinstance(v, bool)]
        if len(sizes) == 2 and given.get("unit") in ("record", "person"):
            epsilon, delta = (words.number(rounded_up(size)) for size in sizes)
            says = data.say(f"claim_{given['unit']}", epsilon=epsilon, delta=delta)
            yield sentences([says, data.say("claim_against")]) if against(report, claim) else says
