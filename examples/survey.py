# SPDX-License-Identifier: Apache-2.0
"""The code examples of the founding survey as they should have been; docs/survey.md says what was wrong with them.

`python examples/survey.py` needs the extras `keras` and `torch`. Each function stands for itself and returns what it
measured.
"""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")  # gradients are torch's

import keras
import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import RandomForestClassifier

import casemate as cm
from casemate.core.types import Explanation
from casemate.privacy import statistics
from casemate.privacy.ledger import Ledger
from casemate.privacy.release import Release

RADIUS = 0.1  # of the pixel range
THREAT = cm.Threat(norm="linf", radius=RADIUS)
# One step of the whole radius from the image itself is FGSM; pixels stay in their range.
FGSM = cm.method("pgd", steps=1, restarts=1, step_size=RADIUS, random_start=False)


def digits() -> tuple[keras.Model, cm.Dataset]:
    """A small Keras network and its data; 797 images that it never saw are what is attacked."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).reshape(-1, 1, 8, 8).astype(np.float32)  # (n, c, h, w) for Casemate, channels last for Keras
    order = np.random.default_rng(0).permutation(len(y))
    train, hold = order[:1000], order[1000:]
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [layers.Input((8, 8, 1)), layers.Flatten(), layers.Dense(128, "relu"), layers.Dense(10, "softmax")]
    )
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy")
    model.fit(np.moveaxis(x[train], 1, -1), y[train], epochs=20, batch_size=32, verbose=0)
    return model, cm.Dataset(train=(x[train], y[train]), holdout=(x[hold], y[hold]))


def fgsm(target: cm.Target, data: cm.Dataset) -> list[cm.Measurement]:
    """One step, then 40 steps from 5 starts: a model is no more robust than the strongest attack leaves it."""
    reports = [cm.audit(target, data, methods=[attack], threat=THREAT) for attack in (FGSM, "pgd")]
    return [report["pgd", "robust_accuracy"] for report in reports]


def adversarial_training(target: cm.Target, data: cm.Dataset) -> cm.Comparison:
    """FGSM examples made anew at every step by the model as it is then, judged by an attack it did not train on."""
    before = cm.audit(target, data, methods=["pgd"], threat=THREAT)
    change = cm.harden(target, data, using=[cm.method("adversarial_training", radius=RADIUS)])
    after = cm.audit(change.target, data, like=before)  # the same images, seeds and threat
    return cm.compare(before, after)


def lime() -> tuple[Explanation, cm.Report]:
    """One row explained, with errors and R2; then how good and how stable such explanations are over 50 rows."""
    x, y = load_breast_cancer(return_X_y=True, as_frame=True)
    data = cm.Dataset(train=(x[::2], y[::2]), holdout=(x[1::2], y[1::2]))
    model = RandomForestClassifier(n_estimators=50, random_state=0).fit(x[::2], y[::2])
    why = cm.explain(model, data, rows=[17], method="lime")
    return why, cm.audit(model, data, methods=["lime", "explanation_stability"], effort="quick")


def private_mean(folder: Path) -> tuple[Release, Release]:
    """One noisy answer, paid for before it leaves; the same question again gets the same answer for nothing."""
    ages = np.random.default_rng(0).integers(18, 91, 10_000)
    ledger = Ledger.create(
        folder / "clinic.ledger", population="patients of the clinic", unit="record", epsilon=1.0, delta=0.0
    )
    first, again = (statistics.mean(ages, bounds=(0, 120), epsilon=0.5, ledger=ledger) for _ in range(2))
    return first, again


def main() -> None:
    model, rows = digits()
    target, data = cm.wrap(model).bind(rows)  # classes and shapes agreed on, once for all that follows
    print("FGSM and PGD on a Keras model", *fgsm(target, data), sep="\n  ")
    print(adversarial_training(target, data))
    why, report = lime()
    print("LIME on a forest", why, report, sep="\n")
    with tempfile.TemporaryDirectory() as folder:
        print("A private mean, asked twice", *private_mean(Path(folder)), sep="\n  ")


if __name__ == "__main__":
    main()
