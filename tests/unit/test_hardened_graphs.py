# SPDX-License-Identifier: Apache-2.0
"""Hardened Keras and ONNX models as folders: the same answers and refits again, and nothing that was to stay away."""

from __future__ import annotations

import io
import json
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import micro
import numpy as np
import pytest

import casemate as cm
from casemate.cli import run
from casemate.core.errors import InvalidData, MissingCapability
from casemate.core.types import REFIT
from casemate.hardened import folder as folders

pytest.importorskip("torch")
keras = pytest.importorskip("keras")
pytest.importorskip("onnxruntime")


@keras.saving.register_keras_serializable("casemate_tests_hardened")
class Subclassed(keras.Model):  # type: ignore[misc]  # keras has no types here
    """A model without symbolic inputs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.last = keras.layers.Dense(3, activation="softmax")
        self(np.zeros((1, 4)))

    def call(self, x: Any) -> Any:
        return self.last(x)


CASES = {
    ("keras_three", "rounding"): ["model.keras"],
    ("keras_three", "calibrate"): ["model.keras"],
    ("keras_three", "adversarial_training"): ["model.keras"],
    ("keras_inputs", "augment"): ["model.keras"],
    ("keras_images", "distil"): ["model.joblib", "teacher.keras"],
    ("onnx_three", "rounding"): ["model.onnx"],
    ("onnx_three", "distil"): ["model.joblib"],
}


@cache
def hardened(name: str, using: str) -> cm.Change:
    case = micro.case(name)
    return cm.harden(case.target, case.data, using=[using])


@pytest.fixture(scope="module", autouse=True)
def made() -> None:
    """Train and harden the models outside any test's time limit."""
    for name, using in CASES:
        hardened(name, using)


def written_over(path: Path, **changes: Any) -> None:
    """Change the bottom layer of a folder, its digest made right again."""
    said = json.loads((path / "change.json").read_text())
    said.pop("sha256")
    said["layers"][0].update(changes)
    (path / "change.json").write_text(json.dumps({**said, "sha256": folders.seal(said)}))


@pytest.mark.parametrize(("name", "using"), CASES)
def test_a_folder_is_the_same_target_again_and_so_are_its_refits(
    name: str, using: str, tmp_path: Path
) -> None:
    case, change = micro.case(name), hardened(name, using)
    path = cm.save(change, tmp_path / "safe")
    assert sorted(file.name for file in path.iterdir()) == ["change.json", *CASES[name, using]]
    (before, data), (after, _) = change.target.bind(case.data), cm.load(path).bind(case.data)
    assert after.digest() == before.digest() and after.classes == before.classes
    np.testing.assert_array_equal(after.scores(data.holdout.x), before.scores(data.holdout.x))
    assert after.has(REFIT) == (name != "onnx_three")
    if after.has(REFIT):
        one, other = (target.refit(data.train.x, data.train.y, 3) for target in (before, after))
        np.testing.assert_array_equal(one.scores(data.holdout.x), other.scores(data.holdout.x))


def test_a_regression_comes_back_with_its_own_training(tmp_path: Path) -> None:
    case = micro.case("keras_values")
    path = cm.save(cm.harden(case.target, case.data, using=["augment"]), tmp_path / "safe")
    layer = json.loads((path / "change.json").read_text())["layers"][0]
    assert layer["fit"][:3] == [12, 4, "column"] and layer["batch_size"] == 16 and layer["recipe"]["pieces"]
    target, data = cm.load(path).bind(case.data)
    assert target.task == "regression" and target.labels(data.holdout.x).std() > 0


def test_a_hardened_keras_model_is_audited_as_it_answers(tmp_path: Path) -> None:
    """Bound to data once more, it is compared with its own weights and not with those before."""
    case = micro.case("keras_three")
    change = hardened("keras_three", "adversarial_training")
    again = change.target.bind(case.data)[0]
    assert again.digest() == change.target.digest() != case.target.digest()
    path = cm.save(change, tmp_path / "safe")
    report = cm.audit(cm.load(path), case.data, methods=["loss_attack"], effort="quick")
    assert report["utility", "accuracy"].value == change.after[0].value


def test_the_optimisers_memory_and_the_teachers_weights_stay_away(tmp_path: Path) -> None:
    """Momenta of a training without a guarantee tell of its rows; so do the weights of a teacher."""
    h5py = pytest.importorskip("h5py")

    def stored(path: Path) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        with (
            zipfile.ZipFile(path) as archive,
            h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file,
        ):
            file.visititems(lambda at, item: found.update({at: item[()]} if hasattr(item, "shape") else {}))
        return found

    case = micro.case("keras_three")
    mine = [value for value in case.model.get_weights() if value.dtype.kind == "f" and value.size > 3]
    rounded = cm.save(hardened("keras_three", "rounding"), tmp_path / "one")
    found = stored(rounded / "model.keras")
    memory = {at: value for at, value in found.items() if at.startswith("optimizer") and value.size > 1}
    assert not any(value.any() for value in memory.values())
    assert sum(any(np.array_equal(own, value) for value in found.values()) for own in mine) == len(mine)
    distilled = cm.save(hardened("keras_images", "distil"), tmp_path / "two")
    teacher = stored(distilled / "teacher.keras")
    own = [value for value in micro.case("keras_images").model.get_weights() if value.ndim > 1]
    assert own and not any(np.array_equal(one, value) for one in own for value in teacher.values())


def test_an_onnx_teacher_cannot_be_trained_again_and_that_is_said(tmp_path: Path) -> None:
    case = micro.case("onnx_three")
    target = cm.load(cm.save(hardened("onnx_three", "distil"), tmp_path / "safe"))
    assert sum("its teacher is an ONNX model" in caveat for caveat in target.caveats) == 1
    bound, data = target.bind(case.data)
    with pytest.raises(MissingCapability):
        bound.refit(data.train.x, data.train.y, 0)


def test_what_no_folder_can_hold_is_said(tmp_path: Path) -> None:
    data = micro.case("forest").data
    with pytest.raises(InvalidData, match="a subclassed Keras model is code"):
        cm.save(cm.harden(Subclassed(), data, using=["rounding"]), tmp_path / "one")
    assert not any(tmp_path.iterdir())


TRAINING = "a training of a Keras model that none can be"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"fit": [0, 4, "index", ""]}, TRAINING),
        ({"fit": [3, -4, "index", ""]}, TRAINING),
        ({"fit": [3, 4, "nothing", ""]}, TRAINING),
        ({"fit": [3]}, "not as Casemate writes it"),
        ({"batch_size": -1}, "batch_size that is no whole number"),
        ({"outputs": "nonsense"}, "outputs that are none of a Keras model"),
        ({"file": "model.onnx"}, "that it does not list"),
        ({"caveats": [5]}, "caveats that are no list of sentences"),
        ({"caveats": "all is well"}, "caveats that are no list of sentences"),
        ({"task": "regression", "classes": [0, 1, 2]}, "classes|regression|outputs"),
    ],
)
def test_a_folder_that_lies_is_refused_in_one_line(changes: Any, told: str, tmp_path: Path) -> None:
    case = micro.case("keras_three")
    path = cm.save(hardened("keras_three", "rounding"), tmp_path / "safe")
    written_over(path, **changes)
    with pytest.raises(cm.CasemateError, match=told) as caught:
        cm.load(path).bind(case.data)[0].scores(case.rows)
    assert "\n" not in str(caught.value)


def test_a_file_called_config_makes_no_hugging_face_folder_of_it(tmp_path: Path) -> None:
    path = cm.save(hardened("keras_three", "rounding"), tmp_path / "safe")
    (path / "config.json").write_text("{}")
    assert "rounding" in (path / "change.json").read_text() and cm.load(path).kind == "keras"


def test_from_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    import pandas as pd

    monkeypatch.chdir(tmp_path)
    case = micro.case("onnx_three")
    Path("model.onnx").write_bytes(case.model)
    for name, part in (("train", case.data.train), ("holdout", case.data.holdout)):
        pd.DataFrame(part.x, columns=list("abcd")).assign(y=part.y).to_csv(f"{name}.csv", index=False)
    rows = ["--train", "train.csv", "--holdout", "holdout.csv", "--label", "y"]
    assert run(["harden", "model.onnx", *rows, "--using", "rounding", "--out", "safe"]) == 0
    assert run(["audit", "safe", *rows, "--methods", "loss_attack", "--out", "r.json"]) == 0
    assert "ONNX model" in capsys.readouterr().out
