# SPDX-License-Identifier: Apache-2.0
"""The page of groups: every figure by sensitive group in one place, members caught beside false alarms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from casemate.core.types import PROPERTIES, Measurement, Note
from casemate.report import figures, words
from casemate.report.catalogue import both
from casemate.report.details import Row, furthest, group_table, limits_of
from casemate.report.properties import pictures
from casemate.report.several import CELL, Several, told
from casemate.report.sides import Sides, lined_up, some_of

_FIGURES, _CHARTS, _LINES = 24, 12, 40  # tables, charts, and groups of each table
_LIMITS = " These limits hold for "  # from here a note on the furthest group says what others say too
Lines = dict[str, Sequence[Any]]  # of a table by group: group -> group, n, value, low, high


def section(several: Several) -> dict[str, Any]:
    """Return the page of groups as its template shows it."""
    rows = [row for name in PROPERTIES for row in lined_up(name, several.reports).values()]
    found = [row for row in rows if any(map(group_table, row))]
    tails = [
        [_split(text)[1] for row in rows for text in _notes(row[i])] for i in range(len(several.reports))
    ]
    shared = len({tail for side in tails for tail in side}) == 1  # what differs stands with its table
    tables = list(_tables(several, found, shared=shared))
    return {
        "charts": pictures(_charts(several)[:_CHARTS], "groups"),
        "tables": tables[:_FIGURES],
        "more": max(0, len(tables) - _FIGURES),
        "notes": several.sentences([filter(None, side) if shared else () for side in tails]),
    }


def _charts(several: Several) -> list[Any]:
    """Draw the groups of each property; of several reports the first two figures, the tables have the others."""
    most = figures.PANELS if several.alone else 2
    sides = [Sides.of(name, several.reports, several.names or (both("page.value"),)) for name in PROPERTIES]
    return [chart for side in sides for chart in islice(figures.groups(side), most)]


def _notes(m: Measurement | None) -> Iterator[str]:
    """Yield what was found of the group that stands furthest apart."""
    for d in m.details if m is not None else ():
        if m is not None and isinstance(d, Note) and furthest(m, d):
            yield d.text


def _split(text: str) -> tuple[str, str]:
    """Split such a note: what is of this figure, and what the limits of all of them mean."""
    own, mark, shared = text.partition(_LIMITS)
    return (own, mark.lstrip() + shared) if mark else (text, "")


def _tables(several: Several, found: Sequence[Row], *, shared: bool) -> Iterator[dict[str, Any]]:
    """Yield a table a figure; the share of members caught has the share of others accused beside it."""
    named = {(some_of(row).method, some_of(row).quantity): row for row in found}
    beside = {key: partner for key in named if (partner := _accused(*key)) != key and partner in named}
    turn = 0
    for row in found:
        key = (some_of(row).method, some_of(row).quantity)
        if key in beside.values():
            continue
        turn += 1
        rows = [row, named[beside[key]]] if key in beside else [row]
        yield _table(several, rows, f"g-{turn}", shared=shared)


def _accused(method: str, quantity: str) -> tuple[str, str]:
    """Return the false alarms that belong to members caught.

    >>> _accused("lira", "person_tpr_at_1pct_fpr")
    ('lira', 'person_fpr_at_1pct')
    """
    return method, quantity.replace("tpr_at_", "fpr_at_").removesuffix("_fpr")


def _table(several: Several, rows: Sequence[Row], place: str, *, shared: bool) -> dict[str, Any]:
    sides: list[Lines] = []  # one a column: of the first report all figures, then of the next
    for i in range(len(several.reports)):
        tables = [group_table(row[i]) for row in rows]
        sides += [{str(line[0]): line for line in table.rows} if table else {} for table in tables]
    labels = list(dict.fromkeys(label for side in sides for label in side))
    places = range(len(several.reports))
    own = several.sentences([[_split(text)[0] for row in rows for text in _notes(row[i])] for i in places])
    return {
        "id": place,
        "about": [(some_of(row).method, some_of(row).quantity) for row in rows],
        "title": words.title(some_of(rows[0]).method),
        "name": some_of(rows[0]).method,
        "figures": [words.quantity_title(some_of(row).method, some_of(row).quantity) for row in rows],
        "heads": several.names,
        "notes": own | {"shown": own["shown"] + ([] if shared else _limits(several, rows))},
        "rows": [
            {
                "group": words.visible(label, CELL),
                "n": _counts(sides, label, len(rows)),
                "cells": _cells(sides, label),
            }
            for label in labels[:_LINES]
        ],
        "more": max(0, len(labels) - _LINES),
    }


def _limits(several: Several, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Say for how many comparisons the limits of the notes hold, and of which figure where these differ."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        title = words.quantity_title(some_of(row).method, some_of(row).quantity)
        tails = [list(filter(None, (_split(text)[1] for text in _notes(m)))) for m in row]
        for tail, mark in several.marked(tails):
            line = {"title": title, "texts": [{"text": told(tail), "of": mark}]}
            key = (tail, "" if mark is None else mark["en"])
            found[key] = line | {"title": None} if key in found or len(rows) == 1 else line
    return list(found.values())


def _counts(sides: Sequence[Lines], label: str, n_figures: int) -> str:
    """Return how many stand behind the figures of a group, members and others where these are two."""
    counts = [
        next((words.number(side[label][1]) for side in sides[k::n_figures] if label in side), "–")
        for k in range(n_figures)
    ]
    return " / ".join(counts)


def _cells(sides: Sequence[Lines], label: str) -> list[str]:
    """Return value and limits of a group in each column; nothing where it has none in any."""
    lines = [side.get(label) for side in sides]
    told = ["–" if line is None or isinstance(line[2], str) else limits_of(line[2:5]) for line in lines]
    return told if any(cell != "–" for cell in told) else []
