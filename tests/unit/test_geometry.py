# SPDX-License-Identifier: Apache-2.0
"""Projections against a general solver, starts against their law, and what may move against the validator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import minimize

from casemate.core.errors import InvalidThreat
from casemate.core.schema import Column, Relation, Schema, violations
from casemate.core.types import Threat
from casemate.robustness import geometry
from casemate.robustness.geometry import Reach, ball, finite, project, random_start, sample_ids, steepest

NORMS = geometry.NORMS


def length(shift: np.ndarray, norm: str) -> np.ndarray:
    flat = shift.reshape(len(shift), -1)
    return np.abs(flat).max(1) if norm == "linf" else np.sqrt(np.square(flat).sum(1))


@pytest.mark.parametrize("norm", NORMS)
def test_project_is_the_nearest_point_of_the_ball_by_slsqp(norm: str) -> None:
    shifts = np.random.default_rng(0).normal(size=(6, 4))
    ours = project(shifts, 0.7, norm)
    for shift, found in zip(shifts, ours, strict=True):
        if norm == "linf":
            limit = {"bounds": [(-0.7, 0.7)] * 4}
        else:
            limit = {"constraints": {"type": "ineq", "fun": lambda s: 0.49 - s @ s, "jac": lambda s: -2 * s}}
        solved = minimize(
            lambda s, shift=shift: np.square(s - shift).sum(),
            np.zeros(4),
            jac=lambda s, shift=shift: 2 * (s - shift),
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
            **limit,
        )
        np.testing.assert_allclose(found, solved.x, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_project_leaves_the_inside_alone_to_the_bit_and_radius_zero_gives_zero(norm: str) -> None:
    inside = np.random.default_rng(1).uniform(-0.1, 0.1, (5, 3, 2, 2))
    assert (project(inside, 5.0, norm) == inside).all()
    assert (project(inside, 0.0, norm) == 0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_steepest_has_the_dual_norm_as_its_gain(norm: str) -> None:
    gradient = np.random.default_rng(2).normal(size=(7, 3, 2, 2))
    direction = steepest(gradient, norm)
    np.testing.assert_allclose(length(direction, norm), 1.0, rtol=1e-12)
    dual = np.abs(gradient).sum((1, 2, 3)) if norm == "linf" else length(gradient, "l2")
    np.testing.assert_allclose((gradient * direction).sum((1, 2, 3)), dual, rtol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_steepest_of_zero_is_zero_and_of_tiny_gradients_is_not(norm: str) -> None:
    gradient = torch.tensor([[0.0, 0.0], [3e-30, -4e-30], [3.0, -4.0]])  # 1e-30 squared is zero in float32
    direction = steepest(gradient, norm)
    assert (direction[0] == 0).all()
    torch.testing.assert_close(direction[1], direction[2])


@pytest.mark.parametrize("norm", NORMS)
def test_numpy_and_torch_agree(norm: str) -> None:
    values = np.random.default_rng(3).normal(size=(5, 2, 3, 3))
    for function in (lambda v: project(v, 1.1, norm), lambda v: steepest(v, norm)):
        np.testing.assert_allclose(function(values), function(torch.as_tensor(values)).numpy(), rtol=1e-12)


def test_nan_gradients_become_zero_and_are_counted() -> None:
    bad = np.array([[np.nan, 1.0], [1.0, 2.0], [np.nan, np.nan]])
    for values in (bad, torch.as_tensor(bad)):
        clean, count = finite(values)
        assert count == 2
        assert np.asarray(clean).tolist() == [[0.0, 1.0], [1.0, 2.0], [0.0, 0.0]]


# ---- random starts ----


@pytest.mark.parametrize("shape", [(1,), (5,), (1, 2, 3)])
@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_are_uniform_in_the_ball(norm: str, shape: tuple[int, ...]) -> None:
    """The d-th power of the norm of a uniform point is uniform, and each cell has mean zero (each at 1e-7)."""
    ids = sample_ids(np.arange(20_000.0).reshape(-1, 1))
    shift = random_start(ids, shape, radius=0.5, norm=norm, seed=4)
    d = int(np.prod(shape))
    inside = (length(shift, norm) / 0.5) ** d
    assert inside.max() <= 1 + 1e-12
    assert stats.kstest(inside, "uniform").pvalue > 1e-7
    cells = shift.reshape(len(shift), -1)
    z = cells.mean(0) / cells.std(0) * np.sqrt(len(cells))
    assert np.abs(z).max() < 5.5  # two-sided 4e-8 a cell
    if d > 1:
        correlation = np.corrcoef(cells.T)[np.triu_indices(d, 1)] * np.sqrt(len(cells))
        assert np.abs(correlation).max() < 5.6


def test_a_start_depends_on_the_sample_and_the_seed_alone() -> None:
    x = np.random.default_rng(5).normal(size=(40, 6))
    x[3, 2], x[4, 2] = np.nan, 0.0
    order = np.random.default_rng(6).permutation(40)
    whole = random_start(sample_ids(x), (6,), radius=1.0, norm="l2", seed=1)
    shuffled = random_start(sample_ids(x[order]), (6,), radius=1.0, norm="l2", seed=1)
    assert (whole[order] == shuffled).all()
    assert (random_start(sample_ids(x[7:9]), (6,), radius=1.0, norm="l2", seed=1) == whole[7:9]).all()
    assert (random_start(sample_ids(x), (6,), radius=1.0, norm="l2", seed=2) != whole).all()
    negative = x.copy()
    negative[4, 2] = -0.0
    assert (sample_ids(negative) == sample_ids(x)).all()
    assert len(set(sample_ids(x).tolist())) == 40


@pytest.mark.parametrize("norm", NORMS)
def test_frozen_cells_get_no_start_and_the_rest_fills_its_own_ball(norm: str) -> None:
    ids = sample_ids(np.arange(20_000.0).reshape(-1, 1))
    free = np.array([True, False, True, False])
    shift = random_start(ids, (4,), radius=1.0, norm=norm, seed=0, free=free)
    assert (shift[:, ~free] == 0).all()
    assert stats.kstest(length(shift, norm) ** 2, "uniform").pvalue > 1e-7  # two free cells


# ---- what may move ----

COLUMNS = (
    Column(name="real", kind="real", low=-10, high=10, spread=2.0),
    Column(name="whole", kind="integer", low=0, high=9, spread=3.0),
    Column(name="fixed", kind="real", low=-5, high=5, immutable=True),
    Column(name="code", kind="category", categories=("a", "b", "c")),
    Column(name="up", kind="real", low=-10, high=10, monotone="increasing"),
    Column(name="down", kind="real", low=-10, high=10, monotone="decreasing"),
    Column(name="same", kind="real", low=1, high=1, spread=0.0),
    Column(name="hot_a", kind="integer", low=0, high=1, spread=0.5),
    Column(name="hot_b", kind="integer", low=0, high=1, spread=0.5),
    Column(name="part", kind="real", low=0, high=20, spread=1.0),
    Column(name="total", kind="real", low=0, high=20, spread=1.0),
    Column(name="paid", kind="real", low=0, high=20, spread=4.0),
    Column(name="owed", kind="real", low=0, high=20, spread=4.0),
)
SCHEMA = Schema(
    columns=COLUMNS,
    groups=(("hot_a", "hot_b"),),
    relations=(
        Relation(left=("part",), op="==", right=("total",)),
        Relation(left=("paid",), op="<=", right=("owed",)),
    ),
)


def table(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    hot = rng.integers(0, 2, n)
    part, owed = rng.uniform(0, 20, n), rng.uniform(0, 20, n)
    columns = [
        rng.uniform(-10, 10, n), rng.integers(0, 10, n), rng.uniform(-5, 5, n), rng.integers(0, 3, n),
        rng.uniform(-10, 10, n), rng.uniform(-10, 10, n), np.ones(n), hot, 1 - hot, part, part,
        owed * rng.uniform(0, 1, n), owed,
    ]  # fmt: skip
    x = np.column_stack(columns).astype(np.float64)
    x[rng.random(n) < 0.2, 0] = np.nan
    x[rng.random(n) < 0.1, 1] = np.nan
    return x


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("radius", [0.01, 0.7, 50.0])
def test_whatever_an_attack_proposes_settles_within_every_rule(norm: str, radius: float) -> None:
    x = table(400)
    threat = Threat(norm=norm, radius=radius).resolved(SCHEMA)
    reach = Reach.of(x, SCHEMA, threat)
    wild = x + np.random.default_rng(1).normal(size=x.shape) * 30
    wild[0], wild[1, 4] = np.nan, np.inf
    settled = reach.settle(wild)
    broken = violations(x, settled, threat, SCHEMA)
    assert {rule: int(mask.sum()) for rule, mask in broken.items() if mask.any()} == {}
    moved = (settled != x) & ~np.isnan(x)
    names = {name for name, any_moved in zip(SCHEMA.names, moved.any(0), strict=True) if any_moved}
    can = {"real", "up", "down", "paid", "owed"} | ({"whole"} if radius > 0.4 else set())
    assert names == can
    np.testing.assert_allclose(
        reach.settle(settled), settled, rtol=1e-12, atol=1e-12
    )  # twice changes nothing


def test_the_limits_of_a_column_are_those_of_ball_box_and_direction() -> None:
    x = table(1)
    x[0, :6] = [9.5, 4.0, 0.0, 1.0, 3.0, 3.0]
    reach = Reach.of(x, SCHEMA, Threat(norm="linf", radius=0.5, scale="spread"))
    assert reach.low[0, [0, 1, 4, 5]].tolist() == [8.5, 3.0, 3.0, 2.5]
    assert reach.high[0, [0, 1, 4, 5]].tolist() == [10.0, 5.0, 3.5, 3.0]


def test_a_value_outside_its_own_bounds_stays_as_it_is() -> None:
    x = table(1)
    x[0, 0] = 11.0
    reach = Reach.of(x, SCHEMA, Threat(norm="linf", radius=0.5, scale="spread"))
    assert reach.settle(x + 1)[0, 0] == 11.0


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("radius", [1 / 255, 0.01, 0.5])
def test_float32_images_are_rounded_towards_the_original(norm: str, radius: float) -> None:
    x = np.random.default_rng(0).random((50, 1, 8, 8)).astype(np.float32)
    schema = Schema.infer(x)
    threat = Threat(norm=norm, radius=radius).resolved(schema)
    reach = Reach.of(x, schema, threat)
    settled = reach.settle(x + np.random.default_rng(1).normal(size=x.shape), np.float32)
    assert settled.dtype == np.float32
    assert not any(mask.any() for mask in violations(x, settled, threat, schema).values())
    # stricter than the validator's slack: exact in float64
    assert (length(settled.astype(np.float64) - x, norm) <= radius).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_beside_large_values_a_small_radius_is_not_rounded_away(norm: str) -> None:
    x = np.array([[1e9, 3e9, -7e8], [1e16, 0.0, 1.0]])
    schema = Schema(columns=tuple(Column(name=name, kind="real") for name in "abc"))
    rng = np.random.default_rng(0)
    for radius in np.geomspace(1e-6, 1e-4, 50):
        threat = Threat(norm=norm, radius=radius, scale="raw")
        settled = Reach.of(x, schema, threat).settle(x + rng.normal(size=x.shape))
        assert not any(mask.any() for mask in violations(x, settled, threat, schema).values())
        assert (settled[1, 1:] != x[1, 1:]).any()


def test_a_radius_that_single_precision_cannot_square_is_refused() -> None:
    with pytest.raises(InvalidThreat, match="beyond single precision"):
        ball(Threat(norm="l2", radius=1e300))


def test_whole_pixels_stay_whole_and_use_the_full_radius() -> None:
    x = np.random.default_rng(0).integers(0, 256, (20, 1, 4, 4)).astype(np.uint8)
    schema = Schema.infer(x)
    threat = Threat().resolved(schema)  # 8/255 of the range
    settled = Reach.of(x, schema, threat).settle(np.full(x.shape, 400.0), np.uint8)
    assert settled.dtype == np.uint8
    assert (settled == np.minimum(255, x.astype(int) + 8)).all()


@pytest.mark.parametrize("norm", ["l1", "l0"])
def test_a_norm_that_is_not_built_is_refused_by_name(norm: str) -> None:
    with pytest.raises(InvalidThreat, match=rf"{norm}.*'linf' or 'l2'"):
        ball(Threat(norm=norm, radius=1.0))
    with pytest.raises(InvalidThreat, match="no radius"):
        ball(Threat())
