# SPDX-License-Identifier: Apache-2.0
"""Chromium, driven through its debugging pipe by the standard library alone."""

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
from pathlib import Path
from typing import Any

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
LANGUAGES = ("en", "zh-CN")
KEYS = {"Tab": 9, "Enter": 13, "Space": 32, "ArrowRight": 39, "ArrowDown": 40}
TYPED = {"Enter": "\r", "Space": " "}  # keys that also type something


class Browser:
    """One tab. `requests` are the addresses it asked for since the last `open`, `complaints` what its log says."""

    def __init__(self, folder: Path) -> None:
        to_read, self.to = os.pipe()
        self.fro, to_write = os.pipe()
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_read, to_write)]  # clear of 3 and 4
        launch = [sys.executable, "-c", LAUNCH, *map(str, high)]
        command = [*launch, str(CHROMIUM), f"--user-data-dir={folder}", *FLAGS]
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

    def open(self, page: Path, *, width: int = 1000, script: bool = True, lang: str = "en") -> None:
        """Open a page on a light screen, wait until it is loaded, and pick the language as a reader would."""
        self.events.clear()
        self.ask("Emulation.setScriptExecutionDisabled", value=not script)
        self.media()
        self.size(width)
        self.ask("Page.navigate", url=page.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())
        if lang != "en":
            self.click(f'label[for="pick-{lang}"]')

    def size(self, width: int, height: int = 800) -> None:
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def value(self, expression: str) -> Any:
        """Evaluate from outside the page: its content security policy does not bind the debugger."""
        self.ask("Emulation.setScriptExecutionDisabled", value=False)
        got = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
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

    def key(self, name: str, *, shift: bool = False) -> None:
        held = {"key": TYPED.get(name, name), "code": name, "windowsVirtualKeyCode": KEYS[name]}
        held["modifiers"] = 8 if shift else 0
        text = {"text": TYPED[name]} if name in TYPED else {}
        self.ask("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **held, **text)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **held)

    def media(self, media: str = "", scheme: str = "light", **features: str) -> None:
        """Set the medium and the reader's wishes; ``forced_colors="active"`` is ``forced-colors: active``."""
        wishes = {"prefers-color-scheme": scheme} | {k.replace("_", "-"): v for k, v in features.items()}
        listed = [{"name": name, "value": value} for name, value in wishes.items()]
        self.ask("Emulation.setEmulatedMedia", media=media, features=listed)

    def picture(self, *, whole: bool = True) -> bytes:
        return base64.b64decode(self.ask("Page.captureScreenshot", captureBeyondViewport=whole)["data"])

    def pdf(self, **asked: Any) -> bytes:
        return base64.b64decode(self.ask("Page.printToPDF", **asked)["data"])

    @property
    def requests(self) -> list[str]:
        sent = [
            event["params"] for event in self.events if event.get("method") == "Network.requestWillBeSent"
        ]
        return [str(item["request"]["url"]) for item in sent]

    @property
    def complaints(self) -> list[str]:
        """What violates the policy, or is no HTML, is an entry of the log."""
        entries = [
            event["params"]["entry"] for event in self.events if event.get("method") == "Log.entryAdded"
        ]
        return [str(entry["text"]) for entry in entries]

    def close(self) -> None:
        os.close(self.to)  # the browser ends when its pipe does
        os.close(self.fro)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)  # its own session: itself and its children
            self.process.wait()


def by_and_by(condition: str) -> str:
    """Write an expression that waits for what a page does slowly, such as scrolling: was it so within 20 seconds?"""
    look = f"left => {condition} ? done(true) : left ? setTimeout(look, 100, left - 1) : done(false)"
    return f"new Promise(done => {{ const look = {look}; look(200) }})"


def luminance(rgb: list[float]) -> float:
    """WCAG 2.2 relative luminance of channels in 0-255."""
    parts = [part / 255 for part in rgb]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def channels(colour: str) -> list[float]:
    """Read what getComputedStyle says of an opaque colour: ``rgb(1, 2, 3)``."""
    return [float(part) for part in re.findall(r"[\d.]+", colour)[:3]]


def contrast(pair: str) -> float:
    """WCAG 2.2 contrast of ``"rgb(...) on rgb(...)"``."""
    dark, light = sorted(luminance(channels(colour)) for colour in pair.split(" on "))
    return (light + 0.05) / (dark + 0.05)
