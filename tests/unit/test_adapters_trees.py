# SPDX-License-Identifier: Apache-2.0
"""XGBoost, LightGBM and scikit-learn's trees: the node table leaf by leaf, categories, files, refits, refusals."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightgbm
import micro
import numpy as np
import pandas as pd
import pytest
import treelite
import xgboost
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

import casemate as cm
from casemate.adapters import _boosting, _nodes, trees
from casemate.core.data import Dataset
from casemate.core.errors import InvalidData, MissingCapability, MissingExtra
from casemate.core.types import LABELS, LOGITS, REFIT, SCORES, TREES, Recipe

N = 300
X, XH = micro.numbers(N, 0), micro.numbers(100, 1)
X[::5, 1], XH[::7, 1] = np.nan, np.nan
FULL, FULLH = np.nan_to_num(X), np.nan_to_num(XH)
TWO, TWOH = ((part[:, 0] + part[:, 1] / 10 > 0) * 1 for part in (FULL, FULLH))
THREE, THREEH = (np.digitize(part[:, 0] + part[:, 1] / 10, [-0.6, 0.6]) for part in (FULL, FULLH))
VALUE, VALUEH = (part @ [1.0, 0.1, 0, 0.2] for part in (FULL, FULLH))
SMALL: dict[str, Any] = {"n_estimators": 12, "max_depth": 4, "n_jobs": 1}
LEAVES: dict[str, Any] = {
    "n_estimators": 12,
    "num_leaves": 9,
    "verbose": -1,
    "min_child_samples": 5,
    "n_jobs": 1,
}
CATEGORIES: dict[str, Any] = {"min_data_per_group": 1, "cat_smooth": 0, "max_cat_to_onehot": 1}


def table_frame(n: int, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """A frame with a text category with holes, a category of numbers, a flag; labels by the categories."""
    rng = np.random.default_rng(seed)
    town = rng.choice(np.array(["Bern", "Genf", "Zug", "Chur", None], object), n)
    frame = pd.DataFrame(
        {
            "age": rng.integers(18, 90, n),
            "town": pd.Categorical(town, ["Zug", "Bern", "Chur", "Genf"]),
            "amount paid": np.where(rng.random(n) < 0.2, np.nan, rng.gamma(2, 900, n)),
            "ward": pd.Categorical(rng.choice([7, 5, 30], n), [5, 7, 30]),
            "smokes": rng.random(n) < 0.5,
        }
    )
    y = (
        pd.Series(town).isin(["Bern", "Zug"]).to_numpy()
        ^ (frame["ward"] == 7).to_numpy()
        ^ (frame["age"] > 60)
    )
    return frame, y.to_numpy() * 1


FRAME, MARK = table_frame(N, 2)
FRAMEH, MARKH = table_frame(100, 3)
FRAMES = Dataset(train=(FRAME, MARK), holdout=(FRAMEH, MARKH))


def fits(labels: str = "two", *, full: bool = False) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Train and holdout on arrays, with or without holes."""
    y, yh = {"two": (TWO, TWOH), "three": (THREE, THREEH), "value": (VALUE, VALUEH)}[labels]
    return (FULL if full else X, y), (FULLH if full else XH, yh)


def bound(model: Any, parts: Any, **options: Any) -> tuple[Any, Dataset]:
    return cm.wrap(model, **options).bind(Dataset(*parts))


# model, its data, and the leaf of every row in every tree as the library itself says
CASES: dict[str, tuple[Callable[[], Any], Any]] = {
    "xgb two": (lambda: xgboost.XGBClassifier(**SMALL), fits()),
    "xgb three": (lambda: xgboost.XGBClassifier(**SMALL), fits("three")),
    "xgb value": (lambda: xgboost.XGBRegressor(**SMALL), fits("value")),
    "xgb counts": (lambda: xgboost.XGBRegressor(**SMALL, objective="count:poisson"), [
        (x, np.exp(y / 5)) for x, y in fits("value")]),
    "xgb forest": (lambda: xgboost.XGBRFClassifier(**SMALL), fits()),
    "xgb dart": (lambda: xgboost.XGBClassifier(**SMALL, booster="dart", rate_drop=0.5), fits("three")),
    "xgb parallel": (lambda: xgboost.XGBClassifier(**SMALL, num_parallel_tree=3, subsample=0.5), fits("three")),
    "xgb vectors": (lambda: xgboost.XGBClassifier(**SMALL, multi_strategy="multi_output_tree"), fits("three")),
    "xgb base": (lambda: xgboost.XGBClassifier(**SMALL, base_score=0.9), fits()),
    "xgb frame": (lambda: xgboost.XGBClassifier(**SMALL, enable_categorical=True, max_cat_to_onehot=1), FRAMES),
    "xgb one-hot": (lambda: xgboost.XGBClassifier(**SMALL, enable_categorical=True, max_cat_to_onehot=9), FRAMES),
    "lgbm two": (lambda: lightgbm.LGBMClassifier(**LEAVES), fits()),
    "lgbm three": (lambda: lightgbm.LGBMClassifier(**LEAVES), fits("three")),
    "lgbm value": (lambda: lightgbm.LGBMRegressor(**LEAVES), fits("value")),
    "lgbm forest": (
        lambda: lightgbm.LGBMClassifier(**LEAVES, boosting_type="rf", bagging_freq=1, bagging_fraction=0.5), fits()),
    "lgbm dart": (lambda: lightgbm.LGBMClassifier(**LEAVES, boosting_type="dart"), fits()),
    "lgbm no missing": (lambda: lightgbm.LGBMClassifier(**LEAVES, use_missing=False), fits()),
    "lgbm slope": (lambda: lightgbm.LGBMClassifier(**LEAVES, sigmoid=2.0), fits()),
    "lgbm frame": (lambda: lightgbm.LGBMClassifier(**LEAVES, **CATEGORIES), FRAMES),
    "forest": (lambda: RandomForestClassifier(10, random_state=0), fits("three")),
    "forest value": (lambda: RandomForestRegressor(10, random_state=0), fits("value")),
    "extra": (lambda: ExtraTreesClassifier(10, random_state=0), fits("three")),
    "tree": (lambda: DecisionTreeClassifier(max_depth=5, random_state=0), fits("three")),
    "gradient": (lambda: GradientBoostingClassifier(n_estimators=8), fits("three", full=True)),
    "gradient value": (lambda: GradientBoostingRegressor(n_estimators=8), fits("value", full=True)),
    "histogram": (lambda: HistGradientBoostingClassifier(max_iter=8), fits()),
}  # fmt: skip
MADE: dict[str, tuple[Any, Any, Dataset]] = {}


@pytest.fixture(scope="module", autouse=True)
def made() -> None:
    """Train outside any test's time limit."""
    for name, (build, parts) in CASES.items():
        if parts is FRAMES:
            model = build().fit(FRAME, MARK)
            MADE[name] = (model, *cm.wrap(model).bind(FRAMES))
        else:
            model = build().fit(*parts[0])
            MADE[name] = (model, *bound(model, parts))


def own_leaves(model: Any, rows: Any) -> np.ndarray | None:
    """The leaf (n, trees) as the library says, in its own numbers."""
    if _boosting.maker(model) == "XGBoost":
        return np.asarray(model.apply(rows), np.int64).reshape(len(rows), -1)
    if _boosting.maker(model) == "LightGBM":
        return np.asarray(model.predict(rows, pred_leaf=True), np.int64).reshape(len(rows), -1)
    if hasattr(model, "_predictors"):
        return None  # says nothing of its leaves
    return np.asarray(model.apply(rows), np.int64).reshape(len(rows), -1)


# ---------------------------------------------------------------------- the table, leaf by leaf


@pytest.mark.parametrize("name", list(CASES))
def test_every_row_ends_in_the_leaf_the_library_says_also_beside_thresholds(name: str) -> None:
    model, target, data = MADE[name]
    table = target.trees()
    rows = np.concatenate([data.holdout.x, _nodes.probes(table, data.train.x, 150)])
    theirs = own_leaves(model, target._rows(rows))
    ours = table.leaves(rows)
    assert (table.feature[ours] == -1).all()
    if theirs is None:
        return
    for tree in range(ours.shape[1]):  # one to one, whatever the numbering
        pairs = set(zip(ours[:, tree].tolist(), theirs[:, tree].tolist(), strict=True))
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}), tree


@pytest.mark.parametrize("name", list(CASES))
def test_margins_and_answers_are_those_of_the_library(name: str) -> None:
    model, target, data = MADE[name]
    table, native = target.trees(), target._rows(data.holdout.x)
    margins = table.margins(data.holdout.x)
    if name.startswith("xgb"):
        wanted = model.predict(native, output_margin=True)
    elif name.startswith("lgbm"):
        wanted = model.predict(native, raw_score=True) / (12 if name == "lgbm forest" else 1)
    elif name in ("gradient", "histogram"):
        wanted = model.decision_function(native)
    else:
        wanted = getattr(model, "predict_proba", model.predict)(native)
    exact = 2e-6 if name.startswith("xgb") else 1e-12  # XGBoost adds up in float32
    np.testing.assert_allclose(margins, np.asarray(wanted).reshape(len(margins), -1), rtol=exact, atol=exact)
    answers = getattr(model, "predict_proba", model.predict)(native)
    np.testing.assert_allclose(
        table.scores(data.holdout.x), answers.reshape(len(margins), -1), rtol=1e-5, atol=1e-6
    )


def test_a_threshold_is_compared_in_the_dtype_of_the_library() -> None:
    """XGBoost and scikit-learn see the float32 of a value, so that three are one; LightGBM tells them apart."""
    for name, strict, dtype in (
        ("xgb two", True, "float32"),
        ("forest", False, "float32"),
        ("lgbm two", False, "float64"),
    ):
        table = MADE[name][1].trees()
        assert set(table.dtypes) == {dtype}
        inner = table.feature >= 0
        assert (table.strict[inner] == strict).all()
        node = int(np.flatnonzero(inner)[0])
        bar, column = float(table.threshold[node].astype(dtype)), int(table.feature[node])
        row = np.zeros((3, 4))
        row[:, column] = bar, np.nextafter(bar, np.inf), np.nextafter(bar, -np.inf)
        rows = table._compared(row)
        went = table._goes_left(np.full(3, node), rows[:, column]).tolist()
        assert went == [True, False, True] if dtype == "float64" else len(set(went)) == 1
        assert not (strict and went[0])


def test_columns_of_float32_are_rounded_before_lightgbm_compares() -> None:
    parts = [(x.astype(np.float32), y) for x, y in fits()]
    model = lightgbm.LGBMClassifier(**LEAVES).fit(*parts[0])
    target, data = bound(model, parts)
    table = target.trees()
    assert set(table.dtypes) == {"float32"}
    rows = _nodes.probes(table, data.train.x, 200)
    np.testing.assert_allclose(table.margins(rows), target.logits(rows)[:, 1:], atol=1e-12)


def test_lightgbm_takes_cells_beside_zero_for_zero() -> None:
    x = np.repeat([-2.0, -1.0, 0.0, 0.0, 1.0, 2.0], 20)[:, None]
    y = (x[:, 0] > -0.5) * 1
    model = lightgbm.LGBMClassifier(n_estimators=2, n_jobs=1, verbose=-1, min_child_samples=1).fit(x, y)
    target, _ = bound(model, ((x, y), (x[::7], y[::7])))
    beside = np.array([[-1e-35], [1e-35], [-1.1e-35], [-1e-30], [0.0]])
    np.testing.assert_allclose(target.trees().scores(beside), model.predict_proba(beside), atol=1e-12)


def test_infinite_and_huge_values_go_where_the_library_sends_them() -> None:
    model, target, _ = MADE["lgbm two"]
    rows = np.array([[1e300, -1e300, 1e39, -1e39], [np.finfo(float).max, 0, 0, np.nan]])
    np.testing.assert_allclose(target.trees().scores(rows), model.predict_proba(rows), atol=1e-12)


def test_outputs_are_placed_among_the_classes_of_the_target() -> None:
    _, target, data = MADE["xgb two"]
    table, x = target.trees(), data.holdout.x
    p = table.scores(x)
    wide = table.placed([2, 0], 3).scores(x)
    np.testing.assert_allclose(wide[:, [2, 0]], p, atol=1e-12)
    assert (wide[:, 1] == 0).all()
    forest = MADE["forest"][1].trees()
    np.testing.assert_allclose(
        forest.placed([1, 0, 3], 4).scores(x)[:, [1, 0, 3]], forest.scores(x), atol=1e-12
    )
    assert table.placed([0, 1], 2) is table
    turned = cm.wrap(MADE["forest"][0], classes=[2, 9, 0, 1]).bind(data_of("forest"))[0]
    np.testing.assert_allclose(turned.trees().scores(x), turned.scores(x), atol=1e-12)


def data_of(name: str) -> Dataset:
    return Dataset(*CASES[name][1])


def test_a_thousand_rows_and_a_hundred_trees_take_a_fraction_of_a_second() -> None:
    x, xh = micro.numbers(1000, 5), micro.numbers(1000, 6)
    y = (x[:, 0] + x[:, 1] / 10 > 0) * 1
    model = xgboost.XGBClassifier(n_estimators=100, max_depth=6, n_jobs=1, min_child_weight=0).fit(x, y)
    table = bound(model, ((x, y), (xh, y)))[0].trees()
    assert table.n_trees == 100
    spent = []
    for _ in range(3):
        start = time.process_time()
        table.margins(xh)
        spent.append(time.process_time() - start)
    assert min(spent) < 0.6  # 0.1 on the machine it was written on


# ---------------------------------------------------------------------- when a table is not to be believed


def test_no_table_where_trees_are_not_all_there_is() -> None:
    linear = lightgbm.LGBMClassifier(**LEAVES, linear_tree=True).fit(FULL, TWO)
    zeros = lightgbm.LGBMClassifier(**LEAVES, zero_as_missing=True).fit(FULL, TWO)
    marked = xgboost.XGBClassifier(**SMALL, missing=0.0).fit(FULL, TWO)
    lines = xgboost.XGBClassifier(n_estimators=4, n_jobs=1, booster="gblinear").fit(FULL, TWO)
    scaled = make_pipeline(StandardScaler(), RandomForestClassifier(3, random_state=0)).fit(FULL, TWO)
    exponential = GradientBoostingClassifier(n_estimators=3, loss="exponential").fit(FULL, TWO)
    for model in (linear, zeros, marked, lines, scaled, exponential):
        target, data = bound(model, fits(full=True))
        assert not target.has(TREES) and target.has(LABELS, SCORES, REFIT), model
        with pytest.raises(MissingCapability, match="does not offer trees"):
            target.trees()
        assert target.scores(data.holdout.x).shape == (100, 2)
    assert _nodes.table_of(IsolationForest(n_estimators=5).fit(FULL), data.schema) is None


def test_a_search_and_a_pipeline_of_one_step_have_the_table_of_what_they_ask() -> None:
    grid = GridSearchCV(
        make_pipeline(xgboost.XGBClassifier(**SMALL)), {"xgbclassifier__max_depth": [2, 3]}, cv=2
    )
    target, data = bound(grid.fit(X, TWO), fits())
    assert target.has(TREES) and target.kind == "scikit-learn"
    np.testing.assert_allclose(
        target.trees().scores(data.holdout.x), target.scores(data.holdout.x), atol=1e-6
    )


def test_a_table_that_is_wrong_at_its_thresholds_alone_is_not_offered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = _nodes._own_table

    def wrong(model: Any) -> Any:
        table = right(model)
        assert table is not None
        return replace(table, strict=~table.strict)

    monkeypatch.setattr(_nodes, "_own_table", wrong)
    for name in ("xgb two", "lgbm two", "forest"):
        assert not cm.wrap(MADE[name][0]).bind(data_of(name))[0].has(TREES), name


def test_without_treelite_everything_else_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_nodes, "installed", lambda module: module != "treelite")
    for name in ("xgb frame", "lgbm two", "forest"):
        model = MADE[name][0]
        target, data = cm.wrap(model).bind(FRAMES if name == "xgb frame" else data_of(name))
        assert not target.has(TREES) and target.has(LABELS, SCORES, REFIT)
        assert target.labels(data.holdout.x).shape == (100,)
    booster = xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(X, TWO), 3)
    assert not bound(booster, fits())[0].has(TREES)


def test_a_library_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    target, data = bound(xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(X, TWO), 3), fits())
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(MissingExtra, match="pip install xgboost"):
        target.refit(data.train.x, data.train.y, 0)


# ---------------------------------------------------------------------- categories


def boosted(kind: str) -> Any:
    return MADE["xgb frame" if kind == "xgb" else "lgbm frame"][0]


@pytest.mark.parametrize("kind", ["xgb", "lgbm"])
def test_categories_may_lack_be_ordered_otherwise_or_be_new_in_the_holdout(kind: str) -> None:
    model = boosted(kind)
    some = FRAMEH.assign(town=FRAMEH["town"].cat.remove_categories(["Bern"]))
    turned = FRAME.assign(town=FRAME["town"].cat.set_categories(["Genf", "Zug", "Bern", "Chur"]))
    for train, holdout in (
        (FRAME, some),
        (turned, some),
        (turned, FRAMEH.astype({"town": turned["town"].dtype})),
    ):
        target, data = cm.wrap(model).bind(Dataset(train=(train, MARK), holdout=(holdout, MARKH)))
        np.testing.assert_allclose(target.scores(data.holdout.x), model.predict_proba(holdout), atol=1e-6)
        np.testing.assert_allclose(
            target.trees().scores(data.holdout.x), model.predict_proba(holdout), atol=1e-6
        )


def test_dart_keeps_its_categories_one_level_down_and_one_class_is_enough_for_a_refit() -> None:
    own = xgboost.XGBClassifier(**SMALL, booster="dart", rate_drop=0.5, enable_categorical=True)
    model = own.fit(FRAME, np.arange(len(FRAME)) % 3)
    data = Dataset(train=(FRAME, np.arange(len(FRAME)) % 3), holdout=(FRAMEH, np.arange(len(FRAMEH)) % 3))
    target, data = cm.wrap(model).bind(data)
    np.testing.assert_allclose(target.trees().scores(data.holdout.x), model.predict_proba(FRAMEH), atol=1e-6)
    again = target.refit(data.train.x[:30], np.full(30, 2), 0)  # what a small half of shadow rows may hold
    assert set(again.labels(data.holdout.x).tolist()) == {2}


@pytest.mark.parametrize("kind", ["xgb", "lgbm"])
def test_a_category_the_model_never_saw_is_a_missing_cell_to_a_booster(kind: str) -> None:
    model = boosted(kind)
    wider = FRAME["town"].cat.categories.append(pd.Index(["Olten"]))
    train, holdout = (part.assign(town=part["town"].cat.set_categories(wider)) for part in (FRAME, FRAMEH))
    holdout.loc[::3, "town"] = "Olten"
    data = Dataset(train=(train, MARK), holdout=(holdout, MARKH))
    emptied = holdout.assign(town=holdout["town"].where(holdout["town"] != "Olten"))
    target, coded = cm.wrap(_boosting.booster_of(model)).bind(data)
    for scores in (target.scores(coded.holdout.x), target.trees().scores(coded.holdout.x)):
        np.testing.assert_allclose(scores, model.predict_proba(emptied), atol=1e-6)
    assert any("'town' holds categories the model never saw" in said for said in target.caveats)
    # the estimator decides for itself: XGBoost 3.1 refuses, 3.2 takes it for the first category it knows
    own, coded = cm.wrap(model).bind(data)
    assert own.has(TREES) == (kind == "lgbm")
    if kind == "lgbm":
        np.testing.assert_allclose(
            own.trees().scores(coded.holdout.x), own.scores(coded.holdout.x), atol=1e-12
        )


@pytest.mark.parametrize("kind", ["xgb", "lgbm"])
@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_booster_from_a_file_finds_columns_and_categories_in_a_plain_table(
    kind: str, library: str, tmp_path: Path
) -> None:
    """As a CSV gives it: text for categories, numbers for numbers, columns in another order."""
    model = boosted(kind)
    booster = _boosting.booster_of(model)
    path = tmp_path / ("model.ubj" if kind == "xgb" else "model.txt")
    booster.save_model(path)
    again = xgboost.Booster(model_file=path) if kind == "xgb" else lightgbm.Booster(model_file=path)
    order = ["ward", "smokes", "age", "town", "amount paid"]
    plain: list[Any] = [part.astype({"town": object, "ward": int})[order] for part in (FRAME, FRAMEH)]
    if library == "polars":
        import polars as pl

        cells = [{name: part[name].tolist() for name in order} for part in plain]
        plain = [
            pl.DataFrame({name: [None if cell != cell else cell for cell in part[name]] for name in order})
            for part in cells
        ]
    target, data = cm.wrap(again).bind(Dataset(train=(plain[0], MARK), holdout=(plain[1], MARKH)))
    np.testing.assert_allclose(target.scores(data.holdout.x), model.predict_proba(FRAMEH), atol=1e-6)
    assert target.digest() == cm.wrap(booster).digest()
    fresh = target.refit(data.train.x, data.train.y, 0)
    assert (fresh.labels(data.train.x) == data.train.y).mean() > 0.8


@pytest.mark.parametrize("kind", ["xgb", "lgbm"])
def test_an_estimator_is_fed_categories_where_the_table_holds_text(kind: str) -> None:
    model = boosted(kind)
    plain = [part.astype({"town": object, "ward": int}) for part in (FRAME, FRAMEH)]
    target, data = cm.wrap(model).bind(Dataset(train=(plain[0], MARK), holdout=(plain[1], MARKH)))
    np.testing.assert_allclose(target.scores(data.holdout.x), model.predict_proba(FRAMEH), atol=1e-6)
    assert (target.refit(data.train.x, data.train.y, 0).labels(data.train.x) == data.train.y).mean() > 0.8


@pytest.mark.parametrize("kind", ["xgb", "lgbm"])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda part: part.rename(columns={"age": "Age"}), "trained on a column 'age'"),
        (lambda part: part.assign(z=1), "not trained on the column 'z'"),
        (lambda part: part.assign(town="Olten"), r"holds \['Olten'\]; the model knows none of these"),
        (lambda part: part.assign(town=1.5), "holds numbers; the model knows categories"),
        (
            lambda part: part.assign(age=part["town"].astype(object).fillna("Chur")),
            "holds text, but the model keeps",
        ),
    ],
)
def test_a_booster_refuses_columns_it_was_not_trained_on(kind: str, change: Any, told: str) -> None:
    booster = _boosting.booster_of(boosted(kind))
    with pytest.raises(InvalidData, match=told) as caught:
        cm.wrap(booster).bind(Dataset(train=(change(FRAME), MARK), holdout=(change(FRAMEH), MARKH)))
    assert "\n" not in str(caught.value)


def test_codes_beyond_the_categories_are_refused() -> None:
    target, data = cm.wrap(_boosting.booster_of(boosted("xgb"))).bind(FRAMES)
    rows = data.holdout.x.copy()
    rows[0, 1] = 9
    with pytest.raises(InvalidData, match="'town' has code 9 but 4 categories"):
        target.labels(rows)


# ---------------------------------------------------------------------- boosters: what they mean


def xgb(objective: str, y: np.ndarray = TWO, x: np.ndarray = X, **settings: Any) -> Any:
    return xgboost.train(
        {"objective": objective, "max_depth": 3, "nthread": 1, **settings}, xgboost.DMatrix(x, y), 4
    )


def lgb(objective: Any, y: np.ndarray = TWO, x: np.ndarray = X, **settings: Any) -> Any:
    held = {"objective": objective, "verbosity": -1, "num_leaves": 7, "num_threads": 1, **settings}
    return lightgbm.train(held, lightgbm.Dataset(x, y), 4)


@pytest.mark.parametrize(
    ("model", "labels", "capable"),
    [
        (lambda: xgb("binary:logistic"), "two", {SCORES, LOGITS, TREES}),
        (lambda: xgb("binary:logitraw"), "two", {SCORES, LOGITS}),
        (lambda: xgb("binary:hinge"), "two", set()),
        (lambda: xgb("multi:softmax", THREE, num_class=3), "three", {SCORES, LOGITS, TREES}),
        (lambda: xgb("multi:softprob", THREE, num_class=3, booster="dart", rate_drop=0.5), "three",
         {SCORES, LOGITS, TREES}),
        (lambda: xgb("reg:squarederror", VALUE), "value", {TREES}),
        (lambda: lgb("binary", sigmoid=3.0), "two", {SCORES, LOGITS, TREES}),
        (lambda: lgb("binary", boosting="rf", bagging_freq=1, bagging_fraction=0.5), "two", {SCORES, LOGITS, TREES}),
        (lambda: lgb("multiclass", THREE, num_class=3), "three", {SCORES, LOGITS, TREES}),
        (lambda: lgb("multiclassova", THREE, num_class=3), "three", set()),
        (lambda: lgb("regression_l1", VALUE), "value", {TREES}),
    ],
)  # fmt: skip
def test_what_a_booster_offers_follows_its_objective(model: Any, labels: str, capable: set[Any]) -> None:
    booster = model()
    parts = fits(labels)
    target, data = bound(booster, parts)
    assert target.capabilities - {TREES} == {LABELS, REFIT} | (capable - {TREES})
    assert target.has(TREES) or TREES not in capable
    xgboosted = isinstance(booster, xgboost.Booster)
    own = booster.predict(xgboost.DMatrix(XH)) if xgboosted else booster.predict(XH)
    if target.has(SCORES) and own.ndim == 2:
        np.testing.assert_allclose(target.scores(XH), own, atol=1e-6)
    if labels == "value":
        np.testing.assert_allclose(target.labels(XH), own, rtol=1e-6)
    elif own.ndim == 2:
        assert (target.labels(XH) == own.argmax(1)).all()
    elif labels == "three":
        assert (target.labels(XH) == own).all()
    else:
        bar = 0.0 if "logitraw" in str(booster.save_config() if xgboosted else "") else 0.5
        assert (target.labels(XH) == (own > bar)).all()
    fresh = target.refit(data.train.x, data.train.y, 0)
    gap = np.abs(fresh.labels(XH) - target.labels(XH)).mean()
    assert gap < (0.5 if labels == "value" else 0.25)
    assert fresh.digest() == target.refit(data.train.x, data.train.y, 0).digest()


@pytest.mark.parametrize(
    ("model", "options", "told"),
    [
        (lambda: xgb("rank:pairwise"), {}, "objective 'rank:pairwise' is not supported"),
        (
            lambda: lgb(lambda p, d: (p - d.get_label(), np.ones(len(p)))),
            {},
            "objective 'custom' is not supported",
        ),
        (lambda: xgb("binary:logistic", x=FULL, booster="gblinear"), {}, "booster='gblinear' grows no trees"),
        (
            lambda: xgb("reg:squarederror"),
            {"task": "binary"},
            "task='binary' does not fit this XGBoost model",
        ),
        (lambda: xgb("reg:squarederror"), {"classes": ["a", "b"]}, "classes= does not fit"),
        (lambda: xgb("binary:logistic"), {"task": "regression"}, "whose objective predicts classes"),
        (
            lambda: xgb("binary:logistic"),
            {"classes": ["a", "b", "c"]},
            "classes= names 3 labels; the model has 2",
        ),
        (lambda: xgb("binary:logistic"), {"recipe": Recipe(factory=list)}, "recipe=.* does not apply"),
        (lambda: xgb("binary:logistic"), {"outputs": "scores"}, "outputs='scores' does not apply"),
        (lambda: xgb("binary:logistic"), {"device": "cuda"}, "device='cuda' does not apply"),
    ],
)
def test_boosters_and_options_that_do_not_fit_are_refused(model: Any, options: Any, told: str) -> None:
    with pytest.raises(InvalidData, match=told) as caught:
        cm.wrap(model(), **options)
    assert "\n" not in str(caught.value)


def test_labels_of_a_booster_are_numbers_or_guessed_in_order_or_given() -> None:
    booster = xgb("binary:logistic")
    text, texth = np.where(TWO, "yes", "no"), np.where(TWOH, "yes", "no")
    guessed, data = bound(booster, ((X, text), (XH, texth)))
    assert guessed.classes == ("no", "yes") and any(
        "classes= was not given" in said for said in guessed.caveats
    )
    assert (data.holdout.y == TWOH).all()
    turned, data = bound(booster, ((X, np.where(TWO, "ill", "well")), (XH, np.where(TWOH, "ill", "well"))))
    assert turned.classes == ("well", "ill"), "the training labels say which number is which"
    assert (turned.labels(XH) == guessed.labels(XH)).all() and "['well', 'ill']" in turned.caveats[-1]
    assert sum("classes= was not given" in said for said in turned.caveats) == 1
    given_, _ = bound(booster, ((X, text), (XH, texth)), classes=["yes", "no"])
    assert given_.classes == ("yes", "no") and not any("classes=" in said for said in given_.caveats)
    assert (given_.labels(XH) == guessed.labels(XH)).all()
    with pytest.raises(InvalidData, match=r"the model has 2 classes but the labels are \['a', 'b', 'c'\]"):
        bound(booster, ((X, np.array(list("abc"))[THREE]), (XH, np.array(list("abc"))[THREEH])))


def test_data_that_was_bound_to_another_target_binds_as_ever() -> None:
    coded = bound(lgb("binary"), ((X, np.where(TWO, "yes", "no")), (XH, np.where(TWOH, "yes", "no"))))[1]
    target, again = cm.wrap(xgb("binary:logistic")).bind(coded)
    other, same = cm.wrap(DecisionTreeClassifier().fit(X, TWO)).bind(coded)
    assert (target.classes, again.classes, target.task) == (other.classes, same.classes, other.task)
    assert target.has(TREES) and (again.train.y == TWO).all()


@pytest.mark.parametrize("kind", ["xgb", "lgbm"])
def test_the_users_booster_is_left_as_it_was(kind: str) -> None:
    booster = xgb("binary:logistic", nthread=2) if kind == "xgb" else lgb("binary")

    def state() -> Any:
        if kind == "xgb":
            return booster.save_config(), booster.save_raw(), booster.attributes()
        return booster.model_to_string(), dict(booster.params), booster.num_trees()

    before = state()
    target, data = bound(booster, fits())
    target.labels(data.holdout.x)
    target.refit(data.train.x, data.train.y, 0)
    target.trees()
    assert state() == before
    assert target.model is not booster


def test_a_guessed_recipe_is_a_caveat_and_takes_what_the_model_says() -> None:
    booster = xgb("binary:logistic", max_depth=2, eta=0.1, num_parallel_tree=2, subsample=0.5)
    target, data = bound(booster, fits())
    assert any("refits guess" in said and "4 rounds, learning rate 0.1" in said for said in target.caveats)
    fresh = target.refit(data.train.x, data.train.y, 0)
    settings, rounds = trees._settings_of(fresh.model)
    assert rounds == 4 and float(settings["eta"]) == pytest.approx(0.1) and settings["subsample"] == "0.5"
    assert fresh.trees().n_trees == 8 and settings["max_depth"] == "2"
    raw = xgboost.Booster()
    raw.load_model(booster.save_raw("ubj"))  # a file does not say how deep: the trees do
    assert trees._settings_of(raw)[0]["max_depth"] == "2"
    light, data = bound(lgb("binary", learning_rate=0.02, max_depth=2), fits())
    assert light.refit(data.train.x, data.train.y, 0).model.params["learning_rate"] == 0.02


# ---------------------------------------------------------------------- estimators


@pytest.mark.filterwarnings("ignore:The argument 'eval_set' is deprecated")  # older releases know no other
def test_early_stopping_counts_the_best_rounds_and_refits_train_as_many() -> None:
    model = xgboost.XGBClassifier(n_estimators=60, learning_rate=1.0, early_stopping_rounds=3, n_jobs=1)
    model.fit(X, TWO, eval_set=[(XH, TWOH)], verbose=False)
    best = model.best_iteration + 1
    assert best < model.get_booster().num_boosted_rounds()
    target, data = bound(model, fits())
    assert target.trees().n_trees == best
    np.testing.assert_allclose(target.trees().scores(XH), model.predict_proba(XH), atol=1e-6)
    assert any(f"refits train {best} rounds" in said for said in target.caveats)
    assert target.refit(data.train.x, data.train.y, 0).trees().n_trees == best
    light = lightgbm.LGBMClassifier(n_estimators=60, learning_rate=1.0, n_jobs=1, verbose=-1)
    light.fit(X, TWO, eval_set=[(XH, TWOH)], callbacks=[lightgbm.early_stopping(3, verbose=False)])
    target, data = bound(light, fits())
    assert target.refit(data.train.x, data.train.y, 0).trees().n_trees == light.best_iteration_


def test_an_xgboost_classifier_numbers_its_classes_and_the_data_may_name_them() -> None:
    model = MADE["xgb three"][0]
    names = np.array(["low", "mid", "top"])
    parts = ((X, names[THREE]), (XH, names[THREEH]))
    for options, told in (({}, True), ({"classes": ["low", "mid", "top"]}, False)):
        target, data = bound(model, parts, **options)
        assert [target.classes[i] for i in target.labels(XH)] == names[model.predict(XH)].tolist()
        assert any("classes= was not given" in said for said in target.caveats) == told
        keep = data.train.y != 1
        fresh = target.refit(data.train.x[keep], data.train.y[keep], 0)
        assert (fresh.scores(XH)[:, 1] == 0).all() and set(fresh.labels(XH)) == {0, 2}
        np.testing.assert_allclose(fresh.trees().scores(XH), fresh.scores(XH), atol=1e-6)
        again = fresh.refit(data.train.x, data.train.y, 0)
        assert set(again.labels(XH)) == {0, 1, 2}
    names = np.array(["top", "low", "mid"])
    target, _ = bound(model, ((X, names[THREE]), (XH, names[THREEH])))
    assert target.classes == ("top", "low", "mid") and target.has(TREES)
    assert [target.classes[i] for i in target.labels(XH)] == names[model.predict(XH)].tolist()


def test_an_unfitted_xgboost_classifier_is_fitted_on_named_classes() -> None:
    names = np.array(["no", "yes"])
    data = Dataset(train=(X, names[TWO]), holdout=(XH, names[TWOH]))
    target = cm.wrap(xgboost.XGBClassifier(**SMALL)).trained(data, 0)
    ready, coded = target.bind(data)
    assert ready.classes == ("no", "yes") and (ready.labels(coded.train.x) == TWO).mean() > 0.9


def test_a_one_against_rest_model_gives_labels_alone() -> None:
    model = lightgbm.LGBMClassifier(**LEAVES, objective="multiclassova").fit(X, THREE)
    target, _ = bound(model, fits("three"))
    assert target.capabilities == {LABELS, REFIT}


def test_refits_run_on_one_thread() -> None:
    for build in (xgboost.XGBClassifier, lightgbm.LGBMClassifier):
        model = build(
            **{**(SMALL if build is xgboost.XGBClassifier else LEAVES), "n_jobs": 2, "n_estimators": 1}
        ).fit(X, TWO)
        target, data = bound(model, fits())
        assert target.refit(data.train.x, data.train.y, 0).model.get_params()["n_jobs"] == 1


def test_treelite_is_asked_for_trees_alone() -> None:
    assert treelite.__version__ and not cm.wrap(MADE["forest"][0]).has(TREES), "not looked at yet"
