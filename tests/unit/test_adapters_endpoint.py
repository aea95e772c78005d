# SPDX-License-Identifier: Apache-2.0
"""A model behind HTTP: what is sent, what is refused, what is waited for, and what never leaves."""

from __future__ import annotations

import copy
import json
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import casemate as cm
from casemate.adapters import _proxy
from casemate.adapters import endpoint as module
from casemate.adapters.endpoint import Endpoint
from casemate.cli import run
from casemate.core.errors import BudgetExhausted, InvalidData

LEAVE = "A. Owner, 2026-11-23"
SECRET = "s3cr3t-t0ken"
TOKEN = "CASEMATE_TEST_TOKEN"
Answer = Callable[[BaseHTTPRequestHandler, Any], None]


class Server:
    """A server on this machine; `asked` are the bodies it got, `answer` what it does with the next."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.answer: Answer = reply({"predictions": []})
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append(body)
                outer.headers.append(dict(self.headers))
                outer.answer(self, body)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/models/m:predict"


def reply(told: Any, status: int = 200, **headers: str) -> Answer:
    def do(handler: BaseHTTPRequestHandler, _: Any) -> None:
        raw = told if isinstance(told, bytes) else json.dumps(told).encode()
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(raw)

    return do


def half(handler: BaseHTTPRequestHandler, body: Any) -> None:
    """Answer with a probability that grows with the first cell."""
    ones = [1 / (1 + np.exp(-float(row[0] or 0))) for row in body["instances"]]
    reply({"predictions": [[1 - p, p] for p in ones]})(handler, body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "_PAUSE", 0.01)
    made = Server()
    yield made
    made.server.shutdown()
    made.server.server_close()


def to(server: Server, **options: Any) -> Endpoint:
    return Endpoint(**{"url": server.url, "authorised": LEAVE, "per_second": 1e4, **options})


FRAME = pd.DataFrame({"age": [40.0, np.nan], "sex": pd.Series(["f", None], dtype="string")})


@pytest.mark.parametrize(
    ("form", "sent"),
    [
        ("instances", {"instances": [[40.0, "f"], [None, None]]}),
        ("records", {"instances": [{"age": 40.0, "sex": "f"}, {"age": None, "sex": None}]}),
        ("dataframe", {"dataframe_split": {"columns": ["age", "sex"], "data": [[40.0, "f"], [None, None]]}}),
    ],
)
def test_what_is_sent(server: Server, form: str, sent: Any) -> None:
    server.answer = reply({"predictions": ["no", "yes"]})
    assert to(server, form=form)(FRAME).tolist() == ["no", "yes"]
    assert server.asked == [sent]


def test_the_open_inference_protocol(server: Server) -> None:
    server.answer = reply({"outputs": [{"name": "p", "shape": [2, 2], "data": [0.5, 0.5, 0.25, 0.75]}]})
    got = to(server, form="inputs")(np.array([[1.0, 2.0], [3.0, 4.0]]))
    assert got.tolist() == [[0.5, 0.5], [0.25, 0.75]]
    block = {"name": "input-0", "shape": [2, 2], "datatype": "FP64", "data": [1.0, 2.0, 3.0, 4.0]}
    assert server.asked == [{"inputs": [block]}]
    server.answer = reply({"outputs": [{"shape": [2], "data": [1, 0]}]})
    assert to(server, form="inputs")(["a", "b"]).tolist() == [1, 0]
    assert server.asked[1]["inputs"][0]["datatype"] == "BYTES"
    server.answer = reply({"outputs": [{"shape": [1], "data": [1]}, {"shape": [1], "data": [0.5]}]})
    with pytest.raises(InvalidData, match="gave 2 outputs"):
        to(server, form="inputs")(["a"])


def test_rows_go_in_batches_and_come_back_in_order(server: Server) -> None:
    server.answer = half
    x = np.linspace(-2, 2, 10)[:, None]
    got = to(server, batch_size=4)(x)
    np.testing.assert_allclose(got[:, 1], 1 / (1 + np.exp(-x[:, 0])), rtol=1e-12)
    assert [len(body["instances"]) for body in server.asked] == [4, 4, 2]


def test_an_audit_over_the_network_says_who_allowed_it(server: Server) -> None:
    server.answer = half
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2)).round(2)
    y = np.where(x[:, 0] + 0.3 * rng.normal(size=60) > 0, "yes", "no")
    data = cm.Dataset(train=(x[:30], y[:30]), holdout=(x[30:], y[30:]))
    target = cm.wrap(to(server), classes=["no", "yes"])
    report = cm.audit(target, data, methods=["loss_attack"], effort="quick")
    assert report["loss_attack", "auc"].status == "measured"
    assert report.target["kind"] == "HTTP endpoint"
    assert report.target["source"]["authorised"] == LEAVE
    assert any("another model may answer there tomorrow" in caveat for caveat in report.target["caveats"])
    with pytest.raises(InvalidData, match="single records"):
        cm.audit(target, data, methods=["loss_attack"], effort="quick", show_records=True)


def test_batches_of_another_form_are_refused(server: Server) -> None:
    def growing(handler: BaseHTTPRequestHandler, body: Any) -> None:
        reply({"predictions": [[0.5] * (1 + len(server.asked))]})(handler, body)

    server.answer = growing
    with pytest.raises(InvalidData, match="different form"):
        to(server, batch_size=1)(np.zeros((2, 1)))


def test_one_budget_however_it_is_copied(server: Server) -> None:
    server.answer = half
    ask = to(server, n_queries=2)
    copy.deepcopy(ask)(np.zeros((2, 1)))
    with pytest.raises(BudgetExhausted):
        ask(np.zeros((1, 1)))
    with pytest.raises(InvalidData, match="in one process"):
        pickle.dumps(ask)


def test_the_budget_counts_every_row_sent(server: Server) -> None:
    server.answer = half
    ask = to(server, n_queries=5, batch_size=2)
    ask(np.zeros((4, 1)))
    with pytest.raises(BudgetExhausted, match=r"5 rows used up .* after 4"):
        ask(np.zeros((2, 1)))
    assert sum(len(body["instances"]) for body in server.asked) == 4
    assert len(ask(np.zeros((1, 1)))) == 1  # what still fits is answered


def test_what_passes_by_itself_is_repeated_and_counted(server: Server) -> None:
    kinds = iter([reply({}, 503), reply({}, 429, Retry_After="0.01"), half])

    def one_after_the_other(handler: BaseHTTPRequestHandler, body: Any) -> None:
        next(kinds)(handler, body)

    server.answer = one_after_the_other
    ask = to(server, n_queries=6)
    assert ask(np.zeros((2, 1))).tolist() == [[0.5, 0.5]] * 2
    with pytest.raises(BudgetExhausted):
        ask(np.zeros((1, 1)))  # three tries of two rows were six


def test_the_rate_is_kept(server: Server) -> None:
    server.answer = half
    start = time.monotonic()
    to(server, per_second=20, batch_size=1)(np.zeros((5, 1)))
    assert time.monotonic() - start >= 4 / 20


def drip(handler: BaseHTTPRequestHandler, _: Any) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):  # each byte in time, the whole never
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


def drip_headers(handler: BaseHTTPRequestHandler, _: Any) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for _ in range(100):
        handler.wfile.write(b"a")
        time.sleep(0.05)


def test_a_late_answer_is_cut_off_and_not_waited_for(server: Server) -> None:
    told: list[int] = []

    def slow(handler: BaseHTTPRequestHandler, _: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        for i in range(300):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            told.append(i)
            time.sleep(0.04)

    server.answer = slow
    with pytest.raises(InvalidData, match=r"no answer within 1 s"):
        to(server, retries=0, timeout_seconds=1)(np.zeros((1, 1)))
    assert len(told) < 300  # of twelve seconds, one


def only_continue(handler: BaseHTTPRequestHandler, _: Any) -> None:
    for _ in range(500):
        handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.01)


def hang_up(handler: BaseHTTPRequestHandler, _: Any) -> None:
    handler.connection.close()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (reply(b"<html>login</html>"), "no JSON"),
        (reply(b""), "no JSON"),
        (reply(b"[" * 100_000), "no JSON"),
        (reply({"error": "no"}), "'predictions'"),
        (reply({"predictions": 3}), "'predictions'"),
        (reply({"predictions": [[0.5, 0.5]]}), "1 answers to 2 rows"),
        (reply({"predictions": [[0.5], [0.5, 0.5]]}), "uneven"),
        (reply({"predictions": [{"a": 1}, {"a": 2}]}), "neither numbers nor labels"),
        (reply({"predictions": [10**400, 1]}), "neither numbers nor labels|uneven"),
        (reply(b'{"predictions": [NaN, ' + b"1e999]}"), "shape"),
        (reply({}, 404), "no model is served"),
        (reply({}, 401), "wants a token"),
        (reply({}, 422), "another form"),
        (reply({}, 302, Location="http://elsewhere.example/"), "redirect, which is not followed"),
        (reply({}, 503), "no answer in 2 tries; the last one: status 503"),
        (drip, "no answer within 0.3 s"),
        (drip_headers, "no answer within 0.3 s"),
        (only_continue, "no answer within 0.3 s"),
        (hang_up, "no answer in 2 tries; the last one: "),
    ],
)
def test_answers_that_are_none_get_one_clear_error(server: Server, answer: Answer, told: str) -> None:
    server.answer = answer
    seconds = 0.3 if "within" in told else 30  # a busy machine is late too
    target = cm.wrap(to(server, retries=1, timeout_seconds=seconds), classes=["no", "yes"])
    with pytest.raises(InvalidData, match=told):
        target.scores(np.zeros((2, 1)))


def test_an_answer_without_end_is_cut(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BODY", 1000)
    server.answer = reply(b" " * 5000)
    with pytest.raises(InvalidData, match="more than"):
        to(server)(np.zeros((1, 1)))


def test_the_token_is_sent_and_never_told(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answer = half
    ask = to(server, token="MODEL_TOKEN")
    with pytest.raises(InvalidData, match="'MODEL_TOKEN' holds no token"):
        ask(np.zeros((1, 1)))
    monkeypatch.setenv("MODEL_TOKEN", SECRET + "\nX-Evil: 1")
    with pytest.raises(InvalidData, match="holds no token"):
        ask(np.zeros((1, 1)))
    monkeypatch.setenv("MODEL_TOKEN", SECRET)
    ask(np.zeros((1, 1)))
    assert server.headers[-1]["Authorization"] == f"Bearer {SECRET}"
    server.answer = reply({"error": SECRET}, 403)
    with pytest.raises(InvalidData, match="not accepted") as caught:
        ask(np.zeros((1, 1)))
    target = cm.wrap(ask, classes=[0, 1])
    assert SECRET not in f"{caught.value} {ask!r} {target!r} {target.source} {target.caveats}"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"url": "ftp://host/x"}, "https://host/path"),
        ({"url": "https://"}, "https://host/path"),
        ({"url": "https://host:99999/x"}, "https://host/path"),
        ({"url": "https://host/a b"}, "plain letters"),
        ({"url": "https://host/a\r\nX: 1"}, "plain letters"),
        ({"url": "https://us:pw@host/x"}, "neither user"),
        ({"url": "https://host/x?key=1"}, "neither user"),
        ({"url": 3}, "https://host/path"),
        ({"authorised": "me"}, "name, date"),
        ({"authorised": " , "}, "name, date"),
        ({"form": "xml"}, "'xml' is unknown"),
        ({"token": "sk-1.x"}, "not the token$"),
        ({"n_queries": 0}, "n_queries must be a whole number >= 1; got 0"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"per_second": float("inf")}, "per_second must be a number > 0"),
        ({"timeout_seconds": -1}, "timeout_seconds"),
    ],
)
def test_settings_that_cannot_be_used(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidData, match=told):
        Endpoint(**{"url": "https://host/x", "authorised": LEAVE, **options})


def test_rows_that_a_form_cannot_hold(server: Server) -> None:
    with pytest.raises(InvalidData, match="named columns"):
        to(server, form="records")(np.zeros((1, 2)))
    with pytest.raises(InvalidData, match="no missing values"):
        to(server, form="inputs")(np.array([[np.nan]]))
    with pytest.raises(InvalidData, match="hold texts"):
        to(server, form="inputs")(FRAME.fillna({"age": 1.0, "sex": "m"}))
    with pytest.raises(InvalidData, match="JSON cannot hold"):
        to(server)(np.array([[np.inf]]))
    assert server.asked == []


def test_without_encryption_only_at_home() -> None:
    far = Endpoint(url="http://models.example/p", authorised=LEAVE)
    assert any("without encryption" in told for told in far.caveats)
    assert len(Endpoint(url="https://models.example/p", authorised=LEAVE).caveats) == 1
    told = Endpoint(url="http://models.example/p", authorised=LEAVE, token="NAME").caveats
    assert told[-1].startswith("The token travelled")
    assert len(Endpoint(url="http://localhost/p", authorised=LEAVE).caveats) == 1


def test_the_command_line_asks_an_endpoint(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = half
    draw = np.random.default_rng(0)
    for name in ("train", "holdout"):
        frame = pd.DataFrame({"a": draw.normal(size=40), "b": draw.normal(size=40)})
        frame["y"] = np.where(frame["a"] + 0.3 * draw.normal(size=40) > 0, "yes", "no")
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    files = ["--train", f"{tmp_path}/train.csv", "--holdout", f"{tmp_path}/holdout.csv", "--label", "y"]
    audit = ["audit", server.url, *files, "--methods", "loss_attack", "--out", f"{tmp_path}/r.json"]
    allowed = ["--authorised", LEAVE, "--classes", "no,yes", "--endpoint", "per_second=1000,batch_size=16"]
    assert run([*audit, *allowed]) == 0
    assert cm.Report.load(tmp_path / "r.json").target["source"]["authorised"] == LEAVE
    assert max(len(body["instances"]) for body in server.asked) == 16
    asked = len(server.asked)
    for options, told in (
        ([], "--authorised 'name, date'"),
        ([*allowed[:2], "--endpoint", "speed=3"], "cannot read 'speed=3'"),
        ([*allowed[:2], "--endpoint", "retries=x"], "retries must be a whole number"),
        ([*allowed, "--show-records"], "lists no single records"),
    ):
        assert run([*audit, *options]) == 2
        assert told in capsys.readouterr().err
    assert run(["audit", "model.joblib", *files, *allowed]) == 2
    assert len(server.asked) == asked


# ---- waiting where the endpoint asks for it, cells of other types, tries without a connection, proxies


def busy_once(server: Server, **headers: str) -> None:
    """Answer 429 with these headers once, then as usual."""

    def answer(handler: BaseHTTPRequestHandler, body: Any) -> None:
        server.answer = half
        reply({}, 429, **headers)(handler, body)

    server.answer = answer


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_long_wait_that_was_asked_for_is_obeyed(
    server: Server, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    later = datetime.now(UTC) + timedelta(seconds=90)
    busy_once(server, Retry_After="90" if form == "seconds" else format_datetime(later, usegmt=True))
    assert len(to(server)(np.zeros((1, 1)))) == 1
    assert len([pause for pause in slept if 60 <= pause <= 90]) == 1  # the date runs meanwhile


def test_a_wait_beyond_the_limit_is_said_and_not_waited(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    server.answer = reply({}, 503, Retry_After="3600")
    with pytest.raises(
        BudgetExhausted, match=r"status 503\): the next try must wait 3600 s.*wait_seconds=300"
    ):
        to(server)(np.zeros((1, 1)))
    assert len(server.asked) == 1
    server.answer = reply({}, 503, Retry_After="200")
    with pytest.raises(BudgetExhausted, match="wait 200 s, 400 s in all"):
        to(server)(np.zeros((1, 1)))
    assert [pause for pause in slept if pause > 1] == [200.0]


def test_cells_of_other_types(server: Server) -> None:
    pl = pytest.importorskip("polars")
    server.answer = reply({"predictions": [0]})
    to(server)(pl.DataFrame({"paid": [Decimal("1.50")], "n": [3]}))
    assert server.asked == [{"instances": [[1.5, 3]]}]
    with pytest.raises(InvalidData, match="holds bytes, which JSON cannot; decode them"):
        to(server)(pl.DataFrame({"raw": [b"x"]}))
    assert len(server.asked) == 1


def test_tries_without_a_connection_send_no_rows(server: Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound and not listening: refused at once
        url = f"http://127.0.0.1:{free.getsockname()[1]}/p"
        alone = to(server, url=url, retries=2, n_queries=5)
        for _ in range(3):  # each call alone would use up the budget in two tries if tries counted
            with pytest.raises(
                InvalidData, match=r"in 3 tries; the last one: no connection \(ConnectionRefusedError"
            ):
                alone(np.zeros((4, 1)))
    assert alone.sent == {"rows": 0, "unreached": 9}
    server.answer = reply({}, 500)
    with pytest.raises(InvalidData, match="status 500"):
        (asked := to(server, retries=1, n_queries=8))(np.zeros((4, 1)))
    assert asked.sent == {"rows": 8, "unreached": 0}


def test_one_question_is_asked_once(server: Server) -> None:
    server.answer = reply({}, 503)
    asked = to(server)
    with pytest.raises(InvalidData, match="in 1 tries"):
        asked.probe(np.zeros((1, 1)))
    assert len(server.asked) == asked.sent["rows"] == 1


class Proxy:
    """Reads what a client sends first, and refuses."""

    def __init__(self) -> None:
        self.heard = b""
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        with self.socket, self.socket.accept()[0] as line:
            while b"\r\n\r\n" not in self.heard:
                self.heard += line.recv(4096)
            line.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")


def test_https_goes_through_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    proxy = Proxy()
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:a%20b@{proxy.address}")
    monkeypatch.setenv(TOKEN, SECRET)
    asked = Endpoint(url="https://models.example:8443/p", authorised=LEAVE, retries=0, token=TOKEN)
    with pytest.raises(InvalidData, match="no connection through HTTPS_PROXY") as caught:
        asked(np.zeros((1, 1)))
    proxy.thread.join(5)
    assert proxy.heard.startswith(b"CONNECT models.example:8443 HTTP/1.")
    assert b"Proxy-Authorization: Basic bWU6YSBi\r\n" in proxy.heard  # me:a b
    assert SECRET.encode() not in proxy.heard
    assert "a%20b" not in str(caught.value)
    assert asked.sent == {"rows": 0, "unreached": 1}


def test_which_calls_a_proxy_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def through(url: str) -> bool:
        return _proxy.connection(module._split(url), 1.0)[1]

    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    monkeypatch.setenv("no_proxy", "inner.example")
    assert through("https://models.example/p")
    assert not through("https://api.inner.example/p")
    assert not through("http://models.example/p")
    assert not through("https://localhost/p")
    for wrong in (
        "socks5://proxy.example:1080",
        "https://me:word@proxy.example",
        "http://:80",
        "http://x:99999",
    ):
        monkeypatch.setenv("HTTPS_PROXY", wrong)
        with pytest.raises(InvalidData, match="HTTPS_PROXY must be http://host:port") as caught:
            through("https://models.example/p")
        assert "word" not in str(caught.value).replace("password", "")
    monkeypatch.delenv("HTTPS_PROXY")
    assert not through("https://models.example/p")


def test_doctor_sends_one_row_once(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = np.random.default_rng(0)
    for name in ("train", "holdout"):
        frame = pd.DataFrame({"a": draw.normal(size=20), "y": ["no", "yes"] * 10})
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    data = ["--train", f"{tmp_path}/train.csv", "--holdout", f"{tmp_path}/holdout.csv", "--label", "y"]
    allowed = ["doctor", server.url, "--authorised", LEAVE]
    assert run(["doctor", server.url, *data]) == 2
    assert run(allowed) in (0, 3)
    assert "nothing was sent" in capsys.readouterr().out
    assert server.asked == []
    server.answer = half
    assert run([*allowed, *data]) == 0
    out = capsys.readouterr().out
    assert "one row was sent" in out
    assert "offers: labels, scores" in out
    server.answer = reply({"predictions": ["yes"]})
    assert run([*allowed, *data]) == 0
    assert "offers: labels\n" in capsys.readouterr().out
    assert [len(body["instances"]) for body in server.asked] == [1, 1]
    server.answer = reply({"predictions": [[0.2, 0.3, 0.5]]})
    assert run([*allowed, *data]) == 2
    assert "answered 3 scores to a row, but there are 2 classes: no, yes" in capsys.readouterr().err
    server.answer = reply({}, 503)
    assert run([*allowed, *data]) == 2
    assert len(server.asked) == 4
