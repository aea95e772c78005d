# SPDX-License-Identifier: Apache-2.0
"""Models that a thief would train on somebody else's answers, and the choice between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from casemate.confidentiality import extraction
from casemate.core.data import Split
from casemate.core.errors import InvalidData
from casemate.core.nodes import softmax
from casemate.core.run import Run
from casemate.core.schema import Schema

FOLDS = 3
TOGETHER = "all together"  # the sum of the scores of every learner
FEW_ROWS = 200  # below, larger learners add nothing but time
MAX_BOOSTED = 4  # classes: one boosted model each
Predict = Callable[[np.ndarray], np.ndarray]  # rows (n, k) -> scores (n, classes)
Learn = Callable[[np.ndarray, np.ndarray], Predict]  # rows, soft labels (n, classes)


@dataclass(frozen=True)
class Trained:
    """What a model answers on the rows kept for comparison (m,), and what it is."""

    labels: np.ndarray
    learner: str


@dataclass(frozen=True)
class Learners:
    """The attacker's rows as numbers (n, k), the rows to compare on (m, k), and whose the first are (n,)."""

    rows: np.ndarray
    kept: np.ndarray
    unit: np.ndarray
    run: Run

    @staticmethod
    def of(schema: Schema, rows: Split, kept: Split, run: Run) -> Learners:
        """Categories as indicators, holes as an indicator beside the commonest value, numbers in spreads."""
        mine, others = extraction.flat(rows.x), extraction.flat(kept.x)
        plan = extraction.expansion(replace(schema, relations=()), mine)
        if plan is None or not plan.terms:
            raise InvalidData("steal needs a column that takes more than one value")
        read, judged = plan.read(mine), plan.read(others)
        centre, spread = read.mean(0), read.std(0)
        spread = np.where(spread > 0, spread, 1.0)
        unit = np.arange(len(rows)) if rows.person is None else codes(rows.person)
        return Learners((read - centre) / spread, np.nan_to_num((judged - centre) / spread), unit, run)

    def tried(self, taught: Mapping[str, np.ndarray]) -> dict[tuple[str, str], np.ndarray]:
        """Return what each learner answers on rows held out in turn (size,), for each kind of labels it is taught.

        ``taught``: labels (size, classes) of the first rows, soft or not. Empty with too few rows or people to hold
        any out.
        """
        size, n_classes = next(iter(taught.values())).shape
        unit = np.unique(self.unit[:size], return_inverse=True)[1].reshape(-1)
        n_units = int(unit.max()) + 1
        if n_units < 2 * FOLDS:
            return {}
        fold = (self.run.rng("folds", size).permutation(n_units) % FOLDS)[unit]
        found = {}
        for what, labels in taught.items():
            for name, learn in self._known(size, n_classes).items():
                scores = found[what, name] = np.zeros((size, n_classes))
                for out in range(FOLDS):
                    held = fold == out
                    predict = learn(self.rows[:size][~held], labels[~held])
                    scores[held] = predict(self.rows[:size][held])
            found[what, TOGETHER] = np.sum([scores for (w, _), scores in found.items() if w == what], axis=0)
        return {key: scores.argmax(1) for key, scores in found.items()}

    def best(
        self,
        taught: Mapping[str, np.ndarray],
        tried: Mapping[tuple[str, str], np.ndarray],
        goal: np.ndarray,
    ) -> Trained:
        """Train on the first rows what agreed with ``goal`` (size,) where it was tried; untried, the simplest."""
        known = self._known(*next(iter(taught.values())).shape)
        hits = {key: held == goal for key, held in tried.items() if key[0] in taught}
        what, name = _chosen(hits) if hits else (next(iter(taught)), next(iter(known)))
        chosen = known.values() if name == TOGETHER else [known[name]]
        scores = sum(learn(self.rows[: len(goal)], taught[what])(self.kept) for learn in chosen)
        return Trained(np.asarray(scores).argmax(1), f"{name}, taught {what}")

    def _known(self, size: int, n_classes: int) -> dict[str, Learn]:
        return _learners(n_classes, size, self.run.child_seed("learner", size))


def _chosen(hits: Mapping[tuple[str, str], np.ndarray]) -> tuple[str, str]:
    """Return what was right most often; all learners together where the best alone is not clearly better.

    The best of many is partly the luckiest: a lead within one standard error of the paired difference counts as luck.
    """
    count = {key: int(hit.sum()) for key, hit in hits.items()}
    best = max(count, key=lambda key: count[key])  # of equals the first
    together = max((key for key in count if key[1] == TOGETHER), key=lambda key: count[key])
    differing = int((hits[best] != hits[together]).sum())
    return together if count[best] - count[together] <= math.sqrt(differing) else best


def _learners(n_classes: int, size: int, seed: int) -> dict[str, Learn]:
    """Return what an attacker would try on so many rows, the simplest first."""
    from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor

    trees, forest = (
        partial(kind, 30, random_state=seed, n_jobs=1)
        for kind in (ExtraTreesRegressor, RandomForestRegressor)
    )
    known: dict[str, Learn] = {
        "linear model": partial(_softmax, penalty=1.0),
        "linear model, weak penalty": partial(_softmax, penalty=0.01),
        "extra trees": partial(_fitted, partial(trees, min_samples_leaf=3)),
    }
    if size < FEW_ROWS:
        return known
    known["random forest"] = partial(_fitted, partial(forest, max_features=1 / 3))
    known["network"] = partial(_network, seed=seed)
    if n_classes <= MAX_BOOSTED:
        known["boosted trees"] = partial(_boosted, seed=seed)
    return known


def _softmax(rows: np.ndarray, soft: np.ndarray, penalty: float) -> Predict:
    """Fit a softmax regression to soft labels: cross-entropy + penalty / 2n |weights|^2, by L-BFGS."""
    from scipy.optimize import minimize

    n, shape = len(rows), (rows.shape[1] + 1, soft.shape[1])
    x = np.column_stack([rows, np.ones(n)])  # (n, k + 1)
    shrink = np.full((shape[0], 1), penalty / n)
    shrink[-1] = 0.0  # the bias is free

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(shape)
        logits = x @ weights
        logits -= logits.max(1, keepdims=True)
        odds = np.exp(logits)
        total = odds.sum(1, keepdims=True)  # (n, 1)
        value = -(soft * (logits - np.log(total))).sum() / n + (shrink * weights**2).sum() / 2
        slope = x.T @ (odds / total - soft) / n + shrink * weights  # soft labels sum to one
        return float(value), slope.ravel()

    start = np.zeros(shape[0] * shape[1])
    weights = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 300}).x.reshape(shape)
    return lambda others: softmax(others @ weights[:-1] + weights[-1])


def _network(rows: np.ndarray, soft: np.ndarray, seed: int) -> Predict:
    """Train one layer of 64 rectified units on soft labels by Adam: scikit-learn's networks take no soft labels."""
    draw, n, hidden, batch = np.random.default_rng(seed), len(rows), 64, 64
    sizes = (rows.shape[1], hidden, soft.shape[1])
    weights = [
        part for k, m in pairwise(sizes) for part in (draw.normal(0, np.sqrt(2 / k), (k, m)), np.zeros(m))
    ]
    moments = [(np.zeros_like(w), np.zeros_like(w)) for w in weights]
    step, epochs = 0, int(np.clip(64_000 // n, 20, 100))
    for _ in range(epochs):
        for chosen in np.array_split(draw.permutation(n), -(-n // batch)):
            x, wanted = rows[chosen], soft[chosen]
            inside = np.maximum(x @ weights[0] + weights[1], 0)
            slope = (softmax(inside @ weights[2] + weights[3]) - wanted) / len(x)  # (batch, classes)
            back = (slope @ weights[2].T) * (inside > 0)
            step += 1
            for w, (mean, square), slope_of in zip(
                weights, moments, (x.T @ back, back.sum(0), inside.T @ slope, slope.sum(0)), strict=True
            ):
                mean += 0.1 * (slope_of - mean)  # Adam (Kingma and Ba 2015), its usual constants
                square += 0.001 * (slope_of**2 - square)
                w -= 0.002 * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    return lambda others: softmax(np.maximum(others @ weights[0] + weights[1], 0) @ weights[2] + weights[3])


def _fitted(make: Callable[[], Any], rows: np.ndarray, soft: np.ndarray) -> Predict:
    model = make().fit(rows, soft)
    return lambda others: np.asarray(model.predict(others))


def _boosted(rows: np.ndarray, soft: np.ndarray, seed: int) -> Predict:
    """Boost one regression a class; of two classes the second follows from the first."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    two = soft.shape[1] == 2
    make = partial(HistGradientBoostingRegressor, early_stopping=False, random_state=seed)
    models = [make(max_iter=100 if two else 50).fit(rows, column) for column in soft.T[: 1 if two else None]]

    def predict(others: np.ndarray) -> np.ndarray:
        scores = np.stack([model.predict(others) for model in models], axis=1)
        return np.column_stack([scores, 1 - scores]) if two else scores

    return predict


def codes(person: np.ndarray) -> np.ndarray:
    """Number people (n,) by first appearance: their own codes say nothing but who is who.

    >>> codes(np.array([7, 3, 7])).tolist()
    [0, 1, 0]
    """
    _, first, code = np.unique(person, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[code.reshape(-1)])
