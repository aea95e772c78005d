# SPDX-License-Identifier: Apache-2.0
"""Training text models again by a Recipe: the whole model, or the head alone on embeddings that are computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from casemate.adapters import _transformers_view as view
from casemate.adapters._transformers_text import Reader, quiet
from casemate.core.errors import InvalidData
from casemate.core.extras import lazy
from casemate.core.types import Detail, Recipe
from casemate.training import loop
from casemate.training.pieces import TrainingPieces
from casemate.training.steps import Facts, Stage

torch = lazy("torch")

_MOST = 512 << 20  # bytes of texts and embeddings that are remembered
_BESIDE = 600  # bytes that Python takes for one text and one tensor, beside what they hold


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The mean embeddings (d,) of texts that one encoder was asked for: every refit of a head needs them again."""

    encoder: Any
    known: dict[str, Any] = field(default_factory=dict)
    taken: list[int] = field(default_factory=lambda: [0])  # bytes

    def ask(self, encoder: Any, texts: Sequence[str], compute: Callable[[list[str]], Any]) -> Any:
        """Return embeddings (n, d); those that are not known yet are computed."""
        known = self.known if encoder is self.encoder else {}
        new = [text for text in dict.fromkeys(texts) if text not in known]
        found = dict(zip(new, compute(new), strict=True)) if new else {}
        costs = (len(text) + value.nbytes + _BESIDE for text, value in found.items())
        if encoder is self.encoder and (taken := self.taken[0] + sum(costs)) <= _MOST:
            known.update(found)
            self.taken[0] = taken
        return torch.stack([known[text] if text in known else found[text] for text in texts])


def train_head(
    recipe: Recipe, x: np.ndarray, y: np.ndarray, *, seed: int, device: str, facts: Facts
) -> tuple[Any, tuple[Detail, ...]]:
    """Train a fresh head on embeddings (n, d); return it, and what its training says of itself."""
    trained = loop.train(recipe, x, y, seed=seed, device=device, facts=facts)
    return trained.model, trained.history


def train_whole(
    recipe: Recipe, reader: Reader, texts: list[str], y: np.ndarray, *, seed: int, device: str, facts: Facts
) -> tuple[Any, tuple[Detail, ...]]:
    """Train the model that the recipe builds on texts; parameters that it froze stay as they were."""
    if recipe.preprocessing is not None:
        raise InvalidData(
            "Recipe(preprocessing=) does not apply to texts; the tokenizer is the preprocessing"
        )
    pieces = recipe.pieces
    if pieces is None:
        pieces = TrainingPieces(transform=shortened)
    fitted = replace(recipe, factory=_Readable(recipe.factory), pieces=pieces)
    with quiet():
        trained = loop.train(fitted, view.rows_of(reader, texts), y, seed=seed, device=device, facts=facts)
    return trained.model.model, trained.history


@dataclass(frozen=True)
class _Readable:
    """Builds what a recipe builds, made to take rows of numbers."""

    factory: Callable[[], Any]

    def __call__(self) -> Any:
        model = self.factory()
        if not isinstance(model, torch.nn.Module):
            raise InvalidData(
                f"Recipe(factory=) must return an nn.Module; it returned {type(model).__name__}"
            )
        if loop.float_dtype(model) not in (torch.float32, torch.float64):
            raise InvalidData(
                f"Recipe(factory=) built a model in {loop.float_dtype(model)}; train in float32: model.float()"
            )
        return view.FromRows(model)


def shortened(x: Any, y: Any, stage: Stage) -> tuple[Any, Any]:  # noqa: ARG001  # the signature of the slot
    """Cut a batch of rows (b, parts, t) to the longest text in it: what fills it up costs time and changes nothing."""
    return x[:, :, : int(x[:, 1].sum(1).max())], y
