# SPDX-License-Identifier: Apache-2.0
"""Which process this is, told apart from every fork of it."""

from __future__ import annotations

import os


class _Forks:
    """How many forks lie between this process and the one that imported this file first."""

    def __init__(self) -> None:
        self.count = 0
        if (register := getattr(os, "register_at_fork", None)) is not None:  # Windows has no forks
            register(after_in_child=self._forked)

    def _forked(self) -> None:
        self.count += 1


_FORKS = _Forks()  # a property of the process, like its id


def this_process() -> tuple[int, int]:
    """Return what no fork of this process shares with it.

    Process ids are used again, and the first process of every container has the same one: forks are counted as well.

    >>> this_process() == this_process()
    True
    """
    return os.getpid(), _FORKS.count
