# SPDX-License-Identifier: Apache-2.0
"""Augmentation: the network is trained again on rows that change a little, at random, every time it sees them.

**What it does.** A model that must answer alike for inputs that mean the same leans less on single records and single
cells. Each row is drawn anew in every epoch, by (row, epoch) alone, and no row's change depends on another row.

Tables. ``noise`` is measurement error: Gaussian with a standard deviation of ``noise`` spreads of each numeric
column, or given by column in its own unit (``noise={"bmi": 0.5}``). Whole numbers are rounded, bounds kept, and a
row that would break a relation stays. Without a name an error goes to columns that may change: immutable ones,
categories, one-hot columns and those under an equality stay. ``missing`` is the chance of a cell to become a hole,
in the columns where the model answers beside a hole; where it answers for none, this is refused.

Images. ``flip``: horizontal, vertical or both, each with chance one half. ``crop``: a shift of up to so many pixels
each way, as of a crop out of the image padded by its edge. ``rotate``: a turn of up to so many degrees each way,
bilinear. ``noise``: Gaussian, as a share of the pixel range, clipped to it. ``missing``: the share of the area that a
square covers with the image's mean (cutout). They happen in this order.

**What it does not do.** No guarantee of anything, and little against an attacker, who does not move at random: that
is what ``adversarial_training`` is for. The two replace the same part of a training and cannot be used together.

**Cost.** One fit; a batch costs about as much again for small networks. Accuracy may rise or fall.

**Pitfalls.** A change that alters the meaning teaches errors: a digit upside down, a birth weight off by half its
spread. Measured on clean data a model trained with too much of it is worse. Spreads come from the training data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from casemate.core.data import Dataset
from casemate.core.errors import InvalidData
from casemate.core.methods import method
from casemate.core.run import Run
from casemate.core.types import LABELS, MODULE, REFIT, Note, Table, Target
from casemate.robustness.augmentation import Errors, Views
from casemate.robustness.geometry import loose
from casemate.training.pieces import TrainingPieces

FLIPS = ("none", "horizontal", "vertical", "both")
PROBE = 8  # training rows that are shown to the model with a hole


@method(
    kind="defence",
    needs={LABELS, MODULE, REFIT},
    tasks={"binary", "multiclass", "regression"},
    inputs={"table", "image"},
    null={"noise": 0.0},
    cost="one fit",
    title={"en": "Augmentation", "zh": "数据增强"},
    reference="arXiv:1708.04552 (cutout); Bishop 1995 (noise as regularisation)",
)
def augment(
    target: Target,
    data: Dataset,
    *,
    noise: float | Mapping[str, float] | None = None,
    missing: float = 0.0,
    flip: str = "none",
    crop: int = 0,
    rotate: float = 0.0,
    run: Run | None = None,
) -> TrainingPieces:
    """Train the network again on rows that change at random; no guarantee, see the top of this file.

    Args:
        target: a torch model with a recipe.
        data: its training rows are what the model is trained on again.
        noise: standard deviation of the error: in spreads (tables) or shares of the pixel range (images), or by
            column in its own unit. None for 0.1 spreads or 0.05 of the range.
        missing: chance of a cell to become a hole (tables), or share of the area covered (images), in [0, 0.9].
        flip: images: "none", "horizontal", "vertical" or "both".
        crop: images: pixels of shift each way.
        rotate: images: degrees each way.
        run: given by ``harden``.

    Raises:
        InvalidData: a value out of range, a column that is not numeric, holes that the model cannot take.

    >>> import casemate as cm
    >>> import torch
    >>> x = np.random.default_rng(0).uniform(-1, 1, (60, 2))
    >>> data = cm.Dataset(train=(x[:40], (x[:40, 0] > 0) * 1), holdout=(x[40:], (x[40:, 0] > 0) * 1))
    >>> recipe = cm.Recipe(factory=lambda: torch.nn.Linear(2, 2), epochs=2)
    >>> target = cm.wrap(recipe.factory(), recipe=recipe, outputs="logits")
    >>> cm.harden(target, data, using=[cm.method("augment", noise={"x1": 0.05})]).summary
    'trained with random errors in 1 column'

    Source: DeVries and Taylor 2017, arXiv:1708.04552; Bishop 1995, Neural Computation 7(1).
    """
    if not 0 <= missing <= 0.9:
        raise InvalidData(f"augment: missing is {missing!r}; it is a share of at least 0 and at most 0.9")
    if data.schema.input == "image":
        return _images(data, noise, missing, flip, crop, rotate)
    if flip != "none" or crop or rotate:
        raise InvalidData("augment: flip, crop and rotate are for images; this data is a table")
    return _tables(target, data, noise, missing)


def _number(name: str, value: Any, most: float = np.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 <= value <= most:
        limit = "" if most == np.inf else f" and at most {most:g}"
        raise InvalidData(f"augment: {name} is {value!r}; give a number of at least 0{limit}")
    if not np.isfinite(value):
        raise InvalidData(f"augment: {name} is {value!r}; give a finite number")
    return float(value)


def _tables(target: Target, data: Dataset, noise: Any, missing: float) -> TrainingPieces:
    columns = data.schema.columns
    spread = _errors(data, noise)
    holes = np.where(_copes(target, data), missing, 0.0) if missing else np.zeros(len(columns))
    if missing and not holes.any():
        raise InvalidData(
            "augment: missing needs a model that answers where a cell is missing, and this one does for no "
            "column; fill holes in its first layer, or leave missing=0"
        )
    noisy, holed = int((spread > 0).sum()), int((holes > 0).sum())
    if not noisy and not holed:
        return TrainingPieces(summary="no error and no holes: nothing changed")
    told = [f"random errors in {_columns(noisy)}"] if noisy else []
    told += [f"{missing:.3g} of the cells missing in {_columns(holed)}"] if holed else []
    rows = tuple(
        (c.name, float(f"{s:.4g}"), c.unit, float(h))
        for c, s, h in zip(columns, spread, holes, strict=True)
        if s or h
    )
    return TrainingPieces(
        transform=Errors(spread=tuple(spread.tolist()), missing=tuple(holes.tolist())),
        summary=f"trained with {', '.join(told)}",
        evidence=(
            Table(name="errors", columns=("column", "standard deviation", "unit", "missing"), rows=rows),
        ),
        voids=_voids(data, noise, spread),
    )


def _voids(data: Dataset, noise: Any, spread: np.ndarray) -> str:
    """Say how the errors would tell of the private rows beside a guarantee, and what to do about it."""
    if spread.any() and not isinstance(noise, Mapping):
        return "its error is measured in spreads of the private rows; give noise= by column"
    if seen := [c.name for c, s in zip(data.schema.columns, spread, strict=True) if s and c.observed]:
        return f"its error keeps {seen[0]!r} within bounds read off the private rows; name them in the Schema"
    return ""


def _columns(n: int) -> str:
    return "1 column" if n == 1 else f"{n} columns"


def _errors(data: Dataset, noise: Any) -> np.ndarray:
    """Return the standard deviation of the error in each column (d,)."""
    schema = data.schema
    numeric = np.array([c.kind != "category" for c in schema.columns]) & loose(schema)
    if isinstance(noise, Mapping):
        for name in noise:
            if name not in schema.names or not numeric[schema.names.index(name)]:
                why = "is no numeric column that may change alone" if name in schema.names else "is no column"
                raise InvalidData(f"augment: noise names {name!r}, which {why}")
        return np.array([_number(f"noise[{name!r}]", noise.get(name, 0.0)) for name in schema.names])
    share = _number("noise", 0.1 if noise is None else noise)
    may = numeric & ~np.array([c.immutable for c in schema.columns])
    return np.where(may, share * np.array([c.spread for c in schema.columns]), 0.0)


def _copes(target: Target, data: Dataset) -> np.ndarray:
    """Tell for each column (d,) whether the model answers for rows with a hole in it."""
    may = loose(data.schema)
    for j in np.flatnonzero(may):
        rows = np.array(data.train.x[:PROBE])
        rows[:, j] = np.nan
        try:
            target.labels(rows)
        except InvalidData:
            may[j] = False
    return may


def _images(data: Dataset, noise: Any, missing: float, flip: str, crop: int, rotate: float) -> TrainingPieces:
    if flip not in FLIPS:
        raise InvalidData(f"augment: flip is {flip!r}; use one of {', '.join(FLIPS)}")
    side = min(data.train.x.shape[2:])
    low, high = data.schema.bounds or (0.0, 1.0)
    if isinstance(noise, Mapping):
        raise InvalidData("augment: noise by column is for tables; give a share of the pixel range")
    share = _number("noise", 0.05 if noise is None else noise)
    shift, turn = int(_number("crop", crop, side - 1)), _number("rotate", rotate, 180)
    parts = {
        f"flips ({flip})": flip != "none",
        f"shifts of up to {shift} pixels": shift,
        f"turns of up to {turn:g} degrees": turn,
        f"noise of {share:g} of the pixel range": share,
        f"{missing:.3g} of the area covered": missing,
    }
    told = [text for text, on in parts.items() if on]
    if not told:
        return TrainingPieces(summary="no change of the images: nothing changed")
    views = Views(
        horizontal=flip in ("horizontal", "both"),
        vertical=flip in ("vertical", "both"),
        crop=shift,
        rotate=turn,
        noise=share * (high - low),
        cutout=float(missing),
    )
    note = Note(text="Labels are taken to stay true under every change; no guarantee against an attacker.")
    return TrainingPieces(
        transform=views, summary=f"trained on images with {', '.join(told)}", evidence=(note,)
    )
