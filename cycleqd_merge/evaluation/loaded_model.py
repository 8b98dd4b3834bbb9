"""The base model of a family as a transformers module."""

from __future__ import annotations

from typing import Any

import torch

from cycleqd_merge.errors import ModelError
from cycleqd_merge.merging.family import ModelFamily

_UNPADDED = {"rwkv", "minimax"}
"""Types of models that transformers runs over padding as if it were text."""


def skips_padding(model: Any) -> bool:
    """Whether a transformers model gives each row of a batch what it gives the row alone; if not, the rows of a batch
    must have one length."""
    return model.config.model_type not in _UNPADDED


def load_model(family: ModelFamily, dtype: str | torch.dtype, place: str) -> Any:
    """The family's base model on the CPU, in evaluation mode. dtype: `auto` for the checkpoint's. place: for messages.

    Raises:
        ModelError: transformers cannot load it.
    """
    base = family.base
    try:
        model: Any = base.auto_class.from_pretrained(
            base.path, dtype=dtype, trust_remote_code=family.models.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"{place}: {base.reference} cannot be loaded: {error}") from error
    return model.eval()
