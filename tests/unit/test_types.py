# SPDX-License-Identifier: Apache-2.0
"""Types: no bare float, no silent NaN, everything round-trips through JSON."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

import casemate as cm
from casemate.core.errors import CasemateError, InvalidData, InvalidThreat, MissingExtra
from casemate.core.extras import lazy, needs
from casemate.core.rng import child_seed, generator
from casemate.core.types import Curve, Measurement, Note, PerRecord, Table


def row(**changes) -> Measurement:
    fields = {
        "property": "privacy",
        "quantity": "auc",
        "value": 0.6,
        "low": 0.5,
        "high": 0.7,
        "n": 10,
        "worse": "higher",
        "method": "lira",
        "version": "1",
        "seed": 0,
    }
    return Measurement(**{**fields, **changes})


def test_round_trip_with_every_detail_form() -> None:
    details = (
        Curve(name="roc", x=(0.1, 1.0), y=(0.2, 1.0), low=(0.1, 1.0), high=(0.3, 1.0)),
        PerRecord(name="members", ids=(3, 1), values=(0.5, 1.0), clusters=(0, 0)),
        Table(name="t", columns=("a", "b"), rows=(("x", 1), (None, 2.5))),
        Note(text="n"),
    )
    threat = cm.Threat(norm="l2", radius=0.5, scale="raw", goal=1, n_queries=10)
    made = row(details=details, threat=threat)
    text = json.dumps(made.to_dict(), allow_nan=False)
    assert Measurement.from_dict(json.loads(text)) == made


def test_unknown_fields_and_forms_are_ignored() -> None:
    raw = row().to_dict() | {
        "later": 1,
        "details": [{"form": "hologram", "x": 1}, {"form": "note", "text": "n"}],
    }
    assert Measurement.from_dict(raw).details == (Note(text="n"),)


@pytest.mark.parametrize(
    "changes",
    [
        {"value": None},
        {"value": math.nan},
        {"low": None},
        {"value": 0.8},
        {"low": 0.65},
        {"status": "inconclusive"},
        {"status": "not_measured", "value": None},
        {"status": "green"},
    ],
)
def test_a_measurement_that_says_nothing_cannot_be_made(changes) -> None:
    with pytest.raises(InvalidData):
        row(**changes)


def test_infinite_numbers_become_null() -> None:
    assert row(high=math.inf).to_dict()["high"] is None


@pytest.mark.parametrize(
    "fields",
    [
        {"norm": "l3"},
        {"radius": -1},
        {"radius": math.nan},
        {"radius": math.inf},
        {"scale": "sigma"},
        {"radius": "0.3"},
        {"radius": True},
        {"n_queries": 0},
        {"n_queries": 2.5},
        {"goal": "yes"},
        {"goal": 1.0},
        {"goal": -1},
    ],
)
def test_senseless_threats_are_refused(fields) -> None:
    with pytest.raises(InvalidThreat):
        cm.Threat(**fields)


def test_a_threat_of_numpy_numbers_is_written_as_plain_ones() -> None:
    threat = cm.Threat(radius=np.float32(0.5), goal=np.int64(1), n_queries=np.int32(9))  # type: ignore[arg-type]
    assert json.dumps(threat.to_dict()) == json.dumps(cm.Threat(radius=0.5, goal=1, n_queries=9).to_dict())


def test_threat_resolves_by_input() -> None:
    table = cm.Threat().resolved(cm.Schema.infer(np.zeros((2, 2))))
    assert (table.norm, table.radius, table.scale) == ("linf", 0.3, "spread")
    image = cm.Threat().resolved(cm.Schema(input="image", bounds=(0.0, 255.0)))
    assert (image.radius, image.scale) == (8.0, "raw")
    with pytest.raises(InvalidThreat, match="for tables"):
        cm.Threat(scale="spread").resolved(cm.Schema(input="image"))


@pytest.mark.parametrize(
    "fields",
    [
        {"factory": 3},
        {"factory": list, "optimiser": "lbfgs"},
        {"factory": list, "learning_rate": 0.0},
        {"factory": list, "epochs": 0},
    ],
)
def test_senseless_recipes_are_refused(fields) -> None:
    with pytest.raises(InvalidData):
        cm.Recipe(**fields)


def test_seeds_form_a_tree() -> None:
    draws = {
        float(generator(seed, *path).random()) for seed in (0, 1) for path in ((), ("a",), ("a", 0), ("b", 0))
    }
    assert len(draws) == 8
    assert child_seed(0, "x") == child_seed(0, "x") < 2**31


def test_missing_extra_names_the_command(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra, match=r'pip install "casemate\[torch\]"'):
        _ = lazy("torch").tensor
    with pytest.raises(MissingExtra, match="pip install nosuchthing"):
        needs("nosuchthing")


def test_every_error_has_an_exit_code_and_stands_in_the_drawn_tree() -> None:
    from casemate.core import errors

    def below(kind: type[CasemateError]) -> set[type[CasemateError]]:
        return {kind}.union(*(below(sub) for sub in kind.__subclasses__()))

    for kind in below(CasemateError):
        if kind.__module__ == errors.__name__:
            assert kind.__name__ in (errors.__doc__ or "") and 1 <= kind.exit_code <= 5


def test_import_loads_the_standard_library_only() -> None:
    code = (
        "import sys; before = set(sys.modules); import casemate;"
        "new = {m.split('.')[0] for m in set(sys.modules) - before};"
        "print(sorted(m for m in new if m not in sys.stdlib_module_names and m != 'casemate'))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
