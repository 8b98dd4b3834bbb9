"""Build the tensors of a configuration with mergekit: on disk, or in memory for an engine."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from mergekit.common import ModelReference, dtype_from_name
from mergekit.config import MergeConfiguration
from mergekit.graph import Executor
from mergekit.io.tasks import LoaderCache
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from pydantic import ValidationError

from cycleqd_merge.config.recipe import ModelsConfig
from cycleqd_merge.config.references import with_renamed_models
from cycleqd_merge.config.variables import expanded, require_no_credential, require_values
from cycleqd_merge.errors import ModelError, RecipeError
from cycleqd_merge.evolution.candidate import MergekitConfiguration
from cycleqd_merge.files import scratch_folder
from cycleqd_merge.merging.family import ModelFamily, open_family
from cycleqd_merge.merging.fit_files import MODEL_FITS, keep_fits
from cycleqd_merge.merging.mergekit_adapters import MERGE_DTYPE, merged_adapters
from cycleqd_merge.merging.mergekit_config import (
    MERGE_METHOD,
    STOCK_COMMAND,
    own_command,
    stock_options,
    why_not_rebuilt,
)
from cycleqd_merge.merging.mergekit_experts import expert_loaders, stock_problem
from cycleqd_merge.merging.mergekit_matrix_merges import MATRIX_MERGES
from cycleqd_merge.merging.mergekit_method import MutationsParameter, models_of, models_opened
from cycleqd_merge.merging.mergekit_plan import merge_errors, planned_tensors, quiet_libraries, weights_in
from cycleqd_merge.merging.mergekit_references import reference_value
from cycleqd_merge.merging.model_references import PATH_KEYS, with_renamed_references
from cycleqd_merge.merging.rebuild_command import NO_COMMAND

_Step = TypeVar("_Step")
_PLAIN = ModelsConfig()  # neither code nor pickles


def parse_configuration(text: str, where: str) -> MergeConfiguration:
    """A mergekit configuration from YAML text.

    Raises:
        ModelError: it is not YAML, or not valid for mergekit.
    """
    try:
        return MergeConfiguration.model_validate(yaml.safe_load(text))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(map(str, problem["loc"]))
        text = f"{place}: {problem['msg']}" if place else problem["msg"]
        raise ModelError(f"{where}: not a mergekit configuration: {text}") from error
    except (yaml.YAMLError, RuntimeError) as error:
        raise ModelError(f"{where}: not a mergekit configuration: {' '.join(str(error).split())}") from error


def merge_to_disk(config_file: Path, out: Path, seed: int = 0, models: ModelsConfig = _PLAIN) -> None:
    """Merge like `mergekit-yaml --random-seed SEED`, with the method `cycleqd` and with adapters merged in float32.

    The folder `out` appears only once it is complete. models: the code and the pickles that are allowed.

    Raises:
        RecipeError: the file cannot be read, or `out` exists already.
        ModelError: the configuration is not valid or cannot be run.
    """
    try:
        text = config_file.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{config_file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise RecipeError(f"{config_file}: not a text file") from None
    values, written = _with_values(text, str(config_file))
    config = parse_configuration(values, str(config_file))
    if out.exists():
        raise RecipeError(f"{out}: already exists; choose a different folder")
    family = _recorded_family(config, models, config_file.parent)
    truncation = {} if family is None else {"unsafe_truncate_embeddings": family.models.vocabulary == "base"}
    if family is not None and family.has_copies:
        config = _with_copies(config, text, family)
    with scratch_folder(out) as scratch:
        with (
            models_opened(models),
            merge_errors(str(config_file)),
            _merge_options(config, models.trust_remote_code, family, random_seed=seed, **truncation) as options,
        ):
            run_merge(config, str(scratch / out.name), options, config_source=text)
        card = scratch / out.name / "README.md"
        if written and card.is_file():
            card.write_text(str(with_renamed_models(card.read_text(encoding="utf-8"), written)), encoding="utf-8")
        (scratch / out.name).replace(out)


def _with_values(text: str, where: str) -> tuple[str, dict[str, str]]:
    """A configuration with the values of environment variables in its references, which exports write as `${NAME}`;
    and the references as they are written, by their values.

    Raises:
        RecipeError: a variable is not set, or may hold a credential.
    """
    written: dict[str, str] = {}
    if "${" not in text:
        return text, written

    def value(reference: str) -> str:
        found = expanded(reference)
        if isinstance(found, str):
            return reference
        require_no_credential(found.text, where, ("model",))
        require_values({("model",): found}, lambda _: where)
        written.update(zip(found.value.split("+"), reference.split("+"), strict=False))
        return found.value

    try:
        stated = yaml.safe_load(text)
    except yaml.YAMLError:
        return text, written  # `parse_configuration` reports it
    changed = with_renamed_references(stated, value, keys=PATH_KEYS)
    return yaml.safe_dump(changed, sort_keys=False, allow_unicode=True, width=math.inf), written


def _recorded_family(config: MergeConfiguration, settings: ModelsConfig, folder: Path) -> ModelFamily | None:
    """The models of a configuration for the method `cycleqd`, with their settings, which only this method records.

    folder: of the configuration. Its genome's fits are next to it, as in an exported model; they are kept in the cache.

    Raises:
        ModelError: a model cannot be opened, or a fit is missing or refused.
    """
    text = (config.parameters or {}).get("mutations")
    if config.merge_method != MERGE_METHOD or not isinstance(text, str) or config.base_model is None:
        return None
    experts = [str(each.model) for each in config.models or [] if each.model != config.base_model]
    parameter = MutationsParameter.parse(text, len(experts))
    keep_fits(folder / MODEL_FITS, parameter.genome.fits)
    return open_family(models_of(parameter, [str(config.base_model), *experts], settings))


def _with_copies(config: MergeConfiguration, text: str, family: ModelFamily) -> MergeConfiguration:
    """The configuration with each model replaced by its copy in the vocabulary of `models.vocabulary: union`.

    text: what it was read from; mergekit cannot write all paths that it can read.
    """
    record = _over_copies(yaml.safe_load(text), family)
    mutations = json.loads(record["parameters"]["mutations"])
    mutations["originals"] = {str(family.copy_of(each)): str(each) for each in config.referenced_models()}
    record["parameters"]["mutations"] = json.dumps(mutations)
    return MergeConfiguration.model_validate(record)


def _configuration(candidate: MergekitConfiguration, family: ModelFamily) -> MergeConfiguration:
    """A candidate's configuration, over the copies of the family's models if it has some.

    Raises:
        ModelError: it cannot be read.
    """
    config = parse_configuration(candidate.yaml, "candidate")
    if not family.has_copies:
        return config
    return MergeConfiguration.model_validate(_over_copies(yaml.safe_load(candidate.yaml), family))


def _over_copies(value: Any, family: ModelFamily, key: str = "") -> Any:
    """A configuration's plain values with every reference over the copy of its model, if the family reads one."""
    if key in ("model", "base_model") and (isinstance(value, str) or _is_path((value or {}).get("model"))):
        return reference_value(family.copy_of(ModelReference.model_validate(value)))
    if isinstance(value, list):
        return [_over_copies(each, family) for each in value]
    return (
        {name: _over_copies(each, family, name) for name, each in value.items()} if isinstance(value, dict) else value
    )


def _is_path(value: Any) -> bool:
    """Whether this is a path in a reference that is written as a mapping, see `reference_value`."""
    return isinstance(value, dict) and "path" in value


def merged_tensors(
    candidate: MergekitConfiguration, family: ModelFamily, device: torch.device | str = "cpu"
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a configuration one by one, as (name, tensor in the base checkpoint's dtype).

    The candidate's seed determines a method's random draws, as with `mergekit-yaml --random-seed`.

    Raises:
        ModelError: the configuration cannot be read or run, or its model's tensors differ in name or shape from the
            base's.
    """
    config = _configuration(candidate, family)
    if config.tokenizer_source not in (None, "base") or config.tokenizer is not None:
        raise ModelError("candidate: `tokenizer` cannot be set: candidates are scored with the base's tokenizer")
    device = torch.device(device)
    truncation = {"unsafe_truncate_embeddings": family.models.vocabulary == "base"}
    trust = family.models.trust_remote_code
    with merge_errors("candidate"), _merge_options(config, trust, family, **truncation) as options:
        saves = planned_tensors(config, options, family)
        pieces = weights_in(saves, family)
        names = {save.tensor_task: name for name, save in saves.items() if pieces[name]}
        for task, tensor in _seeded(Executor(list(names), math_device=device).run(quiet=True), candidate.seed, device):
            if tensor is None:
                continue
            saved = tensor.to(dtype_from_name(saves[names[task]].dtype) or tensor.dtype)
            for weight, part in pieces[names[task]]:
                own = saved if part is None else part.view(saved)
                if tuple(own.shape) != weight.shape:
                    shapes = f"shape {tuple(own.shape)}; the base has {weight.shape}"
                    raise ModelError(f"candidate: {weight.name} has {shapes}")
                yield weight.name, own.to(weight.dtype)


def write_merge(
    candidate: MergekitConfiguration, family: ModelFamily, folder: Path, device: torch.device | str = "cpu"
) -> None:
    """Write a configuration's model to a folder, like `mergekit-yaml --random-seed` but without a model card.

    Raises:
        ModelError: the configuration cannot be read or run.
        OSError, SafetensorError: the folder cannot be written; see `files.writing`.
    """
    config = _configuration(candidate, family)
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    truncation = {"unsafe_truncate_embeddings": family.models.vocabulary == "base"}
    trust, own = family.models.trust_remote_code, {"random_seed": candidate.seed, "device": str(device)}
    with (
        torch.random.fork_rng(devices),
        merge_errors("candidate"),
        _merge_options(config, trust, family, write_model_card=False, **own, **truncation) as options,
    ):
        run_merge(config, str(folder), options)


def keeps_names(candidate: MergekitConfiguration, family: ModelFamily) -> bool:
    """Whether mergekit saves a configuration's tensors under the names of the base checkpoint.

    Raises:
        ModelError: the configuration cannot be read or run.
    """
    config = _configuration(candidate, family)
    with merge_errors("candidate"), _merge_options(config, family.models.trust_remote_code, family) as options:
        saves = planned_tensors(config, options, family)
    saved = {name for name, save in saves.items() if name in family.stored_names or not save.optional}
    return saved == set(family.stored_names.values())


def merge_command(candidate: MergekitConfiguration, family: ModelFamily, device: torch.device | str = "cpu") -> str:
    """The command that writes the same model from `mergekit_config.yml`, or the reason why there is none.

    Raises:
        ModelError: the configuration cannot be read.
    """
    config = parse_configuration(candidate.yaml, "candidate")
    reason = "its vocabulary joins those of its models" if family.has_copies else why_not_rebuilt(family)
    if reason is not None:
        return f"{NO_COMMAND}{reason}"
    if config.merge_method == MERGE_METHOD:  # mergekit draws no random numbers for it
        return own_command(family)
    problem = stock_problem(family)
    if problem is not None:
        return f"{NO_COMMAND}{problem}"
    if config.merge_method in MATRIX_MERGES:
        if family.models.vocabulary == "base":
            return f"{NO_COMMAND}its experts' vocabularies are cut to the base's"
        return own_command(family)
    adapters = any(reference.lora is not None for reference in config.referenced_models())
    options = [f"--random-seed {candidate.seed}", *stock_options(family, adapters)]
    if torch.device(device).type != "cpu":
        options.append(f"--device {torch.device(device).type}")
    return " ".join([STOCK_COMMAND, *options])


@contextmanager
def _merge_options(
    config: MergeConfiguration, trust_remote_code: bool = False, family: ModelFamily | None = None, **more: Any
) -> Iterator[MergeOptions]:
    """mergekit's options, with adapters merged, no files open from earlier merges, and fewer warnings.

    family: whose experts are read as here, whatever their names and vocabularies are.
    """
    loaders = {} if family is None else expert_loaders(family)
    models = _adapter_models(family, trust_remote_code, more)
    with quiet_libraries(), merged_adapters(config, models, loaders) as adapters:
        settings = MergeOptions(
            lora_merge_cache=adapters,
            lora_merge_dtype=MERGE_DTYPE,
            trust_remote_code=trust_remote_code,
            quiet=True,
            **more,
        )
        cache = LoaderCache()
        # mergekit keeps them open for all threads, by name, even if files have changed since
        cache.loaders = loaders
        cache.setup(settings)
        try:
            yield settings
        finally:
            cache.loaders = {}


def _adapter_models(family: ModelFamily | None, trust_remote_code: bool, more: Mapping[str, Any]) -> ModelsConfig:
    """How the models of a configuration are opened; copies for `vocabulary: union` have one vocabulary already."""
    vocabulary = "base" if more.get("unsafe_truncate_embeddings") else "strict"
    settings = {"pickles": family is not None and family.models.pickles, "trust_remote_code": trust_remote_code}
    return ModelsConfig.model_validate({**settings, "vocabulary": vocabulary})


def _seeded(steps: Iterator[_Step], seed: int, device: torch.device) -> Iterator[_Step]:
    """The steps of an iterator that draws from torch's generators, with random states that nothing else draws from."""
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
