# SPDX-License-Identifier: Apache-2.0
"""Private statistics: what a release is made of, that it says when it is worthless, and columns that try to break in.

No answer here is compared with a tolerance: where two data sets get the same noisy numbers, their releases are equal.
"""

from __future__ import annotations

import itertools
import math
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import casemate.privacy.statistics as statistics
from casemate.core.errors import CasemateError, InvalidData
from casemate.privacy import mechanisms
from casemate.privacy.ledger import Ledger
from casemate.privacy.release import INSECURE, Release
from casemate.privacy.statistics import People, Privacy
from casemate.privacy.statistics._bins import BYTE, FEW, binned
from casemate.privacy.statistics._grid import FINE, TILE, grid
from casemate.training.secure import insecure_test_source, source

EXACT = 1e16
BOUNDS = (0, 120)

# ---- what a release is made of

Question = Callable[..., Release]
ONE_COLUMN: dict[str, Question] = {
    "count": statistics.count,
    "sum": lambda x, **k: statistics.sum(x, bounds=(-30, 120), **k),
    "mean": lambda x, **k: statistics.mean(x, bounds=BOUNDS, **k),
    "imputed mean": lambda x, **k: statistics.mean(x, bounds=BOUNDS, missing="midpoint", **k),
    "variance": lambda x, **k: statistics.variance(x, bounds=BOUNDS, **k),
    "histogram": lambda x, **k: statistics.histogram(x, edges=[0, 50, 100, 120], **k),
    "even histogram": lambda x, **k: statistics.histogram(x, edges=np.linspace(0, 120, 25), **k),
    "median": lambda x, **k: statistics.quantile(x, 0.5, bounds=BOUNDS, **k),
    "quantiles": lambda x, **k: statistics.quantiles(x, [0.1, 0.9], bounds=BOUNDS, **k),
    "bounds": statistics.bounds,
    "standardisation": lambda x, **k: statistics.standardisation({"a": x}, bounds={"a": BOUNDS}, **k),
    "covariance": lambda x, **k: statistics.covariance(
        {"a": x, "b": x}, bounds={"a": BOUNDS, "b": (0, 50)}, **k
    ),
    "table": lambda x, **k: statistics.contingency_table({"a": x}, categories={"a": [10.0, 70.0]}, **k),
}
for kind in ("count", "sum", "mean", "variance", "median", 0.9):
    ONE_COLUMN[f"group_by {kind}"] = lambda x, kind=kind, **k: statistics.group_by(
        x, ["f", "m", "f"] * 200 + ["f"] * (len(x) - 600), known=["m", "f"], statistic=kind, bounds=BOUNDS, **k
    )  # fmt: skip
OTHERS = [10.0, 70.0, 11.3] * 200


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Noise that makes the same noisy numbers of any data: the numbers of its calls, one after the other."""
    turn = itertools.count()

    def numbers(exact: Any, **_: Any) -> list[int]:
        scale = [10**9, 7 * 10**7, 10**12][next(turn) % 3]
        return [(37 * (k + 3)) % 101 * scale + 5 * scale for k in range(len(exact))]

    def restart() -> None:
        nonlocal turn
        turn = itertools.count()

    monkeypatch.setattr(mechanisms, "add_laplace", numbers)
    monkeypatch.setattr(mechanisms, "add_gaussian", numbers)
    return restart


@pytest.mark.parametrize("mechanism", ["laplace", "gaussian"])
@pytest.mark.parametrize("name", list(ONE_COLUMN))
def test_neighbours_with_the_same_noisy_numbers_have_the_same_release(
    name: str, mechanism: Any, given: Callable[[], None]
) -> None:
    """So all that a release says is a function of whole numbers that can be any for both: one grid, one set of answers.

    Value, interval, names, scale and sensitivity, to the last bit; no number of rows, no missing one, no range is read.
    """
    price = Privacy(epsilon=0.7, delta=1e-6, mechanism=mechanism)
    seen = []
    for more in ([], [0.1 + 0.2], [math.nan], [1e308], [-math.inf], [5e-324]):
        given()
        seen.append(ONE_COLUMN[name](OTHERS + more, privacy=price))
    assert all(one == seen[0] for one in seen)
    assert seen[0].value is not None


def test_releases_of_keys_and_words_are_made_of_noisy_numbers_alone(given: Callable[[], None]) -> None:
    price = Privacy(epsilon=0.7, delta=1e-6)
    for kind in ("count", "mean", "median"):
        seen = []
        for more in ([], ["m"], ["f"] * 3):
            given()
            keys = ["f", "m"] * 300 + more
            x = [7.3] * len(keys)
            seen.append(
                statistics.group_by(x, keys, known=None, statistic=kind, bounds=BOUNDS, privacy=price)  # type: ignore[arg-type]
            )
        assert seen[0] == seen[1] == seen[2] and seen[0].names
    words = []
    for more_words in ([], [["cough"]], [["fever"], None]):
        given()
        words.append(statistics.vocabulary([["fever", "cough"]] * 300 + more_words, privacy=price))
    assert words[0] == words[1] == words[2] and words[0].names


def test_a_sum_lies_on_one_public_grid_and_its_rounding_is_far_below_its_noise() -> None:
    on = grid(BOUNDS, bits=FINE)
    assert on.width == 120 * 2**29 and on.step == 2.0**-29
    for x in ([], [1 / 3], [1 / 3, 0.1, 0.7]):
        for seed in range(20):
            found = statistics.sum(x, bounds=BOUNDS, epsilon=1.0, source=insecure_test_source(seed)).value
            assert found / on.step == int(found / on.step)
    rows, worst = (
        1_000_000,
        50.0 + 2.0**-14,
    )  # half a step of the grid of the mean: a million of them are 61 off
    found = statistics.sum(np.full(rows, worst), bounds=BOUNDS, epsilon=0.5, source=insecure_test_source(0))
    assert found.low - 1 <= rows * worst <= found.high + 1
    exact = statistics.sum(np.full(rows, worst), bounds=BOUNDS, epsilon=EXACT).value
    assert abs(exact - rows * worst) <= rows * 120 * 2.0**-36
    for bounds in ((0, 120), (0.1, 0.3), (1e9, 1e9 + 1), (-5, 1e6), (-1e150, 1e150)):
        fine, coarse = grid(bounds, bits=FINE), grid(bounds)
        assert coarse.width <= fine.width <= 2**FINE + 1 and max(map(abs, bounds)) / fine.step <= 2**51
        assert fine.anchor * fine.step <= bounds[0] < bounds[1] <= (fine.anchor + fine.width) * fine.step


# ---- noise that can be repeated


def test_a_release_of_a_test_source_says_that_it_protects_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    x, frame = [1.0, 2.0] * 300, {"a": [1.0, 2.0] * 300}
    keyed = Privacy(epsilon=5.0, delta=1e-6)
    questions: list[Callable[..., Release]] = [
        lambda **k: statistics.count(x, epsilon=0.5, **k),
        lambda **k: statistics.sum(x, bounds=(0, 4), epsilon=0.5, **k),
        lambda **k: statistics.mean(x, bounds=(0, 4), epsilon=0.5, **k),
        lambda **k: statistics.variance(x, bounds=(0, 4), epsilon=0.5, **k),
        lambda **k: statistics.histogram(x, edges=[0, 2, 4], epsilon=0.5, **k),
        lambda **k: statistics.quantiles(x, [0.5], bounds=(0, 4), epsilon=0.5, **k),
        lambda **k: statistics.mode(x, categories=[1.0, 2.0], epsilon=0.5, **k),
        lambda **k: statistics.bounds(x, epsilon=5.0, **k),
        lambda **k: statistics.covariance(frame, bounds={"a": (0, 4)}, epsilon=0.5, **k),
        lambda **k: statistics.standardisation(frame, bounds={"a": (0, 4)}, epsilon=0.5, **k),
        lambda **k: statistics.contingency_table(frame, categories={"a": [1.0]}, epsilon=0.5, **k),
        lambda **k: statistics.vocabulary([["a"]] * 300, privacy=keyed, **k),
    ]
    for ask in questions:
        for named in ({}, {"source": source()}):
            good = ask(**named)
            assert good.secure and "INSECURE" not in repr(good) and '"secure": true' in good.to_json()
        bad = ask(source=insecure_test_source(1))
        assert not bad.secure and INSECURE in repr(bad)
        assert not Release.from_json(bad.to_json()).secure
    assert not any(
        ask(source=insecure_test_source(1)) != ask(source=insecure_test_source(1)) for ask in questions
    )
    monkeypatch.setattr("casemate.training.secure.source", lambda: insecure_test_source(1))
    assert not statistics.group_by([1.0], ["a"], known=["a"], privacy=Privacy(epsilon=1.0)).secure


def test_a_ledger_never_gives_repeatable_noise_for_an_answer(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path / "b", population="clinic", unit="record", epsilon=2.0, delta=1e-6)
    x = [1.0, 2.0]
    bad = statistics.count(x, epsilon=0.5, ledger=ledger, source=insecure_test_source(1))
    good = statistics.count(x, epsilon=0.5, ledger=ledger)
    assert good.secure and not bad.secure
    assert ledger.spent().epsilon == pytest.approx(1.0)
    assert [spend.query.startswith(INSECURE) for spend in ledger.spends()] == [True, False]
    again = statistics.count(x, epsilon=0.5, ledger=ledger, source=insecure_test_source(2))
    assert again == bad and ledger.spent().epsilon == pytest.approx(1.0)
    ledger.close()


def test_how_a_price_is_spelt_makes_no_other_question(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path / "b", population="clinic", unit="record", epsilon=2.0, delta=1e-6)
    asked = [
        statistics.quantile([1.0], 1, bounds=(0, 2), epsilon=e, ledger=ledger)
        for e in (1, 1.0, np.float32(1))
    ]  # type: ignore[arg-type]
    asked.append(
        statistics.quantile(
            [1.0], 1.0, bounds=(False, 2.0), privacy=Privacy(epsilon=1, delta=0), ledger=ledger
        )
    )
    assert all(one == asked[0] for one in asked) and ledger.spent().epsilon == pytest.approx(1.0)
    ledger.close()


# ---- bins


def test_bins_of_every_kind_count_as_a_search_does() -> None:
    """The three ways beside numpy's search, at the edges, beside them, and far out; odd numbers of rows, NaN."""
    rng, ways = np.random.default_rng(0), set()
    for turn in range(240):
        k = int(rng.integers(1, 3 * BYTE))
        ends = np.unique(
            [
                np.linspace(10 * rng.normal(), 50 + 10 * rng.normal(), k + 1),
                rng.normal(size=k + 1) * 10.0 ** rng.integers(-3, 6),
                np.arange(k + 1) * rng.choice([0.1, 1.2, 1 / 3, 1, 5, 1e-9, 1e9]) + rng.choice([0, -3.3, 1e6]),
                np.cumsum(rng.integers(1, 20, k + 1)).astype(float),
                np.cumsum(10.0 ** rng.uniform(-6, 4, k + 1)),
            ][turn % 5]
        )  # fmt: skip
        if len(ends) < 2:
            continue
        odd = [math.nan, math.inf, -math.inf, 1e308, -1e308, math.nan][: turn % 7]
        near = [np.nextafter(ends, side) for side in (-np.inf, np.inf)]
        x = np.concatenate([rng.uniform(ends[0] - 1, ends[-1] + 1, 301), ends, *near, odd])
        rng.shuffle(x)
        whole = np.concatenate([x, x[:7]])
        expected = np.bincount(
            np.searchsorted(ends[1:-1], whole[~np.isnan(whole)], side="right"), minlength=len(ends) - 1
        )
        assert (binned([x, x[:7]], ends) == expected).all()
        ways.add((len(ends) - 1 > FEW) + (len(ends) - 1 > BYTE))
    assert ways == {0, 1, 2}
    many = np.tile([0.5, 1.5, 2.5], TILE)
    for ends in (np.arange(4.0), np.arange(13.0), np.array([0, 1, 2.5, *range(3, 14)])):
        assert binned([many], ends).sum() == 3 * TILE and binned([many], ends)[0] == TILE


# ---- memory


def test_a_parquet_column_takes_the_same_memory_whatever_its_length(tmp_path: Path) -> None:
    """All that numpy, Python and Arrow allocate at once, for 2^18 and 2^21 rows (2 and 16 MiB): the peak stays."""
    files = {}
    for rows in (2**18, 2**21):
        files[rows] = tmp_path / f"{rows}.parquet"
        with pq.ParquetWriter(files[rows], pa.schema([("x", pa.float64()), ("n", pa.int32())])) as writer:
            for start in range(0, rows, 2**17):
                x = np.random.default_rng(start).uniform(0, 150, 2**17)
                writer.write_table(pa.table({"x": x, "n": x.astype(np.int32)}), row_group_size=2**16)
    questions: list[Callable[[Any], Release]] = [
        lambda x: statistics.mean(x, bounds=BOUNDS, epsilon=EXACT),
        lambda x: statistics.variance(x, bounds=BOUNDS, epsilon=EXACT),
        lambda x: statistics.histogram(x, edges=np.linspace(0, 120, 25).tolist(), epsilon=EXACT),
        lambda x: statistics.quantile(x, 0.5, bounds=BOUNDS, epsilon=EXACT),
    ]
    before = pa.default_memory_pool()
    for ask, column in [*((ask, "x") for ask in questions), (questions[0], "n")]:
        peaks = {}
        for rows in (2**18, 2**18, 2**21):  # the first time fills caches
            pool = pa.proxy_memory_pool(before)
            pa.set_memory_pool(pool)
            tracemalloc.start()
            try:
                ask(statistics.stored(files[rows], column))
                peaks[rows] = tracemalloc.get_traced_memory()[1] + pool.max_memory()
            finally:
                tracemalloc.stop()
                pa.set_memory_pool(before)
        # 14 MiB (int32: 7) more would be there if the column were read at once
        assert peaks[2**21] <= peaks[2**18] + 2**20, peaks


def test_an_array_of_polars_arrow_or_numpy_is_not_copied_whole() -> None:
    x = np.random.default_rng(0).uniform(0, 150, 2**20)  # 8 MiB
    for column in (x, x.astype(np.float32), x.astype(np.int64), pl.Series(x), pa.array(x), pd.Series(x)):
        for ask in (
            lambda c: statistics.mean(c, bounds=BOUNDS, epsilon=1.0),
            lambda c: statistics.histogram(c, edges=np.linspace(0, 120, 25).tolist(), epsilon=1.0),
        ):
            ask(column)
            tracemalloc.start()
            try:
                ask(column)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert peak <= 3 * 2**20, (type(column), peak)


# ---- columns that try to break in


BIG = [2**62 + 1, None, 2**63 - 1]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(BIG),
        pa.chunked_array([BIG[:1], BIG[1:]]),
        pl.Series(BIG),
        pd.Series(BIG, dtype="Int64"),
        pd.Series(BIG, dtype=pd.ArrowDtype(pa.int64())),
        np.ma.MaskedArray([2**62 + 1, 0, 2**63 - 1], [0, 1, 0]),
        BIG,
        pa.array([2**64 - 1, None, 2**63], pa.uint64()),
        pl.Series([2**100, None, 2**90], dtype=pl.Int128),
    ],
)
def test_whole_numbers_that_no_float_holds_neither_overflow_nor_raise(column: Any, tmp_path: Path) -> None:
    """An error that only a column with a gap *and* a large number gives would show that somebody has one."""
    assert statistics.mean(column, bounds=BOUNDS, epsilon=EXACT).value == 120.0
    assert statistics.count(column, epsilon=EXACT).value == 2
    total = statistics.sum(column, bounds=(0, 2**63), epsilon=EXACT).value
    assert 2**62 <= total <= 2**64
    if isinstance(column, pa.Array):
        pq.write_table(pa.table({"x": column}), tmp_path / "x.parquet")
        assert statistics.count(statistics.stored(tmp_path / "x.parquet", "x"), epsilon=EXACT).value == 2


def test_what_a_mask_covers_is_of_the_kind_it_is() -> None:
    for odd, said in (
        (np.ma.MaskedArray([True, False], [0, 1]), "yes-or-no"),
        (np.ma.MaskedArray(["1", "2"], [0, 1]), "dtype <U1"),
        (np.ma.MaskedArray(np.array(["2026-01-01"], "M8[D]"), [0]), "holds dates"),
        (np.ma.MaskedArray(np.array([1j]), [0]), "complex128"),
    ):
        with pytest.raises(InvalidData, match=said):
            statistics.mean(odd, bounds=BOUNDS, epsilon=1.0)
    three = np.ma.MaskedArray([1, 2, 3], [0, 1, 0])
    assert statistics.mean(three, bounds=BOUNDS, epsilon=EXACT).value == pytest.approx(2.0)


def test_indices_and_names_of_a_frame_do_not_matter() -> None:
    x = pd.Series([1.0, 2.0, 6.0], index=[0, 0, 0])
    owners = pd.Series(["a", "b", "c"], index=[1, 1, 1])
    assert statistics.mean(x, bounds=BOUNDS, epsilon=EXACT, people=People(owners)).value == pytest.approx(3.0)
    numbered = pd.DataFrame({0: [1.0, 3.0], 1: [2.0, 6.0]})
    found = statistics.standardisation(numbered, bounds={0: (0, 8), 1: (0, 8)}, epsilon=EXACT)  # type: ignore[dict-item]
    assert [round(mean, 3) for mean, _ in found.value] == [2.0, 4.0]
    table = statistics.contingency_table(numbered, categories={1: [2.0, 6.0]}, epsilon=EXACT)  # type: ignore[dict-item]
    assert table.value == (1, 1)


def test_one_row_no_row_and_equal_rows_are_answered() -> None:
    for x, (name, ask) in itertools.product(([], [7.0], [7.0] * 50), ONE_COLUMN.items()):
        if name.startswith(("group_by", "bounds")):  # see their own tests
            continue
        release = ask(x, epsilon=1.0)
        low, value, high = (
            np.ravel(np.asarray(one, float)) for one in (release.low, release.value, release.high)
        )
        assert ((low <= value) & (value <= high)).all(), name


NAN, KEY = float("nan"), Privacy(epsilon=1.0, delta=1e-6)
BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "ids that are lists": (lambda p: statistics.count([1.0], epsilon=1.0, people=People([[1]])), "single values"),
    "bounds beyond floats": (lambda p: statistics.mean([1.0], bounds=(0, 10**400), epsilon=1.0), "bounds must be two"),
    "three bounds": (lambda p: statistics.mean([1.0], bounds=(0, 1, 2), epsilon=1.0), "bounds must be two"),
    "a file of nothing": (lambda p: statistics.count(statistics.stored(p / "empty", "a"), epsilon=1.0), "cannot read"),
    "a file of text": (lambda p: statistics.count(statistics.stored(p / "text", "a"), epsilon=1.0), "cannot read"),
    "a folder": (lambda p: statistics.count(statistics.stored(p, "a"), epsilon=1.0), "cannot read"),
    "stored ids that are lists": (
        lambda p: statistics.count(statistics.stored(p / "good", "a"), epsilon=1.0, people=People("l")),
        "single values",
    ),
    "edges of text": (lambda p: statistics.histogram([1.0], edges="abc", epsilon=1.0), "edges must be"),  # type: ignore[arg-type]
    "ragged edges": (lambda p: statistics.histogram([1.0], edges=[[1], [2, 3]], epsilon=1.0), "edges must be"),  # type: ignore[list-item]
    "falling edges": (lambda p: statistics.histogram([1.0], edges=[2, 1], epsilon=1.0), "edges must be"),
    "one number for many": (lambda p: statistics.quantiles([1.0], 0.5, bounds=(0, 1), epsilon=1.0), "several"),  # type: ignore[arg-type]
    "no quantile": (lambda p: statistics.quantile([1.0], NAN, bounds=(0, 1), epsilon=1.0), "from 0 to 1"),
    "categories that are lists": (lambda p: statistics.mode([1], categories=[[1]], epsilon=1.0), "single values"),
    "a statistic of groups": (
        lambda p: statistics.group_by([1.0], ["a"], known=None, statistic="mode", privacy=KEY),  # type: ignore[arg-type]
        "statistic must be one of",
    ),
    "a quantile of groups": (
        lambda p: statistics.group_by([1.0], ["a"], known=None, statistic=1.5, bounds=(0, 1), privacy=KEY),
        "from 0 to 1",
    ),
    "groups without bounds": (
        lambda p: statistics.group_by([1.0], ["a"], known=["a"], statistic="median", privacy=KEY),
        "public bounds",
    ),
    "a share of a person": (lambda p: People(["a"], max_rows=1.5), "max_rows"),  # type: ignore[arg-type]
    "half a row": (lambda p: statistics.expected_error("count", n=0.5, epsilon=1.0), "n must be"),  # type: ignore[arg-type]
}  # fmt: skip


@pytest.mark.parametrize("name", list(BROKEN))
def test_what_makes_no_sense_is_refused_in_one_clear_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("hello, this is no table")
    pq.write_table(pa.table({"a": [1.0, 2.0], "l": [[1], [2]]}), tmp_path / "good")
    ask, said = BROKEN[name]
    with warnings.catch_warnings(), pytest.raises(CasemateError, match=said) as caught:
        warnings.simplefilter("error")
        ask(tmp_path)
    assert "\n" not in str(caught.value)


def test_numbers_of_numpy_are_numbers() -> None:
    found = statistics.count([1.0, 2.0], epsilon=np.float32(0.1), people=People([1, 1], max_rows=np.int64(2)))  # type: ignore[arg-type]
    assert (found.epsilon, found.sensitivity) == (0.1, 2)
    assert statistics.expected_error("count", n=np.int64(9), epsilon=0.5) == 6.0  # type: ignore[arg-type]


def test_a_key_that_nothing_compares_with_does_not_show_in_the_order_of_others() -> None:
    """NaN inside a pair: sorting would leave its neighbours as the data have them."""
    price, nan = Privacy(epsilon=50.0, delta=1e-8), ("b", float("nan"))
    for keys in (
        [("b", 2.0), ("b", 1.0)] * 500,
        [("b", 2.0), nan, *[("b", 1.0), ("b", 2.0)] * 499, ("b", 1.0)],
    ):
        found = statistics.group_by([1.0] * len(keys), keys, known=None, privacy=price)
        assert found.names == (("b", 1.0), ("b", 2.0))
    words = [["fever", float("nan"), pd.NA, pd.NaT, "cough"]] * 900
    assert statistics.vocabulary(words, privacy=price, max_words=2).names == ("cough", "fever")
