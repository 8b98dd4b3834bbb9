"""Selection of parents from an archive."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def elite_weights(scores: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Elite sampling's weights (paper, section 4.3).

    Every column of `scores`, shape (elites, tasks), is min-max normalised over the elites to [low, high], and the
    columns are multiplied; a column of equal scores counts as `high`. Returns probabilities, shape (elites,).
    """
    worst, best = scores.min(axis=0), scores.max(axis=0)
    spread = best - worst
    unit = np.where(spread > 0, (scores - worst) / np.where(spread > 0, spread, 1.0), 1.0)
    weights = np.prod(low + (high - low) * unit, axis=1)
    return np.asarray(weights / weights.sum())


def published_weights(
    scores: NDArray[np.float64], bins: NDArray[np.int64], quality: int, low: float, high: float
) -> NDArray[np.float64]:
    """The weights as the published code computes them (SakanaAI/CycleQD, sampler/elite_sampler.py), shape (elites,).

    The column `quality` of `scores` counts as it is, every other task (a behaviour characteristic) by its bin; both of
    shape (elites, tasks). The columns are scaled to [low, low + high], by default 0.5 to 1.3.
    """
    columns = bins.astype(np.float64)
    columns[:, quality] = scores[:, quality]
    return elite_weights(columns, low, low + high)


def binned_weights(bins: NDArray[np.int64], low: float, high: float) -> NDArray[np.float64]:
    """`published_weights` with bins for all tasks, the quality included: `published` in version 0.1."""
    return elite_weights(bins.astype(np.float64), low, low + high)


def uniform_weights(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Equal probabilities, shape (elites,)."""
    return np.full(len(scores), 1.0 / len(scores))


def choose_parents(
    numbers: NDArray[np.int64], weights: NDArray[np.float64], rng: np.random.Generator
) -> tuple[int, int]:
    """Two distinct parents, drawn by their probabilities; a single elite is its own mate."""
    if len(numbers) == 1:
        return int(numbers[0]), int(numbers[0])
    first, second = _places(weights, rng.random(2))
    if first == second:
        (second,) = _places(np.where(np.arange(len(weights)) == first, 0.0, weights), rng.random(1))
    return int(numbers[first]), int(numbers[second])


def choose_mate(numbers: NDArray[np.int64], weights: NDArray[np.float64], first: int, rng: np.random.Generator) -> int:
    """The second parent, from a different archive, drawn by probability; `first` itself if it is the only elite."""
    others = np.where(numbers == first, 0.0, weights)
    (place,) = _places(others if others.any() else weights, rng.random(1))
    return int(numbers[place])


def _places(weights: NDArray[np.float64], draws: NDArray[np.float64]) -> NDArray[np.int64]:
    """The index that each draw of U(0, 1) falls on along the cumulative weights."""
    cumulated = weights.cumsum()
    return np.asarray((cumulated / cumulated[-1]).searchsorted(draws, side="right"), dtype=np.int64)
