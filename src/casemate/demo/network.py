# SPDX-License-Identifier: Apache-2.0
"""A small torch network on the records of the hospital: inputs moved against it, adversarial training, its price."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from casemate import api
from casemate.core.data import Dataset
from casemate.core.types import Measurement, Recipe, Threat
from casemate.demo import facts
from casemate.demo.cases import Case
from casemate.training import loop, soft_network

if TYPE_CHECKING:
    from casemate.core.run import Progress
    from casemate.core.stats import Interval
    from casemate.report.model import Report

RADIUS = 0.3
UNITS = 32


@dataclass(frozen=True, kw_only=True)
class Moved:
    """Audits before and after adversarial training, what the commonest answer alone is worth, the time."""

    before: Report
    after: Report
    constant: float
    times: float

    @property
    def held(self) -> tuple[Measurement, Measurement]:
        """The accuracy on moved rows, before and after."""
        return self.before["pgd", "robust_accuracy"], self.after["pgd", "robust_accuracy"]

    def gap(self, method: str, quantity: str) -> Interval | None:
        """Return a paired difference."""
        return facts.change_of(api.compare(self.before, self.after), method, quantity)


def run(case: Case, *, seed: int, epochs: int, progress: Progress | None) -> Moved:
    """Train a network, attack it, train it again on rows moved against it, attack it again."""
    data = filled(case.data)
    plain = Recipe(
        factory=partial(soft_network.perceptron, len(data.schema.columns), UNITS, 2),
        preprocessing=loop.standardise,
        optimiser="adam",
        learning_rate=0.003,
        epochs=epochs,
        batch_size=64,
    )
    classes = data.labels_seen()
    codes = np.array([classes.index(label) for label in data.train.y.tolist()])
    loop.fit(replace(plain, epochs=1), data.train.x[:64], codes[:64], seed=seed)  # what torch loads only once
    start = time.process_time()
    module = loop.fit(plain, data.train.x, codes, seed=seed)
    first = time.process_time() - start
    target = api.wrap(module, recipe=plain, classes=classes, outputs="logits")
    threat = Threat(norm="linf", radius=RADIUS)
    # PGD and, sharing nothing with it, the attack that needs no gradients
    before = api.audit(
        target,
        data,
        methods=["pgd", "tabular_attack"],
        threat=threat,
        effort="quick",
        seed=seed,
        progress=progress,
    )
    start = time.process_time()
    spec = api.method("adversarial_training", radius=RADIUS)
    change = api.harden(target, data, using=[spec], seed=seed, progress=progress)
    times = (time.process_time() - start) / max(first, 1e-9)
    after = api.audit(change.target, data, like=before, progress=progress)
    constant = float(np.unique(data.holdout.y, return_counts=True)[1].max() / len(data.holdout))
    return Moved(before=before, after=after, constant=constant, times=times)


def filled(data: Dataset) -> Dataset:
    """Return the data with holes filled by medians of the training rows, as a network needs it."""
    import pandas as pd

    middle = np.nanmedian(data.train.x, axis=0)
    parts = []
    for part in (data.train, data.holdout):
        rows = pd.DataFrame(np.where(np.isnan(part.x), middle, part.x), columns=data.schema.names)
        parts.append((rows, part.y, part.person) if part.person is not None else (rows, part.y))
    immutable = [column.name for column in data.schema.columns if column.immutable]
    return Dataset(train=parts[0], holdout=parts[1], immutable=immutable, sensitive=data.schema.sensitive)
