"""Where this process's Hub is: chosen before `huggingface_hub` is imported, which reads its endpoint once."""

from __future__ import annotations

import socket


def free_socket() -> socket.socket:
    """A bound socket on a free port of this machine; nothing answers there until a server listens on it."""
    bound = socket.socket(proto=socket.IPPROTO_TCP)  # asyncio lets only those that say so answer without delay
    bound.bind(("127.0.0.1", 0))
    return bound


BOUND = free_socket()
URL = f"http://127.0.0.1:{BOUND.getsockname()[1]}"
