# SPDX-License-Identifier: Apache-2.0
"""The layers of a folder as a target again.

What trains the model again is put together from two sides: settings and pieces from the folder, and from the caller
(``factory``) the code that builds a fresh module. Where a part of it cannot be had the target answers as before and
offers no refits, with a caveat that says so: it is never trained by a recipe that is not the hardened one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast, get_args

import numpy as np

from casemate.adapters import files
from casemate.adapters import torch as torch_adapter
from casemate.adapters.sklearn import SklearnTarget
from casemate.adapters.sklearn import make as make_sklearn
from casemate.adapters.torch import TorchTarget
from casemate.adapters.trees import make as make_trees
from casemate.core.errors import CasemateError, InvalidData, TamperedArtefact
from casemate.core.limited import Limited, shared
from casemate.core.schema import Schema
from casemate.core.types import REFIT, Capability, Recipe, Target, Task
from casemate.hardened import graphs, modules
from casemate.hardened.folder import Stored
from casemate.hardened.values import restored
from casemate.hardened.writing import CODE, ORIGINAL, SETTINGS, Absent, innermost
from casemate.privacy.calibrated import Calibrated, Calibrator
from casemate.privacy.calibration import Map
from casemate.privacy.methods.rounding import RoundedTarget
from casemate.privacy.plan import Plan
from casemate.privacy.tuned import TunedPlan
from casemate.training.distillation import Distilled, Student
from casemate.training.per_example import Planned
from casemate.training.pieces import TrainingPieces
from casemate.training.soft_network import Network
from casemate.training.students import Columns, Fitted

_T = TypeVar("_T")
LOST = "refits and shadow models of this hardened model are not offered"


@dataclass(frozen=True)
class Source:
    """What a target is rebuilt from: files, and what the caller vouches for."""

    stored: Stored
    trust: Collection[str]
    device: str | None
    factory: str | None
    made: Callable[[str], Target]  # imports and calls package.module:function, as cm.load does


def rebuilt(layers: Any, source: Source) -> Target:
    """Rebuild a target from its layers.

    Raises:
        InvalidData: no layers, a layer of a newer Casemate, torch weights without the function that builds the module.
        TamperedArtefact: a file that is not the one listed, or a plan that the model was not trained by.
    """
    if not isinstance(layers, list) or not layers or not all(isinstance(layer, dict) for layer in layers):
        raise InvalidData("its change.json has no layers: no target is described there")
    read: dict[str, Callable[[dict[str, Any], Source], Target]] = {
        "torch": _torch,
        "estimator": _estimator,
        "booster": _booster,
        "keras": _graph,
        "onnx": _graph,
        "absent": _absent,
    }
    told = layers[0].get("caveats")
    if not isinstance(told, list) or not all(isinstance(line, str) for line in told):
        raise InvalidData("its change.json has caveats that are no list of sentences")
    bottom = str(layers[0].get("layer"))
    if bottom not in read:
        raise InvalidData(
            f"its change.json has a layer {bottom!r} at the bottom; a newer Casemate may have written it"
        )
    try:
        target = _claimed(read[bottom](layers[0], source), layers[0])
        for layer in layers[1:]:
            target = _front(target, layer, source)
    except CasemateError:
        raise
    except (
        LookupError,
        TypeError,
        AttributeError,
        ValueError,
        ArithmeticError,
        RecursionError,
        MemoryError,
    ) as error:
        told = " ".join(str(error).split())[:200]
        raise InvalidData(
            f"its change.json is not as Casemate writes it ({type(error).__name__}: {told})"
        ) from error
    return target


def _claimed(target: Target, layer: Mapping[str, Any]) -> Target:
    """Put the claims on the model: each must be the plan by which it trains, or a caveat says that nobody looked."""
    claims = cast("tuple[Any, ...]", restored(layer["claims"]))
    if not claims:
        return target
    known = target.recipe is not None or not isinstance(target, (TorchTarget, Absent))
    followed = _followed(innermost(target)) if known else list(claims)
    if not all(_kept(claim, followed) for claim in claims):
        raise TamperedArtefact(
            f"change.json states {claims[0]}, but the model's recipe trains by no such plan"
        )
    told = (
        ()
        if known
        else (f"{claims[0]}: stated by the folder; the training that it is of is not here to compare",)
    )
    if known and any(isinstance(claim, TunedPlan) for claim in claims):
        line = (
            "how many trainings there were to choose from, on average, is stated by the folder: "
            "a model holds nothing to compare it with"
        )
        told = (line,)
    return replace(target, claims=claims, caveats=tuple(dict.fromkeys((*target.caveats, *told))))


def _kept(claim: Any, followed: list[Any]) -> bool:
    """Tell whether a claim is a plan by which the model trains, or of a search in which such a training is a run."""
    if isinstance(claim, TunedPlan):
        return claim in followed or any(isinstance(plan, Plan) and claim.covers(plan) for plan in followed)
    return isinstance(claim, Plan) and claim in followed


def _followed(target: Target) -> list[Any]:
    """Return the plans by which a model trains; one that merely stands among its settings is none."""
    if isinstance(target, SklearnTarget):
        from casemate.privacy.logistic import NoisyLogistic

        return [target.model.plan] if type(target.model) is NoisyLogistic else []
    pieces = target.recipe.pieces if isinstance(target.recipe, Recipe) else None
    if pieces is None:
        return []
    parts = (pieces.sampler, pieces.aggregate)
    return [
        part.claim for part in parts if all(isinstance(p, Planned) and p.claim == part.claim for p in parts)
    ]


def _estimator(layer: Mapping[str, Any], source: Source) -> Target:
    name = layer["file"]
    loaded = files.parsed(source.stored.read(name), source.stored.path(name), trust=source.trust)
    target = cast(SklearnTarget, make_sklearn(loaded.model, device=source.device))
    caveats = (*target.caveats, *loaded.notes, *layer["caveats"])
    target = replace(
        target,
        **_said(layer),
        numbered=_labels(layer["numbered"]),
        source=loaded.source,
        caveats=tuple(dict.fromkeys(caveats)),
    )
    return _without_refits(target, layer["lost"]) if layer["lost"] else target


def _booster(layer: Mapping[str, Any], source: Source) -> Target:
    name = layer["file"]
    loaded = files.parsed(source.stored.read(name), source.stored.path(name))
    target = make_trees(loaded.model, device=source.device)
    caveats = (*target.caveats, *layer["caveats"])
    return replace(
        target,
        **_said(layer),
        source=loaded.source,
        caveats=tuple(dict.fromkeys(caveats)),
    )


def _graph(layer: Mapping[str, Any], source: Source) -> Target:
    name, said = layer["file"], _said(layer)
    loaded = files.parsed(source.stored.read(name), source.stored.path(name))
    read = graphs.keras_target if layer["layer"] == "keras" else graphs.onnx_target
    target = read(layer, loaded, said)
    recipe, told = layer.get("recipe"), layer["lost"]
    if recipe is not None and target.recipe is not None:
        settings = {setting: recipe["settings"][setting] for setting in SETTINGS}
        pieces = _value(recipe["pieces"], TrainingPieces)
        target = replace(target, recipe=replace(target.recipe, **settings, pieces=pieces))
    elif recipe is not None:
        told = "its optimiser or layers are not those of Casemate's training loop"
    caveats = tuple(dict.fromkeys((*target.caveats, *layer["caveats"])))
    target = replace(target, **said, source=loaded.source, caveats=caveats)
    return _without_refits(target, told) if told else target


def _torch(layer: Mapping[str, Any], source: Source) -> Target:
    if source.factory is None:
        if layer["file"] is not None:
            raise InvalidData(
                f"{source.stored.folder} holds the weights of a torch module; pass factory= (--factory "
                "package.module:function), the function that returned the model before it was hardened"
            )
        return _absent(layer, source)
    given = innermost(source.made(source.factory))
    if not isinstance(given, TorchTarget):
        raise InvalidData(f"factory {source.factory!r} returned no torch model; got a {given.kind} target")
    recipe = _hardened_recipe(layer["recipe"], given.recipe)
    model, origin = given.model, None
    if layer["file"] is not None:
        path = source.stored.path(layer["file"])
        raw = source.stored.read(layer["file"])
        weights = files.weights_in(raw, path.name)
        # a model that only something was put in front of may itself have come from such a folder
        trained_here = layer["retrained"] or not modules.alike(given.model, weights)
        if trained_here and recipe is not None:
            skeleton = modules.fresh(recipe, layer["shape"], given.model, weights)
        else:
            skeleton = modules.copied(given.model)
        model = files.filled(skeleton, weights, path.name, f"the module of {source.factory!r}")
        entry = source.stored.listed[layer["file"]]
        origin = {"path": str(path), "sha256": entry["sha256"], "format": "safetensors"}
    made = cast(TorchTarget, torch_adapter.make(model, device=source.device))
    made = replace(
        made,
        **_said(layer),
        outputs=layer["outputs"],
        recipe=recipe,
        batch_size=given.batch_size,
        source=origin,
        caveats=tuple(dict.fromkeys((*made.caveats, *layer["caveats"]))),
    )
    if recipe is not None or (layer["recipe"] is None and not layer["lost"]):
        return made
    why = (
        layer["lost"]
        or f"{source.factory} returns a module without its Recipe; return cm.wrap(model, recipe=...)"
    )
    return replace(made, caveats=(*made.caveats, f"{LOST}: {why}"))


def _absent(layer: Mapping[str, Any], source: Source) -> Target:  # noqa: ARG001  # layers have one signature
    return Absent(named=layer["kind"], caveats=tuple(layer["caveats"]), **_said(layer))


def _said(layer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the task and the classes of a model, as a target takes them."""
    if layer["task"] not in get_args(Task):
        raise InvalidData(
            f"its change.json has a task {layer['task']!r:.40}; a newer Casemate may have written it"
        )
    return {"task": layer["task"], "classes": _labels(layer["classes"])}


def _labels(raw: Any) -> tuple[Any, ...]:
    found = restored(raw)
    if not isinstance(found, tuple) or not all(isinstance(label, (str, int, float)) for label in found):
        raise InvalidData("its change.json has classes that are no list of labels")
    return found


def _hardened_recipe(stored: Mapping[str, Any] | None, given: Any) -> Recipe | None:
    """Put the recipe together: settings and pieces from the folder, code from the function that was given."""
    if stored is None:
        return None
    code = {}
    for name in CODE:
        if stored[name] != ORIGINAL:
            code[name] = restored(stored[name])
        elif isinstance(given, Recipe):
            code[name] = getattr(given, name)
        else:
            return None
    settings = {name: stored["settings"][name] for name in SETTINGS}
    pieces = None if stored["pieces"] is None else _value(stored["pieces"], TrainingPieces)
    return Recipe(**settings, **code, pieces=pieces)


def _without_refits(target: Target, why: str) -> Target:
    told = replace(target, caveats=(*target.caveats, f"{LOST}: {why}"))
    return told.limited_to(*(capability for capability in Capability if capability is not REFIT))


def _front(base: Target, layer: Mapping[str, Any], source: Source) -> Target:
    kind = layer.get("layer")
    common = shared(base) | ({} if layer["claims"] else {"claims": ()})
    if kind == "rounded":
        if layer["digits"] not in range(13):  # as the method does
            raise InvalidData("its change.json has digits that are no whole number from 0 to 12")
        return RoundedTarget(base=base, digits=int(layer["digits"]), **common)
    if kind == "calibrated":
        way, mapping = _value(layer["calibrator"], Calibrator), _value(layer["map"], Map)
        mapping(np.zeros((2, len(base.classes))))  # what does not fit is found out here and not in an audit
        return Calibrated(base=base, calibrator=way, mapping=mapping, **common)
    if kind == "limited":
        allowed = frozenset(Capability(name) for name in layer["allowed"])
        return Limited(base=base, allowed=allowed, n_queries=layer["n_queries"], **common)
    if kind == "distilled":
        return _distilled(base, layer, source, common)
    raise InvalidData(f"its change.json has a layer {kind!r}; a newer Casemate may have written it")


def _value(raw: Any, cls: type[_T]) -> _T:
    """Rebuild a value that must be of this class."""
    found = restored(raw)
    if not isinstance(found, cls):
        raise InvalidData(f"its change.json has a {type(found).__name__} where a {cls.__name__} belongs")
    return found


def _distilled(base: Target, layer: Mapping[str, Any], source: Source, common: dict[str, Any]) -> Target:
    student, read = _value(layer["student"], Student), _value(layer["read"], Schema)
    raw, path = source.stored.read(layer["file"]), source.stored.path(layer["file"])
    fitted: Fitted | Network
    if student.kind == "network":
        device = source.device or "cpu"
        fitted = Network(
            model=modules.student(files.weights_in(raw, path.name), path.name, device), device=device
        )
    else:
        model = files.parsed(raw, path).model
        columns = _value(layer["columns"], Columns)
        if not all(isinstance(part, np.ndarray) for part in vars(columns).values()):
            raise InvalidData("its change.json has columns of a student that are no arrays")
        fitted = Fitted(kind=student.kind, model=model, columns=columns, power=float(layer["power"]))
        if read.input == "table":
            fitted.scores(np.zeros((2, len(read.columns))))
    told = ""
    if layer["public"]:
        told = f"{LOST}: its student learnt on public rows, which no folder holds"
    elif isinstance(base, Absent) and not any(caveat.startswith(LOST) for caveat in base.caveats):
        told = f"{LOST}: its teacher is a torch model, and factory= (--factory package.module:function) was not given"
    elif isinstance(base, SklearnTarget):
        told = "the folder keeps the teacher of this distilled model as settings alone: it is trained again for refits"
    caveats = (*base.caveats, told) if told else base.caveats
    common |= {"source": None, "history": (), "caveats": caveats}
    # bound to data, a target takes over what its base says
    behind = replace(base, caveats=caveats)
    return Distilled(base=behind, student=student, fitted=fitted, read=read, **common)
