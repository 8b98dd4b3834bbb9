"""The mark of a recipe that somebody else published, and how downloads and public addresses are recognised."""

from __future__ import annotations

import re
import urllib.parse
from pathlib import Path

from pydantic import Field

from cycleqd_merge.config.validation_errors import Location
from cycleqd_merge.config.values import StrictConfig


class ForeignConfig(StrictConfig):
    """Where a published recipe came from, and what you allow it. `pull` writes this section; do not write it yourself.

    While it is set, only values that are harmless in a stranger's recipe are accepted; see docs/hub.md.
    """

    folder: str = ""
    """The folder of the pulled run: the only one that the recipe may name files in."""
    own: list[list[int | str]] = Field(default_factory=list)
    """The keys that you set yourself, such as `[experts, math]`; they are trusted."""
    trust_remote_code: bool = False
    """Allow the recipe to run code."""

    def is_own(self, location: Location) -> bool:
        """Whether the user set the key at `location`, or one above it."""
        return any(location[: len(key)] == tuple(key) for key in self.own)

    def has_own_in(self, location: Location) -> bool:
        """Whether the user set a key below `location`."""
        return any(tuple(key[: len(location)]) == location for key in self.own)


def is_download(path: Path) -> bool:
    """Whether `huggingface_hub` downloaded a file from a repository: into its cache, or with `--local-dir`.

    Symbolic links to such a file, or to a folder above it, make no difference.
    """
    path = path.absolute()
    return any(map(_is_download, {path, path.parent.resolve() / path.name, path.resolve()}))


_REPOSITORIES = ("datasets--", "models--", "spaces--")


def _is_download(path: Path) -> bool:
    for folder in path.parents:
        if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith(_REPOSITORIES):
            return True
        if folder.name == "blobs" and folder.parent.name.startswith(_REPOSITORIES):
            return True
        record = folder / ".cache" / "huggingface" / "download" / path.relative_to(folder)
        if record.with_name(f"{record.name}.metadata").is_file():
            return True
    return False


_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_commit(sha: object) -> bool:
    """Whether a value is the full id of a commit, which no branch or tag can change."""
    return isinstance(sha, str) and _COMMIT.fullmatch(sha) is not None


_HOST = re.compile(r"([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z][a-z0-9-]*[a-z0-9]")
"""A name with a top-level domain: neither an address in any notation nor a name of the local network."""
_PRIVATE = {
    "arpa",
    "corp",
    "home",
    "internal",
    "intranet",
    "lan",
    "local",
    "localdomain",
    "localhost",
    "onion",
    "private",
}


def is_public_address(url: str) -> bool:
    """Whether a URL is one of a public web server over TLS, whose certificate then proves its name."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return False
    secure = parts.scheme == "https" and port in (None, 443) and "@" not in parts.netloc
    return secure and _HOST.fullmatch(host) is not None and host.rpartition(".")[2] not in _PRIVATE
