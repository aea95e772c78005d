# SPDX-License-Identifier: Apache-2.0
"""`pgd` beside CleverHans 4.0.0 (torch) on a digits network: which images fall, and what it costs.

    OMP_NUM_THREADS=1 python bench/pgd_cleverhans.py [rounds]

with cleverhans on the path. FGSM with true labels and clipping must break the same images. PGD starts at the image
itself on both sides, so that only what is done with the steps differs: CleverHans returns the last point, `pgd` the
first that is wrong. CPU time of one thread, interleaved, median of the rounds, ours over theirs.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from cleverhans.torch.attacks.fast_gradient_method import fast_gradient_method
from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent
from sklearn.datasets import load_digits

import casemate as cm
from casemate.core.methods import find
from casemate.core.run import Run
from casemate.training.loop import fit

STEPS = 40


def network() -> tuple[torch.nn.Module, cm.Dataset]:
    x, y = load_digits(return_X_y=True)
    x = (x / 16).reshape(-1, 1, 8, 8).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(y))
    train, hold = order[:898], order[898:]
    recipe = cm.Recipe(
        factory=lambda: torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)
        ),
        epochs=40,
        momentum=0.9,
    )
    model = fit(recipe, x[train], y[train], seed=0).eval()
    return model, cm.Dataset(train=(x[train], y[train]), holdout=(x[hold], y[hold]))


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    model, given = network()
    target, data = cm.wrap(model, outputs="logits").bind(given)
    data = data.with_holdout(np.flatnonzero(target.labels(data.holdout.x) == data.holdout.y))
    x, y = torch.as_tensor(data.holdout.x).float(), torch.as_tensor(data.holdout.y)
    method = find("pgd")

    def theirs(radius: float, steps: int) -> np.ndarray:
        size = {"norm": np.inf, "clip_min": 0.0, "clip_max": 1.0, "y": y}
        if steps == 1:
            return fast_gradient_method(model, x, radius, **size).detach().numpy()
        rule = {
            "eps_iter": 2.5 * radius / steps,
            "nb_iter": steps,
            "rand_init": False,
            "sanity_checks": False,
        }
        return projected_gradient_descent(model, x, radius, **size, **rule).detach().numpy()

    def ours(radius: float, steps: int) -> np.ndarray:
        threat = cm.Threat(norm="linf", radius=radius).resolved(data.schema)
        step = radius if steps == 1 else None
        how = {"steps": steps, "restarts": 1, "step_size": step, "random_start": False}
        return method.function(target, data, threat=threat, **how, run=Run(card=method.card, threat=threat))

    for steps in (1, STEPS):
        for radius in (0.02, 0.05, 0.1, 0.2):
            fell, cost = {}, {"theirs": [], "ours": []}
            for _ in range(rounds):
                for attack in (theirs, ours):
                    begin = time.process_time()
                    moved = attack(radius, steps)
                    cost[attack.__name__].append(time.process_time() - begin)
                    fell[attack.__name__] = target.labels(moved) != data.holdout.y
            ratio = np.median(np.divide(cost["ours"], cost["theirs"]))
            a, b = fell["theirs"], fell["ours"]
            print(
                f"{steps} steps, linf {radius}: of {len(a)} theirs {a.sum()}, ours {b.sum()}, only theirs "
                f"{(a & ~b).sum()}, only ours {(b & ~a).sum()}; CPU ratio {ratio:.2f}"
            )


if __name__ == "__main__":
    main()
