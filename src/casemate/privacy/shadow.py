# SPDX-License-Identifier: Apache-2.0
"""The shadow bank: models trained as the target was, on known halves of the data, and what they say of every record.

**Unit.** What enters or leaves a training set as a whole: the person where rows have owners, else the row
(identical rows are then one unit, so that no copy of a record is inside while another is outside).

**In-rate.** The share a/b of {1/4, 1/3, 1/2, 2/3, 3/4} nearest to n_train / (n_train + n_holdout). Shadows
are made in blocks of b: the units are dealt at random into b equal parts and shadow i of the block is
trained on parts i, ..., i+a-1 (modulo b). So every unit is inside exactly a of every b shadows, and the
first K shadows of a longer bank are the bank of K shadows.

**Records on both sides.** A record (x and y) that occurs in train and in holdout is member and non-member
at once. All its copies are left out of the evaluation; they stay in the rows that shadows draw from, so
that shadow training sets keep the size and the distribution of the target's. A row whose identical copy,
owned by another person, is on the other side in one shadow is not used with that shadow.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from casemate.core.data import Dataset, Split
from casemate.core.errors import InvalidData
from casemate.core.run import Run
from casemate.core.types import LOGITS, Target

IN_RATES = tuple(Fraction(a, b) for a, b in ((1, 4), (1, 3), (1, 2), (2, 3), (3, 4)))
# Half the smallest positive probability of the first shadow, within these limits: see `score_floor`.
FLOOR_LOW, FLOOR_HIGH = 1e-7, 0.25


class Confidence(NamedTuple):
    """What a model says of the true labels: log-odds from logits, or the two probabilities they come from."""

    log_odds: np.ndarray | None  # (n,)
    own: np.ndarray  # (n,) p_y; empty with log_odds
    rest: np.ndarray  # (n,) sum of the others


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
        return _take(self.x, mask)


@dataclass(frozen=True, kw_only=True)
class ShadowBank:
    """Confidences phi = log p_y - log sum_{j != y} p_j of K shadows and of the target on the evaluated records."""

    phi: np.ndarray  # (K, n) float64
    inside: np.ndarray  # (K, n) bool: the record's unit was in the shadow's training set
    usable: np.ndarray  # (K, n) bool: no identical record of another unit stood on the other side
    target_phi: np.ndarray  # (n,) float64
    member: np.ndarray  # (n,) bool
    unit: np.ndarray  # (n,) codes
    ids: np.ndarray | None  # (n,)
    people: bool
    in_rate: Fraction
    floor: float | None  # of probabilities; None where logits were read
    n_trained: int  # mean rows a shadow was trained on
    n_members: int  # rows the target was trained on

    @property
    def n_shadows(self) -> int:
        return len(self.phi)


def log_odds_of_logits(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return z_y - log sum_{j != y} exp z_j in float64 (n,): no probability is formed, so nothing saturates.

    >>> log_odds_of_logits(np.array([[60.0, -60.0]]), np.array([0])).tolist()
    [120.0]
    """
    others = np.array(logits, np.float64)  # (n, classes), a copy
    rows = np.arange(len(y))
    own = others[rows, y]
    others[rows, y] = -np.inf
    top = others.max(axis=1)
    shift = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):  # every other class may be at minus infinity
        return own - (shift + np.log(np.exp(others - shift[:, None]).sum(axis=1)))


def log_odds_of_scores(own: np.ndarray, rest: np.ndarray, floor: float) -> np.ndarray:
    """Return log p_y - log sum_{j != y} p_j (n,), both raised to ``floor``."""
    return np.log(np.maximum(own, floor)) - np.log(np.maximum(rest, floor))


def score_floor(own: np.ndarray, rest: np.ndarray) -> float:
    """Return half the smallest positive probability seen in a reference, within [1e-7, 0.25].

    A forest of 100 trees answers in hundredths: 0 means "below 1/100", so it is read as 1/200; a target rounded to
    tenths is read as 1/20. Measured on RAND HIE, share of people recognised at 1 % false alarms with this floor (with
    a tenth of it; with ten or four times as much): default forest 94 % (93 %, 89 %), the same answering in tenths 89 %
    (82 %, 78 %). Boosting and forests with large leaves never answer 0 and do not depend on it.
    """
    both = np.concatenate([own, rest])
    positive = both[both > 0]
    least = float(positive.min()) / 2 if positive.size else FLOOR_HIGH
    return min(max(least, FLOOR_LOW), FLOOR_HIGH)


def confidence(target: Target, x: Any, y: np.ndarray) -> Confidence:
    """Ask ``target`` about the labels ``y`` of ``x``: logits where it offers them, else scores."""
    empty = np.empty(0)
    if target.has(LOGITS):
        log_odds = log_odds_of_logits(target.logits(x), y)
        _no_nan(target, log_odds)
        return Confidence(log_odds, empty, empty)
    others = np.array(target.scores(x), np.float64)  # (n, classes), a copy
    _no_nan(target, others)
    rows = np.arange(len(y))
    own = others[rows, y]
    others[rows, y] = 0.0  # 1 - p_y from the other classes: exact where p_y rounds to 1
    return Confidence(None, own, others.sum(axis=1))


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


def nearest_in_rate(n_train: int, n_holdout: int) -> Fraction:
    """Return the in-rate nearest to the target's own.

    >>> nearest_in_rate(800, 200)
    Fraction(3, 4)
    """
    return min(IN_RATES, key=lambda rate: abs(rate - Fraction(n_train, n_train + n_holdout)))


def design(run: Run, n_units: int, in_rate: Fraction, n_shadows: int) -> np.ndarray:
    """Say which units each shadow is trained on (n_shadows, n_units); see the top of this file."""
    a, b = in_rate.numerator, in_rate.denominator
    inside = np.empty((n_shadows, n_units), bool)
    for block in range(n_shadows // b):
        part = run.rng("design", block).permutation(n_units) % b  # (n_units,)
        for i in range(b):
            inside[block * b + i] = (part - i) % b < a
    return inside


def shadow_bank(target: Target, data: Dataset, *, n_shadows: int, run: Run) -> tuple[Pool, ShadowBank]:
    """Train shadows by the target's own recipe and keep what they say of each record, not the models.

    The first is timed, and under a deadline as many follow as fit. The number is a multiple of the block (2, 3 or 4
    shadows) and at least two blocks.

    Raises:
        InvalidData: fewer than 4 shadows asked for, too few people or records, NaN scores.
    """
    if n_shadows < 4:
        raise InvalidData(f"n_shadows is {n_shadows}; give at least 4")
    pool = gather(data)
    in_rate = nearest_in_rate(len(data.train), len(data.holdout))
    block = in_rate.denominator
    if pool.n_units < 2 * block:
        raise InvalidData(
            f"shadow models need at least {2 * block} people or distinct records; got {pool.n_units}"
        )
    wanted = max(2 * block, n_shadows // block * block)
    inside = design(run, pool.n_units, in_rate, wanted)[:, pool.unit]  # (K, rows)
    seeds = [run.child_seed("shadow", k) for k in range(wanted)]
    kept_x, kept_y = pool.rows(pool.evaluated), pool.y[pool.evaluated]
    train = partial(_train, target, pool.x, pool.y, kept_x, kept_y)

    start = time.perf_counter()
    first = train((inside[0], seeds[0]), 0)
    seconds = time.perf_counter() - start
    n_made = run.affordable("n_shadows", wanted, seconds, least=2 * block) // block * block
    run.used["n_shadows"] = n_made
    todo = list(zip(inside[1:n_made], seeds[1:n_made], strict=True))
    answers = [first, *run.map(train, todo, label="shadow models"), confidence(target, kept_x, kept_y)]

    floor = None if first.log_odds is not None else score_floor(first.own, first.rest)
    phi = _all_log_odds(answers, floor)  # (K + 1, n)
    inside = inside[:n_made]
    return pool, ShadowBank(
        phi=phi[:-1],
        inside=inside[:, pool.evaluated],
        usable=~_mixed(inside, pool)[:, pool.evaluated],
        target_phi=phi[-1],
        member=pool.member[pool.evaluated],
        unit=pool.unit[pool.evaluated],
        ids=None if pool.ids is None else pool.ids[pool.evaluated],
        people=pool.people,
        in_rate=in_rate,
        floor=floor,
        n_trained=round(float(inside.sum(axis=1).mean())),
        n_members=len(data.train),
    )


def _train(
    target: Target,
    x: Any,
    y: np.ndarray,
    kept_x: Any,
    kept_y: np.ndarray,
    item: tuple[np.ndarray, int],
    _: int,
) -> Confidence:
    """Train one shadow. Its seed is its place in the design, not in the queue, so the first K stay the same."""
    inside, seed = item
    return confidence(target.refit(_take(x, inside), y[inside], seed), kept_x, kept_y)


def _all_log_odds(answers: Sequence[Confidence], floor: float | None) -> np.ndarray:
    """Turn answers into log-odds (len(answers), n); what is infinite becomes the extreme that was seen."""
    if floor is not None:
        return np.stack([log_odds_of_scores(a.own, a.rest, floor) for a in answers])
    phi = np.stack([a.log_odds for a in answers if a.log_odds is not None])
    finite = phi[np.isfinite(phi)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    return np.clip(phi, low, high)


def _mixed(inside: np.ndarray, pool: Pool) -> np.ndarray:
    """Mark rows (K, rows) that have an identical copy on the other side of that shadow's split."""
    mixed = np.zeros_like(inside)
    copies = np.bincount(pool.content)[pool.content]
    rows = np.flatnonzero(copies > 1)
    if pool.people and len(rows):
        group = np.unique(pool.content[rows], return_inverse=True)[1].reshape(-1)
        size = np.bincount(group)
        for k, row in enumerate(inside):
            n_inside = np.bincount(group, row[rows])
            mixed[k, rows] = ((n_inside > 0) & (n_inside < size))[group]
    return mixed


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


def _take(x: Any, mask: np.ndarray) -> Any:
    return [x[i] for i in np.flatnonzero(mask)] if isinstance(x, list) else x[mask]


def _no_nan(target: Target, values: np.ndarray) -> None:
    if np.isnan(values).any():
        n_bad = int(np.isnan(values).reshape(len(values), -1).any(axis=1).sum())
        raise InvalidData(f"the {target.kind} target gave NaN for {n_bad} of {len(values)} records")
