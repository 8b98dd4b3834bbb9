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

_PROBED, _VALUES = 8, 64
"""How many parameters are checked after each load, and how many values of each."""

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
    _probed: frozenset[str] | None = None

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
        """Load the base's own weights into the model. Returns the names of float tensors that vLLM did not use.

        The parameters that then have the values of the base's tensor of the same name are checked after later loads;
        vLLM transposes or reorders others.
        """
        family = self.cycleqd_materialiser.family
        tensors = ((family.stored_names[weight.name], family.base_tensor(weight)) for weight in family.weights)
        stored: dict[str, torch.Tensor] = {}
        with torch.inference_mode(), Consumption() as consumption:
            vllm_compat.load_weights(self, self._noted(consumption.watch(tensors), stored))
            found = self._first_values(stored)
            same = [name for name, values in stored.items() if _equal(found[name], values) and len(values.unique()) > 1]
        self._probed = frozenset(same[:_PROBED])
        return sorted(consumption.unused)

    def cycleqd_prepare(self, record: dict[str, Any]) -> None:
        """Start building a candidate while the model answers prompts; returns at once."""
        if self.cycleqd_prefetcher is not None:
            self.cycleqd_prefetcher.begin(record)

    def cycleqd_load(self, record: dict[str, Any]) -> str | None:
        """Load a candidate's weights into the model. Returns the problem with the candidate, or None."""
        prepared = None if self.cycleqd_prefetcher is None else self.cycleqd_prefetcher.take(record)
        wanted: dict[str, torch.Tensor] = {}
        with torch.inference_mode():
            tensors = self._build(record) if prepared is None else prepared
            vllm_compat.load_weights(self, self._noted(tensors, wanted))
        if prepared is None and self.cycleqd_prefetcher is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()  # the next child is built on a different stream, which cannot use cached memory
        if not self._finite:
            return "a tensor of the child contains NaN or infinite values"
        found = self._first_values(wanted)
        wrong = next((name for name, values in wanted.items() if not _equal(found[name], values)), None)
        return None if wrong is None else f"parameter {wrong} does not have the values that were loaded"

    def cycleqd_release(self) -> None:
        """Free what is kept on the device besides vLLM's own memory; the next load reads it again."""
        if self.cycleqd_prefetcher is not None:
            self.cycleqd_prefetcher.forget()
        self.cycleqd_materialiser.staging.forget()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _build(self, record: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
        """The candidate's tensors; `_finite` says afterwards whether all their values are finite."""
        self._finite = torch.ones((), dtype=torch.bool, device=self.device)
        for name, tensor in candidate_tensors(candidate_from_json(record), self.cycleqd_materialiser):
            if tensor.dtype.is_floating_point:
                self._finite.logical_and_(torch.isfinite(tensor).all())
            yield name, tensor

    def _noted(
        self, tensors: Iterable[tuple[str, torch.Tensor]], values: dict[str, torch.Tensor]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors; the first values of those that the model has a parameter for, by name and shape, go to `values`.

        Once parameters to check are chosen, of these alone.
        """
        parameters = dict(self.model_runner.get_model().named_parameters())
        for name, tensor in tensors:
            chosen = self._probed is None or name in self._probed
            if chosen and name in parameters and parameters[name].shape == tensor.shape:
                values[name] = tensor.flatten()[:_VALUES].to(self.device, copy=True)
            yield name, tensor

    def _first_values(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """The first values of the model's parameters with these names; to flatten one may copy it."""
        parameters = dict(self.model_runner.get_model().named_parameters())
        return {name: parameters[name].detach().flatten()[:_VALUES] for name in names}


def _equal(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Whether values are equal; those of a parameter that vLLM has packed after loading cannot be compared."""
    return found.shape == wanted.shape and torch.equal(found.to(wanted.dtype), wanted)
