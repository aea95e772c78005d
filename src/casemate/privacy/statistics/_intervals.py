# SPDX-License-Identifier: Apache-2.0
"""How far noise reaches: quantiles of discrete Laplace and Gaussian noise, and of weighted sums of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

DRAWS = 10_000  # of simulated noise behind an approximate interval; seeded, they say nothing of the data


@dataclass(frozen=True)
class Noise:
    """The public law of the noise on whole numbers: its kind and scale (Laplace scale, or standard deviation)."""

    kind: str
    scale: float

    @property
    def spread(self) -> float:
        """Standard deviation, or for small scales a little more."""
        return self.scale if self.kind == "gaussian" else math.sqrt(2) * self.scale

    def reach(self, level: float) -> int:
        """Return the least whole k with P(abs(noise) <= k) >= level.

        Discrete Laplace with p = e^(-1/scale): P(abs > k) = 2 p^(k+1) / (1 + p). A discrete Gaussian exceeds a
        whole k no more often than the continuous one (Canonne, Kamath and Steinke 2020, Proposition 25).
        """
        return self.beyond(1 - level)

    def beyond(self, miss: float) -> int:
        """Return the least whole k with P(abs(noise) > k) <= miss; half of it is above k."""
        if self.kind == "gaussian":
            from scipy.special import ndtri

            return math.ceil(-float(ndtri(miss / 2)) * self.scale)
        tail = miss * (1 + math.exp(-1 / self.scale)) / 2
        return max(math.ceil(-self.scale * math.log(tail) - 1), 0)

    def sum_reach(self, weights: Any, tail: float) -> np.ndarray:
        """Return t (...,) with P(abs(sum of w_i noise_i) > t) <= tail, for every n and any weights (..., k) (Chernoff).

        A discrete Laplace of scale s is a difference of two geometrics and its log moments are at most those of a
        Laplace of the same scale, -log(1 - s^2 l^2); a discrete Gaussian's are at most s^2 l^2 / 2.
        """
        squares = self.scale**2 * np.square(np.asarray(weights, float))  # (..., k)
        need = math.log(2 / tail)
        if self.kind == "gaussian":
            return np.asarray(np.sqrt(2 * squares.sum(-1) * need))
        largest = np.maximum(squares.max(-1, keepdims=True), 1e-300)  # (..., 1)
        at = np.linspace(0.01, 0.99, 64) / np.sqrt(
            largest
        )  # (..., 64): any one will do, the best is tightest
        moments = np.log1p(-squares[..., None, :] * at[..., None] ** 2).sum(-1)  # (..., 64)
        return np.asarray(((need - moments) / at).min(-1) * squares.any(-1))

    def two_reach(self, first: np.ndarray, second: np.ndarray, level: float) -> np.ndarray:
        """Return the quantile of abs(first * a - second * b) for independent noises a, b; exact for large scales."""
        if self.kind == "gaussian":
            from scipy.special import ndtri

            return np.asarray(float(ndtri((1 + level) / 2)) * self.scale * np.hypot(first, second))
        one, two = np.maximum(first, second), np.minimum(first, second)
        ratio = np.clip(two / one, 0, 1 - 1e-6)
        low, high = np.zeros_like(one), np.full_like(one, 80.0)  # in units of the larger Laplace scale
        for _ in range(44):
            middle = (low + high) / 2
            small = np.exp(-middle / np.maximum(ratio, 1e-9))
            above = (np.exp(-middle) - ratio**2 * small) / (1 - ratio**2) > 1 - level
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        return np.asarray(high * one * self.scale)

    def sample(self, size: tuple[int, ...]) -> np.ndarray:
        """Return reproducible noise of this law for the width of an approximate interval; it is never added to data."""
        return np.asarray(self.scale * _unit(self.kind, size))


@lru_cache(maxsize=8)
def _unit(kind: str, size: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(20_200)
    return rng.normal(size=size) if kind == "gaussian" else rng.laplace(size=size)


def ratio(a: float, b: float, noise: Noise, level: float) -> tuple[float, float]:
    """Return all t in [0, 1] with abs(a (1 - t) - b t) within the noise's reach at that t (Fieller 1940)."""
    at = np.linspace(0, 1, 401)

    def inside(t: np.ndarray) -> np.ndarray:
        return np.asarray(np.abs(a * (1 - t) - b * t) <= noise.two_reach(1 - t, t, level))

    centre = min(max(a / (a + b) if a + b > 0 else 0.5, 0.0), 1.0)
    holds = inside(at)
    ends = [float(at[holds].min()), float(at[holds].max())] if holds.any() else [centre, centre]
    width = 1 / 400
    for _ in range(4):  # each time 100 times closer
        for side, sign in ((0, -1), (1, 1)):
            near = np.clip(ends[side] + sign * np.linspace(0, width, 101), 0, 1)
            good = near[inside(near)]
            if len(good):
                ends[side] = float(good.max() if sign > 0 else good.min())
        width /= 100
    return min(ends[0], centre), max(ends[1], centre)


def linearised(
    of: Callable[[np.ndarray], np.ndarray], seen: np.ndarray, noise: Noise, level: float
) -> tuple[float, float]:
    """Return the approximate interval of a smooth function of noisy sums: ``of`` takes (..., sums)."""
    width = noise.scale * 1e-3 + 1e-12
    moves = np.eye(len(seen)) * width
    slope = (of(seen + moves) - of(seen - moves)) / (2 * width)  # (sums,)
    moved = np.abs(noise.sample((DRAWS, len(seen))) @ slope)
    reach = float(np.quantile(moved, level))
    value = float(of(seen))
    return value - reach, value + reach
