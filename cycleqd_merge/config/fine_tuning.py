"""The `fine_tuning` section of a strategy in `compare`: the merge is trained further instead of searched."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from cycleqd_merge.config.fit import MAX_STEPS
from cycleqd_merge.config.validation_errors import KeyProblem
from cycleqd_merge.config.values import LARGE, Moderate, StrictConfig


class FineTuningConfig(StrictConfig):
    """Multi-task fine-tuning of all weights with AdamW, on the examples that a strategy with fits records, with the
    loss and the rows per step of its `fit` section."""

    learning_rate: float = Field(1e-5, gt=0, le=LARGE)
    """Highest learning rate; it rises over five steps and then falls linearly to a tenth."""
    start: Moderate = 0.5
    """The model to train is the base plus this times the sum of all task vectors."""
    steps: int | None = Field(None, ge=1, le=MAX_STEPS)
    """Number of steps; by default as many as fit into `seconds`."""
    seconds: float | None = Field(None, gt=0, le=LARGE)
    """Seconds to train, with opening the model; by default as many as all fits of that strategy with the same seed
    took."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.steps is not None and self.seconds is not None:
            raise KeyProblem("cannot be combined with `seconds`; remove one of them", "steps")
        return self
