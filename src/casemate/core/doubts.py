# SPDX-License-Identifier: Apache-2.0
"""What takes a figure back after it was measured: held-out rows that were trained on, one class, a blind attack.

An attack or a check measures what it is given. Whether that shows anything is looked at here, once an audit has all of
its rows: a row that shows nothing keeps its number and is inconclusive, with the reason, so that no gate holds by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from casemate.core.data import Dataset
from casemate.core.methods import Card
from casemate.core.run import Run
from casemate.core.twins import Seen, seen_before
from casemate.core.types import LABELS, SCORES, Measurement, PerRecord


def review(
    rows: Sequence[Measurement], data: Dataset, cards: Mapping[str, Card]
) -> tuple[list[Measurement], list[str]]:
    """Return the rows of an audit, those that show nothing as inconclusive, and caveats of them all.

    ``cards`` are those of the methods that ran, by name.
    """
    seen, one_class = seen_before(data), only_class(data)
    near = seen_before(data, copies=False) if seen.reason else seen
    label = None if one_class else _always(rows, data)
    same = (
        "" if label is None or not _flat(rows, data) else "the model answers the same whatever it is asked: "
    )
    out = []
    for row in rows:
        reason = _of_seen(row, rows, seen, near, cards.get(row.method))
        reason = reason or (one_class if row.quantity == "accuracy" else "")
        if same and row.property == "explanation":
            reason = f"{same}there is nothing to explain"
        reason = reason or outdone(row, rows, cards)
        taken = bool(reason) and row.status == "measured"
        out.append(replace(row, status="inconclusive", reason=reason) if taken else row)
    if label is not None:
        answers = (
            f"the model is right on every held-out row of class {data.classes[label]} and on no other: an answer "
            "that never changes gives nothing away, resists everything and is of no use"
        )
    else:
        answers = "" if one_class else _worse_than_one_answer(rows, data)
    return out, [text for text in (seen.reason, answers) if text]


def _of_seen(row: Measurement, rows: Sequence[Measurement], seen: Seen, near: Seen, card: Card | None) -> str:
    """Say why a figure that takes the held-out rows for rows the model never saw is taken back, if it is.

    Attacks on membership leave exact copies out, and near ones only hide a leak: one that was found stands. Other
    figures stand where what the copies can move lies within their limits.
    """
    if row.property == "privacy":  # shadows deal the rows themselves, and the baseline asks no model
        null = card.quantities[row.quantity].null if card and row.quantity in card.quantities else None
        found = null is not None and row.low is not None and row.low > null
        return "" if found or row.quantity.startswith(("recipe_", "blind_")) else near.reason
    if row.quantity == "robust_accuracy":
        return seen.reason if _moved(row, seen.share) else ""
    if row.property != "utility" or row.quantity == "accuracy_train":
        return ""
    of = next((m for m in rows if (m.method, m.quantity) == ("utility", "accuracy")), row)
    return seen.reason if _moved(of, seen.share) else ""


def _moved(row: Measurement, share: float) -> bool:
    """Tell whether taking ``share`` of the rows, all of them right, out of an accuracy could leave its limits."""
    if row.value is None or row.low is None or row.unit not in ("", "share"):
        return share > 0
    return max(0.0, row.value - share) < row.low


def _of_utility(rows: Sequence[Measurement], quantity: str, data: Dataset) -> np.ndarray | None:
    """Return a figure of utility for each held-out row (n,), where the audit has it."""
    for row in rows:
        if (row.method, row.quantity) == ("utility", quantity):
            for detail in row.details:
                if isinstance(detail, PerRecord) and len(detail.values) == len(data.holdout):
                    return np.asarray(detail.values)
    return None


def _always(rows: Sequence[Measurement], data: Dataset) -> int | None:
    """Return the class that the model is right on each time, and on no other; None where there is none."""
    if (right := _of_utility(rows, "accuracy", data)) is None:
        return None
    labels = np.unique(data.holdout.y).tolist()
    return next((label for label in labels if np.array_equal(right, data.holdout.y == label)), None)


def _flat(rows: Sequence[Measurement], data: Dataset) -> bool:
    """Tell whether what the scores lose depends on the true label alone.

    Without scores, what is wrong of two classes is the other one; of several it may be any, such as two mixed up.
    """
    loss = _of_utility(rows, "log_loss", data)
    if loss is None:
        return len(data.classes) == 2
    return all(np.ptp(loss[data.holdout.y == label]) == 0 for label in np.unique(data.holdout.y))


def _worse_than_one_answer(rows: Sequence[Measurement], data: Dataset) -> str:
    right = _of_utility(rows, "accuracy", data)
    if right is None:
        return ""
    counts = np.bincount(data.holdout.y)
    commonest = int(counts.argmax())
    accuracy = next(row for row in rows if (row.method, row.quantity) == ("utility", "accuracy"))
    if accuracy.high is None or accuracy.high >= counts[commonest] / counts.sum():
        return ""
    return (
        f"the model is right less often than if it always said {data.classes[commonest]} "
        f"({counts[commonest]} of {counts.sum()} held-out rows): are labels, classes or columns mixed up?"
    )


def hurried(run: Run) -> list[str]:
    """Say what the clock cut from a method."""
    return [
        f"the clock of effort {run.effort} cut {run.card.name}: {name} {run.used[name]} of {wanted}"
        for name, wanted in run.cut.items()
    ]


def only_class(data: Dataset) -> str:
    """Say that all held-out rows are of one class, where they are.

    >>> rows, labels = np.arange(8.0).reshape(4, 2), np.array([0, 1, 0, 1])
    >>> data = Dataset((rows, labels), (rows + 9, labels * 0)).with_classes((0, 1), {0: 0, 1: 1})
    >>> only_class(data)
    'all 4 held-out rows are of class 0: always saying so would be right each time'
    """
    if len(data.classes) < 2 or len(np.unique(data.holdout.y)) > 1:
        return ""
    label = data.classes[int(data.holdout.y[0])]
    return f"all {len(data.holdout)} held-out rows are of class {label}: always saying so would be right each time"


def outdone(row: Measurement, rows: Sequence[Measurement], cards: Mapping[str, Card]) -> str:
    """Say which attack that sees less broke clearly more under the same threat: this one was held up, if so."""
    if row.quantity != "robust_accuracy" or row.low is None or not _sees_inside(cards.get(row.method)):
        return ""
    for other in rows:
        same = (other.quantity, other.threat) == (row.quantity, row.threat) and other.status == "measured"
        if same and other.high is not None and other.high < row.low and not _sees_inside(cards[other.method]):
            return (
                f"{other.method} sees less of the model and leaves only {other.value:.3g} under the same threat: what "
                "holds against this attack is not the model (its gradient may be masked, or this attack may move less)"
            )
    return ""


def _sees_inside(card: Card | None) -> bool:
    return card is not None and not card.needs <= {LABELS, SCORES}
