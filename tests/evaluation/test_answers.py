"""The transformers engine gives the answers of plain transformers, one prompt at a time."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, RwkvConfig

from cycleqd_merge.config.engines import TransformersEngineConfig
from cycleqd_merge.errors import UserError
from cycleqd_merge.evaluation.engines.transformers_engine import TransformersEngine
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.tasks.protocol import Completion, Sampling
from tests.evaluation.conftest import Models, Reference, make_models
from tests.models import TOKENS, Architecture, edit_json, make_base, make_recipe, make_tokenizer, open_recipe_family

PROMPTS = ("a", "What is it?", "x" * 60, "once upon a time there was", "1 + 1 = ", "A longer prompt, {}; and\nlines")
TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?"}, {"role": "user", "content": "go"}]


def complete(engine: TransformersEngine, prompts: Sequence[str], sampling: Sampling) -> list[Completion]:
    """All prompts at once."""

    async def ask() -> list[Completion]:
        return list(await asyncio.gather(*(engine.complete(prompt, sampling) for prompt in prompts)))

    return asyncio.run(ask())


def copy_of(models: Models, folder: Path) -> Models:
    """The same models with a base that a test may write into."""
    base = Path(shutil.copytree(models.base, folder / "base"))
    return Models(
        base,
        models.first,
        models.second,
        open_recipe_family(make_recipe(folder, base, {"first": models.first, "second": models.second})),
    )


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_greedy_answers_are_those_without_padding(every_models: Models, batch_size: int) -> None:
    reference, engine = Reference(every_models.base), every_models.engine(batch_size=batch_size)
    answers = complete(engine, PROMPTS, Sampling(12))
    assert [answer.text for answer in answers] == [reference.text(prompt, 12) for prompt in PROMPTS]
    engine.close()


def test_the_token_limit_marks_an_answer_as_truncated(engine: TransformersEngine) -> None:
    (answer,) = complete(engine, ["a"], Sampling(5))
    assert (answer.tokens, answer.truncated) == (5, True)


@pytest.mark.parametrize("as_list", [False, True])
def test_an_answer_ends_at_the_end_of_sequence_token(
    models: Models, reference: Reference, tmp_path: Path, as_list: bool
) -> None:
    usual = {prompt: reference.tokens(prompt, 12) for prompt in PROMPTS}
    end = usual[PROMPTS[0]][4]
    copy = copy_of(models, tmp_path)
    edit_json(copy.base / "generation_config.json", eos_token_id=[TOKENS.index("</s>"), end] if as_list else end)
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([TOKENS[end]])  # a plain token would be left out
    tokenizer.save_pretrained(copy.base)
    engine = copy.engine()
    for prompt, answer in zip(PROMPTS, complete(engine, PROMPTS, Sampling(12)), strict=True):
        tokens = usual[prompt]
        expected = tokens[: tokens.index(end)] if end in tokens else tokens
        assert answer.text == reference.tokenizer.decode(expected, skip_special_tokens=True)
        assert (answer.tokens, answer.truncated) == (len(expected), end not in tokens)
    engine.close()


def test_decoding_settings_of_the_checkpoint_are_ignored(models: Models, reference: Reference, tmp_path: Path) -> None:
    copy = copy_of(models, tmp_path)
    decoding = {"repetition_penalty": 5.0, "do_sample": True, "temperature": 3.0, "top_k": 3, "max_length": 20}
    edit_json(copy.base / "generation_config.json", **decoding)
    engine = copy.engine()
    answers = complete(engine, PROMPTS, Sampling(12))
    assert [answer.text for answer in answers] == [reference.text(prompt, 12) for prompt in PROMPTS]
    engine.close()


def test_stop_strings_end_an_answer_and_are_cut(engine: TransformersEngine, reference: Reference) -> None:
    usual = {prompt: reference.text(prompt, 16) for prompt in PROMPTS}
    first = usual[PROMPTS[0]]
    stop = (first[5:7], "never said")
    for prompt, answer in zip(PROMPTS, complete(engine, PROMPTS, Sampling(16, stop=stop)), strict=True):
        assert answer.text == usual[prompt].partition(stop[0])[0]
        assert answer.truncated == (stop[0] not in usual[prompt])


def test_the_first_of_several_stop_strings_counts(engine: TransformersEngine, reference: Reference) -> None:
    usual = reference.text("a", 16)
    place = next(place for place in range(2, 16) if usual[place] not in usual[:place])
    stop = (usual[place], usual[place - 2 : place + 1])  # both are complete at once, and the second begins first
    (answer,) = complete(engine, ["a"], Sampling(16, stop=stop))
    assert answer.text == usual[: place - 2]


def test_tasks_with_different_sampling_are_answered_concurrently(
    engine: TransformersEngine, reference: Reference
) -> None:
    limits = [3, 12, 3, 7, 12, 5]

    async def ask() -> list[Completion]:
        asked = (engine.complete(prompt, Sampling(limit)) for prompt, limit in zip(PROMPTS, limits, strict=True))
        return list(await asyncio.gather(*asked))

    expected = [reference.text(prompt, limit) for prompt, limit in zip(PROMPTS, limits, strict=True)]
    assert [answer.text for answer in asyncio.run(ask())] == expected


def test_a_chat_goes_through_the_models_template(engine: TransformersEngine, reference: Reference) -> None:
    answer = asyncio.run(engine.chat(TURNS, Sampling(10)))
    assert answer.text == reference.text("u: hi\na: yes?\nu: go\na: ", 10)


def test_a_task_may_bring_its_own_template(engine: TransformersEngine, reference: Reference) -> None:
    template = "{% for turn in messages %}[{{ turn.content }}]{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    answer = asyncio.run(engine.chat(TURNS, Sampling(10), template))
    assert answer.text == reference.text("[hi][yes?][go]>", 10)


def test_a_chat_without_any_template_is_refused(models: Models, tmp_path: Path) -> None:
    copy = copy_of(models, tmp_path)
    (copy.base / "chat_template.jinja").unlink()
    engine = copy.engine()
    with pytest.raises(UserError, match="the model has no chat template"):
        asyncio.run(engine.chat(TURNS, Sampling(3)))
    assert asyncio.run(engine.chat(TURNS, Sampling(3), "{{ messages[0].content }}")).tokens == 3
    engine.close()


@pytest.mark.parametrize("template", ["{{ raise_exception('no system turns') }}", "{% if %}", "{{ messages.a.b }}"])
def test_a_failing_template_is_reported(engine: TransformersEngine, template: str) -> None:
    with pytest.raises(UserError, match="the chat template rejects these turns"):
        asyncio.run(engine.chat(TURNS, Sampling(3), template))


@pytest.mark.parametrize("batch_size", [1, 64])
def test_logprobs_equal_their_definition(every_models: Models, batch_size: int) -> None:
    reference, engine = Reference(every_models.base), every_models.engine(batch_size=batch_size)
    pairs = [(prompt, continuation) for prompt in PROMPTS for continuation in ("y", " yes", " no, not at all")]

    async def ask() -> list[list[float]]:
        return list(await asyncio.gather(*(engine.logprobs(*pair) for pair in pairs)))

    for pair, found in zip(pairs, asyncio.run(ask()), strict=True):
        assert found == pytest.approx(reference.logprobs(*pair), abs=1e-4)
        assert len(found) == len("".join(pair)) - len(pair[0].rstrip())
    engine.close()


def test_answers_and_logprobs_can_be_requested_together(engine: TransformersEngine, reference: Reference) -> None:
    async def ask() -> tuple[list[Completion], list[list[float]]]:
        answers = asyncio.gather(*(engine.complete(prompt, Sampling(8)) for prompt in PROMPTS))
        logprobs = asyncio.gather(*(engine.logprobs(prompt, " so") for prompt in PROMPTS))
        return list(await answers), list(await logprobs)

    answers, logprobs = asyncio.run(ask())
    assert [answer.text for answer in answers] == [reference.text(prompt, 8) for prompt in PROMPTS]
    for prompt, found in zip(PROMPTS, logprobs, strict=True):
        assert found == pytest.approx(reference.logprobs(prompt, " so"), abs=1e-4)


@pytest.fixture
def with_start_token(models: Models, tmp_path: Path) -> Models:
    """The models with a tokenizer that adds <s> before every text, as Llama's does."""
    copy = copy_of(models, tmp_path)
    tokenizer = make_tokenizer(chat_template="<s>{{ messages[0].content }}")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", TOKENS.index("<s>"))]
    )
    tokenizer.save_pretrained(copy.base)
    return copy


def test_no_second_start_token_is_added_before_a_rendered_chat(with_start_token: Models, reference: Reference) -> None:
    engine = with_start_token.engine()
    turns = [{"role": "user", "content": "hi"}]
    expected = reference.text("<s>hi", 8)  # the reference's tokenizer adds nothing, and reads <s> as one token
    assert asyncio.run(engine.chat(turns, Sampling(8))).text == expected
    assert asyncio.run(engine.complete("hi", Sampling(8))).text == expected
    engine.close()


def test_logprobs_after_a_rendered_chat_are_only_those_of_the_continuation(
    with_start_token: Models, reference: Reference
) -> None:
    engine = with_start_token.engine()
    expected = reference.logprobs("<s>hi", " you")
    for prompt in ([{"role": "user", "content": "hi"}], "hi"):
        assert asyncio.run(engine.logprobs(prompt, " you")) == pytest.approx(expected, abs=1e-4)
    engine.close()


def test_an_empty_prompt_becomes_the_start_token(
    models: Models, with_start_token: Models, reference: Reference
) -> None:
    for each in (models, with_start_token):
        engine = each.engine()
        assert complete(engine, ["", "hi"], Sampling(6))[0].text == reference.text("<s>", 6)
        expected = reference.logprobs("<s>", "you")
        assert asyncio.run(engine.logprobs("", "you")) == pytest.approx(expected, abs=1e-4)
        engine.close()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_sampling_follows_the_models_distribution(
    open_engine: Callable[..., TransformersEngine], reference: Reference, temperature: float
) -> None:
    draws = 2000
    answers = complete(open_engine(batch_size=draws), ["hello"] * draws, Sampling(1, temperature, seed=3))
    drawn = Counter(answer.text for answer in answers)
    with torch.inference_mode():
        logits = reference.model(input_ids=reference.ids("hello")).logits[0, -1].double()
    expected: Counter[str] = Counter()
    for token, probability in enumerate((logits / temperature).softmax(dim=-1).tolist()):
        expected[str(reference.tokenizer.decode([token], skip_special_tokens=True))] += probability
    distance = sum(abs(drawn[text] / draws - probability) for text, probability in expected.items()) / 2
    assert distance < 0.12


def test_the_seed_determines_sampling(engine: TransformersEngine) -> None:
    first, same, other = (complete(engine, PROMPTS, Sampling(12, 1.0, seed=seed)) for seed in (1, 1, 2))
    assert first == same
    assert first != other


def test_bfloat16_checkpoints_are_computed_in_the_requested_dtype(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    family = open_recipe_family(make_recipe(tmp_path, base, {"a": base, "b": base}))
    models = Models(base, base, base, family)
    for dtype, expected in (("auto", torch.bfloat16), ("float32", torch.float32)):
        engine = models.engine(dtype=dtype)
        assert {parameter.dtype for parameter in engine.model.parameters()} == {expected}
        assert complete(engine, ["a"], Sampling(3))[0].tokens == 3
        engine.close()


def test_a_continuation_is_greedy_if_the_model_would_write_it(engine: TransformersEngine) -> None:
    prompt = "who is"
    written = asyncio.run(engine.complete(prompt, Sampling(3))).text
    likelihood = asyncio.run(engine.likelihood(prompt, written))
    assert likelihood.greedy
    assert list(likelihood.logprobs) == pytest.approx(asyncio.run(engine.logprobs(prompt, written)))
    other = written[:-1] + ("b" if written[-1] == "a" else "a")
    assert not asyncio.run(engine.likelihood(prompt, other)).greedy


def test_a_begun_turn_is_continued(engine: TransformersEngine) -> None:
    turns = [{"role": "user", "content": "hi"}]
    begun = [*turns, {"role": "assistant", "content": "you are"}]
    assert engine.render(begun).startswith(engine.render(turns))
    assert engine.render(begun).endswith("you are")
    assert asyncio.run(engine.chat(begun, Sampling(4))) == asyncio.run(
        engine.complete(engine.render(begun), Sampling(4))
    )


def test_a_stop_string_that_the_seam_spells_ends_nothing(engine: TransformersEngine, reference: Reference) -> None:
    for prompt in PROMPTS:
        usual = reference.text(prompt, 12)
        seams = tuple(stop for stop in (prompt[-1] + usual[0], prompt[-3:] + usual[:2], prompt) if stop not in usual)
        assert seams
        (answer,) = complete(engine, [prompt], Sampling(12, stop=seams))
        assert (answer.text, answer.truncated) == (usual, True)


def test_rows_end_at_their_own_stop_strings(engine: TransformersEngine, reference: Reference) -> None:
    usual = [reference.text(prompt, 16) for prompt in PROMPTS]
    stop = tuple(text[place : place + 2] for place, text in enumerate(usual))  # one per row, each at another place
    for text, answer in zip(usual, complete(engine, PROMPTS, Sampling(16, stop=stop)), strict=True):
        assert answer.text == text[: min(text.find(each) for each in stop if each in text)]
        assert not answer.truncated


def test_the_batch_ends_with_its_last_row(
    engine: TransformersEngine, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens after a stop string would be cut off, but cost time."""
    widths, generate = [], engine.model.generate

    def counted(**options: Any) -> Any:
        output = generate(**options)
        widths.append(output.shape[1] - options["input_ids"].shape[1])
        return output

    monkeypatch.setattr(engine.model, "generate", counted)
    usual = reference.text("a", 40)
    (answer,) = complete(engine, ["a"], Sampling(40, stop=(usual[3:6],)))
    assert widths == [answer.tokens]
    assert answer.tokens < 10


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_context_ends_answers(tmp_path: Path, architecture: Architecture) -> None:
    models = make_models(tmp_path, architecture)
    reference, engine = Reference(models.base), models.engine()
    context = {"llama": 256, "gpt2": 128}[architecture]
    prompts = ["x" * length for length in (3, context - 12, context - 5, context - 1, context, 2 * context)]
    answers = complete(engine, prompts, Sampling(12))
    for prompt, answer in zip(prompts, answers, strict=True):
        room = max(min(context - len(prompt), 12), 0)
        text = reference.text(prompt, room) if room else ""
        assert (answer.text, answer.tokens, answer.truncated) == (text, room, True)
    asked = engine.likelihood("x" * 3 * context, " yes")
    assert asyncio.run(asked).logprobs == pytest.approx(reference.logprobs("x" * (context - 5), " yes"), abs=1e-4)
    engine.close()


def test_a_model_that_reads_padding_gets_prompts_of_one_length_in_a_batch(tmp_path: Path) -> None:
    """RWKV in transformers ignores the attention mask."""
    base = make_base(tmp_path / "base")
    config = RwkvConfig(vocab_size=len(TOKENS), context_length=64, hidden_size=32, num_hidden_layers=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(base)
    family = open_recipe_family(make_recipe(tmp_path, base, {"first": base, "second": base}))
    materialiser = Materialiser(family, Groups(family.weights, "one"), {})

    async def scored(engine: TransformersEngine) -> list[tuple[float, ...]]:
        found = await asyncio.gather(*(engine.likelihood(prompt, " honey") for prompt in PROMPTS))
        return [each.logprobs for each in found]

    results = []
    for size in (1, 8):
        engine = TransformersEngine(TransformersEngineConfig(device="cpu", batch_size=size), materialiser)
        results.append((complete(engine, PROMPTS, Sampling(6)), asyncio.run(scored(engine))))
        engine.close()
    assert results[0][0] == results[1][0]
    for one, other in zip(results[0][1], results[1][1], strict=True):
        assert one == pytest.approx(other, abs=1e-4)
