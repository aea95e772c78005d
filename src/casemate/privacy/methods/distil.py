# SPDX-License-Identifier: Apache-2.0
"""Distillation: a small student learns the model's scores and answers in its place.

**What it does.** The teacher, a model of any framework that gives scores, labels the transfer rows softly,
p_T = softmax(logits / T); the student is fitted to p_T and answers at temperature 1 (Hinton, Vinyals and Dean 2015).
Students are small on purpose: a tree, a forest, logistic regression or boosting of scikit-learn, a network of one
hidden layer, or the module of a :class:`Recipe`. They learn soft labels alone; true labels are not mixed in, so
what a student knows of a label has passed through the teacher.

==========  ================================================  ===================================================
student     fitted to p_T by                                  size
==========  ================================================  ===================================================
tree        squared error, a leaf answers with its mean p_T   ``depth``, ``leaf`` rows in a leaf
forest      the same in 100 trees                             ``leaf``
logistic    cross-entropy                                     one weight a feature and class
boosting    cross-entropy                                     ``leaf``
network     cross-entropy x T^2 on logits / T                 16 hidden units, or the module of ``recipe``
==========  ================================================  ===================================================

**Why it stands under privacy.** It changes size, fidelity to the teacher, accuracy, and what attackers learn about the
training data. The last moves most: on RAND HIE LiRA recognises 95 % of people at 1 % false alarms in a default forest,
12 % in a forest of 20 rows a leaf distilled from it, and 1 %, as many as by chance, in a tree of depth 6. That is the
work of the student's size: the same tree trained on the true labels shows no more and is as accurate (bench/distil.py).
It is *not* a defence against adversarial inputs: "defensive distillation" (Papernot et al. 2016) was claimed to be one
and was broken by stronger attacks (Carlini and Wagner 2017); high temperatures only hid the gradient.

**What it does not do.** It guarantees nothing. A student that learns on the training rows sees members with the
teacher's over-sure answers about them, and can leak through these (Jagielski et al. 2023). With ``data.reference`` the
student learns on those rows instead and sees members through the teacher alone: better for privacy (RAND HIE, a third
of the people set aside for it: 0.9 % recognised in the forest of 20 rows a leaf) and demanded where the teacher states
a guarantee. A teacher without one gives none to its student. Shadow models repeat the whole of it, teacher and student,
so the attacker adapts.

**Cost.** One prediction a transfer row and one small fit; a shadow costs the teacher's fit as well.

**Pitfalls.** Soft labels are no promise of accuracy: on digits a network of 16 units did no better by them than by the
true labels. At T > 1 trees and logistic regression copy the teacher's labels as well and its probabilities worse. A
student larger than the teacher compresses nothing: the size of both is in the evidence. Fidelity says how well the
student copies, not how right either is. Categories are read as indicators, holes as medians beside a mark; a Recipe's
module is given encoded rows. The student offers logits and a module where its own kind has them; its trees cannot be
asked for yet.
"""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np

from casemate.core import stats
from casemate.core.data import Dataset
from casemate.core.errors import GuaranteeVoid, InvalidData
from casemate.core.limited import Wrapper, shared
from casemate.core.methods import method
from casemate.core.run import Run, require
from casemate.core.types import MODULE, SCORES, TREES, Change, Note, Recipe, Table, Target
from casemate.training.distillation import Distilled, Student, check_public, surviving
from casemate.training.students import KINDS, stored_bytes

_NAMES = {
    "tree": "a tree",
    "forest": "a forest",
    "logistic": "logistic regression",
    "boosting": "boosted trees",
    "network": "a small network",
}


@method(
    kind="defence",
    needs={SCORES},
    inputs={"table", "image"},
    null={"student": "none"},
    cost="one small fit",
    title={"en": "Distillation", "zh": "知识蒸馏"},
    reference="arXiv:1503.02531; arXiv:1608.04644 (no defence against evasion); arXiv:2303.03446 (leakage)",
)
def distil(
    target: Target,
    data: Dataset,
    *,
    student: str = "tree",
    temperature: float = 1.0,
    depth: int = 6,
    leaf: int = 20,
    recipe: Recipe | None = None,
    run: Run | None = None,
) -> Change:
    """Put a small student in the place of the model; no guarantee, see the top of this file.

    Args:
        target: the teacher; must offer scores.
        data: the student learns on ``reference`` if there is one, else on ``train``; fidelity is measured on holdout.
        student: "tree", "forest", "logistic", "boosting", "network", or "none" (nothing changes).
        temperature: of the soft labels, above 0; more than 1 tells more about the classes the teacher rules out.
        depth: of the tree; leaf: rows in a leaf of tree, forest, boosting.
        recipe: of a torch module that returns logits, in place of the network of 16 hidden units.

    Raises:
        InvalidData: a student that is not known, a size or temperature out of range, rows of text.
        GuaranteeVoid: the teacher states a guarantee and the student would learn on its private rows.

    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> import casemate as cm
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> data = cm.Dataset(train=(X[::2], y[::2]), holdout=(X[1::2], y[1::2]))
    >>> forest = RandomForestClassifier(20, random_state=0).fit(X[::2], y[::2])
    >>> cm.harden(forest, data, using=[cm.method("distil", student="tree", depth=3)]).summary.partition(":")[
    ...     0
    ... ]
    'a tree in place of the model'
    """
    run = require(run)
    made = _student(student, temperature, {"depth": depth, "leaf": leaf}, recipe)
    params = {"student": student, "temperature": temperature, "depth": depth, "leaf": leaf}
    params |= {} if recipe is None else {"recipe": "of a torch module"}
    if made is None:
        return Change(target=target, method="distil", params=params, summary="no student: nothing changed")
    if target.schema is None:
        raise InvalidData("distil needs a target bound to its data; call it through harden")
    public = data.reference
    check_public("distil", target, data)
    seen = [column.name for column in data.schema.columns if column.kind == "category" and column.observed]
    if target.claims and seen:  # the student's input has a place for each
        raise GuaranteeVoid(
            f"distil: the categories of {seen[0]!r} were read off the data, and the student would show them beside a "
            "guarantee; name them in the Schema"
        )
    rows = data.train if public is None else public
    fitted = made.learn(target, rows.x, run.child_seed("student"))
    fields = shared(target) | {"source": None, "history": (), "claims": surviving(target.claims)}
    transfer = None if public is None else public.x
    pupil = Distilled(
        base=target, student=made, fitted=fitted, read=target.schema, transfer=transfer, **fields
    )
    fidelity, sizes = _fidelity(target, pupil, data, run), _sizes(target, pupil)
    kind = "a torch module" if made.recipe is not None else _NAMES[made.kind]
    agreed = 100 * fidelity[0][1]
    teacher_bytes, student_bytes = sizes[0][1:]
    share = (
        f", {100 * student_bytes / teacher_bytes:.2g} % of the bytes"
        if teacher_bytes and student_bytes
        else ""
    )
    return Change(
        target=pupil,
        method="distil",
        params=params,
        summary=f"{kind} in place of the model: the same answer for {agreed:.1f} % of held-out rows{share}",
        evidence=(
            Table(
                name="fidelity", columns=("on held-out rows", "value", "low", "high"), rows=tuple(fidelity)
            ),
            Table(name="size", columns=("", "teacher", "student"), rows=sizes),
            Note(text=_learnt_on(data)),
        ),
    )


def _student(
    student: str, temperature: float, sizes: dict[str, int], recipe: Recipe | None
) -> Student | None:
    """Read the parameters; None for the student that is none."""
    if student == "none":
        return None
    if student not in KINDS:
        raise InvalidData(f"distil: no student {student!r}; use {', '.join(KINDS)} or none")
    if recipe is not None and (student != "network" or not isinstance(recipe, Recipe)):
        raise InvalidData("distil: recipe= is a casemate.Recipe for student='network'")
    if not 0 < temperature < math.inf:
        raise InvalidData(f"distil: temperature is {temperature!r}; give a number above 0")
    for name, size in sizes.items():
        if size < 1:
            raise InvalidData(f"distil: {name} is {size!r}; give a whole number of at least 1")
    return Student(kind=student, temperature=float(temperature), recipe=recipe, **sizes)


def _fidelity(teacher: Target, pupil: Target, data: Dataset, run: Run) -> list[tuple[Any, ...]]:
    """Return the share of held-out rows with the same answer, and how far the scores lie apart on average."""
    held = data.holdout
    one, other = teacher.scores(held.x), pupil.scores(held.x)
    same, apart = teacher.labels(held.x) == pupil.labels(held.x), np.abs(one - other).sum(1) / 2
    units = len(held) if held.person is None else len(np.unique(held.person))
    if units < 2:  # one unit has no spread
        return [
            ("same answer", float(same.mean()), None, None),
            ("scores apart", float(apart.mean()), None, None),
        ]
    agreed = stats.proportion(same, clusters=held.person, level=run.level)
    distance = stats.mean(apart, clusters=held.person, level=run.level)
    return [
        ("same answer", agreed.value, agreed.low, agreed.high),
        ("distance of scores (total variation)", distance.value, distance.low, distance.high),
    ]


def _sizes(teacher: Target, pupil: Distilled) -> tuple[tuple[Any, ...], ...]:
    """Return bytes in a file, and nodes or parameters, of teacher and student; None where they cannot be known."""
    behind = teacher
    while isinstance(behind, Wrapper):
        behind = behind.base
    model = getattr(behind, "model", None)  # a function somewhere else has none
    count = None
    if behind.has(TREES):
        count = f"{len(behind.trees().feature)} tree nodes"
    elif behind.has(MODULE):
        count = f"{sum(part.numel() for part in behind.module().parameters())} parameters"
    own, unit = pupil.fitted.size()
    return (
        ("bytes of its pickle", None if model is None else _bytes(model), _bytes(pupil.fitted.model)),
        ("tree nodes or parameters", count, f"{own} {unit}"),
    )


def _bytes(model: Any) -> int | None:
    try:
        return stored_bytes(model)
    except (
        pickle.PicklingError,
        AttributeError,
        TypeError,
    ):  # a function defined in a session has no name to write
        return None


def _learnt_on(data: Dataset) -> str:
    if data.reference is None:
        return (
            "The student learnt on the training rows themselves, labelled by its teacher, and can leak who they are; "
            "Dataset(reference=...) gives it other rows. No guarantee."
        )
    own, theirs = data.train.person, data.reference.person
    both = 0 if own is None or theirs is None else len(np.intersect1d(own, theirs))
    if both:
        return (
            f"The student learnt on data.reference, which holds rows of {both:,} people who are in train as well: it "
            "can leak who they are. No guarantee."
        )
    return "The student learnt on data.reference: it sees the training rows only through its teacher. No guarantee."
