# SPDX-License-Identifier: Apache-2.0
"""LiRA against reference values that were measured before this library was written.

Digits: K models on random halves; every model in turn is the target and the others (its own block of two left out)
are the references; means over all K targets. RAND HIE: as an audit sees it: one target, 16 shadows, thresholds fixed
on shadow targets, people. Prints one line a row: what, variance prior, AUC, TPR at 1 %, expected.

    python bench/lira_reference.py [digits_forest] [digits_mlp] [hospital_forest] [hospital_leaf_20]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from importlib.resources import files
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier

from casemate.adapters import sklearn as sklearn_adapter
from casemate.core import stats
from casemate.core.data import Dataset
from casemate.core.harness import execute
from casemate.core.methods import find
from casemate.core.run import Run
from casemate.core.types import Recipe, Target
from casemate.privacy import confidence, shadow
from casemate.privacy.methods.lira import score_bank

COLUMNS = (
    "coins site year black income xage female educdec num mhi disea physlm ghindx child hlthg hlthf hlthp mdeoff"
).split()
EXPECTED = {
    "digits_forest": "AUC .971 +- .01",
    "digits_mlp": "AUC .589 +- .01, TPR 6.1 +- 0.8 %",
    "hospital_forest": "TPR about 70 % (fixed variance, floor 1e-3)",
    "hospital_leaf_20": "TPR about 11 % (fixed variance, floor 1e-3)",
}


def half(units: int, seed: int = 0) -> np.ndarray:
    """Return a random half of the units as a mask."""
    return np.random.default_rng(seed).permutation(units) % 2 == 0


def digits(scale: float = 1.0) -> Dataset:
    x, y = load_digits(return_X_y=True)
    x, train = x * scale, half(len(y))
    return Dataset(train=(x[train], y[train]), holdout=(x[~train], y[~train]))


def hospital() -> tuple[Dataset, np.ndarray, np.ndarray]:
    """Return RAND HIE with `mdvis >= 4`, people split in half, and the training rows as arrays."""
    with files("statsmodels").joinpath("datasets/randhie/src/randhie.csv").open("rb") as file:
        frame = pd.read_csv(file)
    x = frame[COLUMNS].fillna(frame[COLUMNS].median()).to_numpy(float)
    y = (frame["mdvis"] >= 4).to_numpy().astype(int)
    owner = np.unique(frame["zper"], return_inverse=True)[1]
    train = half(int(owner.max()) + 1)[owner]
    data = Dataset(train=(x[train], y[train], owner[train]), holdout=(x[~train], y[~train], owner[~train]))
    return data, x[train], y[train]


def mlp_recipe() -> Recipe:
    from torch import nn

    return Recipe(
        factory=lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
        learning_rate=0.05,
        momentum=0.9,
        batch_size=32,
        epochs=40,
    )


def leave_out(target: Target, data: Dataset, n_shadows: int, prior: float) -> tuple[float, float, float]:
    """Return AUC, TPR at 1 % and the AUC's standard deviation, over all shadows as targets."""
    run = Run(card=find("lira").card)
    _, bank = shadow.shadow_bank(target, data, n_shadows=n_shadows, run=run)
    _, scores = score_bank(bank, prior)
    aucs, rates = [], []
    for score, inside in zip(scores, bank.inside, strict=True):
        aucs.append(stats.auc(score[inside], score[~inside]).value)
        rates.append(float((score[inside] > stats.step_threshold(score[~inside], 0.01)).mean()))
    return float(np.mean(aucs)), float(np.mean(rates)), float(np.std(aucs, ddof=1))


def digits_forest(prior: float, n_shadows: int = 64) -> tuple[float, float, float]:
    data = digits()
    model = RandomForestClassifier(100, random_state=0).fit(data.train.x, data.train.y)
    return leave_out(*sklearn_adapter.make(model).bind(data), n_shadows, prior)


def digits_mlp(prior: float, n_shadows: int = 128, scale: float = 1 / 16) -> tuple[float, float, float]:
    from casemate.adapters import torch as torch_adapter
    from casemate.training.loop import fit

    data, recipe = digits(scale), mlp_recipe()
    model = fit(recipe, data.train.x, data.train.y, seed=0)
    return leave_out(*torch_adapter.make(model, recipe=recipe).bind(data), n_shadows, prior)


def _hospital(prior: float, leaf: int) -> tuple[float, float, float]:
    """Return the person-level AUC, TPR at 1 % and realised FPR of an audit with 16 shadows."""
    data, x, y = hospital()
    model = RandomForestClassifier(100, min_samples_leaf=leaf, random_state=0).fit(x, y)
    lira = find("lira")
    params = {"n_shadows": 16, "variance_prior": prior}
    # The reference used a fixed variance and read probabilities above 1e-3: the same rule with prior = inf.
    low, high = (1e-3, 1e-3) if math.isinf(prior) else (confidence.FLOOR_LOW, confidence.FLOOR_HIGH)
    with mock.patch.multiple(confidence, FLOOR_LOW=low, FLOOR_HIGH=high):
        rows = execute(lira, *sklearn_adapter.make(model).bind(data), Run(card=lira.card), params)
    found = {row.quantity: row for row in rows}
    for row in rows:
        print(f"  {row}")
    wanted = ("person_auc", "person_tpr_at_1pct_fpr", "person_fpr_at_1pct")
    auc, tpr, fpr = (found[name].value or 0.0 for name in wanted)
    return auc, tpr, fpr


def hospital_forest(prior: float) -> tuple[float, float, float]:
    return _hospital(prior, 1)


def hospital_leaf_20(prior: float) -> tuple[float, float, float]:
    return _hospital(prior, 20)


ROWS: dict[str, Callable[[float], tuple[float, float, Any]]] = {
    "digits_forest": digits_forest,
    "digits_mlp": digits_mlp,
    "hospital_forest": hospital_forest,
    "hospital_leaf_20": hospital_leaf_20,
}

if __name__ == "__main__":
    for name in sys.argv[1:] or ROWS:
        for prior in (4.0, math.inf):
            auc, rate, third = ROWS[name](prior)
            print(f"{name} prior {prior:g}: AUC {auc:.4f}, TPR@1% {rate:.2%}, {third:.4f} ({EXPECTED[name]})")
