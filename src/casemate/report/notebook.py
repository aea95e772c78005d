# SPDX-License-Identifier: Apache-2.0
"""The page inside a notebook: in the language of ``CASEMATE_LANG``, in a frame of its own that runs nothing."""

from __future__ import annotations

import os
from collections.abc import Callable

from casemate.report.catalogue import LANGUAGES
from casemate.report.render import framed


def language() -> str:
    """Return the language of ``CASEMATE_LANG``; English where it is not set or not known: a display never fails.

    >>> language() in LANGUAGES
    True
    """
    asked = os.environ.get("CASEMATE_LANG", "").lower()
    return next((lang for lang in LANGUAGES if asked in (lang.lower(), lang.lower()[:2])), LANGUAGES[0])


def shown(page: Callable[[str], str]) -> str:
    """Return a page, made in the reader's language, as what a notebook displays.

    Inside ``srcdoc`` an address of the form ``#privacy`` is read as one of the notebook's: following it would put the
    notebook in place of the report. (Quotes in texts are escaped, so only links are met here.)
    """
    return framed(page(language()).replace('href="#', 'href="about:srcdoc#'))
