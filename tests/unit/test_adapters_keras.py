# SPDX-License-Identifier: Apache-2.0
"""Keras models as targets: the copy answers as the model does, gradients are right, refits are its own training."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import casemate as cm
from casemate.adapters._keras_fit import batch_of
from casemate.core.errors import GuaranteeVoid, InvalidData, MissingCapability, UnknownArtefact
from casemate.core.types import LABELS, LOGITS, MODULE, REFIT, SCORES

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")
torch = pytest.importorskip("torch")
layers = keras.layers

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 4))
Y = (X[:, 0] + 0.4 * RNG.normal(size=120) > 0).astype(int)
Y3 = np.digitize(X[:, 0], [-0.5, 0.5])


def data_of(y: np.ndarray = Y, x: np.ndarray = X) -> cm.Dataset:
    half = len(x) // 2
    return cm.Dataset(train=(x[:half], y[:half]), holdout=(x[half:], y[half:]))


def net(*parts: Any, shape: tuple[int, ...] = (4,), loss: str = "sparse_categorical_crossentropy") -> Any:
    model = keras.Sequential([layers.Input(shape), *parts])
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss=loss)
    return model


def fitted(model: Any, y: Any = Y, x: Any = X, epochs: int = 3) -> Any:
    model.fit(x[: len(x) // 2], y[: len(x) // 2], epochs=epochs, batch_size=16, verbose=0)
    return model


def softmax() -> Any:
    return net(layers.Dense(8, activation="relu"), layers.Dropout(0.2), layers.Dense(2, activation="softmax"))


HEADS = {
    "softmax": lambda: [layers.Dense(3, activation="softmax")],
    "softmax layer": lambda: [layers.Dense(3), layers.Softmax()],
    "activation layer": lambda: [layers.Dense(3), layers.Activation("softmax")],
    "logits": lambda: [layers.Dense(3)],
    "normalised": lambda: [layers.BatchNormalization(), layers.Dense(3, activation="softmax")],
}


@pytest.mark.parametrize("head", HEADS)
def test_the_copy_answers_as_the_model_does(head: str) -> None:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=head == "logits")
    model = fitted(net(layers.Dense(8, activation="relu"), *HEADS[head](), loss=loss), Y3)
    target, _ = cm.wrap(model).bind(data_of(Y3))
    raw = model.predict(X, verbose=0).astype(np.float64)
    if head == "logits":
        raw = np.exp(raw - raw.max(1, keepdims=True))
        raw /= raw.sum(1, keepdims=True)
    np.testing.assert_allclose(target.scores(X), raw, atol=1e-6)
    assert (target.labels(X) == raw.argmax(1)).all()
    assert target.capabilities == {LABELS, SCORES, LOGITS, MODULE, REFIT}
    # under a softmax that was taken off lie logits, which do not saturate where its probabilities do
    far = target.logits(X * 1e4)
    assert np.isfinite(far).all()
    assert np.ptp(far, 1).max() > 1e3


def test_one_sigmoid_is_two_classes() -> None:
    model = fitted(net(layers.Dense(1, activation="sigmoid"), loss="binary_crossentropy"))
    target, _ = cm.wrap(model, classes=["no", "yes"]).bind(data_of(np.where(Y, "yes", "no")))
    np.testing.assert_allclose(target.scores(X)[:, 1], model.predict(X, verbose=0)[:, 0], atol=1e-6)


def test_values_of_a_regression() -> None:
    model = fitted(net(layers.Dense(1), loss="mse"), X[:, 0] * 2)
    target, data = cm.wrap(model, task="regression").bind(data_of(X[:, 0] * 2))
    np.testing.assert_allclose(target.labels(X), model.predict(X, verbose=0)[:, 0], atol=1e-6)
    again = target.refit(data.train.x, data.train.y, 1)
    assert np.isfinite(again.labels(X)).all()


@pytest.mark.parametrize("task", ["regression", None])
def test_values_under_a_sigmoid_are_left_as_they_are(task: Any) -> None:
    y = 1 / (1 + np.exp(-X[:, 0]))
    model = fitted(net(layers.Dense(1, activation="sigmoid"), loss="mse"), y)
    target, data = cm.wrap(model, task=task).bind(data_of(y))
    np.testing.assert_allclose(target.labels(X), model.predict(X, verbose=0)[:, 0], atol=1e-6)
    for again in (
        target.refit(data.train.x, data.train.y, 1),
        target.net.refit(data.train.x, data.train.y, 1),
    ):
        assert ((again.labels(X) > 0) & (again.labels(X) < 1)).all()


@pytest.mark.parametrize(("loss", "n"), [("mse", 3), ("binary_crossentropy", 2), ("binary_crossentropy", 3)])
def test_a_loss_of_a_number_a_class_gets_one(loss: str, n: int) -> None:
    y = Y3 if n == 3 else Y
    model = fitted(net(layers.Dense(n, activation="softmax"), loss=loss), np.eye(n)[y], epochs=40)
    target, data = cm.wrap(model).bind(data_of(y))
    assert target.fit.labels == "one-hot"
    assert (target.recipe is None) == (n == 3)  # Casemate's loop has no such loss
    again = target.refit(data.train.x, data.train.y, 0)
    assert (again.labels(X) == target.labels(X)).mean() > 0.7


def test_what_a_recipe_cannot_hold_makes_none() -> None:
    smooth = keras.losses.CategoricalCrossentropy(label_smoothing=0.3)
    model = fitted(net(layers.Dense(2, activation="softmax"), loss=smooth), np.eye(2)[Y])
    target, _ = cm.wrap(model).bind(data_of())
    assert target.recipe is None
    assert any("defences of the training need recipe=" in caveat for caveat in target.caveats)
    for optimiser, kept in (
        (keras.optimizers.Adam(0.01, beta_1=0.1), None),
        (keras.optimizers.Adam(0.01, amsgrad=True), None),
        (keras.optimizers.SGD(0.01, momentum=0.9, weight_decay=0.1), None),
        (keras.optimizers.Adam(0.01, weight_decay=0.1), "adamw"),  # Keras decays apart from the gradient
    ):
        model.compile(optimizer=optimiser, loss="sparse_categorical_crossentropy")
        recipe = cm.wrap(model).recipe
        assert (recipe and recipe.optimiser) == kept


def test_statistics_in_a_nested_model_are_kept_and_not_fitted_anew() -> None:
    scale = layers.Normalization()
    scale.adapt(X * 10 + 100)
    model = fitted(net(keras.Sequential([layers.Input((4,)), scale]), layers.Dense(2, activation="softmax")))
    target, _ = cm.wrap(model).bind(data_of(Y, X * 10 + 100))
    np.testing.assert_allclose(target.scores(X), model.predict(X, verbose=0), atol=1e-6)
    assert REFIT not in target.capabilities


def test_layers_that_are_not_trained_keep_their_weights() -> None:
    taken = keras.Sequential([layers.Input((4,)), layers.Dense(3), layers.BatchNormalization()])
    taken.trainable = False
    model = fitted(net(taken, layers.Dense(2, activation="softmax")))
    target, data = cm.wrap(model).bind(data_of())
    assert any("are not trainable keep their weights" in caveat for caveat in target.caveats)
    fresh = target.recipe.factory().keras_model
    for other in (target.refit(data.train.x, data.train.y, 0).model, fresh):
        for old, new in zip(taken.get_weights(), other.layers[0].get_weights(), strict=True):
            assert (old == new).all()
        assert np.abs(other.layers[1].get_weights()[0] - model.layers[1].get_weights()[0]).max() > 1e-4


def test_a_probability_deep_inside_is_said_to_be_one() -> None:
    recurrent = [layers.Reshape((4, 1)), layers.SimpleRNN(1, activation="sigmoid")]
    nested = [keras.Sequential([layers.Input((4,)), layers.Dense(1, activation="sigmoid")])]
    for parts in (recurrent, nested):
        model = fitted(net(*parts, loss="binary_crossentropy"))
        target, _ = cm.wrap(model, outputs="probabilities").bind(data_of())
        np.testing.assert_allclose(target.scores(X)[:, 1], model.predict(X, verbose=0)[:, 0], atol=1e-6)


def test_images_stand_channels_first() -> None:
    x = RNG.uniform(size=(40, 2, 6, 6))
    y = (x[:, 0].mean((1, 2)) > x[:, 1].mean((1, 2))).astype(int)
    model = net(
        layers.Conv2D(3, 3, activation="relu"),
        layers.Flatten(),
        layers.Dense(2, activation="softmax"),
        shape=(6, 6, 2),
    )
    fitted(model, y, x.transpose(0, 2, 3, 1))
    target, data = cm.wrap(model).bind(data_of(y, x))
    native = model.predict(x.transpose(0, 2, 3, 1), verbose=0)
    np.testing.assert_allclose(target.scores(x), native, atol=1e-6)
    again = target.refit(data.train.x, data.train.y, 0)
    assert again.scores(x).shape == (40, 2)


def test_several_inputs_take_columns_by_name() -> None:
    import pandas as pd

    one, two = layers.Input((1,), name="b"), layers.Input((1,), name="a")
    out = layers.Dense(2, activation="softmax")(layers.Concatenate()([one, two]))
    model = keras.Model([one, two], out)
    frame = pd.DataFrame({"a": X[:, 0], "b": X[:, 1]})
    data = cm.Dataset(train=(frame[:60], Y[:60]), holdout=(frame[60:], Y[60:]))
    target, coded = cm.wrap(model).bind(data)
    native = model.predict([X[60:, 1:2], X[60:, 0:1]], verbose=0)
    np.testing.assert_allclose(target.scores(coded.holdout.x), native, atol=1e-6)
    assert not any("in the order of the columns" in caveat for caveat in target.caveats)
    target, _ = cm.wrap(model).bind(data_of(Y, X[:, :2]))
    assert any("in the order of the columns" in caveat for caveat in target.caveats)
    with pytest.raises(InvalidData, match="2 inputs and the data 4 columns"):
        cm.wrap(model).bind(data_of())


def test_gradients_are_those_of_the_model() -> None:
    model = net(layers.Dense(8, activation="tanh"), layers.Dense(2, activation="softmax"))  # without a kink
    target, _ = cm.wrap(fitted(model)).bind(data_of())
    module = target.module().double()
    x = torch.tensor(X[:5], dtype=torch.float64, requires_grad=True)
    module(x)[:, 1].sum().backward()
    step = 1e-2
    for column in range(4):
        moved = np.eye(4)[column] * step
        slope = (target.logits(X[:5] + moved) - target.logits(X[:5] - moved))[:, 1] / (2 * step)
        np.testing.assert_allclose(x.grad[:, column].numpy(), slope, atol=2e-2)
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_a_refit_is_the_models_own_training_and_touches_nothing() -> None:
    model = fitted(softmax())
    weights = [value.copy() for value in model.get_weights()]
    torch.manual_seed(5)
    state = (torch.random.get_rng_state().clone(), np.random.get_state()[1].copy())
    target, data = cm.wrap(model).bind(data_of())
    first, second = (target.refit(data.train.x, data.train.y, 3).scores(X) for _ in range(2))
    other = target.refit(data.train.x, data.train.y, 4).scores(X)
    assert (first == second).all()
    assert np.abs(first - other).max() > 1e-4
    assert np.abs(first - target.scores(X)).max() > 1e-4
    assert all((a == b).all() for a, b in zip(weights, model.get_weights(), strict=True))
    assert (torch.random.get_rng_state() == state[0]).all()
    assert (np.random.get_state()[1] == state[1]).all()
    assert not model.layers[1]._forward_hooks


def test_the_training_is_read_off_the_last_fit() -> None:
    target, _ = cm.wrap(fitted(softmax(), epochs=7)).bind(data_of())
    assert (target.fit.epochs, target.batch_size) == (7, 16)
    assert [told.split(";")[0] for told in target.caveats] == [
        "Refits repeat the compile configuration, epochs and steps of the model's last fit"
    ]
    assert (target.recipe.optimiser, target.recipe.epochs, target.recipe.batch_size) == ("adam", 7, 16)
    assert [batch_of(n, k) for n, k in ((150, 10), (100, 3), (60, 60), (10, 1))] == [16, 34, 1, 10]


def test_a_guessed_recipe_is_said() -> None:
    target, _ = cm.wrap(softmax()).bind(data_of())
    assert any("does not say how long it was trained" in caveat for caveat in target.caveats)
    bare = keras.Sequential([layers.Input((4,)), layers.Dense(2, activation="softmax")])
    target, _ = cm.wrap(bare).bind(data_of())
    assert REFIT not in target.capabilities
    with pytest.raises(MissingCapability):
        target.refit(X, Y, 0)


def test_statistics_are_fitted_inside_each_refit() -> None:
    scale = layers.Normalization()
    scale.adapt(X[:60])
    model = fitted(net(scale, layers.Dense(2, activation="softmax")))
    target, data = cm.wrap(model).bind(data_of())
    np.testing.assert_allclose(target.scores(X), model.predict(X, verbose=0), atol=1e-6)
    moved = target.refit(data.train.x + 100, data.train.y, 0)
    assert np.asarray(moved.model.layers[0].mean).mean() > 90
    assert any("defences of the training need recipe=" in caveat for caveat in target.caveats)


def test_a_defence_of_the_training_runs_in_the_common_loop() -> None:
    model = fitted(softmax())
    change = cm.harden(model, data_of(), using=["adversarial_training"])
    assert change.target.kind == "keras"
    assert change.target.recipe.pieces is not None
    assert np.abs(change.target.scores(X) - cm.wrap(model).bind(data_of())[0].scores(X)).max() > 1e-4


@pytest.mark.slow
def test_a_private_training_is_refused_before_its_first_step() -> None:
    """torch.func cannot swap the weights of a Keras layer: every gradient would be zero, and the noise pure."""
    model = fitted(softmax())
    with pytest.raises(GuaranteeVoid, match="functional_call does not reach"):
        cm.harden(model, data_of(), using=[cm.method("dp_sgd", epsilon=3.0)])


def test_whole_numbers_have_no_gradient() -> None:
    code = layers.Input((2,), dtype="int32")
    out = layers.Dense(2, activation="softmax")(layers.Flatten()(layers.Embedding(5, 3)(code)))
    model = keras.Model(code, out)
    x = RNG.integers(0, 5, size=(40, 2)).astype(float)
    target, _ = cm.wrap(model).bind(data_of(np.arange(40) % 2, x))
    assert MODULE not in target.capabilities
    np.testing.assert_allclose(target.scores(x), model.predict(x.astype(int), verbose=0), atol=1e-6)


def test_a_subclassed_model_is_asked_as_it_is() -> None:
    target, _ = cm.wrap(Subclassed()).bind(data_of())
    assert MODULE in target.capabilities
    assert REFIT not in target.capabilities


@keras.saving.register_keras_serializable("casemate_tests")
class Subclassed(keras.Model):
    """A model without symbolic inputs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.out = layers.Dense(2, activation="softmax")
        self(np.zeros((1, 4)))

    def call(self, x: Any) -> Any:
        return self.out(x)


def test_it_goes_to_another_process_and_comes_back() -> None:
    target, _ = cm.wrap(fitted(softmax())).bind(data_of())
    again = pickle.loads(pickle.dumps(target))
    assert (again.scores(X) == target.scores(X)).all()
    assert again.digest() == target.digest()


def two_outputs() -> Any:
    rows = layers.Input((4,))
    return keras.Model(rows, [layers.Dense(2)(rows), layers.Dense(1)(rows)])


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (lambda: keras.Sequential([layers.Dense(2)]), "not built yet"),
        (two_outputs, "2 outputs"),
        (lambda: net(layers.Dense(2, activation="sigmoid")), "ends in 2 sigmoids"),
    ],
)
def test_models_that_cannot_be_asked(model: Any, told: str) -> None:
    with pytest.raises(InvalidData, match=told):
        cm.wrap(model())


def test_options_that_do_not_apply() -> None:
    with pytest.raises(InvalidData, match="device='cuda' does not apply to a Keras model"):
        cm.wrap(softmax(), device="cuda")
    with pytest.raises(InvalidData, match=r"takes rows of shape \(4,\); the data's are \(3,\)"):
        cm.wrap(softmax()).bind(data_of(Y, X[:, :3]))


def test_an_archive_is_read_and_audited(tmp_path: Any) -> None:
    model = fitted(softmax())
    model.save(tmp_path / "m.keras")
    target = cm.load(tmp_path / "m.keras")
    assert target.source["format"] == "Keras"
    report = cm.audit(target, data_of(), methods=["scan_artefact", "pgd"], effort="quick")
    assert report["scan_artefact", "dangerous_objects"].value == 0
    assert report["pgd", "robust_accuracy"].status == "measured"
    np.testing.assert_allclose(target.bind(data_of())[0].scores(X), model.predict(X, verbose=0), atol=1e-6)


def test_the_digest_tells_models_of_the_same_weights_apart() -> None:
    """ReLU and tanh have no weights of their own; names and copies change nothing."""
    one, other = (
        net(layers.Dense(8, activation=kind), layers.Dense(2, activation="softmax"))
        for kind in ("relu", "tanh")
    )
    other.set_weights(one.get_weights())
    again = net(
        layers.Dense(8, activation="relu", name="mine"), layers.Dense(2, activation="softmax", name="last")
    )
    again.set_weights(one.get_weights())
    digests = [cm.wrap(model).bind(data_of())[0].digest() for model in (one, other, again)]
    assert digests[0] != digests[1] and digests[0] == digests[2]


@pytest.mark.parametrize("wrapped", [lambda loss: [loss], lambda loss: {"last": loss}])
def test_one_loss_in_a_list_or_under_a_name_is_that_loss(wrapped: Any) -> None:
    model = keras.Sequential([layers.Input((4,)), layers.Dense(2, activation="softmax", name="last")])
    model.compile(optimizer="adam", loss=wrapped("sparse_categorical_crossentropy"))
    target = cm.wrap(model).bind(data_of())[0]
    assert target.has(REFIT) and target.recipe is not None and target.recipe.loss == "cross_entropy"
    model.compile(optimizer="adam", loss=wrapped("kl_divergence"))
    assert not cm.wrap(model).bind(data_of())[0].has(REFIT)


def test_batches_that_the_last_fit_does_not_tell_are_said_to_be_guessed() -> None:
    model = fitted(softmax())
    model.history.params["steps"] = None
    said = [
        caveat for caveat in cm.wrap(model).bind(data_of())[0].caveats if "in what batches: 32 rows" in caveat
    ]
    assert len(said) == 1
    model = softmax()
    model.fit(X[:60], Y[:60], epochs=1, batch_size=16, validation_split=0.2, verbose=0)
    assert any("validation_split" in caveat for caveat in cm.wrap(model).bind(data_of())[0].caveats)
    caveats = cm.wrap(fitted(softmax())).bind(data_of())[0].caveats
    assert not any("validation_split" in caveat or "in what batches" in caveat for caveat in caveats)


def test_a_quantised_model_is_unknown_and_not_called_hostile(tmp_path: Path) -> None:
    net = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])
    net.layers[0].quantize("int8")
    net.save(tmp_path / "model.keras")
    with pytest.raises(UnknownArtefact, match=r"unknown: .*quantised.*save the model before model\.quantize"):
        cm.load(tmp_path / "model.keras")
