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
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from casemate.core.errors import InvalidData
from casemate.core.types import Curve, Measurement, Note, PerRecord, Property, Table, Threat
from casemate.report import catalogue, plain, render, verdict, words
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
        return plain._width(line[: line.index(mark)])

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
    assert (tag, attrs["srcdoc"]) == ("iframe", render.page(made))
    assert str(compare(made)).splitlines()[-1] == "no gate set: nothing was judged"


@pytest.mark.parametrize(
    ("numbers", "shown"),
    [
        ((0.5, 0.4, 0.6), "0.500 [0.400, 0.600]"),
        ((0.00051, 0.00001, 0.002), "0.00051 [0.00001, 0.00200]"),
        ((-0.00001, -0.5, 0.5), "0.00 [-0.50, 0.50]"),
        ((1e9, 0.5e9, 2e9), "1e+09 [5e+08, 2e+09]"),
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
            assert attrs.get(name, identities[0]) in identities


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
    # `~` needs the boxes to be siblings before what they hide: the first things in the body
    body = text[text.index("<body>") + 6 :].lstrip()
    assert body.startswith('<input class="pick"')
    pairs = [a.get("lang") for t, a in page.tags if t == "span" and "lang" in a]
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
            "caveats": ["c"] * 5000,
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
    assert shown.count("More: Importance of each column") == (2 if kind == "comparison" else 1)


def test_a_report_of_a_comparison_draws_only_what_is_not_drawn_before_and_after() -> None:
    alone, pair = render.page(report(*ROWS)), comparison_page(2)
    assert alone.count('id="r0-privacy-0-c"') == 1
    assert pair.count('id="c-privacy-0-c"') == 1
    assert 'id="r0-privacy-0-c"' not in pair
    assert 'id="r0-explanation-0-c"' in pair  # what counts for each model


def test_of_more_than_two_reports_the_numbers_stand_side_by_side_alone() -> None:
    many, pair = comparison_page(4), comparison_page(2)
    told = catalogue.texts("en")["page.numbers_above"]
    assert (many.count(told), pair.count(told)) == (4, 0)
    for part in ("verdict", "missing", "caveats", "reproduce"):
        assert many.count(f'-{part}"><h') == 4
    assert 'id="r0-privacy"' in pair
    assert 'id="r0-privacy"' not in many


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
    kept = {"Casemate", "CSV", "JSON", "Python", "ROC", "UTC", "json", "like", "n", "report", "lira"}
    latin = {word for text in zh.values() for word in re.findall(r"[A-Za-z]+", re.sub(r"\{\w+\}", "", text))}
    assert latin - kept == set()


def test_every_text_is_used_and_every_used_text_is_there() -> None:
    sources = [path.read_text("utf-8") for path in (*PACKAGE.glob("*.py"), PACKAGE / "page.html.jinja")]
    code = "\n".join(sources)
    known = set(catalogue.texts("en"))
    sections = "|".join({key.partition(".")[0] for key in known})
    whole = set(re.findall(rf"[\"']((?:{sections})\.[a-z_]+)[\"']", code))
    built = set(
        re.findall(rf"\"((?:{sections})\.[a-z_]*)(?:\{{|\" ~)", code)
    )  # f"status.{name}", "page." ~ key
    assert whole - known == set()
    used = whole | {key for key in known for stem in built if key.startswith(stem)}
    # the keys after "page." stand as bare words in the template and in _facts
    bare = {key for key in known if key.startswith("page.") and f'"{key[5:]}"' in code}
    unused = {
        key for key in known if key not in whole and (key.startswith("page.") or key not in used)
    } - bare
    assert unused == set()
