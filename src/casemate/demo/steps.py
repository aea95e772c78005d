# SPDX-License-Identifier: Apache-2.0
"""What the demos have in common: how hard they try, who is told how far they are, which demo runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from casemate import api
from casemate.demo import facts, words
from casemate.demo.cases import Case
from casemate.demo.outcome import Outcome
from casemate.demo.texts import say
from casemate.report import plain

if TYPE_CHECKING:
    from casemate.core.methods import Spec
    from casemate.core.run import Progress
    from casemate.core.stats import Interval
    from casemate.core.types import Target
    from casemate.report.compare import Comparison


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How hard a demo tries. The defaults are what its figures in the README were measured with.

    Numbers of shadow models are pinned: a busy machine takes longer and gives the same figures.
    """

    n_shadows: int = 16
    n_network_shadows: int = 8  # the slowest of the three models
    epochs: int = 10
    generations: int = 40  # of the search for an edit
    only: tuple[str, ...] | None = None  # methods of the full audit; None for all there are
    narrow: Mapping[str, Mapping[str, Any]] | None = None  # parameters of further methods

    def methods(self, *left_out: str) -> list[Spec]:
        """Return every method that measures, in the order of the package, but for those ``left_out``."""
        own = {"lira": {"n_shadows": self.n_shadows}, **(self.narrow or {})}
        names = [card.name for card in api.methods() if card.kind != "defence"]
        kept = [name for name in names if name not in left_out and (self.only is None or name in self.only)]
        return [api.method(name, **own.get(name, {})) for name in kept]

    def lira(self, n_shadows: int | None = None) -> list[Spec]:
        """Return the membership attack alone."""
        return [api.method("lira", n_shadows=n_shadows or self.n_shadows)]


def run(
    case: Case, *, seed: int = 0, progress: Progress | None = None, settings: Settings | None = None
) -> Outcome:
    """Run the demo of a case: attack, protect, attack again, and say what it cost. Records of the demos are public.

    Nothing is written here, so that a demo which is stopped leaves nothing behind; see :meth:`Outcome.save`.
    """
    from casemate.demo import clinic, lending, short

    script = {"hospital": clinic.run, "bank": lending.run, "small": short.run}[case.name]
    return script(case, seed=seed, progress=progress, settings=settings or Settings())


def told(progress: Progress | None, step: str) -> Progress | None:
    """Return a progress that says which step of the demo is on."""
    if progress is None:
        return None
    call = progress
    return lambda what, done, total: call(f"{step}: {what}", done, total)


def head(case: Case, lang: str) -> list[str]:
    """Return the first two lines of a demo."""
    return [case.title, case.about] if lang == "en" else [case.title_zh, case.about_zh]


def ending(comparison: Comparison, lang: str) -> list[str]:
    """Return the last lines of a demo: what is not covered, and the verdict of the comparison."""
    return [*words.wrapped(say("uncovered", lang)), plain.verdict_line(comparison)[lang]]


def recognised_gap(comparison: Comparison, report: int = 1) -> Interval | None:
    """Return how many more are recognised, paired: by person where the data knows people."""
    found = facts.leak_of(comparison.reports[0])
    level = "person_" if found is not None and found.unit == "person" else ""
    return facts.change_of(comparison, "lira", f"{level}tpr_at_1pct_fpr", report)


def first_called(target: Target, data: Any, wanted: str) -> int | None:
    """Return the first held-out row that a target gives the class ``wanted``; None if there is none."""
    import numpy as np

    target, data = target.bind(data)
    names = np.array([str(name) for name in target.classes])
    found = np.flatnonzero(names[target.labels(data.holdout.x)] == wanted)
    return int(found[0]) if len(found) else None
