"""Who is judged on held-out rows: chosen by what the searches saw, before those rows are opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cycleqd_merge.comparison.results import Kind
from cycleqd_merge.comparison.searches import Planned
from cycleqd_merge.comparison.statistics import hypervolume
from cycleqd_merge.evolution.candidate import Candidate, candidate_digest
from cycleqd_merge.journal.measured import Estimate
from cycleqd_merge.report.scores import search_estimates
from cycleqd_merge.run.elites import choose, pareto
from cycleqd_merge.run.state import Run

FAMILY = 16
"""Models of a search that are judged as its family, at most."""


@dataclass(frozen=True)
class Chosen:
    """A model to judge: of an entrant, found by a search with one seed; both None for one that no search found."""

    entrant: str
    kind: Kind
    strategy: str | None
    seed: int | None
    candidate: Candidate
    search: Mapping[str, Estimate]

    @property
    def digest(self) -> str:
        """The candidate's."""
        return candidate_digest(self.candidate)


def entrants(searches: Sequence[tuple[Planned, Run]]) -> list[Chosen]:
    """Base, experts and their plain mean; of static merges the best of each method; of every other search and seed the
    best-mean elite and the aggregate."""
    chosen = _usual(searches[0][1])
    for planned, run in searches:
        if planned.recipe.strategy.kind == "mergekit":
            chosen += _methods(planned, run)
        else:
            chosen += _winners(planned, run)
    return chosen


def families(searches: Sequence[tuple[Planned, Run]]) -> list[list[Candidate]]:
    """Per search, the elites that none of its others dominates by what it saw; of many, those that add most
    hypervolume, one after another."""
    return [[run.candidate(number) for number in _family(run)] for _, run in searches]


def _family(run: Run) -> list[int]:
    objectives = len(run.objectives)
    left = {number: run.scores(number)[:objectives] for number in pareto(run)}
    family: list[int] = []
    points: list[tuple[float, ...]] = []
    while left and len(family) < FAMILY:
        best = max(left, key=lambda number: (hypervolume([*points, left[number]]), -number))
        family.append(best)
        points.append(left.pop(best))
    return sorted(family)


def _usual(run: Run) -> list[Chosen]:
    """What users have without a search."""
    chosen = [Chosen("base", "base", None, None, choose(run, "base").candidate, {})]
    for number, name in enumerate(run.experts):
        label = f"expert:{name}"
        candidate = choose(run, label).candidate
        chosen.append(Chosen(label, "expert", None, None, candidate, search_estimates(run, number)))
    return [*chosen, Chosen("mean", "merge", None, None, choose(run, "mean").candidate, {})]


def _methods(planned: Planned, run: Run) -> list[Chosen]:
    """The best configuration of each merge method by its mean score, of those that hold every floor if any does; of
    equals the first. Static merges of the user's own carry the name of their search."""
    tried: dict[str, list[int]] = {}
    for number, step in enumerate(run.steps):
        if "merge" in step and run.results[number]["scores"] is not None:
            tried.setdefault(step["merge"], []).append(number)
    chosen = []
    for method, numbers in tried.items():
        fit = [number for number in numbers if run.search.holds(run.scores(number))] or numbers
        best = max(fit, key=lambda number: (run.mean(run.scores(number)), -number))
        label = method if planned.name == "mergekit" else f"{planned.name} {method}"
        label += f" (best of {len(numbers)})" if len(numbers) > 1 else ""
        seen = search_estimates(run, best)
        chosen.append(Chosen(label, "merge", planned.name, None, run.candidate(best), seen))
    return chosen


def _winners(planned: Planned, run: Run) -> list[Chosen]:
    best = run.best_mean()
    label, seen = f"{planned.name} best-mean", search_estimates(run, best)
    chosen = [Chosen(label, "elite", planned.name, planned.seed, run.candidate(best), seen)]
    if run.has_aggregate:
        label = f"{planned.name} aggregate"
        chosen.append(Chosen(label, "aggregate", planned.name, planned.seed, run.aggregate(), {}))
    return chosen
