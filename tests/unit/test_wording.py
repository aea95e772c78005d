# SPDX-License-Identifier: Apache-2.0
"""Changed rows in words."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from casemate.core.schema import Column, Schema
from casemate.core.wording import cell, changes, together


def people() -> Schema:
    frame = pd.DataFrame({"income": [2100.5, 2350.0], "age": [30, 41], "town": ["Bern", "Zug"]})
    return Schema.infer(frame).with_columns({"age": {"unit": "years"}})


def test_only_what_changed_is_said() -> None:
    before, after = np.array([2100.0, 30.0, 0.0]), np.array([2350.0, 41.0, 1.0])
    assert changes(before, after, people()) == "income 2,100 -> 2,350; age 30 -> 41 years; town: Bern -> Zug"
    assert changes(before, before, people()) == ""
    hole = np.array([np.nan, 30.0, 0.0])
    assert changes(hole, hole, people()) == ""
    assert changes(before, hole, people()) == "income 2,100 -> missing"


def test_a_one_hot_group_is_one_change() -> None:
    columns = tuple(Column(name=f"use_{name}", kind="integer") for name in ("car", "radio", "tv"))
    schema = Schema(columns=columns, groups=(("use_car", "use_radio", "use_tv"),))
    assert changes(np.array([1.0, 0, 0]), np.array([0, 0.0, 1]), schema) == "use: car -> tv"
    hole = np.array([np.nan, np.nan, np.nan])
    assert changes(hole, hole, schema) == ""
    assert changes(hole, np.array([0, 1.0, 0]), schema) == "use: none -> radio"


@pytest.mark.parametrize(
    ("value", "other", "said"),
    [
        (0.12345678, None, "0.1235"),
        (0.12345678, 0.12345679, "0.12345678"),
        (1e-12, None, "1e-12"),
        (-1234.6, None, "-1,235"),
        (0.0, 1.0, "0"),
        (2.5e20, None, "2.5e+20"),
        (123456.7, 123456.9, "123,456.7"),
    ],
)
def test_numbers_have_the_digits_that_tell_them_apart(value: float, other: float | None, said: str) -> None:
    shown = cell(Column(name="x", kind="real"), value, other)
    assert shown == said
    if other is not None:
        assert shown != cell(Column(name="x", kind="real"), other, value)


def test_a_code_outside_the_categories_is_said_as_such() -> None:
    assert cell(Column(name="x", kind="category", categories=("a",)), 3.0) == "code 3"


def test_a_group_without_a_common_stem_lists_its_columns() -> None:
    groups = (("a=x", "a=y"), ("red", "rest"), ("only",), ("p_a", "q_a"), ("town_Bern", "town_Basel"))
    assert [together(group) for group in groups] == ["a", "red+rest", "only", "p_a+q_a", "town"]
