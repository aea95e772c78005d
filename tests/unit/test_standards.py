# SPDX-License-Identifier: Apache-2.0
"""The crosswalk: complete in both languages, true to the cards, honest about what is missing. And how to repeat."""

from __future__ import annotations

import ast
import html
import re
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

import casemate as cm
from casemate.core import methods
from casemate.core.errors import InvalidData
from casemate.core.harness import UTILITY, quantities
from casemate.core.types import Measurement, Table
from casemate.report import clauses, render, reproduce, standards, words
from casemate.report.catalogue import LANGUAGES, both
from casemate.report.model import Report

ON = date(2026, 12, 1)
ENTRIES = clauses.crosswalk().entries
TOML = (Path(clauses.__file__).parent / "standards.toml").read_text("utf-8")
TARGET = {"kind": "XGBoost", "task": "binary", "input": "table", "capabilities": ["scores"], "digest": "feed"}
CHINESE = re.compile(r"[\u4e00-\u9fff]")
# Words of a judgement that no measurement can give. "safety" and "security" are names of what is looked at.
BANNED = re.compile(
    r"complian|complies|certif|conform|\bsafe\b|\bsecure\b|approved|fulfil|satisf(?:y|ies)|\bpass(?:es|ed)?\b|guarantees"
    r"|合规|认证|符合|达标|合格|安全可靠|保证|获批|通过审",
    re.IGNORECASE,
)


def m(method: str, quantity: str, value: float | None = 0.6, **more: Any) -> Measurement:
    fields: dict[str, Any] = {
        "property": "utility" if method == "utility" else methods.find(method).card.property,
        "method": method,
        "quantity": quantity,
        "value": value,
        "low": None if value is None else value - 0.1,
        "high": None if value is None else value + 0.1,
        "n": 400,
        "worse": "higher",
        "version": "1",
        "seed": 0,
    }
    return Measurement(**(fields | more))


def report(*rows: Measurement, **changed: Any) -> Report:
    fields: dict[str, Any] = {
        "created": "2026-11-05T10:00:00+00:00",
        "version": "0.1.0",
        "target": {"kind": "XGBoost", "capabilities": ["scores"], "digest": "feed"},
        "data": {"n_train": 400, "n_holdout": 400, "digest": "beef"},
        "measurements": rows,
    }
    return Report(**(fields | changed))


def row(clause: str, *reports: Report, on: date = ON) -> dict[str, Any]:
    (found,) = [r for r in standards.rows(*reports, on=on) if r["clause"] == clause]
    return found


def texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in texts(item)]
    return [value] if isinstance(value, str) else []


# ---------------------------------------------------------------------- the data


def test_the_frameworks_of_the_issue_are_all_there() -> None:
    counts = {key: sum(e.framework == key for e in ENTRIES) for key in {e.framework for e in ENTRIES}}
    assert set(counts) == {
        "ai-act", "atlas", "gb-45654", "gdpr", "hipaa", "iso-42001", "nist-ai-rmf", "nist-aml", "owasp-llm",
        "owasp-ml", "sr-26-2",
    }  # fmt: skip
    assert sum(counts.values()) >= 50
    assert clauses.crosswalk().version
    assert clauses.crosswalk().made_on <= ON


def test_the_five_attacks_of_article_15_each_have_a_row() -> None:
    named = {e.clause.partition(", ")[2] for e in ENTRIES if e.clause.startswith("Art. 15(5)")}
    assert named == {
        "data poisoning",
        "model poisoning",
        "model evasion",
        "confidentiality attacks",
        "model flaws",
    }


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: f"{e.framework} {e.clause}")
def test_every_entry_is_complete_in_both_languages(entry: clauses.Entry) -> None:
    for name in ("name", "title", "scope", "not_covered", "human_action"):
        text = getattr(entry, name)
        assert set(text) == set(LANGUAGES)
        assert all(part.strip() for part in text.values())
        assert not CHINESE.search(text["en"]), name
        assert CHINESE.search(text["zh-CN"]) or text["zh-CN"] == "MITRE ATLAS", name
    assert entry.edition
    assert entry.source.startswith("https://")
    assert (entry.checked_on is None) == (entry.checked_by == "")
    if entry.checked_on is not None:
        assert entry.checked_on <= clauses.crosswalk().made_on


def test_every_method_and_quantity_stands_on_a_card() -> None:
    cards = {card.name: card for card in [UTILITY, *(found.card for found in methods.every())]}
    wrong = [
        (entry.clause, method, quantity)
        for entry in ENTRIES
        for method, names in entry.evidence.items()
        for quantity in names
        if method not in cards or quantity not in quantities(cards[method])
    ]
    assert wrong == []


def test_no_word_of_a_judgement_is_used() -> None:
    fixed = [text for pair in clauses.crosswalk().words.values() for text in pair.values()]
    said = [text for entry in ENTRIES for text in texts(vars(entry))]
    again = [text for pair in reproduce._TEXTS.values() for text in pair]
    assert [text for text in [*fixed, *said, *again] if BANNED.search(text)] == []
    assert BANNED.search("The model is compliant.")
    assert BANNED.search("模型已合规")


def test_the_fixed_words_have_the_same_blanks_in_both_languages() -> None:
    for key, pair in clauses.crosswalk().words.items():
        assert len({tuple(sorted(re.findall(r"\{\w+\}", text))) for text in pair.values()}) == 1, key
        assert CHINESE.search(pair["zh-CN"]), key
    for key, pair in reproduce._TEXTS.items():
        assert CHINESE.search(pair[1]), key


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('zh = "逃逸攻击" }', 'zh = "" }', "NISTAML.022: title has no zh-CN"),
        ('evidence = ["white_box"]', 'evidence = ["whitebox"]', "no evidence is called 'whitebox'"),
        ('framework = "gdpr"', 'framework = "gdrp"', "gdrp Art. 5"),
        ('source = "https://www.iso', 'source = "http://www.iso', "must be an https address"),
        ('checked_on = ""', "checked_on = 2026-11-23", "checked_on is a date with checked_by"),
        ('checked_by = "primary"', 'checked_by = "hearsay"', "checked_on is a date with checked_by"),
        ('clause = "ML02:2023"', 'clause = "ML01:2023"', "owasp-ml ML01:2023 twice"),
        ('version = "2026.11"', "version = 3", "needs a version"),
        ("[words]", "[words", "not TOML"),
    ],
)  # fmt: skip
def test_incomplete_data_are_refused_by_name(old: str, new: str, message: str) -> None:
    assert old in TOML
    with pytest.raises(InvalidData, match=re.escape(message)):
        clauses.parse(TOML.replace(old, new, 1))


def test_a_clause_with_an_empty_date_is_not_verified_whatever_its_framework_says() -> None:
    text = TOML.replace('clause = "A.7.4"', 'clause = "A.7.4"\nchecked_on = ""', 1)
    (entry,) = [e for e in clauses.parse(text).entries if e.clause == "A.7.4"]
    assert entry.checked_on is None
    assert entry.checked_by == ""


# ---------------------------------------------------------------------- the rows of a report


def test_a_report_with_nothing_measured_says_not_measured_everywhere() -> None:
    for found in standards.rows(report(), on=ON):
        assert found["state"] == "none"
        assert found["says"]["en"].startswith("Not measured")
        assert found["says"]["zh-CN"].startswith("未测量")
        assert found["lines"] == []
        entry = next(e for e in ENTRIES if (e.framework, e.clause) == (found["framework"], found["clause"]))
        assert len(found["missing"]) == len(entry.evidence) + entry.groups


def test_a_measurement_stands_with_value_limits_n_and_method() -> None:
    found = row("NISTAML.033", report(m("lira", "auc", 0.62), m("steal", "fidelity", 0.9)))
    assert (found["state"], found["says"]["en"]) == ("some", "Evidence towards it from 1 of 2 methods")
    (line,) = found["lines"]
    assert (line["name"], line["key"], line["quantity"]["zh-CN"]) == ("lira 1", "auc", "成员推断 AUC")
    assert line["attacker"]["en"].startswith("trains models")
    (side,) = line["sides"]
    assert (side["value"]["en"], side["n"], side["measured"]) == ("0.620 [0.520, 0.720]", "400", True)
    assert [item["name"]["en"] for item in found["missing"]] == ["Membership inference by the loss"]
    assert row("NISTAML.022", report(m("lira", "auc")))["state"] == "none"


@pytest.mark.parametrize("status", ["inconclusive", "not_measured"])
def test_what_gave_no_answer_is_shown_and_is_no_evidence(status: str) -> None:
    value = 0.6 if status == "inconclusive" else None
    found = row(
        "NISTAML.031", report(m("steal", "fidelity", value, status=status, reason="too few\u202e rows"))
    )
    assert (found["state"], found["says"]["en"]) == ("none", "Not measured")
    (side,) = found["lines"][0]["sides"]
    assert side["status"] == both(f"status.{status}")
    assert side["reason"] == "too few⟨U+202E⟩ rows"


def test_why_a_method_did_not_run_is_said() -> None:
    ran = ({"name": "pgd", "status": "not_run", "reason": "needs module\x1b"},)
    (item,) = row("NISTAML.022", report(methods=ran))["missing"]
    assert item["reason"]["en"] == "needs module⟨U+001B⟩"
    (item,) = row("NISTAML.022", report())["missing"]
    assert item["reason"] == {"en": "not run", "zh-CN": "未运行"}


def test_a_comparison_shows_both_sides_and_counts_the_weaker() -> None:
    first, second = report(m("lira", "auc", 0.8), m("loss_attack", "auc", 0.7)), report(m("lira", "auc", 0.6))
    found = row("NISTAML.033", first, second)
    assert found["says"]["en"] == "Evidence towards it from 1 of 2 methods"
    sides = {line["name"]: [side["value"]["en"] for side in line["sides"]] for line in found["lines"]}
    assert sides == {
        "lira 1": ["0.800 [0.700, 0.900]", "0.600 [0.500, 0.700]"],
        "loss_attack 1": ["0.700 [0.600, 0.800]", "–"],
    }
    for pair in ((first, report()), (report(), first)):
        found = row("NISTAML.033", *pair)
        assert (found["state"], found["says"]["en"]) == (
            "partly",
            "Evidence towards it in some of the reports only",
        )


def test_the_same_quantity_measured_twice_is_shown_twice() -> None:
    twice = report(m("pgd", "robust_accuracy", 0.3), m("pgd", "robust_accuracy", 0.5))
    found = row("NISTAML.022", twice, report(m("pgd", "robust_accuracy", 0.4)))
    assert [[s["value"]["en"][:4] for s in line["sides"]] for line in found["lines"]] == [
        ["0.30", "0.40"],
        ["0.50", "–"],
    ]
    assert found["says"]["en"] == "Evidence towards it from 1 of 1 methods"


def test_figures_by_group_are_evidence_where_groups_were_large_enough() -> None:
    cells: tuple[tuple[Any, ...], ...] = (
        ("sex = f", 40, 0.7, 0.6, 0.8),
        ("sex = m", 60, 0.9, 0.8, 1.0),
        ("sex = x", 3, "not resolvable at n=3", None, None),
    )
    table = Table(name="accuracy by group", columns=("group", "n", "value", "low", "high"), rows=cells)
    found = row("MEASURE 2.11", report(m("utility", "accuracy", 0.8, details=(table,))))
    assert found["state"] == "some"
    assert found["lines"][0]["sides"][0]["value"]["en"] == "lowest 0.7, highest 0.9 of 2 groups"
    assert found["lines"][0]["quantity"]["en"] == "accuracy, held out, by group"
    small = replace(table, rows=cells[2:])
    found = row("MEASURE 2.11", report(m("utility", "accuracy", 0.8, details=(small,))))
    assert (found["state"], len(found["missing"])) == ("none", 1)


def test_a_promise_is_shown_rounded_up_and_is_no_measurement() -> None:
    claims = [
        {"says": "x", "unit": "person", "epsilon": 3.00012, "delta": 1e-5},
        {"says": "other"},
        {"epsilon": True},
    ]
    found = row("Art. 25", report(), report(target={"digest": "ab", "claims": claims}))
    (claim,) = found["claims"]
    assert claim["report"] == 1
    assert (
        claim["text"]["en"]
        == "Promised by the training, not measured: epsilon = 3.01, delta = 10⁻⁵ per person."
    )
    assert "ε = 3.01" in claim["text"]["zh-CN"]
    assert found["state"] == "none"


def test_the_filter_gives_one_framework_and_refuses_another_name() -> None:
    assert {r["framework"] for r in standards.rows(report(), on=ON, framework="atlas")} == {"atlas"}
    with pytest.raises(InvalidData, match="no framework 'atlass'; there are nist-ai-rmf, "):
        standards.rows(report(), on=ON, framework="atlass")


def test_a_clause_looked_up_over_a_year_ago_carries_a_warning() -> None:
    checked = next(e.checked_on for e in ENTRIES if e.clause == "A.7.4")
    assert checked is not None
    anniversary = checked.replace(year=checked.year + 1)
    assert row("A.7.4", report(), on=anniversary)["warning"] is None
    late = row("A.7.4", report(), on=anniversary.replace(day=anniversary.day + 1))
    assert late["stale"]
    assert anniversary.replace(day=anniversary.day + 1).isoformat() in late["warning"]["en"]
    unverified = row("模型安全要求", report(), on=date(2040, 1, 1))
    assert (unverified["stale"], unverified["verified"]) == (False, False)
    assert unverified["checked"]["en"].startswith("Not verified")
    assert "2026-11-23" in row("A.7.4", report())["checked"]["zh-CN"]


def test_the_section_holds_version_date_digest_and_all_clauses() -> None:
    made = standards.section(report(m("lira", "auc")), on=ON)
    assert (
        made["version"]["en"] == f"Crosswalk {clauses.crosswalk().version} of {clauses.crosswalk().made_on}."
    )
    assert "feed" in made["basis"][0]["en"]
    assert "2026-11-05" in made["basis"][0]["zh-CN"]
    assert sum(len(part["rows"]) for part in made["frameworks"]) == len(ENTRIES)
    counts = {part["key"]: part["count"]["en"] for part in made["frameworks"]}
    assert counts["gb-45654"] == "0 of 3 clauses have some evidence"
    assert counts["hipaa"] == "1 of 1 clauses have some evidence"
    assert not BANNED.search(" ".join(texts(made)))


def test_the_part_of_the_page_escapes_and_is_never_green() -> None:
    bad = "<script>alert(1)</script>"
    hostile = report(
        m("steal", "fidelity", None, status="not_measured", reason=bad),
        version=bad, created=bad, target={"digest": bad, "kind": bad},
    )  # fmt: skip
    held = standards.section(
        hostile, hostile, on=date(2040, 1, 1), names=[both("page.before"), both("page.after")]
    )
    source = (
        "{% macro w(pair) %}{% for name in languages %}<i>{{ pair[name] }}</i>{% endfor %}{% endmacro %}"
        '{% include "standards.html.jinja" %}'
    )
    place = render._template().environment
    page = place.from_string(source).render(standards=held, languages=LANGUAGES, t=both)
    assert bad not in page
    assert page.count("&lt;script&gt;") >= 4
    assert not re.search(r'class="[^"]*\b(?:held|better|good)\b', page)
    assert page.count("<h3>") == len(ENTRIES) + 1  # and the list of numbers
    assert all(words.visible(str(e.clause)) in page.replace("&#39;", "'") for e in ENTRIES)
    assert len(page.encode()) < 150_000


def test_a_number_stands_once_and_every_clause_points_to_it() -> None:
    held = report(m("lira", "auc"), m("steal", "fidelity"), target=TARGET)
    numbers = standards.section(held, on=ON)["numbers"]
    assert all(numbers.count(line) == 1 for line in numbers)
    text = render.page(held)
    part = text[text.index('<section aria-labelledby="standards">') :]
    assert (
        part.count("0.600 [0.500, 0.700]") == 0
    )  # it stands with its property, however many clauses it serves
    pointed = re.findall(r'<a href="#([\w-]+)">(\w+)</a> 0\.6', part)
    assert set(pointed) == {("n-privacy-0", "auc"), ("n-confidentiality-0", "fidelity")}
    for place, key in pointed:
        row = re.search(rf'id="{place}">.*?</tr>', text, re.DOTALL)
        assert row is not None and key in row[0] and "0.600 [0.500, 0.700]" in row[0]
    lira = [e for e in ENTRIES if "auc" in e.evidence.get("lira", ())]
    assert pointed.count(("n-privacy-0", "auc")) == len(lira)


def test_what_nobody_looked_up_says_so_on_the_page_though_nothing_is_measured() -> None:
    part = (
        render.page(report(target=TARGET)).partition('id="standards-gb-45654"')[2].partition("</details>")[0]
    )
    assert clauses.crosswalk().say("unchecked")["zh-CN"] in part
    assert "<dd><bdi>https://openstd" in part


# ---------------------------------------------------------------------- repeating an audit


def test_the_call_stands_whole_on_the_page() -> None:
    """Other texts of the page are cut at 600 characters; a call that is cut asks for something else."""
    named = tuple(
        {"name": "steal", "status": "ok", "params": {"points": k, "names": ["<a> & 'b'"] * 60}}
        for k in range(30)
    )
    made = report(target=TARGET, methods=named)
    shown = re.search(r"<pre>(.*?)</pre>", render.page(made), re.DOTALL)
    assert shown is not None
    assert html.unescape(shown[1]) == reproduce.call(made)


def test_the_call_of_a_report_makes_the_same_numbers_again() -> None:
    from sklearn.datasets import load_breast_cancer
    from sklearn.tree import DecisionTreeClassifier

    x, y = load_breast_cancer(return_X_y=True)
    data = cm.Dataset(train=(x[:80], y[:80]), holdout=(x[80:160], y[80:160]))
    target = DecisionTreeClassifier(random_state=0).fit(x[:80], y[:80])
    first = cm.audit(
        target,
        data,
        methods=["loss_attack", cm.method("permutation_importance", repeats=2)],
        effort="quick",
        seed=3,
    )
    names: dict[str, Any] = {"target": target, "data": data}
    code = reproduce.call(first)
    assert code is not None
    exec(compile(code, "the call", "exec"), names)
    pairs = [
        [(r.method, r.quantity, r.value, r.low, r.high, r.n) for r in made.measurements]
        for made in (first, names["again"])
    ]
    assert pairs[0] == pairs[1]
    assert [i["params"] for i in first.methods] == [i["params"] for i in names["again"].methods]


def test_the_call_names_threat_seed_effort_and_parameters() -> None:
    made = report(
        seed=7, effort="deep", threat={"norm": "linf", "radius": 0.3, "goal": None},
        methods=({"name": "pgd", "params": {"n_steps": 4, "loss": "<CustomLoss>", "x y": 1}},),
    )  # fmt: skip
    assert reproduce.call(made) == (
        "import casemate as cm\nagain = cm.audit(\n    target,\n    data,\n    methods=[\n"
        "        cm.method('pgd', n_steps=4),\n    ],\n    threat=cm.Threat(norm='linf', radius=0.3),\n"
        "    effort='deep',\n    seed=7,\n)"
    )
    assert reproduce.call(report(edition="public")) is None


def test_a_hostile_name_stays_inside_its_quotes() -> None:
    bad = "x')\nimport os; os.system('y')\u202e"
    code = reproduce.call(report(methods=({"name": bad, "params": {"a": bad}},)))
    assert code is not None
    assert code.isascii()
    tree = ast.parse(code)
    assert [type(node).__name__ for node in tree.body] == ["Import", "Assign"]
    assert {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)} == {bad, "standard", 0}


def test_what_was_not_kept_and_what_will_differ_is_said() -> None:
    def english(items: Any) -> str:
        return " | ".join(item["en"] for item in items)

    bare = report(environment={"packages": {"numpy": "2.4", "scipy": "unknown"}})
    said = english(reproduce.gaps(bare))
    assert all(
        part in said
        for part in ("command line", "model was in memory", "version of scipy", "version of xgboost")
    )
    kept = report(
        environment={"packages": {"xgboost": "3.1"}}, command=("casemate", "audit"),
        target={"kind": "XGBoost", "digest": "ab", "source": {"path": "m.json"}},
    )  # fmt: skip
    assert [item["en"][:8] for item in reproduce.gaps(kept)] == ["The rows"]
    assert [item["zh-CN"] for item in reproduce.gaps(report(edition="public"))] == [
        "重复审计所需的信息见内部版。"
    ]
    plain = english(reproduce.differs(kept))
    assert "rounding" in plain
    assert "Seconds" in plain
    assert not any(part in plain for part in ("deadline", "device", "noise"))
    noisy = report(effort="quick", target={"kind": "torch", "digest": "ab", "claims": [{"says": "x"}]})
    assert all(part in english(reproduce.differs(noisy)) for part in ("deadline", "device", "noise"))
    assert set(reproduce.section(kept)) == {"headings", "call", "gaps", "differs"}
