"""The `regmean` section of a strategy in `compare`: the experts are merged in closed form instead of searched."""

from __future__ import annotations

from pydantic import Field

from cycleqd_merge.config.values import Moderate, StrictConfig, Unit


class RegMeanConfig(StrictConfig):
    """RegMean (Jin et al., 2023): linear layers whose outputs are nearest to those of the experts, on the experts'
    answers that a strategy with fits records."""

    off_diagonal: Unit = 0.9
    """Factor of the off-diagonal elements of the layers' Gram matrices; the paper's is 0.9, or 0.1 for some models."""
    scales: list[Moderate] = Field([1.0, 1.5, 2.0], min_length=1)
    """Factors of the merged task vectors to try; the best on the search split is compared. The paper's is 1."""
