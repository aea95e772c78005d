# SPDX-License-Identifier: Apache-2.0
"""One training loop for torch models: fresh weights from a Recipe, minibatches, an optimiser, nothing else.

It touches no global state and is a function of (recipe, data, seed): the same bytes again on the same machine and
number of threads. Its parts, which rows form a batch, what the loss is, what a step does, are separate functions,
because training defences replace exactly those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np

from casemate.core import rng
from casemate.core.errors import InvalidData
from casemate.core.extras import lazy
from casemate.core.types import Recipe
from casemate.training import modules
from casemate.training.isolation import seeded, user_code
from casemate.training.modules import Outputs

torch = lazy("torch")


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
        recipe: factory, optimiser, epochs, loss, preprocessing.
        x: encoded inputs (n, d) or (n, c, h, w).
        y: class indices (n,), or values (n,) with ``loss="mse"``.
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
    if len(x) == 0 or len(x) != len(y):
        raise InvalidData(
            f"training needs as many labels as rows and at least one; got {len(x)} rows, {len(y)} labels"
        )
    criterion = _criterion(recipe, y, n_classes, outputs)
    where = torch.device(device)
    with ExitStack() as stack:
        stack.enter_context(seeded(seed, device))
        stack.enter_context(user_code("training by the recipe", "check Recipe(factory=) against the data"))
        if where.type == "cuda":  # some of cuDNN's kernels add in any order
            stack.enter_context(torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True))
        stack.enter_context(torch.enable_grad())
        model = _built(recipe, x, where)
        dtype = float_dtype(model)
        inputs, labels = tensor(x, where, dtype), _labels(y, recipe, where, dtype)
        model.train()
        optimiser = _optimiser(recipe, model)
        order = torch.Generator(device="cpu").manual_seed(rng.child_seed(seed, "order"))
        for epoch in range(recipe.epochs):
            total = torch.zeros((), dtype=dtype, device=where)
            for rows in batches(len(x), recipe.batch_size, order, where):
                optimiser.zero_grad(set_to_none=True)
                loss = criterion(model(inputs[rows]), labels[rows])
                loss.backward()
                optimiser.step()
                total += loss.detach()
            if not bool(torch.isfinite(total)):  # once an epoch: reading it waits for the device
                raise _diverged(f"the loss of epoch {epoch + 1} is {float(total)}", recipe)
        if not all(bool(torch.isfinite(value).all()) for value in model.state_dict().values()):
            raise _diverged("the last steps left parameters that are not finite", recipe)
        optimiser.zero_grad(set_to_none=True)
        model.eval()
    return model


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


def batches(n: int, size: int, order: Any, device: Any) -> Iterator[Any]:
    """Yield the row numbers of each minibatch of one epoch: a permutation, cut."""
    rows = torch.randperm(n, generator=order, device="cpu").to(device)
    cuts = list(range(size, n, size))
    if cuts and n - cuts[-1] == 1:
        cuts.pop()
    yield from torch.tensor_split(rows, cuts)


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


def _labels(y: np.ndarray, recipe: Recipe, device: Any, dtype: Any) -> Any:
    if recipe.loss == "mse":
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


def _criterion(
    recipe: Recipe, y: np.ndarray, n_classes: int | None, outputs: Outputs
) -> Callable[[Any, Any], Any]:
    functional = torch.nn.functional
    if recipe.loss == "mse":

        def squared(raw: Any, target: Any) -> Any:
            if raw.numel() != len(target):
                raise InvalidData(f"loss='mse' needs one output a row; the model returned {tuple(raw.shape)}")
            return functional.mse_loss(raw.reshape(-1), target)

        return squared
    labels = np.asarray(y)
    if labels.dtype.kind not in "iub":
        raise InvalidData(
            f"loss='cross_entropy' needs class indices; got {labels.dtype} (loss='mse' for regression)"
        )
    wanted = n_classes or int(labels.max()) + 1

    def entropy(raw: Any, target: Any) -> Any:
        single = raw.ndim == 1 or raw.shape[1] == 1
        if (2 if single else raw.shape[1]) < wanted:
            raise InvalidData(
                f"the model returned {tuple(raw.shape)} for {len(target)} rows of {wanted} classes"
            )
        if outputs == "probabilities":
            return functional.nll_loss(modules.as_logits(raw, outputs), target)
        if single:
            return functional.binary_cross_entropy_with_logits(raw.reshape(-1), target.to(raw.dtype))
        return functional.cross_entropy(raw, target)

    return entropy
