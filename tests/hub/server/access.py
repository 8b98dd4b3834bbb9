"""Users of requests, and their access to repositories."""

from __future__ import annotations

from starlette.requests import Request

from tests.hub.server.local import LocalHub
from tests.hub.server.refusal import Refused
from tests.hub.server.state import KINDS, Repo, User


def asking(hub: LocalHub, request: Request) -> User | None:
    """The user whose token the request has; None without a token."""
    header = request.headers.get("authorization", "")
    if not header:
        return None
    user = hub.users.get(header.removeprefix("Bearer ").strip())
    if user is None:
        raise Refused(401, "Invalid credentials in Authorization header")
    return user


def signed_in(hub: LocalHub, request: Request) -> User:
    """The user of a request that requires a token."""
    user = asking(hub, request)
    if user is None:
        raise Refused(401, "Invalid username or password.")
    return user


def visible(hub: LocalHub, request: Request) -> Repo:
    """The repository of the request's path; a hidden repository gets the same response as a missing one."""
    user, where = asking(hub, request), request.path_params
    kind, name = KINDS[where.get("kind", "models")], f"{where['space']}/{where['name']}"
    repo = hub.repos.get((kind, name))
    if repo is None or (repo.private and not (user and user.is_member(repo.namespace))):
        status, message = (404, "Repository not found") if user else (401, "Invalid username or password.")
        raise Refused(status, message, "RepoNotFound")
    return repo


def readable(hub: LocalHub, request: Request) -> Repo:
    """The same, if the user may read its files."""
    repo, user = visible(hub, request), asking(hub, request)
    known = user is not None and (user.is_member(repo.namespace) or user.name in repo.granted)
    if repo.gated and not known:
        message = f"Access to {repo.kind} {repo.name} is restricted. You must have access to it and be authenticated."
        raise Refused(403 if user else 401, message, "GatedRepo")
    return repo


def writable(hub: LocalHub, request: Request) -> Repo:
    """The same, if the user may change it."""
    repo = visible(hub, request)
    require_write(signed_in(hub, request), repo.namespace)
    return repo


def require_write(user: User, namespace: str) -> None:
    """Refuse users without write access to a namespace."""
    if not user.may_write(namespace):
        raise Refused(403, f"Forbidden: you need a write token and the rights to change {namespace}")
