# SPDX-License-Identifier: Apache-2.0
"""What `stats.calibration` is made of: groups of equal size, how their gaps vary, and limits of the gaps' size.

In group b the gap r_b is the mean stated probability less the share that came true, w_b the group's share of the rows.
T = sum w_b r_b^2 is too large on average: what chance alone gives, tr(W V) with V the covariance of the gaps, is taken
off (Broecker 2012, Ferro and Fricker 2012), and nothing is left of a calibrated model but noise of either sign. For the
limits T is a sum of squares of normals with weights: c times a non-central chi-squared with nu degrees, mean and
variance matched (Satterthwaite 1946), whose non-centrality is the squared size sought, over c.
"""

import math
from typing import NamedTuple

import numpy as np

from casemate.core._sampling import Floats, Ints, t_quantile, tail_of, z_quantile
from casemate.core.errors import InvalidData

MOST, LEAST = 10, 30  # groups, and persons a group: the gap of fewer is hardly normal


class Gaps(NamedTuple):
    """Gaps of the groups, their shares of the rows, their covariance, and one that few hits cannot make too small."""

    gap: Floats  # (groups,)
    share: Floats  # (groups,)
    covariance: Floats  # (groups, groups)
    widened: Floats  # (groups, groups)


def grouped(stated: Floats, persons: Ints, units: int) -> Ints:
    """Return the group (n,) of each row: equal shares of the rows in order, ties together, 2 persons at least."""
    for n_groups in range(min(MOST, max(1, units // LEAST)), 0, -1):
        edges = np.unique(np.quantile(stated, np.arange(1, n_groups) / n_groups, method="lower"))
        _, group = np.unique(np.searchsorted(edges, stated), return_inverse=True)
        held = np.unique(np.stack([group, persons]), axis=1)[0]  # a row a group and person
        if np.bincount(held).min() >= 2:
            break
    return np.asarray(group, np.int64)


def gaps(stated: Floats, happened: Floats, group: Ints, persons: Ints) -> Gaps:
    """Compute the gaps and how they vary by person: the linearised variance, exact in the mean where rows are persons.

    Where hardly anything happens, or all does, what was seen shows no spread: two further persons of average size are
    counted for the limits, one to whom all happened and one to whom nothing did, as in `stats.proportion`.
    """
    size = np.bincount(group).astype(np.float64)  # (groups,)
    gap = np.bincount(group, stated - happened) / size
    cells, of_row = np.unique(group * (int(persons.max()) + 1) + persons, return_inverse=True)
    owner, place = cells % (int(persons.max()) + 1), cells // (int(persons.max()) + 1)
    rows = np.bincount(of_row).astype(np.float64)  # (cells,) of one person in one group
    held = np.bincount(place)  # (groups,) persons
    pull = (
        np.bincount(of_row, stated - happened - gap[group]) / size[place] * np.sqrt(held / (held - 1))[place]
    )
    if len(cells) == int(owner.max()) + 1:  # nobody is in two groups
        covariance: Floats = np.diag(np.bincount(place, np.square(pull)).astype(np.float64))
    else:
        pulls = np.zeros((int(owner.max()) + 1, len(size)))  # (persons, groups)
        pulls[owner, place] = pull
        covariance = pulls.T @ pulls
    mean_size = np.bincount(place, np.square(rows)) / size
    rate = (np.bincount(group, happened) + mean_size) / (size + 2 * mean_size)
    further = np.square(mean_size / size) * (np.square(rate) + np.square(1 - rate))
    return Gaps(gap, size / size.sum(), covariance, covariance + np.diag(further))


def size(
    stated: Floats, happened: Floats, persons: Ints, units: int, level: float
) -> tuple[list[Ints], list[float], tuple[float, float, float]]:
    """Return the rows of each group, the mean stated there, and the root mean squared gap with its limits."""
    if stated.size != happened.size or stated.min() < 0 or stated.max() > 1:
        raise InvalidData(
            f"stated must be a probability from 0 to 1 for each of {happened.size} rows; got {stated.size} values "
            f"from {stated.min():.4g} to {stated.max():.4g}"
        )
    if not np.isin(happened, (0.0, 1.0)).all():
        raise InvalidData("happened must be true or false; got other numbers")
    group = grouped(stated, persons, units)
    found = gaps(stated, happened, group, persons)
    value = size_of(found)
    low, high = limits(found, units, level)
    places = [np.flatnonzero(group == one) for one in range(int(group.max()) + 1)]
    means = [float(stated[at].mean()) for at in places]
    return places, means, (value, min(low, value), max(high, value))


def size_of(found: Gaps) -> float:
    """Return the root of the mean squared gap, with what chance alone gives taken off; 0 where less is left."""
    return math.sqrt(max(0.0, float(found.share @ (np.square(found.gap) - np.diag(found.covariance)))))


def limits(found: Gaps, units: int, level: float) -> tuple[float, float]:
    """Return limits of the root mean squared gap."""
    from scipy.special import chndtr, chndtrinc

    weighted = found.share[:, None] * found.widened  # W V
    weighted *= (t_quantile(level, units - 1) / z_quantile(level)) ** 2
    total = float(found.share @ np.square(found.gap))
    trace = float(np.trace(weighted))
    pull = found.share * found.gap
    # along the gaps seen, where these are larger than chance makes them, the spread may be more than in the middle
    along = float(found.gap @ weighted @ pull) / total if total > 0 else 0.0
    unit = max(float(np.sum(weighted * weighted.T)) / trace, along)
    df, tail = trace / unit, tail_of(level)
    low = 0.0
    if chndtr(total / unit, df, 0.0) > 1 - tail:
        low = float(chndtrinc(total / unit, df, 1 - tail))
    # gaps smaller than chance makes them are luck, and no sign that there are none
    high = float(chndtrinc(max(total / unit, df), df, tail))
    return math.sqrt(low * unit), min(1.0, math.sqrt(high * unit))
