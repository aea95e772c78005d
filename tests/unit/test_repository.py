# SPDX-License-Identifier: Apache-2.0
"""Rules of the repository that no other tool checks, read off the files themselves."""

from __future__ import annotations

import ast
import os
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src" / "casemate"
SOURCES = sorted(SRC.rglob("*.py"))
SPDX = "# SPDX-License-Identifier: Apache-2.0"
CORE_MAY_IMPORT = {"numpy", "scipy", "joblib", "narwhals", "casemate"}
IGNORED = {
    ".git",
    ".venv",
    "venv",
    "build",
    "dist",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    ".hypothesis",
    "__pycache__",
}


@pytest.fixture(scope="session", autouse=True)
def heavy_imports() -> None:
    """These tests read text; nothing needs to be imported for them."""


def project_files() -> list[Path]:
    """Return the files git tracks or would track; without git, all but what environments and caches hold."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if found.returncode == 0 and found.stdout:
        paths = [ROOT / name for name in found.stdout.decode().split("\0") if name]
    else:
        paths = [path for path in ROOT.rglob("*") if not IGNORED & set(path.relative_to(ROOT).parts)]
    return sorted(path for path in paths if path.is_file())


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), filename=str(path))


# ---------------------------------------------------------------------- size, licence


def test_no_source_file_is_over_600_lines_and_the_median_is_at_most_200() -> None:
    lines = {name_of(path): len(path.read_text("utf-8").splitlines()) for path in SOURCES}
    assert lines, "no source found"
    assert {name: count for name, count in lines.items() if count > 600} == {}
    # Bare package markers would flatter the figure.
    assert (
        statistics.median(count for name, count in lines.items() if not name.endswith("/__init__.py")) <= 200
    )


def test_every_python_file_begins_with_its_licence() -> None:
    missing = []
    for path in project_files():
        if path.suffix == ".py":
            head = path.read_text("utf-8").splitlines()[:2]
            if head and SPDX not in (head if head[0].startswith("#!") else head[:1]):
                missing.append(name_of(path))
    assert missing == []


def test_the_licence_is_apache_2_in_full() -> None:
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert len(text.splitlines()) >= 175


# ---------------------------------------------------------------------- unsafe calls

# What runs code that it was given as data. torch.load is judged by its arguments.
UNSAFE = {
    "__import__",
    "builtins.eval",
    "builtins.exec",
    "cloudpickle.load",
    "cloudpickle.loads",
    "compile",
    "dill.load",
    "dill.loads",
    "eval",
    "exec",
    "joblib.load",
    "marshal.load",
    "marshal.loads",
    "os.popen",
    "os.system",
    "pandas.read_pickle",
    "pickle.Unpickler",
    "pickle.load",
    "pickle.loads",
    "_pickle.load",
    "_pickle.loads",
    "shelve.open",
    "torch.export.load",
    "torch.hub.load",
    "torch.jit.load",
    "yaml.load",
}


def _dotted(node: ast.expr, aliases: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return aliases.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        head = _dotted(node.value, aliases)
        return f"{head}.{node.attr}" if head else ""
    return ""


def _aliases(tree: ast.AST) -> dict[str, str]:
    """Map local names to what they stand for: imports, and ``torch = lazy("torch")``."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update({item.asname: item.name for item in node.names if item.asname})
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.update({item.asname or item.name: f"{node.module}.{item.name}" for item in node.names})
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and len(node.value.args) == 1:
            argument = node.value.args[0]
            loader = _dotted(node.value.func, {}).rpartition(".")[2]
            if loader in {"lazy", "needs", "import_module"} and isinstance(argument, ast.Constant):
                names |= {item.id: str(argument.value) for item in node.targets if isinstance(item, ast.Name)}
    return names


def unsafe_calls(tree: ast.AST) -> Iterator[str]:
    """Yield ``line: what`` for each call that would run code it was given as data."""
    aliases = _aliases(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = _dotted(node.func, aliases)
        arguments = {item.arg: item.value for item in node.keywords}

        def is_true(name: str, given: dict[str | None, ast.expr] = arguments) -> bool:
            value = given.get(name)
            return isinstance(value, ast.Constant) and value.value is True

        if called in UNSAFE:
            yield f"{node.lineno}: {called}"
        elif called == "torch.load" and not is_true("weights_only"):
            yield f"{node.lineno}: torch.load without weights_only=True"
        elif "allow_pickle" in arguments and not (
            isinstance(arguments["allow_pickle"], ast.Constant) and arguments["allow_pickle"].value is False
        ):
            yield f"{node.lineno}: allow_pickle"
        elif "shell" in arguments and called.startswith("subprocess."):
            yield f"{node.lineno}: subprocess with shell="


def test_nothing_in_the_source_runs_code_that_came_as_data() -> None:
    found = {name_of(path): list(unsafe_calls(tree_of(path))) for path in SOURCES}
    assert {name: calls for name, calls in found.items() if calls} == {}


def test_one_file_unpickles_and_only_behind_its_wall() -> None:
    """Subclasses of an unpickler are no calls: they stand in core/pickles alone, and look nothing up themselves."""
    walls = {
        (name_of(path), node.name, _dotted(base, known))
        for path in SOURCES
        for tree in [tree_of(path)]
        for known in [_aliases(tree)]
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        if _dotted(base, known).rpartition(".")[2].lstrip("_") == "Unpickler"
    }
    home = "src/casemate/core/pickles/__init__.py"
    assert walls == {(home, "_Wall", "pickle.Unpickler"), (home, "_JoblibWall", "pickle._Unpickler")}
    for node in ast.walk(tree_of(ROOT / home)):
        if isinstance(node, ast.FunctionDef) and node.name == "find_class":
            assert ast.unparse(node.body[-1]) == "return _resolve(module, name, self.admitted)"


@pytest.mark.parametrize(
    "code",
    [
        "import pickle\npickle.loads(b)",
        "import pickle as p\np.load(f)",
        "from pickle import loads as read\nread(b)",
        "import joblib\njoblib.load('m')",
        "import torch\ntorch.load('m')",
        "import torch\ntorch.load('m', weights_only=False)",
        "import torch\ntorch.load('m', weights_only=flag)",
        "torch = lazy('torch')\ntorch.export.load('m')",
        "t = extras.lazy('torch')\nt.load('m')",
        "from torch import export\nexport.load('m')",
        "import numpy as np\nnp.load('a', allow_pickle=True)",
        "eval(text)",
        "exec(text)",
        "import subprocess\nsubprocess.run(text, shell=True)",
    ],
)
def test_the_search_for_unsafe_calls_finds(code: str) -> None:
    assert len(list(unsafe_calls(ast.parse(code)))) == 1


@pytest.mark.parametrize(
    "code",
    [
        "model.eval()",
        "import json\njson.loads(b)",
        "import torch\ntorch.load('m', weights_only=True)",
        "import numpy as np\nnp.load('a', allow_pickle=False)",
        "import re\nre.compile('x')",
        "import joblib\njoblib.dump(m, 'm')",
    ],
)
def test_the_search_for_unsafe_calls_lets_pass(code: str) -> None:
    assert list(unsafe_calls(ast.parse(code))) == []


# ---------------------------------------------------------------------- style


def test_assert_is_for_tests() -> None:
    found = [
        f"{name_of(p)}:{n.lineno}" for p in SOURCES for n in ast.walk(tree_of(p)) if isinstance(n, ast.Assert)
    ]
    assert found == []


def test_only_the_command_line_prints() -> None:
    found = [
        f"{name_of(path)}:{node.lineno}"
        for path in SOURCES
        if SRC / "cli" not in path.parents
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and _dotted(node.func, {}) == "print"
    ]
    assert found == []


def third_party_imports(tree: ast.AST) -> Iterator[str]:
    """Yield the top-level packages a file imports, also in functions; the standard library left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [item.name for item in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = ["casemate" if node.level else str(node.module)]
        else:
            continue
        for name in names:
            if (top := name.partition(".")[0]) not in sys.stdlib_module_names:
                yield top


def test_core_imports_only_what_it_may() -> None:
    """The layer contracts forbid by name; an allow-list also catches a package nobody thought of."""
    core = {
        name_of(path): set(third_party_imports(tree_of(path)))
        for path in sorted((SRC / "core").rglob("*.py"))
    }
    assert core, "no core found"
    assert {name: found - CORE_MAY_IMPORT for name, found in core.items() if found - CORE_MAY_IMPORT} == {}


def test_every_dependency_that_the_source_imports_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    declared = {re.split(r"[\s\[<>=!~;]", line, maxsplit=1)[0].replace("-", "_").lower() for line in lines}
    # markupsafe is jinja2's own string type, threadpoolctl a declared dependency of scikit-learn.
    declared = (declared - {"scikit_learn"}) | {"sklearn", "casemate", "markupsafe", "threadpoolctl"}
    used = {name for path in SOURCES for name in third_party_imports(tree_of(path))}
    assert used - declared == set()


# ---------------------------------------------------------------------- what must not be there

FORBIDDEN_TEXT = {
    "a figure still to be filled in": re.compile(r"MEASURED_BY_LE[A]D"),
    "a path of somebody's machine": re.compile(r"(?<![\w.<])/(?:work|root|farm|home/\w+|Users/\w+)/"),
    "a package registry's host": re.compile(
        r"pypi\.(?:org|python)|pythonhosted\.|registry\.npmjs|download\.pytorch\.|conda\.anaconda",
        re.IGNORECASE,
    ),
}


def test_no_machine_path_no_registry_host_and_no_gap_is_left() -> None:
    found = []
    for path in project_files():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            found += [
                f"{name_of(path)}:{number}: {what}"
                for what, seen in FORBIDDEN_TEXT.items()
                if seen.search(line)
            ]
    assert found == []


@pytest.mark.parametrize(
    "parts", [("/ro", "ot/x"), ("cd /wo", "rk/main"), ("https://py", "pi.org/simple"), ("/home/", "ann/x")]
)
def test_the_search_for_machine_paths_and_hosts_finds(parts: tuple[str, str]) -> None:
    assert any(pattern.search("".join(parts)) for pattern in FORBIDDEN_TEXT.values())


# ---------------------------------------------------------------------- methods and their rows


def method_names() -> list[str]:
    """Return the stems of the files in */methods/ that define a function under @method."""
    names = []
    for path in sorted(SRC.glob("*/methods/*.py")):
        for node in tree_of(path).body:
            if isinstance(node, ast.FunctionDef) and any(
                isinstance(mark, ast.Call) and _dotted(mark.func, {}).rpartition(".")[2] == "method"
                for mark in node.decorator_list
            ):
                assert node.name == path.stem, f"{name_of(path)}: the method is called {node.name}"
                names.append(node.name)
    return names


def test_every_method_has_its_row_of_results() -> None:
    names = method_names()
    assert names, "no method found"
    rows = [
        line
        for line in (ROOT / "bench" / "RESULTS.md").read_text("utf-8").splitlines()
        if line.startswith("|")
    ]
    assert [name for name in names if not any(f"`{name}`" in row for row in rows)] == []


# ---------------------------------------------------------------------- the rule for skips

SKIPPING = """
import pytest

@pytest.fixture(scope="session", autouse=True)
def heavy_imports():
    pass

def test_one():
    pass

@pytest.mark.parametrize("n", [1])
def test_two(n):
    pytest.skip("no reason")
"""


@pytest.mark.timeout(60)  # three Python processes
@pytest.mark.parametrize(
    ("ci", "allowed", "code"),
    [
        ("true", "", 1),
        ("true", "test_skipping.py::test_two[1]  # expected here\n", 0),
        ("", "", 0),
    ],
)
def test_a_skip_nobody_expected_fails_continuous_integration(
    tmp_path: Path, ci: str, allowed: str, code: int
) -> None:
    conftest = (ROOT / "tests" / "conftest.py").read_text("utf-8")
    (tmp_path / "conftest.py").write_text(conftest, "utf-8")
    (tmp_path / "allowed_skips.txt").write_text(allowed, "utf-8")
    (tmp_path / "test_skipping.py").write_text(SKIPPING, "utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        "--rootdir",
        str(tmp_path),
        "-q",
    ]
    environment = {**os.environ, "CI": ci}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert ("not in tests/allowed_skips.txt" in done.stdout) == bool(code)
