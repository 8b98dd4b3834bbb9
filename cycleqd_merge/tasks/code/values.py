"""Plain Python values as JSON and back: they leave a sandbox as data and are compared outside.

This file runs inside the box, too, where it is sent as text: it imports the standard library only.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

LARGE = 50_000
"""Number of parts above which a value is replaced by a digest."""


def pack(value: Any) -> Any:
    """A value as JSON values. A value that is not plain data becomes the name of its type, which equals nothing."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, int):
        return ["int", hex(int.__index__(value))]
    if isinstance(value, float):
        return float.__add__(value, 0.0)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, complex):
        return ["complex", value.real, value.imag]
    if isinstance(value, bytes):
        return ["bytes", bytes.hex(value)]
    if isinstance(value, dict):
        return ["dict", [[pack(key), pack(dict.__getitem__(value, key))] for key in dict.__iter__(value)]]
    kinds: tuple[Any, ...] = (list, tuple, set, frozenset)
    for kind in kinds:
        if isinstance(value, kind):
            return [kind.__name__, [pack(item) for item in kind.__iter__(value)]]
    return ["other", type(value).__name__]


def to_text(value: Any) -> str:
    """A value as one line of JSON; a very large one as the digest of its representation."""
    if _is_large(value):
        return json.dumps(["digest", hashlib.sha256(repr(value).encode(errors="surrogatepass")).hexdigest()])
    return json.dumps(pack(value))


def _is_large(value: Any) -> bool:
    """Whether a value has more than LARGE parts; 16 characters count as one."""
    pending, parts = [value], 0
    while pending and parts <= LARGE:
        part = pending.pop()
        parts += 1
        if isinstance(part, str | bytes):
            parts += len(part) // 16
        elif isinstance(part, dict | list | tuple | set | frozenset):
            if len(part) > LARGE:
                return True
            pending.extend(part.values() if isinstance(part, dict) else part)
    return parts > LARGE


class Other:
    """Placeholder for an error or a value that is not plain data; it equals nothing."""


def unpack(packed: Any) -> Any:
    """The value that `pack` packed.

    Raises:
        ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError: this is not a packed value.
    """
    if not isinstance(packed, list):
        return packed
    kind, content = packed[0], packed[1]
    if kind in ("other", "error"):
        return Other()
    if kind == "dict":
        return {unpack(key): unpack(value) for key, value in content}
    if kind == "digest":
        return f"value of digest {content}"
    if kind == "int":
        return int(content, 16)
    if kind == "bytes":
        return bytes.fromhex(content)
    if kind == "complex":
        return complex(content, packed[2])
    containers: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
    return containers[kind](unpack(item) for item in content)


def from_text(text: str) -> Any:
    """The value that `to_text` wrote; raises as `unpack`."""
    return unpack(json.loads(text))


def is_floats(value: Any) -> bool:
    """Whether a value is a float, or a list or tuple of floats only."""
    return isinstance(value, float) or (isinstance(value, list | tuple) and all(isinstance(i, float) for i in value))


def close(found: Any, wanted: Any, atol: float, rtol: float = 1e-7) -> bool:
    """Whether two values are equal up to small differences of their numbers, as in numpy's `allclose`."""
    if isinstance(wanted, list | tuple):
        same = type(found) is type(wanted) and len(found) == len(wanted)
        return same and all(close(*pair, atol, rtol) for pair in zip(found, wanted, strict=True))
    numbers = (int, float, complex)
    if not isinstance(found, numbers) or not isinstance(wanted, numbers):
        return False
    return found == wanted or (math.isfinite(abs(wanted)) and abs(found - wanted) <= atol + rtol * abs(wanted))
