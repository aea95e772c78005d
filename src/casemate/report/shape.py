# SPDX-License-Identifier: Apache-2.0
"""Checks a parsed report against report.schema.json, with the part of JSON Schema 2020-12 that file uses.

The schema is the one description of the file; this reader keeps a JSON Schema library out of the base install.
Tests hold it against the `jsonschema` package.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

KEYWORDS = frozenset(
    "$ref type enum const required properties items minimum exclusiveMinimum exclusiveMaximum minLength "
    "pattern if then else allOf".split()
)
ANNOTATIONS = frozenset({"$schema", "$id", "$defs", "title", "description"})
_TYPES: dict[str, Any] = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


@functools.cache
def schema() -> Mapping[str, Any]:
    """Return the published JSON Schema of a report.

    >>> schema()["$id"]
    'urn:casemate:report:1'
    """
    loaded: Mapping[str, Any] = json.loads((Path(__file__).parent / "report.schema.json").read_text("utf-8"))
    return loaded


def problem(value: Any) -> str | None:
    """Return the first fault of a parsed report as ``place: what``, or None.

    >>> problem({"schema": "casemate-report/1"})
    "the report has no 'created'"
    """
    return next(_faults(value, schema(), ""), None)


def _is(value: Any, name: str) -> bool:
    if name in ("number", "integer"):
        if isinstance(value, float):
            return name == "number" or value.is_integer()
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, _TYPES[name])


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _faults(value: Any, rule: Mapping[str, Any], place: str) -> Iterator[str]:
    at = place or "the report"
    if "$ref" in rule:
        yield from _faults(value, schema()["$defs"][rule["$ref"].rpartition("/")[2]], place)
    if "type" in rule:
        allowed = [rule["type"]] if isinstance(rule["type"], str) else rule["type"]
        if not any(_is(value, name) for name in allowed):
            yield f"{at} must be {' or '.join(allowed)}; got {_shown(value)}"
            return
    if "enum" in rule and not any(_same(value, choice) for choice in rule["enum"]):
        yield f"{at} must be one of {', '.join(map(repr, rule['enum']))}; got {_shown(value)}"
    if "const" in rule and not _same(value, rule["const"]):
        yield f"{at} must be {rule['const']!r}; got {_shown(value)}"
    yield from _limits(value, rule, at)
    if isinstance(value, dict):
        for name in rule.get("required", ()):
            if name not in value:
                yield f"{at} has no {name!r}"
        for name, inner in rule.get("properties", {}).items():
            if name in value:
                yield from _faults(value[name], inner, f"{place}.{name}" if place else name)
    if isinstance(value, list) and "items" in rule:
        for index, item in enumerate(value):
            yield from _faults(item, rule["items"], f"{place}[{index}]")
    for part in rule.get("allOf", ()):
        yield from _faults(value, part, place)
    if "if" in rule:
        branch = "else" if next(_faults(value, rule["if"], place), None) else "then"
        yield from _faults(value, rule.get(branch, {}), place)


def _limits(value: Any, rule: Mapping[str, Any], at: str) -> Iterator[str]:
    if _is(value, "number"):
        if "minimum" in rule and value < rule["minimum"]:
            yield f"{at} must be at least {rule['minimum']}; got {value}"
        if "exclusiveMinimum" in rule and value <= rule["exclusiveMinimum"]:
            yield f"{at} must be above {rule['exclusiveMinimum']}; got {value}"
        if "exclusiveMaximum" in rule and value >= rule["exclusiveMaximum"]:
            yield f"{at} must be below {rule['exclusiveMaximum']}; got {value}"
    if isinstance(value, str) and len(value) < rule.get("minLength", 0):
        yield f"{at} is too short: {value!r}"
    if isinstance(value, str) and "pattern" in rule and not re.search(rule["pattern"], value):
        yield f"{at} has another form than {rule['pattern']}"  # the value may be a secret


def _same(value: Any, other: Any) -> bool:
    return type(value) is type(other) and bool(value == other)
