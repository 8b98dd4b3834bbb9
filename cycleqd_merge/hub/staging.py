"""Pushes too large for one commit: their commits are collected in a pull request, which is then merged."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from huggingface_hub import HfApi, errors

from cycleqd_merge.errors import HubFailed
from cycleqd_merge.hub_errors import MAIN_CHANGED


@dataclass(frozen=True)
class PullRequest:
    """Pull request `number` to `main` of a repository. kind: model, dataset or space."""

    api: HfApi
    repo: str
    kind: str
    number: int

    def merge(self, parent: str | None) -> str:
        """Merge it if `main` is still at `parent`; returns the new commit of `main`.

        Raises:
            HubFailed: `main` has a new commit; the pull request is closed.
            HfHubHTTPError: the Hub refuses or fails.
        """
        label = f"{self.kind} {self.repo}"
        if self.api.repo_info(self.repo, repo_type=self.kind).sha != parent:
            self.discard()
            raise HubFailed(f"{label}: {MAIN_CHANGED}")
        self.api.merge_pull_request(self.repo, self.number, repo_type=self.kind)
        merged = self.merged_as()
        if merged is None:
            raise HubFailed(f"{label}: pull request {self.number} is not merged yet; push again later")
        return merged

    def merged_as(self) -> str | None:
        """The commit that merged it; None if it was not merged, or does not exist.

        Raises:
            HfHubHTTPError: the Hub refuses or fails.
        """
        try:
            return self.api.get_discussion_details(self.repo, self.number, repo_type=self.kind).merge_commit_oid
        except errors.HfHubHTTPError as error:
            if error.response is not None and error.response.status_code == 404:
                return None
            raise

    def discard(self) -> None:
        """Close it if it is open. Errors are ignored: at worst, a pull request stays open."""
        with suppress(errors.HfHubHTTPError):
            found = self.api.get_discussion_details(self.repo, self.number, repo_type=self.kind)
            if found.status in ("open", "draft"):
                self.api.change_discussion_status(
                    self.repo, self.number, "closed", comment="This push was not completed.", repo_type=self.kind
                )
