# SPDX-License-Identifier: Apache-2.0
"""Model files become models: recognised by content, scanned, and only then read, all from the same bytes.

``written`` is the other direction, in forms that are read here again.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import os
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from casemate.adapters import _booster_trial, _onnx_trial, _transformers_folder, keras
from casemate.core import pickles
from casemate.core.errors import InvalidData
from casemate.core.extras import needs
from casemate.core.pickles.archives import KERAS, data_format

READ = (
    "pickle and joblib files, torch state dicts and safetensors (with factory=), XGBoost .json and .ubj, "
    "LightGBM text, ONNX, .keras"
)
_SUFFIXES = (
    ".pkl",
    ".pickle",
    ".joblib",
    ".pt",
    ".pth",
    ".bin",
    ".safetensors",
    ".json",
    ".ubj",
    ".txt",
    ".onnx",
    ".keras",
)
_ARCHIVES = {"zip", "tar", "npy"}  # what they hold is scanned, but is no model
_TORCH = {"torch", "torch (before 1.6)"}


class Loaded(NamedTuple):
    """A model, where it came from (path, sha256, format, trusted names), and what a reader must know."""

    model: Any
    source: Mapping[str, str]
    notes: tuple[str, ...]


def names_function(model: str) -> bool:
    """Tell whether MODEL is ``package.module:function`` and no file.

    >>> names_function("sklearn.dummy:DummyClassifier"), names_function("model.joblib")
    (True, False)
    """
    path, colon, name = model.partition(":")
    looks = bool(colon) and name.isidentifier() and all(part.isidentifier() for part in path.split("."))
    return looks and not os.path.lexists(model)


def imported(what: str, name: str) -> Any:
    """Import ``package.module:function`` and return it as it stands.

    Raises:
        InvalidData: a module or name that is not there, or whose import fails.
    """
    path, _, item = name.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does: the user's own module lies beside them
    try:
        module = importlib.import_module(path)
    except ImportError as error:
        raise InvalidData(f"{what} {name!r}: cannot import {path!r} ({error})") from error
    except Exception as error:
        raise InvalidData(
            f"{what} {name!r}: importing {path!r} raised {type(error).__name__}: {error}"
        ) from error
    if not hasattr(module, item):
        raise InvalidData(f"{what} {name!r}: module {path!r} has no {item!r}")
    return getattr(module, item)


def called(what: str, name: str) -> Any:
    """Import ``package.module:function``, call it without arguments, and return what it makes.

    Raises:
        InvalidData: it cannot be imported or called, or raises.

    >>> called("MODEL", "sklearn.dummy:DummyClassifier")
    DummyClassifier()
    """
    if not names_function(name):
        raise InvalidData(f"{what} must be package.module:function; got {name!r}")
    made = imported(what, name)
    try:
        return made()
    except Exception as error:
        raise InvalidData(
            f"{what} {name!r}: {name.partition(':')[2]}() raised {type(error).__name__}: {error}"
        ) from error


def load_file(path: str | Path, *, trust: Collection[str] = (), factory: str | None = None) -> Loaded:
    """Read one model file.

    Args:
        path: a regular file of at most 2 GiB.
        trust: exact names of classes to admit beside the allow-list.
        factory: ``package.module:function`` that builds the module whose weights the file holds.

    Raises:
        HostileArtefact, UnknownArtefact: what its scan found.
        InvalidData: no such file, a form that is not read here, or one that does not fit the factory.
        MissingExtra: the package that reads it is not installed.
    """
    if not os.path.lexists(path):
        hint = (
            ""
            if str(path).endswith(_SUFFIXES) or os.sep in str(path)
            else "; or give package.module:function"
        )
        raise InvalidData(f"MODEL {str(path)!r} does not exist; give a model file{hint}")
    if _transformers_folder.is_folder(path):
        if factory is not None:
            raise InvalidData(
                f"{path} is a Hugging Face folder, which says itself what to build; leave factory= out"
            )
        return Loaded(*_transformers_folder.loaded(path, trust))
    return parsed(pickles.read_file(path), path, trust=trust, factory=factory)


def holds_model(folder: str | Path) -> bool:
    """Tell whether a folder is one that :func:`load_file` reads."""
    return _transformers_folder.is_folder(folder)


def parsed(
    raw: bytes, path: str | Path, *, trust: Collection[str] = (), factory: str | None = None
) -> Loaded:
    """Read the bytes of a model file, as :func:`load_file` does."""
    looked = pickles.survey(raw, trust=trust, name=Path(path).name)
    scan = looked.scan
    pickles.refuse(scan)
    notes: tuple[str, ...] = ()
    if _TORCH & set(scan.formats):
        form, model = "torch state dict", _with_weights(_torch_weights(raw, scan.name), factory, scan.name)
    elif {"pickle", "joblib"} & set(scan.formats) and not _ARCHIVES & set(scan.formats):
        form = "joblib" if "joblib" in scan.formats else "pickle"
        model, notes = looked.load()
        if factory is not None and isinstance(model, Mapping):
            model = _with_weights(model, factory, scan.name)
    elif KERAS in scan.formats:
        form, model = KERAS, keras.loaded(raw, scan.name)
    else:
        form = data_format(raw)
        model = _data(form, raw, factory, scan.name)
    source = {"path": str(path), "sha256": hashlib.sha256(raw).hexdigest(), "format": form}
    if scan.trusted:
        source["trust"] = ",".join(scan.trusted)
    return Loaded(model, source, notes)


def written(model: Any, *, trust: Collection[str] = ()) -> tuple[str, bytes]:
    """Return the ending and the bytes of a file that :func:`parsed` reads again.

    Args:
        model: a torch module (its weights alone are written), a Booster, or an estimator; what else is pickled by name.
        trust: exact names of classes that may stand in the file beside the allow-list.

    Raises:
        InvalidData: a model that cannot be written, or that would not be read again.

    >>> from sklearn.naive_bayes import GaussianNB
    >>> ending, raw = written(GaussianNB())
    >>> ending, parsed(raw, "model.joblib").model
    ('joblib', GaussianNB())
    """
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    if type(model).__name__ == "Booster" and kind.startswith(("xgboost.", "lightgbm.")):
        if kind.startswith("xgboost."):
            return "ubj", bytes(model.save_raw("ubj"))
        return "txt", model.model_to_string().encode("utf-8")
    if hasattr(model, "state_dict") and hasattr(model, "load_state_dict"):
        return "safetensors", _weights(model)
    from joblib import dump

    sink = io.BytesIO()
    try:
        dump(model, sink)
    except Exception as error:
        raise InvalidData(
            f"this {type(model).__name__} cannot be written to a file: {str(error).splitlines()[0][:200]}; define its "
            "functions and classes in a module"
        ) from error
    found = pickles.scan(sink.getvalue(), trust=trust, name=f"the file of this {type(model).__name__}")
    pickles.refuse(found)
    return "joblib", sink.getvalue()


def _weights(module: Any) -> bytes:
    own = {}
    for name, value in module.state_dict().items():
        if not isinstance(value, needs("torch").Tensor):
            raise InvalidData(f"the module's state {name!r} is no tensor; it cannot be written as weights")
        own[name] = value.detach().to("cpu").contiguous().clone()  # no memory that two tensors share
    raw: bytes = needs("safetensors.torch").save(own)
    return raw


def _data(form: str, raw: bytes, factory: str | None, name: str) -> Any:
    """Read a form that holds no objects, by the library that wrote it."""
    if form == "safetensors":
        return _with_weights(weights_in(raw, name), factory, name)
    if form == "XGBoost UBJ" or (form == "JSON" and _is_booster(raw)):
        booster = needs("xgboost").Booster()
        _booster_trial.tried(raw, "xgboost", name)
        try:
            booster.load_model(bytearray(raw))
        except Exception as error:
            raise InvalidData(
                f"{name} is no sound XGBoost model ({str(error).splitlines()[0][:200]})"
            ) from error
        return booster
    if form == "LightGBM text":
        lightgbm = needs("lightgbm")
        _booster_trial.tried(raw, "lightgbm", name)
        try:
            return lightgbm.Booster(model_str=raw.decode("utf-8"))
        except Exception as error:
            raise InvalidData(
                f"{name} is no sound LightGBM model ({str(error).splitlines()[0][:200]})"
            ) from error
    if form == "ONNX":
        return _onnx_trial.tried(raw, name)  # adapters/onnx.py takes the bytes that were scanned
    raise InvalidData(
        f"{name} is {form or 'of a form'} that is not read as a model; read are {READ}; or give package.module:function"
    )


def weights_in(raw: bytes, name: str) -> Mapping[str, Any]:
    """Return the tensors of a safetensors file by name."""
    needs("torch")
    try:
        found: Mapping[str, Any] = needs("safetensors.torch").load(raw)
    except Exception as error:
        raise InvalidData(f"{name} is no sound safetensors file ({error})") from error
    return found


def _is_booster(raw: bytes) -> bool:
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and isinstance(found.get("learner"), dict)


def _torch_weights(raw: bytes, name: str) -> Any:
    try:
        # its own allow-list on top of ours; the very bytes that were scanned
        return needs("torch").load(io.BytesIO(raw), weights_only=True, map_location="cpu")
    except ImportError:
        raise
    except Exception as error:
        raise InvalidData(
            f"{name} is a torch file without code, but not one of weights ({str(error).splitlines()[0][:200]}); "
            "save model.state_dict()"
        ) from error


def _with_weights(weights: Any, factory: str | None, name: str) -> Any:
    """Build the module and give it the weights; every name and shape must fit."""
    torch = needs("torch")
    if factory is None:
        raise InvalidData(
            f"{name} holds weights without their module; pass factory= (--factory package.module:function), "
            "which builds it"
        )
    if isinstance(weights, Mapping) and isinstance(weights.get("state_dict"), Mapping):
        weights = weights["state_dict"]
    if not isinstance(weights, Mapping) or not all(
        isinstance(item, torch.Tensor) for item in weights.values()
    ):
        raise InvalidData(f"{name} is no state dict: a mapping from names to tensors")
    module = called("factory", factory)
    if not isinstance(module, torch.nn.Module):
        raise InvalidData(
            f"factory {factory!r} returned {type(module).__name__}; it must build a torch module"
        )
    return filled(module, weights, name, f"the module of {factory!r}")


def filled(module: Any, weights: Mapping[str, Any], name: str, what: str) -> Any:
    """Give a module its weights, every name and shape of which must fit, and return it in eval mode."""
    try:
        module.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:300]
        raise InvalidData(f"{name} does not fit {what}: {first}") from error
    return module.eval()
