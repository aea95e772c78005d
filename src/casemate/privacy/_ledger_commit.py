# SPDX-License-Identifier: Apache-2.0
"""Many callers, one write: whoever comes first writes for all who wait, then hands on to the next.

Callers that were just served tend to come back. The next to lead waits a moment, at most a quarter of what a write
takes, for as many as came last time: else they fall into two halves that take turns. A lone caller never waits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Job = TypeVar("Job")
Done = TypeVar("Done")
MOST = 256  # jobs of one write
PATIENCE = 0.25  # of the time of a write
GLANCE_SECONDS = 2e-5


class _Slot(Generic[Job, Done]):
    __slots__ = ("done", "error", "gate", "job", "leads")

    def __init__(self, job: Job) -> None:
        self.job = job
        self.done: Done | None = None
        self.error: BaseException | None = None
        self.leads = False
        self.gate = threading.Lock()
        self.gate.acquire()


class Group(Generic[Job, Done]):
    """Calls ``work`` with the jobs of all callers that wait; each gets its own result, or its own error.

    >>> Group(lambda jobs: [job * 2 for job in jobs])(21)
    42
    """

    def __init__(self, work: Callable[[Sequence[Job]], Sequence[Done | BaseException]]) -> None:
        self._work = work
        self._guard = threading.Lock()
        self._waiting: list[_Slot[Job, Done]] = []
        self._led = False
        self._before, self._took = 1, 0.0  # jobs of the last write, and its seconds

    def __call__(self, job: Job) -> Done:
        slot: _Slot[Job, Done] = _Slot(job)
        with self._guard:
            self._waiting.append(slot)
            slot.leads, self._led = not self._led, True
        if not slot.leads:
            self._wait(slot)  # until it is served, or told to lead
        if slot.leads:
            self._lead()
        if slot.error is not None:
            raise slot.error
        return slot.done  # type: ignore[return-value]  # served: no error means a result

    def _wait(self, slot: _Slot[Job, Done]) -> None:
        try:
            slot.gate.acquire()
        except BaseException:  # Ctrl-C: those behind must not wait for one who has left
            with self._guard:
                if slot in self._waiting and not slot.leads:
                    self._waiting.remove(slot)
            if slot.leads:
                self._lead()
            raise

    def _lead(self) -> None:
        batch: list[_Slot[Job, Done]] = []
        try:
            self._gather()
            batch = self._taken()
            start = time.perf_counter()
            results: Sequence[Done | BaseException] = self._work([slot.job for slot in batch])
            self._before, self._took = len(batch), time.perf_counter() - start
        except BaseException as error:  # noqa: BLE001  (everybody who waits must hear of it, Ctrl-C too)
            batch = batch or self._taken()
            results = [error] * len(batch)
        for slot, result in zip(batch, results, strict=True):
            if isinstance(result, BaseException):
                slot.error = result
            else:
                slot.done = result
        with self._guard:
            following = self._waiting[0] if self._waiting else None
            self._led = following is not None
            if following:
                following.leads = True
        for slot in (*batch, *([following] if following else [])):
            slot.gate.release()

    def _taken(self) -> list[_Slot[Job, Done]]:
        with self._guard:
            batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
        return batch

    def _gather(self) -> None:
        start = time.perf_counter()
        while len(self._waiting) < self._before and time.perf_counter() - start < PATIENCE * self._took:
            time.sleep(GLANCE_SECONDS)
