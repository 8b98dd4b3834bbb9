"""The server, which runs in a thread of the test process."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import uvicorn

from tests.hub.address import free_socket
from tests.hub.server.faults import Faults
from tests.hub.server.state import LARGE, Commit, Contents, Entry, Repo, User


class LocalHub:
    """A Hub. multipart: larger files are uploaded in parts of this size in bytes. xet: support Xet, too."""

    def __init__(
        self,
        users: Iterable[User] = (),
        bound: socket.socket | None = None,
        multipart: int | None = None,
        xet: bool = False,
    ) -> None:
        self.users = {user.token: user for user in users}
        self.multipart = multipart
        self.repos: dict[tuple[str, str], Repo] = {}
        self.collections: dict[str, dict[str, Any]] = {}
        self.faults = Faults()
        self.requests: list[tuple[str, str, str]] = []
        """Step, method and path of every request."""
        self._folder = Path(tempfile.mkdtemp(prefix="local-hub-"))
        self.contents = Contents(self._folder)
        self.xet = self._folder / "xet" if xet else None
        self.xet_hashes: dict[str, str] = {}
        """Xet hashes by SHA-256, for contents that were uploaded by Xet."""
        self._socket = (bound or free_socket()).dup()
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> LocalHub:
        from tests.hub.server.app import application

        config = uvicorn.Config(application(self), log_level="critical", lifespan="off")
        self.server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self.server.run, kwargs={"sockets": [self._socket]}, name="local-hub", daemon=True
        )
        self._thread.start()
        while not self.server.started:
            time.sleep(0.005)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.should_exit = self.server.force_exit = True
        self._thread.join(10)
        shutil.rmtree(self._folder, ignore_errors=True)

    def new_repo(self, kind: str, name: str, private: bool = False) -> Repo:
        """A new repository, as `create_repo` makes it."""
        attributes = "".join(f"*{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in LARGE)
        self.repos[kind, name] = repo = Repo(
            kind, name, {".gitattributes": self.contents.store(attributes.encode())}, private
        )
        return repo

    def repo(self, name: str, kind: str = "model") -> Repo:
        """A repository, which must exist."""
        return self.repos[kind, name]

    def put(self, name: str, files: Path | Mapping[str, bytes], kind: str = "model", private: bool = False) -> str:
        """Commit a folder's files, or given files, without HTTP; creates the repository. Returns the commit."""
        repo = self.repos.get((kind, name)) or self.new_repo(kind, name, private)
        if isinstance(files, Path):
            found = sorted(path for path in files.rglob("*") if path.is_file())
            files = {path.relative_to(files).as_posix(): path.read_bytes() for path in found}
        tree = {**repo.tree(), **{path: self._entry(path, data) for path, data in files.items()}}
        oid = repo.add(Commit(tree, repo.resolve("main"), "put", "", repo.namespace))
        repo.refs["refs/heads/main"] = oid
        return oid

    def _entry(self, path: str, data: bytes) -> Entry:
        entry = self.contents.store(data)
        return self.contents.large(entry.sha256) if path.endswith(LARGE) else entry

    def read(self, name: str, path: str, kind: str = "model", revision: str = "main") -> bytes:
        """A file's content, without HTTP."""
        return self.contents.path(self.repo(name, kind).tree(revision)[path].sha256).read_bytes()

    def steps(self) -> list[str]:
        """The steps of all requests so far."""
        return [step for step, _, _ in self.requests]

    def cut(self, client: tuple[str, int]) -> None:
        """Abort a client's connection."""
        for connection in list(self.server.server_state.connections):
            if getattr(connection, "client", None) == client:
                connection.transport.abort()
