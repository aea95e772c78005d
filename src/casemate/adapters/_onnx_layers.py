# SPDX-License-Identifier: Apache-2.0
"""ONNX operators in torch: products, convolutions, pooling, normalisation, and the linear models of ai.onnx.ml."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from casemate.adapters._onnx_ops import ARITHMETIC, MOVES, Call, Op, Unconvertible
from casemate.core.extras import lazy

torch = lazy("torch")


def _gemm(c: Call) -> Any:
    a, b = (c.x[i].T if c.a.get(name, 0) else c.x[i] for i, name in enumerate(("transA", "transB")))
    out = c.a.get("alpha", 1.0) * (a @ b)
    return out if c.given(2) is None else out + c.a.get("beta", 1.0) * c.x[2]


def _numbers(c: Call, name: str, n: int) -> list[int]:
    return [int(value) for value in c.a.get(name, [1] * n)]


def _ends(c: Call, x: Any, kernel: Sequence[int]) -> list[int]:
    """Return the padding of a window over ``x``: all the begins, then all the ends."""
    n, way = len(kernel), c.a.get("auto_pad", "NOTSET")
    if way == "VALID":
        return [0] * (2 * n)
    if way == "NOTSET":
        return [int(value) for value in c.a.get("pads", [0] * (2 * n))]
    steps, spread = _numbers(c, "strides", n), _numbers(c, "dilations", n)
    begins, ends = [], []
    for size, k, step, d in zip(x.shape[2:], kernel, steps, spread, strict=True):
        total = max(0, (-(-size // step) - 1) * step + (k - 1) * d + 1 - size)
        less, more = total // 2, total - total // 2
        begins.append(less if way == "SAME_UPPER" else more)
        ends.append(more if way == "SAME_UPPER" else less)
    return begins + ends


def _widened(x: Any, pads: Sequence[int], value: float) -> Any:
    """Pad the last dimensions by begins and ends; negative numbers cut."""
    n = len(pads) // 2
    turned = [size for i in reversed(range(n)) for size in (pads[i], pads[n + i])]
    return torch.nn.functional.pad(x, turned, value=value) if any(turned) else x


def _by_rank(family: str, n: int) -> Any:
    if n not in (1, 2, 3):
        raise Unconvertible(f"{n} dimensions")
    return getattr(torch.nn.functional, f"{family}{n}d")


def _conv(c: Call) -> Any:
    x, weight = c.x[0], c.x[1]
    kernel = list(weight.shape[2:])
    n = len(kernel)
    x = _widened(x, _ends(c, x, kernel), 0.0)
    return _by_rank("conv", n)(
        x, weight, c.given(2), stride=_numbers(c, "strides", n), dilation=_numbers(c, "dilations", n),
        groups=c.a.get("group", 1),
    )  # fmt: skip


def _conv_transpose(c: Call) -> Any:
    x, weight = c.x[0], c.x[1]
    kernel = list(weight.shape[2:])
    n = len(kernel)
    steps, spread = _numbers(c, "strides", n), _numbers(c, "dilations", n)
    more = [int(value) for value in c.a.get("output_padding", [0] * n)]
    way, wanted = c.a.get("auto_pad", "NOTSET"), c.a.get("output_shape")
    if wanted is None and way.startswith("SAME"):
        wanted = [size * step for size, step in zip(x.shape[2:], steps, strict=True)]
    out = _by_rank("conv_transpose", n)(
        x, weight, c.given(2), stride=steps, dilation=spread, groups=c.a.get("group", 1)
    )
    if wanted is None:
        pads = [int(value) for value in c.a.get("pads", [0] * (2 * n))] if way == "NOTSET" else [0] * (2 * n)
        cut = [-p for p in pads[:n]] + [extra - p for extra, p in zip(more, pads[n:], strict=True)]
    else:
        cut = [0] * (2 * n)
        for i, (size, full) in enumerate(zip(wanted[-n:], out.shape[2:], strict=True)):
            total = max(0, full + more[i] - int(size))
            less, rest = total // 2, total - total // 2
            begin, end = (less, rest) if way == "SAME_UPPER" else (rest, less)
            cut[i], cut[n + i] = -begin, more[i] - end
    if any(extra > 0 for extra in cut) and c.given(2) is not None:
        raise Unconvertible("output_padding with a bias beyond the edge")
    return _widened(out, cut, 0.0)


def _max_pool(c: Call) -> Any:
    if c.n_outputs > 1 or c.a.get("storage_order", 0):
        raise Unconvertible("the places of the largest values")
    kernel = [int(k) for k in c.a["kernel_shape"]]
    n = len(kernel)
    x, pads = c.x[0], _ends(c, c.x[0], kernel)
    inside = (
        pads[:n]
        if pads[:n] == pads[n:] and all(2 * p <= k for p, k in zip(pads, kernel, strict=False))
        else None
    )
    if inside is None:
        x, inside = _widened(x, pads, float("-inf")), [0] * n
    return _by_rank("max_pool", n)(
        x,
        kernel,
        _numbers(c, "strides", n),
        inside,
        _numbers(c, "dilations", n),
        bool(c.a.get("ceil_mode", 0)),
    )


def _average_pool(c: Call) -> Any:
    kernel = [int(k) for k in c.a["kernel_shape"]]
    n = len(kernel)
    if any(d != 1 for d in _numbers(c, "dilations", n)):
        raise Unconvertible("dilations")
    pool, x, pads = _by_rank("avg_pool", n), c.x[0], _ends(c, c.x[0], kernel)
    steps, ceil, counted = (
        _numbers(c, "strides", n),
        bool(c.a.get("ceil_mode", 0)),
        bool(c.a.get("count_include_pad", 0)),
    )
    if pads[:n] == pads[n:] and all(2 * p <= k for p, k in zip(pads, kernel, strict=False)):
        return pool(x, kernel, steps, pads[:n], ceil, counted)
    out = pool(_widened(x, pads, 0.0), kernel, steps, 0, ceil)
    return out if counted else out / pool(_widened(torch.ones_like(x), pads, 0.0), kernel, steps, 0, ceil)


def _everywhere(c: Call, largest: bool) -> Any:
    axes = list(range(2, c.x[0].ndim))
    return c.x[0].amax(axes, keepdim=True) if largest else c.x[0].mean(axes, keepdim=True)


def _batch_norm(c: Call) -> Any:
    if c.a.get("training_mode", 0) or c.n_outputs > 1:
        raise Unconvertible("training_mode=1")
    x, scale, bias, mean, variance = c.x
    return torch.nn.functional.batch_norm(x, mean, variance, scale, bias, eps=c.a.get("epsilon", 1e-5))


def _standardised(x: Any, axes: Sequence[int], epsilon: float) -> Any:
    centred = x - x.mean(list(axes), keepdim=True)
    return centred / (centred.square().mean(list(axes), keepdim=True) + epsilon).sqrt()


def _layer_norm(c: Call) -> Any:
    x, axis = c.x[0], c.a.get("axis", -1) % c.x[0].ndim
    out = _standardised(x, range(axis, x.ndim), c.a.get("epsilon", 1e-5)) * c.x[1]
    return out if c.given(2) is None else out + c.x[2]


def _rms_norm(c: Call) -> Any:
    x, axis = c.x[0], c.a.get("axis", -1) % c.x[0].ndim
    size = x.square().mean(list(range(axis, x.ndim)), keepdim=True)
    return x / (size + c.a.get("epsilon", 1e-5)).sqrt() * c.x[1]


def _channels(value: Any, x: Any) -> Any:
    return value.reshape(1, -1, *[1] * (x.ndim - 2))


def _instance_norm(c: Call) -> Any:
    x = c.x[0]
    out = _standardised(x, range(2, x.ndim), c.a.get("epsilon", 1e-5))
    return out * _channels(c.x[1], x) + _channels(c.x[2], x)


def _group_norm(c: Call) -> Any:
    x, groups = c.x[0], c.a["num_groups"]
    parts = x.reshape(x.shape[0], groups, -1)
    out = _standardised(parts, (2,), c.a.get("epsilon", 1e-5)).reshape(x.shape)
    scale, bias = (  # one a group in opset 18, one a channel from 21 on
        value.repeat_interleave(x.shape[1] // groups) if len(value) == groups else value for value in c.x[1:3]
    )
    return out * _channels(scale, x) + _channels(bias, x)


def _lp_norm(c: Call) -> Any:
    norm = torch.linalg.vector_norm(c.x[0], ord=c.a.get("p", 2), dim=c.a.get("axis", -1), keepdim=True)
    return c.x[0] / norm


def _local_response(c: Call) -> Any:
    return torch.nn.functional.local_response_norm(
        c.x[0], c.a["size"], c.a.get("alpha", 1e-4), c.a.get("beta", 0.75), c.a.get("bias", 1.0)
    )


def _depth_to_space(c: Call) -> Any:
    n, d, h, w = c.x[0].shape
    b = c.a["blocksize"]
    if c.a.get("mode", "DCR") == "CRD":
        out = c.x[0].reshape(n, d // b**2, b, b, h, w).permute(0, 1, 4, 2, 5, 3)
    else:
        out = c.x[0].reshape(n, b, b, d // b**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return out.reshape(n, d // b**2, h * b, w * b)


# ---- ai.onnx.ml: what scikit-learn's linear models and scalers become


def _row(c: Call, name: str) -> Any:
    return torch.tensor(list(c.a[name]), dtype=c.dtype, device=c.x[0].device)


def _scaler(c: Call) -> Any:
    return (c.x[0].to(c.dtype) - _row(c, "offset")) * _row(c, "scale")


def _linear(c: Call, name: str) -> Any:
    x = c.x[0].to(c.dtype)
    out = x @ _row(c, "coefficients").reshape(-1, x.shape[1]).T
    return out + _row(c, name) if name in c.a else out


def _linear_classifier(c: Call) -> Any:
    raw, after = _linear(c, "intercepts"), c.a.get("post_transform", "NONE")
    if raw.shape[1] < 2 or after not in ("NONE", "SOFTMAX", "LOGISTIC"):
        raise Unconvertible(f"post_transform={after} of {raw.shape[1]} scores")
    scores = {"NONE": lambda z: z, "SOFTMAX": lambda z: z.softmax(1), "LOGISTIC": torch.sigmoid}[after](raw)
    return None, scores  # the labels are the argmax, which no gradient passes


def _linear_regressor(c: Call) -> Any:
    if c.a.get("post_transform", "NONE") != "NONE":
        raise Unconvertible(f"post_transform={c.a['post_transform']}")
    return _linear(c, "intercepts")


def _normalizer(c: Call) -> Any:
    x, norm = c.x[0], c.a.get("norm", "MAX")
    size = {
        "MAX": lambda: x.amax(1, keepdim=True),
        "L1": lambda: x.abs().sum(1, keepdim=True),
        "L2": lambda: x.square().sum(1, keepdim=True).sqrt(),
    }[norm]()
    return x / torch.where(size == 0, torch.ones_like(size), size)


LAYERS: dict[str, Op] = {
    "Gemm": _gemm, "MatMul": lambda c: torch.matmul(c.x[0], c.x[1]),
    "Einsum": lambda c: torch.einsum(c.a["equation"], *c.x),
    "Conv": _conv, "ConvTranspose": _conv_transpose, "MaxPool": _max_pool, "AveragePool": _average_pool,
    "GlobalAveragePool": lambda c: _everywhere(c, False), "GlobalMaxPool": lambda c: _everywhere(c, True),
    "BatchNormalization": _batch_norm, "LayerNormalization": _layer_norm, "RMSNormalization": _rms_norm,
    "InstanceNormalization": _instance_norm, "GroupNormalization": _group_norm, "LpNormalization": _lp_norm,
    "LRN": _local_response, "DepthToSpace": _depth_to_space,
    "ai.onnx.ml.Scaler": _scaler, "ai.onnx.ml.LinearClassifier": _linear_classifier,
    "ai.onnx.ml.ArrayFeatureExtractor": lambda c: c.x[0].index_select(-1, c.x[1].reshape(-1).long()),
    "ai.onnx.ml.LinearRegressor": _linear_regressor, "ai.onnx.ml.Normalizer": _normalizer,
}  # fmt: skip
OPS: dict[str, Op] = {**ARITHMETIC, **MOVES, **LAYERS}
