# SPDX-License-Identifier: Apache-2.0
"""Model stealing: exact extraction, fidelity by queries on two real tables, what rounding does, ART beside it.

PYTHONPATH=tests python bench/steal.py        (ART, where it is installed, is a peer: adversarial-robustness-toolbox)
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
import tables
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import casemate as cm
from casemate.confidentiality import extraction
from casemate.confidentiality.methods.steal import _sides
from casemate.confidentiality.surrogates import Learners
from casemate.core.data import Split
from casemate.core.methods import find
from casemate.core.run import Run
from casemate.core.types import Curve, Table
from casemate.privacy.methods.rounding import round_scores

X, Y = load_digits(return_X_y=True)
PIXELS = {f"x{i}": {"low": 0.0, "high": 16.0} for i in range(64)}
RUN = Run(card=find("steal").card)


def digits(model: Any) -> tuple[Any, cm.Dataset]:
    data = cm.Dataset(train=(X[:898], Y[:898]), holdout=(X[898:], Y[898:]))
    data = cm.Dataset(
        train=(X[:898], Y[:898]), holdout=(X[898:], Y[898:]), schema=data.schema.with_columns(PIXELS)
    )
    return model.fit(X[:898], Y[:898]), data


def exact() -> None:
    print("== exact extraction")
    model, data = digits(LogisticRegression(max_iter=5000))
    target, bound = cm.wrap(model).bind(data)
    owned, _, _ = _sides(bound, RUN)
    start = time.process_time()
    copy = extraction.solve(target.scores, bound.schema, owned.x)
    seconds = time.process_time() - start
    fresh = np.random.default_rng(0).uniform(0, 16, (10_000, 64))
    for name, rows in (("held out", bound.holdout.x), ("uniform in the bounds", fresh)):
        gap = np.abs(copy.scores(rows) - target.scores(rows)).max()
        print(
            f"digits softmax: {copy.n_queries} queries, {seconds:.3f} CPU-s, worst score difference, {name}: {gap:.1e}"
        )
    for name in ("rand_hie", "loanapp"):
        table = tables.load(name)
        text, numbers = (
            make_column_selector(dtype_include=["object", "string"]),
            make_column_selector(dtype_include="number"),
        )
        columns = make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore"), text),
            (make_pipeline(SimpleImputer(add_indicator=True), StandardScaler()), numbers),
        )
        model = make_pipeline(columns, LogisticRegression(max_iter=2000))
        model.fit(table.rows(table.train), table.train[table.label])
        report = cm.audit(model, table.dataset(), methods=["steal"])
        row = report["steal", "extraction_error"]
        print(f"{name}, scaled and one-hot logistic regression: {row.value:.1e}; {row.details[0].text}")


def learnt() -> None:
    print("== fidelity by queries")
    for name in ("rand_hie", "loanapp"):
        table = tables.load(name)
        forest, boosted = (
            RandomForestClassifier(random_state=0),
            HistGradientBoostingClassifier(random_state=0),
        )
        leaves = RandomForestClassifier(random_state=0, min_samples_leaf=20)
        for kind, last in (("default forest", forest), ("forest, leaf 20", leaves), ("boosting", boosted)):
            show(f"{name}, {kind}", tables.pipeline(table, last), table.dataset())
    model, data = digits(RandomForestClassifier(random_state=0))
    show("digits, default forest", model, data)


def show(title: str, model: Any, data: cm.Dataset) -> None:
    start = time.process_time()
    report = cm.audit(model, data, methods=["steal"])
    print(f"-- {title} ({time.process_time() - start:.1f} CPU-s)")
    for row in report["steal"]:
        print("  ", row)
    for piece in report["steal", "fidelity"].details:
        if isinstance(piece, Curve):
            points = zip(piece.x, piece.y, strict=True)
            print("  ", piece.name, ", ".join(f"{x:.0f}: {y:.3f}" for x, y in points))
        if isinstance(piece, Table):
            print("  ", dict(piece.rows))
    peers(model, data)


def peers(model: Any, data: cm.Dataset) -> None:
    """ART on the same rows, as the same numbers, with a 64-unit network as thief: it cannot fit sklearn ones."""
    try:
        import torch
        from art.attacks.extraction import CopycatCNN, KnockoffNets
        from art.estimators.classification import BlackBoxClassifier, PyTorchClassifier
    except ImportError:
        print("   ART is not installed")
        return
    target, bound = cm.wrap(model).bind(data)
    owned, kept, _ = _sides(bound, RUN)
    learners = Learners.of(bound.schema, owned, kept, RUN)
    rows, others = learners.rows.astype(np.float32), learners.kept.astype(np.float32)
    scores, answers = target.scores(owned.x).astype(np.float32), target.labels(kept.x)
    shape, n_classes = rows.shape[1:], scores.shape[1]
    for attack in (KnockoffNets, CopycatCNN):
        torch.manual_seed(0)
        net = torch.nn.Sequential(
            torch.nn.Linear(*shape, 64), torch.nn.ReLU(), torch.nn.Linear(64, n_classes)
        )
        thief = PyTorchClassifier(
            net, loss=torch.nn.CrossEntropyLoss(), optimizer=torch.optim.Adam(net.parameters(), 1e-3),
            input_shape=shape, nb_classes=n_classes, device_type="cpu",
        )  # fmt: skip
        victim = BlackBoxClassifier(
            (rows, scores), input_shape=shape, nb_classes=n_classes, fuzzy_float_compare=True
        )
        start = time.process_time()
        steal = attack(
            victim, batch_size_fit=64, batch_size_query=len(rows), nb_epochs=50, nb_stolen=len(rows),
            use_probability=True,
        )  # fmt: skip
        known = {"y": np.eye(n_classes)[owned.y]} if attack is KnockoffNets else {}
        stolen = steal.extract(x=rows, thieved_classifier=thief, **known)
        found = (stolen.predict(others).argmax(1) == answers).mean()
        print(
            f"   ART {attack.__name__}: {found:.3f} ({time.process_time() - start:.1f} CPU-s, {len(rows)} queries)"
        )


def linear(data: cm.Dataset, rows: Split, kept: Split, scores: np.ndarray) -> np.ndarray:
    """Labels of the simplest learner, a penalised linear model, taught these scores."""
    taught = {"scores": scores}
    return Learners.of(data.schema, rows, kept, RUN).best(taught, {}, scores.argmax(1)).labels


def rounded() -> None:
    """Different questions, the same ones again, and a solve, on a digits softmax that rounds its answers."""
    print("== rounding, digits softmax: agreement on the held-out half")
    model, data = digits(LogisticRegression(max_iter=5000))
    target, bound = cm.wrap(model).bind(data)
    _, kept, _ = _sides(bound, RUN)
    answers = target.labels(kept.x)
    near = np.random.default_rng(1)
    pairs = near.integers(0, 898, (2, 6500))
    mixed = near.uniform(0, 1, (6500, 1))
    rows = mixed * X[898:][pairs[0]] + (1 - mixed) * X[898:][pairs[1]]  # between two images of the attacker
    for digits_kept in (12, 3, 2, 1, 0):
        given = round_scores(target.scores(rows), digits_kept)
        found = []
        for n in (65, 650, 6500):
            part = Split(rows[:n], np.zeros(n, np.int64))
            found.append((linear(bound, part, kept, given[:n]) == answers).mean())
        same = Split(np.tile(rows[:65], (100, 1)), np.zeros(6500, np.int64))
        again = linear(bound, same, kept, np.tile(given[:65], (100, 1)))

        def asked(x: np.ndarray, kept_digits: int = digits_kept) -> np.ndarray:
            return round_scores(target.scores(x), kept_digits)

        copy = extraction.solve(asked, bound.schema, X[898:])
        solved = copy if isinstance(copy, str) else f"{(copy.scores(kept.x).argmax(1) == answers).mean():.3f}"
        shown = ", ".join(f"{n}: {f:.3f}" for n, f in zip((65, 650, 6500), found, strict=True))
        print(
            f"{digits_kept} digits: {shown}; 65 a hundred times: {(again == answers).mean():.3f}; solved: {solved}"
        )


def main() -> None:
    warnings.simplefilter("ignore")
    exact()
    learnt()
    rounded()


if __name__ == "__main__":
    main()
