# SPDX-License-Identifier: Apache-2.0
"""The loop against one written out by hand, its seeds, its refusals, and standardised inputs."""

from __future__ import annotations

import pickle
import random
import threading
from dataclasses import replace
from typing import Any

import micro
import numpy as np
import pytest

from casemate.core import rng
from casemate.core.errors import InvalidData
from casemate.core.types import Recipe

torch = pytest.importorskip("torch")
from casemate.training import loop, modules, steps  # noqa: E402  # after the guard
from casemate.training.isolation import user_code  # noqa: E402

X = micro.numbers(50, 0) / np.array([1.0, 10.0, 0.1, 3.0])
Y = micro.three_classes(X * np.array([1.0, 10.0, 0.1, 3.0]))


def three() -> Any:
    return torch.nn.Sequential(
        torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Dropout(0.2), torch.nn.Linear(6, 3)
    )


def numbers_of(model: Any) -> bytes:
    return b"".join(value.numpy().tobytes() for value in model.state_dict().values())


@pytest.mark.parametrize(
    ("optimiser", "build"),
    [
        (
            {"optimiser": "sgd", "momentum": 0.9, "weight_decay": 0.01, "learning_rate": 0.1},
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
        ),
        ({"optimiser": "adam", "learning_rate": 0.01}, lambda p: torch.optim.Adam(p, lr=0.01)),
        (
            {"optimiser": "adamw", "learning_rate": 0.01, "weight_decay": 0.1},
            lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
        ),
    ],
    ids=["sgd", "adam", "adamw"],
)
def test_it_is_the_loop_one_would_write(optimiser: dict[str, Any], build: Any) -> None:
    recipe = Recipe(factory=three, epochs=3, batch_size=16, **optimiser)
    ours = loop.fit(recipe, X, Y, seed=7)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(7)
        model = three()
        order = torch.Generator().manual_seed(rng.child_seed(7, "order"))
        optimiser_by_hand = build(model.parameters())
        x, y = torch.tensor(X, dtype=torch.float32), torch.tensor(Y)
        for _ in range(3):
            for rows in torch.randperm(50, generator=order).split(16):
                optimiser_by_hand.zero_grad()
                torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
                optimiser_by_hand.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_a_single_logit_learns_what_two_logits_0_and_z_would() -> None:
    y = (X[:, 0] > 0) * 1
    recipe = Recipe(factory=lambda: torch.nn.Linear(4, 1), epochs=4)
    single = loop.fit(recipe, X, y, seed=0)

    class Pair(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(4, 1)

        def forward(self, x: Any) -> Any:
            z = self.inner(x)
            return torch.cat([torch.zeros_like(z), z], 1)

    pair = loop.fit(replace(recipe, factory=Pair), X, y, seed=0)
    torch.testing.assert_close(single.weight, pair.inner.weight, rtol=1e-5, atol=1e-6)
    flat = loop.fit(
        replace(recipe, factory=lambda: torch.nn.Sequential(torch.nn.Linear(4, 1), torch.nn.Flatten(0))),
        X,
        y,
        seed=0,
    )
    assert numbers_of(flat) == numbers_of(single)


def test_least_squares_is_reached() -> None:
    y = X @ [1.0, -2.0, 0.5, 0.0] + 3.0
    recipe = Recipe(factory=lambda: torch.nn.Linear(4, 1).double(), epochs=200, loss="mse", learning_rate=0.1)
    model = loop.fit(recipe, X, y, seed=0)
    np.testing.assert_allclose(model.weight.detach().numpy()[0], [1.0, -2.0, 0.5, 0.0], atol=1e-3)
    assert model.bias.item() == pytest.approx(3.0, abs=1e-3)


def test_a_model_that_returns_probabilities_learns_too() -> None:
    def soft() -> Any:
        return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Softmax(1))

    recipe = Recipe(factory=soft, epochs=5)
    trained = loop.fit(recipe, X, Y, seed=0, outputs="probabilities")
    plain = loop.fit(replace(recipe, factory=lambda: torch.nn.Linear(4, 3)), X, Y, seed=0)
    torch.testing.assert_close(trained[0].weight, plain.weight, rtol=1e-4, atol=1e-5)


def test_the_same_seed_gives_the_same_bytes_and_no_generator_moves() -> None:
    recipe = Recipe(factory=three, epochs=2)
    legacy = repr(np.random.get_state(legacy=False))
    before = random.getstate(), legacy, torch.get_rng_state().numpy().tobytes()
    one, two, other = (loop.fit(recipe, X, Y, seed=seed) for seed in (1, 1, 2))
    assert numbers_of(one) == numbers_of(two) != numbers_of(other)
    legacy = repr(np.random.get_state(legacy=False))
    assert (random.getstate(), legacy, torch.get_rng_state().numpy().tobytes()) == before
    assert not one.training and all(p.grad is None and p.requires_grad for p in one.parameters())


def test_a_model_that_comes_in_eval_mode_is_trained_in_training_mode() -> None:
    recipe = Recipe(factory=three, epochs=2)
    asleep = replace(recipe, factory=lambda: three().eval())
    assert numbers_of(loop.fit(asleep, X, Y, seed=1)) == numbers_of(loop.fit(recipe, X, Y, seed=1))


def test_two_threads_train_what_one_does() -> None:
    recipe = Recipe(factory=three, epochs=4)
    alone = [numbers_of(loop.fit(recipe, X, Y, seed=seed)) for seed in (1, 2)]
    found: dict[int, bytes] = {}
    threads = [
        threading.Thread(
            target=lambda seed=seed: found.update({seed: numbers_of(loop.fit(recipe, X, Y, seed=seed))})
        )
        for seed in (1, 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[1], found[2]] == alone


@pytest.mark.parametrize(
    ("n", "size", "sizes"),
    [
        (50, 16, [16, 16, 16, 2]),
        (33, 16, [16, 17]),
        (1, 4, [1]),
        (5, 1, [1, 1, 1, 2]),
        (8, 8, [8]),
        (3, 100, [3]),
    ],
)
def test_every_row_comes_once_an_epoch(n: int, size: int, sizes: list[int]) -> None:
    order = torch.Generator().manual_seed(0)
    parts = list(steps.batches(n, size, order, torch.device("cpu")))
    assert [len(part) for part in parts] == sizes
    assert sorted(torch.cat(parts).tolist()) == list(range(n))


def test_a_last_row_of_its_own_does_not_stop_batch_normalisation() -> None:
    recipe = Recipe(
        factory=lambda: torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3)), epochs=1
    )
    assert loop.fit(recipe, X[:33], Y[:33], seed=0).training is False


def test_preprocessing_is_fitted_on_the_rows_of_this_training() -> None:
    recipe = Recipe(factory=lambda: torch.nn.Linear(4, 3), epochs=1, preprocessing=loop.standardise)
    model = loop.fit(recipe, X[:20], Y[:20], seed=0)
    np.testing.assert_allclose(model[0].mean.numpy(), X[:20].mean(0), rtol=1e-5)
    double = loop.fit(replace(recipe, factory=lambda: torch.nn.Linear(4, 3).double()), X, Y, seed=0)
    assert double[0].mean.dtype == torch.float64


@pytest.mark.parametrize(
    ("changes", "y", "told"),
    [
        (
            {"learning_rate": 1e38, "weight_decay": 1.0},
            Y,
            r"diverged: the loss of epoch 1 is inf; lower learning_rate \(1e\+38\)",
        ),
        (
            {"learning_rate": 1e38, "weight_decay": 1e3, "batch_size": 50, "epochs": 1},
            Y,
            "the last steps left",
        ),
        ({"factory": lambda: torch.nn.Linear(4, 2)}, Y, r"returned \(32, 2\) for 32 rows of 3 classes"),
        ({"factory": lambda: torch.nn.Linear(4, 1)}, Y, "of 3 classes"),
        (
            {"factory": lambda: torch.nn.Linear(5, 3)},
            Y,
            "training by the recipe failed: .*shapes cannot be multiplied",
        ),
        ({"factory": list}, Y, "must return an nn.Module; it returned list"),
        ({"factory": torch.nn.Identity}, Y, "without trainable parameters"),
        ({"factory": lambda: {}["no"]}, Y, "KeyError: 'no'"),
        ({"preprocessing": lambda x: x}, Y, r"Recipe\(preprocessing=\) must return an nn.Module"),
        ({"optimiser": "adam", "momentum": 0.9}, Y, "momentum=0.9.* is for optimiser='sgd'"),
        ({"loss": "mse"}, Y, "needs one output a row"),
        ({}, Y / 2, "needs class indices; got float64"),
        ({}, Y[:-1], "50 rows, 49 labels"),
        ({}, Y[:0], "0 labels"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(changes: dict[str, Any], y: Any, told: str) -> None:
    with pytest.raises(InvalidData, match=told) as caught:
        loop.fit(replace(Recipe(factory=three, epochs=2), **changes), X, y, seed=0)
    assert "\n" not in str(caught.value)


def test_standardised_columns_have_mean_0_and_spread_1_and_constants_stay_finite() -> None:
    x = np.column_stack(
        [
            X[:, 0] * 1e3 + 5,
            np.full(50, 7.0),
            np.where(np.arange(50) % 3, X[:, 1], np.nan),
            np.full(50, np.nan),
        ]
    )
    front = loop.standardise(x)
    out = front.double()(torch.tensor(x)).numpy()
    assert np.allclose(out[:, 0].mean(), 0, atol=1e-6) and np.allclose(out[:, 0].std(), 1, atol=1e-6)
    assert (out[:, 1] == 0).all() and (np.isnan(out[:, 2]) == np.isnan(x[:, 2])).all()
    assert np.allclose(np.nanstd(out[:, 2]), 1, atol=1e-6) and np.isnan(out[:, 3]).all()
    assert list(front.parameters()) == [] and set(front.state_dict()) == {"mean", "scale"}
    front.train()
    assert (front(torch.tensor(x)).numpy()[:, 0] == out[:, 0]).all(), "training mode must not refit it"


def test_standardised_images_have_one_scale_a_channel() -> None:
    x = np.random.default_rng(0).normal([[[[3.0]], [[-2.0]]]], [[[[2.0]], [[0.1]]]], (40, 2, 5, 5))
    out = loop.standardise(x)(torch.tensor(x, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(out.mean((0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(out.std((0, 2, 3)), 1, atol=1e-4)


def test_our_modules_pickle_by_name() -> None:
    front = loop.standardise(X)
    again = pickle.loads(pickle.dumps(front))
    assert type(again) is type(front) is modules.Standardise
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = modules.Nothing


def test_errors_of_casemate_and_memory_pass_through() -> None:
    for kind in (InvalidData, MemoryError, KeyboardInterrupt):
        with pytest.raises(kind, match=r"^as it was$"), user_code("this", "nothing"):
            raise kind("as it was")
    with pytest.raises(InvalidData, match=r"^this failed: OSError; nothing$"), user_code("this", "nothing"):
        raise OSError
