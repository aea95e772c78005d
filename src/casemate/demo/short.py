# SPDX-License-Identifier: Apache-2.0
"""The ten-second demo on breast cancer: too few people to tell low rates of false alarms, and it says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from casemate import api
from casemate.demo import facts, steps, words
from casemate.demo.cases import Case
from casemate.demo.outcome import Outcome
from casemate.demo.texts import LANGUAGES, say

if TYPE_CHECKING:
    from casemate.core.run import Progress
    from casemate.report.compare import Comparison

LEAF = 20


def run(case: Case, *, seed: int, progress: Progress | None, settings: steps.Settings) -> Outcome:
    """Audit the default forest and the one with larger leaves; compare."""
    data = case.data
    forest = api.wrap(case.model).trained(data, seed)
    step = steps.told(progress, "1/2 the leak")
    before = api.audit(
        forest,
        data,
        methods=settings.methods(),
        effort="quick",
        seed=seed,
        show_records=True,
        progress=step,
    )
    step = steps.told(progress, "2/2 larger leaves")
    leaves = api.harden(forest, data, using=[api.method("limit_leaves", n=LEAF)], seed=seed).target
    after = api.audit(leaves, data, like=before, show_records=True, progress=step)
    comparison = api.compare(before, after)
    said = {lang: tuple(lines(case, comparison, lang)) for lang in LANGUAGES}
    return Outcome(reports={"before": before, "after": after}, comparison=comparison, said=said)


def lines(case: Case, comparison: Comparison, lang: str) -> list[str]:
    """Say what was found and what was not resolvable."""
    before, after = comparison.reports
    told, unit = facts.agreement(before, after), say("unit.small", lang)
    titles = (say("model.forest", lang), say("model.leaves", lang, n=LEAF))
    table = words.leaks(list(zip(titles, comparison.reports, strict=True)), unit, lang)
    rank = [words.limits(report["lira", "auc"]) for report in (before, after)]
    attack, auc = (
        words.signed(facts.change_of(comparison, *row)) for row in (("lira", "auc"), ("utility", "roc_auc"))
    )
    return [
        *steps.head(case, lang),
        *words.wrapped("1. " + say("leak.head", lang, unit=unit)),
        *table,
        *words.indented(words.leak_note(facts.leak_of(before), lang, unit)),
        *words.indented(say("small.rank", lang, before=rank[0], after=rank[1])),
        *words.wrapped(say("small.free", lang, n=LEAF, attack=attack, auc=auc)),
        *words.wrapped(say("small.why", lang, rank=told.spearman, shared=told.shared, top=len(told.before))),
        *steps.ending(comparison, lang),
    ]
