# SPDX-License-Identifier: Apache-2.0
"""Rounded scores: sums, order, labels, and an attacker whose shadows are rounded too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from sklearn.naive_bayes import GaussianNB

from casemate.adapters.remote import make as wrap_function
from casemate.adapters.sklearn import make as wrap
from casemate.core.data import Dataset
from casemate.core.errors import InvalidData, MissingCapability
from casemate.core.types import LABELS, LOGITS, REFIT, SCORES, Target
from casemate.privacy.methods.rounding import RoundedTarget, round_scores, rounding


def made() -> tuple[Target, Dataset]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 3))
    y = np.array(["a", "b", "c"])[(x[:, 0] > 0).astype(int) + (x[:, 1] > 0.5)]
    data = Dataset((x[:60], y[:60]), (x[60:], y[60:]))
    return wrap(GaussianNB().fit(x[:60], y[:60])), data


@given(
    some.integers(0, 2**32 - 1),
    some.integers(2, 12),
    some.integers(0, 6),
    some.sampled_from([np.float32, np.float64]),
)
def test_rows_sum_to_one_and_no_class_overtakes(seed: int, n_classes: int, digits: int, dtype: Any) -> None:
    scores = np.random.default_rng(seed).dirichlet(np.full(n_classes, 0.3), size=5).astype(dtype)
    rounded = round_scores(scores, digits)
    units = rounded * 10**digits
    assert np.abs(units - units.round()).max() < 1e-9
    assert units.round().sum(axis=1).tolist() == [10**digits] * 5
    assert np.abs(rounded - scores).max() < 10.0**-digits + 1e-6
    order = np.argsort(scores, axis=1, kind="stable")
    assert (np.diff(np.take_along_axis(rounded, order, 1), axis=1) >= 0).all()


def test_known_rows() -> None:
    scores = np.array([[0.5, 0.5], [0.25, 0.75], [0.96, 0.04], [1.0, 0.0]])
    assert round_scores(scores, 1).tolist() == [[0.5, 0.5], [0.2, 0.8], [1.0, 0.0], [1.0, 0.0]]
    assert round_scores(np.full((1, 20), 0.05), 1).sum() == pytest.approx(1.0)
    assert round_scores(np.array([[0.4, 0.6]]), 0).tolist() == [[0.0, 1.0]]


def test_labels_stay_those_of_the_model_and_logits_are_gone() -> None:
    target, data = made()
    change = rounding(target, data, digits=1)
    assert change.method == "rounding"
    rounded, bound = change.target.bind(data)
    plain, _ = target.bind(data)
    x = bound.holdout.x
    assert np.array_equal(rounded.labels(x), plain.labels(x))
    assert np.array_equal(rounded.scores(x), round_scores(plain.scores(x), 1))
    assert plain.has(LABELS, SCORES, REFIT)
    assert rounded.capabilities == {LABELS, SCORES, REFIT}
    with pytest.raises(MissingCapability):
        rounded.logits(x)
    assert rounded.kind == plain.kind
    assert rounded.digest() != plain.digest()
    assert rounded.digest() == rounding(target, data).target.digest()
    assert rounded.digest() != rounding(target, data, digits=2).target.digest()
    assert not plain.has(LOGITS) or LOGITS not in rounded.capabilities


def test_shadows_of_a_rounded_target_are_rounded() -> None:
    target, data = made()
    rounded, bound = rounding(target, data).target.bind(data)
    plain, _ = target.bind(data)
    for view in (rounded, rounded.limited_to(SCORES, REFIT)):
        shadow = view.refit(bound.train.x[:40], bound.train.y[:40], 7)
        expected = plain.refit(bound.train.x[:40], bound.train.y[:40], 7).scores(bound.holdout.x)
        assert np.array_equal(shadow.scores(bound.holdout.x), round_scores(expected, 1))
    assert isinstance(rounded.refit(bound.train.x, bound.train.y, 0), RoundedTarget)


def test_binding_before_or_after_gives_the_same_answers() -> None:
    target, data = made()
    bound, encoded = target.bind(data)
    first = rounding(bound, encoded).target
    second, _ = rounding(target, data).target.bind(data)
    assert np.array_equal(first.scores(encoded.holdout.x), second.scores(encoded.holdout.x))
    assert first.classes == second.classes == ("a", "b", "c")


@pytest.mark.parametrize("digits", [-1, 13, 1.5, True])
def test_digits_are_checked(digits: Any) -> None:
    target, data = made()
    with pytest.raises(InvalidData, match="digits is"):
        rounding(target, data, digits=digits)


def test_a_target_without_scores_is_refused() -> None:
    _, data = made()
    target = wrap_function(lambda x: np.zeros(len(x), int), outputs="labels", classes=["a", "b", "c"])
    with pytest.raises(InvalidData, match="rounding needs scores"):
        rounding(target, data)


def test_what_stands_behind_is_bound_in_its_own_way() -> None:
    """Only the adapter's own bind finds out what a module returns; past it, classes would be guessed."""
    import torch

    x = np.linspace(-1, 1, 20)[:, None]
    data = Dataset(train=(x, [0, 1, 2, 1] * 5), holdout=(x, [0, 1, 2, 1] * 5))
    from casemate.adapters.torch import make as wrap_module

    model = torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.Softmax(1))
    plain, _ = wrap_module(model).bind(data)
    rounded, _ = rounding(wrap_module(model), data, digits=2).target.bind(data)
    assert rounded.caveats == plain.caveats != ()
    assert rounded.base.schema is rounded.schema is data.schema
    np.testing.assert_allclose(rounded.scores(x), plain.scores(x), atol=0.011)
