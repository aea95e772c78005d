# SPDX-License-Identifier: Apache-2.0

"""Pickles that would do harm, written opcode by opcode and never run; bombs; and honest files made on the spot.

Arguments are harmless (``id``, an empty text): should a test ever run one, nothing would be lost. Names of cases are
what tests and bench/scanner.py show.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np


def text(value: str) -> bytes:
    """BINUNICODE."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def short(value: str) -> bytes:
    """SHORT_BINUNICODE."""
    raw = value.encode()
    return b"\x8c" + bytes([len(raw)]) + raw


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def call(module: str, name: str, *arguments: bytes) -> bytes:
    """A protocol 2 pickle that calls ``module.name(*arguments)``."""
    return b"\x80\x02" + named(module, name) + b"(" + b"".join(arguments) + b"tR."


SYSTEM = call("os", "system", text("id"))

# what others' scanners missed, and what every scanner knows; one harmless argument each
CALLS = {
    "os.system": ("os", "system"),
    "posix.system": ("posix", "system"),
    "nt.system": ("nt", "system"),
    "subprocess.call": ("subprocess", "call"),
    "subprocess.Popen": ("subprocess", "Popen"),
    "builtins.eval": ("builtins", "eval"),
    "builtins.exec": ("builtins", "exec"),
    "__builtin__.eval": ("__builtin__", "eval"),
    "builtins.__import__": ("builtins", "__import__"),
    "builtins.open": ("builtins", "open"),
    "builtins.getattr": ("builtins", "getattr"),
    "builtins.compile": ("builtins", "compile"),
    "runpy.run_path": ("runpy", "run_path"),
    "torch.utils.collect_env.run": ("torch.utils.collect_env", "run"),
    "multiprocessing.util.spawnv_passfds": ("multiprocessing.util", "spawnv_passfds"),
    "numpy.testing._private.utils.runstring": ("numpy.testing._private.utils", "runstring"),
    "numpy.testing runstring": ("numpy.testing", "runstring"),
    "pydoc.locate": ("pydoc", "locate"),
    "pydoc.pipepager": ("pydoc", "pipepager"),
    "idlelib.run": ("idlelib.run", "Executive.runcode"),
    "idlelib.autocomplete": ("idlelib.autocomplete", "AutoComplete.get_entity"),
    "idlelib.pyshell": ("idlelib.pyshell", "ModifiedInterpreter.runcode"),
    "doctest.debug_script": ("doctest", "debug_script"),
    "logging.config.listen": ("logging.config", "valid_ident"),
    "logging.config dotted": ("logging.config", "dictConfig"),
    "asyncio unix events": ("asyncio.unix_events", "_UnixSubprocessTransport._start"),
    "distutils.spawn": ("distutils.spawn", "spawn"),
    "distutils.file_util": ("distutils.file_util", "write_file"),
    "cProfile.run": ("cProfile", "run"),
    "profile.run": ("profile", "run"),
    "cProfile.runctx": ("cProfile", "runctx"),
    "trace.Trace.run": ("trace", "Trace.run"),
    "bdb.Bdb.run": ("bdb", "Bdb.run"),
    "pdb.run": ("pdb", "run"),
    "timeit.timeit": ("timeit", "timeit"),
    "timeit.main": ("timeit", "main"),
    "lib2to3": ("lib2to3.pgen2.grammar", "Grammar.loads"),
    "lib2to3 pgen": ("lib2to3.pgen2.pgen", "ParserGenerator.make_label"),
    "pip.main": ("pip", "main"),
    "pip._internal": ("pip._internal.cli.main", "main"),
    "ensurepip": ("ensurepip", "_run_pip"),
    "torch.load": ("torch", "load"),
    "torch.storage._load_from_bytes": ("torch.storage", "_load_from_bytes"),
    "torch.hub.load": ("torch.hub", "load"),
    "torch.jit unsupported": ("torch.jit.unsupported_tensor_ops", "execWrapper"),
    "torch.fx": ("torch.fx.experimental.symbolic_shapes", "ShapeEnv.evaluate_guards_expression"),
    "torch._inductor": ("torch._inductor.codecache", "compile_file"),
    "torch bottleneck": ("torch.utils.bottleneck.__main__", "run_cprofile"),
    "torch.utils._config_module": ("torch.utils._config_module", "ConfigModule.load_config"),
    "pandas.read_pickle": ("pandas", "read_pickle"),
    "pandas.eval": ("pandas", "eval"),
    "joblib.load": ("joblib", "load"),
    "joblib.numpy_pickle.load": ("joblib.numpy_pickle", "load"),
    "numpy.load": ("numpy", "load"),
    "numpy f2py": ("numpy.f2py.crackfortran", "param_eval"),
    "numpy.lib npyio": ("numpy.lib._npyio_impl", "DataSource.open"),
    "numpy _ufunc_reconstruct": ("numpy._core", "_ufunc_reconstruct"),
    "sklearn.datasets fetch": ("sklearn.datasets._base", "_fetch_remote"),
    "sklearn load_svmlight": ("sklearn.datasets._svmlight_format_io", "load_svmlight_file"),
    "scipy distribution (runs its state)": ("scipy.stats._distn_infrastructure", "rv_continuous"),
    "pickle.loads": ("pickle", "loads"),
    "_pickle.loads": ("_pickle", "loads"),
    "marshal.loads": ("marshal", "loads"),
    "types.FunctionType": ("types", "FunctionType"),
    "importlib.import_module": ("importlib", "import_module"),
    "operator.attrgetter": ("operator", "attrgetter"),
    "operator.methodcaller": ("operator", "methodcaller"),
    "_operator.methodcaller": ("_operator", "methodcaller"),
    "functools.reduce": ("functools", "reduce"),
    "webbrowser.open": ("webbrowser", "open"),
    "shutil.rmtree": ("shutil", "rmtree"),
    "pty.spawn": ("pty", "spawn"),
    "code.interact": ("code", "InteractiveInterpreter.runcode"),
    "codeop": ("codeop", "compile_command"),
    "ctypes.CDLL": ("ctypes", "CDLL"),
    "socket.create_connection": ("socket", "create_connection"),
    "urllib urlopen": ("urllib.request", "urlopen"),
    "smtplib": ("smtplib", "SMTP"),
    "sys.settrace": ("sys", "settrace"),
    "signal.alarm": ("signal", "alarm"),
    "io.open": ("io", "open"),
    "pathlib.Path.write": ("pathlib", "Path.write_text"),
    "tempfile": ("tempfile", "NamedTemporaryFile"),
    "site.main": ("site", "execsitecustomize"),
    "venv": ("venv", "main"),
    "test.support": ("test.support.script_helper", "assert_python_ok"),
    "xgboost DMatrix pointer": ("xgboost.core", "DMatrix"),
    "lightgbm Dataset pointer": ("lightgbm.basic", "Dataset"),
    "a user's class": ("my_models", "Classifier"),
    "__main__": ("__main__", "predict"),
    "an import with effects": ("antigravity", "fly_savage"),
    "sklearn function called": ("sklearn.utils.validation", "check_array"),
    "estimator called": ("sklearn.linear_model._logistic", "LogisticRegression"),
}


def forms() -> Iterator[tuple[str, bytes]]:
    """The same call in every way a pickle can make it, and in everything it can be wrapped in."""
    arguments = text("id")
    yield "INST", b"(" + b"S'id'\n" + b"ios\nsystem\n."
    yield "OBJ", b"(" + named("os", "system") + arguments + b"o."
    yield "NEWOBJ", b"\x80\x02" + named("os", "system") + arguments + b"\x85\x81."
    yield "NEWOBJ_EX", b"\x80\x04" + named("os", "system") + arguments + b"\x85}\x92."
    yield "STACK_GLOBAL", b"\x80\x04" + short("os") + short("system") + b"\x93" + arguments + b"\x85R."
    yield (
        "STACK_GLOBAL through the memo",
        b"\x80\x04"
        + short("os")
        + b"\x94"
        + short("system")
        + b"\x94"
        + b"00h\x00h\x01\x93"
        + arguments
        + b"\x85R.",
    )
    yield (
        "STACK_GLOBAL with computed name",
        b"\x80\x04"
        + short("os")
        + named("operator", "concat")
        + short("sys")
        + short("tem")
        + b"\x86R\x93"
        + arguments
        + b"\x85R.",
    )
    yield (
        "STACK_GLOBAL dotted",
        b"\x80\x04" + short("collections") + short("OrderedDict.fromkeys") + b"\x93)R.",
    )
    yield (
        "numpy.__builtins__ (modelscan#330)",
        b"\x80\x04" + short("numpy") + short("__builtins__.eval") + b"\x93" + arguments + b"\x85R.",
    )
    yield (
        "global through the memo",
        b"\x80\x02" + named("os", "system") + b"q\x000h\x00" + arguments + b"\x85R.",
    )
    yield "after DUP", b"\x80\x02" + named("os", "system") + b"20" + arguments + b"\x85R."
    yield "protocol 0", b"cos\nsystem\n(S'id'\ntR."
    yield "protocol 0, unicode", b"cposix\nsystem\np0\n(Vid\np1\ntp2\nRp3\n."
    yield "no call, only the import", b"cantigravity\nfly\n."
    yield "EXT1", b"\x80\x02\x82\x01)R."
    yield "EXT4", b"\x80\x02\x84\x01\x00\x00\x00."
    yield "stops half way, after the call", SYSTEM[:-1] + b"\x00"
    yield "stops half way, protocol 0", b"cos\nsystem\n(S'id'\ntR\xff"
    yield "copyreg.__newobj__", call("copyreg", "__newobj__", named("os", "system"))
    yield (
        "copyreg._reconstructor of a user's class",
        call("copyreg", "_reconstructor", named("my_models", "Net"), named("builtins", "object"), b"N"),
    )
    yield "partial of os.system", call("functools", "partial", named("os", "system"), text("id"))
    partial = b"\x80\x02" + named("functools", "partial") + named("numpy", "mean") + b"\x85R"
    yield "partial turned by its state", partial + b"(" + named("os", "system") + b")}Ntb."
    yield "defaultdict of eval", call("collections", "defaultdict", named("builtins", "eval"))
    yield "codec rot13", call("_codecs", "encode", text("id"), text("rot13"))
    yield "codec zip", call("_codecs", "decode", text("id"), text("zip"))
    made = b"\x80\x02" + named("sklearn.linear_model._logistic", "LogisticRegression") + b")\x81"
    yield "state sets __class__", made + b"}" + text("__class__") + named("os", "system") + b"sb."
    yield "state sets __reduce__", made + b"}" + text("__reduce__") + b"Nsb."
    yield (
        "state sets __setstate__ then calls it",
        made + b"}" + text("__setstate__") + named("os", "system") + b"sb" + text("id") + b"b.",
    )
    yield "state with slots", made + b"N}" + text("coef_") + b"K\x01s\x86b."
    yield (
        "state for a class",
        b"\x80\x02" + named("sklearn.linear_model._logistic", "LogisticRegression") + b"}b.",
    )
    yield "state for a function", b"\x80\x02" + named("numpy", "mean") + b"}" + text("f") + b"K\x01sb."
    yield "append on an estimator", made + text("a") + b"a."
    yield "item on an estimator", made + text("a") + b"K\x01s."
    yield "estimator as a key", b"\x80\x02}" + made[2:] + b"K\x01s."
    booster = b"\x80\x02" + named("lightgbm.basic", "Booster") + b")\x81}"
    yield "booster with a pointer", booster + text("_handle") + b"J\x01\x00\x00\x00sb."
    dtype = named("numpy", "dtype") + text("O8") + b"\x89\x88\x87R"
    yield (
        "dtype of objects without its flags",
        b"\x80\x02" + dtype + b"(K\x03" + text("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb.",
    )
    plain = named("numpy", "dtype") + text("V8") + b"\x89\x88\x87R"
    inner = named("numpy", "dtype") + text("f8") + b"\x89\x88\x87R"
    fields = text("a") + b"\x85}" + text("a") + inner + b"J\x00\x10\x00\x00\x86s"
    yield (
        "dtype field outside its element",
        b"\x80\x02" + plain + b"(K\x03" + text("|") + b"N" + fields + b"K\x08K\x01K\x10tb.",
    )
    yield (
        "_frombuffer of pointers",
        b"\x80\x05"
        + named("numpy._core.numeric", "_frombuffer")
        + b"(C\x08"
        + b"A" * 8
        + dtype
        + b"K\x01\x85"
        + text("C")
        + b"tR.",
    )
    empty = (
        named("numpy._core.multiarray", "_reconstruct") + named("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
    )
    yield (
        "array larger than its data",
        b"\x80\x03" + empty + b"(K\x01K\x02\x85" + inner + b"\x89C\x08" + b"A" * 8 + b"tb.",
    )
    yield (
        "object array of another length",
        b"\x80\x03" + empty + b"(K\x01K\x02\x85" + dtype + b"\x89]K\x01atb.",
    )
    yield "torch persistent id outside torch", b"\x80\x02" + text("storage") + b"Q."
    yield "slice of a call inside a list", b"\x80\x02](" + SYSTEM[2:-1] + b"e."
    yield "second pickle behind a clean one", b"\x80\x04N." + SYSTEM
    yield "protocol 0 behind a clean one", b"\x80\x04N.cos\nsystem\n(S'id'\ntR."
    yield "pickle before a zip", SYSTEM + zipped({"a.txt": b"hello"})
    yield "clean pickle before a bad zip", b"\x80\x02N." + zipped({"a": SYSTEM})
    yield "text before a bad zip", b"#!/bin/sh\nexit\n" + zipped({"a": SYSTEM})
    yield "pickle behind a zip", zipped({"a.txt": b"hello"}) + SYSTEM
    yield "zip, deflated, wrong extension", zipped({"weights.txt": SYSTEM}, zipfile.ZIP_DEFLATED)
    yield "zip, bzip2", zipped({"weights.csv": SYSTEM}, zipfile.ZIP_BZIP2)
    yield "zip in zip in tar", tarred({"a": zipped({"b": zipped({"c.png": SYSTEM})})})
    yield "zip marked encrypted", flagged(zipped({"archive/data.pkl": SYSTEM}))
    yield "zip with a wrong checksum", checksum(zipped({"archive/data.pkl": SYSTEM}))
    yield "zip whose directory names another file", renamed(zipped({"archive/data.pkl": SYSTEM}))
    yield "zip without its directory", zipped({"data.pkl": SYSTEM}).split(b"PK\x01\x02")[0]
    clean = b"\x80\x02}q\x00."
    notes = {"archive/data.pkl": clean, "archive/version": b"3\n"}
    yield "torch zip with another pickle", zipped({**notes, "archive/extra.bin": SYSTEM})
    yield "torch zip, pickle as a storage", zipped({**notes, "archive/data/0": SYSTEM})
    yield "torch zip, bad data.pkl", zipped({"archive/data.pkl": SYSTEM, "archive/version": b"3\n"})
    yield "TorchScript", zipped({**notes, "archive/code/__torch__.py": b"import os"})
    yield "pt2 archive", zipped({"m/archive_format": b"pt2", "m/data/weights/a.pt": clean})
    yield (
        "Keras with Lambda",
        zipped(
            {
                "config.json": b'{"module": "keras.layers", "class_name": "Lambda", "config": {}}',
                "model.weights.h5": b"\x89HDF\r\n",
            }
        ),
    )
    yield "7z", b"7z\xbc\xaf\x27\x1c\x00\x04" + SYSTEM
    yield "zstandard", b"\x28\xb5\x2f\xfd" + SYSTEM
    yield "HDF5", b"\x89HDF\r\n\x1a\n" + b"\0" * 64
    yield "gzip", gzip.compress(SYSTEM)
    yield "gzip, second member", gzip.compress(b"\x80\x02N.") + gzip.compress(SYSTEM)
    yield "bzip2", bz2.compress(SYSTEM)
    yield "xz", lzma.compress(SYSTEM)
    yield "lzma", lzma.compress(SYSTEM, lzma.FORMAT_ALONE)
    yield "zlib", zlib.compress(SYSTEM)
    yield "zlib in gzip in bzip2", bz2.compress(gzip.compress(zlib.compress(SYSTEM)))
    yield "behind a gzip stream", gzip.compress(b"\x80\x02N.") + b"\x80\x02" + SYSTEM[2:]
    yield "npy with objects", npy(SYSTEM)
    yield "npz with objects", zipped({"arr_0.npy": npy(SYSTEM)})
    yield "joblib object array", joblib_array(SYSTEM)
    yield "joblib array that is also opcodes", joblib_shadow()
    yield "deep in a list of lists", b"\x80\x02" + b"]" * 50 + SYSTEM[2:-1] + b"a" * 50 + b"."
    yield "truncated file", pickle.dumps({"a": [1.0] * 50})[:60]
    yield "frame longer than the file", b"\x80\x04\x95\xff\xff\xff\xff\x00\x00\x00\x00N."
    yield "opcode across a frame", b"\x80\x04\x95\x02\x00\x00\x00\x00\x00\x00\x00\x8c\x03abc."
    yield "out-of-band buffer", b"\x80\x05\x97."


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        for name, raw in members.items():
            file.writestr(name, raw)
    return out.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        for name, raw in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(raw)
            file.addfile(entry, io.BytesIO(raw))
    return out.getvalue()


def flagged(raw: bytes) -> bytes:
    """Set the bit that says *encrypted* in both headers."""
    made = bytearray(raw)
    made[6] |= 1
    made[raw.index(b"PK\x01\x02") + 8] |= 1
    return bytes(made)


def checksum(raw: bytes) -> bytes:
    made = bytearray(raw)
    made[14] ^= 255
    made[raw.index(b"PK\x01\x02") + 16] ^= 255
    return bytes(made)


def renamed(raw: bytes) -> bytes:
    at = raw.rindex(b"archive/data.pkl")
    return raw[:at] + b"archive/data.txt" + raw[at + 16 :]


def npy(pickled: bytes, descr: str = "'|O'") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': (1,), }}".encode()
    header += b" " * (118 - len(header) - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + pickled


def _wrapper(dtype: str, shape: bytes, *, aligned: bool = False) -> bytes:
    made = b"\x80\x02" + named("joblib.numpy_pickle", "NumpyArrayWrapper") + b")\x81}("
    made += text("subclass") + named("numpy", "ndarray") + text("shape") + shape + text("order") + text("C")
    made += (
        text("dtype")
        + named("numpy", "dtype")
        + text(dtype)
        + b"\x89\x88\x87R"
        + text("allow_mmap")
        + b"\x89"
    )
    if aligned:
        made += text("numpy_array_alignment_bytes") + b"K\x10"
    return made + b"ub"


def joblib_array(pickled: bytes) -> bytes:
    return _wrapper("O8", b"K\x01\x85") + pickled + b"."


def joblib_shadow() -> bytes:
    """The data of the array are opcodes for whoever reads the file with plain pickle."""
    hidden = named("os", "system") + text("id") + b"\x85R."
    hidden += b"\0" * (-len(hidden) % 8)
    return _wrapper("f8", b"K" + bytes([len(hidden) // 8]) + b"\x85") + hidden + b"."


def bombs() -> Iterator[tuple[str, bytes]]:
    """Small files that would take all memory or time."""
    yield (
        "bytearray of 8 GiB (48 bytes)",
        b"\x80\x02"
        + named("builtins", "bytearray")
        + b"\x8a\x05"
        + struct.pack("<Q", 8 << 30)[:5]
        + b"\x85R.",
    )
    yield (
        "bytes of 8 GiB",
        b"\x80\x02"
        + named("__builtin__", "bytes")
        + b"\x8a\x05"
        + struct.pack("<Q", 8 << 30)[:5]
        + b"\x85R.",
    )
    yield "LONG4 of 2 GiB", b"\x80\x02\x8b\xff\xff\xff\x7f" + b"1" * 16 + b"."
    yield "integer of 100 kB", b"\x80\x02\x8b" + struct.pack("<i", 100_000) + b"\x01" * 100_000 + b"."
    yield "memo index of 4 G", b"\x80\x02Nr\xff\xff\xff\xff."
    yield "memo index in text", b"Np99999999999\n."
    yield "BINBYTES8 of 2^62", b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"a."
    yield "BINUNICODE8 of 2^62", b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"a."
    yield "BYTEARRAY8 of 2^40", b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"a."
    yield "frame of 2^63", b"\x80\x04\x95" + struct.pack("<Q", 2**63) + b"N."
    laughs = b"\x80\x02]q\x00" + b"".join(
        b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(60)
    )
    yield "billion laughs of lists", laughs + b"."
    yield "billion laughs by DUP", b"\x80\x02)" + b"2\x86" * 60 + b"."
    yield "billion laughs as a key", b"\x80\x02}" + b")" + b"2\x86" * 60 + b"K\x01s."
    yield "nested 50,000 deep", b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b"."
    block = b"\x80\x04\x8e" + struct.pack("<Q", 1 << 20) + b"\0" * (1 << 20) + b"\x94"
    copies = b"(" + (
        named("builtins", "bytearray") + b"\x94h\x00\x85R" + b"".join(b"h\x01h\x00\x85R" for _ in range(2000))
    )
    yield "one block copied 2,000 times", block + copies + b"l\x86."
    array = (
        named("numpy._core.multiarray", "_reconstruct") + named("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
    )
    big = (
        b"(K\x01\x8a\x05"
        + struct.pack("<Q", 1 << 35)[:5]
        + b"\x85"
        + named("numpy", "dtype")
        + text("f8")
        + b"\x89\x88\x87R\x89C\x08"
        + b"A" * 8
        + b"tb."
    )
    yield "array of 256 GiB", b"\x80\x04" + array + big
    yield "element of 1 GiB", b"\x80\x04" + named("numpy", "dtype") + text("V1073741824") + b"\x89\x88\x87R."
    yield (
        "joblib array of 2^40 bytes",
        _wrapper("f8", b"\x8a\x05" + struct.pack("<Q", 1 << 37)[:5] + b"\x85") + b".",
    )
    yield "gzip of 1 GiB of zeros", _zeros()
    yield "gzip in gzip in gzip", gzip.compress(gzip.compress(_zeros()))
    yield "zip of many bombs", zipped({str(i): _zeros() for i in range(3)})
    nested = b"\x80\x02N."
    for _ in range(12):
        nested = zipped({"a": nested})
    yield "zip, twelve deep", nested
    yield "torch storage of 2^50", torch_bomb()
    many = b"".join(
        b"M" + struct.pack("<H", k % 65536) + b"K" + bytes([k // 65536]) + b"\x86N" for k in range(25_000)
    )
    yield "25,000 tuples as keys", b"\x80\2}(" + many + b"u."
    huge = b"".join(
        b"\x8a\x0c" + (k * (2**61 - 1) * 2**10).to_bytes(12, "little") + b"N" for k in range(1, 2000)
    )
    yield "keys that collide", b"\x80\x02}(" + huge + b"u."


@cache
def _zeros() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join([*(packer.compress(b"\0" * (1 << 20)) for _ in range(128)), packer.flush()])


def torch_bomb() -> bytes:
    key = (
        b"("
        + text("storage")
        + named("torch", "FloatStorage")
        + text("0")
        + text("cpu")
        + b"\x8a\x07"
        + struct.pack("<Q", 1 << 50)[:7]
        + b"tQ"
    )
    return zipped(
        {
            "archive/data.pkl": b"\x80\x02" + key + b".",
            "archive/data/0": b"\0" * 16,
            "archive/version": b"3\n",
        }
    )


def gadgets() -> dict[str, bytes]:
    """Every file that must not be clean, but for the bombs."""
    calls = {f"call {what}": call(module, name, text("id")) for what, (module, name) in CALLS.items()}
    return {**calls, **dict(forms())}


def honest(*, everything: bool = False) -> Iterator[tuple[str, Any, bytes]]:
    """Yield (name, object, file) of models as people save them."""
    import joblib
    import torch
    from safetensors.torch import save
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import (
        GradientBoostingClassifier,
        HistGradientBoostingClassifier,
        RandomForestClassifier,
    )
    from sklearn.feature_selection import SelectKBest
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
    from sklearn.svm import SVC

    draw = np.random.default_rng(0)
    x = draw.uniform(0.1, 1, (60, 3))
    y = np.where(x[:, 0] > 0.5, "yes", "no")
    town = np.where(x[:, 1] > 0.5, "Bern", "Genf")[:, None].astype(object)
    split = ColumnTransformer([("n", StandardScaler(), [0, 1]), ("c", OneHotEncoder(), [3])])
    log = make_pipeline(FunctionTransformer(np.log1p), SelectKBest(k=2), LogisticRegression())
    models: dict[str, Any] = {
        "logistic": LogisticRegression().fit(x, y),
        "forest": RandomForestClassifier(5, random_state=np.random.RandomState(0)).fit(x, y),
        "boosting": GradientBoostingClassifier(n_estimators=3).fit(x, y),
        "hist": HistGradientBoostingClassifier(max_iter=3).fit(x, y),
        "knn": KNeighborsClassifier(algorithm="kd_tree").fit(x, y),
        "svc": SVC(probability=False).fit(x, y),
        "pipeline": make_pipeline(split, LogisticRegression()).fit(np.hstack([x.astype(object), town]), y),
        "log": log.fit(x, y),
        "search": GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=3).fit(x, y),
    }
    from lightgbm import LGBMClassifier
    from xgboost import XGBClassifier

    models["lightgbm"] = LGBMClassifier(n_estimators=3, verbose=-1, n_jobs=1).fit(x, y)
    models["xgboost"] = XGBClassifier(n_estimators=3, n_jobs=1).fit(x, (y == "yes").astype(int))
    ways: dict[str, Callable[[Any], bytes]] = {
        f"pickle {p}": _protocol(p) for p in (range(6) if everything else (0, 2, 5))
    }
    for compress in (0, ("zlib", 3), ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)):
        ways[f"joblib {compress}"] = _joblib(joblib, compress)
    for k, (name, model) in enumerate(models.items()):
        for j, (way, dump) in enumerate(ways.items()):
            if everything or (k + j) % 3 == 0:
                yield f"{name}, {way}", model, dump(model)
    net = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2).to(torch.float64)
    )
    for new in (True, False):
        out = io.BytesIO()
        torch.save(net.state_dict(), out, _use_new_zipfile_serialization=new)
        yield f"torch state dict, new={new}", None, out.getvalue()
    out = io.BytesIO()
    torch.save(
        {"epoch": 3, "state_dict": net.state_dict(), "loss": 0.5, "best": torch.nn.Parameter(torch.ones(2))},
        out,
    )
    yield "torch checkpoint", None, out.getvalue()
    yield "safetensors", None, save(net.state_dict())
    for form in ("json", "ubj"):
        yield f"xgboost {form}", None, bytes(models["xgboost"].get_booster().save_raw(form))
    yield "lightgbm text", None, models["lightgbm"].booster_.model_to_string().encode()
    out = io.BytesIO()
    np.savez(out, a=x, b=town.astype(str))
    yield "npz", None, out.getvalue()
    out = io.BytesIO()
    np.save(out, x)
    yield "npy", None, out.getvalue()
    yield "npy with plain objects", None, npy(pickle.dumps(town, protocol=3))
    yield "csv", None, b"city,dog\nBern,1\nZug,2\n"
    yield "csv, one column", None, b"city\nBern\nGenf\nZug\n"
    yield "json", None, b'{"a": [1, 2]}'


def _protocol(protocol: int) -> Callable[[Any], bytes]:
    return lambda model: pickle.dumps(model, protocol=protocol)


def _joblib(joblib: Any, compress: Any) -> Callable[[Any], bytes]:
    def dump(model: Any) -> bytes:
        out = io.BytesIO()
        joblib.dump(model, out, compress=compress)
        return out.getvalue()

    return dump
