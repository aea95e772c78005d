# SPDX-License-Identifier: Apache-2.0
"""What models trained by the target's recipe leak on average: every shadow of a bank attacked as if it were the target.

A target is one draw: another seed, or other people, would have given another model. Each shadow is such a draw whose
members are known, scored by the models of the other blocks, and its threshold is fixed on the non-members of the
other blocks too. The figures are means over all pairs of a model and one of its members, so they are also means over
people of how often each is recognised; every person counts on both sides, as a member of some models and as a
non-member of others. They say nothing of where train and holdout come from: the shadows' members were dealt at random.

``Recognised.values`` are one number a record whose mean is the figure: how often it is recognised; for the AUC its
influence v + w - mean(w), with v the share of others below it where it is a member and w the share of members above
it where it is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from casemate.core import stats
from casemate.core._sampling import placements
from casemate.core.stats import Interval

if TYPE_CHECKING:
    from fractions import Fraction

    from casemate.privacy.auditing import Scores


class Bank(NamedTuple):
    """The scores of K shadows as targets, and on which records each of them may be judged."""

    score: np.ndarray  # (K, n)
    member: np.ndarray  # (K, n) bool
    other: np.ndarray  # (K, n) bool
    unit: np.ndarray  # (n,)
    share: tuple[int, int]  # a of b parts are inside each shadow

    @staticmethod
    def of(scores: Scores, in_rate: Fraction) -> Bank | None:
        """Take the shadows of an attack's scores; None where one of them has nobody left on one of the sides."""
        parts = scores.shadow_score, scores.shadow_member, scores.shadow_usable
        score, inside, usable = (np.asarray(part) for part in parts)
        member, other = inside & usable, ~inside & usable
        if not (member.any(axis=1) & other.any(axis=1)).all():
            return None
        return Bank(score, member, other, scores.unit, (in_rate.numerator, in_rate.denominator))

    @property
    def n_units(self) -> int:
        """How many people or distinct records fix the thresholds."""
        return len(np.unique(self.unit[self.other.any(axis=0)]))

    def owners(self, side: np.ndarray) -> np.ndarray:
        """Return the units of the pairs of a model and a record under ``side`` (K, n)."""
        return np.broadcast_to(self.unit, side.shape)[side]


class Recognised(NamedTuple):
    """A figure of the recipe, what each record and each model gives to it, and the false alarms it caused."""

    interval: Interval
    values: np.ndarray  # (n,) NaN for a record that no model can be judged on as a member
    models: np.ndarray  # (K,)
    alarms: float | None = None


def rate(bank: Bank, fpr: float, *, rng: np.random.Generator, level: float) -> Recognised:
    """Return the share of members recognised at ``fpr`` false alarms, mean over the models of the bank."""
    block = bank.share[1]
    thresholds = np.empty(len(bank.score))
    for first in range(0, len(bank.score), block):
        rest = np.ones(len(bank.score), bool)
        rest[first : first + block] = False
        thresholds[first : first + block] = stats.step_threshold(bank.score[rest][bank.other[rest]], fpr)
    flagged = bank.score > thresholds[:, None]  # (K, n)
    hit = flagged & bank.member
    values = _mean(hit, bank.member)
    models = hit.sum(axis=1) / bank.member.sum(axis=1)
    people, _ = stats.tpr_at_fpr(
        bank.score[bank.member],
        bank.score[bank.other],
        fpr=fpr,
        rng=rng,
        member_clusters=bank.owners(bank.member),
        calibration_clusters=bank.owners(bank.other),
        level=level,
    )
    alarms = float((flagged & bank.other).sum() / bank.other.sum())
    found = stats.over_models(float(np.nanmean(values)), people, models, share=bank.share)
    return Recognised(found, values, models, alarms)


def auc(bank: Bank, *, level: float) -> Recognised:
    """Return the AUC of telling members from others within one model, mean over the models of the bank."""
    above, below = np.zeros(bank.score.shape), np.zeros(bank.score.shape)
    for k, (score, member, other) in enumerate(zip(bank.score, bank.member, bank.other, strict=True)):
        above[k, member], below[k, other] = placements(score[member], score[other])
    models = above.sum(axis=1) / bank.member.sum(axis=1)
    above_mean, below_mean = _mean(above, bank.member), _mean(below, bank.other)  # (n,)
    centre = float(np.nanmean(below_mean))
    values = above_mean + np.where(np.isnan(below_mean), centre, below_mean) - centre
    people = stats.auc(
        bank.score[bank.member],
        bank.score[bank.other],
        positive_clusters=bank.owners(bank.member),
        negative_clusters=bank.owners(bank.other),
        level=level,
    )
    found = stats.over_models(float(np.nanmean(values)), people, models, share=bank.share)
    return Recognised(found, values, models)


def _mean(values: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Return the mean over the models under ``side`` of each record (n,); NaN where there is none."""
    count = side.sum(axis=0)
    return np.where(count > 0, np.where(side, values, 0).sum(axis=0) / np.maximum(count, 1), np.nan)
