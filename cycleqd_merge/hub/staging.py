"""More changes than one commit should hold: they gather in a pull request, and reach `main` when it is merged."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from huggingface_hub import HfApi, errors

from cycleqd_merge.errors import HubFailed
from cycleqd_merge.hub_errors import MAIN_CHANGED


@dataclass(frozen=True)
class PullRequest:
    """A pull request to `main` of the repository `repo` of kind `kind`, by its number there."""

    api: HfApi
    repo: str
    kind: str
    number: int

    def merge(self, parent: str | None) -> str:
        """Merge it if `main` still stands at `parent`; returns the commit that `main` stands at then.

        Raises:
            HubFailed: `main` has moved; the pull request is closed.
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
        """The commit by which it came to `main`; None if it did not, or is not there.

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
        """Close it if it is open. What fails here leaves nothing worse than an open pull request."""
        with suppress(errors.HfHubHTTPError):
            found = self.api.get_discussion_details(self.repo, self.number, repo_type=self.kind)
            if found.status in ("open", "draft"):
                self.api.change_discussion_status(
                    self.repo, self.number, "closed", comment="This push was not completed.", repo_type=self.kind
                )
