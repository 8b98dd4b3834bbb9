"""Whole runs without models, with journals like those of real runs: any number of tasks, held-out scores; and a
comparison that such a run is part of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from cycleqd_merge.comparison.results import ComparisonResult, result_to_json
from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.evolution.candidate import candidate_digest
from cycleqd_merge.evolution.genome import level_genome
from cycleqd_merge.journal.log import FORMAT, Journal
from cycleqd_merge.journal.measured import Estimate, measured_event
from cycleqd_merge.run.confirm import confirm
from cycleqd_merge.run.loop import evaluate_generations, resume_journal
from cycleqd_merge.run.state import Run, open_run
from tests.run.synthetic import Failure, SyntheticPool, Watcher, session_of, start_of, synthetic_recipe

NAMES = ("sql", "bash", "math", "code", "chat")
ROWS = {"search": 40, "confirm": 10}


def make_run(
    folder: Path,
    tasks: int = 3,
    generations: int = 40,
    failure: Failure | None = None,
    base: str = "org/base",
    experts: Mapping[str, str] | None = None,
    **settings: object,
) -> Run:
    """A run of `tasks` tasks and as many experts, its elites confirmed; `settings` are further keys of the recipe."""
    names = NAMES[:tasks]
    recipe = synthetic_recipe(
        generations,
        base=base,
        experts=experts or {name: f"org/{name}" for name in names},
        tasks=[{"task": _task(name), "name": name, "expert": name, "bins": 6} for name in names],
        **settings,
    )
    pool = SyntheticPool(failure=failure, tasks=tasks)
    with closing(Journal(folder)) as journal:
        run = resume_journal(
            journal, _start(recipe), {**session_of(recipe), "environment": {"python": "3.12"}, "time": 0}
        )
        evaluate_generations(journal, run, pool, Watcher())
        confirm(journal, run, pool)
    return open_run(folder)


def _task(name: str) -> dict[str, object]:
    """The first task reads a file, the others a Hub dataset each."""
    rows = {"path": f"{name}.jsonl"} if name == NAMES[0] else {"dataset": f"org/{name}-rows"}
    return {"kind": "generate", "data": {"rows": rows}, "prompt": "{{ question }}", "scorer": {"kind": "exact"}}


def _start(recipe: Recipe) -> dict[str, object]:
    tasks = {
        use.name: {
            "rows": ROWS,
            "search": "aa",
            "confirm": "bb",
            "heldout": "cc",
            "expert": use.expert,
            "definition": {"kind": "generate"},
        }
        for use in recipe.tasks
    }
    return {**start_of(recipe, in_flight=2), "tasks": tasks, "strategy": {"kind": "cycleqd"}}


def measure_heldout(folder: Path, samples: Mapping[str, Sequence[float]]) -> Run:
    """Journal held-out samples of the base and, each a little better, of the best-mean elite and the aggregate."""
    run = open_run(folder)
    experts, groups = len(run.experts), len(run.groups)
    candidates = {
        "base": level_genome(0.0, experts, groups),
        "best-mean": run.search.genome(run.best_mean()),
        "aggregate": run.aggregate(),
    }
    with closing(Journal(folder)) as journal:
        for name, candidate in candidates.items():
            tasks = {task: Estimate.of(samples[name]) for task in run.tasks}
            journal.append(measured_event(name, candidate, "heldout", tasks))
    return open_run(folder)


HELDOUT = {"base": [0.0, 0.0, 0.0, 1.0], "best-mean": [1.0, 1.0, 0.5, 1.0], "aggregate": [1.0, 0.0, 1.0, 0.25]}
"""Samples of each model, for `measure_heldout`."""


def make_comparison(folder: Path, result: ComparisonResult) -> Run:
    """The folder of a comparison of two tasks with its reference's first run, scored on held-out rows."""
    strategy = result.by_name[result.reference].strategy
    run = make_run(folder / str(strategy) / "seed-0", tasks=2)
    scores = {task: {"scores": HELDOUT["best-mean"], "truncated": 0.25} for task in run.tasks}
    digest = candidate_digest(run.candidate(run.best_mean()))
    with closing(Journal(folder)) as journal:
        settings = {"searches": [str(strategy)], "budget": 10, "seeds": 1, "revisions": {}}
        journal.append({"event": "comparison", "format": FORMAT, **settings})
        journal.append({"event": "opened", **asdict(result.opened)})
        journal.append({"event": "heldout", "candidate": digest, "tasks": scores})
    (folder / "comparison.json").write_text(json.dumps(result_to_json(result)))
    return run
