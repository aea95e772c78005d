# SPDX-License-Identifier: Apache-2.0
"""Commands that measure: audit, compare. Nothing but typer is imported until one runs."""

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
    Formats,
    Holdout,
    Html,
    Immutable,
    Jobs,
    Label,
    Lang,
    Methods,
    Missing,
    Model,
    Person,
    Pixels,
    Public,
    Quiet,
    SchemaFile,
    Seed,
    Sensitive,
    Size,
    Text,
    ThreatText,
    Train,
    Trust,
    Verbose,
    app,
)
from casemate.cli.reading import (
    is_endpoint,
    listed,
    n_jobs_of,
    options_of,
    read_data,
    read_endpoint,
    read_methods,
    read_threat,
    writable,
)
from casemate.cli.terminal import emit, judged, lines, parallel, with_paths, working
from casemate.core.errors import InvalidData

EFFORTS = ("quick", "standard", "deep")


@app.command(cls=Command)
def audit(
    ctx: typer.Context,
    model: Model,
    train: Train,
    holdout: Holdout,
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
    authorised: Authorised = None,
    endpoint: EndpointText = None,
    classes: Classes = None,
    methods: Methods = None,
    threat: ThreatText = None,
    effort: Annotated[
        str | None, typer.Option(metavar="quick|standard|deep", help="How hard to try; default: quick.")
    ] = None,
    seed: Seed = None,
    like: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Earlier report on the same data: repeat it, to compare."),
    ] = None,
    jobs: Jobs = None,
    device: Device = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the evidence: report.json (private).")
    ] = None,
    html: Html = None,
    show_records: Annotated[
        bool, typer.Option("--show-records", help="Show single records as examples in the results.")
    ] = False,
    public: Public = False,
    format_: Formats = "text",
    lang: Lang = "en",
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Attack and check a model; print every number with its interval and its attacker."""
    lang = options_of(lang, format_, "md")
    if effort not in (None, *EFFORTS):
        raise InvalidData(f"--effort {effort!r} is unknown; use quick, standard or deep")
    if public and show_records:
        raise InvalidData("--public leaves all single records out; leave --show-records out too")
    for option, path, suffix in (("--out", out, ".json"), ("--html", html, ".html")):
        writable(option, path, suffix)
    specs, attacker = read_methods(methods), read_threat(threat)
    n_jobs = n_jobs_of(jobs)
    from dataclasses import replace

    from casemate import api
    from casemate.report.model import Report

    for spec in specs or ():
        api.method(spec.name, **spec.params)  # a wrong name or parameter is said before minutes of work
    earlier = Report.load(like) if like is not None else None
    if earlier is not None and earlier.edition == "public":
        raise InvalidData(
            f"--like {like} is a public edition: no records can be paired; use the internal report"
        )
    for option, given, was in (("--effort", effort, "effort"), ("--seed", seed, "seed")):
        if earlier is not None and given not in (None, getattr(earlier, was)):
            raise InvalidData(f"--like repeats {was} {getattr(earlier, was)}; leave {option} {given} out")
    with working(verbose, quiet, lang=lang) as progress, parallel(n_jobs):
        columns: dict[str, Any] = {"drop": drop, "immutable": immutable, "sensitive": sensitive}
        columns |= {"missing": missing, "schema": schema, "text": text, "size": size, "pixels": pixels}
        data = read_data(train, holdout, label=label, person=person, **columns)
        if is_endpoint(model) or authorised or endpoint or classes:
            target = read_endpoint(model, authorised=authorised, settings=endpoint, classes=classes)
        else:
            target = api.load(model, device=device, factory=factory, trust=listed(trust))
        options: dict[str, Any] = {"effort": effort or "quick", "seed": seed or 0, "like": earlier}
        options |= {"show_records": show_records, "progress": progress}
        report = api.audit(target, data, methods=specs, threat=attacker, **options)
    report = replace(report, command=("casemate", *ctx.obj))
    shown = report.public() if public else report
    written = [str(shown.save(path, lang=lang)) for path in (out, html) if path is not None]
    if format_ == "json":
        emit(shown.to_json())
    elif format_ == "md":
        from casemate.report import markdown

        emit(markdown.of_report(shown, lang))
    else:
        from casemate.report import plain

        lines(with_paths(plain.text(shown, lang), written, lang=lang))
    raise typer.Exit(judged(report, {spec.name for spec in specs or ()}, lang=lang))


@app.command(cls=Command)
def compare(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="report.json")],
    after: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[AFTER]...", help="Made with --like BEFORE; none: judge BEFORE."),
    ] = None,
    gates: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Thresholds that must hold (TOML).")
    ] = None,
    html: Html = None,
    public: Public = False,
    format_: Formats = "text",
    lang: Lang = "en",
) -> None:
    """Compare audits of the same data, pair by pair, and judge the gates that are set."""
    lang = options_of(lang, format_, "md")
    writable("--html", html, ".html")
    from casemate import api
    from casemate.report import plain
    from casemate.report.model import Report

    if not after and gates is None and not public:
        raise InvalidData("give a second report to compare with, or --gates to judge the one")
    reports = [Report.load(path) for path in (before, *(after or ()))]
    comparison = api.compare(*reports, gates=gates)
    if public:
        from casemate.report.public import of_comparison

        comparison = of_comparison(comparison)
    if html is not None:
        comparison.save(html, lang=lang)
    if format_ == "json":
        emit(comparison.to_json())
    elif format_ == "md":
        from casemate.report import markdown

        emit(markdown.of_comparison(comparison, lang))
    else:
        written = [] if html is None else [str(html)]
        lines(with_paths(plain.text_comparison(comparison, lang), written, lang=lang))
    raise typer.Exit(comparison.exit_code)
