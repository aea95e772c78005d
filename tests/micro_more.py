# SPDX-License-Identifier: Apache-2.0
"""Further cases of micro.py: ensembles and texts of scikit-learn, other ends and inputs of Keras, a served model."""

from __future__ import annotations

import json
import threading
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import micro
import numpy as np

from casemate.core.data import Dataset

GOOD, BAD, PLAIN = ("sunny fine merry bright", "rain grey dull cold", "the a day week was it")


def several() -> list[tuple[str, Any]]:
    """Two estimators of different kinds to be put together."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.tree import DecisionTreeClassifier

    return [("line", LogisticRegression(max_iter=500)), ("tree", DecisionTreeClassifier(max_depth=2))]


def sklearn_hard() -> micro.Case:
    """A majority of votes: labels alone."""
    from sklearn.ensemble import VotingClassifier

    return micro._sklearn("sklearn_hard", VotingClassifier(several()), *micro._arrays())


def sklearn_voting() -> micro.Case:
    """The mean of the probabilities of two estimators, text labels."""
    from sklearn.ensemble import VotingClassifier

    model = VotingClassifier(several(), voting="soft")
    return micro._sklearn("sklearn_voting", model, *micro._arrays(lambda x: np.where(x[:, 0] > 0, "b", "a")))


def sklearn_stacking() -> micro.Case:
    """A logistic regression on the answers of two estimators."""
    from sklearn.ensemble import StackingClassifier
    from sklearn.model_selection import StratifiedKFold

    splits = StratifiedKFold(2, shuffle=True, random_state=0)
    return micro._sklearn("sklearn_stacking", StackingClassifier(several(), cv=splits), *micro._arrays())


def sklearn_calibrated() -> micro.Case:
    """A support vector machine whose decision values were calibrated to probabilities."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.svm import LinearSVC

    model = CalibratedClassifierCV(LinearSVC(random_state=0), cv=2)
    return micro._sklearn("sklearn_calibrated", model, *micro._arrays())


def texts(n: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Short texts and the labels that half of their words tell, with some noise."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, n)
    words = [[*rng.choice((GOOD if up else BAD).split(), 2), *rng.choice(PLAIN.split(), 4)] for up in truth]
    noisy = truth ^ (rng.random(n) < 0.1)
    return [" ".join(rng.permutation(part)) for part in words], np.where(noisy, "up", "down")


def sklearn_text() -> micro.Case:
    """Words weighted by their rarity under a logistic regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(), LogisticRegression())
    return micro._sklearn("sklearn_text", model, texts(micro.N, 0), texts(micro.N // 2, 1))


def keras_sigmoid() -> micro.Case:
    """One sigmoid stands for two classes."""

    def layers(kind: Any) -> list[Any]:
        scaled = kind.Rescaling([1.0, 0.1, 10.0, 1 / 3])
        return [scaled, kind.Dense(8, "relu"), kind.Dense(1, "sigmoid")]

    train, holdout = micro._arrays(lambda x: (x[:, 0] > 0) * 1)
    return micro._keras("keras_sigmoid", layers, train, holdout, "binary_crossentropy")


def keras_inputs() -> micro.Case:
    """One input a column, named as the columns of a frame and in another order."""
    import keras
    import pandas as pd

    from casemate.adapters.keras import make
    from casemate.training.isolation import seeded

    names, order = ["a", "b", "c", "d"], ["c", "a", "d", "b"]
    scales = dict(zip(names, (1.0, 0.1, 10.0, 1 / 3), strict=True))

    def fed(rows: Any) -> dict[str, np.ndarray]:
        return {name: rows[[name]].to_numpy(np.float32) for name in order}

    (x, y), (xh, yh) = micro._arrays()
    train, holdout = pd.DataFrame(x, columns=names), pd.DataFrame(xh, columns=names)
    with seeded(1):
        inputs = [keras.layers.Input((1,), name=name) for name in order]
        parts = [keras.layers.Rescaling(scales[part.name])(part) for part in inputs]
        hidden = keras.layers.Dense(8, "relu")(keras.layers.Concatenate()(parts))
        model = keras.Model(inputs, keras.layers.Dense(3, "softmax")(hidden))
        model.compile(optimizer=keras.optimizers.Adam(0.1), loss="sparse_categorical_crossentropy")
        model.fit(fed(train), y, epochs=12, batch_size=16, verbose=0)

    def ask(rows: Any) -> np.ndarray:
        out: np.ndarray = keras.ops.convert_to_numpy(model(fed(rows), training=False)).astype(np.float64)
        return out

    return micro.Case(
        "keras_inputs", model, make(model), Dataset((train, y), (holdout, yh)), holdout,
        lambda rows: ask(rows).argmax(1), ask,
    )  # fmt: skip


def onnx_forest() -> micro.Case:
    """The bytes of a forest of scikit-learn as ONNX."""
    import onnx_models
    import onnxruntime

    from casemate.adapters.onnx import make

    inner = micro.forest()
    trees = [one.tree_ for one in inner.model.estimators_]
    proto = onnx_models.ensemble(trees, onnx_models.shares(len(trees)), classlabels_int64s=[0, 1, 2])
    raw = proto.SerializeToString()
    session = onnxruntime.InferenceSession(raw, providers=["CPUExecutionProvider"])

    def ask(rows: Any) -> list[np.ndarray]:
        found: list[np.ndarray] = session.run(None, {"x": np.asarray(rows, np.float32)})
        return found

    return micro.Case(
        "onnx_forest", raw, make(raw), inner.data, inner.rows, lambda rows: ask(rows)[0], lambda rows: ask(rows)[1]
    )  # fmt: skip


@cache
def served() -> str:
    """The address of a server on this machine that answers as the forest does; it ends with the process."""
    model = micro.forest().model.set_params(n_jobs=1)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told = {"predictions": model.predict_proba(np.array(sent["instances"], np.float64)).tolist()}
            raw = json.dumps(told).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/v1/models/m:predict"


def endpoint() -> micro.Case:
    """The forest behind HTTP."""
    from casemate.adapters.endpoint import Endpoint
    from casemate.adapters.remote import make

    inner = micro.forest()
    ask = Endpoint(url=served(), authorised="A. Owner, 2026-11-23", n_queries=10**6, per_second=1e6)
    return micro.Case(
        "endpoint", inner.model, make(ask, classes=[0, 1, 2]), inner.data, inner.rows,
        inner.native_labels, inner.native_scores,
    )  # fmt: skip


CASES = (
    sklearn_hard, sklearn_voting, sklearn_stacking, sklearn_calibrated, sklearn_text, keras_sigmoid, keras_inputs,
    onnx_forest, endpoint,
)  # fmt: skip
