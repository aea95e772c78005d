# SPDX-License-Identifier: Apache-2.0
"""Finds an English sentence of a method, a plan or an error among the known ones, and says it in Chinese.

Evidence and exceptions are written in one language. A known sentence is a skeleton with a hole for each value; what
filled the holes is taken out of the text, said in Chinese itself where it is known, and put into the Chinese one.
"""

from __future__ import annotations

import functools
import itertools
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter

LONGEST = 8000  # signs; a longer text is no sentence of ours, and stays as it is
_WORK = 2_000_000  # signs looked at for one text, whatever a report brings
_MOST_CUTS, _DEEPEST = 24, 40
# what has fewer words than _LIGHT fits by chance: no hole of it may hold _FEW unknown ones
_LIGHT, _FEW = 3, 4
_KEPT = "s"  # {0!s} in the Chinese: what fills the hole stays as it is
_FOLDER = Path(__file__).parent / "sentences"
# where a text may be made of several sentences or of a list of them, and how the parts are joined in Chinese
_JOINTS = {"; ": "；", ": ": "：", ", ": "，"}
_CUT = re.compile(r"(?<=[.!?]) +|; |\n")  # between sentences, which a skeleton may have taken for one
_WEAK_CUT = re.compile(r": |, | \(")  # inside of one, or of a list
_COMMA = ", "
_COLON, _DOUBT = ": ", 4  # a name before a colon: taken off where what follows is known far better by itself
_WORD = re.compile(r"[A-Za-z]{2,}")
_WIDE = r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]"
_ENDS_WIDE, _BEGINS_WIDE = re.compile(rf"{_WIDE} $"), re.compile(_WIDE)


@dataclass(frozen=True)
class Skeleton:
    """A known sentence: what stands between its holes, and the same in Chinese with the holes by number."""

    pieces: tuple[str, ...]
    chinese: tuple[str | int, ...]
    kept: frozenset[int]  # holes that hold a name of the user's, which is never said otherwise
    weight: int  # signs that are fixed: of several skeletons that fit, the heaviest says most
    rarest: str  # the longest piece, to look for first
    light: bool  # so little is fixed that other sentences fit by chance

    @staticmethod
    def of(pieces: tuple[str, ...], chinese: tuple[str | int, ...], kept: frozenset[int]) -> Skeleton:
        """Make a skeleton."""
        n_words = sum(len(_WORD.findall(piece)) for piece in pieces)
        weight, rarest = sum(map(len, pieces)), max(pieces, key=len)
        return Skeleton(pieces, chinese, kept, weight, rarest, light=n_words < _LIGHT)

    def holes(self, text: str) -> list[str] | None:
        """Return what fills the holes, each as short as can be, or None if the text is another sentence.

        Each piece is looked for once, from the left: no text can make this slow.
        """
        first, *middle, last = self.pieces
        if not text.startswith(first) or not text.endswith(last) or len(text) < self.weight:
            return None
        at, end, found = len(first), len(text) - len(last), []
        for piece in middle:
            place = text.find(piece, at, end)
            if place < 0:
                return None
            found.append(text[at:place])
            at = place + len(piece)
        return [*found, text[at:end]] if at <= end else None


@dataclass
class _Search:
    """One text being said: what was found of its parts, and the work that is left."""

    known: dict[str, tuple[int, str]] = field(default_factory=dict)
    left: int = _WORK
    depth: int = 0

    def best(self, text: str, among: Sequence[Skeleton]) -> tuple[int, str]:
        """Return how many signs of the text are known, and the text in Chinese as far as they are."""
        if text not in self.known:
            self.known[text] = (0, text)  # what a part of the same text finds on the way
            self.depth += 1
            self.known[text] = self._best(text, among)
            self.depth -= 1
        return self.known[text]

    def _best(self, text: str, among: Sequence[Skeleton]) -> tuple[int, str]:
        bare = text.strip()
        if not any(sign.isalpha() for sign in bare) or self.left <= 0 or self.depth > _DEEPEST:
            return 0, text
        among = [skeleton for skeleton in among if skeleton.rarest in bare]
        found = self.whole(bare, among)
        known, between = found[0], list(itertools.islice(_CUT.finditer(bare), _MOST_CUTS))
        within = itertools.islice(_WEAK_CUT.finditer(bare), _MOST_CUTS)
        if between:  # lists are left to their parts
            within = itertools.islice((cut for cut in within if cut.group() == _COLON), 1)
        for cut in (*between, *within):
            parts = self._halves(bare, cut, among, alone=cut in between[:1])
            if cut in between or not known:
                better = parts[0] > found[0]
            elif cut.group() == _COLON:
                better = parts[0] > 1.5 * found[0] + _DOUBT
            else:  # an item of a list whose last hole took the items behind it: they are known as well by themselves
                better = cut.group() == _COMMA and parts[0] == found[0] and self.both(bare, cut, among)
            found = parts if better else found
        if not found[0] and bare.endswith("."):
            weight, said = self.best(bare[:-1], among)
            found = weight, f"{said}。" if weight else bare
        return found if found[0] else (0, text)

    def both(self, text: str, cut: re.Match[str], among: Sequence[Skeleton]) -> bool:
        """Tell whether both sides of a cut are known."""
        return bool(self.whole(text[: cut.start()], among)[0] and self.best(text[cut.end() :], among)[0])

    def whole(self, text: str, among: Sequence[Skeleton]) -> tuple[int, str]:
        """Return the text as one sentence."""
        if (fixed := _fixed().get(text)) is not None:
            return len(text), fixed
        self.left -= len(text) * (1 + len(among))
        fits = ((skeleton, skeleton.holes(text)) for skeleton in among)
        heaviest = max(
            ((skeleton, holes) for skeleton, holes in fits if holes is not None),
            key=lambda pair: pair[0].weight,
            default=None,
        )
        if heaviest is None:
            return 0, text
        skeleton, holes = heaviest
        inner = [
            (0, hole) if at in skeleton.kept else self.best(hole, among) for at, hole in enumerate(holes)
        ]
        if skeleton.light and any(
            not weight and at not in skeleton.kept and len(_WORD.findall(hole)) >= _FEW
            for at, (hole, (weight, _)) in enumerate(zip(holes, inner, strict=True))
        ):
            return 0, text
        weight = skeleton.weight + sum(weight for weight, _ in inner)
        return weight, _filled(skeleton.chinese, [said for _, said in inner])

    def _halves(
        self, text: str, cut: re.Match[str], among: Sequence[Skeleton], *, alone: bool
    ) -> tuple[int, str]:
        """Return the text as one sentence up to the cut and whatever follows; ``alone``: no sentence ends before it."""
        sign, before, after = cut.group(), text[: cut.start()], text[cut.end() :]
        close = ""
        if sign == " (":
            if not after.endswith(")"):
                return 0, text
            after, close = after[:-1], "）"
        left = self.best(before, among) if alone else self.whole(before, among)
        right = self.best(after, among)
        if not left[0] and not right[0]:
            return 0, text
        wide = sign != ", " or _BEGINS_WIDE.match(left[1][-1:]) or _BEGINS_WIDE.match(right[1])
        joint = _JOINTS.get(sign, sign) if wide else sign
        if close:
            joint = "（"
        elif not sign.strip(" ") and left[0]:
            joint = ""
        return left[0] + right[0], f"{left[1]}{joint}{right[1]}{close}"


@functools.lru_cache(maxsize=2048)
def in_chinese(text: str) -> str:
    """Return an English text in Chinese as far as its sentences are known.

    >>> in_chinese("nobody wrote this")
    'nobody wrote this'
    """
    if len(text) > LONGEST:
        return text
    if " " not in text:  # a name, a number; a word where it is known
        return _fixed().get(text, text)
    return _Search().best(text, _skeletons())[1]


def entries() -> Iterator[tuple[str, str]]:
    """Give every English skeleton with its Chinese."""
    for path in sorted(_FOLDER.glob("*.toml")):
        yield from tomllib.loads(path.read_text("utf-8")).items()


@functools.cache
def _fixed() -> dict[str, str]:
    """Return the sentences without holes."""
    return {
        "".join(_parts(english)[0]): "".join(map(str, _parts(chinese)[0]))
        for english, chinese in entries()
        if "{}" not in english
    }


@functools.cache
def _skeletons() -> tuple[Skeleton, ...]:
    """Return the sentences with holes."""
    found = []
    for english, chinese in entries():
        pieces, _ = _parts(english)
        if len(pieces) > 1:
            texts, names = _parts(chinese)
            filled: list[str | int] = [texts[0]]
            for (name, _), piece in zip(names, texts[1:], strict=True):
                filled += [int(name), piece]
            kept = frozenset(int(name) for name, conversion in names if conversion == _KEPT)
            found.append(Skeleton.of(pieces, tuple(filled), kept))
    return tuple(found)


def _parts(form: str) -> tuple[tuple[str, ...], list[tuple[str, str | None]]]:
    """Split at the holes: the texts around them, one more than there are, and what names them."""
    texts: list[str] = [""]
    names: list[tuple[str, str | None]] = []
    for literal, name, _, conversion in Formatter().parse(form):
        texts[-1] += literal
        if name is not None:
            names.append((name, conversion))
            texts.append("")
    return tuple(texts), names


def _filled(form: Sequence[str | int], said: Sequence[str]) -> str:
    """Put texts into the holes; between Chinese and Chinese stands no space."""
    out = ""
    for part in form:
        text = part if isinstance(part, str) else said[part]
        if _ENDS_WIDE.search(out) and _BEGINS_WIDE.match(text):
            out = out[:-1]
        elif out and text.startswith(" ") and _BEGINS_WIDE.match(text[1:]) and _BEGINS_WIDE.match(out[-1]):
            text = text[1:]
        out += text
    return out
