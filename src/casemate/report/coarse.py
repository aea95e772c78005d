# SPDX-License-Identifier: Apache-2.0
"""Numbers with fewer digits, so that exact counts of people cannot be read off them: disclosure control, no guarantee.

Counts keep two digits and are rounded down; shares go in steps of ten people, since three digits of a share and of its
limits tell both counts behind it; other numbers keep three digits, and may move when one person comes or goes. The ends
of an interval go outward, so that it still holds what it held. Curves stand on fixed points.
"""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context
from typing import Any, Literal

from casemate.core.types import Curve

LEAST = 10  # people, or records where nobody is named: what rests on fewer is not shown
RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
BY_SETTING = ("accuracy against radius",)  # curves over what the auditor chose
BY_COUNT = ("fidelity by queries", "fidelity by rows, data only")  # curves over numbers of rows
Ends = tuple[float | None, float | None, float | None]


def count(n: Any) -> int:
    """Return a count at two digits, rounded down; one below ten is 0.

    >>> count(2956), count(200), count(9)
    (2900, 200, 0)
    """
    whole = int(n) if isinstance(n, (int, float)) and math.isfinite(n) else 0
    step: int = 10 ** max(0, len(str(abs(whole))) - 2)
    return 0 if whole < LEAST else whole // step * step


def digits(value: float | None, rounding: str = ROUND_HALF_EVEN, *, n: int = 3) -> float | None:
    """Return a number at ``n`` digits.

    >>> digits(0.68449), digits(0.68449, ROUND_CEILING), digits(-0.0012345, ROUND_FLOOR)
    (0.684, 0.685, -0.00124)
    """
    if value is None or not math.isfinite(value):
        return value
    return float(Context(prec=n, rounding=rounding).create_decimal(repr(float(value))))


def outward(value: float | None, low: float | None, high: float | None) -> Ends:
    """Round a value and its interval at three digits; what is exact stays exact.

    >>> outward(0.57312, 0.55118, 0.59501), outward(0.12345, 0.12345, 0.12345)
    ((0.573, 0.551, 0.596), (0.123, 0.123, 0.123))
    """
    ends = (ROUND_HALF_EVEN, ROUND_HALF_EVEN) if low == high else (ROUND_FLOOR, ROUND_CEILING)
    return digits(value), digits(low, ends[0]), digits(high, ends[1])


def shares(value: float | None, low: float | None, high: float | None, n: int, *, gap: bool = False) -> Ends:
    """Put a share of ``n`` people on steps of ten of them and its interval outward, an exact one that is on none too.

    Of a ``gap`` between two shares that was resolved no end comes to zero: it keeps one digit, and its sign.

    >>> shares(0.8248, 0.7506, 0.8842, 137), shares(0.8248, 0.7506, 0.8842, 10_000)
    ((0.803, 0.729, 0.949), (0.825, 0.75, 0.885))
    >>> shares(0.25, 0.112, 0.388, 40, gap=True)
    (0.25, 0.1, 0.5)
    """

    def at(end: float | None, way: Literal[-1, 0, 1]) -> float | None:
        if end is None or not math.isfinite(end):
            return end
        found = stepped(end, n, way, least=1e-6)
        if gap and way and found == 0:
            return digits(end, ROUND_FLOOR if way < 0 else ROUND_CEILING, n=1)
        return found

    middle, bottom, top = at(value, 0), at(low, -1), at(high, 1)
    if gap and middle is not None and bottom is not None and top is not None:
        middle = min(max(middle, bottom), top)
    return digits(middle), digits(bottom, ROUND_FLOOR), digits(top, ROUND_CEILING)


def decade(value: float) -> float:
    """Return the power of ten at or above a positive number: of an extreme, which is one record's own.

    >>> decade(0.783), decade(1e-6), decade(0.0)
    (1.0, 1e-06, 0.0)
    """
    return 10.0 ** math.ceil(math.log10(value)) if 0 < value < math.inf else value


def stepped(value: float, n: int, towards: Literal[-1, 0, 1] = 0, *, least: float = 0.01) -> float:
    """Put a share of ``n`` people on steps of ten of them, none finer than ``least``; -1 rounds down, 1 up.

    >>> stepped(0.5349, 1000), stepped(0.5349, 100), stepped(0.5349, 1000, -1), stepped(0.5301, 1000, 1)
    (0.53, 0.5, 0.53, 0.54)
    """
    step = max(least, LEAST / max(1, n))
    steps = value / step
    if towards:  # a share that lies on a step stays there
        steps = math.floor(steps + 1e-9) if towards < 0 else math.ceil(steps - 1e-9)
    return min(1.0, max(-1.0, round(round(steps) * step, 6)))


def curve(drawn: Curve, n: int) -> Curve | None:
    """Put a curve of shares of ``n`` people on fixed points; None for one that is not known here.

    Of a ROC curve ``n`` are the fewer of members and non-members; its points are round rates, from ten false alarms on.

    >>> curve(Curve(name="roc", x=(0.0, 0.013, 0.6), y=(0.0, 0.333, 1.0)), 200)
    Curve(name='roc', x=(0.05, 0.1, 0.2, 0.5, 1.0), y=(0.35, 0.35, 0.35, 0.35, 1.0), low=(), high=())
    """
    sides = [drawn.x, drawn.y, *(side for side in (drawn.low, drawn.high) if side)]
    at = [
        i
        for i, point in enumerate(zip(*sides, strict=True))
        if None not in point and all(map(math.isfinite, point))
    ]
    if drawn.name == "roc":
        # the last point of the step curve at or below each rate
        below = [(rate, [i for i in at if drawn.x[i] <= rate]) for rate in RATES if rate >= LEAST / max(1, n)]
        x = [rate for rate, found in below if found]
        at = [found[-1] for _, found in below if found]
    elif drawn.name in BY_COUNT:
        x = [float(count(drawn.x[i])) for i in at]
    elif drawn.name in BY_SETTING:
        x = [digits(drawn.x[i]) or 0.0 for i in at]
    else:
        return None
    return Curve(
        name=drawn.name,
        x=tuple(x),
        y=tuple(stepped(drawn.y[i], n) for i in at),
        low=tuple(stepped(drawn.low[i], n, -1) for i in at) if drawn.low else (),
        high=tuple(stepped(drawn.high[i], n, 1) for i in at) if drawn.high else (),
    )
