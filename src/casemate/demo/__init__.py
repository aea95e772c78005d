# SPDX-License-Identifier: Apache-2.0
"""The demos: models trained on real people's records that ship in Python packages, attacked, protected, attacked again.

The records are read as files of the installed package; its code is not imported and nothing is downloaded. Every figure
comes from ``casemate.audit``, ``harden``, ``compare`` and ``explain`` on the spot; none is written down here.

>>> sorted(NAMES)
['bank', 'hospital']
"""

from __future__ import annotations

from casemate.demo.cases import (
    HOSPITAL_BOUNDS,
    HOSPITAL_COLUMNS,
    NAMES,
    Case,
    case,
    hospital,
    packaged,
    small,
)
from casemate.demo.loans import BANK_CODES, BANK_DROPPED, bank
from casemate.demo.outcome import Outcome, folder_for
from casemate.demo.steps import run
from casemate.demo.words import in_plain_words

__all__ = [
    "BANK_CODES",
    "BANK_DROPPED",
    "HOSPITAL_BOUNDS",
    "HOSPITAL_COLUMNS",
    "NAMES",
    "Case",
    "Outcome",
    "bank",
    "case",
    "folder_for",
    "hospital",
    "in_plain_words",
    "packaged",
    "run",
    "small",
]
