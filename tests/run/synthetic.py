"""Whole runs without any model: a recipe, its identity, and a pool that scores genomes by a formula.

A run takes a fraction of a second. Imported by child processes too, so it imports no more than a run needs.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cycleqd_merge.config.recipe import Recipe, task_name
from cycleqd_merge.errors import Interrupted
from cycleqd_merge.evaluation.pools.pool import Finished
from cycleqd_merge.evaluation.worker import Evaluation
from cycleqd_merge.evolution.archive import Scores
from cycleqd_merge.evolution.candidate import Candidate, candidate_digest
from cycleqd_merge.evolution.genome import Genome
from cycleqd_merge.journal.log import Event, Journal, read_events
from cycleqd_merge.run.identity import operators
from cycleqd_merge.run.loop import evaluate_generations, resume_journal
from cycleqd_merge.run.state import Run
from cycleqd_merge.strategies.factory import ordered_tasks
from cycleqd_merge.strategies.protocol import Proposal
from cycleqd_merge.strategies.racing import Partial
from cycleqd_merge.tasks.protocol import Split
from tests.evolution.references import synthetic_scores

if TYPE_CHECKING:
    from cycleqd_merge.fitting.job import FitJob, FitResult

EXPERTS = ("sql", "bash", "math")
Failure = Callable[[int], str | Exception | None]


def synthetic_recipe(generations: int = 20, **settings: Any) -> Recipe:
    """Three experts and their tasks; `settings` are further keys of the recipe."""
    stated = {
        "base": "base",
        "experts": {name: name for name in EXPERTS},
        "tasks": [{"task": name, "expert": name, "bins": 6} for name in EXPERTS],
        "output": "run",
        **settings,
    }
    return Recipe.model_validate({**stated, "evolution": {**stated.get("evolution", {}), "generations": generations}})


def start_of(recipe: Recipe, in_flight: int) -> Event:
    """The identity of a synthetic run."""
    return {
        "event": "start",
        "format": 1,
        "base": "0123",
        "experts": {name: f"{name}-digest" for name in recipe.experts},
        "tasks": {
            task_name(use): {
                "expert": use.expert,
                "role": use.role,
                "rows": {"search": 240, "confirm": 0},
                "search": "0123",
                "confirm": "4567",
                "heldout": "89ab",
            }
            for use in ordered_tasks(recipe)
        },
        "strategy": recipe.strategy.model_dump(mode="json"),
        "evolution": operators(recipe.evolution),
        "groups": ["all"],
        "in_flight": in_flight,
    }


def session_of(recipe: Recipe, bases: Mapping[str, str] | None = None) -> Event:
    """The session event of one process."""
    return {
        "event": "session",
        "recipe": recipe.model_dump(mode="json", exclude_unset=True),
        "folder": "/nowhere",
        "bases": dict(bases or {}),
    }


class SyntheticPool:
    """Scores genomes by `synthetic_scores`; evaluations end in an order drawn from `order`, after small sleeps.

    seconds: the mean sleep. failure: by number, the error of an evaluation that fails, or what `next` shall raise.
    """

    def __init__(
        self, order: int = 0, seconds: float = 0.0, failure: Failure | None = None, tasks: int = len(EXPERTS)
    ) -> None:
        self.tasks = tasks
        self._random, self._seconds, self._failure = random.Random(order), seconds, failure
        self._waiting: list[Proposal] = []
        self.submitted: list[int] = []
        self.ended: list[int] = []

    def submit(
        self,
        proposal: Proposal,
        rows: Split = "search",
        known: Mapping[str, float] | None = None,
        record: Collection[str] = (),
    ) -> None:
        self._waiting.append(proposal)
        self.submitted.append(proposal.number)

    def next(self) -> Finished:
        proposal = self._waiting.pop(self._random.randrange(len(self._waiting)))
        if self._seconds:
            time.sleep(self._random.uniform(0, 2 * self._seconds))
        self.ended.append(proposal.number)
        failure = self._failure(proposal.number) if self._failure else None
        if isinstance(failure, Exception):
            raise failure
        if failure is not None:
            return Finished(proposal.number, None, failure)
        scores = self._scores(proposal.candidate)
        seconds = self._random.random(), self._random.random()
        lost = proposal.race is not None and proposal.race.lost([Partial(score, 60, 240) for score in scores])
        return Finished(
            proposal.number,
            Evaluation({}, scores, *seconds, 60 * self.tasks if lost else 240 * self.tasks, 240 * self.tasks),
        )

    def _scores(self, candidate: Candidate) -> Scores:
        if isinstance(candidate, Genome):
            return synthetic_scores(candidate, self.tasks)
        drawn = random.Random(candidate_digest(candidate))
        return tuple(drawn.uniform(0.2, 0.8) for _ in range(self.tasks))

    def fit(self, jobs: Sequence[FitJob], received: Callable[[FitResult], None]) -> None:
        raise AssertionError("no fit is learned here")

    def close(self) -> None:
        self._waiting.clear()


class Watcher:
    """An observer that records every call; `act` is called with the number of each evaluation."""

    def __init__(self, act: Callable[[int], object] | None = None) -> None:
        self._act = act
        self.began_at: int | None = None
        self.told_events: list[Event] = []

    def started(self, state: Run) -> None:
        self.began_at = state.schedule.received

    def evaluated(self, state: Run, event: Event) -> None:
        self.told_events.append(event)
        if self._act is not None:
            self._act(event["number"])


def run(
    folder: Path,
    recipe: Recipe | None = None,
    in_flight: int = 1,
    pool: SyntheticPool | None = None,
    watcher: Watcher | None = None,
    deadline: float | None = None,
) -> Run:
    """Start the run in `folder`, or resume it, and complete it."""
    recipe = recipe or synthetic_recipe()
    with closing(Journal(folder)) as journal:
        state = resume_journal(journal, start_of(recipe, in_flight), session_of(recipe))
        evaluate_generations(journal, state, pool or SyntheticPool(), watcher or Watcher(), deadline)
    return state


def run_in_process(
    folder: Path, generations: int, in_flight: int, order: int, seconds: float, settings: Mapping[str, Any]
) -> None:
    """The same in a child process, which exits as the command line does."""
    try:
        run(folder, synthetic_recipe(generations, **settings), in_flight, SyntheticPool(order, seconds))
    except Interrupted:
        sys.exit(130)


def history(folder: Path) -> list[Event]:
    """A journal's record of the search: its events without sessions and without seconds."""
    return [
        {key: value for key, value in event.items() if key != "seconds"}
        for event in read_events(folder)
        if event["event"] != "session"
    ]
