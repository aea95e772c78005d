# SPDX-License-Identifier: Apache-2.0
"""Folders of classes (images, texts), torch's data sets, and the column types of pandas, polars and Arrow."""

from __future__ import annotations

import datetime as dt
import decimal
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import casemate as cm
from casemate.core import folders, items
from casemate.core.errors import InvalidData, MissingExtra

pa = pytest.importorskip("pyarrow")
pl = pytest.importorskip("polars")
image = pytest.importorskip("PIL.Image")
torch = pytest.importorskip("torch")


def grey(seed: int, h: int = 5, w: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w)).astype(np.uint8)


def saved(path: Path, cells: Any, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = image.fromarray(np.asarray(cells, np.uint8))
    (picture if mode is None else picture.convert(mode)).save(path)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two folders with known pictures; written in an order that is not theirs."""
    for part, seed in (("train", 0), ("holdout", 9)):
        for i, name in ((2, "healthy/b.png"), (1, "healthy/a.png"), (3, "ill/c.PNG")):
            saved(tmp_path / part / name, grey(seed + i))
        (tmp_path / part / ".DS_Store").write_bytes(b"x")
        (tmp_path / part / "ill" / ".hidden.png").write_bytes(b"x")
    return tmp_path


def test_grey_images_are_the_pixels_that_were_written(pictures: Path) -> None:
    data = cm.Dataset.from_files(pictures / "train", pictures / "holdout")
    assert data.schema.input == "image"
    assert data.train.y.tolist() == ["healthy", "healthy", "ill"]
    whole = np.stack([grey(1), grey(2), grey(3)])[:, None]
    np.testing.assert_array_equal(data.train.x, whole.astype(np.float32) / 255)
    raw = cm.Dataset.from_files(pictures / "train", pictures / "holdout", pixels="byte")
    np.testing.assert_array_equal(raw.train.x, whole)
    assert raw.schema.bounds == (0.0, 255.0)
    assert data.schema.bounds == (0.0, 1.0)
    same = cm.Dataset(train=str(pictures / "train"), holdout=pictures / "holdout")
    np.testing.assert_array_equal(same.train.x, data.train.x)


def test_colours_keep_their_order_and_grey_among_them_becomes_colour(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (3, 2, 3)).astype(np.uint8)  # (h, w, c)
    for part in ("train", "holdout"):
        saved(tmp_path / part / "a" / "1.png", colours)
        saved(tmp_path / part / "a" / "2.png", colours[:, :, 0])
        saved(tmp_path / part / "b" / "1.png", colours, "P")
    x = cm.Dataset.from_files(tmp_path / "train", tmp_path / "holdout", pixels="byte").train.x
    assert x.shape == (3, 3, 3, 2)
    np.testing.assert_array_equal(x[0], colours.transpose(2, 0, 1))
    np.testing.assert_array_equal(x[1], np.stack([colours[:, :, 0]] * 3))


def test_a_size_brings_all_to_one_shape(tmp_path: Path) -> None:
    for part in ("train", "holdout"):
        saved(tmp_path / part / "a" / "1.png", np.full((6, 3), 100))
        saved(tmp_path / part / "b" / "2.jpg", np.full((4, 8), 100))
    with pytest.raises(InvalidData, match=r"b/2\.jpg has 4 x 8 pixels, train/a/1\.png 6 x 3; give a size"):
        cm.Dataset.from_files(tmp_path / "train", tmp_path / "holdout")
    x = cm.Dataset.from_files(tmp_path / "train", tmp_path / "holdout", size=(5, 2), pixels="byte").train.x
    assert x.shape == (2, 1, 5, 2)
    assert np.abs(x - 100).max() <= 1  # JPEG rounds


def test_images_of_train_and_holdout_must_have_one_shape() -> None:
    y = [0, 1]
    with pytest.raises(
        InvalidData, match=r"images of holdout have shape \(1, 5, 4\), those of train \(1, 4, 4\)"
    ):
        cm.Dataset(train=(np.zeros((2, 1, 4, 4)), y), holdout=(np.zeros((2, 1, 5, 4)), y))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that claims so many pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(b"\0" * 100_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def png() -> bytes:
    sink = io.BytesIO()
    image.fromarray(grey(0)).save(sink, "PNG")
    return sink.getvalue()


@pytest.mark.parametrize(
    ("name", "raw", "told"),
    [
        ("a/1.png", b"not a picture", "train/a/1.png is no sound PNG or JPEG image"),
        ("a/1.png", b"", "train/a/1.png is no sound PNG or JPEG image"),
        ("a/1.png", bomb(9_000, 8_000), "claims 9000 x 8000 pixels; at most 67108864 are read"),
        ("a/1.png", bomb(60_000, 60_000), "claims too many pixels"),
        ("a/1.png", png()[:55], "is no sound PNG or JPEG image"),
        ("a/1.gif", b"GIF89a", "train/a/1.gif is no .png, .jpg or .txt file"),
        ("a/1.txt", b"a text", "are of two kinds"),
        ("1.png", b"", "train/1.png lies beside the folders of classes; write train/CLASS/FILE"),
    ],
)
def test_pictures_that_are_refused(pictures: Path, name: str, raw: bytes, told: str) -> None:
    (pictures / "train" / "a").mkdir()
    (pictures / "train" / name).write_bytes(raw)
    with pytest.raises(InvalidData) as caught:
        cm.Dataset.from_files(pictures / "train", pictures / "holdout")
    assert told in str(caught.value)


def test_a_gif_by_another_name_is_not_decoded(pictures: Path) -> None:
    image.fromarray(grey(0)).save(pictures / "g.gif")
    (pictures / "g.gif").rename(pictures / "train" / "ill" / "g.png")
    with pytest.raises(InvalidData, match=r"ill/g\.png is no sound PNG or JPEG image"):
        cm.Dataset.from_files(pictures / "train", pictures / "holdout")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16"])
def test_modes_that_would_lose_something_are_refused(pictures: Path, mode: str) -> None:
    cells = grey(0).astype(np.uint16) if mode == "I;16" else grey(0)
    made = image.fromarray(cells) if mode == "I;16" else image.fromarray(cells).convert(mode)
    made.save(pictures / "train" / "ill" / "0.png")
    with pytest.raises(InvalidData, match=r"ill/0\.png is an image of mode .*; save it as 8-bit"):
        cm.Dataset.from_files(pictures / "train", pictures / "holdout")


def test_links_out_of_the_folder_are_refused(pictures: Path) -> None:
    (pictures / "train" / "ill" / "z.png").symlink_to(pictures / "holdout" / "ill" / "c.PNG")
    with pytest.raises(InvalidData, match=r"ill/z\.png is a link that leads out of its folder"):
        cm.Dataset.from_files(pictures / "train", pictures / "holdout")
    (pictures / "train" / "ill" / "z.png").unlink()
    (pictures / "train" / "other").symlink_to(pictures / "holdout" / "ill")
    with pytest.raises(InvalidData, match=r"train/other is a link that leads out of its folder"):
        cm.Dataset.from_files(pictures / "train", pictures / "holdout")


def test_memory_is_measured_before_it_is_taken(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "ROOM", 3 * 5 * 4 * 4 - 1)
    with pytest.raises(InvalidData, match="3 images of 5 x 4 need"):
        cm.Dataset.from_files(pictures / "train", pictures / "holdout")


def test_without_pillow_the_extra_is_named(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    with pytest.raises(MissingExtra, match=r"casemate\[images\]"):
        cm.Dataset.from_files(pictures / "train", pictures / "holdout")


def test_texts_of_a_folder(tmp_path: Path) -> None:
    for part in ("train", "holdout"):
        for name, raw in (("good/2.txt", "très bien".encode()), ("bad/1.txt", b"\xef\xbb\xbfno")):
            (tmp_path / part / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / part / name).write_bytes(raw)
    data = cm.Dataset.from_files(tmp_path / "train", tmp_path / "holdout")
    assert data.schema.input == "text"
    assert data.train.x == ["no", "très bien"]
    assert data.train.y.tolist() == ["bad", "good"]
    with pytest.raises(InvalidData, match="size and pixels are for images"):
        cm.Dataset.from_files(tmp_path / "train", tmp_path / "holdout", size=(2, 2))
    (tmp_path / "train" / "bad" / "1.txt").write_bytes("très".encode("latin-1"))
    with pytest.raises(InvalidData, match=r"train/bad/1\.txt is not UTF-8 at byte 2"):
        cm.Dataset.from_files(tmp_path / "train", tmp_path / "holdout")


def test_options_that_do_not_fit_a_folder(pictures: Path) -> None:
    parts = pictures / "train", pictures / "holdout"
    for wrong in ({"label": "y"}, {"person": "who"}, {"text": "note"}):
        with pytest.raises(InvalidData, match="is a folder: its labels are the names of its folders"):
            cm.Dataset.from_files(*parts, **wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidData, match=r"size=\(0, 3\) must be \(height, width\)"):
        cm.Dataset.from_files(*parts, size=(0, 3))
    with pytest.raises(InvalidData, match="pixels='0-1' is unknown"):
        cm.Dataset.from_files(*parts, pixels="0-1")  # type: ignore[arg-type]
    (pictures / "t.csv").write_text("a,y\n1,0\n2,1\n")
    with pytest.raises(InvalidData, match=r"say which column of t\.csv the model predicts"):
        cm.Dataset.from_files(pictures / "t.csv", pictures / "t.csv")
    with pytest.raises(InvalidData, match="size and pixels are for folders of images"):
        cm.Dataset.from_files(pictures / "t.csv", pictures / "t.csv", label="y", size=(2, 2))
    (pictures / "empty" / "a").mkdir(parents=True)
    with pytest.raises(InvalidData, match="holds no files"):
        cm.Dataset.from_files(pictures / "empty", pictures / "holdout")
    with pytest.raises(InvalidData, match="is no folder of classes"):
        cm.Dataset(train=str(pictures / "t.csv"), holdout=pictures / "holdout")


# ---- torch's data sets


class Rows(torch.utils.data.Dataset):
    def __init__(self, *given: Any) -> None:
        self.given = given

    def __len__(self) -> int:
        return len(self.given)

    def __getitem__(self, i: int) -> Any:
        return self.given[i]


def test_torch_data_sets_become_arrays() -> None:
    x, y = torch.arange(24.0).reshape(6, 1, 2, 2), torch.tensor([0, 1, 0, 1, 1, 0])
    whole = torch.utils.data.TensorDataset(x, y)
    part = torch.utils.data.Subset(whole, [5, 0, 3])
    data = cm.Dataset(train=whole, holdout=part)
    assert data.schema.input == "image"
    np.testing.assert_array_equal(data.train.x, x.numpy())
    np.testing.assert_array_equal(data.holdout.x, x.numpy()[[5, 0, 3]])
    assert data.holdout.y.tolist() == [0, 0, 1]
    rows = Rows((torch.tensor([1.0, 2.0], requires_grad=True), "no"), (np.array([3.0, 4.0]), "yes"))
    table = cm.Dataset(train=rows, holdout=(torch.ones(2, 2, requires_grad=True), torch.tensor([1, 0])))
    assert table.schema.input == "table"
    assert table.train.x.tolist() == [[1, 2], [3, 4]]
    texts = cm.Dataset(train=Rows(("a", 0), ("b", 1)), holdout=(["c"], [1]))
    assert texts.train.x == ["a", "b"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((), "train has no rows"),
        ((3,), r"item 0 of train is int; a data set must give \(x, y\)"),
        (((torch.ones(2), 0), (torch.ones(3), 1)), r"item 1 of train has shape \(3,\), the first \(2,\)"),
        (((torch.ones(2), torch.ones(2)),), r"label 0 of train has shape \(2,\)"),
        (((torch.ones(2), 0), ("b", 1)), "texts and numbers; item 1 differs"),
        (((image.new("L", (2, 2)), 0),), "item 0 of train is Image, not numbers; add a transform"),
        ((("a", 0), (torch.ones(2), 1)), r"item 1 of train has shape|texts and numbers; item 1"),
    ],
)
def test_torch_data_sets_that_are_refused(given: Any, told: str) -> None:
    with pytest.raises(InvalidData, match=told):
        cm.Dataset(train=Rows(*given), holdout=(["c"], [1]))


def test_a_data_set_too_large_for_memory_is_refused_at_its_first_item(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    class Huge(Rows):
        def __len__(self) -> int:
            return 10**9

        def __getitem__(self, i: int) -> Any:
            asked.append(i)
            return torch.ones(3, 64, 64), 0

    with pytest.raises(InvalidData, match="need 45776 GiB of memory, more than 8; give a subset"):
        cm.Dataset(train=Huge(), holdout=(["c"], [1]))
    assert asked == [0]
    monkeypatch.setattr(items, "ROOM", 7)
    with pytest.raises(InvalidData, match="2 items of train need"):
        cm.Dataset(train=Rows((np.float32([1]), 0), (np.float32([1]), 1)), holdout=(["c"], [1]))


def test_an_error_of_the_data_set_names_the_item() -> None:
    class Broken(Rows):
        def __getitem__(self, i: int) -> Any:
            raise OSError("disk gone")

    with pytest.raises(InvalidData, match="item 0 of train raised OSError: disk gone"):
        cm.Dataset(train=Broken(1, 2), holdout=(["c"], [1]))


# ---- column types: what comes back from decode is what the user's model was trained on

HOLES = ["x", "y", None, "x"]
COLUMNS = {
    "arrow_dictionary": (pa.table({"a": pa.array(HOLES).dictionary_encode()}), [0, 1, np.nan, 0]),
    "arrow_large_string": (pa.table({"a": pa.array(HOLES, pa.large_string())}), [0, 1, np.nan, 0]),
    "arrow_uint8": (pa.table({"a": pa.array([1, 2, None, 4], pa.uint8())}), [1, 2, np.nan, 4]),
    "arrow_bool": (pa.table({"a": [True, None, False, True]}), [1, np.nan, 0, 1]),
    "polars_categorical": (pl.DataFrame({"a": pl.Series(HOLES, dtype=pl.Categorical)}), [0, 1, np.nan, 0]),
    "polars_enum": (pl.DataFrame({"a": pl.Series(HOLES, dtype=pl.Enum(["y", "x"]))}), [0, 1, np.nan, 0]),
    "polars_int": (pl.DataFrame({"a": [1, None, 3, 4]}), [1, np.nan, 3, 4]),
    "polars_int128": (pl.DataFrame({"a": pl.Series([1, 2, 3, 4], dtype=pl.Int128)}), [1, 2, 3, 4]),
    "polars_decimal": (pl.DataFrame({"a": [decimal.Decimal("1.5"), None] * 2}), [1.5, np.nan] * 2),
    "pandas_int": (pd.DataFrame({"a": pd.array([1, None, 3, 4], dtype="Int64")}), [1, np.nan, 3, 4]),
    "pandas_boolean": (pd.DataFrame({"a": pd.array([True, None] * 2, dtype="boolean")}), [1, np.nan] * 2),
    "pandas_string": (pd.DataFrame({"a": pd.array(HOLES, dtype="string")}), [0, 1, np.nan, 0]),
    "pandas_category": (pd.DataFrame({"a": pd.Categorical(HOLES)}), [0, 1, np.nan, 0]),
    "pandas_arrow_int": (pd.DataFrame({"a": pd.array([1, None, 3, 4], dtype="int64[pyarrow]")}), [1, np.nan, 3, 4]),
    "pandas_arrow_dictionary": (
        pd.DataFrame({"a": pd.Series(HOLES, dtype=pd.ArrowDtype(pa.dictionary(pa.int32(), pa.string())))}),
        [0, 1, np.nan, 0],
    ),
    "mapping": ({"a": np.array([1, 2, 3, 4])}, [1, 2, 3, 4]),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(COLUMNS))
def test_columns_of_every_library(name: str) -> None:
    frame, codes = COLUMNS[name]
    data = cm.Dataset(train=(frame, [0, 1, 0, 1]), holdout=(frame, [0, 1, 0, 1]))
    np.testing.assert_array_equal(data.train.x[:, 0], codes)
    back = data.schema.decode(data.train.x)
    if isinstance(frame, pd.DataFrame):
        pd.testing.assert_frame_equal(back, frame)
    elif isinstance(frame, pl.DataFrame):
        assert back.equals(frame)
        assert back.schema == frame.schema
    elif not isinstance(frame, dict):
        assert back["a"].to_pylist() == frame["a"].to_pylist()
        assert pa.types.is_dictionary(back["a"].type) == pa.types.is_dictionary(frame["a"].type)


@pytest.mark.parametrize(
    "cells",
    [
        pd.DataFrame({"when": pd.to_datetime(["2020-01-01"] * 4)}),
        pd.DataFrame({"when": pd.Series([dt.date(2020, 1, 1)] * 4, dtype=object)}),
        pd.DataFrame({"when": pd.to_timedelta([1, 2, 3, 4])}),
        pd.DataFrame({"when": pd.period_range("2020", periods=4, freq="M")}),
        pl.DataFrame({"when": [dt.date(2020, 1, 1)] * 4}),
        pa.table({"when": [dt.datetime(2020, 1, 1)] * 4}),  # noqa: DTZ001 - a time without a zone is the case
        pd.DataFrame({"when": pd.Series([decimal.Decimal(1)] * 4, dtype=object)}),
    ],
)
def test_dates_are_refused_with_the_remedy(cells: Any) -> None:
    with pytest.raises(
        InvalidData, match=r"column 'when' .*; convert it to numbers \(days, say\) or text, or drop it"
    ):
        cm.Dataset(train=(cells, [0, 1, 0, 1]), holdout=(cells, [0, 1, 0, 1]))


@pytest.mark.parametrize(
    "rows", [pl.LazyFrame({"a": [1, 2]}), pytest.importorskip("scipy.sparse").eye(2).tocsr()]
)
def test_rows_that_are_not_in_memory_are_refused(rows: Any) -> None:
    with pytest.raises(InvalidData, match="give a frame in memory, a dense array or a list of texts"):
        cm.Dataset(train=(rows, [0, 1]), holdout=(rows, [0, 1]))


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfa,y\n1,no\n2,yes\n")
    (tmp_path / "t.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1, "y": "no"}\n{"a": 2, "y": "yes"}\n')
    for name in ("t.csv", "t.jsonl"):
        data = cm.Dataset.from_files(tmp_path / name, tmp_path / name, label="y")
        assert data.schema.names == ["a"]


def test_the_command_line_reads_folders(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from casemate.cli import run

    (pictures / "foldermodel.py").write_text(
        "import numpy as np\ndef look(x):\n    assert x.shape[1:] == (1, 8, 6) and x.max() > 1\n"
        "    return np.full((len(x), 2), 0.5)\ndef make():\n    return look\n"
    )
    words = [
        "doctor",
        "foldermodel:make",
        "--train",
        str(pictures / "train"),
        "--holdout",
        str(pictures / "holdout"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(pictures))
        assert run([*words, "--size", "8x6", "--pixels", "byte"]) == 0
    out = capsys.readouterr().out
    assert "classes: healthy, ill" in out
    assert "3 train and 3 holdout rows" in out
