# SPDX-License-Identifier: Apache-2.0
"""A target for the command line: `casemate audit examples.rand_hie:forest ...`.

`python examples/rand_hie.py FOLDER` writes train.csv and holdout.csv (people split in half) and shows the command.
`forest()` returns an estimator that was never fitted: the audit trains it on the training file. Return a fitted one,
loaded in whatever way you trust, to audit the model you serve.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier

from casemate.demo import HOSPITAL_COLUMNS, packaged

OPTIONS = ["--label", "visits_4_or_more", "--person", "zper"]


def forest() -> RandomForestClassifier:
    """The default forest: 100 trees, pure leaves."""
    return RandomForestClassifier(random_state=0)


def careful_forest() -> RandomForestClassifier:
    """The same with at least 20 rows a leaf: it remembers less of each person."""
    return RandomForestClassifier(min_samples_leaf=20, random_state=0)


def write(folder: Path, seed: int = 0) -> tuple[Path, Path]:
    table = pd.read_csv(packaged("statsmodels", "datasets/randhie/src/randhie.csv"))
    table["visits_4_or_more"] = (table["mdvis"] >= 4).astype(int)
    people = np.random.default_rng(seed).permutation(table["zper"].unique())
    inside = table["zper"].isin(people[: len(people) // 2])
    rows = table[["zper", *HOSPITAL_COLUMNS, "visits_4_or_more"]]
    paths = folder / "train.csv", folder / "holdout.csv"
    rows[inside].to_csv(paths[0], index=False)
    rows[~inside].to_csv(paths[1], index=False)
    return paths


if __name__ == "__main__":
    train, holdout = write(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
    print("casemate audit examples.rand_hie:forest --train", train, "--holdout", holdout, *OPTIONS)
