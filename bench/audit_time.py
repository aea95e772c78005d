# SPDX-License-Identifier: Apache-2.0
"""Wall and CPU time of `casemate audit` at effort quick, as a user starts it: a process, two CSV files, a forest.

    python bench/audit_time.py [--jobs 2] [--limit 60]

RAND HIE comes from statsmodels; Adult from CASEMATE_TEST_DATA/adult, and is left out when that is not there. Prints a
Markdown row a case and ends with 1 when one takes longer than the limit.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from examples import adult, rand_hie  # noqa: E402


def children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(name: str, model: str, files: tuple[Path, Path], options: list[str], jobs: int) -> float:
    out = files[0].parent / "report.json"
    command = [
        *(
            sys.executable,
            "-m",
            "casemate.cli",
            "audit",
            model,
            "--train",
            str(files[0]),
            "--holdout",
            str(files[1]),
        ),
        *(*options, "--effort", "quick", "--jobs", str(jobs), "--out", str(out)),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    start, cpu = time.perf_counter(), children_seconds()
    subprocess.run(command, env=environment, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    wall, cpu = time.perf_counter() - start, children_seconds() - cpu
    report = json.loads(out.read_text())
    shadows = next(item["params"].get("n_shadows") for item in report["methods"] if item["name"] == "lira")
    rows = {(row["method"], row["quantity"]): row for row in report["measurements"]}
    auc = rows.get(("lira", "person_auc")) or rows["lira", "auc"]
    each = ", ".join(
        f"{item['name']} {item['seconds']:.1f}" for item in report["methods"] if item["status"] == "ok"
    )
    print(
        f"| {name} | {report['data']['n_train']} + {report['data']['n_holdout']} | {wall:.1f} | {cpu:.1f} | {shadows} "
        f"| {auc['value']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}] | {each} |",
        flush=True,
    )
    return wall


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--limit", type=float, default=60.0)
    chosen = parser.parse_args()
    print(f"load average before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {chosen.jobs} jobs")
    print(
        "| data | rows | wall s | CPU s | shadows | lira AUC | seconds a method |\n|---|---|---|---|---|---|---|"
    )
    walls = []
    with tempfile.TemporaryDirectory() as folder:
        for name, model in (("RAND HIE", "forest"), ("RAND HIE, leaf 20", "careful_forest")):
            files = rand_hie.write(Path(folder))
            walls.append(measure(name, f"examples.rand_hie:{model}", files, rand_hie.OPTIONS, chosen.jobs))
    source = Path(os.environ.get("CASEMATE_TEST_DATA", "")) / "adult"
    if (source / "adult-train.csv").is_file():
        with tempfile.TemporaryDirectory() as folder:
            files = adult.write(source, Path(folder))
            walls.append(measure("Adult", "examples.adult:forest", files, adult.OPTIONS, chosen.jobs))
    else:
        print("Adult: CASEMATE_TEST_DATA has no adult")
    return int(max(walls) > chosen.limit)


if __name__ == "__main__":
    sys.exit(main())
