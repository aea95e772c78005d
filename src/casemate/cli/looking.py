# SPDX-License-Identifier: Apache-2.0
"""Commands that look: methods, doctor, scan, schema. Nothing but typer is imported until one runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from casemate.cli.options import (
    Device,
    Drop,
    Factory,
    Format,
    Immutable,
    Lang,
    Missing,
    Person,
    Sensitive,
    Trust,
    Verbose,
    app,
)
from casemate.cli.reading import listed, options_of
from casemate.cli.terminal import emit, lines, working
from casemate.core.errors import HostileArtefact, InvalidData


@app.command(name="methods")
def methods_(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show this method's page.")] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write one page a method there.")
    ] = None,
    lang: Lang = "en",
) -> None:
    """List the methods, or show one: what it needs, costs and measures, its parameters, its source."""
    from casemate.core.methods import every, find
    from casemate.report import cards

    lang = options_of(lang, "text")
    if markdown is not None:
        written = cards.write(markdown, every() if name is None else [find(name)])
        lines(f"{len(written)} pages in {markdown}")
    elif name is not None:
        lines(cards.page(find(name)))
    else:
        lines(cards.table(every(), lang))


@app.command()
def doctor(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="A model file or package.module:function to look at."),
    ] = None,
    train: Annotated[Path | None, typer.Option(metavar="FILE")] = None,
    holdout: Annotated[Path | None, typer.Option(metavar="FILE")] = None,
    label: Annotated[str | None, typer.Option(metavar="COL")] = None,
    person: Person = None,
    drop: Drop = None,
    missing: Missing = None,
    factory: Factory = None,
    trust: Trust = None,
    device: Device = None,
    verbose: Verbose = False,
) -> None:
    """Say what is installed and works; with MODEL, what was recognised and which audits that opens."""
    from casemate.report import doctor as physician

    if model is None:
        text, ok = physician.health()
    else:
        from casemate import api

        given = {"--train": train, "--holdout": holdout, "--label": label}
        absent = [option for option, value in given.items() if value is None]
        if 0 < len(absent) < len(given):
            raise InvalidData(f"{absent[0]} is needed with {next(o for o in given if o not in absent)}")
        with working(verbose, quiet=True):
            data = None
            if train is not None and holdout is not None and label is not None:
                from casemate.core.data import Dataset

                options: dict[str, Any] = {"person": person, "drop": listed(drop), "missing": missing or ()}
                data = Dataset.from_files(train, holdout, label=label, **options)
            target = api.load(model, device=device, factory=factory, trust=listed(trust))
            text, ok = physician.recognised(target, data)
    lines(text)
    raise typer.Exit(0 if ok else 3)


@app.command()
def scan(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Model files, in any wrapping.")],
    trust: Trust = None,
    format_: Format = "text",
    lang: Lang = "en",
) -> None:
    """Look into model files without loading them: would anything but data be made of them?"""
    lang = options_of(lang, format_)
    from casemate.core.pickles import scan as look
    from casemate.report import scan as words

    found = [look(path, trust=listed(trust)) for path in files]
    if format_ == "json":
        emit(words.to_json(found))
    else:
        lines(words.text(found, lang))
    raise typer.Exit(0 if all(item.verdict == "clean" for item in found) else HostileArtefact.exit_code)


@app.command()
def schema(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Training rows, and further ones.")],
    label: Annotated[str | None, typer.Option(metavar="COL", help="Column the model predicts.")] = None,
    person: Person = None,
    drop: Drop = None,
    missing: Missing = None,
    immutable: Immutable = None,
    sensitive: Sensitive = None,
) -> None:
    """Print what the columns seem to be, as a file to edit: kinds, bounds, units, who can change what."""
    from casemate.core import schemafile
    from casemate.core.data import read_rows

    without = [name for name in (label, *listed(drop)) if name]
    rows = [read_rows(path, drop=without, missing=missing or ()) for path in files]
    emit(schemafile.inferred(rows, person=person, immutable=listed(immutable), sensitive=listed(sensitive)))
