# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ARG001 - rules of a kind have one signature, whether or not they use all of it
"""What a call, a fresh object or a state in a pickle would do, for exactly the globals on the allow-list.

Each rule looks at the modelled arguments as the real function would, and either says what comes out or refuses. Sizes
are compared with the bytes that are present, so that no array is larger than its data; a dtype may not change after it
was used, nor a state after it was given away, because the compiled code behind them keeps pointers.
"""

from __future__ import annotations

from collections.abc import Callable

from casemate.core.pickles import arrays
from casemate.core.pickles.arguments import (
    PLAIN,
    arguments,
    attributes,
    consume,
    is_a,
    length,
    no,
    permit_of,
    plain,
    whole,
)
from casemate.core.pickles.machine import Machine, Refused, Thing, Value
from casemate.core.pickles.permits import Permit

_STATE_WORDS = 624  # of the Mersenne twister
_FACTORIES = {"int", "float", "list", "dict", "set", "str", "tuple", "bool"}


# ---------------------------------------------------------------------- the four ways to make or change an object


def call(m: Machine, function: Value, passed: Value) -> Value:
    """REDUCE, INST, OBJ."""
    m.n_calls += 1
    permit = permit_of(function)
    if permit is None:
        raise Refused("hostile", "a call of an object", "only admitted globals are called")
    given = arguments(passed)
    if permit.use == "trusted":
        return Thing("trusted", given, permit=permit)
    if permit.use != "call":
        raise Refused(
            "unknown", permit.title, "may be named in a model file, but not called while unpickling"
        )
    if permit.check == "joblib":
        raise no(permit, "is never called")
    return _CHECKS[permit.check](m, permit, given)


def new(m: Machine, cls: Value, passed: Value) -> Value:
    """NEWOBJ: ``cls.__new__(cls, *arguments)``."""
    m.n_calls += 1
    permit = permit_of(cls)
    if permit is None:
        raise Refused("hostile", "an object made from no class", "only admitted classes are built")
    given = arguments(passed)
    if permit.use == "trusted":
        return Thing("trusted", given, permit=permit)
    if permit.check == "joblib" and not given:
        return Thing("wrapper", permit=permit)
    if permit.use not in ("build", "boosters"):
        raise Refused("unknown", permit.title, "may be named in a model file, but not built this way")
    if given:
        raise Refused("unknown", permit.title, "is built without arguments in every honest file")
    return Thing("mapping" if permit.name == "Bunch" else "object", permit=permit)


def new_ex(m: Machine, cls: Value, passed: Value, named: Value) -> Value:
    """NEWOBJ_EX: with keyword arguments; nothing on the list is built so."""
    m.n_calls += 1
    permit = permit_of(cls)
    if permit is None or permit.use != "trusted":
        title = permit.title if permit else "an object made from no class"
        raise Refused("unknown", title, "is built without keyword arguments in every honest file")
    return Thing("trusted", [*arguments(passed), named], permit=permit)


def build(m: Machine, thing: Value, state: Value) -> Value:
    """BUILD: give a state. Returns what replaces the object on the stack, or None."""
    rule = _STATES.get(thing.kind) if isinstance(thing, Thing) else None
    if rule is None:
        what = thing.permit.title if isinstance(thing, Thing) and thing.permit else "an object"
        raise Refused("hostile", f"a state for {what}", "sets attributes of something that takes no state")
    return rule(m, thing, state)


# ---------------------------------------------------------------------- states


def _object(m: Machine, thing: Thing, state: Value) -> None:
    found = attributes(state)
    thing.items = [*thing.items, state]
    permit = thing.permit
    if permit is not None and permit.use == "boosters":
        for name in ("handle", "_handle"):
            value = found.get(name)
            if value is not None and length(value) is None:
                raise no(permit, f"its {name} is neither bytes nor text")
    version = found.get("_sklearn_version", "")
    if not isinstance(version, str):
        raise Refused("unknown", "_sklearn_version", "is no text")


def _mapping(m: Machine, thing: Thing, state: Value) -> None:
    if state is not None:
        attributes(state)
        thing.items = [*thing.items, None, state]


def _trusted(m: Machine, thing: Thing, state: Value) -> None:
    thing.items = [*thing.items, state]
    if is_a(state, "dict", "tuple"):
        consume(state)


def _native(m: Machine, thing: Thing, state: Value) -> None:
    if not is_a(state, "tuple") or not plain(state, "array", "native", "generator", "pyx"):
        raise Refused("hostile", "the state of a compiled class", "holds more than numbers and arrays")
    thing.items = [*thing.items, state]


def _generator(m: Machine, thing: Thing, state: Value) -> None:
    if state is None:
        return
    if not plain(state, "array", "generator", "pyx"):
        raise Refused("hostile", "the state of a random generator", "holds more than numbers and arrays")
    todo, seen = [state], 0
    while todo and seen < 100:
        item, seen = todo.pop(), seen + 1
        if is_a(item, "dict", "tuple"):
            todo += [part for part in item.items if isinstance(part, Thing)]
        if is_a(item, "dict"):
            found = dict(zip([str(k) for k in item.items[::2]], item.items[1::2], strict=True))
            at = found.get("pos", 0)
            if not (whole(at) and 0 <= at <= _STATE_WORDS):
                raise Refused("hostile", "the position of a random generator", "lies outside its state")
            item.frozen = True
    thing.items = [*thing.items, state]


def _tree(m: Machine, thing: Thing, state: Value) -> None:
    found = attributes(state)
    nodes: Value = found.get("nodes")
    values: Value = found.get("values")
    count = found.get("node_count")
    fits = is_a(nodes, "array") and is_a(values, "array")
    if not fits or not nodes.data or nodes.data[0] != count:
        raise Refused("hostile", "sklearn.tree._tree.Tree", "says it has another number of nodes than it has")
    m.charge(2 * (nodes.size + values.size))
    thing.items = [*thing.items, state]


def _partial(m: Machine, thing: Thing, state: Value) -> None:
    parts = arguments(state)
    if len(parts) != 4 or permit_of(parts[0], "reference") is None or not is_a(parts[1], "tuple"):
        raise Refused("hostile", "functools.partial", "of something that is not an admitted function")
    for part in parts[2:]:
        if part is not None:
            attributes(part)
    thing.items = parts


_STATES: dict[str, Callable[[Machine, Thing, Value], Value]] = {
    **arrays.STATES,
    "object": _object,
    "mapping": _mapping,
    "trusted": _trusted,
    "native": _native,
    "pyx": _native,
    "generator": _generator,
    "tree": _tree,
    "partial": _partial,
}


# ---------------------------------------------------------------------- the other calls


def _bytes_of(m: Machine, permit: Permit, given: list[Value]) -> Thing:
    if given and whole(given[0]):
        raise Refused("hostile", "resource bomb", f"{permit.title}({given[0]}) out of nothing")
    size = length(given[0]) if given else 0
    if size is None or len(given) > 2 or (given[1:] and given[1] not in ("latin-1", "latin1")):
        raise Refused("unknown", permit.title, "of something that is not modelled")
    m.charge(size)
    return Thing(permit.name, size=size)


def _encode(m: Machine, permit: Permit, given: list[Value]) -> Thing:
    size = length(given[0], ("text",)) if given else None
    if size is None or given[1:] not in (["latin1"], ["latin-1"]):
        raise no(permit, "a codec other than latin1 can run or expand what it is given")
    m.charge(size)
    return Thing("bytes", size=size)


def _slice(m: Machine, permit: Permit, given: list[Value]) -> Thing:
    if len(given) != 3 or not all(isinstance(item, PLAIN) for item in given):
        raise Refused("unknown", permit.title, "of something that is not modelled")
    return Thing("slice", given)


def _numbers(m: Machine, permit: Permit, given: list[Value]) -> Thing:
    if not all(isinstance(n, (bool, int, float)) and abs(n) < 2**53 for n in given if n is not None):
        raise Refused("unknown", permit.title, "of something that is no plain number")
    return Thing("pyx", given, permit=permit)


def _collection(m: Machine, permit: Permit, given: list[Value]) -> Thing:
    """set, frozenset, list, tuple: of one list or tuple."""
    if len(given) > 1 or (given and not is_a(given[0], "list", "tuple", "set")):
        raise Refused("unknown", permit.title, "of something that is not modelled")
    items = list(given[0].items) if given else []
    m.charge(64 * len(items))
    if permit.name in ("set", "frozenset"):
        for item in items:
            m.key(item)
    return Thing(permit.name, items)


def _map(m: Machine, permit: Permit, given: list[Value]) -> Thing:
    """OrderedDict, dict, Counter: of nothing, of a dictionary, or of a list of pairs."""
    made = Thing("dict" if permit.name == "dict" else "mapping", permit=permit)
    kinds = ("dict",) if permit.name == "Counter" else ("list", "dict")  # it would count the pairs themselves
    if len(given) > 1 or (given and not is_a(given[0], *kinds)):
        raise Refused("unknown", permit.title, "of something that is not modelled")
    if given:
        items = given[0].items
        if given[0].kind == "list":
            if not all(is_a(pair, "tuple", "list") and len(pair.items) == 2 for pair in items):
                raise Refused("unknown", permit.title, "of something that is not modelled")
            items = [part for pair in items for part in pair.items]
        m.charge(64 * len(items))
        for key in items[::2]:
            m.key(key)
        made.items = list(items)
    return made


def _defaultdict(m: Machine, permit: Permit, given: list[Value]) -> Thing:
    factory = permit_of(given[0], "reference", "call") if given else None
    known = factory is not None and (
        (factory.module in ("builtins", "__builtin__") and factory.name in _FACTORIES)
        or factory.title == "collections.OrderedDict"
    )
    if len(given) > 1 or not (known or not given or given[0] is None):
        raise Refused("unknown", permit.title, "calls its factory for every missing key")
    return Thing("mapping", permit=permit)


def _reconstructor(m: Machine, permit: Permit, given: list[Value]) -> Value:
    """``copyreg._reconstructor(cls, base, state)``, as protocols 0 and 1 make objects."""
    base = permit_of(given[1]) if len(given) == 3 else None
    if base is None or base.module not in ("builtins", "__builtin__"):
        raise no(permit, "of a base that no honest file has")
    made = new(m, given[0], Thing("tuple"))
    if base.name == "object" and given[2] is None:
        return made
    if base.name == "dict" and is_a(given[2], "dict") and made.kind in ("mapping", "trusted"):
        m.charge(64 * len(given[2].items))
        made.items = list(given[2].items)
        return made
    raise Refused("unknown", made.permit.title, f"built from {base.name}, which is not modelled")


def _partial_call(m: Machine, permit: Permit, given: list[Value]) -> Thing:
    if not given or permit_of(given[0], "reference") is None:
        raise no(permit, "of something that is not an admitted function")
    return Thing("partial", given, permit=permit)


def _pyx(m: Machine, permit: Permit, given: list[Value]) -> Thing:
    cls = permit_of(given[0], "call", "generator") if len(given) == 3 else None
    if cls is None or permit.name != f"__pyx_unpickle_{cls.name}" or cls.module != permit.module:
        raise no(permit, "of another class than its own")
    if not whole(given[1]) or not plain(given[2], "array"):
        raise no(permit, "with a state that is more than numbers and arrays")
    return Thing("pyx", given[2:], permit=permit)


def _tree_call(m: Machine, permit: Permit, given: list[Value]) -> Thing:
    fine = len(given) == 3 and whole(given[0]) and whole(given[2]) and is_a(given[1], "array")
    if not fine or given[1].data != (given[2],) or not 0 <= given[0] < 2**31:
        raise no(permit, "another number of outputs than it lists")
    return Thing("tree", given, permit=permit)


def _native_call(m: Machine, permit: Permit, given: list[Value]) -> Thing:
    if len(given) != 1 or permit_of(given[0], "native") is None:
        raise no(permit, "of another class than its module's own")
    return Thing("native", permit=permit)


def _index(m: Machine, permit: Permit, given: list[Value]) -> Thing:
    if len(given) != 2 or permit_of(given[0], "index") is None or not plain(given[1]):
        raise Refused("unknown", permit.title, "an index that holds data, which is not modelled")
    if set(attributes(given[1])) - {"name", "start", "stop", "step"}:
        raise Refused("unknown", permit.title, "an index that holds data, which is not modelled")
    return Thing("index", given[1:])


_CHECKS: dict[str, Callable[[Machine, Permit, list[Value]], Value]] = {
    **arrays.CHECKS,
    "bytearray": _bytes_of,
    "bytes": _bytes_of,
    "copy": _collection,
    "defaultdict": _defaultdict,
    "encode": _encode,
    "frozenset": _collection,
    "index": _index,
    "mapping": _map,
    "native": _native_call,
    "numbers": _numbers,
    "partial": _partial_call,
    "pyx": _pyx,
    "reconstructor": _reconstructor,
    "set": _collection,
    "slice": _slice,
    "tree": _tree_call,
}
