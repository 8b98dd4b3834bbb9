"""A run as its journal tells it: the strategy brought back to where it was by asking and telling again."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from cycleqd_merge.config.anchoring import anchored
from cycleqd_merge.config.loading import parse
from cycleqd_merge.config.recipe import Recipe, task_name
from cycleqd_merge.errors import RunFailed, UserError
from cycleqd_merge.evolution.archive import Archive, EmptyRange, Scores
from cycleqd_merge.evolution.candidate import Candidate, candidate_digest
from cycleqd_merge.evolution.genome import Genome, aggregate
from cycleqd_merge.journal.log import Event, of_kind, read_events
from cycleqd_merge.journal.measured import Measured, measured_of
from cycleqd_merge.merging.model_references import pinned_candidate, portable_candidate
from cycleqd_merge.strategies.factory import build_space, build_strategy, children, ordered_tasks
from cycleqd_merge.strategies.protocol import Proposal, Result
from cycleqd_merge.strategies.schedule import Schedule
from cycleqd_merge.strategies.space import SearchSpace

log = logging.getLogger(__name__)


@dataclass
class Run:
    """A run's search and what it was told, in step with the journal."""

    recipe: Recipe
    space: SearchSpace
    schedule: Schedule
    start: Event
    results: list[Event] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    open: list[Proposal] = field(default_factory=list)
    confirmed: dict[int, Scores] = field(default_factory=dict)
    """Scores on the rows set aside, by evaluation number, in the order of `tasks`."""
    unconfirmed: set[int] = field(default_factory=set)
    """Numbers of elites whose evaluation on these rows failed for good."""
    measured: Measured = field(default_factory=dict)
    """What models of the run scored outside its search."""
    sessions: list[Event] = field(default_factory=list)
    """The processes that worked on the run: recipe, folder, environment."""

    @classmethod
    def begin(cls, recipe: Recipe, start: Event, recorded: Sequence[dict[str, Any]] = ()) -> Run:
        """A run of which nothing was told yet.

        recorded: steps of the results that will be replayed, which
        may be more than the recipe's generations.
        """
        seeds = tuple(Genome.from_json(seed["genome"]) for seed in start.get("seeds", []))
        space = build_space(recipe, len(start["groups"]), seeds)
        strategy = build_strategy(recipe, space)
        total = max(space.first + children(recipe, strategy), len(recorded))
        schedule = Schedule(strategy, start["in_flight"], total, recorded)
        run = cls(recipe, space, schedule, start)
        run._opened(run.schedule.ready())
        return run

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
        return self._opened(opened)

    def tell_confirmed(self, event: Event) -> None:
        """Take a `confirm` event."""
        if event["scores"] is None:
            self.unconfirmed.add(event["number"])
        else:
            self.confirmed[event["number"]] = tuple(event["scores"])

    def _opened(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        """Take in what the strategy proposes; candidates that name the run's models name them at their commits."""
        opened = [replace(each, candidate=pinned_candidate(each.candidate, self.recipe)) for each in proposals]
        self.open.extend(opened)
        self.steps.extend(proposal.step for proposal in opened)
        return opened

    def _explain(self, error: EmptyRange) -> str:
        return (
            f"task {self.objectives[error.task]}: its experts score from {error.worst:g} to {error.best:g}, which "
            "leaves no range to divide into cells; check prompt and scorer, or give the task explicit `bounds`"
        )

    @property
    def objectives(self) -> list[str]:
        """Names of the tasks that have an archive, in the archives' order."""
        return [objective.name for objective in self.space.objectives]

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
        return self.space.archives

    @property
    def generation(self) -> int:
        """The last generation that was told; 0 for the experts and other seeds."""
        return max(0, self.schedule.told - self.space.first)

    @property
    def generations(self) -> int:
        """Children that the run evaluates: the recipe's number, or fewer where its strategy has no more."""
        return self.schedule.total - self.space.first

    def candidate(self, number: int) -> Candidate:
        """What was proposed under `number`, with the run's models at their commits."""
        return pinned_candidate(self.space.candidate(number), self.recipe)

    def portable(self, candidate: Candidate) -> Candidate:
        """A candidate as others see it, without paths of this machine."""
        return portable_candidate(candidate, self.recipe)

    def digest(self, candidate: Candidate) -> str:
        """What the journal knows a candidate by, wherever the run and its models lie."""
        return candidate_digest(self.portable(candidate))

    def inheritable(self) -> list[int]:
        """The elites that another run can start from: genomes, beside the experts."""
        numbers = [number for number in self.elites() if number >= len(self.experts)]
        genomes = [number for number in numbers if isinstance(self.space.candidate(number), Genome)]
        if len(genomes) < len(numbers):
            log.warning("%d elites are mergekit configurations, and stay behind", len(numbers) - len(genomes))
        return genomes

    def known(self, number: int) -> dict[str, float]:
        """Scores by task that an evaluation brings from the run that it was forked from."""
        seeds = self.start.get("seeds", [])
        place = number - len(self.experts)
        return dict(seeds[place]["scores"]) if 0 <= place < len(seeds) else {}

    def scores(self, number: int) -> Scores:
        """The scores told for an evaluation, in the order of `tasks`."""
        return tuple(self.results[number]["scores"])

    def best_mean(self) -> int:
        """The elite with the highest mean over the objectives, by `judged`; of equals the earliest.

        Raises:
            UserError: the archives hold no elite yet.
        """
        return max(self._judgeable(self.elites()), key=lambda number: (self.mean(self.judged(number)), -number))

    def best_of(self, task: int) -> int:
        """The elite of one archive with the highest quality, by `judged`; of equals the earliest.

        Raises:
            UserError: the archive holds no elite yet.
        """
        numbers = {elite.number for elite in self.archives[task].elites()} if self.archives else set()
        return max(self._judgeable(sorted(numbers)), key=lambda number: (self.judged(number)[task], -number))

    def aggregate(self) -> Genome:
        """One model from the best elite of each archive (paper, section 4.4).

        Raises:
            UserError: the archives hold no elite yet, or a best elite is a mergekit configuration.
        """
        best = [self.best_of(task) for task in range(len(self.objectives))]
        genomes = []
        for task, number in zip(self.objectives, best, strict=True):
            candidate = self.space.candidate(number)
            if not isinstance(candidate, Genome):
                raise UserError(
                    f"aggregate: #{number}, the best of {task}, is a mergekit configuration; only genomes can be summed"
                )
            genomes.append(candidate)
        scores = [self.judged(number)[task] for task, number in enumerate(best)]
        return aggregate(genomes, scores)

    @property
    def has_aggregate(self) -> bool:
        """Whether there is a best elite in each archive, all of them genomes."""
        try:
            self.aggregate()
        except UserError:
            return False
        return True

    def elites(self) -> list[int]:
        """Evaluation numbers of all elites, each once, ascending."""
        return sorted({elite.number for archive in self.archives for elite in archive.elites()})

    def mean(self, scores: Scores) -> float:
        """The mean of the objectives' scores; tasks to keep do not count."""
        return sum(scores[: len(self.objectives)]) / len(self.objectives)

    def judged(self, number: int) -> Scores:
        """The scores that an elite is chosen by: over searched and confirming rows together where both are there."""
        searched = self.scores(number)
        if number not in self.confirmed:
            return searched
        counts = [self.start["tasks"][task]["rows"] for task in self.tasks]
        pairs = zip(searched, self.confirmed[number], counts, strict=True)
        return tuple((s * rows["search"] + c * rows["confirm"]) / sum(rows.values()) for s, c, rows in pairs)

    def _judgeable(self, numbers: Sequence[int]) -> Sequence[int]:
        """The confirmed ones of `numbers`, or all where none is: the scores of both kinds do not compare.

        Of these, the ones that hold every floor, where any does: experts stand in the archives without.
        """
        if not numbers:
            raise UserError(f"{self.recipe.output}: no elite yet; let the run score its experts first")
        comparable = [number for number in numbers if number in self.confirmed] or numbers
        return [number for number in comparable if self.space.holds(self.judged(number))] or comparable

    @cached_property
    def groups(self) -> list[str]:
        """Labels of the coefficient groups."""
        return list(self.start["groups"])


def session_recipe(session: Event, where: str) -> Recipe:
    """The recipe of a `session` event; where it holds relative paths, they start at the folder that the event names.

    Raises:
        RecipeError: the recipe is not valid; `where` names it.
    """
    recipe = parse(TypeAdapter(Recipe), session["recipe"], where)
    folder = Path(session.get("folder", ""))
    return anchored(recipe, folder) if folder.is_absolute() else recipe


def replay_events(events: Sequence[Event], where: str = "journal") -> Run:
    """Rebuild a run from its events; the last session's recipe is the one that it goes on with.

    Raises:
        UserError: the journal says that something else was proposed than the strategy proposes now, or results are
            out of order.
    """
    start, session = events[0], of_kind(events, "session")[-1]
    recipe = session_recipe(session, where)
    steps = [event.get("step") for event in of_kind(events, "result")]
    recorded = [step if isinstance(step, dict) else {} for step in steps]
    run = Run.begin(recipe, start, recorded)
    run.measured = measured_of(events)
    run.sessions = of_kind(events, "session")
    for line, event in enumerate(events, start=1):
        if event["event"] == "confirm":
            run.tell_confirmed(event)
        if event["event"] != "result":
            continue
        number = event.get("number")
        if number != run.schedule.told:
            raise UserError(f"{where}:{line}: damaged: result {number} where {run.schedule.told} is next")
        if number >= len(run.steps) or run.steps[number] != event.get("step"):
            raise UserError(f"{where}:{line}: this version proposes another child than the one recorded")
        if event.get("scores") is not None and len(event["scores"]) != len(run.tasks):
            raise UserError(f"{where}:{line}: damaged: {len(event['scores'])} scores for {len(run.tasks)} tasks")
        run.tell(event)
    return run


def as_run(run: Run | str | PathLike[str]) -> Run:
    """The run itself, or the one in a directory; see `open_run`."""
    return run if isinstance(run, Run) else open_run(run)


def open_run(folder: str | PathLike[str]) -> Run:
    """The run in a directory, rebuilt from its journal; nothing is written.

    Raises:
        UserError: the folder holds no run, or its journal is damaged.
    """
    folder = Path(folder)
    events = read_events(folder)
    if not of_kind(events, "session"):
        raise UserError(f"{folder}: holds no run that has begun")
    return replay_events(events, where=str(folder / "journal.jsonl"))
