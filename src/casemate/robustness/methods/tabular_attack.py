# SPDX-License-Identifier: Apache-2.0
"""Evolutionary attack on tables, by scores and, where there are any, gradients.

What it measures: for each held-out row, whether a row is found that the model gets wrong (or, with
``Threat(goal=)``, gives that class), that lies inside the threat's ball and obeys every rule of the schema. It
works on any model with scores: forests, boosting, pipelines, networks, whatever answers over a wire. The accuracy
that is left is an upper bound: another attack may break more.

What the attacker knows: the scores of every class, the schema, the true label, and rows of the same kind with their
true labels (``reference``, else the training rows) as donors of plausible values. With MODULE also the gradients.

Formula: MOEVA (Simonetto et al. 2022) evolves rows under three objectives: the margin ``log s_y - log max s_other``
(below zero: found), the distance, and the violation of the constraints. Here every candidate passes through
``repair.py`` before the model sees it, so it is in the ball, obeys the rules, and the third objective is zero by
construction. One generation asks for the candidates of all rows in one call.

- Start: random points of the ball; donors of another class, the nearest and random ones, whole or a random half of
  their cells; each column alone at both ends of its reach (under ``l0`` also at quartiles, each category and each
  one-hot option), then the best ends together, for the best 2, 3, 4, 6 ... columns.
- Offspring: a survivor, or the cell-wise crossover of two, or a survivor plus 0.8 times the difference of two more;
  then at least one cell mutates: a step of log-uniform size, an end of its reach, a uniform value, the donor's
  value, or back to the original. Under ``l0`` a random selection of the edits that fits the budget is kept.
- Survival: the lowest margins; of equal ones the newer, so that on the plateaus of a tree the population drifts.
  R-NSGA-III, which MOEVA selects by, is not implemented: with the ball as a limit one objective is left, and shells
  of distance in its place found no more.
- A row whose prediction changed leaves; what was found is then shortened for ``shrink`` rounds: single columns go
  back to their value and the whole change shrinks, as long as the model stays wrong.

With gradients (linf, l2 and l1) a stage before it follows CAPGD (Simonetto et al. 2024): normalised steps with
momentum on the margin of the logits, halved where the last fifth of the steps brought nothing, each iterate
repaired before it is judged; evolution takes what is left.

Cost: about ``(generations + 3) x population`` and some four predictions a column for a row that holds, far fewer for
one that breaks; ``gradient_steps`` gradients a row.

Pitfalls: a search that fails proves nothing. Success is looked for in the largest score and confirmed by the model's
own prediction, so where the two disagree (a threshold other than one half) it aims a little wrong. On scores that are
flat everywhere (a single tree's zeros and ones) evolution is a random walk. Exact equalities between many columns
are repaired by moving the others in proportion; few candidates may survive that. Donors are true rows: where the
report shows records, cells of an example can be cells of a donor. Draws are keyed by the content of a row: neither
order nor batch changes them.
"""

from __future__ import annotations

import time

import numpy as np

from casemate.core.data import Dataset
from casemate.core.errors import InvalidData, InvalidThreat
from casemate.core.methods import method
from casemate.core.run import Run, require
from casemate.core.types import LABELS, MODULE, SCORES, Target, Threat
from casemate.robustness.ascent import Climb
from casemate.robustness.evolution import MAX_POOL, Hunt, Settings, block_size
from casemate.robustness.geometry import sample_ids
from casemate.robustness.repair import Repair


@method(
    kind="evasion",
    needs={LABELS, SCORES},
    prefers={MODULE},
    inputs={"table"},
    quick={"generations": 12, "gradient_steps": 20},
    deep={"generations": 150, "population": 40, "gradient_steps": 100},
    cost="about (generations + 3) x population predictions a row, and gradient_steps gradients",
    title={"en": "Evolutionary attack on tables", "zh": "表格数据的进化攻击"},
    reference="doi:10.24963/ijcai.2022/183, arXiv:2406.00775",
)
def tabular_attack(
    target: Target,
    data: Dataset,
    *,
    threat: Threat | None = None,
    generations: int = 40,
    population: int = 20,
    gradient_steps: int = 40,
    shrink: int = 2,
    run: Run | None = None,
) -> np.ndarray:
    """Return changed holdout rows that obey the schema and that the model gets wrong, where any were found.

    Inside the harness this gives ``robust_accuracy``, an upper bound on the accuracy under the threat.

    Args:
        target: a classifier of tables with scores; with gradients they are used first.
        data: its held-out rows are attacked; ``reference`` (or train) rows are the donors.
        threat: any norm; under l0 the radius is a number of edits, and categories may change.
        generations: of the evolution.
        population: survivors and offspring of each row.
        gradient_steps: of the stage before; 0 for none.
        shrink: rounds that shorten what was found.
        run: given by the harness.

    Returns:
        Array like ``data.holdout.x``; where nothing was found, the candidate of lowest margin.

    Raises:
        InvalidData: a size below 1, or no scores. InvalidThreat: a threat that was not resolved.

    >>> from sklearn.tree import DecisionTreeClassifier
    >>> import casemate as cm
    >>> x = np.array([[1.0, 0.0], [2.0, 0.0], [8.0, 0.0], [9.0, 0.0]])
    >>> data = Dataset(train=(x, [0, 0, 1, 1]), holdout=(x, [0, 0, 1, 1]))
    >>> tree = cm.wrap(DecisionTreeClassifier().fit(x, [0, 0, 1, 1]))  # its threshold is 5
    >>> found = tabular_attack(tree, data, threat=Threat(norm="l1", radius=3.5, scale="raw"))
    >>> found[0].quantity, found[0].value  # 2 and 8 can cross it
    ('robust_accuracy', 0.5)

    Source: Simonetto et al. 2022, IJCAI, and 2024, arXiv:2406.00775; written here, with other operators.
    """
    run = require(run)
    if threat is None or threat.radius is None or threat.norm is None:
        raise InvalidThreat(f"the threat has no radius or norm: {threat}; pass Threat(norm=, radius=)")
    if min(generations, gradient_steps, shrink) < 0 or population < 4:
        got = f"{generations}, {gradient_steps}, {shrink}, {population}"
        raise InvalidData(
            f"tabular_attack needs generations, gradient_steps, shrink >= 0 and population >= 4; got {got}"
        )
    x, y = data.holdout.x, data.holdout.y
    out = np.array(x)
    if len(x) == 0 or threat.radius == 0:
        return out
    if threat.norm == "l0" and threat.radius < 1:
        run.notes.append(
            f"No edit fits a budget of {threat.radius:g}: nothing was tried. Under l0 the radius is a number of edits."
        )
        return out
    pool = data.train if data.reference is None else data.reference
    order = np.argsort(sample_ids(pool.x), kind="stable")[
        :MAX_POOL
    ]  # a draw that the order of rows cannot move
    settings = Settings(target, threat, run, population, pool.x[order], pool.y[order])
    size = block_size(population, x.shape[1])
    starts = range(0, len(x), size)
    frozen = 0
    for first in starts:
        rows = slice(first, first + size)
        share = min(size, len(x) - first) / (len(x) - first)
        hunt = Hunt.of(settings, Repair.of(x[rows], data.schema, threat), y[rows], share)
        frozen += int((~hunt.repair.movable()).sum())
        if threat.norm != "l0" and gradient_steps and len(hunt.active) and target.has(MODULE):
            hunt.offer(Climb.of(hunt).run(gradient_steps))
        hunt.begin()
        done = 0
        while done < generations and len(hunt.active) and not hunt.spent:
            begin = time.perf_counter()
            hunt.evolve(done)
            done += 1
            if first == 0 and done == 1 and run.deadline is not None:
                seconds = (time.perf_counter() - begin) * len(starts)
                generations = run.affordable("generations", generations, seconds, least=1)
        for turn in range(shrink):
            hunt.shorten(turn)
        out[rows] = hunt.best
        run.report("rows", min(first + size, len(x)), len(x))
    run.notes.extend(settings.told(frozen, len(x)))
    return out
