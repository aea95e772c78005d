# SPDX-License-Identifier: Apache-2.0
"""Dropping one file into the tree lists, documents, reports and checks a method; only its RESULTS row is added."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
METHOD = '''# SPDX-License-Identifier: Apache-2.0
"""Gap attack (Yeom et al. 2018): guess "member" exactly where the model is right.

What it measures: how much more often the model is right on its training records than on others, read as the
AUC of a membership test, 1/2 + gap/2. The attacker knows the true label and sees the predicted one.
Cost: one prediction a record. Pitfalls: it finds nothing in a model that is right everywhere.
"""

from __future__ import annotations

from casemate.core import stats
from casemate.core.data import Dataset
from casemate.core.methods import Quantity, method
from casemate.core.run import Run
from casemate.core.types import LABELS, Measurement, Target


@method(
    kind="attack",
    needs={LABELS},
    cost="one prediction a record",
    title={"en": "Gap attack", "zh": "泛化差距攻击"},
    reference="arXiv:1709.01604, section 3.2",
    quantities={"auc": Quantity(worse="higher", en="AUC of the gap attack", zh="差距攻击的 AUC", null=0.5)},
)
def gap_attack(target: Target, data: Dataset, *, run: Run | None = None) -> list[Measurement]:
    """Measure the AUC of guessing membership from correctness."""
    members = target.labels(data.train.x) == data.train.y
    others = target.labels(data.holdout.x) == data.holdout.y
    level = run.level if run else 0.95
    found = stats.auc(members.astype(float), others.astype(float), level=level)
    return [run.measured("auc", found)] if run else []
'''
AUDIT = """
import sys
import casemate as cm
from sklearn.datasets import load_breast_cancer
from sklearn.tree import DecisionTreeClassifier
X, y = load_breast_cancer(return_X_y=True)
data = cm.Dataset(train=(X[::2], y[::2]), holdout=(X[1::2], y[1::2]))
report = cm.audit(DecisionTreeClassifier(random_state=0).fit(X[::2], y[::2]), data, methods=["gap_attack"])
report.save(sys.argv[1])
print(report["gap_attack", "auc"])
"""


@pytest.mark.slow
def test_a_method_is_one_file(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for part in ("src", "tests", "bench"):
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    (tree / "src/casemate/privacy/methods/gap_attack.py").write_text(METHOD, encoding="utf-8")
    with (tree / "bench/RESULTS.md").open("a", encoding="utf-8") as results:
        results.write("\n| `gap_attack` | Yeom identity 1/2 + gap/2 | exact | equal |\n")
    env = {**os.environ, "PYTHONPATH": str(tree / "src"), "PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1"}
    env.pop("CI", None)
    env["CASEMATE_TEST_TIMEOUT"] = "120"  # a busy machine is no fault of the method

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tree, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    assert "gap_attack" in run("-m", "casemate.cli", "methods")
    page = run("-m", "casemate.cli", "methods", "gap_attack")
    assert "泛化差距攻击" in page and "Pitfalls" in page and "arXiv:1709.01604" in page
    assert "gap_attack auc" in run("-c", AUDIT, str(tmp_path / "report.html"))
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Gap attack" in html and "泛化差距攻击" in html
    checks = run(
        "-m", "pytest", "-q", "tests/contract/test_methods.py", "-k", "gap_attack", "-p", "no:cacheprovider"
    )
    assert "passed" in checks and "failed" not in checks
    assert int(checks.split(" passed")[0].split()[-1]) >= 14
    row = ("-k", "row_of_results", "-p", "no:cacheprovider")
    assert "1 passed" in run("-m", "pytest", "-q", "tests/unit/test_repository.py", *row)
