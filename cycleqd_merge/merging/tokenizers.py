"""The tokenizers of a model family, and the chat template that the recipe chose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from cycleqd_merge.config.recipe import ModelsConfig
from cycleqd_merge.errors import ModelError, RecipeError, first_line

if TYPE_CHECKING:
    from cycleqd_merge.merging.family import Expert, ModelFamily  # which opens tokenizers for `vocabulary: union`

_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "tekken.json", "*.model", "*.tiktoken", "*.spm")
_UNLIMITED = 10**9  # a tokenizer without a limit reports 10^30


def has_tokenizer(folder: Path) -> bool:
    """Whether a model folder contains a tokenizer."""
    return any(path.is_file() for pattern in _VOCABULARIES for path in folder.glob(pattern))


def load_tokenizer(folder: Path, family: ModelFamily) -> PreTrainedTokenizerBase:
    """The tokenizer in a model folder.

    Raises:
        ModelError: it cannot be loaded.
    """
    return open_tokenizer(folder, family.models)


def open_tokenizer(folder: Path, models: ModelsConfig) -> PreTrainedTokenizerBase:
    """As `load_tokenizer`, before there is a family.

    Raises:
        ModelError: it cannot be loaded.
    """
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=models.trust_remote_code)
    except Exception as error:  # tokenizers raises nothing more specific
        if "trust_remote_code" in str(error) and not models.trust_remote_code:
            raise ModelError(
                f"{folder}: the tokenizer requires Python code that its repository contains; read that code, then "
                "allow it with `models.trust_remote_code: true`"
            ) from error
        if not has_tokenizer(folder):  # some have no files
            raise ModelError(f"{folder}: no tokenizer; add its files, such as tokenizer.json") from error
        raise ModelError(f"{folder}: the tokenizer cannot be loaded: {first_line(error)}") from error
    return tokenizer


def id_bound(tokenizer: PreTrainedTokenizerBase) -> int:
    """One more than the largest id of a token, added ones included; ids may have gaps."""
    return 1 + max(tokenizer.get_vocab().values(), default=-1)


def family_tokenizer(family: ModelFamily) -> PreTrainedTokenizerBase:
    """The base's tokenizer with the chat template that the recipe chose.

    Raises:
        RecipeError: the choice is neither `base`, nor an expert, nor a file that can be read.
        ModelError: a tokenizer cannot be loaded.
    """
    tokenizer = load_tokenizer(family.base.path, family)
    choice = family.models.chat_template
    if choice is None or choice == "base":
        return tokenizer
    expert = chat_expert(family)
    if expert is not None:
        tokenizer.chat_template = load_tokenizer(expert.folder, family).chat_template
        return tokenizer
    if not Path(choice).is_file():
        raise RecipeError(f"models.chat_template: {choice!r} is neither `base`, nor an expert, nor a file")
    try:
        tokenizer.chat_template = Path(choice).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file in UTF-8"
        raise RecipeError(f"models.chat_template: {choice}: cannot be read: {reason}") from error
    return tokenizer


def chat_expert(family: ModelFamily) -> Expert | None:
    """The expert whose chat template the recipe chose; None if it chose none, the base's, or a file."""
    choice = family.models.chat_template
    return None if choice == "base" else next((each for each in family.experts if each.name == choice), None)


def context_length(family: ModelFamily, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The model's limit in tokens, for prompt and answer together; None if neither model nor tokenizer states one."""
    stated = getattr(family.base.config.get_text_config(), "max_position_embeddings", None)
    limits = [limit for limit in (stated, tokenizer.model_max_length) if limit and 0 < limit < _UNLIMITED]
    return int(min(limits, default=0)) or None
