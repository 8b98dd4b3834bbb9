"""A failing Hub: `main` is either unchanged or complete, and pushing again completes the push."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Answer, cycleqd_merge
from tests.hub.conftest import BOB, READER, TOKEN, pushed
from tests.hub.server import LocalHub
from tests.hub.server.faults import CUT, CUT_AFTER
from tests.hub.server.state import Tree

ARCHIVE, MODEL = "ann/run-archive", "ann/run"
FAULTS = [
    ("whoami", 401, "the token is not valid"),
    ("whoami", 500, "the Hub failed (status 500)"),
    ("access", 403, "the token has no write access to this repository"),
    ("info", 500, "the Hub failed (status 500)"),
    ("tree", 500, "the Hub failed (status 500)"),
    ("preupload", 500, "the Hub failed (status 500)"),
    ("batch", 500, "the Hub failed (status 500)"),
    ("blob", 500, "the Hub failed (status 500)"),
    ("blob", 403, "the token has no write access to this repository"),
    ("blob", CUT, "the Hub cannot be reached"),
    ("verify", 500, "the Hub failed (status 500)"),
    ("commit", 401, "the token is not valid"),
    ("commit", 403, "the token has no write access to this repository"),
    ("commit", 409, "another change is in progress"),
    ("commit", 412, "`main` has changed since the push began"),
    ("commit", 429, "too many requests; try again in 17 s"),
    ("commit", 500, "the Hub failed (status 500)"),
    ("commit", CUT, "the Hub cannot be reached"),
    ("commit", CUT_AFTER, "the Hub cannot be reached"),
    ("refs", 500, "the Hub failed (status 500)"),
    ("tag", 500, "the Hub failed (status 500)"),
]


def tree(hub: LocalHub, repo: str = ARCHIVE, kind: str = "dataset") -> Tree:
    """The files of `main`."""
    return hub.repo(repo, kind).tree()


def extend(run: Path, longer: Path) -> None:
    """Extend the run by a generation."""
    shutil.copy(longer / "journal.jsonl", run / "journal.jsonl")


def push(run: Path, *more: str) -> Answer:
    """`push` of the archive alone, however it ends."""
    answer = cycleqd_merge("push", run, "--repo", MODEL, "--archive-only", *more)
    assert TOKEN not in answer.err + answer.out
    return answer


@pytest.mark.parametrize(("step", "status", "message"), FAULTS)
def test_main_is_old_or_new_and_pushing_again_completes(
    step: str, status: int, message: str, hub: LocalHub, run: Path, longer: Path
) -> None:
    assert push(run).code == 0
    old = tree(hub)
    extend(run, longer)
    hub.faults.add(step, status, headers={"Retry-After": "17"} if status == 429 else None)
    answer = push(run)
    assert answer.code in (1, 2)
    (line,) = answer.err.splitlines()[-1:]
    assert line.startswith("error: ")
    assert message in line
    between = tree(hub)
    hub.faults.clear()
    answer = push(run)
    assert answer.code == 0, answer.err
    new, archive = tree(hub), hub.repo(ARCHIVE, "dataset")
    assert new != old
    assert between in (old, new)
    assert len(archive.history()) == 3  # the empty one, the first push, the second: none twice
    assert archive.tags["gen-5"] == archive.resolve("main")


@pytest.mark.parametrize(("step", "status"), [("batch", 503), ("blob", 500), ("blob", CUT), ("verify", 502)])
def test_a_single_failure_is_retried_at_once(step: str, status: int, hub: LocalHub, run: Path) -> None:
    fault = hub.faults.add(step, status, times=1)
    assert push(run).code == 0
    assert fault.met == 1


def test_a_first_push_that_fails_completes_later(hub: LocalHub, run: Path) -> None:
    for step in ("create", "commit"):
        hub.faults.add(step, 500)
        assert push(run).code == 1
        hub.faults.clear()
    assert "data/elites.parquet" not in tree(hub)
    assert push(run).code == 0
    assert "data/elites.parquet" in tree(hub)


def test_models_are_published_together_or_not_at_all(hub: LocalHub, run: Path, longer: Path) -> None:
    pushed(run, "--repo", MODEL, "--elites", "best:vowels")
    old = tree(hub, MODEL, "model")
    extend(run, longer)
    wanted = ("push", run, "--repo", MODEL, "--root", "aggregate", "--elites", "best:letters")
    hub.faults.add("blob", 500, skip=3)
    assert cycleqd_merge(*wanted).code == 1
    assert tree(hub, MODEL, "model") == old
    assert not list(run.glob(".push*"))
    hub.faults.clear()
    assert cycleqd_merge(*wanted).code == 0
    new = tree(hub, MODEL, "model")
    assert {"model.safetensors", "best-letters/model.safetensors"} <= set(new)
    assert "best-vowels/model.safetensors" not in new


def test_a_commit_made_during_a_push_is_not_overwritten(hub: LocalHub, run: Path, longer: Path) -> None:
    """The server refuses, because the branch changes after it was read and before it is written."""
    assert push(run).code == 0
    extend(run, longer)
    moved: list[str] = []
    original = hub.faults.meet

    def meet(step: str) -> int | None:
        if step == "commit" and not moved:
            moved.append(hub.put(ARCHIVE, {"notes.txt": b"by hand"}, "dataset"))
        return original(step)

    hub.faults.meet = meet  # type: ignore[method-assign]
    answer = push(run)
    assert (answer.code, hub.repo(ARCHIVE, "dataset").resolve("main")) == (1, moved[0])
    assert "`main` has changed since the push began and was not overwritten" in answer.err
    answer = push(run)
    assert f"--onto {moved[0]}" in answer.err
    assert push(run, "--onto", moved[0]).code == 0
    assert {"notes.txt", "data/elites.parquet"} <= set(tree(hub))


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "hub: no token; sign in with `hf auth login`, or set HF_TOKEN"),
        ("hf_wrong", "hub: the token is not valid; sign in"),
        (READER.token, "hub: the token of reader is read-only"),
        (BOB.token, "hub: bob may not write to ann/run-archive; push to a repository of bob"),
    ],
)
def test_missing_write_access_is_reported_before_a_run_starts(
    token: str | None, message: str, hub: LocalHub, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    recipe = original.parent / "recipe.yaml"
    answer = cycleqd_merge("evolve", recipe, "--output", tmp_path / "run", "--set", "hub.repo=ann/run")
    assert (answer.code, answer.err[: len(message) + 7]) == (2, f"error: {message}")
    assert not (tmp_path / "run").exists()
    assert not hub.repos
