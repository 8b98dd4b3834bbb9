"""Mergekit configurations as models of a run: shown, scored and exported like those that have a genome."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from mergekit.scripts.run_yaml import main as mergekit_yaml

from cycleqd_merge.errors import UserError
from cycleqd_merge.evolution.candidate import MergekitConfiguration
from cycleqd_merge.outputs.export import export_adapter, state_dict
from cycleqd_merge.run.elites import choose
from cycleqd_merge.run.state import Run, open_run
from tests.cli.conftest import Models, cycleqd_merge
from tests.models import make_adapter, make_base, make_expert, on_base, read_tensors
from tests.run.grids import METHODS, SEED, assert_same, grid, write_grid_recipe

FIRST = 2
"""The number of the first configuration; the experts come before it."""


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """A base and two experts that are so far from it that any mixture is nearer."""
    folder = tmp_path_factory.mktemp("far")
    base = make_base(folder / "base", "llama")
    experts = (make_expert(base, folder / f"expert-{seed}", seed=seed, scale=0.3) for seed in (1, 2))
    return Models(base, *experts)


@pytest.fixture(scope="module")
def finished(far: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose best models are configurations. Tests must not change it."""
    folder = tmp_path_factory.mktemp("grid")
    recipe = write_grid_recipe(folder, far, str(far.base), [str(far.first), str(far.second)])
    answer = cycleqd_merge("evolve", recipe)
    assert answer.code == 0, answer.err
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("lock")))


def best_of(state: Run) -> MergekitConfiguration:
    candidate = choose(state, "best-mean").candidate
    assert isinstance(candidate, MergekitConfiguration)
    return candidate


def stock(model: Path, out: Path) -> dict[str, torch.Tensor]:
    """The model that the command at the top of an exported model's `mergekit_config.yml` builds."""
    program, *arguments = shlex.split((model / "mergekit_config.yml").read_text().partition("\n")[0].removeprefix("# "))
    assert program == "mergekit-yaml"
    places = {"mergekit_config.yml": model / "mergekit_config.yml", "OUT": out, "CACHE": out.with_name("lora")}
    mergekit_yaml.main([str(places.get(each, each)) for each in arguments], standalone_mode=False)
    return read_tensors(out)


@pytest.mark.parametrize("method", METHODS)
def test_an_export_is_the_checkpoint_that_mergekit_writes(
    finished: Path, far: Models, method: str, tmp_path: Path
) -> None:
    number = FIRST + METHODS.index(method)
    _, proposed = grid(str(far.base), [str(far.first), str(far.second)])[METHODS.index(method)]
    model = tmp_path / "model"
    answer = cycleqd_merge("export", finished, f"#{number}", model)
    assert answer.code == 0, answer.err
    text = (model / "mergekit_config.yml").read_text()
    assert text.startswith(f"# mergekit-yaml mergekit_config.yml OUT --random-seed {proposed.seed}\n")
    assert yaml.safe_load(text) == yaml.safe_load(proposed.yaml)
    record = json.loads((model / "genome.json").read_text())
    assert record["configuration"] == proposed.to_json()
    assert "genome" not in record
    assert record["evaluation"] == number
    wanted = stock(model, tmp_path / "stock")
    assert_same(read_tensors(model), wanted)
    assert_same(state_dict(open_run(finished), f"#{number}"), wanted)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (model / name).read_bytes() == (tmp_path / "stock" / name).read_bytes(), name
    assert not (model / "README.md").exists()


def test_a_random_method_draws_from_the_seed_of_its_candidate(finished: Path, tmp_path: Path) -> None:
    model, number = tmp_path / "model", FIRST + METHODS.index("dare_ties")
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert cycleqd_merge("export", finished, f"#{number}", model).code == 0
    assert torch.equal(before, torch.get_rng_state())
    config = model / "mergekit_config.yml"
    config.write_text(config.read_text().replace(f"--random-seed {SEED}", f"--random-seed {SEED + 1}"))
    other = stock(model, tmp_path / "other")
    assert any(not torch.equal(tensor, other[name]) for name, tensor in read_tensors(model).items())


def test_show_tells_the_configuration(finished: Path) -> None:
    wanted, number = best_of(open_run(finished)), open_run(finished).best_mean()
    shown = cycleqd_merge("show", finished, "--elite", "best-mean")
    assert shown.code == 0
    assert [line.rstrip() for line in wanted.yaml.splitlines()] == [
        line.rstrip() for line in shown.out.splitlines()[1 : 1 + len(wanted.yaml.splitlines())]
    ]
    assert f"#{number}" in shown.out
    told = cycleqd_merge("show", finished, "--elite", "best-mean", "--json").json
    assert MergekitConfiguration.from_json(told["configuration"]) == wanted
    assert "genome" not in told
    assert [entry["evaluation"] for entry in told["lineage"]] == [number]
    assert cycleqd_merge("show", finished, "--all").code == 0
    with pytest.raises(UserError, match="best-mean: a mergekit configuration has no genome"):
        _ = choose(open_run(finished), "best-mean").genome


def test_configurations_are_scored_on_held_out_rows(run: Path) -> None:
    scored = cycleqd_merge("evaluate", run, "--json").json
    assert list(scored) == ["base", "expert:first", "expert:second", "mean", "best-mean"]
    assert {task["score"] for task in scored["base"].values()} == {1.0}
    state = open_run(run)
    digest = state.digest(best_of(state))
    held = {task: estimate.score for task, estimate in state.measured[digest, "heldout"].items()}
    assert held == {task: result["score"] for task, result in scored["best-mean"].items()}
    again = cycleqd_merge("evaluate", run, f"#{state.best_mean()}", "--split", "search", "--json").json
    found = {task: result["score"] for task, result in again[f"#{state.best_mean()}"].items()}
    assert found == dict(zip(state.tasks, state.scores(state.best_mean()), strict=True))
    page = cycleqd_merge("report", run)
    assert page.code == 0
    assert "merge_method: " in (run / "report.html").read_text()
    assert cycleqd_merge("plot", run).code == 0


def test_what_a_run_does_at_its_end_leaves_out_the_aggregate(run: Path) -> None:
    finish = 'finish={"export": ["best-mean"], "heldout": true}'
    answer = cycleqd_merge("evolve", run, "--set", finish)
    assert answer.code == 0, answer.err
    assert "best-mean" in answer.out
    assert "aggregate" not in answer.out
    assert (run / "models" / f"best-mean-gen-{len(METHODS)}" / "model.safetensors").is_file()


def test_what_needs_a_genome_refuses_in_one_line(finished: Path, tmp_path: Path) -> None:
    state = open_run(finished)
    with pytest.raises(UserError) as refused:
        state.aggregate()
    assert "is a mergekit configuration, which cannot be aggregated" in str(refused.value)
    answer = cycleqd_merge("export", finished, "aggregate", tmp_path / "model")
    assert (answer.code, answer.err) == (2, f"error: {refused.value}\n")
    with pytest.raises(UserError, match="best-mean: a mergekit configuration cannot be exported as an adapter"):
        export_adapter(state, "best-mean", tmp_path / "adapter")
    assert not list(tmp_path.iterdir())


def test_a_run_resumes(run: Path) -> None:
    assert cycleqd_merge("evolve", run, "--generations", len(METHODS) + 2).code == 0
    longer = open_run(run)
    assert [event["step"] for event in longer.results[-2:]] == [{"method": method} for method in METHODS[:2]]
    assert [event["scores"] for event in longer.results[-2:]] == [
        event["scores"] for event in longer.results[FIRST : FIRST + 2]
    ]


def test_a_fork_starts_from_genomes(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    answer = cycleqd_merge(
        "fork", run, tmp_path / "fork", "--set", "strategy={kind: cycleqd}", "--set", "evolution.generations=1"
    )
    assert answer.code == 0, answer.err
    assert "mergekit configurations and cannot be founders of another run" in caplog.text
    assert [event["step"].get("expert") for event in open_run(tmp_path / "fork").results] == [0, 1, None]


def test_adapters_and_other_dtypes_are_exported_as_mergekit_writes_them(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", "qwen2", tied=True)
    adapter = on_base(base, make_adapter(base, tmp_path / "adapter", seed=1))
    models = Models(base, make_expert(base, tmp_path / "tuned", seed=2), base)
    recipe = write_grid_recipe(tmp_path, models, str(base), [str(models.first), adapter])
    stated = json.loads(recipe.read_text())
    stated["strategy"]["options"]["models"]["dtype"] = "float32"
    recipe.write_text(json.dumps(stated))
    assert cycleqd_merge("evolve", recipe, "--generations", 2).code == 0
    model = tmp_path / "model"
    answer = cycleqd_merge("export", tmp_path / "run", f"#{FIRST}", model)
    assert answer.code == 0, answer.err
    first = (model / "mergekit_config.yml").read_text().partition("\n")[0]
    assert first.endswith(" --random-seed 0 --lora-merge-cache CACHE --lora-merge-dtype float32")
    wanted = stock(model, tmp_path / "stock")
    assert {tensor.dtype for tensor in wanted.values()} == {torch.float32}
    assert_same(read_tensors(model), wanted)
