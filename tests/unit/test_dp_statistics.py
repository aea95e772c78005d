# SPDX-License-Identifier: Apache-2.0
"""Private statistics: known answers at a huge epsilon, sensitivities by brute force, and the traps of toy versions.

Noise is never taken out: at EXACT its scale is so small that a draw other than 0 has probability below 1e-100.
"""

from __future__ import annotations

import itertools
import json
import math
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import casemate.privacy.statistics as statistics
from casemate.core.errors import BudgetExhausted, GuaranteeVoid, InvalidData
from casemate.privacy import mechanisms
from casemate.privacy.ledger import Ledger
from casemate.privacy.release import UNRECORDED, Release
from casemate.privacy.statistics import People, Privacy
from casemate.privacy.statistics._ask import Ask
from casemate.privacy.statistics._grid import BLOCK, FINE, cells, grid, sums
from casemate.privacy.statistics._intervals import Noise
from casemate.privacy.statistics._rows import kept
from casemate.training.secure import insecure_test_source

EXACT = 1e16  # sums move by up to 2^41 steps: scale <= 2.2e-4, P(noise != 0) < 2 exp(-1/2.2e-4)
BOUNDS = (0, 120)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What goes to the mechanisms: the exact numbers and the sensitivity that is claimed for them."""
    calls: list[dict[str, Any]] = []
    laplace, gaussian = mechanisms.add_laplace, mechanisms.add_gaussian

    def add_laplace(value: Any, **named: Any) -> Any:
        calls.append({"exact": list(value), **named})
        return laplace(value, **named)

    def add_gaussian(value: Any, **named: Any) -> Any:
        calls.append({"exact": list(value), **named})
        return gaussian(value, **named)

    monkeypatch.setattr(mechanisms, "add_laplace", add_laplace)
    monkeypatch.setattr(mechanisms, "add_gaussian", add_gaussian)
    return calls


AGES = np.array([31.0, 45.0, 62.0, 200.0, -7.0, 45.0])
CLAMPED = np.clip(AGES, 0, 120)


@pytest.mark.parametrize(
    ("name", "options", "truth"),
    [
        ("count", {}, 6),
        ("sum", {"bounds": BOUNDS}, CLAMPED.sum()),
        ("mean", {"bounds": BOUNDS}, CLAMPED.mean()),
        ("variance", {"bounds": BOUNDS}, CLAMPED.var()),
        ("quantile", {"bounds": BOUNDS, "q": 0.5}, 45.0),
    ],
)
def test_without_noise_to_speak_of_it_is_the_statistic_of_the_clamped_values(
    name: str, options: dict[str, Any], truth: float
) -> None:
    release = getattr(statistics, name)(AGES, epsilon=EXACT, **options)
    wide = 120 / 4096 if name == "quantile" else 1e-9 * max(truth, 1)
    assert release.value == pytest.approx(truth, abs=wide)
    assert release.low <= truth <= release.high
    assert release.high - release.low <= (0.1 if name in ("quantile", "variance") else 1e-3)
    assert release.statistic == name


def test_several_columns_are_right_too() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"a": rng.uniform(0, 10, 500), "b": rng.uniform(-1, 1, 500), "c": rng.normal(5, 1, 500)}
    )
    frame["b"] += frame["a"] / 20
    limits = {"a": (0, 10), "b": (-2, 2), "c": (0, 10)}
    truth = np.cov(frame.clip([0, -2, 0], [10, 2, 10], axis=1).to_numpy().T, bias=True)
    found = statistics.covariance(frame, bounds=limits, epsilon=EXACT)
    np.testing.assert_allclose(found.value, truth, atol=1e-4)
    assert (np.array(found.low) <= truth).all() and (truth <= np.array(found.high)).all()
    scaled = statistics.standardisation(frame, bounds=limits, epsilon=EXACT)
    np.testing.assert_allclose(scaled.value, np.stack([frame.mean(), np.sqrt(np.diag(truth))], 1), atol=1e-3)
    assert scaled.names == ("a", "b", "c")


@pytest.mark.parametrize(
    "edges", [[0, 1, 2, 3], [0, 0.5, 0.7, 5], list(np.linspace(0, 3, 22)), [0, 1e-3, *range(1, 15)]]
)
def test_a_histogram_counts_as_numpy_does_and_open_ends_take_the_rest(edges: list[float]) -> None:
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.uniform(0, edges[-1], 5000), edges, [np.nan, np.nan]])
    expected = np.histogram(np.where(x == edges[-1], np.nextafter(x, -9), x)[:-2], edges)[0]
    expected[0] += 2
    expected[-1] += 1
    found = statistics.histogram(np.append(x, [-5.0, -np.inf, np.inf]), edges=edges, epsilon=EXACT)
    assert found.value == tuple(expected)
    assert found.names == tuple(map(float, edges[:-1]))


def test_quantiles_are_values_and_rise() -> None:
    x = np.random.default_rng(2).gamma(3.0, 10.0, 20_001)
    shares = [0.9, 0.1, 0.5, 0.0, 1.0]
    found = statistics.quantiles(x, shares, bounds=(0, 256), epsilon=EXACT)
    assert np.allclose(found.value, np.quantile(np.clip(x, 0, 256), shares), atol=2 * 256 / 4096)
    noisy = statistics.quantiles(x, sorted(shares), bounds=(0, 256), epsilon=0.05)
    assert list(noisy.value) == sorted(noisy.value)
    lone = statistics.quantile(np.full(1000, 77.0), 0.5, bounds=(0, 1000), epsilon=EXACT)
    assert lone.value == pytest.approx(77.0, abs=1000 / 4000)


def test_categories_mode_and_groups() -> None:
    frame = pl.DataFrame({"smokes": ["yes", "no", None, "no", "other"], "sex": ["f", "m", "f", "m", "m"]})
    both = {"smokes": ["no", "yes"], "sex": ["f", "m"]}
    table = statistics.contingency_table(frame, categories=both, epsilon=EXACT)
    assert dict(zip(table.names, table.value, strict=True)) == {
        ("no", "f"): 0, ("no", "m"): 2, ("yes", "f"): 1, ("yes", "m"): 0,
    }  # fmt: skip
    most = statistics.mode(frame["smokes"], categories=["yes", "no"], epsilon=500.0)
    assert (most.value, most.mechanism, most.low) == ("no", "exponential mechanism", None)
    means = statistics.group_by(
        [1.0, 3.0, 8.0], ["a", "a", "b"], known=["b", "a"], statistic="mean", bounds=(0, 10),
        privacy=Privacy(epsilon=EXACT),
    )  # fmt: skip
    assert means.names == ("b", "a")
    np.testing.assert_allclose(means.value, [8.0, 2.0], atol=1e-4)


def test_the_mean_of_an_empty_group_is_an_answer_that_says_nothing() -> None:
    for relation in ("add_or_remove_one", "replace_one"):
        release = statistics.mean([], bounds=(10, 20), privacy=Privacy(epsilon=1.0, relation=relation))
        assert 10 <= release.value <= 20
    empty = statistics.group_by(
        [5.0] * 50,
        ["a"] * 50,
        known=["a", "b"],
        statistic="mean",
        bounds=(0, 10),
        privacy=Privacy(epsilon=1.0),
    )
    assert empty.high[1] - empty.low[1] > 5


# ---- sums


def test_sums_never_overflow_and_never_round() -> None:
    on = grid((-1e9, 1e9))
    x = np.random.default_rng(3).uniform(-1.2e9, 1.2e9, 3 * BLOCK + 7)
    steps = [int(np.rint(min(max(v, on.low), on.high) / on.step - on.anchor)) for v in x]
    assert sums([x], on, squares=True) == [len(x), sum(steps), sum(d * d for d in steps)]
    assert sums([x, x[:5]], on)[1] == sum(steps) + sum(steps[:5])
    top, on = np.full(2**20, 4096.0), grid((0, 4096))
    assert sums([top], on, squares=True) == [2**20, 2**40, 2**60]
    assert 2**60 > 2**53  # what one float64 accumulator would have lost


def test_more_than_a_million_rows_are_all_there() -> None:
    """OpenDP's float sum of unknown size answers 52,428,8.. here: it stops at 2^20 rows without a word."""
    x = np.full(2 * 2**20, 50.0)
    assert statistics.sum(x, bounds=(0, 100), epsilon=1e6).value == pytest.approx(50.0 * 2**21, abs=1)
    assert statistics.count(x, epsilon=1e6).value == 2**21
    assert sum(statistics.histogram(x, edges=[0, 40, 60], epsilon=1e6).value) == 2**21


def test_the_grid_is_public_and_fine() -> None:
    for bounds in [(0, 120), (0.1, 0.3), (-5, 1e6), (1e9, 1e9 + 1), (-1.0, 1.0), (0, 2**20)]:
        on = grid(bounds)
        assert 2**19 < on.width <= 2**20 + 1
        assert math.log2(on.step) == int(math.log2(on.step))
        assert on.anchor * on.step <= on.low < on.high <= (on.anchor + on.width) * on.step
    assert sums([np.array([17.0, 93.0])], grid((0, 2**20)))[1] == 110  # whole numbers stay what they are


def test_the_answers_of_neighbours_lie_on_the_same_grid() -> None:
    """The last bits of a noisy float would tell the two apart; here both are noisy whole numbers on one grid."""
    on = grid((0, 1), bits=FINE)
    for x in ([], [1 / 3], [1 / 3, 0.1, 0.7]):
        for seed in range(40):
            found = statistics.sum(x, bounds=(0, 1), epsilon=1.0, source=insecure_test_source(seed)).value
            assert found / on.step == int(found / on.step)


def test_nothing_that_is_no_number_poisons_or_shows() -> None:
    clean, dirty = [1.0, 2.0], [1.0, np.nan, 2.0, np.nan]
    for ask in (
        lambda x: statistics.count(x, epsilon=EXACT),
        lambda x: statistics.sum(x, bounds=(0, 4), epsilon=EXACT),
        lambda x: statistics.mean(x, bounds=(0, 4), epsilon=EXACT),
        lambda x: statistics.variance(x, bounds=(0, 4), epsilon=EXACT),
        lambda x: statistics.quantile(x, 0.9, bounds=(0, 4), epsilon=EXACT),
    ):
        assert ask(dirty) == ask(clean)
    extreme = [np.inf, -np.inf, 1e308, -1e308]
    assert statistics.mean(extreme, bounds=(0, 4), epsilon=EXACT).value == pytest.approx(2.0)
    for x in (extreme, [1e308] * 3, [10**400, -(10**400)], np.array([np.longdouble("1e400")])):
        n = len(x)  # neither a warning, which may be an error, nor another answer
        assert statistics.quantile(x, 0.5, bounds=(0, 4), epsilon=EXACT).high <= 4
        assert sum(statistics.histogram(x, edges=list(range(12)), epsilon=EXACT).value) == n
        assert statistics.count(x, epsilon=EXACT).value == n
    middle = statistics.mean(dirty, bounds=(0, 8), epsilon=EXACT, missing="midpoint")
    assert middle.value == pytest.approx((1 + 2 + 4 + 4) / 4)


# ---- sensitivity, by brute force


def rows_of(relation: str, m: int) -> list[tuple[list[float], list[float]]]:
    """Give what one unit may be before and after: the corners, the middle, missing."""
    values = [[0.0], [120.0], [60.0], [1e9], [math.nan], [-3.0]]
    picks = itertools.product(values[:3] + values[4:5], repeat=m)
    persons = [list(itertools.chain(*pick)) for pick in picks]
    gone: list[list[float]] = [[]]
    return list(itertools.product(persons, gone if relation == "add_or_remove_one" else persons))


QUESTIONS: dict[str, Any] = {
    "count": statistics.count,
    "sum": lambda x, **k: statistics.sum(x, bounds=(-30, 120), **k),
    "mean": lambda x, **k: statistics.mean(x, bounds=BOUNDS, **k),
    "variance": lambda x, **k: statistics.variance(x, bounds=BOUNDS, **k),
    "histogram": lambda x, **k: statistics.histogram(x, edges=[0, 50, 100, 120], **k),
    "quantile": lambda x, **k: statistics.quantile(x, 0.5, bounds=BOUNDS, **k),
    "standardisation": lambda x, **k: statistics.standardisation(
        {"a": x, "b": x}, bounds={"a": BOUNDS, "b": (0, 50)}, **k
    ),
    "covariance": lambda x, **k: statistics.covariance(
        {"a": x, "b": x}, bounds={"a": BOUNDS, "b": (0, 50)}, **k
    ),
}


@pytest.mark.parametrize("mechanism", ["laplace", "gaussian"])
@pytest.mark.parametrize("relation", ["add_or_remove_one", "replace_one"])
@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("name", list(QUESTIONS))
def test_no_unit_moves_what_is_noised_by_more_than_is_claimed(
    name: str, m: int, relation: Any, mechanism: Any, drawn: list[dict[str, Any]]
) -> None:
    """Everybody else stays; the noise is paid for the largest move over corners, and that one is reached."""
    price = Privacy(epsilon=1e9, delta=1e-9, relation=relation, mechanism=mechanism)
    others, seen, largest, claimed = [10.0, 70.0], {}, 0.0, 0

    def noised(rows: list[float]) -> np.ndarray:
        nonlocal claimed
        if (key := str(rows)) not in seen:
            drawn.clear()
            people = None
            if m > 1 or relation == "add_or_remove_one":
                people = People([f"o{i}" for i in range(len(others))] + ["me"] * len(rows), max_rows=m)
            QUESTIONS[name](others + rows, privacy=price, people=people)
            # the parts of a quantile that are looked at differ; the first 16 are always the same
            used = drawn[:1] if name == "quantile" else drawn
            seen[key] = np.array([int(one) for call in used for one in call["exact"]], object)
            claimed = drawn[0].get("sensitivity") or drawn[0]["l2_sensitivity_squared"]
            assert all((c.get("sensitivity") or c["l2_sensitivity_squared"]) == claimed for c in drawn)
        return seen[key]

    pairs = rows_of(relation, m)
    for before, after in pairs if len(pairs) < 40 else pairs[::3]:
        change = noised(before) - noised(after)
        moved = sum(abs(c) for c in change) if mechanism == "laplace" else sum(c * c for c in change)
        largest = max(largest, moved)
    levels = 3 if name == "quantile" else 1
    assert largest * levels <= claimed
    slack = {"covariance": 0.3, "standardisation": 0.3, "sum": 0.5}.get(name, 0.99)
    if not (
        name in ("count", "sum") and relation == "replace_one"
    ):  # rows that come and go in turn are not all tried
        assert largest * levels >= slack * claimed * (0.5 if relation == "replace_one" else 1)


def test_a_public_number_of_rows_costs_no_noise(drawn: list[dict[str, Any]]) -> None:
    price = Privacy(epsilon=1.0, relation="replace_one")
    statistics.mean(AGES, bounds=BOUNDS, privacy=price, missing="midpoint")
    assert [len(call["exact"]) for call in drawn] == [1]
    assert drawn[0]["sensitivity"] == grid(BOUNDS).width
    drawn.clear()
    statistics.mean(
        AGES, bounds=BOUNDS, privacy=price
    )  # missing rows are dropped: their number is not public
    assert len(drawn[0]["exact"]) == 2


def test_a_statistic_is_noised_once_not_once_a_row(drawn: list[dict[str, Any]]) -> None:
    x = np.arange(1000.0)
    for name, n in {"count": 1, "sum": 1, "mean": 2, "variance": 3}.items():
        drawn.clear()
        getattr(statistics, name)(x, epsilon=0.5, **({} if name == "count" else {"bounds": BOUNDS}))
        assert sum(len(call["exact"]) for call in drawn) == n
        assert all(call["epsilon"] == 0.5 for call in drawn)
    drawn.clear()
    statistics.quantiles(x, [0.1, 0.11, 0.12, 0.1], bounds=(0, 1000), epsilon=1e6)
    assert len(drawn) <= 9  # parts that two quantiles share are drawn once


def test_the_noise_has_the_scale_that_the_sensitivity_asks_for() -> None:
    noisy = [
        statistics.count([1.0] * 1000, epsilon=0.1, source=insecure_test_source(s)).value for s in range(400)
    ]
    # sd 14.1; the sample variance of 400 Laplace draws has relative sd 0.112: 0.4 to 1.9 fails below 1e-6
    assert 0.4 * 200 < np.var(noisy) < 1.9 * 200
    release = statistics.count([1.0], epsilon=0.1)
    assert (release.scale, release.sensitivity) == (pytest.approx(10.0), 1)


# ---- people


def test_a_person_has_at_most_so_many_rows() -> None:
    owner = ["a"] * 1000 + ["b", "c", None]
    x = [120.0] * 1000 + [0.0, 0.0, 120.0]
    one = statistics.mean(x, bounds=BOUNDS, epsilon=EXACT, people=People(owner, max_rows=1))
    assert one.value == pytest.approx(40.0) and one.unit == "person"
    two = statistics.count(x, epsilon=EXACT, people=People(pd.Series(owner), max_rows=2))
    assert (two.value, two.sensitivity) == (4, 2)
    with pytest.raises(InvalidData, match="3 rows but 2 ids"):
        statistics.count([1.0, 2.0, 3.0], epsilon=1.0, people=People([1, 2]))


def test_which_rows_count_depends_on_no_value_and_on_nobody_else() -> None:
    owner = np.array(["a", "b", "a", "a", "b", "c"])
    assert kept(People(owner, max_rows=2), 6).tolist() == [True, True, True, False, True, True]
    without = owner[owner != "b"]
    assert kept(People(without, max_rows=2), 4).tolist() == [True, True, False, True]
    hidden = statistics.count([np.nan, 1.0], epsilon=EXACT, people=People(["a", "a"]))
    assert hidden.value == 0  # the first row counts although it is missing: a value must not choose


def test_people_with_long_ids_are_not_taken_for_one(tmp_path: Path) -> None:
    """18 digits do not fit a float: as one person, A would decide which rows of B count."""
    ids = [110101199003070001, 110101199003070002, None]
    masked = np.ma.MaskedArray([ids[0], ids[1], 0], [False, False, True])
    columns = [
        ids,
        tuple(ids),
        masked,
        np.array(ids, object),
        pl.Series(ids),
        pa.array(ids),
        pd.array(ids, "Int64"),
    ]
    for column in columns:
        column = pd.Series(column) if isinstance(column, pd.api.extensions.ExtensionArray) else column
        assert kept(People(column), 3).tolist() == [True, True, False], type(column)
    found = statistics.mean([1.0, 3.0, 8.0], bounds=(0, 10), epsilon=EXACT, people=People(ids))
    assert found.value == pytest.approx(2.0)
    frame = {"x": [1.0, 3.0, 8.0], "id": ids}
    scaled = statistics.standardisation(frame, bounds={"x": (0, 10)}, epsilon=EXACT, people=People("id"))
    assert scaled.value[0][0] == pytest.approx(2.0)
    pairs = [("a", 1), ("a", 2), ("a", 1)]  # a tuple is one id
    assert kept(People(pairs), 3).tolist() == [True, True, False]


# ---- keys


def test_how_one_row_spells_a_key_does_not_show() -> None:
    """True == 1 == 1.0 and 0.0 == -0.0: the spelling of the first row, one person's, would be an answer of its own."""
    price = Privacy(epsilon=5.0, delta=1e-8)
    for odd, usual in (
        (True, 1),
        (1.0, 1),
        (-0.0, 0.0),
        (Decimal("1.00"), Decimal(1)),
        (np.int64(7), 7),
        (pd.NA, "a"),
    ):
        for keys in ([odd] + [usual] * 500, [usual] * 500):
            found = statistics.group_by([1.0] * len(keys), keys, known=None, privacy=price)
            words = statistics.vocabulary([[key] for key in keys], privacy=price)
            shown = str(usual) if isinstance(usual, Decimal) else usual
            assert repr(found.names) == repr(words.names) == repr((shown,))
    found = statistics.group_by([1.0] * 1000, [("b", 1), ("a", True)] * 500, known=None, privacy=price)
    assert found.names == (("a", True), ("b", 1))


def test_a_row_of_an_odd_kind_raises_nothing_and_counts_nowhere() -> None:
    price = Privacy(epsilon=50.0, delta=1e-8)
    odd = [None, math.nan, pd.NA, (1, "x"), b"a", Decimal("NaN")]
    keys = ["a"] * 500
    assert statistics.group_by([1.0] * 506, keys + odd, known=None, privacy=price).names == ("a",)
    assert statistics.vocabulary([["a", None]] * 500 + [None, math.nan, [pd.NA]], privacy=price).names == (
        "a",
    )
    for column in (keys + odd, np.array(keys + odd, object), pd.Series([*keys, pd.NA], dtype="string")):
        assert statistics.group_by([1.0] * len(column), column, known=["a"], privacy=price).value == (500,)
        table = statistics.contingency_table({"k": column}, categories={"k": ["a", "b"]}, epsilon=50.0)
        assert table.value == (500, 0)
    with pytest.raises(InvalidData, match="cells such as lists"):
        statistics.mode([["a"], "a"], categories=["a", "b"], epsilon=1.0)


def test_a_key_of_one_person_does_not_show() -> None:
    price = Privacy(epsilon=1.0, delta=1e-8)
    keys = ["common"] * 500 + ["rare"]
    found = statistics.group_by([1.0] * 501, keys, known=None, privacy=price)
    assert found.names == ("common",)  # the rare key shows with probability 1e-8
    with pytest.raises(InvalidData, match="delta > 0"):
        statistics.group_by([1.0], ["a"], known=None, privacy=Privacy(epsilon=1.0))
    with pytest.raises(GuaranteeVoid):
        statistics.group_by(
            [1.0], ["a"], known=None, privacy=Privacy(epsilon=1.0, delta=1e-6, relation="replace_one")
        )
    public = statistics.group_by([1.0] * 501, keys, known=["common", "never"], privacy=Privacy(epsilon=EXACT))
    assert public.value == (500, 0)


@pytest.mark.parametrize("m", [1, 5])
def test_the_threshold_covers_every_key_that_a_person_alone_has(
    m: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P(a lone unit's key is released) is at most delta, exactly: m words of one person, counts of 1 and of m."""
    seen: list[int] = []

    def release(self: Ask, words: Any, compute: Any, **named: Any) -> Any:
        noise = self.privacy.noise(named["sensitivity"])
        for value in range(5000):  # find the least noisy count that passes
            if compute(lambda exact, value=value: [value] * len(exact), noise).names:
                seen.append(value)
                break
        p = math.exp(-1 / noise.scale)
        alone = p ** (seen[-1] - m) / (1 + p)  # P(noise >= least - m): a count of m from one person
        assert m * alone <= 1e-6
        assert noise.scale == pytest.approx(m / 0.5)
        return compute(list, noise)

    monkeypatch.setattr(Ask, "release", release)
    statistics.vocabulary(
        [[f"w{i}" for i in range(40)]], privacy=Privacy(epsilon=0.5, delta=1e-6), max_words=m
    )
    assert seen


def test_a_vocabulary_takes_so_many_words_of_a_row() -> None:
    price = Privacy(epsilon=40.0, delta=1e-6)
    rows = [["fever", "fever", "cough", "x"]] * 300
    assert statistics.vocabulary(rows, privacy=price, max_words=2).names == ("cough", "fever")
    with pytest.raises(InvalidData, match="one string"):
        statistics.vocabulary(["fever cough"], privacy=price)


# ---- bounds and prices


@pytest.mark.parametrize(
    "bounds",
    [
        None,
        (1, 1),
        (2, 1),
        (0, math.inf),
        (math.nan, 1),
        (0,),
        "ab",
        5,
        (0.0, 5e-324),
        (1e17, 1e17 + 16),
        (-1e308, 1.7e308),
        (0, 1e200),
        (0, 1e-200),
    ],
)
def test_bounds_that_are_none_are_refused(bounds: Any) -> None:
    for ask in (statistics.mean, statistics.sum, statistics.variance):
        with pytest.raises(InvalidData, match="bounds"):
            ask([1.0], bounds=bounds, epsilon=1.0)
    with pytest.raises(InvalidData, match="bounds"):
        statistics.quantile([1.0], 0.5, bounds=bounds, epsilon=1.0)


def test_bounds_of_the_data_must_be_bought() -> None:
    with pytest.raises(InvalidData, match=r"statistics.bounds\(\.\.\.\)"):
        statistics.mean([1.0], bounds=None, epsilon=1.0)
    x = np.random.default_rng(4).uniform(20, 90, 5000)
    with_outlier = np.append(x, 3e11)
    assert statistics.bounds(with_outlier, epsilon=1.0).value == (
        16.0,
        128.0,
    )  # one person does not move them
    assert statistics.bounds(-x, epsilon=1.0).value == (-128.0, -16.0)
    with pytest.raises(InvalidData, match="too few rows"):
        statistics.bounds([5.0], epsilon=0.1, source=insecure_test_source(1))


@pytest.mark.parametrize("epsilon", [0, -1, math.nan, math.inf, "1", True, 5e-324, 1e-300, 1e300])
def test_an_epsilon_that_promises_nothing_is_refused(epsilon: Any) -> None:
    with pytest.raises(InvalidData, match="epsilon"):
        statistics.count([1.0], epsilon=epsilon)


def test_one_price_is_stated_once() -> None:
    for named in ({}, {"epsilon": 1.0, "privacy": Privacy(epsilon=1.0)}):
        with pytest.raises(InvalidData, match="state the price once"):
            statistics.count([1.0], **named)
    for wrong in (
        {"relation": "neighbour"}, {"mechanism": "gaussian"}, {"mechanism": "float"}, {"delta": 1.0}, {"level": 1.0}
    ):  # fmt: skip
        with pytest.raises(InvalidData):
            Privacy(epsilon=1.0, **wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidData):
        People([1], max_rows=0)
    with pytest.raises(InvalidData, match="no room"):
        statistics.count([1.0], privacy=Privacy(epsilon=1e-30, delta=1e-300, mechanism="gaussian"))


# ---- columns


def test_every_kind_of_column_gives_the_same_answer(tmp_path: Path) -> None:
    values = [31.0, None, 62.0, 200.0]
    filled = [31.0, math.nan, 62.0, 200.0]
    file = tmp_path / "ages.parquet"
    pq.write_table(pa.table({"age": values, "person": ["a", "b", "c", "c"]}), file, row_group_size=2)
    columns = [
        filled, np.array(filled), np.array(filled, np.float32), np.ma.masked_invalid(filled), pd.Series(filled),
        pd.Series(values, dtype="Float64"), pl.Series(values), pa.array(values), pa.chunked_array([values, []]),
        pl.Series([31, None, 62, 200]), statistics.stored(file, "age"), values,
        [np.float64(31), None, 62, Decimal(200)], pd.Series(values, dtype=pd.ArrowDtype(pa.float32())),
        pl.Series([Decimal(31), None, Decimal(62), Decimal(200)]),
    ]  # fmt: skip
    for column in columns:
        assert statistics.mean(column, bounds=BOUNDS, epsilon=EXACT).value == pytest.approx(71.0), type(
            column
        )
        assert statistics.count(column, epsilon=EXACT).value == 3
    for empty in ([], [None, None], pl.Series([None, None]), pa.array([None]), np.zeros(0, np.int8)):
        assert statistics.count(empty, epsilon=EXACT).value == 0
    people = People("person")
    assert statistics.count(statistics.stored(file, "age"), epsilon=EXACT, people=people).value == 2
    assert statistics.mean(np.arange(9)[::-2], bounds=(0, 8), epsilon=EXACT).value == pytest.approx(4.0)
    with pytest.raises(InvalidData, match="no column 'bmi'"):
        statistics.count(statistics.stored(file, "bmi"), epsilon=1.0)
    with pytest.raises(InvalidData, match="cannot read"):
        statistics.count(statistics.stored(tmp_path / "none.parquet", "age"), epsilon=1.0)


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (np.array([True, False]), "yes-or-no"),
        (pd.Series([True, False]), "yes-or-no"),
        (pd.Series(pd.to_datetime(["2026-01-01"])), "dates"),
        (np.array(["2026-01-01"], "datetime64[D]"), "dates"),
        (["31", "45"], "cast it to float64"),
        (pl.Series(["31"]), "cast it to float64"),
        (np.array([1, None], object), "cast it to float64"),
        (np.array([1j]), "cast it to float64"),
        (np.zeros((2, 2)), "one column"),
        (31.0, "one column"),
        (pd.DataFrame({"a": [1.0]}), "one column"),
    ],
)
def test_a_column_of_no_numbers_is_refused_with_what_to_do(column: Any, said: str) -> None:
    with pytest.raises(InvalidData, match=said):
        statistics.mean(column, bounds=BOUNDS, epsilon=1.0)


# ---- the release and the ledger


def test_a_release_comes_back_from_json_as_it_was() -> None:
    for release in (
        statistics.mean(AGES, bounds=BOUNDS, epsilon=0.5),
        statistics.contingency_table({"a": [1, 2]}, categories={"a": [1, 2]}, epsilon=0.5),
        statistics.covariance({"a": AGES, "b": AGES}, bounds={"a": BOUNDS, "b": BOUNDS}, epsilon=0.5),
    ):
        assert Release.from_json(release.to_json()) == release
        assert UNRECORDED in repr(release) and "epsilon 0.5" in repr(release)
    broken = {**json.loads(release.to_json()), "more": 1}
    for wrong in ("{", "[]", json.dumps(broken), json.dumps({"schema": "casemate-release/1"})):
        with pytest.raises(InvalidData):
            Release.from_json(wrong)


def test_the_call_of_the_survey_with_a_ledger(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path / "b", population="survey", unit="record", epsilon=1.0, delta=1e-6)
    x = np.arange(20.0, 90.0)
    first = statistics.mean(x, bounds=(0, 120), epsilon=0.5, ledger=ledger)
    assert first.ledger == "recorded for survey" and ledger.spent().epsilon == pytest.approx(0.5)
    assert (
        statistics.mean(pd.Series(x), bounds=[0.0, 120.0], epsilon=0.5, ledger=ledger) == first
    )  # same question, same rows
    assert ledger.spent().epsilon == pytest.approx(0.5)
    with pytest.raises(BudgetExhausted):
        statistics.mean(x, bounds=(0, 119), epsilon=0.6, ledger=ledger)
    other = statistics.mean(x[1:], bounds=(0, 120), epsilon=0.5, ledger=ledger)
    assert other != first and ledger.spent().epsilon == pytest.approx(1.0)
    ledger.close()


def test_the_order_of_columns_is_part_of_a_question_and_how_a_frame_stores_them_is_not(
    tmp_path: Path,
) -> None:
    ledger = Ledger.create(tmp_path / "b", population="survey", unit="record", epsilon=60.0, delta=1e-6)
    frame = {"sex": ["f", "m", None], "smokes": ["no", "yes", "yes"]}
    both = {"sex": ["f", "m"], "smokes": ["no", "yes"]}
    turned = dict(reversed(both.items()))
    first = statistics.contingency_table(frame, categories=both, epsilon=20.0, ledger=ledger)
    other = statistics.contingency_table(frame, categories=turned, epsilon=20.0, ledger=ledger)
    assert first.names[1] == ("f", "yes") and other.names[1] == ("no", "m")
    assert ledger.spent().epsilon == pytest.approx(40.0)
    for same in (
        pd.DataFrame(frame),
        pd.DataFrame(frame, dtype="string"),
        pl.DataFrame(frame),
        pa.table(frame),
    ):
        assert statistics.contingency_table(same, categories=both, epsilon=20.0, ledger=ledger) == first
    assert ledger.spent().epsilon == pytest.approx(40.0)
    ledger.close()


def test_what_was_paid_for_is_given_whatever_the_categories_are(tmp_path: Path) -> None:
    """Days, decimals and numbers of NumPy are no JSON: refused by the ledger, they would be spent and lost."""
    ledger = Ledger.create(tmp_path / "b", population="survey", unit="record", epsilon=60.0, delta=1e-6)
    for key in (date(2026, 1, 2), Decimal("1.5"), np.int64(3), ("a", 1), math.inf):
        x, shown = [key] * 3, key if isinstance(key, (np.int64, tuple)) else str(key)
        asked = (
            lambda x=x, key=key: statistics.mode(x, categories=[key], epsilon=1.0, ledger=ledger),
            lambda x=x, key=key: statistics.contingency_table(
                {"a": x}, categories={"a": [key]}, epsilon=1.0, ledger=ledger
            ),
        )
        for ask in asked:
            found, spent = ask(), ledger.spent().epsilon
            assert found.names in ((shown,), ((shown,),))
            assert ask() == found == Release.from_json(found.to_json()) and ledger.spent().epsilon == spent
    assert ledger.spent().epsilon == pytest.approx(10.0)
    ledger.close()


def test_a_ledger_of_people_asks_whose_rows_they_are(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path / "b", population="clinic", unit="person", epsilon=9.0, delta=1e-6)
    with pytest.raises(GuaranteeVoid):
        statistics.count([1.0], epsilon=0.5, ledger=ledger)
    people = People(["a"])
    assert statistics.count([1.0], epsilon=0.5, people=people, ledger=ledger).unit == "person"
    with pytest.raises(GuaranteeVoid):
        statistics.count(
            [1.0], privacy=Privacy(epsilon=0.5, relation="replace_one"), people=people, ledger=ledger
        )
    price = Privacy(epsilon=0.5, delta=1e-7, mechanism="gaussian")
    statistics.count([1.0], privacy=price, people=people, ledger=ledger)
    keys = Privacy(epsilon=0.5, delta=1e-7)
    statistics.group_by([1.0], ["k"], known=None, privacy=keys, people=people, ledger=ledger)
    kinds = [type(part).__name__ for spend in ledger.spends() for part in spend.event]
    assert kinds == ["Pure", "ZCDP", "ApproximateDP"]
    ledger.close()


# ---- intervals and planning


def test_how_far_noise_reaches_against_its_exact_law() -> None:
    for scale in (0.3, 1.0, 7.5, 1000.0):
        noise, p = Noise("laplace", scale), math.exp(-1 / scale)
        for level in (0.5, 0.95, 0.999):
            k = noise.reach(level)
            beyond = lambda t, p=p: 2 * p ** (t + 1) / (1 + p)  # noqa: E731
            assert beyond(k) <= (1 - level) * (1 + 1e-9) < beyond(k - 1) or k == 0
        assert 2 * p ** (noise.beyond(2e-12) + 1) / (1 + p) <= 2e-12 * (1 + 1e-6)
        one = float(noise.two_reach(np.array([1.0]), np.array([0.0]), 0.95)[0])
        assert one == pytest.approx(-scale * math.log(0.05), rel=1e-4)
        even = float(noise.two_reach(np.array([1.0]), np.array([1.0]), 0.95)[0]) / scale
        assert (1 + even / 2) * math.exp(-even) == pytest.approx(
            0.05, rel=1e-3
        )  # the law of two equal Laplaces
        assert noise.sum_reach([1.0], 0.05) >= -scale * math.log(0.05)


def test_the_error_is_known_before_anything_is_spent() -> None:
    n = 20_000
    x = np.random.default_rng(5).uniform(0, 120, n)
    for name, options in {"count": {}, "sum": {"bounds": BOUNDS}, "mean": {"bounds": BOUNDS}}.items():
        said = statistics.expected_error(name, n=n, epsilon=0.5, **options)
        release = getattr(statistics, name)(x, epsilon=0.5, **options)
        half = (release.high - release.low) / 2
        assert half <= said * 1.3 and said <= 3 * half
    needed = statistics.n_needed("mean", error=0.5, bounds=BOUNDS, epsilon=0.5)
    assert statistics.expected_error("mean", n=needed, bounds=BOUNDS, epsilon=0.5) <= 0.5
    assert statistics.expected_error("mean", n=needed - 1, bounds=BOUNDS, epsilon=0.5) > 0.5
    assert statistics.n_needed("mean", error=0.5, bounds=BOUNDS, epsilon=1.0) < needed
    with pytest.raises(InvalidData, match="no number of rows"):
        statistics.n_needed("count", error=0.1, epsilon=0.1)
    with pytest.raises(InvalidData, match="known beforehand"):
        statistics.expected_error("mode", n=5, epsilon=0.1)


def test_cells_are_all_counted_at_both_ends() -> None:
    for bounds in ((0, 4096), (0, 120), (-3, 7.7)):
        x = np.linspace(*bounds, 10_001)
        found = cells([x, np.array([np.inf, np.nan])], grid(bounds), 4096)
        assert found.sum() == 10_002 and len(found) == 4096
    assert cells([np.array([4096.0])], grid((0, 4096)), 4096)[-1] == 1
