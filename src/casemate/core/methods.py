# SPDX-License-Identifier: Apache-2.0
"""The registry: one file a method, found by its name; the card in it is all that other parts need to know."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, cast

from casemate.core.errors import InvalidData
from casemate.core.types import Capability, Input, Property, Task, Worse

Kind = Literal["attack", "check", "evasion", "defence", "explainer"]
PACKAGES = ("privacy", "robustness", "confidentiality", "explanation")
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number that a method reports: which direction is bad, its unit, and its name in both languages.

    ``null`` is its value when there is nothing to find; the contract suite checks that the method says so. What is
    not a ``headline`` (a control, a diagnosis) gives way on the terminal, where 25 lines must do.
    """

    worse: Worse
    en: str
    zh: str
    unit: str = ""
    null: float | None = None
    headline: bool = True


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a method is, needs and costs; the docs page, the CLI entry and the report row are made from it."""

    name: str
    property: Property
    kind: Kind
    needs: frozenset[Capability]
    prefers: frozenset[Capability] = frozenset()
    tasks: frozenset[Task] = frozenset({"binary", "multiclass"})
    inputs: frozenset[Input] = frozenset({"table", "image", "text"})
    quick: Mapping[str, Any] = field(default_factory=dict)
    deep: Mapping[str, Any] = field(default_factory=dict)
    cost: str
    title: Mapping[str, str]
    reference: str
    uses: tuple[str, ...] = ()
    quantities: Mapping[str, Quantity] = field(default_factory=dict)
    null: Mapping[str, Any] = field(default_factory=dict)  # a defence's parameters that change nothing
    trial: Mapping[str, Any] = field(
        default_factory=dict
    )  # what the contract suite gives where the user must choose
    private_noise: bool = False  # draws noise that no seed repeats: exempt from "same seed, same bytes"
    nearest: bool = False  # evasion: returns the nearest example found, which may lie outside the radius
    version: str = "1"


@dataclass(frozen=True)
class Method:
    """A card and the function it describes."""

    card: Card
    function: Callable[..., Any]

    @property
    def doc(self) -> str:
        """The module's essay: what it measures, what the attacker knows, formula, cost, pitfalls."""
        return (import_module(self.function.__module__).__doc__ or "").strip()


@dataclass(frozen=True)
class Spec:
    """A method's name with the parameters the user fixed; made by ``cm.method``."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)


def method(
    *,
    kind: Kind,
    needs: set[Capability],
    cost: str,
    title: Mapping[str, str],
    reference: str,
    **card: Any,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Turn a function into a registered method: ``@method(kind="attack", needs={SCORES}, ...)``.

    Further fields of :class:`Card` go in ``card``. The decorated function stays an ordinary typed function: called
    without ``run=`` it goes through the harness (binding, limited access, verification) with default options.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        name = function.__name__
        package, _, stem = ["", "", *function.__module__.split(".")][-3:]
        if stem != name or package not in PACKAGES:
            raise InvalidData(f"method {name!r} must live in casemate/<property>/methods/{name}.py")
        for key in ("prefers", "tasks", "inputs"):
            if key in card:
                card[key] = frozenset(card[key])
        made = Card(
            name=name,
            property=cast(Property, package),
            kind=kind,
            needs=frozenset(needs),
            cost=cost,
            title=title,
            reference=reference,
            **card,
        )

        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            if kwargs.get("run") is None and kind != "defence":
                from casemate.core.harness import direct

                return cast(R, direct(Method(made, function), args, kwargs))
            return function(*args, **kwargs)

        wrapper.card = made  # type: ignore[attr-defined]  # our own function, not the user's object
        return wrapper

    return decorate


@functools.cache
def names() -> Mapping[str, str]:
    """Return method name -> module, from the file names alone (nothing is imported).

    >>> names()["lira"]
    'casemate.privacy.methods.lira'
    """
    root = Path(__file__).parent.parent
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package / "methods").glob("*.py")):
            if not path.stem.startswith("_"):
                found[path.stem] = f"casemate.{package}.methods.{path.stem}"
    return found


def find(name: str) -> Method:
    """Import one method by name.

    Raises:
        InvalidData: no such method; the message offers the nearest names.
    """
    known = names()
    if not isinstance(name, str):
        raise InvalidData(f"a method is named by text; got {name!r}")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"methods are: {', '.join(known)}"
        raise InvalidData(f"no method {name!r}; {hint}")
    wrapper = getattr(import_module(known[name]), name)
    return Method(wrapper.card, wrapper.__wrapped__)


def every() -> list[Method]:
    """Import every method, in the order of properties and names."""
    return [find(name) for name in names()]
