# SPDX-License-Identifier: Apache-2.0
"""The verb explain: which method it takes, what it refuses, and how an explanation reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier

import casemate as cm
from casemate.core.errors import InvalidData
from casemate.core.types import Explanation


def world() -> tuple[RandomForestClassifier, cm.Dataset]:
    rng = np.random.default_rng(0)
    x = pd.DataFrame({"income": rng.lognormal(8, 0.5, 300).round(2), "age": rng.integers(18, 90, 300)})
    y = np.where(x["income"] > 3000, "granted", "refused")
    model = RandomForestClassifier(10, random_state=0).fit(x[:150], y[:150])
    return model, cm.Dataset(train=(x[:150], y[:150]), holdout=(x[150:], y[150:]))


MODEL, DATA = world()


def test_rows_are_explained_by_lime_and_the_model_by_permutation() -> None:
    local = cm.explain(MODEL, DATA, rows=[3, 140], seed=2)
    assert local.rows == (3, 140) and local.values.shape == (2, 2, 1)
    same = cm.explain(MODEL, DATA, rows=140, method="lime", seed=2)
    np.testing.assert_array_equal(same.values[0], local.values[1])
    whole = cm.explain(MODEL, DATA)
    assert whole.rows == () and whole.values.shape == (1, 2, 1)
    assert whole.quality[0].method == "permutation_importance"
    drawn = cm.explain(MODEL, DATA, method=cm.method("lime", n_rows=7, n_samples=256))
    assert len(drawn.rows) == 7
    other = cm.explain(MODEL, DATA, rows=[3], seed=3)
    assert not np.array_equal(other.values[0], local.values[0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rows": [150]}, "rows names row 150, but holdout has rows 0 to 149"),
        ({"rows": -1}, "rows names row -1"),
        ({"rows": "17"}, "must list places"),
        ({"rows": [True]}, "must list places"),
        ({"rows": [0], "method": "permutation_importance"}, "explains the model as a whole; leave rows= out"),
        ({"method": "lira"}, "lira is an attack, not an explainer"),
        ({"method": "explanation_stability"}, "is a check, not an explainer"),
        ({"method": "lyme"}, "did you mean lime"),
        ({"method": ["lime", "lime"]}, "must list names"),
        ({"seed": -1}, "seed must be a whole number"),
    ],
)
def test_what_cannot_be_explained_is_one_clear_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidData, match=words) as error:
        cm.explain(MODEL, DATA, **options)
    assert "\n" not in str(error.value)


def test_data_that_is_no_dataset_is_refused() -> None:
    with pytest.raises(InvalidData, match=r"data must be a casemate\.Dataset"):
        cm.explain(MODEL, (1, 2))  # type: ignore[arg-type]


def made(fit: float) -> Explanation:
    return Explanation(
        values=np.array([[[0.21], [0.0], [-0.4]]] * 7),
        base=np.full((7, 1), 0.4),
        errors=np.full((7, 3, 1), 0.0123),
        names=("income", "age", "job"),
        n_records=7,
        rows=tuple(range(10, 17)),
        rules=(("income <= 2,100", "age > 40", "job = nurse"),) * 7,
        outputs=("granted",),
        predicted=np.full((7, 1), 0.25),
        fit=np.full((7, 1), fit),
    )


def test_an_explanation_reads_as_text() -> None:
    lines = str(made(0.8)).splitlines()
    assert lines[0] == (
        "row 10: the model answers 0.25 for class granted, base 0.4, base + rules = 0.21, local fit R2 0.80"
    )
    assert lines[1:3] == [
        "  -0.4 ± 0.012  job = nurse",
        "  +0.21 ± 0.012  income <= 2,100",
    ]  # largest first, no zeros
    assert lines[3].startswith("row 11") and lines[-1] == "... and 2 more rows"
    assert "warning" not in str(made(0.5))
    assert str(made(0.49)).count("do not rely on it") == 5
    np.testing.assert_allclose(made(0.8).gap, 0.04)


def test_an_audit_with_explanations_survives_its_file(tmp_path: Any) -> None:
    report = cm.audit(MODEL, DATA, methods=["lime", "explanation_stability"], effort="quick")
    assert report["lime", "top_importance"].n == 50
    assert {row.status for row in (*report["lime"], *report["explanation_stability"])} == {"measured"}
    report.save(tmp_path / "report.json")
    again = cm.Report.load(tmp_path / "report.json")
    assert again["lime", "local_fit"].value == report["lime", "local_fit"].value
    later = cm.audit(MODEL, DATA, methods=["lime"], like=report)
    assert later["lime", "local_fit"].value == report["lime", "local_fit"].value
