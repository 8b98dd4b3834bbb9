"""The Hub's state: users, contents by digest, and repositories as commits over trees of entries."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.hub.server.refusal import Refused

KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
LARGE = (".safetensors", ".bin", ".parquet", ".png", ".jpg", ".npz", ".pt", ".gguf", ".zip", ".model")
"""Endings that a new repository's .gitattributes gives to LFS."""


def now() -> str:
    """The time as the Hub writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


@dataclass(frozen=True)
class User:
    """A user by token. role: `read` or `write`."""

    name: str
    token: str
    role: str = "write"
    orgs: tuple[str, ...] = ()

    def may_write(self, namespace: str) -> bool:
        """Whether the token has write access to `namespace`."""
        return self.role == "write" and self.is_member(namespace)

    def is_member(self, namespace: str) -> bool:
        """Whether it is the user's own namespace or that of one of their organisations."""
        return namespace in (self.name, *self.orgs)


@dataclass(frozen=True)
class Entry:
    """A file in a tree: content by SHA-256, git object id, size, and the size of its LFS pointer if it has one."""

    sha256: str
    oid: str
    size: int
    pointer: int | None = None

    @property
    def etag(self) -> str:
        """The content's id for clients."""
        return self.oid if self.pointer is None else self.sha256


class Contents:
    """Files by their SHA-256, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, sha256: str) -> Path:
        """The path of a content, which may be missing."""
        return self.folder / sha256

    def store(self, data: bytes) -> Entry:
        """Store a regular file."""
        sha256 = hashlib.sha256(data).hexdigest()
        self.path(sha256).write_bytes(data)
        return Entry(sha256, git_oid(data), len(data))

    def large(self, sha256: str) -> Entry:
        """The entry of an LFS file, whose content must have been uploaded."""
        if not self.path(sha256).is_file():
            raise Refused(400, f"LFS pointer points to a file that does not exist: {sha256}")
        size = self.path(sha256).stat().st_size
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
        return Entry(sha256, git_oid(pointer), size, len(pointer))


def git_oid(data: bytes) -> str:
    """The git object id of a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


Tree = Mapping[str, Entry]


@dataclass(frozen=True)
class Commit:
    """A commit: all files, its parent and its message."""

    tree: Tree
    parent: str | None
    title: str
    message: str
    author: str
    date: str = field(default_factory=now)


@dataclass
class PullRequest:
    """A pull request to `main`. base: the commit of `main` when it was created. status: open, closed or merged."""

    title: str
    author: str
    base: str
    status: str = "open"
    merged: str | None = None
    comments: list[str] = field(default_factory=list)
    created: str = field(default_factory=now)


class Repo:
    """A repository. gated: only users in `granted` may read its files, but everybody can see that it exists."""

    def __init__(self, kind: str, name: str, first: Tree, private: bool = False) -> None:
        self.kind, self.name, self.private = kind, name, private
        self.gated: str | bool = False
        self.granted: set[str] = set()
        self.created = now()
        self.commits: dict[str, Commit] = {}
        self.pull_requests: dict[int, PullRequest] = {}
        self.refs = {"refs/heads/main": self.add(Commit(first, None, "initial commit", "", self.namespace))}

    @property
    def namespace(self) -> str:
        """The user or organisation that owns it."""
        return self.name.split("/")[0]

    @property
    def path(self) -> str:
        """Its path on the web."""
        return f"/{self.name}" if self.kind == "model" else f"/{self.kind}s/{self.name}"

    def add(self, commit: Commit) -> str:
        """Store a commit; no ref points to it yet."""
        oid = secrets.token_hex(20)
        self.commits[oid] = commit
        return oid

    def resolve(self, revision: str) -> str:
        """The commit of a branch, tag, ref or id."""
        for ref in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if ref in self.refs:
                return self.refs[ref]
        if re.fullmatch(r"[0-9a-f]{7,40}", revision):
            found = [oid for oid in self.commits if oid.startswith(revision)]
            if len(found) == 1:
                return found[0]
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def tree(self, revision: str = "main") -> Tree:
        """The files at a revision."""
        return self.commits[self.resolve(revision)].tree

    def history(self, revision: str = "main") -> list[str]:
        """The commits of a revision, newest first."""
        oid: str | None = self.resolve(revision)
        found = []
        while oid is not None:
            found.append(oid)
            oid = self.commits[oid].parent
        return found

    @property
    def tags(self) -> dict[str, str]:
        """Commits by tag."""
        return {ref.removeprefix("refs/tags/"): oid for ref, oid in self.refs.items() if ref.startswith("refs/tags/")}
