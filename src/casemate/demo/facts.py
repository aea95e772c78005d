# SPDX-License-Identifier: Apache-2.0
"""The few facts of reports and explanations that the demos put into words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from casemate.core.types import Note, Table
from casemate.report import pictures

if TYPE_CHECKING:
    from casemate.core.data import Dataset
    from casemate.core.stats import Interval
    from casemate.core.types import Explanation, Measurement
    from casemate.report.compare import Comparison
    from casemate.report.model import Report

RATE = 0.01  # false alarms at which leaks are told
_POWER = re.compile(r"([\d.]+) % of members recognised or more would have been found")
TOP = 5  # columns compared
WEAK = 0.5  # of what a model does near a row: rules that tell less are not to be relied on


@dataclass(frozen=True, kw_only=True)
class Leak:
    """What the strongest membership attack recognises, and whom it wrongly names; ``share`` is None if not measured."""

    unit: Literal["person", "record"]
    share: Measurement | None
    wrong: Measurement | None
    detected: bool
    reason: str = ""
    n_others: int = 0
    least: str = ""  # members of 100 that would have been found with 80 % probability


def leak_of(report: Report) -> Leak | None:
    """Return what LiRA found, by person where the data knows people; None where it did not run."""
    rows = {row.quantity: row for row in report.measurements if row.method == "lira"}
    unit: Literal["person", "record"] = "person" if "person_tpr_at_1pct_fpr" in rows else "record"
    level = "person_" if unit == "person" else ""
    share, wrong = rows.get(f"{level}tpr_at_1pct_fpr"), rows.get(f"{level}fpr_at_1pct")
    if share is None or wrong is None:
        return None
    if share.value is None or wrong.value is None:
        return Leak(unit=unit, share=None, wrong=None, detected=False, reason=share.reason, n_others=share.n)
    # the rule of the attack's own report: a threshold that did not hold is inconclusive
    detected = share.status == "measured" and (share.low or 0.0) > RATE
    notes = " ".join(piece.text for piece in share.details if isinstance(piece, Note))
    least = _POWER.search(notes)
    return Leak(
        unit=unit,
        share=share,
        wrong=wrong,
        detected=detected,
        n_others=wrong.n,
        reason=share.reason,
        least=f"{float(least.group(1)):.2g}" if least else "",
    )


def change_of(comparison: Comparison, method: str, quantity: str, report: int = 1) -> Interval | None:
    """Return the paired difference of one quantity, after minus before; None where there is none."""
    for row in comparison.rows:
        if (row.method, row.quantity, row.report) == (method, quantity, report):
            return row.difference
    return None


def table_of(m: Measurement, name: str) -> Table | None:
    """Return the table of that name beside a measurement."""
    return next((piece for piece in m.details if isinstance(piece, Table) and piece.name == name), None)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far two explanations of a model as a whole name the same columns."""

    before: tuple[str, ...]  # strongest first
    after: tuple[str, ...]
    spearman: float
    shared: int  # of the first TOP


def agreement(before: Report, after: Report) -> Agreement:
    """Compare the permutation importances of two reports, as their page does."""
    one, other = (importances(report) for report in (before, after))
    told = pictures.agreement(one, other, TOP)
    return Agreement(
        before=tuple(one)[:TOP],
        after=tuple(other)[:TOP],
        spearman=float("nan") if told.spearman is None else told.spearman,
        shared=told.shared,
    )


def importances(report: Report) -> dict[str, float]:
    """Return what each column counts for, strongest first."""
    table = table_of(report["permutation_importance", "top_importance"], "importance")
    found = {str(row[0]): float(row[1] or 0.0) for row in table.rows} if table else {}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


@dataclass(frozen=True, kw_only=True)
class Reasons:
    """What a single answer rests on: the class answered, how sure, the strongest rules with weight and error."""

    answer: str
    sure: float
    rules: tuple[tuple[str, float, float], ...]
    fit: float


def yes_or_no(data: Dataset) -> frozenset[str]:
    """Return the columns that hold 0 and 1 alone."""
    x = np.concatenate([data.train.x, data.holdout.x])
    plain = (np.isin(x, (0, 1)) | np.isnan(x)).all(axis=0)
    return frozenset(name for name, held in zip(data.schema.names, plain, strict=True) if held)


def reasons(why: Explanation, classes: Sequence[Any], n: int = 3) -> Reasons:
    """Read the explanation of one row for the class that the model gives most to.

    Of two classes only the second is explained: what speaks for one speaks against the other.
    """
    predicted: Any = why.predicted
    output = int(predicted[0].argmax())
    values, errors = why.values[0, :, output], why.errors[0, :, output]
    answer, sure = why.outputs[output], float(predicted[0, output])
    if len(why.outputs) == 1 and sure < 0.5:
        answer, sure, values = str(classes[0]), 1 - sure, -values
    order = [j for j in np.argsort(-np.abs(values), kind="stable")[:n] if values[j] != 0]
    told = why.rules[0] if why.rules else why.names
    return Reasons(
        answer=answer,
        sure=sure,
        rules=tuple((told[j], float(values[j]), float(errors[j])) for j in order),
        fit=float("nan") if why.fit is None else float(why.fit[0, output]),
    )
