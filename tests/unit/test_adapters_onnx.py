# SPDX-License-Identifier: Apache-2.0
"""ONNX models as targets: what goes in, what comes out, what is offered, and when gradients are believed."""

from __future__ import annotations

import hashlib
import pickle
import random
import sys
import threading
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import onnx_models as made
import pandas as pd
import pytest
from onnx import TensorProto, helper

import casemate as cm
from casemate.adapters import _onnx_layers, onnx
from casemate.core.errors import InvalidData, MissingCapability, MissingExtra
from casemate.core.types import LABELS, LOGITS, MODULE, REFIT, SCORES, Recipe
from casemate.report.doctor import recognised

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 4))
Y = np.digitize(X[:, 0] + X[:, 1], [-0.6, 0.6])
DATA = cm.Dataset(train=(X[:25], Y[:25]), holdout=(X[25:], Y[25:]))
PAIR = cm.Dataset(train=(X[:25], (Y > 0)[:25] * 1), holdout=(X[25:], (Y > 0)[25:] * 1))
VALUES = cm.Dataset(train=(X[:25], X[:25, 0]), holdout=(X[25:], X[25:, 0]))
IMAGES = RNG.random(size=(12, 3, 6, 5))
SHOWN = np.arange(12) % 3
PICTURES = cm.Dataset(train=(IMAGES[:8], SHOWN[:8]), holdout=(IMAGES[8:], SHOWN[8:]))
REST = X[25:]


def own_logits(x: np.ndarray, *, k: int = 3, seed: int = 0) -> np.ndarray:
    """What ``made.network`` computes, in numpy."""
    w, b, v, c = (part.astype(np.float64) for part in made.weights(seed, (4, 8), (8,), (8, k), (k,)))
    out: np.ndarray = np.tanh(x @ w + b) @ v + c
    return out


def softmax(z: np.ndarray) -> np.ndarray:
    odds = np.exp(z - z.max(1, keepdims=True))
    out: np.ndarray = odds / odds.sum(1, keepdims=True)
    return out


def bound(model: Any, data: Any = DATA, **options: Any) -> Any:
    return cm.wrap(model, **options).bind(data)[0]


def small(
    nodes: Any, stored: Any, out: Any = ("n", 3), *, rows: Any = "n", dtype: int = made.FLOAT, **more: Any
) -> Any:
    """A model of rows (rows, 4) that gives ``y``."""
    built = [
        helper.make_node(op, list(inputs), list(outputs), **settings)
        for op, inputs, outputs, settings in nodes
    ]
    return made.model(built, stored, [("x", dtype, [rows, 4])], [("y", made.FLOAT, out)], **more)


def caveat(target: Any, told: str) -> bool:
    return any(told in line for line in target.caveats)


# ---------------------------------------------------------------------- outputs


@pytest.mark.parametrize("ending", ["", "Softmax", "LogSoftmax"])
def test_scores_and_logits_of_a_network(ending: str) -> None:
    target = bound(made.network(ending))
    z = own_logits(REST)
    assert target.capabilities == {LABELS, SCORES, LOGITS, MODULE} and target.classes == (0, 1, 2)
    np.testing.assert_allclose(target.scores(REST), softmax(z), atol=1e-6)
    wanted = z - np.log(np.exp(z).sum(1, keepdims=True)) if ending == "LogSoftmax" else z
    np.testing.assert_allclose(target.logits(REST), wanted, atol=1e-5)
    assert (target.labels(REST) == z.argmax(1)).all()
    assert target.caveats == () and target.task == "multiclass" and target.kind == "ONNX"


def test_one_sigmoid_is_the_second_of_two_classes() -> None:
    z = own_logits(REST, k=1)
    for ending, options in (("Sigmoid", {}), ("", {}), ("Sigmoid", {"outputs": "probabilities"})):
        target = bound(made.network(ending, k=1), PAIR, **options)
        assert target.task == "binary" and target.capabilities == {LABELS, SCORES, LOGITS, MODULE}
        np.testing.assert_allclose(target.logits(REST), np.hstack([0 * z, z]), atol=1e-5)
        np.testing.assert_allclose(target.scores(REST)[:, 1], 1 / (1 + np.exp(-z[:, 0])), atol=1e-6)
        assert (target.labels(REST) == (z[:, 0] > 0)).all()
        out = target.module()(torch.tensor(REST)).numpy()
        np.testing.assert_allclose(out, np.hstack([0 * z, z]), atol=1e-5)


def test_a_single_output_between_0_and_1_must_be_explained() -> None:
    half = small([("ReduceMean", "x", "m", {"axes": [1]}), ("Clip", ["m", "a", "b"], "y", {})],
                 {"a": np.float32(0), "b": np.float32(1)}, ("n", 1))  # fmt: skip
    with pytest.raises(InvalidData, match=r"outputs='probabilities'\) or outputs='logits'"):
        bound(half, PAIR)
    share = bound(half, PAIR, outputs="probabilities")
    np.testing.assert_allclose(share.scores(REST)[:, 1], np.clip(REST.mean(1), 0, 1), atol=1e-6)


def test_sigmoids_side_by_side_give_labels_alone() -> None:
    target = bound(made.network("Sigmoid"))
    assert target.capabilities == {LABELS} and caveat(target, "a sigmoid of its own")
    assert (target.labels(REST) == own_logits(REST).argmax(1)).all()


def test_argmax_gives_labels_alone() -> None:
    target = bound(made.network("ArgMax"))
    assert target.capabilities == {LABELS} and caveat(target, "the model returns labels alone")
    assert (target.labels(REST) == own_logits(REST).argmax(1)).all()


def test_rows_that_sum_to_one_without_a_softmax_are_said_to_be_a_guess() -> None:
    by_hand = [
        ("MatMul", ["x", "w"], ["z"], {}), ("Exp", ["z"], ["e"], {}),
        ("ReduceSum", ["e", "axes"], ["s"], {"keepdims": 1}), ("Div", ["e", "s"], ["y"], {}),
    ]  # fmt: skip
    w = made.weights(1, (4, 3))[0]
    target = bound(small(by_hand, {"w": w, "axes": np.array([1])}))
    assert caveat(target, "taken to be probabilities") and caveat(target, "logits are the logarithm")
    np.testing.assert_allclose(target.scores(REST), softmax(REST @ w), atol=1e-6)
    module = target.module()(torch.tensor(REST)).numpy()
    np.testing.assert_allclose(module, np.log(softmax(REST @ w)), atol=1e-4)
    np.testing.assert_allclose(target.logits(REST), module, atol=1e-4)
    forced = bound(small(by_hand, {"w": w, "axes": np.array([1])}), outputs="logits")
    np.testing.assert_allclose(forced.logits(REST), softmax(REST @ w), atol=1e-6)


@pytest.mark.parametrize("out", [("n", 1), ("n",)])
def test_regression(out: tuple[Any, ...]) -> None:
    nodes: Any = [("MatMul", ["x", "w"], ["y"], {})]
    w = made.weights(2, (4, 1))[0]
    target = bound(small(nodes, {"w": w if len(out) == 2 else w[:, 0]}, out), VALUES)
    assert target.task == "regression" and target.capabilities == {LABELS, MODULE}
    np.testing.assert_allclose(target.labels(REST), (REST @ w)[:, 0], atol=1e-5)
    assert target.module()(torch.tensor(REST)).shape == (15, 1)
    with pytest.raises(MissingCapability):
        target.scores(REST)
    with pytest.raises(InvalidData, match="predicts 3 values a row"):
        bound(made.network(""), VALUES)
    with pytest.raises(InvalidData, match=r"outputs= and classes= do not apply to regression"):
        cm.wrap(made.network(""), task="regression", outputs="logits")


def two_outputs(labels: Any = (0, 1, 2), turned: bool = False) -> Any:
    """A softmax, and the label of its largest (or smallest) class, as converters of classifiers write them."""
    model = made.network("Softmax")
    dtype = made.STRING if isinstance(labels[0], str) else made.INT64
    model.graph.initializer.append(
        helper.make_tensor(
            "names", dtype, [3], [str(v).encode() if dtype == made.STRING else v for v in labels]
        )
    )
    model.graph.node.append(
        helper.make_node("ArgMin" if turned else "ArgMax", ["logits"], ["best"], axis=1, keepdims=0)
    )
    model.graph.node.append(helper.make_node("Gather", ["names", "best"], ["label"]))
    model.graph.output.insert(0, helper.make_tensor_value_info("label", dtype, ["n"]))
    return model


def test_the_labels_of_the_graph_are_the_classes() -> None:
    words = np.array(["zug", "bern", "chur"])
    data = cm.Dataset(train=(X[:25], words[Y[:25]]), holdout=(X[25:], words[Y[25:]]))
    target = bound(two_outputs(tuple(words)), data)
    assert target.classes == ("zug", "bern", "chur")
    assert (target.labels(REST) == own_logits(REST).argmax(1)).all() and not target.caveats
    with pytest.raises(
        InvalidData, match=r"are not those of its largest scores .* in the order of its outputs"
    ):
        bound(two_outputs(tuple(words), turned=True), data)
    with pytest.raises(InvalidData, match="not those of its largest scores"):
        bound(two_outputs(tuple(words)), data, classes=["bern", "chur", "zug"])
    with pytest.raises(InvalidData, match="unknown to the model"):
        bound(two_outputs(("a", "b", "c")), data)
    alone = bound(two_outputs(tuple(words)), data, outputs="labels")
    assert alone.capabilities == {LABELS} and (alone.labels(REST) == own_logits(REST).argmax(1)).all()


def test_classes_are_as_said_or_a_guess_that_is_said() -> None:
    words = np.array(["bern", "chur", "zug"])
    data = cm.Dataset(train=(X[:25], words[Y[:25]]), holdout=(X[25:], words[Y[25:]]))
    guessed = bound(made.network(), data)
    assert guessed.classes == tuple(words) and caveat(guessed, "classes= was not given")
    told = bound(made.network(), data, classes=["zug", "chur", "bern"])
    assert told.classes == ("zug", "chur", "bern") and not told.caveats
    with pytest.raises(InvalidData, match="2 class names but the ONNX model has 3 outputs"):
        bound(made.network(), data, classes=["bern", "zug"])
    pair = cm.Dataset(train=(X, np.where(Y > 0, "p", "q")), holdout=(X, np.where(Y > 0, "p", "q")))
    with pytest.raises(InvalidData, match=r"3 outputs but the labels are .* wrap\(model, classes"):
        bound(made.network(), pair)


# ---------------------------------------------------------------------- forms


def test_every_form_is_the_same_model(tmp_path: Path) -> None:
    import onnxruntime

    model, path = made.network(), tmp_path / "model.onnx"
    raw = model.SerializeToString()
    path.write_bytes(raw)
    loaded = cm.load(path)
    assert dict(loaded.source or {}) == {
        "path": str(path),
        "sha256": hashlib.sha256(raw).hexdigest(),
        "format": "ONNX",
    }
    forms = [model, raw, onnxruntime.InferenceSession(raw), onnxruntime.InferenceSession(str(path)), loaded]
    for form in forms:
        target = bound(form)
        assert (target.labels(REST) == own_logits(REST).argmax(1)).all()
        assert target.digest() == hashlib.blake2b(raw, digest_size=32).hexdigest()
    assert model.SerializeToString() == raw  # the user's own is as it was
    assert len(model.graph.output) == 1


def test_options_that_do_not_apply() -> None:
    for options, told in (
        ({"device": "cuda"}, "device='cuda' does not apply"),
        ({"outputs": "scores"}, "outputs='scores' does not apply"),
        ({"task": "regression", "classes": [0, 1]}, "do not apply to regression"),
    ):  # fmt: skip
        with pytest.raises(InvalidData, match=told):
            cm.wrap(made.network(), **options)
    with pytest.raises(InvalidData, match=r"is no ONNX model|malformed|unknown"):
        cm.wrap(b"{}")
    with pytest.raises(InvalidData, match=r"outputs='labels' does not apply"):
        bound(made.network(), outputs="labels")


def test_without_the_packages_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = made.network().SerializeToString()
    monkeypatch.setattr(onnx, "installed", lambda name: name != "onnxruntime")
    with pytest.raises(MissingExtra, match=r"onnxruntime is not installed.*casemate\[onnx\]"):
        cm.wrap(raw)


def test_nothing_is_imported_before_it_is_needed() -> None:
    import subprocess

    program = (
        "import sys; import casemate as cm; from casemate.adapters import onnx, files; cm.wrap(len, classes=[0, 1]);"
        "sys.exit(bool({'onnx', 'onnxruntime', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# ---------------------------------------------------------------------- rows and batches


@pytest.mark.parametrize("rows", [1, 4, 7])
def test_a_fixed_batch_is_filled_up(rows: int) -> None:
    fixed, free = bound(made.network(rows=rows)), bound(made.network())
    assert fixed.rows == rows and fixed.has(MODULE)
    for n in (1, 3, 15):
        np.testing.assert_allclose(fixed.scores(REST[:n]), free.scores(REST[:n]), atol=1e-6)
        module = fixed.module()(torch.tensor(REST[:n])).numpy()
        np.testing.assert_allclose(module, free.logits(REST[:n]), atol=1e-5)


def test_a_batch_size_inside_the_graph_is_kept_by_the_copy() -> None:
    inner = [("Reshape", ["x", "s"], ["r"], {}), ("ReduceSum", ["r", "axes"], ["f"], {"keepdims": 0}),
             ("MatMul", ["f", "w"], ["y"], {})]  # fmt: skip
    w = made.weights(3, (2, 3))[0]
    target = bound(small(inner, {"s": np.array([1, 2, 2]), "axes": np.array([2]), "w": w}, (1, 3), rows=1))
    wanted = REST.reshape(15, 2, 2).sum(2) @ w
    assert target.has(MODULE) and not target.whole
    np.testing.assert_allclose(target.logits(REST), wanted, atol=1e-5)
    np.testing.assert_allclose(target.module()(torch.tensor(REST)).numpy(), wanted, atol=1e-5)
    # the same graph that says it takes any number of rows and fails on more than one
    wrong = bound(small(inner, {"s": np.array([1, 2, 2]), "axes": np.array([2]), "w": w}))
    assert caveat(wrong, "fails on several rows at once") and wrong.rows == 1
    np.testing.assert_allclose(wrong.logits(REST), wanted, atol=1e-5)
    assert wrong.has(MODULE)


def test_rows_that_touch_each_other_are_asked_one_by_one() -> None:
    centred = [("ReduceMean", ["x"], ["m"], {"axes": [0]}), ("Sub", ["x", "m"], ["d"], {}),
               ("Add", ["d", "x"], ["e"], {}),
               ("MatMul", ["e", "w"], ["y"], {})]  # fmt: skip
    w = made.weights(4, (4, 3))[0]
    target = bound(small(centred, {"w": w}))
    assert caveat(target, "touch each other")
    np.testing.assert_allclose(target.logits(REST), REST @ w, atol=1e-5)
    np.testing.assert_allclose(target.module()(torch.tensor(REST)).numpy(), REST @ w, atol=1e-5)


def test_the_size_of_a_batch_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    target = bound(made.network())
    whole = target.scores(REST)
    np.testing.assert_allclose(np.vstack([target.scores(row[None]) for row in REST]), whole, atol=1e-6)
    monkeypatch.setattr(onnx, "MAX_ROWS", 4)
    np.testing.assert_allclose(target.scores(REST), whole, atol=1e-6)
    np.testing.assert_allclose(target.scores(REST[::-1]), whole[::-1], atol=1e-6)
    assert target.scores(REST).tobytes() == target.scores(REST).tobytes()


@pytest.mark.parametrize(
    "dtype", [made.DOUBLE, made.INT64, TensorProto.INT32, TensorProto.FLOAT16, TensorProto.UINT8]
)
def test_rows_reach_the_model_in_its_dtype(dtype: int) -> None:
    w = made.weights(5, (4, 3))[0]
    nodes: Any = [("Cast", ["x"], ["f"], {"to": 1}), ("MatMul", ["f", "w"], ["y"], {})]
    whole = np.round(np.abs(X) * 10)
    data = cm.Dataset(train=(whole[:25], Y[:25]), holdout=(whole[25:], Y[25:]))
    target = bound(small(nodes, {"w": w}, dtype=dtype), data)
    np.testing.assert_allclose(target.logits(whole[25:]), whole[25:] @ w, rtol=1e-5, atol=1e-4)
    integers = dtype not in (made.DOUBLE, TensorProto.FLOAT16)
    assert caveat(target, "other values are rounded") == integers
    assert target.has(MODULE)
    if integers:
        np.testing.assert_allclose(target.logits(whole[25:] + 0.4), whole[25:] @ w, rtol=1e-5, atol=1e-4)
        with pytest.raises(InvalidData, match="the rows hold NaN"):
            target.labels(np.full((1, 4), np.nan))
    if dtype == TensorProto.UINT8:  # it is cut off, never wrapped around
        far = target.logits(np.array([[300.0, -5, 0, 0]]))
        np.testing.assert_allclose(far, np.array([[255.0, 0, 0, 0]]) @ w, rtol=1e-5)


def test_a_row_that_is_no_answer_is_said_to_be_none() -> None:
    target = bound(made.network())
    holes = REST.copy()
    holes[3, 1] = np.nan
    for ask in (target.labels, target.scores, target.logits, bound(two_outputs()).labels):
        with pytest.raises(InvalidData, match="returned NaN for 1 of 15 rows; fill missing cells"):
            ask(holes)


@pytest.mark.parametrize(
    ("model", "data", "told"),
    [
        (made.network(d=5), DATA, r"takes 'x' float32\(n, 5\), encoded rows have shape \(n, 4\)"),
        (made.network(), PICTURES, r"encoded rows have shape \(n, 3, 6, 5\)"),
        (made.network(), cm.Dataset(train=(["a", "b"], [0, 1]), holdout=(["a"], [0])), "this data is text"),
        (small([("ReduceSum", ["x"], ["y"], {"keepdims": 0})], {}, ()), DATA, "must return one answer a row"),
        (small([("Reshape", ["x", "s"], ["y"], {})], {"s": np.array([0, 2, 2])}, ("n", 2, 2)), DATA, r"\(n, classes\)"),
        (small([("Transpose", ["x"], ["y"], {})], {}, (4, "n")), DATA, "must return one answer a row"),
    ],
)  # fmt: skip
def test_data_that_does_not_fit_is_one_clear_error(model: Any, data: Any, told: str) -> None:
    with pytest.raises(InvalidData, match=told) as caught:
        bound(model, data)
    assert "\n" not in str(caught.value)


def test_wrong_rows_later_on() -> None:
    target = bound(made.network())
    for rows in (X[:, :3], X[:0], X[0]):
        with pytest.raises(InvalidData):
            target.labels(rows)


# ---------------------------------------------------------------------- tables of columns, texts, images


def table(n: int, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({
        "age": rng.integers(18, 90, n), "income": rng.normal(size=n),
        "town": np.array(["Bern", "Genf", "Zug"])[rng.integers(0, 3, n)],
    })  # fmt: skip
    return frame, np.where(frame["age"] + 20 * (frame["town"] == "Genf") > 60, "yes", "no")


def columns(names: tuple[str, ...] = ("town", "age", "income")) -> Any:
    """Logits 0 and age / 60 - 1 + income + (town is Genf), from one input a column, in another order."""
    town, age, income = names
    nodes = [
        helper.make_node("LabelEncoder", [town], ["code"], domain="ai.onnx.ml", keys_strings=["Genf"],
                         values_floats=[1.0], default_float=0.0),
        helper.make_node("Cast", [age], ["years"], to=1),
        helper.make_node("Div", ["years", "sixty"], ["part"]),
        helper.make_node("Sub", ["part", "one"], ["over"]),
        helper.make_node("Sum", ["over", income, "code"], ["z"]),
        helper.make_node("Sub", ["z", "z"], ["zero"]),
        helper.make_node("Concat", ["zero", "z"], ["y"], axis=1),
    ]  # fmt: skip
    return made.model(
        nodes, {"sixty": np.float32([60]), "one": np.float32([1])},
        [(town, made.STRING, ["n", 1]), (age, made.INT64, ["n", 1]), (income, made.FLOAT, ["n", 1])],
        [("y", made.FLOAT, ["n", 2])], others={"ai.onnx.ml": 2},
    )  # fmt: skip


def test_columns_reach_the_inputs_of_their_names() -> None:
    (frame, y), (held, yh) = table(30, 0), table(12, 1)
    data = cm.Dataset(train=(frame, y), holdout=(held, yh))
    target, coded = cm.wrap(columns()).bind(data)
    z = held["age"].to_numpy() / 60 - 1 + held["income"].to_numpy() + (held["town"] == "Genf").to_numpy()
    np.testing.assert_allclose(target.logits(coded.holdout.x)[:, 1], z, atol=1e-5)
    assert target.classes == ("no", "yes") and not target.has(MODULE)
    assert any("text or categories" in line for line in target.caveats)
    turned = cm.Dataset(
        train=(frame[["town", "income", "age"]], y), holdout=(held[["town", "income", "age"]], yh)
    )
    again, mixed = cm.wrap(columns()).bind(turned)
    np.testing.assert_allclose(again.logits(mixed.holdout.x), target.logits(coded.holdout.x), atol=1e-6)
    holes = coded.holdout.x.copy()
    holes[0, 2] = np.nan
    with pytest.raises(InvalidData, match="'town' has missing cells and the ONNX model takes text"):
        target.labels(holes)
    with pytest.raises(InvalidData, match=r"takes \['city', 'age', 'income'\], the columns are"):
        cm.wrap(columns(("city", "age", "income"))).bind(data)
    with pytest.raises(InvalidData, match="'age' is integer, but the ONNX model takes it as text"):
        cm.wrap(columns(("age", "town", "income"))).bind(data)


def test_numeric_columns_one_by_one_have_gradients() -> None:
    ports = [(name, made.FLOAT, ["n", 1]) for name in ("c", "a", "b")]
    nodes = [
        helper.make_node("Concat", ["a", "b", "c"], ["row"], axis=1),
        helper.make_node("MatMul", ["row", "w"], ["y"]),
    ]
    w = made.weights(6, (3, 3))[0]
    model = made.model(nodes, {"w": w}, ports, [("y", made.FLOAT, ["n", 3])])
    frame = pd.DataFrame(X[:, :3], columns=["a", "b", "c"])
    target, data = cm.wrap(model).bind(cm.Dataset(train=(frame[:25], Y[:25]), holdout=(frame[25:], Y[25:])))
    np.testing.assert_allclose(
        target.module()(torch.tensor(data.holdout.x)).numpy(), REST[:, :3] @ w, atol=1e-5
    )
    np.testing.assert_allclose(target.logits(data.holdout.x), REST[:, :3] @ w, atol=1e-5)


def test_categories_in_one_tensor_are_codes_and_that_is_said() -> None:
    frame, y = table(30, 0)
    small_frame = frame.assign(more=1.5)
    target, data = cm.wrap(made.network(k=2)).bind(
        cm.Dataset(train=(small_frame, y), holdout=(small_frame, y))
    )
    assert caveat(target, "codes 0, 1, ... in the order of the schema: ['town']")
    np.testing.assert_allclose(
        target.logits(data.holdout.x), own_logits(data.holdout.x, k=2), rtol=1e-4, atol=1e-4
    )


def test_texts() -> None:
    length = [helper.make_node("LabelEncoder", ["x"], ["y0"], domain="ai.onnx.ml", keys_strings=["good", "bad"],
                               values_floats=[2.0, -2.0], default_float=0.5),
              helper.make_node("Reshape", ["y0", "s"], ["y"])]  # fmt: skip
    texts, y = ["good", "bad", "so", "bad"], [1, 0, 1, 0]
    data = cm.Dataset(train=(texts, y), holdout=(texts[:2], y[:2]))
    for shape in (["n"], ["n", 1]):
        model = made.model(length, {"s": np.array([-1, 1])}, [("x", made.STRING, shape)], [("y", made.FLOAT, ["n", 1])],
                           others={"ai.onnx.ml": 2})  # fmt: skip
        target = bound(model, data)
        assert target.logits(["bad", "good"])[:, 1].tolist() == [-2, 2] and not target.has(MODULE)


def convolution(last: bool = False, rows: Any = "n") -> Any:
    """A small image network with batch normalisation; ``last``: it takes channels last."""
    w, b, s, m, v = made.weights(7, (4, 3, 3, 3), (4,), (4,), (4,), (4, 3))
    turn = helper.make_node("Transpose", ["x"], ["i"], perm=[0, 3, 1, 2])
    nodes = [
        turn if last else helper.make_node("Identity", ["x"], ["i"]),
        helper.make_node("Conv", ["i", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "s", "b", "m", "q"], ["n"]),
        helper.make_node("Softplus", ["n"], ["r"]),
        helper.make_node("AveragePool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["p"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("MatMul", ["f", "v"], ["z"]),
        helper.make_node("Softmax", ["z"], ["y"], axis=-1),
    ]  # fmt: skip
    shape = [rows, 6, 5, 3] if last else [rows, 3, 6, 5]
    stored = {"w": w, "b": b, "s": s, "m": m, "q": np.abs(m) + 0.5, "v": v}
    return made.model(nodes, stored, [("x", made.FLOAT, shape)], [("y", made.FLOAT, [rows, 3])])


def slopes_agree(target: Any, x: np.ndarray) -> None:
    """Gradients of the module against finite differences of what onnxruntime gives, in three directions."""
    rng = np.random.default_rng(0)
    asked = torch.tensor(x, dtype=torch.float32, device="cpu", requires_grad=True)
    out = target.module()(asked)
    weight = rng.normal(size=tuple(out.shape))
    (gradient,) = torch.autograd.grad(
        (out * torch.tensor(weight, dtype=torch.float32, device="cpu")).sum(), asked
    )
    slope = gradient.double().numpy()
    for _ in range(3):
        way = rng.normal(size=x.shape)
        way /= np.linalg.norm(way)
        up, down = (target.logits(x + sign * 1e-2 * way) for sign in (1, -1))
        assert ((up - down) * weight).sum() / 2e-2 == pytest.approx(
            (slope * way).sum(), abs=0.02 * np.linalg.norm(slope)
        )


@pytest.mark.parametrize("last", [False, True])
def test_an_image_network(last: bool) -> None:
    target = bound(convolution(last), PICTURES)
    assert target.has(MODULE, SCORES, LOGITS) and caveat(target, "channels last") == last
    plain = bound(convolution(), PICTURES)
    np.testing.assert_allclose(target.scores(IMAGES[8:]), plain.scores(IMAGES[8:]), atol=1e-6)
    slopes_agree(target, IMAGES[8:])
    np.testing.assert_allclose(
        softmax(target.module()(torch.tensor(IMAGES[8:])).double().numpy()),
        target.scores(IMAGES[8:]),
        atol=1e-5,
    )


def test_a_network_of_one_hidden_layer_has_its_gradient() -> None:
    slopes_agree(bound(made.network()), REST)


def attention() -> Any:
    """Rows of four numbers as two tokens of two, one head, a residual and a layer norm."""
    q, k, v, o = made.weights(8, (2, 2), (2, 2), (2, 2), (4, 3))
    n = helper.make_node
    nodes = [
        n("Shape", ["x"], ["whole"]), n("Slice", ["whole", "zero", "one"], ["rows"]),
        n("Concat", ["rows", "two", "two"], ["tokens"], axis=0), n("Reshape", ["x", "tokens"], ["t"]),
        n("MatMul", ["t", "q"], ["tq"]), n("MatMul", ["t", "k"], ["tk"]), n("MatMul", ["t", "v"], ["tv"]),
        n("Transpose", ["tk"], ["kt"], perm=[0, 2, 1]), n("MatMul", ["tq", "kt"], ["dots"]),
        n("Div", ["dots", "root"], ["scaled"]), n("Softmax", ["scaled"], ["weight"], axis=-1),
        n("MatMul", ["weight", "tv"], ["mixed"]), n("Add", ["t", "mixed"], ["sum"]),
        n("LayerNormalization", ["sum", "gain", "shift"], ["normal"], epsilon=0.1),
        n("Flatten", ["normal"], ["flat"]), n("MatMul", ["flat", "o"], ["y"]),
    ]  # fmt: skip
    stored = {
        "q": q, "k": k, "v": v, "o": o, "zero": np.array([0]), "one": np.array([1]), "two": np.array([2]),
        "root": np.float32([2**0.5]), "gain": np.float32([1, 2]), "shift": np.float32([0.1, 0]),
    }  # fmt: skip
    return made.model(nodes, stored, [("x", made.FLOAT, ["n", 4])], [("y", made.FLOAT, ["n", 3])])


def test_an_attention_block() -> None:
    target = bound(attention())
    assert target.has(MODULE) and not target.caveats
    slopes_agree(target, REST)


def test_in_double_the_gradient_is_that_of_onnxruntime_in_double() -> None:
    model = made.network()
    for tensor in model.graph.initializer:
        value = made.numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(made.numpy_helper.from_array(value, tensor.name))
    for port in (*model.graph.input, *model.graph.output):
        port.type.tensor_type.elem_type = made.DOUBLE
    target = bound(model)
    x = torch.tensor(REST, dtype=torch.float64, device="cpu", requires_grad=True)
    out = target.module()(x)
    assert out.dtype == torch.float64
    (gradient,) = torch.autograd.grad(out[:, 1].sum(), x)
    for j in range(4):
        step = 1e-6 * (np.arange(4) == j)
        rise = (target.logits(REST + step)[:, 1] - target.logits(REST - step)[:, 1]) / 2e-6
        np.testing.assert_allclose(gradient[:, j].numpy(), rise, atol=1e-7)


# ---------------------------------------------------------------------- gradients that are not believed


def test_an_operator_that_is_not_converted_is_named_by_doctor() -> None:
    nodes: Any = [
        ("MatMul", ["x", "w"], ["z"], {}),
        ("TopK", ["z", "k"], ["y", "places"], {"name": "best of three"}),
    ]
    model = small(nodes, {"w": made.weights(9, (4, 5))[0], "k": np.array([3])})
    target = bound(model)
    why = "no gradients: operator TopK (node 'best of three'), which is not converted to torch"
    assert why in target.caveats and target.has(SCORES) and not target.has(MODULE)
    with pytest.raises(MissingCapability, match="does not offer module"):
        target.module()
    text = recognised(cm.wrap(model), DATA)[0]
    assert f"caveat: {why}" in text and "model: ONNX" in text
    assert f"caveat: {why}" in recognised(cm.wrap(model), None)[0]  # and without data


def test_a_copy_that_differs_is_not_offered_and_names_the_first_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_onnx_layers.OPS, "Tanh", lambda c: torch.tanh(c.x[0]) * 1.001)
    target = bound(made.network())
    assert not target.has(MODULE)
    assert caveat(target, "off what onnxruntime gives, first at operator Tanh (node 'active')")
    monkeypatch.setitem(_onnx_layers.OPS, "Tanh", lambda c: torch.tanh(c.x[0]) * 1.00001)
    assert bound(made.network()).has(MODULE)  # inside the tolerance of 1e-4


def test_a_copy_that_fails_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_onnx_layers.OPS, "Tanh", lambda c: c.x[7])
    assert caveat(bound(made.network()), "operator Tanh (node 'active') failed in torch")


def test_a_difference_outside_the_data_is_found_by_rows_inside_its_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = torch.tensor(X[:16].astype(np.float32), device="cpu").double().numpy()
    real = _onnx_layers.OPS["Gemm"]

    def learnt_by_heart(c: Any) -> Any:
        """Right on the data and nowhere else."""
        known = (
            torch.tensor(np.isin(c.x[0].double().detach().numpy(), seen).all(1), device="cpu")
            if c.x[0].shape[1] == 4
            else None
        )
        out = real(c)
        return out if known is None else torch.where(known[:, None], out, out + 1)

    monkeypatch.setitem(_onnx_layers.OPS, "Gemm", learnt_by_heart)
    assert not bound(made.network()).has(MODULE)


def test_a_step_that_no_gradient_passes() -> None:
    nodes: Any = [
        ("Cast", ["x"], ["i"], {"to": 7}),
        ("Cast", ["i"], ["f"], {"to": 1}),
        ("MatMul", ["f", "w"], ["y"], {}),
    ]
    target = bound(small(nodes, {"w": made.weights(9, (4, 3))[0]}))
    assert caveat(target, "no gradients: no gradient reaches the input") and target.has(LOGITS)


def test_old_opsets_and_training_mode_are_black_boxes() -> None:
    old = small([("Relu", ["x"], ["y"], {})], {}, ("n", 4), opset=6)
    data = cm.Dataset(train=(X, np.arange(40) % 4), holdout=(X, np.arange(40) % 4))
    assert caveat(bound(old, data), "no gradients: opset 6")


# ---------------------------------------------------------------------- what every target does


def test_limits_hold() -> None:
    view = bound(made.network()).limited_to(LABELS)
    assert view.capabilities == {LABELS}
    for ask in (lambda: view.scores(REST), lambda: view.logits(REST), view.module):
        with pytest.raises(MissingCapability):
            ask()
    early, data = cm.wrap(made.network()).limited_to(LABELS, SCORES).bind(DATA)
    assert early.capabilities == {LABELS, SCORES} and early.scores(data.holdout.x).shape == (15, 3)


def test_it_travels_and_answers_the_same() -> None:
    target = bound(made.network())
    for there in (pickle.loads(pickle.dumps(target)), cloudpickle.loads(cloudpickle.dumps(target))):
        assert there.digest() == target.digest() and there.capabilities == target.capabilities
        assert there.scores(REST).tobytes() == target.scores(REST).tobytes()
    module = pickle.loads(pickle.dumps(target.module()))
    np.testing.assert_array_equal(
        module(torch.tensor(REST)).numpy(), target.module()(torch.tensor(REST)).numpy()
    )


def test_the_module_is_frozen_and_its_own() -> None:
    target = bound(made.network())
    module = target.module()
    assert not module.training and not any(p.requires_grad for p in module.parameters())
    assert sum(p.numel() for p in module.parameters()) == 4 * 8 + 8 + 8 * 3 + 3
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    np.testing.assert_allclose(target.module()(torch.tensor(REST)).numpy(), own_logits(REST), atol=1e-5)


def test_nothing_else_changes() -> None:
    before = (random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes())
    target = bound(made.network())
    target.scores(REST), target.module()
    after = (random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes())
    assert before == after


def test_threads_get_what_one_gets() -> None:
    target = pickle.loads(pickle.dumps(bound(made.network())))  # no session yet: both threads make one
    alone, wrong = own_logits(REST).argmax(1), list[int]()

    def ask() -> None:
        wrong.extend(int((target.labels(REST) != alone).sum()) for _ in range(20))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [0] * 80


def test_bound_once_it_stays_bound() -> None:
    target, data = cm.wrap(made.network()).bind(DATA)
    again, same = target.bind(data)
    assert again is target and same is data


def test_before_data_the_graph_tells_what_it_can() -> None:
    target = cm.wrap(made.network())
    assert target.capabilities == {LABELS, SCORES, LOGITS, MODULE}
    np.testing.assert_allclose(target.scores(REST), softmax(own_logits(REST)), atol=1e-6)
    np.testing.assert_allclose(target.module()(torch.tensor(REST)).numpy(), own_logits(REST), atol=1e-5)
    assert cm.wrap(made.network("", k=1)).capabilities == {LABELS}  # a number or two classes: data will tell
    assert bound(made.network("", k=1), VALUES).task == "regression"
    assert cm.wrap(columns()).capabilities == {LABELS}


@pytest.mark.timeout(60)  # the first training of a session imports much of torch
def test_refits_are_those_of_the_recipe() -> None:
    def fresh() -> Any:
        return torch.nn.Linear(4, 3)

    target = bound(made.network(), recipe=Recipe(factory=fresh, epochs=3))
    assert target.has(REFIT) and not bound(made.network()).has(REFIT)
    coded = cm.wrap(made.network()).bind(DATA)[1].train
    one, same = (target.refit(coded.x, coded.y, 1) for _ in range(2))
    assert one.kind == "torch" and one.digest() == same.digest() and one.classes == target.classes
    assert one.source is None and one.schema is target.schema
    with pytest.raises(MissingCapability):
        bound(made.network()).refit(coded.x, coded.y, 1)
    assert bound(made.network()).with_recipe(Recipe(factory=fresh)).has(REFIT)


def test_an_audit_attacks_it_with_its_gradients(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(made.network().SerializeToString())
    y = own_logits(X).argmax(1)
    data = cm.Dataset(train=(X[:25], y[:25]), holdout=(X[25:], y[25:]))
    report = cm.audit(
        cm.load(path), data, methods=["pgd"], effort="quick", threat=cm.Threat(norm="linf", radius=1.0)
    )
    held = report["pgd", "robust_accuracy"]
    assert held.status == "measured" and held.value is not None and held.value < 0.7
    attack = {row[0]: row[1] for row in held.details[0].rows}
    assert attack["correct before the attack"] == 15 and attack["gradient passes"] > 0
    assert report.target["kind"] == "ONNX"
