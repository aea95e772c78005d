# SPDX-License-Identifier: Apache-2.0
"""A training with a guarantee is charged to the budget of its people before the first draw, or not begun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

import casemate as cm
from casemate.core.errors import BudgetExhausted, GuaranteeVoid
from casemate.privacy import logistic, statistics
from casemate.privacy.ledger import Ledger
from casemate.privacy.plan import Plan
from casemate.privacy.statistics import People

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
BOUNDS = {"age": (0, 110), "pain": (0, 10)}


def using(epsilon: float = 1.0) -> list[Any]:
    return [cm.method("dp_logistic", epsilon=epsilon, delta=1e-6, bounds=BOUNDS)]


def budget(path: Path, epsilon: float = 3.0, unit: str = "person") -> Ledger:
    return Ledger.create(path / "budget", population="clinic", unit=unit, epsilon=epsilon, delta=1e-5)


def test_a_training_is_charged_with_its_plan(tmp_path: Path) -> None:
    ledger = budget(tmp_path)
    change = cm.harden(MODEL, DATA, using=using(), ledger=ledger)
    (plan,) = change.target.claims
    assert isinstance(plan, Plan)
    (spend,) = ledger.spends()
    assert spend.event == plan.event
    assert (
        0.5 < ledger.spent().epsilon <= plan.epsilon
    )  # at the delta of the budget, ten times that of the plan
    told = [piece.text for piece in change.evidence if hasattr(piece, "text")]
    assert "Before it began, this training was charged to the budget of clinic." in told
    assert ledger.verify()


def test_what_there_is_no_room_for_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = budget(tmp_path, epsilon=0.5)
    monkeypatch.setattr(logistic.NoisyLogistic, "fit", lambda *_, **__: pytest.fail("it was trained"))
    with pytest.raises(BudgetExhausted, match="nothing was"):
        cm.harden(MODEL, DATA, using=using(), ledger=ledger, folder=tmp_path / "work")
    assert ledger.spent().epsilon == 0
    assert not list((tmp_path / "work").iterdir())  # it may be begun when there is room


def test_the_cost_is_on_disk_before_the_first_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = budget(tmp_path)

    def fit(*_: Any, **__: Any) -> None:
        assert Ledger.open(tmp_path / "budget", read_only=True).spent().epsilon > 0.5
        raise KeyboardInterrupt

    monkeypatch.setattr(logistic.NoisyLogistic, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        cm.harden(MODEL, DATA, using=using(), ledger=ledger)
    assert ledger.spent().epsilon > 0.5  # what was stopped half-way stays spent


def test_statistics_and_trainings_share_a_budget(tmp_path: Path) -> None:
    ledger = budget(tmp_path, epsilon=2.0)
    people = People(OWNER[:200].tolist(), max_rows=2)
    statistics.mean(FRAME["age"][:200], bounds=(0, 110), epsilon=0.25, people=people, ledger=ledger)
    cm.harden(MODEL, DATA, using=using(0.5), ledger=ledger)
    spent = ledger.spent().epsilon
    assert 0.5 < spent <= 2.0
    with pytest.raises(BudgetExhausted):
        cm.harden(MODEL, DATA, using=using(2.0), ledger=ledger)
    assert ledger.spent().epsilon == spent


def test_the_same_training_is_not_charged_once_and_drawn_twice(tmp_path: Path) -> None:
    ledger = budget(tmp_path)
    cm.harden(MODEL, DATA, using=using(0.5), ledger=ledger)
    with pytest.raises(GuaranteeVoid):
        cm.harden(MODEL, DATA, using=using(0.5), ledger=ledger)
    assert len(ledger.spends()) == 1


def test_a_budget_of_records_takes_no_plan_for_people_as_its_own(tmp_path: Path) -> None:
    rows = cm.Dataset(train=(FRAME[:200], LABEL[:200]), holdout=(FRAME[200:], LABEL[200:]))
    ledger = budget(tmp_path)  # of people
    with pytest.raises(GuaranteeVoid, match="record"):
        cm.harden(MODEL, rows, using=using(), ledger=ledger)
    assert ledger.spent().epsilon == 0


def test_defences_without_a_guarantee_cost_nothing(tmp_path: Path) -> None:
    ledger = budget(tmp_path)
    cm.harden(MODEL, DATA, using=["rounding"], ledger=ledger)
    assert not ledger.spends()
