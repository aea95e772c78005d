# SPDX-License-Identifier: Apache-2.0
"""Charts of rows: dots with intervals on rulers below one another, and bars. Labels stand above, so they have room."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from casemate.report import words
from casemate.report.catalogue import LANGUAGES, Both, as_is
from casemate.report.charts import (
    NOTHING,
    WIDTH,
    Axis,
    Chart,
    Scale,
    bar,
    dot,
    legend,
    rule,
    rules,
    spaced,
    text,
    three,
    wide,
)

_ROW = 36.0  # height of a row with its ruler
_ROOM = 104.0  # of the values beside it, at least


@dataclass(frozen=True, kw_only=True)
class Span:
    """One row of values with intervals, ``(style, value, low, high)`` each; ``null`` is what guessing gives."""

    label: Both
    values: tuple[tuple[str, float | None, float | None, float | None], ...]
    null: float | None = None
    group: Both | None = None
    wrap: bool = False  # a long label takes two lines


def intervals(
    title: Both,
    guide: Both,
    rows: Sequence[Span],
    *,
    ends: tuple[float, float],
    names: Sequence[tuple[str, Both]] = (),
    says: Both = NOTHING,
) -> Chart:
    """Draw dots with intervals on one ruler a row, series below one another: the figures before and after."""
    entries = list(names) if len(names) > 1 else []
    y = top = 15.0 * len(entries) + (8.0 if entries else 0.0)
    axis = Axis(title=as_is(""), low=ends[0], high=ends[1])
    room = min(
        WIDTH / 2, max([_ROOM, *(wide(_both_ends(row)) for row in rows)])
    )  # for the values of each row
    scale = axis.on(6.0, WIDTH - room - 8.0)
    parts, strokes = [*legend(entries)], []
    group = None
    for row in rows:
        if row.group is not None and row.group != group:
            y += 0 if group is None else 7
            parts.append(text(0, y + 12, row.group, kind="name"))
            group, y = row.group, y + 16
        above = wrapped(row.label) if row.wrap else [row.label]
        parts += [text(0, y + 12 + 13 * turn, part, kind="label") for turn, part in enumerate(above)]
        y += 13 * (len(above) - 1)
        apart = 7.0 if len(row.values) > 1 else 0.0
        middle = y + 25 + apart * max(0.0, len(row.values) / 2 - 1)
        parts.append(text(WIDTH - 2, middle + 4, _both_ends(row), anchor="end", room=room, kind="value"))
        strokes.append((scale.start, middle, scale.end, middle))
        null = scale.at(row.null)
        parts.append("" if null is None else rule(null, middle - 8, null, middle + 8, "null"))
        for turn, value in enumerate(row.values):
            parts += _spanned(scale, middle + apart * (turn - (len(row.values) - 1) / 2), *value)
        y = middle - 25 + _ROW + apart * max(0.0, len(row.values) / 2 - 1)
    parts += ruler(scale, axis, top, y, grid=False)
    return Chart(title=title, guide=guide, says=says, height=y + 18.0, body=rules(strokes) + "".join(parts))


def _both_ends(row: Span) -> str:
    """Write the first value and the last; those between stand in the table."""
    told = [words.number(three(value)) for _, value, _, _ in row.values]
    return f"{told[0]} \u2192 \u2026 \u2192 {told[-1]}" if len(told) > 2 else " \u2192 ".join(told)


def _spanned(scale: Scale, y: float, style: str, *numbers: float | None) -> Iterator[str]:
    value, low, high = (scale.at(number) for number in numbers)
    if low is not None and high is not None:
        yield rule(low, y, high, y, f"whisker {style}")
    if value is not None:
        yield dot(value, y, style)


def ruler(scale: Scale, axis: Axis, top: float, foot: float, *, grid: bool = True) -> Iterator[str]:
    """Draw ticks from ``top`` down to ``foot``, or short ones, and their numbers below."""
    ticks = [(scale.at(tick) or 0.0, shown) for tick, shown in spaced(scale, axis)]
    yield rules([(place, top + 16 if grid else foot - 2, place, foot + 2) for place, _ in ticks])
    for place, shown in ticks:
        half = wide(shown) / 2
        inside = min(max(place, half), WIDTH - half)
        yield text(inside, foot + 13, shown, anchor="middle", kind="num") if shown else ""


def wrapped(label: Both) -> list[Both]:
    """Return a label on one line or, where one language needs it, on two: broken after a word.

    >>> len(wrapped(as_is("short"))), len(wrapped(as_is("a rather long name " * 4)))
    (1, 2)
    """
    cut = {}
    for lang in LANGUAGES:
        shown = words.visible(label[lang], 120)
        keep = len(shown)
        while wide(shown[:keep]) > WIDTH:
            place = shown.rfind(" ", 0, keep - 1)
            keep = place + 1 if place > 0 else keep - 1
        cut[lang] = (shown[:keep].rstrip(), shown[keep:])
    return [
        {lang: cut[lang][k] for lang in LANGUAGES} for k in (0, 1) if any(cut[lang][k] for lang in LANGUAGES)
    ]


def bars(
    title: Both,
    guide: Both,
    rows: Sequence[Span],
    *,
    ends: tuple[float, float],
    mark: float | None = None,
    zero_open: bool = False,
) -> Chart:
    """Draw bars from zero with their intervals; ``zero_open`` draws hollow what may be zero, ``mark`` a stroke."""
    axis = Axis(title=as_is(""), low=ends[0], high=ends[1])
    scale = axis.on(1.0, WIDTH - 14.0)
    foot = _ROW * len(rows)
    parts = [*ruler(scale, axis, 0.0, foot)]
    for index, row in enumerate(rows):
        y = _ROW * index
        (_, value, low, high), *_ = row.values
        told = words.number(three(value))
        parts.append(text(WIDTH - 4, y + 12, told, anchor="end", kind="value"))
        parts.append(text(0, y + 12, row.label, room=WIDTH - 14 - wide(told), kind="label"))
        start, end, ends_ = scale.at(0.0), scale.at(value), (scale.at(low), scale.at(high))
        if start is not None and end is not None:
            unsure = zero_open and (low is None or high is None or low <= 0 <= high)
            parts.append(bar(start, end, y + 19, hollow=unsure))
        place = None if value is None else scale.at(mark)
        parts.append("" if place is None else rule(place, y + 16, place, y + 31, "null"))
        if ends_[0] is not None and ends_[1] is not None:
            parts.append(rule(ends_[0], y + 23.5, ends_[1], y + 23.5, "whisker ink"))
    return Chart(title=title, guide=guide, height=foot + 18.0, body="".join(parts))
