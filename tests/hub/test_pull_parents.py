"""Models and datasets by Hub id: resolved once, downloaded only as needed, refused with one helpful line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import constants

from cycleqd_merge.config.loading import load_recipe
from cycleqd_merge.errors import UserError
from cycleqd_merge.journal.log import of_kind, read_events
from cycleqd_merge.merging.revisions import pin
from cycleqd_merge.run.state import open_run
from tests.cli.conftest import cycleqd_merge
from tests.hub.conftest import BOB, Parents, put_parents, write_recipe
from tests.hub.server import LocalHub
from tests.models import make_expert, read_tensors, write_tensors

BASE = "lab/base"
EXPERTS = {"tuned": "lab/tuned@main", "adapted": "lab/base+lab/first"}


def plan(recipe: Path) -> str:
    """The errors that `plan` finds."""
    answer = cycleqd_merge("plan", recipe, "--no-measure")
    assert answer.code == 2
    return answer.err


def test_ids_are_resolved_once_and_kept(hub: LocalHub, parents: Parents, tmp_path: Path) -> None:
    commits = put_parents(hub, parents)
    recipe = write_recipe(tmp_path, BASE, EXPERTS)
    assert cycleqd_merge("evolve", recipe, "--generations", 2).code == 0
    pinned = {"lab/base": commits["base"], "lab/tuned@main": commits["tuned"], "lab/first": commits["first"]}
    events = read_events(tmp_path / "run")
    assert events[0]["revisions"] == pinned
    changed = make_expert(parents.base, tmp_path / "changed", seed=77)
    assert hub.put("lab/tuned", changed) != commits["tuned"]
    assert cycleqd_merge("evolve", recipe).code == 0  # by the recipe
    assert cycleqd_merge("evolve", tmp_path / "run", "--generations", 5).code == 0  # and by the run
    assert [event["recipe"]["revisions"] for event in of_kind(read_events(tmp_path / "run"), "session")] == [pinned] * 3
    assert cycleqd_merge("export", tmp_path / "run", "best-mean", tmp_path / "model").code == 0
    record = json.loads((tmp_path / "model" / "genome.json").read_text())
    assert record["experts"]["adapted"]["model"] == f"lab/base@{commits['base']}+lab/first@{commits['first']}"


def test_a_run_from_the_hub_is_the_run_from_the_folders(hub: LocalHub, parents: Parents, tmp_path: Path) -> None:
    put_parents(hub, parents)
    local = {"tuned": str(parents.tuned), "adapted": f"{parents.base}+{parents.first}"}
    assert cycleqd_merge("evolve", write_recipe(tmp_path / "far", BASE, EXPERTS)).code == 0
    assert cycleqd_merge("evolve", write_recipe(tmp_path / "near", str(parents.base), local)).code == 0
    far, near = open_run(tmp_path / "far" / "run"), open_run(tmp_path / "near" / "run")
    assert [far.scores(number) for number in range(6)] == [near.scores(number) for number in range(6)]


def test_only_needed_files_are_downloaded(hub: LocalHub, parents: Parents, tmp_path: Path) -> None:
    put_parents(hub, parents)
    extra = {
        "pytorch_model.bin": b"pickle",
        "original/model.safetensors": b"x",
        "model.gguf": b"y",
        "run.py": b"print()",
    }
    hub.put(BASE, extra)
    assert cycleqd_merge("evolve", write_recipe(tmp_path, BASE, EXPERTS), "--generations", 0).code == 0
    (snapshot,) = (Path(constants.HF_HUB_CACHE) / "models--lab--base" / "snapshots").iterdir()
    there = {path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()}
    assert "model.safetensors" in there
    assert not there & {*extra, ".gitattributes"}


def test_offline_works_from_the_cache(
    hub: LocalHub, parents: Parents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_parents(hub, parents)
    assert cycleqd_merge("evolve", write_recipe(tmp_path / "first", BASE, EXPERTS), "--generations", 0).code == 0
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert cycleqd_merge("evolve", write_recipe(tmp_path / "second", BASE, EXPERTS)).code == 0
    assert hub.requests == []
    answer = cycleqd_merge("evolve", write_recipe(tmp_path / "third", BASE, {**EXPERTS, "other": "lab/unseen"}))
    assert answer.err.startswith("error: expert other: lab/unseen: not in the cache, and the Hub cannot be reached")


def test_a_run_resumes_while_the_hub_is_down(hub: LocalHub, parents: Parents, tmp_path: Path) -> None:
    put_parents(hub, parents)
    recipe = write_recipe(tmp_path, BASE, EXPERTS)
    assert cycleqd_merge("evolve", recipe, "--generations", 1).code == 0
    for step in ("info", "tree", "download"):
        hub.faults.add(step, 503)
    assert cycleqd_merge("evolve", recipe).code == 0


def test_errors_of_repositories_are_one_line_each(
    hub: LocalHub, parents: Parents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_parents(hub, parents)
    hub.repo("lab/tuned").gated = "manual"
    hub.repo("lab/first").private = True
    monkeypatch.setenv("HF_TOKEN", BOB.token)
    experts = {
        "gated": "lab/tuned",
        "private": "lab/base+lab/first",
        "unknown": "lab/nothing",
        "old": "lab/base@v9",
    }
    recipe = write_recipe(tmp_path, BASE, experts)
    with pytest.raises(UserError) as raised:
        pin(load_recipe(recipe))
    assert str(raised.value).splitlines() == [
        "expert gated: lab/tuned: gated, and you have no access; request access on its page",
        "expert old: lab/base@v9: no such revision on the Hub; check the branch, tag or commit",
        "expert private: lab/first: not on the Hub, or private and your token has no access",
        "expert unknown: lab/nothing: not on the Hub, or private and your token has no access",
    ]
    reported = plan(recipe)
    for part in ("lab/tuned: gated", "lab/first: not on", "lab/nothing: not on", "no such revision"):
        assert reported.count(part) == 1
    hub.repo("lab/tuned").granted.add("bob")
    assert "gated" not in plan(recipe)


def test_without_a_token_the_line_says_to_sign_in(
    hub: LocalHub, parents: Parents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_parents(hub, parents)
    hub.repo("lab/tuned").gated = "auto"
    monkeypatch.delenv("HF_TOKEN")
    answer = cycleqd_merge("evolve", write_recipe(tmp_path, BASE, EXPERTS))
    assert answer.code == 2
    assert "gated, and you have no access; request access on its page, then sign in with `hf auth login`" in answer.err
    assert not (tmp_path / "run" / "models").exists()


def test_pickles_are_refused_unless_allowed(hub: LocalHub, parents: Parents, tmp_path: Path) -> None:
    put_parents(hub, parents)
    pickled = Path(shutil.copytree(parents.tuned, tmp_path / "pickled"))
    torch.save(read_tensors(pickled), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    hub.put("lab/pickled", pickled)
    experts = {"tuned": "lab/pickled", "adapted": "lab/base+lab/first"}
    recipe = write_recipe(tmp_path / "one", BASE, experts)
    assert "model lab/pickled" in plan(recipe)
    assert not any(path.endswith("pytorch_model.bin") for _, _, path in hub.requests)
    assert cycleqd_merge("evolve", recipe, "--set", "models.pickles=true").code == 0
    assert cycleqd_merge("evolve", write_recipe(tmp_path / "two", BASE, EXPERTS)).code == 0
    one, two = open_run(tmp_path / "one" / "run"), open_run(tmp_path / "two" / "run")
    assert [one.scores(number) for number in range(6)] == [two.scores(number) for number in range(6)]


class _Runs:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return open, ("ran", "w")


def test_a_hostile_pickle_runs_nothing(
    hub: LocalHub, parents: Parents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_parents(hub, parents)
    hostile = Path(shutil.copytree(parents.tuned, tmp_path / "hostile"))
    (hostile / "model.safetensors").unlink()
    torch.save({"weight": torch.zeros(2), "more": _Runs()}, hostile / "pytorch_model.bin")
    hub.put("lab/hostile", hostile)
    recipe = write_recipe(tmp_path, BASE, {"tuned": "lab/hostile", "adapted": "lab/base+lab/first"})
    monkeypatch.chdir(tmp_path)
    answer = cycleqd_merge("evolve", recipe, "--set", "models.pickles=true")
    assert answer.code == 2
    assert "its pickles contain more than weights, or are damaged" in answer.err
    assert not (tmp_path / "ran").exists()


def test_a_full_disk_is_reported_before_anything_is_downloaded(
    hub: LocalHub, parents: Parents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_parents(hub, parents)
    monkeypatch.setattr("cycleqd_merge.preflight.plan_result.shutil.disk_usage", lambda _: SimpleNamespace(free=10_000))
    answer = cycleqd_merge("evolve", write_recipe(tmp_path, BASE, EXPERTS))
    assert answer.code == 2
    assert "disk: download of lab/base, download of lab/tuned, download of lab/first require" in answer.err
    assert ("download", "GET") not in {(step, method) for step, method, _ in hub.requests}


def test_a_failed_download_is_retried(hub: LocalHub, parents: Parents, tmp_path: Path) -> None:
    put_parents(hub, parents)
    hub.faults.add("download", 500, times=3)
    assert cycleqd_merge("evolve", write_recipe(tmp_path, BASE, EXPERTS), "--generations", 0).code == 0


def test_sharded_models_are_downloaded_completely(hub: LocalHub, parents: Parents, tmp_path: Path) -> None:
    put_parents(hub, parents)
    tensors = read_tensors(parents.tuned)
    sharded = Path(shutil.copytree(parents.tuned, tmp_path / "sharded"))
    names, parts = list(tensors), dict[str, str]()
    for number in (1, 2):
        shard = f"model-0000{number}-of-00002.safetensors"
        write_tensors(sharded, {name: tensors[name] for name in names[number - 1 :: 2]})
        (sharded / "model.safetensors").rename(sharded / shard)
        parts |= dict.fromkeys(names[number - 1 :: 2], shard)
    index = {"metadata": {"total_size": 1}, "weight_map": parts}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    hub.put("lab/sharded", sharded)
    experts = {"tuned": "lab/sharded", "adapted": "lab/base+lab/first"}
    assert cycleqd_merge("evolve", write_recipe(tmp_path / "one", BASE, experts), "--generations", 1).code == 0


def test_datasets_are_pinned_too(hub: LocalHub, parents: Parents, tmp_path: Path) -> None:
    put_parents(hub, parents)
    recipe = write_recipe(tmp_path, BASE, EXPERTS)
    task = json.loads((tmp_path / "vowels.yaml").read_text())
    commit = hub.put("lab/rows", {"train.jsonl": (tmp_path / "vowels-search.jsonl").read_bytes()}, "dataset")
    task["data"] = {"rows": {"dataset": "lab/rows"}}
    (tmp_path / "vowels.yaml").write_text(json.dumps(task))
    answer = cycleqd_merge("evolve", recipe, "--generations", 1)
    assert answer.code == 0, answer.err
    assert read_events(tmp_path / "run")[0]["revisions"]["datasets/lab/rows"] == commit
    hub.put("lab/rows", {"train.jsonl": b'{"question": "new", "answer": "a"}\n' * 30}, "dataset")
    answer = cycleqd_merge("evolve", recipe)
    assert answer.code == 0, answer.err
