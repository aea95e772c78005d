# SPDX-License-Identifier: Apache-2.0
"""A Release: one noisy answer about people, with its price, its error and what it does not say.

The interval is about the noise alone: over fresh draws it holds the true statistic *of these rows*, clamped to the
stated bounds, at least as often as ``level`` says. It says nothing of how the rows were sampled from a wider world, nor
of what clamping took off. An ``approximate`` interval (of a variance, a covariance) rests on a linearisation whose
coverage is simulated in the tests; all others hold for every n.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any, Self

from casemate.core.errors import InvalidData

SCHEMA = "casemate-release/1"
UNRECORDED = "recorded in no ledger"
INSECURE = "INSECURE: noise of a test source protects nobody"


@dataclass(frozen=True, kw_only=True)
class Release:
    """What left the data, and at which price; every field may be published.

    Attributes:
        statistic: name of what was asked.
        value: the noisy answer: a number, or a tuple in the order of ``names``.
        low, high: the interval of the noise at ``level``, shaped as ``value``; None where there is none.
        epsilon, delta: the guarantee for one ``unit`` under the neighbour ``relation``.
        mechanism: how the noise was drawn; scale: of the noise, in whole steps of the grid.
        sensitivity: the most one unit moves what was noised, in the same steps.
        secure: whether the noise was keyed by the operating system; False for that of a test source, which can be
            repeated, so that neither epsilon nor delta holds.
        ledger: where the spend stands, or that it stands nowhere.

    >>> Release(
    ...     statistic="count",
    ...     value=41,
    ...     low=38,
    ...     high=44,
    ...     epsilon=1.0,
    ...     mechanism="discrete Laplace",
    ...     sensitivity=1,
    ... )
    Release(count = 41, noise 38 to 44 at 95 %; epsilon 1 for each record, recorded in no ledger)
    """

    statistic: str
    value: Any
    low: Any = None
    high: Any = None
    level: float = 0.95
    interval: str = "exact"
    names: tuple[Any, ...] = ()
    epsilon: float
    delta: float = 0.0
    mechanism: str
    scale: float = 0.0
    sensitivity: int
    unit: str = "record"
    relation: str = "add_or_remove_one"
    secure: bool = True
    ledger: str = UNRECORDED

    def to_dict(self) -> dict[str, Any]:
        """Return the release as plain JSON values."""
        return {"schema": SCHEMA, **_listed(asdict(self))}

    def to_json(self) -> str:
        """Return the release as a line of JSON."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_dict(cls, raw: Any) -> Self:
        """Rebuild a release from :meth:`to_dict`.

        Raises:
            InvalidData: another schema, or fields that are missing or unknown.
        """
        if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
            raise InvalidData(f"this is no release of schema {SCHEMA}")
        given = {name: _tupled(value) for name, value in raw.items() if name != "schema"}
        known = {field.name for field in fields(cls)}
        if given.keys() != known:
            raise InvalidData(
                f"a release has other fields: {', '.join(sorted(map(str, given.keys() ^ known)))}"
            )
        return cls(**given)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Rebuild a release from :meth:`to_json`."""
        try:
            raw = json.loads(text)
        except ValueError as error:
            raise InvalidData(f"this is no release of schema {SCHEMA}") from error
        return cls.from_dict(raw)

    def __repr__(self) -> str:
        price = f"epsilon {self.epsilon:g}" + (f", delta {self.delta:g}" if self.delta else "")
        many = isinstance(self.value, tuple)
        noise = (
            ""
            if many or self.low is None
            else f", noise {_short(self.low)} to {_short(self.high)} at {100 * self.level:g} %"
        )
        said = f"{len(self.value)} values" if many else _short(self.value)
        void = "" if self.secure else f"; {INSECURE}"
        return f"Release({self.statistic} = {said}{noise}; {price} for each {self.unit}, {self.ledger}{void})"


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _listed(inner) for name, inner in value.items()}
    if isinstance(value, tuple):
        return [_listed(inner) for inner in value]
    if isinstance(value, float) and isfinite(value):
        return float(value)
    return (
        value if value is None or isinstance(value, (int, str)) else str(value)
    )  # a day, a decimal: what cannot be kept as it is is kept as it reads


def _tupled(value: Any) -> Any:
    return tuple(_tupled(inner) for inner in value) if isinstance(value, list) else value
