# SPDX-License-Identifier: Apache-2.0
"""Two or more audits of the same data and seeds: paired differences with intervals, and gates on them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from casemate.core import stats
from casemate.core.errors import InvalidData
from casemate.core.stats import Interval
from casemate.core.types import PROPERTIES, Measurement, PerRecord, Property, Worse
from casemate.report import gates as gating
from casemate.report.catalogue import Both, as_is, both, said
from casemate.report.claims import contradictions
from casemate.report.gates import GateResult
from casemate.report.model import Report, lines_of_json, suffix_of, write_atomic

Verdict = Literal["better", "worse", "none", "unpaired", "not_measured"]
SCHEMA = "casemate-comparison/1"
# The values in a report have six significant digits; ties made by that may move an AUC a little.
# An area under the ROC carries its records on two sides, under one of these pairs of names.
_AUC_SIDES = (("members", "nonmembers"), ("positives", "negatives"))
_AUC_TOLERANCE = 1e-3
_MEAN_TOLERANCE = 1e-5
Pairs = dict[str, tuple[PerRecord, PerRecord]]  # name -> the values of the same records before and after


@dataclass(frozen=True, kw_only=True)
class Row:
    """One quantity before and after, and its paired difference (after minus before) or why there is none.

    ``verdict`` is better, worse, none (no change detected), unpaired (both sides
    measured, no difference with an interval can be made) or not_measured; ``report`` counts the later reports
    from 1.
    """

    property: Property
    method: str
    quantity: str
    unit: str
    worse: Worse
    before: Measurement | None
    after: Measurement | None
    difference: Interval | None
    reason: Both
    verdict: Verdict
    report: int = 1


@dataclass(frozen=True, repr=False)
class Comparison:
    """The reports, a row for each quantity, and what became of the gates. Made by :func:`compare`.

    >>> Comparison(reports=(), rows=(), gates=()).exit_code
    0
    """

    reports: tuple[Report, ...]
    rows: tuple[Row, ...]
    gates: tuple[GateResult, ...]
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 every gate held or none was set, 1 one failed, 3 one could not be shown or measured."""
        return gating.exit_code(self.gates)

    def require(self) -> None:
        """Raise unless every gate held; see :func:`casemate.report.gates.require`."""
        gating.require(self.gates)

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        from casemate.report.plain import text_comparison

        return text_comparison(self)

    def _repr_html_(self) -> str:
        from casemate.report import notebook, render

        return notebook.shown(lambda lang: render.page_comparison(self, lang))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: heads of the reports, rows and gates; no value of a single record."""
        heads = []
        for report in self.reports:
            head = report.to_dict()
            del head["measurements"], head["pairing"]
            heads.append(head)
        return {
            "schema": SCHEMA,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "reports": heads,
            "rows": [_row_dict(row) for row in self.rows],
            "gates": [_gate_dict(result) for result in self.gates],
            "exit_code": self.exit_code,
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """Return the comparison as JSON."""
        return lines_of_json(self.to_dict())

    def save(self, path: str | Path, *, lang: str | None = None) -> Path:
        """Write comparison .json, .html or .md, whole or not at all; ``lang`` as in :meth:`Report.save`."""
        from casemate.report import markdown, notebook, render

        suffix, lang = suffix_of(path), lang or notebook.language()
        if suffix == ".md":
            return write_atomic(path, markdown.of_comparison(self, lang))
        return write_atomic(path, render.page_comparison(self, lang) if suffix == ".html" else self.to_json())


def compare(before: Report, *after: Report, gates: Any = None) -> Comparison:
    """Compare audits of the same data, records, seeds and threat; with no ``after``, judge gates on one report.

    A difference is computed on the records that both reports share (paired, by person where people are named),
    and only where those records reproduce both reported values. Other rows stay visible, without a difference.

    Args:
        before: the first audit.
        after: later audits made with ``like=before``.
        gates: a TOML file, parsed TOML or Gate objects; see :mod:`casemate.report.gates`.

    Returns:
        The comparison: ``rows``, ``gates``, ``require()``, ``save()``.

    Raises:
        InvalidData: reports of different data, ids, seeds, level, threat or method versions; the field is named.
    """
    rows: list[Row] = []
    notes: list[str] = []
    for index, later in enumerate(after, 1):
        _check_same(before, later)
        notes += _notes(before, later, index if len(after) > 1 else None)
        rows += [replace(row, report=index) for row in _rows(before, later)]
    reports = (before, *after)
    broken = []
    for index, report in enumerate(reports):
        tag = "" if not after else _called(index, len(after))
        broken += [f"{tag}{text}" for text in contradictions(report)]
    notes = [*broken, *notes]
    results = gating.judge(gating.load(gates), reports, rows) if gates is not None else ()
    return Comparison(reports, tuple(rows), results, tuple(notes))


# ---------------------------------------------------------------------- may these be compared?


def _check_same(before: Report, after: Report) -> None:
    if "public" in (before.edition, after.edition):
        raise InvalidData(
            "a public edition cannot be compared: it holds no records to pair; compare the internal reports, and write "
            "what comes of it with --public"
        )
    keys = [_fingerprint((report.pairing or {}).get("key")) for report in (before, after)]
    if None not in keys:
        _demand("pairing key (fingerprint)", *keys)
    for name in ("digest", "n_train", "n_holdout", "people"):
        _demand(f"data {name}", before.data.get(name), after.data.get(name))
    for name in ("seed", "level", "threat"):
        _demand(name, getattr(before, name), getattr(after, name))
    versions = [_versions(report) for report in (before, after)]
    for name in versions[0].keys() & versions[1].keys():
        _demand(f"version of {name}", versions[0][name], versions[1][name])


def _demand(name: str, before: Any, after: Any) -> None:
    if before != after:
        raise InvalidData(
            f"these reports cannot be compared: {name} is {_short(before)} before and {_short(after)} after; "
            "audit the second with like= (--like) the first"
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _fingerprint(key: Any) -> str | None:
    """Name a secret in an error message without telling it."""
    return (
        None if key is None else hashlib.sha256(str(key).encode("utf-8", "backslashreplace")).hexdigest()[:8]
    )


def _called(index: int, n_after: int) -> str:
    """Return what the page calls a report of a comparison, to stand before a note."""
    return "Before: " if index == 0 else "After: " if n_after < 2 else f"After ({index}): "


def _versions(report: Report) -> dict[str, str]:
    listed = {str(item["name"]): str(item["version"]) for item in report.methods if "version" in item}
    return listed | {m.method: m.version for m in report.measurements}


def _notes(before: Report, after: Report, index: int | None) -> Iterator[str]:
    tag = _called(index, 2) if index else ""
    if before.target.get("digest") == after.target.get("digest"):
        yield f"{tag}both reports are of the same model (digest {str(after.target.get('digest'))[:16]})"
    if before.version != after.version:
        yield f"{tag}made by different versions of Casemate: {before.version} before, {after.version} after"
    if before.effort != after.effort:
        yield f"{tag}made at different effort: {before.effort} before, {after.effort} after"
    params = [{str(item["name"]): item.get("params", {}) for item in r.methods} for r in (before, after)]
    for name in params[0].keys() & params[1].keys():
        for key in sorted(params[0][name].keys() | params[1][name].keys()):
            pair = [part[name].get(key) for part in params]
            if pair[0] != pair[1]:
                yield f"{tag}{name} ran with {key} = {_short(pair[0])} before and {_short(pair[1])} after"


# ---------------------------------------------------------------------- rows


def _rows(before: Report, after: Report) -> list[Row]:
    first, second = _keyed(before), _keyed(after)
    either = {**second, **first}
    place = {key: index for index, key in enumerate((*first, *(key for key in second if key not in first)))}
    keys = sorted(place, key=lambda key: (PROPERTIES.index(either[key].property), place[key]))
    return [_one(first.get(key), second.get(key)) for key in keys]


def _keyed(report: Report) -> dict[tuple[str, str, int], Measurement]:
    turns: Counter[tuple[str, str]] = Counter()
    out: dict[tuple[str, str, int], Measurement] = {}
    for m in report.measurements:
        out[m.method, m.quantity, turns[m.method, m.quantity]] = m
        turns[m.method, m.quantity] += 1
    return out


def _one(before: Measurement | None, after: Measurement | None) -> Row:
    some = before or after
    if some is None:
        raise InvalidData("a row needs a measurement on one side")
    difference, reason = _difference(before, after)
    return Row(
        property=some.property,
        method=some.method,
        quantity=some.quantity,
        unit=some.unit,
        worse=some.worse,
        before=before,
        after=after,
        difference=difference,
        reason=reason,
        verdict=_verdict(difference, some.worse, measured=_measured(before) and _measured(after)),
    )


def _measured(m: Measurement | None) -> bool:
    return m is not None and m.status == "measured"


def _verdict(difference: Interval | None, worse: Worse, *, measured: bool) -> Verdict:
    if difference is None:
        return "unpaired" if measured else "not_measured"
    if difference.low <= 0 <= difference.high:
        return "none"
    return "worse" if (difference.low > 0) == (worse == "higher") else "better"


def _difference(before: Measurement | None, after: Measurement | None) -> tuple[Interval | None, Both]:
    for m, side in ((before, both("page.before")), (after, both("page.after"))):
        if m is None:
            return None, both("change.absent", side=side)
        if m.status != "measured":
            status = both(f"status.{m.status}")
            return None, both("change.unmeasured", side=side, status=status, why=said(m.reason))
    if before is None or after is None or before.value is None or after.value is None:
        return None, both("change.not_paired")
    for name in ("threat", "seed", "level"):
        _demand(f"{name} of {before.method} {before.quantity}", getattr(before, name), getattr(after, name))
    if before.low == before.high and after.low == after.high:  # exact numbers differ exactly
        gap = after.value - before.value
        return Interval(gap, gap, gap, before.level, min(before.n, after.n)), as_is("")
    pairs = _shared(before, after)
    for first, second in pairs.values():
        values = (*first.values, *second.values)
        if lost := len(values) - int(
            np.isfinite(np.asarray(values, np.float64)).sum()
        ):  # None is read as NaN
            return None, both("change.not_finite", lost=str(lost), n=str(len(values)))
    try:
        made, values_again, tolerance = _paired(pairs, before.level)
    except InvalidData as error:  # too few records or people
        return None, said(str(error))
    if made is None:
        return None, both("change.not_paired")
    # A quantity that is no mean and no AUC of its records must not get the interval of one.
    if max(abs(values_again[0] - before.value), abs(values_again[1] - after.value)) > tolerance:
        return None, both("change.not_reproduced")
    return made, as_is("")


def _paired(pairs: Pairs, level: float) -> tuple[Interval | None, tuple[float, float], float]:
    """Return the paired difference, both values as the records give them, and how far those may be rounded."""
    if tuple(pairs) in _AUC_SIDES:
        members, others = pairs.values()
        made = stats.paired_auc(
            members[0].values,
            others[0].values,
            members[1].values,
            others[1].values,
            positive_clusters=members[0].clusters or None,
            negative_clusters=others[0].clusters or None,
            level=level,
        )
        areas = [stats.auc(members[side].values, others[side].values).value for side in (0, 1)]
        return made, (areas[0], areas[1]), _AUC_TOLERANCE
    if len(pairs) != 1:
        return None, (0.0, 0.0), 0.0
    ((first, second),) = pairs.values()
    made = stats.paired_mean(first.values, second.values, clusters=first.clusters or None, level=level)
    means = (float(np.mean(first.values)), float(np.mean(second.values)))
    size = float(np.mean(np.abs([first.values, second.values])))
    return made, means, _MEAN_TOLERANCE * size + 1e-9


def _shared(before: Measurement, after: Measurement) -> Pairs:
    """Return the per-record values that both hold, the second put in the order of the first."""
    sides = [{d.name: d for d in m.details if isinstance(d, PerRecord)} for m in (before, after)]
    return {name: _matched(before, sides[0][name], sides[1][name]) for name in sides[0] if name in sides[1]}


def _matched(m: Measurement, first: PerRecord, second: PerRecord) -> tuple[PerRecord, PerRecord]:
    where = f"ids of {m.method} {m.quantity} {first.name}"
    if len(set(first.ids)) != len(first.ids):
        raise InvalidData(f"these reports cannot be compared: {where} repeat")
    if first.ids == second.ids:
        moved = second
    else:
        place = {identity: index for index, identity in enumerate(second.ids)}
        shared = sum(1 for identity in first.ids if identity in place)
        if len(second.ids) != len(first.ids) or shared != len(first.ids):
            _demand(
                where, f"{len(first.ids)} records", f"{len(second.ids)} records, {shared} of them the same"
            )
        order = [place[identity] for identity in first.ids]
        moved = replace(
            second,
            ids=first.ids,
            values=tuple(second.values[i] for i in order),
            clusters=tuple(second.clusters[i] for i in order) if second.clusters else (),
        )
    if first.clusters != moved.clusters:
        differ = sum(1 for a, b in zip(first.clusters, moved.clusters, strict=False) if a != b)
        people = [f"{len(set(side.clusters))} people" for side in (first, moved)]
        _demand(f"person codes of {where[7:]}", people[0], f"{people[1]}, {differ} codes moved")
    return first, moved


# ---------------------------------------------------------------------- JSON


def _row_dict(row: Row) -> dict[str, Any]:
    def bare(m: Measurement | None) -> Any:
        return None if m is None else replace(m, details=()).to_dict()

    return {
        "report": row.report,
        "property": row.property,
        "method": row.method,
        "quantity": row.quantity,
        "unit": row.unit,
        "worse": row.worse,
        "before": bare(row.before),
        "after": bare(row.after),
        "difference": None if row.difference is None else asdict(row.difference),
        "reason": row.reason["en"],
        "verdict": row.verdict,
    }


def _gate_dict(result: GateResult) -> Mapping[str, Any]:
    return {
        **asdict(result.gate),
        "report": result.report,
        "result": result.result,
        "number": None if result.number is None else asdict(result.number),
        "reason": result.why["en"],
        "exit_code": result.exit_code,
    }
