# SPDX-License-Identifier: Apache-2.0
"""Balls, boxes and what may move: the arithmetic that evasion methods share.

The functions on shifts and gradients take numpy arrays or torch tensors of shape (n, ...) and treat each of
the n samples alone. Random starts are drawn by the content of a sample, so its draw depends neither on its
place nor on its batch. Norms: linf and l2, and l1 to project on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from casemate.core.errors import InvalidThreat
from casemate.core.extras import lazy
from casemate.core.schema import Schema
from casemate.core.types import Threat

torch = lazy("torch")

NORMS = ("linf", "l2")
_GOLDEN = 0x9E3779B97F4A7C15
MAX_RADIUS = 1e18  # float32 can still square it
_TINY = 1e-15  # a gradient this long still has a square in float32
_GRID_SLACK = 1e-9  # a whole number that rounding put just outside the ball; the harness allows as much


def ball(threat: Threat | None) -> tuple[float, str]:
    """Return radius and norm of a resolved threat.

    Raises:
        InvalidThreat: the threat was not resolved, its norm is not one of ``NORMS``, or its radius is absurd.

    >>> ball(Threat(norm="l2", radius=0.5))
    (0.5, 'l2')
    """
    if threat is None or threat.radius is None or threat.norm is None:
        raise InvalidThreat(f"the threat has no radius or norm: {threat}; pass Threat(norm=, radius=)")
    if threat.norm not in NORMS:
        known = " or ".join(map(repr, NORMS))
        raise InvalidThreat(f"norm {threat.norm!r} is not supported by this method; use {known}")
    if threat.radius > MAX_RADIUS:
        raise InvalidThreat(
            f"radius {threat.radius:g} is beyond single precision; use at most {MAX_RADIUS:g}"
        )
    return threat.radius, threat.norm


def _flat(values: Any) -> Any:
    return values.reshape(len(values), math.prod(values.shape[1:]))


def _lengths(values: Any) -> Any:
    """Return the Euclidean length of each sample, shaped to broadcast: (n, 1, ...)."""
    inner = tuple(range(1, values.ndim))
    if isinstance(values, np.ndarray):
        return np.sqrt(np.square(values).sum(inner, keepdims=True))
    return torch.linalg.vector_norm(values, dim=inner, keepdim=True)


def project(shift: Any, radius: float, norm: str) -> Any:
    """Return the nearest shifts (Euclidean) whose norm is at most ``radius``; l1 for numpy rows (n, d) only.

    >>> project(np.array([[3.0, 4.0], [0.3, 0.4]]), 1.0, "l2").round(3).tolist()
    [[0.6, 0.8], [0.3, 0.4]]
    """
    if norm == "linf" or radius == 0:
        return shift.clip(-radius, radius)
    if norm == "l1":
        return _onto_l1(shift, radius)
    return shift / (_lengths(shift) / radius).clip(min=1.0)  # inside the ball: by exactly 1


def _onto_l1(shift: np.ndarray, radius: float) -> np.ndarray:
    """Shrink every cell by the threshold of Duchi et al. 2008 (Figure 1)."""
    size = np.abs(shift)
    ranked = -np.sort(-size, axis=1)  # (n, d) largest first
    excess = np.cumsum(ranked, axis=1) - radius
    count = np.arange(1, shift.shape[1] + 1)
    last = np.maximum(1, (ranked * count > excess).sum(1, keepdims=True))  # (n, 1) cells that stay
    cut = np.maximum(0.0, np.take_along_axis(excess, last - 1, axis=1) / last)
    shrunk = np.copysign(np.maximum(0.0, size - cut), shift)
    return np.where(size.sum(1, keepdims=True) <= radius, shift, shrunk)


def steepest(gradient: Any, norm: str) -> Any:
    """Return the shift of norm one that raises a linear function most; zero where the gradient is zero.

    Gradients must be finite (see :func:`finite`). Tiny gradients, as saturated models have, are scaled by their
    largest cell first, so that they do not vanish in their own square.

    >>> steepest(np.array([[3e-200, -4e-200], [0.0, 0.0]]), "l2").round(3).tolist()
    [[0.6, -0.8], [0.0, 0.0]]
    """
    numpy = isinstance(gradient, np.ndarray)
    if norm == "linf":
        return np.sign(gradient) if numpy else torch.sign(gradient)
    size = _lengths(gradient)
    if len(size) and not float(size.min()) > _TINY:
        peak = np.abs(_flat(gradient)).max(1, initial=0.0) if numpy else _flat(gradient).abs().amax(1)
        peak = peak.reshape(size.shape)
        gradient = gradient / (peak + (peak == 0))
        size = _lengths(gradient).clip(min=1.0)  # a scaled gradient has length 0 or >= 1
    return gradient / size


def finite(gradient: Any) -> tuple[Any, int]:
    """Return the gradient with NaN as zero and infinities as large numbers, and how many samples had NaN.

    >>> finite(np.array([[np.nan, 1.0], [2.0, 3.0]]))[1]
    1
    """
    numpy = isinstance(gradient, np.ndarray)
    holes = np.isnan(gradient) if numpy else torch.isnan(gradient)
    count = int(_flat(holes).any(1).sum())
    return (np.nan_to_num(gradient) if numpy else torch.nan_to_num(gradient)), count


# ---- draws by sample ----


def _mix(state: np.ndarray) -> np.ndarray:
    """Scramble 64-bit numbers (the finaliser of splitmix64, Steele et al. 2014); not a cryptographic hash."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def sample_ids(x: np.ndarray) -> np.ndarray:
    """Return a 64-bit id (n,) of each sample's content; equal samples have equal ids.

    >>> ids = sample_ids(np.array([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0]]))
    >>> bool(ids[0] == ids[2]), bool(ids[0] == ids[1])
    (True, False)
    """
    cells = _flat(np.asarray(x, np.float64)) + 0.0  # (n, cells); -0.0 becomes 0.0
    cells[np.isnan(cells)] = np.nan  # one bit pattern for every NaN
    place = (np.arange(1, cells.shape[1] + 1, dtype=np.uint64)) * np.uint64(_GOLDEN)
    return _mix(_mix(cells.view(np.uint64) + place).sum(1, dtype=np.uint64))


def uniforms(ids: np.ndarray, n_values: int, seed: int) -> np.ndarray:
    """Return ``n_values`` numbers in (0, 1) for each id, shape (n, n_values): a function of (id, seed) alone.

    >>> draws = uniforms(np.array([7, 8], np.uint64), 3, seed=0)
    >>> bool((draws[1] == uniforms(np.array([8], np.uint64), 3, seed=0)[0]).all())
    True
    """
    stream = _mix(ids ^ _mix(np.array([seed], np.uint64) * np.uint64(_GOLDEN)))  # (n,)
    count = np.arange(1, n_values + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    bits = _mix(stream[:, None] + count) >> np.uint64(11)  # (n, n_values)
    return (bits.astype(np.float64) + 0.5) * 2.0**-53


def random_start(
    ids: np.ndarray,
    shape: tuple[int, ...],
    *,
    radius: float,
    norm: str,
    seed: int,
    free: np.ndarray | None = None,
) -> np.ndarray:
    """Return one shift (n, *shape) a sample, uniform in the ball of its free cells; other cells stay zero.

    Args:
        ids: (n,) from :func:`sample_ids`.
        shape: of one sample.
        radius: of the ball.
        norm: of the ball.
        seed: of this restart.
        free: mask that broadcasts to (n, *shape); None means every cell.

    >>> ids = sample_ids(np.arange(6.0).reshape(3, 2))
    >>> shift = random_start(ids, (2,), radius=0.5, norm="l2", seed=1)
    >>> bool((np.square(shift).sum(1) <= 0.25).all())
    True
    """
    cells = math.prod(shape)
    draws = uniforms(ids, cells + 1, seed)
    inside = draws[:, :cells].reshape(-1, *shape)
    mask = np.ones((len(ids), *shape), bool) if free is None else np.broadcast_to(free, inside.shape)
    if norm == "linf":
        return np.where(mask, (2 * inside - 1) * radius, 0.0)
    from scipy.special import ndtri

    # A Gaussian direction, and a radius whose power d is uniform (d: number of free cells).
    direction = steepest(np.where(mask, ndtri(inside), 0.0), "l2")
    n_free = np.maximum(1, _flat(mask).sum(1))  # (n,)
    length = radius * draws[:, cells] ** (1.0 / n_free)
    out: np.ndarray = direction * length.reshape(-1, *[1] * len(shape))
    return out


# ---- what may move, and how far ----


@dataclass(frozen=True)
class Reach:
    """The cells an attacker may move and the limits of each, for some rows under a schema and a threat.

    ``low`` and ``high`` already hold the box, one-sided columns and the cell's own part of the ball; what may
    not move (immutable, category, one-hot, under an equality, constant, missing, out of its own bounds) has
    ``unit`` 0 and ``low == high == x``.

    >>> schema = Schema.infer(np.array([[0.0, 1.0], [2.0, 1.0]]))
    >>> reach = Reach.of(np.array([[0.5, 1.0]]), schema, Threat(norm="linf", radius=0.3, scale="spread"))
    >>> reach.low.tolist(), reach.high.tolist()
    ([[0.2, 1.0]], [[0.8, 1.0]])
    >>> reach.settle(np.array([[9.0, 9.0]])).tolist()
    [[0.8, 1.0]]
    """

    x: np.ndarray  # (n, ...) originals, float64
    low: np.ndarray  # (n, ...)
    high: np.ndarray  # (n, ...)
    unit: np.ndarray  # (n, d) what one unit of radius is in each cell; (1, 1, 1, 1) for images
    whole: np.ndarray  # (n, d) or (1, 1, 1, 1): cells that hold whole numbers
    rules: np.ndarray  # (rules, d): a row must keep rules @ row <= 0
    radius: float
    norm: str

    @staticmethod
    def of(x: np.ndarray, schema: Schema, threat: Threat) -> Reach:
        """Work out the reach for encoded rows ``x`` (n, ...) under a resolved threat."""
        radius, norm = ball(threat)
        start = np.asarray(x, np.float64)
        if schema.input != "table":
            one = (1,) * start.ndim
            low, high = (np.asarray(bound) for bound in schema.bounds or (-np.inf, np.inf))
            unit, whole = np.ones(one), np.full(one, np.asarray(x).dtype.kind in "biu")
            rules = np.zeros((0, 0))
            may = (start >= low) & (start <= high)  # (n, c, h, w)
            least, most = np.maximum(_off(start, -radius), low), np.minimum(_off(start, radius), high)
        else:
            columns = schema.columns
            low, high = np.array([c.low for c in columns]), np.array([c.high for c in columns])
            size = np.array([c.spread if threat.scale == "spread" else 1.0 for c in columns])
            may = _movable(schema) & (size > 0) & (start >= low) & (start <= high)  # (n, d); False at NaN
            unit = np.where(may, size, 0.0)
            whole = np.broadcast_to(np.array([c.kind == "integer" for c in columns]), start.shape)
            rules = _inequalities(schema)
            far = radius * unit
            least, most = np.maximum(_off(start, -far), low), np.minimum(_off(start, far), high)
            rising = np.array([c.monotone == "increasing" for c in columns])
            falling = np.array([c.monotone == "decreasing" for c in columns])
            least, most = np.where(rising, start, least), np.where(falling, start, most)
        least = np.where(whole, np.ceil(least - _GRID_SLACK), least)
        most = np.where(whole, np.floor(most + _GRID_SLACK), most)
        least, most = np.where(may, least, start), np.where(may, most, start)
        return Reach(start, least, most, unit, whole, rules, radius, norm)

    def settle(self, x_adv: np.ndarray, dtype: Any = np.float64) -> np.ndarray:
        """Return ``x_adv`` made feasible, as ``dtype``; every rounding goes towards the original.

        Frozen cells return to their value; what is left is clipped to the box, then scaled into the ball. Scaling
        keeps to the box, which is convex and holds the original; under l2 the result is feasible but not the
        nearest feasible point. A row that then breaks an inequality between columns is the original.
        """
        wanted = np.asarray(x_adv, np.float64)
        moves = (self.unit > 0) & ~np.isnan(wanted)
        out = np.where(moves, np.clip(wanted, self.low, self.high), self.x)
        if self.norm != "linf":  # low and high are the ball of linf
            safe = self.unit + (self.unit == 0)
            shift = project(np.where(moves, out - self.x, 0.0) / safe, self.radius, self.norm) * safe
            out = np.clip(_off(self.x, shift), self.low, self.high)
        out = np.where(self.whole, self.x + np.trunc(out - self.x), out)
        if len(self.rules):
            out = np.where(obeys(out, self.rules, 5e-10)[:, None], out, self.x)
        if np.dtype(dtype).kind == "f":
            near, origin = out.astype(dtype), self.x.astype(dtype)
            far = np.abs(near.astype(np.float64) - self.x) > np.abs(out - self.x)
            return np.where(far, np.nextafter(near, origin), near)
        return out.astype(dtype)


def _off(x: np.ndarray, shift: Any) -> np.ndarray:
    """Return ``x + shift``, rounded towards ``x`` where rounding counts: beside large values it exceeds the radius."""
    moved = x + shift
    # the harness allows a relative 1e-6
    return np.where(np.abs(moved - x) > np.abs(shift) * (1 + 1e-7), np.nextafter(moved, x), moved)


def obeys(rows: Any, rules: np.ndarray, slack: float) -> Any:
    """Return which rows (n,) keep every rule (rules, d) up to relative ``slack``; missing cells break nothing.

    >>> obeys(np.array([[1.0, 2.0], [2.0, 1.0], [np.nan, 1.0]]), np.array([[1.0, -1.0]]), 1e-9).tolist()
    [True, False, True]
    """
    broken = abs(rows[:, 0]) < 0  # (n,) nowhere
    for rule in rules:
        involved = np.flatnonzero(rule).tolist()
        terms = [
            rows[:, i] * float(rule[i]) for i in involved
        ]  # only these: elsewhere NaN would hide the rule
        broken = broken | (sum(terms) > slack * (1.0 + sum(abs(term) for term in terms)))
    return ~broken


def _movable(schema: Schema) -> np.ndarray:
    """Return which columns (d,) an attacker may move alone: numeric, mutable and loose."""
    free = np.array([not c.immutable and c.kind != "category" for c in schema.columns], bool)
    return free & loose(schema)


def loose(schema: Schema) -> np.ndarray:
    """Return which columns (d,) may change alone: in no equality and no one-hot group.

    >>> from dataclasses import replace
    >>> schema = Schema.infer(np.array([[0.0, 1.0, 2.0], [1.0, 0.0, 3.0]]))
    >>> loose(replace(schema, groups=(("x0", "x1"),))).tolist()
    [False, False, True]
    """
    tied = {name for group in schema.groups for name in group}
    tied |= {name for rule in schema.relations if rule.op == "==" for name in (*rule.left, *rule.right)}
    return np.array([name not in tied for name in schema.names], bool)


def _inequalities(schema: Schema) -> np.ndarray:
    """Return the rules sum(left) <= sum(right) as rows of a matrix (rules, d)."""
    place = {name: i for i, name in enumerate(schema.names)}
    rules = [rule for rule in schema.relations if rule.op == "<="]
    out = np.zeros((len(rules), len(place)))
    for row, rule in zip(out, rules, strict=True):
        for names, sign in ((rule.left, 1.0), (rule.right, -1.0)):
            for name in names:
                row[place[name]] += sign
    return out
