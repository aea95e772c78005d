# SPDX-License-Identifier: Apache-2.0
"""Files that one reader takes for harmless data and another for a pickle; inert, like those of pickle_corpus.py."""

from __future__ import annotations

import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator

from pickle_corpus import named, npy, text


def between_readers() -> Iterator[tuple[str, bytes]]:
    """Files that Python's, numpy's, joblib's or zipfile's reader takes for something else than a stricter one would."""
    gadget = b"cos\nsystem\n(S'id'\ntR."
    for what, line in {
        "hexadecimal": b"I0x10",
        "octal": b"I010",
        "underscore": b"I1_0",
        "NUL": b"I1\0",
        "long hexadecimal": b"L0x1L",
        "float of 500 digits": b"F" + b"0" * 500 + b"1",
        "float, NUL": b"F1\0",
    }.items():
        yield f"a number first: {what}", line + b"\n0" + gadget
    yield "module without a name, at the end", b"cantigravity\nx"
    yield "values left on the stack", b"I1\nI1\n."
    yield "a list of arguments", named("collections", "OrderedDict") + b"]R0" + gadget
    header = b'{"a":1}'
    yield (
        "safetensors, opened by a text",
        b"X\3" + b"\0" * 6 + header + b"\x95\1" + b"\0" * 7 + b"K\1" + gadget,
    )
    yield (
        "safetensors, opened by an integer",
        b"\x8b\1\x08" + b"\0" * 5 + b"{" + b"1" * 2045 + b"0" + gadget + b"\0" * (0x08018B),
    )
    yield "tar whose first name is a pickle", named_tar(gadget)
    for descr in ("'object'", "'object_'", "[('a', 'object')]", "('object', (1,))"):
        yield f"npy of {descr}", npy(gadget, descr)
    first, second = b"I1\n0co", b"s\nsystem\n(S'id'\ntR."
    alone = lzma.compress(second, format=lzma.FORMAT_ALONE)
    yield "xz, then lzma", lzma.compress(first) + alone
    yield "lzma, then lzma", lzma.compress(first, format=lzma.FORMAT_ALONE) + alone
    yield "zlib, then zlib", zlib.compress(first) + zlib.compress(second)
    yield "gzip, NULs, then gzip", gzip.compress(first) + b"\0\0" + gzip.compress(second)
    small = lzma.compress(
        gadget, format=lzma.FORMAT_ALONE, filters=[{"id": lzma.FILTER_LZMA1, "dict_size": 4096}]
    )
    yield "lzma of a small dictionary", small
    pairs = named("collections", "Counter") + b"(]K\1K\1K\1\x86" + b"2\x86" * 60 + b"\x86atR."
    yield "Counter of pairs, hashed for ever", b"\x80\2" + pairs
    yield from zip_doubles(gadget)
    yield from joblib_doubles(gadget)


def named_tar(name: bytes) -> bytes:
    """A tar file, right to its checksum, whose first member has this name."""
    info = tarfile.TarInfo("x" * len(name))
    block = bytearray(info.tobuf())
    block[: len(name)] = name
    block[148:156] = b" " * 8
    block[148:155] = b"%06o\0" % sum(block[:512])
    return bytes(block) + bytes(512)


def zip_doubles(gadget: bytes) -> Iterator[tuple[str, bytes]]:
    """Zip files with a member inside a member, two directories, and a torch file with one member too many."""

    def local(name: bytes, data: bytes) -> bytes:
        numbers = struct.pack(
            "<HHHHHIIIHH", 20, 0, 0, 0, 33, zlib.crc32(data), len(data), len(data), len(name), 0
        )
        return b"PK\3\4" + numbers + name + data

    def entry(name: bytes, data: bytes, at: int, size: int | None = None) -> bytes:
        size = len(data) if size is None else size
        numbers = (20, 20, 0, 0, 0, 33, zlib.crc32(data), size, size, len(name), 0, 0, 0, 0, 0, at)
        return b"PK\1\2" + struct.pack("<HHHHHHIIIHHHHHII", *numbers) + name

    def end(n: int, directory: bytes, at: int, comment: bytes = b"") -> bytes:
        return b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, n, n, len(directory), at, len(comment)) + comment

    inner, filler = local(b"x.pkl", gadget), b"hello " * 12_000
    outer = local(b"a.txt", filler + inner)
    directory = entry(b"a.txt", filler + inner, 0) + entry(b"x.pkl", gadget, len(outer) - len(inner))
    yield "zip, a member inside a member", outer + directory + end(2, directory, len(outer))
    real, fake = entry(b"x.pkl", gadget, 0), entry(b"x.pkl", gadget, 0, size=1)
    yield "zip, a second directory in its comment", inner + real + end(1, real, len(inner), fake)
    yield (
        "zip, a second directory before the first",
        inner + fake + real + end(1, real, len(inner) + len(fake)),
    )
    import torch

    box = io.BytesIO()
    torch.save({"w": torch.ones(2)}, box)
    with zipfile.ZipFile(box, "a") as archive:
        archive.writestr("archive/data/evil.npy", npy(gadget))
    yield "torch zip, array of objects beside its storages", box.getvalue()


def joblib_doubles(gadget: bytes) -> Iterator[tuple[str, bytes]]:
    """Arrays whose bytes joblib finds elsewhere than its description says at first sight."""

    def dtype(code: str, flags: int = 0) -> bytes:
        state = b"(K\x03S'|'\nNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK" + bytes([flags]) + b"tb"
        return named("numpy", "dtype") + b"(" + text(code) + b"\x89\x88tR" + state

    def state(*, aligned: bool, kind: bytes, n: int = 2, more: bytes = b"") -> bytes:
        align = text("numpy_array_alignment_bytes") + b"K\x10" if aligned else b""
        items = (text("subclass"), named("numpy", "ndarray"), text("shape"), b"K" + bytes([n]) + b"\x85")
        rest = (text("order"), text("C"), text("dtype"), kind, text("allow_mmap"), b"\x89", align, more)
        return b"}(" + b"".join((*items, *rest)) + b"ub"

    wrapper = named("joblib.numpy_pickle", "NumpyArrayWrapper") + b")\x81"
    number = dtype("u1")
    hidden = b"\x03NC" + bytes([len(gadget) + 3]) + b"zz0" + gadget  # read two bytes on: a pickle
    twice = wrapper + b"q\x01" + state(aligned=True, kind=number) + b"\0aba"
    yield (
        "joblib array described twice",
        b"\x80\2]" + twice + b"h\x01" + state(aligned=False, kind=number) + hidden + b"0a.",
    )
    for name, function in {"safe_get_numpy_array_alignment_bytes": "bool", "read": "slice"}.items():
        stand_in = state(aligned=False, kind=number, more=text(name) + named("builtins", function))
        yield f"joblib array with its own {name}", b"\x80\2]" + wrapper + stand_in + b"aba."
    framed = b"\x80\x04\x95" + struct.pack("<Q", 4) + b"N.C" + bytes([len(gadget) + 1]) + b"0" + gadget
    yield (
        "joblib objects in too long a frame",
        b"\x80\2]" + wrapper + state(aligned=False, kind=dtype("O8", 63), n=1) + framed + b"0a.",
    )
    for code in ("U0000000000001234", "V0000000000000004"):
        bare = named("numpy", "dtype") + b"(" + text(code) + b"\x89\x88tR"
        yield f"joblib array of {code}", b"\x80\2" + wrapper + state(aligned=False, kind=bare) + b"."
    for size, align in ((-1, 1), (5, 0), (5, -7)):
        numbers = b"J" + struct.pack("<i", size) + b"J" + struct.pack("<i", align)
        bare = named("numpy", "dtype") + b"(" + text("S5") + b"\x89\x88tR(K\x03S'|'\nNNN" + numbers + b"K\0tb"
        yield f"text of {size} bytes, aligned by {align}", b"\x80\2" + bare + b"."
    yield (
        "memmap, called later",
        b"\x80\2" + named("functools", "partial") + named("numpy", "memmap") + b"\x85R.",
    )
