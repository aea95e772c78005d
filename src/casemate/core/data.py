# SPDX-License-Identifier: Apache-2.0
"""Train, holdout and reference rows, encoded once; one person never stands on both sides of a split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, cast

import numpy as np

from casemate.core import folders, items, reading, schemafile
from casemate.core.errors import InvalidData
from casemate.core.schema import Schema, is_frame, is_hole, is_text, read_array, read_frame
from casemate.core.types import Task, plain_label


@dataclass(frozen=True)
class Split:
    """Encoded rows ``x``, labels ``y`` (n,), person codes (n,) or None, opaque ids (n,) or None."""

    x: Any
    y: np.ndarray
    person: np.ndarray | None = None
    ids: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.y)

    def take(self, index: np.ndarray) -> Split:
        """Return the rows at ``index`` (positions or mask)."""
        positions = np.arange(len(self))[index]
        x = [self.x[i] for i in positions] if isinstance(self.x, list) else self.x[positions]
        pick = (None if part is None else part[positions] for part in (self.person, self.ids))
        return Split(x, self.y[positions], *pick)


@dataclass(frozen=True, init=False)
class Dataset:
    """The data of an audit: what the model was trained on, and rows of the same source it never saw.

    Each part is ``(X, y)`` or ``(X, y, person)``: X a frame (pandas, polars, Arrow) or columns by name, an array
    (n, d), images (n, c, h, w) or a list of texts; y the labels as the model knows them; person the owner of each
    row, where one person has several. With frames ``person="column"`` names the column instead; the model never
    sees it. A part may also be a torch ``Dataset`` that gives (x, y), or the path of a folder of classes.

    Args:
        train: the rows the model was trained on (the members).
        holdout: rows of the same source it was not trained on (the non-members).
        reference: further rows an attacker may own.
        schema: what the columns are; inferred when not given.
        person: name of the column that says whose row it is.
        immutable, sensitive: column names, see :class:`Schema`.

    Raises:
        InvalidData: no rows, lengths that differ, missing labels, a person on both sides, dates, infinities.

    >>> X = np.arange(12.0).reshape(6, 2)
    >>> data = Dataset(train=(X[:3], [0, 1, 0]), holdout=(X[3:], [1, 0, 1]))
    >>> data
    Dataset(table, 3 train, 3 holdout, 2 columns)
    """

    train: Split
    holdout: Split
    reference: Split | None
    schema: Schema
    classes: tuple[Any, ...] = field(default=())

    def __init__(
        self,
        train: Any,
        holdout: Any,
        reference: Any = None,
        *,
        schema: Schema | None = None,
        person: str | None = None,
        immutable: Sequence[str] = (),
        sensitive: Sequence[str] = (),
    ) -> None:
        named = {"train": train, "holdout": holdout, "reference": reference}
        parts = {
            name: _part(name, part, person)
            for name, part in named.items()
            if part is not None or name != "reference"
        }
        if schema is None:
            rows = [x for x, _, _ in parts.values()]
            schema = Schema.infer(*rows, immutable=immutable, sensitive=sensitive)
        elif immutable or sensitive:
            raise InvalidData(
                "schema= already says which columns are immutable or sensitive; name them there"
            )
        schema = schema if person is None else replace(schema, person=person)
        owners = [owner for _, _, owner in parts.values()]
        if any(owner is None for owner in owners) and any(owner is not None for owner in owners):
            raise InvalidData("person must be given for every part of the data or for none")
        codes = _codes(owners)
        splits = {
            name: Split(_encoded(schema, name, x), y, code)
            for (name, (x, y, _)), code in zip(parts.items(), codes, strict=True)
        }
        for name, split in splits.items():
            if len(split.x) != len(split):
                raise InvalidData(f"{name} has {len(split.x)} rows but {len(split)} labels")
            if schema.input == "image" and split.x.shape[1:] != (of := splits["train"].x.shape[1:]):
                raise InvalidData(f"images of {name} have shape {split.x.shape[1:]}, those of train {of}")
        if codes[0] is not None and codes[1] is not None:
            both = np.intersect1d(codes[0], codes[1])
            if len(both):
                raise InvalidData(
                    f"{len(both)} people stand in both train and holdout; split by person, not by row"
                )
        for name, value in (
            ("train", splits["train"]),
            ("holdout", splits["holdout"]),
            ("reference", splits.get("reference")),
            ("schema", schema),
            ("classes", ()),
        ):
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        columns = f", {len(self.schema.columns)} columns" if self.schema.input == "table" else ""
        return f"Dataset({self.schema.input}, {len(self.train)} train, {len(self.holdout)} holdout{columns})"

    @classmethod
    def from_files(
        cls,
        train: str | Path,
        holdout: str | Path,
        *,
        label: str | None = None,
        person: str | None = None,
        drop: Sequence[str] = (),
        missing: Sequence[str] = (),
        immutable: Sequence[str] = (),
        sensitive: Sequence[str] = (),
        schema: Schema | str | Path | None = None,
        text: str | None = None,
        size: tuple[int, int] | None = None,
        pixels: folders.Pixels = "unit",
    ) -> Self:
        """Read two files of one form: CSV, TSV, Parquet or JSON lines with the same columns, or ``.npz`` arrays.

        Or two folders of classes, ``train/CLASS/FILE``: PNG and JPEG images (extra ``images``) or ``.txt`` files in
        UTF-8. Their labels are the names of the folders, and there is no ``label``.

        Args:
            label: column, or array, that the model predicts; person: the one that says whose row it is.
            drop: columns the model does not use; missing: further cell texts that mean "missing".
            schema: what the columns are, or the path of a schema file (``casemate schema``) that says so.
            text: column of texts that alone is what the model reads.
            size: (height, width) that the images of a folder are brought to; pixels: ``unit`` (0 to 1) or ``byte``.

        Raises:
            InvalidData: a file that is absent, empty or not a table, or a column that is not there.
        """
        parts: list[tuple[Any, ...]] = []
        file = None
        if isinstance(schema, (str, Path)):
            file = schemafile.read(schema)
            person = file.person if person is None else person
        for path in (train, holdout):
            if not isinstance(path, (str, Path)):
                raise InvalidData(f"from_files needs two paths; got {type(path).__name__}")
            if Path(path).is_dir():
                if any(said is not None for said in (label, person, text)):
                    raise InvalidData(
                        f"{path} is a folder: its labels are the names of its folders; leave label, person and text out"
                    )
                parts.append(folders.read_folder(Path(path), size=size, pixels=pixels))
                continue
            if label is None:
                raise InvalidData(f"say which column of {Path(path).name} the model predicts (label)")
            if size is not None or pixels != "unit":
                raise InvalidData(f"size and pixels are for folders of images; {path} is none")
            parts.append(_rows(Path(path), label, person, drop=drop, missing=missing, text=text))
        frames = all(is_frame(part[0]) for part in parts)
        if not frames and (file is not None or drop or missing):
            raise InvalidData(
                "schema files, drop and missing are for tables; these files hold arrays or texts"
            )
        if file is not None:  # what the options say is added to it
            rows = [
                read_frame(part[0]).drop(*([] if person is None else [person])).to_native() for part in parts
            ]
            ignored = [name for name in (label, person, *drop) if name is not None]
            seen = Schema.infer(*rows, immutable=immutable, sensitive=sensitive)
            merged = schemafile.merge(seen, file, ignore=ignored)
            schema = replace(
                merged.with_columns({name: {"immutable": True} for name in immutable}),
                sensitive=tuple(dict.fromkeys((*merged.sensitive, *sensitive))),
            )
            immutable = sensitive = ()
        return cls(
            *parts,
            schema=cast("Schema | None", schema),
            person=person if frames else None,  # elsewhere the owners stand in the parts
            immutable=immutable,
            sensitive=sensitive,
        )

    def labels_seen(self) -> tuple[Any, ...]:
        """Return the distinct labels of train and holdout, sorted."""
        seen = {
            plain_label(label)
            for split in (self.train, self.holdout)
            for label in np.unique(split.y).tolist()
        }
        return tuple(sorted(seen, key=lambda label: (type(label).__name__, label)))

    def guess_task(self) -> Task:
        """Guess the task from the labels: fractions mean regression, else the number of classes decides."""
        y = self.train.y
        if y.dtype.kind == "f" and not bool((y == np.round(y)).all()):
            return "regression"
        return "binary" if len(self.labels_seen()) == 2 else "multiclass"

    def with_classes(self, classes: tuple[Any, ...], known: Mapping[Any, int]) -> Dataset:
        """Return a copy whose labels are indices into ``classes``."""

        def recode(split: Split) -> Split:
            # unique first: one dictionary look-up a class, not a row
            values, inverse = np.unique(split.y, return_inverse=True)
            try:
                index = np.array([known[plain_label(value)] for value in values.tolist()], np.int64)
            except KeyError as error:
                raise InvalidData(f"label {error.args[0]!r} is unknown to the model") from None
            return replace(split, y=index[inverse].reshape(-1))

        return self.mapped(recode)._copy(classes=classes)

    def as_regression(self) -> Dataset:
        """Return a copy whose labels are float64."""
        if self.train.y.dtype.kind not in "biuf":
            raise InvalidData(f"regression needs numeric labels; got {self.train.y.dtype}")
        numeric = self.mapped(lambda split: replace(split, y=split.y.astype(np.float64)))
        return numeric._copy(classes=("value",))

    def with_holdout(self, index: np.ndarray) -> Dataset:
        """Return a copy with only the holdout rows at ``index``."""
        return self._copy(holdout=self.holdout.take(index))

    def with_ids(self, train: np.ndarray, holdout: np.ndarray) -> Dataset:
        """Return a copy whose rows carry opaque ids."""
        return self._copy(train=replace(self.train, ids=train), holdout=replace(self.holdout, ids=holdout))

    def mapped(self, change: Callable[[Split], Split]) -> Dataset:
        """Return a copy with ``change`` applied to every part."""
        reference = None if self.reference is None else change(self.reference)
        return self._copy(train=change(self.train), holdout=change(self.holdout), reference=reference)

    def _copy(self, **changes: Any) -> Dataset:
        made = object.__new__(Dataset)
        for name in ("train", "holdout", "reference", "schema", "classes"):
            object.__setattr__(made, name, changes.get(name, getattr(self, name)))
        return made


def _rows(
    path: Path,
    label: str,
    person: str | None,
    *,
    drop: Sequence[str],
    missing: Sequence[str],
    text: str | None,
) -> tuple[Any, ...]:
    """Read a file as ``(frame, y)``, or as ``(array or texts, y)`` with the owners behind where they are named."""
    if path.suffix.lower() == reading.ARRAYS:
        return reading.read_arrays(path, label=label, person=person)
    frame = reading.read_table(path, missing)
    owned = [] if person is None else [person]
    reading.present(path, frame, [label, *owned, *drop, *([] if text is None else [text])])
    y = frame[label].to_list()
    if text is None:
        return frame.drop(label, *drop).to_native(), y
    texts = frame[text].to_list()
    if odd := [cell for cell in texts if not isinstance(cell, str)]:
        raise InvalidData(f"{path.name}: column {text!r} holds {odd[0]!r} where a text is expected")
    return (texts, y, *(frame[name].to_list() for name in owned))


def _part(name: str, part: Any, person: str | None) -> tuple[Any, np.ndarray, Any]:
    if isinstance(part, (str, Path)):
        if not Path(part).is_dir():
            raise InvalidData(
                f"{name}={str(part)!r} is no folder of classes; for files use Dataset.from_files"
            )
        part = folders.read_folder(Path(part))
    elif not is_frame(part) and items.is_items(part):
        part = items.read_items(part, name)
    if not isinstance(part, (tuple, list)) or len(part) not in (2, 3):
        raise InvalidData(f"{name} must be (X, y) or (X, y, person); got {type(part).__name__}")
    x, y, owner = (items.plain(piece) for piece in (*part, None)[:3])
    if isinstance(x, Mapping):
        x = reading.frame_of(x, name)
    if is_frame(x) and person is not None:
        frame = read_frame(x)
        if owner is None and person not in frame.columns:
            raise InvalidData(f"{name} has no person column {person!r}; it has {frame.columns[:20]}")
        if person in frame.columns:
            owner = frame[person].to_list() if owner is None else owner
            x = frame.drop(person).to_native()
    elif person is not None and owner is None:
        raise InvalidData(f"person={person!r} names a column, but {name} is not a frame; pass (X, y, person)")
    if not is_frame(x) and not is_text(x):
        x = read_array(x)
    if len(x) == 0:
        raise InvalidData(f"{name} has no rows")
    # as objects first: numpy alone would turn a missing text label into the text "nan"
    labels = np.asarray(y, dtype=object) if isinstance(y, (list, tuple)) else np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise InvalidData(f"labels of {name} must be one-dimensional; got shape {labels.shape}")
    if labels.dtype == object:
        if any(is_hole(label) for label in labels.tolist()):
            raise InvalidData(f"labels of {name} contain missing values; drop those rows")
        labels = read_array(labels.tolist())  # homogeneous objects become a plain dtype
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise InvalidData(f"labels of {name} contain missing or infinite values; drop those rows")
    if labels.dtype.kind not in "biufUS":
        raise InvalidData(f"labels of {name} have dtype {labels.dtype}; use numbers or text")
    if owner is not None and len(owner) != len(labels):
        raise InvalidData(f"{name} has {len(labels)} labels but {len(owner)} persons")
    return x, labels, owner


def _encoded(schema: Schema, name: str, x: Any) -> Any:
    try:
        return schema.encode(x)
    except InvalidData as error:
        raise InvalidData(f"{name}: {error}") from None


def _codes(owners: list[Any]) -> list[np.ndarray | None]:
    if owners[0] is None:
        return [None] * len(owners)
    book: dict[Any, int] = {}
    coded: list[np.ndarray | None] = []
    for owner in owners:
        values = [plain_label(value) for value in np.asarray(owner, dtype=object).tolist()]
        if any(is_hole(value) for value in values):
            raise InvalidData("person contains missing values; give every row an owner")
        coded.append(np.array([book.setdefault(value, len(book)) for value in values], np.int64))
    return coded
