# SPDX-License-Identifier: Apache-2.0
"""Every interval in Casemate is made here: estimates with confidence limits, by row or by person.

`clusters` is always an optional array of whole numbers, the person of each row; None means that rows are
independent. Where a function takes two of them, the same number means the same person in both. Intervals are
two-sided at `level`. tests/statistical/test_stats_coverage.py measures the coverage of each of them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from casemate.core import _reliability
from casemate.core._sampling import (
    ROUNDING,
    Floats,
    Ints,
    allowed_above,
    bca_limits,
    beta_limits,
    check_counts,
    cluster_codes,
    count_below,
    effective_units,
    expit,
    newcombe_limits,
    numbers,
    placements,
    pool_units,
    redraw_rates,
    t_quantile,
    tail_of,
    two_sample_variance,
    z_quantile,
)
from casemate.core.errors import InvalidData

# Below this many effective contributors a variance estimate is itself too noisy to be trusted alone.
_FEW = 10


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence limits; it says nothing about bias of the measurement itself.

    `n` counts independent units, rows or (with clusters) persons: of both classes together for an AUC, of the
    members for a true-positive rate.

    >>> Interval(value=0.5, low=0.4, high=0.6, level=0.95, n=100).n
    100
    """

    value: float
    low: float
    high: float
    level: float
    n: int


class Roc(NamedTuple):
    """Points of a ROC curve by the step rule, with pointwise limits on `tpr`.

    >>> Roc(*(np.zeros(1) for _ in range(4))).fpr.shape
    (1,)
    """

    fpr: Floats  # (points,) realised, increasing
    tpr: Floats  # (points,)
    low: Floats  # (points,)
    high: Floats  # (points,)


# ------------------------------------------------------------------ one proportion, one mean


def clopper_pearson(successes: int, n: int, *, level: float = 0.95) -> Interval:
    """Exact interval of a binomial proportion; covers at least `level` for every true value.

    Beta quantiles B(tail; k, n-k+1) and B(1-tail; k+1, n-k) (Clopper and Pearson 1934).
    Raises InvalidData unless 0 <= successes <= n and n >= 1.

    >>> i = clopper_pearson(0, 100)
    >>> (i.low, round(i.high, 4))
    (0.0, 0.0362)
    """
    check_counts(successes, n)
    low, high = beta_limits(successes, n, level)
    return Interval(successes / n, low, high, level, int(n))


def wilson(successes: int, n: int, *, level: float = 0.95) -> Interval:
    """Score interval of a binomial proportion; right on average over true values, not for each of them.

    (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n) (Wilson 1927).
    Raises InvalidData unless 0 <= successes <= n and n >= 1.

    >>> i = wilson(5, 10)
    >>> (round(i.low, 4), round(i.high, 4))
    (0.2366, 0.7634)
    """
    check_counts(successes, n)
    p, z = successes / n, z_quantile(level)
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else (centre - half) / (1 + z * z / n)
    high = 1.0 if successes == n else (centre + half) / (1 + z * z / n)
    return Interval(p, low, high, level, int(n))


def proportion(hits: ArrayLike, *, clusters: ArrayLike | None = None, level: float = 0.95) -> Interval:
    """Share of hits among rows: exact by row, Korn-Graubard by person.

    hits: booleans (n,). Clustered: Clopper-Pearson at the effective sample size n / deff, at most n, times
    (t_{n-1} / t_{G-1})^2 (Korn and Graubard 1998). deff is the linearised cluster variance over the binomial
    one, taken with two further persons of average (size-weighted) size m added, one all hits and one none,
    because few hits cannot show how they cluster: with 0 hits the effective size is then n / m, the number of
    persons when all have equally many rows. Raises InvalidData on values other than 0 and 1 or fewer than 2
    persons.

    >>> i = proportion([True, False, True, True])
    >>> (i.value, round(i.low, 3), round(i.high, 3))
    (0.75, 0.194, 0.994)
    >>> people = np.repeat(np.arange(20), 5)
    >>> round(proportion(np.zeros(100), clusters=people).high, 3) >= round(clopper_pearson(0, 20).high, 3)
    True
    """
    y = numbers("hits", hits)
    if not np.isin(y, (0.0, 1.0)).all():
        raise InvalidData("hits must be true or false; got other numbers: pass hits = score > threshold")
    n, k = y.size, float(y.sum())
    if clusters is None:
        return clopper_pearson(int(k), n, level=level)
    codes, units = cluster_codes("clusters", clusters, n)
    sizes = np.bincount(codes).astype(np.float64)  # (units,)
    m = float(sizes @ sizes) / n
    rows, groups = n + 2 * m, units + 2
    p = (k + m) / rows
    spread = float(((np.bincount(codes, y) - p * sizes) ** 2).sum()) + m * m * ((1 - p) ** 2 + p * p)
    deff = groups / (groups - 1) * spread * (rows - 1) / (rows * rows * p * (1 - p))
    effective = min(n, n / deff) * (t_quantile(level, n - 1) / t_quantile(level, units - 1)) ** 2
    low, high = beta_limits(k / n * effective, effective, level)
    return Interval(k / n, low, high, level, units)


def calibration(
    stated: ArrayLike, happened: ArrayLike, *, clusters: ArrayLike | None = None, level: float = 0.95
) -> tuple[Interval, list[tuple[float, Interval]]]:
    """Root mean squared gap between stated probabilities and what came true, and the groups: (stated, share).

    At most ten groups of equal size, given the stated (n,); what chance alone gives is taken off: `_reliability`.
    Raises InvalidData on a probability outside [0, 1], values other than 0 and 1 or fewer than 2 persons.

    >>> round(calibration([0.9] * 400, [1, 0] * 200)[0].value, 2)
    0.4
    """
    p, y = numbers("stated", stated, finite=True), numbers("happened", happened)
    codes, units = cluster_codes("clusters", clusters, y.size)
    places, means, size = _reliability.size(p, y, codes, units, level)
    owner = [None if clusters is None else codes[at] for at in places]
    shares = [proportion(y[at], clusters=own, level=level) for at, own in zip(places, owner, strict=True)]
    return Interval(*size, level, units), list(zip(means, shares, strict=True))


def mean(values: ArrayLike, *, clusters: ArrayLike | None = None, level: float = 0.95) -> Interval:
    """Mean of rows with a t interval; by person with the linearised (CR1) variance and G - 1 degrees.

    values: finite (n,). Variance G/(G-1) sum_g (sum of residuals of g)^2 / n^2 (Liang and Zeger 1986).
    Constant values give zero width: use `proportion` for 0/1 data. Raises InvalidData on fewer than 2 rows or
    persons.

    >>> i = mean([1.0, 2.0, 3.0])
    >>> (i.value, round(i.low, 3), round(i.high, 3))
    (2.0, -0.484, 4.484)
    """
    x = numbers("values", values, finite=True)
    codes, units = cluster_codes("clusters", clusters, x.size)
    value = float(x.mean())
    sums = np.bincount(codes, x - value)  # (units,)
    half = t_quantile(level, units - 1) * math.sqrt(units / (units - 1) * float(sums @ sums)) / x.size
    return Interval(value, value - half, value + half, level, units)


def bootstrap(
    statistic: Callable[..., float],
    arrays: Sequence[ArrayLike],
    *,
    rng: np.random.Generator,
    clusters: ArrayLike | None = None,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """BCa bootstrap of a smooth statistic of paired arrays, redrawing rows or whole persons.

    statistic(*arrays) receives the resampled arrays (not weights, so any function will do); arrays share
    their first axis (n, ...). Bias-corrected and accelerated (Efron 1987); the acceleration comes from
    leaving out blocks of units, at most 200 of them. Approximate: below about 30 units it covers too little.
    A statistic that never moves gets zero width. Raises InvalidData on ragged or empty arrays, fewer than 2
    units, or when the statistic is not finite on some resample.

    >>> x = np.random.default_rng(0).normal(size=100)
    >>> i = bootstrap(np.median, [x], rng=np.random.default_rng(1), n_resamples=200)
    >>> i.low < i.value < i.high
    True
    """
    data = [np.asarray(a) for a in arrays]
    if not data or any(a.ndim == 0 or len(a) != len(data[0]) for a in data) or n_resamples < 20:
        raise InvalidData("bootstrap needs arrays of one common length and n_resamples >= 20")
    codes, units = cluster_codes("clusters", clusters, len(data[0]))
    order = np.argsort(codes, kind="stable")
    sizes = np.bincount(codes)
    starts = np.cumsum(sizes) - sizes

    def evaluate(chosen: Ints | None) -> float:
        if chosen is None:
            rows: Ints | slice = slice(None)
        else:  # the rows of each chosen unit, one after the other
            count = sizes[chosen]
            offset = np.repeat(starts[chosen] - np.cumsum(count) + count, count)
            rows = order[offset + np.arange(offset.size)]
        out = float(statistic(*(a[rows] for a in data)))
        if not math.isfinite(out):
            raise InvalidData(f"the statistic is {out} on a resample of {units} units: give more data")
        return out

    value = evaluate(None)
    draws = np.array([evaluate(rng.integers(units, size=units)) for _ in range(n_resamples)])
    blocks = rng.permutation(units) % min(units, 200)
    left_out = np.array([evaluate(np.flatnonzero(blocks != b)) for b in range(min(units, 200))])
    low, high = bca_limits(value, draws, left_out.mean() - left_out, level)
    return Interval(value, low, high, level, units)


# ------------------------------------------------------------------ AUC


def auc(
    positives: ArrayLike,
    negatives: ArrayLike,
    *,
    positive_clusters: ArrayLike | None = None,
    negative_clusters: ArrayLike | None = None,
    level: float = 0.95,
) -> Interval:
    """Area under the ROC curve, ties half, with a logit interval that stays sound at 0 and 1.

    positives (m,), negatives (n,): scores, infinities allowed. Variance by DeLong et al. 1988 in O((m+n) log
    n), by person after Obuchowski 1997 with the covariance of persons on both sides; t quantile at
    Satterthwaite's degrees. With fewer than 10 effective misranked units on either side the limits are
    widened to Newcombe's (2006, method 5). When no pair differs from another (AUC 0 or 1, or all tied) the
    limits are exact: k pairs of distinct persons agreed, so a pair disagrees with probability at most 1 -
    tail^(1/k). Says nothing about low false-positive rates. Raises InvalidData on empty input, NaN, or fewer
    than 2 units a side.

    >>> i = auc([3.0, 4.0, 5.0], [1.0, 2.0, 2.5])
    >>> (i.value, round(i.low, 3), i.high)
    (1.0, 0.292, 1.0)
    >>> auc([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]).value
    0.5
    """
    above, below = placements(numbers("positives", positives), numbers("negatives", negatives))
    value = float(above.mean())
    pool = pool_units(above.size, below.size, positive_clusters, negative_clusters)
    variance, df = two_sample_variance(above - value, below - value, pool)
    units = pool.units
    if variance < ROUNDING:
        slack = 1 - tail_of(level) ** (1 / pool.pairs)
        return Interval(value, value - value * slack, value + (1 - value) * slack, level, units)
    half = t_quantile(level, df) * math.sqrt(variance) / (value * (1 - value))
    odds = math.log(value / (1 - value))
    low, high = expit(odds - half), expit(odds + half)
    sides = ((pool.first, above), (pool.first, 1 - above), (pool.second, below), (pool.second, 1 - below))
    contributors = min(effective_units(codes, share) for codes, share in sides)
    if contributors < _FEW:
        widest = newcombe_limits(value, pool.first_units, pool.second_units, z_quantile(level))
        low, high = min(low, widest[0]), max(high, widest[1])
    return Interval(value, low, high, level, units)


def paired_auc(
    pos_before: ArrayLike,
    neg_before: ArrayLike,
    pos_after: ArrayLike,
    neg_after: ArrayLike,
    *,
    positive_clusters: ArrayLike | None = None,
    negative_clusters: ArrayLike | None = None,
    level: float = 0.95,
) -> Interval:
    """AUC after minus AUC before, for the same units scored twice (DeLong et al. 1988).

    pos_* (m,), neg_* (n,): row i is the same unit before and after. Variance of the difference of the two
    placements, clustered as in `auc`, t quantile, limits cut to [-1, 1]. Where fewer than 10 effective units
    of a side moved, two further units that moved as far as the furthest are counted; where none moved at all
    the limits are the exact ones of `auc`. Raises InvalidData on unequal lengths, empty input, NaN, fewer
    than 2 units a side.

    >>> i = paired_auc([2.0, 1.0, 3.0], [0.0, 1.5, 2.5], [2.0, 3.0, 4.0], [0.0, 1.0, 1.5])
    >>> round(i.value, 4)
    0.3333
    """
    first, second = numbers("pos_before", pos_before), numbers("neg_before", neg_before)
    third, fourth = numbers("pos_after", pos_after), numbers("neg_after", neg_after)
    if first.size != third.size or second.size != fourth.size:
        raise InvalidData(
            "before and after must hold the same units: give scores of equal length, in one order"
        )
    before, after = placements(first, second), placements(third, fourth)
    value = float(after[0].mean()) - float(before[0].mean())
    pool = pool_units(first.size, second.size, positive_clusters, negative_clusters)
    moved = (after[0] - before[0], after[1] - before[1])
    variance, df = two_sample_variance(moved[0] - value, moved[1] - value, pool)
    if variance < ROUNDING:
        slack = 1 - tail_of(level) ** (1 / pool.pairs)
        return Interval(value, value - slack * (1 + value), value + slack * (1 - value), level, pool.units)
    for codes, change in zip((pool.first, pool.second), moved, strict=True):
        if effective_units(codes, change) < _FEW:
            variance += 2 * float(np.abs(np.bincount(codes, change)).max() / change.size) ** 2
    half = t_quantile(level, df) * math.sqrt(variance)
    return Interval(value, max(-1.0, value - half), min(1.0, value + half), level, pool.units)


def paired_mean(
    before: ArrayLike, after: ArrayLike, *, clusters: ArrayLike | None = None, level: float = 0.95
) -> Interval:
    """Mean of after minus before over the same units; 0/1 data never collapses to zero width.

    before, after: finite (n,). 0/1 data: Bonett and Price (2012), the Wald interval with one further unit
    gained and one lost, at the t quantile; by person the two further persons have average (size-weighted)
    size and the variance is the linearised one. Other data: `mean` of the differences, which has zero width
    if all are equal. Raises InvalidData on unequal lengths or fewer than 2 rows or persons.

    >>> i = paired_mean([1, 1, 0, 1], [1, 1, 0, 1])
    >>> (i.value, round(i.high, 2))
    (0.0, 0.75)
    >>> paired_mean([0.5, 0.7, 0.9], [0.4, 0.5, 0.9]).value.__round__(3)
    -0.1
    """
    a, b = numbers("before", before, finite=True), numbers("after", after, finite=True)
    if a.size != b.size:
        raise InvalidData(f"before and after must hold the same units; got {a.size} and {b.size} values")
    change = b - a
    if not (np.isin(a, (0.0, 1.0)).all() and np.isin(b, (0.0, 1.0)).all()):
        return mean(change, clusters=clusters, level=level)
    n, value = change.size, float(change.mean())
    codes, units = cluster_codes("clusters", clusters, n)
    sizes = np.bincount(codes).astype(np.float64)  # (units,)
    m = float(sizes @ sizes) / n
    rows = n + 2 * m
    centre = float(change.sum()) / rows
    sums = np.bincount(codes, change) - centre * sizes
    spread = float(sums @ sums) + m * m * ((1 - centre) ** 2 + (1 + centre) ** 2)
    half = t_quantile(level, units - 1) * math.sqrt(spread) / rows
    low, high = max(-1.0, min(value, centre - half)), min(1.0, max(value, centre + half))
    return Interval(value, low, high, level, units)


def difference(first: Interval, second: Interval) -> Interval:
    """First minus second of two independent estimates, from their own limits.

    Lower limit d - sqrt((first - first.low)^2 + (second.high - second)^2) and its mirror (Newcombe 1998, method 10;
    MOVER, Zou and Donner 2008). Keeps the skewness of both; too wide where the two are positively correlated. `n`
    is the smaller one. Raises InvalidData on different levels.

    >>> i = difference(clopper_pearson(20, 100), clopper_pearson(10, 100))
    >>> (round(i.value, 3), round(i.low, 3), round(i.high, 3))
    (0.1, -0.006, 0.205)
    """
    if first.level != second.level:
        raise InvalidData(f"a difference needs intervals of one level; got {first.level} and {second.level}")
    value = first.value - second.value
    low = value - math.hypot(first.value - first.low, second.high - second.value)
    high = value + math.hypot(first.high - first.value, second.value - second.low)
    return Interval(value, low, high, first.level, min(first.n, second.n))


def over_models(value: float, people: Interval, models: ArrayLike, *, share: tuple[int, int]) -> Interval:
    """A share's mean over models that were trained on parts of one pool of people: both vary.

    people: the interval around `value` with the models held fixed. models (K,): the value of each, in blocks of b,
    for `share` = (a, b): the pool was dealt into b parts, each model of a block trained on a of them. What people do
    to each other through training is common to all models of a pool and no spread of blocks shows it; the spread
    within blocks does: if parts act additively with variance w, its expectation V is w (b - a) / (a (b - 1)), and
    the mean varies by w / b = V a (b - 1) / (b (b - a)). That is at least the noise of training, V / K, from two
    blocks on. Both variances are added, each limit on its own, the second on the log-odds (models differ less where a
    share is near 0 or 1: on the share itself a pool that lies high would look sure of it) at Student's t with
    K / b (b - 1) degrees: conservative, since people that are easily recognised stand in both (up to three times too
    wide for an AUC of models that hardly differ). Raises InvalidData on fewer than two whole blocks, or values that
    are not finite.

    >>> i = over_models(0.5, clopper_pearson(50, 100), [0.4, 0.6, 0.45, 0.55], share=(1, 2))
    >>> (round(i.low, 3), i.value, i.n)
    (0.187, 0.5, 100)
    """
    taken, parts = share
    x = numbers("models", models, finite=True)
    if not 0 < taken < parts or x.size % parts or x.size < 2 * parts:
        raise InvalidData(
            f"a mean over models needs two or more whole blocks of {parts}; got {x.size} models"
        )
    blocks = x.reshape(-1, parts)
    within = float(blocks.var(axis=1, ddof=1).mean()) * taken * (parts - 1) / (parts * (parts - taken))
    half = t_quantile(people.level, len(blocks) * (parts - 1)) * math.sqrt(within)
    low, high = value - half, value + half
    if 0 < value < 1:
        odds, half = math.log(value / (1 - value)), half / (value * (1 - value))
        low, high = expit(odds - half), expit(odds + half)
    low = value - math.hypot(people.value - people.low, value - low)
    high = value + math.hypot(people.high - people.value, high - value)
    return Interval(value, max(0.0, low), min(1.0, high), people.level, people.n)


# ------------------------------------------------------------------ thresholds and ROC curves


def step_threshold(calibration: ArrayLike, fpr: float) -> float:
    """The smallest threshold t with mean(calibration > t) <= fpr; flag what scores above it, never at it.

    calibration: scores (n,). Ties stand or fall as one block and nothing is interpolated, so the realised
    rate on the calibration scores never exceeds fpr. Minus infinity where every score may be flagged. Raises
    InvalidData on empty input, NaN, or fpr outside [0, 1].

    >>> step_threshold([0.1, 0.2, 0.3, 0.4], 0.25)
    0.3
    >>> step_threshold([0.1, 0.4, 0.4, 0.4], 0.5)
    0.4
    """
    scores = numbers("calibration", calibration)
    allowed = allowed_above(scores.size, fpr)
    if allowed == scores.size:
        return -math.inf
    place = scores.size - 1 - allowed  # in increasing order
    return float(np.partition(scores, place)[place])


def tpr_at_fpr(
    members: ArrayLike,
    calibration: ArrayLike,
    *,
    fpr: float,
    rng: np.random.Generator,
    member_clusters: ArrayLike | None = None,
    calibration_clusters: ArrayLike | None = None,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> tuple[Interval, float]:
    """True-positive rate at a threshold fixed on other data, and that threshold.

    members (m,): scores of members. calibration (n,): scores of non-members; several rows a person where they
    come from leave-one-out shadow targets. Threshold: `step_threshold`. The interval is the hull of
    `proportion` at that threshold and a percentile bootstrap that redraws all persons together (a multinomial
    over persons, on both sides), so it holds the noise of the threshold too. It covers the rate at the true
    fpr of the same target, not another target's. Below 10 / fpr calibration persons the threshold itself is
    not resolved: see `resolvable`. Raises InvalidData on empty input, NaN, fpr outside [0, 1], or fewer than
    2 persons a side.

    >>> rng = np.random.default_rng(0)
    >>> i, t = tpr_at_fpr(rng.normal(2, 1, 500), rng.normal(0, 1, 2000), fpr=0.01, rng=rng, n_resamples=200)
    >>> i.low < i.value < i.high, t > 2
    (True, True)
    """
    hits, others = numbers("members", members), numbers("calibration", calibration)
    if n_resamples < 20:
        raise InvalidData(f"n_resamples is {n_resamples}: give at least 20")
    threshold = step_threshold(others, fpr)
    pool = pool_units(hits.size, others.size, member_clusters, calibration_clusters)
    fixed = proportion(hits > threshold, clusters=member_clusters, level=level)
    depth = max(200, int(4 * fpr * others.size))
    while (draws := redraw_rates(hits, others, fpr, pool, depth, n_resamples, rng)) is None:
        depth *= 4  # some redraw needed scores below the kept ones
    low, high = np.nanquantile(draws, [tail_of(level), 1 - tail_of(level)])
    low, high = min(fixed.low, float(low)), max(fixed.high, float(high))
    return Interval(fixed.value, low, high, level, fixed.n), threshold


def resolvable(fpr: float, n_nonmembers: int) -> bool:
    """Whether n non-members (persons) can fix a threshold at this rate: n >= 10 / fpr, 10 expected above it.

    >>> resolvable(0.001, 10_000), resolvable(0.001, 9_999)
    (True, False)
    """
    return n_nonmembers * fpr >= 10 * (1 - 1e-12)


def roc(positives: ArrayLike, negatives: ArrayLike, *, n_points: int = 60, level: float = 0.95) -> Roc:
    """ROC curve at log-spaced false-positive rates for a log-log plot, at most n_points of them.

    Each point is a `step_threshold` on the negatives themselves with its realised rate, the share of
    positives above it and that share's pointwise Clopper-Pearson limits (rows taken as independent, threshold
    as fixed; not a simultaneous band). Rates run from 1/n to 1; rates that ties make unreachable are absent.
    Raises InvalidData on empty input, NaN or n_points < 2.

    >>> roc([1.0, 2.0, 3.0], [0.0, 1.5, 2.5, 0.5], n_points=5).tpr.round(2).tolist()
    [0.67, 1.0, 1.0]
    """
    hits, others = np.sort(numbers("positives", positives)), np.sort(numbers("negatives", negatives))
    if n_points < 2:
        raise InvalidData(f"n_points is {n_points}: give at least 2")
    grid = np.geomspace(1 / others.size, 1.0, n_points)
    allowed = np.array([allowed_above(others.size, min(rate, 1.0)) for rate in grid.tolist()])
    padded = np.concatenate([[-np.inf], others])
    thresholds = padded[others.size - allowed]  # step_threshold of each rate, from one sort
    flagged = others.size - np.searchsorted(others, thresholds, side="right")
    flagged[allowed == others.size] = others.size  # minus infinity flags all, itself included
    _, first = np.unique(flagged, return_index=True)
    first = first[flagged[first] > 0]
    caught = hits.size - np.searchsorted(hits, thresholds[first], side="right")
    caught[allowed[first] == others.size] = hits.size
    limits = np.array([beta_limits(int(k), hits.size, level) for k in caught]).reshape(-1, 2)
    return Roc(flagged[first] / others.size, caught / hits.size, limits[:, 0], limits[:, 1])


# ------------------------------------------------------------------ ranks and permutation importance


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation of two columns (n,), ties by midranks; no interval.

    Raises InvalidData on unequal lengths, NaN, or a constant column.

    >>> spearman([1.0, 2.0, 3.0, 4.0], [1.0, 8.0, 27.0, 64.0])
    1.0
    """
    x, y = numbers("a", a), numbers("b", b)
    if x.size != y.size:
        raise InvalidData(f"spearman needs two columns of one length; got {x.size} and {y.size}")
    u, v = (count_below(column, np.sort(column)) for column in (x, y))
    u, v = u - u.mean(), v - v.mean()
    scale = math.sqrt(float(u @ u) * float(v @ v))
    if scale == 0:
        raise InvalidData("spearman needs columns that vary; one is constant")
    return max(-1.0, min(1.0, float(u @ v) / scale))


def spearman_limits(value: float, columns: int, level: float = 0.95) -> tuple[float, float]:
    """Limits of a Spearman correlation over few columns, with the columns as the sample (Fieller et al. 1957).

    atanh(value) has variance 1.06 / (columns - 3); with fewer than 4 columns anything is possible. One or minus
    one stands for the nearest order that is different, so that few columns in the same order by chance do not
    look certain. Raises InvalidData if value is not between -1 and 1.

    >>> [round(limit, 2) for limit in spearman_limits(0.5, 20)]
    [0.06, 0.78]
    """
    if not -1 <= value <= 1:
        raise InvalidData(f"a correlation lies between -1 and 1; got {value}")
    if columns < 4:
        return -1.0, 1.0
    most = 1 - 12 / (columns * (columns**2 - 1))  # two neighbours changed places
    centre, half = (
        math.atanh(max(-most, min(most, value))),
        z_quantile(level) * math.sqrt(1.06 / (columns - 3)),
    )
    return min(value, math.tanh(centre - half)), max(value, math.tanh(centre + half))


def donor_mean(
    changes: ArrayLike, donors: ArrayLike, *, clusters: ArrayLike | None = None, level: float = 0.95
) -> Interval:
    """Mean change when records receive a column from donor records, as permutation importance does.

    changes (R, n): loss change of record i in repeat r. donors (R, n): the record whose value it received.
    Every entry involves two persons, so the variance is the dyadic one (Fafchamps and Gubert 2007; Aronow et
    al. 2015): sum over persons of (residuals they take part in)^2, less what pairs of persons are counted
    twice. That equals (Var(h1 + h2) + Var(rest) / R) / n of the two projections h1, h2 with no inflation from
    a finite R. Never below the variance of independent pairs; t quantile, G - 1 degrees. Covers the
    importance over the population of records for this model, not over retrained models. Raises InvalidData on
    other shapes or fewer than 2 persons.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=400)
    >>> donors = np.array([rng.permutation(400) for _ in range(5)])
    >>> i = donor_mean((x - x[donors]) ** 2, donors)
    >>> i.low < 2.0 < i.high
    True
    """
    c, d = np.asarray(changes, dtype=np.float64), np.asarray(donors)
    shaped = c.ndim == 2 and c.shape == d.shape and c.size > 0 and d.dtype.kind in "iu"
    if not shaped or not np.isfinite(c).all():
        raise InvalidData(f"give finite changes and donor rows, both (R, n); got {c.shape} and {d.shape}")
    if d.min() < 0 or d.max() >= c.shape[1]:
        raise InvalidData(f"donors must be rows 0 to {c.shape[1] - 1}; got {d.min()} to {d.max()}")
    codes, units = cluster_codes("clusters", clusters, c.shape[1])
    value = float(c.mean())
    residual = (c - value).ravel()
    receiver, donor = np.broadcast_to(codes, c.shape).ravel(), codes[d].ravel()
    apart = receiver != donor
    taking_part = np.bincount(receiver, residual, units) + np.bincount(donor[apart], residual[apart], units)
    pair = np.minimum(receiver, donor) * units + np.maximum(receiver, donor)
    _, pair = np.unique(pair, return_inverse=True)
    pair_sums = np.bincount(pair, residual)
    twice = np.bincount(pair, apart) > 0
    total = float(taking_part @ taking_part) - float((pair_sums[twice] ** 2).sum())
    variance = units / (units - 1) * max(total, float(pair_sums @ pair_sums)) / c.size**2
    half = t_quantile(level, units - 1) * math.sqrt(variance)
    return Interval(value, value - half, value + half, level, units)
