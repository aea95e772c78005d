# SPDX-License-Identifier: Apache-2.0
"""Views of the method cards: the table of ``casemate methods`` and the page of one method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from casemate.core import harness
from casemate.core.errors import InvalidData
from casemate.core.methods import Method
from casemate.core.types import Capability


def table(methods: Sequence[Method], lang: str = "en") -> str:
    """Return one line a method: name, kind, property, what it needs, title."""
    key = "zh" if lang == "zh-CN" else "en"
    rows = [("name", "kind", "property", "needs", "title")]
    rows += [
        (m.card.name, m.card.kind, m.card.property, _needs(m.card.needs), m.card.title[key]) for m in methods
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = (
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[4]]) for row in rows
    )
    return "".join(f"{line}\n" for line in lines)


def page(method: Method) -> str:
    """Return the page of a method in Markdown; all of it comes from the card and the top of its file."""
    card = method.card
    facts = {
        "kind": card.kind,
        "property": card.property,
        "needs": _needs(card.needs)
        + (f"; uses {_needs(card.prefers)} where offered" if card.prefers else ""),
        "tasks": ", ".join(sorted(card.tasks)),
        "input": ", ".join(sorted(card.inputs)),
        "cost": card.cost,
        "source": card.reference,
        "version": card.version,
    }
    lines = [f"# {card.name}", "", f"{card.title['en']} · {card.title['zh']}", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items() if value]
    efforts = {effort: harness.parameters(method, effort, {}) for effort in harness.EFFORTS}
    if efforts["standard"]:
        lines += ["", "## Parameters", "", "| name | quick | standard | deep |", "|---|---|---|---|"]
        for name in efforts["standard"]:
            cells = (_cell(efforts[effort][name]) for effort in ("quick", "standard", "deep"))
            lines.append(f"| `{name}` | {' | '.join(cells)} |")
    known = harness.quantities(card)
    if known:
        lines += ["", "## Quantities", "", "| name | | | bad when | unit |", "|---|---|---|---|---|"]
        lines += [
            f"| `{n}` | {_cell(q.en)} | {_cell(q.zh)} | {q.worse} | {q.unit} |" for n, q in known.items()
        ]
    return "\n".join([*lines, "", "## About", "", method.doc, ""])


def write(folder: Path, methods: Sequence[Method]) -> list[Path]:
    """Write NAME.md for each method into ``folder``, which is made if need be.

    Raises:
        InvalidData: the folder or a file in it cannot be written.
    """
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for method in methods:
            paths.append(folder / f"{method.card.name}.md")
            paths[-1].write_text(page(method), "utf-8")
    except OSError as error:
        raise InvalidData(f"cannot write the pages to {folder}: {error.strerror or error}") from error
    return paths


def _needs(capabilities: frozenset[Capability]) -> str:
    return ", ".join(sorted(capability.value for capability in capabilities)) or "nothing"


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|")
