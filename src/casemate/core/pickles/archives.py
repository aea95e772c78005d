# SPDX-License-Identifier: Apache-2.0
"""Everything in a file that could be a pickle: found by content, never by name, flag or checksum, at any depth.

A blob is recognised by its first bytes. Archives and compressed streams are opened by our own few lines, because a
reader that believes a header (encrypted, other method, wrong checksum) can be told to look away. What lies
between and behind the members is looked at too. Expansion is bounded by depth, number of members, bytes and ratio.
"""

from __future__ import annotations

import ast
import bz2
import json
import lzma
import re
import struct
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from casemate.core.pickles import kerasfile, protobufs
from casemate.core.pickles.machine import Doubtful, Machine, Malformed, Refused, Surroundings, Thing
from casemate.core.pickles.opcodes import OPCODES, machine

_MAX_DEPTH, _MAX_MEMBERS = 8, 100_000
_MAX_EXPANDED = 2 << 30
_RATIO, _RATIO_ROOM = 300, 64 << 20  # zlib reaches 1032 on zeros; a fitted model does not
_CHUNK = 1 << 20
KERAS = "Keras"
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_LOCAL, _CENTRAL, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
# forms that carry code or objects in ways that are not modelled here
_CLOSED = {
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!": "rar",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x89HDF": "HDF5",
    b"ZF": "joblib before 0.10",
    b"\x7fELF": "a program",
}


@dataclass
class Survey:
    """What has been seen so far, and how much more may be."""

    around: Surroundings
    n_bytes: int
    formats: list[str] = field(default_factory=list)
    expanded: int = 0
    members: int = 0
    payload: tuple[bytes, Machine] | None = None  # the pickle that the whole file is, if it is one

    def seen(self, name: str) -> None:
        """Note a format, once."""
        if name not in self.formats:
            self.formats.append(name)

    def grow(self, n: int) -> None:
        """Count bytes that came out of a compressed stream."""
        self.expanded += n
        if self.expanded > min(_MAX_EXPANDED, _RATIO_ROOM + _RATIO * self.n_bytes):
            raise Refused("hostile", "decompression bomb", f"expands beyond {self.expanded >> 20} MiB")


def examine(raw: bytes, survey: Survey, where: str, depth: int = 0) -> None:
    """Look at one blob and at all that it holds; findings go to the survey."""
    around = survey.around
    around.where = where
    if not raw.strip(b"\0"):
        if depth == 0:
            around.add("malformed", "empty file", "there is nothing to load")
        return
    survey.members += 1
    if depth > _MAX_DEPTH or survey.members > _MAX_MEMBERS:
        around.add(
            "hostile", "archive bomb", f"nested deeper than {_MAX_DEPTH} or over {_MAX_MEMBERS:,} members"
        )
        return
    try:
        for recognise, look in _FORMS:
            if recognise(raw):
                look(raw, survey, where, depth)
                if look not in (_zip, _closed):
                    _hidden_zip(raw, survey, where, depth)
                return
        _unmarked(raw, survey, where, depth)
    except Refused as no:
        around.where = where
        around.add(no.level, no.what, no.why)
    except (Malformed, EOFError, OSError, ValueError, zlib.error, lzma.LZMAError, struct.error) as error:
        around.where = where
        around.add("malformed", "broken file", f"{error}"[:200])


# ---------------------------------------------------------------------- pickles


def _walk(raw: bytes, start: int, survey: Survey, where: str, torch: dict[str, int] | None = None) -> Machine:
    """Walk one pickle; what it would do is noted even where it breaks off."""
    survey.around.where, survey.around.depth, survey.around.records = where, 0, torch
    walked = machine(raw, start, survey.around)
    try:
        walked.run()
    except RecursionError as error:
        raise Refused("hostile", "resource bomb", "pickles inside pickles without end") from error
    except (Malformed, Refused) as error:
        if isinstance(error, Malformed):
            error.args = (f"byte {walked.at}: {error}",)
        raise
    finally:
        survey.around.records = None
    return walked


def _pickle(raw: bytes, survey: Survey, where: str, depth: int) -> None:
    """Pickles one behind the other, as ``torch.save`` wrote them before 1.6; then a torch file's raw storages."""
    first = _walk(raw, 0, survey, where, None)
    if first.value == _TORCH_MAGIC:
        _legacy_torch(raw, first.pos, survey, where)
        return
    survey.seen("joblib" if survey.around.joblib else "pickle")
    if depth == 0 or where.endswith("]"):
        survey.payload = survey.payload or (raw, first)
    _behind(raw, first.pos, survey, where, depth)


def _behind(raw: bytes, pos: int, survey: Survey, where: str, depth: int) -> None:
    """Look at what follows a pickle: nothing, white space, or more to look at."""
    rest = raw[pos:]
    if rest.strip(b"\0 \r\n\t"):
        survey.seen("several objects")
        survey.payload = None
        if not _looks_known(rest):
            survey.around.where = f"{where} at byte {pos}"
            survey.around.add("malformed", "bytes behind the pickle", f"{len(rest)} bytes that are no pickle")
            _unmarked(rest, survey, f"{where} from byte {pos}", depth + 1)
        else:
            examine(rest, survey, f"{where} from byte {pos}", depth + 1)


def _looks_known(raw: bytes) -> bool:
    return any(recognise(raw) for recognise, _ in _FORMS)


def _legacy_torch(raw: bytes, pos: int, survey: Survey, where: str) -> None:
    survey.seen("torch (before 1.6)")
    sizes: dict[str, int] = {}
    for index in range(4):  # protocol, system, the object, the order of storages
        walked = _walk(raw, pos, survey, where, {"": len(raw) - pos} if index == 2 else None)
        sizes, pos = (walked.storages if index == 2 else sizes), walked.pos
    keys = walked.value.items if isinstance(walked.value, Thing) else []
    for key in keys:
        if not isinstance(key, str) or key not in sizes:
            raise Malformed("a storage that no tensor names")
        pos += 8 + sizes[key]
    if pos > len(raw):
        raise Malformed("the storages are cut short")
    if raw[pos:].strip(b"\0 \r\n\t"):
        _behind(raw, pos, survey, where, 1)


def _acted(raw: bytes, survey: Survey, where: str, depth: int) -> bool:
    """Act data out as a pickle of protocol 0 or 1, and tell whether it is one."""
    trial = replace(
        survey.around, findings=[], named=set(), trusted=set(), where=where, depth=0, records=None
    )
    walked = machine(raw, 0, trial)
    try:
        walked.run()
    except Refused as error:
        trial.add(error.level, error.what, error.why)
    except Doubtful as error:
        trial.add("malformed", "a pickle for some readers", f"byte {walked.at}: {error}")
    except Malformed:
        pass
    telling = any(found.what in ("resource bomb", "a pickle for some readers") for found in trial.findings)
    if walked.done or ((walked.plausible or walked.n_calls or telling) and trial.findings):
        for found in trial.findings:
            if found not in survey.around.findings:
                survey.around.findings.append(found)
        survey.around.named |= trial.named
        survey.around.trusted |= trial.trusted
        survey.around.joblib = survey.around.joblib or trial.joblib
        survey.seen("joblib" if trial.joblib else "pickle")
        if walked.done:
            if depth == 0 or where.endswith("]"):
                survey.payload = survey.payload or (raw, walked)
            _behind(raw, walked.pos, survey, where, depth)
        return True
    return False


def _unmarked(raw: bytes, survey: Survey, where: str, depth: int) -> None:
    """Data without a known beginning: perhaps a pickle, perhaps text, perhaps nothing we know."""
    if _acted(raw, survey, where, depth):
        return
    name = data_format(raw)
    if name:
        survey.seen(name)
        _hidden_zip(raw, survey, where, depth)
        if name == "ONNX":
            survey.around.where = where
            protobufs.look(raw, survey.around)
        return
    survey.around.where = where
    survey.seen("unrecognised data")
    survey.around.add("unknown", "unrecognised data", "neither a pickle nor a form that is known here")
    _hidden_zip(raw, survey, where, depth)


def _text(raw: bytes) -> bool:
    head = raw[:4096]
    return not re.search(rb"[\x00-\x08\x0e-\x1f]", head)


def data_format(raw: bytes) -> str:
    """Name a form that holds data only, or return an empty text.

    >>> data_format(b'{"learner": {}}'), data_format(bytes([7, 200, 1]))
    ('JSON', '')
    """
    head = raw[:4096]
    n = int.from_bytes(raw[:8], "little")
    if 2 <= n <= min(len(raw) - 8, 100 << 20) and raw[8:9] == b"{":
        try:
            if isinstance(json.loads(raw[8 : 8 + n]), dict):
                return "safetensors"
        except (ValueError, RecursionError):
            return ""
    if raw.startswith(b"GGUF"):
        return "GGUF"
    if raw.startswith(b"tree\n") and b"version=" in head:
        return "LightGBM text"
    if raw.startswith(b"{L") and b"learner" in head:
        return "XGBoost UBJ"
    if _text(raw):
        try:
            raw[: 1 << 16].decode()
        except UnicodeDecodeError as error:
            if len(raw) <= 1 << 16 or error.start < (1 << 16) - 4:  # a character may be cut
                return ""
        return "JSON" if head.lstrip()[:1] in (b"{", b"[") else "text"
    # protobuf of an ONNX model: field 1 (version) as a varint, then another field of ModelProto
    if (
        raw[:1] == b"\x08"
        and b"\x01" <= raw[1:2] <= b"\x14"
        and raw[2:3] in (b"\x12", b"\x1a", b"\x22", b"\x3a", b"\x42")
    ):
        return "ONNX"
    return ""


# ---------------------------------------------------------------------- compressed streams


def _expand(make: Callable[[], Any], raw: bytes, survey: Survey) -> tuple[bytes, bytes]:
    """Return what one compressed stream holds, and what follows it."""
    out, stream, feed = [], make(), raw
    while not stream.eof:
        piece = stream.decompress(feed, _CHUNK) if feed or not getattr(stream, "needs_input", True) else b""
        survey.grow(len(piece))
        out.append(piece)
        feed = getattr(stream, "unconsumed_tail", b"")
        if not piece and not feed and not stream.eof:
            raise Malformed("a compressed stream is cut short")
    return b"".join(out), stream.unused_data


def _compressed(name: str, make: Callable[[], Any]) -> Callable[[bytes, Survey, str, int], None]:
    def look(raw: bytes, survey: Survey, where: str, depth: int) -> None:
        survey.seen(name)
        inner, rest = _expand(make, raw, survey)
        pieces = [inner]
        while padded := rest.lstrip(b"\0"):  # streams behind one another are read as one
            try:
                piece, rest = _expand(make, padded, survey)
            except (OSError, zlib.error, lzma.LZMAError):
                break
            pieces.append(piece)
        top = depth == 0 or where.endswith("]")
        examine(b"".join(pieces), survey, f"{where} [{name}]" if top else f"{where}:{name}", depth + 1)
        if rest.strip(b"\0"):
            examine(rest, survey, f"{where}: behind the {name} stream", depth + 1)
            survey.payload = None

    return look


def _zlib_like(raw: bytes) -> bool:
    return len(raw) > 2 and raw[0] & 15 == 8 and raw[0] >> 4 <= 7 and int.from_bytes(raw[:2], "big") % 31 == 0


# ---------------------------------------------------------------------- zip


_Entry = tuple[int, str, int, int, int, int]  # offset, name, flags, method, packed, size


def _entries(raw: bytes) -> Iterator[tuple[int, _Entry]]:
    """Yield each entry of a central directory, wherever it stands, after its place."""
    at = raw.find(_CENTRAL)
    while at >= 0:
        if len(raw) - at >= 46:
            flags, method = struct.unpack_from("<HH", raw, at + 8)
            packed, size, n, m, _ = struct.unpack_from("<IIHHH", raw, at + 20)
            (offset,) = struct.unpack_from("<I", raw, at + 42)
            name, extra = raw[at + 46 : at + 46 + n], raw[at + 46 + n : at + 46 + n + m]
            wide = {0xFFFFFFFF: True}
            found = re.search(rb"\x01\x00..", extra, re.DOTALL)
            if found and (size in wide or packed in wide or offset in wide):
                numbers = list(
                    struct.iter_unpack("<Q", extra[found.end() :][: (len(extra) - found.end()) // 8 * 8])
                )
                size, packed, offset = (
                    (numbers.pop(0)[0] if numbers else value) if value in wide else value
                    for value in (size, packed, offset)
                )
            yield at, (offset, name.decode("utf-8", "replace"), flags, method, packed, size)
        at = raw.find(_CENTRAL, at + 4)


def _directories(raw: bytes) -> dict[int, list[_Entry]]:
    """Return what all directories together say of each local header that stands in the file.

    Offsets do not count what stands before a zip file: some readers tell from a directory's end by how much they are
    off, others take them as they are.
    """
    entries = list(_entries(raw))
    reads: list[tuple[int, int, int]] = []  # from, to, off by
    for mark, field_at, form in ((_END, 12, "<II"), (b"PK\x06\x06", 40, "<QQ")):
        at = raw.find(mark)
        while 0 <= at <= len(raw) - field_at - struct.calcsize(form):
            size, offset = struct.unpack_from(form, raw, at + field_at)
            reads.append((at - size, at, at - size - offset))
            at = raw.find(mark, at + 4)
            if at < 0:
                reads.append((offset, offset + size, 0))
    if len(reads) * len(entries) > 1_000_000:
        raise Refused("hostile", "archive bomb", "directories without end")
    listed: dict[int, list[_Entry]] = {}
    for at, entry in entries:
        for place in {entry[0] + shift for first, last, shift in reads if first <= at < last} or {entry[0]}:
            if place >= 0 and raw.startswith(_LOCAL, place):
                listed.setdefault(place, []).append(entry)
    return listed


def _unpack(raw: bytes, start: int, method: int, packed: int | None, survey: Survey) -> tuple[bytes, int]:
    """Return a member's bytes by one method, and where they end in the archive."""
    if method == 0:
        end = len(raw) if packed is None else min(start + packed, len(raw))
        return raw[start:end], end
    makers: dict[int, Callable[[], Any]] = {8: lambda: zlib.decompressobj(-15), 12: bz2.BZ2Decompressor}
    if method not in makers:
        raise Refused("unknown", f"zip method {method}", "a compression that is not looked into")
    inner, rest = _expand(makers[method], raw[start:], survey)
    return inner, len(raw) - len(rest)


def _zip(raw: bytes, survey: Survey, where: str, depth: int) -> None:
    """Look into every member by its local header and by the directory, and between them."""
    survey.seen("zip")
    listed = _directories(raw)
    inside = sorted(listed)  # a directory may also name places inside a member
    found: dict[str, bytes] = {}
    doubts: list[tuple[str, str]] = []
    covered: list[tuple[int, int]] = []
    at, furthest = raw.find(_LOCAL), 0
    while at >= 0:
        if len(found) > _MAX_MEMBERS:
            raise Refused("hostile", "archive bomb", f"holds over {_MAX_MEMBERS:,} members")
        flags, method = struct.unpack_from("<HH", raw, at + 6) if len(raw) - at >= 30 else (0, 0)
        if len(raw) - at < 30:
            break
        packed, _, n, m = struct.unpack_from("<IIHH", raw, at + 18)
        name, start = raw[at + 30 : at + 30 + n].decode("utf-8", "replace"), at + 30 + n + m
        others = listed.get(at, [])
        if others:  # of several directories the last is the outermost
            _, said, flags_too, method_too, packed, _ = others[-1]
            flags |= flags_too
            if method_too != method or said != name:
                doubts.append((name, "its two headers disagree"))
        elif packed in (0, 0xFFFFFFFF) and (flags & 8 or packed):
            following = raw.find(b"PK\x07\x08", start)
            packed = (following if following >= 0 else len(raw)) - start
        if flags & 1:
            doubts.append((name, "is marked as encrypted"))
        end = start
        ways = {(entry[3], entry[4] if entry[3] == 0 else packed) for entry in others}
        for way, length in [(method, packed), *sorted(ways - {(method, packed)})]:
            try:
                inner, stop = _unpack(raw, start, way, length, survey)
            except Refused:
                raise
            except (Malformed, OSError, zlib.error) as error:
                doubts.append((name, f"cannot be unpacked ({error})"))
                inner, stop = raw[start : start + length], start + length
            if at < furthest or end > start:
                survey.grow(len(inner))  # the same bytes once more
            end = end if end > start else stop
            found[name if name not in found else f"{name}#{len(found)}"] = inner
        furthest = max(furthest, end)
        covered.append((at, furthest))
        k = bisect_right(inside, at)
        named = inside[k : k + 1]
        at = min((p for p in [raw.find(_LOCAL, max(furthest, at + 4)), *named] if p >= 0), default=-1)
    _gaps(raw, covered, survey, where, depth)
    for name, doubt in doubts:
        survey.around.where = f"{where}:{name}"
        survey.around.add("malformed", "zip member", doubt)
    _members(found, survey, where, depth)


def _gaps(raw: bytes, covered: list[tuple[int, int]], survey: Survey, where: str, depth: int) -> None:
    """Look at what lies before, between and behind the members of a zip file."""
    last = raw.rfind(_END)
    tail = last + 22 + int.from_bytes(raw[last + 20 : last + 22], "little") if last >= 0 else len(raw)
    directory = raw.find(_CENTRAL, covered[-1][1] if covered else 0)
    starts = [0, *(end for _, end in covered)]
    ends = [*(start for start, _ in covered), directory if directory >= 0 else max(last, starts[-1])]
    for start, end in [*zip(starts, ends, strict=True), (tail, len(raw))]:
        gap = raw[start:end]
        if gap.startswith(b"PK\x07\x08"):
            gap = gap[24:] if len(gap) >= 24 else b""
        if gap[:4] not in (b"PK\x06\x06", b"PK\x06\x07", _END) and gap.strip(b"\0"):
            examine(gap, survey, f"{where}: bytes {start} to {end}, outside its members", depth + 1)


def _members(found: dict[str, bytes], survey: Survey, where: str, depth: int) -> None:
    around = survey.around
    program = next((name for name in found if f"/{name}".endswith("/data.pkl")), None)
    names = set(found)
    root = program.removesuffix("data.pkl") if program is not None else ""
    records = {
        name.removeprefix(f"{root}data/"): len(inner)
        for name, inner in found.items()
        if program is not None and name.startswith(f"{root}data/")
    }
    around.where = where
    if any("/code/" in f"/{name}" for name in names):
        around.add("unknown", "TorchScript", "holds program code, which is not looked into")
    if any(name.endswith(("archive_format", "serialized_exported_program.json")) for name in names):
        around.add("unknown", "torch.export archive", "holds programs and pickles that loading may run")
    for name in sorted(name for name in names if "\0" in name):
        around.add("malformed", f"member {name[:80]!r}", "has a name that readers cut at its NUL byte")
    if kerasfile.is_one(found):
        survey.seen(KERAS)
        kerasfile.look(found, around)
        found = {name: inner for name, inner in found.items() if name != kerasfile.WEIGHTS}
    if "schema.json" in names:
        around.add("unknown", "skops archive", "its schema names classes, which is not looked into")
    used: set[str] = set()
    if program is not None:
        survey.seen("torch")
        around.where = f"{where}:{program}"
        try:
            walked = _walk(found[program], 0, survey, around.where, records)
            used = set(walked.storages)
            _behind(found[program], walked.pos, survey, f"{where}:{program}", depth)
        except Malformed as error:
            around.add("malformed", "broken pickle", str(error))
    for name, inner in found.items():
        if name == program:
            continue
        key = name.removeprefix(f"{root}data/") if program is not None else ""
        if key in used and not _suspect(inner) and not inner.startswith(b"\x93NUMPY"):
            continue  # the raw numbers of a tensor
        if program is not None and len(inner) <= 64 and inner.isascii() and not _suspect(inner):
            continue  # torch's notes: version, byteorder, alignment
        examine(inner, survey, f"{where}:{name}", depth + 1)


def _suspect(raw: bytes) -> bool:
    """Tell whether a tensor's numbers read as a pickle that names something.

    An extension code names nothing here: numbers begin like one once in a hundred, and it means something only in a
    process that registered it.
    """
    trial = Surroundings()
    walked = machine(raw, 0, trial)
    try:
        walked.run()
    except (Malformed, Refused):
        return bool(trial.findings) and walked.plausible
    return walked.n_opcodes > 2 and (walked.plausible or bool(trial.named))


def _hidden_zip(raw: bytes, survey: Survey, where: str, depth: int) -> None:
    """A zip file is found from its end: whatever stands before it may be looked at by others first."""
    last = raw.rfind(_END, max(0, len(raw) - 70_000))
    first = raw.find(_LOCAL)
    if last >= 0 and 0 <= first < last and raw.find(_CENTRAL, first) >= 0:
        _zip(raw[first:], survey, f"{where} from byte {first}", depth + 1)


# ---------------------------------------------------------------------- tar, npy, and what stays closed


def _tar_like(raw: bytes) -> bool:
    if len(raw) < 512:
        return False
    block = raw[:512]
    total = sum(block[:148]) + 8 * 32 + sum(block[156:])
    stated = block[148:156].strip(b"\0 ")
    return bool(stated) and bool(re.fullmatch(rb"[0-7]+", stated)) and int(stated, 8) == total


def _tar(raw: bytes, survey: Survey, where: str, depth: int) -> None:
    survey.seen("tar")
    _acted(raw, survey, where, depth)  # the first member's name may read as a pickle
    pos = 0
    while pos + 512 <= len(raw):
        block = raw[pos : pos + 512]
        if not block.strip(b"\0"):
            pos += 512
            continue
        if not _tar_like(block):
            examine(raw[pos:], survey, f"{where} from byte {pos}", depth + 1)
            return
        text = block[124:136]
        digits = text.strip(b"\0 ")
        wide = text[0] & 0x80
        if not wide and not re.fullmatch(rb"[0-7]*", digits):
            raise Malformed("a tar header without a size")
        size = int.from_bytes(text[1:], "big") if wide else int(digits or b"0", 8)
        name = block[:100].split(b"\0")[0].decode("utf-8", "replace")
        if pos + 512 + size > len(raw):
            survey.around.where = f"{where}:{name}"
            survey.around.add("malformed", "tar member", "is cut short")
        inner = raw[pos + 512 : pos + 512 + size]
        if block[156:157] not in b"xgLK":
            examine(inner, survey, f"{where}:{name}", depth + 1)
        pos += 512 + (size + 511) // 512 * 512


def _numbers(descr: Any) -> bool:
    """Tell whether the elements that an array's header describes are numbers and texts, surely no objects."""
    if isinstance(descr, list):
        return all(isinstance(part, tuple) and len(part) in (2, 3) and _numbers(part[1]) for part in descr)
    if isinstance(descr, tuple):
        return len(descr) == 2 and _numbers(descr[0])
    return isinstance(descr, str) and bool(re.fullmatch(r"[<>|=]?[biufcSUVMm?]\d*(\[\w+\])?", descr))


def _npy(raw: bytes, survey: Survey, where: str, depth: int) -> None:
    """An array file: its numbers are data, its objects are a pickle."""
    survey.seen("npy")
    wide = raw[6:7] != b"\x01"
    n = int.from_bytes(raw[8 : 12 if wide else 10], "little")
    start = (12 if wide else 10) + n
    header = raw[12 if wide else 10 : start]
    try:
        stated = ast.literal_eval(header.decode("latin-1").strip()) if n <= 10_000 else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        stated = None
    descr = stated.get("descr") if isinstance(stated, dict) else None
    if not _numbers(descr):
        if descr is None:
            survey.around.where = where
            survey.around.add("malformed", "array header", "is no description of an array")
        survey.seen("npy with objects")
        examine(raw[start:], survey, f"{where}: objects", depth + 1)


def _closed(raw: bytes, survey: Survey, where: str, depth: int) -> None:  # noqa: ARG001 - one signature for all
    name = next(name for magic, name in _CLOSED.items() if raw.startswith(magic))
    survey.seen(name)
    survey.around.add("unknown", name, "is not looked into")


_FORMS: tuple[tuple[Callable[[bytes], bool], Callable[[bytes, Survey, str, int], None]], ...] = (
    # a NUL is no opcode: such bytes are the length of a safetensors header
    (
        lambda raw: raw[:1] == b"\x80" and raw[1:2] in b"\0\1\2\3\4\5" and raw[2:3] not in (b"", b"\0"),
        _pickle,
    ),
    (lambda raw: raw.startswith((_LOCAL, _END)), _zip),
    (lambda raw: raw.startswith(b"\x1f\x8b"), _compressed("gzip", lambda: zlib.decompressobj(31))),
    (lambda raw: raw.startswith(b"BZh"), _compressed("bzip2", bz2.BZ2Decompressor)),
    (
        lambda raw: raw.startswith((b"\xfd7zXZ", b"\x5d\0")),  # lzma reads both, one behind the other too
        _compressed("xz", lambda: lzma.LZMADecompressor(memlimit=256 << 20)),
    ),
    (_tar_like, _tar),
    (lambda raw: raw.startswith(b"\x93NUMPY"), _npy),
    (lambda raw: raw.startswith(tuple(_CLOSED)), _closed),
    (
        lambda raw: _zlib_like(raw) and raw[0] not in OPCODES,
        _compressed("zlib", zlib.decompressobj),
    ),
)
