"""The 1/5 success rule of evolution strategies: the step size follows from the share of children that succeed.

Here a child succeeds if it enters any archive.
"""

from __future__ import annotations

PER_DOUBLING = 12
"""Steps that double the factor: a success adds 4 and a failure subtracts 1, so one success in five keeps the factor."""
MAX_DOUBLINGS = 3
"""The factor stays between 1/8 and 8."""


class SuccessRule:
    """A factor per task on the spread of crossover weights and on the strength of mutations; it starts at 1."""

    def __init__(self, tasks: int) -> None:
        self._steps = [0] * tasks

    def factor(self, task: int) -> float:
        """The factor for the next child whose quality is `task`."""
        power = 2.0 ** (self._steps[task] / PER_DOUBLING)
        return float(round(power, 9))  # machines may differ in its last bit

    def learn(self, task: int, success: bool) -> None:
        """Receive whether a child whose quality is `task` succeeded."""
        most = PER_DOUBLING * MAX_DOUBLINGS
        self._steps[task] = min(max(self._steps[task] + (4 if success else -1), -most), most)
