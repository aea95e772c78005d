# SPDX-License-Identifier: Apache-2.0
"""One question to the data: what it may cost, how much noise that is, and the one place where noise is added."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from casemate.core.errors import GuaranteeVoid, InvalidData
from casemate.privacy import events, mechanisms
from casemate.privacy._asked import drawn_from, fraction
from casemate.privacy.release import INSECURE, UNRECORDED, Release
from casemate.privacy.statistics._intervals import Noise
from casemate.privacy.statistics._rows import People, share
from casemate.training.secure import Source

Relation = Literal["add_or_remove_one", "replace_one"]
RELATIONS = ("add_or_remove_one", "replace_one")
MECHANISMS = ("laplace", "gaussian")
LEAST, MOST = 1e-30, 1e30  # of epsilon: beyond, noise or its tails are no floats
SHOWN = {"laplace": "discrete Laplace", "gaussian": "discrete Gaussian"}


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """What one answer may cost, and who counts as a neighbour; ``epsilon=0.5`` alone is short for ``Privacy(...)``.

    Neighbours differ by one unit (a row, or a person with at most ``max_rows`` rows): there or not there
    (``add_or_remove_one``), or exchanged for another while the number of rows is public (``replace_one``).
    ``mechanism="gaussian"`` needs a ``delta`` and pays off where one question has many answers.

    >>> Privacy(epsilon=0.5).relation
    'add_or_remove_one'
    """

    epsilon: float
    delta: float = 0.0
    relation: Relation = "add_or_remove_one"
    mechanism: Literal["laplace", "gaussian"] = "laplace"
    level: float = 0.95

    def __post_init__(self) -> None:
        positive("epsilon", self.epsilon)
        if not LEAST <= self.epsilon <= MOST:
            raise InvalidData(f"epsilon must lie between {LEAST:g} and {MOST:g}; got {self.epsilon!r}")
        share("delta", self.delta)
        if self.delta == 1:
            raise InvalidData("delta=1 promises nothing; state one far below 1 / n")
        if self.relation not in RELATIONS:
            raise InvalidData(f"relation must be one of {', '.join(RELATIONS)}; got {self.relation!r}")
        if self.mechanism not in MECHANISMS:
            raise InvalidData(f"mechanism must be one of {', '.join(MECHANISMS)}; got {self.mechanism!r}")
        if self.mechanism == "gaussian" and not self.delta:
            raise InvalidData("mechanism='gaussian' needs a delta > 0; state Privacy(epsilon=..., delta=...)")
        share("level", self.level, inside=True)
        for name in ("epsilon", "delta", "level"):  # 1 and 1.0 are one price, and one question to a ledger
            object.__setattr__(self, name, float(str(getattr(self, name))))

    def noise(self, sensitivity: int, squared: int | None = None) -> Noise:
        """Return the law of the noise for an L1 sensitivity and the square of the L2 one (None: the same)."""
        if self.mechanism == "laplace":
            return Noise("laplace", float(sensitivity / fraction(self.epsilon, "epsilon")))
        square = sensitivity**2 if squared is None else squared
        return Noise("gaussian", math.sqrt(square / (2 * float(self.rho()))))

    def rho(self) -> Fraction:
        """Return the zCDP budget that costs at most (epsilon, delta), rounded down."""
        rho = _rho(float(self.epsilon), float(self.delta))
        if not rho:
            raise InvalidData(
                f"epsilon={self.epsilon:g} and delta={self.delta:g} leave no room for Gaussian noise; "
                "raise delta, or use mechanism='laplace'"
            )
        return rho


@lru_cache(maxsize=64)
def _rho(epsilon: float, delta: float) -> Fraction:
    from casemate.privacy._rdp import zcdp_epsilon

    low, high = 0.0, epsilon + 1.0
    while zcdp_epsilon(high, delta) <= epsilon:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if zcdp_epsilon(middle, delta) <= epsilon else (low, middle)
    return Fraction(low)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is made of noisy whole numbers; nothing here may look at the data again."""

    value: Any
    low: Any = None
    high: Any = None
    names: tuple[Any, ...] = ()
    interval: str = "exact"
    mechanism: str = ""  # where it is not the noise that the price names


Add = Callable[[Sequence[int]], list[int]]


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A question: its public words, its price, and how the answer is drawn, recorded and shown."""

    statistic: str
    privacy: Privacy
    people: People | None
    source: Source
    ledger: Any = None

    @property
    def rows(self) -> int:
        """The most rows of one unit."""
        return 1 if self.people is None else self.people.max_rows

    @property
    def unit(self) -> str:
        """Whose presence is hidden."""
        return "record" if self.people is None else "person"

    @property
    def replaces(self) -> bool:
        """Whether neighbours exchange a unit."""
        return self.privacy.relation == "replace_one"

    @property
    def public_n(self) -> bool:
        """Whether the number of rows is the same for neighbours, so that it needs no noise."""
        return self.replaces and self.people is None

    def release(
        self,
        words: dict[str, Any],
        compute: Callable[[Add, Noise], Answer],
        *,
        sensitivity: int,
        squared: int | None = None,
        data: Any = None,
        extra_delta: float = 0.0,
    ) -> Release:
        """Draw, record and return the answer.

        Args:
            words: the public parameters of the question.
            compute: makes the answer of exact sums through ``add``, the only way to noise.
            sensitivity: the most by which one unit moves all numbers that go through ``add`` together (L1, in steps).
            squared: the square of the same in the L2 norm; None: the square of ``sensitivity``.
            data: what a digest of the data reads; extra_delta: of a threshold.
        """
        price, noise, m = self.privacy, self.privacy.noise(sensitivity, squared), self.rows
        square = sensitivity**2 if squared is None else squared
        gaussian = price.mechanism == "gaussian"

        def add(exact: Sequence[int]) -> list[int]:
            if gaussian:
                return mechanisms.add_gaussian(
                    exact, l2_sensitivity_squared=square, rho=price.rho(), source=self.source
                )
            return mechanisms.add_laplace(
                exact, sensitivity=sensitivity, epsilon=price.epsilon, source=self.source
            )

        def make() -> dict[str, Any]:
            found = compute(add, noise)
            return Release(
                statistic=self.statistic,
                value=found.value,
                low=found.low,
                high=found.high,
                level=price.level,
                interval=found.interval,
                names=found.names,
                epsilon=float(price.epsilon),
                delta=float(price.delta) if gaussian or extra_delta else 0.0,
                mechanism=found.mechanism or SHOWN[price.mechanism],
                scale=0.0 if found.mechanism else noise.scale,
                sensitivity=sensitivity,
                secure=self.source.secure,
                unit=self.unit,
                relation=price.relation,
                ledger=UNRECORDED
                if self.ledger is None
                else f"recorded for {self.ledger.header['population']}",
            ).to_dict()

        if self.ledger is None:
            return Release.from_dict(make())
        part: Any = events.ZCDP(rho=float(price.rho())) if gaussian else events.Pure(epsilon=price.epsilon)
        if extra_delta:
            part = events.ApproximateDP(epsilon=price.epsilon, delta=price.delta)
        from casemate.privacy.ledger import Stated
        from casemate.privacy.statistics._record import recorded

        query = {**words, "statistic": self.statistic, "price": asdict(price), "max_rows": self.people and m}
        text = json.dumps(query, sort_keys=True, default=repr)
        if not self.source.secure:  # never given out for an answer with noise that nobody can repeat
            text = f"{INSECURE}; {text}"
        stated = Stated(unit=self.unit, neighbours=price.relation)
        return Release.from_dict(recorded(self.ledger, text, (part,), make, data=data, stated=stated))


def asked(
    statistic: str,
    epsilon: float | None,
    privacy: Privacy | None,
    *,
    people: People | None,
    ledger: Any,
    source: Any,
) -> Ask:
    """Return the question, its price checked: exactly one of ``epsilon`` and ``privacy``."""
    if (epsilon is None) == (privacy is None):
        raise InvalidData("state the price once: epsilon=0.5, or privacy=Privacy(epsilon=0.5, ...)")
    price = Privacy(epsilon=epsilon) if privacy is None and epsilon is not None else privacy
    if not isinstance(price, Privacy):
        raise InvalidData(f"privacy must be a Privacy(...); got {type(privacy).__name__}")
    if people is not None and not isinstance(people, People):
        raise InvalidData(f"people must be a People(ids, max_rows=...); got {type(people).__name__}")
    return Ask(statistic=statistic, privacy=price, people=people, ledger=ledger, source=drawn_from(source))


def thresholded(ask: Ask) -> None:
    """Refuse a question with unknown keys whose price does not cover the key of one unit alone."""
    if not ask.privacy.delta:
        raise InvalidData(
            "keys that are not public need a delta > 0: state Privacy(epsilon=..., delta=...), or the known keys"
        )
    if ask.replaces or ask.privacy.mechanism != "laplace":
        raise GuaranteeVoid(
            "a threshold on keys is only shown private for add_or_remove_one with mechanism='laplace'"
        )


def positive(name: str, value: Any) -> None:
    """Refuse anything but a finite number above 0."""
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float, np.floating))
        or not 0 < value < math.inf
    ):
        raise InvalidData(f"{name} must be finite and > 0; got {value!r}")
