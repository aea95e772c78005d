# SPDX-License-Identifier: Apache-2.0
"""Each planted bug of the *.toml here, applied to a copy of the real source, must make the ordinary tests fail."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FORKS = multiprocessing.get_context("forkserver")
# Half of what most of these runs cost is imports: here they are paid once. None starts a thread.
FORKS.set_forkserver_preload(
    [
        "anyio", "cryptography.x509", "dp_accounting.pld.privacy_loss_distribution", "hypothesis.strategies", "jinja2",
        "narwhals", "pandas", "pytest", "rich.console", "scipy.stats", "sklearn.ensemble", "sklearn.linear_model",
        "sklearn.neural_network", "sklearn.pipeline", "torch", "typer.testing",
    ]
)  # fmt: skip
SHARED = "tests/conftest.py"
PLAIN = "without a bug"
ALL: list[dict[str, str]] = [
    {**mutant, "told_in": f"tests/mutants/{path.name}"}
    for path in sorted(Path(__file__).parent.glob("*.toml"))
    for mutant in tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]
]


def touched(mutants: list[dict[str, str]], changed: list[str]) -> list[dict[str, str]]:
    """Return the mutants whose source, tests or text a change touches, or what their tests import from beside them.

    All, where it touches what every test stands on.
    """
    if SHARED in changed:
        return mutants

    @cache
    def with_helpers(test: str) -> set[str]:
        text = (ROOT / test).read_text(encoding="utf-8") if (ROOT / test).is_file() else ""
        return {
            test,
            *(f"tests/{name}.py" for name in re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE)),
        }

    def stands_in(mutant: dict[str, str]) -> set[str]:
        tests = (with_helpers(name.partition("::")[0]) for name in mutant["tests"].split())
        return {f"src/casemate/{mutant['file']}", mutant["told_in"]}.union(*tests)

    return [mutant for mutant in mutants if stands_in(mutant) & set(changed)]


# .ci/run says which files the change touches; without it (make test-slow) every mutant is judged
CHANGED = os.environ.get("CASEMATE_CHANGED_FILES")
MUTANTS = ALL if CHANGED is None else touched(ALL, CHANGED.splitlines())


def title(mutant: dict[str, str]) -> str:
    """Name a mutant with its file, so that `-k` finds the mutants of a package as it finds its tests."""
    return f"{mutant['file']} {mutant['name']}"


def ordinary(folder: Path, tests: list[str]) -> tuple[int, str]:
    """Run fast tests on the source in ``folder``, in a process of its own; return its exit status and what it said.

    The process is forked from one that has imported the large libraries, which takes longer than most of the tests.
    """
    said = folder / "said"
    process = FORKS.Process(target=_tested, args=(folder, tests, said))
    process.start()
    process.join()
    return int(process.exitcode or 0), said.read_text(
        encoding="utf-8"
    ) if said.exists() else "nothing was said"


def _tested(folder: Path, tests: list[str], said: Path) -> None:
    with said.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(ROOT)
    os.environ |= {"PYTHONPATH": str(folder / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    os.environ["CASEMATE_TEST_TIMEOUT"] = "120"  # wide: a busy machine is no bug found
    os.environ.pop("CI", None)
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(folder / "src"))
    options = ["-q", "-x", "-p", "no:cacheprovider", "-m", "not slow and not soak"]
    options += [
        "-W",
        "ignore::pytest.PytestAssertRewriteWarning",
    ]  # of Hypothesis' own asserts, imported before
    status = int(pytest.main([*options, *tests]))
    import casemate

    if not Path(casemate.__file__).is_relative_to(folder):
        status = 99  # the tests ran on another copy
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # an ordinary exit would wait for joblib's idle workers


def copied(folder: Path) -> Path:
    shutil.copytree(
        ROOT / "src", folder / "src"
    )  # with what is compiled: only the changed file is compiled again
    return folder / "src" / "casemate"


def judged(mutant: dict[str, str]) -> tuple[int, str] | None:
    """Run the ordinary tests on a mutant; None where its text does not stand exactly once."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = copied(folder) / mutant["file"]
        source = path.read_text(encoding="utf-8")
        if source.count(mutant["old"]) != 1:
            return None
        changed = source.replace(mutant["old"], mutant["new"])
        compile(changed, mutant["file"], "exec")  # a mutant that cannot run shows nothing
        path.write_text(changed, encoding="utf-8")
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()
        return ordinary(folder, mutant["tests"].split())


def unchanged() -> tuple[int, str]:
    """Run what catches any mutant on the source as it is."""
    with tempfile.TemporaryDirectory() as name:
        copied(Path(name))
        tests = dict.fromkeys(name for mutant in ALL for name in mutant["tests"].split())
        return ordinary(Path(name), list(tests))


@pytest.fixture(scope="module")
def verdicts(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Any]]]:
    """Judge the mutants that were asked for, one a core: each is a process of its own."""
    asked = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    chosen = [params["mutant"] for params in asked if "mutant" in params]
    pool = ThreadPoolExecutor(os.cpu_count())
    whole = any(item.name == "test_without_a_bug_the_same_tests_pass" for item in request.session.items)
    # the longest first: the others are judged beside it
    plain = {PLAIN: pool.submit(unchanged)} if whole else {}
    yield plain | {title(mutant): pool.submit(judged, mutant) for mutant in chosen}
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("mutant", MUTANTS, ids=title)
def test_the_ordinary_tests_catch_it(mutant: dict[str, str], verdicts: dict[str, Future[Any]]) -> None:
    done = verdicts[title(mutant)].result()
    assert done is not None, "the text to replace must stand exactly once"
    status, said = done
    assert status != 0, f"{mutant['name']} survived:\n{said[-2000:]}"
    # an error here is one of a fixture: where nothing could be collected the status is 2
    ran = status == 1 and any(word in said.splitlines()[-1] for word in (" failed", " error"))
    assert ran, f"{mutant['name']}: the tests did not run:\n{said[-2500:]}"


def test_without_a_bug_the_same_tests_pass(verdicts: dict[str, Future[Any]]) -> None:
    """Else a mutant would be caught by a test that fails anyway."""
    status, said = verdicts[PLAIN].result()
    assert status == 0, said[-2000:]


def test_there_are_enough_and_no_two_are_the_same() -> None:
    edits = {(mutant["file"], mutant["old"], mutant["new"]) for mutant in ALL}
    assert len(edits) == len({title(mutant) for mutant in ALL}) == len(ALL) >= 25


def test_each_stands_once_in_a_file_that_is_there() -> None:
    """Also for those that a change does not touch."""
    for mutant in ALL:
        source = (ROOT / "src" / "casemate" / mutant["file"]).read_text(encoding="utf-8")
        assert source.count(mutant["old"]) == 1, title(mutant)
        assert all((ROOT / name.partition("::")[0]).exists() for name in mutant["tests"].split()), title(
            mutant
        )


def test_a_change_judges_the_mutants_it_touches() -> None:
    first = {
        "file": "core/stats.py",
        "tests": "tests/unit/test_a.py::test_b",
        "told_in": "tests/mutants/x.toml",
    }
    other = {"file": "core/rng.py", "tests": "tests/unit/test_c.py", "told_in": "tests/mutants/y.toml"}
    both = [first, other]
    assert touched(both, ["src/casemate/core/stats.py"]) == touched(both, ["tests/unit/test_a.py"]) == [first]
    assert touched(both, ["tests/mutants/y.toml", "README.md"]) == [other]
    assert touched(both, ["docs/data.md", "src/casemate/core/run.py"]) == []
    assert touched(both, ["tests/conftest.py"]) == both
    drawn = first | {"tests": "tests/unit/test_charts.py"}  # imports drawings
    assert touched([drawn, other], ["tests/drawings.py"]) == [drawn]
    assert touched([drawn, other], ["tests/sentences.py"]) == []
