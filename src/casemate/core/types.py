# SPDX-License-Identifier: Apache-2.0
"""The values everything else is a function of: Target, Recipe, Threat, Measurement, Change, Explanation."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from casemate.core.errors import InvalidData, InvalidThreat, MissingCapability

if TYPE_CHECKING:
    from casemate.core.data import Dataset
    from casemate.core.nodes import NodeTable
    from casemate.core.schema import Schema
    from casemate.core.tokens import Tokens

Task = Literal["binary", "multiclass", "regression", "causal_lm"]
Input = Literal["table", "image", "text"]
Property = Literal["privacy", "robustness", "confidentiality", "explanation", "utility"]
Status = Literal["measured", "inconclusive", "not_measured"]
Worse = Literal["higher", "lower"]
PROPERTIES: tuple[Property, ...] = ("privacy", "robustness", "confidentiality", "explanation", "utility")


class Capability(StrEnum):
    """What a target lets its user (and so an attacker with that access) do.

    >>> Capability.SCORES
    <Capability.SCORES: 'scores'>
    """

    LABELS = "labels"
    SCORES = "scores"
    LOGITS = "logits"
    MODULE = "module"
    TREES = "trees"
    TOKENS = "tokens"
    GENERATE = "generate"
    REFIT = "refit"


LABELS, SCORES, LOGITS, MODULE = Capability.LABELS, Capability.SCORES, Capability.LOGITS, Capability.MODULE
TREES, TOKENS, GENERATE, REFIT = Capability.TREES, Capability.TOKENS, Capability.GENERATE, Capability.REFIT


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model was trained, so that refits and shadow models repeat it.

    ``factory`` builds a fresh, untrained model (torch: an ``nn.Module``). ``preprocessing`` gets the encoded
    training inputs and returns a module put in front of the model, fitted anew inside each refit. ``pieces`` are the
    ``TrainingPieces`` of the defences the model was trained with: refits and shadow models repeat them.
    scikit-learn targets need no Recipe: the estimator carries its own (``clone().fit``).

    >>> Recipe(factory=list, epochs=5).optimiser
    'sgd'
    """

    factory: Callable[[], Any]
    optimiser: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: float = 0.05
    momentum: float = 0.0
    weight_decay: float = 0.0
    epochs: int = 20
    batch_size: int = 32
    loss: Literal["cross_entropy", "mse"] = "cross_entropy"
    preprocessing: Callable[[Any], Any] | None = None
    pieces: Any = None

    def __post_init__(self) -> None:
        if not callable(self.factory):
            raise InvalidData(f"Recipe(factory=) must build a fresh model when called; got {self.factory!r}")
        if self.optimiser not in ("sgd", "adam", "adamw"):
            raise InvalidData(
                f"Recipe(optimiser={self.optimiser!r}) is unknown; use 'sgd', 'adam' or 'adamw'"
            )
        if not self.learning_rate > 0 or self.epochs < 1 or self.batch_size < 1:
            raise InvalidData(
                "Recipe needs learning_rate > 0, epochs >= 1 and batch_size >= 1; got "
                f"{self.learning_rate}, {self.epochs}, {self.batch_size}"
            )


@dataclass(frozen=True, kw_only=True)
class Threat:
    """What the attacker may change or ask; unset fields are resolved when the audit starts and written out.

    ``radius`` is the adversarial size in units of each column's spread (``scale="spread"``, tables) or in the
    input's own units (``scale="raw"``, images). ``goal=None`` means any wrong class; an index means that class.

    >>> Threat(norm="linf", radius=0.3).goal is None
    True
    """

    norm: Literal["linf", "l2", "l1", "l0"] | None = None
    radius: float | None = None
    scale: Literal["spread", "raw"] | None = None
    goal: int | None = None
    n_queries: int | None = None

    def __post_init__(self) -> None:
        for name, kinds in (("radius", (int, float)), ("goal", (int,)), ("n_queries", (int,))):
            value = getattr(self, name)
            value = value.item() if isinstance(value, np.generic) else value  # reports hold plain numbers
            if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
                raise InvalidThreat(
                    f"{name} must be {'a' if float in kinds else 'a whole'} number; got {value!r}"
                )
            object.__setattr__(self, name, value)
        if self.norm not in (None, "linf", "l2", "l1", "l0"):
            raise InvalidThreat(f"norm {self.norm!r} is unknown; use 'linf', 'l2', 'l1' or 'l0'")
        if self.radius is not None and not (math.isfinite(self.radius) and self.radius >= 0):
            raise InvalidThreat(f"radius must be a finite number >= 0; got {self.radius!r}")
        if self.scale not in (None, "spread", "raw"):
            raise InvalidThreat(f"scale {self.scale!r} is unknown; use 'spread' or 'raw'")
        if self.goal is not None and self.goal < 0:
            raise InvalidThreat(f"goal is the index of a class, 0 or more; got {self.goal}")
        if self.n_queries is not None and self.n_queries < 1:
            raise InvalidThreat(f"n_queries must be >= 1; got {self.n_queries}")

    def resolved(self, schema: Schema) -> Threat:
        """Fill what is unset: Linf, 0.3 spreads on tables, 8/255 of the pixel range on images; l0: one edit."""
        table = schema.input == "table"
        scale = self.scale or ("spread" if table else "raw")
        if scale == "spread" and not table:
            raise InvalidThreat(f"scale='spread' is for tables; this data is {schema.input}: use scale='raw'")
        radius = self.radius
        if radius is None:
            low, high = schema.bounds or (0.0, 1.0)
            radius = 1.0 if self.norm == "l0" else 0.3 if table else 8 / 255 * (high - low)
        return replace(self, norm=self.norm or "linf", radius=radius, scale=scale)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return asdict(self)


# ---- typed details: the only forms a chart or a comparison may read ----


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A line with an optional band; x, y, low, high have one length."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PerRecord:
    """One value a record (or person) under opaque ids; ``clusters`` are opaque person codes."""

    name: str
    ids: tuple[int, ...]
    values: tuple[float, ...]
    clusters: tuple[int, ...] = ()

    @classmethod
    def of(cls, name: str, ids: np.ndarray, values: np.ndarray, person: np.ndarray | None = None) -> Self:
        """Make it of arrays (n,), at six significant digits."""
        rounded = tuple(float(f"{value:.6g}") for value in np.asarray(values, np.float64))
        clusters = () if person is None else tuple(int(p) for p in person)
        return cls(name=name, ids=tuple(int(i) for i in ids), values=rounded, clusters=clusters)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Named columns and rows of plain values."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | int | None, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Note:
    """One sentence a reader of the number must see."""

    text: str


Detail = Curve | PerRecord | Table | Note
_FORMS: dict[str, type[Detail]] = {"curve": Curve, "per_record": PerRecord, "table": Table, "note": Note}
_NAMES = {form: name for name, form in _FORMS.items()}


def _finite(value: Any) -> Any:
    """Replace what JSON cannot hold by null, at any depth."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _tupled(value: Any) -> Any:
    return tuple(_tupled(item) for item in value) if isinstance(value, list) else value


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One number with its interval, its attacker and how it was obtained. There is no bare float in a report.

    An exact number has ``low == high == value``. ``worse`` says in which direction the number is bad.
    ``status`` is ``measured``, ``inconclusive`` (the data cannot resolve it) or ``not_measured``, with a reason.

    >>> m = Measurement(
    ...     property="privacy",
    ...     quantity="auc",
    ...     value=0.6,
    ...     low=0.55,
    ...     high=0.65,
    ...     n=400,
    ...     worse="higher",
    ...     method="lira",
    ...     version="1",
    ...     seed=0,
    ... )
    >>> print(m)
    lira auc 0.6 [0.55, 0.65] 95 %, n=400
    """

    property: Property
    quantity: str
    value: float | None
    low: float | None
    high: float | None
    level: float = 0.95
    n: int
    unit: str = ""
    worse: Worse
    status: Status = "measured"
    reason: str = ""
    method: str
    version: str
    threat: Threat | None = None
    seed: int
    seconds: float = 0.0
    details: tuple[Detail, ...] = ()

    def __post_init__(self) -> None:
        if self.status not in ("measured", "inconclusive", "not_measured"):
            raise InvalidData(f"status {self.status!r} is unknown")
        if self.status == "measured":
            numbers = (self.value, self.low, self.high)
            if any(number is None or math.isnan(number) for number in numbers):
                raise InvalidData(
                    f"{self.method} {self.quantity}: a measured value needs value, low and high"
                )
            if not self.low <= self.value <= self.high:  # type: ignore[operator]  # None was excluded above
                raise InvalidData(
                    f"{self.method} {self.quantity}: value {self.value} lies outside [{self.low}, {self.high}]"
                )
        elif not self.reason:
            raise InvalidData(f"{self.method} {self.quantity}: status {self.status} needs a reason")

    def __str__(self) -> str:
        if self.value is None or self.low is None or self.high is None:
            return f"{self.method} {self.quantity} {self.status.replace('_', ' ')}: {self.reason}"
        unit = f" {self.unit}" if self.unit else ""
        text = (
            f"{self.method} {self.quantity} {self.value:.4g} [{self.low:.4g}, {self.high:.4g}]{unit} "
            f"{self.level:.0%}, n={self.n}".replace("%", " %")
        )
        return text if self.status == "measured" else f"{text} (inconclusive: {self.reason})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; non-finite numbers become null."""
        out: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("value", "low", "high"):
            number = out[name]
            out[name] = None if number is None or not math.isfinite(number) else number
        out["threat"] = self.threat.to_dict() if self.threat else None
        out["details"] = [
            {"form": _NAMES[type(detail)], **_finite(asdict(detail))} for detail in self.details
        ]
        return out

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Rebuild from :meth:`to_dict`; unknown fields are ignored (the schema is additive)."""
        known = {f.name for f in fields(cls)}
        values = {key: value for key, value in raw.items() if key in known}
        if values.get("threat"):
            names = {f.name for f in fields(Threat)}
            values["threat"] = Threat(**{key: v for key, v in values["threat"].items() if key in names})
        details = []
        for item in values.get("details", ()):
            form = _FORMS.get(item.get("form"))
            if form is not None:
                names = {f.name for f in fields(form)}
                details.append(form(**{key: _tupled(value) for key, value in item.items() if key in names}))
        values["details"] = tuple(details)
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Attributions ``values`` (n, features, outputs) with base, standard errors and names.

    A global explanation has n = 1. ``n_records`` is the number of records (or people) it rests on, ``quality``
    the measurements that say how far to trust it. One of single rows has ``rows``, their places in holdout, base
    (n, outputs), and may have ``rules``, one text a row and feature, ``predicted`` (n, outputs) what the model
    answers there, and ``fit`` (n, outputs) the R2 of the local picture.

    >>> whole = Explanation(
    ...     values=np.array([[[0.25], [0.5]]]),
    ...     base=np.array([0.1]),
    ...     errors=np.array([[[0.01], [0.02]]]),
    ...     names=("age", "income"),
    ...     n_records=100,
    ... )
    >>> print(whole)
    the model as a whole, 100 records
      +0.5 ± 0.02  income
      +0.25 ± 0.01  age
    """

    values: np.ndarray
    base: np.ndarray
    errors: np.ndarray
    names: tuple[str, ...]
    n_records: int
    kind: Literal["attribution", "curve", "rule", "example", "interaction"] = "attribution"
    quality: tuple[Measurement, ...] = ()
    rows: tuple[int, ...] = ()
    rules: tuple[tuple[str, ...], ...] = ()
    outputs: tuple[str, ...] = ()
    predicted: np.ndarray | None = None
    fit: np.ndarray | None = None

    @property
    def gap(self) -> np.ndarray | None:
        """How far base plus values misses what the model answers at each row (n, outputs)."""
        return None if self.predicted is None else np.abs(self.base + self.values.sum(1) - self.predicted)

    def __str__(self) -> str:
        if not self.rows:
            return "\n".join(
                [f"the model as a whole, {self.n_records} records", *self._lines(0, 0, self.names)]
            )
        shown = [line for i in range(min(len(self.rows), 5)) for line in self._row(i)]
        more = len(self.rows) - 5
        return "\n".join([*shown, *([f"... and {more} more rows"] if more > 0 else [])])

    def _row(self, i: int) -> list[str]:
        """Describe one row, for the output the model gives most to."""
        c = 0 if self.predicted is None else int(self.predicted[i].argmax())
        name = f" for class {self.outputs[c]}" if self.outputs and self.outputs != ("value",) else ""
        answer = "" if self.predicted is None else f"the model answers {self.predicted[i, c]:.4g}{name}"
        head = [answer, f"base {self.base[i, c]:.4g}"]
        warning = []
        if self.fit is not None and self.predicted is not None:
            surrogate = float(self.base[i, c] + self.values[i, :, c].sum())
            head += [f"base + rules = {surrogate:.4g}", f"local fit R2 {self.fit[i, c]:.2f}"]
            if self.fit[i, c] < 0.5:
                warning = [
                    "  warning: the rules tell less than half of what the model does near this row: do not rely on it"
                ]
        told = self.rules[i] if self.rules else self.names
        return [f"row {self.rows[i]}: {', '.join(filter(None, head))}", *self._lines(i, c, told), *warning]

    def _lines(self, i: int, c: int, told: Sequence[str]) -> list[str]:
        values, errors = self.values[i, :, c], self.errors[i, :, c]
        order = [j for j in np.argsort(-np.abs(values), kind="stable")[:10] if values[j] != 0]
        return [f"  {values[j]:+.4g} ± {errors[j]:.2g}  {told[j]}" for j in order]


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a defence did: the new target, in words and as evidence, with utility before and after.

    ``original`` is the target as it was before, ``seed`` that of the draws; ``harden`` fills both in.

    >>> Change(target=None, method="rounding", params={"digits": 1}, summary="scores rounded").method
    'rounding'
    """

    target: Any
    method: str
    params: Mapping[str, Any]
    summary: str
    evidence: tuple[Detail, ...] = ()
    before: tuple[Measurement, ...] = ()
    after: tuple[Measurement, ...] = ()
    original: Any = field(default=None, repr=False)
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Target(ABC):
    """A model under test, as every method sees it.

    Tables arrive as float64 (n, d) in Schema order (categories as codes, missing as NaN), images as (n, c, h, w),
    text as a list; ``y`` as indices into ``classes``. One final subclass a framework; wrappers limit or guard one.
    A target is *bound* once its schema and classes are known (:meth:`bind`); ``audit`` does that.

    >>> import casemate as cm
    >>> from sklearn.naive_bayes import GaussianNB
    >>> target = cm.wrap(GaussianNB().fit([[0.0], [1.0]], [0, 1]))
    >>> target.limited_to(cm.Capability.LABELS).capabilities  # the view of an attacker who sees labels only
    frozenset({<Capability.LABELS: 'labels'>})
    """

    task: Task | None = None
    input: Input = "table"
    classes: tuple[Any, ...] = ()
    schema: Schema | None = None
    device: str = "cpu"
    recipe: Recipe | None = None
    source: Mapping[str, str] | None = None
    claims: tuple[Any, ...] = ()
    caveats: tuple[str, ...] = ()
    history: tuple[Detail, ...] = ()  # what its training said of itself, for the Change

    @property
    @abstractmethod
    def capabilities(self) -> frozenset[Capability]:
        """What may be asked of this target."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """Name of the framework, for reports."""

    @abstractmethod
    def native_classes(self) -> tuple[Any, ...] | None:
        """Return the class labels the model itself knows, in its output order, or None."""

    @abstractmethod
    def digest(self) -> str:
        """Return a hex digest of the model's parameters."""

    def labels(self, x: Any) -> np.ndarray:
        """Return class indices (n,), or predicted values (n,) for regression."""
        raise self._missing(LABELS)

    def scores(self, x: Any) -> np.ndarray:
        """Return class probabilities (n, classes), rows summing to one."""
        raise self._missing(SCORES)

    def logits(self, x: Any) -> np.ndarray:
        """Return unnormalised log scores (n, classes)."""
        raise self._missing(LOGITS)

    def module(self) -> Any:
        """Return a frozen ``nn.Module`` in eval mode from encoded inputs to logits (n, classes).

        Of a text model the inputs are embeddings, for texts have no gradient: ``module.embed(tokens)`` gives those of
        :meth:`tokens` (n, t, d), and ``module(embeddings, tokens)`` the logits.
        """
        raise self._missing(MODULE)

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """Return texts as the model reads them; asking for it asks the model nothing."""
        raise self._missing(TOKENS)

    def trees(self) -> NodeTable:
        """Return every node of the model's trees in the columns of the schema; outputs in the order of ``classes``."""
        raise self._missing(TREES)

    def refit(self, x: Any, y: np.ndarray, seed: int) -> Target:
        """Train a fresh model by the same recipe on encoded inputs and class indices."""
        raise self._missing(REFIT)

    def refit_people(self, x: Any, y: np.ndarray, seed: int, *, person: np.ndarray | None) -> Target:
        """Refit on rows whose owners are known (n,): a training that bounds what a person adds needs them.

        Any other training is :meth:`refit`. A wrapper passes it on to what it wraps, as it does with ``refit``.
        """
        return self.refit(x, y, seed)

    def settings(self) -> Mapping[str, Any]:
        """Return the named settings a refit would use (scikit-learn: ``get_params(deep=True)``); none elsewhere."""
        return {}

    def with_recipe(self, recipe: Recipe | Mapping[str, Any]) -> Target:
        """Return a target that answers as this one, but whose refits, and theirs, are trained by ``recipe``.

        ``recipe`` is a whole :class:`Recipe`, or settings by name that change some of :meth:`settings`; a
        scikit-learn target also takes another, unfitted estimator.
        """
        raise InvalidData(f"this {self.kind} target cannot be trained by another recipe")

    def trained(self, data: Dataset, seed: int) -> Target:
        """Return this target, trained on ``data.train`` if it was never trained (adapters that can tell)."""
        return self

    def _missing(self, capability: Capability) -> MissingCapability:
        have = ", ".join(sorted(self.capabilities)) or "none"
        return MissingCapability(
            f"this {self.kind} target does not offer {capability.value}; it offers: {have}"
        )

    def has(self, *needed: Capability) -> bool:
        """Tell whether every capability in ``needed`` is offered."""
        return set(needed) <= self.capabilities

    def limited_to(self, *allowed: Capability, n_queries: int | None = None) -> Target:
        """Return the view of an attacker who has only ``allowed``, with an optional budget of queried rows."""
        from casemate.core.limited import limit

        return limit(self, frozenset(allowed), n_queries=n_queries)

    def bind(self, data: Dataset) -> tuple[Target, Dataset]:
        """Return this target and ``data`` agreed on schema, task, and the order of classes."""
        if data.classes and self.schema is data.schema:
            return self, data
        task = self.task or data.guess_task()
        if task == "regression":
            return replace(self, task=task, input=data.schema.input, schema=data.schema), data.as_regression()
        classes = self.classes or self.native_classes() or data.labels_seen()
        known = {plain_label(label): index for index, label in enumerate(classes)}
        if unknown := [label for label in data.labels_seen() if plain_label(label) not in known]:
            raise InvalidData(
                f"labels {shortened(unknown)} in the data are unknown to the model, which has {shortened(classes)}; "
                "pass the label column the model was trained on, or wrap(model, classes=[...])"
            )
        if len(classes) < 2:
            raise InvalidData(
                f"the data has one class only ({shortened(classes)}); a classifier needs at least two in train"
            )
        task = "binary" if len(classes) == 2 else "multiclass"
        bound = replace(
            self,
            task=task,
            input=data.schema.input,
            schema=data.schema,
            classes=tuple(map(plain_label, classes)),
        )
        return bound, data.with_classes(bound.classes, known)


def plain_label(label: Any) -> Any:
    """Turn numpy scalars and integral floats into plain Python values, so that 1, 1.0 and np.int64(1) agree."""
    value = label.item() if isinstance(label, np.generic) else label
    return int(value) if isinstance(value, (bool, float)) and float(value).is_integer() else value


def shortened(values: Sequence[Any]) -> str:
    """Return the first five values as text for a message."""
    shown = ", ".join(repr(plain_label(value)) for value in values[:5])
    return f"[{shown}{', ...' if len(values) > 5 else ''}]"


@dataclass(frozen=True, kw_only=True)
class Counter:
    """Rows, calls and gradient passes asked of a target, points an attack was blind at; shared by its limited views."""

    tally: dict[str, int] = field(
        default_factory=lambda: {"rows": 0, "calls": 0, "refits": 0, "gradients": 0, "blind": 0}
    )

    def add(self, name: str, amount: int = 1) -> None:
        """Add to one of the tallies."""
        self.tally[name] += amount
