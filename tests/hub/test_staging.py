"""More files than one commit should have: `main` changes once, when all of them are uploaded."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from cycleqd_merge.hub import draft
from tests.cli.conftest import Answer, cycleqd_merge
from tests.hub.conftest import TOKEN
from tests.hub.server import LocalHub
from tests.hub.server.faults import CUT_AFTER
from tests.hub.test_faults import extend, tree

MODEL = "ann/run"
MOST = 3


@pytest.fixture(autouse=True)
def few_files_in_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small commits."""
    monkeypatch.setattr(draft, "MAX_FILES", MOST)


def push(run: Path, *more: str) -> Answer:
    """`push` of a model at the root and others in subfolders, however it ends."""
    answer = cycleqd_merge("push", run, "--repo", MODEL, "--elites", "all-best", *more)
    assert TOKEN not in answer.err + answer.out
    return answer


def files(hub: LocalHub) -> set[str]:
    """The paths of the models on `main`."""
    return set(tree(hub, MODEL, "model"))


def test_main_changes_once(hub: LocalHub, run: Path) -> None:
    answer = push(run)
    assert answer.code == 0, answer.err
    repo = hub.repo(MODEL)
    assert {"README.md", "model.safetensors", "best-letters/model.safetensors"} <= files(hub)
    assert len(repo.history()) == 2  # the empty one, and all models at once
    assert repo.tags == {"gen-4": repo.resolve("main")}
    staged = repo.history("refs/pr/1")[::-1]
    paths = [set(repo.tree(commit)) for commit in staged]
    assert [len(new - old) for old, new in pairwise(paths)][:-1] == [MOST] * (len(staged) - 2)
    assert repo.pull_requests[1].status == "merged"
    assert push(run).out.count("nothing has changed") == 2
    assert len(repo.history()) == 2


@pytest.mark.parametrize(
    ("step", "status", "skip"),
    [
        ("commit", CUT_AFTER, 0),
        ("commit", 500, 1),
        ("commit", CUT_AFTER, 1),
        ("merge", 500, 0),
        ("merge", CUT_AFTER, 0),
        ("discussion", 500, 0),
    ],
)
def test_main_is_old_or_new_and_pushing_again_completes(
    step: str, status: int, skip: int, hub: LocalHub, run: Path, longer: Path
) -> None:
    assert push(run).code == 0
    repo, old = hub.repo(MODEL), tree(hub, MODEL, "model")
    extend(run, longer)
    wanted = ("--root", "aggregate")
    assert push(run, *wanted, "--archive-only").code == 0  # so that faults meet the models' repository
    hub.faults.add(step, status, skip=skip)
    answer = push(run, *wanted)
    assert (answer.code, answer.err.splitlines()[-1][:7]) == (1, "error: ")
    between = tree(hub, MODEL, "model")
    hub.faults.clear()
    answer = push(run, *wanted)
    assert answer.code == 0, answer.err
    new = tree(hub, MODEL, "model")
    assert new != old
    assert between in (old, new)
    assert len(repo.history()) == 3  # the empty one, the first push, the second: none twice
    assert repo.tags["gen-5"] == repo.resolve("main")
    if skip == 1 or (step, status) == ("merge", 500):
        given_up = repo.pull_requests[2]
        assert (given_up.status, given_up.comments) == ("closed", ["This push was not completed."])


def test_a_first_push_that_fails_in_the_middle_leaves_nothing(hub: LocalHub, run: Path) -> None:
    assert push(run, "--archive-only").code == 0
    hub.faults.add("commit", 500, skip=2)
    assert push(run).code == 1
    assert files(hub) == {".gitattributes"}
    hub.faults.clear()
    assert push(run).code == 0
    assert "best-letters/model.safetensors" in files(hub)


@pytest.mark.parametrize("path", ["notes.txt", "README.md"])
def test_a_commit_made_during_a_push_is_not_overwritten(path: str, hub: LocalHub, run: Path) -> None:
    assert push(run).code == 0
    repo, moved, meet = hub.repo(MODEL), list[str](), hub.faults.meet
    wanted = ("--root", "aggregate")

    def meet_after(step: str) -> int | None:
        if step == "commit" and not moved:
            moved.append(hub.put(MODEL, {path: b"by hand"}))
        return meet(step)

    hub.faults.meet = meet_after  # type: ignore[method-assign]
    answer = push(run, *wanted)
    assert (answer.code, repo.resolve("main")) == (1, moved[0])
    assert "`main` has changed since the push began and was not overwritten" in answer.err
    assert repo.pull_requests[2].status == "closed"
    assert f"--onto {moved[0]}" in push(run, *wanted).err
    assert push(run, *wanted, "--onto", moved[0]).code == 0
    assert repo.history()[1] == moved[0]
    assert path in files(hub)


def test_a_pull_request_of_several_commits_stays_one(hub: LocalHub, run: Path) -> None:
    assert push(run, "--create-pr").code == 0
    repo = hub.repo(MODEL)
    assert files(hub) == {".gitattributes"}
    assert "best-letters/model.safetensors" in repo.tree("refs/pr/1")
    assert [each.status for each in repo.pull_requests.values()] == ["open"]
    assert push(run, "--revision", "try").code == 0
    assert dict(repo.tree("try")) == dict(repo.tree("refs/pr/1"))
    assert files(hub) == {".gitattributes"}
