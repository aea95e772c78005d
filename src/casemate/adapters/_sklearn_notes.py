# SPDX-License-Identifier: Apache-2.0
"""What a scikit-learn estimator does that a reader of the report must know, and what no target can be made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from casemate.core.errors import InvalidData


def frozen_part(model: Any, parameters: Mapping[str, Any]) -> bool:
    """Tell whether a clone would keep what a part has learnt, or lack it: FrozenEstimator, cv="prefit", prefit=True.

    >>> from sklearn.ensemble import StackingClassifier
    >>> stack = StackingClassifier([], cv="prefit")
    >>> frozen_part(stack, stack.get_params())
    True
    """
    if any(type(part).__name__ == "FrozenEstimator" for part in (model, *parameters.values())):
        return True
    ends = [(name.split("__")[-1], value) for name, value in parameters.items()]
    return any(
        (name == "cv" and isinstance(value, str) and value == "prefit")
        or (name == "prefit" and value is True)
        for name, value in ends
    )


def of_refits(model: Any, parameters: Mapping[str, Any]) -> Iterator[str]:
    """Yield what refits of the model are not.

    >>> from sklearn.svm import SVC
    >>> [*of_refits(SVC(), {})]
    []
    """
    if any(value is True and path.split("__")[-1] == "warm_start" for path, value in parameters.items()):
        yield "warm_start=True: the model may have been trained in turns; refits train once, from scratch"
    frozen = frozen_part(model, parameters)
    if frozen:
        yield "a part of the model is frozen, and a clone would keep what it learnt: there are no refits"
    for part in () if frozen else (model, *parameters.values()):
        # a class among the settings has no settings of its own
        named = not isinstance(part, type) and hasattr(part, "get_params")
        if named and {"estimator", "refit", "cv"} <= set(part.get_params(deep=False)):
            yield (
                f"refits repeat the search of {type(part).__name__}, its folds and its choice; wrap best_estimator_ "
                "to repeat the training of what it chose alone"
            )
            break


def of_answers(model: Any, *, regression: bool) -> Iterator[str]:
    """Yield what answers of the fitted model are not.

    >>> from sklearn.svm import SVC
    >>> [said[:40] for said in of_answers(SVC(), regression=False)]
    ['SVC gives no probabilities, and its deci']
    """
    if not regression and not hasattr(model, "predict_proba"):
        yield (
            f"{type(model).__name__} gives no probabilities, and its decision values are none: it is asked for labels "
            "alone; CalibratedClassifierCV around it would give some"
        )


def refuse_several(name: str, raw: Any) -> None:
    """Refuse answers (n, outputs) of more than one output.

    >>> refuse_several("Ridge", np.zeros((4, 1)))
    """
    if np.ndim(raw) == 2 and np.shape(raw)[1] > 1:
        raise several(name)


def several(name: str) -> InvalidData:
    """Return the error of a model of several outputs.

    >>> str(several("Ridge"))
    'Ridge predicts several outputs a row; wrap one estimator for each'
    """
    return InvalidData(f"{name} predicts several outputs a row; wrap one estimator for each")


def of_chance(name: str, first: Any, second: Any) -> Iterator[str]:
    """Yield what two answers to the same rows say: whether they are drawn at random.

    >>> [*of_chance("DummyClassifier", [1, 0], [1, 0])]
    []
    """
    one, other = np.asarray(first), np.asarray(second)
    if one.dtype.kind == "f":
        same = bool(np.allclose(one, other, rtol=1e-6, equal_nan=True))
    else:
        same = np.array_equal(one, other)
    if not same:
        yield (
            f"{name} answers the same rows differently each time: its answers are drawn at random, and numbers that "
            "are measured of it cannot be repeated exactly"
        )
