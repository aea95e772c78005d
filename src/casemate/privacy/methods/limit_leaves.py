# SPDX-License-Identifier: Apache-2.0
"""Larger leaves: every tree inside the model is trained again with at least ``n`` training rows in each leaf.

**What it does.** A tree that may grow until its leaves hold one row each answers for that row alone: its scores say
who was in the training data. Trees with ``min_samples_leaf >= n`` answer with the mean of ``n`` rows. The setting is
raised wherever the estimator has it: in Pipelines, searches (also in their grids), ensembles of ensembles. A larger
setting of the user's own stays.

=====================  =================================================================================
scikit-learn           ``min_samples_leaf``: distinct rows, also in the bootstrap samples of a forest
LightGBM               ``min_child_samples``, which LightGBM keeps approximately: it estimates the count
XGBoost                ``min_child_weight``. This is a sum of second derivatives, not a count. Each row adds at most
                       1/4 under logistic loss (1/2 under softmax loss, 1 under squared error), so ``n`` times that
                       many can only be reached by ``n`` rows; by far more where the model is already sure, so this
                       costs XGBoost more accuracy than the same ``n`` costs a forest.
=====================  =================================================================================

**What it does not do.** It guarantees nothing. There is no bound on what a leaf of ``n`` rows gives away, many trees
see each row from many sides, and ``n`` rows may be those of one person. On RAND HIE (a default forest, people of
three or four rows) LiRA recognises 94.7 % of people at 1 % false alarms without it and 14.6 % with ``n=20``. For a
bound, train with differential privacy.

**Cost.** One fit. A fully grown forest may even gain (RAND HIE: accuracy 74.5 to 74.8 %, log loss .537 to .520); a
model that needs small leaves, say for a rare outcome, loses.

**Pitfalls.** Boosting on large leaves can still single out a row over many rounds. Rows repeated by a bootstrap
count once in scikit-learn; rows a user repeated by hand do not. The model is trained again on ``data.train`` by its
own settings: that is only the user's model if those are the rows it was trained on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from casemate.core.data import Dataset
from casemate.core.errors import InvalidData
from casemate.core.methods import method
from casemate.core.run import Run
from casemate.core.types import LABELS, REFIT, Note, Table, Target
from casemate.training.pieces import TrainingPieces

# LightGBM's own names for one thing; beside min_child_samples they mean that
_LIGHTGBM = ("min_child_samples", "min_data_in_leaf", "min_data_per_leaf", "min_data", "min_samples_leaf")
_GRIDS = ("param_grid", "param_distributions")
# a min_child_weight for each value of these would be needed (XGBoost)
_WEIGHED = ("min_child_weight", "objective", "scale_pos_weight", "booster")
# the most one row can add to a node's sum of second derivatives, by XGBoost's objective
_HESSIAN = {
    "binary:logistic": 0.25, "binary:logitraw": 0.25, "reg:logistic": 0.25,
    "multi:softprob": 0.5, "multi:softmax": 0.5, "reg:squarederror": 1.0,
}  # fmt: skip


@method(
    kind="defence",
    needs={LABELS, REFIT},
    tasks={"binary", "multiclass", "regression"},
    inputs={"table"},
    null={"n": 1},
    cost="one fit",
    title={"en": "Larger leaves", "zh": "增大叶子"},
    reference="arXiv:1709.01604, section 4 (overfitting and membership)",
)
def limit_leaves(target: Target, data: Dataset, *, n: int = 20, run: Run | None = None) -> TrainingPieces:
    """Train every tree of the model again with at least ``n`` rows in a leaf; no guarantee, see the top of this file.

    Args:
        target: an estimator with a tree model somewhere inside.
        data: its training rows are what the model is trained on again.
        n: rows in a leaf, at least 1; 1 changes nothing.
        run: given by ``harden``.

    Raises:
        InvalidData: no tree inside, ``n`` below 1 or above half the training rows, an XGBoost objective whose second
            derivatives have no known bound.

    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> import casemate as cm
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> data = cm.Dataset(train=(X[::2], y[::2]), holdout=(X[1::2], y[1::2]))
    >>> forest = RandomForestClassifier(10, random_state=0).fit(X[::2], y[::2])
    >>> cm.harden(forest, data, using=[cm.method("limit_leaves", n=20)]).summary
    'at least 20 training rows in every leaf (1 setting raised), trained again'
    """
    if isinstance(n, bool) or n < 1:
        raise InvalidData(f"limit_leaves: n is {n!r}; give a whole number of at least 1")
    if 2 * n > max(2, len(data.train)):
        raise InvalidData(
            f"limit_leaves: n is {n} but there are {len(data.train)} training rows, so no tree could split; lower n"
        )
    settings = target.settings()
    found = _leaf_settings(settings, n, len(data.train), target)
    changed = {name: value for name, value in found.items() if not _same(settings.get(name), value)}
    if not changed:
        return TrainingPieces(summary=f"every leaf already holds at least {n} training rows: nothing changed")
    many = "1 setting" if len(changed) == 1 else f"{len(changed)} settings"
    rows = tuple((name, str(settings[name]), str(value)) for name, value in changed.items())
    return TrainingPieces(
        recipe=changed,
        summary=f"at least {n} training rows in every leaf ({many} raised), trained again",
        evidence=(
            Table(name="settings", columns=("setting", "before", "after"), rows=rows),
            Note(text=_weakness(data, n)),
        ),
    )


def _leaf_settings(settings: Mapping[str, Any], n: int, n_rows: int, target: Target) -> dict[str, Any]:
    """Return every setting that bounds the rows of a leaf, with its new value."""
    found: dict[str, Any] = {}
    leaves = [path for path in settings if path.rpartition("__")[2] == "min_child_weight"]
    xgboost = any(path.replace("child_weight", "child_samples") not in settings for path in leaves)
    for path, value in settings.items():
        stem, _, name = path.rpartition("__")
        beside = {other.rpartition("__")[2] for other in settings if other.rpartition("__")[0] == stem}
        lightgbm = "min_child_samples" in beside
        if name == "estimator" and value is None and "n_estimators" in beside:
            raise InvalidData(f"limit_leaves: {path}=None hides the tree of an ensemble; name it")
        if name == "booster" and value == "gblinear":
            raise InvalidData(f"limit_leaves: {path}='gblinear' grows no trees")
        if name in _GRIDS:
            grid = _raised_grid(value, n, n_rows, xgboost=xgboost)
            found.update({path: grid} if not _same(grid, value) else {})
        elif name == "min_samples_leaf" or (lightgbm and name in _LIGHTGBM):
            found[path] = _raised(value, n, n_rows)
        elif name == "min_child_weight" and not lightgbm:
            owner = {other: settings[f"{stem}__{other}" if stem else other] for other in beside}
            found[path] = max(1.0 if value is None else value, n * _row_weight(owner, target, path))
            if value is None and found[path] == 1.0:
                found[path] = None  # XGBoost's own default
    if not found:
        raise InvalidData(
            "limit_leaves found no tree in this model: no setting min_samples_leaf, min_child_samples or "
            "min_child_weight (a Booster keeps none of them: wrap its estimator)"
        )
    return found


def _raised(value: Any, n: int, n_rows: int) -> Any:
    """Return a leaf size of at least ``n`` rows; scikit-learn reads a fraction as a share of the rows."""
    if value is None:
        return n
    rows = math.ceil(value * n_rows) if isinstance(value, float) and value < 1 else value
    return value if rows >= n else n


def _raised_grid(grid: Any, n: int, n_rows: int, *, xgboost: bool = True) -> Any:
    """Raise the leaf sizes a search would try; what is drawn from a distribution becomes ``n``."""
    if isinstance(grid, (list, tuple)):
        return [_raised_grid(part, n, n_rows, xgboost=xgboost) for part in grid]
    raised = {}
    for path, tried in grid.items():
        name = path.rpartition("__")[2]
        if (xgboost and name in _WEIGHED) or (isinstance(tried, (list, tuple)) and any(map(_grows, tried))):
            raise InvalidData(
                f"limit_leaves cannot raise {path!r} inside a search; take it out of the grid and set it"
            )
        if name in _LIGHTGBM:
            listed = hasattr(tried, "__iter__")
            tried = list(dict.fromkeys(_raised(value, n, n_rows) for value in tried)) if listed else [n]
        raised[path] = tried
    return raised


def _grows(tried: Any) -> bool:
    """Tell whether a value that a search tries is itself a model with trees."""
    from sklearn.base import BaseEstimator

    known = tried.get_params() if isinstance(tried, BaseEstimator) else {}
    return any(path.rpartition("__")[2] in ("n_estimators", "min_samples_leaf") for path in known)


def _row_weight(owner: Mapping[str, Any], target: Target, path: str) -> float:
    """Return the most one row can add to the sum that XGBoost compares with ``min_child_weight``."""
    objective = owner.get("objective")
    if objective in (None, "binary:logistic") and target.task != "regression":
        objective = "multi:softprob" if len(target.classes) > 2 else "binary:logistic"
    objective = objective or "reg:squarederror"
    if objective not in _HESSIAN:
        raise InvalidData(
            f"limit_leaves cannot turn {path} into rows for objective {objective!r}; it can for {', '.join(_HESSIAN)}"
        )
    return _HESSIAN[objective] * max(1.0, owner.get("scale_pos_weight") or 1.0)


def _same(one: Any, other: Any) -> bool:
    """Tell whether two settings are equal; some, a distribution say, are compared with nothing but themselves."""
    return one is other or (type(one) is type(other) and repr(one) == repr(other))


def _weakness(data: Dataset, n: int) -> str:
    text = f"No guarantee: a leaf of {n} rows still tells about them"
    if data.train.person is None:
        return f"{text}."
    most = int(np.bincount(data.train.person).max())
    return f"{text}, and {n} rows may be those of {math.ceil(n / most)} people (one has {most})."
