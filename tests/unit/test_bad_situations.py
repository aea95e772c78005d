# SPDX-License-Identifier: Apache-2.0
"""Planted bad situations: each is said in words on the page and on the terminal, and nothing about it reads as a pass.

A situation is a small real world that goes through ``cm.audit``, ``cm.harden``, ``cm.compare`` or a file. What comes
of it is a report, a comparison or a refusal. Then it is asked of all of them alike: do the words that name the trouble
stand on both, does any generous gate on the figure in question hold, is anything green, is the exit code 0?
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import micro
import numpy as np
import pandas as pd
import pytest
import worlds
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

import casemate as cm
from casemate.cli.terminal import judged, one_line
from casemate.core import harness, stats, twins
from casemate.core.errors import CasemateError, GuaranteeVoid, InvalidData, MissingExtra
from casemate.core.types import Measurement
from casemate.privacy.plan import Plan
from casemate.report import claims, gates, plain, render, verdict
from casemate.report.compare import Comparison
from casemate.report.model import Report

Gate = tuple[str, str, str, float]


@dataclass(frozen=True, kw_only=True)
class Bad:
    """What came of a situation, the words that must be seen, and the gates a good model would hold."""

    made: Report | Comparison | CasemateError
    says: tuple[str, ...]
    gates: tuple[Gate, ...] = ()
    required: str = ""  # a method the user asked for by name
    open: tuple[str, ...] = ()  # properties about which nothing reassuring may be said
    page_only: bool = False  # tables and notes stand on the page; 25 lines of a terminal do not hold them


@dataclass(frozen=True)
class Place:
    folder: Path
    patch: pytest.MonkeyPatch


SITUATIONS: dict[str, Callable[[Place], Bad]] = {}


def situation(build: Callable[[Place], Bad]) -> Callable[[Place], Bad]:
    SITUATIONS[build.__name__] = build
    return build


# ---------------------------------------------------------------------- the question


class Page(HTMLParser):
    """The English words of a page and the classes of its elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.classes: set[str] = set()
        self.open: list[tuple[str, bool]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.classes |= set((given.get("class") or "").split())
        if tag not in ("meta", "link", "input", "br", "path", "circle", "rect", "line"):
            hidden = bool(self.open and self.open[-1][1]) or tag == "style" or given.get("lang") == "zh-CN"
            self.open.append((tag, hidden))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.classes |= set((dict(attrs).get("class") or "").split())

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not (self.open and self.open[-1][1]):
            self.words.append(data)


def shown(made: Report | Comparison) -> tuple[Page, str]:
    if isinstance(made, Comparison):
        return Page(render.page_comparison(made)), plain.text_comparison(made)
    return Page(render.page(made)), plain.text(made)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


def ask(bad: Bad) -> None:
    if isinstance(bad.made, CasemateError):
        assert bad.made.exit_code in (2, 3, 4)
        for words in bad.says:
            assert words in one_line(bad.made)
        return
    page, terminal = shown(bad.made)
    on_page = " ".join("".join(page.words).split())
    for words in bad.says:
        assert words in on_page
        assert bad.page_only or words in terminal
    assert not page.classes & {"better", "held", "good"}
    reports = bad.made.reports if isinstance(bad.made, Comparison) else (bad.made,)
    for sentence in verdict.sentences(reports[-1]):
        if sentence.property in bad.open:
            assert sentence.state in ("none", "found"), sentence.short["en"]
    if isinstance(bad.made, Comparison) and bad.made.gates:
        assert bad.made.exit_code != 0
    for method, quantity, bound, limit in bad.gates:
        gate = gates.Gate(method=method, quantity=quantity, bound=bound, limit=limit)  # type: ignore[arg-type]
        results = gates.judge([gate], [reports[-1]])
        assert {result.result for result in results}.isdisjoint({"held"}), str(results[0])
        assert gates.exit_code(results) != 0
    if bad.required and isinstance(bad.made, Report):
        assert judged(bad.made, {bad.required}) != 0


# ---------------------------------------------------------------------- worlds


def data(n: int = 60, **options: Any) -> cm.Dataset:
    return cm.Dataset(train=worlds.rows(n, 1), holdout=worlds.rows(n, 2), **options)


def linear(n: int = 60) -> Any:
    return LogisticRegression().fit(*worlds.rows(n, 1))


def memorised(n: int = 60) -> tuple[Any, cm.Dataset]:
    """A tree that learnt random labels by heart."""
    draw = np.random.default_rng(5)
    parts = [(worlds.rows(n, seed)[0], draw.integers(0, 2, n)) for seed in (1, 2)]
    return DecisionTreeClassifier(random_state=0).fit(*parts[0]), cm.Dataset(train=parts[0], holdout=parts[1])


def audited(model: Any, given: cm.Dataset, *methods: Any, **options: Any) -> Report:
    return cm.audit(model, given, methods=list(methods), **{"effort": "quick", **options})


def refused(call: Callable[[], Any]) -> CasemateError:
    with pytest.raises(CasemateError) as caught:
        call()
    return caught.value


@cache
def before() -> Report:
    return audited(linear(), data(), "loss_attack", seed=3)


def edited(report: Report, **changed: Any) -> Report:
    """Return the report as a hand might edit its file."""
    return Report.from_dict({**report.to_dict(), **changed})


def with_row(report: Report, quantity: str, **changed: Any) -> dict[str, Any]:
    raw = report.to_dict()
    for row in raw["measurements"]:
        if row["quantity"] == quantity:
            row.update(changed)
    return raw


AUC = ("loss_attack", "auc", "max", 0.999)
ACCURACY = ("utility", "accuracy", "min", 0.001)
HOLDS = {name: (name, "robust_accuracy", "min", 0.001) for name in ("pgd", "tabular_attack", "hop_skip_jump")}


# ---------------------------------------------------------------------- attacks and models that show nothing


@situation
def a_model_that_always_answers_the_same(place: Place) -> Bad:
    model = DummyClassifier(strategy="constant", constant=1).fit(*worlds.rows(60, 1))
    report = audited(model, data(), "loss_attack", "tabular_attack")
    says = ("an answer that never changes gives nothing away", "The model calls every point attacked 1")
    return Bad(made=report, says=says, gates=(AUC, HOLDS["tabular_attack"]), open=("privacy", "robustness"))


@situation
def an_attack_that_gives_all_records_of_a_class_one_score(place: Place) -> Bad:
    def sure(rows: np.ndarray) -> np.ndarray:
        return np.eye(2)[(rows[:, 0] > 0).astype(int)] * 0.8 + 0.1

    draw = np.random.default_rng(0)
    parts = [(x, (x[:, 0] > 0).astype(int)) for x in draw.uniform(-1, 1, (2, 60, 4))]
    report = audited(sure, cm.Dataset(train=parts[0], holdout=parts[1]), "loss_attack")
    return Bad(
        made=report, says=("the same score: it cannot tell them apart",), gates=(AUC,), open=("privacy",)
    )


@situation
def scores_so_coarse_that_no_threshold_is_left(place: Place) -> Bad:
    """Half of the non-members share the top score: nobody can be flagged, which is no protection."""
    draw = np.random.default_rng(0)
    parts = [(draw.normal(size=(1100, 2)), draw.integers(0, 2, 1100)) for _ in range(2)]

    def model(rows: np.ndarray) -> np.ndarray:
        return np.eye(2)[(rows[:, 1] > 0).astype(int)] * 0.6 + 0.2

    report = audited(
        cm.wrap(model, classes=[0, 1]), cm.Dataset(train=parts[0], holdout=parts[1]), "loss_attack"
    )
    gate = ("loss_attack", "tpr_at_1pct_fpr", "max", 0.9)
    return Bad(made=report, says=("share the highest score of all", "whatever leaks"), gates=(gate,))


def _net(forward: Callable[[Any], Any]) -> Any:
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, rows: Any) -> Any:
            return forward(rows)

    return cm.wrap(Net(), outputs="logits")


@situation
def a_model_that_hides_its_gradient(place: Place) -> Bad:
    def steps(rows: Any) -> Any:
        import torch

        side = torch.sign(rows[:, 0]).detach()
        return torch.stack([-side, side], 1)

    report = audited(_net(steps), data(), "pgd")
    says = ("the gradient is zero or nothing may move", "a masked gradient is no resistance")
    return Bad(made=report, says=says, gates=(HOLDS["pgd"],), open=("robustness",))


@situation
def a_gradient_that_points_elsewhere_and_is_beaten_by_an_attack_that_sees_scores(place: Place) -> Bad:
    def crooked(rows: Any) -> Any:
        import torch

        side = torch.tanh(3 * rows[:, 0]).detach() + 1e-3 * (rows[:, 3] - rows[:, 3].detach())
        return torch.stack([-side, side], 1)

    report = audited(_net(crooked), data(200), "pgd", "tabular_attack", threat=cm.Threat(radius=0.8))
    says = ("tabular_attack sees less of the model and leaves only", "gradient may be masked")
    return Bad(made=report, says=says, gates=(HOLDS["pgd"],))


@situation
def a_model_that_answers_at_random(place: Place) -> Bad:
    draw, inner = np.random.default_rng(3), linear()

    def model(rows: np.ndarray) -> np.ndarray:
        return np.abs(inner.predict_proba(rows) - (draw.random(len(rows)) < 0.3)[:, None])

    report = audited(model, data(), "tabular_attack")
    says = ("unchanged points differently: it answers at random",)
    return Bad(made=report, says=says, gates=(HOLDS["tabular_attack"],), open=("robustness",))


@situation
def a_radius_of_nothing(place: Place) -> Bad:
    report = audited(linear(), data(), "tabular_attack", threat=cm.Threat(radius=0.0))
    return Bad(made=report, says=("the radius is 0: nothing was changed",), gates=(HOLDS["tabular_attack"],))


@situation
def a_radius_wider_than_the_data(place: Place) -> Bad:
    report = audited(linear(), data(), "hop_skip_jump", threat=cm.Threat(radius=50.0))
    says = ("the radius 50 is as wide as the range of what may change",)
    return Bad(made=report, says=says, gates=(("hop_skip_jump", "robust_accuracy", "min", 0.0),))


@situation
def an_attack_that_may_move_no_column(place: Place) -> Bad:
    frozen = data(immutable=[f"x{i}" for i in range(4)])
    report = audited(linear(), frozen, "tabular_attack", "hop_skip_jump")
    return Bad(
        made=report, says=("no column may change: nothing was attacked",), gates=tuple(HOLDS.values())[1:]
    )


@situation
def an_attack_that_raises(place: Place) -> Bad:
    def broken(method: Any, *args: Any) -> Any:
        raise ZeroDivisionError("the step is gone")

    place.patch.setattr(harness, "invoke", broken)
    report = audited(linear(), data(), "loss_attack")
    says = ("internal error: ZeroDivisionError: the step is gone", "loss_attack")
    return Bad(made=report, says=says, gates=(AUC,), required="loss_attack", open=("privacy",))


@situation
def an_attack_that_runs_out_of_queries(place: Place) -> Bad:
    report = audited(linear(), data(), "loss_attack", threat=cm.Threat(n_queries=5))
    says = ("query budget of 5 rows used up",)
    return Bad(made=report, says=says, gates=(AUC,), required="loss_attack", open=("privacy",))


@situation
def an_effort_that_the_clock_cut(place: Place) -> Bad:
    place.patch.setattr(harness, "QUICK_SECONDS", 0.0)
    model, given = memorised()
    report = audited(model, given, "lira")
    return Bad(made=report, says=("the clock of effort quick cut lira: n_shadows 4 of 16",))


@situation
def a_target_that_does_not_offer_what_the_attack_needs(place: Place) -> Bad:
    report = audited(cm.wrap(linear().predict, outputs="labels"), data(), "loss_attack")
    says = ("needs scores, which this predict function target does not offer",)
    return Bad(made=report, says=says, gates=(AUC,), required="loss_attack", open=("privacy",))


@situation
def a_package_that_is_not_installed(place: Place) -> Bad:
    def lacking(method: Any, *args: Any) -> Any:
        raise MissingExtra("pgd needs torch: pip install 'casemate[torch]'")

    place.patch.setattr(harness, "invoke", lacking)
    report = audited(linear(), data(), "tabular_attack")
    says = ("pip install 'casemate[torch]'",)
    return Bad(made=report, says=says, gates=(HOLDS["tabular_attack"],), required="tabular_attack")


class Unrepeatable(DecisionTreeClassifier):  # type: ignore[misc]
    """Was trained once and cannot be trained again."""

    def fit(self, x: Any, y: Any) -> Any:
        if len(x) != 60:
            raise RuntimeError("the licence allows one training")
        return super().fit(x, y)


@situation
def shadows_that_cannot_be_trained(place: Place) -> Bad:
    holdout = worlds.rows(90, 2)
    report = audited(
        Unrepeatable().fit(*worlds.rows(60, 1)), cm.Dataset(train=worlds.rows(60, 1), holdout=holdout), "lira"
    )
    says = ("the licence allows one training",)
    return Bad(
        made=report, says=says, gates=(("lira", "auc", "max", 0.999),), required="lira", open=("privacy",)
    )


@situation
def a_recipe_that_was_guessed(place: Place) -> Bad:
    case = micro.case("lgbm_booster")
    return Bad(made=audited(case.target, case.data), says=("refits guess how the model was trained",))


# ---------------------------------------------------------------------- data that cannot answer


@situation
def held_out_rows_that_are_the_training_rows(place: Place) -> Bad:
    rows = worlds.rows(60, 1)
    report = audited(linear(), cm.Dataset(train=rows, holdout=rows), "loss_attack", "tabular_attack")
    says = ("60 of 60 held-out rows are training rows too", "do not occur in the other part; got 0")
    shut = (ACCURACY, ("utility", "roc_auc", "min", 0.001), HOLDS["tabular_attack"], AUC)
    return Bad(made=report, says=says, gates=shut, required="loss_attack", open=("privacy", "robustness"))


@situation
def a_third_of_the_held_out_rows_in_train(place: Place) -> Bad:
    (x, y), (xh, yh) = worlds.rows(60, 1), worlds.rows(60, 2)
    xh[:20], yh[:20] = x[:20], y[:20]
    report = audited(linear(), cm.Dataset(train=(x, y), holdout=(xh, yh)), "loss_attack")
    says = ("20 of 60 held-out rows are training rows too",)
    # membership leaves exact copies out: what it says of the other 40 rows stands
    assert report["loss_attack", "auc"].status == "measured"
    return Bad(made=report, says=says, gates=(ACCURACY,))


@situation
def held_out_rows_that_nearly_are_the_training_rows(place: Place) -> Bad:
    (x, y), draw = worlds.rows(60, 1), np.random.default_rng(0)
    noisy = x + 1e-6 * draw.normal(size=x.shape)
    report = audited(linear(), cm.Dataset(train=(x, y), holdout=(noisy, y)), "loss_attack", "tabular_attack")
    shut = (ACCURACY, AUC, HOLDS["tabular_attack"])
    return Bad(made=report, says=("held-out rows are training rows too",), gates=shut, open=("privacy",))


@situation
def the_same_people_under_other_names(place: Place) -> Bad:
    (x, y), owner = (np.repeat(part, 2, axis=0) for part in worlds.rows(30, 1)), np.repeat(np.arange(30), 2)
    given = cm.Dataset(
        train=(x, y, owner), holdout=(x, y, owner + 1000)
    )  # each with two rows that are the same
    says = ("30 of 30 held-out people have rows of others in train",)
    return Bad(made=audited(linear(), given), says=says, gates=(ACCURACY,))


@situation
def a_person_on_both_sides(place: Place) -> Bad:
    (x, y), owner = worlds.rows(60, 1), np.repeat(np.arange(30), 2)
    error = refused(lambda: cm.Dataset(train=(x, y, owner), holdout=(*worlds.rows(60, 2), owner + 20)))
    return Bad(made=error, says=("10 people stand in both train and holdout; split by person",))


@situation
def held_out_rows_from_elsewhere(place: Place) -> Bad:
    (x, y), (xh, yh) = worlds.rows(120, 1), worlds.rows(120, 2)
    report = audited(
        LogisticRegression().fit(x, y), cm.Dataset(train=(x, y), holdout=(xh + 3, yh)), "loss_attack"
    )
    says = ("come from different distributions, so this does not measure the model",)
    return Bad(made=report, says=says, gates=(AUC,), open=("privacy",))


@situation
def five_rows(place: Place) -> Bad:
    parts = [(np.arange(10.0).reshape(5, 2) + shift, np.array([0, 1, 0, 1, 1])) for shift in (0, 100)]
    model = LogisticRegression().fit(*parts[0])
    report = audited(
        model, cm.Dataset(train=parts[0], holdout=parts[1]), "loss_attack", "permutation_importance"
    )
    says = ("too few to show anything", "need >= 1,000 non-member distinct records, has 5")
    shut = (("loss_attack", "tpr_at_1pct_fpr", "max", 0.999), ("utility", "accuracy", "min", 0.7), AUC)
    return Bad(made=report, says=says, gates=shut, open=("privacy",))


@situation
def one_class_among_the_held_out_rows(place: Place) -> Bad:
    x, y = worlds.rows(200, 2)
    only = y == 1
    report = audited(linear(), cm.Dataset(train=worlds.rows(60, 1), holdout=(x[only], y[only])))
    says = ("held-out rows are of class 1: always saying so would be right", "one class has 0")
    return Bad(made=report, says=says, gates=(ACCURACY, ("utility", "roc_auc", "min", 0.001)))


@situation
def labels_that_are_all_wrong(place: Place) -> Bad:
    x, y = worlds.rows(60, 1)
    report = audited(LogisticRegression().fit(x, 1 - y), data())
    says = ("right less often than if it always said", "are labels, classes or columns mixed up?")
    return Bad(made=report, says=says, gates=(("utility", "accuracy", "min", 0.4),))


@situation
def scores_whose_order_was_guessed(place: Place) -> Bad:
    inner = linear()
    report = audited(lambda rows: inner.predict_proba(rows)[:, ::-1], data())
    says = (
        "classes= was not given: column i of the scores is taken",
        "are labels, classes or columns mixed up?",
    )
    return Bad(made=report, says=says, gates=(("utility", "accuracy", "min", 0.4),))


@situation
def a_sensitive_group_of_three(place: Place) -> Bad:
    x, y = worlds.rows(60, 2)
    frames = []
    for rows, few in ((worlds.rows(60, 1)[0], 5), (x, 3)):
        frame = pd.DataFrame(rows, columns=list("abcd"))
        frame["ward"] = ["small"] * few + ["large"] * (60 - few)
        frames.append(frame)
    parts = [(frame, labels) for frame, labels in zip(frames, (worlds.rows(60, 1)[1], y), strict=True)]

    def model(rows: pd.DataFrame) -> np.ndarray:
        return np.column_stack([rows["a"] <= 0, rows["a"] > 0]).astype(float)

    report = audited(cm.wrap(model, classes=[0, 1]), cm.Dataset(*parts, sensitive=["ward"]))
    return Bad(made=report, says=("ward = small", "fewer than ten: no figure"), page_only=True)


# ---------------------------------------------------------------------- answers that are none


def _asked(answer: Callable[[np.ndarray], np.ndarray]) -> CasemateError:
    return refused(lambda: audited(answer, data()))


@situation
def scores_that_do_not_sum_to_one(place: Place) -> Bad:
    return Bad(
        made=_asked(lambda rows: np.full((len(rows), 2), 0.7)), says=("no probabilities", "sum to one")
    )


@situation
def logits_taken_for_probabilities(place: Place) -> Bad:
    made = _asked(lambda rows: np.column_stack([-3 * rows[:, 0], 3 * rows[:, 0]]))
    return Bad(made=made, says=("returned rows that are no probabilities", "finite, >= 0 and sum to one"))


@situation
def scores_that_are_nan(place: Place) -> Bad:
    return Bad(made=_asked(lambda rows: np.full((len(rows), 2), np.nan)), says=("no probabilities", "finite"))


# ---------------------------------------------------------------------- explanations that explain nothing


@situation
def importances_that_are_all_luck(place: Place) -> Bad:
    parts = [worlds.rows(40, seed) for seed in (1, 2)]
    draw = np.random.default_rng(1)
    noise = [(x, draw.integers(0, 2, len(y))) for x, y in parts]
    model = DecisionTreeClassifier(max_depth=3, random_state=0).fit(*noise[0])
    report = audited(model, cm.Dataset(train=noise[0], holdout=noise[1]), "permutation_importance")
    gate = ("permutation_importance", "rank_agreement", "min", 0.0)
    return Bad(made=report, says=("shown to count",), gates=(gate,))


@situation
def explanations_of_a_model_that_looks_at_nothing(place: Place) -> Bad:
    """All attributions are 0: they agree with each other, do not change, and fit perfectly."""
    model = DummyClassifier(strategy="constant", constant=1).fit(*worlds.rows(60, 1))
    steady = cm.method("explanation_stability", n_rows=5, n_samples=100, n_seeds=3)
    report = audited(model, data(), cm.method("lime", n_samples=100, n_rows=5), steady)
    shut = [("explanation_stability", "top_k_agreement", "min", 0.0), ("lime", "local_fit", "min", 0.0)]
    shut.append(("explanation_stability", "top_changes", "max", 1.0))
    says = ("the model answers the same whatever it is asked: there is nothing to explain",)
    return Bad(made=report, says=says, gates=tuple(shut), open=("explanation",))


@situation
def a_model_file_with_a_class_nobody_vouched_for(place: Place) -> Bad:
    target = replace(cm.wrap(linear()), source=_source(place, b"cmy_models\nNet\n."))
    report = audited(target, data(), "scan_artefact")
    gate = ("scan_artefact", "dangerous_objects", "max", 0.0)
    return Bad(made=report, says=("not known to be harmless", "scan_artefact"), gates=(gate,))


def _source(place: Place, raw: bytes) -> dict[str, str]:
    import hashlib

    path = place.folder / "model.pkl"
    path.write_bytes(raw)
    return {"path": str(path), "sha256": hashlib.sha256(raw).hexdigest(), "format": "pickle"}


@situation
def a_model_file_that_is_gone(place: Place) -> Bad:
    target = replace(cm.wrap(linear()), source=_source(place, pickle.dumps({"a": 1})))
    Path(target.source["path"]).unlink()
    report = audited(target, data(), "scan_artefact")
    gate = ("scan_artefact", "dangerous_objects", "max", 0.0)
    says = ("the file cannot be read any more",)
    return Bad(made=report, says=says, gates=(gate,), required="scan_artefact", open=("confidentiality",))


@situation
def a_model_file_that_is_another_by_now(place: Place) -> Bad:
    target = replace(cm.wrap(linear()), source=_source(place, pickle.dumps({"a": 1})))
    Path(target.source["path"]).write_bytes(pickle.dumps({"a": 2}))
    report = audited(target, data(), "scan_artefact")
    gate = ("scan_artefact", "dangerous_objects", "max", 0.0)
    says = ("is not the file that was loaded: its SHA-256 has changed",)
    return Bad(made=report, says=says, gates=(gate,), required="scan_artefact", open=("confidentiality",))


# ---------------------------------------------------------------------- guarantees that are none

PLAN = Plan(unit="record", clip=1.0, noise_multiplier=60.0, steps=4, delta=1e-5)


@cache
def promised() -> Report:
    """A tree that knows every record by heart, and states differential privacy."""
    model, given = memorised()
    return audited(replace(cm.wrap(model), claims=(PLAN,)), given, "loss_attack")


@situation
def an_accountant_that_promises_what_an_attack_disproves(place: Place) -> Bad:
    says = ("the guarantee does not hold, the training did not keep it", "allows nobody more than")
    return Bad(made=promised(), says=says, gates=(("loss_attack", "auc", "max", 0.6),))


@situation
def an_epsilon_that_was_lowered_in_the_file(place: Place) -> Bad:
    """The plan was too weak to say anything; somebody wrote a stronger promise into report.json."""
    model, given = memorised()
    weak = Plan(unit="record", clip=1.0, noise_multiplier=0.05, steps=100, delta=1e-5)
    report = audited(replace(cm.wrap(model), claims=(weak,)), given, "loss_attack")
    assert not any("guarantee" in text for text in report.target["caveats"])
    claim = {**report.target["claims"][0], "epsilon": 0.1}
    del claim["ceiling"]
    changed = edited(report, target={**report.target, "claims": [claim]})
    made = cm.compare(report, changed)
    return Bad(made=made, says=("the guarantee does not hold, the training did not keep it",))


@situation
def a_plan_that_states_less_than_it_costs(place: Place) -> Bad:
    error = refused(lambda: Plan.from_dict({**PLAN.to_dict(), "epsilon": 0.01}))
    assert isinstance(error, GuaranteeVoid)
    return Bad(made=error, says=("the plan states epsilon 0.01 but costs",))


@situation
def private_rows_used_again_after_the_noise(place: Place) -> Bad:
    private = replace(cm.wrap(linear()), claims=(PLAN,))
    error = refused(lambda: cm.harden(private, data(), using=["calibrate"]))
    assert isinstance(error, GuaranteeVoid)
    return Bad(
        made=error, says=("the model states a guarantee about its training rows", "is not covered by it")
    )


# ---------------------------------------------------------------------- comparisons that compare nothing


def _refused(after: Report) -> CasemateError:
    error = refused(lambda: cm.compare(before(), after))
    assert isinstance(error, InvalidData)
    return error


@situation
def other_seeds(place: Place) -> Bad:
    return Bad(
        made=_refused(edited(before(), seed=4)), says=("cannot be compared: seed is 3 before and 4 after",)
    )


@situation
def another_threat(place: Place) -> Bad:
    threat = cm.Threat(norm="l2", radius=9.0).to_dict()
    return Bad(made=_refused(edited(before(), threat=threat)), says=("cannot be compared: threat is",))


@situation
def other_rows(place: Place) -> Bad:
    other = audited(
        linear(), cm.Dataset(train=worlds.rows(60, 1), holdout=worlds.rows(60, 9)), "loss_attack", seed=3
    )
    return Bad(made=_refused(other), says=("cannot be compared", "audit the second with like="))


@situation
def another_version_of_a_method(place: Place) -> Bad:
    methods = [{**item, "version": "0"} for item in before().methods]
    made = _refused(edited(before(), methods=methods, measurements=[]))
    return Bad(made=made, says=("cannot be compared: version of loss_attack",))


@situation
def records_that_do_not_add_up_to_the_number(place: Place) -> Bad:
    """One number was made prettier by hand: the records behind it say otherwise, so nothing is better."""
    raw = with_row(before(), "accuracy", value=0.95, low=0.9, high=0.99)
    made = cm.compare(
        before(), Report.from_dict(raw), gates=_file(place, "utility", "accuracy", max_decrease=0.5)
    )
    return Bad(
        made=made, says=("the values per record do not reproduce", "could not be shown or not measured")[:1]
    )


def _file(place: Place, method: str, quantity: str, **bound: float) -> Path:
    ((name, limit),) = bound.items()
    path = place.folder / "gates.toml"
    path.write_text(f'[[gate]]\nmethod = "{method}"\nquantity = "{quantity}"\n{name} = {limit}\n')
    return path


@situation
def a_protection_that_ruined_the_model(place: Place) -> Bad:
    given = data(200)
    model = linear(200)
    first = audited(model, given)
    spoilt = cm.wrap(LogisticRegression(C=1e-9).fit(worlds.rows(200, 1)[0], 1 - worlds.rows(200, 1)[1]))
    made = cm.compare(
        first,
        audited(spoilt, given, like=first),
        gates=_file(place, "utility", "accuracy", max_decrease=0.05),
    )
    return Bad(made=made, says=("worse", "failed", "the whole interval breaks the limit"))


@situation
def what_neither_report_measured(place: Place) -> Bad:
    target = cm.wrap(linear().predict, outputs="labels")
    first = audited(target, data(), "loss_attack")
    made = cm.compare(first, audited(target, data(), like=first))
    return Bad(made=made, says=("loss_attack", "needs scores")[:1], open=("privacy",))


@situation
def the_same_model_twice(place: Place) -> Bad:
    made = cm.compare(before(), audited(linear(), data(), like=before()))
    return Bad(made=made, says=("both reports are of the same model",))


@situation
def a_gate_on_what_did_not_run(place: Place) -> Bad:
    made = cm.compare(before(), gates=_file(place, "lira", "auc", max=0.9))
    return Bad(made=made, says=("lira auc is not in the report", "not measured"))


@situation
def a_gate_inside_the_interval(place: Place) -> Bad:
    value = before()["utility", "accuracy"].value
    made = cm.compare(before(), gates=_file(place, "utility", "accuracy", min=value - 1e-3))
    return Bad(made=made, says=("could not be shown", "the limit lies inside the interval"))


@situation
def a_gate_on_a_difference_with_one_report(place: Place) -> Bad:
    made = cm.compare(before(), gates=_file(place, "utility", "accuracy", max_decrease=0.5))
    return Bad(made=made, says=("needs two reports to compare",))


# ---------------------------------------------------------------------- files that were edited


def _loaded(place: Place, raw: dict[str, Any], old: str = "", new: str = "") -> CasemateError:
    path = place.folder / "r.json"
    path.write_text(json.dumps(raw).replace(old, new) if old else json.dumps(raw))
    return refused(lambda: Report.load(path))


@situation
def a_value_outside_its_interval(place: Place) -> Bad:
    made = _loaded(place, with_row(before(), "accuracy", value=0.99, low=0.1, high=0.2))
    return Bad(made=made, says=("utility accuracy: value 0.99 lies outside [0.1, 0.2]",))


@situation
def a_number_that_is_nan(place: Place) -> Bad:
    made = _loaded(place, with_row(before(), "accuracy", value="@"), '"@"', "NaN")
    return Bad(made=made, says=("NaN",))


@situation
def a_measured_row_without_a_number(place: Place) -> Bad:
    made = _loaded(place, with_row(before(), "accuracy", value=None))
    return Bad(made=made, says=("measurements[0].value must be number; got None",))


@situation
def a_row_that_is_not_measured_and_gives_no_reason(place: Place) -> Bad:
    made = _loaded(place, with_row(before(), "accuracy", value=None, status="not_measured"))
    return Bad(made=made, says=("measurements[0].reason is too short",))


@situation
def a_public_edition_that_suppresses(place: Place) -> Bad:
    report = before().public()
    says = ("the reason stands in the internal edition", "Public edition: aggregates only")
    return Bad(made=report, says=says, gates=(("loss_attack", "tpr_at_1pct_fpr", "max", 0.9),))


@situation
def a_public_edition_used_as_evidence(place: Place) -> Bad:
    error = refused(lambda: cm.compare(before(), before().public()))
    return Bad(made=error, says=("a public edition cannot be compared",))


# ---------------------------------------------------------------------- the test


@pytest.mark.timeout(60)  # one to two seconds, ten on a machine that does much else: an audit and a page each
@pytest.mark.parametrize("name", list(SITUATIONS))
def test_it_is_visible_and_nothing_about_it_is_green(name: str, place: Place) -> None:
    ask(SITUATIONS[name](place))


def test_there_are_enough_of_them() -> None:
    assert len(SITUATIONS) >= 30


def test_a_sound_world_is_none_of_them(place: Place) -> None:
    """The question itself can be answered otherwise: a good model is measured, gates hold, no caveat is made up."""
    report = audited(linear(200), data(200), "loss_attack", "tabular_attack", threat=cm.Threat(radius=0.1))
    assert report.target["caveats"] == []
    assert {row.status for row in report.measurements if "pct" not in row.quantity} == {"measured"}
    generous = [gates.Gate(method=m, quantity=q, bound=b, limit=limit) for m, q, b, limit in (AUC, ACCURACY)]  # type: ignore[arg-type]
    assert gates.exit_code(gates.judge(generous, [report])) == 0
    assert verdict.sentences(report)[0].state == "not_found"
    held = cm.compare(report, gates=_file(place, "utility", "accuracy", min=0.5))
    assert "held" in shown(held)[0].classes


def test_a_report_is_read_twice_and_says_the_same(place: Place) -> None:
    """A caveat is part of the evidence: it is in report.json, not made when the page is."""
    saved = promised().save(place.folder / "r.json")
    assert Report.load(saved).target["caveats"] == promised().target["caveats"] != []


# ---------------------------------------------------------------------- the rules behind, one by one


def few_values(n: int, seed: int, people: bool) -> cm.Dataset:
    """Rows of three small whole numbers, dealt at random into two parts: every row has twins on both sides."""
    draw = np.random.default_rng(seed)
    x = draw.integers(0, 7, (2 * n, 3)).astype(float)
    owner = np.repeat(np.arange(n), 2)
    x = np.where(
        people & (draw.random(2 * n) < 0.8)[:, None], x[2 * owner], x
    )  # most people repeat their own rows
    dealt = np.isin(owner, draw.permutation(n)[: n // 2])
    y = np.arange(2 * n) % 2
    parts = [(x[at], y[at], *([owner[at]] if people else [])) for at in (dealt, ~dealt)]
    return cm.Dataset(*parts)


@pytest.mark.parametrize("people", [False, True])
def test_twins_by_chance_are_not_called_training_rows(people: bool) -> None:
    """Each draw errs with probability 1e-5: three of 150 would come once in two billion runs."""
    flagged = sum(bool(twins.seen_before(few_values(60, seed, people)).reason) for seed in range(150))
    assert flagged <= 2


@pytest.mark.parametrize(
    ("n_rows", "n_pairs", "share"), [(400, 150, 0.5), (2000, 900, 0.5), (2000, 100, 0.2)]
)
def test_pairs_that_are_split_at_random_are_not_called_training_rows(
    n_rows: int, n_pairs: int, share: float
) -> None:
    """The bound is an upper one: its false alarms come at most once in 1e5 draws; two of 100 once in two million."""
    draw, size, flagged = (
        np.random.default_rng(n_rows),
        np.r_[np.full(n_pairs, 2), np.ones(n_rows - 2 * n_pairs)],
        0,
    )
    group = np.repeat(np.arange(len(size)), size.astype(int))
    for _ in range(100):
        held = draw.random(n_rows) < share
        outside = np.bincount(group[held], minlength=len(size))
        k = int(np.where(outside < size, outside, 0).sum())
        flagged += twins._tail(k, size.astype(int), held.mean()) <= twins.CHANCE
    assert flagged <= 1
    least = next(k for k in range(n_pairs + 1) if twins._tail(k, size.astype(int), share) <= twins.CHANCE)
    assert least <= n_pairs  # all of the pairs across the split are never chance


def test_a_few_copies_take_back_only_what_they_can_move() -> None:
    (x, y), (xh, yh) = worlds.rows(2000, 1), worlds.rows(2000, 2)
    xh[:20], yh[:20] = x[:20], y[:20]
    given = cm.Dataset(train=(x, y), holdout=(xh, yh))
    seen = twins.seen_before(given)
    assert seen.share == pytest.approx(0.01)
    assert twins.seen_before(given, copies=False) == twins.Seen()
    report = audited(linear(), given, "loss_attack")
    assert report["utility", "accuracy"].status == "measured"
    assert any("20 of 2000 held-out rows" in caveat for caveat in report.target["caveats"])


def test_a_leak_that_was_found_stands_beside_near_copies() -> None:
    (x, y), (xh, yh) = worlds.rows(200, 1), worlds.rows(200, 2)
    xh[:30], yh[:30] = x[:30] + 1e-7, y[:30]
    tree = worlds.DecisionTreeClassifier(random_state=0).fit(x, y)
    report = audited(tree, cm.Dataset(train=(x, y), holdout=(xh, yh)), "loss_attack")
    assert report["loss_attack", "auc"].status == "measured"
    assert report["loss_attack", "auc"].low > 0.5
    assert report["utility", "accuracy"].status == "inconclusive"


def test_the_largest_area_under_a_ceiling_is_known_without_a_delta() -> None:
    """Of pure differential privacy: e^eps / (1 + e^eps)."""
    for epsilon in (0.1, 1.0, 4.0):
        raw = {"unit": "record", "epsilon": epsilon, "delta": 0.0}
        most = claims._most_auc(claims._claim(raw)[1], raw)  # type: ignore[index]
        exact = np.exp(epsilon) / (1 + np.exp(epsilon))
        assert exact <= most <= exact + 0.04


def attacked(claim: dict[str, Any], **rows: stats.Interval) -> Report:
    fields: dict[str, Any] = {
        "property": "privacy",
        "worse": "higher",
        "method": "lira",
        "version": "1",
        "seed": 0,
    }
    measured = [
        Measurement(quantity=name, value=i.value, low=i.low, high=i.high, n=i.n, **fields)
        for name, i in rows.items()
    ]
    return replace(before(), target={**before().target, "claims": [claim]}, measurements=tuple(measured))


def test_the_best_attacker_there_is_does_not_speak_against_a_training_that_kept_its_guarantee() -> None:
    """One Gaussian sum, whose likelihood ratio is the score. A draw errs with probability 1e-4: three of 40, 1e-8."""
    plan = Plan(unit="record", clip=1.0, noise_multiplier=1.0, steps=1, delta=1e-5)
    wrong = 0
    for seed in range(40):
        draw = np.random.default_rng(seed)
        inside, outside = draw.normal(1.0, 1.0, 1500), draw.normal(0.0, 1.0, 1500)
        cut = 2.3263478740408408  # the upper 1 % of the standard normal
        rates = {
            "tpr_at_1pct_fpr": stats.proportion(inside > cut),
            "fpr_at_1pct": stats.proportion(outside > cut),
            "auc": stats.auc(inside, outside),
        }
        wrong += bool(claims.contradictions(attacked(plan.to_report(), **rates)))
    assert wrong <= 2
    # twice the signal, and it does
    loud = {"auc": stats.auc(draw.normal(2.0, 1.0, 1500), outside)}
    assert claims.contradictions(attacked(plan.to_report(), **loud))


def test_rates_speak_against_a_guarantee_of_their_own_unit_only() -> None:
    caught, accused = stats.proportion(np.arange(1000) < 500), stats.proportion(np.arange(1000) < 10)
    for unit, prefix, wrong in (
        ("record", "", 1),
        ("person", "", 1),
        ("person", "person_", 1),
        ("record", "person_", 0),
    ):
        claim = {"unit": unit, "epsilon": 1.0, "delta": 1e-5}
        rows = {f"{prefix}tpr_at_1pct_fpr": caught, f"{prefix}fpr_at_1pct": accused}
        found = claims.contradictions(attacked(claim, **rows))
        assert len(found) == wrong
        assert all("epsilon 1 at delta 10⁻⁵ per" in text for text in found)
    assert claims.contradictions(attacked({"unit": "record", "epsilon": 9.0, "delta": 1e-5}, **rows)) == []


def test_a_value_beyond_a_ceiling_whose_limits_are_not_says_nothing() -> None:
    claim = {"unit": "record", "epsilon": 1.0, "delta": 0.0}  # e / (1 + e) = 0.731
    assert claims.contradictions(attacked(claim, auc=stats.Interval(0.8, 0.7, 0.9, 0.95, 100))) == []
    assert claims.contradictions(attacked(claim, auc=stats.Interval(0.9, 0.87, 0.93, 0.95, 100))) != []
