# SPDX-License-Identifier: Apache-2.0
"""Values as whole steps of a public grid, and their sums without rounding for any number of rows.

The step g is a power of two with (U - L) / g at most 2^20 (for a sum, whose rounding adds up over the rows: 2^36), so
x / g is exact and whole numbers stay what they are where the range is no more than that. ``lo = floor(L / g)`` and
``hi = ceil(U / g)`` are whole: a value becomes d = round(clip(x, L, U) / g - lo). Division by g is exact and each later
step is monotone, so 0 <= d <= W = hi - lo for every x, infinities included; NaN is missing. Nothing here depends on the
data but d itself.

**No overflow.** Steps are summed about the middle of the grid, where none exceeds 2^19 + 1 (2^35 + 1). A block has at
most 2^14 rows, so every partial sum of steps, squares or products is a whole number below 2^38 * 2^14 + 2^35 < 2^53
(2^49 + 2^14), and float64 adds them exactly in any order; blocks add up as Python's unbounded integers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from casemate.core.errors import InvalidData

BITS, FINE = 20, 36
BLOCK = 2**14
TILE = 2**16  # rows at once where nothing is summed: calls cost little, buffers stay in the cache
FAR = 1e150  # so that squares, and sums of any number of rows, are floats too


@dataclass(frozen=True)
class Grid:
    """The public grid of one column: its bounds as given, step ``g``, anchor ``lo`` and width ``W`` in steps."""

    low: float
    high: float
    step: float
    anchor: int
    width: int

    def value(self, steps: float) -> float:
        """Return a place on the grid as a value inside the bounds."""
        return min(max((self.anchor + steps) * self.step, self.low), self.high)

    def put(self, block: np.ndarray, into: np.ndarray, *, centre: int = 0) -> np.ndarray:
        """Write the steps above ``centre`` of a block of float64 into a buffer; give the part that was written."""
        out = np.clip(block, self.low, self.high, out=into[: len(block)])
        np.multiply(out, 1 / self.step, out=out)  # a power of two: exact
        if self.anchor + centre:
            np.subtract(out, float(self.anchor + centre), out=out)
        return np.rint(out, out=out)


def grid(bounds: Any, *, bits: int = BITS) -> Grid:
    """Return the grid of public ``bounds``, of up to 2^bits steps: fewer where 64-bit numbers tell fewer apart.

    Raises:
        InvalidData: no bounds, no pair of finite numbers, ends that are reversed, equal or too close to tell apart.

    >>> grid((0, 120)).step, grid((0, 120)).width
    (0.0001220703125, 983040)
    """
    if bounds is None:
        raise InvalidData(
            "bounds=None: state public bounds (low, high) that were known before the data; "
            "bounds read off the data must be bought with statistics.bounds(...)"
        )
    try:
        low, high = (float(end) for end in bounds)
    except (TypeError, ValueError, OverflowError):
        raise InvalidData(f"bounds must be two finite numbers (low, high); got {bounds!r}") from None
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InvalidData(f"bounds must be finite; got {bounds!r}")
    if not low < high:
        raise InvalidData(f"bounds must be (low, high) with low < high; got {bounds!r}")
    mantissa, exponent = math.frexp(high - low)  # mantissa in [0.5, 1)
    exponent -= BITS + (mantissa == 0.5)
    far = max(abs(low), abs(high))
    if far > FAR or exponent < -500 or math.ldexp(far, -exponent) > 2**51:
        raise InvalidData(
            f"bounds {bounds!r} cannot be told apart in 64-bit numbers; shift or scale the column"
        )
    # finer where asked, as far as far / g stays below 2^51
    step = math.ldexp(1.0, max(exponent + BITS - bits, min(math.frexp(far)[1] - 51, exponent)))
    anchor = math.floor(low / step)
    return Grid(low, high, step, anchor, math.ceil(high / step) - anchor)


def sums(blocks: Iterable[np.ndarray], on: Grid, *, squares: bool = False, impute: bool = False) -> list[int]:
    """Return ``[n, sum d]`` or ``[n, sum d, sum d^2]`` of the blocks, exactly; NaN is left out or put at the middle."""
    buffer, middle = np.empty(BLOCK), on.width // 2
    n = first = second = 0  # of steps about the middle: a value put there adds nothing but itself
    for block in blocks:
        for start in range(0, len(block), BLOCK):
            part = block[start : start + BLOCK]
            steps = on.put(part, buffer, centre=middle)
            total = float(steps.sum())
            if math.isnan(total):
                known = part[~np.isnan(part)]
                n += (len(part) - len(known)) * impute
                steps = on.put(known, buffer, centre=middle)
                total = float(steps.sum())
            n += len(steps)
            first += int(total)
            if squares:
                second += int(np.dot(steps, steps))
    total_first = first + n * middle
    return [n, total_first, second + 2 * middle * first + n * middle**2] if squares else [n, total_first]


def clamped(part: np.ndarray, ends: tuple[float, float], into: np.ndarray) -> np.ndarray:
    """Write a block without its NaN, clamped, into a buffer; give the part that was written."""
    out = np.clip(part, *ends, out=into[: len(part)])
    # of clamped numbers: large and infinite ones may neither warn nor look like NaN
    if math.isnan(out.sum()):
        known = part[~np.isnan(part)]
        out = np.clip(known, *ends, out=into[: len(known)])
    return out


def cells(blocks: Iterable[np.ndarray], on: Grid, n_cells: int) -> np.ndarray:
    """Return how many values stand in each of ``n_cells`` equal parts of the bounds (n_cells,) int64.

    Which part a value is in follows from the value alone; the upper end belongs to the last one.
    """
    buffer, places = np.empty(TILE), np.empty(TILE, np.int32)
    counts = np.zeros(n_cells, np.int64)
    for block in blocks:
        for start in range(0, len(block), TILE):
            out = clamped(block[start : start + TILE], (on.low, on.high), buffer)
            place = places[: len(out)]
            if on.low:
                np.subtract(out, on.low, out=out)
            np.multiply(out, n_cells / (on.high - on.low), out=out)
            np.copyto(place, out, casting="unsafe")
            np.minimum(place, n_cells - 1, out=place)
            counts += np.bincount(place, minlength=n_cells)
    return counts
