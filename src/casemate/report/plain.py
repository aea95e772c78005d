# SPDX-License-Identifier: Apache-2.0
"""The report as text for a terminal: at most 25 lines, the last one a verdict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import get_args

from casemate.core.types import PROPERTIES, Measurement
from casemate.report import verdict, words
from casemate.report.catalogue import Both, both, joined, said, texts
from casemate.report.compare import Comparison, Row, Verdict
from casemate.report.gates import GateResult
from casemate.report.model import Report

LINES = 25
_CELL = 60
_FEW = 4


def text(report: Report, lang: str = "en", *, lines: int = LINES) -> str:
    """Return one report in at most ``lines`` lines; names are made safe for a terminal."""
    say = texts(lang)
    measured = [
        m for name in PROPERTIES for m in report.measurements if m.property == name and m.value is not None
    ]
    tail = [
        say["text.strongest"].format(method=m.method, names=say["page.comma"].join(verdict.strongest(m)[:3]))
        for m in measured
        if verdict.strongest(m)
    ][:2]
    tail += _missing(report, lang)
    caveats = report.target.get("caveats", ())
    tail += [f"{say['page.caveats']}{say['text.colon']}{said(c)[lang]}" for c in caveats[:2]]
    if caveats[2:]:
        tail[-1] += f" {say['page.more_rows'].format(n=len(caveats) - 2)}"
    room = lines - len(_head(report, lang)) - len(tail) - 1
    if len(measured) > room:
        measured = _foremost(measured, room - 1) + [m for m in measured if not words.headline(m)]
    rows = _aligned((_cells(m, lang) for m in measured), room, lang)
    last = joined([s.short for s in verdict.sentences(report)], "text.semicolon")[lang]
    closing = say["text.closing"].format(verdict=last, gates=say["gate.none_set"])
    return _clean([*_head(report, lang), *rows, *tail, closing])


def _foremost(measured: list[Measurement], room: int) -> list[Measurement]:
    """Return the first answer of each method, then further answers as room allows, in the order of the report."""
    first = {m.method: i for i, m in reversed(list(enumerate(measured))) if words.headline(m)}
    rank = {i: (first.get(m.method) != i, i) for i, m in enumerate(measured) if words.headline(m)}
    kept = set(sorted(rank, key=rank.__getitem__)[: max(0, room)])
    rest = [i for i in rank if i not in kept]
    return [measured[i] for i in [*sorted(kept), *rest]]


def text_comparison(comparison: Comparison, lang: str = "en", *, lines: int = LINES) -> str:
    """Return a comparison in at most ``lines`` lines, the last one the verdict of rows and gates."""
    say = texts(lang)
    if len(comparison.reports) == 1:
        head = [*_head(comparison.reports[0], lang)]
    else:
        count = f"{say['page.comparison']}{say['text.colon']}{len(comparison.reports)}"
        head = [count, _options(comparison.reports[0], lang), *_edition(comparison.reports[0], lang)]
    bad = sorted(comparison.gates, key=lambda result: (1, 3, 0).index(result.exit_code))
    gates = [f"{say[f'gate.{g.result}']}{say['text.colon']}{g.gate.words[lang]} ({g.why[lang]})" for g in bad]
    shown = gates[:8] + ([say["page.more_rows"].format(n=len(gates) - 8)] if gates[8:] else [])
    notes = [said(note)[lang] for note in comparison.notes[:2]]
    room = lines - len(head) - len(shown) - len(notes) - 1
    several = len(comparison.reports) > 2
    lost = [row for row in comparison.rows if not _seen(row)]
    if lost:
        keys = list(dict.fromkeys(f"{row.method} {row.quantity}" for row in lost))
        notes.append(say["text.neither"].format(names=_names(keys)))
        room -= 1
    seen = (_compared(row, lang, several) for row in comparison.rows if _seen(row))
    rows = _aligned(seen, room, lang)
    return _clean([*head, *rows, *notes, *shown, verdict_line(comparison)[lang]])


def _seen(row: Row) -> bool:
    return any(m is not None and m.status == "measured" for m in (row.before, row.after))


def verdict_line(comparison: Comparison) -> Both:
    """Return the last line of a comparison: how many rows moved which way, and what became of the gates."""
    gates = gate_counts(comparison.gates)
    if not comparison.rows:
        return gates
    count = {v: str(sum(r.verdict == v for r in comparison.rows)) for v in get_args(Verdict)}
    return joined([both("change.counts", **count), gates], "text.semicolon")


def gate_counts(results: Sequence[GateResult]) -> Both:
    """Say how many gates held, failed, and could not be shown; or that none was set."""
    if not results:
        return both("gate.none_set")
    held, failed = (str(sum(r.result == name for r in results)) for name in ("held", "failed"))
    return both("gate.counts", held=held, failed=failed, missing=str(sum(r.exit_code == 3 for r in results)))


def _head(report: Report, lang: str) -> list[str]:
    say = texts(lang)
    return [
        f"{say['page.report']}{say['text.colon']}{words.model(report.target)[lang]}",
        data_words(report)[lang],
        _options(report, lang),
        *_edition(report, lang),
    ]


def _edition(report: Report, lang: str) -> list[str]:
    return [texts(lang)["text.public"]] if report.edition == "public" else []


def data_words(report: Report) -> Both:
    """Say how much data an audit had."""
    data = report.data
    parts = [both("page.data_words", train=str(data.get("n_train")), holdout=str(data.get("n_holdout")))]
    if people := data.get("people"):
        parts.append(both("page.people_words", train=str(people["train"]), holdout=str(people["holdout"])))
    if data.get("n_columns") is not None:
        parts.append(both("page.column_words", columns=str(data["n_columns"])))
    return joined(parts)


def _options(report: Report, lang: str) -> str:
    return texts(lang)["text.options"].format(
        seed=report.seed, effort=report.effort, level=words.percent(report.level)
    )


def _cells(m: Measurement, lang: str) -> list[str]:
    flag = "" if m.status == "measured" else texts(lang)[f"status.{m.status}"]
    return [texts(lang)[f"property.{m.property}"], m.method, m.quantity, words.of(m), f"n={m.n}", flag]


def _compared(row: Row, lang: str, several: bool) -> list[str]:
    say = texts(lang)
    sides = [words.number(m.value) if m is not None else "–" for m in (row.before, row.after)]
    gap = row.difference
    change = row.reason[lang] if gap is None else words.interval(gap.value, gap.low, gap.high)
    first = say[f"property.{row.property}"] + (f" ({row.report})" if several else "")
    return [first, row.method, row.quantity, f"{sides[0]} → {sides[1]}", say[f"change.{row.verdict}"], change]


def _missing(report: Report, lang: str) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for item in verdict.missing(report):
        reasons.setdefault(item.reason, []).append(item.key)
    lines = [
        texts(lang)["text.missing"].format(names=_names(keys), why=said(why)[lang])
        for why, keys in reasons.items()
    ]
    return lines[:_FEW] + (
        [texts(lang)["page.more_rows"].format(n=len(lines) - _FEW)] if lines[_FEW:] else []
    )


def _names(keys: Sequence[str]) -> str:
    shown = ", ".join(words.visible(key, _CELL) for key in keys[:_FEW])
    return shown + (f", +{len(keys) - _FEW}" if keys[_FEW:] else "")


def _aligned(cells: Iterable[list[str]], room: int, lang: str) -> list[str]:
    """Align columns by the width letters take on a terminal; rows beyond ``room`` are counted, not hidden."""
    rows = [[words.visible(cell, _CELL) for cell in row] for row in cells]
    hidden = max(0, len(rows) - room)
    if hidden:
        hidden += 1  # the line that says so
        rows = rows[: max(0, room - 1)]
    widths = [max(map(words.width, column)) for column in zip(*rows, strict=True)]
    out = [
        "  ".join(
            cell + " " * (width - words.width(cell)) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
    return out + ([texts(lang)["page.more_rows"].format(n=hidden)] if hidden else [])


def _clean(lines: Iterable[str]) -> str:
    return "\n".join(words.visible(line, 1000) for line in lines)
