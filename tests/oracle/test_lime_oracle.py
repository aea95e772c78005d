# SPDX-License-Identifier: Apache-2.0
"""`lime` against the lime package 0.2.0.1, whose answers make_lime.py recorded once in lime.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle.make_lime import NAMES, ROWS, answer, table

import casemate as cm
from casemate.core import harness
from casemate.core.methods import find
from casemate.core.run import Run
from casemate.core.types import Explanation
from casemate.explanation.methods import lime as module

METHOD = find("lime")
THEIRS: dict[str, Any] = json.loads(Path(__file__).with_name("lime.json").read_text("utf-8"))
SEEDS = 20


def world() -> tuple[cm.Target, cm.Dataset]:
    """The same training rows, the last two columns declared as categories."""

    def split(x: np.ndarray) -> tuple[Any, np.ndarray]:
        import pandas as pd

        frame = pd.DataFrame(x, columns=list(NAMES))
        for name in ("category", "switch"):
            frame[name] = pd.Categorical(frame[name].astype(int).astype(str), categories=list("0123"))
        return frame, np.arange(len(x)) % 2

    def predict(frame: Any) -> np.ndarray:
        return answer(frame.astype(float).to_numpy())

    data = cm.Dataset(train=split(table(400, 0)), holdout=split(table(ROWS, 1)))
    return cm.wrap(predict, classes=[0, 1], outputs="scores").bind(data)


def explain(target: cm.Target, data: cm.Dataset, seed: int, **params: Any) -> Explanation:
    run = Run(card=METHOD.card, seed=seed)
    found: Explanation = harness.invoke(METHOD, target, data, run, {"rows": range(ROWS), **params})
    return found


@pytest.mark.parametrize("case", THEIRS["exact"], ids=lambda case: f"{case['n_features']} features")
def test_the_same_draws_give_the_same_numbers(case: dict[str, Any]) -> None:
    """Kernel, selection (forward up to 6, then by weight), ridge, intercept and R2 on lime's own neighbourhood."""
    z = np.array(
        [[int(bit) for bit in sample] for sample in case["z"]]
    )  # (120, 8); the first is the row itself
    y = np.array(case["y"])[:, None]
    cells = list(np.array_split(1 - z[1:], 4))
    samples = module._Samples.of(cells, y[1:])
    moments = samples.moments(np.zeros((1, 8), np.int64))
    values, _, base, fit, _ = module._fitted(moments, y[:1], 8, case["n_features"])
    np.testing.assert_allclose(values[0, :, 0], case["coefficients"], atol=1e-10)
    np.testing.assert_allclose(base[0, 0], case["intercept"], atol=1e-10)
    np.testing.assert_allclose(fit[0, 0], case["score"], atol=1e-10)


def test_means_and_variances_over_seeds_are_lime_s() -> None:
    """Ties, zero inflation, a constant column and categories; 6 rows x (8 coefficients, intercept, R2).

    Welch's t of 60 differences with 25 degrees or more: |t| < 7.8 fails by chance below 1e-6 together. The ratio of
    variances pools 8 nearly independent columns: F with 39 x 8 and 19 x 8 degrees lies in [.49, 2.2] but for 1e-6.
    """
    target, data = world()
    drawn = []
    for seed in range(SEEDS):
        found = explain(target, data, seed, mode="lime", n_samples=THEIRS["samples"], n_features=8)
        assert found.fit is not None
        drawn.append(np.concatenate([found.values[:, :, 0], found.base, found.fit], axis=1))
    mean, var = np.mean(drawn, 0), np.var(drawn, 0, ddof=1)  # (rows, 10)
    their_var = np.square(THEIRS["spreads"])
    error = np.sqrt(var / SEEDS + their_var / THEIRS["seeds"])
    gap = np.abs(mean - THEIRS["means"])
    assert (gap <= 7.8 * error + 1e-12).all(), gap / np.maximum(error, 1e-300)
    assert 0.49 < their_var[:, :8].mean() / var[:, :8].mean() < 2.2


def test_sobol_has_the_same_mean_with_less_variance() -> None:
    """Without whole-number columns, whose draws differ on purpose. 5 seeds of 4096 points are nearly exact.

    lime's mean of 40 seeds carries the error: |t| with 39 degrees below 7 for 54 numbers, false below 1e-6.
    """
    target, data = world()
    drawn = [explain(target, data, seed, n_samples=4096, n_features=8) for seed in range(5)]
    mean = np.mean([one.values[:, :, 0] for one in drawn], 0)
    error = np.array(THEIRS["spreads"])[:, :8] / np.sqrt(THEIRS["seeds"])
    # lime's ridge sees 1000 samples, ours 4096: its penalty of 1 shrinks a coefficient by up to 1 / (n w p q)
    shrunk = 0.02 * np.abs(mean)
    assert (np.abs(mean - np.array(THEIRS["means"])[:, :8]) <= 7 * error + shrunk + 1e-9).all()
    var = np.var([one.values[:, :, 0] for one in drawn], 0, ddof=1).mean()
    assert var < np.square(THEIRS["spreads"])[:, :8].mean() / 4  # four times the points alone would give 1/4
