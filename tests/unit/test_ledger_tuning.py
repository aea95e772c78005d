# SPDX-License-Identifier: Apache-2.0
"""A private search: charged whole before it begins, a random number of runs, one of them released."""

from __future__ import annotations

import gc
import math
import weakref
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dp_accounting as dpa
import numpy as np
import pandas as pd
import pytest
from scipy import stats as reference
from sklearn.linear_model import LinearRegression, LogisticRegression

import casemate as cm
from casemate.core.errors import BudgetExhausted, GuaranteeVoid, InvalidData
from casemate.privacy import _ledger_filter as filters
from casemate.privacy import _repeats, logistic, statistics, tuned, tuning
from casemate.privacy.events import DiscreteGaussian, Gaussian, Pure, Tuned
from casemate.privacy.ledger import Ledger
from casemate.privacy.plan import Plan
from casemate.privacy.statistics import People
from casemate.privacy.tuning import NoisyScore, PublicScore, Runs, TunedPlan
from casemate.training import retraining, secure
from casemate.training.pieces import TrainingPieces
from casemate.training.secure import insecure_test_source

DRAW = np.random.default_rng(3)
FRAME = pd.DataFrame(
    {"age": DRAW.integers(20, 90, 400).astype(float), "pain": DRAW.integers(0, 11, 400).astype(float)}
)
LABEL = np.where(FRAME["age"] + 5 * FRAME["pain"] > 80, "yes", "no")
OWNER = np.arange(400) // 2
DATA = cm.Dataset(
    train=(FRAME[:200], LABEL[:200], OWNER[:200]), holdout=(FRAME[200:], LABEL[200:], OWNER[200:])
)
MODEL = LogisticRegression().fit(FRAME[:200], LABEL[:200])
NOISY = NoisyScore(noise=10.0)
PLAN = Plan(unit="person", clip=1.0, noise_multiplier=40.0, steps=60, delta=1e-6)


def candidates(*highs: float, epsilon: float = 0.5) -> list[Any]:
    """Return candidates that differ in the public bound of age."""
    return [
        cm.method("dp_logistic", epsilon=epsilon, delta=1e-6, bounds={"age": (0, high), "pain": (0, 10)})
        for high in highs or (110, 100_000)
    ]


def budget(path: Path, epsilon: float = 5.0, **options: Any) -> Ledger:
    return Ledger.create(path / "budget", population="clinic", epsilon=epsilon, delta=1e-5, **options)


def fixed_runs(monkeypatch: pytest.MonkeyPatch, k: int) -> None:
    monkeypatch.setattr(_repeats, "drawn", lambda *_: k)


# ------------------------------------------------------------------------------------------------ what it costs


def test_the_cost_is_that_of_papernot_and_steinke() -> None:
    plan = TunedPlan(run=PLAN, n_candidates=4, mean_runs=10.0, score_noise=20.0)
    orders = [float(order) for order in range(2, 200)]
    oracle = dpa.rdp.RdpAccountant(orders)
    one = dpa.ComposedDpEvent(
        [
            dpa.SelfComposedDpEvent(dpa.GaussianDpEvent(40.0), 60),
            dpa.GaussianDpEvent(20.0),  # a discrete Gaussian is as concentrated
        ]
    )
    oracle.compose(dpa.dp_event.RepeatAndSelectDpEvent(one, 10.0, 1.0))
    assert plan.epsilon == pytest.approx(oracle.get_epsilon(1e-6), rel=0.02)
    assert plan.epsilon > 1.5 * PLAN.epsilon  # choosing is not free
    public = replace(plan, score_noise=0.0)
    assert PLAN.epsilon < public.epsilon < plan.epsilon
    assert (plan.unit, plan.delta, plan.neighbouring) == ("person", 1e-6, "add_or_remove_one")
    assert plan.max_tpr(0.01) > PLAN.max_tpr(0.01)
    assert plan.to_report()["epsilon"] >= plan.epsilon


@pytest.mark.parametrize("shape", [0.0, 0.5, 1.0, 4.0, math.inf])
def test_the_loss_at_an_order_equals_that_of_dp_accounting(shape: float) -> None:
    from dp_accounting.rdp import rdp_privacy_accountant as theirs

    orders = list(map(float, _repeats.ORDERS))
    for rho, mean in ((0.01, 1.5), (0.05, 20.0), (0.3, 300.0)):
        one = [rho * order for order in orders]
        oracle = np.asarray(theirs._compute_rdp_repeat_and_select(orders, one, mean, shape))
        oracle = np.minimum.accumulate(oracle[::-1])[::-1]  # a Renyi loss grows with its order
        ours = [_repeats.renyi(order, mean, shape, lambda order, r=rho: r * order) for order in orders]
        near = 0.02 if shape == math.inf else 1e-6  # its delta comes from another conversion
        assert ours == pytest.approx(oracle.tolist(), rel=near)


@pytest.mark.parametrize("shape", [0.0, 0.5, 1.0, 3.0, math.inf])
@pytest.mark.parametrize("epsilon", [0.1, 1.0])
def test_no_search_over_randomised_response_loses_more_than_is_charged(shape: float, epsilon: float) -> None:
    """The best of K answers of randomised response is 0 if all are: its probability is E q^K, exactly."""
    p = 1 / (1 + math.exp(-epsilon))
    for mean in (1.5, 8.0):

        def none(q: float, mean: float = mean) -> float:
            if shape == math.inf:
                return math.exp(mean * (q - 1))  # no run counts as 0 as well
            left = (1 - _repeats.gamma_of(mean, shape)) * q
            gamma = _repeats.gamma_of(mean, shape)
            if shape == 0:
                return math.log1p(-left) / math.log(gamma)
            return ((1 - left) ** -shape - 1) / (gamma**-shape - 1)

        for order in (1.5, 2.0, 6.0, 30.0):
            charged = _repeats.renyi(order, mean, shape, lambda order: filters._renyi_pure(epsilon, order))
            for one, other in ((none(p), none(1 - p)), (none(1 - p), none(p))):
                inside = one**order * other ** (1 - order) + (1 - one) ** order * (1 - other) ** (1 - order)
                assert math.log(inside) / (order - 1) <= charged * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_what_is_charged_for_a_run_costs_at_least_what_each_candidate_does(seed: int) -> None:
    draw = np.random.default_rng(seed)
    plans = []
    for _ in range(4):
        rate = 1.0 if draw.random() < 0.3 else float(draw.uniform(0.01, 0.5))
        plans.append(
            Plan(
                unit="person",
                clip=float(draw.uniform(0.5, 5)),
                noise_multiplier=float(draw.uniform(2.0, 9.0)),
                steps=int(draw.integers(1, 200)),
                counts=int(draw.integers(0, 3)),
                delta=1e-6,
                sampler="all" if rate == 1 else "poisson",
                rate=rate,
            )
        )
    whole = tuned.dominating(plans)
    for order in (2.0, 5.0, 17.0, 60.0):
        most = filters._renyi_run(whole.event, order)
        assert all(filters._renyi_run(plan.event, order) <= most * (1 + 1e-9) for plan in plans)
    covering = TunedPlan(run=whole, n_candidates=4)
    assert all(covering.covers(plan) for plan in plans)
    assert not covering.covers(replace(whole, noise_multiplier=whole.noise_multiplier * 0.99))
    with pytest.raises(InvalidData, match="same unit"):
        tuned.dominating([*plans, replace(plans[0], delta=1e-7)])


# ------------------------------------------------------------------------------------------------ how many runs


@pytest.mark.parametrize(("mean", "shape"), [(4.0, 1.0), (4.0, 0.0), (3.0, 2.5), (4.0, math.inf)])
def test_the_number_of_runs_has_its_law(mean: float, shape: float) -> None:
    source = insecure_test_source(5)
    drawn = Counter(_repeats.drawn(mean, shape, source) for _ in range(1500))
    at = np.arange(0, 400)
    gamma = 1.0 if shape == math.inf else _repeats.gamma_of(mean, shape)
    if shape == math.inf:
        pmf = reference.poisson.pmf(at, mean)
    elif shape == 0:
        pmf = reference.logser.pmf(at, 1 - gamma)
    else:
        pmf = reference.nbinom.pmf(at, shape, gamma) * (at > 0)
        pmf = pmf / pmf.sum()
    assert (pmf * at).sum() == pytest.approx(mean, rel=1e-6)
    top = int(np.flatnonzero(1500 * pmf >= 8)[-1])
    seen = [drawn[int(k)] for k in at[:top]] + [sum(n for k, n in drawn.items() if k >= top)]
    expected = [*(1500 * pmf[:top]), 1500 * pmf[top:].sum()]
    inside = [k for k, value in enumerate(expected) if value > 0]
    assert sum(seen) == sum(seen[k] for k in inside) == 1500
    found = reference.chisquare([seen[k] for k in inside], [expected[k] for k in inside])
    assert found.pvalue > 1e-6  # by chance below in one of a million


@pytest.mark.parametrize(("mean", "shape"), [(300.0, math.inf), (3000.0, 2000.0)])
def test_large_numbers_of_runs_that_are_hardly_ever_small_are_drawn_too(mean: float, shape: float) -> None:
    source = insecure_test_source(6)
    drawn = [_repeats.drawn(mean, shape, source) for _ in range(40)]
    gamma = 1.0 if shape == math.inf else _repeats.gamma_of(mean, shape)
    spread = math.sqrt(mean / gamma)  # of a negative binomial number; a Poisson one has gamma 1
    assert abs(np.mean(drawn) - mean) < 5 * spread / math.sqrt(40)  # by chance not in one of a million
    assert 0.4 * spread < np.std(drawn) < 1.7 * spread


def test_one_run_always_costs_what_a_training_and_its_score_cost() -> None:
    once = TunedPlan(run=PLAN, n_candidates=3, mean_runs=1.0)
    assert once.event == PLAN.event and once.epsilon == PLAN.epsilon
    scored = replace(once, score_noise=20.0)
    both = math.hypot(1 / 20, math.sqrt(60) / 40)  # mu of the two together
    assert scored.epsilon == pytest.approx(
        Plan(unit="person", clip=1.0, noise_multiplier=1 / both, steps=1, delta=1e-6).epsilon, rel=0.01
    )
    assert _repeats.drawn(1.0, 1.0, insecure_test_source(0)) == 1
    maybe = replace(once, shape=math.inf)  # 0, 1, 2, ...: that is no single run
    assert isinstance(maybe.event[0], Tuned) and maybe.epsilon > PLAN.epsilon


def test_a_run_that_fails_is_the_worst_and_is_not_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(at: int) -> int:
        made.append(at)
        if at != 3 and len(made) < 60:
            raise InvalidData("training diverged")
        return at

    def judged(at: int) -> float:
        if at < 2:
            raise InvalidData("no scores")
        return -50.0 - at

    made: list[int] = []
    fixed_runs(monkeypatch, 200)
    plan = TunedPlan(run=PLAN, n_candidates=6)
    assert (
        tuning.best(plan, train, judged) == (2, -52.0) and len(made) == 200
    )  # 2 is among 141: 7e-12 that not
    with pytest.raises(InvalidData, match="cost stays: no scores"):
        tuning.best(replace(plan, n_candidates=1), lambda at: at, judged)

    def broken(_: int) -> int:
        raise GuaranteeVoid("another plan")

    with pytest.raises(GuaranteeVoid, match="another plan"):
        tuning.best(plan, broken, judged)


def test_runs_and_candidates_come_from_the_operating_system(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = TunedPlan(run=PLAN, n_candidates=1000, mean_runs=300.0, shape=5.0)
    asked: list[secure.Source] = []
    fresh = secure.source

    def source() -> secure.Source:
        asked.append(fresh())
        return asked[-1]

    monkeypatch.setattr(secure, "source", source)
    ways = []
    for _ in range(2):
        way: list[int] = []
        np.random.seed(0)
        tuning.best(plan, lambda at, way=way: way.append(at) or at, float)
        ways.append(way)
    assert ways[0] != ways[1]  # equal by chance once in 1000^100
    assert len(asked) == 2 and all(one.secure for one in asked)


def test_the_best_run_alone_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    class Made:
        def __init__(self, at: int) -> None:
            self.at = at

    alive: list[weakref.ref[Made]] = []
    tried: list[int] = []

    def train(at: int) -> Made:
        made = Made(at)
        tried.append(at)
        alive.append(weakref.ref(made))
        return made

    fixed_runs(monkeypatch, 200)
    fixed = insecure_test_source(1)  # of draws, so that neither the first run nor the last is of the seventh
    won, value = tuning.best(TunedPlan(run=PLAN, n_candidates=7), train, lambda made: float(made.at), fixed)
    gc.collect()
    assert won.at == value == 6 and len(alive) == 200 and 6 not in (tried[0], tried[-1])
    assert [one() for one in alive if one() is not None] == [won]


# ------------------------------------------------------------------------------------------------ the score


def test_one_person_moves_the_score_by_at_most_one_however_many_rows_they_own() -> None:
    class Right:
        def labels(self, x: Any) -> np.ndarray:
            return np.zeros(len(x), int)

        def has(self, _: Any) -> bool:
            return False

    def of(owners: list[int]) -> list[float]:
        rows = replace(
            DATA.holdout, x=np.zeros((len(owners), 2)), y=np.zeros(len(owners), int), person=np.array(owners)
        )
        data = DATA._copy(holdout=rows)
        source = insecure_test_source(1)
        return [tuning.score(NOISY, Right(), data, source) for _ in range(400)]  # type: ignore[arg-type]

    few, more = of([1, 2, 3]), of([1, 2, 3, 4, 4, 4, 4, 4, 4, 4])
    assert np.asarray(more) - np.asarray(few) == pytest.approx(np.ones(400))  # the same noise
    assert abs(np.mean(few) - 3) < 2.5  # five standard errors
    assert 8.2 < np.std(few) < 11.8  # of 400 draws of sigma 10: five standard errors


def test_scores_that_are_no_numbers_count_as_wrong() -> None:
    class Broken:
        def has(self, _: Any) -> bool:
            return True

        def scores(self, x: Any) -> np.ndarray:
            made = np.tile([1.0, 0.0], (len(x), 1))
            made[0] = np.nan, np.inf
            return made

    rows = replace(DATA.holdout, x=np.zeros((4, 2)), y=np.array([0, 0, 0, 1]), person=None)
    assert tuning._right("quadratic", Broken(), rows).tolist() == [0.0, 1.0, 1.0, 0.0]  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ the ledger


def test_a_search_is_charged_as_one_event_and_claims_what_it_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed_runs(monkeypatch, 6)
    ledger = budget(tmp_path)
    change = cm.tune(MODEL, DATA, candidates=candidates(), judge=NOISY, runs=6, ledger=ledger)
    (plan,) = change.target.claims
    (spend,) = ledger.spends()
    assert spend.event == plan.event
    one = (*plan.run.event, DiscreteGaussian(sigma=10.0 * 2**16, sensitivity=2**16))
    assert spend.event == (Tuned(one=one, mean_repeats=6.0),)
    assert plan.epsilon > 0.5 * 1.5 and plan.run.epsilon <= 0.5
    assert ledger.spent().epsilon <= 5.0
    told = [piece.text for piece in change.evidence if hasattr(piece, "text")]
    assert "Before it began, this training was charged to the budget of clinic." in told
    assert change.params["dp_logistic"]["bounds"]["age"] in [(0, 110), (0, 100_000)]
    report = cm.audit(change.target, DATA, methods=[], effort="quick")
    assert report.target["claims"][0]["epsilon"] >= plan.epsilon
    with pytest.raises(GuaranteeVoid):  # the same search again has other noise
        cm.tune(MODEL, DATA, candidates=candidates(), judge=NOISY, runs=6, ledger=ledger)


def test_a_search_is_on_disk_before_its_first_training_and_stays_spent_when_it_crashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed_runs(monkeypatch, 5)
    ledger, fit, made = budget(tmp_path), logistic.NoisyLogistic.fit, []

    def stopped(self: Any, x: Any, y: Any, *, person: Any = None) -> Any:
        assert Ledger.open(tmp_path / "budget", read_only=True).spent().epsilon > 0.5
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(1)
        return fit(self, x, y, person=person)

    monkeypatch.setattr(logistic.NoisyLogistic, "fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        cm.tune(MODEL, DATA, candidates=candidates(), judge=NOISY, ledger=ledger)
    again = Ledger.open(tmp_path / "budget")
    assert len(made) == 2 and again.spent().spends == again.spent().unclear == 1
    assert again.spent().epsilon == ledger.spent().epsilon > 0.5


def test_what_there_is_no_room_for_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = budget(tmp_path, epsilon=0.6)  # of one run, not of the search
    monkeypatch.setattr(logistic.NoisyLogistic, "fit", lambda *_, **__: pytest.fail("it was trained"))
    with pytest.raises(BudgetExhausted, match="nothing was"):
        cm.tune(MODEL, DATA, candidates=candidates(), judge=NOISY, ledger=ledger)
    assert ledger.spent().epsilon == 0


def test_statistics_trainings_and_searches_share_a_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed_runs(monkeypatch, 2)
    ledger = budget(tmp_path)
    people = People(OWNER[:200].tolist(), max_rows=2)
    statistics.mean(FRAME["age"][:200], bounds=(0, 110), epsilon=0.25, people=people, ledger=ledger)
    cm.tune(MODEL, DATA, candidates=candidates(), judge=NOISY, ledger=ledger)
    after = ledger.spent().epsilon
    cm.harden(MODEL, DATA, using=candidates()[:1], ledger=ledger)
    assert 0.5 < after < ledger.spent().epsilon <= 5.0 and len(ledger.spends()) == 3
    assert ledger.spent().at_any_time <= 5.0


@pytest.mark.parametrize("name", ["mixed", "zcdp"])
def test_a_filter_admits_searches_until_their_losses_fill_it(tmp_path: Path, name: str) -> None:
    ledger = budget(tmp_path, epsilon=4.0, filter=name)
    ledger.reserve("count", (Pure(epsilon=0.01),))
    event = (Tuned(one=(Gaussian(noise_multiplier=10.0),), mean_repeats=5.0),)
    times = ledger.remaining(event)
    for i in range(times):
        ledger.reserve(f"search {i}", event)
    assert times >= 2 and ledger.remaining(event) == 0
    with pytest.raises(BudgetExhausted):
        ledger.reserve("one more", event)
    oracle = dpa.rdp.RdpAccountant([float(order) for order in range(2, 200)])
    for _ in range(times):
        oracle.compose(dpa.dp_event.RepeatAndSelectDpEvent(dpa.GaussianDpEvent(10.0), 5.0, 1.0))
    assert oracle.get_epsilon(1e-5) <= 4.0  # a sequence that is fixed costs less than the filter allows
    pure = Ledger.create(tmp_path / "pure", population="p", epsilon=50.0, delta=0.0)
    with pytest.raises(BudgetExhausted):
        pure.reserve("search", event)


def test_a_poisson_number_of_runs_may_be_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed_runs(monkeypatch, 0)
    ledger = budget(tmp_path)
    with pytest.raises(InvalidData, match="the cost stays"):
        law = Runs(mean=3.0, shape=math.inf)
        cm.tune(MODEL, DATA, candidates=candidates(), judge=NOISY, runs=law, ledger=ledger)
    assert ledger.spent().spends == 1


# ------------------------------------------------------------------------------------------------ what is refused


def test_a_score_that_is_not_accounted_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logistic.NoisyLogistic, "fit", lambda *_, **__: pytest.fail("it was trained"))
    ledger = budget(tmp_path)
    for judge in (None, "accuracy", lambda target: 0.5, NoisyScore):
        with pytest.raises(GuaranteeVoid, match="NoisyScore"):
            cm.tune(MODEL, DATA, candidates=candidates(), judge=judge, ledger=ledger)
    with pytest.raises(GuaranteeVoid, match="reference"):
        cm.tune(MODEL, DATA, candidates=candidates(), judge=PublicScore(), ledger=ledger)
    own = cm.Dataset(
        train=(FRAME[:200], LABEL[:200]),
        holdout=(FRAME[200:], LABEL[200:]),
        reference=(FRAME[:200], LABEL[:200]),
    )
    with pytest.raises(GuaranteeVoid, match="stand in train"):
        cm.tune(MODEL, own, candidates=candidates(), judge=PublicScore(), ledger=ledger)
    for noise in (0.0, -1.0, math.inf, math.nan, "ten", True, 1e-300, 1e300):
        with pytest.raises(InvalidData, match="noise"):
            cm.tune(MODEL, DATA, candidates=candidates(), judge=NoisyScore(noise=noise), ledger=ledger)
    assert not ledger.spends()


def test_rows_of_holdout_are_no_public_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic.NoisyLogistic, "fit", lambda *_, **__: pytest.fail("it was trained"))
    moved = FRAME[200:] + 0.25  # other rows of the same people
    bare = cm.Dataset(
        train=(FRAME[:200], LABEL[:200]),
        holdout=(FRAME[200:], LABEL[200:]),
        reference=(FRAME[200:], LABEL[200:]),
    )
    owned = cm.Dataset(
        train=(FRAME[:200], LABEL[:200], OWNER[:200]),
        holdout=(FRAME[200:], LABEL[200:], OWNER[200:]),
        reference=(moved, LABEL[200:], OWNER[200:]),
    )
    for data, unit in ((bare, "record"), (owned, "person")):
        ledger = Ledger.create(tmp_path / unit, population="clinic", epsilon=5.0, delta=1e-5, unit=unit)
        with pytest.raises(GuaranteeVoid, match="people or rows of holdout"):
            cm.tune(MODEL, data, candidates=candidates(), judge=PublicScore(), ledger=ledger)
        assert not ledger.spends()


def test_searches_over_different_recipes_or_public_rows_are_not_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Book:
        def charge(self, claim: Any, training: str) -> str:
            marks.append(training)
            raise BudgetExhausted("full")

    marks: list[str] = []
    draw = np.random.default_rng(9)
    for shift in (0.25, 0.5, 0.5):
        more = pd.DataFrame({name: draw.uniform(0, 10, 50) + shift for name in FRAME})
        data = cm.Dataset(
            train=(FRAME[:200], LABEL[:200]), holdout=(FRAME[200:], LABEL[200:]), reference=(more, LABEL[:50])
        )
        draw = np.random.default_rng(9)
        with pytest.raises(BudgetExhausted):
            cm.tune(MODEL, data, candidates=candidates(), judge=PublicScore(), ledger=Book())
    assert marks[0] != marks[1] == marks[2]
    gathered = retraining.gathered

    def other(*given: Any) -> Any:
        pieces, recipe, claims = gathered(*given)
        return pieces, ("another network", recipe), claims

    monkeypatch.setattr(retraining, "gathered", other)
    with pytest.raises(BudgetExhausted):
        cm.tune(MODEL, data, candidates=candidates(), judge=PublicScore(), ledger=Book())
    assert marks[3] != marks[2]


def test_what_a_search_chose_is_not_trained_again_for_the_cost_of_one_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target, data = cm.wrap(MODEL).bind(DATA)
    pieces = TrainingPieces(schedule=float, claims=(PLAN,))
    hardened = replace(target, recipe=cm.Recipe(factory=list, pieces=pieces), claims=(PLAN,))
    monkeypatch.setattr(retraining, "applied", lambda *_: TrainingPieces(loss=len))
    more: Any = [(SimpleNamespace(card=SimpleNamespace(name="another")), {})]
    assert retraining.gathered(hardened, data, more, 0)[2] == (PLAN,)
    searched = replace(hardened, claims=(TunedPlan(run=PLAN, n_candidates=2),))
    with pytest.raises(GuaranteeVoid, match="what choosing cost"):
        retraining.gathered(searched, data, more, 0)


def test_candidates_without_a_common_cost_are_refused() -> None:
    def refused(error: type[Exception], match: str, *given: Any, **options: Any) -> None:
        with pytest.raises(error, match=match):
            cm.tune(MODEL, DATA, candidates=list(given), judge=NOISY, **options)

    bounds = {"age": (0, 110), "pain": (0, 10)}
    refused(GuaranteeVoid, "states one epsilon", cm.method("dp_logistic", epsilon=math.inf, bounds=bounds))
    refused(GuaranteeVoid, "how do you know", cm.method("dp_logistic", epsilon=1))
    refused(InvalidData, "does not train", [*candidates()[:1], "rounding"])
    refused(InvalidData, "not a defence", "lira")
    refused(InvalidData, "at least one")
    refused(InvalidData, "mean_repeats", *candidates(), runs=0.5)
    refused(InvalidData, "at most", *candidates(), runs=1e9)
    other = cm.method("dp_logistic", epsilon=1, delta=1e-7, bounds=bounds)
    refused(InvalidData, "same unit at the same delta", *candidates(), other)
    with pytest.raises(InvalidData, match="at least one"):
        cm.tune(MODEL, DATA, candidates="dp_logistic", judge=NOISY)


def test_owners_on_one_side_alone_and_tasks_without_labels_are_refused() -> None:
    plan = TunedPlan(run=PLAN, n_candidates=1, score_noise=10.0)
    rows = cm.Dataset(train=(FRAME[:200], LABEL[:200]), holdout=(FRAME[200:], LABEL[200:]))
    with pytest.raises(GuaranteeVoid, match="each person"):
        tuning.check_judge(NOISY, plan, *cm.wrap(MODEL).bind(rows))
    amounts = cm.Dataset(train=(FRAME[:200], FRAME["age"][:200]), holdout=(FRAME[200:], FRAME["age"][200:]))
    line = cm.wrap(LinearRegression().fit(FRAME[:200], FRAME["age"][:200]))
    with pytest.raises(InvalidData, match="scores labels"):
        tuning.check_judge(NOISY, plan, *line.bind(amounts))


def test_a_public_score_costs_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed_runs(monkeypatch, 4)
    draw = np.random.default_rng(8)
    more = pd.DataFrame(
        {
            "age": draw.integers(20, 90, 300).astype(float) + 0.5,
            "pain": draw.integers(0, 11, 300).astype(float),
        }
    )
    label = np.where(more["age"] + 5 * more["pain"] > 80, "yes", "no")
    data = cm.Dataset(
        train=(FRAME[:200], LABEL[:200]), holdout=(FRAME[200:], LABEL[200:]), reference=(more, label)
    )
    judge = PublicScore(quantity="quadratic")
    change = cm.tune(MODEL, data, candidates=candidates(), judge=judge)
    (plan,) = change.target.claims
    assert plan.score_noise == 0 and plan.event == (Tuned(one=plan.run.event, mean_repeats=10.0),)
    told = [piece.text for piece in change.evidence if "on public rows: " in getattr(piece, "text", "")]
    given = change.target.scores(data.reference.x)
    right = 1 - 0.5 * ((given - np.eye(2)[(label == "yes").astype(int)]) ** 2).sum(axis=1)
    assert told[-1].endswith(f": {right.mean():.4g}.")


def test_a_saved_model_keeps_the_claim_of_its_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed_runs(monkeypatch, 2)
    change = cm.tune(MODEL, DATA, candidates=candidates(), judge=NOISY)
    cm.save(change, tmp_path / "model")
    loaded = cm.load(tmp_path / "model")
    assert loaded.claims == change.target.claims
    assert any("stated by the folder" in line for line in loaded.caveats)
    text = (tmp_path / "model" / "change.json").read_text()
    raised = text.replace('"noise_multiplier": ', '"noise_multiplier": 1')  # a quieter search than was made
    (tmp_path / "model" / "change.json").write_text(raised)
    with pytest.raises(cm.CasemateError):
        cm.load(tmp_path / "model")


@pytest.fixture
def torch() -> Any:
    """Return torch with its optimisers, whose first use loads its compiler: not the test's own seconds."""
    found = pytest.importorskip("torch")
    found.optim.SGD(found.nn.Linear(1, 1).parameters(), lr=0.1)
    return found


@pytest.mark.slow  # calibrating sampled noise takes seconds
def test_networks_are_searched_too_and_the_dearest_run_is_charged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torch: Any
) -> None:
    fixed_runs(monkeypatch, 3)
    x = np.random.default_rng(0).uniform(-1, 1, (300, 2))
    data = cm.Dataset(train=(x[:200], (x[:200, 0] > 0) * 1), holdout=(x[200:], (x[200:, 0] > 0) * 1))
    recipe = cm.Recipe(factory=lambda: torch.nn.Linear(2, 2), epochs=2, learning_rate=1.0)
    network = cm.wrap(recipe.factory(), recipe=recipe, outputs="logits")
    given = [
        cm.method("dp_sgd", epsilon=1, delta=1e-5, settings={"epochs": epochs, "learning_rate": 0.5})
        for epochs in (1, 2)
    ]
    ledger = budget(tmp_path, unit="record")
    change = cm.tune(network, data, candidates=given, judge=NOISY, ledger=ledger)
    (plan,) = change.target.claims
    assert plan.run.sampler == "poisson" and plan.run.steps == 16 and plan.run.epsilon > 1  # of two at 1
    assert [spend.event for spend in ledger.spends()] == [plan.event]
    with pytest.raises(InvalidData, match="does not offer"):
        cm.tune(MODEL, DATA, candidates=given, judge=NOISY)
