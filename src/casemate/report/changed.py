# SPDX-License-Identifier: Apache-2.0
"""What was hardened, for a terminal or as Markdown: what was done, what it promises and what not, what it cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from casemate.core.types import Change, Measurement, Note
from casemate.report import words
from casemate.report.catalogue import said, texts
from casemate.report.gfm import code, fenced, table
from casemate.report.gfm import text as escaped

_LINES, _ROWS = 25, 6
_FPR = 0.01


def text(change: Change, files: Sequence[str], *, folder: str, command: str, lang: str = "en") -> str:
    """Return a change in at most 25 lines, the last one where it was written.

    Args:
        change: from ``harden``.
        files: names of what was written; folder: where; command: how to measure again.
        lang: "en" or "zh-CN", of the fixed sentences.
    """
    say = texts(lang)
    summary = said(change.summary)[lang]
    lines = [say["harden.done"].format(names=", ".join(change.params), summary=summary)]
    lines += _promises(change.target.claims, lang)
    lines.append(say["harden.utility"].format(level=words.percent(0.95)))
    lines += [f"  {line}" for line in _utility(change, lang)][:_ROWS]
    last = [say["harden.files"].format(files=", ".join(files)), say["harden.again"], f"  {command}"]
    last.append(say["harden.closing"].format(folder=folder))
    notes = [said(note)[lang] for note in _notes(change)]
    lines += [*notes[: _LINES - len(lines) - len(last)], *last]
    most = max(1000, len(command) + 2)  # a command that is cut is none
    return "\n".join(words.visible(line, most) for line in lines)


def markdown(change: Change, files: Sequence[str], *, folder: str, command: str, lang: str = "en") -> str:
    """Return a change as GitHub-flavoured Markdown; the arguments are those of :func:`text`."""
    say = texts(lang)
    after = {row.quantity: row for row in change.after}
    heads = [say[f"page.{key}"] for key in ("quantity", "before", "after")]
    rows = [
        [escaped(words.quantity_title(row.method, row.quantity)[lang]), *map(escaped, map(_of, (row, other)))]
        for row in change.before
        for other in (after.get(row.quantity),)
    ]
    done = say["harden.done"].format(names=", ".join(change.params), summary=said(change.summary)[lang])
    told = [*_promises(change.target.claims, lang), *(said(note)[lang] for note in _notes(change)[:_LINES])]
    names = f"{code(folder)}{say['text.colon']}{', '.join(map(code, files[:_LINES]))}"
    blocks = [
        [f"### {escaped(done, 400)}"],
        [f"- {escaped(line, 400)}" for line in told],
        [escaped(say["harden.utility"].format(level=words.percent(0.95)))],
        table(heads, rows),
        [say["harden.files"].format(files=names)],
        [say["harden.again"]],
        fenced(command, "sh"),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _notes(change: Change) -> list[str]:
    notes = [piece.text for piece in change.evidence if isinstance(piece, Note)]
    promised = tuple(f"{claim}." for claim in change.target.claims)  # is said among the promises
    return [note for note in notes if not note.startswith(promised)]


def _promises(claims: Sequence[Any], lang: str) -> list[str]:
    say = texts(lang)
    told = []
    for claim in claims:
        told.append(say["harden.promise"].format(plan=said(str(claim))[lang]))
        # rounded up: a bound may not shrink on paper
        share = math.ceil(1000 * claim.max_tpr(_FPR) - 1e-9) / 10
        told.append(say["harden.bound"].format(units=say[f"harden.{claim.unit}"], share=f"{share:g}"))
    return [*told, say["harden.not_covered"]] if told else [say["harden.no_promise"]]


def _utility(change: Change, lang: str) -> list[str]:
    after = {row.quantity: row for row in change.after}
    lines = []
    for row in change.before:
        title = words.quantity_title(row.method, row.quantity)[lang]
        lines.append(f"{title}{texts(lang)['text.colon']}{_of(row)} → {_of(after.get(row.quantity))}")
    return lines


def _of(row: Measurement | None) -> str:
    return "–" if row is None or row.value is None else words.of(row)
