"""Runs inside vLLM's worker processes: holds base, experts and bases, and builds a child straight into the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from cycleqd_merge.evaluation.engines import vllm_compat
from cycleqd_merge.evaluation.engines.prefetch import Prefetcher
from cycleqd_merge.evolution.candidate import candidate_from_json
from cycleqd_merge.merging.candidates import candidate_tensors
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.spec import open_materialiser
from cycleqd_merge.merging.staging import Place

_PROBED = 8


class WorkerExtension:
    """Mixed into vLLM's worker (`worker_extension_cls`); its methods are called by name on every rank.

    With tensor parallelism every rank builds the whole tensors and vLLM keeps its shard of each.
    """

    device: Any
    model_runner: Any
    model_config: Any
    cycleqd_materialiser: Materialiser
    cycleqd_ahead: Prefetcher | None

    def cycleqd_open(self, spec: str, place: Place, ahead: str) -> None:
        """Open the family that `spec` describes (see `merging.spec`); `place` and `ahead` as in `Placement`."""
        self.cycleqd_use(open_materialiser(spec, self.device, place), ahead)

    def cycleqd_use(self, materialiser: Materialiser, ahead: str) -> None:
        """Build children with `materialiser` from now on."""
        self.cycleqd_materialiser = materialiser
        self._finite = torch.ones((), dtype=torch.bool, device=self.device)
        self.cycleqd_ahead = (
            None if ahead == "none" else Prefetcher(self._build, torch.device(self.device), ahead == "host")
        )

    def cycleqd_prepare(self, record: dict[str, Any]) -> None:
        """Begin to build a candidate beside whatever the model answers; returns at once."""
        if self.cycleqd_ahead is not None:
            self.cycleqd_ahead.begin(record)

    def cycleqd_load(self, record: dict[str, Any]) -> str | None:
        """Make the model the candidate's. Returns what is wrong with the candidate, or None."""
        prepared = None if self.cycleqd_ahead is None else self.cycleqd_ahead.take(record)
        probes: dict[str, torch.Tensor] = {}
        with torch.inference_mode():
            tensors = self._build(record) if prepared is None else prepared
            vllm_compat.load_weights(self, self._probed(tensors, probes))
        if prepared is None and self.cycleqd_ahead is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()  # the next child is built on another stream, which cannot use this one's memory
        if not self._finite:
            return "a tensor of the child holds NaN or infinite values"
        return self._probe(probes)

    def _build(self, record: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
        """The candidate's tensors; `_finite` tells afterwards whether all their values are."""
        self._finite = torch.ones((), dtype=torch.bool, device=self.device)
        for name, tensor in candidate_tensors(candidate_from_json(record), self.cycleqd_materialiser):
            if tensor.dtype.is_floating_point:
                self._finite.logical_and_(torch.isfinite(tensor).all())
            yield name, tensor

    def _probed(
        self, tensors: Iterable[tuple[str, torch.Tensor]], probes: dict[str, torch.Tensor]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors; of a few, what a parameter of the same name should hold in its first places is noted."""
        parameters = dict(self.model_runner.get_model().named_parameters())
        for name, tensor in tensors:
            if len(probes) < _PROBED and name in parameters and parameters[name].shape == tensor.shape:
                probes[name] = tensor.flatten()[:64].to(self.device, copy=True)
            yield name, tensor

    def _probe(self, probes: dict[str, torch.Tensor]) -> str | None:
        """Compare a few loaded parameters with what was built."""
        parameters = dict(self.model_runner.get_model().named_parameters())
        for name, wanted in probes.items():
            found = parameters[name].detach().flatten()[:64]
            if found.shape == wanted.shape and not torch.equal(found.to(wanted.dtype), wanted):
                return f"parameter {name} does not hold what was loaded"
        return None
