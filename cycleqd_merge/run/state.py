"""A run rebuilt from its journal, by asking the strategy and telling it the recorded results again."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cycleqd_merge.config.anchoring import anchored
from cycleqd_merge.config.archives import require_archives, with_recorded_archive
from cycleqd_merge.config.foreign import guarded
from cycleqd_merge.config.loading import recorded_recipe, shipped_tasks
from cycleqd_merge.config.recipe import Recipe, task_name
from cycleqd_merge.errors import RecipeError, RunFailed
from cycleqd_merge.evolution.archive import Archive, EmptyRange, Scores
from cycleqd_merge.evolution.candidate import Candidate, candidate_digest
from cycleqd_merge.evolution.genome import Genome, aggregate
from cycleqd_merge.journal.log import JOURNAL_FILE, Event, of_kind, read_events, require_complete
from cycleqd_merge.journal.measured import Measured, MeasuredOutcomes, measured_outcomes, measured_scores
from cycleqd_merge.journal.outcomes import TaskOutcomes, decoded, sampling_variance
from cycleqd_merge.merging.merge_grid import static_merges
from cycleqd_merge.merging.model_references import pinned_candidate, portable_candidate
from cycleqd_merge.run.order import events_in_order, in_recorded_order, require_founders
from cycleqd_merge.run.tables import html, one_line, to_pandas
from cycleqd_merge.strategies.factory import build_space, build_strategy, child_count, ordered_tasks, require_memory
from cycleqd_merge.strategies.protocol import Proposal, Result
from cycleqd_merge.strategies.schedule import Schedule
from cycleqd_merge.strategies.state import SearchState
from cycleqd_merge.tasks.protocol import Split

if TYPE_CHECKING:
    import pandas

log = logging.getLogger(__name__)


@dataclass(repr=False)
class Run:
    """A run as its journal recorded it: the recipe, every result, and the strategy in the state that they left it in.

    `elites()`, `archives`, `best_mean()` and `scores(number)` answer questions about it; `to_pandas()` gives all
    evaluations as a table.
    """

    recipe: Recipe
    search: SearchState
    schedule: Schedule
    start: Event
    results: list[Event] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    open: list[Proposal] = field(default_factory=list)
    confirmed: dict[int, Scores] = field(default_factory=dict)
    """Scores on the confirmation split, by evaluation number, in the order of `tasks`."""
    unconfirmed: set[int] = field(default_factory=set)
    """Numbers of elites whose evaluation on the confirmation split failed."""
    measured: Measured = field(default_factory=dict)
    """Scores of the run's models outside the search."""
    confirmations: dict[int, Event] = field(default_factory=dict)
    """Events behind `confirmed`, by evaluation number."""
    measured_outcomes: MeasuredOutcomes = field(default_factory=dict)
    """Outcomes of the rows behind `measured`."""
    sessions: list[Event] = field(default_factory=list)
    """One event per process that worked on the run: recipe, environment."""
    fits: dict[int, Event] = field(default_factory=dict)
    """The fits that were learned so far, by their number."""
    busy_seconds: float = 0.0
    """Seconds that workers spent on fits and on evaluations on the search split; failed ones are not counted."""
    folder: Path | None = None
    """The run directory that it was read from, which has its fits."""

    def __repr__(self) -> str:
        return f"Run({self.recipe.output!r}: {one_line(self)})"

    def _repr_html_(self) -> str:
        return html(self)

    def to_pandas(self) -> pandas.DataFrame:
        """One row per evaluation: scores by split and task, mean, whether it is an elite."""
        return to_pandas(self)

    @classmethod
    def begin(cls, recipe: Recipe, start: Event, recorded: Sequence[dict[str, Any]] = (), place: str = "") -> Run:
        """A run without results.

        recorded: steps of the results that will be replayed; they may be more than the recipe's generations. place: of
        `start`, put before the message of a search that is too large.
        """
        founders = tuple(Genome.from_json(seed["genome"]) for seed in start.get("seeds", []))
        space = build_space(recipe, len(start["groups"]), founders, len(fit_weights(start)))
        require_memory(recipe, space.dimensions, start["in_flight"], place)
        state = SearchState(space)
        strategy = build_strategy(recipe, state, static_merges)
        total = max(state.first + child_count(recipe, strategy), len(recorded))
        schedule = Schedule(strategy, start["in_flight"], total, recorded)
        run = cls(recipe, state, schedule, start)
        run._opened(run.schedule.ready())
        return run

    def tell(self, event: Event, where: str = "journal") -> list[Proposal]:
        """Add a `result` event, in the order of the numbers; returns the proposals that may be evaluated next.

        Raises:
            RunFailed: the strategy cannot continue from these scores.
            RecipeError: the outcomes of its rows are damaged; `where` names the line.
        """
        result = self._result(event, self._result_outcomes(event, where))
        self._spend(event.get("seconds") or ())
        self.open = [proposal for proposal in self.open if proposal.number != result.number]
        try:
            opened = self.schedule.tell(result)
        except EmptyRange as error:
            raise RunFailed(self._explain(error)) from error
        except ValueError as error:
            raise RunFailed(str(error)) from error
        self.results.append(event)
        return self._opened(opened)

    def tell_fit(self, event: Event) -> None:
        """Add a `fit` event: the fit joins the founders that may be evaluated."""
        self.fits[event["number"]] = event
        self.search.fits[event["number"]] = event["digest"]
        self._spend(event.get("seconds", {}).values())
        self._opened(self.schedule.ready())

    def _spend(self, seconds: Iterable[float]) -> None:
        """Count seconds; once they reach the recipe's limit, no more children are asked for."""
        self.busy_seconds += sum(seconds)
        limit = self.recipe.evolution.seconds
        if limit is not None and self.busy_seconds >= limit:
            self.schedule.stop(self.search.first)

    def _result_outcomes(self, event: Event, where: str = "journal") -> TaskOutcomes:
        """The outcomes of a result's rows; those of a fork's founder also from the run that it comes from."""
        scores = event.get("scores") or event.get("partial")
        if not scores:
            return {}
        founders, place = self.start.get("seeds", []), event["number"] - len(self.experts)
        inherited = founders[place].get("outcomes", {}) if 0 <= place < len(founders) else {}
        return self._decoded({**inherited, **event.get("outcomes", {})}, scores, "search", where)

    def _result(self, event: Event, outcomes: TaskOutcomes) -> Result:
        scores, estimated = (None if not event.get(key) else tuple(event[key]) for key in ("scores", "partial"))
        known = outcomes if set(self.tasks) <= set(outcomes) else {}
        row_scores = tuple(known[task].scores for task in self.tasks) if known and scores else ()
        return Result(event["number"], scores, self._variances(scores or estimated, outcomes), row_scores, estimated)

    def _variances(self, scores: Sequence[float] | None, outcomes: TaskOutcomes) -> tuple[float, ...]:
        """See `Result`. Of a task without outcomes, those of scores of 0 and 1, which vary most."""
        tasks = self.start.get("tasks", {})
        if scores is None or not set(self.tasks) <= set(tasks):
            return ()
        variances = []
        for task, score in zip(self.tasks, scores, strict=False):
            rows = tasks[task]["rows"]["search"]
            known = outcomes.get(task)
            variances.append(sampling_variance(score * rows, score * rows, rows) if known is None else known.variance)
        return tuple(variances)

    def _decoded(
        self, texts: Mapping[str, str], scores: Sequence[float], split: Split, where: str = "journal"
    ) -> TaskOutcomes:
        rows = {task: facts["rows"].get(split, 0) for task, facts in self.start.get("tasks", {}).items()}
        return decoded(texts, rows, dict(zip(self.tasks, scores, strict=False)), where)

    def tell_confirmed(self, event: Event, where: str = "journal") -> None:
        """Add a `confirm` event.

        Raises:
            RecipeError: the outcomes of its rows are damaged; `where` names the line.
        """
        if event["scores"] is None:
            self.unconfirmed.add(event["number"])
            return
        self._decoded(event.get("outcomes", {}), event["scores"], "confirm", where)
        self.confirmed[event["number"]], self.confirmations[event["number"]] = tuple(event["scores"]), event

    def _opened(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        """Record proposals; a mergekit configuration names the run's models at their commits."""
        opened = [replace(each, candidate=pinned_candidate(each.candidate, self.recipe)) for each in proposals]
        self.open.extend(opened)
        self.steps.extend(proposal.step for proposal in opened)
        return opened

    def _explain(self, error: EmptyRange) -> str:
        return (
            f"task {self.objectives[error.task]}: its experts' scores, {error.worst:g} to {error.best:g}, leave "
            "no range to divide into cells; check prompt and scorer, or give the task explicit `bounds`"
        )

    @property
    def objectives(self) -> list[str]:
        """Names of the tasks that have an archive, in the archives' order."""
        return [objective.name for objective in self.search.objectives]

    @property
    def tasks(self) -> list[str]:
        """Names of all tasks, in the order of the scores."""
        return [task_name(use) for use in ordered_tasks(self.recipe)]

    @property
    def experts(self) -> list[str]:
        """Names of the experts; evaluation i is expert i as long as i is below their number."""
        return list(self.recipe.experts)

    @property
    def fit_seconds(self) -> float:
        """Seconds that the fits took, with release and restoring of the engine."""
        return float(sum(sum(event.get("seconds", {}).values()) for event in self.fits.values()))

    @property
    def fitted_tasks(self) -> list[str]:
        """Names of the tasks that the run's fits learn, in the order of the scores."""
        weights = fit_weights(self.start)
        return [task for task in self.tasks if any(task in each for each in weights)]

    @property
    def fits_due(self) -> list[int]:
        """Numbers of the fits that are learned next: those that are missing once all other founders are scored."""
        if self.schedule.received < self.search.first - self.search.space.fits:
            return []
        return [number for number in range(self.search.space.fits) if number not in self.fits]

    def to_record(self, number: int) -> list[str]:
        """The tasks whose fits may learn from the answers of this evaluation, which must be an expert's.

        A task without an `expert` learns from the expert with the highest score on it, which is not known yet.
        """
        if number >= len(self.experts):
            return []
        return [task for task in self.fitted_tasks if self._stated_expert(task) in (None, number)]

    def teacher(self, task: str) -> int | None:
        """The expert that fits learn a task from, among those evaluated so far: the task's own, or the first with the
        highest score on it; None if it could not be evaluated."""
        place, stated = self.tasks.index(task), self._stated_expert(task)
        scores = {
            event["number"]: event["scores"][place]
            for event in self.results[: len(self.experts)]
            if event["scores"] is not None and stated in (None, event["number"])
        }
        return max(scores, key=lambda number: (scores[number], -number)) if scores else None

    def _stated_expert(self, task: str) -> int | None:
        use = next(use for use in self.recipe.tasks if task_name(use) == task)
        return None if use.expert is None else self.experts.index(use.expert)

    @property
    def archives(self) -> list[Archive]:
        """The archives, one per objective."""
        return self.search.archives

    @property
    def generation(self) -> int:
        """The last evaluated generation; 0 while experts and other founders are evaluated."""
        return max(0, self.schedule.received - self.search.first)

    @property
    def generations(self) -> int:
        """Number of children to evaluate: the recipe's, or fewer if the strategy has no more."""
        return self.schedule.total - self.search.first

    def candidate(self, number: int) -> Candidate:
        """The candidate with this evaluation number, with the run's models at their commits."""
        return pinned_candidate(self.search.candidate(number), self.recipe)

    def portable(self, candidate: Candidate) -> Candidate:
        """A candidate without the paths of this machine, as it is published."""
        return portable_candidate(candidate, self.recipe)

    def digest(self, candidate: Candidate) -> str:
        """The digest that identifies a candidate in the journal, independent of paths."""
        return candidate_digest(self.portable(candidate))

    def inheritable(self) -> list[int]:
        """The elites that another run can start from: genomes other than the experts."""
        numbers = [number for number in self.elites() if number >= len(self.experts)]
        genomes = [number for number in numbers if isinstance(self.search.candidate(number), Genome)]
        if len(genomes) < len(numbers):
            log.warning(
                "%d elites are mergekit configurations and cannot be founders of another run",
                len(numbers) - len(genomes),
            )
        return genomes

    def known(self, number: int) -> dict[str, float]:
        """Scores by task that a founder brings from the run that this one was forked from."""
        seeds = self.start.get("seeds", [])
        place = number - len(self.experts)
        return dict(seeds[place]["scores"]) if 0 <= place < len(seeds) else {}

    def outcomes(self, number: int, split: Split = "search") -> TaskOutcomes:
        """The outcomes of an evaluation's rows on the search or the confirmation split.

        Empty if there was no such evaluation, or an earlier version recorded it.
        """
        if split == "search":
            return self._result_outcomes(self.results[number]) if number < len(self.results) else {}
        event = self.confirmations.get(number, {})
        return self._decoded(event.get("outcomes", {}), event.get("scores", ()), split)

    def scores(self, number: int) -> Scores:
        """Scores of an evaluation on the search split, in the order of `tasks`."""
        return tuple(self.results[number]["scores"])

    def best_mean(self) -> int:
        """The elite with the highest mean over the objectives, by `judged`; the earliest of equals.

        Raises:
            RecipeError: there is no elite yet.
        """
        return max(self._comparable(self.elites()), key=lambda number: (self.mean(self.judged(number)), -number))

    def best_of(self, task: int) -> int:
        """The elite of one archive with the highest quality, by `judged`; the earliest of equals.

        Raises:
            RecipeError: the archive has no elite yet.
        """
        numbers = {elite.number for elite in self.archives[task].elites()} if self.archives else set()
        return max(self._comparable(sorted(numbers)), key=lambda number: (self.judged(number)[task], -number))

    def aggregate(self) -> Genome:
        """One model from the best elite of each archive (paper, section 4.4).

        Raises:
            RecipeError: there is no elite yet, or a best elite is a mergekit configuration.
        """
        best = [self.best_of(task) for task in range(len(self.objectives))]
        genomes = []
        for task, number in zip(self.objectives, best, strict=True):
            candidate = self.search.candidate(number)
            if not isinstance(candidate, Genome):
                raise RecipeError(
                    f"aggregate: #{number}, the best of {task}, is a mergekit configuration, which cannot be aggregated"
                )
            genomes.append(candidate)
        scores = [self.judged(number)[task] for task, number in enumerate(best)]
        return aggregate(genomes, scores)

    @property
    def has_aggregate(self) -> bool:
        """Whether each archive has a best elite, all of them genomes."""
        try:
            self.aggregate()
        except RecipeError:
            return False
        return True

    def elites(self) -> list[int]:
        """Evaluation numbers of all elites, each once, ascending."""
        return sorted({elite.number for archive in self.archives for elite in archive.elites()})

    def mean(self, scores: Scores) -> float:
        """The mean of the objectives' scores; tasks with `role: keep` do not count."""
        return sum(scores[: len(self.objectives)]) / len(self.objectives)

    def judged(self, number: int) -> Scores:
        """The scores that elites are chosen by: over the search and confirmation splits together if both are scored."""
        searched = self.scores(number)
        if number not in self.confirmed:
            return searched
        counts = [self.start["tasks"][task]["rows"] for task in self.tasks]
        pairs = zip(searched, self.confirmed[number], counts, strict=True)
        return tuple((s * rows["search"] + c * rows["confirm"]) / sum(rows.values()) for s, c, rows in pairs)

    def _comparable(self, numbers: Sequence[int]) -> Sequence[int]:
        """The confirmed elites among `numbers`, or all if none is: scores of the two kinds are not comparable.

        Of these, those that reach every floor, if any does: floors do not apply to experts.
        """
        if not numbers:
            raise RecipeError(f"{self.recipe.output}: no elite yet; the run must score its experts first")
        comparable = [number for number in numbers if number in self.confirmed] or numbers
        return [number for number in comparable if self.search.meets_floors(self.judged(number))] or comparable

    @cached_property
    def groups(self) -> list[str]:
        """Labels of the coefficient groups."""
        return list(self.start["groups"])


def fit_weights(start: Event) -> list[dict[str, float]]:
    """The weights of the tasks' losses in each fit of a run, by its start event."""
    return list((start.get("fit") or {}).get("weights", []))


def session_recipe(session: Event, where: str) -> Recipe:
    """The recipe of a `session` event; where it holds relative paths, they start at the folder that the event names.

    Raises:
        RecipeError: the recipe is not valid, or states something that a stranger may not state; `where` names it.
    """
    try:
        recipe = recorded_recipe(session, where)
    except RecipeError as error:
        first, *others = str(error).splitlines()
        raise RecipeError(f"{first} (and {len(others)} more errors)" if others else first) from None
    folder = Path(session.get("folder", ""))
    return guarded(anchored(recipe, folder) if folder.is_absolute() else recipe, where, shipped_tasks())


def replay_events(events: Sequence[Event], where: str = "journal") -> Run:
    """Rebuild a run from its events, with the recipe of its last session, in the order of the run's start.

    Raises:
        RecipeError: the strategy now proposes something other than the journal recorded, results are out of order, or
            values by position do not fit the run's experts and tasks.
    """
    require_complete(events, where)
    sessions = [(line, event) for line, event in enumerate(events, start=1) if event["event"] == "session"]
    if not sessions or events[0]["event"] != "start":
        raise RecipeError(f"{where}: damaged: line 1 is not the start of a run; restore the file from a backup")
    start, (line, session) = events[0], sessions[-1]
    recipe = in_recorded_order(session_recipe(session, f"{where}:{line}"), start, where)
    recipe = with_recorded_archive(recipe, start.get("evolution", {}))
    require_archives(recipe, f"{where}:{line}")
    steps = [event.get("step") for event in of_kind(events, "result")]
    recorded = [step if isinstance(step, dict) else {} for step in steps]
    require_founders(start, list(recipe.experts), [task_name(use) for use in recipe.tasks], where)
    run = Run.begin(recipe, start, recorded, f"{where}:1: ")
    in_order = events_in_order(events, where)
    run.measured, run.measured_outcomes = measured_scores(in_order), measured_outcomes(in_order, where)
    run.sessions = of_kind(events, "session")
    for line, event in enumerate(events, start=1):
        _require_columns(run, event, f"{where}:{line}")
        if event["event"] == "confirm":
            if event["number"] >= len(run.results) or "tasks" not in start:
                raise RecipeError(f"{where}:{line}: damaged: confirms {event['number']}, which was not evaluated")
            run.tell_confirmed(event, f"{where}:{line}")
        if event["event"] == "fit":
            if event["number"] not in run.fits_due:
                raise RecipeError(f"{where}:{line}: damaged: fit {event['number']} is not due here")
            run.tell_fit(event)
        if event["event"] != "result":
            continue
        number = event.get("number")
        if number != run.schedule.received:
            raise RecipeError(f"{where}:{line}: damaged: result {number} instead of {run.schedule.received}")
        if number >= len(run.steps) or run.steps[number] != event.get("step"):
            raise RecipeError(f"{where}:{line}: replay mismatch: this version proposes a different child")
        run.tell(event, f"{where}:{line}")
    return run


def _require_columns(run: Run, event: Event, where: str) -> None:
    """Check that an event has a value for every task of the run, where it has one per task.

    Raises:
        RecipeError: it has values of other tasks; `where` names its line.
    """
    kind, columns = event["event"], {"scores": len(run.tasks), "partial": len(run.tasks), "bounds": len(run.objectives)}
    for key, wanted in columns.items() if kind in ("result", "confirm", "bounds") else ():
        values = event.get(key)
        if values is not None and len(values) != wanted:
            raise RecipeError(f"{where}: damaged: {len(values)} {key} for {wanted} tasks")
    if kind == "measured" and set(event["tasks"]) != set(run.tasks):
        raise RecipeError(f"{where}: damaged: scores of {', '.join(event['tasks'])} for tasks {', '.join(run.tasks)}")


def open_run(folder: str | PathLike[str]) -> Run:
    """The run in a directory, rebuilt from its journal; nothing is written.

    Raises:
        RecipeError: not a run directory, or its journal is damaged.
    """
    folder = Path(folder)
    events = read_events(folder)
    if not of_kind(events, "session"):
        raise RecipeError(f"{folder}: not a run directory, or its run never started")
    run = replay_events(events, where=str(folder / JOURNAL_FILE))
    run.folder = folder
    return run
