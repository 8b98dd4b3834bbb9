"""Random draws that depend on their key alone: the same in every process, on every machine, in any order."""

from __future__ import annotations

import threading
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray


class _Reused(threading.local):
    """One generator per thread, set to one key after another: creating a Philox takes four times as long."""

    def __init__(self) -> None:
        self._philox = np.random.Philox(key=0)
        self._fresh = self._philox.state
        self._generator = np.random.Generator(self._philox)

    def keyed(self, key: bytes) -> np.random.Generator:
        """The generator at the start of a 16-byte key's stream; valid until the next call."""
        self._fresh["state"]["key"][:] = np.frombuffer(key, dtype="<u8")
        self._philox.state = self._fresh
        return self._generator


_REUSED = _Reused()


def generator(*key: int | str) -> np.random.Generator:
    """A generator on numpy's counter-based Philox with the key `key`.

    Keys that differ in any part, or in the order of their parts, give independent streams.
    """
    return np.random.Generator(np.random.Philox(key=int.from_bytes(_digest(*key), "little")))


def _digest(*key: int | str) -> bytes:
    return blake2b("\x1f".join(f"{type(part).__name__}:{part}" for part in key).encode(), digest_size=16).digest()


def new_seed(*key: int | str) -> int:
    """A 53-bit seed derived from `key` (every JSON reader keeps 53 bits)."""
    return int(_REUSED.keyed(_digest(*key)).integers(2**53))


def uniform(seed: int, tensor: str, size: int) -> NDArray[np.float64]:
    """`size` draws of U(0, 1), shape (size,), for the tensor named `tensor` and a mutation with seed `seed`."""
    return _REUSED.keyed(_digest(seed, tensor)).random(size)


def normal(seed: int, tensor: str, size: int) -> NDArray[np.float32]:
    """`size` draws of N(0, 1), float32 of shape (size,), for one tensor of a Gaussian mutation."""
    return generator(seed, tensor).standard_normal(size, dtype=np.float32)
