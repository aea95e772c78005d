# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ARG001 - rules of a kind have one signature, whether or not they use all of it
"""Arrays and tensors in pickles: what numpy, joblib and torch would build, compared with the bytes that are there.

A dtype may not change after it was used, an array is exactly as large as its data, a tensor stays inside its storage:
the compiled code behind them trusts these numbers, also where Python itself would run nothing.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable

from casemate.core.pickles.arguments import arguments, attributes, is_a, length, no, permit_of, plain, whole
from casemate.core.pickles.machine import (
    OPAQUE,
    Doubtful,
    Machine,
    Malformed,
    Refused,
    Surroundings,
    Thing,
    Value,
)
from casemate.core.pickles.permits import Permit, permitted, refused

_DTYPE = re.compile(r"[<>|=]?([biufcSUVOMm?])([1-9][0-9]{0,11}|0?)")
_SIZES = {"b": {1}, "i": {1, 2, 4, 8}, "u": {1, 2, 4, 8}, "f": {2, 4, 8, 12, 16}, "c": {8, 16, 24, 32}}
_SIZES |= {"?": {1}, "O": {4, 8}, "M": {8}, "m": {8}}
_ALIGNMENTS = {1, 2, 4, 8, 16}
_OBJECT_FLAGS = 63
_HARMLESS_FLAGS = (
    8 | 16 | 128
)  # zeroed on creation, needs the interpreter, aligned: none of them owns pointers
_MAX_DIMENSIONS = 64
_WRAPPER = {"subclass", "shape", "order", "dtype", "allow_mmap", "numpy_array_alignment_bytes"}


# ---------------------------------------------------------------------- numpy


def _dtype(m: Machine, permit: Permit, given: list[Value]) -> Thing:
    found = _DTYPE.fullmatch(given[0]) if given and isinstance(given[0], str) else None
    if found is None or len(given) > 3 or not all(isinstance(flag, int) for flag in given[1:]):
        raise Refused("unknown", permit.title, "a kind of number that is not modelled")
    kind, digits = found.groups()
    size = int(digits or (8 if kind in "OMm" else 1 if kind == "?" else 0))
    if kind in _SIZES and size not in _SIZES[kind]:
        raise Refused("unknown", permit.title, "a kind of number that is not modelled")
    size *= 4 if kind == "U" else 1
    if size > len(m.raw) + 4096:
        raise Refused("hostile", "resource bomb", f"one element of {size} bytes")
    return Thing(
        "dtype", size=size, data={"kind": kind, "object": kind == "O", "used": False, "fields": False}
    )


def _dtype_state(m: Machine, thing: Thing, state: Value) -> None:
    parts = arguments(state)
    bad = Refused("hostile", "numpy.dtype", "a description that does not fit its bytes")
    if len(parts) not in (8, 9) or thing.data["used"]:
        raise bad
    _, endian, inner, names, fields, size, align, flags = parts[:8]
    if inner is not None:
        raise Refused("unknown", "numpy.dtype", "a subarray, which is not modelled")
    if endian not in ("<", ">", "|", "=") or not all(map(whole, (size, align, flags))):
        raise bad
    if flags != _OBJECT_FLAGS if thing.data["object"] else flags & ~_HARMLESS_FLAGS:
        raise bad
    if thing.data["kind"] in "SUV" and (size != thing.size or align not in _ALIGNMENTS):
        raise bad
    if thing.data["kind"] not in "SUV" and (size, align) != (-1, -1):
        raise bad
    if (names is None) != (fields is None) or (fields is not None and thing.data["kind"] != "V"):
        raise bad
    if fields is not None:
        _fields(thing, names, fields, bad)
    if len(parts) == 9 and not (thing.data["kind"] in "Mm" and plain(parts[8])) and parts[8] is not None:
        raise bad
    thing.data["used"] = True


def _fields(thing: Thing, names: Value, fields: Value, bad: Refused) -> None:
    """Check that each field lies inside an element."""
    if not (is_a(names, "tuple") and is_a(fields, "dict")) or sorted(map(str, names.items)) != sorted(
        map(str, fields.items[::2])
    ):
        raise bad
    for field in fields.items[1::2]:
        parts = arguments(field)
        if len(parts) != 2 or not is_a(parts[0], "dtype") or not whole(parts[1]) or parts[0].data["object"]:
            raise bad
        if parts[1] < 0 or parts[1] + parts[0].size > thing.size:
            raise bad
        parts[0].data["used"] = True
    fields.frozen = True
    thing.data["fields"] = True


def _count(shape: Value) -> int:
    """Return the number of elements of a shape."""
    if not is_a(shape, "tuple") or len(shape.items) > _MAX_DIMENSIONS:
        raise Refused("hostile", "numpy.ndarray", "a shape that is none")
    if not all(whole(n) and 0 <= n < 2**48 for n in shape.items):
        raise Refused("hostile", "numpy.ndarray", "a shape that is none")
    return math.prod(shape.items)


def _holds(m: Machine, shape: Value, dtype: Value, raw: Value) -> Thing:
    """Return the array that these bytes (or this list) make; they must be exactly as many as the shape says."""
    if not is_a(dtype, "dtype"):
        raise Refused("hostile", "numpy.ndarray", "elements of no known kind")
    n, made = _count(shape), Thing("array", data=tuple(shape.items))
    dtype.data["used"] = True
    if dtype.data["object"]:
        if not is_a(raw, "list") or len(raw.items) != n:
            raise Refused("hostile", "numpy.ndarray", "another number of objects than its shape says")
        m.charge(8 * n)
        raw.frozen = True
        made.items = [raw]
    elif length(raw) != n * dtype.size:
        raise Refused("hostile", "numpy.ndarray", "another number of bytes than its shape says")
    else:
        m.charge(n * max(dtype.size, 1))
    made.size = n * dtype.size
    return made


def _become(thing: Thing, made: Thing) -> None:
    thing.items, thing.size, thing.data = made.items, made.size, made.data


def _empty(permit: Permit, given: list[Value], kinds: tuple[str, ...]) -> None:
    """Check the arguments of an array that is still empty: classes, (0,), b"b"."""
    classes, rest = given[: len(kinds)], given[len(kinds) :]
    named = [found.name if (found := permit_of(item, "reference")) else "" for item in classes]
    if tuple(named) != kinds or len(rest) != 2 or not is_a(rest[0], "tuple") or rest[0].items != [0]:
        raise no(permit, "is not asked for an empty array")


def _array(m: Machine, permit: Permit, given: list[Value]) -> Thing:
    _empty(permit, given, ("ndarray",))
    return Thing("array", data=(0,), permit=permit)


def _array_state(m: Machine, thing: Thing, state: Value) -> None:
    parts = arguments(state)
    if len(parts) != 5:
        raise Refused("hostile", "numpy.ndarray", "a state that is none")
    _become(thing, _holds(m, parts[1], parts[2], parts[4]))


def _masked(m: Machine, permit: Permit, given: list[Value]) -> Thing:
    _empty(permit, given, ("MaskedArray", "ndarray"))
    return Thing("masked", data=(0,), permit=permit)


def _masked_state(m: Machine, thing: Thing, state: Value) -> None:
    parts = arguments(state)
    if len(parts) != 7 or not is_a(parts[2], "dtype") or parts[2].data["fields"]:
        raise Refused("hostile", "numpy.ma.MaskedArray", "a state that is none")
    _become(thing, _holds(m, parts[1], parts[2], parts[4]))
    if length(parts[5]) != _count(parts[1]):
        raise Refused("hostile", "numpy.ma.MaskedArray", "a mask of another size")
    thing.items = [*thing.items, parts[6]]


def _scalar(m: Machine, permit: Permit, given: list[Value]) -> Thing:
    if len(given) != 2 or not is_a(given[0], "dtype") or given[0].data["object"]:
        raise Refused("unknown", permit.title, "of a kind that is not modelled")
    if length(given[1]) != given[0].size:
        raise no(permit, "another number of bytes than its kind says")
    given[0].data["used"] = True
    return Thing("scalar", data=given[0].data["kind"])


def _frombuffer(m: Machine, permit: Permit, given: list[Value]) -> Thing:
    if len(given) not in (4, 5) or given[3] not in ("C", "F", "K") or not plain(Thing("tuple", given[4:])):
        raise Refused("unknown", permit.title, "a buffer that is not modelled")
    if not is_a(given[1], "dtype") or given[1].data["object"]:
        raise no(permit, "pointers out of a buffer")
    return _holds(m, given[2], given[1], given[0])


def _random(m: Machine, permit: Permit, given: list[Value]) -> Thing:
    for item in given:
        checked = permit_of(item, "generator") or is_a(item, "generator")
        maker = permit_of(item, "call")
        if not (checked or isinstance(item, str) or (maker and maker.check == "generator")):
            raise no(permit, "of something that is no random generator of numpy")
    return Thing("generator", permit=permit)


# ---------------------------------------------------------------------- joblib: array bytes between the opcodes


def _wrapper(m: Machine, thing: Thing, state: Value) -> Thing:
    """Read the array that joblib wrote behind this BUILD."""
    found = attributes(state)
    if set(found) - _WRAPPER:
        raise Refused("hostile", "joblib array", "an attribute that stands in for one of joblib's functions")
    thing.kind = "spent"  # a second state would be read beside what the first one left
    dtype, shape, align = found.get("dtype"), found.get("shape"), found.get("numpy_array_alignment_bytes")
    subclass = permit_of(found.get("subclass"), "reference", "subclass")
    if (
        subclass is None
        or subclass.name not in ("ndarray", "memmap")
        or not isinstance(dtype, Thing)
        or dtype.kind != "dtype"
    ):
        raise Refused("unknown", "joblib array", "a kind of array that is not modelled")
    if (
        not isinstance(shape, Thing)
        or found.get("order") not in ("C", "F")
        or not (align is None or whole(align))
    ):
        raise Refused("hostile", "joblib array", "a description that is none")
    if m.pos < m.frame_end:
        raise Doubtful("an array inside a frame")
    m.frame_end, n = 0, _count(shape)
    m.around.joblib = True
    _shadow(m)
    dtype.data["used"] = True
    if dtype.data["object"]:
        return _nested(m)
    if align is not None:
        m.skip(m.number(1))
    m.charge(n * max(dtype.size, 1))
    m.skip(n * dtype.size)
    return Thing("array", size=n * dtype.size, data=tuple(shape.items))


def _nested(m: Machine) -> Thing:
    """Walk the pickle of an object array, with a stack and memo of its own."""
    if m.around.depth >= 20:
        raise Refused("hostile", "resource bomb", "pickles inside pickles without end")
    m.around.depth += 1
    inner = Machine(m.raw, m.pos, m.around, m.opcodes)
    inner.run()
    m.around.depth -= 1
    m.pos = inner.pos
    made: Thing = inner.value if isinstance(inner.value, Thing) else Thing("array")
    return made


def _shadow(m: Machine) -> None:
    """Walk the array's bytes as opcodes, as the plain unpickler would: they may be written to be both."""
    if m.pos >= len(m.raw) or m.raw[m.pos] not in m.opcodes or m.around.depth >= 20:
        return
    m.charge(len(m.memo) + len(m.stack))
    around = Surroundings(where=m.around.where, trust=m.around.trust, depth=20)
    other = Machine(m.raw, m.pos, around, m.opcodes)
    other.stack, other.marks = [*m.stack, OPAQUE], [list(part) for part in m.marks]
    other.memo, other.room = dict(m.memo), m.room
    with contextlib.suppress(Malformed, Refused):
        other.run()
    m.room = min(m.room, other.room)
    for found in around.findings:
        module, _, name = found.what.rpartition(".")
        named = module and permitted(module, name) is None and refused(module, name)[0] == "hostile"
        if other.plausible and named:
            m.around.add("hostile", found.what, "array data that is also opcodes: " + found.why, m.pos)


# ---------------------------------------------------------------------- torch


def storage(m: Machine, key: Value) -> Thing:
    """A persistent id: in torch files, a storage whose bytes lie elsewhere in the file."""
    records = m.around.records
    if records is None:
        raise Refused(
            "unknown", "a persistent id", "names something outside the pickle, in a file that is not torch's"
        )
    parts = key.items if is_a(key, "tuple") else []
    permit = permit_of(parts[1], "storage") if len(parts) in (5, 6) else None
    if permit is None or parts[0] != "storage" or not isinstance(parts[2], str) or not whole(parts[4]):
        raise Refused("unknown", "a persistent id", "is not one of torch's storages")
    if parts[5:] not in ([], [None]) or not isinstance(parts[3], str) or parts[4] < 0:
        raise Refused("unknown", "a persistent id", "is not one of torch's storages")
    n_bytes = parts[4] * permit.size
    m.storages[parts[2]] = n_bytes
    there = (
        records.get(parts[2], -1) if "" not in records else records[""] - sum(m.storages.values()) + n_bytes
    )
    if n_bytes > there:
        raise Refused(
            "hostile", f"torch storage {parts[2][:40]}", f"{n_bytes} bytes announced, {max(there, 0)} there"
        )
    return Thing("storage", size=parts[4])


def _tensor(m: Machine, permit: Permit, given: list[Value]) -> Thing:
    fine = 4 <= len(given) <= 7 and is_a(given[0], "storage") and whole(given[1])
    if not fine or not (is_a(given[2], "tuple", "size") and is_a(given[3], "tuple", "size")):
        raise Refused("unknown", permit.title, "a tensor that is not modelled")
    sizes, strides = given[2].items, given[3].items
    numbers = [given[1], *sizes, *strides]
    if len(sizes) != len(strides) or not all(whole(n) and 0 <= n < 2**62 for n in numbers):
        raise no(permit, "sizes that are none")
    last = given[1] + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    if 0 not in sizes and last >= given[0].size:  # torch would silently enlarge the storage
        raise no(permit, "reaches beyond its storage")
    if not all(isinstance(item, bool) or is_a(item, "mapping", "dict") or item is None for item in given[4:]):
        raise Refused("unknown", permit.title, "a tensor that is not modelled")
    return Thing("tensor", given, permit=permit)


def _parameter(m: Machine, permit: Permit, given: list[Value]) -> Thing:
    if len(given) != 3 or not is_a(given[0], "tensor") or not is_a(given[2], "mapping"):
        raise Refused("unknown", permit.title, "a parameter that is not modelled")
    return Thing("tensor", given, permit=permit)


def _text(m: Machine, permit: Permit, given: list[Value]) -> Thing:
    if not all(isinstance(item, (str, int)) for item in given):
        raise Refused("unknown", permit.title, "of something that is not modelled")
    return Thing("scalar", permit=permit)


def _size(m: Machine, permit: Permit, given: list[Value]) -> Thing:
    if len(given) != 1 or not is_a(given[0], "tuple", "list"):
        raise Refused("unknown", permit.title, "of something that is not modelled")
    return Thing("size", list(given[0].items))


STATES: dict[str, Callable[[Machine, Thing, Value], Value]] = {
    "array": _array_state,
    "dtype": _dtype_state,
    "masked": _masked_state,
    "wrapper": _wrapper,
}
CHECKS: dict[str, Callable[[Machine, Permit, list[Value]], Thing]] = {
    "array": _array,
    "dtype": _dtype,
    "frombuffer": _frombuffer,
    "generator": _random,
    "masked": _masked,
    "parameter": _parameter,
    "scalar": _scalar,
    "size": _size,
    "tensor": _tensor,
    "text": _text,
}
