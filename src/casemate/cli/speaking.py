# SPDX-License-Identifier: Apache-2.0
"""The language of what is said to the user: results, errors, progress and help, in English or Chinese."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence

_KNOWN = {"en": "en", "zh": "zh-CN", "zh-cn": "zh-CN"}


def known_language(lang: str) -> str | None:
    """Return a language as the catalogue names it, or None.

    >>> known_language("ZH"), known_language("fr")
    ('zh-CN', None)
    """
    return _KNOWN.get(lang.lower())


def language(argv: Sequence[str]) -> str:
    """Return the language of errors and help: what ``--lang`` says, else CASEMATE_LANG, else English.

    >>> language(["audit", "--lang", "zh-CN", "--help"])
    'zh-CN'
    """
    chosen = os.environ.get("CASEMATE_LANG", "")
    for at, word in enumerate(argv):
        if word == "--lang":
            chosen = "".join(argv[at + 1 : at + 2])
        elif word.startswith("--lang="):
            chosen = word.removeprefix("--lang=")
    return known_language(chosen) or "en"


def handed_on(argv: Sequence[str]) -> list[str]:
    """Return the words with a ``--lang`` that stands before the command given to the command as well.

    >>> handed_on(["--lang", "zh-CN", "doctor"])
    ['--lang', 'zh-CN', 'doctor', '--lang', 'zh-CN']
    """
    at = 0
    given: list[str] = []
    while at < len(argv) and argv[at].startswith("-"):
        words = argv[at : at + (2 if argv[at] == "--lang" else 1)]
        given += words if words[0].startswith("--lang") else []
        at += len(words)
    return [*argv[: at + 1], *given, *argv[at + 1 :]] if at < len(argv) else list(argv)


def say(text: str, lang: str) -> str:
    """Return an English sentence in the language; as it is where the catalogue does not know it."""
    if lang == "en":
        return text
    from casemate.report.catalogue import said

    return said(text)[lang]


def say_comments(text: str, lang: str) -> str:
    """Return the text of a schema file with Casemate's comments in the language; what quotes hold is never touched."""
    if lang == "en":
        return text
    given = text.splitlines()
    head = list(itertools.takewhile(lambda line: line.startswith("#"), given))
    written = [say(" ".join(" ".join(head).split()), lang)] if head else []
    for line in given[len(head) :]:
        fact, mark, comment = line.rpartition("#")
        ours = mark and '"' not in fact
        written.append(f"{fact}{say(f'#{comment}', lang)}" if ours else line)
    return "\n".join(written) + "\n"
