# SPDX-License-Identifier: Apache-2.0
"""Adversarial training of the digits and Adult networks: what it withstands and what it costs; ART's trainer beside it.

Run: python bench/adversarial_training.py [digits] [adult]. ART (adversarial-robustness-toolbox) must be importable
for its rows, Adult is found by CASEMATE_TEST_DATA. Times are process CPU seconds, one run.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import casemate as cm
from casemate.core import stats
from casemate.training.loop import fit

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

ATTACK = cm.method("pgd", steps=40, restarts=5)
ROWS = (
    ("robust accuracy, pgd 40 x 5", ("pgd", "robust_accuracy")),
    ("accuracy", ("utility", "accuracy")),
    ("log loss", ("utility", "log_loss")),
)


def digits() -> tuple[cm.Recipe, cm.Dataset, float]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    images = (x / 16).reshape(-1, 1, 8, 8)
    mixed = np.random.default_rng(0).permutation(len(y))
    images, y = images[mixed], y[mixed]

    def net() -> Any:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))

    recipe = cm.Recipe(factory=net, optimiser="adam", learning_rate=0.001, epochs=30, batch_size=32)
    return recipe, cm.Dataset(train=(images[:1000], y[:1000]), holdout=(images[1000:], y[1000:])), 0.1


class Wide(nn.Module):
    """Codes of categories as one-hot, numbers standardised by fixed figures, then one hidden layer."""

    def __init__(self, schema: cm.Schema, mean: torch.Tensor) -> None:
        super().__init__()
        self.sizes = [len(c.categories) if c.kind == "category" else 0 for c in schema.columns]
        self.register_buffer("mean", mean)
        self.register_buffer("scale", torch.tensor([c.spread or 1.0 for c in schema.columns]))
        width = sum(size + 1 if size else 1 for size in self.sizes)
        self.layers = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = []
        for j, size in enumerate(self.sizes):
            if size:
                code = torch.where(x[:, j].isnan(), float(size), x[:, j]).long()
                parts.append(nn.functional.one_hot(code, size + 1).to(x.dtype))
            else:
                value = torch.where(x[:, j].isnan(), self.mean[j], x[:, j])
                parts.append(((value - self.mean[j]) / self.scale[j])[:, None])
        return self.layers(torch.cat(parts, 1))


def adult(n: int = 3000) -> tuple[cm.Recipe, cm.Dataset, float]:
    import tables

    table = tables.load("adult", n=n)
    parts = [
        (
            table.rows(part),
            (part[table.label] == max(table.train[table.label].unique())).to_numpy() * 1,
        )
        for part in (table.train, table.holdout)
    ]
    data = cm.Dataset(train=parts[0], holdout=parts[1], immutable=table.immutable, sensitive=table.sensitive)
    mean = torch.tensor(np.nan_to_num(np.nanmean(data.train.x, 0)), dtype=torch.float32)
    recipe = cm.Recipe(
        factory=lambda: Wide(data.schema, mean),
        optimiser="adam",
        learning_rate=0.002,
        epochs=15,
        batch_size=64,
    )
    return recipe, data, 0.3


def timed(work: Any) -> tuple[Any, float]:
    start = time.process_time()
    return work(), time.process_time() - start


def shown(name: str, report: Any, seconds: float, before: Any = None) -> None:
    print(f"{name}  ({seconds:.2f} CPU-s)")
    changes = (
        {} if before is None else {row.quantity: row.difference for row in cm.compare(before, report).rows}
    )
    for label, key in ROWS:
        row, change = report[key], changes.get(key[1])
        paired = (
            "" if change is None else f"  paired {change.value:+.4f} [{change.low:+.4f}, {change.high:+.4f}]"
        )
        print(f"  {label:30s} {row.value:.4f} [{row.low:.4f}, {row.high:.4f}]{paired}")


def groups(data: cm.Dataset, before: cm.Target, after: cm.Target) -> None:
    """Print accuracy before and after, and the paired difference, in each group of the sensitive columns."""
    _, coded = before.bind(data)
    hits = [np.asarray(t.bind(data)[0].labels(coded.holdout.x) == coded.holdout.y) for t in (before, after)]
    for j, column in enumerate(data.schema.columns):
        for code, value in enumerate(column.categories if column.name in data.schema.sensitive else ()):
            inside = coded.holdout.x[:, j] == code
            if inside.sum() < 50:
                continue
            one, other = (stats.proportion(hit[inside]) for hit in hits)
            moved = stats.mean(hits[1][inside].astype(float) - hits[0][inside])
            print(
                f"  accuracy, {column.name} = {value} (n={inside.sum()}): {one.value:.4f} -> {other.value:.4f} "
                f"paired {moved.value:+.4f} [{moved.low:+.4f}, {moved.high:+.4f}]"
            )


def art(recipe: cm.Recipe, data: cm.Dataset, radius: float, steps: int) -> Any:
    """ART's AdversarialTrainer at the same epochs, batch, optimiser and attack; every row moved."""
    from art.attacks.evasion import ProjectedGradientDescent
    from art.defences.trainer import AdversarialTrainer
    from art.estimators.classification import PyTorchClassifier

    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  # ART draws from it
    model = recipe.factory()
    wrapped = PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.Adam(model.parameters(), lr=recipe.learning_rate),
        input_shape=data.train.x.shape[1:],
        nb_classes=10,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    size = 1.25 * radius if steps == 1 else 2.5 * radius / steps
    attack = ProjectedGradientDescent(
        wrapped, eps=radius, eps_step=size, max_iter=steps, num_random_init=1, batch_size=32, verbose=False
    )
    trainer = AdversarialTrainer(wrapped, attack, ratio=1.0)
    x, y = data.train.x.astype(np.float32), np.eye(10)[data.train.y]
    trainer.fit(x, y, batch_size=recipe.batch_size, nb_epochs=recipe.epochs)
    return model.eval()


def main(names: list[str]) -> None:
    for name in names or ["digits", "adult"]:
        recipe, data, radius = {"digits": digits, "adult": adult}[name]()
        model, seconds = timed(lambda: fit(recipe, data.train.x, data.train.y, seed=0))  # noqa: B023  # at once
        target = cm.wrap(model, recipe=recipe)
        threat = cm.Threat(norm="linf", radius=radius)
        before = cm.audit(target, data, methods=[ATTACK], threat=threat)
        print(f"== {name}: {len(data.train)} rows trained on, {len(data.holdout)} held out, linf {radius}")
        shown("plain", before, seconds)
        for steps in (1, 7) if name == "digits" else (1,):
            for validate in (0.1, 0.0) if name == "digits" else (0.1,):
                using = [cm.method("adversarial_training", radius=radius, steps=steps, validate=validate)]
                change, seconds = timed(lambda: cm.harden(target, data, using=using))  # noqa: B023
                after = cm.audit(change.target, data, like=before)
                shown(f"adversarial_training steps={steps} validate={validate}", after, seconds, before)
                groups(data, target, change.target)
            if name == "digits":
                other, seconds = timed(lambda: art(recipe, data, radius, steps))  # noqa: B023
                report = cm.audit(cm.wrap(other), data, like=before)
                shown(f"ART AdversarialTrainer, PGD of {steps}, ratio 1", report, seconds, before)


if __name__ == "__main__":
    main(sys.argv[1:])
