# SPDX-License-Identifier: Apache-2.0
"""Noise for statistics: the only place where a whole number, or a choice, is made private.

Everything here is exact. Values, sensitivities and noise are whole numbers of any size, scales are fractions, and the
draws of :mod:`casemate.privacy._exact` have their distribution without rounding, so that none of the attacks on the
last bits of a noisy float (Mironov 2012; Haney et al. 2022) applies: neighbours have the same possible answers, with
the probabilities of the proof. What is not whole (money, blood values) is put on a public grid before it comes here.

**What a call costs**, in the words of :mod:`casemate.privacy.events`:

- ``add_laplace``: ``Pure(epsilon)``; for one number also ``DiscreteLaplace(scale, sensitivity)``, which costs less.
- ``add_gaussian``: ``ZCDP(rho)`` with rho = D^2 / (2 sigma^2), vectors included; for one number also
  ``DiscreteGaussian``. It is *not* a continuous ``Gaussian`` event: nothing proves that one to cover it.
- every choice, ``randomised_response`` and ``above_threshold``: ``Pure(epsilon)`` for all that a call says.

:func:`laplace_cost` and :func:`gaussian_cost` give it for a scale that was chosen otherwise.

**Epsilon** may be a whole number, a fraction or a float. A float is read as the decimal it shows and as the binary
number it is, and the smaller of the two is used (a scale: the larger): three draws at 0.1 never cost more than 3/10.
Zero, negative and infinite ones are refused, and a sensitivity of 0: what depends on nobody needs no mechanism.

**What it does not cover.** The sensitivity is the caller's: nobody can see from a number what it would have been
without a person. Nothing here keeps an account: charge the ledger first. How long a draw takes depends on what was
drawn (see ``_exact``), and the memory of the process holds the true value: this protects what is published, not the
machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple, overload

import numpy as np

from casemate.core.errors import InvalidData
from casemate.privacy import _exact
from casemate.privacy._asked import drawn_from, fraction, whole, wholes
from casemate.privacy._selection import (
    Rest,
    above_threshold,
    exponential,
    permute_and_flip,
    randomised_response,
    report_noisy_max,
)
from casemate.training.secure import Source

__all__ = [
    "Cost",
    "Rest",
    "above_threshold",
    "add_gaussian",
    "add_laplace",
    "discrete_gaussian",
    "discrete_laplace",
    "exponential",
    "gaussian_bound",
    "gaussian_cost",
    "gaussian_pmf",
    "geometric",
    "laplace_bound",
    "laplace_cost",
    "laplace_pmf",
    "permute_and_flip",
    "randomised_response",
    "report_noisy_max",
]


class Cost(NamedTuple):
    """What a release costs: ``kind`` "pure" (``parameter`` is epsilon) or "zcdp" (rho), as an exact fraction.

    >>> laplace_cost(200, sensitivity=100)
    Cost(kind='pure', parameter=Fraction(1, 2))
    """

    kind: str
    parameter: Fraction


def discrete_laplace(scale: Any, source: Source | None = None) -> int:
    """Return a whole k with P(k) = tanh(1 / (2 scale)) exp(-abs(k) / scale), exactly (CKS 2020, Algorithm 2).

    Its variance is about 2 scale^2. Added to a whole number of sensitivity s it gives pure s / scale: for any k the two
    probabilities differ by exp(abs(abs(k) - abs(k + s)) / scale) at most, and reach it.

    >>> from casemate.training.secure import insecure_test_source
    >>> discrete_laplace(Fraction(5, 2), insecure_test_source(1))
    1
    """
    scale = fraction(scale, "scale", up=True)
    return _exact.discrete_laplace(scale.numerator, scale.denominator, drawn_from(source))


def discrete_gaussian(sigma_squared: Any, source: Source | None = None) -> int:
    """Return a whole k with P(k) in proportion to exp(-k^2 / (2 sigma_squared)), exactly (CKS 2020, Algorithm 3).

    Its variance is at most sigma_squared. Added to each of several whole numbers with squared L2 sensitivity D^2 it
    gives D^2 / (2 sigma_squared)-zCDP (CKS 2020, Theorems 4 and 14), as the continuous Gaussian does.

    >>> from casemate.training.secure import insecure_test_source
    >>> discrete_gaussian(Fraction(9, 2), insecure_test_source(1))
    1
    """
    variance = fraction(sigma_squared, "sigma_squared", up=True)
    return _exact.discrete_gaussian(variance.numerator, variance.denominator, drawn_from(source))


def geometric(epsilon: Any, source: Source | None = None) -> int:
    """Return two-sided geometric noise: P(k) in proportion to exp(-epsilon abs(k)) (Ghosh et al. 2009).

    It is the discrete Laplace of scale 1 / epsilon, the best noise there is for one count: pure epsilon where a unit
    moves the number by at most 1.

    >>> isinstance(geometric(0.5), int)
    True
    """
    return discrete_laplace(1 / fraction(epsilon, "epsilon"), source)


@overload
def add_laplace(value: int, *, sensitivity: int, epsilon: Any, source: Source | None = ...) -> int: ...
@overload
def add_laplace(
    value: Sequence[int] | np.ndarray, *, sensitivity: int, epsilon: Any, source: Source | None = ...
) -> list[int]: ...
def add_laplace(value: Any, *, sensitivity: int, epsilon: Any, source: Source | None = None) -> Any:
    """Return ``value`` plus discrete Laplace noise of scale sensitivity / epsilon, drawn anew for each number.

    **Sensitivity.** The most by which one unit moves the value; for several numbers (n,), the most by which it moves
    all of them together, the L1 norm. A histogram in which a person stands in at most m bins: m (added or removed) or
    2 m (replaced). **Guarantee.** Pure epsilon: the probabilities of an answer a for neighbours v and w differ by
    exp(sum(abs(abs(a - v) - abs(a - w))) / scale) <= exp(sensitivity / scale) (Dwork et al. 2006; Inusah and Kozubowski
    2006 for the noise).

    >>> add_laplace(10**30, sensitivity=1, epsilon=100)
    1000000000000000000000000000000
    >>> len(add_laplace([3, 0, 5], sensitivity=1, epsilon=0.5))
    3
    """
    scale = whole(sensitivity, "sensitivity", least=1) / fraction(epsilon, "epsilon")
    source = drawn_from(source)
    if isinstance(value, Sequence | np.ndarray):
        return [
            one + _exact.discrete_laplace(scale.numerator, scale.denominator, source)
            for one in wholes(value, "value")
        ]
    return whole(value, "value") + _exact.discrete_laplace(scale.numerator, scale.denominator, source)


@overload
def add_gaussian(
    value: int,
    *,
    l2_sensitivity_squared: int,
    rho: Any = ...,
    sigma_squared: Any = ...,
    source: Source | None = ...,
) -> int: ...
@overload
def add_gaussian(
    value: Sequence[int] | np.ndarray,
    *,
    l2_sensitivity_squared: int,
    rho: Any = ...,
    sigma_squared: Any = ...,
    source: Source | None = ...,
) -> list[int]: ...
def add_gaussian(
    value: Any,
    *,
    l2_sensitivity_squared: int,
    rho: Any = None,
    sigma_squared: Any = None,
    source: Source | None = None,
) -> Any:
    """Return ``value`` plus discrete Gaussian noise of variance D^2 / (2 rho), drawn anew for each number.

    **Sensitivity.** D^2 is the most by which one unit moves the numbers, each difference squared, all summed: s^2 for
    one number of sensitivity s; m for a histogram where a person stands once in at most m bins. It is asked for squared
    because that is whole. **Guarantee.** rho-zCDP (CKS 2020, Theorem 14). State ``rho``, or ``sigma_squared`` and look
    up the rho with :func:`gaussian_cost`.

    >>> add_gaussian(10**30, l2_sensitivity_squared=1, rho=10**6)
    1000000000000000000000000000000
    """
    squared = whole(l2_sensitivity_squared, "l2_sensitivity_squared", least=1)
    if (rho is None) == (sigma_squared is None):
        raise InvalidData("state either rho or sigma_squared, and not both")
    if rho is not None:
        variance = squared / (2 * fraction(rho, "rho"))
    else:
        variance = fraction(sigma_squared, "sigma_squared", up=True)
    source = drawn_from(source)
    if isinstance(value, Sequence | np.ndarray):
        return [
            one + _exact.discrete_gaussian(variance.numerator, variance.denominator, source)
            for one in wholes(value, "value")
        ]
    return whole(value, "value") + _exact.discrete_gaussian(variance.numerator, variance.denominator, source)


def laplace_cost(scale: Any, *, sensitivity: int) -> Cost:
    """Return the cost of discrete Laplace noise: pure epsilon = sensitivity / scale, no more and no less.

    >>> laplace_cost(Fraction(3, 2), sensitivity=3).parameter
    Fraction(2, 1)
    """
    return Cost("pure", whole(sensitivity, "sensitivity", least=1) / fraction(scale, "scale"))


def gaussian_cost(sigma_squared: Any, *, l2_sensitivity_squared: int) -> Cost:
    """Return the cost of discrete Gaussian noise: rho = D^2 / (2 sigma_squared), zero-concentrated.

    >>> gaussian_cost(50, l2_sensitivity_squared=4)
    Cost(kind='zcdp', parameter=Fraction(1, 25))
    """
    squared = whole(l2_sensitivity_squared, "l2_sensitivity_squared", least=1)
    return Cost("zcdp", squared / (2 * fraction(sigma_squared, "sigma_squared")))


def laplace_pmf(k: Any, scale: Any) -> np.ndarray:
    """Return the probabilities (n,) of the whole numbers ``k`` (n,), in floats: for error bars, never to draw.

    >>> laplace_pmf([0, 1], 1).round(4).tolist()
    [0.4621, 0.17]
    """
    width = float(fraction(scale, "scale", up=True))
    return np.asarray(math.tanh(1 / (2 * width)) * np.exp(-np.abs(np.asarray(k, np.float64)) / width))


def gaussian_pmf(k: Any, sigma_squared: Any) -> np.ndarray:
    """Return the probabilities (n,) of the whole numbers ``k`` (n,), in floats: for error bars, never to draw.

    >>> gaussian_pmf([0, 1], 1).round(4).tolist()
    [0.3989, 0.242]
    """
    variance = float(fraction(sigma_squared, "sigma_squared", up=True))
    # beyond variance 4 the sum over all k is the integral to 1e-34 (Poisson summation)
    seen = np.arange(-80, 81) ** 2
    total = float(np.exp(-seen / (2 * variance)).sum()) if variance < 4 else math.sqrt(2 * math.pi * variance)
    return np.asarray(np.exp(-(np.asarray(k, np.float64) ** 2) / (2 * variance)) / total)


def laplace_bound(scale: Any, *, level: float = 0.95) -> int:
    """Return the least t with P(abs(noise) <= t) >= level: half the width of a confidence interval.

    P(abs(noise) > t) = 2 exp(-(t + 1) / scale) / (1 + exp(-1 / scale)).

    >>> laplace_bound(10)
    30
    """
    width, miss = float(fraction(scale, "scale", up=True)), _miss(level)
    return max(math.ceil(-width * math.log(miss * (1 + math.exp(-1 / width)) / 2) - 1), 0)


def gaussian_bound(sigma_squared: Any, *, level: float = 0.95) -> int:
    """Return a t with P(abs(noise) <= t) >= level: that of the continuous Gaussian, rounded up.

    A discrete Gaussian exceeds a whole t no more often than the continuous one (CKS 2020, Proposition 25).

    >>> gaussian_bound(100)
    20
    """
    from scipy.special import ndtri

    deviation = math.sqrt(float(fraction(sigma_squared, "sigma_squared", up=True)))
    return math.ceil(-deviation * float(ndtri(_miss(level) / 2)))


def _miss(level: float) -> float:
    if not 0 < level < 1:
        raise InvalidData(f"level of an interval lies between 0 and 1; got {level!r}")
    return 1 - level
