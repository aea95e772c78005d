# SPDX-License-Identifier: Apache-2.0
"""One browser for the session, and one page of each kind, made once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tables
from browser.driver import CHROMIUM, Browser
from sklearn.ensemble import RandomForestClassifier

import casemate as cm
from casemate import demo
from casemate.core.types import Measurement

KINDS = ("report", "comparison", "three", "public", "failed", "names")
# What an enemy or another alphabet may call a column: right to left, invisible, combining, unbreakable, markup.
NAMES = (
    "\u202egnp.exe\u202c",
    "\u05e2\u05de\u05d5\u05d3\u05d4 (1)",  # Hebrew: a column
    "\u0627\u0644\u0639\u0645\u0631 [0, 1]",  # Arabic: the age
    "zero\u200bwidth\u2060joined\ufeff",
    "Z\u0351\u0343\u0346a\u0305\u0333l\u0334\u0321g\u0337o\u0338",
    "W" * 90,
    "\u5217" * 60,
    '<b onclick="x">&amp;</b>',
)

METHODS = (
    ("lira", {"n_shadows": 8}),
    ("loss_attack", {}),
    ("permutation_importance", {"repeats": 2}),
    ("lime", {}),
    ("explanation_stability", {}),
    ("tabular_attack", {"generations": 10}),
    ("hop_skip_jump", {}),
    ("pgd", {}),  # not measured: a forest has no gradients
)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A saved report; the comparison of it with the same forest answering in tenths, judged by gates that hold, fail
    and cannot be measured; that of three, the last with a guarantee; the public edition; one in which methods fail;
    one with strange names.
    """
    folder = tmp_path_factory.mktemp("pages")
    table = replace(tables.load("rand_hie", n=400), sensitive=("black", "female"))
    data = table.dataset()
    forest = RandomForestClassifier(n_estimators=20, random_state=0)
    model = forest.fit(table.rows(table.train), table.train[table.label])
    before = cm.audit(
        model, data, methods=[cm.method(name, **p) for name, p in METHODS], effort="quick", show_records=True
    )
    rounded = cm.harden(model, data, using=["rounding"])
    after = cm.audit(rounded.target, data, like=before, show_records=True)
    claim = cm.method("dp_logistic", epsilon=3, delta=1e-4, bounds=demo.cases.HOSPITAL_BOUNDS)
    private = cm.harden(model, data, using=[claim])
    judged = folder / "gates.toml"
    judged.write_text(
        "".join(
            f'[[gate]]\nmethod = "{method}"\nquantity = "{quantity}"\nmax = {limit}\n'
            for method, quantity, limit in (
                ("lira", "auc", 0.01),
                ("loss_attack", "auc", 0.99),
                ("pgd", "robust_accuracy", 1),
            )
        ),
        "utf-8",
    )
    made = {
        "report": before,
        "comparison": cm.compare(before, after, gates=judged),
        "three": cm.compare(before, after, cm.audit(private.target, data, like=before)),
        "public": before.public(),
        "failed": failed(before),
        "names": cm.compare(*(named(report) for report in (before, after)), gates=judged),
    }
    return {kind: made[kind].save(folder / f"{kind}.html") for kind in KINDS}


def failed(report: cm.Report) -> cm.Report:
    """The same audit had an attack broken off, another found too little to say, and the rest not run."""
    lost = {"value": None, "low": None, "high": None, "details": ()}
    reasons = ("it broke off: ValueError: the model answered nan", "too few rows", "the time was up " * 12)
    rows = [
        replace(m, status=("not_measured", "inconclusive")[i % 2], reason=reasons[i % 3], **lost)
        for i, m in enumerate(report.measurements)
    ]
    status = ("failed", "not_measured", "skipped")
    items = [
        dict(item) | {"status": status[i % 2], "reason": reasons[i % 3]}
        for i, item in enumerate(report.methods)
    ]
    return replace(report, measurements=tuple(rows), methods=tuple(items))


def named(report: cm.Report) -> cm.Report:
    """The same audit of columns, classes and files with strange names."""

    def strange(m: Measurement) -> Measurement:
        return replace(m, details=tuple(relabelled(piece) for piece in m.details))

    def relabelled(piece: Any) -> Any:
        if type(piece).__name__ != "Table":
            return piece
        rows = [
            (NAMES[i % len(NAMES)], *row[1:]) if isinstance(row[0], str) else row
            for i, row in enumerate(piece.rows)
        ]
        return replace(piece, rows=tuple(tuple(row) for row in rows))

    target = dict(report.target) | {
        "classes": list(NAMES),
        "caveats": list(NAMES),
        "source": {"path": NAMES[5]},
    }
    rows = tuple(strange(m) for m in report.measurements)
    return replace(report, measurements=rows, target=target, command=("casemate", "audit", *NAMES))


@pytest.fixture(params=KINDS)
def page(request: pytest.FixtureRequest, pages: dict[str, Path]) -> Path:
    return pages[request.param]


@pytest.fixture(params=["en", "zh-CN"])
def lang(request: pytest.FixtureRequest) -> str:
    return str(request.param)
