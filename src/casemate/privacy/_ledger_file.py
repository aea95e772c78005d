# SPDX-License-Identifier: Apache-2.0
"""Where a ledger lives: a file to append to and a small head beside it. A team's database would offer the same.

**Order of writes.** Lines are appended and made durable; only then the head names them; only then a caller goes on.
So at every moment the head names at most what is durable, and whatever anybody was told stands in both: a file that is
shorter than its head says was cut. Lines behind the head are whole or the rest of an unacknowledged write.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from casemate.core.errors import GuaranteeVoid, InvalidData, MissingCapability, TamperedArtefact


class Storage(Protocol):
    """What a ledger asks of its storage."""

    def held(self) -> Any:
        """Return a context in which nobody else, of any thread, process or machine, reads or writes."""
        ...

    def fetch(self, offset: int) -> bytes:
        """Return the lines from this byte on."""
        ...

    def append(self, text: bytes, offset: int) -> None:
        """Put lines at ``offset``, the end; when it returns they are durable, when it raises nothing was told."""
        ...

    def head(self) -> bytes:
        """Return the head."""
        ...

    def set_head(self, text: bytes) -> None:
        """Replace the head."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class Disk:
    """The calls to the operating system, so that tests can let each of them fail."""

    write = staticmethod(os.write)
    pwrite = staticmethod(os.pwrite)
    ftruncate = staticmethod(os.ftruncate)
    fsync = staticmethod(os.fsync)
    link = staticmethod(os.link)
    sync = staticmethod(getattr(os, "fdatasync", os.fsync))  # macOS has no fdatasync


class FileStorage:
    """A ledger in one file, with ``.head`` beside it; locks of the file system keep processes apart."""

    def __init__(self, path: Path, *, read_only: bool = False, disk: Any = Disk) -> None:
        self._path, self._disk = path.absolute(), disk  # who changes the folder keeps the ledger
        self._read_only = read_only
        self._thread = threading.Lock()
        self._broken = ""
        flags = (os.O_RDONLY if read_only else os.O_RDWR) | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._log = os.open(path, flags)
        except OSError as error:
            raise _unusable(path, error) from error
        try:
            self._head = os.open(beside(path, "head"), flags)
        except FileNotFoundError as error:
            os.close(self._log)
            raise TamperedArtefact(
                f"the ledger's head {beside(path, 'head')} is missing; restore it"
            ) from error
        except OSError as error:
            os.close(self._log)
            raise _unusable(beside(path, "head"), error) from error

    @contextmanager
    def held(self) -> Iterator[None]:
        with self._thread, _locked(self._log, shared=self._read_only):
            self._same_file()
            yield

    def fetch(self, offset: int) -> bytes:
        size = os.fstat(self._log).st_size
        if size < offset:
            raise TamperedArtefact(f"the ledger was cut from {offset:,} to {size:,} bytes while it was open")
        parts = []
        while offset < size:
            parts.append(os.pread(self._log, size - offset, offset))
            if not parts[-1]:
                break
            offset += len(parts[-1])
        return b"".join(parts)

    def append(self, text: bytes, offset: int) -> None:
        if self._broken:
            raise GuaranteeVoid(f"the ledger could not be written before ({self._broken}); open it again")
        try:
            if os.fstat(self._log).st_size > offset:  # the rest of a write that a crash cut short
                self._disk.ftruncate(self._log, offset)
            done = 0
            while done < len(text):
                done += self._disk.pwrite(self._log, text[done:], offset + done)
        except OSError as error:
            with suppress(
                OSError
            ):  # what is left there is no whole line, or is never told and counts as spent
                self._disk.ftruncate(self._log, offset)
            raise _unusable(self._path, error) from error
        try:
            self._disk.sync(self._log)
        except OSError as error:  # what a failed sync leaves is unknown, and a second one may lie
            self._broken = error.strerror or "error"
            raise _unusable(self._path, error) from error

    def head(self) -> bytes:
        return os.pread(self._head, 1024, 0)

    def set_head(self, text: bytes) -> None:
        try:
            if self._disk.pwrite(self._head, text, 0) != len(text):
                raise OSError(28, os.strerror(28))
        except OSError as error:
            self._broken = error.strerror or "error"
            raise _unusable(beside(self._path, "head"), error) from error

    def close(self) -> None:
        for handle in (self._log, self._head):
            with suppress(OSError):
                os.close(handle)

    def _same_file(self) -> None:
        ours = os.fstat(self._log)
        try:
            there = os.stat(self._path)  # noqa: PTH116  (twice as fast as Path.stat, in every spend)
        except OSError as error:
            raise TamperedArtefact(f"the ledger {self._path} was removed while it was open") from error
        if (ours.st_ino, ours.st_dev) != (there.st_ino, there.st_dev):
            raise TamperedArtefact(f"the ledger {self._path} was replaced while it was open")


def create(path: Path, first: bytes, head: bytes, *, disk: Any = Disk) -> None:
    """Write a new ledger: the head, then the log in one step, then their names."""
    try:
        with _folder(path.parent) as folder:
            if path.exists() or path.is_symlink():
                raise InvalidData(f"{path} exists; a ledger is never begun anew for the same people")
            old = beside(path, "head")
            if old.exists():  # of a creation that a crash cut short, or of a ledger whose log was deleted
                if old.read_bytes()[:16] != head[:16]:
                    raise TamperedArtefact(
                        f"the ledger {path} was deleted, but {old} says that it was in use"
                    )
                old.unlink()
            _placed(old, head, disk)
            _placed(path, first, disk)
            disk.fsync(folder)
    except OSError as error:
        raise _unusable(path, error) from error


def read_key(path: Path) -> bytes:
    """Return the key of a ledger.

    Raises:
        InvalidData: no key is there, or others may read it.
    """
    try:
        if path.stat().st_mode & 0o077:
            raise InvalidData(f"others may read the key {path}: run chmod 600 on it")
        key = bytes.fromhex(path.read_text("ascii"))
    except OSError as error:
        raise _unusable(path, error) from error
    except ValueError as error:
        raise (
            error if isinstance(error, InvalidData) else InvalidData(f"{path} is no key of a ledger")
        ) from None
    if len(key) != 32:
        raise InvalidData(f"{path} is no key of a ledger")
    return key


def make_key(path: Path, *, disk: Any = Disk) -> bytes:
    """Return the key there, or make one."""
    try:
        with _folder(path.parent) as folder:
            if not path.exists():
                _placed(path, os.urandom(32).hex().encode(), disk)
                disk.fsync(folder)
    except OSError as error:
        raise _unusable(path, error) from error
    return read_key(path)


def beside(path: Path, ending: str) -> Path:
    """Return the path of a file that belongs to the ledger."""
    return path.with_name(f"{path.name}.{ending}")


@contextmanager
def _folder(folder: Path) -> Iterator[int]:
    """Hold a folder, so that of two who create a ledger at once one finds the other's."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with _locked(handle, shared=False):
            yield handle
    finally:
        os.close(handle)


@contextmanager
def _locked(handle: int, *, shared: bool) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:
        raise MissingCapability("a ledger in a file needs the file locks of Linux or macOS") from None
    fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)


def _placed(path: Path, text: bytes, disk: Any) -> None:
    """Make a file whole or not at all."""
    part = beside(path, "part")
    part.unlink(missing_ok=True)
    try:
        _put(part, text, disk)
        disk.link(part, path)
    finally:
        part.unlink(missing_ok=True)


def _put(path: Path, text: bytes, disk: Any) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if disk.write(handle, text) != len(text):
            raise OSError(28, os.strerror(28))
        disk.fsync(handle)
    finally:
        os.close(handle)


def _unusable(path: Path, error: OSError) -> InvalidData:
    if error.errno == errno.ELOOP:
        return InvalidData(f"{path} is a symbolic link; name the file of the ledger itself")
    return InvalidData(f"the ledger cannot use {path}: {error.strerror or error}; nothing was released")
