# SPDX-License-Identifier: Apache-2.0
"""The stochastic tester: true mechanisms pass, planted faults are found, and it says no more than it knows.

Draws come from fixed test sources; a true mechanism would be accused with probability 1e-6 by its own error rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from casemate.core.errors import InvalidData
from casemate.privacy import mechanisms, tester
from casemate.training.secure import Source, insecure_test_source

Mechanism = Callable[[Any, Source, int], Any]


def laplace(value: int, source: Source, n: int) -> list[int]:
    return mechanisms.add_laplace([value] * n, sensitivity=1, epsilon=1, source=source)


def each(draw: Callable[[Any, Source], Any]) -> Mechanism:
    return lambda data, source, n: [draw(data, source) for _ in range(n)]


def best(choose: Callable[..., int]) -> Mechanism:
    return each(lambda u, source: choose(u, sensitivity=1, epsilon=1, source=source))


def vector(data: Any, source: Source) -> tuple[bool, ...]:
    return tuple(
        mechanisms.above_threshold(data, threshold=0, positives=1, sensitivity=1, epsilon=1, source=source)
    )


TRUE: dict[str, tuple[Mechanism, tuple[Any, Any], float]] = {
    "laplace": (laplace, (0, 1), 0.0),
    "laplace, a histogram of a moved person": (
        each(lambda v, s: mechanisms.add_laplace(v, sensitivity=2, epsilon=1, source=s)), ([3, 0], [2, 1]), 0.0,
    ),
    # sigma 2: Phi(-1.75) - e Phi(-2.25) = 0.007 in the continuous limit
    "gaussian": (
        lambda v, s, n: mechanisms.add_gaussian([v] * n, l2_sensitivity_squared=1, rho=0.125, source=s), (0, 1), 0.01,
    ),
    "exponential": (best(mechanisms.exponential), ([2, 0, 0], [1, 1, 1]), 0.0),
    "permute and flip": (best(mechanisms.permute_and_flip), ([2, 0, 0], [1, 1, 1]), 0.0),
    "noisy maximum": (best(mechanisms.report_noisy_max), ([2, 0, 0], [1, 1, 1]), 0.0),
    "randomised response": (
        each(lambda v, s: mechanisms.randomised_response(v, k=3, epsilon=1, source=s)), (0, 2), 0.0,
    ),
    "sparse vector": (each(vector), ([0, 0, 0, 1], [1, 1, 1, 0]), 0.0),
}  # fmt: skip


@pytest.mark.parametrize("name", TRUE)
def test_a_true_mechanism_passes(name: str) -> None:
    run, neighbours, delta = TRUE[name]
    found = tester.sampled(run, neighbours, epsilon=1.0, delta=delta, n=4000, source=insecure_test_source(1))
    assert not found.violated and 0 <= found.low <= 1 < found.ceiling
    assert "no violation found at this power" in str(found) and "safe" not in str(found)


def test_it_comes_close_to_what_is_true() -> None:
    found = tester.sampled(laplace, (0, 1), epsilon=1.0, n=20_000, source=insecure_test_source(2))
    assert 0.8 < found.low < 1.0


# ---------------------------------------------------------------------- planted faults


def floats(data: float, source: Source, n: int, scale: float = 1.0) -> np.ndarray:
    u = source.uniforms(n) - 0.5
    return data - scale * np.sign(u) * np.log1p(-2 * np.abs(u))


def survey(data: np.ndarray, source: Source, n: int) -> Any:
    """The private mean of the survey: n answers, nothing clamped, floats."""
    return [tuple(floats(float(data.mean()), source, len(data), 1 / len(data))) for _ in range(n)]


def doubled_zero(value: int, source: Source, n: int) -> list[int]:
    from casemate.privacy._exact import geometric

    return [value + (-1) ** source.bits(1) * geometric(1, 1, source) for _ in range(n)]


def silent_vector(data: Any, source: Source) -> tuple[bool, ...]:
    bar = mechanisms.discrete_laplace(2, source)
    return tuple(one >= bar for one in data)


def own_bounds(data: np.ndarray, source: Source, n: int) -> np.ndarray:
    low, high = data.min(), data.max()
    return np.clip(floats(float(data.mean()), source, n, float(high - low) / len(data)), low, high)


def seeded(value: int, source: Source, n: int) -> list[int]:
    return [laplace(value, insecure_test_source(0), 1)[0] for _ in range(n)]


FAULTS: dict[str, tuple[Mechanism, tuple[Any, Any]]] = {
    "noise halved": (lambda v, s, n: mechanisms.add_laplace([v] * n, sensitivity=1, epsilon=2, source=s), (0, 1)),
    "sensitivity off by two": (laplace, (0, 2)),
    "nothing clamped": (lambda v, s, n: laplace(sum(v), s, n), ([1, 1], [1, 1000])),
    "no noise": (lambda v, s, n: [v] * n, (0, 1)),
    "one noise for all": (
        each(lambda v, s: [one + noise for noise in laplace(0, s, 1) for one in v]), ([1, 0], [0, 1]),
    ),
    "noise of a fixed seed": (seeded, (0, 1)),
    "zero counted twice": (doubled_zero, (0, 1)),
    "noise on a porous grid": (floats, (0.0, 1.0)),
    "as many answers as people": (survey, (np.zeros(8), np.zeros(9))),
    "n noises averaged away": (survey, (np.zeros(60), np.r_[np.zeros(59), 1.0])),
    "bounds of the data": (own_bounds, (np.zeros(20), np.r_[np.zeros(19), 1.0])),
    "a missing number passes": (lambda v, s, n: np.sum(v) + floats(0.0, s, n), (np.zeros(3), np.array([0, 0, np.nan]))),
    "no noise on the answers": (each(silent_vector), ([0, 1], [1, 0])),
    "the noisy maximum without noise": (each(lambda u, s: int(np.argmax(u))), ([1, 0], [0, 1])),
    "half the noise of a choice": (
        each(lambda u, s: mechanisms.exponential(u, sensitivity=1, epsilon=3, source=s)), ([2, 0, 0], [1, 1, 1]),
    ),
    "a key that one person has alone": (
        each(lambda keys, s: tuple(key for key in keys if s.below(8))), (("Bern", "Uri"), ("Bern", "Uri", "Zug")),
    ),
    "the sign of zero": (lambda v, s, n: np.full(n, v) * 0.0, (1.0, -1.0)),
    "a person named": (each(lambda v, s: v if s.below(20) == 0 else "nobody"), ("Ann", "Bob")),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name: str) -> None:
    run, neighbours = FAULTS[name]
    found = tester.sampled(run, neighbours, epsilon=1.0, n=4000, source=insecure_test_source(3))
    assert found.violated and 1 < found.low <= found.ceiling and "violated" in str(found)
    again = tester.sampled(run, neighbours[::-1], epsilon=1.0, n=4000, source=insecure_test_source(4))
    assert again.violated  # whichever of the two comes first


def test_a_rare_leak_is_allowed_for_by_delta_alone() -> None:
    run = each(lambda v, s: v if s.below(20) == 0 else "nobody")
    some: dict[str, Any] = {"epsilon": 1.0, "n": 8000, "source": insecure_test_source(5)}
    assert tester.sampled(run, ("Ann", "Bob"), delta=0.01, **some).violated
    assert not tester.sampled(run, ("Ann", "Bob"), delta=0.06, **some).violated


def test_equal_answers_show_nothing_and_the_error_rate_is_kept() -> None:
    """200 tests of one law against itself: 1 % of wrong lower limits would show, 1e-6 does not."""

    def run(other: int, source: Source, n: int) -> np.ndarray:
        return draws[other]

    for seed in range(200):
        draws = np.random.default_rng(seed).integers(0, 30, (2, 400))
        found = tester.sampled(run, (0, 1), epsilon=0.0, n=400, source=insecure_test_source(0))
        assert found.low == 0 and not found.violated


def test_the_second_half_judges_what_the_first_has_chosen() -> None:
    """A difference that is in the first half alone was chosen by chance, and shows nothing."""

    def run(one: bool, source: Source, n: int) -> list[int]:
        return [int(one)] * (n // 2) + [0] * (n // 2)

    found = tester.sampled(run, (True, False), epsilon=0.5, n=2000, source=insecure_test_source(0))
    assert found.low == 0


def test_the_limits_are_those_of_clopper_and_pearson() -> None:
    """No noise: all n/2 against none, in 2 directions and 2 ways, tails of 1e-6 / 8: (a/8)^(1/1000) both times."""
    found = tester.sampled(
        lambda v, s, n: [v] * n, (0, 1), epsilon=1.0, n=2000, source=insecure_test_source(0)
    )
    low = (1e-6 / 8) ** (1 / 1000)
    assert found.low == pytest.approx(math.log(low / (1 - low)), rel=1e-9) and found.ceiling == found.low
    assert found.n == 2000 and found.claimed == 1.0 and found.delta == 0.0


# ---------------------------------------------------------------------- stated probabilities


def test_stated_probabilities_of_the_noises() -> None:
    k = np.arange(-300, 301)
    for scale, epsilon in ((2, 0.5), (0.7, 1 / 0.7)):
        one, other = mechanisms.laplace_pmf(k, scale), mechanisms.laplace_pmf(k - 1, scale)
        found = tester.exact(one, other, epsilon=epsilon)
        assert found.low == pytest.approx(epsilon) and not found.violated and found.n is None
        assert tester.exact(one, other, epsilon=epsilon * 0.999).violated
        assert tester.exact(one, mechanisms.laplace_pmf(k - 2, scale), epsilon=epsilon).violated
    one, other = mechanisms.gaussian_pmf(k, 9), mechanisms.gaussian_pmf(k - 1, 9)
    # P(noise > 9 e - 1/2) - e^e P(noise > 9 e + 1/2) is delta (CKS 2020, Theorem 7)
    for epsilon in (0.2, 0.5, 1.0):
        above = [one[k > 9 * epsilon + shift].sum() for shift in (-0.5, 0.5)]
        delta = above[0] - math.exp(epsilon) * above[1]
        found = tester.exact(one, other, epsilon=epsilon, delta=delta)
        assert (
            found.low == pytest.approx(epsilon, rel=1e-4)
            and tester.exact(one, other, epsilon=epsilon, delta=delta / 2).violated
        )


def test_an_answer_that_one_of_them_cannot_give() -> None:
    found = tester.exact(np.array([0.5, 0.5, 0.0]), np.array([0.5, 0.4, 0.1]), epsilon=9.0)
    assert found.low == math.inf and found.violated
    assert not tester.exact(
        np.array([0.5, 0.5, 0.0]), np.array([0.5, 0.4, 0.1]), epsilon=0.3, delta=0.1
    ).violated
    same = np.full(4, 0.25)
    assert tester.exact(same, same, epsilon=0.0).low == 0


def test_what_cannot_be_tested() -> None:
    p = np.array([0.5, 0.5])
    for one, other in ((p, p[:1]), (-p, p), (p, np.array([0.5, math.nan])), (p[:0], p[:0]), (p * 2, p)):
        with pytest.raises(InvalidData, match="probabilit"):
            tester.exact(one, other, epsilon=1.0)
    for epsilon, delta in ((math.inf, 0.0), (-1.0, 0.0), (math.nan, 0.0), (1.0, 1.0), (1.0, -0.1)):
        with pytest.raises(InvalidData, match="a claim is"):
            tester.exact(p, p, epsilon=epsilon, delta=delta)
        with pytest.raises(InvalidData, match="a claim is"):
            tester.sampled(laplace, (0, 1), epsilon=epsilon, delta=delta, source=insecure_test_source(0))
    with pytest.raises(InvalidData, match="at least 100 draws"):
        tester.sampled(laplace, (0, 1), epsilon=1.0, n=99, source=insecure_test_source(0))
    with pytest.raises(InvalidData, match="must return n answers"):
        tester.sampled(lambda v, s, n: [v], (0, 1), epsilon=1.0, n=100, source=insecure_test_source(0))
