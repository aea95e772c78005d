# SPDX-License-Identifier: Apache-2.0
"""What the scans of model files found, as text for the terminal and as JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from casemate.core.errors import InvalidData
from casemate.core.pickles import MEANING, Scan
from casemate.report.catalogue import said

_SHOWN = 10
_WORDS = {
    "en": {
        "clean": "clean",
        "malformed": "malformed",
        "unknown": "unknown",
        "hostile": "hostile",
        "more": "... {n} more findings (--format json shows them)",
        "meaning": MEANING,
        "trusted": "trusted by name: {names}",
        "none": "no pickle found",
        "globals": "{n} admitted names",
        "bytes": "bytes",
    },
    "zh-CN": {
        "clean": "干净",
        "malformed": "损坏",
        "unknown": "未知",
        "hostile": "恶意",
        "more": "……另有 {n} 项发现（--format json 可查看）",
        "meaning": "“干净”表示：反序列化时不会运行文件所指定的代码。"
        "它不说明模型会预测什么，也不说明读取它的程序库有无缺陷。",
        "trusted": "按名称信任：{names}",
        "none": "未发现 pickle",
        "globals": "{n} 个允许的名称",
        "bytes": "字节",
    },
}
_PICKLED = {"pickle", "joblib", "torch", "torch (before 1.6)", "npy with objects"}


def text(scans: Sequence[Scan], lang: str = "en") -> str:
    """Return the lines for a terminal: a verdict a file, its worst findings, and what clean means.

    >>> from casemate.core.pickles import scan
    >>> text([scan(b"N.", name="model.pkl")]).splitlines()[0]
    'model.pkl  clean  pickle (0 admitted names), 2 bytes'
    """
    if lang not in _WORDS:
        raise InvalidData(f"no language {lang!r}; there are {' and '.join(_WORDS)}")
    words, out = _WORDS[lang], []
    for scan in scans:
        held = words["globals"].format(n=len(scan.globals)) if _PICKLED & set(scan.formats) else words["none"]
        forms = ", ".join(said(name)[lang] for name in scan.formats) or "-"
        size = f"{scan.n_bytes:,} {words['bytes']}"
        out.append(_plain(f"{scan.name}  {words[scan.verdict]}  {forms} ({held}), {size}"))
        for found in scan.findings[:_SHOWN]:
            what, where, why = (said(part)[lang] for part in (found.what, found.where, found.why))
            out.append(_plain(f"  {words[found.level]}: {what} ({where}): {why}"))
        if len(scan.findings) > _SHOWN:
            out.append("  " + words["more"].format(n=len(scan.findings) - _SHOWN))
        if scan.trusted:
            out.append(_plain("  " + words["trusted"].format(names=", ".join(scan.trusted))))
    return "\n".join([*out, words["meaning"]])


def _plain(line: str) -> str:
    """Leave nothing in a line that a terminal would obey: names come from the file."""
    return "".join(sign if sign.isprintable() else f"\\x{ord(sign):02x}" for sign in line)


def to_json(scans: Sequence[Scan]) -> str:
    """Return the scans as JSON, with what *clean* means.

    >>> from casemate.core.pickles import scan
    >>> json.loads(to_json([scan(b"N.")]))["files"][0]["verdict"]
    'clean'
    """
    found = {"schema": "casemate-scan/1", "meaning": MEANING, "files": [asdict(scan) for scan in scans]}
    return json.dumps(found, indent=2) + "\n"
