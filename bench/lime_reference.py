# SPDX-License-Identifier: Apache-2.0
"""What `lime` costs and how steady it is, beside the lime package 0.2.0.1, on the same models, rows and samples.

breast_cancer (30 columns), 369 training rows, XGBoost with 100 trees of depth 4 and a forest of 100 trees. Three
questions: process CPU time a row with 5,000 samples (the package is timed on 20 rows, ours on 200; interleaved, 3
runs, medians); are the means over seeds equal with `mode="lime"` (10 rows, 20 seeds each, all features kept); and
how much do coefficients move between seeds (variance, and Jaccard of the five strongest columns).

    PYTHONPATH=folder/with/lime OMP_NUM_THREADS=1 python bench/lime_reference.py
"""

from __future__ import annotations

import itertools
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from lime.lime_tabular import LimeTabularExplainer
from scipy.stats import chi2
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from xgboost import XGBClassifier

import casemate as cm
from casemate.core import harness
from casemate.core.methods import find
from casemate.core.run import Run
from casemate.core.types import Explanation

METHOD = find("lime")
SAMPLES, ROWS, SEEDS, TIMED, RUNS, FORWARD = 5000, 10, 20, 20, 3, 6


def ours(target: Any, data: cm.Dataset, rows: range, *, seed: int = 0, **params: Any) -> Explanation:
    run = Run(card=METHOD.card, seed=seed)
    found: Explanation = harness.invoke(METHOD, target, data, run, {"rows": list(rows), **params})
    return found


def theirs(explainer: Any, model: Any, x: np.ndarray, n_features: int) -> np.ndarray:
    """Return coefficients (rows, columns) of the second class."""
    out = np.zeros(x.shape)
    for i, row in enumerate(x):
        found = explainer.explain_instance(
            row, model.predict_proba, num_features=n_features, num_samples=SAMPLES
        )
        for column, value in found.local_exp[1]:
            out[i, column] = value
    return out


def seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def jaccard(values: np.ndarray) -> float:
    """Mean overlap of the five strongest columns over rows and pairs of seeds; values (seeds, rows, columns)."""
    top = [[set(np.argsort(-np.abs(row))[:5]) for row in seed] for seed in values]
    pairs = itertools.combinations(top, 2)
    return float(np.mean([len(a & b) / len(a | b) for p in pairs for a, b in zip(*p, strict=True)]))


def speed(peer: Any, model: Any, target: Any, data: cm.Dataset, n_features: int) -> None:
    n_timed = TIMED if n_features > FORWARD else 5  # forward selection takes the package seconds a row
    held = data.holdout.x[:n_timed]

    def own(n_rows: int, mode: str, n_samples: int) -> float:
        options = {"mode": mode, "n_samples": n_samples, "n_features": n_features}
        return seconds(lambda: ours(target, data, range(n_rows), **options)) / n_rows

    own(200, "lime", SAMPLES)
    theirs(peer, model, held[:2], n_features)
    runs = [
        (
            seconds(lambda: theirs(peer, model, held, n_features)) / n_timed,
            own(200, "lime", SAMPLES),
            own(200, "sobol", 4096),
            own(1, "lime", SAMPLES),
        )
        for _ in range(RUNS)
    ]
    their, same, sobol, single = (1e3 * statistics.median(column) for column in zip(*runs, strict=True))
    print(
        f"  {n_features:2} features ({n_timed:2} rows) {their:7.1f}  lime mode {same:.2f} ({their / same:.0f} x)"
        f"   sobol 4096 {sobol:.2f} ({their / sobol:.0f} x)   {single:.1f} ({their / single:.1f} x)"
    )


def case(name: str, model: Any, x: np.ndarray, y: np.ndarray) -> None:
    train, rest = slice(0, 369), slice(369, None)
    target, data = cm.wrap(model).bind(cm.Dataset(train=(x[train], y[train]), holdout=(x[rest], y[rest])))
    held = x[rest]

    def explainer(seed: int) -> Any:
        return LimeTabularExplainer(x[train], random_state=seed)

    print(f"{name}\n  CPU ms a row          lime    ours, 200 rows (ratio)   ours, 1 row")
    for n_features in (10, 6):
        speed(explainer(0), model, target, data, n_features)

    k = x.shape[1]
    peer_all = np.stack([theirs(explainer(seed), model, held[:ROWS], k) for seed in range(SEEDS)])
    print(f"  over {SEEDS} seeds, {ROWS} rows, {k} features kept")
    mean, spread = peer_all.mean(0), peer_all.var(0, ddof=1)
    wide = chi2.ppf([0.025, 0.975], (SEEDS - 1) * ROWS * k) / ((SEEDS - 1) * ROWS * k)
    print(
        f"  (of independent coefficients, 95 % of variance ratios lie about {wide[0]:.2f} to {wide[1]:.2f})"
    )
    print(f"  lime 5000                  Jaccard of the top 5: {jaccard(peer_all):.3f}")
    for mode, n in (("lime", SAMPLES), ("sobol", 1024), ("sobol", 4096), ("sobol", 8192)):
        found = [
            ours(target, data, range(ROWS), seed=s, mode=mode, n_samples=n, n_features=k)
            for s in range(SEEDS)
        ]
        own = np.stack([one.values[:, :, 0] for one in found])
        own_spread = own.var(0, ddof=1)
        z = (own.mean(0) - mean) / np.sqrt((spread + own_spread) / SEEDS)
        claimed = np.mean([np.square(one.errors[:, :, 0]) for one in found], axis=0)
        print(
            f"  ours {mode:5} {n:5}   z rms {np.sqrt(np.square(z).mean()):.3f}   "
            f"variance lime / ours {spread.mean() / own_spread.mean():5.2f}   Jaccard {jaccard(own):.3f}   "
            f"stated / real variance {claimed.mean() / own_spread.mean():.2f}   "
            f"corr of means {np.corrcoef(own.mean(0).ravel(), mean.ravel())[0, 1]:.4f}"
        )
    fit = ours(target, data, range(200)).fit
    assert fit is not None
    print(f"  local R2 of ours over 200 rows, 10 features: {fit.mean():.3f}")


def main() -> None:
    warnings.simplefilter("ignore")
    x, y = load_breast_cancer(return_X_y=True)
    case(
        "XGBoost 100 x depth 4",
        XGBClassifier(n_estimators=100, max_depth=4, n_jobs=1).fit(x[:369], y[:369]),
        x,
        y,
    )
    case("forest of 100 trees", RandomForestClassifier(100, random_state=0).fit(x[:369], y[:369]), x, y)


if __name__ == "__main__":
    main()
