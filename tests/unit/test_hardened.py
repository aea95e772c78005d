# SPDX-License-Identifier: Apache-2.0
"""A hardened model as a folder: the same target again, and what a folder that lies or is damaged comes to."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import pickle
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import micro
import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

import casemate as cm
from casemate.adapters.files import written
from casemate.core.errors import (
    CasemateError,
    GuaranteeVoid,
    HostileArtefact,
    InvalidData,
    TamperedArtefact,
    UnknownArtefact,
)
from casemate.core.limited import Wrapper
from casemate.core.types import MODULE, REFIT, SCORES, Recipe, Target
from casemate.hardened import folder as folders
from casemate.hardened.values import Unwritable, plain, restored
from casemate.privacy.plan import Plan

torch = pytest.importorskip("torch")
from casemate.training import journal, loop  # noqa: E402  # after the guard
from casemate.training.pieces import TrainingPieces  # noqa: E402

X = micro.numbers(240, 0) / np.array([1.0, 10.0, 0.1, 3.0])
Y = (X[:, 0] + 0.5 * np.random.default_rng(1).normal(size=240) > 0) * 1
DATA = cm.Dataset(train=(X[:120], Y[:120]), holdout=(X[120:], Y[120:]))
IMAGES = np.random.default_rng(2).random((80, 1, 6, 6))
SHOWN = (IMAGES.mean((1, 2, 3)) > 0.5) * 1
PICTURES = cm.Dataset(train=(IMAGES[:50], SHOWN[:50]), holdout=(IMAGES[50:], SHOWN[50:]))
PLAN = Plan(unit="record", clip=1.0, noise_multiplier=9.0, steps=4, delta=1e-5)
BOUNDS = (-6.0, 6.0)


def net() -> Any:
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))


class Centred(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
    """Has its own way to hold what the recipe puts in front."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inside = model

    def forward(self, x: Any) -> Any:
        return self.inside(x)


PLAINLY = Recipe(factory=net, epochs=3, optimiser="adam", learning_rate=0.01)
FRONTED = replace(PLAINLY, preprocessing=loop.standardise)
FLAT = Recipe(factory=micro.image_net, epochs=1)


def deep() -> Target:
    return cm.wrap(loop.fit(PLAINLY, X[:120], Y[:120], seed=0), recipe=PLAINLY)


def fronted() -> Target:
    return cm.wrap(Centred(loop.fit(FRONTED, X[:120], Y[:120], seed=0)).eval(), recipe=FRONTED)


def pictures() -> Target:
    return cm.wrap(loop.fit(FLAT, IMAGES[:50], SHOWN[:50], seed=0), recipe=FLAT, outputs="logits")


def bare() -> Any:
    return net()


def forest() -> Target:
    return cm.wrap(RandomForestClassifier(10, random_state=0).fit(X[:120], Y[:120]))


def boosted() -> Target:
    from xgboost import XGBClassifier

    return cm.wrap(XGBClassifier(n_estimators=5, n_jobs=1).fit(X[:120], Y[:120]))


def booster() -> Target:
    import lightgbm

    settings = {"objective": "binary", "verbosity": -1, "num_threads": 1}
    return cm.wrap(lightgbm.train(settings, lightgbm.Dataset(X[:120], Y[:120]), 5))


def xgb_booster() -> Target:
    import xgboost

    settings = {"objective": "binary:logistic", "nthread": 1}
    return cm.wrap(xgboost.train(settings, xgboost.DMatrix(X[:120], Y[:120]), 5))


@pytest.fixture(scope="module", autouse=True)
def first_optimiser() -> None:
    """What torch imports with its first optimiser takes seconds, which no test here should pay for."""
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])


@pytest.fixture(autouse=True)
def nets(monkeypatch: pytest.MonkeyPatch) -> None:
    made: Any = types.SimpleNamespace(
        deep=deep,
        fronted=fronted,
        pictures=pictures,
        bare=bare,
        forest=forest,
        other=lambda: torch.nn.Linear(4, 3),
    )
    monkeypatch.setitem(sys.modules, "hospital_nets", made)


def loaded(path: Path, data: cm.Dataset = DATA, factory: str | None = None) -> tuple[Target, cm.Dataset]:
    """Read a folder as an audit does: trained where it must be, and bound."""
    return cm.load(path, factory=factory and f"hospital_nets:{factory}").trained(data, 0).bind(data)


def behind(target: Target) -> Target:
    while isinstance(target, Wrapper):
        target = target.base
    return target


CASES: dict[str, tuple[Callable[[], Target], list[Any], str | None, cm.Dataset]] = {
    "forest": (forest, [cm.method("limit_leaves", n=10)], None, DATA),
    "xgboost": (boosted, [cm.method("limit_leaves", n=5)], None, DATA),
    "rounding": (forest, ["rounding"], None, DATA),
    "temperature": (forest, ["calibrate"], None, DATA),
    "isotonic": (forest, [cm.method("calibrate", how="isotonic", share=0.3)], None, DATA),
    "booster": (booster, [cm.method("calibrate", how="platt"), "rounding"], None, DATA),
    "xgboost booster": (xgb_booster, ["distil", "rounding"], None, DATA),
    "tree": (forest, ["distil"], None, DATA),
    "network": (forest, [cm.method("distil", student="network", temperature=2.0), "rounding"], None, DATA),
    "boosting": (booster, [cm.method("distil", student="boosting", leaf=5)], None, DATA),
    "adversarial": (deep, [cm.method("adversarial_training", radius=0.1), "calibrate"], "deep", DATA),
    "augment": (fronted, [cm.method("augment", noise=0.1)], "fronted", DATA),
    "images": (pictures, [cm.method("augment", flip="horizontal")], "pictures", PICTURES),
    "standing": (deep, [cm.method("distil", student="network", depth=2), "calibrate"], "deep", DATA),
    "front": (fronted, ["rounding"], "fronted", DATA),
    "three": (forest, ["limit_leaves", "calibrate", "rounding"], None, DATA),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_folder_is_the_same_target_again_and_so_are_its_refits(name: str, tmp_path: Path) -> None:
    make, using, factory, data = CASES[name]
    before = np.random.get_state()[1].tobytes()  # type: ignore[union-attr]
    change = cm.harden(make(), data, using=using)
    path = cm.save(change, tmp_path / "safe", model="mine:model")
    target, coded = loaded(path, data, factory)
    rows = coded.holdout.x
    assert np.array_equal(target.scores(rows), change.target.scores(rows))
    assert np.array_equal(target.labels(rows), change.target.labels(rows))
    assert target.capabilities == change.target.capabilities and REFIT in target.capabilities
    assert target.digest() == change.target.digest()
    x, y = coded.train.x[::2], coded.train.y[::2]
    again, was = (one.refit(x, y, 5) for one in (target, change.target))
    assert np.array_equal(again.scores(rows), was.scores(rows)), "refits are hardened in the same way"
    assert not np.array_equal(again.scores(rows), target.scores(rows)), "refits do train"
    assert path.stat().st_mode & 0o777 == 0o700 and list(tmp_path.iterdir()) == [path]
    assert np.random.get_state()[1].tobytes() == before  # type: ignore[union-attr]


def test_a_private_model_comes_back_with_its_plan_and_trains_by_it(tmp_path: Path) -> None:
    owners = np.repeat(np.arange(60), 2)
    people = cm.Dataset(train=(X[:120], Y[:120], owners), holdout=(X[120:], Y[120:], owners + 1000))
    change = cm.harden(
        forest(), people, using=[cm.method("dp_logistic", epsilon=3, bounds=BOUNDS), "rounding"]
    )
    target, coded = loaded(cm.save(change, tmp_path / "safe"), people)
    assert np.array_equal(target.scores(coded.holdout.x), change.target.scores(coded.holdout.x))
    (plan,) = target.claims
    assert isinstance(plan, Plan) and plan == change.target.claims[0] and plan.unit == "person"
    train = coded.train
    again = behind(target.refit_people(train.x, train.y, 1, person=train.person))
    assert again.model.plan == plan, "shadows are noisy too"  # type: ignore[attr-defined]
    with pytest.raises(GuaranteeVoid, match="reference"):
        cm.harden(cm.load(tmp_path / "safe"), people, using=["calibrate"])


def test_the_recipe_of_a_torch_model_is_the_hardened_one(tmp_path: Path) -> None:
    change = cm.harden(deep(), DATA, using=[cm.method("adversarial_training", radius=0.1)])
    target, _ = loaded(cm.save(change, tmp_path / "safe"), DATA, "deep")
    was, now = change.target.recipe, target.recipe
    assert now is not None and now == was and now.pieces.transform.radius == pytest.approx(0.1)


def test_a_private_network_comes_back_with_its_plan_and_trains_by_it(tmp_path: Path) -> None:
    whole = cm.method(
        "dp_sgd", epsilon=3, delta=1e-4, settings={"batch_size": 128}
    )  # accounted for in closed form
    change = cm.harden(deep(), DATA, using=[whole])
    target, coded = loaded(cm.save(change, tmp_path / "safe"), DATA, "deep")
    assert np.array_equal(target.scores(coded.holdout.x), change.target.scores(coded.holdout.x))
    assert target.claims == change.target.claims and target.recipe == change.target.recipe
    assert target.recipe is not None and target.recipe.pieces.claims == target.claims
    told = cm.audit(target, DATA, methods=[cm.method("lira", n_shadows=4)], effort="quick")
    assert told["lira", "auc"].status == "measured"


def test_torch_weights_need_the_function_and_say_so(tmp_path: Path) -> None:
    path = cm.save(cm.harden(deep(), DATA, using=["rounding"]), tmp_path / "safe")
    with pytest.raises(InvalidData, match=r"pass factory= \(--factory"):
        cm.load(path)
    with pytest.raises(InvalidData, match="does not fit the module"):
        cm.load(path, factory="hospital_nets:other")
    with pytest.raises(InvalidData, match="returned no torch model"):
        cm.load(path, factory="hospital_nets:forest")


def test_without_the_recipe_there_are_no_refits_rather_than_plain_ones(tmp_path: Path) -> None:
    path = cm.save(cm.harden(deep(), DATA, using=["rounding"]), tmp_path / "a")
    target, _ = loaded(path, DATA, "bare")
    assert SCORES in target.capabilities and REFIT not in target.capabilities
    (caveat,) = target.caveats
    assert (
        caveat.startswith("refits and shadow models") and "bare returns a module without its Recipe" in caveat
    )
    path = cm.save(cm.harden(deep(), DATA, using=["distil"]), tmp_path / "b")
    student, coded = loaded(path)
    assert REFIT not in student.capabilities and "its teacher is a torch model" in student.caveats[0]
    assert np.array_equal(
        student.scores(coded.holdout.x), loaded(path, DATA, "deep")[0].scores(coded.holdout.x)
    )


def test_public_rows_are_not_kept_and_what_that_costs_is_said(tmp_path: Path) -> None:
    rows = cm.Dataset(train=(X[:80], Y[:80]), holdout=(X[120:], Y[120:]), reference=(X[80:120], Y[80:120]))
    change = cm.harden(forest(), rows, using=[cm.method("distil", leaf=5)])
    path = cm.save(change, tmp_path / "safe")
    assert sorted(part.name for part in path.iterdir()) == ["change.json", "model.joblib"], "no teacher"
    target, coded = loaded(path, rows)
    assert np.array_equal(target.scores(coded.holdout.x), change.target.scores(coded.holdout.x))
    assert REFIT not in target.capabilities and "public rows" in target.caveats[0]
    calibrated = cm.save(cm.harden(forest(), rows, using=["calibrate"]), tmp_path / "map")
    assert REFIT in loaded(calibrated, rows)[0].capabilities, "the map is given; refits go behind it"
    held = {f"{value:.6g}" for value in X.ravel()}
    for folder in (path, calibrated):
        assert not [
            part for part in json.loads((folder / "change.json").read_text())["layers"] if held & _texts(part)
        ]


def _texts(value: Any) -> set[str]:
    """Every number in a value, arrays unpacked."""
    if isinstance(value, dict):
        if value.get("!") == "array":
            return {f"{number:.6g}" for number in np.ravel(restored(value)) if number != round(float(number))}
        return set().union(*map(_texts, value.values()))
    if isinstance(value, list):
        return set().union(*map(_texts, value))
    return {f"{value:.6g}"} if isinstance(value, float) else set()


def test_the_teacher_of_a_student_is_kept_as_settings_alone(tmp_path: Path) -> None:
    path = cm.save(cm.harden(forest(), DATA, using=["distil"]), tmp_path / "safe")
    from casemate.adapters.files import load_file

    teacher = load_file(path / "recipe.joblib").model
    assert isinstance(teacher, RandomForestClassifier) and not hasattr(teacher, "estimators_")
    assert "settings alone" in cm.load(path).caveats[0]
    read = restored(json.loads((path / "change.json").read_text())["layers"][1]["read"])
    assert {(column.low, column.high, column.spread) for column in read.columns} == {
        (-math.inf, math.inf, 1.0)
    }


def test_a_student_reads_categories_that_are_numbered_otherwise(tmp_path: Path) -> None:
    case = micro.case("pipeline")
    change = cm.harden(case.target, case.data, using=[cm.method("distil", leaf=3)])
    path = cm.save(change, tmp_path / "safe")
    tables = [micro.people(60, seed) for seed in (5, 6)]
    for table in tables:
        table["town"] = [{"Bern": "Zug", "Zug": "Genf"}.get(str(town), town) for town in table["town"]]
    parts = [(micro.frame(table, "pandas"), micro.ill(table)) for table in tables]
    data = cm.Dataset(train=parts[0], holdout=parts[1])
    towns = [column.categories for column in data.schema.columns if column.name == "town"]
    assert towns == [("Genf", "Zug")], "one name less, so the others have other numbers"
    target, coded = cm.load(path).trained(data, 0).bind(data)
    was, _ = change.target.bind(data)
    assert np.array_equal(target.scores(coded.holdout.x), was.scores(coded.holdout.x))
    assert len(np.unique(target.scores(coded.holdout.x))) > 2


def test_labels_and_numbers_of_xgboost_come_back(tmp_path: Path) -> None:
    from xgboost import XGBClassifier

    words = np.array(["well", "ill"])  # not in the order of the alphabet
    data = cm.Dataset(train=(X[:120], words[Y[:120]]), holdout=(X[120:], words[Y[120:]]))
    model = cm.wrap(XGBClassifier(n_estimators=3, n_jobs=1).fit(X[:120], Y[:120]), classes=["well", "ill"])
    change = cm.harden(model, data, using=[cm.method("limit_leaves", n=5)])
    target, coded = loaded(cm.save(change, tmp_path / "safe"), data)
    assert target.classes == ("well", "ill")
    assert np.array_equal(target.scores(coded.holdout.x), change.target.scores(coded.holdout.x))


def test_hardened_again_from_its_folder(tmp_path: Path) -> None:
    first = cm.save(cm.harden(fronted(), DATA, using=[cm.method("augment", noise=0.1)]), tmp_path / "one")
    again = cm.harden(cm.load(first, factory="hospital_nets:fronted"), DATA, using=["rounding"])
    second = cm.save(again, tmp_path / "two")
    target, coded = loaded(second, DATA, "fronted")
    assert np.array_equal(target.scores(coded.holdout.x), again.target.scores(coded.holdout.x))
    recipe = behind(target).recipe
    assert recipe is not None and recipe.pieces.transform is not None, "what it was hardened with stays"
    assert json.loads((second / "change.json").read_text())["model"]["name"] == str(
        first / "model.safetensors"
    )


def test_what_could_not_be_had_stays_said_when_it_is_hardened_again(tmp_path: Path) -> None:
    adversarial = cm.harden(deep(), DATA, using=[cm.method("adversarial_training", radius=0.1)])
    first = cm.save(adversarial, tmp_path / "a")
    bare_one = cm.load(first, factory="hospital_nets:bare")
    again = cm.save(cm.harden(bare_one, DATA, using=["rounding"]), tmp_path / "b")
    target = cm.load(again, factory="hospital_nets:deep")
    assert REFIT not in target.capabilities and "are not offered" in target.caveats[0]
    public = cm.Dataset(train=(X[:80], Y[:80]), holdout=(X[120:], Y[120:]), reference=(X[80:120], Y[80:120]))
    for make, data, told in ((forest, public, "public rows"), (deep, DATA, "its teacher is a torch model")):
        one = cm.save(cm.harden(make(), data, using=["distil"]), tmp_path / f"{make.__name__} 1")
        change = cm.harden(cm.load(one), data, using=["rounding"])
        student, coded = loaded(cm.save(change, tmp_path / f"{make.__name__} 2"), data)
        assert np.array_equal(student.scores(coded.holdout.x), change.target.scores(coded.holdout.x))
        assert len(student.caveats) == 1 and told in student.caveats[0]


def test_what_change_json_says(tmp_path: Path) -> None:
    change = cm.harden(forest(), DATA, using=[cm.method("dp_logistic", epsilon=3, bounds=BOUNDS)], seed=4)
    said = json.loads((cm.save(change, tmp_path / "safe", model="mine:forest") / "change.json").read_text())
    assert said["schema"] == "casemate-change/1" and said["seed"] == 4 and said["version"] == cm.__version__
    assert said["model"] == {
        "name": "mine:forest",
        "kind": "scikit-learn",
        "digest": forest().digest(),
        "sha256": None,
    }
    (used,) = said["using"]
    assert (
        used["name"] == "dp_logistic"
        and used["params"]["epsilon"] == 3
        and used["params"]["bounds"] == list(BOUNDS)
    )
    assert said["claims"][0]["epsilon"] == change.target.claims[0].epsilon <= 3
    assert [row["quantity"] for row in said["utility"]["before"]] == [row.quantity for row in change.before]
    assert said["utility"]["after"][0]["value"] == change.after[0].value
    assert str(tmp_path) not in json.dumps(said), "no path but MODEL as it was given"
    assert set(said["files"]) == {"model.joblib"}


# ---- folders that lie ----


@pytest.fixture
def private(tmp_path: Path) -> Path:
    change = cm.harden(forest(), DATA, using=[cm.method("dp_logistic", epsilon=3, bounds=BOUNDS)])
    return cm.save(change, tmp_path / "safe")


def rewritten(path: Path, change: Callable[[dict[str, Any]], object], *, sealed: bool = True) -> None:
    """Change change.json as somebody would who knows how its digest is made, or does not."""
    file = path / "change.json"
    said = json.loads(file.read_text())
    change(said)
    if sealed:
        said.pop("sha256")
        said["sha256"] = folders.seal(said)
    file.write_text(json.dumps(said))


def test_another_model_file_is_refused(private: Path) -> None:
    file = private / "model.joblib"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(TamperedArtefact, match=r"model\.joblib is not the file that change\.json lists"):
        cm.load(private)


class Boom:
    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def test_a_malicious_model_file_is_refused_even_if_its_digest_is_right(
    private: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    raw = pickle.dumps(Boom())
    (private / "model.joblib").write_bytes(raw)
    with pytest.raises(TamperedArtefact):
        cm.load(private)
    digest = {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)}
    rewritten(private, lambda said: said["files"].update({"model.joblib": digest}))
    with pytest.raises(HostileArtefact, match="hostile"):
        cm.load(private)
    assert not (tmp_path / "ran").exists()


def test_a_change_json_that_was_edited_is_refused(private: Path) -> None:
    rewritten(private, lambda said: said.update(seed=1), sealed=False)
    with pytest.raises(TamperedArtefact, match="changed after it was written"):
        cm.load(private)


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b"{}", b"[]", b'{"schema": "other/1"}']
)
def test_a_change_json_that_is_none_is_refused_in_one_line(raw: bytes, private: Path) -> None:
    (private / "change.json").write_bytes(raw)
    with pytest.raises((TamperedArtefact, InvalidData)) as told:
        cm.load(private)
    assert "change.json" in str(told.value) and "\n" not in str(told.value)


def _smaller(said: dict[str, Any]) -> None:
    said["layers"][0]["claims"][0]["value"]["epsilon"] = 0.1


def _other_plan(said: dict[str, Any]) -> None:
    said["layers"][0]["claims"] = plain((replace(PLAN, noise_multiplier=500.0),))


def _endless(said: dict[str, Any]) -> None:
    said["layers"][0]["claims"][0]["value"].update(steps=10**15)


def _digits(said: dict[str, Any]) -> None:
    said["layers"].append({"layer": "rounded", "digits": 10**9, "claims": True})


def _noisier(said: dict[str, Any]) -> None:
    value = said["layers"][0]["claims"][0]["value"]
    value.update(noise_multiplier=1e3, epsilon=0.01)


LIES: dict[str, tuple[Callable[[dict[str, Any]], object], type[CasemateError], str]] = {
    "a smaller epsilon": (_smaller, GuaranteeVoid, "states epsilon 0.1 but costs"),
    "another plan": (_other_plan, TamperedArtefact, "trains by no such plan"),
    "more noise than there was": (_noisier, CasemateError, "plan"),
    "a newer version": (lambda said: said.update(schema="casemate-change/2"), InvalidData, "update Casemate"),
    "a layer nobody knows": (lambda said: said["layers"][0].update(layer="new"), InvalidData, "newer Casemate"),
    "a front nobody knows": (lambda said: said["layers"].append({"layer": "x", "claims": True}), InvalidData, "newer"),
    "no layers": (lambda said: said.update(layers=[]), InvalidData, "no layers"),
    "layers of text": (lambda said: said.update(layers=["x"]), InvalidData, "no layers"),
    "no files": (lambda said: said.pop("files"), TamperedArtefact, "does not list"),
    "a file elsewhere": (lambda said: said["layers"][0].update(file="../x.joblib"), TamperedArtefact, "does not list"),
    "no claims": (lambda said: said["layers"][0].pop("claims"), InvalidData, "not as Casemate writes it"),
    "more steps than memory": (_endless, InvalidData, "promises nothing"),
    "digits without end": (_digits, InvalidData, "0 to 12"),
    "a layer that is no name": (lambda said: said["layers"][0].update(layer=[]), InvalidData, "newer"),
    "a task nobody knows": (lambda said: said["layers"][0].update(task="x"), InvalidData, "a task 'x'"),
    "classes that are none": (lambda said: said["layers"][0].update(classes=[{}, 1]), InvalidData, "no list of labels"),
    "a plan of text": (lambda said: said["layers"][0].update(claims=["epsilon 0.1"]), TamperedArtefact, "no such plan"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_a_folder_that_lies_is_refused_though_its_digest_is_right(name: str, private: Path) -> None:
    lie, error, told = LIES[name]
    rewritten(private, lie)
    with pytest.raises(error, match=told):
        cm.load(private)


def _stated(said: dict[str, Any], plan: Plan = PLAN) -> None:
    said["layers"][0]["claims"] = plain((plan,))


def test_a_plan_among_the_settings_of_another_model_is_no_training_by_it(tmp_path: Path) -> None:
    path = cm.save(cm.harden(forest(), DATA, using=["limit_leaves"]), tmp_path / "safe")
    model = forest().model  # type: ignore[attr-defined]
    model.random_state = PLAN  # a setting that refits replace, so that they would work
    (path / "model.joblib").write_bytes(written(model)[1])
    digest = {"sha256": hashlib.sha256((path / "model.joblib").read_bytes()).hexdigest(), "bytes": 0}
    rewritten(path, lambda said: (_stated(said), said["files"].update({"model.joblib": digest})))
    with pytest.raises(TamperedArtefact, match="trains by no such plan"):
        cm.load(path)


def test_a_torch_recipe_that_names_a_plan_but_adds_no_noise_is_refused(tmp_path: Path) -> None:
    path = cm.save(
        cm.harden(deep(), DATA, using=[cm.method("adversarial_training", radius=0.1)]), tmp_path / "safe"
    )
    pieces = ("recipe", "pieces", "value", "claims")
    rewritten(path, lambda said: (_stated(said), _put(said, plain((PLAN,)), 0, *pieces)))
    with pytest.raises(TamperedArtefact, match="trains by no such plan"):
        cm.load(path, factory="hospital_nets:deep")


def test_a_plan_that_nothing_here_can_be_compared_with_is_said_to_be_that(tmp_path: Path) -> None:
    path = cm.save(cm.harden(deep(), DATA, using=["rounding"]), tmp_path / "safe")
    rewritten(path, lambda said: (_stated(said), _put(said, None, 0, "recipe")))
    target = cm.load(path, factory="hospital_nets:deep")
    assert target.claims == (PLAN,) and "is not here to compare" in target.caveats[0]
    rewritten(path, lambda said: _put(said, ["epsilon 0.1"], 0, "claims"))
    with pytest.raises(TamperedArtefact, match="no such plan"):
        cm.load(path, factory="hospital_nets:deep")


def _put(said: dict[str, Any], value: Any, *path: Any) -> None:
    inner: Any = said["layers"]
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value


DEEP: list[Any] = []
for _ in range(400):
    DEEP = [DEEP]
NOTE = {"!": "casemate.core.types.Note", "value": {"text": "a"}}
PLACES = [
    (1, "read"), (1, "columns"), (1, "columns", "value", "centre"), (1, "power"), (1, "student"), (2, "map"),
    (1, "columns", "value", "numbers"), (2, "calibrator"), (2, "map", "value", "parts"), (0, "task"), (0, "file"),
]  # fmt: skip


@pytest.mark.parametrize("value", [None, "x", -1, [], DEEP, NOTE], ids=lambda value: str(value)[:5])
def test_values_that_do_not_fit_are_refused_when_the_folder_is_read(value: Any, tmp_path: Path) -> None:
    path = cm.save(
        cm.harden(forest(), DATA, using=[cm.method("distil", depth=2), "calibrate"]), tmp_path / "safe"
    )
    text, refused = (path / "change.json").read_text(), 0
    for place in PLACES:
        (path / "change.json").write_text(text)
        rewritten(path, lambda said, place=place: _put(said, value, *place))  # type: ignore[misc]
        try:
            cm.load(path).labels(X)
        except CasemateError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused >= 8, "some may stand where a text or nothing may"


HOSTILE_VALUES = [
    {"!": "os.system", "value": {}},
    {"!": "casemate.cli.run", "value": {}},
    {"!": "casemate.core.limited.Limited", "value": {"base": None, "allowed": []}},
    {"!": "casemate.adapters.torch.TorchTarget", "value": {"model": 1}},
    {"!": "casemate.core.types.os", "value": {}},
    {"!": "casemate.training.journal.Path", "value": {}},
    {"!": "function", "value": "os.system"},
    {"!": "function", "value": "casemate.core.pickles.load_pickle.__globals__"},
    {"!": "function", "value": "casemate.training.secure.insecure_test_source"},
    {"!": "function", "value": ["casemate.training.secure.source"]},
    {"!": "casemate.no_such.Thing", "value": {}},
    {"!": "casemate.privacy.nothing.Thing", "value": {}},
    {"!": "casemate.core.types.Recipe", "value": {"factory": 3}},
    {"!": "casemate.core.types.Note", "value": {"text": "a", "more": 1}},
    {"!": "casemate.core.types.Note", "value": 3},
    {"!": "casemate.core.types.Note"},
    {"!": ["x"], "value": {}},
    {"!": "array", "dtype": "O", "shape": [1], "base64": "AAAAAAAAAAA="},
    {"!": "array", "dtype": "<f8", "shape": [1 << 40], "base64": ""},
    {"!": "array", "dtype": "<f8", "shape": [-1], "base64": ""},
    {"!": "array", "dtype": "<f8", "shape": [1], "base64": "****"},
    {"!": "array", "dtype": "<f8", "shape": [2], "base64": "AAAAAAAAAAA="},
    {"!": "number", "value": "x"},
]


@pytest.mark.parametrize("raw", HOSTILE_VALUES, ids=lambda raw: str(raw)[:50])
def test_values_that_nobody_wrote_are_refused(raw: Any) -> None:
    with pytest.raises(InvalidData):
        restored(raw)


def test_values_come_back_exactly() -> None:
    from casemate.robustness.augmentation import Errors

    value = {
        "a": (1, 0.1, None, True, "x", -math.inf),
        "b": np.array([[0.1, np.nan]]),
        "c": np.array([True, False]),
        "d": Errors(spread=(0.1,), missing=(0.0,)),
        "e": loop.standardise,
        "f": PLAN,
        "g": TrainingPieces(claims=(PLAN,), summary="s"),
        "h": np.float64(2.5),
    }
    back = restored(json.loads(json.dumps(plain(value))))
    assert np.array_equal(back.pop("b"), value.pop("b"), equal_nan=True)  # type: ignore[arg-type]
    assert np.array_equal(back.pop("c"), value.pop("c"))  # type: ignore[arg-type]
    assert back == value and back["e"] is loop.standardise


@pytest.mark.parametrize(
    "value", [object(), {1: 2}, net, lambda: 1, np.array([object()]), {"!": 1}, b"x", forest]
)
def test_what_is_no_value_is_not_written(value: Any) -> None:
    with pytest.raises(Unwritable):
        plain(value)


# ---- places ----


def test_a_place_that_is_taken_is_refused(tmp_path: Path, private: Path) -> None:
    change = cm.harden(forest(), DATA, using=["rounding"])
    before = sorted(private.iterdir())
    with pytest.raises(InvalidData, match="holds a hardened model; name a new"):
        cm.save(change, private)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(InvalidData, match="holds other things"):
        cm.save(change, tmp_path / "mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for place, told in ((tmp_path / "mine" / "thesis.tex", "is there and no folder"), (tmp_path / "link", "no folder"),
                        (tmp_path / "a" / "b", "there is no folder")):  # fmt: skip
        with pytest.raises(InvalidData, match=told):
            cm.save(change, place)
    assert sorted(private.iterdir()) == before
    (tmp_path / "empty").mkdir()
    assert cm.load(cm.save(change, tmp_path / "empty")).kind == "scikit-learn"


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_full_disk_leaves_nothing(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change = cm.harden(forest(), DATA, using=["rounding"])
    real, count = os.fsync, [0]

    def full(handle: int) -> None:
        count[0] += 1
        if count[0] > at:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InvalidData, match="cannot be written: No space left on device"):
        cm.save(change, tmp_path / "safe")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change = cm.harden(forest(), DATA, using=["rounding"])

    def stop(self: Path, goal: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", stop)
    with pytest.raises(KeyboardInterrupt):
        cm.save(change, tmp_path / "safe")
    assert list(tmp_path.iterdir()) == []


def test_a_run_killed_while_writing_is_written_over(tmp_path: Path) -> None:
    stage = tmp_path / "safe.part" / "files"
    stage.mkdir(parents=True)
    (stage / "model.joblib").write_bytes(b"half")
    assert folders.opened(tmp_path / "safe") == tmp_path / "safe.part"
    path = cm.save(cm.harden(forest(), DATA, using=["rounding"]), tmp_path / "safe")
    assert cm.load(path).kind == "scikit-learn" and list(tmp_path.iterdir()) == [path]


class Mine(RandomForestClassifier):
    """A user's own class."""


def test_what_no_folder_can_hold_is_said(tmp_path: Path) -> None:
    asked = cm.wrap(lambda rows: np.column_stack([rows[:, 0] < 0, rows[:, 0] >= 0]) * 1.0, classes=[0, 1])
    with pytest.raises(InvalidData, match="no model of its own that a folder could hold"):
        cm.save(cm.harden(asked, DATA, using=["rounding"]), tmp_path / "safe")
    own = Mine(3).fit(X[:120], Y[:120])
    change = cm.harden(own, DATA, using=["rounding"])
    name = f"{Mine.__module__}.Mine"
    with pytest.raises(UnknownArtefact, match="Mine"):
        cm.save(change, tmp_path / "safe")
    sys.modules.setdefault(Mine.__module__, sys.modules[__name__])
    path = cm.save(change, tmp_path / "safe", trust=[name])
    with pytest.raises(UnknownArtefact):
        cm.load(path)
    assert cm.load(path, trust=[name]).kind == "scikit-learn"
    with pytest.raises(InvalidData, match="save needs what harden returned"):
        cm.save(cm.Change(target=None, method="m", params={}, summary=""), tmp_path / "x")
    student = cm.harden(forest(), DATA, using=[cm.method("distil", student="network", recipe=PLAINLY)])
    with pytest.raises(InvalidData, match="a student of your own code"):
        cm.save(student, tmp_path / "x")
    scaled = replace(PLAINLY, preprocessing=lambda x: torch.nn.Identity())
    strange = replace(change, original=deep(), target=replace(deep(), recipe=scaled))
    with pytest.raises(
        InvalidData, match="could not be rebuilt from a folder: its recipe has a preprocessing"
    ):
        cm.save(strange, tmp_path / "x")


def test_a_folder_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="a folder without"):
        cm.load(tmp_path)


# ---- private trainings begin once ----


def test_any_private_training_is_noted_before_it_begins(tmp_path: Path) -> None:
    using = [cm.method("dp_logistic", epsilon=3, bounds=BOUNDS)]
    cm.harden(forest(), DATA, using=using, folder=tmp_path)
    (left,) = tmp_path.iterdir()
    assert (
        left.suffix == ".started" and left.read_bytes() == b"begun\n" and left.stat().st_mode & 0o777 == 0o600
    )
    with pytest.raises(GuaranteeVoid, match="begun before"):
        cm.harden(forest(), DATA, using=using, folder=tmp_path)
    with pytest.raises(GuaranteeVoid, match="begun before"):
        cm.harden(boosted(), DATA, using=using, folder=tmp_path)  # another model before, the same training
    other = cm.Dataset(train=(X[1:121], Y[1:121]), holdout=(X[121:], Y[121:]))
    cm.harden(forest(), other, using=using, folder=tmp_path)
    cm.harden(forest(), DATA, using=[cm.method("dp_logistic", epsilon=2, bounds=BOUNDS)], folder=tmp_path)
    cm.harden(forest(), DATA, using=using, folder=tmp_path, seed=1)
    assert len(list(tmp_path.iterdir())) == 4
    with pytest.raises(GuaranteeVoid, match=r"begun for .* before and did not end.*then remove .*safe\.part"):
        (tmp_path / "safe.part").mkdir()
        (tmp_path / "safe.part" / left.name).write_bytes(b"begun\n")
        folders.opened(tmp_path / "safe")


def test_nothing_is_noted_where_nothing_is_promised_or_nothing_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cm.harden(forest(), DATA, using=["limit_leaves", "rounding"], folder=tmp_path)
    cm.harden(
        forest(), DATA, using=[cm.method("dp_logistic", epsilon=math.inf, bounds=BOUNDS)], folder=tmp_path
    )
    with pytest.raises(GuaranteeVoid):
        cm.harden(forest(), DATA, using=[cm.method("dp_logistic", epsilon=3)], folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    seen: list[bool] = []
    from casemate.training import secure

    real = secure.source

    def watched() -> Any:
        seen.append(bool(list(tmp_path.glob("*.started"))))
        return real()

    monkeypatch.setattr("casemate.privacy.logistic.secure.source", watched)
    cm.harden(forest(), DATA, using=[cm.method("dp_logistic", epsilon=3, bounds=BOUNDS)], folder=tmp_path)
    assert seen == [True], "the note is on disk before there is a source of noise"


def test_what_lies_beside_is_never_taken_for_ours(tmp_path: Path) -> None:
    (tmp_path / "safe.part").mkdir()
    (tmp_path / "safe.part" / "thesis.tex").write_text("x")
    with pytest.raises(InvalidData, match=r"holds 'thesis\.tex', which no training left there"):
        folders.opened(tmp_path / "safe")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "linked.part").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidData, match="is a link"):
        folders.opened(tmp_path / "linked")
    assert (tmp_path / "safe.part" / "thesis.tex").read_text() == "x"


def test_a_folder_where_no_folder_can_be_renamed_to_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in (".", "", f"../{tmp_path.name}"):
        with pytest.raises(InvalidData, match="where you stand"):
            folders.opened(place)
    assert not list(tmp_path.parent.glob(f"{tmp_path.name}.part"))


def test_a_folder_that_was_there_is_closed_to_others_and_made_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = tmp_path / "safe.part"
    part.mkdir()
    part.chmod(0o777)
    real, settled = os.fsync, []
    monkeypatch.setattr(os, "fsync", lambda handle: (settled.append(os.fstat(handle).st_ino), real(handle)))
    folders.opened(tmp_path / "safe")
    assert part.stat().st_mode & 0o777 == 0o700 and tmp_path.stat().st_ino in settled
    monkeypatch.setattr(os, "geteuid", lambda: part.stat().st_uid + 1)
    with pytest.raises(InvalidData, match="belongs to another user"):
        folders.opened(tmp_path / "safe")


def test_two_runs_at_once_are_one(tmp_path: Path) -> None:
    with folders.at_work(tmp_path / "safe") as part:
        with pytest.raises(InvalidData, match="another run is at work"), folders.at_work(tmp_path / "safe"):
            pass
        assert part.is_dir(), "the other one removes nothing"
    assert not part.exists()
    with folders.at_work(tmp_path / "safe"):
        pass


def test_a_note_that_a_full_disk_refused_is_no_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    using = [cm.method("dp_logistic", epsilon=3, bounds=BOUNDS)]
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(InvalidData, match="No space left"):
            cm.harden(forest(), DATA, using=using, folder=tmp_path)
    assert not list(tmp_path.iterdir()), "no noise was drawn"
    assert cm.harden(forest(), DATA, using=using, folder=tmp_path).target.claims


@pytest.mark.parametrize(
    "said",
    ["[]", "[" * 100_000, json.dumps({"version": 1, "mark": "m", "python": [3, [1] * 625, None],
     "numpy": ["MT19937", [1] * 624, 0, 0, 0.0], "plain": []})],
    ids=["list", "deep", "plain"],
)  # fmt: skip
def test_a_checkpoint_that_is_none_is_said_in_one_line(said: str, tmp_path: Path) -> None:
    import random

    from safetensors.torch import save

    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    path = tmp_path / "x.safetensors"
    path.write_bytes(save({"order": torch.zeros(1), "rng.cpu": states[2]}, {"casemate": said}))
    try:
        with pytest.raises(InvalidData, match="is no checkpoint of this training"):
            journal.resume(path, "m", "cpu")
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def test_a_module_is_offered_after_a_round_trip(tmp_path: Path) -> None:
    """White-box attacks see the very module: its logits are those of the target."""
    change = cm.harden(fronted(), DATA, using=[cm.method("augment", noise=0.1)])
    target, coded = loaded(cm.save(change, tmp_path / "safe"), DATA, "fronted")
    assert MODULE in target.capabilities
    raw = target.module()(torch.from_numpy(np.asarray(coded.holdout.x, np.float32)))
    assert np.allclose(raw.numpy(), change.target.logits(coded.holdout.x), atol=1e-6)
