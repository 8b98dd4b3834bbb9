"""Fits travel with everything that is made of them: archives, pulls, forks, exported and published models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from transformers import AutoModelForCausalLM

from cycleqd_merge import register_mergekit_method
from cycleqd_merge.merging.family import open_family
from cycleqd_merge.merging.fits import Along, Fit, fit_digest, read_fit
from cycleqd_merge.run.elites import choose
from cycleqd_merge.run.opening import reopen_models
from cycleqd_merge.run.state import open_run
from tests.cli.conftest import Answer, cycleqd_merge
from tests.fits import evolve_from_fits, random_fit
from tests.hub.conftest import Parents, pushed, put_parents, write_recipe
from tests.hub.server import LocalHub
from tests.models import read_tensors

ARCHIVE = "ann/run-archive"
MIXED = {"tuned": "lab/tuned", "adapted": "lab/base+lab/first"}
ADAPTERS = {"one": "lab/base+lab/first", "two": "lab/base+lab/second"}
SCALED: list[tuple[Along, tuple[int, ...]]] = [("singular", (0, 1)), ("channel", (0, 1)), ("channel", ())]
NewMachine = Callable[[], None]


@pytest.fixture
def new_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NewMachine:
    """Go on as on a machine that has no fits."""
    machines = iter(range(100))

    def move() -> None:
        monkeypatch.setenv("CYCLEQD_CACHE", str(tmp_path / f"cache-{next(machines)}"))
        read_fit.cache_clear()

    return move


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, parents: Parents) -> Path:
    """A finished run over models on disk that began with fits."""
    folder = tmp_path_factory.mktemp("fitted")
    experts = {"tuned": str(parents.tuned), "adapted": f"{parents.base}+{parents.first}"}
    evolve_from_fits(write_recipe(folder, str(parents.base), experts), SCALED)
    return folder / "run"


@pytest.fixture
def fits_run(fitted: Path, tmp_path: Path) -> Path:
    """A copy of it, to change."""
    return Path(shutil.copytree(fitted, tmp_path / "run", ignore=shutil.ignore_patterns("lock")))


def names(folder: Path) -> list[str]:
    """The digests of the fits in a folder, whose names are checked."""
    found = sorted(folder.glob("*"))
    assert all(path.name == f"{fit_digest(path.read_bytes())}.safetensors" for path in found)
    return [path.stem for path in found]


def equal(one: Path, other: Path) -> bool:
    """Whether two checkpoints have the same bytes."""
    first, second = read_tensors(one), read_tensors(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def succeeded(*arguments: object) -> Answer:
    answer = cycleqd_merge(*arguments)
    assert answer.code == 0, answer.err
    return answer


def test_a_run_has_the_fits_of_its_founders_and_exports_rebuild_with_mergekit(
    fits_run: Path, new_machine: NewMachine, tmp_path: Path
) -> None:
    digests = names(fits_run / "fits")
    assert len(digests) == len(SCALED)
    run = open_run(fits_run)
    children = [number for number in run.elites() if len(run.search.genome(number).fits) > 1]
    assert children
    genome = run.search.genome(children[0])
    assert genome.mutations  # with a share of several fits, and mutations
    new_machine()
    for name in ("#2", f"#{children[0]}", "aggregate"):
        out = tmp_path / "out" / name
        succeeded("export", fits_run, name, out)
        used = list(choose(run, name).genome.fits)
        assert names(out / "cycleqd" / "fits") == used
        assert not [path.name for path in out.glob("*.safetensors") if not path.name.startswith("model")]
        new_machine()
        succeeded("merge", out / "mergekit_config.yml", tmp_path / "merged" / name)
        assert equal(out, tmp_path / "merged" / name)
    new_machine()
    with_python(out, tmp_path / "python")
    assert equal(out, tmp_path / "python")
    new_machine()
    succeeded("evaluate", fits_run, f"#{children[0]}", "--limit", 2)
    succeeded("plan", fits_run, "--no-measure")


def with_python(model: Path, out: Path) -> None:
    """Rebuild a model as users of mergekit's own functions do."""
    register_mergekit_method(model)
    config = MergeConfiguration.model_validate(yaml.safe_load((model / "mergekit_config.yml").read_text()))
    options = MergeOptions(lora_merge_cache=str(out.parent / "lora"), lora_merge_dtype="float32", quiet=True)
    run_merge(config, str(out), options)


def test_a_model_is_that_of_its_fit(fits_run: Path, new_machine: NewMachine) -> None:
    """A change of the run's file changes nothing: a fit is what its name states, or it is refused."""
    new_machine()
    run = open_run(fits_run)
    candidate = choose(run, "#2").candidate
    tensors = dict(reopen_models(run, candidate).tensors(candidate))  # type: ignore[arg-type]
    (digest,) = candidate.fits  # type: ignore[union-attr]
    path = fits_run / "fits" / f"{digest}.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    again = dict(reopen_models(run, candidate).tensors(candidate))  # type: ignore[arg-type]
    assert all(torch.equal(tensors[name], again[name]) for name in tensors)
    new_machine()
    answer = cycleqd_merge("export", fits_run, "#2", fits_run / "model")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert f"fits/{digest}.safetensors: damaged" in answer.err
    assert "copy or download the file again" in answer.err


def test_a_moved_run_is_forked_and_resumed_elsewhere(fits_run: Path, new_machine: NewMachine, tmp_path: Path) -> None:
    new_machine()
    moved, forked = fits_run.rename(tmp_path / "moved"), tmp_path / "fork"
    succeeded("fork", moved, forked, "--set", "evolution.generations=1")
    used = open_run(moved)
    inherited = {digest for number in used.inheritable() for digest in used.search.genome(number).fits}
    assert names(forked / "fits") == sorted(inherited)
    shutil.rmtree(moved)
    new_machine()
    succeeded("evolve", forked, "--generations", 2)


def test_models_of_other_shapes_are_refused(fits_run: Path, parents: Parents, tmp_path: Path) -> None:
    """Fits of other models, which a stranger's founders may name."""
    recipe = open_run(fits_run).recipe
    family = open_family(recipe.pinned_models())
    fit = random_fit(family)
    name, one = fit.tensors[0], {0: np.ones(1, np.float32)}
    cases: list[tuple[Fit, str]] = [
        (replace(fit, coefficients=fit.coefficients[[0, 1, 1]]), "has coefficients of 3 experts; there are 2"),
        (replace(fit, tensors=fit.tensors[1:], coefficients=fit.coefficients[:, 1:]), f"has no coefficient of {name}"),
        (replace(fit, sizes={0: {name: 1}}, scales=one), f"has scales of a different {name}"),
        (replace(fit, sizes={0: {"x": 1}}, scales=one), "has scales of a different x"),
        (replace(fit, along="singular", sizes={0: {"x": 1}}, scales=one), "has scales of a different x"),
    ]
    for number, (changed, reason) in enumerate(cases):
        folder = Path(shutil.copytree(fits_run, tmp_path / str(number)))
        content = changed.to_bytes()
        events = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
        old = next(iter(events[0]["seeds"][0]["genome"]["fits"]))["digest"]
        lines = []
        for event in events:
            event.pop("crc", None)
            lines.append(json.dumps(event).replace(old, fit_digest(content)))
        (folder / "journal.jsonl").write_text("\n".join(lines) + "\n")
        (folder / "fits" / f"{fit_digest(content)}.safetensors").write_bytes(content)
        for command in (["evolve", folder, "--generations", 9], ["export", folder, "#2", folder / "model"]):
            answer = cycleqd_merge(*command)
            assert (answer.code, answer.err.count("\n")) == (2, 1), answer.err
            assert reason in answer.err


def test_an_archive_is_pulled_united_and_resumed(
    hub: LocalHub, parents: Parents, new_machine: NewMachine, tmp_path: Path
) -> None:
    put_parents(hub, parents)
    here = tmp_path / "here"
    digests = evolve_from_fits(write_recipe(here, "lab/base", MIXED), SCALED)
    pushed(here / "run", "--repo", "ann/run", "--archive-only", "--rows")
    tree = hub.repo(ARCHIVE, "dataset").tree()
    assert sorted(path for path in tree if path.startswith("fits/")) == [
        f"fits/{digest}.safetensors" for digest in sorted(digests)
    ]
    card = hub.read(ARCHIVE, "README.md", "dataset").decode()
    assert all(digest[:12] in card for digest in digests)
    before = hub.repo(ARCHIVE, "dataset").history()
    pushed(here / "run", "--repo", "ann/run", "--archive-only", "--rows")
    assert hub.repo(ARCHIVE, "dataset").history() == before

    shutil.copytree(here / "run", tmp_path / "copy")
    for folder, merge in (("there", []), ("united", ["--merge", tmp_path / "copy"])):
        new_machine()
        there = tmp_path / folder
        succeeded("pull", ARCHIVE, there, *merge)
        assert set(names(there / "fits")) <= set(digests)
    new_machine()
    there = tmp_path / "there"
    for name in ("#2", "best-mean"):
        succeeded("export", here / "run", name, here / name)
        new_machine()
        succeeded("export", there, name, there / name)
        assert equal(here / name, there / name)
    succeeded("evolve", there, "--generations", 5)
    succeeded("evolve", here / "run", "--generations", 5)
    assert [open_run(each).candidate(9) for each in (there, here / "run")] == [open_run(there).candidate(9)] * 2
    new_machine()
    succeeded("evolve", tmp_path / "united", "--generations", 1)


def test_published_models_have_their_fits(
    hub: LocalHub, fits_run: Path, new_machine: NewMachine, tmp_path: Path
) -> None:
    new_machine()
    pushed(fits_run, "--repo", "ann/run", "--root", "#2", "--elites", "#3")
    tree = hub.repo("ann/run").tree()
    run = open_run(fits_run)
    (first,), (second,) = (choose(run, name).genome.fits for name in ("#2", "#3"))
    fits = [path for path in tree if "cycleqd/fits/" in path]
    assert sorted(fits) == [f"cycleqd/fits/{first}.safetensors", f"evaluation-3/cycleqd/fits/{second}.safetensors"]
    card = hub.read("ann/run", "README.md").decode()
    assert first[:12] in card
    assert "No training was involved" not in card
    assert f"mergekit_config.yml \\\n  cycleqd/fits/{first}.safetensors --local-dir ." in card
    before = hub.repo("ann/run").history()
    pushed(fits_run, "--repo", "ann/run", "--root", "#2", "--elites", "#3")
    assert hub.repo("ann/run").history() == before

    down = Path(huggingface_hub.snapshot_download("ann/run", local_dir=tmp_path / "down"))
    succeeded("export", fits_run, "#2", tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(down, dtype="auto").state_dict()
    wanted = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="auto").state_dict()
    assert all(torch.equal(loaded[name], wanted[name]) for name in wanted)
    pushed(fits_run, "--repo", "ann/run", "--root", "#3", "--elites", "base")
    assert sorted(path for path in hub.repo("ann/run").tree() if "cycleqd/fits/" in path) == [
        f"cycleqd/fits/{second}.safetensors"
    ]


def test_adapters_of_fits_are_exact(hub: LocalHub, parents: Parents, new_machine: NewMachine, tmp_path: Path) -> None:
    """A fit changes a low-rank task vector to one of its rank, or of twice its rank if it scales channels."""
    from peft import PeftModel

    put_parents(hub, parents)
    evolve_from_fits(write_recipe(tmp_path, "lab/base", ADAPTERS), SCALED)
    run = tmp_path / "run"
    state = open_run(run)
    for name in ("#2", "#3"):
        repo = f"ann/low{name[1:]}"
        pushed(run, "--repo", repo, "--adapters", "--root", name)
        candidate = choose(state, name).genome
        (digest,) = candidate.fits
        assert [path for path in hub.repo(repo).tree() if "fits" in path] == [f"cycleqd/fits/{digest}.safetensors"]
        down = huggingface_hub.snapshot_download(repo, local_dir=tmp_path / "down" / name)
        materialiser = reopen_models(state, candidate)
        base = AutoModelForCausalLM.from_pretrained(parents.base, dtype=torch.float32)
        wide = {each: tensor.clone() for each, tensor in base.state_dict().items()}
        merged = PeftModel.from_pretrained(base, down).merge_and_unload().state_dict()
        changes = {weight.name: materialiser.change(candidate, weight) for weight in materialiser.family.weights}
        assert any(change is not None for change in changes.values())
        for each, change in changes.items():
            wanted = torch.zeros_like(wide[each]) if change is None else change
            torch.testing.assert_close(merged[each] - wide[each], wanted, rtol=1e-4, atol=1e-6)
