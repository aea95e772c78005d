# SPDX-License-Identifier: Apache-2.0
"""The schema as a TOML file that a person edits: which columns cannot change, which rules hold.

``casemate schema train.csv > schema.toml`` writes it, ``Dataset.from_files(schema="schema.toml")`` reads it. A file
may leave out anything: what it does not say is as the data has it. No cell of the data stands in it but the ends of
the columns and the names of the categories.
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unicodedata import category

import numpy as np

from casemate.core.errors import InvalidData
from casemate.core.schema import Column, Relation, Schema, read_frame

FORMAT = "casemate-schema/1"
MAX_CATEGORIES = 40  # more are left to the data
MAX_BYTES = 16_000_000
_KINDS = ("real", "integer", "category")
_HIDDEN = frozenset({"Cc", "Cf", "Zl", "Zp"})  # a lone surrogate no file can hold, and it is said so
_ONE_WAY = ("none", "increasing", "decreasing")
# names that differ by one of these may be ordered: min_pressure <= max_pressure
_PAIRS = (("min", "max"), ("low", "high"), ("lower", "upper"), ("start", "end"), ("first", "last"))

_HEAD = """\
# What the columns are and what may change in them. Edit this file and pass it with --schema.
# Anything left out is as the data has it. low, high, spread and categories come from your data: look at them
# before you share this file.
#
# sensitive   columns by which results are sliced
# person      column that says whose row it is; the model never sees it
# groups      columns that are one-hot together
# In each column:
# kind        real, integer or category
# low, high   the values that are possible (inf: no bound), not only those that were seen
# spread      one unit of distance for attacks; the standard deviation of the training rows
# categories  the names that are possible; those in the data always are
# observed    true: low and high, or the categories, were read off your data, and no guarantee of privacy may rest
#             on them. Put what is possible in their place, from what the column means, and remove the line
# unit        for people: "years", "EUR"
# immutable   true: nobody can change it
# monotone    "increasing" or "decreasing": it can only rise, or only fall
# Relations between columns go at the end, each as
# [[relation]]
# left = ["paid"]
# op = "<="       # or "=="; several columns on a side are added up
# right = ["owed"]
"""


@dataclass(frozen=True, kw_only=True)
class SchemaFile:
    """What a schema file says; :func:`merge` puts it over what the data shows. ``None``: it does not say."""

    place: str  # for messages
    columns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    groups: tuple[tuple[str, ...], ...] | None = None
    relations: tuple[Relation, ...] | None = None
    sensitive: tuple[str, ...] | None = None
    person: str | None = None


# ---- writing ----


def to_text(schema: Schema, *, comments: bool = True, rows: np.ndarray | None = None) -> str:
    """Write a table's schema as TOML.

    Args:
        schema: of a table.
        comments: explain each field.
        rows: encoded training rows (n, d): one-hot groups are then guessed where the schema names none, and
            relations that every row keeps are suggested in comments.

    Raises:
        InvalidData: the schema is not of a table, or a name that no text file can hold.

    >>> print(to_text(Schema.infer(np.array([[1.5], [2.0]])), comments=False))
    format = "casemate-schema/1"
    sensitive = []
    groups = []
    <BLANKLINE>
    [[column]]
    name = "x0"
    kind = "real"
    low = 1.5
    high = 2.0
    spread = 0.25
    unit = ""
    immutable = false
    monotone = "none"
    observed = true
    <BLANKLINE>
    """
    if schema.input != "table":
        raise InvalidData(f"a schema file describes a table; this data is {schema.input}")
    groups, guessed = schema.groups, False
    if not groups and rows is not None:
        groups = guess_groups(schema, rows)
        guessed = bool(groups)
    lines = [*_HEAD.splitlines(), ""] if comments else []
    lines += [f"format = {_value(FORMAT)}", f"sensitive = {_value(schema.sensitive)}"]
    if schema.person is not None:
        lines.append(f"person = {_value(schema.person)}")
    if guessed and comments:
        lines.append("# guessed from names and values: check them")
    lines.append(f"groups = {_value(groups)}")
    for column in schema.columns:
        lines += ["", "[[column]]", *_column_lines(column, comments)]
    for relation in schema.relations:
        lines += ["", *_relation_lines(relation)]
    if comments and rows is not None and not schema.relations:
        for relation in suggest_relations(schema, rows):
            lines += ["", "# holds in every training row; remove the # to make it a rule"]
            lines += [f"# {line}" for line in _relation_lines(relation)]
    text = "\n".join(lines) + "\n"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidData(
            f"a column or category holds {error.object[error.start]!r}, which is no text"
        ) from None
    return text


def inferred(
    frames: Sequence[Any],
    *,
    person: str | None = None,
    immutable: Sequence[str] = (),
    sensitive: Sequence[str] = (),
) -> str:
    """Return the text of a schema file for frames of rows, the first of them the training rows.

    Raises:
        InvalidData: the frames differ in columns, or one of the named columns is not there.
    """
    rows = list(frames)
    if person is not None:
        tables = [read_frame(part) for part in frames]
        if absent := [table for table in tables if person not in table.columns]:
            raise InvalidData(f"there is no person column {person!r}; the data has {absent[0].columns[:20]}")
        rows = [table.drop(person).to_native() for table in tables]
    schema = replace(Schema.infer(*rows, immutable=immutable, sensitive=sensitive), person=person)
    return to_text(schema, rows=schema.encode(rows[0]))


def _column_lines(column: Column, comments: bool) -> list[str]:
    lines = [f"name = {_value(column.name)}", f"kind = {_value(column.kind)}"]
    if column.kind == "category":
        listed = _value(column.categories) if _listable(column.categories) else None
        if listed is not None:
            lines.append(f"categories = {listed}")
        elif comments:
            lines.append(f"# categories: {len(column.categories)}, as the data has them")
    # a category has neither, unless somebody set one
    whole = Column(name="", kind="category")
    for name in ("low", "high", "spread"):
        value = getattr(column, name)
        if column.kind != "category" or value != getattr(whole, name):
            lines.append(f"{name} = {_value(value)}")
    lines += [f"unit = {_value(column.unit)}", f"immutable = {_value(column.immutable)}"]
    lines.append(f"monotone = {_value(column.monotone or 'none')}")
    if column.observed:
        told = "  # read off your data: put what is possible, then remove this line" if comments else ""
        lines.append(f"observed = true{told}")
    return lines


def _relation_lines(relation: Relation) -> list[str]:
    sides = {"left": relation.left, "op": relation.op, "right": relation.right}
    return ["[[relation]]", *(f"{key} = {_value(value)}" for key, value in sides.items())]


def _listable(categories: tuple[Any, ...]) -> bool:
    plain = all(isinstance(plain_cell(cell), (str, bool, int, float)) for cell in categories)
    return plain and len(categories) <= MAX_CATEGORIES


def plain_cell(cell: Any) -> Any:
    """Return a numpy scalar as the Python value it holds; all else as it is."""
    return cell.item() if isinstance(cell, np.generic) else cell


def _value(value: Any) -> str:
    """Write one TOML value."""
    value = plain_cell(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value) if abs(value) < 2**63 else repr(float(value))
    if isinstance(value, float):
        if not math.isfinite(value):
            return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
        return repr(value)
    if isinstance(value, str):
        # JSON's escapes are all TOML's; what it leaves of control, direction and invisible characters is escaped here:
        # the file is shown on terminals, and read by people who must see what stands there
        return "".join(_escaped(sign) for sign in json.dumps(value, ensure_ascii=False))
    return f"[{', '.join(_value(item) for item in value)}]"


def _escaped(sign: str) -> str:
    if category(sign) not in _HIDDEN:
        return sign
    return f"\\u{ord(sign):04x}" if ord(sign) < 0x10000 else f"\\U{ord(sign):08x}"


def guess_groups(schema: Schema, rows: np.ndarray) -> tuple[tuple[str, ...], ...]:
    """Return columns ``a_b``, ``a_c`` ... of zeros and ones that sum to one in every row (n, d), the largest first.

    >>> rows = np.array([[1, 0, 3], [0, 1, 4], [1, 0, 5]])
    >>> names = ("ward_a", "ward_b", "ward_days")
    >>> schema = Schema(columns=tuple(Column(name=name, kind="integer") for name in names))
    >>> guess_groups(schema, rows)
    (('ward_a', 'ward_b'),)
    """
    values = np.asarray(rows, np.float64)
    binary = ((values == 0) | (values == 1)).all(0) & (values == 1).any(0)  # False at holes
    prefixes: dict[str, list[int]] = {}
    for i, name in enumerate(schema.names):
        if binary[i]:
            for cut in (k for k, sign in enumerate(name) if sign == "_" and 0 < k < len(name) - 1):
                prefixes.setdefault(name[:cut], []).append(i)
    found: list[list[int]] = []
    for cells in sorted(prefixes.values(), key=lambda cells: (-len(cells), cells)):
        free = not any(i in group for group in found for i in cells)
        if free and len(cells) > 1 and len(values) and bool((values[:, cells].sum(1) == 1).all()):
            found.append(cells)
    return tuple(tuple(schema.names[i] for i in cells) for cells in sorted(found))


def suggest_relations(schema: Schema, rows: np.ndarray) -> list[Relation]:
    """Return ``min_a <= max_a`` and the like where every row (n, d) keeps it; other pairs would be guesses.

    >>> schema = Schema(columns=(Column(name="bp_max", kind="real"), Column(name="bp_min", kind="real")))
    >>> [(r.left, r.right) for r in suggest_relations(schema, np.array([[120.0, 80.0], [90.0, 60.0]]))]
    [(('bp_min',), ('bp_max',))]
    """
    place = {name: i for i, name in enumerate(schema.names)}
    out = []
    for name, (small, large) in itertools.product(schema.names, _PAIRS):
        words = name.split("_")
        for k, word in enumerate(words):
            other = "_".join([*words[:k], large, *words[k + 1 :]])
            if word == small and other in place:
                relation = Relation(left=(name,), op="<=", right=(other,))
                numeric = all(schema.columns[place[n]].kind != "category" for n in (name, other))
                known = ~np.isnan(np.asarray(rows, np.float64)[:, [place[name], place[other]]]).any(1)
                if numeric and known.any() and not relation.broken(lambda n: rows[:, place[n]]).any():
                    out.append(relation)
    return out


# ---- reading ----


def read(path: str | Path) -> SchemaFile:
    """Read a schema file.

    Raises:
        InvalidData: no such file, not TOML, or a key or value that makes no sense; one line that says where.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InvalidData(f"{path.name} is larger than {MAX_BYTES // 10**6} MB: not a schema file")
        text = path.read_text(encoding="utf-8")
    except OSError:
        raise InvalidData(f"no such schema file: {path}") from None
    except UnicodeDecodeError:
        raise InvalidData(f"{path.name} is not UTF-8 text; a schema file is TOML") from None
    return parse(text, place=path.name)


def parse(text: str, *, place: str = "schema") -> SchemaFile:
    r"""Read the text of a schema file; ``place`` stands in messages.

    >>> parse('[[column]]\nname = "age"\nimmutable = true').columns
    {'age': {'immutable': True}}
    """
    try:
        raw = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        told = str(error).splitlines()[0] if str(error) else "nested too deeply"
        raise InvalidData(f"{place} is not TOML: {told}") from None
    top = _Table(place, raw, ("format", "sensitive", "person", "groups", "column", "relation"))
    if (given := raw.get("format", FORMAT)) != FORMAT:
        raise InvalidData(f"{place}: format is {given!r}; this version reads {FORMAT!r}")
    columns: dict[str, Mapping[str, Any]] = {}
    for number, item in enumerate(top.tables("column"), start=1):
        name, fields_ = _column(f"{place}, column {number}", place, item)
        if name in columns:
            raise InvalidData(f"{place}, column {number}: {name!r} is there twice")
        columns[name] = fields_
    groups = top.get("groups", _is_groups, "a list of lists of at least two column names")
    relations = [
        _relation(f"{place}, relation {number}", item)
        for number, item in enumerate(top.tables("relation"), start=1)
    ]
    sensitive = top.get("sensitive", _is_names, "a list of column names")
    return SchemaFile(
        place=place,
        columns=columns,
        groups=None if groups is None else tuple(tuple(group) for group in groups),
        relations=tuple(relations) if relations else None,
        sensitive=None if sensitive is None else tuple(sensitive),
        person=top.get("person", _is_text, "a column name"),
    )


@dataclass(frozen=True)
class _Table:
    """A TOML table whose keys are known; ``place`` stands in every message."""

    place: str
    raw: Mapping[str, Any]
    keys: tuple[str, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.raw, dict):
            raise InvalidData(f"{self.place}: expected a table of keys; got {self.raw!r:.60}")
        for key in self.raw:
            if key not in self.keys:
                raise InvalidData(f"{self.place}: unknown key {key!r}; {_nearest(key, self.keys)}")

    def get(self, key: str, fits: Callable[[Any], bool], wanted: str) -> Any:
        """Return the value of a key, or None where it is not there."""
        value = self.raw.get(key)
        if value is not None and not fits(value):
            raise InvalidData(f"{self.place}: {key} must be {wanted}; got {value!r:.80}")
        return value

    def tables(self, key: str) -> list[Any]:
        """Return the tables written as ``[[key]]``."""
        found = self.raw.get(key, [])
        if not isinstance(found, list):
            raise InvalidData(f"{self.place}: write each {key} as [[{key}]]")
        return found


def _column(place: str, file: str, item: Any) -> tuple[str, dict[str, Any]]:
    table = _Table(
        place,
        item,
        ("name", "kind", "categories", "low", "high", "spread", "unit", "immutable", "monotone", "observed"),
    )
    name = table.get("name", _is_text, "text")
    if name is None:
        raise InvalidData(f"{place}: it has no name")
    table = replace(table, place=f"{file}, column {name!r}")
    out: dict[str, Any] = {
        "kind": table.get("kind", _KINDS.__contains__, "'real', 'integer' or 'category'"),
        "categories": table.get(
            "categories", _is_categories, "a list of different texts, numbers or true/false"
        ),
        "low": table.get("low", _is_number, "a number"),
        "high": table.get("high", _is_number, "a number"),
        "spread": table.get("spread", lambda v: _is_number(v) and 0 <= v < math.inf, "a number, 0 or more"),
        "unit": table.get("unit", _is_text, "text"),
        "immutable": table.get("immutable", lambda v: isinstance(v, bool), "true or false"),
        "monotone": table.get("monotone", _ONE_WAY.__contains__, "'none', 'increasing' or 'decreasing'"),
        "observed": table.get("observed", lambda v: isinstance(v, bool), "true or false"),
    }
    out = {key: value for key, value in out.items() if value is not None}
    for key in ("low", "high", "spread"):
        if key in out:
            out[key] = float(out[key])
    if out.get("low", -math.inf) > out.get("high", math.inf):
        raise InvalidData(f"{table.place}: low {out['low']:g} is above high {out['high']:g}")
    if "categories" in out:
        out["categories"] = tuple(out["categories"])
    if "monotone" in out:
        out["monotone"] = None if out["monotone"] == "none" else out["monotone"]
    return name, out


def _relation(place: str, item: Any) -> Relation:
    table = _Table(place, item, ("left", "op", "right"))
    sides = [table.get(side, _is_names, "a list of column names") for side in ("left", "right")]
    op = table.get("op", ("<=", "==").__contains__, "'<=' or '=='")
    if not sides[0] or not sides[1] or op is None:
        raise InvalidData(f"{place}: it needs left, op and right, with a column on each side")
    return Relation(left=tuple(sides[0]), op=op, right=tuple(sides[1]))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_groups(value: Any) -> bool:
    return isinstance(value, list) and all(_is_names(g) and len(g) == len(set(g)) >= 2 for g in value)


def _is_categories(value: Any) -> bool:
    if not isinstance(value, list) or not all(isinstance(cell, (str, bool, int, float)) for cell in value):
        return False
    return len({(type(cell) is str, cell) for cell in value}) == len(value)


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(map(repr, names[:20]))}"


# ---- putting both together ----


def merge(inferred: Schema, file: SchemaFile, *, ignore: Iterable[str] = ()) -> Schema:
    r"""Return the schema of the data with what the file says about it.

    Args:
        inferred: from :meth:`Schema.infer`.
        file: from :func:`read`.
        ignore: columns the file may describe although the model does not see them: the label, say.

    Raises:
        InvalidData: a column that the data lacks (with the nearest name), a kind that its values are not, or
            bounds that cross.

    >>> inferred = Schema.infer(np.array([[30.0], [41.0]]))
    >>> file = parse('[[column]]\nname = "x0"\nkind = "integer"\nhigh = 110')
    >>> merge(inferred, file).columns[0].high
    110.0
    """
    hidden = {*ignore, *([file.person] if file.person is not None else [])}
    changes: dict[str, Mapping[str, Any]] = {}
    for name, said in file.columns.items():
        if name not in hidden:
            _known(file.place, "column", name, inferred)
            column = inferred.columns[inferred.names.index(name)]
            changes[name] = _checked(f"{file.place}, column {name!r}", column, said)
    for what, names in _named(file):
        for name in names:
            _known(file.place, what, name, inferred)
    over: dict[str, Any] = {
        key: getattr(file, key)
        for key in ("groups", "relations", "sensitive", "person")
        if getattr(file, key) is not None
    }
    return replace(inferred.with_columns(changes), **over)


def _named(file: SchemaFile) -> Iterable[tuple[str, tuple[str, ...]]]:
    yield "sensitive", file.sensitive or ()
    for number, group in enumerate(file.groups or (), start=1):
        yield f"group {number}", group
    for number, relation in enumerate(file.relations or (), start=1):
        yield f"relation {number}", (*relation.left, *relation.right)


def _known(place: str, what: str, name: str, schema: Schema) -> None:
    if name not in schema.names:
        raise InvalidData(f"{place}, {what}: the data has no column {name!r}; {_nearest(name, schema.names)}")


def _checked(place: str, column: Column, said: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what may be said about a column, whose values the data shows."""
    kind = said.get("kind", column.kind)
    if (kind == "category") != (column.kind == "category"):
        holds = "text" if column.kind == "category" else "numbers"
        raise InvalidData(
            f"{place}: kind is {kind!r}, but the data holds {holds}; convert the data or change kind"
        )
    if kind == "category":
        for key in ("low", "high"):
            if key in said and said[key] != getattr(column, key):
                raise InvalidData(f"{place}: a category has no {key}; remove that line")
    elif "categories" in said:
        raise InvalidData(f"{place}: only a category has categories; this column holds numbers")
    # only what is stated makes a column no longer observed, not the word alone
    said = {key: value for key, value in said.items() if key != "observed" or value}
    if "categories" in said:
        listed = tuple(said["categories"])
        # what the data holds exists, listed or not: a file made of the training rows may lack a rare one
        more = tuple(cell for cell in column.categories if plain_cell(cell) not in listed)
        said["categories"] = (*listed, *more)
        if more:  # then the data has its say in them
            said["observed"] = True
    low, high = said.get("low", column.low), said.get("high", column.high)
    if low > high:
        raise InvalidData(f"{place}: low {low:g} is above high {high:g} (one of them comes from the data)")
    return said
