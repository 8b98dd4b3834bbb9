"""Find a model's files, downloading them from the Hub if necessary. Pickles are opened only where the recipe allows."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from zipfile import is_zipfile

import huggingface_hub
import torch
from huggingface_hub import constants
from mergekit.common import ModelPath
from safetensors.torch import save_file

from cycleqd_merge.cache import cache_folder
from cycleqd_merge.config.model_names import hub_id
from cycleqd_merge.config.recipe import ModelsConfig, PinnedModels
from cycleqd_merge.errors import HubRefused, ModelError, first_line
from cycleqd_merge.files import file_version
from cycleqd_merge.hub_errors import ending_waits, hub_errors, hub_reason, repeated
from cycleqd_merge.merging.cached_folders import cached_folder
from cycleqd_merge.merging.mergekit_references import model_reference
from cycleqd_merge.merging.weight_files import PICKLE, SAFETENSORS, chosen_weights, weight_files

Save = Callable[[dict[str, torch.Tensor], Path], None]
DownloadProgress = Callable[[str, int, int], None]
"""Called with a repository's id, the bytes downloaded so far, and the total."""

_SMALL = (".json", ".txt", ".jinja", ".model", ".tiktoken", ".spm")
_MODEL_CODE = ("configuration_", "modeling_", "tokenization_", "processing_", "image_processing_")
"""Beginnings of the usual names of a model's own modules: they belong to its copies even where they are not run."""
_FOLDERS = ("additional_chat_templates/", "custom_generate/")
_PARALLEL = 8
_ADAPTER = "adapter_model"


@dataclass(frozen=True)
class Download:
    """The files of a repository that must still be downloaded, with their sizes in bytes."""

    repo: str
    revision: str | None
    files: dict[str, int]

    @property
    def bytes(self) -> int:
        """The total size."""
        return sum(self.files.values())


def model_folder(path: ModelPath, models: ModelsConfig, label: str, progress: DownloadProgress | None = None) -> Path:
    """The folder of a full model: the path itself, or a Hub id's folder in the Hub's cache, downloaded if necessary.

    label: the model in error messages, such as `model user/base`.

    Raises:
        ModelError: it contains only pickles and the recipe does not allow them, or they cannot be converted.
        HubRefused: there is no such repository, or it cannot be downloaded.
    """
    folder = Path(path.path) if hub_id(path.path) is None else _fetched(path, models, label, False, progress)
    chosen = chosen_weights({file.name for file in folder.iterdir()})
    if chosen is None or not chosen.startswith(PICKLE):
        return folder
    if not models.pickles:
        raise ModelError(_only_pickles(label))
    return _converted(folder, _pickles(folder), huggingface_hub.save_torch_state_dict)


def adapter_folder(path: ModelPath, models: ModelsConfig, label: str, progress: DownloadProgress | None = None) -> Path:
    """As `model_folder`, for an adapter.

    Raises:
        ModelError: it contains only pickles and the recipe does not allow them, or they cannot be converted.
        HubRefused: there is no such repository, or it cannot be downloaded.
    """
    folder = Path(path.path) if hub_id(path.path) is None else _fetched(path, models, label, True, progress)
    if (folder / f"{_ADAPTER}.safetensors").is_file() or not (folder / f"{_ADAPTER}.bin").is_file():
        return folder
    if not models.pickles:
        raise ModelError(_only_pickles(label))
    return _converted(folder, [folder / f"{_ADAPTER}.bin"], _save_adapter)


def pending_download(path: ModelPath, models: ModelsConfig, label: str, adapter: bool = False) -> Download | None:
    """The files that opening a Hub id would download; None if none, or if the model is cached and the Hub unreachable.

    Raises:
        ModelError: it contains only pickles and the recipe does not allow them.
        HubRefused: there is no such repository, or it cannot be read.
    """
    if hub_id(path.path) is None or constants.is_offline_mode():
        return None
    try:
        names = huggingface_hub.list_repo_files(path.path, revision=path.revision)  # repeats requests itself
        patterns = [_exactly(name) for name in needed_files(names, models, label, adapter)]
        found = repeated(
            label,
            lambda: huggingface_hub.snapshot_download(
                path.path, revision=path.revision, allow_patterns=patterns, dry_run=True
            ),
        )
    except Exception as error:
        line = hub_reason(error)
        if line is None:
            raise
        if _cached(path) is not None:
            return None
        raise HubRefused(f"{label}: {line}") from error
    missing = {each.filename: each.file_size or 0 for each in found if each.will_download}
    return Download(path.path, path.revision, missing) if missing else None


def needed_files(names: Sequence[str], models: ModelsConfig, label: str, adapter: bool) -> list[str]:
    """The files of a repository that are needed to open it: weights, configurations, tokenizer.

    Raises:
        ModelError: it contains only pickles and the recipe does not allow them.
    """
    root = [name for name in names if "/" not in name]
    chosen = chosen_weights(root)
    weights = [name for name in root if name.endswith(".safetensors")]
    start = "adapter_model" if adapter else "model"
    weights = [name for name in weights if name.startswith(start)] or weights
    if not weights or (not adapter and chosen is not None and chosen.startswith(PICKLE)):
        weights = [name for name in root if name.startswith(("pytorch_model", "adapter_model")) and ".bin" in name]
        if weights and not models.pickles:
            raise ModelError(_only_pickles(label))
    if not adapter and chosen in (SAFETENSORS, PICKLE):
        weights = [chosen]
    small = [name for name in names if name.startswith(_FOLDERS)] + [name for name in root if name not in weights]
    return [*weights, *(name for name in small if _is_small(name, models))]


def _is_small(name: str, models: ModelsConfig) -> bool:
    """Whether a file is one of those besides the weights that a model, or a copy of it, may need."""
    if name.endswith(".py"):
        return models.trust_remote_code or name.startswith(_MODEL_CODE)
    return name.endswith(_SMALL) or ".model.v" in name  # such as tokenizer.model.v3


def _fetched(
    path: ModelPath, models: ModelsConfig, label: str, adapter: bool, progress: DownloadProgress | None
) -> Path:
    """The folder of a Hub id in the Hub's cache, with all files that are needed."""
    missing = pending_download(path, models, label, adapter)
    if missing is not None:
        _download(missing, label, progress)
    folder = _cached(path)
    if folder is None:
        raise HubRefused(f"{label}: not in the cache, and the Hub cannot be reached (is HF_HUB_OFFLINE set?)")
    return folder


def _cached(path: ModelPath) -> Path | None:
    try:
        return Path(huggingface_hub.snapshot_download(path.path, revision=path.revision, local_files_only=True))
    except (OSError, ValueError) as error:
        found = getattr(error, "snapshot_path", None)  # set if the repository has files that are not cached
        return None if found is None else Path(found)


def _download(wanted: Download, label: str, progress: DownloadProgress | None) -> None:
    done = 0
    with hub_errors(label, HubRefused), ThreadPoolExecutor(_PARALLEL) as pool, ending_waits():
        running = {pool.submit(_download_file, wanted, name, label): bytes_ for name, bytes_ in wanted.files.items()}
        if progress is not None:
            progress(wanted.repo, 0, wanted.bytes)
        for finished in as_completed(running):
            finished.result()
            done += running[finished]
            if progress is not None:
                progress(wanted.repo, done, wanted.bytes)


def _download_file(wanted: Download, name: str, label: str) -> str:
    return repeated(label, lambda: huggingface_hub.hf_hub_download(wanted.repo, name, revision=wanted.revision))


def hub_models(models: PinnedModels) -> list[tuple[ModelPath, str, bool]]:
    """The base, experts and adapters that are Hub ids, each once: its path, its label, whether it is an adapter."""
    found: dict[ModelPath, tuple[ModelPath, str, bool]] = {}
    for text in (models.base, *models.experts.values()):
        reference = model_reference(text)
        for path, kind in ((reference.model, "model"), (reference.lora, "adapter")):
            if path is not None and hub_id(path.path) is not None:
                found.setdefault(path, (path, f"{kind} {path}", kind == "adapter"))
    return list(found.values())


def fetch(models: PinnedModels, progress: DownloadProgress | None = None) -> None:
    """Download the files of a recipe's models, so that opening them finds everything in the cache.

    Raises:
        UserError: see `model_folder`.
    """
    for path, label, adapter in hub_models(models):
        opened = adapter_folder if adapter else model_folder
        opened(path, models.settings, label, progress)


def _exactly(name: str) -> str:
    """A pattern that matches exactly this name."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _only_pickles(label: str) -> str:
    return f"{label}: contains only pickles; convert it to safetensors first, or allow them with `models.pickles: true`"


def _pickles(folder: Path) -> list[Path]:
    """A full model's pickles, in the order in which transformers loads them.

    Raises:
        ModelError: its index is broken, or names a file that does not exist.
    """
    try:
        shards = [folder / name for name in weight_files(folder)]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ModelError(f"{folder}: its index of pickles is broken: {first_line(error)}") from error
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise ModelError(f"{folder}: {', '.join(missing)} is in its index but not in the folder")
    return shards


def _converted(folder: Path, shards: Sequence[Path], save: Save) -> Path:
    """A copy of a model with its pickles converted to safetensors. They are read as weights only: no code in them runs.

    save: writes their tensors to a folder.

    Raises:
        ModelError: they contain more than weights, or are damaged.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file())
    key = hashlib.sha256("|".join(file_version(path) for path in files).encode())
    target = cache_folder("converted") / key.hexdigest()[:32]
    return cached_folder(target, lambda unfinished: _convert(folder, shards, unfinished, save))


def _convert(folder: Path, shards: Sequence[Path], unfinished: Path, save: Save) -> None:
    try:
        tensors: dict[str, torch.Tensor] = {}
        for shard in shards:
            tensors |= torch.load(shard, map_location="cpu", mmap=is_zipfile(shard), weights_only=True)
        save(tensors, unfinished)
    except Exception as error:  # a damaged or hostile pickle may raise anything
        what = "its pickles contain more than weights, or are damaged"
        raise ModelError(f"{folder}: {what}: {type(error).__name__}") from error
    for path in folder.iterdir():
        if path.is_file() and not path.name.endswith((".bin", ".bin.index.json", ".safetensors")):
            shutil.copy(path, unfinished)
    for name in _FOLDERS:
        if (folder / name).is_dir():
            shutil.copytree(folder / name, unfinished / name)


def _save_adapter(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """Write an adapter's tensors; those that share memory (tied layers) are all kept."""
    save_file(
        {name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / f"{_ADAPTER}.safetensors"
    )
