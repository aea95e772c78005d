# SPDX-License-Identifier: Apache-2.0
"""Statistics of groups, and the search for quantiles: known answers, sensitivities by brute force, least squares.

Noise is never taken out: at EXACT its scale is so small that a draw other than 0 has probability below 1e-100.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import casemate.privacy.statistics as statistics
from casemate.core.errors import GuaranteeVoid, InvalidData
from casemate.privacy import mechanisms
from casemate.privacy.statistics import People, Privacy, ranks
from casemate.privacy.statistics._ask import Ask
from casemate.privacy.statistics._intervals import Noise
from casemate.privacy.statistics.ranks import CELLS, LEVELS, PARTS

EXACT = 1e16
BOUNDS = (-30, 120)
KINDS: list[Any] = ["count", "sum", "mean", "variance", "median", 0.9]


# ---- groups

COLUMNS = {"x": [10.0, 30.0, 500.0, math.nan, 7.0, 8.0, -99.0], "sex": ["f", "f", "f", "f", "m", None, "x"]}
CLAMPED = {"f": np.array([10.0, 30.0, 120.0]), "m": np.array([7.0])}
TRUTH: dict[Any, Any] = {
    "count": len,
    "sum": np.sum,
    "mean": np.mean,
    "variance": np.var,
    "median": np.median,
    0.9: lambda x: np.sort(x)[math.ceil(0.9 * len(x)) - 1],
}


@pytest.mark.parametrize("kind", KINDS)
def test_without_noise_to_speak_of_each_group_has_its_own_statistic(kind: Any) -> None:
    price = Privacy(epsilon=EXACT)
    for frame in (pd.DataFrame(COLUMNS), pl.DataFrame(COLUMNS), pa.table(COLUMNS)):
        found = statistics.group_by(
            frame["x"], frame["sex"], known=["m", "f", "never"], statistic=kind, bounds=BOUNDS, privacy=price
        )
        assert found.names == ("m", "f", "never")
        for place, group in enumerate(("m", "f")):
            truth = float(TRUTH[kind](CLAMPED[group]))
            rough = 150 / CELLS * 1.01 if kind in ("median", 0.9) else 0.02
            assert found.value[place] == pytest.approx(truth, abs=rough)
            assert found.low[place] - 1e-9 <= truth <= found.high[place] + 1e-9
    empty = found.low[2], found.high[2]
    whole = {"count": (0, 0), "sum": (0, 0), "variance": (0, 75.0**2)}
    assert empty == pytest.approx(whole.get(kind, BOUNDS))
    said = {"variance": "approximate", "median": "conservative", 0.9: "conservative"}
    assert found.interval == said.get(kind, "exact")


@pytest.mark.parametrize("mechanism", ["laplace", "gaussian"])
@pytest.mark.parametrize("relation", ["add_or_remove_one", "replace_one"])
@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("kind", [*KINDS[:5], "turning sum"])
def test_no_unit_moves_the_numbers_of_all_groups_by_more_than_is_claimed(
    kind: Any, m: int, relation: Any, mechanism: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every pair of what a unit may be, over two groups and corner values; the largest move is close to the claim."""
    calls: list[dict[str, Any]] = []
    add = mechanisms.add_laplace if mechanism == "laplace" else mechanisms.add_gaussian

    def spied(value: Any, **named: Any) -> Any:
        calls.append({"exact": list(value), **named})
        return add(value, **named)

    monkeypatch.setattr(mechanisms, add.__name__, spied)
    price = Privacy(epsilon=1e9, delta=1e-9, relation=relation, mechanism=mechanism)
    bounds = (-100, 100) if kind == "turning sum" else BOUNDS
    seen: dict[Any, np.ndarray] = {}
    claimed = 0

    def noised(unit: tuple[tuple[float, str], ...]) -> np.ndarray:
        nonlocal claimed
        if unit not in seen:
            calls.clear()
            statistics.group_by(
                [10.0, 70.0, *(value for value, _ in unit)], ["a", "b", *(key for _, key in unit)],
                known=["a", "b"], statistic="sum" if kind == "turning sum" else kind, bounds=bounds, privacy=price,
                people=People(["o0", "o1", *["me"] * len(unit)], max_rows=m),
            )  # fmt: skip
            # of a median the parts that are looked at differ; the first of a group are always the same
            used = [c for c in calls if not (kind == "median" and c is not calls[0])]
            seen[unit] = np.array([int(one) for call in used for one in call["exact"]], object)
            claims = {call.get("sensitivity") or call["l2_sensitivity_squared"] for call in calls}
            (claimed,) = claims
        return seen[unit]

    rows = list(itertools.product([-1e9, 1e9, 0.0, math.nan], ["a", "b"]))
    units = list(itertools.combinations_with_replacement(rows, m))
    gone: list[Any] = [()]
    largest = 0
    for before, after in itertools.product(units, gone if relation == "add_or_remove_one" else units):
        change = noised(before) - noised(after)
        largest = max(largest, sum(abs(c) if mechanism == "laplace" else c * c for c in change))
    levels = LEVELS if kind == "median" else 1
    assert largest * levels <= claimed
    if kind != "median":  # of which one group is looked at here
        assert largest >= 0.99 * claimed


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_keys_are_found_with_half_of_epsilon_and_rare_ones_do_not_show(kind: Any) -> None:
    price = Privacy(epsilon=8.0, delta=1e-8, level=1 - 1e-9)
    keys, x = ["often"] * 900 + ["too"] * 300 + ["once"], [50.0] * 900 + [20.0] * 300 + [110.0]
    found = statistics.group_by(x, keys, known=None, statistic=kind, bounds=(0, 120), privacy=price)
    assert found.names == ("often", "too") and found.delta == 1e-8
    for place, (n, value) in enumerate(((900, 50.0), (300, 20.0))):
        truth = float(TRUTH[kind](np.full(n, value)))
        assert found.low[place] - 1e-9 <= truth <= found.high[place] + 1e-9 or kind == "variance"
    alone = statistics.group_by(
        x, keys, known=["often"], statistic=kind, bounds=(0, 120), privacy=Privacy(epsilon=8.0)
    )
    assert found.scale == pytest.approx(2 * alone.scale) and alone.delta == 0.0


@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_threshold_of_groups_covers_a_person_alone(
    kind: Any, m: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys of one person, m of them with a row or one with m rows, show with probability at most delta."""
    delta, seen = 1e-6, []

    def release(self: Ask, words: Any, compute: Any, **named: Any) -> Any:
        noise = self.privacy.noise(named["sensitivity"])
        alone: list[list[int]] = []
        compute(lambda exact: (alone.append(list(exact)), [0] * len(exact))[1], noise)
        unit = sum(alone[0]) // m  # what a row adds to the count that is compared
        least, high = 0, 10**18
        while high - least > 1:  # the least noisy count that shows
            turn = itertools.count()

            def first_only(exact: Any, value: int = (least + high) // 2, turn: Any = turn) -> list[int]:
                return [value if next(turn) == 0 else 0 for _ in exact]

            shown = compute(first_only, noise).names
            least, high = (least, (least + high) // 2) if shown else ((least + high) // 2, high)
        alone_shows = math.exp(-(high - m * unit) / noise.scale) / (1 + math.exp(-1 / noise.scale))
        assert m * alone_shows <= delta * (1 + 1e-9)
        assert noise.scale == pytest.approx(2 * m * unit / 0.5)
        seen.append(unit)
        return None

    monkeypatch.setattr(Ask, "release", release)
    for keys in ([f"k{i}" for i in range(m)], ["k"] * m):
        statistics.group_by(
            [1.0] * m, keys, known=None, statistic=kind, bounds=(0, 120),
            privacy=Privacy(epsilon=0.5, delta=delta), people=People(["me"] * m, max_rows=m),
        )  # fmt: skip
    assert len(seen) == 2


def test_unknown_keys_need_a_delta_and_neighbours_that_come_and_go() -> None:
    for kind in KINDS:
        with pytest.raises(InvalidData, match="delta > 0"):
            statistics.group_by(
                [1.0], ["a"], known=None, statistic=kind, bounds=(0, 1), privacy=Privacy(epsilon=1.0)
            )
        with pytest.raises(GuaranteeVoid):
            statistics.group_by(
                [1.0], ["a"], known=None, statistic=kind, bounds=(0, 1),
                privacy=Privacy(epsilon=1.0, delta=1e-6, relation="replace_one"),
            )  # fmt: skip


# ---- the search for quantiles


@pytest.mark.parametrize("path", [(), (3,), (15,), (8, 8), (0, 15)])
def test_ranks_are_the_least_squares_estimate_of_all_counts_on_the_way(path: tuple[int, ...]) -> None:
    """Beside a pseudo-inverse: unknown masses of the parts that are not cut up, and every count a sum of them."""
    q, depth = 0.3, len(path)
    masses = [
        (level, part) for level in range(depth + 1) for part in range(PARTS)
        if level == depth or part != path[level]
    ]  # fmt: skip
    counts, below = np.zeros((PARTS * (depth + 1), len(masses))), np.zeros((PARTS, len(masses)))
    for place, (level, part) in enumerate(masses):
        counts[PARTS * level + part, place] = 1
        for above in range(level):  # it is part of what was cut up above
            counts[PARTS * above + path[above], place] = 1
        left = np.arange(PARTS) >= part if level == depth else np.full(PARTS, part < path[level])
        below[:, place] = left - q
    k = PARTS * (depth + 1)
    weights = ranks._ranks(np.eye(k).reshape(k, -1, PARTS), path, q)
    np.testing.assert_allclose(weights, (below @ np.linalg.pinv(counts)).T, atol=1e-12)


def test_the_reach_of_a_sum_of_noises_is_never_below_the_truth_and_not_far_above() -> None:
    """Beside a million draws; the share beyond is at most the tail, and 1 / 12 of it at least for a Chernoff bound."""
    draw, tail = np.random.default_rng(1), 0.05 / 3
    for kind, path, q in (
        ("laplace", (), 0.5),
        ("laplace", (8, 8), 0.5),
        ("laplace", (0,), 0.9),
        ("gaussian", (7,), 0.5),
    ):
        far = ranks._far(kind, path, q, tail)
        k = PARTS * (len(path) + 1)
        weights = ranks._ranks(np.eye(k).reshape(k, -1, PARTS), path, q)[:, :-1]
        noise = draw.laplace(size=(40_000, k)) if kind == "laplace" else draw.normal(size=(40_000, k))
        beyond = (np.abs(noise @ weights) > far).mean(0)
        # 40,000 draws: at most tail but for 1e-6 / 15 (+ 5.5 standard deviations of sqrt(tail / 40,000))
        assert (beyond <= tail + 5.5 * math.sqrt(tail / 40_000)).all()
        assert beyond.max() >= tail / 12


def test_an_interval_of_a_quantile_ends_where_the_noise_says_not_at_a_sixteenth() -> None:
    """30,000 rows at epsilon 1: the noise is some 30 of them, 0.1 % of the rows; a sixteenth of the bounds is 7.5."""
    x = np.random.default_rng(0).gamma(6.0, 8.0, 30_000)
    for q in (0.1, 0.5, 0.9):
        found = statistics.quantile(x, q, bounds=(0, 120), epsilon=1.0)
        inside = ((x > found.low) & (x < found.high)).mean()
        assert inside <= 0.02 and found.high - found.low < 2.5
        shares = (x < found.low).mean(), (x < found.high).mean()
        assert max(abs(shares[0] - q), abs(shares[1] - q)) <= 0.02


def test_most_intervals_of_a_quantile_hold_it() -> None:
    """Of 60 intervals at 95 % fewer than 46 hold with probability below 1e-6; without a margin a tenth would."""
    x = np.random.default_rng(7).gamma(6.0, 8.0, 2000)
    truth = np.quantile(x, [0.25, 0.5, 0.75])
    held = np.zeros(3, int)
    for _ in range(60):
        found = statistics.quantiles(x, [0.25, 0.5, 0.75], bounds=(0, 120), epsilon=0.5)
        held += (np.array(found.low) <= truth) & (truth <= np.array(found.high))
    assert (held >= 46).all(), held


def test_the_error_of_a_quantile_is_known_before_anything_is_spent() -> None:
    n = 20_000
    x = np.random.default_rng(5).uniform(0, 120, n)
    said = statistics.expected_error("quantile", n=n, epsilon=0.5)
    off = [
        abs((x < statistics.quantile(x, 0.5, bounds=(0, 120), epsilon=0.5).value).mean() - 0.5)
        for _ in range(60)
    ]
    # 5 % of 60 would be 3; more than 14 have probability below 1e-6
    assert sum(one > said for one in off) <= 14 and said <= 20 * float(np.mean(off))
    needed = statistics.n_needed("quantile", error=0.01, epsilon=0.5)
    assert statistics.expected_error("quantile", n=needed, epsilon=0.5) <= 0.01
    assert statistics.expected_error("quantile", n=needed - 1, epsilon=0.5) > 0.01
    assert ranks.rank_error(Noise("laplace", 3.0), 0.05) == pytest.approx(
        3 * ranks.rank_error(Noise("laplace", 1.0), 0.05)
    )
