"""An independent computation of what experts and mutations add: NumPy in float64, directly from the files on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file

from cycleqd_merge.evolution.draws import normal, uniform
from cycleqd_merge.evolution.genome import Genome, Mutation
from cycleqd_merge.merging.fits import Fit
from tests.models import Architecture, read_tensors

Array = NDArray[np.float64]
Tensors = dict[str, Array]

LORA_SCALE = 8 / 4  # of `make_adapter`: peft's default alpha over its default rank


def tensors_of(folder: Path) -> Tensors:
    """A checkpoint's tensors."""
    return {name: tensor.double().numpy() for name, tensor in read_tensors(folder).items()}


def full_task_vector(base: Path, expert: Path) -> Tensors:
    """Expert minus base, per tensor."""
    theirs = tensors_of(expert)
    return {name: theirs[name] - tensor for name, tensor in tensors_of(base).items()}


def lora_task_vector(base: Path, adapter: Path, architecture: Architecture) -> Tensors:
    """What an adapter adds: scale * B A for its factors, transposed for Conv1D (gpt2), and differences for the rest."""
    stored = load_file(adapter / "adapter_model.safetensors")
    parts = {key.removeprefix("base_model.model."): tensor.double().numpy() for key, tensor in stored.items()}
    vector = {}
    for name, tensor in tensors_of(base).items():
        module = name.removesuffix(".weight")
        vector[name] = np.zeros_like(tensor)
        if name in parts:
            vector[name] = parts[name] - tensor
        elif f"{module}.lora_A.weight" in parts:
            product = LORA_SCALE * parts[f"{module}.lora_B.weight"] @ parts[f"{module}.lora_A.weight"]
            vector[name] = product.T if architecture == "gpt2" else product
    return vector


class Reference:
    """Children by the design's formula, base + sum_i c_i tau_i + sum_e a_e change_e, with numpy's own SVD.

    rank: mutations follow only this number of leading directions. fits: by digest.
    """

    def __init__(self, base: Path, vectors: list[Tensors], rank: int | None = None) -> None:
        self.vectors, self._rank = vectors, rank
        self.fits: dict[str, Fit] = {}
        self._base = tensors_of(base)
        self._decomposed: dict[tuple[int, str], tuple[Array, Array, Array]] = {}

    def child(self, genome: Genome, name: str, group: int) -> Array:
        """The exact tensor `name`, which belongs to group number `group`."""
        child = self._base[name].copy()
        for coefficient, vector in zip(genome.coefficients[:, group], self.vectors, strict=True):
            child += coefficient * vector[name]
        for share, mutation in zip(genome.shares[:, group], genome.mutations, strict=True):
            child += share * self._change(mutation, name)
        for share, digest in zip(genome.fit_shares[:, group], genome.fits, strict=True):
            child += share * self.fitted(self.fits[digest], name)
        return child

    def fitted(self, fit: Fit, name: str) -> Array:
        """The change by a fit, with a share of 1, of the tensor `name`."""
        change = np.zeros(self._base[name].shape)
        for expert, vector in enumerate(self.vectors):
            change += float(fit.coefficients[expert, fit.tensors.index(name)]) * vector[name]
            sizes = dict(fit.sizes.get(expert, {}))
            if name not in sizes:
                continue
            parts = np.split(fit.scales[expert].astype(np.float64), np.cumsum(list(sizes.values()))[:-1])
            m = parts[list(sizes).index(name)]
            if fit.along == "channel":
                rows = change.shape[0]
                change += (m[:rows, None] + m[None, rows:]) * vector[name]
            else:
                u, s, vh = self._svd(expert, name)
                change += (u[:, : len(m)] * (m * s[: len(m)])) @ vh[: len(m)]
        return change

    def _change(self, mutation: Mutation, name: str) -> Array:
        """The change by `mutation`, with a share of 1, of the tensor `name`; zeros if it is not a matrix."""
        shape = self._base[name].shape
        if len(shape) < 2:
            return np.zeros(shape)
        if mutation.kind == "gaussian":
            return mutation.scale * normal(mutation.seed, name, int(np.prod(shape))).astype(np.float64).reshape(shape)
        assert mutation.expert is not None
        u, s, vh = self._svd(mutation.expert, name)
        w = uniform(mutation.seed, name, len(s))
        w = mutation.scale * (2 * w - 1 if mutation.signed else w)
        return (u * (w * s)) @ vh

    def _svd(self, expert: int, name: str) -> tuple[Array, Array, Array]:
        key = (expert, name)
        if key not in self._decomposed:
            u, s, vh = np.linalg.svd(self.vectors[expert][name], full_matrices=False)
            self._decomposed[key] = u[:, : self._rank], s[: self._rank], vh[: self._rank]
        return self._decomposed[key]
