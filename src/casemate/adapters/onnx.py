# SPDX-License-Identifier: Apache-2.0
"""ONNX models as targets: answers from onnxruntime on one CPU thread, gradients from a copy in torch where it agrees.

The bytes are scanned first and nothing beside them is read. What the outputs are is found out on rows of the data;
in front of a last softmax or sigmoid the logits themselves are read from the graph.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np

from casemate.adapters import _onnx_feed, _onnx_model, _onnx_trees, _shared
from casemate.adapters import torch as _torch
from casemate.adapters._onnx_feed import Feed
from casemate.adapters._onnx_model import Held, Reading
from casemate.core.data import Dataset
from casemate.core.errors import InvalidData, MissingExtra
from casemate.core.extras import installed
from casemate.core.limited import shared
from casemate.core.nodes import NodeTable, softmax, two_columns
from casemate.core.pickles import read_file
from casemate.core.schema import Schema
from casemate.core.types import (
    LABELS,
    LOGITS,
    MODULE,
    REFIT,
    SCORES,
    TREES,
    Capability,
    Recipe,
    Target,
    Task,
    plain_label,
    shortened,
)
from casemate.training import modules

Answers = Literal["", "logits", "probabilities", "votes", "labels", "values"]
CHOICES = ("logits", "probabilities", "labels")
MAX_ROWS, MAX_CELLS = 1024, 2**24  # of one batch
FEW = 32  # rows on which the outputs are looked at and the copy in torch is compared
TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, kw_only=True)
class OnnxTarget(Target):
    """The bytes of a model, and what was found out about its inputs and outputs on rows of the data.

    SCORES where its outputs are logits or probabilities; LOGITS where it returns them, where they go into its last
    softmax or sigmoid, or as the logarithm of what the copy in torch returns; MODULE where that copy agreed with
    onnxruntime; REFIT by a :class:`Recipe` alone, which trains a torch module.
    """

    held: Held
    outputs: str | None = None  # as the user said
    answers: Answers = ""
    feed: Feed | None = None
    rows: int | None = None  # that go in at once: as exported, or one where rows of a batch touch each other
    whole: bool = True  # the copy in torch takes any number of rows
    exact_module: bool = False
    exact_logits: bool = False  # what goes into the last operator was seen to give what comes out of it
    table: NodeTable | None = None  # of its trees, which gave what the model gave
    labelled: bool = False  # the label output was seen to hold labels of the classes
    preview: tuple[str, ...] = ()  # caveats of a look without data, which a look at data replaces

    @property
    def capabilities(self) -> frozenset[Capability]:
        offered = {LABELS}
        if self.answers in ("logits", "probabilities"):
            offered |= {SCORES}
            if self.answers == "logits" or self.exact_logits or self.exact_module:
                offered |= {LOGITS}
        if self.exact_module:
            offered |= {MODULE}
        if self.table is not None:
            offered |= {TREES}
        return frozenset(offered | {REFIT} if self.recipe is not None else offered)

    @property
    def kind(self) -> str:
        return "ONNX"

    def native_classes(self) -> tuple[Any, ...] | None:
        return self._reading.classes or None

    def digest(self) -> str:
        """Return the blake2b digest of the model's bytes."""
        return hashlib.blake2b(self.held.raw, digest_size=32).hexdigest()

    def labels(self, x: Any) -> np.ndarray:
        found = self._asked(x)
        if self.answers == "values":
            return _shared.real_values(found[self._reading.values], len(x), "the ONNX model")
        if self.answers not in ("labels", "votes"):
            logits = self._logits(found, len(x))
            if not self.labelled:
                best: np.ndarray = logits.argmax(1)
                return best
        elif self.answers == "votes":
            return np.asarray(self._checked(found[self._reading.values], len(x)).argmax(1))
        return _shared.class_indices(found[self._reading.label], len(x), self.classes, "the ONNX model")

    def scores(self, x: Any) -> np.ndarray:
        if SCORES not in self.capabilities:
            raise self._missing(SCORES)
        found = self._asked(x)
        if self.answers == "logits":
            return softmax(self._logits(found, len(x)))
        given = self._checked(found[self._reading.values], len(x))
        given = np.hstack([1.0 - given, given]) if given.shape[1] == 1 else given
        return _shared.probabilities(given, len(x), len(self.classes) or given.shape[1], "the ONNX model")

    def logits(self, x: Any) -> np.ndarray:
        if LOGITS not in self.capabilities:
            raise self._missing(LOGITS)
        return self._logits(self._asked(x), len(x))

    def module(self) -> Any:
        """Return the copy in torch: encoded x of any float dtype to logits (n, classes), or values (n, 1)."""
        if not self.exact_module:
            raise self._missing(MODULE)
        return self._module(whole=self.whole)

    def trees(self) -> NodeTable:
        if self.table is None:
            raise self._missing(TREES)
        return self.table

    def refit(self, x: Any, y: np.ndarray, seed: int) -> Target:
        return self.refit_people(x, y, seed, person=None)

    def refit_people(self, x: Any, y: np.ndarray, seed: int, *, person: np.ndarray | None) -> Target:
        """Train a torch module by the Recipe: an ONNX file cannot be trained."""
        if self.recipe is None:
            raise self._missing(REFIT)
        fresh = _torch.TorchTarget(model=self.recipe.factory(), **shared(self))
        return fresh.refit_people(x, y, seed, person=person)

    def with_recipe(self, recipe: Recipe | Mapping[str, Any]) -> Target:
        if not isinstance(recipe, Recipe):
            raise InvalidData(f"an ONNX target is trained by a casemate.Recipe; got {type(recipe).__name__}")
        return replace(self, recipe=recipe)

    def bind(self, data: Dataset) -> tuple[Target, Dataset]:
        """Agree with ``data``: what the inputs take, what the outputs are, whether the copy in torch may be used."""
        if data.classes and self.schema is data.schema:
            return self, data
        few = data.train.x[:FEW]
        shape = np.shape(few) if data.schema.input != "text" else (len(few),)
        feed = _onnx_feed.plan(self._reading.inputs, data.schema, shape)
        notes = [caveat for caveat in self.caveats if caveat not in self.preview]
        notes += [*feed.caveats, *filter(None, [self._reading.note])]
        ready = replace(
            self,
            schema=data.schema,
            feed=feed,
            classes=(),
            exact_module=False,
            exact_logits=False,
            table=None,
            rows=feed.batch,
            labelled=False,
            caveats=(),
            preview=(),
        )
        ready, touching = ready._settled(few)
        notes += touching
        task = self.task or (data.guess_task() if self._may_be_number else "multiclass")
        answers, why = ready._meaning(few, regression=task == "regression")
        notes += why
        ready = replace(ready, answers=answers, task=task, caveats=())
        if answers != "values":
            ready, guessed = ready._with_classes(few, self.classes, data)
            notes += guessed
        bound, coded = super(OnnxTarget, replace(ready, schema=None)).bind(data)
        found = replace(cast(OnnxTarget, bound), exact_logits=ready._before_holds(few))
        found, reason = found._believed(few)
        notes += [f"no gradients: {reason}"] if reason else []
        if found.answers == "probabilities" and LOGITS in found.capabilities and not found.exact_logits:
            notes.append("logits are the logarithm of the model's probabilities, cut off where float32 ends")
        if found.answers in ("values", "probabilities") and cast(Feed, found.feed).form == "whole":
            found = replace(found, table=_onnx_trees.agreed(found.held.proto, found, few))
        return replace(found, caveats=tuple(dict.fromkeys(notes))), coded

    # ---- what the graph is

    @property
    def _reading(self) -> Reading:
        return self.held.reading

    @property
    def _may_be_number(self) -> bool:
        """Whether the graph leaves open if it is a classifier: nothing but one number a row comes out."""
        reading = self._reading
        return not (reading.label or reading.classes or reading.ends or self.classes or self.outputs)

    # ---- asking it

    def _asked(self, x: Any) -> dict[str, Any]:
        """Return the outputs for all rows by name, run in batches of what the graph takes."""
        n = _shared.n_rows(x, self.schema)
        feed = self.feed
        if feed is None:
            feed = self._unbound(x)
        cells = 1 if isinstance(x, list) else max(1, int(np.prod(np.shape(x)[1:])))
        step = self.rows or feed.batch or max(1, min(MAX_ROWS, MAX_CELLS // cells))
        exact = feed.batch is not None
        parts: dict[str, list[Any]] = {name: [] for name in self.held.engine.outputs}
        for start in range(0, n, step):
            rows = x[start : start + step]
            spare = step - len(rows) if exact else 0  # a graph of a fixed batch gets its last row again
            if spare:
                rows = [*rows, *rows[-1:] * spare] if isinstance(rows, list) else np.concatenate(
                    [rows, np.repeat(rows[-1:], spare, 0)]
                )  # fmt: skip
            for name, value in self.held.engine.run(feed.arrays(rows)).items():
                parts[name].append(self._of_rows(name, value, len(rows))[: len(rows) - spare])
        return {name: found[0] if len(found) == 1 else np.concatenate(found) for name, found in parts.items()}

    def _unbound(self, x: Any) -> Feed:
        rows = list(x) if isinstance(x, list) else np.asarray(x)
        schema = Schema(input="text") if isinstance(rows, list) else Schema.infer(rows)
        return _onnx_feed.plan(self._reading.inputs, schema, np.shape(rows))

    def _of_rows(self, name: str, value: Any, n: int) -> np.ndarray:
        found = np.asarray(value)
        if found.ndim == 0 or len(found) != n:
            raise InvalidData(
                f"the ONNX model returned {name!r} of shape {found.shape} for {n} rows; it must return one answer a row"
            )
        return found

    def _checked(self, raw: np.ndarray, n: int) -> np.ndarray:
        """Return numbers as float64 (n, outputs), none of them NaN."""
        values = raw.astype(np.float64)
        values = values.reshape(n, -1) if values.ndim > 2 and values.size == n * values.shape[1] else values
        values = values[:, None] if values.ndim == 1 else values
        if values.ndim != 2 or not values.shape[1]:
            raise InvalidData(
                f"the ONNX model returned shape {raw.shape} for {n} rows; it must return (n, classes)"
            )
        if np.isfinite(values).all():
            return values
        if bad := int((np.isnan(values).any(1) | ~np.isfinite(values.max(1))).sum()):
            what = "NaN" if np.isnan(values).any() else "infinite numbers"
            raise InvalidData(
                f"the ONNX model returned {what} for {bad} of {n} rows; fill missing cells before it"
            )
        return values

    def _logits(self, found: Mapping[str, Any], n: int) -> np.ndarray:
        values = self._checked(found[self._reading.values], n)
        if self.answers != "logits" and self.exact_logits:
            values = self._checked(found[self._reading.before], n)
        elif self.answers != "logits":
            values = np.hstack([1.0 - values, values]) if values.shape[1] == 1 else values
            values = np.log(np.maximum(values, TINY))
        out = two_columns(values) if values.shape[1] == 1 else values
        if self.classes and out.shape[1] != len(self.classes):
            raise InvalidData(
                f"the ONNX model returned {out.shape[1]} classes; there are {len(self.classes)}"
            )
        return out

    # ---- finding out

    def _settled(self, few: Any) -> tuple[OnnxTarget, list[str]]:
        """Find how many rows may go in at once: all, unless the graph fails on several or they touch each other."""
        if self.rows is not None or len(few) < 2:
            return self, []
        alone = replace(self, rows=1)
        single = alone._asked(few[:3])
        try:
            several = self._asked(few[:3])
        except InvalidData:
            return alone, ["the model fails on several rows at once: it is asked one by one"]
        if all(_near(single[name], several[name]) for name in single):
            return self, []
        return alone, ["rows of one batch touch each other in this model: it is asked one by one"]

    def _meaning(self, few: Any, *, regression: bool) -> tuple[Answers, list[str]]:
        """Tell what the outputs are, by the user's word, the last operator, and some rows."""
        reading, notes = self._reading, list[str]()
        found = self._asked(few)
        if not reading.values or self.outputs == "labels":
            if not reading.label:
                raise InvalidData("outputs='labels' does not apply: the ONNX model returns no labels")
            if regression:
                raise InvalidData(f"the ONNX model returns labels {reading.label!r}, which is no regression")
            return "labels", ["the model returns labels alone"] if not reading.values else notes
        values = self._checked(found[reading.values], len(few))
        if regression:
            if values.shape[1] != 1:
                raise InvalidData(
                    f"the ONNX model predicts {values.shape[1]} values a row; export one model for each, or pass the "
                    "label column of a classifier"
                )
            return "values", notes
        if self.outputs in ("logits", "probabilities"):
            return self.outputs, notes  # type: ignore[return-value]  # one of Answers
        inside = bool((values >= 0).all() and (values <= 1 + 1e-6).all())
        if values.shape[1] == 1:
            if reading.ends == "sigmoid":
                return "probabilities", notes
            if inside:
                raise InvalidData(
                    "the ONNX model's single output lies in [0, 1] on the first rows, as a probability or as a logit "
                    "would; say which: wrap(model, outputs='probabilities') or outputs='logits'"
                )
            return "logits", notes
        summed = inside and bool((np.abs(values.sum(1) - 1) <= 1e-4).all())
        if summed:
            if reading.ends != "softmax" and not reading.classes:
                notes.append("its rows sum to one, so they are taken to be probabilities (outputs=)")
            return "probabilities", notes
        if reading.ends == "sigmoid":
            return "votes", [
                "each class has a sigmoid of its own, which are no scores together: labels alone are used"
            ]
        if reading.label and self._is_svm:
            return "labels", ["its numbers are no probabilities: its labels alone are used"]
        if reading.label:
            notes.append("its numbers are no probabilities: they are taken to be logits (outputs=)")
        return "logits", notes

    @property
    def _is_svm(self) -> bool:
        """Whether a classifier of ai.onnx.ml gives decision values, whose softmax means nothing."""
        return any(node.op_type == "SVMClassifier" for node in self.held.proto.graph.node)

    def _with_classes(self, few: Any, said: tuple[Any, ...], data: Dataset) -> tuple[OnnxTarget, list[str]]:
        """Find the label of each output: as said, as the graph names them, or as the labels of the data suggest."""
        found = self._asked(few)
        own, seen = self._reading.classes, data.labels_seen()
        if self.answers == "labels":
            return replace(self, classes=said or own, labelled=True), []
        width = self._checked(found[self._reading.values], len(few)).shape[1]
        n_classes = 2 if width == 1 else width
        classes, notes = said or own, list[str]()
        if classes and len(classes) != n_classes:
            raise InvalidData(
                f"there are {len(classes)} class names but the ONNX model has {n_classes} outputs"
            )
        if not classes:
            if all(isinstance(label, int) and 0 <= label < n_classes for label in seen):
                classes = tuple(range(n_classes))
            elif len(seen) == n_classes:
                classes = tuple(map(plain_label, seen))
                notes.append(
                    f"classes= was not given: output i is taken to be label i of {shortened(classes)}"
                )
            else:
                raise InvalidData(
                    f"the ONNX model has {n_classes} outputs but the labels are {shortened(seen)}; "
                    "wrap(model, classes=[...]) with the label of each output in order"
                )
        ready = replace(self, classes=classes)
        if not self._reading.label or self.answers == "votes":
            return ready, notes
        own_labels = np.asarray(found[self._reading.label]).reshape(-1).tolist()
        best = ready._logits(found, len(few)).argmax(1)
        same = np.mean([plain_label(label) == classes[i] for label, i in zip(own_labels, best, strict=True)])
        if not said and not own and notes and same == 1:
            notes = []  # the model's own labels confirm the order
        if same < 0.5:
            raise InvalidData(
                f"the model's labels {shortened(own_labels)} are not those of its largest scores under classes "
                f"{shortened(classes)}; wrap(model, classes=[...]) in the order of its outputs"
            )
        return replace(ready, labelled=set(map(plain_label, own_labels)) <= set(classes)), notes

    def _before_holds(self, few: Any) -> bool:
        """Tell whether the softmax or sigmoid of what goes into the last operator is what comes out."""
        reading = self._reading
        if self.answers != "probabilities" or not reading.before:
            return False
        found = self._asked(few)
        inside, outside = (np.asarray(found[name], np.float64) for name in (reading.before, reading.values))
        if inside.shape != outside.shape or inside.ndim > 2:
            return False
        if reading.ends == "sigmoid":
            width = 1 if inside.ndim == 1 else inside.shape[1]
            return width == 1 and bool(np.allclose(1 / (1 + np.exp(-inside)), outside, atol=1e-5))
        return inside.ndim == 2 and bool(np.allclose(softmax(inside), outside, atol=1e-5))

    def looked(self) -> OnnxTarget:
        """Return this target with what seeded rows show of it, where the graph says their shape; data tells more."""
        port = self._reading.inputs[0]
        sizes = port.shape[1:] if port.shape else ()
        if len(self._reading.inputs) > 1 or port.dtype == "str" or not all(sizes) or len(sizes) not in (1, 3):
            return self
        cells = math.prod(size or 1 for size in sizes)
        if cells > MAX_CELLS:
            return self
        x = 4 * np.random.default_rng(0).random((8, *(size or 1 for size in sizes))) - 2
        try:
            feed = self._unbound(x)
            ready, _ = replace(self, feed=feed, rows=feed.batch)._settled(x)
            values = ready._asked(x).get(self._reading.values)
            if self._may_be_number and (
                values is None or values.size == len(values)
            ):  # a number or two classes
                return self
            answers, _ = ready._meaning(x, regression=False)
            two = self.task is not None and (values is None or values.ndim == 1 or values.shape[1] <= 2)
            ready = replace(
                ready, answers=answers, task="binary" if two and values is not None else self.task
            )
            ready, reason = replace(ready, exact_logits=ready._before_holds(x))._believed(x)
        except InvalidData:
            return self
        notes = (f"no gradients: {reason}",) if reason else ()
        return replace(ready, caveats=(*self.caveats, *notes), preview=notes)

    # ---- gradients

    @property
    def _inner(self) -> str:
        """The tensor of which the copy in torch is made: logits where the graph has them."""
        return self._reading.before if self.exact_logits else self._reading.values

    def _copied(self, *, whole: bool) -> Any:
        from casemate.adapters import _onnx_torch

        if self.feed is None:
            raise self._missing(MODULE)
        rows = None if whole else self.feed.batch or 1
        return _onnx_torch.converted(self.held.proto, self.feed, self._inner, rows=rows)

    def _module(self, *, whole: bool) -> Any:
        from casemate.adapters import _onnx_torch

        copy, feed = self._copied(whole=whole), self.feed
        outputs: modules.Outputs = "probabilities" if self.answers == "probabilities" else "logits"
        outputs = "logits" if self.exact_logits else outputs
        dtype = None if feed is None else _onnx_torch.dtype_of(feed)
        return modules.Logits(copy, outputs, dtype, self.answers == "values").eval()

    def _believed(self, few: Any) -> tuple[OnnxTarget, str]:
        """Return this target with gradients if the copy in torch agrees on rows of the data and inside its bounds."""
        from casemate.adapters import _onnx_ops, _onnx_torch

        feed = self.feed
        if feed is None or self.answers in ("votes", "labels"):
            return self, "the model gives labels, not numbers" if self.answers == "labels" else "no logits"
        if not installed("torch"):
            return self, 'torch is not installed (pip install "casemate[torch]")'
        if not feed.differentiable:
            return self, "the model takes text or categories"
        x = _probes(few, self.schema)
        x = (
            x if feed.ports[0].dtype.startswith("float") else np.round(x)
        )  # between whole numbers the copy is straight
        try:
            wanted = np.asarray(self._asked(x)[self._inner], np.float64)
            reason = ""
            for whole in (True, False) if self.rows is not None or feed.batch is not None else (True,):
                copy = self._copied(whole=whole)
                reason = _onnx_torch.compared(copy, self.held.proto, feed, wanted, x)
                if not reason:
                    return replace(self, exact_module=True, whole=whole), ""
        except _onnx_ops.Unconvertible as why:
            return self, str(why)
        return self, reason


def _probes(few: Any, schema: Schema | None) -> np.ndarray:
    """Return rows to compare on: of the data without missing cells, and seeded ones inside the bounds."""
    rows = np.asarray(few, np.float64)
    rows = rows[np.isfinite(rows).reshape(len(rows), -1).all(1)][:16]
    draw = np.random.default_rng(0).random((16, *np.shape(few)[1:]))
    if schema is None:
        return np.concatenate([rows, 4 * draw - 2])
    if schema.input == "image":
        low, high = schema.bounds or (0.0, 1.0)
        return np.concatenate([rows, low + (high - low) * draw])
    for i, column in enumerate(schema.columns):
        low, high = (
            (0.0, len(column.categories) - 1.0) if column.kind == "category" else (column.low, column.high)
        )
        if not np.isfinite(high - low):
            low, high = -column.spread, column.spread
        draw[:, i] = low + (high - low) * draw[:, i]
        if column.kind != "real":
            draw[:, i] = np.round(draw[:, i])
    return np.concatenate([rows, draw])


def _near(one: np.ndarray, other: np.ndarray) -> bool:
    if one.shape != other.shape:
        return False
    if one.dtype.kind != "f":
        return bool((one == other).all())
    return bool(np.allclose(one, other, rtol=1e-4, atol=1e-5, equal_nan=True))


def accepts(obj: Any) -> bool:
    """Tell whether ``obj`` is an ONNX model: bytes, a ModelProto or a session; neither package is imported for it.

    >>> accepts(len), accepts(b"")
    (False, True)
    """
    return (
        isinstance(obj, bytes)
        or _is(obj, "onnx", "ModelProto")
        or _is(obj, "onnxruntime", "InferenceSession")
    )


def _is(obj: Any, package: str, name: str) -> bool:
    loaded = sys.modules.get(package)
    return loaded is not None and isinstance(obj, getattr(loaded, name, ()))


def make(
    obj: Any,
    *,
    task: Task | None = None,
    classes: Sequence[Any] | None = None,
    recipe: Recipe | None = None,
    outputs: str | None = None,
    device: str | None = None,
) -> Target:
    """Make a target of the bytes of a model, a ModelProto or a session.

    Raises:
        HostileArtefact: a model that names files outside its folder, or sizes that would fill the memory.
        InvalidData: bytes that are no sound model, or an option that does not apply.
        MissingExtra: onnx or onnxruntime is not installed.
    """
    _shared.refuse("ONNX", "it runs on the CPU", device=None if device == "cpu" else device)
    if outputs not in (None, *CHOICES):
        raise InvalidData(
            f"outputs={outputs!r} does not apply to an ONNX model; use 'logits', 'probabilities' or 'labels'"
        )
    if task == "regression" and (outputs is not None or classes is not None):
        raise InvalidData(
            "outputs= and classes= do not apply to regression; the model returns one number a row"
        )
    for package in ("onnx", "onnxruntime"):
        if not installed(package):
            raise MissingExtra(f'{package} is not installed; this needs it: pip install "casemate[onnx]"')
    raw = _onnx_model.scanned(_bytes(obj), _onnx_model.NAME)
    target = OnnxTarget(
        held=Held(raw, (outputs or "")[:5]),
        task=task,
        classes=_shared.plain_classes(classes),
        recipe=recipe,
        outputs=outputs,
    )
    own = target.native_classes()
    target.held.engine.start()
    if task == "regression" and own:
        raise InvalidData(f"task='regression' does not fit an ONNX model of the classes {shortened(own)}")
    if task is None and not target._may_be_number:
        target = replace(target, task="binary" if len(classes or own or ()) == 2 else "multiclass")
    return target.looked()


def _bytes(obj: Any) -> bytes:
    """Return a model's bytes; those of a session are the ones that it was made from."""
    if isinstance(obj, bytes):
        return obj
    if _is(obj, "onnx", "ModelProto"):
        try:
            raw: bytes = obj.SerializeToString()
        except Exception as error:
            raise InvalidData(
                f"the ModelProto cannot be written ({str(error)[:100]}); it must be below 2 GiB"
            ) from error
        return raw
    held, path = getattr(obj, "_model_bytes", None), getattr(obj, "_model_path", None)
    if isinstance(held, bytes):
        return held
    if path is None:
        raise InvalidData(
            "the session does not say what it was made from; wrap the model's bytes or load its file"
        )
    return read_file(path)
