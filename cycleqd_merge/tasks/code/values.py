"""Python values as JSON and back: they leave a sandbox as data and are compared outside.

This file runs inside the box, too, where it is sent as text: it imports the standard library only. A value is known by
the names of its type's bases, so that nothing is imported for types that a program does not use; a class that takes
such a name lies about its own values only.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import json

TYPE_CHECKING = False  # importing `typing` would double the time that a box takes to start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

LARGE = 50_000
"""Number of parts above which a value is replaced by a digest."""
_PLAIN = (int, float, str, list, tuple, bool)
_NUMBERS = {*"bBhHiIlLqQefdFD?"}
"""numpy's characters of types that every platform has."""


def _pairs(value: Any) -> list[Any]:
    return [[pack(key), pack(dict.__getitem__(value, key))] for key in dict.__iter__(value)]


def _items(kind: Any) -> Callable[[Any], list[Any]]:
    return lambda value: [pack(item) for item in kind.__iter__(value)]


def _iterated(value: Any) -> list[Any]:
    items = [pack(item) for item in itertools.islice(value, LARGE + 1)]
    if len(items) > LARGE:
        raise ValueError("an iterator that is endless or too long")
    return items


def _scalar(value: Any) -> list[Any]:
    if value.dtype.char not in _NUMBERS:
        raise TypeError("not a number")
    return [value.dtype.char, pack(value.item())]


def _array(value: Any) -> list[Any]:
    char = "O" if value.dtype.kind in "US" else value.dtype.char
    if char not in _NUMBERS | {"O"}:
        raise TypeError("not an array of plain values")
    plain = importlib.import_module("numpy").asarray(value)  # a matrix has two dimensions, whatever is done with it
    return [char, list(plain.shape), [pack(item) for item in plain.ravel().tolist()]]


_PARTS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "builtins.int": ("int", lambda value: hex(int.__index__(value))),
    "builtins.float": ("float", lambda value: float.__add__(value, 0.0)),
    "builtins.str": ("str", lambda value: str.__str__(value)),
    "builtins.complex": ("complex", lambda value: [value.real, value.imag]),
    "builtins.bytes": ("bytes", lambda value: bytes.hex(value)),
    "builtins.bytearray": ("bytearray", lambda value: bytearray.hex(value)),
    "builtins.memoryview": ("bytes", lambda value: value.hex()),
    "builtins.list": ("list", _items(list)),
    "builtins.tuple": ("tuple", _items(tuple)),
    "builtins.set": ("set", _items(set)),
    "builtins.frozenset": ("frozenset", _items(frozenset)),
    "builtins.range": ("range", lambda value: [pack(each) for each in (value.start, value.stop, value.step)]),
    "builtins.dict_keys": ("keys", lambda value: [pack(item) for item in value]),
    "builtins.dict_items": ("items", lambda value: [[pack(key), pack(item)] for key, item in value]),
    "builtins.dict_values": ("iterator", _iterated),
    "builtins.type": ("type", lambda value: value.__name__ if value.__module__ == "builtins" else 0),
    "builtins.ellipsis": ("ellipsis", lambda value: 0),
    "collections.Counter": ("Counter", _pairs),
    "collections.OrderedDict": ("OrderedDict", _pairs),
    "builtins.dict": ("dict", _pairs),
    "collections.deque": ("deque", lambda value: [pack(item) for item in value]),
    "collections.ChainMap": ("derived", lambda value: pack(dict(value))),
    "collections.UserDict": ("derived", lambda value: pack(dict(value))),
    "collections.UserList": ("derived", lambda value: pack(list(value))),
    "collections.UserString": ("derived", lambda value: pack(str(value))),
    "builtins.mappingproxy": ("derived", lambda value: pack(dict(value))),
    "array.array": ("array", lambda value: [value.typecode, [pack(item) for item in value]]),
    "fractions.Fraction": ("Fraction", lambda value: [hex(value.numerator), hex(value.denominator)]),
    "decimal.Decimal": ("Decimal", lambda value: str(value)),
    "datetime.datetime": ("datetime", lambda value: value.isoformat()),
    "datetime.date": ("date", lambda value: value.isoformat()),
    "datetime.time": ("time", lambda value: value.isoformat()),
    "datetime.timedelta": ("timedelta", lambda value: [value.days, value.seconds, value.microseconds]),
    "numpy.ndarray": ("ndarray", _array),
    "numpy.generic": ("scalar", _scalar),
}
"""The name of a type -> the name of its packed values, and their content as JSON values."""


def pack(value: Any) -> Any:
    """A value as JSON values. A value that is not plain data becomes the name of its type, which equals nothing."""
    if value is None or value is True or value is False or type(value) is str:
        return value
    for base in type(value).__mro__:
        found = _PARTS.get(f"{base.__module__}.{base.__qualname__}")
        if found is not None:
            name, parts = found
            return parts(value) if name in ("float", "str") else [name, parts(value)]
    if hasattr(type(value), "__next__"):
        return ["iterator", _iterated(value)]
    return ["other", type(value).__name__]


def to_text(value: Any) -> str:
    """A value as one line of JSON; a very large one as the digest of its representation."""
    if _is_large(value):
        parts = value.items() if isinstance(value, dict) else value
        shown = "".join(sorted(map(repr, parts))) if isinstance(value, dict | set | frozenset) else repr(value)
        hashlib = importlib.import_module("hashlib")
        return json.dumps(["digest", hashlib.sha256(shown.encode(errors="surrogatepass")).hexdigest()])
    packed = pack(value)
    if isinstance(value, _PLAIN) and type(value) not in _PLAIN and packed[:1] != ["scalar"]:
        packed = ["derived", packed]  # such as a named tuple, which is equal to a tuple, but never almost equal
    return json.dumps(packed)


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
    """Placeholder for a value that is not plain data; it equals nothing but itself."""


def unpack(packed: Any) -> Any:
    """The value that `pack` packed.

    Raises:
        ValueError, TypeError, KeyError, IndexError, ArithmeticError, RecursionError: this is not a packed value.
    """
    if not isinstance(packed, list):
        return packed
    name, content = packed
    return _BUILD[name](content)


def _unpacked(content: Any) -> list[Any]:
    return [unpack(item) for item in content]


def _dict(content: Any) -> dict[Any, Any]:
    return {unpack(key): unpack(value) for key, value in content}


_TYPES: tuple[Any, ...] = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    list,
    tuple,
    set,
    frozenset,
    dict,
    range,
    object,
    type,
)
_BUILTIN_TYPES: dict[str, Any] = {kind.__name__: kind for kind in (*_TYPES, type(None))}


def _from(module: str, name: str, build: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    """A function that builds a value with a type of a module, which is imported at the first call."""
    return lambda content: build(getattr(importlib.import_module(module), name), content)


def _number(text: Any) -> int:
    return int(text, 16)


@functools.cache
def _derived(kind: Any) -> Any:
    return type("Derived", (kind,), {})


def _build_derived(content: Any) -> Any:
    value: Any = unpack(content)
    kind: Any = type(value)
    return _derived(kind)(value)


def _checked(char: Any, allowed: set[str]) -> str:
    if char not in allowed:
        raise ValueError("unknown type of numbers")
    return str(char)


def _build_array(array: Any, content: Any) -> Any:
    char, shape, items = content
    kind = _checked(char, _NUMBERS | {"O"})
    flat = importlib.import_module("numpy").empty(len(items), object)
    flat[:] = _unpacked(items)
    return flat.astype(kind).reshape(shape)


_BUILD: dict[str, Callable[[Any], Any]] = {
    "int": _number,
    "complex": lambda content: complex(*content),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "list": _unpacked,
    "tuple": lambda content: tuple(_unpacked(content)),
    "set": lambda content: set(_unpacked(content)),
    "frozenset": lambda content: frozenset(_unpacked(content)),
    "range": lambda content: range(*_unpacked(content)),
    "keys": lambda content: dict.fromkeys(_unpacked(content)).keys(),
    "items": lambda content: _dict(content).items(),
    "iterator": lambda content: iter(_unpacked(content)),
    "type": lambda content: _BUILTIN_TYPES.get(content) or Other(),
    "ellipsis": lambda content: ...,
    "dict": _dict,
    "Counter": _from("collections", "Counter", lambda kind, content: kind(_dict(content))),
    "OrderedDict": _from("collections", "OrderedDict", lambda kind, content: kind(_dict(content))),
    "deque": _from("collections", "deque", lambda kind, content: kind(_unpacked(content))),
    "array": _from("array", "array", lambda kind, content: kind(content[0], _unpacked(content[1]))),
    "Fraction": _from("fractions", "Fraction", lambda kind, content: kind(*map(_number, content))),
    "Decimal": _from("decimal", "Decimal", lambda kind, content: kind(content)),
    "datetime": _from("datetime", "datetime", lambda kind, content: kind.fromisoformat(content)),
    "date": _from("datetime", "date", lambda kind, content: kind.fromisoformat(content)),
    "time": _from("datetime", "time", lambda kind, content: kind.fromisoformat(content)),
    "timedelta": _from("datetime", "timedelta", lambda kind, content: kind(*content)),
    "ndarray": _from("numpy", "ndarray", _build_array),
    "scalar": _from("numpy", "dtype", lambda kind, c: kind(_checked(c[0], _NUMBERS)).type(unpack(c[1]))),
    "derived": _build_derived,
    "digest": lambda content: f"value of digest {content}",
    "other": lambda content: Other(),
}
"""The name of a packed value -> the function that builds the value from its content."""


def from_text(text: str) -> Any:
    """The value that `to_text` wrote; raises as `unpack`."""
    return unpack(json.loads(text))
