"""A commit to one repository, prepared file by file; files that are published already are not uploaded again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import huggingface_hub
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, errors
from huggingface_hub.hf_api import RepoFile

from cycleqd_merge.errors import HubFailed
from cycleqd_merge.hub.contents import has_content, size_of
from cycleqd_merge.hub.record import PushRecord
from cycleqd_merge.hub.staging import PullRequest
from cycleqd_merge.hub_errors import ask_hub, hub_errors, repeated

MAIN = "main"
_INITIAL_FILES = {".gitattributes", "README.md"}
"""Files that a new repository may contain."""
MAX_FILES = 5000
"""The largest number of files that one commit changes."""


@dataclass(frozen=True)
class CommitTarget:
    """Where and how to publish.

    onto: a commit by somebody else on `main` that may be built upon. revision: a branch instead of `main`.
    """

    kind: Literal["model", "dataset", "space"]
    repo: str
    private: bool = False
    revision: str | None = None
    create_pr: bool = False
    onto: str | None = None

    @property
    def label(self) -> str:
        """Its name in messages."""
        return f"{self.kind} {self.repo}"

    @property
    def on_main(self) -> bool:
        """Whether the push changes `main`."""
        return self.revision in (None, MAIN) and not self.create_pr


@dataclass(frozen=True)
class Pushed:
    """The result of a push, or with `--dry-run` its preview.

    added: sizes in bytes of new and changed files, by path. removed: paths of deleted files.
    """

    target: CommitTarget
    commit: str | None
    url: str
    added: dict[str, int]
    removed: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self.added or self.removed)


class Draft:
    """A commit in preparation. Large files are uploaded when they are added, and become visible with `commit`.

    folder: the run directory. dry: write nothing, neither here nor on the Hub.

    Raises:
        HubFailed: the Hub refuses or cannot be reached, or somebody else committed to `main`.
    """

    def __init__(self, target: CommitTarget, folder: Path, dry: bool = False) -> None:
        self.target, self._record, self._dry = target, PushRecord(folder, target.label), dry
        self._api = huggingface_hub.HfApi()
        self._operations: list[CommitOperationAdd | CommitOperationDelete] = []
        self._added: dict[str, int] = {}
        self._head: str | None = None
        self.published: dict[str, RepoFile] = {}
        """Files of the repository before this commit, by path."""
        with hub_errors(target.label, HubFailed):
            if not dry:
                self._create_missing()
            self._read_head()
            self._moved = self._has_moved()

    def _create_missing(self) -> None:
        """Create the repository and the branch if they do not exist."""
        repo, kind = self.target.repo, self.target.kind
        try:
            repeated(self.target.label, lambda: self._api.repo_info(repo, repo_type=kind))
        except errors.RepositoryNotFoundError:
            sdk = "static" if kind == "space" else None
            self._api.create_repo(repo, repo_type=kind, private=self.target.private, exist_ok=True, space_sdk=sdk)
        if self.target.revision is not None:
            self._api.create_branch(repo, repo_type=kind, branch=self.target.revision, exist_ok=True)

    def _read_head(self) -> None:
        """Read the branch's last commit and the list of its files."""
        repo, kind = self.target.repo, self.target.kind
        try:
            read = partial(self._api.repo_info, repo, repo_type=kind, revision=self.target.revision)
            self._head = repeated(self.target.label, read).sha
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
            if not self._dry:
                raise
            return
        entries = self._api.list_repo_tree(repo, repo_type=kind, revision=self._head, recursive=True)
        self.published = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}

    def _has_moved(self) -> bool:
        """Whether somebody else committed to `main` since this run's last push.

        This run's own commits include one whose response was lost.
        """
        last, mark, staged = self._record.commit, self._record.mark, self._record.pull_request
        if last is None or not self.target.on_main or self._head in (last, self.target.onto):
            return False
        if mark is None:
            return True
        if staged is not None and self._pull_request(staged).merged_as() == self._head:
            return False
        history = partial(
            self._api.list_repo_commits, self.target.repo, repo_type=self.target.kind, revision=self._head
        )
        return mark not in repeated(self.target.label, history)[0].message

    def claim(self, is_own: Callable[[], bool]) -> None:
        """Refuse to overwrite content that is not this run's.

        is_own: whether the content is this run's; called if this run never pushed to the repository.

        Raises:
            HubFailed: the repository has other content, or that of a different run.
        """
        content = self.published.keys() - _INITIAL_FILES
        first_push = self.target.on_main and self._record.commit is None and self._head != self.target.onto
        if content and first_push and not is_own():
            raise HubFailed(
                f"{self.target.label}: has content that is not from this run, and was not overwritten; push to a "
                f"different repository, or check the content and push with --onto {self._head}"
            )

    def read(self, path: str) -> bytes | None:
        """The content of a small file of the repository; None if it does not exist."""
        if path not in self.published:
            return None
        download = partial(
            huggingface_hub.hf_hub_download, self.target.repo, path, repo_type=self.target.kind, revision=self._head
        )
        return Path(ask_hub(self.target.label, download, HubFailed)).read_bytes()

    def add(self, files: Mapping[str, bytes | Path]) -> None:
        """Add files by their paths, except those that are published unchanged. Files on disk may be deleted afterwards.

        Raises:
            HubFailed: see `Draft`.
        """
        new = {path: content for path, content in files.items() if not has_content(self.published.get(path), content)}
        self._added |= {path: size_of(content) for path, content in new.items()}
        if self._dry or not new:
            return
        self._require_unmoved()
        operations = [CommitOperationAdd(path, _source(content)) for path, content in new.items()]
        with hub_errors(self.target.label, HubFailed):
            self._api.preupload_lfs_files(
                self.target.repo,
                operations,
                repo_type=self.target.kind,
                revision=self.target.revision,
                create_pr=self.target.create_pr,
            )
        for operation, content in zip(operations, new.values(), strict=True):
            if isinstance(content, Path) and operation.path_or_fileobj != b"":  # it is sent with the commit itself
                operation.path_or_fileobj = content.read_bytes()
        self._operations += operations

    def expect(self, path: str, size: int) -> None:
        """With `--dry-run`: count a file that is not written."""
        self._added[path] = size

    def remove(self, paths: Iterable[str]) -> None:
        """Delete files, if they exist."""
        self._operations += [CommitOperationDelete(path, is_folder=False) for path in paths if path in self.published]

    def commit(self, title: str, tag: str | None = None) -> Pushed:
        """Commit, if there are changes; on `main`, tag the last commit.

        Raises:
            HubFailed: see `Draft`; `main` is unchanged.
        """
        removed = tuple(each.path_in_repo for each in self._operations if isinstance(each, CommitOperationDelete))
        url = f"{self._api.endpoint}/{'' if self.target.kind == 'model' else self.target.kind + 's/'}{self.target.repo}"
        if self._dry:
            return Pushed(self.target, None, url, self._added, removed)
        if self._operations:
            self._require_unmoved()
            with hub_errors(self.target.label, HubFailed):
                url = self._send(title) or url
        elif self.target.on_main:
            self._record.confirm(self._head)
        if tag is not None and self.target.on_main:
            with hub_errors(f"{self.target.label}, tag {tag}", HubFailed):
                self._tag(tag)
        return Pushed(self.target, self._head, url, self._added, removed)

    def _send(self, title: str) -> str | None:
        """Commit; returns the URL of the pull request, if one was asked for.

        Too many changes for one commit on `main` are collected in a pull request, which is merged when it is complete.
        """
        first, further = self._operations[:MAX_FILES], range(MAX_FILES, len(self._operations), MAX_FILES)
        parent, target, mark = self._head, self.target, ""
        staged = bool(further) and target.on_main
        if target.on_main:
            if self._record.pull_request is not None:
                self._pull_request(self._record.pull_request).discard()
            mark = self._record.announce(parent)
        begun = made = self._create_commit(first, title, mark, parent, target.revision, target.create_pr or staged)
        if staged and begun.pr_num is not None:
            self._record.propose(begun.pr_num)
        for at in further:
            piece, onto = self._operations[at : at + MAX_FILES], begun.pr_revision or target.revision
            made = self._create_commit(piece, title, "", made.oid, onto, create_pr=False)
        if not staged or begun.pr_num is None:
            self._head = made.oid
        else:
            self._head = self._pull_request(begun.pr_num).merge(parent)
        if target.on_main:
            self._record.confirm(self._head)
        return None if staged else begun.pr_url

    def _create_commit(
        self,
        operations: list[CommitOperationAdd | CommitOperationDelete],
        title: str,
        mark: str,
        parent: str | None,
        revision: str | None,
        create_pr: bool,
    ) -> CommitInfo:
        return self._api.create_commit(
            self.target.repo,
            operations,
            commit_message=title,
            commit_description=mark,
            repo_type=self.target.kind,
            revision=revision,
            parent_commit=parent,
            create_pr=create_pr,
        )

    def _pull_request(self, number: int) -> PullRequest:
        return PullRequest(self._api, self.target.repo, self.target.kind, number)

    def _tag(self, tag: str) -> None:
        """Set the tag to the branch's last commit."""
        repo, kind = self.target.repo, self.target.kind
        refs = repeated(self.target.label, lambda: self._api.list_repo_refs(repo, repo_type=kind))
        tags = {each.name: each.target_commit for each in refs.tags}
        if tags.get(tag) == self._head:
            return
        if tag in tags:
            self._api.delete_tag(repo, repo_type=kind, tag=tag)
        self._api.create_tag(repo, repo_type=kind, tag=tag, revision=self._head, exist_ok=True)

    def _require_unmoved(self) -> None:
        if self._moved:
            raise HubFailed(
                f"{self.target.label}: `main` has a commit that is not from this run, {self._head}, and was not "
                f"overwritten; check it and push with --onto {self._head}, or use --create-pr or --revision"
            )


def _source(content: bytes | Path) -> bytes | str:
    return content if isinstance(content, bytes) else str(content)
