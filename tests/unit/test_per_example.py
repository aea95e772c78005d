# SPDX-License-Identifier: Apache-2.0
"""Clipped sums of per-example gradients against a plain loop, their sensitivity, and what is refused beforehand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import casemate as cm
from casemate.core.errors import GuaranteeVoid, InvalidData
from casemate.training import loop, per_example
from casemate.training.per_example import Planned, clipped_sum
from casemate.training.pieces import TrainingPieces
from casemate.training.steps import Facts, Selection

torch.func.grad(torch.sum)(torch.zeros(1))  # what torch loads at the first call, seconds of it
F64 = torch.float64


class Tied(nn.Module):
    """One table of weights that reads codes and writes logits."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Any) -> Any:
        return self.head(self.norm(self.table((4.99 * x.abs().clamp(max=1)).long()).tanh().mean(1)))


class Bare(nn.Module):
    """A layer used twice, a parameter outside any layer, one without a dimension, one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.weight = nn.Parameter(torch.randn(3, 5))
        self.gain = nn.Parameter(torch.tensor(1.3))
        self.frozen = nn.Parameter(torch.randn(5), requires_grad=False)

    def forward(self, x: Any) -> Any:
        return self.gain * (self.layer(self.layer(x).tanh()) @ self.weight) + self.frozen


class Attends(nn.Module):
    """Attention between the columns of one row."""

    def __init__(self) -> None:
        super().__init__()
        self.spread = nn.Linear(1, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Any) -> Any:
        hidden = self.spread(x[:, :, None])
        return self.head(self.attention(hidden, hidden, hidden, need_weights=False)[0].mean(1))


class Squeezes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x: Any) -> Any:
        return self.layer(x).squeeze()


def convolution() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5)
    )


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 5))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (3,)),
    "convolution": (convolution, (2, 4, 4)),
    "tied": (Tied, (3,)),
    "bare": (Bare, (3,)),
    "attention": (Attends, (3,)),
}


def entropy(raw: Any, y: Any) -> Any:
    return nn.functional.cross_entropy(raw, y)


def made(name: str, n: int, seed: int) -> tuple[nn.Module, Any, Any, Any]:
    """A float64 model with rows, labels and owners; many rows belong to the same few."""
    build, shape = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build().double()
        return model, torch.randn(n, *shape, dtype=F64), torch.arange(n) % 5, torch.randint(0, 4, (n,))


def by_hand(model: nn.Module, x: Any, y: Any, units: Any, clip: float) -> tuple[dict[str, Any], float]:
    """The same sum by one backward pass a row; and the largest norm before clipping."""
    learnt = {name: p for name, p in model.named_parameters() if p.requires_grad}
    whole = {name: torch.zeros_like(p) for name, p in learnt.items()}
    most = 0.0
    for unit in units.unique():
        total = {name: torch.zeros_like(p) for name, p in learnt.items()}
        for k in torch.nonzero(units == unit)[:, 0]:
            found = torch.autograd.grad(entropy(model(x[k : k + 1]), y[k : k + 1]), list(learnt.values()))
            for name, gradient in zip(total, found, strict=True):
                total[name] += gradient
        norm = float(torch.cat([value.flatten() for value in total.values()]).norm())
        most = max(most, norm)
        for name in whole:
            whole[name] += total[name] * min(1.0, clip / norm)
    return whole, most


def flat(sums: dict[str, Any]) -> np.ndarray:
    return torch.cat([value.flatten().double() for value in sums.values()]).numpy()


@pytest.mark.parametrize("people", [False, True], ids=["records", "people"])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_clipped_sum_is_that_of_a_loop_over_rows(
    name: str, people: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x, y, owner = made(name, 17, 3)
    for clip in (0.3, 1e6):  # clipped, not clipped
        wanted, most = by_hand(model, x, y, owner if people else torch.arange(17), clip)
        assert (most > clip) == (clip < 1)
        for micro in (1, 3, 256):  # people go on from one micro-batch to the next
            monkeypatch.setattr(per_example, "MOST_ROWS", micro)
            found, skipped = clipped_sum(model, entropy, x, y, owner if people else None, clip)
            assert skipped == 0 and found.keys() == wanted.keys()
            for key, value in wanted.items():
                assert float((found[key] - value).abs().max()) <= 1e-10
    assert all(p.grad is None for p in model.parameters())


def test_micro_batches_keep_to_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y, _ = made("mlp", 10, 0)
    seen: list[int] = []

    def watched(sums: Any, parts: dict[str, Any], clip: float) -> int:
        seen.append(sum(value.numel() * value.itemsize for value in parts.values()))
        return real(sums, parts, clip)

    real = per_example._add_clipped
    monkeypatch.setattr(per_example, "_add_clipped", watched)
    n_bytes = 8 * sum(p.numel() for p in model.parameters())
    monkeypatch.setattr(per_example, "MEMORY", 4 * n_bytes)
    clipped_sum(model, entropy, x, y, None, 1.0)
    assert seen == [4 * n_bytes, 4 * n_bytes, 2 * n_bytes]


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(sorted(MODELS)),
    seed=st.integers(0, 10_000),
    size=st.sampled_from([1e-3, 1.0, 1e4, 1e150]),
    clip=st.floats(1e-3, 100.0),
)
def test_one_person_moves_the_sum_by_at_most_the_clipping_norm(
    name: str, seed: int, size: float, clip: float
) -> None:
    model, x, y, owner = made(name, 12, seed)

    def loss(raw: Any, label: Any) -> Any:
        return size * entropy(raw, label)

    def total(rows: Any) -> np.ndarray:
        return flat(clipped_sum(model, loss, x[rows], y[rows], owner[rows], clip)[0])

    whole = total(torch.ones(12, dtype=torch.bool))
    for one in owner.unique():
        assert np.linalg.norm(whole - total(owner != one)) <= clip * (1 + 1e-9)
        assert np.linalg.norm(total(owner == one)) <= clip * (1 + 1e-14)
    if size == 1e4:  # and the bound is reached: the clipping is no tighter than it must be
        assert np.linalg.norm(total(owner == owner[0])) >= clip * (1 - 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_in_short_floats_the_norm_is_kept_as_well(dtype: Any) -> None:
    model, x, y, _ = made("mlp", 400, 1)
    model.to(dtype)
    for k in range(8):
        one = clipped_sum(model, entropy, x[k : k + 1].to(dtype), y[k : k + 1], None, 0.01)[0]
        assert all(value.dtype == torch.float32 for value in one.values())
        assert 0.0099 <= np.linalg.norm(flat(one)) <= 0.01


def test_a_factor_that_short_floats_cannot_hold_is_not_rounded_up() -> None:
    model, x = nn.Linear(1, 1, bias=False), torch.tensor([[1e37]])
    for clip in np.geomspace(
        1e-8, 1e-6, 40
    ):  # clip / norm from 1e-45 to 1e-43: below the smallest normal number
        found, _ = clipped_sum(model, lambda raw, label: raw.sum(), x, x, None, float(clip))
        assert np.linalg.norm(flat(found)) <= clip


def test_a_gradient_that_is_not_finite_counts_as_zero() -> None:
    model, x, y, owner = made("mlp", 12, 2)
    x[3, 1], x[7, 0] = float("nan"), float("inf")
    for units, bad in ((torch.arange(12), 2), (owner, len({int(owner[3]), int(owner[7])}))):
        hit = torch.isin(units, units[[3, 7]])
        found, skipped = clipped_sum(model, entropy, x, y, units, 0.5)
        wanted, _ = by_hand(model, x[~hit], y[~hit], units[~hit], 0.5)
        assert skipped == bad
        np.testing.assert_allclose(flat(found), flat(wanted), atol=1e-12)
    huge, skipped = clipped_sum(
        model, lambda raw, label: 1e300 * entropy(raw, label), x[:3], y[:3], None, 0.5
    )
    assert skipped == 3 and not flat(huge).any()  # the norm overflows


def test_no_row_gives_zeros() -> None:
    model, x, y, owner = made("mlp", 4, 0)
    for units in (None, owner[:0]):
        found, skipped = clipped_sum(model, entropy, x[:0], y[:0], units, 1.0)
        assert not flat(found).any() and skipped == 0 and len(found) == 6


def test_every_row_has_a_dropout_mask_of_its_own() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(200, 1, bias=False)).double()
    x, y = torch.ones(2, 200, dtype=F64), torch.zeros(2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found, _ = clipped_sum(model, lambda raw, label: raw.sum(), x, y, None, 1e9)
    # values 0, 2 and 4: kept by none, one or both; the middle has probability 1 - 2^-199 to occur
    assert set(np.unique(flat(found).round(6))) == {0.0, 2.0, 4.0}


def test_a_model_that_squeezes_its_output_is_understood() -> None:
    model, x = Squeezes().double(), torch.randn(5, 3, dtype=F64)
    found, _ = clipped_sum(
        model, lambda raw, label: (raw.reshape(-1) - label).square().mean(), x, x[:, 0], None, 1e9
    )
    (5 * (model(x) - x[:, 0]).square().mean()).backward()
    np.testing.assert_allclose(found["layer.weight"].numpy(), model.layer.weight.grad.numpy(), rtol=1e-12)


# ---- what is refused ----


class Mixes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 5)

    def forward(self, x: Any) -> Any:
        return self.layer(x - x.mean(0) if self.training else x)


class MixesCodes(nn.Module):
    """No gradient reaches its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(3, 5)

    def forward(self, x: Any) -> Any:
        return len(x) * self.table(x.long()).mean(1)


class Remembers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 5)
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x: Any) -> Any:
        if self.training:
            self.seen += x.detach().mean(0)
        return self.layer(x)


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 5)
        self.spare = nn.Linear(3, 5)

    def forward(self, x: Any) -> Any:
        return self.layer(x)


class Captured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 5)
        self.kept = [self.layer.weight]

    def forward(self, x: Any) -> Any:
        return self.layer(x) + x @ self.kept[0].T


class Caches(nn.Module):
    """Fills a cache by the shape of what it sees, once."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 5)
        self.places: Any = None

    def forward(self, x: Any) -> Any:
        if self.places is None:
            self.places = torch.arange(x.shape[1]) / 10
        return self.layer(x + self.places)


class Follows(nn.Module):
    """A running mean that is no buffer; by itself each row is looked at alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 5)
        self.mean = torch.zeros(3)

    def forward(self, x: Any) -> Any:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return self.layer(x - self.mean)


class Shows(nn.Module):
    """Keeps what it saw last, to be looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 5)
        self.last: list[Any] = []

    def forward(self, x: Any) -> Any:
        self.last = [x.detach()]
        return self.layer(x)


def hooked() -> nn.Module:
    """A running mean that a hook keeps for itself."""
    layer, mean = nn.Linear(3, 5), [torch.zeros(3)]

    def shift(module: Any, given: Any) -> Any:
        mean[0] = 0.9 * mean[0] + 0.1 * given[0].detach().mean(0)
        return given[0] - mean[0] if module.training else given[0]

    layer.register_forward_pre_hook(shift)
    return layer


def frozen_norm() -> nn.Module:
    class Asleep(nn.BatchNorm1d):
        def train(self, mode: bool = True) -> Any:
            return super().train(False)

    return nn.Sequential(Asleep(3), nn.Linear(3, 5))


def _contrast(raw: Any, y: Any, stage: Any) -> Any:
    return nn.functional.cross_entropy(raw - raw.mean(0), y)


def _weighted(raw: Any, y: Any, stage: Any) -> Any:
    return nn.functional.cross_entropy(raw, y, weight=torch.tensor([1.0, 9, 1, 1, 1]))


def _smoothed(raw: Any, y: Any, stage: Any) -> Any:
    return nn.functional.cross_entropy(raw, y, label_smoothing=0.1)


class Recalls:
    """Weighs a row by how the rows before it did."""

    def __init__(self) -> None:
        self.mean = torch.zeros(())

    def __call__(self, raw: Any, y: Any, stage: Any) -> Any:
        loss = nn.functional.cross_entropy(raw, y)
        weight, self.mean = 1 + self.mean, loss.detach()
        return weight * loss


class Sampler(Planned):
    def __call__(self, stage: Any) -> Any:
        yield torch.arange(stage.n_rows)


class Aggregate(Planned):
    def __call__(self, x: Any, y: Any, stage: Any) -> Any:
        found, _ = clipped_sum(stage.model, per_example.row_loss(stage), x, y, None, 1.0)
        for name, parameter in stage.model.named_parameters():
            parameter.grad = found[name].to(parameter.dtype) if name in found else None
        return torch.zeros(())


PIECES = TrainingPieces(claims=("C",), sampler=Sampler(claim="C"), aggregate=Aggregate(claim="C"))
X, Y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 5


def trained(
    factory: Callable[[], Any], pieces: TrainingPieces = PIECES, *, person: Any = None, **options: Any
) -> Any:
    recipe = cm.Recipe(factory=factory, epochs=2, pieces=pieces, **options)
    return loop.train(recipe, X, Y, seed=0, facts=Facts(n_classes=5, person=person)).model


def linear(*layers: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*layers, nn.Linear(3, 5))


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        (linear(nn.BatchNorm1d(3)), r"'0' \(BatchNorm1d\) mixes.*use GroupNorm or LayerNorm"),
        (linear(nn.Sequential(nn.SyncBatchNorm(3))), "SyncBatchNorm.*GroupNorm"),
        (linear(nn.BatchNorm1d(3, track_running_stats=False)), "BatchNorm1d"),
        (
            linear(nn.Unflatten(1, (1, 3)), nn.InstanceNorm1d(1, track_running_stats=True), nn.Flatten()),
            "Instance",
        ),
        (Mixes, "the model mixes the rows of a batch; use GroupNorm"),
        (MixesCodes, "answers otherwise for a row alone"),
        (Remembers, "writes to its buffer 'seen'"),
        (Follows, "keeps something of the rows it saw in its attribute 'mean'"),
        (Shows, "in its attribute 'last'"),
        (hooked, "another one after other rows were seen"),
        (Captured, "'layer.weight' is used where torch.func.functional_call does not reach"),
    ],
)
def test_a_model_whose_rows_meet_is_refused(factory: Any, said: str) -> None:
    with pytest.raises(GuaranteeVoid, match=said):
        trained(factory)


def test_a_parameter_that_no_row_reaches_is_an_error() -> None:
    with pytest.raises(InvalidData, match=r"'spare\.weight' gets no gradient"):
        trained(Unused)


@pytest.mark.parametrize(
    "factory",
    [
        mlp,
        frozen_norm,
        linear(nn.Dropout()),
        Caches,
        lambda: mlp().bfloat16(),
        linear(nn.Unflatten(1, (1, 3)), nn.InstanceNorm1d(1), nn.Flatten()),
    ],
)
def test_what_looks_at_one_row_is_let_through(factory: Any) -> None:
    assert not trained(factory).training


@pytest.mark.parametrize("loss", [_contrast, _weighted])
def test_a_loss_across_rows_is_refused(loss: Any) -> None:
    with pytest.raises(GuaranteeVoid, match="not the mean of its rows' losses"):
        trained(mlp, TrainingPieces(**{**vars(PIECES), "loss": loss}))


def _mixup(x: Any, y: Any, stage: Any) -> Any:
    order = torch.randperm(len(x))
    return 0.7 * x + 0.3 * x[order], y


def _centred(x: Any, y: Any, stage: Any) -> Any:
    return x - x.mean(0), y


def _errors(x: Any, y: Any, stage: Any) -> Any:
    return x + 0.1 * torch.randn(x.shape), y


def test_a_loss_that_remembers_rows_is_refused() -> None:
    with pytest.raises(GuaranteeVoid, match="another one after other rows were seen"):
        trained(mlp, TrainingPieces(**{**vars(PIECES), "loss": Recalls()}))


@pytest.mark.parametrize("transform", [_mixup, _centred])
def test_a_transform_across_rows_is_refused(transform: Any) -> None:
    with pytest.raises(GuaranteeVoid, match="the transform mixes the rows of a batch"):
        trained(mlp, TrainingPieces(**{**vars(PIECES), "transform": transform}))


def test_a_transform_of_each_row_is_let_through() -> None:
    trained(mlp, TrainingPieces(**{**vars(PIECES), "transform": _errors}))


def test_parts_that_others_wrote_are_not_told_who_is_there() -> None:
    told: list[tuple[Any, ...]] = []

    def tell(stage: Any) -> None:
        told.append((stage.n_rows, stage.facts.person))

    def loss(raw: Any, y: Any, stage: Any) -> Any:
        tell(stage)
        return nn.functional.cross_entropy(raw, y)

    def transform(x: Any, y: Any, stage: Any) -> Any:
        tell(stage)
        return x, y

    def schedule(stage: Any) -> float:
        tell(stage)
        assert stage.rows is None  # the real size of a batch is private
        return 1.0

    slots = {"loss": loss, "transform": transform, "schedule": schedule}
    trained(mlp, TrainingPieces(**{**vars(PIECES), **slots}), person=Y)
    assert len(told) > 6 and set(told) == {(1, None)}


def test_a_mean_over_rows_is_let_through() -> None:
    trained(mlp, TrainingPieces(**{**vars(PIECES), "loss": _smoothed}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sampler": None}, "its sampler is not the one of that plan"),
        ({"aggregate": None}, "its aggregate is not the one"),
        ({"aggregate": Aggregate(claim="D")}, "its aggregate is not the one"),
        ({"aggregate": Aggregate(claim="D"), "claims": ("C", "D")}, "is not the one of that plan"),
        ({"sampler": lambda stage: [torch.arange(4)]}, "its sampler is not the one"),
        ({"select": Selection(score=lambda x, y, stage: 0.0, name="accuracy")}, "chosen by private rows"),
    ],
)
def test_a_claim_needs_the_parts_it_is_about(change: dict[str, Any], said: str) -> None:
    with pytest.raises(GuaranteeVoid, match=said):
        trained(mlp, TrainingPieces(**{**vars(PIECES), **change}))


def test_preprocessing_that_reads_the_rows_is_refused() -> None:
    with pytest.raises(GuaranteeVoid, match=r"scale by public bounds inside Recipe\(factory=\)"):
        trained(mlp, preprocessing=loop.standardise)


def test_without_a_claim_nothing_of_this_is_asked() -> None:
    pieces = TrainingPieces(sampler=Sampler(claim="C"))
    assert not trained(linear(nn.BatchNorm1d(3)), pieces, preprocessing=loop.standardise).training


def test_what_a_private_training_draws_by_its_seed_is_known_to_nobody() -> None:
    seeds: list[int] = []

    def transform(x: Any, y: Any, stage: Any) -> Any:
        if len(x) == len(X):  # not the made-up rows
            seeds.append(stage.child_seed("noise"))
        return x, y

    pieces = TrainingPieces(**{**vars(PIECES), "transform": transform})
    first, second = trained(linear(nn.Dropout()), pieces), trained(linear(nn.Dropout()), pieces)
    assert len(set(seeds)) == 4
    weights = [model[1].weight for model in (first, second)]
    assert not torch.equal(*weights)  # dropout's masks
