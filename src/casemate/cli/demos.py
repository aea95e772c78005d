# SPDX-License-Identifier: Apache-2.0
"""The command that shows the whole: attack a model, protect it, attack it again, and say what that cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from casemate.cli.helping import Command
from casemate.cli.options import Jobs, Lang, Quiet, Seed, Verbose, app
from casemate.cli.reading import n_jobs_of, options_of
from casemate.cli.terminal import judged, lines, parallel, with_paths, working


@app.command(cls=Command)
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
    """Train models on real records that ship in Python packages; attack, protect, and attack them again."""
    lang = options_of(lang, "text")
    n_jobs = n_jobs_of(jobs)
    from casemate import demo as demos

    case = demos.case(name, small_data=small, seed=seed or 0)
    folder = demos.folder_for(case.name, out)
    with working(verbose, quiet, lang=lang) as progress, parallel(n_jobs):
        outcome = demos.run(case, seed=seed or 0, progress=progress)
    written = outcome.save(folder, ("casemate", *ctx.obj), lang=lang)
    *body, last = outcome.said[lang]
    first, *others = written
    lines(*body, with_paths(last, [str(folder / first), *others], lang=lang))
    raise typer.Exit(max(judged(report, set(), lang=lang) for report in outcome.reports.values()))
