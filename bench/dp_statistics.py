# SPDX-License-Identifier: Apache-2.0
"""Private statistics of 10 million rows beside numpy's clip and mean, and OpenDP where it is installed.

Process CPU seconds, everything interleaved in one process, the least of several rounds; ratios are of one run.

    python bench/dp_statistics.py [ROWS] [ROUNDS]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import casemate.privacy.statistics as statistics

BOUNDS = (0.0, 120.0)


def peers(x: np.ndarray) -> dict[str, Callable[[], Any]]:
    try:
        import opendp.prelude as dp
    except ImportError:
        return {}
    dp.enable_features("contrib")
    floats = dp.vector_domain(dp.atom_domain(T=float, nan=False)), dp.symmetric_distance()
    whole = dp.vector_domain(dp.atom_domain(T=int)), dp.symmetric_distance()
    total = floats >> dp.t.then_clamp(BOUNDS) >> dp.t.then_sum() >> dp.m.then_laplace(240.0)
    sized = (
        (dp.vector_domain(dp.atom_domain(bounds=BOUNDS, nan=False), size=len(x)), dp.symmetric_distance())
        >> dp.t.then_mean()
        >> dp.m.then_laplace(240.0 / len(x))
    )
    ints = whole >> dp.t.then_clamp((0, 120)) >> dp.t.then_sum() >> dp.m.then_laplace(240.0)
    clipped, cast = np.clip(x, *BOUNDS), x.astype(np.int32)
    print(
        f"OpenDP float sum of {len(x):,} rows of 50: {total(np.full(len(x), 50.0)):,.0f}; true {50 * len(x):,}"
    )
    ours = statistics.sum(np.full(len(x), 50.0), bounds=(0, 100), epsilon=0.5).value
    print(f"ours: {ours:,.0f}")
    return {
        "OpenDP float sum": lambda: total(x),
        "OpenDP mean, size known, clipped before": lambda: sized(clipped),
        "OpenDP int32 sum": lambda: ints(cast),
    }


def main(rows: int = 10_000_000, rounds: int = 5) -> None:
    x = np.random.default_rng(0).gamma(6.0, 8.0, rows)
    e = 0.5
    ours: dict[str, Callable[[], Any]] = {
        "count": lambda: statistics.count(x, epsilon=e),
        "sum": lambda: statistics.sum(x, bounds=BOUNDS, epsilon=e),
        "mean": lambda: statistics.mean(x, bounds=BOUNDS, epsilon=e),
        "variance": lambda: statistics.variance(x, bounds=BOUNDS, epsilon=e),
        "histogram, 24 bins": lambda: statistics.histogram(x, edges=np.linspace(0, 120, 25), epsilon=e),
        "histogram, 6 uneven bins": lambda: statistics.histogram(x, edges=[0, 18, 30, 45, 65, 80, 120], epsilon=e),
        "histogram, 100 bins": lambda: statistics.histogram(x, edges=np.linspace(0, 120, 101), epsilon=e),
        "quantile": lambda: statistics.quantile(x, 0.5, bounds=BOUNDS, epsilon=e),
        "9 quantiles": lambda: statistics.quantiles(x, np.linspace(0.1, 0.9, 9).tolist(), bounds=BOUNDS, epsilon=e),
    }  # fmt: skip
    plain = {
        "numpy clip+mean": lambda: np.clip(x, *BOUNDS).mean(),
        "numpy partition": lambda: np.partition(x, rows // 2),
    }
    others = peers(x)
    every = {**plain, **ours, **others}
    best = dict.fromkeys(every, np.inf)
    for turn in range(rounds):
        for name, ask in every.items():
            if turn and name in others:
                continue  # a minute each
            start = time.process_time()
            ask()
            best[name] = min(best[name], time.process_time() - start)
    for name, seconds in best.items():
        against = "numpy partition" if "quantile" in name else "numpy clip+mean"
        print(f"{name:42} {seconds:8.4f} s  {seconds / best[against]:6.2f} x {against}")
    streamed(rows)


CHILD = """
import sys, time
import casemate.privacy.statistics as statistics
column = statistics.stored(sys.argv[1], "x")
asked = lambda: statistics.mean(column, bounds=(0, 120), epsilon=1.0)
if sys.argv[2] == "warm":
    import pyarrow.parquet
    statistics.mean([1.0], bounds=(0, 120), epsilon=1.0)
else:
    start = time.process_time()
    asked()
    print(f"{time.process_time() - start:.2f}", end=" ")
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""


def streamed(rows: int) -> None:
    """Show the peak memory of processes that ask one mean of a Parquet file, above that of one that asks none.

    Each in a process of its own: the peak of this one was reached long before.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    def child(file: Path, how: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(file), how], capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.parquet"
        rng = np.random.default_rng(1)
        for times in (1, 4):
            with pq.ParquetWriter(file, pa.schema([("x", pa.float64())])) as writer:
                for _ in range(times * 10):
                    writer.write_table(pa.table({"x": rng.uniform(0, 150, rows // 10)}), row_group_size=2**17)
            (none,), (seconds, peak) = child(file, "warm"), child(file, "ask")
            more = (int(peak) - int(none)) / 1024
            print(
                f"Parquet, {times * rows:,} rows: {seconds} s, peak {more:.1f} MB above a process that only imports"
            )


if __name__ == "__main__":
    main(*(int(one) for one in sys.argv[1:]))
