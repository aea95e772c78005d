# SPDX-License-Identifier: Apache-2.0
"""Examples of attacks on images: what a report keeps of them, what a page draws, and what a hostile table cannot do."""

from __future__ import annotations

import base64
import re
import struct
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from drawings import parsed, report, row

import casemate as cm
from casemate.core import evasion, evidence
from casemate.core.methods import Card
from casemate.core.run import Run
from casemate.core.schema import Schema
from casemate.core.types import LABELS, Table
from casemate.report import figures, images
from casemate.report.catalogue import as_is
from casemate.report.charts import Chart
from casemate.report.sides import Sides

THREAT = cm.Threat(norm="linf", radius=0.5, scale="raw")


def read_png(data: bytes) -> np.ndarray:
    """An independent reader of plain PNG files: (rows, columns, channels); checks every checksum."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, place = {}, 8
    while place < len(data):
        (size,) = struct.unpack(">I", data[place : place + 4])
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + size]
        assert struct.unpack(">I", data[place + 8 + size : place + 12 + size])[0] == zlib.crc32(kind + body)
        chunks[kind], place = body, place + 12 + size
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, rest, list(chunks)) == (8, [0, 0, 0], [b"IHDR", b"IDAT", b"IEND"])
    channels = {0: 1, 2: 3}[colour]
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + width * channels)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape(height, width, channels)


def shown(chart: Chart) -> list[np.ndarray]:
    codes = [str(e.attrib["href"]) for e in parsed(chart).iter("image")]
    assert all(code.startswith("data:image/png;base64,") for code in codes)
    return [read_png(base64.b64decode(code.partition(",")[2])) for code in codes]


def table_of(before: np.ndarray, after: np.ndarray, bounds: tuple[float, float] = (0.0, 1.0)) -> Table:
    called = [("cat", "dog")] * len(before)
    schema = Schema(input="image", bounds=bounds)
    return evidence.pictures(before, after, called, np.full(len(before), 0.25), schema)


def drawn(table: Table, **more: Any) -> list[Chart]:
    made = report(row("robust_accuracy", table, method="pgd", prop="robustness", **more))
    found = figures.drawn(Sides.of("robustness", (made,), (as_is("Value"),)))
    return [chart for chart in found if "<image" in chart.body]


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.0, 255.0), (-2.0, 2.0)])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_pixel_is_where_it_was_and_the_change_is_as_strong_as_told(channels: int, bounds: Any) -> None:
    rng = np.random.default_rng(0)
    low, high = bounds
    before = low + (high - low) * rng.random((2, channels, 4, 7))
    after = before.copy()
    after[0, 0, 1, 5] = low if before[0, 0, 1, 5] > (low + high) / 2 else high
    table = table_of(before, after, bounds)
    (chart,) = drawn(table)
    first, change, last = shown(chart)[:3]
    scaled = 255 * (np.moveaxis(before[0], 0, 2) - low) / (high - low)
    assert first.shape == (4, 7, channels)
    assert np.abs(first - scaled).max() <= 0.51
    moved = last.astype(int) - first.astype(int)
    assert np.argwhere(moved).tolist() == [[1, 5, 0]]
    assert np.argwhere(change != 128).tolist() == [[1, 5, 0]]
    times = float(table.rows[0][-1] or 0)
    assert int(change[1, 5, 0]) - 128 == pytest.approx(times * moved[1, 5, 0], abs=1.5)
    assert f"drawn {times:.4g} times as strong" in chart.says["en"]
    assert "called cat before and dog after a change of size 0.25" in chart.says["en"]


def test_large_and_many_channelled_images_are_made_small() -> None:
    before = np.random.default_rng(0).random((3, 4, 224, 200))
    table = table_of(before, before[:, :, ::-1])
    (chart,) = drawn(table)
    assert table.rows[0][3] == "1x32x29"
    kept = shown(chart)[0][:, :, 0]
    assert np.abs(kept - 255 * before[0].mean(0)[::7, ::7]).max() <= 0.51


def test_pictures_of_a_page_stay_within_their_budget() -> None:
    before = np.random.default_rng(0).random((3, 3, 64, 64))
    table = table_of(before, np.random.default_rng(1).random((3, 3, 64, 64)))
    made = report(
        *(row("robust_accuracy", table, method=name, prop="robustness") for name in ("pgd", "x", "y"))
    )
    names = as_is("Before"), as_is("After")
    for reports in ((made,), (made, made), (made, made, made)):
        sides = Sides.of("robustness", reports, (*names, *names)[: len(reports)])
        found = [chart for chart in figures.drawn(sides) if "<image" in chart.body]
        assert len(found) == min(2, len(reports))
        assert 10_000 < sum(len(chart.svg("here")) for chart in found) < 60_000


GOOD = ("cat", "dog", 0.1, "1x2x2", *[base64.b64encode(bytes(4)).decode()] * 3, 5.0)


def hostile(place: int, value: Any) -> Table:
    cells = [*GOOD]
    cells[place] = value
    return Table(name="pictures", columns=images.COLUMNS, rows=(tuple(cells),))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (3, "1x2x3"), (3, "1x99x99"), (3, "3x2x2"), (3, "1x0x4"), (3, "2x1x2"), (3, "1x2x2x1"), (3, None), (3, 4),
        (3, "\u0661x2x2"), (4, "A" * 10_000_000), (4, "<script>"), (4, "<>" + GOOD[4]), (4, '"/><script>'), (5, ""),
        (5, "AAAA"), (6, None), (6, 7), (6, "\u00e9AAAAA=="),
    ],
)  # fmt: skip
def test_what_is_not_as_large_as_it_says_is_not_drawn(place: int, value: Any) -> None:
    assert drawn(hostile(place, GOOD[place])), "the control is drawn"
    assert drawn(hostile(place, value)) == []


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "\u202e" * 500, "\x1b[31m", "a" * 9999])
def test_names_and_numbers_of_a_hostile_table_are_shown_and_never_obeyed(name: str) -> None:
    for table in (
        hostile(0, name),
        hostile(1, name),
        hostile(2, name),
        hostile(7, float("inf")),
        hostile(7, True),
    ):
        (chart,) = drawn(table)
        text = chart.svg("here") + chart.says["en"]
        assert not re.search("[\u202e\x1b]|<script", chart.svg("here"))
        assert len(text) < 5000
        assert {e.tag for e in parsed(chart).iter()} == {"svg", "text", "image"}


def test_a_table_of_another_form_is_no_picture() -> None:
    good = hostile(0, "cat")
    assert drawn(replace(good, columns=("a",) * 8)) == []
    assert drawn(replace(good, rows=())) == []
    assert drawn(replace(good, rows=((1, 2),))) == []
    assert len(shown(drawn(replace(good, rows=good.rows * 500))[0])) == 3 * images.MOST


# ---------------------------------------------------------------------- in an audit


def attacked(*, records: bool) -> Any:
    rng = np.random.default_rng(0)
    x = rng.random((20, 1, 5, 5))
    y = (x[:, 0, 0, 0] > 0.5).astype(int)
    moved = x.copy()
    moved[:, 0, 0, 0] = 1 - moved[:, 0, 0, 0]
    card = Card(
        name="made", property="robustness", kind="evasion", needs=frozenset({LABELS}), cost="", title={},
        reference="", quantities=evasion.QUANTITIES, inputs=frozenset({"image"}),
    )  # fmt: skip

    def corner(images: np.ndarray) -> np.ndarray:
        return (images[:, 0, 0, 0] > 0.5).astype(int)

    target, data = cm.wrap(corner, outputs="labels").bind(cm.Dataset(train=(x, y), holdout=(x, y)))
    run = Run(card=card, threat=THREAT, show_records=records)
    found = evasion.measure(card, target, data, run, attack=lambda few: moved)[0]
    return x, moved, [d for d in found.details if isinstance(d, Table) and d.name == "pictures"]


def test_the_nearest_examples_are_kept_and_only_on_demand() -> None:
    assert attacked(records=False)[2] == []
    x, _, (table,) = attacked(records=True)
    steps = np.abs(2 * x[:, 0, 0, 0] - 1)
    within = np.sort(steps[steps <= 0.5])
    assert [line[2] for line in table.rows] == pytest.approx(within[:3], rel=1e-3)
    assert all(line[0] != line[1] for line in table.rows)
    nearest = int(np.argmin(steps))
    first = shown(drawn(table)[0])[0][:, :, 0]
    assert np.abs(first - 255 * x[nearest, 0]).max() <= 0.51


def test_a_public_edition_holds_no_picture() -> None:
    _, _, (table,) = attacked(records=True)
    made = report(row("robust_accuracy", table, method="pgd", prop="robustness", worse="lower")).public()
    (found,) = made.measurements
    assert found.value is not None and found.details == ()
    assert "base64" not in made.to_json() and str(table.rows[0][4]) not in made.to_json()
