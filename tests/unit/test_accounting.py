# SPDX-License-Identifier: Apache-2.0
"""The accountant against closed forms: it may only err against us, and only a little."""

from __future__ import annotations

import itertools
import json
import math
import re
import time

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from casemate.core.errors import InvalidData
from casemate.core.types import Note
from casemate.privacy import _bounds, _losses, accounting
from casemate.privacy.accounting import Gaussian
from casemate.privacy.events import (
    ZCDP,
    ApproximateDP,
    DiscreteGaussian,
    DiscreteLaplace,
    Event,
    Laplace,
    Pure,
    Tuned,
    from_json,
    replaced,
    to_json,
)
from casemate.privacy.plan import Plan, told
from casemate.report.catalogue.sayings import in_chinese


def exact_epsilon(mu: float, delta: float) -> float:
    """Balle and Wang 2018, theorem 8, solved for epsilon."""

    def excess(eps: float) -> float:
        return float(ndtr(mu / 2 - eps / mu) - math.exp(eps) * ndtr(-mu / 2 - eps / mu)) - delta

    return float(brentq(excess, 0.0, 60.0, xtol=1e-12))


@pytest.mark.parametrize("mu", [0.05, 0.3, 0.72, 1.5, 4.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8])
def test_one_gaussian_costs_what_the_closed_form_says(mu: float, delta: float) -> None:
    found = accounting.epsilon((Gaussian(noise_multiplier=1 / mu),), delta)
    exact = exact_epsilon(mu, delta) if ndtr(mu / 2) - ndtr(-mu / 2) > delta else 0.0
    assert exact - 1e-9 <= found <= exact * 1.001 + 1e-5


def test_releases_add_up_as_inverse_variances() -> None:
    parts = (
        Gaussian(noise_multiplier=4.0, count=7),
        Gaussian(noise_multiplier=9.0, count=3),
        Gaussian(noise_multiplier=3.0),
    )
    exact = exact_epsilon(math.sqrt(7 / 16 + 3 / 81 + 1 / 9), 1e-6)
    assert exact <= accounting.epsilon(parts, 1e-6) <= exact * 1.001
    assert accounting.epsilon(parts[::-1], 1e-6) == accounting.epsilon(parts, 1e-6)


def test_sampled_and_unsampled_releases_add_up() -> None:
    steps = Gaussian(noise_multiplier=2.0, count=50, rate=0.1)
    alone = accounting.epsilon((steps,), 1e-5)
    beside = accounting.epsilon((steps, Gaussian(noise_multiplier=20.0)), 1e-5)
    assert alone < beside < alone + accounting.epsilon((Gaussian(noise_multiplier=20.0),), 1e-6)
    assert alone < accounting.epsilon((Gaussian(noise_multiplier=2.0, count=50),), 1e-5)


def test_many_sampled_steps_cost_what_another_accountant_certified() -> None:
    """The lower and upper end are prv-accountant's (Gopi et al. 2021); more of them in tests/oracle."""
    found = accounting.epsilon((Gaussian(noise_multiplier=0.6, count=5000, rate=0.004),), 1e-5)
    assert 6.1345 <= found <= 6.3355


@pytest.mark.parametrize("mu", [0.1, 0.7, 2.0])
def test_the_trade_off_curve_of_a_gaussian(mu: float) -> None:
    fpr = np.array([0.0001, 0.001, 0.01, 0.1, 0.3, 0.5, 0.9])
    found = accounting.max_tpr((Gaussian(noise_multiplier=2 / mu, count=4),), fpr)
    exact = ndtr(ndtri(fpr) + mu)
    assert (found >= exact - 1e-12).all()
    np.testing.assert_allclose(found, exact, atol=2e-5, rtol=2e-4)


@pytest.mark.parametrize("rate", [0.01, 0.3])
def test_the_trade_off_curve_of_one_sampled_step(rate: float) -> None:
    """One step is a mixture against a normal: its likelihood ratio rises, so the best test is a threshold."""
    sigma = 0.8
    at = np.linspace(0.5, 3.0, 6)
    fpr = ndtr(-at / sigma)
    tpr = (1 - rate) * fpr + rate * ndtr((1 - at) / sigma)
    found = accounting.max_tpr((Gaussian(noise_multiplier=sigma, rate=rate),), fpr)
    assert (found >= tpr - 1e-12).all()
    low = fpr < 0.05  # there the likelihood ratio is above 1 and the bound is this very test
    np.testing.assert_allclose(found[low], tpr[low], rtol=2e-3)


def test_the_bound_is_a_probability_above_guessing() -> None:
    event = (Gaussian(noise_multiplier=1.0),)
    ends = accounting.max_tpr(event, np.array([0.0, 1.0]))
    assert 0 <= ends[0] < 1e-6 and ends[1] == 1.0
    weak = accounting.max_tpr((Gaussian(noise_multiplier=1e6),), 0.2)
    assert 0.2 <= weak < 0.2001
    assert accounting.max_tpr((Gaussian(noise_multiplier=0.05),), 0.01) > 0.999


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 3.0, 12.0])
def test_calibrated_noise_is_enough_and_hardly_more(epsilon: float) -> None:
    def event(sigma: float) -> accounting.Event:
        return (Gaussian(noise_multiplier=sigma, count=37),)

    sigma = accounting.noise_for_epsilon(event, epsilon=epsilon, delta=1e-5)
    exact = exact_epsilon(math.sqrt(37) / sigma, 1e-5)
    assert exact <= epsilon and exact * (1 - 1e-9) <= accounting.epsilon(event(sigma), 1e-5) <= epsilon
    assert exact_epsilon(math.sqrt(37) / (sigma * 0.998), 1e-5) > epsilon


def sampled(sigma: float) -> accounting.Event:
    return (Gaussian(noise_multiplier=sigma, count=40, rate=0.1),)


def test_calibrated_noise_of_sampled_steps() -> None:
    sigma = accounting.noise_for_epsilon(sampled, epsilon=2.0, delta=1e-5)
    assert accounting.epsilon(sampled(sigma), 1e-5) <= 2.0 < accounting.epsilon(sampled(sigma * 0.998), 1e-5)


def test_sampled_steps_calibrated_to_risk() -> None:
    risk = accounting.noise_for_risk(sampled, max_tpr=0.05, at_fpr=0.01)
    assert accounting.max_tpr(sampled(risk), 0.01) <= 0.05 < accounting.max_tpr(sampled(risk * 0.998), 0.01)


@pytest.mark.parametrize(("tpr", "fpr"), [(0.02, 0.01), (0.5, 0.1), (0.0011, 0.001)])
def test_noise_calibrated_to_risk(tpr: float, fpr: float) -> None:
    sigma = accounting.noise_for_risk(
        lambda noise: (Gaussian(noise_multiplier=noise),), max_tpr=tpr, at_fpr=fpr
    )
    exact = 1 / (ndtri(tpr) - ndtri(fpr))  # Phi(Phi^-1(fpr) + 1 / sigma) = tpr
    assert exact <= sigma <= exact * 1.01


def test_what_makes_no_sense_is_refused() -> None:
    for bad in (
        {"noise_multiplier": 0.0},
        {"noise_multiplier": math.inf},
        {"noise_multiplier": 1.0, "count": 0},
        {"noise_multiplier": 1.0, "count": 1.5},
        {"noise_multiplier": 1.0, "rate": 0.0},
        {"noise_multiplier": 1.0, "rate": 1.1},
        {"noise_multiplier": math.nan},
    ):
        with pytest.raises(InvalidData):
            Gaussian(**bad)  # type: ignore[arg-type]
    one = (Gaussian(noise_multiplier=1.0),)
    for delta in (0.0, 1.0, -1e-5, math.nan):
        with pytest.raises(InvalidData, match="delta"):
            accounting.epsilon(one, delta)
    with pytest.raises(InvalidData, match="without a release"):
        accounting.epsilon((), 1e-5)
    for fpr in (-0.1, 1.2, math.nan):
        with pytest.raises(InvalidData, match="false-alarm"):
            accounting.max_tpr(one, fpr)
    with pytest.raises(InvalidData, match="guessing"):
        accounting.noise_for_risk(lambda s: (Gaussian(noise_multiplier=s),), max_tpr=0.01, at_fpr=0.01)
    with pytest.raises(InvalidData, match="epsilon"):
        accounting.noise_for_epsilon(lambda s: (Gaussian(noise_multiplier=s),), epsilon=-1.0, delta=1e-5)


def two_point(epsilon: float, count: int, delta: float) -> float:
    """Kairouz, Oh and Viswanath 2015, theorem 3.3: ``count`` pure mechanisms, exactly; delta at i losses too many."""
    q = 1 / (1 + math.exp(epsilon))
    p = 1 - q
    ways = [math.comb(count, i) * (p ** (count - i) * q**i) for i in range(count + 1)]
    losses = [(count - 2 * i) * epsilon for i in range(count + 1)]

    def excess(at: float) -> float:
        return (
            sum(way * max(-math.expm1(at - loss), 0.0) for way, loss in zip(ways, losses, strict=True))
            - delta
        )

    return float(brentq(excess, 0.0, count * epsilon, xtol=1e-12))


@pytest.mark.parametrize(("epsilon", "count"), [(0.1, 30), (0.5, 12), (0.013, 400)])
def test_pure_releases_compose_as_the_closed_form_says(epsilon: float, count: int) -> None:
    exact = two_point(epsilon, count, 1e-6)
    found = accounting.epsilon((Pure(epsilon=epsilon, count=count),), 1e-6)
    assert exact - 1e-9 <= found <= exact * 1.003
    assert accounting.epsilon((Pure(epsilon=epsilon, count=3),), 1e-12) <= 3 * epsilon + 1e-12


def test_a_delta_of_a_release_is_composed_and_not_forgotten() -> None:
    threshold = (ApproximateDP(epsilon=0.3, delta=1e-7, count=4),)
    lost = 1 - (1 - 1e-7) ** 4
    exact = two_point(0.3, 4, (1e-6 - lost) / (1 - lost))
    assert exact - 1e-9 <= accounting.epsilon(threshold, 1e-6) <= exact * 1.003
    assert accounting.epsilon(threshold, 3.9e-7) == math.inf
    assert accounting.deltas(threshold, [2.0])[0] == pytest.approx(lost, rel=1e-6)
    # where its delta is large: the worst pair reveals with probability delta and answers at random else
    exact = 0.05 + 0.95 * (math.exp(0.5) - math.exp(0.25)) / (1 + math.exp(0.5))
    (found,) = accounting.deltas((ApproximateDP(epsilon=0.5, delta=0.05),), [0.25])
    assert exact - 1e-12 <= found <= exact * 1.01


def test_releases_of_different_deltas_are_never_added_at_one_of_them() -> None:
    """The exact answer for the worst pairs: their product, summed over all outcomes."""
    event: Event = (ApproximateDP(epsilon=0.5, delta=1e-7), ApproximateDP(epsilon=0.3, delta=1e-8, count=2))
    lost = 1 - (1 - 1e-7) * (1 - 1e-8) ** 2
    losses = [(e, 1 / (1 + math.exp(-e))) for e in (0.5, 0.3, 0.3)]
    outcomes = [
        (sum(s * e for s, (e, _) in zip(signs, losses, strict=True)),
         math.prod(p if s > 0 else 1 - p for s, (_, p) in zip(signs, losses, strict=True)))
        for signs in itertools.product((1, -1), repeat=3)
    ]  # fmt: skip
    for delta in (2e-7, 1e-2, 0.2):
        left = (delta - lost) / (1 - lost)

        def excess(eps: float, left: float = left) -> float:
            return sum(p * max(-math.expm1(eps - loss), 0.0) for loss, p in outcomes) - left

        exact = float(brentq(excess, 0.0, 1.1, xtol=1e-12))
        assert exact - 1e-9 <= accounting.epsilon(event, delta) <= exact * 1.003
    assert accounting.epsilon(event, lost * 0.999) == math.inf
    assert accounting.epsilon(event, 1.01 * lost) <= 1.1


@pytest.mark.parametrize(("scale", "rate"), [(1.0, 0.1), (0.4, 0.5), (3.0, 1.0)])
def test_one_sampled_laplace_release(scale: float, rate: float) -> None:
    """Removed: rate times the delta of the release always taken, at the loss it had; added: from the densities."""
    at = np.linspace(-40 * scale, 40 * scale + 1, 800_001)
    width = at[1] - at[0]
    out = np.exp(-np.abs(at) / scale) / (2 * scale)
    mixed = (1 - rate) * out + rate * np.exp(-np.abs(at - 1) / scale) / (2 * scale)
    event = (Laplace(noise_multiplier=scale, rate=rate),)
    for eps in (0.0, 0.02, 0.2):
        larger = max(
            float(np.maximum(p - math.exp(eps) * q, 0).sum() * width) for p, q in ((mixed, out), (out, mixed))
        )
        found = accounting.deltas(event, [eps])[0]
        assert larger - 1e-6 <= found <= larger * 1.01 + 1e-6
    assert accounting.epsilon(event, 1e-12) <= math.log1p(rate * math.expm1(1 / scale)) * (1 + 1e-12)


def laplace_epsilon(scale: float, shift: int, delta: float, *, gaussian: bool = False) -> float:
    """One discrete release, by summing its probabilities one by one."""
    at = np.arange(-60 * int(scale) - shift, 60 * int(scale) + 2 * shift + 1)
    log_p = -0.5 * (at / scale) ** 2 if gaussian else -np.abs(at) / scale
    log_q = -0.5 * ((at - shift) / scale) ** 2 if gaussian else -np.abs(at - shift) / scale
    total = np.exp(log_p).sum()

    def excess(eps: float) -> float:
        return float(np.maximum(np.exp(log_p) - np.exp(eps + log_q), 0).sum() / total) - delta

    return float(brentq(excess, 0.0, 60.0, xtol=1e-12))


def test_discrete_noise_costs_what_its_probabilities_say() -> None:
    laplace, gaussian = (
        DiscreteLaplace(scale=20.0, sensitivity=10),
        DiscreteGaussian(sigma=8.0, sensitivity=4),
    )
    exact = laplace_epsilon(20.0, 10, 1e-2)
    assert exact - 1e-9 <= accounting.epsilon((laplace,), 1e-2) <= exact * 1.003
    exact = laplace_epsilon(8.0, 4, 1e-4, gaussian=True)
    assert exact - 1e-9 <= accounting.epsilon((gaussian,), 1e-4) <= exact * 1.003
    # a fine grid tends to the continuous noise, which the discrete one does not undercut at its kinks
    fine = accounting.epsilon((DiscreteGaussian(sigma=50_000.0, sensitivity=25_000, count=9),), 1e-6)
    assert exact_epsilon(1.5, 1e-6) <= fine <= exact_epsilon(1.5, 1e-6) * 1.003
    many = accounting.epsilon((Laplace(noise_multiplier=10.0, count=30),), 1e-6)
    grid = accounting.epsilon((DiscreteLaplace(scale=5000.0, sensitivity=500, count=30),), 1e-6)
    assert many == pytest.approx(grid, rel=3e-3) and many < two_point(0.1, 30, 1e-6)


def test_concentrated_guarantees_add_up_and_are_converted_tightly() -> None:
    """The bound of proposition 12 (Canonne, Kamath and Steinke 2020), by brute force over the order."""
    orders = 1 + np.geomspace(1e-3, 1e4, 200_001)
    rho, delta = 0.3, 1e-6
    exact = float((rho * orders + np.log1p(-1 / orders) - np.log(delta * orders) / (orders - 1)).min())
    found = accounting.epsilon((ZCDP(rho=0.1), ZCDP(rho=0.05, count=4)), delta)
    assert exact * (1 - 1e-6) <= found <= exact * (1 + 1e-6)
    gauss = accounting.epsilon((Gaussian(noise_multiplier=1.0, count=1),), delta)
    assert gauss < accounting.epsilon((ZCDP(rho=0.5),), delta) < 1.1 * gauss
    # beside a Gaussian release the concentrated one takes part in the composition of losses
    both = accounting.cost((ZCDP(rho=0.02), Gaussian(noise_multiplier=2.0)), delta)
    assert both.epsilon < accounting.epsilon((ZCDP(rho=0.145),), delta) and math.isnan(both.lower)


def test_kinds_of_releases_compose_below_the_sum_of_their_costs() -> None:
    event: Event = (
        Gaussian(noise_multiplier=3.0, count=20, rate=0.2),
        Laplace(noise_multiplier=8.0, count=2),
        ApproximateDP(epsilon=0.2, delta=1e-9),
        ZCDP(rho=0.005),
        Pure(epsilon=0.1),
    )
    together = accounting.cost(event, 1e-6)
    alone = [accounting.epsilon((part,), 1e-7) for part in event]
    assert max(alone) < together.epsilon < sum(alone) and together.by == "losses" and together.agreed
    assert accounting.epsilon(event[::-1], 1e-6) == together.epsilon


@pytest.mark.parametrize(
    ("sigma", "rate", "count"), [(1.0, 0.01, 2000), (0.6, 0.05, 30), (2.0, 0.5, 40), (4.0, 1e-3, 20_000)]
)
def test_the_claim_is_just_above_a_certified_lower_value(sigma: float, rate: float, count: int) -> None:
    event = (Gaussian(noise_multiplier=sigma, rate=rate, count=count),)
    found = accounting.cost(event, 1e-6)
    assert 0.985 * found.epsilon <= found.lower <= found.epsilon
    assert 0 <= found.slack < 0.015 and found.agreed


def test_the_lower_value_does_not_exceed_what_is_exact() -> None:
    """Two steps without sampling, cut into intervals as sampled ones are, against the closed form."""
    from casemate.privacy import _lower

    for mu, delta in ((0.5, 1e-5), (2.0, 1e-7)):
        event = (Gaussian(noise_multiplier=math.sqrt(2) / mu, count=2),)
        found = _lower.epsilon(event, delta, 0.02 * mu)
        assert 0.995 * exact_epsilon(mu, delta) <= found <= exact_epsilon(mu, delta)


@pytest.mark.parametrize(("sigma", "rate", "delta"), [(0.7, 0.05, 1e-4), (1.5, 0.3, 1e-5)])
def test_one_sampled_step_in_both_directions(sigma: float, rate: float, delta: float) -> None:
    """The hockey-stick divergences of the mixture, integrated; the larger one is what counts."""
    at = np.linspace(-12 * sigma, 12 * sigma + 1, 400_001)
    width = at[1] - at[0]
    out = np.exp(-0.5 * (at / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    mixed = (1 - rate) * out + rate * np.exp(-0.5 * ((at - 1) / sigma) ** 2) / (
        sigma * math.sqrt(2 * math.pi)
    )

    def of(p: np.ndarray, q: np.ndarray, eps: float) -> float:
        return float(np.maximum(p - math.exp(eps) * q, 0).sum() * width)

    event = (Gaussian(noise_multiplier=sigma, rate=rate),)
    for eps in (0.02, 0.2):
        larger = max(of(mixed, out, eps), of(out, mixed, eps))
        found = accounting.deltas(event, [eps])[0]
        assert larger - 1e-7 <= found <= larger * 1.01 + 1e-7
    exact = brentq(lambda eps: max(of(mixed, out, eps), of(out, mixed, eps)) - delta, 0.0, 20.0)
    assert exact * (1 - 1e-5) <= accounting.epsilon(event, delta) <= exact * 1.003


def test_where_adding_a_unit_is_the_worse_direction() -> None:
    """At epsilon near 0 and a rate of a half the loss is larger where the unit is added: both are looked at."""
    losses = _losses.build((Gaussian(noise_multiplier=1.0, rate=0.5, count=3),), 1e-3)
    assert losses is not None
    remove, add = (side.deltas(np.array([0.05, 3.0])) for side in losses.sides)
    assert remove[1] > 10 * add[1] > 0
    both = losses.deltas(np.array([0.05, 3.0]))
    assert (both >= np.maximum(remove, add)).all()
    mirrored = _losses.Losses(sides=losses.sides[::-1], interval=losses.interval, rounding=losses.rounding)
    assert mirrored.epsilon(1e-5) == losses.epsilon(1e-5)


@pytest.mark.parametrize(("sigma", "rate", "count"), [(1.0, 0.02, 400), (3.0, 1.0, 4)])
def test_a_gaussian_of_the_dominating_mu_reveals_at_least_as_much(
    sigma: float, rate: float, count: int
) -> None:
    event: Event = (Gaussian(noise_multiplier=sigma, rate=rate, count=count), Pure(epsilon=0.01))
    mu = accounting.dominating_mu(event)
    eps = np.linspace(0.0, 8.0, 300)
    assert (accounting.deltas(event, eps) <= _bounds.gaussian_deltas(mu, eps) + 1.001e-9).all()
    assert (accounting.deltas(event, eps) > _bounds.gaussian_deltas(0.99 * mu, eps) + 1e-9).any()
    fpr = np.array([0.001, 0.01, 0.1, 0.5])
    assert (accounting.max_tpr(event, fpr) <= ndtr(ndtri(fpr) + mu) * 1.001).all()
    assert accounting.dominating_mu((ApproximateDP(epsilon=0.1, delta=1e-6),)) == math.inf


def test_a_mu_is_told_with_the_delta_that_it_leaves_out() -> None:
    """Without that delta the sentence would be wrong: far out the steps reveal more than the Gaussian release."""
    outline = Plan(
        unit="record", clip=1.0, noise_multiplier=1.0, steps=400, delta=1e-6, sampler="poisson", rate=0.02
    )
    (said,) = [note.text for note in told(outline) if isinstance(note, Note) and "mu " in note.text]
    found = re.search(r"with mu ([\d.]+), but for a delta of ([\d.e-]+): at every epsilon their delta", said)
    assert found is not None
    mu, regret = float(found[1]), float(found[2])
    assert regret == accounting.REGRET == 1e-9
    eps = np.linspace(0.0, 20.0, 400)
    ours, theirs = accounting.deltas(outline.event, eps), _bounds.gaussian_deltas(mu, eps)
    assert (ours <= theirs + regret).all() and not (ours <= theirs).all()
    lower = accounting.lower_epsilon(outline.event, 3e-12)  # it is not our caution: certified to lie above
    assert _bounds.gaussian_epsilon(mu, 3e-12) < lower
    chinese = in_chinese(said)
    assert chinese is not None and all(part in chinese for part in (found[1], "1e-09", "高斯", "加上"))


def test_normal_approximation_is_not_what_is_used() -> None:
    """The CLT's mu, rate sqrt(count (e^(1/sigma^2) - 1)) (Bu et al. 2020), promises 4.88 where 6.23 is true."""
    event = (Gaussian(noise_multiplier=0.6, count=5000, rate=0.004),)
    mu = 0.004 * math.sqrt(5000 * math.expm1(1 / 0.6**2))
    found = accounting.cost(event, 1e-5)
    assert exact_epsilon(mu, 1e-5) < 4.9 < 6.2 < found.lower <= found.epsilon < 6.25


def test_tuning_costs_more_than_a_run_and_less_than_all_runs() -> None:
    """Papernot and Steinke 2022, theorem 2 with proposition 10, for Gaussian runs: r(a) = a mu^2 / 2."""
    one, delta, mean = Gaussian(noise_multiplier=4.0), 1e-6, 10.0
    found = accounting.epsilon((Tuned(one=(one,), mean_repeats=mean),), delta)
    orders = np.arange(2, 1024)
    r = orders / 32
    gamma = 1 / mean  # geometric
    least = 2 * np.min((1 - 1 / orders) * r - np.log(gamma) / orders)
    bound = r + least + np.log(mean) / (orders - 1)
    exact = float((bound + np.log1p(-1 / orders) - np.log(delta * orders) / (orders - 1)).min())
    assert exact * 0.999 <= found <= exact * 1.02
    assert accounting.epsilon((one,), delta) < found
    poisson = accounting.epsilon((Tuned(one=(one,), mean_repeats=mean, shape=math.inf),), delta)
    assert accounting.epsilon((one,), delta) < poisson
    both = accounting.epsilon(
        (Tuned(one=(one,), mean_repeats=mean), Gaussian(noise_multiplier=4.0, count=5)), delta
    )
    assert found < both < found + accounting.epsilon((Gaussian(noise_multiplier=4.0, count=5),), delta)


EVERY: Event = (
    Pure(epsilon=0.5, count=2),
    ApproximateDP(epsilon=0.25, delta=1e-9),
    ZCDP(rho=0.02),
    Gaussian(noise_multiplier=2.0, count=3, rate=0.5),
    Laplace(noise_multiplier=4.0),
    DiscreteLaplace(scale=20.0, sensitivity=5),
    DiscreteGaussian(sigma=9.0, sensitivity=2, count=7),
    Tuned(one=(Gaussian(noise_multiplier=4.0),), mean_repeats=3.0, shape=math.inf),
)


def test_events_survive_json() -> None:
    assert from_json(json.loads(json.dumps(to_json(EVERY), allow_nan=False))) == EVERY


@pytest.mark.parametrize(
    "raw",
    [
        [],
        {},
        "gaussian",
        [{"kind": "clt", "mu": 1.0}],
        [{"kind": ["pure"], "epsilon": 1.0}],
        [{"epsilon": 1.0}],
        [{"kind": "pure"}],
        [{"kind": "pure", "epsilon": "1"}],
        [{"kind": "pure", "epsilon": True}],
        [{"kind": "pure", "epsilon": math.nan}],
        [{"kind": "pure", "epsilon": -1.0}],
        [{"kind": "pure", "epsilon": 1.0, "count": 0}],
        [{"kind": "pure", "epsilon": 1.0, "count": 10**16}],
        [{"kind": "pure", "epsilon": 1.0, "rate": 0.1}],
        [{"kind": "approximate", "epsilon": 1.0, "delta": 1.0}],
        [{"kind": "discrete_laplace", "scale": 3.0, "sensitivity": 0.5}],
        [{"kind": "tuned", "one": [], "mean_repeats": 3.0}],
        [
            {
                "kind": "tuned",
                "one": [{"kind": "approximate", "epsilon": 1.0, "delta": 0.1}],
                "mean_repeats": 3.0,
            }
        ],
        [{"kind": "tuned", "one": [{"kind": "zcdp", "rho": 1.0}], "mean_repeats": 0.5}],
        [{"kind": "tuned", "one": [{"kind": "zcdp", "rho": 1.0}], "mean_repeats": 2.0, "shape": -0.5}],
    ],
)
def test_unknown_or_broken_events_are_refused(raw: object) -> None:
    with pytest.raises(InvalidData):
        from_json(raw)


def test_an_event_of_another_kind_is_refused() -> None:
    with pytest.raises(InvalidData, match="no accounting is known"):
        accounting.epsilon((object(),), 1e-5)  # type: ignore[arg-type]
    with pytest.raises(InvalidData, match="tuple"):
        accounting.epsilon([Pure(epsilon=1.0)], 1e-5)  # type: ignore[arg-type]


def test_exchanging_a_unit_moves_a_sum_twice_as_far() -> None:
    event: Event = (
        Gaussian(noise_multiplier=2.0, count=3),
        Pure(epsilon=0.5),
        ZCDP(rho=0.01),
        Laplace(noise_multiplier=3.0),
    )
    assert replaced(event) == (
        Gaussian(noise_multiplier=1.0, count=3),
        Pure(epsilon=1.0),
        ZCDP(rho=0.04),
        Laplace(noise_multiplier=1.5),
    )
    assert replaced(
        (DiscreteLaplace(scale=9.0, sensitivity=4), DiscreteGaussian(sigma=9.0, sensitivity=3))
    ) == (
        DiscreteLaplace(scale=9.0, sensitivity=8),
        DiscreteGaussian(sigma=9.0, sensitivity=6),
    )
    (made,) = replaced((ApproximateDP(epsilon=0.5, delta=1e-6),))
    assert made == ApproximateDP(epsilon=1.0, delta=1e-6 * (1 + math.exp(0.5)))
    with pytest.raises(InvalidData, match="Poisson sample"):
        replaced((Gaussian(noise_multiplier=2.0, rate=0.5),))
    with pytest.raises(InvalidData, match="exchanged units"):
        replaced((ApproximateDP(epsilon=20.0, delta=0.01),))


@pytest.mark.parametrize(
    "event",
    [
        (Gaussian(noise_multiplier=1e-3, count=10**6, rate=1e-6),),
        (Gaussian(noise_multiplier=0.02, count=3, rate=0.5),),
        (Gaussian(noise_multiplier=300.0, count=10**12, rate=1e-5),),
        (Pure(epsilon=1e-9, count=10**15),),
        (Pure(epsilon=500.0),),
        (Laplace(noise_multiplier=1e-3, rate=0.1),),
        (DiscreteGaussian(sigma=1e9, sensitivity=1, count=10**6),),
        (DiscreteLaplace(scale=1e-3), Gaussian(noise_multiplier=1.0, rate=0.5)),
    ],
)
def test_long_or_ill_conditioned_events_cost_little_to_price(event: Event) -> None:
    before = time.process_time()
    found = accounting.cost(event, 1e-6)
    assert found.epsilon >= 0
    assert time.process_time() - before < 4  # seconds; no lattice is longer than MOST_POINTS
    if found.lower == found.lower:
        assert found.lower <= found.epsilon


def test_orders_at_the_edge_are_told() -> None:
    found = accounting.cost((Tuned(one=(Gaussian(noise_multiplier=2000.0),), mean_repeats=1.5),), 1e-6)
    assert found.by == "renyi" and found.edge
    assert not accounting.cost((Tuned(one=(Gaussian(noise_multiplier=4.0),), mean_repeats=3.0),), 1e-6).edge
