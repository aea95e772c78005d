# SPDX-License-Identifier: Apache-2.0
"""One report, or several beside each other: what their charts are read from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from casemate.core.types import Curve, Measurement, Property, Table
from casemate.report import words
from casemate.report.catalogue import LANGUAGES, Both
from casemate.report.charts import STYLES
from casemate.report.model import Report

Key = tuple[str, str, int]


@dataclass(frozen=True, kw_only=True)
class Sides:
    """The measurements of one property in one report or several; a missing one is None."""

    name: Property
    reports: tuple[Report, ...]
    names: tuple[Both, ...]
    rows: Mapping[Key, tuple[Measurement | None, ...]]

    @classmethod
    def of(cls, name: Property, reports: Sequence[Report], names: Sequence[Both]) -> Sides:
        """Line up what the reports measured; at most four of them are drawn."""
        kept = tuple(reports[: len(STYLES)])
        rows = lined_up(name, kept)
        return cls(name=name, reports=kept, names=tuple(names[: len(kept)]), rows=rows)

    @property
    def alone(self) -> bool:
        """Tell whether this is one report."""
        return len(self.reports) == 1

    @property
    def styles(self) -> tuple[str, ...]:
        """Return the look of each report: what stands alone looks as what comes after."""
        return (STYLES[1],) if self.alone else STYLES[: len(self.reports)]

    @property
    def level(self) -> str:
        """Return the level of the limits in words."""
        return words.percent(self.reports[0].level)


def lined_up(name: Property, reports: Sequence[Report]) -> dict[Key, tuple[Measurement | None, ...]]:
    """Return what the reports measured of one property: a row a number, a place in it a report."""
    found = [_keyed(report, name) for report in reports]
    keys = dict.fromkeys(key for one in found for key in one)
    return {key: tuple(one.get(key) for one in found) for key in keys}


def some_of(row: Sequence[Measurement | None]) -> Measurement:
    """Return the first measurement that is there."""
    return next(m for m in row if m is not None)


def curve_of(m: Measurement | None, name: str) -> Curve | None:
    """Return a curve of that name that has points."""
    details = () if m is None else m.details
    return next((d for d in details if isinstance(d, Curve) and d.name == name and d.x), None)


def table_of(m: Measurement | None, name: str, columns: int) -> Table | None:
    """Return a table of that name that has rows, each of at least ``columns`` cells."""
    details = () if m is None else m.details
    fits = (d for d in details if isinstance(d, Table) and d.name == name and len(d.columns) >= columns)
    return next((d for d in fits if d.rows and all(len(row) >= columns for row in d.rows)), None)


def limits(m: Measurement | None) -> tuple[float | None, float | None, float | None]:
    """Return value, low and high of what was measured; three times None otherwise."""
    return (m.value, m.low, m.high) if m is not None and m.status == "measured" else (None, None, None)


def sentences(parts: Sequence[Both]) -> Both:
    """Join sentences into one text; Chinese ones end in a wide full stop and need no space."""
    return {
        lang: ("" if lang == "zh-CN" else " ").join(part[lang] for part in parts if part[lang])
        for lang in LANGUAGES
    }


def _keyed(report: Report, name: Property) -> dict[Key, Measurement]:
    turns: Counter[tuple[str, str]] = Counter()
    out: dict[Key, Measurement] = {}
    for m in report.measurements:
        if m.property == name:
            out[m.method, m.quantity, turns[m.method, m.quantity]] = m
            turns[m.method, m.quantity] += 1
    return out
