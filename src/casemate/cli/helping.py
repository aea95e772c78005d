# SPDX-License-Identifier: Apache-2.0
"""The help of the commands in Chinese; in English it is typer's own. Lines break by the width letters take."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from typer.core import TyperCommand, TyperGroup

from casemate.cli.speaking import language, say

_WIDTH, _FIRST = 80, 30  # columns of the terminal; columns that the names of options get
# a word, or one Chinese sign with the stop behind it, which may not begin a line
_PIECE = re.compile(r"\s+|[（“《]*(?:[\u2e80-\u9fff]|[^\s\u2e80-\u9fff（“《]+)[，。；：！？、）”》]*")
_SIGNS = {"[OPTIONS]": "[选项]", "COMMAND [ARGS]...": "命令 [参数]..."}
_REMARKS = {"required": "必填", "default: ": "默认值：", "env var: ": "环境变量："}


class Command(TyperCommand):
    """A command whose help is in the user's language."""

    def get_help(self, ctx: Any) -> str:
        """Return the help page."""
        return super().get_help(ctx) if language(ctx.obj or ()) == "en" else page(self, ctx)


class Group(TyperGroup):
    """The application, whose help is in the user's language."""

    def get_help(self, ctx: Any) -> str:
        """Return the help page."""
        return super().get_help(ctx) if language(ctx.obj or ()) == "en" else page(self, ctx)


def page(command: Any, ctx: Any) -> str:
    """Return the help of a command in the language of the command line."""
    lang = language(ctx.obj or ())
    usage = " ".join(_SIGNS.get(piece, piece) for piece in command.collect_usage_pieces(ctx))
    lines = [f"用法：{ctx.command_path} {usage}"]
    for paragraph in (command.help or "").split("\n\n"):
        lines += ["", *wrapped(say(" ".join(paragraph.split()), lang), "  ")]
    kinds: dict[str, list[tuple[str, str]]] = {"argument": [], "option": []}
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx)
        if record is not None:
            kinds[param.param_type_name].append((record[0], _told(record[1], lang)))
    listed = [(name, say(_first(one.help), lang)) for name, one in getattr(command, "commands", {}).items()]
    for title, rows in (("参数：", kinds["argument"]), ("选项：", kinds["option"]), ("命令：", listed)):
        if rows:
            lines += ["", title, *_table(rows)]
    if command.epilog:
        lines += ["", *wrapped(say(command.epilog, lang), "  ")]
    return "\n".join(lines)


def wrapped(text: str, indent: str) -> Iterator[str]:
    """Break a text into lines of the terminal, between words and between Chinese signs."""
    line = indent
    for piece in _PIECE.findall(text):
        if width(line) + width(piece.rstrip()) > _WIDTH and line.strip():
            yield line.rstrip()
            line = indent
        line += piece if line.strip() else piece.lstrip()
    if line.strip():
        yield line.rstrip()


def width(text: str) -> int:
    """Return how many columns a text takes.

    >>> width("ab"), width("中文")
    (2, 4)
    """
    return sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text)


def _table(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Set names beside their texts; a name too long for its column stands on a line of its own."""
    first = min(_FIRST, max(width(name) for name, _ in rows) + 4)
    for name, text in rows:
        head, body = f"  {name}", list(wrapped(text, " " * first))
        if width(head) + 2 <= first and body:
            yield head + body.pop(0)[width(head) :]
        else:
            yield head
        yield from body


def _told(text: str, lang: str) -> str:
    """Say the help of an option, and typer's remarks behind it: ``[env var: X; default: y; required]``."""
    body, mark, remarks = text.rpartition("  [") if text.endswith("]") else (text, "", "")
    if not mark:
        return say(text, lang)
    for english, chinese in _REMARKS.items():
        remarks = remarks.replace(english, chinese)
    return f"{say(body, lang)} [{remarks.replace('; ', '；')}"


def _first(text: str | None) -> str:
    """Return the first paragraph of a docstring."""
    return " ".join((text or "").split("\n\n")[0].split())
