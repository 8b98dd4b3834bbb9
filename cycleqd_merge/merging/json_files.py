"""JSON files of models, read and edited."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from cycleqd_merge.errors import ModelError, first_line

MOST_BYTES = 64 * 2**20
"""Larger JSON files are refused; indexes and configurations of the largest models have less than 20 MB."""


def read_json(path: Path) -> Any:
    """A JSON file's value; None if there is no such file.

    Raises:
        ValueError: it is not JSON, too large, or nested too deeply.
    """
    if not path.is_file():
        return None
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path.name}: larger than {MOST_BYTES // 2**20} MiB")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path.name}: nested too deeply") from None


def json_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is no such file.

    Raises:
        ModelError: it is not a JSON object.
    """
    try:
        value = read_json(path)
    except ValueError as error:
        raise ModelError(f"{path}: not valid JSON: {first_line(error)}") from error
    if value is not None and not isinstance(value, dict):
        raise ModelError(f"{path}: not a JSON object")
    return value or {}


def edited(source: Path | bytes, changes: Mapping[str, Any], removed: Collection[str] = ()) -> bytes:
    """A JSON object with some keys changed or removed; the others, their order and the indentation stay."""
    text = file_bytes(source).decode()
    value = {key: each for key, each in json.loads(text).items() if key not in removed} | dict(changes)
    indent = re.search(r"^\{\r?\n([ \t]+)", text)
    ending = "\n" if text.endswith("\n") else ""
    return (json.dumps(value, indent=indent[1] if indent else None, ensure_ascii=text.isascii()) + ending).encode()


def file_bytes(source: Path | bytes) -> bytes:
    """The bytes of a file, or the given ones."""
    return source if isinstance(source, bytes) else source.read_bytes()
