"""Models that cannot be merged are refused with a line that says why; lesser findings are reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from cycleqd_merge.errors import UserError
from cycleqd_merge.evolution.genome import expert_genome
from cycleqd_merge.merging.checks import Problems, check_family, require_mergeable
from cycleqd_merge.merging.family import ModelFamily
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.tokenizers import family_tokenizer, load_tokenizer
from tests.architectures import make_architecture
from tests.merging.conftest import Trio
from tests.models import (
    CHAT_TEMPLATE,
    VOCABULARY,
    edit_json,
    make_adapter,
    make_base,
    make_expert,
    make_recipe,
    make_tokenizer,
    on_base,
    open_recipe_family,
    read_tensors,
    write_tensors,
)

Tensors = dict[str, torch.Tensor]
QUERY, EMBEDDING, HEAD = "model.layers.0.self_attn.q_proj.weight", "model.embed_tokens.weight", "lm_head.weight"


def family_of(folder: Path, base: Path, tuned: Path | str, **settings: object) -> ModelFamily:
    """A family of `tuned` and a sound second expert."""
    sound = folder / "sound"
    if not sound.exists():
        make_expert(base, sound, seed=99)
    return open_recipe_family(make_recipe(folder, base, {"tuned": tuned, "sound": sound}, **settings))


def check(folder: Path, base: Path, tuned: Path | str, **settings: object) -> Problems:
    return check_family(family_of(folder, base, tuned, **settings))


def edited(base: Path, folder: Path, change: Callable[[Tensors], object]) -> Path:
    """An expert whose tensors are modified in place by `change`."""
    make_expert(base, folder, seed=1)
    tensors = read_tensors(folder)
    change(tensors)
    write_tensors(folder, tensors)
    return folder


def with_tokenizer(expert: Path, chat_template: str | None = CHAT_TEMPLATE, added: tuple[str, ...] = ()) -> Path:
    """An expert with a different tokenizer."""
    (expert / "chat_template.jinja").unlink()
    make_tokenizer(chat_template, added).save_pretrained(expert)
    return expert


def grown(base: Path, folder: Path, rows: int) -> Path:
    """An expert that appended `rows` tokens to the base's vocabulary."""

    def grow(tensors: Tensors) -> None:
        for name in (EMBEDDING, HEAD):
            tensors[name] = torch.cat([tensors[name], torch.ones(rows, tensors[name].shape[1], dtype=torch.bfloat16)])

    expert = edited(base, folder, grow)
    edit_json(expert / "config.json", vocab_size=VOCABULARY + rows)
    return with_tokenizer(expert, added=tuple(f"<added{row}>" for row in range(rows)))


def test_sound_experts_leave_nothing_to_report(trio: Trio) -> None:
    assert check_family(trio.family) == Problems([], [])


def test_other_architecture_is_refused(llama: Trio, tmp_path: Path) -> None:
    other = make_base(tmp_path / "other", "qwen2", seed=1)
    findings = check(tmp_path, llama.base, other)
    assert findings.errors[0] == ("expert tuned: architecture ['Qwen2ForCausalLM'], the base has ['LlamaForCausalLM']")


@pytest.mark.filterwarnings("ignore")
def test_broken_code_is_refused_without_a_traceback(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = make_architecture("custom_code", tmp_path / "base")
    (base / "modeling_mine.py").write_text("raise ValueError('broken')")
    # transformers keeps the model's class for a configuration class; other tests in this process may have loaded it
    code = base / "configuration_mine.py"
    code.write_text(f"{code.read_text()}# broken\n")
    expert = make_expert(base, tmp_path / "tuned", seed=1)
    with pytest.raises(UserError, match=f"^model {base}: transformers cannot build it: broken$"):
        require_mergeable(family_of(tmp_path, base, expert, models={"trust_remote_code": True}))
    assert not [record for record in caplog.records if record.exc_info]


def test_missing_tensor_is_refused(llama: Trio, tmp_path: Path) -> None:
    expert = edited(llama.base, tmp_path / "tuned", lambda tensors: tensors.pop(QUERY))
    assert check(tmp_path, llama.base, expert).errors == [f"expert tuned: tensor {QUERY} is missing; the base has it"]


def test_extra_tensor_is_refused(llama: Trio, tmp_path: Path) -> None:
    expert = edited(llama.base, tmp_path / "tuned", lambda tensors: tensors.update(extra=torch.ones(2, 2)))
    assert check(tmp_path, llama.base, expert).errors == ["expert tuned: tensor extra is not in the base"]


def test_other_shape_is_refused(llama: Trio, tmp_path: Path) -> None:
    expert = edited(llama.base, tmp_path / "tuned", lambda tensors: tensors.update({QUERY: tensors[QUERY][:-4]}))
    assert check(tmp_path, llama.base, expert).errors == [
        f"expert tuned: tensor {QUERY}: shape (28, 32), the base has (32, 32)"
    ]


def test_added_vocabulary_is_refused_by_default(llama: Trio, tmp_path: Path) -> None:
    expert = grown(llama.base, tmp_path / "tuned", rows=3)
    assert check(tmp_path, llama.base, expert).errors == [
        "expert tuned: its tokenizer differs in 3 tokens; first '<added0>': id 100, in the base None; "
        "`models.vocabulary: base` drops added tokens"
    ]


def test_added_tokens_that_can_be_joined_are_refused_with_both_ways(llama: Trio, tmp_path: Path) -> None:
    expert = make_expert(llama.base, tmp_path / "tuned", seed=1)
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<turn>"], special_tokens=True)
    tokenizer.save_pretrained(expert)
    assert check(tmp_path, llama.base, expert).errors == [
        "expert tuned: its tokenizer differs in 1 token; first '<turn>': id 100, in the base None; "
        "`models.vocabulary: union` keeps added tokens, `base` drops them"
    ]


def test_added_rows_without_a_tokenizer_are_refused_by_default(llama: Trio, tmp_path: Path) -> None:
    expert = grown(llama.base, tmp_path / "tuned", rows=3)
    (expert / "tokenizer.json").unlink()
    assert check(tmp_path, llama.base, expert).errors == [
        f"expert tuned: tensor {name}: vocabulary of 103, the base has 100; `models.vocabulary: base` drops added rows"
        for name in (HEAD, EMBEDDING)
    ]


def test_added_vocabulary_is_dropped_and_reported_under_vocabulary_base(llama: Trio, tmp_path: Path) -> None:
    expert = grown(llama.base, tmp_path / "tuned", rows=3)
    family = family_of(tmp_path, llama.base, expert, models={"vocabulary": "base"})
    assert require_mergeable(family) == [
        f"expert tuned: {name}: 3 rows beyond the base's vocabulary dropped" for name in (HEAD, EMBEDDING)
    ]
    built = dict(Materialiser(family, Groups(family.weights, "one"), {}).tensors(expert_genome(0, 2, 1)))
    for name in (HEAD, EMBEDDING):
        assert torch.equal(built[name], read_tensors(expert)[name][:VOCABULARY])


def test_smaller_vocabulary_is_refused_even_under_vocabulary_base(llama: Trio, tmp_path: Path) -> None:
    expert = edited(llama.base, tmp_path / "tuned", lambda tensors: tensors.update({HEAD: tensors[HEAD][:90]}))
    assert check(tmp_path, llama.base, expert, models={"vocabulary": "base"}).errors == [
        f"expert tuned: tensor {HEAD}: vocabulary of 90, the base has 100"
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_or_infinity_is_refused_in_an_expert(llama: Trio, tmp_path: Path, value: float) -> None:
    expert = edited(llama.base, tmp_path / "tuned", lambda tensors: tensors[QUERY][3].fill_(value))
    assert check(tmp_path, llama.base, expert).errors == [
        f"expert tuned: tensor {QUERY} contains NaN or infinite values"
    ]


def test_nan_or_infinity_is_refused_in_the_base(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    expert = make_expert(base, tmp_path / "tuned", seed=1)
    make_expert(base, tmp_path / "sound", seed=2)
    tensors = read_tensors(base)
    tensors[QUERY][0, 0] = float("nan")
    write_tensors(base, tensors)
    assert check(tmp_path, base, expert).errors == [f"base: tensor {QUERY} contains NaN or infinite values"]


def test_expert_that_is_the_base_itself_is_refused(llama: Trio, tmp_path: Path) -> None:
    assert check(tmp_path, llama.base, llama.base).errors == [
        "expert tuned: its task vector is zero, so it is the base model itself; choose a different expert"
    ]


@pytest.mark.parametrize("options", [{"scale": 0.0}, {"lora_alpha": 0}])
def test_adapter_that_changes_nothing_is_refused(llama: Trio, tmp_path: Path, options: dict[str, Any]) -> None:
    adapter = make_adapter(llama.base, tmp_path / "tuned", seed=1, **options)
    assert check(tmp_path, llama.base, on_base(llama.base, adapter)).errors == [
        "expert tuned: its task vector is zero, so it is the base model itself; choose a different expert"
    ]


def test_other_dtype_is_reported_as_cast(llama: Trio, tmp_path: Path) -> None:
    def widen(tensors: Tensors) -> None:
        tensors.update({name: tensors[name].float() for name in (QUERY, HEAD)})

    expert = edited(llama.base, tmp_path / "tuned", widen)
    assert check(tmp_path, llama.base, expert) == Problems(
        [], ["expert tuned: 2 tensors are cast from float32 to the base's bfloat16"]
    )


def test_other_token_ids_are_refused(llama: Trio, tmp_path: Path) -> None:
    expert = make_expert(llama.base, tmp_path / "tuned", seed=1)
    tokenizer = expert / "tokenizer.json"
    text = tokenizer.read_text()
    first, second = '"a": 70', '"b": 71'
    assert first in text
    tokenizer.write_text(text.replace(first, '"a": 71').replace(second, '"b": 70'))
    assert check(tmp_path, llama.base, expert).errors == [
        "expert tuned: its tokenizer differs in 2 tokens; first 'a': id 71, in the base 70"
    ]


def test_a_renamed_reserved_token_is_refused_with_what_keeps_it(llama: Trio, tmp_path: Path) -> None:
    expert = make_expert(llama.base, tmp_path / "tuned", seed=1)
    tokenizer = json.loads((expert / "tokenizer.json").read_text())
    number = tokenizer["model"]["vocab"].pop("~")
    tokenizer["model"]["vocab"]["<turn>"] = number
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    tokenizer["added_tokens"].append({"id": number, "content": "<turn>", "special": True, **flags})
    (expert / "tokenizer.json").write_text(json.dumps(tokenizer))
    for vocabulary in ("strict", "base"):
        assert check(tmp_path, llama.base, expert, models={"vocabulary": vocabulary}).errors == [
            "expert tuned: its tokenizer differs in 2 tokens; first '<turn>': id 99, in the base None; "
            "`models.vocabulary: union` keeps added tokens"
        ]


def test_expert_without_a_tokenizer_is_reported(llama: Trio, tmp_path: Path) -> None:
    expert = make_expert(llama.base, tmp_path / "tuned", seed=1)
    (expert / "tokenizer.json").unlink()
    assert check(tmp_path, llama.base, expert) == Problems([], ["expert tuned: has no tokenizer; the base's is used"])


def test_base_without_a_tokenizer_is_refused(llama: Trio, tmp_path: Path) -> None:
    base = make_expert(llama.base, tmp_path / "base", seed=1)
    (base / "tokenizer.json").unlink()
    family = open_recipe_family(make_recipe(tmp_path, base, {"one": llama.experts[0], "two": llama.experts[1]}))
    with pytest.raises(UserError, match=f"^{base}: no tokenizer; add its files, such as tokenizer.json$"):
        load_tokenizer(base, family)


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"added_tokens": []}'])
def test_broken_tokenizer_is_refused(llama: Trio, tmp_path: Path, text: str) -> None:
    expert = make_expert(llama.base, tmp_path / "tuned", seed=1)
    (expert / "tokenizer.json").write_text(text)
    (line,) = check(tmp_path, llama.base, expert).errors
    assert line.startswith(f"expert tuned: {expert}: the tokenizer cannot be loaded: ")


TEMPLATE = "{% for message in messages %}[{{ message.content }}]{% endfor %}"


def test_other_chat_template_is_refused_until_one_is_chosen(llama: Trio, tmp_path: Path) -> None:
    expert = with_tokenizer(make_expert(llama.base, tmp_path / "tuned", seed=1), TEMPLATE)
    assert check(tmp_path, llama.base, expert).errors == [
        "expert tuned: its chat template differs from the base's; "
        "choose one with `models.chat_template` (`base`, `tuned` or a file)"
    ]
    for choice in ("base", "tuned"):
        assert check(tmp_path, llama.base, expert, models={"chat_template": choice}) == Problems([], [])


def test_expert_without_a_chat_template_is_accepted(llama: Trio, tmp_path: Path) -> None:
    expert = with_tokenizer(make_expert(llama.base, tmp_path / "tuned", seed=1), None)
    assert check(tmp_path, llama.base, expert) == Problems([], [])


def test_chosen_chat_template_is_the_one_used(llama: Trio, tmp_path: Path) -> None:
    expert = with_tokenizer(make_expert(llama.base, tmp_path / "tuned", seed=1), TEMPLATE)
    file = tmp_path / "template.jinja"
    file.write_text("{{ messages[0].content }}")
    wanted = {"base": CHAT_TEMPLATE, "tuned": TEMPLATE, str(file): "{{ messages[0].content }}", None: CHAT_TEMPLATE}
    for choice, template in wanted.items():
        family = family_of(tmp_path, llama.base, expert, models={"chat_template": choice})
        assert family_tokenizer(family).chat_template == template


def test_chosen_chat_template_that_does_not_exist_is_refused(llama: Trio, tmp_path: Path) -> None:
    family = family_of(tmp_path, llama.base, llama.experts[0], models={"chat_template": "nobody"})
    with pytest.raises(
        UserError, match=r"^models.chat_template: 'nobody' is neither `base`, nor an expert, nor a file"
    ):
        family_tokenizer(family)


def test_adapter_that_changes_an_unknown_tensor_is_refused(llama: Trio, tmp_path: Path) -> None:
    adapter = make_adapter(llama.base, tmp_path / "tuned", seed=1, target_modules=["q_proj"])
    weights = adapter / "adapter_model.safetensors"
    renamed = {key.replace("layers.1.", "layers.7."): tensor for key, tensor in load_file(weights).items()}
    save_file(renamed, weights)
    assert check(tmp_path, llama.base, on_base(llama.base, adapter)).errors == [
        "expert tuned: its adapter changes model.layers.7.self_attn.q_proj.weight, which the base lacks"
    ]


def test_adapter_of_other_shape_is_refused(llama: Trio, tmp_path: Path) -> None:
    adapter = make_adapter(llama.base, tmp_path / "tuned", seed=1, target_modules=["q_proj"])
    weights = adapter / "adapter_model.safetensors"
    save_file({key: torch.cat([tensor, tensor], dim=-1) for key, tensor in load_file(weights).items()}, weights)
    faults = check(tmp_path, llama.base, on_base(llama.base, adapter)).errors
    assert faults == [
        f"expert tuned: adapter {adapter}: {QUERY} has shape (32, 64); the base has (32, 32) "
        "(the first of 2 tensors with an error)"
    ]


def test_adapter_with_nan_is_refused(llama: Trio, tmp_path: Path) -> None:
    adapter = make_adapter(llama.base, tmp_path / "tuned", seed=1, scale=float("nan"), target_modules=["q_proj"])
    faults = check(tmp_path, llama.base, on_base(llama.base, adapter)).errors
    assert f"expert tuned: tensor {QUERY} contains NaN or infinite values" in faults


def test_adapter_on_a_different_base_is_refused(llama: Trio, tmp_path: Path) -> None:
    other = make_base(tmp_path / "other")
    reference = on_base(other, make_adapter(other, tmp_path / "tuned", seed=1))
    with pytest.raises(UserError) as caught:
        family_of(tmp_path, llama.base, reference)
    assert str(caught.value) == (
        f"expert {reference}: its adapter is for {other}, not for the recipe's base {llama.base}"
    )


def test_adapter_as_base_is_refused(llama: Trio, tmp_path: Path) -> None:
    reference = on_base(llama.base, llama.experts[2])
    recipe = make_recipe(tmp_path, llama.base, {"one": "one", "two": "two"}).model_copy(update={"base": reference})
    with pytest.raises(UserError, match="the base must be a full model, not an adapter"):
        open_recipe_family(recipe)


def test_untied_head_of_an_expert_is_left_out_and_reported(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", tied=True)
    expert = make_base(tmp_path / "tuned", tied=False, seed=1)
    assert check(tmp_path, base, expert) == Problems(
        [], [f"expert tuned: {HEAD} is ignored: in the base, it is tied to model.embed_tokens.weight"]
    )


def test_tied_expert_on_an_untied_base_has_its_embedding_as_head(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", tied=False)
    expert = make_base(tmp_path / "tuned", tied=True, seed=1)
    family = family_of(tmp_path, base, expert)
    assert check_family(family) == Problems([], [])
    built = dict(Materialiser(family, Groups(family.weights, "one"), {}).tensors(expert_genome(0, 2, 1)))
    embedding = read_tensors(expert)[EMBEDDING]
    torch.testing.assert_close(built[HEAD], embedding, rtol=0.01, atol=0.01)
    torch.testing.assert_close(built[EMBEDDING], embedding, rtol=0.01, atol=0.01)


def test_all_faults_are_reported_at_once(llama: Trio, tmp_path: Path) -> None:
    one = edited(llama.base, tmp_path / "one", lambda tensors: tensors.pop(QUERY))
    two = edited(llama.base, tmp_path / "two", lambda tensors: tensors.update(extra=torch.ones(2, 2)))
    family = open_recipe_family(make_recipe(tmp_path, llama.base, {"one": one, "two": two}))
    with pytest.raises(UserError) as caught:
        require_mergeable(family)
    assert str(caught.value).splitlines() == [
        f"expert one: tensor {QUERY} is missing; the base has it",
        "expert two: tensor extra is not in the base",
    ]


def sharded(base: Path, folder: Path) -> Path:
    """An expert of three shards."""
    expert = make_expert(base, folder, seed=1)
    model = AutoModelForCausalLM.from_pretrained(expert, dtype=torch.bfloat16)
    (expert / "model.safetensors").unlink()
    model.save_pretrained(expert, max_shard_size="20KB")
    assert len(list(expert.glob("model-*-of-00003.safetensors"))) == 3
    return expert


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def opening_error(folder: Path, base: Path, tuned: Path) -> str:
    """The error, of one line, of opening and checking."""
    with pytest.raises(UserError) as caught:
        require_mergeable(family_of(folder, base, tuned))
    (line,) = str(caught.value).splitlines()
    return line


def test_sharded_checkpoint_is_read_as_one(llama: Trio, tmp_path: Path) -> None:
    expert = sharded(llama.base, tmp_path / "tuned")
    family = family_of(tmp_path, llama.base, expert)
    assert check_family(family) == Problems([], [])
    whole = read_tensors(make_expert(llama.base, tmp_path / "whole", seed=1))
    for name, tensor in Materialiser(family, Groups(family.weights, "one"), {}).tensors(expert_genome(0, 2, 1)):
        assert torch.equal(tensor, whole[name])


def test_missing_folder_is_refused(llama: Trio, tmp_path: Path) -> None:
    assert opening_error(tmp_path, llama.base, tmp_path / "tuned").startswith(
        f"model {tmp_path / 'tuned'}: no such folder"
    )


@pytest.mark.parametrize("content", [b"no pickle", None], ids=["garbage", "tensors"])
def test_pickles_are_refused_without_opening_them(llama: Trio, tmp_path: Path, content: bytes | None) -> None:
    expert = make_expert(llama.base, tmp_path / "tuned", seed=1)
    torch.save(read_tensors(expert), expert / "pytorch_model.bin")
    (expert / "model.safetensors").unlink()
    if content is not None:
        (expert / "pytorch_model.bin").write_bytes(content)
    assert opening_error(tmp_path, llama.base, expert) == (
        f"model {expert}: contains only pickles; convert it to safetensors first, or allow them with "
        "`models.pickles: true`"
    )


def test_quantised_weights_are_refused(llama: Trio, tmp_path: Path) -> None:
    expert = make_expert(llama.base, tmp_path / "tuned", seed=1)
    config = json.loads((expert / "config.json").read_text())
    (expert / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "fp8"}}))
    assert opening_error(tmp_path, llama.base, expert) == (
        f"model {expert}: is quantised (fp8); merging needs 16-bit or 32-bit weights"
    )


def test_missing_shard_is_refused(llama: Trio, tmp_path: Path) -> None:
    expert = sharded(llama.base, tmp_path / "tuned")
    (expert / "model-00002-of-00003.safetensors").unlink()
    assert opening_error(tmp_path, llama.base, expert) == (
        f"model {expert}: model-00002-of-00003.safetensors is in its index but not in {expert}"
    )


def test_truncated_shard_is_refused(llama: Trio, tmp_path: Path) -> None:
    expert = sharded(llama.base, tmp_path / "tuned")
    truncate(expert / "model-00002-of-00003.safetensors")
    wanted = f"{expert}/model-00002-of-00003.safetensors: damaged or truncated: "
    assert opening_error(tmp_path, llama.base, expert).startswith(wanted)


def test_truncated_checkpoint_is_refused(llama: Trio, tmp_path: Path) -> None:
    expert = make_expert(llama.base, tmp_path / "tuned", seed=1)
    truncate(expert / "model.safetensors")
    assert opening_error(tmp_path, llama.base, expert).startswith(f"model {expert}: cannot be opened: ")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"{"], ids=["absent", "empty", "broken"])
def test_checkpoint_without_an_intact_file_is_refused(
    llama: Trio, tmp_path: Path, file: str, content: bytes | None
) -> None:
    expert = make_expert(llama.base, tmp_path / "tuned", seed=1)
    if content is None:
        (expert / file).unlink()
    else:
        (expert / file).write_bytes(content)
    problem = "cannot be opened: " if content is not None else "no "
    assert opening_error(tmp_path, llama.base, expert).startswith(f"model {expert}: {problem}")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"weight_map": []}', '{"weight_map": {"a": 3}}'])
def test_broken_index_is_refused(llama: Trio, tmp_path: Path, text: str) -> None:
    expert = sharded(llama.base, tmp_path / "tuned")
    (expert / "model.safetensors.index.json").write_text(text)
    assert opening_error(tmp_path, llama.base, expert).startswith(f"model {expert}: cannot be opened: ")
