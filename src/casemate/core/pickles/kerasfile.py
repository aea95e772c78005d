# SPDX-License-Identifier: Apache-2.0
"""What a ``.keras`` archive names, read from its JSON and its HDF5 links without building anything.

The file is a zip of ``config.json`` (which classes to build, with which settings), ``metadata.json`` and
``model.weights.h5``. Keras imports what the config names: its own safe mode has let through functions of any module
(CVE-2025-1550, CVE-2025-8747), settings that switch it off (CVE-2025-9906) and vocabularies read from any path or
address (CVE-2025-12058). So a class counts here only if it is one of Keras's own in one of the modules below, and a
setting only if it is no path; HDF5 can link to other files, which is refused as well.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from casemate.core.errors import MissingExtra
from casemate.core.extras import needs
from casemate.core.pickles.machine import Surroundings
from casemate.core.pickles.permits import refused

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_OTHER_WEIGHTS = "model.weights.npz"  # Keras reads it as well, after it has built the model
_MEMBERS = frozenset({CONFIG, METADATA, WEIGHTS})
_MODULES = frozenset(
    {"keras", "keras.dtype_policies", "keras.optimizers.schedules", "keras.models"}
    | {
        f"keras.{part}"
        for part in "layers initializers losses metrics optimizers regularizers constraints".split()
    }
)
_INNER = re.compile(  # where Keras itself says that its operators and a backend's optimisers live
    r"keras\.src\.(ops\.(core|nn|numpy|math|image|linalg|einops)|backend\.\w+\.optimizers\.\w+|optimizers\.\w+"
    r"|models\.(functional|sequential)|dtype_policies\.dtype_policy)"
)
_NAMED = frozenset({"keras.activations", "keras.losses", "keras.metrics", "keras.ops"})  # functions by name
# functions that Keras files under builtins; none is a name of Python's
_OWN = frozenset(
    "relu relu6 leaky_relu softmax log_softmax sigmoid hard_sigmoid log_sigmoid tanh linear elu selu celu gelu glu "
    "silu softplus softsign mish exponential "
    "mean_squared_error mean_absolute_error mean_absolute_percentage_error mean_squared_logarithmic_error "
    "binary_crossentropy categorical_crossentropy sparse_categorical_crossentropy binary_focal_crossentropy "
    "categorical_focal_crossentropy kl_divergence poisson cosine_similarity huber log_cosh hinge squared_hinge "
    "categorical_hinge binary_accuracy categorical_accuracy sparse_categorical_accuracy top_k_categorical_accuracy "
    "sparse_top_k_categorical_accuracy".split()
)
_CLASS = re.compile(r"[A-Z][A-Za-z0-9]*")
_PLAIN = frozenset({"__keras_tensor__", "__tensor__", "__numpy__", "__tuple__", "__ellipsis__", "__slice__"})
_CODE = {
    "__lambda__": "holds compiled Python code",
    "Lambda": "holds compiled Python code",
    "TorchModuleWrapper": "holds a pickle of its own",
    "TFSMLayer": "loads a program from a path",
    "JaxLayer": "calls a function of its own",
    "FlaxLayer": "calls a function of its own",
}
_READS = (
    "vocabulary",
    "idf_weights",
)  # settings that Keras takes for a path or an address where they are texts
_MAX_OBJECTS, _MAX_DEPTH = 200_000, 100
_RATIO, _ROOM = 300, 64 << 20


def is_one(names: Mapping[str, bytes]) -> bool:
    """Tell by the members of a zip file whether it is a Keras archive.

    >>> is_one({"config.json": b"{}", "model.weights.h5": b""})
    True
    """
    if CONFIG not in names:
        return False
    if WEIGHTS in names or _OTHER_WEIGHTS in names:
        return True
    return any(_builds(raw) for name, raw in names.items() if name == CONFIG or name.startswith(f"{CONFIG}#"))


def _builds(raw: bytes) -> bool:
    """Tell whether Keras would build something of this JSON: it does before it looks for weights."""
    try:
        waiting, seen = [json.loads(raw)], 0
    except RecursionError:
        return True
    except ValueError:
        return False
    while waiting:
        item = waiting.pop()
        seen += 1
        if seen > _MAX_OBJECTS or (isinstance(item, dict) and "class_name" in item):
            return True
        if isinstance(item, (dict, list)):
            waiting += item.values() if isinstance(item, dict) else item
    return False


def look(members: Mapping[str, bytes], around: Surroundings) -> None:
    """Look into the members of a Keras archive; what a reader must know becomes findings."""
    top = around.where
    for name in sorted(set(members) - _MEMBERS):
        around.add("unknown", f"member {name[:80]!r}", "is none of a Keras model's three files")
    around.where = f"{top}:{CONFIG}"
    _config(members[CONFIG], around)
    if METADATA in members:  # by a second name in its zip header a reader may take it for the configuration
        around.where = f"{top}:{METADATA}"
        _config(members[METADATA], around)
    around.where = f"{top}:{WEIGHTS}"
    if WEIGHTS in members:
        _weights(members[WEIGHTS], around)
    else:
        around.add("malformed", "weights", "are missing")


# ---------------------------------------------------------------------- what is to be built


def _config(raw: bytes, around: Surroundings) -> None:
    try:
        config = json.loads(raw, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        around.add("malformed", "configuration", f"is no sound JSON ({str(error)[:80]})")
        return
    if not isinstance(config, dict):
        around.add("malformed", "configuration", "is no JSON object")
        return
    for item in _objects(config, around):
        _judged(item, around)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def _objects(config: Any, around: Surroundings) -> Iterator[Mapping[str, Any]]:
    """Yield every object of the configuration, however deep."""
    waiting, seen = [config], 0
    while waiting:
        item = waiting.pop()
        seen += 1
        if seen > _MAX_OBJECTS:
            around.add("hostile", "resource bomb", f"its configuration holds over {_MAX_OBJECTS:,} objects")
            return
        if isinstance(item, dict):
            yield item
            waiting += [value for value in item.values() if isinstance(value, (dict, list))]
        else:
            waiting += [value for value in item if isinstance(value, (dict, list))]


def _judged(item: Mapping[str, Any], around: Surroundings) -> None:
    """Judge one object of the configuration: the class it names, and settings that are paths."""
    for key in _READS:
        if isinstance(item.get(key), str):
            around.add(
                "hostile", f"setting {key}", f"is read from {item[key][:80]!r} when the model is built"
            )
    if "class_name" not in item:
        return
    name, module = item["class_name"], item.get("module")
    shown = f"{module}.{name}"[:120]
    if not isinstance(name, str) or not isinstance(module, str | None):
        around.add("malformed", "configuration", "names a class by something that is no text")
    elif name in _CODE:
        around.add("hostile", shown, _CODE[name])
    elif name in _PLAIN and module is None:
        return
    elif name == "function":
        if module not in _NAMED and not (module == "builtins" and item.get("config") in _OWN):
            _foreign(module, str(item.get("config")), around)
    elif module in _MODULES or (isinstance(module, str) and _INNER.fullmatch(module)):
        if item.get("registered_name") not in (None, name) or not _CLASS.fullmatch(name):
            around.add("unknown", shown, "is no class that a Keras model is built of")
    else:
        _foreign(module, name, around)


def _foreign(module: str | None, name: str, around: Surroundings) -> None:
    """Note something that is none of Keras's own parts; Keras would import it."""
    shown = f"{module}.{name}"[:120]
    if module is None:
        around.add("unknown", shown, "is the user's own, which the file does not bring")
        return
    level, why = refused(module, name)
    if module.removeprefix("keras.src").removeprefix("keras").startswith(".quantizers"):
        level, why = "unknown", "is quantised, which is not read; save the model before model.quantize()"
    elif module.partition(".")[0] == "keras":
        level, why = "hostile", "is a part of Keras that no model is built of"
    around.add(level, shown, why)


# ---------------------------------------------------------------------- the weights


def _weights(raw: bytes, around: Surroundings) -> None:
    try:
        h5py = needs("h5py")
    except MissingExtra:
        around.add("unknown", "HDF5", 'is not looked into without h5py (pip install "casemate[keras]")')
        return
    try:
        with h5py.File(io.BytesIO(raw), "r") as file:
            _links(file, h5py, len(raw), around)
    except Exception as error:  # noqa: BLE001 - whatever the parser of a broken file raises
        around.add("malformed", "HDF5", f"cannot be read ({str(error)[:100]})")


def _links(file: Any, h5py: Any, n_bytes: int, around: Surroundings) -> None:
    """Visit every link once; what leads out of the file or unpacks to more than the file explains is refused."""
    waiting, seen, total = [("", file, 0)], 0, 0
    places = {h5py.h5o.get_info(file.id).addr}
    while waiting:
        path, group, depth = waiting.pop()
        for name in group:
            seen += 1
            where = f"{path}/{name}"
            if seen > _MAX_OBJECTS or depth > _MAX_DEPTH:
                around.add("hostile", "resource bomb", "HDF5 groups without end")
                return
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                around.add(
                    "hostile", f"HDF5 link {where[:80]!r}", f"leads to the file {link.filename[:80]!r}"
                )
                continue
            if isinstance(link, h5py.SoftLink):
                around.add(
                    "unknown", f"HDF5 link {where[:80]!r}", "is a soft link, which no model file needs"
                )
                continue
            item = group[name]
            if isinstance(item, h5py.Group):
                place = h5py.h5o.get_info(item.id).addr
                if place not in places:
                    places.add(place)
                    waiting.append((where, item, depth + 1))
            elif isinstance(item, h5py.Dataset):
                total += item.size * item.dtype.itemsize
                _dataset(item, where[:80], around)
    if total > _ROOM + _RATIO * n_bytes:
        around.add("hostile", "decompression bomb", f"its tensors unpack to {total >> 20} MiB")


def _dataset(item: Any, where: str, around: Surroundings) -> None:
    if item.external or item.is_virtual:
        around.add("hostile", f"HDF5 data {where!r}", "are read from another file")
    if item.dtype.kind not in "biufc" and item.dtype.names is None and item.dtype.kind not in "SVO":
        around.add("unknown", f"HDF5 data {where!r}", f"are of type {item.dtype}")
    if item.compression not in (None, "gzip", "lzf"):
        around.add("unknown", f"HDF5 data {where!r}", "need a filter that the file names")
