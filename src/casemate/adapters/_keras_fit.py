# SPDX-License-Identifier: Apache-2.0
"""How a Keras model was trained, read off the model: its compile configuration and its last ``fit``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, cast

from casemate.adapters._keras_view import adapts, inputs_of, parts_of, untrained, view_of
from casemate.core.extras import lazy
from casemate.core.types import Recipe

keras = lazy("keras")

_LOSSES = {  # what a loss is called -> how it wants its labels
    "sparsecategoricalcrossentropy": "index",
    "categoricalcrossentropy": "one-hot",
    "binarycrossentropy": "column",
    "meansquarederror": "column",
    "mse": "column",
}
_OPTIMISERS = {"SGD": "sgd", "Adam": "adam", "AdamW": "adamw"}
# settings of an optimiser that Casemate's loop has not
_ODD = (
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "use_ema",
    "nesterov",
    "amsgrad",
    "gradient_accumulation_steps",
    "loss_scale_factor",
)
GUESSED_EPOCHS, GUESSED_BATCH = 20, 32


class Fit(NamedTuple):
    """How the model was trained: epochs, steps an epoch, how its loss wants labels, and what of it is a guess."""

    epochs: int
    steps: int | None
    labels: str
    guess: str = ""


def fit_of(model: Any) -> Fit | None:
    """Return how to train a clone, or None: not compiled, subclassed, or a loss that is not known here."""
    if not getattr(model, "compiled", False) or not inputs_of(model):
        return None
    name = _loss_name(_loss_of(model.get_compile_config() or {}))
    if name not in _LOSSES or not all(_fresh_statistics(layer, model) for layer in parts_of(model)):
        return None
    labels = _LOSSES[name]
    if labels == "column" and model.outputs[0].shape[-1] != 1:
        labels = "one-hot"  # a number a class
    done = getattr(model, "history", None)
    epochs = len(getattr(done, "epoch", None) or ())
    steps = (getattr(done, "params", None) or {}).get("steps")
    if epochs:
        told = (
            "Refits repeat the compile configuration, epochs and steps of the model's last fit; earlier fits, a part "
            "held back for validation, class weights and callbacks do not show in a Keras model."
        )
        if not steps:
            told += f" Nor does it say in what batches: {GUESSED_BATCH} rows each are taken."
        elif any(str(name).startswith("val_") for name in getattr(done, "history", None) or ()):
            told += (
                " It was validated on the way: if validation_split held back part of its rows, the batches of refits "
                "are larger by as much."
            )
        return Fit(epochs, steps, labels, told)
    guess = (
        f"The model does not say how long it was trained: {GUESSED_EPOCHS} epochs in batches of {GUESSED_BATCH} are "
        "taken for refits; give recipe= to wrap."
    )
    return Fit(GUESSED_EPOCHS, None, labels, guess)


def batch_of(n: int, steps: int | None) -> int:
    """Return a batch size that makes ``steps`` of n rows: a power of two where one does, as people choose them.

    >>> batch_of(150, 10), batch_of(100, 3), batch_of(100, None)
    (16, 34, 32)
    """
    if not steps:
        return GUESSED_BATCH
    least = -(-n // steps)
    most = least if steps == 1 else -(-n // (steps - 1)) - 1
    power = 1 << max(most, 1).bit_length() - 1
    return power if least <= power <= most else least


def _loss_of(compiled: Mapping[str, Any]) -> Any:
    """Return the one loss of a compile configuration, which may stand in a list or under the output's name."""
    loss = compiled.get("loss")
    if isinstance(loss, Mapping) and "class_name" not in loss:
        loss = list(loss.values())
    return loss[0] if isinstance(loss, (list, tuple)) and len(loss) == 1 else loss


def _loss_name(loss: Any) -> str:
    if isinstance(loss, Mapping):
        loss = loss.get("class_name") if loss.get("class_name") != "function" else loss.get("config")
    return str(loss).replace("_", "").lower()


def _fresh_statistics(layer: Any, model: Any) -> bool:
    """Tell whether a refit can read what ``layer`` reads off the rows: from the rows themselves, not from later on."""
    if not hasattr(layer, "adapt"):
        return True
    first = layer._inbound_nodes[0].input_tensors
    return adapts(layer) and len(model.inputs) == 1 and bool(first) and first[0] is model.inputs[0]


def fresh(model: Any, strip: bool, order: tuple[int, ...] | None = None) -> Any:
    """Build an untrained clone as a module for Casemate's training loop; ``order`` of its inputs, see view_of."""
    return view_of(untrained(model), order, strip=strip)


def _plain_loss(loss: Any) -> bool:
    """Tell whether a loss is the mean over rows of what its name says, nothing smoothed or weighted."""
    options = loss.get("config") if isinstance(loss, Mapping) else None
    if not isinstance(options, Mapping):
        return True
    return (
        not options.get("label_smoothing")
        and options.get("reduction") in (None, "sum_over_batch_size")
        and (options.get("ignore_class") is None)
    )


def recipe_of(model: Any, fit: Fit | None, *, strip: bool = True) -> Recipe | None:
    """Return the model's training as values, where Casemate's loop has the same optimiser and loss."""
    if fit is None or any(adapts(layer) for layer in parts_of(model)) or model.losses:
        return None
    compiled = model.get_compile_config()
    config, loss = compiled["optimizer"], _loss_name(_loss_of(compiled))
    if compiled.get("loss_weights"):
        return None
    squared = loss in ("meansquarederror", "mse")
    if not _plain_loss(_loss_of(compiled)) or (
        fit.labels == "one-hot"
        and (squared or (loss == "binarycrossentropy" and model.outputs[0].shape[-1] != 2))
    ):
        return None
    name = _OPTIMISERS.get(str(config.get("class_name"))) if isinstance(config, Mapping) else None
    options = config.get("config", {}) if name else {}
    rate = options.get("learning_rate")
    odd = any(options.get(key) for key in _ODD)
    odd = odd or options.get("beta_1", 0.9) != 0.9 or options.get("beta_2", 0.999) != 0.999
    if options.get("weight_decay"):  # Keras takes it off the weights, as AdamW does
        odd = odd or bool(options.get("momentum"))
        name = "adamw" if name == "adam" else name
    if name is None or odd or not isinstance(rate, (int, float)):
        return None
    return Recipe(
        factory=partial(fresh, model, strip),
        optimiser=cast(Any, name),
        learning_rate=float(rate),
        momentum=float(options.get("momentum") or 0.0),
        weight_decay=float(options.get("weight_decay") or 0.0),
        epochs=fit.epochs,
        batch_size=GUESSED_BATCH,
        loss="mse" if squared else "cross_entropy",
    )
