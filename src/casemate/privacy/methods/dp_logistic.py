# SPDX-License-Identifier: Apache-2.0
"""Logistic regression with differential privacy: the target is replaced by one trained with a bound on what it tells.

**What it does.** Numbers are scaled into [0, 1] by public bounds, categories become one column each, a missing number
is 0 beside a sign that it is missing. From zero, ``steps`` full-batch gradient steps are taken with momentum. In each,
the gradients of all rows of a person are added up and the sum is clipped to norm ``clip``; people are added up, and
Gaussian noise of ``sigma * clip`` is put on every coordinate. The mean of the second half of the steps is the model.
How many people there are is a private number too: the sum is divided by a noisy count, released once under the same
noise. Where rows have no owners the unit is the record.

**Formula.** With sensitivity ``clip`` for one unit more or less, steps + 1 releases of noise multiplier sigma are one
Gaussian mechanism of mu = sqrt(steps + 1) / sigma; sigma is the least for which the accountant's upper bound is at most
``epsilon`` at ``delta``, or for which nobody recognises more than ``max_tpr`` of members at ``at_fpr`` false alarms
(Phi(Phi^-1(at_fpr) + mu) in closed form).

**What the promise rests on.** Bounds, categories and class names must be known without the data: from what the column
means (an age lies in 0 to 110), a code book, a form. The ends of a column *seen in the data* are two people's values,
and a guarantee computed with them is void; hence ``bounds=`` is demanded (``bounds="schema"`` takes those that the
schema states, and is refused for a column whose limits were read off the data). The noise comes from the
operating system through a keystream and is never seeded or recorded: the same seed does not give the same model.

**What it does not cover.** The choice of columns, of epsilon, of steps, or of this model instead of another, if it was
made by looking at the same people; the audit and its report; a second model trained on them, whose cost adds to this
one's; attacks on the last bits of floating-point noise. Membership is bounded, not what the model says about a group.

**Cost.** 100 passes over the data. On RAND HIE (2,956 people to train on) at epsilon 3 and delta 1e-5 per person the
ROC AUC is .691 where the same regression without noise has .693 (bench/dp_logistic.py; the clipping norms 1.5 for a
record and 3 for a person were chosen on that table, between 1 and 4 its AUC moves by .002). With fewer than some
hundred people, or at epsilon well under 1, noise is most of the model. It is a linear model: what a forest gained by
interactions is gone.

**Pitfalls.** Bounds far too wide waste the signal, too narrow ones clip it. A person with very many rows counts no
more than ``clip``. ``epsilon=inf`` promises nothing: it fits the same features by scikit-learn's own regression.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from casemate.core.data import Dataset
from casemate.core.errors import GuaranteeVoid, InvalidData
from casemate.core.methods import method
from casemate.core.run import Run
from casemate.core.schema import Column, Schema
from casemate.core.types import REFIT, Detail, Note, Target
from casemate.privacy import plan as plans
from casemate.privacy.plan import Plan
from casemate.training.pieces import TrainingPieces

if TYPE_CHECKING:
    from casemate.privacy.logistic import PublicColumn

CLIP: Mapping[plans.Unit, float] = {"record": 1.5, "person": 3.0}
STEPS = 100
Bounds = Mapping[str, Sequence[Any]] | Sequence[float] | str


@method(
    kind="defence",
    needs={REFIT},
    inputs={"table"},
    cost="100 passes over the data",
    null={"epsilon": math.inf},
    trial={"epsilon": 1.0, "bounds": (-1.0, 1.0)},
    private_noise=True,
    title={"en": "Logistic regression with differential privacy", "zh": "差分隐私逻辑回归"},
    reference="arXiv:1607.00133; arXiv:1905.02383",
)
def dp_logistic(
    target: Target,
    data: Dataset,
    *,
    epsilon: float | None = None,
    delta: float | None = None,
    max_tpr: float | None = None,
    at_fpr: float | None = None,
    bounds: Bounds | None = None,
    run: Run | None = None,
) -> TrainingPieces:
    """Replace the target by a logistic regression trained with differential privacy; see the top of this file.

    Args:
        target: a scikit-learn classifier of any kind (also XGBoost's and LightGBM's scikit-learn classes).
        data: a table; the unit of privacy is the person where rows have owners, else the record.
        epsilon: the privacy loss; or ``max_tpr`` and ``at_fpr``: the most members anybody may recognise at that share
            of false alarms. Exactly one of the two.
        delta: at most 1 / (10 units); by default the largest power of ten below that.
        bounds: what is publicly known of each column: ``{"age": (0, 110), "sex": ("f", "m")}``, or one pair for all
            numbers, or ``"schema"``: those stated in the data's schema, by ``Schema.with_columns`` or a schema file.

    Raises:
        GuaranteeVoid: a column whose bounds or categories are only known from the data.
        InvalidData: no or two targets of privacy, a delta that is too large, bounds that do not fit.

    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> import casemate as cm
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> X = X[:, :2]  # mean radius and mean texture
    >>> data = cm.Dataset(train=(X[::2], y[::2]), holdout=(X[1::2], y[1::2]))
    >>> model = LogisticRegression().fit(X[::2], y[::2])
    >>> private = cm.method("dp_logistic", epsilon=3, bounds={"x0": (0, 30), "x1": (0, 50)})
    >>> cm.harden(model, data, using=[private]).target.claims[0].delta
    0.0001

    Source: Abadi et al. 2016; Dong, Roth and Su 2022; Kulynych et al. 2024.
    """
    from casemate.privacy.logistic import NoisyLogistic

    private = plans.asked("dp_logistic", epsilon=epsilon, delta=delta, max_tpr=max_tpr, at_fpr=at_fpr)
    columns = _public_columns(data.schema, bounds, private=private)
    plan = None
    if private:
        unit, n_units = plans.unit_of(data.train.person, len(data.train))
        delta = plans.default_delta(n_units) if delta is None else delta
        plans.check_delta(delta, n_units, unit)
        outline = Plan(unit=unit, clip=CLIP[unit], noise_multiplier=1.0, steps=STEPS, counts=1, delta=delta)
        plan = plans.resolved(outline, epsilon=epsilon, max_tpr=max_tpr, at_fpr=at_fpr)
    return TrainingPieces(
        recipe=NoisyLogistic(columns=columns, classes=tuple(target.classes), plan=plan),
        summary=f"logistic regression: {plan or 'no privacy was asked for (epsilon=inf)'}",
        evidence=() if plan is None else _evidence(plan, vouched=isinstance(bounds, str)),
        claims=() if plan is None else (plan,),
    )


def _public_columns(schema: Schema, bounds: Any, *, private: bool) -> tuple[PublicColumn, ...]:
    """Return what is publicly known of every column; where nothing is promised (not ``private``), what is known.

    Raises:
        GuaranteeVoid: of a column nothing is known but what the data shows.
        InvalidData: a name that is no column, a pair that is none.
    """
    if isinstance(bounds, str) and bounds != "schema":
        raise InvalidData(f"bounds={bounds!r}: give a mapping, a pair, or 'schema'")
    if isinstance(bounds, Mapping):
        if unknown := [name for name in bounds if name not in schema.names]:
            raise InvalidData(
                f"bounds= names {unknown[0]!r}, which is no column; columns are {schema.names[:20]}"
            )
        given = dict(bounds)
    elif bounds is None or isinstance(bounds, str):
        given = {}
    else:
        given = {column.name: bounds for column in schema.columns if column.kind != "category"}
    vouched = isinstance(bounds, str)
    made = [
        _public(column, given.get(column.name), trusted=(vouched and not column.observed) or not private)
        for column in schema.columns
    ]
    if void := [column.name for column, public in zip(schema.columns, made, strict=True) if public is None]:
        shown = ", ".join(map(repr, void[:5])) + (", ..." if len(void) > 5 else "")
        if vouched:
            raise GuaranteeVoid(
                f"dp_logistic: bounds='schema', but the schema read the bounds or categories of {shown} off the data, "
                "where they are some people's values; state them: schema.with_columns({'age': {'low': 0, 'high': 110}, "
                "'sex': {'categories': ('f', 'm')}}), or correct them in the schema file and remove observed = true"
            )
        raise GuaranteeVoid(
            f"dp_logistic: how do you know the bounds or categories of {shown}? What the data shows is some people's "
            "values; give bounds={'age': (0, 110), 'sex': ('f', 'm'), ...} from what the column means, or "
            "bounds='schema' with a schema that states them"
        )
    return tuple(public for public in made if public is not None)


def _public(column: Column, given: Any, *, trusted: bool) -> PublicColumn | None:
    """Return what is publicly known of one column; None if that is nothing."""
    from casemate.privacy.logistic import PublicColumn

    if column.kind == "category":
        # what a dtype says and no row; the categories 0 and 1 equal false and true, but were seen
        told = [type(cell) for cell in column.categories] == [bool, bool]
        if given is None and not (trusted or told):
            return None
        if given is not None and not isinstance(given, (list, tuple)):
            raise InvalidData(f"the categories of {column.name!r} must be a list; got {given!r:.80}")
        known = column.categories if given is None else tuple(given)
        if unlisted := [name for name in column.categories if name not in known]:
            raise InvalidData(
                f"bounds= lists the categories of {column.name!r} without {unlisted[0]!r}; add it"
            )
        return PublicColumn(name=column.name, categories=known)
    if given is None and not trusted:
        return None
    pair = (column.low, column.high) if given is None else given
    try:
        low, high = map(float, pair)
    except (TypeError, ValueError):
        raise InvalidData(f"bounds of {column.name!r} must be (low, high); got {pair!r}") from None
    if not (
        math.isfinite(low)
        and math.isfinite(high)
        and math.isfinite(high - low)
        and (low < high or (given is None and low == high))
    ):
        raise InvalidData(f"bounds of {column.name!r} must be two finite numbers, low < high; got {pair!r}")
    return PublicColumn(name=column.name, low=low, high=high)


def _evidence(plan: Plan, *, vouched: bool) -> tuple[Detail, ...]:
    word = 'bounds="schema": your word that nobody wrote its bounds and categories off these rows. '
    return (
        *plans.told(plan),
        Note(
            text=f"{word if vouched else ''}Taken as known to all: columns, bounds, categories, class names, and delta "
            f"(by default it tells the power of ten of how many there are, each a {plan.unit})."
        ),
        Note(
            text="Not covered: columns, epsilon or model chosen by looking at the same people; this report; other "
            "models trained on them, whose cost adds up; the last bits of floating-point noise."
        ),
    )
