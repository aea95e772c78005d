# SPDX-License-Identifier: Apache-2.0
"""The verbs: what an audit lets out of a person's records, and what `like` shares."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.tree import DecisionTreeClassifier

import casemate as cm
from casemate.core.errors import InvalidData
from casemate.core.types import PerRecord

N, ROWS = 15, 4  # people a side, rows of each


def people(first: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, labels and owners; the owners stand in order, as they do in files."""
    x = np.random.default_rng(first).normal(size=(N * ROWS, 3))
    return x, (x[:, 0] > 0).astype(int), first + np.repeat(np.arange(N), ROWS)


DATA = cm.Dataset(train=people(0), holdout=people(N))
MODEL = DecisionTreeClassifier(max_depth=2, random_state=0).fit(DATA.train.x, DATA.train.y)


def audit(data: cm.Dataset = DATA, like: cm.Report | None = None) -> cm.Report:
    return cm.audit(MODEL, data, methods=["loss_attack"], effort="quick", seed=3, like=like)


def records(report: cm.Report) -> dict[str, PerRecord]:
    """The values of single records: of members, of non-members, and of the held-out rows for utility."""
    rows = [*report["loss_attack", "auc"].details, *report["utility", "accuracy"].details]
    return {piece.name: piece for piece in rows if isinstance(piece, PerRecord)}


@pytest.fixture(scope="module")
def first() -> cm.Report:
    return audit()


@pytest.fixture(scope="module")
def second() -> cm.Report:
    return audit()


def test_ids_of_records_are_random_and_no_places_in_the_file(first: cm.Report, second: cm.Report) -> None:
    one, other = records(first), records(second)
    ids = [*one["members"].ids, *one["nonmembers"].ids]
    assert len(set(ids)) == len(ids) == 2 * N * ROWS
    assert one["accuracy"].ids == one["nonmembers"].ids  # one record, one id
    for part in ("members", "nonmembers"):
        # by chance one in 60!; and who knows the members' ids of one report knows none of another
        assert list(one[part].ids) != sorted(one[part].ids)
        assert one[part].ids != other[part].ids
        assert one[part].values == other[part].values  # the same audit otherwise
    inside = np.array(one["members"].ids)
    assert 0 < (inside < N * ROWS).sum() < N * ROWS  # nor does the size of an id say which part it is of


def test_numbers_of_people_are_random_and_the_same_in_every_row(first: cm.Report, second: cm.Report) -> None:
    one, other = records(first), records(second)
    for part, owner in (("members", DATA.train.person), ("nonmembers", DATA.holdout.person)):
        codes = np.array(one[part].clusters).reshape(N, ROWS)
        assert (codes == codes[:, :1]).all() and len(set(codes[:, 0].tolist())) == N
        assert codes[:, 0].tolist() != sorted(codes[:, 0].tolist())
        assert codes.ravel().tolist() != np.asarray(owner).tolist()
        assert one[part].clusters != other[part].clusters
    assert not set(one["members"].clusters) & set(one["nonmembers"].clusters)


def test_the_digest_of_the_data_is_keyed(first: cm.Report, second: cm.Report) -> None:
    """Else whoever guesses the data could test the guess against a report that was handed out."""
    assert first.data["digest"] != second.data["digest"]
    assert {k: v for k, v in first.data.items() if k != "digest"} == {
        k: v for k, v in second.data.items() if k != "digest"
    }


def test_like_shares_ids_people_and_digest_and_refuses_other_data(first: cm.Report) -> None:
    again = audit(like=first)
    assert again.data == first.data
    for name, piece in records(first).items():
        assert records(again)[name] == piece
    x, y, owner = people(N)
    x[7, 1] += 1e-9
    with pytest.raises(InvalidData, match="other data"):
        audit(cm.Dataset(train=people(0), holdout=(x, y, owner)), like=first)


def test_like_uses_the_same_methods_and_parameters_again_unless_others_are_named() -> None:
    spec = cm.method("permutation_importance", repeats=2)
    before = cm.audit(MODEL, DATA, methods=[spec], effort="quick")
    used = [
        cm.audit(MODEL, DATA, methods=named, like=before).methods[0]["params"]
        for named in (None, ["permutation_importance"], [cm.method("permutation_importance", max_rows=50)])
    ]
    assert before.methods[0]["params"]["repeats"] == 2
    assert used[0] == used[1] == before.methods[0]["params"]
    assert used[2] == before.methods[0]["params"] | {"max_rows": 50}


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: cm.audit(MODEL, DATA, methods=3), "methods must list names"),
        (lambda: cm.audit(MODEL, DATA, methods=[None]), "methods must list names"),
        (lambda: cm.audit(MODEL, DATA, methods=["lira", "lira"]), "lira is named twice"),
        (lambda: cm.audit(MODEL, DATA, threat="linf"), "threat must be a casemate.Threat; got str"),
        (lambda: cm.audit(MODEL, DATA, like={}), "like must be a casemate.Report; got dict"),
        (lambda: cm.audit(MODEL, DATA, effort=[]), "effort [] is unknown"),
        (lambda: cm.audit(MODEL, (1, 2)), "data must be a casemate.Dataset; got tuple"),
        (lambda: cm.harden(MODEL, DATA, using=None), "using must list names"),
        (lambda: cm.harden(MODEL, None, using="rounding"), "data must be a casemate.Dataset"),
        (lambda: cm.compare("before.json"), "before must be a casemate.Report; got str"),
        (lambda: cm.load(None), "MODEL None is not a file"),
    ],
)
def test_a_wrong_argument_is_named(call: Callable[[], object], told: str) -> None:
    with pytest.raises(InvalidData, match=re.escape(told)):
        call()


def test_one_name_stands_for_a_list_of_one() -> None:
    assert cm.harden(MODEL, DATA, using="rounding").method == "rounding"
