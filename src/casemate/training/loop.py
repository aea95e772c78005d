# SPDX-License-Identifier: Apache-2.0
"""One training loop for torch models: fresh weights from a Recipe, minibatches, an optimiser, nothing else.

It touches no global state and is a function of (recipe, data, seed): the same bytes again on the same machine and
number of threads. Its parts, which rows form a step, what happens to them, what the loss is, how gradients become one
step, are values that ``Recipe(pieces=)`` replaces one by one (training/steps.py), because training defences replace
exactly those. Inside ``journal.watched`` it reports every epoch, and goes on after an interrupt or a kill with the
same bytes at the end.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from casemate.core import rng
from casemate.core.errors import InvalidData
from casemate.core.extras import lazy
from casemate.core.types import Detail, Recipe
from casemate.training import journal, modules, per_example, secure, steps
from casemate.training.isolation import seeded, user_code
from casemate.training.modules import Outputs
from casemate.training.pieces import TrainingPieces
from casemate.training.steps import Facts, Stage

torch = lazy("torch")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained module in eval mode, and what the training has to say of itself."""

    model: Any
    history: tuple[Detail, ...] = ()


def fit(
    recipe: Recipe,
    x: Any,
    y: np.ndarray,
    *,
    seed: int,
    device: str = "cpu",
    n_classes: int | None = None,
    outputs: Outputs = "logits",
) -> Any:
    """Train a fresh model by ``recipe`` and return it in eval mode.

    Guarantees the same bytes for the same seed on one machine with one number of threads; not across machines.
    A last minibatch of a single row joins the one before it (batch normalisation cannot take one row).

    Args:
        recipe: factory, optimiser, epochs, loss, preprocessing, pieces.
        x: encoded inputs (n, d) or (n, c, h, w).
        y: class indices (n,), or values (n,) with ``loss="mse"``; floats of any shape where the pieces bring a loss.
        seed: of weights, order and dropout; device: where to train.
        n_classes: how many classes there are; default: those of ``y``.
        outputs: whether the model returns logits or probabilities.

    Returns:
        The module; with ``recipe.preprocessing`` a ``Sequential`` of that and the model.

    Raises:
        InvalidData: no rows, a loss that does not fit ``y`` or the model, a model that fails, a loss that is NaN.

    >>> recipe = Recipe(factory=lambda: torch.nn.Linear(2, 2), epochs=3)
    >>> x, y = np.array([[0.0, 1.0], [1.0, 0.0]] * 8), np.array([0, 1] * 8)
    >>> fit(recipe, x, y, seed=0).training
    False
    """
    facts = Facts(n_classes=n_classes, outputs=outputs)
    return train(recipe, x, y, seed=seed, device=device, facts=facts).model


def train(
    recipe: Recipe,
    x: Any,
    y: np.ndarray,
    *,
    seed: int,
    device: str = "cpu",
    facts: Facts,
) -> Trained:
    """Do what :func:`fit` does by what is known of the data; return what the training has to say of itself as well."""
    if len(x) == 0 or len(x) != len(y):
        raise InvalidData(
            f"training needs as many labels as rows and at least one; got {len(x)} rows, {len(y)} labels"
        )
    pieces = TrainingPieces() if recipe.pieces is None else recipe.pieces
    if not isinstance(pieces, TrainingPieces):
        raise InvalidData(f"Recipe(pieces=) must be TrainingPieces; got {type(pieces).__name__}")
    where = torch.device(device)
    with ExitStack() as stack:
        stack.enter_context(seeded(seed, device))
        stack.enter_context(user_code("training by the recipe", "check Recipe(factory=) against the data"))
        if where.type == "cuda":  # some of cuDNN's kernels add in any order
            stack.enter_context(torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True))
        stack.enter_context(torch.enable_grad())
        loss = pieces.loss or steps.criterion(recipe, y, facts.n_classes)
        model = _built(recipe, x, where)
        dtype = float_dtype(model)
        inputs, labels = tensor(x, where, dtype), _labels(y, recipe, where, dtype)
        model.train()
        held = np.zeros(0, np.int64) if pieces.select is None else pieces.select.held_back(len(x), seed)
        stage = Stage(
            model=model,
            recipe=recipe,
            n_rows=len(x) - len(held),
            seed=seed,
            order=torch.Generator(device="cpu").manual_seed(rng.child_seed(seed, "order")),
            loss=loss,
            facts=facts,
            device=device,
            dtype=dtype,
        )
        work = _Work(stage, pieces, inputs, labels, held, _optimiser(recipe, model))
        mark = ""
        if journal.current().folder is not None:
            start = (repr(model), model.state_dict())
            mark = journal.fingerprint(recipe, start, x, y, seed, facts)
        if pieces.claims:
            per_example.sound(pieces, stage, inputs, labels)
            work = replace(work, stage=_unforeseeable(stack, stage))
        scores = work.run(mark)
        if not all(bool(torch.isfinite(value).all()) for value in model.state_dict().values()):
            raise _diverged("the last steps left parameters that are not finite", recipe)
        work.optimiser.zero_grad(set_to_none=True)
        model.eval()
    told = () if pieces.select is None else pieces.select.told(scores, len(x), len(held))
    return Trained(model=model, history=told)


@dataclass(frozen=True)
class _Work:
    """One training: its fixed parts, and the epochs."""

    stage: Stage
    pieces: TrainingPieces
    inputs: Any  # (n, ...)
    labels: Any  # (n,)
    held: np.ndarray  # (m,) rows that are not trained on
    optimiser: Any

    def run(self, mark: str) -> list[float]:
        """Train from the beginning, or from the last checkpoint; return the score of every epoch."""
        book, stage, n_epochs = journal.current(), self.stage, self.stage.recipe.epochs
        path = book.path(mark)
        if self.pieces.claims:
            book.once(mark)
            path = None
        found = None if path is None else journal.resume(path, mark, stage.device)
        scores, best, first = list[float](), None, 0
        if found is not None:
            scores, best, first = list(found.scores), found.best, found.epochs
            stage = replace(stage, step=found.steps)
            stage.model.load_state_dict(found.model)
            groups = self.optimiser.state_dict()["param_groups"]
            self.optimiser.load_state_dict({**found.optimiser, "param_groups": groups})
            stage.order.set_state(found.order)
        for epoch in range(first, n_epochs):
            stage = self._epoch(replace(stage, epoch=epoch))
            if len(self.held):
                scores.append(self._score(stage))
                if steps.chosen(scores) == epoch:
                    best = {name: value.clone() for name, value in stage.model.state_dict().items()}
            if path is not None:
                state = journal.Progressed(
                    epochs=epoch + 1,
                    steps=stage.step,
                    model=stage.model.state_dict(),
                    optimiser=self.optimiser.state_dict(),
                    order=stage.order.get_state(),
                    scores=tuple(scores),
                    best=best,
                )
                journal.save(path, state, mark, stage.device)
            book.report(epoch + 1, n_epochs)
        if best is not None:
            stage.model.load_state_dict(best)
        if path is not None:
            path.unlink(missing_ok=True)
        return scores

    def _epoch(self, stage: Stage) -> Stage:
        """Take the steps of one epoch and return the stage after them."""
        pieces, recipe = self.pieces, stage.recipe
        sampler, aggregate = pieces.sampler or steps.shuffled, pieces.aggregate or steps.backward
        total = torch.zeros((), dtype=stage.dtype, device=self.inputs.device)
        kept = None
        if len(self.held):
            numbers = np.setdiff1d(np.arange(len(self.inputs)), self.held)
            kept = torch.from_numpy(numbers).to(self.inputs.device)
        for drawn in sampler(stage):
            rows = drawn if kept is None else kept[drawn]
            here = replace(stage, rows=rows)
            told = replace(per_example.blind(stage), rows=rows) if pieces.claims else here
            if pieces.schedule is not None:
                factor = float(pieces.schedule(per_example.blind(stage) if pieces.claims else here))
                for group in self.optimiser.param_groups:
                    group["lr"] = recipe.learning_rate * factor
            self.optimiser.zero_grad(set_to_none=True)
            x, y = self.inputs[rows], self.labels[rows]
            if pieces.transform is not None:
                x, y = pieces.transform(x, y, told)
            total += aggregate(x, y, here)
            self.optimiser.step()
            stage = replace(stage, step=stage.step + 1)
        if not bool(torch.isfinite(total)):  # once an epoch: reading it waits for the device
            raise _diverged(f"the loss of epoch {stage.epoch + 1} is {float(total)}", recipe)
        return stage

    def _score(self, stage: Stage) -> float:
        rows = torch.from_numpy(self.held).to(self.inputs.device)
        with steps.asleep(stage.model):
            here = replace(stage, rows=rows)
            return float(
                self.pieces.select.score(  # type: ignore[union-attr]  # it held rows back
                    self.inputs[rows], self.labels[rows], here
                )
            )


def standardise(x: Any) -> Any:
    """Return a module that gives each column (images: channel) mean 0 and spread 1 on ``x``; its buffers are fixed.

    Constant columns stay as they are apart from the mean; missing cells are left out and stay missing. It reads
    the data, so a model that carries it has seen them: it is no preprocessing for a private training.

    Args:
        x: encoded training inputs (n, d) or (n, c, h, w).

    Returns:
        An ``nn.Module`` in torch's default dtype.

    >>> standardise(np.array([[1.0, 5.0], [3.0, 5.0]]))(torch.tensor([[1.0, 6.0]])).tolist()
    [[-1.0, 1.0]]
    """
    values = np.asarray(x, np.float64)
    axes = (0, *range(2, values.ndim))
    known = ~np.isnan(values)
    count = np.maximum(known.sum(axes, keepdims=True), 1)
    mean = np.where(known, values, 0.0).sum(axes, keepdims=True) / count  # (1, d) or (1, c, 1, 1)
    spread = np.sqrt(np.square(np.where(known, values - mean, 0.0)).sum(axes, keepdims=True) / count)
    scale = np.where(spread > 1e-12 * np.maximum(1.0, np.abs(mean)), spread, 1.0)
    where, dtype = torch.device("cpu"), torch.get_default_dtype()
    return modules.Standardise(tensor(mean[0], where, dtype), tensor(scale[0], where, dtype))


def tensor(values: Any, device: Any, dtype: Any) -> Any:
    """Return an array as a tensor of its own memory, on ``device`` and in ``dtype``."""
    exact = np.float32 if dtype in (torch.float32, torch.float16, torch.bfloat16) else np.float64
    return torch.from_numpy(np.array(values, exact)).to(device=device, dtype=dtype)


def float_dtype(model: Any) -> Any:
    """Return the dtype of a module's first floating-point parameter, float32 if it has none."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def _built(recipe: Recipe, x: Any, device: Any) -> Any:
    model = recipe.factory()
    if not isinstance(model, torch.nn.Module):
        raise InvalidData(f"Recipe(factory=) must return an nn.Module; it returned {type(model).__name__}")
    model = model.to(device)
    if recipe.preprocessing is None:
        return model
    front = recipe.preprocessing(x)
    if not isinstance(front, torch.nn.Module):
        raise InvalidData(
            f"Recipe(preprocessing=) must return an nn.Module; it returned {type(front).__name__}"
        )
    return torch.nn.Sequential(front.to(device=device, dtype=float_dtype(model)), model)


def _diverged(how: str, recipe: Recipe) -> InvalidData:
    return InvalidData(
        f"training diverged: {how}; lower learning_rate ({recipe.learning_rate}) or standardise the inputs "
        "(Recipe(preprocessing=standardise))"
    )


def _unforeseeable(stack: ExitStack, stage: Stage) -> Stage:
    """Let what a private training draws by its seed (dropout, augmentation) follow from a number that nobody knows.

    A mask that is known beforehand depends on the row's place in the batch, and so on who else is in it.
    """
    drawn = int.from_bytes(secure.source().raw(8), "little") >> 1
    stack.enter_context(seeded(drawn, stage.device))
    return replace(stage, seed=drawn)


def _labels(y: np.ndarray, recipe: Recipe, device: Any, dtype: Any) -> Any:
    own = recipe.pieces is not None and recipe.pieces.loss is not None
    if recipe.loss == "mse" or (own and np.asarray(y).dtype.kind == "f"):
        return tensor(y, device, dtype)
    return torch.from_numpy(np.array(y, np.int64)).to(device)


def _optimiser(recipe: Recipe, model: Any) -> Any:
    learnt = [p for p in model.parameters() if p.requires_grad]
    if not learnt:
        raise InvalidData("Recipe(factory=) built a model without trainable parameters")
    # one pass over all parameters instead of one kernel an operation and tensor
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in learnt)
    options = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay, "fused": fused}
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(learnt, momentum=recipe.momentum, **options)
    if recipe.momentum:
        raise InvalidData(
            f"Recipe(momentum={recipe.momentum}) is for optimiser='sgd', not {recipe.optimiser!r}"
        )
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimiser](learnt, **options)
