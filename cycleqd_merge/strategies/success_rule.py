"""The 1/5 success rule of evolution strategies: how far children step from their parents follows from how many of them
succeed. Here a child succeeds if it enters any archive."""

from __future__ import annotations

PER_DOUBLING = 12
"""Steps that double the factor: a success goes up by 4 and a failure down by 1, so that one in five keeps it."""
MOST_DOUBLINGS = 3
"""The factor stays between 1/8 and 8."""


class SuccessRule:
    """A factor per task on the spread of crossover weights and on the strength of mutations; 1 to begin with."""

    def __init__(self, tasks: int) -> None:
        self._steps = [0] * tasks

    def factor(self, task: int) -> float:
        """What the settings of the next child that is bred for `task` are multiplied by."""
        power = 2.0 ** (self._steps[task] / PER_DOUBLING)
        return float(round(power, 9))  # machines may differ in its last bit

    def learn(self, task: int, success: bool) -> None:
        """Take how a child fared that was bred for `task`."""
        most = PER_DOUBLING * MOST_DOUBLINGS
        self._steps[task] = min(max(self._steps[task] + (4 if success else -1), -most), most)
