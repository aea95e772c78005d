# SPDX-License-Identifier: Apache-2.0
"""The likelihood ratio: densities against scipy, the optimum on simulated data, leave-out scores against a loop."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats as st
from sklearn.tree import DecisionTreeClassifier

import casemate as cm
from casemate.core import harness, stats
from casemate.core.run import Run
from casemate.privacy.methods.lira import BlockSums, Moments, lira, log_density, log_ratio, score_bank
from casemate.privacy.shadow import ShadowBank, design

rng = np.random.default_rng(0)


def moments(values: np.ndarray, mask: np.ndarray) -> Moments:
    """Moments of columns, one at a time: the slow way."""
    columns = [values[mask[:, i], i] for i in range(values.shape[1])]
    return Moments(
        np.array([len(c) for c in columns]),
        np.array([c.mean() if len(c) else 0.0 for c in columns]),
        np.array([((c - c.mean()) ** 2).sum() if len(c) else 0.0 for c in columns]),
    )


def simulated(
    n: int, n_shadows: int, rate: Fraction = Fraction(1, 2), seed: int = 0
) -> tuple[ShadowBank, np.ndarray]:
    """Gaussians of known means and unequal spreads, and the optimal log ratio of the target's answers."""
    draw = np.random.default_rng(seed)
    spread = draw.uniform(0.3, 3.0, n)
    out_mean, gap = draw.normal(0, 5, n), draw.uniform(0.0, 2.0, n) * spread
    inside = design(Run(card=lira.card, seed=seed), n, rate, n_shadows)
    member = draw.random(n) < 0.5
    phi = out_mean + gap * inside + spread * draw.normal(size=(n_shadows, n))
    own = out_mean + gap * member + spread * draw.normal(size=n)
    best = st.norm.logpdf(own, out_mean + gap, spread) - st.norm.logpdf(own, out_mean, spread)
    bank = ShadowBank(
        phi=phi,
        inside=inside,
        usable=np.ones_like(inside),
        target_phi=own,
        member=member,
        unit=np.arange(n),
        ids=None,
        people=False,
        in_rate=rate,
        floor=None,
        n_trained=n // 2,
        n_members=n // 2,
    )
    return bank, best


@pytest.mark.parametrize("prior", [0.0, 4.0, 37.5])
def test_density_is_scipys_student_t(prior: float) -> None:
    seen = Moments(np.array([1, 2, 8, 100]), np.array([0.0, -3.0, 4.0, 1.0]), np.array([0.4, 2.0, 9.0, 55.0]))
    phi = np.array([0.1, 40.0, -60.0, 1.2])
    s2 = (prior * 0.7 + seen.squares) / (prior + seen.count)
    expected = st.t.logpdf(phi, prior + seen.count, seen.mean, np.sqrt(s2 * (1 + 1 / seen.count)))
    assert log_density(phi, seen, 0.7, prior) == pytest.approx(expected, rel=1e-12)


def test_infinite_prior_is_scipys_normal_and_the_limit_of_large_ones() -> None:
    seen = Moments(np.array([1, 2, 8]), np.array([0.0, -3.0, 4.0]), np.array([0.0, 2.0, 9.0]))
    phi = np.array([0.1, 2.0, -6.0])
    fixed = log_density(phi, seen, 0.7, math.inf)
    expected = st.norm.logpdf(phi, seen.mean, np.sqrt(0.7 * (1 + 1 / seen.count)))
    assert fixed == pytest.approx(expected, rel=1e-12)
    assert log_density(phi, seen, 0.7, 1e9) == pytest.approx(fixed, rel=1e-5)


def test_far_scores_keep_their_order() -> None:
    """A cumulative probability is exactly 1 beyond 8.3 sigma: the log densities go on."""
    phi = np.linspace(9.0, 600.0, 500)
    one = np.ones(500)
    sides = (
        Moments((8 * one).astype(int), 3 * one, 8 * one),
        Moments((8 * one).astype(int), 0 * one, 8 * one),
    )
    assert np.all(np.diff(log_ratio(phi, *sides, (1.0, 1.0), math.inf)) > 0)


@pytest.mark.parametrize("rate", [Fraction(1, 2), Fraction(1, 3), Fraction(3, 4)])
@pytest.mark.parametrize("prior", [0.0, 4.0, math.inf])
def test_leaving_blocks_out_equals_a_plain_loop(rate: Fraction, prior: float) -> None:
    b = rate.denominator
    bank, _ = simulated(50, 4 * b, rate)
    usable = rng.random(bank.phi.shape) > 0.05
    bank = ShadowBank(**{**vars(bank), "usable": usable, "phi": bank.phi + 1e4})  # a large common offset
    target, shadows = score_bank(bank, prior)
    for k in [None, *range(4 * b)]:
        rest = np.ones(4 * b, bool)
        if k is not None:
            rest[k // b * b : (k // b + 1) * b] = False
        sides = [moments(bank.phi, mask & usable & rest[:, None]) for mask in (bank.inside, ~bank.inside)]
        phi = bank.target_phi if k is None else bank.phi[k]
        expected = log_ratio(phi, *sides, (sides[0].pooled(1.0), sides[1].pooled(1.0)), prior)
        found = target if k is None else shadows[k]
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_counts_of_the_references_do_not_tell_who_was_inside() -> None:
    """Constant confidences hold no information; leaving out one shadow, not its block, would give it away."""
    bank, _ = simulated(40, 8)
    flat = ShadowBank(**{**vars(bank), "phi": np.zeros_like(bank.phi), "target_phi": np.zeros(40)})
    for prior in (0.0, 4.0, math.inf):
        target, shadows = score_bank(flat, prior)
        assert np.array_equal(target, np.zeros(40))
        assert np.array_equal(shadows, np.zeros((8, 40)))


def test_a_record_never_seen_on_one_side_scores_zero() -> None:
    bank, _ = simulated(10, 8)
    usable = np.ones_like(bank.inside)
    usable[:, 0] = bank.inside[:, 0]  # never usable outside
    target, shadows = score_bank(ShadowBank(**{**vars(bank), "usable": usable}), 4.0)
    assert target[0] == 0
    assert np.isfinite(shadows).all()
    assert np.isfinite(target).all()


def test_two_blocks_are_enough() -> None:
    for prior in (0.0, 4.0, math.inf):
        for part in score_bank(simulated(30, 4)[0], prior):
            assert np.isfinite(part).all()


def test_pooled_variance_is_the_within_example_one() -> None:
    """Between-example spread (here 100 times larger) must not enter: unbiased for sigma^2 = 4."""
    draw = np.random.default_rng(1)
    phi = draw.normal(0, 200, 5000) + 2 * draw.normal(size=(8, 5000))
    pooled = BlockSums(phi, np.ones_like(phi, bool), 2).moments().pooled(0.0)
    # chi2 of 35,000 degrees: relative sd sqrt(2 / 35000) = .0076; 5 sd is a false-failure rate of 6e-7
    assert pooled == pytest.approx(4.0, rel=5 * 0.0076)


def test_ranking_approaches_the_known_optimum() -> None:
    """20,000 simulated records of unequal spread: with 126 references the AUC is the optimal one to 0.01.

    The AUC of 20,000 records has sd .004; the two rank the same records, so the sd of the difference is far below
    .002 and the margin is over 5 of them.
    """
    bank, best = simulated(20_000, 128)
    found, _ = score_bank(bank, 4.0)
    optimum = stats.auc(best[bank.member], best[~bank.member]).value
    reached = stats.auc(found[bank.member], found[~bank.member]).value
    assert 0.7 < optimum < 0.8
    assert optimum - 0.01 < reached < optimum + 0.01
    assert np.corrcoef(found, best)[0, 1] > 0.93
    fixed, _ = score_bank(bank, math.inf)
    assert (
        stats.auc(fixed[bank.member], fixed[~bank.member]).value < reached
    )  # one variance for all is worse here


def test_records_seen_once_at_most_give_no_nan() -> None:
    bank, _ = simulated(10, 4)
    usable = np.zeros_like(bank.inside)
    usable[:2] = True
    for prior in (0.0, 4.0, math.inf):
        for part in score_bank(ShadowBank(**{**vars(bank), "usable": usable}), prior):
            assert np.isfinite(part).all()


def test_like_repeats_the_shadows_the_clock_allowed_and_the_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quick audit whose clock has run out trains two blocks; ``like=`` repeats them byte by byte."""
    draw = np.random.default_rng(3)
    x, y = draw.normal(size=(120, 3)), draw.integers(2, size=120)
    data = cm.Dataset((x[:60], y[:60]), (x[60:], y[60:]))
    model = DecisionTreeClassifier(random_state=0).fit(x[:60], y[:60])
    monkeypatch.setattr(harness, "QUICK_SECONDS", 0.0)
    first = cm.audit(model, data, methods=["lira"], effort="quick")
    monkeypatch.setattr(harness, "QUICK_SECONDS", 600.0)
    again = cm.audit(model, data, methods=["lira"], like=first)
    free = cm.audit(model, data, methods=["lira"], effort="quick")
    assert [report.methods[0]["params"]["n_shadows"] for report in (first, again, free)] == [4, 4, 16]
    one, two, other = (
        [replace(row, seconds=0.0).to_dict() for row in report.measurements]
        for report in (first, again, free)
    )
    assert one == two
    assert one != other  # ids are random where no report is named
