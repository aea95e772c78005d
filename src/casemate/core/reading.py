# SPDX-License-Identifier: Apache-2.0
"""Data files: tables (CSV, TSV, Parquet, JSON lines) become frames, ``.npz`` files arrays; nothing is unpickled."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from casemate.core.errors import InvalidData
from casemate.core.extras import needs

TABLES = (".csv", ".tsv", ".txt", ".parquet", ".pq", ".jsonl", ".ndjson")
ARRAYS = ".npz"


def read_rows(path: str | Path, *, drop: Sequence[str] = (), missing: Sequence[str] = ()) -> Any:
    """Read a table file as a frame, without the columns ``drop``; see :meth:`Dataset.from_files`."""
    frame = read_table(Path(path), missing)
    present(Path(path), frame, drop)
    return frame.drop(*drop).to_native()


def present(path: Path, frame: Any, wanted: Sequence[str]) -> None:
    """Refuse a table without one of the columns ``wanted``."""
    if absent := [name for name in wanted if name not in frame.columns]:
        raise InvalidData(f"{path.name} has no column {absent[0]!r}; it has {list(frame.columns)[:20]}")


def read_table(path: Path, missing: Sequence[str] = ()) -> Any:
    """Read a file as a narwhals frame; ``missing`` are further cell texts that mean "missing".

    Raises:
        InvalidData: no such file, another ending, or a file that is no table.
    """
    import narwhals.stable.v2 as nw

    if not path.is_file():
        raise InvalidData(f"no such file: {path}")
    kind = path.suffix.lower()
    try:
        if kind in (".parquet", ".pq"):
            needs("pyarrow")
            return nw.read_parquet(str(path), backend="pandas")
        if kind in (".jsonl", ".ndjson"):
            return nw.from_dict(_columns(path, frozenset(missing)), backend="pandas")
        if kind not in TABLES:
            raise InvalidData(f"{path.name}: expected a .csv, .tsv, .parquet, .jsonl or .npz file")
        separator = "\t" if kind == ".tsv" else ","
        _once(path, separator)
        options: dict[str, Any] = {"skipinitialspace": True, "na_values": list(missing)}
        return nw.read_csv(str(path), backend="pandas", separator=separator, **options)
    except (ValueError, OSError) as error:
        if isinstance(error, InvalidData):
            raise
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InvalidData(f"{path.name} is not a readable table: {first}") from None


def _once(path: Path, separator: str) -> None:
    """Refuse a header with one name twice: pandas would give the second another name."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, delimiter=separator, skipinitialspace=True)
        try:
            names = next((row for row in rows if any(row)), [])
        except csv.Error as error:
            raise InvalidData(f"{path.name} is not a readable table: {error}") from None
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise InvalidData(f"{path.name}: two columns have the name {twice[0]!r}; rename one")


def frame_of(columns: Mapping[str, Any], what: str) -> Any:
    """Return columns by name as a frame.

    >>> list(frame_of({"age": [40, 50], "sex": ["f", "m"]}, "train").columns)
    ['age', 'sex']
    """
    import narwhals.stable.v2 as nw

    held = {str(name): list(cells) for name, cells in columns.items()}
    if len({len(cells) for cells in held.values()}) != 1:
        raise InvalidData(
            f"the columns of {what} have different lengths: {[len(c) for c in held.values()][:20]}"
        )
    return nw.from_dict(held, backend="pandas").to_native()


def _columns(path: Path, missing: frozenset[str]) -> dict[str, list[Any]]:
    """Read one JSON object a line; a key that a line does not have is a missing cell."""
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict) or any(isinstance(cell, (dict, list)) for cell in row.values()):
                raise InvalidData(f"{path.name}: line {number} is no flat JSON object; write one a line")
            rows.append(row)
    if not rows:
        raise InvalidData(f"{path.name} has no rows")
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [None if row.get(name) in missing else row.get(name) for row in rows] for name in names}


def read_arrays(path: Path, *, label: str, person: str | None = None) -> tuple[Any, ...]:
    """Read ``(x, y)`` or ``(x, y, person)`` from an ``.npz`` file; x is the one array that has another name.

    Raises:
        InvalidData: no such file, no sound archive of plain arrays, or names that do not fit.
    """
    if not path.is_file():
        raise InvalidData(f"no such file: {path}")
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("one array without a name")
            found = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, KeyError, MemoryError, zipfile.BadZipFile) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InvalidData(f"{path.name} is no sound .npz file of plain arrays: {first[:200]}") from None
    wanted = [label, *([] if person is None else [person])]
    rest = [name for name in found if name not in wanted]
    if any(name not in found for name in wanted) or len(rest) != 1:
        raise InvalidData(
            f"{path.name} holds the arrays {sorted(found)[:20]}; it needs {wanted} and one more, the rows"
        )
    return (found[rest[0]], *(found[name] for name in wanted))
