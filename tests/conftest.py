# SPDX-License-Identifier: Apache-2.0
"""What every test shares: one thread, a time limit, the data folder, and the rule for skips."""

from __future__ import annotations

import hashlib
import os
import random
import sys
from collections.abc import Callable, Generator
from fnmatch import fnmatchcase
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before anything imports numpy: on a busy machine one thread is faster, and sums depend on their number.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

os.environ.setdefault(
    "KERAS_BACKEND", "torch"
)  # Keras chooses when it is imported, and would choose TensorFlow

ALLOWED_SKIPS = Path(__file__).parent / "allowed_skips.txt"
IN_CI = os.environ.get("CI", "").lower() not in {"", "0", "false"}

# Five seconds a test is the promise of the fast tier. It is wall-clock time, so a machine that does other
# work breaks it without any fault of the test: continuous integration gets four times as much, and
# CASEMATE_TEST_TIMEOUT (seconds; 0 for none) sets it by hand. A test that truly needs longer says so: slow,
# soak or @pytest.mark.timeout.
FAST_SECONDS = float(os.environ.get("CASEMATE_TEST_TIMEOUT", "20" if IN_CI else "5"))
SLOW_SECONDS = 900.0


# ---------------------------------------------------------------------- chance
# Noise of the operating system lets a right test fail once in so many runs. Here each test draws noise of its own, the
# same in every run: what passed passes again. @pytest.mark.real_noise asks for the operating system's.

settings.register_profile(
    "casemate",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("casemate")


class _Keys:
    """Stand for ``os`` in casemate.training.secure: bytes that follow from the test and the number of the call."""

    def __init__(self, test: str) -> None:
        self.test, self.calls, self.process = test, 0, os.getpid()

    def urandom(self, n: int) -> bytes:
        self.calls += 1
        child = "" if os.getpid() == self.process else os.getpid()  # a fork has noise of its own
        return hashlib.shake_256(f"{self.test} {self.calls} {child}".encode()).digest(n)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Key what a test and its fixtures draw by its name: noise, and the generators that a program has by itself."""
    import numpy as np

    from casemate.training import secure  # not before the copy under test is on the path (tests/mutants)

    seed = int.from_bytes(hashlib.sha256(item.nodeid.encode()).digest()[:4], "little")
    random.seed(seed)
    np.random.seed(seed)  # what libraries draw from
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(seed)
    real = item.get_closest_marker("real_noise") is not None
    with pytest.MonkeyPatch.context() as patch:
        if not real:
            patch.setattr(secure, "os", _Keys(item.nodeid))
        return (yield)


# What a test may take, and what it does not pay for.


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test its limit: an explicit mark wins, soak has none."""
    for item in items:
        explicit = item.get_closest_marker("timeout")
        if explicit is None:
            slow = item.get_closest_marker("slow") or item.get_closest_marker("soak")
            seconds = FAST_SECONDS if slow is None else 0 if slow.name == "soak" else SLOW_SECONDS
            item.add_marker(pytest.mark.timeout(seconds))


@pytest.fixture(scope="session", autouse=True)
def heavy_imports() -> None:
    """Import once, outside any test's limit, what would cost the first test of a session four to six seconds.

    A module whose tests only read text overrides this fixture by one of the same name.
    """
    for module in ("scipy.stats", "sklearn.ensemble", "pandas", "torch"):
        if find_spec(module.partition(".")[0]) is not None:
            import_module(module)


@pytest.fixture(autouse=True)
def one_torch_thread(heavy_imports: None) -> None:
    """Keep torch on one thread, as numpy is, whenever it has been imported."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def test_data() -> Callable[[str], Path]:
    """Return ``test_data(name)``: that folder under CASEMATE_TEST_DATA, or a skip when it is not there."""

    def folder(name: str) -> Path:
        root = os.environ.get("CASEMATE_TEST_DATA")
        if not root:
            pytest.skip(f"CASEMATE_TEST_DATA is not set: no {name}")
        path = Path(root) / name
        if not path.is_dir():
            pytest.skip(f"CASEMATE_TEST_DATA has no {name}")
        return path

    return folder


# ---------------------------------------------------------------------- skips
# A skip is a test that did not run. In continuous integration each must be expected, or the run fails.


def read_allowed_skips(text: str) -> list[str]:
    """Read lines of ``nodeid-glob  # reason``; the reason is owed."""
    globs = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        glob, mark, reason = line.partition("  #")
        if not mark or not reason.strip():
            raise ValueError(f"{ALLOWED_SKIPS.name}:{number}: want 'nodeid-glob  # reason', got {line!r}")
        globs.append(glob.strip())
    return globs


def unexpected_skips(nodeids: list[str], globs: list[str]) -> list[str]:
    """Return the skipped tests that no line allows; brackets of parametrised ids are meant literally."""
    literal = [glob.replace("[", "[[]") for glob in globs]
    return [nodeid for nodeid in nodeids if not any(fnmatchcase(nodeid, glob) for glob in literal)]


class _Skips:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            self.seen.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:  # importorskip at the top of a module
            self.seen.append(report.nodeid)


_SKIPS = pytest.StashKey[_Skips]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_SKIPS] = _Skips()
    config.pluginmanager.register(config.stash[_SKIPS], "casemate-skips")


def _faulty(config: pytest.Config) -> list[str]:
    return unexpected_skips(config.stash[_SKIPS].seen, read_allowed_skips(ALLOWED_SKIPS.read_text("utf-8")))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if IN_CI and exitstatus == pytest.ExitCode.OK and _faulty(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    faulty = _faulty(config)
    if IN_CI and faulty:
        terminalreporter.section("skipped, and not in tests/allowed_skips.txt")
        for nodeid in faulty:
            terminalreporter.line(f"FAILED {nodeid}")
