# SPDX-License-Identifier: Apache-2.0
"""What was released about people, in the words of an accountant; :mod:`casemate.privacy.accounting` says what it costs.

An :data:`Event` is a tuple of releases about the same people, in any order, each perhaps chosen after seeing the ones
before. Neighbours differ by one whole unit (a record, or a person with all their rows) that is there or not there;
:func:`replaced` turns such an event into what it is where one unit is exchanged for another.

**What a type promises, a mechanism must keep.** ``Pure``, ``ZCDP`` and ``ApproximateDP`` hold for any mechanism with
that guarantee, vectors included. The additive ones know more and cost less: ``Gaussian`` for a vector of bounded L2
sensitivity, ``Laplace``, ``DiscreteLaplace`` and ``DiscreteGaussian`` where neighbours differ in *one* coordinate (a
sum, a count, a histogram with one bin a unit); for other vectors state their ``Pure`` or ``ZCDP`` guarantee.

>>> from_json(to_json((Pure(epsilon=0.5), ZCDP(rho=0.01, count=3)))) == (
...     Pure(epsilon=0.5),
...     ZCDP(rho=0.01, count=3),
... )
True
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from casemate.core.errors import InvalidData

_LARGEST = sys.float_info.max  # a whole number may be larger


@dataclass(frozen=True, kw_only=True)
class Pure:
    """``count`` releases, each ``epsilon``-private with delta 0, by whatever mechanism.

    >>> Pure(epsilon=0.5).count
    1
    """

    epsilon: float
    count: int = 1

    def __post_init__(self) -> None:
        _positive("epsilon", self.epsilon)
        _counted(self.count)


@dataclass(frozen=True, kw_only=True)
class ApproximateDP:
    """``count`` releases, each (``epsilon``, ``delta``)-private, by whatever mechanism, such as a threshold on keys.

    >>> ApproximateDP(epsilon=0.5, delta=1e-9).delta
    1e-09
    """

    epsilon: float
    delta: float
    count: int = 1

    def __post_init__(self) -> None:
        _positive("epsilon", self.epsilon)
        _number("delta", self.delta)
        if not 0 <= self.delta < 1:
            raise InvalidData(f"delta of a release lies in [0, 1); got {self.delta!r}")
        _counted(self.count)


@dataclass(frozen=True, kw_only=True)
class ZCDP:
    """``count`` releases, each ``rho``-zero-concentrated private (Bun and Steinke 2016), by whatever mechanism.

    >>> ZCDP(rho=0.02, count=5).rho
    0.02
    """

    rho: float
    count: int = 1

    def __post_init__(self) -> None:
        _positive("rho", self.rho)
        _counted(self.count)


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """``count`` releases of a sum plus Gaussian noise of ``noise_multiplier`` times the sum's L2 sensitivity.

    Each is computed on a Poisson sample: every unit is in with probability ``rate`` on its own; 1: all are in.

    >>> Gaussian(noise_multiplier=2.0, count=4).count
    4
    """

    noise_multiplier: float
    count: int = 1
    rate: float = 1.0

    def __post_init__(self) -> None:
        _noisy(self.noise_multiplier)
        _counted(self.count)
        _rated(self.rate)


@dataclass(frozen=True, kw_only=True)
class Laplace:
    """``count`` releases of a number plus Laplace noise of scale ``noise_multiplier`` times its sensitivity.

    Each is computed on a Poisson sample: every unit is in with probability ``rate`` on its own; 1: all are in.

    >>> Laplace(noise_multiplier=2.0).rate
    1.0
    """

    noise_multiplier: float
    count: int = 1
    rate: float = 1.0

    def __post_init__(self) -> None:
        _noisy(self.noise_multiplier)
        _counted(self.count)
        _rated(self.rate)


@dataclass(frozen=True, kw_only=True)
class DiscreteLaplace:
    """``count`` releases of a whole number plus discrete Laplace noise: P(k) in proportion to exp(-abs(k) / scale).

    ``scale`` and the whole ``sensitivity`` are both in steps of the number's grid.

    >>> DiscreteLaplace(scale=200.0, sensitivity=100).sensitivity
    100
    """

    scale: float
    sensitivity: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        _positive("scale", self.scale)
        _counted(self.sensitivity, "sensitivity")
        _counted(self.count)


@dataclass(frozen=True, kw_only=True)
class DiscreteGaussian:
    """``count`` releases of a whole number plus discrete Gaussian noise: P(k) in proportion to exp(-k^2 / 2 sigma^2).

    ``sigma`` and the whole ``sensitivity`` are both in steps of the number's grid.

    >>> DiscreteGaussian(sigma=50.0, sensitivity=10).sigma
    50.0
    """

    sigma: float
    sensitivity: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        _positive("sigma", self.sigma)
        _counted(self.sensitivity, "sensitivity")
        _counted(self.count)


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The best of a *random number* of runs, each ``one`` event, chosen by a private score; only that run is released.

    The number of runs is drawn beforehand, with mean ``mean_repeats``: Poisson for ``shape`` = inf, else truncated
    negative binomial with that shape >= 0 (1: geometric, 0: logarithmic; Papernot and Steinke 2022). A fixed number of
    runs is no such thing: then every run counts, ``one * runs``.

    >>> Tuned(one=(Gaussian(noise_multiplier=2.0),), mean_repeats=10).shape
    1.0
    """

    one: tuple[Any, ...]
    mean_repeats: float
    shape: float = 1.0

    def __post_init__(self) -> None:
        for part in checked(self.one):
            if isinstance(part, (ApproximateDP, Tuned)):
                raise InvalidData(
                    f"tuning repeats ordinary releases, not {type(part).__name__}; account for that part apart"
                )
        _positive("mean_repeats", self.mean_repeats)
        if self.mean_repeats < 1:
            raise InvalidData(f"mean_repeats must be at least 1; got {self.mean_repeats!r}")
        if self.shape != math.inf:
            _number("shape", self.shape)
            if self.shape < 0:
                raise InvalidData(
                    f"shape is at least 0, inf for a Poisson number of runs; got {self.shape!r}"
                )


Part = Pure | ApproximateDP | ZCDP | Gaussian | Laplace | DiscreteLaplace | DiscreteGaussian | Tuned
Event = tuple[Part, ...]
KINDS: dict[str, type] = {
    "pure": Pure,
    "approximate": ApproximateDP,
    "zcdp": ZCDP,
    "gaussian": Gaussian,
    "laplace": Laplace,
    "discrete_laplace": DiscreteLaplace,
    "discrete_gaussian": DiscreteGaussian,
    "tuned": Tuned,
}


def to_json(event: Event) -> list[dict[str, Any]]:
    """Return the event as plain JSON values, for a ledger or a report.

    >>> to_json((Pure(epsilon=0.5),))
    [{'kind': 'pure', 'epsilon': 0.5, 'count': 1}]
    """
    checked(event)
    names = {made: kind for kind, made in KINDS.items()}
    rows = []
    for part in event:
        row: dict[str, Any] = {"kind": names[type(part)]}
        for field in fields(part):
            value = getattr(part, field.name)
            row[field.name] = to_json(value) if field.name == "one" else "inf" if value == math.inf else value
        rows.append(row)
    return rows


def from_json(raw: Any) -> Event:
    """Rebuild an event from :func:`to_json`, every number checked again.

    Raises:
        InvalidData: no list, an unknown kind, a field too many or too few, a value out of range.

    >>> from_json([{"kind": "zcdp", "rho": 0.01}])
    (ZCDP(rho=0.01, count=1),)
    """
    if not isinstance(raw, list) or not raw:
        raise InvalidData(f"an event is a list of at least one release; got {_short(raw)}")
    return tuple(_part(row) for row in raw)


def checked(event: Any) -> Event:
    """Return the event if each of its parts is of a kind that the accountant knows.

    Raises:
        InvalidData: something else is in it, or nothing.

    >>> checked((ZCDP(rho=0.01),))
    (ZCDP(rho=0.01, count=1),)
    """
    if not isinstance(event, tuple):
        raise InvalidData(f"an event is a tuple of releases; got {_short(event)}")
    if not event:
        raise InvalidData("an event without a release has no cost; name what was released")
    for part in event:
        if type(part) not in KINDS.values():
            raise InvalidData(f"no accounting is known for {_short(part)}; known kinds: {', '.join(KINDS)}")
    return event


def replaced(event: Event) -> Event:
    """Return the event where neighbours *exchange* one unit for another, from what it is for one added or removed.

    An exchange is a removal and an addition. An additive mechanism's sensitivity doubles; a generic guarantee follows
    from group privacy for two: 2 epsilon, 4 rho, delta (1 + e^epsilon).

    Raises:
        InvalidData: a Poisson-sampled release, whose amplification is only shown here for one unit added or removed.

    >>> replaced((Gaussian(noise_multiplier=2.0), Pure(epsilon=0.5)))
    (Gaussian(noise_multiplier=1.0, count=1, rate=1.0), Pure(epsilon=1.0, count=1))
    """
    return tuple(_REPLACED[type(part)](part) for part in checked(event))


def _halved(part: Gaussian | Laplace) -> Part:
    if part.rate < 1:
        raise InvalidData(
            f"a release on a Poisson sample (rate {part.rate:g}) has no accounting for exchanged units; "
            "state it for one unit added or removed"
        )
    return replace(part, noise_multiplier=part.noise_multiplier / 2)


def _group_of_two(part: ApproximateDP) -> Part:
    delta = part.delta * (1 + math.exp(min(part.epsilon, 700.0)))
    if delta >= 1:
        raise InvalidData(
            f"({part.epsilon:g}, {part.delta:g})-privacy says nothing of exchanged units; delta is 1"
        )
    return replace(part, epsilon=2 * part.epsilon, delta=delta)


_REPLACED: dict[type, Callable[[Any], Part]] = {
    Pure: lambda part: replace(part, epsilon=2 * part.epsilon),
    ApproximateDP: _group_of_two,
    ZCDP: lambda part: replace(part, rho=4 * part.rho),
    Gaussian: _halved,
    Laplace: _halved,
    DiscreteLaplace: lambda part: replace(part, sensitivity=2 * part.sensitivity),
    DiscreteGaussian: lambda part: replace(part, sensitivity=2 * part.sensitivity),
    Tuned: lambda part: replace(part, one=replaced(part.one)),
}


def _part(row: Any) -> Part:
    kind = row.get("kind") if isinstance(row, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise InvalidData(f"no accounting is known for {_short(row)}; known kinds: {', '.join(KINDS)}")
    given = {name: value for name, value in row.items() if name != "kind"}
    known = {field.name: field.default for field in fields(KINDS[kind])}
    if unknown := sorted(set(given) - set(known)):
        raise InvalidData(f"a {kind} release has no field {unknown[0]!r}; known fields: {', '.join(known)}")
    if "one" in given:
        given["one"] = from_json(given["one"])
    if given.get("shape") == "inf":
        given["shape"] = math.inf
    try:
        made: Part = KINDS[kind](**given)
    except TypeError:
        missing = sorted(name for name in known if name not in given)
        raise InvalidData(f"a {kind} release needs the field {missing[0]!r}") from None
    return made


def _number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _LARGEST:
        raise InvalidData(f"the {name} of a release must be a finite number; got {_short(value)}")


def _positive(name: str, value: Any) -> None:
    _number(name, value)
    if not value > 0:
        raise InvalidData(f"the {name} of a release must be a finite number > 0; got {value!r}")


def _noisy(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= _LARGEST:
        raise InvalidData(f"noise_multiplier must be a finite number > 0; got {value!r}")


def _counted(value: Any, name: str = "count") -> None:
    _number(name, value)
    if value != int(value) or not 1 <= value <= 10**15:  # a float counts exactly up to 9e15
        raise InvalidData(f"the {name} of a release must be a whole number from 1 to 10^15; got {value!r}")


def _rated(rate: Any) -> None:
    _number("rate", rate)
    if not 0 < rate <= 1:
        raise InvalidData(f"a sampling rate lies in (0, 1]; got {rate!r}")


def _short(value: Any) -> str:
    said = repr(value)
    return said if len(said) <= 80 else said[:77] + "..."
