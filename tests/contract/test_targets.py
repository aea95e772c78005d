# SPDX-License-Identifier: Apache-2.0
"""One conformance suite for every adapter: what a Target promises, on each of the micro models."""

from __future__ import annotations

import copy
import pickle
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import micro
import numpy as np
import pytest

from casemate.core.errors import BudgetExhausted, InvalidData, MissingCapability
from casemate.core.types import LABELS, LOGITS, MODULE, REFIT, SCORES, TREES, Capability, Target

torch = pytest.importorskip("torch")
try:  # what joblib's workers are sent
    import cloudpickle
except ModuleNotFoundError:  # joblib before 1.6 carries its own
    from joblib.externals import cloudpickle

ALL = sorted(micro.CASES)
SCORED = [
    name
    for name in ALL
    if name not in ("vectors", "regressor", "torch_values", "keras_values", "remote_labels", "sklearn_hard")
]
WITH_LOGITS = [
    "pipeline",
    "logistic",
    "holes",
    "xgb_holes",
    "xgb_three",
    "xgb_frame",
    "lgbm_frame",
    "lgbm_booster",
    "xgb_booster",
    "torch_binary",
    "torch_dropout",
    "torch_softmax",
    "torch_images",
    "keras_three",
    "keras_images",
    "keras_sigmoid",
    "keras_inputs",
    "onnx_three",
    "sklearn_stacking",
    "sklearn_text",
]
TORCH = [name for name in ALL if name.startswith("torch_")]
KERAS = [name for name in ALL if name.startswith("keras_")]
REFITTED = [name for name in ALL if not name.startswith(("remote_", "onnx_", "endpoint"))]
BOOSTERS = ["lgbm_booster", "xgb_booster"]
BOOSTED = ["xgb_holes", "xgb_three", "xgb_frame", "lgbm_frame", *BOOSTERS]
WITH_TREES = ["forest", "holes", "regressor", "search", "onnx_forest", *BOOSTED]
RANDOM = [
    "forest",
    "polars_pipeline",
    "search",
    "regressor",
    "xgb_three",
    "sklearn_voting",
    "sklearn_hard",
    "sklearn_calibrated",
    *BOOSTERS,
    *TORCH,
    *KERAS,
]  # whose training draws random numbers
TEXT = ["sklearn_text"]
VALUES = ["regressor", "torch_values", "keras_values"]


@pytest.fixture(scope="module", autouse=True)
def made() -> None:
    """Train the micro models outside any test's time limit."""
    for name in ALL:
        micro.bound(name)


def answers(target: Target, x: Any) -> dict[Capability, np.ndarray]:
    """Everything the target says about rows."""
    asked = {LABELS: target.labels, SCORES: target.scores, LOGITS: target.logits}
    return {capability: ask(x) for capability, ask in asked.items() if target.has(capability)}


def rows_of(x: Any, index: np.ndarray) -> Any:
    """Some rows of a table, of images or of texts."""
    return [x[i] for i in np.arange(len(x))[index]] if isinstance(x, list) else x[index]


def state(model: Any) -> Any:
    """What must not change in a user's model: bytes, attributes, modes, hooks, gradients."""
    if not isinstance(model, torch.nn.Module):
        return pickle.dumps(model)
    return [
        (
            name,
            part.training,
            sorted(vars(part)),
            [len(vars(part)[kind]) for kind in sorted(vars(part)) if kind.endswith("hooks")],
            [(key, value.detach().numpy().tobytes()) for key, value in part.state_dict().items()],
            [(p.requires_grad, p.grad is None, id(p)) for p in part.parameters()],
        )
        for name, part in model.named_modules()
    ]


@pytest.fixture
def nothing_changes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compare every micro model named by the test, and the global generators, before and after."""
    name = request.node.callspec.params["name"]
    model = micro.case(name).model

    def world() -> Any:
        legacy = np.random.get_state(legacy=False)
        return state(model), random.getstate(), repr(legacy), torch.get_rng_state().numpy().tobytes()

    before = world()
    yield
    assert world() == before


# ---------------------------------------------------------------------- predictions


@pytest.mark.parametrize("name", ALL)
def test_labels_are_those_of_the_model_itself(name: str) -> None:
    target, data = micro.bound(name)
    case = micro.case(name)
    native = case.native_labels(case.rows)
    if name in VALUES:
        np.testing.assert_allclose(target.labels(data.holdout.x), native, rtol=1e-6)
    else:
        indices = target.labels(data.holdout.x)
        assert indices.dtype == np.int64
        assert [target.classes[i] for i in indices] == native.tolist()
        assert len(set(indices.tolist())) > 1, "a constant model shows nothing"


@pytest.mark.parametrize("name", SCORED)
def test_scores_are_those_of_the_model_itself(name: str) -> None:
    target, data = micro.bound(name)
    case = micro.case(name)
    assert case.native_scores is not None
    np.testing.assert_allclose(target.scores(data.holdout.x), case.native_scores(case.rows), atol=1e-6)


@pytest.mark.parametrize("name", SCORED)
def test_scores_are_float64_probabilities(name: str) -> None:
    target, data = micro.bound(name)
    scores = target.scores(data.train.x)
    assert scores.dtype == np.float64 and scores.shape == (len(data.train), len(target.classes))
    assert (scores >= 0).all()
    np.testing.assert_allclose(scores.sum(1), 1, atol=1e-12)


@pytest.mark.parametrize("name", WITH_LOGITS)
def test_logits_are_the_logarithm_of_the_scores_up_to_a_constant(name: str) -> None:
    target, data = micro.bound(name)
    logits, scores = target.logits(data.holdout.x), target.scores(data.holdout.x)
    gap = logits - np.log(scores)
    np.testing.assert_allclose(gap - gap[:, :1], 0, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_rows_are_independent_of_their_batch_and_order(name: str) -> None:
    target, data = micro.bound(name)
    x = data.train.x
    order = np.random.default_rng(0).permutation(len(x))
    small = replace(target, batch_size=7) if name in TORCH else target  # type: ignore[call-arg]
    for capability, whole in answers(target, x).items():
        ask = {LABELS: small.labels, SCORES: small.scores, LOGITS: small.logits}[capability]
        pieces = np.concatenate([ask(rows_of(x, order[i : i + 11])) for i in range(0, len(x), 11)])
        if capability == LABELS and name not in VALUES:
            assert (pieces == whole[order]).all()
        else:
            np.testing.assert_allclose(pieces, whole[order], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_the_same_question_gets_the_same_bytes(name: str) -> None:
    target, data = micro.bound(name)
    first, second = answers(target, data.train.x), answers(target, data.train.x)
    assert {key: value.tobytes() for key, value in first.items()} == {
        key: value.tobytes() for key, value in second.items()
    }


@pytest.mark.parametrize("name", ALL)
def test_a_single_row_is_enough_and_none_is_refused(name: str) -> None:
    target, data = micro.bound(name)
    whole = answers(target, data.holdout.x)
    for capability, one in answers(target, data.holdout.x[:1]).items():
        np.testing.assert_allclose(one, whole[capability][:1], rtol=1e-5, atol=1e-6)
    with pytest.raises(InvalidData, match="no rows"):
        target.labels(data.holdout.x[:0])
    if target.has(REFIT):
        with pytest.raises(InvalidData, match="no rows"):
            target.refit(data.train.x[:0], data.train.y[:0], 0)


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("torch_images", "keras_images", *TEXT)])
def test_rows_of_another_width_are_refused(name: str) -> None:
    target, data = micro.bound(name)
    with pytest.raises(InvalidData, match=r"must have shape \(n, 4\)"):
        target.labels(data.holdout.x[:, :3])


@pytest.mark.parametrize("name", [name for name in ALL if name not in TEXT])
def test_rows_may_be_read_only(name: str) -> None:
    """Workers get them as memory maps."""
    target, data = micro.bound(name)
    x = data.holdout.x.copy()
    x.setflags(write=False)
    assert (target.labels(x) == target.labels(data.holdout.x)).all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.usefixtures("nothing_changes")
def test_asking_changes_nothing(name: str) -> None:
    target, data = micro.bound(name)
    digest = target.digest()
    answers(target, data.holdout.x)
    if target.has(MODULE):
        x = torch.tensor(data.holdout.x, requires_grad=True)
        target.module()(x).sum().backward()
    assert target.digest() == digest


@pytest.mark.parametrize("name", TORCH)
def test_a_model_in_training_mode_answers_in_eval_mode_and_stays_in_training_mode(name: str) -> None:
    case, (target, data) = micro.case(name), micro.bound(name)
    model = copy.deepcopy(case.model).train()
    list(model.modules())[1].eval()  # a mixed state
    seen: list[bool] = []
    hook = model.register_forward_hook(lambda *_: seen.append(any(part.training for part in model.modules())))
    before = state(model)
    training = replace(target, model=model)  # type: ignore[call-arg]
    assert (training.labels(data.holdout.x) == target.labels(data.holdout.x)).all()
    assert seen == [False]
    training.module()
    assert state(model) == before
    hook.remove()
    model.register_forward_pre_hook(_fail)
    before = state(model)
    with pytest.raises(InvalidData, match="the module failed: on purpose"):
        training.labels(data.holdout.x)
    assert state(model) == before


def _fail(*_: Any) -> None:
    raise RuntimeError("on purpose")


@pytest.mark.parametrize("name", ALL)
def test_two_threads_get_what_one_gets(name: str) -> None:
    target, data = micro.bound(name)
    if name in TORCH:
        target = replace(target, model=copy.deepcopy(micro.case(name).model).train(), batch_size=5)  # type: ignore[call-arg]
    alone = target.labels(data.train.x)
    wrong: list[int] = []

    def ask() -> None:
        wrong.extend(int((target.labels(data.train.x) != alone).sum()) for _ in range(5))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [0] * 10


@pytest.mark.parametrize("name", ALL)
def test_it_travels_to_a_worker(name: str) -> None:
    target, data = micro.bound(name)
    if name == "endpoint":  # one budget, one process
        with pytest.raises(InvalidData, match="run with one job"):
            pickle.dumps(target)
        return
    there = cloudpickle.loads(cloudpickle.dumps(target))
    assert there.digest() == target.digest()
    assert (there.labels(data.holdout.x) == target.labels(data.holdout.x)).all()
    if target.has(REFIT):
        back = pickle.loads(pickle.dumps(target.refit(data.train.x, data.train.y, 3)))
        assert back.digest() == there.refit(data.train.x, data.train.y, 3).digest()


# ---------------------------------------------------------------------- missing cells, frames


@pytest.mark.parametrize(
    "name",
    [
        "pipeline",
        "polars_pipeline",
        "holes",
        "remote_labels",
        "xgb_holes",
        "xgb_frame",
        "lgbm_frame",
        "xgb_booster",
    ],
)
def test_models_that_take_missing_cells_get_them(name: str) -> None:
    target, data = micro.bound(name)
    assert np.isnan(data.holdout.x).any()
    if target.has(SCORES):
        filled = np.where(np.isnan(data.holdout.x), 0.0, data.holdout.x)
        rows = np.isnan(data.holdout.x).any(1)
        changed = np.abs(target.scores(filled) - target.scores(data.holdout.x)).max(1) > 1e-9
        assert changed[rows].any() and not changed[~rows].any()


@pytest.mark.parametrize("name", ["vectors", "logistic", "torch_binary", "torch_values"])
def test_models_that_cannot_take_missing_cells_say_so_in_one_line(name: str) -> None:
    target, data = micro.bound(name)
    x = data.holdout.x.copy()
    x[3, 1] = np.nan
    with pytest.raises(InvalidData, match=r"NaN|not finite") as caught:
        target.labels(x)
    assert "\n" not in str(caught.value)


FRAMES = ["pipeline", "polars_pipeline", "remote_labels", "xgb_frame", "lgbm_frame", "xgb_booster"]


def tables_of(name: str) -> list[tuple[Any, Any]]:
    """Training and held-out frames of a case on ``micro.people``, and their labels."""
    library, turned = ("polars" if name.startswith("polars") else "pandas"), name.startswith(("xgb", "lgbm"))
    made = []
    for table in (micro.people(micro.N, 2), micro.people(micro.N // 2, 3)):
        labels = micro.ill_by_town(table) if turned else micro.ill(table)
        made.append((micro.frame(table, library), (labels == "yes") * 1 if name == "xgb_frame" else labels))
    return made


@pytest.mark.parametrize("name", FRAMES)
def test_columns_in_another_order_give_the_same_predictions(name: str) -> None:
    case, (target, data) = micro.case(name), micro.bound(name)
    order = ["town", "smokes", "income", "age"]
    mixed = type(data)(*((frame[order], labels) for frame, labels in tables_of(name)))
    other, coded = case.target.bind(mixed)
    assert other.schema is not None and other.schema.names == order
    for capability, found in answers(other, coded.holdout.x).items():
        np.testing.assert_allclose(found, answers(target, data.holdout.x)[capability], atol=1e-12)


def test_named_inputs_find_their_columns_in_any_order() -> None:
    case, (target, data) = micro.case("keras_inputs"), micro.bound("keras_inputs")
    assert data.schema.names == ["a", "b", "c", "d"] != [part.name for part in case.model.inputs]
    order = ["d", "a", "c", "b"]
    train, holdout = ((data.schema.decode(part.x)[order], part.y) for part in (data.train, data.holdout))
    other, coded = case.target.bind(type(data)(train, holdout))
    np.testing.assert_allclose(other.scores(coded.holdout.x), target.scores(data.holdout.x), atol=1e-12)


@pytest.mark.parametrize("name", FRAMES)
def test_a_category_that_the_model_never_saw_is_answered_as_by_the_model_or_refused(name: str) -> None:
    case, (train, (frame, labels)) = micro.case(name), tables_of(name)
    table, library = micro.people(micro.N // 2, 3), "polars" if name.startswith("polars") else "pandas"
    table["town"][:5] = ["Ulm"] * 5
    frame = micro.frame(table, library)
    try:
        target, data = case.target.bind(type(micro.bound(name)[1])(train, (frame, labels)))
        found = target.labels(data.holdout.x)
    except InvalidData as error:
        assert "\n" not in str(error) and "Ulm" in str(error)
        return
    if any("never saw: it gets them as missing cells" in caveat for caveat in target.caveats):
        table["town"][:5] = [None] * 5
        frame = micro.frame(table, library)
    assert [target.classes[i] for i in found] == list(case.native_labels(frame))


@pytest.mark.parametrize("name", ALL)
def test_bound_once_it_stays_bound(name: str) -> None:
    target, data = micro.bound(name)
    again, same = target.bind(data)
    assert again is target and same is data


# ---------------------------------------------------------------------- trees


@pytest.mark.parametrize("name", ALL)
def test_trees_are_offered_by_models_of_trees_alone(name: str) -> None:
    assert micro.bound(name)[0].has(TREES) == (name in WITH_TREES)


@pytest.mark.parametrize("name", WITH_TREES)
def test_the_node_table_says_what_the_target_says(name: str) -> None:
    target, data = micro.bound(name)
    table = target.trees()
    assert target.schema is not None
    assert len(table.dtypes) == len(target.schema.columns) and table.feature.max() < len(table.dtypes)
    for x in (data.train.x, data.holdout.x):
        scores = table.scores(x)
        if name in VALUES:
            np.testing.assert_allclose(scores[:, 0], target.labels(x), rtol=1e-6)
        else:
            np.testing.assert_allclose(scores, target.scores(x), atol=1e-6)
            assert (scores.argmax(1) == target.labels(x)).mean() > 0.95  # but for ties


@pytest.mark.parametrize("name", [name for name in WITH_TREES if name in REFITTED])
def test_the_node_table_of_a_refit_is_its_own(name: str) -> None:
    target, data = micro.bound(name)
    keep = data.train.y != 0 if len(target.classes) > 2 else np.arange(len(data.train)) % 2 == 0
    fresh = target.refit(data.train.x[keep], data.train.y[keep], 3)
    table, x = fresh.trees(), data.holdout.x
    if name in VALUES:
        np.testing.assert_allclose(table.scores(x)[:, 0], fresh.labels(x), rtol=1e-6)
    else:
        np.testing.assert_allclose(table.scores(x), fresh.scores(x), atol=1e-6)
        assert np.abs(table.scores(x) - target.trees().scores(x)).max() > 1e-3


# ---------------------------------------------------------------------- gradients


@pytest.mark.parametrize("name", [*TORCH, *KERAS, "onnx_three"])
def test_the_module_says_what_the_target_says(name: str) -> None:
    target, data = micro.bound(name)
    module = target.module()
    assert not module.training and not any(p.requires_grad for p in module.parameters())
    out = module(torch.as_tensor(data.holdout.x)).detach().double().numpy()
    wanted = target.labels(data.holdout.x)[:, None] if name in VALUES else target.logits(data.holdout.x)
    assert out.shape == (len(data.holdout), max(1, len(target.classes)))
    np.testing.assert_allclose(out, wanted, atol=1e-5)


@pytest.mark.parametrize("name", [*TORCH, *KERAS, "onnx_three"])
def test_gradients_agree_with_finite_differences(name: str) -> None:
    """In float64; Keras and copies of ONNX compute in float32 whatever they are given."""
    target, data = micro.bound(name)
    if name in TORCH:
        target = replace(target, model=copy.deepcopy(micro.case(name).model).double())  # type: ignore[call-arg]
    module, single = target.module(), name not in TORCH
    dtype = torch.float32 if single else torch.float64
    module = module if single else module.double()
    step, rel = (2e-3, 2e-2) if single else (1e-6, 1e-4)
    x = torch.as_tensor(data.holdout.x[:3], dtype=dtype)
    asked = x.clone().requires_grad_()
    out = module(asked)
    weights = torch.linspace(1.0, 2.0, out.numel(), dtype=dtype, device="cpu").reshape(out.shape)
    (gradient,) = torch.autograd.grad((out * weights).sum(), asked)
    flat, largest = x.reshape(-1), float(gradient.abs().max())
    assert largest > 0
    for i in range(0, len(flat), max(1, len(flat) // 12)):
        bump = torch.zeros_like(flat)
        bump[i] = step
        up, down = (
            (module((flat + sign * bump).reshape(x.shape)) * weights).double().sum() for sign in (1, -1)
        )
        found = float((up - down) / (2 * step))
        assert found == pytest.approx(float(gradient.reshape(-1)[i]), rel=rel, abs=rel * 1e-3 * largest)


@pytest.mark.parametrize("name", [*TORCH, *KERAS, "onnx_three"])
def test_the_copy_in_module_shares_nothing_with_the_model(name: str) -> None:
    target = micro.bound(name)[0]
    before = target.digest()
    module = target.module()
    with torch.no_grad():
        for parameter in module.parameters():  # a Keras dropout keeps its seed among them
            parameter.add_(1.0 if parameter.is_floating_point() else 1)
    assert target.digest() == before


@pytest.mark.parametrize("name", TORCH)
def test_every_tensor_names_its_device(name: str) -> None:
    """Where the default device is ``meta``, a tensor made without a device has no values and fails."""
    target, data = micro.bound(name)
    plain, fresh = answers(target, data.holdout.x), target.refit(data.train.x, data.train.y, 5)
    with torch.device("meta"):
        case = micro.case(name)
        again, coded = case.target.bind(case.data)
        there = answers(again, coded.holdout.x)
        shadow = again.refit(coded.train.x, coded.train.y, 5)
        out = again.module()(torch.from_numpy(coded.holdout.x))
    assert out.device.type == "cpu"
    assert shadow.digest() == fresh.digest()
    for capability, values in plain.items():
        np.testing.assert_array_equal(there[capability], values)


@pytest.mark.parametrize("name", TORCH)
def test_a_model_keeps_its_dtype(name: str) -> None:
    target, data = micro.bound(name)
    dtypes: set[Any] = set()
    model = copy.deepcopy(micro.case(name).model)
    model.register_forward_pre_hook(lambda _, inputs: dtypes.add(inputs[0].dtype))
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        cast = replace(target, model=model.to(dtype))  # type: ignore[call-arg]
        assert cast.labels(data.holdout.x).shape == (len(data.holdout),)
        assert dtypes == {dtype}
        dtypes.clear()


# ---------------------------------------------------------------------- refits


@pytest.mark.parametrize("name", REFITTED)
@pytest.mark.usefixtures("nothing_changes")
def test_a_refit_is_fresh_and_reproducible(name: str) -> None:
    target, data = micro.bound(name)
    x, y = data.train.x, data.train.y
    one, same, other = (target.refit(x, y, seed) for seed in (1, 1, 2))
    assert one.digest() == same.digest()
    assert one.labels(x).tobytes() == same.labels(x).tobytes()
    assert one.model is not micro.case(name).model  # type: ignore[attr-defined]
    if name in RANDOM:
        assert one.digest() != other.digest()
    assert one.capabilities == target.capabilities and one.classes == target.classes
    assert type(one) is type(target) and one.schema is target.schema


@pytest.mark.parametrize("name", REFITTED)
def test_a_refit_learns_from_what_it_is_given(name: str) -> None:
    """Turned labels turn the predictions: nothing of the model under test is left in the refit."""
    target, data = micro.bound(name)
    x, y = data.train.x, data.train.y
    turned = -y if name in VALUES else len(target.classes) - 1 - y
    plain, mirror = target.refit(x, y, 0).labels(x), target.refit(x, turned, 0).labels(x)
    if name in VALUES:
        assert np.corrcoef(plain, mirror)[0, 1] < -0.9
    else:
        assert (mirror == turned).mean() > (mirror == y).mean()


TWO = [
    "pipeline",
    "logistic",
    "xgb_holes",
    "xgb_frame",
    "lgbm_frame",
    "xgb_booster",
    "sklearn_voting",
    "sklearn_text",
]  # none is left of one class


@pytest.mark.parametrize("name", [n for n in REFITTED if n in SCORED and n not in TWO])
def test_a_class_that_a_refit_never_saw_gets_nothing_or_little(name: str) -> None:
    target, data = micro.bound(name)
    keep = data.train.y != 0
    fresh = target.refit(rows_of(data.train.x, keep), data.train.y[keep], 0)
    scores = fresh.scores(data.holdout.x)
    assert scores.shape == (len(data.holdout), len(target.classes))
    np.testing.assert_allclose(scores.sum(1), 1, atol=1e-12)
    if name in BOOSTERS:  # they are told how many classes there are
        assert (scores[:, 0] < 0.1).all()
    elif name not in TORCH + KERAS:
        assert (scores[:, 0] == 0).all()
        assert (fresh.labels(data.holdout.x) > 0).all()


@pytest.mark.parametrize("name", REFITTED)
def test_a_refit_needs_a_label_for_every_row(name: str) -> None:
    target, data = micro.bound(name)
    with pytest.raises(InvalidData, match="label"):
        target.refit(data.train.x, data.train.y[:-1], 0)


@pytest.mark.parametrize("name", REFITTED)
def test_a_refit_makes_no_claim_of_the_file_the_model_came_from(name: str) -> None:
    target, data = micro.bound(name)
    claimed = replace(target, source={"path": "model.bin"}, claims=("epsilon",))
    fresh = claimed.refit(data.train.x, data.train.y, 0)
    assert fresh.source is None and fresh.claims == ()


# ---------------------------------------------------------------------- access


@pytest.mark.parametrize("name", ALL)
def test_what_is_not_offered_is_missing(name: str) -> None:
    target, data = micro.bound(name)
    x, y = data.holdout.x, data.holdout.y
    asks = {
        SCORES: lambda: target.scores(x),
        LOGITS: lambda: target.logits(x),
        MODULE: target.module,
        TREES: target.trees,
        REFIT: lambda: target.refit(x, y, 0),
    }
    for capability, ask in asks.items():
        if not target.has(capability):
            with pytest.raises(MissingCapability, match=capability.value):
                ask()


@pytest.mark.parametrize("name", ALL)
def test_limits_hold_and_count(name: str) -> None:
    target, data = micro.bound(name)
    x, y = data.holdout.x, data.holdout.y
    view: Any = target.limited_to(LABELS)
    assert view.capabilities == {LABELS}
    for ask in (
        lambda: view.scores(x),
        lambda: view.logits(x),
        view.module,
        view.trees,
        lambda: view.refit(x, y, 0),
    ):
        with pytest.raises(MissingCapability):
            ask()
    assert (view.labels(x) == target.labels(x)).all()
    view.labels(x[:1])
    assert (view.counter.tally["rows"], view.counter.tally["calls"]) == (len(x) + 1, 2)


@pytest.mark.parametrize("name", ALL)
def test_a_view_made_before_binding_is_the_view_of_the_bound_target(name: str) -> None:
    case, (target, data) = micro.case(name), micro.bound(name)
    view, coded = case.target.limited_to(*Capability).bind(case.data)
    assert (view.capabilities, view.classes, view.task) == (target.capabilities, target.classes, target.task)
    assert (view.caveats, view.input) == (target.caveats, target.input)
    np.testing.assert_array_equal(view.labels(coded.holdout.x), target.labels(data.holdout.x))
    if target.has(MODULE):
        assert not view.module().training
    if target.has(TREES):
        assert repr(view.trees()) == repr(target.trees())


@pytest.mark.parametrize("name", REFITTED)
def test_a_limited_target_gives_limited_shadows_that_cost_no_queries(name: str) -> None:
    target, data = micro.bound(name)
    view: Any = target.limited_to(LABELS, REFIT, n_queries=3)
    shadow = view.refit(data.train.x, data.train.y, 0)
    assert shadow.capabilities == {LABELS, REFIT}
    shadow.labels(data.holdout.x)
    assert view.counter.tally["rows"] == 0 and view.counter.tally["refits"] == 1


@pytest.mark.parametrize("name", ["remote_scores", "remote_labels"])
def test_a_query_beyond_the_budget_is_never_sent(name: str) -> None:
    target, data = micro.bound(name)
    sent: list[int] = []
    ask = target.predict  # type: ignore[attr-defined]
    watched = replace(target, predict=lambda rows: (sent.append(len(rows)), ask(rows))[1])  # type: ignore[call-arg]
    view = watched.limited_to(LABELS, n_queries=5)
    view.labels(data.holdout.x[:4])
    with pytest.raises(BudgetExhausted):
        view.labels(data.holdout.x[:2])
    view.labels(data.holdout.x[:1])
    assert sent == [4, 1]


@pytest.mark.parametrize("name", REFITTED)
def test_the_digest_tells_models_apart(name: str) -> None:
    target, data = micro.bound(name)
    half = len(data.train) // 2
    digests = {
        target.digest(),
        *(target.refit(data.train.x[i:], data.train.y[i:], 0).digest() for i in (0, half)),
    }
    assert len(digests) >= 2
    assert target.refit(data.train.x[half:], data.train.y[half:], 0).digest() != target.digest()
    assert all(len(digest) == 64 and int(digest, 16) >= 0 for digest in digests)
