# SPDX-License-Identifier: Apache-2.0
"""Tiny text classifiers of Hugging Face with tokenisers made here: BERT, DistilBERT, RoBERTa, GPT-2, an encoder + head.

``case(name)`` is made once a session and must come back from a test as it went in; ``bound(name)`` is its target and
data. Texts are of three kinds of words; the classes follow from which kind prevails.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from micro import Case

from casemate.core.data import Dataset
from casemate.core.types import Recipe, Target

N = 60  # training texts; half as many are held out
WORDS = (
    "the card bank pay late lost cash help please account to my is not a",
    "red blue green pink",
    "cat dog cow hen",
)
SPECIAL = {
    "bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
    "roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
}
NAMES = ("plain", "colour", "animal")
WIDTH = 24


def texts(n: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Texts of 1 to 12 words and the number of their class (n,): 0 if neither colours nor animals prevail."""
    draw = np.random.default_rng(seed)
    words = [part.split() for part in WORDS]
    found, labels = [], []
    for label in draw.integers(0, 3, n):
        length = int(draw.integers(1, 13))
        kinds = np.where(draw.random(length) < 0.6, label, 0)
        kinds[0] = label
        chosen = [words[k][draw.integers(len(words[k]))] for k in kinds]
        found.append(" ".join(chosen[i] for i in draw.permutation(length)))
        labels.append(int(label))
    return found, np.array(labels)


def tokenizer(style: str = "bert", limit: int = 32) -> Any:
    """A tokeniser of words: with marks around a text as BERT or RoBERTa put them, or none as GPT-2."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    marks = SPECIAL.get(style, ["<eos>", "<pad>", "<unk>"])
    vocabulary = {word: i for i, word in enumerate([*marks, *" ".join(WORDS).split(), "##s"])}
    unknown = marks[1] if style == "bert" else "<unk>"
    made = Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    first, last = {"bert": ("[CLS]", "[SEP]"), "roberta": ("<s>", "</s>")}.get(style, ("", ""))
    if first:
        made.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}",
            pair=f"{first} $A {last} $B:1 {last}:1",
            special_tokens=[(mark, vocabulary[mark]) for mark in (first, last)],
        )
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token=unknown,
        pad_token="[PAD]" if style == "bert" else "<pad>",
        model_max_length=limit,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"] if style == "bert" else names,
    )


def config(style: str, **options: Any) -> Any:
    """The configuration of a tiny model of that style."""
    import transformers as hf

    size = len(tokenizer(style if style in SPECIAL else "bert" if style == "distilbert" else "gpt2"))
    labels = {"id2label": dict(enumerate(NAMES)), "num_labels": 3, "initializer_range": 0.1} | options
    small = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    if style == "bert":
        return hf.BertConfig(vocab_size=size, max_position_embeddings=32, pad_token_id=0, **small, **labels)
    if style == "roberta":
        # its places count from behind the padding: 34 of them are 32 tokens
        return hf.RobertaConfig(
            vocab_size=size, max_position_embeddings=34, pad_token_id=1, **small, **labels
        )
    if style == "distilbert":
        return hf.DistilBertConfig(
            vocab_size=size, max_position_embeddings=32, dim=WIDTH, n_layers=1, n_heads=2, hidden_dim=32,
            seq_classif_dropout=0.1, pad_token_id=0, **labels,
        )  # fmt: skip
    marks = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 0}
    return hf.GPT2Config(
        vocab_size=size, n_positions=32, n_embd=WIDTH, n_layer=1, n_head=2, **(marks | labels)
    )


def fresh(style: str) -> Any:
    """An untrained classifier; a named function, so that it pickles."""
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_config(config(style))


def fresh_head() -> Any:
    """An untrained head on embeddings."""
    from torch import nn

    return nn.Linear(WIDTH, 3, device="cpu")


def data(labels: Callable[[np.ndarray], Any] = lambda y: y) -> Dataset:
    """The texts of every case."""
    (x, y), (xh, yh) = texts(N, 0), texts(N // 2, 1)
    return Dataset(train=(x, labels(y)), holdout=(xh, labels(yh)))


def padded_by(tokens: Any, rows: list[str]) -> Any:
    """What a user gives the model: one text alone, so that nothing is padded."""
    return [tokens([row], return_tensors="pt", truncation=True) for row in rows]


def _whole(style: str, name: str, learning_rate: float = 5e-3, epochs: int = 4) -> Case:
    import torch

    from casemate.adapters.transformers import make

    tokens = tokenizer(style if style in SPECIAL else "bert" if style == "distilbert" else "gpt2")
    recipe = Recipe(
        factory=partial(fresh, style),
        optimiser="adamw",
        learning_rate=learning_rate,
        epochs=epochs,
        batch_size=8,
    )
    named = data(lambda y: np.array(NAMES)[y])
    from casemate.training.isolation import seeded

    with seeded(7):
        untrained = make((fresh(style), tokens), recipe=recipe)
    start, coded = untrained.bind(named)
    model = start.refit(coded.train.x, coded.train.y, 1).model  # type: ignore[attr-defined]

    def ask(rows: list[str]) -> np.ndarray:
        with torch.no_grad():
            out = [model(**one).logits.softmax(-1)[0].double().numpy() for one in padded_by(tokens, rows)]
        return np.stack(out)

    return Case(
        name, model, make((model, tokens), recipe=recipe), named, texts(N // 2, 1)[0],
        lambda rows: np.array(NAMES)[ask(rows).argmax(1)], ask,
    )  # fmt: skip


def bert() -> Case:
    """A BERT classifier: token types, marks around the text."""
    return _whole("bert", "bert")


def distilbert() -> Case:
    """DistilBERT: no token types."""
    return _whole("distilbert", "distilbert")


def roberta() -> Case:
    """RoBERTa: the places of tokens are counted from behind the number of the padding."""
    return _whole("roberta", "roberta")


def gpt2() -> Case:
    """GPT-2: what it answers stands at the last token that is no padding."""
    return _whole("gpt2", "gpt2")


def headed() -> Case:
    """An encoder that is left as it is, and a head on its mean embeddings; labels are numbers."""
    import torch
    from transformers import BertModel

    from casemate.adapters.transformers import make
    from casemate.training.isolation import seeded

    tokens = tokenizer("bert")
    with seeded(5):
        encoder = BertModel(config("bert")).eval()
        blank = fresh_head()
    recipe = Recipe(factory=fresh_head, optimiser="adam", learning_rate=0.05, epochs=10, batch_size=16)
    start, coded = make((encoder, tokens, blank), recipe=recipe).bind(data())
    head = start.refit(coded.train.x, coded.train.y, 1).head  # type: ignore[attr-defined]

    def ask(rows: list[str]) -> np.ndarray:
        with torch.no_grad():
            means = [encoder(**one).last_hidden_state.mean(1) for one in padded_by(tokens, rows)]
            out = [head(mean).softmax(-1)[0].double().numpy() for mean in means]
        return np.stack(out)

    return Case(
        "headed", encoder, make((encoder, tokens, head), recipe=recipe), data(), texts(N // 2, 1)[0],
        lambda rows: ask(rows).argmax(1), ask,
    )  # fmt: skip


CASES: dict[str, Callable[[], Case]] = {
    made.__name__: made for made in (bert, distilbert, roberta, gpt2, headed)
}


@cache
def case(name: str) -> Case:
    """Return the case of that name, made once."""
    return CASES[name]()


@cache
def bound(name: str) -> tuple[Target, Dataset]:
    """Return target and data of a case, bound to each other."""
    chosen = case(name)
    return chosen.target.bind(chosen.data)
