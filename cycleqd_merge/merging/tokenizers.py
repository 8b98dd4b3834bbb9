"""The tokenizers of a model family, and the chat template that the recipe chose."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from cycleqd_merge.errors import RecipeError
from cycleqd_merge.merging.family import Expert, ModelFamily
from cycleqd_merge.merging.tokenizer_folders import open_tokenizer

_CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length")
"""The names of a model's context length in the configurations of different architectures, as vLLM reads them."""
_UNLIMITED = 10**9  # a tokenizer without a limit reports 10^30


def load_tokenizer(folder: Path, family: ModelFamily) -> PreTrainedTokenizerBase:
    """The tokenizer in a model folder.

    Raises:
        ModelError: it cannot be loaded.
    """
    return open_tokenizer(folder, family.models)


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


def context_length(family: ModelFamily, tokenizer: PreTrainedTokenizerBase, stated: int | None = None) -> int | None:
    """The limit in tokens, for prompt and answer together: the smallest of the model's, its tokenizer's and `stated`.

    stated: the engine's own limit. None if there is no limit.
    """
    config = family.base.config.get_text_config()
    own = [getattr(config, name, None) for name in _CONTEXT_NAMES]
    if (longer := getattr(config, "model_max_length", None)) is not None:  # Command-R states both
        own = [longer]
    limits = [limit for limit in (*own, tokenizer.model_max_length, stated) if isinstance(limit, int | float)]
    return int(min((limit for limit in limits if 0 < limit < _UNLIMITED), default=0)) or None
