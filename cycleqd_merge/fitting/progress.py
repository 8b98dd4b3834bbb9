"""A fit's progress on disk: a fit that was killed resumes on the same host, and ends with the same values."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from cycleqd_merge.cache import cache_folder
from cycleqd_merge.errors import first_line
from cycleqd_merge.files import write_atomically
from cycleqd_merge.fitting.training import RESTARTS, Progress

log = logging.getLogger(__name__)
EVERY = 25
"""Steps between two saves."""
_METADATA, _TENSORS = "progress", ("values", "mean", "square")


class _Header(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    format: Literal[1]
    losses: list[Annotated[float, Field(allow_inf_nan=False)]]
    tokens: Annotated[int, Field(ge=0)]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    restarts: Annotated[int, Field(ge=0, le=RESTARTS)]


def progress_to_bytes(progress: Progress) -> bytes:
    """The content of a file from which a fit resumes."""
    counts = {"tokens": progress.tokens, "seconds": progress.seconds, "restarts": progress.restarts}
    header = {"format": 1, "losses": progress.losses, **counts}
    tensors = {name: getattr(progress, name).detach().cpu().contiguous() for name in _TENSORS}
    return save(tensors, metadata={_METADATA: json.dumps(header)})


def progress_from_bytes(content: bytes, size: int, device: torch.device | str = "cpu") -> Progress:
    """The inverse of `progress_to_bytes`. size: number of the fit's values.

    Raises:
        ValueError: it is not the progress of a fit with this number of values.
    """
    try:
        tensors = load(content)
        length = int.from_bytes(content[:8], "little")
        header = _Header.model_validate_json(json.loads(content[8 : 8 + length])["__metadata__"][_METADATA])
    except (SafetensorError, ValidationError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"not the progress of a fit: {first_line(error)}") from None
    if set(tensors) != {*_TENSORS}:
        raise ValueError("not the progress of a fit: other tensors")
    for tensor in tensors.values():
        if tensor.shape != (size,) or tensor.dtype != torch.float32 or not torch.isfinite(tensor).all():
            raise ValueError(f"not the progress of a fit with {size} values")
    values, mean, square = (tensors[name].to(device) for name in _TENSORS)
    return Progress(values, mean, square, header.losses, header.tokens, header.seconds, header.restarts)


@dataclass(frozen=True)
class KeptProgress:
    """The file of a fit's progress in this host's cache. digest: of everything that the fit's values depend on."""

    digest: str

    @property
    def path(self) -> Path:
        """The file, which need not exist."""
        folder = cache_folder("fits") / "progress"
        folder.mkdir(exist_ok=True)
        return folder / f"{self.digest}.safetensors"

    def read(self, size: int, device: torch.device | str = "cpu") -> Progress | None:
        """The progress; None if there is none, or if its file is damaged."""
        try:
            return progress_from_bytes(self.path.read_bytes(), size, device)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("%s: %s; the fit starts again", self.path, first_line(error))
            return None

    def write(self, progress: Progress, steps: int) -> None:
        """Keep the progress, every `EVERY` steps and at the end. steps: of the whole fit."""
        done = len(progress.losses)
        if done % EVERY == 0 or done == steps:
            write_atomically(self.path, progress_to_bytes(progress))

    def remove(self) -> None:
        """Remove the file: the fit is kept elsewhere."""
        self.path.unlink(missing_ok=True)
