"""Whether a run can be published on the Hub, checked before anything is computed."""

from __future__ import annotations

from functools import partial

import huggingface_hub
from huggingface_hub import constants, errors

from cycleqd_merge.config.hub import HubConfig
from cycleqd_merge.config.model_names import hub_id, model_names
from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.errors import HubRefused, ModelError, RecipeError, UserError
from cycleqd_merge.hub_errors import SIGN_IN, ask_hub
from cycleqd_merge.merging.model_cards import card_data, derived_license


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
    user = ask_hub("hub", api.whoami)
    token = user.get("auth", {}).get("accessToken", {})
    if token.get("role") == "read":
        raise HubRefused(f"hub: the token of {user['name']} is read-only; create one with write access, then {SIGN_IN}")
    spaces = [user["name"], *(org["name"] for org in user.get("orgs", []) if org.get("roleInOrg") != "read")]
    for kind, repo in repositories:
        if repo.partition("/")[0] not in spaces:
            owners = " or ".join(spaces)
            raise HubRefused(f"hub: {user['name']} may not write to {repo}; push to a repository of {owners}")
        try:
            ask_hub(f"{kind} {repo}", partial(api.auth_check, repo, repo_type=kind, write=True))
        except UserError as error:
            if not isinstance(error.__cause__, errors.RepositoryNotFoundError):  # a missing one will be created
                raise
    return str(user["name"])


def require_publishable(recipe: Recipe) -> None:
    """Check that the cards and the form of the models that `hub` asks for can be made.

    recipe: with Hub models pinned to commits.

    Raises:
        RecipeError: the parents' licences differ and none was chosen, or the strategy's models cannot be adapters.
        ModelError: see `require_shareable_adapters`.
        HubRefused: a parent's card cannot be read.
    """
    hub = recipe.hub
    if hub is None:
        return
    if hub.adapters and (hub.root or hub.elites):
        require_shareable_adapters(recipe)
        if recipe.strategy.kind == "mergekit":
            raise RecipeError("hub.adapters: the models of the strategy `mergekit` cannot be adapters; remove it")
        if recipe.evolution.mutation.kind == "gaussian":
            raise RecipeError("hub.adapters: Gaussian mutations have full rank, so children cannot be adapters")
    if hub.license is None:
        named = {"base": recipe.base, **recipe.experts}
        derived_license({name: card_data(recipe.pinned(text), HubRefused).license for name, text in named.items()})


def require_shareable_adapters(recipe: Recipe) -> None:
    """Check that models of a run can be published as adapters that others can load.

    Raises:
        ModelError: the base is not on the Hub, or an expert is a full model.
    """
    if hub_id(model_names(recipe.base)[0].path) is None:
        raise ModelError(
            "hub.adapters: the base is a local model; others can use an adapter only if its base is on the Hub"
        )
    for name, reference in recipe.experts.items():
        if len(model_names(reference)) == 1:
            raise ModelError(f"hub.adapters: expert {name} is a full model; only merges of adapters can be adapters")
