# SPDX-License-Identifier: Apache-2.0
"""The command line in Chinese: nothing of what it says is left in English, whatever the command and the error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sentences import latin_run
from worlds import two_files_of_people

from casemate import cli
from casemate.cli import helping, speaking
from casemate.cli.terminal import Progress, fail, with_paths

MODULE = """
from pathlib import Path
import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier

HERE = Path(__file__).parent

def forest():
    rows = pd.read_csv(HERE / "train.csv")
    return RandomForestClassifier(20, min_samples_leaf=3, random_state=0).fit(rows[["a", "b", "c"]], rows["y"])

def remote():
    return lambda table: np.column_stack([table["a"] < 0, table["a"] >= 0]) * 1.0

def nothing():
    return 3

def ends():
    raise SystemExit(1)

def breaks():
    raise RuntimeError("no luck today my friend")
"""
FILES = ["--train", "train.csv", "--holdout", "holdout.csv", "--label", "y", "--person", "owner"]
Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    two_files_of_people(tmp_path)
    (tmp_path / "zhtargets.py").write_text(MODULE)
    (tmp_path / "bad.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    (tmp_path / "text.json").write_text("{}")
    (tmp_path / "bad.toml").write_text("[[gate]]\nmethd = 1\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "other.txt").write_text("x")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "zhtargets", raising=False)
    monkeypatch.setenv("CASEMATE_LANG", "zh-CN")
    return tmp_path


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str]) -> Invoke:
    def call(*words: object) -> tuple[int, str, str]:
        code = cli.run([str(word) for word in words])
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


def leaks(text: str) -> list[str]:
    return [line for line in text.splitlines() if latin_run(line)]


# ---------------------------------------------------------------------- results


def test_an_audit_a_comparison_and_their_reasons(folder: Path, invoke: Invoke) -> None:
    words = ["audit", "zhtargets:forest", *FILES, "--jobs", 1]
    methods = ["--methods", "loss_attack,pgd,scan_artefact"]
    code, out, err = invoke(*words, *methods, "--out", "before.json")
    assert code == 3
    assert "错误：指定了 pgd，但无法测量：需要" in err
    assert "未测量" in out
    assert out.splitlines()[-1].endswith("；before.json")
    assert not leaks(out + err)
    code, out, err = invoke("compare", "before.json", "before.json", "--html", "page.html")
    assert code == 0
    assert '<html lang="zh-CN">' in (folder / "page.html").read_text("utf-8")
    assert "两份报告针对同一个模型" in out
    assert not leaks(out + err)


@pytest.mark.parametrize("using", ["limit_leaves:n=5,rounding", "calibrate", "distil"])
def test_a_hardening(folder: Path, invoke: Invoke, using: str) -> None:
    words = ["harden", "zhtargets:forest", *FILES, "--jobs", 1, "--using", using, "--out", "new"]
    code, out, err = invoke(*words)
    assert code == 0, err
    assert not leaks("\n".join(line for line in out.splitlines() if "casemate audit" not in line) + err)
    assert (folder / "new" / "change.json").exists()


@pytest.mark.parametrize("more", [[], ["zhtargets:forest"], ["zhtargets:remote", *FILES]], ids=len)
def test_what_doctor_sees(folder: Path, invoke: Invoke, more: list[str]) -> None:
    code, out, err = invoke("doctor", *more)
    assert code == 0
    assert not leaks(out + err)
    assert "可用" in out or "就绪" in out


def test_what_scan_finds(folder: Path, invoke: Invoke) -> None:
    code, out, _ = invoke("scan", "bad.pkl", "text.json")
    assert code == 4
    assert "恶意" in out
    assert not leaks(out)
    code, out, _ = invoke("scan", "bad.pkl", "--format", "json", "--lang", "zh")
    assert json.loads(out)["files"][0]["findings"][0]["why"].isascii(), "machines read English"


def test_the_table_and_the_page_of_methods(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASEMATE_LANG", "zh-CN")
    code, out, _ = invoke("methods")
    assert code == 0
    assert not leaks(out)
    head = out.splitlines()[0]
    assert head.split() == ["名称", "类别", "性质", "需要", "标题"]
    page = invoke("methods", "lira")[1]
    facts = page.partition("## 说明")[0]
    assert not leaks("\n".join(line for line in facts.splitlines() if not line.startswith("|")))


def test_the_schema_file_has_chinese_comments_and_the_same_content(folder: Path, invoke: Invoke) -> None:
    import tomllib

    _, chinese, _ = invoke("schema", "train.csv", "--label", "y", "--person", "owner")
    _, english, _ = invoke("schema", "train.csv", "--label", "y", "--person", "owner", "--lang", "en")
    assert tomllib.loads(chinese) == tomllib.loads(english)
    assert not leaks(chinese)
    assert leaks(english)


def test_a_comment_in_a_name_is_no_comment_of_ours() -> None:
    text = '# holds in every training row; remove the # to make it a rule\ncategories = ["x # a must be 1; got 2"]\n'
    assert speaking.say_comments(text, "zh-CN").splitlines()[1] == text.splitlines()[1]


# ---------------------------------------------------------------------- errors

ERRORS: list[list[object]] = [
    [], ["audit"], ["audt"], ["audit", "--wrong"], ["audit", "m", "--train"], ["scan"], ["--wrong"],
    ["audit", "m:f", *FILES, "--seed", "x"], ["audit", "m:f", *FILES, "--seed", "-3"], ["doctor", "a", "b", "c"],
    ["audit", "m:f", *FILES, "--effort", "huge"], ["audit", "m:f", *FILES, "--public", "--show-records"],
    ["audit", "m:f", *FILES, "--out", "report.txt"], ["audit", "m:f", *FILES, "--out", "nowhere/report.json"],
    ["audit", "m:f", *FILES, "--methods", "lyra"], ["audit", "m:f", *FILES, "--methods", "lira:shadows=3"],
    ["audit", "m:f", *FILES, "--methods", "lira:n_shadows=many"], ["audit", "m:f", *FILES, "--methods", "lira,lira"],
    ["audit", "m:f", *FILES, "--methods", ":x=1"], ["audit", "m:f", *FILES, "--threat", "speed=1"],
    ["audit", "m:f", *FILES, "--threat", "radius=far"], ["audit", "m:f", *FILES, "--threat", "norm=l7,radius=1"],
    ["audit", "m:f", *FILES, "--jobs", 0], ["audit", "m:f", *FILES], ["audit", "zhtargets:gone", *FILES],
    ["audit", "zhtargets:nothing", *FILES], ["audit", "zhtargets:ends", *FILES], ["audit", "zhtargets:breaks", *FILES],
    ["audit", "gone.pkl", *FILES], ["audit", "bad.pkl", *FILES], ["audit", "text.json", *FILES],
    ["audit", "full", *FILES],
    ["audit", "m:f", "--train", "gone.csv", "--holdout", "holdout.csv", "--label", "y"],
    ["audit", "m:f", "--train", "train.csv", "--holdout", "holdout.csv", "--label", "gone"],
    ["audit", "m:f", "--train", "train.csv", "--holdout", "train.csv", "--label", "y", "--person", "owner"],
    ["audit", "m:f", "--train", "bad.toml", "--holdout", "train.csv", "--label", "y"],
    ["audit", "m:f", *FILES, "--immutable", "gone"], ["audit", "m:f", *FILES, "--schema", "gone.toml"],
    ["audit", "m:f", *FILES, "--schema", "bad.toml"], ["audit", "m:f", *FILES, "--like", "text.json"],
    ["compare", "text.json"], ["compare", "gone.json", "text.json"], ["compare", "text.json", "--gates", "bad.toml"],
    ["harden", "m:f", *FILES, "--using", "lira", "--out", "new"],
    ["harden", "m:f", *FILES, "--using", "dp_logistic:epsilon=-1", "--out", "new"],
    ["harden", "zhtargets:forest", *FILES, "--jobs", 1, "--using", "rounding:digits=99", "--out", "new"],
    ["harden", "zhtargets:forest", *FILES, "--jobs", 1, "--using", "dp_sgd:epsilon=3", "--out", "new"],
    ["harden", "zhtargets:forest", *FILES, "--jobs", 1, "--using", "rounding,rounding", "--out", "new"],
    ["harden", "m:f", *FILES, "--using", "rounding", "--out", "full"], ["doctor", "zhtargets:forest", "--train", "a"],
    ["scan", "gone.pkl"], ["scan", "full"], ["methods", "lyra"], ["methods", "--markdown", "bad.pkl/pages"],
    ["schema", "gone.csv"], ["demo", "school"], ["demo", "bank", "--small", "--out", "full"],
]  # fmt: skip


@pytest.mark.parametrize(
    "words", ERRORS, ids=lambda words: " ".join(map(str, words)).replace(" ".join(FILES), "")[:60]
)
def test_an_error_is_in_chinese(folder: Path, invoke: Invoke, words: list[object]) -> None:
    code, out, err = invoke(*words)
    if words:
        assert code > 0
        assert err.startswith("错误：")
        assert len(err.splitlines()) == 1
    assert not leaks((out + err).replace("no luck today my friend", ""))


def test_the_language_of_the_line_outdoes_that_of_the_environment(folder: Path, invoke: Invoke) -> None:
    assert invoke("scan", "gone.pkl", "--lang", "en")[2].startswith("error: cannot read")
    assert invoke("--lang", "en", "scan", "gone.pkl")[2].startswith("error: cannot read")
    assert invoke("scan", "--lang=zh-CN", "gone.pkl")[2].startswith("错误：无法读取")
    assert "--lang 'fr' is unknown" in invoke("--lang", "fr", "scan", "gone.pkl")[2]


# ---------------------------------------------------------------------- help

COMMANDS = ["audit", "compare", "demo", "harden", "methods", "doctor", "scan", "schema"]


@pytest.mark.parametrize(
    "words", [["--help"], ["--lang", "zh-CN", "-h"], *([name, "-h"] for name in COMMANDS)]
)
def test_help_is_in_chinese_and_narrow(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setenv("CASEMATE_LANG", "zh-CN")
    code, out, err = invoke(*words)
    assert (code, err) == (0, "")
    assert out.startswith("用法：casemate")
    assert not leaks(out)
    for word in ("Usage", "Options:", "Arguments", "Commands", "required", "default", "env var", "Show this"):
        assert word not in out
    assert max(map(helping.width, out.splitlines())) <= 80
    for line in out.splitlines():
        assert line.lstrip()[:1] not in tuple("，。；：）、"), "a stop begins no line"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_in_chinese_names_the_same_options(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("CASEMATE_LANG", "en")
    english = invoke(name, "--help")[1]
    chinese = invoke(name, "--help", "--lang", "zh-CN")[1]

    def options(text: str) -> list[str]:
        return [line.split("  ")[1] for line in text.splitlines() if line.startswith("  -")]

    assert options(english) == options(chinese)
    assert english.count("[required]") == chinese.count("[必填]")
    assert english.startswith("Usage: ")


def test_without_a_command_the_help_is_in_chinese(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASEMATE_LANG", "zh")
    assert "退出码：" in invoke()[1] + invoke("--help")[1]


def test_lines_are_broken_between_words_and_signs() -> None:
    text = "甲" * 60 + "，" + "word " * 30
    broken = list(helping.wrapped(text, "  "))
    assert len(broken) > 3
    assert "".join(line.strip() for line in broken).replace(" ", "") == text.replace(" ", "")
    assert all(helping.width(line) <= 80 for line in broken)
    assert not any(line.strip().startswith("，") for line in broken)


# ---------------------------------------------------------------------- the pieces


@pytest.mark.parametrize(
    ("argv", "environment", "expected"),
    [
        ([], "", "en"), ([], "zh", "zh-CN"), ([], "klingon", "en"), (["x", "--lang", "zh"], "", "zh-CN"),
        (["x", "--lang=en"], "zh", "en"), (["x", "--lang"], "zh", "en"),
        (["--lang", "en", "x", "--lang", "zh"], "", "zh-CN"),
    ],
)  # fmt: skip
def test_where_the_language_comes_from(
    argv: list[str], environment: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CASEMATE_LANG", environment)
    assert speaking.language(argv) == expected


def test_a_language_before_the_command_is_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    assert speaking.handed_on(["--lang=zh", "scan", "f"]) == ["--lang=zh", "scan", "--lang=zh", "f"]
    assert speaking.handed_on(["scan", "--lang", "zh"]) == ["scan", "--lang", "zh"]
    assert speaking.handed_on(["--help"]) == ["--help"]
    assert speaking.handed_on(["--lang", "zh"]) == ["--lang", "zh"]


def test_progress_is_in_chinese_and_fits_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    progress = Progress(quiet=False, lang="zh-CN")
    progress("lira: shadow models", 3, 3)
    progress("审计" * 40, 3, 3)
    told = capsys.readouterr().err.split("\r\x1b[K")[1:]
    assert "lira：影子模型 3/3" in told[0]
    assert 36 <= helping.width(told[1]) <= 39


def test_last_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert with_paths("a", ["b", "c"]) == "a; b, c"
    assert with_paths("甲", ["b"], lang="zh-CN") == "甲；b"
    assert with_paths("甲", [], lang="zh-CN") == "甲；未保存（可用 --out report.json）"
    assert fail("interrupted; no file is half-written", 130, lang="zh-CN") == 130
    assert capsys.readouterr().err == "错误：已中断；没有写了一半的文件\n"
    fail("no luck", 5, hint="run with -v for the traceback", lang="zh-CN")
    fail("no luck", 5, hint="run with -v for the traceback")
    told = "错误：no luck（加 -v 运行可查看调用栈）\nerror: no luck (run with -v for the traceback)\n"
    assert capsys.readouterr().err == told
