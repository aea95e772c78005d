# SPDX-License-Identifier: Apache-2.0
"""Micro targets on which every method is checked: made from the card alone, so a new method needs no new test."""

from __future__ import annotations

import atexit
import hashlib
import os
import pickle
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.tree import DecisionTreeClassifier

import casemate as cm
from casemate.core import harness
from casemate.core.methods import Card, Method
from casemate.core.run import Run
from casemate.core.types import LABELS, MODULE, REFIT, Measurement, Target

STRICT = 1 - 1e-6  # interval level of the controls: each fails by chance once in a million


def rows(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Four independent columns; the label is the sign of the first, with 10 % noise."""
    draw = np.random.default_rng(seed)
    x = draw.uniform(-1, 1, (n, 4))
    return x, ((x[:, 0] > 0) ^ (draw.random(n) < 0.1)).astype(np.int64)


def _halved(x: np.ndarray) -> np.ndarray:
    return (x + 1) / 2


def _torch(x: np.ndarray, y: np.ndarray) -> Target:
    import torch

    from casemate.training.loop import fit

    recipe = cm.Recipe(factory=lambda: torch.nn.Linear(4, 2), epochs=20, learning_rate=0.3)
    return cm.wrap(fit(recipe, x, y, seed=0), recipe=recipe)


def model(card: Card, x: np.ndarray, y: np.ndarray, *, memorise: bool = False) -> Target:
    """Train the smallest model that offers what the card needs."""
    if MODULE in card.needs:
        return _torch(x, y)
    if card.private_noise:  # without noise it is this, on columns scaled from [-1, 1] to [0, 1]
        scaled = FunctionTransformer(_halved)
        plain = LogisticRegression(solver="newton-cholesky", tol=1e-12)
        return cm.wrap(make_pipeline(scaled, plain).fit(x, y))
    depth = None if memorise else 3
    if memorise or REFIT in card.needs:
        return cm.wrap(DecisionTreeClassifier(max_depth=depth, random_state=0).fit(x, y))
    return cm.wrap(LogisticRegression().fit(x, y))


def from_file(card: Card, raw: bytes) -> Target:
    """Return a target that says it was loaded from a file of these bytes."""
    digest = hashlib.sha256(raw).hexdigest()
    path = Path(tempfile.gettempdir()) / f"casemate-world-{os.getpid()}-{digest[:16]}"
    path.write_bytes(raw)
    atexit.register(path.unlink, missing_ok=True)
    source = {"path": str(path), "sha256": digest, "format": "pickle"}
    return replace(model(card, *rows(60, 3)), source=source)


@dataclass(frozen=True)
class World:
    """A bound target, its data, and the model behind it."""

    target: Target
    data: cm.Dataset

    @staticmethod
    def of(card: Card, target: Target, train: tuple[Any, Any], holdout: tuple[Any, Any]) -> World:
        bound, data = target.bind(cm.Dataset(train=train, holdout=holdout))
        data = data.with_ids(np.arange(len(train[1])), len(train[1]) + np.arange(len(holdout[1])))
        asked = {LABELS} if card.kind == "defence" else set()  # harden measures utility as well
        return World(bound.limited_to(*card.needs, *asked), data)


def plain(card: Card, n: int = 60) -> World:
    train, holdout = rows(n, 1), rows(n, 2)
    return World.of(card, model(card, *train), train, holdout)


def _steals(card: Card) -> bool:
    """Tell what copies a model: there is nothing to steal where the labels are the model's answers already."""
    return card.property == "confidentiality" and card.kind == "attack"


def null(card: Card) -> World:
    """Nothing to find: a model that saw neither part; labels without any cause; labels that are the answers."""
    train, holdout, other = rows(200, 1), rows(200, 2), rows(200, 3)
    if card.name == "scan_artefact":
        return World.of(card, from_file(card, pickle.dumps({"threshold": 0.5})), train, holdout)
    if _steals(card):
        target = model(card, *other)
        answers = ((x, target.model.predict(x)) for x, _ in (train, holdout))
        return World.of(card, target, *answers)
    if card.kind == "explainer":
        draw = np.random.default_rng(4)
        train, holdout, other = ((x, draw.integers(0, 2, len(y))) for x, y in (train, holdout, other))
    return World.of(card, model(card, *other), train, holdout)


def planted(card: Card) -> World:
    """Something to find: memorised random labels, one causal column, answers that the labels say nothing about."""
    if card.name == "scan_artefact":
        unknown = from_file(card, b"cmy_models\nNet\n.")  # a class that nobody vouched for
        return World.of(card, unknown, rows(200, 1), rows(200, 2))
    if _steals(card):
        draw = np.random.default_rng(6)
        train, holdout = ((x, draw.integers(0, 2, len(y))) for x, y in (rows(200, 1), rows(200, 2)))
        return World.of(card, model(card, *rows(200, 3)), train, holdout)
    if card.kind in ("attack", "check"):
        draw = np.random.default_rng(5)
        train, holdout = ((x, draw.integers(0, 2, len(y))) for x, y in (rows(200, 1), rows(200, 2)))
        return World.of(card, model(card, *train, memorise=True), train, holdout)
    train, holdout = rows(300, 1), rows(200, 2)
    return World.of(card, model(card, *train), train, holdout)


def execute(
    method: Method, world: World, *, seed: int = 0, level: float = 0.95, radius: float = 0.3, **params: Any
) -> list[Measurement]:
    """Run a method at quick effort, without a clock, as the harness does."""
    threat = cm.Threat(norm="linf", radius=radius, scale="raw") if method.card.kind == "evasion" else None
    run = Run(card=method.card, seed=seed, level=level, threat=threat, effort="quick")
    return harness.execute(method, world.target, world.data, run, params)


def values(measured: list[Measurement]) -> Mapping[str, tuple[float | None, float | None, float | None]]:
    return {row.quantity: (row.value, row.low, row.high) for row in measured}


def timeless(measured: list[Measurement]) -> list[dict[str, Any]]:
    return [replace(row, seconds=0.0).to_dict() for row in measured]


def cpu_seconds(work: Any) -> tuple[Any, float]:
    start = time.process_time()
    return work(), time.process_time() - start


def two_files_of_people(folder: Path) -> None:
    """Write train.csv and holdout.csv for the command line: 60 people each, of two rows, columns a, b, c, owner, y."""
    draw = np.random.default_rng(0)
    for index, name in enumerate(("train.csv", "holdout.csv")):
        rows = pd.DataFrame(draw.normal(size=(120, 3)), columns=["a", "b", "c"])
        rows["owner"] = np.repeat(np.arange(60), 2) + 100 * index
        rows["y"] = (rows["a"] + draw.normal(size=120) > 0).map({True: "yes", False: "no"})
        rows.to_csv(folder / name, index=False)
