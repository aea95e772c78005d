# SPDX-License-Identifier: Apache-2.0
"""Calibration: scores are mapped so that 80 % means right four times out of five.

**What it does.** A map is fitted on rows that the model behind it was not trained on, and put behind the model's
scores: ``temperature`` (one factor on the logits; labels stay), ``platt`` (a sigmoid of the log-odds) or ``isotonic``
(a step function of them); the formulas are in privacy/calibration.py. With two classes all three keep the order of
rows, but ``platt`` and ``isotonic`` move the threshold, and with more classes they work class by class and sum to one
again: labels may change. The rows come from ``data.reference`` if there is one. Else the model is trained again on
train less each of ``folds`` parts, and each part is scored by the model that did not see it; the map is then put
behind the model as it is. With ``share`` that part of train is held back instead, and the model released is one
trained again on the rest. Held-out rows are never used: the audit stays clean.

**Why it stands under privacy.** Its aim is utility (log loss, Brier score), which has no package of its own. Beside
that it changes what simple attacks on membership read: how sure a model is of its training rows. It changes the
average, not the trace of a single row: an attacker who puts the same map behind the shadow models, as ``refit`` does,
loses little (bench/distil.py). No guarantee, and no defence.

**Cost.** ``folds`` fits (none with reference rows); shadow models cost no more than before.

**Pitfalls.** ``isotonic`` wants about 1,000 rows; below that ``temperature`` is safer. The map of the folds belongs to
models of fewer rows than the released one. Parts are by person where the data says whose row it is; without that,
people of several rows make the model look surer than it may be. What the map itself tells of single rows is not
measured: next to nothing for ``temperature``, more for the ends of ``isotonic``. Probabilities of 0, common in forests,
count as 1e-4. The calibration error in groups is too large on few rows: read log loss and Brier score first. Calibrated
on average is not calibrated in each group of people.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from casemate.core import stats
from casemate.core.data import Dataset, Split
from casemate.core.errors import InvalidData
from casemate.core.limited import shared
from casemate.core.methods import method
from casemate.core.run import Run, require
from casemate.core.types import REFIT, SCORES, Change, Note, Table, Target
from casemate.privacy import calibration
from casemate.privacy.calibrated import Calibrated, Calibrator
from casemate.privacy.calibration import HOWS, How
from casemate.training.distillation import check_public, surviving

_COLUMNS = tuple(f"{when}{what}" for when in ("before", "after", "change") for what in ("", " low", " high"))


@method(
    kind="defence",
    needs={SCORES, REFIT},
    null={"how": "none"},
    cost="folds x fit",
    title={"en": "Calibration", "zh": "概率校准"},
    reference="arXiv:1706.04599; Platt 1999; Zadrozny and Elkan 2002",
)
def calibrate(
    target: Target,
    data: Dataset,
    *,
    how: str = "temperature",
    folds: int = 3,
    share: float = 0.0,
    run: Run | None = None,
) -> Change:
    """Map the scores so that they mean what they say; no defence against an attacker who adapts.

    Args:
        target: must offer scores and refit.
        data: the map is fitted on ``reference``, or on parts of ``train`` that the model did not see; never on holdout.
        how: "temperature", "platt", "isotonic", or "none" (nothing changes).
        folds: models that score train in turn, at least 2; not used with reference rows or with ``share``.
        share: of train, held back from a new training for the map; 0 for folds.

    Raises:
        InvalidData: a map that is not known, folds or share out of range, too few rows.
        GuaranteeVoid: the model states a guarantee and the map would be fitted on its private rows.

    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.naive_bayes import GaussianNB
    >>> import casemate as cm
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> data = cm.Dataset(train=(X[::2], y[::2]), holdout=(X[1::2], y[1::2]))
    >>> cm.harden(GaussianNB().fit(X[::2], y[::2]), data, using=["calibrate"]).summary
    'scores calibrated (temperature): log loss on held-out rows 0.6241 to 0.2077'
    """
    run = require(run)
    params = {"how": how, "folds": folds, "share": share}
    _check(how, folds, share)
    if how == "none":
        return Change(target=target, method="calibrate", params=params, summary="no map: nothing changed")
    public = data.reference
    check_public("calibrate", target, data)
    way = Calibrator(how=cast(How, how), folds=folds, share=share, reference=public)
    model, mapping = way.apply(target, data.train, run.child_seed("map"))
    fields = shared(model) | {"claims": target.claims if how == "temperature" else surviving(target.claims)}
    made = Calibrated(base=model, calibrator=way, mapping=mapping, **fields)
    rows = _judged(target, made, data.holdout, run)
    if public is not None:
        source = f"{len(public)} reference rows"
    elif share:
        source = f"a share of {share:g} of the training rows, on which the model was not trained again"
    else:
        source = f"the training rows in {folds} parts, each scored by a model that did not see it"
    changed = float((target.labels(data.holdout.x) != made.labels(data.holdout.x)).mean())
    order = "Labels stay" if how == "temperature" else f"{100 * changed:.1f} % of held-out labels changed"
    loss = rows[0]
    return Change(
        target=made,
        method="calibrate",
        params=params,
        summary=f"scores calibrated ({how}): log loss on held-out rows {loss[1]:.4f} to {loss[4]:.4f}",
        evidence=(
            Table(name="calibration", columns=("held-out rows", *_COLUMNS), rows=tuple(rows)),
            Note(text=f"The map was fitted on {source}. {order}."),
        ),
    )


def _check(how: str, folds: int, share: float) -> None:
    if how != "none" and how not in HOWS:
        raise InvalidData(f"calibrate: how is {how!r}; use {', '.join(HOWS)} or none")
    if folds < 2:
        raise InvalidData(f"calibrate: folds is {folds!r}; give a whole number of at least 2")
    if not 0 <= share <= 0.9:
        raise InvalidData(f"calibrate: share is {share!r}; give a number from 0 to 0.9")


def _judged(before: Target, after: Target, held: Split, run: Run) -> list[tuple[Any, ...]]:
    """Return log loss, Brier score and calibration error on held-out rows: before, after, change, with limits."""
    scores = [target.scores(held.x) for target in (before, after)]
    hot = np.eye(scores[0].shape[1])[held.y]
    losses = [-np.log(np.maximum(s[np.arange(len(held)), held.y], 1e-15)) for s in scores]
    briers = [np.square(s - hot).sum(1) for s in scores]
    units = len(held) if held.person is None else len(np.unique(held.person))
    if units < 2:  # one unit has no spread
        none = (None, None)
        return [
            (name, float(a.mean()), *none, float(b.mean()), *none, float((b - a).mean()), *none)
            for name, (a, b) in (("log loss", losses), ("Brier score", briers))
        ]
    options: dict[str, Any] = {"clusters": held.person, "level": run.level}
    rows = []
    for name, (a, b) in (("log loss", losses), ("Brier score", briers)):
        found = (stats.mean(a, **options), stats.mean(b, **options), stats.paired_mean(a, b, **options))
        rows.append((name, *(number for part in found for number in (part.value, part.low, part.high))))
    error = calibration.calibration_error
    sides = [(s.max(1), (s.argmax(1) == held.y) * 1.0) for s in scores]
    asked: list[tuple[Any, list[np.ndarray]]] = [(error, [*sides[0]]), (error, [*sides[1]])]
    asked.append((lambda a, b, c, d: error(c, d) - error(a, b), [*sides[0], *sides[1]]))
    errors = tuple(
        stats.bootstrap(f, arrays, rng=run.rng("bootstrap"), n_resamples=300, **options)
        for f, arrays in asked
    )
    rows.append(("calibration error", *(n for part in errors for n in (part.value, part.low, part.high))))
    return rows
