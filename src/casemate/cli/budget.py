# SPDX-License-Identifier: Apache-2.0
"""Commands about a privacy budget: casemate budget show, set and verify."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from casemate.cli.helping import Command, Group, width
from casemate.cli.options import Format, Lang, app
from casemate.cli.reading import options_of
from casemate.cli.speaking import say
from casemate.cli.terminal import emit, lines
from casemate.core.errors import InvalidData

if TYPE_CHECKING:
    from casemate.privacy.ledger import Ledger

budget = typer.Typer(
    cls=Group, help="Show, set or verify the privacy budget of a group of people.", rich_markup_mode=None
)
app.add_typer(budget, name="budget")

File = Annotated[Path, typer.Argument(metavar="LEDGER", help="The file of the budget.")]
Key = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Key of its seals; default: LEDGER.key beside it.")
]
SHOWN = 20  # spends of the table, the latest
LONGEST = 400  # characters of a query in the table; --format json has all


@budget.command(cls=Command)
def show(
    ledger: File,
    key: Key = None,
    full: Annotated[bool, typer.Option("--all", help="Every spend, not only the latest 20.")] = False,
    format_: Format = "text",
    lang: Lang = "en",
) -> None:
    """Show what was spent on whom, what is left, and an anchor to keep elsewhere."""
    lang = options_of(lang, format_)
    from casemate.privacy.ledger import Ledger

    opened = Ledger.open(ledger, key=key, read_only=True)
    if format_ == "json":
        emit(_json(opened))
    else:
        lines(*_told(opened, lang, full=full))


@budget.command(name="set", cls=Command)
def set_(
    ledger: File,
    epsilon: Annotated[float, typer.Option(metavar="E", help="What all answers together may cost.")],
    delta: Annotated[float, typer.Option(metavar="D", help="At most 1 / (10 n) for n people.")],
    population: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Whose data it is; needed for a new ledger.")
    ] = None,
    unit: Annotated[str | None, typer.Option(metavar="person|record", help="Default: person.")] = None,
    neighbours: Annotated[
        str | None,
        typer.Option(metavar="add_or_remove_one|replace_one", help="Default: add_or_remove_one."),
    ] = None,
    filter_: Annotated[
        str | None, typer.Option("--filter", metavar="mixed|pure|zcdp|gaussian", help="Default: mixed.")
    ] = None,
    reason: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Why an existing limit changes; it is recorded.")
    ] = None,
    key: Key = None,
    lang: Lang = "en",
) -> None:
    """Begin the budget of a population; later, change its limit for a reason that is recorded."""
    lang = options_of(lang, "text")
    from casemate.privacy.ledger import Ledger

    if ledger.exists():
        if any(value is not None for value in (population, unit, neighbours, filter_)):
            raise InvalidData(f"{ledger} exists: only epsilon and delta can change, with --reason")
        if reason is None:
            raise InvalidData(f"{ledger} exists: to change its limit give --reason")
        opened = Ledger.open(ledger, key=key)
        opened.set_limit(epsilon=epsilon, delta=delta, reason=reason)
    else:
        if population is None:
            raise InvalidData("a new ledger needs --population: whose data it is")
        opened = Ledger.create(
            ledger,
            population=population,
            epsilon=epsilon,
            delta=delta,
            unit=unit or "person",
            neighbours=neighbours or "add_or_remove_one",
            filter=filter_ or "mixed",
            key=key,
        )
    lines(*_told(opened, lang))


@budget.command(cls=Command)
def verify(
    ledger: File,
    anchor: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What show printed earlier, kept elsewhere.")
    ] = None,
    key: Key = None,
    lang: Lang = "en",
) -> None:
    """Check every seal; with --anchor also that nobody put the folder back to an older copy."""
    lang = options_of(lang, "text")
    from casemate.privacy.ledger import Ledger

    opened = Ledger.open(ledger, key=key, read_only=True)
    now = opened.verify(anchor=anchor)
    lines(say(f"every entry is as it was sealed; anchor {now}", lang))
    if anchor is None:
        lines(say("not checked without --anchor: whether the whole folder is an older copy", lang))


def _told(ledger: Ledger, lang: str, *, full: bool = False) -> list[str]:
    spent, declared = ledger.spent(), ledger.header
    spends = ledger.spends()
    rows = [[say(word, lang) for word in ("entry", "time (UTC)", "cost", "answered", "query")]]
    for spend in spends if full else spends[-SHOWN:]:
        answered = say("yes" if spend.answered else "no", lang)
        rows.append([str(spend.n), _when(spend.time), _event(spend.event), answered, _begun(spend.query)])
    told = [
        say(f"population: {declared['population']}", lang),
        say(
            f"unit: {declared['unit']}; neighbours: {declared['neighbours']}; filter: {declared['name']}",
            lang,
        ),
        "",
    ]
    if spends:
        told += [*_table(rows), ""]
    if len(spends) > SHOWN and not full:
        told.append(say(f"earlier spends, not shown without --all: {len(spends) - SHOWN}", lang))
    limit = f"{spent.limit_epsilon:g}"
    told.append(say(f"spent: epsilon {_up(spent.epsilon)} of {limit} at delta {spent.limit_delta:g}", lang))
    ever = _up(spent.at_any_time), f"{spent.at_any_time_delta:g}"
    told.append(say(f"bound at a moment that the answers chose: epsilon {ever[0]} at delta {ever[1]}", lang))
    left = f"{spent.remaining_epsilon:.4g}", f"{spent.remaining_rho:.4g}"
    told.append(
        say(f"left, one or the other: epsilon {left[0]} of pure releases, rho {left[1]} of zCDP", lang)
    )
    if spent.unclear:
        told.append(say(f"without a stored answer (a training, a failure, a crash): {spent.unclear}", lang))
    return [*told, say(f"anchor, to keep elsewhere: {ledger.anchor}", lang)]


def _table(rows: list[list[str]]) -> list[str]:
    wide = [max(width(row[at]) for row in rows) for at in range(len(rows[0]) - 1)]
    return [
        "  ".join(
            [*(cell + " " * (room - width(cell)) for cell, room in zip(row, wide, strict=False)), row[-1]]
        )
        for row in rows
    ]


def _event(event: tuple[object, ...]) -> str:
    from casemate.privacy import events

    said = []
    for row in events.to_json(event):  # type: ignore[arg-type]
        usual = {"kind": row["kind"], "count": 1, "rate": 1.0, "one": row.get("one")}
        given = {name: value for name, value in row.items() if usual.get(name) != value}
        said.append(" ".join([row["kind"], *(f"{name}={value}" for name, value in given.items())]))
    return " + ".join(said)


def _begun(query: str) -> str:
    return query if len(query) <= LONGEST else f"{query[:LONGEST]}..."


def _up(value: float) -> str:
    """Say a cost in five digits, not smaller than it is."""
    from casemate.privacy.plan import rounded_up

    return f"{value:.5g}" if float(f"{value:.5g}") >= value else f"{rounded_up(value):g}"


def _when(seconds: float) -> str:
    import datetime as dt

    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(" ", "minutes")[:16]


def _json(ledger: Ledger) -> str:
    import json
    from dataclasses import asdict

    from casemate.privacy import events

    spent = {name: None if value == math.inf else value for name, value in asdict(ledger.spent()).items()}
    spends = [{**asdict(one), "event": events.to_json(one.event)} for one in ledger.spends()]
    known = ("population", "unit", "neighbours")
    told = {name: ledger.header[name] for name in known} | {"filter": ledger.header["name"]}
    found = {**told, "spent": spent, "spends": spends, "anchor": ledger.anchor}
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"
