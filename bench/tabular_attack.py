# SPDX-License-Identifier: Apache-2.0
"""`tabular_attack` against random search at equal queries, PGD with repair, and `hop_skip_jump`, on two real tables.

Every result is judged by the harness (`violations` and the model's own labels). Random search draws uniform points
of the same ball (under l0 random edits), repairs them with the same `repair.py`, drops a row when it breaks, and is
given for each row as many queries as `tabular_attack` was given (its mean over the rows that held). PGD is ours
(5 x 40 steps, settled into the schema). Points: the first held-out ones.

The peer of this method is MOEVA on pymoo (TabularBench); neither can be installed here (its Python and torch
versions are gone), so no line of this table is a comparison with it.

    CASEMATE_TEST_DATA=... OMP_NUM_THREADS=1 python bench/tabular_attack.py [points]

Without CASEMATE_TEST_DATA, rand_hie stands in for adult.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

import casemate as cm
from casemate.core import harness
from casemate.core.methods import find, names
from casemate.core.run import Run
from casemate.core.schema import violations
from casemate.robustness.geometry import sample_ids, uniforms
from casemate.robustness.repair import Repair

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import tables

THREATS = (
    cm.Threat(norm="linf", radius=0.3),
    cm.Threat(norm="l2", radius=0.5),
    cm.Threat(norm="l0", radius=1),
)
WIDER = (cm.Threat(norm="linf", radius=0.5), cm.Threat(norm="l2", radius=1.5), cm.Threat(norm="l1", radius=4))


def judged(target: cm.Target, data: cm.Dataset, x_adv: np.ndarray, threat: cm.Threat) -> tuple[float, int]:
    """Accuracy that is left inside the radius, and how many results break a rule (hop_skip_jump may go beyond)."""
    x, y = data.holdout.x, data.holdout.y
    broken = violations(x, x_adv, threat, data.schema)
    beyond = broken.pop("radius")
    bad = np.logical_or.reduce(list(broken.values()))
    held = (target.labels(x) == y) & (bad | beyond | (target.labels(x_adv) == y))
    return float(held.mean()), int(bad.sum())


def attacked(
    name: str, target: cm.Target, data: cm.Dataset, threat: cm.Threat, **params: Any
) -> tuple[Any, Run]:
    method = find(name)
    run = Run(card=method.card, threat=threat)
    return harness.invoke(method, target, data, run, params), run


def random_search(
    target: cm.Target, data: cm.Dataset, threat: cm.Threat, queries: int
) -> tuple[np.ndarray, int]:
    """Uniform points of the ball, or random edits within the budget; returns rows and queries."""
    x, y = data.holdout.x, data.holdout.y
    n, d = x.shape
    repair, ids = Repair.of(x, data.schema, threat), sample_ids(x)
    reach = (threat.radius or 0.0) * repair.unit
    low, high = np.maximum(repair.low, x - reach), np.minimum(repair.high, x + reach)
    if threat.norm == "l0":
        low, high = repair.low, repair.high
    codes = np.array([column.kind == "category" for column in data.schema.columns])
    low, high = np.where(codes, low - 0.5, low), np.where(codes, high + 0.5, high)
    out, asked = x.copy(), n
    left = np.flatnonzero(target.labels(x) == y)
    for turn in range(0, queries, 20):
        u = uniforms(ids[left], 20 * 2 * d, turn).reshape(len(left), 20, 2, d)
        wanted = low[left][:, None] + u[:, :, 0] * (high - low)[left][:, None]
        if threat.norm == "l0":
            lots = np.where(repair.unit[left][:, None] > 0, u[:, :, 1], 2.0)
            few = np.sort(lots, axis=2)[:, :, [int(threat.radius or 0) - 1]]
            wanted = np.where(lots <= few, wanted, x[left][:, None])
        rows = repair.within(wanted.reshape(-1, d), np.repeat(left, 20))
        asked += len(rows)
        wrong = (target.labels(rows) != np.repeat(y[left], 20)).reshape(-1, 20)
        fell = wrong.any(1)
        out[left[fell]] = rows.reshape(-1, 20, d)[fell, wrong[fell].argmax(1)]
        left = left[~fell]
        if not len(left):
            break
    return out, asked


def line(
    label: str, begin: float, accuracy: float, invalid: int, rows: float, gradients: float = 0.0
) -> None:
    seconds = time.process_time() - begin
    extra = f"{gradients:9.0f}" if gradients else "        -"
    print(f"    {label:34} {accuracy:6.1%}   {invalid:3}   {rows:9.0f} {extra}   {seconds:7.2f}", flush=True)


def compare(title: str, target: cm.Target, data: cm.Dataset, threats: tuple[cm.Threat, ...]) -> None:
    x, y = data.holdout.x, data.holdout.y
    n = len(y)
    module = cm.Capability.MODULE in target.capabilities
    print(f"\n{title}: {n} points, {x.shape[1]} columns, accuracy {(target.labels(x) == y).mean():.1%}")
    print("    attack                             accuracy invalid queries/row grad/row   CPU s")
    for threat in threats:
        print(f"  {threat.norm} {threat.radius:g}")
        threat = threat.resolved(data.schema)
        black = target.limited_to(cm.Capability.LABELS, cm.Capability.SCORES)
        begin = time.process_time()
        x_adv, run = attacked("tabular_attack", black, data, threat)
        rows = run.counter.tally["rows"] / n
        line("tabular_attack, scores only", begin, *judged(target, data, x_adv, threat), rows)
        begin = time.process_time()
        held = (target.labels(x_adv) == y).sum()
        per_row = int(run.counter.tally["rows"] / max(1, held))  # what a row that holds was worth
        x_adv, asked = random_search(target, data, threat, per_row)
        line("random search + repair", begin, *judged(target, data, x_adv, threat), asked / n)
        if module and threat.norm != "l0":
            begin = time.process_time()
            x_adv, run = attacked("tabular_attack", target, data, threat)
            tally = run.counter.tally
            both = (tally["rows"] / n, tally["gradients"] / n)
            line("tabular_attack, gradients first", begin, *judged(target, data, x_adv, threat), *both)
        if module and threat.norm in ("linf", "l2"):
            begin = time.process_time()
            x_adv, run = attacked("pgd", target, data, threat)
            line(
                "pgd 5 x 40 + repair",
                begin,
                *judged(target, data, x_adv, threat),
                0,
                run.counter.tally["gradients"] / n,
            )
        if "hop_skip_jump" in names() and threat.norm in ("linf", "l2"):
            begin = time.process_time()
            x_adv, run = attacked("hop_skip_jump", target.limited_to(cm.Capability.LABELS), data, threat)
            line(
                "hop_skip_jump (labels only)",
                begin,
                *judged(target, data, x_adv, threat),
                run.counter.tally["rows"] / n,
            )


def network(data: cm.Dataset) -> cm.Target:
    """A small network on columns in units of their spread."""
    import torch

    from casemate.training.loop import fit

    x, y = data.train.x, data.train.y
    middle, spread = torch.as_tensor(x.mean(0)).float(), torch.as_tensor(x.std(0) + 1e-9).float()

    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("middle", middle)
            self.register_buffer("spread", spread)
            self.body = torch.nn.Sequential(
                torch.nn.Linear(x.shape[1], 32), torch.nn.ReLU(), torch.nn.Linear(32, 2)
            )

        def forward(self, rows: Any) -> Any:
            return self.body((rows - self.middle) / self.spread)

    recipe = cm.Recipe(factory=Scaled, epochs=20, learning_rate=0.05)
    return cm.wrap(fit(recipe, x, np.asarray(y), seed=0), recipe=recipe)


def main(n: int) -> None:
    import os

    first = "adult" if os.environ.get("CASEMATE_TEST_DATA") else "rand_hie"
    table = tables.load(first, n=4000)
    model = tables.pipeline(table, RandomForestClassifier(50, max_depth=10, random_state=0))
    target, data = cm.wrap(model).bind(table.dataset())
    compare(f"{first}, random forest behind one-hot", target, data.with_holdout(np.arange(n)), THREATS)

    table = tables.load("loanapp")
    model = tables.pipeline(table, HistGradientBoostingClassifier(max_iter=60, random_state=0))
    target, data = cm.wrap(model).bind(table.dataset())
    compare("loanapp, boosting", target, data.with_holdout(np.arange(n)), THREATS)

    middle = table.rows(table.train).median()
    filled = [
        (
            part.drop(columns=table.label).fillna(middle),
            (part[table.label] == "approved").to_numpy().astype(int),
        )
        for part in (table.train, table.holdout)
    ]
    data = cm.Dataset(*((rows.to_numpy(np.float64), y) for rows, y in filled))
    target, data = network(data).bind(data)
    compare("loanapp, network 32, every column real", target, data.with_holdout(np.arange(n)), WIDER)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
