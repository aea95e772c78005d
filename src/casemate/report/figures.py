# SPDX-License-Identifier: Apache-2.0
"""Which details of reports are drawn, and as what: one report, or the same numbers of several beside each other.

Charts are made of typed details alone (Curve, Table) and of measured numbers; nothing is computed here but what is
read off them. A report stands as one column of a row of reports: the charts of one audit and those of a comparison
come from the same lines. The guarantee of a target stands in ``target.claims`` of its report.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import Any

from casemate.core.types import Curve, Measurement, Table
from casemate.report import cases, images, words
from casemate.report.cases import CASES
from casemate.report.catalogue import Both, as_is, both, joined
from casemate.report.charts import NOTHING, STYLES, Axis, Chart, Grid, Lines, Series, around, three
from casemate.report.images import PICTURES
from casemate.report.pictures import agreement, matrix, ranks
from casemate.report.roc import reading, rocs
from casemate.report.rulers import Span, bars, intervals
from casemate.report.sides import Sides, curve_of, limits, sentences, some_of, table_of

RADIUS, QUERIES, ROWS_ONLY = "accuracy against radius", "fidelity by queries", "fidelity by rows, data only"
CALIBRATION = "calibration"
# curves and tables with a chart, and their numbers beneath it
DRAWN = frozenset({"roc", RADIUS, QUERIES, ROWS_ONLY, CALIBRATION, PICTURES, CASES})
GROUPS, IMPORTANCE, STRONGEST = "by group", "importance", "strongest column"
_SPANS, _BARS, _RANKS, PANELS = 14, 10, 8, 4  # the most of each that one section draws
_FIELDS = 5  # columns of the picture of all groups
_GROUPED = 10  # points of a reliability diagram
_FEW = 8  # points of a curve that are drawn one by one


def drawn(sides: Sides) -> list[Chart]:
    """Return the charts of one property: headline figures, curves, importances, groups."""
    panels = islice(chain(rocs(sides), _radius(sides), _fidelity(sides), _calibration(sides)), 2 * PANELS)
    ordered = lists(sides) if sides.alone else islice(_ranked(sides), PANELS)
    return [*_headlines(sides), *panels, *ordered, *_examples(sides), *islice(groups(sides), PANELS)]


def lists(sides: Sides) -> list[Chart]:
    """Return the charts of one report that are not drawn before and after: what counts for this model."""
    return [*islice(chain(_importances(sides), _strongest(sides)), PANELS)]


def _answer(row: Sequence[Measurement | None]) -> bool:
    """Tell whether a figure is drawn: an answer, or the leakage of the recipe beside that of this model."""
    m = some_of(row)
    return words.headline(m) or m.quantity.startswith("recipe_")


def told_once(charts: Sequence[Chart]) -> list[Both]:
    """Return what stands under each chart: what it says, and how to read it where that was not said before."""
    told: list[Both] = []
    seen: list[Both] = []
    for chart in charts:
        told.append(sentences([chart.says] if chart.guide in seen else [chart.says, chart.guide]))
        seen.append(chart.guide)
    return told


# ---------------------------------------------------------------------- figures with intervals


def _headlines(sides: Sides) -> Iterator[Chart]:
    """Draw the answers whose values are shares or lie where shares do; controls stand in the table alone."""
    shares = [row for row in sides.rows.values() if _on_ruler(row)]
    rows = [_span(sides, row) for row in islice(filter(_answer, shares), _SPANS)]
    if len(rows) < 2:
        return
    lost = [row for row in sides.rows.values() if all(limits(m)[0] is None for m in row)]
    missing = sum(map(_answer, lost[:_SPANS]))
    flat = [value for row in rows for _, *three in row.values for value in three]
    least = min(value for value in flat if value is not None)
    guide = [both("chart.figures_about", level=sides.level)]
    guide += [both("chart.null_about")] if any(row.null is not None for row in rows) else []
    yield intervals(
        both("chart.figures", property=both(f"property.{sides.name}")),
        sentences(guide),
        rows,
        ends=(next(low for low in (0.0, -0.1, -0.25, -0.5, -1.0) if low <= least), 1.0),
        names=tuple(zip(sides.styles, sides.names, strict=True)),
        says=both("chart.not_drawn", n=str(missing)) if missing else NOTHING,
    )


def _on_ruler(row: Sequence[Measurement | None]) -> bool:
    """Tell whether something was measured that has the unit and the range of shares."""
    numbers = [value for m in row for value in limits(m) if value is not None]
    return bool(numbers) and all(-1 <= v <= 1 for v in numbers) and some_of(row).unit in ("", "share")


def _span(sides: Sides, row: Sequence[Measurement | None]) -> Span:
    some = some_of(row)
    return Span(
        label=words.quantity_title(some.method, some.quantity),
        values=tuple((style, *limits(m)) for style, m in zip(sides.styles, row, strict=True)),
        null=words.null_of(some),
        group=words.title(some.method),
        wrap=words.quantity_of(some) is not None,  # a text of ours, no name from a file
    )


# ---------------------------------------------------------------------- curves


def _radius(sides: Sides) -> Iterator[Chart]:
    for row in sides.rows.values():
        found = [(i, m, curve) for i, m in enumerate(row) if m and (curve := curve_of(m, RADIUS))]
        if found:
            some = found[0][1]
            threat = some.threat
            how = "edits" if threat and threat.norm == "l0" else (threat and threat.scale) or "raw"
            norm = {"linf": "L∞", "l2": "L2", "l1": "L1"}.get((threat and threat.norm) or "", "")
            series = [_series(curve, sides.names[i], sides.styles[i]) for i, _, curve in found]
            yield _plain(
                series,
                title=both("chart.radius", method=words.title(some.method)),
                guide=both("chart.radius_about", level=sides.level),
                x_title=both(f"chart.radius_{how}", norm=norm),
                y_title=both("chart.accuracy"),
            )


def _fidelity(sides: Sides) -> Iterator[Chart]:
    for row in sides.rows.values():
        taught = [(i, curve) for i, m in enumerate(row) if (curve := curve_of(m, QUERIES))]
        alone = [(i, curve) for i, m in enumerate(row) if (curve := curve_of(m, ROWS_ONLY))]
        if not taught and not alone:
            continue
        answers, labels = both("chart.with_answers"), both("chart.labels_only")
        if sides.alone:
            series = [_series(curve, answers, STYLES[1]) for _, curve in taught]
            series += [_series(curve, labels, STYLES[0]) for _, curve in alone]
        else:
            series = [_series(c, joined([sides.names[i], answers]), sides.styles[i]) for i, c in taught]
            series += [
                _series(c, joined([sides.names[i], labels]), STYLES[-1])
                for i, c in alone[-1:]
                if len(taught) < len(STYLES)
            ]
        title = both("chart.fidelity", method=words.title(some_of(row).method))
        yield _plain(
            series,
            title=title,
            guide=both("chart.fidelity_about", level=sides.level),
            x_title=both("chart.fidelity_x"),
            y_title=both("chart.fidelity_y"),
            log=True,
        )


def _calibration(sides: Sides) -> Iterator[Chart]:
    """Draw what came true against what was stated, with the line on which both are the same."""
    for row in sides.rows.values():
        found = [(i, m, curve) for i, m in enumerate(row) if m and (curve := curve_of(m, CALIBRATION))]
        if not found:
            continue
        names = [both("chart.calibration_y")] if sides.alone else sides.names
        series = [_series(curve, names[i], sides.styles[i], most=_GROUPED) for i, _, curve in found]
        shares: dict[str, Any] = {"low": 0.0, "high": 1.0, "percent": True}
        own = words.title(found[0][1].method) if sides.alone else None
        yield Lines(
            title=both("chart.calibration"),
            guide=both("chart.calibration_about", level=sides.level),
            says=sentences(
                [
                    both("chart.calibration_says", name=own or sides.names[i], value=words.of(m))
                    for i, m, _ in found
                ]
            ),
            series=series,
            x=Axis(title=_stated(sides), **shares),
            y=Axis(title=both("chart.calibration_y"), **shares),
            guess=both("chart.calibrated"),
            numbers=_by_group_of(series),
        ).chart()


def _stated(sides: Sides) -> Both:
    """Say of what the probability is stated: of the second of two classes, or of the answer among several."""
    target = sides.reports[0].target
    classes = target.get("classes", ())
    if target.get("task") != "binary":
        return both("chart.calibration_x_any")
    if len(classes) != 2:  # a public edition names none
        return both("chart.calibration_x_two")
    return both("chart.calibration_x", name=words.visible(str(classes[1]), 40))


def _by_group_of(series: Sequence[Series]) -> Grid:
    """Write each group of each side: their means differ, so no row of numbers has one place on the axis."""
    rows = []
    for k in range(min(_GROUPED, max(len(one.x) for one in series))):
        cells = [
            both("chart.calibration_at", x=words.number(three(one.x[k])), y=reading(one, k))
            if k < len(one.x)
            else as_is("–")
            for one in series
        ]
        rows.append((as_is(str(k + 1)), *cells))
    return (both("chart.calibration_group"), *(one.name for one in series)), tuple(rows)


def _series(curve: Curve, name: Both, style: str, *, most: int = _FEW) -> Series:
    """Take a curve as it is; where its points are few each is shown, so that nobody takes the line for more."""
    few = len(curve.x) <= most and curve.low and curve.high
    dots = tuple(zip(curve.x, curve.y, curve.low, curve.high, strict=True)) if few else ()
    return Series(name=name, style=style, x=curve.x, y=curve.y, low=curve.low, high=curve.high, dots=dots)


def _plain(
    series: Sequence[Series], *, title: Both, guide: Both, x_title: Both, y_title: Both, log: bool = False
) -> Chart:
    """Draw curves of shares; on an axis of powers of ten it begins at the smallest value and not at a power."""
    places = [x for one in series for x in one.x if x is not None and math.isfinite(x) and (x > 0 or not log)]
    low, high = (min(places, default=1.0), max(places, default=10.0)) if log else around(places)
    heights = [y for one in series for side in (one.y, one.low, one.high) for y in side]
    ends = around(heights)
    ends = (0.0, 1.0) if ends[0] >= 0 and ends[1] <= 1 else ends
    return Lines(
        title=title,
        guide=guide,
        series=series,
        x=Axis(title=x_title, low=low, high=high if high > low else 2 * low or 1.0, log=log),
        y=Axis(title=y_title, low=ends[0], high=ends[1]),
        numbers=_numbers(series, x_title),
    ).chart()


def _numbers(series: Sequence[Series], x_title: Both) -> Grid:
    places = sorted({x for one in series for x in one.x if x is not None})
    some = [places[round(i * (len(places) - 1) / 10)] for i in range(11)] if len(places) > 11 else places
    rows = []
    for place in some:
        at = [next((i for i, x in enumerate(one.x) if x == place), None) for one in series]
        cells = (as_is(reading(one, i)) for one, i in zip(series, at, strict=True))
        rows.append((as_is(words.number(place)), *cells))
    return (x_title, *(one.name for one in series)), tuple(rows)


# ---------------------------------------------------------------------- single records


def _examples(sides: Sides) -> Iterator[Chart]:
    """Draw single records, where a report holds such: pictures of the first and the last report, cases of the last."""
    for i in sorted({0, len(sides.reports) - 1}):
        found = [(m, t) for row in sides.rows.values() if (m := row[i]) and (t := table_of(m, PICTURES, 8))]
        drawn = (images.chart(table, m.method) for m, table in found)
        yield from (_of(sides, i, chart) for chart in islice(filter(None, drawn), 1))
    last = len(sides.reports) - 1
    named = sides.reports[last].target.get("task") != "regression"
    tables = [t for row in sides.rows.values() if (t := table_of(row[last], CASES, 6))]
    for table in tables[:1]:
        yield from (_of(sides, last, chart) for chart in cases.charts(table, sides.level, named=named))


def _of(sides: Sides, i: int, chart: Chart) -> Chart:
    """Name the report that a chart is of, where there are several."""
    if sides.alone:
        return chart
    return replace(chart, title=both("chart.of", name=sides.names[i], title=chart.title))


# ---------------------------------------------------------------------- what counts, and for whom


def _importances(sides: Sides) -> Iterator[Chart]:
    for (m,) in sides.rows.values():
        table = table_of(m, IMPORTANCE, 4)
        if m is not None and table:
            rows = _spans(table, 1)
            shown = rows[:_BARS]
            counts = {"k": str(len(shown)), "n": str(len(rows))}
            yield bars(
                both("chart.importance", method=words.title(m.method)),
                sentences([both("chart.importance_about", **counts), both("page.importance_note")]),
                shown,
                ends=_ends_of(shown),
                zero_open=True,
            )


def _strongest(sides: Sides) -> Iterator[Chart]:
    for (m,) in sides.rows.values():
        table = table_of(m, STRONGEST, 2)
        if m is not None and table and len(table.rows) > 1:
            rows = [
                Span(label=as_is(str(row[0])), values=((STYLES[1], _number(row[1]), None, None),))
                for row in table.rows[:_BARS]
            ]
            title = both("chart.strongest", method=words.title(m.method))
            yield bars(title, both("chart.strongest_about"), rows, ends=_ends_of(rows))


def groups(sides: Sides) -> Iterator[Chart]:
    """Draw a quantity by group: bars of one report, or the groups before and after; what has no number is left out."""
    if sides.alone:
        yield from _all_groups(sides)
    found = [(row, [_by_group(m) for m in row]) for row in sides.rows.values()]
    found = [pair for pair in found if any(pair[1])]
    for row, tables in sorted(found, key=lambda pair: not words.headline(some_of(pair[0]))):  # answers first
        some = some_of(row)
        labels = dict.fromkeys(str(line[0]) for table in tables if table for line in table.rows)
        rows, empty = [], 0
        for label in labels:
            lines = [next((r for r in t.rows if str(r[0]) == label), None) if t else None for t in tables]
            n = next((line[1] for line in lines if line), None)
            values = tuple(
                (style, *(_number(v) for v in line[2:5])) if line else (style, None, None, None)
                for style, line in zip(sides.styles, lines, strict=True)
            )
            if all(value is None for _, value, *_ in values):
                empty += 1
                continue
            named = both("chart.group_n", group=label, n=words.number(_number(n), 0))
            rows.append(Span(label=named, values=values))  # type: ignore[arg-type]  # four each
        quantity = words.quantity_title(some.method, some.quantity)
        title = both("chart.groups", method=words.title(some.method), quantity=quantity)
        about = both("chart.groups_about", level=sides.level)
        says = both("chart.groups_empty", n=str(empty)) if empty else NOTHING
        rows = rows[:_SPANS]
        if not rows:
            continue
        if sides.alone:
            about = sentences([about, both("chart.mark_about")])
            yield replace(bars(title, about, rows, ends=_ends_of(rows), mark=limits(some)[0]), says=says)
        else:
            names = tuple(zip(sides.styles, sides.names, strict=True))
            yield intervals(title, about, rows, ends=_ends_of(rows), names=names, says=says)


def _by_group(m: Measurement | None) -> Table | None:
    return None if m is None else table_of(m, f"{m.quantity} {GROUPS}", 5)


def _all_groups(sides: Sides) -> Iterator[Chart]:
    """Draw all figures by group in one picture: a row a group, a column a figure."""
    found = [(m, t) for (m,) in sides.rows.values() if m and (t := _by_group(m))]
    if len(found) < 3:
        return
    found = sorted(found, key=lambda pair: not words.headline(pair[0]))[:_FIELDS]
    heads = [joined([words.quantity_title(m.method, m.quantity), words.title(m.method)]) for m, _ in found]
    columns = [{str(row[0]): _number(row[2]) for row in table.rows} for _, table in found]
    known = (label for column in columns for label, value in column.items() if value is not None)
    labels = list(dict.fromkeys(known))[:_SPANS]
    rows = [(as_is(label), [column.get(label) for column in columns]) for label in labels]
    if rows:
        yield matrix(both("chart.matrix"), both("chart.matrix_about"), heads, rows)


def _spans(table: Table, start: int) -> list[Span]:
    """Return a row a line: a name, then value, low and high from column ``start``."""
    return [
        Span(
            label=as_is(str(row[0])),
            values=((STYLES[1], *(_number(v) for v in row[start : start + 3])),),  # type: ignore[arg-type]
        )
        for row in table.rows
    ]


def _ends_of(rows: Sequence[Span]) -> tuple[float, float]:
    """Return where a ruler begins and ends: at zero or the least, and at a round number."""
    found = [value for row in rows for _, *numbers in row.values for value in numbers if value is not None]
    return min(0.0, *found, 0.0), max(0.0, around(found)[1])


def _number(value: Any) -> float | None:
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if numeric and math.isfinite(value) else None


def _ranked(sides: Sides) -> Iterator[Chart]:
    """Draw which columns count most, before and after (the first report and the last)."""
    for row in sides.rows.values():
        tables = [table_of(m, IMPORTANCE, 4) for m in (row[0], row[-1])]
        lists = [_strengths(table) for table in tables]
        k = min(_RANKS, *(len(one) for one in lists))
        if k < 2:
            continue
        before, after = ({name: value for name, (value, _) in one.items()} for one in lists)
        found = agreement(before, after, k)
        told = {key: str(getattr(found, key)) for key in ("shared", "k", "n")}
        tops = [[(name, sure) for name, (_, sure) in list(one.items())[:k]] for one in lists]
        yield ranks(
            both("chart.ranks", method=words.title(some_of(row).method)),
            both("chart.ranks_about"),
            tops,
            (sides.names[0], sides.names[-1]),
            both("chart.lower"),
            both("chart.ranks_say", rho=words.number(found.spearman, 2), **told),
        )


def _strengths(table: Table | None) -> dict[str, tuple[float, bool]]:
    """Return importance by name from the largest, and whether its lower limit lies above zero."""
    out = {}
    for row in table.rows if table else ():
        value, low = _number(row[1]), _number(row[2])
        if value is not None:
            out[str(row[0])] = (value, low is not None and low > 0)
    return dict(sorted(out.items(), key=lambda item: -item[1][0]))
