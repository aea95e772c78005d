# SPDX-License-Identifier: Apache-2.0
"""Notes and tables of measurements, each once and marked with the reports that it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from casemate.core.types import Curve, Measurement, Note, Table
from casemate.report import figures, words
from casemate.report.catalogue import Both, both, joined, texts
from casemate.report.several import LONG, ROWS, Several, shown, told
from casemate.report.sides import Key, some_of, table_of

# headings whose cells hold names of the user's, alone or in other words: those are never translated
_NAMES = frozenset(
    {
        "column",
        "group",
        "class",
        "change",
        "predicted before",
        "predicted after",
        "question",
        "feature",
        "person",
    }
)
_GROUPS = " by group"  # ends the name of a table that slices.py shows
_MOST_ROWS = 200  # of all tables of one property
Row = tuple[Measurement | None, ...]
Waiting = tuple[bool, int, Callable[[], dict[str, Any]]]  # whether it is open, its rows, how it is written
Form = tuple[str, str, tuple[str, ...]]  # of a table: method, name, columns


def group_table(m: Measurement | None) -> Table | None:
    """Return the table of a number by group."""
    return None if m is None else table_of(m, f"{m.quantity}{_GROUPS}", 5)


def furthest(m: Measurement, note: Note) -> bool:
    """Tell whether a note is about the groups of a number."""
    return note.text.startswith(f"{m.method} {m.quantity}{_GROUPS}:")


def notes(several: Several, rows: Mapping[Key, Row]) -> dict[str, Any]:
    """Return the notes by what they are about, a method or one number of it; those on groups stand with the groups."""
    found = list(_notes(several, rows))
    return {"shown": found[:ROWS], "more": max(0, len(found) - ROWS)}


def _notes(several: Several, rows: Mapping[Key, Row]) -> Iterator[dict[str, Any]]:
    found: dict[tuple[str, str], dict[str, list[int]]] = {}
    for row in rows.values():
        for i, m in enumerate(row):
            for d in m.details if m is not None else ():
                if m is not None and isinstance(d, Note) and not furthest(m, d):
                    found.setdefault((m.method, d.text), {}).setdefault(m.quantity, []).append(i)
    made: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for (method, text), about in found.items():
        quantity = next(iter(about)) if len(about) == 1 else ""
        mark = several.mark(i for places in about.values() for i in places)
        made.setdefault((method, quantity), []).append({"text": told(text), "of": mark})
    for (method, quantity), said_ in made.items():
        title = words.title(method)
        named = {"method": title, "quantity": words.quantity_title(method, quantity)}
        yield {"title": both("verdict.titled", **named) if quantity else title, "texts": said_}


def tables(several: Several, rows: Mapping[Key, Row]) -> dict[str, Any]:
    """Return the tables, as many as a page holds: side by side where they have one number a line, else each once.

    A table is written out only once it is known to have room.
    """
    ranked = [(some_of(row).method, [_ranked(m) for m in row]) for row in rows.values()]
    waiting: list[Waiting] = [
        (False, _length(found), partial(_importance, several, method, found))
        for method, found in ranked
        if any(found)
    ]
    lists: list[list[tuple[str, Table]]] = [[] for _ in several.reports]
    for row, (_, apart) in zip(rows.values(), ranked, strict=True):
        for i, m in enumerate(row):
            lists[i] += [(m.method, table) for table in _own(m, apart[i])] if m is not None else []
    if not several.alone:
        for form in dict.fromkeys(_form(one) for tables in lists for one in tables):
            mine = [[one for one in tables if _form(one) == form] for tables in lists]
            if len(form[2]) in (2, 3) and sum(map(len, mine)) > 1 and all(map(_lines_up, mine)):
                beside = [one[0][1] if one else None for one in mine]
                waiting.append((False, _length(beside), partial(_beside, several, form, beside)))
                lists = [[one for one in tables if _form(one) != form] for tables in lists]
    for (method, table), mark in several.marked(lists):
        waiting.append((table.name == "examples", _length([table]), partial(_table, method, table, mark)))
    made, room = [], _MOST_ROWS
    for _, length, make in sorted(waiting, key=lambda one: not one[0]):
        if room >= length:
            made.append(make())
            room -= length
    return {"tables": made, "tables_more": len(waiting) - len(made)}


def _length(found: Sequence[Table | None]) -> int:
    """Return how many rows tables side by side may take."""
    return min(LONG, sum(len(table.rows) for table in found if table is not None))


def _form(one: tuple[str, Table]) -> Form:
    return one[0], one[1].name, one[1].columns


def _lines_up(tables: Sequence[tuple[str, Table]]) -> bool:
    """Tell whether a report has at most one such table, and no line of it twice."""
    rows = [row for _, table in tables for row in table.rows]
    labels = [str(row[0]) for row in rows if len(row) == 2 or (len(row) == 3 and all(map(_plain, row[1:])))]
    return len(tables) <= 1 and len(labels) == len(set(labels)) == len(rows)


def _ranked(m: Measurement | None) -> Table | None:
    return table_of(m, figures.IMPORTANCE, 4)


def _own(m: Measurement, ranked: Table | None) -> Iterator[Table]:
    """Yield the tables that have no other place, and some points of the curves that are not drawn."""
    seen = (group_table(m), ranked)
    for d in m.details:
        if isinstance(d, Table) and d.name not in figures.DRAWN and not any(d is one for one in seen):
            yield replace(d, columns=tuple(d.columns), rows=tuple(map(tuple, d.rows)))
        elif isinstance(d, Curve) and d.name not in figures.DRAWN:
            yield _points(d)


def _table(method: str, table: Table, mark: Both | None) -> dict[str, Any]:
    return {
        "title": words.title(method),
        "name": headed(table.name),
        "of": mark,
        "open": table.name == "examples",
        "beside": False,
        "note": None,
        "columns": [headed(name) for name in table.columns[:12]],
        "rows": [
            [_cell(value, name, table) for value, name in zip(row[:12], table.columns[:12], strict=False)]
            for row in table.rows[:LONG]
        ],
        "more": max(0, len(table.rows) - LONG),
    }


def headed(name: str) -> Both:
    """Return the name of a table or of a column of it in every language; as it is where it is none of ours."""
    key = f"table.{name}"
    return both(key) if key in texts("en") else shown(str(name))["text"]


def _cell(value: Any, heading: str, table: Table) -> dict[str, Any]:
    """Return a cell; what changes in an example is written with an arrow."""
    cell = shown(value, ours=heading not in _NAMES)
    if table.name == "examples" and "text" in cell:
        return {"text": {lang: each.replace(" -> ", " → ") for lang, each in cell["text"].items()}}
    return cell


def _importance(several: Several, method: str, tables: Sequence[Table | None]) -> dict[str, Any]:
    """Put the importances of each column side by side, in the order of the first report that has them."""
    sides = [{str(line[0]): line[1:4] for line in table.rows} if table else {} for table in tables]
    made = _columns(several, sides, both("page.column"), lambda cells: {"number": limits_of(cells)})
    title = words.title(method)
    return made | {"title": title, "name": both("page.importance"), "note": both("page.importance_note")}


def _beside(several: Several, form: Form, tables: Sequence[Table | None]) -> dict[str, Any]:
    """Put the tables of a method, of one number or two a line, side by side."""
    method, name, (first, *others) = form
    sides = [{str(row[0]): row[1:] for row in table.rows} if table else {} for table in tables]
    told_name = headed(name)
    if others != ["value"]:
        told_name = joined([told_name, joined(map(headed, others), "page.slash")])
    made = _columns(several, sides, headed(first), _line, ours=first not in _NAMES)
    return made | {"title": words.title(method), "name": told_name}


def _line(values: Sequence[Any]) -> dict[str, Any]:
    if len(values) == 1:
        return shown(values[0])
    return {"number": " / ".join(shown(value)["number"] for value in values)}


def _plain(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _columns(
    several: Several,
    sides: Sequence[Mapping[str, Sequence[Any]]],
    head: Both,
    write: Callable[[Sequence[Any]], dict[str, Any]],
    *,
    ours: bool = False,
) -> dict[str, Any]:
    labels = list(dict.fromkeys(label for side in sides for label in side))
    return {
        "of": None,
        "open": False,
        "beside": True,
        "note": None,
        "columns": [head, *(several.names or (both("page.value"),))],
        "rows": [
            [
                shown(label, ours=ours),
                *(write(side[label]) if label in side else {"number": "–"} for side in sides),
            ]
            for label in labels[:LONG]
        ],
        "more": max(0, len(labels) - LONG),
    }


def limits_of(cells: Sequence[Any]) -> str:
    """Write the cells value, low and high of a line of a table as a number with its limits."""
    value, low, high = (float(cell) if _plain(cell) and cell is not None else None for cell in cells)
    return words.interval(value, low, high)


def _points(curve: Curve) -> Table:
    """Return some points of a curve that is not drawn as a table."""
    at = sorted({round(i * (len(curve.x) - 1) / 6) for i in range(7)}) if curve.x else []
    band = bool(curve.low and curve.high)
    sides = [curve.x, curve.y, *([curve.low, curve.high] if band else [])]
    rows = tuple(tuple(side[i] for side in sides) for i in at)
    return Table(name=curve.name, columns=("x", "value", *(("low", "high") if band else ())), rows=rows)
