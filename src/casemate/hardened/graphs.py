# SPDX-License-Identifier: Apache-2.0
"""The layer of a Keras or an ONNX model: its own file, and what of its training the file does not tell.

A Keras model is written as a clone that was never trained: its weights are those that answer, and the state of the
optimiser, which a training without a guarantee may have left, stays away. An ONNX model is written byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np

from casemate.adapters import _keras_fit, files, keras, onnx
from casemate.adapters.keras import KerasTarget
from casemate.adapters.onnx import OnnxTarget
from casemate.core.errors import InvalidData
from casemate.core.types import Recipe, Target
from casemate.hardened.values import Unwritable, plain

SETTINGS = ("optimiser", "learning_rate", "momentum", "weight_decay", "epochs", "batch_size", "loss")
OWN_CODE = "its refits follow a recipe of your own code, which no folder holds"


def keras_layer(target: KerasTarget, *, answers: bool) -> tuple[dict[str, Any], bytes]:
    """Return what a folder says of a Keras target, and the bytes of its ``.keras`` file.

    Args:
        target: that answers, or that is trained again behind another (not ``answers``): its weights stay away.

    Raises:
        InvalidData: a model that could not be read again.
    """
    recipe, own = target.recipe, _own(target.recipe)
    layer: dict[str, Any] = {"layer": "keras", "outputs": target.outputs, "batch_size": target.batch_size}
    layer |= {"fit": list(target.fit) if target.fit is not None else None, "recipe": None, "lost": ""}
    if recipe is not None and not own:
        layer["lost"] = OWN_CODE
    elif recipe is not None and recipe.pieces is not None:
        settings = {name: getattr(recipe, name) for name in SETTINGS}
        try:
            layer["recipe"] = {"settings": settings, "pieces": plain(recipe.pieces)}
        except Unwritable as error:
            layer["lost"] = f"a part of its training is of a kind that no file holds ({error})"
    kept = target.view.keras_model.get_weights() if answers else keras.drawn_anew(target.model)
    raw = keras.written(target.model, kept)
    again = files.parsed(
        raw, "model.keras"
    ).model  # what would be refused or lost is found here, not on reading
    if not all(np.array_equal(one, other) for one, other in zip(again.get_weights(), kept, strict=True)):
        raise InvalidData(
            "the Keras model does not come back from its file as it was; save its weights yourself"
        )
    return layer, raw


def keras_target(layer: Mapping[str, Any], loaded: files.Loaded, said: Mapping[str, Any]) -> Target:
    """Return the target of a Keras layer.

    Args:
        layer: as :func:`keras_layer` wrote it; loaded: its file; said: its task and classes.
    """
    made = cast(KerasTarget, keras.make(loaded.model, task=said["task"], classes=said["classes"] or None))
    fit = None if layer["fit"] is None else _fit(layer["fit"])
    batch = layer["batch_size"]
    if batch is not None and (type(batch) is not int or batch < 1):
        raise InvalidData("its change.json has a batch_size that is no whole number of at least 1")
    if layer["outputs"] not in (None, "logits", "probabilities"):
        raise InvalidData("its change.json has outputs that are none of a Keras model")
    made = replace(made, outputs=layer["outputs"], fit=fit, batch_size=batch)
    strip = said["task"] != "regression"
    recipe = None if fit is None else _keras_fit.recipe_of(made.model, fit, strip=strip)
    return replace(made, recipe=recipe)


def onnx_layer(target: OnnxTarget) -> tuple[dict[str, Any], bytes]:
    """Return what a folder says of an ONNX target, and its bytes."""
    lost = OWN_CODE if target.recipe is not None else ""  # without one, none are offered anyhow
    return {"layer": "onnx", "outputs": target.outputs, "lost": lost}, target.held.raw


def onnx_target(layer: Mapping[str, Any], loaded: files.Loaded, said: Mapping[str, Any]) -> Target:
    """Return the target of an ONNX layer; see :func:`keras_target`."""
    classes = None if said["task"] == "regression" else said["classes"] or None
    return onnx.make(loaded.model, task=said["task"], classes=classes, outputs=layer["outputs"])


def _own(recipe: Recipe | None) -> bool:
    """Tell whether a recipe is the one that was read off the Keras model itself."""
    return (
        recipe is not None
        and recipe.preprocessing is None
        and getattr(recipe.factory, "func", None) is _keras_fit.fresh
    )


def _fit(raw: Any) -> _keras_fit.Fit:
    epochs, steps, labels, guess = raw
    whole = [part for part in (epochs, 1 if steps is None else steps) if type(part) is int and part > 0]
    if len(whole) < 2 or labels not in ("index", "one-hot", "column") or not isinstance(guess, str):
        raise InvalidData("its change.json has a training of a Keras model that none can be")
    return _keras_fit.Fit(epochs, steps, labels, guess)
