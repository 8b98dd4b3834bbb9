"""Where this process's Hub is: chosen before `huggingface_hub` is imported, which reads its endpoint once."""

from __future__ import annotations

import socket

BOUND = socket.socket(proto=socket.IPPROTO_TCP)  # asyncio lets only those that say so answer without delay
BOUND.bind(("127.0.0.1", 0))
URL = f"http://127.0.0.1:{BOUND.getsockname()[1]}"
