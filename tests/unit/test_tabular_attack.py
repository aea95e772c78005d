# SPDX-License-Identifier: Apache-2.0
"""The attack against the whole feasible set of small grids, and against every rule it must keep."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.tree import DecisionTreeClassifier

import casemate as cm
from casemate.core import harness
from casemate.core.errors import InvalidData, InvalidThreat
from casemate.core.methods import find
from casemate.core.run import Run
from casemate.core.schema import Column, Relation, Schema, violations
from casemate.core.types import Capability, Threat

METHOD = find("tabular_attack")


def framed(schema: Schema, x: np.ndarray) -> pd.DataFrame:
    """Encoded rows as a user has them; a schema without template shows the model the encoded rows again."""
    cells = {
        c.name: np.array(c.categories, object)[x[:, i].astype(int)] if c.kind == "category" else x[:, i]
        for i, c in enumerate(schema.columns)
    }
    return pd.DataFrame(cells)


def attack(
    model: Any,
    schema: Schema,
    x: np.ndarray,
    y: np.ndarray,
    threat: Threat,
    *,
    holdout: Any = None,
    **params: Any,
) -> tuple[cm.Target, cm.Dataset, np.ndarray, Run]:
    """Run the method itself; return what it was given, its rows and its run."""
    wrapped = model if isinstance(model, cm.Target) else cm.wrap(model)
    given = (x, y) if holdout is None else holdout
    parts = [(framed(schema, rows), labels) for rows, labels in ((x, y), given)]
    target, data = wrapped.bind(cm.Dataset(*parts, schema=replace(schema, template=None)))
    run = Run(card=METHOD.card, threat=threat.resolved(schema), seed=params.pop("seed", 0))
    return target, data, harness.invoke(METHOD, target, data, run, params), run


def broken(target: cm.Target, data: cm.Dataset, x_adv: np.ndarray, threat: Threat) -> np.ndarray:
    """Which rows the attack broke, after a check that all of them are valid."""
    x, y = data.holdout.x, data.holdout.y
    rules = violations(x, x_adv, threat.resolved(data.schema), data.schema)
    assert {name: int(bad.sum()) for name, bad in rules.items() if bad.any()} == {}
    if threat.goal is not None:
        return target.labels(x_adv) == threat.goal
    return (target.labels(x) == y) & (target.labels(x_adv) != y)


def grid_world(seed: int = 0) -> tuple[Schema, np.ndarray, np.ndarray, np.ndarray]:
    """Five columns of whole numbers, two of them one-hot, under every rule; all feasible rows are enumerated."""
    columns = (
        Column(name="fixed", kind="integer", low=0, high=3, spread=1.0, immutable=True),
        Column(name="up", kind="integer", low=0, high=5, spread=1.0, monotone="increasing"),
        Column(name="paid", kind="integer", low=0, high=5, spread=1.0),
        Column(name="owed", kind="integer", low=0, high=5, spread=1.0),
        Column(name="ward", kind="category", categories=("a", "b", "c"), spread=1.0),
        Column(name="red", kind="integer", low=0, high=1, spread=1.0),
        Column(name="blue", kind="integer", low=0, high=1, spread=1.0),
    )
    schema = Schema(
        columns=columns,
        groups=(("red", "blue"),),
        relations=(Relation(left=("paid",), op="<=", right=("owed",)),),
    )
    ranges = (range(4), range(6), range(6), range(6), range(3), range(2))
    every = np.array([(*r[:5], r[5], 1 - r[5]) for r in itertools.product(*ranges) if r[2] <= r[3]], float)
    rng = np.random.default_rng(seed)
    x = every[rng.permutation(len(every))[:300]]
    score = (
        x[:, 0]
        - x[:, 1]
        + 1.5 * (x[:, 2] > 2) * (x[:, 3] > 3)
        + (x[:, 4] == 1) * x[:, 5]
        + rng.normal(0, 0.7, len(x))
    )
    return schema, every, x, (score > np.median(score)).astype(int)


MODELS: dict[str, Any] = {
    "tree": DecisionTreeClassifier(max_depth=7, random_state=0),
    "forest": RandomForestClassifier(15, max_depth=6, random_state=0),
    "boosting": GradientBoostingClassifier(n_estimators=20, random_state=0),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("norm", "radius"), [("linf", 1), ("l2", 1.5), ("l1", 2), ("l0", 2)])
def test_at_least_95_percent_of_what_can_break_breaks_and_nothing_else(
    model: str, norm: Any, radius: float
) -> None:
    """Every feasible row within the radius is asked; the attack may not find more, and finds nearly all."""
    schema, every, x, y = grid_world()
    threat = Threat(norm=norm, radius=radius, scale="raw")
    target, data, x_adv, _ = attack(MODELS[model].fit(x, y), schema, x, y, threat, holdout=(x[:120], y[:120]))
    found = broken(target, data, x_adv, threat)
    labels = target.labels(every)
    right = target.labels(data.holdout.x) == data.holdout.y
    can = np.zeros(len(found), bool)
    for i in np.flatnonzero(right):
        rows = np.broadcast_to(data.holdout.x[i], every.shape)
        legal = ~np.logical_or.reduce(list(violations(rows, every, threat, schema).values()))
        if norm != "l0":  # categories and groups have no distance
            legal &= (every[:, 4:] == rows[:, 4:]).all(1)
        can[i] = (legal & (labels != data.holdout.y[i])).any()
    assert not (found & ~can).any()
    assert can.sum() > 20 and found.sum() >= 0.95 * can.sum()


def tiny() -> tuple[Schema, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(160, 4))
    return Schema.infer(x), x, (x @ [1.0, -1.0, 0.5, 0.0] > 0).astype(int)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", np.inf)])
def test_a_linear_model_falls_where_the_closed_form_says(norm: Any, dual: float) -> None:
    """Margin over dual norm of the weights is the exact distance; no bounds."""
    schema, x, y = tiny()
    schema = Schema(columns=tuple(replace(c, low=-np.inf, high=np.inf) for c in schema.columns))
    model = LogisticRegression().fit(x, y)
    distance = np.abs(model.decision_function(x)) / np.linalg.norm(model.coef_[0], dual)
    threat = Threat(norm=norm, radius=0.4, scale="raw")
    target, data, x_adv, _ = attack(model, schema, x, y, threat)
    found, right = broken(target, data, x_adv, threat), model.predict(x) == y
    assert not (found & (distance > 0.4)).any()
    assert found.sum() >= 0.97 * (right & (distance < 0.4)).sum() > 20


def wide() -> tuple[Schema, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(150, 20))
    columns = tuple(Column(name=f"x{i}", kind="real", spread=1.0) for i in range(20))
    return Schema(columns=columns), x, (x @ rng.normal(size=20) + 4 * x[:, 0] * x[:, 1] > 0).astype(int)


@pytest.mark.parametrize(("norm", "dual", "radius"), [("linf", 1, 0.1), ("l2", 2, 0.4)])
def test_before_any_generation_the_best_columns_are_moved_together(
    norm: Any, dual: float, radius: float
) -> None:
    """On a linear model that is the exact answer: the corner of the box, and the direction of the weights."""
    schema, x, y = wide()
    model = LogisticRegression().fit(x, y)
    distance = np.abs(model.decision_function(x)) / np.linalg.norm(model.coef_[0], dual)
    threat = Threat(norm=norm, radius=radius, scale="raw")
    target, data, x_adv, _ = attack(model, schema, x, y, threat, generations=0)
    can = (model.predict(x) == y) & (distance < 0.98 * radius)
    assert broken(target, data, x_adv, threat)[can].all() and can.sum() > 15


def test_evolution_finds_what_the_start_does_not() -> None:
    schema, x, y = wide()
    threat = Threat(norm="linf", radius=0.25, scale="raw")
    model = RandomForestClassifier(30, max_depth=8, random_state=0).fit(x, y)
    found = []
    for generations in (0, 25):
        target, data, x_adv, _ = attack(model, schema, x, y, threat, generations=generations, shrink=0)
        found.append(int(broken(target, data, x_adv, threat).sum()))
    assert found[1] >= found[0] + 17


def test_rows_and_batch_do_not_matter() -> None:
    schema, _, x, y = grid_world()
    model, threat = MODELS["forest"].fit(x, y), Threat(norm="l2", radius=1.5, scale="raw")
    whole = attack(model, schema, x, y, threat, holdout=(x[:60], y[:60]), generations=4)[2]
    order = np.random.default_rng(0).permutation(300)
    some = np.array([7, 3, 50, 21])
    part = attack(model, schema, x[order], y[order], threat, holdout=(x[some], y[some]), generations=4)[2]
    np.testing.assert_array_equal(whole[some], part)
    schema, x, y = tiny()
    model = MODELS["forest"].fit(x, y)
    first, again, other = (
        attack(model, schema, x, y, threat, generations=2, seed=seed)[2] for seed in (0, 0, 1)
    )
    assert (first == again).all() and (first != other).any()


def test_small_blocks_give_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import import_module

    schema, _, x, y = grid_world()
    model, threat = MODELS["forest"].fit(x, y), Threat(norm="linf", radius=1, scale="raw")
    whole = attack(model, schema, x, y, threat, holdout=(x[:40], y[:40]), generations=3)[2]
    monkeypatch.setattr(import_module("casemate.robustness.evolution"), "MAX_CELLS", 2000)
    parts = attack(model, schema, x, y, threat, holdout=(x[:40], y[:40]), generations=3)[2]
    np.testing.assert_array_equal(whole, parts)


def test_holes_stay_and_frames_with_categories_break_under_an_edit_budget() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": rng.integers(20, 80, 300).astype(float),
            "ward": rng.choice(["a", "b", "c"], 300),
            "bmi": np.where(rng.random(300) < 0.2, np.nan, rng.normal(25, 4, 300)),
        }
    )
    y = ((frame["ward"] == "b") ^ (frame["age"] > 60)).to_numpy().astype(int)
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    code = make_column_transformer((OneHotEncoder(sparse_output=False), ["ward"]), remainder="passthrough")
    model = make_pipeline(code, HistGradientBoostingClassifier(max_iter=20, random_state=0)).fit(frame, y)
    schema = Schema.infer(frame, immutable=["age"])
    threat = Threat(norm="l0", radius=1)
    target, data = cm.wrap(model).bind(
        cm.Dataset(train=(frame, y), holdout=(frame[:80], y[:80]), schema=schema)
    )
    run = Run(card=METHOD.card, threat=threat.resolved(schema))
    x_adv = harness.invoke(METHOD, target, data, run, {"generations": 3})
    found, right = broken(target, data, x_adv, threat), target.labels(data.holdout.x) == data.holdout.y
    assert found[right].mean() == 1.0  # the ward alone decides
    np.testing.assert_array_equal(np.isnan(x_adv), np.isnan(data.holdout.x))
    assert (x_adv[:, 0] == data.holdout.x[:, 0]).all()


def test_a_goal_is_reached_or_nothing_is_claimed() -> None:
    rng = np.random.default_rng(3)
    x = rng.uniform(-2, 2, (240, 2))
    y = (x[:, 0] > 0).astype(int) + 2 * (x[:, 1] > 0)
    model = DecisionTreeClassifier(max_depth=4, random_state=0).fit(x, y)
    threat = Threat(norm="linf", radius=0.6, scale="raw", goal=3)
    away = y != 3
    target, data, x_adv, _ = attack(model, Schema.infer(x), x, y, threat, holdout=(x[away], y[away]))
    found = broken(target, data, x_adv, threat)
    can = (np.clip(x[away] + 0.6, None, x.max(0)) > 0.05).all(1)
    cannot = ((x[away] + 0.6) < -0.05).any(1)
    assert found[can].mean() > 0.95 and not found[cannot].any()


def test_a_constant_model_is_not_broken_and_one_row_is_enough() -> None:
    from sklearn.dummy import DummyClassifier

    schema, x, y = tiny()
    threat = Threat(norm="linf", radius=0.5)
    model = DummyClassifier(strategy="prior").fit(x, np.r_[np.zeros(100, int), np.ones(60, int)])
    target, data, x_adv, _ = attack(
        model, schema, x, y, threat, holdout=(x[:9], np.zeros(9, int)), generations=3
    )
    assert not broken(target, data, x_adv, threat).any()
    model = LogisticRegression().fit(x, y)
    near = np.abs(model.decision_function(x)).argmin()
    target, data, x_adv, _ = attack(
        model, schema, x, y, threat, holdout=(x[[near]], model.predict(x[[near]]))
    )
    assert broken(target, data, x_adv, threat).all()


@pytest.mark.parametrize("budget", [1, 50, 333, 1500])
def test_a_budget_is_kept_to_the_row_and_what_was_found_stays(budget: int) -> None:
    schema, _, x, y = grid_world()
    threat = Threat(norm="l0", radius=3, n_queries=budget)
    target, data, x_adv, run = attack(
        MODELS["forest"].fit(x, y), schema, x, y, threat, holdout=(x[:60], y[:60])
    )
    assert run.counter.tally["rows"] <= budget
    assert any("query budget" in note for note in run.notes)
    assert broken(target, data, x_adv, threat).any() == (budget > 60)


def test_a_deadline_lowers_the_generations_and_keeps_what_was_found() -> None:
    import time

    _, x, y = tiny()
    target, data = cm.wrap(MODELS["forest"].fit(x, y)).bind(cm.Dataset(train=(x, y), holdout=(x, y)))
    threat = Threat(norm="linf", radius=0.2).resolved(data.schema)
    run = Run(card=METHOD.card, threat=threat, deadline=time.monotonic())
    x_adv = harness.invoke(METHOD, target, data, run, {"generations": 10_000})
    assert run.used["generations"] == 1 and broken(target, data, x_adv, threat).any()


def test_what_was_found_is_shortened() -> None:
    schema, x, y = tiny()
    threat = Threat(norm="l2", radius=1.5)
    model = LogisticRegression().fit(x, y)
    sizes = []
    for shrink in (0, 2):
        target, data, x_adv, _ = attack(model, schema, x, y, threat, shrink=shrink)
        found = broken(target, data, x_adv, threat)
        sizes.append((found.sum(), np.linalg.norm((x_adv - x) / x.std(0), axis=1)[found].mean()))
    assert sizes[1][0] == sizes[0][0] and sizes[1][1] < 0.9 * sizes[0][1]


def test_nothing_is_asked_twice() -> None:
    """On a grid of six rows a search of many generations asks for each of them once (and confirms what it finds)."""
    x = np.arange(6.0)[:, None]
    y = np.array([0, 0, 0, 1, 1, 1])
    schema = Schema(columns=(Column(name="k", kind="integer", low=0, high=5, spread=1.0),))
    _, _, _, run = attack(
        DecisionTreeClassifier().fit(x, y), schema, x, y, Threat(norm="linf", radius=1, scale="raw"),
        holdout=(x[[1]], y[[1]]), generations=30,
    )  # fmt: skip
    assert run.counter.tally["rows"] <= 1 + 2 + 30  # each generation may meet rows that left the population


# ---- gradients ----


def network(x: np.ndarray, y: np.ndarray) -> cm.Target:
    from casemate.training.loop import fit

    make = lambda: torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))  # noqa: E731
    recipe = cm.Recipe(factory=make, epochs=20, learning_rate=0.05)
    return cm.wrap(fit(recipe, x, y, seed=0), recipe=recipe)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_gradients_save_queries_and_break_as_much(norm: Any) -> None:
    schema, x, y = tiny()
    target, threat = network(x, y), Threat(norm=norm, radius=0.6)
    tallies, counts = [], []
    few = {"holdout": (x[:80], y[:80]), "shrink": 0, "generations": 12, "gradient_steps": 20}
    for view in (target, target.limited_to(Capability.LABELS, Capability.SCORES)):
        bound, data, x_adv, run = attack(view, schema, x, y, threat, **few)
        tallies.append(dict(run.counter.tally))
        counts.append(int(broken(bound, data, x_adv, threat).sum()))
    assert counts[0] >= counts[1] > 15
    assert tallies[0]["gradients"] > 0 == tallies[1]["gradients"]
    assert tallies[0]["rows"] < tallies[1]["rows"]


def test_the_gradient_keeps_the_schema_too() -> None:
    schema, x, y = tiny()
    schema = replace(
        schema.with_columns({"x0": {"immutable": True}, "x1": {"monotone": "increasing"}}),
        relations=(Relation(left=("x2",), op="<=", right=("x3",)),),
    )
    x[:, 2:] = np.sort(x[:, 2:], axis=1)
    threat = Threat(norm="l2", radius=0.8)
    target, data, x_adv, run = attack(network(x, y), schema, x, y, threat)
    assert broken(target, data, x_adv, threat).sum() > 5 and run.counter.tally["gradients"] > 0


# ---- what it says ----


def test_where_label_and_scores_disagree_the_label_decides() -> None:
    """Class 1 is said from a score of 0.9 on: a row of class 0 above 0.5 is no success, at 0.9 it falls."""
    schema, x, y = tiny()
    model = FixedThresholdClassifier(
        LogisticRegression(), threshold=0.9, response_method="predict_proba"
    ).fit(x, y)
    threat = Threat(norm="linf", radius=0.6, scale="raw")
    linear = model.estimator_
    target, data, x_adv, run = attack(model, schema, x, y, threat, generations=6)
    found = broken(target, data, x_adv, threat)
    low, high = x.min(0), x.max(0)
    most = linear.predict_proba(np.clip(x + 0.6 * np.sign(linear.coef_[0]), low, high))[:, 1]
    zero = (y == 0) & (linear.predict_proba(x)[:, 1] < 0.9)
    assert (found & zero).sum() == (zero & (most >= 0.9)).sum() > 5
    assert any("label and scores disagree" in note for note in run.notes)


def test_rows_that_cannot_move_are_told() -> None:
    schema, x, y = tiny()
    still = schema.with_columns({name: {"immutable": True} for name in schema.names})
    _, _, x_adv, run = attack(LogisticRegression().fit(x, y), still, x, y, Threat(norm="l2", radius=1))
    assert (x_adv == x).all() and "160 of 160 rows have no cell that can move" in run.notes[0]


def test_what_makes_no_sense_is_refused() -> None:
    schema, x, y = tiny()
    model = LogisticRegression().fit(x, y)
    with pytest.raises(InvalidData, match="population >= 4; got 40, 40, 2, 3"):
        attack(model, schema, x, y, Threat(norm="l2", radius=1), population=3)
    target, data = cm.wrap(model).bind(cm.Dataset(train=(x, y), holdout=(x, y)))
    with pytest.raises(InvalidThreat, match="no radius"):
        METHOD.function(target, data, run=Run(card=METHOD.card))


def test_whole_numbers_that_the_radius_cannot_move_are_told_as_untested() -> None:
    x = np.arange(8.0)[:, None]
    y = (x[:, 0] > 3).astype(int)
    schema = Schema(columns=(Column(name="k", kind="integer", low=0, high=7, spread=2.0),))
    model = DecisionTreeClassifier().fit(x, y)
    _, _, x_adv, run = attack(model, schema, x, y, Threat(norm="linf", radius=0.3))
    assert (x_adv == x).all() and "8 of 8 rows have no cell that can move" in run.notes[0]


def test_an_edit_budget_below_one_is_told() -> None:
    schema, x, y = tiny()
    _, _, x_adv, run = attack(LogisticRegression().fit(x, y), schema, x, y, Threat(norm="l0", radius=0.3))
    assert (x_adv == x).all() and "No edit fits a budget of 0.3" in run.notes[0]
