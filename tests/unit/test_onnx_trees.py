# SPDX-License-Identifier: Apache-2.0
"""Ensembles of trees inside ONNX models as node tables: against scikit-learn's own trees and against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import casemate as cm
from casemate.adapters import _onnx_trees
from casemate.core.types import TREES

pytest.importorskip("onnxruntime")
import onnx_models as made  # after the guard
from onnx import helper
from sklearn.ensemble import (
    GradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)

RNG = np.random.default_rng(4)
X = RNG.normal(size=(120, 4)).astype(np.float32).astype(np.float64)
Y3 = np.digitize(X[:, 0] + 0.3 * RNG.normal(size=120), [-0.5, 0.5])
Y2, YR = (Y3 > 0) * 1, X @ [1.0, 2.0, 0.0, 0.5]


def bound(proto: Any, y: np.ndarray) -> Any:
    data = cm.Dataset(train=(X[:80], y[:80]), holdout=(X[80:], y[80:]))
    return cm.wrap(proto.SerializeToString()).bind(data)[0]


@pytest.mark.parametrize("mode", made.MODES)
def test_a_forest_by_any_question_is_scikit_learns(mode: str) -> None:
    model = RandomForestClassifier(5, max_depth=4, random_state=0).fit(X[:80], Y3[:80])
    proto = made.ensemble(
        [one.tree_ for one in model.estimators_], made.shares(5), mode, classlabels_int64s=[0, 1, 2]
    )
    target = bound(proto, Y3)
    assert target.has(TREES) and target.trees().n_trees == 5
    np.testing.assert_allclose(target.trees().scores(X), model.predict_proba(X), atol=1e-6)
    holes = np.where(RNG.random(X.shape) < 0.2, np.nan, X)
    np.testing.assert_allclose(target.trees().scores(holes), target.scores(holes), atol=1e-6)


@pytest.mark.parametrize("way", ["sum", "mean"])
def test_a_forest_of_values(way: str) -> None:
    model = RandomForestRegressor(4, max_depth=4, random_state=0).fit(X[:80], YR[:80])
    n, said = (4, {}) if way == "sum" else (1, {"aggregate_function": "AVERAGE"})
    leaf = lambda tree, i, k: [(0, tree.value[i, 0, 0] / n)]  # noqa: E731
    proto = made.ensemble(
        [one.tree_ for one in model.estimators_], leaf, n_targets=1, base_values=[0.0], **said
    )
    target = bound(proto, YR)
    assert target.task == "regression" and target.has(TREES)
    np.testing.assert_allclose(target.trees().scores(X)[:, 0], model.predict(X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("y", [Y2, Y3])
def test_boosting_is_a_sum_under_a_softmax_or_one_logit(y: np.ndarray) -> None:
    model = GradientBoostingClassifier(n_estimators=4, init="zero", random_state=0).fit(X[:80], y[:80])
    trees, wide = [one.tree_ for one in model.estimators_.ravel()], model.estimators_.shape[1]
    leaf = lambda tree, i, k: [(0 if wide == 1 else k % wide, 0.1 * tree.value[i, 0, 0])]  # noqa: E731
    after = "LOGISTIC" if wide == 1 else "SOFTMAX"
    proto = made.ensemble(trees, leaf, classlabels_int64s=[*range(max(2, wide))], post_transform=after)
    target = bound(proto, y)
    assert target.has(TREES) and target.trees().link == ("sigmoid" if wide == 1 else "softmax")
    np.testing.assert_allclose(target.trees().scores(X), model.predict_proba(X), atol=1e-6)


def attribute(proto: Any, name: str) -> Any:
    return next(item for item in proto.graph.node[0].attribute if item.name == name)


def forest() -> Any:
    model = RandomForestClassifier(2, max_depth=3, random_state=0).fit(X[:80], Y3[:80])
    return made.ensemble(
        [one.tree_ for one in model.estimators_], made.shares(2), classlabels_int64s=[0, 1, 2]
    )


def broken(how: str) -> Any:
    proto = forest()
    if how == "a loop":
        inner = next(i for i, to in enumerate(attribute(proto, "nodes_truenodeids").ints) if i and to)
        attribute(proto, "nodes_truenodeids").ints[inner] = 0
    elif how == "a node of another tree":
        attribute(proto, "nodes_treeids").ints[1] = 1
    elif how == "a column that is not there":
        attribute(proto, "nodes_featureids").ints[0] = 9
    elif how == "lists of another length":
        del attribute(proto, "nodes_values").floats[0]
    elif how == "a weight of no leaf":
        attribute(proto, "class_nodeids").ints[0] = 999
    elif how == "a class that is not there":
        attribute(proto, "class_ids").ints[0] = 7
    elif how == "an unknown transform":
        proto.graph.node[0].attribute.append(helper.make_attribute("post_transform", "PROBIT"))
    elif how == "an unknown question":
        attribute(proto, "nodes_modes").strings[0] = b"BRANCH_EQ"
    else:  # something else stands in front
        proto.graph.node.insert(0, helper.make_node("Abs", ["x"], ["a"]))
        proto.graph.node[1].input[0] = "a"
    return proto


@pytest.mark.parametrize(
    "how",
    ["a loop", "a node of another tree", "a column that is not there", "lists of another length", "a weight of no leaf",
     "a class that is not there", "an unknown transform", "an unknown question", "a step before it"],
)  # fmt: skip
def test_what_is_no_whole_ensemble_makes_no_table(how: str) -> None:
    assert _onnx_trees.table_in(forest(), 4, regression=False) is not None
    assert _onnx_trees.table_in(broken(how), 4, regression=False) is None
