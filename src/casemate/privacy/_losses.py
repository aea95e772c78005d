# SPDX-License-Identifier: Apache-2.0
"""Privacy loss distributions: made by ``_lattices``, composed by ``_composition``, read here."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from casemate.privacy import _rdp
from casemate.privacy._composition import CUT, WIDE, Masses, composed
from casemate.privacy._lattices import one_release
from casemate.privacy._rdp import part_count
from casemate.privacy.events import (
    ZCDP,
    DiscreteGaussian,
    Event,
    Gaussian,
    Part,
)


@dataclass(frozen=True, kw_only=True)
class Side:
    """One direction: losses (n,) and the mass from each on under both neighbours, ``above`` and ``other`` (n + 1,).

    ``infinite`` is the mass that the other neighbour does not have at all.
    """

    losses: np.ndarray
    above: np.ndarray
    other: np.ndarray
    infinite: float

    def deltas(self, epsilons: np.ndarray) -> np.ndarray:  # (m,) -> (m,)
        first = np.searchsorted(self.losses, epsilons, side="right")
        found = self.infinite + self.above[first] - np.exp(epsilons) * self.other[first]
        return np.asarray(np.clip(found, self.infinite, 1.0))

    def epsilon(self, delta: float) -> float:
        """Return the least epsilon >= 0 with delta(epsilon) <= ``delta``."""
        if self.infinite >= delta or not len(self.losses):
            return math.inf
        with np.errstate(over="ignore", invalid="ignore"):
            at_losses = self.infinite + self.above[1:] - np.exp(self.losses) * self.other[1:]
        first = int(np.argmax(at_losses <= delta))  # the last is infinite's, which is below
        if self.other[first] <= 0:
            return max(float(self.losses[first]), 0.0)
        # on the chord that ends there: everything from the loss on counts
        ratio = (self.infinite + self.above[first] - delta) / self.other[first]
        return max(min(math.log(ratio), float(self.losses[first])), 0.0) if ratio > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Both directions of a composed event at one lattice ``interval``."""

    sides: tuple[Side, ...]
    interval: float
    rounding: float

    @property
    def size(self) -> int:
        """Return how many losses the longer direction holds."""
        return max(len(side.losses) for side in self.sides)

    def deltas(self, epsilons: np.ndarray) -> np.ndarray:
        """Return the larger delta of the two directions, what rounding may have lost added."""
        found = np.max([side.deltas(epsilons) for side in self.sides], axis=0)
        return np.asarray(np.minimum(found + self.rounding, 1.0))

    def epsilon(self, delta: float) -> float:
        """Return the least epsilon at ``delta``, inf if the lattice cannot tell."""
        return max(side.epsilon(delta - self.rounding) for side in self.sides)


def build(event: Event, interval: float) -> Losses | None:
    """Return the composed losses of an event on one lattice; None where that would be too long to compute."""
    plain = [part for part in event if isinstance(part, Gaussian) and part.rate == 1]
    concentrated = [part for part in event if isinstance(part, ZCDP)]
    whole = sum(part.count / part.noise_multiplier**2 for part in plain)
    rho = sum(part.rho * part.count for part in concentrated)
    merged: list[Part] = [part for part in event if part not in plain and part not in concentrated]
    if whole:
        merged.append(Gaussian(noise_multiplier=1 / math.sqrt(whole)))
    if rho:
        merged.append(ZCDP(rho=rho))
    one_step = [(one_release(part, interval), part_count(part)) for part in merged]
    symmetric = all(removed is added for (removed, added), _ in one_step)
    sides, rounding = [], 0.0
    for direction in (0,) if symmetric else (0, 1):
        made = composed([(pair[direction], count) for pair, count in one_step])
        if made is None:
            return None
        sides.append(side_of(made[0], interval))
        rounding = max(rounding, made[1])
    return Losses(sides=tuple(sides), interval=interval, rounding=rounding)


def reach(part: Part) -> float:
    """Return about the largest loss that one such release can have with any probability that counts."""
    pure = _rdp.pure_epsilon(part)
    if pure < math.inf:
        return pure
    if isinstance(part, Gaussian):
        count = part.count if part.rate == 1 else 1
        shift = math.sqrt(count) / part.noise_multiplier
        whole = shift * (10.5 + 0.5 * shift)
        return whole if part.rate == 1 else max(whole + math.log(part.rate), 0.0) + part.rate
    if isinstance(part, DiscreteGaussian):
        shift = part.sensitivity / part.sigma
        return shift * (10.5 + 0.5 * shift)
    return _rdp.divergences((part,)).epsilon(CUT)[0]


def variance(part: Part) -> float:
    """Return about the mean square of one such release's loss: how fine a lattice must be."""
    if isinstance(part, Gaussian) and part.rate < 1:
        at = np.linspace(-10.0, 10.0, 2001)
        odds = (2 * at * part.noise_multiplier - 1) / (2 * part.noise_multiplier**2)
        loss = np.logaddexp(math.log1p(-part.rate), math.log(part.rate) + odds)
        with_shift = np.logaddexp(
            math.log1p(-part.rate), math.log(part.rate) + odds + 1 / part.noise_multiplier**2
        )
        weights = np.exp(-(at**2) / 2) / math.sqrt(2 * math.pi) * (at[1] - at[0])
        return float(weights @ ((1 - part.rate) * loss**2 + part.rate * with_shift**2))
    return _rdp.divergences((part,)).at[_rdp.ORDERS.index(2)] / part_count(
        part
    )  # log E e^loss = the square nearly


def side_of(made: Masses, interval: float, *, least: float = 0.0) -> Side:
    """Return masses for reading, those below ``least`` raised to it: rounding leaves some below 0."""
    masses = np.maximum(made.masses, least)
    losses = (np.arange(len(masses)) + made.low) * interval
    with np.errstate(over="ignore", invalid="ignore"):
        weighed = np.where(masses == 0, 0.0, masses * np.exp(-losses))
    return Side(
        losses=losses, above=_from_each_on(masses), other=_from_each_on(weighed), infinite=made.infinite
    )


def _from_each_on(masses: np.ndarray) -> np.ndarray:
    return np.append(np.cumsum(masses[::-1].astype(WIDE))[::-1].astype(np.float64), 0.0)
