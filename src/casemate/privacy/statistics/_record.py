# SPDX-License-Identifier: Apache-2.0
"""A question put to a ledger: its canonical text, a keyed digest of the rows it is asked of, and for whom it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from casemate.privacy.ledger import Stated
from casemate.privacy.statistics._rows import Column


def recorded(
    ledger: Any, text: str, event: Any, make: Callable[[], dict[str, Any]], *, data: Any, stated: Stated
) -> dict[str, Any]:
    """Return the ledger's answer; one that was drawn before is given again at no cost."""
    query = f"{text}; data {ledger.digest(fingerprint(data))}"
    answer: dict[str, Any] = ledger.release(query, event, make, stated=stated)
    return answer


def fingerprint(data: Any) -> bytes:
    """Return a digest of the rows that count, as values: how a frame stores them makes no difference."""
    from blake3 import blake3

    hashed = blake3()
    _feed(hashed, data)
    return bytes(hashed.digest())


def _feed(hashed: Any, data: Any) -> None:
    if isinstance(data, Column):
        for block in data.blocks():
            hashed.update(np.ascontiguousarray(block).data.cast("B") if len(block) else b"")
    elif isinstance(data, Mapping):
        for name in sorted(data, key=str):
            hashed.update(b"column " + str(name).encode() + b";")
            _feed(hashed, data[name])
    elif isinstance(data, np.ndarray) and data.dtype != object:
        hashed.update(f"{data.dtype.str} {data.shape};".encode() + data.tobytes())
    elif isinstance(data, np.ndarray):
        for cell in data:
            hashed.update(repr(cell).encode() + b";")
    else:
        for part in data:
            hashed.update(b"part;")
            if isinstance(part, np.ndarray):
                _feed(hashed, part)
            else:
                hashed.update(repr(part).encode() + b";")
