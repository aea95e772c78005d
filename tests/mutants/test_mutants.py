# SPDX-License-Identifier: Apache-2.0
"""Each planted bug of mutants.toml, applied to a copy of the real source, must make the ordinary tests fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MUTANTS = tomllib.loads((Path(__file__).parent / "mutants.toml").read_text(encoding="utf-8"))["mutant"]


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant["name"] for mutant in MUTANTS])
def test_the_ordinary_tests_catch_it(mutant: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "src" / "casemate" / mutant["file"]
    source = path.read_text(encoding="utf-8")
    assert source.count(mutant["old"]) == 1, "the text to replace must stand exactly once"
    path.write_text(source.replace(mutant["old"], mutant["new"]), encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    env.pop("CI", None)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *mutant["tests"].split()],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, f"{mutant['name']} survived:\n{done.stdout[-2000:]}"
