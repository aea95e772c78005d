# SPDX-License-Identifier: Apache-2.0
"""Every ONNX operator of the converter against onnxruntime: values, and gradients by finite differences of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_models as made
import pytest
from onnx import helper

from casemate.adapters import _onnx_layers
from casemate.adapters._onnx_feed import Feed
from casemate.adapters._onnx_model import Engine, read

torch = pytest.importorskip("torch")
from casemate.adapters import _onnx_torch  # noqa: E402  # after the guard

Case = tuple[str, Sequence[Any], Mapping[str, np.ndarray], tuple[int, ...], int]
CASES: list[Any] = []
COVERED: set[str] = set()


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def f32(*shape: int, seed: int = 5) -> np.ndarray:
    return made.weights(seed, shape)[0]


def case(
    name: str, nodes: Sequence[tuple[Any, ...]], stored: Mapping[str, np.ndarray] | None = None, *,
    shape: tuple[int, ...] = (3, 4), opset: int = 17, **attributes: Any,
) -> None:  # fmt: skip
    """Nodes are (operator, inputs, outputs, attributes); the last gives ``y``, from ``x`` of this shape."""
    built = []
    for i, (op, inputs, outputs, *more) in enumerate(nodes):
        settings = {**(more[0] if more else {}), **(attributes if i == len(nodes) - 1 else {})}
        built.append(
            helper.make_node(
                op,
                [name.strip("-") for name in inputs.split()],
                outputs.split(),
                domain=settings.pop("domain", ""),
                **settings,
            )
        )
        COVERED.add(op)
    CASES.append(pytest.param((built, stored or {}, shape, opset), id=f"{name}-{opset}"))


def one(op: str, stored: Mapping[str, np.ndarray] | None = None, *, name: str = "", **settings: Any) -> None:
    """A single operator on ``x`` and then the stored tensors in order."""
    case(name or op, [(op, " ".join(["x", *(stored or {})]), "y")], stored, **settings)


for unary in (
    "Relu LeakyRelu Elu Selu Sigmoid Tanh Softplus Softsign HardSigmoid HardSwish Mish Erf Neg Abs Exp Sin Cos "
    "Atan Sinh Cosh Asinh ThresholdedRelu Identity Softmax LogSoftmax Celu Reciprocal"
).split():
    one(unary, opset=18)
one("LeakyRelu", name="LeakyRelu-slope", alpha=0.3)
one("Elu", name="Elu-alpha", alpha=0.5)
one("Selu", name="Selu-set", alpha=1.2, gamma=0.9)
one("Celu", name="Celu-alpha", alpha=0.6)
one("HardSigmoid", name="HardSigmoid-set", alpha=0.4, beta=0.3)
one("ThresholdedRelu", name="ThresholdedRelu-alpha", alpha=0.2)
one("Gelu", opset=20)
one("Gelu", name="Gelu-tanh", opset=20, approximate="tanh")
one("Swish", name="Swish", opset=24, alpha=1.5)
one("PRelu", {"s": np.array([0.1, 0.2, 0.3, 0.4], np.float32)})
one(
    "PRelu",
    {"s": np.array([0.1, 0.7], np.float32).reshape(2, 1, 1)},
    name="PRelu-channels",
    shape=(3, 2, 3, 3),
)
for safe in ("Sqrt", "Log", "Acosh"):  # on positive numbers
    case(safe, [("Exp", "x", "e"), ("Add", "e one", "p"), (safe, "p", "y")], {"one": np.float32([1.0])})
for small in ("Asin", "Acos", "Atanh", "Tan"):  # between -1 and 1
    case(small, [("Tanh", "x", "t"), ("Mul", "t half", "p"), (small, "p", "y")], {"half": np.float32([0.5])})
one("Clip", {"low": np.float32(-0.5), "high": np.float32(0.7)})
case("Clip-high", [("Clip", "x - high", "y")], {"high": np.float32(-0.2)})
one("Clip", name="Clip-attributes", opset=10, min=-0.5, max=0.7)
for binary in ("Add", "Sub", "Mul", "Div", "Min", "Max", "Sum", "Mean", "Pow"):
    one(binary, {"b": np.float32([2.0, 3.0, 1.0, 2.0])})
    one(binary, {"b": np.float32([[2.0], [3.0], [1.0]])}, name=f"{binary}-rows", opset=13)
case("Min-one", [("Min", "x", "y")])
case("Max-three", [("Max", "x b c", "y")], {"b": f32(3, 4), "c": f32(1, 4)})
case("Div-whole", [("Shape", "x", "s"), ("Div", "s two", "h"), ("Expand", "x h2", "e"), ("Slice", "e zero h axes", "p"),
                   ("ReduceSum", "p", "y")],
     {"two": i64(2, -3), "h2": i64(3, 4), "zero": i64(0, 0), "axes": i64(0, 1)})  # fmt: skip
one("Mod", {"b": np.float32([0.7, 1.1, 0.9, 2.0])}, fmod=1)
case("Mod-whole", [("Shape", "x", "s"), ("Mod", "s three", "m"), ("Cast", "m", "f", {"to": 1}), ("ReduceSum", "f", "g"),
                   ("Mul", "x g", "y")], {"three": i64(-3, 3)})  # fmt: skip
for compare in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"):
    order = "z x" if compare == "Equal" else "x z"
    case(compare, [(compare, "x b", "c"), ("Where", f"c {order}", "y")], {"b": f32(3, 4), "z": f32(4)})
for logic in ("And", "Or", "Xor"):
    case(logic, [("Greater", "x b", "c"), ("Less", "x z", "d"), (logic, "c d", "e"), ("Where", "e x z", "y")],
         {"b": f32(3, 4), "z": f32(4)})  # fmt: skip
case("Not", [("Greater", "x b", "c"), ("Not", "c", "d"), ("Where", "d x b", "y")], {"b": f32(3, 4)})
case("IsNaN", [("Log", "x", "l"), ("IsNaN", "l", "d"), ("Where", "d z x", "y")], {"z": f32(4)})
case(
    "IsInf",
    [("Div", "x z", "l"), ("IsInf", "l", "d"), ("Where", "d z x", "y")],
    {"z": np.float32([0, 1, 0, 2])},
)
for step in ("Floor", "Ceil", "Round", "Sign"):  # no slope of their own
    case(step, [(step, "x", "f"), ("Mul", "f x", "y")])
case("ArgMax", [("ArgMax", "x", "i", {"axis": 1}), ("GatherElements", "x i", "y", {"axis": 1})])
case("ArgMin", [("ArgMin", "x", "i", {"axis": -1, "keepdims": 0}), ("Gather", "t i", "g"), ("Mul", "x g", "y")],
     {"t": f32(4, 4)}, shape=(3, 4))  # fmt: skip
one("CumSum", {"axis": np.array(1, np.int64)})
for whole in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
              "ReduceSumSquare", "ReduceLogSumExp"):  # fmt: skip
    one(whole, {"axes": i64(1, -1)}, shape=(3, 4, 2), opset=18)
    one(whole, {"axes": i64(2)}, name=f"{whole}-flat", shape=(3, 4, 2), opset=18, keepdims=0)
    if whole != "ReduceSum":
        one(whole, name=f"{whole}-attribute", shape=(3, 4, 2), opset=13, axes=[1])
    one(whole, name=f"{whole}-all", opset=18)
one("ReduceSum", name="ReduceSum-attribute", shape=(3, 4, 2), opset=11, axes=[1], keepdims=0)
case("ReduceSum-noop", [("ReduceSum", "x", "y", {"noop_with_empty_axes": 1})])
case("ReduceLogSum", [("Exp", "x", "e"), ("ReduceLogSum", "e axes", "y")], {"axes": i64(1)}, opset=18)
for soft in ("Softmax", "LogSoftmax"):
    one(soft, name=f"{soft}-axis", shape=(3, 4, 2), axis=1)
    one(soft, name=f"{soft}-old", shape=(3, 4, 2), opset=11)
    one(soft, name=f"{soft}-old-axis", shape=(3, 4, 2), opset=11, axis=2)
# shapes
one("Reshape", {"shape": i64(0, 2, -1)})
one("Reshape", {"shape": i64(2, 6)}, name="Reshape-all")
one("Flatten", shape=(3, 2, 2, 2))
one("Flatten", name="Flatten-2", shape=(3, 2, 2, 2), axis=2)
one("Flatten", name="Flatten-0", shape=(3, 2, 2), axis=0)
one("Flatten", name="Flatten-last", shape=(3, 2, 2), axis=-1)
one("Transpose", shape=(3, 2, 4), perm=[0, 2, 1])
one("Transpose", name="Transpose-turned", shape=(3, 2, 4))
one("Squeeze", {"axes": i64(-1)}, shape=(3, 4, 1), opset=13)
one("Squeeze", name="Squeeze-attribute", shape=(3, 1, 4), opset=11, axes=[1])
one("Squeeze", name="Squeeze-all", shape=(3, 1, 4, 1))
one("Unsqueeze", {"axes": i64(0, -1)})
one("Unsqueeze", name="Unsqueeze-attribute", opset=11, axes=[1, 3])
case("Concat", [("Concat", "x b x", "y", {"axis": 1})], {"b": f32(3, 2)})
case("Concat-negative", [("Concat", "x b", "y", {"axis": -1})], {"b": f32(3, 2)})
one("Slice", {"starts": i64(1), "ends": i64(2**31), "axes": i64(1)})
one(
    "Slice",
    {"starts": i64(-1, 0), "ends": i64(-(2**31), 3), "axes": i64(1, 0), "steps": i64(-2, 2)},
    name="Slice-steps",
)
one("Slice", {"starts": i64(0, 1), "ends": i64(2, -1)}, name="Slice-first")
one("Slice", name="Slice-attributes", opset=9, starts=[1], ends=[3], axes=[1])
case("Split", [("Split", "x sizes", "a b", {"axis": 1}), ("Mul", "a a", "c"), ("Concat", "c b", "y", {"axis": 1})],
     {"sizes": i64(1, 3)})  # fmt: skip
case("Split-equal", [("Split", "x", "a b", {"axis": -1}), ("Sub", "a b", "y")], opset=13)
case("Split-number", [("Split", "x", "a b c", {"axis": 1, "num_outputs": 3}), ("Mul", "a b", "d"),
                      ("Concat", "d c", "y", {"axis": 1})],
     shape=(3, 5), opset=18)  # fmt: skip
case("Split-attribute", [("Split", "x", "a b", {"axis": 1, "split": [1, 3]}), ("Mul", "a b", "y")], opset=11)
one("Gather", {"i": np.array([[0, -1], [2, 2]], np.int64)}, axis=1)
case("Gather-number", [("Shape", "x", "s"), ("Gather", "s i", "n"), ("Unsqueeze", "n a", "m"), ("Concat", "m four", "t",
     {"axis": 0}), ("Reshape", "x t", "y")],
     {"i": np.array(0, np.int64), "a": i64(0), "four": i64(2, 2)})  # fmt: skip
case("Gather-scalar", [("Gather", "x i", "y", {"axis": 1})], {"i": np.array(2, np.int64)})
one("GatherElements", {"i": np.array([[0, -1], [2, 2], [1, 0]], np.int64)}, axis=1)
case("Expand", [("Unsqueeze", "x a", "u"), ("Expand", "u s", "y")], {"a": i64(1), "s": i64(2, 1)})
one("Tile", {"n": i64(1, 3)})
case("Shape", [("Shape", "x", "s"), ("Gather", "s i", "n"), ("Concat", "n m", "t", {"axis": 0}),
               ("Reshape", "x t", "y")],
     {"i": i64(0), "m": i64(2, 2)})  # fmt: skip
case("Shape-part", [("Shape", "x", "s", {"start": 1, "end": 3}), ("Concat", "m s", "t", {"axis": 0}),
                    ("Expand", "x t", "y")],
     {"m": i64(2, 3)}, shape=(3, 2, 2))  # fmt: skip
case("Size", [("Size", "x", "s"), ("Cast", "s", "f", {"to": 1}), ("Div", "x f", "y")])
case("ConstantOfShape", [("ConstantOfShape", "s", "c", {"value": helper.make_tensor("v", 1, [1], [2.5])}),
                         ("Mul", "x c", "y")],
     {"s": i64(3, 4)})  # fmt: skip
case("ConstantOfShape-zero", [("ConstantOfShape", "s", "c"), ("Max", "x c", "y")], {"s": i64(1, 4)})
for name, value in {
    "value": helper.make_tensor("v", 1, [4], [1.0, 2.0, 3.0, 4.0]), "value_float": 1.5,
    "value_floats": [1.0, 2.0, 3.0, 4.0],
}.items():  # fmt: skip
    case(f"Constant-{name}", [("Constant", "", "c", {name: value}), ("Mul", "x c", "y")])
case("Constant-ints", [("Constant", "", "c", {"value_ints": [2, 6]}), ("Reshape", "x c", "y")])
case("Cast", [("Cast", "x", "i", {"to": 7}), ("Cast", "i", "f", {"to": 1}), ("Sub", "x f", "y")])
case("CastLike", [("Greater", "x b", "c"), ("CastLike", "c x", "f"), ("Mul", "x f", "y")], {"b": f32(4)})
one("Dropout", opset=13)
one("Dropout", name="Dropout-ratio", opset=10, ratio=0.5)
one("Pad", {"pads": i64(0, 1, 0, 2)})
case("Pad-value", [("Pad", "x pads v", "y")], {"pads": i64(0, 1, 0, -1), "v": np.float32(1.5)})
case(
    "Pad-axes",
    [("Pad", "x pads v axes", "y")],
    {"pads": i64(2, 1), "v": np.float32(0), "axes": i64(-1)},
    opset=18,
)
one("Pad", {"pads": i64(0, 2, 0, 3)}, name="Pad-reflect", mode="reflect")
one("Pad", {"pads": i64(0, 2, 0, 5)}, name="Pad-edge", mode="edge")
one("Pad", {"pads": i64(0, 2, 0, 3)}, name="Pad-wrap", mode="wrap", opset=19)
one("Pad", name="Pad-attributes", opset=9, pads=[0, 1, 0, 2], value=0.5)
one("Trilu", shape=(3, 4, 4))
one("Trilu", {"k": np.array(-1, np.int64)}, name="Trilu-lower", shape=(3, 4, 4), upper=0)
case("Range", [("Range", "a b c", "r"), ("Mul", "x r", "y")],
     {"a": np.array(1, np.float32), "b": np.array(9, np.float32), "c": np.array(2, np.float32)})  # fmt: skip
# layers
one("Gemm", {"b": f32(4, 5), "c": f32(5)})
one("Gemm", {"b": f32(5, 4), "c": f32(3, 1)}, name="Gemm-set", transB=1, alpha=0.5, beta=2.0)
one("Gemm", {"b": f32(3, 5)}, name="Gemm-turned", transA=1)
one("MatMul", {"b": f32(4, 5)})
one("MatMul", {"b": f32(2, 4, 5)}, name="MatMul-stack", shape=(3, 1, 2, 4))
case("Einsum", [("Einsum", "x b", "y", {"equation": "nd,kd->nk"})], {"b": f32(5, 4)})
IMAGE = (2, 4, 7, 8)
for name, settings in {
    "plain": {}, "pads": {"pads": [1, 0, 2, 1]}, "strides": {"strides": [2, 3], "pads": [1, 1, 1, 1]},
    "dilated": {"dilations": [2, 1]}, "upper": {"auto_pad": "SAME_UPPER", "strides": [2, 1]},
    "lower": {"auto_pad": "SAME_LOWER", "strides": [2, 1]}, "valid": {"auto_pad": "VALID"},
}.items():  # fmt: skip
    one("Conv", {"w": f32(6, 4, 3, 2), "b": f32(6)}, name=f"Conv-{name}", shape=IMAGE, **settings)
    if name != "lower":
        pool = {key: value for key, value in settings.items() if key != "dilations"}
        one("MaxPool", name=f"MaxPool-{name}", shape=IMAGE, kernel_shape=[3, 2], **settings)
        one("AveragePool", name=f"AveragePool-{name}", shape=IMAGE, kernel_shape=[3, 2], **pool)
one("Conv", {"w": f32(6, 2, 3, 3)}, name="Conv-groups", shape=IMAGE, group=2)
one("Conv", {"w": f32(4, 1, 3, 3)}, name="Conv-depth", shape=IMAGE, group=4, kernel_shape=[3, 3])
one("Conv", {"w": f32(6, 4, 3), "b": f32(6)}, name="Conv-1d", shape=(2, 4, 9), strides=[2], pads=[1, 2])
one("Conv", {"w": f32(3, 2, 2, 2, 2)}, name="Conv-3d", shape=(2, 2, 4, 5, 4))
one("MaxPool", name="MaxPool-1d", shape=(2, 3, 9), kernel_shape=[3], strides=[2], pads=[1, 1])
one("MaxPool", name="MaxPool-ceil", shape=IMAGE, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
one(
    "AveragePool",
    name="AveragePool-ceil",
    shape=IMAGE,
    kernel_shape=[2, 2],
    strides=[2, 2],
    ceil_mode=1,
    opset=19,
)
one(
    "AveragePool",
    name="AveragePool-counted",
    shape=IMAGE,
    kernel_shape=[3, 3],
    pads=[1, 1, 1, 1],
    count_include_pad=1,
)
one(
    "AveragePool",
    name="AveragePool-uneven",
    shape=IMAGE,
    kernel_shape=[3, 3],
    pads=[0, 1, 1, 1],
    count_include_pad=1,
)
one("AveragePool", name="AveragePool-1d", shape=(2, 3, 9), kernel_shape=[3], strides=[2], pads=[1, 1])
for name, settings in {
    "plain": {}, "strides": {"strides": [2, 3], "pads": [1, 0, 1, 1]},
    "more": {"strides": [2, 2], "output_padding": [1, 1], "pads": [1, 1, 1, 1]},
    "upper": {"strides": [2, 2], "auto_pad": "SAME_UPPER"}, "dilated": {"dilations": [2, 1]},
    "shaped": {"strides": [2, 2], "output_shape": [14, 16]},
}.items():  # fmt: skip
    one(
        "ConvTranspose",
        {"w": f32(4, 3, 3, 3), "b": f32(3)},
        name=f"ConvTranspose-{name}",
        shape=IMAGE,
        **settings,
    )
one("ConvTranspose", {"w": f32(4, 3, 3, 3)}, name="ConvTranspose-groups", shape=IMAGE, group=2)
one("GlobalAveragePool", shape=IMAGE)
one("GlobalMaxPool", shape=IMAGE)
NORM = {"s": f32(4), "b": f32(4), "m": f32(4), "v": np.abs(f32(4)) + 0.1}
one("BatchNormalization", NORM, shape=IMAGE, epsilon=0.01)
one("BatchNormalization", NORM, name="BatchNormalization-rows", opset=9)
one("LayerNormalization", {"s": f32(4), "b": f32(4)})
one(
    "LayerNormalization",
    {"s": f32(3, 4)},
    name="LayerNormalization-axis",
    shape=(2, 3, 4),
    axis=1,
    epsilon=0.01,
)
one("RMSNormalization", {"s": f32(4)}, opset=23, epsilon=0.01)
one("InstanceNormalization", {"s": f32(4), "b": f32(4)}, shape=IMAGE, epsilon=0.01)
one("GroupNormalization", {"s": f32(2), "b": f32(2)}, shape=IMAGE, opset=18, num_groups=2)
one(
    "GroupNormalization",
    {"s": f32(4), "b": f32(4)},
    name="GroupNormalization-channels",
    shape=IMAGE,
    opset=21,
    num_groups=2,
)
one("LpNormalization", axis=1)
one("LpNormalization", name="LpNormalization-1", axis=1, p=1)
one("LRN", shape=IMAGE, size=3, alpha=0.1)
one("DepthToSpace", shape=(2, 8, 3, 2), blocksize=2)
one("DepthToSpace", name="DepthToSpace-CRD", shape=(2, 8, 3, 2), blocksize=2, mode="CRD")
ML = {"domain": "ai.onnx.ml"}
one("Scaler", offset=[0.5, 1.0, -1.0, 0.0], scale=[2.0, 1.0, 0.5, 3.0], **ML)
for norm in ("L1", "L2", "MAX"):
    one("Normalizer", name=f"Normalizer-{norm}", norm=norm, **ML)
for after in ("NONE", "SOFTMAX", "LOGISTIC"):
    case(f"LinearClassifier-{after}", [("LinearClassifier", "x", "label y")], coefficients=f32(12).tolist(),
         intercepts=[0.1, 0.2, 0.3], classlabels_ints=[0, 1, 2], post_transform=after, **ML)  # fmt: skip
one("ArrayFeatureExtractor", {"i": i64(2, 0)}, **ML)
one("LinearRegressor", coefficients=f32(8).tolist(), intercepts=[0.1, 0.2], targets=2, **ML)


def prepared(
    nodes: Sequence[Any], stored: Mapping[str, np.ndarray], shape: tuple[int, ...], opset: int
) -> Any:
    ports = [("x", made.FLOAT, shape)], [("y", made.FLOAT, None)]
    model = made.model(nodes, stored, *ports, opset=opset, others={"ai.onnx.ml": 3})
    feed = Feed(ports=read(model).inputs, form="whole")
    return model, feed, Engine(model.SerializeToString(), ("y",))


@pytest.mark.parametrize("told", CASES)
def test_an_operator_gives_what_onnxruntime_gives_and_its_gradient(told: Case) -> None:
    """Finite differences of onnxruntime in float32 along three directions, to 2 % of the gradient's size."""
    nodes, stored, shape, opset = told  # type: ignore[misc]
    model, feed, engine = prepared(nodes, stored, shape, opset)
    module = _onnx_torch.converted(model, feed, "y")
    rng = np.random.default_rng(11)
    x = rng.normal(size=shape).astype(np.float32)

    def ask(rows: np.ndarray) -> np.ndarray:
        return np.asarray(engine.run({"x": rows.astype(np.float32)})["y"], np.float64)

    wanted = ask(x)
    asked = torch.tensor(x, dtype=torch.float32, device="cpu", requires_grad=True)
    out = module(asked)
    assert tuple(out.shape) == wanted.shape
    np.testing.assert_allclose(out.detach().numpy(), wanted, rtol=2e-5, atol=2e-5)
    weight = rng.normal(size=wanted.shape)
    (gradient,) = torch.autograd.grad(
        (out * torch.tensor(weight, dtype=out.dtype, device="cpu")).sum(), asked
    )
    slope = gradient.double().numpy()
    assert np.abs(slope).max() > 0
    for _ in range(3):
        way = rng.normal(size=shape)
        way /= np.linalg.norm(way)
        step = 4e-3
        rise = ((ask(x + step * way) - ask(x - step * way)) * weight).sum() / (2 * step)
        assert rise == pytest.approx((slope * way).sum(), abs=0.02 * np.linalg.norm(slope) + 1e-3)


def test_every_operator_of_the_table_stands_in_a_case() -> None:
    table = {name.removeprefix("ai.onnx.ml.") for name in _onnx_layers.OPS}
    assert table <= COVERED and len(table) >= 100
