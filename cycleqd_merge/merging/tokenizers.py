"""The tokenizers of a model family, and the chat template that the recipe chose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from cycleqd_merge.errors import UserError
from cycleqd_merge.merging.family import ModelFamily


def has_tokenizer(folder: Path) -> bool:
    """Whether a model folder brings a tokenizer of its own."""
    return any(
        (folder / file).is_file() for file in ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
    )


def load_tokenizer(folder: Path, family: ModelFamily) -> PreTrainedTokenizerBase:
    """The tokenizer in a model folder.

    Raises:
        UserError: it cannot be loaded.
    """
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=family.models.trust_remote_code)
    except Exception as error:  # tokenizers raises nothing more specific
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{folder}: no tokenizer can be loaded: {reason}") from error
    return tokenizer


def family_tokenizer(family: ModelFamily) -> PreTrainedTokenizerBase:
    """The base's tokenizer with the chat template that the recipe chose.

    Raises:
        UserError: the choice names neither `base`, nor an expert, nor a file.
    """
    tokenizer = load_tokenizer(family.base.path, family)
    choice = family.models.chat_template
    if choice is None or choice == "base":
        return tokenizer
    expert = next((expert for expert in family.experts if expert.name == choice), None)
    if expert is not None:
        tokenizer.chat_template = load_tokenizer(expert.folder, family).chat_template
        return tokenizer
    if not Path(choice).is_file():
        raise UserError(f"models.chat_template: {choice!r} is neither `base`, nor an expert, nor a file")
    tokenizer.chat_template = Path(choice).read_text(encoding="utf-8")
    return tokenizer
