# SPDX-License-Identifier: Apache-2.0
"""The figures of docs/survey.md that this version measures: hospital, bank, rounding, PGD on digits.

python bench/survey.py [--jobs 2]
"""

from __future__ import annotations

import argparse

import joblib
import numpy as np
from sklearn.datasets import load_digits

import casemate as cm
from casemate import demo

ROWS = {
    "lira": ("person_auc", "person_tpr_at_1pct_fpr", "auc", "tpr_at_1pct_fpr"),
    "loss_attack": ("person_auc", "person_tpr_at_1pct_fpr", "auc", "tpr_at_1pct_fpr"),
    "pgd": ("robust_accuracy",),
    "permutation_importance": ("top_importance", "rank_agreement"),
    "utility": ("accuracy", "log_loss", "roc_auc"),
}


def show(title: str, report: cm.Report) -> None:
    print(f"== {title}")
    for row in report.measurements:
        if row.quantity in ROWS.get(row.method, ()):
            print("  ", row)
    for item in report.methods:
        if item["name"] == "lira":
            print("   shadows:", item["params"].get("n_shadows"), item["status"], item["reason"])


def digits_network() -> None:
    """A 64-64-10 network on digits, as most first examples of adversarial attacks train it."""
    import torch

    from casemate.training.loop import fit

    x, y = load_digits(return_X_y=True)
    x = (x / 16).reshape(-1, 1, 8, 8).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(y))
    train, hold = order[:898], order[898:]
    recipe = cm.Recipe(
        factory=lambda: torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)
        ),
        epochs=40,
        momentum=0.9,
    )
    data = cm.Dataset(train=(x[train], y[train]), holdout=(x[hold], y[hold]))
    target = cm.wrap(fit(recipe, x[train], y[train], seed=0), recipe=recipe)
    for radius in (0.05, 0.1, 0.2):
        threat = cm.Threat(norm="linf", radius=radius)
        show(
            f"digits MLP, pgd, linf {radius} of the pixel range",
            cm.audit(target, data, methods=["pgd"], threat=threat),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2)
    with joblib.parallel_config(backend="loky", n_jobs=parser.parse_args().jobs, inner_max_num_threads=1):
        for name in ("hospital", "bank"):
            case = demo.case(name)
            methods = [cm.method("lira", n_shadows=16), "loss_attack", "permutation_importance"]
            before = cm.audit(case.model, case.data, methods=methods)
            show(name, before)
            trained = cm.wrap(case.model).trained(case.data, 0)
            change = cm.harden(trained, case.data, using=[cm.method("rounding", digits=1)])
            after = cm.audit(change.target, case.data, like=before)
            show(f"{name}, scores rounded to tenths", after)
            print(cm.compare(before, after))
    digits_network()


if __name__ == "__main__":
    main()
