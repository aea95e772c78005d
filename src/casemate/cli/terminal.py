# SPDX-License-Identifier: Apache-2.0
"""What reaches the terminal: the result on stdout, progress and errors on stderr, nothing that a file smuggled in."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING
from unicodedata import category

from casemate.core.errors import InvalidData

if TYPE_CHECKING:
    from casemate.report.model import Report


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
def working(verbose: bool, quiet: bool) -> Iterator[Progress]:
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
    emit("".join(f"{clean(line)}\n" for text in texts for line in text.splitlines()))


def with_paths(text: str, paths: Sequence[str]) -> str:
    """Add where the result was written."""
    return "; ".join([text.rstrip(), ", ".join(paths) or "not saved (--out report.json)"])


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


def fail(line: str, code: int) -> int:
    """Say why on stderr and return the exit code."""
    print(line, file=sys.stderr)
    return code


def judged(report: Report, required: set[str]) -> int:
    """Return the exit code of an audit, and say on stderr why it is not 0; ``required`` must have been measured."""
    failed = {item["name"]: item["reason"] for item in report.methods if item["status"] == "failed"}
    for name, reason in failed.items():
        fail(f"error: {name}: {one_line(reason)} (run with -v for the traceback)", 5)
    if failed:
        return 5
    measured = {row.method for row in report.measurements if row.status != "not_measured"}
    lacking = sorted(required - measured)
    for name in lacking:
        reason = next((row.reason for row in report.measurements if row.method == name), "it gave no number")
        fail(f"error: {name} was asked for and could not be measured: {one_line(reason)}", 3)
    return 3 if lacking else 0
