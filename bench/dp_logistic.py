# SPDX-License-Identifier: Apache-2.0
"""Private logistic regression on RAND HIE per person: utility over draws of the noise, and LiRA beside the bound.

python bench/dp_logistic.py
"""

from __future__ import annotations

import math
import time

import numpy as np

import casemate as cm
from casemate import demo

RUNS = 5
SHOWN = ("person_auc", "person_tpr_at_1pct_fpr", "roc_auc", "accuracy", "log_loss")


def defence(**privacy: float) -> cm.Spec:
    return cm.method("dp_logistic", delta=1e-5, bounds=demo.HOSPITAL_BOUNDS, **privacy)


def main() -> None:
    case = demo.case("hospital")
    forest = cm.wrap(case.model).trained(case.data, 0)
    plain = cm.harden(forest, case.data, using=[defence(epsilon=math.inf)])
    print("without noise:", *(str(row) for row in plain.after if row.quantity in SHOWN), sep="\n   ")
    for privacy in (
        {"epsilon": 8},
        {"epsilon": 3},
        {"epsilon": 1},
        {"epsilon": 0.3},
        {"max_tpr": 0.02, "at_fpr": 0.01},
    ):
        start, found = time.process_time(), []
        for _ in range(RUNS):
            change = cm.harden(forest, case.data, using=[defence(**privacy)])
            found.append([row.value for row in change.after if row.quantity in ("roc_auc", "log_loss")])
        plan = change.target.claims[0]
        mean, low, high = np.mean(found, 0), np.min(found, 0), np.max(found, 0)
        seconds = (time.process_time() - start) / RUNS
        print(
            f"{privacy}: epsilon {plan.epsilon:.3f}, noise {plan.noise_multiplier:.2f}, {seconds:.1f} CPU-s a run"
        )
        print(f"   log loss and AUC {mean.round(4)} [{low.round(4)} to {high.round(4)}]")
        print(f"   at most {plan.max_tpr(0.01):.3f} of members recognised at 1 % false alarms")
    for title, target in (
        ("epsilon inf", plain.target),
        ("epsilon 3", cm.harden(forest, case.data, using=[defence(epsilon=3)]).target),
    ):
        report = cm.audit(target, case.data, methods=[cm.method("lira", n_shadows=16)])
        print(title, *(str(row) for row in report.measurements if row.quantity in SHOWN), sep="\n   ")


if __name__ == "__main__":
    main()
