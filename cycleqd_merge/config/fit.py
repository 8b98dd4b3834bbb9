"""The `fit` section of a recipe: merges whose coefficients are learned by gradient before the search starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from cycleqd_merge.config.validation_errors import KeyProblem, suggestion
from cycleqd_merge.config.values import LARGE, MAX_ROWS, Moderate, Name, StrictConfig

MAX_STEPS, MAX_FITS, MAX_WIDTH = 1_000_000, 1000, 2**24
DOUBLED = 2.0
"""The weight of the task that a fit of the spread favours."""

TaskWeights = dict[Name, Annotated[float, Field(ge=0, le=LARGE)]]


class FitConfig(StrictConfig):
    """Fits: merges whose coefficients are learned by gradient from the experts' own answers to search rows. They
    are founders: scored after the experts, and in the archives before the first child."""

    coefficients: Literal["tensor", "layer", "group"] = "tensor"
    """Tensors that share an expert's coefficient: none, those of a layer, or those of a group of `evolution.groups`."""
    scales: Literal["channel", "singular", "none"] = "channel"
    """Also learn a scale per row and column (`channel`), or per singular direction (`singular`), of each task
    vector."""
    loss: Literal["distillation", "cross-entropy"] = "distillation"
    """`distillation`: predict each expert's distribution over next tokens; `cross-entropy`: its answers alone."""
    examples: Literal["answered", "solved"] | None = None
    """The answers of a task's expert to learn from: all, or those to rows that it solved (of a graded task the better
    half, weighted by score). By default all for `distillation` and the solved ones for `cross-entropy`."""
    steps: int = Field(300, ge=1, le=MAX_STEPS)
    """Steps of the first fit."""
    spread_steps: int = Field(100, ge=1, le=MAX_STEPS)
    """Steps of every other fit, which starts from the first one."""
    rows: int = Field(16, ge=1, le=MAX_ROWS)
    """Rows per task and step."""
    learning_rate: float = Field(0.1, gt=0, le=LARGE)
    """Highest learning rate of Adam; it rises over five steps and then falls linearly to a tenth."""
    start: Moderate = 0.5
    """Initial value of every coefficient."""
    likely: int = Field(64, ge=1, le=MAX_ROWS)
    """Number of the expert's most likely tokens to distil at each position."""
    width: int = Field(8192, ge=1, le=MAX_WIDTH)
    """Tokens of one forward pass; fewer take less memory. It does not belong to the run's identity."""
    weights: Literal["spread", "even"] | Annotated[list[TaskWeights], Field(min_length=1, max_length=MAX_FITS)] = (
        "spread"
    )
    """The fits to learn, by the weights of the tasks' losses. `even`: one fit with equal weights. `spread`: that one,
    then one per task with this task's weight doubled. A list such as [{}, {sql: 2}, {sql: 0}]: one fit per entry, in
    which tasks that it does not name have weight 1."""

    @property
    def learned(self) -> Literal["answered", "solved"]:
        """The value of `examples`, or its default."""
        return self.examples or ("answered" if self.loss == "distillation" else "solved")

    @property
    def _listed(self) -> Sequence[Mapping[str, float]]:
        return () if isinstance(self.weights, str) else self.weights

    def require_tasks(self, tasks: Sequence[str]) -> None:
        """Check that `weights` names tasks of the recipe only, and gives one of them a weight.

        Raises:
            KeyProblem: it does not; its `at` starts with `fit`.
        """
        for number, weights in enumerate(self._listed):
            for name in weights:
                if name not in tasks:
                    hint = suggestion(name, tasks)
                    known = ", ".join(tasks)
                    message = f"no task is named {name!r}{hint}; available: {known}"
                    raise KeyProblem(message, "fit", "weights", number, name)
            if not any(weights.get(name, 1.0) for name in tasks):
                raise KeyProblem("give at least one task a weight above 0", "fit", "weights", number)

    def families(self, tasks: Sequence[str]) -> list[dict[str, float]]:
        """The weights of the losses of `tasks`, for each fit; without tasks of weight 0."""
        match self.weights:
            case "even":
                stated: Sequence[Mapping[str, float]] = [{}]
            case "spread":
                stated = [{}, *({task: DOUBLED} for task in tasks)]
            case _:
                stated = self.weights
        whole = [{task: weights.get(task, 1.0) for task in tasks} for weights in stated]
        return [{task: weight for task, weight in weights.items() if weight} for weights in whole]
