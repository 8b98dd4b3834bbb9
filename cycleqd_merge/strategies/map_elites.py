"""Plain MAP-Elites, the paper's ablation: one archive, whose quality is the mean score, instead of cycling tasks."""

from __future__ import annotations

from cycleqd_merge.evolution.archive import Archive, Scores
from cycleqd_merge.evolution.novelty import open_archive
from cycleqd_merge.strategies.cycleqd import CycleQD, Operators
from cycleqd_merge.strategies.protocol import Result
from cycleqd_merge.strategies.state import SearchState


class MapElites(CycleQD):
    """CycleQD's operators on one archive over the scores of all tasks. The archives per task are filled as well."""

    def __init__(self, state: SearchState, operators: Operators, seed: int) -> None:
        super().__init__(state, operators, seed)
        self._early: dict[int, Scores] = {}
        self._overall: Archive | None = None

    def tell(self, result: Result) -> None:
        """See `Strategy.tell` and `SearchState.tell`."""
        super().tell(result)
        if result.scores is not None and (result.number < self.state.first or self.state.meets_floors(result.scores)):
            self._early[result.number] = result.scores
        if self.state.bounds is None:
            return
        if self._overall is None:
            bins = [objective.bins for objective in self.state.objectives]
            # the mean is an additional task, the only one that is not a behaviour characteristic
            bounds = (*self.state.bounds, (0.0, 1.0))
            self._overall = open_archive(len(bins), bounds, [*bins, 1], self.state.space.capacity)
        for number, scores in self._early.items():
            own = scores[: len(self.state.objectives)]
            self._overall.add(number, (*own, sum(own) / len(own)))
        self._early.clear()

    def _archive(self, objective: int) -> Archive:
        assert self._overall is not None  # it opens with the archives per task
        return self._overall

    def _expert(self, objective: int) -> int | None:
        return None  # no task is the quality, so no expert belongs to it
