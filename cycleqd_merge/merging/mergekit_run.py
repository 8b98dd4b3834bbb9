"""Letting mergekit build the tensors of a configuration: to disk, or in memory for an engine."""

from __future__ import annotations

import errno
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from mergekit.architecture import get_architecture_info
from mergekit.common import dtype_from_name
from mergekit.config import MergeConfiguration
from mergekit.graph import Executor
from mergekit.io.tasks import LoaderCache, SaveTensor
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner
from pydantic import ValidationError
from safetensors import SafetensorError

from cycleqd_merge.errors import InfrastructureError, UserError
from cycleqd_merge.evolution.candidate import MergekitConfiguration as Candidate
from cycleqd_merge.merging.checkpoint import Weight
from cycleqd_merge.merging.family import ModelFamily
from cycleqd_merge.merging.mergekit_adapters import MERGE_DTYPE, merged_adapters
from cycleqd_merge.merging.mergekit_config import METHOD, OWN_COMMAND, STOCK_COMMAND, stock_options
from cycleqd_merge.merging.mergekit_method import Carried
from cycleqd_merge.outputs.checkpoint import folder_beside

_Step = TypeVar("_Step")


def parse_configuration(text: str, where: str) -> MergeConfiguration:
    """A mergekit configuration from YAML text.

    Raises:
        UserError: it is no YAML, or not what mergekit accepts.
    """
    try:
        return MergeConfiguration.model_validate(yaml.safe_load(text))
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"])) or "the whole"
        raise UserError(f"{where}: not a mergekit configuration: {place}: {fault['msg']}") from error
    except (yaml.YAMLError, RuntimeError) as error:
        raise UserError(f"{where}: not a mergekit configuration: {' '.join(str(error).split())}") from error


def merge_to_disk(config_file: Path, out: Path, seed: int = 0) -> None:
    """What `mergekit-yaml --random-seed SEED` does, with the method `cycleqd` known and adapters merged in float32.

    The folder appears under its name only when it is complete.

    Raises:
        UserError: the configuration cannot be read or run, or `out` exists already.
    """
    try:
        text = config_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{config_file}: cannot be read: {error}") from error
    config = parse_configuration(text, str(config_file))
    if out.exists():
        raise UserError(f"{out}: exists already; name another folder")
    with folder_beside(out) as beside:
        with _refusals(str(config_file)), _opened(config, random_seed=seed, **_truncation(config)) as options:
            run_merge(config, str(beside / out.name), options, config_source=text)
        (beside / out.name).replace(out)


def _truncation(config: MergeConfiguration) -> dict[str, bool]:
    """The option that a model of `models.vocabulary: base` needs, where the configuration says that it is one."""
    carried = (config.parameters or {}).get("mutations")
    if config.merge_method != METHOD or not isinstance(carried, str):
        return {}
    return {"unsafe_truncate_embeddings": Carried.parse(carried, len(config.models or [])).vocabulary == "base"}


def merged_tensors(
    candidate: Candidate, family: ModelFamily, device: torch.device | str = "cpu"
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a configuration one by one, as (name, tensor in the base checkpoint's dtype).

    What a method draws at random follows from the candidate's seed, as under `mergekit-yaml --random-seed`.

    Raises:
        UserError: the configuration cannot be read or run, or makes a model of another form than the base.
    """
    config = parse_configuration(candidate.yaml, "candidate")
    if config.tokenizer_source not in (None, "base") or config.tokenizer is not None:
        raise UserError("candidate: `tokenizer` is not for candidates: they are scored with the base's tokenizer")
    device, weights = torch.device(device), {weight.name: weight for weight in family.weights}
    truncation = {"unsafe_truncate_embeddings": family.models.vocabulary == "base"}
    with _refusals("candidate"), _opened(config, family.models.trust_remote_code, **truncation) as options:
        saves = _planned(config, options, family)
        _require_form(saves, weights)
        tasks = [save.tensor_task for save in saves.values()]
        names = {save.tensor_task: name for name, save in saves.items()}
        for task, tensor in _seeded(Executor(tasks, math_device=device).run(quiet=True), candidate.seed, device):
            name = names[task]
            if tensor is None or name not in weights:
                continue
            if tuple(tensor.shape) != weights[name].shape:
                shapes = f"shape {tuple(tensor.shape)}, the base {weights[name].shape}"
                raise UserError(f"candidate: its {name} has {shapes}")
            yield name, tensor.to(dtype_from_name(saves[name].dtype) or tensor.dtype).to(weights[name].dtype)


def write_merge(candidate: Candidate, family: ModelFamily, folder: Path, device: torch.device | str = "cpu") -> None:
    """Write what `mergekit-yaml --random-seed` writes for a configuration to a folder, but for the card.

    Raises:
        UserError: the configuration cannot be read or run.
    """
    config = parse_configuration(candidate.yaml, "candidate")
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    truncation = {"unsafe_truncate_embeddings": family.models.vocabulary == "base"}
    trust, own = family.models.trust_remote_code, {"random_seed": candidate.seed, "device": str(device)}
    with (
        torch.random.fork_rng(devices),
        _refusals("candidate"),
        _opened(config, trust, write_model_card=False, **own, **truncation) as options,
    ):
        run_merge(config, str(folder), options)


def merge_command(candidate: Candidate, family: ModelFamily, device: torch.device | str = "cpu") -> str:
    """The command that writes the same from `mergekit_config.yml`.

    Raises:
        UserError: the configuration cannot be read.
    """
    config = parse_configuration(candidate.yaml, "candidate")
    if config.merge_method == METHOD:  # nothing of it is drawn by mergekit
        return OWN_COMMAND
    adapters = any(reference.lora is not None for reference in config.referenced_models())
    options = [f"--random-seed {candidate.seed}", *stock_options(family, adapters)]
    if torch.device(device).type != "cpu":
        options.append(f"--device {torch.device(device).type}")
    return " ".join([STOCK_COMMAND, *options])


def _planned(config: MergeConfiguration, options: MergeOptions, family: ModelFamily) -> dict[str, SaveTensor]:
    """mergekit's tasks by the tensor that they would save."""
    architecture = get_architecture_info(config, options)
    planner = MergePlanner(config, architecture, options, family.base.config)
    # `plan_in_memory` of mergekit 0.1.5 builds tasks that cannot be instantiated; nothing is written by planning
    return {task.tensor_name: task for task in planner.plan_to_disk("") if isinstance(task, SaveTensor)}


def _require_form(saves: Mapping[str, SaveTensor], weights: Mapping[str, Weight]) -> None:
    """Refuse what would leave tensors of the candidate before in place, or has more than the engine can hold."""
    missing = sorted(weights.keys() - saves.keys())
    if missing:
        raise UserError(f"candidate: it has no {missing[0]}; the base has it")
    more = sorted(name for name in saves.keys() - weights.keys() if not saves[name].optional)
    if more:
        raise UserError(f"candidate: it has {more[0]}, which the base lacks")


@contextmanager
def _opened(config: MergeConfiguration, trust_remote_code: bool = False, **more: Any) -> Iterator[MergeOptions]:
    """mergekit's options, with the adapters merged, nothing open from merges before, and less talk."""
    with _quiet(), merged_adapters(config, trust_remote_code) as adapters:
        settings = MergeOptions(
            lora_merge_cache=adapters,
            lora_merge_dtype=MERGE_DTYPE,
            trust_remote_code=trust_remote_code,
            quiet=True,
            **more,
        )
        cache = LoaderCache()
        cache.loaders = {}  # mergekit keeps what was once open for all threads, by name, even if files changed since
        cache.setup(settings)
        try:
            yield settings
        finally:
            cache.loaders = {}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the deprecations that mergekit calls transformers and peft by."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _refusals(where: str) -> Iterator[None]:
    """What mergekit raises for a configuration that cannot be run, as a `UserError`.

    Raises:
        InfrastructureError: the disk or the file system failed, whatever the configuration.
    """
    try:
        yield
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        line = " ".join(str(error).split()) or type(error).__name__
        if _errno(error) not in (None, errno.ENOENT):
            raise InfrastructureError(f"{where}: mergekit could not build it: {line}") from error
        raise UserError(f"{where}: mergekit cannot build it: {line}") from error


def _errno(error: Exception) -> int | None:
    """The number of the system's error, if it is one; a model that is not there comes without, or as ENOENT."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error)) if isinstance(error, SafetensorError) else None
    return int(found[1]) if found else None


def _seeded(steps: Iterator[_Step], seed: int, device: torch.device) -> Iterator[_Step]:
    """The steps of an iteration that draws from torch's generators, on random states that nobody else draws from."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        states = _random_states(devices)
    while True:
        with torch.random.fork_rng(devices):
            torch.set_rng_state(states[0])
            for place, state in zip(devices, states[1:], strict=True):
                torch.cuda.set_rng_state(state, place)
            try:
                step = next(steps)
            except StopIteration:
                return
            states = _random_states(devices)
        yield step


def _random_states(devices: list[torch.device]) -> list[torch.Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]
