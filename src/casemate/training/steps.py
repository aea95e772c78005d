# SPDX-License-Identifier: Apache-2.0
"""The parts of a training step as values: what each one is called with, and the default of each.

======== =========================================================== ==============================================
slot     called as                                                   default
======== =========================================================== ==============================================
sampler  ``sampler(stage)`` once an epoch: yields row numbers (b,)   :func:`shuffled`
         below ``stage.n_rows``, one tensor a step
transform ``transform(x, y, stage)``: the batch the loss sees        the batch as it is
loss     ``loss(raw, y, stage)``: mean over the rows (a scalar)      :func:`criterion` of the recipe
aggregate ``aggregate(x, y, stage)``: fills ``.grad`` of every       :func:`backward`
         parameter and returns the detached loss
schedule ``schedule(stage)``: factor on the learning rate            1
select   a :class:`Selection`                                        the last epoch
======== =========================================================== ==============================================

All are functions or small frozen dataclasses: they hold settings, never the state of a training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from casemate.core import rng
from casemate.core.errors import InvalidData
from casemate.core.extras import lazy
from casemate.core.schema import Schema
from casemate.core.types import Curve, Detail, Note, Recipe
from casemate.training import modules
from casemate.training.modules import Outputs

torch = lazy("torch")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of the training data and of the model's answers, for the pieces that need it."""

    n_classes: int | None = None
    outputs: Outputs = "logits"
    schema: Schema | None = None
    person: np.ndarray | None = None  # (n,) whose row it is


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Where a training stands. ``rows`` are the numbers of the batch's rows in the training data.

    >>> stage = Stage(model=None, recipe=Recipe(factory=list), n_rows=10, seed=0, order=None, loss=None)
    >>> stage.child_seed("noise") == stage.child_seed("order")
    False
    """

    model: Any
    recipe: Recipe
    n_rows: int  # rows that are trained on
    seed: int  # of this training
    order: Any  # the generator of the default sampler
    loss: Callable[[Any, Any, Stage], Any] | None
    facts: Facts = field(default_factory=Facts)
    device: str = "cpu"
    dtype: Any = None
    epoch: int = 0
    step: int = 0  # since the beginning
    rows: Any = None  # (b,) on the device

    def child_seed(self, *path: str | int) -> int:
        """Return a seed of this step, for draws that nothing else in the training shares."""
        return rng.child_seed(self.seed, *path, self.epoch, self.step)

    def known_schema(self, who: str) -> Schema:
        """Return the schema, which a piece that keeps to it needs."""
        if self.facts.schema is None:
            raise InvalidData(f"{who} keeps to the schema of the data; train with Facts(schema=...)")
        return self.facts.schema

    def logits(self, x: Any) -> Any:
        """Ask the model, in the mode it is in, for logits (b, classes)."""
        return modules.as_logits(self.model(x), self.facts.outputs)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Keep the epoch whose model scores best on rows held back from the training; of equal ones the latest.

    ``score(x, y, stage)`` is called after each epoch with the model in eval mode, and larger is better.
    ``share`` of the rows are held back, at most ``most``; where that is fewer than ``least`` nothing is, and the
    last epoch stays.
    """

    score: Callable[[Any, Any, Stage], float]
    name: str
    share: float = 0.1
    least: int = 20
    most: int = 500

    def held_back(self, n: int, seed: int) -> np.ndarray:
        """Return the sorted numbers of the rows held back (m,)."""
        count = min(self.most, round(self.share * n))
        if count < self.least:
            return np.zeros(0, np.int64)
        return np.sort(rng.generator(seed, "held back").permutation(n)[:count])

    def told(self, scores: list[float], n: int, n_held: int) -> tuple[Detail, ...]:
        """Say how each epoch scored and which one was kept."""
        if not n_held:
            few = f"{round(self.share * n)} rows would be held back, fewer than {self.least}"
            return (Note(text=f"No epoch was chosen by {self.name}: {few}. The last epoch is kept."),)
        best = chosen(scores)
        text = (
            f"Epoch {best + 1} of {len(scores)} is kept: {self.name} {scores[best]:.3g} on {n_held} training rows "
            f"held back for this; the last epoch has {scores[-1]:.3g}."
        )
        epochs = tuple(float(k + 1) for k in range(len(scores)))
        return (Note(text=text), Curve(name=f"{self.name}, by epoch", x=epochs, y=tuple(scores)))


def chosen(scores: list[float]) -> int:
    """Return the place of the best score, of equal ones the last.

    >>> chosen([0.5, 0.7, 0.7, 0.1])
    2
    """
    return max(range(len(scores)), key=lambda k: (scores[k], k))


def shuffled(stage: Stage) -> Iterator[Any]:
    """Yield the rows of each minibatch of an epoch: a permutation, cut."""
    return batches(stage.n_rows, stage.recipe.batch_size, stage.order, stage.device)


def batches(n: int, size: int, order: Any, device: Any) -> Iterator[Any]:
    """Yield the row numbers of each minibatch of one epoch; a last row of its own joins those before it."""
    rows = torch.randperm(n, generator=order, device="cpu").to(device)
    cuts = list(range(size, n, size))
    if cuts and n - cuts[-1] == 1:
        cuts.pop()
    yield from torch.tensor_split(rows, cuts)


def backward(x: Any, y: Any, stage: Stage) -> Any:
    """Take the gradient of the batch's mean loss; the default ``aggregate``."""
    loss = stage.loss(stage.model(x), y, stage)  # type: ignore[misc]  # the loop sets it
    loss.backward()
    return loss.detach()


@contextmanager
def asleep(model: Any) -> Iterator[None]:
    """Put every submodule into eval mode and give each its own mode back."""
    modes = [(part, part.training) for part in model.modules()]
    try:
        for part, training in modes:
            if training:
                part.training = False
        yield
    finally:
        for part, training in modes:
            if training:
                part.training = True


def criterion(recipe: Recipe, y: np.ndarray, wanted: int | None) -> Callable[[Any, Any, Stage], Any]:
    """Return the loss that the recipe names, after a look at the labels it is for."""
    if recipe.loss == "mse":
        return _squared
    labels = np.asarray(y)
    if labels.dtype.kind not in "iub":
        raise InvalidData(
            f"loss='cross_entropy' needs class indices; got {labels.dtype} (loss='mse' for regression)"
        )
    return _Entropy(wanted or int(labels.max()) + 1)


def _squared(raw: Any, target: Any, stage: Stage) -> Any:  # noqa: ARG001  # the signature of the slot
    if raw.numel() != len(target):
        raise InvalidData(f"loss='mse' needs one output a row; the model returned {tuple(raw.shape)}")
    return torch.nn.functional.mse_loss(raw.reshape(-1), target)


@dataclass(frozen=True)
class _Entropy:
    n_classes: int

    def __call__(self, raw: Any, target: Any, stage: Stage) -> Any:
        functional = torch.nn.functional
        single = raw.ndim == 1 or raw.shape[1] == 1
        if (2 if single else raw.shape[1]) < self.n_classes:
            raise InvalidData(
                f"the model returned {tuple(raw.shape)} for {len(target)} rows of {self.n_classes} classes"
            )
        if stage.facts.outputs == "probabilities":
            return functional.nll_loss(modules.as_logits(raw, stage.facts.outputs), target)
        if single:
            return functional.binary_cross_entropy_with_logits(raw.reshape(-1), target.to(raw.dtype))
        return functional.cross_entropy(raw, target)
