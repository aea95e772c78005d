# SPDX-License-Identifier: Apache-2.0
"""What ``casemate doctor`` says: what is installed and works, and which audits a model opens."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING

from casemate import __version__
from casemate.core.extras import EXTRAS, installed
from casemate.report.catalogue import said, texts

if TYPE_CHECKING:
    from casemate.core.data import Dataset
    from casemate.core.types import Target

DEPENDENCIES = (
    "numpy scipy scikit-learn joblib pandas narwhals safetensors cryptography blake3 dp-accounting typer rich jinja2"
).split()
_SHIPPED_AS = {"PIL": "pillow"}  # a package whose module has another name


def health(lang: str = "en") -> tuple[str, bool]:
    """Return what is installed and works, in the language, and whether that is enough."""
    ok, lines = (
        True,
        [f"casemate {__version__}  Python {platform.python_version()}  {platform.platform(terse=True)}"],
    )
    found = []
    for name in DEPENDENCIES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            ok = False
            lines.append(f"missing: {name} (pip install casemate)")
    lines.append("installed: " + ", ".join(found))
    for module, extra in EXTRAS.items():
        have = f'{module} is missing (pip install "casemate[{extra}]")'
        if installed(module):
            have = f"{module} {metadata.version(_SHIPPED_AS.get(module, module))}"
        lines.append(f"extra {extra}: {have}")
    if os.name == "posix":
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
        lines.append(f"machine: {os.cpu_count()} cores, {memory:.0f} GiB")
    else:
        lines.append(f"machine: {os.cpu_count()} cores")
    try:
        with tempfile.TemporaryFile() as file:
            file.write(b"0")
        lines.append(f"temporary files: {tempfile.gettempdir()} can be written")
    except OSError as error:
        ok = False
        lines.append(f"temporary files: {error.strerror}; set TMPDIR to a folder that can be written")
    if not ok:
        return _said([*lines, "not ready: see missing above"], lang), False
    from casemate.core.methods import find, names  # needs numpy, which is there by now

    for name in names():
        try:
            find(name)
        except ImportError as error:
            ok = False
            lines.append(f"method {name}: {error}")
    lines.append(f"methods: {', '.join(names())}")
    return _said([*lines, "ready" if ok else "not ready: a method cannot be loaded"], lang), ok


def recognised(target: Target, data: Dataset | None, lang: str = "en") -> tuple[str, bool]:
    """Return what was recognised and which audits that opens, in the language, and whether there is any."""
    from casemate.core import harness
    from casemate.core.methods import every
    from casemate.report import words  # needs numpy

    if data is not None:
        target, data = target.trained(data, 0).bind(data)
    lines = [f"model: {target.kind}, task {target.task or 'not known without data'}, device {target.device}"]
    source = target.source or {}
    if "format" in source:
        lines.append(f"file: {source['format']}")
    if "endpoint" in source and data is not None:
        lines.append(f"endpoint: {source['endpoint']}, form {source['form']}; one row was sent")
    elif "endpoint" in source:
        lines.append(
            f"endpoint: {source['endpoint']}, form {source['form']}; nothing was sent: give --train, --holdout and "
            "--label to send one row"
        )
    if target.classes:
        shown = [*map(str, target.classes[:10]), *(["..."] if len(target.classes) > 10 else [])]
        lines.append(f"classes: {', '.join(shown)}")
    lines.append(f"offers: {', '.join(sorted(have.value for have in target.capabilities))}")
    lines += [f"caveat: {caveat}" for caveat in target.caveats]
    if data is not None:
        people = "no person column: each row counts as a person"
        if data.train.person is not None and data.holdout.person is not None:
            people = (
                f"{len(set(data.train.person.tolist()))} and {len(set(data.holdout.person.tolist()))} people"
            )
        kinds = [column.kind for column in data.schema.columns]
        counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
        rows = f"{len(data.train)} train and {len(data.holdout)} holdout rows"
        lines.append(f"data: {rows}, {people}; {counted or data.schema.input}")
    marks = [texts(lang)[f"doctor.{mark}"] for mark in ("open", "closed")]
    wide = max(map(words.width, marks))
    opened, methods = 0, []
    for method in every():
        if method.card.kind != "defence":
            closed = harness.unavailable(method.card, target)
            if data is None and target.task is None and method.card.needs <= target.capabilities:
                closed = ""  # the task shows with the data
            opened += not closed
            mark = marks[bool(closed)]
            mark += " " * (wide - words.width(mark))
            why = f"{texts(lang)['text.colon']}{said(closed)[lang]}" if closed else ""
            methods.append(f"{mark}  {method.card.name}{why}")
    count = said(f"{opened} methods can run on this model")[lang]
    return "\n".join([_said(lines, lang), *methods, count]), opened > 0


def _said(lines: Sequence[str], lang: str) -> str:
    return "\n".join(said(line)[lang] for line in lines)
