# SPDX-License-Identifier: Apache-2.0
"""The pieces of the loop as values: each against a loop written out, or against what it must not change."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import micro
import numpy as np
import pytest

from casemate.core import rng
from casemate.core.errors import InvalidData
from casemate.core.types import Curve, Note, Recipe

torch = pytest.importorskip("torch")
from casemate.training import loop, steps  # noqa: E402  # after the guard
from casemate.training.pieces import TrainingPieces  # noqa: E402
from casemate.training.steps import Facts, Selection, Stage  # noqa: E402

X = micro.numbers(50, 0) / np.array([1.0, 10.0, 0.1, 3.0])
Y = micro.three_classes(X * np.array([1.0, 10.0, 0.1, 3.0]))


def linear() -> Any:
    return torch.nn.Linear(4, 3, dtype=torch.float64)


RECIPE = Recipe(factory=linear, epochs=3, batch_size=16, learning_rate=0.2)


def trained(recipe: Recipe = RECIPE, y: Any = Y, **pieces: Any) -> Any:
    return loop.fit(replace(recipe, pieces=TrainingPieces(**pieces)), X, y, seed=7)


def numbers_of(model: Any) -> np.ndarray:
    return np.concatenate([value.numpy().ravel() for value in model.state_dict().values()])


def by_hand(lr: Any = lambda step: 0.2, rows_of: Any = None, keep: Any = None, epochs: int = 3) -> Any:
    """Softmax regression by plain gradient steps; the gradient is written out, not taken."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(7)
        start = linear()
    w, b = start.weight.detach().numpy().copy(), start.bias.detach().numpy().copy()
    order = torch.Generator().manual_seed(rng.child_seed(7, "order"))
    places = np.arange(len(X)) if keep is None else keep
    after, step = [], 0
    for _ in range(epochs):
        shuffled = torch.randperm(len(places), generator=order).split(16) if rows_of is None else rows_of
        for drawn in shuffled:
            rows = places[np.asarray(drawn)]
            logits = X[rows] @ w.T + b
            shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            pull = (shares - np.eye(3)[Y[rows]]) / len(rows)
            w, b = w - lr(step) * pull.T @ X[rows], b - lr(step) * pull.sum(0)
            step += 1
        after.append(np.concatenate([w.ravel(), b]))
    return after


def test_the_default_pieces_are_the_loop_written_out() -> None:
    np.testing.assert_allclose(numbers_of(trained()), by_hand()[-1], rtol=0, atol=1e-12)
    named = trained(sampler=steps.shuffled, aggregate=steps.backward, transform=lambda x, y, stage: (x, y))
    assert (numbers_of(named) == numbers_of(trained())).all()


def test_a_sampler_decides_which_rows_form_a_step() -> None:
    parts = [torch.arange(0, 10), torch.arange(30, 50), torch.tensor([3])]
    np.testing.assert_allclose(
        numbers_of(trained(sampler=lambda stage: iter(parts))), by_hand(rows_of=parts)[-1], atol=1e-12
    )


def test_a_schedule_multiplies_the_learning_rate_of_every_step() -> None:
    found = trained(schedule=lambda stage: 1 / (1 + stage.step))
    np.testing.assert_allclose(numbers_of(found), by_hand(lr=lambda step: 0.2 / (1 + step))[-1], atol=1e-12)


def test_one_gradient_an_example_adds_up_to_the_gradient_of_the_batch() -> None:
    def one_by_one(x: Any, y: Any, stage: Stage) -> Any:
        total = 0.0
        for i in range(len(x)):
            loss = stage.loss(stage.model(x[i : i + 1]), y[i : i + 1], stage) / len(x)
            loss.backward()  # gradients add up
            total += loss.detach()
        return total

    np.testing.assert_allclose(
        numbers_of(trained(aggregate=one_by_one)), numbers_of(trained()), rtol=0, atol=1e-10
    )


def test_a_loss_of_ones_own_takes_soft_labels() -> None:
    soft = np.eye(3)[Y]
    found = trained(y=soft, loss=lambda raw, y, stage: -(y * raw.log_softmax(1)).sum(1).mean())
    np.testing.assert_allclose(numbers_of(found), by_hand()[-1], rtol=0, atol=1e-12)


def test_a_transform_sees_each_row_once_an_epoch_and_changes_what_is_learnt() -> None:
    seen: list[tuple[int, int, int]] = []

    def double(x: Any, y: Any, stage: Stage) -> Any:
        np.testing.assert_array_equal(x.numpy(), X[stage.rows.numpy()])
        np.testing.assert_array_equal(y.numpy(), Y[stage.rows.numpy()])
        seen.extend((stage.epoch, stage.step, row) for row in stage.rows.tolist())
        return 2 * x, y

    found = trained(transform=double)
    assert sorted((epoch, row) for epoch, _, row in seen) == list(itertools.product(range(3), range(50)))
    assert sorted({step for _, step, _ in seen}) == list(range(12))
    plain = loop.fit(RECIPE, 2 * X, Y, seed=7)
    np.testing.assert_allclose(numbers_of(found), numbers_of(plain), atol=1e-12)


@dataclass(frozen=True)
class Scripted:
    """Scores epochs by a list, and remembers what it was shown."""

    scores: tuple[float, ...]
    shown: list[Any]

    def __call__(self, x: Any, y: Any, stage: Stage) -> float:
        assert not stage.model.training
        self.shown.append((stage.rows.numpy().copy(), x.numpy().copy()))
        return self.scores[stage.epoch]


@pytest.mark.parametrize(("scores", "best"), [((0.1, 0.9, 0.2), 1), ((0.5, 0.5, 0.5), 2), ((3, 2, 1), 0)])
def test_the_epoch_of_the_best_score_is_kept_and_its_rows_are_held_back(
    scores: tuple[float, ...], best: int
) -> None:
    score = Scripted(scores, [])
    select = Selection(score=score, name="goodness", share=0.2, least=10)
    made = loop.train(
        replace(RECIPE, pieces=TrainingPieces(select=select)), X, Y, seed=7, facts=Facts(n_classes=3)
    )
    held = score.shown[0][0]
    assert len(held) == 10 and len(score.shown) == 3
    np.testing.assert_array_equal(score.shown[2][1], X[held])
    expected = by_hand(keep=np.setdiff1d(np.arange(50), held))[best]
    np.testing.assert_allclose(numbers_of(made.model), expected, atol=1e-12)
    note, curve = made.history
    assert isinstance(note, Note) and f"Epoch {best + 1} of 3 is kept" in note.text
    assert isinstance(curve, Curve) and curve.y == scores and curve.x == (1.0, 2.0, 3.0)


def test_too_few_rows_to_choose_by_are_trained_on() -> None:
    score = Scripted((1.0, 0.0, 0.0), [])
    select = Selection(score=score, name="goodness")
    made = loop.train(replace(RECIPE, pieces=TrainingPieces(select=select)), X, Y, seed=7, facts=Facts())
    np.testing.assert_allclose(numbers_of(made.model), by_hand()[-1], atol=1e-12)
    assert not score.shown and "fewer than 20" in made.history[0].text  # type: ignore[union-attr]


def test_what_is_held_back_is_a_share_up_to_a_limit_and_belongs_to_the_seed() -> None:
    select = Selection(score=len, name="goodness")  # type: ignore[arg-type]  # never called
    assert [len(select.held_back(n, 0)) for n in (199, 204, 5000, 9000)] == [20, 20, 500, 500]
    assert len(select.held_back(190, 0)) == 0
    one, other = select.held_back(1000, 1), select.held_back(1000, 2)
    assert len(np.unique(one)) == 100 and one.max() < 1000 and not np.array_equal(one, other)


def test_pieces_that_are_none_are_refused() -> None:
    with pytest.raises(InvalidData, match=r"pieces=\) must be TrainingPieces; got dict"):
        loop.fit(replace(RECIPE, pieces={}), X, Y, seed=0)
    with pytest.raises(InvalidData, match="augment keeps to the schema"):
        Stage(model=None, recipe=RECIPE, n_rows=1, seed=0, order=None, loss=None).known_schema("augment")
