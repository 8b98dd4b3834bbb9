"""Strategies that learn by gradient, compared on tiny models: what they cost, and what their models are."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

from cycleqd_merge.comparison import learned_models
from cycleqd_merge.comparison.compare import FinishedComparison, compare
from cycleqd_merge.comparison.named_strategies import learned_strategies, with_strategy
from cycleqd_merge.comparison.results import result_from_json, result_to_json
from cycleqd_merge.comparison.strategy_runs import Budget, named_with_seeds, plan_runs
from cycleqd_merge.comparison.table_formats import table_to_records
from cycleqd_merge.config.fine_tuning import FineTuningConfig
from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.errors import RecipeError
from cycleqd_merge.evaluation.opened_recipe import OpenedRecipe
from cycleqd_merge.fitting.examples import Example, examples_from_bytes
from cycleqd_merge.journal.log import JOURNAL_FILE, of_kind, read_events
from cycleqd_merge.merging.candidates import candidate_tensors
from cycleqd_merge.run.learn import examples_path
from cycleqd_merge.run.state import Run, open_run
from tests.cli.conftest import cycleqd_merge
from tests.fitting.test_regmean import activations, numpy_regmean
from tests.models import make_base, make_expert, make_recipe, read_tensors
from tests.report.test_page import Page

FIT = {"steps": 4, "spread_steps": 2, "rows": 3}
STRATEGIES = ["fits", "random", "fine-tuning", "regmean"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("rivals")
    base = make_base(folder / "base")
    experts: dict[str, Path | str] = {
        name: make_expert(base, folder / name, seed, scale=0.05) for seed, name in enumerate("xy", start=1)
    }
    return make_recipe(folder, base, experts, fit=FIT, evolution={"seed": 3})


@pytest.fixture(scope="module")
def compared(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> FinishedComparison:
    return compare(recipe, STRATEGIES, 3, 1, output=tmp_path_factory.mktemp("compared") / "all")


def run_events(compared: FinishedComparison, strategy: str) -> list[dict[str, Any]]:
    return read_events(compared.folder / strategy / "seed-3")


def run_of(compared: FinishedComparison) -> Run:
    return open_run(compared.folder / "fits" / "seed-3")


def test_fits_alone_are_a_strategy_whose_best_mean_is_scored(compared: FinishedComparison) -> None:
    run = open_run(compared.folder / "fits" / "seed-3")
    assert (len(run.fits), run.generations, len(run.results)) == (3, 0, 2 + 3)
    assert run.confirmed
    model = compared.result.by_name["fits best-mean"]
    assert model.by_seed[0].digest == run.digest(run.candidate(run.best_mean()))
    assert compared.result.runs_by_strategy["fits"][0].evaluations == 5
    assert not of_kind(run_events(compared, "random"), "fit")


def test_fits_alone_have_the_settings_of_the_recipe(recipe: Recipe) -> None:
    assert with_strategy(recipe, "fits").fit == recipe.fit
    plain = recipe.model_copy(update={"fit": None})
    assert with_strategy(plain, "fits").fit is not None
    assert with_strategy(plain, "random").fit is None


def test_the_shared_engine_can_be_released_if_any_strategy_has_fits(recipe: Recipe, tmp_path: Path) -> None:
    from cycleqd_merge.comparison import strategy_runs

    planned = plan_runs(recipe, ["random", "fits"], Budget(3), 1, tmp_path, "heldout")
    assert planned[0].recipe.fit is None
    assert strategy_runs._common_recipe([each.recipe for each in planned]).fit == recipe.fit


def test_a_strategy_may_have_a_number_of_seeds_of_its_own(recipe: Recipe, tmp_path: Path) -> None:
    names, own = named_with_seeds(["random", "cma-es:3", "mergekit"])
    planned = plan_runs(recipe, names, Budget(3), 2, tmp_path, "heldout", own_seeds=own)
    runs = [(each.strategy, each.seed - recipe.evolution.seed) for each in planned]
    assert runs == [("random", 0), ("random", 1), ("cma-es", 0), ("cma-es", 1), ("cma-es", 2), ("mergekit", 0)]


@pytest.mark.parametrize(
    ("stated", "problem"),
    [
        ("cma-es:0", "cma-es:0: after the colon, state the strategy's number of seeds, as in cma-es:3"),
        ("cma-es:", "cma-es:: after the colon"),
        ("cma-es:two", "cma-es:two: after the colon"),
        ("cma-es:-1", "cma-es:-1: after the colon"),
        ("mergekit:2", "mergekit:2: mergekit has no number of seeds of its own"),
        ("fine-tuning:2", "fine-tuning:2: fine-tuning has no number of seeds of its own"),
    ],
)
def test_a_wrong_number_of_seeds_is_refused(recipe: Recipe, tmp_path: Path, stated: str, problem: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(problem)):
        compare(recipe, ["random", "fits", stated], 3, 1, output=tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_the_cost_of_a_strategy_includes_its_fits_and_confirmations(compared: FinishedComparison) -> None:
    for strategy in ("fits", "random"):
        events = run_events(compared, strategy)
        timed = [event["seconds"] for kind in ("result", "confirm") for event in of_kind(events, kind)]
        fits = sum(sum(event["seconds"].values()) for event in of_kind(events, "fit"))
        result = compared.result.runs_by_strategy[strategy][0]
        assert result.fit_seconds == pytest.approx(fits)
        assert result.seconds == pytest.approx(sum(map(sum, timed)) + fits)
        assert (fits > 0) == (strategy == "fits")
    rows = {row["strategy"]: row for row in table_to_records(compared.report.tables["strategies"])}
    assert rows["fits"]["minutes"] > rows["fits"]["minutes of fits"] > 0 == rows["random"]["minutes of fits"]


def test_runs_end_when_their_seconds_are_spent(recipe: Recipe, tmp_path: Path) -> None:
    first = compare(recipe, ["random"], 500, 1, budget_seconds=1e-3, output=tmp_path)
    assert [run.evaluations for run in first.result.runs] == [2]
    assert compare(recipe, ["random"], 500, 1, budget_seconds=1e-3, output=tmp_path).result == first.result
    with pytest.raises(RecipeError, match=r"budget in seconds: 0\.001 -> None"):
        compare(recipe, ["random"], 500, 1, output=tmp_path)


def test_a_merge_is_fine_tuned_for_as_long_as_the_fits_took(
    compared: FinishedComparison, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    (event,) = of_kind(read_events(compared.folder), "fine-tuned")
    fits = of_kind(run_events(compared, "fits"), "fit")
    assert event["seconds"] >= sum(sum(fit["seconds"].values()) for fit in fits) > 0
    assert (event["strategy"], event["seed"], event["steps"] >= 1) == ("fine-tuning", 3, True)
    model = compared.result.by_name["fine-tuning"]
    assert (model.kind, model.strategy, model.by_seed[0].seed) == ("fine-tuned", "fine-tuning", 3)
    kinds = [each["event"] for each in read_events(compared.folder)]
    assert kinds[:4] == ["comparison", "fine-tuned", "regmean", "opened"]
    monkeypatch.setattr(learned_models, "recorded_job", None)  # nothing is learned again
    again = compare(recipe, STRATEGIES, 3, 1, output=compared.folder)
    assert again.result == compared.result


def test_a_fine_tuned_model_scores_as_its_checkpoint_does(compared: FinishedComparison, recipe: Recipe) -> None:
    opened = OpenedRecipe.open(recipe)
    base = read_tensors(Path(recipe.base))
    folder = compared.folder / "fine-tuning" / "seed-3"
    stored = read_tensors(folder)
    built = dict(candidate_tensors(learned_models._candidate(folder), opened.materialiser(())))
    assert stored.keys() == built.keys() == base.keys()
    assert all(torch.equal(stored[name], tensor) for name, tensor in built.items())


def test_regmean_merges_the_experts_on_their_recorded_answers(compared: FinishedComparison, recipe: Recipe) -> None:
    """Against NumPy, with the inputs of a layer of each expert as transformers loads it."""
    (event,) = of_kind(read_events(compared.folder), "regmean")
    model = compared.result.by_name["regmean (best of 3)"]
    assert (event["seed"], model.kind, model.by_seed[0].seed) == (3, "merge", None)
    assert event["scale"] in (1.0, 1.5, 2.0)
    assert [folder.name for folder in (compared.folder / "regmean").iterdir()] == [f"scale-{event['scale']:g}"]
    assert all(0 <= estimate.score <= 1 for estimate in model.by_seed[0].search.values())
    assert list(model.by_seed[0].search) == run_of(compared).tasks
    run = run_of(compared)
    answers: list[list[Example]] = [[], []]
    for task in run.fitted_tasks:
        teacher, path = run.teacher(task), examples_path(compared.folder / "fits" / "seed-3", task)
        assert teacher is not None
        answers[teacher] += examples_from_bytes(path.read_bytes())
    answers = [own or answers[1 - number] for number, own in enumerate(answers)]
    experts = [AutoModelForCausalLM.from_pretrained(recipe.experts[name], dtype=torch.float32) for name in "xy"]
    base = read_tensors(Path(recipe.base))
    merged = read_tensors(compared.folder / "regmean" / f"scale-{event['scale']:g}")
    for module in ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"):
        rows = [activations(each.eval(), module, own) for each, own in zip(experts, answers, strict=True)]
        weights = [each.get_parameter(f"{module}.weight").detach().double().numpy() for each in experts]
        found, start = (tensors[f"{module}.weight"].double().numpy() for tensors in (merged, base))
        wanted = start + event["scale"] * (numpy_regmean(weights, rows, 0.9) - start)
        np.testing.assert_allclose(found, wanted, rtol=2**-7, atol=1e-5)


def test_the_cost_of_what_is_learned_without_a_search_is_listed(compared: FinishedComparison) -> None:
    rows = {row["strategy"]: row for row in table_to_records(compared.report.tables["strategies"])}
    assert list(rows) == ["fits", "random", "fine-tuning", "regmean"]
    for name, kind in (("fine-tuning", "fine-tuned"), ("regmean", "regmean")):
        (event,) = of_kind(read_events(compared.folder), kind)
        assert rows[name]["minutes"] == pytest.approx(event["seconds"] / 60)
        assert (rows[name]["evaluations"], rows[name]["coverage (%)"]) == (None, None)
    again = result_from_json(json.loads(json.dumps(result_to_json(compared.result))), "here")
    assert again == compared.result


def test_a_subset_of_the_rows_pays_for_more_children(recipe: Recipe, tmp_path: Path) -> None:
    result = compare(recipe, ["subset"], 3, 1, output=tmp_path).result
    (facts,) = result.runs
    assert (facts.evaluations, facts.failures) == (2 + 30, 0)
    run = open_run(tmp_path / "subset" / "seed-3")
    complete = {event["number"] for event in run.results if event["scores"] is not None}
    assert facts.censored == 32 - len(complete) > 12
    best = result.by_name["subset best-mean"]
    assert best.by_seed[0].digest == run.digest(run.candidate(run.best_mean()))
    assert run.best_mean() in complete & set(run.confirmed)
    rows = [np.flatnonzero(run.outcomes(31)[task].scored).tolist() for task in run.tasks]
    assert all(len(each) == 1 for each in rows)


@pytest.mark.parametrize(
    ("strategies", "message"),
    [
        (["random", "fine-tuning"], "fine-tuning: learns from the answers that a strategy with fits records"),
        (["random", "regmean"], "regmean: learns from the answers that a strategy with fits records"),
        (["fine-tuning", "fits"], "fine-tuning: cannot be listed first"),
    ],
)
def test_what_is_learned_without_a_search_needs_the_answers_of_a_run(
    recipe: Recipe, tmp_path: Path, strategies: list[str], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        compare(recipe, strategies, 3, 1, output=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_own_fine_tuning_strategies_have_settings_and_no_search(recipe: Recipe) -> None:
    stated = recipe.model_dump(mode="json", exclude_unset=True)
    own = {"strategies": {"tuned": {"fine_tuning": {"learning_rate": 1e-4, "steps": 7}}}}
    assert learned_strategies(Recipe.model_validate(stated | own), ["fits", "tuned"]) == {
        "tuned": FineTuningConfig(learning_rate=1e-4, steps=7)
    }
    own["strategies"]["tuned"]["strategy"] = {"kind": "random"}
    with pytest.raises(ValidationError, match="cannot be combined with `strategy`"):
        Recipe.model_validate(stated | own)
    own["strategies"]["tuned"] = {"regmean": {"off_diagonal": 0.1}, "fine_tuning": {}}
    with pytest.raises(ValidationError, match="cannot be combined with `fine_tuning`"):
        Recipe.model_validate(stated | own)


def test_the_page_of_a_comparison_lists_the_fine_tuned_model(compared: FinishedComparison, tmp_path: Path) -> None:
    answer = cycleqd_merge("report", compared.folder, "--output", tmp_path / "page.html")
    assert (answer.code, answer.err) == (0, "")
    mean = np.mean([compared.result.by_name["fine-tuning"].heldout(task).mean() for task in compared.result.tasks])
    assert f"{mean:.3f}" in Page((tmp_path / "page.html").read_text()).rows["comparison-models fine-tuning"]


def test_a_model_that_was_written_but_not_recorded_is_trained_again(
    compared: FinishedComparison, recipe: Recipe, tmp_path: Path
) -> None:
    """As a kill between the two leaves it."""
    shutil.copytree(compared.folder, tmp_path / "cut")
    journal = tmp_path / "cut" / JOURNAL_FILE
    journal.write_bytes(journal.read_bytes().splitlines(keepends=True)[0])
    again = compare(recipe, STRATEGIES, 3, 1, output=tmp_path / "cut")
    assert again.result.by_name["fits best-mean"] == compared.result.by_name["fits best-mean"]
    assert len(of_kind(read_events(tmp_path / "cut"), "fine-tuned")) == 1
    shutil.rmtree(tmp_path / "cut" / "fine-tuning")
    with pytest.raises(RecipeError, match="this model is missing"):
        compare(recipe, STRATEGIES, 3, 1, output=tmp_path / "cut")
