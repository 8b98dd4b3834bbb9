"""Publishing a run on the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

from cycleqd_merge.hub.draft import Pushed
from cycleqd_merge.hub.publication import PushOptions
from cycleqd_merge.hub.publish import hub_settings, publish


def push(
    run: str | PathLike[str],
    *,
    dry: bool = False,
    archive_only: bool = False,
    create_pr: bool = False,
    revision: str | None = None,
    onto: str | None = None,
    on_pushed: Callable[[Pushed], None] | None = None,
    **settings: Any,
) -> list[Pushed]:
    """Push a run's archive as a dataset, its best models as model repositories and, on request, its page as a Space.

    run: the run directory. dry: only report what would be pushed. archive_only: push neither models nor page.
    create_pr: open pull requests. revision: push to this branch instead of `main`. onto: a commit by somebody else on
    `main` that may be built upon. on_pushed: called after each repository. settings: keys of the recipe's `hub`
    section, such as `repo="user/name"`, which override it.

    Raises:
        UserError: not a run directory, no such model, no write access, or something to publish has a credential.
        HubFailed: the Hub failed; what was pushed before stays, and pushing again completes the rest.
    """
    folder = Path(run)
    options = PushOptions(archive_only, dry, create_pr, revision, onto)
    return publish(folder, hub_settings(folder, settings), options, on_pushed or (lambda _: None))
