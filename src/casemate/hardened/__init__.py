# SPDX-License-Identifier: Apache-2.0
"""A hardened model as a folder: ``save`` writes it, ``cm.load`` reads it back as the same target.

The folder holds ``change.json`` and the files it lists: ``model.*`` answers; ``recipe.joblib`` are the settings, and
``teacher.*`` the trees, that a distilled model's refits start from. It holds no training rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from casemate import __version__
from casemate.core.errors import InvalidData
from casemate.core.limited import Wrapper
from casemate.core.types import Change, Target


def save(change: Change, folder: str | Path, *, model: str = "", trust: Collection[str] = ()) -> Path:
    """Write what ``harden`` returned as a new folder, whole or not at all; ``cm.load`` reads it back.

    It is readable by its owner only. Like any trained model it may tell of its training data.

    Args:
        change: from ``harden``.
        folder: a new name, or an empty folder.
        model: what the original model is called, to be noted; default: the path it was loaded from.
        trust: exact names of classes that the model's file may hold beside the allow-list; ``load`` needs them too.

    Raises:
        InvalidData: the place is taken or cannot be written, or a model that no file holds (a predict function).
        UnknownArtefact: the model is of a class that is not on the allow-list.

    >>> import tempfile
    >>> import casemate as cm
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> X, y = [[0.0], [1.0], [2.0], [3.0]] * 20, ["no", "no", "yes", "yes"] * 20
    >>> data = cm.Dataset(train=(X, y), holdout=(X, y))
    >>> change = cm.harden(RandomForestClassifier(3).fit(X, y), data, using=["limit_leaves"])
    >>> with tempfile.TemporaryDirectory() as place:
    ...     cm.load(cm.save(change, f"{place}/safe")).settings()["min_samples_leaf"]
    20
    """
    from casemate.hardened import folder as folders
    from casemate.hardened.writing import Sink, described

    given: object = change
    if not isinstance(given, Change) or not isinstance(given.original, Target):
        raise InvalidData(f"save needs what harden returned; got {type(given).__name__}")
    folders.free(folder)
    sink = Sink(trust=trust)
    layers = described(change.target, change.original, sink)
    return folders.write(folder, {**told(change, model), "layers": layers}, sink.files)


def load(
    folder: str | Path,
    *,
    made: Callable[[str], Target],
    device: str | None = None,
    trust: Collection[str] = (),
    factory: str | None = None,
) -> Target:
    """Read a folder that :func:`save` wrote; ``cm.load`` calls it.

    Args:
        folder: with ``change.json``; nothing in it is imported or believed.
        made: imports and calls ``package.module:function``.
        device, trust, factory: as in ``cm.load``.

    Raises:
        TamperedArtefact: a file is not the one that was written. HostileArtefact: it would run code.
        InvalidData: not such a folder, one of a newer version, or torch weights without ``factory``.
    """
    from casemate.hardened import folder as folders
    from casemate.hardened.reading import Source, rebuilt

    said = folders.read(folder)
    listed = said.get("files")
    stored = folders.Stored(Path(folder), listed if isinstance(listed, dict) else {})
    return rebuilt(said.get("layers"), Source(stored, trust, device, factory, made))


def needs_code(change: Change) -> bool:
    """Tell whether reading the folder of a change takes the function that made its original: a torch module is code."""
    behind = change.target
    while isinstance(behind, Wrapper):
        behind = behind.base
    return bool(behind.kind == "torch")


def told(change: Change, model: str) -> dict[str, Any]:
    """Return what ``change.json`` says beside its layers and files: what was done, promised and paid."""
    from casemate.hardened.values import Unwritable, plain

    using = []
    for name, params in change.params.items():
        try:
            using.append({"name": name, "params": plain(params)})
        except Unwritable as error:
            raise InvalidData(f"{name} was given something that no file holds: {error}") from error
    source = dict(change.original.source or {})
    return {
        "version": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": {
            "name": model or source.get("path", ""),
            "kind": change.original.kind,
            "digest": change.original.digest(),
            "sha256": source.get("sha256"),
        },
        "using": using,
        "seed": change.seed,
        "summary": change.summary,
        "evidence": [_detail(piece) for piece in change.evidence],
        "utility": {
            "before": [row.to_dict() for row in change.before],
            "after": [row.to_dict() for row in change.after],
        },
        "claims": [claim["value"] for claim in plain(change.target.claims)],
        "digest": change.target.digest(),
    }


def _detail(piece: Any) -> dict[str, Any]:
    from dataclasses import asdict

    from casemate.hardened.values import plain

    return {
        "form": type(piece).__name__.lower(),
        **{name: plain(value) for name, value in asdict(piece).items()},
    }
