# SPDX-License-Identifier: Apache-2.0
"""torch modules as targets. Tables reach the module as encoded float columns in Schema order (categories as codes)."""

from __future__ import annotations

import copy
import hashlib
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np

from casemate.adapters import _shared
from casemate.core.data import Dataset
from casemate.core.errors import InvalidData
from casemate.core.extras import lazy
from casemate.core.nodes import softmax
from casemate.core.types import (
    LABELS,
    LOGITS,
    MODULE,
    REFIT,
    SCORES,
    Capability,
    Recipe,
    Target,
    Task,
    shortened,
)
from casemate.training import loop, modules
from casemate.training.isolation import user_code
from casemate.training.modules import Outputs
from casemate.training.steps import Facts, asleep

torch = lazy("torch")

# A module has one train/eval mode: while one thread has it in eval mode, no other may see or restore it.
_MODE = threading.RLock()
ADVICE = (
    "it is given encoded rows as floats: (n, columns) for tables, (n, channels, height, width) for images"
)


@dataclass(frozen=True, kw_only=True)
class TorchTarget(Target):
    """A module and what its outputs are. Parameters, buffers, hooks and modes of the module are left as they were.

    The module returns (n, classes), or (n,) or (n, 1) for two classes, or one number a row for regression.
    ``outputs=None`` means: look at the first rows. It runs in its own dtype on ``device``; scores are the softmax
    of float64 logits. One thread at a time.

    >>> net = torch.nn.Linear(2, 3)
    >>> make(net).scores(np.zeros((4, 2))).shape
    (4, 3)
    """

    model: Any
    outputs: Outputs | None = None
    batch_size: int = 1024

    @property
    def capabilities(self) -> frozenset[Capability]:
        offered = {LABELS, MODULE} if self.task == "regression" else {LABELS, SCORES, LOGITS, MODULE}
        return frozenset(offered | {REFIT} if self.recipe is not None else offered)

    @property
    def kind(self) -> str:
        return "torch"

    def native_classes(self) -> tuple[Any, ...] | None:
        return None

    def digest(self) -> str:
        """Return the blake2b digest of the module's class and every named parameter and buffer."""
        digest = hashlib.blake2b(digest_size=32)
        digest.update(f"{type(self.model).__module__}.{type(self.model).__qualname__}".encode())
        for name, value in sorted(self.model.state_dict().items()):
            if isinstance(value, torch.Tensor):
                flat = value.detach().to("cpu").contiguous().reshape(-1)
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                if flat.numel():  # an empty tensor has no bytes to view
                    digest.update(flat.view(torch.uint8).numpy().tobytes())
            else:
                digest.update(f"{name} {value!r}".encode())
        return digest.hexdigest()

    def labels(self, x: Any) -> np.ndarray:
        if self.task == "regression":
            raw = self._raw(x)
            return _shared.real_values(raw.double().numpy(), len(raw), "the module")
        return self.logits(x).argmax(1)

    def scores(self, x: Any) -> np.ndarray:
        if self.task == "regression":
            raise self._missing(SCORES)
        return softmax(self.logits(x))

    def logits(self, x: Any) -> np.ndarray:
        if self.task == "regression":
            raise self._missing(LOGITS)
        raw = self._raw(x)
        outputs = self.outputs or _outputs_of(raw[:64])
        floor = torch.finfo(raw.dtype).tiny  # of the module's dtype, as in module()
        logits: np.ndarray = modules.as_logits(raw.double(), outputs, floor).numpy()  # (n, classes)
        # minus infinity is a class that is ruled out; NaN, infinity or nothing but -inf is no answer
        fine = np.isfinite(logits).all()  # nearly always, and one pass
        if not fine and (n := int((np.isnan(logits).any(1) | ~np.isfinite(logits.max(1))).sum())):
            what = "NaN" if np.isnan(logits).any() else "infinite logits"
            raise InvalidData(
                f"the module returned {what} for {n} of {len(logits)} rows; fill missing cells before it"
            )
        if self.classes and logits.shape[1] != len(self.classes):
            raise InvalidData(f"the module returned {logits.shape[1]} classes; there are {len(self.classes)}")
        return logits

    def module(self) -> Any:
        """Return a frozen copy in eval mode: encoded x of any float dtype to logits (n, classes), or values (n, 1)."""
        with user_code("copying the module", "it must allow copy.deepcopy"), _MODE, torch.no_grad():
            frozen = copy.deepcopy(self.model)
        frozen.eval()
        for parameter in frozen.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
        outputs = self.outputs or "logits"
        if self.outputs is None and self.task != "regression":
            raise InvalidData(
                "what the module returns is not known yet; bind it to data or wrap(model, outputs=...)"
            )
        view = modules.Logits(frozen, outputs, loop.float_dtype(frozen), self.task == "regression")
        return view.eval()

    def refit(self, x: Any, y: np.ndarray, seed: int) -> Target:
        return self.refit_people(x, y, seed, person=None)

    def refit_people(self, x: Any, y: np.ndarray, seed: int, *, person: np.ndarray | None) -> Target:
        if self.recipe is None:
            raise self._missing(REFIT)
        _shared.n_rows(x, self.schema)
        regression = self.task == "regression"
        if regression != (self.recipe.loss == "mse"):
            needed = "mse" if regression else "cross_entropy"
            raise InvalidData(
                f"Recipe(loss={self.recipe.loss!r}) does not fit task {self.task!r}; use {needed!r}"
            )
        trained = loop.train(
            replace(self.recipe, factory=self._fresh),
            x,
            y,
            seed=seed,
            device=self.device,
            facts=Facts(
                n_classes=None if regression else len(self.classes) or None,
                outputs=self.outputs or "logits",
                schema=self.schema,
                person=person,
            ),
        )
        return replace(self, model=trained.model, source=None, claims=(), history=trained.history)

    def with_recipe(self, recipe: Recipe | Mapping[str, Any]) -> Target:
        if not isinstance(recipe, Recipe):
            raise InvalidData(f"a torch target is trained by a casemate.Recipe; got {type(recipe).__name__}")
        return replace(self, recipe=recipe)

    def bind(self, data: Dataset) -> tuple[Target, Dataset]:
        """Agree with ``data``: ask the module a few rows to learn what it returns and how many classes it has."""
        if data.classes and self.schema is data.schema:
            return self, data
        if data.schema.input == "text":
            raise InvalidData(
                "a torch module takes numbers, this data is text; wrap a predict function instead"
            )
        if (self.task or data.guess_task()) == "regression":
            return super().bind(data)
        # as the target will be, but with the classes still open
        ready = replace(self, schema=data.schema, classes=())
        raw = ready._raw(data.train.x[:64])
        outputs = self.outputs or _outputs_of(raw)
        n_classes = 2 if raw.ndim == 1 or raw.shape[1] == 1 else raw.shape[1]
        classes, caveats = self.classes, list(self.caveats)
        if not classes:
            seen = data.labels_seen()
            if not all(isinstance(label, int) and 0 <= label < n_classes for label in seen):
                raise InvalidData(
                    f"the module has {n_classes} outputs but the labels are {shortened(seen)}; "
                    "wrap(model, classes=[...]) with the label of each output in order, or task='regression'"
                )
            classes = tuple(range(n_classes))
        if len(classes) != n_classes:
            raise InvalidData(f"classes= names {len(classes)} labels but the module has {n_classes} outputs")
        if outputs == "probabilities":
            taken = (
                ""
                if self.outputs
                else "its rows sum to one, so they are taken to be probabilities (outputs=): "
            )
            caveats.append(
                f"{taken}logits are the logarithm of the module's probabilities, cut off where its dtype saturates"
            )
        told = replace(self, classes=classes, outputs=outputs, caveats=tuple(caveats))
        return super(TorchTarget, told).bind(data)

    def _fresh(self) -> Any:
        """Build a new module by the recipe and make sure that it is none of the user's."""
        model = cast(Recipe, self.recipe).factory()
        own = {id(part) for part in (self.model, *self.model.parameters())}
        if isinstance(model, torch.nn.Module) and own & {id(part) for part in (model, *model.parameters())}:
            raise InvalidData(
                "Recipe(factory=) returned the model under test; it must build a fresh one each time"
            )
        return model

    def _raw(self, x: Any) -> Any:
        """Return the module's output for all rows, on the CPU in its own dtype: (n,) or (n, outputs)."""
        n = _shared.n_rows(x, self.schema)
        where, dtype = torch.device(self.device), loop.float_dtype(self.model)
        parts = []
        with user_code("the module", ADVICE), _MODE, asleep(self.model), torch.no_grad():
            for start in range(0, n, self.batch_size):
                rows = loop.tensor(x[start : start + self.batch_size], where, dtype)
                parts.append(modules.check_output(self.model(rows), len(rows)).to("cpu"))
            return torch.cat(parts)


def _outputs_of(raw: Any) -> Outputs:
    """Tell logits from probabilities by a few rows (n,) or (n, outputs) of them."""
    flat = raw.double()
    if raw.ndim == 1 or raw.shape[1] == 1:
        if bool(((flat >= 0) & (flat <= 1)).all()):
            raise InvalidData(
                "the module's single output lies in [0, 1] on the first rows, as a probability or as a logit would; "
                "say which: wrap(model, outputs='probabilities') or outputs='logits'"
            )
        return "logits"
    slack = max(1e-5, 2 * torch.finfo(raw.dtype).eps)  # a softmax in half precision sums to one no nearer
    summed = bool((flat >= 0).all() and ((flat.sum(1) - 1).abs() <= slack).all())
    return "probabilities" if summed else "logits"


def accepts(obj: Any) -> bool:
    """Tell whether ``obj`` is an ``nn.Module``; torch is not imported for it.

    >>> accepts(len)
    False
    """
    loaded = sys.modules.get("torch")
    return loaded is not None and hasattr(loaded, "nn") and isinstance(obj, loaded.nn.Module)


def make(
    obj: Any,
    *,
    task: Task | None = None,
    classes: Sequence[Any] | None = None,
    recipe: Recipe | None = None,
    outputs: str | None = None,
    device: str | None = None,
) -> Target:
    """Make a target of a module; on another ``device`` than its own it works on a copy there.

    Raises:
        InvalidData: parameters on several devices, or an option that does not apply.

    >>> make(torch.nn.Linear(2, 2), outputs="logits").kind
    'torch'
    """
    if outputs not in (None, "logits", "probabilities"):
        raise InvalidData(
            f"outputs={outputs!r} does not apply to a torch module; use 'logits' or 'probabilities'"
        )
    if task == "regression" and (outputs is not None or classes is not None):
        raise InvalidData(
            "outputs= and classes= do not apply to regression; the module returns one number a row"
        )
    homes = sorted({str(tensor.device) for tensor in (*obj.parameters(), *obj.buffers())})
    if len(homes) > 1:
        raise InvalidData(f"the module lies on several devices ({', '.join(homes)}); move it to one")
    home = homes[0] if homes else "cpu"
    if home == "meta":
        raise InvalidData("the module lies on the meta device: it has no values; load its weights first")
    model, where = obj, device or home
    try:
        same = torch.device(where) == torch.device(home)
        if not same:
            model = copy.deepcopy(obj).to(where)
            where = next((str(part.device) for part in model.parameters()), where)
    except RuntimeError as error:
        raise InvalidData(f"device={device!r} cannot be used: {str(error).splitlines()[0]}") from error
    return TorchTarget(
        model=model,
        task=task,
        classes=_shared.plain_classes(classes),
        recipe=recipe,
        outputs=cast("Literal['logits', 'probabilities'] | None", outputs),
        device=where,
    )
