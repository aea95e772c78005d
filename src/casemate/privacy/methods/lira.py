# SPDX-License-Identifier: Apache-2.0
"""Likelihood-ratio membership inference (LiRA; Carlini et al. 2022), with shrunken variances.

**What it measures.** How well an attacker can tell whether one record, or all records of one person, were
in the training set. It is a lower bound on what the model leaks: a stronger attack may find more. ``auc``
says how well members rank above non-members on average, ``tpr_at_1pct_fpr`` and ``tpr_at_0.1pct_fpr`` which
share of members is recognised when at most that share of non-members is accused wrongly. The last two
matter: a model may look harmless on average and still give away a few people with certainty.
``fpr_at_1pct`` and ``fpr_at_0.1pct`` are the false alarms that the same thresholds really caused.

**This model, and the recipe.** All of these are of the one model under test. ``recipe_auc`` and ``recipe_tpr_at_...``
(``recipe_person_...`` where rows have owners) are what models trained by its recipe leak on average: the shadows, each
attacked as if it were the target; see recipe.py. They cost no training. The first says what was given away, the second
what to expect of the next model that is trained like this one.

**What the attacker knows.** The training recipe, data of the same distribution, the scores of the target
for the record and its true label. The attacker trains ``n_shadows`` models the same way; if the target is
defended, so are they.

**Formula.** phi = log p_y - log sum_{j != y} p_j. Over the shadows that had the record inside, phi has mean
m_in and within-example variance; likewise m_out over the others. The record's score is log f_in(phi) - log
f_out(phi), with f the Student-t predictive density of nu0 + n degrees of freedom, location m and scale s
sqrt(1 + 1/n), where s^2 = (nu0 s0^2 + sum of squared residuals) / (nu0 + n) draws each record's variance
towards s0^2, the pooled *within-example* residual variance, as strongly as ``variance_prior`` = nu0 says
(BaVarIA, arXiv:2603.11799). nu0 = inf is LiRA's fixed variance with Gaussian densities, nu0 = 0 a variance
of each record's own. A person's score is the sum over their rows.

**Why nu0 = 4.** Measured with 0, 4, 16 and inf over leave-out targets: digits forest
with 62 references TPR at 0.1 % 36, 35, 30 and 9 %; RAND HIE forest, people, 16 references, TPR at 1 % 91, 94, 94
and 90 %; digits network with 126 references TPR at 1 % 6.3, 6.3, 6.4 and 6.0 %.

**Threshold.** Every shadow in turn is a target whose members are known. It is scored by the other blocks of
shadows: its own block is left out whole, because the counts of the rest of a block would give the answer away. The
scores of its non-members fix the threshold, so the real target's records have no part in it. It holds for targets
trained as the shadows were. One trained on other data or far fewer rows exceeds it for members and others alike: where
the false alarms it caused are far above the rate, or members do not exceed it clearly more often, it is inconclusive.

**Cost.** ``n_shadows`` fits and predictions. **Pitfalls.** With under 10 / FPR non-members a rate at that FPR is not
resolvable and is not printed. A model given as scores is read above a floor, which is printed: probabilities of 0 and 1
carry no log-odds. Members and non-members from different sources make any attack look strong: see ``blind_auc``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from casemate.core import groups
from casemate.core.data import Dataset
from casemate.core.errors import InvalidData
from casemate.core.methods import method
from casemate.core.run import Run, require
from casemate.core.types import LOGITS, REFIT, SCORES, Measurement, Target
from casemate.privacy import auditing
from casemate.privacy.shadow import ShadowBank, shadow_bank

_LEAST_VARIANCE = 1e-12  # constant scores: both densities are equal and the score is 0


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared residuals of each record's log-odds over some shadows, each (n,)."""

    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray

    def pooled(self, otherwise: float) -> float:
        """Return the within-example variance over all records, or ``otherwise`` where each was seen once at most."""
        free = np.maximum(self.count - 1, 0).sum()
        return float(self.squares.sum() / free) if free > 0 else otherwise


def log_density(phi: np.ndarray, seen: Moments, pooled: float, prior: float) -> np.ndarray:
    """Return the log of the predictive density of ``phi`` (n,) given what was ``seen``.

    ``prior`` = inf: Gaussian with the pooled variance. Else Student-t; see the top of this file.
    """
    n = seen.count
    fixed = math.isinf(prior)
    variance = np.full(len(n), pooled) if fixed else (prior * pooled + seen.squares) / (prior + n)
    scale2 = np.maximum(variance, _LEAST_VARIANCE) * (1 + 1 / n)
    z2 = (phi - seen.mean) ** 2 / scale2
    if fixed:
        return -0.5 * (z2 + np.log(2 * math.pi * scale2))
    from scipy.special import gammaln

    df = prior + n
    norm = gammaln((df + 1) / 2) - gammaln(df / 2) - 0.5 * np.log(df * math.pi * scale2)
    return np.asarray(norm - (df + 1) / 2 * np.log1p(z2 / df))


def log_ratio(
    phi: np.ndarray, inside: Moments, outside: Moments, pooled: tuple[float, float], prior: float
) -> np.ndarray:
    """Return log f_in(phi) - log f_out(phi) (n,); 0 for records that were never seen on one of the sides."""
    known = (inside.count > 0) & (outside.count > 0)
    parts = []
    for seen, variance in zip((inside, outside), pooled, strict=True):
        safe = Moments(np.where(known, seen.count, 1), np.where(known, seen.mean, phi), seen.squares)
        parts.append(log_density(phi, safe, variance, prior))
    return np.where(known, parts[0] - parts[1], 0.0)


class BlockSums:
    """Sums over each block of shadows, so that leaving one block out costs a subtraction, not a second pass."""

    def __init__(self, phi: np.ndarray, mask: np.ndarray, block: int) -> None:
        count = np.maximum(mask.sum(axis=0), 1)
        # Centred first: the differences below would lose digits on raw values.
        self.centre = np.where(mask, phi, 0.0).sum(axis=0) / count  # (n,)
        residual = np.where(mask, phi - self.centre, 0.0).reshape(-1, block, phi.shape[1])
        self.count = mask.reshape(residual.shape).sum(axis=1)  # (blocks, n)
        self.sum = residual.sum(axis=1)  # (blocks, n)
        self.square = (residual**2).sum(axis=1)  # (blocks, n)

    def moments(self, without: int | None = None) -> Moments:
        """Return the moments over all blocks, or over all but one."""
        count, total, square = self.count.sum(axis=0), self.sum.sum(axis=0), self.square.sum(axis=0)
        if without is not None:
            count = count - self.count[without]
            total, square = total - self.sum[without], square - self.square[without]
        shift = total / np.maximum(count, 1)
        return Moments(count, self.centre + shift, np.maximum(square - total * shift, 0.0))


def score_bank(bank: ShadowBank, variance_prior: float) -> tuple[np.ndarray, np.ndarray]:
    """Score the target (n,) and every shadow as a target (K, n), each shadow by the blocks it is not in."""
    block = bank.in_rate.denominator
    sums = [BlockSums(bank.phi, mask & bank.usable, block) for mask in (bank.inside, ~bank.inside)]
    inside, outside = (part.moments() for part in sums)
    whole = inside.pooled(1.0), outside.pooled(1.0)
    target = log_ratio(bank.target_phi, inside, outside, whole, variance_prior)
    shadows = np.empty_like(bank.phi)
    for index in range(bank.n_shadows // block):
        inside, outside = (part.moments(without=index) for part in sums)
        # With one shadow a side left there is no residual to pool: the whole bank's spread stands in.
        pooled = inside.pooled(whole[0]), outside.pooled(whole[1])
        for k in range(index * block, (index + 1) * block):
            shadows[k] = log_ratio(bank.phi[k], inside, outside, pooled, variance_prior)
    return target, shadows


@method(
    kind="attack",
    needs={SCORES, REFIT},
    prefers={LOGITS},
    quick={"n_shadows": 16},
    deep={"n_shadows": 128},
    cost="n_shadows x fit",
    title={"en": "Membership inference (LiRA)", "zh": "成员推断（LiRA）"},
    reference="arXiv:2112.03570",
    quantities={**auditing.QUANTITIES, **auditing.RECIPE},
)
def lira(
    target: Target,
    data: Dataset,
    *,
    n_shadows: int = 64,
    variance_prior: float = 4.0,
    run: Run | None = None,
) -> list[Measurement]:
    """Attack with shadow models trained by the target's own recipe; see the top of this file.

    Args:
        target: must offer scores (better: logits) and refit.
        data: train are the members, holdout the non-members.
        n_shadows: models to train, at least 4; rounded down to whole blocks, and fewer under a deadline.
        variance_prior: how many observations the pooled variance counts for; inf for the pooled variance alone.

    Raises:
        InvalidData: too few people or records, n_shadows < 4, a negative prior, NaN scores.

    >>> from casemate.privacy.methods.lira import lira
    >>> lira.card.needs == {SCORES, REFIT}
    True
    """
    run = require(run)
    if not variance_prior >= 0:
        raise InvalidData(
            f"variance_prior is {variance_prior}; give a number >= 0 (inf: one pooled variance)"
        )
    pool, bank = shadow_bank(target, data, n_shadows=n_shadows, run=run)
    score, shadow_score = score_bank(bank, variance_prior)
    scores = auditing.Scores(
        score=score,
        member=bank.member,
        unit=bank.unit,
        ids=bank.ids,
        shadow_score=shadow_score,
        shadow_member=bank.inside,
        shadow_usable=bank.usable,
        in_rate=bank.in_rate,
    )
    parts = groups.slices(data, pool.x)
    return auditing.report(run, scores, pool, attacker=_attacker(bank), parts=parts)


def _attacker(bank: ShadowBank) -> str:
    unit = "people" if bank.people else "records"
    read = "logits" if bank.floor is None else f"probabilities, floor {bank.floor:.2g}"
    return (
        f"The attacker knows the recipe, the true labels and data of the same distribution: {bank.n_shadows} shadow "
        f"models, in-rate {bank.in_rate} of {unit} ({bank.n_trained:,} rows each; the target had {bank.n_members:,}), "
        f"{read}; thresholds fixed on shadow targets."
    )
