"""Limits on the configurations and tokenizers of models, which anybody may have written.

They are checked before a library parses the files: a number of layers costs memory and hours, and no library limits it.
The limits are several times what the largest models have.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from cycleqd_merge.bounded import Bounds, LimitExceeded, call
from cycleqd_merge.errors import brief, printable
from cycleqd_merge.files import file_version
from cycleqd_merge.merging.json_files import read_json
from cycleqd_merge.merging.tokenizer_trial import problem_of

_MIB = 2**20
_SMALL_FILES = {
    "tokenizer.json": 128 * _MIB,
    "*.jinja": _MIB,
    **dict.fromkeys(
        ("*config.json", "*.index.json", "vocab.*", "merges.txt", "encoder.json", "tekken.json", "added_tokens.json"),
        64 * _MIB,
    ),
    **dict.fromkeys(("special_tokens_map.json", "chat_template.json", "*.model", "*.tiktoken", "*.spm"), 64 * _MIB),
}
"""Files that libraries read whole; others, such as the logs of a training, may have any size."""
_MOST_TEMPLATES = 100
_MOST_DEEP = 32
"""Levels of objects and lists in a configuration."""
_FEW_LAYERS, _MOST_LAYERS = 200, 1000
"""Layers of a model with few tensors, and of any; some configurations state a number that they do not use."""
_MOST_COUNTED = 1_000_000
_MOST_TENSORS, _LONGEST_NAME = 200_000, 1000
_TRIAL = Bounds(seconds=120.0, memory=6 * 2**30)
_LARGEST = 2**63
_KERNELS = ("attn_implementation", "attn_implementation_internal", "experts_implementation")
_EXPLICIT = 1e30  # written as it is in a message


def require_small_files(folder: Path) -> None:
    """Check the sizes of a model's files other than its weights.

    Raises:
        ValueError: one is too large; the message names it.
    """
    for pattern, most in _SMALL_FILES.items():
        large = next((path for path in folder.glob(pattern) if path.is_file() and path.stat().st_size > most), None)
        if large is not None:
            found = large.stat().st_size // _MIB
            raise ValueError(f"{large.name} has {found} MiB; at most {most // _MIB} MiB are read")
    templates = [*folder.glob("additional_chat_templates/*")]
    if len(templates) > _MOST_TEMPLATES or any(path.stat().st_size > _MIB for path in templates if path.is_file()):
        raise ValueError(f"additional_chat_templates has more than {_MOST_TEMPLATES} files, or one of more than 1 MiB")


def require_names(names: Collection[str]) -> None:
    """Check the names of a model's tensors: they are written in messages, and many would take hours to read.

    Raises:
        ValueError: there are too many, or one is too long or has control characters.
    """
    if len(names) > _MOST_TENSORS:
        raise ValueError(f"{len(names)} tensors; at most {_MOST_TENSORS} are read")
    wrong = next((name for name in names if len(name) > _LONGEST_NAME or not name.isprintable()), None)
    if wrong is not None:
        raise ValueError(f"a tensor is named {brief(wrong)!r}; rename it")


def require_configuration(path: Path, tensors: int | None = None) -> None:
    """Check the numbers of a model's or adapter's configuration. tensors: the number of tensors that the model stores.

    Raises:
        ValueError: it is not a JSON object, nested too deeply, or a number is too large; the message names the key.
    """
    config = read_json(path)
    if not isinstance(config, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    for keys, value in _values(config, path.name):
        if isinstance(value, int) and not isinstance(value, bool):
            _require_number(path.name, keys[-1], value, tensors)


def require_no_kernels(path: Path) -> None:
    """Check that a configuration names no code on the Hub: transformers downloads and runs such kernels by itself.

    Raises:
        ValueError: it does; the message names the key.
    """
    for keys, value in _values(read_json(path) or {}, path.name):
        if any(key.endswith(_KERNELS) for key in keys) and isinstance(value, str) and "/" in value:
            raise ValueError(
                f"{path.name}: {brief('.'.join(keys))} is {brief(value)!r}, which is code on the Hub; remove this key"
            )


def _require_number(file: str, key: str, value: int, tensors: int | None) -> None:
    most = _LARGEST
    if key.startswith(("num_", "n_")):
        most = _MOST_COUNTED
    if "layer" in key:
        most = _MOST_LAYERS if tensors is None else min(max(tensors, _FEW_LAYERS), _MOST_LAYERS)
    if value > most:
        shown = str(value) if value < _EXPLICIT else f"a number of {len(str(value))} digits"
        owner = "" if tensors is None else f" for a model of {tensors} tensors"
        raise ValueError(f"{file}: {brief(printable(key))} is {shown}; at most {most} is possible{owner}")


def _values(config: Mapping[str, Any], file: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every text and number in a configuration, with the keys that lead to it; places in lists have none.

    Raises:
        ValueError: it is nested too deeply.
    """
    pending: list[tuple[tuple[str, ...], Any, int]] = [((), config, 0)]
    while pending:
        keys, value, depth = pending.pop()
        if isinstance(value, dict | list):
            if depth == _MOST_DEEP:
                raise ValueError(f"{file}: nested more than {_MOST_DEEP} levels deep")
            entries = (
                (((*keys, key), each) for key, each in value.items())
                if isinstance(value, dict)
                else ((keys, each) for each in value)
            )
            pending.extend((path, each, depth + 1) for path, each in entries)
        else:
            yield keys, value


def require_tokenizer(folder: Path) -> None:
    """Check the sizes of the files of a model's tokenizer, and load it for a trial.

    Raises:
        ValueError: one is too large, or the tokenizer cannot be loaded within limits of time and memory.
    """
    require_small_files(folder)
    path = folder / "tokenizer.json"
    if path.is_file() and (problem := _tokenizer_problem(path, file_version(path))):
        raise ValueError(f"{path.name}: {brief(problem)}")


@lru_cache(maxsize=256)
def _tokenizer_problem(path: Path, version: str) -> str:
    """What is wrong with a tokenizer.json; empty if it can be loaded. version: of the file."""
    try:
        return call(_TRIAL, problem_of, str(path))
    except LimitExceeded as error:
        return f"loading it {error}"
