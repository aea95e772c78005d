# SPDX-License-Identifier: Apache-2.0
"""Saved pages in a real browser: they ask for nothing, run nothing, hold both languages, and their charts are clear."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from browser.driver import Browser

pytestmark = pytest.mark.slow

HAN = re.compile("[\u4e00-\u9fff]")


def shown(browser: Browser, lang: str) -> int:
    """How many elements of a language have a place on the page."""
    picked = f"document.querySelectorAll('body [lang=\"{lang}\"]')"
    return int(browser.value(f"[...{picked}].filter(e => e.getClientRects().length).length"))


def test_a_page_opens_without_any_request_or_complaint(browser: Browser, page: Path, lang: str) -> None:
    browser.open(page, lang=lang)
    assert browser.value("document.readyState") == "complete"
    assert browser.value("document.querySelector('h1').innerText.length") > 3
    assert browser.value("document.querySelectorAll('table').length") >= 5
    browser.value("document.querySelectorAll('details').forEach(e => e.open = true)")
    browser.media("print")
    assert [url for url in browser.requests if not url.startswith("data:")] == [page.as_uri()]
    assert browser.complaints == []
    assert page.stat().st_size <= 400_000


def test_a_request_would_be_seen_and_the_policy_blocks_script(
    browser: Browser, page: Path, tmp_path: Path
) -> None:
    text = page.read_text("utf-8")
    added = '<img src="http://127.0.0.1:9/spy.png"><script>document.title = "ran"</script></body>'
    planted = tmp_path / "planted.html"
    planted.write_text(text.replace("</body>", added), "utf-8")
    browser.open(planted)
    said = browser.complaints
    assert any("spy.png" in line for line in said) and any("script" in line for line in said)
    assert browser.value("document.title") != "ran"
    # without the policy the same page would ask and run
    planted.write_text(re.sub("<meta http-equiv[^>]*>", "", text).replace("</body>", added), "utf-8")
    browser.open(planted)
    assert any(url.endswith("spy.png") for url in browser.requests)
    assert browser.value("document.title") == "ran"


def test_the_language_is_switched_without_script(browser: Browser, page: Path) -> None:
    strange = page.stem == "names"  # names are in neither language
    browser.open(page, script=False)
    first = browser.picture(whole=False)
    assert (shown(browser, "en") > 50, shown(browser, "zh-CN")) == (True, 0)
    assert strange or HAN.findall(browser.value("document.body.innerText").replace("中文", "")) == []
    browser.open(page, script=False, lang="zh-CN")
    assert browser.picture(whole=False) != first
    assert (shown(browser, "en"), shown(browser, "zh-CN") > 50) == (0, True)
    assert len(HAN.findall(browser.value("document.body.innerText"))) > 300
    browser.click('label[for="pick-en"]')
    assert (shown(browser, "en") > 50, shown(browser, "zh-CN")) == (True, 0)


def test_charts_are_drawn_without_script(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["report"], script=False)
    sizes = "[...document.querySelectorAll('svg[role=img]')].map(e => e.getBoundingClientRect().height)"
    heights = browser.value(sizes)
    assert len(heights) >= 3
    assert min(heights) > 40


# Texts of charts that lie over each other or stick out of their picture, and how many texts there are.
CROWDED = """(() => { const bad = []; let n = 0;
    for (const svg of document.querySelectorAll('svg[role=img]')) {
        const frame = svg.getBoundingClientRect();
        const texts = [...svg.querySelectorAll('text')].filter(e => e.getClientRects().length && e.textContent);
        const boxes = texts.map(e => [e.textContent, e.getBoundingClientRect()]);
        n += boxes.length;
        boxes.forEach(([told, a], i) => {
            if (a.left < frame.left - 1 || a.right > frame.right + 1 ||
                a.top < frame.top - 1 || a.bottom > frame.bottom + 1)
                bad.push(told + ' sticks out');
            boxes.slice(0, i).forEach(([other, b]) => {
                if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3)
                    bad.push(told + ' lies over ' + other); }); }); }
    return [n, bad]; })()"""


@pytest.mark.parametrize("width", [360, 1000])
def test_the_labels_of_charts_touch_nothing_and_stay_inside(
    browser: Browser, page: Path, width: int, lang: str
) -> None:
    browser.open(page, width=width, lang=lang)
    count, bad = browser.value(CROWDED)
    assert count > 40 or page.stem == "failed"  # where nothing was measured nothing is drawn
    assert bad == []


def test_labels_that_lie_over_each_other_are_seen(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["report"])
    browser.value("document.querySelectorAll('svg text').forEach(e => e.setAttribute('x', 5))")
    assert browser.value(CROWDED)[1] != []
