# SPDX-License-Identifier: Apache-2.0
"""Around the user's code: its errors become one clear line, and the random numbers it draws stay inside."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from casemate.core.errors import CasemateError, InvalidData

# The global generators exist once a process: two trainings in two threads must not share them.
_GENERATORS = threading.RLock()


@contextmanager
def user_code(what: str, advice: str) -> Iterator[None]:
    r"""Turn an exception of the user's model into ``InvalidData``: what failed, its first line, what to do.

    The original stays the cause. Errors of Casemate, ``MemoryError`` and interrupts pass through.

    >>> with user_code("predict", "give three columns"):
    ...     raise ValueError("expected 3 features\nTraceback of many lines")
    Traceback (most recent call last):
    casemate.core.errors.InvalidData: predict failed: expected 3 features; give three columns
    """
    try:
        yield
    except (CasemateError, MemoryError):
        raise
    except Exception as error:
        said = str(error).strip().splitlines()
        told = said[0].strip().rstrip(".;") if said else ""
        if not isinstance(error, (ValueError, RuntimeError)) or not told:  # a bare KeyError says only the key
            told = f"{type(error).__name__}: {told}" if told else type(error).__name__
        raise InvalidData(f"{what} failed: {told}; {advice}") from error


@contextmanager
def seeded(seed: int, device: str = "cpu") -> Iterator[None]:
    """Seed the global generators of Python, numpy and (where loaded) torch, and put them back afterwards.

    What draws from them inside, weights, dropout, a shuffled split, is a function of ``seed``; outside nothing
    changes. One thread of the process at a time.

    >>> before = random.getstate()
    >>> with seeded(0):
    ...     first = random.random()
    >>> with seeded(0):
    ...     assert random.random() == first
    >>> random.getstate() == before
    True
    """
    torch = sys.modules.get("torch")
    with _GENERATORS:
        python = random.getstate()
        numpy = np.random.get_state(legacy=False)  # noqa: NPY002  # to put it back
        on_gpu = torch is not None and device.startswith("cuda")
        cpu = torch.random.default_generator.get_state() if torch is not None else None
        gpu = torch.cuda.get_rng_state(device) if torch is not None and on_gpu else None
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002  # other people's code draws from it
            if torch is not None:
                # not torch.manual_seed: that also seeds every other device, for good
                torch.random.default_generator.manual_seed(seed)
                if on_gpu:
                    torch.cuda.default_generators[_index(device, torch)].manual_seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002  # as found
            if torch is not None:
                torch.random.default_generator.set_state(cpu)
                if gpu is not None:
                    torch.cuda.set_rng_state(gpu, device)


def _index(device: str, torch: object) -> int:
    _, _, number = device.partition(":")
    return int(number) if number else int(torch.cuda.current_device())  # type: ignore[attr-defined]  # the module
