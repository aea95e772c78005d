# SPDX-License-Identifier: Apache-2.0
"""The verbs: wrap, load, method, methods, audit, harden, tune, compare, explain. No mathematics here."""

from __future__ import annotations

import hashlib
import importlib
import logging
import secrets
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from casemate import __version__, hardened
from casemate.core import doubts, harness
from casemate.core.data import Dataset
from casemate.core.errors import CasemateError, InvalidData
from casemate.core.methods import Card, Method, Spec, every, find
from casemate.core.run import Progress, Run
from casemate.core.types import (
    REFIT,
    Change,
    Explanation,
    Measurement,
    PerRecord,
    Recipe,
    Target,
    Task,
    Threat,
)
from casemate.report.claims import contradictions
from casemate.report.compare import Comparison
from casemate.report.compare import compare as _compare
from casemate.report.model import Report, environment
from casemate.training import journal, retraining

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
    """Turn a model into a Target: a torch module, an estimator, a text classifier, or any predict function.

    The model itself is never changed, wrapped or annotated.

    Args:
        model: ``nn.Module``, estimator or Pipeline, Hugging Face ``(model, tokenizer)``, or a function from rows to
            probabilities (n, classes) or labels (n,); ``cm.Endpoint(url=..., authorised=...)`` asks a server.
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
    for name in ("keras", "transformers", "torch", "trees", "onnx", "sklearn", "remote"):
        adapter = importlib.import_module(f"casemate.adapters.{name}")
        if adapter.accepts(model):
            made: Target = adapter.make(
                model, task=task, classes=classes, recipe=recipe, outputs=outputs, device=device
            )
            return made
    raise InvalidData(
        f"cannot wrap {type(model).__name__}: expected a torch module, a scikit-learn estimator or a predict function"
    )


def load(
    model: str | Path,
    *,
    device: str | None = None,
    trust: Collection[str] = (),
    factory: str | None = None,
) -> Target:
    """Load a target from a model file, from a folder of ``save``, or from ``package.module:function``.

    A file is scanned before anything is built from it, and refused unless the scan is clean: pickle and joblib in any
    compression, torch state dicts and safetensors (with ``factory``), XGBoost JSON or UBJ, LightGBM text, ONNX. A
    folder is the hardened target again, refits included. A function takes nothing and returns a model or Target; it is
    your own code and runs with your rights.

    Args:
        model: the path of a file or folder, or ``package.module:function``.
        device: where a torch model runs.
        trust: exact names ``package.module.Class`` that the file may hold beside the allow-list.
        factory: ``package.module:function`` that builds the torch module a state dict belongs to; for a folder, the
            function that returned the target before it was hardened, so that its Recipe is known.

    Raises:
        HostileArtefact: the file would run code. UnknownArtefact: it names a class that is not on the allow-list.
        TamperedArtefact: a folder whose files are not those that were written.
        InvalidData: a file that cannot be read, or a name that cannot be imported.

    >>> load("sklearn.dummy:DummyClassifier").kind
    'scikit-learn'
    """
    from casemate.adapters import files

    if not isinstance(model, (str, Path)):
        raise InvalidData(f"MODEL {model!r} is not a file; give a path or package.module:function")
    name = str(model)
    if isinstance(model, str) and files.names_function(name):
        if trust or factory:
            raise InvalidData(f"MODEL {name!r} is a function: trust= and factory= are for files")
        made = files.imported("MODEL", name)
        return wrap(files.called("MODEL", name) if callable(made) else made, device=device)
    if Path(name).is_dir() and not files.holds_model(name):
        return hardened.load(name, made=load, device=device, trust=trust, factory=factory)
    loaded = files.load_file(model, trust=trust, factory=factory)
    target = wrap(loaded.model, device=device)
    return replace(target, source=loaded.source, caveats=(*target.caveats, *loaded.notes))


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
    show_records: bool = False,
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
        show_records: let single records enter the report, as examples of what an attack changed.
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
    if effort not in harness.EFFORTS:
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
    target = wrap(target)
    if show_records and "authorised" in (target.source or {}):
        raise InvalidData("show_records does not apply to an endpoint: its audit lists no single records")
    target, data = _bound(target, data, seed)
    if earlier is not None and not earlier.pairing:
        raise InvalidData("like= is a public edition: it holds no pairing key; use the internal report.json")
    key = bytes.fromhex(earlier.pairing["key"]) if earlier and earlier.pairing else secrets.token_bytes(16)
    described = _describe(data, key)
    if earlier is not None and described["digest"] != earlier.data["digest"]:
        raise InvalidData(
            "like= was made on other data (digests differ); compare needs the same rows in the same order"
        )
    data, people = _opaque(data, key)
    # what refits comes last: under a deadline it takes the time that is left
    chosen.sort(key=lambda pair: REFIT in pair[0].card.needs)
    clock = harness.Clock.of(
        effort, [item.card for item, _ in chosen if not harness.unavailable(item.card, target)]
    )

    def run_of(card: Card, **fields: Any) -> Run:
        options: dict[str, Any] = {"seed": seed, "effort": effort, "progress": progress, **fields}
        return Run(card=card, deadline=clock.deadline(card), show_records=show_records, **options)

    measured: list[Measurement] = harness.utility(target, data, run_of(harness.UTILITY))
    ran: list[dict[str, Any]] = []
    hurried: list[str] = []
    resolved: Threat | None = threat
    for item, params in chosen:
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
        hurried += doubts.hurried(run)
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
    measured, general = doubts.review(measured, data, {item.card.name: item.card for item, _ in chosen})
    report = Report(
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
    told = [*contradictions(report), *general, *report.target["caveats"], *hurried]
    return replace(report, target={**report.target, "caveats": told})


def harden(
    target: Any,
    data: Dataset,
    *,
    using: Sequence[str | Spec],
    seed: int = 0,
    folder: str | Path | None = None,
    ledger: Any = None,
    progress: Progress | None = None,
) -> Change:
    """Apply defences and return the new target with utility before and after.

    Defences of the training (those that return ``TrainingPieces``) are merged, whatever their place in ``using``,
    and the model is trained once by the merged recipe, which later refits and shadow models repeat. The others follow
    in their order. ``params`` of the Change are the parameters of each defence under its name.

    Args:
        target: what ``wrap`` returned, or a model that ``wrap`` accepts; it stays as it is.
        data: its training rows are what a defence of the training trains on.
        using: names or ``cm.method(...)``.
        seed: of every draw.
        folder: where a torch training keeps a checkpoint (weights: keep it private) after every epoch; the same call
            goes on where a stopped one was. Of a training with a guarantee it holds only the note that it began.
        ledger: a ``casemate.privacy.ledger.Ledger``; a training with a guarantee is charged to it before it begins.
        progress: called with (what, done, total).

    Raises:
        InvalidData: no defence named, one named twice, a method that is not a defence, two that replace one part.
        GuaranteeVoid: a defence that would make another's guarantee false.
        BudgetExhausted: the ledger has no room for the training; nothing was trained or spent.

    >>> from sklearn.naive_bayes import GaussianNB
    >>> X, y = np.array([[0.0], [1.0], [0.2], [0.9]]), np.array([0, 1, 0, 1])
    >>> data = Dataset(train=(X, y), holdout=(X + 0.01, y))
    >>> harden(GaussianNB().fit(X, y), data, using=["rounding"]).method
    'rounding'
    """
    _expect("data", data, Dataset)
    seed = _whole("seed", seed)
    chosen = defences(using)
    target, data = _bound(wrap(target), data, seed)
    first = target
    trainings = [pair for pair in chosen if retraining.trains(pair[0])]
    with journal.watched(folder=folder, progress=progress, ledger=ledger):
        changes = retraining.retrained(target, data, trainings, seed)
    target = changes[-1].target if changes else target
    for item, params in chosen:
        if not retraining.trains(item):
            changes.append(retraining.applied(item, target, data, params, seed))
            target = changes[-1].target
    made = Change(
        target=target,
        method="+".join(change.method for change in changes),
        params={name: params for change in changes for name, params in change.params.items()},
        summary="; ".join(change.summary for change in changes),
        evidence=tuple(piece for change in changes for piece in change.evidence),
        original=first,
        seed=seed,
    )
    return harness.change_of(first, made, data, Run(card=harness.UTILITY, seed=seed))


def tune(
    target: Any,
    data: Dataset,
    *,
    candidates: Sequence[str | Spec | Sequence[str | Spec]],
    judge: Any = None,
    runs: Any = 10.0,
    seed: int = 0,
    ledger: Any = None,
) -> Change:
    """Search for the best of several private trainings, and release that one alone, for a cost charged beforehand.

    A random number of trainings is made, each of a candidate drawn at random; see :mod:`casemate.privacy.tuning`. The
    ``claims`` of the new target say what the whole search costs.

    Args:
        target: what ``wrap`` returned, or a model that ``wrap`` accepts; it stays as it is.
        data: its training rows are what every candidate trains on; holdout or reference is what they are scored on.
        candidates: what ``using`` of ``harden`` takes, several times: each a training that states an epsilon.
        judge: ``NoisyScore(noise=10)`` on holdout or ``PublicScore()`` on reference, of ``casemate.privacy.tuning``.
        runs: how many trainings on average, or ``casemate.privacy.tuning.Runs(mean=10, shape=1)``.
        seed: of all that is no noise.
        ledger: a ``casemate.privacy.ledger.Ledger``; the search is charged to it as one event before it begins.

    Raises:
        GuaranteeVoid: a score that is not accounted for, a candidate without a plan, or one that breaks its own.
        BudgetExhausted: the ledger has no room for the search; nothing was trained or spent.
        InvalidData: candidates that have no common cost, numbers out of range.

    >>> from sklearn.linear_model import LogisticRegression
    >>> from casemate.privacy.tuning import NoisyScore
    >>> X = np.random.default_rng(0).uniform(0, 1, (400, 2))
    >>> y = (X[:, 0] > 0.5).astype(int)
    >>> data = Dataset(train=(X[:200], y[:200]), holdout=(X[200:], y[200:]))
    >>> model = LogisticRegression().fit(X[:200], y[:200])
    >>> both = [method("dp_logistic", epsilon=1, delta=1e-4, bounds=(0, high)) for high in (1, 100)]
    >>> change = tune(model, data, candidates=both, judge=NoisyScore(noise=10), runs=5)
    >>> round(change.target.claims[0].epsilon, 1)
    2.4
    """
    from casemate.privacy import tuning

    _expect("data", data, Dataset)
    seed = _whole("seed", seed)
    given: Any = candidates
    if isinstance(given, (str, Spec)) or not isinstance(given, Sequence) or not given:
        raise InvalidData("candidates= must list at least one cm.method(...), or lists of them")
    listed = [defences(one) for one in given]
    target, data = _bound(wrap(target), data, seed)
    made = tuning.search(target, data, listed, judge=judge, runs=runs, seed=seed, ledger=ledger)
    return harness.change_of(target, made, data, Run(card=harness.UTILITY, seed=seed))


def defences(using: Any) -> list[tuple[Method, dict[str, Any]]]:
    """Read ``using=`` of :func:`harden`: each defence once, with all its parameters.

    Raises:
        InvalidData: no defence named, one named twice, a method that is no defence or has no such parameter.
    """
    specs = _specs("using", using)
    if not specs:
        raise InvalidData("using= names no defence")
    names = [spec.name for spec in specs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidData(f"{twice[0]} is named twice; a defence is applied once")
    found = [(find(spec.name), spec) for spec in specs]
    for item, _ in found:
        if item.card.kind != "defence":
            raise InvalidData(f"{item.card.name} is {_a(item.card.kind)}, not a defence")
    return [(item, harness.parameters(item, "standard", spec.params)) for item, spec in found]


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


def explain(
    target: Any,
    data: Dataset,
    *,
    rows: Sequence[int] | int | None = None,
    method: str | Spec | None = None,
    seed: int = 0,
) -> Explanation:
    """Explain single rows of holdout, or the model as a whole; with errors, and how far the picture fits.

    An explanation describes the model, not causes in the world.

    Args:
        target: what ``wrap`` returned, or a model that ``wrap`` accepts.
        data: train says what rows are like; rows of holdout are explained.
        rows: places in holdout, counted from 0; None for the model as a whole.
        method: an explainer; None means ``lime`` for rows and ``permutation_importance`` for the model.
        seed: of every draw: the same seed explains a row in the same way, alone or among others.

    Raises:
        InvalidData: a row that is not in holdout, a method that is no explainer or cannot explain rows.

    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.tree import DecisionTreeClassifier
    >>> X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    >>> data = Dataset(train=(X[::2], y[::2]), holdout=(X[1::2], y[1::2]))
    >>> why = explain(DecisionTreeClassifier(max_depth=2, random_state=0).fit(X[::2], y[::2]), data, rows=[3])
    >>> why.rules[0][why.names.index("worst perimeter")]
    '95.54 < worst perimeter <= 125.4'
    """
    _expect("data", data, Dataset)
    seed = _whole("seed", seed)
    named = ("permutation_importance" if rows is None else "lime") if method is None else method
    spec = _specs("method", [named])[0]
    item, params = find(spec.name), dict(spec.params)
    if item.card.kind != "explainer":
        raise InvalidData(f"{spec.name} is {_a(item.card.kind)}, not an explainer")
    if rows is not None:
        if "rows" not in harness.parameters(item, "standard", params):
            raise InvalidData(
                f"{spec.name} explains the model as a whole; leave rows= out, or use method='lime'"
            )
        params["rows"] = [rows] if isinstance(rows, (int, np.integer)) else rows
    target, data = _bound(wrap(target), data, seed)
    run = Run(card=item.card, seed=seed, pinned=frozenset(params))
    made: Explanation = harness.invoke(item, target, data, run, params)
    return made


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


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
    # keyed: a plain hash of records could be guessed and tested
    mark = hashlib.blake2b(key=key, digest_size=16)
    for split in (data.train, data.holdout):
        mark.update(
            "\0".join(split.x).encode() if isinstance(split.x, list) else np.ascontiguousarray(split.x).data
        )
        mark.update(np.ascontiguousarray(split.y).data)
    train, hold, people = data.train.person, data.holdout.person, None
    if train is not None and hold is not None:
        people = {"train": len(np.unique(train)), "holdout": len(np.unique(hold))}
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
        "claims": [claim.to_report() for claim in target.claims],
    }
