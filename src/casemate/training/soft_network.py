# SPDX-License-Identifier: Apache-2.0
"""A torch module that learns soft labels, from a Recipe or as a small network that reads any table or image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np

from casemate.core.errors import InvalidData
from casemate.core.extras import lazy
from casemate.core.nodes import softmax
from casemate.core.schema import Schema
from casemate.core.types import Recipe
from casemate.training import loop, modules
from casemate.training.pieces import TrainingPieces
from casemate.training.students import Columns, digest_of

torch = lazy("torch")
WIDTH = 16  # hidden units of the small network
BATCH = 1024  # rows a forward pass when it is asked


@dataclass(frozen=True, kw_only=True)
class Network:
    """A trained torch student: encoded rows to logits (n, classes)."""

    model: Any
    device: str
    has_logits: bool = True

    def module(self) -> Any:
        """Return the module as attacks on inputs take it: any float dtype in, logits out."""
        return modules.Logits(self.model, "logits", loop.float_dtype(self.model), False).eval()

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Return logits (n, classes)."""
        view, where, dtype = self.module(), torch.device(self.device), loop.float_dtype(self.model)
        with torch.no_grad():
            parts = [
                view(loop.tensor(x[start : start + BATCH], where, dtype)) for start in range(0, len(x), BATCH)
            ]
            return np.asarray(torch.cat(parts).double().cpu().numpy())

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Return probabilities (n, classes)."""
        return softmax(self.logits(x))

    def digest(self) -> str:
        """Return a hex digest of every parameter and buffer."""
        return digest_of(value.cpu().numpy() for _, value in sorted(self.model.state_dict().items()))

    def size(self) -> tuple[int, str]:
        """Return the number of its parameters."""
        return sum(part.numel() for part in self.model.parameters()), "parameters"


def small(schema: Schema, x: np.ndarray, n_classes: int) -> Recipe:
    """Return the recipe of one hidden layer of 16 units on the features of these rows, tables or images.

    >>> from casemate.core.schema import Column
    >>> table = Schema(columns=(Column(name="a", kind="real"),))
    >>> small(table, np.zeros((3, 1)), 2).factory()[0].in_features
    1
    """
    columns = Columns.of(schema, x)
    build = partial(perceptron, columns.width, WIDTH, n_classes)
    adam: dict[str, Any] = {"optimiser": "adam", "learning_rate": 0.005, "epochs": 60, "batch_size": 64}
    return Recipe(factory=build, preprocessing=partial(_front, columns), **adam)


@dataclass(frozen=True)
class SoftEntropy:
    """T^2 x cross-entropy(soft labels, softmax(logits / T)) (Hinton 2015, section 2), as the loss of the loop.

    T^2 makes up for gradients that shrink as 1 / T^2, so that one learning rate does for all temperatures.
    """

    temperature: float

    def __call__(self, raw: Any, soft: Any, stage: Any) -> Any:
        logits = modules.as_logits(raw, "logits")
        if logits.shape != soft.shape:
            raise InvalidData(
                f"the student must return {soft.shape[1]} logits a row; it returned {tuple(raw.shape)}"
            )
        told = torch.log_softmax(logits / self.temperature, 1)  # (b, classes)
        return -(soft * told).sum(1).mean() * self.temperature**2


def fit(
    recipe: Recipe, x: np.ndarray, soft: np.ndarray, *, temperature: float, seed: int, device: str = "cpu"
) -> Network:
    """Train a module of the recipe on soft labels.

    Args:
        recipe: of a module that returns logits; its own loss is not used.
        x: encoded rows (n, ...); soft: labels (n, classes) at ``temperature``; seed: of weights and order.

    Raises:
        InvalidData: a module that does not return one logit a class, or a loss that is not finite.

    >>> x = np.linspace(-1, 1, 32)[:, None]
    >>> soft = np.column_stack([x < 0, x >= 0]).astype(float)
    >>> recipe = Recipe(factory=lambda: torch.nn.Linear(1, 2), epochs=50, learning_rate=0.5)
    >>> made = fit(recipe, x, soft, temperature=1.0, seed=0)
    >>> bool((made.scores(x).argmax(1) == soft.argmax(1)).all())
    True
    """
    own = recipe.pieces or TrainingPieces()
    if own.loss is not None:
        raise InvalidData("the student's Recipe brings a loss of its own, which distillation would replace")
    taught = replace(recipe, loss="cross_entropy", pieces=replace(own, loss=SoftEntropy(temperature)))
    model = loop.fit(taught, x, soft, seed=seed, device=device, n_classes=soft.shape[1])
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return Network(model=model, device=device)


def scaled(module: Any, factor: float) -> Any:
    """Return a frozen module whose outputs (n, classes) are those of ``module`` times ``factor``."""
    return _classes()["Scaled"](module, factor).eval()


def perceptron(n_in: int, width: int, n_classes: int) -> Any:
    """Return a fresh network of one hidden layer of rectified units."""
    nn = torch.nn
    return nn.Sequential(nn.Linear(n_in, width), nn.ReLU(), nn.Linear(width, n_classes))


def _front(columns: Columns, _: Any) -> Any:
    return _classes()["Features"](columns)


@cache
def _classes() -> dict[str, Any]:
    base: Any = torch.nn.Module

    class Features(base):
        """``Columns.read`` for tensors; gradients pass through the numbers."""

        __qualname__ = "Features"

        def __init__(self, columns: Columns) -> None:
            super().__init__()
            for name, value in vars(columns).items():
                self.register_buffer(name, torch.as_tensor(value, device="cpu"))

        def forward(self, x: Any) -> Any:
            flat = x.flatten(1)  # (n, d)
            values = flat[:, self.numbers]
            filled = torch.where(values.isnan(), self.centre, values)
            marks = flat[:, self.holed].isnan().to(flat.dtype)
            ones = (flat[:, self.owner] == self.code).to(flat.dtype)
            return torch.cat([(filled - self.centre) / self.scale, marks, ones], 1)

    class Scaled(base):
        """A module's outputs times a number."""

        __qualname__ = "Scaled"

        def __init__(self, model: Any, factor: float) -> None:
            super().__init__()
            self.model, self.factor = model, factor

        def forward(self, x: Any) -> Any:
            return self.model(x) * self.factor

    return {"Features": Features, "Scaled": Scaled}


def __getattr__(name: str) -> Any:
    if name in ("Features", "Scaled"):
        return _classes()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
