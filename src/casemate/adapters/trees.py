# SPDX-License-Identifier: Apache-2.0
"""Boosters of XGBoost and LightGBM as targets: what their own files hold. Their estimators: adapters/sklearn.py.

A Booster gets its columns in its own order and categories as its own codes, so that rows of any frame reach it; its
margins give the logits, and the probabilities are the softmax of these in float64.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np

from casemate.adapters import _boosting, _nodes, _shared
from casemate.core.data import Dataset
from casemate.core.errors import InvalidData
from casemate.core.extras import needs
from casemate.core.nodes import NodeTable, softmax, two_columns
from casemate.core.types import (
    LABELS,
    LOGITS,
    REFIT,
    SCORES,
    TREES,
    Capability,
    Recipe,
    Target,
    Task,
    shortened,
)
from casemate.training.isolation import user_code

Answers = Literal["sigmoid", "softmax", "votes", "values"]
ADVICE = "give it data of the columns and types it was trained on"
# What the margins of each objective mean. Any objective that is missing here is refused.
OBJECTIVES: dict[str, Answers] = {
    "binary:logistic": "sigmoid", "binary:logitraw": "sigmoid", "binary": "sigmoid", "cross_entropy": "sigmoid",
    "multi:softprob": "softmax", "multi:softmax": "softmax", "multiclass": "softmax",
    "binary:hinge": "votes", "multiclassova": "votes",
    **dict.fromkeys(
        ("reg:squarederror", "reg:squaredlogerror", "reg:logistic", "reg:pseudohubererror", "reg:absoluteerror",
         "reg:gamma", "reg:tweedie", "reg:quantileerror", "count:poisson", "regression", "regression_l1", "huber",
         "fair", "poisson", "quantile", "mape", "gamma", "tweedie"),
        "values",
    ),
}  # fmt: skip
GROWN = (
    "eta", "gamma", "max_depth", "max_leaves", "min_child_weight", "max_delta_step", "subsample", "sampling_method",
    "colsample_bytree", "colsample_bylevel", "colsample_bynode", "lambda", "alpha", "grow_policy", "max_bin",
    "max_cat_to_onehot", "max_cat_threshold", "monotone_constraints", "interaction_constraints",
)  # fmt: skip
# settings of LightGBM that a refit gets from elsewhere: rows, rounds, threads and seeds
ELSEWHERE = {
    "num_iterations", "early_stopping_round", "num_threads", "seed", "metric", "verbosity", "deterministic", "data",
    "valid", "categorical_feature", "data_random_seed", "feature_fraction_seed", "bagging_seed", "drop_seed",
    "extra_seed", "objective_seed", "input_model", "output_model", "output_result", "machines",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TreesTarget(Target):
    """A Booster and how to feed it; it works on a copy, on one thread, and the user's own is never touched.

    SCORES and LOGITS where its objective gives probabilities, TREES where the node table gave the same as the
    Booster, on rows of the data. A Booster does not know how it was trained: REFIT guesses it from what it saved.

    >>> import lightgbm
    >>> rows = lightgbm.Dataset(np.arange(40.0)[:, None], np.arange(40) > 20)
    >>> make(lightgbm.train({"objective": "binary", "verbosity": -1}, rows, 2)).kind
    'LightGBM'
    """

    model: Any
    answers: Answers
    n_outputs: int = 1
    slope: float = 1.0  # logits are slope * margin
    places: tuple[int, ...] = ()  # the column of the Schema for each of the model's own
    codes: tuple[np.ndarray | None, ...] = ()  # for each column of the Schema, see _boosting.codes
    exact_table: bool = False

    @property
    def capabilities(self) -> frozenset[Capability]:
        offered = {LABELS, REFIT}
        if self.answers in ("sigmoid", "softmax"):
            offered |= {SCORES, LOGITS}
        return frozenset(offered | {TREES} if self.exact_table else offered)

    @property
    def kind(self) -> str:
        return _boosting.maker(self.model) or "trees"

    def native_classes(self) -> tuple[Any, ...] | None:
        return None

    def digest(self) -> str:
        """Return the blake2b digest of the model as its library writes it to a file."""
        xgboost = self.kind == "XGBoost"
        raw = self.model.save_raw("ubj") if xgboost else self.model.model_to_string().encode()
        return hashlib.blake2b(raw, digest_size=32).hexdigest()

    def labels(self, x: Any) -> np.ndarray:
        if self.answers == "values":
            return _shared.real_values(self._asked(x, margin=False), len(x), f"the {self.kind} model")
        margins = self._margins(x)
        if self.n_outputs == 1:
            return (margins[:, 0] > 0).astype(np.int64)
        best: np.ndarray = margins.argmax(1)
        return best

    def scores(self, x: Any) -> np.ndarray:
        if SCORES not in self.capabilities:
            raise self._missing(SCORES)
        return softmax(self.logits(x))

    def logits(self, x: Any) -> np.ndarray:
        if LOGITS not in self.capabilities:
            raise self._missing(LOGITS)
        margins = self._margins(x)
        return two_columns(self.slope * margins) if self.answers == "sigmoid" else self.slope * margins

    def trees(self) -> NodeTable:
        if TREES not in self.capabilities:
            raise self._missing(TREES)
        table = self._table()
        if table is None:
            raise InvalidData(f"the trees of this {self.kind} model cannot be read")
        return table

    def refit(self, x: Any, y: np.ndarray, seed: int) -> Target:
        n = _shared.n_rows(x, self.schema)
        if len(y) != n:
            raise InvalidData(f"a refit needs one label a row; got {n} rows and {len(y)} labels")
        with user_code(f"{self.kind} training", "check the saved settings against the training rows"):
            train = _xgboost_again if self.kind == "XGBoost" else _lightgbm_again
            fresh = train(self.model, self._rows(x), np.asarray(y, np.float64), seed)
        return replace(self, model=fresh, source=None, claims=())

    def bind(self, data: Dataset) -> tuple[Target, Dataset]:
        """Agree with ``data``: find the model's columns and categories in it, and compare the node table."""
        if data.classes and self.schema is data.schema:
            return self, data
        schema = data.schema
        if schema.input != "table":
            raise InvalidData(f"a {self.kind} model takes a table; this data is {schema.input}")
        n_features = int(self.model.num_features() if self.kind == "XGBoost" else self.model.num_feature())
        where = _boosting.places(self.model, schema, n_features)
        codes = tuple(_boosting.codes(self.model, schema, where))
        told = replace(self, places=tuple(where), codes=codes)
        pairs = zip(schema.columns, told.codes, strict=True)
        if strange := [column.name for column, seen in pairs if seen is not None and np.isnan(seen).any()]:
            caveat = (
                f"column {strange[0]!r} holds categories the model never saw: it gets them as missing cells"
            )
            told = replace(told, caveats=(*told.caveats, caveat))
        if self.answers != "values":
            told = told._with_classes(data)
        bound, coded = super(TreesTarget, told).bind(data)
        if told.caveats[-1:] == (_boosting.guess(bound.classes),):  # the training labels may say it better
            asked = coded.train.take(np.arange(min(len(coded.train), 2000)))
            order = _boosting.matched(bound.labels(asked.x), asked.y, len(bound.classes))
            if order != sorted(order):
                names = tuple(bound.classes[i] for i in order)
                caveats = (*self.caveats, _boosting.guess(names))
                return replace(self, classes=names, caveats=caveats).bind(data)
        ready = cast(TreesTarget, bound)._believed(coded.train.x[:32])
        scored = ready.has(LOGITS)
        exact = _nodes.agrees(
            ready._table(),
            coded.train.x,
            ready.logits if scored else lambda rows: ready.labels(rows)[:, None],
            what="logits" if scored else "answers",
        )
        return replace(ready, exact_table=exact), coded

    def _believed(self, few: np.ndarray) -> TreesTarget:
        """Return this target, without its probabilities if they are not those the model itself gives."""
        if LOGITS not in self.capabilities:
            return self
        own, scores = np.asarray(self._asked(few, margin=False), np.float64), self.scores(few)
        if own.ndim == 1 and self.answers == "softmax":  # multi:softmax answers with class numbers
            same = (own == scores.argmax(1)).all()
        else:  # binary:logitraw answers with margins
            wanted = (scores,) if own.ndim == 2 else (scores[:, 1], self.logits(few)[:, 1])
            same = any(np.allclose(own, part, rtol=1e-6, atol=1e-6) for part in wanted)
        if same:
            return self
        caveat = "the model's own probabilities are not those of its margins: only its labels are used"
        return replace(self, answers="votes", caveats=(*self.caveats, caveat))

    def _table(self) -> NodeTable | None:
        return _nodes.table_in(self.model, self.schema, self.places, self.codes)

    def _with_classes(self, data: Dataset) -> TreesTarget:
        n_classes = max(2, self.n_outputs)
        if self.classes:
            return self
        seen = data.labels_seen()
        if all(isinstance(label, int) and 0 <= label < n_classes for label in seen):
            return replace(self, classes=tuple(range(n_classes)))
        if len(seen) != n_classes:
            raise InvalidData(
                f"the model has {n_classes} classes but the labels are {shortened(seen)}; "
                "wrap(model, classes=[...]) with the label of each class in order"
            )
        return replace(self, classes=seen, caveats=(*self.caveats, _boosting.guess(seen)))

    def _rows(self, x: Any) -> np.ndarray:
        """Return rows as the model's own columns and codes."""
        if self.schema is None:
            return np.asarray(x, np.float64)
        rows = np.array(x, np.float64, order="C")  # (n, d), a copy
        for i, (column, seen) in enumerate(zip(self.schema.columns, self.codes, strict=True)):
            if seen is None:
                continue
            if seen.ndim == 2:
                spot = np.minimum(np.searchsorted(seen[0], rows[:, i]), seen.shape[1] - 1)
                rows[:, i] = np.where(seen[0][spot] == rows[:, i], seen[1][spot], np.nan)
                continue
            hole = np.isnan(rows[:, i])
            code = np.where(hole, 0, rows[:, i]).astype(np.int64)
            if len(code) and (code.min() < 0 or code.max() >= max(1, len(seen))):
                raise InvalidData(f"column {column.name!r} has code {code.max()} but {len(seen)} categories")
            rows[:, i] = np.append(seen, np.nan)[np.where(hole, len(seen), code)]
        for i, dtype in enumerate(_boosting.stored(self.schema)):
            if dtype != "float64":
                rows[:, i] = rows[:, i].astype(dtype)
        return rows[:, list(self.places)]

    def _margins(self, x: Any) -> np.ndarray:
        raw = np.asarray(self._asked(x, margin=True), np.float64)
        margins = raw[:, None] if raw.ndim == 1 else raw
        if margins.shape[1] != self.n_outputs or not np.isfinite(margins).all():
            raise InvalidData(f"the {self.kind} model returned margins of shape {raw.shape} or not finite")
        return margins  # (n, outputs)

    def _asked(self, x: Any, *, margin: bool) -> Any:
        _shared.n_rows(x, self.schema)
        rows = self._rows(x)
        with user_code(f"the {self.kind} model", ADVICE):
            if self.kind == "XGBoost":  # in place: safe in several threads, and nothing is kept
                return self.model.inplace_predict(rows, predict_type="margin" if margin else "value")
            return self.model.predict(rows, raw_score=margin, num_threads=1)


def accepts(obj: Any) -> bool:
    """Tell whether ``obj`` is a Booster; neither library is imported for it.

    >>> accepts(len)
    False
    """
    return _boosting.maker(obj) is not None and type(obj).__name__ == "Booster"


def make(
    obj: Any,
    *,
    task: Task | None = None,
    classes: Sequence[Any] | None = None,
    recipe: Recipe | None = None,
    outputs: str | None = None,
    device: str | None = None,
) -> Target:
    """Make a target of a Booster.

    Raises:
        InvalidData: an objective whose outputs have no known meaning, or an option that does not apply.

    >>> import xgboost
    >>> rows = xgboost.DMatrix(np.arange(40.0)[:, None], np.arange(40) > 20)
    >>> make(xgboost.train({"objective": "binary:logistic"}, rows, 2)).kind
    'XGBoost'
    """
    kind = _boosting.maker(obj) or "trees"
    _shared.refuse(kind, "the model says what it returns; for refits by your own settings wrap the estimator",
                   recipe=recipe, outputs=outputs, device=None if device == "cpu" else device)  # fmt: skip
    with user_code(f"reading the {kind} model", "it must be trained"):
        read = _of_xgboost if kind == "XGBoost" else _of_lightgbm
        target = read(obj)
    regression = target.answers == "values"
    if regression and target.n_outputs > 1:
        raise InvalidData(f"the model predicts {target.n_outputs} values a row; wrap one model for each")
    if (task is not None and (task == "regression") != regression) or (regression and classes is not None):
        role = "a number" if regression else "classes"
        asked = f"task={task!r}" if task is not None else "classes="
        raise InvalidData(f"{asked} does not fit this {kind} model, whose objective predicts {role}")
    plain = _shared.plain_classes(classes)
    if plain and len(plain) != max(2, target.n_outputs):
        raise InvalidData(f"classes= names {len(plain)} labels; the model has {max(2, target.n_outputs)}")
    found: Task = "regression" if regression else "multiclass" if target.n_outputs > 2 else "binary"
    return replace(target, task=found, classes=plain)


def _meaning(objective: str) -> Answers:
    if objective not in OBJECTIVES:
        raise InvalidData(
            f"objective {objective!r} is not supported: what its outputs mean is not known; wrap a predict function"
        )
    return OBJECTIVES[objective]


def _of_xgboost(booster: Any) -> TreesTarget:
    model = booster.copy()
    model.set_param({"nthread": 1})
    learner = json.loads(model.save_config())["learner"]
    if (grown := learner["gradient_booster"]["name"]) not in ("gbtree", "dart"):
        raise InvalidData(f"booster={grown!r} grows no trees; wrap its estimator or a predict function")
    shape = learner["learner_model_param"]
    name = learner["objective"]["name"]
    rounds = model.num_boosted_rounds()
    rate = float(_settings_of(model)[0].get("eta", 0.3))
    caveat = (
        f"refits guess how the model was trained: {rounds} rounds, learning rate {rate:.3g}, as the model says; "
        "a model file of XGBoost keeps neither rate nor sampling, and its defaults stand in for them"
    )
    n_outputs = max(1, int(shape["num_class"]), int(shape.get("num_target", "1")))
    return TreesTarget(model=model, answers=_meaning(name), n_outputs=n_outputs, caveats=(caveat,))


def _settings_of(model: Any) -> tuple[dict[str, Any], int]:
    """Return the parameters and rounds by which an XGBoost model says it was trained, as far as it can."""
    learner = json.loads(model.save_config())["learner"]
    booster = learner["gradient_booster"]
    params: dict[str, Any] = {"objective": learner["objective"]["name"], "booster": booster["name"]}
    params |= {
        k: v for part in learner["objective"].values() if isinstance(part, dict) for k, v in part.items()
    }
    grown = booster.get("gbtree", booster)  # dart keeps its trees one level down
    params |= {
        k: v for k, v in grown.get("tree_train_param", {}).items() if k in GROWN and v not in ("", "()")
    }
    params |= booster.get("dart_train_param", {})
    rounds = max(1, model.num_boosted_rounds())
    forest = grown.get("gbtree_model_param", {}).get("num_parallel_tree", "1")
    params["num_parallel_tree"] = forest
    if int(learner["learner_model_param"]["num_class"]):
        params["num_class"] = learner["learner_model_param"]["num_class"]
    if int(params.get("max_depth", "6")) == 6:  # the default, also of a file that does not say
        depths = [line.count("\t") for tree in model.get_dump() for line in tree.splitlines()]
        params["max_depth"] = str(max(1, *depths)) if depths else "6"
    return params, rounds


def _xgboost_again(model: Any, rows: np.ndarray, y: np.ndarray, seed: int) -> Any:
    xgboost = needs("xgboost")
    params, rounds = _settings_of(model)
    types, names = model.feature_types, model.feature_names
    matrix = xgboost.DMatrix(
        rows, y, nthread=1, feature_names=names, feature_types=types, enable_categorical=True
    )
    params |= {"seed": seed % 2**31, "nthread": 1, "verbosity": 0, "disable_default_eval_metric": 1}
    return xgboost.train(params, matrix, rounds)


def _of_lightgbm(booster: Any) -> TreesTarget:
    model = needs("lightgbm").Booster(model_str=booster.model_to_string())
    header = model.model_to_string(num_iteration=1).split("\nTree=", 1)[0].split("\n")
    line = next((text for text in header if text.startswith("objective=")), "objective=custom")
    name, *options = line.removeprefix("objective=").split()
    slope = next((float(text[8:]) for text in options if text.startswith("sigmoid:")), 1.0)
    rounds = model.current_iteration()
    if "average_output" in header:  # a forest: its margins are sums, its answers come from means
        slope /= max(1, rounds)
    caveat = f"refits guess how the model was trained: {rounds} rounds by the settings it saved"
    return TreesTarget(
        model=model,
        answers=_meaning(name),
        n_outputs=model.num_model_per_iteration(),
        slope=slope,
        caveats=(caveat,),
    )


def _lightgbm_again(model: Any, rows: np.ndarray, y: np.ndarray, seed: int) -> Any:
    lightgbm = needs("lightgbm")
    saved = lightgbm.Booster(model_str=model.model_to_string()).params
    params = {name: value for name, value in saved.items() if name not in ELSEWHERE}
    params |= {
        "num_threads": 1,
        "seed": seed % 2**31,
        "deterministic": True,
        "verbosity": -1,
        "metric": "None",
    }
    columns = list(saved.get("categorical_feature") or [])
    matrix = lightgbm.Dataset(
        rows, y, feature_name=model.feature_name(), categorical_feature=columns, params={"verbosity": -1}
    )
    return lightgbm.train(params, matrix, max(1, model.current_iteration()))
