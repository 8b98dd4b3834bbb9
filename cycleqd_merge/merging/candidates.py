"""The tensors of a candidate: of a genome, or of a mergekit configuration."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from mergekit.io import TensorWriter

from cycleqd_merge.config.evolution import EvolutionConfig
from cycleqd_merge.evolution.candidate import Candidate
from cycleqd_merge.evolution.genome import Genome
from cycleqd_merge.merging.family import ModelFamily
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.mergekit_config import configuration_text
from cycleqd_merge.merging.model_files import child_files, with_dtype, write_files

SHARD_SIZE = 5 * 1000**3


def candidate_tensors(candidate: Candidate, materialiser: Materialiser) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) of a candidate, one at a time, in the base checkpoint's dtype and under its stored names.

    A genome is built by `materialiser`, a configuration by mergekit.

    Raises:
        ModelError: the configuration cannot be read or run, or its model's tensors differ in name or shape from the
            base's; or the files of the family's models have changed since they were opened.
    """
    materialiser.family.require_unchanged()
    if isinstance(candidate, Genome):
        tensors = materialiser.tensors(candidate)
    else:
        from cycleqd_merge.merging.mergekit_run import merged_tensors  # mergekit's planner is slow to import

        tensors = merged_tensors(candidate, materialiser.family, materialiser.device)
    names = materialiser.family.stored_names
    for name, tensor in tensors:
        yield names[name], tensor
    materialiser.family.require_unchanged()  # while they were read, too


def candidate_configuration(candidate: Candidate, materialiser: Materialiser, evolution: EvolutionConfig) -> str:
    """The text of `mergekit_config.yml` for a candidate; a comment at the top is the command that rebuilds the model.

    evolution: the recipe's, which defines the materialiser's groups.

    Raises:
        ModelError: a mergekit configuration cannot be read.
    """
    if isinstance(candidate, Genome):
        return configuration_text(candidate, materialiser, evolution)
    from cycleqd_merge.merging.mergekit_run import merge_command

    text = candidate.yaml.rstrip("\n")
    return f"# {merge_command(candidate, materialiser.family, materialiser.device)}\n{text}\n"


def write_candidate(candidate: Candidate, materialiser: Materialiser, folder: Path) -> None:
    """Write a candidate's model into a folder, with the base's names and the chat template it was scored with.

    Raises:
        ModelError: see `candidate_tensors`.
    """
    family = materialiser.family
    if isinstance(candidate, Genome):
        write_checkpoint(candidate_tensors(candidate, materialiser), family, folder)
        return
    from cycleqd_merge.merging.mergekit_run import keeps_names, write_merge

    if not keeps_names(candidate, family):
        write_checkpoint(candidate_tensors(candidate, materialiser), family, folder)
        return
    files = child_files(family)
    write_merge(candidate, family, folder, materialiser.device)
    for path in folder.iterdir():  # mergekit's own version of the other files
        if path.is_dir():
            shutil.rmtree(path)
        elif ".safetensors" not in path.suffixes:
            path.unlink()
    write_files(with_dtype(files, folder), folder)


def write_checkpoint(tensors: Iterable[tuple[str, torch.Tensor]], family: ModelFamily, folder: Path) -> None:
    """Write safetensors (sharded at 5 GB) and the child's other files into a folder; see `child_files`."""
    files = child_files(family)
    writer = TensorWriter(str(folder), max_shard_size=SHARD_SIZE)  # as a context it would write on after an error
    for name, tensor in tensors:
        writer.save_tensor(name, tensor.cpu(), clone=True)
    writer.finalize()
    write_files(files, folder)
