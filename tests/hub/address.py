"""The address of the local Hub, chosen before `huggingface_hub` is imported, which reads its endpoint once."""

from __future__ import annotations

import socket


def free_socket() -> socket.socket:
    """A socket bound to a free local port; a server may listen on it later."""
    bound = socket.socket(proto=socket.IPPROTO_TCP)  # without the protocol, asyncio does not set TCP_NODELAY
    bound.bind(("127.0.0.1", 0))
    return bound


BOUND = free_socket()
URL = f"http://127.0.0.1:{BOUND.getsockname()[1]}"
