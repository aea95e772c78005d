# SPDX-License-Identifier: Apache-2.0
"""What a predict function may return, and what it is told when it returns something else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from casemate.adapters import remote
from casemate.core.data import Dataset
from casemate.core.errors import InvalidData, MissingCapability
from casemate.core.types import LABELS, SCORES, Recipe

X = np.arange(12.0).reshape(6, 2)
Y = np.array(["cat", "dog", "cat", "dog", "eel", "cat"])
DATA = Dataset(train=(X, Y), holdout=(X, Y))


def bound(predict: Any, data: Dataset = DATA, **options: Any) -> Any:
    return remote.make(predict, **options).bind(data)[0]


def always(answer: Any) -> Any:
    return lambda rows: answer


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (np.full((6, 2), 0.5), r"shape \(6, 2\) for 6 rows and 3 classes"),
        (np.full((5, 3), 1 / 3), r"shape \(5, 3\) for 6 rows"),
        (np.full(6, 0.5), "outputs='labels'"),
        (Y, r"shape \(6,\)"),
        (np.full((6, 3), "a"), "not numbers"),
        (np.full((6, 3), 0.5), "sum to one"),
        (np.array([[np.nan, 0.5, 0.5]] * 6), "finite"),
        (np.array([[np.inf, 0, 0]] * 6), "finite"),
        (np.array([[-0.5, 1.0, 0.5]] * 6), ">= 0"),
        (np.zeros((6, 3)), "sum to one"),
        (None, r"shape \(\)"),
    ],
)
def test_scores_that_are_none_are_refused(answer: Any, told: str) -> None:
    with pytest.raises(InvalidData, match=told):
        bound(always(answer)).scores(X)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (np.full((6, 3), 1 / 3), "outputs='scores'"),
        (["cat"] * 5, r"shape \(5,\) for 6 rows"),
        (["cat"] * 5 + ["cow"], "label 'cow', which is not among the classes"),
        ([0.5] * 6, "label 0.5"),
    ],
)
def test_labels_that_are_none_are_refused(answer: Any, told: str) -> None:
    with pytest.raises(InvalidData, match=told):
        bound(always(answer), outputs="labels").labels(X)


def test_rows_that_almost_sum_to_one_are_made_to() -> None:
    rounded = np.array([[0.33, 0.33, 0.3395], [0.2, 0.3, 0.5]] * 3)
    scores = bound(always(rounded)).scores(X)
    np.testing.assert_allclose(scores.sum(1), 1, atol=1e-15)
    np.testing.assert_allclose(scores[0], rounded[0] / 0.9995)
    assert (scores[1] == rounded[1]).all()
    with pytest.raises(InvalidData, match="sum to one"):
        bound(always(rounded - np.array([0, 0, 0.01]))).scores(X)


def test_the_function_gets_the_form_of_the_data() -> None:
    seen: list[Any] = []
    frame = pd.DataFrame({"a": [1, 2, 3], "b": ["x", None, "y"]})

    def predict(rows: Any) -> Any:
        seen.append(rows)
        return ["no"] * len(rows)

    data = Dataset(train=(frame, ["no", "yes", "no"]), holdout=(frame, ["no", "yes", "no"]))
    target, coded = remote.make(predict, outputs="labels").bind(data)
    assert target.labels(coded.holdout.x[1:]).tolist() == [0, 0]
    pd.testing.assert_frame_equal(seen[0], frame.iloc[1:].reset_index(drop=True))


@pytest.mark.parametrize("labels", [[True, False], [1, 0], ["b", "a"], [1.0, 0.0]])
def test_labels_of_any_kind_become_indices(labels: list[Any]) -> None:
    y = labels * 3
    target = bound(always(y), Dataset(train=(X, y), holdout=(X, y)), outputs="labels")
    assert target.labels(X).tolist() == [1, 0] * 3
    assert target.capabilities == {LABELS}
    with pytest.raises(MissingCapability, match="scores"):
        target.scores(X)


def test_the_order_of_columns_is_a_caveat_unless_it_is_given() -> None:
    answer = np.array([[0.1, 0.2, 0.7]] * 6)
    guessed, given = bound(always(answer)), bound(always(answer), classes=["eel", "dog", "cat"])
    assert guessed.classes == ("cat", "dog", "eel") and "column i" in guessed.caveats[0]
    assert given.classes == ("eel", "dog", "cat") and given.caveats == ()
    assert given.classes[given.labels(X)[0]] == "cat" and guessed.classes[guessed.labels(X)[0]] == "eel"


def test_regression_returns_numbers() -> None:
    data = Dataset(train=(X, X[:, 0] / 7), holdout=(X, X[:, 0] / 7))
    target = bound(lambda rows: rows[:, 0], data, task="regression")
    assert target.capabilities == {LABELS} and target.labels(X).tolist() == X[:, 0].tolist()
    with pytest.raises(InvalidData, match="not finite"):
        bound(always([np.nan] * 6), data, task="regression").labels(X)
    with pytest.raises(InvalidData, match="not one number a row"):
        bound(always(Y), data, task="regression").labels(X)


def test_a_failing_function_is_asked_once_and_told_in_one_line() -> None:
    calls: list[int] = []

    def predict(rows: Any) -> Any:
        calls.append(len(rows))
        raise ConnectionError("no route\nsecond line")

    with pytest.raises(InvalidData, match=r"^predict\(\) failed: ConnectionError: no route; ") as caught:
        bound(predict).scores(X)
    assert calls == [6] and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"outputs": "logits"}, "use 'scores' or 'labels'"),
        ({"recipe": Recipe(factory=list)}, "recipe=.* does not apply"),
        ({"device": "cpu"}, "device='cpu' does not apply"),
        ({"task": "regression", "outputs": "scores"}, "does not apply to regression"),
        ({"classes": ["a", "a"]}, "different labels"),
    ],
)
def test_options_that_do_not_apply_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidData, match=told):
        remote.make(len, **options)


def test_classes_and_digests() -> None:
    class Service:
        def __call__(self, rows: Any) -> Any:
            return np.full((len(rows), 3), 1 / 3)

    with pytest.raises(InvalidData, match="Service is a class"):
        remote.make(Service)
    assert bound(Service()).has(SCORES)
    assert bound(Service()).digest() == bound(Service()).digest() != bound(always(0)).digest()
