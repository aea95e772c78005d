# SPDX-License-Identifier: Apache-2.0
"""What is special to scikit-learn: clones, seeds, names of columns, classes, thresholds, options."""

from __future__ import annotations

import inspect
import pickle
import threading
from pathlib import Path
from typing import Any, ClassVar

import micro
import micro_more
import numpy as np
import pandas as pd
import pytest
from joblib import effective_n_jobs, parallel_config
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import BaggingClassifier, RandomForestClassifier, StackingClassifier, VotingClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils import all_estimators

import casemate as cm
from casemate.adapters import sklearn as adapter
from casemate.core.data import Dataset
from casemate.core.errors import InvalidData
from casemate.core.types import LOGITS, REFIT, SCORES, Recipe
from casemate.training.isolation import seeded

X, XH = micro.numbers(60, 0), micro.numbers(30, 1)
Y, YH = micro.three_classes(X), micro.three_classes(XH)
DATA = Dataset(train=(X, Y), holdout=(XH, YH))


def target_of(model: Any, data: Dataset = DATA, **options: Any) -> Any:
    return adapter.make(model, **options).bind(data)[0]


@pytest.mark.parametrize(
    ("model", "options", "told"),
    [
        (RandomForestClassifier, {}, r"is a class; wrap an instance of it: RandomForestClassifier\(\)"),
        (StandardScaler(), {}, "StandardScaler has no predict"),
        (
            DecisionTreeClassifier(),
            {"recipe": Recipe(factory=list)},
            "recipe=.* does not apply to a scikit-learn model",
        ),
        (DecisionTreeClassifier(), {"outputs": "labels"}, "outputs='labels' does not apply"),
        (DecisionTreeClassifier(), {"device": "cuda"}, "device='cuda' does not apply"),
        (
            DecisionTreeClassifier(),
            {"task": "regression"},
            "does not fit DecisionTreeClassifier, which is a classifier",
        ),
        (LinearRegression(), {"task": "binary"}, "does not fit LinearRegression, which is a regressor"),
        (LinearRegression(), {"classes": [0, 1]}, "classes= does not apply"),
        (DecisionTreeClassifier(), {"classes": ["a"]}, "two or more different labels"),
    ],
)
def test_options_that_do_not_apply_are_refused(model: Any, options: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidData, match=told):
        adapter.make(model, **options)


def test_estimators_are_told_from_other_objects() -> None:
    assert adapter.accepts(DecisionTreeClassifier()) and adapter.accepts(KMeans())
    assert not adapter.accepts(len) and not adapter.accepts("text")


def test_a_refit_is_what_clone_and_fit_give_by_hand() -> None:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3)).fit(X, Y)
    fresh = target_of(model).refit(X[:40], Y[:40], 0)
    by_hand = clone(model).fit(X[:40], Y[:40])
    assert (fresh.scores(XH) == by_hand.predict_proba(XH)).all()


def test_seeds_and_jobs_are_set_at_every_depth_of_the_refit_alone() -> None:
    inner = DecisionTreeClassifier(random_state=np.random.RandomState(4), max_features=2)
    stack = StackingClassifier(
        [("bag", BaggingClassifier(inner, 3, n_jobs=2)), ("tree", DecisionTreeClassifier())],
        DecisionTreeClassifier(random_state=9), cv=2, n_jobs=2,
    )  # fmt: skip
    with parallel_config(backend="sequential"):  # starting workers takes longer than a test may
        model = stack.fit(X, Y)
    seen = model.get_params()
    before = {name: seen[name] for name in seen if name.split("__")[-1] in ("random_state", "n_jobs")}
    fresh = target_of(model).refit(X, Y, 11).model.get_params()
    after = model.get_params()
    assert all(after[name] is value for name, value in before.items())
    seeds = {name: fresh[name] for name in before if name.endswith("random_state")}
    assert len(seeds) == 4 and len(set(seeds.values())) == 4
    assert all(isinstance(seed, int) for seed in seeds.values())
    assert {name: fresh[name] for name in before if before[name] == 2} == {"n_jobs": 1, "bag__n_jobs": 1}
    assert fresh["final_estimator__random_state"] != 9


@pytest.mark.parametrize("pair", [("n", "y"), (False, True), (-1.0, 1.0), (3, 7)])
def test_refits_see_labels_of_the_dtype_the_model_saw(pair: tuple[Any, Any]) -> None:
    labels = np.array(pair)
    y, yh = labels[(X[:, 0] > 0) * 1], labels[(XH[:, 0] > 0) * 1]
    model = DecisionTreeClassifier().fit(X, y)
    target, data = adapter.make(model).bind(Dataset(train=(X, y), holdout=(XH, yh)))
    fresh: Any = target.refit(data.train.x, data.train.y, 0)
    assert fresh.model.classes_.dtype == model.classes_.dtype
    assert fresh.model.classes_.tolist() == labels.tolist()
    assert (data.holdout.y == (XH[:, 0] > 0)).all()


def test_labels_follow_predict_where_its_threshold_is_not_a_half() -> None:
    y = (X[:, 0] > 0) * 1
    inner = LogisticRegression().fit(X, y)
    model = FixedThresholdClassifier(inner, threshold=0.9).fit(X, y)
    target = target_of(model, Dataset(train=(X, y), holdout=(XH, (XH[:, 0] > 0) * 1)))
    assert (target.labels(XH) == model.predict(XH)).all()
    assert (target.labels(XH) != target.scores(XH).argmax(1)).any()


def test_classes_may_be_given_in_another_order_or_with_more_of_them() -> None:
    model = DecisionTreeClassifier(max_depth=2).fit(X, Y)
    target = target_of(model, classes=[2, 9, 0, 1])
    assert target.classes == (2, 9, 0, 1)
    np.testing.assert_array_equal(target.scores(XH)[:, [2, 3, 0]], model.predict_proba(XH))
    assert (target.scores(XH)[:, 1] == 0).all()
    assert [target.classes[i] for i in target.labels(XH)] == model.predict(XH).tolist()
    turned, data = adapter.make(model, classes=[1, 2, 0]).bind(DATA)
    fresh: Any = turned.refit(data.train.x, data.train.y, 0)
    assert fresh.model.classes_.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(fresh.scores(XH), clone(model).fit(X, Y).predict_proba(XH)[:, [1, 2, 0]])
    with pytest.raises(InvalidData, match="classes= lacks 1, which the model knows"):
        adapter.make(model, classes=[0, 2]).bind(Dataset(train=(X, 2 * (Y > 0)), holdout=(XH, 2 * (YH > 0))))


def test_labels_the_model_does_not_know_are_named() -> None:
    with pytest.raises(InvalidData, match=r"labels \['x'\] in the data are unknown"):
        target_of(
            DecisionTreeClassifier().fit(X, Y), Dataset(train=(X, ["x"] * 60), holdout=(XH, ["x"] * 30))
        )


def test_several_outputs_a_row_are_refused() -> None:
    model = DecisionTreeClassifier().fit(X, np.column_stack([Y, Y > 0]))
    with pytest.raises(InvalidData, match="several outputs"):
        target_of(model)


def test_decision_values_that_are_no_logits_are_not_offered_as_logits() -> None:
    y = (X[:, 0] > 0) * 1
    data = Dataset(train=(X, y), holdout=(XH, (XH[:, 0] > 0) * 1))
    huber = make_pipeline(StandardScaler(), SGDClassifier(loss="modified_huber", random_state=0)).fit(X, y)
    assert hasattr(huber, "decision_function") and target_of(huber, data).has(SCORES)
    assert not target_of(huber, data).has(LOGITS)
    assert target_of(LogisticRegression().fit(X, y), data).has(LOGITS)
    assert not adapter.make(LogisticRegression().fit(X, y)).has(LOGITS), "not looked at yet"


def test_logits_of_a_refit_without_a_class_are_minus_infinity_there() -> None:
    target = target_of(LogisticRegression().fit(X, Y))
    keep = Y != 1
    fresh = target.refit(X[keep], Y[keep], 0)
    logits, scores = fresh.logits(XH), fresh.scores(XH)
    assert (logits[:, 1] == -np.inf).all() and np.isfinite(logits[:, [0, 2]]).all()
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), scores, atol=1e-12)


def test_frozen_parts_are_not_refitted_and_the_report_says_so() -> None:
    model = make_pipeline(FrozenEstimator(StandardScaler().fit(X)), LogisticRegression()).fit(X, Y)
    target = target_of(model)
    assert not target.has(REFIT) and target.has(SCORES)
    assert any("frozen" in caveat for caveat in target.caveats)


def test_warm_start_is_a_caveat() -> None:
    model = RandomForestClassifier(3, warm_start=True).fit(X, Y)
    assert any("warm_start" in caveat for caveat in target_of(model).caveats)
    assert target_of(DecisionTreeClassifier().fit(X, Y)).caveats == ()


def test_an_unfitted_estimator_is_fitted_on_train_and_stays_unfitted_itself() -> None:
    model = make_pipeline(StandardScaler(), RandomForestClassifier(4, random_state=3))
    target, note = adapter.fitted(adapter.make(model), DATA, 5)
    by_hand = clone(model).fit(X, Y)
    assert "fitted it on the training rows (seed 5)" in note and note in target.caveats
    bound, _ = target.bind(DATA)
    assert (bound.scores(XH) == by_hand.predict_proba(XH)).all(), "the user's own random_state holds"
    assert not hasattr(model[-1], "classes_")
    again, nothing = adapter.fitted(target, DATA, 5)
    assert again is target and nothing == ""
    with pytest.raises(InvalidData, match="is not fitted yet"):
        adapter.make(model, classes=[0, 1, 2]).bind(DATA)[0].labels(XH)


def test_an_unfitted_estimator_gets_the_labels_back_from_bound_data() -> None:
    y, yh = np.where(X[:, 0] > 0, "p", "q"), np.where(XH[:, 0] > 0, "p", "q")
    target, data = adapter.make(DecisionTreeClassifier()).bind(Dataset(train=(X, y), holdout=(XH, yh)))
    done: Any = adapter.fitted(target, data, 0)[0]
    assert done.model.classes_.tolist() == ["p", "q"]


def test_an_array_model_takes_a_frame_and_a_frame_model_an_array_without_a_warning() -> None:
    names = ["b", "a", "d", "c"]
    frame, held = pd.DataFrame(X, columns=names), pd.DataFrame(XH, columns=names)
    on_array, on_frame = (
        DecisionTreeClassifier(random_state=0).fit(X, Y),
        DecisionTreeClassifier(random_state=0).fit(frame, Y),
    )
    frames = Dataset(train=(frame, Y), holdout=(held, YH))
    for model, data in ((on_array, frames), (on_frame, DATA), (on_frame, frames), (on_array, DATA)):
        target = target_of(model, data)
        assert (target.labels(XH) == on_array.predict(XH)).all()
        fresh = target.refit(X, Y, 0)  # a warning is an error in these tests
        assert (fresh.labels(XH) == target.refit(X, Y, 0).labels(XH)).all()
        assert hasattr(fresh.model, "feature_names_in_") == hasattr(model, "feature_names_in_")


def test_a_frame_reaches_the_model_in_the_order_of_columns_it_was_fitted_on() -> None:
    frame, held = (pd.DataFrame(part, columns=list("abcd")) for part in (X, XH))
    model = DecisionTreeClassifier(max_depth=3, random_state=0).fit(frame, Y)
    turned = Dataset(train=(frame[list("dbca")], Y), holdout=(held[list("dbca")], YH))
    target, data = adapter.make(model).bind(turned)
    np.testing.assert_array_equal(target.scores(data.holdout.x), model.predict_proba(held))


def test_a_frame_without_a_column_of_the_model_is_refused_in_one_line() -> None:
    frame, held = (pd.DataFrame(part, columns=list("abcd")) for part in (X, XH))
    model = DecisionTreeClassifier().fit(frame, Y)
    with pytest.raises(InvalidData, match="feature names should match") as caught:
        target_of(model, Dataset(train=(frame.drop(columns="b"), Y), holdout=(held.drop(columns="b"), YH)))
    assert "\n" not in str(caught.value) and isinstance(caught.value.__cause__, ValueError)


def test_text_goes_in_as_text() -> None:
    words, held = ["good film", "bad film", "good day", "bad day"] * 3, ["a good one", "a bad one"]
    y = [1, 0] * 6
    model = make_pipeline(CountVectorizer(), LogisticRegression()).fit(words, y)
    target, data = adapter.make(model).bind(Dataset(train=(words, y), holdout=(held, [1, 0])))
    assert target.input == "text" and target.labels(data.holdout.x).tolist() == [1, 0]
    assert target.refit(data.train.x, data.train.y, 0).labels(held).tolist() == [1, 0]


def test_an_ensemble_that_can_only_predict_once_fitted_may_come_unfitted() -> None:
    stack = StackingClassifier([("tree", DecisionTreeClassifier(max_depth=2))], LogisticRegression(), cv=2)
    target, said = adapter.fitted(adapter.make(stack), Dataset(train=(X, Y), holdout=(XH, YH)), 0)
    assert "not fitted" in said and set(target.labels(XH)) <= {0, 1, 2}


def test_a_fit_that_draws_from_the_global_generator_is_a_function_of_the_seed() -> None:
    def noisy(x: np.ndarray) -> np.ndarray:
        return x + np.random.normal(size=x.shape)  # on purpose

    model = make_pipeline(FunctionTransformer(noisy), DecisionTreeClassifier(max_depth=1)).fit(X, Y)
    target = target_of(model)
    first, second, other = (target.refit(X, Y, seed).model[-1].tree_.threshold for seed in (1, 1, 2))
    assert (first == second).all() and (first[:1] != other[:1]).all()


def test_the_digest_changes_with_any_parameter_even_of_what_has_no_name() -> None:
    model = LogisticRegression().fit(X, Y)
    target = target_of(model)
    before = target.digest()
    other = clone(model).fit(X, Y)
    assert target_of(other).digest() == before
    other.coef_[0, 0] = np.nextafter(other.coef_[0, 0], np.inf)
    assert target_of(other).digest() != before
    private = make_pipeline(FunctionTransformer(lambda x: x), DecisionTreeClassifier(max_depth=1)).fit(X, Y)
    digest = target_of(private).digest()
    assert digest == target_of(private).digest()
    private[-1].set_params(max_depth=2).fit(X, Y)
    assert target_of(private).digest() != digest
    private.set_params(functiontransformer__kw_args={"lock": threading.Lock()})
    with pytest.raises(InvalidData, match="cannot be pickled"):
        target_of(private).digest()


class Counts(DecisionTreeClassifier):  # type: ignore[misc]  # scikit-learn has no types here
    """Writes down how many threads a prediction or a fit may use."""

    seen: ClassVar[list[int]] = []

    def fit(self, *args: Any) -> Any:
        self.seen.append(effective_n_jobs(2))
        return super().fit(*args)

    def predict(self, *args: Any) -> Any:
        self.seen.append(effective_n_jobs(2))
        return super().predict(*args)


def test_predictions_and_refits_run_on_one_thread_whatever_joblib_is_set_to() -> None:
    model = Counts().fit(X, Y)
    with parallel_config(backend="threading", n_jobs=2):
        target = target_of(model)
        Counts.seen.clear()
        target.labels(XH)
        target.refit(X, Y, 0)
    assert Counts.seen == [1, 1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what eighty estimators say about sixty rows is not ours
@pytest.mark.parametrize("kind", ["classifier", "regressor"])
def test_every_estimator_of_scikit_learn_that_fits_these_rows(kind: str) -> None:
    """Predictions are the model's own, refits repeat their bytes, and neither touches the model."""
    x, held = np.abs(X), np.abs(XH)
    inner = LogisticRegression() if kind == "classifier" else LinearRegression()
    done = []
    for name, made in all_estimators(type_filter=kind):
        if name.startswith(("Multi", "RadiusNeighbors")) or name.endswith("Chain"):
            continue  # several outputs a row; rows without any neighbour
        given = {"estimator": inner, "estimators": [("inner", inner)]}
        known = inspect.signature(made).parameters
        model = made(**{key: value for key, value in given.items() if key in known})
        y, yh = ((part[:, 0] > 0.6) * 1 if kind == "classifier" else 1 + part[:, 0] for part in (x, held))
        try:
            model.fit(x, y)
        except ValueError:
            continue  # wants other rows
        target, data = adapter.make(model).bind(Dataset(train=(x, y), holdout=(held, yh)))
        before = target.digest()
        np.testing.assert_allclose(target.labels(held), np.ravel(model.predict(held)), err_msg=name)
        if target.has(SCORES):
            np.testing.assert_allclose(
                target.scores(held), model.predict_proba(held), atol=1e-6, err_msg=name
            )
        one, two = (target.refit(data.train.x, data.train.y, 1).digest() for _ in range(2))
        assert one == two and target.digest() == before, name
        done.append(name)
    assert len(done) >= (36 if kind == "classifier" else 40), done


def test_generators_come_back_even_when_the_fit_fails() -> None:
    before = repr(np.random.get_state(legacy=False))
    with pytest.raises(ZeroDivisionError), seeded(3):
        np.random.normal()
        _ = 1 / 0
    assert repr(np.random.get_state(legacy=False)) == before


def test_a_refit_reads_no_cache_that_the_model_names(tmp_path: Path) -> None:
    x, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1])
    model = make_pipeline(StandardScaler(), LogisticRegression(), memory=str(tmp_path / "cache"))
    target, _ = adapter.make(model.fit(x, y)).bind(Dataset(train=(x, y), holdout=(x, y)))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert target.refit(x, y, 0).model.get_params()["memory"] is None  # type: ignore[attr-defined]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert model.get_params()["memory"] == str(tmp_path / "cache"), "the user's model is as it was"


@pytest.mark.parametrize(
    ("model", "y"),
    [
        (DecisionTreeClassifier(), np.c_[Y, Y]),
        (LinearRegression(), np.c_[Y, Y]),
        (OneVsRestClassifier(LogisticRegression()), np.c_[Y > 0, Y > 1] * 1),
    ],
)
def test_a_model_of_several_outputs_is_told_so_in_one_sentence(model: Any, y: np.ndarray) -> None:
    model.fit(X, y)
    with pytest.raises(
        InvalidData, match=r"^\w+ predicts several outputs a row; wrap one estimator for each$"
    ):
        adapter.make(model).bind(DATA)


@pytest.mark.parametrize("state", [None, np.random.RandomState(3)])
def test_answers_drawn_at_random_are_said_to_be_and_the_look_draws_nothing(state: Any) -> None:
    model = DummyClassifier(strategy="stratified", random_state=state).fit(X, Y)
    before = repr(np.random.get_state(legacy=False))
    caveats = target_of(model).caveats
    assert repr(np.random.get_state(legacy=False)) == before
    assert sum("differently each time: its answers are drawn at random" in caveat for caveat in caveats) == 1
    assert not target_of(DummyClassifier(strategy="prior").fit(X, Y)).caveats


def test_labels_alone_are_said_to_be_no_scores() -> None:
    said = "gives no probabilities, and its decision values are none"
    for model in (SVC(), VotingClassifier([("tree", DecisionTreeClassifier())])):
        assert not any(said in caveat for caveat in adapter.make(model).caveats)  # not known yet
        assert sum(said in caveat for caveat in adapter.fitted(adapter.make(model), DATA, 0)[0].caveats) == 1
        target = target_of(model.fit(X, Y))
        assert not target.has(SCORES) and sum(said in caveat for caveat in target.caveats) == 1
    assert not any(said in caveat for caveat in target_of(LogisticRegression().fit(X, Y)).caveats)


def test_a_refit_of_a_search_searches_again_and_says_so() -> None:
    model = GridSearchCV(DecisionTreeClassifier(random_state=0), {"max_depth": [1, 8]}, cv=2).fit(
        X, X[:, 0] > 0
    )
    data = Dataset(train=(X, X[:, 0] > 0), holdout=(XH, XH[:, 0] > 0))
    target = target_of(model, data)
    assert (
        sum(caveat.startswith("refits repeat the search of GridSearchCV,") for caveat in target.caveats) == 1
    )
    fresh = target.refit(
        X, np.int64((X[:, 0] > 0) ^ (X[:, 1] > 0)), 0
    )  # a tree of depth 1 learns nothing of it
    assert (model.best_params_, fresh.model.best_params_) == ({"max_depth": 1}, {"max_depth": 8})
    alone = target_of(model.best_estimator_, data)
    assert not any("search" in caveat for caveat in alone.caveats)


def test_parts_that_a_clone_would_lack_are_not_refitted() -> None:
    parts = [("a", DecisionTreeClassifier().fit(X, Y)), ("b", LogisticRegression(max_iter=500).fit(X, Y))]
    target = target_of(StackingClassifier(parts, cv="prefit").fit(X, Y))
    assert not target.has(REFIT) and any("frozen" in caveat for caveat in target.caveats)


def test_an_ensemble_read_back_has_the_digest_it_had() -> None:
    model = VotingClassifier([("a", DecisionTreeClassifier()), ("b", LogisticRegression(max_iter=500))])
    target = target_of(model.fit(X, Y))
    assert pickle.loads(pickle.dumps(target)).digest() == target.digest()
    other = VotingClassifier([("c", DecisionTreeClassifier()), ("b", LogisticRegression(max_iter=500))])
    assert target_of(other.fit(X, Y)).digest() != target.digest()


def test_texts_are_audited_through_their_vectoriser() -> None:
    train, holdout = micro_more.texts(60, 0), micro_more.texts(30, 1)
    model = make_pipeline(CountVectorizer(), LogisticRegression()).fit(*train)
    report = cm.audit(
        model, cm.Dataset(train=train, holdout=holdout), methods=["loss_attack"], effort="quick"
    )
    assert report["utility", "accuracy"].value == pytest.approx(
        np.mean(model.predict(holdout[0]) == holdout[1])
    )
    assert report["loss_attack", "auc"].status == "measured"
