# SPDX-License-Identifier: Apache-2.0
"""Texts as a language model reads them: the numbers of their tokens, and where each stands in its text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The tokens of n texts, as many to a row as the longest has; shorter ones are filled up on the right.

    ``strings`` are the tokens as the tokeniser names them, ``offsets`` where each begins and ends in its text, in
    characters (None: the tokeniser does not say). ``special`` marks what stands there for no part of the text: marks
    of beginning and end, padding. ``kinds`` are the token types of models that have them.

    >>> tokens = Tokens(
    ...     ids=np.array([[5, 7]]),
    ...     mask=np.ones((1, 2), bool),
    ...     special=np.zeros((1, 2), bool),
    ...     strings=(("a", "b"),),
    ...     truncated=np.zeros(1, bool),
    ... )
    >>> tokens.take([0, 0]).ids.tolist()
    [[5, 7], [5, 7]]
    """

    ids: np.ndarray  # (n, t) int64
    mask: np.ndarray  # (n, t) bool: False where a row is filled up
    special: np.ndarray  # (n, t) bool
    strings: tuple[tuple[str, ...], ...]  # n rows, without what fills them up
    truncated: np.ndarray  # (n,) bool: the text is longer than what the model reads of it
    offsets: np.ndarray | None = None  # (n, t, 2) int64
    kinds: np.ndarray | None = None  # (n, t) int64

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int] | np.ndarray) -> Tokens:
        """Return the rows at these places, in this order and as often."""
        index = np.asarray(rows, np.int64)
        picked: dict[str, Any] = {
            name: None if (values := getattr(self, name)) is None else values[index]
            for name in ("ids", "mask", "special", "truncated", "offsets", "kinds")
        }
        return Tokens(strings=tuple(self.strings[i] for i in index), **picked)
