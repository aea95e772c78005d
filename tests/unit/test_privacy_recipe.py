# SPDX-License-Identifier: Apache-2.0
"""Leakage of the recipe: the figures against plain loops, what fixes a threshold, and how it stands to the target's."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from sklearn.tree import DecisionTreeClassifier

import casemate as cm
from casemate.core import stats
from casemate.core.data import Dataset
from casemate.core.errors import InvalidData
from casemate.core.run import Run
from casemate.core.types import Measurement, Note, PerRecord, Table
from casemate.privacy import auditing, recipe
from casemate.privacy.methods.lira import lira
from casemate.privacy.pool import Pool, gather
from casemate.privacy.shadow import design
from casemate.report import verdict
from casemate.report.compare import compare

STRICT = 1 - 1e-6


def scores_of(
    n: int, *, lift: float, own: float, rate: str = "1/2", blocks: int = 4, seed: int = 0, each: int = 1
) -> tuple[auditing.Scores, Pool]:
    """Gaussian scores of n units: shadows' members lie ``lift`` higher, the target's ``own``."""
    draw = np.random.default_rng(seed)
    half, share = n // 2 * each, Fraction(rate)
    x, y = draw.normal(size=(2 * half, 3)), draw.integers(2, size=2 * half)
    owner = np.arange(2 * half) // each
    whose = ([owner[:half]], [owner[half:]]) if each > 1 else ([], [])
    data = Dataset((x[:half], y[:half], *whose[0]), (x[half:], y[half:], *whose[1]))
    pool = gather(data.with_ids(np.arange(half), np.arange(half, 2 * half)))
    run = Run(card=lira.card, seed=seed)
    inside = design(run, pool.n_units, share, blocks * share.denominator)[:, pool.unit]
    scores = auditing.Scores(
        score=draw.normal(size=2 * half) + own * pool.member,
        member=pool.member,
        unit=pool.unit,
        ids=pool.ids,
        shadow_score=draw.normal(size=inside.shape) + lift * inside,
        shadow_member=inside,
        shadow_usable=np.ones_like(inside),
        in_rate=share,
    )
    return scores, pool


def rows_of(scores: auditing.Scores, pool: Pool, level: float = 0.95) -> dict[str, Measurement]:
    run = Run(card=lira.card, level=level)
    return {row.quantity: row for row in auditing.report(run, scores, pool, attacker="A test.")}


def bank_of(scores: auditing.Scores) -> recipe.Bank:
    made = recipe.Bank.of(scores, scores.in_rate or Fraction(1, 2))
    assert made is not None
    return made


def holed(scores: auditing.Scores, share: float = 0.1) -> auditing.Scores:
    draw = np.random.default_rng(9)
    assert scores.shadow_score is not None
    return replace(scores, shadow_usable=draw.random(scores.shadow_score.shape) > share)


@pytest.mark.parametrize("rate", ["1/2", "2/3", "1/4"])
def test_figures_equal_a_plain_loop(rate: str) -> None:
    """Also where some records may not be judged in some models, and where scores tie."""
    scores, _ = scores_of(60, lift=1.0, own=0.0, rate=rate)
    bank = bank_of(holed(replace(scores, shadow_score=np.round(scores.shadow_score, 1))))  # type: ignore[call-overload]
    b, fpr = bank.share[1], 0.1
    hits: dict[int, list[float]] = {i: [] for i in range(60)}
    above: dict[int, list[float]] = {i: [] for i in range(60)}
    models, areas = [], []
    for k in range(len(bank.score)):
        rest = [j for j in range(len(bank.score)) if j // b != k // b]
        others = sorted(bank.score[j, i] for j in rest for i in range(60) if bank.other[j, i])
        wrong = [sum(o > t for o in others) / len(others) for t in others]
        threshold = next(t for t, share in zip(others, wrong, strict=True) if share <= fpr)
        inside = [i for i in range(60) if bank.member[k, i]]
        outside = [i for i in range(60) if bank.other[k, i]]
        for i in inside:
            hits[i].append(float(bank.score[k, i] > threshold))
            gaps = [bank.score[k, i] - bank.score[k, j] for j in outside]
            above[i].append(float(np.mean([0.5 if gap == 0 else float(gap > 0) for gap in gaps])))
        models.append(np.mean([hits[i][-1] for i in inside]))
        areas.append(np.mean([above[i][-1] for i in inside]))
    found = recipe.rate(bank, fpr, rng=np.random.default_rng(0), level=0.95)
    assert found.values == pytest.approx([np.mean(hits[i]) for i in range(60)])
    assert found.models == pytest.approx(models)
    assert found.interval.value == pytest.approx(np.mean([np.mean(hits[i]) for i in range(60)]))
    area = recipe.auc(bank, level=0.95)
    assert area.models == pytest.approx(areas)
    assert area.interval.value == pytest.approx(np.mean([np.mean(above[i]) for i in range(60)]))
    assert area.values.mean() == pytest.approx(area.interval.value)


def test_the_influence_of_a_record_counts_both_of_its_sides() -> None:
    """One record that ranks first wherever it is: 1 as a member, 0 left above it as another; three that tie below."""
    inside = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0], [0, 1, 0, 1]], bool)
    score = np.tile([9.0, 1.0, 1.0, 1.0], (4, 1))
    bank = recipe.Bank(score, inside, ~inside, np.arange(4), (1, 2))
    area = recipe.auc(bank, level=0.95)
    # models with record 0 inside: (1 + 1 + .5 + .5) / 4; outside: members tie with one and lose to it: .25
    assert area.models.tolist() == [0.75, 0.25, 0.75, 0.25]
    # v is 1 for the first, and for each other the mean of its models; w likewise; mean w is .5
    assert area.values.tolist() == [
        1.0 + 0.0 - 0.5,
        0.375 + 0.625 - 0.5,
        0.375 + 0.625 - 0.5,
        0.25 + 0.75 - 0.5,
    ]
    assert area.interval.value == 0.5


def test_the_block_of_a_model_has_no_part_in_its_threshold() -> None:
    scores, _ = scores_of(400, lift=2.0, own=2.0)
    bank = bank_of(scores)
    plain = recipe.rate(bank, 0.05, rng=np.random.default_rng(0), level=0.95)
    loud = np.where(bank.other & (np.arange(8) < 2)[:, None], 50.0, bank.score)  # the others of block 0
    moved = recipe.rate(bank._replace(score=loud), 0.05, rng=np.random.default_rng(0), level=0.95)
    assert moved.models[:2].tolist() == plain.models[:2].tolist()
    assert moved.models[2:].max() == 0.0  # a quarter of what fixes their thresholds is at 50
    assert plain.models.min() > 0.3


def test_intervals_hold_the_spread_of_models_and_of_people() -> None:
    """Half width^2 = people^2 + models^2, models t sqrt(V a (b - 1) / (b (b - a))) on the log-odds: two blocks of 3."""
    people = stats.clopper_pearson(40, 100)
    models = [0.3, 0.4, 0.5, 0.35, 0.4, 0.45]
    found = stats.over_models(0.4, people, models, share=(2, 3))
    spread = (0.01 + 0.0025) / 2 * 2 * 2 / (3 * 1)  # mean within-block variance times 4/3
    half = 2.7764451 * np.sqrt(spread)  # t of 4 degrees
    ends = [
        1 / (1 + 1.5 * np.exp(-sign * half / 0.24)) for sign in (-1, 1)
    ]  # odds .4 / .6, slope 1 / (.4 .6)
    assert found.low == pytest.approx(0.4 - np.hypot(0.4 - people.low, 0.4 - ends[0]), rel=1e-7)
    assert found.high == pytest.approx(0.4 + np.hypot(people.high - 0.4, ends[1] - 0.4), rel=1e-7)
    assert (found.value, found.n, found.level) == (0.4, 100, 0.95)
    for wrong, share in (
        (models[:5], (2, 3)),
        (models[:3], (2, 3)),
        (models, (3, 3)),
        ([0.1, np.nan] * 2, (1, 2)),
    ):
        with pytest.raises(InvalidData):
            stats.over_models(0.4, people, wrong, share=share)


@pytest.mark.parametrize(("own", "sign"), [(3.5, 1), (0.0, -1), (1.5, 0)])
def test_this_model_and_its_recipe_are_two_rows(own: float, sign: int) -> None:
    """A target trained harder than its recipe says, one trained softer, and one like its shadows (limits: 1e-6)."""
    rows = rows_of(*scores_of(4000, lift=1.5, own=own), level=STRICT)
    for name in ("auc", "tpr_at_1pct_fpr"):
        this, mean = (
            stats.Interval(row.value, row.low, row.high, row.level, row.n)  # type: ignore[arg-type]
            for row in (rows[name], rows[f"recipe_{name}"])
        )
        gap = stats.difference(this, mean)
        assert (gap.low > 0, gap.high < 0) == (sign > 0, sign < 0), name
    assert rows["recipe_tpr_at_1pct_fpr"].low <= 0.2044 <= rows["recipe_tpr_at_1pct_fpr"].high  # type: ignore[operator]
    assert rows["recipe_auc"].low <= 0.8556 <= rows["recipe_auc"].high  # type: ignore[operator]  # Phi(1.5 / sqrt 2)


def test_rows_are_of_people_where_rows_have_owners_and_can_be_paired() -> None:
    rows = rows_of(*scores_of(1000, lift=1.0, own=1.0, each=2))
    named = {name for name in rows if name.startswith("recipe")}
    assert named == {"recipe_person_auc", "recipe_person_tpr_at_1pct_fpr"}  # .1 % needs 10,000 people
    for name in named:
        (kept,) = [d for d in rows[name].details if isinstance(d, PerRecord)]
        assert (kept.name, len(kept.ids), kept.clusters) == (name, 1000, ())
        assert np.mean(kept.values) == pytest.approx(rows[name].value, abs=1e-6)
    (table,) = [d for d in rows["recipe_person_auc"].details if isinstance(d, Table)]
    assert (table.name, table.columns[0]) == ("models of the recipe", "quantity")
    assert [row[0] for row in table.rows] == ["auc", "tpr_at_1pct_fpr"]
    assert table.rows[0][1] == pytest.approx(rows["recipe_person_auc"].value, abs=1e-3)
    assert all(row[3] <= row[1] <= row[4] and row[5] == 8 for row in table.rows)
    told = " ".join(d.text for d in rows["recipe_person_tpr_at_1pct_fpr"].details if isinstance(d, Note))
    assert "Not of this model: the mean over 8 models" in told
    assert "1/2 of all these people" in told
    assert "thresholds for 1 % false alarms caused" in told


def test_what_cannot_be_resolved_says_so_once() -> None:
    rows = rows_of(*scores_of(998, lift=1.0, own=1.0))
    assert rows["recipe_auc"].status == "measured"
    assert rows["recipe_tpr_at_1pct_fpr"].status == "not_measured"
    assert "need >= 1,000 records, has 998" in rows["recipe_tpr_at_1pct_fpr"].reason
    assert "recipe_tpr_at_0.1pct_fpr" not in rows
    scores, pool = scores_of(400, lift=1.0, own=1.0)
    assert scores.shadow_member is not None
    blind = replace(scores, shadow_usable=~(scores.shadow_member & (np.arange(8) == 3)[:, None]))
    row = rows_of(blind, pool)["recipe_auc"]
    assert row.status == "not_measured"
    assert "all records that can be judged, or on none" in row.reason
    assert not any("recipe" in name for name in rows_of(replace(scores, in_rate=None), pool))


def test_everybody_recognised_by_every_model_keeps_honest_limits() -> None:
    """Scores that separate the sides whole: people alone limit what is known; and nothing is invented at zero."""
    scores, pool = scores_of(1000, lift=1e6, own=1e6)
    rows = rows_of(scores, pool)
    for name in ("recipe_auc", "recipe_tpr_at_1pct_fpr"):
        assert rows[name].value == rows[name].high == 1.0
        assert 0.98 < rows[name].low < 1.0  # type: ignore[operator]
    flat = rows_of(replace(scores, shadow_score=np.zeros_like(scores.shadow_score)), pool)  # type: ignore[arg-type]
    assert flat["recipe_auc"].value == 0.5
    assert flat["recipe_tpr_at_1pct_fpr"].value == flat["recipe_tpr_at_1pct_fpr"].low == 0.0
    assert flat["recipe_tpr_at_1pct_fpr"].high > 0.003  # type: ignore[operator]


def test_a_target_that_remembers_more_than_its_recipe_through_the_whole_audit() -> None:
    """A tree grown to the end stands where its recipe says depth 10; then the same tree with its own recipe."""
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(2400, 4)), draw.integers(2, size=2400)
    data = cm.Dataset((x[:1200], y[:1200]), (x[1200:], y[1200:]))
    strong = DecisionTreeClassifier(random_state=0).fit(x[:1200], y[:1200])
    planted = DecisionTreeClassifier(max_depth=10, random_state=0).fit(x[:1200], y[:1200])
    planted.tree_ = strong.tree_
    first = cm.audit(planted, data, methods=[cm.method("lira", n_shadows=8)])
    assert first["lira", "auc"].low > first["lira", "recipe_auc"].high
    told = next(s for s in verdict.sentences(first) if s.property == "privacy")
    assert told.state == "found"
    assert "recipe" not in told.short["en"]
    grown = cm.audit(strong, data, methods=["lira"], like=first)
    assert grown["lira", "recipe_auc"].low > first["lira", "recipe_auc"].high
    told = next(s for s in verdict.sentences(grown) if s.property == "privacy")
    assert "recipe" not in told.short["en"]
    rows = {row.quantity: row for row in compare(first, grown).rows if row.method == "lira"}
    assert rows["recipe_auc"].verdict == "worse"
    for name in ("recipe_auc", "recipe_tpr_at_1pct_fpr"):
        difference = rows[name].difference
        assert difference is not None, rows[name].reason
        gap = grown["lira", name].value - first["lira", name].value
        assert difference.value == pytest.approx(gap, abs=1e-6)
