"""Plain MAP-Elites, the paper's ablation of the turns: one archive, whose quality is the mean of all tasks' scores."""

from __future__ import annotations

from cycleqd_merge.evolution.archive import Archive, Scores
from cycleqd_merge.strategies.cycleqd import CycleQD, Operators
from cycleqd_merge.strategies.protocol import Result
from cycleqd_merge.strategies.space import SearchSpace


class MapElites(CycleQD):
    """CycleQD's operators on one archive over the scores of all tasks. The archives per task fill all the same."""

    def __init__(self, space: SearchSpace, operators: Operators, seed: int) -> None:
        super().__init__(space, operators, seed)
        self._early: dict[int, Scores] = {}
        self._overall: Archive | None = None

    def tell(self, result: Result) -> None:
        """See `Strategy.tell` and `SearchSpace.tell`."""
        super().tell(result)
        if result.scores is not None and (result.number < self.space.first or self.space.holds(result.scores)):
            self._early[result.number] = result.scores
        if self.space.bounds is None:
            return
        if self._overall is None:
            bins = [objective.bins for objective in self.space.objectives]
            # the mean is one task more, the only one that is no behaviour characteristic
            self._overall = Archive(len(bins), (*self.space.bounds, (0.0, 1.0)), [*bins, 1])
        for number, scores in self._early.items():
            own = scores[: len(self.space.objectives)]
            self._overall.add(number, (*own, sum(own) / len(own)))
        self._early.clear()

    def _archive(self, objective: int) -> Archive:
        assert self._overall is not None  # it opens with the archives per task
        return self._overall

    def _expert(self, objective: int) -> int | None:
        return None  # no task is the quality, so no expert is its own
