# SPDX-License-Identifier: Apache-2.0
"""Trees of XGBoost, LightGBM and scikit-learn as one node table, read through treelite.

A table is only believed after it gave what the model itself gives, see :func:`agrees`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from casemate.adapters import _boosting
from casemate.core.errors import InvalidData
from casemate.core.extras import installed, needs
from casemate.core.nodes import Link, NodeTable, two_columns
from casemate.core.schema import Schema

LINKS: dict[str, Link] = {
    "identity": "identity",
    "identity_multiclass": "probabilities",
    "sigmoid": "sigmoid",
    "softmax": "softmax",
    "exponential": "exponential",
}
LESS, LESS_OR_EQUAL = 2, 3  # treelite's operators
ZERO = float(np.float32(1e-35))  # LightGBM passes on no cell that is nearer to zero


# ---- the table


def table_of(model: Any, schema: Schema | None, *, by_name: bool = True) -> NodeTable | None:
    """Return the node table of a fitted model in the columns of ``schema``, or None where there can be none.

    Args:
        model: an estimator of XGBoost or LightGBM, or one of scikit-learn's trees and forests.
        schema: of the data; by_name: whether the model finds its columns by name.
    """
    if schema is None or schema.input != "table" or (own := _own_table(model)) is None:
        return None
    n_features = len(own.dtypes)
    try:
        where = _boosting.places(model, schema, n_features) if by_name else list(range(n_features))
        seen = _boosting.codes(model, schema, where)
        # a category that XGBoost never saw is an error to 3.1, and to 3.2 the first one it knows
        strange = _boosting.maker(model) == "XGBoost" and any(
            part is not None and np.isnan(part).any() for part in seen
        )
        return None if strange else _recoded(own, schema, where, seen)
    except InvalidData:  # the model's own predict will say so, if it minds
        return None


def table_in(
    model: Any, schema: Schema | None, where: Sequence[int], seen: Sequence[np.ndarray | None]
) -> NodeTable | None:
    """Return the node table of a Booster whose columns and codes are known, by _boosting.py."""
    own = None if schema is None else _own_table(model)
    return None if own is None or schema is None else _recoded(own, schema, where, seen)


def _recoded(
    own: NodeTable, schema: Schema, where: Sequence[int], seen: Sequence[np.ndarray | None]
) -> NodeTable | None:
    numbers = any(part is not None and part.ndim == 2 for part in seen)  # a table has no place for these
    return None if numbers else own.recoded(where, seen, _boosting.stored(schema))


def _own_table(model: Any) -> NodeTable | None:
    """Return the table in the model's own columns and codes."""
    if not installed("treelite"):
        return None
    treelite = needs("treelite")
    try:
        ensemble = _imported(model, treelite)
    except (treelite.TreeliteError, AttributeError, KeyError, NotImplementedError, TypeError, ValueError):
        return None  # a kind of tree that treelite does not know
    if ensemble is None:
        return None
    field = ensemble.get_header_accessor().get_field
    link = LINKS.get(field("postprocessor"))
    if link is None or field("num_target")[0] != 1:
        return None
    n_outputs, class_of, shape = (
        int(field("num_class")[0]),
        field("class_id").copy(),
        field("leaf_vector_shape"),
    )
    parts: dict[str, list[np.ndarray]] = {}
    first = 0
    for i in range(ensemble.num_tree):
        part = ensemble.get_tree_accessor(i).get_field
        n, kind = int(part("num_nodes")[0]), part("node_type")
        inner, listed = kind > 0, kind == 2
        if not np.isin(part("cmp")[kind == 1], [LESS, LESS_OR_EQUAL]).all():
            return None
        value = np.zeros((n, n_outputs))
        if shape.prod() == 1:
            value[~inner, max(0, class_of[i])] = part("leaf_value")[~inner]
        else:
            rows = part("leaf_vector_begin")[~inner].astype(np.int64) // n_outputs
            value[~inner] = part("leaf_vector").reshape(-1, n_outputs)[rows]
        sizes = (part("category_list_end") - part("category_list_begin")).astype(np.int64)
        found = {
            "tree": np.full(n, i, np.int32),
            "feature": np.where(inner, part("split_index"), -1).astype(np.int32),
            "threshold": part("threshold").astype(np.float64),
            "strict": part("cmp") == LESS,
            "default_left": part("default_left") > 0,
            "left": np.where(inner, part("cleft") + first, 0).astype(np.int32),
            "right": np.where(inner, part("cright") + first, 0).astype(np.int32),
            "listed": np.where(listed, np.where(part("category_list_right_child") > 0, -1, 1), 0).astype(
                np.int8
            ),
            "begin": sizes,
            "categories": part("category_list").astype(np.int64),
            "value": value,
        }
        for name, array in found.items():
            parts.setdefault(name, []).append(array)
        first += n
    if not parts:
        return None
    whole = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    whole["begin"] = np.concatenate([[0], np.cumsum(whole["begin"])]).astype(np.int64)
    if field("average_tree_output")[0]:  # a mean over the trees of each class
        whole["value"] /= max(1, ensemble.num_tree // (n_outputs if shape.prod() == 1 else 1))
    narrow = _boosting.maker(model) == "XGBoost" or (
        _boosting.maker(model) is None and not _by_histogram(model)
    )
    return NodeTable(
        **whole,
        base=field("base_scores").astype(np.float64),
        link=link,
        slope=float(field("sigmoid_alpha")[0]),
        zero=ZERO if _boosting.maker(model) == "LightGBM" else 0.0,
        dtypes=("float32" if narrow else "float64",) * int(ensemble.num_feature),
    )


def _imported(model: Any, treelite: Any) -> Any:
    """Return the model as treelite holds it; None where it would misread it."""
    kind = _boosting.maker(model)
    if kind == "LightGBM":
        booster = _boosting.booster_of(model)
        # treelite keeps missing cells apart from zeros
        return (
            None
            if _boosting.settings(booster).get("zero_as_missing") == "1"
            else treelite.frontend.from_lightgbm(booster)
        )
    if kind == "XGBoost":
        booster, hole = _boosting.booster_of(model), getattr(model, "missing", None)
        if _boosting.gradient_booster(booster)["name"] not in ("gbtree", "dart") or (
            hole is not None and hole == hole
        ):
            return None
        if "c" not in (booster.feature_types or []):
            return treelite.frontend.from_xgboost(booster)
        document = _boosting.document(model)
        # treelite refuses the names of categories; codes are all that the trees use
        _boosting.grown(document)["cats"] = {
            "enc": [],
            "feature_segments": [],
            "sorted_idx": [],
        }
        return treelite.frontend.from_xgboost_json(json.dumps(document))
    return needs("treelite.sklearn").import_model(_as_forest(model))


def _as_forest(model: Any) -> Any:
    """Return a single tree of scikit-learn as a forest of one."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    if not isinstance(model, DecisionTreeClassifier | DecisionTreeRegressor):
        return model
    classifier = isinstance(model, DecisionTreeClassifier)
    forest = RandomForestClassifier(1) if classifier else RandomForestRegressor(1)
    forest.estimators_ = [model]
    for name in ("n_features_in_", "n_outputs_", *(["n_classes_"] if classifier else [])):
        setattr(forest, name, getattr(model, name))
    return forest


def _by_histogram(model: Any) -> bool:
    return type(model).__name__.startswith("HistGradientBoosting")


# ---- believing it


def agrees(
    table: NodeTable | None,
    x: np.ndarray,
    answers: Callable[[np.ndarray], np.ndarray],
    *,
    what: Literal["logits", "answers"],
) -> bool:
    """Tell whether the table gives what the model gives, on rows of the data and beside its own thresholds.

    Args:
        table: None agrees with nothing.
        x: encoded rows; some are taken as they are, in others cells are set to a threshold or the next float.
        answers: the model's own logits, or its probabilities or values; what: which of them.
    """
    if table is None:
        return False
    rows = probes(table, x)
    try:
        wanted = answers(rows)
    except InvalidData:  # rows beside a threshold may be none that the model takes
        return False
    if what == "answers":
        found = table.scores(rows)
    else:
        margins = table.margins(rows)
        found = two_columns(table.slope * margins) if table.link == "sigmoid" else margins
    # XGBoost adds up in float32: an error for every leaf that was added
    largest = [np.abs(part).max() for part in np.split(table.value, table.roots[1:])]
    slack = 1e-6 * max(1.0, float(np.sum(largest))) if what == "logits" else 1e-6
    return found.shape == wanted.shape and bool(np.allclose(found, wanted, rtol=1e-6, atol=slack))


def probes(table: NodeTable, x: np.ndarray, n: int = 64) -> np.ndarray:
    """Return rows (3 n, d) at and beside thresholds of the table, and rows of ``x``; always the same ones."""
    generator = np.random.default_rng(0)
    rows = x[generator.integers(0, len(x), 3 * n)].copy()  # (3n, d)
    within = np.abs(table.threshold) < 1e30  # scikit-learn parts missing cells from others at infinity
    inner = np.flatnonzero((table.feature >= 0) & (table.listed == 0) & within)
    if not len(inner):
        return rows
    for row in rows[n:]:
        for node in inner[generator.integers(0, len(inner), 4)]:
            bar, narrow = table.threshold[node], np.float32(table.threshold[node])
            beside = (bar, np.nextafter(bar, np.inf), np.nextafter(bar, -np.inf),
                      np.nextafter(narrow, np.float32(np.inf)), np.nextafter(narrow, np.float32(-np.inf)))  # fmt: skip
            row[table.feature[node]] = beside[generator.integers(0, len(beside))]
    return rows
