# SPDX-License-Identifier: Apache-2.0
"""Distillation: soft labels against formulas, students against exact answers, shadows that are distilled too."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import micro
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.tree import DecisionTreeClassifier

import casemate as cm
from casemate.core import rng
from casemate.core.errors import GuaranteeVoid, InvalidData, MissingCapability
from casemate.core.limited import Wrapper
from casemate.core.schema import Column, Schema
from casemate.core.types import LABELS, LOGITS, MODULE, REFIT, SCORES, TREES, Table
from casemate.training import soft_network, students
from casemate.training.distillation import Distilled, Student, soft_labels

X = np.random.default_rng(0).normal(size=(300, 3))
Y = (X[:, 0] - X[:, 1] + 0.5 * np.random.default_rng(1).normal(size=300) > 0).astype(int)
DATA = cm.Dataset(train=(X[:200], Y[:200]), holdout=(X[200:], Y[200:]))
TABLE = Schema(columns=tuple(Column(name=name, kind="real") for name in "abc"))


def teacher(data: cm.Dataset = DATA, model: Any = None) -> tuple[cm.Target, cm.Dataset]:
    model = LogisticRegression() if model is None else model
    return cm.wrap(model.fit(X[:200], Y[:200])).bind(data)


def distilled(data: cm.Dataset = DATA, model: Any = None, **params: Any) -> Distilled:
    made = cm.harden(teacher(data, model)[0], data, using=[cm.method("distil", **params)]).target
    assert isinstance(made, Distilled)
    return made


# ---------------------------------------------------------------------- soft labels and losses


def test_soft_labels_are_the_softmax_of_logits_over_the_temperature() -> None:
    bound, data = teacher()
    z = bound.model.decision_function(data.train.x) / 4  # type: ignore[attr-defined]
    np.testing.assert_allclose(soft_labels(bound, data.train.x, 4.0)[:, 1], 1 / (1 + np.exp(-z)), rtol=1e-12)
    black_box = bound.limited_to(SCORES)
    np.testing.assert_allclose(soft_labels(black_box, data.train.x, 1.0), bound.scores(data.train.x))
    capped = np.maximum(bound.scores(data.train.x), 1e-4) ** 0.25
    np.testing.assert_allclose(
        soft_labels(black_box, data.train.x, 4.0), capped / capped.sum(1, keepdims=True), rtol=1e-12
    )


def test_the_soft_loss_is_the_cross_entropy_times_the_square_of_the_temperature() -> None:
    draw = np.random.default_rng(2)
    z, soft = draw.normal(size=(5, 4)), draw.dirichlet(np.ones(4), size=5)
    for t in (1.0, 3.0):
        logs = z / t - np.log(np.exp(z / t).sum(1, keepdims=True))
        told = soft_network.SoftEntropy(t)(torch.from_numpy(z), torch.from_numpy(soft), None)
        assert float(told) == pytest.approx(-(soft * logs).sum(1).mean() * t**2, rel=1e-12)


def test_at_high_temperature_the_gradient_matches_logits() -> None:
    # Hinton et al. 2015, eq. 4: for logits of mean zero the gradient tends to (z - v) / N / T^2; T^2 is put back
    draw = np.random.default_rng(3)
    z, v = draw.normal(size=(2, 1, 5))
    z, v = z - z.mean(), v - v.mean()
    t = 1e4
    soft = np.exp(v / t) / np.exp(v / t).sum()
    raw = torch.tensor(z, requires_grad=True)
    soft_network.SoftEntropy(t)(raw, torch.from_numpy(soft), None).backward()
    np.testing.assert_allclose(raw.grad.numpy(), (z - v) / 5, rtol=1e-3)


# ---------------------------------------------------------------------- students


def test_a_leaf_answers_with_the_mean_soft_label_taken_back_to_temperature_one() -> None:
    x = np.arange(40.0)[:, None]
    soft = np.random.default_rng(4).dirichlet(np.ones(3), size=40)
    soft[:15] = soft[:15] / 10 + np.array([0.9, 0, 0])
    for power in (1.0, 3.0):
        made = students.fit("tree", TABLE_1, x, soft, depth=1, leaf=5, power=power, seed=0)
        cut = int(made.model.tree_.threshold[0] * made.columns.scale[0] + made.columns.centre[0] + 1)
        assert made.size() == (3, "tree nodes")
        for part in (slice(0, cut), slice(cut, 40)):
            mean = soft[part].mean(0) ** power
            np.testing.assert_allclose(
                made.scores(x[part]), np.tile(mean / mean.sum(), (len(x[part]), 1)), rtol=1e-9
            )


TABLE_1 = Schema(columns=(Column(name="a", kind="real"),))


def test_logistic_regression_minimises_the_soft_cross_entropy() -> None:
    soft = np.random.default_rng(5).dirichlet(np.ones(3), size=200)
    made = students.fit("logistic", TABLE, X[:200], soft, depth=1, leaf=1, power=1.0, seed=0)
    features = made.columns.read(X[:200])
    slope = (made.scores(X[:200]) - soft).T @ features + made.model.coef_  # penalty |w|^2 / 2
    assert np.abs(slope).max() < 0.02  # of sums over 200 rows
    assert np.abs((made.scores(X[:200]) - soft).sum(0)).max() < 0.02


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_linear_student_of_a_linear_teacher_finds_its_probabilities_at_any_temperature(
    temperature: float,
) -> None:
    made = distilled(student="logistic", temperature=temperature)
    apart = np.abs(made.scores(X) - teacher()[0].scores(X)).max()
    assert apart < 0.12  # the penalty on the student's weights; answers left at T = 4 are 0.3 apart
    assert (made.labels(X) == teacher()[0].labels(X)).mean() > 0.97


def test_leaves_hold_as_many_rows_as_asked_in_every_student_of_trees() -> None:
    soft = np.random.default_rng(6).dirichlet(np.ones(3), size=200)
    forest = students.fit("forest", TABLE, X[:200], soft, depth=1, leaf=20, power=1.0, seed=0)
    for tree in forest.model.estimators_:
        assert tree.tree_.n_node_samples[tree.tree_.children_left == -1].min() >= 20
    boosted = students.fit("boosting", TABLE, X[:200], soft, depth=1, leaf=20, power=1.0, seed=0)
    for stage in boosted.model._predictors:
        for grown in stage:
            assert grown.nodes["count"][grown.nodes["is_leaf"] == 1].min() >= 3 * 20


def test_both_ways_to_read_rows_agree_on_holes_and_categories() -> None:
    town = Column(name="t", kind="category", categories=("u", "v", "w"))
    schema = Schema(columns=(Column(name="a", kind="real"), town, Column(name="b", kind="real")))
    x = np.column_stack([X[:50, 0], np.arange(50) % 3, X[:50, 1]])
    x[::7, 2], x[::9, 1] = np.nan, np.nan
    columns = students.Columns.of(schema, x)
    read = columns.read(x)
    assert read.shape == (50, columns.width) == (50, 6)
    assert np.isfinite(read).all()
    assert read[:, 2].tolist() == np.isnan(x[:, 2]).tolist()
    assert read[:, 3:].sum(1).tolist() == (~np.isnan(x[:, 1])).tolist()
    there = soft_network._front(columns, x)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(there, read, rtol=1e-12)


CASES = (
    "forest",
    "pipeline",
    "polars_pipeline",
    "holes",
    "xgb_frame",
    "lgbm_frame",
    "torch_binary",
    "remote_scores",
)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["tree", "network"])
def test_teachers_of_every_framework(name: str, kind: str) -> None:
    target, data = micro.bound(name)
    made = cm.harden(target, data, using=[cm.method("distil", student=kind, leaf=5)]).target
    scores = made.scores(data.holdout.x)
    assert scores.shape == (len(data.holdout), len(data.classes))
    np.testing.assert_allclose(scores.sum(1), 1.0)
    assert np.array_equal(made.labels(data.holdout.x), scores.argmax(1))
    near = (made.labels(data.train.x) == target.labels(data.train.x)).mean()
    assert near >= 0.6  # of 60 rows, 2 or 3 classes: it learnt something
    assert made.has(REFIT) == target.has(REFIT)


@pytest.mark.parametrize("kind", students.KINDS)
def test_same_seed_same_bytes_and_it_survives_a_pickle(kind: str) -> None:
    first, second = (distilled(student=kind, leaf=10) for _ in range(2))
    assert first.digest() == second.digest()
    other = replace(first.student, leaf=50, depth=1).learn(first.base, X[:150], 9)
    assert other.digest() != first.digest()
    again = pickle.loads(pickle.dumps(first.fitted))
    np.testing.assert_array_equal(again.scores(X), first.scores(X))
    count, unit = first.fitted.size()
    assert count > 2 and unit in ("tree nodes", "parameters")


def test_images_and_a_module_of_the_users_own() -> None:
    class Local(torch.nn.Identity):
        """Does nothing."""

    target, data = micro.bound("torch_images")
    small = cm.harden(target, data, using=[cm.method("distil", student="network")]).target
    assert small.fitted.size() == (36 * 16 + 16 + 16 * 2 + 2, "parameters")  # type: ignore[attr-defined]
    recipe = cm.Recipe(factory=micro.image_net, epochs=3)
    change = cm.harden(target, data, using=[cm.method("distil", student="network", recipe=recipe)])
    assert change.params["distil"]["recipe"] == "of a torch module" and "torch module" in change.summary
    rows = torch.from_numpy(data.holdout.x)
    np.testing.assert_allclose(
        change.target.module()(rows).detach().numpy(),
        change.target.logits(data.holdout.x),
        rtol=1e-5,
        atol=1e-6,
    )
    unnamed = cm.Recipe(factory=lambda: torch.nn.Sequential(Local(), micro.image_net()), epochs=1)
    made = cm.harden(target, data, using=[cm.method("distil", student="network", recipe=unnamed)])
    assert "of the bytes" not in made.summary  # a class of this function has no name to pickle it by
    wrong = cm.Recipe(factory=partial(soft_network.perceptron, 3, 4, 5), epochs=1)
    with pytest.raises(InvalidData, match="must return 2 logits a row"):
        distilled(student="network", recipe=wrong)


# ---------------------------------------------------------------------- the target


def test_it_offers_what_the_student_has_and_no_more_than_was_allowed() -> None:
    assert distilled(student="tree").capabilities == {LABELS, SCORES, REFIT}
    assert distilled(student="logistic").capabilities == {LABELS, SCORES, LOGITS, REFIT}
    network = distilled(student="network", model=DecisionTreeClassifier(max_depth=3))
    assert network.capabilities == {LABELS, SCORES, LOGITS, MODULE, REFIT}
    view = teacher()[0].limited_to(LABELS, SCORES)
    shut = cm.harden(view, DATA, using=[cm.method("distil", student="network")]).target
    assert shut.capabilities == {LABELS, SCORES}
    for ask in (shut.module, partial(shut.logits, X), shut.trees, partial(shut.refit, X, Y, 0)):
        with pytest.raises(MissingCapability):
            ask()
    assert TREES not in distilled(student="tree").capabilities


def test_a_shadow_is_a_new_teacher_distilled_again() -> None:
    made = distilled(student="tree", depth=3, temperature=2.0)
    shadow = made.refit(X[:120], 1 - Y[:120], 5)
    expected = made.base.refit(X[:120], 1 - Y[:120], 5)
    again = made.student.learn(expected, X[:120], rng.child_seed(5, "student"))
    np.testing.assert_array_equal(shadow.scores(X), again.scores(X))
    owned = made.refit_people(X[:120], 1 - Y[:120], 5, person=np.arange(120) // 3)
    np.testing.assert_array_equal(owned.scores(X), again.scores(X))
    assert isinstance(shadow, Distilled) and (shadow.labels(X) != made.labels(X)).mean() > 0.8


def test_with_reference_rows_the_student_never_sees_the_training_rows() -> None:
    data = cm.Dataset(train=(X[:200], Y[:200]), holdout=(X[200:], Y[200:]), reference=(X[250:], Y[250:]))
    made = distilled(data, student="tree", leaf=5)
    by_hand = made.student.learn(made.base, X[250:], rng.child_seed(0, "distil", "student"))
    assert made.digest() == by_hand.digest()
    shadow = made.refit(X[:90], Y[:90], 3)
    assert shadow.fitted.model.tree_.n_node_samples[0] == 50  # type: ignore[attr-defined]
    assert distilled(student="tree").fitted.model.tree_.n_node_samples[0] == 200  # type: ignore[union-attr]


@dataclass(frozen=True)
class Stated:
    epsilon: float | None


def test_a_guarantee_is_kept_on_public_rows_and_void_on_private_ones() -> None:
    plan, certificate = Stated(3.0), Stated(None)
    bound = replace(teacher()[0], claims=(plan, certificate))
    with pytest.raises(GuaranteeVoid, match="reference"):
        cm.harden(bound, DATA, using=["distil"])
    public = cm.Dataset(train=(X[:200], Y[:200]), holdout=(X[200:], Y[200:]), reference=(X[200:], Y[200:]))
    made = cm.harden(bound, public, using=["distil"]).target
    assert made.claims == (plan,)
    assert made.bind(public)[0].claims == (plan,)
    assert made.refit(X, Y, 0).claims == ()
    assert distilled().claims == ()


def test_reference_rows_that_are_rows_of_train_are_not_public() -> None:
    bound = replace(teacher()[0], claims=(Stated(3.0),))
    same = cm.Dataset(
        train=(X[:200], Y[:200]), holdout=(X[200:], Y[200:]), reference=(X[150:250], Y[150:250])
    )
    with pytest.raises(GuaranteeVoid, match="50 reference rows stand in train"):
        cm.harden(bound, same, using=["distil"])
    # other labels and other owners make them no more public
    own = np.arange(len(X))
    renamed = cm.Dataset(
        train=(X[:200], Y[:200], own[:200]),
        holdout=(X[200:], Y[200:], own[200:]),
        reference=(X[:200], 1 - Y[:200], own[:200] + 1000),
    )
    with pytest.raises(GuaranteeVoid, match="200 reference rows stand in train"):
        cm.harden(bound, renamed, using=["distil"])
    # few values: rows repeat by chance, on both sides alike
    coarse = (X[:, :1] > X[:, :1].mean()).astype(float)
    fitted = cm.wrap(DecisionTreeClassifier(max_depth=2).fit(coarse[:200], Y[:200]))
    often = cm.Dataset(
        *((coarse[part], Y[part]) for part in (slice(200), slice(200, 250))),
        reference=(coarse[250:], Y[250:]),
    )
    assert cm.harden(replace(fitted, claims=(Stated(3.0),)), often, using=["distil"]).target.claims


def test_categories_read_off_the_data_are_not_shown_beside_a_guarantee() -> None:
    frame = pd.DataFrame({"town": np.array(["u", "v"])[Y], "age": X[:, 0]})
    model = make_pipeline(
        make_column_transformer((OneHotEncoder(), ["town"]), remainder="passthrough"), LogisticRegression()
    ).fit(frame, Y)
    bound = replace(cm.wrap(model), claims=(Stated(3.0),))
    parts = {"train": (frame[:200], Y[:200]), "holdout": (frame[200:250], Y[200:250])}
    data = cm.Dataset(**parts, reference=(frame[250:], Y[250:]))
    with pytest.raises(GuaranteeVoid, match="categories of 'town' were read off the data"):
        cm.harden(bound, data, using=["distil"])


def test_reference_rows_of_people_in_train_are_told() -> None:
    people = np.arange(len(X)) // 2
    data = cm.Dataset(
        train=(X[:200], Y[:200], people[:200]),
        holdout=(X[200:250], Y[200:250], people[200:250]),
        reference=(X[250:], Y[250:], np.r_[people[:10], people[260:]]),
    )
    made = cm.harden(teacher()[0], data, using=["distil"])
    assert any("5 people who are in train as well" in getattr(piece, "text", "") for piece in made.evidence)


def test_categories_numbered_otherwise_in_other_data_are_read_as_before() -> None:
    town = np.array(["u", "v", "w"])[np.arange(120) % 3]
    frame = pd.DataFrame({"town": town, "age": X[:120, 0]})
    label = np.where(town == "v", 1, 0)
    columns = make_column_transformer((OneHotEncoder(), ["town"]), remainder="passthrough")
    model = make_pipeline(columns, LogisticRegression())
    data = cm.Dataset(train=(frame[:60], label[:60]), holdout=(frame[60:], label[60:]))
    made = cm.harden(model.fit(frame, label), data, using=[cm.method("distil", leaf=5)]).target
    few = town != "u"  # so that v and w are the first two towns there
    parts = ((frame[side][few[side]], label[side][few[side]]) for side in (slice(60), slice(60, None)))
    there, coded = made.bind(cm.Dataset(*parts))
    expected = made.scores(data.holdout.x[few[60:]])
    assert len(np.unique(expected[:, 1].round(2))) > 1  # or this shows nothing
    np.testing.assert_array_equal(there.scores(coded.holdout.x), expected)


def test_evidence_is_what_can_be_counted() -> None:
    tree = DecisionTreeClassifier(max_depth=2, random_state=0).fit(X[:200], Y[:200])
    change = cm.harden(tree, DATA, using=[cm.method("distil", depth=5, leaf=1)])
    fidelity, size = (piece for piece in change.evidence if isinstance(piece, Table))
    same = (change.target.labels(X[200:]) == tree.predict(X[200:])).mean()
    assert fidelity.rows[0][1] == same >= 0.98
    assert fidelity.rows[0][2] <= same <= fidelity.rows[0][3]  # type: ignore[operator]
    assert size.rows[0][1] == len(pickle.dumps(tree, protocol=5))
    assert size.rows[1][1] == f"{tree.tree_.node_count} tree nodes"
    apart = np.abs(change.target.scores(X[200:]) - tree.predict_proba(X[200:]))[:, 1].mean()
    assert fidelity.rows[1][1] == pytest.approx(apart)
    assert {row.quantity for row in change.after} == {row.quantity for row in change.before}


def test_an_audit_attacks_the_student() -> None:
    rough = cm.harden(DecisionTreeClassifier(random_state=0).fit(X[:200], Y[:200]), DATA,
                      using=[cm.method("distil", student="tree", depth=2)])  # fmt: skip
    report = cm.audit(rough.target, DATA, methods=["lira", "loss_attack"], effort="quick")
    assert [ran["status"] for ran in report.methods] == ["ok", "ok"]
    assert report.target["kind"] == "scikit-learn" and isinstance(rough.target, Wrapper)
    assert report["utility", "accuracy_train"].value < 0.99  # type: ignore[operator]


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"student": "oak"}, "no student 'oak'"),
        ({"temperature": 0}, "temperature is 0"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"depth": 0}, "depth is 0"),
        ({"leaf": 0}, "leaf is 0"),
        ({"leaf": 150}, "no tree could split"),
        ({"recipe": cm.Recipe(factory=list)}, "student='network'"),
    ],
)
def test_wrong_parameters_are_told(params: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidData, match=told):
        distilled(**params)


def test_no_student_changes_nothing() -> None:
    change = cm.harden(teacher()[0], DATA, using=[cm.method("distil", student="none")])
    np.testing.assert_array_equal(change.target.scores(X), teacher()[0].scores(X))
    assert Student(kind="tree", temperature=1.0, depth=1, leaf=1).recipe is None
