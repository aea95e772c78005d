# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ARG001, ARG005 - steps have one signature, whether or not they use all of it
"""Pickle's opcodes, protocols 0 to 5, each as a step of the model machine (``core/pickles/machine.py``)."""

from __future__ import annotations

import codecs
import re
import struct
from collections.abc import Callable

from casemate.core.pickles import arrays, rebuild
from casemate.core.pickles.machine import (
    OPAQUE,
    Doubtful,
    Machine,
    Malformed,
    Opcodes,
    Refused,
    Surroundings,
    Thing,
    Value,
)
from casemate.core.pickles.permits import plausible

_SHORT = 4096  # longer texts and integers are kept by length alone
_MAX_INTEGER_BYTES = 1024
_MAX_DIGITS = 4300  # Python's own limit for text to integer
_INTEGER = re.compile(rb"[+-]?(0|[1-9][0-9]*)L?")
_PERHAPS_INTEGER = re.compile(rb"\s*[+-]?\s*[0-9][0-9a-zA-Z_]*\s*(\0|$)")


def machine(raw: bytes, start: int, around: Surroundings) -> Machine:
    r"""Return a machine that stands at ``start``.

    >>> walk = machine(b"I7\n.", 0, Surroundings())
    >>> walk.run()
    >>> walk.value
    7
    """
    return Machine(raw, start, around, OPCODES)


def _push(make: Callable[[Machine], Value]) -> Callable[[Machine], None]:
    def step(m: Machine) -> None:
        m.stack.append(make(m))

    return step


def _text(raw: bytes, encoding: str = "utf-8") -> Value:
    try:
        made = raw.decode(encoding, "surrogatepass" if encoding == "utf-8" else "strict")
    except UnicodeError as error:
        if encoding == "ascii":  # Python 2 bytes: the reader decides by its encoding=
            return Thing("text", size=len(raw))
        raise Malformed("text that is not text") from error
    return made if len(made) <= _SHORT else Thing("text", size=len(made))


def _bytes(kind: str, size: int) -> Callable[[Machine], Value]:
    def make(m: Machine) -> Thing:
        n, start = m.number(size), m.pos
        m.skip(n)
        return Thing(kind, size=n, data=m.raw[start : start + n] if n <= 64 else None)

    return make


def _characters(size: int, encoding: str = "utf-8") -> Callable[[Machine], Value]:
    return lambda m: _text(m.take(m.number(size)), encoding)


def _long(m: Machine, n: int) -> int:
    if n < 0 or n > _MAX_INTEGER_BYTES:
        raise Refused("hostile", "resource bomb", f"an integer of {n} bytes")
    return int.from_bytes(m.take(n), "little", signed=True)


def _decimal(raw: bytes) -> int:
    if _INTEGER.fullmatch(raw) and len(raw) <= _MAX_DIGITS:
        return int(raw.removesuffix(b"L"))
    if _PERHAPS_INTEGER.match(raw):  # 0x10, 010 (8 or 10), 1_0, 1\0: Python's readers disagree
        raise Doubtful("a line that some readers take for an integer")
    raise Malformed("a line that is no integer")


def _int_line(m: Machine) -> Value:
    raw = m.line()
    return {b"00": False, b"01": True}[raw] if raw in (b"00", b"01") else _decimal(raw)


def _float_line(m: Machine) -> float:
    raw = m.line()
    try:
        if len(raw) < _MAX_DIGITS and b"\0" not in raw:
            return float(raw)
    except ValueError as error:
        raise Malformed("a line that is no number") from error
    raise Doubtful("a line that some readers take for a number")


def _quoted(m: Machine) -> Value:
    raw = m.line().strip()
    if len(raw) < 2 or raw[:1] != raw[-1:] or raw[:1] not in (b"'", b'"'):
        raise Malformed("a text without quotes")
    try:
        return _text(codecs.escape_decode(raw[1:-1])[0], "ascii")  # as pickle does it
    except ValueError as error:
        raise Malformed("a text with a broken escape") from error


def _mark(m: Machine) -> None:
    m.marks.append(m.stack)
    m.stack = []


def _pop(m: Machine) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.above_mark()


def _pop_mark(m: Machine) -> None:
    m.above_mark()


def _container(kind: str) -> Callable[[Machine], None]:
    def step(m: Machine) -> None:
        items = m.above_mark()
        made = Thing(kind)
        if kind == "dict":
            _fill(m, made, items)
        else:
            if kind == "frozenset":
                _checked_keys(m, items)
            made.items = items
        m.stack.append(made)

    return step


def _tuple_of(n: int) -> Callable[[Machine], None]:
    def step(m: Machine) -> None:
        if len(m.stack) < n:
            raise Malformed("the stack is empty")
        items = m.stack[-n:]
        del m.stack[-n:]
        m.stack.append(Thing("tuple", items))

    return step


def _checked_keys(m: Machine, keys: list[Value]) -> None:
    for key in keys:
        m.call(lambda machine, value: machine.key(value), key)


def _fill(m: Machine, made: Thing, items: list[Value]) -> None:
    if len(items) % 2:
        raise Malformed("a key without its value")
    _checked_keys(m, items[::2])
    made.items += items


def _into(m: Machine, box: Value, items: list[Value], kinds: tuple[str, ...], opcode: str) -> None:
    """Append to or update what is below the items."""
    if box is OPAQUE:
        return
    if isinstance(box, Thing) and box.kind == "trusted":
        box.items += items
        return
    if not isinstance(box, Thing) or box.kind not in kinds:
        what = box.permit.title if isinstance(box, Thing) and box.permit else "an object"
        m.refuse("unknown", f"{opcode} on {what}", "would call a method of the object")
    elif box.frozen:
        m.refuse(
            "hostile", f"{opcode} after use", "changes a container that something was already built from"
        )
    elif kinds[0] == "dict":
        _fill(m, box, items)
    else:
        if kinds[0] == "set":
            _checked_keys(m, items)
        box.items += items


def _append(m: Machine) -> None:
    item = m.pop()
    _into(m, m.top(), [item], ("list",), "APPEND")


def _appends(m: Machine) -> None:
    items = m.above_mark()
    _into(m, m.top(), items, ("list",), "APPENDS")


def _setitem(m: Machine) -> None:
    value, key = m.pop(), m.pop()
    _into(m, m.top(), [key, value], ("dict", "mapping"), "SETITEM")


def _setitems(m: Machine) -> None:
    items = m.above_mark()
    _into(m, m.top(), items, ("dict", "mapping"), "SETITEMS")


def _additems(m: Machine) -> None:
    items = m.above_mark()
    _into(m, m.top(), items, ("set",), "ADDITEMS")


def _put(read: Callable[[Machine], int]) -> Callable[[Machine], None]:
    def step(m: Machine) -> None:
        index, value = read(m), m.top()
        if not 0 <= index <= max(1024, len(m.raw)):  # Python's memo is an array as long as its largest index
            raise Refused("hostile", "resource bomb", f"memo index {index}")
        m.memo[index] = value

    return step


def _get(read: Callable[[Machine], int]) -> Callable[[Machine], None]:
    def step(m: Machine) -> None:
        index = read(m)
        if index not in m.memo:
            raise Malformed(f"memo {index} was never stored")
        m.stack.append(m.memo[index])

    return step


def _memoize(m: Machine) -> None:
    m.memo[len(m.memo)] = m.top()


def _frame(m: Machine) -> None:
    n = m.number(8)
    if m.frame_end:
        raise Doubtful("a frame inside a frame")
    if m.pos + n > len(m.raw):
        raise Doubtful(f"a frame of {n} bytes, {len(m.raw) - m.pos} are left")
    m.frame_end = m.pos + n


def _proto(m: Machine) -> None:
    if (version := m.number(1)) > 5:
        raise Malformed(f"pickle protocol {version} is unknown")


def _global(m: Machine) -> None:
    try:
        module = m.line().decode()
        if m.raw.find(b"\n", m.pos) < 0 and plausible(module, "_"):
            raise Doubtful("a name without its end, whose module some readers import")
        m.name(module, m.line().decode())
    except UnicodeDecodeError as error:
        raise Malformed("a name that is no text") from error


def _stack_global(m: Machine) -> None:
    name, module = m.pop(), m.pop()
    m.name(module, name)


def _extension(size: int) -> Callable[[Machine], None]:
    def step(m: Machine) -> None:
        code = m.number(size)
        m.stack.append(
            m.refuse("hostile", f"extension code {code}", "names a class that only this process knows")
        )

    return step


def _persistent(m: Machine, value: Value) -> None:
    m.stack.append(m.call(arrays.storage, value))


def _persistent_line(m: Machine) -> None:
    raw = m.line()
    _persistent(m, raw.decode("ascii", "replace"))


def _reduce(m: Machine) -> None:
    arguments, function = m.pop(), m.pop()
    m.stack.append(m.call(rebuild.call, function, arguments))


def _inst(m: Machine) -> None:
    arguments = Thing("tuple", m.above_mark())
    _global(m)
    m.stack.append(m.call(rebuild.call, m.pop(), arguments))


def _obj(m: Machine) -> None:
    items = m.above_mark()
    if not items:
        raise Malformed("OBJ without a class")
    m.stack.append(m.call(rebuild.call, items[0], Thing("tuple", items[1:])))


def _newobj(m: Machine) -> None:
    arguments, cls = m.pop(), m.pop()
    m.stack.append(m.call(rebuild.new, cls, arguments))


def _newobj_ex(m: Machine) -> None:
    named, arguments, cls = m.pop(), m.pop(), m.pop()
    m.stack.append(m.call(rebuild.new_ex, cls, arguments, named))


def _build(m: Machine) -> None:
    state, thing = m.pop(), m.pop()
    made = m.call(rebuild.build, thing, state)
    m.stack.append(thing if made is None else made)


def _buffer(m: Machine) -> None:
    raise Malformed("needs buffers that are not in the file")


def _stop(m: Machine) -> None:
    m.value, m.done = m.pop(), True


OPCODES: Opcodes = {
    ord("("): _mark,
    ord("."): _stop,
    ord("0"): _pop,
    ord("1"): _pop_mark,
    ord("2"): _push(Machine.top),
    ord("F"): _push(_float_line),
    ord("I"): _push(_int_line),
    ord("J"): _push(lambda m: m.number(4, signed=True)),
    ord("K"): _push(lambda m: m.number(1)),
    ord("L"): _push(lambda m: _decimal(m.line())),
    ord("M"): _push(lambda m: m.number(2)),
    ord("N"): _push(lambda m: None),
    ord("P"): _persistent_line,
    ord("Q"): lambda m: _persistent(m, m.pop()),
    ord("R"): _reduce,
    ord("S"): _push(_quoted),
    ord("T"): _push(_characters(4, "ascii")),
    ord("U"): _push(_characters(1, "ascii")),
    ord("V"): _push(lambda m: _text(m.line(), "raw-unicode-escape")),
    ord("X"): _push(_characters(4)),
    ord("a"): _append,
    ord("b"): _build,
    ord("c"): _global,
    ord("d"): _container("dict"),
    ord("}"): _push(lambda m: Thing("dict")),
    ord("e"): _appends,
    ord("g"): _get(lambda m: _decimal(m.line())),
    ord("h"): _get(lambda m: m.number(1)),
    ord("i"): _inst,
    ord("j"): _get(lambda m: m.number(4)),
    ord("l"): _container("list"),
    ord("]"): _push(lambda m: Thing("list")),
    ord("o"): _obj,
    ord("p"): _put(lambda m: _decimal(m.line())),
    ord("q"): _put(lambda m: m.number(1)),
    ord("r"): _put(lambda m: m.number(4)),
    ord("s"): _setitem,
    ord("t"): _container("tuple"),
    ord(")"): _push(lambda m: Thing("tuple")),
    ord("u"): _setitems,
    ord("G"): _push(lambda m: struct.unpack(">d", m.take(8))[0]),
    ord("B"): _push(_bytes("bytes", 4)),
    ord("C"): _push(_bytes("bytes", 1)),
    0x80: _proto,
    0x81: _newobj,
    0x82: _extension(1),
    0x83: _extension(2),
    0x84: _extension(4),
    0x85: _tuple_of(1),
    0x86: _tuple_of(2),
    0x87: _tuple_of(3),
    0x88: _push(lambda m: True),
    0x89: _push(lambda m: False),
    0x8A: _push(lambda m: _long(m, m.number(1))),
    0x8B: _push(lambda m: _long(m, m.number(4, signed=True))),
    0x8C: _push(_characters(1)),
    0x8D: _push(_characters(8)),
    0x8E: _push(_bytes("bytes", 8)),
    0x8F: _push(lambda m: Thing("set")),
    0x90: _additems,
    0x91: _container("frozenset"),
    0x92: _newobj_ex,
    0x93: _stack_global,
    0x94: _memoize,
    0x95: _frame,
    0x96: _push(_bytes("bytearray", 8)),
    0x97: _buffer,
    0x98: _buffer,
}
