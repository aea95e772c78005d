# SPDX-License-Identifier: Apache-2.0
"""What an ONNX graph says of itself, and the onnxruntime session that runs it. Both come from scanned bytes only."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, final

import numpy as np

from casemate.core import pickles
from casemate.core.errors import HostileArtefact, InvalidData
from casemate.core.extras import lazy, needs
from casemate.core.pickles.archives import data_format
from casemate.core.types import plain_label
from casemate.training.isolation import user_code

onnx = lazy("onnx")
NAME = "the ONNX model"
MAX_ELEMENTS = 2**28  # of a tensor that the graph makes out of nothing: 1 GiB of float32
MAX_SMALL = 2**16  # elements of a tensor that is looked into here
MAX_SECONDS = 600.0  # of one run of a graph with loops
ADVICE = "give it data of the columns and types it was exported for"
# operator -> the inputs that hold sizes, or factors of them
_GROWS = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "Tile": (1,),
    "Pad": (1,),
    "Resize": (2, 3),
    "Upsample": (1,),
}
_PASSES = ("Identity", "Dropout")  # what may stand between the last operator and the output
_FLOATS = ("float16", "float32", "float64", "bfloat16")


@dataclass(frozen=True)
class Port:
    """One input: its name, numpy dtype (``str`` for text) and shape; None is a size that is open."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the graph takes and gives, by the names of its tensors; "" where there is none."""

    inputs: tuple[Port, ...]
    values: str  # numbers a row: probabilities, logits or a prediction
    label: str  # the class itself
    before: str  # what goes into the last softmax or sigmoid
    ends: Literal["", "softmax", "sigmoid"]
    classes: tuple[Any, ...]
    note: str  # which of several outputs was taken


@final
class Held:
    """The bytes of a model with what is made of them once: shared by the targets of it, found again where they travel.

    >>> Held(b"").raw
    b''
    """

    def __init__(self, raw: bytes, prefer: str = "") -> None:
        self.raw, self.prefer = raw, prefer

    def __reduce__(self) -> tuple[Any, ...]:
        return Held, (self.raw, self.prefer)

    @cached_property
    def proto(self) -> Any:
        """The ModelProto."""
        return parsed(self.raw, NAME)

    @cached_property
    def reading(self) -> Reading:
        """What its graph takes and gives."""
        with _sound():
            return read(self.proto, prefer=self.prefer)

    @cached_property
    def engine(self) -> Engine:
        """The session that gives every tensor of the reading."""
        told = self.reading
        names = tuple(dict.fromkeys(filter(None, (told.label, told.values, told.before))))
        with _sound():
            return Engine(with_outputs(self.proto, names), names)


@final
class Engine:
    """A session of onnxruntime on one CPU thread: made when first asked, left behind when the target travels.

    >>> Engine(b"", ("y",)).outputs
    ('y',)
    """

    def __init__(self, raw: bytes, outputs: tuple[str, ...]) -> None:
        self.raw, self.outputs = raw, outputs
        self._session: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Engine, (self.raw, self.outputs)

    def start(self) -> None:
        """Make the session, if it is not there; two threads may both make one: either will do."""
        if self._session is None:
            self._session = self._made()

    def run(self, feed: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Return the outputs by name for one batch."""
        self.start()
        with user_code("the ONNX model", ADVICE):
            if not self.loops:
                found = self._session.run(list(self.outputs), dict(feed))
            else:
                options = needs("onnxruntime").RunOptions()
                watch = threading.Timer(MAX_SECONDS, lambda: setattr(options, "terminate", True))
                watch.daemon = True
                watch.start()
                try:
                    found = self._session.run(list(self.outputs), dict(feed), options)
                finally:
                    watch.cancel()
        return dict(zip(self.outputs, found, strict=True))

    @cached_property
    def loops(self) -> bool:
        """Whether the graph may hold a loop, which alone can go on for ever; names stand in the bytes as they are."""
        return b"Loop" in self.raw or b"Scan" in self.raw

    def _made(self) -> Any:
        runtime = needs("onnxruntime")
        runtime.disable_telemetry_events()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.log_severity_level = 4
        options.add_session_config_entry("session.load_model_format", "ONNX")
        with user_code("onnxruntime's reading of the ONNX model", "export it again, checked by onnx.checker"):
            # without its second try, which would only print to stdout
            return runtime.InferenceSession(
                self.raw, options, providers=["CPUExecutionProvider"], enable_fallback=0
            )


def scanned(raw: bytes, name: str) -> bytes:
    """Return the bytes of a model whose scan is clean.

    Raises:
        HostileArtefact, UnknownArtefact, InvalidData: by what was found in it.
    """
    pickles.refuse(pickles.scan(raw, name=name))
    if data_format(raw) != "ONNX":
        raise InvalidData(f"{name} is no ONNX model; wrap the model object, or give its file to load()")
    return raw


def parsed(raw: bytes, name: str) -> Any:
    """Return the ModelProto of scanned bytes; nothing else is read for it."""
    try:
        model = onnx.load_model_from_string(raw)
        _refuse_growth(model, name)
    except (ImportError, HostileArtefact):
        raise
    except Exception as error:
        told = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InvalidData(
            f"{name} is no sound ONNX model ({told[:200].rstrip('.')}); export it again"
        ) from error
    return model


@contextmanager
def _sound() -> Iterator[None]:
    """Turn what goes wrong in a graph without the parts that its operators need into one clear error."""
    try:
        yield
    except InvalidData:
        raise
    except (IndexError, KeyError, TypeError, ValueError) as error:
        told = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise InvalidData(
            f"{NAME} is not sound: a part that a node needs is missing ({told}); export it again"
        ) from error


def label_of(node: Any) -> str:
    """Return the name of a node, or of what it makes where it has none."""
    name: str = node.name or next(iter(node.output), "")
    return name


def everywhere(graph: Any) -> Iterator[Any]:
    """Yield the nodes of a graph and of the graphs inside it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from everywhere(inner)


def constants(graph: Any) -> dict[str, np.ndarray]:
    """Return the small stored tensors of a graph, and those of its Constant nodes, by name."""
    small = [tensor for tensor in graph.initializer if math.prod(tensor.dims) <= MAX_SMALL]
    found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in small}
    for node in graph.node:
        if node.op_type == "Constant":
            value = attributes(node).get("value")
            if isinstance(value, np.ndarray):
                found[node.output[0]] = value
    return found


def attributes(node: Any) -> dict[str, Any]:
    """Return the attributes of a node as plain values: numbers, texts, lists of them, arrays.

    A graph or another thing that has no plain value stays what it is.
    """
    found: dict[str, Any] = {}
    for item in node.attribute:
        value = onnx.helper.get_attribute_value(item)
        if isinstance(value, onnx.TensorProto):
            value = onnx.numpy_helper.to_array(value)
        elif isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        elif not isinstance(value, (int, float, onnx.GraphProto, onnx.TypeProto, onnx.SparseTensorProto)):
            value = [part.decode("utf-8", "replace") if isinstance(part, bytes) else part for part in value]
        found[item.name] = value
    return found


def _refuse_growth(model: Any, name: str) -> None:
    """Refuse sizes written into the graph that would fill the memory when it is run."""
    known = constants(model.graph)
    for node in everywhere(model.graph):
        for place in _GROWS.get(node.op_type, ()):
            sizes = known.get(node.input[place]) if place < len(node.input) else None
            if sizes is None or not sizes.size or sizes.dtype.kind not in "iuf":
                continue
            n = math.prod(max(1.0, float(size)) for size in sizes.reshape(-1)[:64])
            if not n <= MAX_ELEMENTS:
                raise HostileArtefact(
                    f"{name}: node {label_of(node)!r} ({node.op_type}) makes {n:.3g} elements out of "
                    "nothing; it would fill the memory"
                )


def read(model: Any, *, prefer: str = "") -> Reading:
    """Find out what a graph takes and gives. ``prefer`` is a word that the name of the wanted output holds."""
    graph = model.graph
    stored = {tensor.name for tensor in graph.initializer}
    inputs = tuple(_port(item) for item in graph.input if item.name not in stored)
    if not inputs:
        raise InvalidData("the ONNX model has no input; export it with one")
    made = {name: node for node in graph.node for name in node.output if name}
    numbers, labels, classes = list[str](), list[str](), tuple[Any, ...]()
    for item in graph.output:
        node = made.get(item.name)
        kind = item.type.WhichOneof("value")
        if (
            node is not None and node.op_type == "ZipMap"
        ):  # a dictionary a row: what goes into it says the same
            numbers.insert(0, node.input[0])
            classes = _named_classes(node)
        elif kind in (None, "tensor_type"):
            floats = kind is None or _dtype(item.type.tensor_type.elem_type) in _FLOATS
            (numbers if floats else labels).append(item.name)
    if not numbers and not labels:
        raise InvalidData("the ONNX model returns no tensor of numbers or labels; wrap a predict function")
    likely = [name for name in numbers if prefer and prefer in name.lower()]
    likely += [name for name in numbers if "prob" in name.lower()]
    values = (likely or numbers or [""])[0]
    note = f"of {len(numbers)} outputs {values!r} is taken as the answer" if len(numbers) > 1 else ""
    label = labels[0] if labels else ""
    ends, before = _ending(values, made, _opset(model))
    if not classes:
        classes = _classes(label, model, made)
    return Reading(
        inputs=inputs, values=values, label=label, before=before, ends=ends, classes=classes, note=note
    )


def with_outputs(model: Any, names: tuple[str, ...]) -> bytes:
    """Return the bytes of a model that gives these tensors; the user's own is not changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {item.name: item for item in model.graph.output}
    del copy.graph.output[:]
    for name in names:
        copy.graph.output.append(known.get(name) or onnx.ValueInfoProto(name=name))  # its type is inferred
    raw: bytes = copy.SerializeToString()
    return raw


def _port(item: Any) -> Port:
    if item.type.WhichOneof("value") != "tensor_type":
        raise InvalidData(f"input {item.name!r} of the ONNX model is no tensor; export it with tensor inputs")
    tensor = item.type.tensor_type
    shape = None
    if tensor.HasField("shape"):
        shape = tuple(
            d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in tensor.shape.dim
        )
    return Port(item.name, _dtype(tensor.elem_type), shape)


def _dtype(code: int) -> str:
    if code == onnx.TensorProto.STRING:
        return "str"
    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(code))
    except (KeyError, ValueError, TypeError):
        return f"type {code}"


def _opset(model: Any) -> int:
    found: int = max(
        (item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=1
    )
    return found


def _ending(name: str, made: Mapping[str, Any], opset: int) -> tuple[Literal["", "softmax", "sigmoid"], str]:
    """Return the last operator behind an output, if it is a softmax over classes or a sigmoid, and its input."""
    node = made.get(name)
    while node is not None and node.op_type in _PASSES and node.domain in ("", "ai.onnx"):
        node = made.get(node.input[0])
    if node is None or node.domain not in ("", "ai.onnx"):
        return "", ""
    if node.op_type == "Sigmoid":
        return "sigmoid", node.input[0]
    if node.op_type == "Softmax" and attributes(node).get("axis", -1 if opset >= 13 else 1) in (1, -1):
        return "softmax", node.input[0]
    return "", ""


def _named_classes(node: Any) -> tuple[Any, ...]:
    """Return the labels that a classifier of ai.onnx.ml names."""
    found = attributes(node)
    for name in ("classlabels_int64s", "classlabels_ints", "classlabels_strings"):
        if found.get(name):
            return tuple(plain_label(label) for label in found[name])
    return ()


def _classes(label: str, model: Any, made: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the labels behind a label output: of the classifier that gives it, or of the array it is picked from."""
    stored = constants(model.graph)
    node = made.get(label)
    for _ in range(8):
        if node is None:
            break
        if found := _named_classes(node):
            return found
        if node.op_type in ("ArrayFeatureExtractor", "Gather") and node.input[0] in stored:
            return tuple(plain_label(value) for value in stored[node.input[0]].reshape(-1).tolist())
        node = made.get(node.input[0]) if node.op_type in ("Reshape", "Cast", "Squeeze", *_PASSES) else None
    return ()
