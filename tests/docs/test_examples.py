# SPDX-License-Identifier: Apache-2.0
"""Every example that a reader may copy is run: the Python blocks of pages and the docstrings of modules."""

from __future__ import annotations

import doctest
import importlib
import inspect
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

import casemate

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src" / "casemate"
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "docs").rglob("*.md"))]
TRANSLATIONS = [path for path in PAGES if path.name.endswith(".zh-CN.md")]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
HAS_TORCH = find_spec("torch") is not None


def page_name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks_of(path: Path) -> list[tuple[int, str]]:
    """Return (line, code) of each Python block, in order."""
    text = path.read_text("utf-8")
    return [(text[: found.start(1)].count("\n"), found.group(1)) for found in BLOCK.finditer(text)]


def run_blocks(path: Path) -> dict[str, object]:
    """Execute the blocks of one page in one namespace; line numbers in a traceback are those of the page."""
    names: dict[str, object] = {"__name__": "__example__"}
    for line, code in blocks_of(path):
        exec(compile("\n" * line + code, str(path), "exec"), names)
    return names


# A tour is longer than a test: several audits, on machines that may be busy. Translations show the same code (below).
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "page", [path for path in PAGES if path not in TRANSLATIONS and blocks_of(path)], ids=page_name
)
def test_the_python_blocks_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_blocks(page)


@pytest.mark.parametrize("page", TRANSLATIONS, ids=page_name)
def test_a_translation_shows_the_same_code(page: Path) -> None:
    strip = re.compile(r"\s*#.*$", re.MULTILINE)  # comments are translated
    original = page.with_name(page.name.replace(".zh-CN", ""))
    english, chinese = ([strip.sub("", code) for _, code in blocks_of(path)] for path in (original, page))
    assert english, f"{page_name(original)} shows no Python"
    assert english == chinese
    for line, code in blocks_of(page):  # a comment that breaks a string or a line
        compile("\n" * line + code, str(page), "exec")


def test_the_gates_of_the_readmes_are_gates() -> None:
    from casemate.report import gates

    blocks = [
        re.findall(r"^```toml\n(.*?)^```", (ROOT / name).read_text("utf-8"), re.MULTILINE | re.DOTALL)
        for name in ("README.md", "README.zh-CN.md")
    ]
    assert blocks[0], "the README shows no gates"
    assert blocks[0] == blocks[1]
    assert all(gates.load(tomllib.loads(block)) for block in blocks[0])


def shell_commands(text: str) -> list[tuple[str, set[str]]]:
    """Return (subcommand, options) of each ``$ casemate ...`` line, continuation lines joined."""
    lines = re.findall(r"^\$ casemate (.*)$", text.replace("\\\n", " "), re.MULTILINE)
    words = [line.partition("  #")[0].split() for line in lines]
    return [(parts[0], {part for part in parts if part.startswith("--")}) for parts in words]


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_shell_examples_use_options_that_exist(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    from casemate.cli import run

    commands = shell_commands((ROOT / name).read_text("utf-8"))
    assert {command for command, _ in commands} == {
        "demo", "audit", "scan", "schema", "harden", "compare", "methods", "doctor",
    }  # fmt: skip
    for command, options in commands:
        assert run([command, "--help"]) == 0
        assert options <= set(re.findall(r"--[a-z-]+", capsys.readouterr().out))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_first_audit_runs_from_its_first_line_to_its_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python, files and commands in the order of the page; a command that writes to a file is given its stdout."""
    from casemate.cli import run

    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "first-audit.md").read_text("utf-8").replace("\\\n", " ")
    names: dict[str, object] = {"__name__": "__example__"}
    n_commands = 0
    for kind, body in re.findall(r"^```(python|toml|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if kind == "python":
            exec(compile(body, "first-audit.md", "exec"), names)
        elif kind == "toml":
            Path(body.split()[1]).write_text(body, "utf-8")
        for line in re.findall(r"^\$ casemate (.*)$", body, re.MULTILINE) if kind == "console" else ():
            command, _, goes_to = line.partition(" > ")
            capsys.readouterr()
            assert run(shlex.split(command)) == 0, f"{line}\n{capsys.readouterr()}"
            if goes_to:
                Path(goes_to.strip()).write_text(capsys.readouterr().out, "utf-8")
            n_commands += 1
    assert n_commands == 7
    assert {"hardened", "report.html", "public.html"} <= {path.name for path in tmp_path.iterdir()}


def test_the_relative_links_of_the_pages_lead_somewhere() -> None:
    link = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")
    pages = [*PAGES, *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"))]
    broken = [
        f"{page_name(page)} -> {target}"
        for page in pages
        for target in link.findall(page.read_text("utf-8"))
        if not (page.parent / target).exists()
    ]
    assert broken == []


# ------------------------------------------------------------------------------- docstrings


def module_names() -> list[str]:
    """Return every module of the package by its file, so that collecting the tests imports none of them."""
    names = []
    for path in sorted(SRC.rglob("*.py")):
        parts = path.relative_to(SRC.parent).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return [name for name in names if not name.endswith("__main__")]


def import_or_skip(name: str) -> object:
    try:
        return importlib.import_module(name)
    except ImportError as error:  # MissingExtra is one
        if not HAS_TORCH and "torch" in str(error):
            pytest.skip(f"{name} needs torch")
        raise


@pytest.mark.timeout(60)  # all examples of a module, in one test
@pytest.mark.parametrize("name", module_names())
def test_the_examples_in_docstrings_hold(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    module = import_or_skip(name)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for example in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        if HAS_TORCH or "torch" not in (example.docstring or ""):
            runner.run(example)
    assert runner.failures == 0, capsys.readouterr().out


# ------------------------------------------------------------------------------- the public surface


def test_all_is_sorted_without_repetition() -> None:
    assert list(casemate.__all__) == sorted(set(casemate.__all__))


@pytest.mark.parametrize("name", casemate.__all__)
def test_a_public_name_can_be_imported_and_is_listed(name: str) -> None:
    assert getattr(casemate, name) is not None
    assert name in dir(casemate)


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = casemate.no_such_name


@pytest.mark.parametrize("name", casemate.__all__)
def test_a_public_name_has_an_example(name: str) -> None:
    """The example is one that the docstring test above runs: it stands in a module of the package."""
    thing = getattr(casemate, name)
    assert inspect.isclass(thing) or inspect.isroutine(thing), (
        f"casemate.{name} is a value: no docstring of its own"
    )
    assert thing.__doc__, f"casemate.{name} has no docstring"
    assert thing.__module__.startswith("casemate."), thing.__module__
    assert ">>> " in thing.__doc__, f"the docstring of casemate.{name} shows no example"


PROBE = """
import sys
before = set(sys.modules)
import casemate
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(loaded - set(sys.stdlib_module_names) - {"casemate"}))
"""


@pytest.mark.timeout(60)  # a Python process
def test_import_casemate_loads_the_standard_library_only(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == []
