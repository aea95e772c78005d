# SPDX-License-Identifier: Apache-2.0
"""Single rows explained: what an audit keeps when records may be shown, in words and as a waterfall."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from drawings import parsed, report, row

import casemate as cm
from casemate.core.schema import Schema
from casemate.core.types import Explanation, Measurement, Table
from casemate.explanation import cases
from casemate.report import figures
from casemate.report.cases import COLUMNS
from casemate.report.catalogue import as_is
from casemate.report.charts import Chart
from casemate.report.sides import Sides

SCHEMA = Schema.infer(np.array([[20.0, 0.0, 1.5, 1.0, 0.0], [80.0, 1.0, 2.5, 0.0, 1.0]])).with_columns(
    {"x0": {"unit": "years"}, "x1": {"kind": "integer"}}
)
SCHEMA = replace(
    SCHEMA,
    columns=tuple(
        replace(c, name=n)
        for c, n in zip(SCHEMA.columns, ("age", "smoker", "dose", "ward_a", "ward_b"), strict=True)
    ),
    groups=(("ward_a", "ward_b"),),
)
NAMES = ("age", "smoker", "dose", "ward")


def explanation(
    pushes: Any, *, base: float, predicted: Any, fit: float = 0.9, outputs: Any = ("ill",)
) -> Explanation:
    """One run of an explainer over rows; pushes (rows, 4, outputs)."""
    values = np.asarray(pushes, np.float64)
    n, _, n_outputs = values.shape
    return Explanation(
        values=values,
        base=np.full((n, n_outputs), base),
        errors=np.zeros_like(values),
        names=NAMES,
        n_records=n,
        rows=tuple(range(n)),
        rules=(("41 < age <= 60 years", "smoker > 0", "dose <= 2", "ward_a"),) * n,
        outputs=tuple(outputs),
        predicted=np.asarray(predicted, np.float64),
        fit=np.full((n, n_outputs), fit),
    )


def told(again: list[Explanation], rows: int = 1) -> list[tuple[Any, ...]]:
    x = np.tile([54.0, 1.0, 1.75, 1.0, 0.0], (rows, 1))
    return list(cases.table(again, x, SCHEMA, level=0.95).rows)


def test_a_row_is_told_in_its_own_units_from_the_strongest_push() -> None:
    runs = [
        explanation([[[0.3 + s], [-0.1 - s], [s], [0.0]]], base=0.4, predicted=[[0.65]])
        for s in (-0.01, 0.0, 0.01)
    ]
    found = told(runs)
    half = 0.01 * 4.302653 / math.sqrt(3)  # Student's t with two degrees
    assert [line[1:4] for line in found] == [
        ("answer", "ill", 0.65),
        ("start", "", 0.4),
        ("column", "age 54 years (> 41, ≤ 60 years)", 0.3),
        ("column", "smoker = 1", -0.1),
        ("column", "dose 1.75 (≤ 2)", pytest.approx(0.0, abs=1e-12)),
        ("left", "", 0.05),
        ("fit", "", 0.9),
    ]
    assert found[2][4:] == (pytest.approx(0.3 - half, abs=1e-4), pytest.approx(0.3 + half, abs=1e-4))
    assert found[4][4] < 0 < found[4][5]


def test_a_group_is_told_by_its_rule_and_a_hole_as_missing() -> None:
    x = np.array([[np.nan, 0.0, 1.75, 1.0, 0.0]])
    one = explanation([[[0.2], [0.1], [0.0], [0.3]]], base=0.1, predicted=[[0.7]])
    found = cases.table([one, one, one], x, SCHEMA, level=0.95).rows
    assert [line[2] for line in found if line[1] == "column"] == ["ward_a", "age missing", "smoker = 0"]


def test_what_is_told_adds_up_and_the_weak_are_told_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "N_COLUMNS", 2)
    rng = np.random.default_rng(0)
    runs = [explanation(rng.normal(size=(1, 4, 1)), base=rng.random(), predicted=[[0.5]]) for _ in range(5)]
    found = {
        kind: [line for line in told(runs) if line[1] == kind]
        for kind in ("column", "others", "left", "start")
    }
    assert (len(found["column"]), found["others"][0][2]) == (2, "2")
    total = sum(line[3] for lines in found.values() for line in lines)
    assert total == pytest.approx(0.5, abs=1e-3)


def test_three_rows_are_told_the_highest_answer_first_and_the_class_that_is_called() -> None:
    predicted = [[0.1, 0.9], [0.3, 0.7], [0.8, 0.2], [0.55, 0.45], [0.4, 0.6]]
    pushes = np.zeros((5, 4, 2))
    pushes[:, 0] = 1.0
    one = explanation(pushes, base=0.5, predicted=predicted, outputs=("well", "ill"))
    answers = [line for line in told([one, one, one], rows=5) if line[1] == "answer"]
    assert answers == [(1, "answer", "ill", 0.9, None, None), (2, "answer", "ill", 0.7, None, None),
                       (3, "answer", "well", 0.55, None, None)]  # fmt: skip
    assert len([line for line in told([one, one, one], rows=5) if line[1] == "answer"]) == cases.N_CASES
    single = replace(one, values=one.values[:1], predicted=one.predicted[:1])  # type: ignore[index]
    assert [line[0] for line in told([single] * 2) if line[1] == "answer"] == [1]


def world() -> tuple[Any, cm.Dataset]:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    y = (2 * x[:, 0] - x[:, 1] + rng.normal(size=300) > 0).astype(int)
    data = cm.Dataset(train=(x[:150], y[:150]), holdout=(x[150:], y[150:]))
    return cm.wrap(LogisticRegression().fit(x[:150], y[:150])), data


def test_an_audit_tells_cases_only_on_demand_and_the_pushes_have_the_signs_of_the_model() -> None:
    target, data = world()
    options: dict[str, Any] = {
        "methods": [cm.method("explanation_stability", n_rows=30, n_seeds=4, n_samples=512)]
    }
    assert '"cases"' not in cm.audit(target, data, **options).to_json()
    found = cm.audit(target, data, **options, show_records=True)
    (table,) = (
        d for d in found["explanation_stability", "top_changes"].details if getattr(d, "name", "") == "cases"
    )
    first, last = (
        {str(line[2])[:2]: line[3] for line in table.rows if line[0] == k and line[1] == "column"}
        for k in (1, 3)
    )
    assert first["x0"] > 0 > last["x0"]  # most and least likely
    shown = [
        c
        for c in figures.drawn(Sides.of("explanation", (found,), (as_is("Value"),)))
        if "Case" in c.title["en"]
    ]
    assert [chart.title["en"].split(":")[0] for chart in shown] == ["Case 1", "Case 2", "Case 3"]
    assert "Pushed up by: x0" in shown[0].says["en"] and "Pushed down by: x0" in shown[2].says["en"]
    assert "cases" not in found.public().to_json()


# ---------------------------------------------------------------------- the waterfall


LINES: tuple[tuple[Any, ...], ...] = (
    (1, "answer", "ill", 0.7, None, None),
    (1, "start", "", 0.4, None, None),
    (1, "column", "age 54 years", 0.5, 0.4, 0.6),
    (1, "column", "smoker = 0", -0.3, -0.35, -0.25),
    (1, "column", "dose 2 mg", 0.1, -0.1, 0.3),
    (1, "others", "3", -0.05, -0.06, -0.04),
    (1, "left", "", 0.05, None, None),
    (1, "fit", "", 0.31, None, None),
)


def drawn(*lines: Any, task: str = "binary", reports: int = 1) -> list[Chart]:
    table = Table(name="cases", columns=COLUMNS, rows=lines)
    made = report(row("top_changes", table, method="explanation_stability", prop="explanation"))
    made = replace(made, target={**made.target, "task": task})
    names = tuple(map(as_is, ("Before", "After")))[:reports]
    sides = Sides.of("explanation", (made,) * reports, names)
    return [c for c in figures.drawn(sides) if "ase " in c.title["en"]]


def test_bars_add_up_from_the_start_to_the_answer_and_are_hollow_where_unsure() -> None:
    (chart,) = drawn(*LINES)
    root = parsed(chart)
    ends = [(float(e.attrib["x"]), float(e.attrib["width"]), e.attrib["class"]) for e in root.iter("rect")]
    start, end = (float(e.attrib["cx"]) for e in root.iter("circle"))
    assert [kind for *_, kind in ends] == ["s1 fill", "s2 fill", "s1 hollow", "s2 fill", "s1 fill"]
    place = start
    for left, width, kind in ends:
        assert (left if kind.startswith("s1") else left + width) == pytest.approx(place, abs=0.15)
        place += width if kind.startswith("s1") else -width
    assert place == pytest.approx(end, abs=0.3)
    pixels = (end - start) / 0.3
    assert [width / pixels for _, width, _ in ends] == pytest.approx([0.5, 0.3, 0.1, 0.05, 0.05], abs=0.002)


def test_a_case_is_told_in_words_in_both_languages() -> None:
    (chart,) = drawn(*LINES)
    assert chart.title["en"] == "Case 1: ill 0.7"
    assert chart.says["en"] == (
        "The model gives “ill” a score of 0.7. Pushed up by: age 54 years: +0.5. Pushed down by: smoker = 0: "
        "\u22120.3. May push either way: dose 2 mg. The rules tell only 31\u00a0% of how the model answers around this "
        "row: do not rely on this picture."
    )
    assert "age 54 years: +0.5" in chart.says["zh-CN"] and "The" not in chart.says["zh-CN"]
    good = [*LINES[:-1], (1, "fit", "", 0.8, None, None)]
    assert "do not rely" not in drawn(*good)[0].says["en"]
    assert drawn(*LINES, task="regression")[0].title["en"] == "Case 1: 0.7"
    (of_after,) = drawn(*LINES, reports=2)
    assert of_after.title["en"] == "After: Case 1: ill 0.7"
    assert chart.numbers is not None
    assert [cell["en"] for cell in chart.numbers[1][1]] == ["age 54 years", "0.500 [0.400, 0.600]"]


def test_a_hostile_table_of_cases_draws_little_and_obeys_nothing() -> None:
    odd = "<script>\u202e\x1b[31m" * 400
    many = [(k, *line[1:]) for k in range(500) for line in LINES]
    assert len(drawn(*many)) == 3
    long = [LINES[0], LINES[1], *[(1, "column", odd, 0.1, 0.0, 0.2)] * 900]
    for chart in (*drawn(*long), *drawn((1, "answer", odd, 0.7, None, None), *LINES[1:])):
        svg = chart.svg("here")
        assert "<script" not in svg and "\u202e" not in svg and "\x1b" not in svg
        assert "\u202e" not in chart.says["en"] and len(svg) + len(chart.says["en"]) < 20_000
        assert parsed(chart) is not None


@pytest.mark.parametrize(
    "lines",
    [
        LINES[1:],
        (LINES[0], LINES[1]),
        ((1, "answer"), (2,)),
        (LINES[0], (1, "start", "", None, None, None), LINES[2]),
        (LINES[0], (1, "start", "", math.inf, None, None), LINES[2]),
        ((1, "answer", "ill", True, None, None), *LINES[1:]),
    ],
)
def test_what_is_no_case_is_not_drawn(lines: Any) -> None:
    assert drawn(*LINES)
    assert drawn(*lines) == []


def test_a_measurement_of_cases_reads_back_from_json() -> None:
    made = row(
        "top_changes", Table(name="cases", columns=COLUMNS, rows=LINES), method="explanation_stability"
    )
    assert Measurement.from_dict(made.to_dict()) == made
