# SPDX-License-Identifier: Apache-2.0
"""Commands that look: methods, doctor, scan, schema. Nothing but typer is imported until one runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from casemate.cli.helping import Command
from casemate.cli.options import (
    Authorised,
    Classes,
    Device,
    Drop,
    EndpointText,
    Factory,
    Format,
    Immutable,
    Lang,
    Missing,
    Person,
    Pixels,
    Sensitive,
    Size,
    Text,
    Trust,
    Verbose,
    app,
)
from casemate.cli.reading import is_endpoint, listed, options_of, probed, read_data, read_endpoint
from casemate.cli.speaking import say, say_comments
from casemate.cli.terminal import emit, lines, working
from casemate.core.errors import HostileArtefact, InvalidData


@app.command(name="methods", cls=Command)
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
        lines(say(f"{len(written)} pages in {markdown}", lang))
    elif name is not None:
        lines(cards.page(find(name), lang))
    else:
        lines(cards.table(every(), lang))


@app.command(cls=Command)
def doctor(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]", help="A model file or folder, package.module:function or URL to look at."
        ),
    ] = None,
    train: Annotated[Path | None, typer.Option(metavar="FILE")] = None,
    holdout: Annotated[Path | None, typer.Option(metavar="FILE")] = None,
    label: Annotated[str | None, typer.Option(metavar="COL")] = None,
    text: Text = None,
    size: Size = None,
    pixels: Pixels = None,
    person: Person = None,
    drop: Drop = None,
    missing: Missing = None,
    authorised: Authorised = None,
    endpoint: EndpointText = None,
    classes: Classes = None,
    factory: Factory = None,
    trust: Trust = None,
    device: Device = None,
    lang: Lang = "en",
    verbose: Verbose = False,
) -> None:
    """Say what is installed and works; with MODEL, what was recognised and which audits that opens.

    Of an endpoint, one row of the holdout is sent, once; without data nothing is.
    """
    lang = options_of(lang, "text")
    from casemate.report import doctor as physician

    if model is None:
        told, ok = physician.health(lang)
    else:
        from casemate import api

        given: dict[str, Any] = {"--train": train, "--holdout": holdout}
        if train is None or not train.is_dir():
            given["--label"] = label
        absent = [option for option, value in given.items() if value is None]
        if 0 < len(absent) < len(given):
            raise InvalidData(f"{absent[0]} is needed with {next(o for o in given if o not in absent)}")
        with working(verbose, quiet=True, lang=lang):
            remote = is_endpoint(model) or authorised or endpoint or classes
            if remote:  # who allowed it is asked for before anything is read
                target = read_endpoint(model, authorised=authorised, settings=endpoint, classes=classes)
            data = None
            if train is not None and holdout is not None:
                options: dict[str, Any] = {"person": person, "drop": drop, "missing": missing, "text": text}
                data = read_data(train, holdout, label=label, size=size, pixels=pixels, **options)
            if not remote:
                target = api.load(model, device=device, factory=factory, trust=listed(trust))
            elif data is not None:
                target = probed(target, data, outputs="outputs" in (endpoint or ""))
            told, ok = physician.recognised(target, data, lang)
    lines(told)
    raise typer.Exit(0 if ok else 3)


@app.command(cls=Command)
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


@app.command(cls=Command)
def schema(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Training rows, and further ones.")],
    label: Annotated[str | None, typer.Option(metavar="COL", help="Column the model predicts.")] = None,
    person: Person = None,
    drop: Drop = None,
    missing: Missing = None,
    immutable: Immutable = None,
    sensitive: Sensitive = None,
    lang: Lang = "en",
) -> None:
    """Print what the columns seem to be, as a file to edit: kinds, bounds, units, who can change what."""
    lang = options_of(lang, "text")
    from casemate.core import schemafile
    from casemate.core.reading import read_rows

    without = [name for name in (label, *listed(drop)) if name]
    rows = [read_rows(path, drop=without, missing=missing or ()) for path in files]
    text = schemafile.inferred(rows, person=person, immutable=listed(immutable), sensitive=listed(sensitive))
    emit(say_comments(text, lang))
