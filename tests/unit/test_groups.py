# SPDX-License-Identifier: Apache-2.0
"""Figures by sensitive group: known answers, who is counted, what is never shown, and what chance may claim."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

import casemate as cm
from casemate.core import evasion, groups, harness, stats
from casemate.core.groups import LEAST, Slice
from casemate.core.methods import Card
from casemate.core.run import Run
from casemate.core.schema import Schema
from casemate.core.types import LABELS, Measurement, Note, Table, Threat, Worse


def data_of(column: Any, *, other: Any = None) -> cm.Dataset:
    """Rows with one sensitive column, as many on either side; ``other`` is the column in holdout."""
    parts = []
    for values in (column, column if other is None else other):
        frame = pd.DataFrame({"town": values, "age": np.arange(len(values)) * 1.0})
        parts.append((frame, np.arange(len(values)) % 2))
    return cm.Dataset(parts[0], parts[1], sensitive=("town",))


def sorted_of(data: cm.Dataset) -> Slice:
    (part,) = groups.slices(data, data.train.x)
    return part


def told(
    values: np.ndarray, codes: np.ndarray, *, worse: Worse = "lower", **options: Any
) -> tuple[dict[str, Any], str]:
    """Return the rows by label, and the sentence."""
    labels = tuple(f"g = {code}" for code in range(int(codes.max()) + 1))
    found = groups.details("hits", [Slice(labels, codes)], values, method="made", worse=worse, **options)
    assert isinstance(found[0], Table)
    assert found[0].name == "hits by group"
    assert found[0].columns == ("group", "n", "value", "low", "high")
    notes = [detail.text for detail in found if isinstance(detail, Note)]
    return {str(row[0]): row[1:] for row in found[0].rows}, " ".join(notes)


def test_categories_small_numbers_and_holes_are_groups() -> None:
    part = sorted_of(data_of(["south", None, "north", "south"], other=["east"] * 4))
    assert part.labels == ("town = east", "town = north", "town = south", "town missing")
    assert part.codes.tolist() == [2, 3, 1, 2]
    part = sorted_of(data_of([2.0, np.nan, 0.0, 2.0], other=[7.0] * 4))
    assert part.labels == ("town = 0", "town = 2", "town = 7", "town missing")
    assert part.codes.tolist() == [1, 3, 0, 1]
    assert sorted_of(data_of(np.arange(10.0))).labels[-1] == "town = 9"


def test_a_fraction_that_few_have_is_no_group() -> None:
    """A hole in zeros and ones that was filled by a mean is somebody's own number."""
    part = sorted_of(data_of(np.r_[np.zeros(48), np.ones(12), 0.0068104, 0.47588, 0.47588]))
    assert part.labels == ("town up to 0", "town above 0")
    assert np.bincount(part.codes).tolist() == [48, 15]
    assert sorted_of(data_of([0.5] * 10 + [1.5] * 10)).labels == ("town = 0.5", "town = 1.5")
    assert sorted_of(data_of([0.5] * 3)).labels == ("town = 0.5",)


def test_many_numbers_are_cut_at_quartiles_of_both_parts_and_the_ends_are_not_told() -> None:
    part = sorted_of(data_of(np.arange(0.0, 8.0), other=np.arange(8.0, 16.0)))
    # quartiles of 0 ... 15 are 3.75, 7.5, 11.25, though these rows are 0 ... 7
    assert part.labels == (
        "town up to 3.75",
        "town above 3.75 up to 7.5",
        "town above 7.5 up to 11.25",
        "town above 11.25",
    )
    assert part.codes.tolist() == [0] * 4 + [1] * 4
    # four in five share the largest value: whoever lies below is still a group
    heap = sorted_of(data_of(np.r_[np.full(80, 50.0), np.arange(1.0, 12.0)]))
    assert heap.labels == ("town up to 11", "town above 11")
    assert np.bincount(heap.codes).tolist() == [11, 80]
    heavy = sorted_of(data_of(np.r_[np.zeros(30), np.arange(1.0, 12.0), np.nan]))
    assert heavy.labels == ("town up to 0", "town above 0 up to 1", "town above 1", "town missing")
    assert heavy.codes.tolist() == [0] * 30 + [1] + [2] * 10 + [3]
    top = sorted_of(data_of(np.r_[np.full(30, 50.0), np.arange(1.0, 12.0)]))
    assert top.labels == ("town up to 11", "town above 11")
    assert "50" not in " ".join(top.labels)
    assert set(top.codes[:30]) == {1}


def test_groups_that_differ_have_names_that_differ() -> None:
    close = sorted_of(data_of([1234567.0, 1234568.0, 0.5] * 10))
    assert close.labels == ("town = 0.5", "town = 1234567", "town = 1234568")
    cut = sorted_of(data_of(1_234_500 + np.arange(41) / 10))
    assert cut.labels[:2] == ("town up to 1234501", "town above 1234501 up to 1234502")
    nearly = sorted_of(data_of([0.1 + 0.2, 0.3] * 5))
    assert len(set(nearly.labels)) == 2
    long = sorted_of(data_of(["x" * 500 + end for end in "ab"] * 5))
    assert len(set(long.labels)) == 2
    assert all(len(label) < 100 and label.startswith("town = xxx") for label in long.labels)


def test_of_many_categories_the_most_common_stand_alone() -> None:
    """A thousand towns: 29 by name, the rest together, holes apart; so neither the time nor the page has no end."""
    towns = np.array([f"town {i:04d}" for i in range(1000)], object)
    column = np.r_[np.repeat(towns[500:529], 12), towns, [None] * 3]
    part = sorted_of(data_of(column))
    assert part.labels == (
        *(f"town = town {i:04d}" for i in range(500, 529)), "town: 971 others", "town missing",
    )  # fmt: skip
    assert np.bincount(part.codes).tolist() == [13] * 29 + [971, 3]
    assert part.codes[:348].tolist() == np.repeat(np.arange(29), 12).tolist()
    assert sorted_of(data_of(towns[:30])).labels[-1] == "town = town 0029"


def test_nothing_without_sensitive_columns_and_for_images() -> None:
    rows = np.arange(8.0).reshape(4, 2)
    plain = cm.Dataset((rows, np.array([0, 1, 0, 1])), (rows, np.array([0, 1, 0, 1])))
    assert groups.slices(plain, rows) == ()
    images = np.zeros((4, 1, 2, 2))
    pictures = cm.Dataset((images, np.array([0, 1, 0, 1])), (images, np.array([0, 1, 0, 1])))
    assert groups.slices(pictures, images) == ()
    assert groups.details("hits", (), np.ones(4), method="made", worse="lower") == []


def test_shares_by_hand_and_the_furthest_group() -> None:
    """40 of 50 and 45 of 50 against 10 of 20: three comparisons, so limits of 1 - .05 / 3."""
    codes = np.repeat([0, 1, 2], [50, 50, 20])
    hits = np.concatenate([np.arange(50) < 40, np.arange(50) < 45, np.arange(20) < 10])
    rows, text = told(hits, codes)
    for label, k, n in (("g = 0", 40, 50), ("g = 1", 45, 50), ("g = 2", 10, 20)):
        exact = stats.clopper_pearson(k, n)
        assert rows[label] == (n, k / n, *(pytest.approx(end, rel=1e-3) for end in (exact.low, exact.high)))
    wide = 1 - 0.05 / 3
    gap = stats.difference(
        stats.clopper_pearson(10, 20, level=wide), stats.clopper_pearson(85, 100, level=wide)
    )
    assert "made hits by group: furthest from all others, for its size, is g = 2, 0.5 against 0.85" in text
    assert f"a difference of -0.35 [{gap.low:.4g}, {gap.high:.4g}]" in text
    assert "all 3 comparisons at once (95 %)" in text
    assert "some stand apart by chance" in text
    assert "not shown" not in text
    assert "furthest from all others, for its size, is g = 1" in told(hits, codes, worse="higher")[1]
    assert "It was not shown to be worse off at this power" in told(hits[:100], codes[:100])[1]


def test_a_handful_of_people_does_not_hide_a_group_that_is_surely_worse_off() -> None:
    """7 of 10 lie further below the others than 800 of 1,000, but only the thousand show it."""
    codes = np.repeat([0, 1, 2], [1000, 1000, 10])
    text = told(np.r_[np.arange(1000) < 800, np.arange(1000) < 900, np.arange(10) < 7], codes)[1]
    assert "is g = 0, 0.8 against 0.898" in text
    assert "not shown" not in text


def test_two_groups_are_one_comparison_and_equal_groups_none() -> None:
    codes = np.repeat([0, 1], 40)
    text = told(np.arange(80) % 40 < np.repeat([30, 10], 40), codes)[1]
    gap = stats.difference(stats.clopper_pearson(10, 40), stats.clopper_pearson(30, 40))
    assert f"[{gap.low:.4g}, {gap.high:.4g}]" in text
    assert "hold for this one comparison" in text
    assert told(np.ones(80, bool), codes)[1] == ""
    # a third group too small to be shown is among the others: now there are two comparisons
    assert (
        "all 2 comparisons"
        in told(np.r_[np.arange(80) % 40 < 20 - codes, [True] * 3], np.r_[codes, 2, 2, 2])[1]
    )


def test_a_group_of_few_people_is_named_and_has_no_number() -> None:
    codes = np.repeat([0, 1, 2], [LEAST, LEAST - 1, 30])
    rows, text = told(codes == 2, codes)
    assert rows["g = 0"][:2] == (10, 0.0)
    assert rows["g = 1"] == (9, "not resolvable at n=9", None, None)
    assert "g = 1" not in text
    empty = groups.details(
        "hits", [Slice(("a", "b"), np.zeros(20, int))], np.ones(20, bool), method="made", worse="lower"
    )
    assert empty[0].rows[1] == ("b", 0, "not resolvable at n=0", None, None)  # type: ignore[union-attr]
    assert len(empty) == 1, "there are no others to compare with"
    # ten rows of nine people are nine people
    owner = np.r_[np.arange(9), 0, 100 + np.arange(30)]
    rows, _ = told(owner >= 100, np.repeat([0, 1], [10, 30]), person=owner)
    assert rows["g = 0"] == (9, "not resolvable at n=9", None, None)


def test_intervals_are_by_person_and_so_is_n() -> None:
    owner, codes = np.repeat(np.arange(60), 5), np.repeat(np.arange(60) % 2, 5)
    hits = np.repeat(np.random.default_rng(0).random(60) < 0.6, 5)
    rows, text = told(hits, codes, person=owner)
    for code in (0, 1):
        own = codes == code
        wanted = stats.proportion(hits[own], clusters=owner[own])
        assert rows[f"g = {code}"][0] == 30
        assert rows[f"g = {code}"][2] == pytest.approx(wanted.low, rel=1e-3)
        assert rows[f"g = {code}"][3] == pytest.approx(wanted.high, rel=1e-3)
    by_row, _ = told(hits, codes)
    assert by_row["g = 0"][3] - by_row["g = 0"][2] < 0.6 * (rows["g = 0"][3] - rows["g = 0"][2])
    assert text


def test_means_use_the_interval_of_means() -> None:
    draw = np.random.default_rng(0)
    values, codes = draw.normal(size=60), np.repeat([0, 1], 30)
    rows, _ = told(values, codes, level=0.9)
    wanted = stats.mean(values[:30], level=0.9)
    assert rows["g = 0"][1:] == tuple(
        pytest.approx(number, rel=1e-3) for number in (wanted.value, wanted.low, wanted.high)
    )


def test_the_furthest_of_equal_groups_is_seldom_called_worse() -> None:
    """400 draws of eight equal groups: a false claim has at most 2.5 %; above 28 of 400 is below 1e-6.

    Each group's own interval covers: 3,200 of them at 95 %, at least 2,976 (binomial, 1e-6).
    """
    codes, claimed, covered = np.repeat(np.arange(8), 60), 0, 0
    for seed in range(400):
        hits = np.random.default_rng(seed).random(480) < 0.7
        rows, text = told(hits, codes)
        claimed += "not shown" not in text
        covered += sum(low <= 0.7 <= high for _, _, low, high in rows.values())
    print(f"false claims {claimed} of 400, covered {covered} of 3,200")
    assert claimed <= 28
    assert covered >= 2976


def world(n: int = 400) -> cm.Dataset:
    """Class 1 where the first column is positive, but labels are wrong for half of the people of the second town."""
    draw = np.random.default_rng(3)
    x = np.column_stack([draw.normal(size=n), np.repeat([0.0, 1.0], [3 * n // 4, n - 3 * n // 4])])
    y = (x[:, 0] > 0).astype(int)
    y[3 * n // 4 :: 2] ^= 1
    owner = np.arange(n) // 2
    schema = Schema.infer(x, sensitive=("x1",))
    parts = (x, y, owner), (x, y, owner + n)
    return cm.Dataset(*parts, schema=schema).with_ids(np.arange(n) + 70_000, np.arange(n) + 80_000)


def table_of(row: Measurement) -> Table:
    (found,) = [d for d in row.details if isinstance(d, Table) and d.name == f"{row.quantity} by group"]
    return found


def test_utility_and_evasion_give_the_groups_and_no_record() -> None:
    target, data = cm.wrap(lambda rows: (rows[:, 0] > 0).astype(int), outputs="labels").bind(world())
    card = Card(
        name="made", property="robustness", kind="evasion", needs=frozenset({LABELS}), cost="", title={},
        reference="", quantities=evasion.QUANTITIES,
    )  # fmt: skip
    run = Run(
        card=card, threat=Threat(norm="linf", radius=9.0, scale="raw").resolved(data.schema), effort="deep"
    )

    def attack(few: cm.Dataset) -> np.ndarray:
        moved = few.holdout.x.copy()
        turned = (moved[:, 1] == 0) & (moved[:, 0] > 0)  # only the first town is attacked
        moved[turned, 0] *= -0.5
        return np.maximum(moved, data.holdout.x.min(0))

    robust = evasion.measure(card, target, data, run, attack=attack)[0]
    accuracy = harness.utility(target, data, Run(card=harness.UTILITY))[0]
    assert (robust.quantity, accuracy.quantity) == ("robust_accuracy", "accuracy")
    first, second = table_of(accuracy).rows
    assert first[:3] == ("x1 = 0", 150, 1.0)
    assert second[:3] == ("x1 = 1", 50, 0.5)
    wanted = stats.proportion(np.arange(100) % 2 == 1, clusters=np.arange(100) // 2)
    assert second[3] == pytest.approx(wanted.low, rel=1e-3)
    share = float((data.holdout.x[:300, 0] <= 0).mean())
    assert table_of(robust).rows[0][2] == pytest.approx(share, rel=1e-3)
    assert table_of(robust).rows[1][2] == 0.5
    notes = [d.text for d in accuracy.details if isinstance(d, Note)]
    assert any(
        "utility accuracy by group: furthest from all others, for its size, is x1 = 1" in text
        for text in notes
    )
    for row in (robust, accuracy):
        kept = [d for d in row.to_dict()["details"] if d["form"] != "per_record"]
        assert not re.search(r"[78]0\d{3}", json.dumps(kept)), "ids are 70,000 and 80,000 on"
        assert Measurement.from_dict(row.to_dict()) == row


def test_the_page_shows_the_groups() -> None:
    from casemate.report.render import page

    target = cm.wrap(lambda rows: (rows[:, 0] > 0).astype(int), outputs="labels")
    report = cm.audit(target, world(), methods=["permutation_importance"])
    text = page(report)
    assert '<h3 id="g-1">' in text
    assert "x1 = 1" in text
    assert "furthest from all others, for its size, is x1 = 1" in text
