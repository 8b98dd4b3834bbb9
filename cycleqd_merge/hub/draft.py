"""A change to one repository, prepared file by file: what is there already is left alone, all else comes at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import huggingface_hub
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, errors
from huggingface_hub.hf_api import RepoFile

from cycleqd_merge.errors import HubFailed
from cycleqd_merge.hub.contents import has_content, size_of
from cycleqd_merge.hub.record import PushRecord
from cycleqd_merge.hub.staging import PullRequest
from cycleqd_merge.hub_errors import hub_errors

MAIN = "main"
_MADE_WITH = {".gitattributes", "README.md"}
"""Files that a repository may be made with."""
MOST_FILES = 5000
"""Files that one commit changes at most."""


@dataclass(frozen=True)
class CommitTarget:
    """Where to publish, and how.

    onto: a commit on `main` that is not this run's, and may be built upon. revision: a branch instead of `main`.
    """

    kind: Literal["model", "dataset", "space"]
    repo: str
    private: bool = False
    revision: str | None = None
    create_pr: bool = False
    onto: str | None = None

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.kind} {self.repo}"

    @property
    def on_main(self) -> bool:
        """Whether it changes what everybody sees."""
        return self.revision in (None, MAIN) and not self.create_pr


@dataclass(frozen=True)
class Pushed:
    """What a push did, or under `--dry-run` would do: the files that are new, with their bytes, and those that go."""

    target: CommitTarget
    commit: str | None
    url: str
    added: dict[str, int]
    removed: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether there was anything to commit."""
        return bool(self.added or self.removed)


class Draft:
    """A commit in preparation. Large files are uploaded when they are added, and count only once `commit` is called.

    folder: the run directory. dry: nothing is written, neither here nor on the Hub.

    Raises:
        HubFailed: the Hub refuses, cannot be reached, or `main` has moved since this run pushed to it.
    """

    def __init__(self, target: CommitTarget, folder: Path, dry: bool = False) -> None:
        self.target, self._record, self._dry = target, PushRecord(folder, target.label), dry
        self._api = huggingface_hub.HfApi()
        self._operations: list[CommitOperationAdd | CommitOperationDelete] = []
        self._added: dict[str, int] = {}
        self._head: str | None = None
        self.there: dict[str, RepoFile] = {}
        """The files in the repository now, by path."""
        with hub_errors(target.label, HubFailed):
            if not dry:
                self._make()
            self._look()
            self._moved = self._has_moved()

    def _make(self) -> None:
        """Make the repository and the branch if they are not there."""
        repo, kind = self.target.repo, self.target.kind
        try:
            self._api.repo_info(repo, repo_type=kind)
        except errors.RepositoryNotFoundError:
            sdk = "static" if kind == "space" else None
            self._api.create_repo(repo, repo_type=kind, private=self.target.private, exist_ok=True, space_sdk=sdk)
        if self.target.revision is not None:
            self._api.create_branch(repo, repo_type=kind, branch=self.target.revision, exist_ok=True)

    def _look(self) -> None:
        """Take in the branch's last commit and its files."""
        repo, kind = self.target.repo, self.target.kind
        try:
            self._head = self._api.repo_info(repo, repo_type=kind, revision=self.target.revision).sha
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
            if not self._dry:
                raise
            return
        entries = self._api.list_repo_tree(repo, repo_type=kind, revision=self._head, recursive=True)
        self.there = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}

    def _has_moved(self) -> bool:
        """Whether `main` stands elsewhere than this run left it. A commit whose answer was lost is this run's too."""
        last, mark, staged = self._record.commit, self._record.mark, self._record.pull_request
        if last is None or not self.target.on_main or self._head in (last, self.target.onto):
            return False
        if mark is None:
            return True
        if staged is not None and self._pull_request(staged).merged_as() == self._head:
            return False
        newest = self._api.list_repo_commits(self.target.repo, repo_type=self.target.kind, revision=self._head)[0]
        return mark not in newest.message

    def claim(self, is_own: Callable[[], bool]) -> None:
        """Refuse to build upon something else. A run that never pushed here asks `is_own` of what stands here.

        Raises:
            HubFailed: the repository holds something else, or another run.
        """
        begun = self.there.keys() - _MADE_WITH
        new_here = self.target.on_main and self._record.commit is None and self._head != self.target.onto
        if begun and new_here and not is_own():
            raise HubFailed(
                f"{self.target.label}: holds something else than this run, and was not overwritten; push to another "
                f"repository, or, having looked at it, with --onto {self._head}"
            )

    def read(self, path: str) -> bytes | None:
        """A small file of the repository; None if it is not there."""
        if path not in self.there:
            return None
        with hub_errors(self.target.label, HubFailed):
            found = huggingface_hub.hf_hub_download(
                self.target.repo, path, repo_type=self.target.kind, revision=self._head
            )
        return Path(found).read_bytes()

    def add(self, files: Mapping[str, bytes | Path]) -> None:
        """Put files in by their paths, except those that are there just so. Those on disk are not needed afterwards.

        Raises:
            HubFailed: see `Draft`.
        """
        new = {path: content for path, content in files.items() if not has_content(self.there.get(path), content)}
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
            if isinstance(content, Path) and operation.path_or_fileobj != b"":  # it goes along with the commit itself
                operation.path_or_fileobj = content.read_bytes()
        self._operations += operations

    def expect(self, path: str, size: int) -> None:
        """Under `--dry-run`: count a file that is not made."""
        self._added[path] = size

    def remove(self, paths: Iterable[str]) -> None:
        """Take files out that are there."""
        self._operations += [CommitOperationDelete(path, is_folder=False) for path in paths if path in self.there]

    def commit(self, title: str, tag: str | None = None) -> Pushed:
        """Make the commit, if anything is to be changed; on `main`, tag the last commit.

        Raises:
            HubFailed: see `Draft`; `main` is as it was.
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
        """Commit; returns the address of the pull request, if it is one. A mark tells a commit whose answer is lost.

        What is too much for one commit on `main` goes into a pull request, which is merged when it holds everything.
        """
        first, further = self._operations[:MOST_FILES], range(MOST_FILES, len(self._operations), MOST_FILES)
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
            piece, onto = self._operations[at : at + MOST_FILES], begun.pr_revision or target.revision
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
        """Let the tag stand at the branch's last commit."""
        repo, kind = self.target.repo, self.target.kind
        tags = {each.name: each.target_commit for each in self._api.list_repo_refs(repo, repo_type=kind).tags}
        if tags.get(tag) == self._head:
            return
        if tag in tags:
            self._api.delete_tag(repo, repo_type=kind, tag=tag)
        self._api.create_tag(repo, repo_type=kind, tag=tag, revision=self._head, exist_ok=True)

    def _require_unmoved(self) -> None:
        if self._moved:
            raise HubFailed(
                f"{self.target.label}: `main` stands at {self._head}, where this run did not leave it, and was not "
                f"overwritten; push with --create-pr or --revision, or, having looked at it, with --onto {self._head}"
            )


def _source(content: bytes | Path) -> bytes | str:
    return content if isinstance(content, bytes) else str(content)
