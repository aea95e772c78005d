# SPDX-License-Identifier: Apache-2.0
"""The corpus: no gadget and no bomb is clean, no honest file is refused, and nothing takes time or memory."""

from __future__ import annotations

import io
import pickle
import time
import tracemalloc
import warnings
import zipfile
from typing import Any

import numpy as np
import pickle_corpus as corpus
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pickle_doubles import between_readers

from casemate.core.errors import CasemateError
from casemate.core.pickles import _JoblibWall, _Wall, load_pickle, scan
from casemate.core.pickles.permits import permitted

GADGETS = corpus.gadgets()
BOMBS = dict(corpus.bombs())
DOUBLES = dict(between_readers())
MALFORMED = {  # files whose only fault is that they cannot be read
    "truncated file",
    "frame longer than the file",
    "opcode across a frame",
    "out-of-band buffer",
}


def test_the_corpus_is_as_large_as_was_promised() -> None:
    assert len(GADGETS) >= 150 and len(BOMBS) >= 20


@pytest.mark.parametrize("name", GADGETS)
def test_no_gadget_is_clean_and_none_is_loaded(name: str) -> None:
    found = scan(GADGETS[name])
    assert found.verdict == "malformed" if name in MALFORMED else found.verdict in ("hostile", "unknown"), (
        found
    )
    assert found.findings
    with pytest.raises(CasemateError):
        load_pickle(GADGETS[name])


@pytest.mark.parametrize("name", DOUBLES)
def test_what_any_reader_takes_for_a_pickle_is_not_clean(name: str) -> None:
    found = scan(DOUBLES[name])
    assert found.verdict != "clean" and found.findings
    with pytest.raises(CasemateError):
        load_pickle(DOUBLES[name])


@pytest.mark.parametrize("name", BOMBS)
def test_no_bomb_goes_off(name: str) -> None:
    tracemalloc.start()
    start = time.process_time()
    found = scan(BOMBS[name])
    seconds = time.process_time() - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.verdict in ("hostile", "malformed"), found
    assert seconds < 30  # measured: 1.5 s under tracemalloc for the slowest
    assert peak < 64 * len(BOMBS[name]) + (800 << 20 if "gzip" in name or "zip" in name else 32 << 20)


@pytest.fixture(scope="session")
def honest() -> list[tuple[str, Any, bytes]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(corpus.honest())


def test_no_honest_file_is_refused(honest: list[tuple[str, Any, bytes]]) -> None:
    assert len(honest) >= 40
    assert {name: scan(raw).findings for name, _, raw in honest if scan(raw).verdict != "clean"} == {}


def test_the_numbers_of_a_tensor_are_no_pickle_whatever_they_begin_with() -> None:
    torch = pytest.importorskip("torch")
    draw = np.random.default_rng(0)
    tails = draw.integers(0, 256, (256, 4, 63), dtype=np.uint8)
    begun = np.concatenate([np.repeat(np.arange(256, dtype=np.uint8), 4).reshape(256, 4, 1), tails], axis=2)
    weights = {f"{k}": torch.from_numpy(row.copy()) for k, row in enumerate(begun.reshape(-1, 64))}
    out = io.BytesIO()
    torch.save(weights, out)
    assert scan(out.getvalue()).findings == ()
    weights["0"] = torch.from_numpy(np.frombuffer(b"cos\nsystem\n)R\xff\xff", np.uint8).copy())
    out = io.BytesIO()
    torch.save(weights, out)
    assert scan(out.getvalue()).verdict == "hostile"


def test_too_many_members_are_one_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("casemate.core.pickles.archives._MAX_MEMBERS", 50)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for number in range(52):
            file.writestr(f"{number}", b"")
    assert [found.what for found in scan(out.getvalue()).findings] == ["archive bomb"]


def test_what_is_loaded_is_what_was_saved(honest: list[tuple[str, Any, bytes]]) -> None:
    x = np.random.default_rng(1).uniform(0.1, 1, (20, 3))
    seen = 0
    for name, model, raw in honest:
        if model is None:
            continue
        loaded, _ = load_pickle(raw)
        assert type(loaded) is type(model), name
        rows = np.hstack([x.astype(object), np.full((20, 1), "Bern", object)]) if "pipeline" in name else x
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            np.testing.assert_array_equal(loaded.predict(rows), model.predict(rows), err_msg=name)
        seen += 1
    assert seen >= 30


class Watched(_Wall):
    """The wall, which notes what it is asked for."""

    asked: list[tuple[str, str]]

    def find_class(self, module: str, name: str) -> Any:
        self.asked.append((module, name))
        return super().find_class(module, name)


def check(raw: bytes) -> str:
    """Scan any bytes: a verdict and nothing else; a clean one asks for admitted names only."""
    found = scan(raw)
    if found.verdict == "clean":
        for title in found.globals:
            module, _, name = title.rpartition(".")
            assert permitted(module, name) is not None, title
    return found.verdict


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_give_a_verdict(raw: bytes) -> None:
    check(raw)
    check(b"\x80\x04" + raw)


def seeds() -> list[bytes]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.tree import DecisionTreeClassifier

    x = np.arange(20.0).reshape(10, 2)
    models = [LogisticRegression().fit(x, x[:, 0] > 9), DecisionTreeClassifier().fit(x, x[:, 0] > 9)]
    out = [pickle.dumps(model, protocol=p) for model in models for p in (0, 2, 4, 5)]
    return [*out, *(corpus._joblib(__import__("joblib"), 0)(model) for model in models), corpus.SYSTEM]


SEEDS = seeds()


def mutated(raw: bytes, draw: np.random.Generator) -> bytes:
    """Change, drop, repeat or splice some bytes."""
    made = bytearray(raw)
    for _ in range(int(draw.integers(1, 4))):
        at = int(draw.integers(len(made))) if made else 0
        kind = int(draw.integers(5))
        if kind == 0 and made:
            made[at] = int(draw.integers(256))
        elif kind == 1:
            del made[at : at + int(draw.integers(1, 9))]
        elif kind == 2:
            made[at:at] = made[at : at + int(draw.integers(1, 30))]
        elif kind == 3:
            other = SEEDS[int(draw.integers(len(SEEDS)))]
            start = int(draw.integers(len(other)))
            made[at:at] = other[start : start + int(draw.integers(1, 40))]
        else:
            made[at:at] = bytes([int(draw.integers(256))])
    return bytes(made)


def run_mutants(n: int, seed: int) -> dict[str, int]:
    draw = np.random.default_rng(seed)
    counts: dict[str, int] = {}
    for _ in range(n):
        raw = mutated(SEEDS[int(draw.integers(len(SEEDS)))], draw)
        verdict = check(raw)
        counts[verdict] = counts.get(verdict, 0) + 1
        if verdict == "clean":
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    load_pickle(raw)
            except CasemateError:
                continue
    return counts


def test_mutated_honest_files_are_read_or_refused_never_else() -> None:
    counts = run_mutants(1500, 0)
    assert set(counts) == {"clean", "hostile", "unknown", "malformed"}, counts


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_a_million_mutants() -> None:
    assert sum(run_mutants(1_000_000, 1).values()) == 1_000_000


def test_the_wall_asks_for_nothing_the_scan_did_not_meet(honest: list[tuple[str, Any, bytes]]) -> None:
    for name, model, raw in honest:
        if model is None or ", pickle" not in name:
            continue
        found = scan(raw)
        wall = Watched(io.BytesIO(raw), frozenset(tuple(t.rsplit(".", 1)) for t in found.globals))  # type: ignore[misc]
        wall.asked = []
        wall.load()
        assert {f"{module}.{item}" for module, item in wall.asked} <= set(found.globals), name


@pytest.mark.parametrize("wall", [_Wall, _JoblibWall])
def test_the_wall_holds_where_a_scan_would_have_erred(wall: Any) -> None:
    with pytest.raises(CasemateError, match=r"os\.system was asked for"):
        wall(io.BytesIO(corpus.SYSTEM), frozenset({("collections", "OrderedDict")})).load()
