# SPDX-License-Identifier: Apache-2.0
"""Saved pages in a real browser: chromium, driven through its debugging pipe, so that nothing but it is needed."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import casemate as cm
from casemate import demo

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --disable-dev-shm-usage --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --remote-debugging-pipe about:blank"
).split()
# The pipe is file descriptors 3 (to the browser) and 4 (from it).
LAUNCH = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
HAN = re.compile("[\u4e00-\u9fff]")
NARROW = 360


class Browser:
    """One tab. `requests` are the addresses it asked for since the last `open`."""

    def __init__(self, folder: Path) -> None:
        to_read, self.to = os.pipe()
        self.fro, to_write = os.pipe()
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_read, to_write)]  # clear of 3 and 4
        command = [
            sys.executable,
            "-c",
            LAUNCH,
            *map(str, high),
            str(CHROMIUM),
            f"--user-data-dir={folder}",
            *FLAGS,
        ]
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(
            command, pass_fds=high, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
        )
        for end in (to_read, to_write, *high):
            os.close(end)
        self.count, self.buffer, self.session = itertools.count(1), b"", ""
        self.events: list[dict[str, Any]] = []
        tab = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")
        self.ask("Emulation.setScrollbarsHidden", hidden=True)  # they lie over the page on phones

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self.count)
        message = {"id": number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            got = self._next()
            if got.get("id") == number:
                assert "error" not in got, got
                return dict(got["result"])
            self.events.append(got)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            part = os.read(self.fro, 1 << 16)
            assert part, "chromium has gone"
            self.buffer += part
        first, _, self.buffer = self.buffer.partition(b"\0")
        return dict(json.loads(first))

    def open(self, page: Path, *, width: int = 1000, script: bool = True) -> None:
        self.events.clear()
        self.ask("Emulation.setScriptExecutionDisabled", value=not script)
        self.ask("Emulation.setEmulatedMedia", media="", features=[])
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False
        )
        self.ask("Page.navigate", url=page.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def value(self, expression: str) -> Any:
        """Evaluate from outside the page: its content security policy does not bind the debugger."""
        self.ask("Emulation.setScriptExecutionDisabled", value=False)
        got = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in got, got
        return got["result"].get("value")

    def click(self, selector: str) -> None:
        """Press the mouse in the middle of an element that is on the screen."""
        root = self.ask("DOM.getDocument")["root"]["nodeId"]
        node = self.ask("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        corners = self.ask("DOM.getBoxModel", nodeId=node)["model"]["border"]
        x, y = sum(corners[::2]) / 4, sum(corners[1::2]) / 4
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def key(self, name: str, code: int) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code)

    def media(self, media: str = "", scheme: str = "light") -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", media=media, features=features)

    def picture(self) -> bytes:
        return base64.b64decode(self.ask("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    @property
    def requests(self) -> list[str]:
        sent = [
            event["params"] for event in self.events if event.get("method") == "Network.requestWillBeSent"
        ]
        return [str(item["request"]["url"]) for item in sent]

    def close(self) -> None:
        os.close(self.to)  # the browser ends when its pipe does
        os.close(self.fro)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)  # its own session: itself and its children
            self.process.wait()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A saved report, and the comparison of it with the same forest answering in tenths."""
    folder = tmp_path_factory.mktemp("pages")
    case = demo.case("bank", small_data=True)
    model = case.model.set_params(n_estimators=20).fit(*case_rows(case.data))
    methods = [
        cm.method("lira", n_shadows=8),
        "loss_attack",
        cm.method("permutation_importance", repeats=2),
        "pgd",
    ]
    before = cm.audit(model, case.data, methods=methods, effort="quick")
    rounded = cm.harden(model, case.data, using=["rounding"])
    after = cm.audit(rounded.target, case.data, like=before)
    gates = folder / "gates.toml"
    gates.write_text('[[gate]]\nmethod = "lira"\nquantity = "auc"\nmax = 0.6\n', "utf-8")
    return {
        "report": before.save(folder / "report.html"),
        "comparison": cm.compare(before, after, gates=gates).save(folder / "comparison.html"),
    }


def case_rows(data: cm.Dataset) -> tuple[Any, Any]:
    """The training rows as a model takes them."""
    return data.schema.decode(data.train.x), data.train.y


@pytest.fixture(params=["report", "comparison"])
def page(request: pytest.FixtureRequest, pages: dict[str, Path]) -> Path:
    return pages[request.param]


def shown(browser: Browser, lang: str) -> int:
    """How many elements of a language have a place on the page."""
    picked = f"document.querySelectorAll('body [lang=\"{lang}\"]')"
    return int(browser.value(f"[...{picked}].filter(e => e.getClientRects().length).length"))


def test_a_report_page_opens_without_any_request_or_complaint(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.value("document.readyState") == "complete"
    assert browser.value("document.querySelector('h1').innerText.length") > 3
    assert browser.value("document.querySelectorAll('table').length") >= 5
    outside = [url for url in browser.requests if not url.startswith("data:")]
    assert outside == [page.as_uri()]
    # what violates the policy, or is no HTML, is an entry of the log
    assert [event["params"] for event in browser.events if event.get("method") == "Log.entryAdded"] == []


def test_a_request_of_a_report_page_would_be_seen_and_its_policy_blocks_script(
    browser: Browser, page: Path, tmp_path: Path
) -> None:
    text = page.read_text("utf-8")
    added = '<img src="http://127.0.0.1:9/spy.png"><script>document.title = "ran"</script></body>'
    planted = tmp_path / "planted.html"
    planted.write_text(text.replace("</body>", added), "utf-8")
    browser.open(planted)
    said = [
        event["params"]["entry"]["text"]
        for event in browser.events
        if event.get("method") == "Log.entryAdded"
    ]
    assert any("spy.png" in line for line in said) and any("script" in line for line in said)
    assert browser.value("document.title") != "ran"
    # without the policy the same page would ask and run
    planted.write_text(re.sub("<meta http-equiv[^>]*>", "", text).replace("</body>", added), "utf-8")
    browser.open(planted)
    assert any(url.endswith("spy.png") for url in browser.requests)
    assert browser.value("document.title") == "ran"


def test_the_language_of_a_report_page_is_switched_without_script(browser: Browser, page: Path) -> None:
    browser.open(page, script=False)
    first = browser.picture()
    assert (shown(browser, "en") > 50, shown(browser, "zh-CN")) == (True, 0)
    assert HAN.findall(browser.value("document.body.innerText").replace("中文", "")) == []
    browser.open(page, script=False)
    browser.click('label[for="pick-zh-CN"]')
    second = browser.picture()
    assert first != second
    assert (shown(browser, "en"), shown(browser, "zh-CN") > 50) == (0, True)
    assert len(HAN.findall(browser.value("document.body.innerText"))) > 300
    browser.click('label[for="pick-en"]')
    assert (shown(browser, "en") > 50, shown(browser, "zh-CN")) == (True, 0)


def test_the_language_of_a_report_page_is_switched_by_keyboard(browser: Browser, page: Path) -> None:
    browser.open(page, script=False)
    browser.key("Tab", 9)
    browser.key("ArrowDown", 40)
    assert (shown(browser, "en"), shown(browser, "zh-CN") > 50) == (0, True)


@pytest.mark.parametrize("lang", ["en", "zh-CN"])
def test_a_report_page_fits_a_narrow_screen(browser: Browser, page: Path, lang: str) -> None:
    browser.open(page, width=NARROW)
    browser.click(f'label[for="pick-{lang}"]')
    assert browser.value("document.documentElement.clientWidth") == NARROW
    assert browser.value("document.documentElement.scrollWidth") <= NARROW
    # a box that hides what does not fit would pass the above: nothing outside a scrolling table is cut either
    cut = browser.value(
        "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, .pick, svg') && "
        "e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0).map(e => e.outerHTML.slice(0, 80))"
    )
    assert cut == []
    # the measure sees what it should
    browser.value("document.querySelector('h1').style.width = '400px'")
    assert browser.value("document.documentElement.scrollWidth") > NARROW


def test_a_report_page_prints(browser: Browser, page: Path) -> None:
    browser.open(page)
    pdf = base64.b64decode(browser.ask("Page.printToPDF")["data"])
    assert pdf.startswith(b"%PDF") and len(pdf) > 20_000
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) >= 2
    browser.media("print")
    assert browser.value("document.querySelector('nav').getClientRects().length") == 0
    # on paper nothing can be scrolled: a table is as wide as it needs or wraps
    browser.ask(
        "Emulation.setDeviceMetricsOverride", width=700, height=900, deviceScaleFactor=1, mobile=False
    )
    assert browser.value("document.documentElement.scrollWidth") <= 700


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_text_of_a_report_page_stands_out_from_its_ground(
    browser: Browser, page: Path, scheme: str
) -> None:
    """WCAG 2.2 contrast of at least 4.5 for every text that is shown."""
    browser.open(page)
    browser.media(scheme=scheme)
    pairs = browser.value(
        """(() => {
        const ground = e => { const c = getComputedStyle(e).backgroundColor;
            return c !== 'rgba(0, 0, 0, 0)' || !e.parentElement ? c : ground(e.parentElement) };
        const texts = [...document.querySelectorAll('body *')].filter(e => e.getClientRects().length
            && !e.closest('svg') && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()));
        return [...new Set(texts.map(e => getComputedStyle(e).color + ' on ' + ground(e)))] })()"""
    )
    assert len(pairs) >= 3
    assert [pair for pair in pairs if contrast(pair) < 4.5] == []
    light = luminance(
        re.findall(r"\d+", browser.value("getComputedStyle(document.body).backgroundColor"))[:3]
    )
    assert (light > 0.5) == (scheme == "light")


def luminance(rgb: list[str]) -> float:
    parts = [int(part) / 255 for part in rgb]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(pair: str) -> float:
    numbers = re.findall(r"\d+", pair)
    dark, light = sorted((luminance(numbers[:3]), luminance(numbers[3:6])))
    return (light + 0.05) / (dark + 0.05)


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


@pytest.mark.parametrize("lang", ["en", "zh-CN"])
@pytest.mark.parametrize("width", [NARROW, 1000])
def test_the_labels_of_charts_touch_nothing_and_stay_inside(
    browser: Browser, page: Path, width: int, lang: str
) -> None:
    browser.open(page, width=width)
    browser.click(f'label[for="pick-{lang}"]')
    count, bad = browser.value(CROWDED)
    assert count > 40
    assert bad == []
    # the measure sees what it should
    browser.value("document.querySelectorAll('svg text').forEach(e => e.setAttribute('x', 5))")
    assert browser.value(CROWDED)[1] != []


def test_charts_are_drawn_without_script_and_not_cut_in_print(browser: Browser, page: Path) -> None:
    browser.open(page, script=False)
    sizes = "[...document.querySelectorAll('svg[role=img]')].map(e => e.getBoundingClientRect().height)"
    heights = browser.value(sizes)
    assert len(heights) >= 3
    assert min(heights) > 40
    browser.media("print")
    browser.ask(
        "Emulation.setDeviceMetricsOverride", width=700, height=900, deviceScaleFactor=1, mobile=False
    )
    figures = browser.value(
        "[...document.querySelectorAll('figure')].map(e => [getComputedStyle(e).breakInside, e.offsetHeight])"
    )
    assert {rule for rule, _ in figures} == {"avoid"}
    assert max(height for _, height in figures) < 900  # one fits on a page


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_texts_and_lines_of_charts_stand_out_from_their_ground(
    browser: Browser, page: Path, scheme: str
) -> None:
    """WCAG 2.2: 4.5 for text, 3 for what carries meaning (lines, dots, bars that are not filled in part)."""
    browser.open(page)
    browser.media(scheme=scheme)
    pairs = browser.value(
        """(() => {
        const ground = getComputedStyle(document.body).backgroundColor;
        const seen = (list, part) => [...new Set([...document.querySelectorAll(list)].filter(e =>
            e.getClientRects().length).map(e => getComputedStyle(e)[part] + ' on ' + ground))];
        return [seen('svg text', 'fill'), seen('svg .line, svg .whisker, svg .hollow, svg .null', 'stroke'),
                seen('svg .fill', 'fill')] })()"""
    )
    texts, strokes, dots = pairs
    assert texts and strokes and dots
    assert [pair for pair in texts if contrast(pair) < 4.5] == []
    assert [pair for pair in (*strokes, *dots) if contrast(pair) < 3] == []
