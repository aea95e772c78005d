# SPDX-License-Identifier: Apache-2.0
"""Calibration: maps against scikit-learn's and known answers, rows that the model did not see, calibrated shadows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import micro
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeClassifier

import casemate as cm
from casemate.core.data import Split
from casemate.core.errors import GuaranteeVoid, InvalidData, MissingCapability
from casemate.core.types import LABELS, LOGITS, MODULE, REFIT, SCORES, Table
from casemate.privacy import calibration
from casemate.privacy.calibrated import Calibrated, _places
from casemate.training.distillation import log_scores

DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(400, 4))
X[:, 1:] = X[:, :1] + 0.3 * X[:, 1:]  # naive Bayes counts one fact four times and is too sure
Y = (X[:, 0] + DRAW.normal(size=400) > 0).astype(int)
DATA = cm.Dataset(train=(X[:240], Y[:240]), holdout=(X[240:], Y[240:]))
HOWS = calibration.HOWS


def calibrated(data: cm.Dataset = DATA, model: Any = None, **params: Any) -> Calibrated:
    model = GaussianNB() if model is None else model
    n = len(data.train)
    made = cm.harden(
        model.fit(data.train.x, data.train.y), data, using=[cm.method("calibrate", **params)]
    ).target
    assert isinstance(made, Calibrated) and n == len(data.train)
    return made


# ---------------------------------------------------------------------- maps


def test_temperature_is_the_best_one() -> None:
    # logits 3 u where u are the true ones: the likelihood has its maximum near 1/3, and falls to both sides
    z = np.column_stack([np.zeros(4000), DRAW.normal(size=4000)])
    y = (DRAW.random(4000) < 1 / (1 + np.exp(-z[:, 1]))).astype(int)
    (factor,) = calibration.fit("temperature", 3 * z, y).parts[0]
    assert factor == pytest.approx(1 / 3, abs=0.09)  # five standard errors

    def loss(b: float) -> float:
        return log_loss(y, 1 / (1 + np.exp(-3 * b * z[:, 1])))

    assert loss(factor) < min(loss(factor * 1.01), loss(factor / 1.01))


def test_platt_and_isotonic_are_those_of_scikit_learn() -> None:
    model = LogisticRegression(C=1e-3).fit(X[:100], Y[:100])
    z = np.column_stack([np.zeros(400), model.decision_function(X)])
    for how, name in (("platt", "sigmoid"), ("isotonic", "isotonic")):
        peer = CalibratedClassifierCV(FrozenEstimator(model), method=name, ensemble=False)
        theirs = peer.fit(X[100:], Y[100:]).predict_proba(X)
        if how == "isotonic":
            theirs = np.clip(theirs, 1 / 302, 301 / 302)
        ours = calibration.fit(how, z[100:], Y[100:])(z)  # type: ignore[arg-type]
        np.testing.assert_allclose(ours, theirs, atol=2e-4)


def test_three_classes_are_fitted_one_by_one_and_sum_to_one() -> None:
    z = DRAW.normal(size=(500, 3)) * 3
    y = DRAW.integers(0, 3, 500)
    odds = calibration.log_odds(z)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    np.testing.assert_allclose(odds, np.log(p / (1 - p)), atol=1e-9)
    for how in HOWS:
        scores = calibration.fit(how, z, y)(z)
        np.testing.assert_allclose(scores.sum(1), 1.0)
        assert np.abs(scores - 1 / 3).mean() < 0.1  # labels without a cause: nobody can be sure
        assert np.abs(p - 1 / 3).mean() > 0.3


@settings(deadline=None, max_examples=30)
@given(some.integers(0, 2**32 - 1), some.sampled_from(HOWS), some.floats(0.1, 1000.0))
def test_no_row_overtakes_another_and_nothing_is_lost_to_infinity(seed: int, how: Any, scale: float) -> None:
    draw = np.random.default_rng(seed)
    z = np.column_stack([np.zeros(60), scale * draw.normal(size=60)])
    z[0, 0] = -np.inf  # a class that is ruled out
    y = draw.integers(0, 2, 60)
    scores = calibration.fit(how, z, y)(z)
    assert np.isfinite(scores).all() and (scores >= 0).all()
    assert (np.diff(scores[np.argsort(z[:, 1] - z[:, 0]), 1]) >= -1e-12).all()
    if how == "isotonic":
        assert scores.min() >= 1 / 62 - 1e-12


def test_the_error_is_the_gap_in_groups_of_equal_size() -> None:
    confidence = np.repeat([0.6, 0.9], 300)
    right = np.concatenate([np.arange(300) % 10 < 6, np.arange(300) % 10 < 7])
    mixed = DRAW.permutation(600)
    error = calibration.calibration_error(confidence[mixed], right[mixed])
    assert 0.1 <= error < 0.15  # 0.2 in half of the rows, and the noise of 40 rows a group
    assert calibration.calibration_error(np.array([0.5]), np.array([1.0])) == 0.5


# ---------------------------------------------------------------------- rows


def test_rows_are_scored_by_models_that_did_not_see_them() -> None:
    # a tree that knows its rows by heart, labels without a cause: its own rows would make it surer still
    y = DRAW.integers(0, 2, 400)
    data = cm.Dataset(train=(X[:240], y[:240]), holdout=(X[240:], y[240:]))
    for params in ({}, {"share": 0.3}):
        made = calibrated(data, DecisionTreeClassifier(random_state=0), **params)
        assert made.mapping.parts[0][0] < 0.15
        assert np.abs(made.scores(X) - 0.5).max() < 0.35


def test_rows_of_one_person_stay_together() -> None:
    y, person = np.repeat(DRAW.integers(0, 2, 60), 4), np.repeat(np.arange(60), 4)
    x = np.repeat(X[:60], 4, axis=0)
    holdout = (X[240:], Y[240:], 1000 + np.arange(160))
    together = cm.Dataset(train=(x, y, person), holdout=holdout)
    alone = cm.Dataset(train=(x, y), holdout=holdout[:2])
    factors = [
        calibrated(data, DecisionTreeClassifier(random_state=0)).mapping.parts[0][0]
        for data in (together, alone)
    ]
    assert factors[0] < 0.15 and factors[1] > 0.3  # taken apart, every row has its twin in the other parts
    place = _places(Split(x, y, person), 3)
    assert len(np.unique(place)) == 60 and all(len(np.unique(place[person == p])) == 1 for p in range(60))


def test_parts_hold_every_class_evenly() -> None:
    y = np.array([0] * 90 + [1] * 9)
    part = (_places(Split(np.zeros((99, 1)), y), 0) * 3).astype(int)
    assert np.bincount(part[y == 0]).tolist() == [30, 30, 30]
    assert np.bincount(part[y == 1]).tolist() == [3, 3, 3]


@pytest.mark.parametrize("how", HOWS)
def test_held_out_rows_have_no_say(how: str) -> None:
    other = cm.Dataset(train=(X[:240], Y[:240]), holdout=(X[240:], 1 - Y[240:]))
    one, two = calibrated(DATA, how=how).mapping, calibrated(other, how=how).mapping
    assert [part.tobytes() for part in one.parts] == [part.tobytes() for part in two.parts]


def test_reference_rows_fit_the_map_of_the_model_as_it_is() -> None:
    data = cm.Dataset(train=(X[:240], Y[:240]), holdout=(X[240:], Y[240:]), reference=(X[300:], Y[300:]))
    made = calibrated(data, how="platt")
    expected = calibration.fit("platt", log_scores(made.base, X[300:]), Y[300:])
    np.testing.assert_array_equal(made.mapping.parts[0], expected.parts[0])


def test_a_share_held_back_is_not_trained_on() -> None:
    made = calibrated(DATA, DecisionTreeClassifier(max_depth=2, random_state=0), share=0.25)
    assert abs(made.base.model.tree_.n_node_samples[0] - 180) <= 2  # type: ignore[attr-defined]
    person = np.repeat(np.arange(20), 5)
    for shadow in (made.refit(X[:100], Y[:100], 4), made.refit_people(X[:100], Y[:100], 4, person=person)):
        assert abs(shadow.base.model.tree_.n_node_samples[0] - 75) <= 2  # type: ignore[attr-defined]


# ---------------------------------------------------------------------- the target


@pytest.mark.parametrize("how", HOWS)
def test_shadows_go_through_the_same_map(how: str) -> None:
    made = calibrated(how=how)
    shadow = made.refit(X[:150], Y[:150], 6)
    fresh = made.base.refit(X[:150], Y[:150], 6)
    assert shadow.digest() != made.digest()
    np.testing.assert_array_equal(shadow.scores(X), made.mapping(log_scores(fresh, X)))


@pytest.mark.parametrize("name", ["forest", "pipeline", "xgb_frame", "lgbm_frame", "torch_dropout", "holes"])
@pytest.mark.parametrize("how", ["temperature", "isotonic"])
def test_models_of_every_framework(name: str, how: str) -> None:
    target, data = micro.bound(name)
    made = cm.harden(target, data, using=[cm.method("calibrate", how=how, folds=2)]).target
    x = data.holdout.x
    np.testing.assert_allclose(made.scores(x).sum(1), 1.0)
    if how == "temperature":
        np.testing.assert_array_equal(made.labels(x), target.labels(x))
        assert made.has(LOGITS) == target.has(LOGITS) and made.has(MODULE) == target.has(MODULE)
    else:
        assert made.capabilities == {LABELS, SCORES, REFIT}
        with pytest.raises(MissingCapability):
            made.logits(x)
        with pytest.raises(MissingCapability):
            made.module()
    assert made.digest() != target.digest()


def test_logits_and_module_of_a_scaled_network_agree_with_its_scores() -> None:
    target, data = micro.bound("torch_binary")
    made = cm.harden(target, data, using=[cm.method("calibrate", folds=2)]).target
    rows = torch.from_numpy(data.holdout.x)
    logits = made.logits(data.holdout.x)
    np.testing.assert_allclose(made.module()(rows).detach().numpy(), logits, rtol=1e-4, atol=1e-6)
    odds = np.exp(logits)
    np.testing.assert_allclose(made.scores(data.holdout.x), odds / odds.sum(1, keepdims=True), rtol=1e-9)
    factor = made.mapping.parts[0][0]  # type: ignore[attr-defined]
    np.testing.assert_allclose(logits, factor * target.logits(data.holdout.x))


@dataclass(frozen=True)
class Stated:
    epsilon: float | None


def test_a_guarantee_is_kept_on_public_rows_and_void_on_private_ones() -> None:
    bound, _ = cm.wrap(GaussianNB().fit(X[:240], Y[:240])).bind(DATA)
    told = replace(bound, claims=(Stated(3.0), Stated(None)))
    with pytest.raises(GuaranteeVoid, match="reference"):
        cm.harden(told, DATA, using=["calibrate"])
    public = cm.Dataset(train=(X[:240], Y[:240]), holdout=(X[240:], Y[240:]), reference=(X[240:], Y[240:]))
    for how, kept in (
        ("temperature", 2),
        ("isotonic", 1),
    ):  # a certificate of labels does not survive new labels
        made = cm.harden(told, public, using=[cm.method("calibrate", how=how)]).target
        assert made.claims == told.claims[:kept]
        assert made.bind(public)[0].claims == told.claims[:kept]


@pytest.mark.parametrize("how", HOWS)
def test_evidence_is_what_scikit_learn_computes(how: str) -> None:
    change = cm.harden(GaussianNB().fit(X[:240], Y[:240]), DATA, using=[cm.method("calibrate", how=how)])
    table = next(piece for piece in change.evidence if isinstance(piece, Table))
    rows = {row[0]: row[1:] for row in table.rows}
    before = GaussianNB().fit(X[:240], Y[:240]).predict_proba(X[240:])
    after = change.target.scores(X[240:])
    for column, scores in ((0, before), (3, after)):
        assert rows["log loss"][column] == pytest.approx(log_loss(Y[240:], scores))
        assert rows["Brier score"][column] == pytest.approx(2 * brier_score_loss(Y[240:], scores[:, 1]))
        gap = calibration.calibration_error(scores.max(1), scores.argmax(1) == Y[240:])
        assert rows["calibration error"][column] == pytest.approx(gap)
    for row in rows.values():
        assert row[6] == pytest.approx(row[3] - row[0])  # type: ignore[operator]
        assert all(row[k + 1] <= row[k] <= row[k + 2] for k in (0, 3, 6))  # type: ignore[operator]
    assert rows["log loss"][8] < 0  # an over-sure model: the loss falls beyond its interval
    assert rows["calibration error"][3] < rows["calibration error"][0]  # type: ignore[operator]


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"how": "beta"}, "how is 'beta'"),
        ({"folds": 1}, "folds is 1"),
        ({"share": 0.95}, "share is 0.95"),
        ({"share": -0.1}, "share is -0.1"),
    ],
)
def test_wrong_parameters_are_told(params: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidData, match=told):
        calibrated(**params)


def test_no_map_changes_nothing_and_one_row_is_too_few() -> None:
    plain = GaussianNB().fit(X[:240], Y[:240])
    same = cm.harden(plain, DATA, using=[cm.method("calibrate", how="none")]).target
    np.testing.assert_array_equal(same.scores(X), plain.predict_proba(X))
    with pytest.raises(InvalidData, match="at least 2 rows"):
        calibration.fit("platt", np.zeros((1, 2)), np.array([0]))
    with pytest.raises(InvalidData, match="NaN"):
        calibration.fit("platt", np.full((3, 2), np.nan), np.array([0, 1, 0]))
