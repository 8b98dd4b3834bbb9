"""A run of tiny real models, created once through the command line, and calls of the command line in this process."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cycleqd_merge import cli
from tests.models import make_base, make_expert, make_rows

GENERATIONS = 4
MUTATION = {"kind": "svd", "w_max": 2.0}
"""Strong enough that tiny random models change their answers."""


@dataclass(frozen=True)
class Answer:
    """A command's exit code and output."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The output as JSON."""
        return json.loads(self.out)


Call = Callable[..., Answer]


def cycleqd_merge(*arguments: object) -> Answer:
    """Run the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["cycleqd-merge", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    code = ended.value.code
    return Answer(code if isinstance(code, int) else 0, out.getvalue(), err.getvalue())


@dataclass(frozen=True)
class Models:
    """A base and two experts, full fine-tunes, on disk."""

    base: Path
    first: Path
    second: Path


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Tiny llamas."""
    folder = tmp_path_factory.mktemp("models")
    base = make_base(folder / "base", "llama")
    return Models(base, make_expert(base, folder / "first", seed=1), make_expert(base, folder / "second", seed=2))


def write_task(folder: Path, name: str, **scorer: Any) -> Path:
    """A task file with 20 rows for search and confirmation (16 and 4) and 12 held out; multiple choice by default."""
    make_rows(folder / f"{name}-search.jsonl", 20, "abc", seed=len(name))
    make_rows(folder / f"{name}-heldout.jsonl", 12, "abc", seed=100 + len(name))
    task = {
        "kind": "generate",
        "data": {"search": {"path": f"{name}-search.jsonl"}, "heldout": {"path": f"{name}-heldout.jsonl"}},
        "prompt": "{{ question }}: ",
        "scorer": scorer or {"kind": "multiple_choice", "choices": list("abc")},
        "max_new_tokens": 2,
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(task))  # JSON is YAML
    return path


def write_recipe(folder: Path, models: Models, **settings: Any) -> Path:
    """A recipe file with two task files next to it; `settings` add or replace keys."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = []
    for name, expert in (("vowels", "first"), ("letters", "second")):
        tasks.append({"task": write_task(folder, name).name, "expert": expert, "bounds": [0.0, 1.0]})
    recipe = {
        "base": str(models.base),
        "experts": {"first": str(models.first), "second": str(models.second)},
        "tasks": tasks,
        "evolution": {"generations": GENERATIONS, "in_flight": 2, "bins": 10, "seed": 1, "mutation": MUTATION},
        "output": str(folder / "run"),
        **settings,
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    return path


@dataclass(frozen=True)
class CliRun:
    """A finished run: its recipe, its directory, and the output of `evolve`."""

    recipe: Path
    folder: Path
    answer: Answer


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, models: Models) -> CliRun:
    """A run of four generations, two in flight. Tests must not change it."""
    folder = tmp_path_factory.mktemp("finished")
    recipe = write_recipe(folder, models)
    return CliRun(recipe, folder / "run", cycleqd_merge("evolve", recipe))
