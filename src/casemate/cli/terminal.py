# SPDX-License-Identifier: Apache-2.0
"""What reaches the terminal: the result on stdout, progress and errors on stderr, nothing that a file smuggled in."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING
from unicodedata import category, east_asian_width

from casemate.cli.speaking import say
from casemate.core.errors import InvalidData

if TYPE_CHECKING:
    from casemate.report.model import Report


TRACEBACK = "run with -v for the traceback"


class Progress:
    """One line on a terminal, written over again; nothing elsewhere."""

    def __init__(self, *, quiet: bool, lang: str = "en") -> None:
        self.stream = sys.stderr
        self.shown = not quiet and self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self.start, self.last = time.monotonic(), 0.0
        self.lang = lang

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if self.shown and (now - self.last > 0.1 or done == total):
            self.last = now
            width = max(20, shutil.get_terminal_size().columns - 1)
            self._write(
                _cut(clean(f"{now - self.start:4.0f} s  {say(what, self.lang)} {done}/{total}"), width)
            )

    def close(self) -> None:
        if self.shown:
            self._write("")

    def _write(self, text: str) -> None:
        self.stream.write(f"\r\x1b[K{text}")
        self.stream.flush()


@contextlib.contextmanager
def working(verbose: bool, quiet: bool, *, lang: str = "en") -> Iterator[Progress]:
    """Keep what other code prints and warns off stdout, and show progress."""
    import logging

    progress = Progress(quiet=quiet, lang=lang)
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
def parallel(n_jobs: int) -> Iterator[None]:
    """Spread work over processes of one thread each. Ctrl-C is this process's to handle, not theirs."""
    import signal

    from joblib import parallel_config

    if n_jobs == 1:
        yield
        return
    calm = {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_IGN)}
    with parallel_config(backend="loky", n_jobs=n_jobs, inner_max_num_threads=1, **calm):
        yield


def clean(text: str) -> str:
    """Make text from files and other code harmless on a terminal: control characters are shown, not obeyed.

    >>> clean("a" + chr(27) + "[2J") == "a" + chr(92) + "x1b[2J"
    True
    """
    if text.isascii() and text.isprintable():
        return text
    hidden = (category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") for char in text)
    return "".join(ascii(char)[1:-1] if hide else char for char, hide in zip(text, hidden, strict=True))


def lines(*texts: str) -> None:
    """Write lines to stdout, control characters shown."""
    emit("".join(f"{clean(line)}\n" for text in texts for line in text.removesuffix("\n").split("\n")))


def _cut(text: str, room: int) -> str:
    """Return as much of a line as fits the columns of a terminal, where Chinese letters take two."""
    taken = itertools.accumulate(2 if east_asian_width(sign) in "WF" else 1 for sign in text)
    return "".join(sign for sign, end in zip(text, taken, strict=True) if end <= room)


def with_paths(text: str, paths: Sequence[str], *, lang: str = "en") -> str:
    """Add where the result was written."""
    where = ", ".join(paths) or say("not saved (--out report.json)", lang)
    return ("; " if lang == "en" else "；").join([text.rstrip(), where])


class ReaderGone(Exception):
    """Nobody reads our standard output any more (`casemate ... | head`)."""


def emit(text: str) -> None:
    """Write to stdout at once."""
    with heard():
        sys.stdout.write(text)
        sys.stdout.flush()


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Turn a standard output that cannot be written into our errors."""
    try:
        yield
    except OSError as error:
        with contextlib.suppress(
            OSError, ValueError
        ):  # what is left in the buffer must not fail again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise ReaderGone from error
        raise InvalidData(f"cannot write to standard output: {error.strerror or error}") from error


def one_line(error: object) -> str:
    """Return an error as one printable line."""
    return clean(" ".join(str(error).split())) or type(error).__name__


def fail(text: str, code: int, *, hint: str = "", lang: str = "en") -> int:
    """Say why on stderr, with what may help in brackets, and return the exit code."""
    told, more = say(text, lang), say(hint, lang)
    if lang == "en":
        print(f"error: {told} ({more})" if more else f"error: {told}", file=sys.stderr)
    else:
        print(f"错误：{told}（{more}）" if more else f"错误：{told}", file=sys.stderr)
    return code


def judged(report: Report, required: set[str], *, lang: str = "en") -> int:
    """Return the exit code of an audit, and say on stderr why it is not 0; ``required`` must have been measured."""
    from casemate.report import words

    failed = {item["name"]: item["reason"] for item in report.methods if item["status"] == "failed"}
    for name, reason in failed.items():
        fail(f"{name}: {one_line(reason)}", 5, hint=TRACEBACK, lang=lang)
    if failed:
        return 5
    # what came out inconclusive was looked at, but shows nothing
    measured = {row.method for row in report.measurements if row.status == "measured" and words.headline(row)}
    lacking = sorted(required - measured)
    for name in lacking:
        reason = next(
            (row.reason for row in report.measurements if row.method == name and row.reason),
            "it gave no number",
        )
        fail(f"{name} was asked for and could not be measured: {one_line(reason)}", 3, lang=lang)
    return 3 if lacking else 0
