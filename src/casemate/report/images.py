# SPDX-License-Identifier: Apache-2.0
"""Examples of an attack on images, side by side: the original, the change made visible, and what the model then saw.

The pictures come as bytes in a Table of a report, which may come from anywhere: what is not exactly what its size says,
or too large, is not drawn. They are drawn as PNG inside the SVG, so that a page stays one file and asks for nothing.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from casemate.core.types import Table
from casemate.report import words
from casemate.report.catalogue import Both, both
from casemate.report.charts import WIDTH, Chart, px, text
from casemate.report.sides import sentences

PICTURES = "pictures"
COLUMNS = (
    "predicted before",
    "predicted after",
    "distance",
    "size",
    "original",
    "changed",
    "difference",
    "times",
)
MOST, BYTES = 3, 24_000  # examples of one report, and bytes of their pictures in a page
_SIDE, _GAP, _LARGEST = 104.0, 14.0, 32


@dataclass(frozen=True)
class Example:
    """One image that was changed: what the model called it, how far it was moved, and three pictures as PNG."""

    before: str
    after: str
    distance: float | None
    times: float | None
    shown: tuple[bytes, ...]  # original, difference, changed


def chart(table: Table, method: str) -> Chart | None:
    """Draw the examples of a table, as many as fit; None where it holds none."""
    kept: list[Example] = []
    room = BYTES
    for example in _examples(table):
        room -= sum(len(png) * 4 // 3 for png in example.shown)
        if room >= 0 and len(kept) < MOST:
            kept.append(example)
    if not kept:
        return None
    heads = [both(f"chart.picture_{name}") for name in ("original", "difference", "changed")]
    parts = [
        text(_left(i) + _SIDE / 2, 11, head, anchor="middle", room=_SIDE + 10, kind="name")
        for i, head in enumerate(heads)
    ]
    y = 18.0
    for k, example in enumerate(kept, 1):
        parts += [_image(png, _left(i), y) for i, png in enumerate(example.shown)]
        parts.append(text(0, y + _SIDE + 14, _told(k, example), room=WIDTH, kind="label"))
        y += _SIDE + 26
    return Chart(
        title=both("chart.pictures", method=words.title(method)),
        guide=both("chart.pictures_about"),
        says=sentences([_said(k, example) for k, example in enumerate(kept, 1)]),
        height=y,
        body="".join(parts),
    )


def _told(k: int, example: Example) -> Both:
    names = {"before": words.visible(example.before, 40), "after": words.visible(example.after, 40)}
    return both("chart.picture", k=str(k), **names)


def _said(k: int, example: Example) -> Both:
    names = {"before": words.visible(example.before, 40), "after": words.visible(example.after, 40)}
    sizes = {"distance": words.number(example.distance), "times": words.number(example.times)}
    return both("chart.picture_says", k=str(k), **names, **sizes)


def _left(place: int) -> float:
    return place * (_SIDE + _GAP)


def _image(png: bytes, x: float, y: float) -> str:
    place = f'x="{px(x)}" y="{px(y)}" width="{px(_SIDE)}" height="{px(_SIDE)}"'
    data = base64.b64encode(png).decode()
    return f'<image {place} image-rendering="pixelated" href="data:image/png;base64,{data}"/>'


def _examples(table: Table) -> Iterator[Example]:
    if table.columns[: len(COLUMNS)] != COLUMNS:
        return
    for row in table.rows[: 2 * MOST]:
        before, after, distance, size, *coded, times = row[: len(COLUMNS)]
        found = [_png(size, one) for one in coded]
        if all(found):
            original, changed, difference = (one for one in found if one)
            shown = (original, difference, changed)
            yield Example(str(before), str(after), _number(distance), _number(times), shown)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _png(size: Any, coded: Any) -> bytes | None:
    """Return pixels in base64 as PNG; None for what is not as large as it says, or larger than a report draws."""
    named = re.fullmatch(r"([13])x(\d{1,2})x(\d{1,2})", size, re.ASCII) if isinstance(size, str) else None
    if named is None or not isinstance(coded, str) or len(coded) > 3 * _LARGEST**2 * 4 // 3 + 4:
        return None
    channels, height, width = map(int, named.groups())
    try:
        pixels = base64.b64decode(coded, validate=True)
    except (binascii.Error, ValueError):
        return None
    fits = 1 <= height <= _LARGEST and 1 <= width <= _LARGEST and len(pixels) == channels * height * width
    return png(pixels, channels, height, width) if fits else None


def png(pixels: bytes, channels: int, height: int, width: int) -> bytes:
    """Write channels x rows x columns as a PNG, grey or coloured with eight bits a channel (ISO/IEC 15948).

    >>> png(bytes(4), 1, 2, 2)[1:4]
    b'PNG'
    """
    plane = height * width
    mixed = bytes(pixels[c * plane + i] for i in range(plane) for c in range(channels))
    line = width * channels
    rows = b"".join(b"\0" + mixed[r * line : (r + 1) * line] for r in range(height))  # 0: no filter
    head = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    chunks: Sequence[tuple[bytes, bytes]] = (
        (b"IHDR", head),
        (b"IDAT", zlib.compress(rows, 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
