# SPDX-License-Identifier: Apache-2.0
"""Distillation and calibration, measured.

RAND HIE: a default forest distilled into a tree, a forest of larger leaves, logistic regression; size, fidelity, AUC,
and what LiRA, its shadows distilled as well, recognises before and after; beside it the same tree trained on the true
labels. The same forest calibrated. Digits: a network of 256 hidden units distilled into one of 16; accuracy with soft
labels and with the true ones, 5 seeds.

python bench/distil.py [hospital|reference|calibrate|digits ...]
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.tree import DecisionTreeClassifier

import casemate as cm
from casemate import demo
from casemate.training import loop, soft_network
from casemate.training.distillation import soft_labels

SHOWN = ("person_auc", "person_tpr_at_1pct_fpr", "accuracy", "accuracy_train", "log_loss", "roc_auc")
LIRA = cm.method("lira", n_shadows=16)
STUDENTS: tuple[dict[str, Any], ...] = (
    {"student": "tree", "depth": 6},
    {"student": "forest", "leaf": 20},
    {"student": "logistic"},
)


def show(title: str, report: cm.Report) -> None:
    print(f"== {title}")
    for row in report.measurements:
        if row.quantity in SHOWN:
            print("  ", row, flush=True)


def after(
    target: cm.Target, data: cm.Dataset, before: cm.Report, specs: list[tuple[str, dict[str, Any]]]
) -> None:
    for name, params in specs:
        change = cm.harden(target, data, using=[cm.method(name, **params)])
        show(f"{name} {params}: {change.summary}", cm.audit(change.target, data, like=before))
        for piece in change.evidence:
            print("  ", piece)


def hospital() -> None:
    case = demo.case("hospital")
    target = cm.wrap(case.model).trained(case.data, 0)
    before = cm.audit(target, case.data, methods=[LIRA, "loss_attack"])
    show("default forest", before)
    after(target, case.data, before, [("distil", params) for params in STUDENTS])
    plain = DecisionTreeClassifier(max_depth=6, min_samples_leaf=20, random_state=0)
    show("the same tree, true labels", cm.audit(plain, case.data, methods=[LIRA]))


def reference() -> None:
    """A third of the training people set aside as rows for the students to learn on."""
    case = demo.case("hospital")
    x, y, person = case.data.train.x, case.data.train.y, case.data.train.person
    public = np.random.default_rng(0).permutation(int(person.max()) + 1)[person] % 3 == 0
    held = case.data.holdout
    data = cm.Dataset(
        train=(x[~public], y[~public], person[~public]),
        holdout=(held.x, held.y, held.person),
        reference=(x[public], y[public], person[public]),
    )
    target = cm.wrap(case.model.__class__(random_state=0)).trained(data, 0)
    before = cm.audit(target, data, methods=[LIRA])
    show("default forest on two thirds of the people", before)
    after(target, data, before, [("distil", params) for params in STUDENTS])


def calibrate() -> None:
    case = demo.case("hospital")
    target = cm.wrap(case.model).trained(case.data, 0)
    before = cm.audit(target, case.data, methods=[LIRA, "loss_attack"])
    show("default forest", before)
    ways = [("calibrate", {"how": how}) for how in ("temperature", "isotonic")]
    after(target, case.data, before, ways)


def digits() -> None:
    x, y = load_digits(return_X_y=True)
    x = x / 16.0
    settings: dict[str, Any] = {"optimiser": "adam", "learning_rate": 0.003, "batch_size": 64, "epochs": 200}
    found: dict[str, list[float]] = {}
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(x))
        train, test = order[:600], order[600:]
        wide, narrow = (
            cm.Recipe(factory=partial(soft_network.perceptron, 64, width, 10), **settings)
            for width in (256, 16)
        )
        teacher = cm.wrap(loop.fit(wide, x[train], y[train], seed=seed), recipe=wide)
        bound, data = teacher.bind(cm.Dataset(train=(x[train], y[train]), holdout=(x[test], y[test])))
        found.setdefault("teacher 64-256-10", []).append(float((bound.labels(x[test]) == y[test]).mean()))
        plain = cm.wrap(loop.fit(narrow, x[train], y[train], seed=seed)).bind(data)[0]
        found.setdefault("64-16-10, true labels", []).append(float((plain.labels(x[test]) == y[test]).mean()))
        for temperature in (1.0, 2.0, 4.0, 8.0):
            soft = soft_labels(bound, x[train], temperature)
            made = soft_network.fit(narrow, x[train], soft, temperature=temperature, seed=seed)
            right = float((made.scores(x[test]).argmax(1) == y[test]).mean())
            found.setdefault(f"64-16-10, soft labels, T = {temperature:g}", []).append(right)
    for name, shares in found.items():
        values = np.array(shares)
        paired = values - np.array(found["64-16-10, true labels"])
        spread = paired.std(ddof=1) / np.sqrt(len(paired))
        print(f"{name}: {values.mean():.4f} {values.round(4).tolist()}, against true labels "
              f"{100 * paired.mean():+.2f} points (standard error {100 * spread:.2f})")  # fmt: skip


if __name__ == "__main__":
    parts = {f.__name__: f for f in (hospital, reference, calibrate, digits)}
    for name in sys.argv[1:] or parts:
        parts[name]()
