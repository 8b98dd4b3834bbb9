"""The contract between a strategy and the code that evaluates its candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cycleqd_merge.evolution.archive import Scores
from cycleqd_merge.evolution.candidate import Candidate
from cycleqd_merge.strategies.racing import Race


@dataclass(frozen=True)
class Proposal:
    """A candidate to evaluate. `step` says how it was made, as JSON values for the journal.

    race: decides on the first rows whether the others are scored; None scores all rows.
    """

    number: int
    candidate: Candidate
    step: dict[str, Any]
    race: Race | None = None


@dataclass(frozen=True)
class Result:
    """Scores in the order of the tasks, each in [0, 1]; None if the evaluation failed or racing rejected it.

    variances: of the scores, by the sampling of the rows, see `sampling_variance`; empty if they are not known.
    row_scores: of every row, an array of shape (rows,) per task; empty if they are not known. estimated: the scores of
    a child that racing rejected, on the rows that it was scored on; the variances are those of these.
    """

    number: int
    scores: Scores | None
    variances: tuple[float, ...] = ()
    row_scores: tuple[NDArray[np.float64], ...] = ()
    estimated: Scores | None = None


class Strategy(Protocol):
    """Proposes candidates and learns from their scores.

    A strategy depends only on its settings, its seed and the results it received: no clock, no shared random
    generator. A run restores it by repeating the calls of `ask` and `tell` in their order. A strategy that runs out of
    candidates has an attribute `generations`: their number, without the founders.
    """

    def ask(self, number: int) -> Proposal | None:
        """Proposal `number`, asked in ascending order from 0; None if the strategy must receive more results first."""
        ...

    def tell(self, result: Result) -> None:
        """Receive the result of a proposal. Results come in ascending order of their numbers."""
        ...


@runtime_checkable
class Recalling(Protocol):
    """A strategy whose proposals depend on the last bits of linear-algebra results, which differ between machines."""

    def recall(self, number: int, step: dict[str, Any]) -> Proposal | None:
        """`Strategy.ask` while a run is restored: proposes the candidate that was recorded with this `step`."""
        ...
