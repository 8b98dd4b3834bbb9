"""Plain Python values as JSON and back, so that they cross from a sandbox as data and are compared outside.

Kept free of other imports: it runs on both sides.
"""

from __future__ import annotations

import json
import math
from typing import Any


def pack(value: Any) -> Any:
    """A value as JSON values. What is no plain data becomes its type's name, which equals nothing."""
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
    """A value as one line of JSON."""
    return json.dumps(pack(value))


class Other:
    """Stands for a value that is no plain data."""


def unpack(packed: Any) -> Any:
    """The value of what `pack` gave.

    Raises:
        ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError: nothing that `pack` gives.
    """
    if not isinstance(packed, list):
        return packed
    kind, content = packed[0], packed[1]
    if kind == "other":
        return Other()
    if kind == "dict":
        return {unpack(key): unpack(value) for key, value in content}
    if kind == "int":
        return int(content, 16)
    if kind == "bytes":
        return bytes.fromhex(content)
    if kind == "complex":
        return complex(content, packed[2])
    containers: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
    return containers[kind](unpack(item) for item in content)


def from_text(text: str) -> Any:
    """The value of a line of JSON; raises as `unpack`."""
    return unpack(json.loads(text))


def is_floats(value: Any) -> bool:
    """Whether a value is a float, or a list or tuple of nothing else."""
    return isinstance(value, float) or (isinstance(value, list | tuple) and all(isinstance(i, float) for i in value))


def close(found: Any, wanted: Any, atol: float, rtol: float = 1e-7) -> bool:
    """Whether two values are the same but for small differences of their numbers, as numpy's `allclose` has it."""
    if isinstance(wanted, list | tuple):
        same = type(found) is type(wanted) and len(found) == len(wanted)
        return same and all(close(*pair, atol, rtol) for pair in zip(found, wanted, strict=True))
    numbers = (int, float, complex)
    if not isinstance(found, numbers) or not isinstance(wanted, numbers):
        return False
    return found == wanted or (math.isfinite(abs(wanted)) and abs(found - wanted) <= atol + rtol * abs(wanted))
