# SPDX-License-Identifier: Apache-2.0
"""The application, and the options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from casemate import __version__
from casemate.cli.helping import Group
from casemate.cli.terminal import lines

app = typer.Typer(
    name="casemate",
    cls=Group,
    help="Attack, protect, explain and measure machine-learning models.",
    epilog="Exit codes: 0 done, gates held; 1 a gate failed; 2 wrong input; 3 something required could not be "
    "measured; 4 input refused; 5 our fault; 130 interrupted.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A model file, a folder (of harden, Hugging Face), package.module:function, or a URL (audit).",
    ),
]
Factory = Annotated[
    str | None,
    typer.Option(metavar="P.M:F", help="Builds the module whose weights MODEL holds (torch)."),
]
Trust = Annotated[
    list[str] | None,
    typer.Option(metavar="P.CLASS", help="Let a model file name this class or function; may be repeated."),
]
SchemaFile = Annotated[
    Path | None,
    typer.Option("--schema", metavar="FILE", help="What the columns are, as edited (casemate schema)."),
]
Authorised = Annotated[
    str | None,
    typer.Option(
        metavar="NAME, DATE", help="Who allowed this audit of an endpoint (MODEL is a URL), and when."
    ),
]
EndpointText = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        metavar="K=V,...",
        help="Keys: form, outputs, token (name of a variable), n_queries, batch_size, per_second, timeout_seconds, "
        "retries, wait_seconds.",
    ),
]
Classes = Annotated[
    list[str] | None, typer.Option(metavar="A,B", help="Labels in the order of an endpoint's scores.")
]
Train = Annotated[
    Path,
    typer.Option(
        metavar="FILE",
        help="Rows the model was trained on (CSV, TSV, Parquet, JSON lines, npz), or a folder of classes.",
    ),
]
Holdout = Annotated[Path, typer.Option(metavar="FILE", help="Rows of the same source it never saw.")]
Label = Annotated[
    str | None, typer.Option(metavar="COL", help="Column the model predicts; of a folder: the names in it.")
]
Text = Annotated[str | None, typer.Option(metavar="COL", help="Column of texts that alone the model reads.")]
Size = Annotated[
    str | None,
    typer.Option(metavar="HxW", help="Height and width that the images of a folder are brought to."),
]
Pixels = Annotated[
    str | None,
    typer.Option(metavar="unit|byte", help="Images of a folder go from 0 to 1 (default) or from 0 to 255."),
]
Person = Annotated[str | None, typer.Option(metavar="COL", help="Column that says whose row it is.")]
Drop = Annotated[list[str] | None, typer.Option(metavar="A,B", help="Columns the model does not use.")]
Missing = Annotated[
    list[str] | None, typer.Option(metavar="TEXT", help="Cell text that means missing; may be repeated.")
]
Immutable = Annotated[list[str] | None, typer.Option(metavar="A,B", help="Columns nobody can change.")]
Sensitive = Annotated[list[str] | None, typer.Option(metavar="A,B", help="Columns to slice results by.")]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        metavar="LIST",
        help="Methods, with parameters: lira:n_shadows=32,pgd:steps=40. Naming one makes it required.",
    ),
]
ThreatText = Annotated[
    str | None,
    typer.Option("--threat", metavar="K=V,...", help="Keys: norm, radius, scale, goal, n_queries."),
]
Format = Annotated[str, typer.Option("--format", metavar="text|json", help="What goes to stdout.")]
Formats = Annotated[
    str, typer.Option("--format", metavar="text|json|md", help="What goes to stdout; md: Markdown.")
]
Lang = Annotated[
    str,
    typer.Option(metavar="en|zh-CN", envvar="CASEMATE_LANG", help="Language of results, errors and help."),
]
Jobs = Annotated[
    int | None, typer.Option(metavar="N", help="Worker processes; default: all cores. Same result.")
]
Device = Annotated[str | None, typer.Option(metavar="D", help="Where a torch model runs, e.g. cuda.")]
Html = Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the page for readers.")]
Public = Annotated[
    bool,
    typer.Option(
        "--public",
        help="Give out the public edition only: aggregates, no names; not for --like or to compare.",
    ),
]
Seed = Annotated[int | None, typer.Option(metavar="N", min=0, help="Seed of every draw; default: 0.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log, warnings and tracebacks on stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


@app.callback(invoke_without_command=True)
def _casemate(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
    lang: Lang = "en",  # noqa: ARG001  (speaking.py reads it from the command line)
) -> None:
    if version:
        lines(f"casemate {__version__}")
        raise typer.Exit
