# SPDX-License-Identifier: Apache-2.0
"""A private network on RAND HIE per person: utility over draws of the noise, attacks beside the bound, cost of a step.

python bench/dp_sgd.py            with opacus installed its step is timed in the same run
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import nn

import casemate as cm
from casemate import demo
from casemate.training.modules import Standardise
from casemate.training.per_example import clipped_sum

RUNS, ROUNDS = 3, 15
PLAIN = {"optimiser": "adam", "learning_rate": 0.003, "epochs": 10, "batch_size": 64}
PRIVATE = {"optimiser": "sgd", "learning_rate": 0.2, "epochs": 20, "batch_size": 512, "clip": 8.0}
SHOWN = ("person_auc", "person_tpr_at_1pct_fpr", "tpr_at_1pct_fpr", "roc_auc", "accuracy", "log_loss")


class Filled(nn.Module):
    """A hole becomes the middle of what the column can be."""

    def forward(self, x: Any) -> Any:
        return x.nan_to_num(0.0)


def network(names: list[str]) -> nn.Module:
    """One hidden layer on columns scaled by what the code book says of them."""
    low, high = (torch.tensor([float(demo.HOSPITAL_BOUNDS[name][end]) for name in names]) for end in (0, 1))
    scaled = Standardise((low + high) / 2, (high - low) / 4)
    return nn.Sequential(scaled, Filled(), nn.Linear(len(names), 64), nn.Tanh(), nn.Linear(64, 2))


def utility(change: cm.Change) -> list[float]:
    return [row.value for row in change.after if row.quantity in ("roc_auc", "log_loss")]  # type: ignore[misc]


def hospital() -> None:
    case = demo.case("hospital")
    names = list(case.data.schema.names)

    def build() -> nn.Module:
        return network(names)

    recipe = cm.Recipe(factory=build)
    fresh = cm.wrap(build(), recipe=recipe, outputs="logits", classes=case.data.labels_seen())
    spec = cm.method("dp_sgd", epsilon=math.inf, settings=PLAIN)
    plain = cm.harden(fresh, case.data, using=[spec])
    print("without noise:", *(str(row) for row in plain.after if row.quantity in SHOWN), sep="\n   ")
    targets = {"epsilon inf": plain.target}
    for privacy in ({"epsilon": 3}, {"epsilon": 1}, {"max_tpr": 0.02, "at_fpr": 0.01}):
        start, found = time.process_time(), []
        for seed in range(RUNS):
            spec = cm.method("dp_sgd", delta=1e-5, settings=PRIVATE, **privacy)
            change = cm.harden(plain.target, case.data, using=[spec], seed=seed)
            found.append(utility(change))
        plan = change.target.claims[0]
        targets[str(privacy)] = change.target
        mean, low, high = np.mean(found, 0), np.min(found, 0), np.max(found, 0)
        seconds = (time.process_time() - start) / RUNS
        print(
            f"{privacy}: epsilon {plan.epsilon:.3f}, noise {plan.noise_multiplier:.2f}, {seconds:.1f} CPU-s a run"
        )
        print(f"   log loss and AUC {mean.round(4)} [{low.round(4)} to {high.round(4)}]")
        print(f"   at most {plan.max_tpr(0.01):.3f} of members recognised at 1 % false alarms")
    for title in ("epsilon inf", "{'epsilon': 3}"):
        report = cm.audit(targets[title], case.data, methods=["loss_attack", cm.method("lira", n_shadows=8)])
        print(title, *(str(row) for row in report.measurements if row.quantity in SHOWN), sep="\n   ")


# ---- the cost of a step ----


def steps(width: int, depth: int, batch: int) -> dict[str, Callable[[], None]]:
    """One step each of: ordinary training, ours, Opacus with hooks and with ghost clipping; clip 1, noise 1."""
    draw = np.random.default_rng(0)
    x = torch.from_numpy(draw.normal(size=(batch, 64))).float()
    y = torch.from_numpy(draw.integers(0, 2, batch))

    def model() -> nn.Module:
        layers: list[nn.Module] = [nn.Linear(64, width), nn.ReLU()]
        for _ in range(depth - 1):
            layers += [nn.Linear(width, width), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(width, 2))

    plain, private = model(), model()
    first = torch.optim.SGD(plain.parameters(), lr=0.01)
    second = torch.optim.SGD(private.parameters(), lr=0.01)
    from casemate.training import secure

    def ordinary() -> None:
        first.zero_grad()
        nn.functional.cross_entropy(plain(x), y).backward()
        first.step()

    def ours() -> None:
        sums, _ = clipped_sum(private, nn.functional.cross_entropy, x, y, None, 1.0)
        source = secure.source()
        for name, parameter in private.named_parameters():
            noise = torch.from_numpy(source.gaussians(tuple(parameter.shape)))
            parameter.grad = ((sums[name].double() + noise) / batch).float()
        second.step()

    made = {"ordinary": ordinary, "casemate": ours}
    if find_spec("opacus"):
        made["opacus hooks"] = _opacus(model(), x, y)
    return made


def _opacus(model: nn.Module, x: Any, y: Any) -> Callable[[], None]:
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer

    watched = GradSampleModule(model)
    inner = torch.optim.SGD(watched.parameters(), lr=0.01)
    optimiser = DPOptimizer(inner, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=len(x))

    def step() -> None:
        optimiser.zero_grad()
        nn.functional.cross_entropy(watched(x), y).backward()
        optimiser.step()

    return step


def cost() -> None:
    for width, depth, batch in ((64, 1, 512), (256, 2, 256)):
        made, spent = steps(width, depth, batch), dict[str, list[float]]()
        for turn in range(ROUNDS + 2):
            for name, step in made.items():
                start = time.process_time()
                for _ in range(3):
                    step()
                if turn >= 2:
                    spent.setdefault(name, []).append((time.process_time() - start) / 3)
        base = float(np.median(spent["ordinary"]))
        told = ", ".join(f"{name} {float(np.median(value)) / base:.1f}x" for name, value in spent.items())
        print(f"64-{'-'.join([str(width)] * depth)}-2, batch {batch}: {1000 * base:.2f} CPU-ms; {told}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    cost()
    hospital()
