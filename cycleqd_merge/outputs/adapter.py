"""Writing a child as a LoRA adapter on the base, for peft; all experts must be adapters."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mergekit.common import ModelPath
from peft import LoraConfig
from safetensors.torch import save_file

from cycleqd_merge.errors import ModelError, RecipeError
from cycleqd_merge.evolution.genome import Genome
from cycleqd_merge.files import new_folder
from cycleqd_merge.merging.adapter import Adapter, LowRank
from cycleqd_merge.merging.checkpoint import Weight
from cycleqd_merge.merging.family import ModelFamily
from cycleqd_merge.merging.fit_files import MODEL_FITS, write_fits
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.model_files import adapter_files, write_files


def require_adapters(family: ModelFamily) -> None:
    """Check that every expert is an adapter, on the base as it is.

    Raises:
        ModelError: one is a full model, or `vocabulary: union` adds tokens to the base.
    """
    if family.union is not None and family.union.extends:
        raise ModelError(
            "models.vocabulary: union adds tokens to the base, which an adapter on it cannot; export a full model"
        )
    for expert in family.experts:
        if not isinstance(expert.weights, Adapter):
            raise ModelError(
                f"expert {expert.name}: a full model; only merges of adapters can be exported as an adapter"
            )


def require_adapter_form(family: ModelFamily) -> None:
    """Check, without building a child, that children can be adapters.

    Raises:
        ModelError: an expert is not an adapter, or changes a tensor by more than the factors of a linear layer.
    """
    require_adapters(family)
    for weight in family.weights:
        for number, expert in enumerate(family.experts):
            names = [name for name in (weight.name, *weight.aliases) if name in expert.weights.names]
            if not names:
                continue
            if isinstance(expert.weights, Adapter) and expert.weights.rank_of(names[0]) is None:
                vector = family.task_vector(number, weight, family.base_tensor(weight))
                if vector is None:  # stored, but equal to the base's
                    continue
                if not isinstance(vector, LowRank):
                    raise ModelError(
                        f"children cannot be adapters: expert {expert.name} changes {weight.name} by more than factors"
                    )
            _parameter(weight, family)


def write_adapter(
    genome: Genome,
    materialiser: Materialiser,
    out: Path,
    record: Mapping[str, Any],
    verify: Callable[[Path], None],
) -> None:
    """Write `adapter_model.safetensors` (float32), its configuration and `adapter_files` to `out`.

    `record` becomes `genome.json`; the genome's fits are written to `cycleqd/fits`. The folder gets its final name only
    when it is complete and `verify` has passed.

    Raises:
        UserError: the model is not a sum of low-rank factors, or `out` exists or cannot be written.
    """
    family = materialiser.family
    base: ModelPath = family.base.reference.model
    require_adapters(family)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RecipeError(f"{out}: already exists; choose a different folder")
    factors = _factors(genome, materialiser)
    rank = max((each.right.shape[0] for each in factors.values()), default=1)
    transposed = any(isinstance(e.weights, Adapter) and e.weights.transposed for e in family.experts)
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,  # a scale of 1: the factors include theirs
        target_modules=sorted(name.removesuffix(".weight") for name in factors),
        base_model_name_or_path=base.path,
        revision=base.revision,
        task_type="CAUSAL_LM",
        fan_in_fan_out=transposed,
        inference_mode=True,
    )
    tensors: dict[str, torch.Tensor] = {}
    for name, each in factors.items():
        down, up = _padded(each, rank, transposed)
        module = "base_model.model." + name.removesuffix(".weight")
        tensors |= {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}
    with new_folder(out) as unfinished:
        save_file(tensors, unfinished / "adapter_model.safetensors", {"format": "pt"})
        config.save_pretrained(str(unfinished))
        _sort_modules(unfinished / "adapter_config.json")
        write_files(adapter_files(family), unfinished)
        (unfinished / "genome.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        write_fits(unfinished / MODEL_FITS, genome.fits)
        verify(unfinished)


def _factors(genome: Genome, materialiser: Materialiser) -> dict[str, LowRank]:
    """Low-rank factors by the names of the transformers model's parameters, which peft uses."""
    found = {}
    for weight in materialiser.family.weights:
        factors = materialiser.low_rank(genome, weight)
        if factors is not None:
            found[_parameter(weight, materialiser.family)] = factors
    return found


def _parameter(weight: Weight, family: ModelFamily) -> str:
    """The name of the linear layer's parameter that experts adapt.

    Raises:
        ModelError: it is not one.
    """
    adapters = [expert.weights for expert in family.experts if isinstance(expert.weights, Adapter)]
    owners = [(each, name) for each in adapters for name in (weight.name, *weight.aliases) if name in each.names]
    if not all(each.is_linear(name) for each, name in owners):
        raise ModelError(f"this model cannot be an adapter: {weight.name} is not adapted as a linear layer")
    parameter = family.base.name_map.parameter(family.stored_names[weight.name])
    if parameter is None:
        raise ModelError(
            f"this model cannot be an adapter: {weight.name} is not a layer of its own in transformers; export it "
            "as a checkpoint"
        )
    return parameter


def _padded(factors: LowRank, rank: int, transposed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """A (rank, input) and B (output, rank), padded with zeros beyond the factors' own rank."""
    left, right = factors.left * factors.scale, factors.right
    down, up = (left.T, right.T) if transposed else (right, left)
    more = rank - down.shape[0]
    down = torch.nn.functional.pad(down, (0, 0, 0, more))
    return down.cpu().contiguous(), torch.nn.functional.pad(up, (0, more)).cpu().contiguous()


def _sort_modules(path: Path) -> None:
    """peft writes a set in arbitrary order; equal adapters must give equal files."""
    config = json.loads(path.read_text())
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
