"""Mergekit configurations as elites of published and pulled runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from mergekit.scripts.run_yaml import main as mergekit_yaml
from safetensors.torch import load

from cycleqd_merge.evolution.candidate import MergekitConfiguration
from cycleqd_merge.report.scores import usual_scores
from cycleqd_merge.run.elites import choose
from cycleqd_merge.run.state import Run, open_run
from tests.cli.conftest import Models, cycleqd_merge
from tests.hub.conftest import pushed, table
from tests.hub.server import LocalHub
from tests.models import make_adapter, make_base, make_expert, on_base, read_tensors
from tests.run.grids import METHODS, SEED, assert_same, grid, write_grid_recipe

ARCHIVE, MODEL = "ann/run-archive", "ann/run"
DARE = 2 + METHODS.index("dare_ties")


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """A base, and a full expert and an adapter that lie far from it."""
    folder = tmp_path_factory.mktemp("distant")
    base = make_base(folder / "base", "llama")
    return Models(
        base,
        make_expert(base, folder / "first", seed=1, scale=0.3),
        make_adapter(base, folder / "second", seed=2, scale=0.6),
    )


def stock(far: Models, number: int, folder: Path) -> dict[str, torch.Tensor]:
    """What mergekit makes of the configuration that was proposed under a number, from the models on disk."""
    _, candidate = grid(str(far.base), [str(far.first), on_base(far.base, far.second)])[number - 2]
    folder.mkdir()
    (folder / "config.yml").write_text(candidate.yaml)
    lora = ["--lora-merge-cache", str(folder / "lora"), "--lora-merge-dtype", "float32"]
    arguments = [str(folder / "config.yml"), str(folder / "out"), "--random-seed", str(candidate.seed), *lora]
    for _ in range(2):  # merging an adapter draws from the seed too; the second time it is in the cache
        mergekit_yaml.main(arguments, standalone_mode=False)
    return read_tensors(folder / "out")


def configurations(state: Run) -> list[int]:
    return [number for number in state.elites() if isinstance(state.candidate(number), MergekitConfiguration)]


def heldout_means(state: Run) -> dict[str, dict[str, float]]:
    """By model and task."""
    return {
        model.name: {task: estimate.score for task, estimate in model.heldout.items()} for model in usual_scores(state)
    }


def models_in(configuration: str) -> set[str]:
    """The references in a configuration."""
    stated: dict[str, Any] = yaml.safe_load(configuration)
    return {each["model"] for each in stated["models"]} | ({stated["base_model"]} if "base_model" in stated else set())


def test_configurations_keep_to_the_commits_that_the_run_began_with(hub: LocalHub, far: Models, tmp_path: Path) -> None:
    names = {"base": far.base, "first": far.first, "second": far.second}
    commits = {name: hub.put(f"lab/{name}", folder) for name, folder in names.items()}
    recipe = write_grid_recipe(tmp_path / "here", far, "lab/base", ["lab/first", "lab/base+lab/second"])
    answer = cycleqd_merge("evolve", recipe)
    assert answer.code == 0, answer.err
    hub.put("lab/first", make_expert(far.base, tmp_path / "newer", seed=9))
    run, wanted = tmp_path / "here" / "run", stock(far, DARE, tmp_path / "stock")
    assert cycleqd_merge("export", run, f"#{DARE}", tmp_path / "model").code == 0
    assert_same(read_tensors(tmp_path / "model"), wanted)

    pinned = {name: f"lab/{name}@{commit}" for name, commit in commits.items()}
    references = {pinned["base"], pinned["first"], f"{pinned['base']}+{pinned['second']}"}
    assert models_in((tmp_path / "model" / "mergekit_config.yml").read_text()) == references
    assert cycleqd_merge("evaluate", run).code == 0
    pushed(run, "--repo", MODEL, "--rows", "--space", "--root", f"#{DARE}", "--elites", "best-mean")
    state, rows = open_run(run), table(hub, ARCHIVE, "data/elites.parquet")
    assert configurations(state)
    for row in rows:
        candidate = state.candidate(row["evaluation"])
        kind, other = ("configuration", "genome")
        if not isinstance(candidate, MergekitConfiguration):
            kind, other = other, kind
        assert json.loads(row[kind]) == candidate.to_json()
        assert row[other] is None
    assert_same(load(hub.read(MODEL, "model.safetensors")), wanted)
    card = ModelCard(hub.read(MODEL, "README.md").decode())
    assert "merged by [mergekit](https://github.com/arcee-ai/mergekit) from a configuration" in card.text
    assert f"mergekit-yaml mergekit_config.yml OUT --random-seed {SEED} --lora" in card.text
    assert "merge_method: dare_ties" in card.text
    assert not [text for text in ("task vectors", "task vector it holds", "genome", "aggregate") if text in card.text]
    before = {repo: hub.repo(repo, kind).history() for repo, kind in ((ARCHIVE, "dataset"), (MODEL, "model"))}
    pushed(run, "--repo", MODEL, "--rows", "--root", f"#{DARE}", "--elites", "best-mean")
    assert {repo: hub.repo(repo, kind).history() for repo, kind in ((ARCHIVE, "dataset"), (MODEL, "model"))} == before

    there = tmp_path / "there"
    assert cycleqd_merge("pull", ARCHIVE, there, "--trust-remote-code").code == 0
    assert heldout_means(open_run(there)) == heldout_means(state)
    assert cycleqd_merge("export", there, f"#{DARE}", tmp_path / "again").code == 0
    assert_same(read_tensors(tmp_path / "again"), wanted)
    assert cycleqd_merge("evolve", there, "--generations", len(METHODS) + 1).code == 0


def test_local_models_of_configurations_are_found_again(hub: LocalHub, far: Models, tmp_path: Path) -> None:
    experts = [str(far.first), on_base(far.base, far.second)]
    recipe = write_grid_recipe(tmp_path / "here", far, str(far.base), experts)
    answer = cycleqd_merge("evolve", recipe)
    assert answer.code == 0, answer.err
    run = tmp_path / "here" / "run"
    assert cycleqd_merge("evaluate", run).code == 0
    pushed(run, "--repo", MODEL, "--rows", "--space", "--root", f"#{DARE}")
    for kind, repo in (("dataset", ARCHIVE), ("model", MODEL), ("space", MODEL)):
        for path in hub.repo(repo, kind).tree():
            content = hub.read(repo, path, kind)
            assert str(far.base.parent).encode() not in content, path
            assert str(tmp_path).encode() not in content, path
    stated = [row["configuration"] for row in table(hub, ARCHIVE, "data/elites.parquet") if row["configuration"]]
    assert stated
    shown = {"./models/base", "./models/expert-first", "./models/base+./models/expert-second"}
    assert all(models_in(json.loads(text)["mergekit"]) <= shown for text in stated)
    assert b"./models/expert-first" in hub.read(MODEL, "mergekit_config.yml")

    there, moved = tmp_path / "there", tmp_path / "moved"
    moved.mkdir()
    places = {name: (moved / name) for name in ("base", "first", "second")}
    for name, place in places.items():
        place.symlink_to(getattr(far, name))
    local = ["--set", f"base={places['base']}", "--set", f"experts.first={places['first']}"]
    local += ["--set", f"experts.second={places['base']}+{places['second']}"]
    answer = cycleqd_merge("pull", ARCHIVE, there, "--trust-remote-code", *local)
    assert (answer.code, answer.err) == (0, "")
    candidate = choose(open_run(there), f"#{DARE}").candidate
    assert isinstance(candidate, MergekitConfiguration)
    assert models_in(candidate.yaml) == {
        str(places["base"]),
        str(places["first"]),
        f"{places['base']}+{places['second']}",
    }
    assert heldout_means(open_run(there)) == heldout_means(open_run(run))
    assert heldout_means(open_run(there))["best-mean"]
    assert cycleqd_merge("export", there, f"#{DARE}", tmp_path / "model").code == 0
    assert_same(read_tensors(tmp_path / "model"), stock(far, DARE, tmp_path / "stock"))
    answer = cycleqd_merge("evolve", there, "--generations", len(METHODS) + 1)
    assert answer.code == 0, answer.err


def test_united_runs_start_from_genomes(
    hub: LocalHub, far: Models, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = {"base": far.base, "first": far.first, "second": far.second}
    for name, folder in names.items():
        hub.put(f"lab/{name}", folder)
    recipe = write_grid_recipe(tmp_path, far, "lab/base", ["lab/first", "lab/base+lab/second"])
    answer = cycleqd_merge("evolve", recipe)
    assert answer.code == 0, answer.err
    run = tmp_path / "run"
    pushed(run, "--repo", MODEL, "--archive-only", "--rows")
    answer = cycleqd_merge("pull", ARCHIVE, tmp_path / "both", "--merge", run, "--trust-remote-code")
    assert answer.code == 0, answer.err
    assert "mergekit configurations and cannot be founders of another run" in caplog.text
    assert open_run(tmp_path / "both").search.first == 2


def test_a_configuration_is_not_published_as_an_adapter(hub: LocalHub, far: Models, tmp_path: Path) -> None:
    hub.put("lab/base", far.base)
    for seed in (1, 2):
        hub.put(f"lab/low-{seed}", make_adapter(far.base, tmp_path / f"low-{seed}", seed))
    recipe = write_grid_recipe(tmp_path, far, "lab/base", ["lab/base+lab/low-1", "lab/base+lab/low-2"])
    assert cycleqd_merge("evolve", recipe, "--generations", 1).code == 0
    answer = cycleqd_merge("push", tmp_path / "run", "--repo", "ann/low", "--adapters", "--root", "#2")
    assert (answer.code, answer.err) == (2, "error: #2: a mergekit configuration cannot be exported as an adapter\n")
    assert not [name for _, name in hub.repos if name.startswith("ann/")]
