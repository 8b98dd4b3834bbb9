"""Models in folders of any name, and one clear line for a model that is not where its reference says."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from mergekit.config import MergeConfiguration

from cycleqd_merge.config.evolution import EvolutionConfig
from cycleqd_merge.config.loading import loaded_recipe
from cycleqd_merge.config.strategies import MergekitConfig
from cycleqd_merge.errors import UserError
from cycleqd_merge.evolution.genome import Genome, Mutation, level_genome
from cycleqd_merge.merging.bases import prepare_bases
from cycleqd_merge.merging.checks import check_family
from cycleqd_merge.merging.family import ModelFamily
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.merge_grid import static_merges
from cycleqd_merge.merging.mergekit_config import configuration_text
from cycleqd_merge.merging.mergekit_run import merged_tensors
from cycleqd_merge.merging.model_references import pinned_candidate, portable_candidate
from cycleqd_merge.merging.revisions import pin
from tests.merging.test_mergekit import assert_same, ours, stock
from tests.models import edit_json, make_adapter, make_base, make_expert, make_recipe, on_base, open_recipe_family

NAMES = [
    "with space",
    "llama+math",
    "model@v2",
    "a+b@c",
    "modèle-日本",
    "it's",
    'say "hello"',
    "c#1: [x] {y} & *z",
    "100% - new",
    "a\\b",
]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, two experts and an adapter."""
    folder = tmp_path_factory.mktemp("plain")
    base = make_base(folder / "base", "llama")
    for seed, name in enumerate(("one", "two")):
        make_expert(base, folder / name, seed)
    make_adapter(base, folder / "adapter", 3)
    return folder


def family_in(folder: Path, base: Path, *experts: Path | str, anchor: bool = True) -> ModelFamily:
    recipe = make_recipe(folder, base, {f"e{number}": each for number, each in enumerate(experts)})
    return open_recipe_family(loaded_recipe(recipe) if anchor else recipe)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_any_name_is_opened_and_merged(plain: Path, tmp_path: Path, name: str) -> None:
    """Base, expert and adapter; mergekit rebuilds the child from its configuration."""
    here = tmp_path / f"in {name}"
    for model in ("base", "one", "two", "adapter"):
        shutil.copytree(plain / model, here / f"{model} {name}")
    base, one, two, adapter = (here / f"{model} {name}" for model in ("base", "one", "two", "adapter"))
    recipe = loaded_recipe(make_recipe(tmp_path, base, {"x": one, "y": two, "z": f"{base}+{adapter}"}))
    family = open_recipe_family(recipe)
    assert [expert.folder for expert in family.experts] == [one, two, adapter]
    evolution = EvolutionConfig()
    materialiser = Materialiser(family, Groups(family.weights, "one"), prepare_bases(family, (0,)))
    only_full = Genome(level_genome(0.4, 3, 1).coefficients * [[1.0], [1.0], [0.0]], (), level_genome(0, 0, 1).shares)
    text = configuration_text(only_full, materialiser, evolution)
    assert MergeConfiguration.model_validate(yaml.safe_load(text))
    assert_same(stock(text, tmp_path / "stock"), dict(materialiser.tensors(only_full)))
    mutated = Genome(only_full.coefficients, (Mutation("svd", 0, 11, 0.5),), torch.ones(1, 1).numpy())
    assert_same(
        ours(configuration_text(mutated, materialiser, evolution), tmp_path / "own"),
        dict(materialiser.tensors(mutated)),
    )
    for candidate, _ in static_merges(recipe, MergekitConfig(kind="mergekit", methods=["linear", "task_arithmetic"])):
        assert set(dict(merged_tensors(candidate, family))) == {weight.name for weight in family.weights}
        assert pinned_candidate(candidate, recipe) == candidate
        assert str(tmp_path) not in yaml.safe_load(portable_candidate(candidate, recipe).yaml).__str__()


def test_configurations_of_plain_paths_are_as_mergekit_writes_them(plain: Path, tmp_path: Path) -> None:
    family = family_in(tmp_path, plain / "base", plain / "one", on_base(plain / "base", plain / "adapter"))
    materialiser = Materialiser(family, Groups(family.weights, "one"), {})
    text = configuration_text(level_genome(0.25, 2, 1), materialiser, EvolutionConfig())
    _, _, written = text.partition("\n")
    assert MergeConfiguration.model_validate(yaml.safe_load(written)).to_yaml() + "\n" == written


def test_a_base_is_the_same_model_by_any_path(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(plain / "base")
    (tmp_path / "up").symlink_to(plain)
    adapter = plain / "adapter"
    for base, on in (
        (str(tmp_path / "link"), plain / "base"),
        (str(plain / "base"), tmp_path / "link"),
        (f"{plain}/base/", tmp_path / "up" / "base"),
        (f"{plain}/one/../base", plain / "base"),
    ):
        family = family_in(tmp_path, Path(base), f"{on}+{adapter}", plain / "one")
        assert check_family(family).notices == []
    with pytest.raises(UserError, match=r"its adapter is for .*one, not for the recipe's base .*base$"):
        family_in(tmp_path, plain / "base", f"{plain / 'one'}+{adapter}", plain / "one")


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("models/llama/sq1", "did you mean @/models/llama/sql?"),
        ("models/lama/sql", "did you mean @/models/llama/sql?"),
        ("models/llama/zzz", "@/models/llama contains the folders math, sql"),
        ("models/empty/x/y", "@/models/empty contains no folders"),
        ("nothing/like/it", "@ contains the folders models"),
        ("models/llama/config.json", "@/models/llama/config.json is a file"),
        ("./modles", "did you mean @/models?"),
    ],
)
def test_a_missing_folder_is_reported_with_the_nearest(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, hint: str, relative: bool
) -> None:
    for name in ("models/llama/sql", "models/llama/math", "models/empty"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "models/llama/config.json").touch()
    monkeypatch.chdir(tmp_path if relative else plain)
    path = path if relative else os.path.abspath(tmp_path / path)
    wanted = f"no such folder; {hint.replace('@', str(tmp_path))}"
    recipe, good = make_recipe(plain, plain / "base", {"x": plain / "one", "y": plain / "two"}), str(plain / "base")
    for base, expert in ((path, "x"), (good, path), (good, f"{good}+{path}")):
        stated = loaded_recipe(recipe.model_copy(update={"base": base, "experts": {"x": expert, "y": expert}}))
        with pytest.raises(UserError) as raised:
            open_recipe_family(stated)
        assert str(raised.value).endswith(wanted)


def test_a_hub_id_that_is_not_found_may_be_meant_as_a_folder(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models/llama").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for text, hint in (("models/lama", "; nor is it a local folder; did you mean models/llama?"), ("org/model", "")):
        recipe = make_recipe(plain, plain / "base", {"x": text, "y": plain / "two"})
        with pytest.raises(UserError, match=re.escape(f"(is HF_HUB_OFFLINE set?){hint}") + "$"):
            pin(loaded_recipe(recipe))


def without_base(folder: Path) -> None:
    shutil.copy(folder.parent / "base" / "config.json", folder)


def pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def nothing(folder: Path) -> None:
    pass


@pytest.mark.parametrize("change", [nothing, without_base, pickled])
def test_an_adapter_without_its_base_is_explained(plain: Path, tmp_path: Path, change: Callable[[Path], None]) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "models"))
    change(folder / "adapter")
    for base, expert in ((folder / "base", folder / "adapter"), (folder / "adapter", folder / "one")):
        with pytest.raises(UserError) as raised:
            family_in(tmp_path, base, expert, folder / "two")
        assert str(raised.value) == (
            f"model {folder / 'adapter'}: an adapter, not a full model; write it with its base, as `base+adapter` "
            f"(it was trained on {plain / 'base'})"
        )


def test_a_merged_model_may_keep_its_adapter_s_configuration(plain: Path, tmp_path: Path) -> None:
    merged = Path(shutil.copytree(plain / "one", tmp_path / "merged"))
    shutil.copy(plain / "adapter" / "adapter_config.json", merged)
    assert not check_family(family_in(tmp_path, plain / "base", merged, plain / "two")).errors


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["model.safetensors"], "no config.json in @; download or save the model again"),
        (["config.json"], "no weights (*.safetensors) in @; download or save the model again"),
        ([], "no config.json and no weights (*.safetensors) in @; download or save the model again"),
        (["config.json", "model-Q4_K_M.gguf"], "contains GGUF files only; use the model's safetensors instead"),
        (["model-Q4_K_M.gguf"], "contains GGUF files only; use the model's safetensors instead"),
    ],
)
def test_missing_files_are_named(plain: Path, tmp_path: Path, files: list[str], message: str) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for name in files:
        source = plain / "one" / name
        shutil.copy(source, model) if source.exists() else (model / name).touch()
    with pytest.raises(UserError) as raised:
        family_in(tmp_path, plain / "base", model, plain / "two")
    assert str(raised.value) == f"model {model}: {message.replace('@', str(model))}"


def test_pointers_of_git_lfs_are_named(plain: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(plain / "one", tmp_path / "model"))
    (model / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(UserError) as raised:
        family_in(tmp_path, plain / "base", model, plain / "two")
    what = "model.safetensors is a pointer of Git LFS, not the weights; run `git lfs pull` in it"
    assert str(raised.value) == f"model {model}: {what}"


@pytest.mark.parametrize(
    ("recorded", "config", "different"),
    [
        ("@/base", None, False),
        ("./elsewhere/base/", None, False),
        ("org/Base", None, False),
        ("", None, False),
        (None, None, False),
        ("/root/.cache/huggingface/hub/models--org--base/snapshots/0123abc", None, False),
        ("someone/llama-7b", "someone/Llama-7B", False),
        ("someone/another-base-7b", None, True),
        ("@/one", None, True),
        ("/home/trainer/checkpoints/sft", None, True),
        ("/root/.cache/huggingface/hub/models--org--other/snapshots/base", None, True),
        ("org/base-instruct", "org/base", True),
    ],
)
def test_an_adapter_of_another_base_is_reported(
    plain: Path, tmp_path: Path, recorded: str | None, config: str | None, different: bool
) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "models"))
    stated = None if recorded is None else recorded.replace("@", str(folder))
    edit_json(folder / "adapter" / "adapter_config.json", base_model_name_or_path=stated)
    if config is not None:
        edit_json(folder / "base" / "config.json", _name_or_path=config)
    family = family_in(tmp_path, folder / "base", on_base(folder / "base", folder / "adapter"), folder / "one")
    problems = check_family(family)
    assert problems.errors == []
    wanted = (
        f"expert e0: its adapter was trained on {stated}, the recipe's base is {folder / 'base'}; "
        "check that they are the same model"
    )
    assert problems.notices == ([wanted] if different else [])
