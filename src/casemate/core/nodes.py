# SPDX-License-Identifier: Apache-2.0
"""The node table: every node of an ensemble of trees as plain arrays, and what the ensemble answers by them.

A row x stands at a node with column j, threshold t. It goes left if ``x_j < t`` (``strict``: XGBoost) or
``x_j <= t`` (LightGBM, scikit-learn), after x_j was rounded to the dtype in which that model compares: XGBoost and
scikit-learn's forests compare in float32, so that two values of float64 may be one to them. A missing cell (NaN)
goes where ``default_left`` says. At a node on categories it goes left if its code is listed (``listed`` = 1), or
right if it is (``listed`` = -1). The margin is

    margin(x) = base + sum over trees of value[leaf of x in that tree]

(the mean of a forest is in its values) and the answer a function of it: the logistic function, the softmax, the
exponential or the margin itself.
Columns and category codes are those of the Schema: what methods see.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

Link = Literal["identity", "exponential", "probabilities", "sigmoid", "softmax"]
FEW = 16  # classes up to which softmax works column by column
TILE = 1 << 18  # cells (rows x trees) that walk down together: a few megabytes


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class NodeTable:
    """An ensemble of trees; nodes of one tree stand together, its root first. Leaves have ``feature`` -1.

    >>> stump = NodeTable(
    ...     tree=np.zeros(3, np.int32), feature=np.array([0, -1, -1]), threshold=np.array([0.5, 0, 0]),
    ...     strict=np.zeros(3, bool), default_left=np.zeros(3, bool), left=np.array([1, 0, 0]),
    ...     right=np.array([2, 0, 0]), listed=np.zeros(3, np.int8), begin=np.zeros(4, np.int64),
    ...     categories=np.zeros(0, np.int64), value=np.array([[0.0], [-1.0], [2.0]]), base=np.array([0.25]),
    ...     link="sigmoid", dtypes=("float64",))  # fmt: skip
    >>> stump, stump.margins(np.array([[0.5], [0.6], [np.nan]]))[:, 0].tolist()
    (NodeTable(1 tree, 3 nodes, sigmoid), [-0.75, 2.25, 2.25])
    """

    tree: np.ndarray  # (nodes,) int
    feature: np.ndarray  # (nodes,) int: a column of the Schema, -1 at a leaf
    threshold: np.ndarray  # (nodes,) float64
    strict: np.ndarray  # (nodes,) bool: "<" instead of "<="
    default_left: np.ndarray  # (nodes,) bool: where a missing cell goes
    left: np.ndarray  # (nodes,) int: a node of this table
    right: np.ndarray  # (nodes,) int
    listed: np.ndarray  # (nodes,) int8: 1 listed categories go left, -1 they go right, 0 a node on numbers
    begin: np.ndarray  # (nodes + 1,) int: those of node i are categories[begin[i]:begin[i + 1]], in order
    categories: np.ndarray  # (any,) int
    value: np.ndarray  # (nodes, outputs) float64, zero where there is no leaf
    base: np.ndarray  # (outputs,) float64
    link: Link
    dtypes: tuple[str, ...]  # of each column: the dtype its values are rounded to before they are compared
    slope: float = 1.0  # the logistic function takes slope * margin
    zero: float = 0.0  # values that lie no further from zero are zero (LightGBM)

    def __repr__(self) -> str:
        trees = f"{self.n_trees} tree{'s' if self.n_trees != 1 else ''}"
        return f"NodeTable({trees}, {len(self.feature)} nodes, {self.link})"

    @property
    def n_trees(self) -> int:
        """Number of trees."""
        return len(self.roots)

    @property
    def roots(self) -> np.ndarray:
        """The first node of each tree (trees,)."""
        first = np.ones(len(self.tree), bool)
        first[1:] = self.tree[1:] != self.tree[:-1]
        return np.flatnonzero(first)

    def leaves(self, x: np.ndarray) -> np.ndarray:
        """Return the leaf (n, trees), as a node of this table, in which each row ends in each tree."""
        found = np.empty((len(x), self.n_trees), np.int64)
        for rows, nodes in self._tiles(x):
            found[rows] = nodes
        return found

    def margins(self, x: np.ndarray) -> np.ndarray:
        """Return the margins (n, outputs) of encoded rows."""
        total = np.empty((len(x), len(self.base)))
        for rows, nodes in self._tiles(x):
            total[rows] = self.value[nodes].sum(1)
        total += self.base
        return total

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Return class probabilities (n, classes) of encoded rows, or predicted values (n, 1) for regression."""
        margins = self.margins(x)
        if self.link == "exponential":
            values: np.ndarray = np.exp(margins)
            return values
        if self.link in ("identity", "probabilities"):
            return margins
        return softmax(two_columns(self.slope * margins) if self.link == "sigmoid" else margins)

    def recoded(
        self, places: Sequence[int], codes: Sequence[np.ndarray | None], dtypes: Sequence[str]
    ) -> NodeTable:
        """Return the table in other columns: those of the Schema instead of the model's own.

        Args:
            places: the new column of each old one (columns,).
            codes: for each new column None, or what the model sees for each code of it (NaN: a missing cell). Every
                node on such a column becomes a node on categories.
            dtypes: for each new column the dtype that rows are stored in before the model gets them.
        """
        feature = np.where(self.feature < 0, -1, np.asarray(places, np.int64)[self.feature])
        listed, keys = self.listed.copy(), self._keys()
        sets: dict[int, np.ndarray] = {}
        for column, seen in enumerate(codes):
            nodes = np.flatnonzero(feature == column)
            if seen is None or not len(nodes):
                continue
            with np.errstate(over="ignore"):
                values = np.asarray(seen, self.dtypes[self.feature[nodes[0]]]).astype(np.float64)
            ways = [self._goes_left(nodes, np.full(len(nodes), value), keys) for value in values]
            listed[nodes] = 1
            table = np.array(ways, bool).reshape(len(values), len(nodes))
            sets |= dict(zip(nodes.tolist(), map(np.flatnonzero, table.T), strict=True))
        begin, categories = self.begin, self.categories
        if sets:
            kept = [sets.get(node, old) for node, old in enumerate(np.split(categories, begin[1:-1]))]
            begin = np.concatenate([[0], np.cumsum([len(part) for part in kept])]).astype(np.int64)
            categories = np.concatenate(kept).astype(np.int64)
        rounded = dict(zip(places, self.dtypes, strict=True))
        return replace(
            self,
            feature=feature,
            listed=listed,
            begin=begin,
            categories=categories,
            dtypes=tuple(_coarser(stored, rounded.get(i, stored)) for i, stored in enumerate(dtypes)),
        )

    def placed(self, places: Sequence[int], n_classes: int) -> NodeTable:
        """Return the table with output i standing for class ``places[i]`` of ``n_classes``; others get nothing."""
        if list(places) == list(range(n_classes)):
            return self
        value, base, link = self.value, self.base, self.link
        if link == "sigmoid":  # z stands for [0, z]
            value, base, link = (
                two_columns(self.slope * value),
                two_columns(self.slope * base[None])[0],
                "softmax",
            )
        absent = -np.inf if link == "softmax" else 0.0
        wide, start = np.zeros((len(value), n_classes)), np.full(n_classes, absent)
        wide[:, places], start[list(places)] = value, base
        return replace(self, value=wide, base=start, link=link, slope=1.0)

    def _tiles(self, x: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield slices of rows and the leaves (rows, trees) they end in."""
        roots = self.roots
        step = max(1, TILE // max(1, len(roots)))
        keys = self._keys()
        for start in range(0, len(x), step):
            rows = self._compared(x[start : start + step])
            n, d = rows.shape
            flat, at = rows.ravel(), np.tile(roots, n)  # (n * trees,)
            origin = np.repeat(np.arange(n) * d, len(roots))
            walking = np.flatnonzero(self.feature[at] >= 0)
            while len(walking):
                nodes = at[walking]
                went = self._goes_left(nodes, flat[origin[walking] + self.feature[nodes]], keys)
                nodes = np.where(went, self.left[nodes], self.right[nodes])
                at[walking] = nodes
                walking = walking[self.feature[nodes] >= 0]
            yield slice(start, start + n), at.reshape(n, len(roots))

    def _compared(self, x: np.ndarray) -> np.ndarray:
        """Return rows as the model compares them."""
        rows = np.array(x, np.float64, order="C")  # (n, d), a copy
        with np.errstate(over="ignore"):  # beyond float32 is infinity there
            for dtype in sorted(set(self.dtypes) - {"float64"}):
                columns = [i for i, name in enumerate(self.dtypes) if name == dtype]
                rows[:, columns] = rows[:, columns].astype(dtype)
        rows[np.abs(rows) <= self.zero] = 0.0
        return rows

    def _keys(self) -> tuple[np.ndarray, int]:
        """Return node * stride + code of every listed category, sorted, and the stride."""
        stride = int(self.categories.max(initial=0)) + 2
        owner = np.repeat(np.arange(len(self.feature)), np.diff(self.begin))
        return owner * stride + self.categories, stride

    def _goes_left(
        self, nodes: np.ndarray, values: np.ndarray, keys: tuple[np.ndarray, int] | None = None
    ) -> np.ndarray:
        """Tell for each node and the value (m,) that stands at it, already rounded, whether it goes left."""
        bar = self.threshold[nodes]
        went = (values < bar) | ((values == bar) & ~self.strict[nodes])
        sign = self.listed[nodes]
        if sign.any():
            kind = np.flatnonzero(sign)
            sorted_keys, stride = keys or self._keys()
            code = (
                np.nan_to_num(values[kind], nan=-1.0).clip(-1, stride - 1).astype(np.int64)
            )  # cut, not floored
            wanted = nodes[kind].astype(np.int64) * stride + code
            spot = np.minimum(np.searchsorted(sorted_keys, wanted), max(0, len(sorted_keys) - 1))
            inside = (
                (sorted_keys[spot] == wanted) & (code >= 0) if len(sorted_keys) else np.zeros(len(kind), bool)
            )
            went[kind] = inside == (sign[kind] > 0)
        hole = np.isnan(values)
        went[hole] = self.default_left[nodes[hole]]
        left: np.ndarray = went
        return left


def two_columns(margins: np.ndarray) -> np.ndarray:
    """Return [0, z] (n, 2) for margins z (n, 1).

    >>> two_columns(np.array([[2.0]])).tolist()
    [[0.0, 2.0]]
    """
    return np.column_stack([np.zeros(len(margins)), margins[:, 0]])


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities (n, classes) of logits.

    >>> softmax(np.array([[0.0, 0.0], [-np.inf, 3.0]])).tolist()
    [[0.5, 0.5], [0.0, 1.0]]
    """
    if logits.shape[1] > FEW:
        odds = np.exp(logits - logits.max(1, keepdims=True))
        shares: np.ndarray = odds / odds.sum(1, keepdims=True)
        return shares
    columns = np.ascontiguousarray(
        logits.T
    )  # (classes, n): numpy adds up long rows faster than many short ones
    columns = np.exp(columns - columns.max(0))
    return np.ascontiguousarray((columns / columns.sum(0)).T)


def _coarser(stored: str, compared: str) -> str:
    return min(stored, compared, key=lambda name: np.finfo(name).nmant)
