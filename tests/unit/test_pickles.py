# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 - tables of cases
"""The scan and the loader by themselves: verdicts, words, trust, limits, and files that are no files."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import pickletools
import struct
import zipfile
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pickle_corpus as corpus
import pytest

from casemate.core import pickles
from casemate.core.errors import HostileArtefact, InvalidData, MissingExtra, UnknownArtefact
from casemate.core.pickles.machine import Malformed, Refused, Surroundings
from casemate.core.pickles.opcodes import OPCODES, machine
from casemate.core.pickles.permits import admitted
from casemate.report import scan as words

PLAIN: list[Any] = [
    None, True, 0, -1, 255, 65536, -(2**40), 2**200, 1.5, float("inf"), "", "a\nb", "ü" * 300, b"", b"x" * 300,
    bytearray(b"ab"), [], [1, [2]], (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {}, {"a": {"b": 1}}, {1, 2}, frozenset("a"),
    slice(1, None, 2), complex(1, 2), range(3), OrderedDict(a=1), defaultdict(list, a=[1]), Counter("aab"),
    np.float64(2.5), np.int64(3), np.str_("ab"), np.datetime64("2020-01-01"), np.arange(6).reshape(2, 3),
    np.asfortranarray(np.ones((2, 3))), np.array(["a", None], object), np.array(["ab", "c"]), np.zeros(0), np.array(3.0),
    np.zeros(2, [("a", "f8"), ("b", "i4")]), np.array([1, 2], ">i4"), np.ma.masked_array([1.0, 2.0], [0, 1]), np.log1p,
    np.random.RandomState(0), np.random.default_rng(0), np.dtype("f4"), np.float32,
]  # fmt: skip


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_clean_and_come_back(protocol: int) -> None:
    for value in PLAIN:
        raw = pickle.dumps(value, protocol=protocol)
        for form in (raw, pickletools.optimize(raw)):
            found = pickles.scan(form)
            assert found.verdict == "clean", (value, found.findings)
            loaded = pickles.load_pickle(form)[0]
            assert type(loaded) is type(value)
            if not isinstance(value, (np.random.RandomState, np.random.Generator)):
                assert repr(loaded) == repr(pickle.loads(form))


def test_the_machine_agrees_with_python_about_every_opcode() -> None:
    assert set(OPCODES) == {ord(op.code) for op in pickletools.opcodes}


def test_the_machine_ends_where_python_ends() -> None:
    for value in PLAIN:
        raw = pickle.dumps(value) + b"more"
        walked = machine(raw, 0, Surroundings())
        walked.run()
        assert walked.pos == len(raw) - 4


@pytest.mark.parametrize(
    "raw",
    [b"", b".", b"N", b"]a.", b"(.", b"K", b"R.", b"t.", b"NN.", b"(N.", b"g0\n.", b"\xff", b"X\xff\xff\xff\x7fa.", b"N\x93.",
     b"F1e\n.", b"Iabc\n.", b"S'a\n.", b"X\x01\x00\x00\x00\xff.", b"\x80\x09N.", b"}(Nu."],
)  # fmt: skip
def test_broken_streams_are_malformed(raw: bytes) -> None:
    with pytest.raises(Malformed):
        machine(raw, 0, Surroundings()).run()


def test_an_integer_without_end_is_a_bomb() -> None:
    with pytest.raises(Refused, match="resource bomb"):
        machine(b"\x8b" + struct.pack("<i", 2000) + b"1" * 2000 + b".", 0, Surroundings()).run()


def test_the_five_files_of_the_survey() -> None:
    from sklearn.linear_model import LogisticRegression

    good = pickle.dumps(LogisticRegression().fit([[0.0], [1.0]], [0, 1]))
    five = {
        "good": good,
        "system": corpus.SYSTEM,
        "truncated": good[: len(good) // 2],
        "runstring": corpus.call("numpy.testing._private.utils", "runstring", corpus.text("1")),
        "bomb": dict(corpus.bombs())["bytearray of 8 GiB (48 bytes)"],
    }
    verdicts = {name: pickles.scan(raw).verdict for name, raw in five.items()}
    expected = {
        "good": "clean",
        "system": "hostile",
        "truncated": "malformed",
        "runstring": "hostile",
        "bomb": "hostile",
    }
    assert verdicts == expected


def test_the_worst_finding_decides_and_the_message_says_what_to_do() -> None:
    both = b"(cos\nsystem\ncmy_models\nNet\nl."
    with pytest.raises(HostileArtefact, match=r"os\.system"):
        pickles.load_pickle(both)
    with pytest.raises(UnknownArtefact, match=r"--trust my_models\.Net"):
        pickles.load_pickle(b"cmy_models\nNet\n.")
    with pytest.raises(InvalidData, match=r"malformed.*nothing was loaded"):
        pickles.load_pickle(b"\x80\x04N")
    with pytest.raises(InvalidData, match="malformed"):
        pickles.load_pickle(b"")


class Mine:
    """A class of a user."""

    def __init__(self) -> None:
        self.a = 1


def test_trust_admits_exactly_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = pickle.dumps(Mine())
    name = f"{Mine.__module__}.Mine"
    monkeypatch.setitem(
        __import__("sys").modules, Mine.__module__, __import__("types").SimpleNamespace(Mine=Mine)
    )
    with pytest.raises(UnknownArtefact):
        pickles.load_pickle(raw, trust=[Mine.__module__ + ".Other"])
    loaded, said = pickles.load_pickle(raw, trust=[name])
    assert loaded.a == 1 and said == (f"trusted by name: {name}",)
    assert pickles.notes(pickles.scan(corpus.SYSTEM, trust=["os.system"]))[0].endswith("or open connections")
    for bad in ("torch", "os.", "a b.c", "a.b;c"):
        with pytest.raises(InvalidData, match="names classes exactly"):
            pickles.scan(b"N.", trust=[bad])


def test_a_class_that_is_not_here_names_its_package() -> None:
    with pytest.raises(MissingExtra, match="no_such_package is not installed"):
        pickles.load_pickle(b"cno_such_package\nNet\n.", trust=["no_such_package.Net"])
    with pytest.raises(InvalidData, match="another version of sklearn"):
        pickles.load_pickle(b"csklearn.ensemble.forest\nRandomForestClassifier\n.")
    with pytest.raises(InvalidData, match="another version of collections"):
        pickles.load_pickle(b"ccollections\nNoSuch\n.", trust=["collections.NoSuch"])


def test_a_model_of_another_version_is_loaded_with_a_note() -> None:
    from sklearn.linear_model import LogisticRegression

    raw = pickle.dumps(LogisticRegression().fit([[0.0], [1.0]], [0, 1]), protocol=2)
    import sklearn

    version = sklearn.__version__.encode()
    other = b"9" * len(version)
    loaded, said = pickles.load_pickle(raw.replace(version, other))
    assert loaded.predict([[1.0]]) == [1]
    assert len(said) == 1 and "from version" in said[0]


def test_files_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "real").write_bytes(b"N.")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "dead").symlink_to(tmp_path / "nothing")
    assert pickles.scan(tmp_path / "link").verdict == "clean"
    for name, what in (
        ("pipe", "regular"),
        ("dead", "cannot read"),
        ("none", "cannot read"),
        ("a\0b", "cannot read"),
    ):
        with pytest.raises(InvalidData, match=what):
            pickles.scan(tmp_path / name)
    with pytest.raises(InvalidData, match="regular"):
        pickles.scan(tmp_path)
    with pytest.raises(InvalidData, match="regular"):
        pickles.scan("/dev/zero")
    (tmp_path / "empty").touch()
    assert pickles.scan(tmp_path / "empty").verdict == "malformed"


def test_a_file_of_three_gigabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as file:
        file.truncate(3 << 30)  # sparse: takes no room on the disk
    with pytest.raises(InvalidData, match="3072 MiB; at most 2048 MiB"):
        pickles.scan(tmp_path / "big")


def test_the_bytes_that_were_scanned_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"a": 1}))
    real = pickles.scan

    def exchanged(raw: bytes) -> bytes:
        path.write_bytes(corpus.SYSTEM)
        return raw

    read = pickles.read_file
    monkeypatch.setattr(pickles, "read_file", lambda source: exchanged(read(source)))
    assert pickles.load_pickle(path)[0] == {"a": 1}
    assert real(path.read_bytes()).verdict == "hostile"


def test_truncated_joblib_files_are_refused(tmp_path: Path) -> None:
    import joblib

    for compress in (0, 3):
        out = io.BytesIO()
        joblib.dump({"a": np.arange(1000.0), "b": np.array(["x"], object)}, out, compress=compress)
        raw = out.getvalue()
        assert pickles.scan(raw).verdict == "clean"
        for cut in range(4, len(raw), max(1, len(raw) // 60)):
            assert pickles.scan(raw[:cut]).verdict != "clean", cut


def test_several_objects_are_no_model() -> None:
    two = pickle.dumps(1) + pickle.dumps(2)
    assert pickles.scan(two).verdict == "clean"
    with pytest.raises(InvalidData, match="one object"):
        pickles.load_pickle(two)


def test_a_finding_says_where() -> None:
    raw = corpus.tarred(
        {"a.bin": gzip.compress(corpus.zipped({"b.txt": b"\x80\x02K\x010" + corpus.SYSTEM[2:]}))}
    )
    (found,) = pickles.scan(raw, name="model.tar").findings
    assert found.where == "model.tar:a.bin:gzip:b.txt at byte 5"


def test_text_and_json_say_what_clean_means() -> None:
    scans = [pickles.scan(b"N.", name="a"), pickles.scan(b"c\x1b[2Jos\nsystem\n.", name="b\x1b[2J")]
    for lang in ("en", "zh-CN"):
        shown = words.text(scans, lang)
        assert "\x1b" not in shown and len(shown.splitlines()) >= 3
    assert "while it is unpickled" in words.text(scans)
    read = json.loads(words.to_json(scans))
    assert [item["verdict"] for item in read["files"]] == ["clean", scans[1].verdict]
    assert "no code of the file's choosing" in read["meaning"]
    with pytest.raises(InvalidData, match="no language"):
        words.text(scans, "fr")


def test_nothing_that_runs_code_stands_on_the_list() -> None:
    from casemate.core.pickles.permits import _hostile, permitted

    modules, names = _hostile()
    for module, name in admitted():
        permit = permitted(module, name)
        assert permit is not None
        parts = permit.module.split(".")
        assert not any(".".join(parts[:k]) in modules for k in range(1, len(parts) + 1)), permit.title
        assert permit.title not in names
        assert "." not in name and name not in ("eval", "exec", "getattr", "open", "__import__", "compile")


def test_what_is_admitted_exists_or_has_moved() -> None:
    """Every current scikit-learn and numpy name on the list can be imported; old homes need not."""
    import importlib

    from casemate.core.pickles.permits import _raw

    old = ("sklearn.ensemble._gb_losses", "sklearn.ensemble._hist_gradient_boosting.loss", "sklearn.utils")
    old += tuple(f"scipy.sparse.{form}" for form in ("csr", "csc", "coo", "bsr", "dia", "lil"))
    missing = []
    for module, listed in _raw()["build"].items():
        if module in old:
            continue
        for name in listed.split():
            try:
                if hasattr(importlib.import_module(module), name):
                    continue
            except ImportError:
                pass
            missing.append(f"{module}.{name}")
    assert {name.rpartition("Scorer")[0] for name in missing} == {
        f"sklearn.metrics._scorer._{kind}" for kind in ("Predict", "Proba", "Threshold")
    }


def test_a_state_may_not_be_used_twice() -> None:
    made = corpus.named("xgboost.core", "Booster") + b")\x81"
    state = b"}" + corpus.text("handle") + b"Nsq\x00"
    raw = b"\x80\x02" + made + state + b"b" + made + b"h\x00b\x86."
    assert pickles.scan(raw).findings[0].what == "a state used twice"


def test_a_dtype_may_not_change_after_use() -> None:
    dtype = corpus.named("numpy", "dtype") + corpus.text("f8") + b"\x89\x88\x87Rq\x00"
    state = b"(K\x03" + corpus.text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    scalar = corpus.named("numpy._core.multiarray", "scalar")
    used = scalar + dtype + state + b"C\x08" + b"A" * 8 + b"\x86R"
    assert pickles.scan(b"\x80\x03" + used + b".").verdict == "clean"
    assert pickles.scan(b"\x80\x03" + used + b"h\x00" + state + b"\x86.").verdict == "hostile"


def test_the_twister_stays_inside_its_state() -> None:
    raw = pickle.dumps(np.random.RandomState(0), protocol=2)
    at = raw.index(b"pos")
    wild = raw.replace(raw[at : at + 9], raw[at : at + 9].replace(b"M\x70\x02", b"M\xff\x7f"), 1)
    assert wild != raw and pickles.scan(wild).verdict == "hostile"


def test_a_tree_has_as_many_nodes_as_it_says() -> None:
    from sklearn.tree import DecisionTreeClassifier

    raw = pickle.dumps(DecisionTreeClassifier().fit([[0.0], [1.0]], [0, 1]), protocol=2)
    at = raw.index(b"node_count") + len(b"node_count")
    at = raw.index(b"K\x03", at)
    wild = raw[:at] + b"K\x7f" + raw[at + 2 :]
    assert pickles.scan(wild).verdict == "hostile"


def test_no_admitted_class_acts_when_it_is_rebuilt_or_dies() -> None:
    """Classes that free something, or have a state method nobody has read, do not get onto the list unseen."""
    import importlib

    from casemate.core.pickles.permits import _raw

    read = {
        "scipy.sparse._coo.coo_matrix": "renames what older versions called row and col",
        "sklearn.base.BaseEstimator": "pops and compares _sklearn_version",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor": "checks the dtype of its nodes",
        "sklearn.isotonic.IsotonicRegression": "rebuilds an interpolation from its two arrays",
        "sklearn.utils._bunch.Bunch": "does nothing",
    }
    seen = set()
    for module, listed in _raw()["build"].items():
        for name in listed.split():
            if module.startswith(("scipy.sparse", "sklearn.utils")) and "._" not in module:
                continue
            try:
                cls = getattr(importlib.import_module(module), name, None)
            except ImportError:
                continue
            for base in cls.__mro__ if cls else ():
                assert "__del__" not in vars(base), cls
                if "__setstate__" in vars(base) and not base.__module__.startswith("_"):
                    seen.add(f"{base.__module__}.{base.__qualname__}")
    assert seen == set(read)


def test_a_trusted_container_may_be_filled() -> None:
    raw = b"\x80\x02cmy_models\nBag\n)\x81" + corpus.text("a") + b"K\x01s."
    assert pickles.scan(raw, trust=["my_models.Bag"]).verdict == "clean"
    assert pickles.scan(raw).verdict == "unknown"


@pytest.mark.parametrize("n", [128, 384, 1152])
def test_a_safetensors_header_whose_length_reads_like_a_pickle_is_data(n: int) -> None:
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(n)
    found = pickles.scan(n.to_bytes(8, "little") + header + bytes(4))
    assert (found.verdict, found.formats) == ("clean", ("safetensors",))


def test_zip_files_inside_zip_files_are_no_contradiction() -> None:
    inner = io.BytesIO()
    np.savez(inner, a=np.ones(3), b=np.ones(3))
    for _ in range(2):
        box = io.BytesIO()
        with zipfile.ZipFile(box, "w") as archive:
            for name in ("one", "two", "three"):
                archive.writestr(name, inner.getvalue())
        inner = box
    assert pickles.scan(inner.getvalue()).verdict == "clean"


def test_a_whole_torch_module_is_answered_with_what_to_save_instead() -> None:
    found = pickles.scan(b"\x80\x02ctorch.nn.modules.container\nSequential\n)\x81.")
    assert found.verdict == "unknown" and "state_dict" in found.findings[0].why
