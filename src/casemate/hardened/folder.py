# SPDX-License-Identifier: Apache-2.0
"""A folder with ``change.json`` and the files it names: written whole or not at all, and checked when it is read.

It is made inside ``NAME.part`` beside it, a folder for its owner only, and renamed in one step. ``change.json`` holds a
digest of every file and one of itself. These tell of damage and of files that were exchanged; they are no signature:
whoever can write both can make both agree. That is why nothing in the folder is believed further than that: models pass
the allow-list reader, plans are computed again, and no name in it is imported.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casemate.core import pickles
from casemate.core.errors import GuaranteeVoid, InvalidData, TamperedArtefact
from casemate.report.model import lines_of_json

SCHEMA = "casemate-change/1"
NAME = "change.json"
_FILE = re.compile(r"[a-z0-9][a-z0-9-]*\.(joblib|safetensors|ubj|txt|keras|onnx)")
_MOST = 64 << 20  # bytes of change.json
# what a training may leave in the folder beside: checkpoints, notes that it began; and a folder that was being written
_LEFT = re.compile(r"training-[0-9a-f]+\.(safetensors|started|part)|files")


def part_of(folder: str | Path) -> Path:
    """Return the folder beside ``folder`` in which it is made, and in which trainings keep their checkpoints.

    >>> part_of("models/safe/").name
    'safe.part'
    """
    place = Path(os.path.abspath(folder))  # noqa: PTH100  # resolve() would follow a link
    return place.with_name(f"{place.name}.part")


def free(folder: str | Path) -> None:
    """Refuse a place that is taken: anything but nothing at all or an empty folder.

    Raises:
        InvalidData: it is taken, or the folder around it is missing.
    """
    place = Path(folder)
    if not place.resolve().parent.is_dir():
        raise InvalidData(f"{place}: there is no folder {place.resolve().parent}; make it first")
    try:
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            raise InvalidData(f"{place} is there and no folder; name a new one")
        if place.is_dir() and (place.samefile(Path.cwd()) or place.is_mount()):
            raise InvalidData(
                f"{place} is where you stand or a disk; name a folder inside it"
            )  # no rename goes there
        if place.is_dir() and any(place.iterdir()):
            what = "holds a hardened model" if (place / NAME).is_file() else "holds other things"
            raise InvalidData(f"{place} {what}; name a new or an empty folder")
    except OSError as error:
        raise InvalidData(f"{place} cannot be read: {error.strerror or error}") from error


def opened(folder: str | Path) -> Path:
    """Make the folder beside ``folder`` for the time of the work, or take up the one that a stopped run left.

    Raises:
        InvalidData: it cannot be written, or holds what no training left there.
        GuaranteeVoid: a training with a guarantee was begun there and did not come to its end.
    """
    free(folder)
    part = part_of(folder)
    try:
        part.mkdir(mode=0o700, exist_ok=True)
        if part.is_symlink():
            raise InvalidData(f"{part} is a link, and checkpoints hold weights; remove it")
        if part.stat().st_uid != os.geteuid():
            raise InvalidData(
                f"{part} belongs to another user, and checkpoints hold weights; name another folder"
            )
        part.chmod(0o700)  # it may have been there
        _settle(part.parent)  # or a note in it would go where it goes
        found = sorted(path.name for path in part.iterdir())
        if strange := [name for name in found if not _LEFT.fullmatch(name)]:
            raise InvalidData(f"{part} holds {strange[0]!r}, which no training left there; move it away")
        with tempfile.TemporaryFile(dir=part):  # asking for permissions is not enough: trying tells
            pass
    except OSError as error:
        raise InvalidData(f"{part} cannot be written: {error.strerror or error}") from error
    if any(name.endswith(".started") for name in found):
        raise GuaranteeVoid(
            f"a training with a guarantee was begun for {folder} before and did not end: its noise cannot be repeated, "
            f"and beginning again spends epsilon once more; account for both, then remove {part}"
        )
    return part


@contextmanager
def at_work(folder: str | Path) -> Iterator[Path]:
    """Hold the folder beside ``folder`` for the time of the work, alone; what is in it goes when that went well.

    Raises:
        InvalidData, GuaranteeVoid: as :func:`opened`; and another process is at work there.
    """
    handle = os.open(opened(folder), os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # given back by the system if we are killed
        except BlockingIOError:
            raise InvalidData(
                f"another run is at work on {folder}; let it end, or name another folder"
            ) from None
        part = opened(folder)  # once more: another run may have ended, or begun and died, in between
        if not os.path.samestat(os.fstat(handle), part.stat()):
            raise InvalidData(f"another run was at work on {folder}; try again")
        done = False
        try:
            yield part
            done = True
        finally:
            closed(part, done=done)
    finally:
        os.close(handle)


def closed(part: Path, *, done: bool) -> None:
    """Remove what trainings left, once the work is done; an empty folder is removed anyhow."""
    if not part.is_dir():
        return
    if done:
        for path in part.glob("training-*"):
            path.unlink(missing_ok=True)
    if not any(part.iterdir()):
        part.rmdir()


def write(folder: str | Path, said: Mapping[str, Any], files: Mapping[str, bytes]) -> Path:
    """Write ``change.json`` of ``said``, and ``files``, as a new folder; whole or not at all.

    Raises:
        InvalidData: the place is taken, or cannot be written (a full disk too).
    """
    free(folder)
    place, part = Path(folder), part_of(folder)
    listed = {
        name: {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)} for name, raw in files.items()
    }
    whole = {"schema": SCHEMA, **said, "files": listed}
    text = lines_of_json({**whole, "sha256": seal(whole)})
    stage = part / "files"
    try:
        part.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.rmtree(stage, ignore_errors=True)  # of a run that was killed here
        stage.mkdir(mode=0o700)
        for name, raw in {**files, NAME: text.encode("utf-8")}.items():
            _durable(stage / name, raw)
        _settle(stage)
        stage.rename(place)
        _settle(place.resolve().parent)
    except OSError as error:
        raise InvalidData(f"{place} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        closed(part, done=False)
    return place


def read(folder: str | Path) -> dict[str, Any]:
    """Return what ``change.json`` says.

    Raises:
        InvalidData: no such file, or of a newer version. TamperedArtefact: it is not as it was written.
    """
    path = Path(folder) / NAME
    if not path.is_file():
        raise InvalidData(
            f"{str(folder)!r} is a folder without {NAME}; MODEL is a file, or a folder that casemate harden wrote"
        )
    try:
        found: Any = json.loads(pickles.read_file(path, limit=_MOST).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InvalidData):
            raise
        raise TamperedArtefact(f"{path} is no whole {NAME}: {error}") from error
    named = found.get("schema") if isinstance(found, dict) else None
    if not isinstance(named, str) or not named.startswith("casemate-change/"):
        raise InvalidData(f"{path} is not a {NAME} of Casemate")
    if named != SCHEMA:
        raise InvalidData(f"{path} is of {named[:40]!r}; this version reads {SCHEMA}: update Casemate")
    stated = found.pop("sha256", None)
    if stated != seal(found):
        raise TamperedArtefact(f"{path} was changed after it was written: its digest is another")
    return dict(found)


@dataclass(frozen=True)
class Stored:
    """The files of a folder, each checked against its digest when it is read."""

    folder: Path
    listed: Mapping[str, Any]

    def path(self, name: Any) -> Path:
        """Return where a listed file lies."""
        if not isinstance(name, str) or not _FILE.fullmatch(name) or name not in self.listed:
            raise TamperedArtefact(f"{self.folder / NAME} names a file {name!r} that it does not list")
        return self.folder / name

    def read(self, name: Any) -> bytes:
        """Return the bytes of a listed file.

        Raises:
            TamperedArtefact: other bytes than were written. InvalidData: no such file.
        """
        path = self.path(name)
        raw = pickles.read_file(path)
        entry = self.listed[name]
        if not isinstance(entry, dict) or hashlib.sha256(raw).hexdigest() != entry.get("sha256"):
            raise TamperedArtefact(f"{path} is not the file that {NAME} lists: its digest is another")
        return raw


def seal(said: Mapping[str, Any]) -> str:
    """Return the digest of what ``change.json`` says, whatever its layout.

    >>> seal({"a": 1, "b": 2}) == seal({"b": 2, "a": 1}) != seal({"a": 2, "b": 2})
    True
    """
    text = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _durable(path: Path, raw: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())


def _settle(folder: Path) -> None:
    place = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)
