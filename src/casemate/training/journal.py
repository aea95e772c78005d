# SPDX-License-Identifier: Apache-2.0
"""What goes on around a training: who is told how far it is, and where it can go on after it was stopped.

A checkpoint is one safetensors file, written beside the old one and then put in its place, so that a kill at any
moment leaves a whole one. It is named by a fingerprint of everything the training is a function of; another training
in the same folder has another name, and a finished one removes its own. It holds tensors and, as JSON in their
header, the states of the generators: reading it runs no code. What a model keeps outside its ``state_dict`` is not in
it. A training that states a guarantee writes none: see :meth:`Journal.once`.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from casemate.core.errors import CasemateError, GuaranteeVoid, InvalidData
from casemate.core.extras import lazy
from casemate.core.types import Note

torch = lazy("torch")
safetensors = lazy("safetensors")

Progress = Callable[[str, int, int], None]
VERSION = 1


class Ledger(Protocol):
    """What a budget must do for a training (:class:`casemate.privacy.ledger.Ledger` does)."""

    def charge(self, claim: Any, training: str) -> str:
        """Spend, durably, what ``claim`` costs, and say so in a sentence."""


@dataclass(frozen=True, kw_only=True)
class Journal:
    """The folder for checkpoints (None: none are written), the listener and the budget of one stretch of work."""

    folder: Path | None = None
    progress: Progress | None = None
    ledger: Ledger | None = None

    def report(self, done: int, total: int) -> None:
        """Tell the listener how many epochs are done."""
        if self.progress is not None:
            self.progress("training: epochs", done, total)

    def path(self, mark: str, ending: str = "safetensors") -> Path | None:
        """Return the file of the training with this fingerprint."""
        return None if self.folder is None else self.folder / f"training-{mark[:32]}.{ending}"

    def once(self, mark: str, claims: Sequence[Any] = ()) -> tuple[Note, ...]:
        """Note on disk that a training with noise begins, and charge what it claims; refuse if it began before.

        Its noise is never recorded, so it cannot go on, and beginning again would spend its epsilon twice. The budget
        is charged last: what is refused before costs nothing.
        """
        self._note(mark)
        if self.ledger is None:
            return ()
        try:
            return tuple(Note(text=self.ledger.charge(claim, mark)) for claim in claims)
        except CasemateError:
            if (path := self.path(mark, "started")) is not None:
                path.unlink(missing_ok=True)  # nothing was drawn
            raise

    def _note(self, mark: str) -> None:
        path = self.path(mark, "started")
        if path is None:
            return
        try:  # in one step: of two runs at once, one is refused
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise GuaranteeVoid(
                f"this training with a guarantee was begun before ({path.name}): its noise cannot be repeated and "
                "beginning again spends epsilon once more; account for both, then remove that file"
            ) from None
        except OSError as error:
            raise _unwritten(path, error) from error
        try:
            _fill(handle, path, b"begun\n")
        except InvalidData:
            path.unlink(missing_ok=True)  # a full disk: nothing was drawn yet
            raise


_JOURNAL: ContextVar[Journal] = ContextVar("casemate_journal", default=Journal())  # noqa: B039  # it is frozen


def current() -> Journal:
    """Return the journal of the work going on in this context."""
    return _JOURNAL.get()


@contextmanager
def watched(
    *, folder: str | Path | None = None, progress: Progress | None = None, ledger: Ledger | None = None
) -> Iterator[None]:
    """Let the trainings inside tell ``progress`` of every epoch, keep a checkpoint in ``folder``, charge ``ledger``.

    >>> with watched(progress=lambda what, done, total: None):
    ...     current().folder is None
    True
    """
    if folder is not None:
        folder = Path(folder)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidData(f"folder {str(folder)!r} cannot be made: {error.strerror}") from error
    token = _JOURNAL.set(Journal(folder=folder, progress=progress, ledger=ledger))
    try:
        yield
    finally:
        _JOURNAL.reset(token)


# ---- what a training is a function of ----


def fingerprint(*parts: Any) -> str:
    """Return a hex digest of values: arrays, tensors, dataclasses by their fields, functions by their names.

    >>> fingerprint(1, np.zeros(2)) == fingerprint(1, np.zeros(2)) != fingerprint(2, np.zeros(2))
    True
    """
    digest = blake2b(digest_size=32)
    for part in parts:
        _absorb(part, digest.update)
    return digest.hexdigest()


def _absorb(value: Any, take: Callable[[bytes], None]) -> None:
    take(f"|{type(value).__qualname__}:".encode())
    if type(value).__module__ == "torch" and isinstance(value, torch.Tensor):
        value = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    if isinstance(value, np.ndarray):
        take(f"{value.dtype}{value.shape}".encode())
        take(np.ascontiguousarray(value).tobytes())
    elif is_dataclass(value) and not isinstance(value, type):
        for item in fields(value):
            if item.compare:
                take(item.name.encode())
                _absorb(getattr(value, item.name), take)
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            _absorb(key, take)
            _absorb(value[key], take)
    elif isinstance(value, (tuple, list)):
        for item in value:
            _absorb(item, take)
    elif isinstance(value, partial):
        _absorb((value.func, value.args, value.keywords), take)
    elif callable(value):
        take(f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}".encode())
    else:  # where an object lies in memory says nothing about it
        take(re.sub(" at 0x[0-9a-fA-F]+", "", repr(value)).encode())


# ---- checkpoints ----


@dataclass(frozen=True, kw_only=True)
class Progressed:
    """What a training consists of after an epoch; ``scores`` and ``best`` belong to a Selection."""

    epochs: int
    steps: int
    model: Mapping[str, Any]
    optimiser: Mapping[str, Any]
    order: Any  # the state of the sampler's generator
    scores: tuple[float, ...] = ()
    best: Mapping[str, Any] | None = None


def save(path: Path, state: Progressed, mark: str, device: str) -> None:
    """Write a checkpoint; whatever happens, ``path`` holds the old one or the new one."""
    tensors = {"order": state.order, "rng.cpu": torch.random.default_generator.get_state()}
    if device.startswith("cuda"):
        tensors["rng.cuda"] = torch.cuda.get_rng_state(device)
    plain: dict[str, dict[str, Any]] = {}
    for place, slots in state.optimiser["state"].items():
        for name, value in slots.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimiser.{place}.{name}"] = value
            else:
                plain.setdefault(str(place), {})[name] = value
    for part, values in (("model", state.model), ("best", state.best or {})):
        for name, value in values.items():
            if not isinstance(value, torch.Tensor):
                raise InvalidData(f"the model's state {name!r} is no tensor; it cannot be checkpointed")
            tensors[f"{part}.{name}"] = value
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002  # the user's code may draw from it
    said = {
        "version": VERSION,
        "mark": mark,
        "epochs": state.epochs,
        "steps": state.steps,
        "scores": list(state.scores),
        "plain": plain,
        "python": random.getstate(),
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
    }
    # safetensors takes no memory that two tensors share
    own = {name: value.detach().to("cpu").contiguous().clone() for name, value in tensors.items()}
    _replace(path, lazy("safetensors.torch").save(own, {"casemate": json.dumps(said)}))


def resume(path: Path, mark: str, device: str) -> Progressed | None:
    """Read a checkpoint and set the generators to where they were; None where there is none.

    Raises:
        InvalidData: a file that is not a whole checkpoint of this training.
    """
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            said = json.loads(file.metadata()["casemate"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
        if said["version"] != VERSION or said["mark"] != mark:
            raise KeyError("mark")
        version, state, gauss = said["python"]
        random.setstate((version, tuple(state), gauss))
        kind, keys, *rest = said["numpy"]
        np.random.set_state((kind, np.array(keys, np.uint32), *rest))  # noqa: NPY002
        torch.random.default_generator.set_state(tensors["rng.cpu"])
        if device.startswith("cuda"):
            torch.cuda.set_rng_state(tensors["rng.cuda"], device)
        slots: dict[int, dict[str, Any]] = {int(k): dict(v) for k, v in said["plain"].items()}
        parts: dict[str, dict[str, Any]] = {"model": {}, "best": {}}
        for name, value in tensors.items():
            part, _, rest_of = name.partition(".")
            if part in parts:
                parts[part][rest_of] = value
            elif part == "optimiser":
                place, _, slot = rest_of.partition(".")
                slots.setdefault(int(place), {})[slot] = value
        return Progressed(
            epochs=said["epochs"],
            steps=said["steps"],
            model=parts["model"],
            optimiser={"state": slots},
            order=tensors["order"],
            scores=tuple(said["scores"]),
            best=parts["best"] or None,
        )
    except (
        safetensors.SafetensorError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        OverflowError,
        OSError,
        RuntimeError,
    ) as error:
        raise InvalidData(
            f"{path.name} is no checkpoint of this training; remove it to begin again"
        ) from error


def _replace(path: Path, raw: bytes) -> None:
    """Put ``raw`` at ``path`` in one step that survives a kill and a power cut; readable by the owner only.

    Stricter than how a report is written: the name beside it is fixed, so that kills leave one file at most, and a
    folder that cannot be made durable is an error, because a private training must not begin without its marker.
    """
    beside = path.with_suffix(".part")
    try:
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        _fill(handle, beside, raw)
        beside.replace(path)
        _settle(path.parent)
    except OSError as error:
        raise _unwritten(path, error) from error
    finally:
        beside.unlink(missing_ok=True)


def _fill(handle: int, path: Path, raw: bytes) -> None:
    """Write a file that was just made, and make it and its name durable."""
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        _settle(path.parent)
    except OSError as error:
        raise _unwritten(path, error) from error


def _settle(folder: Path) -> None:
    place = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)


def _unwritten(path: Path, error: OSError) -> InvalidData:
    return InvalidData(f"the checkpoint {path.name} cannot be written: {error.strerror}")
