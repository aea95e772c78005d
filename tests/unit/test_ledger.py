# SPDX-License-Identifier: Apache-2.0
"""The ledger: what was drawn is spent, whatever fails and whoever edits."""

from __future__ import annotations

import errno
import fcntl
import math
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import ledger_kills
import numpy as np
import pytest

from casemate.core.errors import BudgetExhausted, CasemateError, GuaranteeVoid, InvalidData, TamperedArtefact
from casemate.privacy import _ledger_entries as entries
from casemate.privacy import _ledger_file as files
from casemate.privacy import _ledger_filter as filters
from casemate.privacy import accounting
from casemate.privacy.events import (
    ZCDP,
    ApproximateDP,
    DiscreteGaussian,
    DiscreteLaplace,
    Gaussian,
    Laplace,
    Pure,
)
from casemate.privacy.ledger import Ledger, Stated

TENTH = (Pure(epsilon=0.1),)


def made(folder: Path, **changes):
    options = {"population": "people", "unit": "person", "epsilon": 1.0, "delta": 0.0, **changes}
    return Ledger.create(folder / "a.ledger", **options)


def reopened(folder: Path, **options) -> Ledger:
    return Ledger.open(folder / "a.ledger", **options)


def never():
    raise AssertionError("drawn")


def test_ten_tenths_fill_one_and_not_one_more(tmp_path):
    ledger = made(tmp_path)
    for i in range(10):
        ledger.release(f"q{i}", TENTH, lambda i=i: {"value": i})
    assert ledger.spent().epsilon == 1.0 and ledger.spent().remaining_epsilon == 0.0
    with pytest.raises(BudgetExhausted, match="nothing was released"):
        ledger.release("q10", (Pure(epsilon=1e-9),), never)
    with pytest.raises(BudgetExhausted):  # nor after a restart
        reopened(tmp_path).release("q10", (Pure(epsilon=1e-9),), never)


def test_a_repeated_query_costs_nothing_and_is_never_drawn_again(tmp_path):
    ledger = made(tmp_path)
    first = ledger.release("q", TENTH, lambda: {"value": 0.1, "interval": (1, 2)})
    first["value"] = "changed by the caller"
    for again in (ledger, reopened(tmp_path)):
        assert again.release("q", TENTH, never) == {"value": 0.1, "interval": [1, 2]}
        assert again.spent().epsilon == 0.1 and again.spent().spends == 1
    with pytest.raises(InvalidData, match="another cost"):
        ledger.release("q", (Pure(epsilon=0.2),), never)


def test_the_cost_is_durable_before_anything_is_drawn(tmp_path):
    ledger = made(tmp_path)

    def make():
        seen = reopened(tmp_path).spent()
        assert seen.epsilon == 0.1 and seen.unclear == 1
        return {}

    ledger.release("q", TENTH, make)
    assert ledger.spent().unclear == 0


@pytest.mark.parametrize(
    "made_of", [lambda: {"value": math.nan}, lambda: {"value": object()}, lambda: 3, lambda: 1 / 0]
)
def test_what_fails_after_the_reservation_stays_spent(tmp_path, made_of):
    ledger = made(tmp_path)
    with pytest.raises((InvalidData, ZeroDivisionError)):
        ledger.release("q", TENTH, made_of)
    assert reopened(tmp_path).spent().epsilon == 0.1
    assert ledger.release("q", TENTH, lambda: {"value": 1}) == {"value": 1}  # drawn anew, paid anew
    assert ledger.spent().epsilon == 0.2


def test_a_training_reserves_once(tmp_path):
    ledger = made(tmp_path)
    assert ledger.reserve("model", TENTH) == 2
    with pytest.raises(GuaranteeVoid, match="charged before"):
        reopened(tmp_path).reserve("model", TENTH)
    assert ledger.spent().unclear == 1


def test_files_are_for_their_owner_alone_and_hold_no_path(tmp_path):
    made(tmp_path).release("q", TENTH, lambda: {"value": 1})
    names = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert names == {"a.ledger": 0o600, "a.ledger.head": 0o600, "a.ledger.key": 0o600}
    assert str(tmp_path) not in (tmp_path / "a.ledger").read_text()


# ------------------------------------------------------------------------------------------------ filters


def test_zcdp_alone_loses_nothing_to_the_best_order_known_beforehand(tmp_path):
    ledger = made(tmp_path, epsilon=3.0, delta=1e-6, filter="zcdp")
    rho = ledger.spent().remaining_rho
    orders = [1 + 10 ** (k / 300) for k in range(-600, 1500)]
    best = min(rho * a + math.log1p(-1 / a) - (math.log(1e-6) + math.log(a)) / (a - 1) for a in orders)
    assert best == pytest.approx(3.0, rel=1e-5)
    for i in range(4):
        ledger.release(f"q{i}", (ZCDP(rho=rho / 4 * (1 - 1e-9)),), dict)
    assert 2.999 < ledger.spent().epsilon <= 3.0
    with pytest.raises(BudgetExhausted):
        ledger.release("more", (ZCDP(rho=rho / 1000),), never)


def test_gaussian_alone_is_the_exact_curve(tmp_path):
    ledger = made(tmp_path, epsilon=1.0, delta=1e-5, filter="gaussian")
    sigma = accounting.noise_for_epsilon(lambda s: (Gaussian(noise_multiplier=s),), epsilon=1.0, delta=1e-5)
    half = (Gaussian(noise_multiplier=sigma * math.sqrt(2) * 1.0001),)
    for i in range(2):
        ledger.release(f"q{i}", half, dict)
    assert ledger.spent().epsilon == pytest.approx(1.0, rel=1e-3)
    with pytest.raises(BudgetExhausted):
        ledger.release("q2", (Gaussian(noise_multiplier=sigma * 50),), never)


MIXTURES = {
    "pure": (Pure(epsilon=0.05, count=12),),
    "laplace": (Laplace(noise_multiplier=10.0, count=30),),
    "zcdp": (ZCDP(rho=0.02, count=3), DiscreteGaussian(sigma=50.0, sensitivity=5, count=2)),
    "gaussian": (Gaussian(noise_multiplier=6.0, count=2), DiscreteLaplace(scale=100.0, sensitivity=3)),
    "sampled": (Gaussian(noise_multiplier=1.5, count=300, rate=0.01), Pure(epsilon=0.1)),
    "approximate": (ApproximateDP(epsilon=0.2, delta=1e-8, count=3), ZCDP(rho=0.01)),
}


@pytest.mark.parametrize("name", MIXTURES)
def test_mixed_spends_are_never_below_what_they_cost_as_a_fixed_sequence(tmp_path, name):
    ledger = made(tmp_path, epsilon=3.0, delta=1e-6)
    for i, part in enumerate(MIXTURES[name]):
        ledger.release(f"q{i}", (part,), dict)
    spent = ledger.spent()
    fixed = accounting.epsilon(MIXTURES[name], 1e-6)
    assert (
        fixed * (1 - 2e-3) <= spent.epsilon <= min(2.0 * fixed, 3.0)
    )  # its discretisation is known to 0.2 %
    assert spent.epsilon <= spent.at_any_time <= 3.0
    assert ledger.remaining((Pure(epsilon=1e-4),)) >= 1


def excess_of_the_worst_moment(bounds, mu: float) -> float:
    """Return the most that E[(1 - e^(bound_T - L_T))+] can be over all ways to choose T by the answers.

    L_n is the privacy loss of n Gaussian releases: a walk of steps N(mu^2 / 2, mu^2). Optimal stopping, on a lattice.
    """
    step, shift = mu**2 / 8, 4
    at = np.arange(-15.0, 40.0, step)
    reach = np.arange(-8 * mu, 8 * mu + step / 2, step)
    weights = np.exp(-0.5 * (reach / mu) ** 2)
    weights /= weights.sum()
    value = np.zeros(len(at))
    for bound in reversed(bounds):
        now = np.where(at > bound, -np.expm1(bound - at), 0.0)
        value = np.maximum(now, value)
        padded = np.pad(value, (len(reach) // 2, len(reach) // 2 + shift), mode="edge")
        value = np.convolve(padded, weights, mode="valid")[shift:]
    return float(np.interp(0.0, at, value))


def test_the_odometer_holds_at_the_worst_moment_with_twice_delta_and_the_running_sum_does_not(tmp_path):
    mu, delta = 0.25, 1e-3
    ledger = made(tmp_path, epsilon=4.0, delta=delta, filter="gaussian")
    event, always, running = (Gaussian(noise_multiplier=1 / mu),), [], []
    while ledger.remaining(event):
        ledger.reserve(f"q{len(always)}", event)
        spent = ledger.spent()
        always.append(spent.at_any_time)
        running.append(spent.epsilon)
    assert len(always) > 15 and always == sorted(always) and always[-1] <= 4.0
    last = excess_of_the_worst_moment([math.inf] * (len(running) - 1) + running[-1:], mu)
    assert last == pytest.approx(delta, rel=0.01)  # at a moment fixed beforehand the running sum is exact
    worst = excess_of_the_worst_moment(running, mu)
    assert worst > 2 * delta  # "now" chosen by the answers, and the running sum believed
    assert excess_of_the_worst_moment(always, mu) <= ledger.spent().at_any_time_delta == 2 * delta
    ledger.set_limit(epsilon=5.0, delta=delta / 2, reason="board")
    assert ledger.spent().at_any_time_delta == 3 * delta


def test_renyi_losses_equal_those_of_dp_accounting():
    import dp_accounting as dpa

    from casemate.privacy import _ledger_filter as filters

    orders = [3, 10, 31]
    for ours, theirs in (
        (
            Gaussian(noise_multiplier=1.1, rate=0.02),
            dpa.PoissonSampledDpEvent(0.02, dpa.GaussianDpEvent(1.1)),
        ),
        (Gaussian(noise_multiplier=1.1), dpa.GaussianDpEvent(1.1)),
        (Laplace(noise_multiplier=3.0), dpa.LaplaceDpEvent(3.0)),
    ):
        oracle = dpa.rdp.RdpAccountant(orders)
        oracle.compose(theirs)
        asked = filters.Filter(
            own=0.0, members=tuple(filters.Member(kind="renyi", order=a, share=1.0) for a in orders)
        )
        got = [sum_ / 1e15 for sum_ in filters.cost((ours,), asked)[1:]]
        assert got == pytest.approx(list(oracle._rdp), rel=1e-9)


def test_several_filters_at_once_share_delta(tmp_path):
    alone = made(tmp_path, epsilon=3.0, delta=1e-6, filter="zcdp").spent().remaining_rho
    mixed = Ledger.create(tmp_path / "b", population="p", epsilon=3.0, delta=1e-6)
    told = mixed.header["filter"]
    assert told["own"] + sum(share for _, _, share in told["members"]) == 1.0
    assert 0.9 * alone < mixed.spent().remaining_rho < 0.99 * alone  # half of delta at that order: its price
    half = Ledger.create(tmp_path / "c", population="p", epsilon=3.0, delta=5e-7, filter="zcdp")
    assert mixed.spent().remaining_rho <= half.spent().remaining_rho


def test_own_deltas_are_held_under_a_share_of_delta(tmp_path):
    ledger = made(tmp_path, epsilon=3.0, delta=8e-6)
    ledger.release("a", (ApproximateDP(epsilon=0.1, delta=1e-6),), dict)
    with pytest.raises(BudgetExhausted):
        ledger.release("b", (ApproximateDP(epsilon=0.1, delta=1e-9),), never)
    ledger.release("c", (Pure(epsilon=0.1),), dict)


def test_a_declared_sequence_costs_its_privacy_loss_distribution_and_nothing_else_is_admitted(tmp_path):
    steps, count = (Gaussian(noise_multiplier=1.0, count=100, rate=0.01),), (Pure(epsilon=0.1),)
    exact = accounting.epsilon(steps + count, 1e-6)
    with pytest.raises(InvalidData, match="declared costs"):
        made(tmp_path, epsilon=exact * 0.99, delta=1e-6, declared=[steps, count])
    ledger = made(tmp_path, epsilon=exact, delta=1e-6, declared=[steps, count])
    ledger.release("count", count, dict)
    with pytest.raises(BudgetExhausted, match="declared"):
        ledger.release("count again", count, never)
    assert ledger.remaining(steps) == 1
    ledger.reserve("model", steps)
    assert ledger.spent().epsilon == pytest.approx(exact) and ledger.remaining(steps) == 0


def test_a_first_event_chosen_blindly_may_fill_the_budget_by_its_exact_cost(tmp_path):
    steps = (Gaussian(noise_multiplier=1.0, count=1000, rate=0.01),)
    exact = accounting.epsilon(steps, 1e-6)
    ledger = made(tmp_path, epsilon=exact, delta=1e-6)
    assert ledger.remaining(steps) == 1
    ledger.reserve("model", steps)
    assert ledger.spent().epsilon == pytest.approx(exact)
    with pytest.raises(BudgetExhausted):
        ledger.release("q", (Pure(epsilon=1e-6),), never)
    other = Ledger.create(tmp_path / "b", population="p", epsilon=exact, delta=1e-6)
    other.release("q", (Pure(epsilon=1e-6),), dict)
    with pytest.raises(BudgetExhausted):  # the same event, chosen after an answer
        other.reserve("model", steps)


def test_costs_for_other_neighbours_are_converted_or_refused(tmp_path):
    people = made(tmp_path, epsilon=10.0, delta=1e-6)
    for rows in (None, math.nan, math.inf, 0, 1.5, True, "3"):
        with pytest.raises(GuaranteeVoid, match="rows_per_person"):
            people.release("a", TENTH, never, stated=Stated(unit="record", rows_per_person=rows))
    people.release("a", TENTH, dict, stated=Stated(unit="record", rows_per_person=4))
    people.release("b", (ZCDP(rho=0.001),), dict, stated=Stated(unit="record", rows_per_person=4))
    people.release(
        "c", (Gaussian(noise_multiplier=8.0),), dict, stated=Stated(unit="record", rows_per_person=4)
    )
    charged = [spend.event for spend in people.spends()]
    assert charged == [(Pure(epsilon=0.4),), (ZCDP(rho=0.016),), (Gaussian(noise_multiplier=2.0),)]
    with pytest.raises(GuaranteeVoid, match="replaced"):
        people.release("d", TENTH, never, stated=Stated(neighbours="replace_one"))
    with pytest.raises(GuaranteeVoid, match="does not follow"):
        sampled = (Gaussian(noise_multiplier=2.0, rate=0.1),)
        people.release("e", sampled, never, stated=Stated(unit="record", rows_per_person=2))
    swaps = Ledger.create(tmp_path / "b", population="p", epsilon=1.0, delta=0.0, neighbours="replace_one")
    swaps.release("a", TENTH, dict, stated=Stated(neighbours="add_or_remove_one"))
    assert swaps.spent().epsilon == 0.2
    records = Ledger.create(tmp_path / "c", population="p", epsilon=1.0, delta=0.0, unit="record")
    with pytest.raises(GuaranteeVoid, match="counts records"):
        records.release("a", TENTH, never, stated=Stated(unit="person"))


def test_a_raised_limit_is_an_entry_with_a_reason(tmp_path):
    ledger = made(tmp_path, epsilon=0.1)
    ledger.release("a", TENTH, dict)
    with pytest.raises(InvalidData, match="reason"):
        ledger.set_limit(epsilon=1.0, delta=0.0, reason=" ")
    ledger.set_limit(epsilon=0.2, delta=0.0, reason="ethics board, 2026-11-20")
    again = reopened(tmp_path)
    again.release("b", TENTH, dict)
    assert again.spent().limit_epsilon == 0.2 and "ethics board" in (tmp_path / "a.ledger").read_text()


@pytest.mark.parametrize("name", ["mixed", "zcdp", "gaussian"])
def test_a_limit_without_delta_admits_pure_releases_alone_and_leaves_the_ledger_whole(tmp_path, name):
    ledger = made(tmp_path, epsilon=3.0, delta=1e-6, filter=name)
    ledger.release("a", (Pure(epsilon=0.5),), dict)
    ledger.set_limit(epsilon=3.0, delta=0.0, reason="board")
    again = reopened(tmp_path)
    for faint in (Gaussian(noise_multiplier=100.0), ZCDP(rho=1e-6), ApproximateDP(epsilon=0.1, delta=1e-30)):
        with pytest.raises(BudgetExhausted):
            again.release("b", (faint,), never)
    assert math.isclose(again.spent().epsilon, 0.5) and again.spent().limit_delta == 0


def test_what_was_spent_is_not_hidden_by_a_lowered_limit(tmp_path):
    ledger = made(tmp_path, epsilon=3.0, delta=1e-6)
    while ledger.remaining((ZCDP(rho=0.01),)):
        ledger.reserve(f"q{len(ledger.spends())}", (ZCDP(rho=0.01),))
    before = ledger.spent().epsilon
    ledger.set_limit(epsilon=1.0, delta=1e-6, reason="closed")
    spent = reopened(tmp_path).spent()
    fixed = accounting.epsilon(17 * (ZCDP(rho=0.01),), 1e-6)
    assert spent.spends == 17 and spent.epsilon == before > fixed  # adaptive: no cost of a fixed sequence
    assert spent.at_any_time == 3.0 and spent.remaining_epsilon == spent.remaining_rho == 0
    ledger.set_limit(epsilon=1.0, delta=1e-9, reason="closed")
    assert reopened(tmp_path).spent().at_any_time == math.inf  # no limit says anything at this delta


@pytest.mark.parametrize("name", ["mixed", "zcdp", "gaussian"])
def test_events_beyond_the_floats_are_refused_and_none_is_free(tmp_path, name):
    ledger = made(tmp_path, epsilon=5000.0, delta=1e-6, filter=name)
    ledger.reserve("a", TENTH)
    beyond = [
        Pure(epsilon=1e9),  # of a mu that ends at 75 in floats
        Pure(epsilon=1e200),
        Gaussian(noise_multiplier=1e-200),
        Gaussian(noise_multiplier=1e-200, rate=0.5),
        DiscreteGaussian(sigma=1e-200),
        Laplace(noise_multiplier=1e-300),
    ]
    for part in beyond:
        with pytest.raises(BudgetExhausted):
            ledger.release("b", (part,), never)
        with pytest.raises(BudgetExhausted):  # nor as the first
            Ledger.create(tmp_path / repr(part), population="p", epsilon=5000.0, delta=1e-6).reserve(
                "b", (part,)
            )
    for part in (Pure(epsilon=1e-9), Laplace(noise_multiplier=1e9), Gaussian(noise_multiplier=1e200)):
        charged = filters.cost((part,), ledger._book.filter)
        assert all(one >= 1 for one in charged[1:])
    fine = filters.cost((Pure(epsilon=0.1, count=3.0),), ledger._book.filter)  # type: ignore[arg-type]
    assert all(type(one) is int for one in fine)


def test_an_order_near_one_charges_no_less_than_what_a_tiny_release_loses():
    tight = filters.made("zcdp", 1e4, 1e-6)  # order 1.04
    for size in (1e-3, 1e-5, 1e-7, 1e-8, 1e-9):
        order = tight.members[0].order
        least = order * size**2 / 2 * (1 - size) * 1e15  # of randomised response, to the second order
        for part in (Pure(epsilon=size), Laplace(noise_multiplier=1 / size)):
            assert filters.cost((part,), tight)[1] >= least * 0.9


def test_a_ledger_stays_where_it_was_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ledger = made(Path())
    monkeypatch.chdir("/")
    ledger.release("a", TENTH, dict)
    assert reopened(tmp_path).spent().spends == 1


def test_a_link_to_a_ledger_is_refused(tmp_path):
    made(tmp_path)
    (tmp_path / "soft.ledger").symlink_to(tmp_path / "a.ledger")
    os.link(tmp_path / "a.ledger", tmp_path / "hard.ledger")
    with pytest.raises(InvalidData, match="symbolic link"):
        Ledger.open(tmp_path / "soft.ledger")
    with pytest.raises(TamperedArtefact, match="head"):
        Ledger.open(tmp_path / "hard.ledger")


def test_a_question_may_name_thousands_of_edges(tmp_path):
    ledger = made(tmp_path)
    for last in (1, 2):
        ledger.release("edges " + "1.5, " * 20_000 + str(last), TENTH, dict)
    assert ledger.spent().epsilon == 0.2


@pytest.mark.parametrize("epsilon", [1e3, 1e6, 1e300])
def test_a_limit_that_promises_little_is_still_a_limit(tmp_path, epsilon):
    ledger = made(tmp_path, epsilon=epsilon, delta=1e-6)
    ledger.release("a", TENTH, dict)
    with pytest.raises(BudgetExhausted):
        ledger.release("b", (Gaussian(noise_multiplier=1e-200, rate=0.5),), never)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epsilon": 0.0},
        {"epsilon": 10**400},
        {"delta": 5e-324},
        {"epsilon": math.inf},
        {"delta": 1.0},
        {"delta": math.nan},
        {"unit": "row"},
        {"neighbours": "any"},
        {"population": ""},
        {"filter": "best"},
        {"filter": "zcdp"},
        {"epsilon": True},
    ],
)
def test_senseless_budgets_are_refused(tmp_path, wrong):
    with pytest.raises(InvalidData):
        made(tmp_path, **wrong)
    assert not (tmp_path / "a.ledger").exists()


def test_a_ledger_is_not_begun_twice(tmp_path):
    made(tmp_path).release("q", TENTH, dict)
    with pytest.raises(InvalidData, match="never begun anew"):
        made(tmp_path)
    (tmp_path / "a.ledger").unlink()
    with pytest.raises(TamperedArtefact, match="was deleted"):
        made(tmp_path)


# ------------------------------------------------------------------------------------------------ crashes


class Crash(BaseException):
    """The machine stops."""


class Failing(files.Disk):
    """Counts operations; at the k-th it does half of it and fails, as an error or for good."""

    def __init__(self, at: int, error: type[BaseException], half: bool) -> None:
        self.left, self.error, self.half, self.dead = at, error, half, False

    def _step(self, whole, half=lambda: None):
        self.left -= 1
        if self.dead and self.error is Crash:
            raise Crash
        if self.left == 0:
            self.dead = True
            if self.half:
                half()
            raise OSError(28, "No space left on device") if self.error is OSError else self.error
        return whole()

    def write(self, handle, text):
        return self._step(lambda: os.write(handle, text), lambda: os.write(handle, text[: len(text) // 2]))

    def pwrite(self, handle, text, offset):
        return self._step(
            lambda: os.pwrite(handle, text, offset), lambda: os.pwrite(handle, text[: len(text) // 2], offset)
        )

    def ftruncate(self, handle, size):
        return self._step(lambda: os.ftruncate(handle, size))

    def fsync(self, handle):
        return self._step(lambda: os.fsync(handle))

    def sync(self, handle):
        return self._step(lambda: os.fdatasync(handle))

    def link(self, source, target):
        return self._step(lambda: os.link(source, target))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("error", [Crash, OSError])
def test_whatever_write_fails_no_spend_is_lost_and_nothing_is_released_unpaid(tmp_path, error, half):
    key = (made(tmp_path).close(), files.read_key(tmp_path / "a.ledger.key"))[1]
    start = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for at in range(1, 40):
        for name, text in start.items():
            (tmp_path / name).write_bytes(text)
        disk = Failing(at, error, half)
        ledger = Ledger(files.FileStorage(tmp_path / "a.ledger", disk=disk), key)
        drawn, told, failed = [], {}, 0
        for query in ("a", "b", "c"):
            try:
                value = at * 10 + ord(query)
                told[query] = ledger.release(
                    query, TENTH, lambda q=query, v=value, d=drawn: d.append(q) or {"value": v}
                )
            except (Crash, CasemateError):
                failed += 1
                if error is Crash:
                    break
        ledger.close()
        again = reopened(tmp_path)  # no false alarm
        again.verify()
        spent = {spend.query for spend in again.spends()}
        assert set(drawn) <= spent, at  # nothing drawn is lost
        assert set(told) <= set(drawn)
        assert len(spent) - len(drawn) <= (1 if error is Crash else failed)  # over-count: in flight only
        for query, answer in told.items():
            assert again.release(query, TENTH, never) == answer
        again.release("z", TENTH, dict)  # it goes on, over the remains of a cut write too
        assert reopened(tmp_path).spent().spends == len(again.spends())
        if not failed:
            assert at > 10
            return
    raise AssertionError("never got through")


@pytest.mark.parametrize("half", [False, True])
def test_a_creation_that_crashes_leaves_nothing_or_a_whole_ledger(tmp_path, half, monkeypatch):
    for at in range(1, 30):
        folder = tmp_path / f"{at}{half}"
        folder.mkdir()
        disk = Failing(at, Crash, half)
        first = entries.body_of({"kind": "x"})
        try:
            key = files.make_key(folder / "a.ledger.key", disk=disk)
            line, mark = entries.sealed(key, entries.NOTHING, first)
            files.create(folder / "a.ledger", line, entries.head(key, mark), disk=disk)
        except Crash:
            if (folder / "a.ledger").exists():
                reached = (folder / "a.ledger.head").stat().st_size == 1024
                assert reached and (folder / "a.ledger").read_bytes() == line
            else:
                made(folder).close()  # begun again
            continue
        assert at > 5
        return
    raise AssertionError("never got through")


def test_after_a_failed_sync_the_ledger_must_be_opened_again(tmp_path):
    key = (made(tmp_path).close(), files.read_key(tmp_path / "a.ledger.key"))[1]
    disk = Failing(2, OSError, half=False)  # the sync behind the first append
    ledger = Ledger(files.FileStorage(tmp_path / "a.ledger", disk=disk), key)
    with pytest.raises(InvalidData, match="nothing was released"):
        ledger.release("a", TENTH, never)
    with pytest.raises(GuaranteeVoid, match="open it again"):
        ledger.release("b", TENTH, never)
    assert reopened(tmp_path).spent().spends == 1  # unclear: it counts


def test_a_full_disk_releases_nothing(tmp_path):
    ledger = made(tmp_path)
    ledger.release("a", TENTH, dict)
    size = (tmp_path / "a.ledger").stat().st_size
    limit, before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, limit[1]))
        with pytest.raises(InvalidData, match="File too large; nothing was released"):
            ledger.release("b", TENTH, never)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert (tmp_path / "a.ledger").stat().st_size == size
    assert ledger.release("b", TENTH, lambda: {"value": 2}) == {"value": 2}
    assert ledger.spent().spends == 2


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("where", ["pwrite", "sync"])
def test_a_disk_that_is_full_read_only_or_broken_releases_nothing(tmp_path, code, where):
    key = (made(tmp_path).close(), files.read_key(tmp_path / "a.ledger.key"))[1]

    def fails(*_):
        raise OSError(code, os.strerror(code))

    bad = type("Bad", (files.Disk,), {where: staticmethod(fails)})
    ledger = Ledger(files.FileStorage(tmp_path / "a.ledger", disk=bad), key)
    for ask in (
        lambda: ledger.release("q", TENTH, never),
        lambda: ledger.reserve("model", TENTH),
        lambda: ledger.set_limit(epsilon=2.0, delta=0.0, reason="board"),
    ):
        with pytest.raises(CasemateError, match=r"nothing was released|open it again"):
            ask()
    ledger.close()
    after = reopened(tmp_path).spent()
    assert after.limit_epsilon == 1.0 or where == "sync"
    assert after.spends <= (0 if where == "pwrite" else 1)  # what a failed sync left counts as spent


def test_a_disk_that_takes_a_few_bytes_at_a_time_gets_whole_lines(tmp_path):
    key = (made(tmp_path).close(), files.read_key(tmp_path / "a.ledger.key"))[1]

    class Slow(files.Disk):
        @staticmethod
        def pwrite(handle, text, offset):
            return os.pwrite(handle, text if len(text) == 1024 else text[:7], offset)

    ledger = Ledger(files.FileStorage(tmp_path / "a.ledger", disk=Slow), key)
    ledger.release("q", TENTH, lambda: {"value": 1})
    assert reopened(tmp_path).release("q", TENTH, never) == {"value": 1}

    class Torn(files.Disk):
        @staticmethod
        def pwrite(handle, text, offset):
            return os.pwrite(handle, text[:512] if len(text) == 1024 else text, offset)

    torn = Ledger(files.FileStorage(tmp_path / "a.ledger", disk=Torn), key)
    with pytest.raises(InvalidData, match="nothing was released"):
        torn.release("r", TENTH, never)  # half a head
    with pytest.raises(GuaranteeVoid, match="open it again"):
        torn.release("r", TENTH, never)
    assert reopened(tmp_path).spent().spends == 2


def test_a_folder_that_cannot_be_written_begins_no_ledger(tmp_path, monkeypatch):
    whole = os.open

    def read_only(path, flags, *mode):
        if flags & os.O_CREAT and str(path).startswith(str(tmp_path)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return whole(path, flags, *mode)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(InvalidData, match="Read-only file system; nothing was released"):
        made(tmp_path)
    monkeypatch.setattr(os, "open", whole)
    assert not list(tmp_path.iterdir())


def test_a_ledger_that_cannot_be_written_releases_nothing(tmp_path):
    made(tmp_path).close()
    ledger = reopened(tmp_path, read_only=True)
    assert ledger.spent().spends == 0
    with pytest.raises(InvalidData, match="nothing was released"):
        ledger.release("q", TENTH, never)
    with pytest.raises(InvalidData, match="cannot use"):
        Ledger.create("/proc/a.ledger", population="p", epsilon=1.0, delta=0.0)
    with pytest.raises(InvalidData, match="cannot use"):
        Ledger.open(tmp_path / "none")


def test_a_clock_that_goes_back_releases_nothing(tmp_path):
    now = [2e9]
    made(tmp_path).close()
    key = files.read_key(tmp_path / "a.ledger.key")
    ledger = Ledger(files.FileStorage(tmp_path / "a.ledger"), key, clock=lambda: now[0])
    ledger.release("a", TENTH, dict)
    now[0] -= 3600
    with pytest.raises(GuaranteeVoid, match="3,600 s before"):
        ledger.release("b", TENTH, never)
    assert ledger.release("a", TENTH, never) == {}
    now[0] += 7200
    ledger.release("b", TENTH, dict)


def test_a_clock_that_jumped_ahead_keeps_the_ledger_closed_until_then(tmp_path):
    now = [2e9]
    made(tmp_path).close()
    key = files.read_key(tmp_path / "a.ledger.key")
    ledger = Ledger(files.FileStorage(tmp_path / "a.ledger"), key, clock=lambda: now[0])
    now[0] += 1e6
    ledger.release("a", TENTH, dict)
    now[0] -= 1e6  # it was set right again
    for wish in (lambda: ledger.release("b", TENTH, never), lambda: ledger.reserve("c", TENTH)):
        with pytest.raises(GuaranteeVoid, match="1,000,000 s before"):
            wish()
    now[0] += 5e5

    def back() -> dict[str, int]:
        now[0] -= 3600  # while the answer is made
        return {"value": 1}

    now[0] += 5e5 + 1
    with pytest.raises(GuaranteeVoid, match="s before"):
        ledger.release("b", TENTH, back)
    assert [spend.query for spend in ledger.spends()] == ["a", "b"] and ledger.spent().unclear == 1


@pytest.mark.parametrize("same", [False, True])
def test_a_forked_process_is_refused(tmp_path, same):
    """Also where the child has the process id of its parent, as the first process of a container's container has."""
    made(tmp_path).close()
    script = (
        "import os, sys\n"
        f"os.getpid = (lambda: 1) if {same} else os.getpid\n"
        "from casemate.core.errors import GuaranteeVoid\n"
        "from casemate.privacy.events import Pure\n"
        "from casemate.privacy.ledger import Ledger\n"
        "ledger = Ledger.open(sys.argv[1])\n"
        "if os.fork() == 0:\n"
        "    count = 0\n"
        "    for use in (lambda: ledger.release('q', (Pure(epsilon=0.1),), dict), ledger.spent, ledger.verify,\n"
        "                lambda: ledger.reserve('q', (Pure(epsilon=0.1),)),\n"
        "                lambda: ledger.set_limit(epsilon=2.0, delta=0.0, reason='r')):\n"
        "        try:\n"
        "            use()\n"
        "        except GuaranteeVoid:\n"
        "            count += 1\n"
        "    os._exit(count)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
    )
    assert subprocess.run([sys.executable, "-c", script, tmp_path / "a.ledger"], check=False).returncode == 5
    assert reopened(tmp_path).spent().spends == 0


def test_a_fork_while_an_answer_is_made_returns_nothing(tmp_path):
    ledger = made(tmp_path)
    out, into = os.pipe()

    def make() -> dict[str, int]:
        child = os.fork()
        if child == 0:
            os.write(into, b"in ")
            return {"value": 1}
        os.waitpid(child, 0)
        return {"value": 2}

    parent = os.getpid()
    try:
        answer = ledger.release("q", TENTH, make)
    except BaseException as error:
        if os.getpid() != parent:
            os.write(into, type(error).__name__.encode())
            os._exit(0)
        raise
    if os.getpid() != parent:
        os.write(into, b"released")
        os._exit(0)
    assert answer == {"value": 2} and os.read(out, 100) == b"in GuaranteeVoid"
    assert ledger.spent().spends == 1


# ------------------------------------------------------------------------------------------------ tampering


def test_every_changed_byte_is_seen(tmp_path):
    ledger = made(tmp_path)
    for i in range(3):
        ledger.release(f"q{i}", TENTH, lambda i=i: {"value": i})
    for name in ("a.ledger", "a.ledger.key"):
        text = (tmp_path / name).read_bytes()
        for at in range(len(text)):
            if at % 17 and text[at] not in b"\n {}":
                continue  # some of each kind, and all that separates
            (tmp_path / name).write_bytes(text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :])
            with pytest.raises((TamperedArtefact, InvalidData)):
                reopened(tmp_path)
        (tmp_path / name).write_bytes(text)
    reopened(tmp_path).close()


def test_lines_cut_moved_doubled_or_added_are_seen(tmp_path):
    ledger = made(tmp_path)
    for i in range(3):
        ledger.release(f"q{i}", TENTH, dict)
    path = tmp_path / "a.ledger"
    text = path.read_bytes()
    lines = text.splitlines(keepends=True)
    ends = [sum(map(len, lines[:k])) for k in range(len(lines))]
    for cut in {*range(0, len(text), 29), *ends, *(end - 1 for end in ends[1:])}:
        path.write_bytes(text[:cut])
        with pytest.raises(TamperedArtefact):
            reopened(tmp_path)
    for wrong in (
        lines[:2] + lines[3:],
        lines[:1] + lines[2:3] + lines[1:2] + lines[3:],
        lines + lines[-1:],
        lines[1:],
        [*lines, b"\n"],
    ):
        path.write_bytes(b"".join(wrong))
        with pytest.raises(TamperedArtefact):
            reopened(tmp_path)
    path.write_bytes(text)
    assert reopened(tmp_path).spent().spends == 3


def test_a_damaged_head_is_seen_or_harmless_but_never_hides_a_cut(tmp_path):
    ledger = made(tmp_path)
    ledger.release("q", TENTH, dict)
    path, head = tmp_path / "a.ledger", tmp_path / "a.ledger.head"
    text, mark = path.read_bytes(), head.read_bytes()
    shorter = b"".join(text.splitlines(keepends=True)[:-1])
    for wrong in (b"", mark[:512], bytes(512) + mark[512:], mark[:512] + bytes(512), bytes(1024), mark[::-1]):
        head.write_bytes(wrong)
        path.write_bytes(shorter)
        with pytest.raises(TamperedArtefact):
            reopened(tmp_path)
    path.write_bytes(text)
    head.write_bytes(bytes(512) + mark[512:])  # what a power failure leaves of a write
    reopened(tmp_path).close()
    head.unlink()
    with pytest.raises(TamperedArtefact, match="missing"):
        reopened(tmp_path)


def test_another_key_and_an_open_key_are_refused(tmp_path):
    made(tmp_path).close()
    other = tmp_path / "other.key"
    files.make_key(other)
    with pytest.raises(TamperedArtefact):
        reopened(tmp_path, key=other)
    (tmp_path / "a.ledger.key").chmod(0o640)
    with pytest.raises(InvalidData, match="chmod 600"):
        reopened(tmp_path)


def test_a_folder_put_back_is_seen_only_by_an_anchor(tmp_path):
    ledger = made(tmp_path)
    ledger.release("a", TENTH, dict)
    old = {path: path.read_bytes() for path in tmp_path.iterdir()}
    early = ledger.anchor
    ledger.release("b", TENTH, dict)
    late = ledger.anchor
    ledger.close()
    assert reopened(tmp_path).verify(anchor=early) == late  # grown since: fine
    for path, text in old.items():
        path.write_bytes(text)
    back = reopened(tmp_path)
    back.verify(anchor=early)
    for wrong in (late, "5", "", "x-y", "1-" + "0" * 32):
        with pytest.raises(TamperedArtefact, match="older copy"):
            back.verify(anchor=wrong)


def test_a_file_cut_or_replaced_under_an_open_ledger_is_seen(tmp_path):
    ledger = made(tmp_path)
    ledger.release("a", TENTH, dict)
    path = tmp_path / "a.ledger"
    text = path.read_bytes()
    copy = tmp_path / "copy"
    copy.write_bytes(text)
    copy.replace(path)
    with pytest.raises(TamperedArtefact, match="replaced"):
        ledger.release("b", TENTH, never)
    again = reopened(tmp_path)
    os.truncate(path, len(text) - 1)
    with pytest.raises(TamperedArtefact, match="was cut"):
        again.release("b", TENTH, never)


# ------------------------------------------------------------------------------------------------ at once


def test_threads_share_a_budget_and_an_answer(tmp_path):
    ledger = made(tmp_path, epsilon=2.0)
    drawn, told, refused = [], [], []

    def ask(k: int) -> None:
        for i in range(8):
            query = f"{k} {i}" if i % 2 else f"shared {i}"
            try:
                got = ledger.release(
                    query, TENTH, lambda q=query: drawn.append(q) or {"value": os.urandom(4).hex()}
                )
                told.append((query, got["value"]))
            except BudgetExhausted:
                refused.append(query)

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(drawn) == len(set(drawn)) == ledger.spent().spends == 20  # the limit, whatever the order
    assert len(dict(told)) == len(set(told))  # one question, one answer
    assert refused and reopened(tmp_path).spent().epsilon == 2.0


def test_two_who_open_the_ledger_see_each_other(tmp_path):
    one, other = made(tmp_path), reopened(tmp_path)
    one.release("a", TENTH, lambda: {"value": 1})
    assert other.release("a", TENTH, never) == {"value": 1}
    slow = one.release("b", TENTH, lambda: other.release("b", TENTH, lambda: {"value": 2}) and {"value": 3})
    assert slow == {"value": 2} and one.spent().epsilon == 0.3  # both paid, one answer
    assert other.spent() == one.spent() and other.anchor == one.anchor


def test_a_query_that_asks_itself_is_refused(tmp_path):
    ledger = made(tmp_path)
    with pytest.raises(InvalidData, match="asks the same query"):
        ledger.release("q", TENTH, lambda: ledger.release("q", TENTH, never))


@pytest.mark.timeout(60)  # threads that sync to a disk
@pytest.mark.parametrize("many", [2, 3])
@pytest.mark.parametrize("opened", ["once", "each"])
def test_threads_that_would_wait_for_each_other_are_refused_and_not_hung(tmp_path, many, opened):
    ledgers = [made(tmp_path)]
    ledgers += [reopened(tmp_path) if opened == "each" else ledgers[0] for _ in range(many - 1)]
    met, told, refused = threading.Barrier(many), {}, []

    def ask(k: int) -> None:
        after = (k + 1) % many  # each answers one question and needs the next one's answer for it

        def make() -> dict[str, int]:
            met.wait(20)
            return {"value": 1 + ledgers[after].release(f"q{after}", TENTH, lambda: {"value": 0})["value"]}

        try:
            told[k] = ledgers[k].release(f"q{k}", TENTH, make)
        except InvalidData as error:
            refused.append(str(error))

    threads = [threading.Thread(target=ask, args=(k,), daemon=True) for k in range(many)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert refused and all("two threads would wait for each other" in text for text in refused)
    assert len(told) + len(refused) == many
    if opened == "once":
        assert len(refused) == 1  # who came last; the others have their answers
    again = reopened(tmp_path)
    for k, answer in told.items():
        assert again.release(f"q{k}", TENTH, never) == answer


def test_a_thread_may_wait_for_the_answer_of_another(tmp_path):
    ledger, inside, told = made(tmp_path), threading.Event(), []

    def slow() -> dict[str, int]:
        inside.set()
        waiting.wait(20)
        return {"value": 1}

    waiting = threading.Event()
    other = threading.Thread(target=lambda: told.append(ledger.release("a", TENTH, slow)), daemon=True)
    other.start()
    assert inside.wait(20)

    def make() -> dict[str, int]:
        threading.Timer(0.1, waiting.set).start()
        return {"value": 1 + ledger.release("a", TENTH, never)["value"]}

    assert ledger.release("b", TENTH, make) == {"value": 2}
    other.join()
    assert told == [{"value": 1}]
    assert ledger.release("c", TENTH, lambda: ledger.release("d", TENTH, dict)) == {}


def test_who_writes_keeps_others_out(tmp_path):
    made(tmp_path).close()
    holder, other, seen = files.FileStorage(tmp_path / "a.ledger"), reopened(tmp_path), []
    asking = threading.Thread(target=lambda: seen.append(other.release("q", TENTH, lambda: {"value": 1})))
    with holder.held():
        with (tmp_path / "a.ledger").open("rb") as again, pytest.raises(BlockingIOError):
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        asking.start()
        asking.join(0.2)
        assert not seen
    asking.join()
    assert seen == [{"value": 1}]


def test_lines_are_synced_before_the_head_names_them_and_only_then_is_drawn(tmp_path):
    key = (made(tmp_path).close(), files.read_key(tmp_path / "a.ledger.key"))[1]
    order = []

    class Watched(files.Disk):
        @staticmethod
        def pwrite(handle, text, offset):
            order.append("head" if len(text) == 1024 else "lines")
            return os.pwrite(handle, text, offset)

        @staticmethod
        def sync(handle):
            order.append("sync")
            os.fdatasync(handle)

    ledger = Ledger(files.FileStorage(tmp_path / "a.ledger", disk=Watched), key)
    ledger.release("q", TENTH, lambda: order.append("drawn") or {})
    order.append("told")
    assert order == ["lines", "sync", "head", "drawn", "lines", "sync", "head", "told"]


def test_many_callers_share_a_write(tmp_path):
    ledger = made(tmp_path, epsilon=100.0)
    syncs = []
    wait = threading.Event()

    class Counted(files.Disk):
        @staticmethod
        def sync(handle):
            syncs.append(handle)
            wait.wait(0.5)

    ledger = Ledger(
        files.FileStorage(tmp_path / "a.ledger", disk=Counted), files.read_key(tmp_path / "a.ledger.key")
    )
    threads = [threading.Thread(target=ledger.reserve, args=(f"q{k}", TENTH)) for k in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.spent().spends == 32 and len(syncs) <= 8


def test_killed_writers_lose_nothing(tmp_path):
    assert ledger_kills.run(tmp_path, 12)["kills"] == 12


@pytest.mark.slow
def test_sixty_killed_writers_lose_nothing(tmp_path):
    assert ledger_kills.run(tmp_path, 60)["draws"] > 6
