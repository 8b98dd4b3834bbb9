"""Runs inside vLLM's worker processes: keeps base, experts and bases, and builds children directly into the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import torch

from cycleqd_merge.errors import ModelError
from cycleqd_merge.evaluation.engines import vllm_compat
from cycleqd_merge.evaluation.engines.consumption import Consumption
from cycleqd_merge.evaluation.engines.placement import PrefetchPlace
from cycleqd_merge.evaluation.engines.prefetch import Prefetcher
from cycleqd_merge.evolution.candidate import candidate_from_json
from cycleqd_merge.merging.candidates import candidate_tensors
from cycleqd_merge.merging.checkpoint import Checkpoint
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.materialiser_spec import MaterialiserSpec, open_materialiser
from cycleqd_merge.merging.staging import Place

_PROBED = 8

vllm_compat.correct_cpu_rotation()  # workers import this module before they build the model


class WorkerExtension:
    """Mixed into vLLM's worker (`worker_extension_cls`); its methods are called by name on every rank.

    With tensor parallelism, every rank builds the whole tensors, and vLLM keeps its shard of each.
    """

    device: Any
    model_runner: Any
    model_config: Any
    cycleqd_materialiser: Materialiser
    cycleqd_prefetcher: Prefetcher | None

    def cycleqd_open(self, spec: dict[str, Any], place: Place, prefetch: PrefetchPlace) -> None:
        """Open the models of `spec`, a `MaterialiserSpec` as plain values; `place` and `prefetch` as in `Placement`."""
        with vllm_compat.model_context(self):
            materialiser = open_materialiser(MaterialiserSpec.from_json(spec), self.device, place)
            for model in (materialiser.family.base, *(expert.weights for expert in materialiser.family.experts)):
                with suppress(ModelError):  # where names need the transformers model, this is reported
                    _ = model.empty_model if isinstance(model, Checkpoint) else None
        self.cycleqd_use(materialiser, prefetch)

    def cycleqd_use(self, materialiser: Materialiser, prefetch: PrefetchPlace) -> None:
        """Build children with `materialiser` from now on."""
        self.cycleqd_materialiser = materialiser
        self._finite = torch.ones((), dtype=torch.bool, device=self.device)
        device = torch.device(self.device)
        self.cycleqd_prefetcher = None if prefetch == "none" else Prefetcher(self._build, device, prefetch == "host")

    def cycleqd_rehearse(self) -> list[str]:
        """Load the base's own weights into the model. Returns the names of float tensors that vLLM did not use."""
        family = self.cycleqd_materialiser.family
        tensors = ((family.stored_names[weight.name], family.base_tensor(weight)) for weight in family.weights)
        with torch.inference_mode(), Consumption() as consumption:
            vllm_compat.load_weights(self, consumption.watch(tensors))
        return sorted(consumption.unused)

    def cycleqd_prepare(self, record: dict[str, Any]) -> None:
        """Start building a candidate while the model answers prompts; returns at once."""
        if self.cycleqd_prefetcher is not None:
            self.cycleqd_prefetcher.begin(record)

    def cycleqd_load(self, record: dict[str, Any]) -> str | None:
        """Load a candidate's weights into the model. Returns the problem with the candidate, or None."""
        prepared = None if self.cycleqd_prefetcher is None else self.cycleqd_prefetcher.take(record)
        probes: dict[str, torch.Tensor] = {}
        with torch.inference_mode():
            tensors = self._build(record) if prepared is None else prepared
            vllm_compat.load_weights(self, self._probed(tensors, probes))
        if prepared is None and self.cycleqd_prefetcher is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()  # the next child is built on a different stream, which cannot use cached memory
        if not self._finite:
            return "a tensor of the child contains NaN or infinite values"
        return self._probe(probes)

    def _build(self, record: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
        """The candidate's tensors; `_finite` says afterwards whether all their values are finite."""
        self._finite = torch.ones((), dtype=torch.bool, device=self.device)
        for name, tensor in candidate_tensors(candidate_from_json(record), self.cycleqd_materialiser):
            if tensor.dtype.is_floating_point:
                self._finite.logical_and_(torch.isfinite(tensor).all())
            yield name, tensor

    def _probed(
        self, tensors: Iterable[tuple[str, torch.Tensor]], probes: dict[str, torch.Tensor]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors; for a few, the first values that the parameter of the same name should have go to `probes`."""
        parameters = dict(self.model_runner.get_model().named_parameters())
        for name, tensor in tensors:
            if len(probes) < _PROBED and name in parameters and parameters[name].shape == tensor.shape:
                probes[name] = tensor.flatten()[:64].to(self.device, copy=True)
            yield name, tensor

    def _probe(self, probes: dict[str, torch.Tensor]) -> str | None:
        """Compare a few loaded parameters with the tensors built. Returns which one differs, or None."""
        parameters = dict(self.model_runner.get_model().named_parameters())
        for name, wanted in probes.items():
            found = parameters[name].detach().flatten()[:64]
            if found.shape == wanted.shape and not torch.equal(found.to(wanted.dtype), wanted):
                return f"parameter {name} does not have the values that were loaded"
        return None
