# SPDX-License-Identifier: Apache-2.0
"""The privacy budget of one group of people, kept on disk: no answer leaves before its cost is durable.

A :class:`Ledger` belongs to a *declared population*: every extract of the same people, whoever holds it, is charged to
the same ledger. It has one unit (a record or a person) and one neighbour relation; a cost stated for another one is
converted when that is asked for (:class:`Stated`) and refused otherwise.

**What it promises.** All answers ever released together are (epsilon, delta)-private for the declared unit, however
each next question depends on earlier answers (:mod:`casemate.privacy._ledger_filter` names the theorems). An event is
reserved, made durable, and only then drawn. What a crash left unclear counts as spent. A question asked again gets the
stored answer at no cost. A sequence of events fixed at ``create(declared=...)``, or a single first event chosen before
anything was seen, is not adaptive: it is charged by its privacy loss distribution, and then nothing else is admitted.

**What it does not.** Events must be what the mechanisms did; people who are in two declared populations pay in both;
whether an answer was stored tells whether two extracts are the same, so extracts are chosen without looking at who is
in them, and questions come from people who do not attack ("all rows" and "all but Ann" are equal where she is missing);
a limit that is raised after seeing answers is one more guarantee beside the first, whose deltas add. Somebody who
puts the *whole folder* back to an older copy is seen only by an anchor kept elsewhere.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from casemate.core.errors import CasemateError, InvalidData, TamperedArtefact
from casemate.privacy import _ledger_book as book
from casemate.privacy import _ledger_entries as entries
from casemate.privacy import _ledger_file as files
from casemate.privacy._ledger_book import Spend, Spent
from casemate.privacy._ledger_calls import Birth, Desk
from casemate.privacy._ledger_commit import Group
from casemate.privacy._ledger_terms import Stated, check_limit, first
from casemate.privacy.events import Event

Seen = TypeVar("Seen")
__all__ = ["Claim", "Ledger", "Spend", "Spent", "Stated"]


class Claim(Protocol):
    """What a training promises: :class:`~casemate.privacy.plan.Plan`, :class:`~casemate.privacy.tuning.TunedPlan`."""

    @property
    def unit(self) -> str:
        """Return whom it protects."""

    @property
    def neighbouring(self) -> str:
        """Return how neighbours differ."""

    @property
    def event(self) -> Event:
        """Return what it costs."""


class Ledger:
    """A budget on disk; make one with :meth:`create`, go on with :meth:`open`. Threads and processes may share it.

    >>> import tempfile
    >>> from casemate.privacy.events import Pure
    >>> path = Path(tempfile.mkdtemp()) / "clinic.ledger"
    >>> ledger = Ledger.create(path, population="diabetes 2026", unit="person", epsilon=1.0, delta=0.0)
    >>> ledger.release("count of rows; data 9f2c", (Pure(epsilon=0.25),), lambda: {"value": 1017})
    {'value': 1017}
    >>> ledger.release("count of rows; data 9f2c", (Pure(epsilon=0.25),), lambda: {"value": -1})
    {'value': 1017}
    >>> ledger.spent().epsilon, ledger.spent().remaining_epsilon
    (0.25, 0.75)
    """

    def __init__(self, storage: files.Storage, key: bytes, *, clock: Callable[[], float] = time.time) -> None:
        """Read a ledger from its storage; :meth:`open` does so for a file."""
        self._storage, self._key, self._clock = storage, key, clock
        self._birth, self._desk = Birth(), Desk()
        self._commit: Group[book.Wish, dict[str, Any]] = Group(self._write)
        self._book, self._mark, self._offset = self._read()

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        population: str,
        epsilon: float,
        delta: float,
        unit: str = "person",
        neighbours: str = "add_or_remove_one",
        filter: str = "mixed",  # noqa: A002  (the word of the literature)
        declared: Sequence[Event] = (),
        key: str | Path | None = None,
    ) -> Ledger:
        """Begin the ledger of a population.

        Args:
            path: the file; ``.head`` and, unless ``key`` names another place, ``.key`` are written beside it.
            population: whose data it is, in words; every extract of these people belongs here.
            epsilon, delta: what all answers together may cost.
            unit: "person" or "record".
            neighbours: "add_or_remove_one" or "replace_one".
            filter: "mixed" admits any events; "pure", "zcdp" or "gaussian" alone lose nothing to the others.
            declared: events that are all there will be, in any order; charged by privacy loss distributions.
            key: where the key of the seals is, or shall be (mode 0600).

        Raises:
            InvalidData: a ledger is there already, a number makes no sense, or the folder cannot be written.
        """
        path = Path(path)
        header = first(
            population=population,
            unit=unit,
            neighbours=neighbours,
            epsilon=epsilon,
            delta=delta,
            filtered=filter,
            declared=tuple(declared),
            now=time.time(),
        )
        secret = files.make_key(_key_path(path, key))
        line, mark = entries.sealed(secret, entries.NOTHING, entries.body_of(header))
        files.create(path, line, entries.head(secret, mark))
        return cls.open(path, key=key)

    @classmethod
    def open(cls, path: str | Path, *, key: str | Path | None = None, read_only: bool = False) -> Ledger:
        """Go on with a ledger, every entry checked.

        Raises:
            InvalidData: no ledger or key there, or it cannot be written.
            TamperedArtefact: it is not what was sealed.
        """
        path = Path(path)
        storage = files.FileStorage(path, read_only=read_only)
        try:
            return cls(storage, files.read_key(_key_path(path, key)))
        except CasemateError:
            storage.close()
            raise

    def release(
        self,
        query: str,
        event: Event,
        make: Callable[[], dict[str, Any]],
        *,
        stated: Stated | None = None,
    ) -> dict[str, Any]:
        """Return the answer to a question: the stored one, or one drawn after its cost is durable.

        Args:
            query: the canonical text of the question, with a keyed digest of the data it is asked of; no data.
            event: what answering costs.
            make: draws the noise and returns plain JSON values; never called before the cost is durable, and at most
                once. If it fails, or its answer cannot be kept, the cost stays and nothing is returned.
            stated: for which unit and neighbours ``event`` holds, if not the ledger's own.

        Raises:
            BudgetExhausted: it costs more than is left; nothing was drawn or spent.
            GuaranteeVoid: forked, a clock that went back, or a cost for other neighbours.
        """
        self._birth.check()
        with self._desk.alone(query):
            got = self._commit(book.Wish(kind="reserve", query=query, event=event, stated=stated))
            if "answer" in got:
                return _copied(got["answer"])
            answer = make()
            if not isinstance(answer, dict):
                raise InvalidData(
                    f"an answer is a dict of plain values; got {type(answer).__name__}; it stays spent"
                )
            self._birth.check()
            kept = self._commit(book.Wish(kind="answer", query=query, of=got["n"], answer=answer))
            return _copied(kept["answer"])

    def reserve(self, query: str, event: Event, *, stated: Stated | None = None) -> int:
        """Spend without keeping an answer, for a training whose result is a model; return the entry's number.

        Raises:
            GuaranteeVoid: this was reserved or answered before: its noise cannot be drawn again at the same cost.
        """
        self._birth.check()
        got = self._commit(book.Wish(kind="reserve", query=query, event=event, stated=stated, once=True))
        return int(got["n"])

    def charge(self, claim: Claim, training: str) -> str:
        """Spend what a training by a plan costs, before it begins; return a sentence that says so.

        Args:
            claim: the plan of the training, or of a search, for whose unit and neighbours the cost holds.
            training: a digest of all that the training is a function of; it is written keyed.

        Raises:
            BudgetExhausted: there is no room for it; nothing was spent.
            GuaranteeVoid: this training was charged before, or its plan protects another unit than the ledger counts.

        >>> import tempfile
        >>> from casemate.privacy.plan import Plan
        >>> path = Path(tempfile.mkdtemp()) / "clinic.ledger"
        >>> ledger = Ledger.create(path, population="diabetes 2026", unit="record", epsilon=3.0, delta=1e-5)
        >>> plan = Plan(unit="record", clip=1.0, noise_multiplier=9.0, steps=4, delta=1e-6)
        >>> ledger.charge(plan, "3f9c")
        'Before it began, this training was charged to the budget of diabetes 2026.'
        """
        stated = Stated(unit=claim.unit, neighbours=claim.neighbouring)
        query = f"training {self.digest(training.encode())}: {claim}"
        self.reserve(query, claim.event, stated=stated)
        return f"Before it began, this training was charged to the budget of {self.header['population']}."

    def set_limit(self, *, epsilon: float, delta: float, reason: str) -> None:
        """Change what all answers may cost; the entry says why and stays for good."""
        self._birth.check()
        check_limit(epsilon, delta)
        self._commit(book.Wish(kind="limit", epsilon=float(epsilon), delta=float(delta), query=reason))

    def spent(self) -> Spent:
        """Return what has been spent, by everybody who writes to this ledger."""
        return self._seen(lambda known: known.spent())

    def remaining(self, event: Event, *, stated: Stated | None = None) -> int:
        """Return how many more times ``event`` would be admitted now (at most 10^6)."""
        return self._seen(lambda known: known.times(event, stated))

    def spends(self) -> tuple[Spend, ...]:
        """Return every spend, oldest first."""
        return self._seen(lambda known: tuple(known.spends.values()))

    def digest(self, data: bytes) -> str:
        """Return a keyed digest of data, for the text of a query: who has no key learns nothing from it."""
        from blake3 import blake3

        return str(blake3(b"data" + data, key=self._key).hexdigest())[:32]

    @property
    def header(self) -> dict[str, Any]:
        """Return what was declared: population, unit, neighbours, filter."""
        return dict(self._book.header)

    @property
    def anchor(self) -> str:
        """Return a text to keep elsewhere: with it :meth:`verify` sees a folder that was put back to an older copy."""
        return self._seen(lambda _: self._mark.anchor)

    def verify(self, *, anchor: str | None = None) -> str:
        """Read everything again and check every seal; return the anchor of now.

        Raises:
            TamperedArtefact: an entry was changed, inserted or cut off, or the anchor is of a longer or another ledger.
        """
        self._birth.check()
        _, mark, _ = self._read(anchor=anchor)
        return mark.anchor

    def close(self) -> None:
        """Let go of the file."""
        self._storage.close()

    def _read(self, *, anchor: str | None = None) -> tuple[book.Book, entries.Mark, int]:
        """Read from the first byte; only behind a check of the head is the result used."""
        with self._storage.held():
            head = entries.heard(self._key, self._storage.head())
            made, seen = book.Book(), {}

            def take(entry: dict[str, Any], mark: entries.Mark) -> None:
                seen[mark.n] = mark
                made.take(entry)

            mark, offset = entries.opened(self._key, entries.NOTHING, self._storage.fetch(0), take)
        if mark.n < head.n:
            raise TamperedArtefact(f"the ledger was cut: {mark.n} entries are left of {head.n}")
        if seen[head.n] != head:
            raise TamperedArtefact("the ledger's head belongs to another history than its entries")
        if anchor is not None:
            at = anchor.partition("-")[0]
            known = seen.get(int(at)) if at.isdecimal() and len(at) < 16 else None
            if known is None or known.anchor != anchor.strip():
                raise TamperedArtefact(
                    f"the ledger has no entry {anchor!r}: it was put back to an older copy, or is another"
                )
        return made, mark, offset

    def _seen(self, read: Callable[[book.Book], Seen]) -> Seen:
        self._birth.check()
        with self._storage.held():
            self._follow()
            return read(self._book)

    def _follow(self) -> None:
        """Take in what others wrote since. The storage is held."""
        news = self._storage.fetch(self._offset)
        if news:
            self._mark, more = entries.opened(
                self._key, self._mark, news, lambda entry, _: self._book.take(entry)
            )
            self._offset += more

    def _write(self, wishes: Sequence[book.Wish]) -> list[dict[str, Any] | BaseException]:
        """Judge wishes in order, write what is admitted, and make it durable once."""
        results: list[dict[str, Any] | BaseException] = []
        with self._storage.held():
            self._follow()
            now = self._clock()
            drafted, mark, lines, written = self._book.draft(), self._mark, [], []
            for wish in wishes:
                try:
                    result, entry = self._book.judge(wish, drafted, now=now, n=mark.n + 1)
                    if entry is not None:
                        line, mark = entries.sealed(self._key, mark, entries.body_of(entry))
                        lines.append(line)
                        written.append(entry)
                    results.append(result)
                except CasemateError as error:
                    results.append(error)
            if lines:
                text = b"".join(lines)
                self._storage.append(text, self._offset)  # durable when it returns
                for entry in written:
                    self._book.take(entry, drafted.events.get(entry["n"]))
                self._mark, self._offset = mark, self._offset + len(text)
                self._storage.set_head(entries.head(self._key, mark))
        return results


def _key_path(path: Path, key: str | Path | None) -> Path:
    return files.beside(path, "key") if key is None else Path(key)


def _copied(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer as it would come back from disk, the caller's own to change."""
    return cast(dict[str, Any], json.loads(entries.body_of(answer)))
