# SPDX-License-Identifier: Apache-2.0
"""Single rows explained: in words, and as a waterfall from where none of its rules hold to what the model answers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from casemate.core.types import Table
from casemate.report import words
from casemate.report.catalogue import Both, as_is, both, joined
from casemate.report.charts import WIDTH, Axis, Chart, Grid, around, dot, px, rules, text, three, wide
from casemate.report.rulers import ruler
from casemate.report.sides import sentences

CASES = "cases"
COLUMNS = ("case", "kind", "what", "value", "low", "high")
POOR_FIT = 0.5
_MOST, _STEPS, _ROW = 3, 12, 34.0


@dataclass(frozen=True, kw_only=True)
class Step:
    """One row of a case: a column that pushes the answer, what all others add, or what is left."""

    kind: str
    what: str
    value: float
    low: float | None
    high: float | None

    @property
    def unsure(self) -> bool:
        """Tell whether the push may be nothing."""
        return self.low is not None and self.high is not None and self.low <= 0 <= self.high

    @property
    def label(self) -> Both:
        """Say what it is."""
        if self.kind == "column":
            return as_is(self.what)
        return both(f"chart.case_{self.kind}", n=words.visible(self.what, 12))


def charts(table: Table, level: str, *, named: bool) -> Iterator[Chart]:
    """Draw each case of a table; ``named`` are answers that are classes and not values."""
    if table.columns[: len(COLUMNS)] != COLUMNS:
        return
    rows = (row for row in table.rows[: _MOST * _STEPS] if len(row) >= len(COLUMNS))
    for k, (_, some) in enumerate(groupby(rows, key=lambda row: row[0]), 1):
        steps = [step for row in some if (step := _step(row))][:_STEPS]
        kinds = {step.kind: step for step in steps}
        pushes = [step for step in steps if step.kind in ("column", "others", "left")]
        if k <= _MOST and pushes and {"answer", "start"} <= set(kinds):
            yield _drawn(k, kinds, pushes, level=level, named=named)


def _step(row: Sequence[Any]) -> Step | None:
    _, kind, what, value, low, high = row[: len(COLUMNS)]
    if kind not in ("answer", "start", "column", "others", "left", "fit") or _number(value) is None:
        return None
    return Step(kind=kind, what=str(what), value=float(value), low=_number(low), high=_number(high))


def _number(value: Any) -> float | None:
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if numeric and math.isfinite(value) else None


def _drawn(k: int, kinds: dict[str, Step], pushes: Sequence[Step], *, level: str, named: bool) -> Chart:
    start, answer = kinds["start"].value, kinds["answer"]
    ends, place = [start], start
    for step in pushes:
        place += step.value
        ends.append(place)
    low, high = around([*ends, answer.value], zero=False)
    axis = Axis(title=as_is(""), low=low, high=high)
    scale = axis.on(6.0, WIDTH - 14.0)
    at = [scale.at(end) or 0.0 for end in ends]
    y, parts, links = 0.0, [], []
    parts += [text(0, 12, both("chart.case_start"), room=WIDTH - 60, kind="label"), _value(start, 0.0)]
    parts.append(dot(at[0], 23, "s0"))
    for i, step in enumerate(pushes):
        links.append((at[i], y + 27, at[i], y + _ROW + 19))
        y += _ROW
        told = _signed(step.value)
        parts.append(text(0, y + 12, step.label, room=WIDTH - 18 - wide(told), kind="label"))
        parts.append(text(WIDTH - 4, y + 12, told, anchor="end", kind="value"))
        parts.append(_bar(at[i], at[i + 1], y + 19, step))
    links.append((at[-1], y + 28, at[-1], y + _ROW + 19))
    y += _ROW
    name = (
        both("chart.case_answer", answer=words.visible(answer.what, 40))
        if named
        else both("chart.case_value")
    )
    parts += [text(0, y + 12, name, room=WIDTH - 60, kind="label"), _value(answer.value, y)]
    parts.append(dot(scale.at(answer.value) or 0.0, y + 23, "s1"))
    y += _ROW
    parts += ruler(scale, axis, 0.0, y, grid=False)
    return Chart(
        title=both("chart.case", k=str(k), answer=_answer(answer, named=named)),
        guide=both("chart.case_about", level=level),
        says=_said(kinds, pushes, named=named),
        height=y + 18.0,
        body=rules(links) + "".join(parts),
        numbers=_numbers(name, kinds, pushes),
    )


def _bar(start: float, end: float, y: float, step: Step) -> str:
    """Draw a push: to the right in the colour of the answer, to the left in the other; hollow where it may be none."""
    style = f"{'s1' if step.value >= 0 else 's2'} {'hollow' if step.unsure else 'fill'}"
    left, width = min(start, end), max(abs(end - start), 0.6)
    return f'<rect class="{style}" x="{px(left)}" y="{px(y)}" width="{px(width)}" height="9"/>'


def _value(value: float, y: float) -> str:
    return text(WIDTH - 4, y + 12, words.number(three(value)), anchor="end", kind="value")


def _signed(value: float) -> str:
    return ("+" if value >= 0 else "\u2212") + words.number(three(abs(value)))


def _answer(answer: Step, *, named: bool) -> Both:
    value = words.number(three(answer.value))
    return as_is(f"{words.visible(answer.what, 40)} {value}" if named else value)


def _said(kinds: dict[str, Step], pushes: Sequence[Step], *, named: bool) -> Both:
    """Say a case in words: the answer, what pushes it up, what down, what either way, and how good the picture is."""
    columns = [step for step in pushes if step.kind == "column"]
    sure = [step for step in columns if not step.unsure]
    answer = {
        "name": words.visible(kinds["answer"].what, 40),
        "value": words.number(three(kinds["answer"].value)),
    }
    parts = [both("chart.case_says" if named else "chart.case_says_value", **answer)]
    for key, sign in (("up", 1), ("down", -1)):
        found = [
            f"{words.visible(step.what, 80)}: {_signed(step.value)}" for step in sure if sign * step.value > 0
        ]
        parts += [both(f"chart.case_{key}", columns=_listed(found))] if found else []
    unsure = [words.visible(step.what, 80) for step in columns if step.unsure]
    parts += [both("chart.case_unsure", columns=_listed(unsure))] if unsure else []
    fit = kinds.get("fit")
    if fit is not None:
        key = "chart.case_poor" if fit.value < POOR_FIT else "chart.case_fit"
        parts.append(both(key, fit=words.percent(round(min(1.0, max(0.0, fit.value)), 2))))
    return sentences(parts)


def _listed(items: Sequence[str]) -> Both:
    return joined([as_is(item) for item in items], "text.semicolon")


def _numbers(name: Both, kinds: dict[str, Step], pushes: Sequence[Step]) -> Grid:
    rows = [(both("chart.case_start"), as_is(words.number(kinds["start"].value)))]
    rows += [(step.label, as_is(words.interval(step.value, step.low, step.high))) for step in pushes]
    rows.append((name, as_is(words.number(kinds["answer"].value))))
    return (both("chart.case_part"), both("chart.case_push")), tuple(rows)
