# SPDX-License-Identifier: Apache-2.0
"""Entries of a ledger as lines of text, each sealed with everything before it.

A line is ``length mac body``: the body's bytes in 8 hexadecimal digits, BLAKE3 keyed over the mac before it and the
body, the body as canonical JSON (sorted keys, ASCII, no NaN). Whoever lacks the key can neither change, insert, remove
nor reorder a line. The head is a count and the last mac, sealed too, so that lines cut off at the end are missed.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from casemate.core.errors import InvalidData, TamperedArtefact

FORMAT = "casemate-ledger/1"
LONGEST = 16 * 2**20  # bytes of one body
START = bytes(32)  # what stands before the first line
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


@dataclass(frozen=True, kw_only=True)
class Mark:
    """How many lines there are, and the mac of the last: what an anchor says.

    >>> Mark(n=2, mac=bytes(32)).anchor
    '2-00000000000000000000000000000000'
    """

    n: int
    mac: bytes

    @property
    def anchor(self) -> str:
        """Return it as text to keep elsewhere."""
        return f"{self.n}-{self.mac[:16].hex()}"


NOTHING = Mark(n=0, mac=START)


def body_of(entry: dict[str, Any]) -> bytes:
    """Return canonical JSON.

    Raises:
        InvalidData: it holds something other than plain finite JSON values, or too much of it.
    """
    try:
        body = _encode(entry).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidData(f"a ledger keeps plain finite JSON values only: {error}") from None
    if len(body) > LONGEST:
        raise InvalidData(f"an entry of {len(body):,} bytes is too long for a ledger; at most {LONGEST:,}")
    return body


def sealed(key: bytes, mark: Mark, body: bytes) -> tuple[bytes, Mark]:
    """Return the line of a body behind ``mark``, and the mark it leaves."""
    mac = blake3(mark.mac + body, key=key).digest()
    return b"%08x %b %b\n" % (len(body), mac.hex().encode(), body), Mark(n=mark.n + 1, mac=mac)


def opened(
    key: bytes, mark: Mark, text: bytes, take: Callable[[dict[str, Any], Mark], None]
) -> tuple[Mark, int]:
    """Hand each whole line's entry and mark to ``take``; return the last mark and how many bytes they are.

    A last line without its end is what a crash leaves of a write that was never acknowledged: it is not read.

    Raises:
        TamperedArtefact: a line that is not what was sealed.
    """
    end = text.rfind(b"\n") + 1
    for line in text[:end].split(b"\n")[:-1]:
        body = line[74:]
        expected, mark = sealed(key, mark, body)
        if not hmac.compare_digest(line, expected[:-1]):
            raise TamperedArtefact(
                f"the ledger was changed: entry {mark.n} does not match its seal (or the key is another ledger's)"
            )
        take(json.loads(body), mark)
    return mark, end


def head(key: bytes, mark: Mark) -> bytes:
    """Return the head of 1024 bytes: two copies in sectors of their own, so that a torn write leaves one whole."""
    told = b"%016d %b " % (mark.n, mark.mac.hex().encode())
    return 2 * (told + blake3(b"head" + told, key=key).hexdigest().encode()).ljust(511).__add__(b"\n")


def heard(key: bytes, text: bytes) -> Mark:
    """Return the larger mark of a head.

    Raises:
        TamperedArtefact: neither copy is whole.
    """
    marks = []
    for copy in (text[:512], text[512:1024]):
        told, mac = copy[:82], copy[82:146]
        if len(copy) == 512 and hmac.compare_digest(
            mac, blake3(b"head" + told, key=key).hexdigest().encode()
        ):
            marks.append(Mark(n=int(told[:16]), mac=bytes.fromhex(told[17:81].decode())))
    if not marks:
        raise TamperedArtefact(
            "the ledger's head does not match its seal; if its key file is the right one, the head "
            "was changed"
        )
    return max(marks, key=lambda mark: mark.n)
