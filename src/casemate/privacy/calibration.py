# SPDX-License-Identifier: Apache-2.0
"""Maps that make a classifier's probabilities mean what they say, fitted on rows the classifier was not trained on.

All start from logits z (n, classes), u_c = z_c - log sum_{k != c} exp z_k is the log-odds of class c:

- temperature: softmax(b z), one b > 0 by maximum likelihood (Guo et al. 2017). No class overtakes another.
- platt: 1 / (1 + exp(-(a_c u_c + b_c))), a_c >= 0, targets (n_c + 1) / (n_c + 2) and 1 / (n - n_c + 2) (Platt 1999).
- isotonic: the increasing step function of u_c of least squared error (Zadrozny and Elkan 2002), kept within
  [1 / (n + 2), 1 - 1 / (n + 2)], so that no held-out row costs an infinite log loss.

With more than two classes the last two are fitted class by class and made to sum to one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from casemate.core.errors import InvalidData
from casemate.core.nodes import softmax

How = Literal["temperature", "platt", "isotonic"]
HOWS: tuple[How, ...] = ("temperature", "platt", "isotonic")
_RANGE = 5.0  # log of the largest factor on logits, either way
_BINS = 15


@dataclass(frozen=True)
class Map:
    """A fitted map from logits (n, classes) to probabilities (n, classes)."""

    how: How
    parts: tuple[
        np.ndarray, ...
    ]  # temperature: [b]; platt: one [a, b] a class; isotonic: one (2, knots) a class

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        if self.how == "temperature":
            return softmax(self.parts[0][0] * logits)
        odds = log_odds(logits)  # (n, classes)
        if len(self.parts) == 1:  # two classes: the second follows from the first
            second = self._one(self.parts[0], odds[:, 1])
            return np.column_stack([1 - second, second])
        shares = np.column_stack([self._one(part, odds[:, c]) for c, part in enumerate(self.parts)])
        return np.asarray(shares / shares.sum(1, keepdims=True))

    def _one(self, part: np.ndarray, odds: np.ndarray) -> np.ndarray:
        if self.how == "isotonic":
            return np.interp(odds, part[0], part[1])
        return _sigmoid(part[0] * odds + part[1])


def fit(how: How, logits: np.ndarray, y: np.ndarray) -> Map:
    """Fit a map to logits (n, classes) and class indices (n,).

    Raises:
        InvalidData: fewer than two rows, or logits that are not finite.

    >>> z = np.array([[0.0, 4.0]] * 3 + [[0.0, -4.0]])
    >>> fit("temperature", z, np.array([1, 1, 0, 0]))(z)[0].round(3).tolist()
    [0.25, 0.75]
    """
    if len(y) < 2:
        raise InvalidData(f"calibration needs at least 2 rows; got {len(y)}")
    kept = np.maximum(logits - logits.max(1, keepdims=True), -1e3)  # a class that is ruled out has logit -inf
    if np.isnan(kept).any():
        raise InvalidData("calibration needs logits; some are NaN")
    if how == "temperature":
        return Map(how, (_temperature(kept, y),))
    odds = log_odds(kept)
    one = _platt if how == "platt" else _isotonic
    chosen = [1] if logits.shape[1] == 2 else range(logits.shape[1])
    return Map(how, tuple(one(odds[:, c], y == c) for c in chosen))


def log_odds(logits: np.ndarray) -> np.ndarray:
    """Return the log-odds of each class against all others (n, classes), between -1000 and 1000.

    >>> log_odds(np.array([[1.0, 3.0]])).tolist()
    [[-2.0, 2.0]]
    """
    from scipy.special import logsumexp

    others = np.stack(
        [logsumexp(np.delete(logits, c, axis=1), axis=1) for c in range(logits.shape[1])], axis=1
    )
    with np.errstate(invalid="ignore"):  # -inf against -inf: no class is possible, the middle will do
        return np.clip(np.nan_to_num(logits - others, nan=0.0, posinf=1e3, neginf=-1e3), -1e3, 1e3)


def _temperature(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the factor on the logits; the loss is convex in it, so it has one valley in its logarithm as well."""
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    right = logits[np.arange(len(y)), y]

    def loss(log_factor: float) -> float:
        factor = np.exp(log_factor)
        return float((logsumexp(factor * logits, axis=1) - factor * right).mean())

    found = minimize_scalar(loss, bounds=(-_RANGE, _RANGE), method="bounded", options={"xatol": 1e-9})
    return np.array([np.exp(found.x)])


def _platt(odds: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Return slope (not below 0, or the order of rows would turn) and intercept."""
    from scipy.optimize import minimize

    n, n_positive = len(odds), int(positive.sum())
    wanted = np.where(positive, (n_positive + 1) / (n_positive + 2), 1 / (n - n_positive + 2))
    scale = max(1.0, float(np.abs(odds).max()))  # so that both parameters move on one scale
    x = np.column_stack([odds / scale, np.ones(n)])  # (n, 2)

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        raw = x @ w
        slope = x.T @ (_sigmoid(raw) - wanted) / n
        return float((np.logaddexp(0.0, raw) - wanted * raw).mean()), slope

    start = np.array([scale, 0.0])
    bounds = [(0.0, None), (None, None)]
    options = {"maxiter": 1000, "ftol": 1e-15, "gtol": 1e-9}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    return np.array([found[0] / scale, found[1]])


def _isotonic(odds: np.ndarray, positive: np.ndarray) -> np.ndarray:
    from sklearn.isotonic import IsotonicRegression

    least = 1 / (len(odds) + 2)
    fitted = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip").fit(odds, positive * 1.0)
    return np.stack([fitted.X_thresholds_, fitted.y_thresholds_])  # (2, knots)


def _sigmoid(raw: np.ndarray) -> np.ndarray:
    from scipy.special import expit

    return np.asarray(expit(raw))


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Return the expected calibration error in at most 15 groups of equal size: mean |confidence - share right|.

    On few rows it is too large: noise alone moves each group.

    >>> calibration_error(np.full(60, 0.75), np.arange(60) % 4 > 0)
    0.0
    """
    order = np.argsort(confidence, kind="stable")
    n_groups = min(_BINS, len(order))
    starts = np.arange(n_groups) * len(order) // n_groups
    gaps = np.add.reduceat(
        (confidence - right)[order], starts
    )  # (groups,) sums, so that larger groups weigh more
    return float(np.abs(gaps).sum() / len(order))
