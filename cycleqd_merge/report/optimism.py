"""How optimistic the mean is that chose a run's best-mean elite: the highest of many noisy means is partly luck."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cycleqd_merge.evolution.draws import generator
from cycleqd_merge.run.state import Run

_DRAWS = 400
_PLACES = 80  # of the grid of true means
_STEPS = 200  # of expectation maximisation


@dataclass(frozen=True)
class ChosenMean:
    """The mean that chose the best-mean elite.

    number: of its evaluation. optimism: how much higher the mean is than the model's true one, on average. models: the
    number of models that it was chosen from. search, confirm: rows of each task; of several numbers, the smallest.
    """

    number: int
    mean: float
    optimism: float
    models: int
    search: int
    confirm: int

    def __str__(self) -> str:
        rows = f"{self.search} search" + (f" and {self.confirm} confirmation" if self.confirm else "")
        return (
            f"The mean {self.mean:.3f} of #{self.number} is optimistic by about {self.optimism:.2f}, because it was "
            f"used to choose this model from {self.models} (simulated for {rows} rows per task)."
        )


def chosen_mean(run: Run) -> ChosenMean | None:
    """The mean of the run's best-mean elite and how optimistic it is; None if it was not chosen among several models.

    Simulated at the run's own numbers of models and rows, for scores of 0 and 1; for finer scores it is an upper bound.
    """
    tasks = [run.start.get("tasks", {}).get(task, {}).get("rows", {}) for task in run.objectives]
    scored = [run.scores(number) for number, event in enumerate(run.results) if event["scores"] is not None]
    if not run.elites() or len(scored) < 2 or not all(rows.get("search") for rows in tasks):
        return None
    search = np.array([rows["search"] for rows in tasks], np.float64)
    confirm = np.array([rows.get("confirm", 0) for rows in tasks], np.float64)
    number = run.best_mean()
    confirmed = len(run.confirmed) if number in run.confirmed else 0
    scores = np.array(scored)[:, : len(tasks)]
    optimism = selection_optimism(scores, search, confirm if confirmed else np.zeros(len(tasks)), confirmed)
    rows = int(search.min()), int(confirm.min()) if confirmed else 0
    return ChosenMean(number, run.mean(run.judged(number)), optimism, len(scored), *rows)


def selection_optimism(
    scores: NDArray[np.float64], search: NDArray[np.float64], confirm: NDArray[np.float64], confirmed: int
) -> float:
    """How much higher the highest mean is than the true mean of its model, on average over simulated searches.

    The distribution of true means is the one that explains the observed means best (nonparametric maximum likelihood,
    Kiefer and Wolfowitz 1956, by expectation maximisation): taking the observed means for the true ones would count
    their noise twice. From it, as many models are drawn, get means with the noise of their rows, and the highest is
    chosen as in the run.

    scores: observed, shape (models, tasks). search, confirm: rows per task, shape (tasks,). confirmed: the number of
    models with the highest search means that are scored again on the confirmation rows; 0 for none.
    """
    means, errors = scores.mean(axis=1), _errors(scores, search)
    places, weights = _true_means(means, errors)
    order = np.argsort(means)
    random = generator("optimism")
    share = float(confirm.sum() / (search.sum() + confirm.sum())) if confirmed else 0.0
    total = 0.0
    for _ in range(_DRAWS):
        true = random.choice(places, size=len(means), p=weights)
        noise = np.interp(true, means[order], errors[order])  # that of observed models with such means
        judged = true + noise * random.standard_normal(len(means))
        if confirmed:
            best = np.argsort(-judged)[:confirmed]
            again = noise[best] * np.sqrt((1 - share) / share) * random.standard_normal(len(best))
            true, judged = true[best], (1 - share) * judged[best] + share * (true[best] + again)
        chosen = int(judged.argmax())
        total += judged[chosen] - true[chosen]
    return float(max(total / _DRAWS, 0.0))


def _errors(scores: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard errors of the means over tasks, of scores of 0 and 1, shape (models,); none is 0."""
    shares = (scores * rows + 0.5) / (rows + 1)
    return np.asarray(np.sqrt((shares * (1 - shares) / rows).sum(axis=1)) / scores.shape[1])


def _true_means(
    means: NDArray[np.float64], errors: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places and probabilities of the true means, both of shape (places,)."""
    places = np.linspace(means.min(), means.max(), _PLACES)
    likelihood = np.exp(-0.5 * ((means[:, None] - places) / errors[:, None]) ** 2)
    weights = np.full(len(places), 1 / len(places))
    for _ in range(_STEPS):
        shares = likelihood * weights
        weights = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
    return places, weights / weights.sum()
