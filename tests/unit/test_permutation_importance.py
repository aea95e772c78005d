# SPDX-License-Identifier: Apache-2.0
"""What permutation_importance promises: known answers for simple models, and the same numbers whatever the order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression

import casemate as cm
from casemate.core import harness, stats
from casemate.core.errors import InvalidData
from casemate.core.methods import find
from casemate.core.run import Run
from casemate.core.types import LABELS, Explanation, Measurement, Note
from casemate.explanation.methods import permutation_importance as module

METHOD = find("permutation_importance")
BETA = np.array([2.0, 1.0, 0.0, -0.5])


def explain(
    target: cm.Target, data: cm.Dataset, *, seed: int = 0, level: float = 0.95, **params
) -> Explanation:
    target, data = target.bind(data)
    run = Run(card=METHOD.card, seed=seed, level=level)
    found: Explanation = harness.invoke(METHOD, target, data, run, params)
    return found


def exact(beta: np.ndarray) -> LinearRegression:
    """Return a regression whose coefficients are ``beta``, not estimates of them."""
    model = LinearRegression().fit(np.eye(len(beta)), beta)
    model.coef_, model.intercept_ = beta.copy(), 0.0
    return model


def linear(
    n: int = 400, seed: int = 0, noise: float = 1.0, persons: int | None = None
) -> tuple[cm.Target, cm.Dataset]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2 * n, 4))
    y = x @ BETA + noise * rng.normal(size=2 * n)
    owners = None if persons is None else rng.integers(0, persons, 2 * n) + np.repeat([0, persons], n)
    parts = [(x[part], y[part]) if owners is None else (x[part], y[part], owners[part]) for part in
             (slice(0, n), slice(n, None))]  # fmt: skip
    return cm.wrap(exact(BETA), task="regression"), cm.Dataset(train=parts[0], holdout=parts[1])


def test_a_linear_model_has_importance_two_beta_squared_times_variance() -> None:
    target, data = linear(3000)
    found = explain(target, data, level=1 - 1e-7)
    half = 5.33 * found.errors[0, :, 0]  # the interval at 1 - 1e-7: each column misses with probability 1e-7
    assert (np.abs(found.values[0, :, 0] - 2 * BETA**2) <= half).all()
    assert (found.errors[0, [0, 1, 3], 0] > 0).all()
    assert found.values.shape == found.errors.shape == (1, 4, 1)
    assert found.names == ("x0", "x1", "x2", "x3")
    predicted = data.holdout.x @ BETA
    np.testing.assert_allclose(found.base, [np.square(predicted - data.holdout.y).mean()])


def test_the_error_holds_what_a_row_gives_as_well_as_what_it_receives() -> None:
    """A linear model's squared loss rises by b^2 (x - x')^2 - 2 b e (x - x'): its two projections are known."""
    target, data = linear(2000)
    found = explain(target, data, repeats=200)
    x, y = data.holdout.x, data.holdout.y
    centred, e = x - x.mean(0), (x @ BETA - y)[:, None]
    given = BETA**2 * (centred**2 + centred.var(0))  # (n, 4) as donor
    received = given - 2 * e * BETA * centred
    expected = (given + received).std(0) / np.sqrt(len(y))
    # of the same rows, so that only the draw of 200 donors a row is left
    used = BETA != 0
    np.testing.assert_allclose(found.errors[0, used, 0], expected[used], rtol=0.05)


def test_every_ordered_pair_of_different_rows_is_equally_likely() -> None:
    """Which makes the mean change unbiased. Each of 56 pairs is a binomial count; |z| < 5.7: 7e-7 together."""
    _, data = linear(8)
    of = {value: i for i, value in enumerate(data.holdout.x[:, 0].tolist())}
    counts = np.zeros((8, 8))
    for seed in range(3000):
        run = Run(card=METHOD.card, seed=seed)
        rows = module._Rows.drawn(data, 8, run)
        donor = rows.cycle(run.rng("donors"))
        assert sorted(donor.tolist()) == list(range(8))
        assert (rows.half == rows.half[donor]).all()
        own = [of[value] for value in rows.x[:, 0].tolist()]
        counts[own, [own[d] for d in donor]] += 1
    assert (np.diag(counts) == 0).all()
    z = (counts - 3000 / 7) / np.sqrt(3000 * (1 / 7) * (6 / 7))
    assert np.abs(z[~np.eye(8, dtype=bool)]).max() < 5.7


def test_a_column_the_model_does_not_use_has_exactly_no_importance() -> None:
    target, data = linear()
    found = explain(target, data)
    assert found.values[0, 2, 0] == 0
    assert found.errors[0, 2, 0] == 0


def test_a_column_of_noise_that_a_model_fitted_has_zero_inside() -> None:
    """Noise gets a coefficient of about 0.1 from 100 rows; its importance 2 b^2 is covered at 1 - 1e-7."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2100, 2))
    y = x[:, 0] + rng.normal(size=2100)
    model = LinearRegression().fit(x[:100], y[:100])
    data = cm.Dataset(train=(x[:100], y[:100]), holdout=(x[100:], y[100:]))
    found = explain(cm.wrap(model), data, level=1 - 1e-7)
    low, high = (found.values[0, 1, 0] + side * 5.33 * found.errors[0, 1, 0] for side in (-1, 1))
    truth = 2 * model.coef_[1] * (model.coef_[1] - 0.0)
    assert low <= truth <= high
    assert low <= 0 <= high


@pytest.mark.parametrize("persons", [None, 40])
def test_order_and_size_of_calls_do_not_matter(persons: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    target, data = linear(150, persons=persons)
    first = explain(target, data)
    shuffled = explain(target, data.with_holdout(np.random.default_rng(1).permutation(150)))
    monkeypatch.setattr(module, "MAX_CELLS", 37)
    pieces = explain(target, data)
    for other in (shuffled, pieces):
        np.testing.assert_allclose(other.values, first.values, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(other.errors, first.errors, rtol=1e-9, atol=1e-12)
        assert other.quality[0].value == first.quality[0].value


def test_calls_are_few_and_hold_all_repeats() -> None:
    target, data = linear(100)
    target, data = target.bind(data)
    run = Run(card=METHOD.card)
    harness.invoke(METHOD, target, data, run, {"repeats": 10})
    assert run.counter.tally["calls"] == 1 + 4
    assert run.counter.tally["rows"] == 100 * (1 + 4 * 10)


def test_one_hot_columns_move_together_and_bear_their_common_name() -> None:
    rng = np.random.default_rng(0)
    code = rng.integers(0, 3, 600)
    x = np.column_stack([rng.normal(size=600), *(code == k for k in range(3))]).astype(float)
    effect = np.array([0.0, 1.0, 5.0])
    y = x[:, 0] + effect[code]
    schema = cm.Schema.infer(x)
    columns = tuple(
        replace(c, name=name)
        for c, name in zip(schema.columns, ("age", "sex_a", "sex_b", "sex_c"), strict=True)
    )
    schema = replace(schema, columns=columns, groups=(("sex_a", "sex_b", "sex_c"),))
    seen: list[np.ndarray] = []

    def predict(rows: np.ndarray) -> np.ndarray:
        seen.append(rows)
        return rows @ np.array([1.0, *effect])

    import pandas as pd

    frame = pd.DataFrame(x, columns=schema.names)
    data = cm.Dataset(train=(frame, y), holdout=(frame, y), schema=replace(schema, template=x[:0]))
    found = explain(cm.wrap(predict, task="regression"), data)
    assert found.names == ("age", "sex")
    assert all((rows[:, 1:].sum(1) == 1).all() for rows in seen)
    drawn = effect[code]
    np.testing.assert_allclose(found.values[0, 1, 0], 2 * drawn.var(), rtol=0.2)


def classes(n: int = 400) -> tuple[LogisticRegression, cm.Dataset]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2 * n, 3))
    y = (x[:, 0] + 0.3 * x[:, 1] + 0.5 * rng.normal(size=2 * n) > 0).astype(int)
    model = LogisticRegression().fit(x[:n], y[:n])
    return model, cm.Dataset(train=(x[:n], y[:n]), holdout=(x[n:], y[n:]))


def test_brier_score_with_scores_and_errors_with_labels_only() -> None:
    model, data = classes()
    x, y = data.holdout.x, data.holdout.y
    scored = explain(cm.wrap(model), data)
    expected = np.square(model.predict_proba(x) - np.eye(2)[y]).sum(1).mean()
    np.testing.assert_allclose(scored.base, [expected])
    logged = explain(cm.wrap(model), data, loss="log")
    np.testing.assert_allclose(logged.base, [-np.log(model.predict_proba(x)[np.arange(400), y]).mean()])
    target, data = cm.wrap(model).bind(data)
    blind = explain(target.limited_to(LABELS), data)
    np.testing.assert_allclose(blind.base, [(model.predict(x) != y).mean()])
    for found in (scored, blind):
        assert (
            found.values[0, 0, 0] > found.values[0, 1, 0] > found.values[0, 2, 0] - 3 * found.errors[0, 2, 0]
        )


def test_absolute_loss_on_request_and_only_where_it_fits() -> None:
    target, data = linear()
    found = explain(target, data, loss="absolute")
    np.testing.assert_allclose(found.base, [np.abs(data.holdout.x @ BETA - data.holdout.y).mean()])
    with pytest.raises(InvalidData, match="'log' does not fit task 'regression'"):
        explain(target, data, loss="log")
    model, data = classes()
    with pytest.raises(InvalidData, match="'squared' does not fit task 'binary'"):
        explain(cm.wrap(model), data, loss="squared")


def test_rows_beyond_max_rows_are_left_out_by_the_seed() -> None:
    target, data = linear(300)
    assert explain(target, data, max_rows=50).n_records == 50
    one, other = (explain(target, data, max_rows=50, seed=seed).values for seed in (0, 1))
    assert (one != other).any()
    assert (one == explain(target, data, max_rows=50, seed=0).values).all()


def test_rows_of_one_person_count_as_one() -> None:
    """Every row four times over is no more evidence than once."""
    target, data = linear(100)
    x, y = data.holdout.x, data.holdout.y
    owners = np.arange(100)
    once = cm.Dataset(train=(x[:10], y[:10], owners[:10] + 1000), holdout=(x, y, owners))
    fourfold = cm.Dataset(
        train=(x[:10], y[:10], owners[:10] + 1000),
        holdout=(np.repeat(x, 4, 0), np.repeat(y, 4), np.repeat(owners, 4)),
    )
    single, many = explain(target, once, repeats=40), explain(target, fourfold, repeats=40)
    assert many.n_records == single.n_records == 100
    assert many.quality[0].n == 100
    ratio = many.errors[0, [0, 1, 3], 0] / single.errors[0, [0, 1, 3], 0]
    assert (ratio > 0.75).all()  # by row it would be near 0.5
    assert (ratio < 1.25).all()


def test_rank_agreement_is_high_for_clear_orders_and_low_for_none() -> None:
    target, data = linear(2000)
    clear = explain(target, data).quality[0]
    assert clear.quantity == "rank_agreement"
    assert (clear.value, clear.low, clear.high) == (1.0, 1.0, 1.0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 30))
    y = x.sum(1)
    same = cm.Dataset(train=(x[:1000], y[:1000]), holdout=(x[1000:], y[1000:]))
    equal = explain(cm.wrap(exact(np.ones(30)), task="regression"), same).quality[0]
    # 30 equal columns: the correlation of independent orders exceeds 0.85 with probability below 1e-8
    assert abs(equal.value) < 0.85
    assert equal.low <= equal.value <= equal.high
    assert equal.high - equal.low > 0.1


def test_the_order_in_one_half_says_nothing_of_the_other_where_all_columns_are_equal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """24 equal columns: the mean of 12 correlations has a deviation of 0.06; 0.35 is passed once in 1e8."""
    monkeypatch.setattr(module, "N_BLOCKS", 8)
    found = []
    for seed in range(12):
        x = np.random.default_rng(seed).normal(size=(400, 24))
        data = cm.Dataset(train=(x[:200], x[:200].sum(1)), holdout=(x[200:], x[200:].sum(1)))
        why = explain(cm.wrap(exact(np.ones(24)), task="regression"), data, seed=seed, repeats=2)
        found.append(why.quality[0].value)
    assert abs(np.mean(found)) < 0.35


def equal_columns(seed: int) -> Measurement:
    x = np.random.default_rng(seed).normal(size=(200, 6))
    data = cm.Dataset(train=(x[:100], x[:100].sum(1)), holdout=(x[100:], x[100:].sum(1)))
    return explain(cm.wrap(exact(np.ones(6)), task="regression"), data, seed=seed, repeats=1).quality[0]


def test_few_columns_are_a_source_of_chance_too() -> None:
    row = equal_columns(0)
    low, high = stats.spearman_limits(row.value, 6)  # type: ignore[arg-type]  # it was measured
    assert row.low <= low < high <= row.high  # type: ignore[operator]


@pytest.mark.slow
def test_the_interval_of_the_agreement_covers_none_where_columns_are_equal() -> None:
    """Ranks near ties: a bootstrap alone covered 70 %. At 95 %, fewer than 100 of 120 come once in 1e6."""
    rows = [equal_columns(seed) for seed in range(120)]
    assert sum(row.low <= 0.0 <= row.high for row in rows) >= 100  # type: ignore[operator]


def test_columns_that_go_together_are_named_in_a_note() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4))
    x[:, 3] = -x[:, 1] + 0.1 * rng.normal(size=200)
    x[:20, 0] = np.nan
    data = cm.Dataset(train=(x, x[:, 2]), holdout=(x, x[:, 2]))
    found = explain(cm.wrap(lambda rows: np.nan_to_num(rows) @ BETA, task="regression"), data)
    (note,) = (detail for detail in found.quality[0].details if isinstance(detail, Note))
    assert "x1 and x3" in note.text
    assert "do not exist" in note.text


def test_one_feature_has_no_order() -> None:
    x = np.random.default_rng(0).normal(size=(50, 1))
    data = cm.Dataset(train=(x, x[:, 0]), holdout=(x, x[:, 0]))
    row = explain(cm.wrap(exact(np.ones(1)), task="regression"), data).quality[0]
    assert row.status == "not_measured"
    assert "one feature" in row.reason


@pytest.mark.parametrize(("n", "persons"), [(3, None), (40, 3)])
def test_too_few_rows_or_people_are_refused(n: int, persons: int | None) -> None:
    target, data = linear(n, persons=persons)
    with pytest.raises(
        InvalidData, match=rf"at least 4 held-out {'rows' if persons is None else 'people'}; got 3"
    ):
        explain(target, data)


@pytest.mark.parametrize("bad", [{"repeats": 0}, {"max_rows": 3}])
def test_senseless_parameters_are_refused(bad: dict[str, int]) -> None:
    target, data = linear(20)
    with pytest.raises(InvalidData, match="permutation_importance needs"):
        explain(target, data, **bad)


def test_a_deadline_cuts_repeats_and_global_random_state_stays() -> None:
    target, data = linear(50)
    target, data = target.bind(data)
    state = np.random.get_state()[1].copy()
    run = Run(card=METHOD.card, deadline=0.0)
    harness.invoke(METHOD, target, data, run, {"repeats": 9})
    assert run.used["repeats"] == 2
    assert (np.random.get_state()[1] == state).all()


def test_the_harness_turns_it_into_rows_with_the_same_interval() -> None:
    target, data = linear()
    target, data = target.bind(data)
    run = Run(card=METHOD.card)
    rows = harness.execute(METHOD, target, data, run, {})
    assert [row.quantity for row in rows] == ["top_importance", "rank_agreement"]
    found = explain(target, data)
    assert rows[0].value == found.values[0, 0, 0]
    np.testing.assert_allclose(rows[0].high - rows[0].value, 1.959964 * found.errors[0, 0, 0], rtol=1e-6)
