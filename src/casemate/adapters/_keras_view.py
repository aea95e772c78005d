# SPDX-License-Identifier: Apache-2.0
"""A copy of a Keras model as a torch module, its last softmax or sigmoid taken off; the user's model stays as it is."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from casemate.core.errors import InvalidData
from casemate.core.extras import lazy
from casemate.training.isolation import seeded, user_code

torch = lazy("torch")
keras = lazy("keras")


@cache
def _classes() -> dict[str, Any]:
    base: Any = torch.nn.Module

    class View(base):  # type: ignore[misc]  # torch is lazy
        """A Keras model as a module from (n, d) or (n, c, h, w) to what it returns; ``training`` goes with the mode."""

        __qualname__ = "View"

        def __init__(self, model: Any, order: tuple[int, ...] | None, stripped: bool) -> None:
            super().__init__()
            self.keras_model, self.order, self.stripped = model, order, stripped
            inputs = inputs_of(model)
            self.shapes = [tuple(part.shape) for part in inputs]
            self.dtypes = [str(part.dtype) for part in inputs]
            self.names = tuple(part.name for part in inputs)
            self.differentiable = all("float" in kind for kind in self.dtypes)

        def split(self, x: Any) -> Any:
            """Return x as the model takes it: one tensor, channels last, or one a column."""
            if self.order is not None:
                parts = [x[:, i : i + 1] for i in self.order]
                parts = [p if len(s) > 1 else p[:, 0] for p, s in zip(parts, self.shapes, strict=True)]
                return [p.to(getattr(torch, k)) for p, k in zip(parts, self.dtypes, strict=True)]
            x = x.permute(0, 2, 3, 1) if x.ndim == 4 else x
            return x if self.differentiable else x.to(getattr(torch, self.dtypes[0]))

        def forward(self, x: Any) -> Any:
            return self.keras_model(self.split(x), training=self.training)

    return {"View": View}


def __getattr__(name: str) -> Any:
    if name == "View":
        return _classes()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def order_of(names: Sequence[str], columns: Sequence[str]) -> tuple[int, ...] | None:
    """Return which column each of several inputs takes: by name where the names are the columns', else in order."""
    if len(names) < 2:
        return None
    if len(names) != len(columns):
        raise InvalidData(
            f"the Keras model has {len(names)} inputs and the data {len(columns)} columns; each input takes one "
            "column, or wrap a predict function"
        )
    if set(names) == set(columns):
        return tuple(list(columns).index(name) for name in names)
    return tuple(range(len(names)))


def fits(view: Any, x: Any) -> None:
    """Refuse rows (1, ...) of another shape than the model's one input."""
    if len(view.shapes) != 1:
        return
    wanted, got = view.shapes[0][1:], tuple(view.split(torch.zeros(np.shape(x))).shape[1:])
    if len(wanted) != len(got) or any(w not in (None, g) for w, g in zip(wanted, got, strict=True)):
        raise InvalidData(
            f"the Keras model takes rows of shape {wanted}; the data's are {got} (images as height, width, channels)"
        )


def shape_of(model: Any) -> str:
    """Return what a model computes apart from its weights, as text that is the same for each of its clones."""
    names = {part.name: f"#{i}" for i, part in enumerate([model, *inputs_of(model), *parts_of(model)])}

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            left_out = ("build_config", "build_input_shape", "registered_name", "compile_config")
            return {str(key): plain(item) for key, item in sorted(value.items()) if key not in left_out}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return names.get(value, value) if isinstance(value, str) else value

    return json.dumps(plain(model.get_config()), default=str) if inputs_of(model) else ""


def inputs_of(model: Any) -> Sequence[Any]:
    """Return the symbolic inputs; a subclassed model has none."""
    return getattr(model, "inputs", None) or ()


def parts_of(model: Any) -> list[Any]:
    """Return every layer, those of nested models as well."""
    return list(model._flatten_layers(include_self=False))


def frozen_in(model: Any) -> list[bool]:
    """Tell of every layer whether training leaves its weights as they are: those of a network taken over, mostly."""
    return [not part.trainable and bool(part.weights) and not adapts(part) for part in parts_of(model)]


def untrained(model: Any) -> Any:
    """Return a clone with weights drawn anew, but for the layers that training leaves as they are."""
    ours = keras.models.clone_model(model)
    for kept, old, new in zip(frozen_in(model), parts_of(model), parts_of(ours), strict=True):
        if kept:
            new.set_weights(old.get_weights())
    return ours


def with_weights(model: Any, weights: Sequence[np.ndarray]) -> Any:
    """Return a clone of ``model`` with these weights."""
    ours = keras.models.clone_model(model)
    ours.set_weights(weights)
    for layer in parts_of(ours):
        if adapts(layer):
            layer.finalize_state()  # what it subtracts is derived from its weights
    return ours


def view_of(model: Any, order: tuple[int, ...] | None = None, *, strip: bool = True) -> Any:
    """Return a copy of ``model`` as a module; with ``strip``, its last softmax or sigmoid taken off if it has one."""
    advice = "it must allow clone_model; or wrap a predict function"
    with seeded(0), user_code("copying the Keras model", advice):  # initialisers draw seeds on being made
        ours = with_weights(model, model.get_weights()) if inputs_of(model) else copy.deepcopy(model)
    stripped = _stripped(ours) if strip else None
    made = _classes()["View"](stripped if stripped is not None else ours, order, stripped is not None)
    return made.eval()


def _stripped(model: Any) -> Any:
    """Return our own copy without its last activation if that is a softmax or sigmoid; None where it has none."""
    if not inputs_of(model):
        return None
    last = model.outputs[0]._keras_history.operation
    if isinstance(last, keras.Model) or len(last._inbound_nodes) != 1:
        return None
    if isinstance(last, keras.layers.Softmax):
        return keras.Model(model.inputs, last.input) if last.axis in (-1, 1) else None
    if not isinstance(last, (keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Activation)):
        return None  # the activation of a recurrent layer is none of its output
    if last.activation not in (keras.activations.softmax, keras.activations.sigmoid):
        return None
    if last.activation == keras.activations.sigmoid and model.outputs[0].shape[-1] != 1:
        raise InvalidData(
            f"the Keras model ends in {model.outputs[0].shape[-1]} sigmoids, which need not sum to one; wrap a predict "
            "function that returns the probabilities of the classes"
        )
    last.activation = keras.activations.linear
    return model


def adapts(layer: Any) -> bool:
    """Tell a layer whose statistics are read off the training rows, each time anew."""
    return isinstance(layer, keras.layers.Normalization) and layer.input_mean is None
