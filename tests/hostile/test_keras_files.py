# SPDX-License-Identifier: Apache-2.0
"""Keras archives that would run code, read other files or fill the memory: named by the scan, refused by the loader."""

from __future__ import annotations

import builtins
import io
import json
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import casemate as cm
from casemate.core.errors import CasemateError, HostileArtefact
from casemate.core.pickles import kerasfile, scan

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")
h5py = pytest.importorskip("h5py")
layers = keras.layers


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    model = keras.Sequential(
        [
            layers.Input((6, 6, 1)),
            layers.Conv2D(2, 3, activation="relu", kernel_regularizer="l2"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.1),
            layers.Dense(2, activation="softmax"),
        ]
    )
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(),
        metrics=[keras.metrics.SparseCategoricalAccuracy()],
    )
    path = tmp_path_factory.mktemp("keras") / "m.keras"
    model.save(path)
    return path.read_bytes()


def members(raw: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(found: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, raw in found.items():
            archive.writestr(name, raw)
    return sink.getvalue()


def changed(raw: bytes, change: Callable[[Any], None]) -> bytes:
    """Return the archive with another configuration."""
    found = members(raw)
    config = json.loads(found["config.json"])
    change(config)
    return zipped({**found, "config.json": json.dumps(config).encode()})


def layer(**fields: Any) -> Callable[[Any], None]:
    return lambda config: config["config"]["layers"].append(fields)


def setting(**fields: Any) -> Callable[[Any], None]:
    return lambda config: config["config"]["layers"][-1]["config"].update(fields)


CONFIGS: dict[str, tuple[Callable[[Any], None], str]] = {
    "Lambda": (layer(module="keras.layers", class_name="Lambda", config={}), "compiled Python code"),
    "marshalled function": (
        setting(activation={"class_name": "__lambda__", "config": {"value": "4wAA"}}),
        "compiled Python code",
    ),
    "function of another module": (
        setting(activation={"module": "os", "class_name": "function", "config": "system"}),
        "os.system",
    ),
    "class of another module": (
        layer(module="subprocess", class_name="Popen", config={"args": "id"}),
        "Popen",
    ),
    "function as a class": (layer(module="builtins", class_name="eval", config={}), "builtins.eval"),
    "helper of Keras": (
        layer(module="keras.utils", class_name="get_file", config={}),
        "no model is built of",
    ),
    "switch of safe mode": (
        layer(module="keras.config", class_name="enable_unsafe_deserialization", config={}),
        "no model is built of",
    ),
    "module of Keras's own by its inner name": (
        layer(module="keras.src.saving.serialization_lib", class_name="SafeModeScope", config={}),
        "no model is built of",
    ),
    "function in a module of operators": (
        layer(module="keras.src.ops.numpy", class_name="load_backend", config={}),
        "no class",
    ),
    "vocabulary from a path": (
        layer(module="keras.layers", class_name="StringLookup", config={"vocabulary": "/etc/passwd"}),
        "setting vocabulary",
    ),
    "pickle of torch": (
        layer(module="keras.layers", class_name="TorchModuleWrapper", config={}),
        "a pickle of its own",
    ),
    "program at a path": (
        layer(module="keras.layers", class_name="TFSMLayer", config={"filepath": "/x"}),
        "a program from a path",
    ),
    "class of the user": (
        layer(module=None, class_name="Mine", registered_name="pkg>Mine"),
        "the user's own",
    ),
    "class registered under another name": (
        layer(module="keras.layers", class_name="Dense", registered_name="pkg>Dense"),
        "no class",
    ),
    "no text as a class": (layer(module="keras.layers", class_name=["Dense"]), "no text"),
    "deep inside": (
        setting(kernel_initializer={"a": [[{"b": {"module": "posix", "class_name": "system"}}]]}),
        "posix.system",
    ),
    "compile configuration": (
        lambda config: config["compile_config"].update(
            loss={"module": "builtins", "class_name": "function", "config": "exec"}
        ),
        "builtins.exec",
    ),
}


def test_an_honest_archive_is_clean_and_loads(honest: bytes, tmp_path: Path) -> None:
    assert scan(honest).verdict == "clean"
    (tmp_path / "m.keras").write_bytes(honest)
    assert cm.load(tmp_path / "m.keras").kind == "keras"


@pytest.mark.parametrize("name", CONFIGS)
def test_what_its_configuration_names(honest: bytes, tmp_path: Path, name: str) -> None:
    change, told = CONFIGS[name]
    raw = changed(honest, change)
    found = scan(raw)
    assert found.verdict in ("hostile", "unknown", "malformed")
    assert told in " ".join(f"{item.what} {item.why}" for item in found.findings)
    (tmp_path / "m.keras").write_bytes(raw)
    with pytest.raises(CasemateError, match=r"m\.keras"):
        cm.load(tmp_path / "m.keras")


def weights(change: Callable[[Any, Path], None], folder: Path) -> bytes:
    path = folder / "w.h5"
    with h5py.File(path, "w") as file:
        file["a"] = np.zeros(3)
        change(file, folder)
    return path.read_bytes()


def external_link(file: Any, folder: Path) -> None:
    file["away"] = h5py.ExternalLink(str(folder / "secret.h5"), "/a")


def external_data(file: Any, folder: Path) -> None:
    (folder / "secret.bin").write_bytes(b"\0" * 24)
    file.create_dataset("d", (3,), "f8", external=[(str(folder / "secret.bin"), 0, 24)])


def virtual(file: Any, folder: Path) -> None:
    layout = h5py.VirtualLayout(shape=(3,), dtype="f8")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "a", shape=(3,))
    file.create_virtual_dataset("v", layout)


def soft_link(file: Any, folder: Path) -> None:
    file["s"] = h5py.SoftLink("/a")


def bomb(file: Any, folder: Path) -> None:
    file.create_dataset("z", (1 << 34,), "f8", chunks=(1 << 20,), compression="gzip")


@pytest.mark.parametrize(
    ("change", "told", "level"),
    [
        (external_link, "leads to the file", "hostile"),
        (external_data, "read from another file", "hostile"),
        (virtual, "read from another file", "hostile"),
        (soft_link, "soft link", "unknown"),
        (bomb, "unpack to", "hostile"),
    ],
)
def test_weights_that_lead_out_of_the_file(
    honest: bytes, tmp_path: Path, change: Callable[[Any, Path], None], told: str, level: str
) -> None:
    raw = zipped({**members(honest), "model.weights.h5": weights(change, tmp_path)})
    found = scan(raw)
    assert found.verdict == level
    assert told in " ".join(item.why for item in found.findings)
    (tmp_path / "m.keras").write_bytes(raw)
    with pytest.raises(HostileArtefact):
        cm.load(tmp_path / "m.keras")


def test_groups_that_hold_themselves_end(honest: bytes, tmp_path: Path) -> None:
    def loop(file: Any, folder: Path) -> None:
        file.create_group("g")["again"] = file["/"]

    start = time.process_time()
    assert scan(zipped({**members(honest), "model.weights.h5": weights(loop, tmp_path)})).verdict == "clean"
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("name", "raw", "told"),
    [
        ("config.json", b"{", "no sound JSON"),
        ("config.json", b"[1]", "no JSON object"),
        ("config.json", b'{"module": "keras", "module": "os", "class_name": "system"}', "a key stands twice"),
        ("config.json", b'{"keras":' * 50_000 + b"1" + b"}" * 50_000, "no sound JSON"),
        ("model.weights.h5", b"\x89HDF\r\n\x1a\n" + b"\0" * 64, "cannot be read"),
        ("model.weights.h5", b"", "cannot be read"),
        ("assets/vocabulary.txt", b"a\nb", "none of a Keras model's three files"),
    ],
)
def test_archives_that_are_broken(honest: bytes, tmp_path: Path, name: str, raw: bytes, told: str) -> None:
    made = zipped({**members(honest), name: raw})
    found = scan(made)
    assert found.verdict != "clean"
    assert told in " ".join(item.why for item in found.findings)
    (tmp_path / "m.keras").write_bytes(made)
    with pytest.raises(CasemateError):
        cm.load(tmp_path / "m.keras")


def test_a_member_that_stands_twice_is_looked_at_twice(honest: bytes) -> None:
    sink = io.BytesIO(honest)
    with zipfile.ZipFile(sink, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("config.json", b'{"module": "os", "class_name": "system"}')
    assert scan(sink.getvalue()).verdict != "clean"


def test_functions_that_keras_files_under_builtins(tmp_path: Path) -> None:
    model = keras.Sequential([layers.Input((2,)), layers.Dense(1, activation="leaky_relu")])
    model.compile(loss=keras.losses.mean_absolute_error, metrics=[keras.metrics.mean_squared_error])
    model.save(tmp_path / "m.keras")
    assert cm.load(tmp_path / "m.keras").kind == "keras"
    assert not kerasfile._OWN & set(dir(builtins))


LAMBDA = json.dumps({"module": "keras.layers", "class_name": "Lambda", "config": {}}).encode()


@pytest.mark.parametrize(
    "found",
    [
        {"config.json": LAMBDA.replace(b"keras", b"\\u006beras")},
        {"config.json": b" " * 5000 + LAMBDA},
        {"config.json": LAMBDA.decode().encode("utf-16")},
        {"config.json": b'{"a": [{"class_name": "function", "module": "os", "config": "system"}]}'},
        {
            "config.json": LAMBDA.replace(b"keras", b"\\u006beras"),
            "model.weights.npz": b"PK\5\6" + b"\0" * 18,
        },
        {"config.json\0": LAMBDA, "model.weights.npz": b"1"},
    ],
)
def test_one_that_does_not_look_like_keras(found: dict[str, bytes]) -> None:
    """Keras builds what the configuration says before it looks for weights."""
    raw = zipped({name.replace("\0", "~"): inner for name, inner in found.items()})
    assert scan(raw.replace(b"config.json~", b"config.json\0")).verdict in ("hostile", "malformed")


def test_metadata_that_could_be_read_as_the_configuration(honest: bytes) -> None:
    assert scan(zipped({**members(honest), "metadata.json": LAMBDA})).verdict == "hostile"


def test_a_zip_with_a_configuration_of_something_else_is_no_keras_archive() -> None:
    assert scan(zipped({"config.json": b'{"model_type": "bert"}'})).formats == ("zip", "JSON")


def test_weights_of_other_layers_get_one_clear_error(honest: bytes, tmp_path: Path) -> None:
    found = members(honest)
    found["model.weights.h5"] = weights(lambda file, folder: file.update(b=np.zeros(999)), tmp_path)
    (tmp_path / "m.keras").write_bytes(zipped(found))
    with pytest.raises(CasemateError, match="cannot be built here"):
        cm.load(tmp_path / "m.keras")


def test_a_model_larger_than_its_file_takes_no_memory(honest: bytes, tmp_path: Path) -> None:
    raw = changed(honest, setting(units=2**36))
    assert scan(raw).verdict == "clean"  # sizes are judged where the model is built, without memory
    (tmp_path / "m.keras").write_bytes(raw)
    with pytest.raises(CasemateError, match=r"numbers and holds .*made to fill the memory"):
        cm.load(tmp_path / "m.keras")
