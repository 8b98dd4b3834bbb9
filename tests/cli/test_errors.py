"""Mistakes are reported in one line each, with an exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from cycleqd_merge.journal.log import JOURNAL_FILE
from tests.cli.conftest import CliRun, Models, cycleqd_merge, write_recipe

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("best-men", "'best-men' is not a model of this run; use one of `best-mean`, `aggregate`"),
        ("#99", "'#99' is not a model of this run"),
        ("vowels:99", "vowels:99: this cell is empty; `show` lists the elites"),
        ("vowels:x", "vowels:x: write the cell as numbers, such as vowels:3,12"),
        ("expert:third", "no expert is named 'third'; available: first, second"),
        ("best:speech", "no task is named 'speech'; available: vowels, letters"),
    ],
)
def test_a_name_of_no_model_is_explained(finished: CliRun, tmp_path: Path, name: str, message: str) -> None:
    for command in (
        ("show", finished.folder, "--elite", name),
        ("evaluate", finished.folder, name),
        ("export", finished.folder, name, tmp_path / "out"),
    ):
        answer = cycleqd_merge(*command)
        assert (answer.code, answer.out) == (2, "")
        assert answer.err.startswith(f"error: {message}")
        assert len(answer.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["show", "evaluate", "confirm"])
def test_a_folder_without_a_run_is_named(tmp_path: Path, command: str) -> None:
    answer = cycleqd_merge(command, tmp_path / "nothing")
    assert answer.code == 2
    assert answer.err == f"error: {tmp_path / 'nothing'}: not a run directory (no {JOURNAL_FILE})\n"
    assert not (tmp_path / "nothing").exists()


def test_a_damaged_journal_is_named_with_its_line(finished: CliRun, tmp_path: Path) -> None:
    lines = (finished.folder / JOURNAL_FILE).read_bytes().splitlines(keepends=True)
    lines[3] = b"gone\n"
    (tmp_path / JOURNAL_FILE).write_bytes(b"".join(lines))
    answer = cycleqd_merge("show", tmp_path)
    assert answer.code == 2
    assert answer.err.startswith(f"error: {tmp_path / JOURNAL_FILE}:4: damaged")


def test_a_run_without_any_score_can_be_shown(models: Models, tmp_path: Path) -> None:
    assert cycleqd_merge("evolve", write_recipe(tmp_path, models), "--max-hours", "0").code == 130
    shown = cycleqd_merge("show", tmp_path / "run", "--json").json
    assert (shown["generation"], shown["evaluations"], shown["archives"], shown["best_mean"]) == (0, 0, {}, None)
    assert cycleqd_merge("show", tmp_path / "run").code == 0
    for name in ("best-mean", "aggregate", "best:vowels"):
        answer = cycleqd_merge("show", tmp_path / "run", "--elite", name)
        assert answer.code == 2
        assert answer.err.startswith("error: ")
        assert len(answer.err.splitlines()) == 1


def test_a_recipe_with_a_typo_costs_no_evaluation(models: Models, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, models)
    answer = cycleqd_merge("evolve", recipe, "--set", "evolution.generation=3")
    assert answer.code == 2
    assert "did you mean 'generations'?" in answer.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("arguments", [("evolv",), ("evolve",), ("show", "--colour", "red"), ("schema", "model")])
def test_a_wrong_command_line_ends_with_code_2(arguments: tuple[str, ...]) -> None:
    assert cycleqd_merge(*arguments).code == 2


BROKEN = """
class Task:
    def samples(self, split):
        raise ZeroDivisionError("nothing to divide")

    def score(self, sample, model):
        pass
"""


def test_an_unexpected_error_is_one_line_and_a_traceback_only_with_debug(models: Models, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    broken = {"task": {"kind": "python", "target": f"{tmp_path}/broken.py:Task"}, "name": "broken"}
    recipe = write_recipe(tmp_path, models, tasks=[broken, {**broken, "name": "other"}])
    answer = cycleqd_merge("evolve", recipe)
    assert answer.code == 1
    assert "ZeroDivisionError: nothing to divide" in answer.err
    assert len(answer.err.splitlines()) == 1
    answer = cycleqd_merge("--debug", "evolve", recipe)
    assert answer.code == 1
    assert "\nZeroDivisionError: nothing to divide" in answer.err
    assert "Traceback " in answer.err


def test_a_full_gpu_is_one_line_that_says_what_to_do(models: Models, tmp_path: Path) -> None:
    full = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 139.80 GiB of which 7.56 MiB"
    raised = f'__import__("torch").OutOfMemoryError("{full} is free. Process 7 has 139.19 GiB memory in use.")'
    (tmp_path / "broken.py").write_text(BROKEN.replace('ZeroDivisionError("nothing to divide")', raised))
    broken = {"task": {"kind": "python", "target": f"{tmp_path}/broken.py:Task"}, "name": "broken"}
    answer = cycleqd_merge("evolve", write_recipe(tmp_path, models, tasks=[broken, {**broken, "name": "other"}]))
    assert (answer.code, answer.err) == (
        1,
        "error: GPU memory: GPU 0 has a total capacity of 139.80 GiB of which 7.56 MiB is free; end other processes on "
        "the GPU, or set a smaller engine.batch_size\n",
    )


def test_help_needs_no_heavy_library() -> None:
    code = (
        "import sys\nsys.argv[1:] = ['--help']\nfrom cycleqd_merge.cli import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'transformers', 'numpy', 'ribs', 'datasets', 'mergekit', 'pydantic', 'accelerate'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    for command in ("evolve", "show", "evaluate", "export", "schema"):
        assert f" {command} " in answer.stdout


def test_schema_of_recipes_accepts_right_and_rejects_wrong_files(finished: CliRun) -> None:
    schema = cycleqd_merge("schema").json
    assert schema == cycleqd_merge("schema", "recipe").json
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    recipe = json.loads(finished.recipe.read_text())
    validator.validate(recipe)
    for wrong in ({"bass": "x"}, {"base": 3}, {"experts": {}}, {"evolution": {"sigma": -1}}):
        assert not validator.is_valid({**recipe, **wrong})


def test_schema_of_tasks_accepts_right_and_rejects_wrong_files(finished: CliRun) -> None:
    schema = cycleqd_merge("schema", "task").json
    validator = jsonschema.Draft202012Validator(schema)
    task = json.loads((finished.recipe.parent / "vowels.yaml").read_text())
    validator.validate(task)
    for wrong in ({"kind": "sing"}, {"scorer": {"kind": "vibes"}}, {"prompts": "x"}):
        assert not validator.is_valid({**task, **wrong})


def test_a_full_disk_is_one_line_without_a_traceback(finished: CliRun) -> None:
    command = [sys.executable, "-m", "cycleqd_merge", "show", str(finished.folder)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr == "error: stdout: cannot be written: No space left on device; free some space\n"
