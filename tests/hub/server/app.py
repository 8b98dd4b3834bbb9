"""The endpoints by path. A route's name is the step that faults are injected for."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote, unquote

from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.hub.server import commits, files, pulls, repos, xet
from tests.hub.server.faults import CUT, CUT_AFTER
from tests.hub.server.local import LocalHub
from tests.hub.server.refusal import Refused

Endpoint = Callable[[LocalHub, Request], Awaitable[Any]]


class _Kind(Convertor[str]):
    regex = "models|datasets|spaces"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("kind", _Kind())
_REPO = "/api/{kind:kind}/{space}/{name}"
_COLLECTION = "/api/collections/{space}/{slug}"
_ENDPOINTS: tuple[tuple[str, str, str, Endpoint], ...] = (
    ("whoami", "GET", "/api/whoami-v2", repos.whoami),
    ("create", "POST", "/api/repos/create", repos.create),
    ("card", "POST", "/api/validate-yaml", repos.validate_card),
    ("collections", "GET", "/api/collections", repos.list_collections),
    ("collection", "POST", "/api/collections", repos.create_collection),
    ("collection", "GET", _COLLECTION, repos.collection),
    ("collection", "POST", _COLLECTION + "/items", repos.add_to_collection),
    ("collection", "POST", _COLLECTION + "/item", repos.add_to_collection),
    ("info", "GET", _REPO, repos.info),
    ("info", "GET", _REPO + "/revision/{revision:path}", repos.info),
    ("tree", "GET", _REPO + "/tree/{revision}", files.tree),
    ("tree", "GET", _REPO + "/tree/{revision}/{path:path}", files.tree),
    ("tree", "POST", _REPO + "/paths-info/{revision}", files.paths_info),
    ("refs", "GET", _REPO + "/refs", repos.refs),
    ("commits", "GET", _REPO + "/commits/{revision}", repos.commits),
    ("branch", "POST", _REPO + "/branch/{ref}", repos.branch),
    ("tag", "POST DELETE", _REPO + "/tag/{ref}", repos.tag),
    ("access", "GET", _REPO + "/auth-check", repos.check_access),
    ("access", "GET", _REPO + "/auth-check/write", repos.check_write),
    ("preupload", "POST", _REPO + "/preupload/{revision}", commits.preupload),
    ("commit", "POST", _REPO + "/commit/{revision}", commits.commit),
    ("discussion", "GET", _REPO + "/discussions/{number:int}", pulls.details),
    ("merge", "POST", _REPO + "/discussions/{number:int}/merge", pulls.merge),
    ("status", "POST", _REPO + "/discussions/{number:int}/status", pulls.change_status),
    ("xet", "GET", _REPO + "/xet-{access}-token/{revision}", xet.token),
    ("batch", "POST", "/{kind:kind}/{space}/{name}.git/info/lfs/objects/batch", commits.batch),
    ("batch", "POST", "/{space}/{name}.git/info/lfs/objects/batch", commits.batch),
    ("blob", "PUT", "/_large/{oid}", commits.put),
    ("blob", "PUT", "/_large/{oid}/part/{part}", commits.put),
    ("complete", "POST", "/_large/{oid}/complete", commits.complete),
    ("verify", "POST", "/_large/{oid}/verify", commits.verify),
    ("download", "GET", "/{kind:kind}/{space}/{name}/resolve/{revision}/{path:path}", files.resolve),
    ("download", "GET", "/{space}/{name}/resolve/{revision}/{path:path}", files.resolve),
)


def application(hub: LocalHub) -> ASGIApp:
    """The Hub as an ASGI application."""
    routes = [
        Route(path, _handler(hub, step, endpoint), methods=methods.split(), name=step)
        for step, methods, path, endpoint in _ENDPOINTS
    ]
    inner = Starlette(routes=routes)

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": _path(scope["raw_path"].decode())}
        await inner(scope, receive, send)

    return outer


def _path(raw: str) -> str:
    """The decoded path, in which an escaped slash stays escaped: a revision such as refs/pr/1 is one segment."""
    segments = (quote(unquote(part), safe="@:+,;=!$&'()*~") for part in raw.partition("?")[0].split("/"))
    escaped = re.sub("%2f", "%2F", "/".join(segments), flags=re.IGNORECASE)
    return "/".join(part if "%2F" in part else unquote(part) for part in escaped.split("/"))


def _handler(hub: LocalHub, step: str, endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        hub.requests.append((step, request.method, request.url.path))
        try:
            cut = hub.faults.meet(step)
            if cut == CUT:
                await anext(request.stream())
                hub.cut((request.client.host, request.client.port) if request.client else ("", 0))
            answer = await endpoint(hub, request)
            if cut == CUT_AFTER:
                hub.cut((request.client.host, request.client.port) if request.client else ("", 0))
        except Refused as refused:
            return refused.response
        return answer if isinstance(answer, Response) else JSONResponse(answer)

    return handle
