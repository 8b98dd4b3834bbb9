"""The singular bases of the experts: computed once per expert, kept on disk, the same for every later run.

One safetensors file per tensor, so a computation that was cut off goes on where it stopped and processes started by
`accelerate launch` share the work without talking.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from safetensors import safe_open
from safetensors.torch import save_file

from cycleqd_merge.merging.adapter import LowRank
from cycleqd_merge.merging.cache import cache_folder
from cycleqd_merge.merging.checkpoint import Weight, read_json
from cycleqd_merge.merging.family import Family
from cycleqd_merge.merging.singular import Basis, singular_basis

METHOD = "gram-float64/1"
Progress = Callable[[str, int, int], None]
"""Called with an expert's name, tensors done and tensors in all."""


class ExpertBases:
    """The stored bases of one expert, read one tensor at a time, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, str] = read_json(folder / "manifest.json")["files"]
        self.digest: str = hashlib.sha256(json.dumps(self._files, sort_keys=True).encode()).hexdigest()[:16]

    def load(self, name: str) -> Basis | None:
        """The basis of tensor `name`; None where the expert does not differ from the base."""
        if name not in self._files:
            return None
        with safe_open(self._folder / f"{name}.safetensors", framework="pt") as file:
            side = file.metadata()["side"]
            return Basis(file.get_tensor("vectors"), file.get_tensor("values"), side)


def this_process() -> PartialState:
    """This process among those started together; on the CPU where the launcher asked for it, as `Accelerator` does."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


def prepare_bases(family: Family, experts: Sequence[int], progress: Progress | None = None) -> dict[int, ExpertBases]:
    """Bases of the experts with the given numbers, from the cache or computed now.

    Under `accelerate launch` every process computes its share; all of them return when the last is done.
    """
    state = this_process()
    bases = {}
    for expert in experts:
        folder = basis_folder(family, expert)
        if not (folder / "manifest.json").is_file():
            _compute(family, expert, folder, state, progress)
            state.wait_for_everyone()
            if state.is_main_process:
                _write_manifest(folder, family)
            state.wait_for_everyone()
        bases[expert] = ExpertBases(folder)
    return bases


def basis_folder(family: Family, expert: int) -> Path:
    """The cache folder for one expert's bases; its name follows from the contents of base and expert."""
    key = f"{METHOD}|{family.base.digest}|{family.experts[expert].digest}|{family.models.vocabulary}"
    return cache_folder("bases") / hashlib.sha256(key.encode()).hexdigest()[:32]


def _compute(family: Family, expert: int, folder: Path, state: PartialState, progress: Progress | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    matrices = [weight for weight in family.weights if weight.is_matrix]
    with state.split_between_processes(matrices) as share:
        for done, weight in enumerate(share, start=1):
            compute_basis(family, expert, weight)
            if progress is not None and state.is_main_process:
                progress(family.experts[expert].name, done, len(share))


def missing_bases(family: Family, expert: int) -> list[Weight]:
    """The matrices of an expert whose bases a run would have to compute."""
    folder = basis_folder(family, expert)
    if (folder / "manifest.json").is_file():
        return []
    matrices = (weight for weight in family.weights if weight.is_matrix)
    return [weight for weight in matrices if not (folder / f"{weight.name}.safetensors").is_file()]


def compute_basis(family: Family, expert: int, weight: Weight) -> None:
    """Compute one basis and store it in the cache, unless it is there or the expert does not differ."""
    state = this_process()
    path = basis_folder(family, expert) / f"{weight.name}.safetensors"
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    vector = family.task_vector(expert, weight, family.base_tensor(weight))
    if vector is None:
        return
    if isinstance(vector, LowRank):
        vector = LowRank(vector.left.to(state.device), vector.right.to(state.device), vector.scale)
    else:
        vector = vector.to(state.device)
    basis = singular_basis(vector)
    unfinished = path.with_suffix(f".{os.getpid()}.part")
    tensors = {"vectors": basis.vectors.cpu(), "values": basis.values.cpu()}
    save_file(tensors, unfinished, metadata={"side": basis.side})
    unfinished.replace(path)


def _write_manifest(folder: Path, family: Family) -> None:
    """The list of files with their digests; its presence says that all of them are there."""
    files = {}
    for weight in family.weights:
        path = folder / f"{weight.name}.safetensors"
        if path.is_file():
            with path.open("rb") as file:
                files[weight.name] = hashlib.file_digest(file, "sha256").hexdigest()
    unfinished = folder / "manifest.json.part"
    unfinished.write_text(json.dumps({"method": METHOD, "files": files}, indent=1))
    unfinished.replace(folder / "manifest.json")
