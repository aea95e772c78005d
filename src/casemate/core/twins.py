# SPDX-License-Identifier: Apache-2.0
"""Held-out rows that stand in the training rows too, as they are or with a little noise: more than would by chance."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

from casemate.core.data import Dataset, Split

CHANCE = 1e-5  # how rarely rows that are split at random look as if they had been trained on
MAX_CELLS = 2**22  # looked at together
GRID = 1000  # cells a spread: rows that differ by less are one row written twice


class Seen(NamedTuple):
    """What the held-out rows have in common with train: in words, and how much more than by chance, as a share."""

    reason: str = ""
    share: float = 0.0


def seen_before(data: Dataset, *, copies: bool = True) -> Seen:
    """Say that more held-out rows occur in train than would by chance, where they do; by person where rows have owners.

    Rows that agree stand together; by chance each row, or each owner with the rarest of their repeated rows, is held
    out by itself. The bound on how probable so many are is Chernoff's over those groups, so that twins that come in
    pairs are counted as pairs. Without ``copies``, held-out rows that equal a training row exactly are left out first.

    >>> rows, labels = np.random.default_rng(0).normal(size=(40, 2)), np.arange(40) % 2
    >>> seen_before(Dataset((rows[:20], labels[:20]), (rows[20:], labels[20:])))
    Seen(reason='', share=0.0)
    >>> seen_before(Dataset((rows[:20], labels[:20]), (rows[:20], labels[:20]))).reason[:45]
    '20 of 20 held-out rows are training rows too,'
    """
    train, holdout = data.train, data.holdout
    if not copies:
        holdout = holdout.take(~np.isin(_contents(holdout), _contents(train)))
        if not len(holdout):
            return Seen()
    mark, held = _one_each(data, train, holdout)  # (n_units,)
    known, group = np.unique(mark, return_inverse=True)
    size = np.bincount(group)  # (n_groups,)
    outside = np.bincount(group[held], minlength=len(known))
    again = np.where(outside < size, outside, 0)  # held-out units of a group that train has a share in
    n, k = int(held.sum()), int(again.sum())
    inside = size - outside
    usual = n * int(inside[inside > 1].sum()) / max(1, len(held) - n)  # as many as train has twins in itself
    if k <= usual or _tail(k, size, n / len(held)) > CHANCE:
        return Seen()
    what = "rows are training rows too" if holdout.person is None else "people have rows of others in train"
    reason = (
        f"{k} of {n} held-out {what}, where chance would give about {usual:.0f}: what is measured on them is "
        "not of rows the model never saw"
    )
    return Seen(reason, (k - usual) / n)


def _one_each(data: Dataset, train: Split, holdout: Split) -> tuple[np.ndarray, np.ndarray]:
    """Return one mark a unit, and whether the unit is held out: of an owner the rarest mark that others have too."""
    mark = np.concatenate([_marks(data, part) for part in (train, holdout)])
    held = np.repeat([False, True], [len(train), len(holdout)])
    if train.person is None or holdout.person is None:
        return mark, held
    owner = np.concatenate([train.person, holdout.person]).astype(np.int64)
    pairs = np.unique(np.stack([mark, owner.astype(np.uint64)]), axis=1)
    _, place, count = np.unique(pairs[0], return_inverse=True, return_counts=True)
    rarity = np.where(count > 1, count, np.iinfo(np.int64).max)[place]  # of each pair
    order = np.lexsort((pairs[0], rarity, pairs[1]))
    first = np.unique(pairs[1][order], return_index=True)[1]
    outside = np.isin(pairs[1][order][first], np.unique(owner[held]).astype(np.uint64))
    return pairs[0][order][first], outside


def _contents(part: Split) -> np.ndarray:
    """Return a 64-bit digest of each row with its label (n,)."""
    rows = part.x if isinstance(part.x, list) else np.ascontiguousarray(np.reshape(part.x, (len(part.y), -1)))
    found = (
        hashlib.blake2b(
            row.encode("utf-8", "surrogatepass") if isinstance(row, str) else row.tobytes(), digest_size=8
        )
        for row in rows
    )
    labelled = (hashlib.blake2b(mark.digest() + str(label).encode(), digest_size=8) for mark, label in
                zip(found, part.y.tolist(), strict=True))  # fmt: skip
    return np.array([int.from_bytes(mark.digest()) for mark in labelled], np.uint64)


def _tail(k: int, size: np.ndarray, rate: float) -> float:
    """Bound the probability of k or more held-out units in groups that train has a share in (Chernoff).

    Of a group of m units H are held out, binomially at ``rate``; H count unless H = m.

    >>> round(_tail(20, np.full(20, 2), 0.5) * 2**20, 3)  # twenty pairs that all cross the split
    1.0
    """
    if not 0 < rate < 1:
        return 1.0
    groups, times = np.unique(size[size > 1], return_counts=True)
    slope = np.logspace(-3, 1.15, 60)[:, None]  # (s, 1); beyond 14 the difference below is lost to rounding
    all_ways = groups * np.log1p(rate * np.expm1(slope))  # (s, g) log of E exp(slope H)
    whole = groups * (np.log(rate) + slope)
    none = groups * np.log(rate)
    gone = np.minimum(np.exp(np.minimum(whole - all_ways, 0)), 1 - 1e-12)
    moment = all_ways + np.log1p(-gone + np.exp(none - all_ways))
    return float(np.exp(np.minimum(0.0, (moment @ times) - slope[:, 0] * k)).min())


def _marks(data: Dataset, part: Split) -> np.ndarray:
    """Return a 64-bit mark of each row (n,), the same for rows that agree within a thousandth of a spread."""
    if isinstance(part.x, list):
        texts = (hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8) for text in part.x)
        return np.array([int.from_bytes(mark.digest()) for mark in texts], np.uint64)
    flat = np.reshape(part.x, (len(part.y), -1))  # (n, d)
    if data.schema.input == "table":
        step = np.array([0.0 if c.kind == "category" else c.spread / GRID for c in data.schema.columns])
    else:
        low, high = data.schema.bounds or (0.0, 1.0)
        step = np.array([(high - low) / GRID])
    odd = np.random.default_rng(0).integers(0, 2**63, flat.shape[1]).astype(np.uint64) * np.uint64(
        2
    ) + np.uint64(1)
    size = max(1, MAX_CELLS // max(1, flat.shape[1]))
    blocks = (flat[first : first + size].astype(np.float64) for first in range(0, len(flat), size))
    return np.concatenate([_mark(block, step, odd) for block in blocks])


def _mark(flat: np.ndarray, step: np.ndarray, odd: np.ndarray) -> np.ndarray:
    """Return the marks of some rows (n, d): a few rows at a time, for images are large."""
    cells = np.where(step > 0, np.floor(flat / np.where(step > 0, step, 1.0)), flat) + 0.0  # -0 is 0
    cells = np.where(np.isnan(cells), np.nan, cells)  # one kind of hole
    mixed = _mixed(np.ascontiguousarray(cells).view(np.uint64))
    return np.asarray((mixed * odd).sum(1, dtype=np.uint64))


def _mixed(bits: np.ndarray) -> np.ndarray:
    """Spread every bit over the whole word (the finaliser of SplitMix64)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray(bits ^ (bits >> np.uint64(31)))
