# SPDX-License-Identifier: Apache-2.0
"""CPU time of ``target.scores`` over what the model's own framework takes for the same probabilities, 1,000 rows.

    python bench/adapters.py [--rounds 25] [--limit 1.1]

The two are asked in turn on one thread; each figure is the median over the rounds of the process's CPU time. The native
side gets the user's own rows and ends with the same array of probabilities. Prints a Markdown row a model and ends with
1 where one is above the limit. Needs the extras torch, trees, onnx and keras; what is not installed is named.
"""

import argparse
import importlib.util
import io
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"
os.environ.setdefault("KERAS_BACKEND", "torch")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np  # noqa: E402

import casemate as cm  # noqa: E402

ROWS, COLUMNS = 1000, 30
Case = tuple[
    object, cm.Dataset, Callable[[], object]
]  # model, data, the native question on the held-out rows


def arrays(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(seed).normal(size=(ROWS, COLUMNS))
    return x, (x[:, :3].sum(1) + np.random.default_rng(seed + 9).normal(size=ROWS) > 0) * 1


def data() -> cm.Dataset:
    return cm.Dataset(train=arrays(0), holdout=arrays(1))


def estimator(model: object) -> Callable[[], Case]:
    def made() -> Case:
        fitted, xh = model.fit(*arrays(0)), arrays(1)[0]
        return fitted, data(), lambda: fitted.predict_proba(xh)

    return made


def pipeline() -> Case:
    import pandas as pd
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    def frame(seed: int) -> tuple[pd.DataFrame, np.ndarray]:
        x, y = arrays(seed)
        table = pd.DataFrame(x[:, :10], columns=[f"n{i}" for i in range(10)])
        towns = np.array(["Bern", "Genf", "Zug"])
        return table.assign(**{f"t{i}": towns[np.digitize(x[:, 10 + i], [-0.5, 0.5])] for i in range(4)}), y

    columns = make_column_transformer(
        (StandardScaler(), [f"n{i}" for i in range(10)]), (OneHotEncoder(), [f"t{i}" for i in range(4)])
    )
    model = make_pipeline(columns, LogisticRegression()).fit(*frame(0))
    rows = frame(1)[0]
    return model, cm.Dataset(train=frame(0), holdout=frame(1)), lambda: model.predict_proba(rows)


def network() -> object:
    from torch import nn

    return nn.Sequential(
        nn.Linear(COLUMNS, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 2)
    ).eval()


def torch_network() -> Case:
    import torch

    model, xh = network(), arrays(1)[0]

    def ask() -> object:
        with torch.no_grad():
            return torch.softmax(model(torch.as_tensor(xh, dtype=torch.float32)), 1).numpy()

    return model, data(), ask


def keras_network() -> Case:
    import keras

    layers, xh = keras.layers, arrays(1)[0]
    model = keras.Sequential(
        [
            layers.Input((COLUMNS,)),
            layers.Dense(256, "relu"),
            layers.Dense(256, "relu"),
            layers.Dense(2, "softmax"),
        ]
    )
    return model, data(), lambda: model.predict_on_batch(xh)


def text_network() -> Case:
    """A small transformer with random weights: words to one of two classes, its tokenizer made here."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = [f"w{i}" for i in range(200)]
    inner = Tokenizer(
        models.WordLevel({"[PAD]": 0, "[UNK]": 1, **{w: i + 2 for i, w in enumerate(words)}}, "[UNK]")
    )
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=202, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
        max_position_embeddings=32,
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    rng = np.random.default_rng(0)
    rows = [" ".join(rng.choice(words, 16)) for _ in range(ROWS)]
    y = rng.integers(0, 2, ROWS)

    def ask() -> object:
        found = []
        with torch.no_grad():
            for start in range(0, ROWS, 32):
                batch = tokenizer(rows[start : start + 32], return_tensors="pt", padding=True)
                found.append(torch.softmax(model(**batch).logits, 1))
        return torch.cat(found).numpy()

    return (model, tokenizer), cm.Dataset(train=(rows, y), holdout=(rows, y)), ask


def onnx_of(raw: bytes, name: str, column: int) -> Case:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
    xh = arrays(1)[0]
    output = session.get_outputs()[column].name
    return raw, data(), lambda: session.run([output], {name: xh.astype(np.float32)})[0]


def onnx_network() -> Case:
    import torch

    sink = io.BytesIO()
    model = torch.nn.Sequential(network(), torch.nn.Softmax(1)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.zeros(1, COLUMNS),),
            sink,
            dynamo=False,
            input_names=["x"],
            dynamic_axes={"x": {0: "n"}},
        )
    return onnx_of(sink.getvalue(), "x", 0)


def cases() -> dict[str, tuple[tuple[str, ...], Callable[[], Case]]]:
    """Return what is measured: the packages it needs, and what makes it."""
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    def boosted(package: str) -> Callable[[], Case]:
        def made() -> Case:
            if package == "xgboost":
                from xgboost import XGBClassifier as Boosted

                options = {}
            else:
                from lightgbm import LGBMClassifier as Boosted

                options = {"verbose": -1}
            return estimator(Boosted(n_estimators=100, max_depth=6, n_jobs=1, **options))()

        return made

    return {
        "scikit-learn, logistic regression": ((), estimator(LogisticRegression())),
        "scikit-learn, forest of 100": ((), estimator(RandomForestClassifier(100, random_state=0))),
        "scikit-learn, boosting": ((), estimator(HistGradientBoostingClassifier())),
        "scikit-learn, pipeline on a frame": ((), pipeline),
        "XGBoost, 100 trees": (("xgboost",), boosted("xgboost")),
        "LightGBM, 100 trees": (("lightgbm",), boosted("lightgbm")),
        "PyTorch, 75,000 weights": (("torch",), torch_network),
        "Keras, 75,000 weights": (("keras", "torch"), keras_network),
        "ONNX, 75,000 weights": (("onnx", "onnxruntime", "torch"), onnx_network),
        "Hugging Face, 2 layers of 64": (("transformers", "torch"), text_network),
    }


def seconds(ask: Callable[[], object], times: int = 1) -> float:
    start = time.process_time()
    for _ in range(times):
        ask()
    return (time.process_time() - start) / times


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--limit", type=float, default=1.1)
    parser.add_argument("--only", default="")
    chosen = parser.parse_args()
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(1)
    print(
        f"| model | native ms | target.scores ms | ratio | {chosen.rounds} rounds of {ROWS} rows, CPU time |"
    )
    print("|---|---|---|---|---|")
    above = []
    for name, (packages, make) in cases().items():
        if chosen.only not in name:
            continue
        if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
            print(f"| {name} | | | | not measured: {missing[0]} is not installed |")
            continue
        model, told, native = make()
        target, coded = cm.wrap(model).bind(told)
        x = coded.holdout.x
        off = float(np.abs(np.asarray(native(), np.float64) - target.scores(x)).max())
        asks = {"native": native, "ours": partial(target.scores, x)}
        times: dict[str, list[float]] = {side: [] for side in asks}
        repeat = max(1, round(0.02 / max(1e-5, seconds(native))))  # the clock is coarse: some ms at least
        for _ in range(chosen.rounds):
            for side, ask in asks.items():
                times[side].append(seconds(ask, repeat))
        middle = {side: statistics.median(found) for side, found in times.items()}
        ratio = statistics.median(b / a for a, b in zip(times["native"], times["ours"], strict=True))
        above += [name] if ratio > chosen.limit else []
        print(
            f"| {name} | {middle['native'] * 1e3:.2f} | {middle['ours'] * 1e3:.2f} | {ratio:.2f} "
            f"| largest difference {off:.0e} |",
            flush=True,
        )
    print(f"above {chosen.limit}: {', '.join(above) or 'none'}")
    return bool(above)


if __name__ == "__main__":
    sys.exit(main())
