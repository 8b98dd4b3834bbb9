"""A last look at everything that is about to be published, for credentials."""

from __future__ import annotations

import base64
import gzip
import html
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, quote_plus

import huggingface_hub

from cycleqd_merge.errors import RecipeError
from cycleqd_merge.hub.portable import ROWS_FOLDER
from cycleqd_merge.redaction import SHORTEST, TOKEN_FORMS, credentials

_BINARY = (".safetensors", ".png")
"""Files that hold numbers only; every other file is searched."""
_VOCABULARY = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt")
"""Files that contain most words: values of letters alone are not looked for in them."""
_OWN = (".yaml", ".yml", ".jsonl", ".md", ".html", ".jinja", "genome.json", "revisions.json")
"""Files of which this program wrote every byte: these are searched for tokens of any service, too."""
_TOKENS = {**TOKEN_FORMS, "a URL with a password": r"://[^\s/?#@:\"'\\<>${}]+:[^\s/?#@\"'\\<>]+@"}
_COMPILED = {what: re.compile(pattern.encode()) for what, pattern in _TOKENS.items()}


def require_no_credentials(files: Mapping[str, bytes | Path]) -> None:
    """Refuse to publish values of environment variables that may be credentials, and the user's token.

    They are looked for as they are, and as JSON, URLs, HTML and base64 spell them.

    files: contents by path in the repository.

    Raises:
        RecipeError: a file contains one; names file and variable, not the value.
    """
    values = credentials()
    token = huggingface_hub.get_token() or ""
    spelled = {name: _spellings(value) for name, value in values.items() if value != token}
    if len(token) >= SHORTEST:
        spelled[""] = _spellings(token)
    for path, content in files.items():
        name = path.rpartition("/")[2]
        for text in (path.encode("utf-8", "surrogateescape"), *_texts(name, content)):
            for variable, spellings in spelled.items():
                if name in _VOCABULARY and values.get(variable, "").isalpha():
                    continue
                if any(each in text for each in spellings):
                    _refuse(path, variable)
            if name.endswith(_OWN) and not path.startswith(f"{ROWS_FOLDER}/"):
                _require_no_tokens(path, text)


def _refuse(path: str, variable: str) -> None:
    if not variable:
        raise RecipeError(f"hub: {path} contains your token and was not pushed; remove the token from the recipe")
    raise RecipeError(
        f"hub: {path} contains the value of the environment variable {variable} and was not pushed; remove the value "
        "from the run's recipe and files, or unset the variable if it is no secret"
    )


def _require_no_tokens(path: str, text: bytes) -> None:
    for what, pattern in _COMPILED.items():
        if (found := pattern.search(text)) is not None:
            line = text.count(b"\n", 0, found.start()) + 1
            raise RecipeError(f"hub: {path}:{line} contains {what} and was not pushed; remove it from the run's recipe")


def _spellings(value: str) -> set[bytes]:
    """A value as it is, and as JSON, URLs, HTML and base64 spell it."""
    plain = value.encode("utf-8", "surrogateescape")
    found = {value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    found |= {quote(value, errors="replace"), quote(value, safe="", errors="replace")}
    found |= {quote_plus(value, errors="replace"), html.escape(value), value.replace("'", "''")}
    found |= {plain.hex(), plain.hex().upper()}
    spelled = {plain, *(each.encode("utf-8", "surrogateescape") for each in found)}
    for offset in range(3):  # its place among other bytes decides which of three forms base64 gives it
        whole = plain[: offset + (len(plain) - offset) // 3 * 3][offset:]
        if len(whole) >= SHORTEST - 2:
            spelled |= {base64.b64encode(whole), base64.urlsafe_b64encode(whole)}
    return spelled


def _texts(name: str, content: bytes | Path) -> Iterator[bytes]:
    """The readable bytes of a file: those inside Parquet and gzip files too."""
    if name.endswith(_BINARY):
        return
    data = content.read_bytes() if isinstance(content, Path) else content
    yield data
    if name.endswith(".parquet"):
        import pyarrow
        import pyarrow.parquet

        try:
            for batch in pyarrow.parquet.ParquetFile(io.BytesIO(data)).iter_batches():
                yield str(batch.to_pylist()).encode("utf-8", "surrogateescape")
        except pyarrow.ArrowException:
            return  # no Parquet file, whatever its name: its bytes were searched
    if name.endswith(".gz"):
        try:
            yield gzip.decompress(data)
        except (OSError, EOFError, zlib.error):
            return
