# SPDX-License-Identifier: Apache-2.0
"""Names chosen by an enemy: columns, classes, files and reasons that try to be markup, terminal codes or other text."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from casemate.core.types import Curve, Measurement, Note, PerRecord, Table
from casemate.report import gates, plain, render, words
from casemate.report.compare import compare
from casemate.report.model import Report

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</style><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "' autofocus onfocus='alert(1)",
    "</title></textarea><svg onload=alert(1)>",
    "<!--",
    "]]>",
    "&lt;b&gt; &amp;#60;",
    "{{ 7331*7 }} {% raw %}",
    "{0.__class__} {secret} %s %(x)s",
    "\u202egnp.exe\u202c",
    "\u2066isolate\u2069",
    "zero\u200bwidth\u200d\ufeff\u2060",
    "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "\x9b31m c1",
    "bell\x07 back\x08\x08 cr\roverwritten\nnew line\ttab\x00nul",
    "line\u2028separator\u2029",
    "lone \ud800 surrogate",
    "\U000e0041\U000e0042tag letters",
    "javascript:alert(1)",
    "=cmd|' /C calc'!A0",
    "\u0130\u1e9e" * 40,
    "long" * 5000,
]
SAFE_CONTROL = {"\n"}


def hostile_report(name: str) -> Report:
    fields: dict[str, Any] = {"n": 10, "worse": "higher", "version": name, "seed": 0, "unit": name}
    shown = {"value": 0.5, "low": 0.4, "high": 0.6}
    details = (
        Table(name=name, columns=(name, "value"), rows=((name, 1.0), (name, None))),
        Table(name="importance", columns=("column", name), rows=((name, 1.0), (name, 0.5))),
        Note(text=name),
        Curve(name="roc", x=(0.1, 1.0), y=(0.1, 1.0)),
        PerRecord(name=name, ids=(1, 2), values=(0.0, 1.0)),
    )
    properties: tuple[Any, ...] = ("privacy", "robustness", "confidentiality", "explanation", "utility")
    rows = [
        Measurement(property=p, method=name, quantity=name, details=details, **shown, **fields)
        for p in properties
    ]
    lost = {"value": None, "low": None, "high": None, "status": "not_measured", "reason": name}
    rows.append(Measurement(property="privacy", method=f"{name}2", quantity=name, **lost, **fields))
    return Report(
        created=f"2026-11-05T10:00:00 {name}",
        version=name,
        target={
            "kind": name,
            "task": name,
            "input": name,
            "classes": [name, name],
            "capabilities": [name],
            "source": {name: name},
            "digest": name,
            "caveats": [name],
        },
        data={"n_train": 1, "n_holdout": 1, "digest": name, "input": name},
        methods=(
            {"name": name, "version": name, "params": {name: name}, "status": "failed", "reason": name},
        ),
        measurements=tuple(rows),
        pairing={"key": "00"},
        environment={"python": name, "platform": name, "machine": name, "packages": {name: name}},
        command=[name, name],
    )


def compared(name: str) -> Any:
    report = hostile_report(name)
    gate = gates.Gate(method=name, quantity=name, bound="max", limit=0.1, name=name)
    return compare(report, report, gates=[gate])


class Skeleton(HTMLParser):
    """The tags and the names of their attributes: what an enemy's text must not be able to change."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.shape: list[tuple[str, ...]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.shape.append((tag, *(name for name, _ in attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.shape.append((f"/{tag}",))

    def handle_comment(self, data: str) -> None:
        self.shape.append(("comment",))

    def handle_decl(self, decl: str) -> None:
        self.shape.append(("decl", decl))


PAGES: list[Callable[[str], str]] = [
    lambda name: render.page(hostile_report(name)),
    lambda name: render.page_comparison(compared(name)),
]
TEXTS: list[Callable[[str], str]] = [
    lambda name: plain.text(hostile_report(name)),
    lambda name: plain.text(hostile_report(name), "zh-CN"),
    lambda name: plain.text_comparison(compared(name)),
    lambda name: str(compared(name).gates[0]),
]


def hidden(text: str) -> set[str]:
    return {c for c in text if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}} - SAFE_CONTROL


@pytest.mark.parametrize("make", PAGES, ids=["report", "comparison"])
@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: repr(name[:24]))
def test_no_name_changes_the_structure_of_the_page(make: Callable[[str], str], name: str) -> None:
    page = make(name)
    assert Skeleton(page).shape == Skeleton(make("harmless")).shape
    assert hidden(page) == set()
    assert page.encode("utf-8").decode("utf-8") == page
    assert "51317" not in page.split("<body>")[1] or "7331*7" not in name  # no template in a template
    assert len(page.encode()) <= 400_000


@pytest.mark.parametrize("make", TEXTS, ids=["text", "text-zh", "comparison", "gate"])
@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: repr(name[:24]))
def test_no_name_reaches_the_terminal_as_a_control_code_or_a_new_line(
    make: Callable[[str], str], name: str
) -> None:
    text = make(name)
    assert hidden(text) == set()
    assert len(text.splitlines()) == len(make("harmless").splitlines()) <= 25
    assert max(map(len, text.splitlines())) <= 1100


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: repr(name[:24]))
def test_json_carries_every_name_unchanged_in_plain_ascii(name: str, tmp_path: Path) -> None:
    report = hostile_report(name)
    saved = report.save(tmp_path / "r.json")
    assert saved.read_bytes().isascii()
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", saved.read_bytes())
    assert Report.load(saved) == report
    assert json.loads(saved.read_text())["target"]["kind"] == name


def test_a_bracketed_name_is_still_readable() -> None:
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in render.page(hostile_report(HOSTILE[0]))
    assert words.visible("\x1b[31mred") == "⟨U+001B⟩[31mred"
    assert words.visible("\u3164") == "⟨U+3164⟩"  # a letter that is blank
    assert words.visible("年龄 âge") == "年龄 âge"


def test_an_error_about_a_hostile_file_is_one_line(tmp_path: Path) -> None:
    raw = hostile_report("x").to_dict()
    raw["seed"] = "\x1b[31m\nnew"
    (tmp_path / "r.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match="seed must be integer") as caught:
        Report.load(tmp_path / "r.json")
    assert hidden(str(caught.value)) == set()
    assert "\n" not in str(caught.value)
