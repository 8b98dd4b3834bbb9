"""`sampling: published` was called so in version 0.1 and is `binned` now; runs of either meaning keep theirs."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.errors import RecipeError
from cycleqd_merge.hub.archive import continues
from cycleqd_merge.hub.unite import unite
from cycleqd_merge.journal.log import JOURNAL_FILE, Journal, read_events
from cycleqd_merge.run.identity import require_same
from cycleqd_merge.run.state import open_run, replay_events
from cycleqd_merge.session.fork import fork
from cycleqd_merge.strategies.cycleqd import CycleQD, Operators
from cycleqd_merge.strategies.map_elites import MapElites
from cycleqd_merge.strategies.protocol import Result
from tests.evolution.references import snapshot
from tests.run.synthetic import SyntheticPool, run, start_of, synthetic_recipe
from tests.strategies.toy import fresh, score

OLD = Path(__file__).parents[1] / "data" / "sampling-0.1"
"""A run of `synthetic_recipe(30)` with `sampling: published` and two children in flight, by version 0.1.0."""


def recipe(sampling: str, generations: int = 30, **settings: Any) -> Recipe:
    return synthetic_recipe(generations, evolution={"sampling": sampling}, **settings)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of the old run."""
    return Path(shutil.copytree(OLD, tmp_path / "old"))


def test_an_old_run_replays_and_resumes_as_binned(old: Path, tmp_path: Path) -> None:
    """Replay compares every step with the recorded one."""
    opened = open_run(old)
    assert opened.recipe.evolution.sampling == "binned"
    assert opened.start["evolution"]["sampling"] == "binned"
    before = (old / JOURNAL_FILE).read_bytes()
    extended = run(old, recipe("binned", 45), 2)
    assert (old / JOURNAL_FILE).read_bytes().startswith(before)
    whole = run(tmp_path / "whole", recipe("binned", 45), 2)
    assert (extended.steps, snapshot(extended.archives)) == (whole.steps, snapshot(whole.archives))
    assert open_run(old).steps == whole.steps  # with sessions of both versions in one journal


def test_published_and_binned_are_different_searches(tmp_path: Path) -> None:
    runs = [run(tmp_path / name, recipe(name), 2) for name in ("published", "binned", "elite")]
    assert len({json.dumps(each.steps) for each in runs}) == 3


def test_a_new_run_keeps_its_meaning(tmp_path: Path) -> None:
    lived = run(tmp_path / "new", recipe("published"), 2)
    opened = open_run(tmp_path / "new")
    assert opened.recipe.evolution.sampling == "published"
    assert opened.steps == lived.steps
    run(tmp_path / "new", recipe("published", 45), 2)
    assert open_run(tmp_path / "new").steps == run(tmp_path / "whole", recipe("published", 45), 2).steps
    with closing(Journal(tmp_path / "new")) as journal:
        require_same(journal, start_of(recipe("published"), 2))


@pytest.mark.parametrize(("stated", "changed"), [("elite", "'binned' -> 'elite'"), ("random", "'binned' -> 'random'")])
def test_an_old_run_is_another_than_one_with_other_sampling(old: Path, stated: str, changed: str) -> None:
    with closing(Journal(old)) as journal:
        require_same(journal, start_of(recipe("binned"), 2))
        with pytest.raises(RecipeError) as refused:
            require_same(journal, start_of(recipe(stated), 2))
    assert str(refused.value).splitlines()[1:] == [f"  evolution.sampling: {changed}"]


def test_a_recipe_that_still_says_published_gets_one_line(old: Path) -> None:
    with closing(Journal(old)) as journal, pytest.raises(RecipeError) as refused:
        require_same(journal, start_of(recipe("published"), 2))
    assert "\n" not in str(refused.value)
    assert "Set `evolution.sampling: binned` to resume this run" in str(refused.value)


def test_a_run_with_true_published_weights_lists_no_version(tmp_path: Path) -> None:
    run(tmp_path, recipe("published", 3), 1)
    with closing(Journal(tmp_path)) as journal, pytest.raises(RecipeError) as refused:
        require_same(journal, start_of(recipe("binned"), 1))
    assert str(refused.value).splitlines()[1:] == ["  evolution.sampling: 'published' -> 'binned'"]


def test_unions_and_forks_of_old_runs_stay_binned(old: Path, tmp_path: Path) -> None:
    new = run(tmp_path / "new", recipe("published"), 2)
    united = replay_events(unite([("old", read_events(old)), ("new", read_events(tmp_path / "new"))]))
    assert united.recipe.evolution.sampling == "binned"
    united = replay_events(unite([("new", read_events(tmp_path / "new")), ("old", read_events(old))]))
    assert united.recipe.evolution.sampling == new.recipe.evolution.sampling == "published"
    forked, _ = fork(old, tmp_path / "forked", rescore=True)
    assert forked.evolution.sampling == "binned"


def test_an_old_published_archive_is_continued_by_its_run(old: Path) -> None:
    published = (old / JOURNAL_FILE).read_bytes()
    run(old, recipe("binned", 33), 2)
    assert continues(read_events(old), published)
    assert not continues(read_events(old)[:1], b'[1]\n"x"\n')


@pytest.mark.parametrize("sampling", ["published", "binned"])
def test_plain_map_elites_weighs_its_one_archive(sampling: Any) -> None:
    """Its quality is the mean, its cells are the bins of all tasks."""
    search = MapElites(fresh(), Operators(sampling=sampling), 1)
    for number in range(60):
        proposal = search.ask(number)
        assert proposal is not None
        search.tell(Result(number, score(proposal)))
    archive = search._archive(0)
    _, weights = search._selection(0)
    wanted = np.ones(len(archive.elites()))
    columns = [np.array([elite.cell[task] for elite in archive.elites()], float) for task in range(2)]
    if sampling == "published":
        columns.append(np.array([sum(elite.scores[:2]) / 2 for elite in archive.elites()]))
    for column in columns:
        wanted *= 0.5 + 0.8 * (column - column.min()) / np.ptp(column)
    np.testing.assert_allclose(weights, wanted / wanted.sum())


@pytest.mark.parametrize("task", [0, 1])
def test_published_weights_take_the_quality_of_the_tasks_own_archive(task: int) -> None:
    search = CycleQD(fresh(), Operators(sampling="published"), 1)
    for number in range(80):
        proposal = search.ask(number)
        assert proposal is not None
        search.tell(Result(number, score(proposal)))
    elites = search.state.archives[task].elites()
    assert len(elites) > 2
    wanted = np.ones(len(elites))
    for column in (
        np.array([elite.scores[task] for elite in elites]),
        np.array([elite.cell[0] for elite in elites], float),
    ):
        wanted *= 0.5 + 0.8 * (column - column.min()) / np.ptp(column)
    np.testing.assert_allclose(search._selection(task)[1], wanted / wanted.sum())


def test_a_killed_pool_changes_nothing(tmp_path: Path) -> None:
    """The order in which results arrive does not count."""
    first, second = (run(tmp_path / str(order), recipe("published"), 4, SyntheticPool(order)) for order in (1, 2))
    assert first.steps == second.steps
