"""The base model of a family as a transformers module."""

from __future__ import annotations

from typing import Any

import torch

from cycleqd_merge.errors import ModelError
from cycleqd_merge.merging.family import ModelFamily


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
