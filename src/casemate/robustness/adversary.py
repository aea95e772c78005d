# SPDX-License-Identifier: Apache-2.0
"""The attacker inside adversarial training: moves a batch to where the model errs, within ball and schema.

Written for speed inside a training loop, where a weaker example costs a little robustness and nothing else; it
measures nothing. What a trained model withstands is for the attacks to say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from casemate.core import rng
from casemate.core.extras import lazy
from casemate.core.schema import Schema
from casemate.core.types import Threat
from casemate.robustness.geometry import Reach, finite, project, random_start, steepest, uniforms
from casemate.training.steps import Stage, asleep

torch = lazy("torch")

JUDGE_STEPS = 10
CHUNK = 128  # held-back rows judged at once


@dataclass(frozen=True, kw_only=True)
class Adversary:
    """Moves the rows of a batch by ``steps`` gradient steps from a random start; a ``transform`` of training.

    One step is FGSM with a random start (Wong et al. 2020): 1.25 radius from a point drawn in the ball, back into it.
    More are PGD with steps of 2.5 radius / steps. A row stays as it is with probability ``mix``. Draws belong to
    (row, epoch): they do not depend on the batch.
    """

    radius: float
    norm: Literal["linf", "l2"] = "linf"
    steps: int = 1
    mix: float = 0.0

    def __call__(self, x: Any, y: Any, stage: Stage) -> tuple[Any, Any]:
        if self.radius == 0 or len(x) == 0:
            return x, y
        ids = stage.rows.cpu().numpy().astype(np.uint64)
        seed = rng.child_seed(stage.seed, "adversary", stage.epoch)
        if self.mix == 0:
            return self.worst(x, y, ids, seed, stage), y
        chosen = uniforms(ids, 1, rng.child_seed(seed, "mix"))[:, 0] >= self.mix
        moved = torch.from_numpy(np.flatnonzero(chosen)).to(x.device)
        out = x.clone()
        if len(moved):
            out[moved] = self.worst(x[moved], y[moved], ids[chosen], seed, stage)
        return out, y

    def worst(self, x: Any, y: Any, ids: np.ndarray, seed: int, stage: Stage) -> Any:
        """Return the moved rows (n, ...): inside the ball, the schema and the bounds; the model is in eval mode."""
        schema = stage.known_schema("adversarial training")
        cage = _table(x, schema, self) if schema.input == "table" else _image(x, schema, self)
        free = None if cage.reach is None else cage.reach.unit > 0
        shift = random_start(ids, x.shape[1:], radius=self.radius, norm=self.norm, seed=seed, free=free)
        point = cage.kept(x + torch.from_numpy(shift).to(device=x.device, dtype=x.dtype) * cage.unit)
        size = self.radius * (1.25 if self.steps == 1 else 2.5 / self.steps)
        with asleep(stage.model), torch.enable_grad():
            for _ in range(self.steps):
                seen = cage.seen(point).detach().requires_grad_()
                gradient = _uphill(stage.logits(seen), seen, y)
                point = cage.kept(point + size * cage.unit * steepest(gradient * cage.unit, self.norm))
        return cage.settled(point)


@dataclass(frozen=True)
class _Cage:
    """How far the rows of one batch may go, as tensors in the precision of the model."""

    x: Any  # (n, ...)
    low: Any  # (n, ...)
    high: Any  # (n, ...)
    unit: Any  # (n, d), or 1.0
    whole: Any  # (n, d) or None
    reach: Reach | None  # of tables
    adversary: Adversary

    def kept(self, point: Any) -> Any:
        """Return the points, projected into the ball and then the box."""
        if self.adversary.norm != "linf":  # the box holds the ball of linf
            safe = self.unit if self.reach is None else self.unit + (self.unit == 0)
            shift = project((point - self.x) / safe, self.adversary.radius, self.adversary.norm)
            point = self.x + shift * self.unit
        return torch.clamp(point, self.low, self.high)

    def seen(self, point: Any) -> Any:
        """Round whole numbers towards the original; the gradient there stands for the one at ``point``."""
        if self.whole is None:
            return point
        return torch.where(self.whole, self.x + torch.trunc(point - self.x), point)

    def settled(self, point: Any) -> Any:
        if self.reach is None:
            return point.detach()
        exact = self.reach.settle(point.detach().double().cpu().numpy(), np.float64)
        near = torch.from_numpy(exact).to(device=self.x.device, dtype=self.x.dtype)
        # cells that did not move keep every bit
        stays = torch.from_numpy(exact == self.reach.x).to(self.x.device)
        return torch.where(stays, self.x, near)


def _table(x: Any, schema: Schema, adversary: Adversary) -> _Cage:
    rows = x.detach().double().cpu().numpy()
    low, high = np.array([c.low for c in schema.columns]), np.array([c.high for c in schema.columns])
    inside = np.clip(rows, low, high)
    # a value at its bound may lie beyond it in the model's precision, which would freeze it
    rows = np.where(np.abs(rows - inside) <= 1e-6 * (1 + np.abs(rows)), inside, rows)
    threat = Threat(norm=adversary.norm, radius=adversary.radius, scale="spread")
    reach = Reach.of(rows, schema, threat)
    least, most, unit = (
        torch.from_numpy(np.array(part)).to(device=x.device, dtype=x.dtype)
        for part in (reach.low, reach.high, reach.unit)
    )
    whole = torch.from_numpy(np.array(reach.whole)).to(x.device) if reach.whole.any() else None
    return _Cage(x, least, most, unit, whole, reach, adversary)


def _image(x: Any, schema: Schema, adversary: Adversary) -> _Cage:
    darkest, brightest = schema.bounds or (-math.inf, math.inf)
    least = (x - adversary.radius).clamp_min(darkest)
    most = (x + adversary.radius).clamp_max(brightest)
    # a pixel outside the bounds stays
    return _Cage(x, torch.minimum(least, x), torch.maximum(most, x), 1.0, None, None, adversary)


def _uphill(logits: Any, seen: Any, y: Any) -> Any:
    """Return the direction in which the cross-entropy rises, also where its softmax has rounded to one.

    At the logits it is softmax - onehot; divided by the largest wrong share only its length changes.
    """
    label = y[:, None]
    wrong = logits.detach().scatter(1, label, -math.inf)  # (n, classes)
    pull = torch.exp(wrong - wrong.amax(1, keepdim=True))
    pull.scatter_(1, label, -pull.sum(1, keepdim=True))
    (gradient,) = torch.autograd.grad(logits, seen, pull, allow_unused=True)
    return torch.zeros_like(seen) if gradient is None else finite(gradient)[0]


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Scores a model by the share of rows that PGD does not turn; a ``score`` of Selection."""

    adversary: Adversary

    def __call__(self, x: Any, y: Any, stage: Stage) -> float:
        strong = replace(self.adversary, steps=max(JUDGE_STEPS, self.adversary.steps), mix=0.0)
        ids = stage.rows.cpu().numpy().astype(np.uint64)
        seed = rng.child_seed(stage.seed, "judge")  # the same starts every epoch
        held = 0
        for first in range(0, len(x), CHUNK):
            part = slice(first, first + CHUNK)
            moved = strong.worst(x[part], y[part], ids[part], seed, stage)
            with torch.no_grad():
                logits = stage.logits(moved)
            held += int((logits.argmax(1) == y[part]).sum())
        return held / len(x)
