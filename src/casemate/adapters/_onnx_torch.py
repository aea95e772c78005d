# SPDX-License-Identifier: Apache-2.0
"""ONNX graphs as torch modules: the operators one after the other, by the table of _onnx_layers.OPS.

The module is a copy that gives gradients. It is believed only as far as it gave what onnxruntime gave:
:func:`compared`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from casemate.adapters._onnx_feed import Feed
from casemate.adapters._onnx_layers import OPS
from casemate.adapters._onnx_model import Engine, attributes, label_of, with_outputs
from casemate.adapters._onnx_ops import Call, Unconvertible
from casemate.core.extras import lazy

torch = lazy("torch")
onnx = lazy("onnx")
TOLERANCE = 1e-4  # of the largest value that onnxruntime gave
OLDEST = 7  # before it, broadcasting and shapes followed other rules


@dataclass(frozen=True)
class Step:
    """One node: the operator's name in the table, the names of its tensors, and what is not used behind it."""

    op: str
    node: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    last: tuple[str, ...]


@cache
def _graph_class() -> Any:
    base: Any = torch.nn.Module

    class Graph(base):  # type: ignore[misc]  # torch is Any here
        """The steps of a graph; ``rows`` is how many rows it takes at once, None for any number."""

        __qualname__ = "Graph"

        def __init__(
            self,
            steps: tuple[Step, ...],
            stored: Mapping[str, Any],
            feed: Feed,
            output: str,
            opset: int,
            rows: int | None,
        ) -> None:
            super().__init__()
            self.steps, self.feed, self.output, self.opset, self.rows = steps, feed, output, opset, rows
            self.places = {}
            for i, (name, value) in enumerate(stored.items()):
                self.places[name] = f"stored_{i}"
                if value.is_floating_point():
                    self.register_parameter(f"stored_{i}", torch.nn.Parameter(value, requires_grad=False))
                else:
                    self.register_buffer(f"stored_{i}", value)

        def forward(self, x: Any) -> Any:
            if self.rows is None:
                return self.traced(x)[self.output]
            spare = -len(x) % self.rows  # the last batch is filled up with its last row
            full = torch.cat([x, x[-1:].expand(spare, *x.shape[1:])]) if spare else x
            parts = [self.traced(part)[self.output] for part in full.split(self.rows)]
            return torch.cat(parts)[: len(x)]

        def traced(self, x: Any, *, keep: bool = False) -> dict[str, Any]:
            """Return the tensors of one batch by name; ``keep``: also those that nothing needs any more."""
            known = {name: getattr(self, place) for name, place in self.places.items()}
            known |= self.feed.tensors(x)
            # a module that was made double works in double throughout, also where the graph says float32
            wide = x.dtype == torch.float64 and dtype_of(self.feed) != torch.float64
            dtype = torch.float64 if wide else torch.float32
            for step in self.steps:
                try:
                    given = tuple(known[name] if name else None for name in step.inputs)
                    made = OPS[step.op](Call(given, step.attributes, self.opset, len(step.outputs), dtype))
                except Unconvertible as why:
                    raise Unconvertible(f"{_named(step.op, step.node)} uses {why}") from why
                except Exception as error:
                    told = str(error).split("\n")[0][:120]
                    raise Unconvertible(f"{_named(step.op, step.node)} failed in torch ({told})") from error
                known.update(zip(step.outputs, made if isinstance(made, tuple) else (made,), strict=False))
                for name in () if keep else step.last:
                    known.pop(name, None)
            return known

    return Graph


def __getattr__(name: str) -> Any:
    if name == "Graph":
        return _graph_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def converted(model: Any, feed: Feed, output: str, *, rows: int | None = None) -> Any:
    """Return a graph as a frozen torch module from encoded rows to the tensor ``output``.

    Raises:
        Unconvertible: an operator that is not in the table, or an opset before 7.
    """
    graph = model.graph
    opset = max(
        (item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=OLDEST
    )
    if opset < OLDEST:
        raise Unconvertible(f"opset {opset} (before {OLDEST})")
    if not feed.differentiable:
        raise Unconvertible("text as input")
    needed, nodes = {output}, []
    for node in reversed(graph.node):  # sorted: what a node needs stands before it
        if needed & set(node.output):
            needed |= set(node.input)
            nodes.append(node)
    for node in nodes:
        name = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
        if name not in OPS and name != "Constant":
            raise Unconvertible(f"{_named(name, label_of(node))}, which is not converted to torch")
    stored = {t.name: _tensor(onnx.numpy_helper.to_array(t)) for t in graph.initializer if t.name in needed}
    steps, later = list[Step](), {output}
    for node in nodes:  # from the end: a tensor met here first is used here last
        found = attributes(node)
        if node.op_type == "Constant":
            stored[node.output[0]] = _constant(found, node)
            continue
        if node.op_type == "Cast":
            found["to"] = str(onnx.helper.tensor_dtype_to_np_dtype(found["to"]))
        last = tuple(
            name for name in {*node.input, *node.output} if name and name not in later and name not in stored
        )
        later |= {*node.input, *node.output}
        name = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
        outputs = tuple(node.output)
        while outputs and not outputs[-1]:
            outputs = outputs[:-1]
        steps.append(Step(name, label_of(node), tuple(node.input), outputs, found, last))
    return _graph_class()(tuple(steps[::-1]), stored, feed, output, opset, rows).eval()


def compared(module: Any, model: Any, feed: Feed, wanted: np.ndarray, x: np.ndarray) -> str:
    """Return why the module is not to be believed; "" if it gave what onnxruntime gave (``wanted``) on rows ``x``."""
    rows = torch.tensor(x, dtype=dtype_of(feed), device="cpu")
    asked = rows.clone().requires_grad_()
    try:
        out = module(asked)
    except Unconvertible as why:
        return str(why)
    found = out.detach().double().numpy()
    if found.shape != wanted.shape:
        return f"the converted graph gives shape {found.shape}, onnxruntime {wanted.shape}"
    if not out.requires_grad:
        return "no gradient reaches the input"
    far = _far(found, wanted)
    if far <= TOLERANCE:
        return ""
    where = _first_difference(module, model, feed, x[: module.rows or 4])
    return f"the converted graph is {far:.1g} off what onnxruntime gives{where}"


def dtype_of(feed: Feed) -> Any:
    """Return the torch dtype that rows have on their way into a graph; whole numbers travel as float32."""
    return getattr(torch, feed.ports[0].dtype) if feed.ports[0].dtype.startswith("float") else torch.float32


def _far(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return the largest difference in units of the largest finite value, at least 0.01."""
    finite = np.isfinite(wanted)
    if not np.array_equal(finite, np.isfinite(found)):
        return float("inf")
    if not finite.any():
        return 0.0
    scale = max(1e-2, float(np.abs(wanted[finite]).max()))
    return float(np.abs(found - wanted)[finite].max()) / scale


def _first_difference(module: Any, model: Any, feed: Feed, x: np.ndarray) -> str:
    """Name the first node whose output differs."""
    names = tuple(name for step in module.steps for name in step.outputs if name)
    try:
        true = Engine(with_outputs(model, names), names).run(feed.arrays(x))
    except Exception:  # noqa: BLE001 - a graph that cannot show its inside is no worse for it
        return ""
    with torch.no_grad():
        ours = module.traced(torch.tensor(x, dtype=dtype_of(feed), device="cpu"), keep=True)
    for step in module.steps:
        for name in step.outputs:
            wanted, found = np.asarray(true.get(name)), ours.get(name)
            if found is None or wanted.dtype.kind not in "fiu":
                continue
            same = tuple(found.shape) == wanted.shape
            if not same or _far(found.double().numpy(), wanted.astype(np.float64)) > TOLERANCE:
                return f", first at {_named(step.op, step.node)}"
    return ""


def _named(op: str, node: str) -> str:
    return f"operator {op} (node {node!r})"


def _tensor(array: np.ndarray) -> Any:
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise Unconvertible(f"a stored tensor of {array.dtype}")
    wide = array.astype(np.int64) if array.dtype.name in ("uint16", "uint32", "uint64") else array
    return torch.from_numpy(np.array(wide))  # a copy that may be written to


def _constant(found: Mapping[str, Any], node: Any) -> Any:
    for name, value in found.items():
        if name in ("value", "value_float", "value_floats", "value_int", "value_ints"):
            floats = name.startswith("value_float")
            kind = np.float32 if floats else np.int64 if name.startswith("value_int") else None
            return _tensor(np.asarray(value, kind))
    raise Unconvertible(f"{_named('Constant', label_of(node))} without numbers")
