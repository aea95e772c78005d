# SPDX-License-Identifier: Apache-2.0
"""The gradient of each row by itself, clipped by whoever the row belongs to: what a private training step is made of.

A unit is a record, or a person with all their rows. The gradients of a unit's rows are added up and the sum is clipped
to norm ``clip`` over all parameters together, so one unit moves the sum of all by at most ``clip`` however many rows
it has. Each row goes through the model alone (``torch.func``: vmap of grad of the functional call), so no layer and no
loss can let rows of a batch see each other, a weight that is used in several places gets one gradient, and every row
has its own dropout mask. Rows are taken in micro-batches whose gradients fit into ``MEMORY``.

**What it refuses** (:func:`sound`), before the first step: layers that mix the rows of a batch or keep statistics of
them, a model or a loss that remembers earlier rows, a transform that mixes rows, a loss that is no mean over rows,
parameters without a gradient, or with one that a functional call does not see, preprocessing that is fitted to the
data, a choice of the epoch by private rows, a sampler or an aggregate that is not the claim's own. Where it must ask
the model it asks with made-up rows. What else it hands to parts that others wrote does not tell how many rows there
are or whose (:func:`blind`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from casemate.core.errors import GuaranteeVoid, InvalidData
from casemate.core.extras import lazy
from casemate.core.types import Recipe
from casemate.training import journal
from casemate.training.isolation import seeded, user_code
from casemate.training.pieces import TrainingPieces
from casemate.training.steps import Stage, asleep

torch = lazy("torch")

Loss = Callable[[Any, Any], Any]  # (raw, y) of one row as a batch of one -> its loss, a scalar
MEMORY = 64 * 2**20  # bytes of per-example gradients at once
MOST_ROWS = 512  # at once: what the layers keep for the backward pass is not counted in MEMORY
INSTEAD = "use GroupNorm or LayerNorm, which look at one row"


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A sampler or an aggregate that does what a claim says; training checks that it is the claim it states."""

    claim: Any


def clipped_sum(
    model: Any, loss: Loss, x: Any, y: Any, units: Any, clip: float
) -> tuple[dict[str, Any], int]:
    """Return the sum over units of their gradients, each clipped to norm ``clip`` over all parameters.

    Args:
        model: in the mode it is trained in; its ``.grad`` are not touched.
        loss: of one row, given as a batch of one.
        x, y: rows (b, ...) and labels (b, ...), possibly none.
        units: whose row each is (b,), whole numbers; None: each row is a unit of its own.
        clip: the most that one unit contributes, in L2 norm.

    Returns:
        The sums by parameter name, in at least float32, and how many units had a gradient that is not finite and
        count as zero. That number is private: it is for tests, and nothing else may follow from it.

    >>> net = torch.nn.Linear(1, 1, bias=False)
    >>> x = torch.tensor([[3.0], [4.0], [0.5]])
    >>> sums, _ = clipped_sum(net, lambda raw, y: raw.sum(), x, x, torch.tensor([7, 7, 9]), 1.0)
    >>> round(float(sums["weight"]), 3)
    1.5
    """
    learnt = _learnt(model)
    exact = {
        name: torch.promote_types(value.dtype, torch.float32) for name, value in learnt.items()
    }  # float16 loses the norm
    sums = {name: torch.zeros_like(value, dtype=exact[name]) for name, value in learnt.items()}
    if units is not None:  # the rows of a unit stand together
        units, order = torch.sort(units, stable=True)
        x, y = x[order], y[order]
    gradients = torch.func.vmap(_gradient(model, loss), in_dims=(None, 0, 0), randomness="different")
    weight = sum(value.numel() * exact[name].itemsize for name, value in learnt.items())
    most = min(max(MEMORY // weight, 1), MOST_ROWS)
    skipped, carried = 0, None  # the part of a unit whose rows go on in the next micro-batch
    for start in range(0, len(x), most):
        end = min(start + most, len(x))
        found = gradients(learnt, x[start:end], y[start:end])
        parts = {
            name: value.reshape(len(value), -1).to(exact[name]) for name, value in found.items()
        }  # (m, p)
        if units is not None:
            parts = _by_unit(parts, units[start:end])
            if carried is not None:
                for name, value in carried.items():
                    parts[name][:1] += value
            goes_on = end < len(x) and bool(units[end] == units[end - 1])
            carried = {name: value[-1:].clone() for name, value in parts.items()} if goes_on else None
            if goes_on:
                parts = {name: value[:-1] for name, value in parts.items()}
        skipped += _add_clipped(sums, parts, clip)
    return sums, skipped


def _by_unit(parts: dict[str, Any], units: Any) -> dict[str, Any]:
    """Return the gradients (m, p) of rows added up by unit (u, p); ``units`` (m,) are sorted."""
    _, place = torch.unique_consecutive(units, return_inverse=True)
    n_units = int(place[-1]) + 1
    return {
        name: torch.zeros((n_units, value.shape[1]), dtype=value.dtype, device=value.device).index_add_(
            0, place, value
        )
        for name, value in parts.items()
    }


def _add_clipped(sums: dict[str, Any], parts: dict[str, Any], clip: float) -> int:
    """Add one gradient a unit (u, p) to ``sums``, clipped over all parameters; return how many were not finite."""
    norms = [torch.linalg.vector_norm(value, dim=1, dtype=torch.float64) for value in parts.values()]
    norm = torch.linalg.vector_norm(torch.stack(norms), dim=0)  # (u,)
    factor = clip / norm.clamp_min(clip)
    # false for NaN and infinity, and where so small a factor would be rounded up by much
    known = factor >= max(torch.finfo(value.dtype).tiny for value in parts.values())
    skipped = int((~known).sum())
    for name, value in parts.items():
        kept = torch.where(known[:, None], value, 0.0) if skipped else value  # 0 * NaN is NaN
        # a hair less, so that rounding to the dtype of the gradients does not lift them above the norm
        share = torch.where(known, factor * (1 - 2 * torch.finfo(value.dtype).eps), 0.0).to(value.dtype)
        sums[name] += (share @ kept).reshape(sums[name].shape)
    return skipped


def _learnt(model: Any) -> dict[str, Any]:
    """Return the parameters that are trained, each once; without their history."""
    return {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}


def _gradient(model: Any, loss: Loss) -> Callable[..., Any]:
    """Return (parameters, row, label) -> gradient of that row's loss by parameter name."""

    def one(learnt: dict[str, Any], row: Any, label: Any) -> Any:
        # vmap would take attention's fused kernel row by row
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            raw = torch.func.functional_call(model, learnt, (row[None],))
        # a model that squeezes its output drops the batch of one as well
        return loss(raw if raw.ndim and len(raw) == 1 else raw[None], label[None])

    return torch.func.grad(one)


# ---- what would make a claim false ----


def sound(pieces: TrainingPieces, stage: Stage, x: Any, y: Any) -> None:
    """Refuse a training whose claim would not hold.

    Raises:
        GuaranteeVoid: see the top of this file.
        InvalidData: a parameter that no row reaches.
    """
    for slot in ("sampler", "aggregate"):
        part = getattr(pieces, slot)
        # of two claims, the rate of one and the noise of the other are neither
        if not isinstance(part, Planned) or any(part.claim != claim for claim in pieces.claims):
            raise GuaranteeVoid(
                f"the training claims {pieces.claims[0]}, but its {slot} is not the one of that plan; "
                "take both from dp_sgd"
            )
    if pieces.select is not None:
        raise GuaranteeVoid(
            "the epoch to keep would be chosen by private rows held back; keep the last epoch (select=None)"
        )
    _check_front(stage.recipe)
    _check_layers(stage.model)
    # rows that nobody gave: below 1/2, so that a model that reads codes finds code 0
    made = torch.Generator(device="cpu").manual_seed(0)
    rows = (torch.rand((8, *x.shape[1:]), generator=made) / 2).to(x)
    if y.is_floating_point():
        labels = torch.rand((8, *y.shape[1:]), generator=made).to(y)
    else:
        labels = (torch.arange(8) % (1 if stage.facts.n_classes == 1 else 2)).to(y)
    if pieces.transform is not None:
        _transform_apart(pieces.transform, stage, rows, labels)
    others, rows, labels = rows[3:6], rows[:3], labels[:3]
    _rows_apart(stage, rows)
    _nothing_kept(stage, rows, others, labels)
    _loss_apart(stage, rows, labels)
    _all_reached(stage, rows, labels)


def check_recipe(recipe: Recipe) -> None:
    """Refuse what can be seen of a recipe before any training: its preprocessing, and the layers of a fresh model.

    Raises:
        GuaranteeVoid: preprocessing that is fitted to rows, a layer that mixes them.

    >>> check_recipe(Recipe(factory=lambda: torch.nn.Linear(2, 2)))
    """
    _check_front(recipe)
    with seeded(0), user_code("building the model", "Recipe(factory=) must return a fresh nn.Module"):
        model = recipe.factory()
        _check_layers(model.train())


def _check_front(recipe: Recipe) -> None:
    if recipe.preprocessing is not None:
        raise GuaranteeVoid(
            "Recipe(preprocessing=) is fitted to the private rows; scale by public bounds inside Recipe(factory=)"
        )


def _check_layers(model: Any) -> None:
    for name, part in model.named_modules():
        if _keeps_or_mixes(part):
            raise GuaranteeVoid(
                f"layer {name or 'model'!r} ({type(part).__name__}) mixes the rows of a batch or keeps their "
                f"statistics; {INSTEAD}"
            )


def _keeps_or_mixes(part: Any) -> bool:
    """Tell a layer with statistics of rows; one that is asleep and has them from elsewhere is harmless."""
    kinds = torch.nn.modules
    if isinstance(part, kinds.batchnorm._BatchNorm):  # SyncBatchNorm is one
        return part.training or part.running_mean is None
    return (
        isinstance(part, kinds.instancenorm._InstanceNorm) and part.training and part.running_mean is not None
    )


def blind(stage: Stage) -> Stage:
    """Return a stage without the number of rows, which of them are in the batch, and whose they are.

    What a loss or a schedule made of them would move every row's part of the sum, or the step, unclipped.

    >>> stage = Stage(model=None, recipe=Recipe(factory=list), n_rows=9, seed=0, order=None, loss=None)
    >>> blind(stage).n_rows
    1
    """
    return replace(stage, rows=None, n_rows=1, facts=replace(stage.facts, person=None))


def row_loss(stage: Stage) -> Loss:
    """Return the loss of the training for one row alone; it is told nothing of the others."""
    alone = blind(stage)
    return lambda raw, y: stage.loss(raw, y, alone)  # type: ignore[misc]  # the loop sets it


def _rows_apart(stage: Stage, rows: Any) -> None:
    """Refuse a model in which a row's output depends on the other rows, or that keeps something of them."""
    before = {name: value.clone() for name, value in stage.model.named_buffers()}
    moved = rows.clone().requires_grad_()
    raw = stage.model(moved)
    if raw.requires_grad:
        sums = raw[0].reshape(-1) @ torch.arange(1, raw[0].numel() + 1).to(raw)  # probabilities add up to 1
        (reached,) = torch.autograd.grad(sums, moved, allow_unused=True)
        if reached is not None and bool((reached[1:] != 0).any()):
            raise GuaranteeVoid(f"the model mixes the rows of a batch; {INSTEAD}")
    changed = [name for name, value in stage.model.named_buffers() if not _same(value, before.get(name))]
    if changed:
        raise GuaranteeVoid(
            f"the model writes to its buffer {changed[0]!r} while it trains, which no clipping bounds; {INSTEAD}"
        )
    with asleep(stage.model), torch.no_grad():
        whole, alone = stage.model(rows), torch.cat([stage.model(row[None]).reshape(1, -1) for row in rows])
        if not torch.allclose(whole.reshape(len(rows), -1), alone, rtol=1e-2, atol=1e-4, equal_nan=True):
            raise GuaranteeVoid(f"the model answers otherwise for a row alone than in a batch; {INSTEAD}")


def _transform_apart(transform: Callable[..., Any], stage: Stage, rows: Any, labels: Any) -> None:
    """Refuse a transform that lets a row depend on the other rows of its batch."""
    here = replace(blind(stage), rows=torch.arange(len(rows), device=rows.device))

    def moved(given: Any) -> tuple[Any, Any]:
        with seeded(0, stage.device):
            x, y = transform(given.clone(), labels.clone(), here)
        return x.detach(), y.detach()

    x, y = moved(rows)
    if len(x) != len(rows):  # whose they are is unknown: the aggregate says so
        return
    for k in range(len(rows)):
        other = rows.clone()
        other[k] = 0.5 - other[k]
        new_x, new_y = moved(other)
        rest = torch.arange(len(rows), device=rows.device) != k
        for value, new in ((x, new_x), (y, new_y)):
            if not torch.allclose(value[rest], new[rest], rtol=1e-2, atol=1e-4, equal_nan=True):
                raise GuaranteeVoid(
                    "the transform mixes the rows of a batch, so clipping one row does not bound what a person "
                    "adds; use one that changes each row by itself (no mixup, no scaling by the batch)"
                )


def _nothing_kept(stage: Stage, rows: Any, others: Any, labels: Any) -> None:
    """Refuse a model or a loss that keeps something of the rows it saw outside parameters and buffers."""
    with user_code("the model", "it must take a batch of rows"), torch.no_grad():
        held = _held(stage.model)
        stage.model(others)
    if changed := [name for name, value in _held(stage.model).items() if value != held[name]]:
        raise GuaranteeVoid(
            f"the model keeps something of the rows it saw in its attribute {changed[0]!r}, which no clipping bounds "
            "and which would be given away with it; keep nothing in forward"
        )
    learnt = _learnt(stage.model)
    gradients = torch.func.vmap(
        _gradient(stage.model, row_loss(stage)), in_dims=(None, 0, 0), randomness="different"
    )

    def found(given: Any) -> dict[str, Any]:
        with seeded(0, stage.device):
            return {name: value.detach() for name, value in gradients(learnt, given, labels).items()}

    first = found(rows)
    found(others)
    again = found(rows)
    for name, value in first.items():
        atol = 1e-4 * float(value.abs().max()) + 1e-7
        if not torch.allclose(value, again[name], rtol=1e-2, atol=atol, equal_nan=True):
            raise GuaranteeVoid(
                f"the gradient of {name!r} for a row is another one after other rows were seen: the model or the loss "
                "remembers them, which no clipping bounds; keep nothing in forward, in hooks or in the loss"
            )


def _held(model: Any) -> dict[str, str]:
    """Return by name what each layer holds as plain attributes, as digests; a layer's first call may fill a cache."""
    return {
        f"{where}.{name}".lstrip("."): journal.fingerprint(value)
        for where, part in model.named_modules()
        for name, value in vars(part).items()
        if name not in ("_parameters", "_buffers", "_modules")
    }


def _same(value: Any, before: Any) -> bool:
    return before is not None and torch.equal(value, before)


def _loss_apart(stage: Stage, rows: Any, labels: Any) -> None:
    """Refuse a loss that is not the mean over rows: by rows alone it would be another one."""
    with asleep(stage.model), torch.no_grad():
        raw, loss = stage.model(rows), row_loss(stage)
        whole = loss(raw, labels)
        alone = torch.stack([loss(raw[k : k + 1], labels[k : k + 1]) for k in range(len(rows))]).mean()
    if not torch.allclose(whole, alone, rtol=1e-2, atol=1e-4, equal_nan=True):
        raise GuaranteeVoid(
            "the loss of a batch is not the mean of its rows' losses, so no row's part of it can be bounded; "
            "use one that is (no contrast between rows, no class weights that a batch normalises)"
        )


def _all_reached(stage: Stage, rows: Any, labels: Any) -> None:
    """Refuse parameters that get no gradient, or another one by ``functional_call`` than by themselves."""
    named = {name: value for name, value in stage.model.named_parameters() if value.requires_grad}
    loss = row_loss(stage)

    def direct() -> Iterator[tuple[str, Any]]:
        total = loss(stage.model(rows), labels)
        found = torch.autograd.grad(total, list(named.values()), allow_unused=True)
        return zip(named, found, strict=True)

    if missed := [name for name, gradient in direct() if gradient is None]:
        raise InvalidData(
            f"parameter {missed[0]!r} gets no gradient from a row; leave it out of the model or freeze it "
            "(requires_grad_(False))"
        )
    with asleep(stage.model):
        mean = torch.func.vmap(_gradient(stage.model, loss), in_dims=(None, 0, 0), randomness="different")
        alone = mean(_learnt(stage.model), rows, labels)
        for name, gradient in direct():
            if gradient is None:
                continue
            each = alone[name].detach()
            one = each.mean(0)
            size = float(torch.maximum(gradient.abs().max(), each.abs().max()))  # rows may cancel
            slack = max(1e-3, 4 * torch.finfo(gradient.dtype).eps) * size + 1e-6
            if not torch.allclose(one, gradient, rtol=1e-2, atol=slack, equal_nan=True):
                raise GuaranteeVoid(
                    f"parameter {name!r} is used where torch.func.functional_call does not reach it (kept in a list, "
                    "captured by a function, or read by name elsewhere); use it as an attribute of its own module"
                )
