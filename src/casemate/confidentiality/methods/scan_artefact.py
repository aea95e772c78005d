# SPDX-License-Identifier: Apache-2.0
"""Would the model's file run code when it is loaded? A scan by an allow-list of what its pickles build.

**What it measures.** How many objects in the target's file are hostile (name functions that run code), unknown (name a
class that is not on the allow-list) or malformed. Every pickle in the file is followed opcode by opcode on a model of
the unpickler; archives and compressed streams are opened by content. The file is read again and must have the digest
with which it was loaded.

**What the attacker knows.** Whoever can replace or alter the file: a public hub, a shared folder, a mailbox.

**Formula.** dangerous_objects = |{findings of level hostile, unknown or malformed}|, an exact count (low = high).

**Cost.** One pass over the file, in Python: seconds for a hundred megabytes of objects, less for arrays.

**Pitfalls.** 0 means that no code of the file's choosing runs *while it is unpickled*. It does not mean that the model
is honest: backdoors in weights, and flaws of compiled libraries that read absurd numbers, are not looked for. Classes
trusted by name are not counted, but named. A target that was made in memory has no file, and nothing is measured.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from casemate.core import pickles
from casemate.core.data import Dataset
from casemate.core.errors import InvalidData, TamperedArtefact
from casemate.core.methods import Quantity, method
from casemate.core.pickles.permits import LEVELS
from casemate.core.run import Run, require
from casemate.core.types import LABELS, Detail, Measurement, Note, Table, Target

_SHOWN = 20
_PLAIN = (".json", ".txt")  # files of a folder that are read as text alone


@method(
    kind="check",
    needs={LABELS},
    tasks={"binary", "multiclass", "regression", "causal_lm"},
    cost="one pass over the file",
    title={"en": "Scan of the model file", "zh": "模型文件扫描"},
    reference="modelscan#313, #330, #338 (what deny-lists miss)",
    quantities={
        "dangerous_objects": Quantity(
            worse="higher",
            null=0.0,
            unit="objects",
            en="objects that could run code on loading",
            zh="加载时可能运行代码的对象",
        ),
    },
)
def scan_artefact(target: Target, data: Dataset, *, run: Run | None = None) -> list[Measurement]:
    """Scan the file that the target was loaded from; see the top of this file.

    Args:
        target: loaded by ``cm.load`` from a file; others give a row that says why nothing was measured.
        data: not used.

    Raises:
        TamperedArtefact: the file is no longer the one that was loaded.

    >>> from casemate.confidentiality.methods.scan_artefact import scan_artefact
    >>> scan_artefact.card.cost
    'one pass over the file'
    """
    run = require(run)
    path = (target.source or {}).get("path")
    if path is None:
        return [run.unresolved("dangerous_objects", "the target was not loaded from a file", 0)]
    source = target.source or {}
    named = [name for name in source.get("files", "").split(",") if name]  # of a folder
    try:
        files = {name: pickles.read_file(Path(path) / name) for name in named}
        files = files or {path.replace("\\", "/").rpartition("/")[2]: pickles.read_file(path)}
    except InvalidData as error:
        return [run.unresolved("dangerous_objects", f"the file cannot be read any more: {error}", 0)]
    whole = (
        pickles.digest_of_files(files) if named else hashlib.sha256(next(iter(files.values()))).hexdigest()
    )
    if whole != source.get("sha256"):
        raise TamperedArtefact(f"{path!r} is not the file that was loaded: its SHA-256 has changed")
    trust = [name for name in source.get("trust", "").split(",") if name]
    scans = [
        pickles.scan(raw, trust=trust, name=name)
        for name, raw in files.items()
        if not named or not name.endswith(_PLAIN)
    ]
    findings = [found for scan in scans for found in scan.findings]
    rows = tuple((found.level, found.what, found.where, found.why) for found in findings[:_SHOWN])
    verdict = max((scan.verdict for scan in scans), key=LEVELS.index)
    details: list[Detail] = [Note(text=f"{verdict}: {pickles.MEANING}")]
    details += [Note(text=note) for scan in scans for note in pickles.notes(scan)]
    if rows:
        details.append(Table(name="findings", columns=("level", "what", "where", "why"), rows=rows))
    count = float(len(findings))
    return [run.measure("dangerous_objects", count, count, count, len(scans), details=details)]
