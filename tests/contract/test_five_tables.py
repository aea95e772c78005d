# SPDX-License-Identifier: Apache-2.0
"""Five real tables, models of three libraries on disk: examples obey the schema, audits end with a verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tables

import casemate as cm
from casemate import cli
from casemate.core import evasion, harness
from casemate.core.methods import find
from casemate.core.run import Run
from casemate.core.schema import violations

pytestmark = pytest.mark.slow


def table(name: str, n: int | None) -> tables.Table:
    if not tables.available(name):
        pytest.skip(f"CASEMATE_TEST_DATA is not set: no {name}")
    return tables.load(name, n=n)


def model(name: str) -> Any:
    """Another kind of model for each table."""
    from lightgbm import LGBMClassifier
    from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from xgboost import XGBClassifier

    return {
        "rand_hie": RandomForestClassifier(50, min_samples_leaf=5, random_state=0),
        "loanapp": LGBMClassifier(n_estimators=40, random_state=0, verbose=-1, n_jobs=1),
        "adult": ExtraTreesClassifier(30, min_samples_leaf=3, random_state=0),
        "german": LogisticRegression(max_iter=1000),
        "diabetes130": XGBClassifier(n_estimators=30, max_depth=4, random_state=0, n_jobs=1),
    }[name]


def recoded(made: tables.Table) -> tables.Table:
    """Labels 0 and 1 instead of text, as XGBoost wants them."""
    classes = sorted(made.train[made.label].unique())
    parts = {
        part: rows.assign(**{made.label: (rows[made.label] == classes[1]).astype(int)})
        for part, rows in (("train", made.train), ("holdout", made.holdout))
    }
    return tables.Table(**{**vars(made), **parts})


THREATS = {
    "hop_skip_jump": [cm.Threat(norm="linf", radius=0.5), cm.Threat(norm="l2", radius=1.0)],
    "tabular_attack": [
        cm.Threat(norm="linf", radius=0.5),
        cm.Threat(norm="l2", radius=1.0),
        cm.Threat(norm="l1", radius=1.0),
        cm.Threat(norm="l0", radius=2),
    ],
}


@pytest.mark.parametrize("method", sorted(THREATS))
@pytest.mark.parametrize("name", tables.NAMES)
def test_every_reported_example_obeys_the_schema(name: str, method: str) -> None:
    made = recoded(table(name, 1500))
    data = made.dataset()
    numeric = [c.name for c in data.schema.columns if c.kind != "category" and not c.immutable]
    schema = data.schema.with_columns(
        {numeric[0]: {"immutable": True}, numeric[-1]: {"monotone": "increasing"}}
    )
    data = made.dataset(schema=schema)
    target, data = cm.wrap(tables.pipeline(made, model(name))).bind(data)
    found = 0
    for threat in THREATS[method]:
        item = find(method)
        run = Run(card=item.card, threat=harness.resolve(threat, item.card, target, data), effort="quick")
        few = data.with_holdout(evasion.points(data, run)[:60])
        x, x_adv = few.holdout.x, harness.invoke(item, target, few, run, {})
        rules = violations(x, x_adv, run.threat, data.schema)
        beyond = rules.pop("radius")
        if item.card.nearest:
            beyond[:] = False  # an example at any distance
        else:
            assert not beyond.any(), f"{threat}: {int(beyond.sum())} results outside the radius"
        assert {rule: int(mask.sum()) for rule, mask in rules.items() if mask.any()} == {}, threat
        # ... and after the way through the user's own frame
        again = data.schema.encode(data.schema.decode(x_adv))
        np.testing.assert_allclose(again, x_adv, rtol=1e-12)
        found += int(
            ((target.labels(x) == few.holdout.y) & (target.labels(x_adv) != few.holdout.y) & ~beyond).sum()
        )
    assert found > 0, "an attack that finds nothing shows nothing about its examples"


@pytest.mark.parametrize("name", tables.NAMES)
def test_the_command_line_audits_a_model_on_disk(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import joblib

    made = table(name, 2500)
    if name == "diabetes130":
        made = recoded(made)
    path = tmp_path / f"{name}.joblib"
    joblib.dump(tables.pipeline(made, model(name)), path, compress=3)
    out = tmp_path / "report.json"
    argv = ["audit", str(path), *made.write(tmp_path), "--effort", "quick", "--jobs", "1", "--out", str(out)]
    code = cli.run(argv)
    shown = capsys.readouterr()
    assert code == 0, shown.err
    assert 3 < len(shown.out.splitlines()) <= 25
    report = json.loads(out.read_text())
    assert all(item["status"] != "failed" for item in report["methods"])
    measured = {row["property"] for row in report["measurements"] if row["status"] == "measured"}
    assert {"privacy", "robustness", "confidentiality", "explanation"} <= measured
    assert report["target"]["source"]["sha256"]
    invalid = [row["value"] for row in report["measurements"] if row["quantity"] == "invalid_examples"]
    assert invalid and all(value == 0.0 for value in invalid if value is not None)
    assert '"examples"' not in out.read_text(), "records enter a file only on demand"
