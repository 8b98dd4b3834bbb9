"""Time to build one child's weights on this machine: the first child, whose draws are all new, and those that follow.

    python benchmarks/materialise.py [BASE EXPERT EXPERT ...] [--mutations 100] [--children 5] [--device cpu]

An expert is a full checkpoint or the folder of an adapter. Without models: the base $SMOLLM2 and the adapters
$CYCLEQD_FIXTURE/experts/{sql,bash,math}. For comparison, it measures reading every tensor of the base once and casting
it to float32 and back: the minimum for any child.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from cycleqd_merge.config.recipe import ModelsConfig, PinnedModels
from cycleqd_merge.evolution.genome import Genome, Mutation, expert_genome, mutate
from cycleqd_merge.merging.bases import prepare_bases
from cycleqd_merge.merging.family import ModelFamily, open_family
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser


def default_models() -> list[str]:
    """The base and experts of the fixture."""
    try:
        base, fixture = os.environ["SMOLLM2"], os.environ["CYCLEQD_FIXTURE"]
    except KeyError as missing:
        sys.exit(f"set {missing} in the environment, or name BASE EXPERT EXPERT ...")
    return [base, *(f"{fixture}/experts/{name}" for name in ("sql", "bash", "math"))]


def family_of(base: str, experts: Sequence[str]) -> ModelFamily:
    """Open base and experts."""

    def reference(path: str) -> str:
        return f"{base}+{path}" if (Path(path) / "adapter_config.json").is_file() else path

    named = {f"expert-{number}": reference(path) for number, path in enumerate(experts)}
    return open_family(PinnedModels(base, named, ModelsConfig()))


def lineage(experts: int, mutations: int, children: int) -> Iterator[Genome]:
    """A child with `mutations` mutations, then children that lose their parent's oldest one and gain a new one."""
    genome = expert_genome(0, experts, 1)
    genome.coefficients[:] = 1.0 / experts
    for number in range(mutations):
        genome = mutate(genome, Mutation("svd", number % experts, number, 0.3))
    genome = Genome(genome.coefficients, genome.mutations, np.linspace(0.05, 1.0, mutations)[:, None])
    for number in range(mutations, mutations + children):
        yield genome
        genome = Genome(genome.coefficients * 1.01, genome.mutations[1:], genome.shares[1:] * 0.99)
        genome = mutate(genome, Mutation("svd", number % experts, number, 0.3))


Seconds = tuple[float, float]
"""Wall-clock time, and CPU time of all threads."""


def timed(work: Iterator[object]) -> Seconds:
    """The time to exhaust an iterator."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in work:
        pass
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def bare_pass(family: ModelFamily, device: str) -> Iterator[torch.Tensor]:
    """Every tensor of the base, read, cast to float32 and back."""
    for weight in family.weights:
        yield family.base_tensor(weight).to(device).float().to(weight.dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="base, then experts")
    parser.add_argument("--mutations", type=int, default=100)
    parser.add_argument("--children", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    base, *experts = options.models or default_models()
    family = family_of(base, experts)
    console = Console(width=100)
    start = time.perf_counter()
    bases = prepare_bases(family, range(len(experts)))
    console.print(f"singular bases of {len(experts)} experts: {time.perf_counter() - start:.1f} s (0 if cached)")
    materialiser = Materialiser(family, Groups(family.weights, "one"), bases, options.device)

    floor = min(timed(bare_pass(family, options.device)) for _ in range(3))
    plain = min(timed(materialiser.tensors(expert_genome(0, len(experts), 1))) for _ in range(3))
    genomes = lineage(len(experts), options.mutations, options.children)
    first, *others = [timed(materialiser.tensors(genome)) for genome in genomes]

    table = Table(title=f"{len(experts)} experts, {options.mutations} mutations, {torch.get_num_threads()} threads")
    for heading in ("what", "seconds", "CPU seconds", "times the bare pass"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    rows = {"bare pass over the base": floor, "one expert, no mutation": plain, "first child (all draws new)": first}
    rows |= {"next child (one draw new), fastest": min(others), "next child, slowest": max(others)}
    for what, (wall, cpu) in rows.items():
        table.add_row(what, f"{wall:.2f}", f"{cpu:.2f}", f"{wall / floor[0]:.1f}")
    console.print(table)


if __name__ == "__main__":
    main()
