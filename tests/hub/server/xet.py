"""The Hub's part of Xet; `hf_xet`'s own local store replaces the content-addressed service."""

from __future__ import annotations

import shutil
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.hub.server.access import readable
from tests.hub.server.local import LocalHub
from tests.hub.server.refusal import Refused

_RECORD = 48  # bytes in a shard
_HOUR = 3600


async def token(hub: LocalHub, request: Request) -> Response:
    """The URL of the content store, and a token for it."""
    repo = readable(hub, request)
    if hub.xet is None:
        raise Refused(404, f"Xet is not enabled for {repo.name}")
    expiry = int(time.time()) + _HOUR
    place = f"local://{hub.xet}"
    headers = {"X-Xet-Cas-Url": place, "X-Xet-Access-Token": "t", "X-Xet-Token-Expiration": str(expiry)}
    return JSONResponse({"accessToken": "t", "exp": expiry, "casUrl": place}, headers=headers)


def receive(hub: LocalHub, sha256: str) -> None:
    """Copy a content that was uploaded by Xet to the Hub's own store, if it exists."""
    if hub.xet is None:
        return
    hub.xet_hashes |= {known: xet for shard in hub.xet.rglob("xorbs/shards/*.mdb") for known, xet in _files(shard)}
    if sha256 in hub.xet_hashes:
        _fetch(hub.xet, hub.xet_hashes[sha256], hub.contents.path(sha256))


def _files(shard: Path) -> Iterator[tuple[str, str]]:
    """The SHA-256 and Xet hashes of the files in a shard."""
    data, at = shard.read_bytes(), _RECORD
    while data[at : at + 32] != b"\xff" * 32:
        flags, count = struct.unpack_from("<II", data, at + 32)
        xet = _hexadecimal(data[at : at + 32])
        at += _RECORD * (1 + count * (2 if flags >> 31 else 1))
        if flags >> 30 & 1:
            yield _hexadecimal(data[at : at + 32]), xet
            at += _RECORD


def _hexadecimal(data: bytes) -> str:
    """A hash as text: four little-endian words."""
    return "".join(data[at : at + 8][::-1].hex() for at in range(0, 32, 8))


def _fetch(store: Path, xet: str, target: Path) -> None:
    """Read a content through `hf_xet`, from a copy of the store, because the uploader keeps its index locked."""
    import hf_xet

    with tempfile.TemporaryDirectory() as folder:
        copy, out = Path(folder) / "store", Path(folder) / "out"
        shutil.copytree(store, copy)
        session: Any = hf_xet.XetSession()
        where = {"endpoint": f"local://{copy}", "token": "t", "token_expiry_unix_secs": int(time.time()) + _HOUR}
        with session.new_file_download_group(**where) as group:
            group.start_download_file(hf_xet.XetFileInfo(xet, None), str(out))
        shutil.move(out, target)
