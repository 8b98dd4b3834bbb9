"""Verification that a written model is the one that was scored: it loads, and answers as the engine's weights do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from cycleqd_merge.config.engines import TransformersEngineConfig
from cycleqd_merge.errors import RunFailed
from cycleqd_merge.evaluation.engines.transformers_engine import TransformersEngine
from cycleqd_merge.evolution.candidate import Candidate, fits_of
from cycleqd_merge.merging.fit_files import MODEL_FITS, checked_fit, file_of
from cycleqd_merge.merging.materialise import Materialiser

_EQUAL = 1e-3
_ADAPTED = 0.1  # an adapter computes next to weights that are rounded without it
_PROBE = "The quick brown fox jumps over the lazy dog."


def verify_checkpoint(candidate: Candidate, materialiser: Materialiser, folder: Path) -> None:
    """Load a checkpoint as its users will, and compare a forward pass with one on the engine's weights.

    Raises:
        RunFailed: tensors are missing, unexpected or of a different shape, a fit is missing, or the logits differ.
    """
    loaded: Any = materialiser.family.base.auto_class.from_pretrained(  # a pair, because of output_loading_info
        folder,
        dtype=materialiser.family.base.config.dtype or "auto",  # mergekit may have written a different one
        output_loading_info=True,
        trust_remote_code=materialiser.family.models.trust_remote_code,
    )
    model, report = loaded
    wrong = [*report["missing_keys"], *report["mismatched_keys"], *report["unexpected_keys"]]
    _require_fit_files(candidate, folder)
    if wrong:
        raise RunFailed(f"the exported checkpoint does not fit its architecture: {', '.join(map(str, wrong[:3]))}")
    _compare(model, candidate, materialiser, _EQUAL)


def verify_adapter(candidate: Candidate, materialiser: Materialiser, folder: Path) -> None:
    """The same for a LoRA adapter, loaded onto the base.

    Raises:
        RunFailed: a fit is missing, or the logits differ.
    """
    _require_fit_files(candidate, folder)
    family = materialiser.family
    base = family.base.auto_class.from_pretrained(
        family.base.path, dtype="auto", trust_remote_code=family.models.trust_remote_code
    )
    _compare(PeftModel.from_pretrained(base, folder), candidate, materialiser, _ADAPTED)


def _require_fit_files(candidate: Candidate, folder: Path) -> None:
    """Check that every fit that the candidate has a share of is in its folder, under the digest of its content."""
    for digest in fits_of(candidate):
        try:
            checked_fit(folder / MODEL_FITS / file_of(digest), digest)
        except ValueError as error:
            raise RunFailed(f"the exported model's fit {digest[:12]}: {error}") from error


def _compare(model: Any, candidate: Candidate, materialiser: Materialiser, most: float) -> None:
    """A forward pass of a loaded model and one on the engine's weights: logits may differ by `most` of their range."""
    engine = TransformersEngine(TransformersEngineConfig(device="cpu"), materialiser)
    engine.load(candidate)
    tokens = torch.tensor([engine.encode(_PROBE)])
    with torch.inference_mode():
        wanted = engine.model(tokens).logits.float()
        engine.close()
        found = model(tokens).logits.float()
    if (found - wanted).abs().max() > most * wanted.abs().max().clamp_min(1):
        difference = float((found - wanted).abs().max())
        raise RunFailed(f"the exported model and the engine answer differently: logits differ by up to {difference:g}")
