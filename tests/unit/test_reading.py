# SPDX-License-Identifier: Apache-2.0
"""Data files beside CSV and Parquet: JSON lines, .npz arrays, columns by name, texts; and what is refused."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import casemate as cm
from casemate.core.errors import InvalidData

ROWS = [
    {"age": 40, "sex": "f", "who": "a", "y": "no"},
    {"age": None, "sex": "m", "who": "b", "y": "yes"},
    {"sex": "f", "who": "c", "y": "no", "age": 61.5},
    {"age": 33, "sex": "?", "who": "d", "y": "yes"},
]


def lines(path: Path, rows: Any) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", "utf-8")
    return path


def test_json_lines_are_the_table_that_a_csv_is(tmp_path: Path) -> None:
    for name, rows in (("train", ROWS[:2] * 3), ("holdout", ROWS[2:] * 3)):
        rows = [{**row, "who": f"{row['who']}{i}"} for i, row in enumerate(rows)]
        lines(tmp_path / f"{name}.jsonl", rows)
        pd.DataFrame(rows).to_csv(tmp_path / f"{name}.csv", index=False)
    told = {"label": "y", "person": "who", "missing": ["?"], "sensitive": ["sex"]}
    one, two = (
        cm.Dataset.from_files(tmp_path / f"train.{kind}", tmp_path / f"holdout.{kind}", **told)  # type: ignore[arg-type]
        for kind in ("jsonl", "csv")
    )
    assert one.schema.names == two.schema.names == ["age", "sex"]
    for part in ("train", "holdout"):
        left, right = getattr(one, part), getattr(two, part)
        np.testing.assert_array_equal(left.x, right.x)
        assert left.y.tolist() == right.y.tolist()
        assert left.person.tolist() == right.person.tolist()


def test_arrays_of_rows_and_of_images(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    images, y, who = draw.random((6, 1, 4, 4)), np.arange(6) % 2, np.arange(6) // 2
    np.savez(tmp_path / "a.npz", pixels=images, label=y, owner=who)
    np.savez_compressed(tmp_path / "b.npz", pixels=images, label=y, owner=who + 9)
    data = cm.Dataset.from_files(tmp_path / "a.npz", tmp_path / "b.npz", label="label", person="owner")
    assert data.schema.input == "image"
    np.testing.assert_array_equal(data.train.x, images)
    assert data.train.person is not None and len(set(data.train.person.tolist())) == 3
    with pytest.raises(InvalidData, match="people stand in both"):
        cm.Dataset.from_files(tmp_path / "a.npz", tmp_path / "a.npz", label="label", person="owner")


def test_texts_of_a_column(tmp_path: Path) -> None:
    rows = [{"note": f"patient {i} feels well", "id": i, "y": i % 2} for i in range(4)]
    train, holdout = lines(tmp_path / "a.jsonl", rows[:2]), lines(tmp_path / "b.jsonl", rows[2:])
    data = cm.Dataset.from_files(train, holdout, label="y", text="note", person="id")
    assert data.schema.input == "text"
    assert data.train.x == ["patient 0 feels well", "patient 1 feels well"]
    assert data.train.person is not None


def test_columns_by_name() -> None:
    train = {"age": [40, 50, 60], "sex": ["f", None, "m"]}
    data = cm.Dataset(train=(train, [0, 1, 0]), holdout=(pd.DataFrame(train), [1, 0, 1]))
    assert data.schema.names == ["age", "sex"]
    np.testing.assert_array_equal(data.train.x, data.holdout.x)
    owned = cm.Dataset(
        train=({**train, "who": "abc"}, [0, 1, 0]), holdout=({**train, "who": "def"}, [1, 0, 1]), person="who"
    )
    assert owned.schema.names == ["age", "sex"]
    with pytest.raises(InvalidData, match=r"columns of train have different lengths: \[3, 2\]"):
        cm.Dataset(train=({"a": [1, 2, 3], "b": [1, 2]}, [0, 1, 0]), holdout=(train, [1, 0, 1]))
    with pytest.raises(InvalidData, match="different lengths"):
        cm.Dataset(train=({}, []), holdout=(train, [1, 0, 1]))


def npy() -> bytes:
    sink = io.BytesIO()
    np.save(sink, np.zeros(3))
    return sink.getvalue()


NPY = npy()


class Opened:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_an_array_of_objects_is_not_unpickled(tmp_path: Path) -> None:
    held = np.empty(1, object)
    held[0] = Opened(tmp_path / "run")
    np.savez(tmp_path / "a.npz", x=held, y=np.zeros(1))
    with pytest.raises(InvalidData, match=r"a\.npz is no sound \.npz file of plain arrays"):
        cm.Dataset.from_files(tmp_path / "a.npz", tmp_path / "a.npz", label="y")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "raw", "told"),
    [
        ("a.jsonl", b'{"a": 1}\n[1]\n', "line 2 is no flat JSON object"),
        ("a.jsonl", b'{"a": {"b": 1}}\n', "line 1 is no flat JSON object"),
        ("a.jsonl", b'{"a": 1}\n{"a":\n', "line 2 is no flat JSON object"),
        ("a.jsonl", b"[" * 100_000, "line 1 is no flat JSON object"),
        ("a.jsonl", b"\n\n", "has no rows"),
        ("a.jsonl", b"\xff\xfe\x00", "not a readable table"),
        ("a.jsonl", b'{"a": 1}\n', "has no column 'y'"),
        ("a.npz", b"PK\x03\x04 cut short", "no sound .npz file"),
        ("a.npz", pickle.dumps([1]), "no sound .npz file"),
        ("a.npz", b"", "no sound .npz file"),
        ("a.npz", NPY, "one array without a name"),
        ("a.xlsx", b"", "expected a .csv, .tsv, .parquet, .jsonl or .npz file"),
    ],
)
def test_files_that_are_no_data(tmp_path: Path, name: str, raw: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(InvalidData, match=told.replace(".", r"\.").replace("'", "'")):
        cm.Dataset.from_files(tmp_path / name, tmp_path / name, label="y")


def test_options_that_do_not_fit(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 2)), y=np.arange(4) % 2)
    with pytest.raises(InvalidData, match="are for tables"):
        cm.Dataset.from_files(tmp_path / "a.npz", tmp_path / "a.npz", label="y", drop=["x0"])
    with pytest.raises(InvalidData, match=r"holds the arrays \['x', 'y'\]; it needs \['z'\] and one more"):
        cm.Dataset.from_files(tmp_path / "a.npz", tmp_path / "a.npz", label="z")
    table = lines(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(InvalidData, match=r"column 'age' holds 40\.0 where a text is expected"):
        cm.Dataset.from_files(table, table, label="y", text="age")
    with pytest.raises(InvalidData, match="no such file"):
        cm.Dataset.from_files(tmp_path / "none.npz", tmp_path / "a.npz", label="y")
