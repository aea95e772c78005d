# SPDX-License-Identifier: Apache-2.0
"""Stealing: exact extraction against known weights, fidelity that is not accuracy, an honest baseline and account."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

import casemate as cm
from casemate.confidentiality import extraction
from casemate.confidentiality.methods.steal import _sides, steal
from casemate.confidentiality.surrogates import Learners, _network, _softmax
from casemate.core.errors import InvalidData
from casemate.core.limited import limit
from casemate.core.methods import find
from casemate.core.run import Run
from casemate.core.schema import Column, Relation, Schema, violations
from casemate.core.types import LABELS, SCORES, Counter, Curve, Measurement, PerRecord, Table, Threat

X, Y = load_digits(return_X_y=True)


def measured(
    target: Any, data: cm.Dataset, *, n_queries: int | None = None, **params: Any
) -> dict[str, Measurement]:
    """Run it at quick effort through the harness."""
    threat = Threat(n_queries=n_queries) if n_queries else None
    spec = cm.method("steal", **{"max_queries": 120, "points": 2, **params})
    report = cm.audit(target, data, methods=[spec], threat=threat, effort="quick")
    assert report.methods[0]["status"] == "ok", report.methods[0]["reason"]
    return {row.quantity: row for row in report["steal"]}


def theft(rows: dict[str, Measurement]) -> dict[Any, Any]:
    return dict(next(piece for piece in rows["fidelity"].details if isinstance(piece, Table)).rows)


def digits_data() -> cm.Dataset:
    parts = {"train": (X[:600], Y[:600]), "holdout": (X[600:], Y[600:])}
    schema = cm.Dataset(**parts).schema.with_columns({f"x{i}": {"low": 0.0, "high": 16.0} for i in range(64)})
    return cm.Dataset(**parts, schema=schema)


def test_a_softmax_of_64_pixels_is_solved_with_65_queries() -> None:
    data, model = digits_data(), LogisticRegression(max_iter=3000).fit(X[:600], Y[:600])
    rows = measured(model, data, points=1)
    assert theft(rows)["rows queried"] == theft(rows)["of them to solve equations"] == 65
    assert rows["extraction_error"].value <= 1e-10
    assert rows["fidelity"].value == 1.0 and theft(rows)["the copy comes from"] == "equations"
    target, bound = cm.wrap(model).bind(data)
    copy = extraction.solve(target.scores, bound.schema, bound.holdout.x)
    fresh = np.random.default_rng(0).uniform(0, 16, (2000, 64))
    assert copy.n_queries == 65
    assert np.abs(copy.scores(fresh) - model.predict_proba(fresh)).max() <= 1e-10
    # the weights themselves, up to what a softmax does not show: a number common to all classes
    steps = np.array([term.values[0] - copy.expansion.base[term.columns[0]] for term in copy.expansion.terms])
    weights = copy.weights / steps[:, None]  # (64, 10)
    true = model.coef_.T
    np.testing.assert_allclose(
        weights - weights.mean(1, keepdims=True), true - true.mean(1, keepdims=True), atol=1e-12
    )


def people(n: int, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    draw = np.random.default_rng(seed)
    income = draw.gamma(2, 900, n)
    town = draw.choice(["Bern", "Genf", "Zug"], n)
    frame = pd.DataFrame(
        {
            "age": draw.integers(18, 90, n),
            "income": np.where(draw.random(n) < 0.2, np.nan, income),
            "town": np.where(draw.random(n) < 0.1, None, town),
            "smokes": draw.random(n) < 0.3,
        }
    )
    return frame, np.where(frame["age"] + 20 * frame["smokes"] + draw.normal(0, 9, n) > 60, "yes", "no")


def test_a_pipeline_on_a_frame_with_categories_and_holes_is_solved() -> None:
    train, holdout = people(300, 0), people(300, 1)
    columns = make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), ["age", "income"]),
        (OneHotEncoder(handle_unknown="ignore"), ["town", "smokes"]),
    )
    model = make_pipeline(columns, LogisticRegression()).fit(*train)
    rows = measured(model, cm.Dataset(train=train, holdout=holdout))
    # bias, age, income and its hole, two further towns and the hole, smoking
    assert theft(rows)["of them to solve equations"] == 8
    assert rows["extraction_error"].value <= 1e-12
    assert "extracted exactly with 8 queries" in rows["extraction_error"].details[0].text


def test_every_query_is_a_row_that_could_be() -> None:
    draw = np.random.default_rng(0)
    rows = np.column_stack(
        [
            draw.integers(0, 7, 50),
            draw.uniform(-1, 2, 50),
            draw.integers(0, 3, 50),
            *np.eye(3)[draw.integers(0, 3, 50)].T,
        ]
    )
    rows[::9, 1] = np.nan
    schema = Schema(
        columns=(
            Column(name="n", kind="integer", low=0, high=6),
            Column(name="r", kind="real", low=-1, high=2, missing="nan"),
            Column(name="c", kind="category", categories=("a", "b", "c")),
            *(Column(name=f"g{i}", kind="integer", low=0, high=1) for i in range(3)),
        ),
        groups=(("g0", "g1", "g2"),),
    )
    plan = extraction.expansion(schema, rows)
    assert plan is not None
    queries = plan.queries()
    base = np.repeat(plan.base[None], len(queries), axis=0)
    broken = violations(base, queries, Threat(norm="l0", radius=6, scale="raw"), schema)
    broken.pop("missing")  # a hole is where the column may have one: only r
    assert not any(mask.any() for mask in broken.values())
    assert np.isnan(queries).sum(0).tolist() == [0, 1, 0, 0, 0, 0]
    assert [term.kind for term in plan.terms] == [
        "number",
        "number",
        "hole",
        "level",
        "level",
        "member",
        "member",
    ]
    np.testing.assert_allclose(plan.read(queries), np.eye(7), atol=1e-15)
    assert (plan.read(plan.base[None]) == 0).all()


def test_relations_bend_the_queries_or_forbid_them() -> None:
    draw = np.random.default_rng(0)
    owed = draw.uniform(1, 10, 40)
    rows = np.column_stack([owed * draw.uniform(0, 1, 40), owed])
    columns = (
        Column(name="paid", kind="real", low=0, high=10),
        Column(name="owed", kind="real", low=1, high=10),
    )
    schema = Schema(columns=columns, relations=(Relation(left=("paid",), op="<=", right=("owed",)),))
    plan = extraction.expansion(schema, rows)
    assert plan is not None and (plan.queries()[:, 0] <= plan.queries()[:, 1]).all()
    equal = Schema(columns=columns, relations=(Relation(left=("paid",), op="==", right=("owed",)),))
    assert extraction.expansion(equal, rows) is None
    assert "relations" in str(extraction.solve(lambda x: x, equal, rows))


def test_one_hot_columns_are_switched_together() -> None:
    draw = np.random.default_rng(1)
    group = np.eye(4)[draw.integers(0, 4, 200)]
    rows = np.column_stack([draw.normal(size=200), group])
    model = LogisticRegression(C=0.5).fit(rows, (rows[:, 0] + group @ [0, 1, -1, 2] > 0.3).astype(int))
    schema = Schema.infer(rows)
    schema = Schema(columns=schema.columns, groups=(("x1", "x2", "x3", "x4"),), template=schema.template)

    def ask(x: np.ndarray) -> np.ndarray:
        assert (x[:, 1:].sum(1) == 1).all()
        return np.asarray(model.predict_proba(x))

    copy = extraction.solve(ask, schema, rows)
    assert copy.n_queries == 5
    assert np.abs(copy.scores(rows) - model.predict_proba(rows)).max() < 1e-12


def test_where_the_model_is_sure_shorter_steps_are_asked() -> None:
    weights = np.array([300.0, -80.0, 7.0])  # the ends of the columns answer 0 and 1 and nothing else

    def ask(x: np.ndarray) -> np.ndarray:
        p = 1 / (1 + np.exp(-(x @ weights + 2)))
        return np.stack([1 - p, p], axis=1)

    rows = np.random.default_rng(0).uniform(-1, 1, (400, 3))
    copy = extraction.solve(ask, Schema.infer(rows), rows)
    assert copy.n_queries > 4
    assert np.abs(copy.scores(rows) - ask(rows)).max() < 1e-9
    assert isinstance(extraction.solve(ask, Schema.infer(rows), rows, budget=3), str)


def test_a_class_that_is_never_answered_does_not_stop_it() -> None:
    def ask(x: np.ndarray) -> np.ndarray:
        p = 1 / (1 + np.exp(-x[:, 0]))
        return np.stack([1 - p, np.zeros(len(x)), p], axis=1)

    rows = np.random.default_rng(0).uniform(-2, 2, (30, 1))
    copy = extraction.solve(ask, Schema.infer(rows), rows)
    np.testing.assert_allclose(copy.scores(rows), ask(rows), atol=1e-12)


def test_rounding_stops_the_equations_but_not_the_learning() -> None:
    data, model = digits_data(), LogisticRegression(max_iter=3000).fit(X[:600], Y[:600])
    change = cm.harden(model, data, using=[cm.method("rounding", digits=2)])
    rows = measured(change.target, data, max_queries=190, points=1)
    assert rows["extraction_error"].value is None or rows["extraction_error"].value > 1e-3
    assert theft(rows)["the copy comes from"] != "equations"
    assert rows["fidelity"].low > 0.85
    assert rows["fidelity"].value < 1.0


def test_a_tree_is_not_called_linear() -> None:
    model = DecisionTreeClassifier(max_depth=4, min_samples_leaf=30, random_state=0).fit(X[:600], Y[:600] % 2)
    data = cm.Dataset(train=(X[:600], Y[:600] % 2), holdout=(X[600:], Y[600:] % 2))
    rows = measured(model, data, points=1)
    assert rows["extraction_error"].value is None or rows["extraction_error"].value > 0.1
    assert theft(rows)["the copy comes from"] != "equations"


def test_images_are_solved_pixel_by_pixel() -> None:
    import torch

    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3, device="cpu")).double()
    x = np.random.default_rng(0).uniform(0, 1, (60, 1, 4, 4))
    y = np.arange(60) % 3
    rows = measured(
        cm.wrap(net, outputs="logits"), cm.Dataset(train=(x[:30], y[:30]), holdout=(x[30:], y[30:]))
    )
    assert theft(rows)["of them to solve equations"] == 17
    assert rows["extraction_error"].value <= 1e-12


def test_fidelity_is_agreement_not_accuracy() -> None:
    """A target that is wrong everywhere: what copies it is faithful, what learnt from true labels is not."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(600, 4))
    y = (x[:, 0] > 0).astype(int)
    wrong = GaussianNB().fit(x[:300], 1 - y[:300])
    rows = measured(wrong, cm.Dataset(train=(x[:300], y[:300]), holdout=(x[300:], y[300:])), exact=False)
    assert rows["fidelity"].value > 0.9
    assert rows["fidelity_data_only"].value < 0.1
    assert rows["fidelity_gain"].low > 0.7
    gain = rows["fidelity"].value - rows["fidelity_data_only"].value
    assert rows["fidelity_gain"].value == pytest.approx(
        gain, abs=0.03
    )  # one row gained and one lost are added


def noisy(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n, 4))
    return x, ((x[:, 0] > 0) ^ (draw.random(n) < 0.2)).astype(int)


TRAIN, HOLD = noisy(200, 1), noisy(200, 2)
DATA = cm.Dataset(train=TRAIN, holdout=HOLD)
FOREST = RandomForestClassifier(10, random_state=0).fit(*TRAIN)


class Watched:
    """A predict function that keeps every row it was asked."""

    def __init__(self, model: Any) -> None:
        self.model, self.asked = model, []

    def __call__(self, x: Any) -> np.ndarray:
        self.asked.append(np.asarray(x))
        return np.asarray(self.model.predict_proba(x))


def test_no_training_row_is_asked_and_the_account_is_right() -> None:
    watched = Watched(FOREST)
    target, data = cm.wrap(watched, classes=[0, 1]).bind(DATA)
    counter = Counter()
    view = limit(target, frozenset({LABELS, SCORES}), counter=counter)
    watched.asked.clear()
    rows = find("steal").function(
        view, data, exact=False, points=2, run=Run(card=find("steal").card, counter=counter)
    )
    asked = {row.tobytes() for part in watched.asked for row in part}
    assert not asked & {row.tobytes() for row in np.asarray(TRAIN[0])}
    table = theft({row.quantity: row for row in rows})
    assert table["rows queried"] == counter.tally["rows"] == len(HOLD[0]) - rows[0].n
    assert asked == {row.tobytes() for row in np.asarray(HOLD[0])}  # the other half by the auditor alone


def test_the_budget_bounds_all_queries() -> None:
    rows = measured(FOREST, DATA, n_queries=40)
    assert theft(rows)["rows queried"] == 40
    curve = next(piece for piece in rows["fidelity"].details if isinstance(piece, Curve))
    assert curve.name == "fidelity by queries"
    assert max(curve.x) == 40 - theft(rows)["of them to solve equations"]
    few = measured(FOREST, DATA, n_queries=6)
    assert few["fidelity"].status == "not_measured" and "raise Threat" in few["fidelity"].reason
    assert theft(measured(FOREST, DATA, n_queries=12, exact=False))["rows queried"] == 12


def test_the_curve_ends_at_the_fidelity_and_has_a_band() -> None:
    rows = measured(FOREST, DATA)
    curves = [piece for piece in rows["fidelity"].details if isinstance(piece, Curve)]
    assert [curve.name for curve in curves] == ["fidelity by queries", "fidelity by rows, data only"]
    for curve, row in zip(curves, (rows["fidelity"], rows["fidelity_data_only"]), strict=True):
        assert (curve.y[-1], curve.low[-1], curve.high[-1]) == (row.value, row.low, row.high)
        assert list(curve.x) == sorted(curve.x)
        assert all(low <= y <= high for low, y, high in zip(curve.low, curve.y, curve.high, strict=True))


def test_people_stand_on_one_side_and_count_as_one() -> None:
    owner = np.repeat(np.arange(50), 4)
    data = cm.Dataset(train=(*TRAIN, owner + 100), holdout=(*HOLD, owner))
    _, bound = cm.wrap(FOREST).bind(data)
    owned, kept, _ = _sides(bound, Run(card=find("steal").card))
    assert not np.intersect1d(owned.person, kept.person).size
    assert len(owned) + len(kept) == 200
    rows = measured(FOREST, data, points=1)
    kept_ids = next(piece for piece in rows["fidelity"].details if isinstance(piece, PerRecord))
    assert len(set(kept_ids.clusters)) == len(kept_ids.ids) / 4
    assert sum(kept_ids.values) / len(kept_ids.values) == pytest.approx(rows["fidelity"].value)


@pytest.mark.parametrize("bend", ["owned", "kept"])
def test_the_rows_to_compare_on_do_not_choose_the_copy(bend: str) -> None:
    """A linear model but for the rows of one side: only the attacker's own tell the attacker that it is not linear."""
    x = np.random.default_rng(0).normal(size=(400, 3))
    y = (x[:, 0] > 0).astype(int)
    data = cm.Dataset(
        train=(x[:200], y[:200]), holdout=(x[200:300], y[200:300]), reference=(x[300:], y[300:])
    )
    odd = {row.tobytes() for row in (x[300:] if bend == "owned" else x[200:300])}

    def scores(rows: np.ndarray) -> np.ndarray:
        p = 1 / (1 + np.exp(-rows[:, 0]))
        p = np.where([row.tobytes() in odd for row in np.ascontiguousarray(rows)], 1 - p, p)
        return np.column_stack([1 - p, p])

    rows = measured(cm.wrap(scores, classes=[0, 1]), data, points=1)
    solved = theft(rows)["the copy comes from"] == "equations"
    assert solved == (bend == "kept")
    text = rows["extraction_error"].details[0].text
    if solved:
        assert rows["fidelity"].value == 0.0 and rows["extraction_error"].value > 0.5
        assert "differs by up to" in text and "held-out" in text
    else:
        assert "not extracted" in text and rows["extraction_error"].value < 1e-9


def test_a_label_that_is_not_the_largest_score_is_learnt_from_the_labels() -> None:
    """A linear model with its threshold at 5 %: solved scores alone would agree on the few rows beyond 50 %."""
    x = np.random.default_rng(0).normal(size=(400, 3))
    y = (x[:, 0] > 1).astype(int)
    model = FixedThresholdClassifier(LogisticRegression(), threshold=0.05).fit(x[:200], y[:200])
    rows = measured(model, cm.Dataset(train=(x[:200], y[:200]), holdout=(x[200:], y[200:])), max_queries=60)
    assert rows["extraction_error"].value <= 1e-9
    assert "not the largest score" in rows["extraction_error"].details[0].text
    assert theft(rows)["rows queried"] == 60 + theft(rows)["of them to solve equations"]
    argmax = (model.predict_proba(x[200:])[:, 1] > 0.5) == model.predict(x[200:])
    assert rows["fidelity"].low > argmax.mean() + 0.05


def test_reference_rows_are_the_attackers_but_never_training_rows() -> None:
    extra = noisy(90, 3)
    x, y = np.concatenate([extra[0], TRAIN[0][:20]]), np.concatenate([extra[1], TRAIN[1][:20]])
    _, data = cm.wrap(FOREST).bind(cm.Dataset(train=TRAIN, holdout=HOLD, reference=(x, y)))
    owned, kept, whose = _sides(data, Run(card=find("steal").card))
    assert (len(owned), len(kept), whose) == (90, 200, "90 reference rows")
    people = {"train": (*TRAIN, np.arange(200)), "holdout": (*HOLD, np.arange(200, 400))}
    _, data = cm.wrap(FOREST).bind(cm.Dataset(**people, reference=(x, y, np.arange(395, 505))))
    owned, _, _ = _sides(data, Run(card=find("steal").card))
    assert len(owned) == 85
    _, data = cm.wrap(FOREST).bind(cm.Dataset(train=TRAIN, holdout=HOLD, reference=TRAIN))
    with pytest.raises(InvalidData, match="all reference rows"):
        _sides(data, Run(card=find("steal").card))
    # rows to compare on may not be learnt from either: a model that remembers them would look like a copy
    _, data = cm.wrap(FOREST).bind(cm.Dataset(train=TRAIN, holdout=HOLD, reference=HOLD))
    with pytest.raises(InvalidData, match="all reference rows"):
        _sides(data, Run(card=find("steal").card))


def test_labels_only_targets_are_copied_by_their_labels() -> None:
    target = cm.wrap(FOREST.predict, outputs="labels", classes=[0, 1])
    rows = measured(target, DATA, points=1)
    assert rows["extraction_error"].status == "not_measured"
    assert "labels only" in rows["extraction_error"].reason
    assert 0.5 < rows["fidelity"].value <= 1
    assert theft(rows)["rows queried"] == 200 - rows["fidelity"].n


def test_the_choice_of_learner_never_sees_the_rows_it_is_judged_on() -> None:
    """The learner is chosen on the asked rows alone: other rows to judge on give the same learner."""
    _, data = cm.wrap(FOREST).bind(DATA)
    run = Run(card=find("steal").card)
    owned, kept, _ = _sides(data, run)
    soft = np.eye(2)[owned.y]
    chosen = []
    for judged in (kept, kept.take(np.arange(3))):
        learners = Learners.of(data.schema, owned, judged, run)
        taught = {"labels": soft}
        chosen.append(learners.best(taught, learners.tried(taught), owned.y).learner)
    assert chosen[0] == chosen[1]


def test_learners_take_soft_labels() -> None:
    """Soft labels of a known softmax: the linear fit finds its weights; hard ones would not show them."""
    draw = np.random.default_rng(0)
    x, weights = draw.normal(size=(500, 3)), np.array([[1.0, -1.0], [0.5, 0.0], [0.0, 0.3]])
    odds = np.exp(x @ weights)
    soft = odds / odds.sum(1, keepdims=True)
    fresh = draw.normal(size=(200, 3))
    wanted = np.exp(fresh @ weights)
    wanted /= wanted.sum(1, keepdims=True)
    assert np.abs(_softmax(x, soft, 1e-6)(fresh) - wanted).max() < 1e-3
    assert np.abs(_network(x, soft, 0)(fresh) - wanted).max() < 0.1


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(InvalidData, match="max_queries >= 1"):
        steal(cm.wrap(FOREST), DATA, max_queries=0)
    tiny = cm.Dataset(train=TRAIN, holdout=(HOLD[0][:3], HOLD[1][:3]))
    with pytest.raises(InvalidData, match="at least 4 held-out rows"):
        steal(cm.wrap(FOREST), tiny)
