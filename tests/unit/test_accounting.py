# SPDX-License-Identifier: Apache-2.0
"""The accountant against closed forms: it may only err against us, and only a little."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from casemate.core.errors import InvalidData
from casemate.privacy import accounting
from casemate.privacy.accounting import Gaussian


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ten times coarser losses: ten times faster, and as sound."""
    accounting._distribution.cache_clear()
    accounting._tpr.cache_clear()
    monkeypatch.setattr(accounting, "INTERVAL", 1e-3)
    yield
    accounting._distribution.cache_clear()
    accounting._tpr.cache_clear()


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


@pytest.mark.usefixtures("coarse")
def test_sampled_and_unsampled_releases_add_up() -> None:
    steps = Gaussian(noise_multiplier=2.0, count=50, rate=0.1)
    alone = accounting.epsilon((steps,), 1e-5)
    beside = accounting.epsilon((steps, Gaussian(noise_multiplier=20.0)), 1e-5)
    assert alone < beside < alone + accounting.epsilon((Gaussian(noise_multiplier=20.0),), 1e-6)
    assert alone < accounting.epsilon((Gaussian(noise_multiplier=2.0, count=50),), 1e-5)


@pytest.mark.usefixtures("coarse")
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


@pytest.mark.usefixtures("coarse")
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


@pytest.mark.usefixtures("coarse")
def test_calibrated_noise_of_sampled_steps() -> None:
    sigma = accounting.noise_for_epsilon(sampled, epsilon=2.0, delta=1e-5)
    assert accounting.epsilon(sampled(sigma), 1e-5) <= 2.0 < accounting.epsilon(sampled(sigma * 0.998), 1e-5)


@pytest.mark.usefixtures("coarse")
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
