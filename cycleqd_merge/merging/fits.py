"""Fits: coefficients per tensor, and scales of channels or singular directions, that were learned by gradient.

    fit = sum_i (c_i[l] + a_i 1^T + 1 b_i^T) * tau_i                  for every tensor l, if channels are scaled
    fit = sum_i c_i[l] tau_i + sum_i U_i diag(m_i s_i) V_i^T          if singular directions are

A fit is a file that is named by its SHA-256, so a genome states it by 64 characters. Every host keeps those that it
needs in its cache, whichever run, archive or exported model they came with.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cycleqd_merge.cache import cache_folder
from cycleqd_merge.errors import ModelError, first_line
from cycleqd_merge.evolution.genome import MAX_COEFFICIENT
from cycleqd_merge.files import write_atomically

FIT_FORMAT = 1
LARGEST = 512 * 2**20
"""Bytes of a fit's file: with a scale per channel, one of a 72B model and eight experts has 421 MB."""
LARGEST_HEADER = 64 * 2**20
"""Bytes of its header, which takes several times as much memory when it is parsed."""
_METADATA, _COEFFICIENTS, _SCALES = "fit", "coefficients", "scales"
_NUMBER = re.compile("0|[1-9][0-9]{0,5}")

Along = Literal["channel", "singular"]
"""What the scales of a fit belong to: rows and columns of the task vectors (see `channels`), or singular directions."""

_Name = Annotated[str, Field(min_length=1, max_length=1000)]


class _Header(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    format: Literal[1]
    tensors: Annotated[list[_Name], Field(min_length=1)]
    along: Along
    sizes: dict[str, dict[_Name, Annotated[int, Field(ge=1)]]]


@dataclass(frozen=True, eq=False)
class Fit:
    """The values of a fit.

    tensors: names of the tensors of the model. coefficients: of each expert's task vector in each tensor, shape
    (experts, tensors), float32. along: what the scales belong to. sizes: by expert number, the number of scales of each
    tensor. scales: by expert number, those of these tensors, one after the other in the order of `sizes`, float32.
    """

    tensors: tuple[str, ...]
    coefficients: NDArray[np.float32]
    along: Along
    sizes: Mapping[int, Mapping[str, int]]
    scales: Mapping[int, NDArray[np.float32]]

    def coefficients_of(self, name: str) -> list[float]:
        """Each expert's coefficient in one tensor."""
        column: list[float] = self.coefficients[:, self._places[name]].tolist()
        return column

    def scaled_experts(self, along: Along) -> frozenset[int]:
        """The experts with scales of this kind."""
        return frozenset(self.sizes) if self.along == along else frozenset()

    def scales_along(self, expert: int, ranks: Mapping[str, int]) -> NDArray[np.float32] | None:
        """m of one expert for all tensors of its singular bases, concatenated; None if it scales no direction.

        ranks: of the bases, in their order.

        Raises:
            ModelError: the fit was learned on other singular bases.
        """
        if expert not in self.scaled_experts("singular"):
            return None
        if list(self.sizes[expert].items()) != list(ranks.items()):
            raise ModelError(
                f"a fit scales other singular directions of expert {expert + 1} than those of its bases; use the "
                "models and the `rank` with which it was learned"
            )
        return self.scales[expert]

    @property
    def _places(self) -> Mapping[str, int]:
        return _places(self.tensors)

    def to_bytes(self) -> bytes:
        """The content of its file: equal fits have equal bytes."""
        sizes = {str(expert): dict(each) for expert, each in self.sizes.items()}
        header = {"format": FIT_FORMAT, "tensors": self.tensors, "along": self.along, "sizes": sizes}
        arrays = {f"{_SCALES}.{expert}": np.ascontiguousarray(scales) for expert, scales in self.scales.items()}
        arrays[_COEFFICIENTS] = np.ascontiguousarray(self.coefficients)
        return save(arrays, metadata={_METADATA: json.dumps(header, separators=(",", ":"))})

    @classmethod
    def from_bytes(cls, content: bytes) -> Fit:
        """Inverse of `to_bytes`.

        Raises:
            ValueError: it is not the file of a fit; one line.
        """
        header, arrays = _read(content)
        coefficients = arrays.pop(_COEFFICIENTS)
        sizes = {int(expert): each for expert, each in header.sizes.items()}
        scales = {expert: arrays.pop(f"{_SCALES}.{expert}") for expert in sizes}
        if arrays:
            raise ValueError(f"unknown array {next(iter(arrays))!r:.80}")
        experts = coefficients.shape[0]
        if coefficients.shape[1:] != (len(header.tensors),) or not experts:
            raise ValueError(f"coefficients of shape {coefficients.shape} for {len(header.tensors)} tensors")
        for expert, values in scales.items():
            if expert >= experts or values.shape != (sum(sizes[expert].values()),):
                raise ValueError(f"scales of expert {expert}: shape {values.shape} does not match its sizes")
        for values in (coefficients, *scales.values()):
            if not np.isfinite(values).all() or np.abs(values).max(initial=0.0) > MAX_COEFFICIENT:
                raise ValueError("a value is not finite, or far too large")
        return cls(tuple(header.tensors), coefficients, header.along, sizes, scales)


@lru_cache(maxsize=8)
def _places(tensors: tuple[str, ...]) -> Mapping[str, int]:
    return {name: place for place, name in enumerate(tensors)}


def _read(content: bytes) -> tuple[_Header, dict[str, Any]]:
    """The header and the arrays of a fit's file.

    Raises:
        ValueError: a part is missing or of a wrong type.
    """
    if len(content) > LARGEST:
        raise ValueError(f"{len(content)} bytes; at most {LARGEST} are read")
    if int.from_bytes(content[:8], "little") > LARGEST_HEADER:
        raise ValueError(f"not a fit: its header is too large; at most {LARGEST_HEADER} bytes are read")
    try:
        arrays = load(content)
        size = int.from_bytes(content[:8], "little")
        header = _Header.model_validate_json(json.loads(content[8 : 8 + size])["__metadata__"][_METADATA])
    except (SafetensorError, ValidationError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"not a fit: {first_line(error)}") from None
    wanted = {_COEFFICIENTS, *(f"{_SCALES}.{expert}" for expert in header.sizes)}
    if not wanted <= arrays.keys() or any(array.dtype != np.float32 for array in arrays.values()):
        raise ValueError("an array is missing, or not of float32")
    if arrays[_COEFFICIENTS].ndim != 2 or not all(map(_NUMBER.fullmatch, header.sizes)):
        raise ValueError("coefficients or sizes of a wrong form")
    return header, arrays


def fit_digest(content: bytes) -> str:
    """SHA-256 of the content of a fit's file, in hex."""
    return hashlib.sha256(content).hexdigest()


def keep_fit(content: bytes) -> str:
    """Store a fit in this host's cache; returns its digest.

    Raises:
        ValueError: it is not the file of a fit.
        RecipeError, InfrastructureError: the cache cannot be written.
    """
    Fit.from_bytes(content)
    digest = fit_digest(content)
    place = _place(digest)
    if not place.is_file() or fit_digest(place.read_bytes()) != digest:
        write_atomically(place, content)
    return digest


def fit_content(digest: str) -> bytes:
    """The content of a fit's file, from this host's cache.

    Raises:
        ModelError: it is missing or damaged.
    """
    place = _place(digest)
    try:
        content = place.read_bytes()
    except OSError:
        content = b""
    if fit_digest(content) != digest:
        state = "is damaged" if content else "is missing"
        raise ModelError(
            f"fit {digest[:12]} {state} in the cache ({place}); use it through its run, archive or exported model, "
            "which has the file"
        )
    return content


@lru_cache(maxsize=64)
def read_fit(digest: str) -> Fit:
    """The fit with this digest, from this host's cache.

    Raises:
        ModelError: it is missing or damaged.
    """
    return Fit.from_bytes(fit_content(digest))


def _place(digest: str) -> Path:
    return cache_folder("fits") / f"{digest}.safetensors"
