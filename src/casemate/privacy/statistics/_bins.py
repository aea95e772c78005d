# SPDX-License-Identifier: Apache-2.0
"""How many values stand between rising edges, in a few passes over blocks that stay in the cache.

Three ways, all exact and all of a time that does not depend on where the values lie. A few bins: one comparison an
edge. Bins of one width: a division, where trying the first and the last number of every bin shows that rounding puts
none wrong. Other bins: a cell of a fine even grid, and one comparison with the only edge that lies in that cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from casemate.privacy.statistics._grid import TILE, clamped

FEW = 8  # bins up to which an edge after the other is compared
BYTE = 64  # bins up to which places are bytes, and pairs of them are counted
FINE = 2**12  # cells among which edges are told apart
Find = Callable[[np.ndarray], np.ndarray]


def binned(blocks: Iterable[np.ndarray], ends: np.ndarray) -> np.ndarray:
    """Return the counts between rising ``ends`` (bins,), the outer bins open; NaN is counted nowhere."""
    bins, inner = len(ends) - 1, ends[1:-1]
    outer = float(ends[0]), float(np.nextafter(ends[-1], -np.inf))
    counts, buffer = np.zeros(bins, np.int64), np.empty(TILE)
    pairs = np.zeros((bins, 256), np.int64)  # how often a bin stands beside another one
    find = _found(ends) if bins > FEW else None
    for block in blocks:
        for start in range(0, len(block), TILE):
            part = clamped(block[start : start + TILE], outer, buffer)
            if find is None:
                above = [int(np.count_nonzero(part >= end)) for end in inner]
                counts -= np.diff([len(part), *above, 0])
                continue
            place = find(part)
            if bins <= BYTE:  # two values at a time: counting is what takes long
                even = len(place) - len(place) % 2
                both = np.bincount(place[:even].view(np.uint16), minlength=pairs.size)
                pairs += both.reshape(bins, 256)
                place = place[even:]
            counts += np.bincount(place, minlength=bins)
    return counts + pairs.sum(1) + pairs[:, :bins].sum(0)


def _found(ends: np.ndarray) -> Find:
    """Return what puts clamped values (k,), which it may overwrite, into bins."""
    kind = np.uint8 if len(ends) - 1 <= BYTE else np.int32
    return _even(ends, np.empty(TILE, kind)) or _celled(ends, np.empty(TILE, kind)) or _sought(ends, kind)


def _even(ends: np.ndarray, places: np.ndarray) -> Find | None:
    """Return the way of one width, if it puts the ends of every bin right, and so, rising, all between."""
    width, bins = float(ends[1] - ends[0]), np.arange(len(ends) - 1)
    below = np.nextafter(ends[1:], -np.inf)  # the last number of each bin
    for divide in (False, True):  # the faster first

        def guess(x: np.ndarray, divide: bool = divide) -> np.ndarray:
            if ends[0]:
                np.subtract(x, ends[0], out=x)
            return np.divide(x, width, out=x) if divide else np.multiply(x, 1 / width, out=x)

        def find(x: np.ndarray, guess: Find = guess) -> np.ndarray:
            place = places[: len(x)]
            np.copyto(place, guess(x), casting="unsafe")
            return place

        if all((np.floor(guess(side.copy())) == bins).all() for side in (ends[:-1], below)):
            return find
    return None


def _celled(ends: np.ndarray, places: np.ndarray) -> Find | None:
    """Return the way of a fine even grid, if no cell of it has two edges."""
    scale = FINE / (ends[-1] - ends[0])
    scaled, cells = np.empty(TILE), np.empty(TILE, np.intp)
    nearest, past = np.empty(TILE), np.empty(TILE, np.bool_)

    def celled(x: np.ndarray) -> np.ndarray:
        out, cell = scaled[: len(x)], cells[: len(x)]
        np.multiply(np.subtract(x, ends[0], out=out), scale, out=out)  # rising in x, as each rounded step is
        np.copyto(cell, out, casting="unsafe")
        return np.minimum(cell, FINE - 1, out=cell)

    inner = ends[1:-1]
    at = celled(inner).copy()
    if len(np.unique(at)) < len(at):
        return None
    before = np.searchsorted(at, np.arange(FINE)).astype(places.dtype)  # edges in cells to the left
    edge = np.full(FINE, np.inf)
    edge[at] = inner

    def find(x: np.ndarray) -> np.ndarray:
        place, cell, on, above = places[: len(x)], celled(x), nearest[: len(x)], past[: len(x)]
        before.take(cell, out=place, mode="clip")
        edge.take(cell, out=on, mode="clip")
        return np.add(place, np.greater_equal(x, on, out=above), out=place)

    return find


def _sought(ends: np.ndarray, kind: type) -> Find:
    inner = ends[1:-1]
    return lambda x: np.searchsorted(inner, x, side="right").astype(kind)
