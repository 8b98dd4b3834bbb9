"""Endpoints for users, repositories and collections."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote

import yaml
from starlette.requests import Request

from tests.hub.server.access import asking, readable, require_write, signed_in, visible, writable
from tests.hub.server.local import LocalHub
from tests.hub.server.refusal import Refused
from tests.hub.server.state import Repo

Answer = dict[str, Any]
_FRONT_MATTER = re.compile(r"^---\s*\n(.*?)\n---\s*(\n|$)", re.DOTALL)


async def whoami(hub: LocalHub, request: Request) -> Answer:
    """The token's user and role."""
    user = signed_in(hub, request)
    orgs = [{"type": "org", "name": name, "fullname": name, "roleInOrg": "write"} for name in user.orgs]
    token = {"type": "access_token", "accessToken": {"displayName": "test", "role": user.role}}
    return {"type": "user", "id": user.name, "name": user.name, "fullname": user.name, "orgs": orgs, "auth": token}


async def create(hub: LocalHub, request: Request) -> Answer:
    """Create a repository."""
    user, wanted = signed_in(hub, request), await request.json()
    kind, space = wanted.get("type") or "model", wanted.get("organization") or user.name
    require_write(user, space)
    name = f"{space}/{wanted['name']}"
    if (kind, name) in hub.repos:
        raise Refused(409, f"You already created this {kind} repo", url=hub.url + hub.repos[kind, name].path)
    private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
    return {"url": hub.url + hub.new_repo(kind, name, private).path, "name": name}


async def check_access(hub: LocalHub, request: Request) -> Answer:
    """Whether the files may be read."""
    readable(hub, request)
    return {}


async def check_write(hub: LocalHub, request: Request) -> Answer:
    """Whether the repository may be changed."""
    writable(hub, request)
    return {}


async def info(hub: LocalHub, request: Request) -> Answer:
    """A repository at a revision: commit, card, files."""
    repo = visible(hub, request)
    revision = unquote(request.path_params.get("revision", "main"))
    return describe(hub, repo, revision, request.query_params.get("blobs") in ("true", "True", "1"))


def describe(hub: LocalHub, repo: Repo, revision: str, sizes: bool) -> Answer:
    """The Hub's description of a repository."""
    oid = repo.resolve(revision)
    card = _card(hub, repo, oid)
    return {
        "_id": repo.name.encode().hex()[:24].ljust(24, "0"),
        "id": repo.name,
        "modelId": repo.name,
        "author": repo.namespace,
        "sha": oid,
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": list(card.get("tags") or ()),
        "createdAt": repo.created,
        "lastModified": repo.commits[oid].date,
        "library_name": card.get("library_name"),
        "pipeline_tag": card.get("pipeline_tag"),
        "cardData": card,
        "siblings": [
            {"rfilename": path, **({"size": entry.size, "blobId": entry.oid} if sizes else {})}
            for path, entry in sorted(repo.tree(oid).items())
        ],
    }


def _card(hub: LocalHub, repo: Repo, revision: str) -> Answer:
    if "README.md" not in repo.tree(revision):
        return {}
    found = _FRONT_MATTER.match(hub.read(repo.name, "README.md", repo.kind, revision).decode())
    return dict(yaml.safe_load(found[1]) or {}) if found else {}


async def validate_card(hub: LocalHub, request: Request) -> Answer:
    """Whether a card's front matter is valid."""
    found = _FRONT_MATTER.match((await request.json())["content"])
    if found is None:
        return {"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]}
    try:
        card = yaml.safe_load(found[1]) or {}
    except yaml.YAMLError as error:
        raise _invalid(f"YAML parse error: {error}") from None
    if isinstance(card.get("license"), list):
        raise _invalid('"license" must be a string')
    if card.get("base_model_relation") not in (None, "merge", "finetune", "adapter", "quantized"):
        raise _invalid('"base_model_relation" must be one of [finetune, adapter, merge, quantized]')
    return {"errors": [], "warnings": []}


def _invalid(message: str) -> Refused:
    return Refused(400, message, errors=[{"message": message}], warnings=[])


async def refs(hub: LocalHub, request: Request) -> Answer:
    """Branches, tags and pull requests."""
    repo = visible(hub, request)
    found: dict[str, list[Answer]] = {"branches": [], "tags": [], "converts": [], "pullRequests": []}
    places = {"heads": "branches", "tags": "tags", "pr": "pullRequests"}
    for ref, oid in repo.refs.items():
        _, kind, name = ref.split("/", 2)
        found[places[kind]].append({"name": name, "ref": ref, "targetCommit": oid})
    return found


async def commits(hub: LocalHub, request: Request) -> list[Answer]:
    """The history of a revision."""
    repo = visible(hub, request)
    found = ((oid, repo.commits[oid]) for oid in repo.history(unquote(request.path_params["revision"])))
    return [
        {
            "id": oid,
            "title": commit.title,
            "message": commit.message,
            "date": commit.date,
            "authors": [{"user": commit.author}],
        }
        for oid, commit in found
    ]


async def tag(hub: LocalHub, request: Request) -> Answer:
    """Create or delete a tag; the path names the tag to delete, or the revision to tag."""
    repo, name = writable(hub, request), unquote(request.path_params["ref"])
    if request.method == "DELETE":
        if repo.refs.pop(f"refs/tags/{name}", None) is None:
            raise Refused(404, "Tag does not exist", "RevisionNotFound")
        return {}
    ref = "refs/tags/" + (await request.json())["tag"]
    if ref in repo.refs:
        raise Refused(409, f"Tag already exists: {ref}")
    repo.refs[ref] = repo.resolve(name)
    return {}


async def branch(hub: LocalHub, request: Request) -> Answer:
    """Create a branch."""
    repo, ref = writable(hub, request), "refs/heads/" + unquote(request.path_params["ref"])
    if ref in repo.refs:
        raise Refused(409, f"Reference already exists: {ref}")
    start = json.loads(await request.body() or b"{}").get("startingPoint")
    repo.refs[ref] = repo.resolve(start or "main")
    return {}


async def list_collections(hub: LocalHub, request: Request) -> list[Answer]:
    """Collections, or those of one owner."""
    owner = request.query_params.get("owner")
    asking(hub, request)
    return [found for found in hub.collections.values() if owner in (None, found["owner"]["name"])]


async def create_collection(hub: LocalHub, request: Request) -> Answer:
    """Create a collection."""
    user, wanted = signed_in(hub, request), await request.json()
    require_write(user, wanted["namespace"])
    name = re.sub(r"[^a-z0-9]+", "-", wanted["title"].lower()).strip("-")
    slug = f"{wanted['namespace']}/{name}-{name.encode().hex()[:24].ljust(24, '0')}"
    if slug in hub.collections:
        raise Refused(409, "Collection already exists", slug=slug)
    hub.collections[slug] = {
        "slug": slug,
        "title": wanted["title"],
        "description": wanted.get("description"),
        "owner": {"name": wanted["namespace"], "type": "user"},
        "items": [],
        "lastUpdated": "2026-01-01T00:00:00.000Z",
        "position": 0,
        "private": wanted.get("private", False),
        "theme": "green",
        "upvotes": 0,
    }
    return hub.collections[slug]


async def collection(hub: LocalHub, request: Request) -> Answer:
    """One collection."""
    found = hub.collections.get(f"{request.path_params['space']}/{request.path_params['slug']}")
    if found is None:
        raise Refused(404, "Collection not found")
    return found


async def add_to_collection(hub: LocalHub, request: Request) -> Answer:
    """Add a repository to a collection."""
    found, item = await collection(hub, request), (await request.json())["item"]
    require_write(signed_in(hub, request), request.path_params["space"])
    if (item["type"], item["id"]) not in hub.repos:
        raise Refused(404, "Item not found")
    if any((each["type"], each["id"]) == (item["type"], item["id"]) for each in found["items"]):
        raise Refused(409, "Item already in collection")
    found["items"].append({"_id": f"{len(found['items']):024x}", **item, "position": len(found["items"])})
    return found
