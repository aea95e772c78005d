# SPDX-License-Identifier: Apache-2.0
"""axe-core on every kind of page: no violation of any of its rules, and what it cannot judge is judged here."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from browser.driver import Browser, contrast

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parent / "axe"
# What axe leaves open: the contrast of text in a picture, for it does not know what lies behind (judged below), and of
# text that its scrolling table clips (judged in test_report_settings.py); and in tables with a heading over a group of
# rows, whether each heading heads a cell (judged below). Anything else that it leaves open is looked into.
JUDGE = """axe.run(document, {resultTypes: ['violations', 'incomplete'] RULES}).then(found => JSON.stringify({
    violations: found.violations.map(rule => [rule.id, rule.nodes.slice(0, 3).map(node => node.html.slice(0, 160))]),
    open: found.incomplete.flatMap(rule => rule.nodes.filter(node => rule.id !== 'color-contrast' ||
        !document.querySelector(node.target.join(' ')).closest('svg, .scroll')).filter(node =>
        rule.id !== 'th-has-data-cells' || !document.querySelector(node.target.join(' ') + ' th[scope=rowgroup]'))
        .map(node => [rule.id, node.html.slice(0, 160)])),
    passes: found.passes.length}))"""
OPEN_ALL = "document.querySelectorAll('details').forEach(e => e.open = true)"


@pytest.fixture(scope="module")
def axe() -> str:
    if not FOLDER.is_dir():
        pytest.skip("axe-core is not in this copy: it comes with the repository, not with a release")
    return (FOLDER / "axe.min.js").read_text("utf-8")


def judged(browser: Browser, axe: str, only: str = "") -> dict[str, Any]:
    """Return what axe says of the page with every part open; best practices are among its rules."""
    if not browser.value("Boolean(window.axe)"):
        browser.value(OPEN_ALL)
        browser.value(axe + "\n;0")
    rules = f", runOnly: ['{only}']" if only else ""
    return dict(json.loads(browser.value(JUDGE.replace(" RULES", rules))))


def test_axe_core_is_the_file_its_readme_names(axe: str) -> None:
    told = (FOLDER / "README.md").read_text("utf-8")
    assert hashlib.sha256((FOLDER / "axe.min.js").read_bytes()).hexdigest() in told
    version = re.match(r"/\*! axe v([\d.]+)\n", axe)
    assert version is not None
    assert f"axe-core {version[1]}," in told
    assert "Mozilla Public License, version 2.0" in (FOLDER / "LICENSE").read_text("utf-8")


def test_axe_finds_no_violation_in_either_theme(browser: Browser, page: Path, lang: str, axe: str) -> None:
    browser.open(page, lang=lang)
    for scheme in ("light", "dark"):
        browser.media(scheme=scheme)
        found = judged(browser, axe)
        assert found["violations"] == [], scheme
        assert found["passes"] > 25  # it looked
        assert found["open"] == [], scheme


def test_every_heading_of_a_table_heads_cells(browser: Browser, page: Path) -> None:
    """Each heading says of what it is one, and no row below a group's heading is without cells."""
    browser.open(page)
    empty = browser.value(
        """[...document.querySelectorAll('table')].flatMap(table => [...table.querySelectorAll('th')].filter(th => {
        const row = th.parentElement, body = row.parentElement, at = [...row.children].indexOf(th);
        return th.scope === 'rowgroup' ? !(body.rows[0] === row && body.querySelector('td'))
            : th.scope === 'row' ? !row.querySelector('td')
            : !(['col', 'colgroup'].includes(th.scope) && table.querySelector('tbody td')) }))
        .map(th => th.outerHTML.slice(0, 100))"""
    )
    assert empty == []


def test_axe_sees_what_is_planted(browser: Browser, pages: dict[str, Path], axe: str, tmp_path: Path) -> None:
    text = pages["report"].read_text("utf-8")
    faults = {
        "color-contrast": ("</h1>", '</h1><p><font color="#999">pale</font></p>'),
        "empty-heading": ("</footer>", "<h2></h2></footer>"),
        "scrollable-region-focusable": (' tabindex="0" role="group"', ' role="group"'),
        "region": ("<body>", "<body><p>outside of every landmark</p>"),
        "html-has-lang": ('<html lang="en">', "<html>"),
        "label": ("</footer>", "<input></footer>"),
        "svg-img-alt": ("<figure>", '<svg role="img"></svg><figure>'),
        "landmark-unique": ("</footer>", '</footer><nav aria-label="x"></nav><nav aria-label="x"></nav>'),
    }
    for rule, (old, new) in faults.items():
        planted = tmp_path / f"{rule}.html"
        assert old in text, rule
        planted.write_text(text.replace(old, new), "utf-8")
        browser.open(planted, width=360)
        assert rule in [name for name, _ in judged(browser, axe, rule)["violations"]], rule


# What lies behind each text of a chart: the page, and over it each shape that was drawn before and touches it. A shape
# is asked at 27 points of the text's box. What has a halo of the page's colour stands on the page's colour.
BEHIND = """(() => {
    const rgba = colour => { const n = colour.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n };
    const over = ([r, g, b, a], under) => [r, g, b].map((part, i) => a * part + (1 - a) * under[i]);
    const paint = (look, kind, svg) => {  // of hatching, its lines as if they lay everywhere
        const ink = look[kind].startsWith('url') ? getComputedStyle(svg.querySelector('.hatch')) : look;
        const [r, g, b, a] = rgba(ink === look ? look[kind] : ink.stroke);
        return [r, g, b, a * look.opacity * look[kind + 'Opacity'] * (ink === look ? 1 : ink.opacity)] };
    const page = rgba(getComputedStyle(document.body).backgroundColor).slice(0, 3);
    const told = colour => `rgb(${colour.map(part => part.toFixed(1)).join(', ')})`;
    const pairs = new Map(); let n = 0, covered = 0;
    for (const svg of document.querySelectorAll('svg[role=img]')) {
        const drawn = [...svg.querySelectorAll('text, rect, path, circle, line, polyline, polygon')].filter(
            e => !e.closest('defs, clipPath, pattern') && e.getClientRects().length);
        drawn.forEach((text, at) => {
            if (text.tagName !== 'text' || !text.textContent.trim()) return;
            const style = getComputedStyle(text), box = text.getBoundingClientRect();
            let ground = page; n += 1;
            if (!(style.paintOrder.startsWith('stroke') && parseFloat(style.strokeWidth) >= 2))
                for (const shape of drawn.slice(0, at)) {
                    if (shape.tagName === 'text') continue;
                    const b = shape.getBoundingClientRect(), look = getComputedStyle(shape);
                    if (b.right < box.left || b.left > box.right || b.bottom < box.top || b.top > box.bottom) continue;
                    const back = shape.getScreenCTM().inverse();
                    let fill = false, stroke = false;
                    for (let i = 0; i <= 8; i++) for (let j = 0; j <= 2; j++) {
                        const p = new DOMPoint(box.left + box.width * i / 8, box.top + box.height * (j + 1) / 4)
                            .matrixTransform(back);
                        fill ||= look.fill !== 'none' && shape.isPointInFill(p);
                        stroke ||= look.stroke !== 'none' && shape.isPointInStroke(p); }
                    for (const [hit, kind] of [[fill, 'fill'], [stroke, 'stroke']]) if (hit) {
                        covered += 1; ground = over(paint(look, kind, svg), ground); } }
            const ink = over(rgba(style.fill), ground);
            pairs.set(told(ink) + ' on ' + told(ground), text.outerHTML.slice(0, 120)); }); }
    return [n, covered, [...pairs]] })()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_texts_of_charts_stand_out_from_what_lies_behind(
    browser: Browser, pages: dict[str, Path], scheme: str
) -> None:
    """WCAG 2.2: at least 4.5. axe leaves this open, for the text may lie over a bar, a band, a cell or hatching."""
    for kind in ("report", "comparison", "three", "names"):
        browser.open(pages[kind])
        browser.media(scheme=scheme)
        count, _, pairs = browser.value(BEHIND)
        assert count > 30
        assert [(pair, text) for pair, text in pairs if contrast(pair) < 4.5] == [], kind
    # the measure sees what it should: a bar under every text, without a halo
    browser.value(
        """document.querySelectorAll('svg[role=img]').forEach(e => { const bar = document.createElementNS(
        'http://www.w3.org/2000/svg', 'rect'); for (const k of ['width', 'height']) bar.setAttribute(k, 999);
        bar.style.fill = 'rgb(128, 128, 128)'; e.prepend(bar); });
        document.querySelectorAll('svg text').forEach(e => e.style.paintOrder = 'normal')"""
    )
    _, covered, pairs = browser.value(BEHIND)
    assert covered > 30
    assert min(contrast(pair) for pair, _ in pairs) < 4.5
