# SPDX-License-Identifier: Apache-2.0
"""Calibration: its estimator and limits, the row of an audit, the diagram, and what a public edition keeps of it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from drawings import across, labels, of_class, parsed, report, row

import casemate as cm
from casemate.core import _reliability, harness, stats
from casemate.core.errors import InvalidData
from casemate.core.run import Run
from casemate.core.types import LABELS, Curve, Measurement
from casemate.report import figures
from casemate.report.catalogue import as_is
from casemate.report.model import Report
from casemate.report.sides import Sides


def over(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A model that is twice as sure (in logits) as it may be."""
    rng = np.random.default_rng(seed)
    z = rng.normal(-0.5, 1.5, n)
    return 1 / (1 + np.exp(-2 * z)), rng.random(n) < 1 / (1 + np.exp(-z))


# ---------------------------------------------------------------------- the estimator


def test_one_group_has_a_known_answer() -> None:
    """Stated 0.7, 20 of 40 happened: the squared gap less the variance of a mean of 40."""
    found, ((stated, share),) = stats.calibration(np.full(40, 0.7), np.arange(40) < 20)
    assert found.value == pytest.approx(math.sqrt(0.2**2 - 0.25 * 40 / 39 / 40))
    assert (found.n, stated, share.value) == (40, pytest.approx(0.7), 0.5)
    exact = stats.clopper_pearson(20, 40)
    assert (share.low, share.high) == (exact.low, exact.high)


def test_chance_is_taken_off_where_the_plain_error_is_far_from_zero() -> None:
    """Of a calibrated model the squared size is 0 in the mean; |z| < 4.9 fails by chance once in a million."""
    rng = np.random.default_rng(0)
    squared, plain = [], []
    for _ in range(400):
        p = rng.uniform(0.05, 0.95, 300)
        y = (rng.random(300) < p).astype(np.float64)
        rows = np.arange(300)
        found = _reliability.gaps(p, y, _reliability.grouped(p, rows, 300), rows)
        squared.append(float(found.share @ (np.square(found.gap) - np.diag(found.covariance))))
        plain.append(float(found.share @ np.abs(found.gap)))
    assert abs(np.mean(squared)) < 4.9 * np.std(squared) / 20
    assert np.mean(plain) > 0.05


def test_rows_of_one_person_are_one_observation() -> None:
    """Each row four times over says nothing new: the gap stays, its variance and limits are those of the persons."""
    p, y = over(200)
    alone, _ = stats.calibration(p, y)
    copied, _ = stats.calibration(np.repeat(p, 4), np.repeat(y, 4), clusters=np.repeat(np.arange(200), 4))
    naive, _ = stats.calibration(np.repeat(p, 4), np.repeat(y, 4))
    assert copied.n == 200
    assert copied.value == pytest.approx(alone.value, abs=0.01)
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=0.1)
    assert naive.high - naive.low < 0.75 * (copied.high - copied.low)


def test_groups_do_not_depend_on_the_order_and_hold_what_was_stated_alike() -> None:
    p, y = over(1000)
    p = np.round(p, 1)
    order = np.random.default_rng(1).permutation(1000)
    found, groups = stats.calibration(p, y)
    again, moved = stats.calibration(p[order], y[order])
    assert (again.value, again.low, again.high) == pytest.approx((found.value, found.low, found.high))
    assert [share.value for _, share in groups] == [share.value for _, share in moved]
    held = [set(p[at]) for at in _reliability.size(p, y.astype(float), np.arange(1000), 1000, 0.95)[0]]
    assert sum(map(len, held)) == len(set.union(*held))
    assert len(stats.calibration(*over(1000))[1]) == 10
    assert [len(stats.calibration(*over(n))[1]) for n in (59, 60, 150)] == [1, 2, 5]


def test_nothing_that_happened_is_no_certainty() -> None:
    found, _ = stats.calibration(np.zeros(100), np.zeros(100))
    assert found.value == found.low == 0.0
    assert 0.025 < found.high < 2 * stats.clopper_pearson(0, 100).high


@pytest.mark.parametrize(
    ("stated", "happened", "says"),
    [
        ([0.5, 1.2, 0.1], [1, 0, 1], "from 0 to 1"),
        ([0.5, 0.2], [1, 0, 1], "got 2 values"),
        ([0.5, 0.2, 0.3], [1, 0, 2], "true or false"),
        ([0.5, math.nan, 0.3], [1, 0, 1], "stated"),
    ],
)
def test_what_is_no_probability_is_refused(stated: Any, happened: Any, says: str) -> None:
    with pytest.raises(InvalidData, match=says):
        stats.calibration(stated, happened)


# ---------------------------------------------------------------------- the row of an audit


class Stating:
    """States 0.9 for class 1 of two, or for the first of three, whatever comes."""

    def __init__(self, n_classes: int) -> None:
        self.n_classes = n_classes

    def __call__(self, x: np.ndarray) -> np.ndarray:
        own = {2: [0.1, 0.9], 3: [0.9, 0.06, 0.04]}[self.n_classes]
        return np.tile(own, (len(x), 1))


def audited(n_classes: int, **options: Any) -> dict[str, Measurement]:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 2)), np.arange(200) % n_classes
    data = cm.Dataset(train=(x, y), holdout=(x, y))
    target, data = cm.wrap(Stating(n_classes), outputs="scores").bind(data)
    if options.get("labels"):
        target = target.limited_to(LABELS)
    return {m.quantity: m for m in harness.utility(target, data, Run(card=harness.UTILITY))}


def test_of_two_classes_the_second_is_stated_and_of_several_the_answer() -> None:
    for n_classes, happened in ((2, 1 / 2), (3, 1 / 3)):
        found = audited(n_classes)["calibration_error"]
        assert found.value == pytest.approx(0.9 - happened, abs=0.02)
        (curve,) = found.details
        assert isinstance(curve, Curve) and curve.name == "calibration"
        assert curve.x == (pytest.approx(0.9),)
        assert curve.y[0] == pytest.approx(happened, abs=0.01)
        assert curve.low[0] < curve.y[0] < curve.high[0]


def test_who_states_no_probability_is_not_judged_by_it() -> None:
    assert "calibration_error" not in audited(2, labels=True)
    assert "accuracy" in audited(2, labels=True)


# ---------------------------------------------------------------------- the diagram and the public edition


POINTS = Curve(name="calibration", x=(0.2, 0.6), y=(0.1, 0.8), low=(0.05, 0.7), high=(0.2, 0.9))


def told(*curves: Curve, **more: Any) -> Report:
    rows = [row("calibration_error", one, method="utility", prop="utility", **more) for one in curves]
    made = report(*rows)
    return replace(made, target={**made.target, "classes": ["healthy", "ill"]})


def diagrams(*reports: Report) -> list[Any]:
    names = (as_is("Before"), as_is("After"))[: len(reports)]
    return [c for c in figures.drawn(Sides.of("utility", reports, names)) if "come true" in c.title["en"]]


def test_dots_stand_where_the_axes_say_and_the_diagonal_joins_the_corners() -> None:
    (chart,) = diagrams(told(POINTS))
    root = parsed(chart)
    up = {name: min(labels(root, name))[1] - 3.5 for name in ("20 %", "80 %")}
    dots = [(float(e.attrib["cx"]), float(e.attrib["cy"])) for e in root.iter("circle")][
        1:
    ]  # the legend's is first
    slope = (up["80 %"] - up["20 %"]) / 0.6
    assert dots[0] == pytest.approx((across(root, "20 %"), up["20 %"] - 0.1 * slope), abs=0.2)
    assert dots[1] == pytest.approx((across(root, "60 %"), up["80 %"]), abs=0.2)
    corners = [e.attrib["d"] for e in of_class(root, "guess")][-1]
    assert corners.startswith(f"M{across(root, '0 %'):g}"), "from the corner at nothing"
    told_of = " ".join(e.text or "" for e in root.iter("text"))
    assert "stated probability of “ill”" in told_of
    assert chart.numbers is not None and chart.numbers[1][0][1]["en"] == "stated 0.2: 0.100 [0.050, 0.200]"


def test_before_and_after_stand_on_one_diagram() -> None:
    after = replace(POINTS, x=(0.1, 0.3, 0.7), y=(0.1, 0.3, 0.7), low=(0.0, 0.2, 0.6), high=(0.2, 0.4, 0.8))
    (chart,) = diagrams(told(POINTS), told(after))
    assert chart.says["en"].startswith("Before: a typical gap of 0.600 [0.500, 0.700]")
    assert "After: a typical gap" in chart.says["en"]
    assert chart.numbers is not None and chart.numbers[1][2][1]["en"] == "–"
    assert chart.says["zh-CN"] != chart.says["en"]


def test_a_public_edition_keeps_the_size_and_not_the_groups() -> None:
    """How many are in a group of the diagram is not known to a reader of a report: ten people cannot be told."""
    made = told(POINTS, value=0.123456, low=0.1, high=0.2, n=1234).public()
    (found,) = made.measurements
    assert (found.value, found.n, found.details) == (0.123, 1200, ())
