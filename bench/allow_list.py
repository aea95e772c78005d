# SPDX-License-Identifier: Apache-2.0
"""Which globals honest model files name, and in what role: the evidence behind ``core/pickles/allowed.toml``.

Fits every scikit-learn estimator on tiny data, XGBoost and LightGBM where they are installed, pickles each model by
several protocols, and prints ``role module name`` for all that the pickles name. A line here admits nothing: a person
reads what each class does when it is rebuilt, and writes the table.

    python bench/allow_list.py            # roles seen in fitted models
    python bench/allow_list.py --missing  # only what core/pickles/allowed.toml does not admit yet
"""

from __future__ import annotations

import io
import pickle
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

X = np.random.default_rng(0).uniform(0.1, 1, (60, 4))
Y = (X[:, 0] > 0.5).astype(int)
SEEN: dict[tuple[str, str], set[str]] = {}


class Logging(pickle._Unpickler):  # our own pickles only: made a line earlier
    dispatch = pickle._Unpickler.dispatch.copy()

    def find_class(self, module: str, name: str) -> Any:
        SEEN.setdefault((module, name), set())
        found = super().find_class(module, name)
        self.named = {**getattr(self, "named", {}), id(found): (module, name)}
        return found

    def _note(self, role: str, thing: Any) -> None:
        if id(thing) in getattr(self, "named", {}):
            SEEN[self.named[id(thing)]].add(role)

    def load_reduce(self) -> None:
        self._note("call", self.stack[-2])
        for item in self.stack[-1] if isinstance(self.stack[-1], tuple) else ():
            self._note("argument", item)
        super().load_reduce()

    def load_newobj(self) -> None:
        self._note("build" if not self.stack[-1] else "build+arguments", self.stack[-2])
        super().load_newobj()

    def load_newobj_ex(self) -> None:
        self._note("newobj_ex", self.stack[-3])
        super().load_newobj_ex()

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex


def estimators() -> Iterator[Any]:
    """Yield fitted models: every estimator that fits with defaults, and compositions by hand."""
    import pandas as pd
    from sklearn import (
        compose,
        feature_selection,
        metrics,
        model_selection,
        neighbors,
        pipeline,
        preprocessing,
        svm,
    )
    from sklearn.ensemble import RandomForestClassifier, StackingClassifier, VotingClassifier
    from sklearn.gaussian_process import GaussianProcessRegressor, kernels
    from sklearn.linear_model import LogisticRegression, SGDClassifier
    from sklearn.utils import all_estimators

    base = LogisticRegression()
    for _, kind in all_estimators():
        for made in (
            lambda kind=kind: kind(),
            lambda kind=kind: kind(base),
            lambda kind=kind: kind([("a", base), ("b", base)]),
            lambda kind=kind: kind(base, {"C": [0.1, 1.0]}),
        ):
            for y in (Y, X[:, 1], np.c_[Y, 1 - Y], X[:, 0] * 10):
                try:
                    yield made().fit(X, y)
                    break
                except Exception:  # noqa: BLE001  # not every estimator fits this data
                    continue
            else:
                continue
            break
    yield RandomForestClassifier(3, criterion="entropy", random_state=np.random.RandomState(0)).fit(X, Y)
    yield RandomForestClassifier(3, random_state=np.random.default_rng(0).integers(9)).fit(X, Y.astype(str))
    for loss in ("hinge", "log_loss", "modified_huber", "squared_hinge", "perceptron", "huber"):
        yield SGDClassifier(loss=loss).fit(X, Y)
    for metric in ("euclidean", "manhattan", "chebyshev", "minkowski", "haversine"):
        for tree in ("kd_tree", "ball_tree"):
            try:
                yield neighbors.KNeighborsClassifier(algorithm=tree, metric=metric).fit(X[:, :2], Y)
            except ValueError:
                continue
    kernel = kernels.RBF() * kernels.ConstantKernel() + kernels.WhiteKernel() + kernels.Matern() ** 2
    yield GaussianProcessRegressor(kernel + kernels.RationalQuadratic() * kernels.DotProduct()).fit(
        X, X[:, 0]
    )
    yield StackingClassifier([("a", base), ("b", svm.SVC())]).fit(X, Y)
    yield VotingClassifier([("a", base)], voting="soft").fit(X, Y)
    for cv in (model_selection.StratifiedKFold(3), model_selection.KFold(3), model_selection.RepeatedKFold()):
        yield model_selection.GridSearchCV(base, {"C": [0.1, 1.0], "solver": ["lbfgs"]}, cv=cv).fit(X, Y)
    for score in ("roc_auc", metrics.make_scorer(metrics.f1_score)):
        yield model_selection.RandomizedSearchCV(base, {"C": [0.1, 1.0]}, n_iter=2, scoring=score).fit(X, Y)
    frame = pd.DataFrame(
        {
            "a": X[:, 0],
            "b": np.where(Y, "x", "y"),
            "c": pd.Categorical(np.where(Y, "u", "v")),
            "d": pd.to_datetime(["2020-01-01"] * len(Y)),
            "e": Y.astype(bool),
        }
    )
    split = compose.ColumnTransformer(
        [
            ("n", preprocessing.StandardScaler(), ["a"]),
            ("o", preprocessing.OneHotEncoder(handle_unknown="ignore"), ["b", "c"]),
            ("i", preprocessing.OrdinalEncoder(), compose.make_column_selector(dtype_include="category")),
            ("f", preprocessing.FunctionTransformer(np.log1p), ["a"]),
            ("p", "passthrough", slice(4, 5)),
        ]
    )
    yield pipeline.make_pipeline(
        split, feature_selection.SelectKBest(feature_selection.f_classif, k=2), base
    ).fit(frame, Y)
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    hist = HistGradientBoostingClassifier(max_iter=3, categorical_features="from_dtype")
    yield hist.fit(frame[["a", "c"]], Y)
    for loss in ("squared_error", "absolute_error", "gamma", "poisson", "quantile"):
        yield HistGradientBoostingRegressor(max_iter=2, loss=loss, quantile=0.5).fit(X, X[:, 0])
    yield HistGradientBoostingClassifier(max_iter=2, early_stopping=True).fit(X, np.arange(60) % 3)
    split.set_output(transform="pandas")
    yield preprocessing.OneHotEncoder(sparse_output=False).fit(frame[["b", "c", "e"]])
    yield preprocessing.OneHotEncoder(categories=[["u", "v"]], dtype=np.float32).fit(frame[["c"]])
    yield {
        "model": base.fit(X, Y),
        "columns": ["a"],
        "index": frame.index,
        "scale": np.float64(2.0),
        "n": np.int64(3),
    }
    try:
        import xgboost as xgb

        for kind in (xgb.XGBClassifier, xgb.XGBRegressor, xgb.XGBRFClassifier, xgb.XGBRanker):
            extra = {"qid": np.zeros(60, int)} if kind is xgb.XGBRanker else {}
            yield kind(n_estimators=2, max_depth=2).fit(X, Y, **extra)
        yield xgb.train({"max_depth": 2}, xgb.DMatrix(X, Y), 2)
        yield pipeline.make_pipeline(preprocessing.StandardScaler(), xgb.XGBClassifier(n_estimators=2)).fit(
            X, Y
        )
    except ImportError:
        print("xgboost is not installed", file=sys.stderr)
    try:
        import lightgbm as lgb

        quiet = {"verbose": -1, "n_estimators": 2}
        yield lgb.LGBMClassifier(**quiet).fit(X, Y.astype(str))
        yield lgb.LGBMRegressor(**quiet).fit(frame[["a", "c"]], X[:, 0])
        yield lgb.LGBMRanker(**quiet).fit(X, Y, group=[60])
        yield lgb.train({"verbose": -1}, lgb.Dataset(X, Y), 2)
    except ImportError:
        print("lightgbm is not installed", file=sys.stderr)


def main() -> None:
    """Print what the models name."""
    warnings.simplefilter("ignore")
    n = 0
    for model in estimators():
        for protocol in (0, 2, 4, 5):
            try:
                Logging(io.BytesIO(pickle.dumps(model, protocol=protocol))).load()
            except Exception as error:  # noqa: BLE001 - it is printed
                print(f"{type(model).__name__} protocol {protocol}: {error}", file=sys.stderr)
        n += 1
    admitted = set()
    if "--missing" in sys.argv:
        from casemate.core.pickles.permits import admitted as names

        admitted = names()
    for (module, name), roles in sorted(SEEN.items()):
        if (module, name) not in admitted:
            print(",".join(sorted(roles)) or "reference", module, name)
    print(f"{n} models", file=sys.stderr)


if __name__ == "__main__":
    main()
