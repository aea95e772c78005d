# SPDX-License-Identifier: Apache-2.0
"""The source of private noise: its distribution, and that nobody can draw the same twice.

Statistical checks fail by chance with probability 1e-6 each: the draws cannot be seeded.
"""

from __future__ import annotations

import copy
import hashlib
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy.stats import binom, chisquare, kstest, norm

from casemate.core.errors import InvalidData
from casemate.training.secure import Source, insecure_test_source, source

LEAST = 1e-6
pytestmark = pytest.mark.real_noise


def test_the_keystream_is_aes_in_counter_mode() -> None:
    key = hashlib.sha256(b"insecure test source 7").digest()
    block = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()  # the definition of counter mode
    expected = b"".join(block.update(i.to_bytes(16, "big")) for i in range(3))
    drawn = insecure_test_source(7)
    assert drawn.raw(5) + drawn.raw(43) == expected


def test_no_two_sources_agree_and_only_the_test_source_repeats() -> None:
    assert len({source().raw(16) for _ in range(200)}) == 200
    assert insecure_test_source(3).raw(64) == insecure_test_source(3).raw(64)
    assert insecure_test_source(3).raw(64) != insecure_test_source(4).raw(64)
    assert source().secure and not insecure_test_source(3).secure


def test_a_source_never_repeats_itself() -> None:
    one = source()
    assert len({one.raw(16) for _ in range(500)}) == 500


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("same", [False, True])
def test_a_forked_child_does_not_repeat_the_parent(same: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it has the process id of its parent, as the first process of a container's container has."""
    if same:
        monkeypatch.setattr(os, "getpid", lambda: 1)
    one = source()
    one.raw(8)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, one.raw(32))
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    theirs = os.read(read, 32)
    os.close(read)
    assert len(theirs) == 32 and theirs != one.raw(32)


def test_threads_are_never_given_the_same_bytes() -> None:
    one = source()
    with ThreadPoolExecutor(8) as pool:
        drawn = list(pool.map(lambda _: one.raw(64), range(2000)))
    assert len(set(drawn)) == 2000


def test_a_source_is_never_written_copied_or_shown() -> None:
    for one in (source(), insecure_test_source(1)):
        for leak in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(InvalidData, match="never written or copied"):
                leak(one)
    assert repr(source()) == "Source(from the operating system)"
    assert "INSECURE" in repr(insecure_test_source(1))


def test_uniforms_are_uniform_multiples_of_two_to_the_minus_53() -> None:
    drawn = source().uniforms((200, 100))
    assert drawn.shape == (200, 100) and drawn.min() >= 0 and drawn.max() < 1
    scaled = drawn * 2.0**53
    assert (scaled == np.floor(scaled)).all() and (scaled % 2 == 1).any()
    assert kstest(drawn.ravel(), "uniform").pvalue > LEAST


@pytest.mark.parametrize("shape", [1, 7, (3, 5), (100, 201)])
def test_gaussians_have_the_shape_asked_for(shape: int | tuple[int, ...]) -> None:
    drawn = source().gaussians(shape)
    assert drawn.shape == ((shape,) if isinstance(shape, int) else shape) and np.isfinite(drawn).all()


def test_gaussians_are_normal_and_independent() -> None:
    drawn = source().gaussians(40_000)
    assert kstest(drawn, "norm").pvalue > LEAST
    bound = norm.isf(LEAST / 8)
    for lag in (1, 2, 20_000):  # the two numbers of a Box-Muller pair stand 20,000 apart
        product = drawn[:-lag] * drawn[lag:]
        assert abs(product.sum()) / np.sqrt((product**2).sum()) < bound


def test_the_worst_uniforms_give_finite_gaussians() -> None:
    class Low(Source):
        def raw(self, n: int) -> bytes:
            return bytes(n)

    class High(Source):
        def raw(self, n: int) -> bytes:
            return b"\xff" * n

    assert np.abs(Low().gaussians(4)).max() == pytest.approx(np.sqrt(2 * 53 * np.log(2)))
    assert np.abs(High().gaussians(4)).max() < 1e-7


def test_poisson_sampling_takes_each_on_its_own() -> None:
    draws, rate = source(), 0.3
    inside = np.zeros((3000, 20), bool)
    for row in inside:
        row[draws.poisson_sample(20, rate)] = True
    low, high = binom.ppf([LEAST / 80, 1 - LEAST / 80], 3000, rate)
    assert ((low <= inside.sum(0)) & (inside.sum(0) <= high)).all()
    # a fixed batch size would make this variance zero, a binomial size without independence would not show here alone
    sizes = inside.sum(1)
    chi = ((sizes - 20 * rate) ** 2).sum() / (20 * rate * (1 - rate))
    assert abs(chi - 3000) / np.sqrt(2 * 3000) < norm.isf(LEAST / 8)
    both = (inside[:, 0] & inside[:, 1]).sum()
    low, high = binom.ppf([LEAST / 4, 1 - LEAST / 4], 3000, rate**2)
    assert low <= both <= high


def test_rates_at_the_ends_and_outside() -> None:
    assert len(source().poisson_sample(10, 0.0)) == 0 and len(source().poisson_sample(10, 1.0)) == 10
    for rate in (-0.1, 1.1, float("nan")):
        with pytest.raises(InvalidData, match="probability"):
            source().bernoulli(rate, 3)


def test_whole_numbers_are_of_fair_bits() -> None:
    drawn = insecure_test_source(5)
    assert [drawn.bits(0), *(drawn.below(1) for _ in range(5))] == [0] * 6
    for size in (1, 7, 8, 13, 200):
        words = [drawn.bits(size) for _ in range(4000)]
        assert max(words) < 2**size
        ones = np.array([[word >> place & 1 for place in range(size)] for word in words]).sum(0)
        low, high = binom.ppf([LEAST / 2 / size, 1 - LEAST / 2 / size], 4000, 0.5)
        assert ((low <= ones) & (ones <= high)).all()
    same = insecure_test_source(7)
    assert same.bits(16) == int.from_bytes(insecure_test_source(7).raw(2), "little")


@pytest.mark.parametrize("n", [2, 3, 5, 6, 100, 257])
def test_a_number_below_n_is_each_as_likely(n: int) -> None:
    drawn = insecure_test_source(n)
    seen = np.bincount([drawn.below(n) for _ in range(20_000)], minlength=n)
    assert len(seen) == n and chisquare(seen).pvalue > LEAST


def test_a_number_below_a_large_n_reaches_all_of_it() -> None:
    drawn, n = source(), 3 * 10**30 // 4
    found = np.array([drawn.below(n) / n for _ in range(5000)])
    assert found.max() < 1 and kstest(found, "uniform").pvalue > LEAST
    for wrong in (0, -3):
        with pytest.raises(InvalidData, match="n >= 1"):
            drawn.below(wrong)
