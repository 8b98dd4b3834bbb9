"""The tokens that end an answer: of the base, of the model whose chat template is used, and of that template."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from cycleqd_merge.config.engines import TransformersEngineConfig
from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.errors import RecipeError
from cycleqd_merge.evaluation.engines.transformers_engine import TransformersEngine
from cycleqd_merge.merging.candidates import write_candidate
from cycleqd_merge.merging.checks import check_family
from cycleqd_merge.merging.end_tokens import end_tokens, stated_end_tokens
from cycleqd_merge.merging.family import ModelFamily
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.run.identity import _models
from cycleqd_merge.tasks.protocol import Sampling
from tests.evaluation.conftest import genome_of
from tests.models import VOCABULARY, edit_json, make_base, make_expert, make_recipe, make_tokenizer, open_recipe_family

END, TURN, START, ADDED = 2, VOCABULARY, VOCABULARY + 1, VOCABULARY + 2
"""Ids of `</s>` and of the tokens that `tokenizer` adds: two special ones, and one that is only added."""
PLAIN = 40
NAMES = ("<|im_end|>", "<|im_start|>", "<turn>")
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR = "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
LLAMA_3 = "{% for m in messages %}{{ '<turn>' + m.role + '\n\n' + m.content | trim + '<|im_end|>' }}{% endfor %}"
GLM = "{% for m in messages %}<turn>{{ m.role }}\n{{ m.content }}{% endfor %}<turn>"
PHI_3 = (
    "{% for m in messages %}{{ '<turn>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
)
PARTS = "{% for m in messages %}{{ m.content[0].text }}<|im_end|>{% endfor %}"
ONLY_ALTERNATING = (
    "{% if messages[0].role != 'user' or messages | length > 2 %}{{ raise_exception('no') }}{% endif %}"
    "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
)
THINKING = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{{ m.content.split('</think>')[-1] }}"
    "<|im_end|>{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
NOTHING = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
BROKEN = "{{ raise_exception('never') }}"


def tokenizer(template: str | None = NOTHING, end: str = "</s>") -> Any:
    """A tokenizer with the three added tokens."""
    made = make_tokenizer(template, added=NAMES)
    made.add_tokens(list(NAMES[:2]), special_tokens=True)
    made.add_tokens(list(NAMES[2:]))
    made.eos_token = end
    return made


def make_wide_base(folder: Path, kind: str = "llama", says: int | None = None) -> Path:
    """A base whose vocabulary has room for the added tokens; `says`: the only token that it ever gives."""
    config = CONFIG_MAPPING[kind](
        vocab_size=VOCABULARY + 8,
        hidden_size=128,  # as vLLM requires
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        bos_token_id=1,
        eos_token_id=END,
        pad_token_id=0,
    )
    model: Any = AutoModelForCausalLM.from_config(config)
    if says is not None:
        with torch.no_grad():
            model.lm_head.bias[says] = 1000.0
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def speaking_family(folder: Path, end: int) -> ModelFamily:
    """A family whose children give the token `end` whatever they are asked.

    It is an end token of the expert with the chosen template, and no other token of the base's files.
    """
    base = make_wide_base(folder / "base", "phi", end)
    first, second = (make_expert(base, folder / name, seed) for seed, name in ((1, "first"), (2, "second")))
    edit_json(first / "generation_config.json", eos_token_id=[END, end])
    models = {"chat_template": "first"}
    return open_recipe_family(make_recipe(folder, base, {"first": first, "second": second}, models=models))


@dataclass(frozen=True)
class Case:
    """What base and first expert state, which template is chosen, and the ids that count.

    base, expert: `eos_token_id` in their generation configurations; `absent` removes the file. end: the expert's end
    token in its tokenizer. left_out: parts of the notices about what does not count.
    """

    wanted: tuple[int, ...]
    base: Any = END
    expert: Any = END
    end: str = "</s>"
    template: str = NOTHING
    choice: str | None = "first"
    config: Any = END
    left_out: tuple[str, ...] = ()


CASES = {
    "the base's alone": Case((END,), choice=None),
    "several of the base": Case((END, TURN), base=[END, TURN], choice=None),
    "the base's generation configuration before its config": Case((TURN, END), base=TURN, choice=None),
    "the base's config where its generation configuration has none": Case((TURN, END), None, config=TURN, choice=None),
    "the base's config without a generation configuration": Case((TURN, END), "absent", config=[TURN], choice=None),
    "the base's tokenizer where its files state none": Case((END,), None, config=None, choice=None),
    "a wrong id of the base": Case((END,), base=[END, PLAIN], choice=None, left_out=(f"'C' (id {PLAIN})",)),
    "an id beyond the vocabulary": Case((END,), base=[END, 5000], choice=None, left_out=("id 5000",)),
    "a negative id": Case((END,), base=-1, choice=None, left_out=("id -1",)),
    "an expert whose template is not used": Case((END,), expert=[TURN], end="<|im_end|>", choice=None),
    "the template's expert": Case((END, TURN), expert=[TURN, END]),
    "the tokenizer of the template's expert": Case((END, TURN), end="<|im_end|>"),
    "a wrong id of the template's expert": Case((END,), expert=[END, PLAIN], left_out=("expert first", "'C'")),
    "an added token that is not special": Case((END, ADDED), expert=ADDED),
    "ChatML": Case((END, TURN), template=CHATML),
    "Llama 2": Case((END,), template=LLAMA_2),
    "Zephyr": Case((END,), template=ZEPHYR),
    "an end token by its variable": Case((END, TURN), template=ZEPHYR, end="<|im_end|>"),
    "Llama 3": Case((END, TURN), template=LLAMA_3),
    "GLM, whose turns end with the next one's start": Case((END, ADDED), template=GLM),
    "Phi-3": Case((END, TURN), template=PHI_3),
    "contents in parts": Case((END, TURN), template=PARTS),
    "a template that rejects most conversations": Case((END, TURN), template=ONLY_ALTERNATING),
    "a template with thoughts": Case((END, TURN), template=THINKING),
    "a template that ends no turn": Case((END,), template=NOTHING),
    "a template that rejects everything": Case((END,), template=BROKEN),
    "the base's own template": Case((END, TURN), template=CHATML, choice="base"),
    "a template from a file": Case((END, TURN), template=CHATML, choice="file"),
    "a file with unknown tokens": Case(
        (END,),
        template="{% for m in messages %}{{ m.content }}<|eot_id|>{% endfor %}",
        choice="file",
        left_out=("models.chat_template", "'<|eot_id|>'"),
    ),
}


def family_of(folder: Path, case: Case, **models: Any) -> ModelFamily:
    base = make_wide_base(folder / "base")
    first, second = (make_expert(base, folder / name, seed) for seed, name in ((1, "first"), (2, "second")))
    tokenizer(case.template, case.end).save_pretrained(first)
    edit_json(first / "generation_config.json", eos_token_id=case.expert)
    edit_json(base / "config.json", eos_token_id=case.config)
    edit_json(base / "generation_config.json", eos_token_id=case.base)
    if case.base == "absent":
        (base / "generation_config.json").unlink()
    if case.choice == "base":
        tokenizer(case.template).save_pretrained(base)
    choice = case.choice
    if choice == "file":
        choice = str(folder / "template.jinja")
        Path(choice).write_text(case.template)
    models = {**({} if choice is None else {"chat_template": choice}), **models}
    return open_recipe_family(make_recipe(folder, base, {"first": first, "second": second}, models=models))


def child_of(family: ModelFamily, folder: Path) -> Path:
    write_candidate(genome_of(0.5, 0.5), Materialiser(family, Groups(family.weights, "one"), {}), folder)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_the_end_tokens_that_count(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    family = family_of(tmp_path, case)
    found = end_tokens(family)
    assert found.ids == case.wanted
    assert len(found.notices) == bool(case.left_out)
    assert all(part in found.notices[0] for part in case.left_out)
    child = child_of(family, tmp_path / "child")
    assert set(stated_end_tokens(child)) == set(case.wanted)
    loaded: Any = AutoModelForCausalLM.from_pretrained(child)
    ends = loaded.generation_config.eos_token_id
    assert set(ends if isinstance(ends, list) else [ends]) == set(case.wanted)


def test_the_recipe_may_state_them(tmp_path: Path) -> None:
    family = family_of(tmp_path, Case((END,), template=CHATML), end_tokens=["<turn>", PLAIN, "</s>", END])
    assert end_tokens(family).ids == (ADDED, PLAIN, END)
    assert stated_end_tokens(child_of(family, tmp_path / "child")) == (ADDED, PLAIN, END)


@pytest.mark.parametrize(("named", "shown"), [("<|none|>", "'<|none|>'"), (5000, "5000"), (-1, "-1")])
def test_an_unknown_stated_token_is_an_error(tmp_path: Path, named: Any, shown: str) -> None:
    family = family_of(tmp_path, Case((END,)), end_tokens=[named])
    with pytest.raises(RecipeError, match=r"^models\.end_tokens: .* is not a token") as refused:
        end_tokens(family)
    assert shown in str(refused.value)
    assert "\n" not in str(refused.value)
    assert check_family(family).errors == [str(refused.value)]


def test_differences_are_reported(tmp_path: Path) -> None:
    problems = check_family(family_of(tmp_path, Case((END,), expert=[END, TURN], choice="base")))
    assert problems.errors == []
    assert problems.notices == [
        f"expert first: ends its answers with '</s>' (id 2), '<|im_end|>' (id {TURN}); the children end theirs with "
        "'</s>' (id 2)"
    ]


def test_a_base_whose_configuration_and_tokenizer_differ_is_reported(tmp_path: Path) -> None:
    notices = check_family(family_of(tmp_path, Case((TURN, END), base=TURN, expert=TURN))).notices
    assert (
        f"base: its configuration ends answers with '<|im_end|>' (id {TURN}), and its tokenizer with '</s>' (id 2); "
        "either ends an answer"
    ) in notices


def test_a_template_whose_tokens_the_base_lacks_gets_one_notice(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    first, second = (make_expert(base, tmp_path / name, seed) for seed, name in ((1, "first"), (2, "second")))
    tokenizer(CHATML, "<|im_end|>").save_pretrained(first)
    edit_json(first / "generation_config.json", eos_token_id=TURN)
    models = {"chat_template": "first", "vocabulary": "base"}
    family = open_recipe_family(make_recipe(tmp_path, base, {"first": first, "second": second}, models=models))
    (notice,) = end_tokens(family).notices
    assert "'<|im_end|>', '<|im_start|>' are not tokens of the children's tokenizer" in notice
    assert end_tokens(family).ids == (END,)


@pytest.mark.parametrize("end", [TURN, PLAIN])
def test_the_transformers_engine_stops_at_them(tmp_path: Path, end: int) -> None:
    family = speaking_family(tmp_path, end)
    engine = TransformersEngine(
        TransformersEngineConfig(kind="transformers", device="cpu"),
        Materialiser(family, Groups(family.weights, "one"), {}),
    )
    answer = asyncio.run(engine.complete("abc", Sampling(max_new_tokens=6)))
    engine.close()
    assert (answer.text, answer.truncated) == (("", False) if end == TURN else ("C" * 6, True))


def test_the_key_is_part_of_a_runs_identity_only_if_it_is_stated(tmp_path: Path) -> None:
    def models_of(**models: Any) -> Mapping[str, Any]:
        stated = {"base": "b", "experts": {"x": "y", "z": "w"}, "models": models, "output": str(tmp_path)}
        tasks = [{"task": "gsm8k", "name": name} for name in ("one", "two")]
        return _models(Recipe.model_validate({**stated, "tasks": tasks}), written=False)

    assert models_of() == {"vocabulary": "strict", "chat_template": None}
    assert json.loads(json.dumps(models_of(end_tokens=["</s>", 5])))["end_tokens"] == ["</s>", 5]
