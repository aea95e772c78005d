# SPDX-License-Identifier: Apache-2.0
"""Which globals a pickle may name, and for what: the allow-list, read from ``allowed.toml``.

What is not on the list is refused, whatever it is called; the list of hostile names beside it only chooses the word
(*hostile* or *unknown*) that the reader sees.
"""

from __future__ import annotations

import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

Level = Literal["clean", "malformed", "unknown", "hostile"]
LEVELS: tuple[Level, ...] = ("clean", "malformed", "unknown", "hostile")  # from good to bad
_OLD_NAMES = {"__builtin__": "builtins", "copy_reg": "copyreg", "__main__": "__main__"}


@dataclass(frozen=True)
class Permit:
    """What a global may be used for. ``use`` is a section of the list, or for ``call`` the check of its arguments."""

    module: str
    name: str
    use: str
    check: str = ""
    size: int = 0  # bytes of one element, for storages

    @property
    def title(self) -> str:
        """``module.name``, as a finding shows it."""
        return f"{self.module}.{self.name}"


@cache
def _raw() -> dict[str, Any]:
    return tomllib.loads(files("casemate.core.pickles").joinpath("allowed.toml").read_text("utf-8"))


@cache
def _table() -> dict[tuple[str, str], Permit]:
    raw = _raw()
    table: dict[tuple[str, str], Permit] = {}
    for use in ("reference", "subclass", "build", "boosters", "native", "generator", "index"):
        for module, names in raw[use].items():
            table |= {(module, name): Permit(module, name, use) for name in names.split()}
    for module, checks in raw["call"].items():
        for check, names in checks.items():
            table |= {(module, name): Permit(module, name, "call", check) for name in names.split()}
    for name, size in raw["torch"]["storages"].items():
        for module in ("torch", "torch.storage"):
            table[module, name] = Permit(module, name, "storage", size=size)
    for name in raw["torch"]["dtypes"].split():
        table["torch", name] = Permit("torch", name, "reference")
    for old, new in raw["moved"].items():
        for (module, name), permit in list(table.items()):
            if module == new and (old, name) not in table:
                table[old, name] = Permit(old, name, permit.use, permit.check)
    return table


def canonical(module: str) -> str:
    """Return Python 3's name of a module that a Python 2 pickle names.

    >>> canonical("__builtin__")
    'builtins'
    """
    return _OLD_NAMES.get(module, module)


def permitted(module: str, name: str) -> Permit | None:
    """Return what ``module.name`` may be used for, or None: it is not on the list.

    >>> permitted("collections", "OrderedDict").check, permitted("os", "system")
    ('mapping', None)
    """
    if (module, name) == ("__builtin__", "xrange"):
        name = "range"
    return _table().get((canonical(module), name))


def admitted() -> set[tuple[str, str]]:
    """Return every (module, name) on the list, Python 2's names of built-ins included."""
    both = {old: new for old, new in _OLD_NAMES.items() if old != new}
    return set(_table()) | {(old, name) for old, new in both.items() for m, name in _table() if m == new}


@cache
def _hostile() -> tuple[frozenset[str], frozenset[str]]:
    raw = _raw()["hostile"]
    return frozenset(raw["modules"].split()), frozenset(raw["names"].split())


def refused(module: str, name: str) -> tuple[Level, str]:
    """Return the word for a global that is not admitted, and why.

    >>> refused("posix", "system")[0], refused("my_package", "Model")[0]
    ('hostile', 'unknown')
    """
    module = canonical(module)
    modules, names = _hostile()
    if "." in name or (name.startswith("__") and name.endswith("__")):
        return "hostile", "a name that walks through attributes reaches any function"
    parts = module.split(".")
    inside = any(".".join(parts[:k]) in modules for k in range(1, len(parts) + 1))
    if inside or f"{module}.{name}" in names:
        return "hostile", "can run code, read or write files, or open connections"
    if f"{module}.".startswith("torch.nn."):
        return "unknown", "part of a whole torch module; save model.state_dict(), and load it with --factory"
    return (
        "unknown",
        f"not on the allow-list; if you trust whoever made the file: --trust {module}.{name}",
    )


def plausible(module: str, name: str) -> bool:
    """Tell whether bytes that happen to read ``c module name`` could be meant: a module that Python may have."""
    if not (name.replace(".", "_").isidentifier() and module.replace(".", "_").isidentifier()):
        return False
    top = canonical(module).partition(".")[0]
    known = {m.partition(".")[0] for m, _ in _table()} | {m.partition(".")[0] for m in _hostile()[0]}
    if top in sys.stdlib_module_names or top in known:
        return True
    from importlib.machinery import PathFinder

    try:
        return PathFinder.find_spec(top) is not None  # looks for the file, runs nothing of it
    except (ImportError, ValueError):
        return False
