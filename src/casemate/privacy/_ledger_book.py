# SPDX-License-Identifier: Apache-2.0
"""What a ledger's entries add up to, and which wish is admitted: no files and no locks here."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

from casemate.core.errors import BudgetExhausted, GuaranteeVoid, InvalidData, TamperedArtefact
from casemate.privacy import _ledger_filter as filters
from casemate.privacy import events
from casemate.privacy._ledger_entries import FORMAT
from casemate.privacy._ledger_terms import Stated, check_declared, check_limit, check_text, converted, cost_of
from casemate.privacy.events import Event, Part, Pure

SLACK_SECONDS = 1.0  # that clocks of one machine may differ
MOST_TIMES = 10**6


@dataclass(frozen=True, kw_only=True)
class Spend:
    """One spend: its entry's number, the question, the event as it was charged, when, and whether it was answered."""

    n: int
    query: str
    event: Event
    time: float
    answered: bool


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What has been spent so far, and what is left.

    ``epsilon`` (with ``delta``) is the running sum, the least limit that would have admitted everything so far; as a
    guarantee it holds where the number and sizes of the spends were fixed beforehand.
    ``at_any_time`` holds at a moment T that the answers chose. Exactly: let P and Q be the distributions, for two
    neighbours, of everything seen until T, and E the value of ``at_any_time`` then. For every set S of such views

        P(S) <= E_Q[e^E; S] + at_any_time_delta.

    That is 2 ``limit_delta``: one for the sixteenths of the limit together, one for the limit itself, which is told
    where no sixteenth holds; where limits were changed, twice the delta of each there ever was, added up. It is no
    (E, delta) guarantee: E depends on the answers. Where all spends are pure nothing is added: E is their sum.
    ``limit_epsilon`` and ``limit_delta`` hold, with that delta once, for everything that will ever be released, unless
    more was spent before the limit was lowered. ``unclear`` spends have no answer: a crash, a failure, or a training.
    ``remaining_epsilon`` and ``remaining_rho`` would still be admitted, one or the other.
    """

    epsilon: float
    delta: float
    at_any_time: float
    at_any_time_delta: float
    limit_epsilon: float
    limit_delta: float
    spends: int
    unclear: int
    remaining_epsilon: float
    remaining_rho: float


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a caller wants written."""

    kind: Literal["reserve", "answer", "limit"]
    query: str
    event: Event = ()
    stated: Stated | None = None
    once: bool = False
    of: int = 0
    answer: dict[str, Any] | None = None
    epsilon: float = 0.0
    delta: float = 0.0


class Book:
    """The sums and answers behind a ledger's entries."""

    def __init__(self) -> None:
        self.header: dict[str, Any] = {}
        self.spends: dict[int, Spend] = {}
        self.answers: dict[str, dict[str, Any]] = {}
        self.priced: dict[str, Event] = {}
        self.time = -math.inf
        self.filter = filters.made("pure", 1.0, 0.0)  # until the first entry says which
        self.totals = self.filter.nothing()
        self.declared: Event = ()
        self.limits: list[tuple[float, float]] = []  # the present one last

    def take(self, entry: dict[str, Any], event: Event | None = None) -> None:
        """Add an entry that was written, with its event if that need not be read again."""
        self.time = max(self.time, entry["time"])
        kind = entry["kind"]
        if kind == "reserve":
            event = event or events.from_json(entry["event"])
            self.spends[entry["n"]] = Spend(
                n=entry["n"], query=entry["query"], event=event, time=entry["time"], answered=False
            )
            self.priced[entry["query"]] = event
            self.totals = filters.added(self.totals, filters.cost(event, self.filter))
        elif kind == "answer":
            spend = self.spends[entry["of"]]
            self.spends[entry["of"]] = replace(spend, answered=True)
            self.answers[spend.query] = entry["answer"]
        elif kind == "limit":
            self._limited(entry["epsilon"], entry["delta"])
        elif kind == "ledger" and not self.header and entry["format"] == FORMAT:
            self.header = entry
            self.filter = filters.Filter.from_json(entry["filter"])
            self.totals = self.filter.nothing()
            self.declared = tuple(part for raw in entry["declared"] for part in events.from_json(raw))
            self._limited(entry["epsilon"], entry["delta"])
        else:
            raise TamperedArtefact(f"the ledger has an entry of a kind unknown to this version: {kind!r}")

    def judge(
        self, wish: Wish, drafted: Draft, *, now: float, n: int
    ) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Return the result of a wish and the entry to write for it, if any.

        Raises:
            BudgetExhausted, GuaranteeVoid, InvalidData: it is refused.
        """
        if wish.kind == "reserve" and wish.query in self.answers and not wish.once:
            if self._charged(wish) != self.priced[wish.query]:
                raise InvalidData("this query was answered at another cost; let its text name what differs")
            return {"answer": self.answers[wish.query]}, None
        if now < self.time - SLACK_SECONDS:
            raise GuaranteeVoid(
                f"the clock reads {self.time - now:,.0f} s before the ledger's last entry; set it right, then go on"
            )
        entry: dict[str, Any] = {"kind": wish.kind, "n": n, "time": round(now, 3)}
        if wish.kind == "answer":
            if wish.query in self.answers:  # another process was faster: one question, one answer
                return {"answer": self.answers[wish.query]}, None
            return {"answer": wish.answer}, {**entry, "of": wish.of, "answer": wish.answer}
        check_text("query" if wish.kind == "reserve" else "reason", wish.query)
        if wish.kind == "limit":
            check_limit(wish.epsilon, wish.delta)
            if self.declared:
                check_declared(self.declared, wish.epsilon, wish.delta)
            self.filter.capacity(wish.epsilon, wish.delta)  # what cannot be worked out is not written
            return {}, {**entry, "epsilon": wish.epsilon, "delta": wish.delta, "reason": wish.query}
        if wish.once and (wish.query in self.priced or wish.query in drafted.queries):
            raise GuaranteeVoid(
                "this query was charged before; beginning again costs anew: give it another name"
            )
        event = self._charged(wish)
        drafted.totals = self._admitted(event, drafted)
        drafted.reserved += event
        drafted.queries.add(wish.query)
        drafted.events[n] = event
        return {"n": n}, {**entry, "query": wish.query, "event": _told(event)}

    def draft(self) -> Draft:
        """Return what a batch of wishes starts from."""
        return Draft(totals=self.totals)

    def spent(self) -> Spent:
        """Return what has been spent."""
        most, delta = self.limit
        full = not self.filter.admits(
            self.totals, self.capacity
        )  # by a first event, or a limit that was lowered
        fixed = bool(self.spends) and (bool(self.declared) or (full and len(self.spends) == 1))
        running = cost_of(self._everything(), delta) if fixed else self.filter.epsilon(self.totals, delta)
        anytime = max(most, running) if fixed else self._at_any_time(full)
        closed = full or bool(self.declared)
        return Spent(
            epsilon=running,
            delta=delta,
            at_any_time=anytime,
            at_any_time_delta=math.fsum(2 * other for _, other in self.limits),
            limit_epsilon=most,
            limit_delta=delta,
            spends=len(self.spends),
            unclear=sum(not spend.answered for spend in self.spends.values()),
            remaining_epsilon=0.0 if closed else self._most(lambda size: Pure(epsilon=size)),
            remaining_rho=0.0 if closed else self._most(lambda size: events.ZCDP(rho=size)),
        )

    def times(self, event: Event, stated: Stated | None) -> int:
        """Return how many more times an event would be admitted."""
        charged = self._charged(Wish(kind="reserve", query="", event=event, stated=stated))
        if self.declared:
            used, allowed = _parts(self._everything()), _parts(self.declared)
            return min((allowed[one] - used[one]) // k for one, k in _parts(charged).items())
        if not self.spends and not self._holds(charged, 1):
            return int(cost_of(charged, self.limit[1]) <= self.limit[0])
        low, high = 0, MOST_TIMES + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._holds(charged, middle) else (low, middle)
        return low

    def _at_any_time(self, full: bool) -> float:
        most, delta = self.limit
        if not full:
            return min(self.filter.at_any_time(self.totals, most, delta), most)
        held = (  # lowered below what was spent: the limits of before say more than the one of now
            epsilon
            for epsilon, other in self.limits
            if other <= delta and self.filter.admits(self.totals, self.filter.capacity(epsilon, other))
        )
        return min(held, default=math.inf)

    def _holds(self, event: Event, times: int) -> bool:
        more = tuple(times * one for one in filters.cost(event, self.filter))
        return self.filter.admits(filters.added(self.totals, more), self.capacity)

    def _limited(self, epsilon: float, delta: float) -> None:
        self.limit = (epsilon, delta)
        self.limits.append(self.limit)
        self.capacity = self.filter.capacity(epsilon, delta)

    def _everything(self) -> Event:
        return tuple(part for spend in self.spends.values() for part in spend.event)

    def _charged(self, wish: Wish) -> Event:
        return converted(events.checked(wish.event), wish.stated, self.header)

    def _admitted(self, event: Event, drafted: Draft) -> filters.Totals:
        totals = filters.added(drafted.totals, filters.cost(event, self.filter))
        most, delta = self.limit
        if self.declared:
            after = _parts(self._everything() + drafted.reserved + event)
            if not after <= _parts(self.declared):
                raise BudgetExhausted("this event is not, or no longer, among those declared for the ledger")
        # the first event was chosen before anything was seen: nothing about it is adaptive
        elif not self.filter.admits(totals, self.capacity) and (
            self.spends or drafted.reserved or not cost_of(event, delta) <= most
        ):
            spent = self.filter.epsilon(drafted.totals, delta)
            raise BudgetExhausted(
                f"the budget of epsilon {most:g} at delta {delta:g} has no room for this: "
                f"{spent:.6g} is spent; nothing was released"
            )
        return totals

    def _most(self, part: Any) -> float:
        """Return the largest size of a part that would be admitted, rounded down."""

        def fits(size: float) -> bool:
            cost = filters.cost.__wrapped__((part(size),), self.filter)
            return self.filter.admits(filters.added(self.totals, cost), self.capacity)

        left = 0.0
        if self.filter.members[0].kind == "basic":
            left = max(self.capacity[1] - self.totals[1], 0) / 1e15
        low, high = 0.0, max(2 * self.limit[0], 1.0)
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return left if left > low and fits(left) else low


@dataclass(kw_only=True)
class Draft:
    """What a batch has added so far to a book that is not written yet."""

    totals: filters.Totals
    reserved: Event = ()
    queries: set[str] = field(default_factory=set)
    events: dict[int, Event] = field(default_factory=dict)


@lru_cache(maxsize=1024)
def _told(event: Event) -> list[dict[str, Any]]:
    return events.to_json(event)


def _parts(event: Event) -> Counter[Part]:
    """Count single releases."""
    found: Counter[Part] = Counter()
    for part in event:
        if isinstance(part, events.Tuned):
            found[part] += 1
        else:
            found[replace(part, count=1)] += part.count
    return found
