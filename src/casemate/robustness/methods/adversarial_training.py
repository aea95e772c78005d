# SPDX-License-Identifier: Apache-2.0
"""Adversarial training: the network is trained again, at every step on inputs that an attacker has just moved.

**What it does.** The weights minimise the loss at the worst point of a ball around each row (Madry et al. 2018). That
point is sought anew at every step by the model as it is then: with ``steps=1`` by FGSM from a random start (Wong et
al. 2020: one gradient, 1.25 radius, back into the ball), with more by PGD of steps 2.5 radius / ``steps``.

    min over w of  mean over rows of  max over |z - x| <= radius of  loss(w, z, y)

The attacker keeps to the schema: radius in spreads of each column for tables, immutable and one-hot columns stay,
monotone ones move one way, whole numbers stay whole (by a straight-through gradient), relations and bounds hold;
images keep to their bounds. Examples are made in eval mode, so dropout and batch normalisation do not move under the
attacker; the step itself is taken in training mode. Shadow models and refits of the result are trained the same way.

**What it does not do.** It certifies nothing. It helps against the norm and radius it was trained for; others are to be
measured. Attacks that follow another route (decision boundaries, tables with edits of categories) may still succeed.

**Which epoch is kept.** One-step training can collapse from one epoch to the next: FGSM examples are all withstood
and PGD breaks every row (catastrophic overfitting). ``validate`` of the training rows, at most 500, are held back;
after every epoch PGD of 10 steps attacks them and the epoch that withstands most is kept, of equal ones the latest.
The Change says which, with the curve. It is a guard against collapse: on few rows, which of two good epochs wins is
mostly chance. Fewer than 20 rows are too few for either, and the last epoch is kept.

**Cost.** Every step needs ``steps + 1`` gradients in place of 1, and every epoch 10 more on the rows held back. The
accuracy on clean data usually falls, that of small groups most; ``mix`` keeps a share of the rows clean and buys some
of it back for robustness.

**Pitfalls.** The rows held back are not trained on, though an audit counts them as members. One person's rows may
stand on both sides of that split; the epoch is then chosen a little too well. Under l2 within bounds the projection
is feasible, not nearest. A robust accuracy stated by this file would be its own exam: run ``pgd`` and the attacks on
tables, which share no state with the training.
"""

from __future__ import annotations

from casemate.core.data import Dataset
from casemate.core.errors import InvalidData
from casemate.core.methods import method
from casemate.core.run import Run
from casemate.core.types import LABELS, MODULE, REFIT, Note, Target, Threat
from casemate.robustness.adversary import Adversary, Judge
from casemate.robustness.geometry import ball
from casemate.training.pieces import TrainingPieces
from casemate.training.steps import Selection


@method(
    kind="defence",
    needs={LABELS, MODULE, REFIT},
    tasks={"binary", "multiclass"},
    inputs={"table", "image"},
    null={"radius": 0.0},
    cost="one fit x (steps + 1)",
    title={"en": "Adversarial training", "zh": "对抗训练"},
    reference="arXiv:1706.06083, arXiv:2001.03994",
)
def adversarial_training(
    target: Target,
    data: Dataset,
    *,
    radius: float | None = None,
    norm: str = "linf",
    steps: int = 1,
    mix: float = 0.0,
    validate: float = 0.1,
    run: Run | None = None,
) -> TrainingPieces:
    """Train the network again on rows moved against it; no certificate, see the top of this file.

    Args:
        target: a torch classifier with a recipe.
        data: its training rows are what the model is trained on again.
        radius: in spreads of each column (tables) or units of the pixels (images); None for the default threat,
            0.3 spreads or 8/255 of the pixel range; 0 changes nothing.
        norm: "linf" or "l2".
        steps: 1 for FGSM with a random start, more for PGD.
        mix: share of rows that stay clean at every step, in [0, 1).
        validate: share of training rows held back to choose the epoch, in [0, 0.5]; 0 keeps the last.
        run: given by ``harden``.

    Raises:
        InvalidData: a share out of range, steps below 1. InvalidThreat: another norm, a radius that is no size.

    >>> import casemate as cm
    >>> import numpy as np, torch
    >>> x = np.random.default_rng(0).uniform(-1, 1, (300, 2))
    >>> data = cm.Dataset(train=(x[:200], (x[:200, 0] > 0) * 1), holdout=(x[200:], (x[200:, 0] > 0) * 1))
    >>> recipe = cm.Recipe(factory=lambda: torch.nn.Linear(2, 2), epochs=5, learning_rate=0.3)
    >>> target = cm.wrap(recipe.factory(), recipe=recipe, outputs="logits")
    >>> change = cm.harden(target, data, using=[cm.method("adversarial_training", radius=0.2)])
    >>> change.summary
    'trained on rows moved by up to 0.2 spreads (linf, FGSM with a random start)'
    >>> change.evidence[0].text[:15]
    'It certifies no'

    Source: Madry et al. 2018, arXiv:1706.06083; Wong et al. 2020, arXiv:2001.03994.
    """
    threat = Threat(norm=norm, radius=radius).resolved(data.schema)  # type: ignore[arg-type]  # Threat checks it
    size, ball_norm = ball(threat)
    if steps < 1:
        raise InvalidData(f"adversarial_training: steps is {steps}; use 1 (FGSM) or more (PGD)")
    for name, value, most in (("mix", mix, 1.0), ("validate", validate, 0.5)):
        if not 0 <= value <= most or (name == "mix" and value == 1):
            raise InvalidData(f"adversarial_training: {name} is {value!r}; it is a share of at least 0 and "
                              f"{'below 1' if name == 'mix' else 'at most 0.5'}")  # fmt: skip
    if size == 0:
        return TrainingPieces(summary="radius 0: nothing changed")
    table = data.schema.input == "table"
    adversary = Adversary(radius=float(size), norm=ball_norm, steps=steps, mix=float(mix))  # type: ignore[arg-type]
    how = "FGSM with a random start" if steps == 1 else f"PGD of {steps} steps"
    kept = f", {mix:.0%} of the rows clean".replace("%", " %") if mix else ""
    unit = "spreads" if table else "pixel units"
    select = Selection(score=Judge(adversary=adversary), name="robust accuracy", share=float(validate))
    told = (
        f"It certifies nothing: measure with attacks. Each step took {steps + 1} gradients in place of 1"
        + (f", each epoch {max(10, steps)} more on the rows held back." if validate else ".")
    )
    return TrainingPieces(
        transform=adversary,
        select=select if validate else None,
        summary=f"trained on rows moved by up to {size:g} {unit} ({ball_norm}, {how}{kept})",
        evidence=(Note(text=told),),
        voids=_voids(table, validate),
    )


def _voids(table: bool, validate: float) -> str:
    if table:
        return "its radius is measured in spreads of the private rows; use one of the two"
    return "it chooses the epoch by private rows held back; set validate=0" if validate else ""
