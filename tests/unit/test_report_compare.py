# SPDX-License-Identifier: Apache-2.0
"""Comparing reports: what may be compared, paired differences against numpy, and gates decided on a bound."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student

from casemate.core import stats
from casemate.core.errors import GateFailed, InvalidData
from casemate.core.types import Measurement, PerRecord, Threat
from casemate.report import gates as gating
from casemate.report.compare import Comparison, compare
from casemate.report.model import Report

RNG = np.random.default_rng(5)
N = 60
LOSS = RNG.exponential(size=N)
LATER = LOSS * 0.5 + 0.1 * RNG.random(N)
MEMBERS, OTHERS = RNG.normal(1.5, 1, N), RNG.normal(0, 1, N)
MEMBERS_LATER, OTHERS_LATER = MEMBERS * 0.2 + RNG.normal(size=N), OTHERS + 0.1 * RNG.normal(size=N)
IDS = tuple(int(i) for i in RNG.permutation(10_000)[:N])


def values(name: str, numbers: Any, ids: tuple[int, ...] = IDS, clusters: Any = ()) -> PerRecord:
    return PerRecord(
        name=name, ids=ids, values=tuple(float(v) for v in numbers), clusters=tuple(int(c) for c in clusters)
    )


def row(interval: Any = (0.6, 0.5, 0.7), *details: PerRecord, **changed: Any) -> Measurement:
    if isinstance(interval, tuple):
        interval = stats.Interval(*interval, 0.95, 100)
    fields: dict[str, Any] = {
        "property": "privacy",
        "quantity": "auc",
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "n": interval.n,
        "worse": "higher",
        "method": "lira",
        "version": "1",
        "seed": 0,
        "details": details,
    }
    return Measurement(**(fields | changed))


def report(*rows: Measurement, **changed: Any) -> Report:
    names = dict.fromkeys(m.method for m in rows)
    fields: dict[str, Any] = {
        "created": "2026-11-05T10:00:00+00:00",
        "version": "0.1.0",
        "target": {
            "kind": "sklearn",
            "task": "binary",
            "input": "table",
            "capabilities": ["scores"],
            "digest": "a",
        },
        "data": {"n_train": N, "n_holdout": N, "people": None, "digest": "data"},
        "methods": tuple({"name": name, "version": "1", "params": {}, "status": "ok"} for name in names),
        "measurements": rows,
        "pairing": {"key": "secret0"},
    }
    return Report(**(fields | changed))


def mean_row(numbers: np.ndarray, detail: PerRecord | None = None, **changed: Any) -> Measurement:
    fixed = {"property": "utility", "method": "utility", "quantity": "log_loss"}
    return row(stats.mean(numbers), detail or values("loss", numbers), **(fixed | changed))


def auc_row(
    members: np.ndarray, others: np.ndarray, ids: tuple[int, ...] = IDS, clusters: Any = ()
) -> Measurement:
    return row(
        stats.auc(members, others),
        values("members", members, ids, clusters),
        values("nonmembers", others, tuple(i + 20_000 for i in ids), [c + 500 for c in clusters]),
    )


# ---------------------------------------------------------------------- paired differences


def test_a_mean_is_compared_record_by_record() -> None:
    """The interval by hand: Student's, on the differences of the same records."""
    made = compare(report(mean_row(LOSS)), report(mean_row(LATER))).rows[0]
    gap = LATER - LOSS
    half = student.ppf(0.975, N - 1) * gap.std(ddof=1) / math.sqrt(N)
    assert made.difference is not None
    assert (made.difference.value, made.difference.low, made.difference.high) == pytest.approx(
        (gap.mean(), gap.mean() - half, gap.mean() + half), rel=1e-9
    )
    assert made.verdict == "better"  # a smaller loss, and higher is worse
    # narrower than what the two intervals by themselves would give
    before, after = stats.mean(LOSS), stats.mean(LATER)
    assert 2 * half < 0.8 * math.hypot(before.high - before.low, after.high - after.low)


def test_records_are_matched_by_id_and_not_by_place() -> None:
    order = np.random.default_rng(1).permutation(N)
    moved = values("loss", LATER[order], tuple(IDS[i] for i in order))
    straight = compare(report(mean_row(LOSS)), report(mean_row(LATER))).rows[0].difference
    shuffled = compare(report(mean_row(LOSS)), report(mean_row(LATER, moved))).rows[0].difference
    assert shuffled == straight


def test_people_widen_the_interval() -> None:
    people = np.repeat(np.arange(N // 5), 5)
    shift = np.repeat(np.random.default_rng(2).normal(size=N // 5), 5)
    rows = [mean_row(v, values("loss", v, clusters=people)) for v in (LOSS, LOSS + shift)]
    clustered = compare(report(rows[0]), report(rows[1])).rows[0].difference
    alone = compare(report(mean_row(LOSS)), report(mean_row(LOSS + shift))).rows[0].difference
    assert clustered is not None
    assert alone is not None
    assert clustered == stats.paired_mean(LOSS, LOSS + shift, clusters=people)
    assert clustered.high - clustered.low > 1.5 * (alone.high - alone.low)


def test_an_auc_is_compared_on_members_and_nonmembers() -> None:
    made = compare(report(auc_row(MEMBERS, OTHERS)), report(auc_row(MEMBERS_LATER, OTHERS_LATER))).rows[0]

    def area(first: np.ndarray, second: np.ndarray) -> float:
        return float((first[:, None] > second).mean())

    assert made.difference is not None
    gap = area(MEMBERS_LATER, OTHERS_LATER) - area(MEMBERS, OTHERS)
    assert made.difference.value == pytest.approx(gap, abs=1e-12)
    assert made.difference == stats.paired_auc(MEMBERS, OTHERS, MEMBERS_LATER, OTHERS_LATER)
    assert made.verdict == "better"


def test_nothing_changed_is_no_change_detected() -> None:
    made = compare(
        report(mean_row(LOSS), auc_row(MEMBERS, OTHERS)), report(mean_row(LOSS), auc_row(MEMBERS, OTHERS))
    )
    assert [r.verdict for r in made.rows] == ["none", "none"]
    assert any("same model" in note for note in made.notes)


@pytest.mark.parametrize(("worse", "verdict"), [("higher", "better"), ("lower", "worse")])
def test_the_direction_of_a_change_is_that_of_the_quantity(worse: str, verdict: str) -> None:
    made = compare(report(mean_row(LOSS, worse=worse)), report(mean_row(LATER, worse=worse)))
    assert made.rows[0].verdict == verdict


def test_exact_numbers_differ_exactly() -> None:
    made = compare(report(row((3.0, 3.0, 3.0))), report(row((5.0, 5.0, 5.0)))).rows[0]
    assert made.difference is not None
    assert (made.difference.low, made.difference.high, made.verdict) == (2.0, 2.0, "worse")


# ---------------------------------------------------------------------- rows without a difference


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (row(), row((0.1, 0.0, 0.2)), "not paired"),
        (row(), None, "not in the report: After"),
        (None, row(), "not in the report: Before"),
        (row(), row(status="inconclusive", reason="too few"), "After: inconclusive: too few"),
        (row(status="not_measured", reason="no refit"), row(), "Before: not measured: no refit"),
        # a median is no mean: the records do not reproduce it
        (
            row((float(np.median(LOSS)), 0.0, 9.0), values("loss", LOSS)),
            row((float(np.median(LATER)), 0.0, 9.0), values("loss", LATER)),
            "do not reproduce",
        ),
        # a rate that carries the scores of an AUC must not get the AUC's interval
        (
            replace(auc_row(MEMBERS, OTHERS), value=0.2, low=0.1, quantity="tpr_at_1pct_fpr"),
            replace(auc_row(MEMBERS_LATER, OTHERS_LATER), value=0.1, low=0.0, quantity="tpr_at_1pct_fpr"),
            "do not reproduce",
        ),
        (
            mean_row(LOSS),
            mean_row(LATER, values("loss", [math.inf, *LATER[1:]])),
            "1 of 120 values per record are not finite",
        ),
        (
            row((1.0, 0.5, 1.5), values("one", [1.0], (1,))),
            row((2.0, 1.5, 2.5), values("one", [2.0], (1,))),
            "2",  # core.stats says that two rows are needed
        ),
    ],
)
def test_a_row_that_cannot_be_paired_stays_visible_without_a_difference(
    before: Measurement | None, after: Measurement | None, says: str
) -> None:
    made = compare(report(*filter(None, [before])), report(*filter(None, [after])))
    assert len(made.rows) == 1
    assert made.rows[0].difference is None
    both_measured = all(side is not None and side.status == "measured" for side in (before, after))
    assert made.rows[0].verdict == ("unpaired" if both_measured else "not_measured")
    assert says in made.rows[0].reason["en"]


def test_rows_stand_in_the_order_of_the_properties() -> None:
    rows = [mean_row(LOSS), row(), row(property="robustness", method="pgd", quantity="robust_accuracy")]
    made = compare(report(*rows), report(*reversed(rows)))
    assert [r.property for r in made.rows] == ["privacy", "robustness", "utility"]


# ---------------------------------------------------------------------- what may not be compared

BASE = report(mean_row(LOSS))


@pytest.mark.parametrize(
    ("after", "says"),
    [
        (
            replace(BASE, data={**BASE.data, "digest": "other"}),
            "data digest is 'data' before and 'other' after",
        ),
        (
            replace(BASE, data={**BASE.data, "people": {"train": 1, "holdout": 2}}),
            "data people is None before and {",
        ),
        (replace(BASE, pairing={"key": "secret1"}), "pairing key"),
        (replace(BASE, seed=1), "seed is 0 before and 1 after"),
        (replace(BASE, level=0.9), "level is 0.95 before and 0.9 after"),
        (replace(BASE, threat={"norm": "l2"}), "threat is None before and {'norm': 'l2'} after"),
        (report(mean_row(LATER, version="2")), "version of utility is '1' before and '2' after"),
        (report(mean_row(LATER, threat=Threat(radius=1.0))), "threat of utility log_loss"),
        (report(mean_row(LATER, seed=3)), "seed of utility log_loss is 0 before and 3 after"),
        (report(mean_row(LATER, level=0.9)), "level of utility log_loss is 0.95 before and 0.9 after"),
        (
            report(mean_row(LATER, values("loss", LATER, IDS[::-1][:-1] + (99_999,)))),
            "ids of utility log_loss loss",
        ),
        (report(mean_row(LATER, values("loss", LATER[:9], IDS[:9]))), "9 records, 9 of them the same"),
        (
            report(mean_row(LATER, values("loss", LATER, clusters=range(N)))),
            "person codes of utility log_loss",
        ),
    ],
)
def test_reports_that_do_not_belong_together_are_refused_by_name(after: Report, says: str) -> None:
    with pytest.raises(InvalidData) as caught:
        compare(BASE, after)
    assert says in str(caught.value)
    assert "like=" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_ids_that_repeat_are_refused() -> None:
    twice = report(mean_row(LOSS, values("loss", LOSS, (IDS[0], *IDS[:-1]))))
    with pytest.raises(InvalidData, match="repeat"):
        compare(twice, twice)


def test_other_parameters_and_efforts_are_told() -> None:
    methods = [{"name": "lira", "version": "1", "status": "ok", "params": {"n_shadows": n}} for n in (16, 64)]
    made = compare(report(row(), methods=methods[:1]), report(row(), methods=methods[1:], effort="deep"))
    assert "lira ran with n_shadows = 16 before and 64 after" in made.notes
    assert "made at different effort: standard before, deep after" in made.notes


# ---------------------------------------------------------------------- gates


def judged(gate: dict[str, Any], *reports: Report) -> Comparison:
    return compare(*reports, gates={"gate": [{"method": "lira", "quantity": "auc", **gate}]})


@pytest.mark.parametrize(
    ("gate", "interval", "result", "code"),
    [
        ({"max": 0.7}, (0.6, 0.5, 0.7), "held", 0),
        ({"max": 0.69}, (0.6, 0.5, 0.7), "not_shown", 3),
        ({"max": 0.5}, (0.6, 0.5, 0.7), "not_shown", 3),
        ({"max": 0.49}, (0.6, 0.5, 0.7), "failed", 1),
        ({"min": 0.5}, (0.6, 0.5, 0.7), "held", 0),
        ({"min": 0.51}, (0.6, 0.5, 0.7), "not_shown", 3),
        ({"min": 0.71}, (0.6, 0.5, 0.7), "failed", 1),
        ({"max": 3}, (3.0, 3.0, 3.0), "held", 0),
        ({"max": 2}, (3.0, 3.0, 3.0), "failed", 1),
    ],
)
def test_a_gate_is_decided_on_the_end_of_the_interval(
    gate: dict[str, Any], interval: Any, result: str, code: int
) -> None:
    made = judged(gate, report(row(interval)))
    assert made.gates[0].result == result
    assert made.exit_code == code
    if code:
        with pytest.raises(GateFailed) as caught:
            made.require()
        assert caught.value.exit_code == code
    else:
        made.require()


@pytest.mark.parametrize(
    ("gate", "result"),
    [
        ({"max_increase": 0.0}, "held"),
        ({"max_increase": -0.9}, "failed"),
        ({"max_decrease": 0.9}, "held"),
        ({"max_decrease": 0.0}, "failed"),
    ],
)
def test_a_gate_on_a_change_judges_the_paired_difference(gate: dict[str, Any], result: str) -> None:
    made = judged(gate, report(auc_row(MEMBERS, OTHERS)), report(auc_row(MEMBERS_LATER, OTHERS_LATER)))
    assert made.rows[0].verdict == "better"  # the AUC fell
    assert made.gates[0].result == result


@pytest.mark.parametrize(
    ("gate", "reports", "says"),
    [
        ({"max": 0.7}, [report()], "lira auc is not in the report"),
        (
            {"max": 0.7},
            [report(methods=[{"name": "lira", "status": "not_run", "reason": "needs refit"}])],
            "needs refit",
        ),
        ({"max": 0.7}, [report(row(status="inconclusive", reason="few"))], "inconclusive, few"),
        ({"max_increase": 0.7}, [report(row())], "two reports"),
        ({"max_increase": 0.7}, [report(row()), report(row())], "not paired"),
    ],
)
def test_what_was_not_measured_is_not_a_pass(gate: dict[str, Any], reports: list[Report], says: str) -> None:
    made = judged(gate, *reports)
    assert (made.gates[0].result, made.exit_code) == ("not_measured", 3)
    assert says in str(made.gates[0])


def test_a_failed_gate_outweighs_one_that_was_not_measured() -> None:
    held, lost, failed = (judged({"max": limit}, report(row())).gates[0] for limit in (0.9, 0.6, 0.1))
    assert [r.result for r in (held, lost, failed)] == ["held", "not_shown", "failed"]
    assert gating.exit_code([held, held]) == 0
    assert gating.exit_code([held, lost]) == 3
    assert gating.exit_code([lost, failed, held]) == 1


def test_the_hint_says_how_many_records_would_decide() -> None:
    """The arm 0.1 must shrink to the room 0.05: four times as many of the 100."""
    assert "about n = 400 needed" in str(judged({"max": 0.65}, report(row())).gates[0])
    assert "beyond the limit" in str(judged({"max": 0.55}, report(row())).gates[0])


def test_gates_judge_the_later_report_and_not_the_first() -> None:
    made = judged({"max": 0.5}, report(row((0.9, 0.9, 0.9))), report(row((0.1, 0.1, 0.1))))
    assert [r.result for r in made.gates] == ["held"]


def test_without_a_gate_nothing_was_judged() -> None:
    made = compare(report(row()))
    assert made.exit_code == 0
    assert str(made).splitlines()[-1] == "no gate set: nothing was judged"
    with pytest.raises(InvalidData, match="nothing was judged"):
        made.require()


def test_gates_are_read_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "gates.toml"
    path.write_text('[[gate]]\nmethod = "lira"\nquantity = "auc"\nmax = 1\nname = "no leak seen"\n')
    made = compare(report(row()), gates=path)
    assert str(made.gates[0]).startswith("held: no leak seen")
    assert compare(report(row()), gates=list(gating.load(path))).gates == made.gates


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[gate", "not TOML"),
        ("[[gates]]\nmax = 1", "unknown key 'gates'"),
        ("gate = 3", "want a TOML file"),
        ("gate = [3]", "gate 1: want a table"),
        ('[[gate]]\nmethod = "lira"\nquantity = "auc"\nmaxx = 1', "did you mean 'max'"),
        ('[[gate]]\nmethod = "lira"\nquantity = "auc"', "exactly one of"),
        ('[[gate]]\nmethod = "lira"\nquantity = "auc"\nmax = 1\nmin = 0', "exactly one of"),
        ('[[gate]]\nmethod = "lira"\nquantity = "auc"\nmax = nan', "finite number"),
        ('[[gate]]\nmethod = "lira"\nquantity = "auc"\nmax = true', "finite number"),
        ('[[gate]]\nmethod = "lira"\nquantity = "auc"\nmax = "1"', "finite number"),
        ('[[gate]]\nmethod = "lira"\nmax = 1', "quantity must be a name"),
        ('[[gate]]\nmethod = 1\nquantity = "auc"\nmax = 1', "method must be a name"),
        ('[[gate]]\nmethod = "liraa"\nquantity = "auc"\nmax = 1', "did you mean lira"),
        ('[[gate]]\nmethod = "lira"\nquantity = "auk"\nmax = 1', "did you mean auc"),
        ('[[gate]]\nmethod = "utility"\nquantity = "acuracy"\nmax = 1', "did you mean accuracy"),
    ],
)
def test_a_wrong_gate_is_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "g.toml").write_text(text)
    with pytest.raises(InvalidData, match=says) as caught:
        compare(report(row()), gates=tmp_path / "g.toml")
    assert "\n" not in str(caught.value)


def test_a_file_of_gates_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="cannot read gates"):
        compare(report(row()), gates=tmp_path / "none.toml")


# ---------------------------------------------------------------------- the comparison itself


def test_a_saved_comparison_holds_no_record_and_no_key(tmp_path: Path) -> None:
    made = compare(report(mean_row(LOSS)), report(mean_row(LATER)), report(mean_row(LOSS)))
    raw = json.loads(made.save(tmp_path / "c.json").read_text())
    assert raw["schema"] == "casemate-comparison/1"
    assert [r["verdict"] for r in raw["rows"]] == ["better", "none"]
    assert [r["report"] for r in raw["rows"]] == [1, 2]
    text = json.dumps(raw)
    assert str(IDS[0]) not in text
    assert "secret0" not in text
    assert made.save(tmp_path / "c.html").read_text("utf-8").startswith("<!doctype html>")
