"""JSON from files that a disk may have damaged, or strangers written: read strictly, with limits."""

from __future__ import annotations

import json
import math
from typing import Any

MAX_DEPTH = 64
MAX_INTEGER = 2**64
"""Whole numbers must be below this, and their negatives too."""


def loads(text: str | bytes) -> Any:
    """The value of a JSON text, in UTF-8 if it is bytes.

    Raises:
        ValueError: not JSON, a key occurs twice, values are nested too deeply, a number is not finite or too large, or
            a text is not valid Unicode. The message is a few words.
    """
    try:
        value = json.loads(
            text.decode("utf-8") if isinstance(text, bytes) else text,
            object_pairs_hook=_object,
            parse_constant=_refuse,
        )
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except json.JSONDecodeError:
        raise ValueError("not JSON") from None
    except ValueError as error:
        raise ValueError("a number is too large" if "integer string" in str(error) else str(error)) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    _require_bounded(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key occurs twice")
    return value


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a number")


def _require_bounded(value: Any) -> None:
    """Check every value in a JSON value; without recursion, because it may be nested deeply.

    Raises:
        ValueError: see `loads`.
    """
    pending: list[tuple[Any, int]] = [(value, 0)]
    while pending:
        each, depth = pending.pop()
        if isinstance(each, str):
            if not each.isascii():
                _require_unicode(each)
        elif isinstance(each, float):
            if not math.isfinite(each):
                raise ValueError("a number is too large")
        elif isinstance(each, int):
            if not -MAX_INTEGER < each < MAX_INTEGER:
                raise ValueError("a number is too large")
        elif each is not None:
            if depth == MAX_DEPTH:
                raise ValueError("nested too deeply")
            if isinstance(each, dict):
                pending.extend((key, depth) for key in each)
                each = each.values()
            pending.extend((inner, depth + 1) for inner in each)


def _require_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("a text is not valid Unicode") from None
