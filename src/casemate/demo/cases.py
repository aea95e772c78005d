# SPDX-License-Identifier: Apache-2.0
"""What the demos train on: whose records they are, where they are read, what is publicly known of their columns."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casemate.core.errors import InvalidData, MissingExtra

if TYPE_CHECKING:
    from casemate.core.data import Dataset
    from casemate.core.schema import Schema

HOSPITAL_COLUMNS = (
    "coins site year black income xage female educdec num mhi disea physlm ghindx child hlthg hlthf hlthp mdeoff"
).split()
# From the study's code book and what the columns mean, not from the rows: ages to 65, scales from 0 to 100, ...
# A guarantee computed with the ends of a column that were seen in the data would be void (see dp_logistic).
HOSPITAL_BOUNDS = {
    "coins": (0, 100), "site": (1, 6), "year": (1, 5), "black": (0, 1), "income": (0, 30_000), "xage": (0, 65),
    "female": (0, 1), "educdec": (0, 25), "num": (1, 16), "mhi": (0, 100), "disea": (0, 60), "physlm": (0, 1),
    "ghindx": (0, 100), "child": (0, 1), "hlthg": (0, 1), "hlthf": (0, 1), "hlthp": (0, 1), "mdeoff": (0, 1000),
}  # fmt: skip
NAMES = ("hospital", "bank")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model to be trained, the data it is trained and tested on, and who and what that is, in both languages."""

    name: str
    title: str
    about: str
    title_zh: str
    about_zh: str
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
        about=f"RAND Health Insurance Experiment: {len(table):,} years of {len(people):,} people, half in training",
        title_zh="医院：谁一年就诊四次或以上？",
        about_zh=f"兰德健康保险实验：{len(people):,} 人的 {len(table):,} 人年记录，一半的人用于训练",
        model=forest(),
        data=halves(table[[*HOSPITAL_COLUMNS, "zper"]], outcome, inside, ("black", "female"), person="zper"),
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
        about=f"Breast Cancer Wisconsin (Diagnostic): {len(outcome):,} patients, one row each, half in training",
        title_zh="乳腺癌：肿瘤是否为良性？",
        about_zh=f"威斯康星乳腺癌（诊断）数据：{len(outcome):,} 名患者，每人一行，一半用于训练",
        model=forest(),
        data=halves(bunch.data, outcome, inside),
    )


def case(name: str, *, small_data: bool = False, seed: int = 0) -> Case:
    """Return the demo of that name.

    >>> case("bank", small_data=True).data
    Dataset(table, 284 train, 285 holdout, 30 columns)
    """
    from casemate.demo.loans import bank

    if name not in NAMES:
        raise InvalidData(f"no demo {name!r}; demos are: {', '.join(NAMES)}")
    return small(seed) if small_data else {"hospital": hospital, "bank": bank}[name](seed)


def forest() -> Any:
    """Return scikit-learn's default forest: 100 trees, grown until the leaves are pure; it takes holes as they are."""
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(random_state=0)


def halves(
    rows: Any,
    outcome: Any,
    inside: Any,
    who: Any = (),
    *,
    person: str | None = None,
    schema: Schema | None = None,
) -> Dataset:
    """Split a frame into training rows (``inside``) and others; without ``schema``, nobody changes ``who`` they are."""
    from casemate.core.data import Dataset

    rules: dict[str, Any] = {"schema": schema} if schema else {"sensitive": who, "immutable": who}
    return Dataset(
        train=(rows[inside].reset_index(drop=True), outcome[inside]),
        holdout=(rows[~inside].reset_index(drop=True), outcome[~inside]),
        person=person,
        **rules,
    )
