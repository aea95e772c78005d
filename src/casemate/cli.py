# SPDX-License-Identifier: Apache-2.0
"""The verbs for the shell. stdout is the result, stderr is progress and errors; the exit code does not depend on
the format. Nothing but typer is imported until a command runs.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from unicodedata import category

import typer

from casemate import __version__
from casemate.core.errors import CasemateError, InvalidData

if TYPE_CHECKING:
    from casemate.core.methods import Spec
    from casemate.core.types import Threat
    from casemate.report.model import Report

EFFORTS = ("quick", "standard", "deep")
INTERRUPTED, BROKEN_PIPE = 130, 141  # as a shell reports a process ended by SIGINT, SIGPIPE
# typer carries its own copy of click since 0.2x: the classes are found through the one that both name publicly
_ClickError: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

app = typer.Typer(
    name="casemate",
    help="Attack, protect, explain and measure machine-learning models.",
    epilog="Exit codes: 0 done, gates held; 1 a gate failed; 2 wrong input; 3 something required could not be "
    "measured; 4 input refused; 5 our fault; 130 interrupted.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="package.module:function returning a model.")]
Train = Annotated[
    Path, typer.Option(metavar="FILE", help="Rows the model was trained on (CSV, TSV, Parquet).")
]
Holdout = Annotated[Path, typer.Option(metavar="FILE", help="Rows of the same source it never saw.")]
Label = Annotated[str, typer.Option(metavar="COL", help="Column the model predicts.")]
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
Lang = Annotated[
    str, typer.Option(metavar="en|zh-CN", envvar="CASEMATE_LANG", help="Language of the result, on stdout.")
]
Jobs = Annotated[
    int | None, typer.Option(metavar="N", help="Worker processes; default: all cores. Same result.")
]
Device = Annotated[str | None, typer.Option(metavar="D", help="Where a torch model runs, e.g. cuda.")]
Html = Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the page for readers.")]
Seed = Annotated[int | None, typer.Option(metavar="N", min=0, help="Seed of every draw; default: 0.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log, warnings and tracebacks on stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


@app.callback(invoke_without_command=True)
def _casemate(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if version:
        _lines(f"casemate {__version__}")
        raise typer.Exit


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
    format_: Format = "text",
    lang: Lang = "en",
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Attack and check a model; print every number with its interval and its attacker."""
    lang = _options(lang, format_)
    if effort not in (None, *EFFORTS):
        raise InvalidData(f"--effort {effort!r} is unknown; use quick, standard or deep")
    for option, path, suffix in (("--out", out, ".json"), ("--html", html, ".html")):
        _writable(option, path, suffix)
    specs, attacker = read_methods(methods), read_threat(threat)
    n_jobs = _n_jobs(jobs)
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
    with _working(verbose, quiet) as progress, _parallel(n_jobs):
        columns = {"drop": _list(drop), "immutable": _list(immutable), "sensitive": _list(sensitive)}
        data = Dataset.from_files(
            train, holdout, label=label, person=person, missing=missing or (), **columns
        )
        target = api.load(model, device=device)
        options: dict[str, Any] = {"effort": effort or "quick", "seed": seed or 0, "like": earlier}
        report = api.audit(target, data, methods=specs, threat=attacker, progress=progress, **options)
    report = replace(report, command=("casemate", *ctx.obj))
    written = [str(report.save(path)) for path in (out, html) if path is not None]
    if format_ == "json":
        _emit(report.to_json())
    else:
        from casemate.report import plain

        _lines(_with_paths(plain.text(report, lang), written))
    raise typer.Exit(_judged(report, {spec.name for spec in specs or ()}))


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
    lang = _options(lang, format_)
    _writable("--html", html, ".html")
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
        _emit(comparison.to_json())
    else:
        _lines(_with_paths(plain.text_comparison(comparison, lang), [] if html is None else [str(html)]))
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
    lang = _options(lang, "text")
    n_jobs = _n_jobs(jobs)
    from dataclasses import replace

    from casemate import demo as demos
    from casemate.report import plain

    case = demos.case(name, small_data=small, seed=seed or 0)
    folder = demos.folder_for(case.name, out)
    with _working(verbose, quiet) as progress, _parallel(n_jobs):
        report = demos.run(case, seed=seed or 0, progress=progress)
    report = replace(report, command=("casemate", *ctx.obj))
    written = [str(report.save(folder / name)) for name in ("report.json", "report.html")]
    *body, last = plain.text(report, lang, lines=plain.LINES - 3).splitlines()
    _lines(case.title, case.about, *body, demos.in_plain_words(report, lang), _with_paths(last, written))
    raise typer.Exit(_judged(report, set()))


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

    lang = _options(lang, "text")
    if markdown is not None:
        written = cards.write(markdown, every() if name is None else [find(name)])
        _lines(f"{len(written)} pages in {markdown}")
    elif name is not None:
        _lines(cards.page(find(name)))
    else:
        _lines(cards.table(every(), lang))


@app.command()
def doctor(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="package.module:function to look at.")
    ] = None,
    train: Annotated[Path | None, typer.Option(metavar="FILE")] = None,
    holdout: Annotated[Path | None, typer.Option(metavar="FILE")] = None,
    label: Annotated[str | None, typer.Option(metavar="COL")] = None,
    person: Person = None,
    drop: Drop = None,
    missing: Missing = None,
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
        with _working(verbose, quiet=True):
            data = None
            if train is not None and holdout is not None and label is not None:
                from casemate.core.data import Dataset

                options: dict[str, Any] = {"person": person, "drop": _list(drop), "missing": missing or ()}
                data = Dataset.from_files(train, holdout, label=label, **options)
            text, ok = physician.recognised(api.load(model, device=device), data)
    _lines(text)
    raise typer.Exit(0 if ok else 3)


# ---- reading what was typed ----


def read_methods(texts: Sequence[str] | None) -> list[Spec] | None:
    """Read ``lira:n_shadows=32,pgd:steps=40,restarts=2``.

    Commas separate. A piece that has ``=`` before any ``:`` is a further parameter of the method before it; any
    other piece begins a method. Values are whole numbers, numbers, true, false, none or text.

    >>> [(spec.name, dict(spec.params)) for spec in read_methods(["lira:n_shadows=32,a=1.5,pgd"])]
    [('lira', {'n_shadows': 32, 'a': 1.5}), ('pgd', {})]
    """
    from casemate.core.methods import Spec

    if texts is None:
        return None
    found: dict[str, dict[str, Any]] = {}
    current = ""
    for piece in (piece.strip() for text in texts for piece in text.split(",")):
        mark = re.search("[:=]", piece)
        if mark is None or mark.group() == ":":
            current, _, piece = piece.partition(":")
            if not current:
                raise InvalidData(f"--methods {','.join(texts)!r}: a method has no name")
            if current in found:
                raise InvalidData(f"--methods names {current!r} twice")
            found[current] = {}
            if mark is None:
                continue
        key, sign, value = piece.partition("=")
        if not current or not key.strip() or not sign or not value.strip():
            raise InvalidData(f"--methods: cannot read {piece!r}; write name:key=value,key=value")
        found[current][key.strip()] = _value(value.strip())
    return [Spec(name, params) for name, params in found.items()]


def read_threat(text: str | None) -> Threat | None:
    """Read ``norm=linf,radius=0.3,goal=1``.

    >>> read_threat("norm=l2,radius=0.5").norm
    'l2'
    """
    from casemate.core.types import Threat

    if text is None:
        return None
    forms: dict[str, type] = {"norm": str, "radius": float, "scale": str, "goal": int, "n_queries": int}
    values: dict[str, Any] = {}
    for piece in text.split(","):
        key, sign, value = (part.strip() for part in piece.partition("="))
        if not sign or key not in forms or key in values:
            raise InvalidData(f"--threat: cannot read {piece!r}; keys, once each, are: {', '.join(forms)}")
        try:
            values[key] = forms[key](value)
        except ValueError:
            kind = "a whole number" if forms[key] is int else "a number"
            raise InvalidData(f"--threat: {key} must be {kind}; got {value!r}") from None
    return Threat(**values)


def _value(text: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for form in (int, float):
        with contextlib.suppress(ValueError):
            return form(text)
    return text


def _list(texts: Sequence[str] | None) -> list[str]:
    return [name.strip() for text in texts or () for name in text.split(",") if name.strip()]


def _options(lang: str, format_: str) -> str:
    if format_ not in ("text", "json"):
        raise InvalidData(f"--format {format_!r} is unknown; use text or json")
    known = {"en": "en", "zh": "zh-CN", "zh-cn": "zh-CN"}
    if lang.lower() not in known:
        raise InvalidData(f"--lang {lang!r} is unknown; use en or zh-CN (also read from CASEMATE_LANG)")
    return known[lang.lower()]


def _n_jobs(jobs: int | None) -> int:
    from joblib import cpu_count

    if jobs is not None and jobs < 1:
        raise InvalidData(f"--jobs must be 1 or more; got {jobs}")
    return int(jobs or cpu_count())


def _writable(option: str, path: Path | None, suffix: str) -> None:
    """Refuse at once a path that could not be written after minutes of work."""
    import tempfile

    if path is None:
        return
    folder = path.parent
    if path.suffix.lower() != suffix:
        raise InvalidData(f"{option} {path} must end in {suffix}")
    if not folder.is_dir():
        raise InvalidData(f"{option} {path}: there is no folder {folder}; make it first")
    if path.exists() and not path.is_file():
        raise InvalidData(f"{option} {path}: it is there and not a plain file")
    try:
        with tempfile.TemporaryFile(dir=folder):  # asking for permissions is not enough: trying tells
            pass
    except OSError as error:
        raise InvalidData(
            f"{option} {path}: {folder} cannot be written ({error.strerror or error})"
        ) from error


# ---- doing it ----


class Progress:
    """One line on a terminal, written over again; nothing elsewhere."""

    def __init__(self, *, quiet: bool) -> None:
        self.stream = sys.stderr
        self.shown = not quiet and self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self.start, self.last = time.monotonic(), 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if self.shown and (now - self.last > 0.1 or done == total):
            self.last = now
            width = max(20, shutil.get_terminal_size().columns - 1)
            self._write(clean(f"{now - self.start:4.0f} s  {what} {done}/{total}")[:width])

    def close(self) -> None:
        if self.shown:
            self._write("")

    def _write(self, text: str) -> None:
        self.stream.write(f"\r\x1b[K{text}")
        self.stream.flush()


@contextlib.contextmanager
def _working(verbose: bool, quiet: bool) -> Iterator[Progress]:
    """Keep what other code prints and warns off stdout, and show progress."""
    import logging

    progress = Progress(quiet=quiet)
    logger = logging.getLogger("casemate")
    handler: logging.Handler = logging.StreamHandler(sys.stderr) if verbose else logging.NullHandler()
    before = logger.propagate, logger.level
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.INFO if verbose else logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            if not verbose:
                warnings.simplefilter("ignore")
            yield progress
    finally:
        logger.removeHandler(handler)
        logger.propagate, level = before
        logger.setLevel(level)
        progress.close()


@contextlib.contextmanager
def _parallel(n_jobs: int) -> Iterator[None]:
    """Spread work over processes of one thread each. Ctrl-C is this process's to handle, not theirs."""
    import signal

    from joblib import parallel_config

    if n_jobs == 1:
        yield
        return
    calm = {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_IGN)}
    with parallel_config(backend="loky", n_jobs=n_jobs, inner_max_num_threads=1, **calm):
        yield


def _judged(report: Report, required: set[str]) -> int:
    """Return the exit code of an audit, and say on stderr why it is not 0; ``required`` must have been measured."""
    failed = {item["name"]: item["reason"] for item in report.methods if item["status"] == "failed"}
    for name, reason in failed.items():
        _fail(f"error: {name}: {_one_line(reason)} (run with -v for the traceback)", 5)
    if failed:
        return 5
    measured = {row.method for row in report.measurements if row.status != "not_measured"}
    lacking = sorted(required - measured)
    for name in lacking:
        reason = next((row.reason for row in report.measurements if row.method == name), "it gave no number")
        _fail(f"error: {name} was asked for and could not be measured: {_one_line(reason)}", 3)
    return 3 if lacking else 0


# ---- saying it ----


def clean(text: str) -> str:
    """Make text from files and other code harmless on a terminal: control characters are shown, not obeyed.

    >>> clean("a" + chr(27) + "[2J") == "a" + chr(92) + "x1b[2J"
    True
    """
    if text.isascii() and text.isprintable():
        return text
    hidden = (category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") for char in text)
    return "".join(ascii(char)[1:-1] if hide else char for char, hide in zip(text, hidden, strict=True))


def _lines(*texts: str) -> None:
    _emit("".join(f"{clean(line)}\n" for text in texts for line in text.splitlines()))


def _with_paths(text: str, paths: Sequence[str]) -> str:
    return "; ".join([text.rstrip(), ", ".join(paths) or "not saved (--out report.json)"])


class _ReaderGone(Exception):
    """Nobody reads our standard output any more (`casemate ... | head`)."""


def _emit(text: str) -> None:
    with _heard():
        sys.stdout.write(text)
        sys.stdout.flush()


@contextlib.contextmanager
def _heard() -> Iterator[None]:
    """Turn a standard output that cannot be written into our errors."""
    try:
        yield
    except OSError as error:
        with contextlib.suppress(
            OSError, ValueError
        ):  # what is left in the buffer must not fail again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise _ReaderGone from error
        raise InvalidData(f"cannot write to standard output: {error.strerror or error}") from error


def _one_line(error: object) -> str:
    return clean(" ".join(str(error).split())) or type(error).__name__


def run(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code; every error is one line on stderr."""
    argv = list(argv) or ["--help"]
    # help is written by typer itself; elsewhere an OSError need not be about standard output
    reading = _heard() if {"-h", "--help"} & set(argv) else contextlib.nullcontext()
    verbose = bool({"-v", "--verbose"} & set(argv))
    try:
        with reading:
            code = app(args=argv, prog_name="casemate", standalone_mode=False, obj=tuple(argv))
    except _ReaderGone:
        return BROKEN_PIPE
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except SystemExit as error:
        return _fail(f"error: MODEL's own code ended the program (SystemExit: {_one_line(error)})", 2)
    except _ClickError as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "casemate"
        return _fail(f"error: {_one_line(error.format_message())} (see {path} --help)", 2)
    except CasemateError as error:
        if verbose:
            traceback.print_exc()
        return _fail(f"error: {_one_line(error)}", error.exit_code)
    except Exception as error:  # noqa: BLE001  (the last resort: said in one line, exit code 5)
        if verbose:
            traceback.print_exc()
        said = f"{type(error).__name__}: {_one_line(error)}"
        hint = "" if verbose else " (run with -v for the traceback)"
        return _fail(f"error: internal error: {said}{hint}", 5)
    if code == INTERRUPTED:  # typer turns Ctrl-C into this code
        return _fail("error: interrupted; no file is half-written", INTERRUPTED)
    return code if isinstance(code, int) else 0


def _fail(line: str, code: int) -> int:
    print(line, file=sys.stderr)
    return code


def main() -> None:
    """Run as a program. Whatever else prints to file descriptor 1, workers too, lands on stderr."""
    if sys.stderr is None:  # closed: what would be said there is lost, and must not land in a file of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        sys.stderr = os.fdopen(2, "w", closefd=False)
    if sys.stdout is None:
        sys.exit(_fail("error: standard output is closed, and it is where the result goes", 2))
    kept = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(kept, "w", encoding=sys.stdout.encoding, errors="backslashreplace", closefd=False)
    if not {"-v", "--verbose"} & set(sys.argv[1:]):
        os.environ.setdefault("PYTHONWARNINGS", "ignore")  # of the worker processes
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
