# SPDX-License-Identifier: Apache-2.0
"""What a method is given besides target and data: its seeds, its clock, its workers, and the form of its answers."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from casemate.core import rng
from casemate.core.errors import InvalidData
from casemate.core.methods import Card
from casemate.core.types import Counter, Detail, Measurement, Status, Threat

if TYPE_CHECKING:
    from casemate.core.data import Dataset
    from casemate.core.stats import Interval
    from casemate.core.types import Target

Item = TypeVar("Item")
Out = TypeVar("Out")
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One execution of one method. Every draw depends on (seed, method, path) alone, never on the order of work."""

    card: Card
    seed: int = 0
    level: float = 0.95
    threat: Threat | None = None
    effort: str = "standard"
    deadline: float | None = None  # time.monotonic() by which the method should be done
    pinned: frozenset[str] = frozenset()  # parameters the user fixed: never adapted to the clock
    progress: Progress | None = None
    counter: Counter = field(default_factory=Counter)
    used: dict[str, Any] = field(default_factory=dict)  # parameters as they were in the end, for the report
    show_records: bool = False  # may single records of the data enter the report?
    notes: list[str] = field(default_factory=list)  # what a reader of an evasion's numbers must know
    cut: dict[str, int] = field(
        default_factory=dict
    )  # parameters that the clock lowered, as they were wanted

    def rng(self, *path: str | int) -> np.random.Generator:
        """Return the generator of this method at ``path``."""
        return rng.generator(self.seed, self.card.name, *path)

    def child_seed(self, *path: str | int) -> int:
        """Return an integer seed of this method at ``path``."""
        return rng.child_seed(self.seed, self.card.name, *path)

    def report(self, label: str, done: int, total: int) -> None:
        """Tell the user how far the work is (stderr bar of the CLI, or the caller's ``progress=``)."""
        if self.progress is not None:
            self.progress(f"{self.card.name}: {label}", done, total)

    def map(self, f: Callable[[Item, int], Out], items: Iterable[Item], *, label: str = "work") -> list[Out]:
        """Return ``[f(item, seed_of_item), ...]``, spread over the workers of the active joblib configuration.

        Each item has its own child seed, so results do not depend on the number of jobs. Workers use one thread.
        Without ``joblib.parallel_config`` (CLI: ``--jobs``) the work is done in this process.
        """
        from joblib import Parallel, delayed

        todo = list(items)
        seeds = [self.child_seed(label, index) for index in range(len(todo))]
        done: list[Out] = []
        # joblib maps large arrays through files: a private folder (0700), removed whatever happens
        folder = tempfile.mkdtemp(prefix="casemate-")
        try:
            work = Parallel(return_as="generator", temp_folder=folder)
            self.report(label, 0, len(todo))
            for result in work(delayed(f)(item, seed) for item, seed in zip(todo, seeds, strict=True)):
                done.append(result)
                self.report(label, len(done), len(todo))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return done

    def affordable(self, name: str, wanted: int, seconds_each: float, *, least: int) -> int:
        """Return how many of ``wanted`` repetitions fit into the deadline, given what one costs; recorded as used.

        A parameter the user fixed (``like=`` fixes all) is never reduced.
        """
        count = wanted
        if self.deadline is not None and name not in self.pinned:
            from joblib import effective_n_jobs

            left = max(0.0, self.deadline - time.monotonic())
            # an attack on inputs asks its target in this process, whatever the number of workers
            jobs = 1 if self.card.kind == "evasion" else effective_n_jobs(None)
            count = min(wanted, max(least, int(left / max(seconds_each, 1e-9) * jobs)))
        self.used[name] = count
        if count < wanted:
            self.cut[name] = wanted
        return count

    def call(self, name: str, target: Target, data: Dataset, **params: Any) -> Any:
        """Run another method named in this card's ``uses``, with its own seeds under this run's clock."""
        from casemate.core.harness import invoke
        from casemate.core.methods import find

        if name not in self.card.uses:
            raise InvalidData(f"{self.card.name} calls {name!r} but its card's uses= does not name it")
        other = find(name)
        return invoke(other, target, data, replace(self, card=other.card, used={}), params)

    def measure(
        self,
        quantity: str,
        value: float | None,
        low: float | None,
        high: float | None,
        n: int,
        *,
        details: Sequence[Detail] = (),
        reason: str = "",
    ) -> Measurement:
        """Make a Measurement of a quantity on this method's card; with ``reason`` it is inconclusive."""
        if quantity not in self.card.quantities:
            raise InvalidData(f"{self.card.name} measured {quantity!r}, which its card does not list")
        known = self.card.quantities[quantity]
        return Measurement(
            property=self.card.property,
            quantity=quantity,
            value=value,
            low=low,
            high=high,
            level=self.level,
            n=n,
            unit=known.unit,
            worse=known.worse,
            status=self._status(value, reason),
            reason=reason,
            method=self.card.name,
            version=self.card.version,
            threat=self.threat,
            seed=self.seed,
            details=tuple(details),
        )

    def measured(self, quantity: str, interval: Interval, details: Sequence[Detail] = ()) -> Measurement:
        """Make a Measurement from an interval of ``core.stats``."""
        return self.measure(
            quantity, interval.value, interval.low, interval.high, interval.n, details=details
        )

    def unresolved(self, quantity: str, reason: str, n: int) -> Measurement:
        """Make a row that says why the quantity could not be measured."""
        return self.measure(quantity, None, None, None, n, reason=reason)

    @staticmethod
    def _status(value: float | None, reason: str) -> Status:
        if value is None or math.isnan(value):
            return "not_measured"
        return "inconclusive" if reason else "measured"


def require(run: Run | None) -> Run:
    """Return ``run``: a method that is called through its decorator always has one."""
    if run is None:
        raise InvalidData("call the method by its public name, which makes its Run")
    return run
