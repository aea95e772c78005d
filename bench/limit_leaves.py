# SPDX-License-Identifier: Apache-2.0
"""Larger leaves on RAND HIE: membership inference and utility before, with 20 rows a leaf, and rounded as well.

python bench/limit_leaves.py
"""

from __future__ import annotations

import casemate as cm
from casemate import demo

SHOWN = ("person_auc", "person_tpr_at_1pct_fpr", "accuracy", "log_loss", "roc_auc")


def show(title: str, report: cm.Report) -> None:
    print(f"== {title}")
    for row in report.measurements:
        if row.quantity in SHOWN:
            print("  ", row)


def main() -> None:
    case = demo.case("hospital")
    target = cm.wrap(case.model).trained(case.data, 0)
    before = cm.audit(target, case.data, methods=[cm.method("lira", n_shadows=16), "loss_attack"])
    show("default forest", before)
    for using in (["limit_leaves"], ["limit_leaves", "rounding"]):
        change = cm.harden(target, case.data, using=using)
        after = cm.audit(change.target, case.data, like=before)
        show(change.summary, after)
        print(cm.compare(before, after))


if __name__ == "__main__":
    main()
