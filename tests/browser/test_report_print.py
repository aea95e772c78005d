# SPDX-License-Identifier: Apache-2.0
"""Pages on paper: what the printed file itself says of where each chart and table lies, on A4 and on Letter."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest
from browser.driver import Browser

pytestmark = pytest.mark.slow

PAPERS = {"A4": (210 / 25.4, 297 / 25.4), "Letter": (8.5, 11)}  # inches
MARGIN = 0.4  # inches, the browser's own
# Put each chart and table inside a link, so that the printed file names its pages and its places on them. Returns the
# height over the width of each chart.
MARK = """(() => {
    const inside = (e, name) => { const a = document.createElement('a'); a.href = 'http://mark.invalid/' + name;
        a.style.display = 'block'; e.replaceWith(a); a.append(e); };
    const charts = [...document.querySelectorAll('svg[role=img]')];
    const tables = [...document.querySelectorAll('table, pre')].filter(e => !e.closest('svg'));
    const shapes = charts.map(e => e.viewBox.baseVal.height / e.viewBox.baseVal.width);
    charts.forEach((e, i) => {
        const [a, box] = ['a', 'rect'].map(tag => document.createElementNS('http://www.w3.org/2000/svg', tag));
        a.setAttribute('href', 'http://mark.invalid/chart-' + i);
        for (const side of ['width', 'height']) box.setAttribute(side, '100%');
        box.style.fill = 'transparent'; a.append(box); e.append(a); });
    tables.forEach((e, i) => inside(e, 'table-' + i));
    const ruler = document.createElement('p');  // 480 px are 5 inches, unless the browser shrinks a page too wide
    Object.assign(ruler.style, {width: '480px', height: '8px'});
    document.querySelector('h1').after(ruler); inside(ruler, 'ruler');
    ruler.parentElement.style.width = '480px';
    return [shapes, tables.length] })()"""


@dataclass(frozen=True)
class Place:
    """A part of something on one page, in points from the lower left corner."""

    page: int
    left: float
    bottom: float
    right: float
    top: float


@dataclass(frozen=True)
class Printed:
    sizes: list[tuple[float, float]]  # of the pages, in points
    places: dict[str, list[Place]]


def read(pdf: bytes) -> Printed:
    """Read from a file of chromium's where its links lie: page and link objects are plain text there."""
    objects = {int(m[1]): m[2] for m in re.finditer(rb"(?s)(\d+) 0 obj\n(.*?)\nendobj", pdf)}
    sizes, places = [], defaultdict(list)
    for body in objects.values():
        if re.match(rb"<</Type /Page\b", body) is None:
            continue
        box = re.search(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", body)
        assert box is not None
        held = re.search(rb"/Annots \[([^\]]*)\]", body)
        for number in re.findall(rb"(\d+) 0 R", held[1]) if held else ():
            link = objects[int(number)]
            name = re.search(rb"/URI \(http://mark\.invalid/([\w-]+)\)", link)
            rect = re.search(rb"/Rect \[([-\d. ]+)\]", link)
            if name and rect:
                left, bottom, right, top = map(float, rect[1].split())
                places[name[1].decode()].append(Place(len(sizes), left, bottom, right, top))
        sizes.append((float(box[1]), float(box[2])))
    return Printed(sizes, dict(places))


def printed(browser: Browser, paper: str) -> Printed:
    width, height = PAPERS[paper]
    return read(browser.pdf(paperWidth=width, paperHeight=height, printBackground=False))


def cut(found: Printed, shapes: list[float]) -> list[str]:
    """Say which charts are not whole on one page."""
    bad = []
    for i, shape in enumerate(shapes):
        parts = found.places.get(f"chart-{i}", [])
        if len(parts) != 1:
            bad.append(f"chart {i} is on {len(parts)} pages")
            continue
        (part,) = parts
        whole = (part.right - part.left) * shape
        if abs((part.top - part.bottom) - whole) > 2:
            bad.append(f"chart {i} is {part.top - part.bottom:.0f} points high of {whole:.0f}")
    return bad


def outside(found: Printed) -> list[str]:
    """Say what does not lie between the margins of its page."""
    edge = MARGIN * 72 - 2
    (ruler,) = found.places["ruler"]
    shrunk = (ruler.right - ruler.left) / (5 * 72)
    wide = (
        [] if shrunk > 0.99 else [f"the page is printed at {shrunk:.0%} of its size: something is too wide"]
    )
    return wide + [
        f"{name} on page {part.page}: {part}"
        for name, parts in found.places.items()
        for part in parts
        if part.left < edge
        or part.right > found.sizes[part.page][0] - edge
        or part.bottom < edge
        or part.top > found.sizes[part.page][1] - edge
    ]


@pytest.mark.parametrize(("paper", "lang"), [("A4", "en"), ("Letter", "zh-CN")])
def test_no_chart_is_cut_and_no_table_leaves_the_paper(
    browser: Browser, page: Path, paper: str, lang: str
) -> None:
    browser.open(page, lang=lang)
    shapes, tables = browser.value(MARK)
    found = printed(browser, paper)
    for size in found.sizes:
        assert size == pytest.approx([72 * side for side in PAPERS[paper]], abs=1)
    assert 2 <= len(found.sizes) <= 80
    # the closed parts are printed too: what is in no part is on no page
    assert {f"table-{i}" for i in range(tables)} <= set(found.places)
    assert tables >= 5
    assert cut(found, shapes) == []
    assert outside(found) == []


def test_the_reading_of_paper_sees_what_is_cut(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["report"])
    shapes, _ = browser.value(MARK)
    figure = "document.querySelector('figure').style"
    browser.value(f"{figure}.marginLeft = '-1cm'")
    assert any(
        line.startswith("chart 0 is") for line in cut(printed(browser, "A4"), shapes)
    )  # the margin cuts it
    browser.value(f"{figure}.marginLeft = ''; document.querySelector('table').style.width = '900px'")
    assert any("too wide" in line for line in outside(printed(browser, "A4")))
    browser.value("document.querySelector('table').style.width = ''")
    found = printed(browser, "A4")
    assert (cut(found, shapes), outside(found)) == ([], [])
    browser.value(
        "Object.assign(document.querySelector('figure').style, {height: '60px', overflow: 'hidden'})"
    )
    assert any(line.startswith("chart 0 is") for line in cut(printed(browser, "A4"), shapes))
    # taller than a page, no chart is whole
    browser.value(
        """document.querySelectorAll('figure > svg').forEach(e => { e.setAttribute('preserveAspectRatio', 'none');
        e.style.height = '80cm' })"""
    )
    assert len(cut(printed(browser, "A4"), shapes)) == len(shapes)


def test_paper_is_light_and_carries_no_controls(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.media("print", "dark")
    assert browser.value("getComputedStyle(document.body).backgroundColor") in (
        "rgb(255, 255, 255)",
        "rgba(0, 0, 0, 0)",
    )
    assert (
        browser.value("[...document.querySelectorAll('nav')].filter(e => e.getClientRects().length).length")
        == 0
    )
    browser.size(round((PAPERS["A4"][0] - 2 * MARGIN) * 96), 1000)
    over = browser.value(
        """[...document.querySelectorAll('.scroll, figure, .box')].filter(e => e.scrollWidth > e.clientWidth + 1)
        .map(e => e.outerHTML.slice(0, 120))"""
    )
    assert over == []  # nothing can be scrolled there: what is too wide would lie over its neighbour
