"""Loading a tokenizer.json for a trial, in a child process: a hostile one can abort the process that loads it."""

from __future__ import annotations

import json
import math
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenizers

from cycleqd_merge.errors import first_line

_MOST_TOKENS, _MOST_ADDED_TOKENS, _LONGEST_TOKEN = 2_000_000, 100_000, 10_000
"""Several times what the largest vocabularies have; loading that many added tokens takes a minute."""
_MOST_GROWTH = 1000
"""Times by which normalisers and decoders may make a text longer, and items of a template around a text."""
PROBE = string.printable
"""Some errors in a tokenizer's files show only when it encodes a text."""


def problem_of(path: str) -> str:
    """What is wrong with a tokenizer.json; empty if it can be loaded and used."""
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    try:
        problem = _size_problem(json.loads(text))
        if problem:
            return problem
        tokenizer = tokenizers.Tokenizer.from_str(text)
        tokenizer.decode(tokenizer.encode(PROBE).ids)
    except RecursionError:
        return "nested too deeply"
    except BaseException as error:  # a panic of the library is no `Exception`
        return first_line(error)
    return ""


def _size_problem(stated: Any) -> str:
    model = stated.get("model") if isinstance(stated, dict) else None
    if not isinstance(model, dict):
        return "it describes no tokenizer"
    added, vocabulary = stated.get("added_tokens"), model.get("vocab")
    added, vocabulary = (each if isinstance(each, list | dict) else [] for each in (added, vocabulary))
    if len(vocabulary) > _MOST_TOKENS or len(added) > _MOST_ADDED_TOKENS:
        most = f"at most {_MOST_TOKENS} and {_MOST_ADDED_TOKENS} are possible"
        return f"{len(vocabulary)} tokens and {len(added)} added ones; {most}"
    texts = (each.get("content") for each in added if isinstance(each, dict))
    if any(isinstance(text, str) and len(text) > _LONGEST_TOKEN for text in texts):
        return f"an added token has more than {_LONGEST_TOKEN} characters"
    for part in ("normalizer", "decoder"):
        if math.prod(max(1, len(text)) for text in _replacements(stated.get(part))) > _MOST_GROWTH:
            return f"its {part} makes texts more than {_MOST_GROWTH} times longer"
    processor = stated.get("post_processor")
    if isinstance(processor, dict) and len(str(processor)) > _MOST_GROWTH * 100:
        return "its post_processor is too long"
    return ""


def _replacements(part: Any) -> Iterator[str]:
    """The texts that a normaliser or decoder, or one within it, puts in the place of others."""
    if isinstance(part, dict):
        if part.get("type") == "Replace" and isinstance(part.get("content"), str):
            yield part["content"]
        part = list(part.values())
    for each in part if isinstance(part, list) else []:
        yield from _replacements(each)
