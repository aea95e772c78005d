# SPDX-License-Identifier: Apache-2.0
"""Private logistic regression: sensitivity by brute force, the noise itself, what it refuses, and an attack on it.

Noise cannot be seeded: statistical checks fail by chance with probability 1e-6 each.
"""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri
from scipy.stats import chi2
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.tree import DecisionTreeClassifier

import casemate as cm
from casemate.core import harness, schemafile
from casemate.core.errors import GuaranteeVoid, InvalidData
from casemate.core.methods import find
from casemate.core.run import Run
from casemate.core.schema import Schema
from casemate.core.types import LABELS, REFIT, SCORES
from casemate.privacy import logistic
from casemate.privacy.logistic import NoisyLogistic, PublicColumn, clipped, descend, noisy_count, noisy_sum
from casemate.privacy.methods.dp_logistic import _public_columns
from casemate.privacy.methods.lira import lira
from casemate.privacy.plan import Plan
from casemate.training import secure

PLAN = Plan(unit="person", clip=0.7, noise_multiplier=5.0, steps=10, delta=1e-5, counts=1)
BOUNDS = {"age": (0, 110), "sex": ("f", "m", "x"), "pain": (0, 10)}


def people(seed: int, n: int = 60) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Three columns, one with holes, two rows a person."""
    draw = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "age": draw.integers(20, 90, n).astype(float),
            "sex": draw.choice(["f", "m"], n),
            "pain": np.where(draw.random(n) < 0.2, np.nan, draw.integers(0, 11, n)),
        }
    )
    label = np.where((frame["age"] > 55) ^ (draw.random(n) < 0.2), "yes", "no")
    label[:2] = "no", "yes"
    return frame, label, 1000 * seed + np.arange(n) // 2


TRAIN, HOLD = people(1), people(2)
DATA = cm.Dataset(train=TRAIN, holdout=HOLD)
RECORDS = cm.Dataset(train=TRAIN[:2], holdout=HOLD[:2])


def tree() -> Any:
    from sklearn.compose import make_column_transformer
    from sklearn.preprocessing import OneHotEncoder

    coded = make_column_transformer((OneHotEncoder(), ["sex"]), remainder="passthrough")
    return make_pipeline(coded, DecisionTreeClassifier(max_depth=2, random_state=0)).fit(*TRAIN[:2])


def private(data: cm.Dataset = DATA, **params: Any) -> cm.Change:
    chosen = {"epsilon": 2.0, "bounds": BOUNDS, **params}
    return cm.harden(tree(), data, using=[cm.method("dp_logistic", **chosen)])


class Silent(secure.Source):
    """Draws zeros."""

    def gaussians(self, shape: Any) -> np.ndarray:
        return np.zeros(shape)


# ---- sensitivity ----


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([0.01, 1.0, 100.0]),
    k=st.sampled_from([1, 3]),
    clip=st.floats(0.01, 10),
)
def test_one_person_moves_the_sum_by_at_most_the_clipping_norm(
    seed: int, size: float, k: int, clip: float
) -> None:
    draw = np.random.default_rng(seed)
    owner = np.sort(draw.integers(0, 6, 25))
    design = draw.normal(0, size, (25, 4))
    target = np.eye(3)[draw.integers(0, 3, 25)] if k == 3 else draw.integers(0, 2, (25, 1)).astype(float)
    weights = draw.normal(0, 3, (k, 4))

    def total(rows: np.ndarray) -> np.ndarray:
        own = owner[rows]
        starts = np.flatnonzero(np.r_[True, own[1:] != own[:-1]])
        gradients = logistic.unit_gradients(design[rows], target[rows], weights, starts)
        return noisy_sum(gradients, replace(PLAN, clip=clip), Silent())

    whole = total(np.ones(25, bool))
    moves = [np.linalg.norm(whole - total(owner != one)) for one in np.unique(owner)]
    assert max(moves) <= clip * (1 + 1e-9) + 1e-12
    if size == 100.0:  # and the bound is reached: the clipping is no tighter than it must be
        assert max(moves) >= clip * (1 - 1e-6)


@given(st.lists(st.lists(st.floats(), min_size=3, max_size=3), min_size=1, max_size=6))
@settings(max_examples=200, deadline=None)
def test_no_gradient_however_strange_is_longer_than_the_clipping_norm(rows: list[list[float]]) -> None:
    with np.errstate(all="ignore"):
        cut = clipped(np.array(rows), 0.7)
    assert np.isfinite(cut).all() and (np.linalg.norm(cut, axis=1) <= 0.7 * (1 + 1e-9)).all()


def test_gradients_are_those_of_the_log_loss() -> None:
    draw = np.random.default_rng(0)
    design, weights = draw.normal(size=(7, 3)), draw.normal(size=(4, 3))
    target = np.eye(4)[draw.integers(0, 4, 7)]

    def loss(flat: np.ndarray) -> float:
        logits = design @ flat.reshape(4, 3).T
        return float((np.log(np.exp(logits).sum(1)) - (logits * target).sum(1)).sum())

    found = logistic.unit_gradients(design, target, weights, np.array([0, 2, 5])).sum(0)
    step = 1e-6 * np.eye(12)
    exact = [(loss(weights.ravel() + one) - loss(weights.ravel() - one)) / 2e-6 for one in step]
    np.testing.assert_allclose(found, exact, atol=1e-7)


# ---- noise ----


def spread_is(values: np.ndarray, sigma: float) -> None:
    """Chi-square of the variance, two-sided at 1e-6."""
    total = float((values**2).sum()) / sigma**2
    assert chi2.ppf(5e-7, len(values)) < total < chi2.isf(5e-7, len(values))


@pytest.mark.parametrize("clip", [0.7, 30.0])
def test_nothing_at_all_is_still_noised(clip: float) -> None:
    plan = replace(PLAN, clip=clip)
    for units in (0, 1, 50):
        spread_is(noisy_sum(np.zeros((units, 3000)), plan, secure.source()), 5.0 * clip)


def test_the_count_of_people_is_noised() -> None:
    counts = np.array([noisy_count(5000, PLAN, secure.source()) for _ in range(400)])
    spread_is(counts - 5000, 5.0)
    assert min(noisy_count(0, PLAN, secure.source()) for _ in range(50)) == 10.0


def test_every_step_is_noised_afresh_and_the_first_has_the_planned_variance() -> None:
    # two people who cancel out: what the weights hold is noise
    design, target, owner = np.ones((2, 4000)), np.array([[0.0], [1.0]]), np.array([0, 1])
    plan = replace(PLAN, steps=1)
    n = noisy_count(2, plan, secure.insecure_test_source(4))
    found = descend(design, target, owner, plan, source=secure.insecure_test_source(4), penalty=0.0)
    spread_is(found[0] * n * plan.clip, 5.0 * plan.clip)
    sums: list[np.ndarray] = []

    class Watched(secure.Source):
        def gaussians(self, shape: Any) -> np.ndarray:
            sums.append(super().gaussians(shape))
            return sums[-1]

    descend(design, target, owner, replace(PLAN, steps=6), source=Watched())
    assert [len(part) for part in sums] == [1, *[4000] * 6]
    assert len({part.tobytes() for part in sums}) == 7


def test_without_noise_and_clipping_the_steps_reach_the_optimum() -> None:
    draw = np.random.default_rng(0)
    x, y = draw.random((80, 3)), draw.integers(0, 3, 80)
    y[:3] = 0, 1, 2
    design = np.hstack([np.ones((80, 1)), x])
    loose = replace(PLAN, clip=100.0, steps=2000, noise_multiplier=1e-3)
    for target, labels in (((y == 1)[:, None], y == 1), (np.eye(3)[y], y)):
        found = descend(design, target, np.arange(80) // 3, loose, source=Silent(), learning_rate=100.0)
        exact = LogisticRegression(tol=1e-10, max_iter=1000).fit(x, labels)
        np.testing.assert_allclose(found[:, 1:], exact.coef_, atol=1e-4)


# ---- the whole defence ----


def test_without_privacy_it_is_the_plain_fit() -> None:
    def by_hand(frame: pd.DataFrame) -> np.ndarray:
        pain = frame["pain"].to_numpy()
        sex = frame["sex"].to_numpy()
        parts = [frame["age"] / 110, sex == "f", sex == "m", np.nan_to_num(pain) / 10, np.isnan(pain)]
        return np.column_stack([np.asarray(part, float) for part in parts])

    change = private(epsilon=math.inf)
    assert change.target.claims == () and "no privacy" in change.summary
    exact = LogisticRegression(solver="newton-cholesky", tol=1e-12).fit(by_hand(TRAIN[0]), TRAIN[1])
    _, data = change.target.bind(DATA)
    np.testing.assert_allclose(
        change.target.scores(data.holdout.x), exact.predict_proba(by_hand(HOLD[0])), atol=1e-9
    )


def test_the_claim_is_the_plan_and_the_noise_is_never_the_same() -> None:
    one, two = private(delta=1e-3), private()
    (plan,) = one.target.claims
    assert plan.unit == "person" and plan.delta == 1e-3 and 1.99 < plan.epsilon <= 2.0 and plan.counts == 1
    assert one.target.model.plan == plan and two.target.claims == (plan,)
    assert one.target.digest() != two.target.digest()
    assert "per person" in one.summary
    bounds = {row[0]: row[1] for row in one.evidence[0].rows}  # type: ignore[union-attr]
    mu = math.sqrt(plan.steps + 1) / plan.noise_multiplier
    assert bounds["0.01"] == pytest.approx(ndtr(ndtri(0.01) + mu), rel=1e-3)
    assert private(RECORDS).target.claims[0].unit == "record"


def test_calibrated_to_a_risk() -> None:
    (plan,) = private(epsilon=None, max_tpr=0.02, at_fpr=0.01).target.claims
    assert 0.0199 < plan.max_tpr(0.01) <= 0.02


def test_the_model_answers_on_the_users_own_rows() -> None:
    target = private().target
    assert target.has(LABELS, SCORES, REFIT) and target.classes == ("no", "yes")
    assert set(target.model.predict(HOLD[0])) <= {"no", "yes"}
    bound, data = target.bind(DATA)
    np.testing.assert_allclose(bound.scores(data.holdout.x), target.model.predict_proba(HOLD[0]))
    np.testing.assert_allclose(bound.scores(data.holdout.x).sum(1), 1.0)


def test_of_three_classes_one_may_be_absent_from_the_training_rows() -> None:
    draw = np.random.default_rng(0)
    x = draw.random((90, 2))
    y = np.digitize(x[:, 0], [0.3, 0.6])
    data = cm.Dataset(train=(x, y), holdout=(x, y))
    given = cm.method("dp_logistic", epsilon=50, bounds=(0, 1))
    target, coded = cm.harden(LogisticRegression().fit(x, y), data, using=[given]).target.bind(data)
    assert (target.labels(coded.train.x) == y).mean() > 0.5
    few = y < 2
    fresh = target.refit(coded.train.x[few], y[few], 0)
    assert fresh.scores(coded.train.x).shape == (90, 3) and (fresh.scores(coded.train.x) > 0).all()
    fresh = target.refit(coded.train.x[y == 1], y[y == 1], 0)  # even one class: which occur must not show
    assert fresh.scores(coded.train.x).shape == (90, 3)


def test_it_holds_nothing_of_the_data_but_noisy_coefficients() -> None:
    frame, label, owner = people(7, n=40)
    other = cm.Dataset(train=(frame[frame["sex"] == "f"], label[frame["sex"] == "f"], owner[frame["sex"] == "f"]),
                       holdout=HOLD)  # fmt: skip
    states = []
    for data in (DATA, other):
        model = private(data, delta=1e-3).target.model
        assert model.coef_.shape == (1, 2 + 3 + 2)
        for part in (model.coef_, model.intercept_):
            part[:] = 0.0
        states.append(pickle.dumps(model))
    assert states[0] == states[1]


# ---- people ----


def test_people_are_the_unit_in_refits_and_shadows_too() -> None:
    change = cm.harden(tree(), DATA, using=[cm.method("dp_logistic", epsilon=2, bounds=BOUNDS), "rounding"])
    target, data = change.target.bind(DATA)
    rows, y, person = data.train.x, data.train.y, data.train.person
    for view in (target, target.limited_to(LABELS, SCORES, REFIT), target.base):
        with pytest.raises(GuaranteeVoid, match="whose row"):
            view.refit(rows, y, 0)
        fresh = view.refit_people(rows[:40], y[:40], 0, person=person[:40])
        assert fresh.digest() != fresh.refit_people(rows[:40], y[:40], 0, person=person[:40]).digest()
    rows_of = harness.execute(find("lira"), target, data, Run(card=lira.card), {"n_shadows": 4})
    assert any(row.quantity == "person_auc" and row.status == "measured" for row in rows_of)


def test_the_rows_of_a_person_are_clipped_together(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    inner = logistic.noisy_sum

    def watched(gradients: np.ndarray, *args: Any) -> np.ndarray:
        seen.append(len(gradients))
        return inner(gradients, *args)

    monkeypatch.setattr(logistic, "noisy_sum", watched)
    private()
    assert set(seen) == {len(np.unique(TRAIN[2]))} == {30}
    seen.clear()
    private(RECORDS)
    assert set(seen) == {60}


def test_owners_in_any_order_are_the_same_people() -> None:
    draw = np.random.default_rng(3)
    design, target = draw.random((30, 4)), draw.integers(0, 2, (30, 1)).astype(float)
    owner, mixed = draw.integers(0, 8, 30), draw.permutation(30)
    found = [
        descend(design[rows], target[rows], owner[rows], PLAN, source=secure.insecure_test_source(0))
        for rows in (np.arange(30), mixed)
    ]
    np.testing.assert_allclose(found[0], found[1], atol=1e-9)


# ---- refusals ----


@pytest.mark.parametrize(
    ("params", "error", "told"),
    [
        ({"bounds": None}, GuaranteeVoid, "how do you know the bounds or categories of 'age', 'sex', 'pain'"),
        ({"bounds": {"age": (0, 110), "pain": (0, 10)}}, GuaranteeVoid, "of 'sex'"),
        ({"bounds": (0, 110)}, GuaranteeVoid, "of 'sex'"),
        ({"bounds": {**BOUNDS, "agee": (0, 1)}}, InvalidData, "'agee', which is no column"),
        ({"bounds": {**BOUNDS, "sex": ("f",)}}, InvalidData, "without 'm'"),
        ({"bounds": {**BOUNDS, "age": (0, math.inf)}}, InvalidData, "two finite numbers"),
        ({"bounds": {**BOUNDS, "age": (-1e308, 1e308)}}, InvalidData, "two finite numbers"),
        ({"bounds": {**BOUNDS, "age": (9, 9)}}, InvalidData, "two finite numbers"),
        ({"bounds": {**BOUNDS, "age": (9,)}}, InvalidData, "must be \\(low, high\\)"),
        ({"bounds": "data"}, InvalidData, "or 'schema'"),
        ({"epsilon": None}, InvalidData, "needs one of epsilon=3 or"),
        ({"max_tpr": 0.02, "at_fpr": 0.01}, InvalidData, "needs one of epsilon=3 or"),
        ({"epsilon": None, "max_tpr": 0.02}, InvalidData, "needs one of"),
        ({"epsilon": 0.0}, InvalidData, "epsilon"),
        ({"epsilon": math.nan}, InvalidData, "epsilon"),
        ({"delta": 0.01}, InvalidData, "too large for 30 people"),
        ({"epsilon": -math.inf}, InvalidData, "epsilon must lie"),
        ({"epsilon": "3"}, InvalidData, "epsilon must be a number"),
        ({"delta": "small"}, InvalidData, "delta must be a number"),
    ],
)
def test_refusals(params: dict[str, Any], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        private(**params)


STATED = {
    "age": {"low": 0, "high": 110},
    "sex": {"categories": ("f", "m", "x")},
    "pain": {"low": 0, "high": 10},
}


def stated(changes: dict[str, Any]) -> cm.Dataset:
    schema = DATA.schema.with_columns(changes)
    return cm.Dataset(train=TRAIN, holdout=HOLD, schema=schema)


def test_a_schema_may_be_vouched_for() -> None:
    made = private(stated(STATED), bounds="schema")
    assert made.target.model.columns[0] == PublicColumn(name="age", low=0, high=110)
    # a promise that rests on somebody's word says so
    assert any("your word" in getattr(piece, "text", "") for piece in made.evidence)
    assert not any("your word" in getattr(piece, "text", "") for piece in private().evidence)
    assert private(bounds=None, epsilon=math.inf).target.claims == ()


@pytest.mark.parametrize("left", ["age", "sex", "pain"])
def test_a_schema_read_off_the_rows_is_no_public_knowledge(left: str) -> None:
    with pytest.raises(GuaranteeVoid, match="'age', 'sex', 'pain' off the data"):
        private(bounds="schema")
    most = stated({name: said for name, said in STATED.items() if name != left})
    with pytest.raises(GuaranteeVoid, match=f"categories of '{left}' off the data"):
        private(most, bounds="schema")
    assert private(most, bounds="schema", epsilon=math.inf).target.claims == ()  # nothing is promised


@pytest.mark.parametrize("bounds", ["schema", None])
def test_the_categories_0_and_1_are_not_true_and_false(bounds: Any) -> None:
    def columns(values: Any) -> Any:
        return _public_columns(Schema.infer(pd.DataFrame({"a": values})), bounds, private=True)

    for seen in ([0, 1, 0], [0.0, 1.0, 0.0]):  # equal to (False, True), but read off the rows
        with pytest.raises(GuaranteeVoid, match="categories of 'a'"):
            columns(pd.Categorical(seen))
    for told in ([True, False], [True, True], pd.array([False, None], dtype="boolean")):
        assert columns(told)[0].categories == (False, True)  # whichever occurs


@pytest.mark.parametrize("given", ["fm", 3])
def test_categories_that_are_no_list_are_refused(given: Any) -> None:
    with pytest.raises(InvalidData, match="categories of 'sex' must be a list"):
        private(bounds={**BOUNDS, "sex": given})


def test_a_schema_file_as_it_was_written_is_no_public_knowledge(tmp_path: Any) -> None:
    paths = [tmp_path / name for name in ("train.csv", "hold.csv", "schema.toml")]
    for path, (x, y, who) in zip(paths, (TRAIN, HOLD), strict=False):
        x.assign(y=y, who=who).to_csv(path, index=False)

    def read(text: str) -> cm.Dataset:
        paths[2].write_text(text, encoding="utf-8")
        return cm.Dataset.from_files(*paths[:2], label="y", person="who", schema=paths[2])

    written = schemafile.inferred([TRAIN[0], HOLD[0]])
    with pytest.raises(GuaranteeVoid, match="remove observed = true"):
        private(read(written), bounds="schema")
    checked = "\n".join(line for line in written.splitlines() if not line.startswith("observed"))
    assert private(read(checked), bounds="schema").target.claims


def test_other_frameworks_and_plans_are_refused_in_words() -> None:
    remote = cm.wrap(lambda x: np.array(["no"] * len(x)), outputs="labels", classes=["no", "yes"])
    with pytest.raises(InvalidData, match="needs refit"):
        cm.harden(remote, DATA, using=[cm.method("dp_logistic", epsilon=1, bounds=BOUNDS)])
    sampled = replace(PLAN, sampler="poisson", rate=0.5)
    for plan in (sampled, replace(PLAN, counts=0)):
        with pytest.raises(GuaranteeVoid, match="counts=1"):
            descend(np.ones((2, 2)), np.ones((2, 1)), np.arange(2), plan, source=secure.source())
    with pytest.raises(InvalidData, match="both replace the recipe"):
        cm.harden(tree(), DATA, using=[cm.method("dp_logistic", epsilon=1, bounds=BOUNDS), "limit_leaves"])


@pytest.mark.parametrize("first", ["calibrate", "distil"])
def test_no_guarantee_is_stated_behind_what_learnt_from_the_private_rows(first: str) -> None:
    private_now = cm.method("dp_logistic", epsilon=1, bounds=BOUNDS)
    before = cm.method(first, **({"leaf": 2} if first == "distil" else {}))
    front = cm.harden(tree(), DATA, using=[before]).target
    for target in (front, cm.harden(front, DATA, using=["rounding"]).target):
        with pytest.raises(GuaranteeVoid, match="harden the bare model first"):
            cm.harden(target, DATA, using=[private_now])
    X, y, owner = HOLD
    half = owner < owner[len(owner) // 2]
    public = (X[half], y[half], owner[half])
    data = cm.Dataset(train=TRAIN, holdout=(X[~half], y[~half], owner[~half]), reference=public)
    again = cm.harden(cm.harden(tree(), data, using=[before]).target, data, using=["rounding"]).target
    if first == "calibrate":  # its map was fitted to the model without privacy, whatever the rows
        with pytest.raises(GuaranteeVoid, match="fitted to the model that stood there before"):
            cm.harden(again, data, using=[private_now])
    else:  # a student of a private teacher on public rows
        assert cm.harden(again, data, using=[private_now]).target.claims[0].unit == "person"


@pytest.mark.parametrize("after", ["calibrate", "distil"])
def test_reference_rows_of_people_in_train_are_not_public(after: str) -> None:
    data = cm.Dataset(train=TRAIN, holdout=HOLD, reference=TRAIN)
    with pytest.raises(GuaranteeVoid, match="30 people of train also own reference rows"):
        cm.harden(private().target, data, using=[after])


def test_a_refit_behind_a_wrapper_states_nothing() -> None:
    rounded = cm.harden(private().target, DATA, using=["rounding"]).target
    assert rounded.claims
    other = rounded.with_recipe(tree())
    rows = DATA.train
    codes = rounded.bind(DATA)[1].train.y
    assert other.refit(rows.x, codes, 0).claims == ()
    assert other.refit_people(rows.x, codes, 0, person=rows.person).claims == ()


def test_with_a_defence_of_the_loop_on_a_network_it_is_refused_in_words() -> None:
    torch = pytest.importorskip("torch")
    target = cm.wrap(torch.nn.Linear(3, 2), recipe=cm.Recipe(factory=lambda: torch.nn.Linear(3, 2), epochs=1))
    X = np.random.default_rng(0).random((40, 3))
    schema = Schema.infer(X).with_columns({"x0": {"low": 0, "high": 1}})
    data = cm.Dataset(train=(X[:20], np.arange(20) % 2), holdout=(X[20:], np.arange(20) % 2), schema=schema)
    both = [cm.method("dp_logistic", epsilon=1, bounds=(0, 1)), cm.method("augment", noise={"x0": 0.1})]
    with pytest.raises(InvalidData, match="which no training loop takes"):
        cm.harden(target, data, using=both)


def test_the_estimator_says_what_it_cannot_be_fitted_on() -> None:
    model = NoisyLogistic(columns=(PublicColumn(name="x0"),), classes=(0, 1), plan=PLAN)
    with pytest.raises(InvalidData, match="one label of"):
        model.fit(np.ones((2, 1)), [0, 2], person=[0, 1])
    with pytest.raises(InvalidData, match="2 entries for 3 rows"):
        model.fit(np.ones((3, 1)), [0, 1, 1], person=[0, 1])
    for owner in ([1.0, math.nan, math.nan], ["a", None, "b"]):
        with pytest.raises(GuaranteeVoid, match="missing values"):
            model.fit(np.ones((3, 1)), [0, 1, 1], person=owner)


# ---- an attack on it ----


@pytest.mark.parametrize("epsilon", [1.0, math.inf])
def test_an_attack_stays_within_the_bound_with_noise_and_breaks_it_without(epsilon: float) -> None:
    draw = np.random.default_rng(0)
    x, y = (
        draw.random((600, 150)),
        draw.integers(0, 2, 600),
    )  # labels without any cause: what is learnt is by heart
    data = cm.Dataset(train=(x[:300], y[:300]), holdout=(x[300:], y[300:]))
    model = make_pipeline(MinMaxScaler(), LogisticRegression(C=1e4, max_iter=5000)).fit(x[:300], y[:300])
    using = [cm.method("dp_logistic", epsilon=epsilon, bounds=(0, 1))]
    target, coded = cm.harden(model, data, using=using).target.bind(data)
    run = Run(card=lira.card, level=1 - 1e-6)
    auc = next(
        r for r in harness.execute(find("lira"), target, coded, run, {"n_shadows": 8}) if r.quantity == "auc"
    )
    limit = ndtr(
        0.3140 / math.sqrt(2)
    )  # the area under Phi(Phi^-1(fpr) + mu); epsilon 1 at delta 1e-4 allows mu 0.3139
    assert auc.low is not None and (auc.low > limit) == math.isinf(epsilon), str(auc)
    if math.isfinite(epsilon):
        (plan,) = target.claims
        assert math.sqrt(plan.steps + 1) / plan.noise_multiplier <= 0.3140
