# SPDX-License-Identifier: Apache-2.0
"""The clauses of the crosswalk: data with a version and a date (standards.toml), so that a changed law is new data.

Each clause says what its evidence covers, what it does not, and what a person must still do; which methods and
quantities count as evidence; and when it was last looked up, where, and in what kind of text. A clause that no method
of this version measures stands there all the same, with no evidence. What is incomplete is refused when it is read.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from casemate.core.errors import InvalidData
from casemate.report.catalogue import LANGUAGES, Both

_KEYS = {"en": "en", "zh-CN": "zh"}  # as in the cards: both languages of a text stand side by side
_CHECKS = (
    "primary",
    "copy",
    "secondary",
)  # what was read: the publisher's text, a copy of it, what others say of it
_LOOKED_UP = ("source", "checked_on", "checked_by")
_PLAIN = ("clause", "alias", "edition", "source")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One clause: whose, where it is written, what is evidence towards it and what that leaves open.

    Args:
        framework, name: the key and the name of the document; ``edition`` of it; ``alias`` in an older edition.
        evidence: for each method the quantities that count; empty where no method of this version measures it.
        claims: whether a stated differential-privacy guarantee is shown beside the evidence (it is no measurement).
        groups: whether tables by sensitive group are evidence.
        checked_on: the day the clause was looked up; None means nobody has verified it.
        checked_by: "primary", "copy" or "secondary": what was read on that day.
    """

    framework: str
    name: Both
    edition: str
    clause: str
    alias: str
    title: Both
    scope: Both
    not_covered: Both
    human_action: Both
    evidence: Mapping[str, tuple[str, ...]]
    claims: bool
    groups: bool
    source: str
    checked_on: date | None
    checked_by: str

    def stale(self, on: date) -> bool:
        """Tell whether more than twelve months have passed since the clause was looked up.

        >>> first = crosswalk().entries[0]
        >>> first.stale(first.checked_on), first.stale(date(2040, 1, 1))
        (False, True)
        """
        then = self.checked_on
        return then is not None and (then.year + 1, then.month, then.day) < (on.year, on.month, on.day)


@dataclass(frozen=True)
class Crosswalk:
    """The clauses with the version and the date of the data, and the fixed words of the section."""

    version: str
    made_on: date
    entries: tuple[Entry, ...]
    words: Mapping[str, Both]

    def say(self, key: str, **values: str | Both) -> Both:
        """Return a fixed text in every language, its blanks filled."""
        return {
            lang: self.words[key][lang].format(
                **{name: v if isinstance(v, str) else v[lang] for name, v in values.items()}
            )
            for lang in LANGUAGES
        }


@functools.cache
def crosswalk() -> Crosswalk:
    """Return the crosswalk of this version, read and checked once.

    >>> sorted({entry.framework for entry in crosswalk().entries})[:3]
    ['ai-act', 'atlas', 'gb-45654']
    """
    return parse((Path(__file__).parent / "standards.toml").read_text("utf-8"))


def parse(text: str) -> Crosswalk:
    """Read a crosswalk from TOML.

    Raises:
        InvalidData: not TOML, or an entry that is incomplete; the message names it.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidData(f"the crosswalk is not TOML: {error}") from error
    sets, frames = raw.get("evidence", {}), {frame.get("key"): frame for frame in raw.get("framework", ())}
    fixed = {key: _both(raw["words"], key, "words") for key in raw.get("words", {})}
    entries = tuple(_entry(item, frames, sets) for item in raw.get("entry", ()))
    if not isinstance(raw.get("version"), str) or type(raw.get("date")) is not date or not entries:
        raise InvalidData("the crosswalk needs a version, a date and entries")
    names = [(entry.framework, entry.clause) for entry in entries]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InvalidData(f"the crosswalk names {' '.join(twice[0])} twice")
    return Crosswalk(raw["version"], raw["date"], entries, fixed)


def _entry(
    item: Mapping[str, Any], frames: Mapping[Any, Mapping[str, Any]], sets: Mapping[str, Any]
) -> Entry:
    at = f"{item.get('framework')} {item.get('clause')}"
    if item.get("framework") not in frames:
        raise InvalidData(f"crosswalk: {at}: no framework of this key")
    # what an entry does not say holds as its framework says it; where it was looked up goes together
    frame = dict(frames[item["framework"]])
    if "checked_on" in item:
        frame = {key: value for key, value in frame.items() if key not in _LOOKED_UP[1:]}
    whole = {"alias": "", "checked_by": "", "evidence": [], **frame, **item}
    if gone := [key for key in (*_PLAIN, "checked_by") if not isinstance(whole.get(key), str)]:
        raise InvalidData(f"crosswalk: {at}: {gone[0]} must be a text")
    if not whole["source"].startswith("https://"):
        raise InvalidData(f"crosswalk: {at}: source must be an https address; got {whole['source']!r}")
    checked = whole.get("checked_on")
    if (checked == "") != (whole["checked_by"] == "") or (
        checked != "" and (type(checked) is not date or whole["checked_by"] not in _CHECKS)
    ):
        raise InvalidData(f"crosswalk: {at}: checked_on is a date with checked_by, or both are empty")
    if lost := [name for name in whole["evidence"] if name not in sets]:
        raise InvalidData(f"crosswalk: {at}: no evidence is called {lost[0]!r}")
    found: dict[str, tuple[str, ...]] = {}
    for name in whole["evidence"]:
        for method, quantities in sets[name].items():
            found[method] = tuple(dict.fromkeys((*found.get(method, ()), *quantities)))
    return Entry(
        framework=whole["key"],
        name=_both(whole, "name", at),
        **{key: whole[key] for key in (*_PLAIN, "checked_by")},
        title=_both(whole, "title", at),
        scope=_both(whole, "scope", at),
        not_covered=_both(whole, "not_covered", at),
        human_action=_both(whole, "human_action", at),
        evidence=found,
        claims=whole.get("claims") is True,
        groups=whole.get("groups") is True,
        checked_on=None if checked == "" else checked,
    )


def _both(raw: Mapping[str, Any], key: str, at: str) -> Both:
    pair = raw.get(key)
    texts = {lang: pair.get(short) if isinstance(pair, dict) else None for lang, short in _KEYS.items()}
    if gone := [lang for lang, text in texts.items() if not isinstance(text, str) or not text.strip()]:
        raise InvalidData(f"crosswalk: {at}: {key} has no {gone[0]}")
    return {lang: str(text) for lang, text in texts.items()}
