"""The singular bases of the experts: computed once per expert, kept on disk, the same for every later run.

One safetensors file per tensor, so a computation that was cut off goes on where it stopped and processes started by
`accelerate launch` share the work with hardly a word.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import save_file

from cycleqd_merge.cache import cache_folder
from cycleqd_merge.errors import UserError
from cycleqd_merge.merging.adapter import LowRank
from cycleqd_merge.merging.checkpoint import Weight, read_json
from cycleqd_merge.merging.family import ModelFamily
from cycleqd_merge.merging.processes import of_the_first, this_process
from cycleqd_merge.merging.singular import Basis, singular_basis, skew, truncated

METHOD = "gram-float64/2"
Rank = int | float | None
"""Directions kept of a task vector: so many, as few as hold that share of its squared norm (below 1), or all."""
BasesProgress = Callable[[str, int, int], None]
"""Called with an expert's name, tensors done and tensors in all."""


class ExpertBases:
    """The stored bases of one expert, read one tensor at a time, memory-mapped.

    rank: how they were truncated. loss: what truncation leaves out of the task vectors, as a share of their norm.
    skew: the furthest that V^T V of the float32 vectors is from the identity.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        manifest = read_json(folder / "manifest.json")
        self._files: dict[str, str] = manifest["files"]
        self.rank: Rank = manifest["rank"]
        self.loss: float = manifest["loss"]
        self.skew: float = manifest["skew"]
        self.digest: str = hashlib.sha256(json.dumps(self._files, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def ranks(self) -> Mapping[str, int]:
        """Singular directions by tensor name, of the tensors in which the expert differs from the base."""
        ranks = {}
        for name in self._files:
            with self._opened(name) as file:
                ranks[name] = int(file.get_slice("values").get_shape()[0])
        return ranks

    def load(self, name: str) -> Basis | None:
        """The basis of tensor `name`; None where the expert does not differ from the base."""
        if name not in self._files:
            return None
        with self._opened(name) as file:
            return Basis(file.get_tensor("vectors"), file.get_tensor("values"), _about(file)["side"])

    def values(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Singular values by tensor name, (r,) float32, descending."""
        for name in self._files:
            with self._opened(name) as file:
                yield name, file.get_tensor("values")

    def _opened(self, name: str) -> Any:
        return safe_open(self._folder / f"{name}.safetensors", framework="pt")


def prepare_bases(
    family: ModelFamily, experts: Sequence[int], progress: BasesProgress | None = None, rank: Rank = None
) -> dict[int, ExpertBases]:
    """Bases of the experts with the given numbers, from the cache or computed now.

    Under `accelerate launch` every process computes its share; all of them return when the last is done. Processes
    that were started otherwise wait for whoever began.
    """
    state = this_process()
    bases = {}
    for expert in experts:
        folder = basis_folder(family, expert, rank)
        manifest = folder / "manifest.json"
        if not of_the_first(manifest.is_file()):
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}-{state.process_index}.lock"):  # processes launched together hold one each
                _compute(family, expert, of_the_first(missing_bases(family, expert, rank)), rank, progress)
                state.wait_for_everyone()
                if state.is_main_process and not manifest.is_file():
                    _write_manifest(folder, family, expert, rank)
                state.wait_for_everyone()
            if state.device.type == "cuda":
                torch.cuda.empty_cache()  # the engine is about to ask for the memory
        bases[expert] = ExpertBases(folder)
    return bases


def basis_folder(family: ModelFamily, expert: int, rank: Rank = None) -> Path:
    """The cache folder for one expert's bases; its name follows from the contents of base and expert."""
    key = f"{METHOD}|{family.base.digest}|{family.experts[expert].digest}|{family.models.vocabulary}|{rank}"
    return cache_folder("bases") / hashlib.sha256(key.encode()).hexdigest()[:32]


def _compute(
    family: ModelFamily, expert: int, missing: list[Weight], rank: Rank, progress: BasesProgress | None
) -> None:
    """This process' share of the missing bases."""
    state = this_process()
    with state.split_between_processes(missing) as share:
        for done, weight in enumerate(share, start=1):
            compute_basis(family, expert, weight, rank)
            if progress is not None and state.is_main_process:
                progress(family.experts[expert].name, done, len(share))


def missing_bases(family: ModelFamily, expert: int, rank: Rank = None) -> list[Weight]:
    """The matrices of an expert whose bases a run would have to compute."""
    folder = basis_folder(family, expert, rank)
    if (folder / "manifest.json").is_file():
        return []
    matrices = (weight for weight in family.weights if weight.is_matrix)
    return [weight for weight in matrices if not (folder / f"{weight.name}.safetensors").is_file()]


def compute_basis(family: ModelFamily, expert: int, weight: Weight, rank: Rank = None) -> None:
    """Compute one basis and store it in the cache, unless it is there or the expert does not differ."""
    state = this_process()
    path = basis_folder(family, expert, rank) / f"{weight.name}.safetensors"
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
    whole = singular_basis(vector)
    basis = truncated(whole, rank)
    unfinished = path.with_suffix(f".{os.getpid()}.part")
    tensors = {"vectors": basis.vectors.cpu(), "values": basis.values.cpu()}
    measures = {"norm": _norm(whole.values), "kept": _norm(basis.values), "skew": skew(basis)}
    about = json.dumps({"side": basis.side, **measures})  # one entry, for safetensors writes several in any order
    save_file(tensors, unfinished, metadata={"basis": about})
    unfinished.replace(path)


def _about(file: Any) -> dict[str, Any]:
    """What `compute_basis` wrote of a basis beside its tensors."""
    about: dict[str, Any] = json.loads(file.metadata()["basis"])
    return about


def _norm(values: torch.Tensor) -> float:
    return float(values.double().norm())


def _write_manifest(folder: Path, family: ModelFamily, expert: int, rank: Rank) -> None:
    """The list of files with their digests; its presence says that all of them are there.

    Raises:
        UserError: some are not: they lie on another host.
    """
    for weight in missing_bases(family, expert, rank):
        if family.difference(expert, weight, family.base_tensor(weight)) is not None:
            raise UserError(
                f"{folder}: the singular basis of {weight.name} is not there; processes on several hosts need a cache "
                "folder that all of them see (CYCLEQD_CACHE)"
            )
    files, norm, kept, worst = {}, 0.0, 0.0, 0.0
    for weight in family.weights:
        path = folder / f"{weight.name}.safetensors"
        if path.is_file():
            with path.open("rb") as file:
                files[weight.name] = hashlib.file_digest(file, "sha256").hexdigest()
            with safe_open(path, framework="pt") as opened:
                about = _about(opened)
            norm, kept = norm + about["norm"] ** 2, kept + about["kept"] ** 2
            worst = max(worst, about["skew"])
    loss = math.sqrt(max(0.0, 1.0 - kept / norm)) if norm else 0.0
    unfinished = folder / "manifest.json.part"
    record = {"method": METHOD, "rank": rank, "loss": loss, "skew": worst, "files": files}
    unfinished.write_text(json.dumps(record, indent=1))
    unfinished.replace(folder / "manifest.json")
