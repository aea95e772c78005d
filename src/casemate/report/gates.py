# SPDX-License-Identifier: Apache-2.0
"""Thresholds a report must keep, set by the user in TOML and decided on the end of the interval that is worse.

::

    [[gate]]
    method = "lira"
    quantity = "tpr_at_1pct_fpr"
    max = 0.05  # or min; max_increase, max_decrease for paired differences
    name = "few members stand out"  # optional
"""

from __future__ import annotations

import difflib
import math
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from casemate.core import methods
from casemate.core.errors import CasemateError, GateFailed, InvalidData
from casemate.core.harness import UTILITY, quantities
from casemate.core.stats import Interval
from casemate.core.types import Measurement
from casemate.report import words
from casemate.report.catalogue import Both, as_is, both, joined, said, texts

if TYPE_CHECKING:
    from casemate.report.compare import Row
    from casemate.report.model import Report

Bound = Literal["max", "min", "max_increase", "max_decrease"]
Result = Literal["held", "failed", "not_shown", "not_measured"]
BOUNDS: tuple[Bound, ...] = ("max", "min", "max_increase", "max_decrease")
_MOST_BYTES, _LARGEST = 1_000_000, sys.float_info.max
_KEYS = ("method", "quantity", *BOUNDS, "name")


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One threshold on one quantity of one method; ``max_increase`` and ``max_decrease`` judge paired differences.

    >>> Gate(method="lira", quantity="auc", bound="max", limit=0.6).limit
    0.6
    """

    method: str
    quantity: str
    bound: Bound
    limit: float
    name: str = ""

    @property
    def words(self) -> Both:
        """The gate in words: its own name, or the rule."""
        if self.name:
            return as_is(self.name)
        limit = words.number(self.limit)
        return both(f"gate.limit_{self.bound}", method=self.method, quantity=self.quantity, limit=limit)


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """What became of a gate on one report: held, failed, not shown (limit inside the interval) or not measured.

    ``number`` is what was judged: a measurement's interval, or a paired difference. ``report`` counts the
    reports of a comparison from 0, the first.
    """

    gate: Gate
    result: Result
    number: Interval | None = None
    reason: Both | None = None
    report: int = 0

    @property
    def exit_code(self) -> int:
        """1 failed, 3 not shown or not measured, 0 held."""
        return {"held": 0, "failed": 1}.get(self.result, 3)

    @property
    def why(self) -> Both:
        """The reason in words."""
        return self.reason or as_is("")

    def __str__(self) -> str:
        line = f"{texts('en')[f'gate.{self.result}']}: {self.gate.words['en']} ({self.why['en']})"
        return words.visible(line, 400)


def load(source: Any) -> tuple[Gate, ...]:
    """Read gates from a TOML file (path), from parsed TOML, or from Gate objects.

    Raises:
        InvalidData: unknown keys (with the nearest known one), no or several bounds, a limit that is no number.
    """
    if isinstance(source, (str, Path)):
        try:
            with Path(source).open("rb") as file:
                raw = file.read(_MOST_BYTES + 1)  # a device may have no end
            if len(raw) > _MOST_BYTES:
                raise InvalidData(
                    f"gates {source}: more than {_MOST_BYTES:,} bytes; is this a file of gates?"
                )
            source = tomllib.loads(raw.decode("utf-8"))
        except OSError as error:
            raise InvalidData(f"cannot read gates {source}: {error.strerror or error}") from error
        except RecursionError:
            raise InvalidData(f"gates {source}: nested too deeply; is this a file of gates?") from None
        except ValueError as error:  # TOML and UTF-8 errors
            raise InvalidData(f"gates {source} is not TOML: {error}") from error
    if isinstance(source, Mapping):
        if unknown := [key for key in source if key != "gate"]:
            raise InvalidData(f"gates: unknown key {unknown[0]!r}; write each gate under [[gate]]")
        source = source.get("gate", ())
    if not isinstance(source, Sequence):
        raise InvalidData("gates: want a TOML file with [[gate]] tables, or a list of gates")
    return tuple(
        item if isinstance(item, Gate) else _gate(index, item) for index, item in enumerate(source, 1)
    )


def judge(
    gates: Iterable[Gate], reports: Sequence[Report], rows: Sequence[Row] = ()
) -> tuple[GateResult, ...]:
    """Judge every gate on every report after the first, or on the only one.

    Raises:
        InvalidData: a method or quantity that neither the reports nor Casemate know.
    """
    listed = list(gates)
    for gate in listed:
        _check_names(gate, reports)
    last = range(1, len(reports)) if len(reports) > 1 else range(1)
    return tuple(_judged(gate, reports[index], index, rows) for index in last for gate in listed)


def exit_code(results: Iterable[GateResult]) -> int:
    """Return 1 if a gate failed, else 3 if one was not shown or not measured, else 0.

    >>> exit_code([])
    0
    """
    codes = {result.exit_code for result in results}
    return 1 if 1 in codes else max(codes, default=0)


def require(results: Sequence[GateResult]) -> None:
    """Raise unless every gate held.

    Raises:
        GateFailed: a gate failed (``exit_code`` 1), or could not be shown or measured (``exit_code`` 3).
        InvalidData: no gate was set, so that nothing was judged.
    """
    if not results:
        raise InvalidData(f"{texts('en')['gate.none_set']}; give gates=")
    if code := exit_code(results):
        bad = [str(result) for result in results if result.exit_code]
        error: CasemateError = GateFailed(
            "; ".join(bad[:5]) + (f"; and {len(bad) - 5} more" if bad[5:] else "")
        )
        error.exit_code = code
        raise error


def _gate(index: int, raw: Any) -> Gate:
    if not isinstance(raw, Mapping):
        raise InvalidData(f"gate {index}: want a table with method, quantity and a bound; got {raw!r}")
    for key in raw:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(_KEYS)}"
            raise InvalidData(f"gate {index}: unknown key {key!r}; {hint}")
    for key in ("method", "quantity", "name"):
        if not isinstance(raw.get(key, ""), str) or (key != "name" and not raw.get(key)):
            raise InvalidData(f"gate {index}: {key} must be a name in quotes; got {raw.get(key)!r}")
    bounds = [bound for bound in BOUNDS if bound in raw]
    if len(bounds) != 1:
        raise InvalidData(
            f"gate {index}: give exactly one of {', '.join(BOUNDS)}; got {', '.join(bounds) or 'none'}"
        )
    limit = raw[bounds[0]]
    if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not -_LARGEST <= limit <= _LARGEST:
        raise InvalidData(f"gate {index}: {bounds[0]} must be a finite number; got {limit!r}")
    return Gate(
        method=raw["method"],
        quantity=raw["quantity"],
        bound=bounds[0],
        limit=float(limit),
        name=raw.get("name", ""),
    )


def _check_names(gate: Gate, reports: Sequence[Report]) -> None:
    seen = [m for report in reports for m in report.measurements]
    known = {*methods.names(), UTILITY.name, *(m.method for m in seen)}
    if gate.method not in known:
        raise InvalidData(f"gate: no method {gate.method!r}; {_near(gate.method, known)}")
    card = words.card_of(gate.method)
    own = {*(quantities(card) if card else ()), *(m.quantity for m in seen if m.method == gate.method)}
    if gate.quantity not in own:
        raise InvalidData(
            f"gate: {gate.method} has no quantity {gate.quantity!r}; {_near(gate.quantity, own)}"
        )


def _near(name: str, known: Iterable[str]) -> str:
    listed = sorted(known)
    near = difflib.get_close_matches(name, listed, n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(listed) or 'none'}"


def _judged(gate: Gate, report: Report, index: int, rows: Sequence[Row]) -> GateResult:
    if gate.bound in ("max", "min"):
        found = [
            _limits(m) for m in report.measurements if (m.method, m.quantity) == (gate.method, gate.quantity)
        ]
        missing = said(_why_missing(gate, report))
    else:
        mine = [r for r in rows if (r.method, r.quantity, r.report) == (gate.method, gate.quantity, index)]
        found = [(row.difference, row.reason) for row in mine]
        missing = both("gate.single") if index == 0 else said(_why_missing(gate, report))
    if not found:
        return GateResult(gate=gate, result="not_measured", reason=missing, report=index)
    judged = [_decide(gate, number, reason, index) for number, reason in found]
    return max(judged, key=lambda item: ("held", "not_shown", "not_measured", "failed").index(item.result))


def _limits(m: Measurement) -> tuple[Interval | None, Both]:
    if m.status != "measured" or m.value is None or m.low is None or m.high is None:
        return None, joined([both(f"status.{m.status}"), said(m.reason)])
    return Interval(m.value, m.low, m.high, m.level, m.n), as_is("")


def _decide(gate: Gate, number: Interval | None, reason: Both, index: int) -> GateResult:
    if number is None:
        return GateResult(gate=gate, result="not_measured", reason=reason, report=index)
    # Every bound is brought to the form "high must be <= limit".
    sign = -1.0 if gate.bound in ("min", "max_decrease") else 1.0
    limit = -gate.limit if gate.bound == "min" else gate.limit
    value, ends = sign * number.value, sorted((sign * number.low, sign * number.high))
    shown = words.interval(number.value, number.low, number.high)
    if ends[1] <= limit:
        result: Result = "held"
    elif ends[0] > limit:
        result = "failed"
    else:
        result = "not_shown"
    why = both(f"gate.why_{result}", value=shown)
    if result == "not_shown":
        why = joined([why, _hint(limit - value, ends[1] - value, number.n)])
    return GateResult(gate=gate, result=result, number=number, reason=why, report=index)


def _hint(room: float, arm: float, n: int) -> Both:
    """How many units would bring the end of the interval to the limit: its arm shrinks as 1 / sqrt(n)."""
    if room <= 0 or n < 1 or not math.isfinite(arm):
        return both("gate.value_beyond")
    needed = n * (arm / room) ** 2
    digits = 10 ** max(0, math.floor(math.log10(needed)) - 1)  # two significant digits, rounded up
    return both("gate.more_data", n=str(math.ceil(needed / digits) * digits))


def _why_missing(gate: Gate, report: Report) -> str:
    for item in report.methods:
        if item.get("name") == gate.method and item.get("status") != "ok":
            return str(item.get("reason") or item.get("status"))
    return f"{gate.method} {gate.quantity} is not in the report"
