# SPDX-License-Identifier: Apache-2.0
"""One sentence a property, and what was not measured: the same on the page and on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from casemate.core.types import PROPERTIES, Measurement, Property, Table
from casemate.report import words
from casemate.report.catalogue import Both, as_is, both
from casemate.report.model import Report

State = Literal[
    "none",
    "found",
    "not_found",
    "evasion",
    "evasion_goal",
    "dangerous",
    "solved",
    "copied",
    "explained",
    "explained_none",
    "number",
]
SOLVED = 1e-6  # a copy whose scores differ by less is the model itself
AT_RISK: tuple[Property, ...] = tuple(name for name in PROPERTIES if name != "utility")


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """What a report says of one property, long and short, and of which kind the statement is."""

    property: Property
    state: State
    long: Both
    short: Both


def sentences(report: Report) -> list[Sentence]:
    """Return one sentence for each property at risk, measured or not."""
    return [_sentence(report, name) for name in AT_RISK]


@dataclass(frozen=True, kw_only=True)
class Missing:
    """Something that was asked for and not shown: a method, or one quantity of it, and the reason."""

    method: str
    quantity: str
    status: str
    reason: str

    @property
    def key(self) -> str:
        """Return its name in short."""
        return f"{self.method} {self.quantity}".rstrip()

    @property
    def name(self) -> Both:
        """Return its name in words."""
        title = words.title(self.method)
        if self.quantity:
            named = words.quantity_title(self.method, self.quantity)
            title = both("verdict.titled", method=title, quantity=named)
        return both("verdict.named", name=title, status=both(f"status.{self.status}"))


def missing(report: Report) -> list[Missing]:
    """Return what was asked for and not shown, each once."""
    found: dict[tuple[str, str, str], Missing] = {}
    for item in report.methods:
        if item.get("status") != "ok":
            name, reason = str(item.get("name")), str(item.get("reason", ""))
            made = Missing(method=name, quantity="", status=str(item.get("status")), reason=reason)
            found[name, "", reason] = made
    for m in report.measurements:
        if m.status != "measured" and (m.method, "", m.reason) not in found:
            made = Missing(method=m.method, quantity=m.quantity, status=m.status, reason=m.reason)
            found[m.method, m.quantity, m.reason] = made
    return list(found.values())


def strongest(m: Measurement) -> list[str]:
    """Return the columns of an explainer's importance table, strongest first."""
    for detail in m.details:
        if isinstance(detail, Table) and detail.name == "importance":
            return [str(row[0]) for row in detail.rows if row]
    return []


def _sentence(report: Report, name: Property) -> Sentence:
    state, m = headline(report, name)
    short: dict[str, str | Both] = {"property": both(f"property.{name}")}
    if m is None:
        return Sentence(
            property=name, state=state, long=both("verdict.none"), short=both("verdict.short_none", **short)
        )
    found = blanks(report, m)
    names = {"method": as_is(m.method), "quantity": as_is(m.quantity)}
    return Sentence(
        property=name,
        state=state,
        long=both(f"verdict.{state}", **found),
        short=both(f"verdict.short_{state}", **{**found, **short, **names}),
    )


def blanks(
    report: Report, m: Measurement, write: Callable[[Measurement], str] = words.of
) -> dict[str, str | Both]:
    """Return what the blanks of the sentences about a number are filled with; ``write`` writes the number."""
    measured = _measured(report, m.property)
    return {
        "method": words.title(m.method),
        "quantity": words.quantity_title(m.method, m.quantity),
        "data": next((write(r) for r in measured if r.quantity == "fidelity_data_only"), "–"),
        "value": write(m),
        "n": str(m.n),
        "null": words.number(_null(m, measured)),
        "k": str(len([r for r in measured if words.null_of(r) is not None])),
        "column": words.visible(next(iter(strongest(m)), ""), 60),
        "attacker": words.attacker(m, report.target.get("capabilities", ()), "verdict.and"),
    }


def headline(report: Report, name: Property) -> tuple[State, Measurement | None]:
    """Choose the measurement that says most of a property, and what kind of statement it allows."""
    return _headline(_measured(report, name))


def stands(report: Report, m: Measurement) -> State | None:
    """Say whether one number of a report is beyond guessing; None where guessing is not known."""
    gain = next((gain for gain, one in _beyond(_measured(report, m.property)) if one is m), None)
    return None if gain is None else "found" if gain > 0 else "not_found"


def _measured(report: Report, name: Property) -> list[Measurement]:
    return [m for m in report.measurements if m.property == name and m.status == "measured"]


def _headline(measured: list[Measurement]) -> tuple[State, Measurement | None]:
    """Choose the measurement that says most; where guessing is known, by how far it is beyond guessing."""
    answers = [m for m in measured if words.headline(m)]
    if not answers:  # a control alone is no answer
        return "none", None
    tested = list(_beyond(measured))
    if tested:
        gain, m = max(tested, key=lambda pair: pair[0])
        return ("found" if gain > 0 else "not_found"), m
    evasions = [m for m in answers if m.quantity == "robust_accuracy"]
    if evasions:
        worst = min(evasions, key=lambda m: m.value or 0.0)
        aimed = worst.threat is not None and worst.threat.goal is not None
        return ("evasion_goal" if aimed else "evasion"), worst
    if at_rest := _taken({m.quantity: m for m in measured}):
        return at_rest
    explained = [m for m in answers if strongest(m)]
    if explained:
        m = max(explained, key=lambda m: m.n)
        return ("explained" if (m.low or 0.0) > 0 else "explained_none"), m
    return "number", answers[0]


def _taken(measured: Mapping[str, Measurement]) -> tuple[State, Measurement] | None:
    """Say the worst that is known of the model as a thing: its file runs code, it is solved, it is copied."""
    if (file := measured.get("dangerous_objects")) and (file.value or 0.0) > 0:
        return "dangerous", file
    if (copy := measured.get("extraction_error")) and copy.value is not None and copy.value <= SOLVED:
        return "solved", copy
    if copy := measured.get("fidelity"):
        return "copied", copy
    return None


def _null(m: Measurement, measured: list[Measurement]) -> float | None:
    """What is reached without the model: by guessing, or by telling members apart from the data alone (blind_auc)."""
    null = words.null_of(m)
    blind = [r.value for r in measured if (r.method, r.quantity) == (m.method, f"blind_{m.quantity}")]
    return null if null is None or not blind else max(null, blind[0] or 0.0)


def _beyond(measured: list[Measurement]) -> Iterator[tuple[float, Measurement]]:
    """Yield how far the lower limit is beyond guessing, the limit widened for the number of quantities (Bonferroni).

    The limit of the wider level is taken from the normal quantiles, since only the limits at ``level`` are known.
    """
    known = [(_null(m, measured), m) for m in measured]
    k = sum(1 for null, _ in known if null is not None)
    for null, m in known:
        if null is None or m.value is None or m.low is None:
            continue
        tail = (1 - m.level) / 2
        wider = NormalDist().inv_cdf(1 - tail / k) / NormalDist().inv_cdf(1 - tail)
        yield (m.value - wider * (m.value - m.low) - null) / max(1 - null, 1e-9), m
