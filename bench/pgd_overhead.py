# SPDX-License-Identifier: Apache-2.0
"""What `pgd` costs over a plain torch loop, and whether both break the same points.

Two loops are the yardsticks, with the same random starts, steps and batches, on the same points (those the model
gets right): `textbook` looks at the model's answer at the end of each restart only, as most printed code does;
`every` looks at each iterate, as `pgd` does, and must break exactly the same points. The price is process CPU time on
one thread, in interleaved runs; the ratio is ours over textbook's, the cheaper one. Small radii are the worst case
(nothing leaves the batch).

    OMP_NUM_THREADS=1 python bench/pgd_overhead.py [runs]

`--peers` also times foolbox and torchattacks where they are installed (their own random starts; one restart).
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import numpy as np
import torch
from scipy.ndimage import zoom
from sklearn.datasets import load_digits
from torch.nn import functional

import casemate as cm
from casemate.core import rng
from casemate.core.methods import find
from casemate.core.run import Run
from casemate.robustness.geometry import random_start, sample_ids

STEPS, RESTARTS = 40, 3


def models() -> Iterator[tuple[str, torch.nn.Module, np.ndarray, np.ndarray]]:
    pixels, y = load_digits(return_X_y=True)
    small = (pixels / 16).reshape(-1, 1, 8, 8).astype(np.float32)
    large = np.stack([zoom(image[0], 3.5, order=1) for image in small])[:, None].clip(0, 1)
    linear, relu = torch.nn.Linear, torch.nn.ReLU
    makers = {
        "digits MLP 64-64-10": (
            small,
            lambda: torch.nn.Sequential(torch.nn.Flatten(), linear(64, 64), relu(), linear(64, 10)),
        ),
        "digits CNN 16-32": (
            small,
            lambda: torch.nn.Sequential(
                torch.nn.Conv2d(1, 16, 3, padding=1),
                relu(),
                torch.nn.Conv2d(16, 32, 3, stride=2),
                relu(),
                torch.nn.Flatten(),
                linear(288, 10),
            ),
        ),
        "MLP 784-256-10": (
            large,
            lambda: torch.nn.Sequential(torch.nn.Flatten(), linear(784, 256), relu(), linear(256, 10)),
        ),
    }
    for name, (x, make) in makers.items():
        torch.manual_seed(0)
        net = make()
        optimiser = torch.optim.Adam(net.parameters(), 3e-3)
        inputs, labels = torch.as_tensor(x[:1200]), torch.as_tensor(y[:1200])
        for _ in range(60):
            optimiser.zero_grad()
            functional.cross_entropy(net(inputs), labels).backward()
            optimiser.step()
        yield name, net.eval().requires_grad_(False), x, y


def plain(
    net: torch.nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    starts: list[torch.Tensor],
    radius: float,
    *,
    norm: str,
    every: bool,
) -> torch.Tensor:
    """The loop a careful reader would write: worst case over restarts, pixels in [0, 1]."""
    step = 2.5 * radius / STEPS
    broken = net(x).argmax(1) != y
    for start in starts:
        torch.rand_like(x)  # a plain loop draws its own start; ours is handed over, this is its price
        point = (x + start).clamp(0, 1)
        for _ in range(STEPS):
            point.requires_grad_()
            logits = net(point)
            if every:
                broken |= logits.argmax(1) != y
            (gradient,) = torch.autograd.grad(functional.cross_entropy(logits, y, reduction="sum"), point)
            point = point.detach()
            if norm == "linf":
                point = point + step * gradient.sign()
                point = torch.min(torch.max(point, x - radius), x + radius).clamp(0, 1)
            else:
                size = gradient.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
                shift = point + step * gradient / size - x
                size = shift.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
                point = (x + shift * (radius / size).clamp(max=1)).clamp(0, 1)
        with torch.no_grad():
            broken |= net(point).argmax(1) != y
    return ~broken


def timed(work: Callable[[], object]) -> tuple[float, object]:
    begin = time.process_time()
    result = work()
    return time.process_time() - begin, result


def case(net: torch.nn.Module, x: np.ndarray, y: np.ndarray, norm: str, radius: float, runs: int) -> None:
    target = cm.wrap(net)
    data = cm.Dataset(train=(x[:1200], y[:1200]), holdout=(x[1200:], y[1200:]))
    target, data = target.bind(data)
    right = np.flatnonzero(target.labels(data.holdout.x) == data.holdout.y)
    data = data.with_holdout(right)
    method = find("pgd")
    threat = cm.Threat(norm=norm, radius=radius).resolved(data.schema)
    run = Run(card=method.card, threat=threat)
    held_x, held_y = data.holdout.x, data.holdout.y
    tensor, label = torch.as_tensor(held_x), torch.as_tensor(held_y)
    ids = sample_ids(held_x)
    seeds = [rng.child_seed(0, "pgd", "start", restart) for restart in range(RESTARTS)]
    starts = [
        torch.as_tensor(random_start(ids, held_x.shape[1:], radius=radius, norm=norm, seed=seed)).float()
        for seed in seeds
    ]

    def ours() -> np.ndarray:
        return method.function(target, data, threat=threat, steps=STEPS, restarts=RESTARTS, run=run)

    def textbook() -> torch.Tensor:
        return plain(net, tensor, label, starts, radius, norm=norm, every=False)

    def each() -> torch.Tensor:
        return plain(net, tensor, label, starts, radius, norm=norm, every=True)

    ours(), textbook()  # warm up
    ratios, costs = [], []
    for _ in range(runs):
        (mine, found), (base, last) = timed(ours), timed(textbook)
        ratios.append(mine / base)
        costs.append((mine, base))
    reference = each().numpy()
    held = target.labels(found) == held_y
    differ = int((held != reference).sum())
    share = [100 * float(np.mean(mask)) for mask in (held, reference, last.numpy())]
    cost = [statistics.median(part) for part in zip(*costs, strict=True)]
    print(
        f"  {norm:<5}{radius:<8.4g}{share[0]:7.2f}{share[1]:8.2f}{share[2]:9.2f}{differ:8d}"
        f"{cost[0]:9.3f}{cost[1]:9.3f}   {statistics.median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}]"
    )
    if "--peers" in sys.argv:
        peers(net, tensor, label, norm, radius, cost[0] / RESTARTS)


def peers(
    net: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, norm: str, radius: float, ours: float
) -> None:
    """Time one restart of the peers; their robust accuracy is for the eye only (other draws)."""
    step = 2.5 * radius / STEPS
    if find_spec("foolbox"):
        import foolbox

        model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
        kind = foolbox.attacks.LinfPGD if norm == "linf" else foolbox.attacks.L2PGD
        attack = kind(abs_stepsize=step, steps=STEPS, random_start=True)
        attack(model, x, y, epsilons=radius)
        cost, (_, _, success) = timed(lambda: attack(model, x, y, epsilons=radius))
        print(
            f"        foolbox, 1 restart: {100 - 100 * success.float().mean():.2f} %, {cost / ours:.2f} x our CPU"
        )
    if find_spec("torchattacks"):
        import torchattacks

        attack = (
            torchattacks.PGD(net, eps=radius, alpha=step, steps=STEPS)
            if norm == "linf"
            else torchattacks.PGDL2(net, eps=radius, alpha=step, steps=STEPS)
        )
        attack(x, y)
        cost, found = timed(lambda: attack(x, y))
        held = (net(found).argmax(1) == y).float().mean()
        print(f"        torchattacks, 1 restart: {100 * held:.2f} %, {cost / ours:.2f} x our CPU")


def main() -> None:
    torch.set_num_threads(1)
    runs = next((int(word) for word in sys.argv[1:] if word.isdigit()), 7)
    print(
        f"{STEPS} steps, {RESTARTS} restarts, one thread, {runs} interleaved pairs; torch {torch.__version__}"
    )
    print("  norm radius   ours %  every % textbook %  differ  ours s  plain s   ratio median [min, max]")
    for name, net, x, y in models():
        print(name)
        for norm, radii in (("linf", (0.005, 0.05)), ("l2", (0.05, 0.5))):
            for radius in radii:
                case(net, x, y, norm, radius, runs)


if __name__ == "__main__":
    main()
