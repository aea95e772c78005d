# SPDX-License-Identifier: Apache-2.0
"""What the columns are: kinds, bounds, spread, rules. Encodes the user's frame to float64 and rebuilds it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from casemate.core.errors import InvalidData

if TYPE_CHECKING:
    from casemate.core.types import Input, Threat

Kind = Literal["real", "integer", "category"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table: what values it may take and what an attacker may do to it.

    ``low``/``high`` bound numeric values, ``spread`` is the standard deviation on the training rows (the unit of
    ``Threat(scale="spread")``), ``missing`` is the marker the user's frame had for a hole (None: there was none).
    ``observed`` says that its ends or categories were read off rows: they are some people's values, and no guarantee
    may rest on them. Stating both ends, or the categories, clears it (:meth:`Schema.with_columns`).

    >>> Column(name="age", kind="integer", low=0, high=110, spread=18.0, unit="years", immutable=True).kind
    'integer'
    """

    name: str
    kind: Kind
    categories: tuple[Any, ...] = ()
    low: float = -np.inf
    high: float = np.inf
    spread: float = 1.0
    unit: str = ""
    immutable: bool = False
    monotone: Literal["increasing", "decreasing"] | None = None
    missing: Literal["none", "nan"] | None = None
    # where the values come from, not what they are: two columns that differ in it alone are equal
    observed: bool = field(default=False, compare=False, repr=False)

    def stated(self, said: Mapping[str, Any]) -> Column:
        """Return a copy with the fields in ``said``; one whose limits are all said is no longer ``observed``.

        >>> seen = Column(name="age", kind="integer", low=19, high=93, observed=True)
        >>> seen.stated({"high": 110}).observed, seen.stated({"low": 0, "high": 110}).observed
        (True, False)
        """
        kind = said.get("kind", self.kind)
        whole = {"categories"} if kind == "category" else {"low", "high"}
        observed = self.observed and not whole <= said.keys()
        return replace(self, **{"observed": observed, **said})


@dataclass(frozen=True, kw_only=True)
class Relation:
    """A rule between columns that every feasible row obeys: sum(left) op sum(right).

    >>> Relation(left=("paid",), op="<=", right=("owed",)).op
    '<='
    """

    left: tuple[str, ...]
    op: Literal["<=", "=="]
    right: tuple[str, ...]

    def broken(self, column: Callable[[str], np.ndarray]) -> np.ndarray:
        """Return which rows break the rule; ``column(name)`` gives a column (n,). Missing cells break nothing."""
        gap = sum(column(name) for name in self.left) - sum(column(name) for name in self.right)
        scale = 1e-9 * (1.0 + sum(np.abs(column(name)) for name in (*self.left, *self.right)))
        bad: np.ndarray = gap > scale if self.op == "<=" else np.abs(gap) > scale
        return bad


@dataclass(frozen=True, kw_only=True)
class Schema:
    """Columns in order, and the rules that hold between them; images and text have no columns.

    ``groups`` are tuples of columns that are one-hot together. ``sensitive`` names the columns by which results
    are sliced. ``person`` names the column that says whose row it is (never shown to the model).

    >>> schema = Schema.infer(np.array([[0.5, 1.0], [1.5, 3.0]]))
    >>> [column.name for column in schema.columns], schema.columns[0].spread
    (['x0', 'x1'], 0.5)
    """

    input: Input = "table"
    columns: tuple[Column, ...] = ()
    bounds: tuple[float, float] | None = None
    groups: tuple[tuple[str, ...], ...] = ()
    relations: tuple[Relation, ...] = ()
    sensitive: tuple[str, ...] = ()
    person: str | None = None
    # A zero-row frame (or None for arrays): the user's column order, dtypes and library.
    template: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        known = set(self.names)
        named = {name for group in self.groups for name in group} | set(self.sensitive)
        named |= {name for rule in self.relations for name in (*rule.left, *rule.right)}
        if self.input == "table" and (unknown := sorted(named - known)):
            raise InvalidData(
                f"schema names columns that do not exist: {unknown}; columns are {self.names[:20]}"
            )

    @property
    def names(self) -> list[str]:
        """Column names in order."""
        return [column.name for column in self.columns]

    def with_columns(self, changes: Mapping[str, Mapping[str, Any]]) -> Schema:
        """Return a copy with fields of some columns changed; see :meth:`Column.stated`.

        >>> s = Schema.infer(np.array([[1.0], [2.0]]))
        >>> s.with_columns({"x0": {"immutable": True}}).columns[0].immutable
        True
        """
        if unknown := sorted(set(changes) - set(self.names)):
            raise InvalidData(f"no such columns: {unknown}; columns are {self.names[:20]}")
        return replace(self, columns=tuple(c.stated(changes.get(c.name, {})) for c in self.columns))

    @staticmethod
    def infer(
        train: Any, *others: Any, immutable: Sequence[str] = (), sensitive: Sequence[str] = ()
    ) -> Schema:
        """Infer kinds, bounds and spread. Spread comes from ``train``; bounds and categories from all rows given.

        Columns whose bounds or categories were read off the rows are marked ``observed``.

        Args:
            train: a frame (pandas, polars, Arrow), an array (n, d) or (n, c, h, w), or a list of texts.
            others: further rows of the same form (holdout, reference).
            immutable: columns nobody can change.
            sensitive: columns by which results are sliced.

        Raises:
            InvalidData: dates, infinities, no rows, or columns that differ between the parts.
        """
        if is_text(train):
            return Schema(input="text")
        if not is_frame(train):
            train, others = np.asarray(train), tuple(np.asarray(other) for other in others)
            if train.ndim == 4:
                return Schema(input="image", bounds=_pixel_bounds((train, *others)))
        parts = [_columns(part) for part in (train, *others)]
        if not parts[0]:
            raise InvalidData("the table has no columns")
        columns = []
        for name in parts[0]:
            if absent := [i for i, part in enumerate(parts) if name not in part]:
                raise InvalidData(f"column {name!r} is in train but not in part {absent[0]} of the data")
            columns.append(_infer_column(name, [part[name] for part in parts]))
        known = {column.name for column in columns}
        if unknown := sorted(set(immutable) - known):
            raise InvalidData(f"immutable names columns that do not exist: {unknown}")
        return Schema(
            columns=tuple(replace(c, immutable=c.name in immutable) for c in columns),
            sensitive=tuple(sensitive),
            template=_template(train),
        )

    def encode(self, x: Any) -> Any:
        """Turn the user's rows into what methods see: float64 (n, d), images (n, c, h, w) or a list of texts."""
        if self.input == "text":
            return list(x)
        if self.input == "image":
            images = np.asarray(x)
            if images.ndim != 4 or images.dtype.kind not in "biuf":
                raise InvalidData(
                    "images must be numbers of shape (n, channels, height, width); "
                    f"got {images.dtype} of shape {images.shape}"
                )
            return _finite(images, "images")
        found = _columns(x)
        if missing := [name for name in self.names if name not in found]:
            raise InvalidData(f"column {missing[0]!r} is missing; the data has {list(found)[:20]}")
        if extra := [name for name in found if name not in self.names]:
            raise InvalidData(f"column {extra[0]!r} is unknown; train had {self.names[:20]}")
        return np.column_stack([_encode(column, found[column.name]) for column in self.columns])  # (n, d)

    def decode(self, x: Any) -> Any:
        """Rebuild what the user's model expects from encoded rows (inverse of :meth:`encode`)."""
        if self.input != "table" or self.template is None:
            return x
        values = [_decode(column, x[:, i]) for i, column in enumerate(self.columns)]
        if isinstance(self.template, np.ndarray):
            if self.template.dtype != object:
                return x.astype(self.template.dtype) if _fits(x, self.template.dtype) else x
            out = np.empty(x.shape, dtype=object)
            for i, value in enumerate(values):
                out[:, i] = value
            return out
        return _rebuild(self.template, self.columns, values)


def distances(x: Any, x_adv: Any, threat: Threat, schema: Schema) -> np.ndarray:
    """Return how far each changed row (n,) is from its original in the threat's norm and scale.

    Under ``l0`` it is the number of edits: a column is one, and the switch of a one-hot group is one together.
    Elsewhere a category has no distance: a row whose category changed is infinitely far.

    >>> from casemate.core.types import Threat
    >>> rows = np.array([[0.0, 0.0], [1.0, 1.0]])
    >>> schema = Schema.infer(rows)
    >>> distances(rows, rows + [[3.0, 4.0], [0.0, 1.0]], Threat(norm="l2", scale="raw"), schema).tolist()
    [5.0, 1.0]
    """
    before, after = np.asarray(x, np.float64), np.asarray(x_adv, np.float64)
    if schema.input != "table":
        return _length((after - before).reshape(len(before), math.prod(before.shape[1:])), threat.norm)
    shift = np.where(np.isnan(before) & np.isnan(after), 0.0, after - before)  # (n, d)
    if threat.norm == "l0":
        place = {name: i for i, name in enumerate(schema.names)}
        edited = shift != 0
        together = [[place[name] for name in group] for group in schema.groups]
        alone = np.setdiff1d(np.arange(len(place)), [i for cells in together for i in cells])
        switched = sum((edited[:, cells].any(1) for cells in together), np.zeros(len(before)))
        edits: np.ndarray = edited[:, alone].sum(1) + switched
        return edits
    spread = np.array([column.spread for column in schema.columns])
    unit = spread if threat.scale == "spread" else np.ones_like(spread)
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = np.where(shift == 0, 0.0, np.abs(shift) / unit)
    category = np.array([column.kind == "category" for column in schema.columns])
    return _length(np.where(category & (shift != 0), np.inf, scaled), threat.norm)


def _length(shift: np.ndarray, norm: str | None) -> np.ndarray:
    """Return the norm of each row of ``shift`` (n, d); linf where none is set."""
    size = np.abs(shift)
    if norm == "l2":
        with np.errstate(over="ignore"):  # too far in any case
            out: np.ndarray = np.sqrt(np.square(size).sum(1))
    elif norm == "l1":
        out = size.sum(1)
    elif norm == "l0":
        out = (size > 0).sum(1).astype(np.float64)
    else:
        out = size.max(1, initial=0.0)
    return out


def violations(x: Any, x_adv: Any, threat: Threat, schema: Schema) -> dict[str, np.ndarray]:
    """Tell which changed rows break which rule, in float64 and independently of the attack that made them.

    Args:
        x: original encoded rows; x_adv: changed rows of the same shape; threat: resolved; schema: of the data.

    Returns:
        One mask (n,) a rule: ``finite``, ``radius`` (by :func:`distances`), ``bounds``, ``integer`` (images: where
        pixels are whole numbers), and for tables ``category``, ``immutable``, ``monotone``, ``group``,
        ``relation``, ``missing``.

    >>> from casemate.core.types import Threat
    >>> rows = np.array([[0.0, 0.0], [1.0, 1.0]])
    >>> schema = Schema.infer(rows)
    >>> bad = violations(rows, rows + 0.2, Threat(norm="linf", radius=0.3, scale="raw"), schema)
    >>> bad["radius"].any(), bad["bounds"].tolist()
    (np.False_, [False, True])
    """
    whole = np.asarray(x).dtype.kind in "biu"  # pixels that are stored as whole numbers
    before, after = np.asarray(x, np.float64), np.asarray(x_adv, np.float64)
    if before.shape != after.shape:
        raise InvalidData(f"changed inputs have shape {after.shape}, originals {before.shape}")
    n = len(before)
    radius = np.inf if threat.radius is None else threat.radius
    far = distances(before, after, threat, schema) > radius * (1 + 1e-6) + 1e-9
    if schema.input != "table":
        darkest, brightest = schema.bounds or (-np.inf, np.inf)
        grain = 1e-6 * max(1.0, brightest - darkest) if np.isfinite(brightest - darkest) else 1e-6
        flat = after.reshape(n, math.prod(after.shape[1:]))  # (n, pixels)
        return {
            "finite": np.asarray(~np.isfinite(flat).all(1)),
            "radius": far,
            "bounds": np.asarray(((flat < darkest - grain) | (flat > brightest + grain)).any(1)),
            "integer": np.asarray(whole & (flat != np.round(flat)).any(1)),
        }
    hole = np.isnan(before)
    shift = np.where(hole & np.isnan(after), 0.0, after - before)  # (n, d)
    category = np.array([column.kind == "category" for column in schema.columns])
    bad = {
        "finite": np.isinf(after).any(1),
        "missing": (hole != np.isnan(after)).any(1),
        "radius": far,
    }
    low = np.array([column.low for column in schema.columns])
    high = np.array([column.high for column in schema.columns])
    slack = 1e-6 * np.maximum(1.0, [abs(column.spread) for column in schema.columns])
    changed = shift != 0
    # An original value is what it is: only a change can leave the bounds or the grid.
    bad["bounds"] = (changed & ~category & ((after < low - slack) | (after > high + slack))).any(1)
    grid = np.array([column.kind == "integer" for column in schema.columns])
    bad["integer"] = (changed & grid & (after != np.round(after))).any(1)
    sizes = np.array([len(column.categories) for column in schema.columns])
    bad["category"] = (
        changed & category & ((after != np.round(after)) | (after < 0) | (after >= sizes))
    ).any(1)
    fixed = np.array([column.immutable for column in schema.columns])
    bad["immutable"] = (changed & fixed).any(1)
    rising = np.array([column.monotone == "increasing" for column in schema.columns])
    falling = np.array([column.monotone == "decreasing" for column in schema.columns])
    bad["monotone"] = ((rising & (shift < 0)) | (falling & (shift > 0))).any(1)
    place = {name: i for i, name in enumerate(schema.names)}
    bad["group"] = np.zeros(n, bool)
    for group in schema.groups:
        cells, moved = after[:, [place[g] for g in group]], changed[:, [place[g] for g in group]].any(1)
        bad["group"] |= moved & ((np.abs(cells.sum(1) - 1) > 1e-9) | ((cells != 0) & (cells != 1)).any(1))
    bad["relation"] = np.zeros(n, bool)
    for rule in schema.relations:
        moved = changed[:, [place[name] for name in (*rule.left, *rule.right)]].any(1)
        bad["relation"] |= moved & rule.broken(lambda name: after[:, place[name]])
    return bad


# ---- reading the user's columns ----


def is_text(x: Any) -> bool:
    """Tell whether ``x`` is a non-empty sequence of strings."""
    return isinstance(x, Sequence) and not isinstance(x, str) and len(x) > 0 and isinstance(x[0], str)


def is_frame(x: Any) -> bool:
    """Tell whether ``x`` is a pandas, polars or Arrow table."""
    if isinstance(x, (np.ndarray, list, tuple)):
        return False
    import narwhals.stable.v2 as nw

    try:
        return isinstance(nw.from_native(x, pass_through=True), nw.DataFrame)
    except ValueError:  # a frame whose column names repeat: read_frame says so
        return True


def read_frame(x: Any) -> Any:
    """Return a table as narwhals sees it.

    Raises:
        InvalidData: two columns with one name.
    """
    import narwhals.stable.v2 as nw

    try:
        frame = nw.from_native(x, eager_only=True)
        names = [str(name) for name in frame.columns]
    except ValueError as error:  # narwhals says it over several lines
        raise InvalidData(" ".join(str(error).split())) from None
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidData(f"two columns have the name {twice[0]!r}; rename one")
    return frame


def read_array(x: Any) -> np.ndarray:
    """Return ``x`` as an array.

    Raises:
        InvalidData: rows of different lengths, or no rows at all.
    """
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise InvalidData(f"rows have different lengths ({error})") from None
    if array.ndim == 0:
        raise InvalidData(
            f"expected rows; got {type(x).__name__}: give a frame in memory, a dense array or a list of texts"
        )
    return array


def _columns(x: Any) -> dict[str, Any]:
    """Return name -> float64 array, or list of Python values for a category, of a frame or array (n, d)."""
    if not is_frame(x):
        table = np.asarray(x)
        if table.ndim != 2:
            hint = "; texts go in a list" if table.ndim == 1 else ""
            raise InvalidData(
                f"a table must be two-dimensional (rows, columns); got shape {table.shape}{hint}"
            )
        return {f"x{i}": _array_column(table[:, i], f"x{i}") for i in range(table.shape[1])}
    frame = read_frame(x)
    return {str(name): _series(frame.get_column(name), str(name)) for name in frame.columns}


def _array_column(values: np.ndarray, name: str) -> Any:
    if values.dtype == object or values.dtype.kind in "US":
        cells = values.tolist()
        if all(cell is None or isinstance(cell, (int, float, np.number)) for cell in cells):
            return np.array([np.nan if cell is None else cell for cell in cells], np.float64)
        return cells
    if values.dtype.kind not in "biuf":
        raise InvalidData(f"column {name!r} has dtype {values.dtype}; convert it to numbers or text")
    return values


def _series(series: Any, name: str) -> Any:
    import narwhals.stable.v2 as nw

    dtype = series.dtype
    if dtype.is_numeric():
        if dtype.is_integer() and series.null_count() == 0:
            # numpy has no integers of 128 bits
            narrow = series.cast(nw.Int64()) if dtype in (nw.Int128, nw.UInt128) else series
            return narrow.to_numpy().astype(np.int64)
        return np.asarray(series.cast(nw.Float64()).to_numpy(), np.float64)
    if dtype in (nw.Boolean, nw.String, nw.Categorical, nw.Enum, nw.Object):
        cells = series.to_list()
        if dtype == nw.Object and all(c is None or isinstance(c, (int, float, np.number)) for c in cells):
            return np.array([np.nan if c is None else c for c in cells], np.float64)
        if series.implementation.is_pyarrow() and any(not isinstance(c, str | bool | None) for c in cells):
            raise InvalidData(
                f"column {name!r} is a dictionary of {type(cells[0]).__name__}; cast it to its values"
            )
        return cells
    raise InvalidData(
        f"column {name!r} has type {dtype}; convert it to numbers (days, say) or text, or drop it"
    )


def is_hole(cell: Any) -> bool:
    """Tell whether a cell means "missing": None, NaN or pandas' NA."""
    # pandas.NA first: comparing it with itself gives no truth value
    return cell is None or type(cell).__name__ == "NAType" or cell != cell


def _infer_column(name: str, parts: list[Any]) -> Column:
    numeric = [isinstance(part, np.ndarray) for part in parts]
    if any(numeric) and not all(numeric):
        raise InvalidData(f"column {name!r} holds numbers in one part of the data and text in another")
    if not all(numeric):
        cells = [cell for part in parts for cell in part]
        holes = [cell for cell in cells if is_hole(cell)]
        if odd := [cell for cell in cells if isinstance(cell, (date, time, timedelta, Decimal))]:
            raise InvalidData(
                f"column {name!r} holds {odd[0]!r}; convert it to numbers (days, say) or text, or drop it"
            )
        try:
            seen = {cell for cell in cells if not is_hole(cell)}
        except TypeError as error:
            raise InvalidData(f"column {name!r} holds {error}; use numbers or text") from None
        marker: Literal["none", "nan"] | None = None
        if holes:
            marker = "none" if holes[0] is None else "nan"
        # true and false are what there is, whichever of them occurs: as bool's dtype below
        told = bool(seen) and all(isinstance(cell, (bool, np.bool_)) for cell in seen)
        order = (False, True) if told else tuple(sorted(seen, key=lambda cell: (type(cell).__name__, cell)))
        return Column(name=name, kind="category", categories=order, missing=marker, observed=not told)
    if parts[0].dtype.kind == "b":
        return Column(name=name, kind="category", categories=(False, True))
    values = np.concatenate([np.asarray(part, np.float64) for part in parts])
    if np.isinf(values).any():
        raise InvalidData(f"column {name!r} contains infinity; clip it or mark it as missing (NaN)")
    known = values[~np.isnan(values)]
    # pandas turns integers with holes into floats: integral values beside holes are still integers
    holed = len(known) < len(values)
    integral = all(part.dtype.kind in "iu" for part in parts) or (
        holed and len(known) > 0 and bool((known == np.round(known)).all())
    )
    train = np.asarray(parts[0], np.float64)
    train = train[~np.isnan(train)]
    return Column(
        name=name,
        kind="integer" if integral else "real",
        low=float(known.min()) if len(known) else -np.inf,
        high=float(known.max()) if len(known) else np.inf,
        spread=_spread(train),
        missing="nan" if holed else None,
        observed=True,
    )


def _spread(values: np.ndarray) -> float:
    """Return the standard deviation; 0 for no values, and for numbers that float64 cannot divide by."""
    size = float(np.abs(values).max(initial=0.0))
    if size < 1e-300:
        return 0.0
    # squares of very large or small numbers leave float64
    return float(values.std() if 1e-150 < size < 1e150 else (values / size).std() * size)


def _encode(column: Column, found: Any) -> np.ndarray:
    if isinstance(found, np.ndarray):
        values = found.astype(np.float64)
        if column.kind == "category" and found.dtype.kind != "b":
            raise InvalidData(f"column {column.name!r} holds numbers here but categories in train")
        return _finite(values, f"column {column.name!r}", holes=True)
    if column.kind != "category":
        bad = next((cell for cell in found if not is_hole(cell)), None)
        raise InvalidData(f"column {column.name!r} is numeric in train but holds {bad!r} here")
    codes = {cell: float(code) for code, cell in enumerate(column.categories)}
    try:
        return np.array([np.nan if is_hole(cell) else codes[cell] for cell in found], np.float64)
    except KeyError as error:
        raise InvalidData(
            f"column {column.name!r} holds {error.args[0]!r}, a category not seen when the schema was inferred"
        ) from None


def _decode(column: Column, values: np.ndarray) -> Any:
    if column.kind != "category":
        return values
    hole = np.isnan(values)
    codes = np.where(hole, 0, values).astype(np.int64)
    if len(codes) and (codes.min() < 0 or codes.max() >= max(1, len(column.categories))):
        raise InvalidData(
            f"column {column.name!r} has code {codes.max()} but {len(column.categories)} categories"
        )
    pool = np.empty(len(column.categories) + 1, dtype=object)
    pool[:-1] = column.categories
    pool[-1] = None if column.missing == "none" else np.nan
    return pool[np.where(hole, len(column.categories), codes)]


def _template(train: Any) -> Any:
    if not is_frame(train):
        return np.asarray(train)[:0]
    import narwhals.stable.v2 as nw

    return nw.from_native(train, eager_only=True).head(0).to_native()


def _fits(values: np.ndarray, dtype: Any) -> bool:
    """Integers (and booleans) can only hold integral, complete values."""
    return np.dtype(dtype).kind not in "biu" or bool((values == np.round(values)).all())


def _rebuild(template: Any, columns: Iterable[Column], values: list[Any]) -> Any:
    """Build a frame of the template's library, column order and dtypes (floats where integers cannot hold it)."""
    import narwhals.stable.v2 as nw

    library = nw.get_native_namespace(template)
    frame = nw.from_native(template, eager_only=True)
    own = {str(name): name for name in frame.columns}  # pandas' default names are numbers
    cells: dict[str, Any] = {}
    pandas, kinds = (
        library.__name__ == "pandas",
        frame.schema,
    )  # asked once: a column costs more than its dtype
    stored = dict(zip(template.columns, template.dtypes, strict=True)) if pandas else {}
    for column, value in zip(columns, values, strict=True):
        integral = kinds[own[column.name]].is_integer()
        dtype = _widened(stored[own[column.name]], value) if pandas else None
        if dtype == np.float64 and value.dtype == dtype:  # as it stands
            cells[column.name] = value
            continue
        # numpy's integers have no hole; those of pandas' extension types, polars and Arrow do
        held = value if isinstance(dtype, np.dtype) or column.kind == "category" else value[~np.isnan(value)]
        keep = not integral or bool((held == np.round(held)).all())
        if dtype is not None:
            cells[column.name] = library.Series(value, dtype=dtype if keep else "float64")
        elif column.kind == "category":
            cells[column.name] = [None if is_hole(cell) else cell for cell in value.tolist()]
        else:
            cells[column.name] = [
                None if cell != cell else int(cell) if integral and keep else cell for cell in value
            ]
    if pandas:
        return library.DataFrame({name: cells[text] for text, name in own.items()})
    order = list(own)
    built = nw.from_dict({name: cells[name] for name in order}, backend=library)
    casts = [
        nw.col(name).cast(_widened(frame[name].dtype, cells[name]))
        for name in order
        if not (frame[name].dtype.is_integer() and built[name].dtype.is_float())
    ]
    return built.with_columns(*casts).to_native()


def _widened(dtype: Any, cells: Iterable[Any]) -> Any:
    """Return a categorical dtype (pandas) or Enum (narwhals) with the cells it lacks; other rows may have more."""
    listed = getattr(dtype, "categories", None)
    if listed is None:
        return dtype
    known = list(listed)
    more = [cell for cell in dict.fromkeys(cells) if not is_hole(cell) and cell not in known]
    ordered = {"ordered": dtype.ordered} if hasattr(dtype, "ordered") else {}
    return type(dtype)([*known, *more], **ordered) if more else dtype


def _pixel_bounds(parts: Iterable[np.ndarray]) -> tuple[float, float]:
    low = min(float(part.min()) for part in parts if part.size)
    high = max(float(part.max()) for part in parts if part.size)
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    return (0.0, 255.0) if low >= 0 and high <= 255 else (low, high)


def _finite(values: np.ndarray, what: str, *, holes: bool = False) -> np.ndarray:
    if values.dtype.kind == "f" and (np.isinf(values).any() or (not holes and np.isnan(values).any())):
        raise InvalidData(
            f"{what} contain{'s' if holes else ''} values that are not finite; remove or replace them"
        )
    return values
