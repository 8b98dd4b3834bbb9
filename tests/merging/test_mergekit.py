"""Genomes and their mergekit configurations build the same tensors."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from mergekit.config import MergeConfiguration, evaluate_setting
from mergekit.scripts.run_yaml import main as mergekit_yaml
from transformers import AutoTokenizer
from typer.testing import CliRunner

from cycleqd_merge.cli import app
from cycleqd_merge.config.engines import TransformersEngineConfig
from cycleqd_merge.config.evolution import EvolutionConfig
from cycleqd_merge.errors import InfrastructureError, UserError
from cycleqd_merge.evaluation.engines.transformers_engine import TransformersEngine
from cycleqd_merge.evolution.candidate import MergekitConfiguration, candidate_from_json
from cycleqd_merge.evolution.draws import generator
from cycleqd_merge.evolution.genome import Genome, Mutation, expert_genome
from cycleqd_merge.files import new_folder
from cycleqd_merge.merging import mergekit_adapters
from cycleqd_merge.merging.bases import prepare_bases
from cycleqd_merge.merging.checkpoint import Weight
from cycleqd_merge.merging.family import ModelFamily
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.mergekit_config import configuration_text, tensor_filters
from cycleqd_merge.merging.mergekit_run import merge_to_disk, merged_tensors, write_merge
from tests.failing_disk import files_of_at_most
from tests.merging.conftest import Trio, make_trio
from tests.models import (
    edit_json,
    make_base,
    make_expert,
    make_recipe,
    on_base,
    open_recipe_family,
    read_tensors,
    write_tensors,
)

GROUPS = [
    {"groups": "one"},
    {"groups": {"layers": 1}},
    {"groups": {"layers": 1, "modules": True}},
    {"groups": {"modules": True}},
    {"groups": {"patterns": [r"(q|k)_proj|c_attn", r"\.1\..*(mlp|ln_2)", "norm.weight$"]}},
]
MUTATIONS = (
    Mutation("svd", 0, 11, 0.5),
    Mutation("svd", 1, 12, 0.5, signed=True),
    Mutation("gaussian", None, 13, 0.01),
    Mutation("svd", 0, 14, 0.2),
)
Tensors = Mapping[str, torch.Tensor]


@pytest.fixture(
    scope="module",
    params=[
        ("llama", False, torch.float16),
        ("llama", True, torch.bfloat16),
        ("qwen2", False, torch.float32),
        ("qwen2", True, torch.bfloat16),
        ("gpt2", True, torch.bfloat16),
    ],
    ids=lambda case: f"{case[0]}-{'tied' if case[1] else 'untied'}-{str(case[2]).removeprefix('torch.')}",
)
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trio:
    return make_trio(tmp_path_factory.mktemp("models"), *request.param)


def materialiser_of(family: ModelFamily, setting: EvolutionConfig, mutated: Sequence[int] = ()) -> Materialiser:
    return Materialiser(family, Groups(family.weights, setting.groups), prepare_bases(family, mutated))


def family_of(folder: Path, base: Path, *experts: Path | str, **recipe: object) -> ModelFamily:
    named = {f"e{number}": expert for number, expert in enumerate(experts)}
    return open_recipe_family(make_recipe(folder, base, named, **recipe))


def genome_of(family: ModelFamily, groups: int, seed: int, mutations: tuple[Mutation, ...] = ()) -> Genome:
    """Coefficients around 0.4, some negative, one 0."""
    rng = generator(seed, "genome")
    coefficients = rng.normal(0.4, 0.5, (len(family.experts), groups))
    coefficients[-1, -1] = 0.0
    return Genome(coefficients, mutations, rng.normal(0.8, 0.3, (len(mutations), groups)))


def stock(text: str, folder: Path, *options: str) -> dict[str, torch.Tensor]:
    """The tensors that stock mergekit builds from a configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yml").write_text(text)
    lora = ["--lora-merge-cache", str(folder / "lora"), "--lora-merge-dtype", "float32"]
    arguments = [str(folder / "config.yml"), str(folder / "out"), "--quiet", *lora, *options]
    mergekit_yaml.main(arguments, standalone_mode=False)
    return read_tensors(folder / "out")


def ours(text: str, folder: Path) -> dict[str, torch.Tensor]:
    """The tensors that `cycleqd-merge merge` builds from a configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yml").write_text(text)
    result = CliRunner().invoke(app, ["merge", str(folder / "config.yml"), str(folder / "out")])
    assert (result.exit_code, result.output) == (0, ""), result.exception
    assert sorted(path.name for path in folder.iterdir()) == ["config.yml", "out"]
    return read_tensors(folder / "out")


def steps(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Distances between values in representable numbers: 0 for equal ones, 1 for adjacent ones."""
    assert one.dtype == other.dtype
    kind = {2: torch.int16, 4: torch.int32}[one.element_size()]

    def place(tensor: torch.Tensor) -> torch.Tensor:
        bits = tensor.contiguous().view(kind).long()
        return torch.where(bits < 0, torch.iinfo(kind).min - bits, bits)

    return (place(one) - place(other)).abs()


def assert_same(found: Tensors, wanted: Tensors) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def assert_close(pairs: list[tuple[Tensors, Tensors]]) -> None:
    """Check that 99.999% of all values are equal, and none differ by more than one unit in the last place."""
    apart = []
    for found, wanted in pairs:
        assert found.keys() == wanted.keys()
        apart += [steps(found[name], tensor).flatten() for name, tensor in wanted.items()]
    distances = torch.cat(apart)
    assert len(distances) > 100_000
    assert float((distances == 0).double().mean()) >= 0.99999
    assert int(distances.max()) <= 1


@pytest.mark.parametrize("setting", GROUPS, ids=["one", "layers", "layers x modules", "modules", "patterns"])
def test_stock_mergekit_rebuilds_full_checkpoints_bit_for_bit(models: Trio, setting: dict, tmp_path: Path) -> None:
    evolution = EvolutionConfig.model_validate(setting)
    family = family_of(tmp_path, models.base, *models.experts[:2])
    materialiser = materialiser_of(family, evolution)
    genome = genome_of(family, len(materialiser.groups), seed=1)
    text = configuration_text(genome, materialiser, evolution)
    assert yaml.safe_load(text)["merge_method"] == "task_arithmetic"
    assert_same(stock(text, tmp_path / "merge"), dict(materialiser.tensors(genome)))


def test_stock_mergekit_rebuilds_adapters_within_one_unit(models: Trio, tmp_path: Path) -> None:
    evolution = EvolutionConfig.model_validate({"groups": {"layers": 1, "modules": True}})
    family, pairs = models.family, []
    materialiser = materialiser_of(family, evolution)
    for seed in range(6):
        genome = genome_of(family, len(materialiser.groups), seed)
        text = configuration_text(genome, materialiser, evolution)
        pairs.append((stock(text, tmp_path / str(seed)), dict(materialiser.tensors(genome))))
    assert_close(pairs)


def test_the_command_in_an_export_s_configuration_runs(llama: Trio, tmp_path: Path) -> None:
    materialiser = llama.materialiser()
    genome = genome_of(llama.family, 1, seed=5)
    (tmp_path / "mergekit_config.yml").write_text(configuration_text(genome, materialiser, EvolutionConfig()))
    command = (tmp_path / "mergekit_config.yml").read_text().splitlines()[0].removeprefix("# ").split()
    command[0] = str(Path(sys.executable).parent / command[0])
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert_same(read_tensors(tmp_path / "OUT"), dict(materialiser.tensors(genome)))


def test_mutations_are_rebuilt_by_the_command_line(models: Trio, tmp_path: Path) -> None:
    evolution = EvolutionConfig.model_validate({"groups": {"layers": 1, "modules": True}})
    family = family_of(tmp_path, models.base, *models.experts[:2])
    materialiser = materialiser_of(family, evolution, (0, 1))
    genome = genome_of(family, len(materialiser.groups), 2, MUTATIONS)
    text = configuration_text(genome, materialiser, evolution)
    assert yaml.safe_load(text)["merge_method"] == "cycleqd"
    assert_same(ours(text, tmp_path / "merge"), dict(materialiser.tensors(genome)))


def test_mutations_of_adapters_are_rebuilt_within_one_unit(models: Trio, tmp_path: Path) -> None:
    evolution = EvolutionConfig.model_validate({"groups": {"layers": 1}})
    materialiser, pairs = materialiser_of(models.family, evolution, (0, 1, 2)), []
    for seed in range(6):
        genome = genome_of(models.family, 3, seed, (*MUTATIONS, Mutation("svd", 2, 15, 0.5)))
        text = configuration_text(genome, materialiser, evolution)
        pairs.append((ours(text, tmp_path / str(seed)), dict(materialiser.tensors(genome))))
    assert_close(pairs)


def test_different_singular_bases_are_reported(llama: Trio, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    materialiser = llama.materialiser()
    text = configuration_text(genome_of(llama.family, 1, 3, MUTATIONS), materialiser, EvolutionConfig())
    ours(text, tmp_path / "same")
    assert not caplog.records
    ours(text.replace(materialiser.bases[1].digest, "0" * 16), tmp_path / "other")
    assert "singular basis of expert 2 differs from the one" in caplog.text


def test_a_checkpoint_of_several_dtypes_is_rebuilt_in_float32(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    mixed = {name: tensor.float() if "norm" in name else tensor for name, tensor in read_tensors(base).items()}
    write_tensors(base, mixed)
    family = family_of(tmp_path, base, *(make_expert(base, tmp_path / str(seed), seed) for seed in (1, 2)))
    materialiser = materialiser_of(family, EvolutionConfig(), (0, 1))
    for mutations, run in (((), stock), (MUTATIONS, ours)):
        genome = genome_of(family, 1, 4, mutations)
        text = configuration_text(genome, materialiser, EvolutionConfig())
        assert "out_dtype" not in yaml.safe_load(text)
        built = run(text, tmp_path / f"merge-{len(mutations)}")
        assert {tensor.dtype for tensor in built.values()} == {torch.float32}
        wanted = dict(materialiser.tensors(genome))
        assert_same({name: tensor.to(wanted[name].dtype) for name, tensor in built.items()}, wanted)


def test_added_vocabulary_is_left_out(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    experts = [make_expert(base, tmp_path / str(seed), seed) for seed in (1, 2)]
    grown = read_tensors(experts[0])
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        grown[name] = torch.cat([grown[name], torch.ones_like(grown[name][:3])])
    write_tensors(experts[0], grown)
    edit_json(experts[0] / "config.json", vocab_size=len(grown["lm_head.weight"]))
    family = family_of(tmp_path, base, *experts, models={"vocabulary": "base"})
    materialiser = materialiser_of(family, EvolutionConfig(), (0, 1))
    plain, mutated = genome_of(family, 1, 4), genome_of(family, 1, 4, MUTATIONS)
    text = configuration_text(plain, materialiser, EvolutionConfig())
    assert text.splitlines()[0].endswith(" --unsafe-truncate-embeddings")
    wanted = dict(materialiser.tensors(plain))
    assert_same(stock(text, tmp_path / "plain", "--unsafe-truncate-embeddings"), wanted)
    assert_same(dict(merged_tensors(MergekitConfiguration(text), family)), wanted)
    text = configuration_text(mutated, materialiser, EvolutionConfig())
    assert_same(ours(text, tmp_path / "mutated"), dict(materialiser.tensors(mutated)))


def test_a_chosen_chat_template_is_included(llama: Trio, tmp_path: Path) -> None:
    (tmp_path / "chosen.jinja").write_text("{% for message in messages %}[{{ message.content }}]\n{% endfor %}")
    chosen = {"chat_template": str(tmp_path / "chosen.jinja")}
    family = family_of(tmp_path, llama.base, *llama.experts[:2], models=chosen)
    materialiser = materialiser_of(family, EvolutionConfig())
    stock(configuration_text(genome_of(family, 1, 4), materialiser, EvolutionConfig()), tmp_path / "merge")
    template = AutoTokenizer.from_pretrained(tmp_path / "merge" / "out").chat_template
    assert template == (tmp_path / "chosen.jinja").read_text()


@given(coefficients=st.lists(st.floats(-1e3, 1e3), min_size=7, max_size=7))
@settings(max_examples=30)
def test_coefficients_keep_every_bit(llama: Trio, coefficients: list[float]) -> None:
    evolution = EvolutionConfig.model_validate({"groups": {"layers": 1, "modules": True}})
    materialiser = materialiser_of(llama.family, evolution)
    groups = materialiser.groups
    values = np.array([coefficients[: len(groups)], [1.0 / 3] * len(groups), [1e-17] * len(groups)])
    text = configuration_text(Genome(values, (), np.zeros((0, len(groups)))), materialiser, evolution)
    read = MergeConfiguration.model_validate(yaml.safe_load(text))
    for model, wanted in zip(read.models, values, strict=True):
        for group in range(len(groups)):
            for name in groups.members(group):
                assert evaluate_setting(name, model.parameters["weight"], validate=float) == wanted[group]


NAMES = st.lists(st.sampled_from(["a", "b", "1", "11", "norm", "weight"]), min_size=1, max_size=4).map(".".join)


@given(parts=st.dictionaries(NAMES, st.integers(0, 2), min_size=1, max_size=12))
def test_filters_give_every_tensor_its_group(parts: dict[str, int]) -> None:
    """Even if the name of one tensor is part of the name of another."""
    patterns = [
        "^(" + "|".join(name.replace(".", r"\.") for name in parts if parts[name] == n) + ")$" for n in range(3)
    ]
    setting = EvolutionConfig.model_validate({"groups": {"patterns": patterns}}).groups
    groups = Groups([Weight(name, (2, 2), torch.float32) for name in parts], setting)
    stated = [{"value": group} | ({"filter": text} if text else {}) for text, group in tensor_filters(groups)]
    config = {"merge_method": "linear", "models": [{"model": "m", "parameters": {"weight": stated}}]}
    weight = MergeConfiguration.model_validate(config).models[0].parameters["weight"]
    for name in parts:
        assert evaluate_setting(name, weight, validate=int) == groups.of(name)


def test_filters_are_few(llama: Trio) -> None:
    groups = Groups(llama.family.weights, EvolutionConfig.model_validate({"groups": {"modules": True}}).groups)
    texts = {text: groups.labels[group] for text, group in tensor_filters(groups)}
    assert texts == {".mlp.": "mlp", ".self_attn.": "self_attn", None: "rest"}


def configuration(method: str, trio: Trio, base: str | None = None, **parameters: object) -> str:
    """A configuration over the first two experts; `parameters` are each model's."""
    first, second = map(str, trio.experts[:2])
    base = str(trio.base) if base is None else base
    models = [{"model": model, "parameters": parameters} for model in (first, second)]
    config = {"merge_method": method, "models": models, "dtype": "float32", "out_dtype": "bfloat16"}
    return yaml.safe_dump(config | ({"base_model": base} if base else {}))


def baselines(trio: Trio) -> dict[str, str]:
    first = str(trio.experts[0])
    slerp = yaml.safe_load(configuration("slerp", trio, base=first))
    slerp["parameters"] = {"t": [{"filter": "mlp", "value": [0.2, 0.7]}, {"value": 0.4}]}
    return {
        "ties": configuration("ties", trio, weight=0.6, density=0.5),
        "dare_ties": configuration("dare_ties", trio, weight=0.6, density=0.5),
        "della": configuration("della", trio, weight=0.6, density=0.5, epsilon=0.2),
        "linear": configuration("linear", trio, base="", weight=0.5),
        "model_stock": configuration("model_stock", trio),
        "slerp": yaml.safe_dump(slerp),
        "adapter": configuration("linear", trio, base="", weight=0.5).replace(
            str(trio.experts[1]), on_base(trio.base, trio.experts[2])
        ),
    }


@pytest.mark.parametrize("method", ["ties", "dare_ties", "della", "linear", "model_stock", "slerp", "adapter"])
def test_an_engine_loads_what_stock_mergekit_writes(trio: Trio, method: str, tmp_path: Path) -> None:
    text = baselines(trio)[method]
    engine = TransformersEngine(TransformersEngineConfig(device="cpu"), trio.materialiser())
    engine.load(MergekitConfiguration(text, seed=3))
    held = engine.model.state_dict()
    built = stock(text, tmp_path, "--random-seed", "3")
    assert {weight.name for weight in trio.family.weights} <= built.keys()
    for name, tensor in built.items():
        assert torch.equal(held[name], tensor), name
    engine.close()


def test_the_candidate_determines_random_draws(llama: Trio) -> None:
    text = baselines(llama)["dare_ties"]

    def built(seed: int) -> dict[str, torch.Tensor]:
        tensors = {}
        for name, tensor in merged_tensors(MergekitConfiguration(text, seed), llama.family):
            tensors[name] = tensor
            torch.rand(7)
        return tensors

    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = dict(merged_tensors(MergekitConfiguration(text, 4), llama.family))
    assert torch.equal(before, torch.get_rng_state())
    assert_same(built(4), one)
    other = built(5)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_a_mutated_genome_s_configuration_is_a_candidate_too(llama: Trio) -> None:
    materialiser = llama.materialiser()
    genome = genome_of(llama.family, 1, 8, MUTATIONS)
    text = configuration_text(genome, materialiser, EvolutionConfig())
    assert_same(dict(merged_tensors(MergekitConfiguration(text), llama.family)), dict(materialiser.tensors(genome)))


def test_refused_candidates(llama: Trio, tmp_path: Path) -> None:
    good = baselines(llama)["ties"]
    other = make_base(tmp_path / "gpt2", "gpt2")
    sliced = {
        "merge_method": "passthrough",
        "slices": [{"sources": [{"model": str(llama.base), "layer_range": [0, 1]}]}],
    }
    longer = {**sliced, "slices": [{"sources": [{"model": str(llama.base), "layer_range": [0, 2]}]}] * 2}
    loop = good.replace(str(llama.experts[1]), str(tmp_path / "none"))
    refused = {
        "a: [": "not a mergekit configuration: while parsing",
        "": "candidate: not a mergekit configuration: Input should be",
        "merge_method: ties": "Exactly one of 'models', 'slices', or 'modules'",
        "models: [{model: x}]": "merge_method: Field required",
        good.replace("ties", "no-such-method"): "no-such-method",
        good.replace("weight: 0.6", "width: 0.6"): "Missing required parameter weight",
        good.replace("0.6", "half"): "half",
        loop: "none",
        good.replace(str(llama.base), str(other)): "architectures",
        good + "tokenizer_source: union\n": "`tokenizer` cannot be set",
        yaml.safe_dump(sliced): "is missing; the base has it",
        yaml.safe_dump(longer): "tensor model.layers.2.",
        yaml.safe_dump(
            {"merge_method": "linear", "models": [{"model": str(other), "parameters": {"weight": 1}}]}
        ): "mergekit cannot build it: ",
    }
    for text, reason in refused.items():
        with pytest.raises(UserError) as caught:
            list(merged_tensors(MergekitConfiguration(text), llama.family))
        assert reason in str(caught.value)
        assert str(caught.value).startswith("candidate: ")
        assert "\n" not in str(caught.value)


def test_a_failing_disk_is_an_infrastructure_error(llama: Trio, tmp_path: Path) -> None:
    candidate = MergekitConfiguration(baselines(llama)["ties"])
    out = tmp_path / "out"
    expected = pytest.raises(InfrastructureError, match=rf"^{out}: cannot be written: File too large; ")
    with files_of_at_most(10_000), expected, new_folder(out) as unfinished:
        write_merge(candidate, llama.family, unfinished)
    config = tmp_path / "config.yml"
    config.write_text(candidate.yaml)
    with files_of_at_most(10_000), pytest.raises(InfrastructureError, match=rf"^{out}: cannot be written: File too "):
        merge_to_disk(config, out)
    assert list(tmp_path.iterdir()) == [config]


def test_the_command_line_refuses_what_it_cannot_merge(llama: Trio, tmp_path: Path) -> None:
    config = tmp_path / "config.yml"
    config.write_text(baselines(llama)["ties"].replace("ties", "no-such-method"))
    with pytest.raises(UserError, match="no-such-method"):
        merge_to_disk(config, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["config.yml"]
    config.write_text(baselines(llama)["ties"])
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="already exists"):
        merge_to_disk(config, tmp_path / "out")
    with pytest.raises(UserError, match="cannot be read"):
        merge_to_disk(tmp_path / "none.yml", tmp_path / "new")
    genome = configuration_text(genome_of(llama.family, 1, 3, MUTATIONS), llama.materialiser(), EvolutionConfig())
    config.write_text(genome.replace('"mutations"', '"mutants"'))
    with pytest.raises(UserError, match="invalid parameter `mutations`: "):
        merge_to_disk(config, tmp_path / "new")


def test_a_merged_adapter_is_never_outdated(llama: Trio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(llama.experts[2], adapter)
    text = baselines(llama)["adapter"].replace(str(llama.experts[2]), str(adapter))
    candidate, cache = MergekitConfiguration(text), tmp_path / "cache"
    monkeypatch.setenv("CYCLEQD_CACHE", str(cache))
    with monkeypatch.context() as broken:
        broken.setattr(mergekit_adapters, "_tensor", lambda *_: (_ for _ in ()).throw(RuntimeError("killed")))
        with pytest.raises(UserError, match="killed"):
            list(merged_tensors(candidate, llama.family))
    first = dict(merged_tensors(candidate, llama.family))
    assert_same(dict(merged_tensors(candidate, llama.family)), first)
    edit_json(adapter / "adapter_config.json", lora_alpha=64)
    second = dict(merged_tensors(candidate, llama.family))
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert len([path for path in (cache / "lora").iterdir() if path.is_dir()]) == 2


def test_candidates_as_json() -> None:
    for candidate in (MergekitConfiguration("models: []", seed=2), expert_genome(1, 3, 2)):
        assert candidate_from_json(candidate.to_json()) == candidate
