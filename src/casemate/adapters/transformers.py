# SPDX-License-Identifier: Apache-2.0
"""Hugging Face text classifiers as targets: texts go in, the tokeniser is part of the model.

``(model, tokenizer)`` of a sequence classifier, a text-classification pipeline, or ``(encoder, tokenizer, head)``: a
head of torch on the mean embedding that an encoder gives a text, as sentence embeddings are used. A Recipe's factory
builds a fresh model; with a head, a fresh head: then refits train that alone, on embeddings that are computed once,
and every text is embedded alone, so that they depend on nothing else.
"""

from __future__ import annotations

import copy
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np

from casemate.adapters import _shared
from casemate.adapters import _transformers_view as view
from casemate.adapters._transformers_fit import Memory, train_head, train_whole
from casemate.adapters._transformers_text import LOCK, Reader, batches, embedding, reader_of, texts_of
from casemate.adapters.torch import TorchTarget
from casemate.adapters.torch import make as _torch_target
from casemate.core.data import Dataset
from casemate.core.errors import InvalidData
from casemate.core.extras import lazy, needs
from casemate.core.limited import shared
from casemate.core.tokens import Tokens
from casemate.core.types import (
    LABELS,
    LOGITS,
    MODULE,
    REFIT,
    SCORES,
    TOKENS,
    Capability,
    Recipe,
    Target,
    Task,
    plain_label,
)
from casemate.training.isolation import user_code
from casemate.training.steps import Facts, asleep

torch = lazy("torch")

ADVICE = "it is given the tokens of its own tokenizer; see that both were saved together"


@dataclass(frozen=True, kw_only=True)
class TransformersTarget(Target):
    """A Hugging Face model with its tokeniser, or an encoder with a head; all are left as they were.

    Texts longer than what the model reads are cut as its tokeniser cuts them, which stands as a caveat.
    """

    model: Any
    reader: Reader
    head: Any | None = None
    n_outputs: int = 0
    batch_size: int = 64
    memory: Memory = field(repr=False, compare=False)

    @property
    def capabilities(self) -> frozenset[Capability]:
        offered = {LABELS, SCORES, LOGITS, TOKENS}
        if embedding(self.model) is not None and not getattr(self.model.config, "is_encoder_decoder", False):
            offered.add(MODULE)
        return frozenset(offered | {REFIT} if self.recipe is not None else offered)

    @property
    def kind(self) -> str:
        return "Hugging Face"

    def native_classes(self) -> tuple[Any, ...] | None:
        names = _names(self.model.config, self.n_outputs) if self.head is None else None
        return names or tuple(range(self.n_outputs))

    def digest(self) -> str:
        """Return the blake2b digest of the parameters of model and head, and of the vocabulary."""
        digest = hashlib.blake2b(digest_size=32)
        for part in (self.model, self.head):
            digest.update(b"none" if part is None else TorchTarget(model=part).digest().encode())
        told = [sorted(self.reader.tokenizer.get_vocab().items()), self.reader.max_length]
        digest.update(json.dumps(told).encode())
        return digest.hexdigest()

    def labels(self, x: Any) -> np.ndarray:
        indices: np.ndarray = self.logits(x).argmax(1)
        return indices

    def scores(self, x: Any) -> np.ndarray:
        logits = self.logits(x)
        odds = np.exp(logits - logits.max(1, keepdims=True))
        shares: np.ndarray = odds / odds.sum(1, keepdims=True)
        return shares

    def logits(self, x: Any) -> np.ndarray:
        _shared.n_rows(x, self.schema)
        logits: np.ndarray = self._raw(texts_of(x)).double().numpy()  # (n, classes)
        if n := int((~np.isfinite(logits).all(1)).sum()):
            raise InvalidData(f"the model returned logits that are not finite for {n} of {len(logits)} texts")
        return logits

    def tokens(self, texts: Sequence[str]) -> Tokens:
        _shared.n_rows(texts, None)
        with user_code("the tokenizer", ADVICE):
            return self.reader.tokens(texts_of(texts))

    def module(self) -> Any:
        """Return a frozen copy from embeddings; see :meth:`Target.module`."""
        if MODULE not in self.capabilities:
            raise self._missing(MODULE)
        with user_code("copying the model", "it must allow copy.deepcopy"), LOCK, torch.no_grad():
            frozen = view.FromEmbeddings(*(copy.deepcopy(part) for part in (self.model, self.head)))
        for parameter in frozen.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
        return frozen.eval()

    def refit(self, x: Any, y: np.ndarray, seed: int) -> Target:
        return self.refit_people(x, y, seed, person=None)

    def refit_people(self, x: Any, y: np.ndarray, seed: int, *, person: np.ndarray | None) -> Target:
        if self.recipe is None:
            raise self._missing(REFIT)
        if _shared.n_rows(x, self.schema) != len(y):
            raise InvalidData(f"training needs as many labels as rows; got {len(x)} rows, {len(y)} labels")
        if self.recipe.loss != "cross_entropy":
            raise InvalidData(
                f"Recipe(loss={self.recipe.loss!r}) does not fit task {self.task!r}; use 'cross_entropy'"
            )
        facts = Facts(n_classes=self.n_outputs, schema=self.schema, person=person)
        recipe = replace(self.recipe, factory=self._fresh)
        how: dict[str, Any] = {"seed": seed, "device": self.device, "facts": facts}
        blank: dict[str, Any] = {"source": None, "claims": ()}
        if self.head is not None:
            embedded = self._embedded(texts_of(x)).double().numpy()
            head, history = train_head(recipe, embedded, y, **how)
            return replace(self, head=head, history=history, **blank)
        model, history = train_whole(recipe, self.reader, texts_of(x), y, **how)
        return replace(self, model=model, history=history, memory=Memory(encoder=model), **blank)

    def with_recipe(self, recipe: Recipe | Mapping[str, Any]) -> Target:
        if not isinstance(recipe, Recipe):
            raise InvalidData(
                f"a Hugging Face target is trained by a casemate.Recipe; got {type(recipe).__name__}"
            )
        return replace(self, recipe=recipe)

    def bind(self, data: Dataset) -> tuple[Target, Dataset]:
        """Agree with ``data`` on the classes: their names in the model's configuration, or their numbers."""
        if data.classes and self.schema is data.schema:
            return self, data
        if data.schema.input != "text":
            raise InvalidData(
                f"a Hugging Face text classifier takes texts, this data is {data.schema.input}; give a list of texts, "
                "or name the column of texts: text="
            )
        classes = self.classes
        if not classes:
            named, seen = self.native_classes() or (), data.labels_seen()
            numbers = all(isinstance(label, int) and 0 <= label < self.n_outputs for label in seen)
            classes = tuple(range(self.n_outputs)) if numbers and not set(seen) <= set(named) else named
        elif len(classes) != self.n_outputs:
            raise InvalidData(
                f"classes= names {len(classes)} labels but the model has {self.n_outputs} outputs"
            )
        caveats = list(self.caveats)
        texts = [*data.train.x, *data.holdout.x]
        longer = int(self.reader.truncated(texts, self.reader.read(texts)[0]).sum())
        if longer:
            caveats.append(
                f"{longer:,} of {len(texts):,} texts are longer than the {self.reader.max_length:,} tokens that the "
                "model reads: the rest of each is cut off."
            )
        if self.head is not None and self.recipe is not None:
            caveats.append(
                "Refits train the head alone: what the encoder has seen of this data is in every one of them."
            )
        return super(TransformersTarget, replace(self, classes=classes, caveats=tuple(caveats))).bind(data)

    def _raw(self, texts: list[str]) -> Any:
        """Return logits (n, classes) on the CPU in the model's own dtype."""
        with user_code("the model", ADVICE), LOCK, asleep(self.model), torch.no_grad():
            if self.head is not None:
                with asleep(self.head):
                    found = self.head(self._embedded(texts).to(self.device))
                return view.checked(found, len(texts), "head").to("cpu")
            ids, kinds = self.reader.read(texts)
            out = None
            for rows in batches([len(row) for row in ids], self.batch_size):
                inputs = self._inputs(ids, kinds, rows)
                part = view.answer(self.model, None, inputs).to("cpu")
                out = part.new_empty((len(texts), part.shape[1])) if out is None else out
                out[rows] = part
            return out

    def _embedded(self, texts: list[str]) -> Any:
        """Return the mean embeddings of texts (n, d) on the CPU."""
        with user_code("the encoder", ADVICE), LOCK, asleep(self.model), torch.no_grad():
            return self.memory.ask(self.model, texts, self._embed)

    def _embed(self, texts: list[str]) -> list[Any]:
        ids, kinds = self.reader.read(texts)
        found = []
        for row in range(len(texts)):  # alone: in company the last digits would depend on it
            inputs = self._inputs(ids, kinds, [row])
            found.append(view.pooled(self.model(**inputs), inputs["attention_mask"])[0].to("cpu"))
        return found

    def _inputs(self, ids: list[list[int]], kinds: list[list[int]] | None, rows: list[int]) -> dict[str, Any]:
        chosen = None if kinds is None else [kinds[i] for i in rows]
        return view.batch(self.reader, [ids[i] for i in rows], chosen, self.device)

    def _fresh(self) -> Any:
        """Build a new model or head by the recipe and make sure that it is none of the user's."""
        made = cast(Recipe, self.recipe).factory()
        old = self.model if self.head is None else self.head
        own = {id(part) for part in (old, *old.parameters())}
        if isinstance(made, torch.nn.Module) and own & {id(part) for part in (made, *made.parameters())}:
            raise InvalidData(
                "Recipe(factory=) returned the model under test; it must build a fresh one each time"
            )
        return made


def _names(config: Any, n: int) -> tuple[Any, ...] | None:
    """Return the names of the classes, or None where the configuration only numbers them."""
    given = getattr(config, "id2label", None) or {}
    names = tuple(plain_label(given[i]) for i in range(n) if i in given)
    if not all(isinstance(name, (str, int, float)) for name in names) or len(set(names)) != n:
        return None
    if all(name == f"LABEL_{i}" for i, name in enumerate(names)):
        return None
    return names


def _kinds() -> dict[str, Any]:
    """Return the classes of Hugging Face that objects may be of; nothing is imported for it."""
    wanted = {
        "model": ("transformers.modeling_utils", "PreTrainedModel"),
        "tokenizer": ("transformers.tokenization_utils_base", "PreTrainedTokenizerBase"),
        "pipeline": ("transformers.pipelines.base", "Pipeline"),
    }
    loaded = {kind: (sys.modules.get(module), name) for kind, (module, name) in wanted.items()}
    return {kind: getattr(module, name) for kind, (module, name) in loaded.items() if hasattr(module, name)}


def accepts(obj: Any) -> bool:
    """Tell whether ``obj`` is a pipeline, a pair with a tokeniser in it, or a text model that lacks one.

    >>> accepts(len)
    False
    """
    kinds = _kinds()
    if isinstance(obj, (tuple, list)) and len(obj) in (2, 3):
        return any(isinstance(part, kinds.get("tokenizer", ())) for part in obj)
    if isinstance(obj, kinds.get("model", ())):
        return bool(obj.main_input_name == "input_ids")
    return isinstance(obj, (kinds.get("pipeline", ()), kinds.get("tokenizer", ())))


def make(
    obj: Any,
    *,
    task: Task | None = None,
    classes: Sequence[Any] | None = None,
    recipe: Recipe | None = None,
    outputs: str | None = None,
    device: str | None = None,
) -> Target:
    """Make a target of a Hugging Face text classifier.

    Raises:
        InvalidData: a model without a classification head, of several labels a text, or without its tokeniser.
    """
    needs("transformers")
    _shared.refuse("Hugging Face", "it returns logits", outputs=outputs)
    if task not in (None, "binary", "multiclass"):
        raise InvalidData(f"task={task!r} does not fit a text classifier; use 'binary' or 'multiclass'")
    model, tokenizer, head, max_length = _parts(obj)
    if getattr(model.config, "problem_type", None) == "multi_label_classification":
        raise InvalidData(
            "the model gives a text several labels at once (problem_type); wrap a function from texts to the two "
            "probabilities of one of them"
        )
    with user_code("copying the tokenizer", "it must allow copy.deepcopy"):
        reader = reader_of(model, tokenizer, max_length)
    net = cast(TorchTarget, _torch_target(model, task=task, classes=classes, recipe=recipe, device=device))
    if head is not None:
        head = cast(TorchTarget, _torch_target(head, device=net.device)).model
    made = TransformersTarget(
        model=net.model, reader=reader, head=head, memory=Memory(encoder=net.model), **shared(net)
    )
    n = made._raw(["a", "the a"]).shape[1]
    return replace(made, n_outputs=n, input="text", task="binary" if n == 2 else "multiclass")


def _parts(obj: Any) -> tuple[Any, Any, Any | None, int | None]:
    """Return model, tokeniser, head and the limit of tokens that a pipeline was given."""
    kinds = _kinds()
    if isinstance(obj, kinds.get("pipeline", ())):
        if getattr(obj, "task", "") != "text-classification":
            raise InvalidData(
                f"a pipeline for {getattr(obj, 'task', None)!r} is no text classifier; wrap one for "
                "'text-classification'"
            )
        told = {**obj._preprocess_params, **(obj._preprocess_params.get("tokenizer_kwargs") or {})}
        return obj.model, obj.tokenizer, None, told.get("max_length")
    parts = list(obj) if isinstance(obj, (tuple, list)) else [obj]
    tokenizers = [part for part in parts if isinstance(part, kinds.get("tokenizer", ()))]
    modules = [part for part in parts if isinstance(part, torch.nn.Module)]
    if len(tokenizers) != 1 or len(modules) != len(parts) - 1 or not modules:
        raise InvalidData(
            "a Hugging Face model needs its tokenizer, and an encoder a head of torch too: cm.wrap((model, tokenizer)) "
            f"or cm.wrap((encoder, tokenizer, head)); got {', '.join(type(part).__name__ for part in parts)}"
        )
    if not hasattr(modules[0], "config"):
        raise InvalidData(
            f"the model beside the tokenizer is a {type(modules[0]).__name__}, not one of Hugging Face; wrap a predict "
            "function of texts instead"
        )
    return modules[0], tokenizers[0], modules[1] if len(modules) == 2 else None, None
