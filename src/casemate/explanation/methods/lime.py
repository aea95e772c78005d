# SPDX-License-Identifier: Apache-2.0
"""Local linear explanations, LIME for tables (Ribeiro, Singh and Guestrin 2016, arXiv:1602.04938).

What it measures: for one row, how far the model's answer moves where a rule that holds for the row ("income <=
2,100") holds, against where it does not, in a linear picture fitted to the model's answers on perturbed rows that
count more the more rules they share with the row. It describes the model, not the world.

What it needs: predictions only. Scores where the target gives them, else the share of each label; a regression's
value. Of two classes the second is explained.

Formula: a perturbed row draws for each feature a quarter of the training rows (or a category) by its frequency and
a value inside it; ``z_j = 1`` where it falls into the cell of the row explained, K features, and it weighs
``exp(-(K - sum z) / (2 kw^2))`` with ``kw = 0.75 sqrt(K)``, lime's kernel ``sqrt(exp(-d^2 / kw^2))``. The row
itself counts with weight 1. Features are chosen (up to 6 by forward selection, else the largest coefficients of a
ridge with 0.01), and a ridge with penalty 1 is fitted to them. Draws do not depend on the row, so one design and one
stream of predictions serve all rows; each row needs one Gram matrix, and selection, fit, R2 and errors come from it.

``mode="sobol"`` draws 4 independently scrambled Sobol sequences, ``n_samples / 4`` points each, rounded down to a
power of two: the same mean as Monte Carlo, with a variance several times lower. ``mode="lime"`` draws as lime 0.2.0.1
does (independently, whole numbers not rounded, one-hot columns apart). One deviation: a cell that holds a single
value gives that value, where lime gives 0.

Errors: each coefficient's standard error comes from the 4 parts of the design, for the features chosen: what chance
would change with another seed. With 3 degrees of freedom a single error is rough; where all features are kept their
mean square is right. Another seed may choose other features, which moves the coefficients of the rest too: with 10 of
30 columns, most of them noise, and 1,024 samples the spread between seeds was up to 1.4 times the error. All rows
share the perturbed rows: the interval of ``local_fit`` counts the luck of these as well, by the same 4 parts; that of
``local_gap`` is over rows only. With few samples R2 is too high, as that of any fit to few points. Errors say nothing
about whether a linear picture fits at all: that is ``local_fit``, the weighted R2, and ``local_gap``, how far the
picture misses the model at the row itself.

In an audit a fixed draw of held-out rows is explained. ``top_importance`` is the mean absolute coefficient of the
strongest column, ``top_correlation`` the correlation of what its rules are said to add with the outcome: near 0 the
column explains the model but not the outcome.

Cost: ``n_samples`` predictions in all, one a row, and ``n_samples x features^2`` multiplications a row.

Pitfalls: with many features the kernel is wide and "local" is nearly global: an average sample weighs about one
half. A low R2 is common, and then the coefficients are no account of the model. Perturbed rows ignore how columns go
together, so the model is asked about rows that do not exist; and whoever knows that can show such rows another face
(arXiv:1911.02508). Coefficients compare a quarter with the other three: 0 does not mean "unused".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from casemate.core import stats
from casemate.core.data import Dataset
from casemate.core.errors import InvalidData
from casemate.core.harness import EXPLAINED_ROWS
from casemate.core.methods import Quantity, method
from casemate.core.run import Run, require
from casemate.core.types import LABELS, SCORES, Explanation, Measurement, Note, Table, Target
from casemate.explanation.perturb import MAX_CELLS, Design, drawn_rows, in_tiles, predictions, uniforms

PARTS = 4  # independent parts of a design: their spread gives the errors
FORWARD = 6  # lime selects forward up to this many features
POOR_FIT = 0.5
Mode = Literal["sobol", "lime"]


@method(
    kind="explainer",
    needs={LABELS},
    prefers={SCORES},
    tasks={"binary", "multiclass", "regression"},
    inputs={"table"},
    quick={"n_rows": 50, "n_samples": 1024},
    deep={"n_rows": 1000, "n_samples": 16_384},
    cost="n_samples predictions in all",
    title={"en": "Local linear explanations (LIME)", "zh": "局部线性解释（LIME）"},
    reference="arXiv:1602.04938",
    quantities={
        **EXPLAINED_ROWS,
        "local_fit": Quantity(
            worse="lower", en="local fit of the explanations (weighted R2)", zh="解释的局部拟合度（加权 R2）"
        ),
        "local_gap": Quantity(
            worse="higher",
            headline=False,
            en="distance between explanation and model at the row itself",
            zh="解释与模型在该行上的差距",
        ),
    },
)
def lime(
    target: Target,
    data: Dataset,
    *,
    rows: Sequence[int] | None = None,
    n_rows: int = 200,
    n_samples: int = 4096,
    n_features: int = 10,
    mode: Mode = "sobol",
    run: Run | None = None,
) -> Explanation:
    """Explain single rows by the rules that move the model's answer most, with errors and the fit of the picture.

    Args:
        target: any model of tables.
        data: train says what rows are like; rows of holdout are explained.
        rows: places in holdout; None for a draw of ``n_rows`` that the seed fixes.
        n_rows: how many are drawn.
        n_samples: perturbed rows, shared by all rows explained.
        n_features: features kept a row and output; the others have value and error 0.
        mode: "sobol", or "lime" to draw as the lime package does.
        run: given by the harness.

    Returns:
        Explanation with values and errors (rows, features, outputs), base (rows, outputs), rules and fit.

    Raises:
        InvalidData: rows that are not in holdout, or sizes that do not go together.

    >>> from casemate.adapters.sklearn import make
    >>> from sklearn.linear_model import LinearRegression
    >>> x = np.random.default_rng(0).normal(size=(200, 2))
    >>> model = LinearRegression().fit(x, 3 * x[:, 0])  # column 1 plays no part
    >>> data = Dataset(train=(x, 3 * x[:, 0]), holdout=(x, 3 * x[:, 0]))
    >>> why = lime(make(model, task="regression"), data, rows=[0])
    >>> why.rules[0][0], bool(abs(why.values[0, 0, 0]) > 20 * abs(why.values[0, 1, 0]))
    ('-0.1318 < x0 <= 0.5892', True)

    Source: Ribeiro, Singh and Guestrin 2016, arXiv:1602.04938; the lime package 0.2.0.1 for what the paper leaves open.
    """
    run = require(run)
    if mode not in ("sobol", "lime"):
        raise InvalidData(f"mode {mode!r} is unknown; use 'sobol' or 'lime'")
    if n_rows < 1 or n_features < 1:
        raise InvalidData(f"lime needs n_rows >= 1 and n_features >= 1; got {n_rows}, {n_features}")
    places = (
        drawn_rows(data.holdout, n_rows, run.rng("rows")) if rows is None else _given(rows, len(data.holdout))
    )
    plain = mode == "sobol"
    design = Design.of(data.train.x, data.schema, grouped=plain, rounded=plain)
    k = len(design.parts)
    if n_samples < max(8 * PARTS, 2 * k):
        raise InvalidData(
            f"lime needs n_samples >= {max(8 * PARTS, 2 * k)} for {k} features; got {n_samples}"
        )
    f, outputs = predictions(target)
    x = data.holdout.x[places]
    here, predicted = design.cells(x), in_tiles(f, x)  # (rows, k), (rows, outputs)
    parts = [
        design.draw(uniforms(size, k, run.rng("design", part), sobol=plain))
        for part, size in enumerate(_sizes(n_samples, sobol=plain))
    ]
    answers = f(np.concatenate([drawn for _, drawn in parts]))  # (samples, outputs)
    # centred, so that the moments of large values lose no digits; a function of the design alone
    centre = answers.mean(0)
    samples = _Samples.of([cells for cells, _ in parts], answers - centre)
    block = max(1, MAX_CELLS // (PARTS * (1 + k + len(outputs)) ** 2))
    fits = []
    for first in range(0, len(x), block):
        some = slice(first, first + block)
        fits.append(_fitted(samples.moments(here[some]), predicted[some] - centre, k, min(n_features, k)))
        run.report("rows", min(first + block, len(x)), len(x))
    values, errors, base, fit, luck = (np.concatenate(piece) for piece in zip(*fits, strict=True))
    words = [part.words() for part in design.parts]
    found = Explanation(
        values=values,
        base=base + centre,
        errors=errors,
        names=design.names,
        n_records=len(places),
        rows=tuple(int(place) for place in places),
        rules=tuple(tuple(words[j][cell] for j, cell in enumerate(row)) for row in here.tolist()),
        outputs=outputs,
        predicted=predicted,
        fit=fit,
    )
    person = None if data.holdout.person is None else data.holdout.person[places]
    return replace(found, quality=_quality(found, luck.mean((0, 1)), person, len(answers), run))


def _sizes(n_samples: int, *, sobol: bool) -> list[int]:
    if sobol:  # a Sobol sequence is balanced at powers of two
        return [2 ** int(np.log2(n_samples / PARTS))] * PARTS
    n = n_samples - 1  # lime counts the row itself as a sample
    return [n // PARTS + (part < n % PARTS) for part in range(PARTS)]


def _given(rows: Sequence[int], n: int) -> np.ndarray:
    listed = np.asarray(rows)
    if listed.ndim != 1 or not listed.size or listed.dtype.kind not in "iu":
        raise InvalidData(f"rows must list places in holdout, as in rows=[0, 17]; got {rows!r}")
    if (bad := listed[(listed < 0) | (listed >= n)]).size:
        raise InvalidData(f"rows names row {bad[0]}, but holdout has rows 0 to {n - 1}")
    return listed.astype(np.int64)


@dataclass(frozen=True)
class _Samples:
    """Cells and answers of the perturbed rows, part by part, and the weight of each number of shared rules."""

    cells: tuple[np.ndarray, ...]  # (k, n) each
    answers: tuple[np.ndarray, ...]  # (outputs, n) each
    root: np.ndarray  # (k + 1,) square root of the kernel

    @staticmethod
    def of(cells: list[np.ndarray], answers: np.ndarray) -> _Samples:
        k = cells[0].shape[1]
        dtype = np.int16 if max(part.max() for part in cells) < 2**15 else np.int64
        ends = np.cumsum([len(part) for part in cells])[:-1]
        apart = k - np.arange(k + 1)
        return _Samples(
            tuple(np.ascontiguousarray(part.T, dtype) for part in cells),
            tuple(np.ascontiguousarray(part.T) for part in np.split(answers, ends)),
            np.exp(-apart / (4 * 0.75**2 * k)),
        )

    def moments(self, here: np.ndarray) -> np.ndarray:
        """Return sums of w [1, z, y] [1, z, y]' in each part (b, parts, m, m) for rows with cells ``here`` (b, k)."""
        b, k = here.shape
        m = 1 + k + len(self.answers[0])
        out = np.empty((b, len(self.cells), m, m))
        dtype = self.cells[0].dtype
        own = np.where(here <= np.iinfo(dtype).max, here, -1).astype(dtype)[:, :, None]  # (b, k, 1)
        count = np.uint8 if k < 256 else np.int64
        for part, (cells, answers) in enumerate(zip(self.cells, self.answers, strict=True)):
            z, rows = (
                np.empty(cells.shape, bool),
                np.empty((m, cells.shape[1])),
            )  # once: fresh memory costs more
            for i in range(b):
                np.equal(cells, own[i], out=z)  # (k, n)
                root = self.root.take(np.add.reduce(z.view(np.uint8), axis=0, dtype=count))  # (n,)
                rows[0] = root
                np.multiply(z, root, out=rows[1 : 1 + k])
                np.multiply(answers, root, out=rows[1 + k :])
                np.matmul(rows, rows.T, out=out[i, part])
        return out


def _fitted(
    moments: np.ndarray, y: np.ndarray, k: int, n_features: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Choose and fit from moments (b, parts, m, m) and the rows' own answers y (b, outputs).

    Returns coefficients and errors (b, k, outputs), base and R2 (b, outputs), what each part adds to R2 (b, outputs,
    parts).
    """
    b, outputs = y.shape
    itself = np.concatenate([np.ones((b, 1 + k)), y], axis=1)  # (b, m) the row, with weight 1
    total = moments.sum(1) + itself[:, :, None] * itself[:, None, :]
    mass = total[:, 0, 0]
    mean = total[:, 0, 1:] / mass[:, None]  # (b, m - 1)
    centred = total[:, 1:, 1:] - mass[:, None, None] * mean[:, :, None] * mean[:, None, :]
    values, errors = np.zeros((b, k, outputs)), np.zeros((b, k, outputs))
    base, fit, luck = np.empty((b, outputs)), np.empty((b, outputs)), np.empty((b, outputs, moments.shape[1]))
    row = np.arange(b)[:, None, None]
    for c in range(outputs):
        gram, product = centred[:, :k, :k], centred[:, :k, k + c]
        chosen = _chosen(gram, product, n_features)  # (b, features)
        at = row, chosen[:, :, None], chosen[:, None, :]
        held, aim = gram[at], np.take_along_axis(product, chosen, 1)
        ridge = held + np.eye(n_features)  # penalty 1
        beta = np.linalg.solve(ridge, aim[:, :, None])[:, :, 0]  # (b, features)
        scores = _scores(moments, mean, chosen, k + c, beta)  # (b, features, parts)
        moved = np.linalg.solve(ridge, scores - scores.mean(2, keepdims=True))
        n_parts = moments.shape[1]
        error = np.sqrt(np.square(moved).sum(2) * n_parts / (n_parts - 1))
        np.put_along_axis(values[:, :, c], chosen, beta, 1)
        np.put_along_axis(errors[:, :, c], chosen, error, 1)
        base[:, c] = mean[:, k + c] - (np.take_along_axis(mean, chosen, 1) * beta).sum(1)
        spread = centred[:, k + c, k + c]
        left = spread - 2 * (beta * aim).sum(1) + np.einsum("bi,bij,bj->b", beta, held, beta)
        still = spread <= 1e-20 * mass  # the model does not move: nothing is left unexplained
        fit[:, c] = np.where(still, 1.0, 1 - left / np.where(still, 1.0, spread))
        missed, moving = np.zeros((2, b, 1 + k + outputs))  # residual and centred answer, by [1, z, y]
        missed[:, 0], moving[:, 0] = -base[:, c], -mean[:, k + c]
        np.put_along_axis(missed, 1 + chosen, -beta, 1)
        missed[:, 1 + k + c] = moving[:, 1 + k + c] = 1.0
        unexplained, total_of = (np.einsum("bi,bpij,bj->bp", by, moments, by) for by in (missed, moving))
        share = (1 - fit[:, c])[:, None]  # R2 = 1 - sum of unexplained / sum of total, linearised in the sums
        scale = np.where(still, np.inf, spread)[:, None]
        luck[:, c] = (share * total_of - unexplained) / scale
    return values, errors, base, fit, luck


def _scores(
    moments: np.ndarray, mean: np.ndarray, chosen: np.ndarray, output: int, beta: np.ndarray
) -> np.ndarray:
    """Return sum w (z - mean z) (residual) of each part (b, features, parts): how far chance moved the fit."""
    row = np.arange(len(chosen))[:, None]
    mass = moments[:, :, 0, 0]  # (b, parts)
    first = moments[row, :, 0, 1 + chosen] - mean[row, chosen][:, :, None] * mass[:, None]  # sum w (z - mean)
    wide = moments[row, :, 1 + chosen]  # (b, features, parts, m) sum w z [1, z, y]
    centred = (
        wide - mean[row, chosen][:, :, None, None] * moments[:, None, :, 0]
    )  # sum w (z - mean) [1, z, y]
    at = np.broadcast_to((1 + chosen)[:, None, None], (*wide.shape[:3], chosen.shape[1]))
    products = np.take_along_axis(centred, at, 3)  # (b, features, parts, features)
    answer = centred[..., 1 + output] - first * mean[:, output][:, None, None]
    return (
        answer
        - np.einsum("birj,bj->bir", products, beta)
        + first * (mean[row, chosen] * beta).sum(1)[:, None, None]
    )


def _chosen(gram: np.ndarray, product: np.ndarray, n_features: int) -> np.ndarray:
    """Choose features (b, n_features) from the centred Gram matrix (b, k, k) and its product with y (b, k)."""
    b, k = product.shape
    if n_features > FORWARD or n_features == k:
        beta = np.linalg.solve(gram + 0.01 * np.eye(k), product[:, :, None])[:, :, 0]
        return np.argsort(-np.abs(beta), axis=1, kind="stable")[:, :n_features]
    gram, product, row = gram.copy(), product.copy(), np.arange(b)
    first = np.einsum("bjj->bj", gram).copy()
    free, chosen = np.ones((b, k), bool), np.empty((b, n_features), np.int64)
    for step in range(n_features):
        left = np.einsum("bjj->bj", gram)
        usable = left > 1e-10 * np.maximum(first, 1e-300)  # else a combination of those chosen
        gain = np.where(usable, np.square(product) / np.where(usable, left, 1.0), 0.0)
        best = np.where(free, gain, -1.0).argmax(1)
        chosen[:, step], free[row, best] = best, False
        # take the chosen feature out of all others (one step of Gauss-Jordan elimination)
        column = gram[row, :, best]  # (b, k)
        pivot = np.where(usable[row, best], left[row, best], np.inf)
        product -= column * (product[row, best] / pivot)[:, None]
        gram -= column[:, :, None] * (column / pivot[:, None])[:, None, :]
    return chosen


def _quality(
    found: Explanation, luck: np.ndarray, person: np.ndarray | None, n_samples: int, run: Run
) -> tuple[Measurement, ...]:
    """Say how far to trust the explanations: fit, gap at the row, and what another seed would change."""
    n_units = found.n_records if person is None else len(np.unique(person))
    fit, gap = found.fit, found.gap
    if fit is None or gap is None or n_units < 2:
        few = "a mean over rows needs at least 2 rows or people; see the explanation itself"
        return tuple(run.unresolved(name, few, n_units) for name in ("local_fit", "local_gap"))
    strongest = np.abs(found.values).max(1).mean()
    used = found.values != 0
    typical = float(np.sqrt(np.square(found.errors[used]).mean())) if used.any() else 0.0
    poor = int((fit.mean(1) < POOR_FIT).sum())
    table = Table(
        name="fit",
        columns=("what", "value"),
        rows=(
            ("rows explained", found.n_records),
            ("perturbed rows asked", n_samples),
            (f"rows with R2 below {POOR_FIT}", poor),
            ("standard error of a coefficient (between seeds)", typical),
            ("mean largest coefficient", float(strongest)),
        ),
    )
    details: list[Table | Note] = [table]
    if poor:
        details.append(
            Note(
                text=f"In {poor} of {found.n_records} rows the rules explain less than half of how the model answers "
                "around the row: do not rely on those explanations."
            )
        )
    close = stats.mean(fit.mean(1), clusters=person, level=run.level)
    parts = stats.mean(PARTS * luck, level=run.level)  # all rows share the perturbed rows, and their luck
    half = float(np.hypot(close.high - close.value, parts.high - parts.value))
    # R2 is at most 1
    close = replace(close, low=close.value - half, high=max(close.value, min(1.0, close.value + half)))
    return (
        run.measured("local_fit", close, details),
        run.measured("local_gap", stats.mean(gap.max(1), clusters=person, level=run.level)),
    )
