"""A model's weights on disk, read one tensor at a time through mergekit's lazy loader."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import torch
from mergekit.architecture import WeightInfo, arch_info_for_config
from mergekit.architecture.auto import infer_architecture_info
from mergekit.common import ModelPath, ModelReference
from mergekit.io import LazyTensorLoader
from mergekit.options import MergeOptions
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PretrainedConfig, PreTrainedModel

from cycleqd_merge.cache_entries import read_entry, write_entry
from cycleqd_merge.config.recipe import ModelsConfig
from cycleqd_merge.errors import CycleQDError, ModelError, first_line
from cycleqd_merge.files import file_version, sha256_of
from cycleqd_merge.merging.download import model_folder
from cycleqd_merge.merging.file_limits import require_configuration, require_no_kernels, require_small_files
from cycleqd_merge.merging.json_files import read_json
from cycleqd_merge.merging.mergekit_logging import root_logger_kept
from cycleqd_merge.merging.mergekit_models import model_config, tensor_index
from cycleqd_merge.merging.missing_files import require_folder, require_full_model
from cycleqd_merge.merging.name_map import NameMap, build_name_map, left_out, renaming, vocabulary_tensors
from cycleqd_merge.merging.weight_files import chosen_weights, index_file, weight_files

_LISTED = 5
"""Files that a message lists."""
_CLOCK_TICK = 20_000_000
"""Nanoseconds within which a file system may give two changes of a file the same time."""


@dataclass(frozen=True)
class Weight:
    """One tensor of an architecture: mergekit's description plus shape and dtype in the base checkpoint."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    aliases: tuple[str, ...] = ()
    vocabulary_axis: int | None = None
    ties: tuple[str, ...] = ()
    """Other tensors of the base checkpoint, under whose names a checkpoint that ties them to this one stores it."""

    @property
    def is_matrix(self) -> bool:
        """Whether it has singular directions (flattened to output x rest), and so can be mutated."""
        return len(self.shape) >= 2 and self.dtype.is_floating_point and self.shape[0] > 1 and prod(self.shape[1:]) > 1


class Checkpoint:
    """A full checkpoint: its folder, configuration and tensors.

    folder: of its copy in a different vocabulary, which is read instead of the reference's own files (see
    `union_models`). digest: that copy's.

    Raises:
        ModelError: it cannot be found, holds no safetensors, is quantised, or a shard is missing.
        HubRefused: it cannot be downloaded.
    """

    def __init__(
        self, reference: ModelReference, models: ModelsConfig, folder: Path | None = None, digest: str | None = None
    ) -> None:
        self.reference, self._digest, self._trust_remote_code = reference, digest, models.trust_remote_code
        require_folder(reference.model, f"model {reference.model}")
        try:
            self.path = folder or model_folder(reference.model, models, f"model {reference.model}")
            require_full_model(self.path, f"model {reference.model}")
            require_small_files(self.path)
            missing = [name for name in weight_files(self.path) if not (self.path / name).is_file()]
            index = None if missing else tensor_index(str(self.path))
            require_configuration(self.path / "config.json", len(index.tensor_paths) if index else None)
            if not models.trust_remote_code:
                require_no_kernels(self.path / "config.json")
            here = ModelReference(model=ModelPath(path=str(self.path)))
            self.config: PretrainedConfig = model_config(here, models.trust_remote_code)
        except CycleQDError:
            raise
        except Exception as error:  # the files may be anybody's, and custom code may raise anything
            if "trust_remote_code" in str(error) and not models.trust_remote_code:
                raise ModelError(
                    f"model {reference.model}: requires Python code that its repository contains; read that code, then "
                    "allow it with `models.trust_remote_code: true`"
                ) from error
            raise ModelError(f"model {reference.model}: cannot be opened: {first_line(error)}") from error
        quantised = getattr(self.config, "quantization_config", None)
        if quantised is not None:
            method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised.quant_method
            raise ModelError(
                f"model {reference.model}: is quantised ({method}); merging needs 16-bit or 32-bit weights"
            )
        if index is None:
            listed = ", ".join(missing[:_LISTED]) + (f" and {len(missing) - _LISTED} more" * (len(missing) > _LISTED))
            raise ModelError(f"model {reference.model}: {listed} is in its index but not in {self.path}")
        self._loader = LazyTensorLoader(index)

    @property
    def stock_problem(self) -> str | None:
        """Why stock mergekit, which prefers an index and requires `architectures`, cannot read it; None if it can."""
        stated = (read_json(self.path / "config.json") or {}).get("architectures")
        if stated != self.config.architectures:
            return f"config.json: architectures is {json.dumps(stated)}"
        names = {path.name for path in self.path.iterdir()}
        chosen = chosen_weights(names) or ""
        return f"{index_file(chosen)} is next to {chosen}" if index_file(chosen) in names else None

    @cached_property
    def ties_embeddings(self) -> bool:
        """Whether input and output embedding are one tensor."""
        return bool(getattr(self.config.get_text_config(), "tie_word_embeddings", self.config.tie_word_embeddings))

    @property
    def names(self) -> list[str]:
        """Names of the stored tensors, shard by shard."""
        return list(self._loader.index.tensor_paths)

    @property
    def is_copy(self) -> bool:
        """Whether it is the reference's copy in a different vocabulary."""
        return self._digest is not None

    @property
    def shards(self) -> Mapping[str, str]:
        """The file of each stored tensor."""
        return dict(self._loader.index.tensor_paths)

    def stored_name(self, weight: Weight) -> str | None:
        """The name of `weight` in this checkpoint, or None if it is absent."""
        paths = self._loader.index.tensor_paths
        ties = weight.ties if self.ties_embeddings else ()
        names = (weight.name, *weight.aliases, *ties)
        return next((name for name in names if name in paths), None) or self._other_name(names)

    def _other_name(self, names: Sequence[str]) -> str | None:
        """A stored tensor that transformers loads to the same place as one of `names`, or ties to it; None if none."""
        try:
            pairs = [*self.empty_model.all_tied_weights_keys.items()]
        except ModelError:
            return None
        tied = [other for pair in pairs for name, other in (pair, pair[::-1]) if name in names]
        places = (self._renamed(name) for name in (*names, *tied))
        return next((self._places[place] for place, rule in places if rule is None and place in self._places), None)

    @cached_property
    def _renamed(self) -> Callable[[str], tuple[str, str | None]]:
        return renaming(self.empty_model)[0]

    @cached_property
    def _places(self) -> Mapping[str, str]:
        """The names of the stored tensors by their places in transformers' model, without those that it converts."""
        places = ((name, *self._renamed(name)) for name in self.names)
        return {place: name for name, place, rule in places if rule is None}

    @cached_property
    def empty_model(self) -> PreTrainedModel:
        """The transformers model, built without weights.

        Raises:
            ModelError: transformers cannot build it.
        """
        config = copy.deepcopy(self.config)
        try:
            with torch.device("meta"):
                model: PreTrainedModel = self.auto_class.from_config(config, trust_remote_code=self._trust_remote_code)
                return model
        except Exception as error:  # custom code may raise anything
            raise ModelError(
                f"model {self.reference.model}: transformers cannot build it: {first_line(error)}"
            ) from error

    def left_out(self, tensors: Mapping[str, torch.Tensor]) -> frozenset[str]:
        """The names of those tensors that are no part of this model, see `left_out`; none if it cannot be built."""
        try:
            return left_out(self.empty_model, tensors) if tensors else frozenset()
        except ModelError:  # `name_map` reports it
            return frozenset()

    def _tied_copies(self, tensors: Mapping[str, torch.Tensor]) -> frozenset[str]:
        """The names of tensors that are equal to the one that the model ties them to; some tools save both.

        A child has only the other one: transformers would not tie two that differ, as mutations may make them.
        """
        if not self.ties_embeddings:
            return frozenset()
        try:
            ties, places = self.empty_model.all_tied_weights_keys, self._places
        except ModelError:  # `name_map` reports it
            return frozenset()
        pairs = [(places[tied], places[other]) for tied, other in ties.items() if {tied, other} <= places.keys()]
        return frozenset(tied for tied, other in pairs if torch.equal(tensors[tied], tensors[other]))

    def read(self, name: str) -> torch.Tensor:
        """A stored tensor, memory-mapped, in its own dtype.

        Raises:
            ModelError: the file is truncated or damaged, or the tensor is a quantised weight.
        """
        try:
            with root_logger_kept():
                tensor = self._loader.get_tensor(name)
        except (SafetensorError, OSError) as error:
            shard = self.path / self._loader.index.tensor_paths[name]
            raise ModelError(f"{shard}: damaged or truncated: {first_line(error)}") from error
        if _is_packed(name, tensor):
            stored = str(tensor.dtype).removeprefix("torch.")
            raise ModelError(
                f"model {self.reference.model}: {name} is stored as {stored}, though its configuration states no "
                "quantisation; merging needs 16-bit or 32-bit weights"
            )
        return tensor

    @cached_property
    def weights(self) -> tuple[Weight, ...]:
        """The tensors of this checkpoint in its own order, as mergekit describes its architecture.

        No architecture is hard-coded here: mergekit defines it or infers it from the checkpoint. Buffers and other
        tensors that transformers neither loads nor saves are left out, and so are not in a child; nor are second copies
        of tied tensors.
        """
        weights = []
        tensors = {name: self.read(name) for name in self.names}
        extra = self.left_out(tensors) | self._tied_copies(tensors)
        separate = set() if self.ties_embeddings else set(self.names)
        for name, tensor in tensors.items():
            if name in extra:
                continue
            info = self._described.get(name) or WeightInfo(name=name)
            ties = separate.intersection(info.tied_names or ()) - {name}
            aliases = {name, *(info.aliases or ()), *(info.tied_names or ())} - {info.name} - ties
            weights.append(
                Weight(
                    name=info.name,
                    shape=tuple(tensor.shape),
                    dtype=tensor.dtype,
                    aliases=tuple(sorted(aliases)),
                    vocabulary_axis=info.vocabulary_axis,
                    ties=tuple(sorted(ties)),
                )
            )
        return tuple(weights)

    @cached_property
    def _described(self) -> Mapping[str, WeightInfo]:
        """mergekit's description of each tensor, by all of its names; some of its architectures list buffers too."""
        found: dict[str, WeightInfo] = {}
        if arch_info_for_config(self.config) is None:
            _ = self.empty_model  # if it cannot be built, mergekit would log tracebacks
        for info in _architecture(self.path, self.config, self._trust_remote_code):
            found |= dict.fromkeys((info.name, *(info.aliases or ())), info)
        if all(info.vocabulary_axis is None for info in found.values()):  # mergekit cannot build the model
            for name in vocabulary_tensors(self.empty_model, self.names):
                found[name] = WeightInfo(name=name, vocabulary_axis=0)
        return found

    @property
    def described_names(self) -> Collection[str]:
        """The names of all tensors that mergekit expects of its architecture, whether they exist or not."""
        return self._described.keys()

    @cached_property
    def tied(self) -> Mapping[str, str]:
        """By the name of each tensor that the model ties to another (`tie_word_embeddings`): the name of that."""
        if not self.ties_embeddings:
            return {}
        try:
            ties = self.empty_model.all_tied_weights_keys
            return {name: self.name_map.stored_name(other) or other for name, other in ties.items()}
        except ModelError:  # `name_map` reports it
            return {}

    @cached_property
    def known_names(self) -> frozenset[str]:
        """The names of its tensors, and those that mergekit's description has for them."""
        return frozenset(name for weight in self.weights for name in (weight.name, *weight.aliases))

    @cached_property
    def auto_class(self) -> Any:
        """transformers' class that loads it: of the architecture that it names, else of causal language models."""
        named = (self.config.architectures or [""])[0]
        for known in (AutoModelForCausalLM, AutoModelForImageTextToText):
            loads: Any = known._model_mapping.get(type(self.config), None)
            if loads is not None and named == loads.__name__:
                return known
        return AutoModelForCausalLM

    @cached_property
    def name_map(self) -> NameMap:
        """Where its tensors are in the transformers model, which is built without weights.

        Raises:
            ModelError: transformers cannot build the model, or loads a tensor in a way that no exchange in place can
                follow; see `build_name_map`.
        """
        stored = {self.stored_name(weight) or weight.name: weight for weight in self.weights}
        return build_name_map(self.empty_model, stored)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the safetensors files, in the order of their names."""
        return self._digest or digest_files(self.files)

    @property
    def digested(self) -> list[Path]:
        """The files that `digest` covers; none of a copy."""
        return [] if self.is_copy else self.files

    @property
    def files(self) -> list[Path]:
        """Its safetensors files, in the order of their names."""
        return sorted({self.path / shard for shard in self._loader.index.tensor_paths.values()})


def _is_packed(name: str, tensor: torch.Tensor) -> bool:
    """Whether a tensor is a quantised weight: a float below 16 bits, or a matrix of integers named as a weight."""
    if tensor.dtype.is_floating_point:
        return tensor.element_size() < 2
    return tensor.dtype != torch.bool and tensor.ndim >= 2 and name.endswith(("weight", "weight_packed"))


def _architecture(folder: Path, config: PretrainedConfig, trust_remote_code: bool) -> list[WeightInfo]:
    model, options = (
        ModelReference(model=ModelPath(path=str(folder))),
        MergeOptions(trust_remote_code=trust_remote_code),
    )
    with root_logger_kept():
        architecture = arch_info_for_config(config) or infer_architecture_info((model,), model, options)
        try:
            return architecture.all_weights(config)
        except (RuntimeError, AttributeError):  # its description is of a different layout of the configuration
            return []


def digest_files(paths: list[Path]) -> str:
    """SHA-256 over the contents of `paths`; cached per file and version of it, see `file_version`."""
    total = hashlib.sha256()
    for path in paths:
        total.update(digest_file(path).encode())
    return total.hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 over a file's contents, cached; see `digest_files`."""
    from cycleqd_merge.cache import cache_folder

    if abs(time.time_ns() - path.stat().st_ctime_ns) < _CLOCK_TICK:  # written again now, it could get the same times
        time.sleep(_CLOCK_TICK / 1e9)
    version = file_version(path)
    key = hashlib.sha256(version.encode()).hexdigest()
    cached = cache_folder("digests") / key
    if (stored := read_entry(cached)) is not None:
        return stored
    digest = sha256_of(path)
    if file_version(path) == version:  # else it has been written in the meantime
        write_entry(cached, digest)
    return digest
