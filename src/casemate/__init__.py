# SPDX-License-Identifier: Apache-2.0
"""Casemate: attack, protect, explain and measure machine-learning models.

>>> import casemate as cm
>>> cm.__version__
'0.1.0'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> the module that defines it. `import casemate` loads none of them (PEP 562).
_HOME = {
    "Capability": "core.types",
    "CasemateError": "core.errors",
    "Change": "core.types",
    "Column": "core.schema",
    "Comparison": "report.compare",
    "Dataset": "core.data",
    "Endpoint": "adapters.endpoint",
    "Measurement": "core.types",
    "Recipe": "core.types",
    "Relation": "core.schema",
    "Report": "report.model",
    "Schema": "core.schema",
    "Target": "core.types",
    "Threat": "core.types",
    "audit": "api",
    "compare": "api",
    "explain": "api",
    "harden": "api",
    "load": "api",
    "method": "api",
    "methods": "api",
    "save": "hardened",
    "tune": "api",
    "wrap": "api",
}
__all__ = [
    "Capability",
    "CasemateError",
    "Change",
    "Column",
    "Comparison",
    "Dataset",
    "Endpoint",
    "Measurement",
    "Recipe",
    "Relation",
    "Report",
    "Schema",
    "Target",
    "Threat",
    "audit",
    "compare",
    "explain",
    "harden",
    "load",
    "method",
    "methods",
    "save",
    "tune",
    "wrap",
]

if TYPE_CHECKING:
    from casemate.adapters.endpoint import Endpoint
    from casemate.api import audit, compare, explain, harden, load, method, methods, tune, wrap
    from casemate.core.data import Dataset
    from casemate.core.errors import CasemateError
    from casemate.core.schema import Column, Relation, Schema
    from casemate.core.types import Capability, Change, Measurement, Recipe, Target, Threat
    from casemate.hardened import save
    from casemate.report.compare import Comparison
    from casemate.report.model import Report


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOME:
        raise AttributeError(f"module 'casemate' has no attribute {name!r}")
    value = getattr(import_module(f"casemate.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
