# SPDX-License-Identifier: Apache-2.0
"""Markdown of reports: what it says, how long it is, and that no name in it is anything but text to a GFM parser."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from casemate.core.types import Measurement, Note, Table
from casemate.report import gfm, markdown, words
from casemate.report.catalogue import LANGUAGES, texts
from casemate.report.compare import Comparison, compare
from casemate.report.model import Report

PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
INLINE = {"text", "text_special", "code_inline", "strong_open", "strong_close", "softbreak"}
BLOCKS = {"heading", "paragraph", "bullet_list", "list_item", "table", "thead", "tbody", "tr", "th", "td"}
# What a site makes of finished text: mentions, references, addresses.
CALLS = re.compile(r"@\w|#\d|://|\bwww\.\w|\bgh-\d", re.IGNORECASE)
HOSTILE = [
    "a | b || c \\| d \\\\| e",
    "`code` ``two`` ```fence```",
    "line\nbreak\r\n\r\n# heading\n- item",
    "<script>alert(1)</script><!-- c --><b>",
    "&lt;b&gt; &amp; &#124; &copy;",
    "[link](https://evil.example) ![img](http://evil.example/x.png) [ref]: http://evil.example",
    "0.3 [0.1, 0.2](http://evil.example) 0.3 [0.1, 0.2][1] 0.3 [0.1, 0.2]: http://evil.example",
    "[ref][1] [0.1, 0.2](http://evil.example) x [0.1, 0.2][1] <https://evil.example>",
    "@everyone and someone@example.com, see #12, GH-7, org/repo#3",
    "http://evil.example www.evil.example HTTPS://EVIL.EXAMPLE WWW.evil.example",
    "*em* **strong** _em_ __strong__ ~~gone~~ $x$ $$y$$ a_b_c_ _d",
    "# heading",
    "- item",
    "+ item",
    "1. first",
    "22) second",
    "> quote",
    "=cmd|' /C calc'!A0",
    "-2+3+cmd|x",
    "@SUM(1+1)",
    "---",
    "===",
    "***",
    "    indented code",
    "|---|---|",
    "\u202egnp.exe\u202c zero\u200bwidth \x1b[31mred",
    "trailing backslash \\",
    "[^1] :tada: {{ 7331*7 }} {0.__class__}",
    "年龄 | 岁 @某人",
    "long" * 4000,
]


def row(method: str, quantity: str, interval: Any = (0.8, 0.75, 0.85), **more: Any) -> Measurement:
    value, low, high = interval
    fields: dict[str, Any] = {
        "property": "privacy", "quantity": quantity, "value": value, "low": low, "high": high, "n": 400,
        "worse": "higher", "method": method, "version": "1", "seed": 0,
    }  # fmt: skip
    return Measurement(**(fields | more))


LOST: dict[str, Any] = {"interval": (None, None, None), "status": "not_measured"}
ROWS = (
    row("lira", "auc"),
    row("lira", "blind_auc", (0.5, 0.4, 0.6)),
    row("lira", "tpr_at_0.1pct_fpr", **LOST, reason="too few people"),
    row("utility", "accuracy", (0.9, 0.88, 0.92), property="utility", worse="lower"),
    row("pgd", "robust_accuracy", (0.3, 0.25, 0.35), property="robustness", worse="lower"),
)


def report(*rows: Measurement, **changed: Any) -> Report:
    target = {
        "kind": "sklearn",
        "task": "binary",
        "input": "table",
        "capabilities": ["scores"],
        "digest": "feed",
    }
    fields: dict[str, Any] = {
        "created": "2026-11-05T10:00:00+00:00",
        "version": "0.1.0",
        "target": target | {"caveats": ["the recipe was guessed"]},
        "data": {"n_train": 400, "n_holdout": 400, "n_columns": 9, "digest": "beef"},
        "methods": ({"name": "lira", "version": "1", "status": "ok", "params": {"n_shadows": 16}},),
        "measurements": rows,
        "pairing": {"key": "topsecret"},
        "environment": {
            "python": "CPython 3.11",
            "machine": "x86_64, 2 cores",
            "packages": {"numpy": "2.4.0"},
        },
        "command": ["casemate", "audit", "m:f", "--train", "a file.csv"],
    }
    return Report(**(fields | changed))


def hostile(name: str) -> Report:
    """Return a report in which everything that can carry a name is that name."""
    rows = [
        row(name, name, property=part, version=name, unit=name, reason=name)
        for part in ("privacy", "robustness", "confidentiality", "explanation", "utility")
    ]
    columns = Table(name="importance", columns=("column", "importance"), rows=((name, 1.0),))
    rows[3] = replace(rows[3], details=(columns, Note(text=name)))
    target = dict.fromkeys(("kind", "task", "input", "digest"), name) | {
        "caveats": [name],
        "capabilities": [name],
    }
    return report(
        *rows,
        row(f"{name}2", name, **LOST, reason=name),
        target=target,
        data={"n_train": 1, "n_holdout": 1, "digest": name},
        created=f"2026-11-05T10:00:00 {name}",
        version=name,
        methods=(
            {"name": name, "version": name, "params": {name: name}, "status": "failed", "reason": name},
        ),
        environment={"python": name, "packages": {name: name}},
        command=[name, name],
    )


def compared(*reports: Report, name: str = "few stand out", limit: float = 0.7) -> Comparison:
    m = reports[0].measurements[0]
    gate = {"method": m.method, "quantity": m.quantity, "max": limit, "name": name}
    return compare(*reports, gates={"gate": [gate]})


def blocks(text: str) -> list[str]:
    """Return the block structure: what a name must not be able to change."""
    return [f"{token.type} {token.tag} {token.nesting}" for token in PARSER.parse(text)]


def inline(text: str) -> list[Token]:
    return [child for token in PARSER.parse(text) for child in token.children or ()]


def cells(line: str) -> list[str]:
    """Return the cells of one row of a table of two columns as a reader sees them."""
    tokens = PARSER.parse(f"| a | b |\n|---|---|\n{line}")
    at = [i + 1 for i, token in enumerate(tokens) if token.type == "td_open"]
    return ["".join(child.content for child in tokens[i].children or ()) for i in at]


def bare(text: str) -> str:
    """Return a text without the brackets that mark what was written out."""
    return text.replace("⟨", "").replace("⟩", "")


# ---------------------------------------------------------------------- what it says


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_report_in_markdown_says_verdict_missing_numbers_and_how_to_repeat(lang: str) -> None:
    say = texts(lang)
    made = markdown.of_report(report(*ROWS), lang)
    headings = re.findall(r"^#+ (.*)$", made, re.MULTILINE)
    keys = ("page.report", "page.verdict", "page.not_measured", "property.privacy", "property.robustness")
    keys += ("property.utility", "page.caveats", "page.reproduce")
    assert headings == [say[key] for key in keys]
    assert say["verdict.none"] in made  # confidentiality and explanation: said, not left out
    assert made.count("0.800 [0.750, 0.850]") == 2  # in the sentence and in the table
    assert f"**{say['status.not_measured']}**" in made and "`tpr_at_0.1pct_fpr`" in made
    assert "casemate audit m:f --train 'a file.csv'" in made
    assert all(part in made for part in ("`feed`", "`beef`", "casemate 0.1.0", "numpy 2.4.0"))
    assert "topsecret" not in made
    assert say["access.scores"] in made


def test_every_row_of_every_table_has_as_many_cells_as_its_head() -> None:
    for made in (
        markdown.of_report(report(*ROWS)),
        markdown.of_comparison(compared(report(*ROWS), report(*ROWS))),
    ):
        tables = re.findall(r"(?:^\|.*\n)+", made, re.MULTILINE)
        assert len(tables) >= 2
        for table in tables:
            lines = table.splitlines()
            assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {len(lines[0].split("|")) - 1}
            assert len(re.findall("td_open", " ".join(blocks(table)))) == (len(lines) - 2) * (
                len(lines[0].split("|")) - 2
            )


@pytest.mark.parametrize(
    ("limit", "result", "code"), [(0.9, "held", 0), (0.7, "failed", 1), (0.8, "not_shown", 3)]
)
def test_a_comparison_in_markdown_says_gates_differences_and_both_sides(
    limit: float, result: str, code: int
) -> None:
    later = report(*(replace(m, value=m.low, high=m.value) if m.low else m for m in ROWS))
    judged = compared(report(*ROWS), report(*ROWS), limit=limit)
    assert judged.exit_code == code
    assert f"| few stand out | **{texts('en')[f'gate.{result}']}** |" in markdown.of_comparison(judged)
    made = markdown.of_comparison(compared(report(*ROWS), later), "zh-CN")
    assert "- **隐私**\n  - 之前：" in made and "\n  - 之后：" in made
    assert "| 0.800 [0.750, 0.850] | 0.7500 [0.7500, 0.8000] |" in made
    alone = markdown.of_comparison(compared(report(*ROWS)))
    assert "**gates: 0 held, 1 failed, 0 not shown or not measured**" in alone
    say = texts("en")
    assert "### Gates" in alone and "### Privacy" in alone and f"### {say['page.compare']}" not in alone
    assert texts("en")["gate.none_set"] in markdown.of_comparison(compare(report(*ROWS)))


def test_what_two_reports_lack_is_listed_once_with_both_names() -> None:
    made = markdown.of_comparison(compared(report(*ROWS), report(*ROWS)))
    (line,) = [line for line in made.splitlines() if line.startswith("- **") and "too few people" in line]
    assert "– Before, After: too few people" in line


def test_a_public_edition_says_so_and_gives_no_digest_command_or_name() -> None:
    made = markdown.of_report(report(*ROWS).public())
    assert texts("en")["text.public"] in made
    assert not re.search("feed|beef|casemate audit|2 cores|cm.audit|--like\\) with", made)


def test_an_audit_from_python_shows_the_call_and_one_too_long_says_so() -> None:
    made = markdown.of_report(report(*ROWS, command=None))
    assert "```python\nimport casemate as cm\n" in made and "cm.method('lira', n_shadows=16)," in made
    many = tuple({"name": f"m{i}", "version": "1", "status": "ok", "params": {}} for i in range(40))
    assert texts("en")["markdown.too_long"] in markdown.of_report(report(*ROWS, command=None, methods=many))


# ---------------------------------------------------------------------- how long it is


@pytest.mark.parametrize("count", [0, 30, 100])
def test_rows_beyond_120_lines_are_counted_and_answers_stay_longest(count: int) -> None:
    controls = [row("lira", "fpr_at_1pct", (0.01, 0.0, 0.02)) for _ in range(count)]
    lost = [row(f"gone{i}", "auc", **LOST, reason=f"why {i}") for i in range(count)]
    made = markdown.of_report(report(*controls, *lost, *ROWS))
    assert len(made.splitlines()) <= markdown.LINES
    assert "(`auc`) | 0.800 [0.750, 0.850]" in made
    shown = sum(line.startswith("| ") for line in made.splitlines()) - len(
        re.findall(r"^\|---", made, re.MULTILINE)
    )
    told = [int(found) for found in re.findall(r"^\.\.\. (\d+) more rows$", made, re.MULTILINE)]
    assert shown + sum(told) == 2 * count + len(ROWS)
    assert bool(told) == (count >= 30)


def test_a_caveat_of_one_report_is_not_said_of_the_other() -> None:
    before, after = report(*ROWS), report(*ROWS)
    after = replace(after, target={**after.target, "caveats": ["the recipe was guessed", "the clock cut it"]})
    made = markdown.of_comparison(compared(before, after))
    assert "\n- the recipe was guessed\n" in made and "\n- After: the clock cut it\n" in made
    alone = markdown.of_report(after)
    assert "\n- the recipe was guessed\n- the clock cut it\n" in alone


def test_in_a_long_comparison_what_moved_stays() -> None:
    still = [row(f"still{i}", "auc", (0.5, 0.5, 0.5)) for i in range(120)]
    moved = [row("moved", "auc", (0.9, 0.9, 0.9))], [row("moved", "auc", (0.4, 0.4, 0.4))]
    made = markdown.of_comparison(compared(report(*still, *moved[0]), report(*still, *moved[1])))
    assert len(made.splitlines()) <= markdown.LINES
    assert "`moved auc`" in made and "−0.5 [−0.5, −0.5] | **better** |" in made
    assert re.search(r"^\.\.\. \d+ more rows$", made, re.MULTILINE)


def test_of_many_gates_the_failed_ones_are_shown() -> None:
    gates = [{"method": "lira", "quantity": "auc", "max": 0.9, "name": f"held {i}"} for i in range(40)]
    gates.append({"method": "lira", "quantity": "auc", "max": 0.1, "name": "broken"})
    made = markdown.of_comparison(compare(report(*ROWS), gates={"gate": gates}))
    assert "| broken | **failed** |" in made and "... 31 more rows" in made


def test_many_reports_fit_a_comment() -> None:
    made = markdown.of_comparison(compared(*(report(*ROWS) for _ in range(12))))
    assert len(made.splitlines()) <= markdown.LINES and len(made) <= 65_000
    assert (
        "| few stand out, After (1) | **failed** |" in made
        and "| Privacy, After (2) |" in made
        and "... 9 more rows" in made
    )


# ---------------------------------------------------------------------- names stay text


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: repr(name[:20]))
def test_no_name_is_anything_but_text(name: str) -> None:
    for make in (
        lambda name: markdown.of_report(hostile(name)),
        lambda name: markdown.of_report(hostile(name), "zh-CN"),
        lambda name: markdown.of_comparison(compared(hostile(name), hostile(name), name=name)),
    ):
        made = make(name)
        assert {token.type for token in inline(made)} <= INLINE
        kinds = {token.type.removesuffix("_open").removesuffix("_close") for token in PARSER.parse(made)}
        assert kinds <= BLOCKS | {"fence", "inline"}
        assert blocks(made) == blocks(make("harmless"))
        assert not [
            token.content for token in inline(made) if token.type == "text" and CALLS.search(token.content)
        ]
        assert made == "\n".join(words.visible(line, 10**6) for line in made.split("\n"))
        assert len(made.splitlines()) <= markdown.LINES and len(made) <= 65_000


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: repr(name[:20]))
def test_a_reader_sees_the_name_itself(name: str) -> None:
    flat = " ".join(words.visible(name, 300).split())
    for kept in (gfm.text(name), gfm.code(name, 300)):
        first, second = cells(f"| {kept} | x |")
        assert (bare(first), second) == (bare(flat), "x")


MARKS = st.text(st.sampled_from(" |\\`*_~[]()<>&#@!+-=.:/$^{}\"'0123wgha\n\t1文é⟨\u202e\xa0"), max_size=24)


@settings(max_examples=150, deadline=None)
@given(name=MARKS | st.text(max_size=24))
def test_whatever_the_text_a_cell_an_item_and_a_stress_hold_it_and_nothing_else(name: str) -> None:
    flat = " ".join(words.visible(name).split())
    for kept in (gfm.text(name), gfm.code(name)):
        seen = cells(f"| {kept} | x |")
        assert [bare(cell) for cell in seen] == [bare(flat), "x"]
        items = PARSER.parse(f"- {kept}\n- x")
        assert sum(token.type.startswith("list_item") for token in items) == 4
        assert {token.type for token in inline(f"- {kept}")} <= {"text", "text_special", "code_inline"}
        if flat:
            strong = inline(f"- **{kept}**: x")
            assert [token.type for token in strong if "strong" in token.type] == [
                "strong_open",
                "strong_close",
            ]
        assert not CALLS.search("".join(token.content for token in inline(kept) if token.type == "text"))


@example(name="```\n# out")
@settings(max_examples=100, deadline=None)
@given(name=MARKS | st.text(max_size=24))
def test_whatever_the_command_its_fence_holds_it(name: str) -> None:
    (token,) = PARSER.parse("\n".join(gfm.fenced(name, "sh")))
    assert token.type == "fence"
    assert token.content == "".join(f"{words.visible(line)}\n" for line in name.split("\n"))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("=1+1", "⟨=⟩1+1"),
        ("-2+3", "⟨-⟩2+3"),
        ("+x", "⟨+⟩x"),
        ("@SUM(A1)", "⟨@⟩SUM(A1)"),
        ("-0.5", "-0.5"),
        ("-0.16 [-0.21, -0.11]: held", "-0.16 [-0.21, -0.11]: held"),
        ("1e-05 nats", "1e-05 nats"),
    ],
)
def test_what_begins_a_formula_in_a_sheet_is_marked_and_a_number_is_not(name: str, shown: str) -> None:
    assert gfm.text(name) == shown


# ---------------------------------------------------------------------- saved


def test_a_report_and_a_comparison_are_saved_as_markdown_in_the_language_of_the_environment(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = report(*ROWS)
    monkeypatch.setenv("CASEMATE_LANG", "zh")
    assert made.save(tmp_path / "r.md").read_text("utf-8") == markdown.of_report(made, "zh-CN")
    monkeypatch.setenv("CASEMATE_LANG", "tlh")  # not known: English, as a display must not fail
    both = compare(made, made)
    assert both.save(tmp_path / "c.MD").read_text("utf-8") == markdown.of_comparison(both)
