# SPDX-License-Identifier: Apache-2.0
"""What is special to torch: what the outputs are, how many classes, whose parameters, which device."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import micro
import numpy as np
import pytest

from casemate.core.data import Dataset
from casemate.core.errors import InvalidData, MissingCapability
from casemate.core.types import LABELS, LOGITS, MODULE, REFIT, Recipe

torch = pytest.importorskip("torch")
from casemate.adapters import torch as adapter  # noqa: E402  # after the guard

X = micro.numbers(60, 0)
DATA = Dataset(train=(X, micro.three_classes(X)), holdout=(X, micro.three_classes(X)))
PAIR = Dataset(train=(X, (X[:, 0] > 0) * 1), holdout=(X, (X[:, 0] > 0) * 1))
VALUES = Dataset(train=(X, X[:, 0]), holdout=(X, X[:, 0]))


class Returns(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
    """A module that returns what a function makes of its input."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


def bound(model: Any, data: Dataset = DATA, **options: Any) -> Any:
    return adapter.make(model, **options).bind(data)[0]


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda x: (x, x), "must return one tensor .* it returned tuple"),
        (lambda x: x[:1], r"must return floats of shape \(60, outputs\) for 60 rows; it returned \(1, 4\)"),
        (lambda x: x[:, :, None], r"it returned \(60, 4, 1\)"),
        (lambda x: x.argmax(1), "of torch.int64"),
        (lambda x: x @ x, "the module failed: "),
    ],
)
def test_outputs_of_another_form_are_refused(function: Any, told: str) -> None:
    with pytest.raises(InvalidData, match=told) as caught:
        bound(Returns(function))
    assert "\n" not in str(caught.value)


def test_probabilities_are_found_out_and_said_to_be() -> None:
    soft = Returns(lambda x: torch.softmax(x[:, :3], 1))
    guessed, told = bound(soft), bound(soft, outputs="probabilities")
    assert guessed.outputs == "probabilities" and "taken to be probabilities" in guessed.caveats[0]
    assert "taken to be" not in told.caveats[0] and "cut off" in told.caveats[0]
    plain = bound(Returns(lambda x: x[:, :3]))
    assert plain.outputs == "logits" and plain.caveats == ()
    np.testing.assert_allclose(guessed.scores(X), plain.scores(X), atol=1e-6)
    forced = bound(soft, outputs="logits")
    np.testing.assert_allclose(forced.logits(X), told.scores(X), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_probabilities_are_found_out_in_any_precision(dtype: torch.dtype) -> None:
    assert bound(Returns(lambda x: torch.softmax(x[:, :3].float(), 1).to(dtype))).outputs == "probabilities"


@pytest.mark.parametrize(("value", "refused"), [(math.inf, True), (-math.inf, False), (math.nan, True)])
def test_a_logit_of_infinity_is_no_answer_and_of_minus_infinity_is_one(value: float, refused: bool) -> None:
    target = bound(Returns(lambda x: torch.cat([x[:, :2], torch.full_like(x[:, :1], value)], 1)))
    if refused:
        with pytest.raises(InvalidData, match=r"infinite logits for|NaN for"):
            target.scores(X)
    else:
        assert (target.scores(X)[:, 2] == 0).all() and np.isfinite(target.scores(X)).all()


def test_a_single_output_between_0_and_1_must_be_explained() -> None:
    sigmoid = Returns(lambda x: torch.sigmoid(x[:, :1]))
    with pytest.raises(InvalidData, match=r"outputs='probabilities'\) or outputs='logits'"):
        bound(sigmoid, PAIR)
    share = bound(sigmoid, PAIR, outputs="probabilities")
    np.testing.assert_allclose(share.scores(X)[:, 1], 1 / (1 + np.exp(-X[:, 0])), atol=1e-6)
    logit = bound(sigmoid, PAIR, outputs="logits")
    np.testing.assert_allclose(logit.logits(X)[:, 1], share.scores(X)[:, 1], atol=1e-6)
    assert bound(Returns(lambda x: x[:, 0]), PAIR).outputs == "logits"


def test_saturated_probabilities_have_finite_logits_and_gradients() -> None:
    certain = Returns(lambda x: torch.softmax(1e4 * x[:, :3], 1))
    target = bound(certain, outputs="probabilities")
    assert np.isfinite(target.logits(X)).all()
    assert (target.logits(X).argmax(1) == X[:, :3].argmax(1)).all()
    x = torch.tensor(X, requires_grad=True)
    target.module()(x).sum().backward()
    assert torch.isfinite(x.grad).all()
    single = bound(Returns(lambda x: torch.sigmoid(1e4 * x[:, 0])), PAIR, outputs="probabilities")
    logits = single.logits(X)
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(single.module()(torch.tensor(X)).numpy(), logits, atol=1e-4)


@pytest.mark.parametrize(
    ("columns", "y", "options", "told"),
    [
        (3, ["a", "b"] * 30, {}, r"has 3 outputs but the labels are \['a', 'b'\]; wrap\(model, classes="),
        (2, [0, 1, 2] * 20, {}, r"has 2 outputs but the labels are \[0, 1, 2\]"),
        (1, [1, 2] * 30, {}, r"has 2 outputs but the labels are \[1, 2\]"),
        (3, ["a", "b"] * 30, {"classes": ["a", "b"]}, "names 2 labels but the module has 3"),
        (3, ["a", "d"] * 30, {"classes": ["a", "b", "c"]}, r"labels \['d'\] in the data are unknown"),
    ],
)
def test_classes_must_fit_the_outputs(columns: int, y: list[Any], options: Any, told: str) -> None:
    with pytest.raises(InvalidData, match=told):
        bound(Returns(lambda x: x[:, :columns]), Dataset(train=(X, y), holdout=(X, y)), **options)


def test_integers_below_the_number_of_outputs_are_classes() -> None:
    y = [0, 2] * 30
    assert bound(Returns(lambda x: x[:, :4]), Dataset(train=(X, y), holdout=(X, y))).classes == (0, 1, 2, 3)
    flags = [True, False] * 30
    assert bound(Returns(lambda x: x[:, 0]), Dataset(train=(X, flags), holdout=(X, flags))).classes == (0, 1)


def test_missing_answers_are_counted() -> None:
    x = X.copy()
    x[3, 0] = np.nan
    with pytest.raises(InvalidData, match="NaN for 1 of 60 rows"):
        bound(Returns(lambda x: x[:, :3])).scores(x)


def test_regression_offers_values_and_gradients() -> None:
    target = bound(Returns(lambda x: x[:, 0]), VALUES)
    assert target.capabilities == {LABELS, MODULE} and target.task == "regression"
    np.testing.assert_allclose(target.labels(X), X[:, 0], rtol=1e-6)
    assert target.module()(torch.tensor(X)).shape == (60, 1)
    with pytest.raises(MissingCapability, match="logits"):
        target.logits(X)
    with pytest.raises(InvalidData, match="not one number a row"):
        bound(Returns(lambda x: x[:, :2]), VALUES).labels(X)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"outputs": "labels"}, "use 'logits' or 'probabilities'"),
        ({"task": "regression", "outputs": "logits"}, "do not apply to regression"),
        ({"task": "regression", "classes": [0, 1]}, "do not apply to regression"),
        ({"classes": [1]}, "two or more"),
        ({"device": "nowhere"}, "device='nowhere' cannot be used"),
    ],
)
def test_options_that_do_not_apply_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidData, match=told) as caught:
        adapter.make(torch.nn.Linear(4, 3), **options)
    assert "\n" not in str(caught.value)


def test_models_without_values_and_data_without_numbers_are_refused() -> None:
    with pytest.raises(InvalidData, match="meta device"):
        adapter.make(torch.nn.Linear(4, 3, device="meta"))
    words = Dataset(train=(["a", "b"], [0, 1]), holdout=(["c"], [0]))
    with pytest.raises(InvalidData, match="this data is text"):
        adapter.make(torch.nn.Linear(4, 3)).bind(words)
    with pytest.raises(InvalidData, match="not known yet"):
        adapter.make(torch.nn.Linear(4, 3)).module()


def test_a_factory_that_returns_the_model_under_test_is_caught() -> None:
    net = torch.nn.Linear(4, 3)
    for factory in (lambda: net, lambda: torch.nn.Sequential(torch.nn.Flatten(), net)):
        target = bound(net, recipe=Recipe(factory=factory, epochs=1))
        before = target.digest()
        with pytest.raises(InvalidData, match="must build a fresh one each time"):
            target.refit(X, DATA.train.y, 0)
        assert target.digest() == before


def test_without_a_recipe_there_are_no_refits_and_a_recipe_must_fit_the_task() -> None:
    net = torch.nn.Linear(4, 3)
    assert not bound(net).has(REFIT) and bound(net).has(LOGITS)
    with pytest.raises(MissingCapability, match="refit"):
        bound(net).refit(X, DATA.train.y, 0)
    wrong = Recipe(factory=lambda: torch.nn.Linear(4, 3), loss="mse")
    with pytest.raises(InvalidData, match="use 'cross_entropy'"):
        bound(net, recipe=wrong).refit(X, DATA.train.y, 0)
    plain = Recipe(factory=lambda: torch.nn.Linear(4, 1))
    with pytest.raises(InvalidData, match="use 'mse'"):
        bound(torch.nn.Linear(4, 1), VALUES, recipe=plain).refit(X, X[:, 0], 0)


def test_the_digest_sees_every_bit_and_the_names() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)).to(torch.bfloat16)
    target = adapter.make(net)
    before = target.digest()
    with torch.no_grad():
        net[1].running_mean[0] += 1e-2
    assert target.digest() != before
    assert adapter.make(torch.nn.Sequential(*net)).digest() == target.digest()
    assert adapter.make(torch.nn.Sequential(torch.nn.Identity(), *net)).digest() != target.digest()


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
def test_a_buffer_without_elements_has_a_digest(shape: tuple[int, ...]) -> None:
    net = torch.nn.Linear(2, 2)
    net.register_buffer("none", torch.from_numpy(np.zeros(shape, np.int64)))
    assert adapter.make(net).digest() != adapter.make(torch.nn.Linear(2, 2)).digest()


def test_only_modules_are_accepted_and_nothing_is_imported_for_it() -> None:
    assert adapter.accepts(torch.nn.ReLU()) and not adapter.accepts(torch.relu)
    code = """
import sys
sys.modules["torch"] = None  # as if it were not installed
from casemate.adapters import torch as adapter
from casemate.core.errors import MissingExtra
from casemate.core.types import Recipe
from casemate.training import loop
assert not adapter.accepts(len)
try:
    loop.fit(Recipe(factory=list), [[0.0]], [0], seed=0)
except MissingExtra as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert 'pip install "casemate[torch]"' in done.stdout
