"""One push of one run: the data that its repositories share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from cycleqd_merge.config.hub import HubConfig
from cycleqd_merge.hub.draft import CommitTarget, Draft, Pushed
from cycleqd_merge.hub.facts import CardFacts
from cycleqd_merge.journal.log import Event
from cycleqd_merge.run.state import Run


@dataclass(frozen=True)
class PushOptions:
    """Options of one push, in addition to the recipe's `hub` section; see also `CommitTarget`.

    archive_only: push neither models nor page. dry: write nothing, only report.
    """

    archive_only: bool = False
    dry: bool = False
    create_pr: bool = False
    revision: str | None = None
    onto: str | None = None


@dataclass(frozen=True)
class Publication:
    """A run, its journal, and how it is published. folder: the run directory. facts: for its cards."""

    run: Run
    events: Sequence[Event]
    folder: Path
    hub: HubConfig
    options: PushOptions
    facts: CardFacts

    def draft(self, kind: Literal["model", "dataset", "space"], repo: str) -> Draft:
        """A draft of a commit to one of the run's repositories."""
        options = self.options
        target = CommitTarget(kind, repo, self.hub.private, options.revision, options.create_pr, options.onto)
        return Draft(target, self.folder, options.dry)

    def facts_of(self, repo: str) -> CardFacts:
        """Facts about the run for the card of a repository."""
        return replace(self.facts, repo=repo)

    def commit(self, draft: Draft) -> Pushed:
        """Commit a draft, named and tagged with the run's generation."""
        return draft.commit(f"Generation {self.run.generation}", f"gen-{self.run.generation}")
