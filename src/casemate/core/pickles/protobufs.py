# SPDX-License-Identifier: Apache-2.0
"""What an ONNX file holds, read from its bytes without building anything: paths, operators, the sizes of tensors.

An ONNX file is one protobuf message. It cannot run code, but it can name other files to read, operators of libraries
that it does not bring, and tensors larger than the memory. The walk below visits every message that the published
schema (onnx.proto) nests, counts them, and checks each tensor's declared size against the bytes that are there, so
that whatever parses the file afterwards gets one whose cost its own length explains.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath

from casemate.core.pickles.machine import Malformed, Refused, Surroundings

_MAX_FIELDS, _MAX_DEPTH, _MAX_RANK = 4_000_000, 24, 64
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
# message -> {field number: message}; what is not named here holds no tensor, node or path
_NESTED = {
    "model": {7: "graph", 8: "opset", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "tensor": {13: "entry"},
    "sparse": {1: "tensor", 2: "tensor"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 9: "opset", 11: "attribute"},
}
# fields that stand once: a parser would merge several into something that was not looked at
_ONCE = {"model": {7}, "attribute": {5, 6, 22}, "sparse": {1, 2}, "training": {1, 2}}
# data type of TensorProto -> bits of an element in raw_data
_BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16,
    17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
}  # fmt: skip
_STRING = 8
_COMPLEX = (14, 15)
SHIPPED = frozenset(
    {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}
)  # domains whose operators onnxruntime brings
_PYTHON = re.compile(r"PythonOp|^PyOp|ATen$")  # operators that call back into Python or a framework


@dataclass
class Contents:
    """What the walk met: external paths, operators (domain, name), functions of the file's own."""

    paths: list[str] = field(default_factory=list)
    operators: set[tuple[str, str]] = field(default_factory=set)
    functions: set[tuple[str, str]] = field(default_factory=set)
    n_fields: int = 0


def look(raw: bytes, around: Surroundings) -> Contents:
    """Walk a model's bytes; what a reader must know becomes findings.

    Raises:
        Malformed: bytes that break off or are no messages. Refused: more messages than an honest file has.

    >>> look(b"", Surroundings(where="model.onnx", trust=frozenset())).paths
    []
    """
    found = Contents()
    _message("model", raw, (0, len(raw)), found, 0)
    for path in dict.fromkeys(found.paths):
        shown = path if len(path) <= 120 else path[:120] + "..."
        if leaves(path):
            around.add(
                "hostile", f"external data {shown!r}", "reads a file outside of the model's own folder"
            )
        else:
            around.add(
                "unknown", f"external data {shown!r}",
                "lies in another file, which is not looked into; save the model as one file",
            )  # fmt: skip
    for domain, name in sorted(found.operators - found.functions):
        shown = f"operator {domain}.{name}"[:120] if domain else f"operator {name}"[:120]
        if _PYTHON.search(name):
            around.add("hostile", shown, "calls back into the program that loads it")
        elif domain not in SHIPPED:
            around.add("unknown", shown, "needs a library that onnxruntime does not bring")
    return found


def leaves(path: str) -> bool:
    r"""Tell whether a path inside a file points out of the file's own folder, on any system.

    >>> leaves("weights.bin"), leaves("../x"), leaves("/etc/passwd"), leaves(r"C:x"), leaves(r"a\..\b")
    (False, True, True, True, True)
    """
    windows, posix = PureWindowsPath(path), PurePosixPath(path)
    rooted = posix.is_absolute() or bool(windows.drive or windows.root) or "://" in path or "\0" in path
    return rooted or ".." in windows.parts or ".." in posix.parts or path.startswith("~")


def _message(kind: str, raw: bytes, span: tuple[int, int], found: Contents, depth: int) -> None:
    """Visit the fields of one message of the schema and those nested in it."""
    if depth > _MAX_DEPTH:
        raise Refused("hostile", "resource bomb", f"graphs nested deeper than {_MAX_DEPTH} messages")
    if kind == "tensor":
        _tensor(raw, span, found)
        return
    nested, told, met = _NESTED.get(kind, {}), dict[int, str](), set[int]()
    for number, wire, start, end in _fields(raw, span, found, runs=kind == "attribute"):
        if wire != _BYTES:
            continue
        if number in nested:
            if number in met and number in _ONCE.get(kind, ()):
                raise Malformed(f"byte {start}: a {nested[number]} where there may be one only")
            met.add(number)
            _message(nested[number], raw, (start, end), found, depth + 1)
        elif number in (
            1,
            4,
            7,
            10,
        ):  # names: op_type 4 and domain 7 of a node, name 1 and domain 10 of a function
            told[number] = raw[start : min(end, start + 1024)].decode("utf-8", "replace")
    if kind == "node":
        found.operators.add((told.get(7, ""), told.get(4, "")))
    elif kind == "function":
        found.functions.add((told.get(10, ""), told.get(1, "")))


def _tensor(raw: bytes, span: tuple[int, int], found: Contents) -> None:
    """Check that the bytes of a tensor are as many as its type and dimensions say; note its external paths."""
    dims, dtype, name, outside = list[int](), 0, "", False
    held = 0  # bits of raw_data, or elements of a typed field
    is_raw, strings, counted = False, 0, 0
    for number, wire, start, end in _fields(raw, span, found):
        if number == 1:
            dims += _varints(raw, start, end)
            if len(dims) > _MAX_RANK:
                raise Malformed(f"a tensor of more than {_MAX_RANK} dimensions")
        elif number == 2 and wire == _VARINT:
            dtype = _varint(raw, start, end)[0]
        elif number == 8 and wire == _BYTES:
            name = raw[start : min(end, start + 80)].decode("utf-8", "replace")
        elif number == 9 and wire == _BYTES:
            is_raw, held = True, 8 * (end - start)
        elif number == 6:
            strings += 1
        elif number == 14 and wire == _VARINT:
            outside = outside or _varint(raw, start, end)[0] == 1
        elif number == 13 and wire == _BYTES:
            outside = True
            key, value = _entry(raw, (start, end), found)
            if key == "location":
                found.paths.append(value)
        elif number in (4, 5, 7, 10, 11):
            counted += _elements(raw, number, wire, start, end)
    if outside:
        return
    n = math.prod(dims)
    if any(size < 0 for size in dims):
        raise Malformed(f"tensor {name!r} declares dimensions {dims[:8]}")
    if dtype == _STRING:
        has, needs = strings, n
    elif is_raw:
        has, needs = held, -(-n * _BITS.get(dtype, 8) // 8) * 8
    else:
        per = {21: 2, 22: 2, 23: 2, 25: 4, 26: 4}.get(dtype, 1)  # elements packed into one of the field
        has, needs = counted, -(-n // per) * (2 if dtype in _COMPLEX else 1)
    if dtype not in _BITS and dtype != _STRING:
        raise Malformed(f"tensor {name!r} has data type {dtype}, which is none of ONNX")
    if has != needs:
        raise Malformed(
            f"tensor {name!r} declares dimensions {dims[:8]}, {n:,} elements, but its data are of another length"
        )


def _elements(raw: bytes, number: int, wire: int, start: int, end: int) -> int:
    """Return how many numbers a typed data field of a tensor holds here."""
    if wire != _BYTES:
        return 1
    if number == 4:
        return (end - start) // 4
    if number == 10:
        return (end - start) // 8
    return len(raw[start:end].translate(None, _CONTINUED))  # a varint ends in a byte below 128


_CONTINUED = bytes(range(128, 256))


def _entry(raw: bytes, span: tuple[int, int], found: Contents) -> tuple[str, str]:
    told = {1: "", 2: ""}
    for number, wire, start, end in _fields(raw, span, found):
        if wire == _BYTES and number in told:
            told[number] = raw[start : min(end, start + 4096)].decode("utf-8", "replace")
    return told[1], told[2]


def _fields(
    raw: bytes, span: tuple[int, int], found: Contents, *, runs: bool = False
) -> Iterator[tuple[int, int, int, int]]:
    """Yield (number, wire type, start, end) of each field of a message; runs of one number in an attribute as one."""
    at, stop = span
    while at < stop:
        found.n_fields += 1
        if found.n_fields > _MAX_FIELDS:
            raise Refused("hostile", "resource bomb", f"more than {_MAX_FIELDS:,} fields")
        first = raw[at]
        tag, at = _varint(raw, at, stop)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise Malformed(f"byte {at}: a field without a number")
        start = at
        if wire == _BYTES:
            length, start = _varint(raw, at, stop)
            at = start + length
        elif wire == _VARINT:
            at = _varint(raw, at, stop)[1]
        elif wire in (_EIGHT, _FOUR):
            at += 8 if wire == _EIGHT else 4
        else:
            raise Malformed(f"byte {at}: wire type {wire}, which ONNX does not use")
        if at > stop:
            raise Malformed(f"byte {start}: a field reaches beyond the end; the file may be cut off")
        yield number, wire, start, at
        if runs and number in (7, 8) and wire in _RUNS and first < 128:
            run = _RUNS[wire][number].match(raw, at, stop)
            at = run.end() if run else at


# the fields 7 (floats) and 8 (ints) of an attribute, one behind the other, at the speed of a regular expression
_RUNS = {
    _VARINT: {
        n: re.compile(rb"(?:%b[\x80-\xff]{0,9}+[\x00-\x7f])*+" % re.escape(bytes([n << 3]))) for n in (7, 8)
    },
    _FOUR: {n: re.compile(rb"(?:%b.{4})*+" % re.escape(bytes([n << 3 | 5])), re.DOTALL) for n in (7, 8)},
}


def _varint(raw: bytes, at: int, stop: int) -> tuple[int, int]:
    value = 0
    for place in range(10):
        if at >= stop:
            break
        value |= (raw[at] & 127) << (7 * place)
        at += 1
        if raw[at - 1] < 128:
            return value & (2**64 - 1), at
    raise Malformed(f"byte {at}: a number that breaks off; the file may be cut off")


def _varints(raw: bytes, at: int, stop: int) -> list[int]:
    values = list[int]()
    while at < stop and len(values) <= _MAX_RANK:
        value, at = _varint(raw, at, stop)
        values.append(_signed(value))
    return values


def _signed(value: int) -> int:
    number: int = struct.unpack("<q", struct.pack("<Q", value))[0]
    return number
