"""Check that children built inside a running vLLM engine answer as stock vLLM does on their exported checkpoints.

    python benchmarks/same_answers.py RECIPE --children 3 --work FOLDER

For each of a few random genomes: greedy tokens and log-probabilities after a load in place, then from an engine started
on its exported checkpoint; and, for comparison, how much those of different genomes differ. The recipe's engine options
are used. `benchmarks/random_models.py` writes a recipe of Llama-3 8B's shape.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cycleqd_merge import load_recipe
from cycleqd_merge.config.recipe import PinnedModels
from cycleqd_merge.evaluation.engines.vllm_engine import VllmEngine
from cycleqd_merge.evaluation.opened_recipe import OpenedRecipe
from cycleqd_merge.evolution.genome import Genome, Mutation, crossover, expert_genome, mutate
from cycleqd_merge.merging.candidates import write_checkpoint
from cycleqd_merge.merging.family import open_family
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.tasks.protocol import Sampling

PROMPTS = [
    " ".join(str(start * factor**n % 997) for n in range(12)) for start, factor in ((3, 2), (5, 3), (7, 5), (11, 7))
]
Answers = tuple[list[str], list[list[float]]]


def children(count: int, experts: int, groups: int, mutated: list[int]) -> list[Genome]:
    """Random trees of crossovers and mutations over the experts."""
    rng = np.random.default_rng(5)
    pool = [expert_genome(number, experts, groups) for number in range(experts)]
    while len(pool) < count + experts:
        first, second = rng.choice(len(pool), size=2, replace=False)
        child = crossover(pool[first], pool[second], rng.normal(1.0, 0.3, size=(2, groups)))
        pool.append(mutate(child, Mutation("svd", int(rng.choice(mutated)), int(rng.integers(2**40)), 0.5)))
    return pool[experts:]


async def _answers(engine: VllmEngine) -> Answers:
    texts = [(await engine.complete(prompt, Sampling(max_new_tokens=16))).text for prompt in PROMPTS]
    scores = []
    for prompt in PROMPTS:
        words = prompt.split(" ")
        half = len(words) // 2
        scores.append(await engine.logprobs(" ".join(words[:half]), " " + " ".join(words[half:])))
    return texts, scores


def answers(engine: VllmEngine) -> Answers:
    """One prompt after another: the composition of a batch affects rounding."""
    return asyncio.run(_answers(engine))


def largest_difference(one: Answers, other: Answers) -> float:
    """The largest difference between two log-probabilities."""
    return max(float(np.abs(np.subtract(a, b)).max()) for a, b in zip(one[1], other[1], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--children", type=int, default=3)
    parser.add_argument("--work", type=Path, required=True, help="folder to export children to")
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    opened = OpenedRecipe.open(load_recipe(options.recipe, options.set))
    engine_options: Any = opened.recipe.engine
    mutated = sorted(opened.recipe.mutated_experts())
    materialiser = opened.materialiser(mutated)
    genomes = children(options.children, len(opened.family.experts), len(opened.groups), mutated)

    start = time.perf_counter()
    engine = VllmEngine(engine_options, materialiser)
    print(f"engine started in {time.perf_counter() - start:.1f} s", flush=True)
    loaded = []
    for number, genome in enumerate(genomes):
        if number % 2:  # half of them are prefetched while another child answers
            engine.prepare(genome)
            answers(engine)
        start = time.perf_counter()
        engine.load(genome)
        print(f"loaded in {time.perf_counter() - start:.2f} s", flush=True)
        loaded.append(answers(engine))
    engine.close()

    rows = []
    for number, genome in enumerate(genomes):
        folder = options.work / "child"
        start = time.perf_counter()
        folder.mkdir()
        write_checkpoint(materialiser.tensors(genome), opened.family, folder)
        written = time.perf_counter() - start
        torch.cuda.empty_cache()
        exported = open_family(PinnedModels(str(folder), {}, opened.recipe.models))
        alone = Materialiser(exported, opened.groups, {})
        new_engine = VllmEngine(engine_options, alone)
        expected = answers(new_engine)
        new_engine.close()
        shutil.rmtree(folder)
        rows.append(
            {
                "texts equal": expected[0] == loaded[number][0],
                "largest difference of log-probabilities": largest_difference(expected, loaded[number]),
                "least difference from another child": min(
                    largest_difference(loaded[number], other) for other in loaded if other is not loaded[number]
                ),
                "export seconds": round(written, 1),
            }
        )
        print(json.dumps(rows[-1]), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    main()
