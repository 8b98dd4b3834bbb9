"""Two processes started together work on a recipe: `python -m tests.merging.processes RECIPE GENOME`."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import TypedDict

import torch

from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.evolution.genome import Genome
from cycleqd_merge.merging.bases import prepare_bases
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.processes import this_process
from tests.models import open_recipe_family


class Report(TypedDict):
    """Digests of the bases of all experts and of a child, and the number of tensors that this process worked on.

    Only the main process reports that number.
    """

    processes: int
    part: int
    bases: list[str]
    child: str


def report(recipe: Recipe, genome: Genome) -> Report:
    """Prepare all bases of a recipe and build a child."""
    family = open_recipe_family(recipe)
    steps: list[int] = []
    bases = prepare_bases(family, range(len(family.experts)), lambda name, done, total: steps.append(total))
    child = Materialiser(family, Groups(family.weights, "one"), bases).tensors(genome)
    return {
        "processes": this_process().num_processes,
        "part": max(steps, default=0),
        "bases": [expert.digest for expert in bases.values()],
        "child": digest(child),
    }


def digest(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """SHA-256 over names and bytes."""
    whole = sha256()
    for name, tensor in tensors:
        whole.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def reports_of_two_processes(folder: Path, recipe: Recipe, genome: Genome) -> list[Report]:
    """The reports of two processes that share the work as under `accelerate launch`, with a cache in `folder`."""
    (folder / "recipe.json").write_text(recipe.model_dump_json())
    (folder / "genome.json").write_text(genome.dumps())
    module = [__name__, str(folder / "recipe.json"), str(folder / "genome.json")]
    return [json.loads(output.splitlines()[-1]) for output in outputs_of_two(module, folder / "cache")]


def outputs_of_two(module: list[str], cache: Path) -> list[str]:
    """What two processes print that run a module, with its arguments, as `accelerate launch --cpu --num_processes 2`
    does; none of them may fail."""
    group = {"ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    group |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "CYCLEQD_CACHE": str(cache)}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", *module],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=Path(__file__).parents[2],
        )
        for rank in range(2)
    ]
    ended = [process.communicate(timeout=300) for process in started]
    assert not any(process.returncode for process in started), "\n".join(errors for _, errors in ended)
    return [output for output, _ in ended]


def _free_port() -> int:
    """A free port below 32768: from there on, the system may give it to another process before it is bound."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_768)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


if __name__ == "__main__":
    stated = Recipe.model_validate_json(Path(sys.argv[1]).read_text())
    built = Genome.from_json(json.loads(Path(sys.argv[2]).read_text()))
    sys.stdout.write(json.dumps(report(stated, built)) + "\n")
