# SPDX-License-Identifier: Apache-2.0
"""The reader's own settings: larger letters, more contrast, the system's colours, no motion, a narrow window."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser.driver import Browser, contrast

pytestmark = pytest.mark.slow

NARROW = 360
# Every text that is shown with what it stands on; in pictures, what carries meaning by its colour.
TEXTS = """(() => {
    const clear = c => c === 'transparent' || /, 0\\)$/.test(c);
    const ground = e => { const c = getComputedStyle(e).backgroundColor;
        return !clear(c) || !e.parentElement ? c : ground(e.parentElement) };
    const texts = [...document.querySelectorAll('body *')].filter(e => e.checkVisibility() && !e.closest('svg')
        && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()));
    return [...new Set(texts.map(e => getComputedStyle(e).color + ' on ' + ground(e)))] })()"""
MARKS = """(() => {
    const canvas = getComputedStyle(document.body).backgroundColor;
    const seen = (list, part) => [...new Set([...document.querySelectorAll(list)].filter(e =>
        e.checkVisibility()).map(e => getComputedStyle(e)[part] + ' on ' + canvas))];
    return [seen('svg text', 'fill'), [...seen('svg .line, svg .whisker, svg .hollow, svg .null', 'stroke'),
            ...seen('svg .fill', 'fill')]] })()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_and_marks_stand_out_from_their_ground(browser: Browser, page: Path, scheme: str) -> None:
    """WCAG 2.2: 4.5 for text, 3 for lines, dots and bars; whoever asks for more contrast gets 7 for text."""
    browser.open(page)
    browser.value("document.querySelectorAll('details').forEach(e => e.open = true)")
    for more, least in (("no-preference", 4.5), ("more", 7.0)):
        browser.media(scheme=scheme, prefers_contrast=more)
        pairs = browser.value(TEXTS)
        assert len(pairs) >= 3
        assert [pair for pair in pairs if contrast(pair) < least] == []
        texts, marks = browser.value(MARKS)
        assert [pair for pair in texts if contrast(pair) < least] == []
        assert [pair for pair in marks if contrast(pair) < 3] == []
    ground = browser.value("getComputedStyle(document.body).backgroundColor")
    assert (contrast(f"rgb(255, 255, 255) on {ground}") < 2) == (scheme == "light")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_with_the_colours_of_the_system_the_page_is_read_and_the_language_seen(
    browser: Browser, page: Path, scheme: str
) -> None:
    """forced-colors: the system paints texts and boxes; pictures and the switch must follow it themselves."""
    browser.open(page)
    browser.media(scheme=scheme, forced_colors="active")
    assert browser.value("matchMedia('(forced-colors: active)').matches")
    texts, marks = browser.value(MARKS)
    assert [pair for pair in (*texts, *browser.value(TEXTS)) if contrast(pair) < 4.5] == []
    assert [pair for pair in marks if contrast(pair) < 3] == []
    looks = browser.value(
        """['en', 'zh-CN'].map(x => { const s = getComputedStyle(document.querySelector(`label[for="pick-${x}"]`));
        return s.color + ' on ' + s.backgroundColor })"""
    )
    assert looks[0] != looks[1]  # which language is picked is seen
    assert [pair for pair in looks if contrast(pair) < 4.5] == []


CUT = """[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, .pick, svg') && e.checkVisibility()
    && e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0).map(e => e.outerHTML.slice(0, 80))"""


def test_a_page_fits_a_narrow_screen(browser: Browser, page: Path, lang: str) -> None:
    browser.open(page, width=NARROW, lang=lang)
    assert browser.value("document.documentElement.clientWidth") == NARROW
    for opened in ("false", "true"):
        browser.value(f"document.querySelectorAll('details').forEach(e => e.open = {opened})")
        assert browser.value("document.documentElement.scrollWidth") <= NARROW
        # a box that hides what does not fit would pass the above: nothing outside a scrolling table is cut either
        assert browser.value(CUT) == []
    # the measure sees what it should
    browser.value("document.querySelector('h1').style.width = '400px'")
    assert browser.value("document.documentElement.scrollWidth") > NARROW


def test_letters_of_twice_the_size_are_obeyed_and_cut_nothing(
    browser: Browser, page: Path, lang: str
) -> None:
    """The size the reader has set for letters, without a wider window: WCAG 1.4.4."""
    browser.ask("Page.setFontSizes", fontSizes={"standard": 32, "fixed": 26})
    try:
        browser.open(page, width=1000, lang=lang)
        assert browser.value("getComputedStyle(document.body).fontSize") == "32px"
        assert browser.value("document.documentElement.scrollWidth") <= 1000
        assert browser.value(CUT) == []
        bar = browser.value("document.querySelector('.pages')?.getBoundingClientRect().height ?? 0")
        assert bar < 300  # of 800: the page is still read below it
    finally:
        browser.ask("Page.setFontSizes", fontSizes={"standard": 16, "fixed": 13})


def test_nothing_moves_by_itself(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.media(prefers_reduced_motion="reduce")
    moving = browser.value(
        """[...document.querySelectorAll('*')].filter(e => { const s = getComputedStyle(e);
        return s.animationName !== 'none' || s.scrollBehavior === 'smooth'
            || s.transitionDuration.split(', ').some(t => parseFloat(t) > 0) }).map(e => e.outerHTML.slice(0, 80))"""
    )
    assert moving == []
