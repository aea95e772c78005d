# SPDX-License-Identifier: Apache-2.0
"""The report: one audit of one target, as evidence that can be saved, read again, compared and shown."""

from __future__ import annotations

import difflib
import json
import math
import os
import platform
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from casemate.core.errors import CasemateError, InvalidData
from casemate.core.types import Curve, Measurement, PerRecord, Threat
from casemate.report import shape

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "casemate-report/1"
PACKAGES = ("casemate", "numpy", "scipy", "scikit-learn", "pandas", "torch")
_MODULES = {"scikit-learn": "sklearn"}
_THREAT = frozenset(f.name for f in fields(Threat))


@dataclass(frozen=True, kw_only=True, repr=False)
class Report:
    """One audit: what was measured on which target and data, how, and by whom it can be repeated.

    ``report["lira"]`` is the list of a method's measurements, ``report["lira", "auc"]`` one of them. What could
    not be run stands in ``methods`` with a reason. ``pairing`` holds the secret that links opaque ids to rows:
    a saved report is a private file (mode 0600), as it tells how each record scored.

    Args:
        created: UTC, ISO 8601.
        version: of Casemate.
        target: kind, task, input, classes, capabilities, source, digest, caveats.
        data: input, n_train, n_holdout, n_columns, people (train, holdout) or None, keyed digest.
        seed, level, effort, threat: the options, as resolved.
        methods: for each name, version, params as used, status ("ok", "not_run", "failed"), reason, seconds.
        measurements: the numbers, each with its interval.
        pairing: ``{"key": hex}``, or None in an edition made to be handed out.
        environment: see :func:`environment`.
        command: the command line, or None when made from Python.
        edition: "internal", or "public": the aggregates alone, made by :meth:`public`.

    >>> m = Measurement(
    ...     property="privacy",
    ...     quantity="auc",
    ...     value=0.6,
    ...     low=0.55,
    ...     high=0.65,
    ...     n=400,
    ...     worse="higher",
    ...     method="lira",
    ...     version="1",
    ...     seed=0,
    ... )
    >>> target = {
    ...     "kind": "sklearn",
    ...     "task": "binary",
    ...     "input": "table",
    ...     "capabilities": ["scores"],
    ...     "digest": "ab",
    ... }
    >>> report = Report(
    ...     created="2026-11-05T10:00:00+00:00",
    ...     version="0.1.0",
    ...     target=target,
    ...     data={"n_train": 200, "n_holdout": 200, "digest": "cd"},
    ...     measurements=(m,),
    ...     methods=({"name": "lira", "status": "ok"},),
    ... )
    >>> report["lira", "auc"].value
    0.6
    >>> Report.from_dict(report.to_dict()) == report
    True
    >>> report.public().target["digest"]  # the edition to hand out
    'withheld'
    """

    created: str
    version: str
    target: Mapping[str, Any]
    data: Mapping[str, Any]
    seed: int = 0
    level: float = 0.95
    effort: str = "standard"
    threat: Mapping[str, Any] | None = None
    methods: tuple[Mapping[str, Any], ...] = ()
    measurements: tuple[Measurement, ...] = ()
    pairing: Mapping[str, Any] | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] | None = None
    edition: Literal["internal", "public"] = "internal"
    schema: str = SCHEMA

    def __post_init__(self) -> None:
        # Plain JSON values from the start: what is saved and read again equals what was made.
        for name in ("target", "data", "threat", "pairing", "environment"):
            object.__setattr__(self, name, _plain(getattr(self, name)))
        object.__setattr__(self, "methods", tuple(_plain(item) for item in self.methods))
        object.__setattr__(self, "measurements", tuple(self.measurements))
        if self.command is not None:
            object.__setattr__(self, "command", tuple(str(word) for word in self.command))
        records = any(isinstance(piece, PerRecord) for m in self.measurements for piece in m.details)
        if self.edition == "public" and (self.pairing or self.command or records):
            raise InvalidData(
                "a public edition holds no pairing key, command line or single records; make it with report.public()"
            )

    def __getitem__(self, key: str | tuple[str, str]) -> Any:
        """Return the measurements of a method, or the one measurement of (method, quantity)."""
        method, quantity = key if isinstance(key, tuple) and len(key) == 2 else (key, None)
        found = [m for m in self.measurements if m.method == method]
        if not found:
            raise InvalidData(f"this report has no {_asked(method, (m.method for m in self.measurements))}")
        if quantity is None:
            return found
        exact = [m for m in found if m.quantity == quantity]
        if not exact:
            raise InvalidData(f"{method} has no {_asked(quantity, (m.quantity for m in found))}")
        if len(exact) > 1:
            raise InvalidData(
                f"{method} has {len(exact)} measurements of {quantity!r}: see report[{method!r}]"
            )
        return exact[0]

    def __contains__(self, method: object) -> bool:
        return any(m.method == method for m in self.measurements)

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        from casemate.report.plain import text

        return text(self)

    def _repr_html_(self) -> str:
        from casemate.report import notebook, render

        return notebook.shown(lambda lang: render.page(self, lang))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; numbers that are not finite become null, with a reason."""
        out: dict[str, Any] = {"schema": self.schema}
        out.update({f.name: _plain(getattr(self, f.name)) for f in fields(self) if f.name != "measurements"})
        out["measurements"] = [_row(m) for m in self.measurements]
        return out

    def to_json(self) -> str:
        """Return the report as JSON in ASCII, a line for each field and each measurement."""
        return lines_of_json(self.to_dict())

    def to_frame(self) -> pd.DataFrame:
        """Return the measurements as a pandas frame, a row each, without their details."""
        import pandas as pd

        rows = [_row(m) for m in self.measurements]
        return pd.DataFrame(
            [{k: v for k, v in row.items() if k not in ("details", "threat")} for row in rows]
        )

    def public(self) -> Report:
        """Return the edition that may be handed out: aggregates, rounded, without names; see ``report/public.py``.

        It cannot be used with ``like=`` or be compared with another report. No epsilon covers it.
        """
        from casemate.report.public import of_report

        return of_report(self)

    def save(self, path: str | Path, *, lang: str | None = None) -> Path:
        """Write report .json, .html or .md, whole or not at all; internal JSON is readable by its owner only.

        Markdown is in the language ``lang``, and the page, which holds every language, opens in it; default:
        ``CASEMATE_LANG``.

        Raises:
            InvalidData: another suffix, or a file that cannot be written.
        """
        from casemate.report import markdown, notebook, render

        suffix = suffix_of(path)
        if suffix == ".html":
            return write_atomic(path, render.page(self, lang or notebook.language()))
        if suffix == ".md":
            return write_atomic(path, markdown.of_report(self, lang or notebook.language()))
        return write_atomic(path, self.to_json(), private=self.edition == "internal")

    @classmethod
    def from_dict(cls, raw: Any) -> Self:
        """Rebuild from :meth:`to_dict`; unknown fields are ignored, since fields may be added under /1.

        Raises:
            InvalidData: not a report, one of another version, or a field of the wrong type, named.
        """
        _check_name(raw)
        names = {f.name for f in fields(cls)} - {"measurements"}
        try:
            if fault := shape.problem(raw):
                raise InvalidData(f"not a usable report: {fault}")
            values = {name: value for name, value in raw.items() if name in names}
            rows = tuple(_measurement(i, m) for i, m in enumerate(raw["measurements"]))
            return cls(**values, measurements=rows)
        except RecursionError:
            raise InvalidData("not a usable report: its values are nested too deeply") from None

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a report.json.

        Raises:
            InvalidData: no such file, not JSON, cut short, or not a report; one line that names the file.
        """
        try:
            if Path(path).is_char_device():  # it may have no end
                raise InvalidData(f"cannot read {path}: it is a device and not a file")
            text = Path(path).read_text("utf-8")
            raw = json.loads(text, parse_constant=_no_constant, parse_float=_finite, parse_int=_whole)
        except OSError as error:
            raise InvalidData(f"cannot read {path}: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise InvalidData(f"{path} is not a report.json, or was cut short: {error}") from error
        try:
            return cls.from_dict(raw)
        except InvalidData as error:
            raise InvalidData(f"{path}: {error}") from error


def environment() -> dict[str, Any]:
    """Return Python, platform, processor and package versions, without host or user name.

    torch is named only where it is loaded already.

    >>> sorted(environment())
    ['machine', 'packages', 'platform', 'python']
    """
    packages = {}
    for name in PACKAGES:
        if name == "torch" and "torch" not in sys.modules:
            continue
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # run from a source tree
            packages[name] = str(getattr(sys.modules.get(_MODULES.get(name, name)), "__version__", "unknown"))
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": f"{platform.system()} {platform.release()}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "packages": packages,
    }


def write_atomic(path: str | Path, content: str | bytes, *, private: bool = False) -> Path:
    """Write a file whole or leave what was there: temporary file in the same folder, fsync, rename.

    A full disk or Ctrl-C leaves the old file and no temporary one (only a killed process may leave one behind).
    A symbolic link is followed. ``private`` makes a file that only its owner may read.

    Raises:
        InvalidData: the folder is missing, the disk full, or the path is no plain file.
    """
    asked = Path(path)
    if asked.exists() and not asked.is_file():
        raise InvalidData(f"cannot write {asked}: it is there and not a plain file")
    goal = asked.resolve()
    scratch = goal.with_name(f".{goal.name[:200]}.{secrets.token_hex(6)}.tmp")
    data = content.encode("utf-8") if isinstance(content, str) else content
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(scratch, flags, 0o600 if private else 0o666)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(goal)
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InvalidData(f"cannot write {asked}: {error.strerror or error}") from error
    _settle(goal.parent)
    return asked


def lines_of_json(raw: Mapping[str, Any]) -> str:
    """Return strict JSON with a line for each field, and for each item of a list of objects."""
    parts = []
    for name, value in raw.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            text = "[\n" + ",\n".join(json.dumps(item, allow_nan=False) for item in value) + "\n]"
        else:
            text = json.dumps(value, allow_nan=False)
        parts.append(f"{json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def suffix_of(path: str | Path) -> str:
    """Return ".json", ".html" or ".md", or refuse the path."""
    suffix = Path(path).suffix.lower()
    if suffix not in (".json", ".html", ".md"):
        raise InvalidData(f"cannot tell the format of {str(path)!r}: end it in .json, .html or .md")
    return suffix


def _settle(folder: Path) -> None:
    """Make the rename itself durable; not every file system or system can."""
    if os.name != "posix":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        return
    finally:
        os.close(handle)


def _plain(value: Any) -> Any:
    """Turn what a caller may put in a report into JSON values."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(item) for item in value), key=str)
    if isinstance(value, Path):
        return str(value)
    # Not repr(): it may hold a memory address, or the user's data.
    return f"<{getattr(value, '__qualname__', type(value).__qualname__)}>"


def _row(m: Measurement) -> dict[str, Any]:
    raw: dict[str, Any] = _plain(m.to_dict())
    lost = [name for name in ("value", "low", "high") if raw[name] is None]
    if m.status == "measured" and lost:
        raw["status"], raw["reason"] = "inconclusive", f"{' and '.join(lost)} not finite"
    return raw


def _measurement(index: int, raw: Mapping[str, Any]) -> Measurement:
    values = dict(raw)
    if values.get("threat"):
        values["threat"] = {name: item for name, item in values["threat"].items() if name in _THREAT}
    try:
        made = Measurement.from_dict(values)
        for detail in made.details:
            _check_lengths(detail)
    except (CasemateError, TypeError, OverflowError) as error:
        raise InvalidData(f"not a usable report: measurements[{index}]: {error}") from error
    return made


def _check_lengths(detail: Any) -> None:
    if isinstance(detail, PerRecord):
        parts = [("values", detail.values), ("clusters", detail.clusters or detail.ids)]
        n = len(detail.ids)
    elif isinstance(detail, Curve):
        parts = [("y", detail.y), ("low", detail.low or detail.x), ("high", detail.high or detail.x)]
        n = len(detail.x)
    else:
        return
    for name, values in parts:
        if len(values) != n:
            raise InvalidData(f"{detail.name!r} holds {len(values)} {name} for {n} points")


def _check_name(raw: Any) -> None:
    name = raw.get("schema") if isinstance(raw, dict) else None
    if not isinstance(name, str) or name.partition("/")[0] != "casemate-report":
        raise InvalidData("not a Casemate report: it does not say schema 'casemate-report/1'")
    if name != SCHEMA:
        raise InvalidData(
            f"this report is {name[:40]!r}; this version of Casemate reads {SCHEMA!r}: upgrade Casemate"
        )


def _asked(name: Any, known: Any) -> str:
    have = list(dict.fromkeys(known))
    near = difflib.get_close_matches(str(name), have, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it has: {', '.join(have) or 'none'}"
    return f"{name!r}; {hint}"


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _whole(text: str) -> int:
    if len(text) > 300:  # beyond what a float holds, and slow to read
        raise ValueError(f"the number {text[:40]}... is too large")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:40]} is too large")
    return number
