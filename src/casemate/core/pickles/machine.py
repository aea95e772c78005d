# SPDX-License-Identifier: Apache-2.0
"""A pickle stream acted out on a model: stack, marks and memo as the unpickler has them, objects replaced by notes.

Nothing is imported, built or called. What each opcode *would* make is a :class:`Thing`; what a call would do is decided
by ``rebuild.py`` from the allow-list. The machine is stricter than Python's unpickler (no opcode may cut a frame,
nothing may be left on the stack), so that no file means one thing here and another there. Work and memory are
bounded by the length of the stream: every length is checked against the bytes that are present before it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from casemate.core.pickles.permits import Level, Permit, permitted, plausible, refused

_MAX_FINDINGS = 100
_MAX_NESTED = 20  # pickles inside pickles (object arrays)
_MAX_DEPTH = 10_000  # containers inside containers
_MAX_EXPANDED = 1e9  # objects, if every reference were a copy
_MAX_KEY = 10_000  # objects hashed for one dictionary key
_MAX_COMPOUND = 20_000  # tuples hashed in all: whoever chooses their numbers can let all collide
_ROOM, _ROOM_PER_BYTE = 64 << 20, 16  # bytes a stream may make the unpickler allocate by calls


@dataclass(frozen=True, order=True)
class Finding:
    """One thing in a file that keeps it from being clean: how bad, what, where (member and byte), and why.

    >>> Finding("hostile", "os.system", "model.pkl at byte 2", "can run code").what
    'os.system'
    """

    level: Level
    what: str
    where: str
    why: str


class Malformed(Exception):
    """The bytes are no pickle from here on."""


class Doubtful(Malformed):
    """We stop here, but some unpickler reads on: never a reason to take the bytes for something else."""


class Refused(Exception):
    """An operation that no honest file contains."""

    def __init__(self, level: Level, what: str, why: str) -> None:
        super().__init__(what)
        self.level, self.what, self.why = level, what, why


@dataclass(eq=False, slots=True)
class Thing:
    """What an opcode would make. ``items``: what it holds (a dictionary: keys and values in turn)."""

    kind: str
    items: list[Any] = field(default_factory=list)
    size: int = 0  # bytes, characters or elements
    permit: Permit | None = None
    data: Any = None
    frozen: bool = False  # used as a state or inside a dtype: may not change any more


OPAQUE = Thing("opaque")  # stands for the outcome of what was refused; swallows everything
Value = Any  # None, bool, int, float, str, or a Thing


Opcodes = Mapping[int, Callable[["Machine"], None]]


@dataclass
class Surroundings:
    """What a walk shares with the walks around it."""

    where: str = ""
    trust: frozenset[str] = frozenset()
    records: dict[str, int] | None = None  # torch: storages in the file, by key; None outside torch files
    findings: list[Finding] = field(default_factory=list)
    named: set[tuple[str, str]] = field(default_factory=set)
    trusted: set[str] = field(default_factory=set)
    joblib: bool = False
    depth: int = 0

    def add(self, level: Level, what: str, why: str, at: int | None = None) -> None:
        """Note a finding, once for each place and at most so many."""
        where = self.where if at is None else f"{self.where} at byte {at}"
        found = Finding(level, what, where, why)
        if len(self.findings) < _MAX_FINDINGS and found not in self.findings:
            self.findings.append(found)


class Machine:
    """One walk from ``start`` to STOP; :attr:`pos` is then the byte behind it, :attr:`value` what would be returned."""

    def __init__(self, raw: bytes, start: int, around: Surroundings, opcodes: Opcodes) -> None:
        self.raw, self.pos, self.around, self.opcodes = raw, start, around, opcodes
        self.stack: list[Value] = []
        self.marks: list[list[Value]] = []
        self.memo: dict[int, Value] = {}
        self.frame_end = 0
        self.at = start  # of the current opcode
        self.n_opcodes = 0
        self.n_calls = 0
        self.n_compound = 0  # tuples hashed
        self.plausible = False  # a global was named that could be meant
        self.room = _ROOM + _ROOM_PER_BYTE * (len(raw) - start)
        self.value: Value = None
        self.storages: dict[str, int] = {}  # torch: key -> bytes, as named here
        self.done = False

    # ---- reading, never beyond what is there

    def take(self, n: int) -> bytes:
        """Return the next n bytes."""
        start = self.pos
        self.skip(n)
        return self.raw[start : self.pos]

    def skip(self, n: int) -> None:
        """Pass over n bytes without a copy."""
        end = self.pos + n
        if n < 0 or end > len(self.raw):
            raise Malformed(f"{n} bytes announced, {len(self.raw) - self.pos} are left")
        if self.at < self.frame_end < end:
            raise Doubtful("an argument runs across the end of its frame")
        self.pos = end

    def number(self, n: int, *, signed: bool = False) -> int:
        """Read a little-endian integer of n bytes."""
        return int.from_bytes(self.take(n), "little", signed=signed)

    def line(self) -> bytes:
        """Read up to the next newline."""
        end = self.raw.find(b"\n", self.pos)
        if end < 0:
            raise Malformed("a line without its end")
        out = self.take(end + 1 - self.pos)
        return out[:-1]

    def charge(self, n: int) -> None:
        """Count bytes that a call would allocate, or objects it would walk through."""
        self.room -= n
        if self.room < 0:
            raise Refused(
                "hostile", "resource bomb", "would take far more memory or time than its size explains"
            )

    # ---- the stack

    def pop(self) -> Value:
        """Take the topmost value above the last mark."""
        if not self.stack:
            raise Malformed("the stack is empty")
        return self.stack.pop()

    def top(self) -> Value:
        """Return the topmost value above the last mark."""
        if not self.stack:
            raise Malformed("the stack is empty")
        return self.stack[-1]

    def above_mark(self) -> list[Value]:
        """Take all values above the last mark, and the mark."""
        if not self.marks:
            raise Malformed("no mark on the stack")
        items, self.stack = self.stack, self.marks.pop()
        return items

    # ---- the walk

    def run(self) -> None:
        """Walk to STOP; findings go to the surroundings.

        Raises:
            Malformed: the bytes are no pickle.
            Refused: something that ends the walk, a resource bomb.
        """
        while not self.done:
            self.at = self.pos
            step = self.opcodes.get(self.take(1)[0])
            if step is None:
                raise Malformed(f"0x{self.raw[self.at]:02x} is no opcode")
            self.n_opcodes += 1
            step(self)
            if self.frame_end and self.pos >= self.frame_end:
                self.frame_end = 0
        if self.marks or self.stack:
            raise Doubtful("values are left on the stack at the end")
        if self.frame_end:
            raise Doubtful("a frame that goes on behind the end")
        self._measure()

    def refuse(self, level: Level, what: str, why: str) -> Thing:
        """Note what an honest file does not do; the walk goes on with an opaque value."""
        self.around.add(level, what, why, self.at)
        return OPAQUE

    def name(self, module: Value, name: Value) -> None:
        """Push the global ``module.name``."""
        if module is OPAQUE or name is OPAQUE:
            self.stack.append(
                self.refuse("hostile", "a computed name", "the global is decided by a refused call")
            )
            return
        if not (isinstance(module, str) and isinstance(name, str)):
            raise Doubtful("a global needs two texts")
        self.plausible = self.plausible or plausible(module, name)
        title = f"{module}.{name}"
        permit = permitted(module, name)
        if permit is None and title in self.around.trust:
            permit = Permit(module, name, "trusted")
        if permit is None:
            self.stack.append(self.refuse(refused(module, name)[0], title, refused(module, name)[1]))
            return
        if permit.use == "trusted":
            self.around.trusted.add(title)
        self.around.named.add((module, name))
        self.stack.append(Thing("global", permit=permit))

    def call(self, make: Callable[..., Value], *arguments: Value) -> Value:
        """Let the rules decide what a call would make."""
        if any(item is OPAQUE for item in arguments):
            return OPAQUE
        try:
            return make(self, *arguments)
        except Refused as no:
            if no.what == "resource bomb":
                raise
            return self.refuse(no.level, no.what, no.why)

    def key(self, value: Value) -> None:
        """Check what would be hashed: plain values only, and not much of them."""
        todo, seen = [(value, 0)], 0
        while todo:
            item, depth = todo.pop()
            seen += 1
            if seen > _MAX_KEY or depth > 50:
                raise Refused("hostile", "resource bomb", "a dictionary key that takes forever to hash")
            if isinstance(item, int) and item.bit_length() > 64:
                raise Refused("hostile", "resource bomb", "huge integers as keys can all collide")
            if isinstance(item, Thing):
                if item.kind in ("tuple", "frozenset"):
                    self.n_compound += 1
                    todo += [(part, depth + 1) for part in item.items]
                elif item.kind not in ("bytes", "text", "global", "scalar", "trusted", "opaque") or (
                    item.kind == "scalar" and item.data in ("c", "V")
                ):
                    raise Refused(
                        "unknown", f"{item.kind} as a key", "hashing it would call a method of the object"
                    )
        if self.n_compound > _MAX_COMPOUND:
            raise Refused("hostile", "resource bomb", "tuples as keys can all collide")
        self.charge(seen)

    def _measure(self) -> None:
        """Bound how deep the result is nested and how much it is if every shared reference is followed."""
        weight: dict[int, float] = {}
        deep: dict[int, int] = {}
        todo: list[tuple[Thing, bool]] = [(self.value, False)] if isinstance(self.value, Thing) else []
        open_: set[int] = set()
        while todo:
            thing, leaving = todo.pop()
            if leaving:
                open_.discard(id(thing))
                parts = [item for item in thing.items if isinstance(item, Thing)]
                weight[id(thing)] = 1 + len(thing.items) + sum(weight.get(id(part), 0.0) for part in parts)
                deep[id(thing)] = 1 + max((deep.get(id(part), 0) for part in parts), default=0)
                if weight[id(thing)] > _MAX_EXPANDED or deep[id(thing)] > _MAX_DEPTH:
                    raise Refused("hostile", "resource bomb", "containers nested or shared without bound")
            elif id(thing) not in weight and id(thing) not in open_:
                open_.add(id(thing))
                todo.append((thing, True))
                todo += [(part, False) for part in thing.items if isinstance(part, Thing)]
