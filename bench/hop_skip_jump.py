# SPDX-License-Identifier: Apache-2.0
"""`hop_skip_jump` beside the HopSkipJump of ART and foolbox: distance, calls, rows and CPU time.

Random forest (50 trees, depth 6) and XGBoost (50 trees, depth 4) on breast_cancer, min-max scaled; 20 test rows that
the model gets right; 20 iterations, 10 probes at first, at most 100, for everyone. Each seed fits a model anew and
runs all attacks in turn on it. Time is process CPU on one thread, of the attack alone (targets and wrappers are made
before); distances are raw, in the box [0, 1]; rows and calls
are counted at the model's own predict function. A peer's example counts only if the model is wrong on it.

    OMP_NUM_THREADS=1 python bench/hop_skip_jump.py [--linf] [--seeds 3]

The peers are used where they are installed; foolbox wants a torch module, whose forward calls predict_proba.
"""

from __future__ import annotations

import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.preprocessing import minmax_scale

import casemate as cm
from casemate.core import harness
from casemate.core.methods import find
from casemate.core.run import Run
from casemate.core.schema import Schema

ITERATIONS, FIRST, MOST, N_POINTS, N_TRAIN = 20, 10, 100, 20, 400
METHOD = find("hop_skip_jump")


@dataclass
class Counted:
    """A fitted model that counts what is asked of it."""

    model: Any
    calls: int = 0
    rows: int = 0

    def scores(self, x: Any) -> np.ndarray:
        self.calls, self.rows = self.calls + 1, self.rows + len(x)
        out: np.ndarray = self.model.predict_proba(x)
        return out


@dataclass(frozen=True)
class Result:
    """What one attack cost and found."""

    median: float
    mean: float
    calls: int
    rows: float
    seconds: float
    missed: int


@dataclass(frozen=True)
class Job:
    """Points to attack, rows the attacker owns, norm and seed."""

    x: np.ndarray
    y: np.ndarray
    train: np.ndarray
    known: np.ndarray
    norm: str
    seed: int


# Builds whatever an attack needs, untimed, and returns the attack itself.
Prepare = Callable[[Counted, Job], Callable[[], Any]]


def ours(mode: str) -> Prepare:
    def prepare(counted: Counted, job: Job) -> Callable[[], Any]:
        box = {f"x{i}": {"low": 0.0, "high": 1.0} for i in range(job.x.shape[1])}
        schema = Schema.infer(job.train).with_columns(box)
        data = cm.Dataset(train=(job.train, job.known), holdout=(job.x, job.y), schema=schema)
        target, data = cm.wrap(counted.model).bind(data)
        threat = cm.Threat(norm=job.norm, radius=1.0, scale="raw").resolved(data.schema)
        run = Run(card=METHOD.card, threat=threat, seed=job.seed)
        params = {"iterations": ITERATIONS, "n_probes": FIRST, "max_probes": MOST, "mode": mode}

        def attack() -> Any:
            found = harness.invoke(METHOD, target, data, run, params)
            counted.calls, counted.rows = run.counter.tally["calls"], run.counter.tally["rows"]
            return found

        return attack

    return prepare


def art(counted: Counted, job: Job) -> Callable[[], Any]:
    from art.attacks.evasion import HopSkipJump
    from art.estimators.classification import BlackBoxClassifier

    np.random.seed(job.seed)  # noqa: NPY002  # the generator ART draws from
    attack = HopSkipJump(
        BlackBoxClassifier(counted.scores, (job.x.shape[1],), 2, clip_values=(0, 1)),
        norm=2 if job.norm == "l2" else np.inf,
        max_iter=ITERATIONS,
        init_eval=FIRST,
        max_eval=MOST,
        verbose=False,
    )
    return lambda: attack.generate(job.x.astype(np.float32))


def foolbox(counted: Counted, job: Job) -> Callable[[], Any]:
    import foolbox as fb
    import torch

    class Wrapped(torch.nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(counted.scores(rows.numpy()), dtype=torch.float32)

    torch.manual_seed(job.seed)
    np.random.seed(job.seed)  # noqa: NPY002  # the generators foolbox draws from
    attack = fb.attacks.HopSkipJumpAttack(
        steps=ITERATIONS,
        initial_gradient_eval_steps=FIRST,
        max_gradient_eval_steps=MOST,
        constraint=job.norm,
    )
    model = fb.PyTorchModel(Wrapped().eval(), bounds=(0, 1), device="cpu")
    rows, labels = torch.as_tensor(job.x, dtype=torch.float32), torch.as_tensor(job.y)

    def found() -> Any:
        return attack(model, rows, labels, epsilons=None)[1].numpy()

    return found


def measured(prepare: Prepare, model: Any, job: Job) -> Result:
    counted = Counted(model)
    attack = prepare(counted, job)
    counted.calls = counted.rows = 0
    begin = time.process_time()
    found = attack()
    seconds = time.process_time() - begin
    shift = np.abs(np.asarray(found, np.float64) - job.x)
    far = shift.max(1) if job.norm == "linf" else np.sqrt(np.square(shift).sum(1))
    wrong = model.predict(found) != job.y
    rows, missed = counted.rows / len(job.x), int((~wrong).sum())
    median, mean = float(np.median(far[wrong])), float(np.mean(far[wrong]))
    return Result(median, mean, counted.calls, rows, seconds, missed)


def models(seed: int) -> dict[str, Any]:
    made: dict[str, Any] = {
        "random forest 50 x 6": RandomForestClassifier(50, max_depth=6, random_state=seed, n_jobs=1)
    }
    if find_spec("xgboost"):
        from xgboost import XGBClassifier

        made["XGBoost 50 x 4"] = XGBClassifier(n_estimators=50, max_depth=4, random_state=seed, n_jobs=1)
    return made


def main() -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    n_seeds = int(sys.argv[sys.argv.index("--seeds") + 1]) if "--seeds" in sys.argv else 3
    norms = ("l2", "linf") if "--linf" in sys.argv else ("l2",)
    attacks: dict[str, Prepare] = {
        "ours, min_calls": ours("min_calls"),
        "ours, min_queries": ours("min_queries"),
    }
    for name, peer in (("art", art), ("foolbox", foolbox)):
        if find_spec(name):
            attacks[name] = peer
        else:
            print(f"{name} is not installed: left out")
    x, y = load_breast_cancer(return_X_y=True)
    x = minmax_scale(x)
    results: dict[tuple[str, str, str], list[Result]] = {}
    for seed in range(n_seeds):
        order = np.random.default_rng(seed).permutation(len(x))
        train, test = order[:N_TRAIN], order[N_TRAIN:]
        for name, model in models(seed).items():
            model.fit(x[train], y[train])
            held = test[model.predict(x[test]) == y[test]][:N_POINTS]
            model.predict_proba(x[held])  # start-up is nobody's
            for norm in norms:
                job = Job(x[held], y[held], x[train], y[train], norm, seed)
                for label, prepare in attacks.items():
                    results.setdefault((name, norm, label), []).append(measured(prepare, model, job))
    for name in models(0):
        for norm in norms:
            print(f"\n{name}, {norm}, {N_POINTS} points, {n_seeds} seeds (medians over seeds)")
            head = f"{'mean':>8}{'calls':>8}{'rows/pt':>9}{'CPU s':>8}{'missed':>8}"
            print(f"  {'':<18}{'median distance, by seed':>28}{head}")
            for label in attacks:
                runs = results[name, norm, label]
                by_seed = " ".join(f"{run.median:.3f}" for run in runs)
                mean, calls, rows, seconds = (
                    statistics.median(getattr(run, field) for run in runs)
                    for field in ("mean", "calls", "rows", "seconds")
                )
                missed = sum(run.missed for run in runs)
                print(
                    f"  {label:<18}{by_seed:>28}{mean:8.3f}{calls:8.0f}{rows:9.0f}{seconds:8.2f}{missed:8d}"
                )
            for peer in ("art", "foolbox"):
                if peer not in attacks:
                    continue
                base = results[name, norm, peer]
                for label in list(attacks)[:2]:
                    mine = results[name, norm, label]
                    pairs = list(zip(mine, base, strict=True))
                    cpu = [other.seconds / own.seconds for own, other in pairs]
                    rows = [own.rows / other.rows for own, other in pairs]
                    nearer = sum(own.median <= other.median for own, other in pairs)
                    print(
                        f"  {label} against {peer}: {statistics.median(cpu):.1f} x less CPU "
                        f"[{min(cpu):.1f}, {max(cpu):.1f}], {statistics.median(rows):.2f} x the rows, "
                        f"median distance smaller or equal in {nearer} of {n_seeds} seeds"
                    )


if __name__ == "__main__":
    main()
