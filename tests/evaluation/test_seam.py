"""Continuations score the same as by transformers alone and by lm-evaluation-harness, with tokenizers of many families.

The seam between prompt and continuation is where tokens get lost: blanks at the prompt's end join the next word, and
some tokenizers append tokens to every text.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from cycleqd_merge.config.engines import TransformersEngineConfig
from cycleqd_merge.evaluation.engines.prompts import Rendered, encode, encode_pair, tokenizer_notices
from cycleqd_merge.evaluation.engines.transformers_engine import TransformersEngine
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.tasks.protocol import Likelihood, Sampling
from tests.models import edit_json, make_recipe, open_recipe_family
from tests.tokenizer_families import APPENDING, DOUBLED, FORMS, SIZE, make_family_tokenizer

PROMPTS = (
    "Question: What do bees make?\nAnswer:",
    "Question: What do bees make?\nAnswer: ",
    "Question: What do bees make?\nAnswer:\n",
    "Question: What do bees make?\nAnswer:\t  ",
    "The answer is\n\n",
    "1 + 1 = ",
    "f(x) =\u00a0",
    "They make ho",
    "h",
    "Choose one: (",
    "",
    " ",
    " \n",
)
CONTINUATIONS = ("honey", " honey", "oney", "hydroelectric power", " (A)", "A)", "2", " ", "a dam\n")
PAIRS = tuple(itertools.product(PROMPTS, CONTINUATIONS))


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose vocabulary has room for every tokenizer."""
    folder = tmp_path_factory.mktemp("seam") / "model"
    config = LlamaConfig(
        vocab_size=SIZE,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=FORMS)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, model_folder: Path) -> Path:
    make_family_tokenizer(family, template(family)).save_pretrained(model_folder)
    return model_folder


def template(family: str) -> str:
    """A chat template that writes the BOS token itself, and ends with a blank."""
    bos = "{{ bos_token }}" if "bos_token" in FORMS[family].special else ""
    return bos + "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:\n"


@pytest.fixture(scope="module")
def engine(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TransformersEngine]:
    opened = open_family_engine(folder, tmp_path_factory.mktemp("recipe"))
    yield opened
    opened.close()


def open_family_engine(folder: Path, scratch: Path) -> TransformersEngine:
    family = open_recipe_family(make_recipe(scratch, folder, {"first": folder, "second": folder}))
    return TransformersEngine(
        TransformersEngineConfig(device="cpu", batch_size=16), Materialiser(family, Groups(family.weights, "one"), {})
    )


class Truth:
    """Transformers alone: the sum over the whole text, from the first token that the prompt without blanks lacks."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)

    def ids(self, text: str, special: bool) -> list[int]:
        """Without what the tokenizer appends, by its own account, and with one BOS token."""
        encoded = self.tokenizer(text, add_special_tokens=special, return_special_tokens_mask=True)
        mask, ids = encoded.special_tokens_mask, encoded.input_ids
        if special and all(mask):
            ids = self.ids("x", True)[: -len(self.ids("x", False))]
        elif special:
            ids = ids[: len(ids) - mask[::-1].index(0)]
        return list(ids[1:] if ids[:1] == ids[1:2] == [self.tokenizer.bos_token_id] else ids)

    def start(self) -> list[int]:
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        return [eos if bos is None else bos]

    def likelihood(self, prompt: str, continuation: str, special: bool = True) -> tuple[float, bool, int]:
        """The sum, whether each token is the most likely one, and the number of tokens."""
        kept = prompt.rstrip()
        context, whole = self.ids(kept, special), self.ids(prompt + continuation, special)
        if not context:  # an empty prompt begins with a token of its own
            context = self.start()
            whole = [*context, *whole]
        start = len(context)
        if start >= len(whole):
            start = next((at for at, both in enumerate(zip(context, whole, strict=False)) if len({*both}) > 1), start)
        if start >= len(whole):
            return 0.0, True, 0
        if not start:  # not even the prompt's first token is left
            whole, start = [*self.start(), *whole], 1
        with torch.inference_mode():
            scores = self.model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
        found = [float(scores[at - 1, whole[at]]) for at in range(start, len(whole))]
        greedy = all(int(scores[at - 1].argmax()) == whole[at] for at in range(start, len(whole)))
        return sum(found), greedy, len(found)


@pytest.fixture(scope="module")
def truth(folder: Path) -> Truth:
    return Truth(folder)


def likelihoods(engine: Any, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
    async def ask() -> list[Likelihood]:
        return list(await asyncio.gather(*(engine.likelihood(*pair) for pair in pairs)))

    return asyncio.run(ask())


def test_plain_prompts_score_as_the_whole_text_does(engine: TransformersEngine, truth: Truth) -> None:
    for pair, found in zip(PAIRS, likelihoods(engine, PAIRS), strict=True):
        total, greedy, count = truth.likelihood(*pair)
        assert len(found.logprobs) == count, pair
        assert (sum(found.logprobs), found.greedy) == (pytest.approx(total, abs=1e-3), greedy), pair


def test_chat_prompts_score_as_the_whole_text_does(engine: TransformersEngine, truth: Truth) -> None:
    """The template writes BOS itself, and its prompts end with a line break."""
    turns = [{"role": "user", "content": "What do bees make?"}]
    text = truth.tokenizer.apply_chat_template(turns, tokenize=False)

    async def ask() -> list[list[float]]:
        return list(await asyncio.gather(*(engine.logprobs(turns, each) for each in CONTINUATIONS)))

    for continuation, found in zip(CONTINUATIONS, asyncio.run(ask()), strict=True):
        total, _, count = truth.likelihood(text, continuation, special=False)
        assert (sum(found), len(found)) == (pytest.approx(total, abs=1e-3), count), continuation


@pytest.mark.parametrize("family", [name for name in FORMS if name not in (*APPENDING, DOUBLED)], indirect=True)
def test_as_many_tokens_and_the_same_likelihood_as_in_the_harness(engine: TransformersEngine, truth: Truth) -> None:
    """Where the harness reads the text itself: it keeps what tokenizers append, and where the prompt's tokens do not
    begin the whole text's, it puts together parts of two encodings."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    theirs = HFLM(pretrained=truth.model, tokenizer=truth.tokenizer, batch_size=1)
    compared, pairs = [], [pair for pair in PAIRS if pair[0].strip() or not pair[0]]
    for prompt, continuation in pairs:
        context, rest = theirs._encode_pair(prompt, continuation) if prompt else ([], [0])
        whole, scored = encode_pair(engine.encode, prompt, continuation)
        assert not prompt or not rest or scored == len(rest)
        if (rest and whole == [*context, *rest]) if prompt else whole[0] == theirs.prefix_token_id:
            compared.append((prompt, continuation))
    assert len(compared) > len(pairs) * 0.75
    requests = [Instance("loglikelihood", {}, pair, 0) for pair in compared]
    for pair, ours, (total, greedy) in zip(
        compared, likelihoods(engine, compared), theirs.loglikelihood(requests, disable_tqdm=True), strict=True
    ):
        assert (sum(ours.logprobs), ours.greedy) == (pytest.approx(total, abs=1e-3), greedy), pair


def test_prompts_are_those_of_the_tokenizer_without_what_it_appends(engine: TransformersEngine, truth: Truth) -> None:
    for prompt in ("Question: What do bees make?", "bees ", "1 + 1 ="):
        assert engine.encode(prompt) == truth.ids(prompt, special=True)
        assert engine.encode(Rendered(prompt)) == truth.ids(prompt, special=False)


def tokens_of(family: str, text: str, continuation: str, added: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """The tokens of prompt and continuation."""
    tokenizer = make_family_tokenizer(family, added=added)
    ids, scored = encode_pair(lambda each: encode(tokenizer, each), text, continuation)
    tokens = tokenizer.convert_ids_to_tokens(ids)
    return tokens[: len(ids) - scored], tokens[len(ids) - scored :]


@pytest.mark.parametrize(
    ("family", "text", "continuation", "scored"),
    [
        ("gpt2", "Answer: ", "honey", ["Ġhoney"]),
        ("gpt2", "Answer:\n", "honey", ["Ċ", "honey"]),
        ("gpt2", "Answer:", " ", ["Ġ"]),
        ("gpt2", " ", "honey", ["Ġhoney"]),
        ("llama3", "Answer:\n", "honey", ["honey"]),  # the line break joins the colon, `:Ċ`, as the whole text has it
        ("qwen", "", "honey", ["honey"]),
        ("mistral", "Answer: ", "honey", ["▁honey"]),
        ("mistral", "a (", "A)", ["▁(A)"]),  # one token is both: the harness has none to score
        ("t5", "Answer: ", "honey", ["▁honey"]),
        ("t5", "Answer:", " ", []),
        ("bert", "Answer: ", "honey", ["honey"]),
        ("llama2_ends", "Answer: ", "honey", ["▁honey"]),
        ("llama2_ends", "", "honey", ["▁honey"]),
        ("doubled", "", "honey", ["▁honey"]),
        ("gpt2", "Answer:", "", []),
        ("gpt2", "h", "oney", ["honey"]),  # no token of the prompt is left
        ("llama3", "h", "oney", ["honey"]),
        ("t5", "h", "oney", ["▁honey"]),
    ],
)
def test_the_tokens_that_are_scored(family: str, text: str, continuation: str, scored: list[str]) -> None:
    assert tokens_of(family, text, continuation)[1] == scored


@pytest.mark.parametrize(
    ("family", "text", "before"),
    [
        ("qwen", "", ["<|im_end|>"]),  # without a BOS token, as in the harness; not the padding token
        ("xglm", "honey", ["</s>", "▁honey"]),
        ("doubled", "bees", ["<s>", "▁bees"]),
        ("doubled", "<s>bees", ["<s>", "bees"]),
        ("llama2", "<s> bees", ["<s>", "▁", "▁bees"]),
        ("llama2_ends", "bees", ["<s>", "▁bees"]),
        ("qwen_ends", "bees<|endoftext|>", ["bees", "<|endoftext|>"]),  # the text's own
        ("bert", "bees", ["[CLS]", "bees"]),
    ],
)
def test_bos_is_written_once_and_appended_tokens_never(family: str, text: str, before: list[str]) -> None:
    tokenizer = make_family_tokenizer(family)
    found = tokenizer.convert_ids_to_tokens(encode(tokenizer, text))
    if family in ("doubled", "llama2", "gpt2") and "<s>" in text:
        assert (found[0], found.count("<s>")) == ("<s>", 1)
    else:
        assert found == before


def test_a_special_token_that_eats_blanks_loses_none_of_the_continuation() -> None:
    """As Phi-3's `<|assistant|>`: the line break behind it is no token."""
    before, scored = tokens_of("mistral", Rendered("<s>user<|assistant|>\n"), "honey", ["<|assistant|>"])
    assert (before[-1], "".join(scored).strip("▁")) == ("<|assistant|>", "honey")


@pytest.mark.parametrize(
    ("family", "chat_template", "parts"),
    [
        ("llama2", None, []),
        ("xglm", None, []),
        ("llama2", "{{ bos_token }}{{ messages[0].content }}", []),  # also added by the tokenizer: as usual
        ("t5", None, ["appends '</s>' to every text"]),
        ("qwen_ends", "{{ messages[0].content }}", [r"appends '<\|endoftext\|>' to every text"]),
        ("gpt2_ends", None, [r"appends '<\|endoftext\|>' to every text"]),
        (
            "gemma_ends",
            None,
            ["appends '<eos>' to every text", "does not write its BOS token '<bos>' before texts; if"],
        ),
        ("doubled", None, ["tokenizer begins texts with '<s>' twice"]),
        (
            "llama2",
            "{{ bos_token }}{{ bos_token }}{{ messages[0].content }}",
            ["chat template begins texts with '<s>' twice"],
        ),
        (
            "llama2_ends",
            "<s><s>{{ messages[0].content }}",
            ["appends '</s>'", "template begins texts with '<s>' twice"],
        ),
    ],
)
def test_odd_tokenizers_are_reported(family: str, chat_template: str | None, parts: list[str]) -> None:
    notices = tokenizer_notices(make_family_tokenizer(family, chat_template))
    assert len(notices) == len(parts)
    for notice, part in zip(notices, parts, strict=True):
        assert re.search(part, notice)


@pytest.mark.parametrize(("odd", "plain"), [("llama2_ends", "llama2"), ("gpt2_ends", "gpt2"), ("doubled", "mistral")])
def test_an_odd_tokenizer_answers_like_the_plain_one(model_folder: Path, tmp_path: Path, odd: str, plain: str) -> None:
    """Answers and likelihoods of plain and chat prompts; also if the model's end tokens are not the tokenizer's."""
    turns = [{"role": "user", "content": "What do bees make?"}]
    found = []
    for number, name in enumerate((odd, plain)):
        make_family_tokenizer(name, template(name)).save_pretrained(model_folder)
        edit_json(model_folder / "generation_config.json", eos_token_id=5)
        engine = open_family_engine(model_folder, tmp_path / str(number))

        async def ask(engine: TransformersEngine = engine) -> list[Any]:
            texts = [*PROMPTS, engine.render(turns)]
            answers = [engine.complete(text, Sampling(12)) for text in texts]
            return list(await asyncio.gather(*answers, *(engine.likelihood(text, " honey") for text in texts)))

        found.append(asyncio.run(ask()))
        engine.close()
    assert found[0] == found[1]
