# SPDX-License-Identifier: Apache-2.0
"""A target for the command line: `casemate audit examples.adult:forest ...`.

`python examples/adult.py SOURCE FOLDER` turns UCI's Adult files (no header) into train.csv and holdout.csv and shows
the command. Categories stay text and `?` stays in the cells: the pipeline and `--missing` deal with them.
"""

import sys
from pathlib import Path

import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OrdinalEncoder

NUMBERS = ["age", "education_years", "capital_gain", "capital_loss", "hours_per_week"]
CATEGORIES = [
    "workclass", "education", "marital_status", "occupation", "relationship", "race", "sex", "native_country",
]  # fmt: skip
NAMES = [
    "age", "workclass", "fnlwgt", "education", "education_years", "marital_status", "occupation", "relationship",
    "race", "sex", "capital_gain", "capital_loss", "hours_per_week", "native_country", "income",
]  # fmt: skip
OPTIONS = ["--label", "income", "--missing", "?"]


def forest() -> Pipeline:
    """An ordinal encoding of the categories, then the default forest."""
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2)
    columns = ColumnTransformer([("categories", encoder, CATEGORIES)], remainder="passthrough")
    return make_pipeline(columns, RandomForestClassifier(random_state=0))


def write(source: Path, folder: Path) -> tuple[Path, Path]:
    """Drop the survey weight and repeated rows: a row that stands on both sides is neither member nor non-member."""
    parts = [
        pd.read_csv(source / name, names=NAMES, skipinitialspace=True).drop(columns="fnlwgt")
        for name in ("adult-train.csv", "adult-test.csv")
    ]
    for part in parts:
        part["income"] = part["income"].str.rstrip(".")
    both = pd.concat(parts, keys=["train", "holdout"]).drop_duplicates()
    paths = folder / "train.csv", folder / "holdout.csv"
    for key, path in zip(("train", "holdout"), paths, strict=True):
        both.loc[key].to_csv(path, index=False)
    return paths


if __name__ == "__main__":
    train, holdout = write(Path(sys.argv[1]), Path(sys.argv[2]))
    print("casemate audit examples.adult:forest --train", train, "--holdout", holdout, *OPTIONS)
