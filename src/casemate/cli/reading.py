# SPDX-License-Identifier: Apache-2.0
"""Reading what was typed: lists, methods with parameters, threats, paths that must be writable."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casemate.core.errors import InvalidData

if TYPE_CHECKING:
    from casemate.core.methods import Spec
    from casemate.core.types import Threat


def read_methods(texts: Sequence[str] | None, *, option: str = "--methods") -> list[Spec] | None:
    """Read ``lira:n_shadows=32,pgd:steps=40,restarts=2``.

    Commas separate. A piece that has ``=`` before any ``:`` is a further parameter of the method before it; any
    other piece begins a method. Values are whole numbers, numbers, true, false, none or text.

    >>> [(spec.name, dict(spec.params)) for spec in read_methods(["lira:n_shadows=32,a=1.5,pgd"])]
    [('lira', {'n_shadows': 32, 'a': 1.5}), ('pgd', {})]
    """
    from casemate.core.methods import Spec

    if texts is None:
        return None
    found: dict[str, dict[str, Any]] = {}
    current = ""
    for piece in (piece.strip() for text in texts for piece in text.split(",")):
        mark = re.search("[:=]", piece)
        if mark is None or mark.group() == ":":
            current, _, piece = piece.partition(":")
            if not current:
                raise InvalidData(f"{option} {','.join(texts)!r}: a method has no name")
            if current in found:
                raise InvalidData(f"{option} names {current!r} twice")
            found[current] = {}
            if mark is None:
                continue
        key, sign, value = piece.partition("=")
        if not current or not key.strip() or not sign or not value.strip():
            raise InvalidData(f"{option}: cannot read {piece!r}; write name:key=value,key=value")
        found[current][key.strip()] = _value(value.strip())
    return [Spec(name, params) for name, params in found.items()]


def read_threat(text: str | None) -> Threat | None:
    """Read ``norm=linf,radius=0.3,goal=1``.

    >>> read_threat("norm=l2,radius=0.5").norm
    'l2'
    """
    from casemate.core.types import Threat

    if text is None:
        return None
    forms: dict[str, type] = {"norm": str, "radius": float, "scale": str, "goal": int, "n_queries": int}
    values: dict[str, Any] = {}
    for piece in text.split(","):
        key, sign, value = (part.strip() for part in piece.partition("="))
        if not sign or key not in forms or key in values:
            raise InvalidData(f"--threat: cannot read {piece!r}; keys, once each, are: {', '.join(forms)}")
        try:
            values[key] = forms[key](value)
        except ValueError:
            kind = "a whole number" if forms[key] is int else "a number"
            raise InvalidData(f"--threat: {key} must be {kind}; got {value!r}") from None
    return Threat(**values)


def _value(text: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for form in (int, float):
        with contextlib.suppress(ValueError):
            return form(text)
    return text


def listed(texts: Sequence[str] | None) -> list[str]:
    """Split comma-separated names."""
    return [name.strip() for text in texts or () for name in text.split(",") if name.strip()]


def options_of(lang: str, format_: str) -> str:
    """Check --format and return the language as the catalogue names it."""
    if format_ not in ("text", "json"):
        raise InvalidData(f"--format {format_!r} is unknown; use text or json")
    known = {"en": "en", "zh": "zh-CN", "zh-cn": "zh-CN"}
    if lang.lower() not in known:
        raise InvalidData(f"--lang {lang!r} is unknown; use en or zh-CN (also read from CASEMATE_LANG)")
    return known[lang.lower()]


def n_jobs_of(jobs: int | None) -> int:
    """Return the number of worker processes."""
    from joblib import cpu_count

    if jobs is not None and jobs < 1:
        raise InvalidData(f"--jobs must be 1 or more; got {jobs}")
    return int(jobs or cpu_count())


def writable(option: str, path: Path | None, suffix: str) -> None:
    """Refuse at once a path that could not be written after minutes of work."""
    import tempfile

    if path is None:
        return
    folder = path.parent
    if path.suffix.lower() != suffix:
        raise InvalidData(f"{option} {path} must end in {suffix}")
    if not folder.is_dir():
        raise InvalidData(f"{option} {path}: there is no folder {folder}; make it first")
    if path.exists() and not path.is_file():
        raise InvalidData(f"{option} {path}: it is there and not a plain file")
    try:
        with tempfile.TemporaryFile(dir=folder):  # asking for permissions is not enough: trying tells
            pass
    except OSError as error:
        raise InvalidData(
            f"{option} {path}: {folder} cannot be written ({error.strerror or error})"
        ) from error
