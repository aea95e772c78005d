# SPDX-License-Identifier: Apache-2.0
"""Commands that measure: audit, compare, demo. Nothing but typer is imported until one runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from casemate.cli.options import (
    Device,
    Drop,
    Factory,
    Format,
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
    Quiet,
    SchemaFile,
    Seed,
    Sensitive,
    ThreatText,
    Train,
    Trust,
    Verbose,
    app,
)
from casemate.cli.reading import listed, n_jobs_of, options_of, read_methods, read_threat, writable
from casemate.cli.terminal import emit, judged, lines, parallel, with_paths, working
from casemate.core.errors import InvalidData

EFFORTS = ("quick", "standard", "deep")


@app.command()
def audit(
    ctx: typer.Context,
    model: Model,
    train: Train,
    holdout: Holdout,
    label: Label,
    person: Person = None,
    drop: Drop = None,
    missing: Missing = None,
    immutable: Immutable = None,
    sensitive: Sensitive = None,
    schema: SchemaFile = None,
    factory: Factory = None,
    trust: Trust = None,
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
    format_: Format = "text",
    lang: Lang = "en",
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Attack and check a model; print every number with its interval and its attacker."""
    lang = options_of(lang, format_)
    if effort not in (None, *EFFORTS):
        raise InvalidData(f"--effort {effort!r} is unknown; use quick, standard or deep")
    for option, path, suffix in (("--out", out, ".json"), ("--html", html, ".html")):
        writable(option, path, suffix)
    specs, attacker = read_methods(methods), read_threat(threat)
    n_jobs = n_jobs_of(jobs)
    from dataclasses import replace

    from casemate import api
    from casemate.core.data import Dataset
    from casemate.report.model import Report

    for spec in specs or ():
        api.method(spec.name, **spec.params)  # a wrong name or parameter is said before minutes of work
    earlier = Report.load(like) if like is not None else None
    for option, given, was in (("--effort", effort, "effort"), ("--seed", seed, "seed")):
        if earlier is not None and given not in (None, getattr(earlier, was)):
            raise InvalidData(f"--like repeats {was} {getattr(earlier, was)}; leave {option} {given} out")
    with working(verbose, quiet) as progress, parallel(n_jobs):
        columns = {"drop": listed(drop), "immutable": listed(immutable), "sensitive": listed(sensitive)}
        data = Dataset.from_files(
            train, holdout, label=label, person=person, missing=missing or (), schema=schema, **columns
        )
        target = api.load(model, device=device, factory=factory, trust=listed(trust))
        options: dict[str, Any] = {"effort": effort or "quick", "seed": seed or 0, "like": earlier}
        options |= {"show_records": show_records, "progress": progress}
        report = api.audit(target, data, methods=specs, threat=attacker, **options)
    report = replace(report, command=("casemate", *ctx.obj))
    written = [str(report.save(path)) for path in (out, html) if path is not None]
    if format_ == "json":
        emit(report.to_json())
    else:
        from casemate.report import plain

        lines(with_paths(plain.text(report, lang), written))
    raise typer.Exit(judged(report, {spec.name for spec in specs or ()}))


@app.command()
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
    format_: Format = "text",
    lang: Lang = "en",
) -> None:
    """Compare audits of the same data, pair by pair, and judge the gates that are set."""
    lang = options_of(lang, format_)
    writable("--html", html, ".html")
    from casemate import api
    from casemate.report import plain
    from casemate.report.model import Report

    if not after and gates is None:
        raise InvalidData("give a second report to compare with, or --gates to judge the one")
    reports = [Report.load(path) for path in (before, *(after or ()))]
    comparison = api.compare(*reports, gates=gates)
    if html is not None:
        comparison.save(html)
    if format_ == "json":
        emit(comparison.to_json())
    else:
        lines(with_paths(plain.text_comparison(comparison, lang), [] if html is None else [str(html)]))
    raise typer.Exit(comparison.exit_code)


@app.command()
def demo(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="[hospital|bank]", help="Which data.")] = "hospital",
    small: Annotated[
        bool, typer.Option("--small", help="Breast cancer data instead: takes seconds.")
    ] = False,
    seed: Seed = None,
    jobs: Jobs = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the results; default: casemate-demo-NAME.")
    ] = None,
    lang: Lang = "en",
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Train a forest on real records that ship in Python packages, and audit it (no hardening yet)."""
    lang = options_of(lang, "text")
    n_jobs = n_jobs_of(jobs)
    from dataclasses import replace

    from casemate import demo as demos
    from casemate.report import plain

    case = demos.case(name, small_data=small, seed=seed or 0)
    folder = demos.folder_for(case.name, out)
    with working(verbose, quiet) as progress, parallel(n_jobs):
        report = demos.run(case, seed=seed or 0, progress=progress)
    report = replace(report, command=("casemate", *ctx.obj))
    written = [str(report.save(folder / name)) for name in ("report.json", "report.html")]
    *body, last = plain.text(report, lang, lines=plain.LINES - 3).splitlines()
    lines(case.title, case.about, *body, demos.in_plain_words(report, lang), with_paths(last, written))
    raise typer.Exit(judged(report, set()))
