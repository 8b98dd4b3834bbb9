"""Endpoints for pull requests. Commits create them, and can add to them at `refs/pr/N`."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from tests.hub.server.access import signed_in, visible, writable
from tests.hub.server.local import LocalHub
from tests.hub.server.refusal import Refused
from tests.hub.server.state import Commit, PullRequest, Repo, Tree, now


async def details(hub: LocalHub, request: Request) -> dict[str, Any]:
    """A pull request and its status."""
    repo = visible(hub, request)
    number, found = _found(repo, request)
    return {
        "num": number,
        "title": found.title,
        "author": {"name": found.author},
        "createdAt": found.created,
        "status": found.status,
        "isPullRequest": True,
        "repo": {"name": repo.name, "type": repo.kind},
        "changes": {"base": "refs/heads/main", "mergeCommitId": found.merged},
        "filesWithConflicts": [],
        "events": [],
        "diff": "",
    }


async def merge(hub: LocalHub, request: Request) -> dict[str, Any]:
    """Merge its changes into `main`, as one commit."""
    repo, user = writable(hub, request), signed_in(hub, request)
    number, found = _open(repo, request)
    head = repo.resolve("main")
    tree = _merged(repo.tree(found.base), repo.tree(f"refs/pr/{number}"), repo.tree(head))
    found.merged = repo.add(Commit(tree, head, f"{found.title} (#{number})", "", user.name))
    found.status = "merged"
    repo.refs["refs/heads/main"] = found.merged
    return {}


async def change_status(hub: LocalHub, request: Request) -> dict[str, Any]:
    """Close it with a comment."""
    repo, wanted = writable(hub, request), await request.json()
    number, found = _open(repo, request)
    found.status = wanted["status"]
    found.comments.append(wanted.get("comment", ""))
    event = {"id": f"{number:024x}", "type": "status-change", "createdAt": now(), "author": {"name": found.author}}
    return {"newStatus": {**event, "data": {"status": found.status}}}


def _merged(base: Tree, proposed: Tree, ours: Tree) -> Tree:
    """`ours` with the changes from `base` to `proposed`."""
    changed = {path for path in base.keys() | proposed.keys() if base.get(path) != proposed.get(path)}
    if any(ours.get(path) not in (base.get(path), proposed.get(path)) for path in changed):
        raise Refused(409, "This pull request has conflicts")
    kept = {path: entry for path, entry in ours.items() if path not in changed}
    return kept | {path: proposed[path] for path in changed if path in proposed}


def _found(repo: Repo, request: Request) -> tuple[int, PullRequest]:
    number = request.path_params["number"]
    if number not in repo.pull_requests:
        raise Refused(404, "Discussion not found")
    return number, repo.pull_requests[number]


def _open(repo: Repo, request: Request) -> tuple[int, PullRequest]:
    number, found = _found(repo, request)
    if found.status != "open":
        raise Refused(400, f"This pull request is {found.status}")
    return number, found
