# SPDX-License-Identifier: Apache-2.0
"""How the demos write numbers, leaks and lines that fit a terminal, the same in English and in Chinese."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from casemate.demo.facts import RATE, Leak, Reasons, leak_of
from casemate.demo.texts import joined, say

if TYPE_CHECKING:
    from casemate.core.stats import Interval
    from casemate.core.types import Measurement
    from casemate.report.model import Report

WIDTH = 112  # of a line; a wide letter counts twice
LINES = 25
NEEDED = round(10 / RATE)  # others: below ten false alarms expected, none are counted (stats.resolvable)


def in_plain_words(report: Report, lang: str = "en") -> str:
    """Say what the strongest membership attack does, person by person where the data knows people.

    Empty when it was not measured. It is what this attack achieves: another may do better.
    """
    found = leak_of(report)
    if found is None or found.share is None or found.wrong is None:
        return ""
    unit = say(f"unit.{found.unit}", lang)
    text = say("leak.sentence", lang, unit=unit, share=hundred(found.share), wrong=hundred(found.wrong))
    note = leak_note(found, lang, unit)
    return text + (" " if note and lang == "en" else "") + note


def leaks(rows: Sequence[tuple[str, Report]], unit: str, lang: str) -> list[str]:
    """Return a table of leaks as lines: a head, then each model with who is recognised, wrongly named, and its AUC."""
    cells = [["", *(say(f"leak.{name}", lang, unit=unit) for name in ("recognises", "wrongly", "auc"))]]
    for title, report in rows:
        found = leak_of(report)
        share = wrong = say("leak.none", lang)
        if found is not None and found.share is not None and found.wrong is not None:
            share, wrong = hundred(found.share), hundred(found.wrong)
        elif found is not None:
            share, wrong = say("leak.unresolved", lang), "–"
        cells.append([f"     {title}", share, wrong, limits(report["utility", "roc_auc"])])
    return aligned(cells)


def leak_note(found: Leak | None, lang: str, unit: str) -> str:
    """Say that an attack found nothing, and what it would have found; empty where it found something."""
    if found is None or found.detected:
        return ""
    if found.share is None and found.n_others < NEEDED:
        return say("leak.few", lang, need=NEEDED, n=found.n_others, unit=unit)
    if found.share is None:
        return say("leak.why", lang, why=found.reason)
    least = say("leak.power", lang, least=found.least) if found.least else say("leak.stop", lang)
    return say("leak.undetected", lang) + least


def rules(why: Reasons, names: Mapping[str, str], yes_or_no: frozenset[str], lang: str) -> str:
    """Write the strongest rules of an answer, each with its weight and error; ``married <= 0`` is ``married: no``."""

    def plain(rule: str) -> str:
        for sign, key in ((" <= 0", "word.no"), (" > 0", "word.yes")):
            if rule.removesuffix(sign) in yes_or_no and rule.endswith(sign):
                return f"{rule.removesuffix(sign)}: {say(key, lang)}"
        return rule

    told = (
        f"{translated(plain(rule), names)} ({value:+.2f} ± {max(error, 0.001):.3f})"
        for rule, value, error in why.rules
    )
    return joined(list(told), lang)


def hundred(found: Measurement | Interval) -> str:
    """Write a share as a number of 100: ``72 [69, 74]``."""
    value, low, high = (100 * (part or 0.0) for part in (found.value, found.low, found.high))
    return f"{value:.2g} [{low:.2g}, {high:.2g}]"


def limits(m: Measurement) -> str:
    """Write a value with its limits at three decimals: ``0.705 [0.690, 0.720]``."""
    if m.value is None or m.low is None or m.high is None:
        return "–"
    return f"{m.value:.3f} [{m.low:.3f}, {m.high:.3f}]"


def signed(gap: Interval | None, *, of_100: bool = False) -> str:
    """Write a paired difference with its limits and signs.

    >>> from casemate.core.stats import Interval
    >>> signed(Interval(-0.0161, -0.0212, -0.0110, 0.95, 100))
    '-0.016 [-0.021, -0.011]'
    """
    if gap is None:
        return "–"
    parts = (gap.value, gap.low, gap.high)
    value, low, high = (f"{100 * part:+.2g}" if of_100 else f"{part:+.3f}" for part in parts)
    return f"{value} [{low}, {high}]"


def translated(text: str, names: Mapping[str, str]) -> str:
    """Put readers' words in place of column names, longest first, each whole.

    >>> translated("11 < xage <= 24", {"xage": "age"})
    '11 < age <= 24'
    """
    if not names:
        return text
    listed = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.sub(rf"(?<!\w)(?:{listed})(?!\w)", lambda found: names[found.group()], text)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines whose columns stand below each other, by the width letters take.

    >>> aligned([["a", "b"], ["long", "c"]])
    ['a     b', 'long  c']
    """
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell + " " * (most - width(cell)) for cell, most in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def wrapped(text: str, indent: int = 3) -> list[str]:
    """Break a text into lines of at most :data:`WIDTH`; those after the first are indented.

    Lines end after a space or between Chinese letters, never before a closing sign.

    >>> [width(line) <= WIDTH for line in wrapped("word " * 40)]
    [True, True]
    """
    lines, line = [], ""
    for piece in re.findall(r"[!-~–±]+ ?|[^!-~–±]", text):
        # a Chinese line keeps room for two closing signs, which never begin the next
        room = WIDTH - 4 if width(piece) > len(piece) else WIDTH
        if width(line + piece.rstrip()) > room and piece not in "，。；：、）”":
            lines.append(line.rstrip())
            line = " " * indent
            piece = piece.lstrip()
        line += piece
    return [*lines, line.rstrip()]


def indented(text: str) -> list[str]:
    """Break a text that stands below a step."""
    return wrapped("   " + text) if text else []


def width(text: str) -> int:
    """Return how many places a text takes on a terminal."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
