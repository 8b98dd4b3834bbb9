"""From start to end over HTTP: parents on the Hub, a run from their ids, a push, and users with transformers alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cycleqd_merge.run.state import open_run
from tests.cli.conftest import cycleqd_merge
from tests.hub.conftest import Parents, pushed, put_parents, write_recipe
from tests.hub.server import LocalHub

PROMPT = "hello there"
USER = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
out, prompt = sys.argv[1:]
def logits(model, *names, **more):
    tokens = AutoTokenizer.from_pretrained(*names, **more)(prompt, return_tensors="pt").input_ids
    with torch.inference_mode():
        return model(tokens).logits.float()
found = {}
for label, more in {"root": {}, "tagged": {"revision": "gen-4"}, "inner": {"subfolder": "best-vowels"}}.items():
    found[label] = logits(AutoModelForCausalLM.from_pretrained("ann/run", dtype="auto", **more), "ann/run", **more)
from peft import AutoPeftModelForCausalLM
found["adapter"] = logits(AutoPeftModelForCausalLM.from_pretrained("ann/low", torch_dtype=torch.float32), "ann/low")
torch.save(found, out)
import datasets
for name in ("elites", "generations"):
    rows = datasets.load_dataset("ann/run-archive", name, split="train")
    json.dump([{k: row[k] for k in ("evaluation", "search_vowels")} for row in rows], open(f"{out}.{name}", "w"))
"""


def logits(folder: Path, dtype: torch.dtype | str = "auto") -> torch.Tensor:
    """Of a checkpoint on disk."""
    tokens = AutoTokenizer.from_pretrained(folder)(PROMPT, return_tensors="pt").input_ids
    with torch.inference_mode():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        return model(tokens).logits.float()  # type: ignore[no-any-return]


@pytest.fixture
def quick_figures() -> None:
    """Figures are drawn here: replaces the fixture of that name."""


def test_others_load_what_was_evolved(hub: LocalHub, parents: Parents, tmp_path: Path) -> None:
    put_parents(hub, parents)
    recipe = write_recipe(tmp_path, "lab/base", {"one": "lab/base+lab/first", "two": "lab/base+lab/second"})
    assert cycleqd_merge("evolve", recipe).code == 0
    run = tmp_path / "run"
    pushed(run, "--repo", "ann/run", "--elites", "best:vowels")
    pushed(run, "--repo", "ann/low", "--adapters", "--root", "aggregate")
    assert "model.safetensors" not in hub.repo("ann/low").tree()
    before = hub.repo("ann/low").history()
    pushed(run, "--repo", "ann/low", "--adapters", "--root", "aggregate")
    assert hub.repo("ann/low").history() == before

    script = tmp_path / "user.py"
    script.write_text(USER)
    fresh = {"HF_HOME": str(tmp_path / "fresh"), "HF_TOKEN": "", "TQDM_DISABLE": "1"}
    command = [sys.executable, str(script), str(tmp_path / "found"), PROMPT]
    subprocess.run(command, env={**os.environ, **fresh}, check=True, timeout=300)
    found = torch.load(tmp_path / "found", weights_only=True)
    for label, name in (("root", "best-mean"), ("tagged", "best-mean"), ("inner", "best:vowels")):
        out = tmp_path / label
        assert cycleqd_merge("export", run, name, out).code == 0
        assert torch.equal(found[label], logits(out)), label

    elites = json.loads((tmp_path / "found.elites").read_text())
    state = open_run(run)
    expected = [elite.number for archive in state.archives for elite in archive.elites()]
    assert [row["evaluation"] for row in elites] == expected
    assert all(row["search_vowels"] == state.scores(row["evaluation"])[0] for row in elites)
    assert len(json.loads((tmp_path / "found.generations").read_text())) == 6

    assert_adapter_is_the_model(run, parents, found["adapter"], tmp_path)
    assert hub.read("ann/run-archive", "figures/archives.png", "dataset").startswith(b"\x89PNG")


def assert_adapter_is_the_model(run: Path, parents: Parents, found: torch.Tensor, tmp_path: Path) -> None:
    """In float32, where base and difference are added without rounding, an adapter's logits are the merged model's."""
    from cycleqd_merge.evolution.candidate import mutated_experts
    from cycleqd_merge.run.elites import choose
    from cycleqd_merge.run.opening import reopen

    state = open_run(run)
    chosen = choose(state, "aggregate")
    materialiser = reopen(state).materialiser(mutated_experts(chosen.genome))
    model = AutoModelForCausalLM.from_pretrained(parents.base, dtype=torch.float32)
    resident = model.state_dict()
    for weight in materialiser.family.weights:
        change = materialiser.low_rank(chosen.genome, weight)
        if change is not None:
            direct = materialiser.tensor(chosen.genome, weight).float() - resident[weight.name]
            assert (change.dense() - direct).abs().max() <= 2**-7 * resident[weight.name].abs().max() + 1e-6
            resident[weight.name].add_(change.dense())
    tokens = AutoTokenizer.from_pretrained(parents.base)(PROMPT, return_tensors="pt").input_ids
    with torch.inference_mode():
        torch.testing.assert_close(found, model(tokens).logits, rtol=1e-3, atol=1e-3)


def test_adapters_need_adapters(hub: LocalHub, parents: Parents, tmp_path: Path) -> None:
    put_parents(hub, parents)
    experts = {"tuned": "lab/tuned", "adapted": "lab/base+lab/first"}
    assert cycleqd_merge("evolve", write_recipe(tmp_path, "lab/base", experts), "--generations", 0).code == 0
    answer = cycleqd_merge("push", tmp_path / "run", "--repo", "ann/low", "--adapters")
    assert answer.code == 2
    assert "expert tuned is a full model; only merges of adapters can be adapters" in answer.err
    assert not [name for _, name in hub.repos if name.startswith("ann/")]


def test_an_adapter_of_a_local_base_is_refused(hub: LocalHub, parents: Parents, tmp_path: Path) -> None:
    experts = {"one": f"{parents.base}+{parents.first}", "two": f"{parents.base}+{parents.second}"}
    assert cycleqd_merge("evolve", write_recipe(tmp_path, str(parents.base), experts), "--generations", 0).code == 0
    answer = cycleqd_merge("push", tmp_path / "run", "--repo", "ann/low", "--adapters")
    assert answer.code == 2
    assert "the base is a local model" in answer.err
    assert not hub.repos


@pytest.mark.parametrize("elites", [675])
def test_an_archive_of_many_elites_is_one_small_push(elites: int, hub: LocalHub, run: Path) -> None:
    """Only genomes are pushed; no checkpoint is written."""
    grow(run, elites)
    written: list[str] = []

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event == "open" and isinstance(arguments[0], str) and "w" in str(arguments[1]):
            written.append(arguments[0])

    watching = True
    sys.addaudithook(watch)
    try:
        pushed(run, "--repo", "ann/many", "--archive-only")
    finally:
        watching = False
    files = hub.repo("ann/many-archive", "dataset").tree()
    assert not [path for path in (*written, *files) if path.endswith(".safetensors")]
    state = open_run(run)
    assert sum(len(archive.elites()) for archive in state.archives) >= elites
    assert sum(entry.size for entry in files.values()) < 20e6
    assert len(hub.repo("ann/many-archive", "dataset").history()) == 2


def grow(run: Path, elites: int) -> None:
    """Rewrite a run's journal as that of a long one whose scores spread over the grid: at least `elites` of them."""
    from cycleqd_merge.config.recipe import Recipe
    from cycleqd_merge.evolution.draws import generator
    from cycleqd_merge.journal.log import JOURNAL_FILE, of_kind, read_events
    from cycleqd_merge.run.state import Run

    events = read_events(run)
    start = events[0]
    (session, *_) = of_kind(events, "session")
    start["evolution"]["bins"] = session["recipe"]["evolution"]["bins"] = elites
    session["recipe"]["evolution"]["generations"] = elites
    recipe = Recipe.model_validate(session["recipe"])
    state = Run.begin(recipe, start)
    lines = [start, session]
    draws = generator(0, "scores")
    while not state.schedule.done:
        number = state.schedule.received
        scores = [float(draws.random()) for _ in state.tasks]
        event = {"event": "result", "number": number, "step": state.steps[number], "scores": scores}
        lines.append(event)
        state.tell(event)
    (run / JOURNAL_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    shutil.rmtree(run / "models", ignore_errors=True)
