# SPDX-License-Identifier: Apache-2.0
"""The two torch modules that Casemate puts around a model: standardised inputs, outputs as logits.

They are classes of this file, so they pickle by name, yet are made when first asked for: without torch the file
imports all the same.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

from casemate.core.errors import InvalidData
from casemate.core.extras import lazy

torch = lazy("torch")
Outputs = Literal["logits", "probabilities"]


def as_logits(raw: Any, outputs: Outputs, floor: float | None = None) -> Any:
    """Return logits (n, classes) from what a classifier returns: (n, classes), or (n,) and (n, 1) for two classes.

    A single output z stands for the logits [0, z]; probabilities become their logarithm, kept finite at the
    smallest positive number of their dtype (or ``floor``). Gradients pass.

    >>> as_logits(torch.tensor([2.0, -1.0]), "logits").tolist()
    [[0.0, 2.0], [0.0, -1.0]]
    """
    flat = raw[:, None] if raw.ndim == 1 else raw  # (n, outputs)
    if outputs == "probabilities":
        if flat.shape[1] == 1:
            flat = torch.cat([1.0 - flat, flat], 1)
        return flat.clamp_min(torch.finfo(flat.dtype).tiny if floor is None else floor).log()
    return torch.cat([torch.zeros_like(flat), flat], 1) if flat.shape[1] == 1 else flat


def check_output(raw: Any, n: int) -> Any:
    """Return the module's output if it is one floating-point tensor (n,) or (n, outputs)."""
    if not isinstance(raw, torch.Tensor):
        raise InvalidData(
            f"the module must return one tensor of (n, outputs); it returned {type(raw).__name__}"
        )
    if raw.ndim not in (1, 2) or len(raw) != n or not raw.is_floating_point():
        raise InvalidData(
            f"the module must return floats of shape ({n}, outputs) for {n} rows; "
            f"it returned {tuple(raw.shape)} of {raw.dtype}"
        )
    return raw


@cache
def _classes() -> dict[str, Any]:
    base: Any = torch.nn.Module

    class Standardise(base):
        """``(x - mean) / scale`` with fixed buffers."""

        __qualname__ = "Standardise"

        def __init__(self, mean: Any, scale: Any) -> None:
            super().__init__()
            self.register_buffer("mean", mean)
            self.register_buffer("scale", scale)

        def forward(self, x: Any) -> Any:
            return (x - self.mean) / self.scale

    class Logits(base):
        """A model from encoded inputs of any float dtype to logits (n, classes); (n, 1) values for regression."""

        __qualname__ = "Logits"

        def __init__(self, model: Any, outputs: Outputs, dtype: Any, regression: bool) -> None:
            super().__init__()
            self.model, self.outputs, self.dtype, self.regression = model, outputs, dtype, regression

        def forward(self, x: Any) -> Any:
            raw = check_output(self.model(x.to(self.dtype)), len(x))
            if self.regression:
                return raw[:, None] if raw.ndim == 1 else raw
            return as_logits(raw, self.outputs)

    return {"Standardise": Standardise, "Logits": Logits}


def __getattr__(name: str) -> Any:
    if name in ("Standardise", "Logits"):
        return _classes()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
