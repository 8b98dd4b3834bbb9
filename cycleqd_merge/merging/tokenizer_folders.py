"""The tokenizer in a model's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from cycleqd_merge.config.recipe import ModelsConfig
from cycleqd_merge.errors import CycleQDError, ModelError, first_line
from cycleqd_merge.merging.file_limits import require_tokenizer
from cycleqd_merge.merging.tokenizer_trial import PROBE

_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "tekken.json", "*.model", "*.tiktoken", "*.spm")
_LONGEST_TEMPLATE = 2**20


def has_tokenizer(folder: Path) -> bool:
    """Whether a model folder contains a tokenizer."""
    return any(path.is_file() for pattern in _VOCABULARIES for path in folder.glob(pattern))


def open_tokenizer(folder: Path, models: ModelsConfig) -> PreTrainedTokenizerBase:
    """The tokenizer in a model folder.

    Raises:
        ModelError: it cannot be loaded.
    """
    try:
        require_tokenizer(folder)
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=models.trust_remote_code)
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise TypeError(f"tokenizer_config.json names {type(tokenizer).__name__}, which is no tokenizer")
        if len(str(tokenizer.chat_template)) > _LONGEST_TEMPLATE:
            raise ValueError(f"its chat template has more than {_LONGEST_TEMPLATE} characters")
        tokenizer.encode(PROBE, verbose=False)  # some errors in its files show only here
    except BaseException as error:  # tokenizers raises nothing more specific, and its panics are no `Exception`
        if isinstance(error, KeyboardInterrupt | SystemExit | CycleQDError):
            raise
        if "trust_remote_code" in str(error) and not models.trust_remote_code:
            raise ModelError(
                f"{folder}: the tokenizer requires Python code that its repository contains; read that code, then "
                "allow it with `models.trust_remote_code: true`"
            ) from error
        if not has_tokenizer(folder):
            raise ModelError(f"{folder}: no tokenizer; add its files, such as tokenizer.json") from error
        raise ModelError(f"{folder}: the tokenizer cannot be loaded: {first_line(error)}") from error
    return tokenizer


def id_bound(tokenizer: PreTrainedTokenizerBase) -> int:
    """One more than the largest id of a token, added ones included; ids may have gaps."""
    return 1 + max(tokenizer.get_vocab().values(), default=-1)
