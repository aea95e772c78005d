# SPDX-License-Identifier: Apache-2.0
"""Differentially private statistics of numpy, pandas, polars, Arrow and Parquet columns, exact down to the last bit.

Values are clamped to *public* bounds, put on a public grid, summed as whole numbers without overflow for any number of
rows, and noised once by :mod:`casemate.privacy.mechanisms`; floats appear only after the noise. Every function returns
a :class:`~casemate.privacy.release.Release`: value, interval, price. With ``ledger=`` the price is durable before the
answer is drawn, and the same question about the same rows gets the same answer again.

**What it does not cover.** Whether bounds, edges and categories are public is your word. The true values are in the
memory of the process; how long a question takes, and an error (a text among numbers), may depend on them: publish
releases, not timings or error messages.

>>> import casemate.privacy.statistics as statistics
>>> release = statistics.mean([31.0, 45.0, 62.0] * 400, bounds=(0, 120), epsilon=0.5)
>>> release.low <= release.value <= release.high
True
"""

from casemate.privacy.statistics._ask import Privacy
from casemate.privacy.statistics._rows import People, stored
from casemate.privacy.statistics.groups import group_by
from casemate.privacy.statistics.keys import vocabulary
from casemate.privacy.statistics.matrices import covariance, standardisation
from casemate.privacy.statistics.moments import count, mean, sum, variance  # noqa: A004
from casemate.privacy.statistics.planning import expected_error, n_needed
from casemate.privacy.statistics.ranks import quantile, quantiles
from casemate.privacy.statistics.tables import bounds, contingency_table, histogram, mode

__all__ = [
    "People",
    "Privacy",
    "bounds",
    "contingency_table",
    "count",
    "covariance",
    "expected_error",
    "group_by",
    "histogram",
    "mean",
    "mode",
    "n_needed",
    "quantile",
    "quantiles",
    "standardisation",
    "stored",
    "sum",
    "variance",
    "vocabulary",
]
