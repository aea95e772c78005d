# SPDX-License-Identifier: Apache-2.0
"""Rounded scores: the target answers in tenths (or hundredths, ...) that still sum to one.

**What it does.** Scores are rounded to ``digits`` decimals by largest remainder: every class gets the whole
units it is due and what is left over goes to the classes with the largest remainders. Rows sum to one
exactly and no class overtakes another. Labels are those of the unrounded model; logits and the module are
no longer offered.

**What it does not do.** It is a weak defence and stands here as the first and simplest one. It changes
nothing in the model. Attacks that read labels only pass it. The same question always gets the same rounded answer,
but many different questions make up for the digits: a softmax regression answered in tenths was copied to
agree on 89 % of inputs with 65 queries and on 99.8 % with 6,500 (bench/steal.py). Shadow models of a rounded target
are rounded too, so the attacker adapts.

**Cost.** None in accuracy; scores lose their calibration below a unit.

**Pitfalls.** An attacker who reads 0 as "less than half a unit" and rounds the shadows too loses little: on
RAND HIE with a default forest LiRA still recognises 89 instead of 94 % of people at 1 % false alarms. An audit
that attacks rounded scores with unrounded shadows would report more protection than there is.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from casemate.core.data import Dataset
from casemate.core.errors import InvalidData
from casemate.core.limited import Wrapper, shared
from casemate.core.methods import method
from casemate.core.run import Run
from casemate.core.types import LABELS, REFIT, SCORES, Capability, Change, Note, Target


def round_scores(scores: np.ndarray, digits: int) -> np.ndarray:
    """Round rows (n, classes) that sum to one to ``digits`` decimals by largest remainder.

    >>> round_scores(np.array([[0.34, 0.33, 0.33]]), 1).tolist()
    [[0.4, 0.3, 0.3]]
    """
    unit = 10**digits
    due = np.asarray(scores, np.float64)
    due = due / due.sum(axis=1, keepdims=True) * unit  # (n, classes) units; float32 rows sum to 1 only nearly
    whole = np.floor(due)
    left = unit - whole.sum(axis=1)  # (n,) units still to give
    # Remainders in decreasing order; equal ones by score, then by class, so that no class overtakes a larger one.
    order = np.lexsort((-due, whole - due), axis=1)
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(due.shape[1])[None, :], axis=1)
    return (whole + (rank < left[:, None])) / unit


@dataclass(frozen=True, kw_only=True)
class RoundedTarget(Wrapper):
    """A target whose scores are rounded; its refits are rounded as well."""

    digits: int

    @property
    def capabilities(self) -> frozenset[Capability]:
        return self.base.capabilities & {LABELS, SCORES, REFIT}

    def digest(self) -> str:
        return hashlib.sha256(f"rounded to {self.digits}: {self.base.digest()}".encode()).hexdigest()

    def labels(self, x: Any) -> np.ndarray:
        return self._behind().labels(x)

    def scores(self, x: Any) -> np.ndarray:
        return round_scores(self._behind().scores(x), self.digits)

    def refit(self, x: Any, y: np.ndarray, seed: int) -> Target:
        return replace(self, base=self._behind().refit(x, y, seed), claims=())

    def refit_people(self, x: Any, y: np.ndarray, seed: int, *, person: np.ndarray | None) -> Target:
        return replace(self, base=self._behind().refit_people(x, y, seed, person=person), claims=())


@method(
    kind="defence",
    needs={SCORES},
    cost="none",
    null={"digits": 12},
    title={"en": "Rounded scores", "zh": "分数舍入"},
    reference="arXiv:1610.05820",
)
def rounding(target: Target, data: Dataset, *, digits: int = 1, run: Run | None = None) -> Change:
    """Answer with scores rounded to ``digits`` decimals; a weak defence, see the top of this file.

    Args:
        target: must offer scores.
        data: not used.
        digits: decimals, 0 to 12.

    Raises:
        InvalidData: digits out of range, or a target without scores.

    >>> from casemate.privacy.methods.rounding import rounding
    >>> rounding.card.kind
    'defence'
    """
    if isinstance(digits, bool) or digits != int(digits) or not 0 <= digits <= 12:
        raise InvalidData(f"digits is {digits!r}; give a whole number from 0 to 12")
    if not target.has(SCORES):
        raise InvalidData(f"rounding needs scores, which this {target.kind} target does not offer")
    rounded = RoundedTarget(base=target, digits=int(digits), **shared(target))
    weak = Note(
        text="Rounding is weak: label-only attacks pass it, and many different questions make up for the digits."
    )
    return Change(
        target=rounded,
        method="rounding",
        params={"digits": int(digits)},
        summary=f"scores rounded to {int(digits)} decimals, labels unchanged",
        evidence=(weak,),
    )
