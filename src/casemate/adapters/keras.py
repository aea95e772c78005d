# SPDX-License-Identifier: Apache-2.0
"""Keras 3 models on the torch backend as targets: their gradients are torch's, their training is their own.

What is asked is a copy whose last softmax or sigmoid is taken off, because attacks and attributions need the logits
under it and not the logarithm of probabilities that have saturated; the copy must answer as the model does. A refit is
``clone_model``, the model's own compile configuration and ``fit``, as many epochs and steps as its last ``fit`` had.
With a defence of the training it is Casemate's loop, by the same optimiser. Images are (n, c, h, w) here and
(n, h, w, c) in Keras; a model with several inputs gets its columns one by one.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from casemate.adapters import _shared
from casemate.adapters._keras_fit import GUESSED_BATCH, Fit, batch_of, fit_of, fresh, recipe_of
from casemate.adapters._keras_view import (
    adapts,
    fits,
    frozen_in,
    inputs_of,
    order_of,
    shape_of,
    untrained,
    view_of,
    with_weights,
)
from casemate.adapters.torch import TorchTarget
from casemate.adapters.torch import make as _torch_target
from casemate.core.data import Dataset
from casemate.core.errors import InvalidData
from casemate.core.extras import lazy, needs
from casemate.core.limited import shared
from casemate.core.pickles.kerasfile import CONFIG, WEIGHTS
from casemate.core.types import LABELS, LOGITS, MODULE, REFIT, SCORES, Capability, Recipe, Target, Task
from casemate.training.isolation import seeded, user_code
from casemate.training.modules import Outputs

torch = lazy("torch")
keras = lazy("keras")

_NEAR = 1e-3  # how far, in probability or relative value, the copy may answer from the model


@dataclass(frozen=True, kw_only=True)
class KerasTarget(Target):
    """A Keras model, its copy down to the logits, and how it was trained.

    >>> _ = os.environ.setdefault("KERAS_BACKEND", "torch")
    >>> net = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(3, activation="softmax")])
    >>> make(net).scores(np.zeros((4, 2))).shape
    (4, 3)
    """

    model: Any
    view: Any
    outputs: Outputs | None = None
    fit: Fit | None = None
    batch_size: int | None = None  # of its training; known once the number of rows is

    @property
    def capabilities(self) -> frozenset[Capability]:
        offered = {LABELS} if self.task == "regression" else {LABELS, SCORES, LOGITS}
        if self.view.differentiable:
            offered |= {MODULE}
        return frozenset(offered | {REFIT} if self.fit is not None or self.recipe is not None else offered)

    @property
    def kind(self) -> str:
        return "keras"

    @property
    def net(self) -> TorchTarget:
        """The copy as a torch target."""
        return TorchTarget(model=self.view, outputs=self.outputs, **shared(self))

    def native_classes(self) -> tuple[Any, ...] | None:
        return None

    def digest(self) -> str:
        """Return the blake2b digest of the model's class, layers and weights; names change with every copy."""
        what = f"{type(self.model).__qualname__} {shape_of(self.view.keras_model)}"
        digest = hashlib.blake2b(what.encode(), digest_size=32)
        for value in self.view.keras_model.get_weights():
            digest.update(f"{value.dtype} {value.shape}".encode() + np.ascontiguousarray(value).tobytes())
        return digest.hexdigest()

    def labels(self, x: Any) -> np.ndarray:
        return self.net.labels(x)

    def scores(self, x: Any) -> np.ndarray:
        return self.net.scores(x)

    def logits(self, x: Any) -> np.ndarray:
        return self.net.logits(x)

    def module(self) -> Any:
        if MODULE not in self.capabilities:
            raise self._missing(MODULE)
        with seeded(0):  # copying a Keras layer draws seeds from Python's generator
            return self.net.module()

    def refit(self, x: Any, y: np.ndarray, seed: int) -> Target:
        return self.refit_people(x, y, seed, person=None)

    def refit_people(self, x: Any, y: np.ndarray, seed: int, *, person: np.ndarray | None) -> Target:
        if self.fit is None and self.recipe is None:
            raise self._missing(REFIT)
        blank: dict[str, Any] = {"source": None, "claims": ()}
        if self.fit is None or (self.recipe is not None and self.recipe.pieces is not None):
            trained = cast(TorchTarget, self.net.refit_people(x, y, seed, person=person))
            if not hasattr(trained.model, "keras_model"):  # a recipe of the user's made another module
                return trained
            fields = {"view": trained.model, "history": trained.history, **blank}
            return replace(self, model=remade(self.model, trained.model.keras_model.get_weights()), **fields)
        if _shared.n_rows(x, self.schema) != len(y):
            raise InvalidData(f"training needs as many labels as rows; got {len(x)} rows, {len(y)} labels")
        model = self._fitted(x, y, seed, self.fit)
        return replace(
            self, model=model, view=view_of(model, self.view.order, strip=self.view.stripped), **blank
        )

    def with_recipe(self, recipe: Recipe | Mapping[str, Any]) -> Target:
        if not isinstance(recipe, Recipe):
            raise InvalidData(f"a Keras target is trained by a casemate.Recipe; got {type(recipe).__name__}")
        return replace(self, recipe=recipe)

    def bind(self, data: Dataset) -> tuple[Target, Dataset]:
        """Agree with ``data``, and make sure that the copy answers as the model does."""
        if data.classes and self.schema is data.schema:
            return self, data
        if data.schema.input == "text":
            raise InvalidData("this Keras model takes numbers, this data is text; wrap a predict function")
        order = order_of(self.view.names, data.schema.names)
        strip = (self.task or data.guess_task()) != "regression"
        placed = self
        if order is not None or (self.view.stripped and not strip):
            placed = replace(self, view=view_of(self.model, order, strip=strip))
        if self.recipe is not None and getattr(self.recipe.factory, "func", None) is fresh:
            again = partial(fresh, self.recipe.factory.args[0], strip, order)  # type: ignore[attr-defined]  # a partial
            placed = replace(placed, recipe=replace(self.recipe, factory=again))
        fits(placed.view, data.train.x[:1])
        net, coded = placed.net.bind(data)
        batch = self.batch_size
        if batch is None and self.fit is not None:
            batch = batch_of(len(data.train), self.fit.steps)
        recipe = placed.recipe and replace(placed.recipe, batch_size=batch or placed.recipe.batch_size)
        told = [self.fit.guess] if self.fit is not None and self.fit.guess else []
        if order is not None and set(self.view.names) != set(data.schema.names):
            told.append(
                "The inputs of the Keras model are not named as the columns: they are taken in the order of the "
                "columns."
            )
        if self.fit is not None and any(frozen_in(self.model)):
            told.append(
                "Layers that are not trainable keep their weights in every refit: what those saw of this data is in it."
            )
        if self.fit is not None and recipe is None:
            told.append(
                "Its optimiser or layers are not those of Casemate's training loop: refits use Keras's own fit, "
                "defences of the training need recipe=."
            )
        fields = shared(net) | {"recipe": recipe, "caveats": tuple(dict.fromkeys((*net.caveats, *told)))}
        bound = replace(placed, outputs=cast(TorchTarget, net).outputs, batch_size=batch, **fields)
        bound._check(coded.train.x[:64])
        return bound, coded

    def _fitted(self, x: Any, y: np.ndarray, seed: int, how: Fit) -> Any:
        """Train a clone by the model's own compile configuration."""
        n = len(self.classes)
        targets = np.eye(n, dtype=np.float32)[y] if how.labels == "one-hot" else y
        targets = targets[:, None].astype(np.float32) if how.labels == "column" else targets
        advice = "its compile configuration must be one that Keras can build again"
        with seeded(seed), user_code("training a clone of the Keras model", advice):
            model = untrained(self.model)
            rows = self.view.split(torch.as_tensor(np.asarray(x, np.float32)))
            for layer in model.layers:
                if adapts(layer):
                    layer.adapt(rows)
            model.compile_from_config(self.model.get_compile_config())
            model.fit(
                rows, targets, epochs=how.epochs, batch_size=self.batch_size or GUESSED_BATCH, verbose=0
            )
        return model

    def _check(self, x: Any) -> None:
        """Compare the copy with the model on rows x (n, ...)."""
        n = len(x)
        with user_code("the Keras model", "it is given float rows, images as (n, height, width, channels)"):
            rows = self.view.split(torch.as_tensor(np.asarray(x, np.float32)))
            raw = keras.ops.convert_to_numpy(self.model(rows, training=False)).astype(np.float64)
        ours = self.labels(x)[:, None] if self.task == "regression" else self.scores(x)
        raw = raw.reshape(n, -1)
        if self.task != "regression":
            summed = bool((raw >= 0).all() and (np.abs(raw.sum(1) - 1) <= 1e-3).all())
            if raw.shape[1] == 1 and (self.view.stripped or self.outputs == "probabilities"):
                raw = np.hstack([1 - raw, raw])
            elif not summed:  # logits
                raw = np.hstack([np.zeros_like(raw), raw]) if raw.shape[1] == 1 else raw
                raw = np.exp(raw - raw.max(1, keepdims=True))
                raw /= raw.sum(1, keepdims=True)
        off = float(np.max(np.abs(raw - ours) / np.maximum(1.0, np.abs(raw))))
        if not off <= _NEAR:
            raise InvalidData(
                f"the copy of this Keras model answers differently from the model itself (by {off:.2g}); wrap a "
                "predict function: cm.wrap(lambda x: model.predict(x))"
            )


def ready() -> Any:
    """Import Keras on the torch backend.

    Raises:
        MissingExtra: Keras or torch is not installed.
        InvalidData: Keras runs on another backend in this process.
    """
    needs("torch")
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "torch")
    module = needs("keras")
    if module.backend.backend() != "torch":
        raise InvalidData(
            f"Keras runs on the backend {module.backend.backend()!r} here; set KERAS_BACKEND=torch before keras is "
            "imported, or wrap a predict function"
        )
    return module


def loaded(raw: bytes, name: str) -> Any:
    """Read a ``.keras`` archive that was scanned and found clean, by Keras in its safe mode.

    Raises:
        InvalidData: it does not fit this version of Keras, or names a loss or metric of the user's own.
    """
    # Keras reads paths; the folder is ours alone
    with tempfile.TemporaryDirectory(prefix="casemate-") as folder, warnings.catch_warnings():
        # of a model that was compiled and never fitted
        warnings.filterwarnings("ignore", message="Skipping variable loading for optimizer")
        path = Path(folder) / "model.keras"
        path.write_bytes(raw)
        try:
            ready()
            _affordable(path, name)
            return keras.saving.load_model(path, safe_mode=True)
        except (ImportError, InvalidData):
            raise
        except Exception as error:
            raise InvalidData(
                f"{name} is a clean Keras archive, but cannot be built here: {' '.join(str(error).split())[:200]}; it "
                "may come from another version of Keras"
            ) from error


def written(model: Any, weights: Sequence[np.ndarray]) -> bytes:
    """Return the ``.keras`` file of a clone of ``model`` with other weights, compiled as it is; no optimiser's state.

    Raises:
        InvalidData: a subclassed model, or one that Keras cannot write.
    """
    if not inputs_of(model):
        raise InvalidData(
            "a subclassed Keras model is code, which no folder holds; save its weights yourself"
        )
    ours = remade(model, weights)
    with (
        tempfile.TemporaryDirectory(prefix="casemate-") as folder,
        user_code("writing the Keras model", "it must allow save"),
    ):
        path = Path(folder) / "model.keras"
        ours.save(path)
        return path.read_bytes()


def remade(model: Any, weights: Sequence[np.ndarray]) -> Any:
    """Return a clone of ``model`` with other weights, compiled as it is."""
    with seeded(0), user_code("copying the Keras model", "it must allow clone_model"):
        ours = with_weights(model, weights)
        if getattr(model, "compiled", False):
            ours.compile_from_config(model.get_compile_config())
    return ours


def drawn_anew(model: Any) -> list[np.ndarray]:
    """Return weights for a clone of ``model`` before its training; layers that training leaves alone keep theirs."""
    with seeded(0), user_code("copying the Keras model", "it must allow clone_model"):
        return list(untrained(model).get_weights())


def _affordable(path: Path, name: str) -> None:
    """Refuse a configuration that asks for more numbers than the file holds, before memory is taken for them."""
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read(CONFIG))
        held: list[int] = []
        with needs("h5py").File(io.BytesIO(archive.read(WEIGHTS)), "r") as file:
            file.visititems(lambda _, item: held.append(getattr(item, "size", 0)))  # each once, links apart
    config.pop("compile_config", None)
    with seeded(0), keras.device("meta"):  # shapes without memory
        asked = keras.saving.deserialize_keras_object(config, safe_mode=True).count_params()
    if asked > sum(held):
        raise InvalidData(
            f"{name} describes a model of {asked:,} numbers and holds {sum(held):,}: it is broken, or made to fill "
            "the memory"
        )


def accepts(obj: Any) -> bool:
    """Tell whether ``obj`` is a Keras model; Keras is not imported for it.

    >>> accepts(len)
    False
    """
    loaded = sys.modules.get("keras")
    return loaded is not None and hasattr(loaded, "Model") and isinstance(obj, loaded.Model)


def make(
    obj: Any,
    *,
    task: Task | None = None,
    classes: Sequence[Any] | None = None,
    recipe: Recipe | None = None,
    outputs: str | None = None,
    device: str | None = None,
) -> Target:
    """Make a target of a Keras model.

    Raises:
        InvalidData: a model that is not built, has several outputs, or an option that does not apply.
    """
    ready()
    if not obj.built:
        raise InvalidData("the Keras model is not built yet; call it once, or give it an Input layer")
    if inputs_of(obj) and len(obj.outputs) != 1:
        raise InvalidData(
            f"the Keras model has {len(obj.outputs)} outputs; wrap one of them: keras.Model(inputs, out)"
        )
    _shared.refuse("Keras", "it runs where Keras put it", device=device)
    view = view_of(obj, strip=task != "regression")
    if view.stripped and outputs == "probabilities":
        outputs = None  # what stood behind the softmax that was taken off
    known = "logits" if view.stripped else outputs
    net = cast(TorchTarget, _torch_target(view, task=task, classes=classes, outputs=known))
    fit = fit_of(obj) if recipe is None else None
    made = shared(net) | {"recipe": recipe or recipe_of(obj, fit, strip=task != "regression")}
    return KerasTarget(model=obj, view=view, outputs=net.outputs, fit=fit, **made)
