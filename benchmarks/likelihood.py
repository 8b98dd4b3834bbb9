"""How well the likelihood of the experts' own answers predicts a child's scores, and what it costs.

    python benchmarks/likelihood.py RUN                     # all children of a finished run, with their recorded scores
    python benchmarks/likelihood.py RECIPE [--children 200] # random coefficients around a half, scored here

Every expert answers the search rows of its own tasks. A child then reads the answers that solved their rows: one
forward pass instead of a generation. The table has Spearman's rank correlation with the child's scores on the search
split, by task and for the means, and within the better half of the children, where screening proposals has to work.
`best of 8` is the share of the gain that is kept if the best of eight children is chosen by the cheap figure: 1 as if
by the scores, 0 as if at random. For comparison, a quarter of the rows is scored as usual. With --others, rows that an
expert did not solve get the right answers of the first children (a run's fits), too.

Seconds are medians. With --processes, several engines share the device, and only the first children, which one engine
scores alone, are timed. Those of a run's generations are the recorded ones.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from cycleqd_merge import load_recipe
from cycleqd_merge.evaluation.engines.engine import open_engine
from cycleqd_merge.evaluation.opened_recipe import OpenedRecipe
from cycleqd_merge.evaluation.worker import Worker
from cycleqd_merge.evolution.candidate import Candidate
from cycleqd_merge.evolution.genome import expert_genome
from cycleqd_merge.fitting.examples import Example, selected
from cycleqd_merge.merging.fit_files import bases_needed
from cycleqd_merge.run.opening import reopen
from cycleqd_merge.run.state import Run, open_run

Figures = Mapping[str, Sequence[float]]
"""Values by task, in the order of the tasks, under the name of what they are."""
Floats = NDArray[np.float64]
SUBSET = 4
"""One row in this many is scored for comparison."""
BEST_OF = 8
ALONE = 5
"""Children that one engine scores alone, for the seconds."""


@dataclass(frozen=True)
class Child:
    """A candidate, and its scores by task if they are known; outcomes: of its rows. agreement: see `Scorer`."""

    candidate: Candidate | None
    scores: tuple[float, ...] = ()
    outcomes: tuple[Floats, ...] = ()
    load: float = 0.0
    generate: float = 0.0
    likelihood: float = 0.0
    figures: Figures | None = None
    agreement: tuple[int, int, int] = (0, 0, 0)


class Scorer:
    """An engine with answers that are known to be right.

    answers: by task, the solved answers of its expert (of a graded task the better half), then answers of other models
    to rows that it did not solve. rows: of the answers, where each is that of one row. limit: of rows per task.
    """

    def __init__(self, opened: OpenedRecipe, children: Sequence[Child], others: int, limit: int | None) -> None:
        materialiser = opened.materialiser(bases_needed(*(child.candidate for child in children if child.candidate)))
        self.engine: Any = open_engine(opened.recipe.engine, materialiser)
        self.worker = Worker(self.engine, opened.suite)
        self.tasks, self.limit = [task.name for task in opened.suite], limit
        self.answers: dict[str, list[Example]] = {}
        self.rows: dict[str, list[int]] = {}
        self._ask_experts(opened)
        for child in children[:others]:
            assert child.candidate is not None
            self._ask(child.candidate, self.tasks)

    def _ask_experts(self, opened: OpenedRecipe) -> None:
        """Keep the answers of each task's expert; of all experts where the recipe names none."""
        experts = list(opened.recipe.experts)
        stated = {task.name: use.expert for task, use in zip(opened.suite, opened.recipe.tasks, strict=True)}
        for number, name in enumerate(experts):
            own = [task for task in self.tasks if stated[task] in (None, name)]
            self._ask(expert_genome(number, len(experts), len(opened.groups)), own)

    def _ask(self, candidate: Candidate, tasks: Sequence[str]) -> None:
        """Keep the right answers of a model to rows without one."""
        known = {task: 0.0 for task in self.tasks if task not in tasks}
        evaluation = self.worker.evaluate(candidate, limit=self.limit, known=known, record=tasks)
        for task in tasks:
            examples, scores = evaluation.examples[task], evaluation.results[task].by_row.scores
            found, rows = self.answers.setdefault(task, []), self.rows.setdefault(task, [])
            one_each = len(examples) == len(scores) and set(scores) <= {0.0, 1.0}
            if one_each:
                new = [row for row, score in enumerate(scores) if score == 1 and row not in rows]
                found += [examples[row] for row in new]
                rows += new
            elif not found:
                found += selected(examples, "solved")

    def measured(self, child: Child) -> Child:
        """A child with its likelihoods, and with its scores if they are not known."""
        start = time.perf_counter()
        self.engine.load(child.candidate)
        loaded = time.perf_counter()
        likely = {task: self.worker._event_loop.run(self._read(examples)) for task, examples in self.answers.items()}
        read = time.perf_counter()
        figures = [of_task(self.answers[task], likely[task]) for task in self.tasks]
        matched = tuple(tuple(greedy for *_, greedy in likely[task]) for task in self.tasks)
        child = replace(
            child,
            load=loaded - start,
            likelihood=read - loaded,
            figures={name: [each[name] for each in figures] for name in figures[0]},
        )
        if not child.scores:
            evaluation = self.worker.evaluate(None, limit=self.limit)
            outcomes = tuple(evaluation.results[task].by_row.scores for task in self.tasks)
            child = replace(child, scores=evaluation.scores, outcomes=outcomes, generate=time.perf_counter() - read)
        return replace(child, agreement=self._agreement(child, matched))

    def _agreement(self, child: Child, matched: Sequence[Sequence[bool]]) -> tuple[int, int, int]:
        """Numbers of rows with a known answer: matched and solved, matched alone, solved alone."""
        both = match = solve = 0
        for task, outcomes, greedy in zip(self.tasks, child.outcomes, matched, strict=False):
            if len(self.rows[task]) == len(greedy):
                solved = np.array(outcomes)[self.rows[task]] == 1
                found = np.array(greedy, bool)
                both, match = both + int((solved & found).sum()), match + int((found & ~solved).sum())
                solve += int((solved & ~found).sum())
        return both, match, solve

    async def _read(self, examples: Sequence[Example]) -> list[tuple[float, int, bool]]:
        """Of every answer: its log-probability, its tokens, and whether each is the most likely one."""
        requests = [(number, part) for number, example in enumerate(examples) for part in stretches(example)]
        answers = await asyncio.gather(
            *(
                self.engine._scored(list(examples[number].tokens[:end]), end - start)
                for number, (start, end) in requests
            )
        )
        found = [(0.0, 0, True)] * len(examples)
        for (number, _), answer in zip(requests, answers, strict=True):
            total, tokens, greedy = found[number]
            found[number] = total + sum(answer.logprobs), tokens + len(answer.logprobs), greedy and answer.greedy
        return found


def stretches(example: Example) -> Iterator[tuple[int, int]]:
    """The parts of a text that the expert wrote, as (start, end)."""
    trained = example.trained
    breaks = [place for place in range(1, len(trained)) if trained[place] != trained[place - 1] + 1]
    for start, end in zip([0, *breaks], [*breaks, len(trained)], strict=True):
        yield trained[start], trained[end - 1] + 1


def of_task(examples: Sequence[Example], likely: Sequence[tuple[float, int, bool]]) -> dict[str, float]:
    """What stands for a child's score on a task: figures by name. Without examples they are 0."""
    if not examples:
        return dict.fromkeys(("log-likelihood per token", "log-likelihood per row", "probability", "exact match"), 0.0)
    weights = [example.weight for example in examples]
    totals, tokens, greedy = (np.array(each, float) for each in zip(*likely, strict=True))
    return {
        "log-likelihood per token": float(np.average(totals / tokens, weights=weights)),
        "log-likelihood per row": float(np.average(totals, weights=weights)),
        "probability": float(np.average(np.exp(totals), weights=weights)),
        "exact match": float(np.average(greedy, weights=weights)),
    }


def children_of(run: Run) -> list[Child]:
    """The children of a run, and its fits, with their recorded scores; without those that lost their race."""
    found = []
    for event in run.results[len(run.experts) :]:
        if event["scores"] is None or event.get("partial"):
            continue
        number = event["number"]
        outcomes = run.outcomes(number)
        rows = tuple(outcomes[task].scores for task in run.tasks) if outcomes else ()
        found.append(Child(run.candidate(number), run.scores(number), rows, generate=event["seconds"][1]))
    return found


def random_children(opened: OpenedRecipe, count: int) -> list[Child]:
    """Children with normally distributed coefficients, around a total strength that differs from child to child."""
    rng, shape = np.random.default_rng(0), (len(opened.recipe.experts), len(opened.groups))
    strengths = [rng.uniform(0.3, 0.8) + rng.normal(0.0, 0.25, shape) for _ in range(count)]
    none = expert_genome(0, *shape)
    return [Child(replace(none, coefficients=each)) for each in strengths]


def opened_source(options: argparse.Namespace) -> tuple[OpenedRecipe, list[Child]]:
    """What is measured, and on which models."""
    if options.source.is_dir():
        run = open_run(options.source)
        children = children_of(run)[: options.children]
        return reopen(run, *(child.candidate for child in children if child.candidate)), children
    opened = OpenedRecipe.open(load_recipe(options.source, options.set))
    return opened, random_children(opened, options.children)


_scorer: Scorer
_children: list[Child]


def _open(options: argparse.Namespace) -> None:
    """Open the models in a process of the pool."""
    global _scorer, _children
    opened, _children = opened_source(options)
    _scorer = Scorer(opened, _children, options.others, options.limit)


def _tasks() -> list[str]:
    return [f"{task} ({len(_scorer.answers[task])} rows)" for task in _scorer.tasks]


def _measured(place: int) -> Child:
    return _scorer.measured(_children[place])


def ranks(values: Floats) -> Floats:
    """Ranks from 0; equal values have their mean rank."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    mean: Floats = (last - (count + 1) / 2)[place]
    return mean


def spearman(one: Floats, other: Floats) -> float:
    """The rank correlation; NaN if all values are equal."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


def kept_gain(figure: Floats, scores: Floats, of: int = BEST_OF) -> float:
    """The expected gain of choosing among `of` random children by a figure, relative to choosing by the scores."""
    count = len(scores)
    if count < of:
        return float("nan")
    odds = np.array([comb(place, of - 1) / comb(count, of) for place in range(count)])
    chosen, best = (float(odds @ scores[np.argsort(by, kind="stable")]) for by in (figure, scores))
    mean = float(scores.mean())
    return (chosen - mean) / (best - mean) if best > mean else float("nan")


def report(tasks: Sequence[str], children: Sequence[Child], timed: Sequence[Child]) -> None:
    """Print the tables. timed: the children whose seconds count."""
    scores = np.array([child.scores for child in children])
    means = scores.mean(1)
    better = means >= np.median(means)
    console = Console(width=140)
    table = Table(title=f"rank correlation with the scores of {len(children)} children, {better.sum()} in the half")
    for heading in ("", *tasks, "mean", "better half", "best of 8", "better half"):
        table.add_column(heading, justify="right" if heading else "left")
    assert children[0].figures is not None
    figures = {
        name: np.array([child.figures[name] for child in children if child.figures]) for name in children[0].figures
    }
    if all(child.outcomes for child in children):
        part = [[rows[::SUBSET].mean() for rows in child.outcomes] for child in children]
        figures["a quarter of the rows"] = np.array(part)
    for name, found in figures.items():
        mean = found.mean(1)
        by_task = [spearman(found[:, task], scores[:, task]) for task in range(scores.shape[1])]
        cells = [*by_task, spearman(mean, means), spearman(mean[better], means[better])]
        cells += [kept_gain(mean, means), kept_gain(mean[better], means[better])]
        table.add_row(name, *(f"{cell:.3f}" for cell in cells))
    console.print(table)
    spread = ", ".join(f"{np.quantile(means, share):.3f}" for share in (0, 0.25, 0.5, 0.75, 1))
    both, matched, solved = np.sum([child.agreement for child in children], 0)
    console.print(f"rows with a known answer: {both} matched and solved, {matched} only matched, {solved} only solved")
    console.print(f"quartiles of the mean score: {spread}")
    load, read, generated = (
        float(np.median([getattr(child, part) for child in timed])) for part in ("load", "likelihood", "generate")
    )
    console.print(f"seconds per child: load {load:.3f}, likelihood {read:.3f}, generation {generated:.3f}")
    console.print(f"children screened in the seconds of a true evaluation: {(load + generated) / (load + read):.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a recipe, or the directory of a run")
    parser.add_argument("--children", type=int, default=200)
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE of the recipe, repeatable")
    parser.add_argument("--processes", type=int, default=1, help="engines that share the device")
    parser.add_argument("--others", type=int, default=0, help="first children whose right answers count, too")
    parser.add_argument("--limit", type=int, help="rows per task, for a trial with a recipe")
    parser.add_argument("--json", type=Path, help="file to write every child's figures to, one line each")
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, spawn, initializer=_open, initargs=(options,)) as pool:
        tasks = pool.submit(_tasks).result()
        count = len(opened_source(options)[1])
        alone = [pool.submit(_measured, place).result() for place in range(min(ALONE, count))]
        children = [*alone, *pool.map(_measured, range(len(alone), count))]
    if options.json is not None:
        options.json.write_text(
            "".join(json.dumps(asdict(replace(child, candidate=None, outcomes=()))) + "\n" for child in children)
        )
    report(tasks, children, children if options.processes == 1 else alone)


if __name__ == "__main__":
    main()
