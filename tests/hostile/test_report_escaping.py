# SPDX-License-Identifier: Apache-2.0
"""Names chosen by an enemy: columns, classes, files and reasons that try to be markup, terminal codes or other text."""

from __future__ import annotations

import json
import re
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt

import casemate as cm
from casemate import cli
from casemate.core import schemafile
from casemate.core.errors import InvalidData
from casemate.core.schema import Schema
from casemate.core.types import Curve, Measurement, Note, PerRecord, Table
from casemate.report import gates, markdown, plain, render, words
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
    '"onload=alert(1) style="x',
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


# ---------------------------------------------------------------------- through the whole of it


FRAMED = [name for name in HOSTILE if "\ud800" not in name]  # no frame of today takes half a character
PACKS = [tuple(FRAMED[k::3]) for k in range(3)]
HARMLESS = tuple(f"harmless {chr(97 + i)} " for i in range(8))


@cache
def world(names: tuple[str, ...], *, changed: bool = False) -> Report:
    """Audit a table whose columns, classes, group and categories have these names, with single records shown."""
    draw = np.random.default_rng(0)
    labels = [f"{names[0]}no", f"{names[1]}yes"]

    def part() -> tuple[pd.DataFrame, Any]:
        frame = pd.DataFrame({name: draw.normal(size=60) for name in names})
        towns = np.where(draw.random(60) < 0.4, f"1{names[2]}", f"2{names[3]}")
        return frame.assign(**{f"{names[4]}g": towns}), np.where(frame.iloc[:, 0] > 0, labels[1], labels[0])

    def model(rows: pd.DataFrame) -> np.ndarray:
        one = np.where(rows.iloc[:, 0] > 0, 0.9, 0.1)
        return np.column_stack([one, 1 - one] if changed else [1 - one, one])

    data = cm.Dataset(part(), part(), sensitive=[f"{names[4]}g"])
    options: dict[str, Any] = {"methods": ["loss_attack", "tabular_attack", "permutation_importance"]}
    options |= {"effort": "quick", "show_records": True} | ({"like": world(names)} if changed else {})
    return cm.audit(cm.wrap(model, classes=labels), data, **options)


@cache
def beside(names: tuple[str, ...]) -> Any:
    before, after = world(names), world(names, changed=True)
    methods = [{**item, "params": {**item["params"], names[5]: names[6]}} for item in after.methods]
    gate = gates.Gate(
        method="utility", quantity="accuracy", bound="max_decrease", limit=0.1, name="".join(names)[:10_000]
    )
    later = Report.from_dict({**after.to_dict(), "version": names[7], "methods": methods})
    return compare(before, later, gates=[gate])


class Values(HTMLParser):
    """Every value of an attribute that does something, and how often each tag occurs."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.names: list[str] = []
        self.tags: Counter[str] = Counter()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        assert not any(key.startswith("on") or key in ("style", "srcset", "formaction") for key, _ in attrs)
        self.links += [value or "" for key, value in attrs if key in ("href", "src", "action", "xlink:href")]
        keyed = ("id", "class", "for", "name", "type", "lang", "aria-labelledby", "aria-describedby")
        self.names += [value or "" for key, value in attrs if key in keyed]


@pytest.mark.parametrize("names", PACKS, ids=["first", "second", "third"])
@pytest.mark.timeout(60)  # two audits and five pages
def test_names_of_a_real_audit_stay_text_wherever_they_are_shown(names: tuple[str, ...]) -> None:
    report, both = world(names), beside(names)
    for make in (
        lambda pack: render.page(world(pack)),
        lambda pack: render.page_comparison(beside(pack)),
    ):
        page = make(names)
        found = Values(page)
        harmless = Values(make(HARMLESS)).tags
        assert set(found.tags) == set(harmless)
        # a name that is cut, or the same in both languages, may stand in one element more or less
        loose = ("bdi", "i", "b", "span", "text", "tspan")
        assert {k: n for k, n in found.tags.items() if k not in loose} == {
            k: n for k, n in harmless.items() if k not in loose
        }
        assert all(link == "data:," or re.fullmatch(r"#[a-z0-9-]+", link) for link in found.links)
        assert all(re.fullmatch(r"[A-Za-z0-9 _-]*", value) for value in found.names), found.names
        assert hidden(page) == set()
        assert "51317" not in page.split("<body>")[1]
    for text in (str(report), plain.text(report, "zh-CN"), str(both), plain.text_comparison(both, "zh-CN")):
        assert hidden(text) == set()
        assert len(text.splitlines()) <= 25
    held = report._repr_html_()
    assert [tag for tag, *_ in Skeleton(held).shape] == ["iframe", "/iframe"]
    assert hidden(held) == set()
    for make in (
        lambda pack: markdown.of_report(world(pack)),
        lambda pack: markdown.of_comparison(beside(pack)),
    ):
        made = [
            Skeleton(MarkdownIt("commonmark").enable("table").render(make(pack))).shape
            for pack in (names, HARMLESS)
        ]
        assert hidden(make(names)) == set()
        assert Counter(made[0]) == Counter(made[1])


@pytest.mark.parametrize("names", PACKS, ids=["first", "second", "third"])
@pytest.mark.timeout(60)
def test_a_real_report_and_a_comparison_survive_their_files(names: tuple[str, ...], tmp_path: Path) -> None:
    saved = world(names).save(tmp_path / "r.json")
    assert saved.read_bytes().isascii()
    assert Report.load(saved) == world(names)
    told = beside(names).to_json()
    assert told.isascii()
    assert json.loads(told)["gates"][0]["name"] == "".join(names)[:10_000]
    assert any(names[7] in note for note in json.loads(told)["notes"])
    assert any(f"ran with {names[5]} = None before" in note for note in json.loads(told)["notes"])


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: repr(name[:24]))
def test_a_schema_file_shows_every_name_and_reads_it_back(name: str) -> None:
    schema = Schema.infer(np.array([[1.5, 2.0], [2.5, 3.0], [1.0, 9.0]]))
    columns = tuple(replace(column, name=f"{name}{i}", unit=name) for i, column in enumerate(schema.columns))
    hostile = replace(
        schema, columns=columns, groups=((f"{name}0", f"{name}1"),), sensitive=(f"{name}1",), person=name
    )
    if "\ud800" in name:
        with pytest.raises(InvalidData, match="which is no text"):
            schemafile.to_text(hostile)
        return
    text = schemafile.to_text(hostile)
    assert hidden(text) == set(), "the file is shown on terminals as it is"
    raw = tomllib.loads(text)
    assert [column["name"] for column in raw["column"]] == [f"{name}0", f"{name}1"]
    assert (raw["person"], raw["sensitive"]) == (name, [f"{name}1"])
    read = schemafile.parse(text)
    assert set(read.columns) == {f"{name}0", f"{name}1"}
    assert read.groups == hostile.groups


@pytest.mark.parametrize("name", FRAMED, ids=lambda name: repr(name[:24]))
def test_files_gates_and_parameters_of_hostile_names_reach_the_terminal_as_text(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stem = name.replace("/", "_").replace("\0", "_")[:60]
    report, page, rules = f"{stem}.json", f"{stem}.html", f"{stem}.toml"
    hostile_report(name).save(report)
    gate = {"method": name, "quantity": name, "min": 0.1, "name": name}
    lines = [f"{key} = {schemafile._value(value)}" for key, value in gate.items()]
    Path(rules).write_text("\n".join(["[[gate]]", *lines]), "utf-8")
    ways = [
        (["compare", "--gates", rules, "--html", page, "--", report], 0),
        (["compare", "--", report, f"{stem}-gone.json"], 2),
        (["compare", "--gates", f"{stem}-gone.toml", "--", report], 2),
        (["audit", "--train", f"{stem}.csv", "--holdout", f"{stem}.csv", "--label", name, "--", "m:f"], 2),
        (
            [
                "audit",
                "--train",
                "a.csv",
                "--holdout",
                "a.csv",
                "--label",
                "y",
                "--methods",
                f"lira:{stem}=1",
                "m:f",
            ],
            2,
        ),
        (["methods", "--", name], 2),
    ]
    for argv, code in ways:
        assert cli.run(argv) == code, argv
        out, err = capsys.readouterr()
        assert hidden(out) | hidden(err) == set(), argv
        assert len(err.splitlines()) <= 1
    found = Values(Path(page).read_text("utf-8"))
    assert all(link == "data:," or re.fullmatch(r"#[a-z0-9-]+", link) for link in found.links)
    assert {path.name for path in tmp_path.iterdir()} == {report, page, rules}


def test_a_formula_is_no_formula_in_a_table_for_a_spreadsheet() -> None:
    """What begins like a formula is text in every cell of the Markdown tables, which people paste into spreadsheets."""
    text = markdown.of_report(hostile_report("=cmd|' /C calc'!A0"))
    cells = [cell.strip() for line in text.splitlines() if line.startswith("|") for cell in line.split("|")]
    assert any("cmd" in cell for cell in cells)
    assert not any(cell[:1] in "=@" and cell for cell in cells)
