# SPDX-License-Identifier: Apache-2.0
"""Rows moved against a model: closed forms on linear models, the schema's own validator, and training by them."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import casemate as cm
from casemate.core.errors import GuaranteeVoid, InvalidData, InvalidThreat
from casemate.core.schema import Column, Relation, Schema, violations
from casemate.core.types import Note, Recipe

torch = pytest.importorskip("torch")
from casemate.robustness.adversary import Adversary, Judge  # noqa: E402  # after the guard
from casemate.robustness.methods.adversarial_training import adversarial_training  # noqa: E402
from casemate.training import loop  # noqa: E402
from casemate.training.pieces import TrainingPieces, merge  # noqa: E402
from casemate.training.steps import Facts, Stage  # noqa: E402

WEIGHT = np.array([1.5, -0.7, 0.2, 2.0])


def line(weight: np.ndarray = WEIGHT) -> Any:
    """A model in float64 whose single logit is weight @ x - 0.3."""
    model = torch.nn.Linear(len(weight), 1, dtype=torch.float64)
    model.load_state_dict({"weight": torch.tensor(weight[None]), "bias": torch.tensor([-0.3]).double()})
    return model


def stage(model: Any, schema: Schema, n: int, **fields: Any) -> Stage:
    made: dict[str, Any] = {
        "recipe": Recipe(factory=line),
        "n_rows": n,
        "order": None,
        "loss": None,
        "seed": 0,
    }
    return Stage(model=model, rows=torch.arange(n), facts=Facts(schema=schema), **{**made, **fields})


def free_schema(spread: tuple[float, ...] = (1.0, 2.0, 0.5, 1.0)) -> Schema:
    return Schema(columns=tuple(Column(name=f"x{j}", kind="real", spread=s) for j, s in enumerate(spread)))


def rows(n: int = 40, seed: int = 0) -> tuple[Any, Any]:
    draw = np.random.default_rng(seed)
    return torch.tensor(draw.normal(size=(n, 4))), torch.tensor(draw.integers(0, 2, n))


def test_many_linf_steps_reach_the_corner_of_the_box_in_each_columns_own_unit() -> None:
    x, y = rows()
    schema = free_schema().with_columns({"x0": {"low": -0.5, "high": 0.5}})
    x[:, 0] = x[:, 0].clamp(-0.5, 0.5)
    moved, same = Adversary(radius=0.4, steps=20)(x, y, stage(line(), schema, 40))
    assert same is y
    side = np.where(y.numpy() == 1, -1.0, 1.0)[:, None]  # down for class 1
    worst = x.numpy() + 0.4 * np.array([1.0, 2.0, 0.5, 1.0]) * side * np.sign(WEIGHT)
    worst[:, 0] = worst[:, 0].clip(-0.5, 0.5)
    np.testing.assert_allclose(moved.numpy(), worst, atol=1e-9)


def test_many_l2_steps_come_to_the_far_end_of_the_ellipsoid() -> None:
    x, y = rows()
    unit = np.array([1.0, 2.0, 0.5, 1.0])
    moved, _ = Adversary(radius=0.4, norm="l2", steps=60)(x, y, stage(line(), free_schema(), 40))
    side = np.where(y.numpy() == 1, -1.0, 1.0)
    pull = WEIGHT * unit
    shift = (moved - x).numpy() / unit  # in units of the radius
    np.testing.assert_allclose(np.linalg.norm(shift, axis=1), 0.4, rtol=1e-9)
    # 2.5 radii of path: a start at the near end comes round too, not quite to the point itself
    assert (side * (shift @ pull) >= 0.95 * 0.4 * np.linalg.norm(pull)).all()


def test_one_step_goes_a_quarter_beyond_the_radius_from_a_random_start_and_back() -> None:
    x, y = rows(400)
    moved, _ = Adversary(radius=0.4)(x, y, stage(line(), free_schema(), 400))
    shift = (moved - x).numpy() / (0.4 * np.array([1.0, 2.0, 0.5, 1.0]))
    along = shift * np.where(y.numpy() == 1, -1.0, 1.0)[:, None] * np.sign(WEIGHT)
    assert (
        along.max() <= 1 + 1e-9 and along.min() >= 0.25 - 1e-9
    )  # start u in (-1, 1), then u + 1.25, cut at 1
    assert (
        0.1 < (along < 0.999).mean() < 0.4
    )  # a share of 3/8 starts below -0.25: 0.375 x ... see the next line
    np.testing.assert_allclose((along < 1 - 1e-9).mean(), 0.375, atol=0.06)  # 1600 draws, 5 sigma


def rich() -> tuple[Schema, np.ndarray]:
    """A table under every rule, and rows that keep to it; the last column has holes."""
    draw = np.random.default_rng(3)
    n = 120
    x = np.column_stack(
        [
            draw.integers(18, 90, n), draw.uniform(0, 10, n), draw.integers(0, 4, n),
            np.eye(2)[draw.integers(0, 2, n)], draw.uniform(0, 5, n), draw.uniform(5, 9, n),
            draw.uniform(0, 1, n), np.where(draw.random(n) < 0.3, np.nan, draw.normal(size=n)),
        ]
    )  # fmt: skip
    columns = (
        Column(name="age", kind="integer", low=18, high=90, spread=15.0),
        Column(name="fixed", kind="real", low=0, high=10, spread=3.0, immutable=True),
        Column(name="town", kind="category", categories=("a", "b", "c", "d")),
        Column(name="hot_a", kind="integer", low=0, high=1, spread=0.5),
        Column(name="hot_b", kind="integer", low=0, high=1, spread=0.5),
        Column(name="paid", kind="real", low=0, high=9, spread=2.0),
        Column(name="owed", kind="real", low=0, high=9, spread=2.0),
        Column(name="grows", kind="real", low=0, high=1, spread=0.3, monotone="increasing"),
        Column(name="holes", kind="real", low=-4, high=4, spread=1.0, missing="nan"),
    )
    relation = Relation(left=("paid",), op="<=", right=("owed",))
    return Schema(columns=columns, groups=(("hot_a", "hot_b"),), relations=(relation,)), x


class Wavy(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
    """A float32 network that reads holes as 0, with dropout and batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.front = torch.nn.BatchNorm1d(9)
        self.inner = torch.nn.Sequential(torch.nn.Linear(9, 8), torch.nn.Tanh(), torch.nn.Dropout(0.5))
        self.last = torch.nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        return self.last(self.inner(self.front(torch.nan_to_num(x))))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("steps", [1, 5])
def test_moved_rows_keep_to_every_rule_of_the_schema(norm: Any, steps: int) -> None:
    schema, x = rich()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Wavy().train()
    model.inner.eval()  # a mode of its own
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [part.training for part in model.modules()]
    seen = torch.tensor(x, dtype=torch.float32)
    random = torch.get_rng_state()
    moved, _ = Adversary(radius=0.7, norm=norm, steps=steps)(
        seen, torch.zeros(120, dtype=torch.int64), stage(model, schema, 120)
    )
    assert moved.dtype == torch.float32 and not moved.requires_grad
    threat = cm.Threat(norm=norm, radius=0.7, scale="spread")
    for rule, broken in violations(seen.numpy(), moved.numpy(), threat, schema).items():
        assert not broken.any(), rule
    changed = (~np.isclose(moved.numpy(), seen.numpy(), equal_nan=True)).mean(0)
    assert (changed[[1, 2, 3, 4]] == 0).all() and (changed[[0, 5, 6, 8]] > 0.3).all()
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(random, torch.get_rng_state()), "dropout slept"


def test_images_stay_within_radius_and_bounds_and_what_lies_outside_stays() -> None:
    schema = Schema(input="image", bounds=(0.0, 1.0))
    x = torch.tensor(np.random.default_rng(0).uniform(0, 1, (30, 1, 4, 4)))
    x[0, 0, 0, 0] = 1.5
    flat = torch.nn.Sequential(torch.nn.Flatten(), line(np.linspace(-1, 1, 16)))
    for norm in ("linf", "l2"):
        moved, _ = Adversary(radius=0.3, norm=norm, steps=4)(  # type: ignore[arg-type]  # one of two
            x, torch.ones(30, dtype=torch.int64), stage(flat, schema, 30)
        )
        assert moved[0, 0, 0, 0] == 1.5
        inside = moved[1:]
        assert inside.min() >= 0 and inside.max() <= 1 and bool((moved != x).any())
        far = (moved - x).flatten(1)
        size = far.abs().amax(1) if norm == "linf" else far.norm(dim=1)
        assert float(size.max()) <= 0.3 + 1e-12
        assert (flat(moved) < flat(x)).all(), "class 1 lost"


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_row_is_moved_alike_in_any_batch(norm: Any) -> None:
    x, y = rows()
    adversary = Adversary(radius=0.4, norm=norm, steps=3, mix=0.3)
    whole, _ = adversary(x, y, stage(line(), free_schema(), 40))
    places = torch.tensor([7, 3, 31])
    few, _ = adversary(x[places], y[places], replace(stage(line(), free_schema(), 40, step=9), rows=places))
    np.testing.assert_allclose(few.numpy(), whole[places].numpy(), atol=1e-12)
    other, _ = adversary(x, y, stage(line(), free_schema(), 40, epoch=1))
    assert not torch.equal(whole, other)


def test_mix_is_the_share_of_rows_that_stay_clean() -> None:
    x, y = rows(4000)
    moved, _ = Adversary(radius=0.4, mix=0.3)(x, y, stage(line(), free_schema(), 4000))
    clean = (moved == x).all(1).double().mean()
    assert abs(float(clean) - 0.3) < 4.9 * np.sqrt(0.21 / 4000)  # false failure 1e-6


def test_a_saturated_model_still_shows_a_direction() -> None:
    x, y = rows()
    steep = line(WEIGHT * 1e4)
    y = torch.tensor((steep(x)[:, 0] > 0).numpy() * 1)  # sure and right: the softmax rounds to one
    moved, _ = Adversary(radius=0.4, steps=20)(x, y, stage(steep, free_schema((1, 1, 1, 1)), 40))
    np.testing.assert_allclose((moved - x).abs().numpy(), 0.4, atol=1e-9)


def test_the_judge_agrees_with_the_exact_answer_on_a_linear_model() -> None:
    x, y = rows(300)
    unit = np.array([1.0, 2.0, 0.5, 1.0])
    margin = (x.numpy() @ WEIGHT - 0.3) * np.where(y.numpy() == 1, 1.0, -1.0)
    exact = (margin > 0.2 * np.abs(WEIGHT * unit).sum()).mean()
    found = Judge(adversary=Adversary(radius=0.2))(x, y, stage(line(), free_schema(), 300))
    assert found == pytest.approx(exact, abs=1e-12) and 0 < found < 1


def test_no_radius_is_the_plain_training_to_the_byte() -> None:
    x, y = rows(60)
    recipe = Recipe(
        factory=lambda: torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5)), epochs=3
    )
    null = replace(recipe, pieces=TrainingPieces(transform=Adversary(radius=0.0)))
    one, other = (loop.fit(r, x.numpy(), y.numpy(), seed=1) for r in (recipe, null))
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


# ---- the method ----


def digits() -> tuple[Recipe, cm.Dataset]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    images = (x / 16).reshape(-1, 1, 8, 8)

    def net() -> Any:
        return torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)
        )

    recipe = Recipe(factory=net, epochs=15, optimiser="adam", learning_rate=0.005)
    return recipe, cm.Dataset(train=(images[:800], y[:800]), holdout=(images[800:1100], y[800:1100]))


@pytest.fixture(scope="module")
def world() -> tuple[Any, cm.Dataset, cm.Change]:
    recipe, data = digits()
    target = cm.wrap(loop.fit(recipe, data.train.x, data.train.y, seed=0), recipe=recipe)
    return target, data, cm.harden(target, data, using=[cm.method("adversarial_training", radius=0.1)])


def test_robust_accuracy_rises_far_beyond_its_interval(world: Any) -> None:
    target, data, change = world
    few = cm.method("pgd", steps=10, restarts=1)
    threat = cm.Threat(norm="linf", radius=0.1)
    before = cm.audit(target, data, methods=[few], threat=threat)
    after = cm.audit(change.target, data, like=before)
    one, other = before["pgd", "robust_accuracy"], after["pgd", "robust_accuracy"]
    assert other.low > one.high + 0.05
    assert after["utility", "accuracy"].value > 0.85


def test_the_change_says_what_was_done_and_which_epoch_was_kept(world: Any) -> None:
    _, _, change = world
    assert change.params == {
        "adversarial_training": {"radius": 0.1, "norm": "linf", "steps": 1, "mix": 0.0, "validate": 0.1}
    }
    texts = [piece.text for piece in change.evidence if isinstance(piece, Note)]
    assert texts[0].startswith("It certifies nothing") and "2 gradients in place of 1" in texts[0]
    assert "on 80 training rows held back" in texts[1]
    assert len(change.evidence[2].y) == 15


def test_refits_and_shadows_of_the_result_are_trained_against_the_attacker_too(world: Any) -> None:
    target, data, change = world
    bound, data = change.target.bind(data)
    shadow = bound.refit(data.train.x[:200], data.train.y[:200], 3)
    again = shadow.refit(data.train.x[:200], data.train.y[:200], 3)
    plain = target.bind(data)[0].refit(data.train.x[:200], data.train.y[:200], 3)
    assert shadow.digest() == again.digest() != plain.digest()
    assert bound.recipe.pieces.transform == Adversary(radius=0.1)
    facts = Facts(n_classes=10, schema=bound.schema)
    by_loop = loop.train(bound.recipe, data.train.x[:200], data.train.y[:200], seed=3, facts=facts)
    assert replace(bound, model=by_loop.model).digest() == shadow.digest()
    assert target.recipe.pieces is None


def test_two_that_move_the_batch_are_refused_and_named(world: Any) -> None:
    target, data, change = world
    with pytest.raises(InvalidData, match="adversarial_training and augment both replace the transform"):
        cm.harden(target, data, using=["adversarial_training", "augment"])
    with pytest.raises(
        InvalidData, match="an earlier defence of this target and augment both replace the tr"
    ):
        cm.harden(change.target, data, using=["augment"])


@pytest.mark.parametrize(
    ("params", "error", "told"),
    [
        ({"steps": 0}, InvalidData, "steps is 0; use 1"),
        ({"mix": 1.0}, InvalidData, r"mix is 1.0; .* below 1"),
        ({"mix": -0.1}, InvalidData, "mix is -0.1"),
        ({"validate": 0.6}, InvalidData, "validate is 0.6; .* at most 0.5"),
        ({"norm": "l1"}, InvalidThreat, "norm 'l1' is not supported"),
        ({"norm": "l7"}, InvalidThreat, "norm 'l7' is unknown"),
        ({"radius": -1.0}, InvalidThreat, "radius must be"),
        ({"radius": float("nan")}, InvalidThreat, "radius must be"),
    ],
)
def test_what_cannot_be_used_is_said(params: Any, error: Any, told: str, world: Any) -> None:
    with pytest.raises(error, match=told):
        cm.harden(world[0], world[1], using=[cm.method("adversarial_training", **params)])


def test_a_stated_guarantee_is_not_falsified_in_silence(world: Any) -> None:
    target, data, _ = world
    table = cm.Dataset(
        train=(rows()[0].numpy(), np.arange(40) % 2), holdout=(rows()[0].numpy(), np.arange(40) % 2)
    )
    private = ("dp", TrainingPieces(aggregate=len, claims=("a plan",)))
    for where, params in ((table, {"validate": 0.0}), (data, {})):
        pieces = adversarial_training(target, where, **params)
        with pytest.raises(GuaranteeVoid, match="adversarial_training would make the guarantee of dp false"):
            merge([("adversarial_training", pieces), private])
    merged = merge([private, ("adversarial_training", adversarial_training(target, data, validate=0.0))])
    assert merged.claims == ("a plan",) and merged.filled() == ["transform", "aggregate"]


def test_a_target_without_a_recipe_is_told_so(world: Any) -> None:
    target, data, _ = world
    with pytest.raises(InvalidData, match="adversarial_training needs refit"):
        cm.harden(cm.wrap(target.model), data, using=["adversarial_training"])


@pytest.mark.parametrize("name", ["adversarial_training", "augment"])
def test_no_tensor_is_made_without_a_device_and_pieces_travel_to_workers(name: str) -> None:
    def net() -> Any:
        return torch.nn.Linear(4, 2, device="cpu")

    x, y = rows(200)
    data = cm.Dataset(train=(x.numpy(), y.numpy()), holdout=(x.numpy(), y.numpy()))
    target = cm.wrap(net(), recipe=Recipe(factory=net, epochs=2), outputs="logits")
    plain = cm.harden(target, data, using=[name])
    with torch.device("meta"):
        change = cm.harden(target, data, using=[name])
    assert change.target.digest() == plain.target.digest()
    pieces = change.target.recipe.pieces
    assert pickle.loads(pickle.dumps(pieces)) == pieces
