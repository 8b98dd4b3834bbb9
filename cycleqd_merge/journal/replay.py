"""A run as its journal tells it: the strategy brought back to where it was by asking and telling again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from cycleqd_merge.errors import RunFailed, UserError
from cycleqd_merge.evolution.archive import Archive, EmptyRange, Scores
from cycleqd_merge.evolution.cycleqd import CycleQD, Floor, Objective, Operators
from cycleqd_merge.evolution.genome import Genome, aggregate
from cycleqd_merge.evolution.schedule import Schedule
from cycleqd_merge.evolution.strategy import Proposal, Result
from cycleqd_merge.journal.log import Event, of_kind, read_events
from cycleqd_merge.recipe.loading import parse
from cycleqd_merge.recipe.schema import GaussianMutation, Recipe, SvdMutation, TaskUse, task_name


def ordered_tasks(recipe: Recipe) -> list[TaskUse]:
    """The tasks in the order of their scores: objectives first, tasks to keep after them."""
    return sorted(recipe.tasks, key=lambda use: use.role != "optimise")


def build_strategy(recipe: Recipe, groups: int) -> CycleQD:
    """The strategy that a recipe asks for, over `groups` coefficient groups."""
    evolution = recipe.evolution
    experts = list(recipe.experts)
    tasks = ordered_tasks(recipe)
    objectives = tuple(
        Objective(
            task_name(use),
            None if use.expert is None else experts.index(use.expert),
            use.bins or evolution.bins,
            use.bounds,
        )
        for use in tasks
        if use.role == "optimise"
    )
    floors = tuple(Floor(column, use.floor) for column, use in enumerate(tasks) if use.floor is not None)
    mutation = evolution.mutation
    scale = 0.0
    if isinstance(mutation, SvdMutation):
        scale = mutation.w_max
    elif isinstance(mutation, GaussianMutation):
        scale = mutation.std
    operators = Operators(
        mu=evolution.mu,
        sigma=evolution.sigma,
        mutation=mutation.kind,
        scale=scale,
        signed=isinstance(mutation, SvdMutation) and mutation.signed,
        sampling=evolution.sampling,
        alpha_low=evolution.alpha_low,
        alpha_high=evolution.alpha_high,
        bound_low=evolution.bounds.low,
        bound_high=evolution.bounds.high,
    )
    return CycleQD(objectives, len(experts), groups, operators, evolution.seed, floors)


@dataclass
class Replay:
    """A run's strategy and what it was told, in step with the journal."""

    recipe: Recipe
    folder: Path
    strategy: CycleQD
    schedule: Schedule
    start: Event
    results: list[Event] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    open: list[Proposal] = field(default_factory=list)

    @classmethod
    def begin(cls, recipe: Recipe, folder: Path, start: Event, recorded: int = 0) -> Replay:
        """A run of which nothing was told yet.

        folder: where the recipe's relative paths start. recorded: results that will be replayed, which may be more
        than the recipe's generations.
        """
        strategy = build_strategy(recipe, len(start["groups"]))
        total = max(len(recipe.experts) + recipe.evolution.generations, recorded)
        replay = cls(recipe, folder, strategy, Schedule(strategy, start["in_flight"], total), start)
        replay._opened(replay.schedule.ready())
        return replay

    def tell(self, event: Event) -> list[Proposal]:
        """Take a `result` event in the order of its number; returns the proposals that this opens.

        Raises:
            RunFailed: the strategy cannot go on from these scores.
        """
        scores = event.get("scores")
        result = Result(event["number"], None if scores is None else tuple(scores))
        self.open = [proposal for proposal in self.open if proposal.number != result.number]
        try:
            opened = self.schedule.tell(result)
        except EmptyRange as error:
            raise RunFailed(self._explain(error)) from error
        except ValueError as error:
            raise RunFailed(str(error)) from error
        self.results.append(event)
        self._opened(opened)
        return opened

    def _opened(self, proposals: Sequence[Proposal]) -> None:
        self.open.extend(proposals)
        self.steps.extend(proposal.step for proposal in proposals)

    def _explain(self, error: EmptyRange) -> str:
        return (
            f"task {self.objectives[error.task]}: its experts score from {error.worst:g} to {error.best:g}, which "
            "leaves no range to divide into cells; check prompt and scorer, or give the task explicit `bounds`"
        )

    @property
    def objectives(self) -> list[str]:
        """Names of the tasks that have an archive, in the archives' order."""
        return [objective.name for objective in self.strategy.objectives]

    @property
    def tasks(self) -> list[str]:
        """Names of all tasks, in the order of the scores."""
        return [task_name(use) for use in ordered_tasks(self.recipe)]

    @property
    def experts(self) -> list[str]:
        """Names of the experts; evaluation number i below their count is expert i."""
        return list(self.recipe.experts)

    @property
    def archives(self) -> list[Archive]:
        """The archives, one per objective."""
        return self.strategy.archives()

    @property
    def generation(self) -> int:
        """The last generation that was told; 0 for the experts."""
        return max(0, self.schedule.told - len(self.experts))

    def scores(self, number: int) -> Scores:
        """The scores told for an evaluation, in the order of `tasks`."""
        return tuple(self.results[number]["scores"])

    def best_mean(self) -> int:
        """The elite with the highest mean over the objectives; of equals the earliest.

        Raises:
            UserError: the archives hold no elite yet.
        """
        numbers = sorted({elite.number for archive in self.archives for elite in archive.elites()})
        if not numbers:
            raise UserError(f"{self.folder}: no elite yet; let the run score its experts first")
        count = len(self.objectives)
        return max(numbers, key=lambda number: (sum(self.scores(number)[:count]), -number))

    def aggregate(self) -> Genome:
        """One model from the best elite of each archive (paper, section 4.4)."""
        best = [elite for archive in self.archives if (elite := archive.best()) is not None]
        if not best:
            raise UserError(f"{self.folder}: no elite yet; let the run score its experts first")
        genomes = [self.strategy.genome(elite.number) for elite in best]
        return aggregate(genomes, [elite.scores[elite.task] for elite in best])

    @cached_property
    def groups(self) -> list[str]:
        """Labels of the coefficient groups."""
        return list(self.start["groups"])


def replay_events(events: Sequence[Event], recipe: Recipe | None = None, where: str = "journal") -> Replay:
    """Rebuild a run from its events; `recipe` is the one to go on with, by default the last session's.

    Raises:
        UserError: the journal says that something else was proposed than the strategy proposes now, or results are
            out of order.
    """
    start, session = events[0], of_kind(events, "session")[-1]
    journaled = parse(TypeAdapter(Recipe), session["recipe"], where)
    replay = Replay.begin(recipe or journaled, Path(session["folder"]), start, len(of_kind(events, "result")))
    for line, event in enumerate(events, start=1):
        if event["event"] != "result":
            continue
        number = event.get("number")
        if number != replay.schedule.told:
            raise UserError(f"{where}:{line}: damaged: result {number} where {replay.schedule.told} is next")
        if number >= len(replay.steps) or replay.steps[number] != event.get("step"):
            raise UserError(f"{where}:{line}: this version proposes another child than the one recorded")
        if event.get("scores") is not None and len(event["scores"]) != len(replay.tasks):
            raise UserError(f"{where}:{line}: damaged: {len(event['scores'])} scores for {len(replay.tasks)} tasks")
        replay.tell(event)
    return replay


def open_run(folder: Path) -> Replay:
    """A run on disk, to look at.

    Raises:
        UserError: the folder holds no run, or its journal is damaged.
    """
    events = read_events(folder)
    if not of_kind(events, "session"):
        raise UserError(f"{folder}: holds no run that has begun")
    return replay_events(events, where=str(folder / "journal.jsonl"))
