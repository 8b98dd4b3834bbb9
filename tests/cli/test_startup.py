"""Commands that read YAML or a journal alone import no heavy library, as `sys.modules` shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.report.runs import make_run

HEAVY = {
    *("PIL", "accelerate", "cma", "datasets", "huggingface_hub", "lm_eval", "matplotlib", "mergekit", "moocore"),
    *("pandas", "peft", "pyarrow", "pymoo", "pymysql", "ray", "ribs", "safetensors", "scipy", "sklearn", "sqlglot"),
    *("torch", "transformers", "vllm"),
}
LIGHTER = {"jinja2", "numpy", "ruamel"}
RECIPE = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
TYPO = ("--set", "evolution.generation=3")


def imported(code: str, *arguments: object) -> set[str]:
    """Top-level modules of a new interpreter after it has run `code`."""
    report = "import atexit, sys; atexit.register(lambda: print('modules:', *sys.modules))"
    command = [sys.executable, "-c", f"{report}\n{code}", *map(str, arguments)]
    printed = subprocess.run(command, capture_output=True, text=True, check=False)
    modules = printed.stdout.rpartition("modules: ")[2].split()
    assert "cycleqd_merge" in modules, printed.stderr
    return {name.split(".")[0] for name in modules}


def imported_by_command(*arguments: object) -> set[str]:
    """The same, after a command line."""
    return imported("from cycleqd_merge.cli import main; main()", *arguments)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run."""
    folder = tmp_path_factory.mktemp("run")
    make_run(folder, generations=5)
    return folder


def test_the_package_imports_nothing_but_the_standard_library() -> None:
    assert imported("import cycleqd_merge") & (HEAVY | LIGHTER | {"pydantic", "rich", "typer"}) == set()


def test_plugins_are_found_without_an_import_of_their_own() -> None:
    code = "import cycleqd_merge; print(cycleqd_merge.plugins.Strategy.__name__, 'plugins' in dir(cycleqd_merge))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "Strategy True\n"


@pytest.mark.parametrize("arguments", [("--help",), ("evolve", "--help"), ("--version",)])
def test_help_imports_little(arguments: tuple[str, ...]) -> None:
    assert imported_by_command(*arguments) & (HEAVY | LIGHTER) == set()


@pytest.mark.parametrize("command", ["evolve", "plan", "compare"])
def test_a_typo_in_a_recipe_is_reported_before_heavy_imports(command: str) -> None:
    assert imported_by_command(command, RECIPE, *TYPO) & (HEAVY | {"numpy", "jinja2"}) == set()


def test_a_typo_in_a_task_file_is_reported_before_heavy_imports(tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text("kind: generate\npromt: hello\n")
    settings = ("--set", f"tasks.0.task={tmp_path}/task.yaml")
    assert imported_by_command("evolve", RECIPE, *settings) & HEAVY == set()


@pytest.mark.parametrize("command", ["evolve", "plan", "show", "evaluate", "plot"])
def test_a_directory_without_a_run_is_reported_before_heavy_imports(command: str, tmp_path: Path) -> None:
    assert imported_by_command(command, tmp_path) & HEAVY == set()


@pytest.mark.parametrize("options", [(), ("--json",), ("--elite", "best-mean")])
def test_showing_a_run_needs_no_heavy_library(run: Path, options: tuple[str, ...]) -> None:
    assert imported_by_command("show", run, *options) & HEAVY == set()


def test_a_page_of_a_run_needs_no_heavy_library(run: Path, tmp_path: Path) -> None:
    assert imported_by_command("report", run, "--output", tmp_path / "page.html") & HEAVY == set()
    assert (tmp_path / "page.html").is_file()


def test_a_wrong_name_of_a_model_is_reported_before_heavy_imports(run: Path, tmp_path: Path) -> None:
    assert imported_by_command("export", run, "best-men", tmp_path / "out") & HEAVY == set()


@pytest.mark.parametrize(
    "code", ["load_recipe('{recipe}')", "evolve('{recipe}', overrides=['evolution.generation=3'])"]
)
def test_the_python_interface_validates_before_heavy_imports(code: str) -> None:
    statement = f"from cycleqd_merge import evolve, load_recipe; {code.format(recipe=RECIPE)}"
    assert imported(statement) & HEAVY == set()


def test_opening_a_run_in_python_needs_no_heavy_library(run: Path) -> None:
    assert imported(f"from cycleqd_merge import open_run; open_run({str(run)!r}).elites()") & HEAVY == set()
