# SPDX-License-Identifier: Apache-2.0
"""How names and numbers are written: the same on the page and on the terminal, the same in every language."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from casemate.core import methods
from casemate.core.errors import InvalidData
from casemate.core.harness import UTILITY, quantities
from casemate.core.methods import Card, Quantity
from casemate.core.types import Measurement, Threat
from casemate.report.catalogue import Both, as_is, both, joined, said, texts

# Letters that look like nothing; format and control characters are found by their Unicode category.
_BLANK_LETTERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"})
_MINUS, _RAISED = "\u2212", str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_ROUNDING = 1e-12  # of a share: what is less is the rounding of the machine
_THREAT = frozenset(f.name for f in fields(Threat))
_CARD_LANGUAGE = {"en": "en", "zh-CN": "zh"}


def visible(text: str, limit: int = 2000) -> str:
    r"""Return ``text`` with every control, direction and invisible character written out, cut at ``limit``.

    >>> visible("a\u202eb\x1b[31m")
    'a⟨U+202E⟩b⟨U+001B⟩[31m'
    """
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    if cut.isascii() and cut.isprintable():
        return cut
    hidden = (c in _BLANK_LETTERS or unicodedata.category(c) in _HIDDEN for c in cut)
    return "".join(f"⟨U+{ord(c):04X}⟩" if bad else c for c, bad in zip(cut, hidden, strict=True))


def width(text: str) -> int:
    """Return how many columns of a terminal a text takes: letters of East Asia take two.

    >>> width("ab"), width("中文")
    (2, 4)
    """
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def number(value: float | None, decimals: int | None = None) -> str:
    """Write one number: fixed decimals, or four significant digits.

    >>> number(0.123456), number(1234.5, 1), number(None), number(-12), number(1e-5), number(2.5e7)
    ('0.1235', '1234.5', '–', '−12', '10⁻⁵', '2.5×10⁷')
    """
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if isinstance(value, int) and abs(value) < 10**12:
        return str(value).replace("-", _MINUS)
    text = f"{value:.4g}" if decimals is None else f"{value:.{decimals}f}"
    if not text.strip("-0."):
        return text.removeprefix("-")
    mantissa, _, power = text.partition("e")
    if power:
        raised = f"10{str(int(power)).translate(_RAISED)}"
        mantissa = f"{mantissa}×{raised}" if mantissa.strip("-") != "1" else mantissa.replace("1", raised)
    return mantissa.replace("-", _MINUS)


def interval(value: float | None, low: float | None, high: float | None, unit: str = "") -> str:
    """Write ``value [low, high]`` with as many decimals as the width of the interval deserves.

    >>> interval(0.57312, 0.55118, 0.59501)
    '0.5731 [0.5512, 0.5950]'
    >>> interval(0.25, 0.25, 0.25, "share")
    '0.25 [0.25, 0.25]'
    >>> interval(5.551e-16, 5.551e-16, 5.551e-16), interval(-1e-17, -1e-17, 1e-16)
    ('< 10⁻¹²', '0 ± 10⁻¹²')
    """
    if value is None:
        return "–"
    tail = f" {unit}" if unit and unit != "share" else ""
    ends = [end for end in (value, low, high) if end is not None]
    if not tail and 0 < max(map(abs, ends)) < _ROUNDING:
        return f"< {number(_ROUNDING)}" if min(ends) >= 0 else f"0 ± {number(_ROUNDING)}"
    if low is None or high is None:
        return f"{number(value)}{tail}"
    width = high - low
    small = 0 < width < math.inf and max(abs(low), abs(high)) < 1e7 and width > 1e-7
    decimals = min(9, max(0, 2 - math.floor(math.log10(width)))) if small else None
    return f"{number(value, decimals)} [{number(low, decimals)}, {number(high, decimals)}]{tail}"


def of(m: Measurement) -> str:
    """Write a measurement's value with its limits."""
    return interval(m.value, m.low, m.high, visible(m.unit, 40))


def percent(level: float) -> str:
    r"""Write a confidence level.

    >>> percent(0.95), percent(0.999)
    ('95\xa0%', '99.9\xa0%')
    """
    return f"{100 * level:.6g}\u00a0%"


def model(target: Mapping[str, Any]) -> Both:
    """Say what kind of model was audited, for which task and on which input."""
    parts: dict[str, str | Both] = {"kind": said(visible(str(target.get("kind")), 60))}
    for key in ("task", "input"):
        name = str(target.get(key))
        parts[key] = both(f"model.{name}") if f"model.{name}" in texts("en") else visible(name, 60)
    return both("text.model", **parts)


def card_of(method: str) -> Card | None:
    """Return a method's card, or None for one this version does not know."""
    if method == UTILITY.name:
        return UTILITY
    try:
        return methods.find(method).card
    except (InvalidData, ImportError):
        return None


def title(method: str) -> Both:
    """Return the method's title from its card; its bare name if unknown."""
    card = card_of(method)
    return as_is(method) if card is None else {lang: card.title[key] for lang, key in _CARD_LANGUAGE.items()}


def quantity_title(method: str, quantity: str) -> Both:
    """Return the quantity's title from the card; its bare name if unknown."""
    card = card_of(method)
    known = quantities(card).get(quantity) if card else None
    return as_is(quantity) if known is None else {"en": known.en, "zh-CN": known.zh}


def null_of(m: Measurement) -> float | None:
    """Return what guessing gives, for the quantities of privacy attacks whose card says so."""
    known = quantity_of(m)
    return known.null if known is not None and m.property == "privacy" else None


def headline(m: Measurement) -> bool:
    """Tell whether a row is an answer rather than a control; what this version does not know counts as one."""
    known = quantity_of(m)
    return known is None or known.headline


def quantity_of(m: Measurement) -> Quantity | None:
    """Return the quantity as its method's card describes it."""
    card = card_of(m.method)
    return quantities(card).get(m.quantity) if card else None


def attacker(m: Measurement, capabilities: Sequence[str], link: str = "page.comma") -> Both:
    """Say in words what the attacker of a measurement sees and may do, joined by a text of the catalogue."""
    card = card_of(m.method)
    if card is None:
        return both("access.unknown")
    if card.kind not in ("attack", "evasion"):
        return both("access.nobody")
    used = {need.value for need in card.needs} | ({p.value for p in card.prefers} & set(capabilities))
    parts = [both(f"access.{name}") for name in sorted(used)]
    return joined([*parts, *_threat_parts(m.threat, card.kind == "evasion")], link)


def threat(raw: Mapping[str, Any] | Threat | None) -> Both:
    """Say a threat in words."""
    if raw is None:
        return both("page.none")
    made = raw if isinstance(raw, Threat) else Threat(**{k: v for k, v in raw.items() if k in _THREAT})
    parts = _threat_parts(made, True)
    return joined(parts) if parts else both("page.none")


def _threat_parts(made: Threat | None, moves: bool) -> list[Both]:
    parts: list[Both] = []
    if made is None:
        return parts
    if moves and made.radius is not None:
        norm = {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0"}.get(made.norm or "", "")
        how = "edits" if made.norm == "l0" else made.scale or "raw"
        parts.append(both(f"threat.{how}", radius=number(made.radius), norm=norm))
    if moves and made.goal is not None:
        parts.append(both("threat.goal", goal=str(made.goal)))
    if made.n_queries is not None:
        parts.append(both("threat.queries", n=str(made.n_queries)))
    return parts
