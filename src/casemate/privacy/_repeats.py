# SPDX-License-Identifier: Apache-2.0
"""How many runs a private search makes: the laws of Papernot and Steinke (2022), drawn, and what they cost.

For a mean m and a ``shape`` eta the number of runs K is truncated negative binomial (1: geometric, 0: logarithmic),

    P(K = k + 1) / P(K = k) = (1 - gamma) (k + eta) / (k + 1),     k >= 1,

with the gamma for which E K = m, or Poisson for eta = inf, where K may be 0. Let one run cost at most r(b) at every
Renyi order b > 1. By their theorem 2 the best of K runs costs at order a, for whatever order b is best,

    r(a) + log(m) / (a - 1) + (1 + eta) ((1 - 1/b) r(b) + log(1/gamma) / b),

and in the Poisson case, by theorem 6, r(a) + log(m) / (a - 1) + m d, where one run is (log(a / (a - 1)), d)-private.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal, localcontext
from functools import lru_cache

from casemate.training.secure import Source

ORDERS = (1.5, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128, 192, 256, 512, 1024)
_NUDGE = 1e-12  # of gamma and logarithms; never in our favour
_BITS, _DIGITS = 192, 70


@lru_cache(maxsize=64)
def gamma_of(mean: float, shape: float) -> float:
    """Return the gamma of the truncated negative binomial law with this mean, rounded down.

    >>> round(gamma_of(10.0, 1.0), 9), gamma_of(1.0, 1.0)
    (0.1, 1.0)
    """
    if mean <= 1:
        return 1.0
    low, high = -1e5, 0.0  # log gamma: the mean falls from infinity to 1
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _mean(middle, shape) >= mean else (low, middle)
    return max(math.exp(low), 1e-300)


def drawn(mean: float, shape: float, source: Source) -> int:
    """Return K, from a uniform of 192 bits held against sums of 70 digits.

    >>> from casemate.training.secure import insecure_test_source
    >>> drawn(3.0, 1.0, insecure_test_source(0)) >= 1, drawn(1.0, 1.0, insecure_test_source(0))
    (True, 1)
    """
    with localcontext() as context:
        context.prec = _DIGITS
        left = Decimal(source.bits(_BITS)) / 2**_BITS
        if shape == math.inf:
            m = Decimal(mean)
            k, at = 0, (-m).exp()
        else:
            gamma, eta = Decimal(gamma_of(mean, shape)), Decimal(shape)
            if gamma == 1:
                return 1
            k = 1
            if shape == 0:
                at = (1 - gamma) / -gamma.ln()
            else:
                power = (eta * gamma.ln()).exp()
                at = eta * power * (1 - gamma) / (1 - power)
        # small terms end the sum beyond the mean only: before it they may be small as well, and rise
        while left >= at and (k < mean or at > Decimal("1e-60")):
            left -= at
            k += 1
            at *= m / k if shape == math.inf else (1 - gamma) * (k - 1 + eta) / k
        return k


def renyi(order: float, mean: float, shape: float, one: Callable[[float], float]) -> float:
    """Return what the best of K runs costs at a Renyi ``order``, ``one`` being what one run costs at any order.

    >>> round(renyi(10.0, 10.0, 1.0, lambda order: 0.01 * order), 3)
    0.901
    """
    if not order > 1:
        return math.inf
    if shape == math.inf:
        whole = min(_poisson(at, mean, one) for at in _from(order))
    else:
        toll = -math.log(gamma_of(mean, shape)) + _NUDGE
        constant = min((1 - 1 / at) * one(at) + toll / at for at in (*ORDERS, order))
        whole = min(one(at) + math.log(mean) / (at - 1) for at in _from(order)) + (1 + shape) * constant
    return whole * (1 + _NUDGE)


def _from(order: float) -> tuple[float, ...]:
    """Return this order and larger ones: a Renyi loss grows with its order."""
    return (order, *(at for at in ORDERS if at > order))


def _poisson(order: float, mean: float, one: Callable[[float], float]) -> float:
    epsilon = math.log1p(1 / (order - 1))
    logs = (
        (at - 1) * (one(at) - epsilon) + at * math.log1p(-1 / at) - math.log(at - 1)
        for at in (*ORDERS, order)
    )
    delta = math.exp(min(*logs, 0.0)) * (1 + _NUDGE)
    return one(order) + mean * delta + math.log(mean) / (order - 1)


def _mean(log_gamma: float, shape: float) -> float:
    """Return E K; inf where it is beyond the floats."""
    if log_gamma < -690:
        return math.inf
    less = -math.expm1(log_gamma)  # 1 - gamma
    if less == 0:
        return 1.0
    if shape == 0:
        return less * math.exp(-log_gamma) / -log_gamma
    return shape * less * math.exp(-log_gamma) / -math.expm1(shape * log_gamma)
