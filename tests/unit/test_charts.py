# SPDX-License-Identifier: Apache-2.0
"""Charts: where a number is drawn, what is left out, what becomes of hostile text, and what a guarantee rules out."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from drawings import across, labels, of_class, parsed, path, report, row

from casemate.core.types import Curve, Table
from casemate.report import catalogue, charts, claims, figures, pictures, render, roc, rulers
from casemate.report.catalogue import as_is, both
from casemate.report.charts import Axis, Chart, Lines, Scale, Series
from casemate.report.compare import compare
from casemate.report.model import Report
from casemate.report.sides import Sides

HOSTILE = "<script>alert(1)</script>\u202e\u200b\x1b[31m\"'&]]>{x}"


def lines(*series: Series, **more: Any) -> Chart:
    shares: dict[str, Any] = {"low": 0.001, "high": 1.0, "log": True, "percent": True}
    axis = Axis(title=as_is("rate"), **shares)
    return Lines(title=as_is("t"), guide=as_is("g"), series=series, x=axis, y=axis, **more).chart()


def series(x: Any, y: Any, low: Any = (), high: Any = (), style: str = "s1") -> Series:
    return Series(name=as_is(style), style=style, x=tuple(x), y=tuple(y), low=tuple(low), high=tuple(high))


# ---------------------------------------------------------------------- scales


@pytest.mark.parametrize("log", [False, True])
def test_a_scale_keeps_order_hits_its_ends_and_holds_what_is_beyond(log: bool) -> None:
    scale = Scale(low=0.001, high=2.0, start=300.0, end=10.0, log=log)
    values = np.sort(np.random.default_rng(0).uniform(0.001, 2.0, 500))
    spots = [scale.at(value) for value in values]
    assert all(a is not None and b is not None and a > b for a, b in pairwise(spots))
    assert scale.at(0.001) == pytest.approx(300.0)
    assert scale.at(2.0) == pytest.approx(10.0)
    assert scale.at(5.0) == pytest.approx(10.0)
    assert scale.at(0.0005) == pytest.approx(300.0)
    assert [scale.at(value) for value in (None, math.nan, math.inf, -math.inf)] == [None] * 4
    assert scale.at(0.0) == (None if log else 300.0)
    assert scale.at(-1.0) == (None if log else 300.0)


def test_ticks_are_round_few_and_inside() -> None:
    def ticks(low: float, high: float, *, log: bool = False) -> list[float]:
        return [round(t, 9) for t in Scale(low=low, high=high, start=0, end=1, log=log).ticks()]

    assert ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(-0.1, 1.0) == [0.0, 0.5, 1.0]
    assert ticks(0.0, 0.6) == [0.0, 0.2, 0.4, 0.6]
    assert ticks(0.0001, 1.0, log=True) == [0.0001, 0.001, 0.01, 0.1, 1.0]
    assert ticks(16.0, 500.0, log=True) == [16.0, 100.0, 500.0]
    draw = random.Random(0)
    for _ in range(300):
        low = draw.uniform(-5, 5) * 10 ** draw.randint(-6, 6)
        high = low + draw.uniform(0.1, 9) * 10 ** draw.randint(-6, 6)
        found = ticks(low, high)
        assert 1 <= len(found) <= 6 or high - low < 1e-7
        assert all(low - 1e-6 * (high - low) - 1e-9 <= t <= high + 1e-6 * (high - low) + 1e-9 for t in found)
        ends = charts.around([low, high])
        assert ends[0] <= min(low, 0) + 1e-6 * (high - low)
        assert ends[1] >= max(high, 0) - 1e-6 * (high - low)


def test_no_number_at_all_still_has_ends() -> None:
    assert charts.around([None, math.nan]) == (0.0, 1.0)
    assert charts.around([0.0, 0.0]) == (0.0, 1.0)
    assert charts.around([-3.0], zero=False) == (-3.0, 0.0)


# ---------------------------------------------------------------------- marks


def test_a_point_stands_where_the_labels_of_the_axes_say() -> None:
    root = parsed(lines(series((0.001, 0.01, 1.0), (0.01, 0.1, 1.0))))
    ((first, middle, last),) = (path(e) for e in of_class(root, "line"))
    assert middle[0] == pytest.approx(across(root, "1 %"), abs=0.06)
    assert first[0] == pytest.approx(across(root, "0.1 %"), abs=0.06)
    assert last[0] == pytest.approx(across(root, "100 %"), abs=0.06)
    heights = {shown: min(labels(root, shown))[1] - 3.5 for shown in ("1 %", "10 %", "100 %")}
    assert first[1] == pytest.approx(heights["1 %"], abs=0.11)
    assert middle[1] == pytest.approx(heights["10 %"], abs=0.11)
    assert last[1] == pytest.approx(heights["100 %"], abs=0.11)


def test_on_an_axis_of_powers_nothing_is_drawn_at_the_foot_and_a_rate_of_none_nowhere() -> None:
    root = parsed(lines(series((0.0, 0.01, 0.1), (0.5, 0.0, 0.5))))
    ((first, second),) = (path(e) for e in of_class(root, "line"))
    assert first == pytest.approx((across(root, "1 %"), labels(root, "≤ 0.1 %")[0][1] - 3.5), abs=0.11)
    assert second[0] == pytest.approx(across(root, "10 %"), abs=0.06)


def test_a_missing_number_leaves_a_gap_and_a_point_alone_is_a_dot() -> None:
    x = (0.001, 0.01, 0.1, 0.2, 1.0)
    root = parsed(lines(series(x, (0.1, 0.2, None, 0.3, 0.4))))
    assert [len(path(e)) for e in of_class(root, "line")] == [2, 2]
    root = parsed(lines(series(x, (0.1, math.nan, 0.3, None, 0.4))))
    assert of_class(root, "line") == []
    assert len(of_class(root, "fill")) == 3
    for nothing in (series((), ()), series(x, (None,) * 5), series((None,) * 5, x)):
        assert of_class(parsed(lines(nothing)), "line") == []
    alone = parsed(lines(series((0.01,), (0.1,), (0.05,), (0.2,))))
    (dot,) = of_class(alone, "fill")
    assert float(dot.attrib["cx"]) == pytest.approx(across(alone, "1 %"), abs=0.06)


def test_a_band_lies_between_its_limits() -> None:
    x, low, high = (0.01, 0.1), (0.01, 0.1), (0.1, 1.0)
    root = parsed(lines(series(x, (0.05, 0.5), low, high)))
    (band,) = of_class(root, "band")
    corners = path(band)
    left, right = across(root, "1 %"), across(root, "10 %")
    ends = [min(labels(root, shown))[1] - 3.5 for shown in ("10 %", "100 %", "10 %", "1 %")]
    wanted = list(zip((left, right, right, left), ends, strict=True))
    for corner, goal in zip(corners, wanted, strict=True):
        assert corner == pytest.approx(goal, abs=0.11)
    broken = parsed(lines(series((0.01, 0.1, 0.2), x + (0.5,), (0.01, None, 0.1), (0.1, 1.0, 1.0))))
    assert len(of_class(broken, "band")[0].attrib["d"].split("M")) == 3  # two pieces


def far(points: np.ndarray, chain: np.ndarray) -> float:
    """The largest distance of points (n, 2) from a chain of lines (k, 2)."""
    start, way = chain[:-1, None], (chain[1:] - chain[:-1])[:, None]  # (k - 1, 1, 2)
    share = ((points - start) * way).sum(2) / np.maximum((way**2).sum(2), 1e-12)
    gap = points - (start + np.clip(share, 0, 1)[..., None] * way)
    return float(np.hypot(gap[..., 0], gap[..., 1]).min(0).max())


@pytest.mark.parametrize("kind", ["smooth", "steps"])
def test_ten_thousand_points_are_thinned_by_less_than_half_a_pixel(kind: str) -> None:
    n = 10_000
    draw = np.random.default_rng(1)
    x = np.geomspace(0.001, 1.0, n)
    y = np.sort(draw.uniform(0.001, 1, n)) if kind == "steps" else x**0.5
    root = parsed(lines(series(x, y)))
    drawn = np.array(path(of_class(root, "line")[0]))
    left, right = across(root, "0.1 %"), across(root, "100 %")
    foot, top = labels(root, "≤ 0.1 %")[0][1] - 3.5, min(labels(root, "100 %"))[1] - 3.5
    whole = np.stack(
        [left + (right - left) * (np.log10(x) + 3) / 3, foot + (top - foot) * (np.log10(y) + 3) / 3], 1
    )
    assert far(whole, drawn) <= 0.56  # half a pixel, and a tenth that the labels are rounded to
    assert far(drawn, whole) <= 0.56
    assert len(drawn) < (60 if kind == "smooth" else charts.MOST + 1)


def test_a_line_that_goes_to_and_fro_is_cut_to_the_points_that_matter_most() -> None:
    n = 4000
    y = np.where(np.arange(n) % 2, 0.9, 0.5)
    y[2000] = 0.001
    root = parsed(lines(series(np.linspace(0.001, 1.0, n), y)))
    drawn = path(of_class(root, "line")[0])
    assert charts.MOST / 2 < len(drawn) <= 2 * charts.MOST
    assert max(height for _, height in drawn) == pytest.approx(labels(root, "≤ 0.1 %")[0][1] - 3.5, abs=0.1)


def test_a_text_is_cut_to_its_room_in_every_language_and_pairs_stand_at_one_place() -> None:
    root = ET.fromstring("<g>" + charts.text(3, 4, both("chart.lower"), kind="name") + "</g>")
    places = {(e.attrib["lang"], e.attrib["x"], e.attrib["y"]) for e in root.iter("text")}
    assert places == {("en", "3", "4"), ("zh-CN", "3", "4")}
    long = "成员推断" * 30
    cut = charts.shortened(long, 100.0)
    assert cut.endswith("…") and len(cut) <= 9 and charts.wide(cut) <= 100 + charts.SIZE
    assert charts.shortened("short", 100.0) == "short"


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "0"), (-0.04, "0"), (10.0, "10"), (-3.26, "-3.3"), (100.04, "100")]
)
def test_pixels_are_written_short(value: float, shown: str) -> None:
    assert charts.px(value) == shown


# ---------------------------------------------------------------------- kinds


def span(label: str, *values: Any, **more: Any) -> rulers.Span:
    return rulers.Span(label=as_is(label), values=values, **more)


def test_dots_stand_on_their_ruler_before_above_after() -> None:
    rows = [span("a", ("s0", 0.2, 0.0, 0.4), ("s1", 0.8, 0.6, 1.0), null=0.6)]
    names = (("s0", as_is("Before")), ("s1", as_is("After")))
    root = parsed(rulers.intervals(as_is("t"), as_is("g"), rows, ends=(0.0, 1.0), names=names))
    dots = [(e, float(e.attrib["cx"]), float(e.attrib["cy"])) for e in root.iter("circle")][-2:]
    assert [x for _, x, _ in dots] == pytest.approx([across(root, "0.2"), across(root, "0.8")], abs=0.11)
    assert dots[0][2] < dots[1][2]
    assert ["hollow" in e.attrib["class"] for e, _, _ in dots] == [True, False]
    lows = [path(e)[0][0] for e in of_class(root, "whisker")]
    assert lows == pytest.approx([across(root, "0"), across(root, "0.6")], abs=0.11)
    assert path(of_class(root, "null")[0])[0][0] == pytest.approx(across(root, "0.6"), abs=0.11)
    assert labels(root, "0.2 → 0.8")


def test_of_several_reports_the_rows_grow_and_the_first_and_the_last_value_are_written() -> None:
    values = [(style, 0.1 * k, 0.0, 0.9) for k, style in enumerate(charts.STYLES)]
    rows = [span("a", *values), span("b", *values)]
    root = parsed(rulers.intervals(as_is("t"), as_is("g"), rows, ends=(0.0, 1.0)))
    assert len(labels(root, "0 → … → 0.3")) == 2
    lows = [path(e)[0][1] for e in of_class(root, "whisker")]
    assert lows == sorted(lows) and len(set(lows)) == 8
    assert lows[3] < labels(root, "b")[0][1] - charts.SIZE  # the next label is clear of them


def test_bars_grow_from_zero_and_are_hollow_where_zero_lies_inside() -> None:
    rows = [
        span("a", ("s1", 0.2, 0.1, 0.3)),
        span("b", ("s1", 0.1, -0.1, 0.2)),
        span("c", ("s1", -0.1, -0.2, -0.05)),
    ]
    rows.append(span("d", ("s1", None, None, None)))
    root = parsed(rulers.bars(as_is("t"), as_is("g"), rows, ends=(-0.2, 0.4), zero_open=True))
    drawn = [
        (float(e.attrib["x"]), float(e.attrib["width"]), e.attrib["class"]) for e in of_class(root, "bar")
    ]
    zero = across(root, "0")
    assert drawn[0][1] == pytest.approx(2 * drawn[1][1], abs=0.2)
    assert drawn[0][0] == drawn[1][0] == pytest.approx(zero, abs=0.1)
    assert drawn[2][0] + drawn[2][1] == pytest.approx(zero, abs=0.2)  # to the left of zero
    assert [kind for _, _, kind in drawn] == ["bar", "bar open", "bar"]
    assert labels(root, "–")
    plain = parsed(rulers.bars(as_is("t"), as_is("g"), rows, ends=(-0.2, 0.4), mark=0.2))
    assert {e.attrib["class"] for e in of_class(plain, "bar")} == {"bar"}
    strokes = [path(e)[0][0] for e in of_class(plain, "null")]
    assert strokes == pytest.approx([across(plain, "0.2")] * 3, abs=0.1)  # none beside what is missing


def test_ranks_join_a_name_with_itself_and_send_the_others_below() -> None:
    sides = ([("a", True), ("b", True)], [("b", True), ("c", False)])
    texts = (as_is("Before"), as_is("After")), as_is("lower"), as_is("says")
    root = parsed(pictures.ranks(as_is("t"), as_is("g"), sides, *texts))
    place = {shown: labels(root, shown) for shown in "abc"}
    (kept,) = [e for e in of_class(root, "slope") if "gone" not in e.attrib["class"]]
    (left, right) = path(kept)
    assert left[1] == pytest.approx(min(place["b"])[1] - 4, abs=0.1)  # second before, first after
    assert right[1] == pytest.approx(max(place["b"])[1] - 4, abs=0.1)
    assert left[1] > right[1]
    assert len(of_class(root, "gone")) == 2
    assert labels(root, "lower")
    assert len([e for e in root.iter("circle") if "hollow" in e.attrib["class"]]) == 1


def test_the_largest_of_a_column_has_the_darkest_field() -> None:
    rows = [(as_is("g"), (0.1, 2.0)), (as_is("h"), (0.4, 1.0)), (as_is("i"), (None, 0.0))]
    root = parsed(pictures.matrix(as_is("t"), as_is("g"), [as_is("p"), as_is("q")], rows))
    level = [e.attrib["class"].split()[1] for e in of_class(root, "cell")]
    assert level == ["c2", "c9", "c9", "c4", "c0", "c0"]
    assert labels(root, "–")


def test_ranks_agree_as_scipy_says_ties_included() -> None:
    from scipy.stats import spearmanr

    draw = random.Random(3)
    for _ in range(20):
        names = [f"c{k}" for k in range(draw.randint(3, 12))]
        before, after = ({name: draw.randint(0, 5) / 10 for name in names} for _ in range(2))
        if min(len(set(side.values())) for side in (before, after)) < 2:
            continue
        found = pictures.agreement(before, after, 3)
        wanted = spearmanr([before[n] for n in names], [after[n] for n in names]).statistic
        assert found.spearman == pytest.approx(wanted, abs=1e-9)
    assert pictures.agreement({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 2.0}, 1).spearman is None
    assert pictures.agreement({"a": 1.0}, {"b": 2.0}, 1) == pictures.Agreement(
        spearman=None, shared=0, k=1, n=0
    )


# ---------------------------------------------------------------------- reports


def ranked(*rows: Any) -> Table:
    return Table(name="importance", columns=("column", "importance", "low", "high"), rows=rows)


def grouped(quantity: str, *rows: Any) -> Table:
    columns = ("group", "n", "value", "low", "high")
    return Table(name=f"{quantity} by group", columns=columns, rows=rows)


ROC = Curve(
    name="roc",
    x=(0.001, 0.01, 0.1, 1.0),
    y=(0.05, 0.1, 0.4, 1.0),
    low=(0.0, 0.1, 0.3, 1.0),
    high=(0.1, 0.2, 0.5, 1.0),
)
DOTS = (
    row("tpr_at_1pct_fpr", value=0.12, low=0.1, high=0.15),
    row("fpr_at_1pct", value=0.01, low=0.0, high=0.02),
)
CLAIM = {"unit": "person", "epsilon": 1.0, "delta": 1e-5, "says": "x"}
NAMES = (as_is("Before"), as_is("After"))


def privacy(*reports: Report) -> list[Chart]:
    return figures.drawn(Sides.of("privacy", reports, NAMES[: len(reports)]))


def test_attacks_and_guarantee_stand_on_one_ruler() -> None:
    before, after = report(row("auc", ROC), *DOTS), report(row("auc", ROC), *DOTS, claims=[CLAIM])
    *_, chart = privacy(before, after)
    root = parsed(chart)
    styles = [e.attrib["class"] for e in of_class(root, "line")]
    assert [style for style in styles if style in ("line s0", "line s1")].count(
        "line s0"
    ) == 2  # legend and curve
    (edge,) = of_class(root, "edge")
    (guess,) = [e for e in of_class(root, "guess") if len(path(e)) == 2 and path(e)[0][1] > path(e)[1][1]]
    # at 1 % others, epsilon 1 lets nobody recognise more than e times 1 % (and delta)
    at = across(root, "1 %")
    y = np.interp(at, *np.array(path(edge)).T)
    up = {shown: min(labels(root, shown))[1] - 3.5 for shown in ("1 %", "10 %")}
    allowed = 10 ** (-2 + (up["1 %"] - y) / (up["1 %"] - up["10 %"]))
    assert allowed == pytest.approx(math.e * 0.01 + 1e-5, rel=0.01)
    assert path(guess)[0][0] == pytest.approx(across(root, "0.1 %"), abs=0.1)
    region = of_class(root, "bound")[0]
    assert region.attrib["fill"] == "url(#here-h)"
    assert {e.attrib["id"] for e in root.iter("pattern")} == {"here-h"}
    corner = across(root, "0.1 %"), min(labels(root, "100 %"))[1] - 3.5
    assert any(spot == pytest.approx(corner, abs=0.1) for spot in path(region))  # all above is ruled out
    assert "Hatched: what the guarantee of the model “After” proves impossible" in chart.guide["en"]
    assert "If the curve of “After” lies in it" in chart.guide["en"]
    assert "After: ruled out by ε = 1, δ = 10⁻⁵ per person" in "".join(
        e.text or "" for e in root.iter("text")
    )
    (dot,) = [e for e in root.iter("circle") if "s1" in e.attrib["class"]][-1:]
    assert float(dot.attrib["cx"]) == pytest.approx(at, abs=0.1)
    assert (
        chart.says["en"]
        == "Before: 10 % of members at 1 % of others. After: 10 % of members at 1 % of others."
    )
    head, body = chart.numbers or ((), ())
    assert [cell["en"] for cell in head][:3] == ["false-positive rate", "Before", "After"]
    assert [cell["en"] for cell in body[1]] == [
        "1 %",
        "0.100 [0.100, 0.200]",
        "0.100 [0.100, 0.200]",
        "0.0272",
    ]


def test_the_guide_of_a_roc_speaks_of_what_is_drawn() -> None:
    plain, dotted = report(row("auc", ROC)), report(row("auc", ROC), *DOTS, claims=[CLAIM])
    guides = [next(c for c in privacy(one) if c.numbers).guide["en"] for one in (plain, dotted)]
    assert ["upright lines" in guide for guide in guides] == [False, True]
    assert ["Hatched: what the guarantee proves" in guide for guide in guides] == [False, True]


def test_a_promise_to_people_covers_records_and_not_the_reverse() -> None:
    rows = row("auc", ROC), row("person_auc", ROC)
    hatched = [bool(chart.forbidden) for chart in privacy(report(*rows, claims=[CLAIM])) if chart.numbers]
    assert hatched == [True, True]
    by_record = report(*rows, claims=[CLAIM | {"unit": "record"}])
    found = {chart.title["en"]: bool(chart.forbidden) for chart in privacy(by_record) if chart.numbers}
    assert found == {"Attacks on membership, by record": True, "Attacks on membership, by person": False}
    *_, pair = privacy(by_record, report(*rows))  # the guarantee of the one that has it
    assert bool(pair.forbidden) == pair.title["en"].endswith("by record")
    weak, strict = CLAIM | {"epsilon": 8.0}, CLAIM | {"epsilon": 0.5}
    bound = claims.bound_of(report(claims=[weak, strict]), person=True)
    assert bound is not None and "ε = 0.5" in bound.name["en"]


def test_the_ruler_begins_where_the_smallest_rate_does_and_the_bound_with_it() -> None:
    exact = [[10.0 ** (k / 6 - 4), min(1.0, 10.0 ** (k / 6 - 3.5))] for k in range(25)]
    coarse = replace(ROC, x=(0.01, 0.1, 0.5, 1.0))
    (chart,) = privacy(report(row("auc", coarse), claims=[CLAIM | {"ceiling": exact}]))
    edge = path(of_class(parsed(chart), "edge")[0])
    assert edge[0][0] == pytest.approx(across(parsed(chart), "1 %"), abs=0.1)
    assert edge[1][0] > edge[0][0]  # and no stroke up the side
    # a threshold measured where the curve does not reach: the ruler does
    fixed = (row("tpr_at_1pct_fpr"), row("fpr_at_1pct", value=0.0005, low=0.0, high=0.6))
    *_, wider = privacy(report(row("auc", coarse), *fixed))
    assert labels(parsed(wider), "0.01 %") and not labels(parsed(chart), "0.1 %")


@pytest.mark.parametrize(
    "wrong",
    [
        "no mapping",
        {},
        CLAIM | {"epsilon": None},
        CLAIM | {"epsilon": True},
        CLAIM | {"epsilon": -1.0},
        CLAIM | {"delta": 1.0},
        CLAIM | {"unit": HOSTILE},
    ],
)
def test_what_is_no_claim_rules_out_nothing(wrong: Any) -> None:
    assert claims.bound_of(report(claims=[wrong]), person=False) is None
    assert claims.bound_of(replace(report(), target={"claims": wrong}), person=False) is None


@pytest.mark.parametrize(
    "wrong",
    ["x", [1, 2], [[0.1]], [[0.0, 0.0]] * 30, [[0.5, math.nan]] * 30, [[k / 30, 2.0] for k in range(1, 31)]],
)
def test_a_ceiling_that_is_none_falls_back_to_epsilon(wrong: Any) -> None:
    bound = claims.bound_of(report(claims=[CLAIM | {"ceiling": wrong}]), person=True)
    assert bound is not None
    assert len(bound.x) == 241


def test_epsilon_alone_rules_out_what_theory_says() -> None:
    x, y = (np.array(side) for side in claims.implied(1.0, 1e-3))
    wanted = np.minimum(np.exp(1) * x + 1e-3, 1 - np.exp(-1) * (1 - 1e-3 - x))
    assert np.allclose(y, np.minimum(wanted, 1.0))
    assert claims.implied(5000.0, 0.0)[1][0] == 1.0  # promises nothing, overflows nowhere


@pytest.mark.parametrize("apart", [0.1, 0.5, 1.0, 3.0, 5.0])
def test_lines_between_the_points_of_a_ceiling_are_half_a_pixel_from_the_curve(apart: float) -> None:
    """The exact curve of a Gaussian: Phi(Phi^-1(f) + mu) (Dong, Roth and Su 2022)."""
    from scipy.stats import norm

    rates = 10.0 ** (np.arange(25) / 6 - 4)
    pairs = np.stack([rates, norm.cdf(norm.ppf(rates) + apart)], 1)
    bound = claims.bound_of(report(claims=[CLAIM | {"ceiling": pairs.tolist()}]), person=True)
    assert bound is not None and len(bound.x) == 25
    fine = np.geomspace(1e-4, 1, 4000)
    exact = np.log10(norm.cdf(norm.ppf(fine) + apart))
    drawn = np.interp(np.log10(fine), np.log10(bound.x), np.log10(bound.y))
    decade = charts._PLOT / 4
    assert np.abs(exact - drawn).max() * decade < 0.5


def test_between_two_points_of_a_roc_lies_what_chance_reaches() -> None:
    x, (y,) = roc.chords((0.001, 0.1, None, 1.0), [(0.0, 0.5, 0.7, 1.0)])
    inner = [(a, b) for a, b in zip(x, y, strict=True) if a is not None and 0.001 < a < 0.1]
    assert len(inner) > 20
    assert all(b == pytest.approx(0.5 * (a - 0.001) / 0.099, abs=1e-9) for a, b in inner if b is not None)
    assert list(x).count(None) == 1
    assert roc.chords((), [(), ()]) == ((), [(), ()])


def test_attacks_of_one_report_share_a_ruler_the_strongest_in_front() -> None:
    found = privacy(report(row("auc", ROC), row("auc", ROC, method="loss_attack", value=0.65, low=0.6)))
    chart = next(chart for chart in found if chart.numbers)
    head = [cell["en"] for cell in (chart.numbers or ((), ()))[0]]
    assert head[1:] == ["Membership inference by the loss", "Membership inference (LiRA)"]
    legend = [e.attrib["class"] for e in of_class(parsed(chart), "line")][:2]
    assert legend == ["line s1", "line s0"]


def test_figures_hold_answers_and_the_recipe_but_no_controls_and_no_other_units() -> None:
    rows = [row("auc"), row("tpr_at_1pct_fpr"), row("fpr_at_1pct"), row("blind_auc"), row("recipe_auc")]
    lost = row("tpr_at_0.1pct_fpr", value=None, low=None, high=None, status="not_measured", reason="few")
    (chart,) = privacy(report(*rows, lost))
    assert chart.says["en"] == "Not measured and so not drawn: 1; see the table."
    told = " ".join(e.text or "" for e in parsed(chart).iter("text"))
    assert "membership AUC" in told and "recipe" in told
    assert "false alarms caused" not in told and "without the model" not in told
    units = {"accuracy": "share", "roc_auc": "", "log_loss": "nats"}
    losses = report(*(row(name, method="utility", prop="utility", unit=unit) for name, unit in units.items()))
    (chart,) = figures.drawn(Sides.of("utility", (losses,), NAMES[:1]))
    assert "log loss" not in " ".join(e.text or "" for e in parsed(chart).iter("text"))


def test_radius_fidelity_importance_ranks_and_groups_are_drawn() -> None:
    at = Curve(
        name="accuracy against radius",
        x=(0.0, 0.3, 0.6),
        y=(0.9, 0.5, 0.2),
        low=(0.8, 0.4, 0.1),
        high=(1.0, 0.6, 0.3),
    )
    asked = Curve(name="fidelity by queries", x=(16.0, 500.0), y=(0.5, 0.9), low=(0.4, 0.8), high=(0.6, 1.0))
    own = replace(asked, name="fidelity by rows, data only", y=(0.5, 0.8))
    importance = ranked(("age", 0.3, 0.2, 0.4), ("pay", 0.1, -0.1, 0.3), ("sex", 0.05, 0.01, 0.1))
    small = ("sex = m", 4, "not resolvable at n=4", None, None)
    groups = grouped("accuracy", ("sex = f", 50, 0.8, 0.7, 0.9), small)
    rows = (
        row("robust_accuracy", at, method="pgd", prop="robustness"),
        row("fidelity", asked, own, method="steal", prop="confidentiality"),
        row("top_importance", importance, method="permutation_importance", prop="explanation"),
        row("accuracy", groups, method="utility", prop="utility"),
    )
    made = report(*rows)

    def titles(*reports: Report) -> list[str]:
        parts = ("robustness", "confidentiality", "explanation", "utility")
        return [
            c.title["en"]
            for part in parts
            for c in figures.drawn(Sides.of(part, reports, NAMES[: len(reports)]))
        ]

    assert titles(made) == [
        "Projected gradient descent (PGD): accuracy against radius",
        "Model stealing: how well a copy agrees",
        "Permutation importance: importance of columns",
        "Utility on held-out data: accuracy, held out, by group",
    ]
    assert titles(made, made)[2] == "Permutation importance: what counts most"
    (curve,) = figures.drawn(Sides.of("robustness", (made, made), NAMES))
    root = parsed(curve)
    drawn = [path(e) for e in of_class(root, "line") if len(path(e)) == 3]
    ends = across(root, "0"), across(root, "0.6")
    assert [x for x, _ in drawn[0]] == pytest.approx([ends[0], sum(ends) / 2, ends[1]], abs=0.1)
    second = [cell["en"] for cell in (curve.numbers or ((), ()))[1][1]]
    assert second == ["0.3", "0.500 [0.400, 0.600]", "0.500 [0.400, 0.600]"]
    (spread,) = figures.drawn(Sides.of("utility", (made,), NAMES[:1]))
    assert labels(parsed(spread), "sex = f (n = 50)") and not labels(parsed(spread), "sex = m (n = 4)")
    assert spread.says["en"] == "Groups without a number are not drawn: 1."
    nobody = row("accuracy", grouped("accuracy", small), method="utility", prop="utility")
    assert figures.drawn(Sides.of("utility", (report(nobody),), NAMES[:1])) == []
    (slopes,) = figures.drawn(Sides.of("explanation", (made, made), NAMES))
    assert slopes.says["en"].startswith("The 3 strongest columns on each side: 3 stand on both.")
    assert "over all 3 columns: 1.00" in slopes.says["en"]


def test_the_values_of_three_reports_are_written_whole() -> None:
    values = tuple(
        (style, value, None, None)
        for style, value in zip(charts.STYLES[:3], (-0.0953, 0.5, -0.0482), strict=True)
    )
    rows = [rulers.Span(label=as_is("a"), values=values)]
    chart = rulers.intervals(as_is("t"), as_is("g"), rows, ends=(-0.1, 0.5))
    root = parsed(chart)
    ((place, _),) = labels(root, "\u22120.0953 \u2192 \u2026 \u2192 \u22120.0482")
    told = charts.wide("\u22120.0953 \u2192 \u2026 \u2192 \u22120.0482")
    assert place - told >= across(root, "0.4")  # the ruler ends before them


def test_three_figures_by_group_are_one_picture_too() -> None:
    rows = ("a = 1", 9, 0.5, 0.4, 0.6), ("a = 2", 9, 1.0, 0.9, 1.0)
    names = ("tpr_at_1pct_fpr", "fpr_at_1pct", "tpr_at_0.1pct_fpr")
    found = privacy(report(*(row(name, grouped(name, *rows)) for name in names)))
    whole = next(chart for chart in found if chart.title["en"] == "By group: all figures")
    assert len(of_class(parsed(whole), "cell")) == 6


@pytest.mark.parametrize("odd", [HOSTILE, "", "a" * 5000, "\u0645\u0631\u062d\u0628\u0627", "\ud800"])
def test_hostile_names_are_shown_and_never_obeyed(odd: str) -> None:
    importance = ranked((odd, 0.3, 0.2, 0.4), ("pay", 0.1, 0.0, 0.3))
    groups = grouped("auc", (odd, 50, 0.8, 0.7, 0.9))
    made = report(
        row("top_importance", importance, method=odd or "x", prop="explanation"),
        row("auc", ROC, groups, method=odd or "x"),
        row("auc", ROC, unit=odd),
    )
    for part in ("privacy", "explanation"):
        for reports in ((made,), (made, made)):
            for chart in figures.drawn(Sides.of(part, reports, NAMES[: len(reports)])):  # type: ignore[arg-type]
                svg = chart.svg("here")
                assert not re.search("[\u202e\u200b\x1b\ud800]", svg)
                tags = {e.tag for e in ET.fromstring(svg).iter()}
                assert tags <= {"svg", "path", "circle", "rect", "text", "pattern", "image"}
    page = render.page(made)
    assert "<script" not in page


def test_tables_and_curves_of_the_wrong_shape_are_not_drawn() -> None:
    odd = (
        Table(name="importance", columns=("column",), rows=(("age",),)),
        Table(name="auc by group", columns=("group", "n", "value", "low", "high"), rows=(("a", 1),)),
        Table(name="importance", columns=("a", "b", "c", "d"), rows=(("age", "x", None, True),)),
        Curve(name="roc", x=(), y=()),
    )
    made = report(
        row("auc", *odd), row("top_importance", *odd, method="permutation_importance", prop="explanation")
    )
    found = [
        *privacy(made),
        *privacy(made, made),
        *figures.drawn(Sides.of("explanation", (made, made), NAMES)),
    ]
    assert all(parsed(chart) is not None for chart in found)
    assert [chart for chart in found if chart.numbers] == []


def attacks(n_points: int, n_attacks: int) -> Report:
    x = np.geomspace(1e-4, 1, n_points)
    wild = np.clip(x**0.5 * np.random.default_rng(0).uniform(0.8, 1.2, n_points), 0, 1)
    parts = [tuple(part.tolist()) for part in (x, wild, x, wild)]
    curve = Curve(name="roc", x=parts[0], y=parts[1], low=parts[2], high=parts[3])
    return report(*(row("auc", curve, method=f"m{k}") for k in range(n_attacks)), claims=[CLAIM])


def test_a_page_with_charts_is_the_same_bytes_each_time() -> None:
    made = attacks(200, 3)
    again = Report.from_dict(made.to_dict())
    assert render.page(made) == render.page(again)
    assert render.page_comparison(compare(made, again)) == render.page_comparison(compare(again, made))


def test_long_wild_curves_of_many_attacks_keep_the_page_small() -> None:
    made = attacks(2000, 30)
    assert len(render.page(made).encode()) <= 400_000
    assert len(render.page_comparison(compare(made, made)).encode()) <= 400_000


def test_both_languages_are_drawn_with_the_same_marks() -> None:
    for chart in privacy(report(row("auc", ROC), *DOTS, claims=[CLAIM])):
        root = parsed(chart)
        sides = {
            lang: [e for e in root.iter("text") if e.attrib.get("lang") == lang]
            for lang in catalogue.LANGUAGES
        }
        assert len(sides["en"]) == len(sides["zh-CN"]) > 0
        for en, zh in zip(sides["en"], sides["zh-CN"], strict=True):
            assert (en.attrib["x"], en.attrib["y"]) == (zh.attrib["x"], zh.attrib["y"])
            assert en.text != zh.text
        # names and descriptions stand in the page: a title here would be a tooltip in one language
        assert {"title", "desc"}.isdisjoint(e.tag for e in root.iter())
        assert root.attrib["aria-labelledby"] == "here-c" and root.attrib["aria-describedby"] == "here-d"


def test_series_differ_without_colour() -> None:
    style = render.page(report())
    dashes = [re.search(rf"\.line\.{name}\{{([^}}]*dasharray:[^;}}]*)", style) for name in charts.STYLES]
    told = [found[1] if found else "none" for found in dashes]
    assert len(set(told)) == len(charts.STYLES)
    shapes = [re.sub(r"s\d", "", charts.dot(0, 0, name)) for name in charts.STYLES]
    assert len(set(shapes)) == len(charts.STYLES)


def test_how_to_read_a_chart_is_told_once_a_section() -> None:
    found = privacy(*[report(row("auc", ROC), row("auc", ROC, method="loss_attack"))] * 2)
    told = figures.told_once(found)
    guide = next(chart.guide["en"] for chart in found if chart.numbers)
    assert [guide in one["en"] for one in told].count(True) == 1
    assert all(chart.says["en"] in one["en"] for chart, one in zip(found, told, strict=True))
