# SPDX-License-Identifier: Apache-2.0
"""The fixed texts of the report, in English and Chinese; numbers, names and units are never translated."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from casemate.core.errors import InvalidData

LANGUAGES = ("en", "zh-CN")
Both = Mapping[str, str]  # a text in every language


@functools.cache
def texts(lang: str) -> Mapping[str, str]:
    """Return ``section.key -> text`` of one language.

    >>> texts("en")["property.privacy"]
    'Privacy'
    """
    if lang not in LANGUAGES:
        raise InvalidData(f"no language {lang!r}; there are {' and '.join(LANGUAGES)}")
    read = tomllib.loads((Path(__file__).parent / f"{lang}.toml").read_text("utf-8"))
    return {f"{section}.{key}": text for section, part in read.items() for key, text in part.items()}


def both(key: str, **values: str | Both) -> Both:
    """Return a text in every language, its blanks filled by strings or by texts in every language.

    >>> both("page.more_rows", n="12")["en"]
    '... 12 more rows'
    """
    return {
        lang: texts(lang)[key].format(**{k: v if isinstance(v, str) else v[lang] for k, v in values.items()})
        for lang in LANGUAGES
    }


def as_is(text: str) -> Both:
    """Return a text that is the same in every language.

    >>> as_is("lira")["zh-CN"]
    'lira'
    """
    return dict.fromkeys(LANGUAGES, text)


def joined(parts: Iterable[Both], key: str = "page.comma") -> Both:
    """Join texts by a separator of the catalogue.

    >>> joined([as_is("a"), as_is("b")])["en"]
    'a, b'
    """
    listed = list(parts)
    return {lang: texts(lang)[key].join(part[lang] for part in listed) for lang in LANGUAGES}


def said(text: str) -> Both:
    """Return a sentence that a method or an error wrote in English in every language; as it is where not known.

    For sentences, not for names: a column that is called as a known word would come out as that word in Chinese.

    >>> said("the data has no reference rows")["zh-CN"]
    '数据中没有参考行'
    """
    from casemate.report.catalogue.sayings import in_chinese  # only who asks pays for reading the sentences

    return {"en": text, "zh-CN": in_chinese(text)}
