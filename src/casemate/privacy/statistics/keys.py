# SPDX-License-Identifier: Apache-2.0
"""Keys that many enough people share: how they are told apart, which of them may show, and words as such keys.

**Why unknown keys need a delta.** The mere presence of a key that one person alone has gives that person away. A key is
released only if its noisy count exceeds a threshold T. A person's keys, at most m, have counts of at most m rows
without anybody else, so each is released with probability at most P(noise > T - m), and T is chosen so that all m
together stay within delta. Keys that others share are a histogram of sensitivity m.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from casemate.core.errors import InvalidData
from casemate.privacy.release import Release
from casemate.privacy.statistics._ask import Add, Answer, Privacy, asked, thresholded
from casemate.privacy.statistics._intervals import Noise
from casemate.privacy.statistics._rows import People, kept, positive_whole

MISSING = ("NAType", "NaTType")  # of pandas


def vocabulary(
    texts: Iterable[Sequence[str | None] | None],
    *,
    privacy: Privacy,
    max_words: int = 20,
    people: People | None = None,
    ledger: Any = None,
    source: Any = None,
) -> Release:
    """Return the words that many enough rows hold, in alphabetical order: a vocabulary that was paid for.

    Each row gives its first ``max_words`` distinct words. Sensitivity: ``max_words`` words of a row, ``max_rows`` rows
    of a person; the threshold covers as many keys that nobody else has.

    >>> vocabulary([["fever", "cough"]] * 900, privacy=Privacy(epsilon=1.0, delta=1e-6)).names
    ('cough', 'fever')
    """
    positive_whole("max_words", max_words)
    ask = asked("vocabulary", None, privacy, people=people, ledger=ledger, source=source)
    thresholded(ask)
    rows = list(texts)
    if people is not None:
        rows = [row for row, keep in zip(rows, kept(people, len(rows)), strict=True) if keep]
    if any(isinstance(row, str) for row in rows):
        raise InvalidData(
            "a row of texts must be its words, not one string; split it first, such as text.split()"
        )
    words = [
        [key for key in dict.fromkeys(map(label, row)) if key is not None][:max_words]
        for row in rows
        if isinstance(row, Iterable)  # a missing text has no words
    ]
    most = max_words * ask.rows

    def compute(add: Add, noise: Noise) -> Answer:
        counts: Counter[Any] = Counter()
        for row in words:
            counts.update(row)
        chosen = [named_by(one) for one in frequent(counts, 1, add, noise, most, privacy.delta)]
        return Answer(value=len(chosen), names=tuple(chosen), interval="none")

    return ask.release(
        {"max_words": max_words}, compute, sensitivity=most, data=words, extra_delta=privacy.delta
    )


def label(key: Any) -> Any:
    """Return what tells a key from others *and shows it*, in an order; None for a missing one.

    True, 1, 1.0 and Decimal("1.00") are equal, and so are 0.0 and -0.0: were they one key, how it is spelt in the
    answer would be how the first row spells it. So each spelling is a key of its own.
    """
    if isinstance(key, np.generic):
        key = key.item()
    if key is None or (isinstance(key, float) and key != key) or type(key).__name__ in MISSING:
        return None  # also inside a tuple: that nothing can be compared with NaN would show in the order of all keys
    if type(key) is tuple:
        return ("tuple", tuple(label(part) or ("", "") for part in key))
    if type(key) in (bool, int, float, str):
        return (type(key).__name__, key + 0.0 if type(key) is float else key)
    return (f"~{type(key).__name__}", str(key))


def named_by(labelled: Any) -> Any:
    """Return the key to show for a label."""
    kind, key = labelled
    return tuple(named_by(part) for part in key) if kind == "tuple" else key


def frequent(counts: dict[Any, int], unit: int, add: Add, noise: Noise, most: int, delta: float) -> list[Any]:
    """Return the labels whose noisy count is above the threshold, in their order.

    The order of the data must not show, so they are sorted. ``unit`` is what a count of one is in steps of the noise.
    """
    above = most * unit + noise.beyond(2 * delta / most)
    keys = sorted(counts)
    seen = add([counts[key] * unit for key in keys]) if keys else []
    return [key for key, one in zip(keys, seen, strict=True) if one > above]
