"""Which files of a model's folder hold its weights: the ones that transformers loads, whatever else is next to them."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

from cycleqd_merge.errors import brief
from cycleqd_merge.merging.json_files import read_json

SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
_LONGEST, _MOST_SHARDS = 255, 10_000
"""Characters of a shard's name, and number of shards, that are accepted."""


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
    found = read_json(index)["weight_map"]
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise ValueError(f"{index}: `weight_map` is not a map from names to files")
    ending = Path(index.name.removesuffix(index_file(""))).suffix
    shards = set(found.values())
    for name in sorted(shards):
        if not name.endswith(ending) or not name.isprintable() or len(name) > _LONGEST or set(name) & set("/\\"):
            raise ValueError(f"{index.name} names {brief(name)!r}, not a *{ending} file next to it")
    if len(shards) > _MOST_SHARDS:
        raise ValueError(f"{index.name} names {len(shards)} files; at most {_MOST_SHARDS} are read")
    return found
