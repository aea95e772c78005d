# SPDX-License-Identifier: Apache-2.0
"""The scanner beside picklescan and modelscan: misses, false alarms and CPU time on the corpus of the tests.

    PYTHONPATH=<where the peers are installed> python bench/scanner.py [--list]

Every file is written under the name it would usually have, since the peers look at extensions, and scanned in this
process. A file counts as caught when the scanner reports an issue *or an error*: what cannot be read may not pass as
clean. The corpus is ours: what peers miss shows what a list of bad names leaves open, not how often that is met.
"""

from __future__ import annotations

import importlib.metadata
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import pickle_corpus as corpus

from casemate.core.pickles import scan

SUFFIX = ((b"PK", ".pt"), (b"\x93NUMPY", ".npy"), (b"\x89HDF", ".h5"), (b"7z", ".7z"))
USUAL = {
    "joblib": ".joblib",
    "safetensors": ".safetensors",
    "torch": ".pt",
    "npz": ".npz",
    "npy": ".npy",
    "ubj": ".ubj",
}
USUAL |= {"json": ".json", "lightgbm text": ".txt", "csv": ".csv"}


def suffix(name: str, raw: bytes, *, bad: bool) -> str:
    """Honest files have their usual names; the others what suits their first bytes."""
    if not bad and (usual := [end for word, end in USUAL.items() if word in name]):
        return usual[0]
    return next((end for magic, end in SUFFIX if raw.startswith(magic)), ".pkl")


def ours(path: Path) -> bool:
    return scan(path).verdict != "clean"


def picklescan() -> Callable[[Path], bool]:
    from picklescan.scanner import scan_file_path

    def caught(path: Path) -> bool:
        found = scan_file_path(str(path))
        return bool(found.issues_count or found.infected_files or found.scan_err)

    return caught


def modelscan() -> Callable[[Path], bool]:
    from modelscan.modelscan import ModelScan

    def caught(path: Path) -> bool:
        found = ModelScan().scan(path)
        return bool(found["summary"]["total_issues"] or found["errors"])

    return caught


def survey() -> dict[str, tuple[bool, bytes]]:
    """The five files of docs/survey: whether each should be caught, and its bytes."""
    import pickle

    from sklearn.linear_model import LogisticRegression

    good = pickle.dumps(LogisticRegression().fit([[0.0], [1.0]], [0, 1]))
    return {
        "scikit-learn model": (False, good),
        "os.system": (True, corpus.SYSTEM),
        "truncated file": (True, good[: len(good) // 2]),
        "numpy runstring": (True, corpus.call("numpy.testing._private.utils", "runstring", corpus.text("1"))),
        "48-byte memory bomb": (True, dict(corpus.bombs())["bytearray of 8 GiB (48 bytes)"]),
    }


def main() -> None:
    """Print one row a scanner."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    scanners: dict[str, Callable[[Path], bool]] = {"casemate": ours}
    for name, make in (("picklescan", picklescan), ("modelscan", modelscan)):
        try:
            scanners[f"{name} {importlib.metadata.version(name)}"] = make()
        except ImportError as error:
            print(f"{name} is not installed here ({error}); left out")
    parts = {
        "survey": survey(),
        "gadgets": {name: (True, raw) for name, raw in corpus.gadgets().items()},
        "bombs": {name: (True, raw) for name, raw in corpus.bombs()},
        "honest": {name: (False, raw) for name, _, raw in corpus.honest(everything=True)},
    }
    counts = ", ".join(f"{len(files)} {part}" for part, files in parts.items())
    print(f"{counts}\n\n| scanner | survey right | gadgets missed | bombs missed | false alarms | CPU s |")
    print("|---|---|---|---|---|---|")
    for title, caught in scanners.items():
        wrong: dict[str, list[str]] = {}
        start = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            for part, files in parts.items():
                for name, (bad, raw) in files.items():
                    path = Path(folder) / f"model{suffix(name, raw, bad=bad)}"
                    path.write_bytes(raw)
                    try:
                        found = caught(path)
                    except Exception:  # noqa: BLE001 - a scanner that breaks does not say clean
                        found = True
                    if found != bad:
                        wrong.setdefault(part, []).append(name)
                    path.unlink()
        seconds = time.process_time() - start
        n = {part: len(wrong.get(part, [])) for part in parts}
        right = f"{len(parts['survey']) - n['survey']}/{len(parts['survey'])}"
        print(
            f"| {title} | {right} | {n['gadgets']} | {n['bombs']} | {n['honest']} | {seconds:.1f} |",
            flush=True,
        )
        if "--list" in sys.argv:
            for part, names in wrong.items():
                print(f"    {part}: {'; '.join(names)}")


if __name__ == "__main__":
    main()
