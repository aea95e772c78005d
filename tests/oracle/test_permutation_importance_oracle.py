# SPDX-License-Identifier: Apache-2.0
"""permutation_importance against scikit-learn's, and the coverage of its interval where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.inspection import permutation_importance as sklearn_importance
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import casemate as cm
from casemate.core import harness, stats
from casemate.core.methods import find
from casemate.core.run import Run
from casemate.core.types import Explanation
from casemate.explanation.methods import permutation_importance as module

METHOD = find("permutation_importance")


def explain(target: cm.Target, data: cm.Dataset, *, seed: int = 0, **params) -> Explanation:
    target, data = target.bind(data)
    found: Explanation = harness.invoke(METHOD, target, data, Run(card=METHOD.card, seed=seed), params)
    return found


@pytest.mark.parametrize("model", ["logistic", "forest"])
def test_scikit_learn_agrees_within_the_noise_of_the_draws(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same model, rows and loss, 30 repeats each. sklearn lets a row keep its own value, hence (n - 1) / n.

    The noise of both means is estimated from sklearn's repeats, and doubled as ours splits the rows in halves;
    t with 29 degrees, 8 columns: |t| < 8.2 has a false-failure probability below 1e-7.
    """
    x, y = load_breast_cancer(return_X_y=True)
    x = x[:, :8]
    if model == "logistic":
        fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(x[:300], y[:300])
    else:
        fitted = RandomForestClassifier(5, min_samples_leaf=5, random_state=0).fit(x[:300], y[:300])
    monkeypatch.setattr(module, "N_BLOCKS", 20)
    data = cm.Dataset(train=(x[:300], y[:300]), holdout=(x[300:], y[300:]))
    ours = explain(cm.wrap(fitted), data, repeats=30, loss="log").values[0, :, 0]
    theirs = sklearn_importance(
        fitted, x[300:], y[300:], scoring="neg_log_loss", n_repeats=30, random_state=0
    )
    n = len(y) - 300
    expected = theirs.importances_mean * n / (n - 1)
    noise = np.sqrt(2 * theirs.importances.var(1, ddof=1) / 30)
    used = noise > 0
    assert used.any()
    assert (ours[~used] == 0).all()
    # the split of the rows into halves is one draw, fixed over the repeats: it moves a mean by O(1/n)
    slack = 8.2 * noise + 4 * np.abs(expected) / n
    assert (np.abs(ours - expected) <= slack)[used].all()
    assert stats.spearman(ours, expected) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("persons", [None, 100])
def test_the_interval_covers_two_beta_squared_times_variance(
    persons: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """300 data sets of 200 rows, or of 100 people with 4 rows each, a model with known coefficients."""
    monkeypatch.setattr(module, "N_BLOCKS", 8)
    beta = np.array([1.5, 0.5])
    model = LinearRegression().fit(np.eye(2), beta)
    model.coef_, model.intercept_ = beta.copy(), 0.0
    rng = np.random.default_rng(0)
    hits = np.zeros(2)
    for seed in range(300):
        if persons is None:
            owner = None
            x = rng.normal(size=(210, 2))
        else:
            owner = np.repeat(np.arange(persons + 10), 4)
            own = rng.normal(size=(persons + 10, 2))  # half of the variance is the person's
            x = (own[owner] + rng.normal(size=(len(owner), 2))) / np.sqrt(2)
        y = x @ beta + rng.normal(size=len(x))
        cut = 10 if owner is None else 40
        parts = [
            (x[rows], y[rows]) if owner is None else (x[rows], y[rows], owner[rows])
            for rows in (slice(0, cut), slice(cut, None))
        ]
        data = cm.Dataset(train=parts[0], holdout=parts[1])
        found = explain(cm.wrap(model, task="regression"), data, seed=seed, repeats=5)
        value, error = found.values[0, :, 0], found.errors[0, :, 0]
        hits += np.abs(value - 2 * beta**2) <= 1.959964 * error
    # P(fewer hits than this) < 5e-7 at 94 %: the estimator is asymptotic, and one point is given away
    floor = int(binom.ppf(5e-7, 300, 0.94))
    assert (hits >= floor).all(), hits / 300
