# SPDX-License-Identifier: Apache-2.0
"""pgd against answers known by other means: linear models in closed form, and a plain torch loop point by point."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import casemate as cm
from casemate.core import harness, rng
from casemate.core.methods import find
from casemate.core.run import Run
from casemate.robustness.geometry import random_start, sample_ids

METHOD = find("pgd")


def attack(target: cm.Target, data: cm.Dataset, threat: cm.Threat, **params) -> np.ndarray:
    target, data = target.bind(data)
    run = Run(card=METHOD.card, threat=threat.resolved(data.schema))
    found = harness.invoke(METHOD, target, data, run, params)
    held: np.ndarray = target.labels(found) == data.holdout.y
    return held & (target.labels(data.holdout.x) == data.holdout.y)


def linear(n_classes: int, d: int, seed: int) -> tuple[torch.nn.Module, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    weight, bias = draw.normal(size=(n_classes, d)), draw.normal(size=n_classes) * 0.3
    model = torch.nn.Linear(d, n_classes, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.as_tensor(weight))
        model.bias.copy_(torch.as_tensor(bias))
    return model, weight, bias


def distances(x: np.ndarray, y: np.ndarray, weight: np.ndarray, bias: np.ndarray, norm: str) -> np.ndarray:
    """Return |w.x + b| / ||w||_dual of the nearest boundary of the true class (n,)."""
    gaps = weight[y][:, None, :] - weight[None]  # (n, classes, d)
    margin = np.einsum("nkd,nd->nk", gaps, x) + bias[y][:, None] - bias[None]
    dual = np.abs(gaps).sum(2) if norm == "linf" else np.sqrt(np.square(gaps).sum(2))
    with np.errstate(divide="ignore", invalid="ignore"):
        far = np.where(dual == 0, np.inf, margin / dual)
    return far.min(1)


def unbounded(x: np.ndarray, y: np.ndarray, spread: float) -> cm.Dataset:
    schema = cm.Schema.infer(x)
    free = {name: {"low": -np.inf, "high": np.inf, "spread": spread} for name in schema.names}
    return cm.Dataset(train=(x, y), holdout=(x, y), schema=schema.with_columns(free))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("spread", [1.0, 4.0])
@pytest.mark.parametrize("size", [0.05, 0.2, 0.4])
def test_two_linear_classes_have_exactly_the_closed_form_robust_set(
    norm: str, spread: float, size: float
) -> None:
    radius = size / spread
    model, weight, bias = linear(2, 5, seed=0)
    x = np.random.default_rng(1).normal(size=(400, 5))
    y = (x @ weight.T + bias).argmax(1)
    far = distances(x, y, weight, bias, norm) / size
    clear = np.abs(far - 1) > 1e-6
    assert clear.mean() > 0.99
    assert 0.02 < (far < 1).mean() < 0.99
    data = unbounded(x, y, spread)
    # A step as long as the radius: each halves the angle to the optimum, so 40 reach it to rounding.
    held = attack(cm.wrap(model), data, cm.Threat(norm=norm, radius=radius), step_size=radius, restarts=1)
    assert (held == (far > 1))[clear].all()
    # The default step is short of the optimum by at most 3 % of the radius here.
    near = np.abs(far - 1) > 0.03
    assert (attack(cm.wrap(model), data, cm.Threat(norm=norm, radius=radius)) == (far > 1))[near].all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_point_that_is_proved_robust_is_ever_broken(norm: str) -> None:
    model, weight, bias = linear(4, 6, seed=2)
    x = np.random.default_rng(3).normal(size=(400, 6))
    y = (x @ weight.T + bias).argmax(1)
    far = distances(x, y, weight, bias, norm) / 0.3
    held = attack(cm.wrap(model), unbounded(x, y, 1.0), cm.Threat(norm=norm, radius=0.3))
    assert held[far > 1 + 1e-6].all()
    assert held[far < 0.9].mean() < 0.05  # and with four classes it still finds nearly all that can be broken


# ---- a plain loop ----


def trained(dtype: torch.dtype) -> tuple[torch.nn.Module, np.ndarray, np.ndarray]:
    pixels, y = load_digits(return_X_y=True)
    x = (pixels / 16).reshape(-1, 1, 8, 8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(64, 48), torch.nn.ReLU(), torch.nn.Linear(48, 10)
        ).to(dtype)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    inputs, labels = torch.as_tensor(x[:1000], dtype=dtype), torch.as_tensor(y[:1000])
    for _ in range(50):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), labels).backward()
        optimiser.step()
    return model.eval(), x.astype(np.float32), y


def plain(
    model: torch.nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    starts: list[torch.Tensor],
    radius: float,
    norm: str,
) -> torch.Tensor:
    """PGD as it is usually written: mean loss, whole batch to the end; broken if any iterate of any restart is."""
    broken = model(x).argmax(1) != y
    for start in starts:
        point = (x + start).clamp(0, 1)
        for _ in range(10):
            point = point.detach().requires_grad_()
            logits = model(point)
            broken |= logits.argmax(1) != y
            torch.nn.functional.cross_entropy(logits, y).backward()
            gradient, point = point.grad, point.detach()
            if norm == "linf":
                shift = (point + 0.25 * radius * gradient.sign() - x).clamp(-radius, radius)
            else:
                length = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
                shift = point + 0.25 * radius * gradient / length - x
                shift = shift * (radius / shift.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).clamp(max=1)
            point = (x + shift).clamp(0, 1)
        broken |= model(point).argmax(1) != y
    return ~broken


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.02), ("linf", 0.08), ("l2", 0.1), ("l2", 0.5)])
def test_a_plain_loop_breaks_exactly_the_same_points(dtype: torch.dtype, norm: str, radius: float) -> None:
    model, x, y = trained(dtype)
    data = cm.Dataset(train=(x[:1000], y[:1000]), holdout=(x[1000:], y[1000:]))
    held = attack(cm.wrap(model), data, cm.Threat(norm=norm, radius=radius), steps=10, restarts=3)
    ids = sample_ids(x[1000:])
    seeds = [rng.child_seed(0, "pgd", "start", restart) for restart in range(3)]
    starts = [random_start(ids, (1, 8, 8), radius=radius, norm=norm, seed=seed) for seed in seeds]
    tensors = [torch.as_tensor(start).to(dtype) for start in starts]
    expected = plain(
        model, torch.as_tensor(x[1000:]).to(dtype), torch.as_tensor(y[1000:]), tensors, radius, norm
    )
    assert (held == expected.numpy()).all()
    assert 0.02 < expected.float().mean() < 0.97
