# SPDX-License-Identifier: Apache-2.0
"""Writes opacus.json: clipped sums and epsilons of Opacus, for test_dp_sgd_oracle. Run once where opacus is installed.

python tests/oracle/make_opacus.py
"""

from __future__ import annotations

import json
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

CLIP, ROWS = 0.4, 9
# noise, rate, steps, delta
ACCOUNTS = [(1.0, 0.01, 1000, 1e-5), (2.4, 0.125, 160, 1e-5), (0.8, 0.002, 5000, 1e-6), (6.0, 0.5, 200, 1e-5)]


class Codes(nn.Module):
    """Codes are looked up, put side by side, normalised and read twice by the same layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(6, 3)
        self.norm = nn.LayerNorm(6)
        self.layer = nn.Linear(6, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Any) -> Any:
        hidden = self.norm(self.table(x.long()).flatten(1))
        return self.head(self.layer(self.layer(hidden).tanh()).tanh())


def models() -> dict[str, tuple[nn.Module, Any, Any]]:
    """Float64 models with rows and labels; weights from numpy's generator, so the same everywhere."""
    draw = np.random.default_rng(0)
    images = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(16, 4)
    )
    made = {
        "mlp": (nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 4)), draw.normal(size=(ROWS, 5))),
        "convolution": (images, draw.normal(size=(ROWS, 1, 6, 6))),
        "codes": (Codes(), draw.integers(0, 6, (ROWS, 2)).astype(float)),
    }
    out = {}
    for name, (model, x) in made.items():
        model.double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.from_numpy(draw.normal(0, 0.6, tuple(parameter.shape))))
        out[name] = (model, torch.from_numpy(x), torch.arange(ROWS) % 4)
    return out


def clipped(model: nn.Module, x: Any, y: Any) -> list[float]:
    from opacus.grad_sample import GradSampleModule  # not in the test environment: read only when recording
    from opacus.optimizers import DPOptimizer

    watched = GradSampleModule(model, loss_reduction="mean")
    inner = torch.optim.SGD(watched.parameters(), lr=1.0)
    optimiser = DPOptimizer(inner, noise_multiplier=0.0, max_grad_norm=CLIP, expected_batch_size=ROWS)
    nn.functional.cross_entropy(watched(x), y).backward()
    optimiser.clip_and_accumulate()
    return [float(value) for p in model.parameters() for value in p.summed_grad.flatten()]


def main() -> None:
    from opacus.accountants import PRVAccountant, RDPAccountant

    warnings.simplefilter("ignore")
    costs = []
    for noise, rate, steps, delta in ACCOUNTS:
        row: list[float] = [noise, rate, steps, delta]
        for kind in (PRVAccountant, RDPAccountant):
            one = kind()
            one.history = [(noise, rate, steps)]
            row.append(float(one.get_epsilon(delta)))
        costs.append(row)
    sums = {name: clipped(*parts) for name, parts in models().items()}
    out = {"versions": {name: version(name) for name in ("opacus", "torch")}, "sums": sums, "costs": costs}
    Path(__file__).with_name("opacus.json").write_text(json.dumps(out) + "\n", "utf-8")


if __name__ == "__main__":
    main()
