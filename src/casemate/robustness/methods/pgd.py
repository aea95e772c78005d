# SPDX-License-Identifier: Apache-2.0
"""Projected gradient descent (Madry et al. 2018, arXiv:1706.06083).

What it measures: for each held-out point, whether a change inside the threat's ball is found that makes the
model wrong (or, with ``Threat(goal=)``, makes it say that class). The accuracy that is left is an upper bound:
another attack may break more.

What the attacker knows: everything (weights and gradients), and the true label.

Formula: from a random point of the ball, repeat ``x <- P(x + step * s(gradient of the cross-entropy at x))``,
where ``s`` is the sign (linf) or the normalised gradient (l2) and ``P`` goes back into ball and box. Each of
``restarts`` runs starts anew. A point is broken as soon as one iterate of one run is misclassified, and leaves
the batch there; a point the model gets wrong unchanged is broken by itself. For the others the last iterate of
highest loss is returned. ``restarts=1, random_start=False`` is the basic iterative method, and with ``steps=1``
and ``step_size`` the radius it is FGSM.

Tables: sizes are in units of each column's spread (``scale="spread"``). Categories, one-hot groups, immutable
and constant columns, holes (NaN) and columns under an equality never move; monotone columns move one way. Whole
numbers are rounded towards the original before each look at the model (straight-through gradient), so what is
judged is what is returned; images of whole numbers (uint8) likewise. Rows that break a ``<=`` relation do not
count as found.

Cost: ``restarts x steps`` gradients a point that holds, fewer for one that breaks.

Pitfalls: a quantised, random or dead (ReLU) model hides its gradient, and this attack then fails without the
model being robust; zero and NaN gradients are counted and noted in the report. Large logits alone hide
nothing here: only the direction of the gradient is used, and it is computed without a softmax that rounds to one.
On models trained to resist, PGD with 40 steps can overstate accuracy by several points. Under l2 with bounds the
projection is feasible but not the nearest point. Draws are keyed by the content of a row: order and batch size do
not change them, though a different batch may round a gradient's sign the other way.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, fields
from typing import Any, cast

import numpy as np

from casemate.core.data import Dataset
from casemate.core.errors import InvalidData
from casemate.core.extras import lazy
from casemate.core.methods import method
from casemate.core.run import Run, require
from casemate.core.types import LABELS, MODULE, Target, Threat
from casemate.robustness.geometry import (
    Reach,
    ball,
    finite,
    obeys,
    project,
    random_start,
    sample_ids,
    steepest,
)

torch = lazy("torch")

MAX_ROWS = 1024  # points in one batch,
MAX_CELLS = 2**21  # and input cells: a deep network keeps some fifty times as many activations


@method(
    kind="evasion",
    needs={LABELS, MODULE},
    inputs={"table", "image"},
    quick={"steps": 20, "restarts": 1},
    deep={"steps": 100, "restarts": 10},
    cost="restarts x steps gradients a point",
    title={"en": "Projected gradient descent (PGD)", "zh": "投影梯度下降攻击（PGD）"},
    reference="arXiv:1706.06083",
)
def pgd(
    target: Target,
    data: Dataset,
    *,
    threat: Threat | None = None,
    steps: int = 40,
    restarts: int = 5,
    step_size: float | None = None,
    random_start: bool = True,
    run: Run | None = None,
) -> np.ndarray:
    """Return changed holdout inputs that a projected gradient search found to be wrong, or of highest loss.

    Inside the harness this gives ``robust_accuracy``, an upper bound on the accuracy under the threat.

    Args:
        target: a classifier with gradients.
        data: its held-out points are attacked.
        threat: norm linf or l2, radius, scale and goal.
        steps: gradient steps a run.
        restarts: runs a point.
        step_size: in the units of the radius; None for 2.5 radius / steps.
        random_start: False lets the first run start at the point itself.
        run: given by the harness.

    Returns:
        Array like ``data.holdout.x``, same shape and dtype.

    Raises:
        InvalidThreat: another norm. InvalidData: steps or restarts below 1, or a model whose logits are NaN.

    >>> from casemate.adapters.torch import make
    >>> x = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    >>> net = torch.nn.Linear(1, 2)
    >>> _ = net.load_state_dict({"weight": torch.tensor([[-1.0], [1.0]]), "bias": torch.zeros(2)})
    >>> data = Dataset(train=(x, [0, 0, 1, 1]), holdout=(x, [0, 0, 1, 1]))
    >>> held = pgd(make(net), data, threat=Threat(norm="linf", radius=1.5, scale="raw"))[0]
    >>> held.quantity, held.value  # the two points nearer than 1.5 to the border fall
    ('robust_accuracy', 0.5)

    Source: Madry et al. 2018, arXiv:1706.06083.
    """
    run = require(run)
    radius, _ = ball(threat)
    threat = cast("Threat", threat)  # ball() refused None
    if steps < 1 or restarts < 1 or (step_size is not None and not step_size > 0):
        got = f"{steps}, {restarts}, {step_size}"
        raise InvalidData(f"pgd needs steps >= 1, restarts >= 1 and step_size > 0 (or None); got {got}")
    x = data.holdout.x
    out = np.array(x)
    if radius == 0 or len(x) == 0:
        return out
    # The caller may stand in no_grad or inference_mode; nothing of a graph outlives a step.
    with torch.inference_mode(False), torch.enable_grad():
        module = target.module()
        search = _Search(
            module=module,
            device=target.device,
            # float64 models are attacked in float64, all others (half precision too) from float32 inputs
            dtype=torch.float64 if _is_double(module) else torch.float32,
            goal=threat.goal,
            n_classes=len(target.classes),
            steps=steps,
            step=2.5 * radius / steps if step_size is None else step_size,
            random_start=random_start,
            run=run,
            blind={"zero": 0, "nan": 0, "held": 0},
        )
        size = max(1, min(MAX_ROWS, MAX_CELLS // max(1, math.prod(x.shape[1:]))))
        starts = range(0, len(x), size)
        for first in starts:
            rows = slice(first, first + size)
            reach = Reach.of(x[rows], data.schema, threat)
            if first == 0 and run.deadline is not None:
                seconds = search.seconds_a_step(reach) * steps * len(starts)
                restarts = run.affordable("restarts", restarts, seconds, least=1)
            out[rows] = reach.settle(search.worst(reach, data.holdout.y[rows], restarts), x.dtype)
            run.report("points", min(first + size, len(x)), len(x))
    run.counter.add("blind", search.blind["held"])
    if search.blind["zero"] or search.blind["nan"]:
        run.notes.append(
            f"The gradient was zero at {search.blind['zero']} starts and NaN at {search.blind['nan']} points: "
            "there the attack is blind, and holding means nothing."
        )
    return out


def _is_double(module: Any) -> bool:
    return any(part.dtype == torch.float64 for part in (*module.parameters(), *module.buffers()))


@dataclass(frozen=True)
class _Cage:
    """Reach and labels of some points, as tensors in the precision of the search."""

    x: Any  # (n, ...)
    low: Any  # (n, ...)
    high: Any  # (n, ...)
    label: Any  # (n,) true class, or the goal
    unit: Any  # (n, d), or None where every cell moves in units of one

    def take(self, rows: Any) -> _Cage:
        parts = [getattr(self, part.name) for part in fields(self)]
        return _Cage(*(None if part is None else part[rows] for part in parts))


@dataclass(frozen=True)
class _Search:
    module: Any
    device: str
    dtype: Any
    goal: int | None
    n_classes: int
    steps: int
    step: float
    random_start: bool
    run: Run
    blind: dict[str, int]

    def worst(self, reach: Reach, y: np.ndarray, restarts: int) -> np.ndarray:
        """Return for each point the first example found, else the last iterate of highest loss (n, ...)."""
        cage = self._cage(reach, y)
        ids = sample_ids(reach.x)
        found = cage.x.clone()
        logits = self._logits(cage.x)
        best = self._loss(logits, cage.label)  # (n,)
        left = (~self._hit(logits, cage.label)).nonzero()[:, 0]  # places of points that still hold
        seeing = torch.zeros_like(best, dtype=torch.bool)  # points that some start had a way to move
        for restart in range(restarts):
            if len(left):
                point = self._start(reach, cage.take(left), ids, left, restart)
                left = self._climb(reach, cage, left, point, found, best, seeing)
        self.blind["held"] += int((~seeing[left]).sum())
        # A cell still at the original's rounded value is the original.
        result, rounded = found.double().cpu().numpy(), cage.x.double().cpu().numpy()
        return np.where(result == rounded, reach.x, result)

    def _climb(
        self, reach: Reach, cage: _Cage, at: Any, point: Any, found: Any, best: Any, seeing: Any
    ) -> Any:
        """Run once from ``point`` for the points at ``at``, filling what comes after it; return those that hold."""
        part = cage.take(at)
        whole = self._tensor(reach.whole[:1]) > 0 if reach.whole.any() else None
        for step in range(self.steps + 1):
            seen = point if whole is None else torch.where(whole, part.x + torch.trunc(point - part.x), point)
            seen = seen.detach().requires_grad_()
            logits = self.module(seen)
            hit = self._hit(logits.detach(), part.label)
            if len(reach.rules):
                hit &= obeys(seen.detach().double(), reach.rules, 1e-6)  # settle() asks more
            some = bool(hit.any())
            if some:
                found[at[hit]] = seen.detach()[hit]
                if bool(hit.all()):
                    return at[:0]
            if step == self.steps:
                loss = self._loss(logits.detach(), part.label)
                rose = ~hit & (loss > best[at])
                best[at[rose]], found[at[rose]] = loss[rose], seen.detach()[rose]
                return at[~hit]
            gradient = self._gradient(logits, seen, part.label, first=step == 0)
            if step == 0:
                seeing[at] |= ((gradient != 0) & (part.low < part.high)).flatten(1).any(1)
            if some:
                keep = ~hit
                at, part, point, gradient = at[keep], part.take(keep), point[keep], gradient[keep]
            point = self._moved(point, gradient, part, reach)
        return at

    def seconds_a_step(self, reach: Reach) -> float:
        """Return what one gradient of this batch costs."""
        cage = self._cage(reach, np.zeros(len(reach.x), np.int64))
        for _ in range(2):  # the first call pays for start-up
            begin = time.perf_counter()
            seen = cage.x.clone().requires_grad_()
            self._gradient(self._logits(seen), seen, cage.label, first=False)
        return time.perf_counter() - begin

    def _tensor(self, values: np.ndarray) -> Any:
        return torch.as_tensor(np.array(values, np.float64), device=self.device).to(self.dtype)

    def _cage(self, reach: Reach, y: np.ndarray) -> _Cage:
        x, low, high = self._tensor(reach.x), self._tensor(reach.low), self._tensor(reach.high)
        if self.dtype != torch.float64:
            # Limits are rounded inwards, so that every iterate is feasible in float64 as it stands.
            exact = [torch.as_tensor(part, device=self.device) for part in (reach.low, reach.high)]
            up = torch.full_like(low, math.inf)
            low = torch.where(low.double() < exact[0], torch.nextafter(low, up), low)
            high = torch.where(high.double() > exact[1], torch.nextafter(high, -up), high)
        table = reach.unit.shape == reach.x.shape
        stuck = ~(low <= high)
        if table:
            stuck |= self._tensor(reach.unit) == 0
        low, high = torch.where(stuck, x, low), torch.where(stuck, x, high)
        label = torch.as_tensor(y if self.goal is None else np.full(len(y), self.goal), device=self.device)
        unit = torch.where(stuck, 0.0, self._tensor(reach.unit)) if table else None
        return _Cage(x, low, high, label.long(), unit)

    def _logits(self, x: Any) -> Any:
        """Ask the module and check that its answer can be used at all."""
        logits = self.module(x)
        if logits.ndim != 2 or logits.shape[1] != self.n_classes:
            shape = tuple(logits.shape)
            raise InvalidData(f"the module returns shape {shape}; pgd needs (n, {self.n_classes}) logits")
        bad = int(torch.isnan(logits).any(1).sum())
        if bad:
            hint = "; fill the missing values first" if bool(torch.isnan(x).any()) else ""
            raise InvalidData(f"the model's logits are NaN on {bad} of {len(x)} rows{hint}")
        return logits.detach() if not x.requires_grad else logits

    def _hit(self, logits: Any, label: Any) -> Any:
        peak, predicted = logits.max(1)
        wanted = predicted != label if self.goal is None else predicted == label
        return wanted & torch.isfinite(peak)  # where the model has no answer nothing was found

    def _loss(self, logits: Any, label: Any) -> Any:
        """Return what the attacker wants large, one a point."""
        loss = torch.nn.functional.cross_entropy(logits, label, reduction="none")
        return loss if self.goal is None else -loss

    def _gradient(self, logits: Any, seen: Any, label: Any, *, first: bool) -> Any:
        gradient = None
        if logits.requires_grad:  # a module of steps only has no gradient at all
            # The cross-entropy's gradient at the logits is softmax - one-hot. Only its direction matters for a
            # step, so it is divided by the largest wrong softmax and takes minus the sum of the wrong ones at
            # the label: the same direction, which no gap between the logits can round to zero.
            label = label[:, None]
            wrong = logits.detach().scatter(1, label, -math.inf)  # (n, classes)
            pull = torch.exp(wrong - wrong.amax(1, keepdim=True))
            pull.scatter_(1, label, -pull.sum(1, keepdim=True))
            pull = pull if self.goal is None else -pull
            (gradient,) = torch.autograd.grad(logits, seen, pull, allow_unused=True)
        self.run.counter.add("gradients", len(seen))
        if gradient is None:
            gradient = torch.zeros_like(seen)
        if not math.isfinite(float(gradient.sum())):
            gradient, holes = finite(torch.where(torch.isnan(seen), 0.0, gradient))
            self.blind["nan"] += holes
        if first:
            self.blind["zero"] += int((gradient == 0).flatten(1).all(1).sum())
        return gradient

    def _start(self, reach: Reach, part: _Cage, ids: np.ndarray, left: Any, restart: int) -> Any:
        if restart == 0 and not self.random_start:
            return part.x
        places = left.cpu().numpy()
        shift = random_start(
            ids[places],
            reach.x.shape[1:],
            radius=reach.radius,
            norm=reach.norm,
            seed=self.run.child_seed("start", restart),
            free=None if part.unit is None else reach.unit[places] > 0,
        )
        moved = part.x + self._tensor(shift) * (1.0 if part.unit is None else part.unit)
        return torch.clamp(moved, part.low, part.high)

    def _moved(self, point: Any, gradient: Any, cage: _Cage, reach: Reach) -> Any:
        if reach.norm == "linf":  # low and high hold the ball too
            towards = steepest(gradient, "linf")
            if cage.unit is None:
                moved = torch.add(point, towards, alpha=self.step)
            else:
                moved = torch.addcmul(point, cage.unit, towards, value=self.step)
            return moved.clamp_(cage.low, cage.high)
        if cage.unit is None:
            shift = (point - cage.x).add_(steepest(gradient, reach.norm), alpha=self.step)
            return project(shift, reach.radius, reach.norm).add_(cage.x).clamp_(cage.low, cage.high)
        shift = torch.nan_to_num((point - cage.x) / (cage.unit + (cage.unit == 0)))  # holes: 0
        shift.add_(steepest(gradient * cage.unit, reach.norm), alpha=self.step)
        return torch.clamp(cage.x + project(shift, reach.radius, reach.norm) * cage.unit, cage.low, cage.high)
