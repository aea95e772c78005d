# SPDX-License-Identifier: Apache-2.0
"""Model files are read without running them: a scan by an allow-list, and a loader that holds the file to its scan.

Unpickling builds whatever the file names. :func:`scan` follows every opcode of every pickle in a file on a model of the
unpickler and admits only the classes of ``allowed.toml``, each in its one use, with arguments whose size the file's own
bytes explain. :func:`load_pickle` reads the bytes once, scans them, and unpickles the same bytes through a wall that
knows no other names than the scan met. *Clean* means: no code of the file's choosing runs while it is unpickled, and
nothing else; what a model predicts, or what compiled libraries do with absurd numbers, no scan can tell.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import stat
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from casemate.core.errors import HostileArtefact, InvalidData, MissingExtra, UnknownArtefact
from casemate.core.pickles import archives
from casemate.core.pickles.machine import Finding, Refused, Surroundings
from casemate.core.pickles.permits import LEVELS, Level, canonical, permitted, refused

MAX_BYTES = 2 << 30
MEANING = (
    "clean means: no code of the file's choosing runs while it is unpickled. It says nothing about what the "
    "model predicts, nor about flaws of the libraries that read it."
)


@dataclass(frozen=True, kw_only=True)
class Scan:
    r"""What a file would do when it is loaded.

    >>> scan(b"cos\nsystem\n(S'id'\ntR.").verdict
    'hostile'
    """

    name: str
    verdict: Level
    findings: tuple[Finding, ...]
    formats: tuple[str, ...]
    globals: tuple[str, ...]
    trusted: tuple[str, ...]
    n_bytes: int

    @property
    def summary(self) -> str:
        """The verdict in one line."""
        if self.verdict == "clean":
            kinds = {"pickle", "joblib", "torch", "torch (before 1.6)", "npy with objects"}
            inside = (
                f"{len(self.globals)} admitted globals" if kinds & set(self.formats) else "no pickle found"
            )
            return f"{self.name}: clean ({', '.join(self.formats)}; {inside})"
        worst = max(self.findings, key=lambda found: LEVELS.index(found.level))
        return f"{self.name}: {self.verdict}: {worst.what} ({worst.where}): {worst.why}"


def read_file(path: str | Path, *, limit: int = MAX_BYTES) -> bytes:
    """Read a regular file once, at most ``limit`` bytes.

    Raises:
        InvalidData: no file, a folder, a pipe, a device, too large, or not readable.

    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (pathlib.Path(folder) / "m").write_bytes(b"N.")
    ...     read_file(pathlib.Path(folder) / "m")
    b'N.'
    """
    try:
        # a pipe would wait for its writer: open without waiting, then ask what was opened
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        raise InvalidData(
            f"cannot read {str(path)!r}: {getattr(error, 'strerror', None) or error}"
        ) from error
    facts = os.fstat(handle)
    if not stat.S_ISREG(facts.st_mode):
        os.close(handle)
        raise InvalidData(f"{str(path)!r} is not a regular file; give a model file")
    with os.fdopen(handle, "rb") as file:
        if facts.st_size > limit:
            raise InvalidData(
                f"{str(path)!r} has {facts.st_size >> 20} MiB; at most {limit >> 20} MiB are read, so that a file "
                "cannot fill the memory"
            )
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise InvalidData(f"{str(path)!r} grew beyond {limit >> 20} MiB while it was read")
    return raw


def scan(source: str | Path | bytes, *, trust: Collection[str] = (), name: str = "") -> Scan:
    """Say what unpickling a file would do, without doing it.

    Args:
        source: a path, or the bytes themselves.
        trust: exact names ``package.module.Class`` to admit beside the allow-list, for any use.
        name: shown in findings; default: the file's name.

    Raises:
        InvalidData: no regular file, larger than 2 GiB, or a trusted name that is none.

    >>> import pickle
    >>> scan(pickle.dumps({"a": [1, 2]})).verdict
    'clean'
    """
    return survey(source, trust=trust, name=name).scan


@dataclass(frozen=True)
class Surveyed:
    """A file that was looked into once: its scan, and what its one object can be loaded from."""

    scan: Scan
    found: archives.Survey

    def load(self) -> tuple[Any, tuple[str, ...]]:
        """Load the object from the very bytes that were scanned; see :func:`load_pickle`."""
        refuse(self.scan)
        if self.found.payload is None:
            raise InvalidData(
                f"{self.scan.name} is no single pickle ({', '.join(self.scan.formats)}); a model file holds one object"
            )
        raw, walked = self.found.payload
        wall = _JoblibWall if self.found.around.joblib else _Wall
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                loaded = wall(io.BytesIO(raw[: walked.pos]), frozenset(self.found.around.named)).load()
            except (HostileArtefact, InvalidData, MissingExtra):
                raise
            except MemoryError as error:
                raise InvalidData(f"{self.scan.name} does not fit into memory") from error
            except Exception as error:
                raise InvalidData(
                    f"{self.scan.name} is a clean file, but it cannot be rebuilt here ({type(error).__name__}: "
                    f"{_line(error)}); it may come from other versions of its packages"
                ) from error
        said = dict.fromkeys(f"on loading: {_line(item.message)}" for item in caught)
        return loaded, (*notes(self.scan), *list(said)[:3])


def survey(source: str | Path | bytes, *, trust: Collection[str] = (), name: str = "") -> Surveyed:
    """Look into a file or bytes once, to scan them and perhaps to load them.

    >>> import pickle
    >>> looked = survey(pickle.dumps([1, 2]))
    >>> looked.scan.verdict, looked.load()[0]
    ('clean', [1, 2])
    """
    raw = source if isinstance(source, bytes) else read_file(source)
    name = name or ("bytes" if isinstance(source, bytes) else Path(source).name)
    found = archives.Survey(Surroundings(where=name, trust=_names(trust)), len(raw))
    archives.examine(raw, found, name)
    around = found.around
    levels: list[Level] = [item.level for item in around.findings]
    verdict: Level = max(levels, key=LEVELS.index, default="clean")
    made = Scan(
        name=name,
        verdict=verdict,
        findings=tuple(sorted(around.findings, key=lambda item: -LEVELS.index(item.level))),
        formats=tuple(found.formats),
        globals=tuple(sorted(f"{module}.{item}" for module, item in around.named)),
        trusted=tuple(sorted(around.trusted)),
        n_bytes=len(raw),
    )
    return Surveyed(made, found)


def _names(trust: Collection[str]) -> frozenset[str]:
    listed = [trust] if isinstance(trust, str) else list(trust)
    for item in listed:
        if "." not in str(item) or not all(part.isidentifier() for part in str(item).split(".")):
            raise InvalidData(f"trust= names classes exactly, as package.module.Class; got {item!r}")
    return frozenset(listed)


def digest_of_files(files: Mapping[str, bytes]) -> str:
    """Return one SHA-256 of several files by name, in whatever order they are given.

    >>> digest_of_files({"a": b"1", "b": b"2"}) == digest_of_files({"b": b"2", "a": b"1"})
    True
    """
    seal = hashlib.sha256()
    for name, raw in sorted(files.items()):
        seal.update(f"{name} {hashlib.sha256(raw).hexdigest()}\n".encode())
    return seal.hexdigest()


def notes(made: Scan) -> tuple[str, ...]:
    r"""Return what a reader must know of names that were trusted.

    >>> notes(scan(b"cos\nsystem\n.", trust=["os.system"]))
    ('trusted by name: os.system, which can run code, read or write files, or open connections',)
    """
    said = []
    for item in made.trusted:
        module, _, name = item.rpartition(".")
        level, why = refused(module, name)
        said.append(f"trusted by name: {item}" + (f", which {why}" if level == "hostile" else ""))
    return tuple(said)


def refuse(made: Scan) -> None:
    """Raise unless the scan is clean.

    Raises:
        HostileArtefact, UnknownArtefact, InvalidData: by the verdict, each naming the worst finding.
    """
    if made.verdict == "clean":
        return
    line = made.summary + "; nothing was loaded"
    raise {"hostile": HostileArtefact, "unknown": UnknownArtefact, "malformed": InvalidData}[made.verdict](
        line
    )


# ---------------------------------------------------------------------- loading


class _Array:
    """Stands for joblib's NumpyArrayWrapper: a description of the array whose bytes follow."""


def _resolve(module: str, name: str, admitted: frozenset[tuple[str, str]]) -> Any:
    """Return what ``module.name`` stands for, if the scan admitted exactly that; the second wall."""
    if (module, name) not in admitted:
        raise HostileArtefact(
            f"{module}.{name} was asked for, but the scan never met it; nothing more is loaded"
        )
    permit = permitted(module, name)
    if permit is not None and permit.check == "joblib":
        return _Array
    home, name = canonical(module), "range" if (module, name) == ("__builtin__", "xrange") else name
    if home.startswith("numpy.core."):
        home = home.replace("numpy.core.", "numpy._core.", 1)  # its home since numpy 2
    try:
        found = getattr(import_module(home), name)
    except ModuleNotFoundError as error:
        package = home.partition(".")[0]
        if error.name is not None and error.name.partition(".")[0] == package and error.name != package:
            raise InvalidData(
                f"{module}.{name} does not exist here: the file was made with another version of {package}"
            ) from error
        raise MissingExtra(
            f"the file holds {module}.{name}; {error.name} is not installed: pip install {package}"
        ) from error
    except (AttributeError, ImportError) as error:
        raise InvalidData(
            f"{module}.{name} does not exist here: the file was made with another version of {home.partition('.')[0]}"
        ) from error
    return found


class _Wall(pickle.Unpickler):
    """Python's unpickler, knowing only the names that the scan admitted."""

    def __init__(self, file: io.BytesIO, admitted: frozenset[tuple[str, str]]) -> None:
        super().__init__(file)
        self.admitted = admitted

    def find_class(self, module: str, name: str) -> Any:
        return _resolve(module, name, self.admitted)


class _JoblibWall(pickle._Unpickler):
    """The same for joblib's files: array bytes between the opcodes are read here, never mapped, never by joblib."""

    stack: list[Any]
    dispatch = dict(pickle._Unpickler.dispatch)  # noqa: RUF012 - Python's own way to extend it

    def __init__(self, file: io.BytesIO, admitted: frozenset[tuple[str, str]]) -> None:
        super().__init__(file)
        self.file, self.admitted = file, admitted

    def find_class(self, module: str, name: str) -> Any:
        return _resolve(module, name, self.admitted)

    def load_build(self) -> None:
        pickle._Unpickler.load_build(self)  # type: ignore[attr-defined]  # typeshed leaves it out
        if isinstance(self.stack[-1], _Array):
            self.stack[-1] = self._array(vars(self.stack[-1]))

    def _array(self, stated: Mapping[str, Any]) -> Any:
        import numpy as np

        dtype, shape = stated["dtype"], tuple(stated["shape"])
        if dtype.hasobject:
            return _JoblibWall(self.file, self.admitted).load()
        if stated.get("numpy_array_alignment_bytes") is not None:
            self.file.read(self.file.read(1)[0])
        n = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        flat = np.frombuffer(bytearray(self.file.read(n)), dtype=dtype)
        made = flat.reshape(shape[::-1]).transpose() if stated["order"] == "F" else flat.reshape(shape)
        return made if dtype.isnative else made.astype(dtype.newbyteorder("="))

    dispatch[pickle.BUILD[0]] = load_build  # type: ignore[assignment]  # typeshed wants the base class


def _line(error: object) -> str:
    return next(iter(str(error).splitlines()), "")[:200]


def load_pickle(
    source: str | Path | bytes, *, trust: Collection[str] = (), name: str = ""
) -> tuple[Any, tuple[str, ...]]:
    """Load a pickle or joblib file, if and only if its scan is clean. Returns the object and notes for its reader.

    The bytes are read once: what was scanned is what is loaded, whatever happens to the file meanwhile.

    Raises:
        HostileArtefact: it would run code. UnknownArtefact: it names a class that is not admitted.
        InvalidData: it is no pickle, or was made with another version of a package.
        MissingExtra: a package that it needs is not installed.

    >>> import pickle
    >>> load_pickle(pickle.dumps({"a": 1}))[0]
    {'a': 1}
    """
    return survey(source, trust=trust, name=name).load()


__all__ = [
    "MAX_BYTES",
    "MEANING",
    "Refused",
    "Scan",
    "Surveyed",
    "load_pickle",
    "notes",
    "read_file",
    "refuse",
    "scan",
    "survey",
]
