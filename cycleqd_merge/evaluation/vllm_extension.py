"""Runs inside vLLM's worker processes: holds base, experts and bases, and builds a child straight into the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from cycleqd_merge.evaluation import vllm_compat
from cycleqd_merge.evolution.strategy import Candidate, candidate_from_json
from cycleqd_merge.merging.candidates import candidate_tensors
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.spec import open_materialiser

_PROBED = 8


class WorkerExtension:
    """Mixed into vLLM's worker (`worker_extension_cls`); its methods are called by name on every rank.

    With tensor parallelism every rank builds the whole tensors and vLLM keeps its shard of each.
    """

    device: Any
    model_runner: Any
    model_config: Any
    cycleqd_materialiser: Materialiser

    def cycleqd_open(self, spec: str, place: str) -> None:
        """Open the family that `spec` describes (see `merging.spec`); `place` as in `Staging`."""
        self.cycleqd_materialiser = open_materialiser(spec, self.device, place)

    def cycleqd_load(self, record: dict[str, Any]) -> str | None:
        """Make the model the candidate's. Returns what is wrong with the candidate, or None."""
        materialiser = self.cycleqd_materialiser
        finite = torch.ones((), dtype=torch.bool, device=self.device)
        probes: dict[str, torch.Tensor] = {}
        parameters = dict(self.model_runner.get_model().named_parameters())

        def tensors(candidate: Candidate) -> Iterator[tuple[str, torch.Tensor]]:
            for name, tensor in candidate_tensors(candidate, materialiser):
                if tensor.dtype.is_floating_point:
                    finite.logical_and_(torch.isfinite(tensor).all())
                if len(probes) < _PROBED and name in parameters and parameters[name].shape == tensor.shape:
                    probes[name] = tensor.flatten()[:64].clone()
                yield name, tensor

        with torch.inference_mode():
            vllm_compat.load_weights(self, tensors(candidate_from_json(record)))
        if not finite:
            return "a tensor of the child holds NaN or infinite values"
        return self._probe(probes)

    def _probe(self, probes: dict[str, torch.Tensor]) -> str | None:
        """Compare a few loaded parameters with what was built."""
        parameters = dict(self.model_runner.get_model().named_parameters())
        for name, wanted in probes.items():
            found = parameters[name].detach().flatten()[:64]
            if found.shape == wanted.shape and not torch.equal(found.to(wanted.dtype), wanted):
                return f"parameter {name} does not hold what was loaded"
        return None
