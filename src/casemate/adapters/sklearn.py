# SPDX-License-Identifier: Apache-2.0
"""scikit-learn estimators as targets: classifiers, regressors, pipelines, searches, ensembles of them.

Estimators of XGBoost and LightGBM follow the same interface and come here too: see _boosting.py.
"""

from __future__ import annotations

import hashlib
import inspect
import pickle
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from casemate.adapters import _boosting, _nodes, _shared, _sklearn_notes
from casemate.core import rng
from casemate.core.data import Dataset
from casemate.core.errors import InvalidData
from casemate.core.extras import installed, needs
from casemate.core.nodes import NodeTable, two_columns
from casemate.core.schema import is_frame
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
    plain_label,
)
from casemate.training.isolation import seeded, user_code

ADVICE = "give it data of the columns and types it was trained on"


@dataclass(frozen=True, kw_only=True)
class SklearnTarget(Target):
    """An estimator and how to feed it. The estimator itself is never changed: refits work on a clone.

    SCORES where it has ``predict_proba``; LOGITS where its ``decision_function`` was seen, on rows of the data, to
    be the logits of those probabilities; TREES where the node table was seen to give the same; REFIT unless a part
    of it is frozen. Predictions run on one thread, so that their bytes do not depend on ``n_jobs``.

    >>> from sklearn.linear_model import LogisticRegression
    >>> model = LogisticRegression().fit([[0.0], [1.0]], ["no", "yes"])
    >>> make(model).native_classes()
    ('no', 'yes')
    """

    model: Any
    # how rows reach the model: as the data came, as a bare array, or under the names the model was fitted with
    form: Literal["native", "array", "named"] = "native"
    exact_logits: bool = False  # decision_function was compared with predict_proba
    exact_table: bool = False  # the node table was compared with the model
    numbered: tuple[
        Any, ...
    ] = ()  # the labels that class numbers 0, 1, ... stand for (XGBoost knows numbers only)
    cast: tuple[
        tuple[str, tuple[Any, ...]], ...
    ] = ()  # columns the model knows as categories, the data as plain
    changed: Any = None  # an unfitted estimator that refits clone in place of the model (with_recipe)
    another: bool = False  # ... and which is another model than this: how to ask it is not known yet

    @property
    def capabilities(self) -> frozenset[Capability]:
        offered = {LABELS}
        if not _frozen_part(self.model):
            offered.add(REFIT)
        if self._scored:
            offered.add(SCORES)
            if self.exact_logits:
                offered.add(LOGITS)
        if self.exact_table:
            offered.add(TREES)
        return frozenset(offered)

    @property
    def _scored(self) -> bool:
        scored = self.task != "regression" and hasattr(self.model, "predict_proba")
        return scored and not _boosting.one_against_rest(self.model)

    @property
    def kind(self) -> str:
        return _boosting.maker(self.model) or "scikit-learn"

    def native_classes(self) -> tuple[Any, ...] | None:
        if self.numbered:
            return self.numbered
        found = getattr(self.model, "classes_", None)
        if found is None or self.task == "regression":
            return None
        if isinstance(found, list) or np.ndim(found) != 1:
            raise _sklearn_notes.several(type(self.model).__name__)
        return tuple(plain_label(label) for label in found)

    def digest(self) -> str:
        """Return the blake2b digest of the estimator's pickle, written without identities and padding."""
        # fast: no memo of identities; it cannot write an object that contains itself
        for fast in (True, False):
            sink = _Sink()
            pickler = _Pickler(sink, protocol=5)
            pickler.fast = fast
            try:
                pickler.dump(self.model)
            except (ValueError, RecursionError):
                if fast:
                    continue
                raise
            except (pickle.PicklingError, TypeError, AttributeError):
                return (
                    self._digest_by_value()
                )  # a lambda or a class defined in a session has no name to write
            break
        return sink.hash.hexdigest()

    def _digest_by_value(self) -> str:
        # joblib brings cloudpickle: beside itself since 1.6, inside itself before
        home = "cloudpickle" if installed("cloudpickle") else "joblib.externals.cloudpickle"
        try:
            return hashlib.blake2b(needs(home).dumps(self.model), digest_size=32).hexdigest()
        except Exception as error:
            raise InvalidData(
                f"the model cannot be pickled, so it has no digest: {error}; define its functions in a module"
            ) from error

    def labels(self, x: Any) -> np.ndarray:
        raw, n = self._asked("predict", x)
        if self.task == "regression":
            return _shared.real_values(raw, n, self._name("predict"))
        if self.numbered:
            numbers = tuple(range(len(self.numbered)))
            best: np.ndarray = self._places()[_shared.class_indices(raw, n, numbers, self._name("predict"))]
            return best
        return _shared.class_indices(raw, n, self._classes, self._name("predict"))

    def scores(self, x: Any) -> np.ndarray:
        if not self._scored:  # not capabilities: that walks through all parameters of the model
            raise self._missing(SCORES)
        raw, n = self._asked("predict_proba", x)
        places = self._places()
        given = _shared.probabilities(raw, n, len(places), self._name("predict_proba"))
        if places.tolist() == list(range(len(self._classes))):
            return given
        scores = np.zeros((n, len(self._classes)))
        scores[:, places] = given
        return scores  # (n, classes); a class the model never saw keeps probability 0

    def logits(self, x: Any) -> np.ndarray:
        if not (self.exact_logits and self._scored):
            raise self._missing(LOGITS)
        found = self._margins(x)
        logits = np.full((len(found), len(self._classes)), -np.inf)
        logits[:, self._places()] = found
        return logits

    def trees(self) -> NodeTable:
        if TREES not in self.capabilities:
            raise self._missing(TREES)
        table = self._table()
        if table is None:
            raise InvalidData(f"the trees of this {type(self.model).__name__} cannot be read")
        return (
            table if self.task == "regression" else table.placed(self._places().tolist(), len(self._classes))
        )

    def refit(self, x: Any, y: np.ndarray, seed: int) -> Target:
        return self.refit_people(x, y, seed, person=None)

    def refit_people(self, x: Any, y: np.ndarray, seed: int, *, person: np.ndarray | None) -> Target:
        if not self.another:
            return self._refitted(x, y, seed, person)
        # how this model is asked says nothing of the other: that is found out from the fitted one
        fresh = replace(
            self, model=self.changed, changed=None, another=False, numbered=(), cast=(), form="native"
        )
        fresh = replace(fresh, exact_logits=False, exact_table=False)._refitted(x, y, seed, person)
        fresh = replace(fresh, exact_logits=fresh._logits_hold(x[:32]))
        return replace(fresh, exact_table=fresh._table_holds(x))

    def _refitted(self, x: Any, y: np.ndarray, seed: int, person: np.ndarray | None) -> SklearnTarget:
        if REFIT not in self.capabilities:
            raise self._missing(REFIT)
        n = _shared.n_rows(x, self.schema)
        if len(y) != n:
            raise InvalidData(f"a refit needs one label a row; got {n} rows and {len(y)} labels")
        numbered: tuple[Any, ...] = ()
        labels: np.ndarray
        if self.task == "regression":
            labels = np.asarray(y, np.float64)
        elif _numbers_only(self.model):
            seen, labels = np.unique(y, return_inverse=True)
            numbered = tuple(self._classes[i] for i in seen)
        else:
            labels = self._trained_labels()[y]
        settings = _boosting.again(self.model, _parameters(self.model), len(numbered))
        fresh = _fitted_clone(self._trainable, self._rows(x), labels, seed, settings=settings, person=person)
        return replace(self, model=fresh, numbered=numbered, changed=None, source=None, claims=())

    def settings(self) -> Mapping[str, Any]:
        return _parameters(self._trainable)

    def with_recipe(self, recipe: Recipe | Mapping[str, Any]) -> Target:
        from sklearn.base import clone

        if isinstance(recipe, Recipe):
            raise InvalidData("a scikit-learn target carries its own recipe; change settings of it by name")
        if accepts(recipe):
            return replace(self, changed=clone(recipe), another=True)
        with user_code(f"{type(self.model).__name__}.set_params", "name settings that the estimator has"):
            changed = clone(self._trainable).set_params(**recipe)
        return replace(self, changed=changed)

    @property
    def _trainable(self) -> Any:
        return self.model if self.changed is None else self.changed

    def trained(self, data: Dataset, seed: int) -> Target:
        return fitted(self, data, seed)[0]

    def bind(self, data: Dataset) -> tuple[Target, Dataset]:
        """Agree with ``data`` and look, on a few rows, how the model wants them and what its scores are."""
        if data.classes and self.schema is data.schema:
            return self, data
        noted = self._looked(data) if _is_fitted(self.model) else ()
        bound, coded = super(SklearnTarget, self._with_labels(data)).bind(data)
        if not isinstance(bound, SklearnTarget) or not _is_fitted(self.model):
            return bound, coded
        cast = _boosting.uncast(self.model, data.schema)
        bound = replace(bound, cast=cast, caveats=tuple(dict.fromkeys((*bound.caveats, *noted))))
        unknown = [label for label in bound.native_classes() or () if label not in bound.classes]
        if unknown:
            raise InvalidData(f"classes= lacks {unknown[0]!r}, which the model knows; name all its classes")
        few = coded.train.x[:32]
        bound = replace(bound, form=bound._wanted_form(few[:1]))
        if bound.numbered and not self.numbered:  # guessed: the training labels may say it better
            asked = coded.train.take(np.arange(min(len(coded.train), 2000)))
            order = _boosting.matched(bound.labels(asked.x), asked.y, len(bound.classes))
            if order != sorted(order):
                names = tuple(bound.classes[i] for i in order)
                told = replace(self, numbered=names, caveats=(*self.caveats, _boosting.guess(names)))
                return told.bind(data)
        bound = replace(bound, exact_logits=bound._logits_hold(few))
        return replace(bound, exact_table=bound._table_holds(coded.train.x)), coded

    def _looked(self, data: Dataset) -> tuple[str, ...]:
        """Refuse a model of several outputs a row, and say of another whether its answers are drawn at random."""
        first, name = data.train.x[:32], type(self.model).__name__
        rows = list(first) * 8 if isinstance(first, list) else np.concatenate([first] * 8)
        seen = replace(self, schema=data.schema)
        answers = []
        for seed in (1, 2):
            with warnings.catch_warnings(), seeded(seed):
                warnings.simplefilter("ignore")  # the form that the model wants is found out later
                try:
                    answers.append(seen._asked("predict", rows)[0])
                except InvalidData:  # rows that the model does not take: what is asked later says so better
                    return ()
            _sklearn_notes.refuse_several(name, answers[0])
        return tuple(_sklearn_notes.of_chance(name, *answers))

    def _with_labels(self, data: Dataset) -> SklearnTarget:
        """Guess what labels the class numbers of XGBoost stand for, where the data has others."""
        if self.classes or self.numbered or self.task == "regression" or not _numbers_only(self.model):
            return self
        own, seen = self.native_classes() or (), data.labels_seen()
        if len(own) != len(seen) or set(own) == set(seen):
            return self
        return replace(self, numbered=seen, caveats=(*self.caveats, _boosting.guess(seen)))

    @property
    def _classes(self) -> tuple[Any, ...]:
        return self.classes or self.native_classes() or ()

    def _places(self) -> np.ndarray:
        """Return where each of the model's own classes stands among the target's."""
        own = self.native_classes() or ()
        return np.array([self._classes.index(label) for label in own], np.int64)

    def _trained_labels(self) -> np.ndarray:
        """Return the labels by class index, in the dtype the model was trained on."""
        own = getattr(self.model, "classes_", None)
        if own is not None and len(own) == len(self._classes):
            return np.asarray(own)[np.argsort(self._places())]
        return np.array(self._classes)

    def _name(self, method: str) -> str:
        return f"{type(self.model).__name__}.{method}"

    def _rows(self, x: Any) -> Any:
        """Rebuild what the estimator was trained on: the user's frame, its columns in the model's order."""
        rows = x if self.schema is None else self.schema.decode(x)
        names = list(getattr(self.model, "feature_names_in_", ()))
        if not is_frame(rows):
            if self.form == "named" and np.shape(rows)[1] == len(names):
                import pandas as pd

                return pd.DataFrame(rows, columns=names)
            return rows
        import narwhals.stable.v2 as nw

        frame = nw.from_native(rows, eager_only=True)
        if self.form == "array":
            return frame.to_numpy()
        if frame.columns != names and sorted(frame.columns) == sorted(names):
            rows = frame.select(names).to_native()
        return _boosting.recast(rows, self.cast) if self.cast else rows

    def _asked(self, method: str, x: Any, **options: Any) -> tuple[Any, int]:
        from joblib import parallel_config

        n = _shared.n_rows(x, self.schema)
        rows = self._rows(x)
        if self.kind == "LightGBM":
            options["num_threads"] = 1
        # several threads add up the trees of a forest in any order: one thread gives the same bytes again
        with user_code(self._name(method), ADVICE), parallel_config(backend="sequential"):
            return getattr(self.model, method)(rows, **options), n

    def _margins(self, x: Any) -> np.ndarray:
        """Return what the model calls its decision values, as logits (n, classes of the model)."""
        ways = {"XGBoost": ("predict", {"output_margin": True}), "LightGBM": ("predict", {"raw_score": True})}
        method, options = ways.get(self.kind, ("decision_function", {}))
        return _two_columns(self._asked(method, x, **options)[0])

    def _table(self) -> NodeTable | None:
        return _nodes.table_of(_bare(self.model), self.schema, by_name=self.form == "native")

    def _table_holds(self, x: Any) -> bool:
        """Tell whether the node table gives what the model gives, on rows of the data and at its own thresholds."""
        if self.schema is None or self.schema.input != "table" or (own := self._table()) is None:
            return False
        if self.task == "regression":
            return _nodes.agrees(own, x, lambda rows: self.labels(rows)[:, None], what="answers")
        table = own.placed(self._places().tolist(), len(self._classes))
        if self.exact_logits and len(self._places()) == len(self._classes):
            return _nodes.agrees(table, x, self.logits, what="logits")
        return SCORES in self.capabilities and _nodes.agrees(table, x, self.scores, what="answers")

    def _wanted_form(self, few: Any) -> Literal["native", "array", "named"]:
        """Tell how to feed the model without a warning about feature names."""
        if not is_frame(self._rows(few)):
            return "named" if hasattr(self.model, "feature_names_in_") else "native"
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            self.labels(few)
        bare = any("was fitted without feature names" in str(item.message) for item in said)
        return "array" if bare else "native"

    def _logits_hold(self, few: Any) -> bool:
        """Tell whether ``decision_function`` gives the logits of ``predict_proba`` on a few rows."""
        known = _boosting.maker(self.model)
        if SCORES not in self.capabilities or not (known or hasattr(self.model, "decision_function")):
            return False
        try:
            logits = self._margins(few)  # (n, classes)
        except InvalidData:  # a search or pipeline may announce a method that its model lacks
            return False
        scores = self.scores(few)[:, self._places()]
        if logits.shape != scores.shape or not np.isfinite(logits).all():
            return False
        odds = np.exp(logits - logits.max(1, keepdims=True))
        slack = 1e-6 if known == "XGBoost" else 1e-9  # its probabilities are float32
        return bool(np.allclose(odds / odds.sum(1, keepdims=True), scores, rtol=1e-6, atol=slack))


def accepts(obj: Any) -> bool:
    """Tell whether ``obj`` follows scikit-learn's estimator interface.

    >>> from sklearn.tree import DecisionTreeClassifier
    >>> accepts(DecisionTreeClassifier()), accepts(len)
    (True, False)
    """
    return hasattr(obj, "get_params") and hasattr(obj, "fit")


def make(
    obj: Any,
    *,
    task: Task | None = None,
    classes: Sequence[Any] | None = None,
    recipe: Recipe | None = None,
    outputs: str | None = None,
    device: str | None = None,
) -> Target:
    """Make a target of an estimator, fitted or not.

    Raises:
        InvalidData: a class instead of an instance, an estimator that predicts nothing, an option that does not apply.

    >>> from sklearn.linear_model import Ridge
    >>> make(Ridge()).task
    'regression'
    """
    if isinstance(obj, type):
        raise InvalidData(f"{obj.__name__} is a class; wrap an instance of it: {obj.__name__}()")
    if not hasattr(obj, "predict") and (_is_fitted(obj) or not hasattr(type(obj), "predict")):
        raise InvalidData(f"{type(obj).__name__} has no predict; wrap a classifier or regressor")
    _shared.refuse("scikit-learn", "the estimator says how it is trained and what it returns",
                   recipe=recipe, outputs=outputs, device=None if device == "cpu" else device)  # fmt: skip
    regression = _is_regressor(obj)
    if task is not None and (task == "regression") != regression:
        role = "a regressor" if regression else "a classifier"
        raise InvalidData(f"task={task!r} does not fit {type(obj).__name__}, which is {role}")
    target = SklearnTarget(model=obj, task="regression" if regression else task or "multiclass")
    if regression and classes is not None:
        raise InvalidData(f"classes= does not apply to {type(obj).__name__}, which is a regressor")
    own = target.native_classes()
    if task is None and own is not None and len(own) == 2:
        target = replace(target, task="binary")
    caveats = list(_boosting.stopped(obj, _parameters(obj)))
    caveats += _sklearn_notes.of_refits(obj, _parameters(obj))
    if _is_fitted(obj):
        caveats += _sklearn_notes.of_answers(obj, regression=regression)
    plain = _shared.plain_classes(classes)
    numbered = (
        plain
        if own is not None and len(plain) == len(own) and _numbers_only(obj) and set(plain) != set(own)
        else ()
    )
    return replace(target, classes=plain, numbered=numbered, caveats=tuple(caveats))


def fitted(target: Target, data: Dataset, seed: int) -> tuple[Target, str]:
    """Return a target whose estimator is fitted, training a clone on ``data.train`` if it is not yet.

    Args:
        target: any target; only an unfitted scikit-learn one changes.
        data: bound or not; seed: for the ``random_state`` values that the user left open.

    Returns:
        The target, and one sentence for the report (empty if nothing was done), also among its caveats.

    >>> from sklearn.tree import DecisionTreeClassifier
    >>> data = Dataset(train=([[0.0], [1.0]], [0, 1]), holdout=([[0.0]], [0]))
    >>> fitted(make(DecisionTreeClassifier()), data, 0)[1]
    'the estimator was not fitted: Casemate fitted it on the training rows (seed 0)'
    """
    if not isinstance(target, SklearnTarget) or _is_fitted(target.model):
        return target, ""
    note = f"the estimator was not fitted: Casemate fitted it on the training rows (seed {seed})"
    labels = (
        np.array(data.classes)[data.train.y] if data.classes and target.task != "regression" else data.train.y
    )
    rows = replace(target, schema=data.schema)._rows(data.train.x)
    numbered: tuple[Any, ...] = ()
    if target.task != "regression" and _numbers_only(target.model):
        seen, labels = np.unique(labels, return_inverse=True)
        numbered = tuple(plain_label(label) for label in seen.tolist())
    settings = _boosting.again(target.model, _parameters(target.model), len(numbered))
    model = _fitted_clone(target.model, rows, labels, seed, keep=True, settings=settings)
    told = _sklearn_notes.of_answers(model, regression=target.task == "regression")
    return replace(target, model=model, numbered=numbered, caveats=(*target.caveats, note, *told)), note


def _fitted_clone(
    model: Any,
    rows: Any,
    labels: np.ndarray,
    seed: int,
    *,
    keep: bool = False,
    settings: Mapping[str, Any] | None = None,
    person: np.ndarray | None = None,
) -> Any:
    """Fit a clone on one thread, every ``random_state`` in it from ``seed`` (``keep``: only those left open)."""
    from joblib import parallel_config
    from sklearn.base import clone

    name = f"{type(model).__name__}.fit"
    with user_code(name, "check the estimator's settings against the training rows"):
        fresh = clone(model)
        changes: dict[str, Any] = {}
        for path, value in _parameters(fresh).items():
            last = path.split("__")[-1]
            if last == "random_state" and not (keep and value is not None):
                changes[path] = rng.child_seed(seed, path)
            elif last == "n_jobs" and value is not None:  # None means one, and some warn about anything else
                changes[path] = 1
            elif (
                last == "memory" and value is not None
            ):  # a cache on disk is unpickled: who wrote it is not known
                changes[path] = None
        fresh.set_params(**(changes | dict(settings or {})))
        with seeded(seed), parallel_config(backend="sequential"):
            if person is not None and "person" in inspect.signature(fresh.fit).parameters:
                fresh.fit(rows, labels, person=person)
            else:
                fresh.fit(rows, labels)
    return fresh


def _parameters(model: Any) -> dict[str, Any]:
    found: dict[str, Any] = model.get_params(deep=True)
    return found


def _frozen_part(model: Any) -> bool:
    return _sklearn_notes.frozen_part(model, _parameters(model))


def _is_fitted(model: Any) -> bool:
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(model)
    except NotFittedError:
        return False
    except TypeError:  # follows the interface without deriving from it: believe its attributes
        return any(name.endswith("_") and not name.startswith("_") for name in vars(model))
    return True


def _is_regressor(model: Any) -> bool:
    from sklearn.base import is_regressor

    try:
        return bool(is_regressor(model))
    except (AttributeError, TypeError):  # no estimator tags: a classifier shows itself by its classes
        return not (hasattr(model, "predict_proba") or hasattr(model, "classes_"))


def _two_columns(raw: Any) -> np.ndarray:
    """Return decision values as logits (n, classes): one value z a row stands for [0, z]."""
    values = np.asarray(raw, np.float64)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    return two_columns(values[:, None]) if values.ndim == 1 else values


def _bare(model: Any) -> Any:
    """Return the one model that a search or a pipeline of one step asks."""
    while (steps := getattr(model, "steps", ())) or hasattr(model, "best_estimator_"):
        if len(steps) > 1:
            return model
        model = steps[0][1] if steps else model.best_estimator_
    return model


def _numbers_only(model: Any) -> bool:
    """Tell whether the model must be given class numbers 0, 1, ... instead of labels."""
    while steps := getattr(model, "steps", ()):
        model = steps[-1][1]
    return _boosting.maker(model) == "XGBoost" and hasattr(model, "predict_proba")


class _Sink:
    """A file that keeps only the hash of what is written to it."""

    def __init__(self) -> None:
        self.hash = hashlib.blake2b(digest_size=32)

    def write(self, data: Any) -> int:
        self.hash.update(data)
        return memoryview(data).nbytes  # large arrays arrive as buffers without a length


class _Pickler(pickle.Pickler):
    """Leaves out what is not the model: bytes between fields of tree nodes, seconds of a search, counts of queries."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is np.ndarray and obj.dtype.names:
            return tuple, ([np.ascontiguousarray(obj[name]) for name in obj.dtype.names],)
        if hasattr(obj, "get_tree_stats") and hasattr(
            obj, "get_arrays"
        ):  # neighbour trees count their queries
            return tuple, ([type(obj).__qualname__, *(np.array(part) for part in obj.get_arrays())],)
        # a Bunch has attributes beside its items until it is read back
        if type(obj).__name__ == "Bunch" and isinstance(obj, dict):
            return tuple, ([type(obj).__qualname__, dict(obj)],)
        if hasattr(obj, "best_estimator_") and "cv_results_" in vars(obj):
            kept = {
                name: value for name, value in vars(obj).items() if name not in ("cv_results_", "refit_time_")
            }
            return tuple, ([type(obj).__qualname__, kept],)
        return NotImplemented
