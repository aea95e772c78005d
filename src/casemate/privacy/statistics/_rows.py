# SPDX-License-Identifier: Apache-2.0
"""Columns of any frame as blocks of float64, whose rows they are, and at most so many of each person.

**Which rows of a person count**: the first ``max_rows`` in the order in which they stand, whatever their values (also
missing ones). Rows of another person never change which of mine are kept, so one person's coming or going changes at
most ``max_rows`` rows. A row without a person is left out: nobody could bound whose it is. Where the order of rows has
a meaning (first visits come first) shuffle them beforehand. A column of floats cannot hold ids of more than 15 digits
(pandas makes one of whole numbers with gaps): read those as text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from casemate.core.errors import InvalidData
from casemate.core.extras import lazy
from casemate.core.schema import is_frame, read_frame
from casemate.privacy.statistics._grid import BLOCK

BATCH = 2**16  # rows of a file read at once
NO_IDS = "ids of people are texts, numbers or other single values; the column has cells such as lists"


@dataclass(frozen=True)
class People:
    """Whose row each is, and how many rows of one person count: the unit of privacy is then the person.

    ``ids`` is a column (n,), or its name where the statistic is given a frame or a stored column.

    >>> People(ids=["a", "a", "b"], max_rows=1).max_rows
    1
    """

    ids: Any
    max_rows: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_rows", positive_whole("max_rows", self.max_rows))


@dataclass(frozen=True)
class Stored:
    """A column of a Parquet file, read block by block in constant memory (with People: one entry a person)."""

    path: Path
    column: str


def positive_whole(name: str, value: Any) -> int:
    """Return a whole number from 1; refuse anything else."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise InvalidData(f"{name} must be a whole number >= 1; got {value!r}")
    return int(value)


def share(name: str, value: Any, *, inside: bool = False) -> None:
    """Refuse anything but a number from 0 to 1; with ``inside`` both ends too."""
    number = isinstance(value, (int, float, np.floating)) and not isinstance(value, bool)
    if not number or not (0 < value < 1 if inside else 0 <= value <= 1):
        raise InvalidData(f"{name} must be a number from 0 to 1; got {value!r}")


def stored(path: str | Path, column: str) -> Stored:
    """Name a column of a Parquet file; every statistic of one numeric column takes it in place of an array.

    >>> stored("visits.parquet", "days").column
    'days'
    """
    return Stored(Path(path), column)


class Column:
    """One numeric column and who owns its rows."""

    def __init__(self, x: Any, people: People | None) -> None:
        self.x, self.people = x, people
        self.values = None if isinstance(x, Stored) else _numeric(_native(x), "the column")
        self.keep: np.ndarray | None = None
        if people is not None and self.values is not None:
            if isinstance(people.ids, str):
                raise InvalidData(
                    f"ids={people.ids!r} names a column, but one column alone was given; give the ids themselves"
                )
            self.keep = kept(people, len(self.values))

    def blocks(self) -> Iterator[np.ndarray]:
        """Give the rows that count as float64 (k,), NaN where missing."""
        if self.values is None:
            yield from _from_file(self.x, self.people)
        elif self.keep is None and self.values.dtype == np.float64:
            yield self.values
        else:
            for start in range(0, len(self.values), BLOCK):
                part = self.values[start : start + BLOCK]
                yield np.asarray(
                    part if self.keep is None else part[self.keep[start : start + BLOCK]], np.float64
                )


def kept(people: People, n: int) -> np.ndarray:
    """Return which of ``n`` rows count (n,) bool: the first ``max_rows`` of each person."""
    import pandas as pd

    ids = cells(people.ids)
    if len(ids) != n:
        raise InvalidData(f"there are {n} rows but {len(ids)} ids of people")
    try:
        codes = pd.factorize(ids)[0]  # (n,) numbered as they appear, -1 missing
    except TypeError:
        raise InvalidData(NO_IDS) from None
    order = np.argsort(codes, kind="stable")
    sorted_codes = codes[order]
    rank = np.empty(n, np.int64)
    rank[order] = np.arange(n) - np.searchsorted(sorted_codes, sorted_codes)
    return np.asarray((rank < people.max_rows) & (codes >= 0))


def numbers(frame: Any, names: list[str], people: People | None) -> dict[str, np.ndarray]:
    """Return the named numeric columns of a frame, only the rows that count, as float64 (n,)."""
    table, keep = _table(frame, names, people)
    return {
        name: np.asarray(_numeric(_native(table[name]), f"column {name!r}")[keep], np.float64)
        for name in names
    }


def texts(frame: Any, names: list[str], people: People | None) -> dict[str, np.ndarray]:
    """Return the named columns of categories, only the rows that count, as objects (n,)."""
    table, keep = _table(frame, names, people)
    return {name: cells(table[name])[keep] for name in names}


def cells(x: Any) -> np.ndarray:
    """Return a column of names, codes or yes-or-no as objects (n,), None where missing.

    Nothing becomes a float on the way: two people whose ids differ in the 18th digit are two people.
    """
    import pandas as pd

    if not isinstance(x, (list, tuple)):
        x = x if isinstance(x, np.ma.MaskedArray) else _native(x)
        x = x.tolist() if isinstance(x, np.ndarray) else x.to_list()
    out = np.fromiter(x, object, len(x))
    out[pd.isna(out)] = None
    return out


def _table(
    frame: Any, names: list[str], people: People | None
) -> tuple[Mapping[str, Any], np.ndarray | slice]:
    if isinstance(frame, Mapping):
        table: Mapping[str, Any] = {
            str(name): column if isinstance(column, (list, tuple)) else _native(column)
            for name, column in frame.items()
        }
        known = list(table)
    elif is_frame(frame):
        read = read_frame(frame)
        table = {str(name): read.get_column(name) for name in read.columns}
        known = list(table)
    else:
        raise InvalidData(f"expected a frame or columns by name; got {type(frame).__name__}")
    if missing := [name for name in names if name not in known]:
        raise InvalidData(f"there is no column {missing[0]!r}; columns: {', '.join(map(str, known))}")
    lengths = {len(table[name]) for name in names}
    if len(lengths) != 1:
        raise InvalidData(f"columns have different lengths: {sorted(lengths)}")
    if people is None:
        return table, slice(None)
    if isinstance(people.ids, str):
        if people.ids not in known:
            raise InvalidData(f"there is no column {people.ids!r}; columns: {', '.join(map(str, known))}")
        people = People(table[people.ids], people.max_rows)
    return table, kept(people, lengths.pop())


def _native(x: Any) -> Any:
    """Return an array, or a column as narwhals sees it."""
    import narwhals.stable.v2 as nw

    if isinstance(x, nw.Series):
        return x
    if isinstance(x, np.ma.MaskedArray):  # numbers alone: others are refused by their own name
        number = x.dtype.kind in "iuf"
        x = np.asarray(np.ma.filled(x.astype(np.float64), np.nan) if number else x.data)
    if isinstance(x, (np.ndarray, list, tuple)):
        array = x if isinstance(x, np.ndarray) else _listed(x)
        if array.ndim != 1:
            raise InvalidData(f"expected one column (n,); got an array of shape {array.shape}")
        return array
    found = nw.from_native(x, series_only=True, allow_series=True, pass_through=True)
    if isinstance(found, nw.Series):
        return found
    if type(x).__module__.startswith("pyarrow") and type(x).__name__.endswith("Array"):
        return nw.from_native(lazy("pyarrow").chunked_array([x]), series_only=True)
    raise InvalidData(
        f"expected one column: an array (n,), a pandas, polars or Arrow column, or statistics.stored(path, column); "
        f"got {type(x).__name__}"
    )


def _listed(x: Any) -> np.ndarray:
    """Return numbers as float64 (n,), None as missing; anything else as objects."""
    if all(type(cell) is float for cell in x):
        return np.asarray(x, np.float64)
    if all(cell is None or (isinstance(cell, (Real, Decimal)) and not isinstance(cell, bool)) for cell in x):
        return np.array([_float(cell) for cell in x], np.float64)
    return np.asarray(x, object)


def _float(cell: Any) -> float:
    try:
        return math.nan if cell is None else float(cell)
    except OverflowError:  # a whole number beyond all floats is clamped like any other
        return math.inf if cell > 0 else -math.inf


def _numeric(x: Any, what: str) -> np.ndarray:
    """Return real numbers (n,) as they are stored, or say what to do with this column."""
    import narwhals.stable.v2 as nw

    if isinstance(x, nw.Series):
        kind = str(x.dtype)
        if x.dtype.is_numeric():
            whole = x.dtype.is_integer() and x.dtype not in (nw.Int128, nw.UInt128)
            if whole and x.null_count():  # no cast of the frame's own: Arrow's refuses numbers above 2^53
                out = np.asarray(x.fill_null(0).to_numpy(), np.float64)
                out[x.is_null().to_numpy()] = math.nan
                return out
            same = x.dtype == nw.Float64 and x.null_count() == 0
            return np.asarray((x if whole or same else x.cast(nw.Float64())).to_numpy())
        if x.dtype == nw.Unknown and x.null_count() == len(x):  # a column that nobody filled in has no type
            return np.full(len(x), math.nan)
        boolean, dates = x.dtype == nw.Boolean, x.dtype.is_temporal()
    else:
        if x.dtype.kind in "iuf":
            with np.errstate(over="ignore"):  # of numbers wider than float64
                return np.asarray(x, np.float64) if x.dtype.itemsize > 8 else x
        kind, boolean, dates = str(x.dtype), x.dtype.kind == "b", x.dtype.kind in "mM"
    if boolean:
        raise InvalidData(
            f"{what} is yes-or-no ({kind}); count it with statistics.contingency_table, or cast it to 0 and 1"
        )
    if dates:
        raise InvalidData(
            f"{what} holds dates ({kind}); subtract a public day and give the number of days as float64"
        )
    raise InvalidData(
        f"{what} has dtype {kind}, not numbers; cast it to float64, or count its categories with contingency_table"
    )


def _from_file(x: Stored, people: People | None) -> Iterator[np.ndarray]:
    """Give the rows of a Parquet column that count, one batch after the other."""
    pq = lazy("pyarrow.parquet")
    if people is not None and not isinstance(people.ids, str):
        raise InvalidData("of a stored column, ids= is the name of another column of the same file")
    names = [x.column] if people is None else [x.column, people.ids]
    try:
        with pq.ParquetFile(x.path, pre_buffer=False) as file:  # else the whole column is fetched at once
            known = file.schema_arrow.names
            if missing := [name for name in names if name not in known]:
                raise InvalidData(f"{x.path} has no column {missing[0]!r}; columns: {', '.join(known)}")
            seen: dict[Any, int] = {}
            for batch in file.iter_batches(batch_size=BATCH, columns=names, use_threads=False):
                values = np.asarray(
                    _numeric(_native(batch.column(x.column)), f"column {x.column!r}"), np.float64
                )
                yield (
                    values
                    if people is None
                    else values[_counted(cells(batch.column(people.ids)), seen, people.max_rows)]
                )
    except (OSError, lazy("pyarrow").ArrowInvalid) as error:
        raise InvalidData(f"cannot read {x.path}: {' '.join(str(error).split())}") from None


def _counted(ids: np.ndarray, seen: dict[Any, int], most: int) -> np.ndarray:
    keep = np.zeros(len(ids), bool)
    try:
        for place, person in enumerate(ids):
            if person is not None and (before := seen.get(person, 0)) < most:
                keep[place], seen[person] = True, before + 1
    except TypeError:
        raise InvalidData(NO_IDS) from None
    return keep
