# SPDX-License-Identifier: Apache-2.0
"""What a stated epsilon of ``dp_logistic`` rests on, looked at on the spot through the functions that trained it.

A guarantee cannot be measured: an attack that finds nothing proves nothing. What can be looked at is whether the
training did what its plan says. Five things, each of which a real implementation has got wrong:

=============  =========================================================================================================
noise          sums of nothing: the variance of what is left is ``(sigma clip)^2`` by a two-sided chi-square test, in
               which a true source fails once in a million runs
clipping       no person moves the sum by more than ``clip``: every person's true rows, at the weights of the released
               model, left out of the sum one after another
fresh noise    the key comes from the operating system: two sources differ
preprocessing  rows look the same to the model alone and among all others: nothing was fitted to the data on the way
accounting     epsilon in closed form (Balle and Wang 2018), which shares no code with the accountant, is not above it
=============  =========================================================================================================

**What is not looked at.** Whether the bounds of the columns are public, whether the code that ran is this code, the
last bits of floating-point noise, everything that was decided by looking at the same people before.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from casemate.core.errors import InvalidData
from casemate.privacy import logistic
from casemate.training import secure

if TYPE_CHECKING:
    from casemate.core.data import Dataset
    from casemate.core.types import Target
    from casemate.privacy.plan import Plan

CHECKS = ("noise", "clipping", "fresh", "preprocessing", "accounting")
_SUMS = 200  # of nothing: with one coordinate a feature some thousand draws
_ALONE = 20  # rows
_FAILS = 1e-6  # how often the test of the noise may fail by chance


def checked(target: Target, data: Dataset) -> dict[str, bool]:
    """Return which of :data:`CHECKS` hold for a target that ``dp_logistic`` trained on ``data``.

    Raises:
        InvalidData: a target with no plan.
    """
    target, data = target.bind(data)
    model: Any = getattr(target, "model", None)
    if not isinstance(model, logistic.NoisyLogistic) or model.plan is None or target.claims != (model.plan,):
        raise InvalidData("this target was not trained by dp_logistic under a plan: it claims nothing")
    plan = model.plan
    rows = data.schema.decode(data.train.x)
    design = model._design(rows)  # (n, 1 + p): what the training saw
    labels = data.train.y[:, None] == np.arange(len(target.classes))
    outcome = (labels[:, 1:] if len(target.classes) == 2 else labels).astype(np.float64)  # (n, k)
    weights = np.concatenate([model.intercept_[:, None], model.coef_], axis=1)  # (k, 1 + p)
    owner = np.arange(len(design)) if data.train.person is None else data.train.person
    order = np.argsort(owner, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(owner[order]) != 0])
    gradients = logistic.unit_gradients(design[order], outcome[order], weights, starts)  # (people, k (1 + p))
    alone = [
        model._design(data.schema.decode(data.train.x[i : i + 1]))[0] for i in range(min(_ALONE, len(design)))
    ]
    found = (
        noise_holds(plan, gradients.shape[1]),
        clipping_holds(gradients, plan),
        secure.source().secure and secure.source().raw(32) != secure.source().raw(32),
        bool(np.array_equal(alone, design[: len(alone)])),
        accounting_holds(plan),
    )
    return dict(zip(CHECKS, found, strict=True))


def noise_holds(plan: Plan, width: int) -> bool:
    """Tell whether sums of nothing have the variance that the plan says, by a two-sided chi-square test."""
    from scipy.special import gammaincinv

    nothing, source = np.zeros((1, width)), secure.source()
    noise = np.stack([logistic.noisy_sum(nothing, plan, source) for _ in range(_SUMS)])  # (sums, width)
    half = noise.size / 2
    total = float(np.square(noise / (plan.noise_multiplier * plan.clip)).sum())  # chi-square of noise.size
    low, high = 2 * gammaincinv(half, _FAILS / 2), 2 * gammaincinv(half, 1 - _FAILS / 2)
    return bool(low <= total <= high)


def clipping_holds(gradients: np.ndarray, plan: Plan) -> bool:
    """Tell whether leaving out any one unit moves the sum of contributions (units, p) by at most ``plan.clip``."""
    noiseless = _Silent()
    whole = logistic.noisy_sum(gradients, plan, noiseless)  # type: ignore[arg-type]  # draws zeros
    worst = np.argsort(-np.linalg.norm(gradients, axis=1))[:200]  # who would move it most
    moved = [
        float(np.linalg.norm(whole - logistic.noisy_sum(np.delete(gradients, i, axis=0), plan, noiseless)))  # type: ignore[arg-type]
        for i in worst
    ]
    return max(moved) <= plan.clip * (1 + 1e-9)


def accounting_holds(plan: Plan) -> bool:
    """Tell whether the closed form of the Gaussian mechanism agrees that ``plan.epsilon`` is enough at its delta."""
    from scipy.special import log_ndtr

    if plan.sampler != "all":
        return False
    mu = math.sqrt(plan.steps + plan.counts) / plan.noise_multiplier
    one, other = -plan.epsilon / mu + mu / 2, -plan.epsilon / mu - mu / 2
    delta = math.exp(log_ndtr(one)) - math.exp(plan.epsilon + float(log_ndtr(other)))
    return delta <= plan.delta * (1 + 1e-6)


class _Silent:
    """A source that draws zeros: what is left of a noisy sum is the sum."""

    def gaussians(self, shape: int) -> np.ndarray:
        return np.zeros(shape)
