# SPDX-License-Identifier: Apache-2.0
"""The verbs: wrap, load, method, methods, audit, harden, compare. No mathematics here."""

from __future__ import annotations

import hashlib
import importlib
import logging
import secrets
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from casemate import __version__
from casemate.core import harness
from casemate.core.data import Dataset
from casemate.core.errors import CasemateError, InvalidData
from casemate.core.methods import Card, Method, Spec, every, find
from casemate.core.run import Progress, Run
from casemate.core.types import REFIT, Change, Measurement, PerRecord, Recipe, Target, Task, Threat
from casemate.report.compare import Comparison
from casemate.report.compare import compare as _compare
from casemate.report.model import Report, environment

Effort = Literal["quick", "standard", "deep"]
logger = logging.getLogger("casemate")


def wrap(
    model: Any,
    *,
    task: Task | None = None,
    classes: Sequence[Any] | None = None,
    recipe: Recipe | None = None,
    outputs: Literal["logits", "probabilities", "scores", "labels"] | None = None,
    device: str | None = None,
) -> Target:
    """Turn a model into a Target: a torch module, a scikit-learn estimator, or any predict function.

    The model itself is never changed, wrapped or annotated.

    Args:
        model: ``nn.Module``, scikit-learn estimator or Pipeline, or a function from the user's rows to class
            probabilities (n, classes) or labels (n,).
        task: "binary", "multiclass" or "regression"; found from model and data when not given.
        classes: labels in the order of the model's outputs, where the model does not know them.
        recipe: how the model was trained, for refits (torch; scikit-learn carries its own).
        outputs: what the model returns, where it cannot be told.
        device: where a torch model runs; default: where its parameters are.

    Raises:
        InvalidData: an object that is none of these, or an option that does not apply to it.

    >>> from sklearn.dummy import DummyClassifier
    >>> wrap(DummyClassifier().fit([[0.0], [1.0]], ["no", "yes"])).kind
    'scikit-learn'
    """
    if isinstance(model, Target):
        return model
    if isinstance(classes, str) or not isinstance(classes, Iterable | None):
        raise InvalidData(f"classes must be a list of labels; got {classes!r}")
    for name in ("torch", "sklearn", "remote"):
        adapter = importlib.import_module(f"casemate.adapters.{name}")
        if adapter.accepts(model):
            made: Target = adapter.make(
                model, task=task, classes=classes, recipe=recipe, outputs=outputs, device=device
            )
            return made
    raise InvalidData(
        f"cannot wrap {type(model).__name__}: expected a torch module, a scikit-learn estimator or a predict function"
    )


def load(model: str, *, device: str | None = None) -> Target:
    """Load a target from ``package.module:function``; the function takes nothing and returns a model or Target.

    This imports and runs your own code, with your rights.

    Raises:
        InvalidData: a name that cannot be imported, or a file (reading model files is not built yet).

    >>> load("sklearn.dummy:DummyClassifier").kind
    'scikit-learn'
    """
    path, _, name = str(model).partition(":")
    if not name:
        known = "a file" if Path(str(model)).exists() else "not a file"
        raise InvalidData(
            f"MODEL {model!r} is {known}; give package.module:function (model files cannot be read safely yet)"
        )
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does: the user's own module lies beside them
    try:
        module = importlib.import_module(path)
    except ImportError as error:
        raise InvalidData(f"MODEL {model!r}: cannot import {path!r} ({error})") from error
    except Exception as error:
        raise InvalidData(
            f"MODEL {model!r}: importing {path!r} raised {type(error).__name__}: {error}"
        ) from error
    if not hasattr(module, name):
        raise InvalidData(f"MODEL {model!r}: module {path!r} has no {name!r}")
    factory = getattr(module, name)
    if not callable(factory):
        return wrap(factory, device=device)
    try:
        made = factory()
    except Exception as error:
        raise InvalidData(f"MODEL {model!r}: {name}() raised {type(error).__name__}: {error}") from error
    return wrap(made, device=device)


def method(name: str, **params: Any) -> Spec:
    """Name a method with parameters, for ``methods=`` and ``using=``.

    Raises:
        InvalidData: no such method, or a parameter it does not have.

    >>> method("lira", n_shadows=32)
    Spec(name='lira', params={'n_shadows': 32})
    """
    harness.parameters(find(name), "standard", params)
    return Spec(name, params)


def methods() -> list[Card]:
    """Return the cards of all methods.

    >>> "lira" in [card.name for card in methods()]
    True
    """
    return [item.card for item in every()]


def audit(
    target: Any,
    data: Dataset,
    *,
    methods: Sequence[str | Spec] | None = None,
    threat: Threat | None = None,
    effort: Effort = "standard",
    seed: int = 0,
    like: Report | str | Path | None = None,
    progress: Progress | None = None,
) -> Report:
    """Attack and check a target as its access allows, and return every number with its interval and attacker.

    An attack gives a lower bound: a stronger one may do better. What could not be measured is a visible row.
    Work is spread by ``joblib.parallel_config(n_jobs=...)``; without it, it is done in this process.

    Args:
        target: what ``wrap`` returned, or a model that ``wrap`` accepts.
        data: rows the model was trained on and rows it was not.
        methods: names or ``cm.method(...)``; None means all that fit the target.
        threat: what the attacker may change; unset fields are resolved and written out.
        effort: "quick" (about a minute on a small table), "standard" or "deep".
        seed: of every draw. ``like`` takes precedence.
        like: an earlier report on the same data: its seed, effort, threat, methods and parameters are used
            again and rows keep their opaque ids, so that the two can be compared pair by pair.
        progress: called with (what, done, total).

    Raises:
        InvalidData, InvalidThreat: input that cannot be used.

    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.tree import DecisionTreeClassifier
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> data = Dataset(train=(X[::2], y[::2]), holdout=(X[1::2], y[1::2]))
    >>> model = DecisionTreeClassifier(random_state=0).fit(X[::2], y[::2])
    >>> report = audit(model, data, methods=["loss_attack"], effort="quick")
    >>> report["utility", "accuracy"].n
    284
    """
    if effort not in tuple(harness.N_POINTS):
        raise InvalidData(f"effort {effort!r} is unknown; use quick, standard or deep")
    _expect("data", data, Dataset)
    _expect("threat", threat, Threat, optional=True)
    seed = _whole("seed", seed)
    earlier = Report.load(like) if isinstance(like, (str, Path)) else like
    _expect("like", earlier, Report, optional=True)
    if earlier is not None:
        seed, effort = _whole("seed of like=", earlier.seed), earlier.effort  # type: ignore[assignment]  # validated when it was made
        threat = threat or (Threat(**earlier.threat) if earlier.threat else None)
    chosen = _chosen(methods, earlier)
    for item, params in chosen:
        harness.parameters(item, effort, params)
    target, data = _bound(wrap(target), data, seed)
    if earlier is not None and not earlier.pairing:
        raise InvalidData("like= is a public edition: it holds no pairing key; use the internal report.json")
    key = bytes.fromhex(earlier.pairing["key"]) if earlier and earlier.pairing else secrets.token_bytes(16)
    described = _describe(data, key)
    if earlier is not None and described["digest"] != earlier.data["digest"]:
        raise InvalidData(
            "like= was made on other data (digests differ); compare needs the same rows in the same order"
        )
    data, people = _opaque(data, key)
    deadline = time.monotonic() + harness.QUICK_SECONDS if effort == "quick" else None

    def run_of(card: Card, **fields: Any) -> Run:
        return Run(card=card, seed=seed, effort=effort, progress=progress, deadline=deadline, **fields)

    measured: list[Measurement] = harness.utility(target, data, run_of(harness.UTILITY))
    ran: list[dict[str, Any]] = []
    resolved: Threat | None = threat
    # what refits comes last: under a deadline it takes the time that is left
    for item, params in sorted(chosen, key=lambda pair: REFIT in pair[0].card.needs):
        card = item.card
        run = run_of(card, threat=harness.resolve(threat, card, target, data), pinned=frozenset(params))
        resolved = resolved if resolved and resolved.norm else run.threat or resolved
        start = time.perf_counter()
        status, reason = "ok", harness.unavailable(card, target)
        if reason:
            status, rows = "not_run", [harness.not_measured(card, reason, run)]
        else:
            try:
                rows = harness.execute(item, target, data, run, params)
            except CasemateError as error:
                status, reason = "not_run", str(error)
                rows = [harness.not_measured(card, reason, run)]
            except Exception as error:
                logger.exception("%s failed", card.name)
                status, reason = "failed", f"internal error: {type(error).__name__}: {error}"
                rows = [harness.not_measured(card, reason, run)]
        measured += rows
        ran.append(
            {
                "name": card.name,
                "version": card.version,
                "params": dict(run.used),
                "status": status,
                "reason": reason,
                "seconds": time.perf_counter() - start,
            }
        )
    return Report(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
        target=_identity(target),
        data=described,
        seed=seed,
        level=0.95,
        effort=effort,
        threat=resolved.to_dict() if resolved else None,
        methods=tuple(ran),
        measurements=tuple(_renamed(row, people) for row in measured),
        pairing={"key": key.hex()},
        environment=environment(),
        command=None,
    )


def harden(target: Any, data: Dataset, *, using: Sequence[str | Spec], seed: int = 0) -> Change:
    """Apply defences in order and return the new target with utility before and after.

    Raises:
        InvalidData: no defence named, or a method that is not a defence.

    >>> from sklearn.naive_bayes import GaussianNB
    >>> X, y = np.array([[0.0], [1.0], [0.2], [0.9]]), np.array([0, 1, 0, 1])
    >>> data = Dataset(train=(X, y), holdout=(X + 0.01, y))
    >>> harden(GaussianNB().fit(X, y), data, using=["rounding"]).method
    'rounding'
    """
    _expect("data", data, Dataset)
    seed = _whole("seed", seed)
    specs = _specs("using", using)
    if not specs:
        raise InvalidData("using= names no defence")
    target, data = _bound(wrap(target), data, seed)
    first, changes = target, []
    for spec in specs:
        item = find(spec.name)
        if item.card.kind != "defence":
            raise InvalidData(f"{spec.name} is a {item.card.kind}, not a defence")
        if reason := harness.unavailable(item.card, target):
            raise InvalidData(f"{spec.name} {reason}")
        chosen = harness.parameters(item, "standard", spec.params)
        changes.append(item.function(target, data, **chosen, run=Run(card=item.card, seed=seed)))
        target = changes[-1].target
    made = Change(
        target=target,
        method="+".join(change.method for change in changes),
        params={name: value for change in changes for name, value in change.params.items()},
        summary="; ".join(change.summary for change in changes),
        evidence=tuple(piece for change in changes for piece in change.evidence),
    )
    return harness.change_of(first, made, data, Run(card=harness.UTILITY, seed=seed))


def compare(before: Report, *after: Report, gates: str | Path | None = None) -> Comparison:
    """Compare reports of the same data and seeds pair by pair, and judge the gates that are set.

    Raises:
        InvalidData: reports whose data, row ids, seeds, threat or method versions differ, or a bad gates file.

    >>> from sklearn.naive_bayes import GaussianNB
    >>> X, y = np.arange(40.0).reshape(20, 2), np.arange(20) % 2
    >>> data = Dataset(train=(X[:10], y[:10]), holdout=(X[10:], y[10:]))
    >>> before = audit(GaussianNB().fit(X[:10], y[:10]), data, methods=[], effort="quick")
    >>> after = audit(GaussianNB(var_smoothing=1.0).fit(X[:10], y[:10]), data, methods=[], like=before)
    >>> type(compare(before, after)).__name__
    'Comparison'
    """
    for name, report in (("before", before), *(("after", later) for later in after)):
        _expect(name, report, Report)
    return _compare(before, *after, gates=gates)


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
        raise InvalidData(f"{name} must be a whole number >= 0; got {value!r}")
    return int(value)


def _expect(name: str, value: Any, kind: type, *, optional: bool = False) -> None:
    if not isinstance(value, kind) and not (optional and value is None):
        raise InvalidData(f"{name} must be a casemate.{kind.__name__}; got {type(value).__name__}")


def _specs(name: str, given: Any) -> list[Spec]:
    """Read names and ``cm.method(...)``; one alone stands for a list of one."""
    listed = [given] if isinstance(given, (str, Spec)) else given
    if not isinstance(listed, Sequence) or not all(isinstance(item, (str, Spec)) for item in listed):
        raise InvalidData(f"{name} must list names or cm.method(...); got {given!r}")
    return [Spec(item) if isinstance(item, str) else item for item in listed]


def _chosen(
    methods: Sequence[str | Spec] | None, earlier: Report | None
) -> list[tuple[Method, dict[str, Any]]]:
    """Decide which methods run with which fixed parameters; ``like`` fixes what it used."""
    if methods is not None:
        specs = _specs("methods", methods)
    elif earlier is not None:
        specs = [Spec(item["name"]) for item in earlier.methods]
    else:
        return [(item, {}) for item in every() if item.card.kind != "defence"]
    names = [spec.name for spec in specs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidData(f"{twice[0]} is named twice; a report holds one run of each method")
    used = {item["name"]: item["params"] for item in earlier.methods} if earlier is not None else {}
    chosen = []
    for spec in specs:
        item = find(spec.name)
        if item.card.kind == "defence":
            raise InvalidData(
                f"{spec.name} is a defence; apply it with harden, then audit the hardened target"
            )
        chosen.append((item, {**used.get(spec.name, {}), **spec.params}))
    return chosen


def _bound(target: Target, data: Dataset, seed: int) -> tuple[Target, Dataset]:
    """Agree on schema and classes, train an untrained estimator, and ask for two predictions to see it works."""
    target, data = target.trained(data, seed).bind(data)
    target.labels(data.holdout.take(np.arange(min(2, len(data.holdout)))).x)
    return target, data


def _opaque(data: Dataset, key: bytes) -> tuple[Dataset, np.ndarray]:
    """Give rows and people random numbers that only reports sharing the key have in common."""
    draw = np.random.default_rng(int.from_bytes(hashlib.blake2b(b"ids", key=key).digest()[:16]))
    n, m = len(data.train), len(data.holdout)
    ids, people = draw.permutation(n + m), draw.permutation(n + m)
    return data.with_ids(ids[:n], ids[n:]), people


def _renamed(row: Measurement, people: np.ndarray) -> Measurement:
    """Put the opaque numbers of people into a row. Methods work with the codes, or a seed would not fix a result."""
    details = tuple(
        replace(piece, clusters=tuple(int(people[code]) for code in piece.clusters))
        if isinstance(piece, PerRecord)
        else piece
        for piece in row.details
    )
    return replace(row, details=details)


def _describe(data: Dataset, key: bytes) -> dict[str, Any]:
    mark = hashlib.blake2b(
        key=key, digest_size=16
    )  # keyed: a plain hash of records could be guessed and tested
    for split in (data.train, data.holdout):
        mark.update(
            "\0".join(split.x).encode() if isinstance(split.x, list) else np.ascontiguousarray(split.x).data
        )
        mark.update(np.ascontiguousarray(split.y).data)
    people = None
    if data.train.person is not None and data.holdout.person is not None:
        people = {
            "train": len(np.unique(data.train.person)),
            "holdout": len(np.unique(data.holdout.person)),
        }
    return {
        "input": data.schema.input,
        "n_train": len(data.train),
        "n_holdout": len(data.holdout),
        "n_columns": len(data.schema.columns),
        "people": people,
        "digest": mark.hexdigest(),
    }


def _identity(target: Target) -> dict[str, Any]:
    return {
        "kind": target.kind,
        "task": target.task,
        "input": target.input,
        "classes": [str(label) for label in target.classes[:100]],
        "capabilities": sorted(capability.value for capability in target.capabilities),
        "source": dict(target.source) if target.source else None,
        "digest": target.digest(),
        "caveats": list(target.caveats),
    }
