# SPDX-License-Identifier: Apache-2.0
"""What the estimators of core/stats.py share: checked input, units, quantiles, two-sample pieces, redraws."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from casemate.core.errors import InvalidData

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ROUNDING = 1e-28  # a variance below this is float64 rounding, not sampling


@dataclass(frozen=True, slots=True)
class Pool:
    """Who the rows of two samples are: one numbering of units over both."""

    first: Ints  # (m,)
    second: Ints  # (n,)
    units: int
    first_units: int
    second_units: int

    @property
    def pairs(self) -> int:
        """How many pairs of one unit from each side can be formed with no unit used twice."""
        return min(self.first_units, self.second_units, self.units // 2)


def numbers(name: str, values: ArrayLike, *, finite: bool = False) -> Floats:
    try:
        x = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InvalidData(f"{name} must be numbers in one flat array") from None
    if x.ndim != 1 or x.size == 0:
        raise InvalidData(f"{name} must be a flat array with at least one value; got shape {x.shape}")
    bad = ~np.isfinite(x) if finite else np.isnan(x)
    if bad.any():
        raise InvalidData(
            f"{name}: {int(bad.sum())} of {x.size} are missing or not finite: drop or fill them"
        )
    return x


def cluster_codes(name: str, clusters: ArrayLike | None, n: int) -> tuple[Ints, int]:
    if clusters is None:
        codes, units = np.arange(n), n
    else:
        given = np.asarray(clusters)
        if given.shape != (n,) or given.dtype.kind not in "iu":
            raise InvalidData(f"{name} must be {n} whole numbers, one a row; got {given.dtype} {given.shape}")
        found, codes = np.unique(given, return_inverse=True)
        units = found.size
    if units < 2:
        raise InvalidData(f"{name}: an interval needs at least 2 independent rows or persons; got {units}")
    return codes.astype(np.int64), units


def pool_units(m: int, n: int, first: ArrayLike | None, second: ArrayLike | None) -> Pool:
    a, a_units = cluster_codes("positives or members", first, m)
    b, b_units = cluster_codes("negatives or calibration", second, n)
    if first is None or second is None:  # no numbering in common: nobody stands on both sides
        return Pool(a, b + a_units, a_units + b_units, a_units, b_units)
    both, units = cluster_codes("clusters", np.concatenate([np.asarray(first), np.asarray(second)]), m + n)
    return Pool(both[:m], both[m:], units, a_units, b_units)


def check_counts(successes: int, n: int) -> None:
    if n < 1 or not 0 <= successes <= n or successes != int(successes) or n != int(n):
        raise InvalidData(f"a proportion needs 0 <= successes <= n and n >= 1; got {successes} of {n}")


def tail_of(level: float) -> float:
    if not 0 < level < 1:
        raise InvalidData(f"level is {level}: give a number between 0 and 1, such as 0.95")
    return (1 - level) / 2


def z_quantile(level: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(1 - tail_of(level)))


def t_quantile(level: float, df: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, 1 - tail_of(level)))


def expit(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def beta_limits(k: float, n: float, level: float) -> tuple[float, float]:
    from scipy.special import betaincinv

    tail = tail_of(level)
    low = 0.0 if k <= 0 else float(betaincinv(k, n - k + 1, tail))
    high = 1.0 if k >= n else float(betaincinv(k + 1, n - k, 1 - tail))
    return low, high


def bca_limits(value: float, draws: Floats, influence: Floats, level: float) -> tuple[float, float]:
    """Efron 1987: quantiles moved by the median bias z0 and acceleration a = sum d^3 / 6 (sum d^2)^1.5."""
    from scipy.special import ndtr, ndtri

    share = (float((draws < value).mean()) + float((draws <= value).mean())) / 2
    z0 = float(ndtri(min(max(share, 0.5 / draws.size), 1 - 0.5 / draws.size)))
    square = float(influence @ influence)
    a = float((influence**3).sum()) / (6 * square**1.5) if square > 0 else 0.0
    a = min(max(a, -0.2), 0.2)  # beyond this the correction has no inverse at usual levels
    z = z0 + np.array([-z_quantile(level), z_quantile(level)])
    low, high = np.quantile(draws, ndtr(z0 + z / (1 - a * z)))
    return float(low), float(high)


def count_below(x: Floats, ordered: Floats) -> Floats:
    """How many of `ordered` lie below each x, ties half."""
    counts = np.searchsorted(ordered, x, side="left") + np.searchsorted(ordered, x, side="right")
    return np.asarray(counts / 2, dtype=np.float64)


def placements(positives: Floats, negatives: Floats) -> tuple[Floats, Floats]:
    """Share of negatives below each positive, and of positives above each negative (DeLong's components)."""
    above = count_below(positives, np.sort(negatives)) / negatives.size
    below = 1 - count_below(negatives, np.sort(positives)) / positives.size
    return above, below


def two_sample_variance(first: Floats, second: Floats, pool: Pool) -> tuple[float, float]:
    """Obuchowski's (1997) variance from the centred components of both samples, and its degrees."""
    a = np.bincount(pool.first, first, pool.units) / first.size  # (units,)
    b = np.bincount(pool.second, second, pool.units) / second.size  # (units,)
    m, n, g = pool.first_units, pool.second_units, pool.units
    var_a, var_b = m / (m - 1) * float(a @ a), n / (n - 1) * float(b @ b)
    variance = var_a + var_b + 2 * g / (g - 1) * float(a @ b)
    if var_a + var_b < ROUNDING:
        return 0.0, 1.0
    df = (var_a + var_b) ** 2 / (var_a**2 / (m - 1) + var_b**2 / (n - 1))
    return max(variance, 0.0), min(df, g - 1)


def effective_units(codes: Ints, contributions: Floats) -> float:
    """Kish's effective number of units behind a sum: 1 when one unit carries it all."""
    sums = np.bincount(codes, contributions)
    square = float(sums @ sums)
    return float(np.abs(sums).sum()) ** 2 / square if square > 0 else 0.0


def newcombe_limits(value: float, m: int, n: int, z: float) -> tuple[float, float]:
    """Newcombe 2006, method 5: where |value - x| = z sqrt(V(x)) with Hanley and McNeil's variance V."""
    inner = (m + n) / 2 - 1

    def outside(x: float) -> bool:
        spread = 1 + inner * (1 - x) / (2 - x) + inner * x / (1 + x)
        return (value - x) ** 2 > z * z * x * (1 - x) * spread / (m * n)

    limits = []
    for far in (0.0, 1.0):
        near = value
        for _ in range(50):
            middle = (near + far) / 2
            near, far = (near, middle) if outside(middle) else (middle, far)
        limits.append(far)
    return limits[0], limits[1]


def allowed_above(n: int, fpr: float) -> int:
    """The largest k with k / n <= fpr in float64, so that the step rule keeps its own inequality."""
    if not 0 <= fpr <= 1:
        raise InvalidData(f"fpr is {fpr}: give a rate between 0 and 1")
    k = min(n, int(fpr * n) + 1)
    while k / n > fpr:
        k -= 1
    return k


def redraw_rates(
    hits: Floats,
    others: Floats,
    fpr: float,
    pool: Pool,
    depth: int,
    n_resamples: int,
    rng: np.random.Generator,
) -> Floats | None:
    """True-positive rates (n_resamples,) over redrawn persons; None if `depth` top scores are too few.

    Only persons with a hit or a top score are drawn one by one; the others matter by their row counts alone.
    That splits the multinomial exactly. NaN where a redraw holds nobody of one side.
    """
    every = depth >= others.size
    floor = -math.inf if every else float(np.partition(others, others.size - depth)[others.size - depth])
    top = np.flatnonzero(others >= floor)
    top = top[np.argsort(-others[top], kind="stable")]
    kept = np.zeros(pool.units, dtype=bool)
    kept[pool.first] = kept[pool.second[top]] = True
    renamed = np.cumsum(kept) - 1
    active = int(kept.sum())
    other_rows = np.bincount(pool.second, minlength=pool.units).astype(np.float64)
    hit_rows = np.bincount(pool.first, minlength=pool.units).astype(np.float64)[kept]
    row_counts, persons = np.unique(other_rows[~kept], return_counts=True)
    shares = persons / max(persons.sum(), 1)
    other_rows = other_rows[kept]
    top_person = renamed[pool.second[top]]
    by_score = np.argsort(-hits, kind="stable")
    hit_person = renamed[pool.first[by_score]]
    above = np.searchsorted(-hits[by_score], -others[top], side="left")  # hits above each top score
    rates = np.full(n_resamples, np.nan)
    for r in range(n_resamples):
        drawn = int(rng.binomial(pool.units, active / pool.units))
        weight = np.bincount(rng.integers(active, size=drawn), minlength=active).astype(np.float64)
        rest = float(rng.multinomial(pool.units - drawn, shares) @ row_counts) if persons.size else 0.0
        n_hits, n_others = float(weight @ hit_rows), float(weight @ other_rows) + rest
        if n_hits == 0 or n_others == 0:
            continue
        reached = np.cumsum(weight[top_person])  # calibration rows at or above each top score
        place = int(np.searchsorted(reached, fpr * n_others * (1 + 1e-12), side="right"))
        if place == top.size and not every:
            return None
        flagged = hits.size if place == top.size else above[place]
        rates[r] = float(weight[hit_person[:flagged]].sum()) / n_hits
    return rates
