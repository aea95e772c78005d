# SPDX-License-Identifier: Apache-2.0
"""ONNX models made by hand for tests: nodes, stored tensors, inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

FLOAT, DOUBLE, INT64, STRING = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.STRING
Port = tuple[str, int, Sequence[Any] | None]


def model(
    nodes: Sequence[Any],
    stored: Mapping[str, np.ndarray],
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    *,
    opset: int = 17,
    others: Mapping[str, int] | None = None,
) -> Any:
    """A ModelProto; ``others`` are the versions of further operator domains."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(*port) for port in inputs],
        [helper.make_tensor_value_info(*port) for port in outputs],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    used = {"": opset, **(others or {})}
    sets = [helper.make_opsetid(domain, version) for domain, version in used.items()]
    return helper.make_model(graph, opset_imports=sets, ir_version=10 if opset > 20 else 8)


def weights(seed: int, *shapes: Sequence[int]) -> list[np.ndarray]:
    """Normal float32 arrays."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def network(ending: str = "Softmax", *, d: int = 4, k: int = 3, seed: int = 0, rows: Any = "n") -> Any:
    """A network of one hidden layer; ``ending`` is its last operator, "" for logits."""
    w, b, v, c = weights(seed, (d, 8), (8,), (8, k), (k,))
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["hidden"]),
        helper.make_node("Tanh", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "v", "c"], ["logits"]),
    ]
    if ending:
        nodes.append(helper.make_node(ending, ["logits"], ["out"]))
    name = "out" if ending else "logits"
    integers = ending == "ArgMax"
    if integers:
        nodes[-1] = helper.make_node("ArgMax", ["logits"], ["out"], axis=1, keepdims=0)
    shape = [rows] if integers else [rows, k]
    return model(
        nodes,
        {"w": w, "b": b, "v": v, "c": c},
        [("x", FLOAT, [rows, d])],
        [(name, INT64 if integers else FLOAT, shape)],
    )


# ---- trees

MODES = {
    "BRANCH_LEQ": (lambda bar: bar, False),
    "BRANCH_GT": (lambda bar: bar, True),
    "BRANCH_LT": (lambda bar: np.nextafter(np.float32(bar), np.float32(np.inf)), False),
    "BRANCH_GTE": (lambda bar: np.nextafter(np.float32(bar), np.float32(np.inf)), True),
}


def ensemble(trees: list[Any], leaf: Any, mode: str = "BRANCH_LEQ", **said: Any) -> Any:
    """An ensemble of scikit-learn's trees as ONNX; ``leaf(tree, i, k)`` gives (output, weight) pairs of a leaf."""
    shift, turned = MODES[mode]
    part = "target" if "n_targets" in said else "class"
    found: dict[str, list[Any]] = {f"nodes_{name}": [] for name in (
        "treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids")}  # fmt: skip
    found |= {f"{part}_{name}": [] for name in ("treeids", "nodeids", "ids", "weights")}
    for k, tree in enumerate(trees):
        for i in range(tree.node_count):
            end = tree.children_left[i] < 0
            sides = (0, 0) if end else (int(tree.children_left[i]), int(tree.children_right[i]))
            bar = 0.0 if end else float(shift(np.float32(tree.threshold[i])))
            asked = (k, i, max(0, int(tree.feature[i])), "LEAF" if end else mode, bar)
            row = (*asked, *(sides[::-1] if turned else sides))
            for name, value in zip(list(found)[:7], row, strict=True):
                found[name].append(value)
            for output, weight in leaf(tree, i, k) if end else ():
                for name, value in zip(list(found)[7:], (k, i, output, float(weight)), strict=True):
                    found[name].append(value)
    kind = "TreeEnsembleRegressor" if part == "target" else "TreeEnsembleClassifier"
    outputs = ["p"] if part == "target" else ["label", "p"]
    node = helper.make_node(kind, ["x"], outputs, domain="ai.onnx.ml", **found, **said)
    width = 1 if part == "target" else len(said["classlabels_int64s"])
    ports = [("p", FLOAT, ["n", width])]
    ports = ports if part == "target" else [("label", INT64, ["n"]), *ports]
    return model([node], {}, [("x", FLOAT, ["n", 4])], ports, others={"ai.onnx.ml": 3})


def shares(n: int) -> Any:
    """The leaves of one of n classification trees: a share of each class."""
    return lambda tree, i, _: list(enumerate(tree.value[i, 0] / tree.value[i, 0].sum() / n))
