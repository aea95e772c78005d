# SPDX-License-Identifier: Apache-2.0
"""One table of broken and hostile inputs: each ends in one clear error that says what, what was seen and what to do.

A case makes either the words of a command, which must end with the exit code of the class on one line of stderr, or
a function to call, which must raise exactly the class. Nothing may be written, and no code of a file may run.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import re
import struct
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

import casemate as cm
from casemate import cli
from casemate.adapters import endpoint as endpoints
from casemate.core.errors import (
    BudgetExhausted,
    CasemateError,
    HostileArtefact,
    InvalidData,
    UnknownArtefact,
)

joblib = pytest.importorskip("joblib")
Made = list[str] | Callable[[], Any]
Case = tuple[str, Callable[["Box"], Made], type[CasemateError], tuple[str, ...]]


def table(seed: int, n: int = 40) -> pd.DataFrame:
    rows = pd.DataFrame(np.random.default_rng(seed).normal(size=(n, 3)), columns=["a", "b", "c"])
    return rows.assign(y=np.where(rows["a"] > 0, "yes", "no"))


class Touched:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch pwned",)


class Box:
    """A folder with sound data and a sound model, and a server; a case spoils what it needs."""

    url = ""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name, seed in (("train", 1), ("holdout", 2)):
            table(seed).to_csv(path / f"{name}.csv", index=False)

    def write(self, name: str, raw: str | bytes) -> str:
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_bytes(raw.encode() if isinstance(raw, str) else raw)
        return name

    def audit(self, model: str = "", **options: str) -> list[str]:
        if not model:
            joblib.dump(LogisticRegression().fit(table(1)[["a", "b", "c"]], table(1)["y"]), "model.joblib")
        given = {
            "train": "train.csv",
            "holdout": "holdout.csv",
            "label": "y",
            "methods": "loss_attack",
            "jobs": "1",
        }
        given |= {"out": "report.json", **options}
        words = [word for name, value in given.items() if value for word in (f"--{name}", value)]
        return ["audit", model or "model.joblib", *words]

    def asks(
        self, answer: Any, status: int = 200, *, wait: float = 0.0, more: str = "", **headers: str
    ) -> list[str]:
        """Audit the endpoint, which answers all with this."""
        self.server.reply = (answer, status, wait, headers)  # type: ignore[attr-defined]
        options = {"authorised": "A. Owner, 2026-11-23", "classes": "no,yes"}
        settings = "per_second=1000,retries=1" + more
        return self.audit(self.url, endpoint=settings, **options)

    @property
    def server(self) -> ThreadingHTTPServer:
        return SERVER[0]


def zipped(**members: bytes | str) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as file:
        for name, raw in members.items():
            file.writestr(name.replace("__", "/").replace("_dot_", ".").replace("UP", ".."), raw)
    return sink.getvalue()


def train_of(raw: str | bytes, name: str = "train.csv", **options: str) -> Callable[[Box], Made]:
    return lambda box: box.audit(train=box.write(name, raw), **options)


def holdout_of(change: Callable[[pd.DataFrame], pd.DataFrame], train: bool = False) -> Callable[[Box], Made]:
    def make(box: Box) -> Made:
        for name, seed in (("train", 1), ("holdout", 2)):
            if train or name == "holdout":
                change(table(seed)).to_csv(box.path / f"{name}.csv", index=False)
        return box.audit()

    return make


def model_of(name: str, raw: Callable[[], str | bytes]) -> Callable[[Box], Made]:
    return lambda box: box.audit(box.write(name, raw()))


def data_of(*parts: Any, **options: Any) -> Callable[[Box], Made]:
    train, holdout = parts if len(parts) == 2 else parts * 2
    return lambda box: lambda: cm.Dataset(train=train, holdout=holdout, **options)


def answers_of(answer: Any, status: int = 200, **more: Any) -> Callable[[Box], Made]:
    return lambda box: box.asks(answer, status, **more)


def wrapped(model: Any, x: Any, y: Any, **options: Any) -> Callable[[Box], Made]:
    def run(box: Box) -> Made:
        data = cm.Dataset(train=(x, y), holdout=(x, y))
        return lambda: cm.audit(cm.wrap(model, **options), data, methods=["loss_attack"], effort="quick")

    return run


def claims_a_gigabyte() -> bytes:
    """An .npz of 300 bytes whose header speaks of 2^27 numbers."""
    head = b"{'descr': '<f8', 'fortran_order': False, 'shape': (134217728, 1), }"
    raw = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head) + 1) + head + b"\n" + b"\0" * 64
    return zipped(x_dot_npy=raw, y_dot_npy=raw)


def pickled_arrays() -> bytes:
    held = np.empty(1, object)
    held[0] = Touched()
    sink = io.BytesIO()
    np.savez(sink, x=held, y=np.zeros(1))
    return sink.getvalue()


def parquet() -> bytes:
    sink = io.BytesIO()
    table(1).to_parquet(sink)
    return sink.getvalue()[:-100]


def lightgbm(pattern: str, into: str) -> Callable[[], str]:
    def make() -> str:
        library = pytest.importorskip("lightgbm")
        rows = table(1, 200)
        rows = library.Dataset(rows[["a", "b", "c"]], (rows["y"] == "yes").astype(int))
        text = library.train(
            {"objective": "binary", "verbosity": -1, "num_threads": 1}, rows, 2
        ).model_to_string()
        made = re.sub(pattern, into, text, count=1, flags=re.DOTALL)
        assert made != text
        return made

    return make


def xgboost(form: str, spoil: Callable[[bytes], bytes]) -> Callable[[], bytes]:
    def make() -> bytes:
        library = pytest.importorskip("xgboost")
        rows = library.DMatrix(table(1)[["a", "b", "c"]], (table(1)["y"] == "yes").astype(int))
        raw = bytes(library.train({"objective": "binary:logistic", "nthread": 1}, rows, 2).save_raw(form))
        made = spoil(raw)
        assert made != raw
        return made

    return make


def dumped(compress: int = 0) -> bytes:
    sink = io.BytesIO()
    joblib.dump(Touched(), sink, compress=compress)
    return sink.getvalue()


LAMBDA = {
    "class_name": "Lambda",
    "module": "keras.layers",
    "config": {"function": {"class_name": "__lambda__"}},
}
X, Y = np.arange(20.0).reshape(10, 2), np.arange(10) % 2
FITTED = LogisticRegression().fit(X, Y)


def hugging(config: Any, **files: str) -> Callable[[Box], Made]:
    def make(box: Box) -> Made:
        box.write("hf/config.json", config if isinstance(config, str) else json.dumps(config))
        for name, raw in files.items():
            box.write(f"hf/{name}.py", raw)
        return box.audit("hf")

    return make


def images(**files: bytes) -> Callable[[Box], Made]:
    def make(box: Box) -> Made:
        for part in ("pictures", "others"):
            for name, raw in files.items():
                box.write(f"{part}/{name.replace('__', '/').replace('_dot_', '.')}", raw)
        return box.audit(train="pictures", holdout="others", label="")

    return make


CASES: list[Case] = [
    # ---- files of data
    ("empty_file", train_of(b""), InvalidData, ("train.csv is not a readable table",)),
    ("header_only", train_of("a,b,c,y\n"), InvalidData, ("train has no rows",)),
    ("ragged_csv", train_of("a,b,c,y\n1,2,3,no\n1,2,3,4,5,no\n"), InvalidData, ("train.csv", "line 3")),
    ("utf16_csv", train_of("a,b,c,y\n1,2,3,no\n".encode("utf-16")), InvalidData, ("train.csv", "utf-8")),
    ("duplicate_columns", train_of("a,a,c,y\n1,2,3,no\n4,5,6,yes\n"), InvalidData, ("train.csv", "'a'", "rename")),
    ("file_absent", lambda box: box.audit(train="no.csv"), InvalidData, ("no such file: no.csv",)),
    ("file_of_another_kind", train_of("x", "train.xlsx"), InvalidData, ("train.xlsx", "expected a .csv")),
    ("parquet_cut_short", train_of(parquet(), "t.parquet"), InvalidData, ("t.parquet is not a",)),
    ("json_line_broken", train_of('{"a": 1}\n{"a":\n', "t.jsonl"), InvalidData, ("t.jsonl: line 2", "one a line")),
    ("npz_claims_a_gigabyte", train_of(claims_a_gigabyte(), "t.npz"), InvalidData, ("t.npz", "no sound .npz")),
    ("npz_with_a_pickle", train_of(pickled_arrays(), "t.npz"), InvalidData, ("t.npz", "plain arrays")),
    ("npz_is_no_zip", train_of(b"PK\x03\x04 cut", "t.npz"), InvalidData, ("t.npz is no sound .npz file",)),
    ("npz_lacks_the_label", lambda box: (np.savez("t.npz", x=X), box.audit(train="t.npz"))[1], InvalidData,
     ("t.npz holds the arrays ['x']; it needs ['y']",)),
    ("folder_with_a_broken_image", images(a__1_dot_png=b"x", b__1_dot_png=b"x"), InvalidData,
     ("pictures/a/1.png is no sound PNG", "save it anew")),
    ("folder_without_files", lambda box: ((box.path / "p").mkdir(), box.audit(train="p", label=""))[1], InvalidData,
     ("p holds no files; write p/CLASS/FILE",)),
    ("folder_with_a_label", lambda box: ((box.path / "p").mkdir(), box.audit(train="p"))[1], InvalidData,
     ("p is a folder", "leave label")),
    ("text_that_is_not_utf8", images(a__1_dot_txt=b"\xff\xfe"), InvalidData, ("a/1.txt is not UTF-8 at byte 0",)),
    ("table_without_a_label", lambda box: box.audit(label=""), InvalidData, ("which column of train.csv",)),
    ("size_that_is_no_size", lambda box: box.audit(size="28"), InvalidData, ("--size '28'", "such as 28x28")),
    # ---- columns, labels, rows
    ("label_column_absent", lambda box: box.audit(label="z"), InvalidData, ("no column 'z'; it has ['a'",)),
    ("text_column_absent", lambda box: box.audit(text="z"), InvalidData, ("no column 'z'; it has ['a'",)),
    ("text_column_of_numbers", lambda box: box.audit(text="a"), InvalidData, ("column 'a' holds", "a text is")),
    ("column_lacks_in_holdout", holdout_of(lambda t: t.drop(columns="c")), InvalidData, ("'c' is in train but not",)),
    ("column_of_another_type", holdout_of(lambda t: t.assign(c="x")), InvalidData, ("'c' holds numbers", "text")),
    ("labels_with_a_hole", holdout_of(lambda t: t.assign(y=t["y"].where(t.index > 0))), InvalidData,
     ("labels of holdout contain missing", "drop those rows")),
    ("labels_the_model_does_not_know", holdout_of(lambda t: t.assign(y="maybe"), train=True), InvalidData,
     ("['maybe'] in the data are unknown to the model", "classes=[...]")),
    ("columns_the_model_does_not_know", holdout_of(lambda t: t.rename(columns={"a": "z"}), train=True), InvalidData,
     ("LogisticRegression", "feature names")),
    ("infinity_in_a_cell", holdout_of(lambda t: t.assign(b=np.inf)), InvalidData, ("'b'", "infinity", "clip it")),
    ("labels_of_nan", data_of((X, np.where(Y, np.nan, 1.0))), InvalidData, ("labels of train", "drop those rows")),
    ("labels_of_infinity", data_of((X, np.where(Y, np.inf, 1.0))), InvalidData, ("labels of train", "infinite")),
    ("labels_that_are_complex", data_of((X, Y * 1j)), InvalidData, ("dtype complex128", "use numbers or text")),
    ("labels_that_are_dates", data_of((X, pd.to_datetime(["2020-01-01"] * 10))), InvalidData, ("datetime64", "use")),
    ("labels_in_two_columns", data_of((X, np.stack([Y, Y], 1))), InvalidData, ("one-dimensional", "(10, 2)")),
    ("labels_too_few", data_of((X, Y[:4])), InvalidData, ("train has 10 rows but 4 labels",)),
    ("one_class", wrapped(LogisticRegression(), X, np.zeros(10)), InvalidData,
     ("LogisticRegression.fit failed", "only one class")),
    ("no_rows", data_of((X[:0], Y[:0])), InvalidData, ("train has no rows",)),
    ("rows_of_one_dimension", data_of((X[:, 0], Y)), InvalidData, ("two-dimensional", "(10,)")),
    ("rows_of_three_dimensions", data_of((X[:, :, None], Y)), InvalidData, ("two-dimensional", "(10, 2, 1)")),
    ("rows_of_uneven_length", data_of(([[1, 2], [3]], [0, 1])), InvalidData, ("rows have different lengths",)),
    ("rows_of_dates", data_of((X.astype("datetime64[D]"), Y)), InvalidData, ("'x0' has dtype datetime64", "convert")),
    ("images_of_two_sizes", data_of((np.ones((10, 1, 4, 4)), Y), (np.ones((10, 1, 5, 5)), Y)), InvalidData,
     ("images of holdout have shape (1, 5, 5), those of train (1, 4, 4)",)),
    ("parts_that_are_no_pair", data_of(3), InvalidData, ("train must be (X, y)", "got int")),
    ("frame_with_one_name_twice", data_of((pd.DataFrame(X, columns=["a", "a"]), Y)), InvalidData, ("unique", "a")),
    ("person_on_both_sides", data_of((X, Y, [1] * 10)), InvalidData, ("1 people stand in both", "split by person")),
    ("data_of_fewer_columns_than_the_model", wrapped(FITTED, X[:, :1], Y), InvalidData, ("1 features", "2 features")),
    ("model_of_more_classes_than_names", wrapped(lambda x: np.full((len(x), 3), 1 / 3), X, Y), InvalidData,
     ("shape (2, 3)", "2 classes")),
    ("one_row", wrapped(LogisticRegression(), X[:1], Y[:1]), InvalidData, ("fit failed", "only one class")),
    ("scores_of_nan", wrapped(lambda x: np.full((len(x), 2), np.nan), X, Y), InvalidData,
     ("row 0 is [nan, nan]", "must be finite")),
    # ---- files of models
    ("model_absent", lambda box: box.audit("no.joblib"), InvalidData, ("MODEL 'no.joblib' does not exist",)),
    ("pickle_bomb", model_of("m.pkl", lambda: pickle.dumps(Touched())), HostileArtefact,
     ("m.pkl: hostile: posix.system", "nothing was loaded")),
    ("joblib_bomb_compressed", model_of("m.joblib", lambda: dumped(3)), HostileArtefact, ("posix.system", "zlib")),
    ("pickle_cut_short", model_of("m.pkl", lambda: pickle.dumps(list(range(99)))[:40]), InvalidData,
     ("m.pkl: malformed", "byte 2")),
    ("model_file_empty", model_of("m.pkl", lambda: b""), InvalidData, ("m.pkl: malformed: empty file",)),
    ("pickle_of_no_model", model_of("m.pkl", lambda: pickle.dumps({"a": 1})), InvalidData,
     ("cannot wrap dict", "expected a torch module")),
    ("state_dict_with_a_bomb", model_of("m.pt", lambda: zipped(
        archive__data_dot_pkl=pickle.dumps(Touched()), archive__version="3")), HostileArtefact, ("posix.system",)),
    ("torch_export", model_of("m.pt2", lambda: zipped(m__archive_format="pt2", m__models__model_dot_json="{}")),
     UnknownArtefact, ("torch.export archive", "programs and pickles")),
    ("weights_without_a_factory", model_of("m.safetensors", lambda: struct.pack("<Q", 2) + b"{}"), InvalidData,
     ("weights without their module", "--factory")),
    ("safetensors_of_absurd_size", model_of("m.safetensors", lambda: struct.pack("<Q", 2**40) + b"{}"),
     UnknownArtefact, ("m.safetensors: unknown",)),
    ("keras_with_code", model_of("m.keras", lambda: zipped(
        config_dot_json=json.dumps(LAMBDA), metadata_dot_json="{}", model_dot_weights_dot_h5=b"")), HostileArtefact,
     ("keras.layers.Lambda", "compiled Python code")),
    ("keras_with_broken_weights", model_of("m.keras", lambda: zipped(
        config_dot_json="{}", metadata_dot_json="{}", model_dot_weights_dot_h5=b"no hdf")), InvalidData,
     ("m.keras: malformed: HDF5",)),
    ("zip_slip", model_of("m.keras", lambda: zipped(
        config_dot_json="{}", metadata_dot_json="{}", model_dot_weights_dot_h5=b"", UP__evil="x")),
     UnknownArtefact, ("'../evil'", "none of a Keras model's three files")),
    ("onnx_cut_short", model_of("m.onnx", lambda: b"\x08\x09\x3a\xff\xff\xff\xff\x0f"), InvalidData,
     ("m.onnx: malformed", "cut off")),
    ("wrong_magic", model_of("m.onnx", lambda: bytes(range(7, 250))), UnknownArtefact, ("m.onnx: unknown",)),
    ("a_program", model_of("m.bin", lambda: b"\x7fELF" + bytes(99)), UnknownArtefact, ("a program",)),
    ("xgboost_ubj_cut_short", model_of("m.ubj", xgboost("ubj", lambda raw: raw[:len(raw) // 2])), HostileArtefact,
     ("m.ubj", "save it again")),
    ("xgboost_json_of_absurd_nodes", model_of("m.json", xgboost("json", lambda raw: re.sub(
        rb'"left_children":\[\d+', b'"left_children":[99999999', raw))), HostileArtefact,
     ("m.json is cut short or made to break", "inside xgboost", "save it again")),
    ("xgboost_splits_beyond_its_columns", model_of("m.json", xgboost("json", lambda raw: re.sub(
        rb'"split_indices":\[\d+', b'"split_indices":[77', raw))), InvalidData,
     ("m.json splits on a column that the model does not have", "save it again")),
    ("xgboost_json_of_nothing", model_of("m.json", lambda: '{"learner": {"gradient_booster": 3}}'), InvalidData,
     ("m.json is no sound XGBoost model",)),
    ("json_of_no_model", model_of("m.json", lambda: '{"a": 1}'), InvalidData, ("m.json is JSON", "read are pickle")),
    ("lightgbm_cut_short", model_of("m.txt", lightgbm(r"Tree=1.*", "")), HostileArtefact,
     ("m.txt is cut short or made to break", "inside lightgbm", "save it again")),
    ("lightgbm_of_absurd_leaves", model_of("m.txt", lightgbm(r"num_leaves=\d+", "num_leaves=999999999")),
     HostileArtefact, ("inside lightgbm", "nothing was loaded")),
    ("lightgbm_of_absurd_classes", model_of("m.txt", lightgbm(r"num_class=\d+", "num_class=999999999")),
     HostileArtefact, ("lightgbm for more than 4 GiB of memory",)),
    ("lightgbm_without_its_head", model_of("m.txt", lightgbm(r"label_index=\d+\n", "")), InvalidData,
     ("m.txt is no sound LightGBM model", "label index")),
    ("hugging_face_with_code", hugging({"model_type": "bert", "auto_map": {"AutoModel": "evil.M"}},
     evil="open('pwned', 'w')"), HostileArtefact, ("hf/config.json names code of its own (auto_map)", "not run")),
    ("hugging_face_broken", hugging("{"), InvalidData, ("hf/config.json is no sound JSON",)),
    ("folder_of_no_model", lambda box: ((box.path / "f").mkdir(), box.audit("f"))[1], InvalidData, ("f",)),
    # ---- endpoints
    ("endpoint_without_leave", lambda box: box.audit(box.url), InvalidData, ("--authorised 'name, date'",)),
    ("endpoint_without_leave_in_doctor", lambda box: ["doctor", box.url], InvalidData, ("--authorised 'name, date'",)),
    ("endpoint_late", answers_of({}, wait=5, more=",timeout_seconds=0.1"), InvalidData,
     ("no answer within 0.1 s", "longer timeout_seconds")),
    ("endpoint_garbage", answers_of(b"<html>"), InvalidData, ("answered 6 bytes that are no JSON", "path of a model")),
    ("endpoint_of_another_form", answers_of({"outputs": 3}), InvalidData, ("without a list of 'predictions'", "form=")),
    ("endpoint_of_three_classes", answers_of([[0.2, 0.3, 0.5]] * 2), InvalidData, ("shape (2, 3)", "2 classes")),
    ("endpoint_of_nan", answers_of(b'{"predictions": [[NaN, NaN], [NaN, NaN]]}'), InvalidData,
     ("row 0 is [nan, nan]", "must be finite")),
    ("endpoint_of_too_few_answers", answers_of([[0.5, 0.5]]), InvalidData, ("gave 1 answers to 2 rows",)),
    ("endpoint_401", answers_of({}, 401), InvalidData, ("status 401; it wants a token",)),
    ("endpoint_500", answers_of({}, 500), InvalidData, ("in 2 tries", "status 500", "try again later")),
    ("endpoint_404", answers_of({}, 404), InvalidData, ("status 404: no model is served",)),
    ("endpoint_redirects", answers_of({}, 302, Location="http://127.0.0.1:1/"), InvalidData,
     ("status 302, a redirect", "give the address it leads to")),
    ("endpoint_asks_for_an_hour", answers_of({}, 503, Retry_After="3600"), BudgetExhausted,
     ("wait 3600 s", "wait_seconds=300")),
    ("endpoint_key_unknown", answers_of({}, more=",speed=3"), InvalidData, ("cannot read 'speed=3'", "keys")),
]  # fmt: skip
SERVER: list[ThreadingHTTPServer] = []


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        told, status, wait, headers = self.server.reply  # type: ignore[attr-defined]
        self.server.asked += 1  # type: ignore[attr-defined]
        time.sleep(wait)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        with contextlib.suppress(OSError):  # who asked may have gone
            self.wfile.write(told if isinstance(told, bytes) else json.dumps(told).encode())

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads = True
    made.asked = 0  # type: ignore[attr-defined]
    thread = threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    SERVER.append(made)
    Box.url = f"http://127.0.0.1:{made.server_port}/v1/models/m:predict"
    yield
    made.shutdown()
    made.server_close()
    SERVER.clear()


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    monkeypatch.setattr(endpoints, "_PAUSE", 0.01)
    monkeypatch.chdir(tmp_path)
    return Box(tmp_path)


def state(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("make", "kind", "told"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_a_bad_input_is_one_clear_error(
    box: Box,
    capfd: pytest.CaptureFixture[str],
    make: Callable[[Box], Made],
    kind: type[CasemateError],
    told: tuple[str, ...],
) -> None:
    made = make(box)
    before = state(box.path)
    capfd.readouterr()
    if callable(made):
        with pytest.raises(CasemateError) as caught:
            made()
        assert type(caught.value) is kind, caught.value
        line = str(caught.value)
    else:
        found = cli.run(made)
        out, line = capfd.readouterr()
        assert found == kind.exit_code, line
        assert out == ""
        assert line.count("\n") == 1, line
        assert line.startswith("error: ")
        line = line.removesuffix("\n")
    for words in told:
        assert words in line
    assert line.isprintable(), line
    assert len(line) < 600
    assert "Traceback" not in line
    assert "internal error" not in line
    assert state(box.path) == before, "something was written, or code of a file ran"


def test_without_leave_no_byte_is_sent(box: Box) -> None:
    asked = box.server.asked  # type: ignore[attr-defined]
    data = ["--train", "train.csv", "--holdout", "holdout.csv", "--label", "y"]
    assert cli.run(["doctor", box.url, *data]) == 2
    assert cli.run(box.audit(box.url)) == 2
    assert box.server.asked == asked  # type: ignore[attr-defined]


def test_there_are_at_least_sixty_and_each_has_its_name() -> None:
    assert len(CASES) >= 60
    assert len({case[0] for case in CASES}) == len(CASES)


def test_what_is_sound_is_not_refused(box: Box) -> None:
    """Otherwise the cases could be refused for another reason than theirs."""
    assert cli.run(box.audit()) == 0
    (box.path / "report.json").unlink()
    box.server.reply = ([[0.4, 0.6]] * 40, 200, 0.0, {})  # type: ignore[attr-defined]
    assert cli.run(box.audit(box.url, authorised="A. Owner, 2026-11-23", classes="no,yes")) in (2, 3)
