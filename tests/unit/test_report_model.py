# SPDX-License-Identifier: Apache-2.0
"""The report as a file: round trip, schema, clear refusals, and writing that is whole or not at all."""

from __future__ import annotations

import copy
import errno
import json
import math
import os
import resource
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from casemate.core.errors import InvalidData
from casemate.core.types import Curve, Measurement, Note, PerRecord, Table, Threat
from casemate.report import shape
from casemate.report.model import Report, environment, lines_of_json, write_atomic

VALIDATOR = jsonschema.Draft202012Validator(shape.schema())


def measurement(**changed: Any) -> Measurement:
    fields: dict[str, Any] = {
        "property": "privacy",
        "quantity": "auc",
        "value": 0.6,
        "low": 0.55,
        "high": 0.65,
        "n": 400,
        "worse": "higher",
        "method": "lira",
        "version": "1",
        "seed": 0,
    }
    return Measurement(**(fields | changed))


def sample(**changed: Any) -> Report:
    details = (
        Curve(name="roc", x=(0.0, 1.0), y=(0.0, 1.0), low=(0.0, 0.9), high=(0.1, 1.0)),
        PerRecord(name="members", ids=(7, 3), values=(0.25, -1.5), clusters=(1, 1)),
        Table(name="attack", columns=("what", "value"), rows=(("points", 3), ("rate", 0.5), ("none", None))),
        Note(text="in-rate 0.5"),
    )
    lost = measurement(
        quantity="tpr_at_1pct_fpr", value=None, low=None, high=None, status="not_measured", reason="few"
    )
    fields: dict[str, Any] = {
        "created": "2026-11-05T10:00:00+00:00",
        "version": "0.1.0",
        "target": {
            "kind": "sklearn",
            "task": "binary",
            "input": "table",
            "classes": ("no", "yes"),
            "capabilities": ("labels", "scores"),
            "source": None,
            "digest": "ab",
            "caveats": ["guessed recipe"],
        },
        "data": {
            "input": "table",
            "n_train": 2,
            "n_holdout": 2,
            "n_columns": 3,
            "people": {"train": 1, "holdout": 2},
            "digest": "cd",
        },
        "threat": Threat(norm="linf", radius=0.3, scale="spread").to_dict(),
        "methods": (
            {
                "name": "lira",
                "version": "1",
                "params": {"n": np.int64(4)},
                "status": "ok",
                "reason": "",
                "seconds": 1.5,
            },
            {
                "name": "pgd",
                "version": "1",
                "params": {},
                "status": "not_run",
                "reason": "needs module",
                "seconds": 0.0,
            },
        ),
        "measurements": (measurement(details=details, threat=Threat(n_queries=5)), lost),
        "pairing": {"key": "00ff"},
        "environment": environment(),
        "command": ("casemate", "audit"),
    }
    return Report(**(fields | changed))


# ---------------------------------------------------------------------- reading what was written


def test_what_is_saved_and_read_again_equals_what_was_made(tmp_path: Path) -> None:
    report = sample()
    saved = report.save(tmp_path / "report.json")
    assert Report.load(saved) == report
    assert saved.read_text("ascii") == report.to_json()


def test_a_report_fits_the_published_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(shape.schema())
    VALIDATOR.validate(json.loads(sample().to_json()))


def test_numbers_that_are_not_finite_become_null_with_a_reason_and_can_be_read_again() -> None:
    odd = measurement(high=math.inf, details=(PerRecord(name="s", ids=(1, 2), values=(math.inf, math.nan)),))
    raw = json.loads(sample(measurements=(odd,)).to_json())
    VALIDATOR.validate(raw)
    row = raw["measurements"][0]
    assert (row["high"], row["status"], row["reason"]) == (None, "inconclusive", "high not finite")
    assert row["details"][0]["values"] == [None, None]
    assert Report.from_dict(raw).measurements[0].value == 0.6


def test_a_parameter_that_is_infinite_leaves_a_report_that_others_can_read(tmp_path: Path) -> None:
    params = {"variance_prior": math.inf, "radius": np.float64("nan"), "digits": 3}
    made = sample(methods=({"name": "lira", "version": "1", "params": params, "status": "ok"},))
    raw = json.loads(made.save(tmp_path / "report.json").read_text("utf-8"), parse_constant=pytest.fail)
    assert raw["methods"][0]["params"] == {"variance_prior": None, "radius": None, "digits": 3}
    assert Report.load(tmp_path / "report.json") == made


@pytest.mark.parametrize("value", [math.nan, [{"deep": [math.inf]}], {"one": -math.inf}])
def test_what_is_not_json_is_never_written(value: Any) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        lines_of_json({"field": value})


def test_unknown_fields_are_ignored_everywhere() -> None:
    raw = sample().to_dict()
    raw["later"] = 1
    raw["target"]["later"] = raw["methods"][0]["later"] = {"a": 1}
    raw["measurements"][0]["later"] = raw["measurements"][0]["threat"]["later"] = 1
    raw["measurements"][0]["details"][0]["later"] = 1
    VALIDATOR.validate(raw)
    assert Report.from_dict(raw).measurements == sample().measurements


def test_rows_are_found_by_method_and_quantity() -> None:
    report = sample()
    assert [m.quantity for m in report["lira"]] == ["auc", "tpr_at_1pct_fpr"]
    assert report["lira", "auc"].value == 0.6
    assert "lira" in report
    assert "pgd" not in report
    with pytest.raises(InvalidData, match="did you mean lira"):
        report["lyra"]
    with pytest.raises(InvalidData, match="did you mean tpr_at_1pct_fpr"):
        report["lira", "tpr_at_1_fpr"]
    with pytest.raises(InvalidData, match="it has: lira"):
        report["zzz"]
    twice = sample(measurements=(measurement(), measurement()))
    with pytest.raises(InvalidData, match="2 measurements"):
        twice["lira", "auc"]


def test_the_frame_has_a_row_for_each_measurement() -> None:
    frame = sample().to_frame()
    assert frame["quantity"].tolist() == ["auc", "tpr_at_1pct_fpr"]
    assert "details" not in frame


def test_the_environment_names_neither_host_nor_user() -> None:
    text = json.dumps(environment())
    assert "numpy" in text
    assert os.uname().nodename not in text


# ---------------------------------------------------------------------- our reader agrees with jsonschema

WRONG: tuple[Any, ...] = (None, True, 0, -1, 0.5, 3.0, "", "words", [], ["a"], {}, {"a": 1})


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths(inner, (*at, key))


def mutants(raw: Any, at: tuple[Any, ...]) -> Iterator[Any]:
    for wrong in (*WRONG, ...):
        made = copy.deepcopy(raw)
        place = made
        for key in at[:-1]:
            place = place[key]
        if wrong is ...:
            del place[at[-1]]
        else:
            place[at[-1]] = copy.deepcopy(wrong)
        yield made


@pytest.mark.timeout(60)  # some 1,500 validations by jsonschema
def test_the_small_reader_of_the_schema_agrees_with_jsonschema_on_every_broken_report() -> None:
    raw = json.loads(sample(environment={}, command=("c",)).to_json())
    verdicts: list[tuple[bool, bool, Any]] = []
    for at in paths(raw):
        if at:
            verdicts += [
                (shape.problem(bad) is None, VALIDATOR.is_valid(bad), at) for bad in mutants(raw, at)
            ]
    assert [at for ours, theirs, at in verdicts if ours != theirs] == []
    refused = sum(not theirs for _, theirs, _ in verdicts)
    assert 600 < refused < len(verdicts) - 200  # the mutants are neither all broken nor all harmless


def test_the_schema_uses_only_keywords_that_the_small_reader_knows() -> None:
    def keywords(rule: Any) -> Iterator[str]:
        for key, inner in rule.items():
            yield key
            if key in ("properties", "$defs"):
                for part in inner.values():
                    yield from keywords(part)
            elif key in ("items", "if", "then", "else"):
                yield from keywords(inner)
            elif key == "allOf":
                for part in inner:
                    yield from keywords(part)

    assert set(keywords(shape.schema())) <= shape.KEYWORDS | shape.ANNOTATIONS


# ---------------------------------------------------------------------- refusals, one clear line each


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cut short"),
        ('{"schema": "casemate-report/1", "crea', "cut short"),
        ("[1, 2]", "not a Casemate report"),
        ('{"schema": "other/1"}', "not a Casemate report"),
        ('{"schema": 7}', "not a Casemate report"),
        ('{"schema": "casemate-report/2"}', "upgrade Casemate"),
        ('{"schema": "casemate-report/1"}', "has no 'created'"),
        ('{"schema": "casemate-report/1", "x": NaN}', "NaN is not JSON"),
        ('{"schema": "casemate-report/1", "x": 1e999}', "too large"),
        ("[" * 100_000, "not a report.json"),
        ('{"schema": ' + "9" * 5000 + "}", "not a report.json"),
    ],
)
def test_a_file_that_is_no_report_is_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text, "utf-8")
    with pytest.raises(InvalidData, match=says) as caught:
        Report.load(path)
    assert "bad.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_and_missing_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidData, match="not a report"):
        Report.load(tmp_path / "r.json")
    with pytest.raises(InvalidData, match="cannot read"):
        Report.load(tmp_path / "none.json")
    with pytest.raises(InvalidData, match="cannot read"):
        Report.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"value": "high"}, r"measurements\[0\].value must be number or null"),
        ({"status": "fine"}, r"measurements\[0\].status must be one of"),
        ({"value": 0.9}, r"measurements\[0\]: .* lies outside"),
        ({"value": None}, r"measurements\[0\].value must be number"),
        ({"n": -1}, r"measurements\[0\].n must be at least 0"),
        ({"threat": {"norm": "l7"}}, "l7"),
        ({"details": [{"form": "cloud"}]}, r"details\[0\].form must be one of"),
        (
            {"details": [{"form": "per_record", "name": "a", "ids": [1], "values": []}]},
            "0 values for 1 points",
        ),
        ({"details": [{"form": "curve", "name": "a", "x": [1], "y": [1, 2]}]}, "2 y for 1 points"),
    ],
)
def test_a_wrong_measurement_is_named(change: dict[str, Any], says: str) -> None:
    raw = sample().to_dict()
    raw["measurements"][0].update(change)
    with pytest.raises(InvalidData, match=says):
        Report.from_dict(raw)


def test_the_format_follows_the_suffix(tmp_path: Path) -> None:
    assert sample().save(tmp_path / "r.html").read_text("utf-8").startswith("<!doctype html>")
    with pytest.raises(InvalidData, match=r"end it in \.json, \.html or \.md"):
        sample().save(tmp_path / "r.pdf")


# ---------------------------------------------------------------------- whole or not at all


def test_a_report_with_scores_of_records_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = sample().save(tmp_path / "r.json")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_disk_that_is_full_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    """The limit on file size stands for the full disk: the write itself fails half-way."""
    path = write_atomic(tmp_path / "r.json", "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, hard))
    try:
        with pytest.raises(InvalidData, match="cannot write"):
            write_atomic(path, "x" * 1_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_breaks_off_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = write_atomic(tmp_path / "r.json", "old")

    def broken(handle: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(InvalidData if isinstance(error, OSError) else KeyboardInterrupt):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["r.json"]


def test_writing_needs_a_folder_and_a_plain_file_and_follows_links(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="No such file"):
        write_atomic(tmp_path / "none" / "r.json", "new")
    with pytest.raises(InvalidData, match="not a plain file"):
        write_atomic(tmp_path, "new")
    with pytest.raises(InvalidData, match="not a plain file"):
        write_atomic("/dev/null", "new")
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    write_atomic(tmp_path / "link.json", "new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text() == "new"
