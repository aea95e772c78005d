# SPDX-License-Identifier: Apache-2.0
"""The node table by itself: the vectorised walk against one by hand, other columns, one tree without a branch."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from casemate.core.nodes import NodeTable


def walk(table: NodeTable, row: np.ndarray, node: int) -> int:
    """The same by hand: one row, one tree."""
    while table.feature[node] >= 0:
        cell = float(np.asarray(row[table.feature[node]]).astype(table.dtypes[table.feature[node]]))
        if np.isnan(cell):
            left = bool(table.default_left[node])
        elif table.listed[node]:
            inside = (
                int(cell) in table.categories[table.begin[node] : table.begin[node + 1]].tolist()
                and cell > -1
            )
            left = inside == (table.listed[node] > 0)
        else:
            left = bool(cell < table.threshold[node] if table.strict[node] else cell <= table.threshold[node])
        node = int(table.left[node] if left else table.right[node])
    return node


def random_table(seed: int, d: int = 3, n_trees: int = 3) -> NodeTable:
    """Random trees with numbers and categories, all kinds of nodes."""
    rng = np.random.default_rng(seed)
    nodes: list[dict[str, Any]] = []

    def grow(tree: int, depth: int) -> int:
        here = len(nodes)
        leaf = depth == 0 or (depth < 4 and rng.random() < 0.2)
        listed = 0 if leaf else int(rng.choice([0, 0, 1, -1]))
        nodes.append({
            "tree": tree, "feature": -1 if leaf else int(rng.integers(d)), "threshold": float(rng.integers(-2, 3)) / 2,
            "strict": bool(rng.random() < 0.5), "default_left": bool(rng.random() < 0.5), "listed": listed, "left": 0,
            "right": 0, "sets": np.flatnonzero(rng.random(5) < 0.4) if listed else np.zeros(0, int),
            "value": rng.normal(size=2) * leaf})  # fmt: skip
        if not leaf:
            nodes[here]["left"] = grow(tree, depth - 1)
            nodes[here]["right"] = grow(tree, depth - 1)
        return here

    for tree in range(n_trees):
        grow(tree, 4)
    arrays = {name: np.array([node[name] for node in nodes]) for name in nodes[0] if name != "sets"}
    sets = [node["sets"] for node in nodes]
    return NodeTable(
        **arrays, begin=np.concatenate([[0], np.cumsum([len(part) for part in sets])]),
        categories=np.concatenate(sets).astype(np.int64), base=np.array([0.5, -0.5]), link="softmax",
        dtypes=("float64", "float32", "float64"),
    )  # fmt: skip


CELL = st.one_of(st.just(float("nan")), st.integers(-4, 10).map(lambda i: i / 2), st.floats(-3, 6))


@given(st.integers(0, 40), st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=6))
def test_the_vectorised_walk_is_the_walk_by_hand(seed: int, rows: list[tuple[float, ...]]) -> None:
    table, x = random_table(seed), np.array(rows)
    by_hand = np.array([[walk(table, row, int(root)) for root in table.roots] for row in x])
    assert (table.leaves(x) == by_hand).all()
    np.testing.assert_allclose(table.margins(x), table.value[by_hand].sum(1) + table.base, atol=1e-12)


def test_a_table_in_other_columns_sends_rows_where_it_sent_them() -> None:
    """Column 1 of three becomes column 0 of four, as codes of categories that stand for numbers, one for a hole."""
    codes = np.array([2.0, np.nan, -0.5, 1.0])
    for seed in range(40):
        table = random_table(seed)
        other = table.recoded([3, 0, 1], [codes, None, None, None], ["float64"] * 4)
        x = np.random.default_rng(seed).integers(-4, 10, (60, 3)) / 2
        picked = np.random.default_rng(seed).integers(0, 5, 60)  # 4: a hole
        x[:, 1] = np.append(codes, np.nan)[picked]
        moved = np.column_stack([np.where(picked == 4, np.nan, picked), x[:, 2], np.zeros(60), x[:, 0]])
        assert (other.leaves(moved) == table.leaves(x)).all()
        assert (other.listed[other.feature == 0] == 1).all()
        assert other.dtypes == ("float32", "float64", "float64", "float64")


def test_a_tree_of_one_leaf_and_no_rows_at_all() -> None:
    table = random_table(0)
    one = NodeTable(
        tree=np.zeros(1, np.int32), feature=np.array([-1]), threshold=np.zeros(1), strict=np.zeros(1, bool),
        default_left=np.zeros(1, bool), left=np.zeros(1, np.int32), right=np.zeros(1, np.int32),
        listed=np.zeros(1, np.int8), begin=np.zeros(2, np.int64), categories=np.zeros(0, np.int64),
        value=np.array([[2.0]]), base=np.array([1.0]), link="exponential", dtypes=("float64",),
    )  # fmt: skip
    assert one.scores(np.zeros((2, 1)))[:, 0].tolist() == [np.exp(3.0)] * 2
    assert one.recoded([1], [np.arange(3.0), None], ["float64"] * 2).margins(np.zeros((1, 2))).tolist() == [
        [3.0]
    ]
    assert table.margins(np.zeros((0, 3))).shape == (0, 2) and table.leaves(np.zeros((0, 3))).shape == (0, 3)
    assert repr(one) == "NodeTable(1 tree, 1 nodes, exponential)"


def test_rows_are_not_written_to_and_large_batches_give_what_small_ones_give() -> None:
    table, x = random_table(3), np.random.default_rng(0).normal(size=(200_000, 3))
    x.setflags(write=False)
    whole = table.leaves(x)
    assert (whole[::1000] == table.leaves(x[::1000])).all()
