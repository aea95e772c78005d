# SPDX-License-Identifier: Apache-2.0
"""Private training of a network: who is sampled, the noise itself, what is accounted, what it refuses.

Noise cannot be seeded: statistical checks fail by chance with probability 1e-6 each.
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from scipy.stats import binom, chi2
from torch import nn

import casemate as cm
from casemate.core.errors import GuaranteeVoid, InvalidData
from casemate.core.types import LABELS
from casemate.privacy.methods import dp_sgd as module
from casemate.privacy.methods.dp_sgd import NoisyMean, PoissonUnits
from casemate.privacy.plan import Plan
from casemate.training import loop, per_example, secure
from casemate.training.pieces import TrainingPieces
from casemate.training.steps import Facts, Stage

torch.func.grad(torch.sum)(torch.zeros(1))  # what torch loads at the first call, seconds of it
PLAN = Plan(unit="person", clip=0.7, noise_multiplier=5.0, steps=12, delta=1e-5, sampler="poisson", rate=0.25)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 2))


def flat() -> nn.Module:
    """No weights to start from: what they hold afterwards is what the training put there."""
    layer = nn.Linear(800, 2, bias=False)
    nn.init.zeros_(layer.weight)
    return layer


def rows(n: int, seed: int, d: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, labels and owners: two rows a person."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n, d))
    return x, (x[:, 0] > 0).astype(int), 1000 * seed + np.arange(n) // 2


TRAIN, HOLD = rows(120, 1), rows(40, 2)
PEOPLE = cm.Dataset(train=TRAIN, holdout=HOLD)
RECORDS = cm.Dataset(train=TRAIN[:2], holdout=HOLD[:2])


def net(factory: Callable[[], Any] = mlp, **options: Any) -> cm.Target:
    recipe = cm.Recipe(factory=factory, **{"epochs": 3, "batch_size": 4, **options})
    return cm.wrap(factory(), recipe=recipe, outputs="logits")


def private(data: cm.Dataset = PEOPLE, target: Any = None, folder: Any = None, **params: Any) -> cm.Change:
    # everybody in every step unless told otherwise: the accountant is quick then
    chosen = {"epsilon": 2.0, "settings": {"batch_size": 64}, **params}
    return cm.harden(target or net(), data, using=[cm.method("dp_sgd", **chosen)], folder=folder)


def stage(model: nn.Module, plan: Plan = PLAN, n_rows: int = 40, **more: Any) -> Stage:
    person = np.arange(n_rows) // 2 if plan.unit == "person" else None
    return Stage(
        model=model,
        recipe=cm.Recipe(factory=list, epochs=3),
        n_rows=n_rows,
        seed=0,
        order=None,
        dtype=torch.float32,
        **{
            "loss": lambda raw, y, stage: nn.functional.cross_entropy(raw, y),
            "facts": Facts(person=person),
            **more,
        },
    )


class Silent(secure.Source):
    """Draws no noise, and every unit."""

    def gaussians(self, shape: Any) -> np.ndarray:
        return np.zeros(shape)

    def uniforms(self, shape: Any) -> np.ndarray:
        return np.zeros(shape)


# ---- who is in a batch ----


def test_every_person_is_in_with_the_planned_probability_and_on_their_own() -> None:
    plan = replace(PLAN, steps=3 * 4)
    here = stage(mlp(), plan, n_rows=60)  # 30 people of two rows
    drawn = np.zeros((800, 60), bool)
    for k, batch in enumerate(batch for _ in range(200) for batch in PoissonUnits(claim=plan)(here)):
        drawn[k, batch.numpy()] = True
    people = drawn[:, ::2]
    assert (people == drawn[:, 1::2]).all()  # a person comes with all rows or not at all
    n = people.size
    assert binom.ppf(2.5e-7, n, 0.25) <= people.sum() <= binom.isf(2.5e-7, n, 0.25)
    # batch sizes vary as those of independent draws, not of batches that are cut: chi-square of 800 sizes
    excess = (people.sum(1) - 30 * 0.25) ** 2 / (30 * 0.25 * 0.75)
    spread = math.sqrt((2 + (1 - 6 * 0.25 * 0.75) / (30 * 0.25 * 0.75)) / 800)  # of the mean, by the kurtosis
    assert abs(excess.mean() - 1) < 5.5 * spread
    # and nobody's being in tells of another's, in the same step or the next
    signs = (people - 0.25) / math.sqrt(0.25 * 0.75)
    for one, other in ((signs[:, :-1], signs[:, 1:]), (signs[:-1], signs[1:])):
        assert abs((one * other).mean()) < 5.2 / math.sqrt(one.size)


def test_sampling_is_never_repeated() -> None:
    seen = [tuple(map(tuple, PoissonUnits(claim=PLAN)(stage(mlp())))) for _ in range(3)]
    assert len(set(map(str, seen))) == 3


def test_a_full_rate_takes_everybody_every_step() -> None:
    plan = replace(PLAN, sampler="all", rate=1.0, steps=3)
    (batch,) = PoissonUnits(claim=plan)(stage(mlp(), plan))
    assert batch.tolist() == list(range(40))


# ---- one step ----


def gradients(model: nn.Module) -> np.ndarray:
    return np.concatenate([p.grad.numpy().ravel() for p in model.parameters()])


def step(model: nn.Module, chosen: np.ndarray, *, draws: Any = secure.source, **options: Any) -> np.ndarray:
    """The gradient that a step leaves, times the expected batch size, for the rows ``chosen``."""
    here = replace(stage(model, **options), rows=torch.from_numpy(chosen))
    x = torch.from_numpy(rows(40, 5)[0][chosen]).to(next(model.parameters()).dtype)
    y = torch.from_numpy(rows(40, 5)[1][chosen])
    if isinstance(model, nn.Linear):
        x = torch.zeros(len(chosen), 800)
    plan = options.get("plan", PLAN)
    loss = NoisyMean(claim=plan, expected=16.0, draws=draws)(x, y, here)
    assert float(loss) == 0.0 and not loss.requires_grad  # the loss is private
    return 16.0 * gradients(model)


def test_without_noise_a_step_is_the_clipped_sum_over_the_expected_size() -> None:
    model = mlp().double()
    chosen = np.array([0, 1, 6, 7, 30, 31])
    found = step(model, chosen, draws=lambda: Silent(seed=0))
    x, y, _ = rows(40, 5)
    x, y = torch.from_numpy(x[chosen]), torch.from_numpy(y[chosen])
    wanted = np.zeros_like(found)
    for k in (0, 2, 4):  # three people, both rows together
        model.zero_grad()
        nn.functional.cross_entropy(model(x[k : k + 2]), y[k : k + 2], reduction="sum").backward()
        gradient = gradients(model)
        wanted += gradient * min(1.0, 0.7 / np.linalg.norm(gradient))
    np.testing.assert_allclose(found, wanted, atol=1e-10)
    per_record = step(model, chosen, draws=lambda: Silent(seed=0), plan=replace(PLAN, unit="record"))
    assert np.abs(per_record - wanted).max() > 1e-3


def spread_is(values: np.ndarray, sigma: float) -> None:
    """Chi-square of the variance, two-sided at 1e-6."""
    total = float((values**2).sum()) / sigma**2
    assert chi2.ppf(5e-7, len(values)) < total < chi2.isf(5e-7, len(values))


@pytest.mark.parametrize("clip", [0.7, 30.0])
@pytest.mark.parametrize("n", [0, 1, 40])
def test_nothing_at_all_is_still_noised_once(n: int, clip: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(per_example, "MOST_ROWS", 7)  # rows of zeros: all that is left is noise
    plan = replace(PLAN, clip=clip)
    spread_is(step(flat(), np.arange(n), plan=plan), 5.0 * clip)


def test_the_noise_is_new_in_every_step_and_on_every_coordinate() -> None:
    first, second = step(flat(), np.arange(3)), step(flat(), np.arange(3))
    assert len(set(first) | set(second)) > 3100  # two of 3,200 may agree in float32


def test_one_person_more_or_less_moves_a_step_by_at_most_the_clipping_norm() -> None:
    model = mlp().double()
    for scale in (1.0, 1e8):
        with torch.no_grad():
            model[3].weight *= scale
        everybody = np.arange(40)
        whole = step(model, everybody, draws=lambda: Silent(seed=0))
        for one in range(20):
            rest = np.delete(everybody, [2 * one, 2 * one + 1])
            moved = np.linalg.norm(whole - step(model, rest, draws=lambda: Silent(seed=0)))
            assert moved <= 0.7 * (1 + 1e-9)


def test_a_row_with_a_hole_is_zero_and_the_step_is_finite() -> None:
    model = mlp()
    x, y, _ = rows(40, 5)
    x[3] = np.nan
    here = replace(stage(model, replace(PLAN, unit="record")), rows=torch.arange(40))
    plan = replace(PLAN, unit="record")
    NoisyMean(claim=plan, expected=16.0)(torch.from_numpy(x).float(), torch.from_numpy(y), here)
    assert np.isfinite(gradients(model)).all()


def test_frozen_parameters_get_no_noise() -> None:
    model = mlp()
    model[0].weight.requires_grad_(False)
    here = replace(stage(model), rows=torch.arange(0))
    NoisyMean(claim=PLAN, expected=16.0)(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), here)
    assert model[0].weight.grad is None and model[0].bias.grad is not None


# ---- the whole training ----


def test_the_plan_is_what_the_training_does() -> None:
    seen: list[int] = []

    class Counted(NoisyMean):
        def __call__(self, x: Any, y: Any, stage: Stage) -> Any:
            seen.append(len(x))
            return super().__call__(x, y, stage)

    plan = replace(PLAN, rate=1 / 64, steps=2 * 64)
    pieces = TrainingPieces(
        sampler=PoissonUnits(claim=plan), aggregate=Counted(claim=plan, expected=1.0), claims=(plan,)
    )
    recipe = cm.Recipe(factory=mlp, epochs=2, pieces=pieces)
    loop.train(recipe, *TRAIN[:2], seed=0, facts=Facts(person=TRAIN[2], n_classes=2))
    assert len(seen) == plan.steps
    assert all(n % 2 == 0 for n in seen) and 0 in seen  # no batch is empty: .61^128 = 1e-27


def test_the_pieces_are_of_one_plan() -> None:
    change = private(epsilon=0.5, settings={"batch_size": 8, "epochs": 2, "clip": 0.5})
    pieces, plan = change.target.recipe.pieces, change.target.claims[0]
    assert plan.unit == "person" and plan.clip == 0.5 and plan.steps == 2 * 8
    assert plan.rate == 8 / 64 and pieces.aggregate.expected == 8.0  # 60 people: 64 is nearest
    assert pieces.sampler.claim == pieces.aggregate.claim == plan and pieces.claims == (plan,)
    assert (
        change.target.recipe.epochs == 2 and pieces.sampler.draws is pieces.aggregate.draws is secure.source
    )


@pytest.mark.parametrize(
    "privacy", [{"epsilon": 1.0, "delta": 1e-4}, {"epsilon": 0.5}, {"max_tpr": 0.02, "at_fpr": 0.01}]
)
@pytest.mark.parametrize("batch", [16, 64])
def test_what_is_claimed_is_what_dp_accounting_says_of_the_steps(
    batch: int, privacy: dict[str, float]
) -> None:
    wanted = {"epsilon": None, **privacy}
    plan = private(settings={"batch_size": batch, "epochs": 2}, **wanted).target.claims[0]
    assert plan.steps == 2 * 64 // batch and plan.delta == privacy.get("delta", 1e-3)
    one = dp_event.GaussianDpEvent(plan.noise_multiplier)
    one = one if batch == 64 else dp_event.PoissonSampledDpEvent(batch / 64, one)
    accountant = PLDAccountant().compose(dp_event.SelfComposedDpEvent(one, plan.steps))
    assert plan.epsilon == pytest.approx(accountant.get_epsilon(plan.delta), rel=1e-3)
    if "max_tpr" in privacy:
        assert 0.01998 < plan.max_tpr(0.01) <= 0.02
    else:
        assert privacy["epsilon"] * 0.998 < plan.epsilon <= privacy["epsilon"]


def test_the_weights_hold_the_noise_of_every_step() -> None:
    zeros = np.zeros((64, 800))
    data = cm.Dataset(train=(zeros, TRAIN[1][:64]), holdout=(zeros, TRAIN[1][:64]))
    target = net(flat, learning_rate=0.5, epochs=2)
    change = private(data, target, epsilon=0.5, settings={"clip": 3.0, "batch_size": 8})
    plan = change.target.claims[0]
    assert plan.steps == 16 and plan.unit == "record"
    found = change.target.model.weight.detach().numpy().ravel()
    spread_is(found, 4 * 0.5 * plan.noise_multiplier * 3.0 / 8)  # sqrt(16) steps of lr * sigma * C / B


def test_only_a_test_source_repeats_a_training() -> None:
    def trained(source: Callable[[], secure.Source]) -> bytes:
        plan = replace(PLAN, steps=3 * 4)
        pieces = TrainingPieces(
            sampler=PoissonUnits(claim=plan, draws=source),
            aggregate=NoisyMean(claim=plan, expected=16.0, draws=source),
            claims=(plan,),
        )
        recipe = cm.Recipe(factory=mlp, epochs=3, pieces=pieces)
        facts = Facts(person=TRAIN[2], n_classes=2)
        model = loop.train(recipe, *TRAIN[:2], seed=0, facts=facts).model
        return b"".join(value.numpy().tobytes() for value in model.state_dict().values())

    def stream() -> Callable[[], secure.Source]:
        one = secure.insecure_test_source(4)
        return lambda: one

    assert trained(stream()) == trained(stream())
    assert trained(secure.source) != trained(secure.source)


@pytest.mark.parametrize(
    "optimiser",
    [
        {"optimiser": "adam", "learning_rate": 0.01},
        {"momentum": 0.9, "weight_decay": 0.01},
        {"learning_rate": 0.5},
    ],
)
def test_with_little_noise_any_optimiser_learns(optimiser: dict[str, Any]) -> None:
    learnt = private(RECORDS, epsilon=60.0, settings={"epochs": 60, "batch_size": 128, **optimiser}).after
    assert next(row.value for row in learnt if row.quantity == "accuracy") >= 0.75


def test_it_trains_regression_and_without_labels_of_the_model() -> None:
    x, _, who = TRAIN
    data = cm.Dataset(train=(x, 2.5 * x[:, 0], who), holdout=(x, 2.5 * x[:, 0], 900 + who))
    recipe = cm.Recipe(factory=lambda: nn.Linear(4, 1), epochs=4, loss="mse", learning_rate=0.2)
    target = cm.wrap(nn.Linear(4, 1), recipe=recipe, task="regression")
    assert private(data, target).target.claims[0].unit == "person"


def test_without_privacy_it_is_the_plain_fit() -> None:
    target = net()
    same = private(target=target, epsilon=math.inf, settings=None)
    assert same.target.digest() == target.digest() and same.target.claims == ()
    more = private(target=target, epsilon=math.inf, settings={"epochs": 2, "clip": 0.1}).target
    plain = target.with_recipe(replace(target.recipe, epochs=2))
    again = cm.harden(
        plain, PEOPLE, using=[cm.method("dp_sgd", epsilon=math.inf, settings={"momentum": 0.0})]
    )
    assert more.digest() == again.target.digest() and more.claims == ()


def test_the_change_says_what_holds_and_what_does_not() -> None:
    change = private(settings={"epochs": 2, "batch_size": 64})
    plan = change.target.claims[0]
    assert change.summary == f"trained with {plan}" and "per person" in change.summary
    table, *notes = change.evidence
    assert table.name == "most members anybody recognises" and len(table.rows) == 3
    said = " ".join(note.text for note in notes)
    for word in ("upper bound for any attacker", "factor of two", "chosen by looking at the same people"):
        assert word in said
    assert pickle.loads(pickle.dumps(change.target.recipe.pieces)).claims == (plan,)


def test_a_second_training_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    private(folder=tmp_path / "run")
    assert not list((tmp_path / "run").glob("*.safetensors"))  # no checkpoint: its noise could be drawn twice
    with pytest.raises(GuaranteeVoid, match="begun before"):
        private(folder=tmp_path / "run")


# ---- what it refuses ----


def norm() -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_batch_normalisation_is_refused_before_anything_is_spent(tmp_path: Path) -> None:
    with pytest.raises(GuaranteeVoid, match="GroupNorm or LayerNorm"):
        private(target=net(norm), folder=tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


def test_preprocessing_fitted_to_the_rows_is_refused() -> None:
    with pytest.raises(GuaranteeVoid, match="public bounds"):
        private(target=net(preprocessing=loop.standardise))


def test_a_factory_that_brings_the_model_under_test_along_is_refused() -> None:
    model = mlp()
    target = cm.wrap(model, recipe=cm.Recipe(factory=lambda: copy.deepcopy(model)), outputs="logits")
    with pytest.raises(GuaranteeVoid, match=r"brings along '0\.weight' of the model under test"):
        private(target=target)

    def public() -> nn.Module:  # a body that is known to all, and a head of its own
        body = copy.deepcopy(model)
        body[0].requires_grad_(False)
        body[3] = nn.Linear(6, 2)
        return body

    body = public()
    assert private(
        target=cm.wrap(body, recipe=cm.Recipe(factory=public, epochs=1), outputs="logits")
    ).target.claims


def test_categories_read_off_the_rows_are_refused() -> None:
    word = np.where(TRAIN[0][:, 1] > 0, "a", "b")
    table = pd.DataFrame({"one": TRAIN[0][:, 0], "word": word})
    data = cm.Dataset(train=(table, TRAIN[1]), holdout=(table, TRAIN[1]))
    target = net(lambda: nn.Linear(2, 2))
    with pytest.raises(GuaranteeVoid, match=r"the categories of 'word', and so its codes, were read off"):
        private(data, target, settings={"batch_size": 128})
    told = data.schema.with_columns({"word": {"categories": ("a", "b", "c")}})
    stated = cm.Dataset(train=(table, TRAIN[1]), holdout=(table, TRAIN[1]), schema=told)
    assert private(stated, target, settings={"batch_size": 128}).target.claims


def test_unsound_mixes_are_refused() -> None:
    one = cm.method("dp_sgd", epsilon=0.5)
    for other in ("augment", "adversarial_training"):
        with pytest.raises(GuaranteeVoid, match="would make the guarantee of dp_sgd false"):
            cm.harden(net(), PEOPLE, using=[one, other])


def test_augmentation_that_looks_at_one_row_is_let_through() -> None:
    shown = cm.method("augment", noise={"x0": 0.1, "x1": 0.1})
    both = [cm.method("dp_sgd", epsilon=0.5), shown]
    with pytest.raises(GuaranteeVoid, match="read off the private rows"):
        cm.harden(net(), PEOPLE, using=both)
    limits = {name: {"low": -9.0, "high": 9.0} for name in ("x0", "x1")}
    stated = cm.Dataset(train=TRAIN, holdout=HOLD, schema=PEOPLE.schema.with_columns(limits))
    change = cm.harden(net(), stated, using=both)
    assert change.target.claims[0].epsilon <= 0.5
    assert change.target.recipe.pieces.filled() == ["sampler", "transform", "aggregate"]


def test_a_second_defence_of_the_same_kind_is_refused() -> None:
    with pytest.raises(InvalidData, match="both replace the sampler"):
        private(target=private().target)


def test_more_epochs_than_were_accounted_are_refused() -> None:
    target = private().target
    for epochs in (2, 4):
        longer = target.with_recipe(replace(target.recipe, epochs=epochs))
        with pytest.raises(GuaranteeVoid, match=f"accounts for {target.claims[0].steps} steps"):
            longer.refit_people(*TRAIN[:2], 0, person=TRAIN[2])


def test_refits_need_to_know_whose_row_each_is() -> None:
    target = private().target
    with pytest.raises(GuaranteeVoid, match="not told whose row"):
        target.refit(*TRAIN[:2], 0)
    holes = np.where(np.arange(120) < 2, np.nan, TRAIN[2])
    with pytest.raises(GuaranteeVoid, match="missing values"):
        target.refit_people(*TRAIN[:2], 0, person=holes)
    with pytest.raises(InvalidData, match="60 entries for 120 rows"):
        target.refit_people(*TRAIN[:2], 0, person=TRAIN[2][:60])


def test_a_transform_that_makes_more_rows_is_refused() -> None:
    target = private().target

    def doubled(x: Any, y: Any, stage: Stage) -> Any:
        return torch.cat([x, x]), torch.cat([y, y])

    pieces = replace(target.recipe.pieces, transform=doubled)
    with pytest.raises(GuaranteeVoid, match="unknown whose they are"):
        target.with_recipe(replace(target.recipe, pieces=pieces)).refit_people(*TRAIN[:2], 0, person=TRAIN[2])


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"epsilon": None}, "needs one of epsilon=3"),
        ({"max_tpr": 0.1, "at_fpr": 0.01}, "needs one of epsilon=3"),
        ({"epsilon": None, "max_tpr": 0.1}, "needs one of"),
        ({"epsilon": True}, "epsilon must be a number"),
        ({"epsilon": -1.0}, "epsilon must lie"),
        ({"delta": 0.5}, "delta 0.5 is too large for 60 people"),
        ({"settings": {"clips": 1.0}}, "settings= names 'clips'; it may name clip, optimiser"),
        ({"settings": {"factory": mlp}}, "settings= names 'factory'"),
        ({"settings": {"clip": 0.0}}, "clip must be a finite number > 0"),
        ({"settings": {"batch_size": 0}}, "batch_size >= 1"),
        ({"settings": {"epochs": 0}}, "epochs >= 1"),
    ],
)
def test_what_cannot_be_asked(params: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidData, match=said):
        private(**params)


def test_a_target_without_a_recipe_of_torch_is_refused() -> None:
    bare = cm.wrap(mlp(), outputs="logits")
    with pytest.raises(InvalidData, match="needs refit"):
        private(target=bare)
    assert LABELS in bare.capabilities


def test_larger_batches_are_the_default() -> None:
    def size(target: cm.Target) -> int:
        return private(RECORDS, target, epsilon=0.5, settings=None).target.recipe.batch_size

    assert size(net(batch_size=4)) == 16  # an eighth of 128
    assert size(net(batch_size=200)) == 200
    assert module.steps_an_epoch(1.0) == 1 and module.steps_an_epoch(0.75) == 2
