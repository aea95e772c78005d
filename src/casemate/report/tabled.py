# SPDX-License-Identifier: Apache-2.0
"""The numbers of a report and of a comparison as Markdown tables, in as many lines as there is room for."""

from __future__ import annotations

from collections.abc import Sequence

from casemate.core.types import PROPERTIES, Measurement
from casemate.report import words
from casemate.report.catalogue import Both, said, texts
from casemate.report.compare import Comparison, Row
from casemate.report.gfm import code, table, text
from casemate.report.model import Report

LISTED, LEAST, _TITLE = 10, 8, 120
Blocks = list[list[str]]


def properties(report: Report, lang: str, room: int) -> Blocks:
    """Return a table for each property: its answers first to stay, then its controls, in the order of the report."""
    say = texts(lang)
    listed = [m for name in PROPERTIES for m in report.measurements if m.property == name]
    frames = (
        5 * len({m.property for m in listed}) + 4
    )  # heading, two lines of head, two empty ones; the last words
    answers = [words.headline(m) for m in listed]
    first = {m.method: i for i, m in reversed([*enumerate(listed)]) if answers[i]}

    def rank(i: int) -> tuple[bool, bool, bool, int]:
        m = listed[i]
        return m.status != "measured", not answers[i], first.get(m.method) != i, i

    kept = set(sorted(range(len(listed)), key=rank)[: max(LEAST, room - frames)])
    keys = ("quantity", "value", "n", "attacker", "method", "status")
    heads = [say[f"page.{key}"] for key in keys]
    out: Blocks = []
    for name in PROPERTIES:
        rows = [_measured(m, report, lang) for i, m in enumerate(listed) if i in kept and m.property == name]
        if rows:
            out += [[f"### {say[f'property.{name}']}"], table(heads, rows)]
    level = say["page.level_note"].format(level=words.percent(report.level))
    return [*out, more(listed, lang, len(kept)), [level, say["markdown.page"]]]


def _measured(m: Measurement, report: Report, lang: str) -> list[str]:
    status = texts(lang)[f"status.{m.status}"]
    reason = f"{texts(lang)['text.colon']}{text(said(m.reason)[lang])}" if m.reason else ""
    return [
        f"{text(words.quantity_title(m.method, m.quantity)[lang], _TITLE)} ({code(m.quantity)})",
        text(words.of(m), 80),
        str(m.n),
        text(words.attacker(m, report.target.get("capabilities", ()))[lang], 200),
        f"{text(words.title(m.method)[lang], _TITLE)} ({code(f'{m.method} {m.version}')})",
        (status if m.status == "measured" else strong(status)) + reason,
    ]


def differences(comparison: Comparison, names: Sequence[Both | None], lang: str, room: int) -> Blocks:
    """Return the table of differences: what moved first to stay, then other answers, then controls."""
    say, rows = texts(lang), comparison.rows
    if not rows:
        return []
    notes = [f"- {text(said(note)[lang])}" for note in comparison.notes]
    frame = 10 + min(len(notes), LISTED + 1)
    kept = set(sorted(range(len(rows)), key=lambda i: (_place(rows[i]), i))[: max(LEAST, room - frame)])
    keys = ("property", "quantity", "before", "after", "difference", "change")
    lines = [_compared(row, names, lang) for i, row in enumerate(rows) if i in kept]
    return [
        [f"### {say['page.compare']}"],
        table([say[f"page.{key}"] for key in keys], lines),
        more(rows, lang, len(kept)),
        [say["page.compare_note"], say["markdown.page"]],
        [*notes[:LISTED], *more(notes, lang)],
    ]


def _place(row: Row) -> tuple[bool, bool, bool]:
    some = row.before or row.after
    answer = some is None or words.headline(some)
    return row.verdict == "not_measured", row.verdict not in ("better", "worse"), not answer


def _compared(row: Row, names: Sequence[Both | None], lang: str) -> list[str]:
    say, gap = texts(lang), row.difference
    property_, shown = say[f"property.{row.property}"], say[f"change.{row.verdict}"]
    title = text(words.quantity_title(row.method, row.quantity)[lang], _TITLE)
    return [
        say["page.comma"].join([property_, *which(names, row.report, lang)]),
        f"{title} ({code(f'{row.method} {row.quantity}')})",
        *("–" if m is None else text(words.of(m), 80) for m in (row.before, row.after)),
        text(row.reason[lang]) if gap is None else text(words.interval(gap.value, gap.low, gap.high), 80),
        shown if row.verdict in ("none", "unpaired") else strong(shown),
    ]


def which(names: Sequence[Both | None], report: int, lang: str) -> list[str]:
    """Return which report is meant, where there are several after the first."""
    return [side_of(names[report], lang)] if len(names) > 2 else []


def side_of(name: Both | None, lang: str) -> str:
    """Return what a report is called among others; nothing where it stands alone."""
    return "" if name is None else name[lang]


def strong(shown: str) -> str:
    """Return Markdown that stands out."""
    return f"**{shown}**"


def more(items: Sequence[object], lang: str, limit: int = LISTED) -> list[str]:
    """Say how many items are beyond the limit."""
    hidden = len(items) - limit
    return [texts(lang)["page.more_rows"].format(n=hidden)] if hidden > 0 else []
