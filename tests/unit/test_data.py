# SPDX-License-Identifier: Apache-2.0
"""Dataset: every form users bring, and every mistake that would falsify an audit."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import casemate as cm
from casemate.core.errors import InvalidData

X = np.arange(20.0).reshape(10, 2)
Y = np.arange(10) % 2


def test_person_column_never_reaches_the_model() -> None:
    frame = pd.DataFrame({"id": [7, 7, 8, 9], "a": [1.0, 2, 3, 4]})
    data = cm.Dataset(train=(frame[:2], [0, 1]), holdout=(frame[2:], [0, 1]), person="id")
    assert data.schema.names == ["a"] and data.schema.person == "id"
    assert data.train.person.tolist() == [0, 0] and data.holdout.person.tolist() == [1, 2]


def test_one_person_on_both_sides_is_refused() -> None:
    with pytest.raises(InvalidData, match="1 people stand in both"):
        cm.Dataset(train=(X[:5], Y[:5], [1, 2, 3, 4, 5]), holdout=(X[5:], Y[5:], [5, 6, 7, 8, 9]))


@pytest.mark.parametrize(
    ("train", "holdout", "message"),
    [
        ((X[:0], Y[:0]), (X, Y), "train has no rows"),
        ((X, Y[:5]), (X, Y), "10 rows but 5 labels"),
        (X, (X, Y), r"must be \(X, y\)"),
        ((X[:, 0], Y), (X, Y), "two-dimensional"),
        ((X, np.column_stack([Y, Y])), (X, Y), "one-dimensional"),
        ((X, [None] * 10), (X, Y), "missing values"),
        ((X, np.where(Y, np.nan, 1.0)), (X, Y), "missing or infinite"),
        ((X, Y, [1, 2]), (X, Y, [3] * 10), "10 labels but 2 persons"),
        ((X, Y, [1] * 10), (X, Y), "every part"),
        ((X, Y, [None] * 10), (X, Y, [3] * 10), "person contains missing"),
        ((X, Y), (X[:, :1], Y), "not in part 1"),
        ((np.zeros((3, 8, 8)), [0, 1, 0]), (X, Y), "two-dimensional"),
        ((np.array(["a", "b"]), [0, 1]), (np.array(["c"]), [1]), "texts go in a list"),
        ((np.zeros((2, 1, 2, 2), object), [0, 1]),) * 2 + ("must be numbers of shape",),
    ],
)
def test_bad_parts_are_refused_in_one_line(train, holdout, message) -> None:
    with pytest.raises(InvalidData, match=message) as caught:
        cm.Dataset(train=train, holdout=holdout)
    assert "\n" not in str(caught.value)


def test_a_schema_of_the_users_own_is_not_given_twice() -> None:
    frame = pd.DataFrame({"age": [1, 2], "who": [7, 8]})
    parts = {"train": (frame, [0, 1]), "holdout": (frame.assign(who=[9, 10]), [0, 1])}
    schema = cm.Schema.infer(frame[["age"]])
    with pytest.raises(InvalidData, match="schema= already says"):
        cm.Dataset(**parts, schema=schema, person="who", immutable=["age"])
    assert cm.Dataset(**parts, schema=schema, person="who").schema.person == "who"


def test_pandas_default_column_names_are_numbers() -> None:
    frame = pd.DataFrame(X)
    data = cm.Dataset(train=(frame[:5], Y[:5]), holdout=(frame[5:], Y[5:]))
    assert data.schema.names == ["0", "1"]
    pd.testing.assert_frame_equal(data.schema.decode(data.train.x), frame[:5])


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (None, r"must be \(X, y\)"),
        ((3, Y), "expected rows; got int"),
        (([[1, 2], [3]], [0, 1]), "rows have different lengths"),
        ((pd.DataFrame(X, columns=["a", "a"]), Y), "unique column names"),
        ((pd.DataFrame({"a": [1, "x", {}]}), [0, 1, 0]), "unhashable type: 'dict'"),
        ((X, pd.Series([0, 1, pd.NA] + [0] * 7, dtype=object)), "missing values"),
    ],
)
def test_odd_python_objects_are_refused_in_one_line(train, message) -> None:
    with pytest.raises(InvalidData, match=message) as caught:
        cm.Dataset(train=train, holdout=train)
    assert "\n" not in str(caught.value)


def test_text_and_images() -> None:
    text = cm.Dataset(train=(["a", "b"], [0, 1]), holdout=(["c"], [1]))
    assert text.schema.input == "text" and text.holdout.x == ["c"]
    images = np.zeros((4, 1, 2, 2), np.float32)
    pictures = cm.Dataset(train=(images, [0, 1, 0, 1]), holdout=(images, [0, 1, 0, 1]))
    assert pictures.schema.input == "image" and pictures.train.x.dtype == np.float32


def test_files_with_labels_people_and_holes(tmp_path: Path) -> None:
    text = "id, a, city, y\n1, 2.5, ?, yes\n2, 3.5, Bonn, no\n"
    (tmp_path / "train.csv").write_text(text)
    (tmp_path / "hold.csv").write_text(text.replace("1, 2.5", "3, 2.5").replace("2, 3.5", "4, 3.5"))
    data = cm.Dataset.from_files(
        tmp_path / "train.csv", tmp_path / "hold.csv", label="y", person="id", missing=["?"], drop=["a"]
    )
    assert data.schema.names == ["city"] and np.isnan(data.train.x[0, 0])
    assert data.labels_seen() == ("no", "yes")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable table"),
        (b"a,b\n", "no rows|no column"),
        (b"\x00\xff\xfe" * 50, "not a readable table|no column"),
        (b"a,b\n1,2\n3,4,5,6\n", "not a readable table"),
    ],
)
def test_broken_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(InvalidData, match=message):
        cm.Dataset.from_files(path, path, label="b")


def test_absent_file_and_column(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="no such file"):
        cm.Dataset.from_files(tmp_path / "no.csv", tmp_path / "no.csv", label="y")
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InvalidData, match="no column 'y'"):
        cm.Dataset.from_files(tmp_path / "t.csv", tmp_path / "t.csv", label="y")


def test_task_is_guessed_from_labels() -> None:
    def guess(y) -> str | None:
        return cm.Dataset(train=(X, y), holdout=(X, y)).guess_task()

    assert guess(Y) == "binary"
    assert guess(Y.astype(bool)) == "binary"
    assert guess(np.arange(10) % 3) == "multiclass"
    assert guess(np.linspace(0, 1, 10)) == "regression"
    assert guess(["a", "b"] * 5) == "binary"


def test_a_suffix_in_capitals_means_the_same(tmp_path: Path) -> None:
    for name in ("a.TSV", "b.tsv"):
        (tmp_path / name).write_text("age\ty\n1\tyes\n2\tno\n")
    data = cm.Dataset.from_files(tmp_path / "a.TSV", tmp_path / "b.tsv", label="y")
    assert data.schema.names == ["age"] and len(data.train) == 2
