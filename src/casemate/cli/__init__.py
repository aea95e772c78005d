# SPDX-License-Identifier: Apache-2.0
"""The verbs for the shell. stdout is the result, stderr is progress and errors; the exit code does not depend on
the format. Nothing but typer is imported until a command runs.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import typer

from casemate.cli import auditing, budget, demos, hardening, looking
from casemate.cli.options import app
from casemate.cli.reading import read_methods, read_threat
from casemate.cli.speaking import handed_on, language
from casemate.cli.terminal import TRACEBACK, Progress, ReaderGone, clean, fail, heard, one_line
from casemate.core.errors import CasemateError

__all__ = [
    "Progress",
    "app",
    "auditing",
    "budget",
    "clean",
    "demos",
    "hardening",
    "looking",
    "main",
    "read_methods",
    "read_threat",
    "run",
]
INTERRUPTED, BROKEN_PIPE = 130, 141  # as a shell reports a process ended by SIGINT, SIGPIPE
# typer carries its own copy of click since 0.2x: the classes are found through the one that both name publicly
_ClickError: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


def run(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code; every error is one line on stderr."""
    argv = list(argv) or ["--help"]
    # help is written by typer itself; elsewhere an OSError need not be about standard output
    reading = heard() if {"-h", "--help"} & set(argv) else contextlib.nullcontext()
    verbose = bool({"-v", "--verbose"} & set(argv))
    lang = language(argv)
    try:
        with reading:
            code = app(args=handed_on(argv), prog_name="casemate", standalone_mode=False, obj=tuple(argv))
    except ReaderGone:
        return BROKEN_PIPE
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except SystemExit as error:
        return fail(f"MODEL's own code ended the program (SystemExit: {one_line(error)})", 2, lang=lang)
    except _ClickError as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "casemate"
        return fail(one_line(error.format_message()), 2, hint=f"see {path} --help", lang=lang)
    except CasemateError as error:
        if verbose:
            traceback.print_exc()
        return fail(one_line(error), error.exit_code, lang=lang)
    except Exception as error:  # noqa: BLE001  (the last resort: said in one line, exit code 5)
        if verbose:
            traceback.print_exc()
        what = f"internal error: {type(error).__name__}: {one_line(error)}"
        return fail(what, 5, hint="" if verbose else TRACEBACK, lang=lang)
    if code == INTERRUPTED:  # typer turns Ctrl-C into this code
        return fail("interrupted; no file is half-written", INTERRUPTED, lang=lang)
    return code if isinstance(code, int) else 0


def main() -> None:
    """Run as a program. Whatever else prints to file descriptor 1, workers too, lands on stderr."""
    if sys.stderr is None:  # closed: what would be said there is lost, and must not land in a file of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        sys.stderr = os.fdopen(2, "w", closefd=False)
    if sys.stdout is None:
        closed = "standard output is closed, and it is where the result goes"
        sys.exit(fail(closed, 2, lang=language(sys.argv[1:])))
    kept = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(kept, "w", encoding=sys.stdout.encoding, errors="backslashreplace", closefd=False)
    if not {"-v", "--verbose"} & set(sys.argv[1:]):
        os.environ.setdefault("PYTHONWARNINGS", "ignore")  # of the worker processes
    sys.exit(run(sys.argv[1:]))
