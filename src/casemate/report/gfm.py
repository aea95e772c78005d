# SPDX-License-Identifier: Apache-2.0
"""GitHub-flavoured Markdown out of texts that an enemy may have chosen: they stay text, whoever renders them.

Backslashes and entities keep a text from being markup. What sites do to finished text (mentions of people, references
to issues, addresses made into links) no escape prevents, so the signs that start it are set in brackets, as control
characters are: ``⟨@⟩``. A sign that begins a spreadsheet's formula at the start of a text is treated the same way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from casemate.report import words

_CELL = 300
# What a site may turn into a link or a message to somebody, after Markdown is done.
_CALLS = re.compile(
    r"(?<=:)//|@|#(?=\d)|(?<=\bwww)\.(?=\w)|(?<=\bgh)-(?=\d)|^[=+-](?!\d[\d.]*(?:e[-+]?\d+)?(?:$| \[))",
    re.IGNORECASE,
)
# An interval after its value is left readable: no definition can make a link of it. So is an underscore in a word.
_MARKUP = re.compile(
    r"(?P<interval>(?<=[\d∞–] )\[[-–−∞\d.e+]+, [-–−∞\d.e+]+\](?![\[(]))"
    r"|(?P<entity>[|&<])"
    r"|[\\`*~$\[\]]|(?<![^\W_])_|_(?![^\W_])|^[#>]"
)
_NUMBERED = re.compile(r"^(\d+)([.)])(?=\s|$)")
_NAME = re.compile(r"\w(?:[\w .,:/()\[\]%+=-]*[\w)\]%])?")


def text(raw: str, limit: int = _CELL) -> str:
    r"""Return a text that is shown as it is and is nothing else: no markup, link, mention, formula or cell border.

    >>> text("a|b <b>*x*</b> @you person_auc 0.5 [0.4, 0.6]")
    'a&#124;b &#60;b>\\*x\\*&#60;/b> ⟨@⟩you person_auc 0.5 [0.4, 0.6]'
    """
    flat = " ".join(words.visible(raw, limit).split())
    return _NUMBERED.sub(r"\1\\\2", _MARKUP.sub(_kept, _CALLS.sub(r"⟨\g<0>⟩", flat)))


def code(raw: str, limit: int = 80) -> str:
    r"""Return a name as code where it is a plain one, otherwise as escaped text.

    >>> code("lira auc"), code("a`|b")
    ('`lira auc`', 'a\\`&#124;b')
    """
    plain = (
        len(raw) <= limit and _NAME.fullmatch(raw) and raw == words.visible(raw) and not _CALLS.search(raw)
    )
    return f"`{raw}`" if plain else text(raw, limit)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table, a line each row; the cells are Markdown already.

    >>> table(["a", "b"], [["1", "2"]])
    ['| a | b |', '|---|---|', '| 1 | 2 |']
    """
    lines = ["| " + " | ".join(cells) + " |" for cells in (heads, *rows)]
    return [lines[0], "|" + "---|" * len(heads), *lines[1:]]


def fenced(raw: str, language: str = "") -> list[str]:
    """Return lines of code, in a fence longer than any run of backticks in them.

    >>> fenced("a```b")
    ['````', 'a```b', '````']
    """
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", raw)), default=0))
    return [fence + language, *(words.visible(line, 10_000) for line in raw.split("\n")), fence]


def _kept(found: re.Match[str]) -> str:
    sign = found.group()
    if found["interval"]:
        return sign
    return f"&#{ord(sign)};" if found["entity"] else f"\\{sign}"
