# SPDX-License-Identifier: Apache-2.0
"""The report beside those of giskard 2 and evidently: the same model, the same rows, the same run.

A forest of 50 trees on years of the medical care of 2,200 people (RAND HIE, half of them in training). Each tool runs
in a process of its own, with its own default scan or presets, in turn, `--runs` times; every process trains the forest
and the predictions are compared, so that all look at the same model. Then every page is opened in chromium: what it
asks the network for, what axe-core finds in it, how long it takes to open, what it says of privacy and of attacks.

    OMP_NUM_THREADS=1 python bench/report.py --giskard venv/bin/python --evidently venv/bin/python [--pages report.html]

The peers live in environments of their own: `giskard<3` with `pandas<3`, `evidently<0.8` with `pandas<3`.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata as metadata
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TREES, PEOPLE, LABEL, OPENED = 50, 1100, "visits", 7
WORDS = ("privacy", "membership", "attack", "epsilon", "not measured", "interval|±")


# ---------------------------------------------------------------------- one tool, in a process of its own


def side(name: str, folder: Path) -> None:
    """Train the forest, let one tool look at it, and print as JSON what it said."""
    import numpy as np
    import pandas as pd
    from sklearn.ensemble import RandomForestClassifier

    train, holdout = (pd.read_csv(folder / f"{part}.csv") for part in ("train", "holdout"))
    columns = [column for column in train if column not in (LABEL, "zper")]
    model = RandomForestClassifier(TREES, random_state=0, n_jobs=1).fit(train[columns], train[LABEL])
    answers = hashlib.sha256(np.round(model.predict_proba(holdout[columns]), 9).tobytes()).hexdigest()
    began, wall = time.process_time(), time.perf_counter()
    tool = {"casemate": casemate, "giskard": giskard, "evidently": evidently}[name]
    said = tool(model, train, holdout, columns, folder / f"{name}.html")
    seconds = {"cpu": time.process_time() - began, "wall": time.perf_counter() - wall}
    print(
        "SAID" + json.dumps({"answers": answers, "version": metadata.version(name), "said": said} | seconds)
    )


def casemate(model: Any, train: Any, holdout: Any, columns: list[str], page: Path) -> list[str]:
    import casemate as cm

    rows = [(part[["zper", *columns]], part[LABEL]) for part in (train, holdout)]
    data = cm.Dataset(
        train=rows[0], holdout=rows[1], person="zper", sensitive=["female"], immutable=["female"]
    )
    report = cm.audit(model, data, effort="quick")
    report.save(page)
    # effort quick has a clock: on a busy machine it does less, and says so
    return [*str(report).splitlines()[-1].split("; "), *report.target["caveats"]]


def giskard(model: Any, _: Any, holdout: Any, columns: list[str], page: Path) -> list[str]:
    import giskard as gk

    wrapped = gk.Model(
        model=lambda rows: model.predict_proba(rows[columns]),
        model_type="classification",
        classification_labels=list(model.classes_),
        feature_names=columns,
    )
    found = gk.scan(wrapped, gk.Dataset(holdout[[*columns, LABEL]], target=LABEL), verbose=False)
    found.to_html(page)
    return [f"{issue.group.name}: {issue.description[:160]}" for issue in found.issues]


def evidently(model: Any, train: Any, holdout: Any, columns: list[str], page: Path) -> list[str]:
    from evidently import BinaryClassification, DataDefinition, Dataset, Report
    from evidently.presets import ClassificationPreset, DataDriftPreset

    positive = str(model.classes_[0])
    task = BinaryClassification(target=LABEL, prediction_labels="predicted", pos_label=positive)
    sides = [
        Dataset.from_pandas(
            part[[*columns, LABEL]].assign(predicted=model.predict(part[columns])),
            data_definition=DataDefinition(classification=[task], numerical_columns=columns),
        )
        for part in (train, holdout)
    ]
    made = Report([DataDriftPreset(), ClassificationPreset()]).run(sides[1], sides[0])
    made.save_html(str(page))
    return [str(value["metric_name"]) for value in made.dict()["metrics"]][:40]


# ---------------------------------------------------------------------- all of them, and their pages


def rows_for(folder: Path) -> None:
    import numpy as np
    import pandas as pd

    from casemate.demo import HOSPITAL_COLUMNS, packaged

    table = pd.read_csv(packaged("statsmodels", "datasets/randhie/src/randhie.csv"))
    table[LABEL] = np.where(table["mdvis"] >= 4, "4 or more", "fewer")
    people = np.random.default_rng(0).permutation(table["zper"].unique())
    for part, some in (("train", people[:PEOPLE]), ("holdout", people[PEOPLE : 2 * PEOPLE])):
        rows = table[table["zper"].isin(some)]
        rows[["zper", *HOSPITAL_COLUMNS, LABEL]].to_csv(folder / f"{part}.csv", index=False)


def timed(python: str, name: str, folder: Path) -> dict[str, Any]:
    """Run one side; ``all`` is the processor time of the whole process, imports and forest included."""
    # a peer's telemetry is off: what it does here stays here
    environment = os.environ | {"GSK_DISABLE_ANALYTICS": "1", "DO_NOT_TRACK": "1"}
    if name == "casemate":
        environment["PYTHONPATH"] = str(ROOT / "src")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [python, "-W", "ignore", __file__, "--side", name, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-3000:]}")
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return dict(json.loads(done.stdout.partition("SAID")[2])) | {"all": spent}


def looked_at(browser: Any, axe: str, page: Path) -> dict[str, Any]:
    """Open a page several times as a reader would, and once more for axe."""
    opened = []
    for _ in range(OPENED):
        browser.open(page)
        time.sleep(0.3)  # what a script of the page still loads
        entry = browser.value("performance.getEntriesByType('navigation')[0].toJSON()")
        opened.append(entry["loadEventEnd"])
    outside = [url for url in browser.requests if not url.startswith(("data:", "blob:", page.as_uri()))]
    shown = browser.value("document.body.innerText").lower()
    browser.value("document.querySelectorAll('details').forEach(e => e.open = true)")
    browser.value(axe + "\n;0")
    found = browser.value(
        "axe.run(document).then(f => f.violations.map(v => [v.id, v.impact, v.nodes.length]))"
    )
    scripts = "[...document.scripts].filter(s => !s.type || s.type.includes('javascript')).length"
    return {
        "bytes": page.stat().st_size,
        "open_ms": round(statistics.median(opened)),
        "requests": sorted(set(outside)),
        "scripts": browser.value(scripts),
        "axe": found,
        "words": {word: len(re.findall(word, shown)) for word in WORDS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--giskard", metavar="PYTHON")
    parser.add_argument("--evidently", metavar="PYTHON")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--pages", nargs="*", type=Path, default=[], help="further pages to open")
    given = parser.parse_args()
    if given.side:
        side(given.side[0], Path(given.side[1]))
        return
    sys.path.insert(0, str(ROOT / "tests"))
    from browser.driver import Browser

    pythons = {"casemate": sys.executable, "giskard": given.giskard, "evidently": given.evidently}
    names = [name for name, python in pythons.items() if python]
    axe = (ROOT / "tests" / "browser" / "axe" / "axe.min.js").read_text("utf-8")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        rows_for(folder)
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for _ in range(given.runs):
            for name in names:
                runs[name].append(timed(pythons[name], name, folder))
        same = {run["answers"] for listed in runs.values() for run in listed}
        print(f"the same model in every process: {len(same) == 1}")
        browser = Browser(folder / "profile")
        for name in names:
            listed = runs[name]
            print(f"\n== {name} {listed[0]['version']}")
            for key in ("cpu", "wall", "all"):
                values = [run[key] for run in listed]
                print(
                    f"{key:5} s: median {statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"
                )
            show(looked_at(browser, axe, folder / f"{name}.html"))
            print("says:", *listed[-1]["said"], sep="\n  ")
        for page in given.pages:
            print(f"\n== {page.name} of {page.parent.name}")
            show(looked_at(browser, axe, page.resolve()))
        browser.close()


def show(seen: dict[str, Any]) -> None:
    total = sum(count for _, _, count in seen["axe"])
    print(f"page {seen['bytes']:,} bytes, opens in {seen['open_ms']} ms, {seen['scripts']} scripts")
    print(f"asks for: {', '.join(seen['requests']) or 'nothing'}")
    print(f"axe: {len(seen['axe'])} rules violated, {total} places: {seen['axe']}")
    print(f"words: {seen['words']}")


if __name__ == "__main__":
    main()
