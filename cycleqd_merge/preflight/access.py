"""Whether the Hub token may write to the repositories of a run, checked before anything is computed."""

from __future__ import annotations

import huggingface_hub
from huggingface_hub import constants, errors

from cycleqd_merge.config.hub import HubConfig
from cycleqd_merge.errors import HubRefused, UserError
from cycleqd_merge.hub_errors import SIGN_IN, hub_errors


def repositories(hub: HubConfig) -> list[tuple[str, str]]:
    """The repositories of a `hub` section, each as (kind, id)."""
    archive = [("dataset", hub.archive_repo)] if hub.archive else []
    space = [("space", hub.repo)] if hub.space else []
    return [*archive, *([("model", hub.repo)] if hub.root or hub.elites else []), *space]


def require_write(*repositories: tuple[str, str]) -> str:
    """Check that the token may write to repositories, each as (kind, id), missing ones too; returns the user's name.

    Raises:
        HubRefused: there is no token, it is not valid, or may not write there.
    """
    if constants.is_offline_mode():
        raise HubRefused("hub: nothing can be pushed while HF_HUB_OFFLINE is set")
    if huggingface_hub.get_token() is None:
        raise HubRefused(f"hub: no token; {SIGN_IN}")
    api = huggingface_hub.HfApi()
    with hub_errors("hub"):
        user = api.whoami()
    token = user.get("auth", {}).get("accessToken", {})
    if token.get("role") == "read":
        raise HubRefused(f"hub: the token of {user['name']} is read-only; create one with write access, then {SIGN_IN}")
    spaces = [user["name"], *(org["name"] for org in user.get("orgs", []) if org.get("roleInOrg") != "read")]
    for kind, repo in repositories:
        if repo.partition("/")[0] not in spaces:
            owners = " or ".join(spaces)
            raise HubRefused(f"hub: {user['name']} may not write to {repo}; push to a repository of {owners}")
        try:
            with hub_errors(f"{kind} {repo}"):
                api.auth_check(repo, repo_type=kind, write=True)
        except UserError as error:
            if not isinstance(error.__cause__, errors.RepositoryNotFoundError):  # a missing one will be created
                raise
    return str(user["name"])
