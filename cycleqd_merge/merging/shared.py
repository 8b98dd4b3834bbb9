"""Host memory shared by all workers of a host: the first to need an item stores it, the others map it.

Each item is a safetensors file in memory (`/dev/shm`). A folder is in use while any process holds its lock, which the
system releases when the process dies; `remove_unused` frees the folders that are not in use.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import IO, Any

import torch
from filelock import FileLock
from safetensors.torch import save_file

from cycleqd_merge.files import new_file
from cycleqd_merge.merging.adapter import LowRank
from cycleqd_merge.merging.family import Whole
from cycleqd_merge.merging.singular import Basis

log = logging.getLogger(__name__)

MEMORY = Path("/dev/shm")
SPARE = 2**30
"""Bytes of it that are left free for other programs."""
_PREFIX = f"cycleqd-{os.getuid()}-" if hasattr(os, "getuid") else "cycleqd-"
_BARE = "item"  # the name of a tensor that is not a field of a dataclass
_KINDS = {kind.__name__: kind for kind in (Whole, LowRank, Basis)}
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class SharedMemory:
    """Tensors, and dataclasses of tensors, by name.

    key: identifies what they are computed from. pin: page-lock them, for transfers to a GPU.
    """

    def __init__(self, key: str, pin: bool) -> None:
        remove_unused()
        self._folder = MEMORY / (_PREFIX + hashlib.sha256(key.encode()).hexdigest()[:24])
        self._pin = pin
        self._lock = _hold(self._folder)
        self._full = False

    def get(self, name: str, read: Callable[[], Any]) -> Any:
        """The item stored under `name`; the first process to ask for it stores the result of `read`.

        If the shared memory is full, the result of `read` itself is returned, which may be mapped from a file.
        """
        path = self._folder / hashlib.sha256(name.encode()).hexdigest()[:24]
        if not path.exists():
            with FileLock(f"{path}.lock"):
                if not path.exists():
                    item = read()
                    if not self._fits(item):
                        return item
                    _write(item, path)
        return self._mapped(path)

    def _fits(self, item: Any) -> bool:
        needed = sum(tensor.nbytes for tensor in _tensors(item).values())
        if needed + SPARE > shutil.disk_usage(self._folder).free:
            if not self._full:
                log.warning("%s is full: from now on, experts are read from their files for every child", MEMORY)
            self._full = True
        return not self._full

    def _mapped(self, path: Path) -> Any:
        size = path.stat().st_size
        whole = torch.from_file(str(path), shared=True, size=size, dtype=torch.uint8)
        if self._pin:
            cudart = torch.cuda.cudart()
            status = int(cudart.cudaHostRegister(whole.data_ptr(), size, 0))
            if status:
                raise RuntimeError(f"cudaHostRegister failed with {status} on {size} bytes of shared memory")
        return _item(whole)


def _hold(folder: Path) -> IO[str]:
    """Mark `folder` as in use; returns the open lock file."""
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            lock = (folder / "in-use").open("w")
        except FileNotFoundError:
            continue  # another process removed the folder in between
        fcntl.flock(lock, fcntl.LOCK_SH)
        if (folder / "in-use").exists():
            return lock
        lock.close()


def shared_memory_bytes() -> int:
    """Total bytes of the host's shared memory; 0 if it has none."""
    return shutil.disk_usage(MEMORY).total if MEMORY.is_dir() else 0


def remove_unused() -> None:
    """Free the folders that no living process uses."""
    for folder in MEMORY.glob(f"{_PREFIX}*"):
        try:
            with (folder / "in-use").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
        except OSError:  # in use, or just removed by another process
            continue


def _tensors(item: Any) -> dict[str, torch.Tensor]:
    if item is None:
        return {}
    if isinstance(item, torch.Tensor):
        return {_BARE: item}
    values = {field.name: getattr(item, field.name) for field in fields(item)}
    return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}


def _scalars(item: Any) -> dict[str, Any]:
    if item is None or isinstance(item, torch.Tensor):
        return {}
    tensors = _tensors(item)
    return {field.name: getattr(item, field.name) for field in fields(item) if field.name not in tensors}


def _rebuilt(kind: str, values: dict[str, Any]) -> Any:
    if kind in _KINDS:
        return _KINDS[kind](**values)
    return values.get(_BARE)


def _write(item: Any, path: Path) -> None:
    metadata = json.dumps({"kind": type(item).__name__, "scalars": _scalars(item)})
    tensors = {name: tensor.cpu().contiguous() for name, tensor in _tensors(item).items()}
    with new_file(path) as unfinished:
        save_file(tensors, unfinished, metadata={"item": metadata})


def _item(whole: torch.Tensor) -> Any:
    """The item in a mapped safetensors file, without a copy."""
    start = 8 + int.from_bytes(whole[:8].numpy().tobytes(), "little")
    header = json.loads(whole[8:start].numpy().tobytes())
    metadata = json.loads(header.pop("__metadata__")["item"])
    values = dict(metadata["scalars"])
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensor = whole[start + begin : start + end].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
        values[name] = tensor
    return _rebuilt(metadata["kind"], values)
