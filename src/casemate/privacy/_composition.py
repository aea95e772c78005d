# SPDX-License-Identifier: Apache-2.0
"""Adds up privacy losses on a lattice: the masses of a sum of independent losses, and what rounding may have taken.

The masses of the sum are a convolution, worked out with Fourier transforms of a cyclic length N. The window kept
misses at most :data:`CUT` of the mass by Chernoff's bound; what lies outside falls onto points inside, which can only
raise delta, and CUT is added to the infinite loss for what was left out.

**What rounding can do, proved for floats of 64 binary digits** (u = 2^-64; long doubles of x86). Let x be the masses of
one release, X their transform, z the computed one.

1. N = 2^a times 1, 3 or 5 is transformed in at most a / 2 + 2 passes. In a pass each output is a sum of at most 5
   inputs times numbers of modulus 1. Counting the operations of such a sum (a twiddle factor rounded, its product, two
   sums of five terms, their sum) gives an error of at most 24 u times the inputs' moduli. Each output of the whole is
   reached once from each input, so abs(z - X) <= 24 u passes sum(x) at *every* frequency.
2. A power by squaring is off by at most 3 u count relative. So the product of all powers, T releases in all, is off by
   at most T (24 passes + 3) u at every frequency, all moduli being at most 1.
3. delta(epsilon) weighs the masses with w = max(1 - e^(epsilon - loss), 0), which rises from 0 to less than 1 and falls
   back once. Its transform at frequency k is at most N / (2 k) (summation by parts), N at 0. By Parseval the error of
   delta is at most the one of 2. times 1 + the sum of 1 / k up to N / 2, which is at most 2 + log(N / 2).
4. Going back, a pass is off by at most 24 sqrt(5) u relative in the Euclidean norm (Higham 2002, theorem 24.2, with
   these constants); weights of at most 1 on N points make of that sqrt(N) 54 u passes times the masses' norm.

For N <= 2^22 the terms of 1. to 3. stay below ROUNDING = 2^-50 a release, which is what is added, and 4. is added to
it. With floats of 53 digits the proof would give 2^11 times as much. There the same numbers are added, more than ten
times the errors that tests find against convolutions in whole numbers: measured, not proved. Taken on trust everywhere:
that the machine's exp, log and ndtr, and the masses of one release made of them, are right to a few units in the last
place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

ROUNDING = 2.0**-50  # of delta, a release composed: what the transforms may have taken
UNIT = 2.0**-64  # of a float of 64 binary digits
CUT = 1e-15  # mass of the tails that a composition may move to an infinite loss
LONGEST = 2_000_000  # points of one composition
MOST_COMPOSED = 10**9  # releases; beyond, rounding is larger than any usual delta
_NEGLIGIBLE = 60.0  # e^-60 of a frequency's modulus is left out: 1e-25 of delta in all

# on other machines a long double is a double, or worked out in software
WIDE: type[Any] = np.longdouble if np.finfo(np.longdouble).nmant == 63 else np.float64


@dataclass(frozen=True, kw_only=True)
class Masses:
    """Probabilities (n,) of losses low, low + 1, ... in units of a lattice's interval, and that of an infinite one."""

    masses: np.ndarray
    low: int
    infinite: float = 0.0


def composed(parts: Sequence[tuple[Masses, int]]) -> tuple[Masses, float] | None:
    """Return the sum of independent losses, each drawn so many times, and by how much delta may be off at most.

    None where it would be too long. Masses may come out a little below 0; to cut them off can only raise delta.

    >>> made, _ = composed([(Masses(masses=np.array([0.5, 0.5]), low=0), 2)])
    >>> made.masses.round(6).tolist(), made.low
    ([0.25, 0.5, 0.25], 0)
    """
    from scipy import fft

    releases = sum(count for _, count in parts)
    low = sum(part.low * count for part, count in parts)
    infinite = -math.expm1(sum(count * math.log1p(-part.infinite) for part, count in parts))
    if releases == 1:
        return parts[0][0], 0.0
    if releases > MOST_COMPOSED:
        return None
    first, last = _window(parts)
    if last - first >= LONGEST:
        return None
    size = max(last - first + 1, *(len(part.masses) for part, _ in parts))
    n, passes = _length(size)
    spectrum: Any = 1.0
    for part, count in parts:
        spectrum = spectrum * _power(fft.rfft(part.masses.astype(WIDE), n), count)
    found = np.roll(fft.irfft(spectrum, n), -(first % n))[: last - first + 1].astype(np.float64)
    norm = math.sqrt(float(found @ found))
    growth = math.prod(
        max(float(part.masses.sum()), 1.0) ** count for part, count in parts
    )  # 1 but for rounding
    error = (ROUNDING * releases + math.sqrt(n) * 54 * UNIT * passes * norm) * growth
    return Masses(masses=found, low=low + first, infinite=infinite + CUT), error


def proved(n: int) -> float:
    """Return the bound of steps 1 to 3 a release, for a transform of length n; at most ROUNDING.

    >>> proved(2**22) < ROUNDING
    True
    """
    return (24 * _length(n)[1] + 3) * UNIT * (2 + math.log(n / 2)) * 1.01  # of second order


def _length(least: int) -> tuple[int, int]:
    """Return a length of at least ``least``, 2^a times 1, 3 or 5, and the most passes that its transform takes."""
    options = []
    for odd in (1, 3, 5):
        twos = max(math.ceil(math.log2(least / odd)), 1)
        options.append((odd << twos, twos // 2 + 2))
    return min(options)


def _power(spectrum: np.ndarray, count: int) -> np.ndarray:
    """Return the power by squaring, and 0 where it is negligible."""
    kept = np.flatnonzero(np.abs(spectrum) > math.exp(-_NEGLIGIBLE / count))
    base, made = spectrum[kept], None
    while count:
        if count & 1:
            made = base if made is None else made * base
        base, count = base * base if count > 1 else base, count >> 1
    out = np.zeros_like(spectrum)
    out[kept] = made
    return out


def _window(parts: Sequence[tuple[Masses, int]]) -> tuple[int, int]:
    """Return the first and the last step above the least sum between which all but CUT of the mass lies.

    Chernoff: P(sum >= b) <= exp(K(s) - s b) for every s > 0, K the sum's log moment generating function.
    """
    top = sum(count * (len(part.masses) - 1) for part, count in parts)
    mean, spread = 0.0, 0.0
    for part, count in parts:
        at = np.arange(len(part.masses))
        centre = float(part.masses @ at)
        mean += count * centre
        spread += count * float(part.masses @ (at - centre) ** 2)
    last = min(_reach([(part.masses, count) for part, count in parts], spread), top)
    if mean <= 0.25 * (last - mean):  # nothing worth looking for lies below
        return 0, last
    first = max(top - _reach([(part.masses[::-1], count) for part, count in parts], spread), 0)
    return min(first, last), last


def _reach(parts: Sequence[tuple[np.ndarray, int]], spread: float) -> int:
    from scipy.optimize import minimize_scalar

    tail = math.log(4 / CUT)  # half of a side's half, so that rounding K may be off by log 2

    def bound(log_s: float) -> float:
        s, total = math.exp(log_s), tail
        for masses, count in parts:
            farthest = len(masses) - 1
            weighed = float(masses @ np.exp(s * np.arange(-farthest, 1)))
            if weighed <= 0:
                return math.inf
            total += count * (math.log(weighed) + s * farthest)
        return total / s

    guess = 0.5 * math.log(2 * tail / max(spread, 1e-6))  # where the sum is normal; less with heavy tails
    found = minimize_scalar(bound, bounds=(guess - 7, guess + 1), method="bounded", options={"xatol": 0.05})
    return math.ceil(min(float(found.fun), 2.0**62))
