# SPDX-License-Identifier: Apache-2.0
"""Kill writers of a ledger at random moments and compare what they saw with what it kept: used by tests.

Each worker notes in a file of its own, one write a line, "d" when noise is drawn and "g" when it holds an answer.
``python ledger_kills.py FOLDER KILLS SEED`` prints the counts as JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from casemate.core.errors import CasemateError
from casemate.privacy.events import Pure
from casemate.privacy.ledger import Ledger

WORKERS, A_LEDGER = 8, 100  # kills


def work(path: Path, notes: Path, seed: int) -> None:
    """Ask questions, half of them new, half that the other workers ask as well, until killed."""
    draws = random.Random(seed)
    out = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    ledger = Ledger.open(path)
    for turn in range(10**6):
        query = f"own {seed} {turn}" if draws.random() < 0.5 else f"shared {draws.randrange(10**6) % 400}"

        def make(query: str = query) -> dict[str, str]:
            value = os.urandom(8).hex()
            os.write(out, f"d {query}\n".encode())
            return {"value": value}

        got = ledger.release(query, (Pure(epsilon=1e-3),), make)
        os.write(out, f"g {query} {got['value']}\n".encode())


def round_of(folder: Path, kills: int, seed: int) -> dict[str, int]:
    """Kill ``kills`` writers of one ledger and check it."""
    draws = random.Random(seed)
    path = folder / f"{seed}.ledger"
    Ledger.create(path, population="people", unit="person", epsilon=1e6, delta=0.0).close()
    alive: dict[int, float] = {}
    spared: dict[int, Path] = {}  # until they hold an answer: on a slow machine too, something is drawn
    failed = started = killed = 0
    while killed < kills or alive:
        while len(alive) < WORKERS and started < kills:
            started += 1
            child = os.fork()
            if child == 0:
                try:
                    work(path, folder / f"{seed}-{started}.notes", seed * 10**6 + started)
                except BaseException as error:  # noqa: BLE001
                    os.write(2, f"{type(error).__name__}: {error}\n".encode())
                finally:
                    os._exit(7)
            alive[child] = time.monotonic() + draws.uniform(0.002, 0.15)
            if started % 6 == 0:
                spared[child] = folder / f"{seed}-{started}.notes"
        child = min(alive, key=alive.get)  # type: ignore[arg-type]
        time.sleep(max(alive.pop(child) - time.monotonic(), 0))
        while child in spared and not answered(spared[child]) and not ended(child):
            time.sleep(0.005)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        failed += os.WIFEXITED(status)
        killed += 1
    return {"kills": killed, "failed": failed, **checked(path, folder.glob(f"{seed}-*.notes"))}


def answered(notes: Path) -> bool:
    return notes.exists() and b"g " in notes.read_bytes()


def ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def checked(path: Path, notes: object) -> dict[str, int]:
    """Compare a ledger with what its writers noted."""
    ledger = Ledger.open(path)
    ledger.verify()
    reserved: dict[str, int] = {}
    for spend in ledger.spends():
        reserved[spend.query] = reserved.get(spend.query, 0) + 1
    drawn: dict[str, int] = {}
    answers: dict[str, set[str]] = {}
    for file in notes:  # type: ignore[attr-defined]
        for line in file.read_text().splitlines():
            kind, _, rest = line.partition(" ")
            if kind == "d":
                drawn[rest] = drawn.get(rest, 0) + 1
            else:
                query, _, value = rest.rpartition(" ")
                answers.setdefault(query, set()).add(value)
    lost = sum(max(times - reserved.get(query, 0), 0) for query, times in drawn.items())
    double = sum(len(values) > 1 for values in answers.values())
    unkept = 0
    for query, values in answers.items():
        kept = ledger.release(query, (Pure(epsilon=1e-3),), lambda: {"value": "drawn again"})["value"]
        unkept += kept not in values
    over = sum(reserved.values()) - sum(drawn.values())
    spent = abs(ledger.spent().epsilon - 1e-3 * sum(reserved.values())) > 1e-9
    return {
        "draws": sum(drawn.values()),
        "answers": len(answers),
        "lost": lost,
        "double": double,
        "unkept": unkept,
        "over": over,
        "miscounted": int(spent),
    }


def main(folder: Path, kills: int, seed: int) -> dict[str, int]:
    """Run rounds of at most A_LEDGER kills, a ledger each."""
    total: dict[str, int] = {}
    for start in range(0, kills, A_LEDGER):
        part = folder / str(start)
        part.mkdir()
        found = round_of(part, min(A_LEDGER, kills - start), seed + start)
        total = {name: total.get(name, 0) + value for name, value in found.items()}
        total["rounds over count"] = total.get("rounds over count", 0) + (found["over"] > found["kills"])
    return total


def run(folder: Path, kills: int) -> dict[str, int]:
    """Do so in a process of its own and hold the counts against what a ledger promises; return them."""
    done = subprocess.run(
        [sys.executable, __file__, folder, str(kills), "1"], check=True, capture_output=True, text=True
    )
    found: dict[str, int] = json.loads(done.stdout)
    assert found["failed"] == 0, done.stderr
    assert (found["lost"], found["double"], found["unkept"], found["miscounted"]) == (0, 0, 0, 0)
    assert found["over"] <= found["kills"]  # each kill may cost the one spend that was in flight
    return found


if __name__ == "__main__":
    try:
        print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
    except CasemateError as error:
        sys.exit(f"{type(error).__name__}: {error}")
