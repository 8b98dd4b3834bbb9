"""One push of one run: what all of its repositories share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import huggingface_hub

from cycleqd_merge.config.hub import HubConfig
from cycleqd_merge.errors import UserError
from cycleqd_merge.hub.draft import CommitTarget, Draft, Pushed
from cycleqd_merge.hub.facts import CardFacts
from cycleqd_merge.journal.log import Event
from cycleqd_merge.run.state import Run

CARD = "README.md"


@dataclass(frozen=True)
class PushOptions:
    """Options of one push besides the recipe's `hub`; see `CommitTarget`. dry: write nothing, report what would change.

    archive_only: push neither models nor page.
    """

    archive_only: bool = False
    dry: bool = False
    create_pr: bool = False
    revision: str | None = None
    onto: str | None = None


@dataclass(frozen=True)
class Publication:
    """A run, its journal, and how it is published. folder: the run directory. facts: what its cards say."""

    run: Run
    events: Sequence[Event]
    folder: Path
    hub: HubConfig
    options: PushOptions
    facts: CardFacts

    def draft(self, kind: Literal["model", "dataset", "space"], repo: str) -> Draft:
        """A commit to one of its repositories."""
        options = self.options
        target = CommitTarget(kind, repo, self.hub.private, options.revision, options.create_pr, options.onto)
        return Draft(target, self.folder, options.dry)

    def facts_of(self, repo: str) -> CardFacts:
        """What the card of a repository says of the run."""
        return replace(self.facts, repo=repo)

    def commit(self, draft: Draft) -> Pushed:
        """Commit what a draft holds, under the name and the tag of the run's generation."""
        return draft.commit(f"Generation {self.run.generation}", f"gen-{self.run.generation}")


def require_no_token(files: Mapping[str, bytes | Path]) -> None:
    """Refuse to publish this machine's token, which a recipe may have taken from the environment.

    Raises:
        UserError: it stands in a file.
    """
    token = (huggingface_hub.get_token() or "").encode()
    for path, content in files.items():
        if token and isinstance(content, bytes) and token in content:
            raise UserError(f"hub: {path} holds your token and was not pushed; take it out of the recipe")
