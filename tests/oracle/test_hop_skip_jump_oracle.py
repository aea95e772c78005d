# SPDX-License-Identifier: Apache-2.0
"""hop_skip_jump against exact distances: planes in closed form, trees by going through all their boxes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

import casemate as cm
from casemate.adapters.remote import make
from casemate.core import harness
from casemate.core.methods import find
from casemate.core.run import Run
from casemate.core.schema import Schema, distances

METHOD = find("hop_skip_jump")


def nearest(target: cm.Target, data: cm.Dataset, norm: str, **params: Any) -> np.ndarray:
    """Return the distance (n,) of the nearest example found; every one must be wrong."""
    target, data = target.bind(data)
    threat = cm.Threat(norm=norm, radius=1.0, scale="raw").resolved(data.schema)
    run = Run(card=METHOD.card, threat=threat)
    found = harness.invoke(METHOD, target, data, run, params)
    assert (target.labels(found) != data.holdout.y).all()
    far: np.ndarray = distances(data.holdout.x, found, threat, data.schema)
    return far


# Ratio to the exact distance that is allowed: (median, worst) of 50 points. In 20 iterations a direction is known
# less well in more dimensions, and a sign less well than a length.
PLANES = {
    ("l2", 2): (1.01, 1.1),
    ("linf", 2): (1.01, 1.06),
    ("l2", 6): (1.02, 1.05),
    ("linf", 6): (1.03, 1.2),
    ("l2", 30): (1.06, 1.12),
    ("linf", 30): (1.12, 1.4),
}


@pytest.mark.parametrize("mode", ["min_calls", "min_queries"])
@pytest.mark.parametrize(("norm", "d"), PLANES)
def test_a_plane_is_approached_to_its_closed_form_distance(norm: str, d: int, mode: str) -> None:
    draw = np.random.default_rng(d)
    weight, x = draw.normal(size=d), draw.normal(size=(550, d))

    def rule(rows: np.ndarray) -> np.ndarray:
        return np.int64(rows @ weight > 0.3)

    free = {f"x{i}": {"low": -np.inf, "high": np.inf, "spread": 1.0} for i in range(d)}
    y = rule(x)
    data = cm.Dataset(
        train=(x[50:], y[50:]), holdout=(x[:50], y[:50]), schema=Schema.infer(x).with_columns(free)
    )
    target = make(rule, classes=[0, 1], outputs="labels")
    dual = np.abs(weight).sum() if norm == "linf" else np.sqrt(np.square(weight).sum())
    ratio = nearest(target, data, norm, mode=mode) / (np.abs(x[:50] @ weight - 0.3) / dual)
    assert ratio.min() >= 1 - 1e-9
    typical, worst = PLANES[norm, d]
    assert np.median(ratio) <= typical and ratio.max() <= worst


def thresholds(model: Any, d: int) -> list[np.ndarray]:
    """Return every threshold of every tree, by column."""
    trees = [tree.tree_ for tree in np.ravel(getattr(model, "estimators_", model))]
    feature = np.concatenate([tree.feature for tree in trees])
    value = np.concatenate([tree.threshold for tree in trees])
    return [np.unique(value[feature == i]) for i in range(d)]


def exact(model: Any, x: np.ndarray, y: np.ndarray, norm: str) -> np.ndarray:
    """Return the distance (n,) to the nearest box of another class among all boxes the thresholds cut."""
    edges = [np.concatenate([[-np.inf], cut, [np.inf]]) for cut in thresholds(model, x.shape[1])]
    lows, highs = (
        np.stack(np.meshgrid(*[side(edge) for edge in edges], indexing="ij"), -1).reshape(-1, x.shape[1])
        for side in (lambda edge: edge[:-1], lambda edge: edge[1:])
    )
    inside = [np.array([_middle(low, high) for low, high in pairwise(edge)]) for edge in edges]
    points = np.stack(np.meshgrid(*inside, indexing="ij"), -1).reshape(-1, x.shape[1])
    label = model.predict(points)
    out = []
    for row, own in zip(x, y, strict=True):
        gap = np.maximum(0, np.maximum(lows - row, row - highs))[label != own]  # (boxes, d)
        far = gap.max(1) if norm == "linf" else np.sqrt(np.square(gap).sum(1))
        out.append(far.min())
    return np.array(out)


def _middle(low: float, high: float) -> float:
    if np.isinf(low):
        return 0.0 if np.isinf(high) else high - 1
    return low + 1 if np.isinf(high) else (low + high) / 2


MODELS = {
    "stump": DecisionTreeClassifier(max_depth=1, random_state=0),
    "tree": DecisionTreeClassifier(max_depth=4, random_state=0),
    "forest": RandomForestClassifier(8, max_depth=3, random_state=0),
    "boosting": GradientBoostingClassifier(n_estimators=8, max_depth=2, random_state=0),
}


@pytest.mark.parametrize("mode", ["min_calls", "min_queries"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("name", MODELS)
def test_trees_are_approached_to_their_nearest_box(name: str, norm: str, mode: str) -> None:
    draw = np.random.default_rng(1)
    x = draw.normal(size=(460, 3))
    truth = (x[:, 0] + 0.7 * x[:, 1] ** 2 - x[:, 2] > 0.3).astype(np.int64)
    model = MODELS[name].fit(x[60:], truth[60:])
    y = model.predict(x)
    free = {f"x{i}": {"low": -np.inf, "high": np.inf, "spread": 1.0} for i in range(3)}
    data = cm.Dataset(
        train=(x[60:], y[60:]), holdout=(x[:60], y[:60]), schema=Schema.infer(x).with_columns(free)
    )
    ratio = nearest(cm.wrap(model), data, norm, mode=mode) / exact(model, x[:60], y[:60], norm)
    assert ratio.min() >= 1 - 1e-6  # the thresholds are float32
    # A local search may end in the wrong box: under linf the farthest of 60 ended at 1.9 times the exact distance.
    assert np.median(ratio) <= 1.02 and (ratio <= 1.5).mean() >= 0.95
