"""What a valid recipe becomes: the paper's defaults, stated values, paths that do not depend on where one stands."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from cycleqd_merge.comparison.named_strategies import with_strategy
from cycleqd_merge.config.evolution import (
    EvolutionConfig,
    GaussianMutationConfig,
    LayerGroupsConfig,
    PatternGroupsConfig,
    SvdMutationConfig,
)
from cycleqd_merge.config.fit import FitConfig
from cycleqd_merge.config.loading import load_task, parse
from cycleqd_merge.config.presets import PRESETS
from cycleqd_merge.config.recipe import Recipe, TaskConfig, task_name
from cycleqd_merge.config.strategies import BayesianConfig, CycleQDConfig
from cycleqd_merge.config.tasks import GenerateTaskConfig, PythonTaskConfig
from tests.config.texts import INLINE, NAMED, load, replaced


def test_defaults_are_those_of_the_paper(tmp_path: Path) -> None:
    evolution = load(tmp_path, NAMED).evolution
    assert evolution.generations == 1200
    assert evolution.bins == 15
    assert (evolution.bounds.low, evolution.bounds.high) == (0.85, 1.15)
    assert (evolution.mu, evolution.sigma) == (1.0, 0.03)
    assert (evolution.alpha_low, evolution.alpha_high) == (0.5, 0.8)
    assert evolution.mutation == SvdMutationConfig(w_max=0.3, signed=False)
    assert (evolution.groups, evolution.sampling) == ("one", "elite")


def test_values_are_those_stated(tmp_path: Path) -> None:
    recipe = load(tmp_path, NAMED)
    assert recipe.base == "org/base"
    assert recipe.experts == {"code": "org/code", "sql": "org/sql"}
    assert [(use.task, use.name, use.expert) for use in recipe.tasks] == [
        ("smollm2-sql", "sql", "sql"),
        ("smollm2-bash", "code", "code"),
    ]
    assert recipe.output == "runs/x"


def test_an_inline_task_is_read_as_a_definition(tmp_path: Path) -> None:
    definition = load(tmp_path, INLINE).tasks[1].task
    assert isinstance(definition, GenerateTaskConfig)
    assert (definition.scorer.kind, definition.max_new_tokens, definition.temperature) == ("exact", 64, 0.0)


@pytest.mark.parametrize(
    ("mutation", "expected"),
    [
        ("{w_max: 0.1}", SvdMutationConfig(w_max=0.1)),
        ("{signed: true}", SvdMutationConfig(signed=True)),
        ("{kind: gaussian, std: 0.001}", GaussianMutationConfig(kind="gaussian", std=0.001)),
    ],
)
def test_mutation_is_along_singular_directions_unless_stated(
    tmp_path: Path, mutation: str, expected: SvdMutationConfig | GaussianMutationConfig
) -> None:
    assert load(tmp_path, f"{NAMED}evolution:\n  mutation: {mutation}\n").evolution.mutation == expected


def test_a_recipe_survives_the_journal(tmp_path: Path) -> None:
    text = f"{INLINE}evolution: {{mutation: {{w_max: 0.1}}, groups: {{layers: 2, modules: true}}}}\n"
    recipe = load(tmp_path, text)
    journaled = recipe.model_dump(mode="json", exclude_unset=True)
    assert parse(TypeAdapter(Recipe), journaled, "journal") == recipe


def test_a_preset_states_what_the_recipe_does_not() -> None:
    recommended = EvolutionConfig.model_validate({"preset": "recommended@1", "scaling": [1.0, 1.1], "bins": 4})
    assert recommended.scaling == (1.0, 1.1)
    assert recommended.warm_start == PRESETS["recommended@1"]["evolution"]["warm_start"]
    assert recommended.bins == 4
    again = EvolutionConfig.model_validate(recommended.model_dump(mode="json", exclude_unset=True))
    assert again == recommended
    paper = EvolutionConfig.model_validate({"preset": "paper"})
    assert paper.model_copy(update={"preset": None}) == EvolutionConfig()


def test_the_recommended_preset_brings_its_strategy_unless_one_is_stated(tmp_path: Path) -> None:
    recommended = load(tmp_path, f"{NAMED}evolution: {{preset: recommended}}\n")
    assert recommended.strategy == BayesianConfig(kind="bayesian")
    assert recommended.fit == FitConfig()
    assert recommended.evolution.groups == LayerGroupsConfig(blocks=3, modules=True)
    journaled = recommended.model_dump(mode="json", exclude_unset=True)
    assert parse(TypeAdapter(Recipe), journaled, "journal") == recommended
    stated = load(tmp_path, f"{NAMED}evolution: {{preset: recommended}}\nstrategy: {{kind: cycleqd}}\n")
    assert stated.strategy == CycleQDConfig()
    assert load(tmp_path, NAMED, "evolution.preset=recommended").strategy == recommended.strategy
    for other in ("", "evolution: {preset: paper}\n", "evolution: {bins: 4}\n"):
        assert load(tmp_path, NAMED + other).strategy == CycleQDConfig()
    beside = load(tmp_path, f"{NAMED}strategies: {{mine: {{evolution: {{preset: recommended}}}}}}\n")
    assert beside.strategy == CycleQDConfig()
    assert with_strategy(beside, "mine").strategy == recommended.strategy


def test_the_old_key_of_own_strategies_is_read_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = "{mine: {strategy: {kind: random, low: 0.2}}}"
    with caplog.at_level(logging.WARNING):
        new = load(tmp_path, f"{NAMED}strategies: {own}\n")
    assert caplog.messages == []
    with caplog.at_level(logging.WARNING), pytest.warns(DeprecationWarning, match=r":11: `searches` is deprecated"):
        old = load(tmp_path, f"{NAMED}searches: {own}\n")
    path = tmp_path / "recipe.yaml"
    (line,) = caplog.messages
    assert line == f"{path}:11: `searches` is deprecated and will be removed in 0.3; use `strategies`"
    assert old == new
    journaled = {**old.model_dump(mode="json", exclude_unset=True, exclude={"strategies"}), "searches": {}}
    journaled["searches"] = new.model_dump(mode="json", exclude_unset=True)["strategies"]  # as version 0.1 wrote it
    assert parse(TypeAdapter(Recipe), journaled, "journal") == new


@pytest.mark.parametrize(
    ("stated", "name", "groups"),
    [
        ("", "recommended", LayerGroupsConfig(blocks=3, modules=True)),
        ("groups: {layers: 4}", "recommended", LayerGroupsConfig(layers=4)),
        ("groups: {patterns: [mlp]}", "recommended", PatternGroupsConfig(patterns=["mlp"])),
        ("groups: {layers: 4}", "bayesian-groups", LayerGroupsConfig(layers=4)),
        ("groups: {layers: 4}", "bayesian", "one"),
        ("preset: recommended", "cma-es-groups", LayerGroupsConfig(blocks=3, modules=True)),
    ],
)
def test_a_strategy_by_name_takes_the_groups_that_it_should(
    tmp_path: Path, stated: str, name: str, groups: Any
) -> None:
    found = with_strategy(load(tmp_path, f"{NAMED}evolution: {{{stated}}}\n"), name)
    assert found.evolution.groups == groups
    assert found.strategy.kind == ("cma-es" if name == "cma-es-groups" else "bayesian")
    assert (found.fit is not None) == (name == "recommended")


@pytest.mark.parametrize(
    ("settings", "workers", "flights"),
    [({}, 1, 2), ({}, 4, 8), ({"preset": "paper"}, 4, 1), ({"in_flight": 3}, 4, 3)],
)
def test_children_in_flight_follow_workers_and_preset(settings: dict[str, object], workers: int, flights: int) -> None:
    assert EvolutionConfig.model_validate(settings).children_in_flight(workers) == flights


def test_a_task_is_named_by_its_file_unless_it_has_a_name() -> None:
    assert task_name(TaskConfig(task="somewhere/else/sums.yaml")) == "sums"
    assert task_name(TaskConfig(task="smollm2-sql")) == "smollm2-sql"
    assert task_name(TaskConfig(task="somewhere/else/sums.yaml", name="maths")) == "maths"


def test_merge_keys_and_anchors_share_what_tasks_have_in_common(tmp_path: Path) -> None:
    text = replaced(INLINE, "    task:\n", "    task: &common\n")
    text = replaced(text, "output:", "  - {name: other, task: {<<: *common, prompt: other}}\noutput:")
    tasks = [use.task for use in load(tmp_path, text).tasks[1:]]
    assert [task.prompt for task in tasks if isinstance(task, GenerateTaskConfig)] == ["{{ q }}", "other"]


def test_model_paths_start_at_the_folder_of_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "recipes"
    for name in ("base", "adapter", "full"):
        (folder / name).mkdir(parents=True)
    (folder / "template.jinja").write_text("{{ messages }}")
    monkeypatch.chdir(tmp_path)
    text = replaced(NAMED, "org/base", "base")
    text = replaced(text, "org/code", "base+adapter@main")
    text = replaced(text, "org/sql", "./full") + "models: {chat_template: template.jinja}\n"
    recipe = load(folder, text)
    assert recipe.base == str(folder / "base")
    assert recipe.experts == {"code": f"{folder / 'base'}+{folder / 'adapter'}@main", "sql": str(folder / "full")}
    assert recipe.models.chat_template == str(folder / "template.jinja")


def test_references_that_are_no_files_are_left_alone(tmp_path: Path) -> None:
    recipe = load(tmp_path, replaced(NAMED, "org/code", "org/base@v1+org/adapter") + "models: {chat_template: sql}\n")
    assert recipe.experts["code"] == "org/base@v1+org/adapter"
    assert recipe.models.chat_template == "sql"


@pytest.mark.parametrize("template", ["base", "sql"])
def test_a_model_whose_chat_template_counts_is_no_path(tmp_path: Path, template: str) -> None:
    (tmp_path / template).mkdir()
    assert load(tmp_path, f"{NAMED}models: {{chat_template: {template}}}\n").models.chat_template == template


def test_a_task_file_is_found_beside_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine" / "sums.yaml"
    path.parent.mkdir()
    path.write_text("kind: python\ntarget: sums.py:Sums\n")
    recipe = load(tmp_path, replaced(NAMED, "task: smollm2-bash", "task: mine/sums.yaml"))
    use = next(use for use in recipe.tasks if use.task == str(path))
    assert load_task(use) == PythonTaskConfig(kind="python", target=f"{path.parent}/sums.py:Sums")
