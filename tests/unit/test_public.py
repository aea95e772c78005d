# SPDX-License-Identifier: Apache-2.0
"""The public edition: what is planted anywhere in a report is not found in it, and what it says is still right."""

from __future__ import annotations

import copy
import json
import math
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.tree import DecisionTreeClassifier

import casemate as cm
from casemate import cli
from casemate.core import stats
from casemate.core.errors import InvalidData
from casemate.core.types import Curve, Measurement, Note, PerRecord, Table, Threat
from casemate.report import coarse, shape
from casemate.report.catalogue import LANGUAGES, texts
from casemate.report.compare import Comparison, compare
from casemate.report.model import Report
from casemate.report.plain import text, text_comparison
from casemate.report.public import of_comparison
from casemate.report.render import page, page_comparison

CARD = {"privacy": "lira", "robustness": "pgd", "explanation": "lime", "utility": "utility"}


def number(
    method: str = "lira", quantity: str = "auc", value: Any = 0.6123456, **changed: Any
) -> Measurement:
    fields: dict[str, Any] = {
        "property": next(name for name, known in CARD.items() if known == method),
        "low": None if value is None else value - 0.0512345,
        "high": None if value is None else value + 0.0512345,
        "n": 1234,
        "worse": "lower" if method in ("pgd", "utility") else "higher",
        "version": "1",
        "seed": 0,
    }
    return Measurement(method=method, quantity=quantity, value=value, **(fields | changed))


def grouped(*sizes: int) -> Table:
    rows = tuple((f"xrace = {i}", n, 0.91234, 0.87654, 0.95678) for i, n in enumerate(sizes))
    return Table(name="accuracy by group", columns=("group", "n", "value", "low", "high"), rows=rows)


def whole(s: Callable[[], str] = lambda: "") -> Report:
    """A report with every form in it; ``s()`` is put into every text that somebody chose, a new one each time."""
    importance = Table(
        name="importance",
        columns=("column", "importance", "low", "high"),
        rows=((f"income{s()}", 0.1234567, 0.1, 0.2), (f"xage{s()}", 0.01, -0.01, 0.03)),
    )
    odd = Table(name=f"examples{s()}", columns=(f"a{s()}", "b"), rows=((f"income 2100{s()}", 2100.25),))
    roc = Curve(
        name="roc",
        x=tuple(np.arange(1, 1001) / 1000.0),
        y=tuple(np.arange(1, 1001) / 1000.0),
    )
    recipe = Table(
        name="models of the recipe",
        columns=("quantity", "mean", "sd", "least", "most", "models"),
        rows=((f"auc{s()}", 0.1, 0.2, 0.3, 0.4, 6), ("auc", 0.81234, 0.01, 0.8, 0.82, 6)),
    )
    records = PerRecord(name=f"records{s()}", ids=(7654321, 3), values=(0.25, -1.5), clusters=(1, 1))
    why = {"status": "not_measured", "reason": f"cannot read /home/alice{s()}"}
    return Report(
        created=f"2026-11-05T10:11:12+00:00{s()}",
        version=f"0.1.0+local{s()}",
        target={
            "kind": f"scikit-learn{s()}",
            "task": f"binary{s()}",
            "input": f"table{s()}",
            "classes": [f"class_granted{s()}", f"class_refused{s()}"],
            "capabilities": ["labels", "scores", f"wishes{s()}"],
            "source": {f"path{s()}": f"/home/alice{s()}", "sha256": f"ff{s()}"},
            "digest": f"abcdef{s()}",
            "caveats": [f"classes guessed from class_refused{s()}"],
            "claims": [
                {
                    "says": f"epsilon 3{s()}",
                    "unit": "person",
                    "epsilon": 3.0,
                    "delta": 1e-5,
                    "ceiling": [[0.01, 0.2], [s() or 0.1, 1.0]],
                },
                {"says": f"a certificate{s()}"},
            ],
            f"owner{s()}": f"alice{s()}",
        },
        data={
            "input": f"table{s()}",
            "n_train": 1478,
            "n_holdout": 1477,
            "n_columns": 8,
            "people": {"train": 739, "holdout": 738, f"x{s()}": s()},
            "digest": f"123456{s()}",
            f"file{s()}": f"patients.csv{s()}",
        },
        threat=Threat(norm="linf", radius=0.3, scale="spread").to_dict() | {f"note{s()}": s()},
        methods=(
            {
                "name": "lira",
                "version": f"1{s()}",
                "params": {"n_shadows": 16, "variance_prior": 4.0, f"p{s()}": 1, "loss": f"l{s()}"},
                "status": "ok",
                "reason": f"because{s()}",
                "seconds": 17.123,
            },
            {
                "name": "pgd",
                "version": "1",
                "params": {},
                "status": "not_run",
                "reason": f"class_refused{s()}",
            },
            {"name": f"mine{s()}", "version": "1", "params": {s(): s()}, "status": "ok"},
        ),
        measurements=(
            number(
                unit=f"u{s()}",
                version=f"1{s()}",
                details=(roc, records, Note(text=f"Wardseven{s()}"), recipe),
            ),
            number(quantity=f"odd{s()}"),
            replace(number(), method=f"mine{s()}"),
            number("pgd", "robust_accuracy", None, n=0, **why),
            number("lime", "top_importance", details=(importance, odd, replace(roc, name=f"by age{s()}"))),
            replace(number("lime", "local_fit"), status="inconclusive", reason=f"few in wardseven{s()}"),
            number("utility", "accuracy", details=(grouped(500, 734), Table(name=s(), columns=(), rows=()))),
        ),
        pairing={"key": "00ff17aa", f"k{s()}": s()},
        environment={"python": f"3.11{s()}", "platform": f"alice-laptop{s()}", f"host{s()}": s()},
        command=("casemate", "audit", f"alice/model.joblib{s()}"),
    )


class Mark:
    """Gives out words that stand nowhere else, and remembers them."""

    def __init__(self) -> None:
        self.given: list[str] = []

    def __call__(self) -> str:
        self.given.append(f"zq{len(self.given):03d}qz")
        return self.given[-1]


def unhashed(html: str) -> str:
    """Return a page without the hash of its style, in which any letters may stand."""
    return re.sub(r"'sha256-[^']+'", "", html)


def everything(report: Report) -> str:
    """All forms in which an edition leaves the house."""
    shown = [unhashed(page(report, lang)) for lang in LANGUAGES] + [text(report, lang) for lang in LANGUAGES]
    return "\n".join([report.to_json(), *shown, str(report.to_frame().to_dict()), repr(report)])


OWN = ("alice", "income", "xage", "class_", "ardseven", "2100", "00ff17aa", "7654321", "xrace")


# ---------------------------------------------------------------------- nothing that was planted


def test_nothing_that_was_planted_anywhere_is_found() -> None:
    mark = Mark()
    report = whole(mark)
    assert len(mark.given) > 50
    inside = everything(report)
    assert sum(word in inside for word in mark.given) > 40  # the internal edition does hold them
    outside = everything(report.public())
    assert [word for word in (*mark.given, *OWN) if word in outside] == []
    assert "zq" not in outside


def leaves(raw: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(raw, dict):
        for key, item in raw.items():
            yield from leaves(item, (*path, key))
    elif isinstance(raw, list):
        for index, item in enumerate(raw[:4]):
            yield from leaves(item, (*path, index))


RAW = json.loads(whole().to_json())
PLACES = list(leaves(RAW))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    places=st.lists(st.sampled_from(PLACES), min_size=1, max_size=4),
    how=st.sampled_from(["instead", "behind", "before", "beside"]),
)
def test_a_word_put_into_any_place_of_the_file_is_not_found(places: list[Any], how: str) -> None:
    raw = copy.deepcopy(RAW)
    for place in filter(None, places):
        at = raw
        try:
            for key in place[:-1]:
                at = at[key]
            old = at[place[-1]]
        except (KeyError, IndexError, TypeError):  # an earlier word stands there
            continue
        if how == "beside" and isinstance(old, dict):
            old["zqxjk"] = "zqxjk"
        elif isinstance(old, str):
            at[place[-1]] = {"behind": f"{old}zqxjk", "before": f"zqxjk{old}"}.get(how, "zqxjk")
        elif isinstance(old, list):
            old.append("zqxjk")
    try:
        report = Report.from_dict(raw)
    except InvalidData:  # the place takes no word
        return
    made = report.public()
    assert "zqxjk" not in made.to_json() and "zqxjk" not in text(made)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    values=st.lists(st.floats(-9, 9), min_size=2, max_size=2),
    ids=st.lists(st.integers(0, 10**9), min_size=2, max_size=2),
    cell=st.one_of(st.text(max_size=9), st.floats(allow_nan=False)),
    key=st.binary(min_size=1, max_size=16),
)
def test_what_single_records_did_changes_nothing_in_it(values: Any, ids: Any, cell: Any, key: bytes) -> None:
    """Not only is it not found: the edition is the same whatever the records, the names and the machine were."""
    report = whole()
    rows = []
    for m in report.measurements:
        pieces = [
            PerRecord(name="records", ids=tuple(ids), values=tuple(values))
            if isinstance(piece, PerRecord)
            else replace(piece, rows=((str(cell), 1.0),))
            if isinstance(piece, Table) and piece.name == "examples"
            else piece
            for piece in m.details
        ]
        rows.append(replace(m, details=tuple(pieces)))
    other = replace(
        report,
        measurements=tuple(rows),
        pairing={"key": key.hex()},
        command=(str(cell),),
        environment={"machine": str(cell)},
        data={**report.data, "digest": key.hex(), "n_train": 1400 + ids[0] % 100},
        target={
            **report.target,
            "digest": key.hex(),
            "classes": [str(cell), "b"],
            "source": {"path": str(cell)},
        },
    )
    assert other.public().to_json() == report.public().to_json()


# ---------------------------------------------------------------------- what is said


def test_numbers_are_rounded_outward_and_counts_down() -> None:
    made = whole().public()
    area = made["lira", "auc"]
    assert (area.value, area.low, area.high, area.n) == (0.612, 0.561, 0.664, 1200)
    assert (made.data["n_train"], made.data["people"]) == (1400, {"train": 730, "holdout": 730})
    assert made.created == "2026-11-05" and made.version == "0.1.0"
    exact = replace(number(), low=0.6123456, high=0.6123456)
    found = replace(whole(), measurements=(exact,)).public()["lira", "auc"]
    assert found.low == found.value == found.high == 0.612


@settings(max_examples=200, deadline=None)
@given(ends=st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3), n=st.integers(0, 10**7))
def test_a_rounded_interval_holds_what_it_held_and_zero_stays_outside(ends: list[float], n: int) -> None:
    low, value, high = sorted(ends)
    v, a, b = coarse.outward(value, low, high)
    assert a is not None and b is not None and v is not None
    assert a <= v <= b and (low == high or (a <= low and high <= b))
    if high < 0 or low > 0:  # a paired difference that was resolved stays resolved
        assert b < 0 or a > 0
    assert coarse.count(n) <= n < 1.1 * coarse.count(n) + 10


def test_what_rests_on_fewer_than_ten_is_left_out_and_said() -> None:
    few = (number(n=9, details=(Curve(name="roc", x=(0.5,), y=(0.5,)),)), number("utility", "accuracy", n=10))
    made = replace(whole(), measurements=few).public()
    lost = made["lira", "auc"]
    assert (lost.value, lost.low, lost.high, lost.n, lost.details) == (None, None, None, 0, ())
    assert (lost.status, lost.reason) == ("not_measured", "fewer than 10 people or records")
    assert made["utility", "accuracy"].status == "measured"
    assert "1 numbers about fewer than 10 people" in made.target["caveats"][0]
    objects = replace(number(), method="scan_artefact", quantity="dangerous_objects", n=1)
    assert replace(whole(), measurements=(objects,)).public()["scan_artefact", "dangerous_objects"].n == 1


def test_a_number_about_few_on_one_side_is_left_out_and_curves_step_by_the_smaller_side() -> None:
    roc = Curve(name="roc", x=(0.01, 0.5, 1.0), y=(1 / 60, 2 / 60, 1.0))

    def told(n_members: int) -> Measurement:
        sides = [
            PerRecord(name=name, ids=tuple(range(n)), values=(0.5,) * n)
            for name, n in (("members", n_members), ("nonmembers", 1000 - n_members))
        ]
        row = number(n=1000, details=(roc, *sides))
        made: Measurement = replace(whole(), measurements=(row,)).public()["lira", "auc"]
        return made

    (kept,) = told(60).details
    assert isinstance(kept, Curve) and min(kept.x) >= 10 / 60
    assert all(abs(y * 6 - round(y * 6)) < 1e-5 for y in kept.y)  # ten of sixty members a step, not one
    assert (told(9).value, told(9).details) == (None, ())
    # a gate says no more than the row does
    gate = [{"method": "lira", "quantity": "auc", "max": 0.1}]
    sides = (PerRecord(name="members", ids=tuple(range(9)), values=(0.5,) * 9),)
    judged = compare(replace(whole(), measurements=(number(details=sides),)), gates={"gate": gate})
    (result,) = of_comparison(judged).gates
    assert judged.gates[0].number is not None and result.number is None and result.result == "failed"


@pytest.mark.parametrize(("hits", "n"), [(113, 137), (604, 734), (41, 60), (7, 1234)])
def test_a_share_and_its_limits_do_not_tell_both_counts(hits: int, n: int) -> None:
    """All (hits, n) that give the same public row: at three digits 113 of 137 and 41 of 60 are the only ones."""

    def told(k: int, m: int) -> Any:
        found = stats.clopper_pearson(k, m)
        return coarse.shares(found.value, found.low, found.high, coarse.count(m)), coarse.count(m)

    value, low, high = told(hits, n)[0]
    exact = stats.clopper_pearson(hits, n)
    assert (
        low <= exact.low and exact.high <= high and abs(value - exact.value) <= 5.1 / coarse.count(n) + 0.001
    )
    near = range(coarse.count(n), coarse.count(n) + 100)
    fits = {
        k for m in near for k in range(max(0, hits - 30), min(m, hits + 30)) if told(k, m) == told(hits, n)
    }
    assert len(fits) >= 5
    row = number("utility", "accuracy", exact.value, low=exact.low, high=exact.high, n=n)
    made = replace(whole(), measurements=(row,)).public()["utility", "accuracy"]
    assert (made.value, made.low, made.high) == (value, low, high)


def test_an_exact_share_that_is_on_no_step_is_not_said_to_be_exactly_none() -> None:
    assert coarse.shares(0.02, 0.02, 0.02, 100) == (0.0, 0.0, 0.1)
    assert coarse.shares(0.0, 0.0, 0.0, 100) == (0.0, 0.0, 0.0)


@settings(max_examples=200, deadline=None)
@given(ends=st.lists(st.floats(-1, 1), min_size=3, max_size=3), n=st.integers(10, 10**6))
def test_a_gap_between_shares_keeps_its_sign(ends: list[float], n: int) -> None:
    low, value, high = sorted(ends)
    v, a, b = coarse.shares(value, low, high, coarse.count(n), gap=True)
    assert v is not None and a is not None and b is not None
    assert a <= v <= b and a <= low + 2e-6 and high <= b + 2e-6
    assert (low > 0) <= (a > 0) and (high < 0) <= (b < 0)


def test_the_extreme_of_all_records_is_told_as_a_power_of_ten() -> None:
    def told(value: float) -> Measurement:
        row = replace(
            number(), method="steal", quantity="extraction_error", value=value, low=value, high=value
        )
        made: Measurement = replace(whole(), measurements=(row,)).public()["steal", "extraction_error"]
        return made

    assert [(told(v).low, told(v).value, told(v).high) for v in (0.78321, 3.2e-7)] == [(1, 1, 1), (1e-6,) * 3]
    row = replace(number(), method="steal", quantity="extraction_error")
    gate = [{"method": "steal", "quantity": "extraction_error", "max": 0.9}]
    judged = of_comparison(compare(replace(whole(), measurements=(row,)), gates={"gate": gate}))
    shown = judged.gates[0].number
    assert shown is not None and (shown.low, shown.value, shown.high) == (1, 1, 1)
    assert "0.6" not in judged.gates[0].reason["en"]


def test_a_small_group_takes_its_table_with_it_for_the_others_would_tell() -> None:
    def tables(table: Table) -> list[Any]:
        row = number("utility", "accuracy", details=(table,))
        return list(replace(whole(), measurements=(row,)).public()["utility", "accuracy"].details)

    (kept,) = tables(grouped(500, 45))
    # shares in steps of ten people: 10 / 45 of the smaller group
    assert kept.rows == (("group 1", 500, 0.92, 0.86, 0.96), ("group 2", 45, 0.888889, 0.666667, 1.0))
    assert tables(grouped(500, 9)) == []
    hidden = grouped(500, 45)
    rows = (*hidden.rows, ("xrace = 3", 4, "not resolvable at n=4", None, None))
    assert tables(replace(hidden, rows=rows)) == []
    nobody = (*hidden.rows, ("xrace missing", 0, "not resolvable at n=0", None, None))
    assert tables(replace(hidden, rows=nobody)) == [kept]
    for odd in ((), ("xrace = 9",), ("xrace = 9", 45, math.nan, 0.1, 0.2)):  # a file may hold anything
        assert tables(replace(hidden, rows=(*hidden.rows, odd))) == []


def test_a_roc_curve_stands_on_round_rates_in_steps_of_ten_people() -> None:
    draw = np.random.default_rng(0)
    x, y = np.sort(draw.random(777)), np.sort(draw.random(777))
    for n in (40, 300, 5000):
        made = coarse.curve(Curve(name="roc", x=tuple(x), y=tuple(y), low=tuple(y / 2), high=tuple(y)), n)
        assert made is not None and set(made.x) <= set(coarse.RATES) and min(made.x) * n >= 10
        step = max(0.01, 10 / n)
        for rate, at, low, high in zip(made.x, made.y, made.low, made.high, strict=True):
            true = y[np.flatnonzero(x <= rate)[-1]]
            assert abs(at - true) <= step / 2 + 1e-6
            assert low <= true / 2 + 1e-6 and high >= min(1.0, true) - 1e-6
            assert all(abs(v / step - round(v / step)) < 1e-3 or v == 1 for v in (at, low, high))
    unknown = Curve(name="survival", x=(0.0, 1.0), y=(0.0, 1.0))
    assert coarse.curve(unknown, 1000) is None
    lost: Any = Curve(name="accuracy against radius", x=(0.1, 0.25, 0.5), y=(1.0, None, math.nan))
    assert coarse.curve(lost, 1000) == Curve(name=lost.name, x=(0.1,), y=(1.0,))
    counts = Curve(name="fidelity by queries", x=(1234.0,), y=(0.5,))
    assert coarse.curve(counts, 1000) == replace(counts, x=(1200.0,))


def test_a_guarantee_is_said_in_full_and_rebuilt_from_its_numbers() -> None:
    (claim,) = whole().public().target["claims"]
    assert claim["says"] == "differential privacy: epsilon 3.0 at delta 1e-05, each a person"
    assert claim["ceiling"][0] == [0.01, 0.2]
    assert "1 claims" in whole().public().target["caveats"][0]


def test_a_guarantee_is_not_handed_out_without_what_speaks_against_it() -> None:
    def told(value: float) -> list[str]:
        found = number(value=value, low=value - 0.01, high=value + 0.01)
        claim = {"says": "", "unit": "record", "epsilon": 0.5, "delta": 1e-5}
        internal = replace(whole(), measurements=(found,), target={**whole().target, "claims": [claim]})
        return [one for one in internal.public().target["caveats"] if "the guarantee does not hold" in one]

    assert told(0.6) == []
    (said,) = told(0.9123456)
    assert said.startswith("lira auc is 0.912") and "0.9123" not in said


def test_what_is_no_guarantee_is_not_said_as_one() -> None:
    fits = {"says": "", "unit": "record", "epsilon": 1.0, "delta": 1e-5}
    odd = [
        {**fits, "epsilon": -3},
        {**fits, "delta": 4},
        {**fits, "epsilon": True},
        {**fits, "unit": "row"},
        "epsilon 1",
        {**fits, "ceiling": [[0.1, 0.2, 54.3, 1985.0]]},
    ]
    report = replace(whole(), target={**whole().target, "claims": odd})
    (kept,) = report.public().target["claims"]
    assert kept["epsilon"] == 1.0 and kept["ceiling"] == []


def test_only_numbers_in_the_place_of_numbers_are_kept_of_the_parameters() -> None:
    ran = {
        "name": "lime",
        "status": "ok",
        "params": {"rows": 17, "n_rows": 50, "mode": "alice", "n_samples": [1]},
    }
    report = replace(whole(), methods=(ran,))
    assert report.public().methods[0]["params"] == {"n_rows": 50}


def test_a_method_that_could_not_run_says_what_it_lacks() -> None:
    made = whole().public()
    assert made.methods[1]["reason"] == "needs module, which this target does not offer"
    assert made["pgd", "robust_accuracy"].reason == made.methods[1]["reason"]
    unsure = number(value=None, status="inconclusive", reason="alice")
    assert replace(whole(), measurements=(unsure,)).public()["lira", "auc"].status == "inconclusive"
    assert made["lime", "local_fit"].reason == "the reason stands in the internal edition"


def test_rounding_that_changes_a_verdict_says_so() -> None:
    close = number(value=0.55, low=0.50004, high=0.6)
    made = replace(whole(), measurements=(close,)).public()
    told = [c for c in made.target["caveats"] if c.startswith("The verdict on privacy")]
    assert told and "there it is 'found', here 'not found'" in told[0]
    assert not any(c.startswith("The verdict") for c in whole().public().target["caveats"])


@pytest.mark.parametrize("lang", LANGUAGES)
def test_it_is_marked_and_says_what_epsilon_does_not_cover(lang: str) -> None:
    say, made = texts(lang), whole().public()
    shown, terminal = page(made, lang), text(made, lang)
    for key in ("public", "public_left", "public_use", "public_epsilon", "public_epsilon_note"):
        assert f"<i lang={lang}>{say[f'page.{key}']}</i>" in shown  # whole, not cut
    assert say["text.public"] in terminal.splitlines() and len(terminal.splitlines()) <= 25
    for hidden in (
        "command",
        "model_digest",
        "data_digest",
        "source",
        "machine",
        "same_points",
        "no_command",
    ):
        assert f"<i lang={lang}>{say[f'page.{hidden}']}</i>" not in shown
    inside = page(whole(), lang) + text(whole(), lang)
    assert say["page.public"] not in inside and say["text.public"] not in inside
    # what is taken as known to all
    told = {"en": ("class names", "power of ten"), "zh-CN": ("类别名称", "数量级")}[lang]
    assert all(words in shown for words in told)


# ---------------------------------------------------------------------- a file, and what may be done with it


def test_it_is_a_report_of_the_published_schema_that_others_may_read(tmp_path: Path) -> None:
    report, made = whole(), whole().public()
    jsonschema.Draft202012Validator(shape.schema()).validate(json.loads(made.to_json()))
    inside, outside = report.save(tmp_path / "in.json"), made.save(tmp_path / "out.json")
    assert Report.load(outside) == made == made.public()
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (inside, outside)]
    assert modes[0] == 0o600 and modes[1] & 0o044  # as far as the umask lets others read
    # the internal edition is what it was, and files from before there were editions are internal
    assert report == whole() and report.edition == "internal"
    raw = {key: item for key, item in RAW.items() if key != "edition"}
    assert Report.from_dict(raw).edition == "internal"


def test_no_report_calls_itself_public_and_holds_records() -> None:
    made = whole().public()
    kept = number(details=(PerRecord(name="a", ids=(1,), values=(0.5,)),))
    for field in ({"pairing": {"key": "00"}}, {"command": ("casemate",)}, {"measurements": (kept,)}):
        with pytest.raises(InvalidData, match=r"make it with report\.public"):
            replace(made, **field)
    with pytest.raises(InvalidData, match="edition must be one of 'internal', 'public'"):
        Report.from_dict({**RAW, "edition": "secret"})


def audited() -> tuple[Any, cm.Dataset, Report]:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(120, 2))
    y = (x[:, 0] + draw.normal(size=120) > 0).astype(int)
    data = cm.Dataset(train=(x[:60], y[:60]), holdout=(x[60:], y[60:]))
    model = DecisionTreeClassifier(max_depth=3, random_state=0).fit(x[:60], y[:60])
    return model, data, cm.audit(model, data, methods=["loss_attack"], effort="quick")


def test_it_is_no_start_of_a_comparison_but_a_gate_may_judge_it() -> None:
    model, data, report = audited()
    made = report.public()
    with pytest.raises(InvalidData, match="public edition"):
        cm.audit(model, data, like=made)
    for pair in ((made, made), (report, made), (made, report)):
        with pytest.raises(InvalidData, match="holds no records to pair"):
            compare(*pair)
    gate = [{"method": "utility", "quantity": "accuracy", "min": 0.01}]
    assert compare(made, gates={"gate": gate}).exit_code == 0


def compared(mark: Callable[[], str] = lambda: "") -> Comparison:
    before = whole(mark)
    after = replace(whole(mark), data=before.data, threat=before.threat, pairing=before.pairing)
    hits = PerRecord(name="accuracy", ids=tuple(range(40)), values=(1.0,) * 30 + (0.0,) * 10)
    better = PerRecord(name="accuracy", ids=tuple(range(40)), values=(1.0,) * 40)
    sides = [
        number("utility", "accuracy", 0.75, details=(hits,), n=40),
        replace(number("utility", "accuracy", 1.0, details=(better,), n=40), low=0.9, high=1.0),
    ]
    reports = [
        replace(r, measurements=(*r.measurements[:-1], side))
        for r, side in zip((before, after), sides, strict=True)
    ]
    gates = [
        {"method": "utility", "quantity": "accuracy", "min": 0.5, "name": f"the patients' gate{mark()}"},
        {"method": "lira", "quantity": "auc", "max": 0.1, "name": mark() or "second"},
    ]
    return compare(*reports, gates={"gate": gates})


def test_a_comparison_keeps_its_verdicts_and_loses_its_names() -> None:
    mark = Mark()
    inside = compared(mark)
    made = of_comparison(inside)
    shown = [page_comparison(made, lang) + text_comparison(made, lang) for lang in LANGUAGES]
    outside = "".join([made.to_json(), *shown])
    assert [word for word in (*mark.given, *OWN, "patients") if word in outside] == []
    assert all(texts(lang)["page.public"] in part for lang, part in zip(LANGUAGES, shown, strict=True))
    assert all(texts(lang)["text.public"] in part for lang, part in zip(LANGUAGES, shown, strict=True))
    assert [result.result for result in made.gates] == [result.result for result in inside.gates]
    assert made.exit_code == inside.exit_code == 1
    (before,) = (row for row in inside.rows if row.quantity == "accuracy")
    (after,) = (row for row in made.rows if row.quantity == "accuracy")
    assert before.verdict == after.verdict == "better" and before.difference is not None
    gap = after.difference
    assert gap is not None and gap.low <= before.difference.low and before.difference.high <= gap.high
    assert gap.low > 0 and gap.n == 40 and gap.value == 0.25
    # one name has one number on both sides
    names = [
        {str(r[0]) for r in d.rows}
        for rep in made.reports
        for m in rep.measurements
        for d in m.details
        if isinstance(d, Table) and d.name == "importance"
    ]
    plain = of_comparison(compared())
    same = [
        m.details[0].rows for rep in plain.reports for m in rep.measurements if m.quantity == "top_importance"
    ]
    assert same[0] == same[1] and names[0].isdisjoint(names[1])


# ---------------------------------------------------------------------- the command line

MODULE = """
import pandas as pd
from pathlib import Path
from sklearn.tree import DecisionTreeClassifier

def tree():
    rows = pd.read_csv(Path(__file__).parent / "zqtrain.csv")
    return DecisionTreeClassifier(max_depth=3, random_state=0).fit(rows[["zqa", "zqb"]], rows["zqy"])
"""
Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Invoke:
    """Run a command in a folder where every name that a user chose begins with zq."""
    _, data, _ = audited()
    for name, part in (("zqtrain.csv", data.train), ("zqhold.csv", data.holdout)):
        rows = [f"{a},{b},{'zqyes' if y else 'zqno'}" for (a, b), y in zip(part.x, part.y, strict=True)]
        (tmp_path / name).write_text("\n".join(["zqa,zqb,zqy", *rows]) + "\n")
    (tmp_path / "zqmodule.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "zqmodule", raising=False)
    monkeypatch.delenv("CASEMATE_LANG", raising=False)

    def call(*words: object) -> tuple[int, str, str]:
        code = cli.run([str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


FILES = ("audit", "zqmodule:tree", "--train", "zqtrain.csv", "--holdout", "zqhold.csv", "--label", "zqy")
AUDIT = (*FILES, "--jobs", 1, "--methods", "loss_attack,permutation_importance")


def test_the_command_line_gives_out_the_public_edition_alone(invoke: Invoke, tmp_path: Path) -> None:
    code, out, _ = invoke(*AUDIT, "--public", "--out", "report.json", "--html", "report.html")
    assert code == 0 and texts("en")["text.public"] in out.splitlines()
    files = [unhashed((tmp_path / name).read_text("utf-8")) for name in ("report.json", "report.html")]
    assert [word for word in ("zq", str(tmp_path), tmp_path.name) if word in "".join([*files, out])] == []
    assert Report.load(tmp_path / "report.json").edition == "public"
    code, out, _ = invoke(*AUDIT, "--public", "--format", "json", "--lang", "en")
    assert code == 0 and "zq" not in out and json.loads(out)["edition"] == "public"
    code, out, err = invoke(*AUDIT, "--like", "report.json")
    assert code == 2 and out == "" and "is a public edition" in err and err.count("\n") == 1
    code, out, err = invoke(*AUDIT, "--public", "--show-records")
    assert code == 2 and "leave --show-records out" in err


def test_a_comparison_on_the_command_line_and_a_report_that_is_there_already(
    invoke: Invoke, tmp_path: Path
) -> None:
    assert invoke(*AUDIT, "--out", "before.json")[0] == 0
    assert "zq" in (tmp_path / "before.json").read_text()
    assert invoke(*AUDIT, "--like", "before.json", "--out", "after.json")[0] == 0
    code, out, _ = invoke(
        "compare", "before.json", "after.json", "--public", "--html", "page.html", "--lang", "zh-CN"
    )
    assert code == 0 and texts("zh-CN")["text.public"] in out.splitlines()
    assert "zq" not in out and "zq" not in unhashed((tmp_path / "page.html").read_text("utf-8"))
    code, out, _ = invoke("compare", "before.json", "--public", "--format", "json")
    assert code == 0 and "zq" not in out and json.loads(out)["reports"][0]["edition"] == "public"
