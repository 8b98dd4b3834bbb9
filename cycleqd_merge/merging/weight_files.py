"""Which files of a model's folder hold its weights: the ones that transformers loads, whatever else is next to them."""

from __future__ import annotations

import json
from collections.abc import Container
from pathlib import Path

SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"


def index_file(name: str) -> str:
    """The name of the index of a file that is stored in shards."""
    return f"{name}.index.json"


def chosen_weights(names: Container[str]) -> str | None:
    """The file or index that transformers loads if a folder holds files of these names; None if there is none.

    A single file comes before an index, which may be left over from an earlier save, and safetensors before pickles.
    """
    order = (SAFETENSORS, index_file(SAFETENSORS), PICKLE, index_file(PICKLE))
    return next((name for name in order if name in names), None)


def weight_files(folder: Path) -> list[str]:
    """The names of the files that transformers loads from a folder, in the order in which it loads them.

    Raises:
        FileNotFoundError: there are none.
        ValueError, LookupError, TypeError: the index is broken.
    """
    chosen = chosen_weights({path.name for path in folder.iterdir() if path.is_file()})
    if chosen is None:
        raise FileNotFoundError(f"no {SAFETENSORS}, nor an index of shards, in {folder}")
    if not chosen.endswith(".index.json"):
        return [chosen]
    shards = sorted(set(weight_map(folder / chosen).values()))
    if not shards:
        raise ValueError(f"{folder / chosen} names no tensors")
    return shards


def weight_map(index: Path) -> dict[str, str]:
    """An index's files by tensor name.

    Raises:
        ValueError, LookupError, TypeError: it is broken.
    """
    found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise ValueError(f"{index}: `weight_map` is not a map from names to files")
    return found
