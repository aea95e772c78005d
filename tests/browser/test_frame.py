# SPDX-License-Identifier: Apache-2.0
"""A report as a notebook displays it: in a frame that runs nothing, asks for nothing and keeps to itself."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser.driver import Browser, by_and_by

from casemate.core.types import Measurement
from casemate.report.compare import compare
from casemate.report.model import Report

pytestmark = pytest.mark.slow

# What a notebook may do to what it displays: styles for everything.
AROUND = "<style>body {{ color: red }} table, td {{ border: 5px solid red }}</style><main>{0}{1}</main>"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A notebook comes by http: from a file a sandboxed frame could not leave for another file, mended or not."""

    def log_message(self, *_: Any) -> None:
        return


class Served:
    """The address of a page, in the form that a browser opens."""

    def __init__(self, address: str) -> None:
        self.address = address

    def as_uri(self) -> str:
        return self.address


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[Served]:
    number = Measurement(
        property="privacy", quantity="auc", value=0.8, low=0.75, high=0.85, n=400, worse="higher",
        method="lira", version="1", seed=0,
    )  # fmt: skip
    made = Report(
        created="2026-11-05T10:00:00+00:00",
        version="0.1.0",
        target={"kind": "sklearn", "task": "binary", "input": "table", "capabilities": [], "digest": "ab"},
        data={"n_train": 9, "n_holdout": 9, "digest": "cd"},
        methods=({"name": "lira", "version": "1", "status": "ok"},),
        measurements=(number,),
    )
    shown = AROUND.format(made._repr_html_(), compare(made, made)._repr_html_())
    (tmp_path / "notebook.html").write_text(
        f'<!doctype html><html lang="en"><title>n</title>{shown}</html>', "utf-8"
    )
    handler = functools.partial(Quiet, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Served(f"http://127.0.0.1:{server.server_port}/notebook.html")
    server.shutdown()
    server.server_close()


def inside(browser: Browser, expression: str) -> list[Any]:
    """Evaluate in each frame: a sandboxed one is a target of its own, which the page around it cannot reach."""
    main, browser.session = browser.session, ""
    found = [t for t in browser.ask("Target.getTargets")["targetInfos"] if t["type"] == "iframe"]
    values = []
    for target in found:
        browser.session = ""
        attached = browser.ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        browser.session = attached["sessionId"]
        values.append(browser.value(expression))
    browser.session = main
    return values


def test_a_displayed_report_is_whole_and_keeps_its_own_look(browser: Browser, notebook: Any) -> None:
    browser.open(notebook)
    assert inside(browser, "document.querySelectorAll('table').length > 1") == [True, True]
    assert inside(browser, "getComputedStyle(document.querySelector('td')).borderTopWidth") == ["0px", "0px"]
    assert "rgb(255, 0, 0)" not in inside(browser, "getComputedStyle(document.body).color")
    assert inside(browser, "document.documentElement.scrollWidth <= innerWidth") == [True, True]
    sizes = browser.value(
        "[...document.querySelectorAll('iframe')].map(f => [f.clientHeight, f.contentDocument])"
    )
    assert all(height >= 400 and reached is None for height, reached in sizes)
    asked = [url for url in browser.requests if not url.endswith(("notebook.html", "favicon.ico"))]
    assert asked == []


def test_a_link_of_a_displayed_report_leads_to_its_place_in_it(browser: Browser, notebook: Any) -> None:
    browser.open(notebook)
    before = inside(browser, "document.querySelectorAll('table').length")
    picked = "[...document.querySelectorAll('a[href*=\"#\"]')].filter(e => e.getClientRects().length).pop()"
    inside(browser, f"{picked}.click()")
    assert all(inside(browser, by_and_by("scrollY > 100")))
    assert (
        inside(browser, "document.querySelectorAll('table').length") == before
    )  # not the notebook, in its own frame
    assert all(place.startswith("about:srcdoc#") for place in inside(browser, "location.href"))
