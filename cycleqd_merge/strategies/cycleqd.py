"""CycleQD (paper, Algorithm 1): K tasks, K archives, and in turn each task is the quality that is searched for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cycleqd_merge.evolution.archive import Archive
from cycleqd_merge.evolution.draws import generator, new_seed
from cycleqd_merge.evolution.genome import Matrix, Mutation, crossover, mutate
from cycleqd_merge.evolution.selection import (
    choose_mate,
    choose_parents,
    elite_weights,
    published_weights,
    uniform_weights,
)
from cycleqd_merge.strategies.protocol import Proposal, Result
from cycleqd_merge.strategies.space import Insertion, SearchSpace
from cycleqd_merge.strategies.success_rule import SuccessRule


@dataclass(frozen=True)
class Operators:
    """Settings of the search; the defaults are the paper's (section 5.1, appendix)."""

    mu: float = 1.0
    sigma: float = 0.03
    mutation: Literal["svd", "gaussian", "none"] = "svd"
    scale: float = 0.3
    signed: bool = False
    sampling: Literal["elite", "random", "published"] = "elite"
    alpha_low: float = 0.5
    alpha_high: float = 0.8
    scaling: tuple[float, float] | None = None
    """Range of the factor that crossover multiplies a child's task vectors by; None: the plain mean."""
    mates: Literal["own", "any"] = "own"
    """Which archive the second parent comes from: the first one's, or another task's."""
    adaptive: bool = False
    """`sigma` and `scale` follow the success rule, per task."""


class CycleQD:
    """The strategy. Number `space.first` + t - 1 is generation t."""

    def __init__(self, space: SearchSpace, operators: Operators, seed: int) -> None:
        self.space, self.operators, self.seed = space, operators, seed
        self._rule = SuccessRule(len(space.objectives))
        self._bred_for: dict[int, int] = {}

    def ask(self, number: int) -> Proposal | None:
        """See `Strategy.ask`. Waits until every founder was told before the first child is bred."""
        opening = self.space.opening(number)
        if opening is not None:
            return opening
        return self.breed(number) if self.space.archives else None

    def tell(self, result: Result) -> None:
        """See `Strategy.tell` and `SearchSpace.tell`."""
        self.learn(result.number, self.space.tell(result))

    def learn(self, number: int, admission: Insertion) -> None:
        """Take what became of a child, if it was bred here."""
        objective = self._bred_for.pop(number, None)
        if self.operators.adaptive and objective is not None:
            self._rule.learn(objective, admission.entered)

    def breed(self, number: int) -> Proposal:
        """One generation: select two parents from the current task's archive, cross them, mutate the child."""
        space = self.space
        generation = number - space.first + 1
        objective = generation % len(space.objectives)
        rng = generator(self.seed, generation)
        first, second = self._parents(objective, rng)
        self._bred_for[number] = objective
        sigma = self.operators.sigma * self._rule.factor(objective)
        weights = rng.normal(self.operators.mu, sigma, size=(2, space.groups))
        step: dict[str, Any] = {"parents": [first, second], "weights": weights.tolist()}
        if self.operators.scaling is not None:
            step["scaling"] = float(rng.uniform(*self.operators.scaling))
        child = crossover(space.genome(first), space.genome(second), weights, step.get("scaling", 1.0))
        mutation = self._draw_mutation(objective, generation, rng)
        if mutation is not None:
            child = mutate(child, mutation)
            step["mutation"] = mutation.to_json()
        return space.propose(number, child, step)

    def _parents(self, objective: int, rng: np.random.Generator) -> tuple[int, int]:
        """Numbers of two elites of the archive; with `mates: any` the second is another archive's."""
        first, second = choose_parents(*self._candidates(objective), rng)
        if self.operators.mates == "own":
            return first, second
        tasks = len(self.space.objectives)
        other = (objective + 1 + int(rng.integers(tasks - 1))) % tasks
        return first, choose_mate(*self._candidates(other), first, rng)

    def _candidates(self, objective: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Numbers of an archive's elites and the probability of each to be a parent.

        Raises:
            ValueError: it has none.
        """
        archive = self._archive(objective)
        numbers, scores = archive.table()
        if not len(numbers):  # failed experts can leave one archive's only cells empty
            raise ValueError(f"the archive of task {self.space.objectives[objective].name} is empty")
        return numbers, self._weights(archive, scores)

    def _archive(self, objective: int) -> Archive:
        """Where the parents of a generation come from."""
        return self.space.archives[objective]

    def _expert(self, objective: int) -> int | None:
        """The expert along whose task vector a generation mutates; None for any."""
        return self.space.objectives[objective].expert

    def _weights(self, archive: Archive, scores: Matrix) -> NDArray[np.float64]:
        scores = scores[:, : len(self.space.objectives)]
        if self.operators.sampling == "random":
            return uniform_weights(scores)
        low, high = self.operators.alpha_low, self.operators.alpha_high
        if self.operators.sampling == "published":
            return published_weights(archive.bins_of(scores), low, high)
        return elite_weights(scores, low, high)

    def _draw_mutation(self, objective: int, generation: int, rng: np.random.Generator) -> Mutation | None:
        if self.operators.mutation == "none":
            return None
        expert = self._expert(objective)
        if self.operators.mutation == "gaussian":
            expert = None
        elif expert is None:
            expert = int(rng.integers(self.space.experts))
        seed = new_seed(self.seed, generation, "mutation")
        scale = self.operators.scale * self._rule.factor(objective)
        return Mutation(self.operators.mutation, expert, seed, scale, self.operators.signed)
