# SPDX-License-Identifier: Apache-2.0
"""The report as read: sentences, text for the terminal, one static page in two languages, and its catalogue."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import string
import time
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from casemate.core.errors import InvalidData
from casemate.core.types import Curve, Measurement, Note, PerRecord, Property, Table, Threat
from casemate.report import catalogue, plain, render, several, verdict, words
from casemate.report.compare import compare
from casemate.report.model import Report

PACKAGE = Path(render.__file__).parent
VOID = {"meta", "link", "input", "br", "path"}


def row(
    prop: Property, method: str, quantity: str, interval: Any = (0.6, 0.5, 0.7), *details: Any, **more: Any
) -> Measurement:
    fields: dict[str, Any] = {
        "property": prop,
        "quantity": quantity,
        "value": interval[0],
        "low": interval[1],
        "high": interval[2],
        "n": 400,
        "worse": "higher",
        "method": method,
        "version": "1",
        "seed": 0,
        "details": details,
    }
    return Measurement(**(fields | more))


IMPORTANCE = Table(
    name="importance",
    columns=("column", "importance", "low", "high"),
    rows=(("age", 0.12, 0.1, 0.14), ("pay", 0.1, 0, 1)),
)
ROC = Curve(
    name="roc",
    x=(0.0, 0.01, 0.1, 1.0),
    y=(0.0, 0.1, 0.4, 1.0),
    low=(0.0, 0.1, 0.3, 1.0),
    high=(0.1, 0.2, 0.5, 1.0),
)
ROWS = (
    row("privacy", "lira", "auc", (0.8, 0.75, 0.85), ROC, Note(text="in-rate a half")),
    row(
        "privacy",
        "lira",
        "tpr_at_0.1pct_fpr",
        (None, None, None),
        status="not_measured",
        reason="too few people",
    ),
    row(
        "robustness",
        "pgd",
        "robust_accuracy",
        (0.3, 0.25, 0.35),
        threat=Threat(norm="linf", radius=0.3, scale="spread"),
    ),
    row("explanation", "permutation_importance", "top_importance", (0.12, 0.1, 0.14), IMPORTANCE),
    row("utility", "utility", "accuracy", (0.9, 0.88, 0.92)),
)
METHODS = (
    {"name": "lira", "version": "1", "status": "ok", "params": {"n_shadows": 16}, "seconds": 3.25},
    {"name": "pgd", "version": "1", "status": "ok", "params": {}},
    {"name": "rounding", "version": "1", "status": "failed", "reason": "it broke"},
)


def report(*rows: Measurement, **changed: Any) -> Report:
    target = {
        "kind": "sklearn",
        "task": "binary",
        "input": "table",
        "capabilities": ["scores"],
        "digest": "feed",
        "caveats": ["the recipe was guessed"],
    }
    fields: dict[str, Any] = {
        "created": "2026-11-05T10:00:00+00:00",
        "version": "0.1.0",
        "target": target,
        "data": {
            "n_train": 400,
            "n_holdout": 400,
            "n_columns": 9,
            "people": {"train": 40, "holdout": 37},
            "digest": "beef",
        },
        "methods": METHODS,
        "measurements": rows,
        "pairing": {"key": "topsecret"},
        "command": ["casemate", "audit", "m:f", "--train", "a file.csv"],
    }
    return Report(**(fields | changed))


class Page(HTMLParser):
    """The parsed page: tags with attributes, text under each, and whether tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)


def read(text: str) -> str:
    return " ".join("".join(Page(text).texts).split())


# ---------------------------------------------------------------------- sentences


@pytest.mark.parametrize(
    ("rows", "state", "says"),
    [
        ([], "none", "says nothing"),
        ([row("privacy", "lira", "auc", (0.8, 0.75, 0.85))], "found", "lower bound"),
        ([row("privacy", "lira", "auc", (0.52, 0.47, 0.57))], "not_found", "Not detected at this power"),
        (
            [row("privacy", "lira", "tpr_at_1pct_fpr", (0.2, 0.1, 0.3))],
            "found",
            "without the model it is 0.01",
        ),
        ([row("privacy", "lira", "tpr_at_0.1pct_fpr", (0.002, 0.0005, 0.01))], "not_found", "it is 0.001"),
        (
            [row("privacy", "lira", "auc", (0.8, 0.7, 0.9), status="inconclusive", reason="few")],
            "none",
            "nothing",
        ),
    ],
)
def test_the_sentence_on_privacy_says_what_was_seen_against_guessing(
    rows: Any, state: str, says: str
) -> None:
    sentence = verdict.sentences(report(*rows))[0]
    assert (sentence.property, sentence.state) == ("privacy", state)
    assert says in sentence.long["en"]


def test_one_of_many_numbers_just_beyond_guessing_is_not_called_a_leak() -> None:
    """At 95 % each, four numbers of a model that leaks nothing would cry wolf in one audit of ten."""
    alone = row("privacy", "lira", "auc", (0.52, 0.501, 0.539))
    others = (("lira", "person_auc"), ("loss_attack", "auc"), ("loss_attack", "person_auc"))
    rest = [row("privacy", method, quantity, (0.5, 0.48, 0.52)) for method, quantity in others]
    assert verdict.sentences(report(alone))[0].state == "found"
    assert verdict.sentences(report(alone, *rest))[0].state == "not_found"
    strong = row("privacy", "lira", "auc", (0.6, 0.58, 0.62))
    assert verdict.sentences(report(strong, *rest))[0].state == "found"


def test_an_attack_must_beat_what_can_be_told_without_the_model() -> None:
    """Where train and holdout differ by source, an AUC above one half is no leak of the model."""
    attack = row("privacy", "lira", "auc", (0.59, 0.55, 0.63))
    blind = row("privacy", "lira", "blind_auc", (0.58, 0.54, 0.62))
    assert verdict.sentences(report(attack))[0].state == "found"
    sentence = verdict.sentences(report(attack, blind))[0]
    assert sentence.state == "not_found"
    assert "without the model it is 0.58" in sentence.long["en"]
    alone = replace(blind, value=0.9, low=0.8, high=0.95)
    assert verdict.sentences(report(alone))[0].state == "none", "a control alone is no answer"


def test_the_other_sentences_name_the_worst_attack_and_the_strongest_column() -> None:
    weak = row("robustness", "other", "robust_accuracy", (0.8, 0.7, 0.9))
    found = {s.property: s for s in verdict.sentences(report(*ROWS, weak))}
    assert "0.300 [0.250, 0.350]" in found["robustness"].long["en"]
    assert "0.3 spreads of each column (L∞)" in found["robustness"].long["en"]
    assert found["explanation"].long["en"].startswith("The column that counts most is age")
    assert found["confidentiality"].state == "none"
    flat = row("explanation", "permutation_importance", "top_importance", (0.1, -0.1, 0.3), IMPORTANCE)
    assert verdict.sentences(report(flat))[3].state == "explained_none"


def test_what_is_missing_is_listed_once_with_its_reason() -> None:
    twice = row("privacy", "rounding", "auc", (None, None, None), status="not_measured", reason="it broke")
    found = [(item.name["en"], item.reason) for item in verdict.missing(report(*ROWS, twice))]
    assert len(found) == 2
    assert found[0][0].endswith("(failed)")
    assert found[0][1] == "it broke"
    assert found[1][0].endswith("(not measured)")
    assert found[1][1] == "too few people"


# ---------------------------------------------------------------------- text for the terminal


@pytest.mark.parametrize("lang", catalogue.LANGUAGES)
@pytest.mark.parametrize("count", [0, 1, 5, 18, 19, 300])
def test_an_audit_prints_at_most_25_lines_and_ends_in_a_verdict(lang: str, count: int) -> None:
    rows = [row("privacy", f"method{k}", "auc") for k in range(count)]
    lost = [
        row("privacy", f"gone{k}", "auc", (None,) * 3, status="not_measured", reason="x")
        for k in range(count)
    ]
    lines = plain.text(report(*ROWS, *rows, *lost), lang).splitlines()
    assert len(lines) <= 25
    assert lines[-1].startswith({"en": "Verdict: ", "zh-CN": "结论："}[lang])
    assert lines[-1].endswith(catalogue.texts(lang)["gate.none_set"])
    shown = sum(1 for line in lines if line.endswith(" n=400"))
    told = [int(m[1]) for line in lines if (m := re.search(r"(\d+) (?:more rows|行)$", line))]
    if count == 300:
        assert shown + told[0] == count + 4  # the four measured rows of ROWS are counted too
    if count <= 5:
        assert shown == count + 4


def test_a_comparison_prints_at_most_25_lines_and_ends_in_the_count_of_rows_and_gates() -> None:
    rows = [row("privacy", f"method{k}", "auc") for k in range(100)]
    gates = [{"method": f"method{k}", "quantity": "auc", "max": 0.1} for k in range(40)]
    made = compare(report(*rows), report(*rows), gates={"gate": gates})
    lines = str(made).splitlines()
    assert len(lines) <= 25
    assert lines[-1] == (
        "0 better, 0 worse, 0 without detected change, 100 without a paired difference, 0 not measured; "
        "gates: 0 held, 40 failed, 0 not shown or not measured"
    )


def test_columns_stand_under_each_other_in_both_languages() -> None:
    def place(line: str, mark: str) -> int:
        return words.width(line[: line.index(mark)])

    for lang in catalogue.LANGUAGES:
        lines = [line for line in plain.text(report(*ROWS), lang).splitlines() if " n=400" in line]
        assert len(lines) == 4
        assert len({place(line, "n=400") for line in lines}) == 1


def test_a_report_shows_itself() -> None:
    made = report(*ROWS)
    assert str(made) == repr(made) == plain.text(made)
    held = made._repr_html_()
    assert held.startswith("<iframe sandbox")
    ((tag, attrs),) = Page(held).tags
    inside = render.page(made).replace('href="#', 'href="about:srcdoc#')  # see report/notebook.py
    assert (tag, attrs["srcdoc"]) == ("iframe", inside)
    assert str(compare(made)).splitlines()[-1] == "no gate set: nothing was judged"


@pytest.mark.parametrize(
    ("numbers", "shown"),
    [
        ((0.5, 0.4, 0.6), "0.500 [0.400, 0.600]"),
        ((0.00051, 0.00001, 0.002), "0.00051 [0.00001, 0.00200]"),
        ((-0.00001, -0.5, 0.5), "0.00 [−0.50, 0.50]"),
        ((1e9, 0.5e9, 2e9), "10⁹ [5×10⁸, 2×10⁹]"),
        ((3, 3, 3), "3 [3, 3]"),
        ((None, None, None), "–"),
        ((0.5, None, 0.6), "0.5"),
        ((0.5, 0.4, float("inf")), "0.5 [0.4, ∞]"),
    ],
)
def test_numbers_are_written_as_finely_as_their_interval_deserves(numbers: Any, shown: str) -> None:
    assert words.interval(*numbers) == shown


# ---------------------------------------------------------------------- the page


def comparison_page(n: int = 3) -> str:
    later = [replace(m, value=m.low, high=m.value) if m.low is not None else m for m in ROWS]
    gates = {"gate": [{"method": "lira", "quantity": "auc", "max": 0.7, "name": "few stand out"}]}
    other = report(*later)
    return render.page_comparison(compare(report(*ROWS), *[other] * (n - 1), gates=gates))


@pytest.fixture(scope="module", params=["report", "comparison", "empty"])
def html(request: pytest.FixtureRequest) -> str:
    if request.param == "comparison":
        return comparison_page()
    return render.page(report(*ROWS) if request.param == "report" else report(methods=()))


def test_the_page_is_well_formed(html: str) -> None:
    page = Page(html)
    assert page.open == []
    identities = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(identities) == len(set(identities))
    for _, attrs in page.tags:
        for name in ("for", "aria-labelledby"):
            assert set(str(attrs.get(name, identities[0])).split()) <= set(identities)


def test_the_page_asks_for_nothing_and_runs_nothing(html: str) -> None:
    page = Page(html)
    assert {tag for tag, _ in page.tags} & {
        "script",
        "img",
        "iframe",
        "object",
        "embed",
        "form",
        "base",
    } == set()
    links = [
        v
        for _, attrs in page.tags
        for k, v in attrs.items()
        if k in ("src", "href", "srcset", "action", "poster")
    ]
    inside = {
        f"#{attrs['id']}" for _, attrs in page.tags if "id" in attrs
    }  # the clauses point to the numbers
    assert [link for link in links if link not in inside] == ["data:,"]
    assert not any(name.startswith("on") or name == "style" for _, attrs in page.tags for name in attrs)
    style = html[html.index("<style>") + 7 : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy is not None
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';")
    assert "unsafe" not in policy


@pytest.mark.parametrize("lang", catalogue.LANGUAGES)
def test_both_languages_are_in_the_file_with_a_switch_that_needs_no_script(lang: str) -> None:
    text = render.page(report(*ROWS), lang)
    page = Page(text)
    boxes = {a["id"]: a for t, a in page.tags if t == "input"}
    assert set(boxes) == {"pick-en", "pick-zh-CN"}
    assert [name for name, attrs in boxes.items() if "checked" in attrs] == [f"pick-{lang}"]
    assert {attrs["name"] for attrs in boxes.values()} == {"language"}
    assert '#pick-en:checked~* [lang="zh-CN"],#pick-zh-CN:checked~* [lang="en"]{display:none}' in text
    assert ("html", {"lang": lang}) in page.tags
    # `~` needs the boxes to be siblings before what they hide: the first things in the one landmark
    body = text[text.index("<main>") + 6 :].lstrip()
    assert body.startswith('<input class="pick"')
    pairs = [a.get("lang") for t, a in page.tags if t == "i" and "lang" in a]
    assert pairs.count("en") == pairs.count("zh-CN") > 40
    with pytest.raises(InvalidData, match="no language 'fr'"):
        render.page(report(), "fr")


def test_the_page_says_all_that_the_report_knows() -> None:
    text = read(render.page(report(*ROWS)))
    for part in (
        "0.800 [0.750, 0.850]",
        "Membership inference",
        "成员推断",
        "too few people",
        "it broke",
        "the recipe was guessed",
        "in-rate a half",
        "'a file.csv'",
        "feed",
        "beef",
        "n_shadows=16",
        "of 40 and 37 people",
        "No measurement of this property",
        "0.3 spreads",
        "age",
        "0.1.0",
    ):
        assert part in text, part
    assert "topsecret" not in text
    whole = read(comparison_page())
    for part in ("few stand out", "failed", "not paired", "After (2)", "之后", "同一批记录"):
        assert part in whole, part


def test_light_dark_and_print_have_their_styles() -> None:
    text = render.page(report())
    assert "@media (prefers-color-scheme:dark)" in text
    assert "@media print" in text


def test_a_huge_report_stays_small_and_hides_nothing_without_saying_so() -> None:
    n = 48_000
    records = tuple(
        PerRecord(name=name, ids=tuple(range(n)), values=tuple(np.linspace(0.123456, 0.654321, n).tolist()))
        for name in ("members", "nonmembers")
    )
    rows = tuple((f"column {k}", 0.1, 0.0, 0.2) for k in range(5000))
    table = replace(IMPORTANCE, rows=rows)
    many = [row("privacy", f"attack{k}", "auc", (0.5, 0.4, 0.6), *records, table) for k in range(200)]
    made = report(
        *many,
        target={
            "kind": "x",
            "capabilities": [],
            "classes": [f"class {k}" for k in range(9999)],
            "caveats": [f"c{k}" for k in range(5000)],
        },
        methods=[{"name": f"m{k}", "status": "failed", "reason": "r" * 5000} for k in range(3000)],
    )
    start = time.process_time()
    text = render.page(made)
    assert time.process_time() - start < 3
    assert len(text.encode()) <= 400_000
    assert "0.123456" not in text
    shown = read(text)
    assert "column 24" in shown
    assert "column 25" not in shown
    for hidden in (
        "... 4975 more rows",
        "... 140 more rows",
        "... 2940 more rows",
        "... 9987 more rows",
        "... 4940 more rows",
    ):
        assert hidden in shown


@pytest.mark.parametrize("kind", ["report", "comparison"])
def test_every_chart_has_a_name_a_description_and_its_numbers_in_a_table(kind: str) -> None:
    text = comparison_page(2) if kind == "comparison" else render.page(report(*ROWS))
    tags = Page(text).tags
    pictures = [attrs for tag, attrs in tags if tag == "svg"]
    assert len(pictures) == [tag for tag, _ in tags].count("figure") >= 2
    named = {attrs["id"]: tag for tag, attrs in tags if "id" in attrs}
    for attrs in pictures:
        assert attrs["role"] == "img"
        assert named[str(attrs["aria-labelledby"])] == "figcaption"
        assert named[str(attrs["aria-describedby"])] == "p"
    shown = read(text)
    assert shown.count("Numbers of this chart") == 1
    assert (
        shown.count("Permutation importance: Importance of each column") == 1
    )  # of two reports side by side


# ---------------------------------------------------------------------- one structure for one report and for several

PAGES = (
    "verdict",
    "privacy",
    "robustness",
    "confidentiality",
    "explanation",
    "groups",
    "compare",
    "standards",
)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_each_page_stands_once_and_the_bar_leads_to_it(n: int) -> None:
    text = comparison_page(n) if n > 1 else render.page(report(*ROWS))
    wanted = [name for name in (*PAGES, "reproduce") if n > 1 or name != "compare"]
    assert re.findall(r'<h2 id="([\w-]+)">', text) == wanted
    bar = text[text.index('<nav class="pages"') :].partition("</nav>")[0]
    assert re.findall(r'href="#([\w-]+)"', bar) == wanted
    assert [name for name in wanted if text.count(f'<section aria-labelledby="{name}">') != 1] == []


def section_of(text: str, name: str) -> str:
    """The text of one page of the report."""
    rest = text[text.index(f'<section aria-labelledby="{name}">') :]
    part = re.split(r'<section aria-labelledby="(?!verdict )(?!missing)[\w-]+">', rest)[1]
    return " ".join(unescape(re.sub("<[^>]*>", " ", part)).split())


def test_of_several_reports_a_number_has_a_column_a_report_and_its_attacker_stands_once() -> None:
    moved = [
        replace(ROWS[0], value=v, low=v - 0.01, high=v + 0.01, n=n) for v, n in ((0.8, 7), (0.7, 8), (0.6, 9))
    ]
    made = render.page_comparison(compare(*[report(one, *ROWS[1:]) for one in moved]))
    shown = section_of(made, "privacy")
    for part in (
        "Before",
        "After (1)",
        "After (2)",
        "0.8000 [0.7900, 0.8100] 0.7000 [0.6900, 0.7100] 0.6000 [0.5900, 0.6100]",
    ):
        assert part in shown, part
    assert "7 · 8 · 9" in shown
    assert shown.count("trains models of the same recipe") == 1
    assert shown.count("lira 1") == 1
    # the same in all three: once, for all of them
    assert shown.count("too few people") == 1
    assert shown.count("in-rate a half") == 1


def test_no_row_loses_its_n_attacker_method_status_or_reason() -> None:
    lost = {"value": None, "low": None, "high": None, "status": "inconclusive"}
    rows = [
        row("privacy", "loss_attack", "auc", (0.6, 0.5, 0.7), n=4021),
        row("privacy", "loss_attack", "person_auc", n=4022, status="inconclusive", reason="it wavers"),
        replace(row("robustness", "pgd", "robust_accuracy", n=4023, reason="no step moved"), **lost),
    ]
    both_ways = (
        render.page(report(*rows)),
        render.page_comparison(compare(report(*rows), report(*rows[1:]))),
    )
    for text in both_ways:
        shown = section_of(text, "privacy") + section_of(text, "robustness")
        for part in (
            "4021",
            "4022",
            "4023",
            "it wavers",
            "no step moved",
            "inconclusive",
            "loss_attack 1",
            "pgd 1",
        ):
            assert part in shown, part
        assert "sees class probabilities" in shown and "holds the model and its gradients" in shown
    assert "4021 · –" in section_of(both_ways[1], "privacy")


def test_what_is_of_one_report_is_marked_and_what_is_of_all_stands_once() -> None:
    first = row(
        "privacy", "lira", "auc", (0.8, 0.7, 0.9), Note(text="said by both"), Note(text="said before")
    )
    later = row("privacy", "lira", "auc", (0.6, 0.5, 0.7), Note(text="said by both"), Note(text="said after"))
    gone = ({"name": "pgd", "status": "failed", "reason": "only before"},)
    caveats = {"caveats": ["of both", "of the second"]}
    made = compare(
        report(first, methods=gone, target={**report().target, "caveats": ["of both"]}),
        report(later, methods=(), target={**report().target, **caveats}),
    )
    text = render.page_comparison(made)
    shown = section_of(text, "privacy")
    assert shown.count("said by both") == 1 and "之前 said by both" not in shown
    assert re.search(r"Before 之前 said before.*After 之后 said after", shown)
    assert re.search(r"only before Before", section_of(text, "verdict"))
    last = section_of(text, "reproduce")
    assert last.count("of both") == 1 and "之前 of both" not in last
    assert re.search(r"After 之后 of the second", last)
    alone = section_of(render.page(report(first)), "privacy")
    assert "Before" not in alone


def test_a_verdict_of_several_follows_one_number_and_adds_what_says_more_later() -> None:
    strong, weak = (
        row("privacy", "lira", "auc", (0.9, 0.88, 0.92)),
        row("privacy", "lira", "auc", (0.51, 0.48, 0.54)),
    )
    by_loss = row("privacy", "loss_attack", "auc", (0.7, 0.68, 0.72))
    useful = row("utility", "utility", "accuracy", (0.9, 0.9, 0.9), worse="lower")
    poorer = replace(useful, value=0.8, low=0.8, high=0.8)
    made = section_of(
        render.page_comparison(compare(report(strong, useful), report(weak, by_loss, poorer))), "verdict"
    )
    assert "0.9 → 0.51; without the model it is 0.5" in made
    assert "Before 之前 0.9000 [0.8800, 0.9200]" in made
    assert re.search(
        r"After 之后 An attacker who .* Membership inference by the loss, membership AUC 0.7000 \[0.6800",
        made,
    )
    assert "not detected" not in made.partition("Robustness")[0]  # it is detected, by the other attack
    cost = made[made.index("Cost of protection") :]
    assert re.search(r"0.9 → 0.8 .*0.8 \[0.8, 0.8\] change 变化 −0.1 \[−0.1, −0.1\] worse", cost)
    # the difference is that of the number itself, not of another one of its method
    control = row("privacy", "lira", "fpr_at_1pct", (0.01, 0.01, 0.01))
    risen = replace(control, value=0.03, low=0.03, high=0.03)
    near = section_of(
        render.page_comparison(compare(report(control, strong), report(risen, weak))), "verdict"
    )
    assert "membership AUC 0.9 → 0.51" in near
    assert "change 变化" not in near.partition("Robustness")[0]
    # both reports by the same number: told where it stands against guessing in each
    both = section_of(render.page_comparison(compare(report(strong), report(weak))), "verdict")
    assert "more than by guessing" in both and "not detected at this power" in both


def test_the_sentence_of_several_is_not_that_of_the_first_report_alone() -> None:
    """The later report's strongest number is another one: the one that is followed is judged in it all the same."""
    low = row("privacy", "lira", "auc", (0.52, 0.48, 0.56))
    lower = row("privacy", "loss_attack", "auc", (0.52, 0.47, 0.57))
    high = row("privacy", "lira", "auc", (0.8, 0.78, 0.82))
    risen = row("privacy", "loss_attack", "auc", (0.7, 0.68, 0.72))
    up = section_of(render.page_comparison(compare(report(lower, low), report(risen, high))), "verdict")
    told = up.partition("Robustness")[0]
    assert "Not detected at this power:" not in told
    down = section_of(render.page_comparison(compare(report(risen, high), report(lower, low))), "verdict")
    told = down.partition("Robustness")[0]
    assert "finds out more than by guessing:" not in told
    assert "not detected at this power" in told


def test_what_nobody_measured_is_open_on_every_page_and_never_green() -> None:
    for text in (render.page(report()), render.page_comparison(compare(report(), report(), report()))):
        body = text[text.index("<body>") :]
        assert not re.search(r'class="[^"]*\b(?:held|better|good)\b', body)
        for name in ("privacy", "robustness", "confidentiality", "explanation"):
            assert "No measurement of this property" in section_of(text, name)
            assert f'<a href="#{name}" class="gap">' in text
            assert re.search(rf'<section class="box open" aria-labelledby="[\w -]*v-{name}">', text)
        assert "Not measured by group" in section_of(text, "groups")


def test_members_recognised_stand_beside_others_accused_of_the_same_group() -> None:
    columns = ("group", "n", "value", "low", "high")

    def sliced(quantity: str, *lines: Any) -> Measurement:
        table = Table(name=f"{quantity} by group", columns=columns, rows=lines)
        furthest = (
            f"lira {quantity} by group: furthest is sex = 1. These limits hold for all 2 comparisons at once."
        )
        return row("privacy", "lira", quantity, (0.1, 0.0, 0.2), table, Note(text=furthest))

    caught = sliced(
        "tpr_at_1pct_fpr", ("sex = 0", 40, 0.3, 0.2, 0.4), ("sex = 1", 4, "not resolvable at n=4", None, None)
    )
    accused = sliced(
        "fpr_at_1pct", ("sex = 0", 50, 0.07, 0.06, 0.08), ("sex = 1", 5, "not resolvable at n=5", None, None)
    )
    other = sliced("auc", ("sex = 0", 90, 0.5, 0.4, 0.6))
    for text in (
        render.page(report(caught, accused, other)),
        render.page_comparison(compare(report(caught, accused), report(caught, accused, other))),
    ):
        shown = section_of(text, "groups")
        assert "Members recognised" in shown and "Others wrongly accused" in shown
        assert "sex = 0 40 / 50 0.300 [0.200, 0.400] 0.0700 [0.0600, 0.0800]" in shown
        assert "sex = 1 4 / 5 fewer than ten: no figure" in shown
        assert "sex = 0 90" in shown
        assert shown.count("These limits hold for all 2 comparisons at once") == 1
        assert "furthest is sex = 1" in shown
        assert "by group" not in section_of(text, "privacy")


def test_a_clause_points_to_the_place_of_its_number() -> None:
    for text in (render.page(report(*ROWS)), comparison_page(3)):
        part = text[text.index('<section aria-labelledby="standards">') :].partition("</section>")[0]
        links = re.findall(r'<a href="#([\w-]+)">(\w[\w.]*)</a>', part)
        assert ("n-privacy-0", "auc") in links
        for place, key in links:
            cell = re.search(rf'<th scope="row" id="{place}">(.*?)</th>', text)
            assert cell is not None and f"<bdi>{key}</bdi>" in cell[1]
        assert '<li id="s-' not in part  # nothing is listed twice


def test_numbers_without_a_place_on_a_page_are_counted_from_one_beside_the_clauses() -> None:
    crowd = [row("privacy", "new_method", f"q{i}") for i in range(60)]
    text = render.page(report(*crowd, *ROWS))  # the numbers of lira have no room, the others have
    part = text[text.index('<section aria-labelledby="standards">') :].partition("</section>")[0]
    listed = re.findall(r'<li id="(s-\d+)" value="(\d+)">', part)
    assert [value for _, value in listed] == [str(k + 1) for k in range(len(listed))] and listed
    assert re.findall(r'<a href="#n-', part)
    pointed = set(re.findall(r'<a href="#(s-\d+)">\[(\d+)\]</a>', part))
    assert pointed == set(listed)


def test_tables_of_one_number_a_line_stand_side_by_side_and_what_has_no_room_is_counted() -> None:
    def told(*values: float, n: int = 1) -> Measurement:
        lines = tuple((f"line {k}", value) for k, value in enumerate(values))
        tables = [Table(name=f"t{i}", columns=("what", "value"), rows=lines) for i in range(n)]
        return row("privacy", "lira", "auc", (0.6, 0.5, 0.7), *tables)

    shown = section_of(render.page_comparison(compare(report(told(1, 2)), report(told(3, 2)))), "privacy")
    assert "t0 what 项目 Before 之前 After 之后 line 0 1 3 line 1 2 2" in shown
    crowded = section_of(render.page(report(told(*range(25), n=11))), "privacy")
    assert "... 3 more tables, in report.json" in crowded
    assert crowded.count("line 24") == 8


def test_limits_of_groups_that_differ_say_which_figure_they_are_of() -> None:
    def sliced(quantity: str, n: int) -> Measurement:
        lines = (("sex = 0", 40, 0.3, 0.2, 0.4), ("sex = 1", 50, 0.3, 0.2, 0.4))
        table = Table(name=f"{quantity} by group", columns=("group", "n", "value", "low", "high"), rows=lines)
        text = f"lira {quantity} by group: furthest is sex = 1, -0.5. These limits hold for all {n} at once."
        return row("privacy", "lira", quantity, (0.1, 0.0, 0.2), table, Note(text=text))

    found = report(sliced("tpr_at_1pct_fpr", 4), sliced("fpr_at_1pct", 5), sliced("auc", 3))
    for text in (render.page(found), render.page_comparison(compare(found, found))):
        shown = section_of(text, "groups").replace("\u00a0", " ")
        assert [shown.count(f"These limits hold for all {n} at once.") for n in (3, 4, 5)] == [1, 1, 1]
        assert re.search(r"members recognised at 1 % false alarms [^.]* These limits hold for all 4", shown)
        assert re.search(r"false alarms caused at the 1 % threshold [^.]* These limits hold for all 5", shown)
        assert "furthest is sex = 1, \u22120.5." in shown


def test_names_and_headings_of_our_tables_are_said_in_both_languages_and_no_cell_is() -> None:
    table = Table(
        name="examples",
        columns=("change", "distance", "zone"),
        rows=(("change: 1 -> 2", 0.5, "distance"),),
    )
    shown = section_of(
        render.page(report(row("robustness", "pgd", "robust_accuracy", (0.3, 0.2, 0.4), table))), "robustness"
    )
    assert "examples Projected" not in shown and "：样本 change 改动 distance 距离 zone" in shown
    assert "change: 1 → 2 0.5 distance" in shown


def test_a_claim_that_an_attack_contradicts_is_marked_where_it_is_shown() -> None:
    claims = [{"unit": "record", "epsilon": epsilon, "delta": 1e-5} for epsilon in (0.1, 9.0)]
    leaky = row("privacy", "lira", "auc", (0.9, 0.87, 0.93))
    made = report(leaky)
    for text in (
        render.page(replace(made, target={**made.target, "claims": claims})),
        render.page_comparison(compare(made, replace(made, target={**made.target, "claims": claims}))),
    ):
        promised = section_of(text, "verdict")
        assert "ε = 0.1, δ = 10⁻⁵ per record; an attack of this report contradicts it" in promised
        assert "ε = 9, δ = 10⁻⁵ per record;" not in promised
        judged = text[text.index('<section aria-labelledby="standards">') :]
        assert "epsilon = 0.1, delta = 10⁻⁵ per record. An attack of this report contradicts it." in judged
        assert "epsilon = 9, delta = 10⁻⁵ per record. An" not in judged


def test_what_a_comparison_notes_of_one_report_is_shown_beside_the_gates() -> None:
    made = report(row("privacy", "lira", "auc", (0.9, 0.87, 0.93)))
    made = replace(
        made, target={**made.target, "claims": [{"unit": "record", "epsilon": 0.1, "delta": 1e-5}]}
    )
    gates = {"gate": [{"method": "lira", "quantity": "auc", "max": 0.6}]}
    assert "the guarantee does not hold, the training" in section_of(
        render.page_comparison(compare(made, gates=gates)), "verdict"
    )


def test_what_all_reports_say_alike_stands_once() -> None:
    lost = {
        "name": "hop_skip_jump",
        "version": "1",
        "status": "not_run",
        "reason": "not a model for it",
        "seconds": 0.0,
    }
    made = report(replace(ROWS[0], status="inconclusive", reason="a third failed"), methods=(*METHODS, lost))
    text = render.page_comparison(compare(made, made, made))
    ran = section_of(text, "reproduce")
    assert ran.count("not a model for it") == 1 and "0.0 s" not in ran
    assert section_of(text, "privacy").count("a third failed") == 1


def test_more_reports_than_have_a_column_are_counted() -> None:
    assert "2 more stand in the JSON" in section_of(comparison_page(6), "verdict")
    assert "more stand in the JSON" not in comparison_page(4)


def test_texts_of_methods_are_said_in_both_languages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notes, reasons and caveats go through the one place that knows their Chinese."""
    known = {"in-rate a half", "too few people", "it broke", "the recipe was guessed"}

    def said(text: str) -> Any:
        return {"en": text, "zh-CN": "译文" if text in known else text}

    monkeypatch.setattr(several, "said", said)
    text = render.page(report(*ROWS))
    for sentence in known:
        assert f"<i lang=en>{sentence}</i><i lang=zh-CN>译文</i>" in text, sentence


def test_four_long_reports_of_people_keep_the_page_small() -> None:
    """As RAND HIE with five methods: every attack by record and by person, every figure by group."""
    columns = ("group", "n", "value", "low", "high")
    group = Table(
        name="auc by group", columns=columns, rows=tuple((f"g = {k}", 9, 0.5, 0.4, 0.6) for k in range(25))
    )
    long = [
        row("privacy", method, f"{who}{name}", (0.6, 0.5, 0.7), group)
        for method in ("lira", "loss_attack")
        for who in ("", "person_")
        for name in (
            "auc",
            "tpr_at_1pct_fpr",
            "tpr_at_0.1pct_fpr",
            "fpr_at_1pct",
            "fpr_at_0.1pct",
            "blind_auc",
        )
    ]
    made = report(*long, *ROWS)
    assert len(render.page_comparison(compare(made, made, made, made)).encode()) <= 400_000


def test_no_heading_is_a_step_too_deep(html: str) -> None:
    depth = [int(tag[1]) for tag, _ in Page(html).tags if re.fullmatch("h[1-6]", tag)]
    assert depth[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(depth))


# ---------------------------------------------------------------------- the catalogue


def test_both_languages_have_the_same_keys_and_blanks() -> None:
    en, zh = (catalogue.texts(lang) for lang in catalogue.LANGUAGES)
    assert en.keys() == zh.keys()

    def blanks(text: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}

    assert [key for key in en if blanks(en[key]) != blanks(zh[key])] == []


def test_nothing_is_left_untranslated() -> None:
    en, zh = (catalogue.texts(lang) for lang in catalogue.LANGUAGES)
    chinese = re.compile(r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]")
    assert [key for key, text in en.items() if chinese.search(text)] == []
    assert [key for key, text in zh.items() if not chinese.search(text)] == []
    # words of another script inside Chinese: names and symbols that have no translation
    kept = {
        "Casemate",
        "CSV",
        "JSON",
        "Python",
        "ROC",
        "UTC",
        "html",
        "json",
        "like",
        "n",
        "report",
        "lira",
        "sensitive",
    }
    latin = {word for text in zh.values() for word in re.findall(r"[A-Za-z]+", re.sub(r"\{\w+\}", "", text))}
    assert latin - kept == set()


def test_every_text_is_used_and_every_used_text_is_there() -> None:
    paths = [*PACKAGE.glob("*.py"), *(PACKAGE / "templates").glob("*.jinja")]
    sources = [path.read_text("utf-8") for path in paths]
    code = "\n".join(sources)
    known = set(catalogue.texts("en"))
    sections = "|".join({key.partition(".")[0] for key in known})
    whole = set(re.findall(rf"[\"']((?:{sections})\.[a-z_]+)[\"']", code))
    built = set(
        re.findall(rf"\"((?:{sections})\.[a-z_]*)(?:\{{|\" ~)", code)
    )  # f"status.{name}", "page." ~ key
    assert whole - known - {"model.pkl"} == set()
    used = whole | {key for key in known for stem in built if key.startswith(stem)}
    # the keys after "page." stand as bare words in the template and in _facts
    bare = {key for key in known if key.startswith("page.") and f'"{key[5:]}"' in code}
    unused = {
        key for key in known if key not in whole and (key.startswith("page.") or key not in used)
    } - bare
    assert unused == set()
