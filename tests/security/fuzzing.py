"""Mutations of valid files: bytes, lines, and the values of JSON and YAML. Everything follows from a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    2**64,
    10**18,
    10**30,
    0.5,
    -0.0,
    1e-320,
    1e308,
    -1e308,
    float("nan"),
    float("inf"),
    "",
    "0",
    "0.5",
    "null",
    "\0",
    "\ud800",
    "\x1b[2J",
    "a" * 5000,
    "../../etc/passwd",
    "/etc/passwd",
    "~",
    "${HOME}",
    "{{ x }}",
    "{% for a in range(10**9) %}{% endfor %}",
    "(a+)+$",
    "@",
    "+",
    "@@+",
    "hf://x",
    [],
    {},
    [[]],
    [None],
    {"": None},
    {"a": {"a": {"a": {}}}},
    "genome",
    "session",
    "start",
    "result",
)
TOKENS = (b"\0", b"\n", b"\r", b"\xff", b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\\u", b"NaN", b"1e999",
          b"-", b"9" * 400, b"&a ", b"*a", b"<<: ", b"!!python/object:os.system ", b"\xef\xbb\xbf", b"[" * 2000,
          b'{"a":' * 2000, b"\t", b"# ", b"---\n", b"...\n", b"|\n", b"%")  # fmt: skip


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, delete, repeat, insert or move some bytes, or cut the rest off."""
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        if not data:
            return rng.choice(TOKENS)
        start = rng.randrange(len(data))
        end = min(len(data), start + rng.choice((1, 1, 2, 8, 64, 512)))
        match rng.randrange(8):
            case 0:
                data = data[:start] + bytes([data[start] ^ 1 << rng.randrange(8)]) + data[start + 1 :]
            case 1:
                data = data[:start] + data[end:]
            case 2:
                data = data[:end] + data[start:end] * rng.choice((1, 2, 30)) + data[end:]
            case 3:
                data = data[:start] + rng.choice(TOKENS) + data[start:]
            case 4:
                place = rng.randrange(len(data))
                data = data[:start] + data[place : place + end - start] + data[end:]
            case 5:
                data = data[:start]
            case 6:
                data = data[:start] + bytes(rng.randrange(256) for _ in range(end - start)) + data[end:]
            case 7:
                data = data[:start] + b"\0" * (end - start) + data[end:]
    return data


def mutated_lines(data: bytes, rng: random.Random) -> bytes:
    """Delete, repeat or swap lines."""
    lines = data.splitlines(keepends=True)
    if len(lines) < 2:
        return mutated_bytes(data, rng)
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(4):
        case 0:
            del lines[one]
        case 1:
            lines.insert(other, lines[one])
        case 2:
            lines[one], lines[other] = lines[other], lines[one]
        case 3:
            lines = lines[: one + 1]
    return b"".join(lines)


Place = tuple[Any, Any]
"""A dict or list, and a key or position in it."""


def places(value: Any) -> list[Place]:
    """Every place of a value inside another."""
    found: list[Place] = []
    pending = [value]
    while pending:
        part = pending.pop()
        keys: Any = part.keys() if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ()
        for key in list(keys):
            found.append((part, key))
            pending.append(part[key])
    return found


def mutated_values(value: Any, rng: random.Random, others: list[Any]) -> Any:
    """Change some values in place: to odd ones, to values from elsewhere, or to other types; remove or rename keys.

    others: values to take some from.
    """
    for _ in range(rng.choice((1, 1, 1, 1, 2, 4))):
        found = places(value)
        if not found:
            return rng.choice(ODD_VALUES)
        part, key = rng.choice(found)
        match rng.randrange(9):
            case 0 | 1 | 2:
                part[key] = rng.choice(ODD_VALUES)
            case 3:
                del part[key]
            case 4:
                part[key] = other_type(part[key])
            case 5:
                taken, at = rng.choice(places(rng.choice(others)) or [(part, key)])
                part[key] = json.loads(json.dumps(taken[at]))
            case 6:
                if isinstance(part, dict):
                    part[rng.choice(("x", "kind", "task", "format", "a" * 300, "", str(key) + "s"))] = part.pop(key)
                else:
                    part.extend(part[key:] * rng.choice((1, 3)))
            case 7:
                part[key] = nested(part[key], rng.choice((1, 2, 70, 400)), rng)
            case 8:
                if isinstance(part[key], int | float) and not isinstance(part[key], bool):
                    part[key] *= rng.choice((-1, 1.0000001, 2, 10**6, 10**12, 0.1))
                else:
                    part[key] = [part[key]] * rng.choice((1, 2, 50))
    return value


def other_type(value: Any) -> Any:
    """The same value as a value of another JSON type."""
    if isinstance(value, str):
        return list(value[:50])
    if isinstance(value, list):
        return {str(place): each for place, each in enumerate(value)}
    if isinstance(value, dict):
        return list(value.values())
    return str(value)


def nested(value: Any, depth: int, rng: random.Random) -> Any:
    for _ in range(depth):
        value = [value] if rng.randrange(2) else {"a": value}
    return value


def mutated_json_lines(data: bytes, rng: random.Random) -> bytes:
    """Mutate the values of some lines of JSON; without checksums, so that the values are looked at."""
    lines = [json.loads(line) for line in data.splitlines()]
    for line in lines:
        line.pop("crc", None)
    weights = [8.0, 8.0, *([1.0] * len(lines))][: len(lines)]
    for _ in range(rng.choice((1, 1, 2))):
        place = rng.choices(range(len(lines)), weights)[0]
        lines[place] = mutated_values(lines[place], rng, lines)
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def mutated_json(data: bytes, rng: random.Random) -> bytes:
    value = json.loads(data)
    return json.dumps(mutated_values(value, rng, [json.loads(data)])).encode()


def mutated_yaml(data: bytes, rng: random.Random) -> bytes:
    """Mutate the values of a YAML file; JSON is YAML, so the result is written as JSON."""
    import yaml

    value = json.loads(json.dumps(yaml.safe_load(data)))
    return json.dumps(mutated_values(value, rng, [json.loads(json.dumps(value))])).encode()


Mutation = Callable[[bytes, random.Random], bytes]


def mutated(data: bytes, rng: random.Random, values: Mutation) -> bytes:
    """Mutate a file in one of the ways; `values` mutates what it holds."""
    return rng.choices((values, mutated_bytes, mutated_lines), (6, 3, 1))[0](data, rng)


def mutated_json_of_any_form(data: bytes, rng: random.Random) -> bytes:
    """`mutated_json` of a file with one value, `mutated_json_lines` of one with several."""
    try:
        return mutated_json(data, rng)
    except ValueError:
        return mutated_json_lines(data, rng)
