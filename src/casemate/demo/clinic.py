# SPDX-License-Identifier: Apache-2.0
"""The hospital: three models as teams train them, what each gives away, and what takes it back at which price.

1. The leak of a forest (full audit), gradient boosting and a neural network (membership only), as scikit-learn sets
   them.
2. Larger leaves: free, and without a guarantee.
3. Differential privacy for each person: the bound of the plan beside what the attack found.
4. Adversarial training of a small network and its price, where torch is installed.
5. Explanations before and after step 2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from casemate import api
from casemate.core.extras import installed
from casemate.demo import facts, network, steps, words
from casemate.demo.cases import HOSPITAL_BOUNDS, Case
from casemate.demo.checks import checked
from casemate.demo.outcome import Name, Outcome
from casemate.demo.texts import LANGUAGES, joined, names, say
from casemate.privacy.plan import rounded_up

if TYPE_CHECKING:
    from casemate.core.data import Dataset
    from casemate.core.run import Progress
    from casemate.core.types import Target
    from casemate.report.compare import Comparison
    from casemate.report.model import Report

LEAF = 20
EPSILON, DELTA = 3.0, 1e-5
SHOWN = "4 or more"  # the answer that is explained
# Effort quick looks at 2,000 rows: too few for the order of 18 columns.
PINNED = {"permutation_importance": {"repeats": 3, "max_rows": 10_000}}


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the steps found, for words in either language."""

    case: Case
    reports: dict[Name, Report]
    comparison: Comparison
    most: float  # share of people that anybody recognises, by the plan
    checks: dict[str, bool]
    moved: network.Moved | None
    agreement: facts.Agreement
    reasons: tuple[facts.Reasons, facts.Reasons] | None


def run(case: Case, *, seed: int, progress: Progress | None, settings: steps.Settings) -> Outcome:
    """Run the five steps and return reports, comparison and words."""
    data = case.data
    forest = api.wrap(case.model).trained(data, seed)
    step = steps.told(progress, "1/5 the leak")
    reports: dict[Name, Report] = {
        "before": api.audit(
            forest,
            data,
            methods=replace(settings, narrow={**PINNED, **(settings.narrow or {})}).methods(),
            effort="quick",
            seed=seed,
            show_records=True,
            progress=step,
        )
    }
    others: tuple[tuple[Name, Any, int], ...] = (
        ("boosting", boosting(), settings.n_shadows),
        ("network", neural(), settings.n_network_shadows),
    )
    for name, model, n in others:
        reports[name] = api.audit(
            model, data, methods=settings.lira(n), effort="quick", seed=seed, progress=step
        )
    step = steps.told(progress, "2/5 larger leaves")
    leaves = api.harden(
        forest, data, using=[api.method("limit_leaves", n=LEAF)], seed=seed, progress=step
    ).target
    before = reports["before"]
    reports["after"] = api.audit(leaves, data, like=before, show_records=True, progress=step)
    step = steps.told(progress, "3/5 differential privacy")
    spec = api.method("dp_logistic", epsilon=EPSILON, delta=DELTA, bounds=HOSPITAL_BOUNDS)
    private = api.harden(forest, data, using=[spec], seed=seed, progress=step).target
    reports["after-dp"] = api.audit(private, data, like=before, show_records=True, progress=step)
    moved = None
    if installed("torch"):
        step = steps.told(progress, "4/5 inputs moved")
        moved = network.run(case, seed=seed, epochs=settings.epochs, progress=step)
        reports |= {"torch-before": moved.before, "torch-after": moved.after}
    row = steps.first_called(forest, data, SHOWN)
    single = [] if row is None else [_one(target, data, row, seed) for target in (forest, leaves)]
    found = Found(
        case=case,
        reports=reports,
        comparison=api.compare(before, reports["after"], reports["after-dp"]),
        most=private.claims[0].max_tpr(facts.RATE),
        checks=checked(private, data),
        moved=moved,
        agreement=facts.agreement(before, reports["after"]),
        reasons=(single[0], single[1]) if single else None,
    )
    said = {lang: tuple(lines(found, lang)) for lang in LANGUAGES}
    return Outcome(reports=reports, comparison=found.comparison, said=said)


def _one(target: Target, data: Dataset, row: int, seed: int) -> facts.Reasons:
    return facts.reasons(api.explain(target, data, rows=[row], seed=seed), target.bind(data)[0].classes, n=1)


def boosting() -> Any:
    """Return scikit-learn's default gradient boosting; it takes holes as they are."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(random_state=0)


def neural() -> Any:
    """Return scikit-learn's default neural network behind what it needs: holes filled, columns scaled."""
    from sklearn.impute import SimpleImputer
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(SimpleImputer(strategy="median"), StandardScaler(), MLPClassifier(random_state=0))


def lines(found: Found, lang: str) -> list[str]:
    """Say what the steps found."""
    reports, unit = found.reports, say("unit.hospital", lang)
    titles: tuple[tuple[str, Name], ...] = (
        (say("model.forest", lang), "before"),
        (say("model.boosting", lang), "boosting"),
        (say("model.network", lang), "network"),
        (say("model.leaves", lang, n=LEAF), "after"),
        (say("model.private", lang), "after-dp"),
    )
    table = words.leaks([(title, reports[name]) for title, name in titles], unit, lang)
    return [
        *steps.head(found.case, lang),
        *words.wrapped("1. " + say("leak.head", lang, unit=unit)),
        *table[:4],
        say("step.free", lang, n=LEAF),
        table[4],
        *words.indented(_cost(found, lang)),
        say("step.private", lang, epsilon=EPSILON, delta=DELTA),
        table[5],
        *words.indented(_guarantee(found, lang, unit)),
        say("step.moved", lang, radius=network.RADIUS),
        *_moved(found.moved, lang),
        *_explained(found, lang),
        *steps.ending(found.comparison, lang),
    ]


def _cost(found: Found, lang: str) -> str:
    share = words.signed(steps.recognised_gap(found.comparison), of_100=True)
    auc = words.signed(facts.change_of(found.comparison, "utility", "roc_auc"))
    return say("cost", lang, share=share, auc=auc)


def _guarantee(found: Found, lang: str, unit: str) -> str:
    """The bound beside what the attack found, and what was looked at of what the bound rests on."""
    passed = [say(f"check.{name}", lang) for name, held in found.checks.items() if held]
    failed = [say(f"check.{name}", lang) for name, held in found.checks.items() if not held]
    most = f"{100 * rounded_up(found.most):.3g}"  # a bound may not shrink on paper
    sentences = [
        words.leak_note(facts.leak_of(found.reports["after-dp"]), lang, unit),
        say(
            "bound",
            lang,
            most=most,
            epsilon=EPSILON,
            unit=unit,
            passed=len(passed),
            n=len(found.checks),
            names=joined(passed, lang) or "–",
        ),
        say("bound.failed", lang, names=joined(failed, lang)) if failed else "",
        say("bound.cost", lang, auc=words.signed(facts.change_of(found.comparison, "utility", "roc_auc", 2))),
    ]
    return (" " if lang == "en" else "").join(filter(None, sentences))


def _moved(moved: network.Moved | None, lang: str) -> list[str]:
    if moved is None:
        return words.indented(say("moved.absent", lang))
    before, after = (words.limits(m) for m in moved.held)
    gain = say("moved.gain", lang, before=before, after=after)
    price = say(
        "moved.price",
        lang,
        accuracy=moved.after["utility", "accuracy"].value,
        constant=moved.constant,
        auc=words.signed(moved.gap("utility", "roc_auc")),
        times=moved.times,
    )
    return [*words.indented(gain), *words.indented(price)]


def _explained(found: Found, lang: str) -> list[str]:
    called, told = names("hospital", lang), found.agreement
    both = joined([called.get(name, name) for name in told.before if name in told.after], lang)
    text = say(
        "step.why", lang, rank=told.spearman, shared=told.shared, top=len(told.before), both=both or "–"
    )
    if found.reasons is None:
        return words.wrapped(text)
    sides, plain = [], facts.yes_or_no(found.case.data)
    for when, why in zip(("before", "after"), found.reasons, strict=True):
        answer, rules = words.translated(why.answer, called), words.rules(why, called, plain, lang)
        sides.append(
            say("why.side", lang, when=say(f"why.{when}", lang), answer=answer, sure=why.sure, rules=rules)
        )
    first, second = (why.fit for why in found.reasons)
    warning = say("why.weak", lang) if min(first, second) < facts.WEAK else ""
    fit = say("why.fit", lang, first=100 * first, second=100 * second, warning=warning)
    one = say("why.one", lang, sides=joined(sides, lang, ";"), fit=fit)
    return [*words.wrapped(text), *words.indented(one)]
