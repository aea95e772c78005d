# SPDX-License-Identifier: Apache-2.0
"""Pieces of a training: how they merge, and what harden makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

import casemate as cm
from casemate.core.errors import InvalidData
from casemate.core.types import LABELS, REFIT, SCORES, Note
from casemate.training.pieces import SLOTS, TrainingPieces, merge


def rows(n: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n, 3))
    return x, np.where((x[:, 0] > 0) ^ (draw.random(n) < 0.2), "yes", "no")


TRAIN, HOLD = rows(seed=1), rows(seed=2)
DATA = cm.Dataset(train=TRAIN, holdout=HOLD)


def tree(**settings: Any) -> DecisionTreeClassifier:
    return DecisionTreeClassifier(random_state=0, **settings).fit(*TRAIN)


def test_merging_keeps_every_piece_in_any_order() -> None:
    parts = [
        ("a", TrainingPieces(loss=len, summary="a loss", evidence=(Note(text="one"),))),
        ("b", TrainingPieces(recipe={"n": 1}, sampler=sum, summary="a sampler")),
        ("c", TrainingPieces()),
    ]
    for order in (parts, parts[::-1]):
        merged = merge(order)
        assert (merged.loss, merged.sampler, merged.recipe) == (len, sum, {"n": 1})
        assert merged.filled() == ["sampler", "loss", "recipe"]
        assert merged.evidence == (Note(text="one"),)
    assert merge(parts).summary == "a loss; a sampler"
    assert merge([]).filled() == []


@pytest.mark.parametrize("slot", SLOTS)
def test_two_of_one_slot_are_refused_and_named(slot: str) -> None:
    one, other = TrainingPieces(**{slot: len}), TrainingPieces(**{slot: sum})
    with pytest.raises(InvalidData, match=f"first and second both replace the {slot}"):
        merge([("first", one), ("second", other)])


def test_the_training_comes_first_whatever_the_order_of_names() -> None:
    leaves = cm.method("limit_leaves", n=15)
    one = cm.harden(tree(), DATA, using=[leaves, "rounding"])
    other = cm.harden(tree(), DATA, using=["rounding", leaves])
    assert one.method == other.method == "limit_leaves+rounding"
    assert one.params == other.params == {"limit_leaves": {"n": 15}, "rounding": {"digits": 1}}
    assert one.target.digest() == other.target.digest()
    scores = one.target.scores(one.target.schema.encode(HOLD[0]))
    np.testing.assert_array_equal(scores, scores.round(1))
    assert one.target.base.model.min_samples_leaf == 15


def test_refits_and_shadows_of_a_hardened_target_are_hardened() -> None:
    change = cm.harden(tree(), DATA, using=["limit_leaves", "rounding"])
    target, data = change.target.bind(DATA)
    shadow = target.refit(data.train.x[:100], data.train.y[:100], 5)
    again = shadow.refit(data.train.x, data.train.y, 6)
    for one in (shadow, again):
        counts = np.bincount(one.base.model.apply(data.train.x[:100] if one is shadow else data.train.x))
        assert counts[counts > 0].min() >= 20
        assert (one.scores(data.holdout.x) == one.scores(data.holdout.x).round(1)).all()


def test_the_model_itself_and_its_labels_stay() -> None:
    model = tree()
    before = model.get_params(), model.tree_.node_count
    change = cm.harden(model, DATA, using="limit_leaves")
    assert (model.get_params(), model.tree_.node_count) == before
    assert change.target.classes == ("no", "yes")
    assert change.before[0].quantity == change.after[0].quantity == "accuracy"
    seeds = [cm.harden(model, DATA, using="limit_leaves", seed=s).target.digest() for s in (0, 0)]
    assert seeds[0] == seeds[1]


def test_a_limited_target_is_trained_behind_its_door() -> None:
    bound, data = cm.wrap(tree()).bind(DATA)
    change = cm.harden(bound.limited_to(LABELS, REFIT), data, using="limit_leaves")
    assert change.target.capabilities == {LABELS, REFIT}
    with pytest.raises(InvalidData, match="limit_leaves needs refit"):
        cm.harden(bound.limited_to(LABELS, SCORES), data, using="limit_leaves")


def test_with_recipe_answers_as_before_until_it_is_trained() -> None:
    model = make_pipeline(StandardScaler(), DecisionTreeClassifier(random_state=0)).fit(*TRAIN)
    target, data = cm.wrap(model).bind(DATA)
    changed = target.with_recipe({"decisiontreeclassifier__max_depth": 1})
    np.testing.assert_array_equal(changed.labels(data.holdout.x), target.labels(data.holdout.x))
    assert changed.settings()["decisiontreeclassifier__max_depth"] == 1
    deeper = changed.with_recipe({"decisiontreeclassifier__min_samples_leaf": 7})
    trained = deeper.refit(data.train.x, data.train.y, 0)
    assert trained.model[-1].get_depth() == 1 and trained.model[-1].min_samples_leaf == 7
    assert trained.refit(data.train.x, data.train.y, 1).model[-1].get_depth() == 1


def test_recipes_that_do_not_fit_are_refused() -> None:
    target, _ = cm.wrap(tree()).bind(DATA)
    with pytest.raises(InvalidData, match="set_params failed"):
        target.with_recipe({"depth": 1})
    with pytest.raises(InvalidData, match="carries its own recipe"):
        target.with_recipe(cm.Recipe(factory=list))
    with pytest.raises(InvalidData, match="cannot be trained by another recipe"):
        cm.wrap(lambda x: np.zeros(len(x)), outputs="labels", classes=[0, 1]).with_recipe({})


def test_torch_takes_a_whole_recipe() -> None:
    import torch

    recipe = cm.Recipe(factory=lambda: torch.nn.Linear(3, 2, device="cpu"), epochs=1)
    x, y = TRAIN[0], (TRAIN[1] == "yes").astype(int)
    data = cm.Dataset(train=(x, y), holdout=(x, y))
    target, _ = cm.wrap(recipe.factory(), recipe=recipe, outputs="logits").bind(data)
    longer = cm.Recipe(factory=recipe.factory, epochs=30, learning_rate=0.3)
    changed = target.with_recipe(longer)
    np.testing.assert_array_equal(changed.labels(x), target.labels(x))
    assert changed.recipe is longer and target.recipe is recipe
    with pytest.raises(InvalidData, match=r"trained by a casemate\.Recipe"):
        target.with_recipe({"epochs": 2})


@pytest.mark.parametrize(
    ("using", "said"),
    [
        (["rounding", "rounding"], "rounding is named twice"),
        (["lira"], "lira is an attack, not a defence"),
        ([], "names no defence"),
    ],
)
def test_what_cannot_be_used_is_said(using: list[str], said: str) -> None:
    with pytest.raises(InvalidData, match=said):
        cm.harden(GaussianNB().fit(*TRAIN), DATA, using=using)


def test_a_model_without_trees_is_left_alone() -> None:
    with pytest.raises(InvalidData, match="found no tree"):
        cm.harden(LogisticRegression().fit(*TRAIN), DATA, using="limit_leaves")


def test_a_piece_that_no_training_takes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from casemate.training import retraining

    monkeypatch.setattr(retraining, "merge", lambda named: TrainingPieces(loss=len))
    with pytest.raises(InvalidData, match="replaces the loss, which no training loop takes"):
        cm.harden(tree(), DATA, using="limit_leaves")
