# SPDX-License-Identifier: Apache-2.0
"""Writes skl2onnx.json: models that skl2onnx exports, and what scikit-learn answers, for test_skl2onnx_oracle.py.

python tests/oracle/make_skl2onnx.py        (run once where skl2onnx is installed)
"""

from __future__ import annotations

import base64
import json
import zlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from skl2onnx import to_onnx
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC

N, HELD = 80, 20


def rows() -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """A frame of numbers and words, and labels of several kinds; from one generator, so the same everywhere."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N + HELD, 4)).astype(np.float32).round(3)
    town = np.array(["Bern", "Genf", "Zug"])[rng.integers(0, 3, N + HELD)]
    frame = pd.DataFrame({f"c{i}": x[:, i] for i in range(4)})
    frame["age"], frame["town"] = rng.integers(18, 90, N + HELD), town
    total = x[:, 0] + x[:, 1] + (town == "Genf")
    three = np.digitize(total, [-0.4, 0.7])
    words = np.array(["low", "middle", "high"])[three]
    return frame, {
        "three": three, "two": (total > 0) * 1, "words": words, "value": total.round(3),
    }  # fmt: skip


def main() -> None:
    frame, y = rows()
    numbers = [f"c{i}" for i in range(4)]
    mixed = ColumnTransformer([
        ("numbers", StandardScaler(), ["age", "c0", "c1"]),
        ("town", OneHotEncoder(handle_unknown="ignore"), ["town"]),
    ])  # fmt: skip
    plain = {"zipmap": False}
    models: dict[str, tuple[Any, list[str], str, dict[str, Any] | None]] = {
        "logistic": (LogisticRegression(), numbers, "three", None),
        "logistic_two": (LogisticRegression(), numbers, "two", None),
        "logistic_words": (make_pipeline(StandardScaler(), LogisticRegression()), numbers, "words", plain),
        "forest": (RandomForestClassifier(4, max_depth=3, random_state=0), numbers, "words", None),
        "boosting": (GradientBoostingClassifier(n_estimators=4, max_depth=2, random_state=0), numbers, "three", plain),
        "network": (MLPClassifier(6, max_iter=400, random_state=0), numbers, "three", None),
        "network_two": (MLPClassifier(6, max_iter=400, random_state=0), numbers, "two", plain),
        "bayes": (GaussianNB(), numbers, "words", plain),
        "calibrated": (CalibratedClassifierCV(LogisticRegression(), cv=2), numbers, "two", None),
        "vectors": (SVC(), numbers, "three", plain),
        "linear_vectors": (LinearSVC(), numbers, "two", None),
        "columns": (make_pipeline(mixed, LogisticRegression()), ["c0", "c1", "age", "town"], "words", None),
        "words": (make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression()), ["town"], "two", None),
        "ridge": (Ridge(), numbers, "value", None),
        "forest_values": (RandomForestRegressor(3, max_depth=3, random_state=0), numbers, "value", None),
        "network_values": (MLPRegressor(hidden_layer_sizes=6, max_iter=400, random_state=0), numbers, "value", None),
    }  # fmt: skip
    out: dict[str, Any] = {name: version(name) for name in ("skl2onnx", "scikit-learn", "onnx", "numpy")}
    out["rows"] = {name: frame[name].tolist() for name in frame}
    out["labels"] = {name: values.tolist() for name, values in y.items()}
    out["models"] = {}
    for name, (model, columns, label, options) in models.items():
        framed = name in ("columns", "words")
        x = frame[columns] if framed else frame[columns].to_numpy(np.float32)
        model.fit(x[:N], y[label][:N])
        raw = to_onnx(
            model, x[:1], options=options, target_opset={"": 17, "ai.onnx.ml": 3}
        ).SerializeToString()
        held = x[N:]
        out["models"][name] = {
            "columns": columns, "label": label, "framed": framed,
            "onnx": base64.b64encode(zlib.compress(raw, 9)).decode(),
            "predict": model.predict(held).tolist(),
            "scores": model.predict_proba(held).round(9).tolist() if hasattr(model, "predict_proba") else None,
        }  # fmt: skip
    path = Path(__file__).with_suffix("").parent / "skl2onnx.json"
    path.write_text(json.dumps(out, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
