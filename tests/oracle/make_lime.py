# SPDX-License-Identifier: Apache-2.0
"""Writes lime.json: what the lime package answers, for test_lime_oracle.py. Run once where lime is installed.

python tests/oracle/make_lime.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

SEEDS, SAMPLES, ROWS = 40, 1000, 6
NAMES = (
    "normal",
    "skewed",
    "zero_inflated",
    "whole_with_ties",
    "constant_zero",
    "noise",
    "category",
    "switch",
)


def table(n: int, seed: int) -> np.ndarray:
    """Columns as users have them, the last two coded categories; from one generator, so the same everywhere."""
    rng = np.random.default_rng(seed)
    columns = [
        rng.normal(size=n),
        np.exp(rng.normal(size=n)),
        np.maximum(0.0, rng.normal(size=n)),
        np.floor(rng.uniform(0, 4, n)),
        np.zeros(n),
        rng.uniform(size=n),
        rng.choice(4, n, p=[0.5, 0.3, 0.15, 0.05]).astype(float),
        rng.integers(0, 2, n).astype(float),
    ]
    return np.column_stack(columns)


def answer(x: np.ndarray) -> np.ndarray:
    """The model (n, 2): a formula, so that no library's version changes it."""
    x = np.asarray(x, float)
    score = x[:, 0] + 0.8 * np.log1p(x[:, 1]) * (x[:, 7] - 0.4) + 1.5 * (x[:, 2] > 0.3) - 0.4 * x[:, 3]
    p = 1 / (1 + np.exp(-score - np.array([0.5, -0.5, 1.0, 0.0])[np.clip(x[:, 6], 0, 3).astype(int)]))
    return np.column_stack([1 - p, p])


def explainer(seed: int, selection: str) -> Any:
    from lime.lime_tabular import (
        LimeTabularExplainer,
    )  # not in the test environment: read only when recording

    return LimeTabularExplainer(
        table(400, 0),
        feature_names=list(NAMES),
        categorical_features=[6, 7],
        feature_selection=selection,
        random_state=seed,
    )


def coefficients(found: Any) -> list[float]:
    out = [0.0] * len(NAMES)
    for column, value in found.local_exp[1]:
        out[int(column)] = float(value)
    return out


def _spied(seen: list[Any], inner: Callable[..., Any], *args: Any, **options: Any) -> Any:
    seen.append(args)
    return inner(*args, **options)


def main() -> None:
    x = table(ROWS, 1)
    means, spreads = [], []
    for row in x:
        drawn = []
        for seed in range(SEEDS):
            found = explainer(seed, "none").explain_instance(row, answer, num_samples=SAMPLES)
            drawn.append([*coefficients(found), float(found.intercept[1]), float(found.score)])
        means.append(np.mean(drawn, 0).tolist())
        spreads.append(np.std(drawn, 0, ddof=1).tolist())
    exact = []
    for n_features in (3, 6, 7, 8):
        one = explainer(7, "auto")
        seen: list[Any] = []
        inner = one.base.explain_instance_with_data
        one.base.explain_instance_with_data = partial(_spied, seen, inner)
        found = one.explain_instance(x[0], answer, num_features=n_features, num_samples=120)
        z, y = seen[0][0], seen[0][1][:, 1]
        exact.append(
            {
                "n_features": n_features,
                "z": ["".join(str(int(bit)) for bit in sample) for sample in z],
                "y": y.tolist(),
                "coefficients": coefficients(found),
                "intercept": float(found.intercept[1]),
                "score": float(found.score),
            }
        )
    out = {
        "versions": {name: version(name) for name in ("lime", "numpy", "scipy", "scikit-learn")},
        "samples": SAMPLES,
        "seeds": SEEDS,
        "means": means,
        "spreads": spreads,
        "exact": exact,
    }
    Path(__file__).with_name("lime.json").write_text(json.dumps(out) + "\n", "utf-8")


if __name__ == "__main__":
    main()
