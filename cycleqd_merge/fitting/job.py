"""A fit as a job: everything that a worker needs to learn it, and its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cycleqd_merge.fitting.training import FitSettings, FitTask

Shared = Literal["tensor", "layer", "group"]
"""Which tensors share an expert's coefficient: none, those of a layer, or those of a group of the recipe."""

Scales = Literal["channel", "singular", "none"]
"""What is scaled besides: the rows and columns of each expert's task vectors, their singular directions, or nothing."""


@dataclass(frozen=True)
class FitJob:
    """A fit to learn.

    number: of the fit in its run, from 0. tasks: with their examples and the weights of their losses. start: digest of
    the fit whose values it starts from; None for the coefficient of `settings`.
    """

    number: int
    tasks: tuple[FitTask, ...]
    settings: FitSettings
    coefficients: Shared = "tensor"
    scales: Scales = "channel"
    start: str | None = None


@dataclass(frozen=True)
class FitResult:
    """A learned fit.

    content: of its file, see `merging.fits`. losses: of every step. tokens: that went through the model, with padding.
    seconds: by part of the job: "release" (the engine's memory), "teach" (opening the model, and the experts'
    predictions), "train" and "restore" (the engine). released_mib: memory that the engine freed, measured.
    restarts: see `Progress`; the last loss of a fit that still diverges is not finite. progress: digest of its
    `KeptProgress`, which stays on the host that learned it until the result is recorded: a run that is killed before
    does not learn it again.
    """

    number: int
    content: bytes
    losses: tuple[float, ...]
    tokens: int
    seconds: Mapping[str, float]
    released_mib: float = 0.0
    restarts: int = 0
    progress: str = ""
