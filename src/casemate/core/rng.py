# SPDX-License-Identifier: Apache-2.0
"""One tree of seeds for a run: every draw is a function of (seed, path), never of order or of the number of jobs.

Noise for differential privacy and keys do not come from here (DESIGN §9): this source is reproducible on purpose.
"""

from __future__ import annotations

from zlib import crc32

import numpy as np


def _key(part: str | int) -> int:
    # crc32 names a branch of the tree; it is not a cryptographic hash and need not be one.
    return part if isinstance(part, int) else crc32(part.encode())


def generator(seed: int, *path: str | int) -> np.random.Generator:
    """Return the generator that belongs to ``path`` under ``seed``.

    >>> bool(generator(0, "lira", 3).random() == generator(0, "lira", 3).random())
    True
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=tuple(_key(part) for part in path)))


def child_seed(seed: int, *path: str | int) -> int:
    """Return a 31-bit seed for libraries that take an integer.

    >>> child_seed(0, "refit", 1) != child_seed(0, "refit", 2)
    True
    """
    state = np.random.SeedSequence(seed, spawn_key=tuple(_key(part) for part in path)).generate_state(1)[0]
    return int(state) & 0x7FFFFFFF
