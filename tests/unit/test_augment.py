# SPDX-License-Identifier: Apache-2.0
"""Random changes of a batch: against torch and scipy, against the rules of the schema, and drawn by row alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import casemate as cm
from casemate.core.errors import GuaranteeVoid, InvalidData
from casemate.core.schema import Column, Relation, Schema
from casemate.core.types import Recipe, Table

torch = pytest.importorskip("torch")
from casemate.robustness.augmentation import (  # noqa: E402  # after the guard
    Errors,
    Views,
    covered,
    rotated,
    shifted,
)
from casemate.robustness.methods.augment import augment  # noqa: E402
from casemate.training.pieces import TrainingPieces, merge  # noqa: E402
from casemate.training.steps import Facts, Stage  # noqa: E402


def images(n: int = 6, height: int = 8, width: int = 8, channels: int = 2) -> Any:
    return torch.tensor(np.random.default_rng(0).uniform(0, 1, (n, channels, height, width)))


def stage(n: int, schema: Schema, **fields: Any) -> Stage:
    made: dict[str, Any] = {"rows": torch.arange(n), "n_rows": n, "seed": 0, **fields}
    return Stage(
        model=None, recipe=Recipe(factory=list), order=None, loss=None, facts=Facts(schema=schema), **made
    )


PIXELS = Schema(input="image", bounds=(0.0, 1.0))


def viewed(x: Any, views: Views, **fields: Any) -> Any:
    y = torch.zeros(len(x))
    out, same = views(x, y, stage(len(x), PIXELS, **fields))
    assert same is y and out.shape == x.shape and out.dtype == x.dtype
    return out


# ---- images, against other implementations ----


def test_a_quarter_turn_is_rot90_and_a_half_turn_both_flips() -> None:
    x = images()
    for quarter in range(-3, 4):
        turned = rotated(x, np.full(6, 90.0 * quarter))
        torch.testing.assert_close(turned, torch.rot90(x, quarter, (2, 3)), rtol=0, atol=1e-9)
    oblong = images(height=6, width=9)
    torch.testing.assert_close(rotated(oblong, np.full(6, 180.0)), oblong.flip(2, 3), rtol=0, atol=1e-9)
    assert torch.equal(rotated(x, np.zeros(6)).round(decimals=9), x.round(decimals=9))


@pytest.mark.parametrize("shape", [(8, 8), (7, 12)])
def test_a_turn_is_scipys(shape: tuple[int, int]) -> None:
    from scipy import ndimage

    x = images(4, *shape)
    angles = np.array([10.0, -35.0, 77.0, 200.0])
    turned = rotated(x, angles).numpy()
    for image, angle, found in zip(x.numpy(), angles, turned, strict=True):
        known = ndimage.rotate(image, angle, axes=(1, 2), reshape=False, order=1, mode="nearest")
        np.testing.assert_allclose(found, known, atol=1e-9)


def test_a_crop_is_a_slice_of_the_padded_image_and_no_shift_is_the_image() -> None:
    x = images(height=5, width=7)
    assert torch.equal(shifted(x, np.zeros(6, int), np.zeros(6, int)), x)
    down, right = np.array([-2, -1, 0, 1, 2, 2]), np.array([2, 0, -2, 1, -1, 2])
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2), mode="replicate")
    moved = shifted(x, down, right)
    for i in range(6):
        top, left = 2 + down[i], 2 + right[i]
        assert torch.equal(moved[i], padded[i, :, top : top + 5, left : left + 7])


def test_a_covered_square_holds_the_mean_and_nothing_else_changes() -> None:
    x = images()
    top, left = np.array([0, 1, 2, 3, 4, 5]), np.array([5, 4, 3, 2, 1, 0])
    known = x.clone()
    for i in range(6):
        for channel in range(2):
            mean = x[i, channel].mean()
            known[i, channel, top[i] : top[i] + 3, left[i] : left[i] + 3] = mean
    torch.testing.assert_close(covered(x, top, left, 3), known)


def test_views_draw_what_they_say() -> None:
    n = 3000
    x = images(n, 4, 4, 1)
    for axis, name in ((3, "horizontal"), (2, "vertical")):
        out = viewed(x, Views(**{name: True}))
        flipped = (out == x.flip(axis)).flatten(1).all(1)
        assert (flipped | (out == x).flatten(1).all(1)).all()
        assert abs(float(flipped.double().mean()) - 0.5) < 4.9 * 0.5 / np.sqrt(n)  # false failure 1e-6
    out = viewed(x, Views(crop=1))
    sides = [shifted(x, np.full(n, down), np.full(n, right)) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    hits = np.array([float((out == side).flatten(1).all(1).double().mean()) for side in sides])
    assert (
        abs(hits.sum() - 1) < 1e-9 and (np.abs(hits - 1 / 9) < 5.3 * np.sqrt(8 / 81 / n)).all()
    )  # 1e-6 over 9
    out = viewed(x, Views(cutout=0.25))
    assert ((out != x).flatten(1).sum(1) == 4).all(), "a square of side 2 of 16 pixels"
    dark = viewed(torch.full_like(x, 0.5), Views(noise=0.1))
    spread = float(dark.std())
    assert abs(spread / 0.1 - 1) < 4.9 / np.sqrt(2 * dark.numel())  # chi-square, false failure 1e-6
    loud = viewed(x, Views(noise=3.0))
    assert loud.min() == 0 and loud.max() == 1


EVERY = Views(horizontal=True, vertical=True, crop=2, rotate=30.0, noise=0.1, cutout=0.1)


def test_an_image_is_changed_alike_in_any_batch_and_anew_in_every_epoch() -> None:
    x = images(20)
    whole = viewed(x, EVERY)
    places = torch.tensor([4, 17, 2])
    few = viewed(x[places], EVERY, rows=places, step=5)
    torch.testing.assert_close(few, whole[places], rtol=0, atol=1e-12)
    for other in (viewed(x, EVERY, epoch=1), viewed(x, EVERY, seed=1)):
        assert not torch.equal(other, whole)
    assert torch.equal(viewed(x, Views()), x)
    assert len(viewed(x[:0], EVERY)) == 0


# ---- tables ----


def table() -> tuple[Schema, Any]:
    draw = np.random.default_rng(1)
    n = 4000
    x = np.column_stack(
        [
            draw.normal(0, 2, n), draw.integers(20, 60, n), draw.integers(0, 3, n), draw.uniform(0, 1, n),
            draw.uniform(0, 4, n), draw.uniform(4, 8, n), np.where(draw.random(n) < 0.2, np.nan, draw.normal(size=n)),
        ]
    )  # fmt: skip
    columns = (
        Column(name="real", kind="real", spread=2.0),
        Column(name="age", kind="integer", low=20, high=60, spread=11.0, unit="years"),
        Column(name="town", kind="category", categories=("a", "b", "c")),
        Column(name="sex", kind="real", low=0, high=1, spread=0.3, immutable=True),
        Column(name="paid", kind="real", low=0, high=9, spread=1.2),
        Column(name="owed", kind="real", low=0, high=9, spread=1.2),
        Column(name="holes", kind="real", low=-1.0, high=1.0, spread=1.0, missing="nan"),
    )
    rule = Relation(left=("paid",), op="<=", right=("owed",))
    return Schema(columns=columns, relations=(rule,)), torch.tensor(x, dtype=torch.float32)


def errors(spread: Any, missing: Any = (0.0,) * 7) -> Errors:
    return Errors(spread=tuple(spread), missing=tuple(missing))


def test_errors_have_the_spread_they_say_and_keep_to_the_schema() -> None:
    schema, x = table()
    out = errors([0.4, 3.0, 0, 0, 0.5, 0.5, 0.2])(x, None, stage(4000, schema))[0]
    shift = (out - x).double().numpy()
    # a row that would break the relation stays, a small share here: the column without a rule shows the spread
    stayed = (shift[:, 0] == 0) & (shift[:, 4] == 0)
    assert stayed.mean() < 0.1
    assert abs(shift[~stayed, 0].std() / 0.4 - 1) < 4.9 / np.sqrt(2 * (~stayed).sum())  # false failure 1e-6
    assert abs(shift[~stayed, 0].mean()) < 4.9 * 0.4 / np.sqrt((~stayed).sum())
    age = out[:, 1].numpy()
    assert (
        (age == age.round()).all() and age.min() >= 20 and age.max() <= 60 and (shift[:, 1] != 0).mean() > 0.6
    )
    assert (shift[:, 2:4] == 0).all()
    assert (out[:, 4] <= out[:, 5]).all()
    holes = x[:, 6].isnan()
    assert torch.equal(out[:, 6].isnan(), holes)
    beyond = (x[:, 6].abs() > 1) & ~holes
    assert (out[beyond, 6].abs() <= x[beyond, 6].abs()).all() and bool((out[beyond, 6] != x[beyond, 6]).any())


def test_cells_go_missing_at_the_rate_of_their_column() -> None:
    schema, x = table()
    rates = np.array([0.3, 0.0, 0.1, 0, 0, 0, 0.5])
    out = errors([0.0] * 7, rates)(x, None, stage(4000, schema))[0]
    had = ~x.isnan().numpy()
    gone = np.array([(out[:, j].isnan().numpy() & had[:, j])[had[:, j]].mean() for j in range(7)])
    bound = 5.2 * np.sqrt(rates * (1 - rates) / had.sum(0))  # false failure 1e-6 over seven columns
    assert (np.abs(gone - rates) <= bound).all()
    kept = ~out.isnan()
    assert torch.equal(out[kept], x[kept])


def test_a_row_is_changed_alike_in_any_batch() -> None:
    schema, x = table()
    change = errors([0.4, 3.0, 0, 0, 0.5, 0.5, 0.2], [0.1] * 7)
    whole = change(x, None, stage(4000, schema))[0]
    places = torch.tensor([1234, 5, 77])
    few = change(x[places], None, stage(3, schema, rows=places, step=8))[0]
    torch.testing.assert_close(few, whole[places], rtol=0, atol=0, equal_nan=True)
    later = change(x, None, stage(4000, schema, epoch=1))[0]
    assert not torch.equal(later.nan_to_num(), whole.nan_to_num())
    assert change(x[:0], None, stage(0, schema))[0].shape == (0, 7)


# ---- the method ----


class Filled(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
    """A linear model that reads holes in some columns as 0."""

    def __init__(self, fills: tuple[int, ...], outputs: int = 2) -> None:
        super().__init__()
        self.fills, self.inner = fills, torch.nn.Linear(3, outputs, device="cpu")

    def forward(self, x: Any) -> Any:
        columns = [x[:, j].nan_to_num() if j in self.fills else x[:, j] for j in range(3)]
        return self.inner(torch.stack(columns, 1))


X = np.random.default_rng(2).normal(size=(90, 3))
DATA = cm.Dataset(train=(X[:60], (X[:60, 0] > 0) * 1), holdout=(X[60:], (X[60:, 0] > 0) * 1))


def target(fills: tuple[int, ...] = ()) -> cm.Target:
    recipe = Recipe(factory=lambda: Filled(fills), epochs=2)
    return cm.wrap(Filled(fills), recipe=recipe, outputs="logits")


def pieces(fills: tuple[int, ...] = (), data: cm.Dataset = DATA, **params: Any) -> TrainingPieces:
    bound, data = target(fills).bind(data)
    return augment(bound, data, **params)


def test_error_is_a_share_of_the_spread_or_by_name_in_the_columns_own_unit() -> None:
    spread = np.array([c.spread for c in DATA.schema.columns])
    np.testing.assert_allclose(pieces().transform.spread, 0.1 * spread)
    assert pieces(noise={"x1": 0.7}).transform.spread == (0.0, 0.7, 0.0)
    assert pieces(noise=0.0).filled() == []
    fixed = cm.Dataset(train=(X[:60], (X[:60, 0] > 0) * 1), holdout=(X, (X[:, 0] > 0) * 1), immutable=["x0"])
    assert pieces(data=fixed).transform.spread[0] == 0.0
    assert pieces(data=fixed, noise={"x0": 0.2}).transform.spread == (0.2, 0.0, 0.0)


def test_cells_go_missing_only_where_the_model_answers_without_them() -> None:
    made = pieces((0, 2), noise=0.0, missing=0.25)
    assert made.transform.missing == (0.25, 0.0, 0.25)
    assert made.summary == "trained with 0.25 of the cells missing in 2 columns"
    table_ = made.evidence[0]
    assert isinstance(table_, Table) and [row[0] for row in table_.rows] == ["x0", "x2"]
    with pytest.raises(InvalidData, match="missing needs a model that answers where a cell is missing"):
        pieces((), missing=0.25)


def test_the_result_is_trained_by_it_and_so_are_its_refits() -> None:
    change = cm.harden(target((0, 1, 2)), DATA, using=[cm.method("augment", noise=0.3, missing=0.2)])
    bound, data = change.target.bind(DATA)
    assert bound.recipe.pieces.transform.missing == (0.2, 0.2, 0.2)
    shadow = bound.refit(data.train.x, data.train.y, 1)
    plain = replace(bound, recipe=replace(bound.recipe, pieces=None)).refit(data.train.x, data.train.y, 1)
    assert shadow.digest() == bound.refit(data.train.x, data.train.y, 1).digest() != plain.digest()


def test_a_regression_is_augmented_too() -> None:
    data = cm.Dataset(train=(X[:60], X[:60, 0]), holdout=(X[60:], X[60:, 0]))
    recipe = Recipe(factory=lambda: Filled((), 1), epochs=3, loss="mse")
    model = cm.wrap(Filled((), 1), recipe=recipe, task="regression")
    change = cm.harden(model, data, using=["augment"])
    assert change.summary == "trained with random errors in 3 columns"
    assert change.after[0].quantity == "absolute_error"


def test_images_are_described_in_the_order_in_which_they_change() -> None:
    x = images(40, 8, 8, 1).numpy()
    data = cm.Dataset(train=(x, np.arange(40) % 2), holdout=(x, np.arange(40) % 2))
    made = augment(target(), data, flip="both", crop=2, rotate=15, noise=0.1, missing=0.2)
    assert made.transform == Views(horizontal=True, vertical=True, crop=2, rotate=15.0, noise=0.1, cutout=0.2)
    assert made.summary == (
        "trained on images with flips (both), shifts of up to 2 pixels, turns of up to 15 degrees, "
        "noise of 0.1 of the pixel range, 0.2 of the area covered"
    )
    assert augment(target(), data, noise=0).filled() == []
    for params, told in (
        ({"flip": "up"}, "flip is 'up'"),
        ({"crop": 8}, "crop is 8; .* at most 7"),
        ({"rotate": -1.0}, "rotate is -1.0"),
        ({"noise": {"x": 1}}, "by column is for tables"),
        ({"noise": float("inf")}, "noise is inf"),
    ):
        with pytest.raises(InvalidData, match=told):
            augment(target(), data, **params)


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"flip": "both"}, "are for images"),
        ({"missing": 0.95}, "missing is 0.95"),
        ({"noise": -0.1}, "noise is -0.1"),
        ({"noise": "much"}, "noise is 'much'"),
        ({"noise": {"x9": 1.0}}, "noise names 'x9', which is no column"),
        ({"noise": {"x1": True}}, r"noise\['x1'\] is True"),
    ],
)
def test_what_cannot_be_used_is_said(params: Any, told: str) -> None:
    with pytest.raises(InvalidData, match=told):
        pieces(**params)


def test_an_error_in_spreads_of_private_rows_voids_a_guarantee_and_one_in_own_units_does_not() -> None:
    private = ("dp", TrainingPieces(claims=("a plan",)))
    with pytest.raises(GuaranteeVoid, match="give noise= by column"):
        merge([private, ("augment", pieces())])
    with pytest.raises(GuaranteeVoid, match="'x1' within bounds read off the private rows"):
        merge([private, ("augment", pieces(noise={"x1": 0.7}))])
    schema = DATA.schema.with_columns({"x1": {"low": -9.0, "high": 9.0}})
    known = cm.Dataset(
        train=(X[:60], (X[:60, 0] > 0) * 1), holdout=(X[60:], (X[60:, 0] > 0) * 1), schema=schema
    )
    stated = pieces(data=known, noise={"x1": 0.7})
    assert merge([private, ("augment", stated)]).claims == ("a plan",)
