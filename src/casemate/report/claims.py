# SPDX-License-Identifier: Apache-2.0
"""What a guarantee rules out: read from ``target.claims`` of a report, for the ruler on which attacks are drawn.

A claim is {says, unit, epsilon, delta, ceiling}: the ceiling are pairs (false-positive rate, most members that anybody
recognises at it), as ``Plan.to_report`` writes them. Without one, epsilon and delta alone still rule out a region.
A report may come from anywhere: a claim that is not one is left out, never drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import numpy as np

from casemate.core import stats
from casemate.core.types import Measurement
from casemate.report import words
from casemate.report.catalogue import both
from casemate.report.charts import Bound
from casemate.report.model import Report

SURE = 1e-4  # how rarely an attack on a training that kept its guarantee speaks against it


def bound_of(report: Report, *, person: bool) -> Bound | None:
    """Return the strictest guarantee that the report states and that covers those attacked; None without one."""
    stated = report.target.get("claims")
    found = [_claim(raw) for raw in stated if isinstance(raw, Mapping)] if isinstance(stated, list) else []
    # what is promised to people holds for each of their records; the reverse does not
    fits = [claim for claim in found if claim is not None and (claim[0] == "person" or not person)]
    return min(
        (claim[1] for claim in fits), key=lambda one: float(np.interp(0.01, one.x, one.y)), default=None
    )


def contradictions(report: Report) -> list[str]:
    """Say which attacks of a report recognise more than a guarantee that it states lets anybody recognise.

    Looked at are the rates, whose thresholds were fixed on other data, and the AUC: limits at 99.99 % each, and what
    the guarantee allows rounded up.
    """
    raws = report.target.get("claims")
    return [text for raw in (raws if isinstance(raws, list) else []) for text in against(report, raw)]


def against(report: Report, raw: Any) -> list[str]:
    """Say which attacks of a report speak against one claim."""
    claim = _claim(raw) if isinstance(raw, Mapping) else None
    if claim is None:
        return []
    rows = {
        (m.method, m.quantity): m
        for m in report.measurements
        if m.property == "privacy" and m.status == "measured" and (m.low is not None and m.high is not None)
    }
    found = []
    for (method, quantity), m in rows.items():
        kind = quantity.removeprefix("person_")
        if kind != quantity and claim[0] != "person":
            continue
        if kind == "auc":
            most = _most_auc(claim[1], raw)
        elif (
            beside := rows.get((method, quantity.replace("tpr_at", "fpr_at").removesuffix("_fpr")))
        ) is not None:
            most = _at(claim[1], _wide(beside)[1]) if kind.startswith("tpr_at_") else 1.0
        else:
            continue
        if _wide(m)[0] > most:
            epsilon, delta = (words.number(rounded_up(float(raw[name]))) for name in ("epsilon", "delta"))
            found.append(
                f"{method} {quantity} is {words.of(m)}, and epsilon {epsilon} at delta {delta} per {claim[0]}"
                f" allows nobody more than {most:.3g}: the guarantee does not hold, the training did not keep it, "
                "or train and holdout differ by more than the model"
            )
    return found


def _wide(m: Measurement) -> tuple[float, float]:
    """Return the limits of a share or an area at 99.99 %: by normal quantiles, of a rate no nearer than is exact."""
    value, low, high = (0.0 if end is None else end for end in (m.value, m.low, m.high))
    scale = NormalDist().inv_cdf(1 - SURE / 2) / NormalDist().inv_cdf(0.5 + m.level / 2)
    wide = max(0.0, value - scale * (value - low)), min(1.0, value + scale * (high - value))
    if "pr_at_" not in m.quantity or m.n < 1:
        return wide
    exact = stats.clopper_pearson(round(value * m.n), m.n, level=1 - SURE)
    return min(wide[0], exact.low), max(wide[1], exact.high)


def _at(bound: Bound, fpr: float) -> float:
    """Return the most at a false-positive rate: at the next point, for between points a line lies below the curve."""
    return next(
        (y for x, y in zip(bound.x, bound.y, strict=True) if x >= fpr),
        1.0,
    )


def _most_auc(bound: Bound, raw: Mapping[str, Any]) -> float:
    """Return a number that the area under the ceiling does not exceed: steps above it, by the finer of two forms."""
    plain = implied(float(raw["epsilon"]), float(raw["delta"]))
    areas = []
    for xs, ys in ((bound.x, bound.y), plain):
        x, y = np.asarray(xs, np.float64), np.asarray(ys, np.float64)
        areas.append(float((np.diff(x, prepend=0.0) * y).sum() + 1 - x[-1]))
    return min(areas)


def stated(raw: Any) -> tuple[str, float, float] | None:
    """Return unit, epsilon and delta of a claim of differential privacy; None for what is none.

    >>> (
    ...     stated({"unit": "person", "epsilon": 3, "delta": 1e-5}),
    ...     stated({"unit": "person", "epsilon": -3, "delta": 4}),
    ... )
    (('person', 3.0, 1e-05), None)
    """
    if not isinstance(raw, Mapping) or raw.get("unit") not in ("record", "person"):
        return None
    epsilon, delta = _number(raw.get("epsilon")), _number(raw.get("delta"))
    if epsilon is None or delta is None or epsilon <= 0 or not 0 <= delta < 1:
        return None
    return str(raw["unit"]), epsilon, delta


def _claim(raw: Mapping[str, Any]) -> tuple[str, Bound] | None:
    """Read one claim: its unit and what it rules out."""
    if (found := stated(raw)) is None:
        return None
    unit, epsilon, delta = found
    values = {"epsilon": words.number(rounded_up(epsilon)), "delta": words.number(rounded_up(delta))}
    name = both("chart.bound", unit=both(f"chart.unit_{unit}"), **values)
    x, y = _exact(raw.get("ceiling")) or implied(epsilon, delta)
    return unit, Bound(name=name, x=x, y=y)


def _number(value: Any) -> float | None:
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if numeric and math.isfinite(value) else None


def implied(epsilon: float, delta: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the most that (epsilon, delta) alone lets anybody recognise at each false-positive rate.

    min(e^eps f + delta, 1 - e^-eps (1 - delta - f)), at most 1 (Kairouz, Oh and Viswanath 2015, theorem 2.1).

    >>> x, y = implied(1.0, 0.0)
    >>> round(y[0] / x[0], 3)
    2.718
    """
    x = np.geomspace(1e-6, 1.0, 241)
    with np.errstate(over="ignore"):
        y = np.minimum(np.exp(min(epsilon, 700.0)) * x + delta, 1 - np.exp(-epsilon) * (1 - delta - x))
    return tuple(x.tolist()), tuple(np.clip(y, 0.0, 1.0).tolist())


def _exact(raw: Any) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return a ceiling given point by point, if it is one: rates that rise above 0, shares that never fall.

    Six points a decade are enough: the straight lines between them are within half a pixel of the curve.
    """
    try:
        points = np.asarray(raw, np.float64)
    except (TypeError, ValueError):
        return None
    if (
        points.ndim != 2
        or points.shape[1] != 2
        or not 12 <= len(points) <= 1000
        or not np.isfinite(points).all()
    ):
        return None
    x, y = points.T
    fits = (
        (np.diff(x) > 0).all()
        and (np.diff(y) >= 0).all()
        and x[0] > 0
        and x[-1] <= 1
        and y[0] >= 0
        and y[-1] <= 1
    )
    return (tuple(x.tolist()), tuple(y.tolist())) if fits else None


def rounded_up(value: float) -> float:
    """Return a bound with three digits, never smaller than it is."""
    if not 0 < value < math.inf:
        return value
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return float(f"{math.ceil(value / unit - 1e-9) * unit:.3g}")
