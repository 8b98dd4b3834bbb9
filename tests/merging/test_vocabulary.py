"""`models.vocabulary: union`: tokens, ids and rows against a computation of its own in NumPy, and what follows them."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig

from cycleqd_merge.config.engines import TransformersEngineConfig
from cycleqd_merge.config.evolution import EvolutionConfig
from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.errors import ModelError
from cycleqd_merge.evaluation.engines.transformers_engine import TransformersEngine
from cycleqd_merge.evolution.candidate import MergekitConfiguration
from cycleqd_merge.evolution.genome import Genome, Mutation, expert_genome
from cycleqd_merge.merging.bases import basis_folder, prepare_bases
from cycleqd_merge.merging.candidates import candidate_configuration, candidate_tensors, write_candidate
from cycleqd_merge.merging.checks import check_family, require_mergeable
from cycleqd_merge.merging.end_tokens import end_tokens
from cycleqd_merge.merging.family import ModelFamily, open_base
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.mergekit_run import merge_to_disk
from cycleqd_merge.merging.tokenizers import family_tokenizer
from cycleqd_merge.merging.union_models import with_rows
from cycleqd_merge.outputs.adapter import require_adapters
from cycleqd_merge.outputs.verify import verify_checkpoint
from cycleqd_merge.preflight.plan import plan
from cycleqd_merge.session.evolve import evolve
from tests.grown_models import FLAGS, IM_END, IM_START, TOOL, Grown, add_tokens, make_grown, set_rows
from tests.models import (
    CHAT_TEMPLATE,
    VOCABULARY,
    Architecture,
    edit_json,
    make_adapter,
    make_base,
    make_expert,
    make_recipe,
    make_tokenizer,
    on_base,
    open_recipe_family,
)


@dataclass(frozen=True)
class Case:
    """A base with two experts. ids: those of the union beyond the tiny model's. rows: the union's."""

    base: Grown
    first: Grown
    second: Grown
    ids: Mapping[str, int]
    rows: int


CASES = {
    "one expert adds": Case(
        Grown(), Grown({100: IM_START, 101: IM_END}, 102), Grown(), {IM_START: 100, IM_END: 101}, 102
    ),
    "other tokens at the same ids": Case(
        Grown(),
        Grown({100: IM_START, 101: IM_END}, 102),
        Grown({100: TOOL, 101: "<call>"}, 102),
        {IM_START: 100, IM_END: 101, TOOL: 102, "<call>": 103},
        104,
    ),
    "the same token at other ids": Case(
        Grown(),
        Grown({100: IM_START, 101: IM_END}, 102),
        Grown({100: TOOL, 101: IM_END, 102: IM_START}, 103),
        {IM_START: 100, IM_END: 101, TOOL: 102},
        103,
    ),
    "padded base": Case(
        Grown(rows=128),
        Grown({100: IM_START, 101: IM_END}, 128),
        Grown({100: TOOL}, 128),
        {IM_START: 100, IM_END: 101, TOOL: 102},
        128,
    ),
    "padding cut off, padded to another multiple": Case(
        Grown(rows=128),
        Grown({100: IM_START}, 101),
        Grown({100: TOOL}, 192),
        {IM_START: 100, TOOL: 101},
        128,
    ),
    "gap in the base's ids": Case(
        Grown({120: "<far>"}, 128),
        Grown({120: "<far>", 121: IM_START}, 128),
        Grown({120: TOOL}, 128),
        {"<far>": 120, IM_START: 121, TOOL: 100},
        128,
    ),
    "gap behind the base's rows": Case(
        Grown(),
        Grown({110: IM_START, 111: IM_END}, 112),
        Grown({100: TOOL}, 101),
        {IM_START: 110, IM_END: 111, TOOL: 100},
        112,
    ),
    "renamed reserved token": Case(
        Grown({100: "<reserved_0>", 101: "<reserved_1>"}, 102),
        Grown({100: "<reserved_0>", 101: IM_END}, 102),
        Grown({100: IM_START, 101: IM_END}, 102),
        {"<reserved_0>": 100, "<reserved_1>": 101, IM_END: 102, IM_START: 103},
        104,
    ),
    "same tokens, other order of the base's": Case(
        Grown({100: IM_START, 101: IM_END}, 102),
        Grown({100: IM_END, 101: IM_START}, 102),
        Grown({100: IM_START, 101: IM_END}, 102),
        {IM_START: 100, IM_END: 101},
        102,
    ),
    "token without a row": Case(
        Grown(), Grown({100: IM_START, 101: IM_END}, 101), Grown({100: IM_START}, 101), {IM_START: 100}, 101
    ),
    "nothing added, other padding": Case(Grown(rows=104), Grown(rows=100), Grown(rows=128), {}, 104),
}
MODELS: list[tuple[Architecture, bool]] = [("llama", False), ("llama", True), ("gpt2", True)]
COEFFICIENTS = (0.5, 0.75)


def make_case(folder: Path, case: Case, architecture: Architecture, tied: bool, dtype: torch.dtype) -> tuple[Path, ...]:
    plain = make_base(folder / "plain", architecture, dtype, tied=tied)
    base = make_grown(folder / "base", case.base, 0, None, architecture=architecture, dtype=dtype, tied=tied)
    first = make_grown(folder / "first", case.first, 1, plain)
    return base, first, make_grown(folder / "second", case.second, 2, plain)


def union_recipe(folder: Path, base: Path, *experts: Path | str, **models: Any) -> Recipe:
    names = ("first", "second", "third")
    named = dict(zip(names, experts, strict=False))
    return make_recipe(folder, base, named, models={"vocabulary": "union", **models})


def union_family(folder: Path, base: Path, *experts: Path | str, **models: Any) -> ModelFamily:
    return open_recipe_family(union_recipe(folder, base, *experts, **models))


def materialiser_of(family: ModelFamily, bases: tuple[int, ...] = ()) -> Materialiser:
    return Materialiser(family, Groups(family.weights, "one"), prepare_bases(family, bases))


def genome_of(*coefficients: float) -> Genome:
    return Genome(np.array(coefficients)[:, None], (), np.zeros((0, 1)))


def tensors_of(family: ModelFamily, *coefficients: float) -> dict[str, torch.Tensor]:
    return dict(materialiser_of(family).tensors(genome_of(*coefficients)))


def expected_rows(case: Case, tensors: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The child's rows by the definition, row by row. tensors: the base's and the experts' own."""
    ids = [
        {**{token: number for number, token in each.tokens.items()}} for each in (case.base, case.first, case.second)
    ]
    texts = {number: token for token, number in case.ids.items()}
    rows = []
    for number in range(case.rows):
        token = texts.get(number)
        owned: list[NDArray[np.float32] | None] = []
        for own, tensor in zip(ids, tensors, strict=True):
            at = number if number < VOCABULARY else own.get(token or "")
            owned.append(tensor[at] if at is not None and at < len(tensor) else None)
        base, experts = owned[0], owned[1:]
        if base is None and token is None:
            base = tensors[0][number] if number < len(tensors[0]) else tensors[0].mean(axis=0, dtype=np.float32)
        if base is None:
            known = [row for row in experts if row is not None]
            base = known[0] if len(known) == 1 else sum(known[1:], known[0]) / np.float32(len(known))
            experts = experts if len(known) > 1 else [None, None]
        change = np.zeros_like(base)
        for coefficient, row in zip(COEFFICIENTS, experts, strict=True):
            if (row is not None and token is not None) or number < VOCABULARY:
                change = change + np.float32(coefficient) * (row - base)
        rows.append(base + change)
    return np.stack(rows)


@pytest.mark.parametrize(("architecture", "tied"), MODELS)
@pytest.mark.parametrize("name", CASES)
def test_a_child_knows_every_token_and_has_its_row(
    tmp_path: Path, name: str, architecture: Architecture, tied: bool
) -> None:
    case = CASES[name]
    folders = make_case(tmp_path, case, architecture, tied, torch.float32)
    family = union_family(tmp_path, *folders)
    require_mergeable(family)
    built = tensors_of(family, *COEFFICIENTS)
    own = [load_file(folder / "model.safetensors") for folder in folders]
    assert built.keys() == own[0].keys()
    checked = 0
    for weight in family.weights:
        parts = [each[weight.name].numpy() for each in own]
        if weight.vocabulary_axis is not None:
            checked += 1
            wanted = expected_rows(case, parts)
            assert weight.shape == wanted.shape
            np.testing.assert_allclose(built[weight.name].numpy(), wanted, rtol=1e-6, atol=1e-7)
        else:
            wanted = parts[0] + sum(
                np.float32(c) * (part - parts[0]) for c, part in zip(COEFFICIENTS, parts[1:], strict=True)
            )
            np.testing.assert_allclose(built[weight.name].numpy(), wanted, rtol=1e-5, atol=1e-6)
    assert checked == (1 if tied else 2)
    tokenizer = family_tokenizer(family)
    assert {token: number for token, number in tokenizer.get_vocab().items() if number >= VOCABULARY} == case.ids
    for token, number in case.ids.items():
        assert tokenizer(f"a{token}b").input_ids == [tokenizer("a").input_ids[0], number, tokenizer("b").input_ids[0]]
    assert family.base.config.vocab_size == case.rows


@pytest.mark.parametrize(("architecture", "tied"), MODELS)
@pytest.mark.parametrize("name", ["the same token at other ids", "gap in the base's ids", "gap behind the base's rows"])
def test_exports_load_and_answer_as_the_engine(
    tmp_path: Path, name: str, architecture: Architecture, tied: bool
) -> None:
    case = CASES[name]
    family = union_family(tmp_path, *make_case(tmp_path, case, architecture, tied, torch.bfloat16))
    materialiser, genome = materialiser_of(family), genome_of(*COEFFICIENTS)
    engine = TransformersEngine(TransformersEngineConfig(device="cpu"), materialiser)
    engine.load(genome)
    out = tmp_path / "out"
    write_candidate(genome, materialiser, out)
    verify_checkpoint(genome, materialiser, out)
    tokenizer: Any = AutoTokenizer.from_pretrained(out)
    model: Any = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    text = "".join(f"{token}x" for token in case.ids)
    assert tokenizer.get_vocab() == family_tokenizer(family).get_vocab()
    assert tokenizer(text).input_ids == engine.encode(text)
    assert [number for number in engine.encode(text) if number >= VOCABULARY] == list(case.ids.values())
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert AutoConfig.from_pretrained(out).vocab_size == case.rows == model.get_output_embeddings().weight.shape[0]
    with torch.inference_mode():
        tokens = torch.tensor([engine.encode(text)])
        assert torch.equal(model(tokens).logits, engine.model(tokens).logits)
    engine.close()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_token_of_one_expert_keeps_its_row_whatever_the_coefficients(tmp_path: Path, dtype: torch.dtype) -> None:
    folders = make_case(tmp_path, CASES["other tokens at the same ids"], "llama", False, torch.bfloat16)
    tensors = load_file(folders[1] / "model.safetensors")
    save_file({name: each.to(dtype) for name, each in tensors.items()}, folders[1] / "model.safetensors")
    family = union_family(tmp_path, *folders)
    first, second = (load_file(folder / "model.safetensors") for folder in folders[1:])
    for coefficients in ((0, 0), (1, 0), (0.3, -0.7), (1.7, 0.9)):
        for name, tensor in tensors_of(family, *coefficients).items():
            if name in ("model.embed_tokens.weight", "lm_head.weight"):
                assert torch.equal(tensor[100:102], first[name][100:].bfloat16())
                assert torch.equal(tensor[102:104], second[name][100:])


def test_mutations_along_singular_directions_cover_the_union(tmp_path: Path) -> None:
    family = union_family(tmp_path, *make_case(tmp_path, CASES["padded base"], "llama", False, torch.float32))
    genome = Genome(np.array([[0.5], [0.75]]), (Mutation("svd", 0, 7, 0.3, False),), np.ones((1, 1)))
    mutated = dict(materialiser_of(family, (0,)).tensors(genome))
    for name, tensor in tensors_of(family, *COEFFICIENTS).items():
        assert tensor.shape == mutated[name].shape
        assert tensor.ndim < 2 or not torch.equal(tensor, mutated[name])


def test_notices_say_which_tokens_come_from_whom_at_which_ids(tmp_path: Path) -> None:
    folders = make_case(tmp_path, CASES["the same token at other ids"], "llama", False, torch.bfloat16)
    result = plan(union_recipe(tmp_path, *folders), measure=False)
    assert result.errors == []
    assert [notice for notice in result.notices if notice.startswith("vocabulary")] == [
        "vocabulary: expert first adds '<|im_start|>' (id 100), '<|im_end|>' (id 101)",
        "vocabulary: expert second adds '<|im_start|>' (id 100, 102 in the expert), '<|im_end|>' (id 101), "
        "'<tool>' (id 102, 100 in the expert)",
        "vocabulary: 103 rows; the base has 100",
    ]


def test_the_first_model_decides_how_a_token_is_matched(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    experts = [make_grown(tmp_path / str(seed), Grown(rows=101), seed, base) for seed in (1, 2)]
    add_tokens(experts[0], {100: TOOL}, lstrip=True)
    add_tokens(experts[1], {100: TOOL}, special=False)
    family = union_family(tmp_path, base, *experts)
    assert check_family(family).notices[-1] == (
        "expert second: 1 added tokens have other properties than in an earlier model, which decides; first '<tool>': "
        "single_word false, lstrip false, rstrip false, normalized false, special false"
    )
    token = family_tokenizer(family).added_tokens_decoder[100]
    assert (token.lstrip, token.special) == (True, True)


def test_an_added_token_that_is_a_word_of_the_base_is_matched_as_a_whole(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    stated = json.loads((base / "tokenizer.json").read_text())
    stated["model"]["vocab"]["[TOOL]"] = 100
    (base / "tokenizer.json").write_text(json.dumps(stated))
    set_rows(base, 101, seed=0)
    first, second = (make_expert(base, tmp_path / name, seed) for seed, name in ((1, "first"), (2, "second")))
    add_tokens(first, {100: "[TOOL]"})
    family = union_family(tmp_path, base, first, second)
    assert check_family(family).notices == [
        "vocabulary: added tokens of an expert that the base's tokenizer already has as words: '[TOOL]' (id 100)"
    ]
    assert family_tokenizer(family)("[TOOL]").input_ids == [100]
    assert family.base.weights[0].shape[0] in (101, 32)


def test_a_chat_template_of_an_expert_finds_its_tokens(tmp_path: Path) -> None:
    base, first, second = make_case(tmp_path, CASES["the same token at other ids"], "llama", False, torch.bfloat16)
    template = CHAT_TEMPLATE.replace("{{ message.role[0] }}: ", IM_START).replace("\n", IM_END)
    (second / "chat_template.jinja").write_text(template)
    family = union_family(tmp_path, base, first, second, chat_template="second")
    engine = TransformersEngine(TransformersEngineConfig(device="cpu"), materialiser_of(family))
    tokens = engine.encode(engine.render([{"role": "user", "content": "hi"}]))
    assert (tokens[0], tokens[3]) == (100, 101)  # 102 and 101 in the expert's own tokenizer
    assert 101 in end_tokens(family).ids
    engine.close()


def test_singular_bases_of_a_different_union_are_not_reused(tmp_path: Path) -> None:
    base, first, second = make_case(tmp_path, CASES["other tokens at the same ids"], "llama", False, torch.float32)
    folders = {
        basis_folder(family, family_index)
        for family, family_index in (
            (union_family(tmp_path, base, first, second), 0),
            (union_family(tmp_path, base, second, first), 1),
            (union_family(tmp_path, base, first, base), 0),
        )
    }
    assert len(folders) == 3


def test_equal_inputs_give_equal_models_in_every_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = make_case(tmp_path / "one", CASES["the same token at other ids"], "llama", False, torch.float32)
    one = union_family(tmp_path / "one", *folders)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    monkeypatch.setenv("CYCLEQD_CACHE", str(tmp_path / "cache"))
    two = union_family(tmp_path / "two", *(tmp_path / "two" / folder.name for folder in folders))
    assert one.base.path != two.base.path
    assert one.base.digest == two.base.digest
    assert [each.digest for each in one.experts] == [each.digest for each in two.experts]
    assert one.base.digest != load_digest(folders[0], tmp_path)


def load_digest(base: Path, folder: Path) -> str:
    other = make_expert(make_base(folder / "other"), folder / "tuned", 1)
    recipe = make_recipe(folder, base, {"first": other, "second": other})
    return open_base(recipe.pinned_models()).digest


def test_nothing_to_join_leaves_the_models_as_they_are(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    experts = [make_expert(base, tmp_path / name, seed) for seed, name in ((1, "first"), (2, "second"))]
    family = union_family(tmp_path, base, *experts)
    assert require_mergeable(family) == []
    assert [family.base.path, *(each.folder for each in family.experts)] == [base, *experts]
    strict = open_recipe_family(make_recipe(tmp_path, base, {"first": experts[0], "second": experts[1]}))
    assert family.base.digest == strict.base.digest


def test_a_base_in_shards_is_copied_shard_by_shard(tmp_path: Path) -> None:
    base, first, second = make_case(tmp_path, CASES["other tokens at the same ids"], "llama", False, torch.float32)
    whole = tensors_of(union_family(tmp_path, base, first, second), *COEFFICIENTS)
    for folder in (base, first):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
        (folder / "model.safetensors").unlink()
        model.save_pretrained(folder, max_shard_size="20KB")
    family = union_family(tmp_path, base, first, second)
    links = [path.is_symlink() for path in family.base.path.glob("*.safetensors")]
    assert any(links)
    assert not all(links)
    sharded = tensors_of(family, *COEFFICIENTS)
    assert sharded.keys() == whole.keys()
    assert all(torch.equal(sharded[name], whole[name]) for name in whole)


def different_tokenizer(folder: Path) -> None:
    make_tokenizer(added=("extra",)).save_pretrained(folder)


def no_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


def other_width(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "lm_head.weight": tensors["lm_head.weight"][:, :16].contiguous()}, path)


@pytest.mark.parametrize(
    ("model", "spoil", "error"),
    [
        (
            "first",
            different_tokenizer,
            "expert first: its tokenizer differs in 1 token other than added tokens; first 'extra': id 100, in the "
            "base None; `models.vocabulary: union` joins added tokens only",
        ),
        ("base", no_tokenizer, "base: has no tokenizer; `models.vocabulary: union` requires one, to know its tokens"),
        (
            "first",
            no_tokenizer,
            "expert first: has 102 rows in its vocabulary, the base has 100, and no tokenizer that says which tokens "
            "they are; add its tokenizer's files, or drop its added rows with `models.vocabulary: base`",
        ),
        ("first", other_width, "expert first: tensor lm_head.weight: shape (102, 16), the base has (100, 32)"),
    ],
)
def test_what_cannot_be_joined_is_one_line_before_any_work(tmp_path: Path, model: str, spoil: Any, error: str) -> None:
    folders = make_case(tmp_path, CASES["one expert adds"], "llama", False, torch.bfloat16)
    spoil(tmp_path / model)
    with pytest.raises(ModelError) as raised:
        union_family(tmp_path, *folders)
    assert str(raised.value) == error
    assert error in plan(union_recipe(tmp_path, *folders), measure=False).errors


def test_no_room_for_the_copies_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = make_case(tmp_path, CASES["one expert adds"], "llama", False, torch.bfloat16)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: replace_free(usage))
    with pytest.raises(
        ModelError, match=r"disk: copies of the models in one vocabulary .* require .* 10 bytes available"
    ):
        union_family(tmp_path, *folders)


def replace_free(usage: Any) -> Any:
    return type(usage)(usage.total, usage.used, 10)


def test_mergekit_configurations_are_built_on_the_same_vocabulary(tmp_path: Path) -> None:
    base, first, second = make_case(tmp_path, CASES["the same token at other ids"], "llama", False, torch.float32)
    family = union_family(tmp_path, base, first, second)
    text = (
        f"merge_method: task_arithmetic\nbase_model: {base}\ndtype: float32\nmodels:\n"
        f"- {{model: {first}, parameters: {{weight: 0.5}}}}\n- {{model: {second}, parameters: {{weight: 0.75}}}}\n"
    )
    candidate, materialiser = MergekitConfiguration(text, 0), materialiser_of(family)
    built, wanted = dict(candidate_tensors(candidate, materialiser)), tensors_of(family, *COEFFICIENTS)
    assert all(torch.equal(built[name], wanted[name]) for name in wanted)
    write_candidate(candidate, materialiser, tmp_path / "out")
    verify_checkpoint(candidate, materialiser, tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out")(TOOL).input_ids == [102]
    assert candidate_configuration(candidate, materialiser, EvolutionConfig()).splitlines()[0] == (
        "# mergekit cannot rebuild this model: its vocabulary joins those of its models"
    )


@pytest.mark.parametrize("name", ["plain", "a space + a plus"])
@pytest.mark.parametrize("mutations", [(), (Mutation("svd", 1, 7, 0.3, False),)])
def test_the_merge_command_rebuilds_a_union_exactly(tmp_path: Path, mutations: tuple[Mutation, ...], name: str) -> None:
    folders = make_case(tmp_path / name, CASES["the same token at other ids"], "llama", False, torch.bfloat16)
    family = union_family(tmp_path, *folders)
    genome = Genome(np.array([[0.5], [0.75]]), mutations, np.ones((len(mutations), 1)))
    materialiser = materialiser_of(family, (1,))
    text = candidate_configuration(genome, materialiser, EvolutionConfig())
    assert text.splitlines()[0] == "# cycleqd-merge merge mergekit_config.yml OUT"
    (tmp_path / "config.yml").write_text(text)
    merge_to_disk(tmp_path / "config.yml", tmp_path / "out")
    rebuilt = (
        load_file(tmp_path / "out" / "model.safetensors") if (tmp_path / "out" / "model.safetensors").is_file() else {}
    )
    for path in (tmp_path / "out").glob("model-*.safetensors"):
        rebuilt |= load_file(path)
    for name, tensor in materialiser.tensors(genome):
        assert torch.equal(rebuilt[name], tensor), name
    assert AutoTokenizer.from_pretrained(tmp_path / "out")(TOOL).input_ids == [102]


def test_an_adapter_cannot_hold_a_union(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    adapter = on_base(base, make_adapter(base, tmp_path / "adapter", 1))
    grown = make_grown(tmp_path / "grown", Grown({100: TOOL}, 101), 2, base)
    with pytest.raises(ModelError, match="union adds tokens to the base, which an adapter on it cannot"):
        require_adapters(union_family(tmp_path, base, adapter, grown))
    require_adapters(union_family(tmp_path, base, adapter, adapter))


def test_adapters_of_the_base_join_a_union(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float32)
    adapter = on_base(base, make_adapter(base, tmp_path / "adapter", 1))
    grown = make_grown(tmp_path / "grown", Grown({100: TOOL}, 101), 2, base)
    family = union_family(tmp_path, base, adapter, grown)
    require_mergeable(family)
    built = dict(materialiser_of(family).tensors(expert_genome(1, 2, 1)))
    own = load_file(grown / "model.safetensors")
    assert all(torch.allclose(built[name], own[name]) for name in own)


def resized_adapter(base: Path, folder: Path, tokens: Mapping[int, str], **options: Any) -> tuple[str, dict[str, Any]]:
    """An adapter on a resized base as peft saves it, with its tokenizer; and the model as peft merges it."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(3)
        model.resize_token_embeddings(VOCABULARY + len(tokens), mean_resizing=False)
        adapted: Any = peft.get_peft_model(model, peft.LoraConfig(r=4, task_type="CAUSAL_LM", **options))
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        adapted.save_pretrained(str(folder))
        merged = {name: each.detach().clone() for name, each in adapted.merge_and_unload().state_dict().items()}
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, folder)
    add_tokens(folder, tokens)
    return on_base(base, folder), merged


ADAPTERS: dict[str, dict[str, Any]] = {
    "saved whole": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "saved after a resize": {"target_modules": ["q_proj", "v_proj"]},
    "factors of the embeddings": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
}


@pytest.mark.parametrize("mutated", [False, True])
@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_on_a_resized_base_bring_their_tokens(tmp_path: Path, name: str, mutated: bool) -> None:
    case = CASES["the same token at other ids"]
    base = make_base(tmp_path / "base", dtype=torch.float32)
    full = make_grown(tmp_path / "full", case.first, 1, base)
    adapter, merged = resized_adapter(base, tmp_path / "adapter", case.second.tokens, **ADAPTERS[name])
    family = union_family(tmp_path, base, full, adapter)
    assert [notice for notice in require_mergeable(family) if "rows" in notice] == [
        "vocabulary: 103 rows; the base has 100"
    ]
    own = [load_file(base / "model.safetensors"), load_file(full / "model.safetensors"), merged]
    built = tensors_of(family, *COEFFICIENTS)
    for weight in family.weights:
        parts = [each[weight.name].numpy() for each in own]
        if weight.vocabulary_axis is not None:
            wanted = expected_rows(case, parts)
        else:
            wanted = parts[0] + sum(
                np.float32(c) * (p - parts[0]) for c, p in zip(COEFFICIENTS, parts[1:], strict=True)
            )
        np.testing.assert_allclose(built[weight.name].numpy(), wanted, rtol=1e-5, atol=1e-5)
    if mutated:
        genome = Genome(np.array([[0.5], [0.75]]), (Mutation("svd", 1, 7, 0.3, False),), np.ones((1, 1)))
        assert all(torch.isfinite(each).all() for _, each in materialiser_of(family, (1,)).tensors(genome))
    text = (
        f"merge_method: task_arithmetic\nbase_model: {base}\ndtype: float32\nmodels:\n"
        f"- {{model: {full}, parameters: {{weight: 0.5}}}}\n- {{model: {adapter}, parameters: {{weight: 0.75}}}}\n"
    )
    by_mergekit = dict(candidate_tensors(MergekitConfiguration(text, 0), materialiser_of(family)))
    for tensor, values in by_mergekit.items():
        torch.testing.assert_close(values, built[tensor], rtol=1e-5, atol=1e-6)


def test_factors_of_embeddings_that_were_not_resized_join_a_union(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float32)
    adapter = make_adapter(base, tmp_path / "adapter", 1, target_modules=["embed_tokens", "lm_head"])
    grown = make_grown(tmp_path / "grown", Grown({100: TOOL}, 101), 2, base)
    family = union_family(tmp_path, base, on_base(base, adapter), grown)
    require_mergeable(family)
    alone = open_recipe_family(make_recipe(tmp_path, base, {"first": on_base(base, adapter), "second": base}))
    wanted, built = tensors_of(alone, 0.5, 0), tensors_of(family, 0.5, 0)
    own = load_file(grown / "model.safetensors")
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        torch.testing.assert_close(built[name][:VOCABULARY], wanted[name])
        assert torch.equal(built[name][VOCABULARY:], own[name][VOCABULARY:])


def test_single_trained_tokens_that_would_move_are_refused(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float32)
    tokens = {100: TOOL, 101: IM_END}
    options = {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [100, 101]}}
    adapter, _ = resized_adapter(base, tmp_path / "adapter", tokens, **options)
    full = make_grown(tmp_path / "full", Grown({100: IM_START}, 101), 1, base)
    with pytest.raises(ModelError) as raised:
        union_family(tmp_path, base, full, adapter)
    assert str(raised.value) == (
        "expert second: its adapter trains single tokens of model.embed_tokens.weight, which have other ids in the "
        "union; merge the adapter into a full checkpoint"
    )
    require_mergeable(union_family(tmp_path, base, adapter, full))


def tiny(config: type[PretrainedConfig], **more: Any) -> PretrainedConfig:
    shared = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3}
    return config(**{**shared, "intermediate_size": 48, **ids, **more})


OTHER_CONFIGS = {
    "phi, whose head has a bias": tiny(transformers.PhiConfig),
    "gpt-neox": tiny(transformers.GPTNeoXConfig),
    "falcon": tiny(transformers.FalconConfig),
    "gemma2": tiny(transformers.Gemma2Config, head_dim=8, num_key_value_heads=2),
    "mixtral": tiny(transformers.MixtralConfig, num_key_value_heads=2, num_local_experts=2),
    "qwen3-moe": tiny(
        transformers.Qwen3MoeConfig,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=16,
    ),
}


@pytest.mark.parametrize("name", OTHER_CONFIGS)
def test_a_child_that_is_one_expert_answers_as_the_expert(tmp_path: Path, name: str) -> None:
    """The logits of the expert's own tokens, whose ids in the union are others."""
    folders, models = [], []
    for seed, (label, added) in enumerate({"base": (), "first": (IM_START,), "second": (TOOL, IM_START)}.items()):
        torch.manual_seed(seed)
        model: Any = AutoModelForCausalLM.from_config(OTHER_CONFIGS[name]).float()
        model.resize_token_embeddings(VOCABULARY + len(added), mean_resizing=False)
        head = model.get_output_embeddings()
        if head.bias is not None:
            torch.nn.init.normal_(head.bias)
        model.save_pretrained(tmp_path / label)
        make_tokenizer().save_pretrained(tmp_path / label)
        add_tokens(tmp_path / label, dict(enumerate(added, start=VOCABULARY)))
        folders.append(tmp_path / label)
        models.append(AutoModelForCausalLM.from_pretrained(tmp_path / label, dtype=torch.float32))
    family = union_family(tmp_path, *folders)
    require_mergeable(family)
    engine = TransformersEngine(TransformersEngineConfig(device="cpu"), materialiser_of(family))
    engine.load(genome_of(0, 1))
    own: Any = AutoTokenizer.from_pretrained(folders[2])
    text = f"{TOOL}ab{IM_START}c"
    ids = [*range(VOCABULARY), 101, 100]  # of the union, in the order of the expert's
    assert (own(text).input_ids[0], engine.encode(text)[0]) == (100, 101)
    with torch.inference_mode():
        found = engine.model(torch.tensor([engine.encode(text)])).logits[..., ids]
        wanted = models[2](own(text, return_tensors="pt").input_ids).logits
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    engine.close()
    write_candidate(genome_of(0, 1), materialiser_of(family), tmp_path / "out")
    verify_checkpoint(genome_of(0, 1), materialiser_of(family), tmp_path / "out")


@pytest.mark.parametrize(
    ("stated", "wanted"),
    [
        ({"vocab_size": 100}, {"vocab_size": 103}),
        ({"model_type": "a"}, {"model_type": "a", "vocab_size": 103}),
        ({"text_config": {"vocab_size": 100}}, {"text_config": {"vocab_size": 103}}),
        (
            {"vocab_size": 100, "text_config": {"vocab_size": 100}, "vision_config": {"vocab_size": 100}},
            {"vocab_size": 103, "text_config": {"vocab_size": 103}, "vision_config": {"vocab_size": 100}},
        ),
    ],
)
def test_the_configuration_states_the_rows_where_it_states_the_vocabulary(stated: Any, wanted: Any) -> None:
    assert with_rows(stated, 103) == wanted


def old_style(folder: Path) -> None:
    """As transformers 4 saves it: added tokens in three files."""
    tokens = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}
    decoder = {str(number): {"content": token, **FLAGS} for token, number in tokens.items()}
    edit_json(folder / "tokenizer_config.json", added_tokens_decoder=decoder)
    (folder / "added_tokens.json").write_text(json.dumps(tokens))


def pad_only_in_the_configuration(folder: Path) -> None:
    """A token that transformers adds as it opens the tokenizer; its id is that of the expert's first added token."""
    edit_json(folder / "tokenizer_config.json", pad_token="[PAD]")


def vocabulary_and_merges(folder: Path) -> None:
    """Without tokenizer.json, as old GPT-2 models are."""
    stated = json.loads((folder / "tokenizer.json").read_text())
    (folder / "vocab.json").write_text(json.dumps(stated["model"]["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer.json").unlink()
    edit_json(folder / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")


@pytest.mark.parametrize(
    ("change", "number"), [(old_style, 100), (pad_only_in_the_configuration, 101), (vocabulary_and_merges, 100)]
)
def test_the_tokenizers_that_people_have(tmp_path: Path, change: Any, number: int) -> None:
    base = make_base(tmp_path / "base")
    change(base)
    first = make_expert(base, tmp_path / "first", 1)
    second = make_expert(base, tmp_path / "second", 2)
    tokenizer: Any = AutoTokenizer.from_pretrained(second)
    assert tokenizer.add_tokens([IM_START], special_tokens=True) == 1
    tokenizer.save_pretrained(second)
    set_rows(second, 102, seed=2)
    files = {path: path.read_bytes() for folder in (base, first, second) for path in folder.iterdir()}
    family = union_family(tmp_path, base, first, second)
    require_mergeable(family)
    ours = AutoTokenizer.from_pretrained(base).get_vocab()
    write_candidate(genome_of(1, 1), materialiser_of(family), tmp_path / "out")
    for folder in (family.base.path, tmp_path / "out"):
        found: Any = AutoTokenizer.from_pretrained(folder)
        assert found.get_vocab() == {**ours, IM_START: number}
        assert found(f"a{IM_START}b").input_ids == [ours["a"], number, ours["b"]]
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    if change is old_style:
        assert config["added_tokens_decoder"][str(number)] == {"content": IM_START, **FLAGS}
        assert json.loads((tmp_path / "out" / "added_tokens.json").read_text())[IM_START] == number
    assert all(path.read_bytes() == contents for path, contents in files.items())  # no link was written through


def test_an_untied_base_takes_both_tensors_of_a_tied_expert_from_its_one(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float32)
    first = make_grown(tmp_path / "first", Grown({100: IM_START}, 101), 1, base)
    second = make_grown(tmp_path / "second", Grown({100: TOOL}, 101), 2, base)
    tensors = load_file(second / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, second / "model.safetensors", {"format": "pt"})
    edit_json(second / "config.json", tie_word_embeddings=True)
    family = union_family(tmp_path, base, first, second)
    built, embedding = tensors_of(family, 0, 1), tensors["model.embed_tokens.weight"]
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        torch.testing.assert_close(built[name][:VOCABULARY], embedding[:VOCABULARY])
        assert torch.equal(built[name][101], embedding[100])
        assert torch.equal(built[name][100], load_file(first / "model.safetensors")[name][100])


def test_a_run_resumes_and_exports_models_that_know_all_tokens(tmp_path: Path) -> None:
    folders = make_case(tmp_path, CASES["the same token at other ids"], "llama", False, torch.bfloat16)
    named = dict(zip(("first", "second"), folders[1:], strict=True))

    def recipe(output: str, generations: int) -> Recipe:
        return make_recipe(
            tmp_path / output,
            folders[0],
            named,
            models={"vocabulary": "union"},
            evolution={"generations": generations},
            engine={"kind": "transformers", "device": "cpu"},
            finish={"export": ["best-mean"]},
        )

    ours, _, resumed = evolve(recipe("whole", 3)), evolve(recipe("half", 1)), evolve(recipe("half", 3))
    assert [result["scores"] for result in ours.results] == [result["scores"] for result in resumed.results]
    exports = [tmp_path / name / "run" / "models" / "best-mean-gen-3" for name in ("whole", "half")]
    one, other = (load_file(each / "model.safetensors") for each in exports)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert AutoTokenizer.from_pretrained(exports[0])(TOOL).input_ids == [102]
