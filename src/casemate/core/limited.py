# SPDX-License-Identifier: Apache-2.0
"""The black-box view: a target that offers only what an attacker was given, and counts what is asked of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from casemate.core.errors import BudgetExhausted
from casemate.core.types import (
    LABELS,
    LOGITS,
    MODULE,
    REFIT,
    SCORES,
    TOKENS,
    TREES,
    Capability,
    Counter,
    Recipe,
    Target,
)

if TYPE_CHECKING:
    from casemate.core.data import Dataset
    from casemate.core.nodes import NodeTable
    from casemate.core.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class Wrapper(Target):
    """A target in front of another; what stands behind it is bound and trained in its own way."""

    base: Target

    @property
    def kind(self) -> str:
        return self.base.kind

    @property
    def voids(self) -> str:
        """Say how what stands in front would make a guarantee of the training behind it false; "" if it cannot."""
        return self.base.voids if isinstance(self.base, Wrapper) else ""

    def native_classes(self) -> tuple[Any, ...] | None:
        return self.base.native_classes()

    def digest(self) -> str:
        return self.base.digest()

    def trained(self, data: Dataset, seed: int) -> Target:
        return self._before(self.base.trained(data, seed))

    def settings(self) -> Mapping[str, Any]:
        return self.base.settings()

    def with_recipe(self, recipe: Recipe | Mapping[str, Any]) -> Target:
        return self._before(self._behind().with_recipe(recipe))

    def bind(self, data: Dataset) -> tuple[Target, Dataset]:
        """Bind the base: how a model is asked and what its outputs are is for it to find out."""
        base, coded = self.base.bind(data)
        return self._before(base), coded

    def _before(self, base: Target) -> Target:
        return self if base is self.base else replace(self, base=base, **shared(base))

    def _behind(self) -> Target:
        """Return the base with the schema and classes that this wrapper has."""
        return self.base if self.base.schema is self.schema else replace(self.base, **shared(self))


@dataclass(frozen=True, kw_only=True)
class Limited(Wrapper):
    """A target behind a door: asking for anything not allowed raises ``MissingCapability``."""

    allowed: frozenset[Capability]
    n_queries: int | None = None
    counter: Counter = field(default_factory=Counter)

    @property
    def capabilities(self) -> frozenset[Capability]:
        return self._offered

    @cached_property
    def _offered(self) -> frozenset[Capability]:
        # an estimator is asked for all its parameters: not on every call
        return self.base.capabilities & self.allowed

    def _through(self, capability: Capability, x: Any) -> Target:
        if capability not in self.capabilities:
            raise self._missing(capability)
        rows = self.counter.tally["rows"] + len(x)
        if self.n_queries is not None and rows > self.n_queries:
            raise BudgetExhausted(
                f"query budget of {self.n_queries} rows used up (next call asks {len(x)} more after "
                f"{self.counter.tally['rows']}); raise Threat(n_queries=) or lower the effort"
            )
        if len(x):
            self.counter.add("rows", len(x))
            self.counter.add("calls")
        return self._behind()

    def labels(self, x: Any) -> np.ndarray:
        return self._through(LABELS, x).labels(x)

    def scores(self, x: Any) -> np.ndarray:
        return self._through(SCORES, x).scores(x)

    def logits(self, x: Any) -> np.ndarray:
        return self._through(LOGITS, x).logits(x)

    def module(self) -> Any:
        return self._through(MODULE, ()).module()

    def trees(self) -> NodeTable:
        return self._through(TREES, ()).trees()

    def tokens(self, texts: Sequence[str]) -> Tokens:
        return self._through(TOKENS, ()).tokens(texts)

    def refit(self, x: Any, y: np.ndarray, seed: int) -> Target:
        self.counter.add("refits")
        # A shadow belongs to the attacker: it is limited like the target but not metered.
        return limit(self._through(REFIT, ()).refit(x, y, seed), self.allowed)

    def refit_people(self, x: Any, y: np.ndarray, seed: int, *, person: np.ndarray | None) -> Target:
        self.counter.add("refits")
        return limit(self._through(REFIT, ()).refit_people(x, y, seed, person=person), self.allowed)


def shared(target: Target) -> dict[str, Any]:
    """Return the fields that every target has, for the one put in front of it."""
    return {f.name: getattr(target, f.name) for f in fields(Target)}


def limit(
    target: Target,
    allowed: frozenset[Capability],
    *,
    n_queries: int | None = None,
    counter: Counter | None = None,
) -> Limited:
    """Wrap ``target`` so that only ``allowed`` can be asked of it, counted in ``counter``."""
    return Limited(
        base=target, allowed=allowed, n_queries=n_queries, counter=counter or Counter(), **shared(target)
    )
