# SPDX-License-Identifier: Apache-2.0
"""What hop_skip_jump promises: real rows only, the same answer whatever the order or batch, and nothing lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import micro
import numpy as np
import pytest

import casemate as cm
from casemate.adapters.remote import make
from casemate.core import harness
from casemate.core.errors import InvalidData, InvalidThreat
from casemate.core.methods import find
from casemate.core.run import Run
from casemate.core.schema import Relation, Schema, distances, violations
from casemate.core.types import LABELS
from casemate.robustness.methods import hop_skip_jump as module

METHOD = find("hop_skip_jump")
L2 = cm.Threat(norm="l2", radius=1.0, scale="raw")


def attack(
    target: cm.Target, data: cm.Dataset, threat: cm.Threat = L2, *, run: Run | None = None, **params: Any
) -> tuple[np.ndarray, Run]:
    """Call the method through the harness; what comes back must obey the schema at any distance."""
    target, data = target.bind(data)
    run = run or Run(card=METHOD.card, threat=threat.resolved(data.schema))
    found = harness.invoke(METHOD, target, data, run, params)
    assert found.shape == data.holdout.x.shape and found.dtype == data.holdout.x.dtype
    broken = violations(data.holdout.x, found, run.threat, data.schema)
    assert not {rule for rule, mask in broken.items() if mask.any()} - {"radius"}
    return found, run


def sizes(data: cm.Dataset, found: np.ndarray, run: Run) -> np.ndarray:
    return distances(data.holdout.x, found, run.threat, data.schema)


def problem(
    rule: Callable[[np.ndarray], Any], n: int = 40, d: int = 3, *, whole: bool = False, **schema: Any
) -> tuple[cm.Target, cm.Dataset]:
    """A function of rows as a model of labels, right on its data; columns in [-3, 3] (whole: 0 to 9)."""
    draw = np.random.default_rng(0)
    size = (3 * n, d)
    x = draw.integers(0, 10, size).astype(np.float64) if whole else draw.uniform(-3, 3, size)
    y = rule(x).astype(np.int64)
    known = {f"x{i}": {"low": 0 if whole else -3, "high": 9 if whole else 3, "spread": 1.0} for i in range(d)}
    if whole:
        known = {name: {**column, "kind": "integer"} for name, column in known.items()}
    for name, change in schema.items():
        known[name] = {**known[name], **change}
    data = cm.Dataset(
        train=(x[: 2 * n], y[: 2 * n]),
        holdout=(x[2 * n :], y[2 * n :]),
        schema=Schema.infer(x).with_columns(known),
    )
    return make(lambda rows: rule(rows).astype(np.int64), classes=[0, 1], outputs="labels"), data


def plane(x: np.ndarray) -> np.ndarray:
    """Slanted: all three columns matter, the third least."""
    return x[:, 0] + x[:, 1] - 0.5 * x[:, 2] > 0.2


@pytest.mark.parametrize("mode", module.MODES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_point_of_a_plane_gets_an_example_near_the_border(norm: str, mode: str) -> None:
    target, data = problem(plane)
    found, run = attack(target, data, cm.Threat(norm=norm, radius=1.0, scale="raw"), mode=mode)
    assert (plane(found) != data.holdout.y).all()
    exact = np.abs(data.holdout.x @ [1, 1, -0.5] - 0.2) / (2.5 if norm == "linf" else 1.5)
    ratio = sizes(data, found, run) / exact
    assert ratio.min() >= 1 - 1e-9
    inside = np.abs(data.holdout.x).max(1) < 2  # elsewhere the box is in the way
    assert inside.sum() > 5
    assert np.median(ratio[inside]) < 1.02
    assert not run.notes


def test_few_calls_or_few_rows() -> None:
    target, data = problem(plane)
    _, calls = attack(target, data)
    _, rows = attack(target, data, mode="min_queries")
    assert calls.counter.tally["calls"] <= 75  # three an iteration, and the start
    assert rows.counter.tally["rows"] < 0.75 * calls.counter.tally["rows"]
    # The paper's probes are 614 rows in 20 iterations.
    assert rows.counter.tally["rows"] < 850 * len(data.holdout)


def test_results_do_not_depend_on_order_batch_or_other_points(monkeypatch: pytest.MonkeyPatch) -> None:
    target, data = problem(plane, x2={"kind": "integer"})
    data = data.mapped(lambda split: type(split)(np.rint(split.x * [1e9, 1e9, 1]) / [1e9, 1e9, 1], split.y))
    data = data.mapped(lambda split: type(split)(split.x, plane(split.x).astype(np.int64)))
    whole, _ = attack(target, data, iterations=4)
    draw = np.random.default_rng(1)
    order = draw.permutation(len(data.holdout))
    mixed = data.with_holdout(order)
    train = draw.permutation(len(data.train))
    mixed = cm.Dataset(
        train=(data.train.x[train], data.train.y[train]),
        holdout=(mixed.holdout.x, mixed.holdout.y),
        schema=data.schema,
    )
    np.testing.assert_array_equal(attack(target, mixed, iterations=4)[0], whole[order])
    few = np.array([3, 30])
    np.testing.assert_array_equal(attack(target, data.with_holdout(few), iterations=4)[0], whole[few])
    monkeypatch.setattr(module, "MAX_CELLS", 3 * 200 * 7)  # batches of seven
    np.testing.assert_array_equal(attack(target, data, iterations=4)[0], whole)


@pytest.mark.parametrize("mode", module.MODES)
def test_whole_numbers_stay_whole_and_are_probed_by_whole_steps(mode: str) -> None:
    def rule(x: np.ndarray) -> np.ndarray:
        return 2 * x[:, 0] + x[:, 1] + x[:, 2] > 18

    target, data = problem(rule, whole=True)
    found, run = attack(target, data, mode=mode)
    assert (rule(found) != data.holdout.y).all()
    assert (found == np.rint(found)).all()
    grid = np.stack(np.meshgrid(*[np.arange(10)] * 3, indexing="ij"), -1).reshape(-1, 3)
    apart = np.sqrt(np.square(data.holdout.x[:, None] - grid).sum(2))
    exact = np.where(rule(grid) != data.holdout.y[:, None], apart, np.inf).min(1)
    ratio = sizes(data, found, run) / exact
    assert ratio.min() >= 1 - 1e-9
    assert (ratio < 1.001).mean() > (0.6 if mode == "min_calls" else 0.4) and ratio.max() < 1.7


def test_small_probes_of_whole_numbers_are_not_rounded_away() -> None:
    """Thirty columns: a probe moves each by a fraction of a cell, and would tell nothing if that were rounded."""
    weight = np.arange(1, 31) / 10

    def rule(x: np.ndarray) -> np.ndarray:
        return x @ weight > 4.5 * weight.sum()

    target, data = problem(rule, d=30, whole=True)
    found, run = attack(target, data, iterations=3)
    gap = np.abs(data.holdout.x @ weight - 4.5 * weight.sum())
    ratio = sizes(data, found, run) / (
        gap / np.sqrt(np.square(weight).sum())
    )  # to what real numbers could do
    assert ratio.min() >= 1 - 1e-9
    assert np.median(ratio) < 1.8  # 1.6; with rounded probes 2.2


def test_what_may_not_move_does_not_and_what_may_moves_one_way() -> None:
    target, data = problem(plane, x0={"immutable": True}, x1={"monotone": "increasing"})
    found, _ = attack(target, data)
    moved = found - data.holdout.x
    assert not moved[:, 0].any()
    assert (moved[:, 1] >= 0).all() and moved[:, 1].any()
    assert (plane(found) != data.holdout.y).mean() > 0.5


def test_relations_hold() -> None:
    target, data = problem(lambda x: x[:, 0] > 0.5)
    keep = (data.holdout.x[:, 0] <= data.holdout.x[:, 1]) & (data.holdout.x[:, 1] < 2)
    rule = Relation(left=("x0",), op="<=", right=("x1",))
    schema = type(data.schema)(columns=data.schema.columns, relations=(rule,))
    part = data.with_holdout(np.flatnonzero(keep))
    data = cm.Dataset(
        train=(data.train.x, data.train.y), holdout=(part.holdout.x, part.holdout.y), schema=schema
    )
    found, _ = attack(target, data)
    assert (found[:, 0] <= found[:, 1] + 1e-8).all()
    assert ((found[:, 0] > 0.5) != data.holdout.y).all()


def test_holes_stay_holes_and_the_rest_is_searched() -> None:
    case_target, data = micro.bound("holes")
    found, _ = attack(case_target, data, cm.Threat(norm="linf", radius=1.0), iterations=5)
    holes = np.isnan(data.holdout.x)
    assert holes.any() and (np.isnan(found) == holes).all()
    right = case_target.labels(data.holdout.x) == data.holdout.y
    holed = holes.any(1) & right
    assert (case_target.labels(found) != data.holdout.y)[holed].any()


@pytest.mark.parametrize("name", ["pipeline", "polars_pipeline", "remote_labels", "vectors"])
def test_models_on_frames_with_categories(name: str) -> None:
    target, data = micro.bound(name)
    threat = cm.Threat(norm="linf", radius=0.5)
    found, run = attack(target, data, threat, iterations=3)
    categories = [i for i, column in enumerate(data.schema.columns) if column.kind == "category"]
    same = (found == data.holdout.x) | (np.isnan(found) & np.isnan(data.holdout.x))
    assert same[:, categories].all()
    right = target.labels(data.holdout.x) == data.holdout.y
    broken = right & (target.labels(found) != data.holdout.y)
    assert broken.sum() > 0.5 * right.sum()
    measured = {
        row.quantity: row.value for row in harness.execute(METHOD, target, data, run, {"iterations": 1})
    }
    assert measured["invalid_examples"] == 0.0


def test_a_donor_of_another_category_is_asked_with_the_victims_own() -> None:
    """What makes the donor's class is its category, which the victim cannot take: nothing may be claimed."""
    draw = np.random.default_rng(0)
    town = np.repeat(["Bern", "Zug"], 30)
    age = draw.uniform(0, 1, 60)
    rows = np.empty((60, 2), object)
    rows[:, 0], rows[:, 1] = age, town
    y = (town == "Zug").astype(np.int64)
    target = make(lambda x: np.int64(x[:, 1] == "Zug"), classes=[0, 1], outputs="labels")
    data = cm.Dataset(train=(rows, y), holdout=(rows[::7], y[::7]))
    found, run = attack(target, data, iterations=3)
    np.testing.assert_array_equal(found, data.holdout.x)
    assert any("no example was found" in note for note in run.notes)


def test_a_goal_is_reached_and_points_there_already_stay() -> None:
    target, data = micro.bound("forest")
    threat = cm.Threat(norm="l2", radius=1.0, goal=2)
    found, _ = attack(target, data, threat, iterations=5)
    before, after = target.labels(data.holdout.x), target.labels(found)
    assert (after == 2).mean() > 0.9 and (before != 2).any()
    np.testing.assert_array_equal(found[before == 2], data.holdout.x[before == 2])


def test_points_the_model_gets_wrong_are_left_alone() -> None:
    target, data = problem(plane)
    y = data.holdout.y.copy()
    y[:10] = 1 - y[:10]
    data = cm.Dataset(train=(data.train.x, data.train.y), holdout=(data.holdout.x, y), schema=data.schema)
    found, _ = attack(target, data, iterations=2)
    np.testing.assert_array_equal(found[:10], data.holdout.x[:10])
    assert (found[10:] != data.holdout.x[10:]).any(1).all()


@pytest.mark.parametrize("mode", module.MODES)
def test_a_constant_model_has_no_examples(mode: str) -> None:
    _, data = problem(plane)
    constant = make(lambda rows: np.zeros(len(rows), np.int64), classes=[0, 1], outputs="labels")
    data = data.with_holdout(np.flatnonzero(data.holdout.y == 0))
    found, run = attack(constant, data, mode=mode)
    np.testing.assert_array_equal(found, data.holdout.x)
    assert run.notes == [
        f"For {len(data.holdout)} of {len(data.holdout)} points no example was found at any distance."
    ]


@pytest.mark.parametrize("mode", module.MODES)
def test_without_rows_of_another_class_it_looks_in_the_box(mode: str) -> None:
    target, data = problem(plane)
    one = data.train.y == 0
    x, y = data.train.x[one], data.train.y[one]
    alone = cm.Dataset(
        train=(x, y), holdout=(data.holdout.x, data.holdout.y), schema=data.schema, reference=(x, y)
    )
    held = alone.with_holdout(np.flatnonzero(alone.holdout.y == 0))
    found, _ = attack(target, held, iterations=2, mode=mode)
    assert plane(found).mean() > 0.95
    free = held.schema.with_columns({f"x{i}": {"low": -np.inf, "high": np.inf} for i in range(3)})
    endless = cm.Dataset(
        train=(x, y), holdout=(held.holdout.x, held.holdout.y), schema=free, reference=(x, y)
    )
    assert plane(attack(target, endless, iterations=2, mode=mode)[0]).mean() > 0.95


@pytest.mark.parametrize("mode", module.MODES)
@pytest.mark.parametrize("n_queries", [1, 39, 500, 5000, 20_000])
def test_a_query_budget_ends_the_search_and_loses_nothing(n_queries: int, mode: str) -> None:
    target, data = problem(plane)
    threat = cm.Threat(norm="l2", radius=1.0, scale="raw", n_queries=n_queries)
    found, run = attack(target, data, threat, mode=mode)
    assert run.counter.tally["rows"] <= n_queries
    assert any(f"query budget of {n_queries} rows" in note for note in run.notes)
    broken = plane(found) != data.holdout.y
    assert broken.sum() >= min(len(broken), n_queries // module.LEAST_ROWS)
    if n_queries == 20_000:
        full, free = attack(target, data)
        assert np.median(sizes(data, found, run)) < 1.5 * np.median(sizes(data, full, free))


def test_a_query_budget_is_shared_by_all_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    target, data = problem(plane)
    monkeypatch.setattr(module, "MAX_CELLS", 3 * module.MAX_ASKED * 7)  # batches of seven
    n_queries = 110 * len(data.holdout)
    found, _ = attack(target, data, cm.Threat(norm="l2", radius=1.0, scale="raw", n_queries=n_queries))
    assert (plane(found) != data.holdout.y).all()


def test_a_door_that_closes_by_itself_loses_nothing_either() -> None:
    target, data = problem(plane)
    target, data = target.bind(data)
    found, run = attack(target.limited_to(LABELS, n_queries=6000), data)
    assert (plane(found) != data.holdout.y).all()
    assert any("budget" in note for note in run.notes)


def test_the_deadline_takes_iterations_unless_the_user_fixed_them() -> None:
    target, data = problem(plane)
    target, data = target.bind(data)
    late = {"card": METHOD.card, "threat": L2.resolved(data.schema), "deadline": time.monotonic() - 1}
    found, run = attack(target, data, run=Run(**late))
    assert run.used["iterations"] == 1
    assert (plane(found) != data.holdout.y).all()
    _, run = attack(target, data, run=Run(**late, pinned=frozenset({"iterations"})), iterations=3)
    assert run.used["iterations"] == 3


def test_progress_ends_at_its_total() -> None:
    target, data = problem(plane)
    target, data = target.bind(data)
    seen: list[tuple[int, int]] = []
    run = Run(
        card=METHOD.card,
        threat=L2.resolved(data.schema),
        progress=lambda label, done, total: seen.append((done, total)),
    )
    attack(target, data, run=run, iterations=3)
    assert seen[-1] == (3, 3) and seen == sorted(seen)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_images_keep_their_dtype_and_what_was_asked_is_returned(dtype: type) -> None:
    draw = np.random.default_rng(0)
    top = 1.0 if dtype is np.float32 else 255
    x = (draw.uniform(0, 1, (60, 1, 4, 4)) * top).astype(dtype)
    middle = 0.5 * top
    asked: set[bytes] = set()

    def bright(rows: np.ndarray) -> np.ndarray:
        asked.update(np.asarray(row, dtype).tobytes() for row in rows)
        return np.int64(np.asarray(rows, np.float64).mean((1, 2, 3)) > middle)

    y = bright(x)
    data = cm.Dataset(train=(x[:40], y[:40]), holdout=(x[40:], y[40:]))
    target = make(bright, classes=[0, 1], outputs="labels")
    found, run = attack(target, data, cm.Threat(norm="linf", radius=0.1 * top))
    assert (bright(found) != y[40:]).all()
    assert all(row.tobytes() in asked for row in found)
    exact = np.abs(np.asarray(x[40:], np.float64).mean((1, 2, 3)) - middle)
    assert (sizes(data, found, run) <= 1.5 * exact + (0 if dtype is np.float32 else 2)).all()


def test_edges_one_row_no_radius_no_rows() -> None:
    target, data = problem(plane)
    one, _ = attack(target, data.with_holdout(np.array([4])))
    assert plane(one)[0] != data.holdout.y[4]
    still, run = attack(target, data, cm.Threat(norm="l2", radius=0.0, scale="raw"))
    np.testing.assert_array_equal(still, data.holdout.x)
    assert run.counter.tally["rows"] == 0
    assert len(attack(target, data.with_holdout(np.array([], int)))[0]) == 0


def test_a_table_in_which_nothing_may_move() -> None:
    frozen = {f"x{i}": {"immutable": True} for i in range(3)}
    target, data = problem(plane, **frozen)
    found, _ = attack(target, data)
    np.testing.assert_array_equal(found, data.holdout.x)


@pytest.mark.parametrize(
    "params", [{"iterations": 0}, {"n_probes": 0}, {"max_probes": 0}, {"mode": "fast"}], ids=str
)
def test_parameters_are_checked(params: dict[str, Any]) -> None:
    target, data = problem(plane)
    with pytest.raises(InvalidData, match="hop_skip_jump needs"):
        attack(target, data, **params)


def test_other_norms_are_refused() -> None:
    target, data = problem(plane)
    with pytest.raises(InvalidThreat, match="l1"):
        attack(target, data, cm.Threat(norm="l1", radius=1.0))
