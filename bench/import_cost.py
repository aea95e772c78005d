# SPDX-License-Identifier: Apache-2.0
"""CPU time of `import casemate` and `casemate --help` against `import numpy`: interleaved fresh interpreters."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

ROUNDS = 15
COMMANDS = {
    "bare interpreter": ["-c", "pass"],
    "import numpy": ["-c", "import numpy"],
    "import casemate": ["-c", "import casemate"],
    "casemate --help": ["-m", "casemate.cli", "--help"],
}


def cpu_seconds(arguments: list[str]) -> float:
    """Return user + system time of one fresh interpreter."""
    before = os.times()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    seen: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS + 1):
        for name, arguments in COMMANDS.items():
            seen[name].append(cpu_seconds(arguments))
            time.sleep(0.01)
    bare = statistics.median(seen["bare interpreter"][1:])  # the first round fills the page cache
    numpy = statistics.median(seen["import numpy"][1:]) - bare
    print(
        f"bare interpreter {bare * 1e3:.0f} ms CPU; ratios to `import numpy` less the interpreter, {ROUNDS} rounds"
    )
    for name in ("import casemate", "casemate --help"):
        print(f"{name}: {(statistics.median(seen[name][1:]) - bare) / numpy:.2f}")


if __name__ == "__main__":
    main()
