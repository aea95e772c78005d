# SPDX-License-Identifier: Apache-2.0
"""Schema: inference, encoding there and back, and the independent check of what an attacker changed."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

import casemate as cm
from casemate.core.errors import InvalidData
from casemate.core.schema import Column, Relation, Schema, violations
from casemate.core.types import Threat


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "age": [30, 40, 50, 60],
            "income": [1.5, np.nan, 2.25, 3.0],
            "sex": ["m", "f", None, "m"],
            "insured": [True, False, True, True],
            "visits": [1, 2, np.nan, 3],
            "ward": pd.Categorical(["a", "b", "a", "b"], categories=["b", "a", "z"]),
        }
    )


def test_kinds_bounds_and_spread() -> None:
    schema = cm.Schema.infer(frame())
    kinds = {column.name: column.kind for column in schema.columns}
    assert kinds == {
        "age": "integer",
        "income": "real",
        "sex": "category",
        "insured": "category",
        "visits": "integer",  # pandas made it float only because of the hole
        "ward": "category",
    }
    age = schema.columns[0]
    assert (age.low, age.high, age.spread) == (30, 60, np.std([30, 40, 50, 60]))


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_decode_rebuilds_the_users_frame(library: str) -> None:
    original = frame()
    if library == "polars":
        original = pl.from_pandas(original.drop(columns="ward"))
    if library == "pyarrow":
        original = pl.from_pandas(original.drop(columns="ward")).to_arrow()
    schema = cm.Schema.infer(original)
    back = schema.decode(schema.encode(original))
    assert type(back) is type(original)
    if library == "pandas":
        pd.testing.assert_frame_equal(back, original)
    elif library == "polars":
        assert back.equals(original)
    else:
        # polars writes large_string; only values and plain types must agree
        assert back.to_pylist() == original.to_pylist()


def test_nullable_columns_of_pandas_come_back_with_their_holes() -> None:
    original = pd.DataFrame(
        {
            "ward": ["a", None, "b"],
            "age": [30, None, 50],
            "fit": [True, None, False],
            "bmi": [20.5, None, 31.0],
        }
    ).convert_dtypes()
    schema = cm.Schema.infer(original)
    coded = schema.encode(original)
    assert np.isnan(coded[1]).all() and not np.isnan(coded[[0, 2]]).any()
    pd.testing.assert_frame_equal(schema.decode(coded), original)
    other = pl.DataFrame({"age": [30, None, 50], "fit": [True, None, False]})
    for table in (other, other.to_arrow()):
        schema = cm.Schema.infer(table)
        back = schema.decode(schema.encode(table))
        assert back.equals(table), back


def test_integer_columns_become_float_when_an_attack_makes_fractions() -> None:
    schema = cm.Schema.infer(frame()[["age"]])
    assert schema.decode(np.array([[30.5]]))["age"].tolist() == [30.5]


def test_object_arrays_with_text() -> None:
    table = np.array([["a", 1.0], ["b", None]], dtype=object)
    schema = cm.Schema.infer(table)
    encoded = schema.encode(table)
    np.testing.assert_array_equal(encoded, [[0, 1], [1, np.nan]])
    assert schema.decode(encoded)[:, 0].tolist() == ["a", "b"]


def test_shuffled_columns_are_aligned_by_name() -> None:
    original = frame()
    schema = cm.Schema.infer(original)
    np.testing.assert_array_equal(schema.encode(original), schema.encode(original[original.columns[::-1]]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda df: df.drop(columns="age"), "'age' is missing"),
        (lambda df: df.assign(extra=1), "'extra' is unknown"),
        (lambda df: df.assign(ward=["a", "b", "a", "q"]), "'q', a category not seen"),
        (lambda df: df.assign(age=["x", "y", "z", "w"]), "numeric in train but holds 'x'"),
        (lambda df: df.assign(income=[1.0, np.inf, 2.0, 3.0]), "not finite"),
    ],
)
def test_rows_that_do_not_fit_are_refused(change, message) -> None:
    schema = cm.Schema.infer(frame())
    with pytest.raises(InvalidData, match=message):
        schema.encode(change(frame()))


def test_dates_and_infinities_are_refused_at_inference() -> None:
    with pytest.raises(InvalidData, match="convert it to numbers"):
        cm.Schema.infer(pd.DataFrame({"when": pd.to_datetime(["2020-01-01"])}))
    with pytest.raises(InvalidData, match="infinity"):
        cm.Schema.infer(np.array([[1.0], [np.inf]]))


def rules() -> cm.Schema:
    table = pd.DataFrame(
        {
            "age": [20, 80, 40],
            "sex": ["f", "m", "f"],
            "income": [10.0, 30.0, 20.0],
            "debt": [1.0, 2.0, 3.0],
            "hot_a": [1, 0, 1],
            "hot_b": [0, 1, 0],
            "score": [0.0, 1.0, 2.0],
        }
    )
    schema = cm.Schema.infer(table).with_columns(
        {"age": {"immutable": True}, "score": {"monotone": "increasing"}}
    )
    from dataclasses import replace

    return replace(
        schema,
        groups=(("hot_a", "hot_b"),),
        relations=(cm.Relation(left=("debt",), op="<=", right=("income",)),),
        template=None,
    )


@pytest.mark.parametrize(
    ("column", "value", "rule"),
    [
        ("age", 21, "immutable"),
        ("sex", 1, "radius"),  # a category has no distance
        ("sex", 0.5, "category"),
        ("income", 31.0, "bounds"),
        ("income", 12.0, "radius"),
        ("income", np.nan, "missing"),
        ("income", np.inf, "finite"),
        ("debt", 2.9999, None),
        ("hot_a", 0, "group"),
        ("hot_a", 0.5, "integer"),
        ("score", 0.5, "monotone"),
        ("debt", 25.0, "relation"),
    ],
)
def test_each_rule_is_found_alone(column: str, value: float, rule: str | None) -> None:
    schema = rules()
    row = np.array([[40, 0, 20.0, 3.0, 1, 0, 1.0]])
    changed = row.copy()
    changed[0, schema.names.index(column)] = value
    threat = cm.Threat(norm="linf", radius=0.2, scale="spread")
    if rule not in ("radius", None):
        threat = cm.Threat(norm="l0", radius=3, scale="raw")
    bad = {name for name, mask in violations(row, changed, threat, schema).items() if mask[0]}
    assert (rule in bad) if rule else not bad


def test_an_unchanged_row_breaks_nothing_even_outside_bounds() -> None:
    schema = rules()
    odd = np.array([[500, 1, -3.0, 99.0, 0.3, 0.3, -1.0]])
    bad = violations(odd, odd, cm.Threat(norm="linf", radius=0.0, scale="raw"), schema)
    assert not any(mask.any() for mask in bad.values())


@pytest.mark.parametrize(("norm", "size"), [("linf", 0.5), ("l2", np.sqrt(0.5)), ("l1", 1.0), ("l0", 2)])
def test_radius_in_every_norm_to_the_tolerance(norm: str, size: float) -> None:
    schema = cm.Schema.infer(np.array([[0.0, 0.0], [1.0, 1.0]]))
    row, moved = np.zeros((1, 2)), np.full((1, 2), 0.5)
    just = violations(row, moved, cm.Threat(norm=norm, radius=size, scale="raw"), schema)
    short = violations(row, moved, cm.Threat(norm=norm, radius=size * 0.999, scale="raw"), schema)
    assert not just["radius"][0] and short["radius"][0]


def test_spread_is_the_unit_of_tables() -> None:
    schema = cm.Schema.infer(np.array([[0.0, 0.0], [100.0, 1.0]]))
    row = np.array([[50.0, 0.5]])
    threat = cm.Threat(norm="linf", radius=0.3, scale="spread")
    assert not violations(row, row + [[15.0, 0.15]], threat, schema)["radius"][0]
    assert violations(row, row + [[0.0, 0.2]], threat, schema)["radius"][0]


def test_images_have_pixel_bounds() -> None:
    images = np.random.default_rng(0).random((3, 1, 4, 4))
    schema = cm.Schema.infer(images)
    assert schema.input == "image" and schema.bounds == (0.0, 1.0)
    assert cm.Schema.infer((images * 255).astype(np.uint8)).bounds == (0.0, 255.0)
    bad = violations(images, images + 2, cm.Threat(norm="linf", radius=3, scale="raw"), schema)
    assert bad["bounds"].all() and not bad["radius"].any()


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_category_that_only_the_holdout_has_reaches_the_model(library: str) -> None:
    """The training frame's categorical type does not list it; as a hole the model would judge another row."""
    if library == "pandas":
        train, holdout = (
            pd.DataFrame({"a": pd.Categorical(cells, ordered=True)}) for cells in (["x", "y"], ["x", "z"])
        )
    else:
        train, holdout = (
            pl.DataFrame({"a": pl.Series(cells, dtype=pl.Enum(cells))}) for cells in (["x", "y"], ["x", "z"])
        )
    schema = Schema.infer(train, holdout)
    assert list(schema.decode(schema.encode(holdout))["a"]) == ["x", "z"]
    assert schema.decode(schema.encode(train))["a"].dtype == train["a"].dtype


@pytest.mark.parametrize("scale", [1e-200, 1e160, 1e300])
def test_the_spread_of_numbers_whose_squares_leave_float64(scale: float) -> None:
    spread = Schema.infer(np.array([[1.0], [3.0], [2.0]]) * scale).columns[0].spread
    assert spread == pytest.approx(np.std([1, 3, 2]) * scale, rel=1e-12)


def test_a_relation_that_the_original_breaks_binds_only_who_touches_it() -> None:
    names = ("paid", "owed", "age")
    schema = Schema(
        columns=tuple(Column(name=n, kind="real") for n in names),
        relations=(Relation(left=("paid",), op="<=", right=("owed",)),),
    )
    x, threat = np.tile([5.0, 3.0, 40.0], (4, 1)), Threat(norm="linf", radius=9, scale="raw")
    changed = np.array([[5.0, 3, 41], [4.5, 3, 40], [3, 3, 40], [5, 3, 40]])
    assert violations(x, changed, threat, schema)["relation"].tolist() == [False, True, False, False]


def test_what_was_read_off_the_rows_says_so_until_it_is_stated() -> None:
    schema = cm.Schema.infer(frame())

    def observed(made: Schema) -> list[str]:
        return [column.name for column in made.columns if column.observed]

    # the dtype of booleans says what they can be; the categories of "ward" are those that occur
    assert observed(schema) == ["age", "income", "sex", "visits", "ward"]
    assert observed(cm.Schema.infer(np.array([[0.5], [1.0]]))) == ["x0"]
    whole = cm.Schema.infer(pl.DataFrame({"b": [True, False], "c": [True, True], "d": [None, True]}))
    assert observed(whole) == [] and {column.categories for column in whole.columns} == {(False, True)}
    coded = cm.Schema.infer(pd.DataFrame({"z": pd.Categorical([0, 1])}))  # equal to false and true, but seen
    assert observed(coded) == ["z"]
    said = {"age": {"low": 0, "high": 110}, "income": {"low": 0}, "sex": {"categories": ("f", "m", "x")}}
    stated = schema.with_columns({**said, "visits": {"unit": "a year"}, "ward": {"low": 0, "high": 9}})
    assert observed(stated) == ["income", "visits", "ward"]
    assert observed(stated.with_columns({"visits": {"low": 0.0, "high": 99.0}})) == ["income", "ward"]
    # it is about where a value is from: the same values are the same column
    age = schema.columns[0]
    assert age == age.stated({"low": age.low, "high": age.high}) and "observed" not in repr(age)
    assert not Column(name="age", kind="real", low=0, high=110).observed
