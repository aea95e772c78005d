# SPDX-License-Identifier: Apache-2.0
"""Small models that learn another model's scores: what they read, how they are fitted to soft labels, their size.

Trees and forests fit the soft labels as several outputs of a regression: a leaf answers with their mean, which sums to
one. Classifiers without soft labels (logistic, boosting) get every row once a class, weighted by its soft label: the
weighted log loss is then the cross-entropy against the soft labels, term by term.
"""

from __future__ import annotations

import hashlib
import pickle
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from casemate.core.errors import InvalidData
from casemate.core.nodes import softmax, two_columns
from casemate.core.schema import Schema
from casemate.training.isolation import user_code

Kind = Literal["tree", "forest", "logistic", "boosting", "network"]
KINDS: tuple[Kind, ...] = ("tree", "forest", "logistic", "boosting", "network")
N_TREES = 100
_LEAST = 1e-12  # weight of a class that the teacher rules out: every class stays known to the student


@dataclass(frozen=True)
class Columns:
    """Encoded rows as plain features: numbers standardised, holes filled and marked, one column a category.

    >>> rows = np.array([[1.0, 0.0], [3.0, 1.0], [np.nan, 1.0]])
    >>> from casemate.core.schema import Column
    >>> table = Schema(
    ...     columns=(Column(name="a", kind="real"), Column(name="b", kind="category", categories=("u", "v")))
    ... )
    >>> Columns.of(table, rows).read(rows).tolist()
    [[-1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0]]
    """

    numbers: np.ndarray  # (p,) places of the numeric columns
    centre: np.ndarray  # (p,) medians fill holes and stand at 0
    scale: np.ndarray  # (p,)
    holed: np.ndarray  # (h,) places of numeric columns with holes
    owner: np.ndarray  # (c,) the column of each category
    code: np.ndarray  # (c,) its code there

    @staticmethod
    def of(schema: Schema, x: np.ndarray) -> Columns:
        """Learn centre and scale of each numeric column from rows (n, d)."""
        flat = np.asarray(x, np.float64).reshape(len(x), -1)
        categories = {j: c.categories for j, c in enumerate(schema.columns) if c.kind == "category"}
        numbers = np.array([j for j in range(flat.shape[1]) if j not in categories], np.int64)
        values = flat[:, numbers]
        missing = np.isnan(values)
        counted = np.where(missing.all(0), 0.0, values)  # a column of holes alone has no median
        centre = np.nanmedian(counted, axis=0)
        spread = np.nanstd(counted, axis=0)
        pairs = np.array([(j, k) for j, known in categories.items() for k in range(len(known))], np.int64)
        pairs = pairs.reshape(-1, 2)
        scale = np.where(spread > 1e-12 * np.maximum(1.0, np.abs(centre)), spread, 1.0)
        return Columns(numbers, centre, scale, numbers[missing.any(0)], pairs[:, 0], pairs[:, 1])

    @property
    def width(self) -> int:
        """The number of features."""
        return len(self.numbers) + len(self.holed) + len(self.owner)

    def read(self, x: np.ndarray) -> np.ndarray:
        """Return features (n, p + h + c) of encoded rows (n, ...)."""
        flat = np.asarray(x, np.float64).reshape(len(x), -1)
        values = flat[:, self.numbers]
        filled = np.where(np.isnan(values), self.centre, values)
        return np.concatenate(
            [
                (filled - self.centre) / self.scale,
                np.isnan(flat[:, self.holed]),
                flat[:, self.owner] == self.code,
            ],
            axis=1,
        )


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A scikit-learn student and how it reads rows.

    ``power`` is the temperature of its soft labels: its answers are taken back to temperature one by it.
    """

    kind: Kind
    model: Any
    columns: Columns
    power: float

    @property
    def has_logits(self) -> bool:
        """Whether its answers are the softmax of logits: those of trees are means."""
        return self.kind in ("logistic", "boosting")

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Return logits (n, classes) of a student that has them."""
        raw = np.asarray(self.model.decision_function(self.columns.read(x)), np.float64)
        return self.power * (two_columns(raw[:, None]) if raw.ndim == 1 else raw)

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Return probabilities (n, classes)."""
        if self.has_logits:
            return softmax(self.logits(x))
        shares = np.asarray(self.model.predict(self.columns.read(x)), np.float64) ** self.power
        return np.asarray(shares / shares.sum(1, keepdims=True))

    def digest(self) -> str:
        """Return a hex digest of what it learnt and how it reads rows."""
        read = vars(self.columns).values()
        return digest_of([*arrays(self.kind, self.model), *read, np.array(self.power)])

    def size(self) -> tuple[int, str]:
        """Return its number of tree nodes or parameters, and which of the two."""
        if self.kind == "logistic":
            return sum(part.size for part in arrays(self.kind, self.model)), "parameters"
        if self.kind == "boosting":
            return sum(len(tree.nodes) for stage in self.model._predictors for tree in stage), "tree nodes"
        grown = self.model.estimators_ if self.kind == "forest" else [self.model]
        return sum(tree.tree_.node_count for tree in grown), "tree nodes"


def fit(
    kind: Kind,
    schema: Schema,
    x: np.ndarray,
    soft: np.ndarray,
    *,
    depth: int,
    leaf: int,
    power: float,
    seed: int,
) -> Fitted:
    """Fit a scikit-learn student to soft labels.

    Args:
        kind: which one; schema: what the columns of ``x`` are.
        x: encoded rows (n, ...); soft: labels (n, classes), rows summing to one, at temperature ``power``.
        depth: of a single tree; leaf: rows in a leaf of any tree; seed: of every draw.

    Raises:
        InvalidData: too few rows for leaves of that size, or a model that cannot be fitted.

    >>> from casemate.core.schema import Column
    >>> x = np.arange(40.0)[:, None]
    >>> soft = np.column_stack([x < 20, x >= 20]).astype(float)
    >>> student = fit(
    ...     "tree",
    ...     Schema(columns=(Column(name="a", kind="real"),)),
    ...     x,
    ...     soft,
    ...     depth=1,
    ...     leaf=5,
    ...     power=1,
    ...     seed=0,
    ... )
    >>> student.scores(x[[0, 39]]).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if kind != "logistic" and 2 * leaf > max(2, len(x)):
        raise InvalidData(
            f"leaf is {leaf} but the student learns from {len(x)} rows: no tree could split; lower it"
        )
    columns = Columns.of(schema, x)
    rows, n_classes = columns.read(x), soft.shape[1]
    model, doubled = _estimator(kind, n_classes, depth, leaf, seed)
    with user_code(f"fitting the student ({kind})", "choose another student"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of steps: a student close to its optimum will do
        if doubled:
            copies = np.repeat(np.arange(n_classes), len(rows))
            model.fit(np.tile(rows, (n_classes, 1)), copies, sample_weight=np.maximum(soft.T.ravel(), _LEAST))
        else:
            model.fit(rows, soft)
    return Fitted(kind=kind, model=model, columns=columns, power=power)


def _estimator(kind: Kind, n_classes: int, depth: int, leaf: int, seed: int) -> tuple[Any, bool]:
    """Return an unfitted estimator, and whether it takes each row once a class instead of soft labels."""
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestRegressor
    from sklearn.linear_model import LogisticRegression
    from sklearn.tree import DecisionTreeRegressor

    if kind == "tree":
        return DecisionTreeRegressor(max_depth=depth, min_samples_leaf=leaf, random_state=seed), False
    if kind == "forest":
        options = {"max_features": "sqrt", "n_jobs": 1, "random_state": seed}
        return RandomForestRegressor(N_TREES, min_samples_leaf=leaf, **options), False
    if kind == "logistic":
        return LogisticRegression(max_iter=1000), True
    # all copies of a row fall into one leaf, so leaves of n rows hold n times as many copies
    boosted = HistGradientBoostingClassifier(
        min_samples_leaf=leaf * n_classes, early_stopping=False, random_state=seed
    )
    return boosted, True


def arrays(kind: Kind, model: Any) -> list[np.ndarray]:
    """Return what a scikit-learn student learnt, as arrays in a fixed order (its pickle holds padding as well)."""
    if kind == "logistic":
        return [model.coef_, model.intercept_]
    if kind == "boosting":
        nodes = [tree.nodes for stage in model._predictors for tree in stage]
        return [model._baseline_prediction, *(part[name] for part in nodes for name in part.dtype.names)]
    grown = [tree.tree_ for tree in (model.estimators_ if kind == "forest" else [model])]
    names = ("feature", "threshold", "children_left", "children_right", "value")
    return [getattr(tree, name) for tree in grown for name in names]


def digest_of(parts: Iterable[np.ndarray]) -> str:
    """Return a hex digest of arrays: their dtypes, shapes and bytes, in order.

    >>> digest_of([np.zeros(2)]) == digest_of([np.zeros((2, 1))])
    False
    """
    mark = hashlib.blake2b(digest_size=32)
    for part in parts:
        held = np.ascontiguousarray(part)
        mark.update(f"{held.dtype} {part.shape}".encode())
        mark.update(held.tobytes())
    return mark.hexdigest()


def stored_bytes(model: Any) -> int:
    """Return how many bytes the pickle of a model takes.

    >>> stored_bytes(np.zeros(1000)) > 8000
    True
    """
    return len(pickle.dumps(model, protocol=5))
