# SPDX-License-Identifier: Apache-2.0
"""What an event costs by Renyi divergences: looser than privacy loss distributions, but never long and never large.

Renyi divergences of composed releases add up order by order (Mironov 2017), also where each release is chosen after
seeing those before. At order a > 1 a sum r gives (Canonne, Kamath and Steinke 2020, proposition 12)

    delta(epsilon) = exp((a - 1) (r - epsilon)) (1 - 1/a)^a / (a - 1),

and the least over the orders holds. Where r = rho a for every order (zero-concentrated privacy) the best order is
searched for on the whole half-line; else among fixed ones. ``tuned`` runs follow Papernot and Steinke (2022).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from casemate.privacy.events import (
    ZCDP,
    ApproximateDP,
    DiscreteGaussian,
    DiscreteLaplace,
    Event,
    Gaussian,
    Laplace,
    Part,
    Pure,
    Tuned,
)

WHOLE = (*range(2, 64), 72, 80, 96, 112, 128, 160, 192, 256, 384, 512, 768, 1024)
ORDERS = (1.05, 1.1, 1.2, 1.3, 1.5, 1.7, *WHOLE)


@dataclass(frozen=True, kw_only=True)
class Divergences:
    """Renyi divergences at :data:`ORDERS`, the probability set aside for releases that may fail, and a zCDP rho."""

    at: tuple[float, ...]
    aside: float
    rho: float  # inf: some part has none

    def epsilon(self, delta: float) -> tuple[float, bool]:
        """Return the least epsilon at ``delta``, and whether the best order was the first or the last one tried."""
        left = delta - self.aside
        if left <= 0:
            return math.inf, False
        orders, sums = np.array(ORDERS, float), np.array(self.at)
        found = np.maximum(sums + _conversion(orders, left), 0.0)
        best = int(np.argmin(found))
        concentrated = zcdp_epsilon(self.rho, left)
        if concentrated <= found[best]:
            return concentrated, False
        return float(found[best]), best in (0, len(orders) - 1)

    def deltas(self, epsilons: np.ndarray) -> np.ndarray:  # (n,) all >= 0 -> (n,)
        """Return the least delta(epsilon) over the orders, what was set aside included."""
        orders, sums = np.array(ORDERS, float)[:, None], np.array(self.at)[:, None]
        found = _log_delta(orders, sums, epsilons[None]).min(axis=0)
        if self.rho < math.inf:
            many = 1 + np.geomspace(1e-3, 1e7, 400)[:, None]
            found = np.minimum(found, _log_delta(many, self.rho * many, epsilons[None]).min(axis=0))
        return np.minimum(np.exp(np.minimum(found, 0.0)) + self.aside, 1.0)


def zcdp_epsilon(rho: float, delta: float) -> float:
    """Return the least epsilon of ``rho``-zCDP at ``delta``; any order is sound, a bounded search finds the best.

    >>> round(zcdp_epsilon(0.5, 1e-5), 2)
    4.73
    """
    from scipy.optimize import minimize_scalar

    if rho == math.inf:
        return math.inf

    def at(log_excess: float) -> float:
        order = 1 + math.exp(log_excess)
        return rho * order + float(_conversion(np.array(order), delta))

    # near the best order, 1 + sqrt(log(1/delta) / rho)
    guess = 0.5 * math.log(max(-math.log(delta), 1e-3) / rho)
    span = (guess - 6.0, guess + 6.0)
    return max(float(minimize_scalar(at, bounds=span, method="bounded", options={"xatol": 1e-9}).fun), 0.0)


@lru_cache(maxsize=256)
def divergences(event: Event) -> Divergences:
    """Return the divergences of everything in the event together."""
    total, aside, rho = np.zeros(len(ORDERS)), 0.0, 0.0
    for part in event:
        total = total + _of_part(part)
        if isinstance(part, ApproximateDP) and part.delta:
            aside += -math.expm1(part.count * math.log1p(-part.delta))
        rho += _rho(part)
    return Divergences(at=tuple(total.tolist()), aside=aside, rho=rho)


def part_count(part: Part) -> int:
    """Return how often the part is composed with itself; a tuned event is one.

    >>> part_count(Pure(epsilon=0.5, count=3))
    3
    """
    return 1 if isinstance(part, Tuned) else int(part.count)


def _conversion(orders: np.ndarray, delta: float) -> np.ndarray:
    return np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)


def _log_delta(orders: np.ndarray, sums: np.ndarray, epsilons: np.ndarray) -> np.ndarray:
    return np.asarray((orders - 1) * (sums - epsilons) + orders * np.log1p(-1 / orders) - np.log(orders - 1))


def _rho(part: Part) -> float:
    """Return the part's zCDP rho: epsilon^2 / 2 of a pure guarantee (Bun and Steinke 2016); inf where none is known."""
    if isinstance(part, Tuned):
        return math.inf
    if isinstance(part, ZCDP):
        return part.rho * part.count
    if isinstance(part, Gaussian):
        return part.count / (2 * part.noise_multiplier**2)  # sampling can only lower it
    if isinstance(part, DiscreteGaussian):
        return part.count * (part.sensitivity / part.sigma) ** 2 / 2
    return float(part.count * pure_epsilon(part) ** 2 / 2)


def pure_epsilon(part: Part) -> float:
    """Return the epsilon of one such release where delta is 0 (or set aside), else inf.

    >>> pure_epsilon(Laplace(noise_multiplier=2.0)), pure_epsilon(Gaussian(noise_multiplier=2.0))
    (0.5, inf)
    """
    if isinstance(part, (Pure, ApproximateDP)):
        return part.epsilon
    if isinstance(part, DiscreteLaplace):
        return part.sensitivity / part.scale
    if isinstance(part, Laplace):
        whole = 1 / part.noise_multiplier
        if part.rate == 1:
            return whole
        # log(1 + rate (e^whole - 1)), which is below whole
        return math.log1p(part.rate * math.expm1(whole)) if whole < 700 else whole
    return math.inf


def _of_part(part: Part) -> np.ndarray:  # (orders,)
    orders = np.array(ORDERS, float)
    pure = pure_epsilon(part)
    if pure < math.inf:
        return _randomised_response(pure, orders) * part_count(part)
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(list(WHOLE))  # its series for broken orders do not always converge
    accountant.compose(_dp_event(part))
    known = np.asarray(accountant.rdp)
    return np.concatenate([np.full(len(ORDERS) - len(WHOLE), known[0]), known])  # they rise with the order


def _randomised_response(epsilon: float, orders: np.ndarray) -> np.ndarray:
    """Return the divergences of the worst epsilon-private mechanism: log(p^a q^(1-a) + q^a p^(1-a)) / (a - 1)."""
    log_q = -np.logaddexp(0.0, epsilon)
    log_p = log_q + epsilon
    two = np.logaddexp(orders * log_p + (1 - orders) * log_q, orders * log_q + (1 - orders) * log_p)
    return np.clip(two / (orders - 1), 0.0, epsilon)


def _dp_event(part: Part) -> Any:
    """Return the part in dp-accounting's words; pure guarantees, inside of tuning only, as the zCDP that they imply."""
    from dp_accounting import dp_event as words

    if isinstance(part, Tuned):
        one = words.ComposedDpEvent([_dp_event(inner) for inner in part.one])
        return words.RepeatAndSelectDpEvent(one, part.mean_repeats, part.shape)
    if isinstance(part, Gaussian):
        noisy = words.GaussianDpEvent(part.noise_multiplier)
        taken = noisy if part.rate == 1 else words.PoissonSampledDpEvent(part.rate, noisy)
        return words.SelfComposedDpEvent(taken, part.count)
    return words.ZCDpEvent(_rho(part))
