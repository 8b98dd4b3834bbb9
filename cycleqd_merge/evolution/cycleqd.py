"""CycleQD (paper, Algorithm 1): K tasks, K archives, and in turn each task is the quality that is searched for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cycleqd_merge.evolution.archive import Archive, Bounds, EmptyRange, Scores, bounds_from
from cycleqd_merge.evolution.draws import generator, new_seed
from cycleqd_merge.evolution.genome import Genome, Matrix, Mutation, crossover, expert_genome, mutate
from cycleqd_merge.evolution.selection import choose_parents, elite_weights, uniform_weights
from cycleqd_merge.evolution.strategy import Proposal, Result


@dataclass(frozen=True)
class Objective:
    """A task as the search sees it. `expert` is the index of its expert, None to draw one per mutation."""

    name: str
    expert: int | None
    bins: int
    bounds: tuple[float, float] | None = None


@dataclass(frozen=True)
class Floor:
    """A score that children must hold to enter an archive: `column` is its place in a result's scores."""

    column: int
    least: float


@dataclass(frozen=True)
class Operators:
    """Settings of the search; the defaults are the paper's (section 5.1, appendix)."""

    mu: float = 1.0
    sigma: float = 0.03
    mutation: Literal["svd", "gaussian", "none"] = "svd"
    scale: float = 0.3
    signed: bool = False
    sampling: Literal["elite", "random"] = "elite"
    alpha_low: float = 0.5
    alpha_high: float = 0.8
    bound_low: float = 0.85
    bound_high: float = 1.15


class CycleQD:
    """The strategy. Its first numbers are generation 0: the experts, then `seeds`, further genomes that the archives
    start from. The numbers after them are generations 1, 2 ...

    Result scores hold the objectives first, in their order, then the scores of tasks without an archive.
    """

    def __init__(
        self,
        objectives: tuple[Objective, ...],
        experts: int,
        groups: int,
        operators: Operators,
        seed: int,
        floors: tuple[Floor, ...] = (),
        seeds: tuple[Genome, ...] = (),
    ) -> None:
        self.objectives, self.experts, self.groups = objectives, experts, groups
        self.operators, self.seed, self.floors = operators, seed, floors
        self.seeds = seeds
        self.first = experts + len(seeds)
        """The number of generation 1."""
        self._genomes: list[Genome] = []
        self._initial: dict[int, Scores] = {}
        self._told = 0
        self._archives: list[Archive] = []
        self.bounds: Bounds | None = None

    def archives(self) -> list[Archive]:
        return self._archives

    def genome(self, number: int) -> Genome:
        return self._genomes[number]

    def ask(self, number: int) -> Proposal | None:
        """See `Strategy.ask`. Waits until every expert was told before the first child is bred."""
        if number != len(self._genomes):
            raise ValueError(f"asked for number {number}, but {len(self._genomes)} is next")
        if number < self.experts:
            return self._propose(number, expert_genome(number, self.experts, self.groups), {"expert": number})
        if number < self.first:
            return self._propose(number, self.seeds[number - self.experts], {"seed": number - self.experts})
        if not self._archives:
            return None
        return self._breed(number)

    def tell(self, result: Result) -> None:
        """See `Strategy.tell`.

        Raises:
            EmptyRange: after the last expert, if a task's scores cannot be binned and no bounds were given.
            ValueError: no expert could be evaluated, or results come out of order.
        """
        if result.number != self._told:
            raise ValueError(f"told number {result.number}, but {self._told} is next")
        self._told += 1
        if result.scores is not None and result.number < self.first:
            self._initial[result.number] = result.scores
        if self._told == self.first:
            self._open_archives()
        elif self._told > self.first and result.scores is not None:
            self._offer(result.number, result.scores)

    def _breed(self, number: int) -> Proposal:
        """One generation: select two parents from the current task's archive, cross them, mutate the child."""
        generation = number - self.first + 1
        objective = generation % len(self.objectives)
        rng = generator(self.seed, generation)
        numbers, scores = self._archives[objective].table()
        if not len(numbers):  # failed experts can leave one archive's only cells empty
            raise ValueError(f"the archive of task {self.objectives[objective].name} is empty")
        first, second = choose_parents(numbers, self._weights(scores), rng)
        weights = rng.normal(self.operators.mu, self.operators.sigma, size=(2, self.groups))
        child = crossover(self._genomes[first], self._genomes[second], weights)
        step: dict[str, Any] = {"parents": [first, second], "weights": weights.tolist()}
        mutation = self._draw_mutation(objective, generation, rng)
        if mutation is not None:
            child = mutate(child, mutation)
            step["mutation"] = mutation.to_json()
        return self._propose(number, child, step)

    def _weights(self, scores: Matrix) -> Matrix:
        if self.operators.sampling == "random":
            return uniform_weights(scores)
        return elite_weights(scores, self.operators.alpha_low, self.operators.alpha_high)

    def _draw_mutation(self, objective: int, generation: int, rng: np.random.Generator) -> Mutation | None:
        if self.operators.mutation == "none":
            return None
        expert = None
        if self.operators.mutation == "svd":
            expert = self.objectives[objective].expert
            if expert is None:
                expert = int(rng.integers(self.experts))
        seed = new_seed(self.seed, generation, "mutation")
        return Mutation(self.operators.mutation, expert, seed, self.operators.scale, self.operators.signed)

    def _propose(self, number: int, genome: Genome, step: dict[str, Any]) -> Proposal:
        self._genomes.append(genome)
        return Proposal(number, genome, step)

    def _open_archives(self) -> None:
        """Generation 0 is scored: fix the bounds and seed the archives with the experts."""
        if not any(number < self.experts for number in self._initial):
            raise ValueError("no expert could be evaluated")
        self.bounds = self._bounds()
        bins = [objective.bins for objective in self.objectives]
        self._archives = [Archive(task, self.bounds, bins) for task in range(len(self.objectives))]
        for number, scores in self._initial.items():
            for archive in self._archives:  # floors do not apply: without its experts a search has no parents
                archive.add(number, scores[: len(self.objectives)])

    def _bounds(self) -> Bounds:
        """Bounds given explicitly, else from the scores of the tasks' own experts."""
        named = {objective.expert for objective in self.objectives} - {None} or set(range(self.experts))
        scores = [own for number, own in self._initial.items() if number in named]
        if not scores and any(objective.bounds is None for objective in self.objectives):
            raise ValueError("no expert of the tasks could be evaluated, which leaves their archives without bounds")
        bounds = []
        for task, objective in enumerate(self.objectives):
            if objective.bounds is not None:
                bounds.append(objective.bounds)
                continue
            column = [(own[task],) for own in scores]
            try:
                bounds.extend(bounds_from(column, self.operators.bound_low, self.operators.bound_high))
            except EmptyRange as error:
                raise EmptyRange(task, error.worst, error.best) from None
        return tuple(bounds)

    def _offer(self, number: int, scores: Scores) -> None:
        if all(scores[floor.column] >= floor.least for floor in self.floors):
            for archive in self._archives:
                archive.add(number, scores[: len(self.objectives)])
