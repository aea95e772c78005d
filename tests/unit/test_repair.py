# SPDX-License-Identifier: Apache-2.0
"""Repaired rows against the independent validator, against a general solver, and against every feasible row."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from casemate.core.errors import InvalidThreat
from casemate.core.schema import Column, Relation, Schema, distances, violations
from casemate.core.types import Threat
from casemate.robustness.geometry import project
from casemate.robustness.repair import Repair

NORMS = ("linf", "l2", "l1", "l0")


def world(seed: int) -> tuple[Schema, np.ndarray, np.ndarray]:
    """A random schema of every kind of column and rule, originals (some already break it), and wild wishes."""
    rng = np.random.default_rng(seed)
    columns: list[Column] = []
    for i in range(int(rng.integers(1, 8))):
        kind = rng.choice(["real", "real", "integer", "category"])
        low = float(rng.choice([-np.inf, -3.0, 0.0, -2.5])) if kind != "category" else -np.inf
        high = (
            float(rng.choice([np.inf, 4.0, 0.5, low if np.isfinite(low) else 7.0]))
            if kind != "category"
            else np.inf
        )
        columns.append(
            Column(
                name=f"c{i}",
                kind=kind,
                categories=tuple("abcd"[: int(rng.integers(0, 5))]) if kind == "category" else (),
                low=low,
                high=max(low, high),
                spread=float(rng.choice([0.0, 0.3, 1.0, 40.0])),
                immutable=bool(rng.random() < 0.15),
                monotone=[None, None, None, "increasing", "decreasing"][int(rng.integers(5))],
            )
        )
    groups = []
    for g in range(int(rng.integers(0, 3))):
        members = [f"g{g}{k}" for k in range(int(rng.integers(1, 5)))]
        for name in members:
            boolean = bool(rng.random() < 0.3)  # pandas' get_dummies gives these
            columns.append(
                Column(
                    name=name,
                    kind="category" if boolean else "integer",
                    categories=(False, True) if boolean else (),
                    low=-np.inf if boolean else 0.0,
                    high=np.inf if boolean else float(rng.random() < 0.9),
                    spread=0.4,
                    immutable=bool(rng.random() < 0.1),
                    monotone=["increasing", None, None, None][int(rng.integers(4))],
                )
            )
        groups.append(tuple(members))
    names = [column.name for column in columns]
    relations = []
    for _ in range(int(rng.integers(0, 4))):
        picked = rng.permutation(names)[: int(rng.integers(1, 5))].tolist()
        cut = int(rng.integers(0, len(picked) + 1))
        relations.append(
            Relation(left=tuple(picked[:cut]), op=str(rng.choice(["<=", "=="])), right=tuple(picked[cut:]))  # type: ignore[arg-type]
        )
    n = 25
    x = np.empty((n, len(columns)))
    for i, column in enumerate(columns):
        low, high = np.clip([column.low, column.high], -5, 5)
        x[:, i] = rng.uniform(low, max(low, high), n)
        if column.kind == "integer":
            x[:, i] = np.round(x[:, i])
        if column.kind == "category":
            x[:, i] = rng.integers(0, max(1, len(column.categories)), n)
    for group in groups:
        cells = [names.index(name) for name in group]
        x[:, cells] = np.eye(len(cells))[rng.integers(0, len(cells), n)]
    x[rng.random(x.shape) < 0.05] += rng.choice([0.4, 30.0])  # off the grid, out of the bounds, two hot cells
    x[rng.random(x.shape) < 0.05] = np.nan
    for relation in relations:  # half of the rows are made to keep what one more column can repair
        cell = [names.index(name) for name in (*relation.left, *relation.right)]
        if relation.op == "==" and columns[cell[-1]].kind == "real":
            sign = -1.0 if names[cell[-1]] in relation.left else 1.0
            total = x[:, [names.index(k) for k in relation.left]].sum(1) - x[
                :, [names.index(k) for k in relation.right]
            ].sum(1)
            x[: n // 2, cell[-1]] += sign * total[: n // 2]
    schema = Schema(columns=tuple(columns), groups=tuple(groups), relations=tuple(relations))
    wanted = x + rng.normal(size=x.shape) * rng.choice([0.01, 1.0, 30.0], size=x.shape)
    wanted[rng.random(x.shape) < 0.2] = rng.choice([np.nan, np.inf, -np.inf, 1e300])
    return schema, x, wanted


@settings(deadline=None, max_examples=100, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), norm=st.sampled_from(NORMS), scale=st.sampled_from(["raw", "spread"]),
       radius=st.sampled_from([0.0, 0.05, 1.0, 2.0, 9.0]))  # fmt: skip
@example(seed=0, norm="l0", scale="spread", radius=1.0)
def test_no_rule_is_ever_broken_and_twice_changes_nothing(
    seed: int, norm: Any, scale: Any, radius: float
) -> None:
    schema, x, wanted = world(seed)
    threat = Threat(norm=norm, radius=radius, scale=scale)
    repair, at = Repair.of(x, schema, threat), np.arange(len(x))
    inside, free = repair.within(wanted, at), repair.feasible(wanted, at)
    assert {k for k, bad in violations(x, inside, threat, schema).items() if bad.any()} == set()
    assert {k for k, bad in violations(x, free, threat, schema).items() if bad.any()} <= {"radius"}
    far = distances(x, inside, threat, schema)
    assert (far <= radius * (1 + 1e-9)).all() and (repair.size(inside, at) == far).all()
    np.testing.assert_array_equal(repair.within(inside, at), inside)
    np.testing.assert_array_equal(repair.feasible(free, at), free)
    np.testing.assert_array_equal(repair.feasible(inside, at), inside)
    np.testing.assert_array_equal(repair.within(x, at), x)  # an original is what it is
    np.testing.assert_array_equal(repair.feasible(x, at), x)
    moved = (free != x) & ~np.isnan(x)
    assert (repair.unit[moved] > 0).all()
    order = np.random.default_rng(seed).permutation(len(x))[:7]  # rows are repaired alone
    np.testing.assert_array_equal(repair.within(wanted[order], order), inside[order])


def test_the_nearest_row_of_a_half_space_is_found_by_slsqp() -> None:
    """part_a + part_b <= whole over cells of different units: the shortest move, as a general solver finds it."""
    columns = tuple(
        Column(name=n, kind="real", low=0, high=9, spread=s)
        for n, s in zip("abc", (1.0, 3.0, 2.0), strict=True)
    )
    schema = Schema(columns=columns, relations=(Relation(left=("a", "b"), op="<=", right=("c",)),))
    rng = np.random.default_rng(0)
    x, spread = np.tile([1.0, 1.0, 4.0], (20, 1)), np.array([1.0, 3.0, 2.0])
    wanted = rng.uniform(0, 9, (20, 3))
    found = Repair.of(x, schema, Threat(norm="l2", radius=1, scale="spread")).feasible(wanted, np.arange(20))
    assert (found != wanted).any(1).sum() > 8
    for wish, row in zip(wanted, found, strict=True):
        solved = minimize(
            lambda r, wish=wish: np.square((r - wish) / spread).sum(), [1.0, 1.0, 4.0], method="SLSQP",
            bounds=[(0, 9)] * 3, constraints={"type": "ineq", "fun": lambda r: r[2] - r[0] - r[1]},
            options={"ftol": 1e-14, "maxiter": 500},
        )  # fmt: skip
        ours = np.square((row - wish) / spread).sum()
        assert ours <= solved.fun * 1.05 + 1e-9  # clipping at the box may cost a little


def test_l1_is_projected_as_slsqp_does() -> None:
    shifts = np.random.default_rng(0).normal(size=(6, 4))
    for shift, found in zip(shifts, project(shifts, 0.7, "l1"), strict=True):
        solved = minimize(  # split into positive and negative parts: smooth
            lambda s, shift=shift: np.square(s[:4] - s[4:] - shift).sum(), np.zeros(8), method="SLSQP",
            bounds=[(0, 9)] * 8, constraints={"type": "ineq", "fun": lambda s: 0.7 - s.sum()},
            options={"ftol": 1e-14, "maxiter": 500},
        )  # fmt: skip
        np.testing.assert_allclose(found, solved.x[:4] - solved.x[4:], atol=1e-5)


def small() -> tuple[Schema, np.ndarray]:
    columns = (
        Column(name="a", kind="integer", low=0, high=4, spread=1.0),
        Column(name="b", kind="integer", low=0, high=4, spread=2.0),
        Column(name="sum", kind="integer", low=0, high=8, spread=2.0),
        Column(name="cap", kind="integer", low=0, high=5, spread=1.0, monotone="increasing"),
    )
    relations = (
        Relation(left=("a", "b"), op="==", right=("sum",)),
        Relation(left=("a",), op="<=", right=("cap",)),
    )
    x = np.array(
        [[a, b, a + b, c] for a, b, c in itertools.product(range(5), range(5), range(6)) if a <= c], float
    )
    return Schema(columns=columns, relations=relations), x


@pytest.mark.parametrize("norm", NORMS)
def test_every_feasible_row_of_a_small_grid_is_reached_and_wishes_are_repaired(norm: Any) -> None:
    """All rows are enumerated: wishing for a feasible row gives that row, and other wishes seldom give up."""
    schema, grid = small()
    threat = Threat(norm=norm, radius=2.0, scale="raw")
    repair = Repair.of(grid, schema, threat)
    pairs = np.array(list(itertools.product(range(len(grid)), range(len(grid)))))
    at, wish = pairs[:, 0], grid[pairs[:, 1]]
    bad = violations(grid[at], wish, threat, schema)
    legal = ~np.logical_or.reduce([bad[rule] for rule in bad if rule != "radius"])
    np.testing.assert_array_equal(repair.feasible(wish[legal], at[legal]), wish[legal])
    near = legal & ~bad["radius"]
    assert near.sum() > len(grid)
    np.testing.assert_array_equal(repair.within(wish[near], at[near]), wish[near])
    rng = np.random.default_rng(1)
    at = rng.integers(0, len(grid), 2000)
    wild = np.column_stack(
        [rng.integers(0, 5, 2000), rng.integers(0, 5, 2000), rng.integers(0, 9, 2000), grid[at, 3]]
    )
    result = repair.feasible(wild, at)
    assert (result != grid[at]).any(1).mean() > 0.75  # some wishes are nearest to the original


def test_integers_of_an_equality_stay_whole_and_reals_take_the_rest() -> None:
    columns = (
        Column(name="n", kind="integer", low=0, high=9),
        Column(name="r", kind="real", low=0, high=9),
        Column(name="t", kind="real", low=0, high=20, immutable=True),
    )
    schema = Schema(columns=columns, relations=(Relation(left=("n", "r"), op="==", right=("t",)),))
    repair = Repair.of(np.array([[3.0, 4.25, 7.25]]), schema, Threat(norm="l2", radius=5, scale="raw"))
    found = repair.feasible(np.array([[6.0, 4.25, 7.25]]), np.array([0]))[0]
    assert found[0] == round(found[0]) > 3 and found[2] == 7.25
    assert found[0] + found[1] == pytest.approx(7.25, abs=1e-12)


def one_hot() -> Schema:
    columns = [Column(name=n, kind="integer", low=0, high=1, spread=0.5) for n in ("red", "green", "blue")]
    columns[2] = Column(name="blue", kind="integer", low=0, high=0, spread=0.5)  # never seen
    columns.append(Column(name="ward", kind="category", categories=("a", "b", "c")))
    columns.append(Column(name="v", kind="real", low=0, high=9))
    return Schema(columns=tuple(columns), groups=(("red", "green", "blue"),))


def test_under_an_edit_budget_a_group_switches_together_and_counts_once() -> None:
    schema, x, at = one_hot(), np.array([[1.0, 0, 0, 1, 5]]), np.array([0])
    repair = Repair.of(x, schema, Threat(norm="l0", radius=1))
    switched = repair.within(np.array([[0.2, 0.9, 3.0, 1, 5]]), at)
    assert switched.tolist() == [[0, 1, 0, 1, 5]]  # blue is out of its bounds, green is next
    assert repair.size(switched, at).tolist() == [1.0]
    three = repair.feasible(np.array([[0.0, 1, 0, 1.7, 8]]), at)
    assert three.tolist() == [[0, 1, 0, 2, 8]] and repair.size(three, at).tolist() == [3.0]
    assert repair.size(repair.within(three, at), at).tolist() == [1.0]
    assert repair.unit[0].tolist() == [1, 1, 0, 1, 1]


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_categories_and_groups_have_no_distance_and_stay(norm: Any) -> None:
    x, at = np.array([[1.0, 0, 0, 1, 5]]), np.array([0])
    repair = Repair.of(x, one_hot(), Threat(norm=norm, radius=50))
    assert repair.within(np.array([[0.0, 1, 0, 2, 6]]), at).tolist() == [[1, 0, 0, 1, 6]]
    assert repair.unit[0].tolist() == [0, 0, 0, 0, 1]


def test_violations_count_a_group_as_one_edit() -> None:
    schema, x = one_hot(), np.array([[1.0, 0, 0, 1, 5]] * 2)
    changed = np.array([[0.0, 1, 0, 1, 5], [0, 1, 0, 2, 5]])
    assert violations(x, changed, Threat(norm="l0", radius=1), schema)["radius"].tolist() == [False, True]


def test_a_wish_beyond_the_ball_uses_the_ball() -> None:
    """The far corner: each norm's ball is used to its edge, whole numbers to the last that fits."""
    schema = Schema(
        columns=(
            Column(name="a", kind="real"),
            Column(name="b", kind="real"),
            Column(name="k", kind="integer"),
        )
    )
    x, at = np.zeros((1, 3)), np.array([0])
    for norm, least in (("linf", 2.5), ("l2", 2.35), ("l1", 1.9)):
        repair = Repair.of(x, schema, Threat(norm=norm, radius=2.5, scale="raw"))  # type: ignore[arg-type]
        row = repair.within(np.array([[50.0, -40.0, 60.0]]), at)
        assert repair.size(row, at)[0] >= least - 1e-9, norm
    few = Repair.of(x, schema, Threat(norm="l0", radius=2)).within(np.array([[50.0, -40.0, 60.0]]), at)
    assert few.tolist() == [[50, 0, 60]]


def test_images_are_clipped_rounded_and_held_in_their_own_precision() -> None:
    images = np.random.default_rng(0).random((6, 1, 4, 4)).astype(np.float32)
    schema, at = Schema.infer(images), np.arange(6)
    for norm in ("linf", "l2"):
        threat = Threat(norm=norm, radius=0.1).resolved(schema)  # type: ignore[arg-type]
        rows = Repair.of(images, schema, threat).within(images + 0.4, at)
        assert rows.shape == images.shape and (rows.astype(np.float32) == rows).all()
        assert (distances(images, rows, threat, schema) <= 0.1).all()
        assert not any(bad.any() for bad in violations(images, rows, threat, schema).values())
    whole = (images * 255).astype(np.uint8)
    rows = Repair.of(whole, Schema.infer(whole), Threat(norm="linf", radius=3.7, scale="raw")).within(
        whole + 90.0, at
    )
    assert (rows == np.minimum(255, whole.astype(int) + 3)).all()


def test_without_a_radius_there_is_no_ball() -> None:
    schema = Schema(columns=(Column(name="a", kind="real"),))
    with pytest.raises(InvalidThreat, match="no radius"):
        Repair.of(np.zeros((1, 1)), schema, Threat(norm="l2")).within(np.ones((1, 1)), np.array([0]))


def test_a_relation_that_the_original_breaks_does_not_freeze_the_other_columns() -> None:
    schema = Schema(
        columns=tuple(Column(name=n, kind="real", immutable=n != "age") for n in ("paid", "owed", "age")),
        relations=(Relation(left=("paid",), op="<=", right=("owed",)),),
    )
    repair = Repair.of(np.array([[5.0, 3.0, 40.0]]), schema, Threat(norm="l2", radius=2, scale="raw"))
    assert repair.within(np.array([[5.0, 3.0, 41.0]]), np.array([0])).tolist() == [[5.0, 3.0, 41.0]]


def test_whole_numbers_move_by_one_or_not_at_all() -> None:
    schema = Schema(columns=(Column(name="n", kind="integer", low=0, high=9, spread=2.0),))
    x = np.array([[4.0], [np.nan], [12.0]])
    for radius, can in ((0.4, False), (0.5, True)):
        repair = Repair.of(x, schema, Threat(norm="linf", radius=radius, scale="spread"))
        assert repair.movable().tolist() == [can, False, False]
    for radius, can in ((0.5, False), (1, True)):
        assert Repair.of(x, schema, Threat(norm="l0", radius=radius)).movable().tolist() == [
            can,
            False,
            False,
        ]
