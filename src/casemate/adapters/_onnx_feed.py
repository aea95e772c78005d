# SPDX-License-Identifier: Apache-2.0
"""How encoded rows reach the inputs of an ONNX model: as one tensor, or column by column as skl2onnx wants them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from casemate.adapters._onnx_model import Port
from casemate.core.errors import InvalidData
from casemate.core.extras import lazy
from casemate.core.schema import Column, Schema
from casemate.core.types import shortened

torch = lazy("torch")
_NUMBERS = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "bool")


@dataclass(frozen=True, kw_only=True)
class Feed:
    """Rows of the schema as inputs of the graph.

    ``whole``: the rows are one tensor; ``last``: images whose channels come last; ``words``: one tensor of texts;
    ``columns``: one input a column, ``places`` says which.
    """

    ports: tuple[Port, ...]
    form: Literal["whole", "last", "words", "columns"]
    columns: tuple[Column, ...] = ()
    places: tuple[int, ...] = ()
    caveats: tuple[str, ...] = ()

    @property
    def batch(self) -> int | None:
        """Rows that the graph takes at once, where it was exported for a fixed number."""
        shape = self.ports[0].shape
        return shape[0] if shape else None

    @property
    def differentiable(self) -> bool:
        """Whether the rows reach the graph as numbers, so that a gradient can come back."""
        return all(port.dtype in _NUMBERS for port in self.ports) and not any(map(self._named, self.places))

    def _named(self, place: int) -> bool:
        return self.columns[place].kind == "category"

    def arrays(self, x: Any) -> dict[str, np.ndarray]:
        """Return the inputs by name for some rows."""
        first = self.ports[0]
        if self.form == "words":
            if self.columns:  # a table of which every cell is text
                cells = [_texts(column, x[:, i]) for i, column in enumerate(self.columns)]
                return {first.name: np.stack(cells, 1)}
            texts = np.array(list(x), dtype=object)
            return {
                first.name: texts[:, None] if first.shape is not None and len(first.shape) == 2 else texts
            }
        if self.form != "columns":
            rows = np.moveaxis(x, 1, -1) if self.form == "last" else x
            return {first.name: _numbers(rows, first.dtype)}
        found = {}
        for port, place in zip(self.ports, self.places, strict=True):
            column, codes = self.columns[place], x[:, place]
            value = (
                _texts(column, codes) if port.dtype == "str" else _numbers(_values(column, codes), port.dtype)
            )
            found[port.name] = value[:, None] if port.shape is None or len(port.shape) == 2 else value
        return found

    def tensors(self, x: Any) -> dict[str, Any]:
        """Return the inputs by name for a float tensor of rows; numbers stay floats, so that gradients pass."""
        if self.form == "last":
            return {self.ports[0].name: x.movedim(1, -1)}
        if self.form == "whole":
            return {self.ports[0].name: x}
        return {
            port.name: x[:, [place]] if port.shape is None or len(port.shape) == 2 else x[:, place]
            for port, place in zip(self.ports, self.places, strict=True)
        }


def plan(ports: Sequence[Port], schema: Schema, shape: tuple[int, ...]) -> Feed:
    """Agree the inputs of a graph with a schema; ``shape`` is that of some encoded rows.

    Raises:
        InvalidData: inputs that the data cannot fill.
    """
    if strange := [port for port in ports if port.dtype not in (*_NUMBERS, "str")]:
        raise InvalidData(
            f"input {strange[0].name!r} of the ONNX model takes {strange[0].dtype}, which is not fed here"
        )
    told = ", ".join(f"{port.name} {port.dtype}{_shown(port.shape)}" for port in ports)
    if schema.input == "text":
        if len(ports) == 1 and ports[0].dtype == "str":
            return Feed(ports=tuple(ports), form="words")
        raise InvalidData(
            f"this data is text, the ONNX model takes {told}; wrap a predict function that tokenises"
        )
    if len(ports) == 1:
        return _one(ports[0], schema, shape)
    if schema.input != "table":
        raise InvalidData(f"the ONNX model takes {told}; images need a model of one input")
    by_name = {column.name: i for i, column in enumerate(schema.columns)}
    wide = [
        port for port in ports if port.shape is not None and (len(port.shape) > 2 or port.shape[1:] > (1,))
    ]
    if wide or {port.name for port in ports} != set(by_name):
        raise InvalidData(
            f"the ONNX model takes {shortened([port.name for port in ports])}, the columns are "
            f"{shortened(schema.names)}; it must have one tensor of all columns, or one input a column of the same name"
        )
    places = tuple(by_name[port.name] for port in ports)
    for port, place in zip(ports, places, strict=True):
        column = schema.columns[place]
        if (port.dtype == "str") != (column.kind == "category" and not _numeric(column)):
            what = "text" if port.dtype == "str" else port.dtype
            raise InvalidData(
                f"column {column.name!r} is {column.kind}, but the ONNX model takes it as {what}"
            )
    return Feed(ports=tuple(ports), form="columns", columns=schema.columns, places=places)


def _one(port: Port, schema: Schema, shape: tuple[int, ...]) -> Feed:
    """Agree a graph of one input with a table or with images."""
    caveats = []
    wanted = port.shape
    what = f"the ONNX model takes {port.name!r} {port.dtype}{_shown(wanted)}"
    if port.dtype == "str":
        if schema.input == "table" and len(schema.columns) == (
            wanted[-1] if wanted and wanted[-1] else shape[1]
        ):
            return Feed(ports=(port,), form="words", columns=schema.columns)
        raise InvalidData(f"{what}, encoded rows have shape {_shown((None, *shape[1:]))}")
    form: Literal["whole", "last"] = "whole"
    if not _fits(wanted, shape):
        turned = (shape[0], *shape[2:], shape[1])
        if schema.input != "image" or not _fits(wanted, turned):
            raise InvalidData(
                f"{what}, encoded rows have shape {_shown((None, *shape[1:]))}; give it the columns or "
                "image size it was exported for"
            )
        form = "last"
        caveats.append("the model takes images with channels last: they are turned for it")
    if port.dtype not in ("float16", "float32", "float64"):
        caveats.append(f"the model takes {port.dtype}: other values are rounded to it")
    if coded := [column.name for column in schema.columns if not _codes_are_values(column)]:
        caveats.append(
            f"categories reach the model as codes 0, 1, ... in the order of the schema: {shortened(coded)}"
        )
    return Feed(ports=(port,), form=form, caveats=tuple(caveats))


def _fits(wanted: tuple[int | None, ...] | None, shape: tuple[int, ...]) -> bool:
    if wanted is None:
        return True
    return len(wanted) == len(shape) and all(
        w in (None, s) for w, s in zip(wanted[1:], shape[1:], strict=True)
    )


def _shown(shape: tuple[int | None, ...] | None) -> str:
    return "" if shape is None else f"({', '.join('n' if size is None else str(size) for size in shape)})"


def _numeric(column: Column) -> bool:
    return all(isinstance(value, (bool, int, float, np.number, np.bool_)) for value in column.categories)


def _codes_are_values(column: Column) -> bool:
    if column.kind != "category":
        return True
    return _numeric(column) and [float(value) for value in column.categories] == list(
        range(len(column.categories))
    )


def _values(column: Column, codes: np.ndarray) -> np.ndarray:
    """Return the numbers of a column; codes of numeric categories become those numbers."""
    if column.kind != "category" or _codes_are_values(column):
        return codes
    hole = np.isnan(codes)
    known = np.array([float(value) for value in column.categories])
    return np.where(hole, np.nan, known[np.where(hole, 0, codes).astype(np.int64)])


def _texts(column: Column, codes: np.ndarray) -> np.ndarray:
    """Return the cells of a column as text (n,)."""
    if np.isnan(codes).any():
        raise InvalidData(
            f"column {column.name!r} has missing cells and the ONNX model takes text; fill them before it"
        )
    if column.kind != "category":
        whole = (codes == np.round(codes)).all()
        return np.array([str(int(value)) if whole else str(value) for value in codes.tolist()], dtype=object)
    return np.array([str(column.categories[int(code)]) for code in codes], dtype=object)


def _numbers(rows: np.ndarray, dtype: str) -> np.ndarray:
    """Return rows in the dtype of an input; whole numbers are rounded to, never wrapped around."""
    wanted = np.dtype(dtype)
    if rows.dtype == wanted or wanted.kind == "f":
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(rows, wanted)
    if not np.isfinite(rows).all():
        raise InvalidData(
            f"the ONNX model takes {dtype}, and the rows hold NaN or infinity; fill missing cells before it"
        )
    if wanted.kind == "b":
        return np.ascontiguousarray(rows != 0)
    ends = np.iinfo(wanted)
    return np.ascontiguousarray(np.clip(np.round(rows), ends.min, ends.max).astype(wanted))
