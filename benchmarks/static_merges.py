"""Search-split means of static merges that are not in mergekit, and of task arithmetic, over a recipe's experts.

    python benchmarks/static_merges.py RECIPE [--set KEY=VALUE ...] [--methods tsv_m,regmean] [--scales 0.5,0.7,1.0]

Each method computes one direction: a task vector for the whole model, added to the base with every scale in turn.
Embeddings and tensors that are not matrices get the experts' mean (--others sum: their sum). RegMean sees the prompts
of each expert's own tasks and its answers to them. Scores are those of `compare`'s strategy `matrix-merges` for the
same scales, but each direction is computed once, and adapters are merged as factors where the method allows it.
The engine is transformers. With --write FOLDER, every method's model at its best scale is written to FOLDER/METHOD: as
an additional expert of a recipe, it is a direction with its own coefficient in a search or a fit.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from cycleqd_merge import load_recipe
from cycleqd_merge.evaluation.engines.transformers_engine import TransformersEngine
from cycleqd_merge.evaluation.opened_recipe import OpenedRecipe
from cycleqd_merge.evaluation.worker import Worker
from cycleqd_merge.evolution.genome import expert_genome
from cycleqd_merge.fitting.examples import Example
from cycleqd_merge.fitting.regmean import regmean_task_vectors
from cycleqd_merge.merging import matrix_merges
from cycleqd_merge.merging.adapter import LowRank
from cycleqd_merge.merging.candidates import write_checkpoint
from cycleqd_merge.merging.checkpoint import Weight
from cycleqd_merge.merging.matrix_merges import Vectors
from cycleqd_merge.merging.staging import Staging

Direction = Mapping[str, torch.Tensor]
"""A task vector for the whole model, by weight name."""
Merge = Callable[[Vectors], torch.Tensor]


class Recording(TransformersEngine):
    """The engine, which takes weights as they are and records prompts with answers."""

    recorded: list[Example] | None = None

    async def _submit(self, tokens: list[int], sampling: Any, scored: int = 0) -> Any:
        answer = await super()._submit(tokens, sampling, scored)
        if self.recorded is not None:
            more = [] if sampling is None else self._tokenizer.encode(answer.text, add_special_tokens=False)
            self.recorded.append(Example((*tokens, *more), (1,)))
        return answer

    def put(self, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
        """Replace the model's weights, by stored names."""
        for name, tensor in tensors:
            self._map.copy_into(self._resident, name, tensor)


def methods(experts: int) -> dict[str, Callable[[torch.Size], Merge]]:
    """By name, the merge of the task vectors of matrices of a shape."""

    def total(vectors: Vectors) -> torch.Tensor:
        return torch.stack(list(vectors)).sum(0)

    def aligned(vectors: Vectors) -> torch.Tensor:
        return total(matrix_merges.sign_aligned(vectors))

    return {
        "task_arithmetic": lambda _: total,
        "tsv_m": partial(matrix_merges.tsv_merge, experts),
        "iso_c": lambda _: matrix_merges.iso_c,
        "wudi": lambda _: partial(matrix_merges.wudi, steps=300, learning_rate=1e-5),
        "swudi": partial(matrix_merges.swudi_merge, 300.0, 0.85),
        "swudi 0.65": partial(matrix_merges.swudi_merge, 300.0, 0.65),
        "sign_aligned": lambda _: aligned,
    }


ROTATED = ("tsv_m", "iso_c", "swudi", "swudi 0.65")
"""Methods that low-rank task vectors go through as factors."""
ENTRYWISE = ("task_arithmetic", "sign_aligned")
"""Methods that apply to tensors of all kinds."""


def direction(staging: Staging, name: str, merge_of: Callable[[torch.Size], Merge], others: str) -> Direction:
    """The direction of a method, float32. others: how embeddings and tensors without matrices are merged."""
    found: dict[str, torch.Tensor] = {}
    for weight in staging.family.weights:
        base = staging.base(weight).float()
        vectors = [staging.task_vector(expert, weight, base) for expert in range(len(staging.family.experts))]
        if all(vector is None for vector in vectors):
            continue
        merge = merge_of(base.shape) if base.ndim in (2, 3) or name in ENTRYWISE else None
        plain = weight.vocabulary_axis is not None and name not in ENTRYWISE
        low = [vector for vector in vectors if isinstance(vector, LowRank)]
        if merge is not None and not plain and name in ROTATED and len(low) == len(vectors):
            found[weight.name] = matrix_merges.low_rank(low, merge).dense()
            continue
        dense = [dense_of(vector, base) for vector in vectors]
        if merge is None or plain:
            total = torch.stack(dense).sum(0)
            found[weight.name] = total if others == "sum" else total / len(dense)
        else:
            found[weight.name] = merge(dense) if name in ENTRYWISE else matrix_merges.by_matrix(dense, merge)
    return found


def dense_of(vector: Any, base: torch.Tensor) -> torch.Tensor:
    """A task vector as a full tensor, float32."""
    if vector is None:
        return torch.zeros_like(base)
    return vector.dense() if isinstance(vector, LowRank) else vector


def merged(staging: Staging, found: Direction, scale: float) -> Iterator[tuple[str, torch.Tensor]]:
    """base + scale * direction, in the base's dtypes, by stored names."""
    for weight in staging.family.weights:
        yield staging.family.stored_names[weight.name], tensor_of(staging, weight, found, scale)


def tensor_of(staging: Staging, weight: Weight, found: Direction, scale: float) -> torch.Tensor:
    base = staging.base(weight)
    if weight.name not in found:
        return base
    return (base.float() + scale * found[weight.name].reshape(weight.shape)).to(weight.dtype)


def own_examples(opened: OpenedRecipe, engine: Recording, worker: Worker) -> tuple[list[list[Example]], list[float]]:
    """Prompts of each expert's own tasks with its answers, and its mean score on them; an expert without a task of its
    own gets the examples of all tasks."""
    names, examples, means = list(opened.recipe.experts), [], []
    for number, name in enumerate(names):
        stated = {task.name for task, use in zip(opened.suite, opened.recipe.tasks, strict=True) if use.expert == name}
        own = stated or {task.name for task in opened.suite}
        others = {task.name: 0.0 for task in opened.suite if task.name not in own}
        engine.recorded = []
        evaluation = worker.evaluate(expert_genome(number, len(names), len(opened.groups)), known=others)
        examples.append(engine.recorded)
        engine.recorded = None
        means.append(sum(evaluation.results[task].score for task in own) / len(own))
    return examples, means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--methods", help="names from the table, separated by commas; by default all")
    parser.add_argument("--scales", default="0.3,0.5,0.7,1.0,1.5")
    parser.add_argument("--others", choices=("mean", "sum"), default="mean")
    parser.add_argument("--keep", default="0.9,0.1", help="shares of RegMean's off-diagonal elements")
    parser.add_argument("--json", type=Path, help="file to append one line per merge to")
    parser.add_argument("--write", type=Path, help="folder for every method's best model")
    options = parser.parse_args()
    recipe = load_recipe(options.recipe, options.set)
    if recipe.engine.kind != "transformers":
        parser.error("the engine must be transformers: --set engine.kind=transformers")
    opened = OpenedRecipe.open(recipe)
    engine = Recording(recipe.engine, opened.materialiser(()))
    staging = Staging(opened.family, {}, engine.device, "device" if engine.device.type == "cuda" else "disk")
    scales = [float(scale) for scale in options.scales.split(",")]
    wanted = options.methods.split(",") if options.methods else None
    with closing(Worker(engine, opened.suite)) as worker:
        examples, means = own_examples(opened, engine, worker)
        console = Console(width=120)
        console.print(f"experts on their own tasks: {' '.join(f'{mean:.3f}' for mean in means)}")
        makers = {
            name: partial(direction, staging, name, merge_of, options.others)
            for name, merge_of in methods(len(means)).items()
        } | {
            f"regmean {keep}": partial(regmean, engine, staging, examples, float(keep))
            for keep in options.keep.split(",")
        }
        table = Table(title="means on the search split")
        for heading in ("method", "seconds", "scale", *(task.name for task in opened.suite), "mean"):
            table.add_column(heading, justify="left" if heading == "method" else "right")
        for name, make in makers.items():
            if wanted is None or name in wanted or name.split()[0] in wanted:
                rows = measured(name, make, scales, staging, engine, worker, options)
                for row in rows:
                    table.add_row(*row)
        console.print(table)


def regmean(
    engine: Recording, staging: Staging, examples: Sequence[Sequence[Example]], keep: float
) -> dict[str, torch.Tensor]:
    """RegMean's direction."""
    found = regmean_task_vectors(engine.model, engine._map, staging, examples, keep)
    return {weight.name: vector for weight, vector in found}


def measured(
    name: str,
    make: Callable[[], Direction],
    scales: Sequence[float],
    staging: Staging,
    engine: Recording,
    worker: Worker,
    options: argparse.Namespace,
) -> list[list[str]]:
    """Rows of the table for a method: one per scale."""
    start = time.perf_counter()
    found = make()
    if engine.device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    rows, best = list[list[str]](), (-1.0, 0.0)
    for scale in scales:
        engine.put(merged(staging, found, scale))
        scores = worker.evaluate(None).scores
        mean = sum(scores) / len(scores)
        best = max(best, (mean, scale))
        rows.append([name, f"{seconds:.1f}", f"{scale:g}", *(f"{score:.3f}" for score in scores), f"{mean:.3f}"])
        print(*rows[-1], flush=True)
        if options.json is not None:
            line = {"method": name, "others": options.others, "scale": scale, "scores": scores, "seconds": seconds}
            with options.json.open("a") as file:
                file.write(json.dumps(line) + "\n")
    if options.write is not None:
        folder = options.write / name.replace(" ", "-")
        folder.mkdir(parents=True)
        write_checkpoint(merged(staging, found, best[1]), staging.family, folder)
    return rows


if __name__ == "__main__":
    main()
