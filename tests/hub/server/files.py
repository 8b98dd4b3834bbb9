"""Endpoints that list and deliver files."""

from __future__ import annotations

import hashlib
import json
from typing import Any
from urllib.parse import parse_qs, unquote

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from tests.hub.server.access import readable, visible
from tests.hub.server.local import LocalHub
from tests.hub.server.refusal import Refused
from tests.hub.server.state import Entry

_PAGE = 1000


def as_file(hub: LocalHub, path: str, entry: Entry) -> dict[str, Any]:
    """A file as an entry of a listing."""
    large = {"oid": entry.sha256, "size": entry.size, "pointerSize": entry.pointer}
    stated = {"type": "file", "path": path, "oid": entry.oid, "size": entry.size}
    xet = {"xetHash": hub.xet_hashes[entry.sha256]} if entry.sha256 in hub.xet_hashes else {}
    return stated if entry.pointer is None else {**stated, "lfs": large, **xet}


def as_folder(path: str) -> dict[str, Any]:
    """A folder as an entry of a listing."""
    return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}


async def tree(hub: LocalHub, request: Request) -> Response:
    """Files and folders under a path, page by page."""
    repo, query = visible(hub, request), request.query_params
    revision, base = unquote(request.path_params["revision"]), unquote(request.path_params.get("path", "")).strip("/")
    prefix, whole = f"{base}/" if base else "", query.get("recursive") in ("true", "True", "1")
    found: dict[str, dict[str, Any]] = {}
    for path, entry in sorted(repo.tree(revision).items()):
        if path.startswith(prefix):
            parts = path.removeprefix(prefix).split("/")
            for depth in range(1, len(parts) if whole else min(2, len(parts))):
                folder = prefix + "/".join(parts[:depth])
                found.setdefault(folder, as_folder(folder))
            if whole or len(parts) == 1:
                found[path] = as_file(hub, path, entry)
    if base and not found:
        raise Refused(404, f'{base} does not exist on "{revision}"', "EntryNotFound")
    listed, start = list(found.values()), int(query.get("cursor", 0))
    more = {"Link": f'<{request.url.replace_query_params(cursor=start + _PAGE)}>; rel="next"'}
    return JSONResponse(listed[start : start + _PAGE], headers=more if start + _PAGE < len(listed) else None)


async def paths_info(hub: LocalHub, request: Request) -> list[dict[str, Any]]:
    """The entries at given paths."""
    repo, body = visible(hub, request), await request.body()
    asked: Any = json.loads(body) if "json" in request.headers.get("content-type", "") else parse_qs(body.decode())
    files, found = repo.tree(unquote(request.path_params["revision"])), []
    for path in [asked["paths"]] if isinstance(asked["paths"], str) else asked["paths"]:
        if path in files:
            found.append(as_file(hub, path, files[path]))
        elif any(file.startswith(path.strip("/") + "/") for file in files):
            found.append(as_folder(path.strip("/")))
    return found


async def resolve(hub: LocalHub, request: Request) -> Response:
    """A file's content, or its metadata with HEAD."""
    repo = readable(hub, request)
    oid = repo.resolve(unquote(request.path_params["revision"]))
    entry = repo.tree(oid).get(unquote(request.path_params["path"]))
    if entry is None:
        raise Refused(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": oid})
    headers = {"X-Repo-Commit": oid, "ETag": f'"{entry.etag}"', "Accept-Ranges": "bytes"}
    if entry.pointer is not None:
        headers |= {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
    if entry.sha256 in hub.xet_hashes:
        link = f"{hub.url}/api/{repo.kind}s/{repo.name}/xet-read-token/{oid}"
        headers |= {"X-Xet-Hash": hub.xet_hashes[entry.sha256], "Link": f'<{link}>; rel="xet-auth"'}
    return FileResponse(hub.contents.path(entry.sha256), headers=headers, media_type="application/octet-stream")
