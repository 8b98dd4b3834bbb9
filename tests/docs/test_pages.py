"""The pages are correct: their code runs, their recipes are valid, their schemas are current."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML
from typer.main import get_command

from cycleqd_merge import evolve, load_recipe, open_run
from cycleqd_merge.cli import app
from cycleqd_merge.comparison.named_strategies import STRATEGIES, learned_strategies, with_strategy
from cycleqd_merge.config.hub import HubConfig
from cycleqd_merge.config.recipe import json_schema
from cycleqd_merge.config.strategies import NamedStrategyConfig
from cycleqd_merge.evolution.genome import Genome
from cycleqd_merge.strategies.protocol import Result
from cycleqd_merge.strategies.schedule import Schedule
from cycleqd_merge.strategies.space import Objective, SearchSpace
from cycleqd_merge.strategies.state import SearchState
from tests.models import short_quickstart

ROOT = Path(__file__).parents[2]


def blocks(page: str, language: str) -> list[str]:
    """The fenced code blocks of a page."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def block_with(page: str, text: str) -> str:
    """The one Python block of a page that holds `text`."""
    (found,) = [block for block in blocks(page, "python") if text in block]
    return found


@pytest.mark.parametrize("kind", ["recipe", "task"])
def test_schema_in_the_docs_is_the_one_that_is_printed(kind: Any) -> None:
    assert json.loads((ROOT / "docs" / f"{kind}.schema.json").read_text()) == json_schema(kind)


def test_readme_recipe_is_valid(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(blocks("README.md", "yaml")[0])
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert recipe.evolution.generations == 1200
    assert list(recipe.experts) == ["code", "db"]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory in which the pages' paths exist."""
    short_quickstart(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_guides_functions_do_what_it_says(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict[str, Any] = {}
    for code in blocks("docs/python.md", "python"):
        if "class Vowels" in code:
            break
        exec(code, scope)
    assert (checkout / "runs" / "guide" / "best-mean" / "model.safetensors").is_file()
    assert open_run("runs/guide").generation == 9
    assert scope["progress"].history[-1][0] == 9
    assert scope["found"].errors == []
    assert scope["forked"].generation == 2
    said = capsys.readouterr().out
    assert "Run('runs/guide': generation 6 of 6" in said
    assert "fix the input: " in said
    assert "evolution.generatoins" in said


def test_the_readmes_python_example_runs(checkout: Path) -> None:
    exec(block_with("README.md", "from cycleqd_merge import"), {})
    assert open_run("runs/api").generation == 12
    assert (checkout / "runs" / "api" / "best-mean" / "model.safetensors").is_file()


def test_the_pages_python_code_passes_mypy_strict(tmp_path: Path) -> None:
    """As for a user of the installed package, whose own files alone are reported on."""
    skipped = "torch transformers accelerate peft mergekit datasets huggingface_hub pandas matplotlib scipy sklearn ray"
    settings = ["[mypy]", "strict = true", "follow_imports = silent"]
    for library in skipped.split():  # parsing them takes a minute, and the pages' code does not depend on their types
        settings += [f"[mypy-{library}.*]", "follow_imports = skip"]
    (tmp_path / "mypy.ini").write_text("\n".join(settings))
    (tmp_path / "guide.py").write_text("\n".join(blocks("docs/python.md", "python")))
    (tmp_path / "readme.py").write_text("\n".join(blocks("README.md", "python")))
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    command = [sys.executable, "-m", "mypy", "guide.py", "readme.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_page_imports_from_a_private_module() -> None:
    public = re.compile(r"cycleqd_merge(\.plugins|\.errors)?")
    for page in sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]):
        for module in re.findall(r"(?:from|import) (cycleqd_merge[\w.]*)", page.read_text(encoding="utf-8")):
            assert public.fullmatch(module), f"{page.name}: {module}"


def test_own_task_scorer_and_strategy_run(tmp_path: Path) -> None:
    (tmp_path / "my_tasks.py").write_text(block_with("docs/python.md", "class Vowels"))
    (tmp_path / "my_scorers.py").write_text(block_with("docs/python.md", "def overlap"))
    (tmp_path / "my_strategies.py").write_text(block_with("docs/python.md", "class RandomWeights"))
    (tmp_path / "words.jsonl").write_text(
        '{"prompt": "R:sun=", "answer": "nus"}\n{"prompt": "R:sea=", "answer": "aes"}\n'
    )
    quickstart = ROOT / "recipes" / "quickstart" / "models"
    (tmp_path / "recipe.yaml").write_text(f"""
base: {quickstart}/base
experts: {{reverse: {quickstart}/reverse, sort: {quickstart}/sort}}
tasks:
  - name: vowels
    bounds: [0, 1]
    task: {{kind: python, target: "my_tasks.py:Vowels"}}
  - name: letters
    bounds: [0, 1]
    task:
      kind: generate
      data: {{rows: {{path: words.jsonl}}}}
      prompt: "{{{{ prompt }}}}"
      scorer: {{kind: python, target: "my_scorers.py:overlap"}}
      max_new_tokens: 8
strategy: {{kind: python, target: "my_strategies.py:RandomWeights", options: {{scale: 0.8}}}}
evolution: {{generations: 3}}
confirm: {{share: 0}}
output: {tmp_path}/run
""")
    recipe = load_recipe(tmp_path / "recipe.yaml")
    run = evolve(recipe)
    assert run is not None
    assert run.generation == 3
    assert all(len(archive.elites()) > 0 for archive in run.archives)
    child = run.search.candidate(2)
    assert isinstance(child, Genome)
    assert 0 < child.coefficients.min() < child.coefficients.max() < 0.8
    again = open_run(tmp_path / "run")
    assert [again.search.genome(n) for n in range(5)] == [run.search.genome(n) for n in range(5)]


def test_own_strategy_takes_what_was_recorded_for_its_own() -> None:
    scope: dict[str, Any] = {}
    for name in ("RandomWeights", "Sphere"):
        exec(block_with("docs/python.md", f"class {name}"), scope)
    tasks = tuple(Objective(name, number, 4, (0.0, 1.0)) for number, name in enumerate(("sql", "bash")))
    recorded = [{"expert": 0}, {"expert": 1}, {"coefficients": [[0.5, 0.25], [0.125, 0.0]]}]
    state = SearchState(SearchSpace(tasks, experts=2, groups=2))
    schedule = Schedule(scope["Sphere"](state, 1), 1, 4, recorded)
    proposals = schedule.ready()
    while not schedule.done:
        proposals += schedule.tell(Result(len(proposals) - 1, (0.25, 0.5)))
    assert [each.step for each in proposals[:3]] == recorded
    assert np.linalg.norm(proposals[3].step["coefficients"]) == pytest.approx(1.0)


def test_the_hub_pages_recipe_and_commands_exist(tmp_path: Path) -> None:
    (text,) = blocks("docs/hub.md", "yaml")
    assert HubConfig.model_validate(YAML(typ="safe", pure=True).load(text)["hub"]).every == 100
    commands = get_command(app).commands  # type: ignore[attr-defined]
    page = (ROOT / "docs" / "hub.md").read_text(encoding="utf-8")
    options = {option for command in ("push", "pull") for each in commands[command].params for option in each.opts}
    for option in re.findall(r"(--[a-z][a-z-]+)", page):
        assert option in options | {"--generations"}, option


def test_the_page_on_comparisons_names_every_strategy_and_option() -> None:
    page = (ROOT / "docs" / "compare.md").read_text(encoding="utf-8")
    (text,) = blocks("docs/compare.md", "yaml")
    strategies = YAML(typ="safe", pure=True).load(text)["strategies"]
    quickstart = load_recipe(ROOT / "recipes" / "quickstart.yaml")
    recipe = quickstart.model_copy(
        update={"strategies": {name: NamedStrategyConfig(**own) for name, own in strategies.items()}}
    )
    assert [*learned_strategies(recipe, list(strategies))] == ["tuned", "regmean-paper"]
    searched = [name for name in strategies if name not in ("tuned", "regmean-paper")]
    assert [with_strategy(recipe, name).strategy.kind for name in searched] == ["cycleqd", "cma-es"]
    rows = re.findall(r"^\| (`.*?) \|", page.split("## Strategies by name")[1].split("```")[0], re.MULTILINE)
    grouped = re.findall(r"`([a-z0-9-]+-groups)`", page)
    named = [name for row in rows for name in re.findall(r"`([a-z0-9-]+)`", row)]
    assert sorted({*named, *grouped}) == sorted(STRATEGIES)
    options = {each for param in get_command(app).commands["compare"].params for each in param.opts}  # type: ignore[attr-defined]
    assert set(re.findall(r"(--[a-z][a-z-]+)", page)) <= options
