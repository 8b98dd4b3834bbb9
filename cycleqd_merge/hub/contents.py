"""Whether a file of a repository has a given content, told without downloading it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from huggingface_hub.hf_api import RepoFile


def size_of(content: bytes | Path) -> int:
    """Bytes of a content in memory or on disk."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def has_content(there: RepoFile | None, content: bytes | Path) -> bool:
    """Whether the file is there and has just this content."""
    if there is None or there.size != size_of(content):
        return False
    if there.lfs is not None:
        return bool(there.lfs.sha256 == _digest("sha256", b"", content))
    return bool(there.blob_id == _digest("sha1", b"blob %d\0" % there.size, content))  # as git does


def _digest(method: str, before: bytes, content: bytes | Path) -> str:
    digest = hashlib.new(method, before)
    if isinstance(content, bytes):
        digest.update(content)
    else:
        with content.open("rb") as file:
            while chunk := file.read(2**22):
                digest.update(chunk)
    return digest.hexdigest()
