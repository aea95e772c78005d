# SPDX-License-Identifier: Apache-2.0
"""scan_artefact: the file behind a target, counted; absent, changed and vanished files."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import worlds
from sklearn.linear_model import LogisticRegression

import casemate as cm
from casemate.core.methods import find
from casemate.core.types import Note, Table

X = np.arange(40.0).reshape(20, 2)
Y = np.arange(20) % 2
DATA = cm.Dataset(train=(X[:10], Y[:10]), holdout=(X[10:], Y[10:]))


def saved(folder: Path) -> Path:
    path = folder / "model.pkl"
    path.write_bytes(pickle.dumps(LogisticRegression().fit(X, Y)))
    return path


def test_an_honest_file_counts_nothing_and_says_what_that_means(tmp_path: Path) -> None:
    report = cm.audit(cm.load(str(saved(tmp_path))), DATA, methods=["scan_artefact"])
    (row,) = report["scan_artefact"]
    assert (row.value, row.low, row.high, row.n) == (0.0, 0.0, 0.0, 1)
    assert any(isinstance(d, Note) and "while it is unpickled" in d.text for d in row.details)


def test_a_target_without_a_file_is_not_measured() -> None:
    report = cm.audit(LogisticRegression().fit(X, Y), DATA, methods=["scan_artefact"])
    (row,) = report["scan_artefact"]
    assert row.status == "not_measured" and "not loaded from a file" in row.reason


def test_a_file_that_was_exchanged_is_found(tmp_path: Path) -> None:
    path = saved(tmp_path)
    target = cm.load(str(path))
    path.write_bytes(path.read_bytes() + b"\n")
    (row,) = cm.audit(target, DATA, methods=["scan_artefact"])["scan_artefact"]
    assert row.status == "not_measured" and "SHA-256 has changed" in row.reason
    path.unlink()
    (row,) = cm.audit(target, DATA, methods=["scan_artefact"])["scan_artefact"]
    assert row.status == "not_measured" and "cannot be read" in row.reason


def test_every_finding_is_counted_and_listed() -> None:
    card = find("scan_artefact").card
    target = worlds.from_file(card, b"(cmy_models\nNet\ncos\nsystem\nl.")
    world = worlds.World.of(card, target, (X[:10], Y[:10]), (X[10:], Y[10:]))
    (row,) = worlds.execute(find("scan_artefact"), world)
    assert row.value == 2.0
    table = next(d for d in row.details if isinstance(d, Table))
    assert [cells[:2] for cells in table.rows] == [("hostile", "os.system"), ("unknown", "my_models.Net")]
