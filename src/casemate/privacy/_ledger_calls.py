# SPDX-License-Identifier: Apache-2.0
"""Who calls a ledger: one caller a query in this process, no two that wait for each other, and nobody after a fork."""

from __future__ import annotations

import threading
from contextvars import ContextVar
from dataclasses import dataclass

from casemate.core.errors import GuaranteeVoid, InvalidData
from casemate.core.processes import this_process


class Birth:
    """The process in which something was made; ``check`` refuses to go on in a fork of it.

    >>> Birth().check()
    """

    def __init__(self) -> None:
        self._process = this_process()

    def check(self) -> None:
        """Refuse a forked process.

        Raises:
            GuaranteeVoid: this is a fork of the process in which it was made.
        """
        if self._process != this_process():
            raise GuaranteeVoid("this ledger was opened before a fork; open it again in the new process")


@dataclass(eq=False)
class _Held:
    """A query that somebody answers now; ``waits`` is what that thread waits for meanwhile."""

    thread: int
    done: threading.Event
    waits: _Held | None = None


_HELD: ContextVar[tuple[_Held, ...]] = ContextVar("casemate_ledger_held", default=())


class Desk:
    """The queries of one ledger that are being answered in this process.

    >>> desk = Desk()
    >>> with desk.alone("q"):
    ...     pass
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._busy: dict[str, _Held] = {}

    def alone(self, query: str) -> _Alone:
        """Return a context in which this thread alone answers ``query``: the next one finds its answer.

        Raises:
            InvalidData: this thread answers it already, or who does waits, however indirectly, for this thread.
        """
        return _Alone(self._guard, self._busy, query)


class _Alone:
    def __init__(self, guard: threading.Lock, busy: dict[str, _Held], query: str) -> None:
        self._guard, self._busy, self._query = guard, busy, query

    def __enter__(self) -> None:
        held = _HELD.get()
        mine = _Held(threading.get_ident(), threading.Event())
        while True:
            with self._guard:
                other = self._busy.setdefault(self._query, mine)
                if other is mine:
                    self._token = _HELD.set((*held, mine))
                    return
                # told first and looked at second: of two that come to wait for each other, one sees it
                for one in held:
                    one.waits = other
                try:
                    _check_no_circle(other, held, mine.thread)
                except InvalidData:
                    _forget(held)
                    raise
            try:
                other.done.wait()
            finally:
                _forget(held)

    def __exit__(self, *_: object) -> None:
        _HELD.reset(self._token)
        with self._guard:
            self._busy.pop(self._query).done.set()


def _check_no_circle(other: _Held, held: tuple[_Held, ...], thread: int) -> None:
    if other in held or other.thread == thread:
        raise InvalidData("answering this query asks the same query again")
    seen: _Held | None = other.waits
    while seen is not None and seen is not other:
        if seen in held:
            raise InvalidData(
                "two threads would wait for each other: each asks, while it answers, the query that the other answers; "
                "ask one of them beforehand"
            )
        seen = seen.waits


def _forget(held: tuple[_Held, ...]) -> None:
    for one in held:
        one.waits = None
