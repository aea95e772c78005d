# SPDX-License-Identifier: Apache-2.0
"""Tiny models and data that many tests share: every adapter, every form of rows, labels and outputs.

``case(name)`` is made once a session and must come back from a test as it went in; ``bound(name)`` is its target and
data, ready for a method.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import micro_more  # looks things up here when it is asked, not before
import numpy as np

from casemate.core.data import Dataset
from casemate.core.types import Recipe, Target

N = 60  # training rows; half as many are held out


@dataclass(frozen=True)
class Case:
    """A model, its target, its data, and what the model itself says about rows in the user's own form."""

    name: str
    model: Any
    target: Target  # as made, not bound
    data: Dataset  # labels as the user has them
    rows: Any  # the held-out rows in the user's form
    native_labels: Callable[[Any], np.ndarray]  # rows -> labels (or values) as the model gives them
    native_scores: Callable[[Any], np.ndarray] | None = None


def numbers(n: int, seed: int, d: int = 4) -> np.ndarray:
    """Rows (n, d) of standard normal columns on different scales."""
    return np.random.default_rng(seed).normal(size=(n, d)) * np.array([1.0, 10.0, 0.1, 3.0])[:d]


def three_classes(x: np.ndarray) -> np.ndarray:
    """Labels 0, 1, 2 (n,) by the first two columns, with some noise."""
    noise = np.random.default_rng(len(x)).normal(size=len(x))
    return np.digitize(x[:, 0] + x[:, 1] / 10 + 0.3 * noise, [-0.6, 0.6])


def people(n: int, seed: int) -> dict[str, list[Any]]:
    """Columns of a small table: integers, reals with holes, text with holes, a flag."""
    rng = np.random.default_rng(seed)
    holes, amounts = rng.random(n) < 0.2, rng.gamma(2, 900, n)
    income = [None if hole else float(value) for hole, value in zip(holes, amounts, strict=True)]
    return {
        "age": [int(value) for value in rng.integers(18, 90, n)],
        "income": income,
        "town": [None if code == 3 else ("Bern", "Genf", "Zug")[code] for code in rng.integers(0, 4, n)],
        "smokes": [bool(value) for value in rng.integers(0, 2, n)],
    }


def ill(table: dict[str, list[Any]]) -> np.ndarray:
    """Labels "no", "yes" (n,) by age and smoking."""
    return np.where(np.array(table["age"]) + 20 * np.array(table["smokes"]) > 60, "yes", "no")


def ill_by_town(table: dict[str, list[Any]]) -> np.ndarray:
    """Labels "no", "yes" (n,) by age, smoking, and a town that is a category or a hole."""
    turned = np.array([town in (None, "Genf") for town in table["town"]])
    return np.where((ill(table) == "yes") ^ turned, "yes", "no")


def frame(table: dict[str, list[Any]], library: str) -> Any:
    """The table as a pandas frame (one column of dtype category) or a polars frame."""
    if library == "polars":
        import polars as pl

        return pl.DataFrame(table)
    import pandas as pd

    made = pd.DataFrame(table)
    return made.assign(town=made["town"].astype("category"))


def _sklearn(name: str, model: Any, train: tuple[Any, Any], holdout: tuple[Any, Any]) -> Case:
    from casemate.adapters.sklearn import make

    model.fit(*train)
    scores = getattr(model, "predict_proba", None)
    return Case(name, model, make(model), Dataset(train, holdout), holdout[0], model.predict, scores)


def _arrays(label: Callable[[np.ndarray], Any] = three_classes) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    x, xh = numbers(N, 0), numbers(N // 2, 1)
    return (x, label(x)), (xh, label(xh))


def _frames(library: str, label: Callable[[Any], Any] = ill) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    train, holdout = people(N, 2), people(N // 2, 3)
    return (frame(train, library), label(train)), (frame(holdout, library), label(holdout))


def forest() -> Case:
    """A forest on an array, three integer classes, all cores."""
    from sklearn.ensemble import RandomForestClassifier

    return _sklearn("forest", RandomForestClassifier(10, random_state=0, n_jobs=2), *_arrays())


def _columns(last: Any) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    split = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["age", "income"]),
            ("town", OneHotEncoder(handle_unknown="ignore"), ["town"]),
            ("flag", "passthrough", ["smokes"]),
        ]
    )
    return make_pipeline(split, last)


def pipeline() -> Case:
    """A pipeline on a pandas frame: categories, text labels, missing numbers and missing text."""
    from sklearn.linear_model import LogisticRegression

    return _sklearn("pipeline", _columns(LogisticRegression()), *_frames("pandas"))


def polars_pipeline() -> Case:
    """The same on a polars frame with a forest."""
    from sklearn.ensemble import RandomForestClassifier

    return _sklearn(
        "polars_pipeline", _columns(RandomForestClassifier(5, random_state=1)), *_frames("polars")
    )


def search() -> Case:
    """A grid search over trees with an unseeded splitter."""
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.tree import DecisionTreeClassifier

    from casemate.training.isolation import seeded

    grid = {"max_depth": [1, 3]}
    splits = StratifiedKFold(2, shuffle=True)
    model = GridSearchCV(DecisionTreeClassifier(max_features=2), grid, cv=splits)
    with seeded(0):  # now and then a tree of depth 1 says one class of all
        return _sklearn("search", model, *_arrays())


def logistic() -> Case:
    """Logistic regression with boolean labels."""
    from sklearn.linear_model import LogisticRegression

    return _sklearn("logistic", LogisticRegression(), *_arrays(lambda x: x[:, 0] > 0))


def vectors() -> Case:
    """A support vector machine: labels only."""
    from sklearn.svm import SVC

    return _sklearn("vectors", SVC(), *_arrays(lambda x: np.where(x[:, 0] > 0, "b", "a")))


def holes() -> Case:
    """Boosted trees on an array with missing cells."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    (x, y), (xh, yh) = _arrays()
    x[::5, 1], xh[::7, 1] = np.nan, np.nan
    model = HistGradientBoostingClassifier(max_iter=3, min_samples_leaf=5, early_stopping=False)
    return _sklearn("holes", model, (x, y), (xh, yh))


def regressor() -> Case:
    """A forest that predicts a number."""
    from sklearn.ensemble import RandomForestRegressor

    return _sklearn(
        "regressor", RandomForestRegressor(5, random_state=0), *_arrays(lambda x: x @ [1.0, 0.1, 0, 0.2])
    )


def xgb_holes() -> Case:
    """XGBoost on an array with missing cells."""
    from xgboost import XGBClassifier

    (x, y), (xh, yh) = _arrays(lambda x: (x[:, 0] + x[:, 1] / 10 > 0) * 1)
    x[::5, 1], xh[::7, 1] = np.nan, np.nan
    return _sklearn("xgb_holes", XGBClassifier(n_estimators=5, max_depth=3, n_jobs=1), (x, y), (xh, yh))


def xgb_three() -> Case:
    """XGBoost on three classes, a random part of rows and columns a tree."""
    from xgboost import XGBClassifier

    model = XGBClassifier(
        n_estimators=4, max_depth=2, subsample=0.7, colsample_bytree=0.8, random_state=0, n_jobs=1
    )
    return _sklearn("xgb_three", model, *_arrays())


def xgb_frame() -> Case:
    """XGBoost on a pandas frame with a column of dtype category."""
    from xgboost import XGBClassifier

    (x, y), (xh, yh) = _frames("pandas", ill_by_town)
    model = XGBClassifier(
        n_estimators=8, min_child_weight=0, enable_categorical=True, max_cat_to_onehot=1, n_jobs=1
    )
    return _sklearn("xgb_frame", model, (x, (y == "yes") * 1), (xh, (yh == "yes") * 1))


def lgbm_frame() -> Case:
    """LightGBM on a pandas frame with a column of dtype category, labels as text."""
    from lightgbm import LGBMClassifier

    small = {
        "n_jobs": 1,
        "min_child_samples": 3,
        "min_data_per_group": 1,
        "cat_smooth": 0,
        "max_cat_to_onehot": 1,
    }
    return _sklearn(
        "lgbm_frame", LGBMClassifier(n_estimators=20, verbose=-1, **small), *_frames("pandas", ill_by_town)
    )


def lgbm_booster() -> Case:
    """A Booster of LightGBM on an array, three classes."""
    import lightgbm

    from casemate.adapters.trees import make

    train, holdout = _arrays()
    settings = {
        "objective": "multiclass",
        "num_class": 3,
        "verbosity": -1,
        "min_data_in_leaf": 5,
        "num_threads": 1,
    }
    settings |= {"bagging_fraction": 0.7, "bagging_freq": 1}
    model = lightgbm.train(settings, lightgbm.Dataset(*train), 4)
    return Case(
        "lgbm_booster", model, make(model), Dataset(train, holdout), holdout[0],
        lambda rows: model.predict(rows).argmax(1), model.predict,
    )  # fmt: skip


def xgb_booster() -> Case:
    """A Booster of XGBoost on a pandas frame with a column of dtype category, labels as text."""
    import xgboost

    from casemate.adapters.trees import make

    train, holdout = _frames("pandas", ill_by_town)
    matrix = xgboost.DMatrix(train[0], train[1] == "yes", enable_categorical=True)
    model = xgboost.train(
        {"objective": "binary:logistic", "min_child_weight": 0, "subsample": 0.7, "nthread": 1}, matrix, 8
    )

    def ask(rows: Any) -> np.ndarray:
        p = model.predict(xgboost.DMatrix(rows, enable_categorical=True))
        return np.column_stack([1 - p, p])

    target = make(model, classes=["no", "yes"])
    names = np.array(["no", "yes"])
    return Case(
        "xgb_booster",
        model,
        target,
        Dataset(train, holdout),
        holdout[0],
        lambda rows: names[ask(rows).argmax(1)],
        ask,
    )


# Layers name their device, so that they are real even where tests make `meta` the default.


def _layers(*sizes: int) -> list[Any]:
    from torch import nn

    made: list[Any] = []
    for first, second in pairwise(sizes):
        made += [nn.Linear(first, second, device="cpu"), nn.ReLU()]
    return made[:-1]


def single_net() -> Any:
    """A module with one logit."""
    from torch import nn

    return nn.Sequential(*_layers(4, 8, 1))


def dropout_net() -> Any:
    """A module with three logits and dropout."""
    from torch import nn

    return nn.Sequential(*_layers(4, 8, 8), nn.Dropout(0.5), nn.Linear(8, 3, device="cpu"))


def probability_net() -> Any:
    """A module that ends in a softmax."""
    from torch import nn

    return nn.Sequential(*_layers(4, 8, 3), nn.Softmax(1))


def value_net() -> Any:
    """A module that returns one number a row, float64."""
    from torch import nn

    return nn.Sequential(*_layers(4, 8, 1), nn.Flatten(0)).double()


def image_net() -> Any:
    """A convolution with batch normalisation, two classes."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 3, 3, device="cpu"), nn.BatchNorm2d(3, device="cpu"), nn.ReLU(), nn.Flatten(),
        nn.Linear(48, 2, device="cpu"),
    )  # fmt: skip


def _torch(
    name: str, recipe: Recipe, train: tuple[Any, Any], holdout: tuple[Any, Any], **options: Any
) -> Case:
    import torch

    from casemate.adapters.torch import make
    from casemate.training.loop import fit

    classes = np.unique(train[1])
    index = train[1] if recipe.loss == "mse" else np.searchsorted(classes, train[1])
    model = fit(recipe, train[0], index, seed=1, outputs="probabilities" if "softmax" in name else "logits")

    def raw(rows: Any) -> np.ndarray:
        dtype = next(model.parameters()).dtype
        with torch.no_grad():
            out: np.ndarray = model.eval()(torch.as_tensor(rows, dtype=dtype, device="cpu")).double().numpy()
        return out

    def scores(rows: Any) -> np.ndarray:
        out = raw(rows)
        if "softmax" in name:
            return out
        if out.shape[1] == 1:
            out = np.column_stack([np.zeros(len(out)), out[:, 0]])
        odds = np.exp(out - out.max(1, keepdims=True))
        return odds / odds.sum(1, keepdims=True)

    regression = recipe.loss == "mse"
    target = make(model, recipe=recipe, task="regression" if regression else None, **options)
    labels = raw if regression else lambda rows: classes[scores(rows).argmax(1)]
    return Case(
        name, model, target, Dataset(train, holdout), holdout[0], labels, None if regression else scores
    )


def standardised(x: np.ndarray) -> Any:
    """Preprocessing of the recipes: a named function, so that it pickles."""
    from casemate.training.loop import standardise

    return standardise(x)


def torch_binary() -> Case:
    """One logit, text labels, standardised inputs."""
    recipe = Recipe(factory=single_net, epochs=5, learning_rate=0.1, preprocessing=standardised)
    return _torch(
        "torch_binary", recipe, *_arrays(lambda x: np.where(x[:, 0] > 0, "b", "a")), classes=["a", "b"]
    )


def torch_dropout() -> Case:
    """Three logits, dropout, Adam."""
    recipe = Recipe(
        factory=dropout_net, epochs=5, optimiser="adam", learning_rate=0.01, preprocessing=standardised
    )
    return _torch("torch_dropout", recipe, *_arrays())


def torch_softmax() -> Case:
    """Probabilities as outputs, found out by looking."""
    recipe = Recipe(factory=probability_net, epochs=30, learning_rate=0.2, preprocessing=standardised)
    return _torch("torch_softmax", recipe, *_arrays())


def torch_values() -> Case:
    """Regression in float64."""
    recipe = Recipe(factory=value_net, epochs=40, loss="mse", learning_rate=0.02, preprocessing=standardised)
    return _torch("torch_values", recipe, *_arrays(lambda x: x @ [1.0, 0.1, 0, 0.2]))


def torch_images() -> Case:
    """Images (n, 1, 6, 6), batch normalisation."""
    rng = np.random.default_rng(5)
    x, xh = rng.random((N, 1, 6, 6)), rng.random((N // 2, 1, 6, 6))
    y, yh = (np.int64(part[:, 0, :3].mean((1, 2)) > part[:, 0, 3:].mean((1, 2))) for part in (x, xh))
    return _torch("torch_images", Recipe(factory=image_net, epochs=5), (x, y), (xh, yh))


def _keras(
    name: str, layers: Callable[[Any], list[Any]], train: tuple[Any, Any], holdout: tuple[Any, Any], loss: str
) -> Case:
    """A Keras model trained by its own ``fit``; images go to it channels last."""
    import os

    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    from casemate.adapters.keras import make
    from casemate.training.isolation import seeded

    def last(rows: Any) -> np.ndarray:
        found = np.asarray(rows, np.float32)
        return found.transpose(0, 2, 3, 1) if found.ndim == 4 else found

    with seeded(1):
        model = keras.Sequential([keras.layers.Input(last(train[0]).shape[1:]), *layers(keras.layers)])
        model.compile(optimizer=keras.optimizers.Adam(0.1), loss=loss)
        model.fit(last(train[0]), train[1], epochs=12, batch_size=16, verbose=0)

    def ask(rows: Any) -> np.ndarray:
        out: np.ndarray = keras.ops.convert_to_numpy(model(last(rows), training=False)).astype(np.float64)
        return np.hstack([1 - out, out]) if loss == "binary_crossentropy" else out

    if loss == "mse":
        target = make(model, task="regression")
        return Case(name, model, target, Dataset(train, holdout), holdout[0], lambda rows: ask(rows)[:, 0])
    labels = np.unique(train[1])
    return Case(
        name, model, make(model), Dataset(train, holdout), holdout[0], lambda rows: labels[ask(rows).argmax(1)], ask
    )  # fmt: skip


def keras_three() -> Case:
    """A softmax over three classes, scaled inside, with dropout."""

    def layers(kind: Any) -> list[Any]:
        scaled = kind.Rescaling([1.0, 0.1, 10.0, 1 / 3])
        return [scaled, kind.Dense(8, "relu"), kind.Dropout(0.2), kind.Dense(3, "softmax")]

    return _keras("keras_three", layers, *_arrays(), "sparse_categorical_crossentropy")


def keras_values() -> Case:
    """One number a row."""

    def layers(kind: Any) -> list[Any]:
        return [kind.Rescaling([1.0, 0.1, 10.0, 1 / 3]), kind.Dense(8, "tanh"), kind.Dense(1)]

    return _keras("keras_values", layers, *_arrays(lambda x: x @ [1.0, 0.1, 0, 0.2]), "mse")


def keras_images() -> Case:
    """Images (n, 1, 6, 6), batch normalisation."""
    rng = np.random.default_rng(5)
    x, xh = rng.random((N, 1, 6, 6)), rng.random((N // 2, 1, 6, 6))
    y, yh = (np.int64(part[:, 0, :3].mean((1, 2)) > part[:, 0, 3:].mean((1, 2))) for part in (x, xh))

    def layers(kind: Any) -> list[Any]:
        return [
            kind.Conv2D(3, 3),
            kind.BatchNormalization(),
            kind.ReLU(),
            kind.Flatten(),
            kind.Dense(2, "softmax"),
        ]

    return _keras("keras_images", layers, (x, y), (xh, yh), "sparse_categorical_crossentropy")


def onnx_three() -> Case:
    """The bytes of an ONNX network that ends in a softmax over three classes; it was never trained on anything."""
    import onnxruntime
    from onnx_models import network

    from casemate.adapters.onnx import make

    raw = network().SerializeToString()
    session = onnxruntime.InferenceSession(raw, providers=["CPUExecutionProvider"])

    def ask(rows: Any) -> np.ndarray:
        out: np.ndarray = session.run(None, {"x": np.asarray(rows, np.float32)})[0].astype(np.float64)
        return out

    train, holdout = _arrays()
    return Case(
        "onnx_three", raw, make(raw), Dataset(train, holdout), holdout[0], lambda rows: ask(rows).argmax(1), ask
    )  # fmt: skip


def remote_scores() -> Case:
    """A function of arrays to probabilities."""
    from casemate.adapters.remote import make

    inner = forest()
    ask = inner.native_scores
    return Case(
        "remote_scores", ask, make(ask, classes=[0, 1, 2]), inner.data, inner.rows,
        inner.native_labels, ask,
    )  # fmt: skip


def remote_labels() -> Case:
    """A function of a pandas frame to text labels."""
    from casemate.adapters.remote import make

    inner = pipeline()
    ask = inner.native_labels
    return Case("remote_labels", ask, make(ask, outputs="labels"), inner.data, inner.rows, ask)


CASES: dict[str, Callable[[], Case]] = {
    made.__name__: made
    for made in (
        forest, pipeline, polars_pipeline, search, logistic, vectors, holes, regressor,
        xgb_holes, xgb_three, xgb_frame, lgbm_frame, lgbm_booster, xgb_booster,
        torch_binary, torch_dropout, torch_softmax, torch_values, torch_images, keras_three,
        keras_values, keras_images, onnx_three, remote_scores, remote_labels, *micro_more.CASES,
    )
}  # fmt: skip


@cache
def case(name: str) -> Case:
    """Return the case of that name, made once."""
    return CASES[name]()


@cache
def bound(name: str) -> tuple[Target, Dataset]:
    """Return target and data of a case, bound to each other."""
    chosen = case(name)
    return chosen.target.bind(chosen.data)
