# SPDX-License-Identifier: Apache-2.0
"""cm.load on files: every form that is read, by content; everything else refused in one clear line."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pickle_corpus as corpus
import pytest
from sklearn.linear_model import LogisticRegression

import casemate as cm
from casemate.adapters import files
from casemate.core.errors import HostileArtefact, InvalidData, UnknownArtefact

X = np.arange(40.0).reshape(20, 2)
Y = np.where(np.arange(20) > 9, "ill", "well")
DATA = cm.Dataset(train=(X[::2], Y[::2]), holdout=(X[1::2], Y[1::2]))


def net() -> Any:
    """The module that state dicts of these tests belong to."""
    import torch

    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))


@pytest.fixture
def factory(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(
        sys.modules,
        "hospital_nets",
        types.SimpleNamespace(net=net, number=lambda: 3, broken=lambda: 1 / 0, other=_other),  # type: ignore[arg-type]
    )
    return "hospital_nets:net"


def _other() -> Any:
    import torch

    return torch.nn.Linear(5, 2)


@pytest.mark.parametrize("name", ["model.pkl", "model.joblib", "model.csv"])
@pytest.mark.parametrize("compress", [None, 0, ("zlib", 3), ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)])
def test_pickle_and_joblib_whatever_the_name(tmp_path: Path, name: str, compress: Any) -> None:
    path = tmp_path / name
    model = LogisticRegression().fit(X, Y)
    if compress is None:
        path.write_bytes(pickle.dumps(model))
    else:
        joblib.dump(model, path, compress=compress)
    target = cm.load(str(path))
    assert target.kind == "scikit-learn"
    source = dict(target.source or {})
    assert source["path"] == str(path)
    assert source["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert source["format"] == ("pickle" if compress is None else "joblib")
    bound, data = target.bind(DATA)
    assert bound.classes == ("ill", "well") and bound.labels(data.holdout.x).tolist() == [1] * 5 + [0] * 5


def test_a_hostile_file_is_refused_and_leaves_no_trace(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = tmp_path / "model.pkl"
    path.write_bytes(corpus.call("os", "mkdir", corpus.text(str(marker))))
    with pytest.raises(HostileArtefact, match=r"model\.pkl: hostile: os\.mkdir .*nothing was loaded"):
        cm.load(str(path))
    path.write_bytes(b"cmy_models\nNet\n.")
    with pytest.raises(UnknownArtefact, match=r"--trust my_models\.Net"):
        cm.load(path)
    assert not marker.exists()


@pytest.mark.parametrize("new", [True, False])
def test_state_dicts_and_their_factory(tmp_path: Path, factory: str, new: bool) -> None:
    import torch

    path, module = tmp_path / "weights.bin", net()
    torch.nn.init.constant_(module[0].weight, 0.25)
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=new)
    target = cm.load(path, factory=factory)
    assert target.kind == "torch" and (target.source or {})["format"] == "torch state dict"
    bound, data = target.bind(
        cm.Dataset(train=(X[::2], 1 * (Y == "ill")[::2]), holdout=(X[1::2], 1 * (Y == "ill")[1::2]))
    )
    expected = module.eval()(torch.tensor(data.holdout.x, dtype=torch.float32)).argmax(1).numpy()
    np.testing.assert_array_equal(bound.labels(data.holdout.x), expected)
    with pytest.raises(InvalidData, match=r"pass factory="):
        cm.load(path)
    for bad, what in (
        ("hospital_nets:other", "does not fit"),
        ("hospital_nets:number", "must build a torch module"),
        ("hospital_nets:broken", "raised ZeroDivisionError"),
        ("hospital_nets:none", "has no 'none'"),
        ("no_such_nets:net", "cannot import"),
        ("nonsense", "must be package.module:function"),
    ):
        with pytest.raises(InvalidData, match=what):
            cm.load(path, factory=bad)


def test_checkpoints_and_safetensors(tmp_path: Path, factory: str) -> None:
    import torch
    from safetensors.torch import save_file

    state = net().state_dict()
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "a.pt")
    assert cm.load(tmp_path / "a.pt", factory=factory).kind == "torch"
    torch.save([1, 2], tmp_path / "b.pt")
    with pytest.raises(InvalidData, match="no state dict"):
        cm.load(tmp_path / "b.pt", factory=factory)
    torch.save(net(), tmp_path / "c.pt")
    with pytest.raises(UnknownArtefact, match=r"torch\.nn\.modules"):
        cm.load(tmp_path / "c.pt", factory=factory)
    save_file(state, tmp_path / "d")
    assert (cm.load(tmp_path / "d", factory=factory).source or {})["format"] == "safetensors"
    raw = (tmp_path / "d").read_bytes()
    (tmp_path / "e").write_bytes(raw[:-3])
    with pytest.raises(InvalidData, match="no sound safetensors"):
        cm.load(tmp_path / "e", factory=factory)


@pytest.mark.parametrize("form", ["json", "ubj"])
def test_xgboost_files(tmp_path: Path, form: str) -> None:
    xgboost = pytest.importorskip("xgboost")
    booster = xgboost.train({"objective": "binary:logistic", "nthread": 1}, xgboost.DMatrix(X, Y == "ill"), 3)
    path = tmp_path / "model"
    path.write_bytes(booster.save_raw(form))
    loaded = files.load_file(path)
    rows = xgboost.DMatrix(X)
    np.testing.assert_array_equal(loaded.model.predict(rows), booster.predict(rows))
    path.write_bytes(bytes(booster.save_raw(form))[:-40])
    with pytest.raises(InvalidData, match=r"no sound XGBoost|not read as a model"):
        files.load_file(path)


def test_lightgbm_text(tmp_path: Path) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    quiet = {"objective": "binary", "verbosity": -1, "num_threads": 1, "min_data_in_leaf": 1}
    booster = lightgbm.train(quiet, lightgbm.Dataset(X, Y == "ill"), 3)
    booster.save_model(tmp_path / "model")
    loaded = files.load_file(tmp_path / "model")
    np.testing.assert_array_equal(loaded.model.predict(X), booster.predict(X))


def test_what_is_no_model_says_what_is_read(tmp_path: Path) -> None:
    for raw in (b"a,b\n1,2\n", b'{"a": 1}', corpus.npy(pickle.dumps([1]))):
        (tmp_path / "x").write_bytes(raw)
        with pytest.raises(InvalidData, match="read are pickle and joblib"):
            cm.load(tmp_path / "x")
    out = io.BytesIO()
    np.savez(out, X)
    (tmp_path / "x").write_bytes(out.getvalue())
    with pytest.raises(InvalidData, match="read are pickle and joblib"):
        cm.load(tmp_path / "x")
    for name in ("no_such.pkl", "sub/none", "nothing"):
        with pytest.raises(InvalidData, match="does not exist"):
            cm.load(name)
    with pytest.raises(InvalidData, match=r"a folder without change\.json"):
        cm.load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidData, match="regular file"):
        cm.load(tmp_path / "pipe")
    (tmp_path / "d.pkl").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(InvalidData, match="cannot wrap dict"):
        cm.load(tmp_path / "d.pkl")


def test_functions_still_load_and_take_no_trust(factory: str) -> None:
    assert cm.load(factory).kind == "torch"
    with pytest.raises(InvalidData, match="are for files"):
        cm.load(factory, trust=["a.B"])


class Doubtful(LogisticRegression):
    """A user's own estimator."""


def test_trusted_names_stand_in_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, Doubtful.__module__, types.SimpleNamespace(Doubtful=Doubtful))  # type: ignore[arg-type]
    path, name = tmp_path / "m.pkl", f"{Doubtful.__module__}.Doubtful"
    path.write_bytes(pickle.dumps(Doubtful().fit(X, Y)))
    with pytest.raises(UnknownArtefact):
        cm.load(path)
    target = cm.load(path, trust=[name])
    assert (target.source or {})["trust"] == name
    assert f"trusted by name: {name}" in target.caveats
