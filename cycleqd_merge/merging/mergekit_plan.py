"""mergekit's plan of a merge: the tensors that it would write, known before anything is built."""

from __future__ import annotations

import errno
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from mergekit.architecture import get_architecture_info
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import SaveTensor
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner
from safetensors import SafetensorError

from cycleqd_merge.errors import InfrastructureError, ModelError
from cycleqd_merge.files import write_failure
from cycleqd_merge.merging.checkpoint import Checkpoint, Weight
from cycleqd_merge.merging.family import ModelFamily
from cycleqd_merge.merging.mergekit_logging import root_logger_kept
from cycleqd_merge.merging.mergekit_references import model_reference, reference_value
from cycleqd_merge.merging.name_map import Part


def planned_names(family: ModelFamily) -> tuple[set[str], set[str]]:
    """Names of the tensors that mergekit would write for a merge of the family: required, and optional ones.

    Raises:
        ModelError: mergekit cannot plan it.
    """
    saves = _plain_plan(family)
    optional = {name for name, save in saves.items() if save.optional}
    return saves.keys() - optional, optional


def require_candidates(family: ModelFamily) -> None:
    """Check that mergekit's merges of the family have the base's tensors, without building one.

    Raises:
        ModelError: they have not.
    """
    try:
        weights_in(_plain_plan(family), family)
    except ModelError as error:
        raise ModelError(f"strategy `mergekit`: mergekit cannot merge this architecture: {error}") from error


def _plain_plan(family: ModelFamily) -> dict[str, SaveTensor]:
    """mergekit's tasks for the sum of the family's task vectors; adapters have the base's tensors."""
    full = [expert.weights.path for expert in family.experts if isinstance(expert.weights, Checkpoint)]
    # by their folders: mergekit would look for ids on the Hub again
    base, *others = (reference_value(model_reference(str(path))) for path in (family.base.path, *full))
    record = {
        "merge_method": "task_arithmetic",
        "base_model": base,
        "models": [{"model": each, "parameters": {"weight": 1.0}} for each in others or [base]],
        "dtype": "float32",
    }
    trust = family.models.trust_remote_code
    with quiet_libraries(), merge_errors("configuration"):
        config = MergeConfiguration.model_validate(record)
        return planned_tensors(config, MergeOptions(trust_remote_code=trust, quiet=True), family)


def planned_tensors(config: MergeConfiguration, options: MergeOptions, family: ModelFamily) -> dict[str, SaveTensor]:
    """mergekit's tasks, by the name of the tensor that each would save."""
    architecture = get_architecture_info(config, options)
    planner = MergePlanner(config, architecture, options, family.base.config)
    # `plan_in_memory` of mergekit 0.1.5 builds tasks that cannot be instantiated; planning writes nothing
    return {task.tensor_name: task for task in planner.plan_to_disk("") if isinstance(task, SaveTensor)}


def weights_in(saves: Mapping[str, SaveTensor], family: ModelFamily) -> dict[str, list[tuple[Weight, Part | None]]]:
    """The weights in each tensor that mergekit would save: one, or for a stacked or fused one, several parts of it.

    Raises:
        ModelError: a weight is missing, or a tensor is not in the base. An engine would keep the last candidate's
            tensor for a missing one, and cannot load others.
    """
    weights = {weight.name: weight for weight in family.weights}
    pieces: dict[str, list[tuple[Weight, Part | None]]] = {
        name: [(weights[name], None)] if name in weights else [] for name in saves
    }
    missing = weights.keys() - saves.keys()
    if missing:  # mergekit infers some architectures from the transformers model, with the names of its parameters
        parts = family.base.name_map.parts
        for name in sorted(missing):
            for part in parts.get(family.stored_names[name], ()):
                if part.parameter in pieces and part.parameter not in weights and part.stretch is None:
                    pieces[part.parameter].append((weights[name], part))
    missing -= {weight.name for found in pieces.values() for weight, _ in found}
    if missing:
        raise ModelError(f"candidate: tensor {min(missing)} is missing; the base has it")
    expected = family.base.described_names  # also of buffers that models compute
    more = sorted(name for name, found in pieces.items() if not (found or saves[name].optional or name in expected))
    if more:
        raise ModelError(f"candidate: tensor {more[0]} is not in the base")
    return pieces


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide deprecation warnings about mergekit's calls of transformers and peft."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with root_logger_kept(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def merge_errors(where: str) -> Iterator[None]:
    """Turn mergekit's errors about a configuration that cannot be run into a `ModelError`.

    Failed writes are left to the caller, who knows what is written.

    Raises:
        InfrastructureError: the disk, the file system or the memory failed, whichever the configuration.
    """
    try:
        yield
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        if write_failure(error) is not None:
            raise
        line = " ".join(str(error).split()) or type(error).__name__
        if _errno(error) not in (None, errno.ENOENT) or "can't allocate memory" in line:
            raise InfrastructureError(f"{where}: mergekit could not build it: {line}") from error
        raise ModelError(f"{where}: mergekit cannot build it: {line}") from error


def _errno(error: Exception) -> int | None:
    """The number of a system error, or None; a missing model has none, or ENOENT."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error)) if isinstance(error, SafetensorError) else None
    return int(found[1]) if found else None
