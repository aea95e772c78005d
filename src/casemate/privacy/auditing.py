# SPDX-License-Identifier: Apache-2.0
"""From attack scores to measurements: what every membership attack reports, in one form.

Rates are of the attacked target alone; beside them stands what models of its recipe leak on average (recipe.py), for
people where rows have owners. A threshold is always fixed on other data: on the non-members of
shadow targets where the attack trained shadows, else on the other half of the target's non-members. Scores
are compared by steps: tied records are flagged together or not at all, and nothing is interpolated. A rate is
inconclusive where the threshold did not hold on the target: see `unheld`. Where
rows have owners, record-level intervals are clustered by person and every quantity is also given for
people. Rates are given by sensitive group too, for members and for the others: a group whose non-members are accused
as often as its members are caught is not one that leaks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from casemate.core import groups, stats
from casemate.core.evidence import digits
from casemate.core.groups import Estimate, Slice
from casemate.core.methods import Quantity
from casemate.core.run import Run
from casemate.core.stats import Interval
from casemate.core.types import Curve, Detail, Measurement, Note, PerRecord, Table
from casemate.privacy import recipe
from casemate.privacy.blind import blind_baseline
from casemate.privacy.pool import Pool

RATES: tuple[tuple[float, str], ...] = ((0.01, "1pct"), (0.001, "0.1pct"))
POWER = 0.8
PRIOR = 0.01  # share of members among those tested, for the precision: an attacker rarely faces one half
SLACK = 1.5  # how far the false alarms a threshold really caused may lie above its rate, at their lower limit
MOVED = "Some people change group from row to row; each is counted in the group of their first row."
LOWER_BOUND = "A lower bound on what the model leaks: a stronger attack may find more."

_AUC = {"en": "membership AUC", "zh": "成员推断 AUC"}
_RATE_NAMES = {"1pct": ("1 %", "1 %"), "0.1pct": ("0.1 %", "0.1 %")}


def _quantities() -> dict[str, Quantity]:
    listed = {}
    # No null for false alarms (a tied score may cause none) nor for the blind baseline (it is not of the model).
    for prefix, en, zh in (("", "", ""), ("person_", ", people", "（按人）")):
        listed[f"{prefix}auc"] = Quantity(worse="higher", null=0.5, en=_AUC["en"] + en, zh=_AUC["zh"] + zh)
        for rate, name in RATES:
            rate_en, rate_zh = _RATE_NAMES[name]
            listed[f"{prefix}tpr_at_{name}_fpr"] = Quantity(
                worse="higher",
                null=rate,
                unit="share",
                en=f"members recognised at {rate_en} false alarms{en}",
                zh=f"误报率 {rate_zh} 时被认出的成员比例{zh}",
            )
            listed[f"{prefix}fpr_at_{name}"] = Quantity(
                worse="higher",
                headline=False,
                unit="share",
                en=f"false alarms caused at the {rate_en} threshold{en}",
                zh=f"{rate_zh} 阈值下的实际误报率{zh}",
            )
    listed["blind_auc"] = Quantity(
        worse="higher",
        headline=False,
        en="AUC of telling the two parts apart without the model",
        zh="不用模型区分两部分数据的 AUC",
    )
    return listed


def _recipe_quantities() -> dict[str, Quantity]:
    # Neither a null nor a headline: they are not of this model, and whoever was in it they stay as they are.
    listed = {}
    for prefix, en, zh in (("recipe_", "", ""), ("recipe_person_", ", people", "（按人）")):
        mean_en, mean_zh = f"{en}, mean over models of this recipe", f"{zh}，同一训练方案各模型的平均"
        listed[f"{prefix}auc"] = Quantity(
            worse="higher", headline=False, en=_AUC["en"] + mean_en, zh=_AUC["zh"] + mean_zh
        )
        for _, name in RATES:
            rate_en, rate_zh = _RATE_NAMES[name]
            listed[f"{prefix}tpr_at_{name}_fpr"] = Quantity(
                worse="higher",
                headline=False,
                unit="share",
                en=f"members recognised at {rate_en} false alarms{mean_en}",
                zh=f"误报率 {rate_zh} 时被认出的成员比例{mean_zh}",
            )
    return listed


# What every membership attack reports; a card takes it whole. RECIPE goes with it where an attack trains shadows.
QUANTITIES: Mapping[str, Quantity] = _quantities()
RECIPE: Mapping[str, Quantity] = _recipe_quantities()


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What an attack thinks of each record or person: higher means "was in the training set".

    ``shadow_score`` (K, n) are the same scores with each shadow as the target, ``shadow_member`` whether the record was
    inside, ``shadow_usable`` whether it counts; None for an attack without shadows. ``in_rate`` = a/b says that the
    shadows come in blocks of b, each inside for a of its block; without it the recipe's leakage is not reported.
    """

    score: np.ndarray  # (n,)
    member: np.ndarray  # (n,) bool
    unit: np.ndarray  # (n,) codes
    ids: np.ndarray | None = None  # (n,)
    shadow_score: np.ndarray | None = None
    shadow_member: np.ndarray | None = None
    shadow_usable: np.ndarray | None = None
    in_rate: Fraction | None = None

    def by_person(self, *, average: bool = False) -> Scores:
        """Return one score a person: the sum over their rows, or the average."""
        _, first, group = np.unique(self.unit, return_index=True, return_inverse=True)
        group = group.reshape(-1)
        size = np.bincount(group)
        own = np.bincount(group, self.score) / (size if average else 1)
        if self.shadow_score is None or self.shadow_member is None or self.shadow_usable is None:
            shadow_score = shadow_member = shadow_usable = None
        else:
            used = np.where(self.shadow_usable, self.shadow_score, 0.0)
            shadow_score = np.stack([np.bincount(group, row) for row in used])  # (K, people)
            shadow_member = self.shadow_member[:, first]
            shadow_usable = np.stack([np.bincount(group, row) > 0 for row in self.shadow_usable])
        return Scores(
            score=own,
            member=self.member[first],
            unit=self.unit[first],
            # the id of a person's first row stands for them
            ids=None if self.ids is None else self.ids[first],
            shadow_score=shadow_score,
            shadow_member=shadow_member,
            shadow_usable=shadow_usable,
            in_rate=self.in_rate,
        )


class Caught(NamedTuple):
    """Members caught and non-members accused at one threshold rule."""

    tpr: Interval
    fpr: Interval
    hits: np.ndarray  # (members,)
    accused: np.ndarray  # (nonmembers,) bool


def report(
    run: Run,
    scores: Scores,
    pool: Pool,
    *,
    attacker: str,
    average: bool = False,
    parts: Sequence[Slice] = (),
) -> list[Measurement]:
    """Turn scores into the rows of the report: records, people where rows have owners, recipe, and blind baseline.

    ``attacker`` is a sentence on what the attacker knew and did. ``average`` scores a person by the mean of their rows.
    ``parts`` are the sensitive groups of the pool's rows; where rows have owners, a person is in that of their first.
    """
    notes = [Note(text=attacker), Note(text=LOWER_BOUND)]
    n_left_out = int((~pool.evaluated).sum())
    if n_left_out:
        text = f"{n_left_out} rows that occur in both train and holdout are members and non-members at once: left out."
        notes.append(Note(text=text))
    blind = blind_baseline(pool, run) if np.ndim(pool.x) == 2 else None
    reason = ""
    if blind is None:
        notes.append(
            Note(text="No blind baseline: whether train and holdout differ by source was not checked.")
        )
    elif blind[1].low > 0.5:
        reason = (
            f"train and holdout can be told apart without the model (AUC {blind[0].value:.2f}): "
            "they come from different distributions, so this does not measure the model"
        )
    reason = reason or unranked(scores.score, pool.y[pool.evaluated])
    parts = [part.take(pool.evaluated) for part in parts]
    if pool.people:
        rows = _level(run, scores, "", notes, reason, people=True)
        _, first, whose = np.unique(scores.unit, return_index=True, return_inverse=True)
        if any((part.codes != part.codes[first][whose.reshape(-1)]).any() for part in parts):
            notes = [*notes, Note(text=MOVED)]
        parts = [part.take(first) for part in parts]
        scores = scores.by_person(average=average)
        rows += _level(run, scores, "person_", notes, reason, people=False, parts=parts)
    else:
        rows = _level(run, scores, "", notes, reason, people=False, parts=parts)
    rows += _recipe(run, scores, "recipe_person_" if pool.people else "recipe_")
    if blind is not None:
        rows.append(
            run.measured(
                "blind_auc",
                blind[0],
                [
                    Note(
                        text="A classifier on x and y alone (for people also their number of rows), tested on people "
                        "or records it was not trained on."
                    )
                ],
            )
        )
    return rows


def _level(
    run: Run,
    scores: Scores,
    prefix: str,
    notes: Sequence[Note],
    reason: str,
    *,
    people: bool,
    parts: Sequence[Slice] = (),
) -> list[Measurement]:
    """Measure one level: records (clustered where units repeat) or people."""
    inside, outside = scores.score[scores.member], scores.score[~scores.member]
    units = (scores.unit[scores.member], scores.unit[~scores.member])
    single = len(np.unique(scores.unit)) == len(scores.unit)
    clusters = (None, None) if single else units
    owners = units if people else (None, None)
    ids = (None, None) if scores.ids is None else (scores.ids[scores.member], scores.ids[~scores.member])

    def row(
        quantity: str, interval: Interval, null: float, details: Sequence[Detail], failed: str = ""
    ) -> Measurement:
        told = [*notes, *details]
        if quantity.endswith(("auc", "_fpr")) and interval.low <= null and not (reason or failed):
            if detectable(quantity, interval, null) >= 1:
                failed = "too few to show anything: even a leak of everything may be missed"
            else:
                told.append(Note(text=undetected(quantity, interval, null)))
        return run.measure(
            prefix + quantity,
            interval.value,
            interval.low,
            interval.high,
            interval.n,
            details=told,
            reason=reason or failed,
        )

    area = stats.auc(
        inside, outside, positive_clusters=clusters[0], negative_clusters=clusters[1], level=run.level
    )
    kept: list[Detail] = [_roc(inside, outside, run.level)]
    for name, part, values, owner in zip(
        ("members", "nonmembers"), ids, (inside, outside), owners, strict=True
    ):
        if part is not None:
            kept.append(PerRecord.of(name, part, values, owner))
    rows = [row("auc", area, 0.5, kept)]
    # Rows of one person, or equal rows, fix a threshold once: of 100 people with 12 rows each 95 % intervals of the
    # rate at 1 % lay wholly above the truth in 11 % of draws, and in 19 % where a person's rows were nearly equal.
    n_others, who = len(np.unique(units[1])), "people" if people or prefix else "distinct records"
    for rate, name in RATES:
        quantities = (f"tpr_at_{name}_fpr", f"fpr_at_{name}")
        if not stats.resolvable(rate, n_others):
            lacking = (
                f"not resolvable: {100 * rate:g} % false alarms need >= {round(10 / rate):,} non-member {who}, "
                f"has {n_others:,}"
            )
            rows += [run.unresolved(prefix + quantity, lacking, n_others) for quantity in quantities]
            continue
        caught = _caught(run, scores, rate, clusters)
        told: list[Detail] = (
            [] if ids[0] is None else [PerRecord.of("members", ids[0], caught.hits, owners[0])]
        )
        if caught.tpr.value > 0:
            told.append(Note(text=precision(caught.tpr, caught.fpr)))
        failed = unheld(caught.tpr, caught.fpr, rate)
        if not caught.hits.any():
            failed = failed or tied(inside, outside, rate)
        sliced = _by_group(run, scores, rate, caught, clusters, parts, [prefix + name for name in quantities])
        rows.append(row(quantities[0], caught.tpr, rate, [*told, *sliced[0]], failed))
        rows.append(row(quantities[1], caught.fpr, rate, sliced[1]))
    return rows


def _by_group(
    run: Run,
    scores: Scores,
    rate: float,
    caught: Caught,
    clusters: tuple[np.ndarray | None, np.ndarray | None],
    parts: Sequence[Slice],
    names: Sequence[str],
) -> tuple[list[Detail], list[Detail]]:
    """Slice members caught and non-members accused by group, at the one threshold that all share."""

    def told(
        name: str, side: np.ndarray, values: np.ndarray, owner: np.ndarray | None, estimate: Estimate | None
    ) -> list[Detail]:
        own = [part.take(side) for part in parts]
        shared: dict[str, Any] = {"method": run.card.name, "worse": "higher", "level": run.level}
        return groups.details(name, own, values, person=owner, estimate=estimate, **shared)

    def found(among: np.ndarray, level: float) -> Interval:
        return _caught(run, scores, rate, clusters, among=among, level=level).tpr

    return (
        told(names[0], scores.member, caught.hits, clusters[0], found),
        told(names[1], ~scores.member, caught.accused, clusters[1], None),
    )


def _caught(
    run: Run,
    scores: Scores,
    rate: float,
    clusters: tuple[np.ndarray | None, np.ndarray | None],
    *,
    among: np.ndarray | None = None,
    level: float | None = None,
) -> Caught:
    """Fix a threshold at ``rate`` on other data and count on the target: its members, or those ``among`` them."""
    rng = run.rng("threshold", len(scores.score), str(rate))
    level = run.level if level is None else level
    inside, outside = scores.score[scores.member], scores.score[~scores.member]
    member_units = scores.unit[scores.member]
    if among is not None:
        inside, member_units = inside[among], member_units[among]
    if (
        scores.shadow_score is not None
        and scores.shadow_member is not None
        and scores.shadow_usable is not None
    ):
        free = ~scores.shadow_member & scores.shadow_usable  # (K, n) non-members of each shadow target
        tpr, threshold = stats.tpr_at_fpr(
            inside,
            scores.shadow_score[free],
            fpr=rate,
            rng=rng,
            member_clusters=member_units,
            calibration_clusters=np.broadcast_to(scores.unit, free.shape)[free],
            level=level,
        )
        accused = outside > threshold
        fpr = stats.proportion(accused, clusters=clusters[1], level=level)
        return Caught(tpr, fpr, inside > threshold, accused)
    # No shadows: each half of the non-members (whole units) fixes the threshold for the other half.
    units = scores.unit[~scores.member]
    codes = np.unique(units, return_inverse=True)[1].reshape(-1)
    half = rng.permutation(int(codes.max()) + 1)[codes] % 2
    accused = np.zeros(len(outside), bool)
    found, hits = [], np.zeros(len(inside))
    for side in (0, 1):
        interval, threshold = stats.tpr_at_fpr(
            inside,
            outside[half == side],
            fpr=rate,
            rng=rng,
            member_clusters=member_units,
            calibration_clusters=units[half == side],
            level=level,
        )
        found.append(interval)
        hits += (inside > threshold) / 2
        accused[half != side] = outside[half != side] > threshold
    # The hull of the two: each holds its own threshold's noise, which averaging does not remove.
    tpr = Interval(
        float(hits.mean()),
        min(interval.low for interval in found),
        max(interval.high for interval in found),
        level,
        found[0].n,
    )
    return Caught(tpr, stats.proportion(accused, clusters=clusters[1], level=level), hits, accused)


def _recipe(run: Run, scores: Scores, prefix: str) -> list[Measurement]:
    """Measure what models of the target's recipe leak on average; nothing for an attack without shadows."""
    if scores.shadow_score is None or scores.in_rate is None:
        return []
    who = "people" if prefix.endswith("person_") else "records"
    bank = recipe.Bank.of(scores, scores.in_rate)
    if bank is None:
        lacking = f"a shadow model was trained on all {who} that can be judged, or on none of them"
        return [run.unresolved(f"{prefix}auc", lacking, len(scores.score))]
    told = Note(
        text=f"Not of this model: the mean over {len(bank.score)} models trained by its recipe, each on "
        f"{scores.in_rate} of all these {who}, and attacked by the models of the other blocks at thresholds fixed on "
        f"them. The interval holds the luck of {who} and of training; a paired difference that of {who} alone."
    )

    def row(quantity: str, found: recipe.Recognised, details: Sequence[Detail]) -> Measurement:
        seen = ~np.isnan(found.values)
        kept: list[Detail] = [told, *details]
        if scores.ids is not None:
            kept.append(PerRecord.of(prefix + quantity, scores.ids[seen], found.values[seen]))
        return run.measured(prefix + quantity, found.interval, kept)

    area = recipe.auc(bank, level=run.level)
    rows, by_model = [], [("auc", area.models)]
    for rate, name in RATES:
        quantity = f"tpr_at_{name}_fpr"
        if stats.resolvable(rate, bank.n_units):
            rng = run.rng("recipe", len(scores.score), str(rate))
            found = recipe.rate(bank, rate, rng=rng, level=run.level)
            alarms = Note(
                text=f"Over these models the thresholds for {100 * rate:g} % false alarms caused "
                f"{100 * (found.alarms or 0.0):.2g} %."
            )
            rows.append(row(quantity, found, [alarms]))
            by_model.append((quantity, found.models))
        elif rate == RATES[0][0]:  # a finer rate that few people cannot resolve is no further row
            lacking = (
                f"not resolvable: {100 * rate:g} % false alarms need >= {round(10 / rate):,} {who}, "
                f"has {bank.n_units:,}"
            )
            rows.append(run.unresolved(prefix + quantity, lacking, bank.n_units))
    return [row("auc", area, [_spread(by_model)]), *rows]


def _roc(inside: np.ndarray, outside: np.ndarray, level: float) -> Curve:
    points = stats.roc(inside, outside, level=level)
    x, y, low, high = (tuple(float(f"{value:.6g}") for value in part) for part in points)
    return Curve(name="roc", x=x, y=y, low=low, high=high)


def _spread(by_model: Sequence[tuple[str, np.ndarray]]) -> Table:
    """Tabulate how the models of the recipe differ: a single target hides the luck of its training."""
    rows: list[tuple[str | float, ...]] = []
    for name, values in by_model:
        figures = (values.mean(), values.std(ddof=1), values.min(), values.max())
        rows.append((name, *map(digits, figures), len(values)))
    return Table(
        name="models of the recipe",
        columns=("quantity", "mean", "sd", "least", "most", "models"),
        rows=tuple(rows),
    )


def unranked(score: np.ndarray, y: np.ndarray) -> str:
    """Say that an attack gave all records of a class (n,) one score, where it did: it knows no more than the label.

    >>> unranked(np.array([1.0, 0.0, 1.0]), np.array([1, 0, 1]))
    'the attack gives all records of a class the same score: it cannot tell them apart, whatever leaks'
    >>> unranked(np.array([0.0, 1.0]), np.zeros(2))
    ''
    """
    if any(np.ptp(score[y == label]) > 0 for label in np.unique(y)):
        return ""
    return "the attack gives all records of a class the same score: it cannot tell them apart, whatever leaks"


def tied(inside: np.ndarray, outside: np.ndarray, rate: float) -> str:
    """Say that more non-members than ``rate`` share the highest score of all: no threshold has so few false alarms.

    >>> tied(np.array([1.0, 0.0]), np.array([1.0, 0.0]), 0.01)[:57]
    '50 % of non-members share the highest score of all: there'
    >>> tied(np.array([2.0, 0.0]), np.array([1.0, 0.0]), 0.01)
    ''
    """
    share = float((outside >= max(inside.max(), outside.max())).mean())
    if share <= rate:
        return ""
    return (
        f"{100 * share:.2g} % of non-members share the highest score of all: there is no threshold with "
        f"{100 * rate:g} % false alarms, and nobody can be recognised by this attack whatever leaks"
    )


def unheld(tpr: Interval, fpr: Interval, rate: float) -> str:
    """Say why the share of members at ``rate`` is no finding on this target; empty where it may stand.

    A threshold from shadows holds for targets trained as they were, on as many rows. Another target answers
    differently about everybody: a forest on RAND HIE that saw neither part has 2 to 4 % of both above the 1 %
    threshold, and one trained on 1 % of the rows causes 4 to 9 % false alarms there.

    >>> unheld(Interval(0.03, 0.02, 0.04, 0.95, 2000), Interval(0.01, 0.006, 0.015, 0.95, 2000), 0.01)
    ''
    """
    wanted = f"the threshold for {100 * rate:g} % false alarms"
    if fpr.low > SLACK * rate:
        return (
            f"{wanted} caused {100 * fpr.value:.2g} % ({100 * fpr.low:.2g} to {100 * fpr.high:.2g} %): it was fixed on "
            "models that answer otherwise than this target"
        )
    if tpr.low > rate and stats.difference(tpr, fpr).low <= 0:
        return (
            f"{100 * tpr.value:.2g} % of members and {100 * fpr.value:.2g} % of non-members lie above {wanted}: "
            "no clear difference, so this does not show a leak"
        )
    return ""


def precision(tpr: Interval, fpr: Interval) -> str:
    """Say which share of those flagged would be members if 1 in 100 of those tested were, over both intervals.

    >>> precision(Interval(0.5, 0.4, 0.6, 0.95, 100), Interval(0.01, 0.005, 0.02, 0.95, 1000))
    'If 1 in 100 of those tested were members, 34 % of those flagged would be (17 to 55 %).'
    """
    ends = ((tpr.value, fpr.value), (tpr.low, fpr.high), (tpr.high, fpr.low))
    share, low, high = (PRIOR * t / max(PRIOR * t + (1 - PRIOR) * f, 1e-300) for t, f in ends)
    return (
        f"If {100 * PRIOR:g} in 100 of those tested were members, {100 * share:.0f} % of those flagged would be "
        f"({100 * low:.0f} to {100 * high:.0f} %)."
    )


def undetected(quantity: str, interval: Interval, null: float) -> str:
    """Say that a null result is one, and what leak would have been found with 80 % probability.

    >>> undetected("auc", Interval(0.5, 0.48, 0.52, 0.95, 4000), 0.5)
    'Not detected by this attack at this power: an AUC of 0.529 or more would have been found with 80 % probability.'
    """
    effect = min(detectable(quantity, interval, null), 1.0)
    least = f"an AUC of {effect:.3f}" if quantity == "auc" else f"{100 * effect:.2f} % of members recognised"
    return (
        f"Not detected by this attack at this power: {least} or more would have been found "
        f"with {100 * POWER:.0f} % probability."
    )


def detectable(quantity: str, interval: Interval, null: float) -> float:
    """Return what leak would have been found with 80 % probability; above 1 where none would.

    The larger of two: chance plus (z + z_80) standard errors read off the interval, which holds the noise of the
    threshold and of people; and for rates the share whose exact binomial interval lies above chance.

    >>> round(detectable("auc", Interval(0.5, 0.1, 0.9, 0.95, 10), 0.5), 2)
    1.07
    """
    from scipy.special import betaincinv, ndtri

    z, n = float(ndtri(0.5 + interval.level / 2)), interval.n
    effect = null + (interval.high - interval.low) / 2 * (1 + float(ndtri(POWER)) / z)
    if quantity == "auc":
        return effect
    counts = range(int(null * n), n + 1)
    levels = ((k, stats.clopper_pearson(k, n, level=interval.level).low) for k in counts)
    enough = next((k for k, low in levels if low > null), n)  # the fewest hits that show a leak
    return max(effect, float(betaincinv(enough, n - enough + 1, POWER)))
