# SPDX-License-Identifier: Apache-2.0
"""From scores to measurements: rates, resolution, ties, people, nulls, and what a blind baseline stops."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from casemate.core import stats
from casemate.core.data import Dataset
from casemate.core.errors import InvalidData
from casemate.core.groups import Slice
from casemate.core.run import Run, require
from casemate.core.stats import Interval
from casemate.core.types import Curve, Measurement, Note, PerRecord, Table
from casemate.privacy import auditing
from casemate.privacy.blind import blind_baseline
from casemate.privacy.methods.lira import lira
from casemate.privacy.pool import Pool, gather


def new_run(**options: Any) -> Run:
    return Run(card=lira.card, **options)


def pool_of(n: int, *, rows_each: int = 1, shift: float = 0.0, seed: int = 0) -> Pool:
    """Return n units a side; with ``shift`` the two sides differ without any model."""
    rng = np.random.default_rng(seed)
    rows = n * rows_each
    x = rng.normal(size=(2 * rows, 4))
    x[:rows, 0] += shift
    y = np.r_[0, 1, rng.integers(2, size=2 * rows - 2)]
    owner = np.repeat(np.arange(2 * n), rows_each)
    parts = ((x[:rows], y[:rows]), (x[rows:], y[rows:]))
    if rows_each > 1:
        parts = tuple((*part, owner[i * rows : (i + 1) * rows]) for i, part in enumerate(parts))  # type: ignore[assignment]
    return gather(Dataset(*parts).with_ids(np.arange(rows), np.arange(rows, 2 * rows)))


def scores_of(pool: Pool, score: np.ndarray, **shadows: np.ndarray) -> auditing.Scores:
    return auditing.Scores(score=score, member=pool.member, unit=pool.unit, ids=pool.ids, **shadows)


def rows_of(run: Run, pool: Pool, score: np.ndarray, **shadows: np.ndarray) -> dict[str, Measurement]:
    rows = auditing.report(run, scores_of(pool, score, **shadows), pool, attacker="A test.")
    assert len({row.quantity for row in rows}) == len(rows)
    return {row.quantity: row for row in rows}


def texts(row: Measurement) -> str:
    return " ".join(detail.text for detail in row.details if isinstance(detail, Note))


def group_table(row: Measurement) -> Table:
    (found,) = [d for d in row.details if isinstance(d, Table) and d.name == f"{row.quantity} by group"]
    return found


def with_shadows(pool: Pool, lift: float, n_shadows: int = 8, seed: int = 0) -> dict[str, np.ndarray]:
    """Gaussian scores of shadows as targets, members ``lift`` higher."""
    rng = np.random.default_rng(seed)
    inside = rng.random((n_shadows, pool.n_units))[:, pool.unit] < 0.5
    return {
        "shadow_score": rng.normal(size=inside.shape) + lift * inside,
        "shadow_member": inside,
        "shadow_usable": np.ones_like(inside),
    }


def test_every_quantity_of_the_card_is_reported_once() -> None:
    pool = pool_of(50, rows_each=3)
    rows = rows_of(new_run(), pool, np.random.default_rng(0).normal(size=300))
    assert set(rows) == set(auditing.QUANTITIES)
    assert set(lira.card.quantities) == set(auditing.QUANTITIES) | set(auditing.RECIPE)
    pool = pool_of(50)
    rows = rows_of(new_run(), pool, np.random.default_rng(0).normal(size=100))
    assert set(rows) == {name for name in auditing.QUANTITIES if not name.startswith("person_")}


def test_rates_use_the_shadow_threshold_and_no_record_of_the_target() -> None:
    pool = pool_of(2000)
    rng = np.random.default_rng(1)
    score = rng.normal(size=4000) + 2.0 * pool.member
    shadows = with_shadows(pool, 2.0)
    rows = rows_of(new_run(), pool, score, **shadows)
    threshold = stats.step_threshold(shadows["shadow_score"][~shadows["shadow_member"]], 0.01)
    tpr, fpr = rows["tpr_at_1pct_fpr"], rows["fpr_at_1pct"]
    assert tpr.value == (score[pool.member] > threshold).mean()
    assert fpr.value == (score[~pool.member] > threshold).mean()
    assert fpr.low is not None
    assert fpr.high is not None
    assert fpr.low <= 0.01 <= fpr.high
    moved = rows_of(new_run(), pool, score + 100 * ~pool.member, **shadows)
    assert moved["tpr_at_1pct_fpr"].value == tpr.value  # the target's non-members do not set it
    assert moved["fpr_at_1pct"].value == 1.0


def test_without_shadows_each_half_fixes_the_threshold_of_the_other() -> None:
    pool = pool_of(1000)
    rng = np.random.default_rng(1)
    score = rng.normal(size=2000)
    outside = score[~pool.member]
    rows = rows_of(new_run(), pool, score)
    fpr = rows["fpr_at_1pct"]
    assert fpr.low is not None
    assert fpr.high is not None
    assert fpr.low <= 0.01 <= fpr.high
    # In-sample the step rule would give at most 1 %; the two halves together need not.
    assert fpr.value != (outside > stats.step_threshold(outside, 0.01)).mean()
    hits = next(d for d in rows["tpr_at_1pct_fpr"].details if isinstance(d, PerRecord))
    assert set(hits.values) <= {0.0, 0.5, 1.0}
    assert np.mean(hits.values) == rows["tpr_at_1pct_fpr"].value


def test_rates_below_ten_over_n_are_not_resolvable() -> None:
    rows = rows_of(new_run(), pool_of(999), np.arange(1998.0))
    row = rows["tpr_at_1pct_fpr"]
    assert (row.status, row.value) == ("not_measured", None)
    assert row.reason == "not resolvable: 1 % false alarms need >= 1,000 non-member distinct records, has 999"
    assert rows["fpr_at_1pct"].status == "not_measured"
    rows = rows_of(new_run(), pool_of(1000), np.arange(2000.0))
    assert rows["tpr_at_1pct_fpr"].status == "measured"
    assert "needs >= 10,000" not in str(rows["tpr_at_0.1pct_fpr"])
    assert "10,000 non-member distinct records, has 1,000" in rows["tpr_at_0.1pct_fpr"].reason
    # however many rows they have: three people make no threshold (nor two halves of people)
    for n_people, each in ((400, 3), (3, 400)):
        people = rows_of(new_run(), pool_of(n_people, rows_each=each), np.arange(2400.0))
        for name in ("tpr_at_1pct_fpr", "fpr_at_1pct", "person_tpr_at_1pct_fpr"):
            assert f"1,000 non-member people, has {n_people}" in people[name].reason, name
        # of three people an AUC shows nothing: all of their rows recognised would be missed too often
        assert people["auc"].status == ("measured" if n_people == 400 else "inconclusive")


def test_constant_scores_show_nothing_say_so_and_give_no_nan() -> None:
    pool = pool_of(1000)
    flat = {
        name: np.zeros_like(a) if name == "shadow_score" else a for name, a in with_shadows(pool, 0).items()
    }
    for shadows in ({}, flat):
        rows = rows_of(new_run(), pool, np.zeros(2000), **shadows)
        assert rows["auc"].value == 0.5
        assert rows["tpr_at_1pct_fpr"].value == 0.0
        assert rows["fpr_at_1pct"].value == 0.0
        assert {rows[name].status for name in ("auc", "tpr_at_1pct_fpr", "fpr_at_1pct")} == {"inconclusive"}
        assert "gives all records of a class the same score" in rows["auc"].reason
        assert "Not detected" not in texts(rows["auc"])
        assert "NaN" not in json.dumps([row.to_dict() for row in rows.values()])


def test_a_tie_at_the_top_is_flagged_whole_or_not_at_all() -> None:
    pool = pool_of(1000)
    score = np.zeros(2000)
    score[pool.member] = 1.0
    score[np.flatnonzero(~pool.member)[:100]] = 1.0  # 10 % of non-members share the members' score
    rows = rows_of(new_run(), pool, score)
    assert rows["tpr_at_1pct_fpr"].value == 0.0
    assert "10 % of non-members share the highest score" in rows["tpr_at_1pct_fpr"].reason
    assert (rows["auc"].status, rows["auc"].value) == ("measured", pytest.approx(0.95))


def test_person_scores_are_sums_or_means_over_their_rows() -> None:
    unit = np.array([5, 5, 9, 2, 2, 2])
    member = np.array([True, True, True, False, False, False])
    usable = np.array([[True, False, True, False, False, False]])
    scores = auditing.Scores(
        score=np.array([1.0, 2.0, 5.0, 1.0, 1.0, 4.0]),
        member=member,
        unit=unit,
        ids=np.arange(10, 16),
        shadow_score=np.array([[1.0, 50.0, 3.0, 7.0, 7.0, 7.0]]),
        shadow_member=np.array([[True, True, False, False, False, False]]),
        shadow_usable=usable,
    )
    people = scores.by_person()
    assert people.unit.tolist() == [2, 5, 9]
    assert people.score.tolist() == [6.0, 3.0, 5.0]
    assert people.member.tolist() == [False, True, True]
    assert people.ids is not None
    assert people.ids.tolist() == [13, 10, 12]
    assert people.shadow_score is not None
    assert people.shadow_usable is not None
    assert people.shadow_score.tolist() == [[0.0, 1.0, 3.0]]  # unusable rows do not count
    assert people.shadow_usable.tolist() == [[False, True, True]]
    assert scores.by_person(average=True).score.tolist() == [2.0, 1.5, 5.0]


def test_records_of_one_person_widen_the_interval() -> None:
    """Five copies of each person's score: by row the interval would be sqrt(5) too narrow."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=400)
    single, repeated = pool_of(200), pool_of(200, rows_each=5)
    one = rows_of(new_run(), single, base)["auc"]
    many = rows_of(new_run(), repeated, np.repeat(base, 5))["auc"]
    assert one.value == pytest.approx(many.value)
    assert many.high - many.low == pytest.approx(one.high - one.low, rel=0.05)
    assert many.n == 400


def test_details_have_their_typed_forms_and_the_ids_of_the_records() -> None:
    pool = pool_of(1000)
    rows = rows_of(new_run(), pool, np.random.default_rng(0).normal(size=2000), **with_shadows(pool, 1.0))
    details = rows["auc"].details
    curve = next(d for d in details if isinstance(d, Curve))
    assert curve.name == "roc"
    assert len(curve.x) == len(curve.y) == len(curve.low) == len(curve.high)
    found = {d.name: d for d in details if isinstance(d, PerRecord)}
    assert found["members"].ids == tuple(range(1000))
    assert found["nonmembers"].ids == tuple(range(1000, 2000))
    assert found["members"].clusters == ()
    hits = next(d for d in rows["tpr_at_1pct_fpr"].details if isinstance(d, PerRecord))
    assert hits.name == "members"
    assert np.mean(hits.values) == rows["tpr_at_1pct_fpr"].value
    assert "lower bound" in texts(rows["auc"])


def test_a_null_result_says_what_would_have_been_found() -> None:
    """The stated rate is found with 80 % probability by the exact binomial interval (and no smaller one is)."""
    n = 2956
    text = auditing.undetected("tpr_at_1pct_fpr", Interval(0.01, 0.0101, 0.0102, 0.95, n), 0.01)
    stated = float(text.split("power: ")[1].split(" %")[0]) / 100
    low = [stats.clopper_pearson(k, n).low for k in range(80)]
    enough = next(k for k in range(80) if low[k] > 0.01)
    assert binom.sf(enough - 1, n, stated) == pytest.approx(0.8, abs=0.01)
    wide = auditing.undetected("tpr_at_1pct_fpr", Interval(0.0, 0.0, 0.114, 0.95, n), 0.01)
    assert "9.15 % of members" in wide  # the noise of the threshold counts: .01 + .057 (1 + .8416 / 1.96)
    assert "safe" not in text


def test_different_sources_make_the_attack_inconclusive() -> None:
    same, other = pool_of(600), pool_of(600, shift=1.0)
    score = np.random.default_rng(0).normal(size=1200)
    rows = rows_of(new_run(), same, score)
    assert rows["auc"].status == "measured"
    assert rows["blind_auc"].low < 0.5 < rows["blind_auc"].high
    rows = rows_of(new_run(), other, score)
    assert rows["auc"].status == "inconclusive"
    assert "different distributions" in rows["auc"].reason
    assert rows["auc"].value is not None
    assert rows["blind_auc"].status == "measured"
    assert rows["blind_auc"].value > 0.7
    assert rows["tpr_at_1pct_fpr"].status == "not_measured"


def test_blind_baseline_keeps_people_in_one_half() -> None:
    """Rows of a person that repeat exactly would be recognised if people were split."""
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(120, 4)), 10, axis=0)
    y = np.tile([0, 1], 600)
    owner = np.repeat(np.arange(120), 10)
    data = Dataset((x[:600], y[:600], owner[:600]), (x[600:], y[600:], owner[600:]))
    found = blind_baseline(gather(data), new_run())
    assert found is not None
    assert found[1].low < 0.5
    assert found[0].value < 0.8  # 60 people are tested: the sd is .075


def test_blind_baseline_takes_a_column_without_a_value() -> None:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(200, 3)), draw.integers(2, size=200)
    x[:, 1] = np.nan
    bare = np.delete(x, 1, axis=1)
    found = [
        blind_baseline(gather(Dataset((part[:100], y[:100]), (part[100:], y[100:]))), new_run())
        for part in (x, bare)
    ]
    assert found[0] == found[1] is not None


def test_blind_baseline_sees_that_the_parts_differ_in_rows_a_person() -> None:
    """A person's score is a sum over their rows: more rows rank otherwise, whatever the model is."""
    draw = np.random.default_rng(0)
    counts = np.r_[1 + draw.poisson(2, 400), 1 + draw.poisson(4, 400)]
    owner = np.repeat(np.arange(800), counts)
    x, y, first = draw.normal(size=(len(owner), 3)), draw.integers(2, size=len(owner)), counts[:400].sum()
    pool = gather(Dataset((x[:first], y[:first], owner[:first]), (x[first:], y[first:], owner[first:])))
    rows = rows_of(new_run(), pool, draw.normal(-0.3, 1, len(owner)))
    assert rows["person_auc"].value > 0.55  # type: ignore[operator]  # nothing leaks: the scores are noise
    assert rows["person_auc"].status == "inconclusive"
    assert "number of rows" in texts(rows["blind_auc"])


def test_a_rate_is_no_finding_where_non_members_exceed_the_threshold_as_often() -> None:
    """A target unlike its shadows: everybody scores wider. Then with a leak; then with a threshold that failed."""
    pool = pool_of(2000)
    noise, shadows = np.random.default_rng(1).normal(size=4000), with_shadows(pool, 0.0)
    rows = rows_of(new_run(), pool, 1.15 * noise, **shadows)
    tpr = rows["tpr_at_1pct_fpr"]
    assert tpr.low > 0.01  # type: ignore[operator]  # alone, it would count as a finding
    assert tpr.status == "inconclusive"
    assert "no clear difference" in tpr.reason
    assert rows["fpr_at_1pct"].status == rows["auc"].status == "measured"
    leak = rows_of(new_run(), pool, noise + 1.5 * pool.member, **shadows)["tpr_at_1pct_fpr"]
    assert leak.status == "measured"
    failed = rows_of(new_run(), pool, 1.6 * noise + 1.5 * pool.member, **shadows)["tpr_at_1pct_fpr"]
    assert failed.status == "inconclusive"
    assert "otherwise than this target" in failed.reason


def test_precision_is_told_at_a_stated_prior() -> None:
    """At one half the same rates would give 97 %; among 100 people of whom one is a member it is a quarter."""
    pool = pool_of(1000)
    score = np.r_[np.repeat([9.0, -1.0], [400, 600]), np.repeat([9.0, -1.0], [12, 988])]
    flat = {k: np.zeros_like(v) if k == "shadow_score" else v for k, v in with_shadows(pool, 0).items()}
    rows = rows_of(new_run(), pool, score, **flat)
    assert (rows["tpr_at_1pct_fpr"].value, rows["fpr_at_1pct"].value) == (0.4, 0.012)
    expected = 0.01 * 0.4 / (0.01 * 0.4 + 0.99 * 0.012)
    assert f"members, {100 * expected:.0f} % of those flagged would be" in texts(rows["tpr_at_1pct_fpr"])
    assert "of those flagged" not in texts(
        rows_of(new_run(), pool, np.zeros(2000), **flat)["tpr_at_1pct_fpr"]
    )


def test_a_tenth_of_a_percent_is_resolved_from_10_000_non_members() -> None:
    pool = pool_of(10_000)
    score = np.random.default_rng(3).normal(size=20_000) + 3.0 * pool.member
    row = rows_of(new_run(), pool, score, **with_shadows(pool, 3.0, n_shadows=4))
    found, truth = row["tpr_at_0.1pct_fpr"], 0.4641  # P(N(3, 1) > 3.0902)
    assert found.status == "measured"
    assert found.low < truth < found.high  # type: ignore[operator]
    assert row["fpr_at_0.1pct"].low <= 0.001 <= row["fpr_at_0.1pct"].high  # type: ignore[operator]


@pytest.mark.parametrize("trained", [True, False])
def test_a_leak_planted_in_one_group_is_found_there_and_not_in_false_alarms(trained: bool) -> None:
    """Limits at 1 - 1e-6: one person in ten of 2,000 is of the group that is remembered."""
    pool = pool_of(2000)
    draw = np.random.default_rng(5)
    group = (draw.random(4000) < 0.1).astype(int)
    score = draw.normal(size=4000) + 4.0 * (pool.member & (group == 1))
    shadows = with_shadows(pool, 0.0) if trained else {}
    part = Slice(("town = north", "town = south"), group)
    strict = new_run(level=1 - 1e-6)
    rows = auditing.report(strict, scores_of(pool, score, **shadows), pool, attacker="A test.", parts=[part])
    found = {row.quantity: row for row in rows}
    tpr, fpr = ({r[0]: r for r in group_table(found[q]).rows} for q in ("tpr_at_1pct_fpr", "fpr_at_1pct"))
    assert [tpr[name][1] for name in part.labels] == [((group == c) & pool.member).sum() for c in (0, 1)]
    assert [fpr[name][1] for name in part.labels] == [((group == c) & ~pool.member).sum() for c in (0, 1)]
    assert tpr["town = north"][3] <= 0.01 <= tpr["town = north"][4]
    assert tpr["town = south"][3] > 0.5  # Phi(4 - 2.33) = .95
    assert all(row[3] <= 0.01 <= row[4] for row in fpr.values())
    told = texts(found["tpr_at_1pct_fpr"])
    assert "furthest from all others, for its size, is town = south" in told
    assert "not shown" not in told.split("by group")[1]
    assert not [d for d in found["auc"].details if isinstance(d, Table)]


def test_people_are_sliced_once_each() -> None:
    pool = pool_of(1000, rows_each=3)
    part = Slice(("even", "odd"), pool.unit % 2)
    rows = auditing.report(
        new_run(),
        scores_of(pool, np.random.default_rng(0).normal(size=6000)),
        pool,
        attacker="-",
        parts=[part],
    )
    found = {row.quantity: row for row in rows}
    assert [row[:2] for row in group_table(found["person_tpr_at_1pct_fpr"]).rows] == [
        ("even", 500),
        ("odd", 500),
    ]
    assert not [d for d in found["tpr_at_1pct_fpr"].details if isinstance(d, Table)], "only at one level"
    assert auditing.MOVED not in texts(found["person_tpr_at_1pct_fpr"])
    moving = Slice(("early", "late"), np.tile([0, 1, 1], 2000))
    rows = auditing.report(
        new_run(), scores_of(pool, np.zeros(6000)), pool, attacker="-", parts=[part, moving]
    )
    moved = next(row for row in rows if row.quantity == "person_tpr_at_1pct_fpr")
    assert group_table(moved).rows[2][:2] == ("early", 1000)
    assert auditing.MOVED in texts(moved)


def test_records_left_out_of_the_evaluation_are_in_no_group() -> None:
    """The first rows of train stand in holdout too; the groups of the rest must not slip."""
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(2400, 3)), draw.integers(2, size=2400)
    pool = gather(
        Dataset((x[:1200], y[:1200]), (np.r_[x[:100], x[1200:]], np.r_[y[:100], y[1200:]])).with_ids(
            np.arange(1200), np.arange(1300)
        )
    )
    group = (draw.random(len(pool.member)) < 0.3).astype(int)
    kept = pool.evaluated
    score = draw.normal(size=kept.sum()) + 5.0 * (pool.member & (group == 1))[kept]
    scores = auditing.Scores(score=score, member=pool.member[kept], unit=pool.unit[kept], ids=pool.ids[kept])  # type: ignore[index]
    rows = auditing.report(new_run(), scores, pool, attacker="-", parts=[Slice(("a", "b"), group)])
    table = group_table(next(row for row in rows if row.quantity == "tpr_at_1pct_fpr"))
    assert [row[1] for row in table.rows] == [((group == c) & pool.member & kept).sum() for c in (0, 1)]
    assert table.rows[0][2] < 0.05
    assert table.rows[1][2] > 0.9


def test_no_baseline_for_images_says_so() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((40, 1, 4, 4))
    pool = gather(Dataset((x[:20], np.arange(20) % 2), (x[20:], np.arange(20) % 2)))
    rows = rows_of(new_run(), pool, rng.normal(size=40))
    assert "blind_auc" not in rows
    assert "No blind baseline" in texts(rows["auc"])


def test_infinite_and_huge_scores_are_reported_finite() -> None:
    pool = pool_of(1000)
    score = np.where(pool.member, 1e300, -1e300)
    rows = rows_of(new_run(), pool, score)
    assert rows["auc"].value == 1.0
    assert rows["tpr_at_1pct_fpr"].value == 1.0
    assert all(math.isfinite(row.value) for row in rows.values() if row.value is not None)


def test_a_method_without_its_run_is_refused() -> None:
    with pytest.raises(InvalidData, match="public name"):
        require(None)
