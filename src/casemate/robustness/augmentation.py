# SPDX-License-Identifier: Apache-2.0
"""Random changes of a batch that keep its labels: measurement error and holes in tables; flips and the like in images.

Each is a ``transform`` of training. What happens to a row is drawn by (row, epoch) alone: neither its batch nor its
place there counts. Each row's change depends on no other row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from casemate.core import rng
from casemate.core.extras import lazy
from casemate.robustness.geometry import uniforms
from casemate.training.steps import Stage

torch = lazy("torch")


def _draws(stage: Stage, n_values: int, name: str) -> np.ndarray:
    """Return ``n_values`` uniform numbers for each row of the batch (b, n_values)."""
    ids = stage.rows.cpu().numpy().astype(np.uint64)
    return uniforms(ids, n_values, rng.child_seed(stage.seed, "augment", name, stage.epoch))


def _normal(uniform: np.ndarray) -> np.ndarray:
    from scipy.special import ndtri

    out: np.ndarray = ndtri(uniform)
    return out


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Adds a Gaussian error of ``spread[j]`` to column j and empties its cell with chance ``missing[j]``.

    Whole numbers are rounded, bounds are kept, holes stay holes. A row that the error would make break a relation
    keeps its values.
    """

    spread: tuple[float, ...]  # (d,) standard deviation in the column's own unit; 0: no error
    missing: tuple[float, ...]  # (d,)

    def __call__(self, x: Any, y: Any, stage: Stage) -> tuple[Any, Any]:
        rows = x.detach().double().cpu().numpy()
        out = self.changed(rows, stage)
        if not (out != rows).any() or not len(rows):
            return x, y
        near = torch.from_numpy(out).to(device=x.device, dtype=x.dtype)
        stays = torch.from_numpy(out == rows).to(x.device)
        return torch.where(stays, x, near), y

    def changed(self, rows: np.ndarray, stage: Stage) -> np.ndarray:
        """Return the rows (b, d) as they were recorded this time."""
        schema = stage.known_schema("augment")
        spread, missing = np.array(self.spread), np.array(self.missing)
        out = rows
        if spread.any():
            moved = rows + spread * _normal(_draws(stage, rows.shape[1], "error"))
            moved = np.where([c.kind == "integer" for c in schema.columns], np.round(moved), moved)
            # a value beyond its bounds is no reason to move the others
            low = np.minimum([c.low for c in schema.columns], rows)
            high = np.maximum([c.high for c in schema.columns], rows)
            moved = np.where(spread > 0, np.clip(moved, low, high), rows)
            place = {name: j for j, name in enumerate(schema.names)}
            for rule in schema.relations:
                broken = rule.broken(lambda name: moved[:, place[name]])  # noqa: B023  # used at once
                moved = np.where(broken[:, None], rows, moved)
            out = moved
        if missing.any():
            out = np.where(_draws(stage, rows.shape[1], "missing") < missing, np.nan, out)
        return out


@dataclass(frozen=True, kw_only=True)
class Views:
    """Shows an image as it might have been taken: flipped, shifted, turned, noisy, with a square covered."""

    horizontal: bool = False
    vertical: bool = False
    crop: int = 0  # pixels it may shift each way
    rotate: float = 0.0  # degrees it may turn each way
    noise: float = 0.0  # standard deviation in pixel units
    cutout: float = 0.0  # share of the area covered

    def __call__(self, x: Any, y: Any, stage: Stage) -> tuple[Any, Any]:
        if not len(x):
            return x, y
        height, width = x.shape[2:]
        draws = _draws(stage, 7, "view")  # (b, 7)
        if self.horizontal:
            x = torch.where(_mask(draws[:, 0] < 0.5, x), x.flip(3), x)
        if self.vertical:
            x = torch.where(_mask(draws[:, 1] < 0.5, x), x.flip(2), x)
        if self.crop:
            down, right = (
                np.floor(draws[:, k] * (2 * self.crop + 1)).astype(int) - self.crop for k in (2, 3)
            )
            x = shifted(x, down, right)
        if self.rotate:
            x = rotated(x, (2 * draws[:, 4] - 1) * self.rotate)
        if self.noise:
            cells = math.prod(x.shape[1:])
            added = _normal(_draws(stage, cells, "noise")).reshape(x.shape) * self.noise
            x = x + torch.from_numpy(added).to(device=x.device, dtype=x.dtype)
            bounds = stage.known_schema("augment").bounds
            x = x if bounds is None else x.clamp(*bounds)
        if self.cutout:
            side = square(self.cutout, height, width)
            tops = np.floor(draws[:, 5] * (height - side + 1)).astype(int)
            lefts = np.floor(draws[:, 6] * (width - side + 1)).astype(int)
            x = covered(x, tops, lefts, side)
        return x, y


def square(share: float, height: int, width: int) -> int:
    """Return the side of a square that covers ``share`` of the image, at most its shorter side.

    >>> square(0.25, 8, 8), square(0.0001, 8, 8)
    (4, 1)
    """
    return min(height, width, max(1, round(math.sqrt(share * height * width))))


def _mask(chosen: np.ndarray, x: Any) -> Any:
    return torch.from_numpy(chosen).to(x.device).reshape(-1, 1, 1, 1)


def _places(start: np.ndarray, size: int, device: Any) -> Any:
    """Return ``start[i] + 0 .. size - 1`` as a tensor (b, size)."""
    return torch.from_numpy(start[:, None] + np.arange(size)).to(device)


def shifted(x: Any, down: np.ndarray, right: np.ndarray) -> Any:
    """Cut each image (n, c, h, w) out of itself padded by its edge, ``down`` and ``right`` (n,) pixels further on.

    >>> shifted(torch.arange(3.0).reshape(1, 1, 1, 3), np.array([0]), np.array([1])).flatten().tolist()
    [1.0, 2.0, 2.0]
    """
    n, channels, height, width = x.shape
    rows = _places(down, height, x.device).clamp(0, height - 1)[:, None, :, None]
    columns = _places(right, width, x.device).clamp(0, width - 1)[:, None, None, :]
    x = x.gather(2, rows.expand(n, channels, height, width))
    return x.gather(3, columns.expand(n, channels, height, width))


def rotated(x: Any, degrees: np.ndarray) -> Any:
    """Turn each image (n, c, h, w) about its centre, anticlockwise, by ``degrees`` (n,); bilinear, edges go on.

    >>> x = torch.arange(4.0).reshape(1, 1, 2, 2)
    >>> rotated(x, np.array([90.0])).round(decimals=4).flatten().tolist()
    [1.0, 3.0, 0.0, 2.0]
    """
    height, width = x.shape[2:]
    angle = np.deg2rad(degrees)
    cos, sin, zero = np.cos(angle), np.sin(angle), np.zeros(len(angle))
    # from where each pixel comes, in coordinates that run from -1 to 1 along both sides
    matrix = np.stack([cos, -sin * height / width, zero, sin * width / height, cos, zero], 1)  # (n, 6)
    turn = torch.from_numpy(matrix.reshape(-1, 2, 3)).to(device=x.device, dtype=x.dtype)
    grid = torch.nn.functional.affine_grid(turn, list(x.shape), align_corners=False)
    return torch.nn.functional.grid_sample(x, grid, padding_mode="border", align_corners=False)


def covered(x: Any, top: np.ndarray, left: np.ndarray, side: int) -> Any:
    """Cover a square of each image (n, c, h, w) with the mean of each channel.

    >>> covered(torch.arange(4.0).reshape(1, 1, 2, 2), np.array([0]), np.array([1]), 1).flatten().tolist()
    [0.0, 1.5, 2.0, 3.0]
    """
    height, width = x.shape[2:]
    rows = np.arange(height)[None, :, None] - top[:, None, None]  # (n, h, 1)
    columns = np.arange(width)[None, None, :] - left[:, None, None]  # (n, 1, w)
    inside = (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side)  # (n, h, w)
    return torch.where(torch.from_numpy(inside[:, None]).to(x.device), x.mean((2, 3), keepdim=True), x)
