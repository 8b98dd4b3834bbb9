"""Model references as mergekit's class, and in its configurations."""

from __future__ import annotations

import re
from typing import Any

from mergekit.common import ModelPath, ModelReference

from cycleqd_merge.config.model_names import model_names


def model_reference(text: str) -> ModelReference:
    """A reference as mergekit's own class; a folder that exists wins over `+` and `@`, see `model_names`."""
    model, *adapter = (ModelPath(path=each.path, revision=each.revision) for each in model_names(text))
    return ModelReference(model=model, lora=adapter[0] if adapter else None)


def reference_value(reference: ModelReference) -> str | dict[str, Any]:
    """A reference in a mergekit configuration: text, or a mapping where mergekit would read or write the text wrongly.

    Its writer fails on a path with a space or quotation mark, its reader divides every path at `+` and `@`.
    """
    text = str(reference)
    if not re.search(r"[ \"]", text) and (text.count("+"), text.count("@")) == _signs(reference):
        return text
    parts = {"model": reference.model, "lora": reference.lora}
    return {key: part.model_dump(exclude_none=True) for key, part in parts.items() if part is not None}


def _signs(reference: ModelReference) -> tuple[int, int]:
    """The numbers of `+` and `@` in a reference whose paths contain neither."""
    parts = [part for part in (reference.model, reference.lora) if part is not None]
    return len(parts) - 1, sum(part.revision is not None for part in parts)
