# SPDX-License-Identifier: Apache-2.0
"""Exact noise and exact choices: their probabilities by enumeration and by chi-square, and what is refused.

Draws come from fixed test sources; each chi-square was set to fail by chance with probability 1e-6.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from casemate.core.errors import GuaranteeVoid, InvalidData
from casemate.privacy import _exact, mechanisms
from casemate.privacy._asked import fraction
from casemate.privacy.mechanisms import Rest
from casemate.training.secure import Source, insecure_test_source

LEAST = 1e-6
WINDOW = np.arange(-400, 401)


def agrees(drawn: Sequence[Any], expected: dict[Any, float]) -> None:
    """Check draws against exact probabilities by chi-square; what is rarer than 10 in all is one bin."""
    counts, n = Counter(drawn), len(drawn)
    assert set(counts) <= set(expected), "an answer that cannot occur"
    assert abs(math.fsum(expected.values()) - 1) < 1e-9
    usual = [key for key, p in expected.items() if n * p >= 10]
    seen, due = [counts[key] for key in usual], [n * expected[key] for key in usual]
    if n - sum(due) > 1e-6:
        seen, due = [*seen, n - sum(seen)], [*due, n - sum(due)]
    if len(due) == 1:
        return
    statistic = sum((s - d) ** 2 / d for s, d in zip(seen, due, strict=True))
    assert chi2.sf(statistic, len(due) - 1) > LEAST, (seen, due)


def laplace(scale: float) -> dict[int, float]:
    """Return the discrete Laplace from its definition alone."""
    weights = np.exp(-np.abs(WINDOW) / scale)
    return dict(zip(WINDOW.tolist(), (weights / weights.sum()).tolist(), strict=True))


def gaussian(variance: float) -> dict[int, float]:
    weights = np.exp(-(WINDOW**2) / (2 * variance))
    return dict(zip(WINDOW.tolist(), (weights / weights.sum()).tolist(), strict=True))


# ---------------------------------------------------------------------- every path, by enumeration


class Path(Source):
    """Gives the choices of one path through the tree of draws, then stops at the next one."""

    class Open(Exception):
        """The next draw is one of so many."""

    def __init__(self, choices: tuple[int, ...]) -> None:
        self.left = list(choices)

    def below(self, n: int) -> int:
        if n == 1:
            return 0
        if not self.left:
            raise Path.Open(n)
        return self.left.pop(0)

    def bits(self, n: int) -> int:
        return self.below(2**n)


def enumerated(draw: Callable[[Source], int], missing: float) -> tuple[Counter[int], float]:
    """Walk the likeliest paths until less than ``missing`` is left: exact lower limits, and what is left."""
    heap: list[tuple[float, tuple[int, ...]]] = [(-1.0, ())]
    found: Counter[int] = Counter()
    left = 1.0
    while left > missing:
        mass, path = heapq.heappop(heap)
        try:
            found[draw(Path(path))] -= mass  # type: ignore[assignment]
            left += mass
        except Path.Open as more:
            n = more.args[0]
            for choice in range(n):
                heapq.heappush(heap, (mass / n, (*path, choice)))
    return found, left


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        (lambda s: _exact.bernoulli(2, 5, s), {0: 0.6, 1: 0.4}),
        (lambda s: _exact.bernoulli_exp(1, 3, s), {1: math.exp(-1 / 3), 0: 1 - math.exp(-1 / 3)}),
        (lambda s: _exact.bernoulli_exp(7, 3, s), {1: math.exp(-7 / 3), 0: 1 - math.exp(-7 / 3)}),
        (lambda s: _exact.geometric(1, 1, s), {k: math.exp(-k) * (1 - math.exp(-1)) for k in range(50)}),
        (
            lambda s: _exact.geometric(2, 3, s),
            {k: math.exp(-1.5 * k) * (1 - math.exp(-1.5)) for k in range(50)},
        ),
        (lambda s: _exact.discrete_laplace(1, 1, s), laplace(1.0)),
    ],
)
def test_the_paths_of_a_draw_add_up_to_its_probabilities(
    draw: Callable[[Source], int], expected: dict[int, float]
) -> None:
    found, left = enumerated(draw, 0.04)
    for key, p in expected.items():
        assert found[key] - 1e-12 <= p <= found[key] + left + 1e-12
    assert set(found) <= set(expected)


# ---------------------------------------------------------------------- the two noises


@pytest.mark.parametrize("scale", [Fraction(1, 20), Fraction(1, 2), 1, Fraction(7, 3), 2.5, 11.3])
def test_discrete_laplace(scale: Any) -> None:
    source = insecure_test_source(1)
    agrees([mechanisms.discrete_laplace(scale, source) for _ in range(8000)], laplace(float(scale)))


@pytest.mark.parametrize("variance", [Fraction(1, 20), Fraction(1, 2), 1, Fraction(7, 3), 30, 200.7])
def test_discrete_gaussian(variance: Any) -> None:
    source = insecure_test_source(2)
    agrees([mechanisms.discrete_gaussian(variance, source) for _ in range(8000)], gaussian(float(variance)))


def test_the_noise_of_an_epsilon() -> None:
    source = insecure_test_source(3)
    agrees([mechanisms.geometric(0.4, source) for _ in range(8000)], laplace(2.5))
    one = [mechanisms.add_laplace(7, sensitivity=3, epsilon=1.5, source=source) - 7 for _ in range(8000)]
    agrees(one, laplace(2.0))
    agrees(mechanisms.add_laplace([0] * 8000, sensitivity=3, epsilon=1.5, source=source), laplace(2.0))


def test_the_noise_of_a_rho() -> None:
    source, zeros = insecure_test_source(4), np.zeros(6000, np.int32)
    agrees(mechanisms.add_gaussian(zeros, l2_sensitivity_squared=6, rho=0.5, source=source), gaussian(6.0))
    agrees(
        mechanisms.add_gaussian(zeros, l2_sensitivity_squared=6, sigma_squared=2.25, source=source),
        gaussian(2.25),
    )
    one = [
        mechanisms.add_gaussian(-2, l2_sensitivity_squared=1, rho=0.125, source=source) + 2
        for _ in range(8000)
    ]
    agrees(one, gaussian(4.0))


def test_every_number_has_noise_of_its_own() -> None:
    """No two cells, calls or sources give the same noise: equal ones would cancel in a difference."""
    zeros = [0] * 40
    rows = [mechanisms.add_laplace(zeros, sensitivity=1000, epsilon=0.01) for _ in range(20)]
    rows += [mechanisms.add_gaussian(zeros, l2_sensitivity_squared=10**6, rho=1e-4) for _ in range(20)]
    rows += [[mechanisms.geometric(1e-5) for _ in range(40)]]
    assert all(len(set(row)) > 36 for row in rows)  # 40 draws over a width of about 10^5
    singles = {mechanisms.add_laplace(0, sensitivity=10**9, epsilon=0.01) for _ in range(40)}
    assert len(set(map(tuple, rows))) == len(rows) and len(singles) == 40


def test_wide_noise_is_exact_too() -> None:
    """The low digits of a scale of 10^12 are uniform, and its size is that of the continuous limit."""
    from scipy.stats import kstest

    source, scale = insecure_test_source(5), Fraction(10**12, 3)
    drawn = np.array([mechanisms.discrete_laplace(scale, source) for _ in range(8000)])
    assert chi2.sf(((np.bincount(drawn % 16, minlength=16) - 500) ** 2 / 500).sum(), 15) > LEAST
    assert kstest(drawn / float(scale), "laplace").pvalue > LEAST
    wide = np.array([mechanisms.discrete_gaussian(10**24, source) for _ in range(8000)])
    assert kstest(wide / 1e12, "norm").pvalue > LEAST
    assert chi2.sf(((np.bincount(wide % 16, minlength=16) - 500) ** 2 / 500).sum(), 15) > LEAST


@pytest.mark.parametrize("epsilon", [5e-324, 1e-300, Fraction(1, 10**400)])
def test_the_least_epsilon_gives_noise_beyond_every_float(epsilon: Any) -> None:
    drawn = mechanisms.add_laplace(0, sensitivity=1, epsilon=epsilon, source=insecure_test_source(6))
    assert abs(drawn) > 10**290


def test_numbers_of_any_size_do_not_overflow() -> None:
    source = insecure_test_source(7)
    edge = np.array([2**63 - 1, -(2**63)])
    noisy = mechanisms.add_laplace(edge, sensitivity=2**62, epsilon=1, source=source)
    assert all(type(one) is int for one in noisy)
    high = [
        mechanisms.add_laplace(np.int64(2**63 - 1), sensitivity=1, epsilon=1, source=source)
        for _ in range(50)
    ]
    assert max(high) >= 2**63
    assert mechanisms.add_gaussian(10**30, l2_sensitivity_squared=1, rho=10**6, source=source) == 10**30
    assert mechanisms.add_laplace(np.array([], int), sensitivity=1, epsilon=1) == []
    unsigned = mechanisms.add_laplace(np.array([0] * 60, np.uint8), sensitivity=1, epsilon=1, source=source)
    assert min(unsigned) < 0


def test_ten_thousand_cells_take_a_moment() -> None:
    import time

    began = time.process_time()
    mechanisms.add_gaussian(np.zeros(10_000, int), l2_sensitivity_squared=3, rho=0.01)
    assert time.process_time() - began < 2


# ---------------------------------------------------------------------- what is asked, and what it costs


def test_a_float_is_read_towards_more_privacy() -> None:
    assert fraction(0.1, "epsilon") == Fraction(1, 10) < Fraction(0.1)
    assert fraction(0.1, "scale", up=True) == Fraction(0.1)
    assert fraction(0.7, "epsilon") == Fraction(0.7) < Fraction(7, 10)
    assert fraction(np.float64(0.1), "epsilon") == Fraction(1, 10)
    assert fraction(np.float32(0.1), "epsilon") <= Fraction(float(np.float32(0.1)))
    assert fraction(Decimal("0.1"), "epsilon") == Fraction(1, 10) and fraction(np.int8(3), "epsilon") == 3


@given(st.floats(min_value=5e-324, max_value=1e308))
def test_no_reading_of_a_float_is_exceeded(value: float) -> None:
    low, high = fraction(value, "x"), fraction(value, "x", up=True)
    assert 0 < low <= Fraction(value) <= high and low <= Fraction(repr(value)) <= high


def test_what_noise_costs_is_exact() -> None:
    assert mechanisms.laplace_cost(Fraction(10, 3), sensitivity=5) == ("pure", Fraction(3, 2))
    assert mechanisms.gaussian_cost(9, l2_sensitivity_squared=3) == ("zcdp", Fraction(1, 6))
    assert mechanisms.laplace_cost(0.1, sensitivity=1).parameter >= 10  # never less than it costs
    assert mechanisms.gaussian_cost(0.1, l2_sensitivity_squared=1).parameter >= 5


@pytest.mark.parametrize("call", [
    lambda e: mechanisms.add_laplace(1, sensitivity=1, epsilon=e),
    lambda e: mechanisms.add_gaussian(1, l2_sensitivity_squared=1, rho=e),
    lambda e: mechanisms.add_gaussian(1, l2_sensitivity_squared=1, sigma_squared=e),
    mechanisms.discrete_laplace,
    mechanisms.discrete_gaussian,
    mechanisms.geometric,
    lambda e: mechanisms.exponential([1, 2], sensitivity=1, epsilon=e),
    lambda e: mechanisms.permute_and_flip([1, 2], sensitivity=1, epsilon=e),
    lambda e: mechanisms.report_noisy_max([1, 2], sensitivity=1, epsilon=e),
    lambda e: mechanisms.randomised_response(1, k=2, epsilon=e),
    lambda e: mechanisms.above_threshold([1], threshold=1, positives=1, sensitivity=1, epsilon=e),
])  # fmt: skip
@pytest.mark.parametrize("wrong", [0, -1, 0.0, -0.5, math.inf, -math.inf, math.nan, True, "1", None, 1j])
def test_a_price_that_is_no_number_above_zero(call: Callable[[Any], Any], wrong: Any) -> None:
    with pytest.raises(InvalidData, match=r"must be|either"):
        call(wrong)


@pytest.mark.parametrize("wrong", [0, -1, 1.0, True, np.bool_(True), "1", None, Fraction(1, 2), math.nan])
def test_a_sensitivity_that_is_no_whole_number_above_zero(wrong: Any) -> None:
    some: dict[str, Any] = {"sensitivity": wrong, "epsilon": 1}
    for call in (mechanisms.exponential, mechanisms.permute_and_flip, mechanisms.report_noisy_max):
        with pytest.raises(InvalidData, match="sensitivity must be a whole number"):
            call([1, 2], **some)
    with pytest.raises(InvalidData, match="sensitivity must be a whole number"):
        mechanisms.add_laplace(1, **some)
    with pytest.raises(InvalidData, match="sensitivity must be a whole number"):
        mechanisms.above_threshold([1], threshold=1, positives=1, **some)
    with pytest.raises(InvalidData, match="l2_sensitivity_squared must be a whole number"):
        mechanisms.add_gaussian(1, l2_sensitivity_squared=wrong, rho=1)


@pytest.mark.parametrize(
    "wrong", [1.0, True, np.float64(2), "12", [1.5], [True], np.array([1.0]), None, np.eye(2, dtype=int)]
)
def test_a_value_that_is_no_whole_number(wrong: Any) -> None:
    with pytest.raises(InvalidData, match="whole number"):
        mechanisms.add_laplace(wrong, sensitivity=1, epsilon=1)
    with pytest.raises(InvalidData, match="whole number"):
        mechanisms.add_gaussian(wrong, l2_sensitivity_squared=1, rho=1)


def test_noise_is_taken_from_no_other_generator() -> None:
    for generator in (np.random.default_rng(0), 7, "seed"):
        with pytest.raises(GuaranteeVoid, match="leave source away"):
            mechanisms.geometric(1, generator)  # type: ignore[arg-type]
    with pytest.raises(InvalidData, match="either rho or sigma_squared"):
        mechanisms.add_gaussian(1, l2_sensitivity_squared=1, rho=1, sigma_squared=1)


# ---------------------------------------------------------------------- probabilities and bounds of error


def precise(exponent: Callable[[int], Decimal], k: int) -> Decimal:
    total = sum((exponent(i).exp() for i in range(-400, 401)), Decimal(0))
    return exponent(k).exp() / total


@pytest.mark.parametrize("value", ["0.05", "0.5", "1", "3.9", "4", "37.5"])
def test_stated_probabilities_to_twelve_digits(value: str) -> None:
    with localcontext() as context:
        context.prec = 60
        for k in (0, 1, -3, 9):
            exact = precise(lambda i: -abs(i) / Decimal(value), k) if Decimal(value) < 5 else None
            normal = precise(lambda i: -Decimal(i * i) / (2 * Decimal(value)), k)
            if exact is not None:
                assert float(exact) == pytest.approx(mechanisms.laplace_pmf([k], float(value))[0], rel=1e-12)
            assert float(normal) == pytest.approx(mechanisms.gaussian_pmf([k], float(value))[0], rel=1e-12)


@pytest.mark.parametrize("width", [0.05, 0.3, 1, 2.5, 40])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_bounds_of_error_hold_and_are_tight(width: float, level: float) -> None:
    t = mechanisms.laplace_bound(width, level=level)
    within = [mechanisms.laplace_pmf(np.arange(-far, far + 1), width).sum() for far in (t, t - 1)]
    assert within[0] >= level - 1e-12 and (t == 0 or within[1] < level)
    t = mechanisms.gaussian_bound(width**2, level=level)
    within = [mechanisms.gaussian_pmf(np.arange(-far, far + 1), width**2).sum() for far in (t, t - 2)]
    assert within[0] >= level and (t < 2 or within[1] < level)


@pytest.mark.parametrize("level", [0, 1, -1, 2, math.nan])
def test_no_such_level(level: float) -> None:
    with pytest.raises(InvalidData, match="between 0 and 1"):
        mechanisms.laplace_bound(1, level=level)


@given(st.integers(0, 10**6), st.integers(1, 10**4), st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_bounds_of_an_exponential_hold(num: int, den: int, bits: int) -> None:
    low, high = _exact.exp_bounds(num, den, bits)
    with localcontext() as context:
        context.prec, context.Emin = 120, -(10**9)
        value = (-Decimal(num) / Decimal(den)).exp() * 2**bits
        assert low <= value <= high and high - low <= 2


class Told(Source):
    """Gives the words it was told, then zeros."""

    def __init__(self, *words: int) -> None:
        self.words = list(words)

    def bits(self, n: int) -> int:
        return self.words.pop(0) if self.words else 0


def test_a_close_call_is_worked_out_further() -> None:
    with localcontext() as context:
        context.prec = 120
        threshold = Decimal(-2).exp() * 2**10 / 900  # of accept(2, 1, (10, 900))
        word = int(threshold * 2**64)
        second = int((threshold * 2**64 - word) * 2**64)

    def kept(*words: int) -> bool:
        return _exact.accept(2, 1, (10, 900), Told(*words))

    assert kept(word - 1) and not kept(word + 1)
    assert kept(word, 0) and not kept(word, 2**64 - 1)
    assert kept(word, second - 1) and not kept(word, second + 1) and kept(word, second, 0)


# ---------------------------------------------------------------------- choices


def chosen(utilities: Sequence[int], weights: Sequence[int], rate: float) -> dict[int, float]:
    top = max(u for u, w in zip(utilities, weights, strict=True) if w)
    masses = [w * math.exp(rate * (u - top)) if w else 0.0 for u, w in zip(utilities, weights, strict=True)]
    return {i: mass / math.fsum(masses) for i, mass in enumerate(masses) if mass}


@pytest.mark.parametrize(
    ("utilities", "weights", "sensitivity", "epsilon"),
    [
        ([0, 1, 2, 3], [1, 1, 1, 1], 1, 1),
        ([5, 5, 5], [1, 2, 3], 1, 0.3),
        ([0, -1, -2, -9], [1, 5, 50, 10**6], 1, 2.7),
        ([3, 0, 7, 7, -2], [4, 1, 0, 2, 90], 2, 5),
        ([9, 0, 0], [0, 3, 1], 1, 8),  # what has no weight does not count as the best
        ([0, -30, -60, -45], [1, 2**43, 2**86, 1], 1, 2),  # too wide to reject alone, and wider than 64 bits
        (list(range(0, -600, -1)), [1] * 600, 1, 0.05),  # 40 levels a block
        ([-i // 2 for i in range(300)], [1 + i * i for i in range(300)], 3, 0.7),
        ([2**63 - 1, -(2**63), 2**63 - 3], [1, 1, 1], 1, 1),  # apart by more than an int64
        ([10**30, 10**30 - 1, 0], [1, 1, 10**25], 1, 2),
    ],
)
@pytest.mark.parametrize("monotonic", [False, True])
def test_exponential_mechanism(
    utilities: list[int], weights: list[int], sensitivity: int, epsilon: Any, monotonic: bool
) -> None:
    source = insecure_test_source(8)
    some: dict[str, Any] = {
        "weights": None if set(weights) == {1} else weights,
        "sensitivity": sensitivity,
        "epsilon": epsilon,
        "monotonic": monotonic,
        "source": source,
    }
    drawn = [mechanisms.exponential(utilities, **some) for _ in range(800)]
    agrees(drawn, chosen(utilities, weights, epsilon / (sensitivity * (1 if monotonic else 2))))


def test_large_arrays_and_their_sums_are_exact() -> None:
    from casemate.privacy._selection import _sums, _total

    rng = np.random.default_rng(0)
    w, block = rng.integers(0, 2**62, 5000), rng.integers(0, 7, 5000)
    by_hand = [sum(int(one) for one in w[block == i]) for i in range(7)]
    assert _sums(block, w, 7) == by_hand and _total(w) == sum(by_hand)  # 2^74: more than int64 or floats hold
    assert _sums(block, w.astype(object), 7) == by_hand
    tiny = np.full(40, 2**62)
    found = {
        mechanisms.exponential(
            np.zeros(40, np.int8), weights=tiny, sensitivity=1, epsilon=1, source=insecure_test_source(i)
        )
        for i in range(400)
    }
    assert found == set(range(40))


def test_far_candidates_are_proposed_and_never_kept() -> None:
    """They are 1 in 513 proposals, whose true chance is 10^12 exp(-1000)."""
    source = insecure_test_source(9)
    some: dict[str, Any] = {"weights": [1, 2**40], "sensitivity": 1, "epsilon": 2, "source": source}
    assert sum(mechanisms.exponential([0, -1000], **some) for _ in range(3000)) == 0


class Counted(Source):
    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed)
        self.asked = 0

    def bits(self, n: int) -> int:
        self.asked += 1
        return super().bits(n)


def test_no_weights_make_it_slow() -> None:
    """At least 1 in e + 1/256 proposals is kept: 4 draws or so a proposal."""
    rng = np.random.default_rng(0)
    for seed in range(8):
        source = Counted(seed)
        u = -rng.integers(0, 10**6, 2000)
        w = 2 ** rng.integers(0, 55, 2000)
        for _ in range(20):
            mechanisms.exponential(
                u, weights=w, sensitivity=1, epsilon=float(rng.choice([1e-6, 0.01, 1, 50])), source=source
            )
        assert source.asked < 20 * 30


def test_a_rest_is_as_good_as_a_list() -> None:
    source = insecure_test_source(10)
    listed = [0, -1, -2, *([-3] * 6), *([-4] * 5)]
    rest = Rest(weight=11, utility=-3, at=lambda position: -3 if position < 6 else -4)
    drawn = [
        mechanisms.exponential([0, -1, -2], sensitivity=1, epsilon=1, rest=rest, source=source)
        for _ in range(3000)
    ]
    agrees(drawn, chosen(listed, [1] * 14, 0.5))
    wide = Rest(weight=2**50, utility=-200, at=lambda position: -200)
    drawn = [
        mechanisms.exponential([0, -1], sensitivity=1, epsilon=2, rest=wide, source=source)
        for _ in range(3000)
    ]
    agrees(drawn, chosen([0, -1], [1, 1], 1.0))
    with pytest.raises(InvalidData, match="above 0"):
        mechanisms.exponential([0], sensitivity=1, epsilon=1, rest=Rest(5, 1, lambda position: 1))
    with pytest.raises(InvalidData, match="above -1"):
        for _ in range(200):
            mechanisms.exponential([0], sensitivity=1, epsilon=1, rest=Rest(5, -1, lambda position: 0))


def flipped(utilities: Sequence[int], rate: float) -> dict[int, float]:
    """Return the law of permute-and-flip: p_i times the integral over t in [0, 1] of the product of 1 - p_j t."""
    top = max(utilities)
    p = [math.exp(rate * (u - top)) for u in utilities]
    out = {}
    for i, own in enumerate(p):
        polynomial = np.poly1d([1.0])
        for j, other in enumerate(p):
            polynomial = polynomial if i == j else polynomial * np.poly1d([-other, 1.0])
        whole = polynomial.integ()
        out[i] = float(own * (whole(1.0) - whole(0.0)))
    return out


@pytest.mark.parametrize(("monotonic", "rate"), [(False, 0.25), (True, 0.5)])
def test_permute_and_flip(monotonic: bool, rate: float) -> None:
    source, utilities = insecure_test_source(11), [0, 3, 9, 9, 7, 1]
    drawn = [
        mechanisms.permute_and_flip(utilities, sensitivity=2, epsilon=1, monotonic=monotonic, source=source)
        for _ in range(8000)
    ]
    agrees(drawn, flipped(utilities, rate))


def noisiest(utilities: Sequence[int], rate: float) -> dict[int, float]:
    """Return the law of report-noisy-max with geometric noise and ties broken evenly, by summing over all noise."""
    far = 36
    noise = (1 - math.exp(-rate)) * np.exp(-rate * np.arange(far))
    out = dict.fromkeys(range(len(utilities)), 0.0)
    for drawn in itertools.product(range(far), repeat=len(utilities)):
        noisy = [u + r for u, r in zip(utilities, drawn, strict=True)]
        best = [i for i, one in enumerate(noisy) if one == max(noisy)]
        for i in best:
            out[i] += math.prod(noise[r] for r in drawn) / len(best)
    return {i: p / math.fsum(out.values()) for i, p in out.items()}


@pytest.mark.parametrize(("monotonic", "rate"), [(False, 0.5), (True, 1.0)])
def test_report_noisy_max(monotonic: bool, rate: float) -> None:
    source, utilities = insecure_test_source(12), [1, 0, 1]
    drawn = [
        mechanisms.report_noisy_max(utilities, sensitivity=2, epsilon=2, monotonic=monotonic, source=source)
        for _ in range(8000)
    ]
    agrees(drawn, noisiest(utilities, rate))


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("answer", [0, 1])
def test_randomised_response(k: int, answer: int) -> None:
    source = insecure_test_source(13)
    total = math.exp(0.8) + k - 1
    expected = {i: (math.exp(0.8) if i == answer else 1) / total for i in range(k)}
    drawn = [mechanisms.randomised_response(answer, k=k, epsilon=0.8, source=source) for _ in range(3000)]
    agrees(drawn, expected)


def test_a_response_among_a_billion_takes_no_longer() -> None:
    source = insecure_test_source(14)
    drawn = [
        mechanisms.randomised_response(10**9 - 1, k=10**9, epsilon=25, source=source) for _ in range(1000)
    ]
    share = math.exp(25) / (math.exp(25) + 10**9 - 1)
    agrees([one == 10**9 - 1 for one in drawn], {True: share, False: 1 - share})
    assert max(drawn) < 10**9


@pytest.mark.parametrize(
    "call", [mechanisms.exponential, mechanisms.permute_and_flip, mechanisms.report_noisy_max]
)
def test_choices_that_are_none(call: Callable[..., int]) -> None:
    with pytest.raises(InvalidData, match="nothing to choose from"):
        call([], sensitivity=1, epsilon=1)
    with pytest.raises(InvalidData, match="utility must be a whole number"):
        call([1, 0.5], sensitivity=1, epsilon=1)
    assert call(np.array([7], np.uint64), sensitivity=1, epsilon=1) == 0
    assert call([10**40, 0], sensitivity=1, epsilon=1) == 0


def test_weights_and_answers_that_are_none() -> None:
    for weights, said in (
        ([0, 0], "every weight is 0"),
        ([1, -1], ">= 0"),
        ([1], "one weight"),
        ([1, 0.5], "whole"),
    ):
        with pytest.raises(InvalidData, match=said):
            mechanisms.exponential([1, 2], weights=weights, sensitivity=1, epsilon=1)  # type: ignore[arg-type]
    for answer, k in ((2, 2), (-1, 2), (0, 1), (True, 2)):
        with pytest.raises(InvalidData, match="must be"):
            mechanisms.randomised_response(answer, k=k, epsilon=1)


@pytest.mark.parametrize("u", [[0, 40], [0, 2**62], [0, 10**40]])
@pytest.mark.parametrize("epsilon", [1e-3, 1e-30, 1e-300])
def test_a_grid_of_any_fineness_and_the_least_epsilon_are_chosen_from(u: list[int], epsilon: float) -> None:
    for values in (u, np.array(u) if u[1] < 2**63 else u):
        for sensitivity in (1, 10**25):
            assert mechanisms.exponential(values, sensitivity=sensitivity, epsilon=epsilon) in (0, 1)


# ---------------------------------------------------------------------- above a threshold


def said(answers: Sequence[int], positives: int, scales: tuple[float, float]) -> dict[str, float]:
    """Return the law of what the sparse vector says, about threshold 0, by summing over the threshold's noise."""
    bar, noise = laplace(scales[0]), np.array(list(laplace(scales[1]).values()))
    above = {a: np.concatenate([noise[::-1].cumsum()[::-1], [0.0]]) for a in answers}
    out: Counter[str] = Counter()
    for z, p in bar.items():
        chances = [float(above[a][min(max(z - a - int(WINDOW[0]), 0), len(noise))]) for a in answers]
        states = {"": p}
        for chance in chances:
            following: Counter[str] = Counter()
            for text, mass in states.items():
                if text.count("1") == positives:
                    following[text] += mass  # type: ignore[assignment]
                    continue
                following[text + "1"] += mass * chance  # type: ignore[assignment]
                following[text + "0"] += mass * (1 - chance)  # type: ignore[assignment]
            states = following
        out.update(states)
    return {text: p / math.fsum(out.values()) for text, p in out.items()}


@pytest.mark.parametrize(
    ("positives", "scales"), [(1, (2 * 2 / 1.5, 2 * 2 * 2 / 1.5)), (2, (2 * 3 / 1.5, 2 * 2 * 2 * 1.5 / 1.5))]
)
def test_what_the_sparse_vector_says(positives: int, scales: tuple[float, float]) -> None:
    """Shares of epsilon 1.5: 1 to 1 for one positive, 1 to 2 for two (the cube root of 16 is 2 and a half)."""
    source, answers = insecure_test_source(15), [3, -2, 0, 6]

    def once() -> str:
        some: dict[str, Any] = {"threshold": 100, "positives": positives, "sensitivity": 2, "epsilon": 1.5}
        found = mechanisms.above_threshold([a + 100 for a in answers], source=source, **some)
        return "".join("01"[one] for one in found)

    agrees([once() for _ in range(8000)], said(answers, positives, scales))


def test_the_sparse_vector_stops_and_asks_one_by_one() -> None:
    asked = []

    def answers() -> Iterator[int]:
        for one in itertools.count():
            asked.append(one)
            yield 1000 if one % 3 == 2 else -1000

    some: dict[str, Any] = {"threshold": 0, "sensitivity": 1, "epsilon": 10}
    found = mechanisms.above_threshold(answers(), positives=2, **some)
    assert [next(found), next(found)] == [False, False] and asked == [0, 1]
    assert list(found) == [True, False, False, True] and asked[-1] == 5
    assert list(mechanisms.above_threshold([], positives=2, **some)) == []
    for wrong in ({"positives": 0}, {"positives": 1.0}, {"positives": 1, "threshold": 0.5}):
        with pytest.raises(InvalidData, match="whole number"):
            mechanisms.above_threshold([1], **(some | wrong))
    with pytest.raises(InvalidData, match="answer must be a whole number"):
        list(mechanisms.above_threshold([0.5], positives=1, **some))  # type: ignore[list-item]
