# SPDX-License-Identifier: Apache-2.0
"""Single rows in words: what the model answers there, and which columns push that answer up or down, how surely."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from casemate.core import stats
from casemate.core.evidence import digits
from casemate.core.schema import Schema
from casemate.core.types import Explanation, Table
from casemate.core.wording import cell

N_CASES, N_COLUMNS = 3, 6
COLUMNS = ("case", "kind", "what", "value", "low", "high")


def table(again: Sequence[Explanation], x: np.ndarray, schema: Schema, *, level: float) -> Table:
    """Tell three of the rows x (n, d) explained ``again`` and again: with the highest answer, a middle one, the lowest.

    A case is a stretch of rows, in the order of a sum: ``answer`` (what the model answers, and how it is called),
    ``start`` (where none of the rules hold), ``column`` (what the strongest columns add, with limits over seeds),
    ``others`` (how many more there are, and what they add together), ``left`` (what the rules do not tell), and
    ``fit`` (R2 of the local picture).
    """
    one = again[0]
    if one.predicted is None:
        return Table(name="cases", columns=COLUMNS, rows=())
    answers = one.predicted  # (n, outputs)
    output = answers.argmax(1)  # (n,) of a class among several the one that is called; otherwise the only one
    given = answers[np.arange(len(answers)), output]
    order = np.argsort(-given, kind="stable")
    places = dict.fromkeys(int(order[at]) for at in np.linspace(0, len(order) - 1, N_CASES).astype(int))
    rows = [
        row
        for k, i in enumerate(places, 1)
        for row in _case(k, again, i=i, output=int(output[i]), row=x[i], schema=schema, level=level)
    ]
    return Table(name="cases", columns=COLUMNS, rows=tuple(rows))


def _case(
    k: int,
    again: Sequence[Explanation],
    *,
    i: int,
    output: int,
    row: np.ndarray,
    schema: Schema,
    level: float,
) -> list[tuple[str | float | int | None, ...]]:
    one = again[0]
    pushes = np.stack([each.values[i, :, output] for each in again])  # (seeds, features)
    base = float(np.mean([each.base[i, output] for each in again]))
    answer = 0.0 if one.predicted is None else float(one.predicted[i, output])
    strongest = np.argsort(-np.abs(pushes.mean(0)), kind="stable")
    used = [int(j) for j in strongest if pushes[:, j].any()]
    told, others = used[:N_COLUMNS], used[N_COLUMNS:]
    rows: list[tuple[str | float | int | None, ...]] = [
        (k, "answer", one.outputs[output], digits(answer), None, None),
        (k, "start", "", digits(base), None, None),
    ]
    for j in told:
        found = stats.mean(pushes[:, j], level=level)
        rule = one.rules[i][j] if one.rules else ""
        ends = (digits(found.value), digits(found.low), digits(found.high))
        rows.append((k, "column", _words(one.names[j], rule, row, schema), *ends))
    if others:
        found = stats.mean(pushes[:, others].sum(1), level=level)
        rows.append(
            (k, "others", str(len(others)), digits(found.value), digits(found.low), digits(found.high))
        )
    left = answer - base - float(pushes.mean(0).sum())
    rows.append((k, "left", "", digits(left), None, None))
    if one.fit is not None:
        fit = float(np.mean([each.fit[i, output] for each in again if each.fit is not None]))
        rows.append((k, "fit", "", digits(fit), None, None))
    return rows


def _words(name: str, rule: str, row: np.ndarray, schema: Schema) -> str:
    """Say a cell as the user would write it, and by which rule it is judged: "age 74 years (> 61 years)"."""
    if name not in schema.names:  # columns that are one-hot together
        return rule or name
    at = schema.names.index(name)
    column, value = schema.columns[at], float(row[at])
    if column.kind == "category":
        return f"{name}: {cell(column, value)}"
    if column.kind == "integer" and (column.low, column.high) == (0, 1):
        return f"{name} = {cell(column, value)}"  # its rule would say the same again
    said = "" if np.isnan(value) else _ends(rule, name)
    return f"{name} {cell(column, value)}{f' ({said})' if said else ''}"


def _ends(rule: str, name: str) -> str:
    """Say a rule of `perturb.Quarters` without the name of its column, in signs that need no language.

    >>> _ends("3 < age <= 5", "age"), _ends("age > 5", "age"), _ends("age is missing", "age")
    ('> 3, ≤ 5', '> 5', '')
    """
    if rule.startswith(f"{name} <= "):
        return f"≤ {rule[len(name) + 4 :]}"
    if rule.startswith(f"{name} > "):
        return rule[len(name) + 1 :]
    low, found, high = rule.partition(f" < {name} <= ")
    return f"> {low}, ≤ {high}" if found else ""
