"""Find a model's files, downloading them from the Hub if necessary. Pickles are opened only where the recipe allows."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import torch
from filelock import FileLock
from huggingface_hub import constants
from mergekit.common import ModelPath

from cycleqd_merge.cache import cache_folder
from cycleqd_merge.config.model_names import hub_id
from cycleqd_merge.config.recipe import ModelsConfig, PinnedModels
from cycleqd_merge.errors import HubRefused, ModelError
from cycleqd_merge.files import new_folder, remove_leftovers
from cycleqd_merge.hub_errors import hub_errors, hub_reason
from cycleqd_merge.merging.mergekit_references import model_reference

DownloadProgress = Callable[[str, int, int], None]
"""Called with a repository's id, the bytes downloaded so far, and the total."""

_SMALL = (".json", ".txt", ".jinja", ".model", ".tiktoken", ".spm")
_PARALLEL = 8


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
    if any(folder.glob("*.safetensors*")) or not any(folder.glob("pytorch_model*.bin*")):
        return folder
    if not models.pickles:
        raise ModelError(_only_pickles(label))
    return _converted(folder)


def adapter_folder(path: ModelPath, models: ModelsConfig, label: str, progress: DownloadProgress | None = None) -> Path:
    """As `model_folder`, for an adapter.

    Raises:
        ModelError: it contains only pickles.
        HubRefused: there is no such repository, or it cannot be downloaded.
    """
    return Path(path.path) if hub_id(path.path) is None else _fetched(path, models, label, True, progress)


def pending_download(path: ModelPath, models: ModelsConfig, label: str, adapter: bool = False) -> Download | None:
    """The files that opening a Hub id would download; None if none, or if the model is cached and the Hub unreachable.

    Raises:
        ModelError: it contains only pickles and the recipe does not allow them.
        HubRefused: there is no such repository, or it cannot be read.
    """
    if hub_id(path.path) is None or constants.is_offline_mode():
        return None
    try:
        names = huggingface_hub.list_repo_files(path.path, revision=path.revision)
        needed = needed_files(names, models, label, adapter)
        found = huggingface_hub.snapshot_download(
            path.path, revision=path.revision, allow_patterns=[_exactly(name) for name in needed], dry_run=True
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
    weights = [name for name in root if name.endswith(".safetensors")]
    start = "adapter_model" if adapter else "model"
    weights = [name for name in weights if name.startswith(start)] or weights
    if not weights:
        weights = [name for name in root if name.startswith(("pytorch_model", "adapter_model")) and ".bin" in name]
        if weights and (adapter or not models.pickles):
            raise ModelError(_only_pickles(label))
    endings = (*_SMALL, ".py") if models.trust_remote_code else _SMALL
    return [*weights, *(name for name in root if name.endswith(endings) and name not in weights)]


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
    with hub_errors(label, HubRefused), ThreadPoolExecutor(_PARALLEL) as pool:
        running = {
            pool.submit(huggingface_hub.hf_hub_download, wanted.repo, name, revision=wanted.revision): bytes_
            for name, bytes_ in wanted.files.items()
        }
        if progress is not None:
            progress(wanted.repo, 0, wanted.bytes)
        for finished in as_completed(running):
            finished.result()
            done += running[finished]
            if progress is not None:
                progress(wanted.repo, done, wanted.bytes)


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


def _converted(folder: Path) -> Path:
    """A copy of a model with its pickles converted to safetensors. They are read as weights only: no code in them runs.

    Raises:
        ModelError: they contain more than weights, or are damaged.
    """
    shards = sorted(folder.glob("pytorch_model*.bin"))
    key = hashlib.sha256("|".join(f"{path.resolve()}:{path.stat().st_size}" for path in shards).encode())
    target = cache_folder("converted") / key.hexdigest()[:32]
    with FileLock(f"{target}.lock"):
        if not target.is_dir():
            _convert(folder, shards, target)
    return target


def _convert(folder: Path, shards: Sequence[Path], target: Path) -> None:
    remove_leftovers(target)
    with new_folder(target) as unfinished:
        try:
            tensors: dict[str, torch.Tensor] = {}
            for shard in shards:
                tensors |= torch.load(shard, map_location="cpu", mmap=True, weights_only=True)
            huggingface_hub.save_torch_state_dict(tensors, unfinished)
        except Exception as error:  # a damaged or hostile pickle may raise anything
            what = "its pickles contain more than weights, or are damaged"
            raise ModelError(f"{folder}: {what}: {type(error).__name__}") from error
        for path in folder.iterdir():
            if path.is_file() and ".bin" not in path.name:
                shutil.copy(path, unfinished)
