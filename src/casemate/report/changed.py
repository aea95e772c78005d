# SPDX-License-Identifier: Apache-2.0
"""What was hardened, as text for a terminal: what was done, what it promises and what not, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from casemate.core.types import Change, Measurement, Note
from casemate.report import words
from casemate.report.catalogue import texts

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
    lines = [say["harden.done"].format(names=", ".join(change.params), summary=change.summary)]
    lines += _promises(change.target.claims, lang)
    lines.append(say["harden.utility"].format(level=words.percent(0.95)))
    lines += [f"  {line}" for line in _utility(change, lang)][:_ROWS]
    last = [say["harden.files"].format(files=", ".join(files)), say["harden.again"], f"  {command}"]
    last.append(say["harden.closing"].format(folder=folder))
    notes = [piece.text for piece in change.evidence if isinstance(piece, Note)]
    promised = tuple(f"{claim}." for claim in change.target.claims)  # was said above
    notes = [note for note in notes if not note.startswith(promised)]
    lines += [*notes[: _LINES - len(lines) - len(last)], *last]
    most = max(1000, len(command) + 2)  # a command that is cut is none
    return "\n".join(words.visible(line, most) for line in lines)


def _promises(claims: Sequence[Any], lang: str) -> list[str]:
    say = texts(lang)
    told = []
    for claim in claims:
        told.append(say["harden.promise"].format(plan=claim))
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
