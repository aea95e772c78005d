# SPDX-License-Identifier: Apache-2.0
"""Training with differential privacy: the target's own network again, with a bound on what its weights tell of anybody.

**What it does.** The model is trained anew by its Recipe, but each step is a noisy sum (Abadi et al. 2016):

    g = ( sum over units u of the batch of  clip(sum over rows r of u of  grad loss_r)  +  sigma C N(0, 1) ) / B

A unit is a person with all their rows where rows have owners, else a record. ``clip`` scales a unit's gradient, over
all parameters together, to norm C at most, so one unit more or less moves the sum by at most C however many rows it
has. Every unit is in a batch with probability q on its own (Poisson), drawn anew each step from the operating system's
generator and kept secret; an empty batch is a step of noise alone. There are epochs * ceil(1 / q) steps, fixed
beforehand. B is the *expected* size of a batch, a constant; the real one is private. The optimiser of the Recipe works
on g and so costs nothing further. Sigma is the least noise for which the accountant's upper bound is at most
``epsilon`` at ``delta``, or for which nobody recognises more than ``max_tpr`` of members at ``at_fpr`` false alarms.

**Settings.** ``settings`` replaces parts of the Recipe for this training, and sets ``clip`` (by default 1 for a
record, 3 for a person). Noise wants larger batches than an ordinary training: where ``batch_size`` is not given it is
an eighth of the units, or the Recipe's if that is more. q = batch_size / n with n the power of two nearest to the
number of units; that and delta are all that the plan says of the data.

**What the promise rests on.** All that the training reads besides rows must be public: the architecture, the classes,
the categories of a column and so their codes, the scaling of the inputs. Hence categories that were read off the rows
are refused, and ``Recipe(preprocessing=)``, which is fitted to them: scale by public bounds inside ``factory``. So is a
``factory`` that brings the weights of the model under test. Layers that mix the rows of a batch (BatchNorm), models and
losses that remember rows, losses and transforms across rows and a choice of the epoch by private rows are refused too,
before the first step; GroupNorm and LayerNorm are fine. Augmentation that looks at one row is fine, and its draws
follow from a secret number here, as do dropout's. The noise is never seeded or recorded: the same seed does not give
the same model.

**What it does not cover.** Epsilon, settings or architecture chosen by looking at the same people; weights that the
``factory`` brings along and that were trained on them; the audit and its report; a second model trained on them, whose
cost adds to this one's; attacks on the last bits of floating-point sums. Membership is bounded, not what the model
says about a group.

**Cost.** Every row has a gradient of its own (``torch.func``), in micro-batches: a step of a small network costs
15 to 55 times an ordinary one's (bench/dp_sgd.py). The loss of a private training is a private number, so none is
reported and a training that diverges is noticed by its weights alone. With fewer than some hundred people, or at
epsilon well under 1, noise is most of the model.

**Pitfalls.** Clipping far below the usual length of a unit's gradient does little to the ranking but shifts the
probabilities: on RAND HIE the log loss is .69 at clip 1 and .55 at 8, the AUC about .69 at both. Inputs far from the
scale 1 make gradients that clipping turns into their direction: scale them. A row with a missing value has no finite
gradient and counts as zero: fill it inside the model. Layers that ``torch.func.vmap`` cannot take (LSTM, GRU) fail.
``epsilon=inf`` promises nothing: it leaves the target as it is, or trains it plainly by ``settings`` if there are any.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from casemate.core.data import Dataset
from casemate.core.errors import GuaranteeVoid, InvalidData
from casemate.core.extras import lazy
from casemate.core.methods import method
from casemate.core.run import Run
from casemate.core.schema import is_hole
from casemate.core.types import MODULE, REFIT, Detail, Note, Recipe, Target
from casemate.privacy import plan as plans
from casemate.privacy.plan import Plan
from casemate.training import per_example, secure
from casemate.training.isolation import seeded, user_code
from casemate.training.per_example import Planned
from casemate.training.pieces import TrainingPieces
from casemate.training.steps import Stage

torch = lazy("torch")

CLIP: Mapping[plans.Unit, float] = {"record": 1.0, "person": 3.0}
START = 20160701  # seeds a network whose weights are looked at and thrown away; not 0, which users give
SHARE = 8  # of the units stand in a batch: one in so many
OF_THE_RECIPE = ("optimiser", "learning_rate", "momentum", "weight_decay", "epochs", "batch_size")


@method(
    kind="defence",
    needs={MODULE, REFIT},
    tasks={"binary", "multiclass", "regression"},
    inputs={"table", "image"},
    cost="one fit, a step of a small network 15 to 55 times as long",
    null={"epsilon": math.inf},
    trial={"epsilon": 1.0},
    private_noise=True,
    title={"en": "Training with differential privacy (DP-SGD)", "zh": "差分隐私训练（DP-SGD）"},
    reference="arXiv:1607.00133; arXiv:2204.13650",
)
def dp_sgd(
    target: Target,
    data: Dataset,
    *,
    epsilon: float | None = None,
    delta: float | None = None,
    max_tpr: float | None = None,
    at_fpr: float | None = None,
    settings: Mapping[str, Any] | None = None,
    run: Run | None = None,
) -> TrainingPieces:
    """Train the network again with differential privacy; see the top of this file.

    Args:
        target: a torch model with a recipe.
        data: its training rows; the unit of privacy is the person where rows have owners, else the record.
        epsilon: the privacy loss; or ``max_tpr`` and ``at_fpr``: the most members anybody may recognise at that share
            of false alarms. Exactly one of the two.
        delta: at most 1 / (10 units); by default the largest power of ten below that.
        settings: of this training, by name: ``clip``, and of the Recipe ``optimiser``, ``learning_rate``,
            ``momentum``, ``weight_decay``, ``epochs``, ``batch_size`` (units in a batch on average).

    Raises:
        GuaranteeVoid: a model or recipe under which the guarantee would be false.
        InvalidData: no or two targets of privacy, a delta that is too large, an unknown setting.

    >>> import casemate as cm
    >>> x = np.random.default_rng(0).uniform(-1, 1, (300, 2))
    >>> data = cm.Dataset(train=(x[:200], (x[:200, 0] > 0) * 1), holdout=(x[200:], (x[200:, 0] > 0) * 1))
    >>> recipe = cm.Recipe(factory=lambda: torch.nn.Linear(2, 2), epochs=5, learning_rate=1.0)
    >>> target = cm.wrap(recipe.factory(), recipe=recipe, outputs="logits")
    >>> change = cm.harden(target, data, using=[cm.method("dp_sgd", epsilon=3, delta=1e-4)])
    >>> plan = change.target.claims[0]
    >>> plan.steps, plan.rate, plan.epsilon <= 3
    (40, 0.125, True)

    Source: Abadi et al. 2016, arXiv:1607.00133; De et al. 2022, arXiv:2204.13650; Kulynych et al. 2024.
    """
    private = plans.asked("dp_sgd", epsilon=epsilon, delta=delta, max_tpr=max_tpr, at_fpr=at_fpr)
    before, chosen = target.recipe, dict(settings or {})
    if not isinstance(before, Recipe):
        raise InvalidData("dp_sgd trains a torch model by its recipe; give wrap(model, recipe=Recipe(...))")
    if unknown := [name for name in chosen if name not in ("clip", *OF_THE_RECIPE)]:
        known = ", ".join(("clip", *OF_THE_RECIPE))
        raise InvalidData(f"dp_sgd: settings= names {unknown[0]!r}; it may name {known}")
    asked_clip = chosen.pop("clip", None)
    if not private:
        plain = (
            f"trained without privacy (epsilon=inf) by {chosen}" if chosen else "epsilon=inf: nothing changed"
        )
        return TrainingPieces(recipe=replace(before, **chosen) if chosen else None, summary=plain)
    per_example.check_recipe(before)
    _check_public(data)
    _check_start(target, before)
    unit, n_units = plans.unit_of(data.train.person, len(data.train))
    delta = plans.default_delta(n_units) if delta is None else delta
    plans.check_delta(delta, n_units, unit)
    about = 2 ** round(math.log2(n_units))  # the exact number is private
    recipe = replace(before, **{"batch_size": max(before.batch_size, about // SHARE), **chosen})
    rate = min(1.0, recipe.batch_size / about)
    outline = Plan(
        unit=unit,
        clip=CLIP[unit] if asked_clip is None else asked_clip,
        noise_multiplier=1.0,
        steps=recipe.epochs * steps_an_epoch(rate),
        delta=delta,
        sampler="poisson" if rate < 1 else "all",
        rate=rate,
    )
    plan = plans.resolved(outline, epsilon=epsilon, max_tpr=max_tpr, at_fpr=at_fpr)
    return TrainingPieces(
        sampler=PoissonUnits(claim=plan),
        aggregate=NoisyMean(claim=plan, expected=rate * about),
        recipe=recipe,
        summary=f"trained with {plan}",
        evidence=(*plans.told(plan), *_told(plan, recipe)),
        claims=(plan,),
    )


def _check_public(data: Dataset) -> None:
    """Refuse codes that would be others without somebody: those of categories that were read off the rows."""
    seen = [column.name for column in data.schema.columns if column.kind == "category" and column.observed]
    if seen:
        raise GuaranteeVoid(
            f"dp_sgd: the categories of {seen[0]!r}, and so its codes, were read off the private rows; state them from "
            f"what the column means: schema.with_columns({{{seen[0]!r}: {{'categories': (...)}}}})"
        )


def _check_start(target: Target, recipe: Recipe) -> None:
    """Refuse to start from the weights of the model under test: they were trained on the same rows without noise."""
    with seeded(START), user_code("building the model", "Recipe(factory=) must return a fresh nn.Module"):
        fresh = [
            (name, value.detach())
            for name, value in recipe.factory().named_parameters()
            if value.requires_grad
        ]
    known = [value for value in target.module().parameters() if value.is_floating_point()]
    for name, value in fresh:
        if value.numel() < 2 or bool(
            (value == value.reshape(-1)[0]).all()
        ):  # of a constant it cannot be told
            continue
        if any(value.shape == other.shape and torch.equal(value.to(other), other) for other in known):
            raise GuaranteeVoid(
                f"Recipe(factory=) brings along {name!r} of the model under test, which was trained on the same rows "
                "without noise; let the factory build new weights, or freeze public ones (requires_grad_(False))"
            )


def steps_an_epoch(rate: float) -> int:
    """Return after how many steps every unit was in a batch about once.

    >>> steps_an_epoch(0.3)
    4
    """
    return math.ceil(1 / rate)


@dataclass(frozen=True, kw_only=True)
class PoissonUnits(Planned):
    """Draws the rows of each step: every unit with all its rows, or not at all, with probability ``claim.rate``."""

    draws: Callable[[], secure.Source] = secure.source

    def __call__(self, stage: Stage) -> Iterator[Any]:
        plan: Plan = self.claim
        n_steps = steps_an_epoch(plan.rate)
        if stage.recipe.epochs * n_steps != plan.steps:
            raise GuaranteeVoid(
                f"the plan accounts for {plan.steps} steps, this training takes {stage.recipe.epochs * n_steps}; "
                "harden again with the epochs you want (settings=) in place of changing the recipe"
            )
        owner = np.arange(stage.n_rows)  # (n,) the number of the unit that each row belongs to
        if plan.unit == "person":
            person = _people(stage)
            if any(is_hole(one) for one in person.tolist()):  # each would count as a person of its own
                raise GuaranteeVoid("person contains missing values; give every row an owner")
            owner = _numbered(person)
        n_units = int(owner.max()) + 1
        source = self.draws()
        for _ in range(n_steps):
            inside = np.zeros(n_units, bool)
            inside[source.poisson_sample(n_units, plan.rate)] = True
            yield torch.from_numpy(np.flatnonzero(inside[owner])).to(stage.device)


@dataclass(frozen=True, kw_only=True)
class NoisyMean(Planned):
    """Fills ``.grad`` with the noisy sum of clipped gradients, divided by the ``expected`` number of units.

    It returns no loss: that of a batch is private, and whatever is decided by it would be too.
    """

    expected: float
    draws: Callable[[], secure.Source] = secure.source

    def __call__(self, x: Any, y: Any, stage: Stage) -> Any:
        plan: Plan = self.claim
        if len(x) != len(stage.rows):
            raise GuaranteeVoid(
                f"the transform made {len(x)} rows of {len(stage.rows)}, so it is unknown whose they are; "
                "use one that changes each row by itself"
            )
        units = None
        if plan.unit == "person":
            units = torch.from_numpy(_numbered(_people(stage)[stage.rows.cpu().numpy()])).to(x.device)
        loss = per_example.row_loss(stage)
        sums, _ = per_example.clipped_sum(stage.model, loss, x, y, units, plan.clip)
        source, spread = self.draws(), plan.noise_multiplier * plan.clip
        for name, parameter in stage.model.named_parameters():
            if name in sums:
                noise = torch.from_numpy(source.gaussians(tuple(parameter.shape))).to(parameter.device)
                # in float64 until the noise is in
                parameter.grad = ((sums[name].double() + spread * noise) / self.expected).to(parameter.dtype)
        return torch.zeros((), dtype=stage.dtype, device=x.device)


def _people(stage: Stage) -> np.ndarray:
    """Return whose row each row of the training is (n,)."""
    if stage.facts.person is None:
        raise GuaranteeVoid(
            "the plan protects people but the training was not told whose row each is; give Facts(person=) "
            "(a wrapper of the target must pass it on: Target.refit_people)"
        )
    person = np.asarray(stage.facts.person)
    if person.shape != (stage.n_rows,):
        raise InvalidData(f"person has {len(person)} entries for {stage.n_rows} rows, or is no plain list")
    return person


def _numbered(person: np.ndarray) -> np.ndarray:
    """Return owners as whole numbers from 0."""
    return np.unique(person, return_inverse=True)[1].reshape(-1)


def _told(plan: Plan, recipe: Recipe) -> tuple[Detail, ...]:
    units = "people" if plan.unit == "person" else "records"
    return (
        Note(
            text=f"Trained by {recipe.optimiser}, learning rate {recipe.learning_rate:g}, {recipe.epochs} epochs of "
            f"{steps_an_epoch(plan.rate)} steps with {recipe.batch_size:,} {units} each on average."
        ),
        Note(
            text="Taken as known to all: the architecture and what its factory brings along, the settings, the "
            f"classes, and from delta and the sampling rate about how many {units} there are (to a factor of two)."
        ),
        Note(
            text="Not covered: model, settings or epsilon chosen by looking at the same people; this report; other "
            "models trained on them, whose cost adds up; the last bits of floating-point sums."
        ),
    )
