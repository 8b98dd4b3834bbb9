"""Fits as files: of run directories and archives in `fits/`, of exported models in `cycleqd/fits/`.

Every file is named by its SHA-256, so it does not matter who wrote it: it has the content that a genome states, or is
refused. Materialisers read fits from their host's cache alone; see `merging.fits`. Pools send workers those it lacks.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cycleqd_merge.errors import ModelError, brief, printable
from cycleqd_merge.evolution.candidate import Candidate, fits_of, mutated_experts
from cycleqd_merge.files import write_atomically
from cycleqd_merge.merging.channels import channel_count
from cycleqd_merge.merging.fits import LARGEST, Fit, fit_content, fit_digest, keep_fit, read_fit

if TYPE_CHECKING:
    from cycleqd_merge.merging.family import ModelFamily

RUN_FITS = "fits"
"""The folder of a run's or an archive's fits."""
MODEL_FITS = "cycleqd/fits"
"""The folder of an exported model's fits: at its top level, libraries take every such file for weights."""
MOST_FITS = 100
"""The largest number of fits that a run is pulled with."""
_MIB = 2**20


def file_of(digest: str) -> str:
    """The name of a fit's file."""
    return f"{digest}.safetensors"


def checked_fit(path: Path, digest: str, experts: int | None = None) -> bytes:
    """The content of a fit's file. experts: the number of experts that it must have coefficients of.

    Raises:
        ValueError: it is missing, too large, not the fit with this digest, or one of other experts; a few words.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would never end
            raise ValueError("not a file")
        if status.st_size > LARGEST:
            raise ValueError(f"{status.st_size // _MIB} MiB; at most {LARGEST // _MIB} MiB are read")
        content = path.read_bytes()
    except FileNotFoundError:
        raise ValueError("missing") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    if fit_digest(content) != digest:
        raise ValueError("damaged: its name is not the SHA-256 of its content")
    found = Fit.from_bytes(content).coefficients.shape[0]
    if experts is not None and found != experts:
        raise ValueError(f"has coefficients of {found} experts; the run has {experts}")
    return content


def keep_fits(folder: Path, digests: Iterable[str]) -> None:
    """Store fits in this host's cache, from `folder` if the cache lacks them.

    Raises:
        ModelError: one is in neither, or is refused; see `checked_fit`.
        RecipeError, InfrastructureError: the cache cannot be written.
    """
    for digest in digests:
        if is_kept(digest):
            continue
        place = folder / file_of(digest)
        try:
            content = checked_fit(place, digest)
        except ValueError as error:
            raise ModelError(f"{printable(str(place))}: {error}; copy or download the file again") from None
        keep_fit(content)


def write_fits(folder: Path, digests: Iterable[str]) -> None:
    """Write fits from this host's cache to `folder`, unless an undamaged copy exists.

    Raises:
        ModelError: the cache lacks one, or it is damaged there.
        InfrastructureError, OSError: the folder cannot be written.
    """
    for digest in digests:
        place = folder / file_of(digest)
        try:
            checked_fit(place, digest)
        except ValueError:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(place, fit_content(digest))


def is_kept(digest: str) -> bool:
    """Whether this host's cache has a fit, undamaged."""
    try:
        fit_content(digest)
    except ModelError:
        return False
    return True


def scaled_experts(digests: Iterable[str]) -> set[int]:
    """Numbers of the experts whose singular directions the fits scale.

    Raises:
        ModelError: a fit is not in the cache.
    """
    return {expert for digest in digests for expert in read_fit(digest).scaled_experts("singular")}


def bases_needed(*candidates: Candidate) -> set[int]:
    """Numbers of the experts whose singular bases the candidates' mutations and fits need.

    Raises:
        ModelError: a fit is not in the cache.
    """
    return mutated_experts(*candidates) | scaled_experts(fits_of(*candidates))


def require_fits(digests: Iterable[str], family: ModelFamily) -> None:
    """Check that fits were learned on models like these.

    Singular directions are compared when a model is built on the bases; see `Fit.scales_along`.

    Raises:
        ModelError: one has coefficients of other experts or tensors, scales other channels, or is not in the cache.
    """
    shapes = {weight.name: weight.shape for weight in family.weights}
    for digest in digests:
        fit = read_fit(digest)
        experts = fit.coefficients.shape[0]
        reason = None
        if experts != len(family.experts):
            reason = f"it has coefficients of {experts} experts; there are {len(family.experts)}"
        elif missing := sorted(shapes.keys() - fit.tensors):
            reason = f"it has no coefficient of {missing[0]}"
        elif other := _other_scales(fit, shapes):
            reason = f"it has scales of a different {printable(brief(other))}"
        if reason is not None:
            raise ModelError(f"fit {digest[:12]}: does not fit these models: {reason}; use those it was learned with")


def _other_scales(fit: Fit, shapes: Mapping[str, Sequence[int]]) -> str | None:
    """The first tensor whose scales do not belong to tensors of these shapes; None if all do."""
    for sizes in fit.sizes.values():
        for name, size in sizes.items():
            shape = shapes.get(name, ())
            if len(shape) < 2 or (fit.along == "channel" and size != channel_count(shape)):
                return name
    return None


def require_few(digests: Sequence[str], place: str) -> None:
    """Check the number of a run's fits, before any is read or written.

    Raises:
        ModelError: there are too many; `place` names the run.
    """
    if len(digests) > MOST_FITS:
        raise ModelError(f"{place}: {len(digests)} fits; at most {MOST_FITS} can be published or pulled")
