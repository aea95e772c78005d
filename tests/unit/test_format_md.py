# SPDX-License-Identifier: Apache-2.0
"""``--format md`` of audit, compare and harden: Markdown alone on stdout, and the exit code of every other format."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from worlds import two_files_of_people

from casemate import cli
from casemate.core.types import Measurement
from casemate.report import markdown
from casemate.report.catalogue import texts
from casemate.report.model import Report

MODULE = """
from pathlib import Path
import pandas as pd
from sklearn.linear_model import LogisticRegression

def linear():
    print("the factory talks")
    rows = pd.read_csv(Path(__file__).parent / "train.csv")
    return LogisticRegression().fit(rows[["a", "b", "c"]], rows["y"])
"""
DATA = [
    "--train",
    "train.csv",
    "--holdout",
    "holdout.csv",
    "--label",
    "y",
    "--person",
    "owner",
    "--jobs",
    "1",
]
Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    two_files_of_people(tmp_path)
    (tmp_path / "mdtargets.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mdtargets", raising=False)
    monkeypatch.delenv("CASEMATE_LANG", raising=False)
    return tmp_path


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str]) -> Invoke:
    def call(*words: object) -> tuple[int, str, str]:
        code = cli.run([str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def saved(folder: Path) -> Report:
    number = Measurement(
        property="privacy", quantity="auc", value=0.8, low=0.75, high=0.85, n=400, worse="higher",
        method="lira", version="1", seed=0,
    )  # fmt: skip
    made = Report(
        created="2026-11-05T10:00:00+00:00",
        version="0.1.0",
        target={"kind": "sklearn", "task": "binary", "input": "table", "capabilities": [], "digest": "ab"},
        data={"n_train": 9, "n_holdout": 9, "digest": "cd"},
        methods=({"name": "lira", "version": "1", "status": "ok"},),
        measurements=(number,),
    )
    made.save(folder / "before.json")
    return made


def test_an_audit_in_markdown_is_markdown_and_nothing_else(folder: Path, invoke: Invoke) -> None:
    code, out, err = invoke(
        "audit", "mdtargets:linear", *DATA, "--methods", "loss_attack", "--format", "md", "--out", "r.json"
    )
    assert (code, err) == (0, "the factory talks\n")
    assert out == markdown.of_report(Report.load(folder / "r.json"))
    code, out, err = invoke(
        "audit", "mdtargets:linear", *DATA, "--methods", "pgd", "--format", "md", "--lang", "zh"
    )
    assert code == 3  # required and not measured, as with text and json
    assert out.startswith(f"## {texts('zh-CN')['page.report']}\n")
    assert "pgd" in err


@pytest.mark.parametrize(("limit", "wanted"), [(0.9, 0), (0.7, 1), (0.8, 3)])
def test_the_exit_code_of_compare_is_that_of_every_format(
    folder: Path, invoke: Invoke, limit: float, wanted: int
) -> None:
    saved(folder)
    (folder / "gates.toml").write_text(f'[[gate]]\nmethod = "lira"\nquantity = "auc"\nmax = {limit}\n')
    given = ("compare", "before.json", "before.json", "--gates", "gates.toml", "--format")
    results = {name: invoke(*given, name) for name in ("text", "json", "md")}
    assert {code for code, _, _ in results.values()} == {wanted}
    assert results["md"][1].startswith("## Casemate comparison\n")
    assert {err for _, _, err in results.values()} == {""}


def test_a_public_edition_in_markdown_is_the_public_one(folder: Path, invoke: Invoke) -> None:
    made = saved(folder)
    code, out, _ = invoke("compare", "before.json", "--public", "--format", "md")
    assert code == 0
    assert texts("en")["text.public"] in out and made.target["digest"] not in out.split("###")[-1]


def test_what_harden_did_in_markdown(folder: Path, invoke: Invoke) -> None:
    code, out, _ = invoke(
        "harden", "mdtargets:linear", *DATA, "--using", "rounding:digits=1", "--out", "hard", "--format", "md"
    )
    assert code == 0
    assert out.startswith("### Hardened with rounding: ")
    assert "| Quantity | Before | After |\n|---|---|---|\n| accuracy, held out | " in out
    assert "- Promised: nothing." in out
    assert out.endswith("--like before.json --out after.json\n```\n") and "```sh\ncasemate audit hard " in out


@pytest.mark.parametrize(("command", "known"), [("scan", "text or json"), ("audit", "text, json or md")])
def test_an_unknown_format_is_refused_with_those_there_are(
    folder: Path, invoke: Invoke, command: str, known: str
) -> None:
    given = ["before.json"] if command == "scan" else ["mdtargets:linear", *DATA]
    code, out, err = invoke(command, *given, "--format", "pdf")
    assert (code, out) == (2, "")
    assert err == f"error: --format 'pdf' is unknown; use {known}\n"
