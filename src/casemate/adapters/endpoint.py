# SPDX-License-Identifier: Apache-2.0
"""A model behind an HTTP endpoint, as a predict function: asked politely, within a budget, and with leave.

Rows go out as JSON in the form of a common server, answers come back as class probabilities or labels::

    form           sent                                                   read
    instances      {"instances": [[...], ...]}                            {"predictions": [...]}
    records        {"instances": [{"age": ...}, ...]}                     {"predictions": [...]}
    dataframe      {"dataframe_split": {"columns", "data"}}               {"predictions": [...]}
    inputs         {"inputs": [{"name", "shape", "datatype", "data"}]}    {"outputs": [{"shape", "data"}]}

The first two are KServe's and TensorFlow Serving's V1 protocol, the third MLflow's, the last the Open Inference
Protocol (V2: KServe, Triton). HTTPS goes through the proxy that HTTPS_PROXY names, where NO_PROXY lets it. What an
endpoint answers is data of strangers: its size, its time and its shape are bounded, redirects are not followed, and
neither addresses nor errors repeat what may be a secret.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse
from typing import Any, Literal, NoReturn
from urllib.parse import SplitResult, urlsplit

import numpy as np

from casemate.adapters._proxy import LOCAL, connection
from casemate.core.errors import BudgetExhausted, InvalidData

Form = Literal["instances", "records", "dataframe", "inputs"]
FORMS: tuple[Form, ...] = ("instances", "records", "dataframe", "inputs")
BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})  # what may be over in a moment
_BODY = 64 * 2**20  # bytes of an answer; 1,000 rows of 1,000 classes fit
_WAIT = 30.0  # seconds that our own pauses between two tries grow to
_PAUSE = 0.5  # before the first repetition; doubled each time


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A predict function that asks a model over HTTP; ``cm.wrap(cm.Endpoint(...), classes=[...])`` makes a target.

    It counts every row sent, repetitions too, and stops at ``n_queries``: an attack must not become a bill or a
    denial of service. It measures nothing itself, and cannot tell whether the endpoint limits, rounds or logs.

    Args:
        url: ``https://host/path`` of the model's predict call; ``http`` too, which stands as a caveat unless local.
        authorised: who allowed this, and when: ``"A. Owner, 2026-11-23"``; written into the report.
        form: how rows are sent and answers read, see above.
        token: name of an environment variable that holds a bearer token; its value is read at each call, never kept.
        n_queries: rows that may be sent in all.
        batch_size: rows in one call.
        per_second: calls a second at most.
        timeout_seconds: for one call, from the first byte sent to the last one read.
        retries: how often a call that failed for a passing reason is repeated.
        wait_seconds: how long an endpoint may make one call wait in all (Retry-After is obeyed up to there).

    Raises:
        InvalidData: an address, form or number that cannot be used; in a call: no answer, or one that is no answer.
        BudgetExhausted: ``n_queries`` rows were sent, or it asks to wait longer than ``wait_seconds``.

    >>> Endpoint(url="https://models.example/v1/models/risk:predict", authorised="A. Owner, 2026-11-23").place
    'https://models.example/v1/models/risk:predict'
    """

    url: str
    authorised: str
    form: Form = "instances"
    token: str | None = None
    n_queries: int = 20_000
    batch_size: int = 256
    per_second: float = 10.0
    timeout_seconds: float = 30.0
    retries: int = 4
    wait_seconds: float = 300.0
    _sent: dict[str, float] = field(
        default_factory=lambda: {"rows": 0, "next": 0.0, "unreached": 0}, repr=False, compare=False
    )
    _lock: Any = field(default_factory=threading.Lock, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not all(part.strip() for part in f"{self.authorised}".partition(",")[::2]):
            raise InvalidData(
                f"authorised={self.authorised!r} must say who allowed this audit and when: 'name, date'"
            )
        parts = _split(self.url)
        if parts.username or parts.password or parts.query or parts.fragment:
            raise InvalidData(
                "the address of an endpoint may hold neither user, password, query nor fragment, for it is written "
                "into reports; give a secret by token='NAME_OF_ENVIRONMENT_VARIABLE'"
            )
        if self.form not in FORMS:
            raise InvalidData(f"form={self.form!r} is unknown; use {', '.join(FORMS)}")
        if self.token is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(self.token)):
            raise InvalidData(
                "token= is the name of an environment variable that holds the token, not the token"
            )
        for name, least in (("n_queries", 1), ("batch_size", 1), ("retries", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InvalidData(f"{name} must be a whole number >= {least}; got {value!r}")
        for name in ("per_second", "timeout_seconds", "wait_seconds"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise InvalidData(f"{name} must be a number > 0; got {value!r}")

    @property
    def place(self) -> str:
        """The address as a report may show it."""
        return self.url

    @property
    def digest(self) -> str:
        """A digest of the address: the model behind it cannot be seen from here."""
        return hashlib.blake2b(self.url.encode(), digest_size=32).hexdigest()

    @property
    def caveats(self) -> tuple[str, ...]:
        """What a reader must know of numbers got through this endpoint."""
        told = [
            f"The model was asked at {self.place} and cannot be seen: another model may answer there tomorrow."
        ]
        parts = _split(self.url)
        if parts.scheme == "http" and parts.hostname not in LOCAL:
            told.append("Rows and answers travelled without encryption (http).")
            if self.token is not None:
                told.append("The token travelled without encryption (http): replace it.")
        return tuple(told)

    def __deepcopy__(self, memo: dict[int, Any]) -> Endpoint:
        """Return itself: what was sent counts against one budget."""
        return self

    def __reduce__(self) -> NoReturn:
        raise InvalidData(
            "an endpoint keeps its budget and its rate in one process: run with one job, or wrap a predict function"
        )

    def __call__(self, rows: Any) -> np.ndarray:
        """Return what the endpoint answers to ``rows``: (n, classes) probabilities, or (n,) labels or values."""
        columns, cells = _cells(rows)
        if not cells:
            raise InvalidData("no rows were given; a prediction needs at least one")
        answers: list[np.ndarray] = []
        for start in range(0, len(cells), self.batch_size):
            part = cells[start : start + self.batch_size]
            got = _read(self.form, self._asked(_written(self.form, columns, part), len(part)), self.place)
            if len(got) != len(part):
                raise InvalidData(f"{self.place} gave {len(got)} answers to {len(part)} rows")
            if answers and (got.shape[1:], got.dtype.kind in "SU") != (
                answers[0].shape[1:],
                answers[0].dtype.kind in "SU",
            ):
                raise InvalidData(
                    f"{self.place} answered batches of different form: another number of classes or type"
                )
            answers.append(got)
        return np.concatenate(answers)

    @property
    def sent(self) -> Mapping[str, int]:
        """What has been counted: ``rows`` that were sent, and ``unreached`` tries, which never got a connection."""
        return {"rows": int(self._sent["rows"]), "unreached": int(self._sent["unreached"])}

    def probe(self, rows: Any) -> np.ndarray:
        """Ask once, whatever happens to that call; it counts against the same budget."""
        return replace(self, retries=0)(rows)

    # ------------------------------------------------------------------ one call

    def _asked(self, body: bytes, n: int) -> Any:
        """Send one call until it is answered; what passes by itself is waited for."""
        pause, waited = _PAUSE, 0.0
        for attempt in range(self.retries + 1):
            self._turn(n)
            status, raw, wait, why = self._once(body, n)
            if status == 200:
                return _parsed(raw, self.place)
            if status is not None and status not in BUSY:
                raise InvalidData(f"{self.place} refused the call: {_refusal(status, self.token)}")
            if attempt < self.retries:
                rest = min(_WAIT, pause) if wait is None else wait
                waited += rest
                if waited > self.wait_seconds:
                    raise BudgetExhausted(
                        f"{self.place} ({why}): the next try must wait {rest:.0f} s, {waited:.0f} s in all for one "
                        f"call, more than wait_seconds={self.wait_seconds:g}; try again later, lower per_second or "
                        "raise wait_seconds"
                    )
                time.sleep(rest)
                pause *= 2
        raise InvalidData(
            f"{self.place} gave no answer in {self.retries + 1} tries; the last one: {why}; try again later, or with a "
            "longer timeout_seconds or a smaller batch_size"
        )

    def _turn(self, n: int) -> None:
        """Count n rows and wait until the next call may go out."""
        with self._lock:
            if self._sent["rows"] + n > self.n_queries:
                raise BudgetExhausted(
                    f"query budget of {self.n_queries} rows used up at {self.place} (next call asks {n} more after "
                    f"{int(self._sent['rows'])}); raise n_queries, with leave of who runs the endpoint"
                )
            self._sent["rows"] += n
            now = time.monotonic()
            at = max(now, self._sent["next"])
            self._sent["next"] = at + 1 / self.per_second
        if at > now:
            time.sleep(at - now)

    def _back(self, n: int) -> None:
        """Take n rows off the count: the try got no connection, so that none of them was sent."""
        with self._lock:
            self._sent["rows"] -= n
            self._sent["unreached"] += 1

    def _once(self, body: bytes, n: int) -> tuple[int | None, bytes, float | None, str]:
        """Make one call: its status, its body, how long the endpoint asks to wait, and what went wrong in words."""
        parts = _split(self.url)
        end = time.monotonic() + self.timeout_seconds
        line, through = connection(parts, self.timeout_seconds)
        headers = self._headers()
        reached = False
        # the socket's own time limit begins anew with every byte, of headers too
        watch: threading.Timer | None = None
        try:
            line.connect()
            reached = True
            watch = threading.Timer(max(0.0, end - time.monotonic()), _cut, (line.sock,))
            watch.daemon = True
            watch.start()
            line.request("POST", parts.path or "/", body, headers)
            answer = line.getresponse()
            raw = _body(answer, self.place)
            if time.monotonic() >= end:  # what was cut off reads like an end
                raise TimeoutError
        except ssl.SSLCertVerificationError:
            self._back(n)
            raise InvalidData(
                f"{self.place} has a certificate that cannot be verified, so no row was sent; have it mended"
            ) from None
        except (OSError, HTTPException) as error:
            late = isinstance(error, TimeoutError) or time.monotonic() >= end
            told = f"no answer within {self.timeout_seconds:g} s" if late else type(error).__name__
            if not reached:
                self._back(n)
                told = f"no connection through HTTPS_PROXY ({told})" if through else f"no connection ({told})"
            return None, b"", None, told
        finally:
            if watch is not None:
                watch.cancel()
            line.close()
        return answer.status, raw, _seconds(answer.getheader("Retry-After")), f"status {answer.status}"

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "casemate"}
        if self.token is not None:
            value = os.environ.get(self.token, "")
            if not value or not value.isascii() or not value.isprintable():
                raise InvalidData(f"the environment variable {self.token!r} holds no token; set it")
            headers["Authorization"] = f"Bearer {value}"
        return headers


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except (ValueError, AttributeError, TypeError):
        usable = False
    if not usable or not url.isascii() or any(not ch.isprintable() or ch.isspace() for ch in url):
        raise InvalidData("the address of an endpoint must be https://host/path in plain letters")
    return parts


def _cut(sock: Any) -> None:
    """End a connection from outside, whatever it is waiting for."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _body(answer: HTTPResponse, place: str) -> bytes:
    """Read a body in pieces, for it may be without end; the watch ends one that is only late."""
    pieces: list[bytes] = []
    size = 0
    while True:
        piece = answer.read1(1 << 16)
        if not piece:
            return b"".join(pieces)
        size += len(piece)
        if size > _BODY:
            raise InvalidData(
                f"{place} answered with more than {_BODY // 2**20} MiB; lower batch_size, or look at what is there"
            )
        pieces.append(piece)


def _refusal(status: int, token: str | None) -> str:
    """Say what a status means that will not pass by itself."""
    if 300 <= status < 400:
        return f"status {status}, a redirect, which is not followed: give the address it leads to"
    if status in (401, 403):
        how = "the token was not accepted" if token else "it wants a token: token='NAME_OF_VARIABLE'"
        return f"status {status}; {how}"
    if status == 404:
        return "status 404: no model is served at this path"
    if status in (400, 415, 422):
        return f"status {status}: it does not understand these rows; try another form={'|'.join(FORMS)}"
    return f"status {status}"


def _seconds(text: str | None) -> float | None:
    """Read Retry-After, seconds or a date (RFC 9110, section 10.2.3), in seconds; nonsense counts as absent."""
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        try:
            when = parsedate_to_datetime(text)
        except (ValueError, OverflowError):
            return None
        zoned = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
        value = max(0.0, (zoned - datetime.now(UTC)).total_seconds())
    return value if 0 <= value < math.inf else None


# ---------------------------------------------------------------------- rows and answers as JSON


def _cells(rows: Any) -> tuple[list[str], list[Any]]:
    """Return column names and plain JSON cells of the user's rows; missing is null."""
    if hasattr(rows, "columns") or hasattr(rows, "column_names"):
        import narwhals as nw

        frame = nw.from_native(rows, eager_only=True)
        return list(frame.columns), [[_plain(cell) for cell in row] for row in frame.iter_rows()]
    if isinstance(rows, np.ndarray):
        return [], _nulled(rows.tolist())
    return [], [_plain(row) for row in rows]


def _plain(cell: Any) -> Any:
    value = cell.item() if isinstance(cell, np.generic) else cell
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, Decimal):
        value = float(value)  # a number, as the column it comes from
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise InvalidData("a cell holds bytes, which JSON cannot; decode them to text, or drop the column")
    if isinstance(value, float) and not math.isfinite(value):
        if math.isnan(value):
            return None
        raise InvalidData(f"a cell is {value}, which JSON cannot hold; replace it or drop the row")
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def _nulled(value: Any) -> Any:
    return [_nulled(item) for item in value] if isinstance(value, list) else _plain(value)


def _written(form: Form, columns: list[str], cells: list[Any]) -> bytes:
    if form in ("records", "dataframe") and not columns:
        raise InvalidData(f"form={form!r} needs rows with named columns; use 'instances' or 'inputs'")
    if form == "instances":
        told: dict[str, Any] = {"instances": cells}
    elif form == "records":
        told = {"instances": [dict(zip(columns, row, strict=True)) for row in cells]}
    elif form == "dataframe":
        told = {"dataframe_split": {"columns": columns, "data": cells}}
    else:
        told = {"inputs": [_tensor(cells)]}
    return json.dumps(told, allow_nan=False).encode()


def _tensor(cells: list[Any]) -> dict[str, Any]:
    if cells and isinstance(cells[0], str):
        return {"name": "input-0", "shape": [len(cells)], "datatype": "BYTES", "data": cells}
    try:
        block = np.array(cells, np.float64)
    except (TypeError, ValueError):
        raise InvalidData(
            "form='inputs' sends one block of numbers; these rows hold texts: use 'records'"
        ) from None
    if not np.isfinite(block).all():
        raise InvalidData("form='inputs' has no missing values; use 'records' or 'dataframe'")
    return {
        "name": "input-0",
        "shape": list(block.shape),
        "datatype": "FP64",
        "data": block.ravel().tolist(),
    }


def _parsed(raw: bytes, place: str) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise InvalidData(
            f"{place} answered {len(raw)} bytes that are no JSON; is this the path of a model?"
        ) from None


def _read(form: Form, answer: Any, place: str) -> np.ndarray:
    """Return answers (n, ...) of a parsed body."""
    key = "outputs" if form == "inputs" else "predictions"
    found: Any = answer.get(key) if isinstance(answer, Mapping) else answer
    shape = None
    if key == "outputs" and isinstance(found, list) and found and isinstance(found[0], Mapping):
        if len(found) > 1:
            raise InvalidData(
                f"{place} gave {len(found)} outputs; one is read: serve the scores alone, or under a form that "
                "gives one"
            )
        found, shape = found[0].get("data"), found[0].get("shape")
    if not isinstance(found, list):
        raise InvalidData(
            f"{place} answered JSON without a list of {key!r}; try another form={'|'.join(FORMS)}"
        )
    try:
        table = np.array(found)
        table = table if shape is None else table.reshape([int(size) for size in shape])
    except (TypeError, ValueError, OverflowError):
        raise InvalidData(f"{place} answered {key!r} of uneven length, not one answer a row") from None
    if table.dtype == object or table.ndim == 0:
        raise InvalidData(f"{place} answered {key!r} that are neither numbers nor labels")
    return table
