# SPDX-License-Identifier: Apache-2.0
"""Questions that the rules for pickled objects ask of modelled values."""

from __future__ import annotations

from casemate.core.pickles.machine import OPAQUE, Doubtful, Refused, Thing, Value
from casemate.core.pickles.permits import Permit

PLAIN = (type(None), bool, int, float, str)


def is_a(value: Value, *kinds: str) -> bool:
    """Tell whether a value is a Thing of one of these kinds."""
    return isinstance(value, Thing) and value.kind in kinds


def no(permit: Permit, why: str) -> Refused:
    """Return the refusal of a call that no honest file makes."""
    return Refused("hostile", permit.title, why)


def whole(value: Value) -> bool:
    """Tell whether a value is an integer, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def arguments(value: Value) -> list[Value]:
    """Return the items of a tuple of arguments."""
    if not is_a(value, "tuple"):
        raise Doubtful("arguments that are no tuple")
    return list(value.items)


def permit_of(value: Value, *uses: str) -> Permit | None:
    """Return the permit of a global with one of these uses."""
    if is_a(value, "global") and (not uses or value.permit.use in uses):
        found: Permit = value.permit
        return found
    return None


def length(value: Value, kinds: tuple[str, ...] = ("bytes", "bytearray", "text")) -> int | None:
    """Return the size of bytes-like data, or None."""
    if is_a(value, *kinds):
        size: int = value.size
        return size
    return len(value) if isinstance(value, str) and "text" in kinds else None


def consume(state: Thing) -> None:
    """Mark a state as given away: it may not change or be used again."""
    if state.frozen:
        raise Refused("hostile", "a state used twice", "two objects would own what one of them frees")
    state.frozen = True


def attributes(state: Value) -> dict[str, Value]:
    """Check a dictionary of attributes and return it; it may not change afterwards."""
    if not is_a(state, "dict"):
        raise Refused("unknown", "a state that is no dictionary", "no honest file of this class has one")
    keys = state.items[::2]
    if not all(isinstance(key, str) for key in keys):
        raise Refused("unknown", "an attribute whose name is no text", "no honest file has one")
    if bad := [key for key in keys if key.startswith("__") and key.endswith("__")]:
        raise Refused("hostile", f"attribute {bad[0][:40]}", "changes how the object itself works")
    consume(state)
    return dict(zip(keys, state.items[1::2], strict=True))


def plain(value: Value, *kinds: str) -> bool:
    """Tell whether a value is numbers and text throughout, containers and the given kinds allowed."""
    todo, seen = [value], 0
    while todo:
        item, seen = todo.pop(), seen + 1
        if isinstance(item, PLAIN) or item is OPAQUE or is_a(item, "bytes", "text", "scalar", *kinds):
            continue
        if not is_a(item, "tuple", "list", "dict", "mapping") or seen > 10_000:
            return False
        todo += item.items
    return True
