# SPDX-License-Identifier: Apache-2.0
"""What pgd promises: inside the threat, the same answer whatever the order or batch, nothing of the model touched."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

import casemate as cm
from casemate.core import harness
from casemate.core.errors import InvalidData, InvalidThreat
from casemate.core.methods import find
from casemate.core.run import Run
from casemate.core.schema import violations
from casemate.core.types import Note
from casemate.robustness.methods import pgd as module

METHOD = find("pgd")


def attack(target: cm.Target, data: cm.Dataset, threat: cm.Threat, *, seed: int = 0, **params) -> np.ndarray:
    """Call the method through the harness; return the changed inputs."""
    target, data = target.bind(data)
    run = Run(card=METHOD.card, threat=threat.resolved(data.schema), seed=seed)
    found: np.ndarray = harness.invoke(METHOD, target, data, run, params)
    assert found.shape == data.holdout.x.shape
    assert found.dtype == data.holdout.x.dtype
    broken = violations(data.holdout.x, found, run.threat, data.schema)
    assert not any(mask.any() for mask in broken.values())
    return found


def held(target: cm.Target, data: cm.Dataset, threat: cm.Threat, **params) -> np.ndarray:
    """Return which points (n,) are still right under attack."""
    found = attack(target, data, threat, **params)
    target, data = target.bind(data)
    right = target.labels(data.holdout.x) == data.holdout.y
    return right & (target.labels(found) == data.holdout.y)


def net(*sizes: int, seed: int = 0, gain: float = 1.0, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """Build a small random ReLU network without touching the global random state."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[torch.nn.Module] = []
    for wide, narrow in pairwise(sizes):
        layer = torch.nn.Linear(wide, narrow, dtype=dtype)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(narrow, wide, generator=generator, dtype=dtype) * gain / wide**0.5)
            layer.bias.zero_()
        layers += [layer, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def problem(
    model: torch.nn.Module, n: int = 120, d: int = 6, seed: int = 0, **schema
) -> tuple[cm.Target, cm.Dataset]:
    """Return rows whose label is the model's own answer, so that every point is right before the attack."""
    x = np.random.default_rng(seed).normal(size=(2 * n, d))
    with torch.no_grad():
        y = model(torch.as_tensor(x, dtype=next(model.parameters()).dtype)).argmax(1).numpy()
    data = cm.Dataset(train=(x[:n], y[:n]), holdout=(x[n:], y[n:]))
    if schema:
        data = cm.Dataset(
            train=(x[:n], y[:n]), holdout=(x[n:], y[n:]), schema=data.schema.with_columns(schema)
        )
    return cm.wrap(model), data


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_robust_set_does_not_depend_on_order_or_batch(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target, data = problem(net(6, 16, 3, dtype=torch.float64))
    threat = cm.Threat(norm=norm, radius=0.4)
    whole = held(target, data, threat)
    assert 0.2 < whole.mean() < 0.9
    order = np.random.default_rng(1).permutation(len(whole))
    shuffled = held(target, data.with_holdout(order), threat)
    assert (shuffled == whole[order]).all()
    monkeypatch.setattr(module, "MAX_ROWS", 7)
    assert (held(target, data, threat) == whole).all()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    target, data = problem(net(6, 16, 3))
    threat = cm.Threat(norm="l2", radius=0.3)
    first = attack(target, data, threat, seed=1)
    assert first.tobytes() == attack(target, data, threat, seed=1).tobytes()
    assert first.tobytes() != attack(target, data, threat, seed=2).tobytes()


def test_model_data_and_global_random_state_are_left_alone() -> None:
    model = torch.nn.Sequential(net(6, 16), torch.nn.BatchNorm1d(16), torch.nn.Dropout(0.5), net(16, 3))
    model.train()
    with torch.no_grad():
        model(torch.randn(50, 6, generator=torch.Generator().manual_seed(0)))
    target, data = problem(net(6, 3))
    target = cm.wrap(model)
    digest, before = target.digest(), data.holdout.x.copy()
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    with torch.inference_mode():  # the caller's mode must not matter
        attack(target, data, cm.Threat(radius=0.3))
    assert target.digest() == digest
    assert model.training
    assert all(part.training for part in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert (data.holdout.x == before).all()
    assert (torch.random.get_rng_state() == torch_state).all()
    assert (np.random.get_state()[1] == numpy_state).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_columns_that_may_not_move_do_not_and_the_others_keep_their_rules(
    norm: str, dtype: torch.dtype
) -> None:
    rng = np.random.default_rng(0)
    x = np.column_stack([
        rng.normal(1e5, 3.0, 200),  # offset far larger than the spread: hard for float32
        rng.integers(0, 40, 200).astype(float),
        rng.normal(size=200),
        rng.normal(size=200),
        rng.normal(size=200),
        np.ones(200),
    ])  # fmt: skip
    schema = cm.Schema.infer(x).with_columns(
        {
            "x1": {"kind": "integer"},
            "x2": {"immutable": True},
            "x3": {"monotone": "increasing"},
            "x4": {"monotone": "decreasing"},
        }
    )
    schema = replace(schema, relations=(cm.Relation(left=("x4",), op="<=", right=("x3",)),))
    scale = torch.tensor([1 / 3.0, 0.1, 1.0, 1.0, 1.0, 1.0], dtype=dtype)

    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net(6, 12, 2, dtype=dtype)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return self.inner((rows - torch.tensor([1e5, 20, 0, 0, 0, 0], dtype=dtype)) * scale)

    y = rng.integers(0, 2, 200)
    data = cm.Dataset(train=(x, y), holdout=(x, y), schema=schema)
    found = attack(cm.wrap(Scaled()), data, cm.Threat(norm=norm, radius=0.5), steps=10, restarts=2)
    moved = (found != x).any(0)
    assert moved.tolist() == [True, True, False, True, True, False]


def test_holes_stay_holes_and_do_not_blind_the_attack() -> None:
    inner = net(6, 16, 3)

    class Filling(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            rows = torch.where(torch.isnan(rows), rows * 0 + 0.5, rows).nan_to_num(0.5)  # NaN in its gradient
            return self.inner(rows)

    _, data = problem(inner)
    x = data.holdout.x.copy()
    x[::3, 1] = np.nan
    y = inner(torch.as_tensor(np.nan_to_num(x, nan=0.5), dtype=torch.float32)).argmax(1).numpy()
    data = cm.Dataset(train=(x, y), holdout=(x, y))
    found = attack(cm.wrap(Filling()), data, cm.Threat(radius=0.5), steps=10, restarts=2)
    assert (np.isnan(found) == np.isnan(x)).all()
    right = held(cm.wrap(Filling()), data, cm.Threat(radius=0.5), steps=10, restarts=2)
    assert right[::3].mean() < 0.9


def test_a_model_that_answers_nan_is_refused() -> None:
    target, data = problem(net(6, 3))
    x = data.holdout.x.copy()
    x[:5, 0] = np.nan
    holed = cm.Dataset(train=(data.train.x, data.train.y), holdout=(x, data.holdout.y))
    with pytest.raises(InvalidData, match=r"NaN.* 5 of 120 rows.*missing"):
        attack(target, holed, cm.Threat(radius=0.3))


def test_a_point_where_the_model_has_no_answer_is_not_found() -> None:
    class Hole(torch.nn.Module):
        """Infinite logits beside the data: no prediction, and nothing an attack may claim."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = torch.stack([1.0 - x[:, 0], x[:, 0]], 1)
            return torch.where((x[:, 1:] > 0.5), torch.full_like(logits, math.inf), logits)

    x = np.column_stack([np.linspace(0.0, 0.4, 40), np.linspace(0.3, 0.45, 40)])
    y = np.zeros(40, int)
    data = cm.Dataset(train=(np.r_[x, [[1.0, 0.0]]], np.r_[y, 1]), holdout=(x, y))
    keeps = held(
        cm.wrap(Hole(), outputs="logits"), data, cm.Threat(radius=0.2, scale="raw"), steps=10, restarts=3
    )
    assert keeps.tolist() == (x[:, 0] + 0.2 <= 0.5).tolist()


@pytest.mark.parametrize("pixels", [np.float32, np.float64, np.uint8])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_images_keep_their_dtype_their_bounds_and_their_radius(pixels: type, norm: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.random((80, 1, 4, 4)) if pixels is not np.uint8 else rng.integers(0, 256, (80, 1, 4, 4))
    x = x.astype(pixels)
    model = torch.nn.Sequential(torch.nn.Flatten(), net(16, 20, 3, gain=3.0))
    with torch.no_grad():
        y = model(torch.as_tensor(x.astype(np.float32))).argmax(1).numpy()
    data = cm.Dataset(train=(x, y), holdout=(x, y))
    top = 255.0 if pixels is np.uint8 else 1.0
    radius = (0.1 if norm == "linf" else 0.3) * top
    keeps = held(cm.wrap(model), data, cm.Threat(norm=norm, radius=radius), steps=10, restarts=2)
    assert keeps.mean() < 0.9


def test_a_model_without_any_gradient_does_not_crash_and_is_told_of() -> None:
    class Steps(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return torch.stack([rows[:, 0].sign(), -rows[:, 0].sign()], 1).detach()

    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3))
    y = (x[:, 0] <= 0).astype(int)
    data = cm.Dataset(train=(x, y), holdout=(x, y))
    threat = cm.Threat(radius=0.1)
    assert held(cm.wrap(Steps()), data, threat, steps=3, restarts=2).any()
    told = cm.audit(cm.wrap(Steps()), data, methods=[cm.method("pgd", steps=3)], threat=threat)
    notes = [piece.text for piece in told["pgd", "robust_accuracy"].details if isinstance(piece, Note)]
    assert any("gradient was zero at 250 starts" in text for text in notes)


def test_huge_logits_do_not_hide_the_gradient() -> None:
    """A last layer times 1e4 saturates a float32 softmax; between two classes the direction stays the same."""
    plain, loud = net(6, 16, 2), net(6, 16, 2)
    with torch.no_grad():
        loud[-1].weight *= 1e4
    target, data = problem(plain)
    x = torch.as_tensor(data.holdout.x, dtype=torch.float32).requires_grad_()
    usual = torch.nn.functional.cross_entropy(loud(x), torch.as_tensor(data.holdout.y), reduction="sum")
    assert (torch.autograd.grad(usual, x)[0] == 0).all(1).float().mean() > 0.9  # what a plain loop would see
    threat = cm.Threat(radius=0.4)
    quiet_set = held(target, data, threat, steps=10, restarts=2)
    assert 0.1 < quiet_set.mean() < 0.9
    assert (held(cm.wrap(loud), data, threat, steps=10, restarts=2) == quiet_set).all()


def test_an_unbounded_radius_breaks_every_point() -> None:
    model = net(6, 3)
    target, data = problem(model)
    wide = data.schema.with_columns({name: {"low": -np.inf, "high": np.inf} for name in data.schema.names})
    data = cm.Dataset(
        train=(data.train.x, data.train.y), holdout=(data.holdout.x, data.holdout.y), schema=wide
    )
    assert not held(target, data, cm.Threat(radius=1e6)).any()


def test_radius_zero_changes_nothing_and_asks_for_no_gradient() -> None:
    target, data = problem(net(6, 3))
    target, data = target.bind(data)
    run = Run(card=METHOD.card, threat=cm.Threat(norm="linf", radius=0.0, scale="raw"))
    found = harness.invoke(METHOD, target, data, run, {})
    assert (found == data.holdout.x).all()
    assert run.counter.tally["gradients"] == 0


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_more_steps_or_restarts_never_save_a_point(norm: str) -> None:
    """Runs of one step size are prefixes of each other, so what a short one breaks a long one breaks too."""
    target, data = problem(net(6, 24, 3, dtype=torch.float64))
    threat = cm.Threat(norm=norm, radius=0.4)
    shares = []
    for steps, restarts in ((1, 1), (3, 1), (20, 1), (20, 4)):
        shares.append(held(target, data, threat, steps=steps, restarts=restarts, step_size=0.05))
    for fewer, more in pairwise(shares):
        assert not (more & ~fewer).any()
    assert shares[-1].sum() < shares[0].sum()


def test_what_is_not_broken_is_returned_at_a_higher_loss() -> None:
    target, data = problem(net(6, 16, 3))
    found = attack(target, data, cm.Threat(radius=0.1), steps=10, restarts=3)
    bound, data = target.bind(data)
    y = data.holdout.y

    def loss(x: np.ndarray) -> np.ndarray:
        return -np.log(bound.scores(x)[np.arange(len(y)), y])

    holds = bound.labels(found) == y
    assert holds.any()
    assert (loss(found) > loss(data.holdout.x))[holds].all()


def test_another_restart_never_lowers_the_loss_of_what_is_returned() -> None:
    target, data = problem(net(6, 24, 3, dtype=torch.float64))
    bound, coded = target.bind(data)
    y = coded.holdout.y
    losses, right = [], np.ones(len(y), bool)
    for restarts in (1, 2, 3, 4):
        found = attack(target, data, cm.Threat(radius=0.2), steps=2, restarts=restarts)
        right &= bound.labels(found) == y
        losses.append(-np.log(bound.scores(found)[np.arange(len(y)), y]))
    assert right.sum() > 20
    for fewer, more in pairwise(losses):
        assert (more >= fewer - 1e-9)[right].all()
    assert (losses[-1] > losses[0] + 1e-6)[right].any()


def test_a_goal_is_reached_and_counted_by_the_harness() -> None:
    target, data = problem(net(6, 16, 3))
    threat = cm.Threat(radius=0.6, goal=2)
    found = attack(target, data, threat)
    bound, data = target.bind(data)
    away = bound.labels(data.holdout.x) != 2
    reached = bound.labels(found) == 2
    assert 0.1 < reached[away].mean() < 1
    assert (found[~away] == data.holdout.x[~away]).all()  # already there
    untargeted = bound.labels(attack(target, data, cm.Threat(radius=0.6))) == 2
    assert reached[away].sum() > untargeted[away].sum()


def test_gradients_are_counted_and_broken_points_cost_none() -> None:
    target, data = problem(net(6, 3))
    target, data = target.bind(data)

    def gradients(radius: float) -> int:
        threat = cm.Threat(radius=radius).resolved(data.schema)
        run = Run(card=METHOD.card, threat=threat)
        harness.invoke(METHOD, target, data, run, {"steps": 10, "restarts": 2})
        return run.counter.tally["gradients"]

    assert gradients(1e-6) == 120 * 10 * 2
    assert gradients(1.0) < 120 * 10 * 2 / 2


def test_random_start_false_with_one_step_is_fgsm() -> None:
    model = net(6, 16, 3, dtype=torch.float64)
    target, data = problem(model)
    radius = 0.05
    found = attack(
        target,
        data,
        cm.Threat(norm="linf", radius=radius, scale="raw"),
        steps=1,
        restarts=1,
        step_size=radius,
        random_start=False,
    )
    x = torch.as_tensor(data.holdout.x, dtype=torch.float64).requires_grad_()
    loss = torch.nn.functional.cross_entropy(model(x), torch.as_tensor(data.holdout.y), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x)
    low, high = ([getattr(c, side) for c in data.schema.columns] for side in ("low", "high"))
    expected = np.clip((x.detach() + radius * gradient.sign()).numpy(), low, high)
    with torch.no_grad():
        before, after = (
            torch.nn.functional.cross_entropy(
                model(torch.as_tensor(rows)), torch.as_tensor(data.holdout.y), reduction="none"
            ).numpy()
            for rows in (data.holdout.x, expected)
        )
    rose = after > before  # where one large step lowers the loss, the point itself is the worse case
    np.testing.assert_allclose(found[rose], expected[rose], atol=1e-12)
    assert (found[~rose] == data.holdout.x[~rose]).all()
    assert rose.mean() > 0.9


def test_a_deadline_cuts_restarts_unless_they_were_fixed() -> None:
    target, data = problem(net(6, 3))
    target, data = target.bind(data)
    threat = cm.Threat(radius=0.1).resolved(data.schema)
    for pinned, expected in ((frozenset(), 1), (frozenset({"restarts"}), 7)):
        run = Run(card=METHOD.card, threat=threat, deadline=0.0, pinned=pinned)
        harness.invoke(METHOD, target, data, run, {"steps": 2, "restarts": 7})
        assert run.used["restarts"] == expected


@pytest.mark.parametrize("bad", [{"steps": 0}, {"restarts": 0}, {"step_size": 0.0}])
def test_senseless_parameters_are_refused(bad: dict[str, float]) -> None:
    target, data = problem(net(6, 3))
    with pytest.raises(InvalidData, match="pgd needs"):
        attack(target, data, cm.Threat(radius=0.1), **bad)


def test_a_norm_that_is_not_built_is_refused() -> None:
    target, data = problem(net(6, 3))
    with pytest.raises(InvalidThreat, match="'l1' is not supported"):
        attack(target, data, cm.Threat(norm="l1", radius=0.1))


def test_called_as_a_function_it_reports_robust_accuracy() -> None:
    target, data = problem(net(6, 16, 3))
    rows = module.pgd(target, data, threat=cm.Threat(radius=0.4), steps=10, restarts=1)
    assert [row.quantity for row in rows] == ["robust_accuracy", "invalid_examples"]
    assert rows[1].value == 0
    assert rows[0].value == held(target, data, cm.Threat(radius=0.4), steps=10, restarts=1).mean()
