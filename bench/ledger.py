# SPDX-License-Identifier: Apache-2.0
"""The ledger beside a bare append, in one run: what a durable spend costs, and what group commit gains.

``python bench/ledger.py [FOLDER]`` (a folder on the disk in question). A second part runs on a disk whose every sync
takes 5 ms more, as network volumes and disks that turn do: there grouping is what matters.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from casemate.privacy import _ledger_file as files
from casemate.privacy.events import Pure
from casemate.privacy.ledger import Ledger

EVENT = (Pure(epsilon=1e-6),)


class Slow(files.Disk):
    """A disk whose sync takes 5 ms more."""

    @staticmethod
    def sync(handle: int) -> None:
        time.sleep(0.005)
        os.fdatasync(handle)


def begun(folder: Path, name: str, disk: type[files.Disk]) -> Ledger:
    Ledger.create(folder / name, population="bench", epsilon=1e6, delta=0.0).close()
    return Ledger(files.FileStorage(folder / name, disk=disk), files.read_key(folder / f"{name}.key"))


def one_by_one(folder: Path, rounds: int, each: int) -> None:
    """Alternate blocks of raw appends and of spends; compare medians of the blocks."""
    ledger = begun(folder, "one", files.Disk)
    raw = os.open(folder / "raw", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    line, times = bytes(250), {"raw": [], "spend": []}
    for block in range(rounds):
        for name in ("raw", "spend") if block % 2 else ("spend", "raw"):
            start = time.perf_counter()
            for i in range(each):
                if name == "raw":
                    os.write(raw, line)
                    os.fdatasync(raw)
                else:
                    ledger.reserve(f"mean(age); data 7c1f22; {block}-{i}", EVENT)
            times[name].append((time.perf_counter() - start) / each)
    us = {name: 1e6 * statistics.median(found) for name, found in times.items()}
    ratio = statistics.median(s / r for s, r in zip(times["spend"], times["raw"], strict=True))
    print(f"raw append + fdatasync {us['raw']:.0f} us; durable spend {us['spend']:.0f} us; ratio {ratio:.2f}")


def rate(ask: Callable[[int, int], object], threads: int, seconds: float) -> float:
    """Return calls a second of several threads."""
    counts, stop = [0] * threads, time.perf_counter() + seconds

    def loop(k: int) -> None:
        while time.perf_counter() < stop:
            ask(k, counts[k])
            counts[k] += 1

    many = [threading.Thread(target=loop, args=(k,)) for k in range(threads)]
    start = time.perf_counter()
    for one in many:
        one.start()
    for one in many:
        one.join()
    return sum(counts) / (time.perf_counter() - start)


def grouped(folder: Path, what: str, disk: type[files.Disk]) -> None:
    single, many = begun(folder, f"{what}-1", disk), begun(folder, f"{what}-32", disk)
    alone = rate(lambda k, i: single.reserve(f"{k} {i}", EVENT), 1, 2.0)
    together = rate(lambda k, i: many.reserve(f"{k} {i}", EVENT), 32, 2.0)
    print(f"{what}: one caller {alone:.0f} a second, 32 callers {together:.0f}; {together / alone:.1f} times")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as place:
        one_by_one(Path(place), 40, 50)
        grouped(Path(place), "this disk", files.Disk)
        grouped(Path(place), "5 ms a sync", Slow)
