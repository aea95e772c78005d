# SPDX-License-Identifier: Apache-2.0
"""The public edition: the aggregates of a report, rebuilt from a list of what may be said; all else stays behind.

An audit asks the members themselves, so not even its averages are covered by an epsilon. What is left here is
disclosure control, no guarantee: nothing of a single record, no name that the user, the data or the machine gave, no
digest or key by which records or models could be tested, no free text, no number about fewer than ten people or
records, counts at two digits, shares in steps of ten people, other numbers at three digits, curves on fixed points. A
text, table or field that is not on the list is left out and counted; a new field of a report is left out until somebody
puts it on the list.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import Any, get_args

from casemate.core import methods
from casemate.core.harness import quantities
from casemate.core.methods import Card
from casemate.core.stats import Interval
from casemate.core.types import (
    Capability,
    Curve,
    Detail,
    Input,
    Measurement,
    Note,
    PerRecord,
    Table,
    Task,
    Threat,
)
from casemate.report import claims, verdict, words
from casemate.report.catalogue import as_is, both
from casemate.report.coarse import LEAST, Ends, count, curve, decade, digits, outward, shares, stepped
from casemate.report.compare import Comparison, Row
from casemate.report.gates import Gate, GateResult
from casemate.report.model import Report

KINDS = ("scikit-learn", "torch", "trees", "XGBoost", "LightGBM", "predict function")
ABOUT_NOBODY = ("scan_artefact",)  # asks a file and no record
SIDES = (
    "members",
    "nonmembers",
    "positives",
    "negatives",
)  # lists of records that are set against each other
EXTREMES = ("extraction_error",)  # the largest of all records is one record's own
IMPORTANCE = ("importance", ("column", "importance", "low", "high"))
RECIPE = ("models of the recipe", ("quantity", "mean", "sd", "least", "most", "models"))
GROUPS = ("group", "n", "value", "low", "high")
WITHHELD = "withheld"
WHY = "the reason stands in the internal edition"
FEW = "fewer than 10 people or records"


def of_report(report: Report) -> Report:
    """Return the public edition of a report; one that is public stays as it is."""
    return report if report.edition == "public" else _Edition().report(report)


def of_comparison(comparison: Comparison) -> Comparison:
    """Return the public edition of a comparison: the rows and gates as they were judged, without names and reasons."""
    edition = _Edition()
    reports = tuple(
        report if report.edition == "public" else edition.report(report) for report in comparison.reports
    )
    found = [edition.row(row) for row in comparison.rows]
    rows = tuple(row for row in found if row is not None)
    gates = tuple(_gate(result, reports) for result in comparison.gates)
    notes = [f"{len(comparison.notes)} notes"] if comparison.notes else []
    notes += [f"{len(found) - len(rows)} rows"] if len(rows) < len(found) else []
    told = (f"Left out of this edition: {', '.join(notes)}.",) if notes else ()
    return Comparison(reports, rows, gates, told)


@dataclass(frozen=True)
class _Edition:
    """The numbers given to columns and groups: the same for the same name in every report of an edition."""

    columns: dict[str, str] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)

    def report(self, report: Report) -> Report:
        gone: Counter[str] = Counter()
        rows = [self.measurement(m, gone) for m in report.measurements]
        ran = [_method(item, report.target) for item in report.methods]
        gone["methods and numbers this version does not know"] += rows.count(None) + ran.count(None)
        gone["caveats"] += len(report.target.get("caveats", ()))
        stated = [_claim(item) for item in report.target.get("claims", ())]
        gone["claims"] += stated.count(None)
        lacking = {item["name"]: item["reason"] for item in ran if item is not None and item["reason"]}
        kept = tuple(
            m if m.status == "measured" else replace(m, reason=lacking.get(m.method, m.reason))
            for m in rows
            if m is not None
        )
        data, target, people = report.data, report.target, report.data.get("people")
        made = Report(
            created=_match(r"\d{4}-\d\d-\d\d", report.created, "not stated"),
            version=_match(r"\d{1,4}(\.\d{1,4}){0,3}((a|b|rc|\.dev)\d{1,4})?", report.version, WITHHELD),
            target={
                "kind": _among(KINDS, target.get("kind")) or "model",
                "task": _among(get_args(Task), target.get("task")),
                "input": _among(get_args(Input), target.get("input")) or "unknown",
                "classes": (),
                "capabilities": [c.value for c in Capability if c.value in target.get("capabilities", ())],
                "source": None,
                "digest": WITHHELD,
                **({"claims": [item for item in stated if item is not None]} if stated else {}),
            },
            data={
                "input": _among(get_args(Input), data.get("input")) or "unknown",
                "n_train": count(data.get("n_train")),
                "n_holdout": count(data.get("n_holdout")),
                "n_columns": data["n_columns"] if isinstance(data.get("n_columns"), int) else None,
                "people": None
                if not people
                else {part: count(people.get(part)) for part in ("train", "holdout")},
                "digest": WITHHELD,
            },
            seed=report.seed,
            level=report.level,
            effort=_among(("quick", "standard", "deep"), report.effort) or "standard",
            threat=None if report.threat is None else _threat(_threat_of(report.threat)).to_dict(),
            methods=tuple(item for item in ran if item is not None),
            measurements=kept,
            edition="public",
        )
        # made of this edition's own numbers: a claim may not be handed out without what speaks against it
        caveats = [*_left_out(gone), *claims.contradictions(made), *_moved(report, made)]
        if self.columns or self.groups:
            caveats.append(
                "Columns and groups are not named: they are numbered as they first appear in a table."
            )
        return replace(made, target={**made.target, "caveats": caveats})

    def measurement(self, m: Measurement, gone: Counter[str]) -> Measurement | None:
        """Rebuild a number from its method's card; None for one that this version does not know."""
        card = words.card_of(m.method)
        known = quantities(card).get(m.quantity) if card is not None else None
        if card is None or known is None:
            return None
        few = _fewest(m) < LEAST and card.name not in ABOUT_NOBODY
        shown = not few and m.value is not None
        value, low, high = _ends(card, m.quantity, m) if shown else (None, None, None)
        small = few and m.value is not None
        gone[f"numbers about {FEW}"] += small
        return Measurement(
            property=card.property,
            quantity=m.quantity,
            value=value,
            low=low,
            high=high,
            level=m.level,
            n=m.n if card.name in ABOUT_NOBODY else count(m.n),
            unit=known.unit,
            worse=known.worse,
            status=m.status if shown or m.status != "measured" else "not_measured",
            reason="" if shown and m.status == "measured" else FEW if small else WHY,
            method=card.name,
            version=_match(r"\d{1,4}(\.\d{1,4}){0,2}", m.version, "0"),
            threat=None if m.threat is None else _threat(m.threat),
            seed=m.seed,
            details=tuple(self.details(m, card, gone, few=few)),
        )

    def details(self, m: Measurement, card: Card, gone: Counter[str], *, few: bool) -> list[Detail]:
        """Return what may be shown beside a number, and count the rest."""
        made: list[Detail] = []
        for piece in m.details:
            kept: Detail | None = None
            if isinstance(piece, Curve) and not few:
                kept = curve(piece, count(_fewest(m)))
            elif isinstance(piece, Table) and not few:
                kept = self.table(piece, card)
            if kept is not None:
                made.append(kept)
            gone[_WORDS[type(piece)]] += kept is None
        return made

    def table(self, table: Table, card: Card) -> Table | None:
        """Keep what stands for columns and for groups, which become numbers, and what models of the recipe leak."""
        known = {f"{name} by group": quantity for name, quantity in quantities(card).items()}
        form = (table.name, table.columns)
        if any(len(row) != len(table.columns) for row in table.rows):
            return None
        names = [str(row[0]) for row in table.rows if row]
        if form == IMPORTANCE:
            first = [self.columns.setdefault(name, f"column {len(self.columns) + 1}") for name in names]
        elif form == RECIPE:
            first = [_among(quantities(card), name) or WITHHELD for name in names]
        elif table.name in known and table.columns == GROUPS:
            return self.grouped(table, share=known[table.name].unit == "share")
        else:
            return None
        rows = zip(first, table.rows, strict=True)
        return replace(table, rows=tuple((one, *map(_cell, row[1 : len(form[1])])) for one, row in rows))

    def grouped(self, table: Table, *, share: bool) -> Table | None:
        """Keep a figure by group; not where a group has fewer than ten: it is what the others leave of the whole."""
        rows: list[tuple[Any, ...]] = []
        for label, n, *cells in (
            row for row in table.rows if row[1:2] != (0,)
        ):  # of nobody there is nothing to say
            numbers = [
                float(cell) for cell in cells if isinstance(cell, (int, float)) and math.isfinite(cell)
            ]
            if not isinstance(n, int) or n < LEAST or len(numbers) != 3:
                return None
            name = self.groups.setdefault(str(label), f"group {len(self.groups) + 1}")
            value, low, high = numbers
            whole = count(n)
            ends = (stepped(value, whole), stepped(low, whole, -1), stepped(high, whole, 1))
            rows.append((name, whole, *(ends if share else outward(value, low, high))))
        return replace(table, rows=tuple(rows))

    def row(self, row: Row) -> Row | None:
        """Rebuild a row of a comparison; its verdict stays the one that was reached on the records."""
        sides = [None if m is None else self.measurement(m, Counter()) for m in (row.before, row.after)]
        some = next((m for m in sides if m is not None), None)
        if some is None:
            return None
        lost = any(m is not None and m.value is None for m in sides)
        card = words.card_of(some.method)
        gap = None
        if row.difference is not None and card is not None and not lost and row.quantity not in EXTREMES:
            gap = _interval(card, row.quantity, row.difference, gap=True)
        return replace(
            row,
            property=some.property,
            method=some.method,
            quantity=some.quantity,
            unit=some.unit,
            worse=some.worse,
            before=sides[0],
            after=sides[1],
            difference=gap,
            reason=as_is("") if gap is not None else both("page.withheld"),
            verdict="not_measured" if lost else row.verdict,
        )


_WORDS: Mapping[type[Detail], str] = {
    PerRecord: "lists of single records",
    Table: "tables",
    Note: "notes",
    Curve: "curves",
}


def _method(item: Mapping[str, Any], target: Mapping[str, Any]) -> dict[str, Any] | None:
    card = words.card_of(str(item.get("name")))
    if card is None:
        return None
    status = _among(("ok", "not_run", "failed"), item.get("status")) or "failed"
    lacking = sorted(need.value for need in card.needs if need.value not in target.get("capabilities", ()))
    why = f"needs {', '.join(lacking)}, which this target does not offer" if lacking else WHY
    return {
        "name": card.name,
        "version": _match(r"\d{1,4}(\.\d{1,4}){0,2}", item.get("version"), "0"),
        "params": _params(card, item.get("params", {})),
        "status": status,
        "reason": "" if status == "ok" else why,
    }


def _claim(claim: Any) -> dict[str, Any] | None:
    """Rebuild a guarantee of differential privacy from its numbers: it is public, and rests on no record."""
    if (found := claims.stated(claim)) is None:
        return None
    unit, epsilon, delta = found
    says = f"differential privacy: epsilon {epsilon} at delta {delta}, each a {unit}"
    pairs = [
        pair
        for pair in claim.get("ceiling", ())
        if len(pair) == 2 and all(isinstance(rate, (int, float)) for rate in pair)
    ]
    return {"says": says, "unit": unit, "epsilon": epsilon, "delta": delta, "ceiling": pairs}


def _params(card: Card, params: Mapping[str, Any]) -> dict[str, Any]:
    """Keep numbers and switches where the default is one; a text, or a number in place of none, may name rows."""
    if card.name not in methods.names():
        return {}
    own = signature(methods.find(card.name).function).parameters
    plain = (bool, int, float)
    return {
        name: digits(value) if isinstance(value, float) else value
        for name, value in params.items()
        if name in own and isinstance(value, plain) and isinstance(own[name].default, plain)
    }


def _gate(result: GateResult, reports: Sequence[Report]) -> GateResult:
    """Rebuild the result of a gate; its number is shown where the public ``reports`` show it."""
    gate, card = result.gate, words.card_of(result.gate.method)
    known = card is not None and gate.quantity in quantities(card)
    method, quantity = (gate.method, gate.quantity) if known else (WITHHELD, WITHHELD)
    made = Gate(method=method, quantity=quantity, bound=gate.bound, limit=gate.limit)
    gap = gate.bound in ("max_increase", "max_decrease")
    sides = [
        m
        for report in ((reports[0], reports[result.report]) if gap else (reports[result.report],))
        for m in report.measurements
        if (m.method, m.quantity) == (gate.method, gate.quantity)
    ]
    withheld = any(m.value is None for m in sides) or (gap and gate.quantity in EXTREMES)
    number = None
    if card is not None and known and result.number is not None and not withheld:
        number = _interval(card, gate.quantity, result.number, gap=gap)
    why = both("page.withheld")
    if number is not None:
        shown = words.interval(number.value, number.low, number.high)
        why = both(f"gate.why_{result.result}", value=shown)
    return GateResult(gate=made, result=result.result, number=number, reason=why, report=result.report)


def _fewest(m: Measurement) -> int:
    """Return how many people or records a number rests on: of two sides the fewer."""
    lists = [piece for piece in m.details if isinstance(piece, PerRecord) and piece.name in SIDES]
    return min([m.n, *(len(set(piece.clusters or piece.ids)) for piece in lists)])


def _ends(card: Card, quantity: str, found: Measurement | Interval, *, gap: bool = False) -> Ends:
    """Return value and limits as coarse as the quantity asks."""
    if quantity in EXTREMES and found.value is not None:
        return (decade(found.value),) * 3
    ends = (found.value, found.low, found.high)
    share = quantities(card)[quantity].unit == "share"
    return shares(*ends, count(found.n), gap=gap) if share else outward(*ends)


def _interval(card: Card, quantity: str, found: Interval, *, gap: bool) -> Interval:
    value, low, high = _ends(card, quantity, found, gap=gap)
    ends: dict[str, Any] = {"value": value, "low": low, "high": high}
    return replace(found, n=count(found.n), **ends)


def _threat(threat: Threat) -> Threat:
    return replace(threat, radius=digits(threat.radius))


def _threat_of(raw: Mapping[str, Any]) -> Threat:
    return Threat(**{name: raw.get(name) for name in ("norm", "radius", "scale", "goal", "n_queries")})


def _left_out(gone: Counter[str]) -> list[str]:
    told = [f"{n} {what}" for what, n in gone.items() if n]
    if not told:
        return []
    limits = "Notes and caveats may limit what the numbers mean; they stand in the internal edition."
    return [f"Left out of this edition: {', '.join(told)}. {limits}"]


def _moved(report: Report, made: Report) -> list[str]:
    """Say where leaving out and rounding changed what a verdict says."""
    pairs = zip(verdict.sentences(report), verdict.sentences(made), strict=True)
    return [
        f"The verdict on {one.property} was reached on numbers that are rounded or left out here: there it is "
        f"'{one.state.replace('_', ' ')}', here '{other.state.replace('_', ' ')}'."
        for one, other in pairs
        if one.state != other.state
    ]


def _cell(value: Any) -> float | None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return digits(value) if number else None


def _among(known: Any, value: Any) -> Any:
    return value if isinstance(value, str) and value in known else None


def _match(pattern: str, value: Any, otherwise: str) -> str:
    """Return the beginning of a text if it has the form, which no free text has."""
    found = re.match(pattern, value) if isinstance(value, str) else None
    return found.group() if found else otherwise
