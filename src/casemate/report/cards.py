# SPDX-License-Identifier: Apache-2.0
"""Views of the method cards: the table of ``casemate methods`` and the page of one method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from casemate.core import harness
from casemate.core.errors import InvalidData
from casemate.core.methods import Method
from casemate.core.types import Capability
from casemate.report import words
from casemate.report.catalogue import said, texts


def table(methods: Sequence[Method], lang: str = "en") -> str:
    """Return one line a method: name, kind, property, what it needs, title."""
    say = texts(lang)
    rows = [tuple(say[f"card.{head}"] for head in ("name", "kind", "property", "needs", "title"))]
    for method in methods:
        card = method.card
        named = say[f"property.{card.property}"] if lang != "en" else card.property
        kind, title = say[f"card.{card.kind}"], words.title(card.name)[lang]
        rows.append((card.name, kind, named, _needs(card.needs, lang), title))
    widths = [max(words.width(row[i]) for row in rows) for i in range(4)]
    return "".join(
        "  ".join([*map(_padded, row[:4], widths), row[4]]) + "\n"  # the title may be as long as it likes
        for row in rows
    )


def page(method: Method, lang: str = "en") -> str:
    """Return the page of a method in Markdown; all of it comes from the card and the top of its file."""
    card, say = method.card, texts(lang)
    needs = _needs(card.needs, lang)
    if card.prefers:
        needs = say["card.uses"].format(needs=needs, prefers=_needs(card.prefers, lang))
    facts = {
        "kind": say[f"card.{card.kind}"],
        "property": card.property if lang == "en" else say[f"property.{card.property}"],
        "needs": needs,
        "tasks": ", ".join(sorted(card.tasks)),
        "input": ", ".join(sorted(card.inputs)),
        "cost": said(card.cost)[lang],
        "source": card.reference,
        "version": card.version,
    }
    lines = [f"# {card.name}", "", f"{card.title['en']} · {card.title['zh']}", ""]
    lines += [f"- {say[f'card.{name}']}{say['text.colon']}{value}" for name, value in facts.items() if value]
    name, worse, unit = (say[f"card.{head}"] for head in ("name", "worse", "unit"))
    efforts = {effort: harness.parameters(method, effort, {}) for effort in harness.EFFORTS}
    if efforts["standard"]:
        lines += ["", f"## {say['card.parameters']}", ""]
        lines += [f"| {name} | quick | standard | deep |", "|---|---|---|---|"]
        for parameter in efforts["standard"]:
            cells = (_cell(efforts[effort][parameter]) for effort in ("quick", "standard", "deep"))
            lines.append(f"| `{parameter}` | {' | '.join(cells)} |")
    known = harness.quantities(card)
    if known:
        lines += [
            "",
            f"## {say['card.quantities']}",
            "",
            f"| {name} | | | {worse} | {unit} |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| `{n}` | {_cell(q.en)} | {_cell(q.zh)} | {q.worse} | {q.unit} |" for n, q in known.items()
        ]
    return "\n".join([*lines, "", f"## {say['card.about']}", "", method.doc, ""])


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


def _needs(capabilities: frozenset[Capability], lang: str) -> str:
    return ", ".join(sorted(capability.value for capability in capabilities)) or texts(lang)["card.nothing"]


def _padded(cell: str, wide: int) -> str:
    return cell + " " * (wide - words.width(cell))


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|")
