# SPDX-License-Identifier: Apache-2.0
"""casemate budget: set, show and verify, in both languages."""

from __future__ import annotations

import json

import pytest

from casemate import cli
from casemate.privacy.events import Gaussian, Pure
from casemate.privacy.ledger import Ledger


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "clinic.ledger"
    argv = ["budget", "set", str(file), "--population", "clinic 2026", "--epsilon", "3", "--delta", "1e-6"]
    assert cli.run(argv) == 0
    return file


def test_what_is_shown_is_what_was_spent(path, capsys):
    ledger = Ledger.open(path)
    ledger.release("mean(age); data 7c1f", (Pure(epsilon=0.1),), lambda: {"value": 1})
    ledger.reserve("dp_sgd 12", (Gaussian(noise_multiplier=9.0, count=2),))
    capsys.readouterr()
    assert cli.run(["budget", "show", str(path)]) == 0
    told = capsys.readouterr().out
    assert "population: clinic 2026" in told and "pure epsilon=0.1" in told and "mean(age); data 7c1f" in told
    assert "gaussian noise_multiplier=9.0 count=2" in told and ledger.anchor in told
    assert cli.run(["budget", "show", str(path), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["spent"]["epsilon"] == ledger.spent().epsilon and found["spent"]["unclear"] == 1
    assert [one["query"] for one in found["spends"]] == ["mean(age); data 7c1f", "dp_sgd 12"]
    assert cli.run(["budget", "show", str(path), "--lang", "zh-CN"]) == 0
    assert "锚点，请另处保存" in capsys.readouterr().out


def test_the_latest_twenty_are_shown_unless_all_are_asked_for(path, capsys):
    ledger = Ledger.open(path)
    for i in range(22):
        ledger.reserve(f"question <{i}>", (Pure(epsilon=1e-3),))
    for argv, shown in ((["--all"], 22), ([], 20)):
        capsys.readouterr()
        assert cli.run(["budget", "show", str(path), *argv]) == 0
        told = capsys.readouterr().out
        assert told.count("question <") == shown
    assert "question <0>" not in told and "not shown without --all: 2" in told


def test_a_limit_changes_only_for_a_reason(path, capsys):
    assert cli.run(["budget", "set", str(path), "--epsilon", "4", "--delta", "1e-6"]) == 2
    assert "give --reason" in capsys.readouterr().err
    again = ["budget", "set", str(path), "--epsilon", "4", "--delta", "1e-6", "--reason", "board"]
    assert cli.run([*again, "--population", "others"]) == 2
    assert cli.run(again) == 0
    assert Ledger.open(path).spent().limit_epsilon == 4.0
    new = path.with_name("b.ledger")
    assert cli.run(["budget", "set", str(new), "--epsilon", "4", "--delta", "1e-6"]) == 2
    assert not new.exists()


def test_verify_ends_with_4_on_a_change_and_on_an_older_copy(path, capsys):
    ledger = Ledger.open(path)
    files = [path, path.with_name("clinic.ledger.head")]
    old = [file.read_bytes() for file in files]
    ledger.reserve("q", (Pure(epsilon=0.1),))
    anchor = ledger.anchor
    assert cli.run(["budget", "verify", str(path), "--anchor", anchor]) == 0
    assert cli.run(["budget", "verify", str(path)]) == 0
    assert "not checked without --anchor" in capsys.readouterr().out
    new = path.read_bytes()
    path.write_bytes(new.replace(b'"epsilon":0.1', b'"epsilon":0.0'))
    assert cli.run(["budget", "verify", str(path)]) == 4
    for file, text in zip(files, old, strict=True):
        file.write_bytes(text)
    assert cli.run(["budget", "verify", str(path)]) == 0  # in itself an older copy is whole
    assert cli.run(["budget", "verify", str(path), "--anchor", anchor, "--lang", "zh-CN"]) == 4
    assert "较早的副本" in capsys.readouterr().err
    assert cli.run(["budget", "show", str(path.with_name("none"))]) == 2
