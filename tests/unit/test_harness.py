# SPDX-License-Identifier: Apache-2.0
"""Harness: limits what a method sees, trusts nothing it returns, and leaves no method without a row."""

from dataclasses import dataclass, replace
from typing import Any

import joblib
import numpy as np
import pytest

import casemate as cm
from casemate.core import harness, stats
from casemate.core.errors import BudgetExhausted, InvalidData, InvalidThreat, MissingCapability
from casemate.core.methods import Card, Method, Quantity, find, names
from casemate.core.run import Run
from casemate.core.types import LABELS, MODULE, SCORES, Capability, Target, Threat


@dataclass(frozen=True, kw_only=True)
class Sign(Target):
    """Says 1 when the first column is positive: an oracle with a known answer."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        return frozenset({LABELS, SCORES})

    @property
    def kind(self) -> str:
        return "sign"

    def native_classes(self) -> tuple[Any, ...]:
        return (0, 1)

    def digest(self) -> str:
        return "0"

    def labels(self, x: Any) -> np.ndarray:
        return (x[:, 0] > 0).astype(np.int64)

    def scores(self, x: Any) -> np.ndarray:
        p = 1 / (1 + np.exp(-x[:, 0]))
        return np.column_stack([1 - p, p])


def world(n: int = 40) -> tuple[Target, cm.Dataset]:
    x = np.column_stack([np.linspace(-1, 1, n), np.linspace(0, 1, n)])
    y = (x[:, 0] > 0).astype(int)
    return Sign().bind(cm.Dataset(train=(x, y), holdout=(x, y)))


def card(**fields: Any) -> Card:
    base: dict[str, Any] = {
        "name": "probe",
        "property": "robustness",
        "kind": "evasion",
        "needs": frozenset({LABELS}),
        "cost": "-",
        "title": {"en": "probe", "zh": "探针"},
        "reference": "-",
        "quantities": {"q": Quantity(worse="higher", en="q", zh="q")},
    }
    return Card(**{**base, **fields})


def attack(shift: np.ndarray, **fields: Any) -> Method:
    def probe(target: Target, data: cm.Dataset, *, threat: Any = None, run: Any = None) -> np.ndarray:
        return np.asarray(data.holdout.x + shift)

    return Method(card(**fields), probe)


def robust(shift: Any, **threat: Any) -> dict[str, Any]:
    target, data = world()
    chosen = Threat(**{"norm": "linf", "radius": 0.5, "scale": "raw", **threat}).resolved(data.schema)
    run = Run(card=card(), threat=chosen, effort="deep")
    return {row.quantity: row for row in harness.execute(attack(np.asarray(shift)), target, data, run, {})}


def test_the_known_answer() -> None:
    # moving the first column by -0.5 turns exactly the points in (0, 0.5]; the others stay right
    rows = robust([-0.5, 0.0])
    x = np.linspace(-1, 1, 40)
    inside = x - 0.5 >= -1
    turned = (x > 0) & (x <= 0.5) & inside
    assert rows["robust_accuracy"].value == 1 - turned.mean()
    assert rows["invalid_examples"].value == pytest.approx((~inside).mean())


def test_what_is_wrong_unattacked_is_not_robust() -> None:
    target, data = world()
    y = data.holdout.y.copy()
    y[::5] = 1 - y[::5]
    data = cm.Dataset(train=(data.train.x, data.train.y), holdout=(data.holdout.x, y))
    target, data = Sign().bind(data)
    run = Run(
        card=card(), threat=Threat(norm="linf", radius=0.5, scale="raw").resolved(data.schema), effort="deep"
    )
    for shift, wanted in ((0.0, 0.8), (-0.001, 0.8)):  # neither changes any label
        rows = harness.execute(attack(np.array([shift, 0.0])), target, data, run, {})
        assert rows[0].quantity == "robust_accuracy"
        assert rows[0].value == pytest.approx(wanted)


def test_an_attack_that_cheats_counts_as_no_attack() -> None:
    rows = robust([-0.6, 0.0])
    assert rows["invalid_examples"].value == 1.0 and rows["robust_accuracy"].value == 1.0
    assert rows["invalid_examples"].details[0].rows[0] == ("radius", 40)


def test_nan_and_wrong_shapes_are_not_examples() -> None:
    assert robust([np.nan, 0.0])["invalid_examples"].value == 1.0
    with pytest.raises(InvalidData, match="shape"):
        target, data = world()
        bad = Method(card(), lambda target, data, *, run: data.holdout.x[:3])
        harness.execute(
            bad, target, data, Run(card=card(), threat=Threat(norm="linf", radius=1, scale="raw")), {}
        )


def test_an_attack_that_writes_into_its_input_is_measured_against_the_original() -> None:
    def probe(target: Target, data: cm.Dataset, *, threat: Any = None, run: Any = None) -> np.ndarray:
        data.holdout.x[:, 0] = -0.9
        return np.asarray(data.holdout.x)

    target, data = world()
    before = data.holdout.x.copy()
    run = Run(card=card(), threat=Threat(norm="linf", radius=0.5, scale="raw").resolved(data.schema))
    rows = {row.quantity: row for row in harness.execute(Method(card(), probe), target, data, run, {})}
    # the first column moves 0.9 + x: within 0.5 for x <= -0.4 only, and those keep their class
    assert rows["robust_accuracy"].value == 1.0
    assert rows["invalid_examples"].value == pytest.approx((before[:, 0] > -0.4).mean())
    np.testing.assert_array_equal(data.holdout.x, before)


@pytest.mark.parametrize("junk", [None, "words", [[1.0], [2.0, 3.0]], {"x": 1}])
def test_what_is_no_array_of_numbers_is_refused_in_one_line(junk: Any) -> None:
    target, data = world()
    run = Run(card=card(), threat=Threat(norm="linf", radius=0.5, scale="raw").resolved(data.schema))
    method = Method(card(), lambda target, data, *, threat=None, run=None: junk)
    with pytest.raises(InvalidData, match=r"array of numbers|have shape") as caught:
        harness.execute(method, target, data, run, {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [np.uint8, bool])
def test_whole_pixels_between_the_grid_are_no_example_and_the_model_sees_the_users_dtype(kind: type) -> None:
    seen = set()

    def ask(images: Any) -> np.ndarray:
        seen.add(images.dtype)
        return (images[:, 0, 0, 0] > 0).astype(np.int64)

    x = np.zeros((8, 1, 2, 2), kind)
    x[::2, 0, 0, 0] = 1
    target, data = cm.wrap(ask, outputs="labels").bind(cm.Dataset((x, [1, 0] * 4), (x, [1, 0] * 4)))
    run = Run(card=card(), threat=Threat(norm="linf", radius=1.0).resolved(data.schema))
    for shift, share in ((0.5, 1.0), (1.0, 0.0)):
        turned = np.abs(x.astype(float) - shift)
        method = Method(card(), lambda target, data, *, threat=None, run=None, turned=turned: turned)
        rows = {row.quantity: row for row in harness.execute(method, target, data, run, {"turned": turned})}
        assert rows["invalid_examples"].value == share
        assert rows["robust_accuracy"].value == share
    assert seen == {np.dtype(kind)}


def test_a_goal_is_judged_by_reaching_it() -> None:
    rows = robust([-0.5, 0.0], goal=0)
    x = np.linspace(-1, 1, 40)
    others = x > 0  # the true class of the rest is the goal: they need no attack and do not count
    assert rows["robust_accuracy"].n == others.sum()
    assert rows["robust_accuracy"].value == pytest.approx(1 - (x[others] - 0.5 <= 0).mean())


def test_a_method_sees_only_what_its_card_declares() -> None:
    target, data = world()

    def nosy(target: Target, data: cm.Dataset, *, run: Any) -> Any:
        return target.scores(data.holdout.x)

    with pytest.raises(MissingCapability, match="does not offer scores"):
        harness.invoke(Method(card(kind="check"), nosy), target, data, Run(card=card(kind="check")), {})


def test_queries_are_counted_and_the_budget_stops_before_the_call() -> None:
    target, data = world()
    view = target.limited_to(LABELS, n_queries=50)
    view.labels(data.holdout.x)
    with pytest.raises(BudgetExhausted, match="budget of 50 rows"):
        view.labels(data.holdout.x)
    assert view.counter.tally["rows"] == 40 and view.counter.tally["calls"] == 1  # type: ignore[attr-defined]


def test_unavailable_says_why() -> None:
    target, _ = world()
    assert "needs module" in harness.unavailable(card(needs=frozenset({MODULE})), target)
    assert "is for regression" in harness.unavailable(card(tasks=frozenset({"regression"})), target)
    assert "is for text input" in harness.unavailable(card(inputs=frozenset({"text"})), target)
    assert harness.unavailable(card(), target) == ""


def test_parameters_are_checked_by_name_and_kind() -> None:
    def probe(target: Any, data: Any, *, steps: int = 4, rate: float = 0.5, run: Any = None) -> None: ...

    method = Method(card(quick={"steps": 2}), probe)
    assert harness.parameters(method, "quick", {}) == {"steps": 2, "rate": 0.5}
    assert harness.parameters(method, "quick", {"steps": 9, "rate": 1}) == {"steps": 9, "rate": 1}
    with pytest.raises(InvalidData, match="no parameter 'stpes'"):
        harness.parameters(method, "quick", {"stpes": 1})
    for wrong in ("3", 2.5, True):
        with pytest.raises(InvalidData, match="a whole number"):
            harness.parameters(method, "quick", {"steps": wrong})


def test_quantities_must_stand_on_the_card() -> None:
    run = Run(card=card())
    assert run.measure("q", 1.0, 1.0, 1.0, 3).status == "measured"
    assert run.unresolved("q", "too few", 3).status == "not_measured"
    with pytest.raises(InvalidData, match="does not list"):
        run.measure("other", 1.0, 1.0, 1.0, 3)


def _draw(item: int, seed: int) -> float:
    return item + np.random.default_rng(seed).random()


def test_map_gives_the_same_for_any_number_of_jobs_and_leaves_no_folder(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    run = Run(card=card(), seed=3)
    alone = run.map(_draw, range(7))
    with joblib.parallel_config(backend="threading", n_jobs=3):
        together = run.map(_draw, range(7))
    assert alone == together and len(set(alone)) == 7
    assert not list(tmp_path.iterdir())


def test_map_cleans_up_when_work_fails_and_reports_progress(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    seen: list[tuple[str, int, int]] = []
    run = Run(card=card(), progress=lambda *step: seen.append(step))
    with pytest.raises(ZeroDivisionError):
        run.map(lambda item, seed: 1 // item, [1, 0])
    assert seen == [("probe: work", 0, 2), ("probe: work", 1, 2)]
    assert not list(tmp_path.iterdir())


def test_a_deadline_lowers_a_count_but_never_a_pinned_one(monkeypatch) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    run = Run(card=card(), deadline=101.0)
    assert run.affordable("n", 64, 0.1, least=4) == run.used["n"] == 10
    assert run.affordable("n", 64, 100.0, least=4) == 4
    assert replace(run, pinned=frozenset({"n"})).affordable("n", 64, 100.0, least=4) == 64
    assert Run(card=card()).affordable("n", 64, 100.0, least=4) == 64


def test_goal_outside_the_classes_is_refused() -> None:
    target, data = world()
    with pytest.raises(InvalidThreat, match="goal 7"):
        harness.resolve(Threat(goal=7), card(), target, data)


def test_utility_of_the_oracle_is_exact() -> None:
    target, data = world()
    rows = {row.quantity: row for row in harness.utility(target, data, Run(card=harness.UTILITY))}
    assert rows["accuracy"].value == 1.0 and rows["accuracy"].low > 0.9
    assert rows["roc_auc"].value == 1.0
    p = target.scores(data.holdout.x)[np.arange(40), data.holdout.y]
    assert rows["log_loss"].value == pytest.approx(-np.log(p).mean())


def test_utility_is_of_held_out_rows_and_counts_people() -> None:
    x = np.column_stack([np.linspace(-1, 1, 60), np.zeros(60)])
    right, people = (x[:, 0] > 0).astype(int), np.repeat(np.arange(12), 5)
    wrong = np.where(people < 3, 1 - right, right)  # every row of three people in twelve
    target, data = Sign().bind(cm.Dataset(train=(x, right, people + 100), holdout=(x, wrong, people)))
    rows = {row.quantity: row for row in harness.utility(target, data, Run(card=harness.UTILITY))}
    found, hits = rows["accuracy"], wrong == right
    assert (found.value, rows["accuracy_train"].value) == (0.75, 1.0)
    by_person, by_row = stats.proportion(hits, clusters=people), stats.proportion(hits)
    assert (found.n, found.low, found.high) == (12, by_person.low, by_person.high)
    assert found.high - found.low > 1.5 * (by_row.high - by_row.low)
    assert rows["log_loss"].n == 12


def test_no_limit_of_a_loss_is_negative() -> None:
    """Four rows that are right and one that is not: a symmetric interval would reach below zero."""
    x = np.column_stack([np.array([-20.0, -10.0, 10.0, 20.0, 15.0]), np.zeros(5)])
    y = np.array([0, 0, 1, 1, 0])
    target, data = Sign().bind(cm.Dataset(train=(x, y), holdout=(x + 0.01, y)))
    rows = {row.quantity: row for row in harness.utility(target, data, Run(card=harness.UTILITY))}
    loss = rows["log_loss"]
    assert loss.low == 0.0
    assert loss.value is not None and loss.high is not None and 0 < loss.value < loss.high


def test_one_record_of_a_class_in_the_holdout_costs_one_row_not_the_audit() -> None:
    """A rare disease: an AUC of one positive has no interval; everything else is still measured."""
    target, data = world()
    for rare in (0, 1):
        keep = np.r_[np.flatnonzero(data.holdout.y == 0), np.flatnonzero(data.holdout.y == 1)[:rare]]
        few = data.with_holdout(keep)
        rows = {row.quantity: row for row in harness.utility(target, few, Run(card=harness.UTILITY))}
        assert rows["roc_auc"].status == "not_measured"
        assert f"2 records of each class in the held-out rows; one class has {rare}" in rows["roc_auc"].reason
        assert rows["accuracy"].status == "measured"


def test_a_part_of_one_person_is_refused_in_words() -> None:
    x, y = np.random.default_rng(0).normal(size=(20, 2)), np.arange(20) % 2
    target, data = Sign().bind(
        cm.Dataset((x[:10], y[:10], np.zeros(10, int)), (x[10:], y[10:], np.arange(1, 11)))
    )
    with pytest.raises(InvalidData, match="train holds rows of one person only"):
        harness.utility(target, data, Run(card=harness.UTILITY))


def test_registry_knows_methods_by_file_name_and_offers_near_ones() -> None:
    assert {"lira", "pgd", "loss_attack", "permutation_importance", "rounding"} <= set(names())
    with pytest.raises(InvalidData, match="did you mean lira"):
        find("lyra")
