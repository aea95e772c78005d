# SPDX-License-Identifier: Apache-2.0
"""Private choices: which candidate is best, which answers lie above a threshold, what one person says.

Utilities are whole numbers (put others on a public grid). ``sensitivity`` is the most that any one utility moves
between neighbours. With ``monotonic`` all utilities move the same way (counts, where a unit is added *or* removed,
never replaced), and half the noise suffices. Public names stand in :mod:`casemate.privacy.mechanisms`.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from casemate.core.errors import InvalidData
from casemate.privacy import _exact
from casemate.privacy._asked import drawn_from, fraction, whole, wholes
from casemate.training.secure import Source

_SLACK = 8  # bits: the proposals that rounding up adds are at most 2^-8 of those that count
_PIECE = 21  # bits of a weight summed at once: 2^32 such pieces stay below 2^53, where floats are exact


class Rest(NamedTuple):
    """Candidates far from the best that are not listed one by one, such as the outer parts of a quantile's range.

    Exact whatever it holds; fast where weight x exp(-b (u_max - utility)) is small, else it is proposed in vain.

    >>> Rest(weight=10**9, utility=-500, at=lambda position: -500 - position).weight
    1000000000
    """

    weight: int  # how many there are
    utility: int  # none is above this, nor above the best of those that are listed
    at: Callable[[int], int]  # the utility of the one at a position in [0, weight)


def exponential(
    utilities: Sequence[int] | np.ndarray,
    *,
    sensitivity: int,
    epsilon: Any,
    weights: Sequence[int] | np.ndarray | None = None,
    rest: Rest | None = None,
    monotonic: bool = False,
    source: Source | None = None,
) -> int:
    """Choose i with probability in proportion to w_i exp(epsilon u_i / (2 sensitivity)) (McSherry and Talwar 2007).

    **Guarantee.** Between neighbours each exponential changes by at most exp(epsilon / 2), and so does their sum: pure
    epsilon. (It is also epsilon^2 / 8-zCDP: Cesar and Rogers 2021.) A monotonic utility leaves out the 2. A weight
    stands for that many candidates of one utility, such as the grid points between two sorted values: the candidates
    must be the same for neighbours, how they are bundled may differ.

    **How it is exact and fast.** With b = epsilon / (2 sensitivity) and d = u_max - u, the candidates are bundled into
    blocks of about 1 / b levels of d. A block is proposed with its weight times a whole number h >= 2^p exp(-b d) (for
    the smallest d in it), a candidate in it by weight, and kept with the exact chance 2^p exp(-b d) / h. Rejecting
    alone could take 2^60 tries where the good candidates are narrow; here at least 1 in e + 1/256 is kept, whatever the
    weights. Cost: a few passes over the n candidates, and at most about 2 p <= 2 log2(sum of weights) + 20 blocks.

    Args:
        utilities: u (n,), whole.
        weights: w (n,), whole numbers >= 0; None: all 1.
        rest: further candidates, looked at only when they are chosen.
        monotonic: see the head of this file.

    Returns:
        i; or n + the position in ``rest``.

    >>> exponential([0, 40, 0], sensitivity=1, epsilon=10)
    1
    """
    source, rate = drawn_from(source), _rate(sensitivity, epsilon, monotonic)
    u = whole_array(utilities, "utility")  # (n,)
    w = None if weights is None else whole_array(weights, "weight")
    _choosable(u, w)
    top = int((u if w is None else u[w > 0]).max())
    depth = _depth(u, top)  # (n,) >= 0; what has no weight is never looked at
    total = (len(u) if w is None else _total(w)) + (0 if rest is None else rest.weight)
    bits = total.bit_length() + _SLACK
    width = max(rate.denominator // rate.numerator, 1)  # levels a block
    if depth.dtype != object:
        width = min(width, 2**62)  # NumPy divides by no more; blocks may always be narrower
    heights = _heights(rate * width, bits, int(depth.max()) // width)
    last = len(heights) - 1
    block = np.minimum(depth, last * width) // width  # (n,) the last block has all that is deeper
    masses = [weight * high for weight, high in zip(_sums(block, w, last + 1), heights, strict=True)]
    if rest is not None:
        _rest_below(rest.utility, top)
        heights.append(_height(rate * (top - rest.utility), bits))
        masses.append(rest.weight * heights[-1])
    while True:
        chosen = _pick(masses, source)
        if rest is not None and chosen > last:
            index, deep = _beyond(rest, top, source)
            index += len(u)
        else:
            index = _within(np.flatnonzero(block == chosen), w, source)
            deep = int(depth[index])
        exponent = rate * deep
        if _exact.accept(exponent.numerator, exponent.denominator, (bits, heights[chosen]), source):
            return index


def permute_and_flip(
    utilities: Sequence[int] | np.ndarray,
    *,
    sensitivity: int,
    epsilon: Any,
    monotonic: bool = False,
    source: Source | None = None,
) -> int:
    """Go through the candidates in random order, take the first whose coin of exp(-b (u_max - u)) falls on yes.

    **Guarantee** (McKenna and Sheldon 2020), for b = epsilon / (2 sensitivity): pure epsilon, as the exponential
    mechanism, and never worse: the expected shortfall is at most that mechanism's, down to half of it. It has the law
    of report-noisy-max with continuous exponential noise (Ding et al. 2021), which no grid can spoil here. The best
    candidate's coin is always yes, so it ends after one round, of at most n coins. Prefer it where candidates are
    listed one by one (a mode, a best model); :func:`exponential` takes weights.

    >>> permute_and_flip([0, 3, 80], sensitivity=1, epsilon=2)
    2
    """
    source, rate = drawn_from(source), _rate(sensitivity, epsilon, monotonic)
    u = wholes(utilities, "utility")
    _choosable(u, None)
    top, order = max(u), list(range(len(u)))
    for k in range(len(u)):
        other = k + source.below(len(u) - k)  # Fisher and Yates, no further than needed
        order[k], order[other] = order[other], order[k]
        exponent = rate * (top - u[order[k]])
        if _exact.bernoulli_exp(exponent.numerator, exponent.denominator, source):
            break
    return order[k]


def report_noisy_max(
    utilities: Sequence[int] | np.ndarray,
    *,
    sensitivity: int,
    epsilon: Any,
    monotonic: bool = False,
    source: Source | None = None,
) -> int:
    """Return where u plus one-sided geometric noise of scale 2 sensitivity / epsilon is largest, and not how large.

    **Guarantee** (Dwork and Roth 2014, Claim 3.9; Ding et al. 2021): pure epsilon. Fix the noise of the others. i wins
    where its own noise reaches some whole r. For a neighbour every utility moves by at most the sensitivity s, so that
    r + 2 s is enough, and P(noise >= r + 2 s) >= exp(-epsilon) P(noise >= r). This holds in whole numbers because s is
    one and because ties are broken by a random order drawn without the data; a rule that looks at the utilities would
    void it. Ties cost accuracy alone: :func:`permute_and_flip` has none, needs fewer draws, and is to be preferred.

    >>> report_noisy_max([0, 3, 80], sensitivity=1, epsilon=2)
    2
    """
    source, rate = drawn_from(source), _rate(sensitivity, epsilon, monotonic)
    u = wholes(utilities, "utility")
    _choosable(u, None)
    noisy = [one + _exact.geometric(rate.denominator, rate.numerator, source) for one in u]
    best = max(noisy)
    tied = [i for i, one in enumerate(noisy) if one == best]
    return tied[source.below(len(tied))]


def randomised_response(answer: int, *, k: int, epsilon: Any, source: Source | None = None) -> int:
    """Return ``answer``, one of 0 .. k - 1, with probability e^epsilon / (e^epsilon + k - 1), else one of the others.

    **Guarantee** (Warner 1965; Kairouz et al. 2016): pure epsilon for the one person who answers, against everybody,
    the collector included: no two truths give an answer with probabilities more than e^epsilon apart. The chances are
    irrational and still exact: it is :func:`exponential` with one candidate of utility 1 and k - 1 of utility 0.
    A share p among n answers is read back as (p (e^epsilon + k - 1) - 1) / (e^epsilon - 1).

    >>> randomised_response(2, k=4, epsilon=50)
    2
    """
    k = whole(k, "k", least=2)
    if whole(answer, "answer", least=0) >= k:
        raise InvalidData(f"answer must be one of 0 .. {k - 1}; got {answer!r}")
    source, epsilon = drawn_from(source), fraction(epsilon, "epsilon")
    if (
        exponential([1, 0], weights=[1, k - 1], sensitivity=1, epsilon=epsilon, monotonic=True, source=source)
        == 0
    ):
        return int(answer)
    other = source.below(k - 1)
    return other + (other >= answer)


def above_threshold(
    answers: Iterable[int],
    *,
    threshold: int,
    positives: int,
    sensitivity: int,
    epsilon: Any,
    source: Source | None = None,
) -> Iterator[bool]:
    """Say of each answer in turn whether it is above ``threshold``, and stop after the ``positives``-th that is.

    The sparse vector technique: however many answers are below, only the positives are paid for. ``answers`` may be an
    iterator that makes the next answer after hearing of the last.

    **Guarantee** (Lyu, Su and Li 2017, Algorithm 1): pure epsilon = e1 + e2 for all that is said. The threshold gets
    noise of scale s / e1 once, each answer fresh noise of scale 2 c s / e2, for sensitivity s and c positives. Where
    neighbours move every answer by at most s, moving the threshold's noise by s (a factor exp(e1)) makes every "below"
    at least as likely; each of at most c "above" needs its own noise to move by 2 s more (exp(e2 / c) each). All of it
    holds in whole numbers. e1 : e2 = 1 : (2 c)^(2/3), which makes the comparison least noisy.

    **What it does not give.** No numbers: an answer that is above must be bought again, with noise of its own. The
    published variants that leave out the noise of the answers, its factor c or 2, the stop after c, or that give the
    noisy answer away, are not private; tests hold each of them off. Drawing the threshold's noise again after a
    positive (Dwork and Roth 2014) is right with c times that noise, and Lyu et al. show that it need not be done.

    >>> list(above_threshold([0, 500, 0, 500, 500], threshold=250, positives=2, sensitivity=1, epsilon=4))
    [False, True, False, True]
    """
    source, epsilon = drawn_from(source), fraction(epsilon, "epsilon")
    sensitivity, c = whole(sensitivity, "sensitivity", least=1), whole(positives, "positives", least=1)
    share = _cube_root(4 * c * c)  # (2 c)^(2/3), rounded down: any split is private
    first = sensitivity * (1 + share) / epsilon
    each = 2 * c * sensitivity * (1 + share) / (share * epsilon)
    level = whole(threshold, "threshold")
    return _compared(iter(answers), level, c, (first, each), source)


def _compared(
    answers: Iterator[int], level: int, left: int, scales: tuple[Fraction, Fraction], source: Source
) -> Iterator[bool]:
    first, each = scales
    bar = level + _exact.discrete_laplace(first.numerator, first.denominator, source)
    while left:
        try:
            answer = whole(next(answers), "answer")
        except StopIteration:
            return
        above = answer + _exact.discrete_laplace(each.numerator, each.denominator, source) >= bar
        left -= above
        yield above


def whole_array(values: Any, name: str) -> np.ndarray:
    """Return whole numbers (n,) as int64, or as Python ints where they do not fit."""
    fits = (
        isinstance(values, np.ndarray) and values.dtype.kind in "iu" and np.can_cast(values.dtype, np.int64)
    )
    if fits and values.ndim == 1:
        return np.asarray(values, np.int64)
    found = wholes(values, name)
    small = all(-(2**63) <= one < 2**63 for one in found)
    return np.array(found, np.int64 if small else object)


def _rate(sensitivity: int, epsilon: Any, monotonic: bool) -> Fraction:
    """Return what one step of utility is worth: epsilon / (2 sensitivity), or / sensitivity."""
    return fraction(epsilon, "epsilon") / (
        (1 if monotonic else 2) * whole(sensitivity, "sensitivity", least=1)
    )


def _choosable(u: Sequence[int] | np.ndarray, w: np.ndarray | None) -> None:
    if not len(u):
        raise InvalidData("nothing to choose from: there are no utilities")
    if w is None:
        return
    if len(w) != len(u):
        raise InvalidData(f"each utility has one weight: got {len(w)} weights and {len(u)} utilities")
    if int(w.min()) < 0:
        raise InvalidData(f"weight must be a whole number >= 0; got {int(w.min())}")
    if not int(w.max()):
        raise InvalidData("nothing to choose from: every weight is 0")


def _depth(u: np.ndarray, top: int) -> np.ndarray:
    """Return max(top - u, 0) (n,), in Python ints where it would overflow."""
    if top - int(u.min()) >= 2**63:
        u = u.astype(object)
    return np.maximum(top - u, 0)


def _total(w: np.ndarray) -> int:
    high, low = int((w >> 32).sum()), int((w & 0xFFFFFFFF).sum())
    return (high << 32) + low


def _heights(exponent: Fraction, bits: int, farthest: int) -> list[int]:
    """Return h_j >= 2^bits exp(-j exponent) up to the block ``farthest``, or to the first h_j = 1."""
    heights = [1 << bits]
    while len(heights) <= farthest and heights[-1] > 1:
        heights.append(_height(exponent * len(heights), bits))
    return heights


def _height(exponent: Fraction, bits: int) -> int:
    return _exact.exp_bounds(exponent.numerator, exponent.denominator, bits)[1]


def _sums(block: np.ndarray, w: np.ndarray | None, n: int) -> list[int]:
    """Return the exact sum of the weights in each of ``n`` blocks."""
    inside = block.astype(np.int64, copy=False)
    if w is None:
        return [int(one) for one in np.bincount(inside, minlength=n)]
    sums = [0] * n
    if w.dtype == object:
        for one, weight in zip(inside.tolist(), w.tolist(), strict=True):
            sums[one] += weight
        return sums
    for shift in range(0, int(w.max()).bit_length(), _PIECE):
        pieces = np.bincount(inside, (w >> shift) & ((1 << _PIECE) - 1), minlength=n)
        sums = [known + (int(more) << shift) for known, more in zip(sums, pieces, strict=True)]
    return sums


def _pick(masses: list[int], source: Source) -> int:
    """Return i with probability masses[i] / sum."""
    reached = list(itertools.accumulate(masses))
    return bisect.bisect_right(reached, source.below(reached[-1]))


def _within(members: np.ndarray, w: np.ndarray | None, source: Source) -> int:
    """Return one of ``members``, by weight."""
    if w is None:
        return int(members[source.below(len(members))])
    inside = w[members]
    if _total(inside) >= 2**63:
        inside = inside.astype(object)
    reached = np.cumsum(inside)
    return int(members[np.searchsorted(reached, source.below(int(reached[-1])), side="right")])


def _beyond(rest: Rest, top: int, source: Source) -> tuple[int, int]:
    position = source.below(rest.weight)
    utility = whole(rest.at(position), "utility of the rest")
    _rest_below(utility, rest.utility)
    return position, top - utility


def _rest_below(utility: int, most: int) -> None:
    if utility > most:
        raise InvalidData(f"no utility of the rest may be above {most}; got {utility}")


def _cube_root(n: int) -> int:
    """Return floor(n^(1/3)) by bisection."""
    low, high = 0, 1 << (n.bit_length() // 3 + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle**3 <= n else (low, middle)
    return low
