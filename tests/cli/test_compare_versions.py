"""A comparison keeps the versions of its presets, and never mixes scores of two semantics versions."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cycleqd_merge.config.presets import PRESETS
from cycleqd_merge.journal.log import JOURNAL_FILE, read_events
from cycleqd_merge.run.state import open_run
from cycleqd_merge.tasks.generate import GenerateTask
from tests.cli.conftest import Answer, Models, cycleqd_merge, write_recipe

pytestmark = pytest.mark.usefixtures("quick_figures")
NEWER = {"strategy": {"kind": "random"}, "evolution": {"groups": {"layers": 1}, "sigma": 0.5}}


@pytest.fixture(scope="module", autouse=True)
def _first_version() -> Iterator[None]:
    """Only version 1 of `recommended` exists."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(PRESETS, "recommended@2")
        yield


@pytest.fixture(scope="module")
def recipe(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("comparison"), models)


@pytest.fixture(scope="module")
def finished(recipe: Path) -> Path:
    """A whole comparison. Tests must not change it."""
    answer = compare(recipe, recipe.parent / "compared", "random")
    assert answer.code == 0, answer.err
    return recipe.parent / "compared"


def compare(recipe: Path, out: Path, strategies: str, *more: object) -> Answer:
    return cycleqd_merge(
        "compare", recipe, "--strategies", strategies, "--budget", 2, "--seeds", 1, "--output", out, *more
    )


def presets(out: Path) -> tuple[object, str | None]:
    """What the comparison recorded of presets, and the preset of its run."""
    return read_events(out)[0].get("presets"), open_run(out / "recommended" / "seed-1").recipe.evolution.preset


def test_a_resumed_comparison_keeps_the_versions_of_its_presets(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compare(recipe, tmp_path / "first", "recommended", "--max-hours", 0).code == 130
    monkeypatch.setitem(PRESETS, "recommended@2", NEWER)
    assert compare(recipe, tmp_path / "second", "recommended", "--max-hours", 0).code == 130
    monkeypatch.setitem(PRESETS, "recommended@3", {"strategy": {"kind": "cma-es"}})
    for out in (tmp_path / "first", tmp_path / "second"):
        answer = compare(recipe, out, "recommended")
        assert answer.code == 0, answer.err
    assert presets(tmp_path / "first") == (None, "recommended@1")
    assert presets(tmp_path / "second") == ({"recommended": "recommended@2"}, "recommended@2")
    kinds = [open_run(tmp_path / out / "recommended" / "seed-1").recipe.strategy.kind for out in ("first", "second")]
    assert kinds == ["bayesian", "random"]


def test_a_comparison_is_not_resumed_across_semantics_versions(
    recipe: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(finished, tmp_path / "compared")
    before = (out / JOURNAL_FILE).read_bytes()
    task = GenerateTask.semantics
    monkeypatch.setattr(GenerateTask, "semantics", task + 1)
    assert compare(recipe, out, "random").code == 0  # nothing is left to evaluate
    assert (out / JOURNAL_FILE).read_bytes() == before
    lines = before.splitlines(keepends=True)
    (out / JOURNAL_FILE).write_bytes(b"".join(line for line in lines if b'"event":"heldout"' not in line))
    refused = (
        f"error: {out}: cannot be resumed: new scores would not be comparable "
        f"(semantics of task vowels: {task} -> {task + 1}, semantics of task letters: {task} -> {task + 1}); "
        "compare again in a different folder (--output)\n"
    )
    answer = compare(recipe, out, "random")
    assert (answer.code, answer.err.endswith(refused)) == (2, True), answer.err
