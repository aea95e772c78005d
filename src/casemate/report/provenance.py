# SPDX-License-Identifier: Apache-2.0
"""The page from which an audit is repeated: facts, methods as they ran, the call; what all share stands once."""

from __future__ import annotations

import html
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from casemate.report import reproduce, words
from casemate.report.catalogue import LANGUAGES, Both, as_is, both
from casemate.report.model import Report
from casemate.report.plain import data_words
from casemate.report.several import CELL, ROWS, Several, once, told

_CALL = 40_000  # letters
_WITHHELD = ("classes", "command", "model_digest", "source", "data_digest", "machine")  # of a public edition


def section(several: Several) -> dict[str, Any]:
    """Return the page as its template shows it."""
    found = [reproduce.section(report) for report in several.reports]
    facts = [dict(_facts(report)) for report in several.reports]
    names = dict.fromkeys(name for side in facts for name in side)
    ran = [_by_name(report) for report in several.reports]
    keys = list(dict.fromkeys(key for side in ran for key in side))
    return {
        "heads": several.names,
        "caveats": several.sentences(
            [map(str, report.target.get("caveats", ())) for report in several.reports]
        ),
        "facts": [
            {"name": both(f"page.{name}"), "cells": _cells(name, [side.get(name) for side in facts])}
            for name in names
        ],
        "repeatable": any(report.edition == "internal" for report in several.reports),
        "methods": [_method(key[0], [side.get(key) for side in ran]) for key in keys[:ROWS]],
        "methods_more": max(0, len(keys) - ROWS),
        "headings": found[0]["headings"],
        "calls": [
            {"text": _call(call), "of": mark}
            for call, mark in several.marked([[one["call"]] if one["call"] else [] for one in found])
        ],
        **{key: _said_once(several, [one[key] for one in found]) for key in ("gaps", "differs")},
    }


def _cells(name: str, values: Sequence[Both | None]) -> list[Both]:
    """Return one cell for all reports that say the same; each was made at its own time."""
    cells = [value or both("page.none") for value in values]
    return cells if name == "created" else once(cells)


def _call(call: str) -> Any:
    """Return the call as markup, whole: one that is cut would ask for less."""
    from markupsafe import Markup

    whole = (
        call
        if len(call) <= _CALL
        else "# too long for a page: casemate.report.reproduce.call(report) returns it"
    )
    return Markup(html.escape(whole))  # noqa: S704  # escaped


def _said_once(several: Several, lists: Iterable[Iterable[Both]]) -> list[dict[str, Any]]:
    found = several.marked([[tuple(text.items()) for text in texts] for texts in lists])
    return [{"text": dict(text), "of": mark} for text, mark in found]


def _method(name: str, items: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    """Return a method with its parameters and, for each report, what became of it and how long it took."""
    some = next(item for item in items if item is not None)
    cells = [_ran(item) for item in items]
    return {
        "title": words.title(name),
        "name": f"{name} {some.get('version', '')}".rstrip(),
        "params": once([_params(item) for item in items if item is not None]),
        "cells": cells if any(cell["seconds"] for cell in cells) else once(cells),
    }


def _by_name(report: Report) -> dict[tuple[str, int], Mapping[str, Any]]:
    turns: Counter[str] = Counter()
    out = {}
    for item in report.methods:
        name = str(item["name"])
        out[name, turns[name]] = item
        turns[name] += 1
    return out


def _params(item: Mapping[str, Any]) -> str:
    return words.visible(", ".join(f"{key}={value}" for key, value in item.get("params", {}).items()), 300)


def _ran(item: Mapping[str, Any] | None) -> dict[str, Any]:
    if item is None:
        return {"status": both("page.none"), "seconds": None, "reason": None}
    reason, seconds = str(item.get("reason", "")), item.get("seconds")
    return {
        "status": both(f"status.{item['status']}"),
        "seconds": None if seconds is None or item["status"] == "not_run" else words.number(seconds, 1),
        "reason": told(reason) if reason else None,
    }


def _facts(report: Report) -> Iterable[tuple[str, Both]]:
    """Yield what is needed to repeat the audit; the pairing key is never shown."""
    target, data, place = report.target, report.data, report.environment
    source = target.get("source") or {}
    command = both("page.no_command") if report.command is None else as_is(shlex.join(report.command))
    packages = place.get("packages", {})
    versions = (
        [f"{name} {version}" for name, version in packages.items()] if isinstance(packages, dict) else []
    )
    known = [f"casemate {report.version}", str(place.get("python", "")), *versions]
    rows = {
        "target": words.model(report.target),
        "classes": series(target.get("classes", ())),
        "data": data_words(report),
        "created": as_is(report.created),
        "command": command,
        "model_digest": as_is(str(target.get("digest"))),
        "source": series(f"{key}: {value}" for key, value in source.items()),
        "data_digest": as_is(str(data.get("digest"))),
        "seed": as_is(str(report.seed)),
        "effort": as_is(report.effort),
        "level": as_is(words.percent(report.level)),
        "threat": words.threat(report.threat),
        "versions": series(dict.fromkeys(known)),
        "machine": series(str(place[key]) for key in ("platform", "machine") if key in place),
    }
    gone = _WITHHELD if report.edition == "public" else ()
    yield from ((key, value) for key, value in rows.items() if key not in gone)


def series(items: Iterable[Any]) -> Both:
    """Join names, the first twelve of them."""
    found = [words.visible(str(item), CELL) for item in items if str(item)]
    if not found:
        return both("page.none")
    more = [both("page.more_rows", n=str(len(found) - 12))] if found[12:] else []
    return {lang: ", ".join([*found[:12], *(part[lang] for part in more)]) for lang in LANGUAGES}
