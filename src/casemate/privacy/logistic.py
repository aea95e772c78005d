# SPDX-License-Identifier: Apache-2.0
"""Logistic regression by noisy gradient steps, as a scikit-learn estimator that takes the user's rows.

Everything the fitted estimator holds is public (columns, bounds, classes, plan) or noisy (the coefficients): it keeps
no mean, spread, category or count of the data. A step releases one noisy sum: the gradients of all rows of a unit are
added up, the sum is clipped to ``plan.clip``, the units are added up, and Gaussian noise of ``plan.noise_multiplier *
plan.clip`` goes on every coordinate. One unit more or less moves the sum by at most ``plan.clip``. The number of units,
by which the sum is divided, is a noisy count of its own. What follows from these (momentum, averaging) is free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from casemate.core.errors import GuaranteeVoid, InvalidData
from casemate.core.schema import Column, Schema, is_hole
from casemate.privacy.plan import Plan
from casemate.training import secure


@dataclass(frozen=True, kw_only=True)
class PublicColumn:
    """What anybody may know of a column: its name, and its bounds or its categories.

    >>> PublicColumn(name="age", low=0.0, high=110.0).width
    2
    """

    name: str
    low: float = 0.0
    high: float = 1.0
    categories: tuple[Any, ...] | None = None

    @property
    def width(self) -> int:
        """How many features it becomes: one a category, or a number and a sign that it is missing."""
        return 2 if self.categories is None else len(self.categories)

    def features(self, values: np.ndarray) -> np.ndarray:
        """Return (n, width) in [0, 1] of encoded cells (n,), NaN where missing."""
        hole = np.isnan(values)
        if self.categories is not None:
            return (values[:, None] == np.arange(self.width)).astype(np.float64)
        scaled = np.clip((values - self.low) / ((self.high - self.low) or 1.0), 0.0, 1.0)
        return np.stack([np.where(hole, 0.0, scaled), hole.astype(np.float64)], axis=1)


class NoisyLogistic(ClassifierMixin, BaseEstimator):
    """Logistic regression under a :class:`~casemate.privacy.plan.Plan`; without one, the exact optimum and no promise.

    Args:
        columns: what is public of each column, in any order.
        classes: the labels that are possible; a public list, since which of them occur would tell of people.
        plan: unit, clipping, noise and steps; None for a fit without privacy.
        learning_rate, momentum: of the steps. penalty: half of it times the squared weights is added to the loss.

    >>> model = NoisyLogistic(columns=(PublicColumn(name="x0"),), classes=("no", "yes"))
    >>> model.fit(np.array([[0.1], [0.9]]), ["no", "yes"]).predict(np.array([[0.8]]))
    array(['yes'], dtype='<U3')
    """

    def __init__(
        self,
        *,
        columns: Sequence[PublicColumn],
        classes: Sequence[Any],
        plan: Plan | None = None,
        learning_rate: float = 1.0,
        momentum: float = 0.9,
        penalty: float = 1.0,
    ) -> None:
        self.columns = columns
        self.classes = classes
        self.plan = plan
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.penalty = penalty

    def fit(self, X: Any, y: Any, *, person: Any = None) -> Self:
        """Train on rows ``X`` with labels ``y``; ``person`` (n,) says whose row each is.

        Raises:
            GuaranteeVoid: the plan is per person and ``person`` is missing.
            InvalidData: labels outside ``classes``, rows that do not fit ``columns``.
        """
        design, labels = self._design(X), np.asarray(y)
        self.classes_ = np.array(self.classes)
        target = labels[:, None] == self.classes_  # (n, classes)
        if len(labels) != len(design) or not target.any(1).all():
            raise InvalidData(f"fit needs one label of {list(self.classes)} a row")
        if self.plan is None:
            weights = _exact(design, target.argmax(1), len(self.classes), self.penalty)
        else:
            if self.plan.unit == "person" and person is None:
                raise GuaranteeVoid(
                    "the plan protects people but the training was not told whose row each is; give person= (a wrapper "
                    "of the target must pass it on: Target.refit_people)"
                )
            owner = np.arange(len(design)) if self.plan.unit == "record" else np.asarray(person)
            if owner.shape != (len(design),):
                raise InvalidData(
                    f"person has {len(owner)} entries for {len(design)} rows, or is no plain list"
                )
            if any(is_hole(one) for one in owner.tolist()):  # each would count as a person of its own
                raise GuaranteeVoid("person contains missing values; give every row an owner")
            weights = descend(
                design,
                target[:, 1:] if len(self.classes) == 2 else target,
                owner,
                self.plan,
                source=secure.source(),
                learning_rate=self.learning_rate,
                momentum=self.momentum,
                penalty=self.penalty,
            )
        self.intercept_, self.coef_ = weights[:, 0], weights[:, 1:]
        self.n_features_in_ = len(self.columns)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Return log odds (n,) of two classes, or logits (n, classes) of more."""
        check_is_fitted(self)
        found = self._design(X)[:, 1:] @ self.coef_.T + self.intercept_
        return found[:, 0] if len(self.classes_) == 2 else found

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return class probabilities (n, classes)."""
        found = self.decision_function(X)
        return _probabilities(found[:, None] if found.ndim == 1 else found, both=True)

    def predict(self, X: Any) -> np.ndarray:
        """Return labels (n,)."""
        scores = self.predict_proba(X)
        return self.classes_[scores.argmax(1)]

    def _design(self, X: Any) -> np.ndarray:
        """Return the rows as features (n, 1 + d) in [0, 1], the first of them 1."""
        columns = tuple(
            Column(
                name=c.name,
                kind="real" if c.categories is None else "category",
                categories=c.categories or (),
            )
            for c in self.columns
        )
        cells = Schema(columns=columns).encode(X)  # (n, columns)
        parts = [column.features(cells[:, i]) for i, column in enumerate(self.columns)]
        return np.concatenate([np.ones((len(cells), 1)), *parts], axis=1)


def descend(
    design: np.ndarray,
    target: np.ndarray,
    owner: np.ndarray,
    plan: Plan,
    *,
    source: secure.Source,
    learning_rate: float = 1.0,
    momentum: float = 0.9,
    penalty: float = 1.0,
) -> np.ndarray:
    """Return weights (k, p): the mean of the second half of ``plan.steps`` noisy gradient steps from zero.

    Args:
        design: (n, p), the first column 1; target: (n, k), one column for two classes, else one a class.
        owner: (n,) whose row it is; plan: what each step may show; source: of the noise.
    """
    if plan.sampler != "all" or plan.counts != 1:
        raise GuaranteeVoid(
            "these steps take all units and count them once: the plan must say sampler='all', counts=1"
        )
    order = np.argsort(owner, kind="stable")
    design, target, owner = design[order], target[order].astype(np.float64), owner[order]
    starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])[: len(owner)]  # where each unit begins
    n_units = noisy_count(len(starts), plan, source)
    weights = np.zeros((target.shape[1], design.shape[1]))
    speed, total = np.zeros_like(weights), np.zeros_like(weights)
    decay = np.r_[0.0, np.full(design.shape[1] - 1, penalty)]  # the intercept is free, as in scikit-learn
    kept = range(plan.steps // 2, plan.steps)
    for step in range(plan.steps):
        gradients = unit_gradients(design, target, weights, starts)
        moved = noisy_sum(gradients, plan, source).reshape(weights.shape)
        speed = momentum * speed + (moved + decay * weights) / (n_units * plan.clip)
        weights = weights - learning_rate * speed
        total += weights if step in kept else 0.0
    return total / len(kept)


def unit_gradients(
    design: np.ndarray, target: np.ndarray, weights: np.ndarray, starts: np.ndarray
) -> np.ndarray:
    """Return the gradient of the log loss, added up over the rows of each unit (units, k * p), not yet clipped.

    Rows stand unit by unit; ``starts`` are the places where each begins.
    """
    residual = _probabilities(design @ weights.T, both=False) - target  # (n, k)
    rows = (residual[:, :, None] * design[:, None, :]).reshape(len(design), weights.size)
    return np.asarray(np.add.reduceat(rows, starts, axis=0))


def noisy_sum(gradients: np.ndarray, plan: Plan, source: secure.Source) -> np.ndarray:
    """Return the sum (p,) of one gradient a unit (units, p), each clipped to ``plan.clip``, plus its noise."""
    noise = plan.noise_multiplier * plan.clip * source.gaussians(gradients.shape[1])
    return np.asarray(clipped(gradients, plan.clip).sum(0) + noise)


def noisy_count(n_units: int, plan: Plan, source: secure.Source) -> float:
    """Return the number of units plus noise, not below what the noise alone would give."""
    return max(
        n_units + plan.noise_multiplier * float(source.gaussians(1)[0]), 2.0 * plan.noise_multiplier, 1.0
    )


def clipped(gradients: np.ndarray, clip: float) -> np.ndarray:
    """Return rows (units, p) of norm at most ``clip``; a row that is not finite becomes zero.

    >>> clipped(np.array([[3.0, 4.0], [0.3, 0.4], [np.nan, 1.0]]), 1.0).round(3).tolist()
    [[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]
    """
    with np.errstate(over="ignore"):  # squares may overflow where the cells do not
        norm = np.linalg.norm(gradients, axis=1, keepdims=True)  # (units, 1)
    known = np.isfinite(norm)
    factor = np.minimum(1.0, clip / np.maximum(np.where(known, norm, 1.0), 1e-300))
    return np.where(known, gradients, 0.0) * factor


def _probabilities(logits: np.ndarray, *, both: bool) -> np.ndarray:
    """Return class probabilities (n, k) of logits (n, k); of one logit a row the second class's, or ``both``."""
    if logits.shape[1] == 1:
        with np.errstate(over="ignore"):
            second = 1.0 / (1.0 + np.exp(-logits))
        return np.concatenate([1.0 - second, second], axis=1) if both else second
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(odds / odds.sum(1, keepdims=True))


def _exact(design: np.ndarray, codes: np.ndarray, n_classes: int, penalty: float) -> np.ndarray:
    """Return the weights (k, p) of scikit-learn's own fit; a class that does not occur gets probability 0."""
    from sklearn.linear_model import LogisticRegression

    seen = np.unique(codes)
    if len(seen) < 2:
        raise InvalidData("a logistic regression needs two classes in its training rows; got one")
    solver = "newton-cholesky" if len(seen) == 2 else "lbfgs"
    model = LogisticRegression(C=1.0 / penalty, solver=solver, tol=1e-12, max_iter=2000)
    model.fit(design[:, 1:], codes)
    if n_classes == 2:
        return np.hstack([model.intercept_[:, None], model.coef_])
    two = len(seen) == 2  # of more: one row says how far the second is above the first
    found = np.hstack([model.intercept_[:, None], model.coef_])
    weights = np.zeros((n_classes, design.shape[1]))
    weights[:, 0] = -np.inf
    weights[seen] = np.vstack([np.zeros_like(found), found]) if two else found
    return weights
