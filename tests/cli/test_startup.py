"""Commands that read YAML or a journal alone import no heavy library, as `sys.modules` shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.imports import HEAVY, Ended, imported
from tests.report.runs import make_run

LIGHTER = {"jinja2", "numpy", "ruamel"}
RECIPE = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
TYPO = ("--set", "evolution.generation=3")


def imported_by_command(*arguments: object) -> Ended:
    """What a command line imports, in a process of its own."""
    ended = imported("from cycleqd_merge.cli import main; main()", *arguments)
    assert "cycleqd_merge" in ended.packages, ended.stderr
    return ended


def assert_succeeds(ended: Ended) -> None:
    assert (ended.code, ended.stderr) == (0, "")


def assert_refused(ended: Ended, message: str) -> None:
    """One line with the message, and the exit code of wrong input."""
    assert ended.code == 2
    assert len(ended.stderr.splitlines()) == 1
    assert message in ended.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run."""
    folder = tmp_path_factory.mktemp("run")
    make_run(folder, generations=5)
    return folder


def test_the_package_imports_nothing_but_the_standard_library() -> None:
    ended = imported("import cycleqd_merge")
    assert_succeeds(ended)
    assert ended.packages - sys.stdlib_module_names - imported("pass").packages == {"cycleqd_merge"}


def test_plugins_are_found_without_an_import_of_their_own() -> None:
    code = "import cycleqd_merge; print(cycleqd_merge.plugins.Strategy.__name__, 'plugins' in dir(cycleqd_merge))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "Strategy True\n"


@pytest.mark.parametrize("arguments", [("--help",), ("evolve", "--help"), ("--version",)])
def test_help_imports_little(arguments: tuple[str, ...]) -> None:
    ended = imported_by_command(*arguments)
    assert_succeeds(ended)
    assert ended.packages & (HEAVY | LIGHTER) == set()


@pytest.mark.parametrize("command", ["evolve", "plan", "compare"])
def test_a_typo_in_a_recipe_is_reported_before_heavy_imports(command: str) -> None:
    ended = imported_by_command(command, RECIPE, *TYPO)
    assert_refused(ended, "evolution.generation: unknown key; did you mean 'generations'?")
    assert ended.packages & (HEAVY | {"numpy", "jinja2"}) == set()


def test_a_typo_in_a_task_file_is_reported_before_heavy_imports(tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text("kind: generate\npromt: hello\n")
    ended = imported_by_command("evolve", RECIPE, "--set", f"tasks.0.task={tmp_path}/task.yaml")
    assert ended.code == 2
    assert "promt: unknown key; did you mean 'prompt'?" in ended.stderr
    assert ended.packages & HEAVY == set()


@pytest.mark.parametrize("command", ["evolve", "plan", "show", "evaluate", "plot"])
def test_a_directory_without_a_run_is_reported_before_heavy_imports(command: str, tmp_path: Path) -> None:
    ended = imported_by_command(command, tmp_path)
    assert_refused(ended, f"{tmp_path}: not a run directory")
    assert ended.packages & HEAVY == set()


@pytest.mark.parametrize("options", [(), ("--json",), ("--elite", "best-mean")])
def test_showing_a_run_needs_no_heavy_library(run: Path, options: tuple[str, ...]) -> None:
    ended = imported_by_command("show", run, *options)
    assert_succeeds(ended)
    assert ended.packages & HEAVY == set()


def test_a_page_of_a_run_needs_no_heavy_library(run: Path, tmp_path: Path) -> None:
    ended = imported_by_command("report", run, "--output", tmp_path / "page.html")
    assert_succeeds(ended)
    assert ended.packages & HEAVY == set()
    assert (tmp_path / "page.html").is_file()


def test_a_wrong_name_of_a_model_is_reported_before_heavy_imports(run: Path, tmp_path: Path) -> None:
    ended = imported_by_command("export", run, "best-men", tmp_path / "out")
    assert_refused(ended, "best-men")
    assert ended.packages & HEAVY == set()


@pytest.mark.parametrize("call", ["load_recipe", "evolve"])
def test_the_python_interface_validates_before_heavy_imports(call: str) -> None:
    statement = f"from cycleqd_merge import {call}; {call}('{RECIPE}', overrides=['evolution.generation=3'])"
    ended = imported(statement)
    last = ended.stderr.splitlines()[-1]
    assert ended.code == 1
    assert last.startswith("cycleqd_merge.errors.RecipeError: --set evolution.generation=3: ")
    assert "did you mean 'generations'?" in last
    assert ended.packages & HEAVY == set()


def test_loading_a_recipe_needs_no_heavy_library() -> None:
    ended = imported(f"from cycleqd_merge import load_recipe; load_recipe('{RECIPE}')")
    assert_succeeds(ended)
    assert ended.packages & HEAVY == set()


def test_opening_a_run_in_python_needs_no_heavy_library(run: Path) -> None:
    ended = imported(f"from cycleqd_merge import open_run; open_run({str(run)!r}).elites()")
    assert_succeeds(ended)
    assert ended.packages & HEAVY == set()
