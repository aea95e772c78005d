# SPDX-License-Identifier: Apache-2.0
"""The command that changes a model: harden. Nothing but typer is imported until it runs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from casemate.cli.helping import Command
from casemate.cli.options import (
    Device,
    Drop,
    Factory,
    Formats,
    Holdout,
    Immutable,
    Jobs,
    Label,
    Lang,
    Missing,
    Model,
    Person,
    Pixels,
    Quiet,
    SchemaFile,
    Seed,
    Sensitive,
    Size,
    Text,
    Train,
    Trust,
    Verbose,
    app,
)
from casemate.cli.reading import listed, n_jobs_of, options_of, read_data, read_methods
from casemate.cli.terminal import emit, lines, parallel, working


@app.command(cls=Command)
def harden(
    model: Model,
    train: Train,
    holdout: Holdout,
    using: Annotated[
        list[str],
        typer.Option(
            metavar="LIST",
            help="Defences, with parameters: dp_logistic:epsilon=3,delta=1e-5; or limit_leaves:n=20,rounding.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="New folder: the hardened model, and change.json.")
    ],
    label: Label = None,
    text: Text = None,
    size: Size = None,
    pixels: Pixels = None,
    person: Person = None,
    drop: Drop = None,
    missing: Missing = None,
    immutable: Immutable = None,
    sensitive: Sensitive = None,
    schema: SchemaFile = None,
    factory: Factory = None,
    trust: Trust = None,
    ledger: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A budget that a training with a guarantee is charged to."),
    ] = None,
    seed: Seed = None,
    jobs: Jobs = None,
    device: Device = None,
    format_: Formats = "text",
    lang: Lang = "en",
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Train a model again with defences, or put them in front of it; write it and what it cost to a folder.

    Stopped, the same command goes on (torch); a training with a guarantee is refused: it would spend epsilon twice.
    """
    lang = options_of(lang, format_, "md")
    specs = read_methods(using, option="--using") or []
    n_jobs = n_jobs_of(jobs)
    from casemate import api, hardened
    from casemate.hardened import folder as folders
    from casemate.privacy.ledger import Ledger

    api.defences(specs)  # a wrong name or parameter is said before anything is read
    with folders.at_work(out) as part, working(verbose, quiet, lang=lang) as progress, parallel(n_jobs):
        columns: dict[str, Any] = {"drop": drop, "immutable": immutable, "sensitive": sensitive}
        columns |= {"missing": missing, "schema": schema, "text": text, "size": size, "pixels": pixels}
        data = read_data(train, holdout, label=label, person=person, **columns)
        target = api.load(model, device=device, factory=factory, trust=listed(trust))
        budget = None if ledger is None else Ledger.open(ledger)
        change = api.harden(
            target, data, using=specs, seed=seed or 0, folder=part, ledger=budget, progress=progress
        )
        hardened.save(change, out, model=model, trust=listed(trust))
    if format_ == "json":
        emit((out / folders.NAME).read_text("utf-8"))
        return
    from casemate.adapters.files import names_function
    from casemate.report import changed

    given = {"--train": train, "--holdout": holdout, "--label": label, "--person": person, "--schema": schema}
    given |= {"--text": text, "--size": size, "--pixels": pixels}
    given |= {"--drop": ",".join(listed(drop)), "--immutable": ",".join(listed(immutable))}
    given |= {"--sensitive": ",".join(listed(sensitive)), "--device": device}
    given["--factory"] = factory or (model if hardened.needs_code(change) and names_function(model) else None)
    command = _again(out, given, {"--missing": missing or (), "--trust": listed(trust)})
    names = sorted(path.name for path in out.iterdir())
    told = changed.markdown if format_ == "md" else changed.text
    lines(told(change, names, folder=str(out), command=command, lang=lang))


def _again(out: Path, given: dict[str, Any], many: dict[str, Sequence[str]]) -> str:
    """Return the command that audits the hardened model on the same data."""
    said = ["casemate", "audit", str(out)]
    for option, value in given.items():
        said += [option, str(value)] if value else []
    for option, values in many.items():
        for value in values:
            said += [option, value]
    return shlex.join([*said, "--like", "before.json", "--out", "after.json"])
