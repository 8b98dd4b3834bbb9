"""Endpoints that change files: upload modes, large contents, and the commit itself."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from typing import Any
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.hub.server.access import signed_in, visible, writable
from tests.hub.server.local import LocalHub
from tests.hub.server.refusal import Refused
from tests.hub.server.state import LARGE, Commit, Entry, PullRequest, Repo, Tree
from tests.hub.server.xet import receive

_LARGE_ANYWAY = 10_000_000  # bytes


async def preupload(hub: LocalHub, request: Request) -> dict[str, Any]:
    """Which files to upload through LFS, and the current ids of the files at their paths."""
    repo = _changing(hub, request)
    revision, files = unquote(request.path_params["revision"]), (await request.json())["files"]
    current: Tree = repo.tree(revision)
    answers = []
    for file in files:
        path, old = file["path"], current.get(file["path"])
        large = path.endswith(LARGE) or file["size"] > _LARGE_ANYWAY
        oid = None if old is None else old.etag
        answers.append({"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid})
    return {"files": answers, "commitOid": repo.resolve(revision)}


def _changing(hub: LocalHub, request: Request) -> Repo:
    """The repository of a commit or pull request."""
    return visible(hub, request) if "create_pr" in request.query_params else writable(hub, request)


async def batch(hub: LocalHub, request: Request) -> Response:
    """Upload URLs of large contents that are missing."""
    writable(hub, request)
    wanted, answers = await request.json(), []
    for each in wanted["objects"]:
        oid, size = each["oid"], each["size"]
        answer: dict[str, Any] = {"oid": oid, "size": size}
        if not hub.contents.path(oid).is_file():
            here = f"{hub.url}/_large/{oid}"
            upload: dict[str, Any] = {"href": here}
            if hub.multipart and size > hub.multipart and "multipart" in wanted["transfers"]:
                parts = {str(part): f"{here}/part/{part}" for part in range(1, -(-size // hub.multipart) + 1)}
                upload = {"href": f"{here}/complete", "header": {"chunk_size": str(hub.multipart), **parts}}
            answer["actions"] = {"upload": upload, "verify": {"href": f"{here}/verify"}}
        answers.append(answer)
    return JSONResponse({"transfer": "basic", "objects": answers}, media_type="application/vnd.git-lfs+json")


async def put(hub: LocalHub, request: Request) -> Response:
    """Receive a large content, or a part of one; its digest is checked when it is complete."""
    oid, part = request.path_params["oid"], request.path_params.get("part")
    digest = hashlib.sha256()
    target = hub.contents.path(oid if part is None else f"{oid}.part{part}")
    partial = target.with_name(f"{target.name}.{secrets.token_hex(4)}.partial")
    with partial.open("wb") as file:
        async for chunk in request.stream():
            file.write(chunk)
            digest.update(chunk)
    if part is None and digest.hexdigest() != oid:
        raise Refused(400, "Content does not match its digest")
    partial.replace(target)
    return Response(headers={"ETag": f'"{digest.hexdigest()[:32]}"'})


async def complete(hub: LocalHub, request: Request) -> dict[str, Any]:
    """Join the parts of a large content."""
    oid = request.path_params["oid"]
    numbers = [each["partNumber"] for each in (await request.json())["parts"]]
    data = b"".join(hub.contents.path(f"{oid}.part{number}").read_bytes() for number in numbers)
    if hashlib.sha256(data).hexdigest() != oid:
        raise Refused(400, "Content does not match its digest")
    hub.contents.path(oid).write_bytes(data)
    return {}


async def verify(hub: LocalHub, request: Request) -> dict[str, Any]:
    """Whether a large content has arrived."""
    if not hub.contents.path(request.path_params["oid"]).is_file():
        raise Refused(404, "not uploaded")
    return {}


async def commit(hub: LocalHub, request: Request) -> dict[str, Any]:
    """Make an atomic commit, on a branch or as a pull request."""
    repo, user = _changing(hub, request), signed_in(hub, request)
    revision = unquote(request.path_params["revision"])
    ref = next((each for each in (revision, f"refs/heads/{revision}") if each in repo.refs), None)
    if ref is None:  # neither a tag nor a commit can be committed to
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    lines = [json.loads(line) for line in (await request.body()).splitlines() if line.strip()]
    header, head, proposed = lines[0]["value"], repo.refs[ref], "create_pr" in request.query_params
    parent = header.get("parentCommit")
    if parent and proposed:
        head = repo.resolve(parent)
    elif parent and not head.startswith(parent):
        raise Refused(412, "A commit has happened since. Please refresh and try again.")
    tree = dict(repo.tree(head))
    for line in lines[1:]:
        _apply(hub, tree, line["key"], line["value"])
    oid = repo.add(Commit(tree, head, header["summary"], header.get("description", ""), user.name))
    answer = {"success": True, "commitOid": oid, "commitUrl": f"{hub.url}{repo.path}/commit/{oid}"}
    if proposed:
        number = len(repo.pull_requests) + 1
        repo.pull_requests[number] = PullRequest(header["summary"], user.name, head)
        ref = f"refs/pr/{number}"
        answer["pullRequestUrl"] = f"{hub.url}{repo.path}/discussions/{number}"
    repo.refs[ref] = oid
    return answer


def _apply(hub: LocalHub, tree: dict[str, Entry], operation: str, value: dict[str, Any]) -> None:
    path = value["path"]
    if operation == "file":
        tree[path] = hub.contents.store(base64.b64decode(value["content"]))
    elif operation == "lfsFile":
        if not hub.contents.path(value["oid"]).is_file():
            receive(hub, value["oid"])
        tree[path] = hub.contents.large(value["oid"])
    elif operation == "deletedFile":
        if tree.pop(path, None) is None:
            raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
    elif operation == "deletedFolder":
        for each in [each for each in tree if each.startswith(path.rstrip("/") + "/")]:
            del tree[each]
    else:
        raise Refused(400, f"unknown operation {operation}")
