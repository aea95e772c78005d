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

import time
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from casemate.core.data import Dataset
from casemate.core.errors import InvalidData
from casemate.core.run import Run
from casemate.core.types import Target
from casemate.privacy.confidence import Confidence, all_log_odds, confidence, score_floor
from casemate.privacy.pool import Pool, gather, take

IN_RATES = tuple(Fraction(a, b) for a, b in ((1, 4), (1, 3), (1, 2), (2, 3), (3, 4)))


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
    owner = pool.unit if pool.people else None
    train = partial(_train, target, pool.x, pool.y, owner, kept_x, kept_y)

    start = time.perf_counter()
    first = train((inside[0], seeds[0]), 0)
    seconds = time.perf_counter() - start
    n_made = run.affordable("n_shadows", wanted, seconds, least=2 * block) // block * block
    run.used["n_shadows"] = n_made
    todo = list(zip(inside[1:n_made], seeds[1:n_made], strict=True))
    answers = [first, *run.map(train, todo, label="shadow models"), confidence(target, kept_x, kept_y)]

    floor = None if first.log_odds is not None else score_floor(first.own, first.rest)
    phi = all_log_odds(answers, floor)  # (K + 1, n)
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
    owner: np.ndarray | None,
    kept_x: Any,
    kept_y: np.ndarray,
    item: tuple[np.ndarray, int],
    _: int,
) -> Confidence:
    """Train one shadow. Its seed is its place in the design, not in the queue, so the first K stay the same."""
    inside, seed = item
    if owner is None:
        return confidence(target.refit(take(x, inside), y[inside], seed), kept_x, kept_y)
    shadow = target.refit_people(take(x, inside), y[inside], seed, person=owner[inside])
    return confidence(shadow, kept_x, kept_y)


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
