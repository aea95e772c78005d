# SPDX-License-Identifier: Apache-2.0
"""Larger leaves: counted in the trees themselves, in every kind of ensemble that hides a tree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import randint
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier

import casemate as cm
from casemate.core.errors import InvalidData
from casemate.core.types import Note, Table
from casemate.privacy.methods.limit_leaves import _raised, _raised_grid


def rows(seed: int, n: int = 240) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n, 3))
    return x, ((x[:, 0] + x[:, 1] * x[:, 2] > 0) ^ (draw.random(n) < 0.2)).astype(int)


TRAIN, HOLD = rows(1), rows(2)
DATA = cm.Dataset(train=TRAIN, holdout=HOLD)


def hardened(model: Any, n: int = 20, data: cm.Dataset = DATA) -> Any:
    change = cm.harden(model.fit(*TRAIN), data, using=[cm.method("limit_leaves", n=n)])
    return change.target.model


def smallest_leaf(tree: Any) -> int:
    inside = tree.tree_
    return int(inside.n_node_samples[inside.children_left == -1].min())


def trees(model: Any) -> list[Any]:
    found = [model] if hasattr(model, "tree_") else []
    inside = getattr(model, "estimators_", [])
    for inner in inside.ravel() if isinstance(inside, np.ndarray) else inside:
        found += trees(inner)
    steps = getattr(model, "steps", [])
    for inner in [step for _, step in steps] + [getattr(model, "best_estimator_", None)]:
        found += trees(inner) if inner is not None else []
    return found


FEW = {"n_estimators": 5, "random_state": 0}
MODELS: dict[str, Any] = {
    "tree": DecisionTreeClassifier(random_state=0),
    "share of rows": DecisionTreeClassifier(min_samples_leaf=0.01, random_state=0),
    "forest": RandomForestClassifier(**FEW),
    "extra trees": ExtraTreesClassifier(**FEW),
    "boosting": GradientBoostingClassifier(max_depth=6, **FEW),
    "pipeline": make_pipeline(StandardScaler(), RandomForestClassifier(**FEW)),
    "bagging": BaggingClassifier(DecisionTreeClassifier(), **FEW),
    "ada": AdaBoostClassifier(DecisionTreeClassifier(max_depth=6), **FEW),
    "voting": VotingClassifier(
        [
            ("line", LogisticRegression()),
            ("wood", RandomForestClassifier(**FEW)),
            ("tree", DecisionTreeClassifier()),
        ]
    ),
    "search": GridSearchCV(DecisionTreeClassifier(random_state=0), {"min_samples_leaf": [1, 3, 40]}, cv=2),
    "search of lists": GridSearchCV(
        make_pipeline(StandardScaler(), DecisionTreeClassifier(random_state=0)),
        [{"decisiontreeclassifier__min_samples_leaf": [1]}, {"decisiontreeclassifier__max_depth": [3, 9]}],
        cv=2,
    ),
    "random search": RandomizedSearchCV(
        DecisionTreeClassifier(random_state=0),
        {"min_samples_leaf": randint(1, 5)},
        n_iter=1,
        cv=2,
        random_state=0,
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_no_leaf_holds_fewer_rows(name: str) -> None:
    model = hardened(MODELS[name])
    found = trees(model)
    assert found, "the test found no tree to look into"
    assert min(map(smallest_leaf, found)) >= 20


def test_without_it_these_trees_have_small_leaves() -> None:
    assert min(map(smallest_leaf, trees(MODELS["forest"].fit(*TRAIN)))) == 1


def test_regression_forests_too() -> None:
    x, xh = TRAIN[0], HOLD[0]
    data = cm.Dataset(train=(x, x @ [1.0, 0.5, 0.2]), holdout=(xh, xh @ [1.0, 0.5, 0.2]))
    model = RandomForestRegressor(**FEW).fit(x, x[:, 0])
    change = cm.harden(model, data, using="limit_leaves")
    assert min(map(smallest_leaf, trees(change.target.model))) >= 20


def test_larger_leaves_of_the_users_own_stay_and_nothing_is_trained() -> None:
    model = DecisionTreeClassifier(min_samples_leaf=30, random_state=0).fit(*TRAIN)
    change = cm.harden(model, DATA, using="limit_leaves")
    assert change.target.model is model
    assert "nothing changed" in change.summary
    bins = HistGradientBoostingClassifier(max_iter=5, random_state=0).fit(*TRAIN)  # 20 is its default
    assert cm.harden(bins, DATA, using="limit_leaves").target.model is bins
    assert (
        hardened(HistGradientBoostingClassifier(max_iter=3, min_samples_leaf=2), n=25).min_samples_leaf == 25
    )


def test_it_shows_what_it_set_and_promises_nothing() -> None:
    draw = np.random.default_rng(0)
    people = [np.sort(draw.integers(0, 40, 240)) + shift for shift in (0, 100)]
    people[0][:12] = 7
    data = cm.Dataset(train=(*TRAIN, people[0]), holdout=(*HOLD, people[1]))
    change = cm.harden(MODELS["pipeline"].fit(*TRAIN), data, using="limit_leaves")
    table = next(piece for piece in change.evidence if isinstance(piece, Table))
    assert table.rows == (("randomforestclassifier__min_samples_leaf", "1", "20"),)
    note = next(piece for piece in change.evidence if isinstance(piece, Note))
    most = np.bincount(people[0]).max()
    assert "No guarantee" in note.text and f"one has {most}" in note.text


def test_xgboost_counts_second_derivatives_so_n_rows_are_the_least() -> None:
    xgboost = pytest.importorskip("xgboost")
    for labels, share in ((TRAIN[1], 0.25), (TRAIN[1] + (TRAIN[0][:, 2] > 1), 0.5)):
        data = cm.Dataset(train=(TRAIN[0], labels), holdout=(HOLD[0], HOLD[1]))
        model = xgboost.XGBClassifier(n_estimators=4, max_depth=8, n_jobs=1).fit(TRAIN[0], labels)
        small = min(np.bincount(column)[np.bincount(column) > 0].min() for column in _leaves(model))
        assert small < 20
        change = cm.harden(model, data, using="limit_leaves")
        kept = change.target.model
        assert kept.min_child_weight == 20 * share
        counts = [np.bincount(column) for column in _leaves(kept)]
        assert min(count[count > 0].min() for count in counts) >= 20
    odd = xgboost.XGBClassifier(n_estimators=2, objective="binary:hinge").fit(*TRAIN)
    with pytest.raises(InvalidData, match="binary:hinge"):
        cm.harden(odd, DATA, using="limit_leaves")
    weighted = xgboost.XGBClassifier(n_estimators=2, scale_pos_weight=3.0).fit(*TRAIN)
    assert cm.harden(weighted, DATA, using="limit_leaves").target.model.min_child_weight == 15.0


def _leaves(model: Any) -> np.ndarray:
    leaves = np.asarray(model.apply(TRAIN[0]), np.int64)
    return leaves.reshape(len(TRAIN[0]), -1).T  # (trees, n)


def test_lightgbm_has_the_setting_under_several_names() -> None:
    lightgbm = pytest.importorskip("lightgbm")
    for settings in ({"min_child_samples": 2}, {"min_data_in_leaf": 2}):
        model = lightgbm.LGBMClassifier(n_estimators=2, verbosity=-1, n_jobs=1, **settings).fit(*TRAIN)
        kept = cm.harden(model, DATA, using=[cm.method("limit_leaves", n=30)]).target.model
        assert {kept.get_params()[name] for name in (*settings, "min_child_samples")} == {30}
        assert kept.get_params()["min_child_weight"] == model.get_params()["min_child_weight"]


def test_grids_are_raised_without_repetition() -> None:
    assert _raised_grid({"min_samples_leaf": [1, 5, 20, 50], "max_depth": [1]}, 20, 100) == {
        "min_samples_leaf": [20, 50],
        "max_depth": [1],
    }
    assert (_raised(0.5, 20, 100), _raised(0.1, 20, 100), _raised(None, 20, 100)) == (0.5, 20, 20)
    with pytest.raises(InvalidData, match="inside a search"):
        _raised_grid({"min_child_weight": [1]}, 20, 100)


@pytest.mark.parametrize(("n", "said"), [(0, "at least 1"), (121, "no tree could split")])
def test_impossible_sizes_are_refused(n: int, said: str) -> None:
    with pytest.raises(InvalidData, match=said):
        hardened(DecisionTreeClassifier(), n=n)


def test_trees_whose_leaves_would_stay_small_are_refused() -> None:
    hidden = BaggingClassifier(**FEW)
    forest = RandomForestClassifier(**FEW)
    steps = make_pipeline(StandardScaler(), forest)
    swapped = GridSearchCV(steps, {"randomforestclassifier": [DecisionTreeClassifier(), forest]}, cv=2)
    for model, said in (
        (hidden, "estimator=None hides"),
        (VotingClassifier([("wood", forest), ("hidden", hidden)]), "hidden__estimator=None"),
        (swapped, "'randomforestclassifier' inside a search"),
        (GridSearchCV(steps, {"randomforestclassifier": [hidden]}, cv=2), "inside a search"),
    ):
        with pytest.raises(InvalidData, match=said):
            hardened(model)
    kept = GridSearchCV(steps, {"standardscaler": [StandardScaler(), MinMaxScaler()]}, cv=2)
    assert min(map(smallest_leaf, trees(hardened(kept)))) >= 20


def test_what_decides_the_weight_of_a_row_may_not_change_in_a_search() -> None:
    xgboost = pytest.importorskip("xgboost")
    lightgbm = pytest.importorskip("lightgbm")
    small = {"n_estimators": 2, "n_jobs": 1}
    for name, tried in (("scale_pos_weight", [1.0, 30.0]), ("objective", ["binary:logistic"])):
        with pytest.raises(InvalidData, match=name):
            hardened(GridSearchCV(xgboost.XGBClassifier(**small), {name: tried}, cv=2))
    with pytest.raises(InvalidData, match="no trees"):
        hardened(xgboost.XGBClassifier(booster="gblinear", **small))
    light = GridSearchCV(lightgbm.LGBMClassifier(verbosity=-1, **small), {"scale_pos_weight": [1, 2]}, cv=2)
    assert hardened(light, n=30).best_estimator_.min_child_samples == 30
