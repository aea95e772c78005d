# SPDX-License-Identifier: Apache-2.0
"""The blind baseline: are members and non-members different before any model is asked?"""

from __future__ import annotations

import numpy as np

from casemate.core import stats
from casemate.core.rng import generator
from casemate.core.run import Run
from casemate.core.stats import Interval
from casemate.privacy.pool import Pool

BLIND_LEVEL = 0.9999  # a baseline that takes an attack's result back must be sure
BLIND_ROWS = 2500  # a side: keeps the baseline below a tenth of a quick attack


def blind_baseline(pool: Pool, run: Run) -> tuple[Interval, Interval] | None:
    """Try to tell members from non-members by x and y alone, without the model, on tables.

    Where rows have owners, also by how many rows a person has: a person's score is a sum over their rows, so people
    of few rows rank otherwise than people of many, whatever the model is (measured on a model that saw neither
    part, 8 rows a member and 1 a non-member: person AUC .06). A boosted classifier on at most 2,500 rows a side,
    trained on half of the people and tested on the other half.
    (Cross-fitting would test both ways, but under the null both ways measure the same accident twice.)
    Returns the AUC's interval at the run's level and at 99.99 %; None with fewer than 4 people or records a side.
    What it cannot see is a difference in distribution too weak for so many rows.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    # One draw for every method of a report: they share the data, so they share the answer.
    rng = generator(run.seed, "blind baseline")
    chosen, halves = [], []
    for side in (pool.member, ~pool.member):
        rows = np.flatnonzero(side & pool.evaluated)
        codes = np.unique(pool.unit[rows], return_inverse=True)[1].reshape(-1)
        place = rng.permutation(int(codes.max()) + 1)  # a random order of the units
        if len(place) < 4:
            return None
        taken = np.argsort(place[codes], kind="stable")[:BLIND_ROWS]
        chosen.append(rows[taken])
        halves.append(place[codes[taken]] % 2 == 0)
    rows, learnt = np.concatenate(chosen), np.concatenate(halves)
    features = np.column_stack([pool.x[rows], pool.y[rows]])
    if pool.people:
        features = np.column_stack([features, np.bincount(pool.unit)[pool.unit[rows]]])
    # scikit-learn cannot bin a column without a value, and there is nothing to learn from it
    features = features[:, ~np.isnan(features[learnt]).all(axis=0)]
    member, units = pool.member[rows], pool.unit[rows]
    model = HistGradientBoostingClassifier(
        max_iter=30, max_leaf_nodes=15, early_stopping=False, random_state=int(rng.integers(2**31))
    )
    with threadpool_limits(1):  # its threads cost more than they save on so few rows
        model.fit(features[learnt], member[learnt])
        guess = model.predict_proba(features[~learnt])[:, 1]
    member, units = member[~learnt], units[~learnt]
    single = len(np.unique(units)) == len(units)

    def area(level: float) -> Interval:
        return stats.auc(
            guess[member],
            guess[~member],
            positive_clusters=None if single else units[member],
            negative_clusters=None if single else units[~member],
            level=level,
        )

    return area(run.level), area(BLIND_LEVEL)
