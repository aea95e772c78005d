# SPDX-License-Identifier: Apache-2.0
"""Our exact noise and choices against 200,000 draws each of OpenDP and of python-dp: one law, both ways.

The draws were recorded by make_opendp.py and make_pydp.py. python-dp 1.1.5 (Google's C++ library) has no discrete
Gaussian; what stands in for it is its Gaussian of a whole number, rounded, at a deviation where nothing can tell the
two apart: their total variation is below 5e-5. Each comparison was set to fail by chance with probability 1e-6; ours
are drawn from fixed test sources.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2, norm

from casemate.privacy import _exact, mechanisms
from casemate.training.secure import insecure_test_source

OPENDP: dict[str, Any] = json.loads(Path(__file__).with_name("opendp.json").read_text("utf-8"))
PYDP: dict[str, Any] = json.loads(Path(__file__).with_name("pydp.json").read_text("utf-8"))
LEAST = 1e-6
OURS = 12_000


def same_law(ours: Counter[int], theirs: Counter[int]) -> None:
    """Compare two samples by chi-square (homogeneity), rare answers together."""
    keys = sorted(set(ours) | set(theirs))
    table = np.array([[one[key] for key in keys] for one in (ours, theirs)], float)
    rare = table.sum(0) < 60
    table = np.column_stack([table[:, ~rare], table[:, rare].sum(1)])
    table = table[:, table.sum(0) > 0]
    due = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    assert table.shape[1] > 2
    assert chi2.sf(((table - due) ** 2 / due).sum(), table.shape[1] - 1) > LEAST


def fits(counts: Counter[int], pmf: Sequence[float], keys: Sequence[int]) -> None:
    n = sum(counts.values())
    usual = [(counts[key], n * p) for key, p in zip(keys, pmf, strict=True) if n * p >= 10]
    usual.append((n - sum(seen for seen, _ in usual), n - sum(due for _, due in usual)))
    assert chi2.sf(sum((seen - due) ** 2 / due for seen, due in usual), len(usual) - 1) > LEAST


@pytest.mark.parametrize("scale", list(OPENDP["laplace"]))
def test_discrete_laplace(scale: str) -> None:
    theirs = Counter(dict(OPENDP["laplace"][scale]))
    noise = mechanisms.add_laplace(
        [0] * OURS, sensitivity=1, epsilon=1 / Fraction(scale), source=insecure_test_source(1)
    )
    same_law(Counter(noise), theirs)
    k = range(-200, 201)
    fits(theirs, mechanisms.laplace_pmf(list(k), Fraction(scale)).tolist(), k)


@pytest.mark.parametrize("sigma", list(OPENDP["gaussian"]))
def test_discrete_gaussian(sigma: str) -> None:
    theirs = Counter(dict(OPENDP["gaussian"][sigma]))
    variance = Fraction(sigma) ** 2
    noise = mechanisms.add_gaussian(
        [0] * OURS, l2_sensitivity_squared=1, sigma_squared=variance, source=insecure_test_source(2)
    )
    same_law(Counter(noise), theirs)
    k = range(-200, 201)
    fits(theirs, mechanisms.gaussian_pmf(list(k), variance).tolist(), k)


def test_permute_and_flip_is_their_noisy_maximum() -> None:
    known = OPENDP["noisy_max"]
    assert known["cost"] == pytest.approx(known["epsilon"])
    source = insecure_test_source(3)
    ours = Counter(
        mechanisms.permute_and_flip(
            known["utilities"], sensitivity=1, epsilon=known["epsilon"], source=source
        )
        for _ in range(OURS)
    )
    same_law(ours, Counter(dict(enumerate(known["counts"]))))


def test_randomised_response() -> None:
    known = OPENDP["randomised_response"]
    assert known["cost"] == pytest.approx(math.log(3))
    source = insecure_test_source(4)
    ours = Counter(
        mechanisms.randomised_response(known["answer"], k=4, epsilon=known["cost"], source=source)
        for _ in range(OURS // 4)
    )
    same_law(ours, Counter(dict(enumerate(known["counts"]))))


# ---------------------------------------------------------------------- python-dp


@pytest.mark.parametrize("scale", list(PYDP["geometric"]))
def test_one_sided_geometric_of_python_dp(scale: str) -> None:
    theirs, width = Counter(dict(PYDP["geometric"][scale])), Fraction(scale)
    source = insecure_test_source(5)
    same_law(
        Counter(_exact.geometric(width.numerator, width.denominator, source) for _ in range(OURS)), theirs
    )
    k = range(200)
    fits(theirs, [math.exp(-one / width) * -math.expm1(-1 / width) for one in k], k)


@pytest.mark.parametrize("scale", list(PYDP["laplace"]))
def test_discrete_laplace_is_the_difference_of_two_geometrics_of_python_dp(scale: str) -> None:
    theirs = Counter(dict(PYDP["laplace"][scale]))
    source = insecure_test_source(6)
    same_law(
        Counter(mechanisms.geometric(1 / Fraction(scale), source) for _ in range(OURS)),
        theirs,
    )
    k = range(-200, 201)
    fits(theirs, mechanisms.laplace_pmf(list(k), Fraction(scale)).tolist(), k)


def test_a_laplace_of_a_trillion_steps_is_that_of_python_dp() -> None:
    known = PYDP["wide_laplace"]
    scale, block = known["scale"], known["block"]
    source = insecure_test_source(7)
    drawn = [mechanisms.discrete_laplace(scale, source) for _ in range(OURS)]
    same_law(Counter(one >> block for one in drawn), Counter(dict(known["counts"])))
    same_law(Counter(one % 16 for one in drawn), Counter(dict(enumerate(known["last_digits"]))))
    share, none = math.exp(-(2**block) / scale), -math.expm1(-(2**block) / scale)
    k = range(-60, 60)  # a block of the discrete Laplace, 0 belonging to block 0: half of it else
    fits(
        Counter(dict(known["counts"])),
        [0.5 * none * share ** (one if one >= 0 else -1 - one) for one in k],
        k,
    )


@pytest.mark.parametrize("sigma", list(PYDP["gaussian"]))
def test_a_wide_discrete_gaussian_is_the_rounded_one_of_python_dp(sigma: str) -> None:
    theirs, variance = Counter(dict(PYDP["gaussian"][sigma])), Fraction(sigma) ** 2
    k = range(-400, 401)
    pmf = mechanisms.gaussian_pmf(list(k), variance)
    rounded = np.diff(norm.cdf(np.arange(-400.5, 401), scale=float(sigma)))
    assert 0.5 * np.abs(pmf - rounded).sum() < 5e-5  # so that they may be compared
    noise = mechanisms.add_gaussian(
        [0] * OURS, l2_sensitivity_squared=1, sigma_squared=variance, source=insecure_test_source(8)
    )
    same_law(Counter(noise), theirs)
    fits(theirs, pmf.tolist(), k)
