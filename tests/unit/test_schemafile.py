# SPDX-License-Identifier: Apache-2.0
"""The schema file: out and back to the bit, whatever the names; and one clear line for every mistake in it."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import casemate as cm
from casemate.core import schemafile
from casemate.core.errors import InvalidData
from casemate.core.schema import Column, Relation, Schema
from casemate.core.schemafile import guess_groups, merge, parse, read, suggest_relations, to_text


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "age": [30, 40, 50, 60],
            "income": [1.5, np.nan, 2.25, 3.0],
            "sex": ["m", "f", None, "m"],
            "insured": [True, False, True, True],
            "hot_a": [1, 0, 0, 1],
            "hot_b": [0, 1, 1, 0],
            "bp_min": [60.0, 70.0, 80.0, 65.0],
            "bp_max": [120.0, 110.0, 140.0, 100.0],
        }
    )


def back(schema: Schema, over: Schema | None = None, **options: Any) -> Schema:
    return merge(over or schema, parse(to_text(schema, **options)))


def edited() -> Schema:
    schema = Schema.infer(frame(), immutable=["age"], sensitive=["sex"]).with_columns(
        {
            "age": {"high": 110.0, "unit": 'years "old"'},
            "income": {"low": -np.inf, "spread": 0.125, "monotone": "increasing"},
            "insured": {"immutable": True},
        }
    )
    rule = Relation(left=("bp_min",), op="<=", right=("bp_max",))
    exact = Relation(left=("hot_a", "hot_b"), op="==", right=("age",))
    return replace(schema, groups=(("hot_a", "hot_b"),), relations=(rule, exact), person="id")


@pytest.mark.parametrize("comments", [True, False])
def test_what_was_edited_comes_back_over_what_the_data_shows(comments: bool) -> None:
    assert back(edited(), Schema.infer(frame()), comments=comments) == edited()


names = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
numbers = st.floats(allow_nan=False)


@settings(deadline=None, max_examples=80, derandomize=True)
@given(data=st.data())
def test_any_names_numbers_and_categories_come_back_to_the_bit(data: st.DataObject) -> None:
    columns = []
    for name in data.draw(st.lists(names, min_size=1, max_size=4, unique=True)):
        if data.draw(st.booleans()):
            cell = st.one_of(
                names, st.integers(-(2**63), 2**63 - 1).filter(lambda v: v not in (0, 1)), st.booleans()
            )
            categories = tuple(data.draw(st.lists(cell, max_size=4, unique=True)))
            columns.append(
                Column(name=name, kind="category", categories=categories, immutable=data.draw(st.booleans()))
            )
        else:
            low, high = sorted((data.draw(numbers), data.draw(numbers)))
            spread = data.draw(st.floats(0, allow_infinity=False))
            kind = data.draw(st.sampled_from(["real", "integer"]))
            columns.append(
                Column(name=name, kind=kind, low=low, high=high, spread=spread, unit=data.draw(names))
            )
    everything = [column.name for column in columns]
    relation = Relation(left=tuple(everything), op="<=", right=(everything[0],))
    schema = Schema(
        columns=tuple(columns), sensitive=(everything[-1],), relations=(relation,), person=data.draw(names)
    )
    plain: dict[str, Any] = {"immutable": False, "unit": "", "spread": 1.0}
    bounds: dict[str, Any] = {"low": 0.0, "high": 0.0}
    bare = Schema(
        columns=tuple(replace(c, **plain, **({} if c.kind == "category" else bounds)) for c in columns)
    )
    comments = data.draw(st.booleans())
    merged = merge(bare, parse(to_text(schema, comments=comments)), ignore=())
    hidden = {schema.person}
    for one, other in zip(schema.columns, merged.columns, strict=True):
        assert one == other or one.name in hidden
    assert (merged.sensitive, merged.relations, merged.person) == (
        schema.sensitive,
        schema.relations,
        schema.person,
    )


def test_many_categories_are_left_to_the_data_and_stay_right() -> None:
    table = pd.DataFrame({"code": [f"d{i:04d}" for i in range(700)]})
    schema = Schema.infer(table)
    text = to_text(schema)
    assert "d0001" not in text and "700, as the data has them" in text
    assert back(schema) == schema


def test_no_cell_of_the_data_stands_in_the_file_but_ends_and_categories() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.normal(size=50), "b": rng.normal(size=50)})
    text = to_text(Schema.infer(table), rows=table.to_numpy())
    seen = [
        value
        for column in tomllib.loads(text)["column"]
        for value in column.values()
        if isinstance(value, float)
    ]
    cells = set(table.to_numpy().ravel())
    ends = {*table.min(), *table.max()}
    assert set(seen) & cells == ends
    assert "come from your data" in text


def test_every_field_has_a_comment() -> None:
    text = to_text(edited())
    for key in (
        "kind",
        "low, high",
        "spread",
        "unit",
        "immutable",
        "monotone",
        "sensitive",
        "person",
        "groups",
        "categories",
    ):
        assert f"\n# {key} " in text
    assert "# [[relation]]" in text


def test_groups_are_guessed_and_relations_only_suggested() -> None:
    schema = Schema.infer(frame())
    coded = schema.encode(frame())
    text = to_text(schema, rows=coded)
    assert 'groups = [["hot_a", "hot_b"]]' in text and "guessed" in text
    assert '# left = ["bp_min"]\n# op = "<="\n# right = ["bp_max"]' in text
    assert parse(text).relations is None
    unmarked = text[: text.index("# holds")] + text[text.index("# holds") :].replace("\n# ", "\n")
    assert merge(schema, parse(unmarked)).relations == (
        Relation(left=("bp_min",), op="<=", right=("bp_max",)),
    )
    assert schemafile.inferred([frame()]) == text


@pytest.mark.parametrize(
    "rows",
    [
        [[1, 0], [0, 1], [1, 1]],  # not one everywhere
        [[1, 0], [0, 1], [np.nan, 1]],  # a hole
        [[1, 0], [1, 0]],  # one member is never hot
        [[0.5, 0.5], [1, 0]],
    ],
)
def test_what_is_not_one_hot_in_every_row_is_no_group(rows: Any) -> None:
    columns = (Column(name="w_a", kind="integer"), Column(name="w_b", kind="integer"))
    assert guess_groups(Schema(columns=columns), np.array(rows, float)) == ()


def test_the_largest_group_of_shared_prefixes_is_taken_and_a_broken_order_is_not_suggested() -> None:
    columns = tuple(Column(name=n, kind="integer") for n in ("w_x_a", "w_x_b", "w_c", "v_min", "v_max"))
    rows = np.array([[1, 0, 0, 3, 2], [0, 1, 0, 1, 2], [0, 0, 1, 1, 9.0]])
    assert guess_groups(Schema(columns=columns), rows) == (("w_x_a", "w_x_b", "w_c"),)
    assert suggest_relations(Schema(columns=columns), rows) == []
    assert len(suggest_relations(Schema(columns=columns), rows[1:])) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("low = = 3", r"schema is not TOML: .*line 1"),
        ('format = "casemate-schema/9"', "this version reads 'casemate-schema/1'"),
        ('senstive = ["sex"]', "schema: unknown key 'senstive'; did you mean 'sensitive'"),
        ('sensitive = "sex"', "sensitive must be a list of column names; got 'sex'"),
        ("column = 3", r"write each column as \[\[column\]\]"),
        ("column = [3]", "column 1: expected a table of keys; got 3"),
        ("[[column]]\nlow = 1", "column 1: it has no name"),
        (
            '[[column]]\nname = "age"\nimutable = true',
            "column 1: unknown key 'imutable'; did you mean 'immutable'",
        ),
        (
            '[[column]]\nname = "age"\nimmutable = "yes"',
            "column 'age': immutable must be true or false; got 'yes'",
        ),
        ('[[column]]\nname = "age"\nlow = true', "column 'age': low must be a number; got True"),
        ('[[column]]\nname = "age"\nlow = nan', "low must be a number; got nan"),
        ('[[column]]\nname = "age"\nspread = -1', "spread must be a number, 0 or more; got -1"),
        ('[[column]]\nname = "age"\nlow = 9\nhigh = 3', "column 'age': low 9 is above high 3"),
        ('[[column]]\nname = "age"\nhigh = 9', r"column 'age': low 30 is above high 9 \(one of them"),
        ('[[column]]\nname = "age"\nlow = 90', r"column 'age': low 90 is above high 60 \(one of them"),
        (
            '[[column]]\nname = "age"\nkind = "whole"',
            "kind must be 'real', 'integer' or 'category'; got 'whole'",
        ),
        (
            '[[column]]\nname = "age"\nkind = "category"',
            "column 'age': kind is 'category', but the data holds numbers",
        ),
        ('[[column]]\nname = "sex"\nkind = "real"', "column 'sex': kind is 'real', but the data holds text"),
        ('[[column]]\nname = "age"\ncategories = ["a"]', "only a category has categories"),
        ('[[column]]\nname = "sex"\nlow = 0', "a category has no low"),
        ('[[column]]\nname = "sex"\ncategories = ["m", "m"]', "a list of different"),
        (
            '[[column]]\nname = "age"\nmonotone = "up"',
            "monotone must be 'none', 'increasing' or 'decreasing'; got 'up'",
        ),
        ('[[column]]\nname = "age"\n[[column]]\nname = "age"', "column 2: 'age' is there twice"),
        ('[[column]]\nname = "agee"', "column: the data has no column 'agee'; did you mean 'age'"),
        ('sensitive = ["sexe"]', "sensitive: the data has no column 'sexe'; did you mean 'sex'"),
        ('groups = [["hot_a"]]', "groups must be a list of lists of at least two"),
        ('groups = [["hot_a", "hot_c"]]', "group 1: the data has no column 'hot_c'"),
        (
            '[[relation]]\nleft = ["age"]\nop = ">="\nright = ["income"]',
            "relation 1: op must be '<=' or '=='; got '>='",
        ),
        ('[[relation]]\nleft = ["age"]\nop = "<="', "relation 1: it needs left, op and right"),
        (
            '[[relation]]\nleft = ["age"]\nop = "<="\nright = ["incom"]',
            "relation 1: .* did you mean 'income'",
        ),
        ("a = " + "[" * 3000, "schema is not TOML"),
    ],
)
def test_each_mistake_gets_one_line_with_its_place(text: str, message: str) -> None:
    with pytest.raises(InvalidData, match=message) as error:
        merge(Schema.infer(frame()), parse(text))
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="no such schema file"):
        read(tmp_path / "none.toml")
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidData, match=r"x.toml is not UTF-8"):
        read(tmp_path / "x.toml")
    with pytest.raises(InvalidData, match="this data is image"):
        to_text(Schema.infer(np.zeros((2, 1, 3, 3))))
    with pytest.raises(InvalidData, match="no text"):
        to_text(Schema(columns=(Column(name="\ud800", kind="real"),)))


def test_a_dataset_reads_its_schema_from_a_file(tmp_path: Path) -> None:
    table = frame().assign(id=[1, 1, 2, 3], y=[0, 1, 0, 1])
    table[:2].to_csv(tmp_path / "a.csv", index=False)
    table[2:].to_csv(tmp_path / "b.csv", index=False)
    text = schemafile.inferred(
        [table[:2].drop(columns="y")], person="id", immutable=["age"], sensitive=["sex"]
    )
    (tmp_path / "schema.toml").write_text(text.replace("high = 40", "high = 120"), encoding="utf-8")
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    data = cm.Dataset.from_files(*paths, label="y", schema=tmp_path / "schema.toml", immutable=["income"])
    age, income, sex = data.schema.columns[:3]
    assert (age.immutable, age.high, income.immutable, sex.immutable) == (True, 120.0, True, False)
    assert data.schema.person == "id" and "id" not in data.schema.names and data.train.person is not None
    assert data.schema.sensitive == ("sex",) and data.schema.groups == (("hot_a", "hot_b"),)
    assert set(sex.categories) == {"f", "m"}
    given = cm.Dataset.from_files(*paths, label="y", schema=data.schema, person="id")
    assert given.schema == data.schema
    # a file made with the label in it is no mistake
    (tmp_path / "whole.toml").write_text(schemafile.inferred([table]), encoding="utf-8")
    whole = cm.Dataset.from_files(*paths, label="y", person="id", schema=str(tmp_path / "whole.toml"))
    assert whole.schema.names == data.schema.names
    with pytest.raises(InvalidData, match="no person column 'idd'"):
        schemafile.inferred([table], person="idd")


@pytest.mark.parametrize("comments", [True, False])
def test_a_file_nobody_edited_states_nothing(comments: bool) -> None:
    seen = Schema.infer(frame())
    made = back(seen, comments=comments)
    assert [c.observed for c in made.columns] == [c.observed for c in seen.columns]
    assert sum(c.observed for c in made.columns) == 7  # all but the booleans
    assert not any(c.observed for c in back(Schema(columns=(Column(name="age", kind="real"),))).columns)


@pytest.mark.parametrize(
    ("column", "lines", "observed"),
    [
        ("age", "low = 0\nhigh = 110", False),
        ("age", "low = 0\nhigh = 110\nobserved = false", False),
        ("age", "low = 0\nhigh = 110\nobserved = true", True),  # the line was left in
        ("age", "high = 110", True),
        ("age", "observed = false", True),  # the word alone states no limit
        ("age", "unit = 'years'", True),
        ("sex", "categories = ['f', 'm', 'x']", False),
        ("sex", "categories = ['f']", True),  # the data adds what it holds
        ("sex", "unit = 'x'", True),
    ],
)
def test_limits_are_stated_by_a_file_that_gives_all_of_them(column: str, lines: str, observed: bool) -> None:
    merged = merge(Schema.infer(frame()), parse(f"[[column]]\nname = '{column}'\n{lines}"))
    assert merged.columns[merged.names.index(column)].observed is observed


def test_many_categories_stay_what_was_seen() -> None:
    table = pd.DataFrame({"code": [f"d{i:04d}" for i in range(700)]})
    assert back(Schema.infer(table)).columns[0].observed
    with pytest.raises(InvalidData, match="observed must be true or false"):
        parse("[[column]]\nname = 'a'\nobserved = 1")
