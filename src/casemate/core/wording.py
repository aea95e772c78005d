# SPDX-License-Identifier: Apache-2.0
"""Rows of a table in words: what an attack changed, as a clerk or a nurse would say it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from casemate.core.schema import Column, Schema

_BREAKS = "_=:. -"


def cell(column: Column, value: float, other: float | None = None) -> str:
    """Return an encoded cell as the user would write it, with enough digits to tell it from ``other``.

    >>> (
    ...     cell(Column(name="income", kind="real", unit="EUR"), 2100.0),
    ...     cell(Column(name="n", kind="integer"), 3.0),
    ... )
    ('2,100 EUR', '3')
    """
    if math.isnan(value):
        return "missing"
    if column.kind == "category":
        place = int(value)
        return str(column.categories[place]) if 0 <= place < len(column.categories) else f"code {place}"
    unit = f" {column.unit}" if column.unit else ""
    digits = next(
        (d for d in range(4, 17) if other is None or f"{value:.{d}g}" != f"{other:.{d}g}"), 17
    )  # 17 digits tell any two numbers apart
    if value == round(value) and abs(value) < 1e15:
        return f"{value:,.0f}{unit}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    if decimals > 8 or abs(value) >= 1e15:
        return f"{value:.{digits}g}{unit}"
    text = f"{value:,.{decimals}f}"
    return f"{text.rstrip('0').rstrip('.') if decimals else text}{unit}"


def changes(before: np.ndarray, after: np.ndarray, schema: Schema) -> str:
    """Say which cells of a row (d,) were changed: ``income 2,100 -> 2,350; purpose: car -> radio``.

    A one-hot group is one change, named by what its columns' names share.

    >>> schema = Schema.infer(np.array([[2100.0, 1.0], [2350.0, 2.0]]))
    >>> changes(np.array([2100.0, 1.0]), np.array([2350.0, 1.0]), schema)
    'x0 2,100 -> 2,350'
    """
    place = {name: i for i, name in enumerate(schema.names)}
    grouped = {name for group in schema.groups for name in group}
    said = []
    for group in schema.groups:
        here = [place[name] for name in group]
        if not np.array_equal(before[here], after[here], equal_nan=True):
            stem = _stem(group)
            old, new = (
                ", ".join(name[len(stem) :] for name, i in zip(group, here, strict=True) if row[i] > 0)
                or "none"
                for row in (before, after)
            )
            said.append(f"{together(group)}: {old} -> {new}")
    for column in schema.columns:
        old, new = before[place[column.name]], after[place[column.name]]
        same = old == new or (math.isnan(old) and math.isnan(new))
        if not same and column.name not in grouped:
            colon = ":" if column.kind == "category" else ""
            was = cell(replace(column, unit=""), old, new)  # the unit is said once
            said.append(f"{column.name}{colon} {was} -> {cell(column, new, old)}")
    return "; ".join(said)


def together(group: tuple[str, ...]) -> str:
    """Name a one-hot group: what its columns' names share up to a separator, else all of them.

    >>> together(("job_nurse", "job_clerk")), together(("a", "b"))
    ('job', 'a+b')
    """
    return _stem(group).rstrip(_BREAKS) if len(group) > 1 and _stem(group) else "+".join(group)


def _stem(names: tuple[str, ...]) -> str:
    """Return what all names begin with, up to a separator: town_Bern and town_Basel give "town_"."""
    low, high = min(names), max(names)
    same = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))
    return low[: 1 + max(low[:same].rfind(sign) for sign in _BREAKS)]
