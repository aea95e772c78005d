# SPDX-License-Identifier: Apache-2.0
"""core/stats.py against scipy, scikit-learn, statsmodels and plain double loops."""

import math
import subprocess
import sys
import time

import numpy as np
import pytest
from scipy.stats import beta, binomtest, rankdata, spearmanr, t
from scipy.stats import bootstrap as scipy_bootstrap
from sklearn.metrics import roc_auc_score
from statsmodels.api import OLS

from casemate.core import stats
from casemate.core.errors import InvalidData


def limits(interval):
    return np.array([interval.low, interval.high])


def by_hand(interval):
    return np.array([interval.value, interval.low, interval.high])


# ------------------------------------------------------------------ proportions and means


@pytest.mark.parametrize("level", [0.8, 0.95, 0.999])
@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 40), (40, 40), (3, 17), (500, 100_000)])
def test_binomial_intervals_equal_scipys(k, n, level):
    for ours, method in ((stats.clopper_pearson, "exact"), (stats.wilson, "wilson")):
        theirs = binomtest(k, n).proportion_ci(level, method=method)
        np.testing.assert_allclose(limits(ours(k, n, level=level)), [theirs.low, theirs.high], atol=1e-9)


def test_proportion_of_rows_is_clopper_pearson():
    hits = np.arange(50) < 7
    assert stats.proportion(hits) == stats.clopper_pearson(7, 50)


@pytest.mark.parametrize("hit_rows", [0, 100])
def test_proportion_without_contrast_counts_people_not_rows(hit_rows):
    people = np.repeat(np.arange(20), 5)
    found = stats.proportion(np.arange(100) < hit_rows, clusters=people)
    few, many = stats.clopper_pearson(hit_rows // 5, 20), stats.clopper_pearson(hit_rows, 100)
    assert found.n == 20
    assert found.low <= few.low + 1e-12
    assert found.high >= few.high - 1e-12
    assert found.high - found.low > 3 * (many.high - many.low)


def test_proportion_equals_korn_and_graubard_by_hand():
    people = np.repeat(np.arange(6), [2, 4, 4, 4, 4, 6])
    hits = np.isin(np.arange(24), [0, 2, 3, 4, 10, 11, 14, 18, 19, 20, 21, 22])
    size = sum(n * n for n in (2, 4, 4, 4, 4, 6)) / 24  # of each of the two added persons
    total, share = 24 + 2 * size, (12 + size) / (24 + 2 * size)
    sums = [(hits[people == g] - share).sum() for g in range(6)] + [size * (1 - share), -size * share]
    variance = 8 / 7 * sum(e * e for e in sums) / total**2
    effective = min(24, 24 * share * (1 - share) / (total - 1) / variance)
    effective *= (t.ppf(0.975, 23) / t.ppf(0.975, 5)) ** 2
    k = effective / 2
    expected = beta.ppf([0.025, 0.975], [k, k + 1], [effective - k + 1, effective - k])
    np.testing.assert_allclose(limits(stats.proportion(hits, clusters=people)), expected, rtol=1e-9)


def test_proportion_where_every_person_is_alike_is_that_of_the_people():
    persons, rows = 400, 5
    hit = np.arange(persons) < 120
    found = stats.proportion(np.repeat(hit, rows), clusters=np.repeat(np.arange(persons), rows))
    np.testing.assert_allclose(limits(found), limits(stats.clopper_pearson(120, persons)), atol=0.002)


def test_mean_equals_least_squares_with_cluster_robust_errors():
    rng = np.random.default_rng(0)
    people = rng.integers(25, size=200)
    y = rng.normal(size=200) + rng.normal(size=25)[people]
    plain = OLS(y, np.ones(200)).fit().conf_int()[0]
    robust = OLS(y, np.ones(200)).fit(cov_type="cluster", cov_kwds={"groups": people}, use_t=True)
    # statsmodels also multiplies by (n - 1) / (n - k), which is 1 here
    np.testing.assert_allclose(limits(stats.mean(y)), plain, rtol=1e-9)
    np.testing.assert_allclose(limits(stats.mean(y, clusters=people)), robust.conf_int()[0], rtol=1e-9)


# ------------------------------------------------------------------ AUC


def delong_by_loops(pos, neg):
    """AUC, components and covariance by the double loop of DeLong et al. 1988."""
    psi = np.array([[1.0 if p > q else 0.5 if p == q else 0.0 for q in neg] for p in pos])
    return psi.mean(), psi.mean(axis=1), psi.mean(axis=0)


def tied_scores(rng, m, n):
    return rng.integers(0, 12, m) / 4 + 0.5, rng.integers(0, 12, n) / 4


@pytest.mark.parametrize("seed", range(5))
def test_auc_equals_delong_by_loops(seed):
    pos, neg = tied_scores(np.random.default_rng(seed), 40, 55)
    value, above, below = delong_by_loops(pos, neg)
    variance = above.var(ddof=1) / 40 + below.var(ddof=1) / 55
    df = variance**2 / ((above.var(ddof=1) / 40) ** 2 / 39 + (below.var(ddof=1) / 55) ** 2 / 54)
    half = t.ppf(0.975, df) * math.sqrt(variance) / (value * (1 - value))
    logit = math.log(value / (1 - value))
    expected = [value, *(1 / (1 + np.exp(-(logit + np.array([-half, half])))))]
    np.testing.assert_allclose(by_hand(stats.auc(pos, neg)), expected, rtol=0, atol=1e-12)
    labels = np.repeat([1, 0], [40, 55])
    assert stats.auc(pos, neg).value == pytest.approx(
        roc_auc_score(labels, np.concatenate([pos, neg])), abs=1e-12
    )


def test_clustered_auc_equals_obuchowski_by_loops():
    rng = np.random.default_rng(3)
    pos, neg = tied_scores(rng, 60, 70)
    people, others = rng.integers(30, size=60), rng.integers(10, 40, size=70)
    value, above, below = delong_by_loops(pos, neg)
    everyone = sorted(set(people.tolist()) | set(others.tolist()))
    a = np.array([(above[people == g] - value).sum() for g in everyone])
    b = np.array([(below[others == g] - value).sum() for g in everyone])
    m, n, g = len(set(people.tolist())), len(set(others.tolist())), len(everyone)
    s10, s01 = m / (m - 1) * (a @ a) / 60**2, n / (n - 1) * (b @ b) / 70**2
    variance = s10 + s01 + 2 * g / (g - 1) * (a @ b) / (60 * 70)
    found = stats.auc(pos, neg, positive_clusters=people, negative_clusters=others)
    df = min((s10 + s01) ** 2 / (s10**2 / (m - 1) + s01**2 / (n - 1)), g - 1)
    width = math.log(found.high / (1 - found.high)) - math.log(found.low / (1 - found.low))
    assert width == pytest.approx(
        2 * t.ppf(0.975, df) * math.sqrt(variance) / (value * (1 - value)), rel=1e-9
    )
    assert found.n == g


def test_paired_auc_equals_delong_by_loops():
    rng = np.random.default_rng(5)
    pos, neg = rng.normal(1, 1, 30), rng.normal(0, 1, 45)
    after = pos + rng.normal(size=30), neg + rng.normal(size=45)
    old, new = delong_by_loops(pos, neg), delong_by_loops(*after)
    value = new[0] - old[0]
    s10, s01 = (new[1] - old[1]).var(ddof=1) / 30, (new[2] - old[2]).var(ddof=1) / 45
    half = t.ppf(0.975, (s10 + s01) ** 2 / (s10**2 / 29 + s01**2 / 44)) * math.sqrt(s10 + s01)
    expected = [value, value - half, value + half]
    np.testing.assert_allclose(by_hand(stats.paired_auc(pos, neg, *after)), expected, atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_auc_without_contrast_has_the_exact_width(value):
    pos, neg = np.full(30, value), np.full(40, 0.5)
    found = stats.auc(pos, neg)
    slack = 1 - 0.025 ** (1 / 30)
    np.testing.assert_allclose(by_hand(found), [value, value - value * slack, value + (1 - value) * slack])
    same = stats.paired_auc(pos, neg, pos, neg)
    np.testing.assert_allclose(by_hand(same), [0.0, -slack, slack], atol=1e-12)


def test_one_misranked_pair_is_nearly_as_uncertain_as_none():
    neg = np.arange(50.0)
    none, one = stats.auc(neg + 100, neg), stats.auc(np.append(neg[1:] + 100, 48.5), neg)
    assert one.value < 1
    assert 1 - one.low > 0.5 * (1 - none.low)


def test_auc_is_symmetric_and_takes_infinities():
    rng = np.random.default_rng(1)
    pos, neg = np.append(rng.normal(1, 1, 30), [np.inf, -np.inf]), np.append(rng.normal(size=40), -np.inf)
    there, back = stats.auc(pos, neg), stats.auc(neg, pos)
    np.testing.assert_allclose(by_hand(there), 1 - by_hand(back)[[0, 2, 1]], atol=1e-12)


# ------------------------------------------------------------------ clusters


def clustered_estimators(rng, n):
    """name -> function of (rows to use, clusters or None) for every estimator that takes clusters."""
    hits, x = rng.random(n) < 0.3, rng.normal(size=n)
    pos, neg, later = rng.normal(1, 1, n), rng.normal(size=n), rng.normal(1, 1, n)
    donors = rng.permutation(n)
    flips = hits ^ (rng.random(n) < 0.2)

    def sides(rows, clusters):
        other = None if clusters is None else clusters + 10 * n
        return pos[rows], neg[rows], {"positive_clusters": clusters, "negative_clusters": other}

    def auc(rows, clusters):
        a, b, keywords = sides(rows, clusters)
        return stats.auc(a, b, **keywords)

    def paired_auc(rows, clusters):
        a, b, keywords = sides(rows, clusters)
        return stats.paired_auc(a, b, later[rows], b, **keywords)

    def tpr(rows, clusters):
        a, b, keywords = sides(rows, clusters)
        codes = {"member_clusters": clusters, "calibration_clusters": keywords["negative_clusters"]}
        return stats.tpr_at_fpr(a, b, fpr=0.1, rng=np.random.default_rng(0), **codes)[0]

    return {
        "proportion": lambda rows, c: stats.proportion(hits[rows], clusters=c),
        "mean": lambda rows, c: stats.mean(x[rows], clusters=c),
        "paired 0/1": lambda rows, c: stats.paired_mean(hits[rows], flips[rows], clusters=c),
        "paired": lambda rows, c: stats.paired_mean(x[rows], later[rows], clusters=c),
        "bootstrap": lambda rows, c: stats.bootstrap(
            np.mean, [x[rows]], clusters=c, rng=np.random.default_rng(0), n_resamples=200
        ),
        "auc": auc,
        "paired_auc": paired_auc,
        "tpr": tpr,
        "donor": lambda rows, c: stats.donor_mean(
            (x[rows] - x[donors][rows])[None] ** 2, np.searchsorted(rows, donors[rows])[None], clusters=c
        ),
    }


NAMES = sorted(clustered_estimators(np.random.default_rng(0), 10))


@pytest.mark.parametrize("name", NAMES)
def test_people_of_one_row_each_change_nothing(name):
    rng = np.random.default_rng(2)
    estimate = clustered_estimators(rng, 80)[name]
    rows = np.arange(80)
    shuffled_names = rng.permutation(80) * 7 + 3 if name not in {"bootstrap", "tpr"} else rows
    plain, clustered = estimate(rows, None), estimate(rows, shuffled_names)
    np.testing.assert_allclose(by_hand(clustered), by_hand(plain), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_copies_of_rows_under_one_person_are_no_evidence(name):
    estimate = clustered_estimators(np.random.default_rng(4), 80)[name]
    rows = np.repeat(np.arange(80), 5)
    once, copied = estimate(np.arange(80), None), estimate(rows, rows)
    width, copied_width = once.high - once.low, copied.high - copied.low
    assert copied.value == pytest.approx(once.value, abs=1e-12)
    assert copied_width > (0.9 if name in {"bootstrap", "tpr"} else 0.985) * width  # resampling noise only
    assert copied_width < 1.15 * width


# ------------------------------------------------------------------ pairs, bootstrap


def test_paired_binary_equals_bonett_and_price_by_hand():
    before = np.repeat([1, 1, 0, 0], [40, 12, 5, 43])
    after = np.repeat([1, 0, 1, 0], [40, 12, 5, 43])
    up, down = 6 / 102, 13 / 102
    half = t.ppf(0.975, 99) * math.sqrt((up + down - (up - down) ** 2) / 102)
    expected = [-0.07, up - down - half, up - down + half]
    np.testing.assert_allclose(by_hand(stats.paired_mean(before, after)), expected, atol=1e-12)


def test_paired_binary_without_change_keeps_its_width():
    same = np.arange(200) % 2
    found = stats.paired_mean(same, same)
    assert found.value == 0
    assert 2 / 200 < found.high == -found.low < 4 / 200
    by_person = stats.paired_mean(same, same, clusters=np.arange(200) // 10)
    assert by_person.high > 5 * found.high


def test_bootstrap_is_close_to_scipys_bca():
    x = np.random.default_rng(0).exponential(size=80)
    ours = stats.bootstrap(np.mean, [x], rng=np.random.default_rng(1), n_resamples=4000)
    rng = np.random.default_rng(2)
    theirs = scipy_bootstrap((x,), np.mean, n_resamples=4000, rng=rng).confidence_interval
    np.testing.assert_allclose(
        limits(ours), [theirs.low, theirs.high], atol=0.05 * (theirs.high - theirs.low)
    )
    percentile = np.quantile(
        [x[np.random.default_rng(s).integers(80, size=80)].mean() for s in range(4000)], 0.975
    )
    assert ours.high > percentile  # the skew moves the limits up


def test_bootstrap_keeps_rows_of_a_person_and_of_all_arrays_together():
    people = np.repeat(np.arange(10), 3)
    x = np.arange(30.0)
    seen = []

    def check(a, b, names):
        seen.append(np.array_equal(a, -b) and bool((np.bincount(names, minlength=10) % 3 == 0).all()))
        return float(a.mean())

    stats.bootstrap(check, [x, -x, people], clusters=people, rng=np.random.default_rng(0), n_resamples=50)
    assert len(seen) == 61
    assert all(seen)


# ------------------------------------------------------------------ thresholds, ROC, ranks


@pytest.mark.parametrize("fpr", [0.0, 0.01, 0.1, 0.29, 0.3, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("kinds", [2, 7, 1000])
def test_step_threshold_equals_the_search_over_all_scores(kinds, fpr):
    for n in (1, 7, 30, 100):
        scores = np.random.default_rng(n).integers(kinds, size=n) / 8
        candidates = [-math.inf, *np.unique(scores).tolist()]
        expected = min(c for c in candidates if np.mean(scores > c) <= fpr)
        assert stats.step_threshold(scores, fpr) == expected


def test_tpr_at_fpr_value_threshold_and_hull():
    rng = np.random.default_rng(0)
    members, calibration = rng.normal(1, 1, 400), rng.normal(size=3000)
    found, threshold = stats.tpr_at_fpr(members, calibration, fpr=0.05, rng=rng)
    assert threshold == stats.step_threshold(calibration, 0.05)
    fixed = stats.proportion(members > threshold)
    assert found.value == fixed.value
    assert found.low <= fixed.low
    assert found.high >= fixed.high
    assert found.n == 400


def test_tpr_at_fpr_flags_what_scores_above_the_threshold_and_not_at_it():
    members, calibration = np.repeat([0.0, 1.0, 2.0], [5, 7, 3]), np.repeat([0.0, 1.0, 2.0], [80, 19, 1])
    found, threshold = stats.tpr_at_fpr(members, calibration, fpr=0.05, rng=np.random.default_rng(0))
    assert (threshold, found.value) == (1.0, 3 / 15)
    found, threshold = stats.tpr_at_fpr(members, calibration, fpr=0.2, rng=np.random.default_rng(0))
    assert (threshold, found.value) == (0.0, 10 / 15)


@pytest.mark.parametrize("fpr", [0.02, 0.3])
def test_keeping_only_top_scores_redraws_as_the_plain_bootstrap_does(fpr):
    from casemate.core._sampling import pool_units, redraw_rates

    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(150), rng.integers(1, 9, 150))
    scores = np.round(rng.normal(size=150)[people] + rng.normal(size=people.size), 1)
    own = np.arange(60)
    hits = np.round(1 + rng.normal(size=60), 1)
    pool = pool_units(60, people.size, own, people)
    fast = redraw_rates(hits, scores, fpr, pool, 100 if fpr < 0.1 else 600, 3000, rng)
    plain = np.empty(3000)
    for r in range(3000):
        weight = np.bincount(rng.integers(150, size=150), minlength=150)
        threshold = stats.step_threshold(np.repeat(scores, weight[people]), fpr)
        plain[r] = np.average(hits > threshold, weights=weight[own])
    assert fast is not None
    # Two samples of one distribution: within 5 standard errors (5.7e-7), the spread's for a kurtosis up to 6.
    assert abs(fast.mean() - plain.mean()) < 5 * plain.std() * math.sqrt(2 / 3000)
    assert abs(fast.std() / plain.std() - 1) < 5 * math.sqrt(2 / 6000) * 1.5


def test_tpr_at_fpr_counts_calibration_people_and_not_their_rows():
    rng = np.random.default_rng(0)
    base = rng.normal(size=300)
    members = rng.normal(1.5, 1, 20_000)
    rows = np.repeat(np.arange(300), 20)
    rng_of = np.random.default_rng
    by_row, _ = stats.tpr_at_fpr(members, base[rows], fpr=0.05, rng=rng_of(1))
    people = {"calibration_clusters": rows}
    by_person, _ = stats.tpr_at_fpr(members, base[rows], fpr=0.05, rng=rng_of(1), **people)
    assert by_person.high - by_person.low > 2.5 * (by_row.high - by_row.low)


def test_tpr_at_fpr_is_fast_and_repeatable():
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(31_250), 16)
    effect = rng.normal(size=31_250)
    calibration = effect[people] + rng.normal(size=500_000)
    members = 1 + effect[:30_000] + rng.normal(size=30_000)
    codes = {"member_clusters": np.arange(30_000), "calibration_clusters": people}

    def measure():
        return stats.tpr_at_fpr(members, calibration, fpr=0.01, rng=np.random.default_rng(1), **codes)

    start = time.process_time()
    first = measure()
    assert time.process_time() - start < 2
    assert measure() == first


def test_resolvable():
    assert stats.resolvable(0.01, 1000)
    assert not stats.resolvable(0.01, 999)
    assert stats.resolvable(0.001, 10_000)


def test_roc_points_follow_the_step_rule():
    rng = np.random.default_rng(0)
    pos, neg = rng.integers(0, 40, 200) / 8 + 1, rng.integers(0, 40, 500) / 8
    curve = stats.roc(pos, neg)
    assert 5 < curve.fpr.size <= 60
    assert (np.diff(curve.fpr) > 0).all()
    assert curve.fpr[-1] == curve.tpr[-1] == 1
    rates = [np.mean(neg > stats.step_threshold(neg, rate)) for rate in np.geomspace(1 / 500, 1, 60)]
    assert set(curve.fpr) == set(rates) - {0}
    for fpr, tpr, low, high in zip(*curve, strict=True):
        threshold = stats.step_threshold(neg, fpr)
        assert np.mean(neg > threshold) == fpr
        assert np.mean(pos > threshold) == tpr
        exact = stats.clopper_pearson(round(tpr * 200), 200)
        assert (low, high) == (exact.low, exact.high)


def test_roc_of_tied_scores_is_its_one_reachable_point():
    assert stats.roc(np.zeros(5), np.zeros(8)).fpr.tolist() == [1.0]
    separated = stats.roc(np.ones(20), np.zeros(50))
    assert separated.fpr.tolist() == [1.0]


def test_spearman_equals_scipys_with_ties():
    rng = np.random.default_rng(0)
    a = rng.integers(6, size=90).astype(float)
    b = a + rng.integers(5, size=90)
    assert stats.spearman(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
    assert rankdata(a).mean() == 45.5
    with pytest.raises(InvalidData, match="constant"):
        stats.spearman(a, np.ones(90))


def test_few_columns_in_the_same_order_are_not_certain():
    assert stats.spearman_limits(0.2, 3) == (-1.0, 1.0)
    low, high = stats.spearman_limits(1.0, 6)
    assert high == 1.0 and 0.4 < low < 0.8  # at random they agree once in 720
    assert stats.spearman_limits(-1.0, 6) == (-high, -low)
    # Fieller: atanh(r) with variance 1.06 / (n - 3)
    low, high = stats.spearman_limits(0.3, 50)
    np.testing.assert_allclose(np.arctanh([low, high]) - np.arctanh(0.3), [-0.2943, 0.2943], atol=1e-4)


# ------------------------------------------------------------------ donors


def dyadic_by_loops(changes, donors, people):
    """Sum of products of residuals over all pairs of entries with a person in common."""
    residual = (changes - changes.mean()).ravel()
    takes = [{people[i], people[d]} for row in donors for i, d in enumerate(row)]
    total = sum(
        residual[e] * residual[f] for e in range(len(takes)) for f in range(len(takes)) if takes[e] & takes[f]
    )
    return total / residual.size**2


@pytest.mark.parametrize("rows_each", [1, 2])
def test_donor_mean_equals_the_dyadic_sum(rows_each):
    rng = np.random.default_rng(1)
    n = 24
    people = np.arange(n) // rows_each
    units = n // rows_each
    x = rng.normal(size=n)
    donors = np.array([rng.permutation(n) for _ in range(3)])
    changes = (x - x[donors]) ** 2 + rng.normal(size=(3, n)) / 10
    found = stats.donor_mean(changes, donors, clusters=people)
    variance = units / (units - 1) * dyadic_by_loops(changes, donors, people)
    assert found.value == pytest.approx(changes.mean())
    assert found.high - found.value == pytest.approx(t.ppf(0.975, units - 1) * math.sqrt(variance), rel=1e-9)


def test_donor_mean_is_wider_than_the_mean_of_receivers_alone():
    rng = np.random.default_rng(0)
    x = rng.normal(size=300)
    donors = np.array([rng.permutation(300) for _ in range(20)])
    changes = np.broadcast_to(x**2, (20, 300))[np.arange(20)[:, None], donors]  # only the donor matters
    found = stats.donor_mean(changes, donors)
    receivers = stats.mean(changes.mean(axis=0))
    truth = stats.mean(x**2)
    assert found.high - found.low == pytest.approx(truth.high - truth.low, rel=0.15)
    assert found.high - found.low > 2 * (receivers.high - receivers.low)


# ------------------------------------------------------------------ refusals


RNG = np.random.default_rng(0)
TWO = np.array([0.0, 1.0])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: stats.clopper_pearson(3, 2), "3 of 2"),
        (lambda: stats.wilson(0, 0), "n >= 1"),
        (lambda: stats.clopper_pearson(1, 2, level=95), "level is 95"),
        (lambda: stats.proportion([]), "at least one"),
        (lambda: stats.proportion([0.2, 0.4]), "true or false"),
        (lambda: stats.proportion([True, False], clusters=[5, 5]), "at least 2"),
        (lambda: stats.proportion([True, False], clusters=[0.5, 1.5]), "whole numbers"),
        (lambda: stats.mean([1.0]), "at least 2"),
        (lambda: stats.mean([1.0, math.nan]), "missing"),
        (lambda: stats.mean([1.0, math.inf]), "not finite"),
        (lambda: stats.mean(["a", "b"]), "must be numbers"),
        (lambda: stats.mean(np.zeros((2, 2))), "flat"),
        (lambda: stats.auc([1.0], TWO), "at least 2"),
        (lambda: stats.auc(TWO, [math.nan, 1.0]), "negatives"),
        (lambda: stats.auc(TWO, TWO, positive_clusters=[1]), "2 whole numbers"),
        (lambda: stats.paired_mean(TWO, [1.0]), "2 and 1"),
        (lambda: stats.paired_auc(TWO, TWO, TWO, [1.0, 2.0, 3.0]), "same units"),
        (lambda: stats.step_threshold([], 0.1), "at least one"),
        (lambda: stats.step_threshold(TWO, 1.5), "fpr is 1.5"),
        (lambda: stats.tpr_at_fpr(TWO, [0.0], fpr=0.1, rng=RNG), "at least 2"),
        (lambda: stats.tpr_at_fpr(TWO, TWO, fpr=-0.1, rng=RNG), "fpr is -0.1"),
        (lambda: stats.tpr_at_fpr(TWO, TWO, fpr=0.1, rng=RNG, n_resamples=1), "at least 20"),
        (lambda: stats.roc(TWO, [math.nan]), "negatives"),
        (lambda: stats.roc(TWO, TWO, n_points=1), "n_points is 1"),
        (lambda: stats.spearman(TWO, [1.0]), "one length"),
        (lambda: stats.spearman_limits(math.nan, 9), "between -1 and 1; got nan"),
        (lambda: stats.bootstrap(np.mean, [TWO, [1.0]], rng=RNG), "common length"),
        (lambda: stats.bootstrap(lambda _: math.nan, [TWO], rng=RNG), "not finite|is nan"),
        (lambda: stats.donor_mean(np.zeros((2, 3)), np.zeros((2, 3))), "donor rows"),
        (lambda: stats.donor_mean(np.zeros((1, 3)), np.array([[0, 1, 3]])), "rows 0 to 2"),
        (lambda: stats.donor_mean(np.full((1, 3), np.nan), np.array([[0, 1, 2]])), "finite"),
    ],
)
def test_bad_input_is_refused_in_one_clear_line(call, says):
    with pytest.raises(InvalidData, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_import_loads_no_scipy():
    code = "import sys, casemate.core.stats; sys.exit(any(m.split('.')[0] == 'scipy' for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_difference_is_newcombes_published_example() -> None:
    """56/70 against 48/80 with Wilson limits, method 10 (Newcombe 1998, Table II): .0524 to .3339."""
    found = stats.difference(stats.wilson(56, 70), stats.wilson(48, 80))
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert found.n == 70
    mirrored = stats.difference(stats.wilson(48, 80), stats.wilson(56, 70))
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))
    with pytest.raises(InvalidData, match="one level"):
        stats.difference(stats.wilson(1, 2), stats.wilson(1, 2, level=0.9))
