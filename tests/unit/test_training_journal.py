# SPDX-License-Identifier: Apache-2.0
"""A training that was stopped: by an interrupt, by kill -9, on a damaged file; and what the folder holds."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import micro
import numpy as np
import pytest

import casemate as cm
from casemate.core.errors import GuaranteeVoid, InvalidData
from casemate.core.types import Recipe

torch = pytest.importorskip("torch")
from casemate.training import journal, loop  # noqa: E402  # after the guard
from casemate.training.pieces import TrainingPieces  # noqa: E402
from casemate.training.steps import Selection, Stage  # noqa: E402

X = micro.numbers(200, 0) / np.array([1.0, 10.0, 0.1, 3.0])
Y = micro.three_classes(X * np.array([1.0, 10.0, 0.1, 3.0]))


class Drawing(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
    """Draws from every generator there is, and has buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 3)
        )

    def forward(self, x: Any) -> Any:
        if self.training:
            x = x + 0.1 * random.random() + 0.1 * np.random.random()  # as users do
        return self.inner(x)


def odd_epochs(x: Any, y: Any, stage: Stage) -> float:
    """A score that is best in the middle."""
    return float(stage.epoch % 3)


RECIPES = {
    "adam": Recipe(factory=Drawing, epochs=6, optimiser="adam", learning_rate=0.01),
    "momentum": Recipe(factory=Drawing, epochs=6, momentum=0.9),
    "plain": Recipe(factory=Drawing, epochs=6),
    "select": Recipe(
        factory=Drawing,
        epochs=6,
        optimiser="adamw",
        pieces=TrainingPieces(
            select=Selection(score=odd_epochs, name="oddity"), schedule=lambda stage: 1 / (1 + stage.step)
        ),
    ),
}


def numbers_of(model: Any) -> bytes:
    return b"".join(value.numpy().tobytes() for value in model.state_dict().values())


def stop_at(epoch: int, what: str, done: int, total: int) -> None:
    if done == epoch:
        raise KeyboardInterrupt


def generators() -> tuple[Any, ...]:
    return random.getstate(), repr(np.random.get_state(legacy=False)), torch.get_rng_state().numpy().tobytes()


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("epoch", [1, 4])
def test_an_interrupted_training_goes_on_to_the_same_bytes(name: str, epoch: int, tmp_path: Path) -> None:
    recipe, before = RECIPES[name], generators()
    whole = loop.fit(recipe, X, Y, seed=3)
    with pytest.raises(KeyboardInterrupt), journal.watched(folder=tmp_path, progress=partial(stop_at, epoch)):
        loop.fit(recipe, X, Y, seed=3)
    assert generators() == before
    told: list[int] = []
    with journal.watched(folder=tmp_path, progress=lambda what, done, total: told.append(done)):
        again = loop.fit(recipe, X, Y, seed=3)
    assert numbers_of(again) == numbers_of(whole)
    assert told == list(range(epoch + 1, 7)), "it went on where it was"
    assert generators() == before and list(tmp_path.iterdir()) == []


def test_an_interrupt_inside_a_step_leaves_the_epoch_before(tmp_path: Path) -> None:
    armed = [True]

    def interrupt(stage: Stage) -> float:
        if armed and stage.step == 17:  # in the third epoch of seven steps
            raise KeyboardInterrupt
        return 1.0

    recipe = replace(RECIPES["adam"], pieces=TrainingPieces(schedule=interrupt))
    with journal.watched(folder=tmp_path):
        with pytest.raises(KeyboardInterrupt):
            loop.fit(recipe, X, Y, seed=3)
        (left,) = tmp_path.iterdir()
        assert left.stat().st_mode & 0o777 == 0o600
        armed.clear()
        again = loop.fit(recipe, X, Y, seed=3)
    assert numbers_of(again) == numbers_of(loop.fit(recipe, X, Y, seed=3))


KILLED = """
import os, signal, sys, threading, time
import numpy as np
import micro
from casemate.core.types import Recipe
from casemate.training import journal, loop

def progress(what, done, total):
    if done == 3:
        threading.Timer(float(sys.argv[2]), os.kill, (os.getpid(), signal.SIGKILL)).start()
    if done == 59:
        time.sleep(60)  # the machine was late with the kill: it comes

x = micro.numbers(60, 0)
recipe = Recipe(factory=micro.dropout_net, epochs=60, optimiser="adam", learning_rate=0.01)
with journal.watched(folder=sys.argv[1], progress=progress):
    loop.fit(recipe, x, micro.three_classes(x), seed=5)
"""


@pytest.mark.timeout(60)  # a Python process that imports torch
def test_a_killed_training_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", KILLED, str(tmp_path), "0.02"]
    killed = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    x = micro.numbers(60, 0)
    recipe = Recipe(factory=micro.dropout_net, epochs=60, optimiser="adam", learning_rate=0.01)
    told: list[int] = []
    with journal.watched(folder=tmp_path, progress=lambda what, done, total: told.append(done)):
        again = loop.fit(recipe, x, micro.three_classes(x), seed=5)
    assert 3 < told[0] <= 60 and told[-1] == 60
    assert numbers_of(again) == numbers_of(loop.fit(recipe, x, micro.three_classes(x), seed=5))
    assert [path for path in tmp_path.iterdir() if path.suffix != ".part"] == []


def stopped(folder: Path, recipe: Recipe = RECIPES["adam"], seed: int = 3) -> list[Path]:
    with pytest.raises(KeyboardInterrupt), journal.watched(folder=folder, progress=partial(stop_at, 2)):
        loop.fit(recipe, X, Y, seed=seed)
    return sorted(folder.iterdir())


def test_another_training_in_the_same_folder_begins_at_its_beginning(tmp_path: Path) -> None:
    (first,) = stopped(tmp_path)
    assert len(stopped(tmp_path, seed=4)) == 2
    assert len(stopped(tmp_path, replace(RECIPES["adam"], learning_rate=0.02))) == 3
    assert first in tmp_path.iterdir()


@pytest.mark.parametrize("how", ["cut", "empty", "noise"])
def test_a_damaged_checkpoint_is_refused_in_one_line(how: str, tmp_path: Path) -> None:
    (path,) = stopped(tmp_path)
    raw = path.read_bytes()
    path.write_bytes({"cut": raw[: len(raw) // 2], "empty": b"", "noise": b"\x80" * 4096}[how])
    before = generators()
    with (
        journal.watched(folder=tmp_path),
        pytest.raises(InvalidData, match="is no checkpoint of this") as told,
    ):
        loop.fit(RECIPES["adam"], X, Y, seed=3)
    assert "\n" not in str(told.value) and generators() == before


def test_a_training_with_a_guarantee_is_begun_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("casemate.training.per_example.sound", lambda *_: None)  # the claim is a word here
    recipe = replace(RECIPES["plain"], pieces=TrainingPieces(claims=("epsilon 3",)))
    (left,) = stopped(tmp_path, recipe)
    assert left.suffix == ".started" and left.read_bytes() == b"begun\n", "no weights, no noise"
    with journal.watched(folder=tmp_path), pytest.raises(GuaranteeVoid, match="begun before"):
        loop.fit(recipe, X, Y, seed=3)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidData, match="cannot be made"), journal.watched(folder=tmp_path / "file" / "x"):
        pass


def test_fingerprints_tell_what_differs() -> None:
    parts = [
        1, 1.0, "1", None, [1, 2], {"a": 1}, {"a": 2}, len, sum, partial(len, 1), partial(len, 2),
        np.zeros(2), np.zeros(3), np.zeros(2, np.float32), torch.zeros(2), torch.ones(2),
        RECIPES["adam"], RECIPES["plain"], RECIPES["select"],
    ]  # fmt: skip
    marks = [journal.fingerprint(part) for part in parts]
    assert len(set(marks)) == len(parts)
    assert marks == [journal.fingerprint(part) for part in parts]


def test_harden_goes_on_too(tmp_path: Path) -> None:
    x, y = X[:100], Y[:100]
    data = cm.Dataset(train=(x, y), holdout=(X[100:], Y[100:]))
    target = cm.wrap(loop.fit(RECIPES["adam"], x, y, seed=0), recipe=RECIPES["adam"])
    using = [cm.method("augment", noise=0.2)]
    whole = cm.harden(target, data, using=using)
    with pytest.raises(KeyboardInterrupt):
        cm.harden(target, data, using=using, folder=tmp_path, progress=partial(stop_at, 4))
    told: list[tuple[Any, ...]] = []
    again = cm.harden(target, data, using=using, folder=tmp_path, progress=lambda *said: told.append(said))
    assert again.target.digest() == whole.target.digest()
    assert told == [("training: epochs", 5, 6), ("training: epochs", 6, 6)]
