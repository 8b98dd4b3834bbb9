"""Models that cannot be opened because a folder or file is missing: one line that says which, and what to do."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from cycleqd_merge.config.model_names import hub_id
from cycleqd_merge.errors import ModelError

if TYPE_CHECKING:  # imports torch
    from mergekit.common import ModelPath

ADAPTER_CONFIG = "adapter_config.json"
_SHOWN = 5
"""Names of a folder's contents that a message lists."""


def require_folder(reference: ModelPath, label: str) -> None:
    """Check that the folder of a reference exists, unless it may be an id on the Hub.

    Raises:
        ModelError: there is no such folder; the message names the nearest one that exists.
    """
    if hub_id(reference.path) is None and not Path(reference.path).is_dir():
        raise ModelError(f"{label}: no such folder{nearest(Path(reference.path))}")


def nearest(path: Path) -> str:
    """A hint at the folder that was meant, for the end of a message; empty if there is none."""
    if path.is_file():
        return f"; {path} is a file"
    missing = next((each for each in (path, *path.parents) if each.parent.is_dir() and not each.exists()), None)
    if missing is None:
        return ""
    folders = sorted(each.name for each in missing.parent.iterdir() if each.is_dir() and not each.name.startswith("."))
    similar = difflib.get_close_matches(missing.name, folders, n=1)
    if similar:
        meant = missing.parent / similar[0] / path.relative_to(missing)
        return f"; did you mean {meant if meant.is_dir() else missing.parent / similar[0]}?"
    listed = ", ".join(folders[:_SHOWN]) + (", ..." if len(folders) > _SHOWN else "")
    return f"; {missing.parent} contains {f'the folders {listed}' if folders else 'no folders'}"


_POINTER = b"version https://git-lfs"


def require_full_model(folder: Path, label: str) -> None:
    """Check that a folder has a configuration and the weights of a full model.

    Raises:
        ModelError: it is an adapter, or a file is missing.
    """
    weights = [*folder.glob("*.safetensors*"), *folder.glob("pytorch_model*.bin*")]
    if (folder / ADAPTER_CONFIG).is_file() and all(path.name.startswith("adapter_") for path in weights):
        hint = f"write it with its base, as `base+adapter`{_on(folder)}"
        raise ModelError(f"{label}: an adapter, not a full model; {hint}")
    if not weights and any(folder.glob("*.gguf")):
        raise ModelError(f"{label}: contains GGUF files only; use the model's safetensors instead")
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    missing += [] if weights else ["weights (*.safetensors)"]
    if missing:
        raise ModelError(f"{label}: no {' and no '.join(missing)} in {folder}; download or save the model again")
    pointer = next((path for path in weights if _is_pointer(path)), None)
    if pointer is not None:
        raise ModelError(f"{label}: {pointer.name} is a pointer of Git LFS, not the weights; run `git lfs pull` in it")


def _is_pointer(path: Path) -> bool:
    """Whether a file is what `git clone` leaves in place of a large file without Git LFS."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def _on(folder: Path) -> str:
    """The base that an adapter records, as a hint; empty if it records none."""
    try:
        base = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        return ""
    return f" (it was trained on {base})" if base else ""
