# SPDX-License-Identifier: Apache-2.0
"""What is special to models of XGBoost and LightGBM: their columns, categories and codes, and how they train again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from casemate.core.errors import InvalidData
from casemate.core.schema import Column, Schema
from casemate.core.types import shortened

Maker = Literal["XGBoost", "LightGBM"]


def maker(model: Any) -> Maker | None:
    """Tell whether ``model`` is of XGBoost or LightGBM, a Booster or an estimator, without importing either.

    >>> maker(len) is None
    True
    """
    for kind in type(model).__mro__:
        root = kind.__module__.partition(".")[0]
        if root in ("xgboost", "lightgbm"):
            return "XGBoost" if root == "xgboost" else "LightGBM"
    return None


def booster_of(model: Any) -> Any:
    """Return the Booster of an estimator, cut at its best round as its own ``predict`` does, or the Booster itself."""
    if maker(model) == "LightGBM":
        return getattr(model, "booster_", model)
    if not hasattr(model, "get_booster"):
        return model
    best = best_round(model)
    return model.get_booster() if best is None else model.get_booster()[: best + 1]


def best_round(model: Any) -> int | None:
    """Return the round, from 0, at which early stopping found an XGBoost estimator at its best."""
    try:
        return int(model.best_iteration)
    except AttributeError:  # there was no early stopping
        return None


def one_against_rest(model: Any) -> bool:
    """Tell whether the probabilities of a LightGBM estimator are those of each class by itself: no distribution."""
    names = ("multiclassova", "multiclass_ova", "ova", "ovr")
    return maker(model) == "LightGBM" and model.get_params().get("objective") in names


# ---- columns and categories


def names(model: Any) -> list[str] | None:
    """Return the names of the columns the model was trained on, or None if it saw an array."""
    kind = maker(model)
    if kind is None:
        found = getattr(model, "feature_names_in_", None)
        return None if found is None else [str(name) for name in found]
    booster = booster_of(model)
    found = booster.feature_names if kind == "XGBoost" else booster.feature_name()
    if not found or list(found) == [f"Column_{i}" for i in range(len(found))]:
        return None
    return [str(name) for name in found]


def places(model: Any, schema: Schema, n_features: int) -> list[int]:
    """Return the column of the schema that stands for each feature of the model.

    Raises:
        InvalidData: columns that the model does not know, or that the data lacks.
    """
    own, there = names(model), schema.names
    if own is None or isinstance(schema.template, np.ndarray | None):
        if n_features != len(there):
            raise InvalidData(f"the model was trained on {n_features} columns; the data has {len(there)}")
        return list(range(n_features))
    # LightGBM writes spaces in names as underscores
    index = {name: i for i, name in enumerate(there)}
    if maker(model) == "LightGBM":
        index |= {name.replace(" ", "_"): i for i, name in enumerate(there)}
    if absent := [name for name in own if name not in index]:
        raise InvalidData(f"the model was trained on a column {absent[0]!r}; the data has {shortened(there)}")
    found = [index[name] for name in own]
    if extra := [name for i, name in enumerate(there) if i not in found]:
        raise InvalidData(f"the model was not trained on the column {extra[0]!r}; drop it from the data")
    return found


def categories(model: Any) -> dict[int, list[Any]]:
    """Return the categories, in the order of their codes, of each feature that the model knows as categorical."""
    kind = maker(model)
    if kind == "LightGBM":
        booster = booster_of(model)
        known = booster.pandas_categorical or []
        columns = [int(text) for text in settings(booster).get("categorical_feature", "").split(",") if text]
        # ordered categories are kept as well, but not the columns they belong to
        return dict(zip(columns, known, strict=True)) if len(columns) == len(known) else {}
    if kind != "XGBoost" or "c" not in (booster_of(model).feature_types or []):
        return {}
    kept = grown(document(model)).get("cats", {}).get("enc", [])
    return {i: _decoded(entry) for i, entry in enumerate(kept) if entry["values"]}


def _decoded(entry: dict[str, Any]) -> list[Any]:
    """Read one column of XGBoost's categories: numbers, or the bytes of all texts and where each begins."""
    if "offsets" not in entry:
        return list(entry["values"])
    text, ends = bytes(value % 256 for value in entry["values"]), entry["offsets"]
    return [text[a:b].decode("utf-8") for a, b in pairwise(ends)]


def settings(booster: Any) -> dict[str, str]:
    """Return the training settings that a LightGBM model carries, as text."""
    _, _, tail = booster.model_to_string().rpartition("\nparameters:\n")
    lines = [line for line in tail.split("\n") if line.startswith("[") and line.endswith("]")]
    return {name: value.strip() for name, _, value in (line[1:-1].partition(":") for line in lines)}


def codes(model: Any, schema: Schema, where: Sequence[int]) -> list[np.ndarray | None]:
    """Return for each column of the schema None, or what the model sees for each of its categories (categories,).

    Categories the model does not know are NaN, a missing cell, to it. For a column of numbers that are categories to
    the model: the numbers it knows, sorted, and its codes for them (2, categories).

    Raises:
        InvalidData: text in a column for which the model has no categories, or only others.
    """
    known = {where[feature]: values for feature, values in categories(model).items()}
    return [_seen(column, known.get(i)) for i, column in enumerate(schema.columns)]


def _seen(column: Column, known: list[Any] | None) -> np.ndarray | None:
    if column.kind != "category":
        if known is None:
            return None
        if not all(isinstance(value, int | float) for value in known):
            raise InvalidData(
                f"column {column.name!r} holds numbers; the model knows categories {shortened(known)} there"
            )
        order = np.argsort(known)  # categories that the data holds as numbers: value and code (2, categories)
        return np.array([np.asarray(known, np.float64)[order], order])
    if known is not None:
        index = {value: float(code) for code, value in enumerate(known)}
        seen = np.array([index.get(value, np.nan) for value in column.categories])
        if len(seen) and np.isnan(seen).all():
            raise InvalidData(
                f"column {column.name!r} holds {shortened(column.categories)}; "
                f"the model knows none of these, only {shortened(known)}"
            )
        return seen
    if all(isinstance(value, bool | int | float | np.number) for value in column.categories):
        return np.array([float(value) for value in column.categories])
    raise InvalidData(
        f"column {column.name!r} holds text, but the model keeps no categories for it; encode it as in training"
    )


def stored(schema: Schema) -> list[str]:
    """Return for each column the dtype in which the user's rows hold it, as far as it rounds."""
    template = schema.template
    if template is None:
        return ["float64"] * len(schema.columns)
    if isinstance(template, np.ndarray):
        return ["float32" if template.dtype == np.float32 else "float64"] * len(schema.columns)
    import narwhals.stable.v2 as nw

    frame = nw.from_native(template, eager_only=True)
    held = {str(name): frame.get_column(name).dtype for name in frame.columns}
    return ["float32" if held[name] == nw.Float32 else "float64" for name in schema.names]


def uncast(model: Any, schema: Schema) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    """Return the columns, with their categories, that the model knows as categorical and a pandas frame does not."""
    own = names(model) if maker(model) is not None else None
    if own is None or not type(schema.template).__module__.startswith("pandas"):
        return ()
    held = {str(name).replace(" ", "_"): name for name in schema.template.columns}
    found = []
    for feature, known in categories(model).items():
        name = held.get(own[feature].replace(" ", "_"))
        if name is not None and str(schema.template[name].dtype) != "category":
            found.append((name, tuple(known)))
    return tuple(found)


def recast(frame: Any, cast: Sequence[tuple[str, tuple[Any, ...]]]) -> Any:
    """Return a pandas frame with those columns as categories."""
    import pandas as pd

    return frame.astype({name: pd.CategoricalDtype(list(known)) for name, known in cast})


# ---- class numbers


def guess(labels: Sequence[Any]) -> str:
    """Return the caveat of class numbers that were given labels."""
    return f"classes= was not given: the model's class i is taken to be label i of {list(labels)}"


def matched(predicted: np.ndarray, y: np.ndarray, n_classes: int) -> list[int]:
    """Return for each class number the label it agrees with best, one for each, on rows with labels ``y`` (n,).

    >>> matched(np.array([0, 0, 1, 1, 1]), np.array([1, 1, 0, 0, 1]), 2)
    [1, 0]
    """
    from scipy.optimize import linear_sum_assignment

    together = np.zeros((n_classes, n_classes))
    np.add.at(together, (predicted, y), 1.0)
    together += 1e-3 * np.eye(n_classes)  # in doubt as they are sorted
    return [int(label) for label in linear_sum_assignment(together, maximize=True)[1]]


# ---- training again


def again(model: Any, parameters: Mapping[str, Any], n_classes: int) -> dict[str, Any]:
    """Return the settings, by path, with which parts of XGBoost and LightGBM train as they did, quietly on one thread.

    Args:
        model: as it was fitted; parameters: its own, by path; n_classes: of the labels to come, or 0.
    """
    changes: dict[str, Any] = {}
    for path, part in {"": model, **parameters}.items():
        kind, start = maker(part), f"{path}__" if path else ""
        if kind is None or not hasattr(part, "get_params"):
            continue
        changes[f"{start}n_jobs"] = 1
        if rounds := _best_rounds(part):
            changes[f"{start}n_estimators"] = rounds
        settings = part.get_params(deep=False)
        if kind == "LightGBM":  # it writes to the standard output
            changes[f"{start}{'verbosity' if 'verbosity' in settings else 'verbose'}"] = -1
        if kind == "XGBoost" and settings.get("early_stopping_rounds"):
            changes[f"{start}early_stopping_rounds"] = None
        if kind == "XGBoost" and 0 < n_classes <= 2 and str(settings.get("objective")).startswith("multi:"):
            changes[f"{start}objective"] = (
                "binary:logistic"  # fitted on three classes, it took that one by itself
            )
    return changes


def stopped(model: Any, parameters: Mapping[str, Any]) -> list[str]:
    """Return the caveat of a model that was stopped early on rows of its own."""
    found = [
        rounds for part in (model, *parameters.values()) if maker(part) and (rounds := _best_rounds(part))
    ]
    return [f"training stopped early: refits train {found[0]} rounds, without looking again"] if found else []


def _best_rounds(part: Any) -> int | None:
    if maker(part) == "XGBoost":
        best = best_round(part)
        return None if best is None else best + 1
    best = getattr(part, "best_iteration_", None)
    return int(best) if best else None


def gradient_booster(booster: Any) -> dict[str, Any]:
    """Return the part of an XGBoost model's settings that says how its trees were grown."""
    found: dict[str, Any] = json.loads(booster.save_config())["learner"]["gradient_booster"]
    return found


def grown(document: dict[str, Any]) -> dict[str, Any]:
    """Return the trees of an XGBoost document; dart keeps them one level down."""
    booster = document["learner"]["gradient_booster"]
    found: dict[str, Any] = booster.get("gbtree", booster)["model"]
    return found


def document(model: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(booster_of(model).save_raw("json"))
    return found
