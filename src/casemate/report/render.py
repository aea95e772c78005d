# SPDX-License-Identifier: Apache-2.0
"""The report as one static HTML file (templates/) and as text: views of report.json and of nothing else.

Everything the template prints is escaped by Jinja and, before that, freed of control and invisible characters;
the page needs no network and no script, and its content security policy allows neither.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casemate.report import words
from casemate.report.catalogue import LANGUAGES, both, texts
from casemate.report.compare import Comparison
from casemate.report.model import Report
from casemate.report.pages import parts
from casemate.report.plain import text, text_comparison
from casemate.report.several import TEXT

if TYPE_CHECKING:
    import jinja2

__all__ = ["framed", "page", "page_comparison", "text", "text_comparison"]


def page(report: Report, lang: str = "en") -> str:
    """Return a report as a complete HTML page that holds every language and opens in ``lang``."""
    return _filled(lang, parts((report,)))


def page_comparison(comparison: Comparison, lang: str = "en") -> str:
    """Return a comparison as a complete HTML page: each property once, with a column a report, and the gates."""
    return _filled(lang, parts(comparison.reports, comparison))


def framed(page_text: str) -> str:
    """Return a page inside a frame of its own, so that a notebook's styles and the page's do not meet."""
    held = html.escape(page_text, quote=True)
    return f'<iframe sandbox="" title="Casemate" width="100%" height="640" srcdoc="{held}"></iframe>'


def _filled(lang: str, shown: dict[str, Any]) -> str:
    texts(lang)  # refuses an unknown language
    return _template().render(lang=lang, languages=LANGUAGES, t=both, **shown)


@functools.cache
def _template() -> jinja2.Template:
    import jinja2
    from markupsafe import Markup

    def shown(value: Any) -> Any:
        return value if isinstance(value, Markup) else words.visible(str(value), 2 * TEXT)

    def csp_hash(style: str) -> str:
        return "sha256-" + base64.b64encode(hashlib.sha256(str(style).encode()).digest()).decode()

    place = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    place.filters["csp_hash"] = csp_hash
    return place.get_template("page.html.jinja")
