# SPDX-License-Identifier: Apache-2.0
"""Membership inference by the loss alone (Yeom et al. 2018): records the model is surer of were in its training set.

**What it measures.** The gap between what the model says of training records and of others. Cheap, and a
weak lower bound: it cannot tell an easy record from a memorised one, so a model that leaks badly may look
harmless here. Read it beside ``lira``. For the quantities see there.

**What the attacker knows.** The target's scores for the record and its true label, and some records known
not to be in the training set. No training.

**Formula.** score = log p_y, from logits as -log(1 + exp(-phi)) in float64 with phi = log p_y - log sum_{j
!= y} p_j, so that sure records keep their order. A person's score is the mean over their rows.

**Threshold.** Non-members are split into halves (a person in one of them). Each half fixes the threshold
for the other; the two rates are averaged. The interval is the hull of both and holds the noise of the
threshold.

**Cost.** One prediction a record. **Pitfalls.** Scores that are exactly 0 or 1 tie; tied records are
flagged together or not at all, so a forest that is sure of everything gives a true-positive rate of 0.
"""

from __future__ import annotations

import numpy as np

from casemate.core import groups
from casemate.core.data import Dataset
from casemate.core.methods import method
from casemate.core.run import Run, require
from casemate.core.types import LOGITS, SCORES, Measurement, Target
from casemate.privacy import auditing
from casemate.privacy.confidence import confidence
from casemate.privacy.pool import gather

_LEAST_PROBABILITY = 1e-300  # log 0 would be minus infinity, which no report can hold


@method(
    kind="attack",
    needs={SCORES},
    prefers={LOGITS},
    cost="one prediction a record",
    title={"en": "Membership inference by the loss", "zh": "成员推断（损失阈值）"},
    reference="arXiv:1709.01604",
    quantities=auditing.QUANTITIES,
)
def loss_attack(target: Target, data: Dataset, *, run: Run | None = None) -> list[Measurement]:
    """Rank records by the target's own loss; see the top of this file.

    Args:
        target: must offer scores (better: logits).
        data: train are the members, holdout the non-members.

    Raises:
        InvalidData: fewer than 2 people or records a side, NaN scores.

    >>> from casemate.privacy.methods.loss_attack import loss_attack
    >>> loss_attack.card.cost
    'one prediction a record'
    """
    run = require(run)
    pool = gather(data)
    kept = pool.evaluated
    seen = confidence(target, pool.rows(kept), pool.y[kept])
    if seen.log_odds is None:
        score = np.log(np.maximum(seen.own, _LEAST_PROBABILITY))
    else:
        score = np.maximum(-np.logaddexp(0.0, -seen.log_odds), np.log(_LEAST_PROBABILITY))
    scores = auditing.Scores(
        score=score,
        member=pool.member[kept],
        unit=pool.unit[kept],
        ids=None if pool.ids is None else pool.ids[kept],
    )
    attacker = (
        f"The attacker knows the true labels and {'logits' if seen.log_odds is not None else 'probabilities'} of the "
        "records, and some non-members; thresholds fixed on the other half of the non-members."
    )
    parts = groups.slices(data, pool.x)
    return auditing.report(run, scores, pool, attacker=attacker, average=True, parts=parts)
