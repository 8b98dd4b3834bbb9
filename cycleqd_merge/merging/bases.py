"""Singular bases of the experts: computed once per expert, stored in the cache and reused by every later run.

There is one safetensors file per tensor: an interrupted computation resumes where it stopped, and processes started by
`accelerate launch` divide the work with little communication.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import save_file

from cycleqd_merge.cache import cache_folder
from cycleqd_merge.cache_entries import read_entry, report_damage, write_entry
from cycleqd_merge.config.recipe import ModelsConfig, PinnedModels
from cycleqd_merge.errors import UserError
from cycleqd_merge.files import new_file, sha256_of, write_atomically
from cycleqd_merge.merging.adapter import LowRank
from cycleqd_merge.merging.checkpoint import Weight, digest_file
from cycleqd_merge.merging.family import ModelFamily, open_family
from cycleqd_merge.merging.processes import from_main_process, leave_group, this_process
from cycleqd_merge.merging.singular import Basis, singular_basis, skew, truncated

BASIS_METHOD = "gram-float64/2"
_MANIFEST = "manifest.json"
Rank = int | float | None
"""Directions kept of a task vector: a number of them (int), the fewest that hold this share of its squared norm (float
below 1), or all (None)."""
BasesProgress = Callable[[str, int, int], None]
"""Called with an expert's name, the number of tensors done, and the total."""


class ExpertBases:
    """The stored bases of one expert, read one tensor at a time, memory-mapped.

    rank: how they were truncated. loss: the share of the task vectors' norm that truncation leaves out. skew: the
    largest deviation of an element of V^T V from the identity, computed from the stored float32 vectors.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        self._files: dict[str, str] = manifest["files"]
        self.rank: Rank = manifest["rank"]
        self.loss: float = manifest["loss"]
        self.skew: float = manifest["skew"]
        self.digest: str = hashlib.sha256(json.dumps(self._files, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def ranks(self) -> Mapping[str, int]:
        """Number of singular directions by tensor name, for the tensors in which the expert differs from the base."""
        ranks = {}
        for name in self._files:
            with self._opened(name) as file:
                ranks[name] = int(file.get_slice("values").get_shape()[0])
        return ranks

    def load(self, name: str) -> Basis | None:
        """The basis of tensor `name`; None where the expert equals the base."""
        if name not in self._files:
            return None
        with self._opened(name) as file:
            return Basis(file.get_tensor("vectors"), file.get_tensor("values"), _metadata(file)["side"])

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

    Under `accelerate launch`, every process computes its share, and all return when the last one is done. Processes
    started in any other way wait for the first one.

    Raises:
        UserError: processes on several hosts do not share a cache folder.
    """
    state = this_process()
    bases = {}
    for expert in experts:
        folder = basis_folder(family, expert, rank)
        if not from_main_process(state.is_main_process and _is_complete(folder, family, rank)):
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}-{state.process_index}.lock"):  # processes launched together hold one each
                if state.is_main_process:
                    _remove_damaged(folder, family, rank)
                _compute(family, expert, from_main_process(missing_bases(family, expert, rank)), rank, progress)
                state.wait_for_everyone()
                if state.is_main_process and not (folder / _MANIFEST).is_file():
                    _write_manifest(folder, family, expert, rank)
                state.wait_for_everyone()
            if state.device.type == "cuda":
                torch.cuda.empty_cache()  # the engine will need the memory
        bases[expert] = ExpertBases(folder)
    return bases


def basis_folder(family: ModelFamily, expert: int, rank: Rank = None) -> Path:
    """The cache folder for one expert's bases; its name is derived from the contents of base and expert."""
    key = f"{BASIS_METHOD}|{family.base.digest}|{family.experts[expert].digest}|{family.models.vocabulary}|{rank}"
    left_out = sorted({*family.base.names} - {*family.stored_names.values()})  # version 0.1 had bases for these too
    key += f"|without {left_out}" if left_out else ""
    return cache_folder("bases") / hashlib.sha256(key.encode()).hexdigest()[:32]


def _compute(
    family: ModelFamily, expert: int, missing: list[Weight], rank: Rank, progress: BasesProgress | None
) -> None:
    """Compute this process's share of the missing bases."""
    state = this_process()
    with state.split_between_processes(missing) as share:
        for done, weight in enumerate(share, start=1):
            compute_basis(family, expert, weight, rank)
            if progress is not None and state.is_main_process:
                progress(family.experts[expert].name, done, len(share))


def compute_share_of_bases() -> None:
    """In every process but the main one: compute a share of the singular bases of the run that the main one opens."""
    models, experts, rank = from_main_process((PinnedModels("", {}, ModelsConfig()), list[int](), cast(Rank, None)))
    prepare_bases(open_family(models), experts, rank=rank)
    leave_group()


def missing_bases(family: ModelFamily, expert: int, rank: Rank = None) -> list[Weight]:
    """An expert's matrices whose bases are not in the cache."""
    folder = basis_folder(family, expert, rank)
    if (folder / _MANIFEST).is_file():
        return []
    matrices = (weight for weight in family.weights if weight.is_matrix)
    return [weight for weight in matrices if not (folder / f"{weight.name}.safetensors").is_file()]


def compute_basis(family: ModelFamily, expert: int, weight: Weight, rank: Rank = None) -> None:
    """Compute one basis and store it in the cache, unless it exists already or the expert equals the base there."""
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
    tensors = {"vectors": basis.vectors.cpu(), "values": basis.values.cpu()}
    measures = {"norm": _norm(whole.values), "kept": _norm(basis.values), "skew": skew(basis)}
    metadata = json.dumps({"side": basis.side, **measures})  # one entry: safetensors writes several in no fixed order
    with new_file(path) as unfinished:
        save_file(tensors, unfinished, metadata={"basis": metadata})
        write_entry(_entry(path), sha256_of(unfinished))  # first: a basis without its digest counts as damaged


def _entry(path: Path) -> Path:
    """The place of a checksum for a file in a folder of bases: in a folder next to that one."""
    folder = path.parent.with_name(f"{path.parent.name}.sums")
    folder.mkdir(parents=True, exist_ok=True)
    return folder / path.name


def _is_complete(folder: Path, family: ModelFamily, rank: Rank) -> bool:
    """Whether the manifest exists, and everything that it lists is as it was written."""
    try:
        text = (folder / _MANIFEST).read_text(encoding="utf-8")
        manifest = json.loads(text)
    except (OSError, ValueError, RecursionError):
        return False
    if read_entry(_entry(folder / _MANIFEST)) not in (None, text):  # version 0.1 stored none
        return False
    matrices = {weight.name for weight in family.weights if weight.is_matrix}
    return (
        isinstance(manifest, dict)
        and manifest.keys() == {"method", "rank", "loss", "skew", "files"}
        and (manifest["method"], manifest["rank"]) == (BASIS_METHOD, rank)
        and all(isinstance(manifest[key], float) and 0 <= manifest[key] < math.inf for key in ("loss", "skew"))
        and isinstance(manifest["files"], dict)
        and manifest["files"].keys() <= matrices
        and all(_digest(folder / f"{name}.safetensors") == stated for name, stated in manifest["files"].items())
    )


def _digest(path: Path) -> str | None:
    return digest_file(path) if path.is_file() else None


def _remove_damaged(folder: Path, family: ModelFamily, rank: Rank) -> None:
    """Remove an incomplete manifest, and every basis that is not as it was written, so that they are made again."""
    if _is_complete(folder, family, rank):  # another process was faster
        return
    manifest = folder / _MANIFEST
    if manifest.exists():
        report_damage(manifest)
        manifest.unlink()
    for path in folder.glob("*.safetensors"):
        if read_entry(_entry(path)) != sha256_of(path):
            path.unlink()


def _metadata(file: Any) -> dict[str, Any]:
    """The metadata that `compute_basis` stored with a basis."""
    metadata: dict[str, Any] = json.loads(file.metadata()["basis"])
    return metadata


def _norm(values: torch.Tensor) -> float:
    return float(values.double().norm())


def _write_manifest(folder: Path, family: ModelFamily, expert: int, rank: Rank) -> None:
    """Write the list of files with their digests: the bases are complete once it exists.

    Raises:
        UserError: some files are missing, because a different host stored them in its own cache folder.
    """
    for weight in missing_bases(family, expert, rank):
        if family.difference(expert, weight, family.base_tensor(weight)) is not None:
            raise UserError(
                f"{folder}: the singular basis of {weight.name} is missing; processes on several hosts need a shared "
                "cache folder (set CYCLEQD_CACHE)"
            )
    files, norm, kept, worst = {}, 0.0, 0.0, 0.0
    for weight in family.weights:
        path = folder / f"{weight.name}.safetensors"
        if path.is_file():
            files[weight.name] = digest_file(path)
            with safe_open(path, framework="pt") as opened:
                measures = _metadata(opened)
            norm, kept = norm + measures["norm"] ** 2, kept + measures["kept"] ** 2
            worst = max(worst, measures["skew"])
    loss = math.sqrt(max(0.0, 1.0 - kept / norm)) if norm else 0.0
    record = {"method": BASIS_METHOD, "rank": rank, "loss": loss, "skew": worst, "files": files}
    text = json.dumps(record, indent=1)
    write_entry(_entry(folder / _MANIFEST), text)
    write_atomically(folder / _MANIFEST, text)
