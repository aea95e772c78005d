# SPDX-License-Identifier: Apache-2.0
"""Any predict function, or an endpoint that is asked over HTTP, as a target: it takes what the user's model takes and
returns probabilities or labels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np

from casemate.adapters import _shared
from casemate.adapters.endpoint import Endpoint
from casemate.core.data import Dataset
from casemate.core.errors import InvalidData
from casemate.core.types import LABELS, SCORES, Capability, Recipe, Target, Task
from casemate.training.isolation import user_code


@dataclass(frozen=True, kw_only=True)
class RemoteTarget(Target):
    """A function of the user's rows (frame, array, images or texts) behind which the model is out of sight.

    With ``outputs="scores"`` the columns of what it returns are in the order of ``classes``; where those were not
    given, in sorted order of the labels in the data, which stands as a caveat. It is asked once and never again.

    >>> RemoteTarget(predict=lambda x: np.full((len(x), 2), 0.5), outputs="scores", classes=(0, 1)).scores(
    ...     np.zeros((1, 3))
    ... )
    array([[0.5, 0.5]])
    """

    predict: Callable[[Any], Any]
    outputs: Literal["scores", "labels"] = "scores"

    @property
    def capabilities(self) -> frozenset[Capability]:
        scored = self.outputs == "scores" and self.task != "regression"
        return frozenset({LABELS, SCORES} if scored else {LABELS})

    @property
    def kind(self) -> str:
        return "HTTP endpoint" if isinstance(self.predict, Endpoint) else "predict function"

    def native_classes(self) -> tuple[Any, ...] | None:
        return None

    def digest(self) -> str:
        """Return a digest of the function's name or the endpoint's address: what it computes is not seen."""
        if isinstance(self.predict, Endpoint):
            return self.predict.digest
        named = self.predict if hasattr(self.predict, "__qualname__") else type(self.predict)
        name = f"{named.__module__}.{named.__qualname__}"
        return hashlib.blake2b(name.encode(), digest_size=32).hexdigest()

    def labels(self, x: Any) -> np.ndarray:
        if SCORES in self.capabilities:
            best: np.ndarray = self.scores(x).argmax(1)
            return best
        raw, n = self._asked(x)
        if self.task == "regression":
            return _shared.real_values(raw, n, self._name)
        if np.ndim(raw) == 2 and np.shape(raw)[1] > 1:
            raise InvalidData(
                f"{self._name} returned shape {np.shape(raw)} but outputs='labels' means one label a row; "
                "wrap it with outputs='scores' if these are class probabilities"
            )
        return _shared.class_indices(raw, n, self.classes, self._name)

    def scores(self, x: Any) -> np.ndarray:
        if SCORES not in self.capabilities:
            raise self._missing(SCORES)
        raw, n = self._asked(x)
        return _shared.probabilities(raw, n, len(self.classes), self._name)

    def bind(self, data: Dataset) -> tuple[Target, Dataset]:
        """Agree with ``data``; without ``classes=`` the order of the columns is a guess, and said to be one."""
        bound, coded = super().bind(data)
        if self.schema is None and not self.classes and SCORES in bound.capabilities:
            guess = f"classes= was not given: column i of the scores is taken to be label i of {list(bound.classes)}"
            bound = replace(bound, caveats=(*bound.caveats, guess))
        return bound, coded

    @property
    def _name(self) -> str:
        if isinstance(self.predict, Endpoint):
            return self.predict.place
        name = getattr(self.predict, "__name__", type(self.predict).__name__)
        return "the predict function" if name == "<lambda>" else f"{name}()"

    def _asked(self, x: Any) -> tuple[Any, int]:
        n = _shared.n_rows(x, self.schema)
        rows = x if self.schema is None else self.schema.decode(x)
        if isinstance(self.predict, Endpoint):
            return self.predict(rows), n
        with user_code(self._name, "it is given the rows in the form the data came in"):
            return self.predict(rows), n


def accepts(obj: Any) -> bool:
    """Tell whether ``obj`` is a predict function.

    >>> accepts(len), accepts(3)
    (True, False)
    """
    return callable(obj)


def make(
    obj: Any,
    *,
    task: Task | None = None,
    classes: Sequence[Any] | None = None,
    recipe: Recipe | None = None,
    outputs: str | None = None,
    device: str | None = None,
) -> Target:
    """Make a target of a predict function.

    Raises:
        InvalidData: a class instead of a function, or an option that does not apply.

    >>> make(len, outputs="labels").capabilities
    frozenset({<Capability.LABELS: 'labels'>})
    """
    if isinstance(obj, type):
        raise InvalidData(f"{obj.__name__} is a class; wrap an instance of it or a predict function")
    _shared.refuse(
        "predict-function", "Casemate does not see behind the function", recipe=recipe, device=device
    )
    if outputs not in (None, "scores", "labels"):
        raise InvalidData(
            f"outputs={outputs!r} does not apply to a predict function; use 'scores' or 'labels'"
        )
    if task == "regression" and outputs == "scores":
        raise InvalidData(
            "outputs='scores' does not apply to regression; the function returns one number a row"
        )
    chosen = cast(Literal["scores", "labels"], outputs or "scores")
    made = RemoteTarget(predict=obj, outputs=chosen, task=task, classes=_shared.plain_classes(classes))
    if isinstance(obj, Endpoint):
        source = {"endpoint": obj.place, "form": obj.form, "authorised": obj.authorised}
        made = replace(made, source=source, caveats=obj.caveats)
    return made
