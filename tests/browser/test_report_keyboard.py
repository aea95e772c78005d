# SPDX-License-Identifier: Apache-2.0
"""A page without a mouse: everything is reached, what is reached is seen, nothing holds the reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from browser.driver import LANGUAGES, Browser, by_and_by

pytestmark = pytest.mark.slow

# What the keyboard must reach, in the order of the page: a group of radio buttons is one stop.
STOPS = """[...document.querySelectorAll('a[href], summary, [tabindex="0"], input:checked, button, select, textarea')]
    .filter(e => e.checkVisibility({visibilityProperty: true}))"""
# Where the focus is, and whether it is to be seen: an outline, inside the window, with nothing lying over it. The
# buttons of the switch are not drawn: their label carries the mark.
FOCUS = """(() => {
    const at = document.activeElement;
    if (!at || at === document.body || at === document.documentElement) return null;
    const seen = at.matches('.pick') ? document.querySelector(`label[for="${at.id}"]`) : at;
    const style = getComputedStyle(seen), boxes = [...seen.getClientRects()];
    const inside = boxes.map(b => [Math.max(b.left, 0), Math.max(b.top, 0),
        Math.min(b.right, innerWidth), Math.min(b.bottom, innerHeight)]);
    const clear = inside.some(([left, top, right, bottom]) => right - left > 2 && bottom - top > 2 &&
        [1, 3, 5, 7, 9].some(tenth => {
            const hit = document.elementFromPoint((left + right) / 2, top + (bottom - top) * tenth / 10);
            return hit && (seen.contains(hit) || hit.contains(seen)); }));
    return {at: STOPS.indexOf(at), marked: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1,
            clear, html: at.outerHTML.slice(0, 100)} })()""".replace("STOPS", STOPS)


def walked(browser: Browser, count: int, *, back: bool = False) -> list[dict[str, Any]]:
    """Press Tab so many times and say where the focus was; once more, and it has left the page or begins again."""
    places = []
    for _ in range(count + 1):
        browser.key("Tab", shift=back)
        places.append(browser.value(FOCUS) or {"at": None, "marked": True, "clear": True, "html": ""})
    last = places.pop()
    assert last["at"] in (None, count - 1 if back else 0), f"a trap: {last['html']}"
    return places


def test_tab_reaches_everything_in_order_and_shows_where_it_is(
    browser: Browser, page: Path, lang: str
) -> None:
    browser.open(page, lang=lang)
    browser.value("document.body.tabIndex = -1; document.body.focus()")  # from the top
    count = browser.value(f"{STOPS}.length")
    assert count > 10
    places = walked(browser, count)
    assert [place["at"] for place in places] == list(range(count))
    assert [place["html"] for place in places if not place["marked"]] == []
    assert [place["html"] for place in places if not place["clear"]] == []
    if lang == "en":
        assert [place["at"] for place in walked(browser, count, back=True)] == list(range(count))[::-1]


def test_the_walk_sees_a_trap_a_hidden_focus_and_a_missing_mark(
    browser: Browser, pages: dict[str, Path]
) -> None:
    browser.open(pages["failed"])
    count = browser.value(f"{STOPS}.length")
    browser.value("document.styleSheets[0].insertRule('summary:focus-visible{outline:none!important}')")
    browser.value(
        """const bar = document.createElement('div'); document.body.append(bar);
        Object.assign(bar.style, {position: 'fixed', inset: '0', zIndex: 9, background: 'white'})"""
    )
    places = walked(browser, count)
    assert any(not place["marked"] for place in places)
    assert not any(place["clear"] for place in places)
    browser.value("document.querySelectorAll('summary')[1].onblur = event => event.target.focus()")
    with pytest.raises(AssertionError, match="a trap: <summary"):
        walked(browser, count)


def test_a_closed_part_opens_and_closes_by_key(browser: Browser, page: Path) -> None:
    browser.open(page, script=False)
    picked = "document.querySelector('details:not([open]) > summary')"
    browser.value(f"window.part = {picked}.parentElement; {picked}.focus()")
    browser.key("Enter")
    assert browser.value("window.part.open") is True
    browser.key("Space")
    assert browser.value("window.part.open") is False


def test_a_wide_table_scrolls_by_key_on_a_narrow_screen(browser: Browser, page: Path) -> None:
    browser.open(page, width=360)
    wide = browser.value(
        """(() => { window.table = [...document.querySelectorAll('.scroll')].find(
            e => e.checkVisibility() && e.scrollWidth > e.clientWidth + 40);
        if (window.table) window.table.focus(); return Boolean(window.table) })()"""
    )
    assert wide
    for _ in range(3):
        browser.key("ArrowRight")
    assert browser.value(by_and_by("window.table.scrollLeft > 20"))  # keys scroll smoothly


def test_every_table_that_can_scroll_is_a_named_stop(browser: Browser, page: Path) -> None:
    browser.open(page, width=360)
    browser.value("document.querySelectorAll('details').forEach(e => e.open = true)")
    missed = browser.value(
        """[...document.querySelectorAll('body *')].filter(e => e.getClientRects().length && !e.closest('svg')
            && ['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && e.scrollWidth > e.clientWidth + 1
            && !(e.tabIndex === 0 && (e.getAttribute('aria-label') || e.getAttribute('aria-labelledby'))))
            .map(e => e.outerHTML.slice(0, 100))"""
    )
    assert missed == []


@pytest.mark.parametrize("width", [360, 1000])
def test_every_link_leads_to_a_place_that_is_seen(browser: Browser, page: Path, width: int) -> None:
    """Also below a bar that stays at the top, and inside a part that was closed."""
    browser.open(page, width=width)
    links = browser.value(
        "[...new Set([...document.querySelectorAll('a[href]')].map(e => e.getAttribute('href')))]"
    )
    assert [link for link in links if not link.startswith("#")] == []
    hidden = []
    for link in links:
        # The whole page may end before a late target can come to the top: it is then seen lower down.
        browser.value(f"location.hash = '{link}'")
        seen = browser.value(
            f"""(() => {{ const e = document.getElementById('{link[1:]}');
            if (!e || !e.getClientRects().length) return false;
            const b = e.getBoundingClientRect(), y = b.top + Math.min(8, b.height / 2);
            const hit = document.elementFromPoint(b.left + Math.min(8, b.width / 2), y);
            return b.top > -1 && b.top < innerHeight && Boolean(hit) && (e.contains(hit) || hit.contains(e)) }})()"""
        )
        hidden += [] if seen else [link]
    assert hidden == []


@pytest.mark.parametrize("kind", ["report", "comparison"])
def test_the_language_is_switched_by_keyboard(browser: Browser, pages: dict[str, Path], kind: str) -> None:
    browser.open(pages[kind], script=False)
    browser.key("Tab")
    browser.key("ArrowDown")
    shown = [
        browser.value(
            f"[...document.querySelectorAll('body [lang=\"{x}\"]')].filter(e => e.offsetParent).length"
        )
        for x in LANGUAGES
    ]
    assert shown[0] == 0 and shown[1] > 50
