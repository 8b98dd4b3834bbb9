"""CycleQD (paper, Algorithm 1): K tasks, K archives, and the tasks take turns as the quality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cycleqd_merge.evolution.archive import Archive
from cycleqd_merge.evolution.draws import generator, new_seed
from cycleqd_merge.evolution.genome import Genome, Matrix, Mixture, Mutation, crossover, mutate
from cycleqd_merge.evolution.selection import (
    binned_weights,
    choose_mate,
    choose_parents,
    elite_weights,
    published_weights,
    uniform_weights,
)
from cycleqd_merge.strategies.protocol import Proposal, Result
from cycleqd_merge.strategies.state import Insertion, SearchState
from cycleqd_merge.strategies.success_rule import SuccessRule

Sampling = Literal["elite", "random", "published", "binned"]
"""How parents are chosen; see `EvolutionConfig.sampling`."""


@dataclass(frozen=True)
class Operators:
    """Settings of CycleQD's operators; the defaults are the paper's (section 5.1, appendix)."""

    mu: float = 1.0
    sigma: float = 0.03
    mutation: Literal["svd", "gaussian", "none"] = "svd"
    scale: float = 0.3
    of: Literal["expert", "child"] = "expert"
    """Whose task vector svd mutations follow."""
    signed: bool = False
    sampling: Sampling = "elite"
    alpha_low: float = 0.5
    alpha_high: float = 0.8
    scaling: tuple[float, float] | None = None
    """Range of the factor that crossover multiplies a child's task vectors by; None for the plain mean."""
    mates: Literal["own", "any"] = "own"
    """Archive of the second parent: the first parent's, or another task's."""
    adaptive: bool = False
    """`sigma` and `scale` follow the success rule, per task."""


class CycleQD:
    """The strategy. Number `state.first` + t - 1 is generation t."""

    def __init__(self, state: SearchState, operators: Operators, seed: int) -> None:
        self.state, self.operators, self.seed = state, operators, seed
        self._rule = SuccessRule(len(state.objectives))
        self._quality_task: dict[int, int] = {}
        """By the number of a child whose result is outstanding: the task that was the quality when it was created."""

    def ask(self, number: int) -> Proposal | None:
        """See `Strategy.ask`. The first child waits for the results of all founders."""
        opening = self.state.opening(number)
        if opening is not None:
            return opening
        return self.create_child(number) if self.state.archives else None

    def tell(self, result: Result) -> None:
        """See `Strategy.tell` and `SearchState.tell`."""
        self.learn(result.number, self.state.tell(result))

    def learn(self, number: int, insertion: Insertion) -> None:
        """Receive a child's insertion into the archives; children from other sources are ignored."""
        objective = self._quality_task.pop(number, None)
        if self.operators.adaptive and objective is not None:
            self._rule.learn(objective, insertion.entered)

    def create_child(self, number: int) -> Proposal:
        """One generation: select two parents from the current task's archive, cross them, mutate the child."""
        state = self.state
        generation = number - state.first + 1
        objective = generation % len(state.objectives)
        rng = generator(self.seed, generation)
        first, second = self._parents(objective, rng)
        self._quality_task[number] = objective
        sigma = self.operators.sigma * self._rule.factor(objective)
        weights = rng.normal(self.operators.mu, sigma, size=(2, state.groups))
        step: dict[str, Any] = {"parents": [first, second], "weights": weights.tolist()}
        if self.operators.scaling is not None:
            step["scaling"] = float(rng.uniform(*self.operators.scaling))
        child = crossover(state.genome(first), state.genome(second), weights, step.get("scaling", 1.0))
        mutation = self._draw_mutation(objective, generation, rng, child)
        if mutation is not None:
            child = mutate(child, mutation)
            step["mutation"] = mutation.to_step()
        return state.propose(number, child, step)

    def _parents(self, objective: int, rng: np.random.Generator) -> tuple[int, int]:
        """Numbers of two elites from the archive; with `mates: any` the second one is from another archive."""
        first, second = choose_parents(*self._selection(objective), rng)
        if self.operators.mates == "own":
            return first, second
        tasks = len(self.state.objectives)
        other = (objective + 1 + int(rng.integers(tasks - 1))) % tasks
        return first, choose_mate(*self._selection(other), first, rng)

    def _selection(self, objective: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Numbers of an archive's elites, and the probability of each to become a parent.

        Raises:
            ValueError: the archive is empty.
        """
        archive = self._archive(objective)
        numbers, scores = archive.table()
        if not len(numbers):  # possible if experts failed
            raise ValueError(f"the archive of task {self.state.objectives[objective].name} is empty")
        return numbers, self._weights(archive, scores)

    def _archive(self, objective: int) -> Archive:
        """The archive that parents are selected from."""
        return self.state.archives[objective]

    def _expert(self, objective: int) -> int | None:
        """The expert whose task vector the mutation follows; None for a random one."""
        return self.state.objectives[objective].expert

    def _weights(self, archive: Archive, scores: Matrix) -> NDArray[np.float64]:
        """The probability of each elite, given the scores of the archive's tasks, shape (elites, tasks)."""
        low, high = self.operators.alpha_low, self.operators.alpha_high
        tasks = len(self.state.objectives)  # plain MAP-Elites has a column more: the mean, its quality
        match self.operators.sampling:
            case "random":
                return uniform_weights(scores)
            case "published":
                return published_weights(scores, archive.bins_of(scores), archive.task, low, high)
            case "binned":
                return binned_weights(archive.bins_of(scores)[:, :tasks], low, high)
            case "elite":
                return elite_weights(scores[:, :tasks], low, high)

    def _draw_mutation(
        self, objective: int, generation: int, rng: np.random.Generator, child: Genome
    ) -> Mutation | None:
        if self.operators.mutation == "none":
            return None
        expert = self._expert(objective)
        of_child = self.operators.mutation == "svd" and self.operators.of == "child"
        if self.operators.mutation == "gaussian" or of_child:
            expert = None
        elif expert is None:
            expert = int(rng.integers(self.state.experts))
        seed = new_seed(self.seed, generation, "mutation")
        scale = self.operators.scale * self._rule.factor(objective)
        mixture = Mixture.of(child) if of_child else None
        return Mutation(self.operators.mutation, expert, seed, scale, self.operators.signed, mixture)
