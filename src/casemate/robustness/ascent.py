# SPDX-License-Identifier: Apache-2.0
"""Follows the gradient of a network's margin over feasible rows, as CAPGD does (Simonetto et al. 2024)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from casemate.core.extras import lazy
from casemate.robustness.evolution import Hunt
from casemate.robustness.geometry import finite, project, steepest

torch = lazy("torch")


@dataclass
class Climb:
    """The gradient stage on the active rows of a hunt."""

    hunt: Hunt
    module: Any
    dtype: Any

    @staticmethod
    def of(hunt: Hunt) -> Climb:
        module = hunt.own.target.module()
        parts = (*module.parameters(), *module.buffers())
        double = any(part.dtype == torch.float64 for part in parts)
        return Climb(hunt, module, torch.float64 if double else torch.float32)

    def run(self, steps: int) -> np.ndarray:
        """Return for each active row the repaired iterate of lowest margin (a, d)."""
        hunt = self.hunt
        at, norm = hunt.active, hunt.own.threat.norm or "linf"
        radius = hunt.own.threat.radius or 0.0
        x, unit = hunt.repair.x[at], hunt.repair.unit[at]
        point, last, top, best = x.copy(), x.copy(), x.copy(), x.copy()
        pace = np.full((len(at), 1), 2.0 * radius)  # in units of the radius, halved as APGD does
        low, mark = np.full(len(at), np.inf), np.full(len(at), np.inf)
        left = np.arange(len(at))
        period = max(1, steps // 5)
        for step in range(steps + 1):
            seen = hunt.repair.within(point[left], at[left])
            margin, gradient = self._look(seen, at[left], count_blind=step == 0)
            lower = margin < low[left]
            low[left[lower]], best[left[lower]] = margin[lower], seen[lower]
            top[left[lower]] = point[left[lower]]
            keep = ~(margin < 0)
            left, gradient = left[keep], gradient[keep]
            if step == steps or not len(left):
                break
            if step and step % period == 0:
                stuck = left[~(low[left] < mark[left])]
                pace[stuck] /= 2
                point[stuck], last[stuck] = top[stuck], top[stuck]
                mark[left] = low[left]
            way = -steepest(gradient * unit[left], "linf" if norm == "linf" else "l2")
            aim = self._inside(point[left] + pace[left] * way * unit[left], x[left], unit[left], radius, norm)
            moved = point[left] + 0.75 * (aim - point[left]) + 0.25 * (point[left] - last[left])
            last[left] = point[left]
            point[left] = self._inside(moved, x[left], unit[left], radius, norm)
        return best

    @staticmethod
    def _inside(point: np.ndarray, x: np.ndarray, unit: np.ndarray, radius: float, norm: str) -> np.ndarray:
        safe = unit + (unit == 0)
        shift = np.where(unit > 0, np.nan_to_num(point - x) / safe, 0.0)
        return x + project(shift, radius, norm) * safe

    def _look(self, seen: np.ndarray, at: np.ndarray, *, count_blind: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return margins (m,) of the logits and their gradients (m, d) at repaired rows."""
        own, wanted = self.hunt.own, self.hunt.wanted_class[at]
        with torch.inference_mode(False), torch.enable_grad():
            rows = torch.as_tensor(seen, device=own.target.device).to(self.dtype).requires_grad_()
            logits = self.module(rows)
            label = torch.as_tensor(wanted, device=logits.device).long()[:, None]
            ours = logits.gather(1, label)[:, 0]
            rest = logits.scatter(1, label, -math.inf).amax(1)
            held = ours - rest if own.threat.goal is None else rest - ours
            gradient = torch.zeros_like(rows)
            if held.requires_grad:
                (found,) = torch.autograd.grad(held.sum(), rows, allow_unused=True)
                gradient = gradient if found is None else found
            own.run.counter.add("gradients", len(seen))
            slope, _ = finite(gradient.detach().double().cpu().numpy())
            margin = held.detach().double().cpu().numpy()
        if count_blind:
            own.tally["blind"] += int((slope == 0).all(1).sum())
        return np.where(np.isnan(margin), np.inf, margin), slope
