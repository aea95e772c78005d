# SPDX-License-Identifier: Apache-2.0
"""Pictures of explanations, made of the marks of charts.py: ranks before and after, and numbers in fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from casemate.report import words
from casemate.report.catalogue import Both
from casemate.report.charts import WIDTH, Chart, cell, px, rule, text, three

_SLOT = 21.0  # height of a rank


def ranks(
    title: Both,
    guide: Both,
    sides: Sequence[Sequence[tuple[str, bool]]],
    heads: tuple[Both, Both],
    below: Both,
    says: Both,
) -> Chart:
    """Draw two lists of names from the strongest, a line for each name in either; hollow: may count nothing."""
    left, right, top = 122.0, WIDTH - 122.0, 24.0
    depth = max(len(side) for side in sides)
    places = [{name: index for index, (name, _) in enumerate(side)} for side in sides]
    parts = [text(left, 11, heads[0], anchor="end", kind="name"), text(right, 11, heads[1], kind="name")]
    foot = top + _SLOT * depth
    for name in dict.fromkeys(name for side in sides for name, _ in side):
        ends = [place.get(name) for place in places]
        y = [foot + 6 if end is None else top + _SLOT * end for end in ends]
        parts.append(rule(left + 8, y[0], right - 8, y[1], "slope gone" if None in ends else "slope"))
    for x, side, style, anchor in ((left, sides[0], "s0", "end"), (right, sides[1], "s1", "")):
        shift = 8.0 if anchor else -8.0
        for index, (name, sure) in enumerate(side):
            y_ = top + _SLOT * index
            parts.append(text(x, y_ + 4, name, anchor=anchor, room=left - 4, kind="label"))
            full = "fill" if sure else "hollow"
            parts.append(f'<circle class="{style} {full}" cx="{px(x + shift)}" cy="{px(y_)}" r="3.6"/>')
    if any(name not in place for place in places for side in sides for name, _ in side):
        parts.append(text(WIDTH / 2, foot + 20, below, anchor="middle", kind="name"))
    return Chart(title=title, guide=guide, says=says, height=foot + 28.0, body="".join(parts))


def matrix(
    title: Both, guide: Both, heads: Sequence[Both], rows: Sequence[tuple[Both, Sequence[float | None]]]
) -> Chart:
    """Draw numbers in fields, darker the larger among those of its column: a row a group, a column a quantity."""
    left, top = 118.0, 15.0 * len(heads) + 22.0
    width, height = (WIDTH - left) / max(1, len(heads)), 24.0
    parts = []
    for index, head in enumerate(heads):  # numbered, for names do not fit above narrow fields
        parts.append(text(0, 15.0 * index + 11, f"{index + 1}", kind="num"))
        parts.append(text(14, 15.0 * index + 11, head, room=WIDTH - 16, kind="name"))
        parts.append(text(left + width * (index + 0.5), top - 5, f"{index + 1}", anchor="middle", kind="num"))
    largest = [
        max((abs(v) for _, row in rows if (v := row[k]) is not None), default=0.0) for k in range(len(heads))
    ]
    for place, (name, values) in enumerate(rows):
        y = top + height * place
        parts.append(text(left - 6, y + 16, name, anchor="end", room=left - 8, kind="label"))
        for k, value in enumerate(values):
            share = 0.0 if value is None or not largest[k] else abs(value) / largest[k]
            parts.append(cell(left + width * k, y, width - 2, height - 2, share))
            middle = left + width * (k + 0.5) - 1
            parts.append(text(middle, y + 15, words.number(three(value)), anchor="middle", kind="value"))
    return Chart(title=title, guide=guide, height=top + height * len(rows) + 4, body="".join(parts))


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How alike two lists of importances are: rank correlation over shared names, and shared among the top ``k``."""

    spearman: float | None
    shared: int
    k: int
    n: int


def agreement(before: Mapping[str, float], after: Mapping[str, float], k: int) -> Agreement:
    """Compare two lists of importances; ranks of equal values are averaged.

    >>> agreement({"a": 3.0, "b": 2.0, "c": 1.0}, {"a": 1.0, "b": 2.0, "c": 3.0}, 2)
    Agreement(spearman=-1.0, shared=1, k=2, n=3)
    """
    names = [name for name in before if name in after]
    first, second = (np.array([_rank(side[name], side, names) for name in names]) for side in (before, after))
    spearman = None
    if len(names) > 1 and first.std() > 0 and second.std() > 0:
        spearman = round(float(np.corrcoef(first, second)[0, 1]), 12)
    top = [sorted(side, key=lambda name: -side[name])[:k] for side in (before, after)]
    return Agreement(spearman=spearman, shared=len(set(top[0]) & set(top[1])), k=k, n=len(names))


def _rank(value: float, side: Mapping[str, float], names: Sequence[str]) -> float:
    return sum(side[name] > value for name in names) + (sum(side[name] == value for name in names) + 1) / 2
