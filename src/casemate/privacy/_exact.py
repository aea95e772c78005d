# SPDX-License-Identifier: Apache-2.0
"""Exact random draws in whole numbers, for :mod:`casemate.privacy.mechanisms`: no float takes part in any of them.

Every draw has *exactly* the distribution its docstring names, for every rational parameter (Canonne, Kamath and
Steinke 2020, "The Discrete Gaussian for Differential Privacy", Algorithms 1 to 3, and below for what they leave out).
A rational is a pair of whole numbers ``num, den`` with den > 0: Fraction would reduce it again at each step.

**What it does not cover.** All of them reject and draw again, so how long a draw takes depends on what was drawn, and
the time of a large noise may tell that it was large. Whoever can time single draws is not held off; answer at fixed
times where that matters (a release that reads the data for seconds hides microseconds only in part).
"""

from __future__ import annotations

from functools import lru_cache

from casemate.training.secure import Source

_GUARD = 16  # bits beyond those asked for, against the rounding of the working steps


def bernoulli(num: int, den: int, source: Source) -> bool:
    """Return yes with probability num / den, exactly (a ratio above 1: always).

    >>> from casemate.training.secure import source
    >>> bernoulli(1, 1, source()), bernoulli(0, 1, source())
    (True, False)
    """
    return source.below(den) < num


def bernoulli_exp(num: int, den: int, source: Source) -> bool:
    """Return yes with probability exp(-num / den), exactly: Algorithm 1, in fewer than 5 uniform draws on average.

    For g = num / den in [0, 1] the first k at which a coin of chance g / k fails is odd with probability exp(-g): the
    chance to get beyond k is g^k / k!, and the alternating sum of these is the exponential series. A whole g is so many
    coins of exp(-1), of which the first failure ends it.

    >>> from casemate.training.secure import source
    >>> bernoulli_exp(0, 1, source()), bernoulli_exp(10**9, 1, source())
    (True, False)
    """
    whole, part = divmod(num, den)
    while whole:
        if not _series(1, 1, source):
            return False
        whole -= 1
    return _series(part, den, source)


def _series(num: int, den: int, source: Source) -> bool:
    k = 1
    while bernoulli(num, den * k, source):
        k += 1
    return k % 2 == 1


def geometric(num: int, den: int, source: Source) -> int:
    """Return a whole k >= 0 with probability in proportion to exp(-k den / num), for the scale num / den > 0.

    The first half of Algorithm 2: u + num v, with u below num kept with exp(-u / num) and v a count of coins of
    exp(-1), has P(x) in proportion to exp(-x / num); its quotient by den bundles den values in a row.
    """
    low = source.below(num)
    while not bernoulli_exp(low, num, source):
        low = source.below(num)
    high = 0
    while _series(1, 1, source):
        high += 1
    return (low + num * high) // den


def discrete_laplace(num: int, den: int, source: Source) -> int:
    """Return a whole k with probability in proportion to exp(-abs(k) den / num): Algorithm 2, scale num / den > 0."""
    while True:
        size = geometric(num, den, source)
        negative = source.bits(1)
        if size or not negative:  # else 0 would come from both signs, twice as often as it should
            return -size if negative else size


def discrete_gaussian(num: int, den: int, source: Source) -> int:
    """Return a whole k with probability in proportion to exp(-k^2 / (2 s)): Algorithm 3, s = num / den > 0.

    A discrete Laplace y of scale t = floor(sqrt(s)) + 1 is kept with exp(-(abs(y) - s / t)^2 / (2 s)), which has the
    exponent (abs(y) t den - num)^2 / (2 num den t^2). On average fewer than 1.5 proposals at large s.
    """
    from math import isqrt

    t = isqrt(num // den) + 1
    below = 2 * num * den * t * t
    while True:
        y = discrete_laplace(t, 1, source)
        if bernoulli_exp((abs(y) * t * den - num) ** 2, below, source):
            return y


def exp_bounds(num: int, den: int, bits: int) -> tuple[int, int]:
    """Return whole ``low, high`` with low <= 2^bits exp(-num / den) <= high, at most a few units apart.

    The series of the fraction's exponential alternates with falling terms, so its rest is less than the first term
    left out; the powers of exp(-1) are multiplied with the roundings outwards.

    >>> exp_bounds(1, 1, 20)
    (385749, 385750)
    """
    if num >= den * bits:
        return 0, 1  # exp(-x) <= exp(-bits) < 2^-bits
    whole, part = divmod(num, den)
    work = bits + _GUARD + 2 * whole.bit_length()
    low, high = _series_bounds(part, den, work)
    if whole:
        step = _inverse_e(work)
        while whole:
            if whole & 1:
                low, high = low * step[0] >> work, -(-high * step[1] >> work)
            step = step[0] ** 2 >> work, -(-(step[1] ** 2) >> work)
            whole >>= 1
    extra = work - bits
    return low >> extra, -(-high >> extra)


def _series_bounds(num: int, den: int, work: int) -> tuple[int, int]:
    one = 1 << work
    low = high = term_low = term_high = one
    k = 0
    while term_high > 1:
        k += 1
        term_low, term_high = term_low * num // (den * k), -(-term_high * num // (den * k))
        if k % 2:
            low, high = low - term_high, high - term_low
        else:
            low, high = low + term_low, high + term_high
    return max(low - term_high, 0), min(high + term_high, one)


@lru_cache(maxsize=64)
def _inverse_e(work: int) -> tuple[int, int]:
    return _series_bounds(1, 1, work)


def accept(num: int, den: int, scale: tuple[int, int], source: Source) -> bool:
    """Return yes with probability 2^bits exp(-num / den) / height, exactly, for ``scale`` = (bits, height).

    The caller sees to it that this is at most 1. It is the chance that a uniform number u in [0, 1) is below it. Only
    as many digits of both are worked out as it takes to tell which is the smaller, so that nothing is ever rounded:
    64 bits of u decide all but one in 2^60 draws.
    """
    bits, height = scale
    size, u = 0, 0
    while True:
        size += 64
        u = u << 64 | source.bits(64)  # u / 2^size <= the uniform number < (u + 1) / 2^size
        low, high = exp_bounds(num, den, size + bits + height.bit_length())
        shift = height.bit_length()  # compare u height 2^shift with 2^(size + bits + shift) exp(-num / den)
        if (u + 1) * height << shift <= low:
            return True
        if u * height << shift >= high:
            return False
