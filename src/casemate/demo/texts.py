# SPDX-License-Identifier: Apache-2.0
"""The catalogue of the demos: every text in English and in Chinese, and readers' words for columns (texts.toml)."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LANGUAGES = ("en", "zh-CN")


@functools.cache
def catalogue() -> Mapping[str, Any]:
    """Return the file as it stands: ``texts`` and ``words``, each text as a pair.

    >>> catalogue()["texts"]["leak.recognises"]
    ['recognises', '可认出']
    """
    return tomllib.loads(Path(__file__).with_name("texts.toml").read_text("utf-8"))


def say(key: str, lang: str, **values: object) -> str:
    """Return a text, its blanks filled.

    >>> say("unit.person", "en"), say("unit.person", "zh-CN")
    ('people', '人')
    """
    text: str = catalogue()["texts"][key][LANGUAGES.index(lang)]
    return text.format(**values)


def names(case: str, lang: str) -> dict[str, str]:
    """Return readers' words for the columns and answers of a demo.

    >>> names("hospital", "en")["xage"], names("small", "en")
    ('age', {})
    """
    found = catalogue()["words"].get(case, {})
    return {name: pair[LANGUAGES.index(lang)] for name, pair in found.items()}


def joined(parts: list[str], lang: str, sign: str = ",") -> str:
    """Join parts by a comma or semicolon of the language.

    >>> joined(["a", "b"], "en"), joined(["甲", "乙"], "zh-CN")
    ('a, b', '甲、乙')
    """
    return (f"{sign} " if lang == "en" else {",": "、", ";": "；"}[sign]).join(parts)
