"""Letting mergekit build the tensors of a configuration: to disk, or in memory for an engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import yaml
from mergekit.architecture import get_architecture_info
from mergekit.common import dtype_from_name
from mergekit.config import MergeConfiguration
from mergekit.graph import Executor
from mergekit.io.tasks import LoaderCache
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner
from pydantic import ValidationError

from cycleqd_merge.errors import UserError
from cycleqd_merge.merging import mergekit_method  # noqa: F401 - registers the method `cycleqd`
from cycleqd_merge.merging.cache import cache_folder


def parse_configuration(text: str, where: str) -> MergeConfiguration:
    """A mergekit configuration from YAML text.

    Raises:
        UserError: it is no YAML, or not what mergekit accepts.
    """
    try:
        return MergeConfiguration.model_validate(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError, RuntimeError) as error:
        raise UserError(f"{where}: not a mergekit configuration: {str(error).splitlines()[-1].strip()}") from error


def merge_to_disk(config_file: Path, out: Path) -> None:
    """What `mergekit-yaml` does, with the method `cycleqd` known and adapters merged in float32.

    Raises:
        UserError: the configuration cannot be read, or `out` exists already.
    """
    try:
        text = config_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{config_file}: cannot be read: {error}") from error
    config = parse_configuration(text, str(config_file))
    if out.exists():
        raise UserError(f"{out}: exists already; name another folder")
    run_merge(config, str(out), _options(), config_source=text)


def merged_tensors(text: str, device: torch.device | str = "cpu") -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a configuration one by one, as (name, tensor in the output dtype).

    Raises:
        UserError: the configuration cannot be read.
    """
    config = parse_configuration(text, "candidate")
    options = _options()
    LoaderCache().setup(options)
    base = config.base_model or config.referenced_models()[0]
    architecture = get_architecture_info(config, options)
    planner = MergePlanner(config, architecture, options, base.config())
    planner._plan()  # the public `plan_in_memory` of mergekit 0.1.5 builds tasks that cannot be instantiated
    described = {task: weight for weight, task in planner._tensors}
    out_dtype = dtype_from_name(config.out_dtype)
    for task, tensor in Executor(list(described), math_device=torch.device(device)).run(quiet=True):
        if tensor is not None:
            weight = described[task]
            yield weight.name, tensor.to(dtype_from_name(weight.force_dtype) or out_dtype or tensor.dtype)


def _options() -> MergeOptions:
    return MergeOptions(lora_merge_cache=str(cache_folder("lora")), lora_merge_dtype="float32", quiet=True)
