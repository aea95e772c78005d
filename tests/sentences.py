# SPDX-License-Identifier: Apache-2.0
"""Finds the English sentences in the source: what the catalogue must have in Chinese.

``python tests/sentences.py [PACKAGE]`` lists those that no file of catalogue/sentences has yet, as lines of TOML.
"""

from __future__ import annotations

import ast
import functools
import itertools
import re
import string
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "casemate"
SENTENCES = SOURCE / "report" / "catalogue" / "sentences"
FOREIGN = "others"  # sentences of the operating system and of typer: they stand in no file of ours
_WORD = re.compile(r"[A-Za-z][A-Za-z'’-]*")
_HAN = re.compile(r"[\u4e00-\u9fff]")
_MOST = 32  # forms of one expression; beyond, what varies is a hole and its words stand alone
_HOLE = "{}"
_TELLERS = frozenset({"Note", "Doubtful", "unresolved", "not_measured", "fail", "no", "report", "progress"})
# what may stand in Latin letters: quotes, code, options, addresses, names with a sign or a digit in them
_CODE = re.compile(
    r"\"[^\"]*\"|'[^']*'|\[\[?[^\]]*\]\]?|pip install \S+|https?://\S+|--?[a-z][\w-]*( [A-Z]+)?|\S*[=_./:(){}*<>\d]\S*"
)
# names of more than three words
_TITLES = ("Boston mortgage applications", "Breast Cancer Wisconsin", "RAND Health Insurance Experiment")
_SOURCES = frozenset({"reference", "alias"})  # keywords whose text is never shown as a sentence
# Strings of three words or more that nobody reads as a sentence, each with its reason.
EXEMPT = {
    "| {} | quick | standard | deep |": "names of efforts, in a table",
    "again = cm.audit(": "code",
    "at 0x[0-9a-fA-F]+": "a pattern",
    "These limits hold for": "the beginning of a sentence of core/groups.py, which the page looks for",
    "Skipping variable loading for optimizer": "the beginning of a warning of Keras, which is silenced",
    'pip install "casemate[{}]"': "a command",
}
_NAMES = frozenset({"BANK_NAMES", "CHANGEABLE", "RELATIONS", "YES_OR_NO"})  # tables of names of columns


def package(path: Path) -> str:
    """Return the catalogue file a source file belongs to: its package, or api for the files at the top."""
    parts = path.relative_to(SOURCE).parts
    return parts[0] if len(parts) > 1 else "api"


def words(skeleton: str) -> int:
    """Count the Latin words between the holes."""
    return len(_WORD.findall(skeleton.replace(_HOLE, " ")))


@functools.cache
def everything() -> tuple[tuple[str, str, str, bool], ...]:
    """Return ``package, where, skeleton, needed`` of every string of the source."""
    return tuple(
        (package(path), f"{path.relative_to(SOURCE)}:{line}", skeleton, needed)
        for path in sorted(SOURCE.rglob("*.py"))
        for line, skeleton, needed in of_text(path.read_text("utf-8"), shell=package(path) == "cli")
    )


def found() -> dict[str, dict[str, str]]:
    """Return ``package -> skeleton -> where`` of every sentence."""
    every: dict[str, dict[str, str]] = {}
    for name, where, skeleton, needed in everything():
        if needed:
            every.setdefault(name, {}).setdefault(skeleton, where)
    return every


def constants() -> set[str]:
    """Return every skeleton and every string of the source: what a key may be."""
    return {skeleton for _, _, skeleton, _ in everything()}


def translated() -> dict[str, dict[str, str]]:
    """Return ``file -> skeleton -> Chinese`` of the catalogue."""
    return {path.stem: tomllib.loads(path.read_text("utf-8")) for path in sorted(SENTENCES.glob("*.toml"))}


def of_text(source: str, *, shell: bool = False) -> Iterator[tuple[int, str, bool]]:
    """Give ``line, skeleton, needed`` of every string expression; docstrings only of commands of the shell."""
    tree = ast.parse(source)
    if shell:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and any(
                "command" in ast.dump(d) for d in node.decorator_list
            ):
                for part in filter(None, (ast.get_docstring(node) or "").split("\n\n")):
                    yield node.lineno, _tidy(_escaped(part)), True
    yield from _walk(tree, told=False)


def _walk(node: ast.AST, *, told: bool) -> Iterator[tuple[int, str, bool]]:
    if isinstance(node, (ast.Raise, ast.Yield)):
        told = True
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        told = told or name in _TELLERS
    aside = _aside(node)
    if isinstance(node, ast.expr) and (forms := _forms(node)) is not None:
        for form in forms:
            tidy = _tidy(form)
            yield node.lineno, tidy, _is_sentence(tidy, told)
        for hole in _holes(node):
            yield from _walk(hole, told=told)
        return
    for child in ast.iter_child_nodes(node):
        if id(child) not in aside:
            yield from _walk(child, told=told)


def _is_sentence(skeleton: str, told: bool) -> bool:
    if (
        skeleton in EXEMPT
        or words(skeleton) < (2 if told else 3)
        or re.search(r"[<>]\w|\\[dws]|=\"", skeleton)
    ):
        return False
    if skeleton.startswith("import "):  # a program
        return False
    return " " in skeleton.replace(_HOLE, "")


def _tidy(form: str) -> str:
    """Join holes side by side, and leave out what surrounds a sentence."""
    return re.sub(r"\{\}(\{\})+", _HOLE, " ".join(form.split())).strip()


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _forms(node: ast.expr) -> list[str] | None:
    """Return every form a string expression can take, holes as {}; None if it is not one."""
    if isinstance(node, ast.Constant):
        return [_escaped(node.value)] if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return _product([_forms(part) or [_HOLE] for part in node.values])
    if isinstance(node, ast.FormattedValue):
        plain = node.conversion == -1 and node.format_spec is None
        return (_forms(node.value) if plain else None) or [_HOLE]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = [_forms(node.left), _forms(node.right)]
        return None if sides == [None, None] else _product([side or [_HOLE] for side in sides])
    if isinstance(node, ast.IfExp):
        return _either([node.body, node.orelse])
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):
        return _either(node.values)
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "format"
        and isinstance(node.func.value, ast.Constant)
    ):
        parts = string.Formatter().parse(str(node.func.value.value))
        return ["".join(_escaped(text) + (_HOLE if name is not None else "") for text, name, _, _ in parts)]
    return None


def _either(nodes: list[ast.expr]) -> list[str] | None:
    forms = [_forms(node) for node in nodes]
    if all(form is None for form in forms):
        return None
    return list(dict.fromkeys(itertools.chain.from_iterable(form or [_HOLE] for form in forms)))


def _product(parts: list[list[str]]) -> list[str]:
    size = 1
    for part in parts:
        size *= len(part)
    if size > _MOST:
        parts = [part if len(part) == 1 else [_HOLE] for part in parts]
    return ["".join(choice) for choice in itertools.product(*parts)]


def _holes(node: ast.expr) -> Iterator[ast.AST]:
    """Give what stands in the holes of a string expression."""
    if isinstance(node, ast.Constant):
        return
    if isinstance(node, ast.JoinedStr):
        size = 1
        for part in node.values:
            size *= len(_forms(part) or "1")
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                whole = size > _MOST or part.conversion != -1 or _forms(part.value) is None
                yield from [part.value] if whole else _holes(part.value)
    elif isinstance(node, ast.BinOp):
        for side in (node.left, node.right):
            yield from _holes(side) if _forms(side) is not None else [side]
    elif isinstance(node, ast.IfExp):
        yield node.test
        for side in (node.body, node.orelse):
            yield from _holes(side) if _forms(side) is not None else [side]
    elif isinstance(node, ast.BoolOp):
        for side in node.values:
            yield from _holes(side) if _forms(side) is not None else [side]
    elif isinstance(node, ast.Call):
        yield from [*node.args, *node.keywords]


def _aside(node: ast.AST) -> set[int]:
    """Return which children hold no sentence: docstrings, annotations, names, texts that stand beside their Chinese."""
    aside: set[int] = set()
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            aside.add(id(first))
        if getattr(node, "name", "") == "__repr__":
            aside |= {id(part) for part in node.body}
    elif isinstance(node, (ast.arg, ast.AnnAssign)) and isinstance(node.annotation, ast.Constant):
        aside.add(id(node.annotation))
    elif isinstance(node, ast.Subscript) and getattr(node.value, "id", "") == "Literal":
        aside.add(id(node.slice))
    elif isinstance(node, ast.Dict):
        keys = {key.value for key in node.keys if isinstance(key, ast.Constant)}
        if "en" in keys and {"zh", "zh-CN"} & keys:
            aside |= {id(part) for part in node.values}
    elif isinstance(node, ast.Call):
        if getattr(node.func, "id", "") in ("cast", "lazy"):
            aside.add(id(node.args[0]))
        given = {word.arg: word for word in node.keywords if word.arg}
        aside |= {id(word) for name, word in given.items() if name in _SOURCES}
        for name, word in given.items():
            if {"zh", f"{name}_zh"} & set(given) if name == "en" else f"{name}_zh" in given:
                aside.add(id(word))
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        given_to = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(getattr(one, "id", "") in _NAMES for one in given_to) and node.value is not None:
            aside.add(id(node.value))
    if isinstance(node, ast.Attribute) and node.attr == "split":
        aside.add(id(node.value))  # a list of names
    if isinstance(node, (ast.Call, ast.Tuple)):
        parts = node.args if isinstance(node, ast.Call) else node.elts
        if any(_HAN.search(form) for part in parts for form in _forms(part) or ()):
            aside |= {id(part) for part in parts}
    return aside


def missing(only: str = "") -> Iterator[tuple[str, str, str]]:
    """Give ``package, skeleton, where`` of every sentence without Chinese."""
    known = {key for keys in translated().values() for key in keys}
    for name, skeletons in found().items():
        if only in ("", name):
            yield from (
                (name, skeleton, where) for skeleton, where in skeletons.items() if skeleton not in known
            )


def latin_run(text: str) -> str:
    """Return a run of four or more Latin words that are no code and no name, or nothing."""
    for name in _TITLES:
        text = text.replace(name, "。")
    run = re.search(r"[A-Za-z'’-]+(?: +[A-Za-z'’-]+){3,}", _CODE.sub("。", text))
    return run.group() if run else ""


if __name__ == "__main__":
    last = ""
    count = 0
    for name, skeleton, where in missing(*sys.argv[1:2]):
        count += 1
        if name != last:
            print(f"\n# {name}.toml")
            last = name
        quoted = skeleton.replace("\\", "\\\\").replace('"', '\\"')
        print(f'"{quoted}" = ""  # {where}')
    print(f"\n# {count} missing")
