"""Compare local contents with the files of a repository, without downloading them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from huggingface_hub.hf_api import RepoFile


def size_of(content: bytes | Path) -> int:
    """The size in bytes of a content in memory or of a file."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def has_content(published: RepoFile | None, content: bytes | Path) -> bool:
    """Whether a repository's file has exactly this content; False if the file does not exist (None)."""
    if published is None or published.size != size_of(content):
        return False
    if published.lfs is not None:
        return bool(published.lfs.sha256 == _digest("sha256", b"", content))
    return bool(published.blob_id == _digest("sha1", b"blob %d\0" % published.size, content))  # git's object id


def _digest(method: str, prefix: bytes, content: bytes | Path) -> str:
    digest = hashlib.new(method, prefix)
    if isinstance(content, bytes):
        digest.update(content)
    else:
        with content.open("rb") as file:
            while chunk := file.read(2**22):
                digest.update(chunk)
    return digest.hexdigest()
