"""How optimistic the mean is that chose a model, against simulated searches whose true scores are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cycleqd_merge.cli.results import _show_archives
from cycleqd_merge.report.optimism import chosen_mean, selection_optimism
from cycleqd_merge.report.page import render_page
from tests.run.synthetic import run, synthetic_recipe

TASKS = 3


def true_scores(kind: str, models: int, draws: np.random.Generator) -> np.ndarray:
    if kind == "equal":
        return np.full((models, TASKS), 0.8)
    if kind == "close":
        return np.clip(0.8 + draws.normal(0, 0.02, (models, TASKS)), 0, 1)
    if kind == "climbing":
        level = 0.35 + 0.45 * (1 - np.exp(-np.arange(models) / (models / 5)))
        return np.clip(level[:, None] + draws.normal(0, 0.03, (models, TASKS)), 0, 1)
    good = draws.random(models) < 0.4  # "two kinds"
    return np.clip(np.where(good[:, None], 0.8, 0.4) + draws.normal(0, 0.015, (models, TASKS)), 0, 1)


def slow_optimism(true: np.ndarray, search: int, confirm: int, top: int, draws: np.random.Generator) -> float:
    """The mean of many searches with 0-1 scores of single rows: the chosen mean minus the true one."""
    found = []
    for _ in range(150):
        right = draws.binomial(search, true)
        rows, ranked = np.full(len(true), search), np.argsort(-right.sum(axis=1))[: top or None]
        right, rows = right[ranked] + draws.binomial(confirm, true[ranked]), rows[ranked] + confirm
        judged = right.mean(axis=1) / rows
        found.append(judged.max() - true[ranked[judged.argmax()]].mean())
    return float(np.mean(found))


@pytest.mark.parametrize(("search", "confirm", "models"), [(51, 13, 93), (240, 60, 150), (51, 0, 93)])
@pytest.mark.parametrize("kind", ["equal", "close", "climbing", "two kinds"])
def test_it_is_that_of_simulated_searches(kind: str, search: int, confirm: int, models: int) -> None:
    draws, top = np.random.default_rng(models + search + confirm), 16 if confirm else 0
    wanted, found = [], []
    for _ in range(6):
        true = true_scores(kind, models, draws)
        wanted.append(slow_optimism(true, search, confirm, top, draws))
        observed = draws.binomial(search, true) / search
        rows = np.full(TASKS, float(search)), np.full(TASKS, float(confirm))
        found.append(selection_optimism(observed, *rows, top))
    assert np.mean(found) == pytest.approx(np.mean(wanted), rel=0.3, abs=0.006)


def test_equally_good_models_at_the_quickstarts_rows_look_seven_percent_better() -> None:
    observed = np.random.default_rng(0).binomial(51, np.full((8, 93, TASKS), 0.75)) / 51
    rows = np.full(TASKS, 51.0), np.full(TASKS, 13.0)
    assert np.mean([selection_optimism(each, *rows, 16) for each in observed]) == pytest.approx(0.07, abs=0.015)


def test_models_that_differ_clearly_are_not_flattered() -> None:
    scores = np.repeat(np.linspace(0.1, 0.9, 9)[:, None], TASKS, axis=1)
    rows = np.full(TASKS, 5000.0), np.zeros(TASKS)
    assert selection_optimism(scores, *rows, 0) < 0.002


def test_scores_without_any_spread_have_an_estimate() -> None:
    for score in (0.0, 1.0):
        assert 0.0 <= selection_optimism(np.full((5, 2), score), np.full(2, 10.0), np.zeros(2), 0) < 0.2


def test_it_is_the_same_each_time_and_said_in_one_sentence(tmp_path: Path) -> None:
    made = run(tmp_path, synthetic_recipe(40))
    found = chosen_mean(made)
    assert found is not None
    assert found == chosen_mean(made)
    assert (found.number, found.models, found.search, found.confirm) == (made.best_mean(), 43, 240, 0)
    assert str(found) == (
        f"The mean {found.mean:.3f} of #{found.number} is optimistic by about {found.optimism:.2f}, because it was "
        "used to choose this model from 43 (simulated for 240 search rows per task)."
    )


def test_without_elites_there_is_none(tmp_path: Path) -> None:
    made = run(tmp_path, synthetic_recipe(0))
    made.search.archives.clear()
    assert chosen_mean(made) is None


def test_the_page_has_the_sentence(tmp_path: Path) -> None:
    made = run(tmp_path, synthetic_recipe(12))
    assert f'<p class="note">{chosen_mean(made)}</p>' in render_page(made, "run")


def test_show_has_the_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = run(tmp_path, synthetic_recipe(12))
    _show_archives(made, 1)
    assert capsys.readouterr().out.splitlines()[1] == str(chosen_mean(made))
