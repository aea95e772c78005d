# SPDX-License-Identifier: Apache-2.0
"""The report and the comparison as Markdown, for a pull request or a model card: short, in one language, escaped.

It says what the page says first: a sentence a property with its attacker, what was not measured, the numbers with their
limits, the gates, how to repeat it. Charts, groups, columns and notes stand on the page. Like the page it is a view of
report.json and of nothing else.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from casemate.report import reproduce, verdict, words
from casemate.report.catalogue import Both, both, said, texts
from casemate.report.compare import Comparison
from casemate.report.gfm import code, fenced, table, text
from casemate.report.model import Report
from casemate.report.plain import data_words, gate_counts, verdict_line
from casemate.report.tabled import (
    LEAST,
    LISTED,
    Blocks,
    differences,
    more,
    properties,
    side_of,
    strong,
    which,
)

LINES = 120
_REPORTS, _CALL, _PARAMS = 3, 4000, 20


def of_report(report: Report, lang: str = "en", *, lines: int = LINES) -> str:
    """Return a report as GitHub-flavoured Markdown in ``lang``, in about ``lines`` lines: rows beyond are counted."""
    return _whole((report,), (None,), partial(properties, report, lang), [], lang=lang, lines=lines)


def of_comparison(comparison: Comparison, lang: str = "en", *, lines: int = LINES) -> str:
    """Return a comparison as GitHub-flavoured Markdown: verdict, gates, differences, what each report says."""
    say, reports = texts(lang), comparison.reports
    if len(reports) == 1:
        names: Sequence[Both | None] = (None,)
    elif len(reports) == 2:
        names = (both("page.before"), both("page.after"))
    else:
        names = (both("page.before"), *(both("page.after_n", n=str(i)) for i in range(1, len(reports))))
    gates = sorted(comparison.gates, key=lambda result: (1, 3, 0).index(result.exit_code))
    rows = [
        [
            say["page.comma"].join([text(g.gate.words[lang]), *which(names, g.report, lang)]),
            strong(say[f"gate.{g.result}"]),
            text(g.why[lang]),
        ]
        for g in gates
    ]
    head: Blocks = [
        [strong(text(verdict_line(comparison)[lang]))] if comparison.rows or rows else [],
        [f"### {say['page.gates']}"],
        table([say[f"page.{key}"] for key in ("gate", "result", "reason")], rows[:LISTED])
        if rows
        else [text(gate_counts(())[lang])],
        more(rows, lang),
        [say["page.gates_note"]] if rows else [],
    ]
    body = partial(differences, comparison, names, lang)
    if len(reports) == 1:
        body = partial(properties, reports[0], lang)
    return _whole(reports, names, body, head, lang=lang, lines=lines)


def _whole(
    reports: Sequence[Report],
    names: Sequence[Both | None],
    tables: Callable[[int], Blocks],
    head: Blocks,
    *,
    lang: str,
    lines: int,
) -> str:
    """Put the parts together; the tables get the lines that the rest leaves."""
    title = texts(lang)["page.comparison" if len(reports) > 1 else "page.report"]
    public = any(report.edition == "public" for report in reports)
    first: Blocks = [
        [f"## {title}"],
        [_about(reports[0], lang)],
        [strong(texts(lang)["text.public"])] if public else [],
        *head,
        *_verdicts(reports, names, lang),
        *_missing(reports, names, lang),
    ]
    last = [*_caveats(reports, names, lang), *_repeat(reports, names, lang)]
    taken = len(_laid([*first, ["x"], *last]).splitlines())
    return _laid([*first, *tables(max(LEAST, lines - taken)), *last])


def _laid(blocks: Iterable[Sequence[str]]) -> str:
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _about(report: Report, lang: str) -> str:
    say = texts(lang)
    level = words.percent(report.level)
    options = say["text.options"].format(seed=report.seed, effort=report.effort, level=level)
    return text(
        say["text.semicolon"].join((words.model(report.target)[lang], data_words(report)[lang], options)), 600
    )


# ---------------------------------------------------------------------- what is said in words


def _verdicts(reports: Sequence[Report], names: Sequence[Both | None], lang: str) -> Blocks:
    say, shown = texts(lang), reports[:_REPORTS]
    listed = []
    for same in zip(*map(verdict.sentences, shown), strict=True):
        property_ = strong(say[f"property.{same[0].property}"])
        if len(same) == 1:
            listed.append(f"- {property_}{say['text.colon']}{text(same[0].long[lang], 900)}")
            continue
        listed.append(f"- {property_}")
        listed += [
            f"  - {side_of(name, lang)}{say['text.colon']}{text(one.long[lang], 900)}"
            for name, one in zip(names[:_REPORTS], same, strict=True)
        ]
    return [
        [f"### {say['page.verdict']}"],
        listed,
        more(reports, lang, _REPORTS),
        [say["page.verdict_note"]],
    ]


def _missing(reports: Sequence[Report], names: Sequence[Both | None], lang: str) -> Blocks:
    """Return what was not shown, once, with the reports that lack it: a part of equal rank beside the verdict."""
    say = texts(lang)
    found: dict[tuple[str, str], list[str]] = {}
    for report, name in zip(reports, names, strict=True):
        for item in verdict.missing(report):
            found.setdefault((item.name[lang], item.reason), []).append(side_of(name, lang))
    lines = []
    for (title, reason), sides in found.items():
        where = "" if len(reports) == 1 else f" – {say['page.comma'].join(sides[:_REPORTS])}"
        lines.append(f"- {strong(text(title))}{where}{say['text.colon']}{text(said(reason)[lang])}")
    head = [f"### {say['page.not_measured']}"]
    if not lines:
        return [head, [say["page.nothing_missing"]]]
    return [
        head,
        [*lines[:LISTED], *(f"- {line}" for line in more(lines, lang))],
        [say["page.not_measured_note"]],
    ]


def _caveats(reports: Sequence[Report], names: Sequence[Both | None], lang: str) -> Blocks:
    """Return the caveats, each once; what not all the reports say is said with those that do."""
    found: dict[str, dict[str, None]] = {}
    for report, name in zip(reports, names, strict=True):
        for one in report.target.get("caveats", ()):
            found.setdefault(str(one), {})[side_of(name, lang)] = None
    lines = []
    for one, sides in found.items():
        whose = [] if len(sides) == len(reports) else list(sides)[:_REPORTS]
        before = f"{texts(lang)['page.comma'].join(whose)}{texts(lang)['text.colon']}" if whose else ""
        lines.append(f"- {before}{text(said(one)[lang])}")
    return [[f"### {texts(lang)['page.caveats']}"], [*lines[:LISTED], *more(lines, lang)]] if lines else []


# ---------------------------------------------------------------------- how to repeat it


def _repeat(reports: Sequence[Report], names: Sequence[Both | None], lang: str) -> Blocks:
    say, last = texts(lang), reports[-1]
    head = [f"### {say['page.reproduce']}"]
    facts = [("created", text(last.created, 40)), ("versions", text(_versions(last)))]
    if any(report.edition == "public" for report in reports):
        return [head, [_fact(*fact, lang) for fact in facts], [next(reproduce.gaps(last))[lang]]]
    facts += [("threat", text(words.threat(last.threat)[lang])), ("data_digest", _digest(last.data))]
    sides = [f"{side_of(n, lang)} {_digest(r.target)}".strip() for r, n in zip(reports, names, strict=True)]
    facts.append(("model_digest", say["page.comma"].join(sides[:_REPORTS])))
    commands = [shlex.join(report.command) for report in reports if report.command]
    lines = list(dict.fromkeys(words.visible(command, _CALL) for command in commands))[:_REPORTS]
    call = None if lines else reproduce.call(reports[0])
    if lines:
        block = fenced("\n".join(lines), "sh")
    elif call and len(call) <= _CALL and len(reports[0].methods) <= _PARAMS:
        block = fenced(call, "python")
    else:
        block = [say["markdown.too_long"]]
    return [head, [_fact(*fact, lang) for fact in facts], block, [say["page.same_points"]]]


def _fact(key: str, value: str, lang: str) -> str:
    return f"- {texts(lang)[f'page.{key}']}{texts(lang)['text.colon']}{value}"


def _digest(part: object) -> str:
    return code(str(part.get("digest")) if isinstance(part, dict) else "", 140)


def _versions(report: Report) -> str:
    packages = report.environment.get("packages")
    listed = [f"{name} {version}" for name, version in packages.items()] if isinstance(packages, dict) else []
    return ", ".join(
        dict.fromkeys([f"casemate {report.version}", str(report.environment.get("python", "")), *listed])
    )
