# SPDX-License-Identifier: Apache-2.0
"""What a text model answers: from token numbers, from embeddings, and from the rows that a training loop shuffles.

The two modules are classes of this file, so they pickle by name, yet are made when first asked for.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from casemate.adapters._transformers_text import LOCK, Reader, embedding, padded
from casemate.core.errors import InvalidData
from casemate.core.extras import lazy
from casemate.core.tokens import Tokens

torch = lazy("torch")


def inputs_of(ids: np.ndarray, mask: np.ndarray, kinds: np.ndarray | None) -> dict[str, Any]:
    """Return what a Hugging Face model is called with, of arrays (b, t)."""
    found = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
    found |= {} if kinds is None else {"token_type_ids": kinds}
    return {name: torch.from_numpy(value) for name, value in found.items()}


def batch(reader: Reader, ids: list[list[int]], kinds: list[list[int]] | None, device: Any) -> dict[str, Any]:
    """Return the inputs of rows of token numbers, as tensors on the device."""
    mask = padded([[1] * len(row) for row in ids], 0)
    found = inputs_of(padded(ids, reader.pad), mask, None if kinds is None else padded(kinds, 0))
    return {name: value.to(device) for name, value in found.items()}


def answer(model: Any, head: Any | None, inputs: dict[str, Any]) -> Any:
    """Return logits (b, classes): the model's own, or those of the head on the mean embedding of the tokens.

    Raises:
        InvalidData: the model has no classification head.
    """
    said = model(**inputs)
    if head is not None:
        return checked(head(pooled(said, inputs["attention_mask"])), len(inputs["input_ids"]), "head")
    kind = type(model).__name__
    logits = getattr(said, "logits", None)
    if logits is None:
        raise InvalidData(
            f"{kind} has no classification head; use AutoModelForSequenceClassification, or give a head on its mean "
            "embeddings: cm.wrap((model, tokenizer, head))"
        )
    if isinstance(logits, torch.Tensor) and logits.ndim == 3:
        raise InvalidData(
            f"{kind} answers for each token, not for a text; use AutoModelForSequenceClassification"
        )
    return checked(logits, len(inputs["input_ids"]), "model")


def pooled(said: Any, mask: Any) -> Any:
    """Return the mean over the tokens of each text (b, d) of what an encoder says of them."""
    states = getattr(said, "last_hidden_state", None)
    if not isinstance(states, torch.Tensor):
        raise InvalidData(
            "with a head, the model must be an encoder (AutoModel) that returns last_hidden_state"
        )
    weights = mask.to(states.dtype)[..., None]  # (b, t, 1)
    return (states * weights).sum(1) / weights.sum(1)


def checked(logits: Any, n: int, what: str) -> Any:
    """Return logits (n, classes), two classes or more."""
    shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if not isinstance(shape, tuple) or len(shape) != 2 or shape[0] != n:
        raise InvalidData(
            f"the {what} must return logits of shape ({n}, classes) for {n} texts; it returned {shape}"
        )
    if shape[1] < 2:
        raise InvalidData(
            f"the {what} has one output, as for regression; wrap a function from texts to probabilities or values"
        )
    return logits


@cache
def _classes() -> dict[str, Any]:
    base: Any = torch.nn.Module

    class FromEmbeddings(base):  # type: ignore[misc]  # torch is lazy
        """A text model from embeddings (n, t, d) and their tokens to logits (n, classes).

        The model is called with the token numbers, which say where its padding is, and the given embeddings take the
        place of those it looks up.
        """

        __qualname__ = "FromEmbeddings"

        def __init__(self, model: Any, head: Any | None) -> None:
            super().__init__()
            self.model, self.head = model, head
            self.given: Any = None
            embedding(model).register_forward_hook(self._instead)

        def embed(self, tokens: Tokens) -> Any:
            """Return the embeddings (n, t, d) that the model looks up, without a gradient."""
            layer = embedding(self.model)
            with torch.no_grad():
                return layer(torch.from_numpy(tokens.ids).to(layer.weight.device))

        def forward(self, embeddings: Any, tokens: Tokens) -> Any:
            if tuple(embeddings.shape[:2]) != tokens.ids.shape:
                raise InvalidData(
                    f"embeddings of shape {tuple(embeddings.shape)} do not fit tokens of shape {tokens.ids.shape}"
                )
            weight = embedding(self.model).weight
            inputs = inputs_of(tokens.ids, tokens.mask, tokens.kinds)
            inputs = {name: value.to(weight.device) for name, value in inputs.items()}
            with LOCK:  # what one thread gives, another's question must not find
                self.given = embeddings.to(weight.dtype)
                try:
                    return answer(self.model, self.head, inputs)
                finally:
                    self.given = None

        def _instead(self, layer: Any, inputs: Any, found: Any) -> Any:  # the signature of a hook
            return found if self.given is None else self.given

    class FromRows(base):  # type: ignore[misc]  # torch is lazy
        """A text model from rows of numbers (b, parts, t): token numbers, mask and types as floats."""

        __qualname__ = "FromRows"

        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, rows: Any) -> Any:
            parts = rows.long().unbind(1)
            names = ("input_ids", "attention_mask", "token_type_ids")
            return answer(self.model, None, dict(zip(names, parts, strict=False)))

    return {"FromEmbeddings": FromEmbeddings, "FromRows": FromRows}


def rows_of(reader: Reader, texts: list[str]) -> np.ndarray:
    """Return texts as rows of numbers (n, parts, t), for :class:`FromRows`."""
    ids, kinds = reader.read(texts)
    parts = [padded(ids, reader.pad), padded([[1] * len(row) for row in ids], 0)]
    if kinds is not None:
        parts.append(padded(kinds, 0))
    return np.stack(parts, 1).astype(np.float32)  # exact: no vocabulary has 2**24 tokens


def __getattr__(name: str) -> Any:
    if name in ("FromEmbeddings", "FromRows"):
        return _classes()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
