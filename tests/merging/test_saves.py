"""One model saved in different ways: the child is what transformers' `from_pretrained` loads, or there is one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from cycleqd_merge.config.evolution import EvolutionConfig
from cycleqd_merge.errors import UserError
from cycleqd_merge.evolution.candidate import MergekitConfiguration
from cycleqd_merge.evolution.genome import Genome
from cycleqd_merge.merging.candidates import write_candidate
from cycleqd_merge.merging.checks import Problems, check_family, require_mergeable
from cycleqd_merge.merging.family import ModelFamily
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.mergekit_config import configuration_text
from cycleqd_merge.merging.mergekit_experts import stock_problem
from cycleqd_merge.merging.mergekit_run import merge_to_disk, merged_tensors
from tests.architectures import make_architecture
from tests.models import (
    VOCABULARY,
    edit_json,
    make_expert,
    make_recipe,
    open_recipe_family,
    read_tensors,
    write_tensors,
)

State = dict[str, torch.Tensor]
EMBEDDING, HEAD, QUERY = "model.embed_tokens.weight", "lm_head.weight", "model.layers.0.self_attn.q_proj.weight"
FIRST = Genome(np.array([[1.0], [0.0]]), (), np.zeros((0, 1)))
"""The genome of the first expert itself."""


def family_of(base: Path, expert: Path, **settings: Any) -> ModelFamily:
    """A family of `expert` and a second, plain one."""
    second = base.parent / "second"
    if not second.exists():
        make_expert(base, second, seed=99)
        plain(second)
    return open_recipe_family(make_recipe(base.parent, base, {"expert": expert, "second": second}, **settings))


def plain(folder: Path) -> None:
    """Remove what `make_expert` copied from a base besides the weights of its single file."""
    for path in folder.glob("*.index.json"):
        path.unlink()


def materialiser_of(family: ModelFamily) -> Materialiser:
    return Materialiser(family, Groups(family.weights, "one"), {})


def loaded(folder: Path, **options: Any) -> tuple[State, dict[str, set[str]]]:
    """The state of the model that transformers loads, and its report on names."""
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, **{"dtype": "auto"} | options
    )
    return model.state_dict(), {key: set(report[key]) for key in ("missing_keys", "unexpected_keys")}


def assert_equal(found: State, wanted: State) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, msg=name)


def with_tensors(**more: torch.Tensor) -> Callable[[Path], None]:
    return lambda folder: write_tensors(folder, read_tensors(folder) | more)


def other_values(folder: Path) -> State:
    """Tensors as those in a folder, with other values."""
    return {name: tensor + 1 for name, tensor in read_tensors(folder).items()}


def shard(folder: Path, tensors: State, name: str = "model-{}-of-00002.safetensors") -> dict[str, str]:
    """Write tensors into two files; returns the file of each."""
    names = sorted(tensors)
    halves = (names[: len(names) // 2], names[len(names) // 2 :])
    where = {}
    for number, half in enumerate(halves, start=1):
        file = name.format(f"{number:05}")
        save_file({each: tensors[each].contiguous() for each in half}, folder / file, {"format": "pt"})
        where |= dict.fromkeys(half, file)
    return where


def write_index(folder: Path, where: dict[str, str], name: str = "model.safetensors") -> None:
    (folder / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def stale_index(folder: Path) -> None:
    write_index(folder, shard(folder, other_values(folder)))


def stale_index_without_shards(folder: Path) -> None:
    write_index(folder, dict.fromkeys(read_tensors(folder), "model-00001-of-00001.safetensors"))


def broken_stale_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("{")


def incomplete_index(folder: Path) -> None:
    """Shards whose index lacks half of the tensors that are in them."""
    where = shard(folder, read_tensors(folder))
    write_index(folder, dict(list(where.items())[::2]))
    (folder / "model.safetensors").unlink()


def index_with_wrong_shards(folder: Path) -> None:
    where = shard(folder, read_tensors(folder))
    first, second = sorted(set(where.values()))
    write_index(folder, {name: second if file == first else first for name, file in where.items()})
    (folder / "model.safetensors").unlink()


def pickled(folder: Path) -> None:
    torch.save(read_tensors(folder), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def pickled_with_stale_shards(folder: Path) -> None:
    other = other_values(folder)
    torch.save(other, folder / "pytorch_model-00001-of-00001.bin")
    write_index(folder, dict.fromkeys(other, "pytorch_model-00001-of-00001.bin"), "pytorch_model.bin")
    pickled(folder)


def pickled_in_shards_with_a_leftover(folder: Path) -> None:
    tensors = read_tensors(folder)
    torch.save(tensors, folder / "pytorch_model-00001-of-00001.bin")
    torch.save(other_values(folder), folder / "pytorch_model-00001-of-00009.bin")
    write_index(folder, dict.fromkeys(tensors, "pytorch_model-00001-of-00001.bin"), "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def pickled_next_to_other_safetensors(folder: Path) -> None:
    pickled(folder)
    save_file({"x": torch.ones(2)}, folder / "scheduler.safetensors")


def pickled_next_to_safetensors(folder: Path) -> None:
    torch.save(other_values(folder), folder / "pytorch_model.bin")


def without_head(folder: Path) -> None:
    """As `AutoModel` saves it."""
    model = AutoModel.from_pretrained(folder, dtype="auto")
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder)
    assert not any(name.startswith(("model.", "transformer.")) for name in read_tensors(folder))


def with_head(folder: Path) -> None:
    """A tied model that stores its head as well."""
    tensors = read_tensors(folder)
    write_tensors(folder, tensors | {HEAD: tensors[EMBEDDING].clone()})


def with_head_only(folder: Path) -> None:
    """A tied model that stores its embedding under the head's name."""
    tensors = read_tensors(folder)
    write_tensors(folder, tensors | {HEAD: tensors.pop(EMBEDDING)})


def with_the_module_s_names(folder: Path) -> None:
    """As a tool saves it that does not undo transformers' renaming."""
    tensors = read_tensors(folder)
    write_tensors(folder, tensors | {HEAD: tensors.pop("embed_out.weight")})


def tied(folder: Path) -> None:
    """An untied model becomes a tied one, without a head."""
    tensors = read_tensors(folder)
    del tensors[HEAD]
    write_tensors(folder, tensors)
    edit_json(folder / "config.json", tie_word_embeddings=True)


INV_FREQ = "model.layers.{}.self_attn.rotary_emb.inv_freq"
BUFFERS: dict[str, Callable[[Path], None]] = {
    "llama": with_tensors(**{INV_FREQ.format(layer): torch.tensor([1.0, 0.1, 0.01, 0.001]) for layer in range(2)}),
    "llama_tied": with_tensors(**{"model.rotary_emb.inv_freq": torch.ones(4)}),
    "mistral": with_tensors(**{"model.embed_tokens.position_ids": torch.arange(8)[None]}),
    "gpt2": with_tensors(
        **{
            "transformer.h.0.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.uint8),
            "transformer.h.1.attn.bias": torch.ones(1, 1, 8, 8),
            "transformer.h.0.attn.masked_bias": torch.tensor(-1e4),
        }
    ),
    "gpt_neox": with_tensors(
        **{
            "gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool),
            "gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9),
            "gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.ones(4),
        }
    ),
    "falcon": with_tensors(**{"transformer.h.0.self_attention.maybe_rotary.inv_freq": torch.ones(4)}),
    "deepseek_v3": with_tensors(**{"model.layers.61.eh_proj.weight": torch.ones(4, 4)}),
}


@pytest.mark.parametrize("who", ["base", "expert", "both"])
@pytest.mark.parametrize("architecture", BUFFERS)
def test_buffers_are_ignored(architecture: str, who: str, tmp_path: Path) -> None:
    base = make_architecture(architecture, tmp_path / "base")
    expert = make_expert(base, tmp_path / "expert", seed=1)
    make_expert(base, tmp_path / "second", seed=2)
    for folder in {"base": [base], "expert": [expert], "both": [base, expert]}[who]:
        BUFFERS[architecture](folder)
    family = family_of(base, expert)
    problems = check_family(family)
    assert (problems.errors, problems.notices) == ([], [])
    write_candidate(FIRST, materialiser_of(family), tmp_path / "child")
    state, report = loaded(tmp_path / "child")
    assert report == {"missing_keys": set(), "unexpected_keys": set()}
    assert_equal(state, loaded(expert)[0])
    if architecture not in ("falcon", "deepseek_v3"):  # mergekit lacks some of their tensors
        assert_merged_alike(family)


@dataclass(frozen=True)
class Save:
    """A way of saving an expert. pickles: whether the recipe allows them. stock: whether stock mergekit reads it."""

    change: Callable[[Path], None]
    architecture: str = "llama"
    pickles: bool = False
    stock: bool = True


SAVES = {
    "stale index": Save(stale_index, stock=False),
    "stale index without its shards": Save(stale_index_without_shards, stock=False),
    "broken stale index": Save(broken_stale_index, stock=False),
    "incomplete index": Save(incomplete_index),
    "index with wrong shards": Save(index_with_wrong_shards),
    "pickles": Save(pickled, pickles=True),
    "pickles of a tied model": Save(pickled, "llama_tied", pickles=True),
    "pickle with stale shards": Save(pickled_with_stale_shards, pickles=True),
    "pickles with a leftover": Save(pickled_in_shards_with_a_leftover, pickles=True),
    "pickle next to other safetensors": Save(pickled_next_to_other_safetensors, pickles=True),
    "pickle next to safetensors": Save(pickled_next_to_safetensors),
    "without its head": Save(without_head, "llama_tied", stock=False),
    "without its head, gpt2": Save(without_head, "gpt2", stock=False),
    "without its head, smollm3": Save(without_head, "smollm3", stock=False),
    "with the module's names": Save(with_the_module_s_names, "gpt_neox", stock=False),
    "tied, with the head": Save(with_head, "llama_tied"),
    "tied, under the head's name": Save(with_head_only, "llama_tied", stock=False),
    "no architectures": Save(lambda folder: edit_json(folder / "config.json", architectures=None), stock=False),
}


@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
def test_the_child_of_one_expert_is_the_model_that_transformers_loads(save: Save, tmp_path: Path) -> None:
    base = make_architecture(save.architecture, tmp_path / "base")
    expert = make_expert(base, tmp_path / "expert", seed=1)
    save.change(expert)
    wanted, report = loaded(expert)
    assert report == {"missing_keys": set(), "unexpected_keys": set()}
    family = family_of(base, expert, models={"pickles": save.pickles})
    problems = check_family(family)
    assert (problems.errors, problems.notices) == ([], [])
    write_candidate(FIRST, materialiser_of(family), tmp_path / "child")
    assert_equal(loaded(tmp_path / "child")[0], wanted)
    assert_merged_alike(family)
    if save.architecture != "gpt_neox":  # mergekit writes its buffers, which new files lack
        assert_command_builds(family, "mergekit-yaml" if save.stock else "cycleqd-merge merge", tmp_path)


def assert_command_builds(family: ModelFamily, command: str, folder: Path) -> None:
    """The export's configuration names this command, and builds the same tensors."""
    text = configuration_text(FIRST, materialiser_of(family), EvolutionConfig())
    assert text.startswith(f"# {command} ")
    (folder / "mergekit_config.yml").write_text(text)
    merge_to_disk(folder / "mergekit_config.yml", folder / "merged")
    built = read_tensors(folder / "merged")
    wanted = dict(materialiser_of(family).tensors(FIRST))
    assert_equal({name: built[name] for name in wanted}, wanted)


def assert_merged_alike(family: ModelFamily) -> None:
    """mergekit in this process builds the same tensors."""
    text = "\n".join(
        (
            "merge_method: task_arithmetic",
            f"base_model: {family.base.reference}",
            "models:",
            *(
                f"- {{model: {expert.reference}, parameters: {{weight: {weight}}}}}"
                for expert, weight in zip(family.experts, (1.0, 0.0), strict=True)
            ),
            "dtype: float32",
            "out_dtype: bfloat16" if family.weights[0].dtype == torch.bfloat16 else "",
        )
    )
    merged = dict(merged_tensors(MergekitConfiguration(text, 0), family))
    assert_equal(merged, dict(materialiser_of(family).tensors(FIRST)))


@pytest.mark.parametrize("name", ["stale index", "incomplete index", "pickle with stale shards", "no architectures"])
def test_a_base_saved_so_is_read_as_transformers_does(name: str, tmp_path: Path) -> None:
    save = SAVES[name]
    base = make_architecture("llama", tmp_path / "base")
    expert, second = (make_expert(base, tmp_path / name, seed) for seed, name in enumerate(("expert", "second")))
    save.change(base)
    family = open_recipe_family(
        make_recipe(tmp_path, base, {"expert": expert, "second": second}, models={"pickles": save.pickles})
    )
    assert check_family(family).errors == []
    none = Genome(np.zeros((2, 1)), (), np.zeros((0, 1)))
    write_candidate(none, materialiser_of(family), tmp_path / "child")
    assert_equal(loaded(tmp_path / "child")[0], loaded(base)[0])
    assert (stock_problem(family) is None) == (save.stock or save.pickles)
    assert_merged_alike(family)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_another_dtype_is_cast_after_the_sum(dtype: torch.dtype, tmp_path: Path) -> None:
    base = make_architecture("llama", tmp_path / "base")
    tensors = {name: tensor.bfloat16() for name, tensor in read_tensors(base).items()}
    write_tensors(base, tensors)
    expert = make_expert(base, tmp_path / "expert", seed=1)
    write_tensors(expert, {name: tensor.to(dtype) for name, tensor in read_tensors(expert).items()})
    family = family_of(base, expert)
    assert require_mergeable(family) == [
        f"expert expert: 21 tensors are cast from {str(dtype).removeprefix('torch.')} to the base's bfloat16"
    ]
    write_candidate(FIRST, materialiser_of(family), tmp_path / "child")
    assert_equal(loaded(tmp_path / "child", dtype=torch.bfloat16)[0], loaded(expert, dtype=torch.bfloat16)[0])


def test_tied_expert_of_an_untied_base(tmp_path: Path) -> None:
    base = make_architecture("llama", tmp_path / "base")
    expert = make_expert(base, tmp_path / "expert", seed=1)
    tied(expert)
    family = family_of(base, expert)
    assert require_mergeable(family) == []
    write_candidate(FIRST, materialiser_of(family), tmp_path / "child")
    child, wanted = loaded(tmp_path / "child")[0], loaded(expert)[0]
    torch.testing.assert_close(child.pop(HEAD), wanted.pop(HEAD), rtol=0.01, atol=0.01)  # the difference is rounded
    assert_equal(child, wanted)


def prefixed(prefix: str) -> Callable[[Path], None]:
    return lambda folder: write_tensors(folder, {prefix + name: each for name, each in read_tensors(folder).items()})


def headless_config(folder: Path) -> None:
    """The configuration says untied, and there is no head: transformers would make one of random values."""
    tensors = read_tensors(folder)
    del tensors[HEAD]
    write_tensors(folder, tensors)


def twice(folder: Path) -> None:
    where = shard(folder, read_tensors(folder))
    save_file({QUERY: torch.ones(32, 32)}, folder / "model-00003-of-00002.safetensors", {"format": "pt"})
    write_index(folder, where | {"another": "model-00003-of-00002.safetensors"})
    (folder / "model.safetensors").unlink()


def missing_shard(folder: Path) -> None:
    write_index(folder, shard(folder, read_tensors(folder)))
    (folder / "model-00002-of-00002.safetensors").unlink()
    (folder / "model.safetensors").unlink()


def shards_without_an_index(folder: Path) -> None:
    shard(folder, read_tensors(folder))
    (folder / "model.safetensors").unlink()


def half(folder: Path) -> None:
    write_tensors(folder, {name: tensor for name, tensor in read_tensors(folder).items() if ".1." not in name})


PREFIX = "expert expert: its tensor names begin with {!r}, so transformers does not load them; rename the tensors"
REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "module.": (prefixed("module."), PREFIX.format("module.")),
    "_orig_mod.": (prefixed("_orig_mod."), PREFIX.format("_orig_mod.")),
    "base_model.model.": (prefixed("base_model.model."), PREFIX.format("base_model.model.")),
    "_orig_mod.module.": (prefixed("_orig_mod.module."), PREFIX.format("_orig_mod.module.")),
    "no head": (headless_config, f"expert expert: tensor {HEAD} is missing; the base has it"),
    "a tensor in two files": (
        twice,
        f"{{folder}}: tensor {QUERY} is in both model-00001-of-00002.safetensors and "
        "model-00003-of-00002.safetensors; remove the outdated file",
    ),
    "missing shard": (
        missing_shard,
        "model {folder}: model-00002-of-00002.safetensors is in its index but not in {folder}",
    ),
    "shards without an index": (
        shards_without_an_index,
        "model {folder}: cannot be opened: no model.safetensors, nor an index of shards, in {folder}",
    ),
    "half of the layers": (
        half,
        "expert expert: 9 tensors are missing; the base has them; the first is model.layers.1.",
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_what_transformers_cannot_load_is_refused_in_one_line(
    case: tuple[Callable[[Path], None], str], tmp_path: Path
) -> None:
    change, line = case
    base = make_architecture("llama", tmp_path / "base")
    expert = make_expert(base, tmp_path / "expert", seed=1)
    change(expert)
    with pytest.raises(UserError) as caught:
        require_mergeable(family_of(base, expert))
    assert str(caught.value).startswith(line.format(folder=expert))
    assert "\n" not in str(caught.value)


def test_base_without_its_head_is_read_as_transformers_does(tmp_path: Path) -> None:
    base = make_architecture("llama_tied", tmp_path / "base")
    expert, second = (make_expert(base, tmp_path / name, seed) for seed, name in enumerate(("expert", "second")))
    without_head(base)
    family = open_recipe_family(make_recipe(tmp_path, base, {"expert": expert, "second": second}))
    assert check_family(family).errors == []
    write_candidate(FIRST, materialiser_of(family), tmp_path / "child")
    state, report = loaded(tmp_path / "child")
    assert report == {"missing_keys": set(), "unexpected_keys": set()}
    assert_equal(state, loaded(expert)[0])


@pytest.mark.parametrize("who", ["base", "expert", "both"])
@pytest.mark.parametrize(
    ("architecture", "head", "embedding"),
    [("llama_tied", HEAD, EMBEDDING), ("gpt2", HEAD, "transformer.wte.weight")],
    ids=["llama", "gpt2"],
)
def test_second_copy_of_a_tied_tensor_is_left_out(
    architecture: str, head: str, embedding: str, who: str, tmp_path: Path
) -> None:
    base = make_architecture(architecture, tmp_path / "base")
    expert, second = (make_expert(base, tmp_path / name, seed) for seed, name in enumerate(("expert", "second")))
    for folder in {"base": [base], "expert": [expert], "both": [base, expert, second]}[who]:
        tensors = read_tensors(folder)
        write_tensors(folder, tensors | {head: tensors[embedding].clone()})
    family = open_recipe_family(make_recipe(tmp_path, base, {"expert": expert, "second": second}))
    assert check_family(family) == Problems()
    assert [weight.name for weight in family.weights].count(head) == 0
    write_candidate(FIRST, materialiser_of(family), tmp_path / "child")
    assert head not in read_tensors(tmp_path / "child")
    state, report = loaded(tmp_path / "child")
    assert report == {"missing_keys": set(), "unexpected_keys": set()}
    assert_equal(state, loaded(expert)[0])


def test_second_copy_with_other_values_is_a_tensor_of_its_own_as_in_transformers(tmp_path: Path) -> None:
    base = make_architecture("llama_tied", tmp_path / "base")
    expert, second = (make_expert(base, tmp_path / name, seed) for seed, name in enumerate(("expert", "second")))
    for folder in (base, expert, second):
        tensors = read_tensors(folder)
        write_tensors(folder, tensors | {HEAD: tensors[EMBEDDING] + 1})
    family = open_recipe_family(make_recipe(tmp_path, base, {"expert": expert, "second": second}))
    assert check_family(family) == Problems()
    write_candidate(FIRST, materialiser_of(family), tmp_path / "child")
    assert_equal(loaded(tmp_path / "child")[0], loaded(expert)[0])


def resized(folder: Path, rows: int) -> None:
    """Cut the vocabulary's tensors to this number of rows, or pad them with other rows."""
    tensors = read_tensors(folder)
    for name in {EMBEDDING, HEAD} & tensors.keys():
        width = tensors[name].shape[1]
        more = torch.full((max(0, rows - len(tensors[name])), width), 0.5, dtype=tensors[name].dtype)
        tensors[name] = torch.cat([tensors[name], more])[:rows]
    write_tensors(folder, tensors)
    edit_json(folder / "config.json", vocab_size=rows)


@pytest.mark.parametrize("vocabulary", ["strict", "base"])
@pytest.mark.parametrize("rows", [100, 110, 192])
@pytest.mark.parametrize("architecture", ["llama", "llama_tied"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rows_of_no_token_may_be_missing_or_more(
    architecture: str, rows: int, vocabulary: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    base = make_architecture(architecture, tmp_path / "base")
    write_tensors(base, {name: tensor.bfloat16() for name, tensor in read_tensors(base).items()})
    resized(base, 128)
    expert = make_expert(base, tmp_path / "expert", seed=1)
    resized(expert, rows)
    write_tensors(expert, {name: tensor.to(dtype) for name, tensor in read_tensors(expert).items()})
    family = family_of(base, expert, models={"vocabulary": vocabulary})
    what = "64 rows beyond the base's vocabulary dropped"
    if rows < 128:
        what = f"{128 - rows} rows that belong to no token are missing; the base's are used"
    names = [weight.name for weight in family.weights if weight.vocabulary_axis is not None]
    notices = [f"expert expert: {name}: {what}" for name in names]
    assert [line for line in require_mergeable(family) if "cast" not in line] == notices
    write_candidate(FIRST, materialiser_of(family), tmp_path / "child")
    child, report = loaded(tmp_path / "child")
    assert report == {"missing_keys": set(), "unexpected_keys": set()}
    own, ours = loaded(expert, dtype=torch.bfloat16)[0], loaded(base)[0]
    for name in (EMBEDDING, HEAD):
        own[name] = torch.cat([own[name], ours[name][rows:]])[:128]
    assert_equal(child, own)
    assert_merged_alike(family)
    if vocabulary == "strict" and rows < 128:
        assert_command_builds(family, "cycleqd-merge merge", tmp_path)


def test_rows_of_tokens_may_not_be_missing(tmp_path: Path) -> None:
    base = make_architecture("llama", tmp_path / "base")
    resized(base, 128)
    expert = make_expert(base, tmp_path / "expert", seed=1)
    resized(expert, VOCABULARY - 1)
    assert check_family(family_of(base, expert)).errors == [
        f"expert expert: tensor {name}: vocabulary of 99, the base has 128" for name in (HEAD, EMBEDDING)
    ]


def with_token(folder: Path, token: str, number: int) -> None:
    """Add a token at any id, which may leave a gap."""
    path = folder / "tokenizer.json"
    record = json.loads(path.read_text())
    record["model"]["vocab"][token] = number
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    record["added_tokens"].append({"id": number, "content": token, "special": True, **flags})
    path.write_text(json.dumps(record))
    assert AutoTokenizer.from_pretrained(folder).get_vocab()[token] == number


@pytest.mark.parametrize("vocabulary", ["strict", "base"])
def test_ids_may_have_gaps(vocabulary: str, tmp_path: Path) -> None:
    base = make_architecture("llama", tmp_path / "base")
    resized(base, 128)
    with_token(base, "<far>", 120)
    expert, cut, short = (make_expert(base, tmp_path / name, seed=1) for name in ("expert", "cut", "short"))
    resized(cut, 121)
    resized(short, 120)
    make_expert(base, tmp_path / "second", seed=2)
    assert check_family(family_of(base, expert, models={"vocabulary": vocabulary})).errors == []
    assert check_family(family_of(base, cut, models={"vocabulary": vocabulary})).errors == []
    assert len(check_family(family_of(base, short, models={"vocabulary": vocabulary})).errors) == 2


def test_token_behind_a_gap_is_dropped_under_vocabulary_base(tmp_path: Path) -> None:
    base = make_architecture("llama", tmp_path / "base")
    resized(base, 128)
    with_token(base, "<far>", 120)
    expert = make_expert(base, tmp_path / "expert", seed=1)
    with_token(expert, "<more>", 125)
    make_expert(base, tmp_path / "second", seed=2)
    assert check_family(family_of(base, expert, models={"vocabulary": "base"})).errors == []
    (line,) = check_family(family_of(base, expert)).errors
    assert "its tokenizer differs in 1 token; first '<more>': id 125" in line
