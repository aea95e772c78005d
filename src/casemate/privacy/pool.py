# SPDX-License-Identifier: Apache-2.0
"""Members and non-members as one list of rows, the units they belong to, and the records that are both."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from casemate.core.data import Dataset, Split
from casemate.core.errors import InvalidData


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Members (train) and non-members (holdout) as one list of rows."""

    x: Any
    y: np.ndarray  # (n,)
    member: np.ndarray  # (n,) bool
    unit: np.ndarray  # (n,) 0 ... n_units - 1
    content: np.ndarray  # (n,) equal where x and y are equal
    evaluated: np.ndarray  # (n,) bool: False for records that occur on both sides
    ids: np.ndarray | None  # (n,)
    people: bool

    @property
    def n_units(self) -> int:
        return int(self.unit.max()) + 1

    def rows(self, mask: np.ndarray) -> Any:
        """Return the inputs under ``mask``."""
        return take(self.x, mask)


def gather(data: Dataset) -> Pool:
    """Join train and holdout, number the units, and find the records that occur on both sides."""
    train, holdout = data.train, data.holdout
    member = np.repeat([True, False], [len(train), len(holdout)])
    content = _contents(train, holdout)
    on_both = np.intersect1d(content[member], content[~member])
    people = train.person is not None and holdout.person is not None
    owners = _joined(train.person, holdout.person) if people else content
    evaluated = np.isin(content, on_both, invert=True)
    unit = np.unique(owners, return_inverse=True)[1].reshape(-1)
    for side, name in ((member, "train"), (~member, "holdout")):
        found = len(np.unique(unit[side & evaluated]))
        if found < 2:
            raise InvalidData(
                f"membership needs at least 2 distinct {'people' if people else 'records'} of {name} that do not "
                f"occur in the other part; got {found}"
            )
    ids = None
    if train.ids is not None and holdout.ids is not None:
        ids = np.concatenate([train.ids, holdout.ids])
    x = [*train.x, *holdout.x] if isinstance(train.x, list) else np.concatenate([train.x, holdout.x])
    return Pool(
        x=x,
        y=np.concatenate([train.y, holdout.y]),
        member=member,
        unit=unit,
        content=content,
        evaluated=evaluated,
        ids=ids,
        people=people,
    )


def _contents(train: Split, holdout: Split) -> np.ndarray:
    """Number the distinct records (n,), equal where x and y agree bit by bit (0.0 and -0.0 agree, NaN with NaN)."""
    digests = []
    for part in (train, holdout):
        if isinstance(part.x, list):
            rows = [text.encode() for text in part.x]
        else:
            flat = np.ascontiguousarray(part.x).reshape(len(part), -1)
            if flat.dtype.kind == "f":
                flat = np.where(np.isnan(flat), np.asarray(np.nan, flat.dtype), flat + 0.0)
            rows = [row.tobytes() for row in flat]
        # Held in memory only; the digest replaces rows that may be large.
        digests += [
            hashlib.blake2b(row + b"|%d" % int(label), digest_size=16).digest()
            for row, label in zip(rows, part.y, strict=True)
        ]
    book: dict[bytes, int] = {}
    return np.array([book.setdefault(digest, len(book)) for digest in digests], np.int64)


def _joined(first: np.ndarray | None, second: np.ndarray | None) -> np.ndarray:
    return np.concatenate([part for part in (first, second) if part is not None])


def take(x: Any, mask: np.ndarray) -> Any:
    """Return the rows of an array or a list of texts under ``mask``."""
    return [x[i] for i in np.flatnonzero(mask)] if isinstance(x, list) else x[mask]
