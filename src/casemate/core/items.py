# SPDX-License-Identifier: Apache-2.0
"""Data sets that are asked item by item, as torch's are: ``len(items)`` and ``items[i]`` gives ``(x, y)``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from casemate.core.errors import InvalidData
from casemate.core.folders import ROOM


def is_items(part: Any) -> bool:
    """Tell whether ``part`` can be asked item by item; what Python and numpy hold has a meaning of its own.

    >>> is_items(range(3)), is_items([1]), is_items(3)
    (True, False, False)
    """
    kind = type(part)
    if isinstance(part, (str, bytes, list, tuple, Mapping, np.ndarray)):
        return False
    return callable(getattr(kind, "__len__", None)) and callable(getattr(kind, "__getitem__", None))


def read_items(items: Any, name: str) -> tuple[Any, list[Any]]:
    """Copy all items into arrays: rows (n, ...) or a list of texts, and labels; within the memory set aside.

    Raises:
        InvalidData: no items, items that are no pairs, differ in shape, or need too much memory.
    """
    n = len(items)
    if n == 0:
        raise InvalidData(f"{name} has no rows")
    rows: Any = None
    labels: list[Any] = []
    for i in range(n):
        try:
            item = items[i]
        except Exception as error:
            raise InvalidData(f"item {i} of {name} raised {type(error).__name__}: {error}") from error
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise InvalidData(
                f"item {i} of {name} is {type(item).__name__}; a data set must give (x, y) for each index"
            )
        x, y = item
        if isinstance(x, str) or isinstance(rows, list):
            if not isinstance(x, str) or not isinstance(rows, list | None):
                raise InvalidData(f"{name} gives texts and numbers; item {i} differs from the first")
            rows = rows or []
            rows.append(x)
        else:
            cells = _cells(x, f"item {i} of {name}")
            if rows is None:
                rows = _room(n, cells, name)
            if cells.shape != rows.shape[1:]:
                raise InvalidData(f"item {i} of {name} has shape {cells.shape}, the first {rows.shape[1:]}")
            rows[i] = cells
        label = y if isinstance(y, str) else _cells(y, f"label {i} of {name}")
        if np.size(label) != 1:
            raise InvalidData(
                f"label {i} of {name} has shape {np.shape(label)}; it must be one number or text"
            )
        labels.append(label if isinstance(label, str) else label.item())
    return rows, labels


def plain(x: Any) -> Any:
    """Return a torch tensor as an array, and anything else as it is.

    >>> plain([1, 2])
    [1, 2]
    """
    return _cells(x, "the tensor") if hasattr(x, "detach") and hasattr(x, "numpy") else x


def _cells(x: Any, what: str) -> np.ndarray:
    """Return numbers as an array; a tensor without its gradient, from whatever device."""
    found = x.detach().cpu() if hasattr(x, "detach") else x
    try:
        cells = np.asarray(found)
    except (TypeError, ValueError) as error:
        raise InvalidData(f"{what} is no array ({str(error).splitlines()[0][:100]})") from None
    if cells.dtype.kind not in "biuf" or type(x).__module__.startswith("PIL."):
        raise InvalidData(
            f"{what} is {type(x).__name__}, not numbers; add a transform that gives tensors (channels, height, width)"
        )
    return cells


def _room(n: int, cells: np.ndarray, name: str) -> np.ndarray:
    if (need := n * cells.nbytes) > ROOM:
        raise InvalidData(
            f"{n} items of {name} need {need / 2**30:.0f} GiB of memory, more than {ROOM >> 30}; give a subset"
        )
    return np.empty((n, *cells.shape), cells.dtype)
