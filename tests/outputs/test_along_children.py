"""Mutations along the child's own singular directions: a run, its replay, and its models in every form of export."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from cycleqd_merge.errors import ModelError
from cycleqd_merge.evolution.genome import MOST_MIXTURES, Genome
from cycleqd_merge.journal.log import JOURNAL_FILE, read_events
from cycleqd_merge.merging.adapter import LowRank
from cycleqd_merge.outputs.adapter import write_adapter
from cycleqd_merge.outputs.verify import verify_adapter
from cycleqd_merge.preflight.estimate import representative
from cycleqd_merge.run.opening import reopen, reopen_models
from cycleqd_merge.run.state import Run, open_run
from tests.cli.conftest import cycleqd_merge
from tests.models import make_adapter, make_base, make_expert, make_rows, on_base, read_tensors

GENERATIONS = 5


def evolved(folder: Path, kind: str) -> Run:
    """A run with mutations along the child, of adapters or full models."""
    folder.mkdir()
    base = make_base(folder / "base", "llama")
    if kind == "adapters":
        experts = {name: on_base(base, make_adapter(base, folder / name, seed)) for seed, name in enumerate("ab", 1)}
    else:
        experts = {name: str(make_expert(base, folder / name, seed)) for seed, name in enumerate("ab", 1)}
    tasks = []
    for name in "ab":
        rows = make_rows(folder / f"{name}.jsonl", 16, "abc", seed=ord(name))
        definition = {
            "kind": "generate",
            "data": {"rows": {"path": str(rows)}},
            "prompt": "{{ question }}: ",
            "scorer": {"kind": "multiple_choice", "choices": list("abc")},
        }
        tasks.append({"task": definition, "name": f"task-{name}", "expert": name, "bounds": [0.0, 1.0]})
    recipe = {
        "base": str(base),
        "experts": experts,
        "tasks": tasks,
        "evolution": {"generations": GENERATIONS, "in_flight": 1, "mutation": {"of": "child", "w_max": 2.0}},
        "output": str(folder / "run"),
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    answer = cycleqd_merge("evolve", folder / "recipe.yaml")
    assert (answer.code, answer.err) == (0, "")
    return open_run(folder / "run")


@pytest.fixture(scope="module", params=["adapters", "models"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Run]:
    folder = tmp_path_factory.mktemp("runs") / request.param
    return request.param, folder, evolved(folder, request.param)


def last(state: Run) -> Genome:
    """The genome of the last child."""
    return state.search.genome(len(state.results) - 1)


def test_the_journal_has_no_mixtures_and_replays_to_the_same_genomes(run: tuple[str, Path, Run]) -> None:
    _, folder, state = run
    events = read_events(folder / "run")
    assert events[1]["bases"] == {}  # singular bases of experts are not computed
    assert "coefficients" not in (folder / "run" / JOURNAL_FILE).read_text().split('"mutation"')[-1]
    assert any(mutation.of for mutation in last(state).mutations)
    assert last(open_run(folder / "run")) == last(state)


def test_exports_and_mergekit_give_the_tensors_that_were_scored(run: tuple[str, Path, Run], tmp_path: Path) -> None:
    kind, folder, state = run
    number = len(state.results) - 1
    wanted = dict(reopen_models(state, last(state)).tensors(last(state)))
    assert cycleqd_merge("export", folder / "run", f"#{number}", tmp_path / "out").code == 0
    assert {name: torch.equal(tensor, wanted[name]) for name, tensor in read_tensors(tmp_path / "out").items()} == (
        dict.fromkeys(wanted, True)
    )
    record = json.loads((tmp_path / "out" / "genome.json").read_text())
    assert Genome.from_json(record["genome"]) == last(state)
    merged = cycleqd_merge("merge", tmp_path / "out" / "mergekit_config.yml", tmp_path / "merged")
    assert merged.code == 0, merged.err
    for name, tensor in read_tensors(tmp_path / "merged").items():
        if kind == "models":
            assert torch.equal(tensor, wanted[name]), name
        else:  # mergekit merges the adapters itself
            assert torch.allclose(tensor.float(), wanted[name].float(), rtol=2**-7, atol=1e-5), name


def test_children_of_adapters_are_adapters_of_the_experts_ranks(run: tuple[str, Path, Run], tmp_path: Path) -> None:
    kind, folder, state = run
    materialiser = reopen_models(state, last(state))
    weight = next(weight for weight in materialiser.family.weights if weight.name.endswith("q_proj.weight"))
    if kind == "models":
        with pytest.raises(ModelError, match="cannot be an adapter"):
            materialiser.low_rank(last(state), weight)
        return
    factors = materialiser.low_rank(last(state), weight)
    assert isinstance(factors, LowRank)
    assert factors.right.shape[0] <= 8  # two experts of rank 4
    verified = partial(verify_adapter, last(state), materialiser)
    write_adapter(last(state), materialiser, tmp_path / "out", {}, verified)
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    exported = peft.PeftModel.from_pretrained(base, str(tmp_path / "out")).merge_and_unload().state_dict()
    for name, tensor in materialiser.tensors(last(state)):
        spacing = np.maximum(tensor.float().abs().numpy(), 1e-3) * 2**-8
        assert (np.abs(exported[name].numpy() - tensor.float().numpy()) <= spacing * 1.01).all(), name


@pytest.mark.parametrize(
    ("mutation", "message"),
    [
        ({"of": "child", "rank": 4}, "evolution.mutation.rank: cannot be combined with `of: child`"),
        ({"of": "children"}, "evolution.mutation.of: "),
        ({"kind": "gaussian", "of": "child"}, "evolution.mutation.of: unknown key"),
    ],
)
def test_settings_that_are_not_possible_are_one_line(mutation: dict[str, object], message: str, tmp_path: Path) -> None:
    recipe = {"base": "b", "experts": {"a": "1", "b": "2"}, "tasks": [{"task": "gsm8k"}], "output": "run"}
    (tmp_path / "recipe.yaml").write_text(json.dumps({**recipe, "evolution": {"mutation": mutation}}))
    answer = cycleqd_merge("evolve", tmp_path / "recipe.yaml")
    assert answer.code == 2
    assert any(message in line for line in answer.err.splitlines()), answer.err


def test_plan_measures_a_child_with_the_most_mutations_it_can_have(run: tuple[str, Path, Run], tmp_path: Path) -> None:
    _, folder, state = run
    genome = representative(reopen(state), [])
    assert len(genome.mutations) == MOST_MIXTURES + 1
    assert all(mutation.of is not None for mutation in genome.mutations)
    answer = cycleqd_merge("plan", folder / "recipe.yaml", "--set", f"output={tmp_path / 'new'}", "--json")
    assert (answer.code, answer.json["errors"], answer.json["bases"]) == (0, [], [])
    assert answer.json["time"]["load"] > 0
