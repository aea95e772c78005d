# SPDX-License-Identifier: Apache-2.0
"""ONNX operators in torch: arithmetic, reductions, and what only moves numbers about. Layers: see _onnx_layers.py.

Each takes a :class:`Call` and returns a tensor, or a tuple of them. The meaning is that of the published operator
schemas (onnx/docs/Operators.md) from opset 7 on; what changed between opsets is read where it is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from casemate.core.extras import lazy

torch = lazy("torch")


class Unconvertible(Exception):
    """An operator, or a use of one, that has no counterpart here: it becomes a caveat, not an error of the user's."""


@dataclass(frozen=True)
class Call:
    """One node at work: its inputs (None where one is left out), attributes, opset and number of outputs."""

    x: tuple[Any, ...]
    a: Mapping[str, Any]
    opset: int
    n_outputs: int
    dtype: Any  # what float32 means: float64 in a module that was made double

    def given(self, place: int) -> Any:
        """Return an optional input, or None."""
        return self.x[place] if place < len(self.x) else None

    def ints(self, name: str, place: int) -> list[int] | None:
        """Return whole numbers that older opsets hold in an attribute and newer ones in an input."""
        if name in self.a:
            return [int(value) for value in self.a[name]]
        found = self.given(place)
        return None if found is None else [int(value) for value in found.reshape(-1).tolist()]


Op = Callable[[Call], Any]


def _unary(name: str) -> Op:
    return lambda c: getattr(torch, name)(c.x[0])


def _binary(name: str) -> Op:
    return lambda c: getattr(torch, name)(c.x[0], c.x[1])


def _folded(name: str) -> Op:
    def fold(c: Call) -> Any:
        total = c.x[0]
        for other in c.x[1:]:
            total = getattr(torch, name)(total, other)
        return total

    return fold


def _div(c: Call) -> Any:
    whole = not c.x[0].is_floating_point()
    return torch.div(c.x[0], c.x[1], rounding_mode="trunc" if whole else None)


def _mod(c: Call) -> Any:
    return torch.fmod(c.x[0], c.x[1]) if c.a.get("fmod", 0) else torch.remainder(c.x[0], c.x[1])


def _clip(c: Call) -> Any:
    low, high = c.a.get("min", c.given(1)), c.a.get("max", c.given(2))
    out = c.x[0]
    out = out if low is None else torch.maximum(out, torch.as_tensor(low, dtype=out.dtype, device=out.device))
    return (
        out if high is None else torch.minimum(out, torch.as_tensor(high, dtype=out.dtype, device=out.device))
    )


def _selu(c: Call) -> Any:
    alpha, gamma = c.a.get("alpha", 1.6732632423543772), c.a.get("gamma", 1.0507009873554805)
    x = c.x[0]
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(x.clamp_max(0)))


def _elu(c: Call) -> Any:
    x = c.x[0]
    return torch.where(x > 0, x, c.a.get("alpha", 1.0) * torch.expm1(x.clamp_max(0)))


def _celu(c: Call) -> Any:
    return torch.nn.functional.celu(c.x[0], c.a.get("alpha", 1.0))


def _gelu(c: Call) -> Any:
    return torch.nn.functional.gelu(c.x[0], approximate=c.a.get("approximate", "none"))


def _hard_sigmoid(c: Call) -> Any:
    return (c.a.get("alpha", 0.2) * c.x[0] + c.a.get("beta", 0.5)).clamp(0, 1)


def _hard_swish(c: Call) -> Any:
    return c.x[0] * (c.x[0] / 6 + 0.5).clamp(0, 1)


def _prelu(c: Call) -> Any:
    return torch.where(c.x[0] < 0, c.x[1] * c.x[0], c.x[0])


def _softmax(log: bool) -> Op:
    def soft(c: Call) -> Any:
        x, act = c.x[0], torch.log_softmax if log else torch.softmax
        if c.opset >= 13:
            return act(x, c.a.get("axis", -1))
        axis = c.a.get("axis", 1) % x.ndim  # before opset 13 all that stands behind the axis is one
        return act(x.reshape(*x.shape[:axis], -1), -1).reshape(x.shape)

    return soft


# ---- reductions


def _reduced(function: Callable[[Any, list[int], bool], Any]) -> Op:
    def reduce(c: Call) -> Any:
        axes, keep = c.ints("axes", 1), bool(c.a.get("keepdims", 1))
        if not axes:
            if c.a.get("noop_with_empty_axes", 0):
                return c.x[0]
            axes = list(range(c.x[0].ndim))
        return function(c.x[0], axes, keep)

    return reduce


def _product(x: Any, axes: list[int], keep: bool) -> Any:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _arg(name: str) -> Op:
    def arg(c: Call) -> Any:
        if c.a.get("select_last_index", 0):
            raise Unconvertible("select_last_index")
        return getattr(torch, name)(c.x[0], c.a.get("axis", 0), bool(c.a.get("keepdims", 1)))

    return arg


def _cumsum(c: Call) -> Any:
    if c.a.get("exclusive", 0) or c.a.get("reverse", 0):
        raise Unconvertible("an exclusive or reversed sum")
    return torch.cumsum(c.x[0], int(c.x[1]))


# ---- shapes


def _reshape(c: Call) -> Any:
    x, sizes = c.x[0], c.ints("shape", 1) or []
    if not c.a.get("allowzero", 0):
        sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
    return x.reshape(sizes)


def _flatten(c: Call) -> Any:
    x, axis = c.x[0], c.a.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _transpose(c: Call) -> Any:
    return c.x[0].permute(*c.a.get("perm", range(c.x[0].ndim)[::-1]))


def _squeeze(c: Call) -> Any:
    x, axes = c.x[0], c.ints("axes", 1)
    axes = (
        [i for i, size in enumerate(x.shape) if size == 1]
        if axes is None
        else [axis % x.ndim for axis in axes]
    )
    return x.reshape([size for i, size in enumerate(x.shape) if i not in axes])


def _unsqueeze(c: Call) -> Any:
    x, axes = c.x[0], c.ints("axes", 1) or []
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _slice(c: Call) -> Any:
    x, starts, ends = c.x[0], c.ints("starts", 1) or [], c.ints("ends", 2) or []
    axes = c.ints("axes", 3) or list(range(len(starts)))
    steps = c.ints("steps", 4) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        places = range(*slice(start, end, step).indices(x.shape[axis]))
        x = x.narrow(axis, places.start, len(places)) if step == 1 else _picked(x, axis, places)
    return x


def _picked(x: Any, axis: int, places: Sequence[int]) -> Any:
    return x.index_select(axis, torch.tensor(list(places), dtype=torch.int64, device=x.device))


def _split(c: Call) -> Any:
    axis = c.a.get("axis", 0)
    sizes, n = c.ints("split", 1), c.x[0].shape[axis]
    if sizes is None:
        part = -(-n // int(c.a.get("num_outputs", c.n_outputs)))
        sizes = [min(part, n - start) for start in range(0, n, part)]
    return torch.split(c.x[0], sizes, axis)


def _gather(c: Call) -> Any:
    x, axis = c.x[0], c.a.get("axis", 0) % c.x[0].ndim
    places = c.x[1].long()
    places = torch.where(places < 0, places + x.shape[axis], places)
    shape = (*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])
    return x.index_select(axis, places.reshape(-1)).reshape(shape)


def _gather_elements(c: Call) -> Any:
    axis = c.a.get("axis", 0)
    places = torch.where(c.x[1] < 0, c.x[1] + c.x[0].shape[axis], c.x[1])
    return torch.gather(c.x[0], axis, places)


def _expand(c: Call) -> Any:
    return c.x[0].expand(torch.broadcast_shapes(c.x[0].shape, tuple(c.ints("shape", 1) or [])))


def _shape(c: Call) -> Any:
    sizes = list(c.x[0].shape)[c.a.get("start", 0) : c.a.get("end")]
    return torch.tensor(sizes, dtype=torch.int64, device=c.x[0].device)


def _filled(c: Call) -> Any:
    value = c.a.get("value")
    dtype = torch.float32 if value is None else getattr(torch, str(value.dtype))
    fill = 0.0 if value is None else value.reshape(-1)[0].item()
    return torch.full(c.ints("shape", 0) or [], fill, dtype=dtype, device=c.x[0].device)


def _cast(c: Call) -> Any:
    return as_kind(c.x[0], str(c.a["to"]), c.dtype)


def as_kind(x: Any, name: str, working: Any) -> Any:
    """Cast to a numpy dtype name; float32 stands for ``working``."""
    if name not in _KINDS:
        raise Unconvertible(f"a cast to {name}")
    wanted = getattr(torch, name)
    if x.is_floating_point() and wanted == torch.float32 and working == torch.float64:
        wanted = working
    return x.to(wanted)


_KINDS = ("float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool")


def _pad(c: Call) -> Any:
    x, pads, mode = c.x[0], c.ints("pads", 1) or [], c.a.get("mode", "constant")
    axes = [axis % x.ndim for axis in c.ints("axes", 3) or range(len(pads) // 2)]
    for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        if mode == "constant":
            fill = c.given(2)
            value = c.a.get("value", 0.0) if fill is None else fill.item()
            ends = [0, 0] * (x.ndim - 1 - axis) + [before, after]
            x = torch.nn.functional.pad(x, ends, value=value)
        else:
            x = _picked(
                x, axis, [_inside(i, x.shape[axis], mode) for i in range(-before, x.shape[axis] + after)]
            )
    return x


def _inside(place: int, n: int, mode: str) -> int:
    if mode == "edge":
        return min(max(place, 0), n - 1)
    if mode == "wrap":
        return place % n
    if mode == "reflect":
        turn = place % max(1, 2 * n - 2)
        return min(turn, max(0, 2 * n - 2 - turn))
    raise Unconvertible(f"mode {mode!r}")


def _trilu(c: Call) -> Any:
    k = 0 if c.given(1) is None else int(c.x[1])
    return torch.triu(c.x[0], k) if c.a.get("upper", 1) else torch.tril(c.x[0], k)


def _range(c: Call) -> Any:
    start, limit, step = (part.item() for part in c.x)
    return torch.arange(start, limit, step, dtype=c.x[0].dtype, device=c.x[0].device)


def _dropout(c: Call) -> Any:
    if c.given(2) is not None and bool(c.x[2]):
        raise Unconvertible("training_mode=1")
    return c.x[0]


ARITHMETIC: dict[str, Op] = {
    "Add": _binary("add"), "Sub": _binary("sub"), "Mul": _binary("mul"), "Div": _div, "Mod": _mod,
    "Pow": lambda c: torch.pow(c.x[0], c.x[1]).to(c.x[0].dtype),
    "Min": _folded("minimum"), "Max": _folded("maximum"), "Sum": _folded("add"),
    "Mean": lambda c: _folded("add")(c) / len(c.x),
    **{name: _unary(name.lower()) for name in (
        "Sqrt", "Neg", "Abs", "Exp", "Log", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Tan", "Asin", "Acos",
        "Atan", "Sinh", "Cosh", "Tanh", "Asinh", "Acosh", "Atanh", "Sigmoid", "Relu", "Reciprocal", "Erf", "IsNaN",
        "IsInf")},
    "Equal": _binary("eq"), "Greater": _binary("gt"), "GreaterOrEqual": _binary("ge"), "Less": _binary("lt"),
    "LessOrEqual": _binary("le"), "And": _binary("logical_and"), "Or": _binary("logical_or"),
    "Xor": _binary("logical_xor"), "Not": _unary("logical_not"),
    "Where": lambda c: torch.where(c.x[0].bool(), c.x[1], c.x[2]),
    "LeakyRelu": lambda c: torch.nn.functional.leaky_relu(c.x[0], c.a.get("alpha", 0.01)),
    "ThresholdedRelu": lambda c: torch.where(c.x[0] > c.a.get("alpha", 1.0), c.x[0], torch.zeros_like(c.x[0])),
    "Elu": _elu, "Selu": _selu, "Celu": _celu, "Gelu": _gelu, "PRelu": _prelu, "Clip": _clip,
    "HardSigmoid": _hard_sigmoid, "HardSwish": _hard_swish,
    "Softplus": lambda c: torch.logaddexp(c.x[0], torch.zeros_like(c.x[0])),
    "Softsign": lambda c: c.x[0] / (1 + c.x[0].abs()),
    "Mish": lambda c: torch.nn.functional.mish(c.x[0]),
    "Swish": lambda c: c.x[0] * torch.sigmoid(c.a.get("alpha", 1.0) * c.x[0]),
    "Softmax": _softmax(log=False), "LogSoftmax": _softmax(log=True),
    "ReduceMean": _reduced(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "ReduceSum": _reduced(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    "ReduceMax": _reduced(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    "ReduceMin": _reduced(lambda x, axes, keep: x.amin(axes, keepdim=keep)),
    "ReduceProd": _reduced(_product),
    "ReduceL1": _reduced(lambda x, axes, keep: x.abs().sum(axes, keepdim=keep)),
    "ReduceL2": _reduced(lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt()),
    "ReduceSumSquare": _reduced(lambda x, axes, keep: x.square().sum(axes, keepdim=keep)),
    "ReduceLogSum": _reduced(lambda x, axes, keep: x.sum(axes, keepdim=keep).log()),
    "ReduceLogSumExp": _reduced(lambda x, axes, keep: x.logsumexp(axes, keepdim=keep)),
    "ArgMax": _arg("argmax"), "ArgMin": _arg("argmin"), "CumSum": _cumsum,
}  # fmt: skip
MOVES: dict[str, Op] = {
    "Reshape": _reshape, "Flatten": _flatten, "Transpose": _transpose, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze,
    "Concat": lambda c: torch.cat(list(c.x), c.a["axis"]),
    "Slice": _slice, "Split": _split, "Gather": _gather, "GatherElements": _gather_elements, "Expand": _expand,
    "Tile": lambda c: c.x[0].repeat(c.ints("repeats", 1)),
    "Shape": _shape, "ConstantOfShape": _filled, "Cast": _cast,
    "Size": lambda c: torch.tensor(c.x[0].numel(), dtype=torch.int64, device=c.x[0].device),
    "CastLike": lambda c: c.x[0].to(c.x[1].dtype),
    "Identity": lambda c: c.x[0], "Dropout": _dropout, "Pad": _pad, "Trilu": _trilu, "Range": _range,
}  # fmt: skip
