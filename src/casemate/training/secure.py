# SPDX-License-Identifier: Apache-2.0
"""Random numbers that nobody can repeat: the noise and every sampling decision of differential privacy.

A guarantee holds against an attacker who knows everything but the noise, so the noise must not follow from a seed, a
log or an earlier draw. A :class:`Source` is an AES-256-CTR keystream (from ``cryptography``) whose key comes from the
operating system. It is keyed again in a forked child, cannot be pickled or copied, shows nothing of its key, and no
part of a run records one. :mod:`casemate.core.rng` is the opposite on purpose: reproducible, and never for privacy.

**What it does not do.** The Gaussians are 64-bit floats made by Box-Muller from 53-bit uniforms: they never exceed
8.6 standard deviations (a tail of 1e-17) and not every float can occur. Attacks that read the last bits of a noisy
float are not covered; statistics draw exact whole numbers instead (``bits`` and ``below``, of any size). A virtual
machine that is copied while it runs copies the key as well.
"""

from __future__ import annotations

import hashlib
import math
import os
import threading
from typing import Any, NoReturn

import numpy as np

from casemate.core.errors import InvalidData
from casemate.core.processes import this_process

_ULP = 2.0**-53


class Source:
    """A keystream and the draws made of it; ``source()`` makes one, ``insecure_test_source(seed)`` one for tests.

    >>> draws = source()
    >>> draws.gaussians((2, 3)).shape
    (2, 3)
    >>> draws.below(10**30) < 10**30
    True
    """

    def __init__(self, *, seed: int | None = None) -> None:
        self._seed = seed
        self._rekey()

    @property
    def secure(self) -> bool:
        """Whether the key came from the operating system."""
        return self._seed is None

    def raw(self, n: int) -> bytes:
        """Return the next ``n`` bytes of the keystream."""
        if self._seed is None and self._process != this_process():
            self._rekey()  # a forked child would repeat its parent's noise
        with self._lock:  # two threads must never be handed the same bytes
            return bytes(self._stream.update(bytes(n)))

    def bits(self, n: int) -> int:
        """Return a whole number of ``n`` fair bits, in [0, 2^n)."""
        return int.from_bytes(self.raw((n + 7) // 8), "little") >> -n % 8

    def below(self, n: int) -> int:
        """Return a whole number in [0, n), each exactly as likely: what lies above is drawn again, never folded in."""
        if n < 1:
            raise InvalidData(f"a draw below n needs n >= 1; got {n}")
        size = (n - 1).bit_length()
        while (drawn := self.bits(size)) >= n:
            pass
        return drawn

    def uniforms(self, shape: int | tuple[int, ...]) -> np.ndarray:
        """Return uniforms in [0, 1), each a multiple of 2^-53."""
        n = math.prod(shape) if isinstance(shape, tuple) else shape
        words = np.frombuffer(self.raw(8 * n), "<u8") >> np.uint64(11)
        return (words * _ULP).reshape(shape)

    def gaussians(self, shape: int | tuple[int, ...]) -> np.ndarray:
        """Return independent standard normal numbers (Box and Muller 1958)."""
        n = math.prod(shape) if isinstance(shape, tuple) else shape
        pairs = (n + 1) // 2
        radius = np.sqrt(
            -2.0 * np.log(self.uniforms(pairs) + _ULP)
        )  # of (0, 1]: the logarithm of 0 is no number
        angle = 2.0 * np.pi * self.uniforms(pairs)
        both = np.stack([radius * np.cos(angle), radius * np.sin(angle)])  # (2, pairs)
        return both.reshape(-1)[:n].reshape(shape)

    def bernoulli(self, rate: float, n: int) -> np.ndarray:
        """Return ``n`` independent yes-or-no draws (n,) bool, each yes with probability ``rate``."""
        if not 0 <= rate <= 1:
            raise InvalidData(f"a probability lies in [0, 1]; got {rate!r}")
        return self.uniforms(n) < rate

    def poisson_sample(self, n: int, rate: float) -> np.ndarray:
        """Return which of ``n`` units are in, each on its own with probability ``rate``; possibly none or all."""
        return np.flatnonzero(self.bernoulli(rate, n))

    def __reduce__(self) -> NoReturn:
        raise InvalidData(
            "a noise source is never written or copied: whoever reads it could take the noise off again"
        )

    def __repr__(self) -> str:
        return "Source(from the operating system)" if self.secure else "Source(INSECURE, for tests)"

    def _rekey(self) -> None:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        if self._seed is None:
            key, start = os.urandom(32), os.urandom(16)
        else:
            key, start = hashlib.sha256(b"insecure test source %d" % self._seed).digest(), bytes(16)
        self._stream: Any = Cipher(algorithms.AES256(key), modes.CTR(start)).encryptor()
        self._process = this_process()
        self._lock = threading.Lock()  # the parent's may be held at the moment of the fork


def source() -> Source:
    """Return a fresh source, keyed by the operating system.

    >>> source().raw(16) == source().raw(16)
    False
    """
    return Source()


def insecure_test_source(seed: int) -> Source:
    """Return a source that repeats itself, for tests alone: noise that follows from a number protects nobody.

    >>> insecure_test_source(1).raw(4) == insecure_test_source(1).raw(4)
    True
    """
    return Source(seed=seed)
