# SPDX-License-Identifier: Apache-2.0
"""A hardened target as layers: the model at the bottom, and what stands in front of it.

Each layer is described by plain values and at most one file. Of what trains the model again, the settings and the
pieces that the defences left are written; the code that builds a fresh module is the user's and is not.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

from casemate.adapters import files
from casemate.adapters.keras import KerasTarget
from casemate.adapters.onnx import OnnxTarget
from casemate.adapters.sklearn import SklearnTarget
from casemate.adapters.torch import TorchTarget
from casemate.adapters.trees import TreesTarget
from casemate.core.errors import InvalidData
from casemate.core.limited import Limited, Wrapper
from casemate.core.schema import Schema
from casemate.core.types import Capability, Recipe, Target
from casemate.hardened import graphs, modules
from casemate.hardened.values import Unwritable, plain
from casemate.privacy.calibrated import Calibrated
from casemate.privacy.methods.rounding import RoundedTarget
from casemate.training.distillation import Distilled
from casemate.training.students import Fitted

SETTINGS = ("optimiser", "learning_rate", "momentum", "weight_decay", "epochs", "batch_size", "loss")
CODE = ("factory", "preprocessing")
UNTRAINED = (
    "refits and shadow models of this hardened model are not offered: its teacher is an ONNX model, which nothing here "
    "can train"
)
ORIGINAL = "original"  # stands for code of the user's: it comes from the function that returned the original


@dataclass(frozen=True, kw_only=True)
class Absent(Target):
    """Stands for a teacher that is not here: it offers nothing."""

    named: str = "torch"

    @property
    def capabilities(self) -> frozenset[Capability]:
        return frozenset()

    @property
    def kind(self) -> str:
        return self.named

    def native_classes(self) -> tuple[Any, ...] | None:
        return None

    def digest(self) -> str:
        return "absent"


@dataclass(frozen=True)
class Sink:
    """Collects the files of a folder under names that differ."""

    trust: Collection[str] = ()
    files: dict[str, bytes] = field(default_factory=dict)

    def add(self, stem: str, model: Any) -> str:
        """Write a model into a file of its own and return the file's name."""
        return self.put(stem, *files.written(model, trust=self.trust))

    def put(self, stem: str, ending: str, raw: bytes) -> str:
        """Keep the bytes of a model's file and return its name."""
        taken = sum(name.startswith((f"{stem}.", f"{stem}-")) for name in self.files)
        name = f"{stem}{f'-{taken + 1}' if taken else ''}.{ending}"
        self.files[name] = raw
        return name


def described(target: Target, original: Target, sink: Sink) -> list[dict[str, Any]]:
    """Return the layers of a target, the model first; their files go into ``sink``.

    Raises:
        InvalidData: a part that no file can hold.
    """
    wrappers, bottom = list[Wrapper](), target
    while isinstance(bottom, Wrapper):
        wrappers.append(bottom)
        bottom = bottom.base
    layers, stem = [], "model"
    for wrapper in wrappers:  # the outermost first: what answers gets the plain name
        layers.append(_wrapper(wrapper, sink, stem))
        if isinstance(wrapper, Distilled):
            stem = "teacher" if wrapper.transfer is None else "none"  # public rows are not kept: no refits
            if stem == "none":
                layers.append(_absent(wrapper.base))
                return layers[::-1]
    layers.append(_bottom(bottom, innermost(original), sink, answers=stem == "model"))
    return layers[::-1]


def innermost(target: Target) -> Target:
    """Return the model behind everything that stands in front of it."""
    while isinstance(target, Wrapper):
        target = target.base
    return target


def _wrapper(wrapper: Wrapper, sink: Sink, stem: str) -> dict[str, Any]:
    kept = wrapper.claims == wrapper.base.claims
    if not kept and wrapper.claims:
        raise InvalidData("a target that claims more than the model behind it cannot be written")
    layer: dict[str, Any] = {"claims": kept}
    if isinstance(wrapper, RoundedTarget):
        return {"layer": "rounded", "digits": wrapper.digits, **layer}
    if isinstance(wrapper, Calibrated):
        way = replace(
            wrapper.calibrator, reference=None
        )  # no records; behind a given map it is not asked for
        way = way if wrapper.calibrator.reference is None else replace(way, share=0.0)
        return {"layer": "calibrated", "calibrator": plain(way), "map": plain(wrapper.mapping), **layer}
    if isinstance(wrapper, Limited):
        allowed = sorted(capability.value for capability in wrapper.allowed)
        return {"layer": "limited", "allowed": allowed, "n_queries": wrapper.n_queries, **layer}
    if isinstance(wrapper, Distilled):
        return {**_student(wrapper, sink, stem), **layer}
    raise InvalidData(f"a {type(wrapper).__name__} cannot be written to a folder")


def _student(wrapper: Distilled, sink: Sink, stem: str) -> dict[str, Any]:
    if wrapper.student.recipe is not None:
        raise InvalidData(
            "distil(recipe=) made a student of your own code, which no folder holds; save its weights yourself"
        )
    # its bounds and spreads are people's values
    blank: dict[str, Any] = {"low": -math.inf, "high": math.inf, "spread": 1.0}
    read = Schema(input=wrapper.read.input, columns=tuple(replace(c, **blank) for c in wrapper.read.columns))
    fitted: dict[str, Any] = {}
    if isinstance(wrapper.fitted, Fitted):
        fitted = {"columns": plain(wrapper.fitted.columns), "power": wrapper.fitted.power}
    return {
        "layer": "distilled",
        "student": plain(wrapper.student),
        "read": plain(read),
        "public": wrapper.transfer is not None,
        "file": sink.add(stem, wrapper.fitted.model),
        **fitted,
    }


def _bottom(target: Target, original: Target, sink: Sink, *, answers: bool) -> dict[str, Any]:
    if isinstance(target, Absent):
        return _absent(target)
    layer: dict[str, Any] = {
        "kind": target.kind,
        "task": target.task,
        "classes": plain(target.classes),
        "claims": plain(target.claims),
        "caveats": list(target.caveats),
        "file": None,
        "lost": "",
    }
    stem = "model" if answers else "teacher"
    if isinstance(target, TorchTarget):
        layer |= {"layer": "torch", "outputs": target.outputs, "shape": _shape(target.schema)}
        recipe, layer["lost"] = _recipe(target, original)
        retrained = isinstance(original, TorchTarget) and target.model is not original.model
        layer |= {"recipe": recipe, "retrained": retrained}
        fits = recipe is not None and _can_be_built(target, original)
        if answers and retrained and not fits:
            why = (
                layer["lost"]
                or "its preprocessing was fitted to images, and the model before it has another form"
            )
            raise InvalidData(f"the hardened module could not be rebuilt from a folder: {why}")
        if answers:
            layer["file"] = sink.add(stem, target.model)
        return layer
    if isinstance(target, SklearnTarget):
        layer |= {"layer": "estimator", "numbered": plain(target.numbered)}
        if target.changed is not None and answers:
            layer["lost"] = "its refits were to be trained by another recipe, which no file holds"
        layer["file"] = sink.add(
            stem if answers else "recipe", target.model if answers else _unfitted(target)
        )
        return layer
    if isinstance(target, TreesTarget):
        return layer | {"layer": "booster", "file": sink.add(stem, target.model)}
    if isinstance(target, KerasTarget):
        own, raw = graphs.keras_layer(target, answers=answers)
        return layer | own | {"file": sink.put(stem, "keras", raw)}
    if isinstance(target, OnnxTarget) and not answers:
        return _absent(target) | {"caveats": [UNTRAINED]}
    if isinstance(target, OnnxTarget):
        own, raw = graphs.onnx_layer(target)
        return layer | own | {"file": sink.put(stem, "onnx", raw)}
    raise InvalidData(f"a {target.kind} target has no model of its own that a folder could hold")


def _absent(target: Target) -> dict[str, Any]:
    claims = {"claims": plain(target.claims), "classes": plain(target.classes)}
    caveats = list(target.caveats) if isinstance(target, Absent) else []
    return {"layer": "absent", "kind": target.kind, "task": target.task, "caveats": caveats, **claims}


def _unfitted(target: SklearnTarget) -> Any:
    """Return the estimator as settings alone: a teacher is asked for refits, and what it learnt stays away."""
    from sklearn.base import clone

    return clone(target.model if target.changed is None else target.changed)


def _can_be_built(target: TorchTarget, original: Target) -> bool:
    """Tell whether a module for the weights can be made without the training rows."""
    plainly = isinstance(target.recipe, Recipe) and target.recipe.preprocessing is None
    alike = isinstance(original, TorchTarget) and modules.alike(original.model, target.model.state_dict())
    return plainly or alike or _shape(target.schema) is not None


def _shape(schema: Schema | None) -> list[int] | None:
    """Return the shape of one encoded row of a table."""
    return [len(schema.columns)] if schema is not None and schema.input == "table" else None


def _recipe(target: TorchTarget, original: Target) -> tuple[dict[str, Any] | None, str]:
    """Return what of a recipe is data, and why there is none."""
    recipe, before = target.recipe, original.recipe
    if not isinstance(recipe, Recipe):
        return None, ""
    code: dict[str, Any] = {}
    for name in CODE:
        part = getattr(recipe, name)
        try:
            code[name] = plain(part)
        except Unwritable as error:
            if not isinstance(before, Recipe) or part != getattr(before, name):
                return None, f"its recipe has a {name} of its own, which no file holds ({error})"
            code[name] = ORIGINAL
    try:
        pieces = plain(recipe.pieces)
    except Unwritable as error:
        return None, f"a part of its training is of a kind that no file holds ({error})"
    return {"settings": {name: getattr(recipe, name) for name in SETTINGS}, **code, "pieces": pieces}, ""
