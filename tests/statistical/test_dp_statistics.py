# SPDX-License-Identifier: Apache-2.0
"""Private statistics as distributions: intervals hold as often as they say, neighbours cannot be told apart.

Each coverage is over 2,000 runs of fresh noise (200 for the rarer prices); the test fails where fewer are covered than
a 95 % interval would leave with probability 1e-6 (exact binomial: 1,850 of 2,000). Seeds are fixed.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

import casemate.privacy.statistics as statistics
from casemate import demo
from casemate.privacy.release import Release
from casemate.privacy.statistics import People, Privacy
from casemate.privacy.statistics._ask import Ask
from casemate.training.secure import insecure_test_source

pytestmark = pytest.mark.slow
RUNS, LEVEL, FALSE = 2000, 0.95, 1e-6
BOUNDS = (0, 120)
X = np.random.default_rng(0).gamma(6.0, 8.0, 400)
Y = np.clip(X + np.random.default_rng(1).normal(0, 20, 400), 0, 200)
CLAMPED = np.clip(X, 0, 120)
FRAME = {"x": X, "y": Y}
WIDE = {"x": BOUNDS, "y": (0, 200)}
OWNER = np.repeat(np.arange(200), 2)

CASES: dict[str, tuple[Any, Any]] = {
    "count": (lambda **k: statistics.count(X, **k), 400),
    "sum": (lambda **k: statistics.sum(X, bounds=BOUNDS, **k), CLAMPED.sum()),
    "mean": (lambda **k: statistics.mean(X, bounds=BOUNDS, **k), CLAMPED.mean()),
    "mean of people": (
        lambda **k: statistics.mean(X, bounds=BOUNDS, people=People(OWNER, max_rows=2), **k),
        CLAMPED.mean(),
    ),
    "mean of 12 rows": (lambda **k: statistics.mean(X[:12], bounds=BOUNDS, **k), CLAMPED[:12].mean()),
    "variance": (lambda **k: statistics.variance(X, bounds=BOUNDS, **k), CLAMPED.var()),
    "variance of 12 rows": (lambda **k: statistics.variance(X[:12], bounds=BOUNDS, **k), CLAMPED[:12].var()),
    "histogram": (
        lambda **k: statistics.histogram(X, edges=[0, 30, 60, 120], **k),
        np.histogram(CLAMPED, [0, 30, 60, 121])[0],
    ),
    "median": (lambda **k: statistics.quantile(X, 0.5, bounds=BOUNDS, **k), np.median(CLAMPED)),
    "upper tenth": (lambda **k: statistics.quantile(X, 0.9, bounds=BOUNDS, **k), np.quantile(CLAMPED, 0.9)),
    "covariance": (
        lambda **k: statistics.covariance(FRAME, bounds=WIDE, **k),
        np.cov(CLAMPED, Y, bias=True).ravel(),
    ),
    "standardisation": (
        lambda **k: statistics.standardisation(FRAME, bounds=WIDE, **k),
        np.array([[CLAMPED.mean(), CLAMPED.std()], [Y.mean(), Y.std()]]).ravel(),
    ),
}  # fmt: skip
PRICES = {
    "laplace": {"epsilon": 1.0},
    "gaussian": {"epsilon": 1.0, "delta": 1e-6, "mechanism": "gaussian"},
    "replaced": {"epsilon": 2.0, "relation": "replace_one"},
    "dear": {"epsilon": 20.0},
}


@pytest.mark.parametrize("price", list(PRICES))
@pytest.mark.parametrize("name", list(CASES))
def test_an_interval_holds_the_truth_as_often_as_it_says(name: str, price: str) -> None:
    ask, truth = CASES[name]
    privacy, source = Privacy(**PRICES[price]), insecure_test_source(len(name) + 100 * len(price))  # type: ignore[arg-type]
    truth = np.atleast_1d(np.asarray(truth, float))
    runs = RUNS if price == "laplace" else RUNS // 10
    covered = np.zeros(len(truth), int)
    for _ in range(runs):
        release = ask(privacy=privacy, source=source)
        low, high = np.ravel(release.low), np.ravel(release.high)
        covered += (low - 1e-9 <= truth) & (truth <= high + 1e-9)
    assert (covered >= binom.ppf(FALSE, runs, LEVEL)).all(), covered / runs


# ---- groups

KEYS = np.array(["a", "b", "c"])[np.random.default_rng(2).choice(3, 400, p=[0.5, 0.3, 0.2])]
GROUPED: dict[Any, Any] = {
    "count": len,
    "sum": np.sum,
    "mean": np.mean,
    "variance": np.var,
    "median": np.median,
    0.9: lambda x: np.sort(x)[math.ceil(0.9 * len(x)) - 1],
}


# unknown keys are only answered for Laplace noise and neighbours that come and go
@pytest.mark.parametrize(
    ("price", "known"), [*((price, True) for price in PRICES), ("laplace", False), ("dear", False)]
)
@pytest.mark.parametrize("kind", list(GROUPED))
def test_an_interval_of_a_group_holds_its_truth_as_often_as_it_says(
    kind: Any, known: bool, price: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Group by group; of unknown keys over the runs in which a group shows (which says nothing of its later noise)."""
    named = {"delta": 1e-6, **PRICES[price], "epsilon": (2 if known else 4) * PRICES[price]["epsilon"]}
    source = insecure_test_source(len(str(kind)) + 10 * len(price) + known)
    monkeypatch.setattr("casemate.training.secure.source", lambda: source)
    runs = RUNS if price == "laplace" and known else RUNS // 10
    truth = {key: float(GROUPED[kind](CLAMPED[key == KEYS])) for key in "abc"}
    covered, shown = dict.fromkeys("abc", 0), dict.fromkeys("abc", 0)
    for _ in range(runs):
        release = statistics.group_by(
            X, KEYS, known=list("abc") if known else None, statistic=kind, bounds=BOUNDS,
            privacy=Privacy(**named),  # type: ignore[arg-type]
        )  # fmt: skip
        for key, low, high in zip(release.names, release.low, release.high, strict=True):
            shown[key] += 1
            covered[key] += low - 1e-9 <= truth[key] <= high + 1e-9
    assert all(shown[key] == runs for key in "abc") or not known
    for key in "abc":
        assert covered[key] >= binom.ppf(FALSE, shown[key], LEVEL), (key, covered[key], shown[key])
    assert shown["a"] >= 0.9 * runs


# ---- real tables: twelve statistics for each person at epsilon 1 together


def _rand_hie() -> tuple[pd.DataFrame, str, int]:
    return pd.read_csv(demo.packaged("statsmodels", "datasets/randhie/src/randhie.csv")), "zper", 5


def _diabetes(folder: Path) -> tuple[pd.DataFrame, str, int]:
    return pd.read_csv(folder / "diabetic_data.csv.zip", na_values="?", low_memory=False), "patient_nbr", 2


RAND: list[tuple[str, str, Any]] = [
    ("count", "xage", None), ("sum", "mdvis", (0, 40)), ("mean", "xage", (0, 80)), ("mean", "mdvis", (0, 40)),
    ("mean", "income", (0, 30_000)), ("variance", "xage", (0, 80)), ("median", "xage", (0, 80)),
    ("upper tenth", "mdvis", (0, 40)), ("histogram", "xage", [0, 18, 40, 80]), ("table", "female", [0, 1]),
    ("standardisation", "mhi", (0, 100)), ("covariance", "xage mhi", [(0, 80), (0, 100)]),
]  # fmt: skip
DIABETES: list[tuple[str, str, Any]] = [
    ("count", "time_in_hospital", None), ("sum", "number_inpatient", (0, 10)),
    ("mean", "time_in_hospital", (0, 14)), ("mean", "num_medications", (0, 60)),
    ("mean", "num_lab_procedures", (0, 120)), ("variance", "num_medications", (0, 60)),
    ("median", "num_lab_procedures", (0, 120)), ("upper tenth", "num_medications", (0, 60)),
    ("histogram", "num_lab_procedures", [0, 20, 40, 60, 120]), ("table", "gender", ["Female", "Male"]),
    ("standardisation", "time_in_hospital", (0, 14)),
    ("covariance", "time_in_hospital num_medications", [(0, 14), (0, 60)]),
]  # fmt: skip


def _asked(what: str, column: str, public: Any, table: pd.DataFrame, named: dict[str, Any]) -> Release:
    names = column.split()
    if what in ("standardisation", "covariance"):
        limits = dict(zip(names, public if len(names) > 1 else [public], strict=True))
        return getattr(statistics, what)(table, bounds=limits, **named)
    if what == "table":
        return statistics.contingency_table(table, categories={column: public}, **named)
    if what == "histogram":
        return statistics.histogram(table[column], edges=public, **named)
    if what in ("median", "upper tenth"):
        return statistics.quantile(table[column], 0.5 if what == "median" else 0.9, bounds=public, **named)
    bounds = {} if public is None else {"bounds": public}
    return getattr(statistics, what)(table[column], **bounds, **named)


def _truth(what: str, column: str, public: Any, rows: pd.DataFrame) -> np.ndarray:
    """The statistic of the rows that count, clamped, by pandas and numpy."""
    names = column.split()
    if what == "covariance":
        clamped = [rows[name].clip(*ends) for name, ends in zip(names, public, strict=True)]
        return np.cov(clamped, bias=True).ravel()
    if what == "histogram":
        inside = rows[column].clip(public[0], np.nextafter(public[-1], 0))
        return np.histogram(inside, public)[0]
    if what == "table":
        return np.array([(rows[column] == value).sum() for value in public])
    x = rows[column].clip(*public) if public is not None else rows[column]
    found = {"count": len(x), "sum": x.sum(), "mean": x.mean(), "variance": x.var(ddof=0)}
    found |= {"median": x.median(), "upper tenth": np.sort(x)[math.ceil(0.9 * len(x)) - 1]}
    return np.atleast_1d([x.mean(), x.std(ddof=0)] if what == "standardisation" else found[what])


@pytest.mark.parametrize("name", ["rand_hie", "diabetes130"])
def test_twelve_statistics_of_real_people_hold_as_often_as_they_say(
    name: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """2,000 runs of all twelve, epsilon 1 / 12 each; an exact binomial test at 1e-6 for each of their numbers.

    A question is prepared once (whose rows count does not change) and drawn 2,000 times.
    """
    if name == "rand_hie":
        table, person, most = _rand_hie()
    else:
        table, person, most = _diabetes(request.getfixturevalue("test_data")("diabetes130-hospitals"))
    rows = table[table.groupby(person).cumcount() < most]
    asked = RAND if name == "rand_hie" else DIABETES
    source, kept, release = insecure_test_source(7), [], Ask.release
    monkeypatch.setattr(
        Ask, "release", lambda self, words, compute, **more: kept.append((self, words, compute, more))
    )
    for what, column, public in asked:
        shared = {"people": People(table[person], max_rows=most), "epsilon": 1 / 12, "source": source}
        _asked(what, column, public, table, shared)
    monkeypatch.undo()
    assert len(kept) == 12 and sum(ask.privacy.epsilon for ask, *_ in kept) == pytest.approx(1.0)
    said = []
    for (what, column, public), (ask, words, compute, more) in zip(asked, kept, strict=True):
        truth = _truth(what, column, public, rows)
        covered, widths = np.zeros(len(truth), int), []
        for _ in range(RUNS):
            one = release(ask, words, compute, **more)
            low, high = (np.ravel(np.asarray(end, float)) for end in (one.low, one.high))
            covered += (low - 1e-9 <= truth) & (truth <= high + 1e-9)
            widths.append(high - low)
        wide = np.mean(widths, 0)
        said.append(
            f"{what} {column}: {np.round(truth, 2)} width {np.round(wide, 3)} covered {covered / RUNS}"
        )
        assert (covered >= binom.ppf(FALSE, RUNS, LEVEL)).all(), said[-1]
    print(f"\n{name}", *said, sep="\n")  # for bench/RESULTS.md: pytest -s


def test_the_intervals_are_not_wider_than_they_must_be() -> None:
    """Were the true coverage of the mean 97 %, more than this many would be covered with probability 1e-6."""
    source = insecure_test_source(3)
    covered = 0
    for _ in range(RUNS):
        release = statistics.mean(X, bounds=BOUNDS, epsilon=1.0, source=source)
        covered += release.low <= CLAMPED.mean() <= release.high
    assert covered <= binom.ppf(1 - FALSE, RUNS, 0.97)


def test_neighbours_cannot_be_told_apart() -> None:
    """Counts of two whole answers on worst-case neighbours: log ratio beyond epsilon at a joint 1e-6 fails.

    Every event is a set of answers chosen beforehand; Clopper-Pearson bounds at 1e-6 / (2 events).
    """
    from scipy.stats import beta

    epsilon, runs = 1.0, 20_000
    without, with_one = [120.0] * 3, [120.0] * 3 + [0.0]

    def seen(x: list[float], ask: Any, seed: int) -> Counter[int]:
        source = insecure_test_source(seed)
        return Counter(round(ask(x, source)) for _ in range(runs))

    for ask in (
        lambda x, s: statistics.count(x, epsilon=epsilon, source=s).value,
        lambda x, s: statistics.sum(x, bounds=(-120, 120), epsilon=epsilon, source=s).value / 40,
    ):
        one, two = seen(without, ask, 1), seen(with_one, ask, 2)
        cuts = sorted(set(one) | set(two))
        events = len(cuts)
        for cut in cuts:
            for first, second in ((one, two), (two, one)):
                for side in (lambda v, c=cut: v <= c, lambda v, c=cut: v >= c):
                    hits = [sum(n for v, n in c.items() if side(v)) for c in (first, second)]
                    tail = FALSE / (8 * events)
                    low = beta.ppf(tail, hits[0], runs - hits[0] + 1) if hits[0] else 0.0
                    high = beta.isf(tail, hits[1] + 1, runs - hits[1]) if hits[1] < runs else 1.0
                    assert low <= math.exp(epsilon) * high


def test_the_bought_bounds_hardly_ever_hold_an_empty_cell() -> None:
    """At most 1 % of runs by design; more than the bound below of 200 has probability below 1e-6."""
    source, wrong = insecure_test_source(9), 0
    for _ in range(200):
        wrong += statistics.bounds([20.0] * 500, epsilon=1.0, source=source).value != (16.0, 32.0)
    assert wrong <= binom.ppf(1 - FALSE, 200, 0.01)
