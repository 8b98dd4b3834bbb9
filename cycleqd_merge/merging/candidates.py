"""The tensors of a candidate: of a genome, or of a mergekit configuration."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from cycleqd_merge.evolution.candidate import Candidate
from cycleqd_merge.evolution.genome import Genome
from cycleqd_merge.merging.materialise import Materialiser


def candidate_tensors(candidate: Candidate, materialiser: Materialiser) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) of a candidate, one at a time, in the base checkpoint's dtype.

    A genome is built by `materialiser`, a configuration by mergekit.

    Raises:
        ModelError: the configuration cannot be read or run, or its model's tensors differ in name or shape from the
            base's.
    """
    if isinstance(candidate, Genome):
        yield from materialiser.tensors(candidate)
    else:
        from cycleqd_merge.merging.mergekit_run import merged_tensors  # mergekit's planner is slow to import

        yield from merged_tensors(candidate, materialiser.family, materialiser.device)
