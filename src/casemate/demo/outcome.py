# SPDX-License-Identifier: Apache-2.0
"""What a demo leaves behind: reports, the page that compares them, what the terminal says; and the folder for it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from casemate.core.errors import InvalidData

if TYPE_CHECKING:
    from casemate.report.compare import Comparison
    from casemate.report.model import Report

Name = Literal["before", "after", "after-dp", "boosting", "network", "torch-before", "torch-after"]
PAGE = "report.html"
OURS = frozenset({PAGE, *(f"{name}.json" for name in Name.__args__)})  # type: ignore[attr-defined]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The reports of a demo by name, the comparison of the main model's, and what is said in each language."""

    reports: Mapping[Name, Report]
    comparison: Comparison
    said: Mapping[str, tuple[str, ...]]

    def save(self, folder: Path, command: tuple[str, ...], *, lang: str = "en") -> list[str]:
        """Write every report and the page into ``folder``, each whole or not at all; return the names, page last.

        The page opens in ``lang``.

        What an earlier demo left there and this one did not make is removed: it would be taken for this one's.
        """
        names = [f"{name}.json" for name in self.reports]
        for name in OURS - {*names, PAGE}:
            (folder / name).unlink(missing_ok=True)
        for name, report in self.reports.items():
            replace(report, command=command).save(folder / f"{name}.json")
        ran = tuple(replace(report, command=command) for report in self.comparison.reports)
        replace(self.comparison, reports=ran).save(folder / PAGE, lang=lang)
        return [*names, PAGE]


def folder_for(name: str, out: Path | None) -> Path:
    """Return the folder of the results, made if need be; one that holds anything but a demo's results is refused.

    Raises:
        InvalidData: other files are there, or the folder cannot be made or written: now, not after minutes of work.
    """
    folder = out or Path(f"casemate-demo-{name}")
    try:
        folder.mkdir(exist_ok=True)
        others = sorted(path.name for path in folder.iterdir() if not _ours(path))
        with tempfile.TemporaryFile(dir=folder):  # asking for permissions is not enough: trying tells
            pass
    except OSError as error:
        raise InvalidData(f"--out {folder}: cannot make or write this folder ({error.strerror})") from error
    if others:
        raise InvalidData(f"--out {folder} holds other files ({others[0]}); name an empty or a new folder")
    return folder


def _ours(path: Path) -> bool:
    """Tell whether a demo wrote this: reports of audits bear the same names."""
    if path.name == PAGE:
        return path.with_name("before.json").is_file()
    if path.name not in OURS:
        return False
    try:
        return bool(json.loads(path.read_text("utf-8"))["command"][:2] == ["casemate", "demo"])
    except (OSError, ValueError, LookupError, TypeError):
        return False
