# SPDX-License-Identifier: Apache-2.0
"""``casemate harden``: what it writes and says, what it refuses, and how a stopped run goes on or is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from worlds import two_files_of_people

import casemate as cm
from casemate import cli

ROOT = Path(__file__).resolve().parents[2]
MODULE = """
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.neighbors import KNeighborsClassifier

import casemate as cm

HERE = Path(__file__).parent

def rows():
    table = pd.read_csv(HERE / "train.csv")
    return table[["a", "b", "c"]], table["y"]

def forest():
    return RandomForestClassifier(20, random_state=0).fit(*rows())

def neighbours():
    return KNeighborsClassifier().fit(*rows())

def remote():
    return lambda table: np.column_stack([table["a"] < 0, table["a"] >= 0]) * 1.0

def net():
    import torch

    class Slow(torch.nn.Sequential):
        def forward(self, x):
            if self.training and (HERE / "slow").exists():
                time.sleep(0.1)
            return super().forward(x)

    return Slow(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))

def deep(epochs=30):
    import torch

    recipe = cm.Recipe(factory=net, epochs=epochs, optimiser="adam", learning_rate=0.01)
    torch.manual_seed(0)
    return cm.wrap(net(), recipe=recipe, classes=["no", "yes"], outputs="logits")
"""
SCHEMA = """
format = "casemate-schema/1"
[[column]]
name = "a"
kind = "real"
low = -10.0
high = 10.0
[[column]]
name = "b"
kind = "real"
low = -10.0
high = 10.0
[[column]]
name = "c"
kind = "real"
low = -10.0
high = 10.0
"""
DATA = ["--train", "train.csv", "--holdout", "holdout.csv", "--label", "y", "--person", "owner"]
PRIVATE = ["--using", "dp_logistic:epsilon=3,delta=1e-4,bounds=schema", "--schema", "schema.toml"]
Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a module of targets and two files of people who own two rows each."""
    two_files_of_people(tmp_path)
    (tmp_path / "hardtargets.py").write_text(MODULE)
    (tmp_path / "schema.toml").write_text(SCHEMA)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "hardtargets", raising=False)
    monkeypatch.delenv("CASEMATE_LANG", raising=False)
    return tmp_path


@pytest.fixture(scope="module", autouse=True)
def first_optimiser() -> None:
    """What torch imports with its first optimiser takes seconds, which no test here should pay for."""
    torch = pytest.importorskip("torch")
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str]) -> Invoke:
    def call(*words: object) -> tuple[int, str, str]:
        code = cli.run([str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def harden(*more: object, model: str = "hardtargets:forest", out: str = "safe") -> list[object]:
    return ["harden", model, *DATA, "--jobs", 1, "--out", out, *more]


def test_before_and_after_from_the_command_that_is_printed(folder: Path, invoke: Invoke) -> None:
    audit = [
        "audit",
        "hardtargets:forest",
        *DATA,
        "--jobs",
        1,
        "--methods",
        "loss_attack",
        "--out",
        "before.json",
    ]
    assert invoke(*audit)[0] == 0
    code, out, err = invoke(*harden("--using", "limit_leaves:n=15", "--using", "rounding"))
    assert (code, err) == (0, "") and len(out.splitlines()) <= 25
    assert out.splitlines()[0].startswith("Hardened with limit_leaves, rounding: at least 15 training rows")
    assert "Promised: nothing." in out and "Files: change.json, model.joblib" in out
    utility = json.loads((folder / "safe" / "change.json").read_text())["utility"]
    for side in ("before", "after"):
        assert f"{utility[side][0]['value']:.3f}" in out
    again = shlex.split(out.split("before):\n")[1].splitlines()[0])
    assert again[:3] == ["casemate", "audit", "safe"] and out.splitlines()[-1].endswith("written: safe")
    code, _, err = invoke(*again[1:], "--jobs", 1)
    assert (code, err) == (0, "")
    before, after = (cm.Report.load(folder / f"{side}.json") for side in ("before", "after"))
    assert cm.compare(before, after).rows
    assert after["utility", "accuracy"].value == pytest.approx(utility["after"][0]["value"])
    assert [path.name for path in folder.glob("safe*")] == ["safe"]


def test_a_promise_is_said_with_its_bound(folder: Path, invoke: Invoke) -> None:
    code, out, err = invoke(*harden(*PRIVATE))
    assert (code, err) == (0, "")
    target = cm.load(folder / "safe")
    (plan,) = target.claims
    assert f"Promised: {plan}" in out and "per person" in out
    share = 100 * plan.max_tpr(0.01)
    (line,) = [line for line in out.splitlines() if line.startswith("For any attacker")]
    told = float(line.split("at most ")[1].split()[0])
    assert share <= told <= share + 0.1 and "of 100 people" in line
    assert "Not covered:" in out and "Promised: nothing" not in out
    code, out, _ = invoke(*harden(*PRIVATE, "--lang", "zh-CN", out="zh"))
    assert (
        code == 0
        and "对任何攻击者" in out
        and "保证不包括" in out
        and "Promised" not in out
        and len(out.splitlines()) <= 25
    )


def test_json_is_change_json(folder: Path, invoke: Invoke) -> None:
    code, out, _ = invoke(*harden("--using", "rounding", "--format", "json", "--seed", 3))
    assert code == 0 and out == (folder / "safe" / "change.json").read_text()
    said = json.loads(out)
    assert said["seed"] == 3 and said["model"]["name"] == "hardtargets:forest"
    assert said["using"] == [{"name": "rounding", "params": {"digits": 1}}]
    assert str(folder) not in out


def test_a_network_is_hardened_measured_and_hardened_again(folder: Path, invoke: Invoke) -> None:
    code, out, err = invoke(*harden("--using", "augment:noise=0.1", model="hardtargets:deep"))
    assert (code, err) == (0, "")
    again = shlex.split(next(line for line in out.splitlines() if line.startswith("  casemate audit")))
    assert again[again.index("--factory") + 1] == "hardtargets:deep"
    audit = ["audit", "safe", *DATA, "--jobs", 1, "--methods", "loss_attack"]
    code, out, err = invoke(*audit)
    assert (code, out) == (2, "") and "--factory package.module:function" in err
    assert invoke(*audit, "--factory", "hardtargets:deep")[0] == 0
    more = harden("--using", "rounding", "--factory", "hardtargets:deep", model="safe", out="safer")
    assert invoke(*more)[0] == 0
    assert json.loads((folder / "safer" / "change.json").read_text())["model"]["name"] == "safe"
    assert (folder / "safer" / "model.safetensors").read_bytes() == (
        folder / "safe" / "model.safetensors"
    ).read_bytes()


def test_the_printed_command_is_whole_and_names_no_folder_as_code(folder: Path, invoke: Invoke) -> None:
    assert invoke(*harden("--using", "distil", model="hardtargets:deep", out="one"))[0] == 0
    code, out, _ = invoke(*harden("--using", "rounding", model="one", out="two"))
    again = shlex.split(next(line for line in out.splitlines() if line.startswith("  casemate audit")))
    assert code == 0 and "--factory" not in again
    missing = [word for index in range(150) for word in ("--missing", f"nobody {index}")]
    code, out, _ = invoke(*harden("--using", "rounding", *missing, out="three"))
    again = shlex.split(next(line for line in out.splitlines() if line.startswith("  casemate audit")))
    assert code == 0 and "nobody 149" in again and again[-1] == "after.json"


def test_no_weakness_goes_unsaid_and_no_promise_is_said_twice(folder: Path, invoke: Invoke) -> None:
    from casemate.core.types import Note
    from casemate.report import changed

    data = cm.Dataset.from_files("train.csv", "holdout.csv", label="y", person="owner")
    change = cm.harden(cm.load("hardtargets:forest"), data, using=["rounding"])
    notes = [Note(text=f"weakness {index}") for index in range(30)]
    for n in (6, 30):
        said = changed.text(replace(change, evidence=tuple(notes[:n])), ["x"], folder="f", command="c")
        assert len(said.splitlines()) <= 25 and "weakness 5" in said and said.endswith("written: f")
    code, out, _ = invoke(*harden(*PRIVATE, out="private"))
    assert code == 0 and "Promised:" in out and "An upper bound for any attacker, if" not in out


WRONG: dict[str, tuple[list[object], int, str]] = {
    "no such defence": (["--using", "limit_leafs"], 2, "did you mean limit_leaves"),
    "no defence": (["--using", "lira"], 2, "lira is an attack, not a defence"),
    "no such parameter": (["--using", "limit_leaves:m=3"], 2, "no parameter 'm'"),
    "unreadable": (["--using", "limit_leaves:=3"], 2, "--using: cannot read"),
    "twice": (["--using", "rounding", "--using", "rounding"], 2, "--using names 'rounding' twice"),
    "needs torch": (["--using", "adversarial_training"], 2, "needs module, which this scikit-learn target"),
    "no bounds": (["--using", "dp_logistic:epsilon=3"], 2, "how do you know the bounds"),
    "read off the data": (["--using", "dp_logistic:epsilon=3,bounds=schema"], 2, "the schema read the bounds"),
    "delta": (["--using", "dp_logistic:epsilon=3,delta=0.1,bounds=schema", "--schema", "schema.toml"], 2, "too large"),
    "language": (["--using", "rounding", "--lang", "fr"], 2, "--lang 'fr'"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_line_and_leaves_nothing(name: str, folder: Path, invoke: Invoke) -> None:
    more, wanted, told = WRONG[name]
    before = sorted(path.name for path in folder.iterdir() if path.name != "__pycache__")
    code, out, err = invoke(*harden(*more))
    assert (code, out) == (wanted, "") and told in err and len(err.splitlines()) == 1
    assert sorted(path.name for path in folder.iterdir() if path.name != "__pycache__") == before


def test_models_that_cannot_be_trained_again_are_said(folder: Path, invoke: Invoke) -> None:
    code, _, err = invoke(*harden("--using", "limit_leaves", model="hardtargets:remote"))
    assert code == 2 and "needs refit, which this" in err and "offer" in err
    code, _, err = invoke(*harden("--using", "limit_leaves", model="hardtargets:neighbours"))
    assert code == 2 and "found no tree in this model" in err
    assert not list(folder.glob("safe*"))


def test_a_taken_place_is_refused_before_the_work(folder: Path, invoke: Invoke) -> None:
    (folder / "safe").mkdir()
    (folder / "safe" / "thesis.tex").write_text("x")
    code, out, err = invoke(*harden("--using", "rounding", model="hardtargets:absent"))
    assert (code, out) == (2, "") and "safe holds other things; name a new or an empty folder" in err
    code, _, err = invoke(*harden("--using", "rounding", out="no/such"))
    assert code == 2 and "there is no folder" in err
    assert (folder / "safe" / "thesis.tex").read_text() == "x" and not list(folder.glob("*.part"))


def test_tampered_and_hostile_folders_end_with_code_4(folder: Path, invoke: Invoke) -> None:
    assert invoke(*harden("--using", "rounding"))[0] == 0
    audit = ["audit", "safe", *DATA, "--jobs", 1, "--methods", "loss_attack"]
    file = folder / "safe" / "change.json"
    text = file.read_text()
    file.write_text(text.replace('"digits": 1', '"digits": 7'))
    code, out, err = invoke(*audit)
    assert (code, out) == (4, "") and "changed after it was written" in err
    file.write_text(text)
    (folder / "safe" / "model.joblib").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    code, out, err = invoke(*audit)
    assert (code, out) == (4, "") and "is not the file that change.json lists" in err
    said = json.loads(text)
    digest = hashlib.sha256((folder / "safe" / "model.joblib").read_bytes()).hexdigest()
    said["files"]["model.joblib"]["sha256"] = digest
    from casemate.hardened.folder import seal

    said.pop("sha256")
    file.write_text(json.dumps({**said, "sha256": seal(said)}))
    code, out, err = invoke(*audit)
    assert (code, out) == (4, "") and "os.system" in err and not (folder / "ran").exists()


def test_an_interrupt_leaves_checkpoints_and_the_same_command_goes_on(
    folder: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    from casemate.training import journal

    command = harden("--using", "augment:noise=0.1", "--seed", 5, model="hardtargets:deep")
    real, count = journal.save, [0]

    def stop(*given: object) -> None:
        real(*given)  # type: ignore[arg-type]
        count[0] += 1
        if count[0] == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(journal, "save", stop)
    code, out, err = invoke(*command)
    assert (code, out) == (130, "") and "no file is half-written" in err
    part = folder / "safe.part"
    assert [path.suffix for path in part.iterdir()] == [
        ".safetensors"
    ] and part.stat().st_mode & 0o777 == 0o700
    assert not (folder / "safe").exists()
    assert invoke(*command)[0] == 0
    assert count[0] == 30, "seven epochs before, twenty-three after"
    assert not part.exists()
    assert invoke(*[word if word != "safe" else "whole" for word in command])[0] == 0
    first, other = ((folder / name / "model.safetensors").read_bytes() for name in ("safe", "whole"))
    assert first == other


def test_a_private_training_that_was_stopped_is_not_begun_again(
    folder: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    from casemate.privacy import logistic

    def stop(*given: object) -> float:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(logistic, "noisy_sum", stop)
        assert invoke(*harden(*PRIVATE))[0] == 130
    (note,) = (folder / "safe.part").iterdir()
    assert note.read_bytes() == b"begun\n" and not (folder / "safe").exists()
    for command in (harden(*PRIVATE), harden(*PRIVATE, "--seed", 1), harden("--using", "rounding")):
        code, out, err = invoke(*command)
        assert (
            (code, out) == (2, "")
            and "beginning again spends epsilon once more" in err
            and "safe.part" in err
        )
    assert note.exists() and not (folder / "safe").exists()


def test_a_private_training_is_charged_to_a_budget_or_not_begun(folder: Path, invoke: Invoke) -> None:
    from casemate.privacy.ledger import Ledger

    for name, epsilon in (("much", 50.0), ("little", 0.01)):
        Ledger.create(folder / name, population="clinic", epsilon=epsilon, delta=1e-3).close()
    code, out, err = invoke(*harden(*PRIVATE, "--ledger", folder / "little"))
    assert (code, out) == (3, "") and "has no room for this" in err
    assert not (folder / "safe").exists() and not (folder / "safe.part").exists()
    code, out, _ = invoke(*harden(*PRIVATE, "--ledger", folder / "much"))
    assert code == 0 and "charged to the budget of clinic" in out
    assert Ledger.open(folder / "much", read_only=True).spent().epsilon > 0
    assert invoke(*harden(*PRIVATE, "--ledger", folder / "nowhere"))[0] == 2


# ---------------------------------------------------------------------- killed


def begun(*more: object, until: str, folder: Path) -> None:
    """Start the command as a process and kill it -9 once a file of that ending is there."""
    words = [str(word) for word in harden(*more, model="hardtargets:deep")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", "casemate.cli", *words], env=environment, cwd=folder)
    try:
        end = time.monotonic() + 300
        while not list((folder / "safe.part").glob(f"*{until}")):
            assert process.poll() is None and time.monotonic() < end, "it ended before it could be killed"
            time.sleep(0.01)
        time.sleep(0.2)
    finally:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_weights(folder: Path, invoke: Invoke) -> None:
    (folder / "slow").touch()
    begun("--using", "augment:noise=0.1", until=".safetensors", folder=folder)
    assert not (folder / "safe").exists()
    (folder / "slow").unlink()
    told: list[int] = []
    from casemate.training import journal

    real = journal.Journal.report
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            journal.Journal, "report", lambda self, done, total: told.append(done) or real(self, done, total)
        )
        assert invoke(*harden("--using", "augment:noise=0.1", model="hardtargets:deep"))[0] == 0
    assert 1 < told[0] <= told[-1] == 30, "it went on where it was"
    assert invoke(*harden("--using", "augment:noise=0.1", model="hardtargets:deep", out="whole"))[0] == 0
    first, other = ((folder / name / "model.safetensors").read_bytes() for name in ("safe", "whole"))
    assert first == other and not list(folder.glob("*.part"))


@pytest.mark.slow
def test_a_killed_private_training_is_refused(folder: Path, invoke: Invoke) -> None:
    (folder / "slow").touch()
    using = ["--using", "dp_sgd:epsilon=3,delta=1e-4"]
    begun(*using, until=".started", folder=folder)
    (folder / "slow").unlink()
    code, out, err = invoke(*harden(*using, model="hardtargets:deep"))
    assert (code, out) == (2, "") and "beginning again spends epsilon once more" in err
    assert not (folder / "safe").exists()
    held = [path.read_bytes() for path in (folder / "safe.part").iterdir()]
    assert held and set(held) == {b"begun\n"}, "no weights, no noise"
