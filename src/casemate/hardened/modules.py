# SPDX-License-Identifier: Apache-2.0
"""The torch modules that weights of a folder go into: built by the recipe as the training loop builds them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from casemate.core.errors import InvalidData
from casemate.core.extras import lazy
from casemate.core.types import Recipe
from casemate.training import loop, soft_network
from casemate.training.isolation import seeded, user_code
from casemate.training.students import Columns

torch = lazy("torch")
_ROWS = 4  # made-up rows that preprocessing is shown; what it learns from them the weights replace


def fresh(recipe: Recipe, shape: Sequence[int] | None, model: Any, weights: Mapping[str, Any]) -> Any:
    """Return an untrained module of a recipe, its preprocessing in front.

    Preprocessing is fitted to rows that are not here: its place is taken from ``model`` where that has the form of the
    weights, else it is shown made-up rows, and the weights replace what it learns from them.

    Args:
        recipe: of the module; shape: of one encoded row (None: not known).
        model: the module before it was hardened; weights: what will go into the new one.

    Raises:
        InvalidData: code that fails.

    >>> recipe = Recipe(factory=lambda: torch.nn.Linear(2, 2), preprocessing=loop.standardise)
    >>> len(fresh(recipe, [2], torch.nn.Linear(2, 2), {}))
    2
    """
    with seeded(0, "cpu"), user_code("building the module by the recipe", "check Recipe(factory=)"):
        if recipe.preprocessing is None:
            return recipe.factory()
        if alike(model, weights) or shape is None:
            return copied(model)
        inner = recipe.factory()
        front = recipe.preprocessing(np.zeros((_ROWS, *shape)))
        return torch.nn.Sequential(front.to(dtype=loop.float_dtype(inner)), inner)


def alike(model: Any, weights: Mapping[str, Any]) -> bool:
    """Tell whether a module has the names and shapes of some weights."""
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    return own == {name: tuple(value.shape) for name, value in weights.items()}


def copied(model: Any) -> Any:
    """Return a copy of a module, into which weights can go without touching it."""
    with user_code("copying the module", "it must allow copy.deepcopy"):
        return copy.deepcopy(model)


def student(weights: Mapping[str, Any], name: str, device: str) -> Any:
    """Return the small network of one hidden layer that distillation trains, rebuilt from its weights alone.

    Raises:
        InvalidData: weights of another network.
    """
    try:
        told = (weights[f"0.{part}"].numpy() for part in Columns.__dataclass_fields__)
        columns, first, last = Columns(*told), weights["1.0.weight"], weights["1.2.weight"]
        inner = soft_network.perceptron(first.shape[1], first.shape[0], last.shape[0])
        model = torch.nn.Sequential(soft_network.Features(columns), inner).to(dtype=first.dtype)
        model.load_state_dict(weights, strict=True)
    except (KeyError, IndexError, RuntimeError, AttributeError) as error:
        first_line = " ".join(str(error).split())[:200]
        raise InvalidData(f"{name} holds no network that distil trains: {first_line}") from error
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.to(device).eval()
