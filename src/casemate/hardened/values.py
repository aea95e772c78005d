# SPDX-License-Identifier: Apache-2.0
"""The settings a defence consists of, as plain JSON and back.

Numbers, texts, lists, mappings and arrays stand for themselves; a frozen dataclass of Casemate stands under its name,
and so do the few functions that settings hold. Nothing else can be written, and nothing else is built from a file: a
name is looked up inside Casemate alone, a class must be one of values (no model, no target), and its own checks run. A
:class:`~casemate.privacy.plan.Plan` is not believed but computed again.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from importlib import import_module
from types import FunctionType
from typing import Any

import numpy as np

from casemate.core.errors import CasemateError, InvalidData
from casemate.core.types import Target
from casemate.privacy.accounting import LEAST_NOISE, MOST_NOISE
from casemate.privacy.plan import Plan

_KEY = "!"  # marks what is not plain JSON
_MODULE = re.compile(
    r"casemate\.(core|privacy|robustness|confidentiality|explanation|training)(\.[a-z0-9_]+)+"
)
_MOST = 100 << 20  # bytes of one array
_FUNCTIONS = frozenset({"casemate.training.loop.standardise", "casemate.training.secure.source"})


class Unwritable(Exception):
    """A value that JSON cannot hold and that is none of Casemate's own."""


def plain(value: Any) -> Any:
    """Return a value as plain JSON.

    Raises:
        Unwritable: it holds something that is neither plain data nor a value of Casemate.

    >>> plain({"a": (1, math.inf), "b": np.zeros(1)})["a"]
    [1, {'!': 'number', 'value': 'inf'}]
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {_KEY: "number", "value": str(value)}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) and key != _KEY for key in value):
            raise Unwritable("a mapping whose keys are not texts")
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf":
            raise Unwritable(f"an array of {value.dtype}")
        raw = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode("ascii")
        return {_KEY: "array", "dtype": value.dtype.str, "shape": list(value.shape), "base64": raw}
    if isinstance(value, Plan):
        return {_KEY: _name(Plan), "value": _written(value)}
    if isinstance(value, FunctionType) and _name(value) in _FUNCTIONS:
        return {_KEY: "function", "value": _name(value)}
    if is_dataclass(value) and _admitted(type(value)):
        return {
            _KEY: _name(type(value)),
            "value": {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.init},
        }
    raise Unwritable(f"{type(value).__module__}.{type(value).__qualname__}")


def restored(raw: Any) -> Any:
    """Rebuild a value from :func:`plain`; lists become tuples.

    Raises:
        InvalidData: not written by :func:`plain`, or by a newer Casemate. GuaranteeVoid: a plan that states too little.

    >>> restored(plain(Plan(unit="record", clip=1.0, noise_multiplier=9.0, steps=4, delta=1e-5))).steps
    4
    """
    if isinstance(raw, list):
        return tuple(restored(item) for item in raw)
    if not isinstance(raw, dict):
        return raw
    if _KEY not in raw:
        return {key: restored(item) for key, item in raw.items()}
    try:
        return _built(raw[_KEY], raw)
    except CasemateError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InvalidData(f"{raw[_KEY]!r} is not a value that Casemate wrote: {error}") from error


def _built(kind: Any, raw: dict[str, Any]) -> Any:
    if kind == "number":
        return float(raw["value"])
    if kind == "array":
        return _array(raw)
    if kind == "function":
        if raw["value"] not in _FUNCTIONS:
            raise InvalidData(f"{raw['value']!r} is no function that settings hold")
        return _looked_up(raw["value"])
    cls = _looked_up(kind)
    if cls is Plan:
        return _recomputed(json.dumps(raw["value"]))
    if not _admitted(cls):
        raise InvalidData(f"{kind!r} is no value of Casemate")
    known = {f.name for f in fields(cls) if f.init}
    if unknown := sorted(set(raw["value"]) - known):
        raise InvalidData(f"{kind} has no field {unknown[0]!r} here; a newer Casemate may have written it")
    return cls(**{name: restored(item) for name, item in raw["value"].items()})


@lru_cache(16)  # a plan stands in several pieces of a training, and its cost takes time to compute
def _written(plan: Plan) -> dict[str, Any]:
    raw = plan.to_dict()
    _check_cost(raw)
    return raw


@lru_cache(16)
def _recomputed(text: str) -> Plan:
    raw = json.loads(text)
    _check_cost(raw)
    return Plan.from_dict(raw)


def _check_cost(raw: Mapping[str, Any]) -> None:
    """Refuse a plan that promises nothing (epsilon in the thousands): accounting for it can take all memory."""
    noise, rate, count = raw["noise_multiplier"], raw["rate"], raw["steps"] + raw["counts"]
    least = LEAST_NOISE if rate == 1 else 0.2
    # rate * count / noise**2 is twice the loss to expect
    if not (least <= noise <= MOST_NOISE and rate * count <= 4e3 * noise * noise and count <= 1e6):
        raise InvalidData(
            "a plan of so many steps, or so little noise, that it promises nothing stands in no folder"
        )


def _array(raw: dict[str, Any]) -> np.ndarray:
    dtype, shape = np.dtype(raw["dtype"]), tuple(int(n) for n in raw["shape"])
    data = base64.b64decode(raw["base64"], validate=True) if len(raw["base64"]) <= 2 * _MOST else b""
    if (
        dtype.kind not in "biuf"
        or min(shape, default=0) < 0
        or math.prod(shape) * dtype.itemsize != len(data)
    ):
        raise binascii.Error("an array of another size than its bytes")
    return np.frombuffer(data, dtype).reshape(shape).copy()


def _name(item: Any) -> str:
    return f"{item.__module__}.{item.__qualname__}"


def _looked_up(name: Any) -> Any:
    """Return what stands under a name in Casemate's own value-holding packages, and was defined there."""
    module, _, item = str(name).rpartition(".")
    if not _MODULE.fullmatch(module) or not item.isidentifier():
        raise InvalidData(f"{name!r} names nothing of Casemate")
    try:
        found = vars(import_module(module)).get(item)
    except ImportError as error:
        raise InvalidData(f"this Casemate has no {module!r}; a newer one may have written it") from error
    if getattr(found, "__module__", None) != module:
        raise InvalidData(f"this Casemate has no {name!r}; a newer one may have written it")
    return found


def _admitted(cls: Any) -> bool:
    """Tell whether a class is one of values: a frozen dataclass of Casemate that is no target."""
    return (
        isinstance(cls, type)
        and _MODULE.fullmatch(cls.__module__) is not None
        and "." not in cls.__qualname__
        and is_dataclass(cls)
        and bool(cls.__dataclass_params__.frozen)  # type: ignore[attr-defined]  # every dataclass has it
        and not issubclass(cls, Target)
    )
