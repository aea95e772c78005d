# SPDX-License-Identifier: Apache-2.0
"""The bank: the smallest feasible edit that turns a refusal into a loan, the reasons given, groups, then the leak.

1. Evasion inside the Schema of ``loans.py``: at most three edits that an applicant could make.
2. What one refusal rests on.
3. Whom the model refuses and whom the attacker recognises, by race.
4. Membership inference.
5. Larger leaves: what they take from the leak, and give to evasion.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from casemate import api
from casemate.core import stats
from casemate.core.types import Threat
from casemate.demo import facts, steps, words
from casemate.demo.cases import Case
from casemate.demo.loans import RACES, YES_OR_NO
from casemate.demo.outcome import Outcome
from casemate.demo.texts import LANGUAGES, joined, names, say

if TYPE_CHECKING:
    from casemate.core.data import Dataset
    from casemate.core.run import Progress
    from casemate.core.stats import Interval
    from casemate.core.types import Target
    from casemate.report.compare import Comparison
    from casemate.report.model import Report

EDITS = 3
LEAF = 5  # larger ones and the forest hardly refuses anybody: one application in eight was rejected
SHOWN = 4
GOOD, BAD = "approved", "rejected"
# Neither counts edits. At effort standard every rejected application held out is attacked; the rest is kept small.
LEFT_OUT = ("pgd", "hop_skip_jump")
NARROW = {"explanation_stability": {"n_samples": 1024}, "steal": {"max_queries": 500, "points": 3}}


@dataclass(frozen=True, kw_only=True)
class Edits:
    """What became of the refusals among applications that were rejected: how many, how many turned, by which edits."""

    n: int
    refused: int
    turned: int
    share: Interval | None
    invalid: int
    examples: tuple[str, ...]  # the fewest edits first


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the steps found, for words in either language."""

    case: Case
    comparison: Comparison
    reasons: facts.Reasons | None
    refused: Mapping[str, Interval]  # by race, among all held out


def run(case: Case, *, seed: int, progress: Progress | None, settings: steps.Settings) -> Outcome:
    """Run the five steps and return reports, comparison and words."""
    data = case.data
    forest = api.wrap(case.model).trained(data, seed)
    goal = [str(label) for label in forest.bind(data)[0].classes].index(GOOD)
    own = {**NARROW, "tabular_attack": {"generations": settings.generations}, **(settings.narrow or {})}
    threat = Threat(norm="l0", radius=EDITS, goal=goal)
    methods = replace(settings, narrow=own).methods(*LEFT_OUT)
    before = api.audit(
        forest,
        data,
        methods=methods,
        threat=threat,
        effort="standard",
        seed=seed,
        show_records=True,
        progress=steps.told(progress, "1/2 the default forest"),
    )
    step = steps.told(progress, "2/2 larger leaves")
    leaves = api.harden(
        forest, data, using=[api.method("limit_leaves", n=LEAF)], seed=seed, progress=step
    ).target
    after = api.audit(leaves, data, like=before, show_records=True, progress=step)
    row = steps.first_called(forest, data, BAD)
    bound = forest.bind(data)[0]
    why = None
    if row is not None:
        why = facts.reasons(api.explain(forest, data, rows=[row], seed=seed), bound.classes)
    refused = refusals(forest, data, goal)
    found = Found(case=case, comparison=api.compare(before, after), reasons=why, refused=refused)
    said = {lang: tuple(lines(found, lang)) for lang in LANGUAGES}
    return Outcome(reports={"before": before, "after": after}, comparison=found.comparison, said=said)


def refusals(target: Target, data: Dataset, goal: int) -> dict[str, Interval]:
    """Return the share of held-out applications that the model refuses, by race; named as the reports name groups."""
    target, data = target.bind(data)
    refused = target.labels(data.holdout.x) != goal
    found = {}
    for race in RACES:
        column = data.holdout.x[:, data.schema.names.index(race)]
        for value in (1, 0):
            if (column == value).any():
                found[f"{race} = {value}"] = stats.proportion(refused[column == value])
    return found


def edits(report: Report) -> Edits:
    """Read what the attack did to the refusals among rejected applications."""
    row = report["tabular_attack", "robust_accuracy"]
    attack, shown = facts.table_of(row, "attack"), facts.table_of(row, "examples")
    counts = {str(name): float(value or 0) for name, value in attack.rows} if attack else {}
    n = int(counts.get("points attacked", 0))
    refused = n - int(counts.get("already of the goal class before the attack", 0))
    turned = int(counts.get("of the goal class under attack", 0)) - (n - refused)
    invalid = report["tabular_attack", "invalid_examples"]
    # the same edit of several applicants is one example
    texts = dict.fromkeys(str(example[0]) for example in shown.rows) if shown else {}
    return Edits(
        n=n,
        refused=refused,
        turned=turned,
        share=stats.clopper_pearson(turned, refused) if refused else None,
        invalid=round((invalid.value or 0.0) * invalid.n),
        examples=tuple(texts),
    )


def lines(found: Found, lang: str) -> list[str]:
    """Say what the steps found."""
    before, after = found.comparison.reports
    called, unit = names("bank", lang), say("unit.bank", lang)
    titles = (say("model.forest", lang), say("model.leaves", lang, n=LEAF))
    return [
        *steps.head(found.case, lang),
        *_edited(edits(before), lang, called),
        *_reasons(found, lang, called),
        *_groups(found, lang, called),
        *words.wrapped("4. " + say("leak.head", lang, unit=unit)),
        *words.leaks(list(zip(titles, found.comparison.reports, strict=True)), unit, lang),
        *words.wrapped(_fixed(found.comparison, edits(before), edits(after), lang)),
        *steps.ending(found.comparison, lang),
    ]


def _edited(found: Edits, lang: str, called: Mapping[str, str]) -> list[str]:
    share = "–" if found.share is None else words.hundred(found.share)
    counts = {"n": found.n, "refused": found.refused, "turned": found.turned, "radius": EDITS}
    shown = [_worded(example, lang, called) for example in found.examples[:SHOWN]]
    return [
        *words.wrapped(say("bank.edits", lang, share=share, **counts)),
        *(f"     {example}" for example in shown or [say("bank.no_edit", lang)]),
        *words.indented(say("bank.feasible", lang, invalid=found.invalid, n=found.refused)),
    ]


def _worded(example: str, lang: str, called: Mapping[str, str]) -> str:
    """Write an edit in readers' words; what is 0 or 1 is no or yes."""
    answer = {"0": say("word.no", lang), "1": say("word.yes", lang)}
    for name in YES_OR_NO:
        said = rf"\g<1>: {answer['0']} -> {answer['1']}", rf"\g<1>: {answer['1']} -> {answer['0']}"
        for was, text in zip(("0 -> 1", "1 -> 0"), said, strict=True):
            example = re.sub(rf"({re.escape(name)}) {was}(?!\d)", text, example)
    return joined(words.translated(example, called).split("; "), lang, ";")


def _reasons(found: Found, lang: str, called: Mapping[str, str]) -> list[str]:
    why = found.reasons
    if why is None:
        return []
    warning = say("why.weak", lang) if why.fit < facts.WEAK else ""
    fit = say("why.fit_one", lang, first=100 * why.fit, warning=warning)
    answer = words.translated(why.answer, called)
    rules = words.rules(why, called, facts.yes_or_no(found.case.data), lang)
    return words.wrapped(say("bank.why", lang, answer=answer, sure=why.sure, rules=rules, fit=fit))


def _groups(found: Found, lang: str, called: Mapping[str, str]) -> list[str]:
    """Say whom the model refuses and whom the attacker recognises, by race; the page slices further figures."""
    attack = found.comparison.reports[0]["lira", "tpr_at_1pct_fpr"]
    table = facts.table_of(attack, "tpr_at_1pct_fpr by group")
    sliced = {str(row[0]): row[2:] for row in table.rows} if table else {}
    refused, leaked = [], []
    for label, share in found.refused.items():
        group = called.get(label, label)
        refused.append(say("bank.group", lang, group=group, value=words.hundred(share)))
        figures = [100 * part for part in sliced.get(label, ()) if isinstance(part, (int, float))]
        if len(figures) == 3:  # where there are too few, a word stands in their place
            shown = "{:.2g} [{:.2g}, {:.2g}]".format(*figures)
            leaked.append(say("bank.group", lang, group=group, value=shown))
    told = {"refused": joined(refused, lang), "leaked": joined(leaked, lang) or say("leak.none", lang)}
    return words.wrapped(say("bank.groups", lang, **told))


def _fixed(comparison: Comparison, then: Edits, now: Edits, lang: str) -> str:
    """Say what larger leaves did to the leak, to the model, and to what an edit achieves."""
    share = words.signed(steps.recognised_gap(comparison), of_100=True)
    auc = words.signed(facts.change_of(comparison, "utility", "roc_auc"))
    text = say("bank.fix", lang, n=LEAF, share=share, auc=auc, turned=now.turned, refused=now.refused)
    worse = now.refused > 0 and then.refused > 0 and now.turned * then.refused > then.turned * now.refused
    return text + ((" " if lang == "en" else "") + say("bank.worse", lang) if worse else "")
