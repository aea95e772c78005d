# SPDX-License-Identifier: Apache-2.0
"""Ways in which attacks without gradients are known to flatter a model: each is done here, and must be seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

import casemate as cm
from casemate.core import evasion, harness, stats
from casemate.core.methods import find
from casemate.core.run import Run
from casemate.core.types import Measurement, Note, Table

METHODS = ("hop_skip_jump", "tabular_attack")
DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(160, 4))
Y = ((X[:, 0] + X[:, 1] ** 2 + 0.3 * DRAW.normal(size=160)) > 0.7).astype(int)
FOREST = RandomForestClassifier(20, max_depth=6, random_state=0).fit(X[:100], Y[:100])


def data(x: np.ndarray = X) -> cm.Dataset:
    return cm.Dataset(train=(x[:100], Y[:100]), holdout=(x[100:], Y[100:]))


def audited(model: Any, method: str, *, rows: cm.Dataset | None = None, **threat: Any) -> Measurement:
    asked: dict[str, Any] = {"norm": "l2", "radius": 0.3, **threat}
    effort = asked.pop("effort", "quick")
    spec = cm.method(method, **asked.pop("params", {}))
    report = cm.audit(model, rows or data(), methods=[spec], threat=cm.Threat(**asked), effort=effort)
    return report[method, "robust_accuracy"]


def notes(row: Measurement) -> str:
    return " ".join(d.text for d in row.details if isinstance(d, Note))


def cells(row: Measurement, name: str = "attack") -> dict[Any, Any]:
    return {r[0]: r[1] for d in row.details if isinstance(d, Table) and d.name == name for r in d.rows}


@pytest.mark.parametrize("method", METHODS)
def test_without_a_limit_every_point_falls(method: str) -> None:
    assert audited(FOREST, method, radius=1e6).value == 0.0


@pytest.mark.parametrize("method", METHODS)
def test_noise_of_the_same_size_breaks_less_and_more_work_breaks_more(method: str) -> None:
    draw = np.random.default_rng(1)
    x = draw.normal(size=(200, 20))
    y = (x @ draw.normal(size=20) + 2 * x[:, 0] * x[:, 1] > 0).astype(int)
    model = RandomForestClassifier(30, max_depth=6, random_state=0).fit(x[:140], y[:140])
    rows = cm.Dataset(train=(x[:140], y[:140]), holdout=(x[140:], y[140:]))
    work = "iterations" if method == "hop_skip_jump" else "generations"
    weak, strong = (
        audited(model, method, rows=rows, radius=0.6, params={work: count}).value for count in (1, 40)
    )
    shift = draw.normal(size=(100, 60, 20))
    shift *= 0.6 * x[:140].std(0) / np.linalg.norm(shift, axis=2, keepdims=True)
    answers = model.predict((x[140:] + shift).reshape(-1, 20)).reshape(100, 60)
    noise = (answers == y[140:]).all(0).mean()  # no bounds, and the full radius in each of 100 directions
    assert weak is not None and strong is not None
    assert strong < weak - 2 / 60 and strong < noise - 5 / 60


@pytest.mark.parametrize("method", METHODS)
def test_rows_are_counted_where_the_model_is_asked(method: str) -> None:
    asked = [0]

    def model(rows: np.ndarray) -> np.ndarray:
        asked[0] += len(rows)
        return np.asarray(FOREST.predict_proba(rows))

    target, given = cm.wrap(model).bind(data())
    found = find(method)
    run = Run(card=found.card, threat=cm.Threat(norm="l2", radius=0.3).resolved(given.schema), effort="quick")
    asked[0] = 0
    harness.invoke(found, target, given, run, {})
    assert run.counter.tally["rows"] == asked[0] > 60
    run = Run(card=found.card, threat=run.threat, effort="quick")
    row = harness.execute(found, target, given, run, {})[0]
    assert (
        cells(row)["rows queried"] == asked[0] / 2 - 90
    )  # the harness itself asks for 60 points three times


@pytest.mark.parametrize("method", METHODS)
def test_a_model_that_answers_at_random_is_told_of(method: str) -> None:
    draw = np.random.default_rng(3)

    def model(rows: np.ndarray) -> np.ndarray:
        return np.asarray(np.abs(FOREST.predict_proba(rows) - (draw.random(len(rows)) < 0.2)[:, None]))

    told = notes(audited(model, method))
    assert "unchanged points differently: it answers at random" in told
    assert "at random" not in notes(audited(FOREST, method))


def test_one_answer_given_at_random_takes_no_finding_back() -> None:
    held = np.arange(60) < 20
    robust, said = stats.proportion(held), "it answers at random"
    assert evasion._shows_nothing("", (1, said), robust, held, 0) == ""
    assert evasion._shows_nothing("", (30, said), robust, held, 0) == said
    none = held & False  # all was broken: nothing that held is to be doubted
    assert evasion._shows_nothing("", (30, said), stats.proportion(none), none, 0) == ""


@pytest.mark.parametrize("method", METHODS)
def test_a_model_that_always_says_the_same_is_not_called_robust(method: str) -> None:
    def model(rows: np.ndarray) -> np.ndarray:
        return np.tile([0.8, 0.2], (len(rows), 1))

    row = audited(model, method)
    assert "The model calls every point attacked 0" in notes(row)
    assert cells(row)["correct before the attack"] == (Y[100:] == 0).sum()
    assert "calls every point" not in notes(audited(FOREST, method))


@pytest.mark.parametrize("method", METHODS)
def test_what_counts_is_the_answer_to_the_row_in_the_users_precision(method: str) -> None:
    """The threshold lies between two float32: a change the user's array cannot hold is none."""
    cut = np.float32(0.1)
    seen: list[np.dtype[Any]] = []

    def model(rows: np.ndarray) -> np.ndarray:
        seen.append(rows.dtype)
        one = rows[:, 0].astype(np.float64) > float(cut)
        return np.column_stack([~one, one]).astype(float)

    x = X.astype(np.float32)
    x[100] = cut
    y = (x[:, 0] > cut).astype(int)
    given = cm.Dataset(train=(x[:100], y[:100]), holdout=(x[100:], y[100:]))
    row = audited(model, method, rows=given, norm="linf", radius=1e-10, scale="raw")
    assert set(seen) == {np.dtype(np.float32)}
    assert row.value == 1.0, "half a float32 further the label would be another"


@pytest.mark.parametrize("method", METHODS)
def test_all_classes_are_attacked(method: str) -> None:
    for goal in (0, 1):
        row = audited(FOREST, method, goal=goal, radius=1e6)
        assert row.n == (Y[100:] != goal).sum() and row.value == 0.0
