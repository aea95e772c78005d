# SPDX-License-Identifier: Apache-2.0
"""The report as one static HTML file (page.html.jinja) and as text: views of report.json and of nothing else.

Everything the template prints is escaped by Jinja and, before that, freed of control and invisible characters;
the page needs no network and no script, and its content security policy allows neither.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casemate.core.errors import InvalidData
from casemate.core.types import PROPERTIES, Curve, Measurement, Note, Property, Table
from casemate.report import figures, reproduce, standards, verdict, words
from casemate.report.catalogue import LANGUAGES, Both, as_is, both, texts
from casemate.report.charts import Chart
from casemate.report.compare import Comparison, Row
from casemate.report.model import Report
from casemate.report.plain import data_words, gate_counts, text, text_comparison, verdict_line
from casemate.report.sides import Sides

if TYPE_CHECKING:
    import jinja2

__all__ = ["framed", "page", "page_comparison", "text", "text_comparison"]

# What a page may hold of each kind, so that it stays below 0.4 MB whatever is in the report.
_ROWS, _LONG, _CELL, _TEXT, _CALL, _COMPARED = 60, 25, 120, 600, 40_000, 100
_WITHHELD = ("classes", "command", "model_digest", "source", "data_digest", "machine")  # of a public edition

Charts = dict[Property, list[dict[str, Any]]]


def page(report: Report, lang: str = "en") -> str:
    """Return a report as a complete HTML page that holds every language and opens in ``lang``."""
    return _filled(
        lang,
        title=both("page.report"),
        subtitle=_model_words(report),
        summary=None,
        comparison=None,
        public=report.edition == "public",
        reports=[_report(report, None, 0, _drawn((report,), (both("page.value"),)))],
        standards=standards.section(report, on=_day(report)),
        version=report.version,
    )


def page_comparison(comparison: Comparison, lang: str = "en") -> str:
    """Return a comparison as a complete HTML page: the rows, the gates, and each report below."""
    several = len(comparison.reports) > 1
    names = [both("page.before"), *(both("page.after") for _ in comparison.reports[1:])]
    if len(comparison.reports) > 2:
        names = [names[0], *(both("page.after_n", n=str(i)) for i in range(1, len(comparison.reports)))]
    return _filled(
        lang,
        title=both("page.comparison" if several else "page.report"),
        subtitle=_model_words(comparison.reports[0]),
        summary=verdict_line(comparison),
        public=any(report.edition == "public" for report in comparison.reports),
        comparison={
            "rows": [_compared(row, names[row.report]) for row in comparison.rows[:_COMPARED]],
            "more": max(0, len(comparison.rows) - _COMPARED),
            "several": len(comparison.reports) > 2,
            "notes": comparison.notes[:_ROWS],
            "figures": _drawn(comparison.reports, names) if several else {},
            "counts": gate_counts(comparison.gates),
            "gates": [
                {"gate": g.gate.words, "result": both(f"gate.{g.result}"), "state": g.result, "why": g.why}
                for g in comparison.gates[:200]
            ],
        },
        reports=[
            _report(
                report,
                name if several else None,
                index,
                # of many reports the numbers stand side by side alone: each again would make the file too large
                None if len(names) > 2 else _listed_charts(report, name, index, several),
            )
            for index, (report, name) in enumerate(zip(comparison.reports, names, strict=True))
        ],
        standards=standards.section(
            *comparison.reports, on=_day(comparison.reports[-1]), names=names if several else ()
        ),
        version=comparison.reports[-1].version,
    )


def _day(report: Report) -> date:
    """Return the day a report was made: what it says of a law is as old as the report, whenever it is shown."""
    try:
        return date.fromisoformat(report.created[:10])
    except ValueError as error:
        raise InvalidData(f"a report's created is a date in ISO 8601; got {report.created[:40]!r}") from error


def framed(page_text: str) -> str:
    """Return a page inside a frame of its own, so that a notebook's styles and the page's do not meet."""
    held = html.escape(page_text, quote=True)
    return f'<iframe sandbox="" title="Casemate" width="100%" height="640" srcdoc="{held}"></iframe>'


# ---------------------------------------------------------------------- the template


def _filled(lang: str, **parts: Any) -> str:
    texts(lang)  # refuses an unknown language
    return _template().render(lang=lang, languages=LANGUAGES, t=both, percent=words.percent, **parts)


@functools.cache
def _template() -> jinja2.Template:
    import jinja2
    from markupsafe import Markup

    def shown(value: Any) -> Any:
        return value if isinstance(value, Markup) else words.visible(str(value), _TEXT)

    def csp_hash(style: str) -> str:
        return "sha256-" + base64.b64encode(hashlib.sha256(str(style).encode()).digest()).decode()

    place = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    place.filters["csp_hash"] = csp_hash
    return place.get_template("page.html.jinja")


# ---------------------------------------------------------------------- what the template is given


def _report(report: Report, name: Both | None, index: int, charts: Charts | None) -> dict[str, Any]:
    """Return a report as the template shows it; without ``charts`` its measurements are left out."""
    gone = verdict.missing(report)
    return {
        "name": None if name is None else both("page.report_of", name=name),
        "index": index,
        "verdicts": [
            {"property": both(f"property.{s.property}"), "state": s.state, "text": s.long}
            for s in verdict.sentences(report)
        ],
        "missing": [{"name": item.name, "reason": item.reason} for item in gone[:_ROWS]],
        "missing_more": max(0, len(gone) - _ROWS),
        "level": words.percent(report.level),
        "sections": None if charts is None else [_section(report, p, charts.get(p, [])) for p in PROPERTIES],
        "caveats": _listed(report.target.get("caveats", ()), _ROWS),
        "facts": _facts(report),
        "repeat": _repeat(report),
        "repeatable": report.edition == "internal",
        "methods": [_method(item) for item in report.methods[:_ROWS]],
        "methods_more": max(0, len(report.methods) - _ROWS),
    }


def _repeat(report: Report) -> dict[str, Any]:
    """Return how to repeat the audit; the call as markup, whole: one that is cut would ask for less."""
    from markupsafe import Markup

    told = reproduce.section(report)
    call = told["call"]
    if call and len(call) > _CALL:
        call = "# too long for a page: casemate.report.reproduce.call(report) returns it"
    return told | {"call": Markup(html.escape(call)) if call else None}  # noqa: S704  # escaped


def _drawn(reports: Sequence[Report], names: Sequence[Both]) -> Charts:
    """Return the charts of one report, or of several beside each other."""
    at = "r0" if len(reports) == 1 else "c"
    return {
        name: _shown(figures.drawn(Sides.of(name, reports, names)), f"{at}-{name}") for name in PROPERTIES
    }


def _listed_charts(report: Report, name: Both, index: int, several: bool) -> Charts:
    """Return the charts of a report of a comparison: those that are not drawn before and after already."""
    if not several:
        return _drawn((report,), (name,))
    sides = {part: Sides.of(part, (report,), (name,)) for part in PROPERTIES}
    return {part: _shown(figures.lists(side), f"r{index}-{part}") for part, side in sides.items()}


def _shown(charts: Sequence[Chart], at: str) -> list[dict[str, Any]]:
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


def _section(report: Report, name: Property, charts: list[dict[str, Any]]) -> dict[str, Any]:
    found = [m for m in report.measurements if m.property == name]
    capabilities = report.target.get("capabilities", ())
    notes = dict.fromkeys(d.text for m in found for d in m.details if isinstance(d, Note))
    return {
        "id": name,
        "title": both(f"property.{name}"),
        "rows": [_measured(m, capabilities) for m in found[:_ROWS]],
        "more": max(0, len(found) - _ROWS),
        "notes": _listed(notes, _ROWS),
        "charts": charts,
        "tables": [
            _table(m, d if isinstance(d, Table) else _points(d))
            for m in found
            for d in m.details
            if isinstance(d, Table) or (isinstance(d, Curve) and d.name not in figures.DRAWN)
        ][:20],
    }


def _measured(m: Measurement, capabilities: Sequence[str]) -> dict[str, Any]:
    return {
        "quantity": words.quantity_title(m.method, m.quantity),
        "key": m.quantity,
        "value": words.of(m),
        "n": m.n,
        "attacker": words.attacker(m, capabilities),
        "method": words.title(m.method),
        "name": f"{m.method} {m.version}",
        "status": None if m.status == "measured" else both(f"status.{m.status}"),
        "reason": m.reason,
    }


def _table(m: Measurement, table: Table) -> dict[str, Any]:
    importance = table.name == "importance"
    return {
        "name": both("page.importance") if importance else as_is(f"{m.method}: {table.name}"),
        "open": table.name == "examples",
        "note": both("page.importance_note") if importance else None,
        "columns": [words.visible(name, _CELL) for name in table.columns[:12]],
        "rows": [[_cell(value) for value in row[:12]] for row in table.rows[:_LONG]],
        "more": max(0, len(table.rows) - _LONG),
    }


def _points(curve: Curve) -> Table:
    """Return some points of a curve that is not drawn as a table."""
    at = sorted({round(i * (len(curve.x) - 1) / 6) for i in range(7)}) if curve.x else []
    band = bool(curve.low and curve.high)
    sides = [curve.x, curve.y, *([curve.low, curve.high] if band else [])]
    rows = tuple(tuple(side[i] for side in sides) for i in at)
    return Table(name=curve.name, columns=("x", "value", *(("low", "high") if band else ())), rows=rows)


def _cell(value: Any) -> dict[str, Any]:
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    shown = words.number(value) if value is None or numeric else words.visible(str(value), _CELL)
    return {"text": shown, "numeric": numeric}


def _method(item: Mapping[str, Any]) -> dict[str, Any]:
    params = ", ".join(f"{key}={value}" for key, value in item.get("params", {}).items())
    return {
        "title": words.title(str(item["name"])),
        "name": f"{item['name']} {item.get('version', '')}".rstrip(),
        "params": words.visible(params, 300),
        "status": both(f"status.{item['status']}"),
        "reason": item.get("reason", ""),
        "seconds": words.number(item.get("seconds"), 1),
    }


def _compared(row: Row, name: Both) -> dict[str, Any]:
    gap = row.difference
    return {
        "property": both(f"property.{row.property}"),
        "quantity": words.quantity_title(row.method, row.quantity),
        "method": words.title(row.method),
        "key": f"{row.method} {row.quantity}",
        "name": name,
        "sides": ["–" if m is None else words.of(m) for m in (row.before, row.after)],
        "difference": None if gap is None else words.interval(gap.value, gap.low, gap.high),
        "reason": row.reason,
        "state": row.verdict,
        "verdict": both(f"change.{row.verdict}"),
    }


def _facts(report: Report) -> list[tuple[Both, Both]]:
    """What is needed to repeat the audit; the pairing key is never shown."""
    target, data, place = report.target, report.data, report.environment
    source = target.get("source") or {}
    command = both("page.no_command") if report.command is None else as_is(shlex.join(report.command))
    packages = place.get("packages", {})
    versions = (
        [f"{name} {version}" for name, version in packages.items()] if isinstance(packages, dict) else []
    )
    rows = [
        ("target", _model_words(report)),
        ("classes", _series(target.get("classes", ()))),
        ("data", data_words(report)),
        ("created", as_is(report.created)),
        ("command", command),
        ("model_digest", as_is(str(target.get("digest")))),
        ("source", _series(f"{key}: {value}" for key, value in source.items())),
        ("data_digest", as_is(str(data.get("digest")))),
        ("seed", as_is(str(report.seed))),
        ("effort", as_is(report.effort)),
        ("level", as_is(words.percent(report.level))),
        ("threat", words.threat(report.threat)),
        (
            "versions",
            _series(dict.fromkeys([f"casemate {report.version}", str(place.get("python", "")), *versions])),
        ),
        ("machine", _series(str(place[key]) for key in ("platform", "machine") if key in place)),
    ]
    gone = _WITHHELD if report.edition == "public" else ()
    return [(both(f"page.{key}"), value) for key, value in rows if key not in gone]


def _series(items: Iterable[Any]) -> Both:
    found = [words.visible(str(item), _CELL) for item in items if str(item)]
    more = [both("page.more_rows", n=str(len(found) - 12))] if found[12:] else []
    if not found:
        return both("page.none")
    shown = ", ".join(found[:12])
    return {lang: ", ".join([shown, *(part[lang] for part in more)]) for lang in LANGUAGES}


def _model_words(report: Report) -> Both:
    target = report.target
    parts = {key: words.visible(str(target.get(key)), _CELL) for key in ("kind", "task", "input")}
    return both("text.model", **parts)


def _listed(items: Iterable[str], limit: int) -> list[Both]:
    found = list(items)
    more = [both("page.more_rows", n=str(len(found) - limit))] if found[limit:] else []
    return [*map(as_is, found[:limit]), *more]
