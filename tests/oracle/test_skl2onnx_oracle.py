# SPDX-License-Identifier: Apache-2.0
"""Models that skl2onnx exported (skl2onnx.json): their targets answer what scikit-learn answered, labels exactly."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import casemate as cm
from casemate.core.types import LABELS, LOGITS, MODULE, SCORES, TREES

TOLD: Any = json.loads((Path(__file__).parent / "skl2onnx.json").read_text(encoding="utf-8"))
FRAME = pd.DataFrame(TOLD["rows"])
N = 80
SMOOTH = {
    "logistic",
    "logistic_two",
    "logistic_words",
    "network",
    "network_two",
    "bayes",
    "linear_vectors",
    "calibrated",
}
NUMBERS = {"ridge", "forest_values", "network_values"}


@pytest.mark.parametrize("name", TOLD["models"])
def test_an_exported_model_answers_as_scikit_learn_does(name: str) -> None:
    told = TOLD["models"][name]
    raw = zlib.decompress(base64.b64decode(told["onnx"]))
    x = FRAME[told["columns"]] if told["framed"] else FRAME[told["columns"]].to_numpy(np.float32)
    y = np.array(TOLD["labels"][told["label"]])
    target, data = cm.wrap(raw).bind(cm.Dataset(train=(x[:N], y[:N]), holdout=(x[N:], y[N:])))
    held = data.holdout.x
    if name in NUMBERS:
        assert target.task == "regression"
        np.testing.assert_allclose(target.labels(held), told["predict"], atol=2e-6)
        assert target.has(MODULE) == (name != "forest_values")
        return
    assert [target.classes[i] for i in target.labels(held)] == told["predict"]
    assert target.classes == tuple(np.unique(y).tolist())
    if told["scores"] is not None:
        np.testing.assert_allclose(target.scores(held), told["scores"], atol=2e-6)
    if name == "vectors":
        assert target.capabilities == {LABELS}
    elif name in SMOOTH:
        assert target.capabilities == {LABELS, SCORES, LOGITS, MODULE}
        torch = pytest.importorskip("torch")
        out = target.module()(torch.tensor(held, dtype=torch.float32, device="cpu")).numpy()
        np.testing.assert_allclose(out, target.logits(held), atol=1e-4)
    else:
        assert target.capabilities - {TREES} == {LABELS, SCORES}
        assert target.has(TREES) == (name in ("forest", "boosting"))
        assert any(line.startswith("no gradients: ") for line in target.caveats)
