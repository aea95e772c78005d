# SPDX-License-Identifier: Apache-2.0
"""TreeEnsembleClassifier and TreeEnsembleRegressor of ai.onnx.ml as a node table.

They are what skl2onnx and onnxmltools write of forests and boosting. Only a graph that hands its one input to one
ensemble is read, and the table is only believed after it gave what onnxruntime gives, see _nodes.agrees.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from casemate.adapters import _nodes
from casemate.core.nodes import Link, NodeTable
from casemate.core.types import Target

PASSING = {"Identity", "Cast"}  # what may stand between the input and the ensemble
_MOST = 1 << 26  # numbers in the leaves: a file names few and can ask for many
# how a node asks -> whether "<" stands in the table, and whether its branches change sides
ASKS = {
    "BRANCH_LEQ": (False, False),
    "BRANCH_LT": (True, False),
    "BRANCH_GT": (False, True),
    "BRANCH_GTE": (True, True),
}


def agreed(proto: Any, target: Target, few: np.ndarray) -> NodeTable | None:
    """Return the node table of a target's graph, if it gives what the target gives on and beside a few rows.

    Args:
        proto: a ModelProto that was scanned; target: bound, it answers by values or probabilities; few: encoded rows.
    """
    schema, regression = target.schema, target.task == "regression"
    if schema is None or schema.input != "table" or not (regression or len(target.classes) > 1):
        return None
    table = table_in(proto, len(schema.columns), regression=regression)

    def asked(rows: np.ndarray) -> np.ndarray:
        return target.labels(rows)[:, None] if regression else target.scores(rows)

    return table if _nodes.agrees(table, few, asked, what="answers") else None


def table_in(proto: Any, n_columns: int, *, regression: bool) -> NodeTable | None:
    """Return the node table of a graph's one ensemble of trees, or None where there is none that can be read.

    Args:
        proto: a ModelProto that was scanned; n_columns: of its input; regression: whether it predicts a number.
    """
    kind = "TreeEnsembleRegressor" if regression else "TreeEnsembleClassifier"
    found = [node for node in proto.graph.node if node.op_type == kind and node.domain == "ai.onnx.ml"]
    inputs = {port.name for port in proto.graph.input} - {part.name for part in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type in PASSING and node.input[0] in inputs:
            inputs.add(node.output[0])
    if len(found) != 1 or found[0].input[0] not in inputs:
        return None
    try:
        return _read({item.name: _value(item) for item in found[0].attribute}, n_columns, regression)
    except (
        KeyError,
        ValueError,
        IndexError,
        TypeError,
        AttributeError,
        OverflowError,
    ):  # lists that do not fit
        return None


def _value(item: Any) -> Any:
    from onnx import helper

    return helper.get_attribute_value(item)


def _read(said: dict[str, Any], n_columns: int, regression: bool) -> NodeTable | None:
    modes = np.array([mode.decode() for mode in said["nodes_modes"]])
    trees, ids = (np.array(said[f"nodes_{name}"], np.int64) for name in ("treeids", "nodeids"))
    n, leaf = len(ids), modes == "LEAF"
    if not n or not set(modes.tolist()) <= {"LEAF", *ASKS}:
        return None
    order = np.lexsort((ids, trees))  # nodes of one tree stand together; node 0 is its root
    key = {(int(trees[at]), int(ids[at])): place for place, at in enumerate(order)}
    true, false = (
        np.array(
            [
                key.get((tree, to), -1)
                for tree, to in zip(trees.tolist(), said[f"nodes_{side}nodeids"], strict=True)
            ]
        )
        for side in ("true", "false")
    )
    tracks = np.array(said.get("nodes_missing_value_tracks_true") or np.zeros(n), bool)
    strict, swapped = (np.array([ASKS.get(mode, (False, False))[i] for mode in modes]) for i in (0, 1))
    tree = trees[order]
    left, right = np.where(swapped, false, true)[order], np.where(swapped, true, false)[order]
    feature = np.where(leaf, -1, np.array(said["nodes_featureids"], np.int64))[order]
    inside = (leaf[order] | (feature >= 0)) & (feature < n_columns)
    if len(key) != n or not inside.all() or not _whole(tree, left, right, leaf[order]):
        return None
    value, base, link = _leaves(said, key, n, regression)
    if value is None or said.get("aggregate_function", b"SUM") not in (b"SUM", b"AVERAGE"):
        return None
    return NodeTable(
        tree=np.unique(tree, return_inverse=True)[1].astype(np.int32),
        feature=feature.astype(np.int32),
        threshold=np.array(said["nodes_values"], np.float64)[order],
        strict=strict[order],
        # NaN fails the question: it takes the false branch, unless the node says otherwise
        default_left=(tracks != swapped)[order],
        left=np.where(leaf[order], 0, left).astype(np.int32),
        right=np.where(leaf[order], 0, right).astype(np.int32),
        listed=np.zeros(n, np.int8),
        begin=np.zeros(n + 1, np.int64),
        categories=np.zeros(0, np.int64),
        value=value / (len(np.unique(tree)) if said.get("aggregate_function") == b"AVERAGE" else 1),
        base=base,
        link=link,
        dtypes=("float32",) * n_columns,
    )


def _leaves(
    said: dict[str, Any], key: dict[tuple[int, int], int], n: int, regression: bool
) -> tuple[Any, Any, Link]:
    """Return the values of leaves (n, outputs), what they are added to, and what is made of the sum."""
    part = "target" if regression else "class"
    outputs = np.array(said[f"{part}_ids"], np.int64)
    labels = said.get("classlabels_int64s") or said.get("classlabels_strings") or ()
    n_outputs = int(said.get("n_targets", 1)) if regression else len(labels)
    if (regression and n_outputs != 1) or n * n_outputs > _MOST:
        return None, None, "identity"
    value = np.zeros((n, n_outputs))
    at = [key[pair] for pair in zip(said[f"{part}_treeids"], said[f"{part}_nodeids"], strict=True)]
    np.add.at(value, (np.array(at, np.int64), outputs), np.array(said[f"{part}_weights"], np.float64))
    base = np.zeros(n_outputs)
    given = said.get("base_values") or ()
    after = said.get("post_transform", b"NONE").decode()
    single = not regression and n_outputs == 2 and len(np.unique(outputs)) == 1  # one column for two classes
    if given and not single:
        base[:] = given
    if regression:
        return (value if after == "NONE" else None), base, "identity"
    if single:
        kept, start = value[:, [int(outputs[0])]], np.array(given[:1] or [0.0], np.float64)
        if after == "LOGISTIC":
            return kept, start, "sigmoid"
        return (
            (np.hstack([-kept, kept]), np.array([1 - start[0], start[0]]), "probabilities")
            if after == "NONE"
            else (None, base, "identity")
        )
    link: Link | None = "probabilities" if after == "NONE" else "softmax" if after == "SOFTMAX" else None
    return (value, base, link) if link else (None, base, "identity")


def _whole(tree: np.ndarray, left: np.ndarray, right: np.ndarray, leaf: np.ndarray) -> bool:
    """Tell whether every node is reached once from the first of its tree: no loop, and nothing that hangs loose."""
    inner = np.flatnonzero(~leaf)
    children = np.concatenate([left[inner], right[inner]])
    if (children < 0).any() or (tree[children] != np.tile(tree[inner], 2)).any():
        return False
    roots = np.flatnonzero(np.concatenate([[True], tree[1:] != tree[:-1]]))
    reached, level = len(roots), roots
    seen = np.bincount(children, minlength=len(leaf))
    if (np.delete(seen, roots) != 1).any() or seen[roots].any():
        return False
    while len(level := level[~leaf[level]]):
        level = np.concatenate([left[level], right[level]])
        reached += len(level)
    return reached == len(leaf)
