# SPDX-License-Identifier: Apache-2.0
"""The example notebook: well formed, without outputs or paths, and it runs; and how a report shows itself in one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from casemate.core.types import Measurement
from casemate.report import notebook, render
from casemate.report.compare import compare
from casemate.report.model import Report

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "examples" / "first_audit.ipynb"
# What a kernel does, without one: each cell in one namespace, the value of a last expression displayed.
KERNEL = """
import ast, json, re, sys, time
cells = [c for c in json.load(open(sys.argv[1], encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
names, shown, began = {"__name__": "__main__"}, {}, time.process_time()
for cell in cells:
    tree = ast.parse("".join(cell["source"]))
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, cell["id"], "exec"), names)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), cell["id"], "eval"), names)
        draw = getattr(value, "_repr_html_", None)
        shown[cell["id"]] = None if value is None else draw() if draw else repr(value)
before, after, result, why = (names[name] for name in ("before", "after", "result", "why"))
leak = [r["lira", "person_tpr_at_1pct_fpr"].value for r in (before, after)]
print("RESULT" + json.dumps({
    "shown": shown, "leak": leak, "gates": [g.result for g in result.gates], "rows": list(why.rows),
    "difference": [r.verdict for r in result.rows if r.quantity == "person_tpr_at_1pct_fpr" and r.method == "lira"],
    "effort": before.effort, "seconds": time.process_time() - began, "modules": sorted(sys.modules),
}))
"""


@pytest.fixture(scope="module")
def cells() -> list[dict[str, Any]]:
    return list(json.loads(NOTEBOOK.read_text("utf-8"))["cells"])


def test_the_notebook_is_one_of_format_4_5(cells: list[dict[str, Any]]) -> None:
    whole = json.loads(NOTEBOOK.read_text("utf-8"))
    assert set(whole) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert (whole["nbformat"], whole["nbformat_minor"]) == (4, 5)
    assert whole["metadata"]["kernelspec"]["name"] == "python3"
    identities = [cell["id"] for cell in cells]
    assert len(set(identities)) == len(identities) >= 12
    assert all(re.fullmatch("[a-zA-Z0-9_-]{1,64}", identity) for identity in identities)
    for cell in cells:
        more = {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        assert set(cell) == {"cell_type", "id", "metadata", "source"} | more
        assert cell["cell_type"] in ("code", "markdown") and isinstance(cell["metadata"], dict)
        assert all(line.endswith("\n") for line in cell["source"][:-1])


def test_the_notebook_is_short_and_holds_neither_outputs_nor_paths_of_a_machine(
    cells: list[dict[str, Any]],
) -> None:
    for cell in cells:
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None
        text = "".join(cell["source"])
        assert len(text) <= (1200 if cell["cell_type"] == "code" else 400), cell["id"]
        assert not re.search(r"/(tmp|home|root|work|usr|Users|mnt)\b|[A-Z]:\\|https?://(localhost|\d)", text)
        if cell["cell_type"] == "code":
            compile(text, cell["id"], "exec")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    environment.pop("CASEMATE_LANG", None)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KERNEL, str(NOTEBOOK)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said, _, found = done.stdout.partition("RESULT")
    got = json.loads(found)
    assert "held: few people stand out" in said and "row 17" in said
    assert {name for name, text in got["shown"].items() if text} == {"data", "audit", "number", "compare"}
    for name, heading in (("audit", "Casemate audit"), ("compare", "Casemate comparison")):
        assert heading in Framed(got["shown"][name]).page
    assert (
        got["leak"][0] > 0.8 > 0.3 > got["leak"][1]
    )  # the default forest remembers; leaves of 20 rows do not
    assert (got["difference"], got["gates"], got["rows"]) == (["better"], ["held", "held"], [17])
    written = {"before.json", "after.json", "report.html", "report.md", "public.html"}
    assert {path.name for path in tmp_path.iterdir()} == written
    assert got["effort"] == "quick"
    assert got["seconds"] <= 60  # of processor time: the clock of a busy machine says nothing
    assert not {"IPython", "ipykernel", "nbformat"} & set(got["modules"])


# ---------------------------------------------------------------------- how a report shows itself


class Framed(HTMLParser):
    """The one element a display is made of, and the page inside."""

    def __init__(self, shown: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(shown)
        self.close()
        ((self.tag, self.attributes),) = self.found
        self.page = self.attributes["srcdoc"] or ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


class Inside(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def a_report() -> Report:
    number = Measurement(
        property="privacy", quantity="auc", value=0.8, low=0.75, high=0.85, n=400, worse="higher",
        method="lira", version="1", seed=0,
    )  # fmt: skip
    return Report(
        created="2026-11-05T10:00:00+00:00",
        version="0.1.0",
        target={
            "kind": "sklearn",
            "task": '<b class="x">href="#a"',
            "input": "table",
            "capabilities": [],
            "digest": "ab",
        },
        data={"n_train": 9, "n_holdout": 9, "digest": "cd"},
        methods=({"name": "lira", "version": "1", "status": "ok"},),
        measurements=(number,),
    )


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(
    ("asked", "lang"),
    [("", "en"), ("zh", "zh-CN"), ("zh-CN", "zh-CN"), ("ZH-cn", "zh-CN"), ("en", "en"), ("tlh", "en")],
)
def test_a_display_is_a_static_frame_in_the_language_of_the_reader(
    monkeypatch: pytest.MonkeyPatch, asked: str, lang: str, several: bool
) -> None:
    monkeypatch.setenv("CASEMATE_LANG", asked)
    made: Any = compare(a_report(), a_report()) if several else a_report()
    frame = Framed(made._repr_html_())
    assert (frame.tag, frame.attributes["sandbox"]) == (
        "iframe",
        "",
    )  # no allow-scripts, no allow-same-origin
    assert int(frame.attributes["height"] or 0) >= 400 and frame.attributes["width"] == "100%"
    assert set(frame.attributes) <= {"sandbox", "title", "width", "height", "srcdoc", "style", "loading"}
    wanted = render.page_comparison(made, lang) if several else render.page(made, lang)
    assert frame.page.replace("about:srcdoc#", "#") == wanted
    tags = Inside(frame.page).tags
    assert dict(tags[0][1])["lang"] == lang
    assert not {tag for tag, _ in tags} & {"script", "iframe", "base", "object", "embed"}
    assert not [key for _, attributes in tags for key in attributes if key.startswith("on")]


def test_a_link_inside_a_display_stays_inside_it() -> None:
    """An address of the form #privacy is one of the notebook's there: following it would replace the report."""
    page = notebook.shown(lambda lang: render.page(a_report(), lang))
    tags = Inside(Framed(page).page).tags
    links = [attributes["href"] or "" for tag, attributes in tags if tag == "a"]
    identities = {attributes["id"] for _, attributes in tags if "id" in attributes}
    assert links and all(link.startswith("about:srcdoc#") for link in links)
    assert {link.removeprefix("about:srcdoc#") for link in links} <= identities
    assert "href=&#34;#a&#34;" in Framed(page).page  # a text that looks like a link is left as it is
