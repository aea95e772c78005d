# SPDX-License-Identifier: Apache-2.0
"""Texts to token numbers and back into batches: by a tokeniser of its own, of one length, filled up on the right."""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from casemate.core.errors import InvalidData
from casemate.core.extras import lazy
from casemate.core.tokens import Tokens

torch = lazy("torch")
transformers = lazy("transformers")

# A tokeniser keeps its settings between calls, a module its mode: one thread at a time.
LOCK = threading.RLock()
_PLACES = (
    "position_embeddings",
    "wpe",
    "embed_positions",
)  # what models call the embedding of a token's place
_ENDLESS = 10**6  # tokenisers that have no limit of their own state a huge one
BATCH_TOKENS = 16384  # in one batch, what fills it up included


@dataclass(frozen=True, kw_only=True)
class Reader:
    """How texts become what the model is given; ``max_length=None``: texts of any length."""

    tokenizer: Any  # a copy: asking a tokeniser changes it
    max_length: int | None
    pad: int  # what shorter rows are filled up with
    kinds: bool  # whether the model takes token types

    def read(self, texts: Sequence[str]) -> tuple[list[list[int]], list[list[int]] | None]:
        """Return the token numbers of each text, and their types."""
        found = self._call(texts, return_token_type_ids=self.kinds, return_attention_mask=False)
        ids: list[list[int]] = found["input_ids"]
        place = next((i for i, row in enumerate(ids) if not row), None)
        if place is not None:
            raise InvalidData(
                f"text {place} of {len(texts)} ({texts[place][:40]!r}) has no token that the model could read; "
                "leave out empty texts"
            )
        return ids, found.get("token_type_ids") if self.kinds else None

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """Return all that is known of the tokens of texts."""
        located = bool(getattr(self.tokenizer, "is_fast", False))
        ids, kinds = self.read(texts)
        found = self._call(texts, return_offsets_mapping=located, return_special_tokens_mask=True)
        special = padded(found["special_tokens_mask"], 1).astype(bool)  # (n, t)
        offsets = None
        if located:
            offsets = np.zeros((*special.shape, 2), np.int64)
            for row, places in zip(offsets, found["offset_mapping"], strict=True):
                row[: len(places)] = places
        strings = tuple(tuple(self.tokenizer.convert_ids_to_tokens(row)) for row in ids)
        return Tokens(
            ids=padded(ids, self.pad),
            mask=padded([[1] * len(row) for row in ids], 0).astype(bool),
            special=special,
            strings=strings,
            truncated=self.truncated(texts, ids),
            offsets=offsets,
            kinds=None if kinds is None else padded(kinds, 0),
        )

    def truncated(self, texts: Sequence[str], ids: Sequence[Sequence[int]]) -> np.ndarray:
        """Tell of which texts (n,) the model reads the beginning only."""
        full = [i for i, row in enumerate(ids) if len(row) == self.max_length]
        longer = np.zeros(len(texts), bool)
        if full:
            with LOCK, quiet():  # it warns of long texts
                whole = self.tokenizer([texts[i] for i in full], truncation=False, padding=False)["input_ids"]
            longer[full] = [len(row) > len(ids[i]) for i, row in zip(full, whole, strict=True)]
        return longer

    def _call(self, texts: Sequence[str], **wanted: Any) -> Any:
        cut = self.max_length is not None
        with LOCK:
            return self.tokenizer(
                list(texts), truncation=cut, max_length=self.max_length, padding=False, **wanted
            )


def reader_of(model: Any, tokenizer: Any, max_length: int | None) -> Reader:
    """Return how the model reads, after a look at whether tokeniser and model belong together.

    Raises:
        InvalidData: a tokeniser with more tokens than the model has embeddings, or nothing to fill rows up with.
    """
    layer = embedding(model)
    if layer is not None and len(tokenizer) > layer.num_embeddings:
        raise InvalidData(
            f"the tokenizer has {len(tokenizer):,} tokens and the model embeddings for {layer.num_embeddings:,}; give "
            "the model its own tokenizer, or model.resize_token_embeddings(len(tokenizer))"
        )
    pad = getattr(model.config, "pad_token_id", None)
    pad = tokenizer.pad_token_id if pad is None else pad
    if pad is None:
        raise InvalidData(
            "neither model nor tokenizer has a padding token; set tokenizer.pad_token and model.config.pad_token_id"
        )
    given = (max_length, tokenizer.model_max_length, _places(model))
    # a tokeniser's configuration may say anything
    limit = min((told for told in given if isinstance(told, (int, float)) and told >= 1), default=_ENDLESS)
    with LOCK:
        own = copy.deepcopy(tokenizer)
    takes = inspect.signature(model.forward).parameters
    return Reader(
        tokenizer=own,
        max_length=None if limit >= _ENDLESS else int(limit),
        pad=int(pad),
        kinds="token_type_ids" in tokenizer.model_input_names and "token_type_ids" in takes,
    )


def embedding(model: Any) -> Any:
    """Return the layer that embeds token numbers, or None where the model has none of torch's kind."""
    try:
        layer = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    return layer if isinstance(layer, torch.nn.Embedding) else None


def _places(model: Any) -> int | None:
    """Return how many tokens the model has places for; RoBERTa counts them from behind its padding."""
    limits = [getattr(model.config, "max_position_embeddings", None)]
    for name, layer in model.named_modules():
        if name.rpartition(".")[2] in _PLACES and isinstance(layer, torch.nn.Embedding):
            before = 0 if layer.padding_idx is None else layer.padding_idx + 1
            limits.append(layer.num_embeddings - before)
    return min((limit for limit in limits if isinstance(limit, int) and limit > 0), default=None)


def texts_of(x: Any) -> list[str]:
    """Return texts as a list; every one must be one."""
    if isinstance(x, str):
        raise InvalidData("texts go in a list; got a single text")
    texts = list(x)
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidData(
                f"text {place} of {len(texts)} is {str(text)[:40]!r} ({type(text).__name__}); give texts only"
            )
    return texts


def padded(rows: Sequence[Sequence[int]], fill: int) -> np.ndarray:
    """Return rows of different lengths as one array (n, t), filled up on the right."""
    out = np.full((len(rows), max(map(len, rows))), fill, np.int64)
    for place, row in zip(out, rows, strict=True):
        place[: len(row)] = row
    return out


def batches(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Yield the numbers of rows that go to the model together: at most ``size``, of about one length."""
    order = np.argsort(lengths, kind="stable").tolist()
    while order:
        n = size
        while n > 1 and n * lengths[order[min(n, len(order)) - 1]] > BATCH_TOKENS:
            n //= 2
        yield order[:n]
        order = order[n:]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from writing to the terminal: warnings of its own and bars of progress."""
    log = transformers.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
