# SPDX-License-Identifier: Apache-2.0
"""Twelve statistics of the RAND Health Insurance Experiment, together epsilon 1 for each person, beside the truth.

    python examples/private_statistics.py

The data ship with statsmodels (pip install "casemate[demo]"): 20,190 person-years of 5,912 people, at most 5 rows each.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import casemate.privacy.statistics as statistics
from casemate.demo.cases import packaged
from casemate.privacy.ledger import Ledger

table = pd.read_csv(packaged("statsmodels", "datasets/randhie/src/randhie.csv"))
people = statistics.People(table["zper"], max_rows=5)
age, visits, income = table["xage"], table["mdvis"], table["income"]
share: dict[str, Any] = {"epsilon": 1 / 12, "people": people}

with tempfile.TemporaryDirectory() as folder:
    share["ledger"] = ledger = Ledger.create(
        Path(folder) / "rand.ledger", population="RAND HIE", epsilon=1.0 + 1e-9, delta=0.0
    )
    asked: list[tuple[str, Any, float]] = [
        ("person-years", statistics.count(age, **share), len(age)),
        ("visits in all", statistics.sum(visits, bounds=(0, 40), **share), visits.clip(0, 40).sum()),
        ("mean age", statistics.mean(age, bounds=(0, 80), **share), age.mean()),
        ("mean visits", statistics.mean(visits, bounds=(0, 40), **share), visits.clip(0, 40).mean()),
        ("mean income", statistics.mean(income, bounds=(0, 30_000), **share), income.clip(0, 30_000).mean()),
        ("variance of age", statistics.variance(age, bounds=(0, 80), **share), age.clip(0, 80).var(ddof=0)),
        ("median age", statistics.quantile(age, 0.5, bounds=(0, 80), **share), age.median()),
        ("upper tenth of visits", statistics.quantile(visits, 0.9, bounds=(0, 40), **share), visits.quantile(0.9)),
    ]  # fmt: skip
    female = statistics.contingency_table(table, categories={"female": [0, 1]}, **share)
    ages = statistics.histogram(age, edges=[0, 18, 40, 80], **share)
    scaled = statistics.standardisation(table, bounds={"xage": (0, 80), "mhi": (0, 100)}, **share)
    both = statistics.covariance(table, bounds={"xage": (0, 80), "mhi": (0, 100)}, **share)
    print(f"{'statistic':24}{'private':>14}{'95 % of the noise':>28}{'truth':>14}")
    for name, release, truth in asked:
        print(f"{name:24}{release.value:14,.2f}{release.low:14,.2f}{release.high:14,.2f}{truth:14,.2f}")
    truth = np.cov(table["xage"].clip(0, 80), table["mhi"].clip(0, 100), bias=True)[0, 1]
    pair = [part[0][1] for part in (both.value, both.low, both.high)]
    print(f"{'covariance age, mhi':24}{pair[0]:14,.2f}{pair[1]:14,.2f}{pair[2]:14,.2f}{truth:14,.2f}")
    print("women", female.value, "true", np.bincount(table["female"]).tolist())
    print("ages", ages.value, "true", np.histogram(age, [0, 18, 40, 80])[0].tolist())
    print("mean and sd", [tuple(round(one, 2) for one in pair) for pair in scaled.value])
    print(
        "spent:",
        round(ledger.spent().epsilon, 6),
        "of 1 for each person, in",
        len(ledger.spends()),
        "questions",
    )
    ledger.close()
