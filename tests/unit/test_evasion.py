# SPDX-License-Identifier: Apache-2.0
"""The harness measures evasion itself: what counts as broken, what is shown, and to whom."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import casemate as cm
from casemate.core import evasion, evidence, harness
from casemate.core.methods import Card
from casemate.core.run import Run
from casemate.core.schema import Column, Schema
from casemate.core.types import LABELS, Curve, Measurement, Table

X = np.array([[-2.0, 5.0], [-1.0, 5.0], [-0.2, 6.0], [0.1, 6.0], [1.0, 5.0], [2.0, 6.0]])
Y = np.array([0, 0, 0, 1, 1, 1])
THREAT = cm.Threat(norm="linf", radius=0.5, scale="raw")


def above(rows: np.ndarray) -> np.ndarray:
    """Class 1 where the first column is positive."""
    return (rows[:, 0] > 0).astype(int)


def card(**fields: Any) -> Card:
    return Card(
        name="made", property="robustness", kind="evasion", needs=frozenset({LABELS}), cost="", title={},
        reference="", quantities=evasion.QUANTITIES, **fields,
    )  # fmt: skip


def measured(
    x_adv: Any,
    *,
    threat: cm.Threat = THREAT,
    records: bool = False,
    owner: Any = None,
    y: Any = Y,
    **fields: Any,
) -> list[Measurement]:
    own = [] if owner is None else [owner]
    other = [] if owner is None else [-1 - np.array(owner)]
    target, data = cm.wrap(above, outputs="labels").bind(
        cm.Dataset(train=(X, Y, *other), holdout=(X, y, *own))
    )
    data = data.with_ids(np.arange(6), 6 + np.arange(6))
    run = Run(card=card(**fields), threat=threat, show_records=records)
    return evasion.measure(card(**fields), target, data, run, attack=lambda few: x_adv)


def detail(row: Measurement, name: str) -> Any:
    found = [d for d in row.details if getattr(d, "name", None) == name]
    return found[0] if found else None


def test_a_point_counts_as_broken_only_inside_radius_and_rules() -> None:
    moved = X + [[0.3, 0.0], [0.3, 0.0], [0.3, 0.0], [-0.3, 0.0], [-1.5, 0.0], [0.0, 9.0]]
    robust, invalid = measured(moved)
    # points 2 and 3 cross the border; point 4 goes 1.5 away, point 5 leaves the bounds of its column
    assert robust.value == pytest.approx(4 / 6)
    assert invalid.value == pytest.approx(2 / 6)
    assert dict(detail(invalid, "broken rules").rows) == {"radius": 2, "bounds": 1}


def test_the_nearest_example_beyond_the_radius_holds_and_is_not_invalid() -> None:
    crossing = np.where(X[:, :1] > 0, -0.01, 0.01) * [[1.0, 0.0]] + X * [[0.0, 1.0]]
    robust, invalid = measured(crossing, nearest=True)
    assert invalid.value == 0.0
    assert robust.value == pytest.approx(4 / 6)  # .21 and .11 away fall; 1.01 and 2.01 away hold
    curve = detail(robust, "accuracy against radius")
    assert isinstance(curve, Curve) and curve.x[0] == 0.0 and curve.y[0] == 1.0
    exact = np.sort(np.abs(X[:, 0]) + 0.01)
    assert list(curve.y) == pytest.approx([1 - np.mean(exact <= r + 1e-9) for r in curve.x], abs=1e-4)
    assert all(low <= y <= high for low, y, high in zip(curve.low, curve.y, curve.high, strict=True))
    assert measured(crossing)[1].value == pytest.approx(4 / 6), "without the card's word they are invalid"


def test_an_error_that_the_attack_happens_to_correct_is_not_robust() -> None:
    wrong = np.array(
        [1, 0, 0, 1, 1, 0]
    )  # points 0 and 5 are called otherwise; the attack moves them over the border
    moved = np.where(np.arange(6)[:, None] % 5 == 0, [[-1.0, 0.0]] * X[:, :1] + X * [[0.0, 1.0]], X)
    wide = replace(THREAT, radius=9.0)
    assert measured(moved, y=wrong, threat=wide)[0].value == pytest.approx(4 / 6)
    curve = detail(measured(X, y=wrong, nearest=True)[0], "accuracy against radius")
    assert curve is None and measured(moved, y=wrong, nearest=True)[0].value == pytest.approx(4 / 6)


def test_a_change_that_breaks_another_rule_is_invalid_for_nearest_methods_too() -> None:
    crossing = X + [[0.3, 99.0]]
    robust, invalid = measured(crossing, nearest=True)
    assert (robust.value, invalid.value) == (1.0, 1.0)


def test_with_a_goal_a_point_holds_until_it_reaches_the_goal() -> None:
    robust, _ = measured(X[:3] + [[0.3, 0.0]], threat=replace(THREAT, goal=1))
    assert robust.n == 3 and robust.value == pytest.approx(2 / 3)
    told = dict(detail(robust, "attack").rows)
    assert told["already of the goal class before the attack"] == 0
    assert told["of the goal class under attack"] == 1 and "correct under attack" not in told


def test_single_records_are_shown_only_on_demand() -> None:
    moved = X + np.where(X[:, :1] > 0, -0.4, 0.4) * [[1.0, 0.0]]
    quiet, shown = measured(moved)[0], measured(moved, records=True)[0]
    assert detail(quiet, "examples") is None
    table = detail(shown, "examples")
    assert isinstance(table, Table)
    assert [row[0] for row in table.rows] == ["x0 -0.2 -> 0.2", "x0 0.1 -> -0.3"]
    assert [row[1:3] for row in table.rows] == [("0", "1"), ("1", "0")]
    assert [row[3] for row in table.rows] == pytest.approx([0.4, 0.4])


def test_what_changes_in_general_is_told_for_a_handful_of_examples_only() -> None:
    moved = X + np.where(X[:, :1] > 0, -3.0, 3.0) * [[1.0, 0.0]]
    wide = replace(THREAT, radius=3.0)
    moved[:, 0] = moved[:, 0].clip(-2.0, 2.0)
    table = detail(measured(moved, threat=wide)[0], "what the examples change")
    assert table.rows[0][:2] == ("x0", 1.0) and len(table.rows) == 1
    assert table.rows[0][2] == pytest.approx(np.median(np.abs(moved - X)[:, 0]), rel=1e-3)
    few = measured(moved, threat=wide, owner=[1, 1, 1, 2, 2, 2])[0]
    assert detail(few, "what the examples change") is None, "six rows of two people are two people"
    assert detail(measured(moved, threat=wide, owner=[1, 2, 3, 4, 5, 5])[0], "what the examples change")
    few = X + np.where(X[:, :1] > 0, -0.4, 0.4) * [[1.0, 0.0]]
    assert detail(measured(few)[0], "what the examples change") is None


def test_the_report_of_an_audit_holds_no_record_unless_asked() -> None:
    from sklearn.linear_model import LogisticRegression

    x = np.random.default_rng(0).normal(size=(80, 3))
    y = (x[:, 0] > 0).astype(int)
    data = cm.Dataset(train=(x[:40], y[:40]), holdout=(x[40:], y[40:]))
    target = cm.wrap(LogisticRegression().fit(x[:40], y[:40]))
    options: dict[str, Any] = {"methods": ["hop_skip_jump"], "effort": "quick"}
    assert '"examples"' not in cm.audit(target, data, **options).to_json()
    shown = cm.audit(target, data, **options, show_records=True)
    assert detail(shown["hop_skip_jump", "robust_accuracy"], "examples").rows


def test_the_clock_gives_every_method_its_share_and_hands_on_what_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(harness.time, "monotonic", lambda: now[0])
    cards = [
        replace(card(), name="a"),
        replace(card(), name="b"),
        replace(card(), name="c", needs=frozenset({cm.Capability.REFIT})),
    ]
    clock = harness.Clock.of("quick", cards)
    shares = 2 + harness.REFITS_COUNT
    assert clock.deadline(cards[0]) == pytest.approx(100 + harness.QUICK_SECONDS / shares)
    now[0] = 101.0  # "a" left most of its time
    left = harness.QUICK_SECONDS - 1
    assert clock.deadline(cards[1]) == pytest.approx(101 + left / (1 + harness.REFITS_COUNT))
    assert clock.deadline(cards[2]) == pytest.approx(100 + harness.QUICK_SECONDS)
    assert harness.Clock.of("standard", cards).deadline(cards[0]) is None


def test_the_switch_of_a_one_hot_group_is_told_as_one_change() -> None:
    columns = [Column(name=f"use_{name}", kind="integer", low=0, high=1) for name in ("car", "tv")]
    schema = Schema(columns=(*columns, Column(name="v", kind="real")), groups=(("use_car", "use_tv"),))
    before = np.tile([1.0, 0, 3], (6, 1))
    after = before.copy()
    after[:, :2] = [0, 1]
    after[:5, 2] += [1, 2, 3, 4, 5]
    (table,) = evidence.in_words(before, after, None, schema)
    assert table.rows == (("use", 1.0, None), ("v", 0.8333, 3.0))
