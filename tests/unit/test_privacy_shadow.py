# SPDX-License-Identifier: Apache-2.0
"""The shadow bank: log-odds, floors, the design, duplicates, and what a shadow is made of."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import joblib
import numpy as np
import pytest
from scipy.special import logsumexp

from casemate.core.data import Dataset
from casemate.core.errors import InvalidData
from casemate.core.run import Run
from casemate.core.types import LABELS, LOGITS, REFIT, SCORES, Capability, Target
from casemate.privacy import confidence, shadow
from casemate.privacy.methods.lira import lira


@dataclass(frozen=True, kw_only=True)
class Memory(Target):
    """Says 0.9 for the label of a row it was trained on and the classes' shares elsewhere."""

    known: dict[bytes, int]
    prior: tuple[float, ...] = (0.5, 0.5)
    offers: frozenset[Capability] = frozenset({LABELS, SCORES, REFIT})

    @property
    def capabilities(self) -> frozenset[Capability]:
        return self.offers

    @property
    def kind(self) -> str:
        return "memory"

    def native_classes(self) -> tuple[Any, ...] | None:
        return tuple(range(len(self.prior)))

    def digest(self) -> str:
        return "0"

    def scores(self, x: Any) -> np.ndarray:
        out = np.tile(np.asarray(self.prior), (len(x), 1))
        for i, row in enumerate(x):
            if (label := self.known.get(row.tobytes())) is not None:
                out[i] = 0.1 / (len(self.prior) - 1)
                out[i, label] = 0.9
        return out

    def labels(self, x: Any) -> np.ndarray:
        return self.scores(x).argmax(1)

    def refit(self, x: Any, y: np.ndarray, seed: int) -> Target:
        share = np.bincount(y, minlength=len(self.prior)) / len(y)
        return replace(
            self,
            known={row.tobytes(): int(label) for row, label in zip(x, y, strict=True)},
            prior=tuple(share.tolist()),
        )


def make(
    n: int = 60, n_holdout: int = 60, *, people: int | None = None, seed: int = 0
) -> tuple[Target, Dataset]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n + n_holdout, 3)).round(6)
    y = np.r_[0, 1, rng.integers(2, size=n + n_holdout - 2)]
    parts: list[tuple[Any, ...]] = [(x[:n], y[:n]), (x[n:], y[n:])]
    if people is not None:
        owner = np.r_[rng.integers(people, size=n), people + rng.integers(people, size=n_holdout)]
        parts = [(*parts[0], owner[:n]), (*parts[1], owner[n:])]
    target, data = Memory(known={}).bind(Dataset(*parts))
    return target.refit(data.train.x, data.train.y, 0), data


def new_run(**options: Any) -> Run:
    return Run(card=lira.card, **options)


# ---- log-odds


def test_log_odds_keep_the_exact_order_where_probabilities_saturate() -> None:
    gaps = np.linspace(-120, 120, 2401)
    logits = np.stack([gaps / 2, -gaps / 2, np.full_like(gaps, -300.0)], axis=1)
    found = confidence.log_odds_of_logits(logits.astype(np.float64), np.zeros(len(gaps), int))
    assert np.all(np.diff(found) > 0)
    assert np.abs(found - gaps).max() < 1e-12
    as_float32 = confidence.log_odds_of_logits(logits.astype(np.float32), np.zeros(len(gaps), int))
    assert np.all(np.diff(as_float32) > 0)


def test_the_rest_is_summed_where_the_own_score_rounds_to_one() -> None:
    class Sure(Memory):
        def scores(self, x: Any) -> np.ndarray:
            return np.array([[1.0, 2e-20, 1e-20], [1e-3, 0.999, 0.0]])

    answer = confidence.confidence(Sure(known={}), np.zeros((2, 1)), np.array([0, 1]))
    assert answer.own.tolist() == [1.0, 0.999]
    assert answer.rest.tolist() == pytest.approx([3e-20, 1e-3], rel=1e-12, abs=0)  # 1 - own would be 0


def test_log_odds_of_logits_equal_logsumexp() -> None:
    rng = np.random.default_rng(0)
    logits, y = rng.normal(0, 20, (200, 5)), rng.integers(5, size=200)
    rest = np.array([logsumexp(np.delete(row, label)) for row, label in zip(logits, y, strict=True)])
    assert confidence.log_odds_of_logits(logits, y) == pytest.approx(
        logits[np.arange(200), y] - rest, abs=1e-12
    )


def test_missing_class_and_certainty_become_the_extremes_that_were_seen() -> None:
    logits = np.array([[0.0, -np.inf], [-np.inf, 0.0], [1.0, 0.0], [0.0, 2.0]])
    found = confidence.log_odds_of_logits(logits, np.zeros(4, int))
    assert found[0] == np.inf
    assert found[1] == -np.inf
    empty = np.empty(0)
    clipped = confidence.all_log_odds([confidence.Confidence(found, empty, empty)], None)
    assert clipped.tolist() == [[1.0, -2.0, 1.0, -2.0]]


def test_floor_is_half_a_vote_of_a_forest_and_bounded() -> None:
    assert confidence.score_floor(np.array([0.0, 0.5]), np.array([1.0, 0.01])) == 0.005
    assert confidence.score_floor(np.array([1e-30]), np.array([1.0])) == confidence.FLOOR_LOW
    assert confidence.score_floor(np.array([1.0]), np.array([0.0])) == confidence.FLOOR_HIGH
    log_odds = confidence.log_odds_of_scores(np.array([0.0, 1.0]), np.array([1.0, 0.0]), 0.005)
    assert log_odds == pytest.approx([math.log(0.005), -math.log(0.005)])


def test_nan_scores_are_refused() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Broken(Memory):
        def scores(self, x: Any) -> np.ndarray:
            return np.full((len(x), 2), np.nan)

    with pytest.raises(InvalidData, match=r"gave NaN for 5 of 5 records"):
        confidence.confidence(Broken(known={}, classes=(0, 1)), np.zeros((5, 3)), np.zeros(5, int))


# ---- the design


@pytest.mark.parametrize("rate", shadow.IN_RATES)
def test_design_is_balanced_exactly_and_the_first_shadows_never_change(rate: Fraction) -> None:
    a, b = rate.numerator, rate.denominator
    inside = shadow.design(new_run(), 101, rate, 6 * b)
    assert np.array_equal(inside.reshape(6, b, 101).sum(axis=1), np.full((6, 101), a))
    assert np.abs(inside.sum(axis=1) - 101 * a / b).max() <= a  # parts differ by one unit
    assert np.array_equal(shadow.design(new_run(), 101, rate, 2 * b), inside[: 2 * b])
    assert not np.array_equal(inside[:b], inside[b : 2 * b])
    assert not np.array_equal(shadow.design(new_run(seed=1), 101, rate, 6 * b), inside)


@pytest.mark.parametrize(
    ("n", "m", "rate"), [(50, 50, "1/2"), (80, 20, "3/4"), (20, 80, "1/4"), (66, 34, "2/3"), (3, 6, "1/3")]
)
def test_in_rate_is_the_nearest_of_five(n: int, m: int, rate: str) -> None:
    assert shadow.nearest_in_rate(n, m) == Fraction(rate)


def test_people_are_never_split() -> None:
    target, data = make(people=12)
    _, bank = shadow.shadow_bank(target, data, n_shadows=8, run=new_run())
    for code in np.unique(bank.unit):
        rows = bank.inside[:, bank.unit == code]
        assert (rows == rows[:, :1]).all()
        assert rows[:, 0].sum() == 4


# ---- the bank


def test_shadows_know_exactly_the_records_they_were_given() -> None:
    target, data = make()
    _, bank = shadow.shadow_bank(target, data, n_shadows=6, run=new_run())
    assert bank.phi.shape == bank.inside.shape == (6, 120)
    sure = math.log(0.9 / 0.1)
    assert np.array_equal(np.isclose(bank.phi, sure), bank.inside)
    assert np.array_equal(np.isclose(bank.target_phi, sure), bank.member)
    assert bank.n_trained == 60
    assert bank.in_rate == Fraction(1, 2)


def test_every_shadow_has_a_seed_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    plain = Memory.refit

    def refit(self: Memory, x: Any, y: np.ndarray, seed: int) -> Target:
        seeds.append(seed)
        return plain(self, x, y, seed)

    target, data = make()
    monkeypatch.setattr(Memory, "refit", refit)
    shadow.shadow_bank(target, data, n_shadows=6, run=new_run())
    assert len(set(seeds)) == len(seeds) == 6


def test_first_shadows_of_a_longer_bank_are_the_shorter_bank() -> None:
    target, data = make()
    _, short = shadow.shadow_bank(target, data, n_shadows=4, run=new_run())
    _, long = shadow.shadow_bank(target, data, n_shadows=10, run=new_run())
    assert np.array_equal(short.phi, long.phi[:4])
    assert np.array_equal(short.inside, long.inside[:4])


def test_number_of_jobs_changes_nothing() -> None:
    target, data = make()
    _, one = shadow.shadow_bank(target, data, n_shadows=8, run=new_run())
    with joblib.parallel_config(backend="threading", n_jobs=3):
        _, three = shadow.shadow_bank(target, data, n_shadows=8, run=new_run())
    assert np.array_equal(one.phi, three.phi)


def test_deadline_reduces_shadows_to_two_blocks_unless_the_user_fixed_them() -> None:
    target, data = make(80, 20)  # in-rate 3/4: blocks of 4
    run = new_run(deadline=time.monotonic() - 1)
    _, bank = shadow.shadow_bank(target, data, n_shadows=64, run=run)
    assert bank.n_shadows == run.used["n_shadows"] == 8
    run = new_run(deadline=time.monotonic() - 1, pinned=frozenset({"n_shadows"}))
    _, bank = shadow.shadow_bank(target, data, n_shadows=18, run=run)
    assert bank.n_shadows == run.used["n_shadows"] == 16  # whole blocks


def test_records_on_both_sides_are_left_out_and_counted() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), np.arange(40) % 2
    x[3, 0], x[23, 0] = 0.0, -0.0
    x[:, 2] = np.nan
    x[20:24] = x[:4]
    y[23] = 1 - y[3]  # same x, other label: another record
    target, data = Memory(known={}).bind(Dataset(train=(x[:20], y[:20]), holdout=(x[20:], y[20:])))
    pool, bank = shadow.shadow_bank(target, data, n_shadows=4, run=new_run())
    assert np.flatnonzero(~pool.evaluated).tolist() == [0, 1, 2, 20, 21, 22]
    assert bank.phi.shape == (4, 34)
    assert pool.unit[0] == pool.unit[20]  # one unit: no shadow has it on both sides


def test_a_copy_owned_by_somebody_else_is_not_used_when_it_is_on_the_other_side() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), np.arange(40) % 2
    x[2] = x[0]  # two members share a record
    owner = np.arange(40)
    parts = ((x[:20], y[:20], owner[:20]), (x[20:], y[20:], owner[20:]))
    target, data = Memory(known={}).bind(Dataset(*parts))
    _, bank = shadow.shadow_bank(target, data, n_shadows=12, run=new_run())
    apart = bank.inside[:, 0] != bank.inside[:, 2]
    assert apart.any()
    assert not apart.all()
    assert np.array_equal(bank.usable[:, 0], ~apart)
    assert np.array_equal(bank.usable[:, 2], ~apart)
    assert bank.usable[:, 3:].all()


def test_text_rows_are_handled() -> None:
    @dataclass(frozen=True, kw_only=True)
    class TextMemory(Memory):
        def scores(self, x: Any) -> np.ndarray:
            return np.array([[0.9, 0.1] if text.encode() in self.known else [0.5, 0.5] for text in x])

        def refit(self, x: Any, y: np.ndarray, seed: int) -> Target:
            return replace(self, known=dict.fromkeys((text.encode() for text in x), 0))

    words = [f"note {i}" for i in range(40)]
    zeros = np.arange(40) % 2
    data = Dataset(train=(words[:20], zeros[:20]), holdout=(words[19:39], zeros[19:39]))
    target, data = TextMemory(known={}).bind(data)
    pool, bank = shadow.shadow_bank(target, data, n_shadows=4, run=new_run())
    assert (~pool.evaluated).sum() == 2
    right = np.where(pool.y[pool.evaluated] == 0, bank.phi, -bank.phi)
    assert np.array_equal(right > 1, bank.inside)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_shadows": 3}, "n_shadows is 3; give at least 4"),
        ({"rows": 1}, r"at least 2 distinct records of train .* got 1"),
    ],
)
def test_what_cannot_be_attacked_is_refused(change: dict[str, int], message: str) -> None:
    target, data = make()
    if "rows" in change:
        data = replace_train(data, 1)
    with pytest.raises(InvalidData, match=message):
        shadow.shadow_bank(target, data, n_shadows=change.get("n_shadows", 4), run=new_run())


def replace_train(data: Dataset, n: int) -> Dataset:
    return data._copy(train=data.train.take(np.arange(n)))


def test_logits_are_preferred_to_scores() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Both(Memory):
        def logits(self, x: Any) -> np.ndarray:
            return np.tile([7.0, 0.0], (len(x), 1))

    target = Both(known={}, classes=(0, 1), offers=frozenset({SCORES, LOGITS}))
    seen = confidence.confidence(target, np.zeros((2, 3)), np.array([0, 1]))
    assert seen.log_odds is not None
    assert seen.log_odds.tolist() == [7.0, -7.0]
