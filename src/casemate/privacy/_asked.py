# SPDX-License-Identifier: Apache-2.0
"""What a caller asked of a mechanism, read without rounding against privacy: whole numbers, fractions, a source."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from numbers import Integral, Rational, Real
from typing import Any

import numpy as np

from casemate.core.errors import GuaranteeVoid, InvalidData
from casemate.training import secure


def whole(value: Any, name: str, *, least: int | None = None) -> int:
    """Return ``value`` as a Python int, which cannot overflow.

    >>> whole(np.int64(7), "value")
    7
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral):
        raise InvalidData(
            f"{name} must be a whole number; got {value!r}: put it on a public grid first, in whole steps"
        )
    if least is not None and value < least:
        raise InvalidData(f"{name} must be a whole number >= {least}; got {value!r}")
    return int(value)


def wholes(values: Any, name: str) -> list[int]:
    """Return a list, tuple or array (n,) of whole numbers as Python ints."""
    if isinstance(values, np.ndarray):
        if values.ndim != 1:
            raise InvalidData(
                f"{name} must be one row of whole numbers; got an array of shape {values.shape}"
            )
        if values.dtype.kind in "iu":
            return [int(one) for one in values.tolist()]
    return [one if type(one) is int else whole(one, name) for one in values]


def fraction(value: Any, name: str, *, up: bool = False) -> Fraction:
    """Return a number > 0 as a fraction: a float as the smaller (``up``: the larger) of its two readings.

    0.1 is 3602879701896397 / 2^55 in binary, a little more than 1/10: as an epsilon it is 1/10, as a scale the other.

    >>> fraction(0.1, "epsilon"), fraction(0.1, "scale", up=True) > Fraction(1, 10)
    (Fraction(1, 10), True)
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (Real, Decimal)):
        raise InvalidData(f"{name} must be a number > 0; got {value!r}")
    if isinstance(value, Rational):
        found = Fraction(int(value.numerator), int(value.denominator))
    elif not math.isfinite(value):
        raise InvalidData(f"{name} must be finite; got {value!r}")
    elif isinstance(value, Decimal):
        found = Fraction(value)
    else:
        number = float(value)  # of a NumPy float, whose repr is not a number
        found = (max if up else min)(Fraction(number), Fraction(repr(number)))
    if found <= 0:
        raise InvalidData(f"{name} must be a number > 0; got {value!r}")
    return found


def drawn_from(source: secure.Source | None) -> secure.Source:
    """Return the source to draw from, a fresh one where none was given."""
    if source is None:
        return secure.source()
    if not isinstance(source, secure.Source):
        raise GuaranteeVoid(
            f"noise comes from casemate.training.secure.source(); got {type(source).__name__}, "
            "which can be repeated by whoever knows its seed: leave source away"
        )
    return source
