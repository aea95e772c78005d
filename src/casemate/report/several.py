# SPDX-License-Identifier: Apache-2.0
"""One report or several on one page: what each is called, and what is said once though several say it."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from casemate.report import words
from casemate.report.catalogue import Both, as_is, both, joined, said
from casemate.report.model import Report

ROWS, LONG, CELL, TEXT = 60, 25, 120, 600  # rows and letters of each kind that a page holds
SHOWN = 4  # reports that have a column of their own: as many as a chart tells apart
_NEGATIVE = re.compile(r"(?<=[ \[(])-(?=\d)")
Item = TypeVar("Item", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Several:
    """The reports of a page in their order; ``names`` is empty for one that stands alone."""

    reports: tuple[Report, ...]
    names: tuple[Both, ...]

    @classmethod
    def of(cls, reports: Sequence[Report]) -> Several:
        """Name the reports: before and after, the later ones numbered where there are more than two.

        At most ``SHOWN`` are kept.
        """
        if len(reports) < 2:
            return cls(reports=tuple(reports), names=())
        later = [both("page.after")]
        if len(reports) > 2:
            later = [both("page.after_n", n=str(i)) for i in range(1, len(reports))]
        return cls(reports=tuple(reports[:SHOWN]), names=(both("page.before"), *later)[:SHOWN])

    @property
    def alone(self) -> bool:
        """Tell whether this is one report."""
        return not self.names

    def mark(self, places: Iterable[int]) -> Both | None:
        """Name the reports at these places; None where all are meant."""
        found = sorted(set(places))
        whole = self.alone or len(found) == len(self.reports)
        return None if whole else joined([self.names[i] for i in found])

    def marked(self, lists: Sequence[Iterable[Item]]) -> list[tuple[Item, Both | None]]:
        """Return what the lists hold, each once, with the reports that it comes from."""
        places: dict[Item, list[int]] = {}
        for i, items in enumerate(lists):
            for item in items:
                places.setdefault(item, []).append(i)
        return [(item, self.mark(found)) for item, found in places.items()]

    def sentences(self, lists: Sequence[Iterable[str]]) -> dict[str, Any]:
        """Return texts that methods wrote, in every language, each once with where it comes from."""
        found = self.marked(lists)
        return {
            "shown": [
                {"title": None, "texts": [{"text": told(text), "of": mark}]} for text, mark in found[:ROWS]
            ],
            "more": max(0, len(found) - ROWS),
        }


def once(cells: Sequence[Item | Any]) -> list[Any]:
    """Return one cell where all are equal.

    >>> once([1, 1, 1]), once([1, 2])
    ([1], [1, 2])
    """
    return [cells[0]] if all(cell == cells[0] for cell in cells) else list(cells)


def told(text: str) -> Both:
    """Return a sentence of a method in every language, cut at what a page holds and freed of what cannot be seen."""
    return {lang: _NEGATIVE.sub("\u2212", words.visible(each, TEXT)) for lang, each in said(text).items()}


def shown(value: Any, *, ours: bool = True) -> dict[str, Any]:
    """Return a cell of a method's table: a number, or a text in every language; ``ours`` unless it is a user's name."""
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is None or numeric:
        return {"number": words.number(value)}
    texts = said(str(value)) if ours else as_is(str(value))
    return {"text": {lang: words.visible(each, CELL) for lang, each in texts.items()}}
