# SPDX-License-Identifier: Apache-2.0
"""Each planted bug of the *.toml here, applied to a copy of the real source, must make the ordinary tests fail."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FORKS = multiprocessing.get_context("forkserver")
# no plugin of pytest: it would warn that it comes too late to rewrite that plugin's asserts
FORKS.set_forkserver_preload(["pandas", "sklearn.ensemble", "scipy.stats", "torch"])
MUTANTS: list[dict[str, str]] = [
    mutant
    for path in sorted(Path(__file__).parent.glob("*.toml"))
    for mutant in tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]
]


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
    status = int(pytest.main([*options, *tests]))
    import casemate

    if not Path(casemate.__file__).is_relative_to(folder):
        status = 99  # the tests ran on another copy
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # an ordinary exit would wait for joblib's idle workers


def copied(folder: Path) -> Path:
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
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
        return ordinary(folder, mutant["tests"].split())


@pytest.fixture(scope="module")
def verdicts(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Any]]]:
    """Judge the mutants that were asked for, one a core: each is a process of its own."""
    asked = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    chosen = [params["mutant"] for params in asked if "mutant" in params]
    pool = ThreadPoolExecutor(os.cpu_count())
    yield {title(mutant): pool.submit(judged, mutant) for mutant in chosen}
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("mutant", MUTANTS, ids=title)
def test_the_ordinary_tests_catch_it(mutant: dict[str, str], verdicts: dict[str, Future[Any]]) -> None:
    done = verdicts[title(mutant)].result()
    assert done is not None, "the text to replace must stand exactly once"
    status, said = done
    assert status != 0, f"{mutant['name']} survived:\n{said[-2000:]}"
    ran = status == 1 and " failed" in said.splitlines()[-1]
    assert ran, f"{mutant['name']}: the tests did not run:\n{said[-2500:]}"


def test_without_a_bug_the_same_tests_pass(tmp_path: Path) -> None:
    """Else a mutant would be caught by a test that fails anyway."""
    copied(tmp_path)
    tests = dict.fromkeys(name for mutant in MUTANTS for name in mutant["tests"].split())
    status, said = ordinary(tmp_path, list(tests))
    assert status == 0, said[-2000:]


def test_there_are_enough_and_no_two_are_the_same() -> None:
    edits = {(mutant["file"], mutant["old"], mutant["new"]) for mutant in MUTANTS}
    assert len(edits) == len({title(mutant) for mutant in MUTANTS}) == len(MUTANTS) >= 25
