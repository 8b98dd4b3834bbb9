"""`compare`: strategies on tiny real models, interrupted, resumed, and scored once on the final split."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cycleqd_merge.journal.log import JOURNAL_FILE, of_kind, read_events
from cycleqd_merge.outputs.measure import measure
from cycleqd_merge.run.state import open_run
from tests.cli.conftest import Answer, Models, cycleqd_merge, write_recipe
from tests.journal.unsealed import unsealed
from tests.report.test_page import Page

pytestmark = pytest.mark.usefixtures("quick_figures")  # but fixtures of the module draw them
STRATEGIES = "paper,cma-es-groups,mergekit"
SEEDS = 2
ROOT = Path(__file__).parents[2]


def compare(folder: Path, *more: object) -> Answer:
    budget = ("--strategies", STRATEGIES, "--budget", 6, "--seeds", SEEDS)
    return cycleqd_merge("compare", folder / "recipe.yaml", *budget, "--output", folder / "compared", *more)


@pytest.fixture
def copied(compared: Path, tmp_path: Path) -> Path:
    """A copy of the comparison, to be damaged."""
    shutil.copytree(compared, tmp_path / "copied")
    return tmp_path / "copied"


@pytest.fixture(scope="module")
def compared(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole comparison; the first attempt is stopped immediately."""
    folder = tmp_path_factory.mktemp("comparison")
    write_recipe(folder, models, evolution={"groups": {"layers": 1}, "mutation": {"kind": "svd", "w_max": 2.0}})
    stopped = compare(folder, "--max-hours", 0)
    assert (stopped.code, "time limit" in stopped.err) == (130, True), stopped.err
    answer = compare(folder, "--json")
    assert answer.code == 0, answer.err
    (folder / "printed.json").write_text(answer.out)
    return folder


def result_of(folder: Path) -> Any:
    return json.loads((folder / "compared/comparison.json").read_text())


def test_the_page_of_a_comparison_is_its_first_runs_with_the_result(compared: Path, tmp_path: Path) -> None:
    folder, run = compared / "compared", compared / "compared/paper/seed-0"
    found = {entrant["name"]: entrant["judged"][0]["heldout"] for entrant in result_of(compared)["entrants"]}
    pages = []
    for named in (folder, run):
        answer = cycleqd_merge("report", named, "--output", tmp_path / "page.html")
        assert (answer.code, answer.err) == (0, "")
        pages.append((tmp_path / "page.html").read_text())
    assert pages[0] == pages[1]
    page = Page(pages[0])
    assert page.data["export"] == f"cycleqd-merge export {run}"
    for name in ("base", "expert:first", "mean"):
        means = [f"{np.mean(scores):.3f}" for scores in found[name].values()]
        assert page.rows[f"comparison-models {name}"][:2] == means
        assert [cell.split(" ")[0] for cell in page.rows[f"scores-heldout {name}"][1:3]] == means
    other = cycleqd_merge("report", compared / "compared/mergekit/seed-0", "--output", tmp_path / "page.html")
    assert other.code == 0
    assert Page((tmp_path / "page.html").read_text()).data["comparison"] == page.data["comparison"]


def test_every_strategy_has_ordinary_runs_of_the_same_budget(compared: Path) -> None:
    runs = sorted(
        path.parent.relative_to(compared / "compared") for path in compared.glob("compared/*/*/journal.jsonl")
    )
    assert [str(run) for run in runs] == [
        *(f"cma-es-groups/seed-{seed}" for seed in (0, 1)),
        "mergekit/seed-0",
        *(f"paper/seed-{seed}" for seed in (0, 1)),
    ]
    for run in runs:
        state = open_run(compared / "compared" / run)
        assert len(state.results) == 2 + 6
        assert state.confirmed
    first, second = (open_run(compared / "compared/paper" / f"seed-{seed}") for seed in (0, 1))
    assert first.steps[2:] != second.steps[2:]
    assert len(first.groups) == 1
    assert len(open_run(compared / "compared/cma-es-groups/seed-0").groups) > 1


@pytest.mark.slow  # CI has runs at the same time without Ray, and a run on Ray
def test_workers_change_no_result(compared: Path, models: Models, tmp_path: Path) -> None:
    """Two workers on Ray take two runs at a time; one worker in this process took them one after another."""
    shutil.copytree(compared, tmp_path, ignore=shutil.ignore_patterns("compared"), dirs_exist_ok=True)
    answer = compare(tmp_path, "--set", "workers=2")
    assert answer.code == 0, answer.err
    assert all(f"{strategy}, seed 0: generation 6/6" in answer.err for strategy in ("paper", "cma-es-groups"))
    for strategy in ("paper", "cma-es-groups"):
        for seed in range(SEEDS):
            parallel, alone = (
                [(event["number"], event["step"], event["scores"]) for event in of_kind(read_events(folder), "result")]
                for folder in (each / "compared" / strategy / f"seed-{seed}" for each in (tmp_path, compared))
            )
            assert parallel == alone
    assert result_of(tmp_path)["entrants"] == result_of(compared)["entrants"]
    events = read_events(tmp_path / "compared")
    alone = compare(tmp_path)
    assert (alone.code, read_events(tmp_path / "compared")) == (0, events), alone.err


def test_models_score_as_they_do_in_their_own_runs(compared: Path) -> None:
    """`measure` opens the run's own groups and engine; the comparison shared one pool."""
    found = {entrant["name"]: entrant for entrant in result_of(compared)["entrants"]}
    for strategy in ("paper", "cma-es-groups"):
        for place, seed in enumerate((0, 1)):
            run = open_run(compared / "compared" / strategy / f"seed-{seed}")
            alone = measure(run, ["best-mean", "aggregate", "base", "mean"], "heldout")
            for name in ("best-mean", "aggregate"):
                judged = found[f"{strategy} {name}"]["judged"][place]
                assert judged["seed"] == seed
                scores = {task: [o.score for o in result.outcomes] for task, result in alone[name].results.items()}
                assert judged["heldout"] == scores
            for name in ("base", "mean"):
                scores = {task: [o.score for o in result.outcomes] for task, result in alone[name].results.items()}
                assert found[name]["judged"][0]["heldout"] == scores


def test_static_merges_are_scored_by_the_best_of_each_method(compared: Path) -> None:
    run = open_run(compared / "compared/mergekit/seed-0")
    found = {entrant["name"]: entrant for entrant in result_of(compared)["entrants"] if entrant["kind"] == "merge"}
    tried = [step["merge"] for step in run.steps[2:]]
    for method in dict.fromkeys(tried):
        count = tried.count(method)
        entrant = found[f"{method} (best of {count})" if count > 1 else method]
        numbers = [number for number, step in enumerate(run.steps) if step.get("merge") == method]
        best = max(numbers, key=lambda number: np.mean(run.scores(number)))
        searched = [entrant["judged"][0]["search"][task]["score"] for task in run.tasks]
        assert searched == list(run.scores(best))


def test_the_held_out_split_is_opened_once_for_the_models_chosen_before(compared: Path, models: Models) -> None:
    events = read_events(compared / "compared")
    kinds = [event["event"] for event in events]
    assert kinds[0] == "comparison"
    assert kinds[1] == "opened"
    assert set(kinds[2:]) == {"heldout"}
    frozen = {digest for digests in events[1]["frozen"].values() for digest in digests}
    assert {event["candidate"] for event in events[2:]} == frozen
    again = compare(compared, "--json")
    assert (again.code, again.out) == (0, (compared / "printed.json").read_text())
    assert read_events(compared / "compared") == events
    refused = compare(compared, "--budget", 7)
    assert refused.code != 0
    assert "holds a different comparison" in refused.err
    assert read_events(compared / "compared") == events


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("key", ["experts", "tasks"])
def test_a_reordered_recipe_is_another_comparison(copied: Path, key: str, recorded: bool) -> None:
    """recorded: whether the comparison's journal has the names, which versions before 0.2 did not write."""
    path = copied / "recipe.yaml"
    recipe = json.loads(path.read_text())
    value = recipe[key]
    path.write_text(json.dumps({**recipe, key: value[::-1] if key == "tasks" else dict(reversed(value.items()))}))
    journal = copied / "compared" / JOURNAL_FILE
    if not recorded:
        first, *rest = unsealed(journal.read_text()).splitlines(keepends=True)
        start = {name: value for name, value in json.loads(first).items() if name not in ("experts", "tasks")}
        journal.write_text(json.dumps(start) + "\n" + "".join(rest))
    before = journal.read_bytes()
    answer = compare(copied)
    assert answer.code == 2
    names = {"experts": "first, second -> second, first", "tasks": "vowels, letters -> letters, vowels"}
    assert f"order of {key}: {names[key]}" in answer.err
    assert ("holds a different comparison" in answer.err) == recorded
    assert journal.read_bytes() == before


def test_a_comparison_of_version_0_1_resumes_without_new_evaluations(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(ROOT / "tests" / "data" / "comparison-0.1", folder)
    journals = {path: path.read_text() for path in folder.rglob("journal.jsonl")}
    options = ("--strategies", "random,paper", "--budget", 3, "--seeds", 1, "--tune", "--output", folder)
    again = cycleqd_merge("compare", ROOT / "recipes" / "quickstart.yaml", *options, "--json")
    assert again.code == 0, again.err
    printed = json.loads((folder / "printed.json").read_text())
    assert json.loads(again.out)["tables"] == printed["tables"]
    assert {path: path.read_text() for path in folder.rglob("journal.jsonl")} == journals


def test_a_run_beyond_the_budget_is_refused(copied: Path) -> None:
    assert cycleqd_merge("evolve", copied / "compared/paper/seed-0", "--generations", 7).code == 0
    refused = compare(copied)
    assert refused.code != 0
    assert "paper/seed-0: has evaluated 7 children, more than the budget of 6" in refused.err


def test_models_chosen_after_the_split_was_opened_are_refused(copied: Path) -> None:
    """For example, other seeds until one wins, or a run repeated with other operators."""
    events = read_events(copied / "compared")
    refused = compare(copied, "--set", "evolution.seed=5")
    assert refused.code != 0
    assert "holds a different comparison (first seed: 0 -> 5)" in refused.err
    shutil.rmtree(copied / "compared/cma-es-groups")
    refused = compare(copied, "--set", "evolution.groups.modules=true")
    assert refused.code != 0
    assert "was opened at" in refused.err
    assert "opened only once" in refused.err
    assert read_events(copied / "compared") == events


def test_a_comparison_killed_while_it_scores_the_held_out_split_resumes(compared: Path, copied: Path) -> None:
    journal = copied / "compared/journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:5]) + lines[5][:20])
    again = compare(copied, "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out) == json.loads((compared / "printed.json").read_text())


def test_a_comparison_stopped_while_a_run_was_set_up_resumes(copied: Path) -> None:
    journal = copied / "compared/cma-es-groups/seed-1/journal.jsonl"
    whole = journal.read_text()
    journal.write_text("")
    (copied / "compared/journal.jsonl").write_text(
        (copied / "compared/journal.jsonl").read_text().splitlines(keepends=True)[0]
    )
    assert compare(copied).code == 0
    assert of_kind(read_events(journal.parent), "result")[-1]["number"] == whole.count('"event":"result"') - 1


def test_a_finished_run_on_other_rows_is_refused_before_any_work(copied: Path) -> None:
    recipe = json.loads((copied / "recipe.yaml").read_text())
    recipe["tasks"][0]["samples"] = 5
    (copied / "recipe.yaml").write_text(json.dumps(recipe))
    refused = compare(copied)
    assert refused.code != 0
    assert "contains a different run" in refused.err
    assert "tasks.vowels.samples" in refused.err


def test_strategies_that_cannot_be_created_are_refused_before_the_first_run(models: Models, tmp_path: Path) -> None:
    strategies = {"odd": {"strategy": {"kind": "mergekit", "methods": ["tiess"]}}}
    recipe = write_recipe(tmp_path, models, strategies=strategies)
    answer = cycleqd_merge("compare", recipe, "--strategies", "random,odd", "--output", tmp_path / "compared")
    assert answer.code != 0
    assert "mergekit has no method 'tiess'" in answer.err
    assert not (tmp_path / "compared/random").exists()


def test_own_strategies_of_static_merges_stay_apart(models: Models, tmp_path: Path) -> None:
    def grid(weight: float) -> dict[str, Any]:
        methods = {"methods": ["task_arithmetic"], "grid": {"task_arithmetic": {"weight": [weight]}}}
        return {"strategy": {"kind": "mergekit", **methods}, "evolution": {"seed": 9, "bins": 3}}

    recipe = write_recipe(tmp_path, models, strategies={"low": grid(0.2), "high": grid(0.9), "plain": {}})
    options = ("--strategies", "plain,low,high", "--budget", 2, "--seeds", 1, "--output", tmp_path / "compared")
    assert cycleqd_merge("compare", recipe, *options).code == 0
    found = json.loads((tmp_path / "compared/comparison.json").read_text())
    assert {"low task_arithmetic", "high task_arithmetic"} <= {entrant["name"] for entrant in found["entrants"]}
    own = open_run(tmp_path / "compared/low/seed-1").recipe.evolution
    assert (own.seed, own.bins) == (1, 10)


def test_tables_and_figures_are_in_its_folder(compared: Path) -> None:
    folder = compared / "compared"
    with (folder / "models.csv").open() as file:
        rows = list(csv.reader(file))
    assert len(rows) == 1 + len(result_of(compared)["entrants"])
    assert "paper best-mean" in (folder / "comparison.md").read_text()
    pictures = sorted(path.name for path in (folder / "figures").iterdir())
    assert pictures == [f"{name}.{kind}" for name in ("archives", "curves", "winners") for kind in ("png", "svg")]


def test_tuning_scores_on_the_confirmation_split_that_no_strategy_saw(models: Models, tmp_path: Path) -> None:
    strategies = {"wild": {"evolution": {"sigma": 0.5, "mutation": {"kind": "none"}, "generations": 99, "seed": 7}}}
    recipe = write_recipe(tmp_path, models, strategies=strategies)
    options = ("--strategies", "wild,paper", "--budget", 4, "--seeds", 1, "--output", tmp_path / "tuned", "--tune")
    answer = cycleqd_merge("compare", recipe, *options)
    assert answer.code == 0, answer.err
    assert "on the confirmation split, and the held-out split was not opened" in answer.out
    wild = open_run(tmp_path / "tuned/wild/seed-1")
    assert (wild.generation, wild.recipe.evolution.sigma, wild.confirmed) == (4, 0.5, {})
    found = {
        entrant["name"]: entrant for entrant in json.loads((tmp_path / "tuned/comparison.json").read_text())["entrants"]
    }
    alone = measure(wild, ["best-mean"], "confirm")["best-mean"]
    scores = {task: [o.score for o in result.outcomes] for task, result in alone.results.items()}
    assert found["wild best-mean"]["judged"][0]["heldout"] == scores
    assert {len(rows) for rows in scores.values()} == {4}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--strategies", "paper,cmaes"], "no strategy is named 'cmaes'.*cma-es"),
        (["--strategies", "paper,paper"], "paper is listed twice"),
        (["--strategies", "nsga2-groups"], "sets no `evolution.groups`"),
        (["--strategies", ","], "no strategy given; available: .*paper"),
        (["--strategies", "mergekit,paper"], "mergekit: static merges cannot be listed first"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_work(
    models: Models, tmp_path: Path, options: list[str], message: str
) -> None:
    recipe = write_recipe(tmp_path, models)
    answer = cycleqd_merge("compare", recipe, "--output", tmp_path / "compared", *options)
    assert answer.code != 0
    assert re.search(message, answer.err)
    assert not (tmp_path / "compared").exists()
