"""What would make a push fail at the end of a run is reported before it; a full disk during a push leaves nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from cycleqd_merge.hub import publish_models
from cycleqd_merge.journal.log import read_events
from cycleqd_merge.outputs.export import export
from tests.cli.conftest import cycleqd_merge
from tests.failing_disk import files_of_at_most
from tests.hub.conftest import Parents, put_parents, write_recipe
from tests.hub.server import LocalHub

REPO = "ann/run"


def with_license(folder: Path, target: Path, license: str) -> str:
    copy = Path(shutil.copytree(folder, target))
    (copy / "README.md").write_text(f"---\nlicense: {license}\n---\n")
    return str(copy)


def refused(recipe: Path) -> str:
    """The error of `plan` and of `evolve`, before anything is evaluated."""
    answers = [cycleqd_merge("plan", recipe, "--no-measure"), cycleqd_merge("evolve", recipe)]
    assert [answer.code for answer in answers] == [2, 2]
    assert answers[0].err == answers[1].err
    journal = recipe.parent / "run" / "journal.jsonl"
    assert not journal.is_file() or not read_events(journal.parent)
    return answers[0].err


def test_different_licences_are_refused_before_the_search(hub: LocalHub, parents: Parents, tmp_path: Path) -> None:
    base = with_license(parents.base, tmp_path / "base", "llama3")
    tuned = with_license(parents.tuned, tmp_path / "tuned", "mit")
    experts = {"tuned": tuned, "adapted": f"{base}+{parents.first}"}
    path = write_recipe(tmp_path, base, experts, hub={"repo": REPO})
    reason = "hub: the parents' licences differ (base: llama3; tuned: mit); choose one with `hub.license` or --license"
    assert refused(path) == f"error: {reason}\n"
    path = write_recipe(tmp_path, base, experts, hub={"repo": REPO, "license": "llama3"})
    assert cycleqd_merge("plan", path, "--no-measure").code == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hub": {"repo": REPO, "root": "best:cooking"}}, "hub.root: 'best:cooking' is not a model of this run"),
        ({"hub": {"repo": REPO, "elites": ["all-best", "x"]}}, "hub.elites: 'x' is not a model of this run"),
        ({"hub": {"repo": REPO, "adapters": True}}, "hub.adapters: the base is a local model"),
    ],
)
def test_what_cannot_be_pushed_is_refused_before_the_search(
    settings: dict[str, Any], message: str, hub: LocalHub, parents: Parents, tmp_path: Path
) -> None:
    experts = {"tuned": str(parents.tuned), "adapted": f"{parents.base}+{parents.first}"}
    assert refused(write_recipe(tmp_path, str(parents.base), experts, **settings)).startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("second", "mutation", "message"),
    [
        ("lab/tuned", {"kind": "none"}, "hub.adapters: expert second is a full model"),
        ("lab/base+lab/second", {"kind": "gaussian"}, "hub.adapters: Gaussian mutations have full rank"),
    ],
)
def test_models_that_cannot_be_adapters_are_refused_before_the_search(
    second: str, mutation: dict[str, Any], message: str, hub: LocalHub, parents: Parents, tmp_path: Path
) -> None:
    put_parents(hub, parents)
    experts = {"first": "lab/base+lab/first", "second": second}
    settings = {"hub": {"repo": REPO, "adapters": True}, "evolution": {"generations": 1, "mutation": mutation}}
    assert refused(write_recipe(tmp_path, "lab/base", experts, **settings)).startswith(f"error: {message}")


def test_a_full_disk_during_a_push_leaves_nothing(hub: LocalHub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def export_to_a_full_disk(*arguments: Any) -> None:
        with files_of_at_most(20_000):
            export(*arguments)

    before = {path for path in run.rglob("*") if path.is_dir()}
    with monkeypatch.context() as full:
        full.setattr(publish_models, "export", export_to_a_full_disk)
        answer = cycleqd_merge("push", run, "--repo", REPO)
    assert answer.code == 1
    assert ": cannot be written: File too large; " in answer.err
    assert len(answer.err.splitlines()) == 1
    assert {path for path in run.rglob("*") if path.is_dir()} == before
    assert cycleqd_merge("push", run, "--repo", REPO).code == 0
