# SPDX-License-Identifier: Apache-2.0
"""Reading charts back, and the smallest reports to draw: shared by the tests of charts."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree as ET

from casemate.core.types import Measurement
from casemate.report.charts import Chart
from casemate.report.model import Report

Point = tuple[float, float]


def parsed(chart: Chart) -> ET.Element:
    """The chart as XML: it must be well formed by itself."""
    return ET.fromstring(chart.svg("here"))


def path(element: ET.Element) -> list[Point]:
    """The corners of a path: pairs, or one number where a stroke lies straight across (H) or upright (V)."""
    spots: list[Point] = []
    for kind, x, y in re.findall(r"([HV]?)(-?[\d.]+)(?:,(-?[\d.]+))?", element.attrib["d"]):
        last = spots[-1] if spots else (0.0, 0.0)
        spots.append({"H": (float(x), last[1]), "V": (last[0], float(x))}.get(kind) or (float(x), float(y)))
    return spots


def of_class(root: ET.Element, name: str) -> list[ET.Element]:
    return [element for element in root.iter() if name in element.attrib.get("class", "").split()]


def labels(root: ET.Element, shown: str) -> list[Point]:
    """Where a text stands."""
    found = (element for element in root.iter("text") if element.text == shown)
    return [(float(element.attrib["x"]), float(element.attrib["y"])) for element in found]


def across(root: ET.Element, shown: str) -> float:
    """The x of the tick below which the text stands: the lowest text of that name."""
    return max(labels(root, shown), key=lambda place: place[1])[0]


def row(
    quantity: str, *details: Any, method: str = "lira", prop: Any = "privacy", **more: Any
) -> Measurement:
    fields: dict[str, Any] = {
        "value": 0.6,
        "low": 0.5,
        "high": 0.7,
        "n": 400,
        "worse": "higher",
        "version": "1",
    }
    return Measurement(
        property=prop, quantity=quantity, method=method, seed=0, details=details, **(fields | more)
    )


def report(*rows: Measurement, claims: Any = ()) -> Report:
    target = {
        "kind": "sklearn",
        "task": "binary",
        "input": "table",
        "capabilities": ["scores"],
        "digest": "feed",
    }
    return Report(
        created="2026-11-05T10:00:00+00:00",
        version="0.1.0",
        target={**target, "claims": list(claims)},
        data={"n_train": 400, "n_holdout": 400, "digest": "beef"},
        measurements=rows,
    )
