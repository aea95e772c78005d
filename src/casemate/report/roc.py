# SPDX-License-Identifier: Apache-2.0
"""Membership: the claim and the attacks on one ruler.

The ROC of an attack is drawn with both axes by powers of ten, for what matters is how many members are recognised
while hardly anybody is wrongly accused. On the same axes the region is hatched that a guarantee proves impossible.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from casemate.core.types import Curve, Measurement
from casemate.report import words
from casemate.report.catalogue import Both, as_is, both, joined
from casemate.report.charts import STYLES, Axis, Bound, Chart, Dot, Grid, Lines, Numbers, Series
from casemate.report.claims import bound_of, rounded_up
from casemate.report.model import Report
from casemate.report.sides import Sides, curve_of, limits, sentences

_RATES = (0.0001, 0.001, 0.01, 0.1, 0.5)  # false-positive rates at which a ROC is written as numbers


def rocs(sides: Sides) -> Iterator[Chart]:
    """Draw the attacks of one report on one ruler for records and one for people; of several, each attack."""
    found: dict[Any, list[tuple[int, Measurement]]] = {}
    for key, row in sides.rows.items():
        for index, m in enumerate(row):
            if m is not None and m.status != "not_measured" and _curve(m).x:
                found.setdefault(_person(m) if sides.alone else key, []).append((index, m))
    # one ruler for all: from the power of ten of the smallest rate (a little less still counts as it)
    rates = [
        x for group in found.values() for i, m in group for x in _places(m, sides.reports[i]) if x and x > 0
    ]
    low = 10.0 ** -min(6, max(2, math.ceil(-math.log10(min(rates, default=0.1)) - 0.02)))

    def strength(one: tuple[int, Measurement]) -> float:
        return -(one[1].value or 0.0)

    for group in sorted(found.values(), key=lambda group: min(map(strength, group))):
        yield _roc(sides, sorted(group, key=strength)[:4] if sides.alone else group, low)


def _person(m: Measurement) -> bool:
    return m.quantity.startswith("person_")


def _curve(m: Measurement) -> Curve:
    return curve_of(m, "roc") or Curve(name="roc", x=(), y=())


def _places(m: Measurement, report: Report) -> Numbers:
    """Return all false-positive rates that are drawn."""
    return [*_curve(m).x, *(place for place, *_ in _thresholds(m, report))]


def _roc(sides: Sides, members: Sequence[tuple[int, Measurement]], low: float) -> Chart:
    first = members[0][1]
    by = both("chart.by_person" if _person(first) else "chart.by_record")
    styles = [STYLES[k] for k in (1, 0, 2, 3)] if sides.alone else sides.styles
    series = []
    for turn, (index, m) in enumerate(members):
        name = _attack(m) if sides.alone else sides.names[index]
        style = styles[turn] if sides.alone else styles[index]
        series.append(_roc_series(m, sides.reports[index], name, style))
    bound, promised = _bound(sides, person=_person(first))
    about = [both("chart.roc_about", level=sides.level)]
    about += [both("chart.roc_dots")] if any(one.dots for one in series) else []
    about += promised
    title = (
        both("chart.attacks", by=by) if sides.alone else both("chart.attack", method=_attack(first), by=by)
    )
    shares: dict[str, Any] = {"low": low, "high": 1.0, "log": True, "percent": True}
    return Lines(
        title=title,
        guide=sentences(about),
        says=sentences([_told(one) for one in series]),
        series=series,
        x=Axis(title=both("page.roc_x"), **shares),
        y=Axis(title=both("page.roc_y"), **shares),
        guess=both("chart.guess"),
        bound=bound,
        numbers=_roc_numbers(series, bound, low),
    ).chart()


def _bound(sides: Sides, *, person: bool) -> tuple[Bound | None, list[Both]]:
    """Return the guarantee of the last report that has one, and of which model it is, what would break it."""
    for report, name in zip(reversed(sides.reports), reversed(sides.names), strict=True):
        if bound := bound_of(report, person=person):
            if sides.alone:
                return bound, [both("chart.bound_about"), both("chart.bound_broken")]
            named = replace(bound, name=both("chart.bound_of", name=name, bound=bound.name))
            return named, [both(f"chart.bound_{part}_of", name=name) for part in ("about", "broken")]
    return None, []


def _attack(m: Measurement) -> Both:
    title = words.title(m.method)
    plain = m.quantity in ("auc", "person_auc")
    return title if plain else joined([title, words.quantity_title(m.method, m.quantity)])


def _roc_series(m: Measurement, report: Report, name: Both, style: str) -> Series:
    curve = _curve(m)
    x, (y, low, high) = chords(curve.x, (curve.y, curve.low, curve.high))
    return Series(name=name, style=style, x=x, y=y, low=low, high=high, dots=_thresholds(m, report))


def _thresholds(m: Measurement, report: Report) -> tuple[Dot, ...]:
    """Return what was measured at thresholds fixed on other data: the rate there, and who was recognised."""
    beside = {o.quantity: o for o in report.measurements if o.method == m.method}
    who = "person_" if _person(m) else ""
    dots = []
    for rate in ("1pct", "0.1pct"):
        shares = limits(beside.get(f"{who}tpr_at_{rate}_fpr"))
        place = limits(beside.get(f"{who}fpr_at_{rate}"))[0]
        if m.quantity == f"{who}auc" and place and None not in shares:
            dots.append((place, *shares))
    return tuple(dots)


def chords(x: Numbers, sides: Sequence[Numbers]) -> tuple[Numbers, list[Numbers]]:
    """Fill wide gaps of a ROC: by chance an attacker reaches the straight line between two points, not more.

    On axes of powers of ten that line is bent, and a straight one would be drawn above it.

    >>> chords((0.01, 1.0), [(0.0, 1.0)])[1][0][1] < 0.01
    True
    """
    places: list[float | None] = []
    filled: list[list[float | None]] = [[] for _ in sides]
    for i, (left, right) in enumerate(zip(x, [*x, None][1:], strict=True)):
        shares = [0.0]
        if left is not None and right is not None and 0 < left < right:
            parts = min(60, int(math.log10(right / left) / 0.03))  # two pixels each, on three decades
            shares += [((right / left) ** (k / parts) - 1) * left / (right - left) for k in range(1, parts)]
        for share in shares:
            places.append(
                left if share == 0 or left is None or right is None else left + share * (right - left)
            )
            for side, out in zip(sides, filled, strict=True):
                ends = (side[i], side[i + 1] if share else side[i]) if side else (None, None)
                gap = ends[0] is None or ends[1] is None
                out.append(None if gap else ends[0] + share * (ends[1] - ends[0]))  # type: ignore[operator]
    return tuple(places), [tuple(out) if side else () for side, out in zip(sides, filled, strict=True)]


def _near(x: Numbers, rate: float) -> int | None:
    """Return the last place whose rate is at most ``rate``."""
    fits = [i for i, value in enumerate(x) if value is not None and 0 < value <= rate * (1 + 1e-9)]
    return fits[-1] if fits else None


def _told(series: Series) -> Both:
    """Say what the curve shows at 1 % false alarms, or at the fewest it knows."""
    known = [
        i for i, value in enumerate(series.x) if value is not None and value > 0 and series.y[i] is not None
    ]
    i = next((i for i in (_near(series.x, 0.01), *known) if i is not None and series.y[i] is not None), None)
    if i is None:
        return as_is("")
    tpr, fpr = (f"{100 * (value or 0.0):.3g} %" for value in (series.y[i], series.x[i]))
    return both("chart.roc_at", name=series.name, tpr=tpr, fpr=fpr)


def _roc_numbers(series: Sequence[Series], bound: Bound | None, low: float) -> Grid:
    rows = []
    for rate in _RATES:
        cells = [as_is(reading(one, _near(one.x, rate))) for one in series]
        if bound:  # the most at the next rate that is stated: a bound may not shrink
            above = next((y for x, y in zip(bound.x, bound.y, strict=True) if x >= rate * (1 - 1e-9)), 1.0)
            cells.append(as_is(words.number(rounded_up(above))))
        if rate >= low:
            rows.append((as_is(f"{100 * rate:.6g} %"), *cells))
    head = (both("page.roc_x"), *(one.name for one in series))
    return (*head, bound.name) if bound else head, tuple(rows)


def reading(series: Series, i: int | None) -> str:
    """Write the value of a series at its place ``i`` with its limits; a dash where it has none."""
    if i is None:
        return "–"
    low, high = (side[i] if side else None for side in (series.low, series.high))
    return words.interval(series.y[i], low, high)
